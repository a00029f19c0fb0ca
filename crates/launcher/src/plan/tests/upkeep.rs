//! What becomes of nodes and requests that nobody works on.

use super::*;

#[test]
fn unlocked_nodes_that_nobody_needs_are_deleted_and_locked_ones_are_left_alone() {
    for state in [NodeState::Used, NodeState::InUse, NodeState::Building, NodeState::Failed, NodeState::Deleting] {
        let mut setting = Setting::new().provider("p", |_| {}).node("0000000001", "small", state, |_| {});
        assert_eq!(setting.plan().decisions, [Decision::Delete { node: "0000000001".into() }], "{state}");
        let node = setting.node_entry("0000000001");
        node.contenders.insert("somebody".to_owned());
        assert!(setting.plan().decisions.is_empty(), "{state}");
    }
    let others = Setting::new().provider("p", |_| {}).node("1", "small", NodeState::Used, |n| {
        n.provider = Some("elsewhere".into());
    });
    assert!(others.plan().decisions.is_empty(), "a node of a provider that is not ours");
}

/// Upstream's `test_node_deallocation` and `test_lost_requests`.
#[test]
fn what_a_dead_launcher_left_is_taken_up() {
    let setting = Setting::new()
        .provider("p", |_| {})
        .node("0000000001", "small", NodeState::Ready, |n| n.allocated_to = Some("MISSING".into()))
        .request("200-0000000001", &["small"], |r| r.state = RequestState::Pending);
    let plan = setting.plan();
    assert!(plan.decisions.contains(&Decision::Deallocate { node: "0000000001".into(), request: "MISSING".into() }));
    assert!(plan.decisions.contains(&Decision::ResetLost { request: "200-0000000001".into() }));
}

/// Its launcher has lost the lock of the node, so it can neither hand it over nor let go of it.
#[test]
fn a_node_allocated_to_a_request_that_is_not_fulfilled_is_freed_when_nobody_has_it() {
    for (state, free_for, is_freed) in [
        (RequestState::Pending, 40.0, true),
        (RequestState::Pending, 10.0, false),
        (RequestState::Requested, 40.0, true),
        (RequestState::Failed, 40.0, true),
        // Zuul is about to lock it.
        (RequestState::Fulfilled, 4000.0, false),
    ] {
        let mut setting = Setting::new()
            .provider("p", |_| {})
            .node("1", "small", NodeState::Ready, |n| n.allocated_to = Some("200-1".into()))
            .request("200-1", &["small"], |r| r.state = state);
        setting.request_entry("200-1").contenders.insert("somebody".to_owned());
        setting.node_entry("1").free_since = Some(NOW - free_for);
        let decided = Decision::Deallocate { node: "1".into(), request: "200-1".into() };
        let plan = setting.plan();
        assert_eq!(plan.decisions.contains(&decided), is_freed, "{state}, for {free_for} s: {:?}", plan.decisions);
        if state == RequestState::Pending && !is_freed {
            assert_eq!(plan.wake_at, Some(NOW + 20.0));
        }
    }
}

#[test]
fn a_pending_request_that_has_just_been_unlocked_is_given_a_moment() {
    let mut setting =
        Setting::new().provider("p", |_| {}).request("200-0000000001", &["small"], |r| r.state = RequestState::Pending);
    change_each(&mut setting.records.requests, |entry| Arc::make_mut(entry).free_since = Some(NOW - 0.1));
    let plan = setting.plan();
    assert!(plan.decisions.is_empty());
    assert_eq!(plan.wake_at, Some(NOW + 0.9));
}

#[test]
fn a_node_that_a_request_gets_is_not_taken_away_in_the_same_pass() {
    let mut setting = Setting::new()
        .provider("p", |_| {})
        .node("1", "small", NodeState::Ready, |_| {})
        .accepted("200-0000000001", &["small"]);
    setting.config.labels.get_mut("small").unwrap().max_ready_age = Some(Duration::from_secs(100));
    assert!(matches!(&setting.plan().decisions[..], [Decision::Supply { reuse, .. }] if reuse.len() == 1));
}

