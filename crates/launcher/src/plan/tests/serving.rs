//! How accepted requests get their nodes.

use super::*;

#[test]
fn an_accepted_request_takes_ready_nodes_first_and_launches_the_rest_in_one_zone() {
    let plan = Setting::new()
        .provider("p", |_| {})
        .node("0000000001", "small", NodeState::Ready, |n| n.az = Some("az2".into()))
        .node("0000000002", "big", NodeState::Ready, |n| n.az = Some("az1".into()))
        .accepted("200-0000000001", &["small", "big", "small"])
        .plan();
    let Some(Decision::Supply { reuse, launch, .. }) = plan.decisions.first() else { panic!("{plan:?}") };
    assert_eq!(reuse, &[("0000000001".into(), "small".into())], "the big one is in another zone");
    assert_eq!(launch.len(), 2);
    assert!(launch.iter().all(|node| node.az.as_deref() == Some("az2")), "{launch:?}");
}

#[test]
fn a_min_ready_request_never_takes_a_ready_node() {
    let mut setting = Setting::new()
        .provider("p", |_| {})
        .node("0000000001", "small", NodeState::Ready, |_| {})
        .accepted("900-0000000001", &["small"]);
    let id = RequestId::from("900-0000000001");
    let mut request = (**setting.records.requests[&id].record.as_ref().unwrap()).clone();
    request.reuse = false;
    setting.request_entry(id.as_str()).record = Ok(Arc::new(request));
    assert_eq!(launches(&setting.plan()), 1);
}

/// Upstream's `test_node_assignment_order`.
#[test]
fn nodes_are_handed_over_in_the_order_of_the_labels() {
    let plan = Setting::new()
        .provider("p", |_| {})
        .accepted("200-0000000001", &["big", "small", "big"])
        .node("0000000001", "small", NodeState::Ready, |_| {})
        .held("0000000001", "200-0000000001", false, None)
        .node("0000000002", "big", NodeState::Ready, |_| {})
        .held("0000000002", "200-0000000001", false, None)
        .node("0000000003", "big", NodeState::Ready, |_| {})
        .held("0000000003", "200-0000000001", false, None)
        .plan();
    let Some(Decision::Fulfil { nodes, .. }) = plan.decisions.first() else { panic!("{plan:?}") };
    assert_eq!(nodes[1], *"0000000001");
    assert_eq!(nodes.len(), 3);
}

#[test]
fn a_node_that_is_ready_on_record_counts_once_its_launch_has_given_the_lock_back() {
    let mut setting = Setting::new()
        .provider("p", |_| {})
        .accepted("200-0000000001", &["small"])
        .node("0000000001", "small", NodeState::Ready, |_| {})
        .held("0000000001", "200-0000000001", true, None);
    assert!(setting.plan().decisions.is_empty());
    setting.holdings.nodes.get_mut(&"0000000001".into()).unwrap().launching = false;
    assert!(matches!(&setting.plan().decisions[..], [Decision::Fulfil { .. }]));
}

#[test]
fn a_request_with_a_failed_node_is_given_up_with_the_reason() {
    let plan = Setting::new()
        .provider("p", |_| {})
        .accepted("200-0000000001", &["small"])
        .node("0000000001", "small", NodeState::Failed, |_| {})
        .held("0000000001", "200-0000000001", false, Some("no host keys"))
        .plan();
    assert_eq!(
        plan.decisions[0],
        Decision::GiveUp {
            request: "200-0000000001".into(),
            reasons: vec![Reason::LaunchFailed { why: "no host keys".to_owned() }]
        }
    );
}

/// Another pool had accepted the request, and gave it up while launches went on.
#[test]
fn what_another_pool_has_made_for_a_request_does_not_count_for_the_one_that_has_it_now() {
    let of_other = |node: &mut Node| node.pool = Some("other".into());
    let setting = Setting::new()
        .provider("p", |_| {})
        .accepted("200-0000000001", &["small", "small"])
        .node("0000000001", "small", NodeState::Ready, of_other)
        .held("0000000001", "200-0000000001", false, None)
        .node("0000000002", "small", NodeState::Failed, of_other)
        .held("0000000002", "200-0000000001", false, Some("no host keys"))
        .node("0000000003", "small", NodeState::Building, of_other)
        .held("0000000003", "200-0000000001", true, None);
    let plan = setting.plan();
    let let_go = |id: &str| Decision::LetGo { node: id.into(), reason: Reason::NotNeeded };
    assert_eq!(plan.decisions[..2], [let_go("0000000001"), let_go("0000000002")]);
    assert_eq!((launches(&plan), plan.decisions.len()), (2, 3), "{plan:?}");
}

