//! Nodes that stand on nodes of other providers: placed, kept apart, and what is underneath given back in time.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a test fails that way

mod support;

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use nix::sys::signal::Signal;
use serde_json::{Value, json};
use support::*;

/// A provider whose label `small` stands on `large` nodes of the provider `cloud`.
fn meta(more: &Value) -> Value {
    let mut label = json!({"name": "small", "backing-label": "large", "max-parallel-jobs": 2, "grace-time": 1});
    label.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    json!({"name": "meta", "driver": "metastatic", "pools": [{"name": "main", "labels": [label]}]})
}

fn both(more: &Value) -> [Value; 2] {
    [fake("cloud", &["large"], 10), meta(more)]
}

/// Where the node of a request stands: backing node and slot.
async fn place(stage: &Stage, request: &str) -> (String, i64) {
    let record = stage.fulfilled(request).await;
    let node = stage.record(&format!("nodes/{}", record["nodes"][0].as_str().unwrap())).await;
    let data = &node["driver_data"];
    assert_eq!(node["slot"], data["slot"]);
    (data["backing_node"].as_str().unwrap().to_owned(), data["slot"].as_i64().unwrap())
}

async fn asked_and_placed(stage: &Stage) -> (String, (String, i64)) {
    let request = stage.request(&["small"]).await;
    let place = place(stage, &request).await;
    (request, place)
}

async fn gone(stage: &Stage, node: &str) {
    stage.wait(&format!("node {node} is gone"), async || stage.data(&format!("nodes/{node}")).await.is_none()).await;
}

/// Upstream's `test_metastatic`, with what Zuul is given.
#[tokio::test]
async fn nodes_share_what_they_stand_on_and_it_goes_after_the_last_one() {
    let stage = Stage::new(zookeeper()).await;
    let mut providers = both(&json!({}));
    providers[0]["pools"][0]["node-attributes"] = json!({"from": "cloud", "only": "cloud"});
    providers[1]["pools"][0]["node-attributes"] = json!({"from": "meta"});
    stage.configure(&providers);
    let launcher = stage.launcher().await;
    let (first, (backing, slot)) = asked_and_placed(&stage).await;
    assert_eq!(slot, 0);
    let nodes = stage.records("nodes").await;
    let under = &nodes[&backing];
    let over = nodes.values().find(|node| node["provider"] == "meta").unwrap();
    for same in [
        "interface_ip",
        "public_ipv4",
        "private_ipv4",
        "az",
        "region",
        "username",
        "connection_port",
        "connection_type",
        "host_keys",
    ] {
        assert_eq!(over[same], under[same], "{same}");
    }
    assert_eq!(over["attributes"], json!({"from": "meta", "only": "cloud"}));
    assert_eq!((&under["state"], &over["state"]), (&json!("in-use"), &json!("ready")));
    let owner: Value = serde_json::from_str(under["user_data"].as_str().unwrap()).unwrap();
    assert_eq!(
        (&owner["owner"], &owner["label"], &owner["slots"]),
        (&json!("NodePool:metastatic:meta"), &json!("small"), &json!(2))
    );
    let contenders = stage.zk.list_children(&format!("/nodepool/nodes/{backing}/lock")).await.unwrap();
    let contender = stage.data(&format!("nodes/{backing}/lock/{}", contenders[0])).await.unwrap();
    assert_eq!(contender, b"NodePool:metastatic:meta");
    let (second, at_second) = asked_and_placed(&stage).await;
    assert_eq!(at_second, (backing.clone(), 1));
    let (third, (other, _)) = asked_and_placed(&stage).await;
    assert_ne!(other, backing);
    stage.release(&first).await;
    stage.release(&second).await;
    gone(&stage, &backing).await;
    stage.release(&third).await;
    stage.no_node_is_left().await;
    assert!(launcher.logged(&["Giving the backing node back: nothing stands on it"]), "{}", launcher.log());
    assert_eq!(stage.records("requests").await.len(), 0);
}

/// Upstream's `test_metastatic_min_retention`.
#[tokio::test]
async fn a_backing_node_is_kept_for_its_retention_time_and_for_its_grace() {
    let stage = Stage::new(zookeeper()).await;
    stage.configure(&both(&json!({"min-retention-time": 4})));
    let _launcher = stage.launcher().await;
    let (request, (backing, _)) = asked_and_placed(&stage).await;
    let began = Instant::now();
    stage.release(&request).await;
    gone(&stage, &backing).await;
    let kept = began.elapsed();
    assert!(kept > Duration::from_millis(3300), "kept for {kept:?} only");
    // The grace begins when the last one goes.
    stage.configure(&both(&json!({"grace-time": 2})));
    let (request, (backing, _)) = asked_and_placed(&stage).await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    let began = Instant::now();
    stage.release(&request).await;
    gone(&stage, &backing).await;
    assert!(began.elapsed() > Duration::from_millis(1900), "kept for {:?} only", began.elapsed());
}