/// Upstream's `test_max_ready_age`, `test_max_hold_age` and `test_hold_expiration_*`.
#[test]
fn nodes_are_retired_at_their_age() {
    let mut setting = Setting::new().provider("p", |_| {}).node("1", "small", NodeState::Ready, |_| {});
    setting.config.labels.get_mut("small").unwrap().max_ready_age = Some(Duration::from_secs(100));
    assert!(matches!(&setting.plan().decisions[..], [Decision::Retire { .. }]));
    setting.config.labels.get_mut("small").unwrap().max_ready_age = Some(Duration::from_secs(130));
    assert_eq!(setting.plan().wake_at, Some(NOW + 30.0));

    for (own, general, retired) in [
        (None, None, false),
        (Some(99), None, true),
        (Some(101), None, false),
        (Some(0), None, false),
        (None, Some(99), true),
        (Some(5000), Some(99), true),
        (Some(99), Some(5000), true),
        (Some(5000), Some(5000), false),
    ] {
        let mut setting =
            Setting::new().provider("p", |_| {}).node("1", "small", NodeState::Hold, |n| n.hold_expiration = own);
        setting.config.max_hold_age = general.map(Duration::from_secs);
        assert_eq!(!setting.plan().decisions.is_empty(), retired, "{own:?} {general:?}");
    }
}

#[test]
fn nodes_of_others_and_held_ones_are_not_looked_at_in_each_pass() {
    let mut setting = Setting::new().provider("p", |_| {});
    setting.config.max_hold_age = Some(Duration::from_secs(130));
    for number in 0..10 {
        let theirs = |node: &mut Node| node.provider = Some("theirs".into());
        setting = setting.node(&format!("{number:010}"), "small", NodeState::InUse, theirs);
        setting = setting.node(&format!("{:010}", 10 + number), "small", NodeState::Hold, |_| {});
    }
    let plan = setting.plan();
    assert_eq!((plan.node_looks, plan.decisions.len(), plan.wake_at), (0, 0, Some(NOW + 30.0)), "{plan:?}");
    setting.config.max_hold_age = Some(Duration::from_secs(100));
    let plan = setting.plan();
    assert_eq!((plan.node_looks, plan.decisions.len()), (10, 10), "{plan:?}");
}

#[test]
fn min_ready_counts_what_is_ready_and_what_is_ordered_by_anybody() {
    let mut setting = Setting::new()
        .provider("p", |_| {})
        .node("1", "small", NodeState::Ready, |_| {})
        .node("2", "small", NodeState::Ready, |n| n.allocated_to = Some("200-0000000009".into()))
        .request("200-0000000009", &["small"], |r| r.state = RequestState::Fulfilled)
        .request("900-0000000001", &["small"], |r| r.requestor = Some("NodePool:min-ready".to_owned()));
    setting.config.labels.get_mut("small").unwrap().min_ready = 4;
    let plan = setting.plan();
    assert!(plan.decisions.contains(&Decision::CreateMinReady { label: "small".into(), count: 2 }), "{plan:?}");
    setting.holdings.min_ready_after.insert("small".into(), UPTIME + 9.0);
    let plan = setting.plan();
    assert!(!plan.decisions.iter().any(|d| matches!(d, Decision::CreateMinReady { .. })));
    assert_eq!(plan.wake_at, Some(NOW + 9.0));
}

#[test]
fn our_own_min_ready_requests_are_finished_and_those_of_others_left_to_them() {
    let mut setting = Setting::new().provider("p", |_| {}).request("900-0000000001", &["small"], |r| {
        r.requestor = Some("NodePool:min-ready".to_owned());
        r.state = RequestState::Failed;
    });
    assert!(setting.plan().decisions.is_empty());
    change_each(&mut setting.records.requests, |entry| Arc::make_mut(entry).stat.ephemeral_owner = 7);
    assert_eq!(setting.plan().decisions, [Decision::FinishMinReady { request: "900-0000000001".into() }]);
}

#[test]
fn nothing_is_asked_for_in_place_of_a_request_of_ours_that_has_just_failed() {
    let failed = |request: &mut NodeRequest| {
        request.requestor = Some("NodePool:min-ready".to_owned());
        request.state = RequestState::Failed;
    };
    let mut setting = Setting::new().provider("p", |_| {}).request("900-0000000001", &["small"], failed);
    setting.config.labels.get_mut("small").unwrap().min_ready = 1;
    let asks = Decision::CreateMinReady { label: "small".into(), count: 1 };
    assert_eq!(setting.plan().decisions, [asks], "its owner may be dead");
    change_each(&mut setting.records.requests, |entry| Arc::make_mut(entry).stat.ephemeral_owner = 7);
    assert_eq!(setting.plan().decisions, [Decision::FinishMinReady { request: "900-0000000001".into() }]);
}

#[test]
fn empty_records_and_old_lock_directories_are_removed() {
    let mut setting = Setting::new().provider("p", |_| {}).node("1", "small", NodeState::Ready, |_| {});
    setting.node_entry("1").record = Err(nodepool_common::model::RecordError::Empty);
    #[allow(clippy::cast_possible_truncation)]
    let lock =
        nodepool_common::model::RequestLock { ctime: ((NOW - 9.0 * 3600.0) * 1000.0) as i64, ..Default::default() };
    setting.records.request_locks.insert("200-0000000001".into(), lock);
    let plan = setting.plan();
    assert!(plan.decisions.contains(&Decision::RemoveRecord { node: "1".into() }));
    assert!(plan.decisions.contains(&Decision::RemoveRequestLock { request: "200-0000000001".into() }));
}

