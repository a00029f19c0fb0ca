//! [`Taken`]: what this pass has set aside.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use nodepool_common::model::{LabelName, Node, NodeId, ProviderName, RequestId};

use super::{PoolKey, Reason, World, index::Nodes, usage::label_resources};

/// What the paused requests of a pool wait for.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Pressure {
    /// Resources that are short.
    pub short: BTreeSet<String>,
    /// Labels that are needed.
    pub labels: BTreeSet<LabelName>,
    /// Whether it is the provider that is short, and so its other pools too.
    of_provider: bool,
}

/// What is set aside in this pass.
pub struct Taken<'a> {
    world: &'a World<'a>,
    index: &'a Nodes,
    /// Idle nodes that some request gets.
    nodes: BTreeSet<NodeId>,
    /// How many of them are of each pool, but for pools with none.
    by_pool: BTreeMap<PoolKey, usize>,
    /// What the accepted requests of a pool wait for. A pool that is in here is paused; where it is the provider that is short,
    /// its other pools accept nothing that takes of it either ([`Self::is_paused`]), but are not published as paused.
    pub pressure: BTreeMap<PoolKey, Pressure>,
    /// Nodes that are being launched or will have to be for what was accepted, by provider: of those with `max-concurrency`.
    pub running: BTreeMap<ProviderName, usize>,
    /// How many requests are being accepted, with those that the pool which is looking has chosen in this pass.
    pub accepts: usize,
    /// Pools with an accepted request that an action is working on: what it still needs is not known in this pass.
    pub in_motion: BTreeSet<PoolKey>,
}

/// What stops a request from getting its nodes.
#[derive(Debug)]
pub struct Shortage {
    /// Why.
    pub reason: Reason,
    /// The resources that are short.
    pub short: Vec<String>,
    /// Whether it is the provider that is short of them, not the pool.
    pub of_provider: bool,
    /// Until when to wait in any case.
    pub until: Option<f64>,
}

impl<'a> Taken<'a> {
    /// What is set aside already at the beginning of a pass.
    pub fn new(world: &'a World<'a>, index: &'a Nodes) -> Self {
        let holdings = world.holdings;
        let in_motion = holdings.busy_requests.iter().filter_map(|id| Some(holdings.requests.get(id)?.pool.clone()));
        let mut taken = Self {
            world,
            index,
            nodes: BTreeSet::new(),
            by_pool: BTreeMap::new(),
            pressure: BTreeMap::new(),
            running: BTreeMap::new(),
            accepts: holdings.accepting.len(),
            in_motion: in_motion.chain(holdings.accepting.values().cloned()).collect(),
        };
        taken.keep_for_those_being_accepted();
        if world.config.providers.values().any(|provider| provider.max_concurrency.is_some()) {
            taken.count_running();
        }
        taken
    }

    fn count_running(&mut self) {
        let (world, holdings) = (self.world, self.world.holdings);
        let accepted = holdings.requests.iter().map(|(id, held)| (id, &held.pool)).chain(&holdings.accepting);
        for (id, key) in accepted {
            if let Some(request) = world.records.requests.get(id).and_then(|entry| entry.usable()) {
                *self.running.entry(key.provider.clone()).or_default() += request.node_types.len();
            }
        }
        // Of a request that was withdrawn no label is counted above, also as long as we hold it.
        let is_counted = |request: &RequestId| {
            let is_on_record = world.records.requests.get(request).is_some_and(|entry| entry.usable().is_some());
            is_on_record && holdings.requests.contains_key(request)
        };
        let mut done: BTreeMap<&ProviderName, usize> = BTreeMap::new();
        for (id, held) in holdings.nodes.iter() {
            let node = world.records.nodes.get(id).and_then(|entry| entry.usable());
            let Some(provider) = node.and_then(|node| node.provider.as_ref()) else { continue };
            match (is_counted(&held.request), held.launching) {
                (true, false) => *done.entry(provider).or_default() += 1,
                (false, true) => *self.running.entry(provider.clone()).or_default() += 1,
                _ => {}
            }
        }
        for (provider, done) in done {
            if let Some(running) = self.running.get_mut(provider) {
                *running = running.saturating_sub(done);
            }
        }
    }

