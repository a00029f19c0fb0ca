//! Metastatic providers: backing nodes to ask for, to take and to let go.
//!
//! A node of such a provider stands in a slot of a backing node, which is a node of some other provider, asked for by a
//! request of ours and locked for the provider's own name. Which node stands where is in the records (`user_data` of the
//! backing node, `driver_data` of the other), and so nothing is lost with a process (`nodepool 11.0.0:
//! driver/metastatic/adapter.py`). In memory is only since when nothing stands on a backing node.
//!
//! Of several launchers that have a label one places its nodes ([`keeper_of`]), once others have finished what they were
//! launching ([`is_left_to_another`]).
//!
//! A launch that waits for a place is in [`Holdings::seeking`](super::Holdings) from when it begins to look until it has
//! one or is told that none will come. What is asked for follows from those alone.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use nodepool_common::{
    config::{Driver, Metastatic, MetastaticLabel, Provider},
    model::{
        Backing, LabelName, Node, NodeId, NodeState, Place, ProviderName, Records, RequestState, Timestamp,
        metastatic_owner, metastatic_provider,
    },
};

use super::{
    Decision, Plan, Reason, World,
    index::{Index, Nodes},
    keeper_of,
};

/// A backing node, and which of its slots are taken.
struct Standing {
    id: NodeId,
    backing: Backing,
    taken: BTreeSet<usize>,
}

impl Standing {
    /// Whether another node may be placed on it.
    fn is_open(&self, label: &MetastaticLabel, now: Timestamp) -> bool {
        !self.backing.failed && !self.is_too_old(Some(label), now)
    }

    fn is_too_old(&self, label: Option<&MetastaticLabel>, now: Timestamp) -> bool {
        let max = label.and_then(|label| label.max_age);
        max.is_some_and(|max| now - self.backing.launched > max.as_secs_f64())
    }

    fn free(&self) -> impl Iterator<Item = usize> {
        (0..self.backing.slots).filter(|slot| !self.taken.contains(slot))
    }
}

/// The backing nodes of a provider, in the order of their creation. Whether the lock is really the provider's is found
/// out when one is written to; `not_kept`: those of which it was not, and until when they are left out. `of_provider` and
/// `candidates` name at least the provider's nodes and those that carry others.
fn backing_nodes<'a>(
    records: &'a Records,
    of_provider: impl Iterator<Item = &'a NodeId>,
    candidates: impl Iterator<Item = &'a NodeId>,
    provider: &ProviderName,
    not_kept: &BTreeMap<NodeId, Timestamp>,
    now: Timestamp,
) -> Vec<Standing> {
    let owner = metastatic_owner(provider);
    let mut taken: BTreeMap<NodeId, BTreeSet<usize>> = BTreeMap::new();
    for node in of_provider.filter_map(|id| records.nodes.get(id)?.usable()) {
        if node.provider.as_ref() == Some(provider)
            && let Some(place) = Place::of(node)
        {
            taken.entry(place.backing_node).or_default().insert(place.slot);
        }
    }
    let standings = candidates.filter_map(|id| {
        let entry = records.nodes.get(id)?;
        let is_left_out = not_kept.get(id).is_some_and(|until| now < *until);
        let is_one = |node: &&Arc<Node>| node.state == NodeState::InUse && entry.is_locked() && !is_left_out;
        let node = entry.usable().filter(is_one)?;
        let mut backing = Backing::of(node).filter(|backing| backing.owner == owner)?;
        backing.launched = entry.stat.no_later(backing.launched, now);
        Some(Standing { id: id.clone(), backing, taken: taken.remove(id).unwrap_or_default() })
    });
    standings.collect()
}

/// A free slot for a node of a label: on the oldest backing node that has one.
pub fn free_place(
    records: &Records,
    provider: &ProviderName,
    not_kept: &BTreeMap<NodeId, Timestamp>,
    label: &MetastaticLabel,
    now: Timestamp,
) -> Option<Place> {
    backing_nodes(records, records.nodes.keys(), records.nodes.keys(), provider, not_kept, now)
        .iter()
        .filter(|standing| standing.backing.label == label.name && standing.is_open(label, now))
        .find_map(|standing| Some(Place { backing_node: standing.id.clone(), slot: standing.free().next()? }))
}

/// Why a pool of a metastatic provider leaves new nodes of these labels to another launcher, where it does. That they get out of each other's way saves them from placing in vain: that no
/// slot is given twice does not depend on it (`zk::Held::place_on`).
pub fn is_left_to_another(
    world: &World<'_>,
    nodes: &Nodes,
    provider: &Provider,
    labels: &[LabelName],
) -> Option<Reason> {
    if !matches!(provider.driver, Driver::Metastatic(_)) {
        return None;
    }
    if let Some(keeper) = keeper_of(world.records, &provider.name, labels).filter(|keeper| !world.is_ours(keeper)) {
        return Some(Reason::LeftToKeeper { keeper });
    }
    let mut of_provider = nodes.of_provider(&provider.name).filter_map(|id| world.records.nodes.get_key_value(id));
    let foreign = of_provider.find(|(id, entry)| {
        let is_launching = entry.usable().is_some_and(|node| {
            node.provider.as_ref() == Some(&provider.name)
                && matches!(node.state, NodeState::Init | NodeState::Building)
                && node.labels.iter().any(|label| labels.contains(label))
                && !is_for_another(world, provider, node)
        });
        is_launching && entry.is_locked() && !world.holdings.nodes.contains_key(*id) && !world.is_starting(provider)
    });
    foreign.map(|(id, _)| Reason::StillPlacing { node: id.clone() })
}

