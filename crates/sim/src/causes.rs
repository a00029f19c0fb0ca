//! [`Causes`]: what is true of the world beside its records, and so for which causes a pool may decline a request.
//!
//! A request fails when every registered pool has declined it. So each decline is judged when it is written, by what the pool says
//! and by what is so, and a failure by who is registered ([`truth`](super::truth)):
//!
//! | what the pool says | accepted where |
//! |---|---|
//! | it does not have a label | it does not |
//! | the request alone exceeds the provider's quota | it asks for more servers than that is |
//! | it exceeds the pool's limits | it asks for more than `max-servers`, as that is or was until a moment ago |
//! | it exceeds what others leave of the quota | so many servers that no record names (others', or what leaked) were there within the last minutes, and another provider has its labels |
//! | the launch of a node has failed | the world has spoiled as many attempts of this very node as there are; or one, where the cloud is away or full and another provider has the labels, or where the attempt's server could not be deleted, or the cloud was away, for as long as an attempt may take |
//! | a provider takes no part | it did not come to start in this launcher, by now or until a moment ago |
//! | anything else | never in a world in which images and flavors are there and no pool is disabled |

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use nodepool_common::model::{LabelName, NodeId, NodeRequest};
use tokio::time::Instant;

use super::plan::{LAUNCH_RETRIES, Plan, Trouble};

/// The name of a launcher of Python Nodepool's, of its provider, and of its session's owner.
pub const PEER: &str = "python";
/// For so long after a change of the configuration, or the start of a provider, a decline may say what was so before.
const UNTIL_DECLINED: Duration = Duration::from_secs(45);
/// For so long what was seen of others may be what a decline rests on.
const OTHERS_KNOWN: Duration = Duration::from_secs(240);

/// For so long a launcher has to try to delete what a failed attempt has made, or to find it in a cloud that does not answer.
const UNTIL_GIVEN_UP: Duration = Duration::from_secs(250);

/// What has spoiled an attempt to launch a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Anything that is of this attempt.
    Attempt,
    /// The cloud did not answer, or had no room: where another provider may serve, it is not tried again.
    Elsewhere,
    /// The server of a failed attempt could not be deleted, for as long as an attempt may take.
    Deletion,
}

/// A number that changes.
#[derive(Clone, Debug, Default)]
pub struct Changing(Vec<(Instant, usize)>);

impl Changing {
    /// It is that from now on.
    pub fn set(&mut self, value: usize) {
        self.0.push((Instant::now(), value));
    }

    /// What it is, and what it was at any moment of that time until now.
    pub fn within(&self, time: Duration) -> impl Iterator<Item = usize> {
        let is_old = |(_, (at, _)): &(usize, &(Instant, usize))| at.elapsed() > time;
        let first = self.0.iter().enumerate().filter(is_old).map(|(index, _)| index).next_back().unwrap_or(0);
        self.0[first..].iter().map(|(_, value)| *value)
    }
}

/// See the module's comment.
#[derive(Debug, Default)]
pub struct Causes {
    labels: BTreeMap<String, BTreeSet<LabelName>>,
    provider_of: BTreeMap<String, String>,
    quota: usize,
    limits: BTreeMap<String, Changing>,
    others: BTreeMap<String, Changing>,
    /// When a provider's cloud was away last.
    away: BTreeMap<String, Instant>,
    faults: BTreeMap<NodeId, Vec<Fault>>,
    /// When an attempt to launch a node was spoiled last.
    spoiled_at: BTreeMap<NodeId, Instant>,
    /// By the launcher and the name of a provider: since when that has started; `None`: it has not.
    not_started: BTreeMap<(String, String), Option<Instant>>,
}

impl Causes {
    /// Those of a plan, before anything has happened.
    pub fn of(plan: &Plan) -> Self {
        let mut causes = Self { quota: plan.quota, ..Self::default() };
        for pool in &plan.pools {
            let name = pool.full_name();
            causes.labels.insert(name.clone(), pool.labels.iter().map(|label| LabelName::from(*label)).collect());
            causes.provider_of.insert(name, pool.provider.to_owned());
            causes.others.entry(pool.provider.to_owned()).or_default().set(0);
        }
        if plan.has(Trouble::Peer) {
            // It may be there, or have been there a moment ago.
            let labels = plan.labels.iter().map(|label| LabelName::from(label.name)).collect();
            causes.labels.insert(PEER.to_owned(), labels);
            causes.provider_of.insert(PEER.to_owned(), PEER.to_owned());
        }
        causes
    }

    /// A pool may have that many servers from now on.
    pub fn limit(&mut self, pool: &str, max_servers: usize) {
        self.limits.entry(pool.to_owned()).or_default().set(max_servers);
    }

    /// What `max-servers` of a pool is or was within that time.
    pub fn limits(&self, pool: &str, time: Duration) -> impl Iterator<Item = usize> {
        self.limits.get(pool).into_iter().flat_map(move |limit| limit.within(time))
    }

