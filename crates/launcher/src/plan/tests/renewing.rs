//! What is decided while the records are read again after a broken connection.

use super::*;

fn renewing(mut setting: Setting) -> Plan {
    setting.renewing = true;
    setting.plan()
}

/// The requests that are accepted.
fn accepted(plan: &Plan) -> Vec<&str> {
    let accepted = plan.decisions.iter().filter_map(|decision| match decision {
        Decision::Accept { request, .. } => Some(request.as_str()),
        _ => None,
    });
    accepted.collect()
}

#[test]
fn only_what_can_be_served_from_stock_as_a_whole_is_accepted_in_order() {
    let plan = renewing(
        Setting::new()
            .provider("p", |_| {})
            .node("0000000001", "small", NodeState::Ready, |_| {})
            .node("0000000002", "small", NodeState::Ready, |_| {})
            .request("200-0000000001", &["big"], |_| {})
            .request("200-0000000003", &["small"], |_| {})
            .request("200-0000000004", &["small", "big"], |_| {})
            .request("100-0000000005", &["small"], |_| {})
            .request("200-0000000006", &["small"], |_| {}),
    );
    assert_eq!(accepted(&plan), ["100-0000000005", "200-0000000003"], "{plan:?}");
    assert_eq!(plan.decisions.len(), 2, "{plan:?}");
}

#[test]
fn what_is_in_stock_is_not_given_to_a_request_before_more_urgent_ones_that_need_more() {
    let setting = |labels: &[&str], other: &str| {
        let setting = Setting::new().provider("p", |_| {});
        setting.node("0000000001", "small", NodeState::Ready, |_| {}).request("100-0000000001", labels, |_| {}).request(
            "200-0000000002",
            &[other],
            |_| {},
        )
    };
    assert_eq!(accepted(&renewing(setting(&["small", "small"], "small"))), [""; 0]);
    assert_eq!(accepted(&renewing(setting(&["big", "small"], "small"))), [""; 0]);
    assert_eq!(accepted(&renewing(setting(&["big"], "small"))), ["200-0000000002"]);
    assert_eq!(
        accepted(&renewing(setting(&["unknown", "small"], "small"))),
        ["200-0000000002"],
        "it is to be declined"
    );
    let node = |setting: Setting| setting.node("0000000002", "small", NodeState::Ready, |_| {});
    assert_eq!(accepted(&renewing(node(setting(&["small", "small"], "small")))), ["100-0000000001"]);
}

#[test]
fn an_accepted_request_gets_all_from_stock_or_nothing_and_later_ones_do_not_take_what_it_waits_for() {
    let setting = || {
        Setting::new()
            .provider("p", |_| {})
            .accepted("200-0000000001", &["small", "small"])
            .accepted("200-0000000002", &["small"])
            .request("200-0000000003", &["small"], |_| {})
            .node("0000000001", "small", NodeState::Ready, |_| {})
    };
    let plan = renewing(setting());
    assert!(plan.decisions.is_empty(), "{plan:?}");
    let plan = renewing(setting().node("0000000002", "small", NodeState::Ready, |_| {}));
    let [Decision::Supply { request, reuse, launch, .. }] = &plan.decisions[..] else { panic!("{plan:?}") };
    assert_eq!((request.as_str(), reuse.len(), launch.len()), ("200-0000000001", 2, 0));
}

#[test]
fn a_node_is_set_aside_for_the_request_that_is_being_accepted_for_it() {
    let mut setting = Setting::new()
        .provider("p", |_| {})
        .node("0000000001", "small", NodeState::Ready, |_| {})
        .request("200-0000000001", &["small"], |_| {})
        .request("200-0000000002", &["small"], |_| {});
    let pool = setting.pools[0].key.clone();
    setting.holdings.accepting.insert("200-0000000001".into(), pool);
    setting.holdings.busy_requests.insert("200-0000000001".into());
    assert_eq!(accepted(&renewing(setting)), [""; 0]);
}

#[test]
fn who_has_limits_waits_because_what_they_have_is_not_all_seen() {
    let setting = |limited: bool| {
        let mut setting = Setting::new()
            .provider("p", |_| {})
            .node("0000000001", "small", NodeState::Ready, |_| {})
            .request("200-0000000001", &["small"], |_| {});
        let entry = setting.request_entry("200-0000000001");
        let mut request = (**entry.record.as_ref().unwrap()).clone();
        request.tenant_name = Some("t".into());
        entry.record = Ok(Arc::new(request));
        if limited {
            setting.config.tenant_limits.insert("t".into(), Resources::new().with("cores", 100.0));
        }
        setting
    };
    assert_eq!(accepted(&renewing(setting(false))), ["200-0000000001"]);
    assert_eq!(accepted(&renewing(setting(true))), [""; 0]);
}

/// Each of them is decided when all is seen, and none of those that conclude from what is not seen while it is renewed.
#[test]
fn what_is_to_be_deleted_is_and_nothing_follows_from_what_is_not_seen() {
    let setting = || {
        Setting::new()
            .provider("p", |_| {})
            .node("0000000001", "small", NodeState::Used, |_| {})
            .node("0000000002", "small", NodeState::Ready, |n| n.allocated_to = Some("200-0000000009".into()))
            .node("0000000003", "small", NodeState::Init, |_| {})
            .request("200-0000000001", &["small"], |_| {})
            .request("200-0000000002", &["unknown"], |_| {})
    };
    let kinds = |plan: &Plan| -> Vec<String> {
        let name =
            |decision: &Decision| format!("{decision:?}").split_whitespace().next().unwrap_or_default().to_owned();
        let mut kinds: Vec<_> = plan.decisions.iter().map(name).collect();
        kinds.sort();
        kinds
    };
    let all = setting().plan();
    assert_eq!(kinds(&all), ["Accept", "Deallocate", "Decline", "Delete", "Retire"], "{all:?}");
    let plan = renewing(setting());
    assert_eq!(kinds(&plan), ["Delete"], "{plan:?}");
}

#[test]
fn what_requests_wait_for_and_since_when_stays_as_it_was() {
    let mut setting = Setting::new()
        .provider("p", |pool| pool.limits = Resources::new().with("instances", 1.0))
        .node("0000000001", "small", NodeState::InUse, |_| {})
        .request("200-0000000001", &["small"], |_| {})
        .request("200-0000000002", &["small"], |_| {});
    let mut planner = Planner::default();
    setting.plan_by(&mut planner);
    let before = planner.waiting();
    assert_eq!(before.len(), 1);
    setting.renewing = true;
    setting.plan_by(&mut planner);
    assert_eq!(planner.waiting(), before);
}
