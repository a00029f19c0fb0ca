//! What a launcher says of requests and nodes that wait, in situations that are made for real.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a test fails that way

mod support;

use nodepool_common::explain::{Explanation, Verdict};
use serde_json::{Value, json};
use support::*;

/// What a launcher says of a request or a node; `None`: it knows nothing of it.
fn explain(launcher: &Launcher, id: &str) -> Option<Explanation> {
    let (status, body) = launcher.get(&format!("/api/v1/explain/{id}")).expect("an answer");
    match status {
        200 => Some(serde_json::from_str(&body).unwrap_or_else(|error| panic!("{error}: {body}"))),
        404 => None,
        _ => panic!("{status}: {body}"),
    }
}

/// Waits until a request or a node is explained so, with these words in the sentence.
async fn is_explained(
    stage: &Stage,
    launcher: &Launcher,
    id: &str,
    verdict: Verdict,
    code: &str,
    words: &str,
) -> Explanation {
    let mut last = None;
    let is_so = |explanation: &Explanation| {
        explanation.verdict == verdict && explanation.code == code && explanation.sentence.contains(words)
    };
    let mut found = None;
    let looked = async || {
        last = explain(launcher, id);
        found = last.clone().filter(is_so);
        found.is_some()
    };
    let what = format!("{id} is explained by {code}, {words:?}");
    stage.wait(&what, looked).await;
    found.unwrap_or_else(|| panic!("{what}: {last:?}"))
}

#[tokio::test]
async fn a_request_that_waits_for_room_says_what_is_short_and_one_behind_it_that_it_is_behind() {
    let stage = Stage::new(zookeeper()).await;
    stage.configure(&[fake("p", &["a"], 1)]);
    let launcher = stage.launcher().await;
    let first = stage.request(&["a"]).await;
    let node = stage.fulfilled(&first).await["nodes"][0].as_str().unwrap().to_owned();
    let served = is_explained(&stage, &launcher, &first, Verdict::Fine, "waits-for-requestor", &node).await;
    assert_eq!(served.ended_by.as_deref(), Some("Zuul takes the nodes and deletes the request"));
    is_explained(&stage, &launcher, &node, Verdict::Wait, "waits-for-requestor", &first).await;
    let second = stage.request(&["a"]).await;
    let explanation =
        is_explained(&stage, &launcher, &second, Verdict::Wait, "no-room", "1 instances needed, 0 there").await;
    assert!(explanation.sentence.contains("Pool p-main serves it: 0 of 1 node ready"), "{explanation:?}");
    assert!(explanation.ended_by.unwrap().contains("higher limits of the pool"));
    assert!(explanation.since.is_some());
    let third = stage.request(&["a"]).await;
    let fourth = stage.request(&["a"]).await;
    is_explained(&stage, &launcher, &third, Verdict::Wait, "behind-others", "an earlier request waits for room").await;
    let behind =
        is_explained(&stage, &launcher, &fourth, Verdict::Wait, "behind-others", "an earlier request waits for room")
            .await;
    assert_eq!(behind.before, Some(1), "{behind:?}");
    // What would end it, does.
    stage.release(&first).await;
    is_explained(&stage, &launcher, &second, Verdict::Fine, "waits-for-requestor", "It has its nodes").await;
}

#[tokio::test]
async fn a_request_that_nobody_can_serve_says_why_as_long_as_its_record_is_there() {
    let stage = Stage::new(zookeeper()).await;
    stage.configure(&[fake("p", &["a"], 1)]);
    let launcher = stage.launcher().await;
    let unknown = stage.request(&["unknown"]).await;
    is_explained(
        &stage,
        &launcher,
        &unknown,
        Verdict::Change,
        "failed",
        "p-main: node type(s) [unknown] not available",
    )
    .await;
    let large = stage.request(&["a", "a"]).await;
    is_explained(&stage, &launcher, &large, Verdict::Change, "failed", "2 instances needed, 1 there").await;
    assert_eq!(explain(&launcher, "200-0999999999"), None);
    assert_eq!(explain(&launcher, "0999999999"), None);
    for page in ["/api/v1/explain/ubuntu", "/api/v1/explain/", "/api/v1/", "/api/v1/other"] {
        assert_eq!(launcher.get(page).unwrap().0, 404, "{page}");
    }
    assert_eq!(launcher.get("/api/v1/view").unwrap().0, 400);
    assert_eq!(launcher.get("/api/v1/view?request=../x").unwrap().0, 400);
}

