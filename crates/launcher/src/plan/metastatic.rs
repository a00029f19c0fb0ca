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
//! A launch that waits for a place is in [`Holdings::seeking`](super::Holdings) until it stands in the slot that it was given
//! ([`placing`](super::placing)), or is told that there will be none. What is asked for follows from those alone.

use std::collections::{BTreeMap, BTreeSet};

use nodepool_common::{
    config::{Driver, Metastatic, MetastaticLabel, Provider},
    model::{LabelName, Node, NodeId, ProviderName, RequestId, RequestState, Timestamp, metastatic_provider},
};

use super::{
    Decision, Plan, Reason, World,
    index::{Index, Nodes},
    keeper_of,
    placing::{Standing, Waiting, backing_nodes, end_unwanted, place, waiting},
};

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
    // What has a record and is not known to be ours yet may be one of these.
    if world.is_starting(provider) {
        return None;
    }
    let foreign = nodes.launched_by_others(&provider.name).find(|id| {
        let node = world.records.nodes.get(*id).and_then(|entry| entry.usable());
        node.is_some_and(|node| {
            node.labels.iter().any(|label| labels.contains(label)) && !is_for_another(world, provider, node)
        })
    });
    foreign.map(|id| Reason::StillPlacing { node: id.clone() })
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
    end_unwanted(world, plan);
    for provider in world.config.providers.values() {
        let Driver::Metastatic(config) = &provider.driver else { continue };
        let mut standings = backing_nodes(world, index, &provider.name);
        let mut waiting = waiting(world, &provider.name);
        for (label, waiting) in &mut waiting {
            if let Some(label) = config.any_label(label) {
                place(world, plan, &provider.name, label, &mut standings, waiting);
            }
        }
        plan.idle_backing.extend(standings.iter().filter(|s| s.taken.is_empty()).map(|standing| standing.id.clone()));
        if !world.providers.contains_key(&provider.name) {
            continue;
        }
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
            // What an error in the file leaves out has not gone.
            let is_left_out =
                provider.pools.iter().any(|pool| pool.broken_labels.contains_key(&standing.backing.label));
            if label.is_none() && is_left_out {
                continue;
            }
            if is_ours(world, provider, standing) && !(is_of_use && waiting.contains_key(&standing.backing.label)) {
                let (due, reason) = time_to_go(world, config, standing);
                let_go(world, plan, &provider.name, standing, due, reason);
            }
        }
    }
    let_unowned_go(world, index, plan);
}

/// Lets backing nodes go of metastatic providers that no launcher has, which have left the file. Those launchers do it that have
/// the provider of the backing node itself, and delete it.
fn let_unowned_go(world: &World<'_>, index: &Index, plan: &mut Plan) {
    let config = world.config;
    let is_deleted_by_us = |id: &NodeId| {
        let node = world.records.nodes.get(id).and_then(|entry| entry.usable());
        node.and_then(|node| node.provider.as_ref()).is_some_and(|provider| config.providers.contains_key(provider))
    };
    let is_unowned = |owner: &ProviderName| {
        !config.providers.contains_key(owner)
            && !config.broken_providers.contains(owner)
            && keeper_of(world.records, owner, &[]).is_none()
    };
    let owners = index.nodes.backing.values().filter_map(|backing| metastatic_provider(&backing.owner));
    let owners: BTreeSet<_> = owners.filter(is_unowned).collect();
    for owner in owners {
        let standings = backing_nodes(world, index, &owner);
        for standing in standings.iter().filter(|s| s.taken.is_empty() && is_deleted_by_us(&s.id)) {
            plan.idle_backing.insert(standing.id.clone());
            if !world.stopping {
                let due = idle_since(world, standing) + world.timing.unowned_backing;
                let_go(world, plan, &owner, standing, due, Reason::BackingUnowned { provider: owner.clone() });
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
            if let Some(at) = world.pause_ends(holdings.requests_after.get(id)) {
                plan.wake(at);
            } else if !holdings.busy_requests.contains(id)
                && (!is_done || !holdings.requests.contains_key(id))
                && !is_decided_about(plan, id)
            {
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

/// Whether something is done about a request already: one that is withdrawn may be served, or be about to be.
fn is_decided_about(plan: &Plan, request: &RequestId) -> bool {
    plan.decisions.iter().any(|decision| decision.subjects().0 == Some(request))
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
        // Whose requests are the last ones: for those before them there is room, or will be.
        for node in lack.waiting.seeking.iter().rev().take(lack.lacking(world.now, ordered.served)).rev() {
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
    if let Some(at) = world.pause_ends(world.holdings.backing_after.get(&key)) {
        plan.wake(at);
        return;
    }
    plan.decisions.push(Decision::OrderBacking {
        provider: provider.clone(),
        label: label.name.clone(),
        backing: label.backing_label.clone(),
        count,
    });
}

/// Since when nothing stands on a backing node.
fn idle_since(world: &World<'_>, standing: &Standing) -> Timestamp {
    world.holdings.idle_since.get(&standing.id).map_or(world.now, |since| world.wall(*since))
}

/// When a backing node on which nothing stands is to go, and why.
fn time_to_go(world: &World<'_>, config: &Metastatic, standing: &Standing) -> (Timestamp, Reason) {
    let Some(label) = config.any_label(&standing.backing.label) else { return (world.now, Reason::LabelRemoved) };
    if standing.backing.failed {
        return (world.now, Reason::BackingFailed);
    }
    if standing.is_too_old(label, world.now) {
        return (world.now, Reason::BackingTooOld);
    }
    let kept = standing.backing.launched + label.min_retention_time.as_secs_f64();
    (kept.max(idle_since(world, standing) + label.grace_time.as_secs_f64()), Reason::BackingIdle)
}

/// Lets a backing node go on which nothing stands, once its time has come.
fn let_go(
    world: &World<'_>,
    plan: &mut Plan,
    provider: &ProviderName,
    standing: &Standing,
    due: Timestamp,
    reason: Reason,
) {
    let holdings = world.holdings;
    if !standing.taken.is_empty() || holdings.busy_nodes.contains(&standing.id) {
        return;
    }
    let put_off = world.pause_ends(holdings.nodes_after.get(&standing.id));
    if let Some(at) = put_off.or((due > world.now).then_some(due)) {
        plan.wake(at);
        return;
    }
    plan.decisions.push(Decision::LetBackingGo { provider: provider.clone(), node: standing.id.clone(), reason });
}
