//! Which pool takes a waiting request, and which declines it.

use super::*;
use nodepool_common::model::{Pause, Pauses, PoolName};

#[test]
fn a_request_that_a_pool_can_serve_is_accepted() {
    let plan = Setting::new().provider("p", |_| {}).request("200-0000000001", &["small"], |_| {}).plan();
    assert_eq!(accepts(&plan), [("200-0000000001".into(), "p".into())]);
}

#[test]
fn a_request_that_no_pool_can_serve_is_declined_by_each_in_one_write() {
    let plan = Setting::new()
        .provider("p", |_| {})
        .provider("q", |pool| pool.disabled = true)
        .request("200-0000000001", &["huge"], |_| {})
        .plan();
    let declines = declines(&plan);
    assert_eq!(declines.len(), 1);
    assert_eq!(declines[0].1.len(), 2, "{declines:?}");
    assert!(declines[0].1.iter().any(|reason| reason.contains("huge")), "{declines:?}");
}

#[test]
fn a_request_for_a_label_that_is_left_out_is_declined_with_what_is_wrong_with_it() {
    let plan = Setting::new()
        .provider("p", |pool| {
            pool.labels.shift_remove("small");
            pool.broken_labels.insert("small".into(), "`volume-size` must be a whole number".to_owned());
        })
        .request("200-0000000001", &["small"], |_| {})
        .plan();
    let declines = declines(&plan);
    let expected =
        "node type(s) [small] not available; label small cannot be used: `volume-size` must be a whole number";
    assert_eq!(declines[0].1, [expected], "{declines:?}");
}

/// Upstream's `test_request_order` and `test_request_order_missing_label`.
#[test]
fn requests_are_taken_by_priority_and_those_that_can_be_served_first() {
    let plan = Setting::new()
        .provider("p", |_| {})
        .request("200-0000000001", &["small"], |r| r.relative_priority = 2)
        .request("200-0000000002", &["small"], |r| r.relative_priority = 1)
        .request("100-0000000003", &["small"], |r| r.relative_priority = 9)
        .request("099-0000000004", &["huge"], |_| {})
        .plan();
    let order: Vec<_> = accepts(&plan).into_iter().map(|(id, _)| id).collect();
    assert_eq!(order, ["100-0000000003", "200-0000000002", "200-0000000001"]);
    assert!(matches!(plan.decisions.last(), Some(Decision::Decline { .. })), "declines come last");
}

#[test]
fn so_many_are_accepted_at_once_and_the_next_ones_as_these_are_done() {
    let mut setting = Setting::new().provider("p", |_| {}).provider("q", |_| {});
    let most = Timing::default().accepts_at_once;
    for number in 0..most + 3 {
        setting = setting.request(&format!("200-{number:010}"), &["small"], |_| {});
    }
    let first = accepts(&setting.plan());
    assert_eq!(first.len(), most, "of both pools together");
    for (request, _) in &first {
        setting.holdings.busy_requests.insert(request.as_str().into());
        let pool = PoolKey { provider: "p".into(), pool: "main".into() };
        setting.holdings.accepting.insert(request.as_str().into(), pool);
    }
    let plan = setting.plan();
    assert_eq!(accepts(&plan), []);
    assert!(plan.waiting.values().all(|waiting| waiting.reason == Reason::TurnToCome), "{:?}", plan.waiting);
    for (request, _) in first.iter().take(2) {
        setting.holdings.accepting.remove(request.as_str());
    }
    let next: Vec<_> = accepts(&setting.plan()).into_iter().map(|(request, _)| request).collect();
    assert_eq!(next, [most, most + 1].map(|number| format!("200-{number:010}")));
}