#[tokio::test]
async fn a_launch_that_is_under_way_and_one_whose_cloud_is_away_are_told_apart() {
    let stage = Stage::new(zookeeper()).await;
    stage.configure(&[fake("p", &["a"], 5)]);
    stage.script(&json!({"p": {"boot_delay": 600}}));
    let launcher = stage.launcher().await;
    let slow = stage.request(&["a"]).await;
    is_explained(&stage, &launcher, &slow, Verdict::Wait, "launching", "0 of 1 node ready, 1 launch under way").await;
    // It has a record a moment later.
    let mut node = None;
    let has_node = async || {
        let facts = explain(&launcher, &slow).unwrap().facts;
        node = facts.iter().find_map(|fact| fact.name.strip_prefix("node ").map(str::to_owned));
        node.is_some()
    };
    stage.wait("the explanation names the node", has_node).await;
    is_explained(&stage, &launcher, &node.unwrap(), Verdict::Wait, "launching", "It is being launched").await;
    stage.script(&json!({"p": {"fail_create": {"status": 503, "message": "the API is down for maintenance"}}}));
    let away = stage.request(&["a"]).await;
    is_explained(&stage, &launcher, &away, Verdict::Act, "provider-in-trouble", "the API is down for maintenance")
        .await;
}

#[tokio::test]
async fn each_launcher_answers_for_all_and_names_those_that_it_cannot_ask() {
    let stage = Stage::new(zookeeper()).await;
    stage.configure(&[fake("p", &["a"], 1)]);
    let launchers = [stage.launcher().await, stage.launcher().await];
    // There is room for one node: the second request waits, accepted by one of them.
    let served = stage.request(&["a"]).await;
    stage.fulfilled(&served).await;
    let waiting = stage.request(&["a"]).await;
    for launcher in &launchers {
        is_explained(&stage, launcher, &waiting, Verdict::Wait, "no-room", "Pool p-main serves it").await;
    }
    // A process that stands still answers nothing, and stays registered until its session has expired.
    let [one, other] = launchers;
    one.signal(nix::sys::signal::Signal::SIGSTOP);
    let names_it = async || {
        let explanation = explain(&other, &waiting).unwrap();
        explanation
            .silent
            .first()
            .is_some_and(|silent| silent.pools == ["p-main"] && silent.why.contains("no answer within"))
    };
    stage.wait("it says that it could not ask the first one", names_it).await;
}

/// Not a word of what a site keeps to itself, wherever it stands in the configuration or in records.
#[tokio::test]
async fn no_secret_is_in_what_is_explained() {
    const CANARY: &str = "canary-7f3a";
    let stage = Stage::new(zookeeper()).await;
    let mut provider = fake("p", &["a"], 1);
    provider["pools"][0]["labels"][0]["userdata"] = json!(CANARY);
    stage.configure(&[provider]);
    let launcher = stage.launcher().await;
    let request = json!({"state": "requested", "state_time": now(), "node_types": ["a"], "declined_by": [], "nodes": [],
        "reuse": true, "requestor": "zuul", "relative_priority": 0, "requestor_data": {"secret": CANARY}});
    let request = stage.request_of(&request.to_string()).await;
    let node = stage.fulfilled(&request).await["nodes"][0].as_str().unwrap().to_owned();
    for page in [
        format!("/api/v1/explain/{request}"),
        format!("/api/v1/explain/{node}"),
        format!("/api/v1/view?request={request}"),
    ] {
        let (status, body) = launcher.get(&page).unwrap();
        assert_eq!(status, 200, "{page}");
        assert!(serde_json::from_str::<Value>(&body).is_ok(), "{body}");
        assert!(!body.contains(CANARY), "{page}: {body}");
    }
}
