//! Filters and the order of rows.

use serde_json::json;

use crate::world::{World, nodepool, rows, stderr, stdout};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lists_show_what_is_asked_for_in_the_order_that_is_asked_for() {
    let world = World::start().await;
    for (id, provider, labels, state, zone) in [
        ("0000000001", "p", json!(["a"]), "ready", json!("z2")),
        ("0000000002", "q", json!(["a", "b"]), "in-use", json!(null)),
        ("0000000003", "p", json!(["b"]), "in-use", json!("z1")),
    ] {
        let age = id.ends_with('3');
        let since = if age { 4_000_000_000_i64 } else { 1_000 };
        let node = json!({"state": state, "type": labels, "provider": provider, "az": zone, "state_time": since});
        world.add_node(id, &node).await;
    }
    for (options, expected) in [
        (&[][..], "123"),
        (&["--provider", "p"], "13"),
        (&["--label", "b", "--state", "in-use", "--provider", "q"], "2"),
        (&["--state", "ready,in-use", "--reverse"], "321"),
        (&["--older-than", "2h"], "12"),
        (&["--sort", "-provider"], "213"),
        (&["--sort", "AZ", "--detail"], "312"),
    ] {
        let list = world.nodepool(&[&["list"][..], options].concat()).await;
        let ids: String = rows(&list).iter().map(|row| row[0].trim_start_matches('0').to_owned()).collect();
        assert_eq!(ids, expected, "{options:?}");
    }
    let csv = world.nodepool(&["list", "--provider", "q", "--format", "csv"]).await;
    assert_eq!(stdout(&csv).lines().count(), 2, "{csv:?}");
    let plain = world.nodepool(&["list"]).await;
    let selected = world.nodepool(&["list", "--provider", "p,q"]).await;
    let masked = |output: &std::process::Output| stdout(output).replace(|c: char| c.is_ascii_digit(), "0");
    assert_eq!(masked(&plain), masked(&selected), "the table is the same");

    world
        .zk
        .create("/nodepool/requests/200-0000000001", br#"{"state": "requested", "node_types": ["a"]}"#)
        .await
        .unwrap();
    world
        .zk
        .create("/nodepool/requests/100-0000000002", br#"{"state": "pending", "node_types": ["b"]}"#)
        .await
        .unwrap();
    let requests = world.nodepool(&["request-list", "--label", "b", "--state", "pending"]).await;
    assert_eq!(rows(&requests).len(), 1);
    assert_eq!(rows(&requests)[0][0], "100-0000000002");
}

#[test]
fn a_column_or_state_that_there_is_not_is_a_usage_error_that_names_those_there_are() {
    for (arguments, named) in [
        (&["list", "--sort", "size"][..], "server_id"),
        (&["list", "--state", "flying"], "in-use"),
        (&["request-list", "--state", "in-use"], "fulfilled"),
        (&["dib-image-list", "--state", "in-use"], "paused"),
        (&["list", "--older-than", "2"], "90s, 15m, 2h, 3d"),
        (&["request-list", "--older-than", "2h"], "--older-than"),
        (&["image-status", "--provider", "p"], "--provider"),
    ] {
        let refused = nodepool(arguments);
        assert_eq!((refused.status.code(), stdout(&refused)), (Some(2), ""), "{arguments:?}");
        assert!(stderr(&refused).contains(named), "{arguments:?} {refused:?}");
    }
}
