//! Stops, restarts, losses of ZooKeeper and reloads: no request is lost, no node is left behind, nobody waits long.

// Measures by the host's clock.
#![allow(clippy::disallowed_methods)]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a test fails that way

mod support;

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use nodepool_common::{
    daemon::{self, Start},
    stats::Stats,
    sys::shutdown::ShutdownReason,
};
use nodepool_testing::ZooKeeperServer;
use serde_json::{Value, json};
use support::*;

/// Servers stay in BUILD until [`Stage::boot`], however slow the machine is.
async fn with_servers_that_do_not_boot(server: &ZooKeeperServer) -> Stage {
    let stage = Stage::new(server).await;
    stage.script(&json!({"*": {"hang_boot": {}, "state_dir": stage.state_dir()}}));
    stage
}

async fn with_servers_that_last(server: &ZooKeeperServer, boot_delay: f64) -> Stage {
    let stage = Stage::new(server).await;
    stage.script(&json!({"*": {"boot_delay": boot_delay, "state_dir": stage.state_dir()}}));
    stage
}

#[tokio::test]
async fn sigint_finishes_the_launch_in_flight_and_takes_nothing_new() {
    let stage = with_servers_that_do_not_boot(zookeeper()).await;
    stage.configure(&[fake("p", &["a"], 5)]);
    let mut launcher = stage.launcher().await;
    stage.offered("a").await;
    let running = stage.request(&["a"]).await;
    stage.wait("the server boots", async || launcher.logged(&["is being created"])).await;
    launcher.signal(Signal::SIGINT);
    stage.wait("its pools are gone", async || stage.pools().await.is_empty()).await;
    let waiting = stage.request(&["a"]).await;
    let before = stage.data(&format!("requests/{waiting}")).await;
    assert_eq!(stage.state(&running).await, "pending", "it stops before the launch is over");
    assert!(launcher.exited().is_none(), "it waits for the launch:\n{}", launcher.log());
    stage.boot("p");
    assert_eq!(launcher.ended_soon().await.code(), Some(0));
    assert_eq!(stage.state(&running).await, "fulfilled");
    assert_eq!(stage.data(&format!("requests/{waiting}")).await, before, "untouched");
    assert!(stage.records("components/launcher").await.is_empty());
    for node in stage.records("nodes").await.into_values() {
        assert_eq!(node["state"], "ready");
        assert_eq!(node["allocated_to"], json!(running));
    }
}

#[tokio::test]
async fn sigterm_puts_requests_back_for_the_next_launcher() {
    // It does not wait for the launch: that would not end.
    let stage = with_servers_that_do_not_boot(zookeeper()).await;
    stage.configure(&[fake("p", &["a"], 5)]);
    let mut launcher = stage.launcher().await;
    let request = stage.request(&["a"]).await;
    stage.wait("the server boots", async || launcher.logged(&["is being created"])).await;
    launcher.signal(Signal::SIGTERM);
    stage.wait_for_state(&request, "requested").await;
    assert_eq!(launcher.ended_soon().await.code(), Some(0));
    assert!(stage.pools().await.is_empty());
    stage.script(&json!({"*": {"state_dir": stage.state_dir()}}));
    let mut second = stage.launcher().await;
    stage.fulfilled(&request).await;
    stage.release(&request).await;
    stage.no_node_is_left().await;
    second.signal(Signal::SIGTERM);
    assert_eq!(second.ended_soon().await.code(), Some(0), "an idle one, too");
}

/// As Kubernetes does when the grace period of a drain is over.
#[tokio::test]
async fn sigterm_during_a_drain_puts_requests_back_and_leaves_no_lock() {
    for drain in [Signal::SIGINT, Signal::SIGUSR1] {
        let stage = with_servers_that_do_not_boot(zookeeper()).await;
        // Locks that are left behind are there for long.
        stage.session_timeout.set(40.0);
        stage.configure(&[fake("p", &["a"], 5)]);
        let mut launcher = stage.launcher().await;
        let request = stage.request(&["a"]).await;
        stage.wait("the server boots", async || launcher.logged(&["is being created"])).await;
        launcher.signal(drain);
        stage.wait("its pools are gone", async || stage.pools().await.is_empty()).await;
        // What a changed file brings does not make it take part again.
        stage.configure(&[fake("p", &["a", "b"], 5)]);
        stage.wait("the change is seen", async || launcher.logged(&["Configuration changed"])).await;
        assert_eq!(stage.state(&request).await, "pending", "it waits for the launch");
        launcher.signal(Signal::SIGTERM);
        assert_eq!(launcher.ended_soon().await.code(), Some(0), "{drain}");
        assert_eq!(launcher.log().matches(" takes part as ").count(), 1, "{}", launcher.log());
        assert_eq!(stage.state(&request).await, "requested");
        let locks = stage.zk.list_children(&format!("/nodepool/requests-lock/{request}")).await.unwrap();
        assert!(locks.is_empty(), "{locks:?}");
        for node in stage.records("nodes").await.into_keys() {
            let locks = stage.zk.list_children(&format!("/nodepool/nodes/{node}/lock")).await.unwrap();
            assert!(locks.is_empty(), "{locks:?}");
        }
    }
}

