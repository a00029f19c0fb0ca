//! Upkeep: nodes to delete or free, lost requests, ages, `min-ready`, litter.
//!
//! Upstream's workers look every 5 or 60 seconds; here each change of the records leads here, and what time alone
//! changes sets [`Plan::wake_at`].

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use nodepool_common::{
    config::Pool,
    model::{Entry, LabelName, Node, NodeId, NodeRequest, NodeState, RecordError, RequestId, RequestState, guard},
};

use super::{
    Decision, Plan, PoolKey, Reason, World,
    index::{Index, hold_limit},
    serve::image_available,
};

/// The third part of planning.
pub fn upkeep(world: &World<'_>, index: &Index, plan: &mut Plan) {
    finish_min_ready(world, index, plan);
    if world.stopping {
        return;
    }
    free_nodes(world, index, plan);
    lost_requests(world, index, plan);
    request_locks(world, index, plan);
    create_min_ready(world, index, plan);
}

/// Nodes that nobody has locked, and of which something is to be done now: those that are not simply ready, in use or held, those
/// that have become too old or were held for long enough, and those that have gone.
pub fn free_nodes(world: &World<'_>, index: &Index, plan: &mut Plan) {
    let nodes = &index.nodes;
    let too_old = nodes.ages.iter().take_while(|(at, _)| at.0 <= world.now);
    let mut due: BTreeSet<&NodeId> = nodes.unsettled.iter().chain(too_old.map(|(_, id)| id)).collect();
    due.extend(world.providers.values().flat_map(|provider| provider.gone.keys()));
    plan.node_looks = due.len();
    // What a request gets in this very pass, or what makes room for one, has become too old a moment too late.
    for id in plan.disposed_of() {
        due.remove(id);
    }
    for id in due {
        if let Some(entry) = world.records.nodes.get(id)
            && !world.holdings.busy_nodes.contains(id)
            && !world.holdings.nodes.contains_key(id)
            && !entry.is_locked()
        {
            free_node(world, plan, id, entry);
        }
    }
    if let Some((at, _)) = nodes.ages.iter().find(|(at, _)| at.0 > world.now) {
        plan.wake(at.0);
    }
    // All nodes that are left alone for now: also those that a request may take, or that are to be taken away, afterwards.
    for at in world.holdings.nodes_after.values().filter_map(|at| world.pause_ends(Some(at))) {
        plan.wake(at);
    }
}

/// A node that nobody has locked.
fn free_node(world: &World<'_>, plan: &mut Plan, id: &NodeId, entry: &Entry<Node>) {
    if world.holdings.nodes_after.get(id).is_some_and(|at| *at > world.uptime) {
        return;
    }
    let free_for = world.now - entry.free_since.unwrap_or(world.now);
    let node = match &entry.record {
        Ok(node) => node,
        Err(RecordError::Empty) => {
            due(plan, world.now, free_for, world.timing.empty_node, Decision::RemoveRecord { node: id.clone() });
            return;
        }
        // Not ours to judge: a later version may know it.
        Err(_) => return,
    };
    let Some(provider) = &node.provider else {
        // Half deleted: locking a node that was just deleted leaves this.
        if node.state.is_doomed() {
            due(plan, world.now, free_for, world.timing.empty_node, Decision::RemoveRecord { node: id.clone() });
        }
        return;
    };
    if !world.config.providers.contains_key(provider) {
        return;
    }
    let age = world.now - entry.since(world.now).unwrap_or(world.now);
    match node.state {
        NodeState::Ready => match &node.allocated_to {
            Some(request) => allocated_node(world, plan, id, request, free_for),
            None => idle_node(world, plan, id, node, age),
        },
        NodeState::Hold => {
            if let Some(max) = hold_limit(world, node) {
                let reason = Reason::HeldTooLong { most: max };
                due(plan, world.now, age, max, Decision::Retire { node: id.clone(), reason });
            }
        }
        // Its maker died between two steps. A live one locks it within milliseconds.
        NodeState::Init => {
            let reason = Reason::LeftInInit;
            if !guard::is_removed("end of a node left in init") {
                due(plan, world.now, free_for, world.timing.orphan_node, Decision::Retire { node: id.clone(), reason });
            }
        }
        NodeState::Testing => {}
        // Somebody is between writing that and removing the record; if he died there, it is left to us.
        NodeState::Deleted => {
            due(plan, world.now, age, world.timing.empty_node, Decision::Delete { node: id.clone() });
        }
        // The cloud refused it, so nothing has to be deleted. Its record stays for a moment, for whoever looks why.
        NodeState::Aborted if node.external_id.is_none() => {
            if !guard::is_removed("end of an aborted node") {
                due(plan, world.now, age, world.timing.aborted_node, Decision::Delete { node: id.clone() });
            }
        }
        NodeState::Building
        | NodeState::InUse
        | NodeState::Used
        | NodeState::Deleting
        | NodeState::Failed
        | NodeState::Aborted => {
            // A cloud that has not started yet cannot delete; its start wakes us.
            if world.providers.contains_key(provider) {
                plan.decisions.push(Decision::Delete { node: id.clone() });
            }
        }
    }
}

