//! What the planner decides after random histories of events, compared with planners that remember nothing and with a model.
//!
//! A history is a list of steps: requests come, change and go, nodes do, other launchers lock and unlock, clouds answer, and
//! what was decided is carried out, fails, or is lost with the session; providers are replaced, the clock is set. After each step
//!
//! * a [`Planner`] that has seen all of it decides the same as [`Planner::simple`], which has seen nothing and looks at each
//!   request by itself, and as one that has seen nothing and looks at classes. All three have the rules in common (`judge`,
//!   `serve_one`, `supply`, `free_node`), and what they reckon with: this shows that nothing that is remembered is out of date, and
//!   that looking at the first of a class is enough. It does not show that a rule is right;
//! * what is used, idle, promised, running, waiting and lost, and what the ledger says, is what [`model`] makes of all records and of
//!   all actions that run. It shares no code with the index, the budget and the ledger;
//! * what is published for readers is what all of that comes to, and what was published before is as it was;
//! * the plan keeps what [`promises`] asks of any plan: nothing is decided twice, no limit is exceeded, what is more urgent comes
//!   first, what is due is decided and nothing else, and each reason is there and true.
//!
//! Which pool gets a request, and whether it is declined, is checked only as far as those promises go. The sentences of the
//! other modules of [`tests`](super) say that, each for its case.
//!
//! | module | has |
//! |---|---|
//! | [`world`] | the world at the beginning |
//! | [`steps`] | what may happen |
//! | [`outcomes`] | what becomes of decisions |
//! | [`model`] | what all of it comes to |
//! | [`promises`] | what must hold of each plan |
//! | [`backing`] | nodes that stand on others: what is really so, and what becomes of decisions about them |
//! | [`found`] | histories that have gone wrong |
//! | [`slots`] | what must hold of those decisions |

mod backing;
mod found;
mod model;
mod outcomes;
mod promises;
mod slots;
mod steps;
mod world;

use proptest::prelude::*;

use super::*;
use nodepool_common::model::{Changes, LauncherId, MIN_READY_REQUESTOR, Pause, Pauses, PoolName, ProviderName};

pub use self::promises::kind;
use self::{backing::Truth, model::Model};

/// What was published of the plan, and what that said then.
type PlannedThen = (Snapshot, BTreeMap<(RequestId, PoolKey), WaitingSince>);

/// Labels: those of ours, and one that only another launcher has.
const LABELS: [&str; 3] = ["small", "big", "elsewhere"];

struct History {
    setting: Setting,
    config: Arc<Config>,
    now: f64,
    uptime: Uptime,
    changes: Changes,
    /// What is held and done.
    ledger: Ledger,
    /// Decisions that are being carried out.
    running: Vec<(ActionId, Decision)>,
    /// The labels of the nodes that each of them launches and that have no record yet.
    launches: BTreeMap<ActionId, Vec<LabelName>>,
    next: u32,
    /// The pool of ours that is away.
    known_pool: Option<PoolState>,
    /// The component of a pool of ours that others do not see.
    unseen: Option<Arc<PoolComponent>>,
    planner: Planner,
    /// Whether the planner compares itself with everything after the next step, as the launcher does now and then.
    is_check_due: bool,
    /// Providers that are being replaced, and have not started yet.
    away: std::collections::BTreeSet<nodepool_common::model::ProviderName>,
    /// What was published after the last step: of the planner, with what waits by that; of the ledger, in words.
    published: Option<(PlannedThen, Held, String)>,
    /// What kinds of decisions were made.
    kinds: std::collections::BTreeSet<String>,
    /// Where nodes really stand that stand on others.
    truth: Truth,
}