/// Somebody else has taken the node that it was accepted for, and the cloud is away.
#[test]
fn a_request_without_a_node_does_not_wait_with_us_while_the_cloud_does_not_answer() {
    let mut setting = Setting::new().provider("p", |_| {}).accepted("200-0000000001", &["small"]);
    let state = setting.providers.get_mut("p").unwrap();
    state.label_resources.clear();
    assert!(setting.plan().decisions.is_empty(), "it answers in a moment");
    let state = setting.providers.get_mut("p").unwrap();
    state.trouble = Some("connection refused".to_owned());
    let plan = setting.plan();
    let [Decision::PutBack { request, reason: Reason::Unknown { .. } }] = &plan.decisions[..] else {
        panic!("{plan:?}")
    };
    assert_eq!(*request, *"200-0000000001");
    // Also where it is the zones that are not known.
    let state = setting.providers.get_mut("p").unwrap();
    for (label, amount) in [("small", 1.0), ("big", 4.0)] {
        state.label_resources.insert(("main".into(), label.into()), Ok(cores(amount)));
    }
    state.zones = None;
    let main = &mut Arc::make_mut(setting.config.providers.get_mut("p").unwrap()).pools[0];
    main.availability_zones.clear();
    let plan = setting.plan();
    assert!(matches!(&plan.decisions[..], [Decision::PutBack { .. }]), "{plan:?}");
    // What it has already it would lose.
    let setting = setting
        .accepted("200-0000000001", &["small", "big"])
        .node("0000000001", "small", NodeState::Ready, |_| {})
        .held("0000000001", "200-0000000001", false, None);
    assert!(setting.plan().decisions.is_empty(), "{:?}", setting.plan());
}

#[test]
fn an_aborted_node_is_let_go_and_its_request_waits_until_the_cloud_may_be_asked_again() {
    let mut setting = Setting::new()
        .provider("p", |_| {})
        .accepted("200-0000000001", &["small"])
        .node("0000000001", "small", NodeState::Aborted, |_| {})
        .held("0000000001", "200-0000000001", false, None);
    setting.providers.values_mut().next().unwrap().launch_after = Some(NOW + 2.0);
    let plan = setting.plan();
    assert!(matches!(&plan.decisions[..], [Decision::LetGo { .. }]), "{plan:?}");
    assert_eq!(plan.paused.len(), 1);
    assert_eq!(plan.wake_at, Some(NOW + 2.0));
}

/// Upstream's `test_provider_wont_wedge`; but one node at a time: upstream's guard against one a second never triggers.
#[test]
fn at_a_limit_one_idle_node_makes_room() {
    let setting = Setting::new()
        .provider("p", |pool| pool.limits = cores(2.0))
        .node("0000000001", "small", NodeState::Ready, |n| n.state_time = NOW - 5.0)
        .node("0000000002", "small", NodeState::Ready, |n| n.state_time = NOW - 9.0)
        .accepted("200-0000000001", &["big"]);
    let mut larger = Setting { config: setting.config.clone(), ..setting };
    let mut provider = (*larger.config.providers["p"]).clone();
    provider.pools[0].limits = cores(4.0);
    larger.config.providers.insert("p".into(), Arc::new(provider));
    let retired: Vec<_> =
        larger.plan().decisions.into_iter().filter(|d| matches!(d, Decision::Retire { .. })).collect();
    assert!(matches!(&retired[..], [Decision::Retire { node, .. }] if *node == *"0000000002"), "{retired:?}");
    let leaving = larger.node("0000000003", "small", NodeState::Deleting, |_| {});
    assert!(!leaving.plan().decisions.iter().any(|d| matches!(d, Decision::Retire { .. })), "one is on its way out");
}

/// Upstream's `test_fail_minready_request_at_capacity`.
#[test]
fn a_min_ready_request_at_capacity_is_declined_instead_of_pausing_the_pool() {
    let plan = Setting::new()
        .provider("p", |pool| pool.limits = cores(1.0))
        .node("0000000001", "small", NodeState::InUse, |_| {})
        .request("900-0000000001", &["small"], |r| r.requestor = Some("NodePool:min-ready".to_owned()))
        .plan();
    assert_eq!(declines(&plan).len(), 1);
    assert!(plan.paused.is_empty());
}

/// Upstream's `test_paused_gets_declined`.
#[test]
fn a_paused_request_that_can_no_longer_be_served_at_all_is_given_up() {
    let plan = Setting::new()
        .provider("p", |pool| pool.limits = cores(1.0))
        .accepted("200-0000000001", &["small", "small"])
        .plan();
    assert!(matches!(&plan.decisions[0], Decision::GiveUp { .. }), "{plan:?}");
}

#[test]
fn a_withdrawn_request_is_forgotten_and_its_nodes_become_free() {
    let mut setting = Setting::new()
        .provider("p", |_| {})
        .accepted("200-0000000001", &["small"])
        .node("0000000001", "small", NodeState::Ready, |_| {})
        .held("0000000001", "200-0000000001", false, None);
    setting.records.requests.clear();
    assert_eq!(setting.plan().decisions, [Decision::Forget { request: "200-0000000001".into() }]);
    setting.holdings.requests = Tracked::default();
    assert!(matches!(&setting.plan().decisions[..], [Decision::LetGo { .. }]));
}
