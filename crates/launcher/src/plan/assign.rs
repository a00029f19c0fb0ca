//! Waiting requests: accept, decline, leave to others (`nodepool 11.0.0: launcher.py _assignHandlers`).
//!
//! Each of our pools looks at every request in its own order, and chooses as many as may be accepted at once
//! ([`Timing::accepts_at_once`](super::Timing)). Of what all of them have chosen the most urgent ones are accepted, so that a
//! burst in one pool is not in the way of another; the others have their turn in a later pass. One request is accepted by at most
//! one pool, and its declines by several of them are one write. What a pool accepts is reckoned at once against the budget, so that a
//! burst of requests is accepted until the first one that has to wait for quota: that one pauses the pool, and later
//! ones stay free for other launchers.
//!
//! Requests are looked at by class ([`index`](super::index)). What is free becomes less in the course of a pass, never more:
//! where a request has to wait for it, all behind it in its class have to, and are not looked at ([`Verdict::AllWait`]). Nor is
//! that class in later passes, until something has changed on which that rests ([`memory`](super::memory)).

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BinaryHeap, HashSet},
};

use nodepool_common::{
    config::{Pool, Provider},
    model::{LabelName, NodeRequest, RequestId},
};

use super::{
    Decision, PoolKey, PoolState, Reason, Waiting, World,
    decision::NewlyWaiting,
    grounds::Grounds,
    index::{Class, ClassId, Rank},
    memory::{Basis, ClassVerdict, Memory},
    metastatic::is_left_to_another,
    pass::Pass,
    serve::{Declining, Unknown, decline_reason, reason_unknown},
};

/// What a pool makes of a request.
enum Verdict {
    Accept,
    Decline(Reason),
    /// It waits; others of its class may not have to.
    Wait(Reason),
    /// It waits, and so do all that come after it in its class.
    AllWait(ClassVerdict),
}

/// All of a class wait, for this reason, whatever is used.
fn all_wait(reason: Reason) -> Verdict {
    Verdict::AllWait(ClassVerdict::wait(reason, Basis::None))
}

/// What requests are looked at in, by one pool: those that it can serve first, then by their rank.
type Queue<'a> = BinaryHeap<Reverse<(usize, &'a Rank, ClassId)>>;

/// Declines by request.
type Declines = BTreeMap<RequestId, Vec<(PoolKey, Reason)>>;

impl<'a> Pass<'a> {
    /// The second part of planning: requests that nobody has accepted.
    pub fn assign(&mut self) {
        let world = self.world;
        if world.stopping {
            self.memories.retain(|_| false);
            return;
        }
        let mut declines = Declines::new();
        let mut accepted = BTreeMap::new();
        let pools = self.deciding_pools();
        let deciding: HashSet<_> = pools.iter().map(|(state, ..)| &state.key).collect();
        self.memories.retain(|key| deciding.contains(key));
        for (state, provider, pool) in pools {
            self.taken.accepts = world.holdings.accepting.len();
            let mut memory = self.memories.take(&state.key);
            self.assign_in(&mut memory, state, provider, pool, &mut accepted, &mut declines);
            for verdict in memory.asking() {
                self.repeat(&state.key, verdict);
            }
            if memory.waits_for_the_cloud() {
                self.plan.pools_waited_for.insert(state.key.clone());
            }
            self.memories.keep(&state.key, memory);
        }
        let most = world.timing.accepts_at_once.saturating_sub(world.holdings.accepting.len());
        if accepted.len() > most {
            // What is chosen and has its turn later keeps its room for the rest of the pass. Nothing is declined for want of that.
            let plan = &mut self.plan;
            declines.retain(|request, pools| {
                pools.retain(|(pool, reason)| {
                    let is_for_room = matches!(reason, Reason::AtCapacity { .. } | Reason::NoneFree { .. });
                    if is_for_room {
                        plan.wait(request, pool, Waiting { reason: Reason::TurnToCome, paused: false });
                    }
                    !is_for_room
                });
                !pools.is_empty()
            });
        }
        self.give_up_on_the_orphaned(&mut declines);
        // In the order of the requests.
        let mut order: Vec<_> = accepted.into_iter().collect();
        order.sort_by(|(a, _), (b, _)| world.order_of(a).cmp(&world.order_of(b)));
        for (request, pool) in order.split_off(most.min(order.len())) {
            self.plan.wait(&request, &pool, Waiting { reason: Reason::TurnToCome, paused: false });
        }
        self.plan.decisions.extend(order.into_iter().map(|(request, pool)| Decision::Accept { pool, request }));
        // One of ours that is about to be seen may be able to serve what the others decline, and keeps it from failing.
        if !world.pools.iter().all(|state| self.registered.contains(&state.launcher_id)) {
            for (request, pools) in declines {
                for (pool, reason) in pools {
                    self.plan.wait(&request, &pool, Waiting { reason, paused: false });
                }
            }
            return;
        }
        self.plan.decisions.extend(declines.into_iter().map(|(request, pools)| Decision::Decline { request, pools }));
    }