/// Each listing costs calls, and nothing that it shows would help them.
#[test]
fn the_cloud_is_not_waited_for_by_requests_that_only_wait_for_their_turn_or_for_others() {
    let mut watch = since::Watch::new(Setting::new().provider("p", |_| {}).provider("q", |_| {}));
    let most = Timing::default().accepts_at_once;
    let ids: Vec<_> = (0..most + 3).map(|number| format!("200-{number:010}")).collect();
    for id in &ids {
        watch.request(id, &["small"], |request| request.provider = Some("p".into()));
    }
    let plan = watch.pass(0.0, &[]);
    assert_eq!(accepts(&plan).len(), most);
    assert!(plan.newly_waiting.iter().any(|new| new.waiting.reason == Reason::TurnToCome), "{plan:?}");
    let is_left = |new: &NewlyWaiting| matches!(new.waiting.reason, Reason::LeftToProvider { .. });
    assert!(plan.newly_waiting.iter().any(is_left), "{plan:?}");
    assert!(plan.pools_waited_for.is_empty(), "{:?}", plan.pools_waited_for);
    // Now there is no room.
    let in_use = |node: &mut Node| node.resources = Some(cores(1.0));
    let setting = std::mem::replace(&mut watch.setting, Setting::new());
    watch.setting = setting.node("0000000001", "small", NodeState::InUse, in_use);
    let pool = &mut Arc::make_mut(watch.setting.config.providers.get_mut("p").unwrap()).pools[0];
    pool.limits = cores(1.0);
    watch.config = Arc::new(watch.setting.config.clone());
    let plan = watch.pass(1.0, &[]);
    let p = PoolKey { provider: "p".into(), pool: "main".into() };
    assert_eq!(plan.pools_waited_for, [p].into(), "{plan:?}");
}

/// Each of them could fill up what may be accepted at once.
#[test]
fn a_burst_in_one_pool_is_not_in_the_way_of_what_is_more_urgent_in_another() {
    let only = |label: &'static str| move |pool: &mut Pool| pool.labels.retain(|name, _| *name == label);
    let mut setting = Setting::new().provider("p", only("small")).provider("q", only("big"));
    let most = Timing::default().accepts_at_once;
    for number in 0..most + 3 {
        setting = setting.request(&format!("300-{number:010}"), &["small"], |_| {});
    }
    setting = setting.request("300-0000000900", &["big"], |_| {}).request("100-0000000901", &["big"], |_| {});
    let plan = setting.plan();
    let first = accepts(&plan);
    assert_eq!(first[0], ("100-0000000901".into(), "q".into()), "{first:?}");
    let expected: Vec<_> = (0..most - 1).map(|number| (format!("300-{number:010}"), "p".to_owned())).collect();
    assert_eq!(first[1..], expected, "the others by their order, and no more than may be");
    let next = plan.waiting.iter().filter(|(_, waiting)| waiting.reason == Reason::TurnToCome);
    let next: Vec<_> = next.map(|((id, pool), _)| (id.to_string(), pool.provider.to_string())).collect();
    let mut expected: Vec<_> = (most - 1..most + 3).map(|n| (format!("300-{n:010}"), "p".to_owned())).collect();
    expected.push(("300-0000000900".to_owned(), "q".to_owned()));
    assert_eq!(next, expected);
}

/// What has its turn in a later pass has its room set aside in this one.
#[test]
fn a_request_for_stock_is_not_declined_for_the_room_of_what_has_its_turn_later() {
    let most = Timing::default().accepts_at_once;
    let mut setting = Setting::new().provider("p", |_| {}).provider("q", |pool| pool.limits = cores(4.0));
    for number in 0..most {
        setting = setting.request(&format!("300-{number:010}"), &["small"], |r| r.provider = Some("p".into()));
    }
    let for_q = |request: &mut NodeRequest| request.provider = Some("q".into());
    setting = setting.request("400-0000000900", &["big"], for_q).request("900-0000000901", &["small"], |request| {
        for_q(request);
        request.requestor = Some("NodePool:min-ready".to_owned());
    });
    let plan = setting.plan();
    assert!(!accepts(&plan).iter().any(|(_, pool)| pool == "q"), "its turn comes later: {plan:?}");
    assert_eq!(declines(&plan), []);
    let key = ("900-0000000901".into(), PoolKey { provider: "q".into(), pool: "main".into() });
    assert_eq!(plan.waiting[&key].reason, Reason::TurnToCome);
    setting.records.requests.remove("300-0000000000");
    let plan = setting.plan();
    assert_eq!((accepts(&plan).len(), declines(&plan).len()), (most, 1), "now there is no room: {plan:?}");
}

