//! [`Planner`]: what decides, and what it remembers from one pass to the next.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::Arc,
};

use nodepool_common::{
    config::Config,
    model::{RequestId, guard},
};

use super::{
    News, Plan, PoolKey, PoolState, WaitingSince, World,
    budget::Budget,
    hosts,
    index::{ClassId, Index},
    memory::{Memories, Memory, WaitingClass},
    metastatic,
    pass::{LeftToOthers, Pass},
    renewing,
    since::{Single, Waits},
    snapshot::{InUse, Snapshot},
    taken::Taken,
    upkeep,
};

/// Decides what to do now, and looks only at what may have changed since it last did.
///
/// What it remembers follows from the worlds that it was shown. One that has been shown nothing yet decides the same as one
/// that has seen everything that happened.
#[derive(Debug, Default)]
pub struct Planner {
    index: Index,
    left: LeftToOthers,
    memories: Memories,
    waits: Waits,
    /// Accepted requests that have to be looked at in each pass.
    unsettled: BTreeSet<RequestId>,
    /// What the last plan has found to be used.
    used: Arc<[InUse]>,
    setting: Option<Setting>,
    /// Looks at each request by itself, as a simple planner would.
    one_by_one: bool,
}

/// What everything else is seen in the light of.
#[derive(Debug)]
struct Setting {
    config: Arc<Config>,
    pools: Vec<PoolState>,
    session: i64,
    stopping: bool,
}

impl Setting {
    fn is_that_of(&self, world: &World<'_>) -> bool {
        Arc::ptr_eq(&self.config, world.config)
            && self.pools == world.pools
            && self.session == world.session
            && self.stopping == world.stopping
    }
}

impl Planner {
    /// One that looks at everything in each pass, and at each request by itself: slow, and obviously right.
    #[cfg(test)]
    pub fn simple() -> Self {
        Self { one_by_one: true, ..Self::default() }
    }

    /// What it has derived from the records, for those who reckon it again.
    #[cfg(test)]
    pub fn index(&self) -> &Index {
        &self.index
    }

    /// Decides what to do now. `news` says what has changed since the last call.
    pub fn plan(&mut self, world: &World<'_>, mut news: News) -> Plan {
        if !self.setting.as_ref().is_some_and(|setting| setting.is_that_of(world)) {
            news.setting = true;
            self.setting = Some(Setting {
                config: Arc::clone(world.config),
                pools: world.pools.to_vec(),
                session: world.session,
                stopping: world.stopping,
            });
        }
        if guard::is_removed("index update after a change") && !news.is_everything() {
            news.changes.nodes.clear();
        }
        let concerned = self.index.update(world, &news);
        let most = (self.index.requests.classes.len() + 100) * (world.pools.len() + 1) * 2;
        if news.is_everything() || news.changes.pools || self.left.len() > most {
            self.left.clear();
        }
        if news.is_everything() || news.changes.pools || news.changes.uploads {
            self.memories.forget_grounds();
        }
        self.note_left(world);
        self.unsettled.extend(concerned.iter().cloned());
        let renewed = self.index.requests.take_renewed();
        let budget = Budget::new(world, &self.index.nodes);
        let common = self.memories.note(world, budget.tenants());
        let mut pass = Pass {
            world,
            index: &self.index,
            registered: world.records.registered_pool_ids().collect(),
            left: &mut self.left,
            memories: &mut self.memories,
            waits: &mut self.waits,
            common,
            renewed,
            one_by_one: self.one_by_one,
            plan: Plan::default(),
            budget,
            taken: Taken::new(world, &self.index.nodes),
        };
        self.used = pass.in_use();
        let unsettled = pass.serve(&self.unsettled);
        pass.let_go_of_strays(&concerned);
        if world.renewing {
            pass.assign_from_stock();
            self.unsettled = unsettled;
            return renewing::only_fenced(world, &self.index, pass.plan);
        }
        pass.assign();
        let mut plan = pass.plan;
        upkeep::upkeep(world, &self.index, &mut plan);
        if !world.stopping {
            hosts::hosts(world, &self.index, &mut plan);
        }
        // What is being launched is finished, also by one that is stopping.
        metastatic::metastatic(world, &self.index, &mut plan);
        self.unsettled = unsettled;
        let requests = &self.index.requests;
        plan.newly_waiting.extend(self.waits.note(&plan.waiting, world.now, |id| requests.waits(id)));
        plan
    }

