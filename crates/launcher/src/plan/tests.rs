//! The rules of the planner, each as a sentence.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use nodepool_common::{
    config::{Config, Driver, Label, OpenStack, Place, Pool, PoolLabel, Provider, WebApp, ZooKeeper},
    model::{
        Entry, LabelName, Node, NodeId, NodeRequest, NodeState, PoolComponent, Records, RequestId, RequestState,
        Resources, Stat,
    },
};
use proptest::prelude::*;

use super::*;

const NOW: f64 = 1_000_000.0;

/// A world to be set up by a test.
struct Setting {
    config: Config,
    records: Records,
    pools: Vec<PoolState>,
    providers: BTreeMap<nodepool_common::model::ProviderName, ProviderState>,
    holdings: Holdings,
    stopping: bool,
}

impl Setting {
    /// No provider yet; labels `small` (1 core) and `big` (4 cores).
    fn new() -> Self {
        let label = |name: &str| Label { name: name.into(), min_ready: 0, max_ready_age: None };
        Self {
            config: Config {
                webapp: WebApp::default(),
                elements_dir: None,
                images_dir: None,
                build_log_dir: None,
                build_log_retention: 7,
                zookeeper: ZooKeeper { servers: vec![], timeout: Duration::from_secs(10), tls: None },
                labels: ["small", "big"].into_iter().map(|name| (name.into(), label(name))).collect(),
                diskimages: indexmap::IndexMap::new(),
                providers: indexmap::IndexMap::new(),
                max_hold_age: None,
                tenant_limits: indexmap::IndexMap::new(),
            },
            records: Records::default(),
            pools: Vec::new(),
            providers: BTreeMap::new(),
            holdings: Holdings::default(),
            stopping: false,
        }
    }

    /// A provider with pool `main` that has both labels and is ready for use.
    fn provider(mut self, name: &str, change: impl FnOnce(&mut Pool)) -> Self {
        let labels = ["small", "big"].map(|l| (l.into(), PoolLabel { name: l.into(), diskimage: None }));
        let mut pool = Pool {
            name: "main".into(),
            priority: 100,
            disabled: false,
            limits: Resources::new(),
            ignore_provider_quota: false,
            availability_zones: vec!["az1".to_owned(), "az2".to_owned()],
            node_attributes: None,
            labels: labels.into_iter().collect(),
        };
        change(&mut pool);
        let key = PoolKey { provider: name.into(), pool: "main".into() };
        let launcher_id = format!("id-{name}");
        self.records.pools.insert(
            name.to_owned(),
            Arc::new(PoolComponent {
                hostname: "h".to_owned(),
                state: "running".to_owned(),
                version: None,
                model_api: 0,
                id: Some(launcher_id.as_str().into()),
                name: Some("main".into()),
                provider_name: Some(name.into()),
                supported_labels: pool.labels.keys().cloned().collect(),
                priority: pool.priority,
                paused: false,
                extra: serde_json::Map::new(),
            }),
        );
        let mut state = ProviderState { quota: Some(Resources::new()), zones: Some(vec![]), ..Default::default() };
        for (label, cores) in [("small", 1.0), ("big", 4.0)] {
            let at = (pool.name.clone(), LabelName::from(label));
            state.label_resources.insert(at.clone(), Ok(Resources::new().with("cores", cores).with("instances", 1.0)));
            state.label_ready.insert(at, true);
        }
        self.providers.insert(name.into(), state);
        self.pools.push(PoolState { key, launcher_id: launcher_id.as_str().into() });
        self.config.providers.insert(
            name.into(),
            Arc::new(Provider {
                name: name.into(),
                place: Place::default(),
                max_concurrency: None,
                launch_retries: 3,
                launch_timeout: Duration::from_secs(60),
                boot_timeout: Duration::from_secs(60),
                pools: vec![pool],
                driver: Driver::Fake(OpenStack {
                    cloud: None,
                    region_name: None,
                    image_upload_timeout: Duration::from_secs(1),
                    rate: Duration::ZERO,
                    image_name_format: String::new(),
                    clean_floating_ips: false,
                    port_cleanup_interval: None,
                    post_upload_hook: None,
                    diskimages: indexmap::IndexMap::new(),
                    cloud_images: indexmap::IndexMap::new(),
                    pools: indexmap::IndexMap::new(),
                }),
            }),
        );
        self
    }

