//! What would become of a request that nobody has made: whether a label can be served now.
//!
//! The planner is asked, a new one that has seen nothing: it decides the same as the launcher's own, and remembers nothing of it.
//! It is shown the world as it is, with one more request for each pool that all other pools have declined: so each pool says what
//! it would do by itself. Where it would accept the request, the planner is asked a second time, with the request accepted: then
//! it says whether there is a node, whether one would be launched, or what that would have to wait for. Nothing of what it
//! decides is done.
//!
//! What such a planner costs grows with all that is on record, as a first pass does (0.6 s with 100,000 nodes).

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use nodepool_common::model::{
    Entry, LabelName, LauncherId, NodeRequest, Records, RequestId, RequestState, Stat, Timestamp,
};

use crate::plan::{
    Decision, HeldRequest, Holdings, News, Plan, Planner, PoolKey, PoolState, Reason, Timing, Want, World,
};

/// What a pool would do with a request.
#[derive(Clone, Debug, PartialEq)]
pub enum Outlook {
    /// Serve it with ready nodes.
    HasReady,
    /// Launch nodes for it at once.
    WouldLaunch,
    /// Let it wait.
    Waits(Reason),
    /// Decline it.
    Declines(Reason),
    /// It decides nothing: it is not registered, has `max-concurrency: 0`, or the launcher is stopping.
    Undecided,
}

/// A request for a node of a label, as Zuul makes them.
pub fn for_one(label: &LabelName, now: Timestamp) -> NodeRequest {
    NodeRequest { reuse: true, requestor: None, ..NodeRequest::min_ready(label, String::new(), now) }
}

/// What pools would do with a request.
#[derive(Debug, Default)]
pub struct Outlooks {
    /// Each of them.
    pub of_pools: BTreeMap<PoolKey, Outlook>,
    /// What clouds have to be asked, so that more can be said.
    pub wants: BTreeSet<Want>,
}

/// What each of these pools would do with such a request that came now, of Zuul's normal precedence.
pub fn outlook(world: &World<'_>, request: &NodeRequest, pools: &[PoolState]) -> Outlooks {
    let mut left: Vec<&PoolState> = pools.iter().collect();
    let mut found = Outlooks::default();
    while !left.is_empty() {
        // Pools of one provider share its quota: each is asked as if the others had not been.
        let mut providers = BTreeSet::new();
        let (round, later): (Vec<_>, _) = left.into_iter().partition(|state| providers.insert(&state.key.provider));
        ask(world, request, &round, &mut found);
        left = later;
    }
    found
}

/// Asks pools of different providers.
fn ask(world: &World<'_>, request: &NodeRequest, pools: &[&PoolState], found: &mut Outlooks) {
    let registered: BTreeSet<&LauncherId> = world.records.registered_pool_ids().collect();
    let requests = pools.iter().zip(0_u64..).map(|(state, number)| {
        let others = registered.iter().filter(|id| ***id != state.launcher_id);
        let id = format!("200-{:010}", 9_999_999_999 - number);
        Arc::new(NodeRequest {
            id: RequestId::from(id),
            state: RequestState::Requested,
            declined_by: others.map(|id| (*id).clone()).collect(),
            ..request.clone()
        })
    });
    let requests: Vec<(&PoolState, Arc<NodeRequest>)> = pools.iter().copied().zip(requests).collect();
    let (plan, planner) = decide(world, requests.iter().map(|(_, request)| Arc::clone(request)), world.holdings);
    let mut holdings = world.holdings.clone();
    let mut accepted = Vec::new();
    found.wants.extend(plan.wants.iter().cloned());
    for (state, request) in requests {
        if let Some(answer) = first_answer(&plan, &planner, state, &request) {
            found.of_pools.insert(state.key.clone(), answer);
        } else {
            holdings.requests.insert(request.id.clone(), HeldRequest { pool: state.key.clone() });
            let request = NodeRequest { state: RequestState::Pending, ..Arc::unwrap_or_clone(request) };
            accepted.push((state, Arc::new(request)));
        }
    }
    if !accepted.is_empty() {
        let (plan, planner) = decide(world, accepted.iter().map(|(_, request)| Arc::clone(request)), &holdings);
        let second = |(state, request): &(&PoolState, Arc<NodeRequest>)| {
            (state.key.clone(), second_answer(&plan, &planner, request))
        };
        found.of_pools.extend(accepted.iter().map(second));
        found.wants.extend(plan.wants.iter().cloned());
    }
}

/// What a planner that has seen nothing before decides with these requests besides all others.
fn decide(world: &World<'_>, requests: impl Iterator<Item = Arc<NodeRequest>>, holdings: &Holdings) -> (Plan, Planner) {
    let entries = requests.map(|request| {
        // It is looked at as one that has been there for long: nothing that is missing may still be on its way.
        let entry = Entry {
            free_since: Some(0.0),
            ..Arc::unwrap_or_clone(Entry::unlocked(Ok(request.clone()), Stat::default()))
        };
        (request.id.clone(), Arc::new(entry))
    });
    let mut records: Records = world.records.clone();
    records.requests.extend(entries);
    // Nothing is declined on what it says, so that an answer of the cloud may be of any age; and no other request's acceptance is
    // in the way.
    let timing = Timing { fresh_quota: f64::INFINITY, accepts_at_once: usize::MAX, ..world.timing };
    let mut planner = Planner::default();
    let plan = planner.plan(&World { records: &records, holdings, timing, ..*world }, News::everything());
    (plan, planner)
}

/// What a pool makes of it; `None`: it accepts it.
fn first_answer(plan: &Plan, planner: &Planner, state: &PoolState, request: &NodeRequest) -> Option<Outlook> {
    for decision in &plan.decisions {
        match decision {
            Decision::Accept { request: id, .. } if *id == request.id => return None,
            Decision::Decline { request: id, pools } if *id == request.id => {
                let own = pools.iter().find(|(pool, _)| *pool == state.key);
                return Some(own.map_or(Outlook::Undecided, |(_, reason)| Outlook::Declines(reason.clone())));
            }
            _ => {}
        }
    }
    Some(waits(planner, request).map_or(Outlook::Undecided, Outlook::Waits))
}

/// What becomes of it once it is accepted.
fn second_answer(plan: &Plan, planner: &Planner, request: &NodeRequest) -> Outlook {
    if let Some(reason) = waits(planner, request) {
        return Outlook::Waits(reason);
    }
    let found = plan.decisions.iter().find_map(|decision| match decision {
        Decision::Supply { request: id, launch, .. } if *id == request.id => {
            Some(if launch.is_empty() { Outlook::HasReady } else { Outlook::WouldLaunch })
        }
        Decision::GiveUp { request: id, reasons } if *id == request.id => {
            reasons.first().cloned().map(Outlook::Declines)
        }
        Decision::PutBack { request: id, reason } if *id == request.id => Some(Outlook::Waits(reason.clone())),
        _ => None,
    });
    found.unwrap_or(Outlook::Undecided)
}

fn waits(planner: &Planner, request: &NodeRequest) -> Option<Reason> {
    planner.snapshot().waiting_of(request).into_values().next().map(|since| since.waiting.reason)
}
