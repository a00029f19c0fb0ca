//! What is broken outside of us (files, clouds, records) gets a clear message, and everybody else is served.

// Measures by the host's clock.
#![allow(clippy::disallowed_methods)]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a test fails that way

mod support;

use std::{
    fs,
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use support::*;

/// A file whose eighth line is not YAML.
const INVALID: &str =
    "labels:\n  - name: a\n\nproviders:\n  - name: p\n    driver: fake\n    pools:\n      - name: [main\n";

async fn served(stage: &Stage, label: &str) {
    stage.offered(label).await;
    let request = stage.request(&[label]).await;
    stage.fulfilled(&request).await;
    stage.release(&request).await;
}

#[tokio::test]
async fn an_invalid_file_at_the_start_ends_the_launcher_with_its_place() {
    let stage = Stage::new(zookeeper()).await;
    stage.write_config(INVALID);
    let mut launcher = stage.launch();
    assert_eq!(launcher.ended_soon().await.code(), Some(1));
    let place = format!("{}:", stage.path("nodepool.yaml").display());
    let log = launcher.log();
    let line = log.lines().find(|line| line.contains(&place)).unwrap_or_else(|| panic!("no place in:\n{log}"));
    let mut numbers = line[line.find(&place).unwrap() + place.len()..].split(':');
    assert!(matches!(numbers.next(), Some("8" | "9")), "{line}");
    assert!(numbers.next().is_some_and(|column| column.trim().parse::<u32>().is_ok()), "{line}");
}

#[tokio::test]
async fn a_missing_file_at_the_start_ends_the_launcher_with_its_name() {
    let stage = Stage::new(zookeeper()).await;
    let mut launcher = stage.launch();
    assert_eq!(launcher.ended_soon().await.code(), Some(1));
    launcher.has_logged(&["nodepool.yaml", "No such file"]).await;
}

#[tokio::test]
async fn an_invalid_file_later_leaves_the_running_configuration_in_force_until_it_is_mended() {
    let stage = Stage::new(zookeeper()).await;
    stage.configure(&[fake("p", &["a"], 2)]);
    let launcher = stage.launcher().await;
    served(&stage, "a").await;
    assert_eq!(launcher.metric("nodepool_config_valid"), Some(1.0));
    assert_eq!(launcher.ready(), "OK");

    stage.write_config(INVALID);
    stage.wait("the file is found invalid", async || launcher.metric("nodepool_config_valid") == Some(0.0)).await;
    let file = stage.path("nodepool.yaml");
    let file = file.to_str().unwrap();
    launcher.has_logged(&["the running configuration stays in force"]).await;
    assert!(launcher.log().contains(&format!("{file}:8")) || launcher.log().contains(&format!("{file}:9")));
    let body = launcher.ready();
    assert!(body.starts_with("OK\n") && body.contains(file), "{body}");
    served(&stage, "a").await;
    assert_eq!(launcher.count(&["the running configuration stays in force"]), 1, "said once");

    stage.configure(&[fake("p", &["a", "b"], 2)]);
    served(&stage, "b").await;
    assert_eq!(launcher.metric("nodepool_config_valid"), Some(1.0));
    assert_eq!(launcher.ready(), "OK");
}

/// The operator's clone of the configuration repository, in the home directory.
#[tokio::test]
async fn a_change_of_the_file_with_our_own_keys_alone_is_taken_and_a_broken_one_costs_nobody_anything() {
    let stage = Stage::new(zookeeper()).await;
    let clone = stage.path("home/config/nodepool");
    fs::create_dir_all(&clone).unwrap();
    let file = clone.join("nodepool-extensions.yaml");
    stage.set_env("HOME", &stage.path("home"));
    fs::write(&file, "image-builders: [{nam: a}]\n").unwrap();
    stage.configure(&[fake("p", &["a"], 2)]);
    let launcher = stage.launcher().await;
    let place = format!("{}:1:18: ", file.display());
    let is_told = || {
        let body = launcher.ready();
        body.starts_with("OK\nThe file with the keys of our own cannot be used as it is; ") && body.contains(&place)
    };
    assert!(is_told(), "{}", launcher.ready());
    assert_eq!(launcher.metric("nodepool_config_valid"), Some(0.0));
    served(&stage, "a").await;

    fs::write(&file, "image-builders: [{name: a}]\n").unwrap();
    stage.wait("the mended file is taken", async || launcher.metric("nodepool_config_valid") == Some(1.0)).await;
    assert_eq!(launcher.ready(), "OK");
    launcher.has_logged(&["Keys of our own are read from", file.to_str().unwrap()]).await;
    assert_eq!(launcher.count(&["Configuration changed"]), 1);

    fs::write(&file, "image-builders: [{nam: a}]\n").unwrap();
    stage.wait("the broken file is told", async || is_told()).await;
    stage.configure(&[fake("p", &["a", "b"], 2)]);
    served(&stage, "b").await;
    assert!(is_told(), "still: {}", launcher.ready());
    fs::remove_file(&file).unwrap();
    stage.wait("without it all is well", async || launcher.ready() == "OK").await;
}

#[tokio::test]
async fn a_file_that_is_rewritten_in_place_piece_by_piece_disturbs_nothing() {
    // A writer that stands still for a second has finished, as far as anybody can tell: on a machine that lets the test
    // stand still for as long it has shown nothing.
    while rewritten_piece_by_piece().await > Duration::from_millis(800) {}
}

/// Returns for how long the writer stood still at most.
async fn rewritten_piece_by_piece() -> Duration {
    let stage = Stage::new(zookeeper()).await;
    stage.configure(&[fake("p", &["a"], 2), fake("q", &["b"], 2)]);
    let launcher = stage.launcher().await;
    served(&stage, "a").await;
    let text = serde_json::to_string_pretty(&stage.configuration(&[fake("p", &["a", "c"], 2), fake("q", &["b"], 2)]));
    let text = text.unwrap();
    // Three seconds of a half-written file that grows, as a slow writer has it.
    let steps = 12;
    let (mut longest, mut before) = (Duration::ZERO, Instant::now());
    for step in 1..=steps {
        stage.write_config(&text[..text.len() * step / steps]);
        longest = longest.max(before.elapsed());
        before = Instant::now();
        tokio::time::sleep(Duration::from_millis(250)).await;
    }
    if longest > Duration::from_millis(800) {
        return longest;
    }
    served(&stage, "c").await;
    served(&stage, "b").await;
    assert!(!launcher.logged(&["removed from the configuration"]), "{}", launcher.log());
    assert!(!launcher.logged(&["Provider q changed"]), "only its place in the file did:\n{}", launcher.log());
    assert!(!launcher.logged(&["invalid"]), "{}", launcher.log());
    longest
}

#[tokio::test]
async fn a_provider_with_an_unknown_driver_is_left_out_and_the_others_go_on() {
    let stage = Stage::new(zookeeper()).await;
    let mut unknown = fake("odd", &["x"], 1);
    unknown["driver"] = json!("no-such-driver");
    let mut later = fake("later", &["y"], 1);
    later["driver"] = json!("gce");
    stage.configure(&[unknown, later, fake("p", &["a"], 2)]);
    let launcher = stage.launcher().await;
    served(&stage, "a").await;
    let body = launcher.ready();
    for (provider, driver) in [("odd", "no-such-driver"), ("later", "gce")] {
        launcher.has_logged(&[&format!("Provider {provider} "), "left out"]).await;
        assert!(body.contains(provider) && body.contains(driver), "{body}");
        assert!(launcher.log().contains(driver), "{}", launcher.log());
    }
    // Nobody else serves them: such a request fails, with the reason.
    let request = stage.request(&["x"]).await;
    let record = stage.wait_for_state(&request, "failed").await;
    assert!(record["declined_by"].as_array().is_some_and(|list| list.len() == 1), "{record}");
    assert!(record["decline_reasons"].to_string().contains("[x] not available"), "{record}");
}

#[tokio::test]
async fn a_provider_that_becomes_unusable_keeps_running_as_it_was() {
    let stage = Stage::new(zookeeper()).await;
    stage.configure(&[fake("p", &["a"], 2), fake("q", &["b"], 2)]);
    let launcher = stage.launcher().await;
    served(&stage, "a").await;
    let mut broken = fake("p", &["a"], 2);
    broken["driver"] = json!("no-such-driver");
    stage.configure(&[broken, fake("q", &["b", "c"], 2)]);
    served(&stage, "c").await;
    served(&stage, "a").await;
    launcher.has_logged(&["Provider p is left out"]).await;
    assert!(launcher.ready().contains("no-such-driver"), "{}", launcher.ready());
}

#[tokio::test]
async fn one_wrong_value_in_a_label_costs_that_label_and_a_reload_keeps_it_as_it_ran() {
    let stage = Stage::new(zookeeper()).await;
    let good = fake("p", &["a", "b"], 2);
    let mut bad = good.clone();
    bad["pools"][0]["labels"][1]["volume-size"] = json!("1o");
    stage.configure(std::slice::from_ref(&bad));
    let launcher = stage.launcher().await;
    served(&stage, "a").await;
    let told = "Label b of pool main of provider p is left out";
    assert!(launcher.logged(&[told]) && launcher.ready().contains(told), "{}", launcher.log());
    let request = stage.request(&["b"]).await;
    let record = stage.wait_for_state(&request, "failed").await;
    let reason = "label b cannot be used: `volume-size` must be a whole number, not the text `1o`";
    assert!(record["decline_reasons"].to_string().contains(reason), "{record}");

    stage.configure(&[good]);
    served(&stage, "b").await;
    assert_eq!(launcher.ready(), "OK");
    stage.configure(&[bad]);
    stage.wait("/ready tells of the label", async || launcher.ready().contains(told)).await;
    served(&stage, "b").await;
}

#[tokio::test]
async fn one_wrong_value_in_a_static_host_costs_that_host() {
    let stage = Stage::new(zookeeper()).await;
    let host = |name: &str, label: &str, timeout: Value| json!({"name": name, "labels": label, "timeout": timeout, "host-key-checking": false});
    let nodes = json!([host("fake-one", "b", json!(5)), host("fake-two", "c", json!("1o"))]);
    let racks = json!({"name": "racks", "driver": "static", "pools": [{"name": "main", "nodes": nodes}]});
    stage.configure(&[racks, fake("p", &["a"], 2)]);
    let launcher = stage.launcher().await;
    served(&stage, "a").await;
    served(&stage, "b").await;
    let told = "Host fake-two of pool main of provider racks is left out";
    assert!(launcher.logged(&[told]) && launcher.ready().contains(told), "{}", launcher.log());
    let request = stage.request(&["c"]).await;
    let record = stage.wait_for_state(&request, "failed").await;
    let reason = "host fake-two is left out: `timeout` must be a whole number, not the text `1o`";
    assert!(record["decline_reasons"].to_string().contains(reason), "{record}");
}

#[tokio::test]
async fn a_pool_with_an_unknown_label_serves_its_others() {
    let stage = Stage::new(zookeeper()).await;
    let mut configuration = stage.configuration(&[fake("p", &["unknown-label", "b"], 2)]);
    configuration["labels"] = json!([{"name": "b"}]);
    stage.write_config(&serde_json::to_string_pretty(&configuration).unwrap());
    let launcher = stage.launcher().await;
    served(&stage, "b").await;
    let log = launcher.log();
    assert!(log.contains("unknown-label"), "{log}");
    let place = format!("{}:", stage.path("nodepool.yaml").display());
    assert!(log.lines().any(|line| line.contains(&place) && line.contains("unknown-label")), "{log}");
}

/// The `openstack` driver for a cloud that nobody answers for, and one that is not in the file.
async fn beside_a_broken_cloud(cloud: &str, words: &[&str]) {
    let stage = Stage::new(zookeeper()).await;
    let clouds = stage.path("clouds.yaml");
    let auth_url = format!("http://127.0.0.1:{}/v3", nodepool_testing::free_port());
    let auth = json!({"auth_url": auth_url, "username": "u", "password": "secret-password", "project_name": "p",
        "user_domain_name": "Default", "project_domain_name": "Default"});
    fs::write(&clouds, json!({"clouds": {"away": {"auth": auth, "region_name": "R"}}}).to_string()).unwrap();
    stage.set_env("OS_CLIENT_CONFIG_FILE", &clouds);
    stage.configure(&[openstack("broken", cloud, "x"), fake("p", &["a"], 2)]);
    let launcher = stage.launcher().await;
    served(&stage, "a").await;
    stage
        .wait("/ready tells of the trouble", async || {
            let body = launcher.ready();
            body.contains("broken") && words.iter().all(|word| body.contains(word))
        })
        .await;
    let log = launcher.log();
    let line =
        log.lines().find(|line| line.contains("Provider broken") && words.iter().all(|word| line.contains(word)));
    assert!(line.is_some(), "{log}");
    assert!(!log.contains("secret-password"), "{log}");

    let request = stage.request(&["x"]).await;
    stage
        .wait("the request for the broken provider's label says why", async || {
            let record = stage.record(&format!("requests/{request}")).await;
            let waits = launcher.pool_list().to_string();
            let reasons = record["decline_reasons"].to_string();
            let told = |text: &str| words.iter().all(|word| text.contains(word));
            told(&reasons) || waits.contains(&request) && told(&waits)
        })
        .await;
    served(&stage, "a").await;
}

#[tokio::test]
async fn an_unreachable_cloud_stops_nobody_else() {
    beside_a_broken_cloud("away", &["127.0.0.1"]).await;
}

#[tokio::test]
async fn a_cloud_that_is_missing_in_clouds_yaml_stops_nobody_else() {
    beside_a_broken_cloud("missing-cloud", &["missing-cloud"]).await;
}

#[tokio::test]
async fn a_cloud_that_goes_away_for_a_while_delays_its_launches_and_loses_nothing() {
    let stage = Stage::new(zookeeper()).await;
    let script = |trouble: Value| {
        let mut script = json!({"*": {"state_dir": stage.state_dir()}, "p": {"boot_delay": 0.5}});
        script["p"].as_object_mut().unwrap().extend(trouble.as_object().unwrap().clone());
        stage.script(&script);
    };
    script(json!({}));
    stage.configure(&[fake("p", &["a"], 5), fake("q", &["b"], 5)]);
    let launcher = stage.launcher().await;
    served(&stage, "a").await;
    stage.no_node_is_left().await;
    // The server does not boot before the cloud is away.
    script(json!({"hang_boot": {}}));
    let request = stage.request(&["a"]).await;
    stage.wait("a server boots", async || launcher.logged(&[&request, "is being created"])).await;
    script(json!({"fail_list": {"message": "the API is down for maintenance"}, "fail_delete": true}));
    stage.boot("p");
    served(&stage, "b").await;
    tokio::time::sleep(Duration::from_secs(2)).await; // the server has long booted, and nobody can see it
    assert_eq!(stage.state(&request).await, "pending", "it waits:\n{}", launcher.log());
    script(json!({}));
    stage.fulfilled(&request).await;
    assert_eq!(launcher.count(&[&request, "Launching"]), 1, "with its first server:\n{}", launcher.log());

    script(json!({"fail_delete": {"message": "the API is down for maintenance"}}));
    stage.release(&request).await;
    stage.wait("the deletion fails", async || launcher.logged(&["Could not delete", "down for maintenance"])).await;
    served(&stage, "b").await;
    stage.wait("p's server is still there, and only that", async || stage.servers().len() == 1).await;
    script(json!({}));
    stage.no_node_is_left().await;
}

#[tokio::test]
async fn a_slow_cloud_slows_nobody_else() {
    let stage = Stage::new(zookeeper()).await;
    let delay = Duration::from_secs(20);
    stage.script(&json!({"p": {"api_delay": delay.as_secs()}}));
    stage.configure(&[fake("p", &["a"], 5), fake("q", &["b"], 5)]);
    let launcher = stage.launcher().await;
    let slow = stage.request(&["a"]).await;
    for _ in 0..5 {
        let start = Instant::now();
        served(&stage, "b").await;
        assert!(start.elapsed() < delay, "as slow as the other: {:?}\n{}", start.elapsed(), launcher.log());
    }
    assert_ne!(stage.state(&slow).await, "fulfilled");
    assert_ne!(stage.state(&slow).await, "failed");
    // Calls that are under way still take as long.
    stage.script(&json!({}));
    stage.wait_within(4 * delay, "the slow one is fulfilled", async || stage.state(&slow).await == "fulfilled").await;
}

#[tokio::test]
async fn at_the_quota_a_request_waits_and_other_pools_serve() {
    let stage = Stage::new(zookeeper()).await;
    stage.script(&json!({"p": {"quota": {"instances": 1}}}));
    stage.configure(&[fake("p", &["a"], 10), fake("q", &["b"], 10)]);
    let launcher = stage.launcher().await;
    let first = stage.request(&["a"]).await;
    stage.fulfilled(&first).await;
    let second = stage.request(&["a"]).await;
    stage.wait_for_state(&second, "pending").await;
    stage
        .wait("the pool is paused, and only that one", async || {
            let pools = stage.pools().await;
            let paused = |provider| pools.iter().any(|p| p["provider_name"] == provider && p["paused"] == json!(true));
            paused("p") && !paused("q")
        })
        .await;
    served(&stage, "b").await;
    assert_eq!(stage.state(&second).await, "pending");
    launcher.has_logged(&[&second, "Waiting for room"]).await;
    let list = launcher.pool_list();
    assert!(list.to_string().contains(&second), "{list}");

    stage.release(&first).await;
    stage.fulfilled(&second).await;
    stage
        .wait("the pool goes on", async || stage.pools().await.iter().all(|pool| pool["paused"] == json!(false)))
        .await;
    assert!(!launcher.logged(&["Quota exceeded"]), "the quota was known:\n{}", launcher.log());
}

#[tokio::test]
async fn records_that_cannot_be_read_are_told_once_and_left_alone() {
    let stage = Stage::new(zookeeper()).await;
    let broken: [(&str, &[u8]); 8] = [
        ("nodes/9000000001", b"{\"state\": \"ready\", \"provider\": \"p\", \"po"),
        ("nodes/9000000002", b"{\"state\": \"frobnicated\", \"provider\": \"p\", \"pool\": \"main\"}"),
        ("nodes/9000000003", b"not JSON at all \xff\xfe"),
        ("nodes/9000000004", b"[1, 2]"),
        ("requests/100-9000000001", b"{\"state\": \"requested\", \"node_ty"),
        ("requests/100-9000000002", b"{\"state\": \"frobnicated\", \"node_types\": [\"a\"]}"),
        ("requests/100-9000000003", b"not JSON at all \xff\xfe"),
        ("requests/100-9000000004", b"{}"),
    ];
    for (path, data) in broken {
        stage.create(&format!("/nodepool/{path}"), data).await;
    }
    stage.create("/nodepool/nodes/9000000005", b"").await;
    stage.create("/nodepool/requests/100-9000000005", b"").await;
    stage.configure(&[fake("p", &["a"], 5)]);
    let launcher = stage.launcher().await;
    served(&stage, "a").await;
    stage.wait("the empty node is gone", async || stage.data("nodes/9000000005").await.is_none()).await;
    // While it runs, too.
    stage.create("/nodepool/nodes/9000000006", b"{\"half\": ").await;
    served(&stage, "a").await;
    for (path, data) in broken {
        assert_eq!(stage.data(path).await.as_deref(), Some(data), "{path}");
        assert_eq!(launcher.count(&[&format!("/{path}:")]), 1, "{path} is told once:\n{}", launcher.log());
    }
    assert_eq!(stage.data("nodes/9000000006").await.as_deref(), Some(&b"{\"half\": "[..]));
    assert_eq!(launcher.count(&["/nodes/9000000006:"]), 1, "{}", launcher.log());
    let locks = stage.zk.list_children("/nodepool/requests-lock").await.unwrap_or_default();
    assert!(!locks.iter().any(|id| id.starts_with("100-9")), "nobody touched their locks: {locks:?}");
    let (status, _) = launcher.get("/node-list").unwrap();
    assert_eq!(status, 200);
    let requests: Value = serde_json::from_slice(&stage.data("requests/100-9000000004").await.unwrap()).unwrap();
    assert_eq!(requests, json!({}));
}

#[tokio::test]
async fn absurd_times_in_records_disturb_nothing() {
    let stage = Stage::new(zookeeper()).await;
    stage.configure(&[fake("p", &["a"], 5)]);
    let launcher = stage.launcher().await;
    stage.offered("a").await;
    for time in ["-1e300", "1e300", "1e17", "-1", "0"] {
        let record = format!(
            r#"{{"requestor": "zuul", "requestor_data": null, "tenant_name": "t", "provider": null, "state": "requested",
            "state_time": {time}, "created_time": {time}, "relative_priority": 0, "node_types": ["a"], "nodes": [],
            "reuse": true, "declined_by": [], "event_id": "e"}}"#
        );
        let request = stage.request_of(&record).await;
        stage.fulfilled(&request).await;
        let node = stage.record(&format!("requests/{request}")).await["nodes"][0].as_str().unwrap().to_owned();
        let mut used = stage.record(&format!("nodes/{node}")).await;
        used["state"] = json!("used");
        used["state_time"] = serde_json::from_str(time).unwrap();
        used["created_time"] = used["state_time"].clone();
        // Also where people look.
        let path = format!("/nodepool/nodes/{node}");
        stage.zk.set_data(&path, used.to_string().as_bytes(), None).await.unwrap();
        for page in ["/node-list", "/request-list", "/metrics"] {
            assert_eq!(launcher.get(page).map(|(status, _)| status), Some(200), "{page} with {time}");
        }
        stage.zk.delete(&format!("/nodepool/requests/{request}"), None).await.unwrap();
        stage.wait("the node is gone", async || stage.data(&format!("nodes/{node}")).await.is_none()).await;
    }
    assert!(!launcher.logged(&["panicked"]), "{}", launcher.log());
}

/// Zuul withdraws a request whenever it likes, also between our lock and our write.
#[tokio::test]
async fn what_is_gone_before_we_write_it_is_no_error() {
    let stage = Stage::new(zookeeper()).await;
    stage.configure(&[fake("p", &["a"], 20)]);
    let launcher = stage.launcher().await;
    stage.offered("a").await;
    for round in 0..150 {
        let request = stage.request(&["a"]).await;
        tokio::time::sleep(Duration::from_micros(100 * (round % 50))).await;
        stage.zk.delete(&format!("/nodepool/requests/{request}"), None).await.unwrap();
    }
    served(&stage, "a").await;
    assert_eq!(launcher.count(&["does not exist", "ERROR"]), 0, "{}", launcher.log());
}
