//! [`Memory`]: what a pool made of each class of requests when it last looked, and what that rested on.
//!
//! Most events change nothing for most pools. So a pool looks at a class of requests again only where
//!
//! * the class is to be looked at again whatever else is the same ([`Requests::take_renewed`](super::index::Requests));
//! * the last verdict was not one for the whole class ([`ClassVerdict`]), or was not about its first request;
//! * something has changed on which its verdict rests ([`Grounds`], [`Basis`]), or a moment has come at which time alone
//!   may change one of them ([`Memory::until`], which causes no wake-up: each such moment has a timer of its own, back-offs in
//!   `upkeep`, `launch_after` in `serve`, the age of a quota in `Clouds::quotas_to_refresh`);
//! * the configuration, the registered pools or the uploads of images have changed: then everything is forgotten
//!   ([`Memories::forget_grounds`]).
//!
//! It changes no decision: a planner without a memory decides the same (`tests/histories.rs`).

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use imbl::OrdMap;
use nodepool_common::model::{NodeId, Resources, TenantName, Timestamp, Uptime, change_each};

use super::{
    PoolKey, Reason, Want, World,
    budget::Used,
    grounds::{Changed, Common, Grounds, Until},
    index::{ClassId, Rank},
};

/// Why a class waits, and what must be asked of the cloud.
#[derive(Clone, Debug, PartialEq)]
pub struct ClassVerdict {
    /// Why.
    pub reason: Reason,
    /// What has to be found out first.
    pub wants: Vec<Want>,
    /// Whether it waits for what other users of the project take.
    pub is_starved: bool,
    /// On what of the grounds it rests.
    pub basis: Basis,
}

impl ClassVerdict {
    /// That a class waits.
    pub fn wait(reason: Reason, basis: Basis) -> Self {
        Self { reason, wants: Vec::new(), is_starved: false, basis }
    }
}

/// On what of its pool's [`Grounds`] a verdict rests, besides those that every verdict rests on: what the cloud says, what is idle,
/// what tenants have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Basis {
    /// Nothing else.
    None,
    /// There is too little room, and others are before it. To be looked at again only where there is more room, or where nobody is
    /// before it any more; not where those before it wait for something else.
    Room,
    /// What is used, and what others wait for.
    All,
}

/// A class that waits in a pool.
#[derive(Clone, Debug, PartialEq)]
pub struct WaitingClass {
    /// The first request that does.
    pub from: Rank,
    /// Why.
    pub verdict: ClassVerdict,
    /// Since when for a reason of this kind.
    pub since: Timestamp,
}

/// Of one pool.
#[derive(Debug, Default)]
pub struct Memory {
    grounds: Option<Grounds>,
    /// What was used when verdicts of [`Basis::Room`] were made, at most: they hold as long as it is not less.
    short_at: Option<Used>,
    /// Whether such a verdict was made in this pass.
    is_short: bool,
    /// Whether the last pass has accepted something: verdicts that were made before that may rest on more room.
    has_accepted: bool,
    /// When time alone may change a verdict.
    until: Until,
    /// Classes that wait. Persistent: readers have it as it was after a pass.
    pub waiting: OrdMap<ClassId, Arc<WaitingClass>>,
    /// Classes to be looked at in the next pass in any case.
    open: BTreeSet<ClassId>,
    /// Waiting classes with questions to the cloud, starved by other users of the project, or whose tenants have all that they may:
    /// every plan repeats these, also where the class is not looked at.
    asking: BTreeSet<ClassId>,
    /// Waiting classes whose wait the cloud may end.
    of_the_cloud: BTreeSet<ClassId>,
    /// What was known of those that are looked at again in this pass.
    before: OrdMap<ClassId, Arc<WaitingClass>>,
}

impl Memory {
    /// Begins a pass. Returns the classes to look at; `None`: all.
    pub fn begin(
        &mut self,
        grounds: Option<&Grounds>,
        world: &World<'_>,
        renewed: &BTreeSet<ClassId>,
    ) -> Option<BTreeSet<ClassId>> {
        self.is_short = false;
        let changed = match (&self.grounds, grounds) {
            (Some(old), Some(new)) if !self.until.has_come(world) => new.changed_since(old, self.short_at.as_ref()),
            _ => Changed::Everything,
        };
        if changed == Changed::Everything {
            self.before = std::mem::take(&mut self.waiting);
            self.open.clear();
            self.asking.clear();
            self.of_the_cloud.clear();
            return None;
        }
        let mut classes: BTreeSet<_> = self.open.union(renewed).copied().collect();
        let from = match changed {
            Changed::Nothing if !self.has_accepted => None,
            Changed::Nothing | Changed::ButNoMoreRoom => Some(Basis::All),
            Changed::Room | Changed::Everything => Some(Basis::Room),
        };
        if let Some(from) = from {
            classes.extend(self.resting_on(from));
        }
        for class in &classes {
            self.reopen(*class);
        }
        Some(classes)
    }

