//! Deciding while the records are being read again after a broken connection, in a session that lives on
//! ([`World::renewing`]).
//!
//! The records are those of before the connection broke, with all that was written and seen since. What others did while it was
//! broken is missing, until the tree has been read. So two kinds of decisions are told apart:
//!
//! * **What a fence protects is decided.** Its action has a lock of our session, or takes it, and reads the record under it; each
//!   write is one `multi` that checks our contender, or the version that was looked at. Whatever is not as it was then, ZooKeeper
//!   refuses: nothing is done, nothing is given twice, and what the action has read is in the records.
//! * **What follows from what is not seen waits.** "I cannot see it" is not "it is gone", nor "there is room", nor "nobody else":
//!   no lock and no version of any record can tell that there is none that we have not read.
//!
//! | decision | protected by | what it would conclude from what it does not see |
//! |---|---|---|
//! | `Accept`, of what is in stock as a whole | request's lock or version; what is in stock is locked and read by `Supply` | |
//! | `Supply` with ready nodes | each node's lock, state and `allocated_to` read under it | |
//! | `Fulfil`, `PutBack`, `Forget`, `LetGo` | locks that we have | |
//! | `Delete` | the node's lock and version, its state read under it | |
//! | `Place` | the version of the lock that is kept of the backing node | |
//! | `Accept` of what has to be launched, `Supply` with launches | | that limits and quotas leave room: others' nodes |
//! | `Accept` for a tenant with limits | | the same |
//! | `Decline`, `GiveUp` | | that no image is there; that no other pool is registered, and the request has failed |
//! | `Retire` | | that its owner has not let it be held for longer; that room must be made |
//! | `Deallocate`, `ResetLost`, `RemoveRecord`, `RemoveRequestLock` | | that a request, or whoever held its lock, is gone |
//! | `CreateMinReady`, `FinishMinReady` | | that too few are in stock or asked for |
//! | `Attend` | | that a slot has no node |
//! | `OrderBacking`, `SettleBacking`, `StopSeeking`, `LetBackingGo` | | that nothing stands there, or will |
//!
//! Searches for leaks, the reckoning of what other users of a project take, statistics of the whole system and the builder, whose
//! decisions are all of the second kind, wait for [`Cache::ready`](nodepool_common::zk::Cache::ready). Elections and registrations
//! do not go by these records.
//!
//! When everything has been read, everything is looked at ([`News`](super::News) says so). So what requests wait for, and since
//! when, stays meanwhile as it was.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BinaryHeap},
};

use nodepool_common::{
    config::Pool,
    model::{LabelName, NodeId, NodeRequest, RequestId, guard},
};

use super::{
    Decision, Plan, PoolKey, PoolState, World,
    assign::left_to_others,
    index::{Class, Index},
    metastatic::{self, is_left_to_another},
    pass::Pass,
    serve::{Declining, decline_reason},
    upkeep,
};

/// What the stock has for a request in a pool.
enum InStock {
    /// All of it, which is set aside.
    All,
    /// Not all of it, or more urgent requests wait for that.
    NotAll,
    /// The request is not for this pool, or not now.
    NotHere,
}

/// Whether a decision is protected by what its action checks, whatever has happened that is not in the records. See the module.
pub fn is_fenced(decision: &Decision) -> bool {
    if guard::is_removed("wait for records that are renewed") {
        return true;
    }
    match decision {
        Decision::Accept { .. }
        | Decision::Fulfil { .. }
        | Decision::PutBack { .. }
        | Decision::Forget { .. }
        | Decision::LetGo { .. }
        | Decision::Delete { .. }
        | Decision::Place { .. } => true,
        Decision::Supply { launch, .. } => launch.is_empty(),
        Decision::Decline { .. }
        | Decision::GiveUp { .. }
        | Decision::Retire { .. }
        | Decision::Deallocate { .. }
        | Decision::ResetLost { .. }
        | Decision::RemoveRecord { .. }
        | Decision::RemoveRequestLock { .. }
        | Decision::CreateMinReady { .. }
        | Decision::FinishMinReady { .. }
        | Decision::Attend { .. }
        | Decision::OrderBacking { .. }
        | Decision::SettleBacking { .. }
        | Decision::StopSeeking { .. }
        | Decision::LetBackingGo { .. } => false,
    }
}

/// The rest of such a pass. Of what was decided, and is decided about nodes and places now, that is left which is protected.
pub fn only_fenced(world: &World<'_>, index: &Index, mut plan: Plan) -> Plan {
    if !world.stopping {
        upkeep::free_nodes(world, index, &mut plan);
    }
    metastatic::metastatic(world, index, &mut plan);
    plan.decisions.retain(is_fenced);
    Plan { decisions: plan.decisions, wake_at: plan.wake_at, ..Plan::default() }
}

