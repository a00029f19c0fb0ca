//! [`Taken`]: what is there, and what this pass has set aside of it.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use nodepool_common::model::{LabelName, Node, NodeId, NodeState, ProviderName};

use super::{PoolKey, World, hosts::is_left_out};

/// What the paused requests of a pool wait for.
#[derive(Debug, Default)]
pub struct Pressure {
    /// Resources that are short.
    pub short: BTreeSet<String>,
    /// Labels that are needed.
    pub labels: BTreeSet<LabelName>,
    /// Whether it is the provider that is short, and so its other pools too.
    of_provider: bool,
}

/// What is there and what is set aside in this pass.
#[derive(Debug)]
pub struct Taken<'a> {
    /// Ready nodes that nobody has, by pool, oldest first.
    idle: BTreeMap<PoolKey, Vec<&'a Arc<Node>>>,
    /// Those of them that some request gets.
    pub(super) nodes: BTreeSet<NodeId>,
    /// What paused requests wait for, by pool. A pool that is in here is paused.
    pub pressure: BTreeMap<PoolKey, Pressure>,
    /// Nodes that are being launched or will have to be for what was accepted, by provider.
    pub running: BTreeMap<ProviderName, usize>,
    /// Pools with an accepted request that an action is working on: what it still needs is not known in this pass.
    pub in_motion: BTreeSet<PoolKey>,
}

/// What stops a request from getting its nodes.
#[derive(Debug)]
pub struct Shortage {
    /// For people.
    pub reason: String,
    /// The resources that are short.
    pub short: Vec<String>,
    /// Whether it is the provider that is short of them, not the pool.
    pub of_provider: bool,
    /// Until when to wait in any case.
    pub until: Option<f64>,
}

impl<'a> Taken<'a> {
    /// What there is at the beginning of a pass.
    pub fn new(world: &World<'a>) -> Self {
        let mut taken = Self {
            idle: BTreeMap::new(),
            nodes: BTreeSet::new(),
            pressure: BTreeMap::new(),
            running: BTreeMap::new(),
            in_motion: world.holdings.accepting.values().cloned().collect(),
        };
        let holdings = world.holdings;
        let mut idle = Vec::new();
        for (id, entry) in &world.records.nodes {
            let Some(node) = entry.usable().filter(|node| node.state == NodeState::Ready) else { continue };
            let free = node.allocated_to.is_none()
                && !entry.is_locked()
                && !holdings.busy_nodes.contains(id)
                && !holdings.nodes.contains_key(id)
                && world.has_gone(node).is_none()
                && !is_left_out(world, node)
                && holdings.nodes_after.get(id).is_none_or(|at| *at <= world.now);
            if let (true, Some(provider), Some(pool)) = (free, &node.provider, &node.pool) {
                let key = PoolKey { provider: provider.clone(), pool: pool.clone() };
                idle.push((entry.order().unwrap_or_default(), key, node));
            }
        }
        // The oldest first.
        idle.sort_by(|(a, ..), (b, ..)| a.total_cmp(b));
        for (_, key, node) in idle {
            taken.idle.entry(key).or_default().push(node);
        }
        taken.keep_for_those_being_accepted(world);
        let accepted = holdings.requests.iter().map(|(id, held)| (id, &held.pool)).chain(&holdings.accepting);
        for (id, key) in accepted {
            if let Some(request) = world.records.requests.get(id).and_then(|entry| entry.usable()) {
                *taken.running.entry(key.provider.clone()).or_default() += request.node_types.len();
            }
            if holdings.busy_requests.contains(id) {
                taken.in_motion.insert(key.clone());
            }
        }
        for (id, held) in &holdings.nodes {
            let Some(node) = world.records.nodes.get(id).and_then(|entry| entry.usable()) else { continue };
            let Some(running) = node.provider.as_ref().map(|name| taken.running.entry(name.clone()).or_default())
            else {
                continue;
            };
            match (holdings.requests.contains_key(&held.request), held.launching) {
                (true, false) => *running = running.saturating_sub(1),
                (false, true) => *running += 1,
                _ => {}
            }
        }
        taken
    }

    /// In a static pool a request is accepted for the nodes that are free. They stay its own until it takes them: they
    /// would not be enough for the next one as well, which comes after it.
    fn keep_for_those_being_accepted(&mut self, world: &World<'a>) {
        for (id, key) in &world.holdings.accepting {
            let is_static = world.pool_config(key).is_some_and(|(_, pool)| pool.hosts.is_some());
            let Some(request) = world.records.requests.get(id).and_then(|entry| entry.usable()).filter(|_| is_static)
            else {
                continue;
            };
            for label in &request.node_types {
                if let Some(node) = self.oldest_idle(key, |node| node.labels.contains(label)) {
                    self.nodes.insert(node.id.clone());
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

    /// The oldest suitable node of a pool that nobody has and nobody is about to get.
    pub fn oldest_idle(&self, key: &PoolKey, suits: impl Fn(&Node) -> bool) -> Option<&'a Arc<Node>> {
        let idle = self.idle.get(key)?;
        idle.iter().copied().find(|node| !self.nodes.contains(&node.id) && suits(node))
    }

    /// Sets a node aside.
    pub fn take(&mut self, node: NodeId) {
        self.nodes.insert(node);
    }

    /// Notes that a pool is paused, and for what.
    pub fn press(&mut self, key: &PoolKey, shortage: &Shortage, missing: &[LabelName]) {
        let pressure = self.pressure.entry(key.clone()).or_default();
        pressure.short.extend(shortage.short.iter().cloned());
        pressure.of_provider |= shortage.of_provider;
        pressure.labels.extend(missing.iter().cloned());
    }
}