#[tokio::test]
async fn a_drain_with_a_zookeeper_that_does_not_answer_ends() {
    let server = ZooKeeperServer::start();
    let stage = with_servers_that_last(&server, 0.1).await;
    // It ends before its session would.
    stage.session_timeout.set(60.0);
    stage.configure(&[fake("p", &["a"], 5)]);
    let mut launcher = stage.launcher().await;
    stage.offered("a").await;
    server.pause();
    launcher.signal(Signal::SIGINT);
    let code = launcher.ended(Duration::from_secs(50)).await.code();
    server.resume();
    assert_eq!(code, Some(0));
}

/// The file is written while the launcher starts, as an operator's side-car does.
#[tokio::test]
async fn a_change_between_the_load_and_the_start_is_found() {
    let stage = Stage::new(zookeeper()).await;
    stage.configure(&[fake("p", &["a"], 5)]);
    let start = Start::load(&stage.path("nodepool.yaml"), None).unwrap();
    stage.configure(&[fake("p", &["a", "b"], 5)]);
    let shutdown = start.shutdown.clone();
    let (frame, loaded) = start.connect(Stats::from_env()).unwrap();
    let options = nodepool_launcher::run::Options {
        cleanup_interval: Duration::from_secs(60),
        delete_interval: Duration::from_secs(5),
        request_lock_age: Duration::from_secs(60),
        version: "test".to_owned(),
        fqdn: "host.example".to_owned(),
        history: nodepool_common::history::History::default(),
        tracer: nodepool_common::trace::Tracer::default(),
    };
    let (launcher, core) = nodepool_launcher::run::Launcher::new(options, frame);
    let running = tokio::spawn(async move { daemon::run(&launcher, core, &loaded).await });
    stage.offered("b").await;
    shutdown.request(ShutdownReason::Terminate);
    running.await.unwrap();
}

#[tokio::test]
async fn a_second_launcher_takes_over_while_the_first_one_stops() {
    let stage = with_servers_that_last(zookeeper(), 0.3).await;
    stage.configure(&[fake("p", &["a"], 20)]);
    let mut first = stage.launcher().await;
    let mut requests = Vec::new();
    for _ in 0..5 {
        requests.push(stage.request(&["a"]).await);
    }
    let second = stage.launcher().await;
    first.signal(Signal::SIGINT);
    for _ in 0..5 {
        requests.push(stage.request(&["a"]).await);
    }
    for request in &requests {
        stage.fulfilled(request).await;
    }
    assert_eq!(first.ended_soon().await.code(), Some(0));
    for request in &requests {
        stage.release(request).await;
    }
    stage.no_node_is_left().await;
    assert!(!second.logged(&["failed: every pool"]), "{}", second.log());
}

/// Requests in flight while ZooKeeper is away in one way or another. Returns the launcher's log.
async fn survives(session_timeout: f64, harm: impl AsyncFnOnce(&mut ZooKeeperServer, &Stage, &Launcher)) -> String {
    let mut server = ZooKeeperServer::start();
    let stage = with_servers_that_last(&server, 0.7).await;
    stage.session_timeout.set(session_timeout);
    stage.cleanup_interval.set(1.0);
    stage.configure(&[fake("p", &["a"], 20)]);
    let launcher = stage.launcher().await;
    stage.offered("a").await;
    let mut requests = Vec::new();
    for _ in 0..6 {
        requests.push(stage.request(&["a"]).await);
        tokio::time::sleep(Duration::from_millis(100)).await; // spreads their stages
    }
    stage.wait("servers boot", async || launcher.logged(&["is being created"])).await;
    harm(&mut server, &stage, &launcher).await;
    let back = Instant::now();
    for request in &requests {
        stage.fulfilled(request).await;
    }
    assert!(back.elapsed() < SOON, "fulfilled only {:?} later:\n{}", back.elapsed(), launcher.log());
    for request in &requests {
        stage.release(request).await;
    }
    stage.no_node_is_left().await;
    let another = stage.request(&["a"]).await;
    stage.fulfilled(&another).await;
    // That of the session before stays until ZooKeeper ends it.
    stage.wait("there is one component per pool", async || stage.pools().await.len() == 1).await;
    stage.wait("/ready says that all is well", async || launcher.ready().starts_with("OK")).await;
    launcher.log()
}