impl Pass<'_> {
    /// Gives an accepted request all that it lacks out of the stock, or nothing. What it waits for then is not given to a later
    /// one.
    pub(super) fn supply_from_stock(
        &mut self,
        id: &RequestId,
        key: &PoolKey,
        pool: &Pool,
        request: &NodeRequest,
        missing: &[LabelName],
        zone: Option<String>,
    ) {
        if let Some(at) = self.world.pause_ends(self.world.holdings.requests_after.get(id)) {
            self.plan.wake(at);
        } else if let Some(reuse) = self.in_stock(key, pool, request, missing, zone) {
            let (pool, request) = (key.clone(), id.clone());
            self.plan.decisions.push(Decision::Supply { pool, request, reuse, launch: Vec::new() });
            return;
        }
        self.taken.press_for(key, missing);
    }

    /// Accepts the most urgent requests of those that can be served as a whole by nodes in stock. What is in stock for a more
    /// urgent one that needs more than that is kept for it: it is served when the records are complete.
    pub(super) fn assign_from_stock(&mut self) {
        let world = self.world;
        if world.stopping {
            return;
        }
        let index = self.index;
        let mut accepted = BTreeMap::new();
        for (state, provider, pool) in self.deciding_pools() {
            let key = &state.key;
            let is_candidate = |class: &Class| {
                let shape = &class.shape;
                shape.reuse
                    && !shape.is_min_ready
                    && !shape.declined_by.contains(&state.launcher_id)
                    && shape.labels.iter().any(|label| index.nodes.idle(key, Some(label)).next().is_some())
            };
            let classes = &index.requests.classes;
            let candidates = classes.iter().filter(|(_, class)| is_candidate(class));
            let mut queue: BinaryHeap<_> =
                candidates.filter_map(|(id, class)| Some(Reverse((class.first()?, *id)))).collect();
            while let Some(Reverse((rank, id))) = queue.pop() {
                let running = self.taken.running.get(&provider.name).copied().unwrap_or(0);
                if accepted.len() + world.holdings.accepting.len() >= world.timing.accepts_at_once
                    || provider.max_concurrency.is_some_and(|most| running >= most)
                {
                    break;
                }
                let Some(class) = classes.get(&id) else { continue };
                if let Some(at) = world.pause_ends(world.holdings.requests_after.get(&rank.id)) {
                    self.plan.wake(at);
                } else if !accepted.contains_key(&rank.id) {
                    match self.out_of_stock(state, pool, &rank.id) {
                        InStock::All => {}
                        // It is the same for others of its class.
                        InStock::NotHere => continue,
                        InStock::NotAll => {
                            self.taken.press_for(key, &class.shape.labels);
                            continue;
                        }
                    }
                    *self.taken.running.entry(provider.name.clone()).or_default() += class.shape.labels.len();
                    accepted.insert(rank.id.clone(), key.clone());
                }
                queue.extend(class.after(rank).map(|next| Reverse((next, id))));
            }
        }
        let mut order: Vec<_> = accepted.into_iter().collect();
        order.sort_by(|(a, _), (b, _)| world.order_of(a).cmp(&world.order_of(b)));
        self.plan.decisions.extend(order.into_iter().map(|(request, pool)| Decision::Accept { pool, request }));
    }

    /// What of a request a pool can serve out of the stock.
    fn out_of_stock(&mut self, state: &PoolState, pool: &Pool, id: &RequestId) -> InStock {
        let (world, key) = (self.world, &state.key);
        let Some(request) = world.records.requests.get(id).and_then(|entry| entry.usable()) else {
            return InStock::NotHere;
        };
        let is_for_another = world.pool_config(key).is_some_and(|(provider, _)| {
            is_left_to_another(world, &self.index.nodes, provider, &request.node_types).is_some()
        });
        if is_for_another
            || world.paused_by(key).is_some()
            || left_to_others(world, state, pool, request).is_some()
            || matches!(decline_reason(world, key, pool, request), Declining::Yes(_) | Declining::NotNow(_))
        {
            return InStock::NotHere;
        }
        // Whether its tenant may have more cannot be told from records that are not complete.
        let is_limited = request.tenant_name.as_ref().is_some_and(|t| world.config.tenant_limits.contains_key(t));
        if is_limited || self.in_stock(key, pool, request, &request.node_types, None).is_none() {
            return InStock::NotAll;
        }
        InStock::All
    }

    /// Ready nodes for all of these labels, which are set aside then, unless requests before this one wait for such.
    fn in_stock(
        &mut self,
        key: &PoolKey,
        pool: &Pool,
        request: &NodeRequest,
        missing: &[LabelName],
        zone: Option<String>,
    ) -> Option<Vec<(NodeId, LabelName)>> {
        let supply = self.supply_of_stock(key, pool, request, missing, zone)?;
        if self.is_in_the_way(key, &supply) {
            self.give_back(key, &supply);
            return None;
        }
        Some(supply.reuse)
    }
}