    /// In a static pool a request is accepted for the nodes that are free, and so it is in any other as long as nobody knows what
    /// a launch would take. They are set aside for it until its [`Decision::Supply`](super::Decision::Supply) takes
    /// them: else the next request would be accepted for the same nodes.
    fn keep_for_those_being_accepted(&mut self) {
        let world = self.world;
        for (id, key) in &world.holdings.accepting {
            let is_static = world.pool_config(key).is_some_and(|(_, pool)| pool.hosts.is_some());
            let Some(request) = world.records.requests.get(id).and_then(|entry| entry.usable()) else { continue };
            // While records are renewed nothing is accepted but for nodes that are there.
            let from_stock = |label: &&LabelName| {
                let may_launch = !world.renewing && matches!(label_resources(world, key, label), Ok(Ok(_)));
                is_static || (request.reuse && !may_launch)
            };
            for label in request.node_types.iter().filter(from_stock) {
                if let Some(node) = self.oldest_idle(key, Some(label), |_| true) {
                    self.take(key, node.id.clone());
                }
            }
        }
    }

    /// What requests before this one wait for in a pool.
    pub fn pressure_on(&self, key: &PoolKey) -> impl Iterator<Item = &Pressure> {
        let key = key.clone();
        self.pressure
            .iter()
            .filter(move |(pool, pressure)| **pool == key || (pressure.of_provider && pool.provider == key.provider))
            .map(|(_, pressure)| pressure)
    }

    /// Whether requests before this one wait for something in a pool.
    pub fn is_paused(&self, key: &PoolKey) -> bool {
        self.pressure_on(key).next().is_some()
    }

    /// Whether as many requests are being accepted as may be at once.
    pub fn is_accepting_most(&self) -> bool {
        self.accepts >= self.world.timing.accepts_at_once
    }

    /// The oldest suitable node of a pool, of a label or of any, that nobody has and nobody is about to get.
    pub fn oldest_idle(
        &self,
        key: &PoolKey,
        label: Option<&LabelName>,
        suits: impl Fn(&Node) -> bool,
    ) -> Option<&'a Arc<Node>> {
        let world = self.world;
        let is_over = |id: &NodeId| world.holdings.nodes_after.get(id).is_none_or(|at| *at <= world.uptime);
        let idle = self.index.idle(key, label).filter(|id| !self.nodes.contains(*id) && is_over(id));
        let mut nodes = idle.filter_map(|id| world.records.nodes.get(id)?.usable());
        nodes.find(|node| world.has_gone(node).is_none() && suits(node))
    }

    /// Sets a node of a pool aside.
    pub fn take(&mut self, key: &PoolKey, node: NodeId) {
        if !self.nodes.insert(node) {
            return;
        }
        match self.by_pool.get_mut(key) {
            Some(count) => *count += 1,
            None => {
                self.by_pool.insert(key.clone(), 1);
            }
        }
    }

    /// Undoes [`Self::take`].
    pub fn give_back(&mut self, key: &PoolKey, node: &NodeId) {
        if self.nodes.remove(node)
            && let Some(count) = self.by_pool.get_mut(key)
        {
            *count -= 1;
            if *count == 0 {
                self.by_pool.remove(key);
            }
        }
    }

    /// Whether a node of a pool is set aside.
    pub fn has_any_of(&self, key: &PoolKey) -> bool {
        self.by_pool.contains_key(key)
    }

    /// Notes that a pool is paused, and for what.
    pub fn press(&mut self, key: &PoolKey, shortage: &Shortage, missing: &[LabelName]) {
        let pressure = self.pressure.entry(key.clone()).or_default();
        pressure.short.extend(shortage.short.iter().cloned());
        pressure.of_provider |= shortage.of_provider;
        pressure.labels.extend(missing.iter().cloned());
    }

    /// Notes that a pool is paused, for nodes of these labels.
    pub fn press_for(&mut self, key: &PoolKey, missing: &[LabelName]) {
        self.pressure.entry(key.clone()).or_default().labels.extend(missing.iter().cloned());
    }
}