    /// Classes that wait by a verdict that rests on so much at least.
    pub fn resting_on(&self, basis: Basis) -> impl Iterator<Item = ClassId> {
        self.waiting.iter().filter(move |(_, waiting)| waiting.verdict.basis >= basis).map(|(class, _)| *class)
    }

    /// What was made of a class does not count any more.
    pub fn reopen(&mut self, class: ClassId) {
        self.open.remove(&class);
        self.asking.remove(&class);
        self.of_the_cloud.remove(&class);
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
    pub fn wait(&mut self, class: ClassId, from: Rank, verdict: ClassVerdict, is_first: bool, now: Timestamp) -> bool {
        if is_first {
            self.open.remove(&class);
        }
        self.is_short |= verdict.basis == Basis::Room;
        if !verdict.wants.is_empty() || verdict.is_starved || matches!(verdict.reason, Reason::TenantFull { .. }) {
            self.asking.insert(class);
        }
        if verdict.reason.concerns_the_cloud() {
            self.of_the_cloud.insert(class);
        }
        let before = self.before.get(&class);
        let is_new = before.is_none_or(|before| before.verdict.reason != verdict.reason);
        let since =
            before.filter(|before| before.verdict.reason.is_like(&verdict.reason)).map_or(now, |before| before.since);
        self.waiting.insert(class, Arc::new(WaitingClass { from, verdict, since }));
        is_new
    }

    /// What a request of a class waited for, where the class is looked at again.
    pub fn before(&self, class: ClassId, rank: &Rank) -> Option<&WaitingClass> {
        self.before.get(&class).map(Arc::as_ref).filter(|before| before.from <= *rank)
    }

    /// Ends a pass. `grounds`: on what the verdicts rest, with all that this pass has decided; `None` where that cannot be said.
    pub fn end(&mut self, grounds: Option<Grounds>, has_accepted: bool, began_with_all: bool, until: Until) {
        self.has_accepted = has_accepted;
        if self.is_short || began_with_all || has_accepted {
            self.short_at = grounds.as_ref().map(|grounds| grounds.used.clone());
        }
        self.until = if began_with_all { until } else { self.until.earlier(until) };
        self.grounds = grounds;
        self.before.clear();
    }

    /// Whether any class waits for what the cloud says or sets free.
    pub fn waits_for_the_cloud(&self) -> bool {
        !self.of_the_cloud.is_empty()
    }

    /// The verdicts that every plan repeats.
    pub fn asking(&self) -> impl Iterator<Item = &ClassVerdict> {
        self.asking.iter().filter_map(|class| Some(&self.waiting.get(class)?.verdict))
    }
}

/// Of all pools.
#[derive(Debug, Default)]
pub struct Memories {
    pools: BTreeMap<PoolKey, Memory>,
    back_offs: Noted<OrdMap<NodeId, Uptime>>,
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
        for memory in self.pools.values_mut() {
            change_each(&mut memory.waiting, |waiting| Arc::make_mut(waiting).since += step);
        }
    }

    /// All pools.
    pub fn iter(&self) -> impl Iterator<Item = (&PoolKey, &Memory)> {
        self.pools.iter()
    }

    /// Notes what pools have in common. Returns the versions of that.
    pub fn note(&mut self, world: &World<'_>, tenants: (u64, &BTreeMap<TenantName, Resources>)) -> Common {
        let nodes_after = &world.holdings.nodes_after;
        Common {
            back_offs: self
                .back_offs
                .note(|known| known.ptr_eq(nodes_after) || known == nodes_after, || nodes_after.clone()),
            tenants: self.tenants.note(|known| (known.0, &known.1) == tenants, || (tenants.0, tenants.1.clone())),
            back_off_ends: nodes_after.values().copied().filter(|at| *at > world.uptime).min(),
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