#[test]
fn a_lock_directory_whose_removal_failed_is_removed_as_soon_as_its_pause_is_over() {
    let mut setting = Setting::new().provider("p", |_| {});
    #[allow(clippy::cast_possible_truncation)]
    let lock =
        nodepool_common::model::RequestLock { ctime: ((NOW - 9.0 * 3600.0) * 1000.0) as i64, ..Default::default() };
    let id = nodepool_common::model::RequestId::from("200-0000000001");
    setting.records.request_locks.insert(id.clone(), lock);
    setting.holdings.requests_after.insert(id.clone(), UPTIME + 1.0);
    let plan = setting.plan();
    assert_eq!((plan.decisions.len(), plan.wake_at), (0, Some(NOW + 1.0)));
    setting.holdings.requests_after.insert(id.clone(), UPTIME);
    assert_eq!(setting.plan().decisions, [Decision::RemoveRequestLock { request: id }]);
}

#[test]
fn a_stopping_launcher_takes_nothing_on_and_finishes_what_it_has() {
    let mut setting = Setting::new()
        .provider("p", |_| {})
        .request("200-0000000009", &["small"], |_| {})
        .accepted("200-0000000001", &["small"])
        .node("0000000001", "small", NodeState::Ready, |_| {})
        .held("0000000001", "200-0000000001", false, None)
        .accepted("200-0000000002", &["small"])
        .accepted("200-0000000003", &["small"])
        .node("0000000003", "small", NodeState::Building, |_| {})
        .held("0000000003", "200-0000000003", true, None);
    setting.stopping = true;
    let plan = setting.plan();
    assert!(
        matches!(
            &plan.decisions[..],
            [Decision::Fulfil { .. }, Decision::PutBack { request, .. }] if *request == *"200-0000000002"
        ),
        "{plan:?}"
    );
}

#[test]
fn a_ready_node_whose_server_has_gone_is_retired_and_not_handed_out() {
    let mut setting = Setting::new()
        .provider("p", |_| {})
        .node("0000000001", "small", NodeState::Ready, |_| {})
        .node("0000000002", "small", NodeState::Ready, |_| {})
        .accepted("200-0000000001", &["small", "small"]);
    setting.config.labels.get_mut("small").unwrap().min_ready = 2;
    let provider = setting.providers.values_mut().next().unwrap();
    provider.gone.insert("0000000001".into(), "it was evicted".to_owned());
    let plan = setting.plan();
    let retire =
        Decision::Retire { node: "0000000001".into(), reason: Reason::Gone { why: "it was evicted".to_owned() } };
    assert!(plan.decisions.contains(&retire), "{:?}", plan.decisions);
    let Some(Decision::Supply { reuse, launch, .. }) = plan.decisions.first() else { panic!("{plan:?}") };
    assert_eq!((&reuse[..], launch.len()), (&[("0000000002".into(), "small".into())][..], 1));
    assert!(plan.decisions.contains(&Decision::CreateMinReady { label: "small".into(), count: 1 }), "it is no stock");
    // Whoever has it now finds out by himself.
    let node = setting.node_entry("0000000001");
    node.contenders.insert("zuul".to_owned());
    assert!(!setting.plan().decisions.contains(&retire));
}

/// Of a writer whose clock is far ahead, or worse.
#[test]
fn a_state_time_to_come_puts_nothing_off_for_ever() {
    let old = Stat { mtime: 900_000_000, ..Stat::default() };
    for state_time in [NOW + 1e6, 1e300] {
        let mut setting = Setting::new()
            .provider("p", |_| {})
            .node("0000000001", "small", NodeState::Ready, |n| n.state_time = state_time);
        setting.config.labels.get_mut("small").unwrap().max_ready_age = Some(Duration::from_secs(3600));
        assert!(setting.plan().decisions.is_empty(), "nothing says how old it is");
        assert_eq!(setting.plan().wake_at, Some(NOW + 3600.0));
        change_each(&mut setting.records.nodes, |entry| Arc::make_mut(entry).stat = old);
        assert!(
            matches!(setting.plan().decisions.as_slice(), [Decision::Retire { .. }]),
            "written long ago: {:?}",
            setting.plan()
        );
    }
    let setting = Setting::new().provider("p", |_| {}).node("0000000001", "small", NodeState::Deleted, |n| {
        n.state_time = -1e300;
    });
    assert_eq!(setting.plan().decisions, [Decision::Delete { node: "0000000001".into() }]);
}