#[test]
fn a_pool_whose_component_is_not_seen_yet_decides_nothing() {
    let mut setting = Setting::new().provider("p", |_| {}).request("200-0000000001", &["huge"], |_| {});
    setting.records.pools.clear();
    assert!(setting.plan().decisions.is_empty());
}

#[test]
fn nothing_is_declined_before_all_our_pools_are_seen() {
    let mut setting = Setting::new()
        .provider("p", |_| {})
        .provider("q", |_| {})
        .request("200-0000000001", &["huge"], |_| {})
        .request("200-0000000002", &["small"], |_| {});
    let is_of_p = |pool: &PoolComponent| pool.provider_name.as_ref().is_some_and(|name| *name == *"p");
    setting.records.pools = setting.records.pools.into_iter().filter(|(_, pool)| is_of_p(pool)).collect();
    let plan = setting.plan();
    assert_eq!((declines(&plan).len(), accepts(&plan).len()), (0, 1), "{plan:?}");
    let key = ("200-0000000001".into(), PoolKey { provider: "p".into(), pool: "main".into() });
    assert!(matches!(plan.waiting[&key].reason, Reason::LabelsMissing { .. }), "it is said why it waits");
}

#[test]
fn a_request_is_left_to_the_provider_it_prefers_while_that_one_can_serve_it() {
    let setting =
        Setting::new()
            .provider("p", |_| {})
            .provider("q", |_| {})
            .request("200-0000000001", &["small"], |r| r.provider = Some("q".into()));
    assert_eq!(accepts(&setting.plan()), [("200-0000000001".into(), "q".into())]);
    // Upstream's test_node_request_invalid_provider.
    let unknown = Setting::new()
        .provider("p", |_| {})
        .request("200-0000000001", &["small"], |r| r.provider = Some("missing".into()));
    assert_eq!(accepts(&unknown.plan()).len(), 1);
}

/// Upstream's `test_provider_priority`.
#[test]
fn a_pool_of_lower_priority_waits_until_the_better_one_is_paused() {
    let mut setting = Setting::new()
        .provider("low", |pool| pool.priority = 2)
        .provider("high", |pool| pool.priority = 1)
        .request("200-0000000001", &["small"], |_| {});
    assert_eq!(accepts(&setting.plan())[0].1, "high");
    let mut high = (*setting.records.pools["high"]).clone();
    high.paused = true;
    setting.records.pools.insert("high".to_owned(), Arc::new(high));
    setting.pools.retain(|pool| pool.key.provider == *"low");
    assert_eq!(accepts(&setting.plan())[0].1, "low");
}

#[test]
fn a_request_whose_labels_nobody_has_is_given_a_moment() {
    let mut setting = Setting::new().provider("p", |_| {}).request("200-0000000001", &["huge"], |_| {});
    change_each(&mut setting.records.requests, |entry| Arc::make_mut(entry).free_since = Some(NOW - 0.5));
    let plan = setting.plan();
    assert!(plan.decisions.is_empty());
    assert_eq!(plan.wake_at, Some(NOW + 1.5));
}

#[test]
fn a_pool_without_the_labels_leaves_the_request_to_one_that_has_them() {
    let plan = Setting::new()
        .provider("p", |pool| {
            pool.labels.shift_remove("big");
        })
        .provider("q", |_| {})
        .request("200-0000000001", &["big"], |_| {})
        .plan();
    assert_eq!(accepts(&plan), [("200-0000000001".into(), "q".into())]);
    assert!(declines(&plan).is_empty());
}