/// A ready node that is allocated to a request, and that nobody has locked. Zuul locks those of a fulfilled request. Otherwise it
/// becomes free: its request is gone, or whoever served that has lost the node's lock and can neither hand it over nor give it
/// back, while it takes up the room that the request may wait for.
fn allocated_node(world: &World<'_>, plan: &mut Plan, id: &NodeId, request: &RequestId, free_for: f64) {
    let decision = Decision::Deallocate { node: id.clone(), request: request.clone() };
    match world.records.requests.get(request) {
        None if guard::is_removed("end of an allocation") => {}
        None => plan.decisions.push(decision),
        Some(entry) => {
            if entry.usable().is_some_and(|request| request.state != RequestState::Fulfilled)
                && !guard::is_removed("end of an allocation whose lock is lost")
            {
                due(plan, world.now, free_for, world.timing.orphan_node, decision);
            }
        }
    }
}

/// A ready node that nobody has: it goes when its server has gone, or when it is too old.
fn idle_node(world: &World<'_>, plan: &mut Plan, id: &NodeId, node: &Node, age: f64) {
    if let Some(why) = world.has_gone(node)
        && !guard::is_removed("end of a node whose server is gone")
    {
        let reason = Reason::Gone { why: why.clone() };
        plan.decisions.push(Decision::Retire { node: id.clone(), reason });
        return;
    }
    for label in node.labels.iter().filter_map(|l| world.config.labels.get(l)) {
        if let Some(max) = label.max_ready_age {
            let reason = Reason::TooOld { label: label.name.clone() };
            let is_kept = guard::is_removed("end of what is too old");
            if !is_kept && due(plan, world.now, age, max.as_secs_f64(), Decision::Retire { node: id.clone(), reason }) {
                return;
            }
        }
    }
}

/// Decides something once an age reaches its limit; asks to be woken then otherwise.
fn due(plan: &mut Plan, now: f64, age: f64, limit: f64, decision: Decision) -> bool {
    let is_due = age >= limit;
    if is_due {
        plan.decisions.push(decision);
    } else {
        plan.wake(now + limit - age);
    }
    is_due
}

/// Requests left pending by a launcher that is gone. Any launcher may put them back.
fn lost_requests(world: &World<'_>, index: &Index, plan: &mut Plan) {
    for id in &index.requests.lost {
        let Some(entry) = world.records.requests.get(id) else { continue };
        let pending = entry.usable().is_some_and(|request| request.state == RequestState::Pending);
        let holdings = world.holdings;
        if !pending || entry.is_locked() || holdings.busy_requests.contains(id) || holdings.requests.contains_key(id) {
            continue;
        }
        if let Some(at) = world.pause_ends(holdings.requests_after.get(id)) {
            plan.wake(at);
            continue;
        }
        let free_for = world.now - entry.free_since.unwrap_or(world.now);
        if !guard::is_removed("return of a lost request") {
            due(plan, world.now, free_for, world.timing.lost_request, Decision::ResetLost { request: id.clone() });
        }
    }
}

/// Lock directories outlive their requests, so that nobody removes one that is being used.
fn request_locks(world: &World<'_>, index: &Index, plan: &mut Plan) {
    for (ctime, id) in &index.requests.litter {
        #[allow(clippy::cast_precision_loss)] // milliseconds since the epoch
        let age = world.now - *ctime as f64 / 1000.0;
        if world.holdings.busy_requests.contains(id) || guard::is_removed("end of a request's lock directory") {
            continue;
        }
        if let Some(at) = world.pause_ends(world.holdings.requests_after.get(id)) {
            plan.wake(at);
            continue;
        }
        let remove = Decision::RemoveRequestLock { request: id.clone() };
        if !due(plan, world.now, age, world.timing.request_lock, remove) {
            // All others are younger.
            return;
        }
    }
}

