//! What is set aside while decisions are carried out.

use super::*;

fn pool() -> PoolKey {
    PoolKey { provider: "p".into(), pool: "main".into() }
}

/// One decision of each kind.
fn one_of_each() -> Vec<Decision> {
    let reason = || Reason::Stopping;
    vec![
        Decision::Accept { pool: pool(), request: "r".into() },
        Decision::Decline { request: "r".into(), pools: Vec::new() },
        Decision::Supply {
            pool: pool(),
            request: "r".into(),
            reuse: vec![("7".into(), "small".into())],
            launch: vec![NewNode { label: "small".into(), az: None }],
        },
        Decision::Fulfil { request: "r".into(), nodes: Vec::new() },
        Decision::GiveUp { request: "r".into(), reasons: Vec::new() },
        Decision::PutBack { request: "r".into(), reason: reason() },
        Decision::Forget { request: "r".into() },
        Decision::LetGo { node: "7".into(), reason: reason() },
        Decision::Retire { node: "7".into(), reason: reason() },
        Decision::Delete { node: "7".into() },
        Decision::Deallocate { node: "7".into(), request: "r".into() },
        Decision::ResetLost { request: "r".into() },
        Decision::RemoveRecord { node: "7".into() },
        Decision::RemoveRequestLock { request: "r".into() },
        Decision::CreateMinReady { label: "small".into(), count: 1 },
        Decision::OrderBacking { provider: "p".into(), label: "small".into(), backing: "big".into(), count: 1 },
        Decision::SettleBacking { provider: "p".into(), request: "r".into() },
        Decision::Place { provider: "p".into(), on: "7".into(), slots: vec![("8".into(), 0), ("9".into(), 1)] },
        Decision::LetBackingGo { provider: "p".into(), node: "7".into(), reason: reason() },
        Decision::FinishMinReady { request: "r".into() },
    ]
}

#[test]
fn what_an_action_works_on_is_set_aside_until_it_has_ended() {
    for decision in one_of_each() {
        let mut ledger = Ledger::default();
        let action = ledger.begin(&decision);
        assert!(!ledger.is_idle(), "{decision:?}");
        let (request, node) = decision.subjects();
        assert!(request.is_none_or(|request| ledger.busy_requests.contains(request)), "{decision:?}");
        assert!(node.is_none_or(|node| ledger.busy_nodes.contains(node)), "{decision:?}");
        assert_eq!(ledger.end(action).as_deref(), Some(&decision));
        assert_eq!(ledger.end(action), None, "it ends once");
        assert!(ledger.is_idle(), "{decision:?}");
        let held = &ledger;
        let left = held.busy_requests.iter().count() + held.busy_nodes.iter().count() + held.starting.len();
        let left = left + held.accepting.len() + held.busy_labels.len() + held.busy_backing.len() + held.placing.len();
        assert_eq!((left, held.busy_hosts.len()), (0, 0), "{decision:?}");
    }
}

#[test]
fn a_launch_is_in_one_place_from_its_decision_to_its_end() {
    let mut ledger = Ledger::default();
    let new = |label: &str| NewNode { label: label.into(), az: None };
    let launch = vec![new("small"), new("small"), new("big")];
    let supply = Decision::Supply { pool: pool(), request: "r".into(), reuse: Vec::new(), launch };
    let action = ledger.begin(&supply);
    let all = |ledger: &Ledger| ledger.starting.len() + ledger.nodes.iter().count();
    assert_eq!((ledger.starting.len(), all(&ledger)), (3, 3));
    ledger.on_record("1".into(), "r".into(), &pool(), "small".into());
    ledger.on_record("2".into(), "r".into(), &pool(), "big".into());
    assert_eq!((ledger.starting.len(), all(&ledger)), (1, 3));
    assert_eq!(*ledger.starting, [("r".into(), pool(), "small".into())]);
    // The record of the third cannot be made: with the end of the action nothing is left of it.
    ledger.end(action);
    assert_eq!((ledger.starting.len(), all(&ledger)), (0, 2));
    assert!(ledger.launched(&"1".into(), None));
    ledger.launch_ended(&"1".into());
    assert!(ledger.nodes.contains_key(&"1".into()), "it is ready and ours");
    ledger.launch_ended(&"2".into());
    assert!(!ledger.nodes.contains_key(&"2".into()), "it has lost its lock");
    assert!(!ledger.launched(&"2".into(), None), "what is not ours any more does not come back");
}

#[test]
fn each_failure_in_a_row_doubles_the_pause() {
    let mut ledger = Ledger::default();
    let what = || Attempted::Deletion("1".into());
    let mut after = |what| format!("{}", ledger.failed_again(what, 1.0, 6.0));
    let pauses: Vec<_> = (0..4).map(|_| after(what())).collect();
    assert_eq!(pauses, ["1", "2", "4", "6"]);
    assert_eq!(after(Attempted::Deletion("2".into())), "1", "another one");
    ledger.worked(&what());
    assert_eq!(format!("{}", ledger.failed_again(what(), 1.0, 6.0)), "1");
}

#[test]
fn what_waits_for_a_time_waits_no_longer() {
    let mut ledger = Ledger::default();
    let at = UPTIME + 60.0;
    let id = nodepool_common::config::HostId { name: "a".to_owned(), username: "zuul".to_owned(), port: 22 };
    let held = ledger.holdings_mut();
    held.nodes_after.insert("1".into(), at);
    held.requests_after.insert("r".into(), at);
    held.min_ready_after.insert("small".into(), at);
    held.hosts_after.insert(HostKey { provider: "p".into(), host: id }, at);
    held.backing_after.insert(("p".into(), "small".into()), at);
    held.not_kept.insert("2".into(), at);
    let mut waiting_at = |seconds: f64| {
        ledger.tidy(UPTIME + seconds);
        [
            ledger.nodes_after.len(),
            ledger.requests_after.len(),
            ledger.min_ready_after.len(),
            ledger.hosts_after.len(),
            ledger.backing_after.len(),
            ledger.not_kept.len(),
        ]
    };
    assert_eq!(waiting_at(59.0), [1; 6]);
    assert_eq!(waiting_at(61.0), [0; 6]);
}