#[test]
fn a_request_larger_than_the_limits_is_declined_and_one_that_only_has_to_wait_is_not() {
    let too_large = Setting::new()
        .provider("p", |pool| pool.limits = cores(7.0))
        .request("200-0000000001", &["big", "big"], |_| {})
        .plan();
    assert!(declines(&too_large)[0].1[0].contains("exceed"), "{too_large:?}");
    let has_to_wait = Setting::new()
        .provider("p", |pool| pool.limits = cores(7.0))
        .node("0000000001", "big", NodeState::InUse, |_| {})
        .request("200-0000000001", &["big"], |_| {})
        .plan();
    assert_eq!(accepts(&has_to_wait).len(), 1);
}

#[test]
fn a_request_waits_for_what_others_of_the_project_use_unless_another_provider_can_serve_it() {
    let full = |setting: Setting| {
        let mut setting = setting.request("200-0000000001", &["big"], |_| {});
        let quota = ProjectQuota { limits: cores(4.0), ours: cores(1.0) };
        setting.providers.get_mut("p").unwrap().quota = Some(quota);
        setting.plan()
    };
    let alone = full(Setting::new().provider("p", |_| {}));
    assert_eq!((accepts(&alone).len(), declines(&alone).len(), alone.paused.len()), (0, 0, 0), "{alone:?}");
    assert_eq!(alone.starved.len(), 1, "the quota is looked at again soon: {alone:?}");
    let reason = &alone.waiting.values().next().unwrap().reason;
    assert!(reason.to_string().contains("others of its project leave"), "{reason}");
    let smaller = full(Setting::new().provider("p", |_| {}).request("300-0000000002", &["small"], |_| {}));
    assert_eq!(accepts(&smaller).len(), 1, "what needs less is served meanwhile: {smaller:?}");
    let beside = full(Setting::new().provider("p", |pool| pool.priority = 1).provider("q", |_| {}));
    assert_eq!(declines(&beside).len(), 1, "{beside:?}");
}

#[test]
fn a_pool_accepts_up_to_the_first_request_that_has_to_wait_and_leaves_the_rest_to_others() {
    let mut setting = Setting::new().provider("p", |_| {}).quota(&cores(5.0));
    for n in 1..=5 {
        setting = setting.request(&format!("200-000000000{n}"), &["big"], |_| {});
    }
    let plan = setting.plan();
    assert_eq!(accepts(&plan).len(), 2, "one that fits, one that waits: {plan:?}");
}

#[test]
fn a_paused_pool_still_declines_what_it_cannot_serve() {
    let plan = Setting::new()
        .provider("p", |pool| pool.limits = cores(4.0))
        .node("0000000001", "big", NodeState::InUse, |_| {})
        .accepted("200-0000000001", &["big"])
        .request("200-0000000002", &["huge"], |_| {})
        .plan();
    assert_eq!(plan.paused.len(), 1);
    assert_eq!(declines(&plan).len(), 1);
}

#[test]
fn a_paused_pool_takes_what_ready_nodes_can_serve_but_nothing_that_its_paused_requests_wait_for() {
    let setting = Setting::new()
        .provider("p", |pool| pool.limits = cores(5.0))
        .node("0000000001", "big", NodeState::InUse, |_| {})
        .node("0000000002", "small", NodeState::Ready, |_| {})
        .node("0000000003", "small", NodeState::Used, |_| {})
        .accepted("200-0000000001", &["big"])
        .request("200-0000000002", &["small"], |_| {})
        .request("200-0000000003", &["small"], |_| {});
    let plan = setting.plan();
    assert_eq!(accepts(&plan), [("200-0000000002".into(), "p".into())], "one ready node, one request: {plan:?}");
}

#[test]
fn of_two_requests_that_each_have_a_part_the_later_one_lets_go_so_that_the_first_can_finish() {
    let setting = Setting::new()
        .provider("p", |pool| pool.limits = cores(4.0))
        .accepted("200-0000000001", &["small", "small", "small"])
        .accepted("200-0000000002", &["small", "small", "small"])
        .node("0000000001", "small", NodeState::Ready, |_| {})
        .held("0000000001", "200-0000000001", false, None)
        .node("0000000002", "small", NodeState::Ready, |_| {})
        .held("0000000002", "200-0000000001", false, None)
        .node("0000000003", "small", NodeState::Ready, |_| {})
        .held("0000000003", "200-0000000002", false, None)
        .node("0000000004", "small", NodeState::Ready, |_| {})
        .held("0000000004", "200-0000000002", false, None);
    let plan = setting.plan();
    let let_go: Vec<_> = plan.decisions.iter().filter(|d| matches!(d, Decision::LetGo { .. })).collect();
    assert_eq!(let_go.len(), 2, "{plan:?}");
    assert_eq!(launches(&plan), 0);
}

