//! [`Snapshot`]: what waits, why and since when, and what is used, as a pass has left it.
//!
//! It is for readers: the planner goes on, and a snapshot stays as it is. To take one costs some counters for each pool, however
//! much waits, because all that it consists of is persistent: what is the same in two of them is shared. What each request waits
//! for is put together only where somebody asks ([`Snapshot::waiting`]): there may be ten thousand in each of twenty pools.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use imbl::OrdMap;
use nodepool_common::model::{NodeRequest, RequestId, Timestamp};

use super::{
    PoolKey, PoolState, Reason, Used, WaitingSince,
    index::{Class, ClassId, Rank},
    memory::WaitingClass,
    pass::Pass,
    since::{LeftBehind, Single},
};

/// See the module.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// What was used when the pass began: what it has decided counts from the next one on.
    pub used: Arc<[InUse]>,
    /// Requests that wait and that nobody has locked.
    pub(super) classes: OrdMap<ClassId, Class>,
    /// Which of them wait in each pool from which request on, and why.
    pub(super) by_class: Vec<(PoolKey, OrdMap<ClassId, Arc<WaitingClass>>)>,
    /// What waits, and was judged by itself.
    pub(super) single: Single,
    /// What those waited for that have come into another class.
    pub(super) left: LeftBehind,
}

/// What is used in a pool of ours.
#[derive(Clone, Debug, PartialEq)]
pub struct InUse {
    /// Which.
    pub pool: PoolKey,
    /// By nodes on record, launches that have no record yet, and what requests that are just being accepted will need.
    pub used: Used,
    /// Whether others see that it is registered: it decides nothing about requests before.
    pub is_registered: bool,
}

/// Requests that wait in a pool for the same reason, maybe with other numbers.
#[derive(Clone, Copy, Debug)]
pub struct WaitingKind<'a> {
    /// Where.
    pub pool: &'a PoolKey,
    /// Why the first of them does.
    pub reason: &'a Reason,
    /// How many.
    pub requests: usize,
    /// The one that is to be served first.
    pub first: &'a RequestId,
    /// Since when that one waits.
    pub since: Timestamp,
}

impl Snapshot {
    /// Why each request waits that the pass has left waiting, and since when.
    pub fn waiting(&self) -> BTreeMap<(RequestId, PoolKey), WaitingSince> {
        let single = self.single.iter().map(|(key, waiting)| (key.clone(), (**waiting).clone()));
        let mut all: BTreeMap<_, _> = single.collect();
        for (pool, by_class) in &self.by_class {
            for (id, of_class) in by_class {
                let Some(class) = self.classes.get(id) else { continue };
                for (rank, came) in class.from(&of_class.from) {
                    let waiting = || self.left.of_class(&rank.id, pool, of_class, came);
                    all.entry((rank.id.clone(), pool.clone())).or_insert_with(waiting);
                }
            }
        }
        all
    }

    /// What one request waits for in each pool, and since when.
    pub fn waiting_of(&self, request: &NodeRequest) -> BTreeMap<PoolKey, WaitingSince> {
        let rank = Rank::of(request);
        let single = self.single.iter().filter(|((id, _), _)| *id == rank.id);
        let mut all: BTreeMap<_, _> = single.map(|((_, pool), waiting)| (pool.clone(), (**waiting).clone())).collect();
        for (pool, by_class) in &self.by_class {
            for (id, of_class) in by_class.iter().filter(|(_, of_class)| of_class.from <= rank) {
                if let Some(came) = self.classes.get(id).and_then(|class| class.since(&rank)) {
                    let waiting = || self.left.of_class(&rank.id, pool, of_class, came);
                    all.entry(pool.clone()).or_insert_with(waiting);
                }
            }
        }
        all
    }

    /// How many requests wait in each pool for each reason; a pool and a kind of reason may be there several times. It looks at
    /// each request, but puts nothing together for it.
    pub fn count(&self) -> Vec<(&PoolKey, &Reason, usize)> {
        self.kinds().into_iter().map(|kind| (kind.pool, kind.reason, kind.requests)).collect()
    }

    /// The same with the first request of each, which is the next to be served, and since when that one waits.
    pub fn kinds(&self) -> Vec<WaitingKind<'_>> {
        let single = self.single.iter().map(|((first, pool), single)| WaitingKind {
            pool,
            reason: &single.waiting.reason,
            requests: 1,
            first,
            since: single.since,
        });
        let mut kinds: Vec<_> = single.collect();
        for (pool, by_class) in &self.by_class {
            let of_pool = self.single.keys().filter(|(_, other)| other == pool);
            let single: BTreeSet<&RequestId> = of_pool.map(|(id, _)| id).collect();
            for (id, of_class) in by_class {
                let Some(class) = self.classes.get(id) else { continue };
                let mut waits = class.from(&of_class.from).filter(|(rank, _)| !single.contains(&rank.id));
                if let Some((first, came)) = waits.next() {
                    let since = self.left.of_class(&first.id, pool, of_class, came).since;
                    let (reason, requests) = (&of_class.verdict.reason, 1 + waits.count());
                    kinds.push(WaitingKind { pool, reason, requests, first: &first.id, since });
                }
            }
        }
        kinds
    }

    /// The requests that wait and that nobody has locked, in the order in which they are served.
    pub fn order(&self) -> Vec<&RequestId> {
        let mut ranks: Vec<_> = self.classes.values().flat_map(Class::ranks).collect();
        ranks.sort();
        ranks.into_iter().map(|rank| &rank.id).collect()
    }
}

impl Pass<'_> {
    /// What is used in our pools, until something is decided.
    pub(super) fn in_use(&self) -> Arc<[InUse]> {
        let world = self.world;
        let in_use = |state: &PoolState| InUse {
            pool: state.key.clone(),
            used: self.budget.used(&state.key),
            is_registered: self.registered.contains(&state.launcher_id),
        };
        world.pools.iter().map(in_use).collect()
    }
}
