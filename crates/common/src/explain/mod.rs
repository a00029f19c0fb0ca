//! Why something is as it is: what `nodepool explain` prints, and what a launcher answers at `/api/v1/explain/…`.
//!
//! Zuul shows people an id while a job waits: "Waiting on node request: 300-0000123". This module says for such an id what it
//! waits for, since when, what ends that, and who has to act.
//!
//! There are two sources. The records of ZooKeeper are everybody's. What a pool has decided, and why, only its launcher
//! knows: [`LauncherView`], for which it can be [asked](ask). [`of_request`] and [`of_node`] make an [`Explanation`] of both,
//! and nothing else does, so that every surface says the same. A launcher that cannot be asked (it does not answer, or it is
//! Python's, which has no such page) is named in it: then the records say what they can.
//!
//! All of it is data with one text for people in it, which is made here or was made by the planner's `Reason`. Nothing of it
//! is secret: no text of a configuration, no user data.

mod ask;
mod node;
mod request;
#[cfg(test)]
mod tests;
mod text;
mod verdict;
mod view;

use serde::{Deserialize, Serialize};

pub use self::{
    ask::{ANSWER_WITHIN, VIEW, ask},
    node::of_node,
    request::of_request,
    verdict::Verdict,
    view::{Answer, Asked, LauncherView, Launching, PoolView, Said, Silent},
};
use crate::model::{NodeId, RequestId, Timestamp};

/// What can be explained.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Subject {
    /// `<priority>-<sequence>`.
    Request(RequestId),
    /// `<sequence>`.
    Node(NodeId),
}

impl Subject {
    /// Of what something is the id; `None`: of nothing that is explained.
    pub fn of(id: &str) -> Option<Self> {
        let is_number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        match id.split_once('-') {
            Some((priority, sequence)) if is_number(priority) && is_number(sequence) => {
                Some(Self::Request(RequestId::from(id)))
            }
            None if is_number(id) => Some(Self::Node(NodeId::from(id))),
            _ => None,
        }
    }
}

/// What something waits for, or why it is as it is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Explanation {
    /// What kind of thing is explained: `request`, `node`.
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
    /// What each pool makes of it.
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

/// What a pool makes of a request.
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
}
