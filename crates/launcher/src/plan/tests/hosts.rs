//! Static hosts.

use std::sync::Arc;

use nodepool_common::config::{HostId, StaticHost};

use super::*;

pub(super) fn host(name: &str, jobs: usize) -> Arc<StaticHost> {
    Arc::new(StaticHost {
        id: HostId { name: name.to_owned(), username: "zuul".to_owned(), port: 22 },
        labels: vec!["small".into()],
        host_keys: vec![],
        host_key_checking: true,
        timeout: Duration::from_secs(5),
        connection_type: "ssh".to_owned(),
        shell_type: None,
        python_path: "auto".to_owned(),
        max_parallel_jobs: jobs,
    })
}

/// Provider p with these hosts, all of them looked at.
fn racks(hosts: &[Arc<StaticHost>]) -> Setting {
    let mut setting = Setting::new().provider("p", |pool| pool.hosts = Some(hosts.to_vec()));
    Arc::make_mut(setting.config.providers.get_mut("p").unwrap()).driver = Driver::Static;
    for host in hosts {
        let key = HostKey { provider: "p".into(), host: host.id.clone() };
        setting.holdings.hosts_seen.insert(key, (Arc::clone(host), "main".into()));
    }
    setting
}

fn on(name: &'static str, slot: i64) -> impl FnOnce(&mut Node) {
    move |node| {
        node.hostname = Some(name.to_owned());
        node.username = Some("zuul".into());
        node.slot = Some(slot);
    }
}

fn attended(plan: &Plan) -> Vec<(String, Vec<usize>)> {
    plan.decisions
        .iter()
        .filter_map(|decision| match decision {
            Decision::Attend { host, missing, .. } => Some((host.id.name.clone(), missing.clone())),
            _ => None,
        })
        .collect()
}

fn retired(plan: &Plan) -> Vec<&str> {
    plan.decisions
        .iter()
        .filter_map(|decision| match decision {
            Decision::Retire { node, .. } => Some(node.as_str()),
            _ => None,
        })
        .collect()
}

#[test]
fn slots_without_a_node_are_registered_and_those_on_their_way_out_count_as_free() {
    let setting = racks(&[host("a", 3)]).node("1", "small", NodeState::Ready, on("a", 0)).node(
        "2",
        "small",
        NodeState::Deleting,
        on("a", 1),
    );
    assert_eq!(attended(&setting.plan()), [("a".to_owned(), vec![1, 2])]);
}

#[test]
fn a_host_that_was_seen_and_has_all_its_nodes_is_left_alone() {
    let mut setting = racks(&[host("a", 1)]).node("1", "small", NodeState::InUse, |node| {
        on("a", 0)(node);
        node.allocated_to = Some("100-1".into());
    });
    setting.node_entry("1").contenders.insert("zuul's".to_owned());
    assert!(attended(&setting.plan()).is_empty());
    setting.holdings.hosts_seen.clear();
    assert_eq!(attended(&setting.plan()), [("a".to_owned(), vec![])], "looked at once after a start");
}

#[test]
fn a_host_that_could_not_be_reached_is_looked_at_when_its_time_has_come() {
    let mut setting = racks(&[host("a", 1)]);
    let key = HostKey { provider: "p".into(), host: host("a", 1).id.clone() };
    setting.holdings.hosts_after.insert(key, UPTIME + 5.0);
    let plan = setting.plan();
    assert!(attended(&plan).is_empty());
    assert_eq!(plan.wake_at, Some(NOW + 5.0));
}

#[test]
fn nodes_without_a_slot_or_a_host_go_once_nobody_has_them() {
    let setting = racks(&[host("a", 1)])
        .node("1", "small", NodeState::Ready, on("a", 0))
        .node("2", "small", NodeState::Ready, on("a", 0))
        .node("3", "small", NodeState::Ready, on("gone", 0))
        .node("4", "small", NodeState::Hold, on("gone", 1));
    assert_eq!(retired(&setting.plan()), ["2", "3"]);
}