    /// Remembers for a moment what those waited for that have left their class.
    fn note_left(&mut self, world: &World<'_>) {
        for place in self.index.requests.take_left() {
            let id = &place.rank.id;
            if !world.records.requests.contains_key(id) {
                self.waits.forget(id);
                continue;
            }
            for (pool, memory) in self.memories.iter() {
                if let Some(class) = memory.waiting.get(&place.class).filter(|class| class.from <= place.rank) {
                    let was = self.waits.left().of_class(id, pool, class, place.since);
                    self.waits.leave(id, pool, was, world.now);
                }
            }
            self.waits.leave_class(id, world.now);
        }
    }

    /// Decides from everything, and goes on from that. Also returns how it differs from `plan`, which this planner has just made of
    /// the same world, for people: each difference is a bug, something has changed that was not noted.
    pub fn check(&mut self, world: &World<'_>, plan: &Plan) -> (Plan, Vec<String>) {
        let (classes, single) = (self.waiting_classes(), by_key(self.waits.single()));
        let mut right = self.plan(world, News::everything());
        right.newly_waiting.clone_from(&plan.newly_waiting);
        let mut differences = right.differences(plan);
        differences.extend(others(&classes, &self.waiting_classes()));
        differences.extend(others(&single, &by_key(self.waits.single())));
        (right, differences)
    }

    /// What waits as part of a class: not by request, of which there may be ten thousand in each of twenty pools.
    fn waiting_classes(&self) -> BTreeMap<(PoolKey, ClassId), Arc<WaitingClass>> {
        let mut all = BTreeMap::new();
        for (pool, memory) in self.memories.iter() {
            for (class, waiting) in &memory.waiting {
                all.insert((pool.clone(), *class), Arc::clone(waiting));
            }
        }
        all
    }

    /// The clock was set by that many seconds: what waits has waited as long as before.
    pub fn clock_stepped(&mut self, step: f64) {
        self.memories.clock_stepped(step);
        self.index.requests.clock_stepped(step);
        self.waits.clock_stepped(step);
    }

    /// Why each request waits that the last plan of this planner has left waiting, and since when.
    #[cfg(test)]
    pub fn waiting(&self) -> BTreeMap<(RequestId, PoolKey), WaitingSince> {
        self.snapshot().waiting()
    }

    /// What the last plan has left waiting, and what it has found to be used.
    pub fn snapshot(&self) -> Snapshot {
        let in_pool = |(pool, memory): (&PoolKey, &Memory)| (pool.clone(), memory.waiting.clone());
        Snapshot {
            used: Arc::clone(&self.used),
            classes: self.index.requests.classes.clone(),
            by_class: self.memories.iter().map(in_pool).collect(),
            single: self.waits.single().clone(),
            left: self.waits.left().clone(),
        }
    }
}

fn by_key(single: &Single) -> BTreeMap<(RequestId, PoolKey), Arc<WaitingSince>> {
    single.iter().map(|(key, waiting)| (key.clone(), Arc::clone(waiting))).collect()
}

/// How what waits was and what it should have been, where that is not the same. For people.
fn others<K: Ord + fmt::Debug, V: PartialEq + fmt::Debug>(was: &BTreeMap<K, V>, is: &BTreeMap<K, V>) -> Vec<String> {
    let keys: BTreeSet<&K> = was.keys().chain(is.keys()).collect();
    keys.into_iter()
        .filter(|key| was.get(*key) != is.get(*key))
        .map(|key| format!("what {key:?} waits for was {:?}, and should be {:?}", was.get(key), is.get(key)))
        .collect()
}
