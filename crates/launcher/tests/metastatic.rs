//! Nodes that stand on nodes of other providers: placed, kept apart, and what is underneath given back in time.

// Measures by the host's clock.
#![allow(clippy::disallowed_methods)]
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

/// The request for a backing node that waits for room in the cloud.
async fn order(stage: &Stage) -> String {
    let mut found = String::new();
    stage
        .wait("a backing node is asked for", async || {
            let ours = |request: &Value| request["requestor"] == "NodePool:metastatic:meta";
            let order = stage.records("requests").await.into_iter().find(|(_, request)| ours(request));
            order.is_some_and(|(id, request)| {
                found = id;
                request["state"] == "pending"
            })
        })
        .await;
    found
}

async fn is_over(stage: &Stage, request: &str) {
    let path = format!("requests/{request}");
    stage.wait(&format!("request {request} is gone"), async || stage.data(&path).await.is_none()).await;
}

/// A request of label `small` that waits for a backing node: the cloud has room for one server, which somebody has.
async fn waits_for_a_backing_node(stage: &Stage) -> String {
    let large = stage.request(&["large"]).await;
    stage.fulfilled(&large).await;
    let small = stage.request(&["small"]).await;
    order(stage).await;
    small
}

fn crowded() -> [Value; 2] {
    [fake("cloud", &["large"], 1), meta(&json!({}))]
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
    launcher.has_logged(&["Giving the backing node back: nothing stands on it"]).await;
    assert_eq!(stage.records("requests").await.len(), 0);
}

/// Upstream's `test_metastatic_min_retention`.
#[tokio::test]
async fn a_backing_node_is_kept_for_its_retention_time_and_for_its_grace() {
    let stage = Stage::new(zookeeper()).await;
    stage.configure(&both(&json!({"min-retention-time": 4})));
    let launcher = stage.launcher().await;
    let (request, (backing, _)) = asked_and_placed(&stage).await;
    let under = stage.record(&format!("nodes/{backing}")).await;
    let owner: Value = serde_json::from_str(under["user_data"].as_str().unwrap()).unwrap();
    stage.release(&request).await;
    gone(&stage, &backing).await;
    let kept = now() - owner["launched"].as_f64().unwrap();
    assert!(kept >= 4.0, "kept for {kept} s only");
    // The grace begins when the last one goes.
    stage.configure(&both(&json!({"grace-time": 2})));
    stage.wait("that is in force", async || launcher.logged(&["Configuration changed"])).await;
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
    first.ended_soon().await;
    assert_eq!(places.len(), 12, "{places:?}");
    assert!(places.iter().all(|(_, slot)| *slot < 4), "{places:?}");
    second.has_logged(&["stands on"]).await;
}

#[tokio::test]
async fn a_backing_node_that_cannot_be_had_is_the_reason_why() {
    let stage = Stage::new(zookeeper()).await;
    let mut providers = both(&json!({}));
    providers[0]["pools"][0]["max-servers"] = json!(0);
    providers[1]["launch-retries"] = json!(3);
    stage.configure(&providers);
    let launcher = stage.launcher().await;
    let request = stage.request(&["small"]).await;
    let record = stage.wait_for_state(&request, "failed").await;
    let reasons = record["decline_reasons"].to_string();
    assert!(reasons.contains("the request for a node to stand on failed: cloud-main: pool is disabled"), "{reasons}");
    stage.no_node_is_left().await;
    stage.wait("ours are gone", async || stage.records("requests").await.len() == 1).await;
    assert_eq!(launcher.count(&["Asking for a large node"]), 3);
    for pause in ["asking again in 1 s", "asking again in 2 s", "asking again in 4 s"] {
        assert_eq!(launcher.count(&[pause]), 1, "{}", launcher.log());
    }
}

/// The launcher that runs the cloud as well: once it stops, nobody serves its own request for a backing node.
#[tokio::test]
async fn a_launcher_that_stops_does_not_wait_for_a_backing_node_that_will_not_come() {
    let stage = Stage::new(zookeeper()).await;
    stage.configure(&crowded());
    let mut launcher = stage.launcher().await;
    let request = waits_for_a_backing_node(&stage).await;
    launcher.signal(Signal::SIGINT);
    assert!(launcher.ended_soon().await.success());
    let record = stage.record(&format!("requests/{request}")).await;
    assert_eq!((&record["state"], &record["declined_by"]), (&json!("requested"), &json!([])), "{}", launcher.log());
    launcher.has_logged(&["no pool is left that has label large"]).await;
}

#[tokio::test]
async fn what_waits_for_a_backing_node_ends_with_its_label_and_with_its_provider() {
    let stage = Stage::new(zookeeper()).await;
    stage.configure(&crowded());
    let launcher = stage.launcher().await;
    let request = waits_for_a_backing_node(&stage).await;
    let asked = order(&stage).await;
    stage.configure(&[fake("cloud", &["large"], 1), meta(&json!({"name": "other"}))]);
    is_over(&stage, &asked).await;
    let record = stage.wait_for_state(&request, "failed").await;
    let reasons = record["decline_reasons"].to_string();
    assert!(reasons.contains("meta-main: node type(s) [small] not available"), "{reasons}");

    stage.configure(&crowded());
    stage.offered("small").await;
    let request = stage.request(&["small"]).await;
    let asked = order(&stage).await;
    stage.configure(&[fake("cloud", &["large"], 1)]);
    is_over(&stage, &asked).await;
    stage.wait_for_state(&request, "failed").await;
    stage.wait("the one in the cloud is left", async || stage.records("nodes").await.len() == 1).await;
    launcher.has_logged(&["Withdrawing the request"]).await;
}

/// What a request was given is gone, or was taken by an attempt that ended before the request was deleted.
#[tokio::test]
async fn a_request_for_a_backing_node_is_over_even_where_its_node_cannot_be_taken() {
    let stage = Stage::new(zookeeper()).await;
    stage.configure(&[fake("cloud", &["large"], 1), meta(&json!({"grace-time": 60}))]);
    let launcher = stage.launcher().await;
    let (first, (backing, _)) = asked_and_placed(&stage).await;
    asked_and_placed(&stage).await;
    let third = stage.request(&["small"]).await;
    for node in [backing.as_str(), "0000009999"] {
        let asked = order(&stage).await;
        let mut record = stage.record(&format!("requests/{asked}")).await;
        (record["state"], record["nodes"]) = (json!("fulfilled"), json!([node]));
        stage.zk.set_data(&format!("/nodepool/requests/{asked}"), record.to_string().as_bytes(), None).await.unwrap();
        is_over(&stage, &asked).await;
    }
    launcher.has_logged(&["cannot be taken", "0000009999 is gone"]).await;
    stage.release(&first).await;
    assert_eq!(place(&stage, &third).await.0, backing, "another attempt has found a place");
}