#[test]
fn one_request_waits_in_a_pool_and_the_next_one_stays_free_while_an_action_is_under_way() {
    let mut setting = Setting::new()
        .provider("p", |pool| pool.limits = cores(4.0))
        .node("0000000001", "big", NodeState::InUse, |_| {})
        .accepted("200-0000000001", &["big"])
        .request("200-0000000002", &["big"], |_| {});
    assert!(accepts(&setting.plan()).is_empty(), "one waits already");
    setting.holdings.busy_requests.insert("200-0000000001".into());
    assert!(accepts(&setting.plan()).is_empty(), "whether it still waits is not clear at the moment");
}

#[test]
fn what_every_pool_that_is_left_has_declined_is_failed_after_a_while() {
    let mut setting = Setting::new()
        .provider("p", |_| {})
        .request("200-0000000001", &["small"], |r| r.declined_by = vec!["id-p".into(), "id-gone".into()]);
    let plan = setting.plan();
    assert_eq!(plan.decisions, [Decision::Decline { request: "200-0000000001".into(), pools: vec![] }]);
    change_each(&mut setting.records.requests, |entry| Arc::make_mut(entry).free_since = Some(NOW - 1.0));
    let plan = setting.plan();
    assert!(plan.decisions.is_empty());
    assert_eq!(plan.wake_at, Some(NOW + 14.0));
}

/// Upstream's `test_node_assignment_at_tenant_quota_*`.
#[test]
fn a_tenant_at_its_limit_waits_and_others_do_not() {
    let mut setting = Setting::new()
        .provider("p", |_| {})
        .node("0000000001", "small", NodeState::InUse, |n| {
            n.tenant_name = Some("t".into());
            n.resources = Some(cores(1.0));
        })
        .request("200-0000000001", &["small"], |r| r.tenant_name = Some("t".into()))
        .request("200-0000000002", &["small"], |r| r.tenant_name = Some("t".into()))
        .request("200-0000000003", &["small"], |r| r.tenant_name = Some("u".into()));
    setting.config.tenant_limits.insert("t".into(), cores(2.0));
    let plan = setting.plan();
    let ids: Vec<_> = accepts(&plan).into_iter().map(|(id, _)| id).collect();
    assert_eq!(ids, ["200-0000000001", "200-0000000003"]);
    assert!(plan.waiting.values().any(|w| w.reason.to_string().contains("tenant t")), "{:?}", plan.waiting);
}

#[test]
fn what_a_tenant_was_promised_counts_before_its_nodes_are_on_record() {
    let mut setting = Setting::new()
        .provider("p", |_| {})
        .request("200-0000000001", &["small"], |r| r.tenant_name = Some("t".into()))
        .request("200-0000000002", &["small"], |r| r.tenant_name = Some("t".into()));
    setting.config.tenant_limits.insert("t".into(), cores(1.0));
    let pool = PoolKey { provider: "p".into(), pool: "main".into() };
    setting.holdings.busy_requests.insert("200-0000000001".into());
    setting.holdings.accepting.insert("200-0000000001".into(), pool.clone());
    assert!(accepts(&setting.plan()).is_empty(), "while it is being accepted");
    setting.holdings.accepting.clear();
    setting.holdings.requests.insert("200-0000000001".into(), HeldRequest { pool });
    assert!(accepts(&setting.plan()).is_empty(), "once it is accepted");
}

