//! `nodepool explain`, by what stands in ZooKeeper alone: no launcher runs here. What launchers add is tested with them.

use serde_json::{Value, json};

use crate::world::{World, stderr, stdout};

async fn put(world: &World, path: &str, record: &Value) {
    world.zk.create(&format!("/nodepool/{path}"), record.to_string().as_bytes()).await.unwrap();
}

async fn explain(world: &World, arguments: &[&str]) -> (Option<i32>, String, String) {
    let all: Vec<&str> = ["explain"].into_iter().chain(arguments.iter().copied()).collect();
    let output = world.nodepool(&all).await;
    (output.status.code(), stdout(&output).to_owned(), stderr(&output).to_owned())
}

#[tokio::test]
async fn a_name_is_explained_as_all_that_it_is_the_name_of_and_the_gravest_is_the_status() {
    let world = World::start().await;
    let pool = json!({"hostname": "pythons", "state": "running", "id": "id-p", "name": "main", "provider_name": "p",
        "supported_labels": ["noble"], "priority": 100, "paused": false});
    put(&world, "components/pool/pythons0000000000", &pool).await;
    let node =
        json!({"state": "ready", "state_time": 1_760_000_000.0, "type": ["noble"], "provider": "p", "pool": "main"});
    world.add_node("0000000001", &node).await;
    let build = json!({"state": "failed", "state_time": 1_760_000_000.0, "builder": "b1", "reason": "mirror is down"});
    put(&world, "images/noble/builds/0b1", &build).await;

    let (status, out, _) = explain(&world, &["noble"]).await;
    assert_eq!(status, Some(2), "{out}");
    assert!(out.contains("label noble: WAIT: Pool p-main: its launcher on pythons has not said"), "{out}");
    assert!(out.contains("ready nodes:         1"), "{out}");
    assert!(out.contains("image noble: ACT: Its newest build 0b1 has failed: mirror is down"), "{out}");
    // By its kind it is one thing.
    let (status, out, _) = explain(&world, &["noble", "--kind", "image", "--format", "json"]).await;
    let image: Value = serde_json::from_str(&out).unwrap();
    assert_eq!((status, &image["kind"], &image["code"]), (Some(2), &json!("image"), &json!("build-failed")));
    let (status, out, _) = explain(&world, &["noble", "--format", "json"]).await;
    let all: Value = serde_json::from_str(&out).unwrap();
    assert_eq!((status, all.as_array().map(Vec::len)), (Some(2), Some(2)));
    // A list also where there is but one of that name.
    let (_, out, _) = explain(&world, &["p", "--format", "json"]).await;
    let all: Value = serde_json::from_str(&out).unwrap();
    assert_eq!((&all[0]["kind"], &all[0]["code"]), (&json!("provider"), &json!("not-asked")));
}

#[tokio::test]
async fn what_has_no_trace_is_status_1_and_a_wrong_command_line_2() {
    let world = World::start().await;
    let (status, out, err) = explain(&world, &["noble"]).await;
    assert_eq!((status, out.as_str()), (Some(1), ""));
    assert!(err.contains("no trace of a label, image or provider of the name noble"), "{err}");
    let (status, _, err) = explain(&world, &["200-0000000001"]).await;
    assert_eq!(status, Some(1));
    assert!(err.contains("no trace of request 200-0000000001: it never was, or it is done"), "{err}");
    let (status, _, err) = explain(&world, &["a/b"]).await;
    assert!(status == Some(1) && err.contains("a/b can be no id"), "{err}");
    let (status, out, err) = explain(&world, &["noble", "--kind", "pool"]).await;
    assert_eq!((status, out.as_str()), (Some(2), ""));
    assert!(err.contains("request, node, label, image, provider"), "{err}");
}

#[tokio::test]
async fn a_request_is_explained_with_its_nodes() {
    let world = World::start().await;
    let node =
        json!({"state": "ready", "state_time": 1_760_000_000.0, "type": ["noble"], "allocated_to": "200-0000000001"});
    world.add_node("0000000001", &node).await;
    // Gone: only its node says that it was.
    let (status, out, _) = explain(&world, &["200-0000000001"]).await;
    assert!(status == Some(0) && out.contains("1 of its nodes is left: 0000000001 (ready)"), "{out}");
    let request = json!({"state": "fulfilled", "state_time": 1_760_000_000.0, "node_types": ["noble"],
        "nodes": ["0000000001"], "declined_by": []});
    put(&world, "requests/200-0000000001", &request).await;
    let (status, out, _) = explain(&world, &["200-0000000001"]).await;
    assert!(status == Some(0) && out.contains("has not taken them yet: 0000000001"), "{out}");
    // Waiting behind another one.
    let waits =
        json!({"state": "requested", "state_time": 1_760_000_000.0, "node_types": ["noble"], "declined_by": []});
    put(&world, "requests/200-0000000002", &waits).await;
    put(&world, "requests/200-0000000003", &waits).await;
    let (status, out, _) = explain(&world, &["200-0000000003"]).await;
    assert!(status == Some(2) && out.contains("ACT: No launcher is running"), "{out}");
    assert!(out.contains("requests before it:  1"), "{out}");
}