    /// Our pools that may take on work, those first that are to be asked first.
    pub(super) fn deciding_pools(&self) -> Vec<(&'a PoolState, &'a Provider, &'a Pool)> {
        let world = self.world;
        let configured = |state: &'a PoolState| {
            let (provider, pool) = world.pool_config(&state.key)?;
            Some((state, provider, pool))
        };
        // A pool whose component others do not see yet must not decide: its declines would not count.
        let mut pools: Vec<_> = world
            .pools
            .iter()
            .filter_map(configured)
            .filter(|(state, provider, _)| {
                provider.max_concurrency != Some(0) && self.registered.contains(&state.launcher_id)
            })
            .collect();
        pools.sort_by_key(|(_, _, pool)| pool.priority);
        pools
    }

    /// What one pool makes of them.
    fn assign_in(
        &mut self,
        memory: &mut Memory,
        state: &PoolState,
        provider: &Provider,
        pool: &Pool,
        accepted: &mut BTreeMap<RequestId, PoolKey>,
        declines: &mut Declines,
    ) {
        let (key, classes) = (&state.key, &self.index.requests.classes);
        let max_concurrency = provider.max_concurrency;
        let mut grounds = self.grounds_of(key);
        let some = memory.begin(grounds.as_ref(), self.world, &self.renewed);
        let began_with_all = some.is_none();
        let mut queue = Queue::new();
        let place = |id: &ClassId| {
            let class = classes.get(id).filter(|class| !class.shape.declined_by.contains(&state.launcher_id))?;
            Some(Reverse((missing(pool, class), class.first()?, *id)))
        };
        match &some {
            None => queue.extend(classes.keys().filter_map(place)),
            Some(some) => queue.extend(some.iter().filter_map(place)),
        }
        let mut has_accepted = false;
        while let Some(Reverse((missing, rank, id))) = queue.pop() {
            let Some(class) = classes.get(&id) else { continue };
            memory.look(id);
            match self.look_at(accepted, state, pool, max_concurrency, id, &rank.id) {
                None => {}
                Some(Verdict::Accept) => {
                    // In case that its turn does not come in this pass.
                    self.leave_class(memory, id, rank, key);
                    *self.taken.running.entry(provider.name.clone()).or_default() += class.shape.labels.len();
                    self.taken.accepts += 1;
                    declines.remove(&rank.id);
                    accepted.insert(rank.id.clone(), key.clone());
                    has_accepted = true;
                    // Pools after this one have less of it to look at.
                    self.renewed.insert(id);
                    if !began_with_all {
                        // What comes after it still waits, but maybe for another reason, which this one has brought about.
                        let kept: Vec<_> = memory.resting_on(self.basis_of_change(key, max_concurrency)).collect();
                        for place in kept.iter().filter_map(place) {
                            let Reverse((its_missing, first, its_id)) = place;
                            if its_id != id && (its_missing, first) > (missing, rank) {
                                memory.reopen(its_id);
                                queue.push(place);
                            }
                        }
                    }
                }
                Some(Verdict::Decline(reason)) => {
                    // In case that the decline is put off, and it waits for that.
                    self.leave_class(memory, id, rank, key);
                    declines.entry(rank.id.clone()).or_default().push((key.clone(), reason));
                }
                Some(Verdict::AllWait(verdict)) if !self.one_by_one => {
                    let (reason, is_first) = (verdict.reason.clone(), class.first() == Some(rank));
                    if memory.wait(id, rank.clone(), verdict, is_first, self.world.now) {
                        self.plan.newly_waiting.push(NewlyWaiting {
                            pool: key.clone(),
                            request: rank.id.clone(),
                            are_others: true,
                            waiting: Waiting { reason, paused: false },
                            was_paused: false,
                        });
                    }
                    continue;
                }
                Some(Verdict::AllWait(verdict)) => {
                    self.repeat(key, &verdict);
                    self.plan.wait(&rank.id, key, Waiting { reason: verdict.reason, paused: false });
                }
                Some(Verdict::Wait(reason)) => {
                    self.leave_class(memory, id, rank, key);
                    self.plan.wait(&rank.id, key, Waiting { reason, paused: false });
                }
            }
            if let Some(next) = class.after(rank) {
                queue.push(Reverse((missing, next, id)));
            }
        }
        let until = Grounds::until(self.world, self.common, key);
        if has_accepted {
            // What else has become less than it was for verdicts that were made before that?
            grounds = self.grounds_of(key).filter(|now| grounds.is_some_and(|began| now.has_in_common_with(&began)));
        }
        memory.end(grounds, has_accepted, began_with_all, until);
    }

    /// What a pool's verdicts rest on at this point of the pass; `None`: each is to be made again in the next one.
    fn grounds_of(&mut self, key: &PoolKey) -> Option<Grounds> {
        if self.one_by_one {
            return None;
        }
        Grounds::now(self.world, &self.index.nodes, &self.budget, &self.taken, self.common, key)
    }

    /// Which verdicts have to be made again once a pool has accepted a request: those that rest on this, or on more. There is no
    /// more room than before, so those for which there was too little hold; where something else has become less, none does.
    fn basis_of_change(&self, key: &PoolKey, max_concurrency: Option<usize>) -> Basis {
        let has_less_else = max_concurrency.is_some()
            || self.budget.has_promised_tenants()
            || self.taken.has_any_of(key)
            || self.taken.is_accepting_most();
        if has_less_else { Basis::None } else { Basis::All }
    }

    /// Remembers what a request waited for as part of its class before it was looked at by itself.
    fn leave_class(&mut self, memory: &Memory, class: ClassId, rank: &Rank, key: &PoolKey) {
        if let Some(before) = memory.before(class, rank) {
            let class = self.index.requests.classes.get(&class);
            let came = class.and_then(|class| class.since(rank)).unwrap_or(before.since);
            let was = self.waits.left().of_class(&rank.id, key, before, came);
            self.waits.leave(&rank.id, key, was, self.world.now);
        }
    }

    /// What every plan says again as long as a class waits: what has to be found out, who is starved, and whether a tenant
    /// has all that it may.
    fn repeat(&mut self, pool: &PoolKey, verdict: &ClassVerdict) {
        self.plan.wants.extend(verdict.wants.iter().cloned());
        if verdict.is_starved {
            self.plan.starved.insert(pool.provider.clone());
        }
        self.plan.is_tenant_full |= matches!(verdict.reason, Reason::TenantFull { .. });
    }

    /// What a pool makes of the next request of a class; `None` where it is not to look at it.
    fn look_at(
        &mut self,
        accepted: &BTreeMap<RequestId, PoolKey>,
        state: &PoolState,
        pool: &Pool,
        max_concurrency: Option<usize>,
        class: ClassId,
        id: &RequestId,
    ) -> Option<Verdict> {
        let world = self.world;
        self.plan.looks += 1;
        let request = world.records.requests.get(id)?.usable()?;
        if accepted.contains_key(id) {
            return None;
        }
        if let Some(at) = world.pause_ends(world.holdings.requests_after.get(id)) {
            self.plan.wake(at);
            return None;
        }
        let is_left = || left_to_others(world, state, pool, request);
        let left = self.left.entry((class, state.key.clone())).or_insert_with(is_left);
        if let Some(reason) = left {
            return Some(all_wait(reason.clone()));
        }
        Some(self.judge(state, pool, request, max_concurrency))
    }

    /// Requests that every pool which is left has declined already: a pool that had not is gone, and nobody else would fail
    /// them. Not at once: it may be coming back. All of a class have been declined by the same pools.
    fn give_up_on_the_orphaned(&mut self, declines: &mut Declines) {
        let world = self.world;
        let registered = &self.registered;
        if world.pools.is_empty() || registered.is_empty() {
            return;
        }
        let is_orphaned = |class: &&Class| registered.iter().all(|pool| class.shape.declined_by.contains(*pool));
        for id in self.index.requests.classes.values().filter(is_orphaned).flat_map(Class::ranks) {
            self.plan.looks += 1;
            let id = &id.id;
            let Some(entry) = world.records.requests.get(id).filter(|entry| !entry.is_locked()) else { continue };
            if world.holdings.busy_requests.contains(id) {
                continue;
            }
            let until = entry.free_since.unwrap_or(world.now) + world.timing.orphaned_request;
            if until > world.now {
                self.plan.wake(until);
            } else {
                declines.entry(id.clone()).or_default();
            }
        }
    }

    fn judge(
        &mut self,
        state: &PoolState,
        pool: &Pool,
        request: &NodeRequest,
        max_concurrency: Option<usize>,
    ) -> Verdict {
        let world = self.world;
        let key = &state.key;
        let lacks_labels = request.node_types.iter().any(|label| !pool.labels.contains_key(label));
        if lacks_labels {
            // Nobody has its labels. The one who does may be starting again at this moment, so it is not failed at once.
            let seen = world.records.requests.get(&request.id).and_then(|entry| entry.free_since).unwrap_or(world.now);
            let until = seen + world.timing.decline;
            if until > world.now {
                self.plan.wake(until);
                return Verdict::Wait(Reason::NobodyHasLabels { until });
            }
        }
        // What it could not serve anyway it declines, so that such a request does not wait for it.
        if !lacks_labels
            && !pool.disabled
            && let Some(by) = world.paused_by(key)
        {
            return all_wait(Reason::Paused(by));
        }
        if let Some(tenant) = &request.tenant_name {
            let known: Vec<LabelName> =
                request.node_types.iter().filter(|l| pool.labels.contains_key(*l)).cloned().collect();
            match self.budget.beyond_tenant(world, key, tenant, &known) {
                Ok(None) => {}
                Ok(Some(excess)) => return all_wait(Reason::TenantFull { tenant: tenant.clone(), excess }),
                Err(want) => {
                    let reason = reason_unknown(world, key, &want);
                    return Verdict::AllWait(ClassVerdict {
                        wants: vec![want],
                        ..ClassVerdict::wait(reason, Basis::None)
                    });
                }
            }
        }
        match decline_reason(world, key, pool, request) {
            Declining::Yes(reason) => return Verdict::Decline(reason),
            Declining::NotNow(reason) if request.is_min_ready() => return Verdict::Decline(reason),
            Declining::NotNow(reason) => {
                return Verdict::AllWait(ClassVerdict { is_starved: true, ..ClassVerdict::wait(reason, Basis::None) });
            }
            // What is in stock needs no answer of a cloud.
            Declining::Unknown(unknown) if !self.is_in_stock(key, pool, request, &request.node_types, None) => {
                let Unknown { first, others, is_by_age } = unknown;
                let reason = reason_unknown(world, key, &first);
                let wants = std::iter::once(first).chain(others);
                // An image is asked for again for requests that are newer than the last answer: others are declined.
                if is_by_age {
                    self.plan.wants.extend(wants);
                    return Verdict::Wait(reason);
                }
                return Verdict::AllWait(ClassVerdict {
                    wants: wants.collect(),
                    ..ClassVerdict::wait(reason, Basis::None)
                });
            }
            Declining::No | Declining::Unknown(_) => {}
        }
        if let Some(reason) = world
            .pool_config(key)
            .and_then(|(provider, _)| is_left_to_another(world, &self.index.nodes, provider, &request.node_types))
        {
            // Where that one could not, nobody can.
            return match reason {
                Reason::LeftToKeeper { keeper } if request.declined_by.contains(&keeper) => {
                    Verdict::Decline(Reason::DeclinedByKeeper { keeper })
                }
                reason => all_wait(reason),
            };
        }
        let running = self.taken.running.get(&key.provider).copied().unwrap_or(0);
        if let Some(most) = max_concurrency
            && running >= most
        {
            return all_wait(Reason::MaxConcurrency { running, most });
        }
        if self.taken.is_accepting_most() {
            return all_wait(Reason::TurnToCome);
        }
        let outcome = self.supply(key, pool, request, &request.node_types, None);
        // All nodes of a request are in one zone, which is drawn by its number: another may find idle ones in its own.
        let is_by_zone = request.reuse
            && request.node_types.len() > 1
            && request.node_types.iter().any(|label| self.index.nodes.idle(key, Some(label)).next().is_some());
        let wait = |reason, basis| {
            if is_by_zone { Verdict::Wait(reason) } else { Verdict::AllWait(ClassVerdict::wait(reason, basis)) }
        };
        if let Some(want) = &outcome.unknown {
            let reason = reason_unknown(world, key, want);
            self.give_back(key, &outcome);
            if is_by_zone {
                self.plan.wants.insert(want.clone());
                return Verdict::Wait(reason);
            }
            return Verdict::AllWait(ClassVerdict {
                wants: vec![want.clone()],
                ..ClassVerdict::wait(reason, Basis::All)
            });
        }
        if pool.hosts.is_some() {
            // Nothing can be launched, and nothing pauses: what is free is shared among all launchers and requests.
            if let Some(shortage) = &outcome.shortage {
                let reason = shortage.reason.clone();
                self.give_back(key, &outcome);
                return if request.is_min_ready() { Verdict::Decline(reason) } else { wait(reason, Basis::None) };
            }
        } else if self.taken.is_paused(key) {
            // The pool is paused. A request that can be served at once, and takes nothing of what the paused ones wait
            // for, does not make them wait longer.
            if outcome.shortage.is_some() || self.is_in_the_way(key, &outcome) {
                self.give_back(key, &outcome);
                let reason = Reason::BehindOthers { is_accepted: false };
                // A request for stock waits only while the pool is paused, so that it matters who else waits, too.
                let is_short = outcome.shortage.is_some() && !request.is_min_ready();
                let basis = if is_short { Basis::Room } else { Basis::All };
                // This verdict is about an idle node: for the next of the class a node might have to be launched.
                return if outcome.reuse.is_empty() { wait(reason, basis) } else { Verdict::Wait(reason) };
            }
        } else if let Some(shortage) = &outcome.shortage {
            if request.is_min_ready() {
                let reason = Reason::AtCapacity { of: Box::new(shortage.reason.clone()) };
                self.give_back(key, &outcome);
                return Verdict::Decline(reason);
            }
            // A pool accepts at most one request that it has no room for. It keeps that until there is room, and is paused
            // meanwhile; later ones stay free for other launchers. Whether it has one is not clear while actions are at it.
            if self.taken.in_motion.contains(key) {
                self.give_back(key, &outcome);
                return wait(Reason::BehindOthers { is_accepted: false }, Basis::Room);
            }
            self.taken.press(key, shortage, &request.node_types);
        }
        if let Some(tenant) = &request.tenant_name {
            self.budget.take_for_tenant(world, key, tenant, &request.node_types);
        }
        Verdict::Accept
    }
}

