//! `kill -9` of the launcher at many moments of a launch: the next one fulfils the request, and no server is left.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a test fails that way

mod support;

use std::time::Duration;

use serde_json::json;
use support::*;

/// When to kill.
#[derive(Clone, Copy, Debug)]
enum Moment {
    /// So many milliseconds after the request was written.
    After(u64),
    /// As soon as the log says so.
    Logged(&'static str),
    /// As soon as the cloud has a server, whether we know of it or not.
    ServerExists,
    /// As soon as a node's record is there.
    NodeExists,
}

/// One life: a launch, a kill at that moment, a second launcher that has to bring it to its end.
async fn killed_at(moment: Moment) {
    let stage = Stage::new(zookeeper()).await;
    stage.script(&json!({"p": {"boot_delay": 0.3, "state_dir": stage.state_dir()}}));
    stage.session_timeout.set(1.0);
    stage.cleanup_interval.set(0.5);
    stage.configure(&[fake("p", &["a"], 10)]);
    let mut first = stage.launcher().await;
    stage.offered("a").await;
    let request = stage.request(&["a", "a"]).await;
    let about = format!("{moment:?}");
    let come = async || match moment {
        Moment::After(_) => true,
        Moment::Logged(words) => first.logged(&[words]),
        Moment::ServerExists => !stage.servers().is_empty(),
        Moment::NodeExists => !stage.zk.list_children("/nodepool/nodes").await.unwrap().is_empty(),
    };
    if let Moment::After(milliseconds) = moment {
        tokio::time::sleep(Duration::from_millis(milliseconds)).await; // the moment itself
    }
    nodepool_testing::wait_for(SOON, &about, || async { come().await.then_some(()) }).await;
    first.kill();
    let second = stage.launcher().await;
    let record = stage.fulfilled(&request).await;
    let nodes = record["nodes"].as_array().unwrap();
    assert_eq!(nodes.len(), 2, "{about}: {record}");
    for node in nodes {
        let node = stage.record(&format!("nodes/{}", node.as_str().unwrap())).await;
        assert_eq!(node["state"], "ready", "{about}: {node}");
        assert_eq!(node["allocated_to"], json!(request), "{about}: {node}");
        assert!(stage.servers().contains_key(node["external_id"].as_str().unwrap()), "{about}: {node}");
    }
    stage.release(&request).await;
    // What the first one left ready, without having said so, is stock; a request takes it.
    stage
        .wait(&format!("{about}: only stock is left"), async || {
            let nodes = stage.records("nodes").await;
            let stock = |node: &serde_json::Value| node["state"] == "ready" && node["allocated_to"].is_null();
            nodes.values().all(stock) && stage.servers().len() == nodes.len()
        })
        .await;
    let stock = stage.records("nodes").await.len();
    for _ in 0..stock {
        let taker = stage.request(&["a"]).await;
        stage.fulfilled(&taker).await;
        stage.release(&taker).await;
    }
    stage.no_node_is_left().await;
    assert!(!second.logged(&["panicked"]), "{}", second.log());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_launcher_killed_at_any_time_of_a_launch_is_replaced_without_loss() {
    let moments = [0, 10, 20, 35, 50, 75, 100, 150, 200, 250, 300, 330, 360, 400, 450, 500, 600];
    side_by_side(4, moments.map(|after| Box::pin(killed_at(Moment::After(after))))).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_launcher_killed_at_any_step_of_a_launch_is_replaced_without_loss() {
    let steps = ["Accepted", "Launching", "being created", "is ready", "Fulfilled"].map(Moment::Logged);
    let moments = steps.into_iter().chain([Moment::NodeExists, Moment::ServerExists]);
    side_by_side(4, moments.map(|moment| Box::pin(killed_at(moment)))).await;
}

#[tokio::test]
async fn a_server_whose_record_never_came_to_be_is_removed_and_a_strangers_is_not() {
    let stage = Stage::new(zookeeper()).await;
    stage.script(&json!({"p": {"state_dir": stage.state_dir()}}));
    stage.session_timeout.set(1.0);
    stage.cleanup_interval.set(0.3);
    stage.configure(&[fake("p", &["a"], 10)]);
    let mut first = stage.launcher().await;
    let request = stage.request(&["a", "a", "a"]).await;
    let record = stage.fulfilled(&request).await;
    first.kill();
    // One node loses its record, as if the launcher had died between the cloud's work and its note of it; one server
    // becomes another provider's, one has no mark of ours at all.
    let ids: Vec<&str> = record["nodes"].as_array().unwrap().iter().map(|node| node.as_str().unwrap()).collect();
    let mut servers = stage.servers();
    for (id, change) in [(ids[0], "none"), (ids[1], "other"), (ids[2], "unmarked")] {
        let external_id = stage.record(&format!("nodes/{id}")).await["external_id"].as_str().unwrap().to_owned();
        let metadata = &mut servers.get_mut(&external_id).unwrap()["document"]["metadata"];
        match change {
            "other" => metadata["nodepool_provider_name"] = json!("somebody-else"),
            "unmarked" => *metadata = json!({}),
            _ => {}
        }
        for path in stage.zk.list_children(&format!("/nodepool/nodes/{id}/lock")).await.unwrap_or_default() {
            stage.zk.delete(&format!("/nodepool/nodes/{id}/lock/{path}"), None).await.unwrap();
        }
        for path in [format!("/nodepool/nodes/{id}/lock"), format!("/nodepool/nodes/{id}")] {
            match stage.zk.delete(&path, None).await {
                Ok(()) | Err(zookeeper_client::Error::NoNode) => {}
                Err(error) => panic!("{path}: {error}"),
            }
        }
    }
    stage.set_servers("p", &json!(servers));
    let second = stage.launcher().await;
    stage.wait("ours is gone", async || stage.servers().len() == 2).await;
    assert_eq!(second.count(&["Deleting leaked resource"]), 1, "{}", second.log());
    // Two more searches see the strangers' servers, and leave them.
    let another = stage.request(&["a"]).await;
    stage.fulfilled(&another).await;
    stage.release(&another).await;
    stage.wait("only the strangers' are left", async || stage.servers().len() == 2).await;
    tokio::time::sleep(Duration::from_secs(1)).await; // more than two searches
    assert_eq!(stage.servers().len(), 2);
    assert_eq!(second.count(&["Deleting leaked resource"]), 1, "{}", second.log());
}
