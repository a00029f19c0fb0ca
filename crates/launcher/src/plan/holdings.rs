//! [`Holdings`]: what this launcher holds and does, as the planner sees it.
//!
//! What the planner has derived from it stays right because each change is noted ([`Tracked`]): the next pass asks for
//! that with [`Holdings::take_touched`] and looks at nothing else again.
//!
//! All collections are persistent: [`Holdings::snapshot`] costs a few counters however much is held, and what changes afterwards
//! is copied by some entries.

use std::{borrow::Borrow, collections::BTreeSet, sync::Arc};

use imbl::{OrdMap, OrdSet};
use nodepool_common::{
    config::StaticHost,
    model::{LabelName, NodeId, Place, PoolName, ProviderName, RequestId, Uptime},
};

use super::{HostKey, PoolKey};

/// A map that notes whose entries were changed.
#[derive(Clone, Debug)]
pub struct Tracked<K: Ord + Clone, V: Clone> {
    items: OrdMap<K, V>,
    touched: BTreeSet<K>,
}

impl<K: Ord + Clone, V: Clone> Default for Tracked<K, V> {
    fn default() -> Self {
        Self { items: OrdMap::new(), touched: BTreeSet::new() }
    }
}

impl<K: Ord + Clone, V: Clone> Tracked<K, V> {
    /// Sets an entry.
    pub fn insert(&mut self, key: K, value: V) {
        self.touched.insert(key.clone());
        self.items.insert(key, value);
    }

    /// Takes an entry out.
    pub fn remove(&mut self, key: &K) -> Option<V> {
        let removed = self.items.remove(key)?;
        self.touched.insert(key.clone());
        Some(removed)
    }

    /// An entry.
    pub fn get<Q: Ord + ?Sized>(&self, key: &Q) -> Option<&V>
    where
        K: Borrow<Q>,
    {
        self.items.get(key)
    }

    /// An entry with its key.
    pub fn get_entry(&self, key: &K) -> Option<(&K, &V)> {
        self.items.get_key_value(key)
    }

    /// An entry, to be changed.
    pub fn get_mut(&mut self, key: &K) -> Option<&mut V> {
        let value = self.items.get_mut(key)?;
        self.touched.insert(key.clone());
        Some(value)
    }

    /// Whether there is such an entry.
    pub fn contains_key(&self, key: &K) -> bool {
        self.items.contains_key(key)
    }

    /// All entries, by key.
    pub fn iter(&self) -> impl Iterator<Item = (&K, &V)> {
        self.items.iter()
    }

    /// All keys.
    pub fn keys(&self) -> impl Iterator<Item = &K> {
        self.items.keys()
    }

    /// Whether there is no entry.
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// The entries as they are now, of which none has changed yet.
    fn snapshot(&self) -> Self {
        Self { items: self.items.clone(), touched: BTreeSet::new() }
    }
}

/// A set that notes what was put in and taken out.
#[derive(Clone, Debug)]
pub struct Marks<K: Ord + Clone>(Tracked<K, ()>);

impl<K: Ord + Clone> Default for Marks<K> {
    fn default() -> Self {
        Self(Tracked::default())
    }
}

impl<K: Ord + Clone> Marks<K> {
    /// Puts something in.
    pub fn insert(&mut self, key: K) {
        self.0.insert(key, ());
    }

    /// Takes something out.
    pub fn remove(&mut self, key: &K) {
        self.0.remove(key);
    }

    /// Whether something is in it.
    pub fn contains(&self, key: &K) -> bool {
        self.0.contains_key(key)
    }

    /// Puts several things in.
    pub fn extend(&mut self, keys: impl IntoIterator<Item = K>) {
        keys.into_iter().for_each(|key| self.insert(key));
    }

    /// All that is in it.
    pub fn iter(&self) -> impl Iterator<Item = &K> {
        self.0.keys()
    }

