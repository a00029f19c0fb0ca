//! Why something is as it is: what `nodepool explain` prints, and what a launcher answers at `/api/v1/explain/…`.
//!
//! Zuul shows people an id while a job waits: "Waiting on node request: 300-0000123". This module says for such an id what it
//! waits for, since when, what ends that, and who has to act; the same of a node, and of a label, an image or a provider by its
//! name, which several of these may have ([`Subject::of`]).
//!
//! There are two sources. The records of ZooKeeper are everybody's. What a pool has decided, and why, only its launcher
//! knows: [`LauncherView`], for which it can be [asked](ask). [`explain()`] makes an [`Explanation`] of both,
//! and nothing else does, so that every surface says the same. A launcher that cannot be asked (it does not answer, or it is
//! Python's, which has no such page) is named in it: then the records say what they can.
//!
//! All of it is data with one text for people in it, which is made here or was made by the planner's `Reason`. Nothing of it
//! is secret: no text of a configuration, no user data.

mod any;
mod ask;
mod codes;
mod image;
mod label;
mod node;
mod provider;
mod request;
mod subject;
#[cfg(test)]
mod tests;
mod text;
mod verdict;
mod view;
mod words;

use serde::{Deserialize, Serialize};

pub(crate) use self::subject::encoded;
pub use self::{
    any::{explain, gravest, no_id, no_trace},
    ask::{VIEW, ask, is_asked, views_written},
    codes::PROVIDER_IN_TROUBLE,
    subject::{Kind, Subject, decoded},
    text::duration,
    verdict::Verdict,
    view::{Answer, Asked, LauncherView, Launching, Paused, PoolView, ProviderView, Said, WaitingView},
};
use crate::{
    launchers::Silent,
    model::{LauncherId, PoolComponent, Timestamp},
};

/// What something waits for, or why it is as it is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Explanation {
    /// What kind of thing is explained, by the word of its [`Kind`].
    pub kind: String,
    /// Its id.
    pub id: String,
    /// What is to be done.
    pub verdict: Verdict,
    /// What it is about, for programs: the code of a planner's reason, or one of this module's.
    pub code: String,
    /// The same for people, with its numbers.
    pub sentence: String,
    /// Since when, in seconds since the epoch.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub since: Option<Timestamp>,
    /// What ends it.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub ended_by: Option<String>,
    /// Requests that come before it and want one of its labels, where it waits to be accepted.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub before: Option<usize>,
    /// What there is to know of it, each with its name.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub facts: Vec<Fact>,
    /// What each pool makes of it, or would make of it.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub pools: Vec<PoolSays>,
    /// Launchers that could not be asked.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub silent: Vec<Silent>,
}

/// Something that is known.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Fact {
    /// Of what.
    pub name: String,
    /// What.
    pub value: String,
    /// Since when, or when.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub at: Option<Timestamp>,
}

/// What a pool makes of a request, or would make of one for a label.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PoolSays {
    /// Its provider and its name.
    pub pool: String,
    /// The id of its launcher's component, as in `declined_by`.
    pub launcher: String,
    /// What is to be done, as far as this pool goes.
    pub verdict: Verdict,
    /// As [`Explanation::code`].
    pub code: String,
    /// As [`Explanation::sentence`].
    pub sentence: String,
    /// Since when.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub since: Option<Timestamp>,
    /// What ends it.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub ended_by: Option<String>,
    /// Whether the pool is known to have declined the request, or to be unable to serve it.
    pub is_out: bool,
}

impl Explanation {
    /// The exit code of `nodepool explain`.
    pub fn exit_code(&self) -> u8 {
        // Nothing serves it any more, whoever has to act.
        if self.code == codes::FAILED { Verdict::Change.exit_code() } else { self.verdict.exit_code() }
    }

    /// Whether it may become something else by itself, or by what people do.
    pub fn goes_on(&self) -> bool {
        matches!(self.verdict, Verdict::Wait | Verdict::Act) && self.code != codes::FAILED
    }

    fn new(kind: &str, id: &str, verdict: Verdict, code: &str, sentence: impl Into<String>) -> Self {
        Self {
            kind: kind.to_owned(),
            id: id.to_owned(),
            verdict,
            code: code.to_owned(),
            sentence: sentence.into(),
            since: None,
            ended_by: None,
            before: None,
            facts: Vec::new(),
            pools: Vec::new(),
            silent: Vec::new(),
        }
    }

    fn since(mut self, since: Timestamp) -> Self {
        self.since = Some(since);
        self
    }

    fn ended_by(mut self, what: &str) -> Self {
        self.ended_by = Some(what.to_owned());
        self
    }

    fn fact(self, name: &str, value: impl Into<String>) -> Self {
        self.fact_at(name, value, None)
    }

    fn fact_at(mut self, name: &str, value: impl Into<String>, at: Option<Timestamp>) -> Self {
        self.facts.push(Fact { name: name.to_owned(), value: value.into(), at });
        self
    }

    /// With what is to be known of the launchers that were asked.
    fn with_launchers(mut self, asked: &Asked) -> Self {
        for view in &asked.views {
            if let Some(caution) = &view.caution {
                self = self.fact("caution", format!("the launcher on {}: {caution}", view.hostname));
            }
        }
        Self { silent: asked.silent.clone(), ..self }
    }
}

impl PoolSays {
    fn new(pool: &str, launcher: &str, verdict: Verdict, code: &str, sentence: impl Into<String>) -> Self {
        Self {
            pool: pool.to_owned(),
            launcher: launcher.to_owned(),
            verdict,
            code: code.to_owned(),
            sentence: sentence.into(),
            since: None,
            ended_by: None,
            is_out: false,
        }
    }

    /// A planner's reason.
    fn of(pool: &str, launcher: &str, said: &Said) -> Self {
        Self {
            since: said.since,
            ended_by: said.ended_by.clone(),
            ..Self::new(pool, launcher, said.verdict, &said.code, &said.sentence)
        }
    }

    /// Why a pool serves nothing at all.
    fn idle(name: &str, launcher: &str, pool: &PoolView) -> Self {
        if let Some(by) = &pool.paused_by {
            return Self {
                since: Some(by.since),
                ended_by: Some(codes::UNPAUSE.to_owned()),
                ..Self::new(name, launcher, Verdict::Act, codes::PAUSED, by.to_string())
            };
        }
        match (&pool.out_of_service, &pool.trouble) {
            (Some(why), _) => Self {
                ended_by: Some("another configuration".to_owned()),
                is_out: true,
                ..Self::new(name, launcher, Verdict::Change, "out-of-service", format!("it is out of service: {why}"))
            },
            (None, Some((trouble, since))) => Self {
                since: Some(*since),
                ended_by: Some("the cloud answers again".to_owned()),
                ..Self::new(
                    name,
                    launcher,
                    Verdict::Act,
                    PROVIDER_IN_TROUBLE,
                    format!("its provider has trouble: {trouble}"),
                )
            },
            (None, None) => Self::not_looked_at(name, launcher),
        }
    }

    fn not_looked_at(pool: &str, launcher: &str) -> Self {
        let sentence = "it has not decided: it will within moments, unless its launcher is stopping";
        Self::new(pool, launcher, Verdict::Wait, "not-looked-at", sentence)
    }

    /// Of a pool whose launcher has said nothing.
    fn not_asked(pool: &PoolComponent, id: &LauncherId) -> Self {
        let sentence = format!(
            "its launcher on {} has not said: it is Python's, has just started, or does not answer",
            pool.hostname
        );
        Self::new(&pool.title(), id.as_str(), Verdict::Wait, "not-asked", sentence)
    }
}