/// Requests of ours for nodes in stock that are done.
fn finish_min_ready(world: &World<'_>, index: &Index, plan: &mut Plan) {
    for id in &index.requests.of_launchers {
        let Some(entry) = world.records.requests.get(id).filter(|entry| world.is_own(entry)) else { continue };
        let Some(request) = entry.usable() else { continue };
        if let Some(at) = world.pause_ends(world.holdings.requests_after.get(id)) {
            plan.wake(at);
            continue;
        }
        if matches!(request.state, RequestState::Fulfilled | RequestState::Failed)
            && !world.holdings.busy_requests.contains(id)
            && !world.holdings.requests.contains_key(id)
            && !guard::is_removed("end of a request for stock")
        {
            plan.decisions.push(Decision::FinishMinReady { request: id.clone() });
        }
    }
}

/// Keeps `min-ready` nodes of each label in stock, one request for each missing one, so that several providers share
/// them (`nodepool 11.0.0: launcher.py createMinReady`).
fn create_min_ready(world: &World<'_>, index: &Index, plan: &mut Plan) {
    let mut labels = world.config.labels.values().filter(|label| label.min_ready > 0).peekable();
    if labels.peek().is_none() {
        return;
    }
    let (gone, ordered) = (gone(world), ordered(world, index));
    let count_of = |counts: &BTreeMap<&LabelName, usize>, label| counts.get(label).copied().unwrap_or_default();
    for label in labels {
        if world.holdings.busy_labels.contains(&label.name) {
            continue;
        }
        if let Some(at) = world.pause_ends(world.holdings.min_ready_after.get(&label.name)) {
            plan.wake(at);
            continue;
        }
        let stock = index.nodes.stock(&label.name).saturating_sub(count_of(&gone, &label.name));
        let ordered = if guard::is_removed("count of what is ordered") { 0 } else { count_of(&ordered, &label.name) };
        let count = label.min_ready.saturating_sub(stock + ordered);
        if count > 0 && some_pool_can_serve(world, plan, &label.name) {
            plan.decisions.push(Decision::CreateMinReady { label: label.name.clone(), count });
        }
    }
}

/// How many nodes of each label count as stock and are of no use any more, whatever their provider.
fn gone<'a>(world: &World<'a>) -> BTreeMap<&'a LabelName, usize> {
    let gone = world.providers.values().flat_map(|provider| provider.gone.keys());
    let nodes = gone.filter_map(|id| world.records.nodes.get(id)?.usable());
    let is_stock = |node: &&Arc<Node>| node.state == NodeState::Ready && node.allocated_to.is_none();
    count(nodes.filter(is_stock).map(|node| node.labels.as_slice()))
}

/// How many nodes of each label somebody asked for to keep in stock. A request of ours that has failed counts until it is gone: by then
/// it is known how long not to ask again.
fn ordered<'a>(world: &World<'a>, index: &Index) -> BTreeMap<&'a LabelName, usize> {
    let requests = index.requests.of_launchers.iter().filter_map(|id| {
        let entry = world.records.requests.get(id)?;
        let counts = |request: &&Arc<NodeRequest>| request.state != RequestState::Failed || world.is_own(entry);
        entry.usable().filter(|request| request.is_min_ready()).filter(counts)
    });
    count(requests.map(|request| request.node_types.as_slice()))
}

/// How many of these have each label.
fn count<'a>(all: impl Iterator<Item = &'a [LabelName]>) -> BTreeMap<&'a LabelName, usize> {
    let mut counts = BTreeMap::new();
    for labels in all {
        for label in labels.iter().collect::<BTreeSet<_>>() {
            *counts.entry(label).or_default() += 1;
        }
    }
    counts
}

fn some_pool_can_serve(world: &World<'_>, plan: &mut Plan, label: &LabelName) -> bool {
    for state in world.pools {
        let key: &PoolKey = &state.key;
        // A static pool has what it has.
        let launches =
            |pool: &Pool| pool.hosts.is_none() && pool.labels.contains_key(label) && world.paused_by(key).is_none();
        let Some((_, pool)) = world.pool_config(key).filter(|(_, pool)| launches(pool)) else { continue };
        match image_available(world, key, pool, label) {
            Ok(true) => return true,
            Ok(false) => {}
            Err(want) => {
                plan.wants.insert(want);
            }
        }
    }
    false
}
