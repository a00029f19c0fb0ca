//! Static hosts: registered, handed out, taken back, and left out while they cannot be used.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a test fails that way

mod support;

use std::{collections::BTreeSet, fs, path::Path, process::Command};

use nix::sys::signal::Signal;
use nodepool_testing::free_port;
use serde_json::{Value, json};
use support::*;
use tokio::net::TcpListener;
use zookeeper_client::{Acl, Acls, AuthId, Permission};

/// A host that is not SSH's: it only has to answer.
async fn host(labels: Value, jobs: u32) -> (TcpListener, Value) {
    let port = free_port();
    (listen(port).await, host_at(port, &labels, jobs))
}

fn host_at(port: u16, labels: &Value, jobs: u32) -> Value {
    json!({
        "name": "127.0.0.1", "connection-port": port, "connection-type": "winrm", "username": "Administrator",
        "labels": labels, "max-parallel-jobs": jobs, "timeout": 2,
    })
}

async fn listen(port: u16) -> TcpListener {
    TcpListener::bind(("127.0.0.1", port)).await.unwrap()
}

fn hosts(name: &str, nodes: &[&Value]) -> Value {
    json!({"name": name, "driver": "static", "pools": [{"name": "main", "nodes": nodes}]})
}

/// The ready nodes of a label, by id.
async fn ready(stage: &Stage, label: &str) -> BTreeSet<String> {
    let nodes = stage.records("nodes").await;
    let is_ready = |node: &Value| node["state"] == "ready" && node["type"].as_array().unwrap().contains(&json!(label));
    nodes.into_iter().filter(|(_, node)| is_ready(node)).map(|(id, _)| id).collect()
}

async fn has_ready(stage: &Stage, label: &str, count: usize) -> BTreeSet<String> {
    let what = format!("{count} ready nodes of {label}");
    stage.wait(&what, async || ready(stage, label).await.len() == count).await;
    ready(stage, label).await
}

/// The record of one of its nodes cannot be written.
#[tokio::test]
async fn a_dead_host_is_looked_at_less_and_less_often_also_where_a_node_of_it_cannot_be_taken_away() {
    let stage = Stage::new(zookeeper()).await;
    let (a, of_a) = host(json!("a"), 3).await;
    stage.configure(&[hosts("racks", &[&of_a])]);
    let launcher = stage.launcher().await;
    let nodes = has_ready(&stage, "a", 3).await;
    drop(a);
    let kept = nodes.last().unwrap();
    let path = format!("/nodepool/nodes/{kept}");
    let readable = Permission::READ | Permission::ADMIN;
    stage.zk.set_acl(&path, &[Acl::new(readable, AuthId::anyone())], None).await.unwrap();
    // A job has used another one up, and its slot is to be filled again.
    let used = format!("nodes/{}", nodes.first().unwrap());
    let mut record = stage.record(&used).await;
    record["state"] = json!("used");
    stage.zk.set_data(&format!("/nodepool/{used}"), record.to_string().as_bytes(), None).await.unwrap();
    let looks = |pause: u32| launcher.count(&[&format!("cannot be used, looking again in {pause} s")]);
    stage.wait("the third look", async || looks(4) > 0).await;
    assert_eq!((looks(1), looks(2)), (1, 1), "{}", launcher.log());
    assert_eq!(ready(&stage, "a").await, BTreeSet::from([kept.clone()]), "the others are gone");
    launcher.has_logged(&["while carrying out Attend"]).await;
    stage.zk.set_acl(&path, &Acls::anyone_all(), None).await.unwrap();
    stage.wait("it is gone, too", async || ready(&stage, "a").await.is_empty()).await;
}

/// What is left of upstream's `test_liveness_two_node`.
#[tokio::test]
async fn a_dead_host_is_found_out_and_is_in_nobodys_way() {
    let stage = Stage::new(zookeeper()).await;
    let (a, of_a) = host(json!("a"), 1).await;
    let (_b, of_b) = host(json!("b"), 1).await;
    stage.configure(&[hosts("racks", &[&of_a, &of_b])]);
    let launcher = stage.launcher().await;
    let (node_a, node_b) = (has_ready(&stage, "a", 1).await, has_ready(&stage, "b", 1).await);
    let port = a.local_addr().unwrap().port();
    drop(a);
    let for_a = stage.request(&["a"]).await;
    stage.wait("the dead host's node is gone", async || ready(&stage, "a").await.is_empty()).await;
    let for_b = stage.request(&["b"]).await;
    let record = stage.fulfilled(&for_b).await;
    assert_eq!(record["nodes"], json!(node_b), "the other host's node is untouched");
    let waiting = stage.record(&format!("requests/{for_a}")).await;
    assert_eq!((&waiting["state"], &waiting["declined_by"]), (&json!("requested"), &json!([])));
    launcher.has_logged(&["cannot be handed out", "refused"]).await;
    let pools = launcher.pool_list().to_string();
    assert!(pools.contains("no node of label a is free"), "{pools}");
    let _a = listen(port).await;
    let record = stage.fulfilled(&for_a).await;
    assert_ne!(record["nodes"], json!(node_a));
}

