//! Deciding: what should happen next, and why.
//!
//! [`plan`] looks at the [`World`] (configuration, records, what we hold, what we know of the clouds, the time) and
//! returns a [`Plan`]: the decisions to carry out now, what the planner would like to know, why each request that
//! waits does so, and when to look again if nothing else happens. It is pure and total: no clock, no I/O, no error;
//! the same world gives the same plan. `run/` carries the decisions out, and forgets them: each action reads again
//! under its lock, does its step, and the next pass decides what follows.
//!
//! The rules are upstream's (`nodepool 11.0.0: launcher.py, driver/__init__.py, driver/statemachine.py`), with these
//! deliberate differences that no peer can notice:
//!
//! * A paused pool still takes a request that it can serve at once without touching what its paused requests wait
//!   for ([`assign`]); upstream blocks everything behind the first one.
//! * The ready siblings of a node that failed are freed when the request is given up ([`serve`]); upstream leaves them
//!   allocated until the request goes away.
//! * Room at a quota is made by one deletion at a time ([`serve`]); upstream's guard never triggers (traps.md 12).
//! * The zone of a request is drawn from its id, so that it is the same after a restart ([`serve`]).
//! * A request whose labels no registered pool has is declined after two seconds, not at once: the launcher that has
//!   them may be starting again ([`assign`]).
//! * A request for which other users of the project leave too little of a quota waits, unless another provider may serve
//!   it; it does not pause its pool ([`assign`]). Upstream declines it.
//! * `min-ready` counts the requests of other launchers too, and backs off when it fails ([`upkeep`]).
//! * `max-concurrency` counts launches that are running ([`assign`]); upstream counts those that are complete.
//!
//! | module | decides about |
//! |---|---|
//! | [`supply`] | where a request's nodes come from |
//! | [`serve`] | accepted requests: reuse, launch, wait for quota, fulfil, give up |
//! | [`assign`] | waiting requests: accept, decline, leave to others |
//! | [`upkeep`] | nodes to delete or free, lost requests, ages, `min-ready`, litter |
//! | [`hosts`] | static hosts: nodes to register, bring up to date, take away |
//! | [`metastatic`] | nodes that stand on other nodes: those to ask for, to take, to let go |
//! | [`leaks`] | what of a search for leaks may be removed; asked by the searches, not by [`plan`] |
//! | [`taken`] | what a pass has set aside, and what paused requests wait for |
//! | [`budget`] | what is used and what remains of each quota and limit |

mod assign;
mod budget;
mod decision;
mod hosts;
mod keys;
mod leaks;
mod metastatic;
mod pass;
mod serve;
mod supply;
mod taken;
mod upkeep;
mod world;

pub use decision::{Decision, NewNode, Plan, Waiting, Want};
pub use hosts::{free_slots, host_of};
pub use keys::{HostKey, PoolKey};
pub use leaks::{LeakSearch, Tagged, is_unclaimed};
pub use metastatic::{carries, free_place};
pub use world::{
    CloudImage, HeldNode, HeldRequest, Holdings, PoolState, ProjectQuota, ProviderState, Timing, World, keeper_of,
};

use budget::Budget;
use pass::Pass;
use taken::Taken;

/// Decides what to do now.
pub fn plan(world: &World<'_>) -> Plan {
    let (budget, taken) = (Budget::new(world), Taken::new(world));
    let mut pass = Pass { world, plan: Plan::default(), budget, taken };
    pass.serve();
    pass.assign();
    upkeep::upkeep(world, &mut pass.plan);
    if !world.stopping {
        hosts::hosts(world, &mut pass.plan);
    }
    // What is being launched is finished, also by one that is stopping.
    metastatic::metastatic(world, &mut pass.plan);
    pass.plan
}

#[cfg(test)]
mod tests;
