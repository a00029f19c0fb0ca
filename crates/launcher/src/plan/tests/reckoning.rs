//! What nodes count, and that no plan exceeds a quota.

use proptest::prelude::*;

use super::*;

#[test]
fn what_is_known_of_a_cloud_is_as_old_as_before_when_the_clock_is_set() {
    for step in [3600.0, -3600.0] {
        let label = ("main".into(), LabelName::from("small"));
        let mut state = ProviderState { quota_at: NOW, launch_after: Some(NOW + 8.0), ..ProviderState::default() };
        state.cloud_images.insert(label.clone(), CloudImage::Missing(NOW - 3.0));
        state.clock_stepped(step);
        assert_eq!((state.quota_at, state.launch_after), (NOW + step, Some(NOW + 8.0 + step)));
        assert_eq!(state.cloud_images.get(&label), Some(&CloudImage::Missing(NOW - 3.0 + step)));
        let mut never = ProviderState::default();
        never.clock_stepped(step);
        assert!(never.quota_at == 0.0, "it was never asked");
    }
}

#[test]
fn a_node_record_without_type_or_pool_takes_no_quota_and_stops_nothing() {
    let plan = Setting::new()
        .provider("p", |pool| pool.limits = cores(4.0))
        .node("1", "big", NodeState::InUse, |n| n.labels.clear())
        .node("2", "big", NodeState::InUse, |n| n.pool = None)
        .accepted("200-0000000001", &["big"])
        .plan();
    assert_eq!(launches(&plan), 1);
}

#[test]
fn a_node_in_another_project_takes_no_quota_here_and_no_room_in_its_pool_once_it_is_to_be_deleted() {
    let plan = |state: NodeState, quota: f64, limit: f64| {
        let mut setting = Setting::new()
            .provider("p", |pool| pool.limits = cores(limit))
            .quota(&cores(quota))
            .node("1", "small", state, |n| n.tenant_name = Some("t".into()))
            .accepted("200-0000000001", &["small"]);
        setting.config.tenant_limits.insert("t".into(), cores(limit));
        let request = setting.request_entry("200-0000000001");
        Arc::make_mut(request.record.as_mut().ok().unwrap()).tenant_name = Some("t".into());
        let here = launches(&setting.plan());
        setting.providers.values_mut().for_each(|state| _ = state.elsewhere.insert("1".into()));
        (here, launches(&setting.plan()))
    };
    assert_eq!(plan(NodeState::Deleting, 1.0, 1.0), (0, 1), "nobody can delete it");
    assert_eq!(plan(NodeState::InUse, 1.0, 2.0), (0, 1), "of the quota");
    assert_eq!(plan(NodeState::InUse, 2.0, 1.0), (0, 0), "it is one of the pool's servers");
}

/// Records do not name ports: Zuul would count them.
#[test]
fn a_node_on_record_takes_the_ports_of_its_label() {
    let two_nodes_with_ports = |ports: f64| {
        let mut setting = Setting::new()
            .provider("p", |_| {})
            .quota(&Resources::new().with("cores", 100.0).with("ports", ports))
            .node("1", "small", NodeState::InUse, |n| n.resources = Some(cores(1.0)))
            .accepted("200-0000000001", &["small"]);
        for state in setting.providers.values_mut() {
            for needs in state.label_resources.values_mut() {
                needs.as_mut().unwrap().set("ports", 1.0);
            }
        }
        setting.plan()
    };
    assert_eq!(launches(&two_nodes_with_ports(2.0)), 1);
    assert_eq!(launches(&two_nodes_with_ports(1.0)), 0);
}

proptest! {
    /// Whatever the mix, what one plan launches never exceeds quota and limits, and no node is given twice.
    #[test]
    fn a_plan_never_exceeds_a_quota_and_never_gives_a_node_twice(
        quota in 0..12_u8,
        limit in 0..12_u8,
        used in 0..4_usize,
        ready in 0..4_usize,
        requests in prop::collection::vec((prop::collection::vec(any::<bool>(), 1..4), any::<bool>(), 0..3_i64), 0..12),
    ) {
        let mut setting = Setting::new()
            .provider("p", |pool| pool.limits = cores(f64::from(limit)))
            .quota(&cores(f64::from(quota)));
        for n in 0..used {
            setting = setting.node(&format!("u{n}"), "small", NodeState::InUse, |_| {});
        }
        for n in 0..ready {
            setting = setting.node(&format!("r{n}"), "small", NodeState::Ready, |_| {});
        }
        for (n, (labels, accepted, priority)) in requests.iter().enumerate() {
            let labels: Vec<&str> = labels.iter().map(|big| if *big { "big" } else { "small" }).collect();
            let id = format!("200-{n:010}");
            setting = if *accepted {
                setting.accepted(&id, &labels)
            } else {
                setting.request(&id, &labels, |r| r.relative_priority = *priority)
            };
        }
        let plan = setting.plan();
        prop_assert_eq!(&plan, &setting.plan(), "the same world gives the same plan");
        let mut launched = 0.0;
        let mut given = std::collections::BTreeSet::new();
        let mut seen = std::collections::BTreeSet::new();
        for decision in &plan.decisions {
            match decision {
                Decision::Supply { reuse, launch, request, .. } => {
                    prop_assert!(seen.insert(request.clone()));
                    for (node, _) in reuse {
                        prop_assert!(given.insert(node.clone()), "{node} twice");
                    }
                    for node in launch {
                        launched += if node.label == *"big" { 4.0 } else { 1.0 };
                    }
                }
                Decision::Accept { request, .. } | Decision::Decline { request, .. } | Decision::GiveUp { request, .. } => {
                    prop_assert!(seen.insert(request.clone()), "two decisions on {request}");
                }
                Decision::Retire { node, .. } => prop_assert!(given.insert(node.clone()), "{node} twice"),
                _ => {}
            }
        }
        #[allow(clippy::cast_precision_loss)]
        let in_use = (used + ready) as f64;
        if launched > 0.0 {
            prop_assert!(launched + in_use <= f64::from(quota.min(limit)), "{launched} on {in_use}");
        }
    }
}