impl History {
    fn world<'a>(
        &'a self,
        providers: &'a BTreeMap<nodepool_common::model::ProviderName, &'a ProviderState>,
    ) -> World<'a> {
        World {
            now: self.now,
            uptime: self.uptime,
            config: &self.config,
            records: &self.setting.records,
            pools: &self.setting.pools,
            providers,
            session: self.setting.session,
            holdings: &self.ledger,
            timing: Timing { request_lock: 5.0, accepts_at_once: 3, unowned_backing: 20.0, ..Timing::default() },
            stopping: self.setting.stopping,
            renewing: false,
        }
    }

    /// All planners decide; what they have decided is begun.
    #[allow(clippy::float_cmp)] // the very same moments, which nobody reckons
    fn decide(&mut self) -> Result<(), TestCaseError> {
        self.ledger.tidy(self.uptime);
        let touched = self.ledger.holdings_mut().take_touched();
        let changes = std::mem::take(&mut self.changes);
        let mut planner = std::mem::take(&mut self.planner);
        let is_check_due = std::mem::take(&mut self.is_check_due);
        let known = self.setting.providers.iter().filter(|(name, _)| !self.away.contains(*name));
        let providers = known.map(|(name, state)| (name.clone(), state)).collect();
        let world = self.world(&providers);
        let before = planner.waiting();
        let plan = planner.plan(&world, News { changes, touched, setting: false });
        let simple = Planner::simple().plan(&world, News::everything());
        prop_assert_eq!(&plan.decisions, &simple.decisions);
        prop_assert_eq!(&plan.wants, &simple.wants);
        prop_assert_eq!(&plan.paused, &simple.paused);
        prop_assert_eq!(&plan.starved, &simple.starved);
        // What is accepted for a tenant may be the last that it can have. Who looks at each request sees at once what that means
        // for those behind one that waits; who looks at the first of a class sees it in the pass that follows each accept.
        if !promises_a_tenant(&world, &plan) || plan.is_tenant_full {
            prop_assert_eq!(plan.is_tenant_full, simple.is_tenant_full);
        }
        prop_assert_eq!(&plan.idle_backing, &simple.idle_backing);
        // Who looks at each request also wakes for those behind one that waits, for which that changes nothing.
        let is_back_off =
            |at: &f64| self.ledger.requests_after.values().any(|after| world.wall(*after).total_cmp(at).is_eq());
        // The same of one that nobody has the labels of, behind one that is declined for that or waits by now.
        let is_grace = |at: &f64| {
            let free = world.records.requests.values().filter_map(|entry| entry.free_since);
            free.map(|since| since + world.timing.decline).any(|until| until.total_cmp(at).is_eq())
        };
        if simple.wake_at.is_none_or(|at| !is_back_off(&at) && !is_grace(&at)) {
            prop_assert_eq!(plan.wake_at, simple.wake_at);
        }
        let mut anew = Planner::default();
        let right = anew.plan(&world, News::everything());
        prop_assert_eq!(right.differences(&plan), Vec::<String>::new());
        if is_check_due {
            let (_, differences) = planner.check(&world, &plan);
            prop_assert_eq!(differences, Vec::<String>::new());
        }
        let waiting = planner.waiting();
        let reasons = |waiting: BTreeMap<_, WaitingSince>| -> BTreeMap<_, _> {
            waiting.into_iter().map(|(key, waiting)| (key, waiting.waiting)).collect()
        };
        prop_assert_eq!(reasons(waiting.clone()), reasons(anew.waiting()));
        for key in simple.waiting.keys() {
            prop_assert!(waiting.contains_key(key), "{:?} waits without a reason", key);
        }
        // Others wait for what the first of their class waits for, and may see other numbers.
        for (key, simple) in simple.waiting.iter().filter(|((id, _), _)| self.is_first_of_its_kind(id)) {
            prop_assert_eq!(&waiting[key].waiting, simple, "why {:?} waits", key);
        }
        for (key, now) in &waiting {
            prop_assert!(now.since <= self.now, "{:?} waits from {} on", key, now.since);
            if let Some(before) = before.get(key).filter(|old| old.waiting.reason.is_like(&now.waiting.reason)) {
                prop_assert_eq!(now.since, before.since, "since when {:?} waits", key);
            }
        }
        let model = Model { world: &world, running: &self.running };
        prop_assert_eq!(model.differences(planner.index(), &self.launches), Vec::<String>::new());
        prop_assert_eq!(model.broken_by(&plan, &waiting), Vec::<String>::new());
        prop_assert_eq!(&self.truth.broken, &Vec::<String>::new());
        let published = (planner.snapshot(), waiting);
        for request in self.setting.records.requests.values().filter_map(|entry| entry.usable()) {
            let its = published.1.iter().filter(|((id, _), _)| *id == request.id);
            let its = its.map(|((_, pool), waiting)| (pool.clone(), waiting.clone())).collect();
            prop_assert_eq!(published.0.waiting_of(request), its);
        }
        prop_assert_eq!(model.published(&published.0), Vec::<String>::new());
        self.planner = planner;
        self.note_idle(plan.idle_backing);
        self.begin(plan.decisions);
        self.check_published(published)
    }

    /// What is published after this step is as it is, and what was published after the last one is as it was: though nothing
    /// was copied, and the planner and the ledger have gone on.
    fn check_published(
        &mut self,
        planned: (Snapshot, BTreeMap<(RequestId, PoolKey), WaitingSince>),
    ) -> Result<(), TestCaseError> {
        let held = self.ledger.snapshot();
        let providers = self.setting.providers.iter().map(|(name, state)| (name.clone(), state)).collect();
        let world = World { holdings: &held.holdings, ..self.world(&providers) };
        let model = Model { world: &world, running: &self.running };
        prop_assert_eq!(model.published_held(&held, &self.launches), Vec::<String>::new());
        let said = format!("{held:?}");
        if let Some(((snapshot, waiting), held, said)) = self.published.replace((planned, held, said)) {
            prop_assert_eq!(snapshot.waiting(), waiting);
            prop_assert_eq!(format!("{held:?}"), said);
        }
        Ok(())
    }

    /// Whether no request that waits, and asks for the same, comes before this one.
    fn is_first_of_its_kind(&self, id: &RequestId) -> bool {
        let records = &self.setting.records.requests;
        let kind = |request: &NodeRequest| {
            let (labels, declined) = (request.node_types.clone(), request.declined_by.clone());
            (labels, declined, request.tenant_name.clone(), request.provider.clone(), request.reuse)
        };
        let order = |request: &NodeRequest| (request.id.priority().to_owned(), request.relative_priority);
        let Some(this) = records.get(id).and_then(|entry| entry.usable()) else { return false };
        records.values().filter_map(|entry| entry.usable()).all(|other| {
            kind(other) != kind(this) || (order(this), this.id.sequence()) <= (order(other), other.id.sequence())
        })
    }
}