    fn request(mut self, id: &str, labels: &[&str], change: impl FnOnce(&mut NodeRequest)) -> Self {
        let mut request = NodeRequest::min_ready(&"x".into(), "e".to_owned(), NOW);
        request.id = id.into();
        request.node_types = labels.iter().map(|l| LabelName::from(*l)).collect();
        request.requestor = Some("zuul".to_owned());
        request.reuse = true;
        change(&mut request);
        self.records.requests.insert(id.into(), entry(request));
        self
    }

    /// A request that provider p's pool has accepted.
    fn accepted(self, id: &str, labels: &[&str]) -> Self {
        let mut this = self.request(id, labels, |r| r.state = RequestState::Pending);
        let pool = PoolKey { provider: "p".into(), pool: "main".into() };
        this.holdings.requests.insert(id.into(), HeldRequest { pool });
        this.records.requests.get_mut(&RequestId::from(id)).unwrap().contenders.insert("ours".to_owned());
        this
    }

    fn node(mut self, id: &str, label: &str, state: NodeState, change: impl FnOnce(&mut Node)) -> Self {
        let mut node = Node::new(NOW - 100.0);
        node.id = id.into();
        node.state = state;
        node.provider = Some("p".into());
        node.pool = Some("main".into());
        node.labels = vec![label.into()];
        change(&mut node);
        self.records.nodes.insert(id.into(), entry(node));
        self
    }

    /// Node `id` is ours, for a request.
    fn held(mut self, id: &str, request: &str, launching: bool, failure: Option<&str>) -> Self {
        let node = self.records.nodes.get_mut(&NodeId::from(id)).unwrap();
        node.contenders.insert("ours".to_owned());
        node.free_since = None;
        let label = node.record.as_ref().unwrap().labels[0].clone();
        let failure = failure.map(str::to_owned);
        self.holdings.nodes.insert(id.into(), HeldNode { request: request.into(), label, launching, failure });
        self
    }

    fn plan(&self) -> Plan {
        plan(&World {
            now: NOW,
            config: &self.config,
            records: &self.records,
            pools: &self.pools,
            providers: &self.providers,
            session: 7,
            holdings: &self.holdings,
            timing: Timing::default(),
            stopping: self.stopping,
        })
    }

    fn quota(mut self, quota: &Resources) -> Self {
        for state in self.providers.values_mut() {
            state.quota = Some(quota.clone());
        }
        self
    }
}

fn entry<T>(record: T) -> Entry<T> {
    Entry {
        record: Ok(Arc::new(record)),
        stat: Stat::default(),
        contenders: std::collections::BTreeSet::new(),
        free_since: Some(NOW - 60.0),
    }
}

fn accepts(plan: &Plan) -> Vec<(String, String)> {
    plan.decisions
        .iter()
        .filter_map(|d| match d {
            Decision::Accept { pool, request } => Some((request.to_string(), pool.provider.to_string())),
            _ => None,
        })
        .collect()
}

fn declines(plan: &Plan) -> Vec<(String, Vec<String>)> {
    plan.decisions
        .iter()
        .filter_map(|d| match d {
            Decision::Decline { request, pools } => {
                Some((request.to_string(), pools.iter().map(|(_, reason)| reason.clone()).collect()))
            }
            _ => None,
        })
        .collect()
}

fn launches(plan: &Plan) -> usize {
    plan.decisions
        .iter()
        .map(|d| match d {
            Decision::Supply { launch, .. } => launch.len(),
            _ => 0,
        })
        .sum()
}