#[test]
fn the_nodes_of_a_host_that_an_error_leaves_out_stay_and_nobody_gets_them() {
    let mut setting = racks(&[host("a", 1)])
        .node("1", "small", NodeState::Ready, on("left-out", 0))
        .node("2", "small", NodeState::Ready, on("a", 0))
        .accepted("100-1", &["small"])
        .accepted("100-2", &["small"]);
    let reused = |setting: &Setting| {
        let mut nodes: Vec<String> = Vec::new();
        for decision in setting.plan().decisions {
            if let Decision::Supply { reuse, .. } = decision {
                nodes.extend(reuse.iter().map(|(node, _)| node.to_string()));
            }
        }
        nodes.sort();
        nodes
    };
    assert_eq!(reused(&setting), ["1", "2"], "without an error they are looked at when they are handed out");
    let pool = &mut Arc::make_mut(setting.config.providers.get_mut("p").unwrap()).pools[0];
    pool.broken_hosts.insert("left-out".to_owned(), "`timeout` must be a whole number".to_owned());
    assert_eq!(reused(&setting), ["2"]);
    setting.holdings.requests = Tracked::default();
    setting.records.requests.clear();
    assert!(retired(&setting.plan()).is_empty());
}

#[test]
fn the_ready_nodes_of_a_provider_without_pools_go_unless_another_launcher_has_some() {
    let mut setting = racks(&[host("a", 2)]).node("1", "small", NodeState::Ready, on("a", 0)).node(
        "2",
        "small",
        NodeState::InUse,
        on("a", 1),
    );
    setting.node_entry("2").contenders.insert("zuul's".to_owned());
    Arc::make_mut(setting.config.providers.get_mut("p").unwrap()).pools.clear();
    setting.pools.clear();
    assert!(retired(&setting.plan()).is_empty(), "it is registered by a launcher with an older configuration");
    setting.records.pools.clear();
    let plan = setting.plan();
    assert_eq!((retired(&plan), attended(&plan)), (vec!["1"], vec![]));
}

#[test]
fn the_pool_that_was_registered_last_looks_after_the_hosts() {
    let mut setting = racks(&[host("a", 1)]);
    let ours = setting.records.pools.remove("p").unwrap();
    let theirs = PoolComponent { id: Some("theirs".into()), ..PoolComponent::clone(&ours) };
    setting.records.pools.insert("z-host0000000007".to_owned(), Arc::new(theirs));
    setting.records.pools.insert("a-host0000000009".to_owned(), ours.clone());
    assert_eq!(attended(&setting.plan()).len(), 1, "the number counts, not the host's name");
    setting.records.pools.remove("a-host0000000009");
    setting.records.pools.insert("a-host0000000003".to_owned(), ours);
    assert!(attended(&setting.plan()).is_empty());
}

#[test]
fn a_static_pool_accepts_what_it_has_nodes_for_and_pauses_nothing() {
    let setting = racks(&[host("a", 1)])
        .node("1", "small", NodeState::Ready, on("a", 0))
        .request("200-0000000001", &["small"], |_| ())
        .request("100-0000000002", &["small"], |_| ());
    let plan = setting.plan();
    assert_eq!(accepts(&plan), [("100-0000000002".to_owned(), "p".to_owned())], "by priority");
    assert!(plan.paused.is_empty() && declines(&plan).is_empty());
}

#[test]
fn a_node_is_kept_for_the_request_that_is_just_being_accepted() {
    let mut setting = racks(&[host("a", 1)])
        .node("1", "small", NodeState::Ready, on("a", 0))
        .request("100-0000000002", &["small"], |_| ())
        .request("200-0000000001", &["small"], |_| ());
    let pool = PoolKey { provider: "p".into(), pool: "main".into() };
    setting.holdings.accepting.insert("100-0000000002".into(), pool);
    setting.holdings.busy_requests.insert("100-0000000002".into());
    assert!(accepts(&setting.plan()).is_empty());
}

#[test]
fn a_request_whose_node_has_died_is_put_back() {
    let plan = racks(&[host("a", 1)]).accepted("100-0000000001", &["small"]).plan();
    assert!(plan.decisions.iter().any(|decision| matches!(decision, Decision::PutBack { .. })), "{:?}", plan.decisions);
    assert!(plan.paused.is_empty());
}