/// Upstream's `test_static_multiprovider_handler`.
#[tokio::test]
async fn static_hosts_and_a_cloud_serve_side_by_side() {
    let stage = Stage::new(zookeeper()).await;
    let (_listener, rack) = host(json!(["a", "both"]), 2).await;
    stage.configure(&[hosts("racks", &[&rack]), fake("cloud", &["b", "both"], 5)]);
    let _launcher = stage.launcher().await;
    has_ready(&stage, "a", 2).await;
    let requests = [stage.request(&["a"]).await, stage.request(&["b"]).await, stage.request(&["a", "both"]).await];
    let mut providers = Vec::new();
    for request in &requests[..2] {
        let record = stage.fulfilled(request).await;
        let node = stage.record(&format!("nodes/{}", record["nodes"][0].as_str().unwrap())).await;
        providers.push(node["provider"].as_str().unwrap().to_owned());
    }
    assert_eq!(providers, ["racks", "cloud"]);
    stage.wait("the third waits", async || stage.state(&requests[2]).await == "requested").await;
    stage.release(&requests[0]).await;
    let record = stage.fulfilled(&requests[2]).await;
    assert_eq!(record["nodes"].as_array().unwrap().len(), 2);
}

/// Two launchers have the same hosts for a while, as in an upgrade.
#[tokio::test]
async fn a_slot_has_one_node_whoever_registers_it() {
    let stage = Stage::new(zookeeper()).await;
    let (_listener, rack) = host(json!("a"), 3).await;
    stage.configure(&[hosts("racks", &[&rack])]);
    let first = stage.launcher().await;
    has_ready(&stage, "a", 3).await;
    first.has_logged_times(3, &["Registered host"]).await;
    let mut second = stage.launcher().await;
    stage.wait("both take part", async || stage.pools().await.len() == 2).await;
    for _ in 0..10 {
        let request = stage.request(&["a"]).await;
        stage.fulfilled(&request).await;
        stage.release(&request).await;
    }
    has_ready(&stage, "a", 3).await;
    assert_eq!(first.count(&["Registered host"]), 3, "the younger one does: {}", first.log());
    second.signal(Signal::SIGTERM);
    second.ended_soon().await;
    let request = stage.request(&["a"]).await;
    stage.fulfilled(&request).await;
    stage.release(&request).await;
    has_ready(&stage, "a", 3).await;
    let slots: BTreeSet<i64> =
        stage.records("nodes").await.values().map(|node| node["slot"].as_i64().unwrap()).collect();
    assert_eq!(slots, BTreeSet::from([0, 1, 2]));
    first.has_logged_times(4, &["Registered host"]).await;
}

/// Two nodes for one slot, as two launchers would leave them that both took themselves for the first.
#[tokio::test]
async fn a_second_node_of_a_slot_goes_when_nobody_has_it() {
    let stage = Stage::new(zookeeper()).await;
    let (_listener, rack) = host(json!("a"), 1).await;
    stage.configure(&[hosts("racks", &[&rack])]);
    let _launcher = stage.launcher().await;
    let one = has_ready(&stage, "a", 1).await;
    let record = stage.data(&format!("nodes/{}", one.first().unwrap())).await.unwrap();
    stage.create("/nodepool/nodes/0000009999", &record).await;
    stage.wait("the second one is gone", async || stage.data("nodes/0000009999").await.is_none()).await;
    assert_eq!(ready(&stage, "a").await, one);
}

/// Looking at a host takes a while. Both launchers do, and only the one that came last registers what they find.
#[tokio::test]
async fn a_launcher_that_is_not_the_youngest_any_more_registers_nothing() {
    let stage = Stage::new(zookeeper()).await;
    let (mut ports, mut racks) = (Vec::new(), Vec::new());
    for _ in 0..8 {
        let port = free_port();
        let mut rack = host_at(port, &json!("a"), 1);
        rack["timeout"] = json!(25);
        ports.push(port);
        racks.push(rack);
    }
    stage.configure(&[hosts("racks", &racks.iter().collect::<Vec<_>>())]);
    let first = stage.launcher().await;
    let _second = stage.launcher().await;
    stage.wait("both take part", async || stage.pools().await.len() == 2).await;
    let mut listeners = Vec::new();
    for port in ports {
        listeners.push(listen(port).await);
    }
    has_ready(&stage, "a", 8).await;
    assert_eq!(first.count(&["Registered host"]), 0, "{}", first.log());
}

#[tokio::test]
async fn a_provider_without_pools_has_no_ready_nodes() {
    let stage = Stage::new(zookeeper()).await;
    let (_listener, rack) = host(json!("a"), 2).await;
    stage.configure(&[hosts("racks", &[&rack])]);
    let _launcher = stage.launcher().await;
    has_ready(&stage, "a", 2).await;
    let request = stage.request(&["a"]).await;
    let used = stage.fulfilled(&request).await["nodes"][0].as_str().unwrap().to_owned();
    stage.configure(&[json!({"name": "racks", "driver": "static", "pools": []})]);
    stage.wait("one is left", async || stage.records("nodes").await.len() == 1).await;
    assert!(stage.records("nodes").await.contains_key(&used), "the one that is in use");
}

