//! What follows from each node's record, from its lock, and from whether it is ours.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use nodepool_common::model::{
    Backing, Entry, LabelName, Node, NodeId, NodeState, Place, ProviderName, RecordError, RequestId, Resources,
    TenantName,
};

use super::{moment::Moment, sum::Sum};
use crate::plan::{PoolKey, World, host_nodes::is_left_out, usage::node_usage};

/// All nodes, by what is asked of them.
#[derive(Debug, Default)]
pub struct Nodes {
    facts: HashMap<NodeId, Facts>,
    /// What the nodes of each provider take.
    pub of_providers: BTreeMap<ProviderName, Sum>,
    /// What the nodes of each pool take.
    pub of_pools: BTreeMap<PoolKey, Sum>,
    /// What the nodes of each tenant that has limits take.
    pub of_tenants: BTreeMap<TenantName, Sum>,
    /// Ready nodes that nobody has, oldest first. Whether they may be taken now is for the asker to see: a back-off may not be
    /// over, or their servers have gone.
    idle: BTreeMap<PoolKey, BTreeSet<(Moment, NodeId)>>,
    /// The same, by label.
    idle_of_label: BTreeMap<PoolKey, BTreeMap<LabelName, BTreeSet<(Moment, NodeId)>>>,
    /// Versions of the sets of idle nodes.
    idle_versions: HashMap<PoolKey, u64>,
    /// Version of what tenants take.
    pub tenants_version: u64,
    /// How many ready nodes of each label no request has been given.
    stock: BTreeMap<LabelName, usize>,
    /// Nodes that nobody has locked, and of which something is to be done or waited for: each pass looks at all of them. Not those
    /// of providers that are not configured, which are others' (their launchers' nodes have no lock for a moment, too), nor those
    /// that are held, of which only time makes anything.
    pub unsettled: BTreeSet<NodeId>,
    /// When ready nodes will be too old, and held ones have been held for long enough.
    pub ages: BTreeSet<(Moment, NodeId)>,
    /// Nodes of a pool that are on their way out.
    doomed: BTreeMap<PoolKey, BTreeSet<NodeId>>,
    /// Nodes by provider.
    by_provider: BTreeMap<ProviderName, BTreeSet<NodeId>>,
    /// Nodes that carry others, with what their records say of that.
    pub backing: BTreeMap<NodeId, Backing>,
    /// The slots of backing nodes in which nodes of each provider stand, by their records, and how many in each: a record is a
    /// moment behind where another process was faster.
    slots: BTreeMap<ProviderName, BTreeMap<NodeId, BTreeMap<usize, usize>>>,
    /// Nodes of each provider that other launchers have locked and are launching.
    launched_by_others: BTreeMap<ProviderName, BTreeSet<NodeId>>,
    /// Nodes by the request that they were allocated to.
    allocated: HashMap<RequestId, BTreeSet<NodeId>>,
}

/// What was derived from a node, to be undone when it changes. What its record says is looked up there.
#[derive(Debug, Default)]
struct Facts {
    /// The record, as it was then; `None`: it cannot be used.
    node: Option<Arc<Node>>,
    /// What it takes in its pool; and whether it takes that of its provider's quota, too.
    takes: Takes,
    is_in_quota: bool,
    /// Whether it takes what its record says of what its tenant may have.
    is_in_tenant: bool,
    /// Whether it is ready, and no request has been given it.
    is_stock: bool,
    /// Since when it is idle.
    idle: Option<Moment>,
    work: Work,
    too_old_at: Option<Moment>,
    /// Where it stands on another node: few do.
    place: Option<Box<Place>>,
}

/// Who has something to do with a node.
#[derive(Debug, Default, PartialEq, Eq)]
enum Work {
    /// Nobody, or the one who has locked it.
    #[default]
    Nothing,
    /// We: see [`Nodes::unsettled`].
    Unsettled,
    /// Another launcher is launching it.
    LaunchOfOthers,
}

/// What a node takes in its pool.
#[derive(Debug, Default)]
enum Takes {
    #[default]
    Nothing,
    /// What its record says, as most do.
    Recorded,
    Other(Box<Resources>),
}