#[tokio::test]
async fn a_restart_of_zookeeper_in_the_middle_of_launches_loses_nothing() {
    survives(10.0, async |server, _, _| {
        server.stop();
        tokio::time::sleep(Duration::from_millis(500)).await; // a moment without any server
        server.restart();
    })
    .await;
}

#[tokio::test]
async fn a_zookeeper_that_is_down_for_longer_than_a_session_lasts_costs_none() {
    let log = survives(5.0, async |server, _, _| {
        server.stop();
        tokio::time::sleep(Duration::from_secs(9)).await; // beyond the session's timeout
        server.restart();
    })
    .await;
    assert!(log.contains("Connection to ZooKeeper suspended"), "{log}");
    assert!(!log.contains("session was lost"), "{log}");
}

#[tokio::test]
async fn an_expired_session_in_the_middle_of_launches_loses_nothing() {
    let log = survives(3.0, async |_, stage, launcher| {
        launcher.signal(Signal::SIGSTOP);
        stage.wait("its component is gone with its session", async || stage.pools().await.is_empty()).await;
        launcher.signal(Signal::SIGCONT);
    })
    .await;
    assert!(log.contains("lost (expired)") && log.contains("session was lost"), "{log}");
}

#[tokio::test]
async fn a_short_stall_of_zookeeper_loses_nothing() {
    survives(10.0, async |server, _, _| {
        server.pause();
        tokio::time::sleep(Duration::from_millis(1500)).await; // within the session's timeout
        server.resume();
    })
    .await;
}

#[tokio::test]
async fn a_launcher_starts_before_its_zookeeper() {
    let mut server = ZooKeeperServer::start();
    let stage = with_servers_that_last(&server, 0.1).await;
    stage.configure(&[fake("p", &["a"], 5)]);
    let request = stage.request(&["a"]).await;
    server.stop();
    let launcher = stage.launch();
    stage.wait("the HTTP server answers", async || launcher.get("/ready").is_some_and(|(code, _)| code == 503)).await;
    stage.wait("the log says why", async || launcher.logged(&["Cannot connect to ZooKeeper", &server.address()])).await;
    tokio::time::sleep(Duration::from_secs(2)).await; // it tries more than once
    // A server on its way up may be told of as another problem.
    assert_eq!(launcher.count(&["Cannot connect to ZooKeeper"]), 1, "said once");
    server.restart();
    stage.fulfilled(&request).await;
}

/// The probe is liveness too: a restart of the launcher would not mend ZooKeeper.
#[tokio::test]
async fn a_launcher_without_zookeeper_stays_alive_and_says_so() {
    let mut server = ZooKeeperServer::start();
    let stage = with_servers_that_last(&server, 0.1).await;
    stage.session_timeout.set(1.0);
    stage.configure(&[fake("p", &["a"], 5)]);
    let mut launcher = stage.launcher().await;
    stage.offered("a").await;
    server.stop();
    stage.wait("/ready says so", async || launcher.ready().contains("no connection to ZooKeeper")).await;
    stage.wait("the metrics, too", async || launcher.metric("nodepool_zk_connected") == Some(0.0)).await;
    launcher.signal(Signal::SIGTERM);
    assert_eq!(launcher.ended_soon().await.code(), Some(0), "it ends without ZooKeeper");
    server.restart();
}

#[tokio::test]
async fn a_provider_that_is_removed_and_added_again_serves_again() {
    let stage = with_servers_that_last(zookeeper(), 0.1).await;
    let both = [fake("p", &["a"], 5), fake("q", &["b"], 5)];
    stage.configure(&both);
    let launcher = stage.launcher().await;
    stage.offered("a").await;
    let request = stage.request(&["a"]).await;
    stage.fulfilled(&request).await;
    stage.configure(&both[1..]);
    stage.wait("p's component is gone", async || stage.pools().await.len() == 1).await;
    let orphaned = stage.request(&["a"]).await;
    let record = stage.wait_for_state(&orphaned, "failed").await;
    assert!(record["decline_reasons"].to_string().contains("not available"), "{record}");
    let other = stage.request(&["b"]).await;
    stage.fulfilled(&other).await;
    stage.configure(&both);
    stage.offered("a").await;
    let again = stage.request(&["a"]).await;
    stage.fulfilled(&again).await;
    for request in [request, other, again] {
        stage.release(&request).await;
    }
    stage.no_node_is_left().await;
    assert!(!launcher.logged(&["panicked"]), "{}", launcher.log());
}

