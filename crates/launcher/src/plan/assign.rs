//! Waiting requests: accept, decline, leave to others (`nodepool 11.0.0: launcher.py _assignHandlers`).
//!
//! Each of our pools looks at every request in its own order. One request is accepted by at most one of them, and its
//! declines by several of them are one write. What a pool accepts is reckoned at once against the budget, so that a
//! burst of requests is accepted until the first one that has to wait for quota: that one pauses the pool, and later
//! ones stay free for other launchers.

use std::collections::BTreeMap;

use nodepool_common::{
    config::Pool,
    model::{LabelName, NodeRequest, RequestId, RequestState},
};

use super::{
    Decision, PoolKey, PoolState, Waiting, World,
    budget::Fit,
    metastatic::is_left_to_another,
    pass::Pass,
    serve::{Declining, decline_reason, order_of, unknown},
};

/// What a pool makes of a request.
enum Verdict {
    Accept,
    Decline(String),
    Wait(String),
}

/// Declines by request.
type Declines = BTreeMap<RequestId, Vec<(PoolKey, String)>>;

impl Pass<'_> {
    /// The second part of planning: requests that nobody has accepted.
    pub fn assign(&mut self) {
        let world = self.world;
        if world.stopping {
            return;
        }
        let mut declines = Declines::new();
        let mut accepted: BTreeMap<RequestId, PoolKey> = BTreeMap::new();
        let mut pools: Vec<_> = world
            .pools
            .iter()
            .filter_map(|state| world.pool_config(&state.key).map(|(provider, pool)| (state, provider, pool)))
            .filter(|(state, provider, _)| {
                // A pool whose component others do not see yet must not decide: its declines would not count.
                provider.max_concurrency != Some(0)
                    && world.records.registered_pool_ids().any(|id| *id == state.launcher_id)
            })
            .collect();
        pools.sort_by_key(|(_, _, pool)| pool.priority);
        for (state, provider, pool) in pools {
            for request in in_order(world, pool) {
                if accepted.contains_key(&request.id) || !self.is_open(request, state) {
                    continue;
                }
                match self.judge(state, pool, request, provider.max_concurrency) {
                    Verdict::Accept => {
                        *self.taken.running.entry(provider.name.clone()).or_default() += request.node_types.len();
                        declines.remove(&request.id);
                        accepted.insert(request.id.clone(), state.key.clone());
                    }
                    Verdict::Decline(reason) => {
                        declines.entry(request.id.clone()).or_default().push((state.key.clone(), reason));
                    }
                    Verdict::Wait(reason) => self.plan.wait(&request.id, &state.key, Waiting { reason, paused: false }),
                }
            }
        }
        self.give_up_on_the_orphaned(&mut declines);
        // In the order of the requests.
        let mut order: Vec<_> = accepted.into_iter().collect();
        order.sort_by(|(a, _), (b, _)| order_of(world, a).cmp(&order_of(world, b)));
        self.plan.decisions.extend(order.into_iter().map(|(request, pool)| Decision::Accept { pool, request }));
        // One of ours that is about to be seen may be able to serve what the others decline, and keeps it from failing.
        let all_are_seen =
            world.pools.iter().all(|state| world.records.registered_pool_ids().any(|id| *id == state.launcher_id));
        if !all_are_seen {
            return;
        }
        self.plan.decisions.extend(declines.into_iter().map(|(request, pools)| Decision::Decline { request, pools }));
    }

    /// Requests that every pool which is left has declined already: a pool that had not is gone, and nobody else would fail
    /// them. Not at once: it may be coming back.
    fn give_up_on_the_orphaned(&mut self, declines: &mut Declines) {
        let world = self.world;
        if world.pools.is_empty() {
            return;
        }
        for (id, entry) in &world.records.requests {
            let Some(request) = entry.usable().filter(|request| request.state == RequestState::Requested) else {
                continue;
            };
            let mut registered = world.records.registered_pool_ids().peekable();
            if request.declined_by.is_empty()
                || entry.is_locked()
                || world.holdings.busy_requests.contains(id)
                || registered.peek().is_none()
                || !registered.all(|pool| request.declined_by.contains(pool))
            {
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

    /// Whether a pool may look at a request at all.
    fn is_open(&mut self, request: &NodeRequest, state: &PoolState) -> bool {
        let world = self.world;
        let holdings = world.holdings;
        if let Some(at) = holdings.requests_after.get(&request.id).filter(|at| **at > world.now) {
            self.plan.wake(*at);
            return false;
        }
        !request.declined_by.contains(&state.launcher_id)
            && !holdings.busy_requests.contains(&request.id)
            && !holdings.requests.contains_key(&request.id)
            && world.records.requests.get(&request.id).is_none_or(|entry| !entry.is_locked())
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
        // Other pools that could serve it, by what they say of themselves.
        let candidates = || world.records.pools_that_may_serve(request);
        if let Some(wanted) = &request.provider
            && *wanted != key.provider
            && candidates().any(|other| other.provider_name.as_ref() == Some(wanted))
        {
            return Verdict::Wait(format!("left to provider {wanted}, which the request prefers"));
        }
        if let Some(better) = candidates().find(|other| other.priority < pool.priority && !other.paused) {
            return Verdict::Wait(format!(
                "left to a pool of higher priority: {}",
                better.id.as_ref().map_or("?", |id| id.as_str())
            ));
        }
        let lacks_labels = request.node_types.iter().any(|label| !pool.labels.contains_key(label));
        if lacks_labels {
            if candidates().next().is_some() {
                return Verdict::Wait("left to pools that have its labels".to_owned());
            }
            // Nobody has its labels. The one who does may be starting again at this moment, so it is not failed at once.
            let seen = world.records.requests.get(&request.id).and_then(|entry| entry.free_since).unwrap_or(world.now);
            let until = seen + world.timing.decline;
            if until > world.now {
                self.plan.wake(until);
                return Verdict::Wait("no pool has its labels; declined unless one comes".to_owned());
            }
        }
        if let Some(tenant) = &request.tenant_name {
            let known: Vec<LabelName> =
                request.node_types.iter().filter(|l| pool.labels.contains_key(*l)).cloned().collect();
            match self.budget.tenant_fits(world, key, tenant, &known) {
                Fit::Yes => {}
                Fit::No { reason, .. } => return Verdict::Wait(format!("tenant {tenant}: it {reason}")),
                Fit::Unknown(want) => {
                    let waiting = unknown(world, key, &want);
                    self.plan.wants.insert(want);
                    return Verdict::Wait(waiting.reason);
                }
                Fit::NotNow(reason) | Fit::Broken(reason) => return Verdict::Wait(reason),
            }
        }
        match decline_reason(world, key, pool, request) {
            Declining::Yes(reason) => return Verdict::Decline(reason),
            Declining::NotNow(reason) if request.is_min_ready() => return Verdict::Decline(reason),
            Declining::NotNow(reason) => {
                self.plan.starved.insert(key.provider.clone());
                return Verdict::Wait(reason);
            }
            Declining::Unknown(want) => {
                let waiting = unknown(world, key, &want);
                self.plan.wants.insert(want);
                return Verdict::Wait(waiting.reason);
            }
            Declining::No => {}
        }
        if let Some((reason, keeper)) =
            world.pool_config(key).and_then(|(provider, _)| is_left_to_another(world, provider, &request.node_types))
        {
            // Where that one could not, nobody can.
            return match keeper.filter(|keeper| request.declined_by.contains(keeper)) {
                Some(keeper) => {
                    Verdict::Decline(format!("declined by {keeper}, which places the nodes of this provider"))
                }
                None => Verdict::Wait(reason),
            };
        }
        let running = self.taken.running.get(&key.provider).copied().unwrap_or(0);
        if let Some(most) = max_concurrency
            && running >= most
        {
            return Verdict::Wait(format!("{running} launches are running, of max-concurrency {most}"));
        }
        let outcome = self.supply(key, pool, request, &request.node_types, None);
        if let Some(want) = &outcome.unknown {
            let waiting = unknown(world, key, want);
            self.plan.wants.insert(want.clone());
            self.give_back(key, &outcome);
            return Verdict::Wait(waiting.reason);
        }
        if pool.hosts.is_some() {
            // Nothing can be launched, and nothing pauses: what is free is shared among all launchers and requests.
            if let Some(shortage) = &outcome.shortage {
                let reason = shortage.reason.clone();
                self.give_back(key, &outcome);
                return if request.is_min_ready() { Verdict::Decline(reason) } else { Verdict::Wait(reason) };
            }
        } else if self.taken.is_paused(key) {
            // The pool is paused. A request that can be served at once, and takes nothing of what the paused ones wait
            // for, does not make them wait longer.
            if outcome.shortage.is_some() || self.is_in_the_way(key, &outcome) {
                self.give_back(key, &outcome);
                return Verdict::Wait("the pool is paused: requests before it wait for quota".to_owned());
            }
        } else if let Some(shortage) = &outcome.shortage {
            if request.is_min_ready() {
                let reason = format!("at capacity: {}", shortage.reason);
                self.give_back(key, &outcome);
                return Verdict::Decline(reason);
            }
            // One request may wait in the pool; the others stay free for other launchers. Whether there is one is not
            // clear while actions are at it.
            if self.taken.in_motion.contains(key) {
                self.give_back(key, &outcome);
                return Verdict::Wait("requests before it are being served".to_owned());
            }
            self.taken.press(key, shortage, &request.node_types);
        }
        if let Some(tenant) = &request.tenant_name {
            self.budget.take_for_tenant(world, key, tenant, &request.node_types);
        }
        Verdict::Accept
    }
}

/// The requests in the order in which this pool looks at them: those it can serve first.
fn in_order<'a>(world: &World<'a>, pool: &Pool) -> Vec<&'a NodeRequest> {
    let mut requests: Vec<_> = world
        .records
        .requests
        .values()
        .filter_map(|entry| entry.usable())
        .map(AsRef::as_ref)
        .filter(|request: &&NodeRequest| request.state == RequestState::Requested)
        .collect();
    requests.sort_by_cached_key(|request| {
        let mut missing: Vec<_> = request.node_types.iter().filter(|l| !pool.labels.contains_key(*l)).collect();
        missing.sort();
        missing.dedup();
        (missing.len(), request.id.priority(), request.relative_priority, request.id.sequence())
    });
    requests
}