/// Whether something is accepted for a tenant with limits.
fn promises_a_tenant(world: &World<'_>, plan: &Plan) -> bool {
    plan.decisions.iter().any(|decision| match decision {
        Decision::Accept { request, .. } => {
            let request = world.records.requests[request].record.as_ref().unwrap();
            request.tenant_name.as_ref().is_some_and(|tenant| world.config.tenant_limits.contains_key(tenant))
        }
        _ => false,
    })
}

proptest! {
    #![proptest_config(ProptestConfig { max_shrink_iters: 20_000, ..ProptestConfig::with_cases(cases()) })]

    #[test]
    fn what_is_remembered_changes_no_decision(steps in prop::collection::vec(any::<(u8, u16, u16)>(), 1..120)) {
        let mut history = History::new();
        for (what, which, how) in steps {
            history.step(what, which, how);
            history.decide()?;
        }
    }
}

/// The histories lead to every decision that a world without records that cannot be read knows, and to what becomes of those about
/// backing nodes.
#[test]
fn the_histories_lead_everywhere() {
    let known = [
        "Accept",
        "Attend",
        "BackingFailed",
        "BackingTaken",
        "CreateMinReady",
        "Deallocate",
        "Decline",
        "Delete",
        "FinishMinReady",
        "Forget",
        "Fulfil",
        "GiveUp",
        "LetBackingGo",
        "LetBackingGo BackingFailed",
        "LetBackingGo BackingIdle",
        "LetBackingGo BackingTooOld",
        "LetBackingGo BackingUnowned",
        "LetBackingGo LabelRemoved",
        "LetGo",
        "OrderBacking",
        "OthersWereFaster",
        "Place",
        "Placed",
        "PutBack",
        "PutBack Paused",
        "RemoveRequestLock",
        "ResetLost",
        "Retire",
        "SettleBacking",
        "Shown",
        "StopSeeking",
        "StopSeeking LabelRemoved",
        "StopSeeking NoBacking",
        "Supply",
    ];
    let mut kinds = std::collections::BTreeSet::<String>::new();
    // A beginning from which few histories are needed (42 when this was written; others need 75 to 300 of them).
    let mut random = 14_u64;
    let mut draw = || {
        // Knuth's MMIX.
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        random.to_be_bytes()
    };
    // What is rare needs more of them.
    for _ in 0..300 {
        if known.iter().all(|kind| kinds.contains(*kind)) {
            break;
        }
        let mut history = History::new();
        for _ in 0..150 {
            let [what, a, b, c, d, ..] = draw();
            history.step(what, u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]));
            history.decide().unwrap();
        }
        kinds.append(&mut history.kinds);
    }
    let missing: Vec<_> = known.into_iter().filter(|kind| !kinds.contains(*kind)).collect();
    assert!(missing.is_empty(), "not seen: {missing:?}, seen: {kinds:?}");
}

/// How many histories: a few seconds' worth, or as many as the environment asks for.
fn cases() -> u32 {
    std::env::var("PROPTEST_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(60)
}