/// A launcher that was killed stays registered until its session ends; its successor does not wait for that.
#[tokio::test]
async fn a_killed_launchers_successor_registers_at_once() {
    let stage = Stage::new(zookeeper()).await;
    // Longer than the test waits for anything.
    stage.session_timeout.set(60.0);
    let (_listener, rack) = host(json!("a"), 1).await;
    stage.configure(&[hosts("racks", &[&rack])]);
    let mut first = stage.launcher().await;
    has_ready(&stage, "a", 1).await;
    let request = stage.request(&["a"]).await;
    stage.fulfilled(&request).await;
    first.kill();
    let _second = stage.launcher().await;
    stage.release(&request).await;
    has_ready(&stage, "a", 1).await;
    assert_eq!(stage.pools().await.len(), 2, "the dead one is still there");
}

#[tokio::test]
async fn a_node_in_use_outlives_its_host_in_the_configuration() {
    let stage = Stage::new(zookeeper()).await;
    let (_a, of_a) = host(json!("a"), 1).await;
    let (_b, of_b) = host(json!("b"), 1).await;
    stage.configure(&[hosts("racks", &[&of_a, &of_b])]);
    let _launcher = stage.launcher().await;
    let node = has_ready(&stage, "a", 1).await;
    has_ready(&stage, "b", 1).await;
    let request = stage.request(&["a"]).await;
    stage.fulfilled(&request).await;
    stage.configure(&[hosts("racks", &[&of_b])]);
    let orphaned = stage.request(&["a"]).await;
    stage.wait_for_state(&orphaned, "failed").await;
    assert_eq!(ready(&stage, "a").await, node, "it stays with its request");
    stage.release(&request).await;
    stage.wait("it is gone", async || stage.records("nodes").await.len() == 1).await;
    assert!(ready(&stage, "a").await.is_empty());
}

#[tokio::test]
async fn a_host_with_other_keys_than_it_should_have_is_left_out_until_it_has_them() {
    const SSHD: &str = "/usr/sbin/sshd";
    if !Path::new(SSHD).exists() {
        eprintln!("SKIPPED: {SSHD} is not installed");
        return;
    }
    let _ = fs::create_dir_all("/run/sshd");
    let stage = Stage::new(zookeeper()).await;
    let port = free_port();
    let key = stage.path("host_key");
    let made = Command::new("ssh-keygen").args(["-q", "-N", "", "-t", "ed25519", "-f"]).arg(&key).status().unwrap();
    assert!(made.success());
    let public = fs::read_to_string(key.with_extension("pub")).unwrap();
    let public = public.split(' ').take(2).collect::<Vec<_>>().join(" ");
    let config = stage.path("sshd_config");
    let text = format!(
        "Port {port}\nListenAddress 127.0.0.1\nPidFile none\nUsePAM no\nStrictModes no\nLogLevel VERBOSE\nHostKey {}\n",
        key.display()
    );
    fs::write(&config, text).unwrap();
    let mut sshd =
        Command::new(SSHD).args(["-D", "-E"]).arg(stage.path("sshd.log")).arg("-f").arg(&config).spawn().unwrap();
    let connections = || {
        let log = fs::read_to_string(stage.path("sshd.log")).unwrap_or_default();
        log.lines().filter(|line| line.starts_with("Connection from ")).count()
    };
    let mut host = json!({
        "name": "127.0.0.1", "connection-port": port, "labels": "a", "host-key": "ssh-ed25519 AAAAnotthis", "timeout": 5,
    });
    stage.configure(&[hosts("racks", &[&host])]);
    let launcher = stage.launcher().await;
    stage
        .wait("the log says why", async || {
            launcher.logged(&["cannot be used", "its host-key ssh-ed25519 AAAAnotthis is not among", &public])
        })
        .await;
    assert!(ready(&stage, "a").await.is_empty());
    host["host-key"] = json!([public]);
    stage.configure(&[hosts("racks", &[&host])]);
    let node = has_ready(&stage, "a", 1).await;
    let record = stage.record(&format!("nodes/{}", node.first().unwrap())).await;
    // A job: the node is handed out, comes back, and is registered anew. Each look is one connection, and what was seen
    // a moment ago is not connected to.
    let before = connections();
    let request = stage.request(&["a"]).await;
    stage.fulfilled(&request).await;
    stage.release(&request).await;
    stage.wait("registered again", async || !ready(&stage, "a").await.is_subset(&node)).await;
    let made = connections() - before;
    assert!((1..=2).contains(&made), "{made} connections for one job");
    sshd.kill().unwrap();
    sshd.wait().unwrap();
    assert_eq!(record["host_keys"], json!([public]));
    assert_eq!(
        (&record["username"], &record["connection_type"], &record["public_ipv4"], &record["external_id"]),
        (&json!("zuul"), &json!("ssh"), &json!("127.0.0.1"), &json!("127.0.0.1"))
    );
}