/// Upstream's `test_metastatic_max_age`.
#[tokio::test]
async fn nothing_new_stands_on_a_backing_node_that_is_too_old() {
    let stage = Stage::new(zookeeper()).await;
    stage.configure(&both(&json!({"max-age": 2, "grace-time": 60})));
    let _launcher = stage.launcher().await;
    let (request, (backing, _)) = asked_and_placed(&stage).await;
    tokio::time::sleep(Duration::from_millis(2500)).await;
    let (_, (other, _)) = asked_and_placed(&stage).await;
    assert_ne!(backing, other, "it has a free slot, but is too old");
    stage.release(&request).await;
    gone(&stage, &backing).await; // without any grace
}

/// Upstream's `test_metastatic_invalid_node_state`: somebody has deleted the backing node.
#[tokio::test]
async fn a_backing_node_that_is_gone_is_not_missed() {
    let stage = Stage::new(zookeeper()).await;
    stage.configure(&both(&json!({"grace-time": 60})));
    let _launcher = stage.launcher().await;
    let (request, (backing, _)) = asked_and_placed(&stage).await;
    let path = format!("/nodepool/nodes/{backing}");
    let mut record = stage.record(&format!("nodes/{backing}")).await;
    record["state"] = json!("deleting");
    stage.zk.set_data(&path, record.to_string().as_bytes(), None).await.unwrap();
    for contender in stage.zk.list_children(&format!("{path}/lock")).await.unwrap() {
        stage.zk.delete(&format!("{path}/lock/{contender}"), None).await.unwrap();
    }
    gone(&stage, &backing).await;
    let (_, (other, _)) = asked_and_placed(&stage).await;
    assert_ne!(other, backing);
    stage.release(&request).await;
    stage.wait("two nodes are left", async || stage.records("nodes").await.len() == 2).await;
}

#[tokio::test]
async fn a_killed_launcher_leaves_its_backing_nodes_to_the_next() {
    let stage = Stage::new(zookeeper()).await;
    stage.session_timeout.set(2.0);
    stage.configure(&both(&json!({})));
    let mut launcher = stage.launcher().await;
    let (first, (backing, _)) = asked_and_placed(&stage).await;
    launcher.kill();
    let _next = stage.launcher().await;
    let (second, at) = asked_and_placed(&stage).await;
    assert_eq!(at, (backing.clone(), 1));
    stage.release(&first).await;
    stage.release(&second).await;
    stage.no_node_is_left().await;
}

/// Two launchers have the provider for a while, as in an upgrade: no slot is given twice.
#[tokio::test]
async fn two_launchers_give_no_slot_twice() {
    let stage = Stage::new(zookeeper()).await;
    stage.configure(&both(&json!({"grace-time": 60, "max-parallel-jobs": 4})));
    let mut first = stage.launcher().await;
    let (_, (backing, _)) = asked_and_placed(&stage).await;
    let second = stage.launcher().await;
    let mut requests = Vec::new();
    for number in 0..11 {
        requests.push(stage.request(&["small"]).await);
        if number == 5 {
            first.signal(Signal::SIGTERM);
        }
    }
    let mut places = BTreeSet::from([(backing, 0)]);
    for request in &requests {
        places.insert(place(&stage, request).await);
    }
    first.ended(Duration::from_secs(10)).await;
    assert_eq!(places.len(), 12, "{places:?}");
    assert!(places.iter().all(|(_, slot)| *slot < 4), "{places:?}");
    assert!(second.logged(&["stands on"]), "{}", second.log());
}

#[tokio::test]
async fn a_backing_node_that_cannot_be_had_is_the_reason_why() {
    let stage = Stage::new(zookeeper()).await;
    let mut providers = both(&json!({}));
    providers[0]["pools"][0]["max-servers"] = json!(0);
    providers[1]["launch-retries"] = json!(2);
    stage.configure(&providers);
    let _launcher = stage.launcher().await;
    let request = stage.request(&["small"]).await;
    let record = stage.wait_for_state(&request, "failed").await;
    let reasons = record["decline_reasons"].to_string();
    assert!(reasons.contains("the request for a node to stand on failed: cloud-main: pool is disabled"), "{reasons}");
    stage.no_node_is_left().await;
    stage.wait("ours are gone", async || stage.records("requests").await.len() == 1).await;
}