impl Facts {
    fn of(world: &World<'_>, id: &NodeId, entry: &Entry<Node>) -> Self {
        let is_ours = world.holdings.busy_nodes.contains(id) || world.holdings.nodes.contains_key(id);
        let is_free = !entry.is_locked() && !is_ours;
        let node = match &entry.record {
            Ok(node) => node,
            // What is left of a deleted one; what else cannot be read is not ours to judge.
            Err(error) => {
                let is_unsettled = is_free && *error == RecordError::Empty;
                let work = if is_unsettled { Work::Unsettled } else { Work::Nothing };
                return Self { work, ..Self::default() };
            }
        };
        let is_in_quota = !world.is_elsewhere(node);
        let counts = is_in_quota || node.state != NodeState::Deleting;
        let has_limits = |tenant| world.config.tenant_limits.contains_key(tenant);
        let mut facts = Self {
            place: node.provider.as_ref().and_then(|_| Place::of(node)).map(Box::new),
            is_in_tenant: counts && node.resources.is_some() && node.tenant_name.as_ref().is_some_and(has_limits),
            is_stock: node.state == NodeState::Ready && node.allocated_to.is_none(),
            is_in_quota,
            node: Some(Arc::clone(node)),
            ..Self::default()
        };
        let takes = facts.pool().filter(|_| counts).and_then(|key| node_usage(world, &key, node));
        facts.takes = match takes {
            None => Takes::Nothing,
            takes if takes == node.resources => Takes::Recorded,
            Some(takes) => Takes::Other(Box::new(takes)),
        };
        if !is_free {
            let is_launched = matches!(node.state, NodeState::Init | NodeState::Building);
            if is_launched && entry.is_locked() && !world.holdings.nodes.contains_key(id) {
                facts.work = Work::LaunchOfOthers;
            }
            return facts;
        }
        let is_of_others = node.provider.as_ref().is_some_and(|name| !world.config.providers.contains_key(name));
        // By what the record says alone, not by when it is looked at: of one from a clock that is ahead of ours it is seen at
        // that moment whether it is old enough. Only where nothing says when it was written it is as old as it looks now.
        let began = if entry.stat.mtime > 0 { entry.order() } else { entry.since(world.now) };
        let too_old_after = |seconds: f64| Moment(began.unwrap_or(world.now) + seconds);
        if facts.is_stock {
            if !is_left_out(world, node) {
                facts.idle = Some(Moment(entry.order().unwrap_or_default()));
            }
            let ages = node.labels.iter().filter_map(|label| world.config.labels.get(label)?.max_ready_age);
            let age = ages.min().filter(|_| node.provider.is_some() && !is_of_others);
            facts.too_old_at = age.map(|age| too_old_after(age.as_secs_f64()));
        } else if node.state == NodeState::Hold && node.provider.is_some() {
            let most = hold_limit(world, node).filter(|_| !is_of_others);
            facts.too_old_at = most.map(too_old_after);
        } else {
            let is_unsettled = !is_of_others && node.state != NodeState::Testing;
            facts.work = if is_unsettled { Work::Unsettled } else { Work::Nothing };
        }
        facts
    }

    fn pool(&self) -> Option<PoolKey> {
        let node = self.node.as_ref()?;
        Some(PoolKey { provider: node.provider.clone()?, pool: node.pool.clone()? })
    }

    fn provider(&self) -> Option<&ProviderName> {
        self.node.as_ref()?.provider.as_ref()
    }

    fn takes(&self) -> Option<&Resources> {
        match &self.takes {
            Takes::Nothing => None,
            Takes::Recorded => self.node.as_ref()?.resources.as_ref(),
            Takes::Other(takes) => Some(takes),
        }
    }

    /// Of a tenant that has limits, and what it takes of them.
    fn tenant(&self) -> Option<(&TenantName, &Resources)> {
        let node = self.node.as_ref().filter(|_| self.is_in_tenant)?;
        Some((node.tenant_name.as_ref()?, node.resources.as_ref()?))
    }

    /// Of which labels it is a ready node that no request has been given.
    fn stock(&self) -> BTreeSet<&LabelName> {
        self.node.iter().filter(|_| self.is_stock).flat_map(|node| &node.labels).collect()
    }

    fn is_doomed(&self) -> bool {
        self.node.as_ref().is_some_and(|node| node.state.is_doomed())
    }

    /// What its record says of the nodes that it carries.
    fn backing(&self) -> Option<Backing> {
        let node = self.node.as_ref().filter(|node| node.state == NodeState::InUse)?;
        Backing::of(node)
    }

