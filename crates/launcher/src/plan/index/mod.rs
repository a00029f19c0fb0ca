//! [`Index`]: what follows from the records and the holdings, kept so that a pass need not look at all of them.
//!
//! It holds nothing that is not in them: one that is made anew from everything leads to the same decisions (a property test
//! compares them, and so does the launcher now and then).
//!
//! | module | has |
//! |---|---|
//! | [`nodes`] | what is used, what is idle, what is to be done, by provider, pool, label and request |
//! | [`requests`] | what waits, in classes and in order; what is lost, or left behind |
//! | [`moment`] | moments that can be put in order |
//! | [`sum`] | sums that stay exact while amounts come and go |

mod moment;
mod nodes;
mod requests;
mod sum;

use std::collections::{BTreeMap, BTreeSet, HashMap};

use nodepool_common::model::{Changes, LabelName, NodeId, PoolName, ProviderName, RequestId, Resources};

pub use self::{
    nodes::{Nodes, hold_limit},
    requests::{Class, ClassId, Rank, Requests},
    sum::Sum,
};
use super::{Touched, World};

/// What has happened since the last pass.
#[derive(Clone, Debug, Default)]
pub struct News {
    /// To the records.
    pub changes: Changes,
    /// To what we hold and do.
    pub touched: Touched,
    /// Whether the configuration, our pools or our session are others than at the last pass.
    pub setting: bool,
}

impl News {
    /// Everything may have changed.
    pub fn everything() -> Self {
        Self { changes: Changes::everything(), setting: true, ..Self::default() }
    }

    /// Whether nothing that was derived before is of use.
    pub fn is_everything(&self) -> bool {
        self.changes.everything || self.touched.everything || self.setting
    }
}

/// See the module.
#[derive(Debug, Default)]
pub struct Index {
    /// From the nodes.
    pub nodes: Nodes,
    /// From the requests.
    pub requests: Requests,
    /// The nodes that we hold, by the request that we hold them for.
    held_for: BTreeMap<RequestId, BTreeSet<NodeId>>,
    held: HashMap<NodeId, RequestId>,
    /// With what each provider's nodes were reckoned.
    reckoned: BTreeMap<ProviderName, Reckoned>,
}

impl Index {
    /// Takes in what has happened. Returns the requests of ours that are concerned; all of them if `news` is everything.
    pub fn update(&mut self, world: &World<'_>, news: &News) -> BTreeSet<RequestId> {
        if news.is_everything() {
            *self = Self { requests: self.requests.emptied(), ..Self::default() };
            for id in world.records.nodes.keys() {
                self.nodes.refresh(world, id);
            }
            let locks = world.records.request_locks.keys();
            for id in world.records.requests.keys().chain(locks.filter(|id| !world.records.requests.contains_key(*id)))
            {
                self.requests.refresh(world, id);
            }
            self.requests.forget_known();
            for id in world.holdings.nodes.keys() {
                self.refresh_held(world, id);
            }
            self.note_reckoned(world);
            return world.holdings.requests.keys().chain(self.held_for.keys()).cloned().collect();
        }
        let mut concerned = BTreeSet::new();
        for id in &news.touched.nodes {
            concerned.extend(self.held.get(id).cloned());
            self.refresh_held(world, id);
            concerned.extend(self.held.get(id).cloned());
        }
        for id in news.changes.nodes.union(&news.touched.nodes) {
            self.nodes.refresh(world, id);
            concerned.extend(self.held.get(id).cloned());
        }
        for id in news.changes.requests.union(&news.touched.requests) {
            self.requests.refresh(world, id);
            concerned.insert(id.clone());
        }
        for id in self.note_reckoned(world) {
            self.nodes.refresh(world, &id);
        }
        concerned
    }

    /// The nodes that we hold for a request.
    pub fn held_for(&self, request: &RequestId) -> impl Iterator<Item = &NodeId> {
        self.held_for.get(request).into_iter().flatten()
    }

    fn refresh_held(&mut self, world: &World<'_>, id: &NodeId) {
        if let Some(request) = self.held.remove(id)
            && let Some(nodes) = self.held_for.get_mut(&request)
        {
            nodes.remove(id);
            if nodes.is_empty() {
                self.held_for.remove(&request);
            }
        }
        if let Some(held) = world.holdings.nodes.get(id) {
            self.held.insert(id.clone(), held.request.clone());
            self.held_for.entry(held.request.clone()).or_default().insert(id.clone());
        }
    }

    /// Notes with what nodes are reckoned. Returns those that have to be reckoned anew.
    fn note_reckoned(&mut self, world: &World<'_>) -> Vec<NodeId> {
        let mut anew = Vec::new();
        for (name, state) in world.providers {
            let reckoned = self.reckoned.entry(name.clone()).or_default();
            let version = Some((state.label_resources.version(), state.elsewhere.version()));
            if reckoned.version == version {
                continue;
            }
            let (old, new) = (&reckoned.labels, &*state.label_resources);
            let others = new.iter().filter(|(label, takes)| old.get(*label) != Some(*takes)).map(|(label, _)| label);
            let gone = old.keys().filter(|label| !new.contains_key(*label));
            let labels: BTreeSet<_> = others.chain(gone).collect();
            let is_elsewhere_anew = reckoned.elsewhere.symmetric_difference(&state.elsewhere).cloned();
            anew.extend(is_elsewhere_anew);
            if !labels.is_empty() {
                anew.extend(self.nodes.of_provider(name).filter(|id| is_of_any(world, id, &labels)).cloned());
            }
            *reckoned = Reckoned { version, labels: new.clone(), elsewhere: (*state.elsewhere).clone() };
        }
        let gone: Vec<_> = self.reckoned.keys().filter(|name| !world.providers.contains_key(*name)).cloned().collect();
        for name in gone {
            self.reckoned.remove(&name);
            anew.extend(self.nodes.of_provider(&name).cloned());
        }
        anew
    }
}

/// With what the nodes of a provider were reckoned.
#[derive(Debug, Default)]
struct Reckoned {
    version: Option<(u64, u64)>,
    labels: BTreeMap<(PoolName, LabelName), Result<Resources, String>>,
    elsewhere: BTreeSet<NodeId>,
}

/// Whether what a node takes follows from one of these labels: it is the first of its own.
fn is_of_any(world: &World<'_>, id: &NodeId, labels: &BTreeSet<&(PoolName, LabelName)>) -> bool {
    let node = world.records.nodes.get(id).and_then(|entry| entry.usable());
    node.is_some_and(|node| {
        let (Some(pool), Some(label)) = (&node.pool, node.labels.first()) else { return false };
        labels.contains(&(pool.clone(), label.clone()))
    })
}