#[test]
fn max_concurrency_of_zero_takes_and_declines_nothing() {
    let mut setting = Setting::new().provider("p", |_| {}).request("200-0000000001", &["small"], |_| {}).request(
        "200-0000000002",
        &["huge"],
        |_| {},
    );
    let mut provider = (*setting.config.providers["p"]).clone();
    provider.max_concurrency = Some(0);
    setting.config.providers.insert("p".into(), Arc::new(provider.clone()));
    assert!(setting.plan().decisions.is_empty());
    provider.max_concurrency = Some(1);
    setting.config.providers.insert("p".into(), Arc::new(provider));
    assert_eq!(accepts(&setting.plan()).len(), 1);
    let pool = PoolKey { provider: "p".into(), pool: "main".into() };
    setting.holdings.busy_requests.insert("200-0000000001".into());
    setting.holdings.accepting.insert("200-0000000001".into(), pool);
    assert!(accepts(&setting.plan()).is_empty(), "one is being accepted");
}

#[test]
fn what_is_not_known_yet_is_asked_for_and_nothing_is_declined_meanwhile() {
    let mut setting = Setting::new().provider("p", |_| {}).request("200-0000000001", &["small"], |_| {});
    let state = setting.providers.values_mut().next().unwrap();
    state.quota = None;
    state.trouble = Some("connection refused".to_owned());
    let plan = setting.plan();
    assert!(plan.decisions.is_empty());
    assert!(plan.wants.contains(&Want::Quota("p".into())));
    assert!(plan.waiting.values().next().unwrap().reason.to_string().contains("connection refused"));
}

/// On a quiet site nobody asks for a quota anew, and a request that was declined comes back only to be declined again.
#[test]
fn a_request_is_declined_on_a_fresh_quota_only() {
    let want = Want::Quota("p".into());
    let asked_for = |setting: &Setting| {
        let plan = setting.plan();
        (declines(&plan).len(), accepts(&plan).len(), plan.wants.contains(&want))
    };
    let small = cores(2.0);
    let mut setting = Setting::new().provider("p", |_| {}).request("200-0000000001", &["big"], |_| {}).quota(&small);
    let age = Timing::default().fresh_quota;
    let quota_at = |setting: &mut Setting, at: f64| setting.providers.values_mut().for_each(|p| p.quota_at = at);
    quota_at(&mut setting, NOW - age - 1.0);
    assert_eq!(asked_for(&setting), (0, 0, true), "the quota may be another one by now");
    let reason = setting.plan().waiting.into_values().next().unwrap().reason;
    assert!(reason.to_string().contains("asked for anew"), "{reason}");
    quota_at(&mut setting, NOW + 3600.0);
    assert_eq!(asked_for(&setting), (0, 0, true), "nor is one fresh because the clock was set back since");
    quota_at(&mut setting, NOW - age + 1.0);
    assert_eq!(asked_for(&setting), (1, 0, false));
    // What others leave of it is no older.
    for state in setting.providers.values_mut() {
        state.quota = Some(ProjectQuota { limits: cores(8.0), ours: cores(2.0) });
    }
    quota_at(&mut setting, NOW - age - 1.0);
    assert_eq!(asked_for(&setting), (0, 0, true));
    // An acceptance may rest on an older one.
    let mut setting = setting.quota(&cores(8.0));
    quota_at(&mut setting, NOW - 3000.0);
    assert_eq!(asked_for(&setting), (0, 1, false));
}

/// People make an image and ask for a node of it at once.
#[test]
fn a_request_is_not_declined_for_an_image_that_was_missing_before_it_was_made() {
    let at = ("main".into(), LabelName::from("small"));
    let declined = |asked: f64, made: f64| {
        let mut setting = Setting::new().provider("p", |_| {}).request("200-0000000001", &["small"], |_| {});
        let state = setting.providers.values_mut().next().unwrap();
        state.cloud_images.insert(at.clone(), CloudImage::Missing(asked));
        #[allow(clippy::cast_possible_truncation)]
        change_each(&mut setting.records.requests, |entry| {
            Arc::make_mut(entry).stat.ctime = (made * 1000.0) as i64;
        });
        let plan = setting.plan();
        (declines(&plan).len(), plan.wants.len())
    };
    assert_eq!(declined(NOW - 4.0, NOW - 3.0), (0, 1), "it may be there by now");
    assert_eq!(declined(NOW - 2.0, NOW - 3.0), (1, 0));
    assert_eq!(declined(NOW, NOW + 3600.0), (1, 0), "by a clock that is not ours");
}

