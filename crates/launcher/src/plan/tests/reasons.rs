//! Reasons as people and programs are shown them.

use super::*;

fn excess(bound: Bound) -> Excess {
    let short = |resource: &str, needed, there| Short { resource: resource.to_owned(), needed, there };
    Excess { bound, short: vec![short("cores", 4.0, 2.5), short("instances", 1.0, -1.0)] }
}

#[test]
fn a_reason_is_put_into_words_once() {
    let words = |reason: Reason| reason.to_string();
    assert_eq!(
        words(Reason::NoRoom { label: "big".into(), excess: excess(Bound::PoolRest) }),
        "big exceeds what remains of the pool's limits: 4 cores needed, 2.5 there, 1 instances needed, -1 there"
    );
    assert_eq!(
        words(Reason::AloneTooLarge(excess(Bound::ProviderQuota))),
        "it would exceed quota: the request alone exceeds the provider's quota: 4 cores needed, 2.5 there, \
         1 instances needed, -1 there"
    );
    assert_eq!(
        words(Reason::LabelsMissing {
            labels: vec!["a".into(), "b".into()],
            broken: vec![BrokenLabel { label: "b".into(), why: "no image".to_owned() }]
        }),
        "node type(s) [a, b] not available; label b cannot be used: no image"
    );
    let unknown = |want, is_too_old| Reason::Unknown { want, is_too_old, trouble: Some("refused".to_owned()) };
    assert_eq!(words(unknown(Want::Quota("p".into()), false)), "the quota of provider p is not known yet: refused");
    assert_eq!(
        words(unknown(Want::Quota("p".into()), true)),
        "the quota of provider p that is known is too small, and is asked for anew: refused"
    );
    assert_eq!(
        words(Reason::AtCapacity { of: Box::new(Reason::NoneFree { label: "l".into() }) }),
        "at capacity: no node of label l is free"
    );
}

#[test]
fn programs_get_its_code_and_its_numbers() {
    let shown = |reason: &Reason| serde_json::to_value(reason).unwrap();
    assert_eq!(
        shown(&Reason::TenantFull { tenant: "t".into(), excess: excess(Bound::TenantRest) }),
        serde_json::json!({
            "code": "tenant-full", "tenant": "t", "bound": "tenant-rest",
            "short": [
                {"resource": "cores", "needed": 4.0, "there": 2.5},
                {"resource": "instances", "needed": 1.0, "there": -1.0},
            ],
        })
    );
    let want = Want::LabelReady("p".into(), "main".into(), "l".into());
    assert_eq!(
        shown(&Reason::Unknown { want, is_too_old: false, trouble: None }),
        serde_json::json!({
            "code": "unknown", "want": {"label-ready": ["p", "main", "l"]}, "is_too_old": false, "trouble": null
        })
    );
    assert_eq!(
        shown(&Reason::AtCapacity { of: Box::new(Reason::TurnToCome) }),
        serde_json::json!({"code": "at-capacity", "of": {"code": "turn-to-come"}})
    );
    assert_eq!(shown(&Reason::OfNoUse { state: Some(NodeState::Failed) })["state"], "failed");
    let host = HostId { name: "h".to_owned(), username: "zuul".to_owned(), port: 22 };
    assert_eq!(shown(&Reason::TooManyOnHost { host, slots: 2 })["host"], "zuul@h:22");
}

/// What waits says what ends that; what is final does not.
#[test]
fn whatever_waits_ends_by_something() {
    let setting = Setting::new()
        .provider("p", |pool| pool.limits = cores(1.0))
        .quota(&cores(8.0))
        .request("100-0000000001", &["small"], |_| {})
        .request("100-0000000002", &["small"], |_| {})
        .request("100-0000000003", &["small"], |_| {})
        .request("100-0000000004", &["unheard-of"], |_| {});
    let mut setting = setting.node("0000000001", "small", NodeState::InUse, |_| {});
    // Nobody has its label, but it has just come.
    setting.request_entry("100-0000000004").free_since = Some(NOW);
    let plan = setting.plan();
    assert!(!plan.waiting.is_empty());
    for (key, waiting) in &plan.waiting {
        assert!(waiting.reason.ended_by().is_some(), "{key:?} waits: {}", waiting.reason);
    }
    assert_eq!(Reason::PoolDisabled.ended_by(), None);
}