    fn allocated_to(&self) -> Option<&RequestId> {
        self.node.as_ref()?.allocated_to.as_ref()
    }
}

impl Nodes {
    /// Looks at a node again.
    pub fn refresh(&mut self, world: &World<'_>, id: &NodeId) {
        if let Some(facts) = self.facts.remove(id) {
            self.strike(id, &facts);
        }
        if let Some(entry) = world.records.nodes.get(id) {
            let facts = Facts::of(world, id, entry);
            self.enter(id, &facts);
            self.facts.insert(id.clone(), facts);
        }
    }

    fn enter(&mut self, id: &NodeId, facts: &Facts) {
        let pool = facts.pool();
        if let (Some(pool), Some(takes)) = (&pool, facts.takes()) {
            if facts.is_in_quota {
                self.of_providers.entry(pool.provider.clone()).or_default().add(takes);
            }
            self.of_pools.entry(pool.clone()).or_default().add(takes);
        }
        if let Some((tenant, resources)) = facts.tenant() {
            self.of_tenants.entry(tenant.clone()).or_default().add(resources);
            self.tenants_version += 1;
        }
        if let (Some(since), Some(pool)) = (facts.idle, &pool) {
            self.note_idle(pool);
            self.idle.entry(pool.clone()).or_default().insert((since, id.clone()));
            let of_pool = self.idle_of_label.entry(pool.clone()).or_default();
            for label in facts.stock() {
                of_pool.entry(label.clone()).or_default().insert((since, id.clone()));
            }
        }
        for label in facts.stock() {
            *self.stock.entry(label.clone()).or_default() += 1;
        }
        if facts.work == Work::Unsettled {
            self.unsettled.insert(id.clone());
        }
        if let Some(at) = facts.too_old_at {
            self.ages.insert((at, id.clone()));
        }
        if let Some(pool) = pool.filter(|_| facts.is_doomed()) {
            self.doomed.entry(pool).or_default().insert(id.clone());
        }
        if let Some(provider) = facts.provider() {
            self.by_provider.entry(provider.clone()).or_default().insert(id.clone());
            if facts.work == Work::LaunchOfOthers {
                self.launched_by_others.entry(provider.clone()).or_default().insert(id.clone());
            }
            if let Some(place) = &facts.place {
                let on = self.slots.entry(provider.clone()).or_default().entry(place.backing_node.clone()).or_default();
                *on.entry(place.slot).or_default() += 1;
            }
        }
        if let Some(backing) = facts.backing() {
            self.backing.insert(id.clone(), backing);
        }
        if let Some(request) = facts.allocated_to() {
            self.allocated.entry(request.clone()).or_default().insert(id.clone());
        }
    }

    /// Undoes [`Self::enter`].
    fn strike(&mut self, id: &NodeId, facts: &Facts) {
        let pool = facts.pool();
        if let (Some(pool), Some(takes)) = (&pool, facts.takes()) {
            if let Some(sum) = self.of_providers.get_mut(&pool.provider).filter(|_| facts.is_in_quota) {
                sum.subtract(takes);
            }
            if let Some(sum) = self.of_pools.get_mut(pool) {
                sum.subtract(takes);
            }
        }
        if let Some((tenant, resources)) = facts.tenant()
            && let Some(sum) = self.of_tenants.get_mut(tenant)
        {
            sum.subtract(resources);
            self.tenants_version += 1;
        }
        if let (Some(since), Some(pool)) = (facts.idle, &pool) {
            self.note_idle(pool);
            let key = (since, id.clone());
            remove_from(&mut self.idle, pool, &key);
            if let Some(of_pool) = self.idle_of_label.get_mut(pool) {
                for label in facts.stock() {
                    remove_from(of_pool, label, &key);
                }
            }
        }
        for label in facts.stock() {
            if let Some(count) = self.stock.get_mut(label) {
                *count = count.saturating_sub(1);
            }
        }
        self.unsettled.remove(id);
        if let Some(at) = facts.too_old_at {
            self.ages.remove(&(at, id.clone()));
        }
        if let Some(pool) = pool.filter(|_| facts.is_doomed()) {
            remove_from(&mut self.doomed, &pool, id);
        }
        if let Some(provider) = facts.provider() {
            remove_from(&mut self.by_provider, provider, id);
            remove_from(&mut self.launched_by_others, provider, id);
            if let Some(place) = &facts.place {
                self.leave_slot(provider, place);
            }
        }
        self.backing.remove(id);
        if let Some(request) = facts.allocated_to()
            && let Some(nodes) = self.allocated.get_mut(request)
        {
            nodes.remove(id);
            if nodes.is_empty() {
                self.allocated.remove(request);
            }
        }
    }

