//! [`World`]: all that a plan is made from.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::{Deref, DerefMut},
    sync::Arc,
};

use nodepool_common::{
    config::{Config, Pool, Provider},
    model::{
        Entry, LabelName, LauncherId, Node, NodeId, NodeRequest, PausedBy, PoolComponent, PoolName, ProviderName,
        Records, RequestId, Resources, Timestamp, Uptime,
    },
};

use super::{Holdings, PoolKey};

/// All that a plan is made from.
#[derive(Debug)]
pub struct World<'a> {
    /// Seconds since the epoch: what is compared with the times of records.
    pub now: Timestamp,
    /// The same moment by monotonic time: by which pauses go.
    pub uptime: Uptime,
    /// The running configuration.
    pub config: &'a Arc<Config>,
    /// Everything in ZooKeeper, as last seen.
    pub records: &'a Records,
    /// The pools that this launcher runs, in the configuration's order.
    pub pools: &'a [PoolState],
    /// What is known of each cloud.
    pub providers: &'a BTreeMap<ProviderName, &'a ProviderState>,
    /// Our ZooKeeper session, with which our own requests end; 0 for none.
    pub session: i64,
    /// What this launcher holds and does.
    pub holdings: &'a Holdings,
    /// Ages and graces.
    pub timing: Timing,
    /// Stop taking on work, finish what runs.
    pub stopping: bool,
    /// The connection to ZooKeeper was broken, and what others did meanwhile is being read: only what is protected against that
    /// is decided ([`renewing`](super::renewing)). Everything is news when it has been read.
    pub renewing: bool,
}

impl<'a> World<'a> {
    /// A moment as the wall clock shows it ([`Uptime::wall`]).
    pub fn wall(&self, moment: Uptime) -> Timestamp {
        moment.wall(self.now, self.uptime)
    }

    /// When a pause ends, by the wall clock ([`Uptime::pause_ends`]).
    pub fn pause_ends(&self, pause: Option<&Uptime>) -> Option<Timestamp> {
        Uptime::pause_ends(pause, self.now, self.uptime)
    }

    /// A pool's configuration; `None` once it was removed from the file.
    pub fn pool_config(&self, key: &PoolKey) -> Option<(&'a Provider, &'a Pool)> {
        let provider = self.config.providers.get(&key.provider)?;
        Some((provider.as_ref(), provider.pool(&key.pool)?))
    }

    /// Who has paused a pool, or its whole provider; `None`: nobody has.
    pub fn paused_by(&self, key: &PoolKey) -> Option<PausedBy> {
        self.records.paused_by(&key.provider, &key.pool)
    }

    /// Whether a request is one of our own, for nodes in stock.
    pub fn is_own(&self, entry: &Entry<NodeRequest>) -> bool {
        self.is_of_our_session(entry) && entry.usable().is_some_and(|request| request.is_min_ready())
    }

    /// Whether a pool is one of ours.
    pub fn is_ours(&self, pool: &LauncherId) -> bool {
        self.pools.iter().any(|ours| ours.launcher_id == *pool)
    }

    /// Whether a record ends with our session.
    pub fn is_of_our_session<T>(&self, entry: &Entry<T>) -> bool {
        self.session != 0 && entry.stat.ephemeral_owner == self.session
    }

    /// Whether we are making records of nodes of a provider, which are not in our book yet.
    pub fn is_starting(&self, provider: &Provider) -> bool {
        self.holdings.starting.iter().any(|(_, pool, _)| pool.provider == provider.name)
    }

    /// Why a ready node that nobody has is of no use any more; `None`: nothing is known against it.
    pub fn has_gone(&self, node: &Node) -> Option<&'a String> {
        self.provider(node.provider.as_ref()?)?.gone.get(&node.id)
    }

    /// Whether a node's server is where the settings of its cloud do not lead any more.
    pub fn is_elsewhere(&self, node: &Node) -> bool {
        let state = node.provider.as_ref().and_then(|name| self.provider(name));
        state.is_some_and(|state| state.elsewhere.contains(&node.id))
    }

    /// The key by which requests are ordered.
    pub fn order_of<'r>(&self, id: &'r RequestId) -> (&'r str, i64, &'r str) {
        self.records.order_of(id)
    }

    /// What is known of a cloud.
    pub fn provider(&self, name: &ProviderName) -> Option<&'a ProviderState> {
        self.providers.get(name).copied()
    }
}

/// The id of the pool of a provider that was registered after all others that have these labels, by any launcher: its
/// launcher does what only one may do. The youngest, because a launcher that was killed stays registered until its session
/// ends, and the one that is started in its place need not wait for that.
pub fn keeper_of(records: &Records, provider: &ProviderName, labels: &[LabelName]) -> Option<LauncherId> {
    last_registered(records, |pool| pool.provider_name.as_ref() == Some(provider) && pool.supports(labels))
}

/// The id of the pool that was registered last, of those that are asked for.
pub fn last_registered(records: &Records, is_asked_for: impl Fn(&PoolComponent) -> bool) -> Option<LauncherId> {
    let asked_for = records.pools.iter().filter(|(_, pool)| is_asked_for(pool));
    // A component's name is a host's and ten digits, which count.
    let last = asked_for.max_by_key(|(name, _)| name.get(name.len().saturating_sub(10)..).unwrap_or(name));
    last.and_then(|(_, pool)| pool.id.clone())
}

