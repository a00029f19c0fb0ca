//! Much at once, and nothing at all.

// Measures by the host's clock.
#![allow(clippy::disallowed_methods)]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::cast_precision_loss)] // a test fails that way

mod support;

use std::{
    fs,
    time::{Duration, Instant},
};

use nodepool_testing::ZooKeeperServer;
use serde_json::{Value, json};
use support::*;

/// Seconds of processor time that a process has used.
fn processor_time(pid: u32) -> f64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
    let ticks = fields[11].parse::<f64>().unwrap() + fields[12].parse::<f64>().unwrap();
    ticks / 100.0 // USER_HZ on Linux
}

/// What ZooKeeper has received from each session by now, other than from `mine`.
fn received(server: &ZooKeeperServer, mine: &str) -> u64 {
    let answer = server.command("cons").unwrap();
    let others = answer.lines().filter(|line| line.contains("sid=0x") && !line.contains(mine));
    let count = |line: &str| line.split("recved=").nth(1)?.split([',', ')']).next()?.parse::<u64>().ok();
    others.filter_map(count).sum()
}

#[tokio::test]
async fn an_idle_launcher_with_a_thousand_ready_nodes_only_pings() {
    let _alone = alone().await;
    let server = ZooKeeperServer::start();
    let stage = Stage::new(&server).await;
    for number in 0..1000 {
        // Without an id: the cloud does not have them, and what it does not list has gone.
        let node = json!({
            "state": "ready", "state_time": now(), "created_time": now(), "provider": "p", "pool": "main",
            "type": ["a"], "allocated_to": null, "external_id": null, "host_keys": [],
            "connection_port": 22, "connection_type": "ssh", "resources": {"cores": 4, "instances": 1, "ram": 8192},
        });
        stage.create(&format!("/nodepool/nodes/{number:010}"), node.to_string().as_bytes()).await;
    }
    stage.script(&json!({"p": {"quota": {"instances": -1, "cores": -1, "ram": -1}}}));
    stage.configure(&[fake("p", &["a"], 2000)]);
    let launcher = stage.launcher().await;
    stage.offered("a").await;
    let mine = format!("sid=0x{:x},", stage.zk.session_id().0);
    // Start-up is over when nothing more was sent for a second.
    let mut before = (received(&server, &mine), Instant::now());
    stage
        .wait("start-up is over", async || {
            let packets = received(&server, &mine);
            if packets != before.0 {
                before = (packets, Instant::now());
            }
            before.1.elapsed() > Duration::from_secs(1)
        })
        .await;
    let (packets, busy, start) = (received(&server, &mine), processor_time(launcher.pid()), Instant::now());
    assert!(packets > 0, "its connection is seen");
    tokio::time::sleep(Duration::from_secs(10)).await; // what is measured
    let seconds = start.elapsed().as_secs_f64();
    let packets = received(&server, &mine) - packets;
    let share = (processor_time(launcher.pid()) - busy) / seconds;
    println!("{packets} packets in {seconds:.1} s, {:.2} % of a core", share * 100.0);
    // A session of 10 s is pinged every two seconds or so.
    assert!(packets as f64 <= seconds / 2.0 + 2.0, "{packets} packets in {seconds:.1} s");
    assert!(share < 0.01, "{:.2} % of a core", share * 100.0);
    assert_eq!(stage.records("nodes").await.len(), 1000);
}

/// So many requests at once; the state file tells how many servers there are at any moment.
async fn load(requests: usize, limit: usize, script: Value, provider: Value) {
    let stage = Stage::new(zookeeper()).await;
    let mut script = script;
    script["p"]["state_dir"] = json!(stage.state_dir());
    stage.script(&script);
    stage.cleanup_interval.set(1.0);
    stage.configure(&[provider]);
    let mut ids = Vec::new();
    for _ in 0..requests {
        ids.push(stage.request(&["a"]).await);
    }
    let launcher = stage.launcher().await;
    let (mut fulfilled, mut failed, mut most) = (0, 0, 0);
    let start = Instant::now();
    let mut waiting = ids;
    while !waiting.is_empty() {
        let servers = stage.servers().len();
        most = most.max(servers);
        assert!(servers <= limit, "{servers} servers, of {limit}:\n{}", launcher.log());
        let mut still = Vec::new();
        for id in waiting {
            let record = stage.record(&format!("requests/{id}")).await;
            match record["state"].as_str().unwrap_or("gone") {
                "fulfilled" => {
                    fulfilled += 1;
                    stage.release(&id).await;
                }
                "failed" => {
                    failed += 1;
                    let reasons = record["decline_reasons"].as_array().filter(|reasons| !reasons.is_empty());
                    assert!(reasons.is_some(), "a reason: {record}");
                    stage.zk.delete(&format!("/nodepool/requests/{id}"), None).await.unwrap();
                }
                "requested" | "pending" => still.push(id),
                other => panic!("request {id} is {other}"),
            }
        }
        waiting = still;
        assert!(
            start.elapsed() < Duration::from_secs(300),
            "{} still wait\n{}",
            waiting.len(),
            stage.everything().await
        );
        tokio::time::sleep(Duration::from_millis(5)).await; // the sampling
    }
    println!("{fulfilled} fulfilled, {failed} failed, at most {most} servers, {:?}", start.elapsed());
    assert_eq!(fulfilled + failed, requests);
    // A node has three attempts; so few faults hardly ever hit one node so often.
    assert!(failed <= 6, "{failed} failed");
    assert!(most > limit / 2, "the quota was used: {most}");
    stage.no_node_is_left().await;
    assert!(!launcher.logged(&["Quota exceeded"]), "what the cloud told was not heeded:\n{}", launcher.log());
    stage
        .wait("the pool goes on", async || stage.pools().await.iter().all(|pool| pool["paused"] == json!(false)))
        .await;
}

