//! [`Memory`]: what a pool made of each class of requests when it last looked, and what that rested on.
//!
//! Most events change nothing for most pools. So a pool looks at a class of requests again only where
//!
//! * the class is new, or has another first request;
//! * the last verdict was not one for the whole class ([`Waits`]), or was not about its first request;
//! * something has changed on which all verdicts of the pool rest ([`Grounds`]), or a moment has come at which time alone
//!   may change one of them ([`Memory::until`]);
//! * the configuration, the registered pools or the uploads of images have changed: then everything is forgotten
//!   ([`Memories::forget_grounds`]).
//!
//! It changes no decision: a planner without a memory decides the same (`tests/histories.rs`).

use std::collections::{BTreeMap, BTreeSet};

use nodepool_common::model::{NodeId, Resources, TenantName, Timestamp};

use super::{
    PoolKey, Reason, Want, World,
    grounds::{Common, Grounds},
    index::{ClassId, Rank},
};

/// Why all requests of a class wait in a pool, from one on.
#[derive(Clone, Debug, PartialEq)]
pub struct Waits {
    /// Why.
    pub reason: Reason,
    /// What has to be found out first.
    pub wants: Vec<Want>,
    /// Whether it waits for what other users of the project take.
    pub is_starved: bool,
}

/// A class that waits in a pool.
#[derive(Debug)]
pub struct Waiting {
    /// The first request that does.
    pub from: Rank,
    /// Why.
    pub waits: Waits,
    /// Since when for a reason of this kind.
    pub since: Timestamp,
}

/// Of one pool.
#[derive(Debug, Default)]
pub struct Memory {
    grounds: Option<Grounds>,
    /// When time alone may change a verdict.
    until: Timestamp,
    /// Classes that wait.
    pub waiting: BTreeMap<ClassId, Waiting>,
    /// Classes to be looked at in the next pass in any case.
    open: BTreeSet<ClassId>,
    /// Those that wait and with which more is the matter than a reason.
    asking: BTreeSet<ClassId>,
    /// What was known of those that are looked at again in this pass.
    before: BTreeMap<ClassId, Waiting>,
}

impl Memory {
    /// Begins a pass. Returns the classes to look at; `None`: all.
    pub fn begin(
        &mut self,
        grounds: Option<&Grounds>,
        now: Timestamp,
        renewed: &BTreeSet<ClassId>,
    ) -> Option<BTreeSet<ClassId>> {
        if grounds.is_none() || self.grounds.as_ref() != grounds || now >= self.until {
            self.before = std::mem::take(&mut self.waiting);
            self.open.clear();
            self.asking.clear();
            return None;
        }
        let classes: BTreeSet<_> = self.open.union(renewed).copied().collect();
        for class in &classes {
            self.reopen(*class);
        }
        Some(classes)
    }

    /// What was made of a class does not count any more.
    pub fn reopen(&mut self, class: ClassId) {
        self.open.remove(&class);
        self.asking.remove(&class);
        if let Some(waiting) = self.waiting.remove(&class) {
            self.before.insert(class, waiting);
        }
    }

    /// A class is looked at.
    pub fn look(&mut self, class: ClassId) {
        self.open.insert(class);
    }

    /// All of a class wait, from one on. Returns whether that was not so before, or for another reason. `is_first`: it is
    /// the first of its class, which therefore need not be looked at again.
    pub fn wait(&mut self, class: ClassId, from: Rank, waits: Waits, is_first: bool, now: Timestamp) -> bool {
        if is_first {
            self.open.remove(&class);
        }
        if !waits.wants.is_empty() || waits.is_starved {
            self.asking.insert(class);
        }
        let before = self.before.get(&class);
        let is_new = before.is_none_or(|before| before.waits.reason != waits.reason);
        let since =
            before.filter(|before| before.waits.reason.is_like(&waits.reason)).map_or(now, |before| before.since);
        self.waiting.insert(class, Waiting { from, waits, since });
        is_new
    }

    /// Ends a pass. `grounds`: on what the verdicts rest; `None` where that is not what it was at the beginning.
    pub fn end(&mut self, grounds: Option<Grounds>, looked_at_all: bool, until: Timestamp) {
        self.until = if looked_at_all { until } else { self.until.min(until) };
        self.grounds = grounds;
        self.before.clear();
    }

    /// Those that wait for more than room.
    pub fn asking(&self) -> impl Iterator<Item = &Waits> {
        self.asking.iter().filter_map(|class| Some(&self.waiting.get(class)?.waits))
    }
}

/// Of all pools.
#[derive(Debug, Default)]
pub struct Memories {
    pools: BTreeMap<PoolKey, Memory>,
    back_offs: Noted<BTreeMap<NodeId, Timestamp>>,
    tenants: Noted<(u64, BTreeMap<TenantName, Resources>)>,
}

impl Memories {
    /// That of a pool, to be put back with [`Self::keep`].
    pub fn take(&mut self, pool: &PoolKey) -> Memory {
        self.pools.remove(pool).unwrap_or_default()
    }

    /// Keeps that of a pool.
    pub fn keep(&mut self, pool: &PoolKey, memory: Memory) {
        self.pools.insert(pool.clone(), memory);
    }

    /// Has every pool look at everything again.
    pub fn forget_grounds(&mut self) {
        for memory in self.pools.values_mut() {
            memory.grounds = None;
        }
    }

    /// Forgets pools that do not decide any more, and so do not see what changes.
    pub fn retain(&mut self, decide: impl Fn(&PoolKey) -> bool) {
        self.pools.retain(|pool, _| decide(pool));
    }

    /// The clock was set by that many seconds.
    pub fn clock_stepped(&mut self, step: f64) {
        let waiting = self.pools.values_mut().flat_map(|memory| memory.waiting.values_mut());
        waiting.for_each(|waiting| waiting.since += step);
    }

    /// All pools.
    pub fn iter(&self) -> impl Iterator<Item = (&PoolKey, &Memory)> {
        self.pools.iter()
    }

    /// Notes what pools have in common. Returns the versions of that.
    pub fn note(&mut self, world: &World<'_>, tenants: (u64, &BTreeMap<TenantName, Resources>)) -> Common {
        let nodes_after = &world.holdings.nodes_after;
        Common {
            back_offs: self.back_offs.note(|known| known == nodes_after, || nodes_after.clone()),
            tenants: self.tenants.note(|known| (known.0, &known.1) == tenants, || (tenants.0, tenants.1.clone())),
            back_off_ends: nodes_after.values().copied().filter(|at| *at > world.now).reduce(f64::min),
        }
    }
}

/// A value, and another number after each change.
#[derive(Debug, Default)]
struct Noted<T> {
    value: T,
    version: u64,
}

impl<T> Noted<T> {
    fn note(&mut self, is_the_same: impl FnOnce(&T) -> bool, new: impl FnOnce() -> T) -> u64 {
        if !is_the_same(&self.value) {
            self.value = new();
            self.version += 1;
        }
        self.version
    }
}
