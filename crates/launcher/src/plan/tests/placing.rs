//! Nodes that stand on others: which launch gets which slot.

use std::sync::Arc;

use nodepool_common::{
    config::Metastatic,
    model::{Backing, Place},
};
use serde_json::json;

use super::{
    metastatic::{orders, seeking, stack},
    *,
};

/// Who gets which slot of which backing node, as decided.
pub fn placed(plan: &Plan) -> Vec<(String, String, usize)> {
    let mut all = Vec::new();
    for decision in &plan.decisions {
        if let Decision::Place { on, slots, .. } = decision {
            all.extend(slots.iter().map(|(node, slot)| (node.to_string(), on.to_string(), *slot)));
        }
    }
    all
}

pub fn at(node: &str, on: &str, slot: usize) -> (String, String, usize) {
    (node.to_owned(), on.to_owned(), slot)
}

/// Another backing node, with nothing on it.
fn another(mut setting: Setting, id: &str) -> Setting {
    let known = &setting.records.nodes[&NodeId::from("1")].record;
    let data = known.as_ref().unwrap().user_data.clone();
    setting = setting.node(id, "big", NodeState::InUse, |node| {
        node.provider = Some("cloud".into());
        node.user_data = data;
    });
    setting.node_entry(id).contenders.insert("somebody".to_owned());
    setting
}

fn backing(setting: &mut Setting, id: &str, change: impl FnOnce(&mut Backing)) {
    let record = setting.node_entry(id).record.as_mut().unwrap();
    let node = Arc::make_mut(record);
    let mut backing = Backing::of(node).unwrap();
    change(&mut backing);
    node.user_data = Some(backing.user_data());
}

#[test]
fn who_asked_first_is_placed_first_and_on_the_oldest_backing_node() {
    let mut setting = another(seeking(stack(None), &["5", "6", "7", "8"]), "3");
    for (node, request) in [("5", "200-0000000001"), ("6", "100-0000000003"), ("7", "100-0000000002")] {
        setting.holdings.nodes.get_mut(&NodeId::from(node)).unwrap().request = request.into();
    }
    setting = setting.request("100-0000000002", &["small"], |request| {
        request.state = RequestState::Pending;
        request.relative_priority = 5;
    });
    let plan = setting.plan();
    assert_eq!(placed(&plan), [at("6", "1", 1), at("8", "3", 0), at("7", "3", 1)]);
    assert_eq!(orders(&plan), [1], "for the one that is left");
    let decisions = plan.decisions.iter().filter(|decision| matches!(decision, Decision::Place { .. }));
    assert_eq!(decisions.count(), 2, "one for each backing node");
    assert!(plan.idle_backing.is_empty(), "both are about to carry something");
}

#[test]
fn a_slot_that_a_record_names_is_taken_until_that_record_has_gone() {
    let mut setting = seeking(stack(None), &["5"]).node("4", "small", NodeState::Used, |node| {
        node.driver_data = Some(json!({"backing_node": "1", "slot": 1}).into());
    });
    let plan = setting.plan();
    assert_eq!((placed(&plan), orders(&plan)), (vec![], vec![1]));
    setting.records.nodes.remove(&NodeId::from("4"));
    let plan = setting.plan();
    assert_eq!((placed(&plan), orders(&plan)), (vec![at("5", "1", 1)], vec![]));
}

#[test]
fn a_slot_is_given_once_while_it_is_being_written_down() {
    let mut setting = seeking(stack(None), &["5", "6"]);
    let (mut ledger, decision) = (Ledger::default(), setting.plan().decisions);
    let decision = decision.into_iter().find(|decision| matches!(decision, Decision::Place { .. })).unwrap();
    *ledger.holdings_mut() = setting.holdings;
    let action = ledger.begin(&decision);
    assert_eq!(ledger.placing[&NodeId::from("5")], Place { backing_node: "1".into(), slot: 1 });
    assert!(ledger.busy_nodes.contains(&"1".into()));
    setting.holdings = Holdings::clone(&ledger);
    let plan = setting.plan();
    assert_eq!((placed(&plan), orders(&plan)), (vec![], vec![1]), "it is not on record yet");
    // Written: the record says so before the launch does.
    let node = setting.node_entry("5").record.as_mut().unwrap();
    Arc::make_mut(node).driver_data = Some(json!({"backing_node": "1", "slot": 1}).into());
    ledger.end(action);
    setting.holdings = Holdings::clone(&ledger);
    let plan = setting.plan();
    assert_eq!((placed(&plan), orders(&plan)), (vec![], vec![1]));
    // Not written: another process was faster, with a node that the records show by now.
    let node = setting.node_entry("5").record.as_mut().unwrap();
    Arc::make_mut(node).driver_data = None;
    assert_eq!(placed(&setting.plan()), [at("5", "1", 1)]);
    setting = setting.node("9", "small", NodeState::Building, |node| {
        node.driver_data = Some(json!({"backing_node": "1", "slot": 1}).into());
    });
    let plan = setting.plan();
    assert_eq!((placed(&plan), orders(&plan)), (vec![], vec![1]));
}