/// As at a start: nothing is known of the cloud yet.
fn nothing_is_known(mut setting: Setting) -> Setting {
    setting.providers.insert("p".into(), ProviderState::default());
    setting
}

#[test]
fn what_is_in_stock_is_given_out_before_the_cloud_has_answered() {
    let setting = nothing_is_known(Setting::new().provider("p", |_| {}))
        .node("0000000001", "small", NodeState::Ready, |_| {})
        .request("100-0000000001", &["small"], |_| {})
        .request("100-0000000002", &["small"], |_| {})
        .request("100-0000000003", &["small"], |request| request.reuse = false);
    let plan = setting.plan();
    assert_eq!(accepts(&plan), [("100-0000000001".to_owned(), "p".to_owned())]);
    assert_eq!(declines(&plan), []);
    assert_eq!(plan.waiting.len(), 2);

    // Accepted, it gets the node, still without an answer.
    let setting = nothing_is_known(Setting::new().provider("p", |_| {}))
        .node("0000000001", "small", NodeState::Ready, |_| {})
        .accepted("100-0000000001", &["small"])
        .accepted("100-0000000002", &["small"]);
    let supplies = |decision: &Decision| match decision {
        Decision::Supply { request, reuse, launch, .. } => Some((request.to_string(), reuse.len(), launch.len())),
        _ => None,
    };
    let plan = setting.plan();
    assert_eq!(plan.decisions.iter().filter_map(supplies).collect::<Vec<_>>(), [("100-0000000001".to_owned(), 1, 0)]);
    assert!(plan.waiting.values().all(|waiting| matches!(waiting.reason, Reason::Unknown { .. })), "{plan:?}");
}

#[test]
fn all_that_is_unknown_is_asked_for_at_once() {
    let setting = nothing_is_known(Setting::new().provider("p", |_| {})).request("100-0000000001", &["big"], |_| {});
    let (provider, pool, label) = ("p".into(), "main".into(), LabelName::from("big"));
    let takes = Want::LabelResources(provider, pool, label.clone());
    let wants = [Want::Quota("p".into()), takes, Want::LabelReady("p".into(), "main".into(), label)];
    assert_eq!(setting.plan().wants.into_iter().collect::<Vec<_>>(), wants);
}

#[test]
fn what_is_in_stock_is_promised_once_while_the_cloud_has_not_answered() {
    let mut setting = nothing_is_known(Setting::new().provider("p", |_| {}))
        .node("0000000001", "small", NodeState::Ready, |_| {})
        .request("100-0000000001", &["small"], |_| {})
        .request("100-0000000002", &["small"], |_| {});
    setting.holdings.busy_requests.insert("100-0000000001".into());
    let pool = PoolKey { provider: "p".into(), pool: "main".into() };
    setting.holdings.accepting.insert("100-0000000001".into(), pool);
    assert_eq!(accepts(&setting.plan()), []);
}

/// Of a withdrawn request no launch is left to come: its ready node is not one launch less of another request's.
#[test]
fn a_node_of_a_withdrawn_request_makes_no_room_under_max_concurrency() {
    let mut setting = Setting::new()
        .provider("p", |_| ())
        .accepted("100-0000000001", &["small"])
        .accepted("100-0000000002", &["small"])
        .node("1", "small", NodeState::Ready, |_| ())
        .held("1", "100-0000000002", false, None)
        .request("200-0000000003", &["small"], |_| ());
    Arc::make_mut(setting.config.providers.get_mut("p").unwrap()).max_concurrency = Some(1);
    setting.records.requests.remove(&RequestId::from("100-0000000002"));
    let plan = setting.plan();
    assert!(accepts(&plan).is_empty(), "the first one's launch is to come: {:?}", plan.decisions);
    // One that still launches for it counts.
    setting.records.requests.remove(&RequestId::from("100-0000000001"));
    assert_eq!(accepts(&setting.plan()).len(), 1);
    setting.holdings.nodes.get_mut(&NodeId::from("1")).unwrap().launching = true;
    assert!(accepts(&setting.plan()).is_empty());
}

