//! [`Planner`]: what decides, and what it remembers from one pass to the next.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use nodepool_common::{config::Config, model::RequestId};

use super::{
    News, Plan, PoolKey, PoolState, Waiting, WaitingSince, World,
    budget::Budget,
    hosts,
    index::Index,
    memory::Memories,
    metastatic,
    pass::{LeftToOthers, Pass},
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
    /// Accepted requests that have to be looked at in each pass.
    unsettled: BTreeSet<RequestId>,
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
        let concerned = self.index.update(world, &news);
        let most = (self.index.requests.classes.len() + 100) * (world.pools.len() + 1) * 2;
        if news.is_everything() || news.changes.pools || self.left.len() > most {
            self.left.clear();
        }
        if news.is_everything() || news.changes.pools || news.changes.uploads {
            self.memories.forget_grounds();
        }
        self.unsettled.extend(concerned.iter().cloned());
        let renewed = self.index.requests.take_renewed();
        let budget = Budget::new(world, &self.index.nodes);
        let common = self.memories.note(world, budget.tenants());
        let mut pass = Pass {
            world,
            index: &self.index,
            left: &mut self.left,
            memories: &mut self.memories,
            common,
            renewed,
            one_by_one: self.one_by_one,
            plan: Plan::default(),
            budget,
            taken: Taken::new(world, &self.index.nodes),
        };
        let unsettled = pass.serve(&self.unsettled);
        pass.let_go_of_strays(&concerned);
        pass.assign();
        let mut plan = pass.plan;
        upkeep::upkeep(world, &self.index, &mut plan);
        if !world.stopping {
            hosts::hosts(world, &self.index, &mut plan);
        }
        // What is being launched is finished, also by one that is stopping.
        metastatic::metastatic(world, &self.index, &mut plan);
        self.unsettled = unsettled;
        plan
    }

    /// Decides from everything, and goes on from that. A plan that was made of the same world and differs is a bug: something
    /// has changed that was not noted.
    pub fn plan_anew(&mut self, world: &World<'_>) -> Plan {
        self.plan(world, News::everything())
    }

    /// The clock was set by that many seconds: what waits has waited as long as before.
    pub fn clock_stepped(&mut self, step: f64) {
        self.memories.clock_stepped(step);
    }

    /// Why each request waits that the last plan of this planner has left waiting. `single`: those of
    /// which that plan says so one by one ([`Plan::waiting`]).
    pub fn waiting(
        &self,
        single: &BTreeMap<(RequestId, PoolKey), WaitingSince>,
    ) -> BTreeMap<(RequestId, PoolKey), WaitingSince> {
        let mut all = single.clone();
        for (pool, memory) in self.memories.iter() {
            for (id, of_class) in &memory.waiting {
                let Some(class) = self.index.requests.classes.get(id) else { continue };
                for rank in class.requests.range(&of_class.from..) {
                    let waiting = || Waiting { reason: of_class.verdict.reason.clone(), paused: false };
                    all.entry((rank.id.clone(), pool.clone()))
                        .or_insert_with(|| WaitingSince { waiting: waiting(), since: of_class.since });
                }
            }
        }
        all
    }
}