#[tokio::test]
async fn a_provider_that_is_removed_during_a_launch_leaves_no_server() {
    let stage = with_servers_that_last(zookeeper(), 4.0).await;
    stage.cleanup_interval.set(1.0);
    let both = [fake("p", &["a"], 5), fake("q", &["a"], 5)];
    stage.configure(&both[..1]);
    let launcher = stage.launcher().await;
    let request = stage.request(&["a"]).await;
    stage.wait("the server boots", async || launcher.logged(&["is being created"])).await;
    stage.configure(&both[1..]);
    let record = stage.fulfilled(&request).await;
    let node = record["nodes"][0].as_str().unwrap();
    let node = stage.record(&format!("nodes/{node}")).await;
    assert_eq!(node["provider"], "p", "the launch was finished");
    assert!(!launcher.logged(&["lost request"]), "{}", launcher.log());
    stage.release(&request).await;
    // Only p can delete its server: when it is back.
    stage.configure(&both);
    stage.no_node_is_left().await;
}

#[tokio::test]
async fn a_label_that_a_reload_adds_is_served_and_others_keep_what_they_do() {
    let stage = with_servers_that_last(zookeeper(), 3.0).await;
    stage.configure(&[fake("p", &["a"], 5)]);
    let launcher = stage.launcher().await;
    stage.offered("a").await;
    let running = stage.request(&["a"]).await;
    stage.wait("the server boots", async || launcher.logged(&["is being created"])).await;
    stage.configure(&[fake("p", &["a", "b"], 5)]);
    stage.offered("b").await;
    let added = stage.request(&["b"]).await;
    stage.fulfilled(&running).await;
    stage.fulfilled(&added).await;
    assert_eq!(launcher.count(&["Launching node of label a"]), 1, "the launch went on:\n{}", launcher.log());
    let pools = stage.pools().await;
    assert_eq!(pools.len(), 1, "{pools:?}");
}

#[tokio::test]
async fn lowered_max_servers_holds_for_what_comes_and_leaves_what_is() {
    let stage = with_servers_that_last(zookeeper(), 0.1).await;
    stage.configure(&[fake("p", &["a"], 3)]);
    let launcher = stage.launcher().await;
    stage.offered("a").await;
    let mut used = Vec::new();
    for _ in 0..3 {
        let request = stage.request(&["a"]).await;
        stage.fulfilled(&request).await;
        used.push(request);
    }
    stage.configure(&[fake("p", &["a"], 1)]);
    stage
        .wait("the new limit is in force", async || {
            launcher.pool_list()[0]["limits"]["instances"].as_f64() == Some(1.0)
        })
        .await;
    let waiting = stage.request(&["a"]).await;
    stage.wait_for_state(&waiting, "pending").await;
    assert_eq!(stage.records("nodes").await.len(), 3, "nobody's node was taken away");
    for request in used.drain(..2) {
        stage.release(&request).await;
    }
    stage.wait("two are gone", async || stage.records("nodes").await.len() == 1).await;
    stage.wait("it still waits", async || waits(&launcher.pool_list(), &waiting)).await;
    assert_eq!(stage.state(&waiting).await, "pending");
    stage.release(&used[0]).await;
    stage.fulfilled(&waiting).await;
    assert_eq!(stage.servers().len(), 1);
}

fn waits(pools: &Value, request: &str) -> bool {
    pools.as_array().unwrap().iter().any(|pool| pool["paused_requests"].as_array().unwrap().contains(&json!(request)))
}

/// One whose server is there, and one whose server somebody has deleted: the search for leaks sees it, asked by nobody.
#[tokio::test]
async fn a_ready_node_whose_server_is_not_listed_any_more_is_not_handed_out() {
    let stage = with_servers_that_last(zookeeper(), 0.3).await;
    stage.cleanup_interval.set(0.3);
    stage.configure(&[fake("p", &["a"], 5)]);
    let _launcher = stage.launcher().await;
    // Each is in a list: that is how a launch learns that its server has booted.
    let first = stage.request(&["a", "a"]).await;
    let nodes = stage.fulfilled(&first).await["nodes"].clone();
    let [there, lost] = [0, 1].map(|index| nodes[index].as_str().unwrap().to_owned());
    stage.zk.delete(&format!("/nodepool/requests/{first}"), None).await.unwrap();
    let path = format!("nodes/{lost}");
    stage.wait("it is free", async || stage.record(&path).await["allocated_to"].is_null()).await;
    let mut record = stage.record(&path).await;
    // As it was made a while ago, no list is too old to say that it has gone.
    record["state_time"] = json!(now() - 60.0);
    stage.zk.set_data(&format!("/nodepool/{path}"), record.to_string().as_bytes(), None).await.unwrap();
    let mut servers = stage.servers();
    servers.remove(record["external_id"].as_str().unwrap()).unwrap();
    stage.set_servers("p", &json!(servers));
    stage.wait("it is retired", async || stage.data(&path).await.is_none()).await;
    let second = stage.request(&["a"]).await;
    assert_eq!(stage.fulfilled(&second).await["nodes"], json!([there]), "the other one waited");
    stage.release(&second).await;
    stage.no_node_is_left().await;
}
