//! What the records, the holdings and the actions that run come to, reckoned anew from all of them: slow and obvious.
//!
//! It shares no code with what the planner keeps: the index, the budget, what a pass sets aside, the ledger. Each function is one
//! rule in a loop over everything. [`Model::differences`] compares what it comes to with what they say.

use std::collections::{BTreeMap, BTreeSet};

use nodepool_common::model::{ProviderName, TenantName};

use super::*;
use crate::plan::{
    budget::Budget,
    index::{Class, Index, Rank},
    taken::Taken,
};

/// See the module.
pub struct Model<'a> {
    pub world: &'a World<'a>,
    /// What is being carried out.
    pub running: &'a [(ActionId, Decision)],
}

impl<'a> Model<'a> {
    /// All nodes that can be read, with where they stand.
    pub fn nodes(&self) -> impl Iterator<Item = (&'a NodeId, &'a Entry<Node>, &'a Arc<Node>)> + use<'a> {
        let nodes = self.world.records.nodes.iter();
        nodes.filter_map(|(id, entry)| Some((id, &**entry, entry.record.as_ref().ok()?)))
    }

    /// A request that can be read.
    pub fn request(&self, id: &RequestId) -> Option<&'a Arc<NodeRequest>> {
        self.world.records.requests.get(id)?.record.as_ref().ok()
    }

    /// Whether nobody has a node, neither another launcher nor we.
    pub fn is_nobodys(&self, id: &NodeId) -> bool {
        let held = self.world.holdings;
        let entry = &self.world.records.nodes[id];
        entry.contenders.is_empty() && held.nodes.get(id).is_none() && !held.busy_nodes.contains(id)
    }

    /// What a node of a label takes in a pool; nothing where that is not known.
    pub fn need(&self, pool: &PoolKey, label: &LabelName) -> Resources {
        let known = self.world.providers.get(&pool.provider);
        let known = known.and_then(|state| state.label_resources.get(&(pool.pool.clone(), label.clone())));
        known.and_then(|takes| takes.clone().ok()).unwrap_or_default()
    }

    fn is_elsewhere(&self, node: &Node) -> bool {
        let state = node.provider.as_ref().and_then(|provider| self.world.providers.get(provider));
        state.is_some_and(|state| state.elsewhere.contains(&node.id))
    }

    /// What a node takes in its pool: what its record says, or what one of its label takes.
    fn takes(&self, node: &Node) -> Resources {
        let pool = pool_of(node);
        let provider = self.world.config.providers.get(&pool.provider);
        let is_refused = node.state == NodeState::Aborted && node.external_id.is_none();
        let Some(provider) = provider.filter(|_| !is_refused) else { return Resources::new() };
        if let Some(resources) = &node.resources {
            return resources.clone();
        }
        let known = provider.pools.iter().find(|p| p.name == pool.pool);
        let label = known.and_then(|p| node.labels.first().filter(|label| p.labels.contains_key(*label)));
        label.map(|label| self.need(&pool, label)).unwrap_or_default()
    }

    /// What is used of a provider's quota: by nodes on record, by launches that have no record yet, and by what is being accepted.
    pub fn used_of_provider(&self, provider: &ProviderName) -> Resources {
        let nodes = self.nodes().filter(|(_, _, node)| !self.is_elsewhere(node) && pool_of(node).provider == *provider);
        let mut used = sum(nodes.map(|(_, _, node)| self.takes(node)));
        used.add(&self.promised(|pool| pool.provider == *provider));
        used
    }

    /// The same of a pool. A node that nobody can delete does not count.
    pub fn used_of_pool(&self, pool: &PoolKey) -> Resources {
        let counts = |node: &Node| !self.is_elsewhere(node) || node.state != NodeState::Deleting;
        let nodes = self.nodes().filter(|(_, _, node)| pool_of(node) == *pool && counts(node));
        let mut used = sum(nodes.map(|(_, _, node)| self.takes(node)));
        used.add(&self.promised(|other| other == pool));
        used
    }

    /// Launches that were decided and have no record, and what requests that are being accepted will need.
    fn promised(&self, is_there: impl Fn(&PoolKey) -> bool) -> Resources {
        let mut all = Vec::new();
        for (_, pool, label) in self.world.holdings.starting.iter().filter(|(_, pool, _)| is_there(pool)) {
            all.push(self.need(pool, label));
        }
        for (request, pool) in self.accepting().filter(|(_, pool)| is_there(pool)) {
            all.extend(self.without_node(request).iter().map(|label| self.need(pool, label)));
        }
        sum(all.into_iter())
    }