/// Whether another launcher goes on accepting requests like the one that a node is being launched for. There is no end of
/// those to wait for: who has a label among others of a request would wait as long as requests for that label alone come.
fn is_for_another(world: &World<'_>, provider: &Provider, node: &Node) -> bool {
    let request = node.allocated_to.as_ref().and_then(|request| world.records.requests.get(request));
    let labels = request.and_then(|entry| entry.usable()).map_or(&node.labels, |request| &request.node_types);
    keeper_of(world.records, &provider.name, labels).is_some_and(|keeper| !world.is_ours(&keeper))
}

/// Decides about the backing nodes of all metastatic providers.
pub fn metastatic(world: &World<'_>, index: &Index, plan: &mut Plan) {
    let ordered = orders(world, index, plan);
    for provider in world.config.providers.values() {
        let Driver::Metastatic(config) = &provider.driver else { continue };
        let standings = backing_nodes(
            world.records,
            index.nodes.of_provider(&provider.name),
            index.nodes.backing.iter(),
            &provider.name,
            &world.holdings.not_kept,
            world.now,
        );
        plan.idle_backing.extend(standings.iter().filter(|s| s.taken.is_empty()).map(|standing| standing.id.clone()));
        if !world.providers.contains_key(&provider.name) {
            continue;
        }
        let waiting = waiting(world, &provider.name);
        for (label, waiting) in &waiting {
            if let Some(label) = config.any_label(label) {
                let ordered = ordered.get(&(provider.name.clone(), label.name.clone())).copied().unwrap_or_default();
                supply(world, plan, &Lack { provider: &provider.name, label, standings: &standings, ordered, waiting });
            }
        }
        if world.stopping {
            continue;
        }
        for standing in &standings {
            // One that may still be of use to those who wait is kept for them; any other takes room from them.
            let label = config.any_label(&standing.backing.label);
            let is_of_use = label.is_some_and(|label| standing.is_open(label, world.now));
            if is_ours(world, provider, standing) && !(is_of_use && waiting.contains_key(&standing.backing.label)) {
                let_go(world, plan, &provider.name, config, standing);
            }
        }
    }
}

/// Whether this launcher lets a backing node go: it places on it, or no pool has its label any more and it has its provider.
fn is_ours(world: &World<'_>, provider: &Provider, standing: &Standing) -> bool {
    let keeper = keeper_of(world.records, &provider.name, std::slice::from_ref(&standing.backing.label))
        .or_else(|| keeper_of(world.records, &provider.name, &[]));
    keeper.is_none_or(|keeper| world.is_ours(&keeper))
}

/// Our launches that have no place yet, by label.
#[derive(Default)]
struct Waiting {
    /// Those that have begun to look for one.
    seeking: Vec<NodeId>,
    /// Decided already, and without a record so far.
    starting: usize,
}

fn waiting(world: &World<'_>, provider: &ProviderName) -> BTreeMap<LabelName, Waiting> {
    let mut waiting: BTreeMap<LabelName, Waiting> = BTreeMap::new();
    for (id, (_, label)) in world.holdings.seeking.iter().filter(|(_, (pool, _))| pool.provider == *provider) {
        // One that has found its place is on record a moment before it is known that it does not seek any more.
        let node = world.records.nodes.get(id).and_then(|entry| entry.usable());
        if node.is_none_or(|node| Place::of(node).is_none()) {
            waiting.entry(label.clone()).or_default().seeking.push(id.clone());
        }
    }
    for (_, _, label) in world.holdings.starting.iter().filter(|(_, pool, _)| pool.provider == *provider) {
        waiting.entry(label.clone()).or_default().starting += 1;
    }
    waiting
}

/// Whether something stands on a backing node, or has just been placed on it.
pub fn carries(records: &Records, provider: &ProviderName, backing_node: &NodeId) -> bool {
    records.nodes.values().filter_map(|entry| entry.usable()).any(|node| {
        node.provider.as_ref() == Some(provider)
            && Place::of(node).is_some_and(|place| place.backing_node == *backing_node)
    })
}

/// Requests for backing nodes of one label.
#[derive(Clone, Copy, Default)]
struct Ordered {
    /// All that are not settled.
    open: usize,
    /// Those of them that are served, or that some registered pool may serve.
    served: usize,
}