/// A pool that this launcher runs.
#[derive(Clone, Debug, PartialEq)]
pub struct PoolState {
    /// Which.
    pub key: PoolKey,
    /// Its component's `id`. A pool decides nothing about requests before it sees that component in ZooKeeper:
    /// otherwise a decline might not count (`nodepool 11.0.0: launcher.py waitForComponentRegistration`).
    pub launcher_id: LauncherId,
}

/// What a cloud has said of an image.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum CloudImage {
    /// It is there.
    There,
    /// It was not there when the cloud was asked, at this time.
    Missing(Timestamp),
}

impl CloudImage {
    /// When the cloud was asked for an image that it did not have.
    pub fn missing_at(self) -> Option<Timestamp> {
        match self {
            Self::Missing(asked) => Some(asked),
            Self::There => None,
        }
    }
}

/// A value that shows whether it has changed since it was last looked at.
#[derive(Clone, Debug, Default)]
pub struct Versioned<T> {
    value: T,
    version: u64,
}

impl<T> Versioned<T> {
    /// Another one after each change.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// In the place of another one: its version is none that the other had.
    fn following(&mut self, other: &Self) {
        self.version = other.version.wrapping_add(1);
    }
}

impl<T> Deref for Versioned<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.value
    }
}

impl<T> DerefMut for Versioned<T> {
    fn deref_mut(&mut self) -> &mut T {
        self.version = self.version.wrapping_add(1);
        &mut self.value
    }
}

/// What is known of a cloud. Everything is a cached answer; what is missing is asked for through [`super::Want`].
#[derive(Clone, Debug, Default)]
pub struct ProviderState {
    /// `None`: not known yet.
    pub quota: Option<ProjectQuota>,
    /// When the cloud gave it.
    pub quota_at: Timestamp,
    /// What a node of a label takes, or the error of the configuration that forbids to know.
    pub label_resources: Versioned<BTreeMap<(PoolName, LabelName), Result<Resources, String>>>,
    /// Whether the cloud has the image of a label without a diskimage.
    pub cloud_images: Versioned<BTreeMap<(PoolName, LabelName), CloudImage>>,
    /// The cloud's zones; `None`: not known yet.
    pub zones: Option<Vec<String>>,
    /// After a quota error: not to launch before this time.
    pub launch_after: Option<Timestamp>,
    /// Why the cloud does not answer, while it does not.
    pub trouble: Option<String>,
    /// Ready nodes that nobody has and whose servers are of no use any more, each with the reason.
    pub gone: Versioned<BTreeMap<NodeId, String>>,
    /// Nodes whose servers are where the cloud's settings do not lead any more: in another project or cluster.
    pub elsewhere: Versioned<BTreeSet<NodeId>>,
}

impl ProviderState {
    /// In the place of that of a provider of the same name.
    #[must_use]
    pub fn following(mut self, old: &Self) -> Self {
        self.label_resources.following(&old.label_resources);
        self.cloud_images.following(&old.cloud_images);
        self.gone.following(&old.gone);
        self.elsewhere.following(&old.elsewhere);
        self
    }

    /// The clock was set by that many seconds: answers and pauses are as old as before.
    pub fn clock_stepped(&mut self, step: f64) {
        // 0: never asked, or to be asked anew.
        let asked = Some(&mut self.quota_at).filter(|at| **at != 0.0);
        let missing = self.cloud_images.values_mut().filter_map(|image| match image {
            CloudImage::Missing(asked) => Some(asked),
            CloudImage::There => None,
        });
        asked.into_iter().chain(&mut self.launch_after).chain(missing).for_each(|at| *at += step);
    }
}

/// What a cloud allows the project that we share with others.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ProjectQuota {
    /// In all.
    pub limits: Resources,
    /// The limits less what others use.
    pub ours: Resources,
}

/// Ages and graces, in seconds, and how much is done at once.
#[derive(Clone, Copy, Debug)]
pub struct Timing {
    /// How long a pending request must be seen without a lock before it counts as lost. Long enough that no peer is
    /// between two steps, short enough that a take-over is quick.
    pub lost_request: f64,
    /// How long an empty node record, or one in state `deleted`, is left to whoever is deleting it.
    pub empty_node: f64,
    /// How long a node may stand in `init`, or be allocated to a request that is not fulfilled, without a lock.
    pub orphan_node: f64,
    /// How long the record of a node that the cloud refused is kept for people to see. It takes no quota.
    pub aborted_node: f64,
    /// How long a request whose labels no pool has is left alone before it is declined: a launcher may be starting.
    pub decline: f64,
    /// How long a request that every registered pool has declined is left alone before it is failed.
    pub orphaned_request: f64,
    /// How long a backing node on which nothing stands is left alone while no launcher has its owner, a metastatic provider: one
    /// may be starting.
    pub unowned_backing: f64,
    /// How old a quota may be on which a request is declined: that is for good, and on a quiet site nobody else asks for
    /// it anew. What is accepted may rest on an older one.
    pub fresh_quota: f64,
    /// Age of a request's lock directory at which it goes once the request is gone.
    pub request_lock: f64,
    /// So many requests are being accepted at once. ZooKeeper answers in the order in which it is asked: were a thousand
    /// accepted at once, the write for the node of the first one would have to wait for all of them. And each pass looks
    /// at all that are being accepted.
    pub accepts_at_once: usize,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            lost_request: 1.0,
            empty_node: 1.0,
            orphan_node: 30.0,
            aborted_node: 1.5,
            decline: 2.0,
            orphaned_request: 15.0,
            unowned_backing: 600.0,
            fresh_quota: 15.0,
            request_lock: 8.0 * 3600.0,
            accepts_at_once: 32,
        }
    }
}