/// Pauses a provider of a setting, or a pool of it.
fn pause(setting: &mut Setting, provider: &str, pool: Option<&str>) {
    let mut pauses = Pauses::default();
    let pause = Pause { by: "alice@host".to_owned(), note: "update".to_owned(), since: 7.0 };
    pauses.set(pool.map(PoolName::from).as_ref(), Some(pause));
    setting.records.pauses.insert(provider.into(), entry(pauses));
}

#[test]
fn a_paused_pool_leaves_requests_waiting_to_others_or_for_its_end_and_declines_what_it_could_not_serve() {
    let id = "200-0000000001";
    let mut setting = Setting::new().provider("p", |_| {}).provider("q", |pool| {
        pool.labels.swap_remove("big");
    });
    setting = setting.request(id, &["small"], |_| {}).request("200-0000000002", &["big"], |_| {});
    setting = setting.request("200-0000000003", &["huge"], |_| {});
    pause(&mut setting, "p", None);
    let mut planner = Planner::default();
    let plan = setting.plan_by(&mut planner);
    assert_eq!(accepts(&plan), [(id.into(), "q".into())]);
    let waiting = planner.waiting();
    let why = |request: &str| {
        let pool = PoolKey { provider: "p".into(), pool: "main".into() };
        waiting.get(&(request.into(), pool)).map(|waiting| waiting.waiting.reason.to_string())
    };
    assert_eq!(why("200-0000000002").as_deref(), Some("provider p is paused by alice@host: update"));
    let declined: Vec<_> = declines(&plan).into_iter().map(|(request, pools)| (request, pools.len())).collect();
    assert_eq!(declined, [("200-0000000003".into(), 2)], "q leaves big to p");
    // Each of the pools of a provider by itself.
    pause(&mut setting, "p", Some("side"));
    assert!(accepts(&setting.plan()).contains(&("200-0000000002".into(), "p".into())));
    pause(&mut setting, "p", Some("main"));
    assert!(!accepts(&setting.plan()).iter().any(|(_, pool)| pool == "p"));
    setting.records.pauses.clear();
    assert!(accepts(&setting.plan()).contains(&("200-0000000002".into(), "p".into())));
}

#[test]
fn nothing_is_asked_for_to_keep_in_stock_that_only_paused_pools_could_make() {
    let mut setting = Setting::new().provider("p", |_| {});
    setting.config.labels.get_mut("small").unwrap().min_ready = 1;
    let asks = |setting: &Setting| {
        setting.plan().decisions.iter().any(|decision| matches!(decision, Decision::CreateMinReady { .. }))
    };
    assert!(asks(&setting));
    pause(&mut setting, "p", Some("main"));
    assert!(!asks(&setting));
    let setting = setting.provider("q", |_| {});
    assert!(asks(&setting), "another one can");
}

#[test]
fn what_was_accepted_before_a_pause_is_put_back_where_it_lacks_nodes_and_finished_where_it_lacks_none() {
    let held = |labels: &[&str]| {
        let setting = Setting::new().provider("p", |_| {}).accepted("200-0000000001", labels);
        let allocated = |node: &mut Node| node.allocated_to = Some("200-0000000001".into());
        let setting = setting.node("0000000001", "small", NodeState::Building, allocated);
        let mut setting = setting.held("0000000001", "200-0000000001", true, None);
        pause(&mut setting, "p", None);
        setting.plan().decisions
    };
    let put_back = held(&["small", "small"]);
    assert!(
        matches!(&put_back[..], [Decision::PutBack { reason: Reason::Paused(by), .. }] if by.by == "alice@host"),
        "{put_back:?}"
    );
    assert_eq!(held(&["small"]), [], "its launch is waited for");
}
