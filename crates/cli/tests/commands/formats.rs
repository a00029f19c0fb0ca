//! `--format`: the lists for programs.

use std::process::{Command, Stdio};

use serde_json::{Value, json};

use crate::world::{NODEPOOL, World, nodepool, stderr, stdout};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lists_are_printed_for_programs() {
    let world = World::start().await;
    let node =
        json!({"state": "ready", "type": ["a", "b"], "provider": "p", "state_time": 1000.5, "comment": "a, \"b\""});
    world.add_node("0000000001", &node).await;
    let (jammy, build) = ("/nodepool/images/jammy", "/nodepool/images/jammy/builds/c0ffee");
    world.zk.create(build, br#"{"state": "ready", "formats": "qcow2,raw", "state_time": 1000}"#).await.unwrap();
    world.zk.create(&format!("{jammy}/request-build"), b"").await.unwrap();
    let upload = json!({"state": "ready", "external_id": "e", "state_time": 1000}).to_string();
    world.zk.create(&format!("{build}/providers/p/images/0000000001"), upload.as_bytes()).await.unwrap();
    world
        .zk
        .create("/nodepool/requests/200-0000000001", br#"{"state": "requested", "node_types": ["a"]}"#)
        .await
        .unwrap();

    let list = json_of(&world, &["list", "--format", "json"]).await;
    let first = &list[0];
    assert_eq!(
        (&first["id"], &first["label"], &first["ipv6"]),
        (&json!("0000000001"), &json!(["a", "b"]), &Value::Null)
    );
    assert_eq!((&first["locked"], &first["comment"]), (&json!("unlocked"), &json!("a, \"b\"")));
    assert!(first["age"].as_i64().is_some_and(|age| age > 1_700_000_000), "{first}");
    assert_eq!(first.as_object().unwrap().len(), 21, "also without --detail");
    let requests = json_of(&world, &["request-list", "--format", "json"]).await;
    assert_eq!((&requests[0]["node_types"], &requests[0]["decline_reasons"]), (&json!(["a"]), &Value::Null));
    let builds = json_of(&world, &["dib-image-list", "--format", "json"]).await;
    assert_eq!((&builds[0]["id"], &builds[0]["formats"]), (&json!("jammy-c0ffee"), &json!(["qcow2", "raw"])));
    let uploads = json_of(&world, &["image-list", "--format", "json"]).await;
    assert_eq!((&uploads[0]["external_id"], &uploads[0]["external_name"]), (&json!("e"), &Value::Null));
    let images = json_of(&world, &["image-status", "--format", "json"]).await;
    assert_eq!((&images[0]["paused"], &images[0]["build_request"]), (&json!(false), &json!("pending")));
    assert!(images[0]["build_request_age"].as_i64().is_some_and(|age| (0..600).contains(&age)), "{images}");
    let info = json_of(&world, &["info", "p", "--format", "json"]).await;
    let expected = json!({
        "provider": "p",
        "images": [{"image": "jammy", "build": "c0ffee", "uploads": ["0000000001"]}],
        "nodes": [{"id": "0000000001", "server_id": null}],
    });
    assert_eq!(info, expected);
    assert_eq!(json_of(&world, &["alien-image-list", "--format", "json"]).await, json!([]));
    assert_eq!(json_of(&world, &["leaks", "--remove", "--format", "json"]).await, json!([]));

    let yaml = world.nodepool(&["request-list", "--format", "yaml"]).await;
    assert!(stdout(&yaml).contains("decline_reasons: null"), "{yaml:?}");
    let csv = world.nodepool(&["list", "--format", "csv"]).await;
    let mut lines = stdout(&csv).lines();
    assert_eq!(lines.next(), Some("id,provider,label,server_id,public_ipv4,ipv6,state,age,locked"));
    assert!(lines.next().unwrap().starts_with("0000000001,p,\"a,b\",,,,ready,"), "{csv:?}");
    let detail = world.nodepool(&["list", "--detail", "--format", "csv"]).await;
    assert!(stdout(&detail).contains(",\"a, \"\"b\"\"\",,\n"), "{detail:?}");

    let held = json_of(&world, &["hold", "0000000001", "--format", "json"]).await;
    assert_eq!(held[0]["state"], "hold");
    let missing = world.nodepool(&["hold", "0000000009", "--format", "json"]).await;
    assert_eq!((missing.status.code(), stdout(&missing)), (Some(0), "[]\n"), "a program needs no other case");
    assert!(stderr(&missing).contains("Node id 0000000009 not found"), "{missing:?}");
}

async fn json_of(world: &World, arguments: &[&str]) -> Value {
    let output = world.nodepool(arguments).await;
    assert_eq!(output.status.code(), Some(0), "{arguments:?} {output:?}");
    serde_json::from_str(stdout(&output)).unwrap_or_else(|error| panic!("{arguments:?} {error}: {output:?}"))
}

#[test]
fn a_format_that_there_is_not_is_a_usage_error() {
    for arguments in [&["list", "--format", "xml"][..], &["info", "p", "--format", "csv"]] {
        let refused = nodepool(arguments);
        assert_eq!(refused.status.code(), Some(2), "{arguments:?}");
        assert!(stderr(&refused).contains("yaml"), "it names the right ones: {refused:?}");
    }
}

/// As in `nodepool list | head -1`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn output_that_nobody_reads_ends_quietly() {
    let world = World::start().await;
    world.add_node("0000000001", &json!({"state": "ready"})).await;
    for format in ["table", "json", "yaml", "csv"] {
        let mut command = Command::new(NODEPOOL);
        command.arg("-c").arg(world.config()).args(["list", "--format", format]);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        drop(child.stdout.take());
        let ended = tokio::task::spawn_blocking(move || child.wait_with_output()).await.unwrap().unwrap();
        assert_eq!((ended.status.code(), stderr(&ended)), (Some(0), ""), "{format}");
    }
}
