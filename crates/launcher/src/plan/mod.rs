//! Deciding: what should happen next, and why.
//!
//! A [`Planner`] looks at the [`World`] (configuration, records, what we hold, what we know of the clouds, the time) and
//! returns a [`Plan`]: the decisions to carry out now, what the planner would like to know, why requests wait that were judged
//! one by one, and when to look again if nothing else happens. Why all of them wait is in its [`Snapshot`]. It is pure and total: no clock, no I/O, no error.
//! `run/` carries the decisions out, and forgets them: each action reads again under its lock, does its step, and the
//! next pass decides what follows.
//!
//! What the planner remembers saves it from looking at everything in each pass: [`News`] says what has changed
//! ([`index`]). It changes no decision: one that has seen nothing before decides the same.
//!
//! The rules are upstream's (`nodepool 11.0.0: launcher.py, driver/__init__.py, driver/statemachine.py`), with these
//! deliberate differences that no peer can notice:
//!
//! * A paused pool still takes a request that it can serve at once without touching what its paused requests wait
//!   for ([`assign`]); upstream blocks everything behind the first one.
//! * The ready siblings of a node that failed are freed when the request is given up ([`serve`]); upstream leaves them
//!   allocated until the request goes away.
//! * Room at a quota is made by one deletion at a time ([`serve`]); upstream deletes one idle node a second for as long as a
//!   pool is paused, as its guard never triggers.
//! * The zone of a request is drawn from its id, so that it is the same after a restart ([`serve`]).
//! * A request whose labels no registered pool has is declined after two seconds, not at once: the launcher that has
//!   them may be starting again ([`assign`]).
//! * A request for which other users of the project leave too little of a quota waits, unless another provider may serve
//!   it; it does not pause its pool ([`assign`]). Upstream declines it.
//! * `min-ready` counts the requests of other launchers too, and backs off when one fails that it or another one has made
//!   ([`upkeep`], `run::stock`).
//! * All nodes of a request are of the pool that fulfils it, also where another one of ours had given it up with launches under
//!   way ([`serve`]).
//! * What a person of the site has paused waits, and is put back if it was accepted and still lacks nodes ([`assign`], [`serve`]); upstream
//!   has no such pause.
//! * `max-concurrency` counts launches that are running ([`assign`]); upstream counts those that are complete.
//!
//! | module | decides about |
//! |---|---|
//! | [`supply`] | where a request's nodes come from |
//! | [`serve`] | accepted requests: reuse, launch, wait for quota, fulfil, give up |
//! | [`assign`] | waiting requests: accept, decline, leave to others |
//! | [`upkeep`] | nodes to delete or free, lost requests, ages, `min-ready`, litter |
//! | [`hosts`] | static hosts: nodes to register, bring up to date, take away |
//! | [`metastatic`] | nodes that stand on other nodes: backing nodes to ask for, to take, to let go |
//! | [`placing`] | which launch gets which slot of a backing node |
//! | [`leaks`] | what of a search for leaks may be removed; asked by the searches, not by [`planner`] |
//! | [`reason`] | why, as data, and its words |
//! | [`taken`] | what a pass has set aside, and what paused requests wait for |
//! | [`budget`] | what is used and what remains of each quota and limit |
//! | [`renewing`] | what may be decided while the records are read again after a broken connection |
//! | [`want`] | what has to be found out |
//! | [`index`] | what follows from records and holdings, kept from pass to pass |
//! | [`grounds`] | what the verdicts of a pool rest on |
//! | [`ledger`] | what is set aside while a decision is carried out |
//! | [`memory`] | what each pool made of what waits, and when it has to look again |
//! | [`since`] | since when requests wait for what they wait for |
//! | [`snapshot`] | what waits and what is used after a pass, for readers |
//! | [`planner`] | the parts of a pass in their order; what is remembered |
//! | [`world`], [`holdings`] | what is looked at |
//! | [`decision`] | what comes of it |
//! | [`pass`], [`usage`], [`keys`], [`host_nodes`] | what several of these share |

mod assign;
mod budget;
mod decision;
mod grounds;
mod holdings;
mod host_nodes;
mod hosts;
mod index;
mod keys;
mod leaks;
mod ledger;
mod memory;
mod metastatic;
mod pass;
mod placing;
mod planner;
mod reason;
mod renewing;
mod serve;
mod since;
mod snapshot;
mod supply;
mod taken;
mod upkeep;
mod usage;
mod want;
mod world;

pub use budget::Used;
pub use decision::{Decision, NewNode, NewlyWaiting, Plan, Waiting, WaitingSince};
pub use holdings::{HeldNode, HeldRequest, Holdings, Marks, Shown, Touched, Tracked};
pub use host_nodes::host_of;
pub use hosts::free_slots;
pub use index::News;
pub use keys::{HostKey, PoolKey};
pub use leaks::{LeakSearch, Tagged, is_unclaimed};
pub use ledger::{ActionId, Attempted, Held, Ledger, remove_where};
pub use placing::seekers_of;
pub use planner::Planner;
pub use reason::{Bound, BrokenLabel, Excess, Reason, Short};
pub use snapshot::{InUse, Snapshot, WaitingKind};
pub use want::Want;
pub use world::{
    CloudImage, PoolState, ProjectQuota, ProviderState, Timing, Versioned, World, keeper_of, last_registered,
};

#[cfg(test)]
mod tests;