    /// Whether nothing is in it.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// What of the [`Holdings`] has changed.
#[derive(Clone, Debug, Default)]
pub struct Touched {
    /// They are new: everything has.
    pub everything: bool,
    /// Requests that were accepted, given up, or that an action has begun or ended to work on.
    pub requests: BTreeSet<RequestId>,
    /// Nodes that were taken, let go, launched, or that an action has begun or ended to work on.
    pub nodes: BTreeSet<NodeId>,
}

/// What this launcher holds and does. Its pauses are by monotonic time: whoever sets the clock makes none of them longer or shorter.
#[derive(Clone, Debug, Default)]
pub struct Holdings {
    /// Requests whose lock we have.
    pub requests: Tracked<RequestId, HeldRequest>,
    /// Nodes whose lock we have.
    pub nodes: Tracked<NodeId, HeldNode>,
    /// Requests that an action is working on: hands off.
    pub busy_requests: Marks<RequestId>,
    /// Nodes that an action is working on: hands off.
    pub busy_nodes: Marks<NodeId>,
    /// Labels for which `min-ready` requests are being written.
    pub busy_labels: OrdSet<LabelName>,
    /// Launches that were decided and have no record yet.
    pub starting: Arc<Vec<(RequestId, PoolKey, LabelName)>>,
    /// Requests that are being accepted, by the pool that will serve them.
    pub accepting: OrdMap<RequestId, PoolKey>,
    /// Labels whose last `min-ready` request failed: not to be asked again before this time.
    pub min_ready_after: OrdMap<LabelName, Uptime>,
    /// Nodes whose last handling failed: not to be tried again before this time.
    pub nodes_after: OrdMap<NodeId, Uptime>,
    /// Requests whose last handling failed: not to be tried again before this time.
    pub requests_after: OrdMap<RequestId, Uptime>,
    /// Labels of metastatic providers for which backing nodes are being asked for.
    pub busy_backing: OrdSet<(ProviderName, LabelName)>,
    /// The same, of which the last such request failed: not to be asked again before this time.
    pub backing_after: OrdMap<(ProviderName, LabelName), Uptime>,
    /// Launches that wait for a place on a backing node: their pool and label.
    pub seeking: OrdMap<NodeId, (PoolKey, LabelName)>,
    /// Launches that are just being placed, and where. Each is among those that wait until it stands there.
    pub placing: OrdMap<NodeId, Place>,
    /// Up to where the records are known to show all that was placed on a backing node.
    pub shown: OrdMap<NodeId, Shown>,
    /// Nodes that say that they are backing nodes of a provider of ours, and were not locked for it: left out of account
    /// until this time.
    pub not_kept: OrdMap<NodeId, Uptime>,
    /// Since when nothing stands on a backing node.
    pub idle_since: OrdMap<NodeId, Uptime>,
    /// Static hosts that an action is looking at: hands off.
    pub busy_hosts: OrdSet<HostKey>,
    /// Static hosts that were looked at, as they and their pool were then.
    pub hosts_seen: OrdMap<HostKey, (Arc<StaticHost>, PoolName)>,
    /// Static hosts that could not be reached: not to be looked at before this time.
    pub hosts_after: OrdMap<HostKey, Uptime>,
    /// Whether [`Self::take_touched`] was called before.
    is_known: bool,
}

impl Holdings {
    /// What has changed since the last call; everything, at the first.
    pub fn take_touched(&mut self) -> Touched {
        let mut requests = std::mem::take(&mut self.requests.touched);
        requests.append(&mut self.busy_requests.0.touched);
        let mut nodes = std::mem::take(&mut self.nodes.touched);
        nodes.append(&mut self.busy_nodes.0.touched);
        Touched { everything: !std::mem::replace(&mut self.is_known, true), requests, nodes }
    }

    /// All of it as it is now, for those who read it while it changes. It shares what is the same.
    #[must_use]
    pub fn snapshot(&self) -> Self {
        Self {
            requests: self.requests.snapshot(),
            nodes: self.nodes.snapshot(),
            busy_requests: Marks(self.busy_requests.0.snapshot()),
            busy_nodes: Marks(self.busy_nodes.0.snapshot()),
            busy_labels: self.busy_labels.clone(),
            starting: Arc::clone(&self.starting),
            accepting: self.accepting.clone(),
            min_ready_after: self.min_ready_after.clone(),
            nodes_after: self.nodes_after.clone(),
            requests_after: self.requests_after.clone(),
            busy_backing: self.busy_backing.clone(),
            backing_after: self.backing_after.clone(),
            seeking: self.seeking.clone(),
            placing: self.placing.clone(),
            shown: self.shown.clone(),
            not_kept: self.not_kept.clone(),
            idle_since: self.idle_since.clone(),
            busy_hosts: self.busy_hosts.clone(),
            hosts_seen: self.hosts_seen.clone(),
            hosts_after: self.hosts_after.clone(),
            is_known: self.is_known,
        }
    }
}

/// Up to where the records show all that was placed on a backing node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shown {
    /// The version of the lock that is kept of the backing node: each placement raises it.
    pub version: i32,
    /// How many walks of the tree had brought the records. Another one may bring an older state.
    pub walks: u64,
}

/// A request whose lock we have.
#[derive(Clone, Debug)]
pub struct HeldRequest {
    /// The pool that accepted it.
    pub pool: PoolKey,
}

/// A node whose lock we have.
#[derive(Clone, Debug)]
pub struct HeldNode {
    /// The request it was made or taken for.
    pub request: RequestId,
    /// The label of the request that it satisfies.
    pub label: LabelName,
    /// Whether its launch is running.
    pub launching: bool,
    /// Why its launch failed.
    pub failure: Option<String>,
}