/// Whether a pool leaves requests like this one to others, and why.
pub(super) fn left_to_others(
    world: &World<'_>,
    state: &PoolState,
    pool: &Pool,
    request: &NodeRequest,
) -> Option<Reason> {
    // Other pools that could serve it, by what they say of themselves.
    let candidates = || world.records.pools_that_may_serve(request);
    if let Some(wanted) = &request.provider
        && *wanted != state.key.provider
        && candidates().any(|other| other.provider_name.as_ref() == Some(wanted))
    {
        return Some(Reason::LeftToProvider { provider: wanted.clone() });
    }
    if let Some(better) = candidates().find(|other| other.priority < pool.priority && !other.paused)
        && let Some(pool) = better.id.clone()
    {
        return Some(Reason::LeftToPriority { pool });
    }
    let lacks_labels = request.node_types.iter().any(|label| !pool.labels.contains_key(label));
    (lacks_labels && candidates().next().is_some()).then_some(Reason::LeftToPoolsWithLabels)
}

/// How many labels of a class a pool lacks.
fn missing(pool: &Pool, class: &Class) -> usize {
    let mut missing: Vec<_> = class.shape.labels.iter().filter(|l| !pool.labels.contains_key(*l)).collect();
    missing.sort();
    missing.dedup();
    missing.len()
}