    /// So many servers are in a provider's cloud from now on that no record names.
    pub fn others(&mut self, provider: &str, count: usize) {
        self.others.entry(provider.to_owned()).or_default().set(count);
    }

    /// A provider's cloud is away.
    pub fn away(&mut self, provider: &str) {
        self.away.insert(provider.to_owned(), Instant::now());
    }

    /// An attempt to launch a node was spoiled.
    pub fn fault(&mut self, node: &NodeId, fault: Fault) {
        self.faults.entry(node.clone()).or_default().push(fault);
        self.spoiled_at.insert(node.clone(), Instant::now());
    }

    /// Whether the last attempt to launch a node was spoiled as long ago as another one may be waited for.
    fn is_given_up(&self, node: &NodeId) -> bool {
        self.spoiled_at.get(node).is_some_and(|at| at.elapsed() >= UNTIL_GIVEN_UP)
    }

    /// A node's server could not be deleted until now.
    pub fn not_deleted(&mut self, node: &NodeId) {
        if self.is_given_up(node) {
            self.fault(node, Fault::Deletion);
        }
    }

    /// A launcher begins to start a provider.
    pub fn not_started(&mut self, launcher: &str, provider: &str) {
        self.not_started.insert((launcher.to_owned(), provider.to_owned()), None);
    }

    /// A launcher has started a provider.
    pub fn started(&mut self, launcher: &str, provider: &str) {
        if let Some(since) = self.not_started.get_mut(&(launcher.to_owned(), provider.to_owned())) {
            since.get_or_insert_with(Instant::now);
        }
    }

    /// Whether a launcher may say of a provider that it takes no part.
    fn is_absent(&self, launcher: &str, provider: &str) -> bool {
        let since = self.not_started.get(&(launcher.to_owned(), provider.to_owned()));
        since.is_some_and(|since| since.is_none_or(|since| since.elapsed() < UNTIL_DECLINED))
    }

    /// Whether a pool of another provider has all labels of a request.
    fn is_elsewhere(&self, provider: &str, request: &NodeRequest) -> bool {
        let has = |labels: &BTreeSet<LabelName>| request.node_types.iter().all(|label| labels.contains(label));
        self.labels.iter().any(|(pool, labels)| self.provider_of[pool] != provider && has(labels))
    }

    /// Why a launcher's decline in these words is not justified; `None`: it is.
    pub fn why_not(&self, launcher: &str, request: &NodeRequest, said: &str) -> Option<&'static str> {
        if let Some(rest) = said.strip_prefix("provider ") {
            let provider = rest.split(',').next().unwrap_or_default();
            return (!self.is_absent(launcher, provider)).then_some("it has started");
        }
        let Some((pool, why)) = said.split_once(": ") else { return Some("it names no pool") };
        let (Some(labels), Some(provider)) = (self.labels.get(pool), self.provider_of.get(pool)) else {
            return Some("there is no such pool");
        };
        let count = request.node_types.len();
        if why.starts_with("node type(s) ") {
            let has_all = request.node_types.iter().all(|label| labels.contains(label));
            return has_all.then_some("it has all of them");
        }
        if let Some(launch) = why.strip_prefix("node ") {
            let node = NodeId::from(launch.split(':').next().unwrap_or_default());
            return self.why_not_failed(&node, provider, request);
        }
        if why.contains(" alone exceeds the provider's quota: ") {
            return (count <= self.quota).then_some("the quota is larger");
        }
        if why.contains(" alone exceeds the pool's limits: ") {
            let is_too_large = self.limits(pool, UNTIL_DECLINED).any(|limit| count > limit);
            return (!is_too_large).then_some("the pool's limits are larger");
        }
        if why.contains(" alone exceeds what others of its project leave ") {
            let others = self.others.get(provider);
            let is_too_large =
                others.is_some_and(|others| others.within(OTHERS_KNOWN).any(|others| count + others > self.quota));
            return if !is_too_large {
                Some("others leave more")
            } else if !self.is_elsewhere(provider, request) {
                Some("no other provider has its labels")
            } else {
                None
            };
        }
        Some("that is never so")
    }

    fn why_not_failed(&self, node: &NodeId, provider: &str, request: &NodeRequest) -> Option<&'static str> {
        let was_away = self.away.get(provider).is_some_and(|at| at.elapsed() < OTHERS_KNOWN);
        let faults = self.faults.get(node).map_or(&[][..], Vec::as_slice);
        match faults {
            [] => Some("nothing has spoiled it"),
            _ if faults.len() >= LAUNCH_RETRIES || faults.contains(&Fault::Deletion) => None,
            [Fault::Elsewhere, ..] if self.is_elsewhere(provider, request) => None,
            _ if was_away && self.is_given_up(node) => None,
            // What the attempt has made can neither be found nor deleted.
            [Fault::Attempt] if was_away && self.is_elsewhere(provider, request) => None,
            _ => Some("there are more attempts"),
        }
    }
}
