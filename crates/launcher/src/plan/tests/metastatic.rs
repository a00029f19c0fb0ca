//! Nodes that stand on others: backing nodes asked for, settled, let go.

use std::{collections::BTreeSet, sync::Arc};

use nodepool_common::{
    config::{Metastatic, MetastaticLabel},
    model::{Backing, Json, metastatic_owner},
};
use serde_json::json;

use super::{
    histories::kind as histories_kind,
    placing::{at, placed},
    *,
};

pub(super) fn label(max_age: Option<u64>) -> MetastaticLabel {
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
pub(super) fn stack(max_age: Option<u64>) -> Setting {
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
            node.driver_data = Some(json!({"backing_node": "1", "slot": 0}).into());
        });
    for id in ["1", "2"] {
        setting.node_entry(id).contenders.insert("somebody".to_owned());
    }
    setting
}

/// Launches of ours that wait for a place.
pub(super) fn seeking(mut setting: Setting, nodes: &[&'static str]) -> Setting {
    for id in nodes {
        setting = setting.node(id, "small", NodeState::Building, |_| ()).held(id, "100-0000000009", true, None);
        let pool = PoolKey { provider: "p".into(), pool: "main".into() };
        setting.holdings.seeking.insert((*id).into(), (pool, "small".into()));
    }
    setting
}

/// A request of ours for a backing node.
pub(super) fn order(setting: Setting, id: &'static str, state: RequestState) -> Setting {
    let mut setting = setting.request(id, &["big"], |request| {
        request.requestor = Some(metastatic_owner(&"p".into()));
        request.requestor_data = Some(Json::of(&json!({"label": "small"})));
        request.state = state;
    });
    setting.request_entry(id).stat.ephemeral_owner = 7;
    setting
}

/// How many backing nodes are asked for.
pub(super) fn orders(plan: &Plan) -> Vec<usize> {
    let counts = plan.decisions.iter().filter_map(|decision| match decision {
        Decision::OrderBacking { count, .. } => Some(*count),
        _ => None,
    });
    counts.collect()
}

#[test]
fn backing_nodes_are_asked_for_by_the_slots_that_are_lacking() {
    let mut setting = stack(None);
    setting = seeking(setting, &["5", "6", "7", "8"]);
    assert_eq!(orders(&setting.plan()), [2], "one slot is free, three are lacking, two come with each");
    let mut setting = order(setting, "100-0000000010", RequestState::Requested);
    assert_eq!(orders(&setting.plan()), [1]);
    // A request that no session owns is not ours, and while we have none, none is.
    setting.request_entry("100-0000000010").stat.ephemeral_owner = 0;
    assert_eq!(orders(&setting.plan()), [2]);
    setting.session = 0;
    assert_eq!(orders(&setting.plan()), [2]);
}

#[test]
fn after_a_request_for_a_backing_node_has_failed_there_is_a_pause() {
    let mut setting = seeking(stack(None), &["5", "6"]);
    setting.holdings.backing_after.insert(("p".into(), "small".into()), UPTIME + 4.0);
    let plan = setting.plan();
    assert_eq!((orders(&plan), plan.wake_at), (vec![], Some(NOW + 4.0)));
    setting.holdings.backing_after.insert(("p".into(), "small".into()), UPTIME);
    assert_eq!(orders(&setting.plan()), [1]);
}

#[test]
fn a_request_for_a_backing_node_is_withdrawn_with_its_label_or_provider() {
    let settled = |setting: &Setting| {
        let plan = setting.plan();
        plan.decisions.iter().any(|decision| matches!(decision, Decision::SettleBacking { .. }))
    };
    let mut setting = order(stack(None), "100-0000000010", RequestState::Pending);
    setting.request_entry("100-0000000010").contenders.insert("somebody".to_owned());
    assert!(!settled(&setting));
    let p = Arc::make_mut(setting.config.providers.get_mut("p").unwrap());
    p.driver =
        Driver::Metastatic(Metastatic { pools: [("main".into(), indexmap::IndexMap::new())].into_iter().collect() });
    assert!(settled(&setting), "the label");
    setting.config.providers.clear();
    assert!(settled(&setting), "the provider");
    setting.holdings.busy_requests.insert("100-0000000010".into());
    assert!(!settled(&setting), "an action is at it");
}

#[test]
fn a_request_that_is_withdrawn_is_not_accepted_or_served_in_the_same_pass() {
    let about = |setting: &Setting| -> Vec<String> {
        let its = |decision: &&Decision| decision.subjects().0 == Some(&"100-0000000010".into());
        setting.plan().decisions.iter().filter(its).map(histories_kind).collect()
    };
    // Provider p has the label no more; provider cloud could serve the request.
    let setting = order(stack(None).provider("cloud", |_| ()), "100-0000000010", RequestState::Requested);
    let mut setting = setting;
    let p = Arc::make_mut(setting.config.providers.get_mut("p").unwrap());
    p.driver =
        Driver::Metastatic(Metastatic { pools: [("main".into(), indexmap::IndexMap::new())].into_iter().collect() });
    p.pools[0].labels.clear();
    assert_eq!(about(&setting).len(), 1, "{:?}", about(&setting));
    // It is cloud's already, and lacks a node.
    let request = setting.request_entry("100-0000000010");
    request.contenders.insert("ours".to_owned());
    Arc::make_mut(request.record.as_mut().unwrap()).state = RequestState::Pending;
    let pool = PoolKey { provider: "cloud".into(), pool: "main".into() };
    setting.holdings.requests.insert("100-0000000010".into(), HeldRequest { pool });
    assert_eq!(about(&setting).len(), 1, "{:?}", about(&setting));
    // Nothing is done about it any more: it is withdrawn.
    setting.holdings.requests.remove(&"100-0000000010".into());
    assert_eq!(about(&setting), ["SettleBacking"]);
}

#[test]
fn a_launcher_that_stops_waits_for_what_may_come_and_for_nothing_else() {
    let stopped = |setting: &Setting| -> Vec<String> {
        let plan = setting.plan();
        let ended = plan.decisions.iter().filter_map(|decision| match decision {
            Decision::StopSeeking { node, .. } => Some(node.to_string()),
            _ => None,
        });
        ended.collect()
    };
    let mut setting = order(seeking(stack(None), &["5", "6", "7"]), "100-0000000010", RequestState::Requested);
    assert!(stopped(&setting).is_empty());
    (setting.stopping, setting.pools) = (true, Vec::new());
    assert!(stopped(&setting).is_empty(), "another launcher has a pool that may serve it");
    setting.records.pools.clear();
    assert_eq!(stopped(&setting), ["6", "7"], "one slot is free, and who comes first gets it");
    assert_eq!(placed(&setting.plan()), [at("5", "1", 1)], "what is being launched is finished");
    assert!(orders(&setting.plan()).is_empty());
    setting.holdings.busy_nodes.insert("1".into());
    assert_eq!(stopped(&setting), ["6", "7"], "the slot will be given away when the action there has ended");
    setting.holdings.busy_nodes.remove(&NodeId::from("1"));
    setting.request_entry("100-0000000010").contenders.insert("x".to_owned());
    assert!(stopped(&setting).is_empty(), "it is being served");
}

/// Two launchers have provider p. The younger one has a pool for other labels only.
#[test]
fn requests_are_left_to_the_youngest_pool_that_has_their_labels() {
    let mut setting = stack(None).request("200-0000000001", &["small"], |_| ());
    let ours = setting.records.pools.remove("p").unwrap();
    let mut theirs = PoolComponent { id: Some("theirs".into()), ..PoolComponent::clone(&ours) };
    setting.records.pools.insert("h0000000003".to_owned(), ours);
    setting.records.pools.insert("h0000000007".to_owned(), Arc::new(theirs.clone()));
    assert!(accepts(&setting.plan()).is_empty(), "theirs has it");
    theirs.supported_labels = vec!["big".into()];
    setting.records.pools.insert("h0000000007".to_owned(), Arc::new(theirs));
    assert_eq!(accepts(&setting.plan()), [("200-0000000001".to_owned(), "p".to_owned())]);
    // What another launcher is still placing is in the way of the same label only.
    let mut setting = setting.node("9", "big", NodeState::Building, |_| ());
    setting.node_entry("9").contenders.insert("theirs".to_owned());
    assert_eq!(accepts(&setting.plan()).len(), 1);
    Arc::make_mut(setting.node_entry("9").record.as_mut().unwrap()).labels = vec!["small".into()];
    assert!(accepts(&setting.plan()).is_empty());
}

/// Two launchers have provider p, and one of them a single label of it. Whatever the other one is placing for requests of its
/// own is not waited for: there may always be some.
#[test]
fn requests_with_one_label_and_with_several_do_not_wait_for_each_other() {
    let both: &[&str] = &["small", "big"];
    let single: &[&str] = &["small"];
    for (ours, theirs) in [(both, single), (single, both)] {
        let has = |labels: &[&str]| labels.iter().map(|label| (*label).into()).collect::<Vec<LabelName>>();
        let mut setting = stack(None).request("200-0000000001", ours, |_| ());
        let pool = setting.records.pools.remove("p").unwrap();
        let registered = |name: &str, labels: &[&str]| {
            let supported_labels = has(labels);
            Arc::new(PoolComponent { id: Some(name.into()), supported_labels, ..PoolComponent::clone(&pool) })
        };
        // Who has a single label is the younger one.
        let number = |labels: &[&str]| format!("h000000000{}", 9 - labels.len());
        setting.records.pools.insert(number(ours), registered("id-p", ours));
        setting.records.pools.insert(number(theirs), registered("theirs", theirs));
        let mut setting = setting
            .request("100-0000000005", theirs, |request| request.state = RequestState::Pending)
            .node("9", "small", NodeState::Building, |node| node.allocated_to = Some("100-0000000005".into()));
        setting.request_entry("100-0000000005").contenders.insert("theirs".to_owned());
        setting.node_entry("9").contenders.insert("theirs".to_owned());
        assert_eq!(accepts(&setting.plan()), [("200-0000000001".to_owned(), "p".to_owned())], "{ours:?}");
        // What it is still launching for a request like ours, which it leaves to us by now, is finished first.
        let request = setting.request_entry("100-0000000005");
        Arc::make_mut(request.record.as_mut().unwrap()).node_types = has(ours);
        assert!(accepts(&setting.plan()).is_empty(), "{ours:?}");
    }
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
    assert_eq!(setting.plan().idle_backing, BTreeSet::from(["1".into()]));
    assert_eq!(goes(&setting), (false, Some(NOW + 60.0)), "since now");
    setting.holdings.idle_since.insert("1".into(), Uptime(UPTIME.0 - 20.0));
    assert_eq!(goes(&setting), (false, Some(NOW + 40.0)));
    setting.holdings.idle_since.insert("1".into(), Uptime(UPTIME.0 - 61.0));
    assert!(goes(&setting).0);
    let mut old = stack(Some(50));
    old.records.nodes.remove(&NodeId::from("2"));
    assert!(goes(&old).0, "too old: at once");
    let p = Arc::make_mut(old.config.providers.get_mut("p").unwrap());
    p.driver =
        Driver::Metastatic(Metastatic { pools: [("main".into(), indexmap::IndexMap::new())].into_iter().collect() });
    assert!(goes(&old).0, "without its label: at once");
    let p = Arc::make_mut(old.config.providers.get_mut("p").unwrap());
    p.pools[0].broken_labels.insert("small".into(), "`max-age` must be a number".to_owned());
    assert!(!goes(&old).0, "an error leaves its label out");
}

#[test]
fn a_backing_node_goes_some_time_after_the_last_launcher_with_its_provider() {
    let goes = |setting: &Setting| {
        let plan = setting.plan();
        let goes = plan.decisions.iter().any(|decision| match decision {
            Decision::LetBackingGo { provider, node, reason: Reason::BackingUnowned { .. } } => {
                provider.as_str() == "p" && node.as_str() == "1"
            }
            _ => false,
        });
        (goes, plan.wake_at, plan.idle_backing.len())
    };
    let mut setting = stack(None).provider("cloud", |_| ());
    setting.config.providers.shift_remove("p");
    setting.pools.retain(|pool| pool.key.provider.as_str() != "p");
    let another = setting.records.pools.remove("p").unwrap();
    assert_eq!(goes(&setting), (false, None, 0), "something stands on it");
    setting.records.nodes.remove(&NodeId::from("2"));
    assert_eq!(goes(&setting), (false, Some(NOW + 600.0), 1), "whoever has its provider may be starting");
    setting.holdings.idle_since.insert("1".into(), Uptime(UPTIME.0 - 600.0));
    assert!(goes(&setting).0);
    setting.stopping = true;
    assert!(!goes(&setting).0);
    setting.stopping = false;
    setting.holdings.nodes_after.insert("1".into(), UPTIME + 1.0);
    assert_eq!(goes(&setting), (false, Some(NOW + 1.0), 1), "the last time it could not be done");
    setting.holdings.nodes_after.clear();
    setting.records.pools.insert("p".to_owned(), another);
    assert_eq!(goes(&setting), (false, None, 0), "another launcher has it");
    setting.records.pools.remove("p");
    setting.config.broken_providers.insert("p".into());
    assert_eq!(goes(&setting), (false, None, 0), "an error leaves its provider out");
    setting.config.broken_providers.clear();
    setting.config.providers.clear();
    assert_eq!(goes(&setting), (false, None, 0), "it is of a provider of others, who delete it");
}

/// Both wait for room, which pauses their pool, when a younger launcher registers.
#[test]
fn requests_that_wait_for_room_are_put_back_when_another_launcher_places_the_nodes() {
    let mut setting = stack(None).accepted("100-0000000001", &["small"]).accepted("100-0000000002", &["small"]);
    let provider = Arc::make_mut(setting.config.providers.get_mut("p").unwrap());
    provider.pools[0].limits = Resources::new().with("instances", 1.0);
    let put_back = |setting: &Setting| -> Vec<String> {
        let plan = setting.plan();
        let put_back = plan.decisions.iter().filter_map(|decision| match decision {
            Decision::PutBack { request, reason: Reason::LeftToKeeper { .. } } => Some(request.to_string()),
            _ => None,
        });
        put_back.collect()
    };
    let plan = setting.plan();
    assert!(plan.paused.len() == 1 && plan.waiting.len() == 2, "{:?}", plan.waiting);
    assert!(put_back(&setting).is_empty());
    let ours = setting.records.pools.remove("p").unwrap();
    let theirs = PoolComponent { id: Some("theirs".into()), ..PoolComponent::clone(&ours) };
    setting.records.pools.insert("h0000000003".to_owned(), ours);
    setting.records.pools.insert("h0000000007".to_owned(), Arc::new(theirs));
    assert_eq!(put_back(&setting), ["100-0000000001", "100-0000000002"]);
}
