//! Since when requests wait, and what is looked at again meanwhile.

use super::*;

/// A planner over a setting that changes.
pub(super) struct Watch {
    pub(super) setting: Setting,
    pub(super) config: Arc<Config>,
    planner: Planner,
    now: f64,
}

impl Watch {
    pub(super) fn new(setting: Setting) -> Self {
        let config = Arc::new(setting.config.clone());
        Self { setting, config, planner: Planner::default(), now: NOW }
    }

    /// A pass, some seconds later; these requests have changed.
    pub(super) fn pass(&mut self, after: f64, changed: &[&str]) -> Plan {
        let mut news = News { touched: self.setting.holdings.take_touched(), ..News::default() };
        news.changes.requests.extend(changed.iter().map(|id| RequestId::from(*id)));
        self.now += after;
        self.with_world(|planner, world| planner.plan(world, news))
    }

    fn uptime(&self) -> Uptime {
        UPTIME + (self.now - NOW)
    }

    fn with_world<R>(&mut self, look: impl FnOnce(&mut Planner, &World<'_>) -> R) -> R {
        let providers = self.setting.providers.iter().map(|(name, state)| (name.clone(), state)).collect();
        let world = World {
            now: self.now,
            uptime: self.uptime(),
            config: &self.config,
            records: &self.setting.records,
            pools: &self.setting.pools,
            providers: &providers,
            session: self.setting.session,
            holdings: &self.setting.holdings,
            timing: Timing::default(),
            stopping: false,
            renewing: false,
        };
        look(&mut self.planner, &world)
    }

    /// For how long a request has waited by now in the pool of provider p, for what it waits for.
    fn waits(&self, request: &str) -> Option<f64> {
        let waiting = self.planner.waiting();
        let pool = PoolKey { provider: "p".into(), pool: "main".into() };
        waiting.get(&(request.into(), pool)).map(|waiting| self.now - waiting.since)
    }

    pub(super) fn request(&mut self, id: &str, labels: &[&str], change: impl FnOnce(&mut NodeRequest)) {
        let setting = std::mem::replace(&mut self.setting, Setting::new());
        self.setting = setting.request(id, labels, change);
    }

    fn change(&mut self, id: &str, change: impl FnOnce(&mut NodeRequest)) {
        let entry = self.setting.request_entry(id);
        change(Arc::make_mut(entry.record.as_mut().unwrap()));
    }

    fn lock(&mut self, id: &str, locked: bool) {
        let entry = self.setting.request_entry(id);
        entry.contenders = locked.then(|| "another's".to_owned()).into_iter().collect();
    }
}

const FIRST: &str = "100-0000000000";
const SECOND: &str = "100-0000000001";
const THIRD: &str = "100-0000000002";

/// A pool with two cores, which are in use; a request waits for one, accepted, and another one behind it.
fn full() -> Watch {
    let setting = Setting::new().provider("p", |pool| pool.limits = cores(2.0));
    let setting = setting.node("0000000001", "small", NodeState::InUse, |node| node.resources = Some(cores(2.0)));
    Watch::new(setting.request(SECOND, &["small"], |_| {}).accepted(FIRST, &["small"]))
}

/// Whatever is looked at again meanwhile.
#[test]
fn a_request_waits_since_it_began_to() {
    let mut watch = full();
    watch.pass(0.0, &[]);
    assert_eq!((watch.waits(FIRST), watch.waits(SECOND)), (Some(0.0), Some(0.0)));
    let plan = watch.pass(300.0, &[]);
    let (_, differences) = watch.with_world(|planner, world| planner.check(world, &plan));
    assert_eq!(differences, Vec::<String>::new());
    assert_eq!((watch.waits(FIRST), watch.waits(SECOND)), (Some(300.0), Some(300.0)));
    // Another one, of another class; and one more of the same class.
    watch.request(THIRD, &["small"], |request| request.tenant_name = Some("t".into()));
    watch.request("100-0000000003", &["small"], |_| {});
    watch.pass(100.0, &[THIRD, "100-0000000003"]);
    watch.pass(5.0, &[]);
    assert_eq!((watch.waits(SECOND), watch.waits(THIRD)), (Some(405.0), Some(5.0)));
    assert_eq!(watch.waits("100-0000000003"), Some(5.0));
}

#[test]
fn a_request_that_is_locked_or_declined_elsewhere_meanwhile_has_waited_all_the_time() {
    let mut watch = full();
    watch.pass(0.0, &[]);
    watch.lock(SECOND, true);
    watch.pass(60.0, &[SECOND]);
    assert_eq!(watch.waits(SECOND), None, "somebody may be accepting it");
    watch.lock(SECOND, false);
    watch.pass(0.5, &[SECOND]);
    assert_eq!(watch.waits(SECOND), Some(60.5));
    watch.change(SECOND, |request| request.declined_by.push("another".into()));
    watch.pass(10.0, &[SECOND]);
    assert_eq!(watch.waits(SECOND), Some(70.5));
    watch.change(SECOND, |request| request.relative_priority = 3);
    watch.pass(10.0, &[SECOND]);
    assert_eq!(watch.waits(SECOND), Some(80.5));
    // All is looked at anew, and something has happened meanwhile.
    watch.change(SECOND, |request| request.declined_by.push("one more".into()));
    watch.now += 10.0;
    watch.with_world(|planner, world| planner.plan(world, News::everything()));
    assert_eq!(watch.waits(SECOND), Some(90.5));
    // Whoever had it for longer has tried to serve it.
    watch.lock(SECOND, true);
    watch.pass(1.0, &[SECOND]);
    watch.lock(SECOND, false);
    watch.pass(100.0, &[SECOND]);
    assert_eq!(watch.waits(SECOND), Some(0.0));
}

/// Its zone is drawn by its number while there are idle nodes that it might get, and by its class else.
#[test]
fn a_request_that_is_judged_by_itself_and_then_with_its_class_has_waited_all_the_time() {
    let mut watch = full();
    watch.change(SECOND, |request| request.node_types = vec!["small".into(), "small".into()]);
    let is_single = |plan: &Plan| plan.waiting.keys().any(|(id, _)| *id == *SECOND);
    let idle = |watch: &mut Watch, idle: bool| {
        let setting = std::mem::replace(&mut watch.setting, Setting::new());
        let state = if idle { NodeState::Ready } else { NodeState::InUse };
        watch.setting = setting.node("0000000002", "small", state, |node| node.az = Some("elsewhere".into()));
        watch.now += 10.0;
        let mut news = News::default();
        news.changes.nodes.insert("0000000002".into());
        // The room is kept for the first one.
        let uptime = watch.uptime();
        watch.setting.holdings.nodes_after.insert("0000000002".into(), uptime + 5.0);
        watch.with_world(|planner, world| planner.plan(world, news))
    };
    assert!(!is_single(&watch.pass(0.0, &[])));
    assert!(is_single(&idle(&mut watch, true)));
    assert_eq!(watch.waits(SECOND), Some(10.0));
    assert!(!is_single(&idle(&mut watch, false)));
    assert_eq!(watch.waits(SECOND), Some(20.0));
}

#[test]
fn an_accepted_request_that_an_action_works_on_pauses_its_pool_once() {
    let mut watch = full();
    let news = |plan: &Plan| plan.newly_waiting.iter().filter(|new| new.request == *FIRST).count();
    assert_eq!(news(&watch.pass(0.0, &[])), 1);
    watch.setting.holdings.busy_requests.insert(FIRST.into());
    assert_eq!(news(&watch.pass(60.0, &[])), 0);
    assert_eq!(watch.waits(FIRST), None);
    watch.setting.holdings.busy_requests.remove(&FIRST.into());
    let plan = watch.pass(1.0, &[]);
    assert_eq!(news(&plan), 0, "{:?}", plan.newly_waiting);
    assert_eq!(watch.waits(FIRST), Some(61.0));
}

#[test]
fn what_waits_has_waited_as_long_as_before_when_the_clock_was_set() {
    let mut watch = full();
    watch.pass(0.0, &[]);
    watch.lock(SECOND, true);
    watch.pass(10.0, &[SECOND]);
    watch.now += 3600.0;
    watch.planner.clock_stepped(3600.0);
    watch.lock(SECOND, false);
    watch.pass(1.0, &[SECOND]);
    assert_eq!((watch.waits(FIRST), watch.waits(SECOND)), (Some(11.0), Some(11.0)));
}

#[test]
fn a_change_that_nobody_was_told_of_is_found_by_the_check() {
    let mut watch = full();
    watch.pass(0.0, &[]);
    watch.setting.records.nodes.remove("0000000001");
    let plan = watch.pass(1.0, &[]);
    let (right, differences) = watch.with_world(|planner, world| planner.check(world, &plan));
    assert!(right.decisions.iter().any(|decision| matches!(decision, Decision::Supply { .. })), "{right:?}");
    let told = |words: &str| differences.iter().any(|difference| difference.contains(words));
    assert!(told("decisions") && told("what (PoolKey"), "{differences:?}");
}

/// Where it is not enough for an accepted request, nothing in the pool has changed for those that wait.
#[test]
fn a_look_at_the_stock_leaves_nothing_set_aside() {
    let mut setting = Setting::new().provider("p", |_| {});
    setting.config.tenant_limits.insert("t".into(), cores(1.0));
    let in_use = |node: &mut Node| (node.tenant_name, node.resources) = (Some("t".into()), Some(cores(1.0)));
    let setting = setting.node("0000000001", "small", NodeState::InUse, in_use);
    let setting = setting.node("0000000002", "small", NodeState::Ready, |_| {}).accepted(FIRST, &["small", "big"]);
    let mut watch = Watch::new(setting.request(SECOND, &["small"], |request| request.tenant_name = Some("t".into())));
    // One of its nodes is in stock; the cloud does not say what the other takes.
    watch.setting.providers.get_mut("p").unwrap().label_resources.remove(&("main".into(), "big".into()));
    assert!(watch.pass(0.0, &[]).looks > 0);
    let plan = watch.pass(1.0, &[]);
    assert!(plan.waiting.keys().any(|(id, _)| *id == *FIRST), "{plan:?}");
    assert_eq!(watch.waits(SECOND), Some(1.0));
    assert_eq!(plan.looks, 0, "nothing has changed: {plan:?}");
}

#[test]
fn every_plan_says_whether_a_tenant_is_at_its_limits() {
    let mut setting = Setting::new().provider("p", |_| {});
    setting.config.tenant_limits.insert("t".into(), cores(1.0));
    let in_use = |node: &mut Node| (node.tenant_name, node.resources) = (Some("t".into()), Some(cores(1.0)));
    let setting = setting.node("0000000001", "small", NodeState::InUse, in_use);
    let mut watch = Watch::new(setting.request(SECOND, &["small"], |request| request.tenant_name = Some("t".into())));
    assert!(watch.pass(0.0, &[]).is_tenant_full);
    let plan = watch.pass(1.0, &[]);
    assert!(plan.is_tenant_full && plan.looks == 0, "{plan:?}");
}

/// A pool declines each request whose labels it lacks: on a site with several launchers most of them wait like that.
#[test]
fn what_some_pools_have_declined_is_not_looked_at_in_each_pass() {
    let mut watch = full();
    let ids: Vec<_> = (10..30).map(|number| format!("100-{number:010}")).collect();
    for id in &ids {
        watch.request(id, &["small"], |request| request.declined_by.push("id-another".into()));
    }
    watch.pass(0.0, &ids.iter().map(String::as_str).collect::<Vec<_>>());
    assert_eq!(watch.waits(&ids[9]), Some(0.0));
    let plan = watch.pass(1.0, &[]);
    assert_eq!(plan.looks, 0, "{plan:?}");
    assert_eq!(watch.waits(&ids[9]), Some(1.0));
}

/// Found by a history: of a node that became ready later than now, as its launcher's clock is ahead of ours, or ours was set back.
#[test]
fn when_a_node_will_be_too_old_does_not_depend_on_when_it_was_looked_at() {
    for state in [NodeState::Ready, NodeState::Hold] {
        let setting = Setting::new().provider("p", |_| {});
        let mut setting = setting.node("0000000001", "small", state, |node| node.state_time = NOW + 5.0);
        setting.config.labels.get_mut("small").unwrap().max_ready_age = Some(Duration::from_secs(100));
        setting.config.max_hold_age = Some(Duration::from_secs(100));
        change_each(&mut setting.records.nodes, |entry| Arc::make_mut(entry).stat.mtime = 1_000_005_000);
        let mut watch = Watch::new(setting);
        watch.pass(0.0, &[]);
        let plan = watch.pass(10.0, &[]);
        let (_, differences) = watch.with_world(|planner, world| planner.check(world, &plan));
        assert_eq!((differences, plan.wake_at), (Vec::new(), Some(NOW + 105.0)), "{state:?}");
        assert_eq!(watch.pass(94.0, &[]).decisions, [], "{state:?}");
        assert_eq!(watch.pass(1.0, &[]).decisions.len(), 1, "{state:?}");
    }
}
