//! [`LauncherView`]: what a launcher knows of a request, a label, an image or a provider and nobody else does.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::verdict::Verdict;
use crate::{
    launchers::Silent,
    model::{NodeId, PausedBy, Timestamp, pool_title},
};

/// What a launcher says of what it is asked about: the body of `/api/v1/view?…`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct LauncherView {
    /// The host it runs on.
    pub hostname: String,
    /// When the pass began that has left it so, in seconds since the epoch; `None`: it has made none yet.
    pub as_of: Option<Timestamp>,
    /// Why what it says may be old.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub caution: Option<String>,
    /// Each of its pools that takes part; of a label, an image and a provider, those that have to do with it.
    pub pools: Vec<PoolView>,
    /// The provider that is asked about, where the configuration has it.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub provider: Option<ProviderView>,
    /// Whether the file says `pause: true` of the image that is asked about.
    #[serde(skip_serializing_if = "std::ops::Not::not", default)]
    pub pauses_image: bool,
}

/// What a pool makes of what it is asked about.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct PoolView {
    /// The id of its component.
    pub id: String,
    /// Its provider.
    pub provider: String,
    /// Its name.
    pub pool: String,
    /// What it makes of the request, or would make of one for a node of the label.
    pub answer: Answer,
    /// Why its provider does not answer, and since when.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub trouble: Option<(String, Timestamp)>,
    /// Who of the site has paused it, or its whole provider.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub paused_by: Option<PausedBy>,
    /// What of the configuration keeps it from serving anything.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub out_of_service: Option<String>,
    /// Of a label: the diskimage that its nodes boot from.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub image: Option<String>,
    /// Of a label and an image: what the launcher's file pauses of the diskimage.
    #[serde(skip_serializing_if = "Paused::is_nothing", default)]
    pub paused: Paused,
    /// Of an image: the pool's labels whose nodes boot from it.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub labels: Vec<String>,
    /// Of a label and a provider: what requests wait for here.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub waiting: Vec<WaitingView>,
    /// Of a provider: the pool's limits.
    #[serde(skip_serializing_if = "BTreeMap::is_empty", default)]
    pub limits: BTreeMap<String, f64>,
    /// Of a provider: what its nodes take.
    #[serde(skip_serializing_if = "BTreeMap::is_empty", default)]
    pub used: BTreeMap<String, f64>,
}

/// What the configuration pauses of a diskimage.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Paused {
    /// `pause: true` of the diskimage: nobody builds it.
    pub builds: bool,
    /// `pause: true` of it below the provider's `diskimages`: nobody uploads it there.
    pub uploads: bool,
}

impl Paused {
    #[allow(clippy::trivially_copy_pass_by_ref)] // as serde calls it
    fn is_nothing(&self) -> bool {
        *self == Self::default()
    }
}

impl PoolView {
    /// Its provider and its name, as people read it.
    pub fn title(&self) -> String {
        pool_title(&self.provider, &self.pool)
    }
}

/// What a pool makes of a request, or would make of it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
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
        /// Which those are.
        #[serde(skip_serializing_if = "Vec::is_empty", default)]
        done: Vec<String>,
        /// Those that are being launched.
        launching: Vec<Launching>,
        /// What the rest waits for.
        #[serde(skip_serializing_if = "Option::is_none", default)]
        waits: Option<Said>,
    },
    /// Nothing: it has not looked at it yet, or has declined it, or has nothing to do with it.
    #[default]
    Nothing,
    /// It would hand out ready nodes.
    HasReady,
    /// It would launch nodes at once.
    WouldLaunch,
    /// It would decline it.
    Declines(Said),
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
    /// Since when; `None`: of a request that is only thought of.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub since: Option<Timestamp>,
    /// What ends it.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub ended_by: Option<String>,
}

/// What some requests wait for in a pool.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct WaitingView {
    /// The code of their reason.
    pub code: String,
    /// The words of one of them.
    pub sentence: String,
    /// How many.
    pub requests: usize,
    /// Since when the first of them does.
    pub since: Timestamp,
}

/// What is known of a provider.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ProviderView {
    /// Why it is left out, as it cannot be used as it is configured.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub left_out: Option<String>,
    /// Why its cloud does not answer, and since when.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub trouble: Option<(String, Timestamp)>,
    /// What the cloud allows the project in all.
    #[serde(skip_serializing_if = "BTreeMap::is_empty", default)]
    pub quota: BTreeMap<String, f64>,
    /// The same less what others in the project use.
    #[serde(skip_serializing_if = "BTreeMap::is_empty", default)]
    pub ours: BTreeMap<String, f64>,
    /// What nodes of ours take, those that are being deleted too.
    #[serde(skip_serializing_if = "BTreeMap::is_empty", default)]
    pub used: BTreeMap<String, f64>,
    /// When the cloud said so.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub quota_at: Option<Timestamp>,
    /// Until when nothing is launched, as the cloud has refused a launch for lack of quota.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub launch_after: Option<Timestamp>,
    /// `max-concurrency`.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub max_concurrency: Option<usize>,
    /// Launches that are under way.
    pub launching: usize,
}

/// A launch that is under way.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Launching {
    /// The node's record.
    pub node: String,
    /// Its label.
    pub label: String,
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
    /// What is said of each pool.
    pub fn pools(&self) -> impl Iterator<Item = &PoolView> {
        self.views.iter().flat_map(|view| &view.pools)
    }

    /// The nodes of an accepted request; `None`: nobody that was asked serves it.
    pub fn nodes(&self) -> Option<Vec<NodeId>> {
        self.pools().find_map(|pool| match &pool.answer {
            Answer::Serves { launching, done, .. } => {
                let launching = launching.iter().map(|launch| &launch.node).filter(|node| !node.is_empty());
                Some(launching.chain(done).map(|node| node.as_str().into()).collect())
            }
            _ => None,
        })
    }

    /// What is known of a pool, by the id of its component.
    pub(super) fn pool(&self, id: &str) -> Option<&PoolView> {
        self.pools().find(|pool| pool.id == id)
    }
}
