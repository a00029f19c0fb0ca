//! Static hosts, and nodes that stand on others.

use std::sync::Arc;

use nodepool_common::{
    config::{HostId, Metastatic, MetastaticLabel, StaticHost},
    model::{Backing, Place, metastatic_owner},
};
use serde_json::json;

use super::*;

fn host(name: &str, jobs: usize) -> Arc<StaticHost> {
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
    for host in hosts {
        let key = HostKey { provider: "p".into(), host: host.id.clone() };
        setting.holdings.hosts_seen.insert(key, (Arc::clone(host), "main".into()));
    }
    setting
}

fn on(name: &'static str, slot: i64) -> impl FnOnce(&mut Node) {
    move |node| {
        node.hostname = Some(name.to_owned());
        node.username = Some("zuul".to_owned());
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
    setting.records.nodes.get_mut(&NodeId::from("1")).unwrap().contenders.insert("zuul's".to_owned());
    assert!(attended(&setting.plan()).is_empty());
    setting.holdings.hosts_seen.clear();
    assert_eq!(attended(&setting.plan()), [("a".to_owned(), vec![])], "looked at once after a start");
}

#[test]
fn a_host_that_could_not_be_reached_is_looked_at_when_its_time_has_come() {
    let mut setting = racks(&[host("a", 1)]);
    let key = HostKey { provider: "p".into(), host: host("a", 1).id.clone() };
    setting.holdings.hosts_after.insert(key, NOW + 5.0);
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

// Nodes that stand on others.

fn label(max_age: Option<u64>) -> MetastaticLabel {
    MetastaticLabel {
        name: "small".into(),
        backing_label: "big".into(),
        max_parallel_jobs: 2,
        grace_time: Duration::from_secs(60),
        min_retention_time: Duration::ZERO,
        max_age: max_age.map(Duration::from_secs),
        host_key_checking: false,
    }
}

/// Provider p is metastatic; node 1 is a backing node of its that began 100 s ago, with a node in its slot 0.
fn stack(max_age: Option<u64>) -> Setting {
    let mut setting = Setting::new().provider("p", |_| ());
    let provider = Arc::make_mut(setting.config.providers.get_mut("p").unwrap());
    let labels = [("small".into(), label(max_age))].into_iter().collect();
    provider.driver = Driver::Metastatic(Metastatic { pools: [("main".into(), labels)].into_iter().collect() });
    let backing = Backing {
        owner: metastatic_owner(&"p".into()),
        label: "small".into(),
        slots: 2,
        failed: false,
        launched: NOW - 100.0,
    };
    let mut setting = setting
        .node("1", "big", NodeState::InUse, |node| {
            node.provider = Some("cloud".into());
            node.user_data = Some(backing.user_data());
        })
        .node("2", "small", NodeState::Ready, |node| {
            node.allocated_to = Some("100-0000000009".into());
            node.driver_data = Some(json!({"backing_node": "1", "slot": 0}));
        });
    for id in ["1", "2"] {
        setting.records.nodes.get_mut(&NodeId::from(id)).unwrap().contenders.insert("somebody".to_owned());
    }
    setting
}

fn place(setting: &Setting, max_age: Option<u64>) -> Option<Place> {
    free_place(&setting.records, &"p".into(), &label(max_age), NOW)
}

#[test]
fn a_free_slot_is_one_that_no_record_names() {
    let mut setting = stack(None);
    assert_eq!(place(&setting, None), Some(Place { backing_node: "1".into(), slot: 1 }));
    assert_eq!(place(&setting, Some(50)), None, "too old");
    setting = setting.node("3", "small", NodeState::Used, |node| {
        node.driver_data = Some(json!({"backing_node": "1", "slot": 1}));
    });
    assert_eq!(place(&setting, None), None, "used, but not gone yet");
    setting.records.nodes.remove(&NodeId::from("3"));
    setting.records.nodes.get_mut(&NodeId::from("1")).unwrap().contenders.clear();
    assert_eq!(place(&setting, None), None, "nobody has it locked any more");
}

#[test]
fn backing_nodes_are_asked_for_by_the_slots_that_are_lacking() {
    let mut setting = stack(None);
    for id in ["5", "6", "7", "8"] {
        setting = setting.node(id, "small", NodeState::Building, |_| ()).held(id, "100-0000000009", true, None);
    }
    let ordered = |plan: &Plan| -> Vec<usize> {
        plan.decisions
            .iter()
            .filter_map(|decision| match decision {
                Decision::OrderBacking { count, .. } => Some(*count),
                _ => None,
            })
            .collect()
    };
    assert_eq!(ordered(&setting.plan()), [2], "one slot is free, three are lacking, two come with each");
    let setting = setting.request("100-0000000010", &["big"], |request| {
        request.requestor = Some(metastatic_owner(&"p".into()));
        request.requestor_data = Some(json!({"label": "small"}));
    });
    let mut setting = setting;
    setting.records.requests.get_mut(&RequestId::from("100-0000000010")).unwrap().stat.ephemeral_owner = 7;
    assert_eq!(ordered(&setting.plan()), [1]);
}

#[test]
fn a_backing_node_goes_when_nothing_has_stood_on_it_for_its_grace_time() {
    let mut setting = stack(None);
    let goes = |setting: &Setting| {
        let plan = setting.plan();
        (plan.decisions.iter().any(|decision| matches!(decision, Decision::LetBackingGo { .. })), plan.wake_at)
    };
    assert!(!goes(&setting).0, "something stands on it");
    setting.records.nodes.remove(&NodeId::from("2"));
    let mut holdings = setting.holdings.clone();
    note_idle(setting.config.providers.values().map(AsRef::as_ref), &setting.records, &mut holdings, NOW - 20.0);
    setting.holdings = holdings;
    assert_eq!(goes(&setting), (false, Some(NOW + 40.0)));
    setting.holdings.idle_since.insert("1".into(), NOW - 61.0);
    assert!(goes(&setting).0);
    let mut old = stack(Some(50));
    old.records.nodes.remove(&NodeId::from("2"));
    assert!(goes(&old).0, "too old: at once");
}
