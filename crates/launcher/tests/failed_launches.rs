//! What follows a failed launch depends on why it failed.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a test fails that way

mod support;

use serde_json::json;
use support::*;

#[tokio::test]
async fn a_zone_without_room_is_left_for_another() {
    let stage = Stage::new(zookeeper()).await;
    stage.script(&json!({"p": {"full_azs": ["az1"]}}));
    let mut provider = fake("p", &["a"], 20);
    provider["launch-retries"] = json!(2);
    stage.configure(&[provider]);
    let launcher = stage.launcher().await;
    // The first zone is drawn from the request's id: of ten, some begin in the full one.
    for _ in 0..10 {
        let request = stage.request(&["a"]).await;
        let record = stage.fulfilled(&request).await;
        let node = stage.record(&format!("nodes/{}", record["nodes"][0].as_str().unwrap())).await;
        assert_eq!(node["az"], "az2");
    }
    launcher.has_logged(&["attempt 1/2", "No valid host"]).await;
}

#[tokio::test]
async fn a_request_moves_on_from_a_provider_without_room_once_every_zone_was_tried() {
    let stage = Stage::new(zookeeper()).await;
    stage.script(&json!({"p": {"full_azs": ["az1", "az2"]}}));
    let mut first = fake("p", &["a"], 5);
    first["priority"] = json!(1);
    first["launch-retries"] = json!(50);
    stage.configure(&[first, fake("q", &["a"], 5)]);
    let launcher = stage.launcher().await;
    stage.taking_part(&["p", "q"]).await;
    let request = stage.request(&["a"]).await;
    let record = stage.fulfilled(&request).await;
    let node = stage.record(&format!("nodes/{}", record["nodes"][0].as_str().unwrap())).await;
    assert_eq!(node["provider"], "q");
    assert!(record["decline_reasons"].to_string().contains("No valid host"), "{record}");
    assert_eq!(launcher.count(&["Launch attempt", "No valid host"]), 2, "{}", launcher.log());
}

#[tokio::test]
async fn an_attempt_does_not_count_while_the_cloud_is_away() {
    let stage = Stage::new(zookeeper()).await;
    stage.script(&json!({"p": {"fail_create": {"status": 503, "message": "the API is down for maintenance"}}}));
    let mut provider = fake("p", &["a"], 5);
    provider["launch-retries"] = json!(1);
    stage.configure(&[provider]);
    let launcher = stage.launcher().await;
    let request = stage.request(&["a"]).await;
    stage
        .wait("the pool says why it waits", async || launcher.pool_list().to_string().contains("down for maintenance"))
        .await;
    let attempts = || launcher.count(&["The cloud is away", "HTTP 503"]);
    stage.wait("it is tried more often than launch-retries says", async || attempts() >= 2).await;
    stage.script(&json!({}));
    stage.fulfilled(&request).await;
    assert!(!launcher.pool_list().to_string().contains("down for maintenance"), "{}", launcher.pool_list());
}

#[tokio::test]
async fn a_request_does_not_wait_for_a_cloud_that_is_away_where_another_can_serve() {
    let stage = Stage::new(zookeeper()).await;
    stage.script(&json!({"p": {"fail_create": {"status": 503, "message": "the API is down for maintenance"}}}));
    let mut first = fake("p", &["a"], 5);
    first["priority"] = json!(1);
    stage.configure(&[first, fake("q", &["a"], 5)]);
    let _launcher = stage.launcher().await;
    stage.taking_part(&["p", "q"]).await;
    let request = stage.request(&["a"]).await;
    let record = stage.fulfilled(&request).await;
    let node = stage.record(&format!("nodes/{}", record["nodes"][0].as_str().unwrap())).await;
    assert_eq!(node["provider"], "q");
    assert!(record["decline_reasons"].to_string().contains("down for maintenance"), "{record}");
}