    /// Ready nodes of a pool that nobody has, of any label or of one, oldest first.
    pub fn idle<'a>(&'a self, pool: &PoolKey, label: Option<&LabelName>) -> impl Iterator<Item = &'a NodeId> + use<'a> {
        let nodes = match label {
            None => self.idle.get(pool),
            Some(label) => self.idle_of_label.get(pool).and_then(|labels| labels.get(label)),
        };
        nodes.into_iter().flatten().map(|(_, id)| id)
    }

    /// The version of the set of idle nodes of a pool: another number after each change.
    pub fn idle_version(&self, pool: &PoolKey) -> u64 {
        self.idle_versions.get(pool).copied().unwrap_or_default()
    }

    fn note_idle(&mut self, pool: &PoolKey) {
        match self.idle_versions.get_mut(pool) {
            Some(version) => *version += 1,
            None => {
                self.idle_versions.insert(pool.clone(), 1);
            }
        }
    }

    /// How many ready nodes of a label no request has been given, whatever their provider.
    pub fn stock(&self, label: &LabelName) -> usize {
        self.stock.get(label).copied().unwrap_or_default()
    }

    /// Nodes of a pool that are on their way out.
    pub fn doomed(&self, pool: &PoolKey) -> impl Iterator<Item = &NodeId> {
        self.doomed.get(pool).into_iter().flatten()
    }

    /// Nodes of a provider.
    pub fn of_provider(&self, provider: &ProviderName) -> impl Iterator<Item = &NodeId> {
        self.by_provider.get(provider).into_iter().flatten()
    }

    /// Nodes of a provider that other launchers have locked and are launching.
    pub fn launched_by_others(&self, provider: &ProviderName) -> impl Iterator<Item = &NodeId> {
        self.launched_by_others.get(provider).into_iter().flatten()
    }

    /// The slots of a backing node in which nodes of a provider stand, by their records.
    pub fn slots_taken(&self, provider: &ProviderName, backing_node: &NodeId) -> impl Iterator<Item = usize> {
        let slots = self.slots.get(provider).and_then(|nodes| nodes.get(backing_node));
        slots.into_iter().flat_map(|slots| slots.keys().copied())
    }

    /// One node less stands there.
    fn leave_slot(&mut self, provider: &ProviderName, place: &Place) {
        let Some(nodes) = self.slots.get_mut(provider) else { return };
        if let Some(slots) = nodes.get_mut(&place.backing_node) {
            if let Some(count) = slots.get_mut(&place.slot) {
                *count -= 1;
                if *count == 0 {
                    slots.remove(&place.slot);
                }
            }
            if slots.is_empty() {
                nodes.remove(&place.backing_node);
            }
        }
        if nodes.is_empty() {
            self.slots.remove(provider);
        }
    }

    /// Nodes that were allocated to a request.
    pub fn allocated_to(&self, request: &RequestId) -> impl Iterator<Item = &NodeId> {
        self.allocated.get(request).into_iter().flatten()
    }
}

/// How long a held node is kept: the smaller of its own expiration and `max-hold-age`; `None`: for ever
/// (`nodepool 11.0.0: launcher.py _cleanupMaxHoldAge`).
pub fn hold_limit(world: &World<'_>, node: &Node) -> Option<f64> {
    #[allow(clippy::cast_precision_loss)] // seconds
    let own = node.hold_expiration.filter(|seconds| *seconds > 0).map(|seconds| seconds as f64);
    let general = world.config.max_hold_age.map(|age| age.as_secs_f64());
    match (own, general) {
        (Some(own), Some(general)) => Some(own.min(general)),
        (own, general) => own.or(general),
    }
}

fn remove_from<K: Ord, V: Ord>(map: &mut BTreeMap<K, BTreeSet<V>>, key: &K, value: &V) {
    if let Some(set) = map.get_mut(key) {
        set.remove(value);
        if set.is_empty() {
            map.remove(key);
        }
    }
}