#[test]
fn what_an_action_works_on_keeps_its_other_slots_for_those_who_came_first() {
    let mut setting = another(seeking(stack(None), &["5", "6"]), "3");
    setting.holdings.busy_nodes.insert("1".into());
    let plan = setting.plan();
    assert_eq!(placed(&plan), [at("6", "3", 0)], "the first one waits for the slot that is left on the oldest");
    assert!(orders(&plan).is_empty());
}

#[test]
fn a_backing_node_of_which_an_action_has_failed_is_left_alone_until_its_time() {
    let mut setting = seeking(stack(None), &["5"]);
    setting.stopping = true;
    setting.holdings.nodes_after.insert("1".into(), UPTIME + 1.0);
    let plan = setting.plan();
    assert_eq!((placed(&plan), plan.wake_at), (vec![], Some(NOW + 1.0)));
    assert!(orders(&plan).is_empty(), "it has room all the same");
    setting = another(setting, "3");
    assert_eq!(placed(&setting.plan()), [at("5", "3", 0)]);
    setting.holdings.nodes_after.insert("1".into(), UPTIME);
    assert_eq!(placed(&setting.plan()), [at("5", "1", 1)]);
}

#[test]
fn a_node_that_is_not_locked_for_the_provider_is_no_backing_node() {
    let mut setting = seeking(stack(None), &["5"]);
    setting.holdings.not_kept.insert("1".into(), UPTIME + 60.0);
    let plan = setting.plan();
    assert_eq!((placed(&plan), orders(&plan)), (vec![], vec![1]), "another one is asked for");
    assert_eq!(plan.wake_at, Some(NOW + 60.0), "it may be one again then");
    setting.holdings.not_kept.insert("1".into(), UPTIME);
    assert_eq!(placed(&setting.plan()), [at("5", "1", 1)]);
    setting.node_entry("1").contenders.clear();
    assert!(placed(&setting.plan()).is_empty(), "nobody has it locked any more");
}

#[test]
fn nothing_is_placed_on_what_is_too_old_or_has_failed_or_is_of_another_label() {
    assert_eq!(placed(&seeking(stack(Some(101)), &["5"]).plan()), [at("5", "1", 1)]);
    assert!(placed(&seeking(stack(Some(99)), &["5"]).plan()).is_empty());
    let mut setting = seeking(stack(None), &["5"]);
    backing(&mut setting, "1", |backing| backing.failed = true);
    assert!(placed(&setting.plan()).is_empty());
    backing(&mut setting, "1", |backing| (backing.failed, backing.label) = (false, "other".into()));
    assert!(placed(&setting.plan()).is_empty());
    backing(&mut setting, "1", |backing| {
        (backing.label, backing.owner) = ("small".into(), "NodePool:metastatic:q".to_owned());
    });
    assert!(placed(&setting.plan()).is_empty(), "of another provider");
}

/// Node 5 stands on the backing node already, and has not said so; node 6 is just being placed.
#[test]
fn who_would_have_stood_on_a_backing_node_is_found_in_the_order_of_their_requests() {
    let mut setting = seeking(stack(None), &["5", "6", "7", "8", "9"]);
    for (node, request) in [("7", "200-0000000001"), ("8", "100-0000000003"), ("9", "100-0000000002")] {
        setting.holdings.nodes.get_mut(&NodeId::from(node)).unwrap().request = request.into();
    }
    setting.holdings.seeking.get_mut(&NodeId::from("8")).unwrap().0.pool = "another".into();
    let node = setting.node_entry("5").record.as_mut().unwrap();
    Arc::make_mut(node).driver_data = Some(Box::new(json!({"backing_node": "1", "slot": 1})));
    setting.holdings.placing.insert("6".into(), Place { backing_node: "3".into(), slot: 0 });
    let (records, holdings) = (&setting.records, &setting.holdings);
    let of = |provider: &str, label: &str| -> Vec<String> {
        seekers_of(records, holdings, &provider.into(), &label.into()).map(ToString::to_string).collect()
    };
    assert_eq!(of("p", "small"), ["9", "8", "7"], "of all pools of the provider");
    assert!(of("p", "big").is_empty() && of("q", "small").is_empty());
}

#[test]
fn a_launch_whose_pool_has_its_label_no_more_is_ended_unless_it_stands_somewhere() {
    let ended = |setting: &Setting| -> Vec<String> {
        let plan = setting.plan();
        assert!(placed(&plan).is_empty());
        let ended = plan.decisions.iter().filter_map(|decision| match decision {
            Decision::StopSeeking { node, reason: Reason::LabelRemoved } => Some(node.to_string()),
            _ => None,
        });
        ended.collect()
    };
    let mut setting = seeking(stack(None), &["5", "6", "7"]);
    setting.holdings.placing.insert("6".into(), Place { backing_node: "1".into(), slot: 1 });
    let node = setting.node_entry("7").record.as_mut().unwrap();
    Arc::make_mut(node).driver_data = Some(json!({"backing_node": "1", "slot": 1}).into());
    let provider = Arc::make_mut(setting.config.providers.get_mut("p").unwrap());
    provider.driver = Driver::Metastatic(Metastatic { pools: indexmap::IndexMap::new() });
    assert_eq!(ended(&setting), ["5"], "the label");
    setting.config.providers.clear();
    assert_eq!(ended(&setting), ["5"], "the provider");
}
