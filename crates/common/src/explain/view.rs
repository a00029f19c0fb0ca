//! [`LauncherView`]: what a launcher knows of a request and nobody else does.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::verdict::Verdict;
use crate::model::Timestamp;

/// What a launcher makes of a request: the body of `/api/v1/view?request=ID`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LauncherView {
    /// The host it runs on.
    pub hostname: String,
    /// When the pass began that has left it so, in seconds since the epoch; `None`: it has made none yet.
    pub as_of: Option<Timestamp>,
    /// Why what it says may be old.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub caution: Option<String>,
    /// Each of its pools that takes part.
    pub pools: Vec<PoolView>,
}

/// What a pool makes of a request.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PoolView {
    /// The id of its component.
    pub id: String,
    /// Its provider.
    pub provider: String,
    /// Its name.
    pub pool: String,
    /// What it makes of it.
    pub answer: Answer,
    /// Why its provider does not answer, and since when.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub trouble: Option<(String, Timestamp)>,
}

/// What a pool makes of a request.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "is", rename_all = "kebab-case")]
pub enum Answer {
    /// It has left it waiting.
    Waits(Said),
    /// It is writing that it serves it.
    Accepting,
    /// It serves it.
    Serves {
        /// How many of its nodes are done.
        ready: usize,
        /// Those that are being launched.
        launching: Vec<Launching>,
        /// What the rest waits for.
        #[serde(skip_serializing_if = "Option::is_none", default)]
        waits: Option<Said>,
    },
    /// Nothing: it has not looked at it yet, or has declined it, or has nothing to do with it.
    Nothing,
}

/// A planner's reason.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Said {
    /// What is to be done.
    pub verdict: Verdict,
    /// Its code.
    pub code: String,
    /// For people.
    pub sentence: String,
    /// Its numbers.
    pub why: Value,
    /// Since when.
    pub since: Timestamp,
    /// What ends it.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub ended_by: Option<String>,
}

/// A launch that is under way.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Launching {
    /// The node's record.
    pub node: String,
    /// Its label.
    pub label: String,
}

/// A launcher that could not be asked.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Silent {
    /// The host it runs on.
    pub hostname: String,
    /// Its pools.
    pub pools: Vec<String>,
    /// Why not.
    pub why: String,
}

/// What the launchers have said, and those that have not.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Asked {
    /// Of those that answered.
    pub views: Vec<LauncherView>,
    /// The others.
    pub silent: Vec<Silent>,
}

impl Asked {
    /// What is known of a pool, by the id of its component.
    pub(super) fn pool(&self, id: &str) -> Option<&PoolView> {
        self.views.iter().flat_map(|view| &view.pools).find(|pool| pool.id == id)
    }
}