#[tokio::test]
async fn a_burst_against_the_quota_of_a_failing_cloud_ends_well() {
    let _alone = alone().await;
    let script = json!({"p": {
        "boot_delay": 0.05, "quota": {"instances": 20, "cores": -1, "ram": -1},
        "fail_boot": {"times": 9, "message": "No valid host was found."}, "fail_create": {"times": 6},
        "fail_delete": {"times": 3}, "fail_list": {"times": 2},
    }});
    load(200, 20, script, fake("p", &["a"], 1000)).await;
}

#[tokio::test]
async fn a_burst_against_max_servers_ends_well() {
    let _alone = alone().await;
    let script = json!({"p": {
        "boot_delay": 0.05, "quota": {"instances": -1, "cores": -1, "ram": -1},
        "fail_create": {"times": 5, "with_id": true}, "lose_create": {"times": 4},
    }});
    let mut provider = fake("p", &["a"], 20);
    provider["launch-retries"] = json!(3);
    // Servers of failed attempts stand beside the nodes until they are gone.
    load(200, 20 + 4, script, provider).await;
}

#[tokio::test]
async fn the_metrics_say_what_is_allowed_what_is_used_and_what_waits_for_which_reason() {
    let stage = Stage::new(zookeeper()).await;
    stage.script(
        &json!({"*": {"state_dir": stage.state_dir()}, "p": {"quota": {"instances": 2, "cores": 40, "ram": -1}}}),
    );
    stage.configure(&[fake("p", &["a"], 5)]);
    let launcher = stage.launcher().await;
    let mut requests = Vec::new();
    for _ in 0..4 {
        requests.push(stage.request(&["a"]).await);
    }
    for request in &requests[..2] {
        stage.fulfilled(request).await;
    }
    let is = |name: &str, value: f64| launcher.metric(name) == Some(value);
    let waiting = |reason: &str| format!(r#"nodepool_waiting_requests{{pool="main",provider="p",reason="{reason}"}}"#);
    let lines = || {
        let (_, text) = launcher.get("/metrics").unwrap();
        text.lines().filter(|line| line.starts_with("nodepool_waiting_requests")).collect::<Vec<_>>().join("\n")
    };
    stage.wait("one waits for room", async || is(&waiting("no-room"), 1.0)).await;
    stage.wait("one waits behind it", async || is(&waiting("behind-others"), 1.0)).await;
    for (name, value) in [
        (r#"nodepool_provider_quota{provider="p",resource="instances"}"#, 2.0),
        (r#"nodepool_provider_quota{provider="p",resource="cores"}"#, 40.0),
        (r#"nodepool_provider_used_by_others{provider="p",resource="instances"}"#, 0.0),
        (r#"nodepool_provider_used{provider="p",resource="instances"}"#, 2.0),
        (r#"nodepool_pool_limit{pool="main",provider="p",resource="instances"}"#, 5.0),
        (r#"nodepool_pool_used{pool="main",provider="p",resource="instances"}"#, 2.0),
    ] {
        assert!(is(name, value), "{name} {value}:\n{}", launcher.get("/metrics").unwrap().1);
    }
    assert_eq!(launcher.metric(r#"nodepool_provider_quota{provider="p",resource="ram"}"#), None, "it is unlimited");
    for request in &requests[..2] {
        stage.release(request).await;
    }
    stage.wait("nothing waits", async || lines().is_empty()).await;
}