    /// Requests that are just being accepted.
    fn accepting(&self) -> impl Iterator<Item = (&'a RequestId, &'a PoolKey)> + use<'a> {
        self.running.iter().filter_map(|(_, decision)| match decision {
            Decision::Accept { pool, request } => Some((request, pool)),
            _ => None,
        })
    }

    /// Requests that we have accepted or are accepting, each with its pool.
    fn accepted(&self) -> BTreeMap<&'a RequestId, &'a PoolKey> {
        let held = self.world.holdings.requests.iter().map(|(id, held)| (id, &held.pool));
        held.chain(self.accepting()).collect()
    }

    /// The labels of a request for which no node on record is allocated to it.
    fn without_node(&self, id: &RequestId) -> Vec<LabelName> {
        let mut labels = self.request(id).map(|request| request.node_types.clone()).unwrap_or_default();
        for (_, _, node) in self.nodes().filter(|(_, _, node)| node.allocated_to.as_ref() == Some(id)) {
            if let Some(at) = labels.iter().position(|label| node.labels.contains(label)) {
                labels.remove(at);
            }
        }
        labels
    }

    /// What a tenant has, and was promised.
    pub fn used_of_tenant(&self, tenant: &TenantName) -> Resources {
        let is_its = |node: &Node| node.tenant_name.as_ref() == Some(tenant);
        let counts = |node: &Node| !self.is_elsewhere(node) || node.state != NodeState::Deleting;
        let nodes = self.nodes().filter(|(_, _, node)| is_its(node) && counts(node));
        let mut used = sum(nodes.filter_map(|(_, _, node)| node.resources.clone()));
        for (id, pool) in self.accepted() {
            if self.request(id).is_some_and(|request| request.tenant_name.as_ref() == Some(tenant)) {
                used.add(&sum(self.without_node(id).iter().map(|label| self.need(pool, label))));
            }
        }
        used
    }

    /// How many launches of a provider run, or will have to for what it has accepted. A request counts with all its labels until
    /// nodes of it are ready.
    pub fn running_launches(&self, provider: &ProviderName) -> usize {
        let accepted = self.accepted();
        let labels = accepted.iter().filter(|(_, pool)| pool.provider == *provider);
        let labels: usize = labels.filter_map(|(id, _)| Some(self.request(id)?.node_types.len())).sum();
        let of_provider = |id: &NodeId| {
            let node = self.world.records.nodes.get(id).and_then(|entry| entry.record.as_ref().ok());
            node.is_some_and(|node| node.provider.as_ref() == Some(provider))
        };
        let held = || self.world.holdings.nodes.iter().filter(|(id, _)| of_provider(id));
        let is_counted =
            |request: &RequestId| self.request(request).is_some() && self.world.holdings.requests.contains_key(request);
        let done = held().filter(|(_, held)| is_counted(&held.request) && !held.launching).count();
        let strays = held().filter(|(_, held)| !is_counted(&held.request) && held.launching).count();
        (labels + strays).saturating_sub(done)
    }

    /// Ready nodes of a pool that nobody has, oldest first.
    pub fn idle(&self, pool: &PoolKey, label: Option<&LabelName>) -> Vec<NodeId> {
        let mut idle = Vec::new();
        for (id, entry, node) in self.nodes() {
            let is_of_label = label.is_none_or(|label| node.labels.contains(label));
            let is_free = node.state == NodeState::Ready && node.allocated_to.is_none() && self.is_nobodys(id);
            if pool_of(node) == *pool && is_of_label && is_free {
                idle.push((entry.order().unwrap(), id.clone()));
            }
        }
        idle.sort_by(|a, b| a.partial_cmp(b).unwrap());
        idle.into_iter().map(|(_, id)| id).collect()
    }

    /// Requests that wait and that nobody has locked, the most urgent first: by priority as text, relative priority, number as text.
    pub fn waiting(&self) -> Vec<RequestId> {
        let held = self.world.holdings;
        let mut waiting: Vec<_> = self
            .world
            .records
            .requests
            .iter()
            .filter(|(id, entry)| {
                let waits = entry.record.as_ref().is_ok_and(|request| request.state == RequestState::Requested);
                let is_ours = held.requests.get(*id).is_some() || held.busy_requests.contains(id);
                waits && entry.contenders.is_empty() && !is_ours
            })
            .map(|(id, _)| id.clone())
            .collect();
        waiting.sort_by(|a, b| self.urgency(a).cmp(&self.urgency(b)));
        waiting
    }

    /// By what requests are put in order.
    pub fn urgency<'b>(&self, id: &'b RequestId) -> (&'b str, i64, &'b str) {
        let text = id.as_str();
        let (priority, number) = text.split_once('-').unwrap_or((text, ""));
        (priority, self.request(id).map_or(0, |request| request.relative_priority), number)
    }

    /// How what the planner and the ledger keep differs from this.
    pub fn differences(&self, index: &Index, launches: &BTreeMap<ActionId, Vec<LabelName>>) -> Vec<String> {
        let mut differences = Vec::new();
        self.sums(index, &mut differences);
        self.order(index, &mut differences);
        self.book(launches, &mut differences);
        self.slots_kept(index, &mut differences);
        differences
    }

    /// How what is published of the ledger differs from this, the holdings of whose world are what is published.
    pub fn published_held(&self, held: &Held, launches: &BTreeMap<ActionId, Vec<LabelName>>) -> Vec<String> {
        let mut differences = Vec::new();
        self.book(launches, &mut differences);
        let actions: Vec<_> = held.actions.iter().map(|(action, decision)| (*action, (**decision).clone())).collect();
        let mut running = self.running.to_vec();
        running.sort_by_key(|(action, _)| *action);
        equal("published actions", &actions, &running, &mut differences);
        differences
    }

    /// How what is published of a plan differs from this.
    pub fn published(&self, planned: &Snapshot) -> Vec<String> {
        let mut differences = Vec::new();
        let order: Vec<_> = planned.order().into_iter().cloned().collect();
        equal("published requests", &order, &self.waiting(), &mut differences);
        let kind = |reason: &Reason| format!("{reason:?}").split([' ', '(', '{']).next().unwrap_or_default().to_owned();
        let (mut counted, mut counts) = (BTreeMap::new(), BTreeMap::new());
        for (pool, reason, count) in planned.count().into_iter().filter(|(_, _, count)| *count > 0) {
            *counted.entry((pool.clone(), kind(reason))).or_insert(0) += count;
        }
        for ((_, pool), waiting) in planned.waiting() {
            *counts.entry((pool, kind(&waiting.waiting.reason))).or_insert(0) += 1;
        }
        equal("published numbers of waiting requests", &counted, &counts, &mut differences);
        let pools: Vec<_> = self.world.pools.iter().map(|state| &state.key).collect();
        equal("published pools", &planned.used.iter().map(|in_use| &in_use.pool).collect(), &pools, &mut differences);
        for (in_use, state) in planned.used.iter().zip(self.world.pools) {
            let (key, used) = (&in_use.pool, &in_use.used);
            let of_provider = self.used_of_provider(&key.provider);
            same(&format!("{} is published to use", key.provider), &used.of_provider, &of_provider, &mut differences);
            same(&format!("{key} is published to use"), &used.of_pool, &self.used_of_pool(key), &mut differences);
            let is_registered = self.world.records.pools.values().any(|p| p.id.as_ref() == Some(&state.launcher_id));
            equal(
                &format!("{key} is published as registered"),
                &in_use.is_registered,
                &is_registered,
                &mut differences,
            );
        }
        differences
    }

    /// Used, idle and promised: by provider, pool and tenant.
    fn sums(&self, index: &Index, differences: &mut Vec<String>) {
        let world = self.world;
        let budget = Budget::new(world, &index.nodes);
        let taken = Taken::new(world, &index.nodes);
        let promised = budget.tenants().1.clone();
        for tenant in world.config.tenant_limits.keys() {
            let right = self.used_of_tenant(tenant);
            let on_record = || index.nodes.of_tenants.get(tenant).map(|sum| (**sum.total()).clone());
            let was = promised.get(tenant).cloned().or_else(on_record).unwrap_or_default();
            same(&format!("{tenant} has"), &was, &right, differences);
        }
        for provider in world.config.providers.values() {
            for pool in &provider.pools {
                let key = PoolKey { provider: provider.name.clone(), pool: pool.name.clone() };
                let Used { of_provider, of_pool } = budget.used(&key);
                same(
                    &format!("{} uses", provider.name),
                    &of_provider,
                    &self.used_of_provider(&provider.name),
                    differences,
                );
                same(&format!("{key} uses"), &of_pool, &self.used_of_pool(&key), differences);
                for label in [None, Some("small".into()), Some("big".into())] {
                    let idle: Vec<_> = index.nodes.idle(&key, label.as_ref()).cloned().collect();
                    let right = self.idle(&key, label.as_ref());
                    equal(&format!("idle nodes of {key}, {label:?},"), &idle, &right, differences);
                }
            }
            if provider.max_concurrency.is_some() {
                let running = taken.running.get(&provider.name).copied().unwrap_or_default();
                let right = self.running_launches(&provider.name);
                equal(&format!("launches of {}", provider.name), &running, &right, differences);
            }
        }
        for label in ["small", "big"].map(LabelName::from) {
            let ready = |node: &Node| node.state == NodeState::Ready && node.allocated_to.is_none();
            let right = self.nodes().filter(|(_, _, node)| ready(node) && node.labels.contains(&label)).count();
            equal(&format!("stock of {label}"), &index.nodes.stock(&label), &right, differences);
        }
    }

    /// Which requests wait, in which order.
    fn order(&self, index: &Index, differences: &mut Vec<String>) {
        let mut known: Vec<&Rank> = index.requests.classes.values().flat_map(Class::ranks).collect();
        known.sort();
        let known: Vec<_> = known.into_iter().map(|rank| rank.id.clone()).collect();
        equal("waiting requests", &known, &self.waiting(), differences);
        let mut lost = BTreeSet::new();
        for (id, entry) in &self.world.records.requests {
            let held = self.world.holdings;
            let is_ours = held.requests.get(id).is_some() || held.busy_requests.contains(id);
            let is_pending = entry.record.as_ref().is_ok_and(|request| request.state == RequestState::Pending);
            if is_pending && !is_ours && entry.contenders.is_empty() {
                lost.insert(id.clone());
            }
        }
        equal("lost requests", &index.requests.lost, &lost, differences);
    }

    /// The ledger: each action that runs has what it works on marked, and each launch that was decided is either on record or
    /// starting, never both, never neither. `launches`: those of each action that have no record.
    fn book(&self, launches: &BTreeMap<ActionId, Vec<LabelName>>, differences: &mut Vec<String>) {
        let held = self.world.holdings;
        let mut starting = Vec::new();
        let (mut requests, mut nodes) = (BTreeSet::new(), BTreeSet::new());
        for (action, decision) in self.running {
            let (request, node) = decision.subjects();
            requests.extend(request.cloned());
            nodes.extend(node.cloned());
            if let Decision::Supply { request, pool, reuse, .. } = decision {
                nodes.extend(reuse.iter().map(|(node, _)| node.clone()));
                let labels = launches.get(action).into_iter().flatten();
                starting.extend(labels.map(|label| (request.clone(), pool.clone(), label.clone())));
            }
        }
        let mut known = (*held.starting).clone();
        known.sort();
        starting.sort();
        equal("launches without a record", &known, &starting, differences);
        equal("requests that are worked on", &held.busy_requests.iter().cloned().collect(), &requests, differences);
        equal("nodes that are worked on", &held.busy_nodes.iter().cloned().collect(), &nodes, differences);
        let accepting = self.accepting().map(|(id, pool)| (id.clone(), pool.clone())).collect();
        equal("requests that are being accepted", &held.accepting, &accepting, differences);
    }
}

/// A node's pool, by its record.
fn pool_of(node: &Node) -> PoolKey {
    PoolKey { provider: node.provider.clone().unwrap(), pool: node.pool.clone().unwrap() }
}

/// All of these together.
pub fn sum(amounts: impl Iterator<Item = Resources>) -> Resources {
    let mut sum = Resources::new();
    amounts.for_each(|each| sum.add(&each));
    sum
}

/// Notes where amounts are not the same.
fn same(what: &str, was: &Resources, right: &Resources, differences: &mut Vec<String>) {
    let names: BTreeSet<_> = was.iter().chain(right.iter()).map(|(name, _)| name).collect();
    if names.into_iter().any(|name| (was.amount(name) - right.amount(name)).abs() > 1e-6) {
        differences.push(format!("{what} {was:?}, and should be {right:?}"));
    }
}

fn equal<T: PartialEq + std::fmt::Debug>(what: &str, was: &T, right: &T, differences: &mut Vec<String>) {
    if was != right {
        differences.push(format!("{what}: {was:?}, and should be {right:?}"));
    }
}
