//! What there is to see: the data of an overview.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{
    explain::{PoolView, ProviderView, Verdict},
    launchers::Silent,
    model::Timestamp,
};

/// Where a launcher's part is, below its address.
pub const PART: &str = "/api/v1/overview/part";
/// What a launcher knows and nobody else does: the body of `/api/v1/overview/part`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Part {
    /// The host it runs on.
    pub hostname: String,
    /// Why what it says may be old.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub caution: Option<String>,
    /// What people should know of the launcher itself, in whole sentences.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub remarks: Vec<String>,
    /// Its providers, with their pools.
    pub providers: BTreeMap<String, ProviderPart>,
    /// The images of its file.
    pub images: BTreeMap<String, ImagePart>,
    /// The labels of its file that its pools have: how many nodes of each are to be kept ready.
    pub labels: BTreeMap<String, usize>,
    /// What requests wait for.
    pub waiting: Vec<Waits>,
    /// What its pools make of the requests that have waited longest, and of the first of each of `waiting` for which somebody has
    /// to act.
    pub requests: BTreeMap<String, Vec<PoolView>>,
}

/// A provider of a launcher's.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ProviderPart {
    /// What is known of it.
    pub view: ProviderView,
    /// Its pools.
    pub pools: Vec<PoolView>,
}

/// An image of a launcher's file.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ImagePart {
    /// Whether the file says `pause: true`.
    pub is_paused: bool,
    /// Pools with labels that boot from it.
    pub pools: Vec<PoolView>,
}

/// Requests that wait in a pool for a reason.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Waits {
    /// The provider and the name of the pool.
    pub pool: String,
    /// What is to be done.
    pub verdict: Verdict,
    /// The code of the reason.
    pub code: String,
    /// The words of the first one.
    pub sentence: String,
    /// How many.
    pub requests: usize,
    /// The one that is to be served first, and since when it waits.
    pub first: String,
    /// Since when that one does.
    pub since: Timestamp,
}

/// How everything stands.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Overview {
    /// The launchers that have answered.
    pub launchers: Vec<LauncherSeen>,
    /// Those that have not.
    pub silent: Vec<Silent>,
    /// What somebody has to do something about, the gravest first.
    pub attention: Vec<Attention>,
    /// How many more there are.
    pub more_attention: usize,
    /// Nodes by their state.
    pub nodes: BTreeMap<String, usize>,
    /// Requests by their state.
    pub requests: BTreeMap<String, usize>,
    /// What requests wait for in each pool. A request may wait in several pools.
    pub reasons: Vec<Waits>,
    /// Open requests, that which has waited longest first.
    pub oldest: Vec<OpenRequest>,
    /// What there is of each label.
    pub labels: Vec<LabelSeen>,
    /// Each provider.
    pub providers: Vec<ProviderSeen>,
    /// Each image.
    pub images: Vec<ImageSeen>,
}

/// A launcher that has answered.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LauncherSeen {
    /// The host it runs on.
    pub hostname: String,
    /// Why what it says may be old.
    pub caution: Option<String>,
}

/// Something that somebody has to do something about, or several things with the same sentence.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Attention {
    /// `request`, `node`, `image`, `provider`, or `launcher`.
    pub kind: String,
    /// Which, the first ones.
    pub ids: Vec<String>,
    /// How many there are.
    pub count: usize,
    /// What is to be done.
    pub verdict: Verdict,
    /// As in explanations.
    pub code: String,
    /// As in explanations.
    pub sentence: String,
    /// Since when, of the first one.
    pub since: Option<Timestamp>,
    /// What ends it.
    pub ended_by: Option<String>,
}

/// A request that is not done.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct OpenRequest {
    /// Its id.
    pub id: String,
    /// When it was made.
    pub asked: Timestamp,
    /// What is asked for.
    pub labels: Vec<String>,
    /// By whom.
    pub requestor: Option<String>,
    /// Requests that come before it and want one of its labels.
    pub before: Option<usize>,
    /// What is to be done.
    pub verdict: Verdict,
    /// As in explanations.
    pub code: String,
    /// As in explanations.
    pub sentence: String,
    /// Since when it waits for that.
    pub since: Option<Timestamp>,
}

/// What there is of a label.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct LabelSeen {
    /// Its name.
    pub name: String,
    /// `min-ready`.
    pub min_ready: usize,
    /// Nodes that are ready and that nobody has.
    pub ready: usize,
    /// Nodes that are being launched.
    pub building: usize,
    /// Nodes that jobs have, or that are set aside for them.
    pub in_use: usize,
    /// Nodes that are held for people.
    pub held: usize,
    /// Nodes that are being deleted, or are to be.
    pub going: usize,
    /// Requests that nobody serves yet.
    pub waiting: usize,
    /// Requests that are being served.
    pub served: usize,
    /// When the oldest of all these was made.
    pub oldest: Option<Timestamp>,
    /// Pools that have it.
    pub pools: usize,
}

/// How a provider stands.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ProviderSeen {
    /// Its name.
    pub name: String,
    /// What is to be done.
    pub verdict: Verdict,
    /// As in explanations.
    pub code: String,
    /// As in explanations.
    pub sentence: String,
    /// Since when.
    pub since: Option<Timestamp>,
    /// Each resource that is limited or used.
    pub quota: Vec<Amount>,
    /// Launches that are under way.
    pub launching: usize,
    /// `max-concurrency`.
    pub max_concurrency: Option<usize>,
    /// Its pools.
    pub pools: Vec<PoolSeen>,
}

/// How much there is of a resource.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Amount {
    /// Its name, as in quotas.
    pub resource: String,
    /// What the cloud allows, or the pool's limit; `None`: unlimited, or not known.
    pub limit: Option<f64>,
    /// What our nodes take.
    pub used: f64,
    /// What others in the project take.
    pub others: f64,
}

/// How a pool stands.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PoolSeen {
    /// Its name.
    pub name: String,
    /// The host of its launcher.
    pub hostname: String,
    /// Whether it says that it waits for quota, or for its cloud.
    pub is_paused: bool,
    /// What of the configuration keeps it from serving anything.
    pub out_of_service: Option<String>,
    /// Its limits.
    pub limits: Vec<Amount>,
    /// How many requests wait in it.
    pub waiting: usize,
}

/// How an image stands.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ImageSeen {
    /// Its name.
    pub name: String,
    /// What is to be done.
    pub verdict: Verdict,
    /// As in explanations.
    pub code: String,
    /// As in explanations.
    pub sentence: String,
    /// Since when.
    pub since: Option<Timestamp>,
    /// When its newest ready build was made.
    pub built: Option<Timestamp>,
    /// Providers that have a ready upload of it.
    pub uploads: usize,
}