/// Settles the requests for backing nodes that are done, or whose label is not configured any more; counts those that are open.
fn orders(world: &World<'_>, index: &Index, plan: &mut Plan) -> BTreeMap<(ProviderName, LabelName), Ordered> {
    let mut ordered: BTreeMap<_, Ordered> = BTreeMap::new();
    let holdings = world.holdings;
    let of_launchers = index.requests.of_launchers.iter().filter_map(|id| world.records.requests.get_key_value(id));
    for (id, entry) in of_launchers.filter(|(_, entry)| world.is_of_our_session(entry)) {
        let Some(request) = entry.usable() else { continue };
        let Some(provider) = request.requestor.as_deref().and_then(metastatic_provider) else { continue };
        let Some(label) = request.backed_label() else { continue };
        let is_done = matches!(request.state, RequestState::Fulfilled | RequestState::Failed);
        let is_configured = world.config.providers.get(&provider).is_some_and(|provider| {
            provider.metastatic().is_some_and(|metastatic| metastatic.any_label(&label).is_some())
        });
        if is_done || !is_configured {
            if let Some(at) = holdings.requests_after.get(id).filter(|at| **at > world.now) {
                plan.wake(*at);
            } else if !holdings.busy_requests.contains(id) && (!is_done || !holdings.requests.contains_key(id)) {
                plan.decisions.push(Decision::SettleBacking { provider: provider.clone(), request: id.clone() });
            }
        }
        // Until it is settled it counts.
        let ordered = ordered.entry((provider, label)).or_default();
        ordered.open += 1;
        if is_done || entry.is_locked() || world.records.pools_that_may_serve(request).next().is_some() {
            ordered.served += 1;
        }
    }
    ordered
}

/// What there is, and what is on its way, for the launches of a label that wait.
struct Lack<'a> {
    provider: &'a ProviderName,
    label: &'a MetastaticLabel,
    standings: &'a [Standing],
    ordered: Ordered,
    waiting: &'a Waiting,
}

impl Lack<'_> {
    /// How many have to wait for a backing node that was not asked for, where so many were.
    fn lacking(&self, now: Timestamp, ordered: usize) -> usize {
        let open = self.standings.iter().filter(|s| s.backing.label == self.label.name && s.is_open(self.label, now));
        let room = open.map(|standing| standing.free().count()).sum::<usize>();
        let coming = ordered.saturating_mul(self.label.max_parallel_jobs);
        (self.waiting.seeking.len() + self.waiting.starting).saturating_sub(room + coming)
    }
}

/// Asks for backing nodes; where the launcher stops and no pool is left that could serve that, ends the launches.
fn supply(world: &World<'_>, plan: &mut Plan, lack: &Lack<'_>) {
    let &Lack { provider, label, ordered, .. } = lack;
    let key = (provider.clone(), label.name.clone());
    if label.max_parallel_jobs == 0 || world.holdings.busy_backing.contains(&key) {
        return;
    }
    let is_backed = world.records.pools.values().any(|pool| pool.supports(std::slice::from_ref(&label.backing_label)));
    if world.stopping && !is_backed {
        let reason = Reason::NoBacking { label: label.backing_label.clone() };
        for node in lack.waiting.seeking.iter().take(lack.lacking(world.now, ordered.served)) {
            if !world.holdings.busy_nodes.contains(node) {
                plan.decisions.push(Decision::StopSeeking { node: node.clone(), reason: reason.clone() });
            }
        }
        return;
    }
    let count = lack.lacking(world.now, ordered.open).div_ceil(label.max_parallel_jobs);
    if count == 0 {
        return;
    }
    if let Some(at) = world.holdings.backing_after.get(&key).filter(|at| **at > world.now) {
        plan.wake(*at);
        return;
    }
    plan.decisions.push(Decision::OrderBacking {
        provider: provider.clone(),
        label: label.name.clone(),
        backing: label.backing_label.clone(),
        count,
    });
}

/// Lets a backing node go on which nothing stands, once its time has come.
fn let_go(world: &World<'_>, plan: &mut Plan, provider: &ProviderName, config: &Metastatic, standing: &Standing) {
    let holdings = world.holdings;
    if !standing.taken.is_empty() || holdings.busy_nodes.contains(&standing.id) {
        return;
    }
    if let Some(at) = holdings.nodes_after.get(&standing.id).filter(|at| **at > world.now) {
        plan.wake(*at);
        return;
    }
    let label = config.any_label(&standing.backing.label);
    let since = holdings.idle_since.get(&standing.id).copied().unwrap_or(world.now);
    let (due, reason) = match label {
        None => (world.now, Reason::LabelRemoved),
        Some(_) if standing.backing.failed => (world.now, Reason::BackingFailed),
        Some(label) if standing.is_too_old(Some(label), world.now) => (world.now, Reason::BackingTooOld),
        Some(label) => {
            let kept = standing.backing.launched + label.min_retention_time.as_secs_f64();
            (kept.max(since + label.grace_time.as_secs_f64()), Reason::BackingIdle)
        }
    };
    if due > world.now {
        plan.wake(due);
        return;
    }
    plan.decisions.push(Decision::LetBackingGo { provider: provider.clone(), node: standing.id.clone(), reason });
}