fn cores(amount: f64) -> Resources {
    Resources::new().with("cores", amount)
}

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
    setting.records.pools.retain(|_, pool| pool.provider_name.as_ref().is_some_and(|name| *name == *"p"));
    let plan = setting.plan();
    assert_eq!((declines(&plan).len(), accepts(&plan).len()), (0, 1), "{plan:?}");
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
    setting.records.requests.values_mut().next().unwrap().free_since = Some(NOW - 0.5);
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
    setting.records.requests.values_mut().next().unwrap().free_since = Some(NOW - 1.0);
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
    assert!(plan.waiting.values().any(|w| w.reason.contains("tenant t")), "{:?}", plan.waiting);
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
    assert!(plan.waiting.values().next().unwrap().reason.contains("connection refused"));
}

#[test]
fn an_accepted_request_takes_ready_nodes_first_and_launches_the_rest_in_one_zone() {
    let plan = Setting::new()
        .provider("p", |_| {})
        .node("0000000001", "small", NodeState::Ready, |n| n.az = Some("az2".to_owned()))
        .node("0000000002", "big", NodeState::Ready, |n| n.az = Some("az1".to_owned()))
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
    setting.records.requests.get_mut(&id).unwrap().record = Ok(Arc::new(request));
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
    setting.holdings.nodes.values_mut().next().unwrap().launching = false;
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
        Decision::GiveUp { request: "200-0000000001".into(), reasons: vec!["no host keys".to_owned()] }
    );
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

/// Upstream's `test_provider_wont_wedge`; one node at a time (traps.md 12).
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
    setting.holdings.requests.clear();
    assert!(matches!(&setting.plan().decisions[..], [Decision::LetGo { .. }]));
}

#[test]
fn unlocked_nodes_that_nobody_needs_are_deleted_and_locked_ones_are_left_alone() {
    for state in [NodeState::Used, NodeState::InUse, NodeState::Building, NodeState::Failed, NodeState::Deleting] {
        let mut setting = Setting::new().provider("p", |_| {}).node("0000000001", "small", state, |_| {});
        assert_eq!(setting.plan().decisions, [Decision::Delete { node: "0000000001".into() }], "{state}");
        let node = setting.records.nodes.get_mut(&NodeId::from("0000000001")).unwrap();
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

#[test]
fn a_pending_request_that_has_just_been_unlocked_is_given_a_moment() {
    let mut setting =
        Setting::new().provider("p", |_| {}).request("200-0000000001", &["small"], |r| r.state = RequestState::Pending);
    setting.records.requests.values_mut().next().unwrap().free_since = Some(NOW - 0.1);
    let plan = setting.plan();
    assert!(plan.decisions.is_empty());
    assert_eq!(plan.wake_at, Some(NOW + 0.9));
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
    setting.holdings.min_ready_after.insert("small".into(), NOW + 9.0);
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
    setting.records.requests.values_mut().next().unwrap().stat.ephemeral_owner = 7;
    assert_eq!(setting.plan().decisions, [Decision::FinishMinReady { request: "900-0000000001".into() }]);
}

#[test]
fn empty_records_and_old_lock_directories_are_removed() {
    let mut setting = Setting::new().provider("p", |_| {}).node("1", "small", NodeState::Ready, |_| {});
    setting.records.nodes.get_mut(&NodeId::from("1")).unwrap().record = Err(nodepool_common::model::RecordError::Empty);
    #[allow(clippy::cast_possible_truncation)]
    let lock =
        nodepool_common::model::RequestLock { ctime: ((NOW - 9.0 * 3600.0) * 1000.0) as i64, ..Default::default() };
    setting.records.request_locks.insert("200-0000000001".into(), lock);
    let plan = setting.plan();
    assert!(plan.decisions.contains(&Decision::RemoveRecord { node: "1".into() }));
    assert!(plan.decisions.contains(&Decision::RemoveRequestLock { request: "200-0000000001".into() }));
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
fn a_node_record_without_type_or_pool_takes_no_quota_and_stops_nothing() {
    let plan = Setting::new()
        .provider("p", |pool| pool.limits = cores(4.0))
        .node("1", "big", NodeState::InUse, |n| n.labels.clear())
        .node("2", "big", NodeState::InUse, |n| n.pool = None)
        .accepted("200-0000000001", &["big"])
        .plan();
    assert_eq!(launches(&plan), 1);
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
    /// S3: whatever the mix, what one plan launches never exceeds quota and limits, and no node is given twice (S1).
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
