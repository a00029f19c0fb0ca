//! What a launcher says of requests, nodes, labels, images and providers, in situations that are made for real.
//!
//! | situation | code | made in |
//! |---|---|---|
//! | waits for quota or limits: needs, has | `no-room` | `a_request_that_waits_for_room…` |
//! | behind others | `behind-others` | `a_request_that_waits_for_room…` |
//! | larger than the limits will ever be | `failed`: "2 instances needed" | `a_request_that_nobody_can_serve…` |
//! | no pool has the label | `failed`: "not available" | `a_request_that_nobody_can_serve…` |
//! | the same of a label | `no-pool-has-label` | `a_label_with_a_ready_node…` |
//! | image missing, to be built, building, failed, paused, uploading, upload failed or paused | `image-…`, `no-builder` | `an_image_says_where…` |
//! | provider in trouble: the cloud's error, since | `provider-in-trouble` | `a_launch_that_is_under_way…` |
//! | provider left out, as its configuration is wrong | `left-out` | `a_provider_says…` |
//! | out of service: `max-servers: 0` | `out-of-service`, `pool-disabled` | `a_provider_says…`, `declined_by_all…` |
//! | left to another pool | `left-to-priority` | `what_is_left_to_another_pool…` |
//! | `max-concurrency` | `max-concurrency` | `what_is_left_to_another_pool…` |
//! | paused by whom, and why | `paused` | `what_is_paused…` |
//! | tenant limit | `tenant-full` | `a_tenant_that_has_all_it_may…` |
//! | quota refused: until when | `quota-refused` | `a_cloud_that_refuses…` |
//! | launches under way | `launching` | `a_launch_that_is_under_way…` |
//! | host keys cannot be read; launches fail | `failed`, to act on | `launches_that_fail…` |
//! | declined by all, each reason | `failed` | `declined_by_all…` |
//! | fulfilled and not taken | `waits-for-requestor` | `a_request_that_waits_for_room…` |
//! | node taken, job runs on it | `served`, `taken`, `in-use` | `what_zuul_has_taken…` |
//! | a launcher that cannot be asked | named beside all else | `each_launcher_answers_for_all…` |
//! | its launcher has ended | `launcher-lost`, `no-launcher` | `common/src/explain/tests.rs`, of records |
//! | others use the quota, the keeper of hosts, nodes that carry others | | `common/src/explain/tests.rs` and the planner's, of records |
//! | which attempt and step a launch is at | | not told: nobody publishes it |

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

/// What `explain` is asked about, where a name may be that of several things.
fn of(kind: &str, name: &str) -> String {
    format!("{name}?kind={kind}")
}

fn fact<'a>(explanation: &'a Explanation, name: &str) -> &'a str {
    let fact = explanation.facts.iter().find(|fact| fact.name == name);
    &fact.unwrap_or_else(|| panic!("no fact {name}: {explanation:#?}")).value
}

/// A provider whose labels boot from a diskimage.
fn with_image(provider: &str, labels: &[&str], image: &str) -> Value {
    let mut provider = fake(provider, labels, 5);
    provider["diskimages"] = json!([{"name": image}]);
    for label in provider["pools"][0]["labels"].as_array_mut().unwrap() {
        label.as_object_mut().unwrap().remove("cloud-image");
        label["diskimage"] = json!(image);
    }
    provider
}

impl Stage {
    /// As [`Stage::configure`], with a diskimage.
    fn configure_with_image(&self, providers: &[Value], image: &str) {
        let mut configuration = self.configuration(providers);
        configuration["diskimages"] = json!([{"name": image}]);
        self.write_config(&configuration.to_string());
    }

    /// Writes a record, and what is above it, as a builder does.
    async fn put(&self, path: &str, record: &Value) {
        let path = format!("/nodepool/{path}");
        let (above, _) = path.rsplit_once('/').unwrap();
        let options = zookeeper_client::CreateMode::Persistent.with_acls(zookeeper_client::Acls::anyone_all());
        let _ = self.zk.mkdir(above, &options).await;
        let data = record.to_string();
        if self.zk.set_data(&path, data.as_bytes(), None).await.is_err() {
            self.create(&path, data.as_bytes()).await;
        }
    }

    async fn build(&self, image: &str, build: &str, state: &str, more: &Value) {
        let mut record = json!({"state": state, "state_time": now(), "builder": "builder-1", "formats": "qcow2"});
        record.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        self.put(&format!("images/{image}/builds/{build}"), &record).await;
    }

    async fn upload(&self, image: &str, build: &str, provider: &str, state: &str, more: &Value) {
        let mut record =
            json!({"state": state, "state_time": now(), "external_id": "fake-image", "external_name": "x"});
        record.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let path = format!("images/{image}/builds/{build}/providers/{provider}/images/0000000001");
        self.put(&path, &record).await;
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
    let start = tokio::time::Instant::now();
    loop {
        let last = explain(launcher, id);
        match last {
            Some(found) if found.verdict == verdict && found.code == code && found.sentence.contains(words) => {
                return found;
            }
            last if start.elapsed() > SOON => {
                let all = stage.everything().await;
                panic!("{id} is not explained by {verdict} {code}, {words:?}, but by {last:#?}\n{all}");
            }
            _ => tokio::time::sleep(std::time::Duration::from_millis(20)).await,
        }
    }
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
        "/api/v1/explain/a".to_owned(),
        "/api/v1/explain/p".to_owned(),
        "/api/v1/view?label=a".to_owned(),
        "/api/v1/view?provider=p".to_owned(),
        "/api/v1/overview".to_owned(),
        "/api/v1/overview/part".to_owned(),
        "/api/v1/nodes".to_owned(),
        "/api/v1/requests".to_owned(),
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

#[tokio::test]
async fn a_label_says_whether_it_can_be_served_now_and_what_a_request_would_wait_for() {
    let stage = Stage::new(zookeeper()).await;
    stage.configure(&[fake("p", &["a", "b"], 1), fake("q", &["b"], 0)]);
    let launcher = stage.launcher().await;
    let a = of("label", "a");
    let free = is_explained(&stage, &launcher, &a, Verdict::Fine, "would-launch", "a node would be launched").await;
    assert_eq!((fact(&free, "ready nodes"), fact(&free, "nodes in use")), ("0", "0"));
    assert_eq!(free.pools.iter().map(|pool| pool.pool.as_str()).collect::<Vec<_>>(), ["p-main"]);
    // Its only node is taken.
    let first = stage.request(&["a"]).await;
    stage.fulfilled(&first).await;
    let full = is_explained(&stage, &launcher, &a, Verdict::Wait, "no-room", "1 instances needed, 0 there").await;
    assert!(full.ended_by.unwrap().contains("higher limits"));
    assert_eq!(full.since, None, "nobody waits for it");
    // And somebody waits: a request would be behind that one.
    let second = stage.request(&["a"]).await;
    let behind = is_explained(&stage, &launcher, &a, Verdict::Wait, "behind-others", "earlier request waits").await;
    assert!(behind.since.is_some());
    assert_eq!(fact(&behind, "asked for by"), "0 requests to be accepted, 1 being served");
    assert_eq!(fact(&behind, "oldest request"), second);
    assert_eq!(fact(&behind, "other nodes"), "1 ready and set aside");
    // Each pool says for itself.
    let b = is_explained(&stage, &launcher, &of("label", "b"), Verdict::Wait, "behind-others", "p-main").await;
    let pools: Vec<_> = b.pools.iter().map(|pool| (pool.pool.as_str(), pool.code.as_str(), pool.is_out)).collect();
    assert_eq!(pools, [("p-main", "behind-others", false), ("q-main", "pool-disabled", true)]);
    // Nobody was asked anything: no request has appeared, and none was declined.
    assert_eq!(stage.records("requests").await.len(), 2);
    assert_eq!(stage.record(&format!("requests/{second}")).await["declined_by"], json!([]));
    assert_eq!(explain(&launcher, &of("label", "c")), None);
}

#[tokio::test]
async fn a_label_with_a_ready_node_says_so_and_one_of_a_provider_that_is_gone_that_no_pool_has_it() {
    let stage = Stage::new(zookeeper()).await;
    let mut configuration = stage.configuration(&[fake("p", &["a"], 1)]);
    configuration["labels"] = json!([{"name": "a", "min-ready": 1}]);
    stage.write_config(&configuration.to_string());
    let launcher = stage.launcher().await;
    let ready =
        is_explained(&stage, &launcher, &of("label", "a"), Verdict::Fine, "has-ready", "a ready node at once").await;
    assert_eq!(fact(&ready, "ready nodes"), "1");
    // Of a provider that is gone a node is left, which somebody keeps.
    let node = json!({"state": "hold", "state_time": now(), "type": ["old"], "provider": "gone", "pool": "main"});
    stage.create("/nodepool/nodes/0000000900", node.to_string().as_bytes()).await;
    is_explained(&stage, &launcher, &of("label", "old"), Verdict::Change, "no-pool-has-label", "No registered pool")
        .await;
    is_explained(&stage, &launcher, &of("provider", "gone"), Verdict::Act, "no-launcher", "No launcher").await;
}

#[tokio::test]
async fn an_image_says_where_it_is_missing_and_why_and_so_does_its_label() {
    let stage = Stage::new(zookeeper()).await;
    stage.configure_with_image(&[with_image("p", &["noble"], "noble")], "noble");
    let launcher = stage.launcher().await;
    let (label, image) = (of("label", "noble"), of("image", "noble"));
    let both = async |verdict, code: &str, words: &str| {
        is_explained(&stage, &launcher, &label, verdict, code, words).await;
        let explanation = is_explained(&stage, &launcher, &image, verdict, code, words).await;
        assert_eq!(fact(&explanation, "needed by label"), "noble in p-main");
    };
    both(Verdict::Act, "no-builder", "no builder is running").await;
    stage.put("components/builder/builder0000000000", &json!({"state": "running"})).await;
    both(Verdict::Wait, "image-to-be-built", "it has not been built").await;
    stage.put("images/noble/pause", &Value::Null).await;
    both(Verdict::Act, "image-paused", "it is paused").await;
    stage.zk.delete("/nodepool/images/noble/pause", None).await.unwrap();
    stage.build("noble", "0b1", "building", &json!({})).await;
    both(Verdict::Wait, "image-building", "build 0b1 runs on builder-1").await;
    stage.build("noble", "0b1", "failed", &json!({"reason": "no space left on /var/lib/nodepool"})).await;
    both(Verdict::Act, "image-build-failed", "build 0b1 has failed: no space left").await;
    stage.build("noble", "0b2", "building", &json!({})).await;
    both(Verdict::Wait, "image-building", "the one before it failed: no space left").await;
    stage.build("noble", "0b2", "ready", &json!({})).await;
    both(Verdict::Wait, "image-to-be-uploaded", "build 0b2 is ready").await;
    let mut paused = with_image("p", &["noble"], "noble");
    paused["diskimages"][0]["pause"] = json!(true);
    stage.configure_with_image(&[paused], "noble");
    both(Verdict::Act, "image-upload-paused", "nobody uploads it there").await;
    stage.configure_with_image(&[with_image("p", &["noble"], "noble")], "noble");
    both(Verdict::Wait, "image-to-be-uploaded", "build 0b2 is ready").await;
    stage.upload("noble", "0b2", "p", "uploading", &json!({})).await;
    both(Verdict::Wait, "image-uploading", "build 0b2 is being uploaded").await;
    stage.upload("noble", "0b2", "p", "failed", &json!({"reason": "413: the image is too large"})).await;
    both(Verdict::Act, "image-upload-failed", "413: the image is too large").await;
    stage.upload("noble", "0b2", "p", "ready", &json!({})).await;
    is_explained(&stage, &launcher, &label, Verdict::Fine, "would-launch", "would be launched").await;
    let ready = is_explained(&stage, &launcher, &image, Verdict::Fine, "ready", "in each provider").await;
    assert!(fact(&ready, "build 0b1").contains("failed on builder-1, qcow2: no space left"), "{ready:?}");
    assert!(fact(&ready, "in p").contains("ready, of build 0b2"), "{ready:?}");
    // What is newer has failed, what is older serves.
    stage.build("noble", "0b3", "failed", &json!({"reason": "mirror is down"})).await;
    is_explained(&stage, &launcher, &image, Verdict::Act, "build-failed", "mirror is down; an older build serves")
        .await;
    // Who does not say what the name is of gets all that there are.
    let (status, body) = launcher.get("/api/v1/explain/noble").unwrap();
    let all: Vec<Explanation> = serde_json::from_str(&body).unwrap();
    assert_eq!((status, all.iter().map(|of| of.kind.as_str()).collect::<Vec<_>>()), (200, vec!["label", "image"]));
    let (_, body) = launcher.get("/api/v1/explain/p").unwrap();
    let all: Vec<Explanation> = serde_json::from_str(&body).unwrap();
    assert_eq!(all.iter().map(|of| of.kind.as_str()).collect::<Vec<_>>(), ["provider"]);
}

#[tokio::test]
async fn a_provider_says_how_its_cloud_its_quota_and_its_pools_are() {
    let stage = Stage::new(zookeeper()).await;
    stage.configure(&[fake("p", &["a"], 2)]);
    let launcher = stage.launcher().await;
    let p = of("provider", "p");
    let first = stage.request(&["a"]).await;
    stage.fulfilled(&first).await;
    let serving = is_explained(&stage, &launcher, &p, Verdict::Fine, "serving", "no request waits").await;
    assert_eq!(fact(&serving, "nodes"), "1 ready");
    assert_eq!(fact(&serving, "quota instances"), "20: 1 ours, 0 others'");
    assert!(serving.pools[0].sentence.contains("1 of 2 instances used"), "{serving:?}");
    let second = stage.request(&["a", "a"]).await;
    let waits = is_explained(&stage, &launcher, &p, Verdict::Wait, "requests-wait", "1 request waits").await;
    assert!(waits.since.is_some() && waits.pools[0].sentence.contains("1 no-room"), "{waits:?}");
    stage.release(&first).await;
    stage.fulfilled(&second).await;
    // Its file cannot be used any more.
    let mut broken = fake("p", &["a"], 2);
    broken["launch-retries"] = json!("many");
    stage.configure(&[broken, fake("q", &["b"], 0)]);
    is_explained(&stage, &launcher, &of("provider", "q"), Verdict::Change, "out-of-service", "max-servers is 0").await;
    is_explained(&stage, &launcher, &p, Verdict::Change, "left-out", "as it is configured").await;
}

#[tokio::test]
async fn what_cannot_be_a_name_is_refused_and_odd_names_are_found() {
    let stage = Stage::new(zookeeper()).await;
    stage.configure(&[fake("p", &["c++ 20"], 1)]);
    let launcher = stage.launcher().await;
    is_explained(&stage, &launcher, "c++%2020?kind=label", Verdict::Fine, "would-launch", "would be launched").await;
    for page in ["/api/v1/explain/p?kind=pool", "/api/v1/view?pool=p", "/api/v1/view?label=../x", "/api/v1/view?label="]
    {
        assert_eq!(launcher.get(page).unwrap().0, 400, "{page}");
    }
    let long = "x".repeat(300);
    for page in
        [&format!("/api/v1/explain/{long}"), "/api/v1/explain/a%2Fb", "/api/v1/explain/%ff", "/api/v1/explain/x"]
    {
        assert_eq!(launcher.get(page).unwrap().0, 404, "{page}");
    }
}

#[tokio::test]
async fn what_is_left_to_another_pool_says_which_and_that_one_why_it_waits() {
    let stage = Stage::new(zookeeper()).await;
    let (mut first, mut other) = (fake("p", &["a"], 5), fake("q", &["a"], 5));
    first["max-concurrency"] = json!(1);
    first["pools"][0]["priority"] = json!(1);
    other["pools"][0]["priority"] = json!(2);
    stage.configure(&[first, other]);
    stage.script(&json!({"p": {"boot_delay": 600}}));
    let launcher = stage.launcher().await;
    stage.taking_part(&["p", "q"]).await;
    let slow = stage.request(&["a"]).await;
    is_explained(&stage, &launcher, &slow, Verdict::Wait, "launching", "p-main serves it").await;
    let waits = stage.request(&["a"]).await;
    let words = "1 launches are running, of max-concurrency 1";
    let explanation = is_explained(&stage, &launcher, &waits, Verdict::Wait, "max-concurrency", words).await;
    let of_q = explanation.pools.iter().find(|pool| pool.pool == "q-main").unwrap();
    assert_eq!((of_q.code.as_str(), of_q.is_out), ("left-to-priority", false));
    assert!(of_q.sentence.contains("PoolWorker.p-main"), "{}", of_q.sentence);
    assert_eq!(of_q.ended_by.as_deref().map(|by| by.contains("that pool")), Some(true));
}

#[tokio::test]
async fn what_is_paused_says_by_whom_and_why_and_others_serve_what_they_can() {
    let stage = Stage::new(zookeeper()).await;
    let (mut first, mut other) = (fake("p", &["a", "b"], 5), fake("q", &["a"], 5));
    first["pools"][0]["priority"] = json!(1);
    other["pools"][0]["priority"] = json!(2);
    stage.configure(&[first, other]);
    let pause = json!({"provider": {"by": "alice@host", "note": "update", "since": 1_760_000_000.5}});
    stage.put("pauses/p", &pause).await;
    let launcher = stage.launcher().await;
    stage.taking_part(&["p", "q"]).await;
    let elsewhere = stage.request(&["a"]).await;
    stage.fulfilled(&elsewhere).await;
    is_explained(&stage, &launcher, &elsewhere, Verdict::Fine, "waits-for-requestor", "It has its nodes").await;
    let nodes = launcher.get("/node-list?fields=provider").unwrap().1;
    assert!(nodes.contains(" q ") && !nodes.contains(" p "), "{nodes}");

    let waits = stage.request(&["b"]).await;
    let words = "provider p is paused by alice@host: update (since 2025-10-09 08:53:20 UTC)";
    let explanation = is_explained(&stage, &launcher, &waits, Verdict::Act, "paused", words).await;
    assert_eq!(explanation.ended_by.as_deref(), Some("`nodepool unpause`, by a person of the site"));
    let provider = is_explained(&stage, &launcher, &of("provider", "p"), Verdict::Act, "paused", "alice@host").await;
    assert_eq!((provider.since, provider.exit_code()), (Some(1_760_000_000.5), 2));
    is_explained(&stage, &launcher, &of("label", "b"), Verdict::Act, "paused", words).await;
    is_explained(&stage, &launcher, &of("label", "a"), Verdict::Fine, "would-launch", "q-main").await;
    let pools: Value = serde_json::from_str(&launcher.get("/pool-list").unwrap().1).unwrap();
    let of_p = pools.as_array().unwrap().iter().find(|pool| pool["provider"] == "p").unwrap();
    assert_eq!((&of_p["paused"], &of_p["paused_by"]["note"]), (&json!(true), &json!("update")));
    assert!(
        launcher.get("/metrics").unwrap().1.contains("nodepool_pool_paused_by_person{pool=\"main\",provider=\"p\"} 1")
    );

    stage.zk.delete("/nodepool/pauses/p", None).await.unwrap();
    stage.fulfilled(&waits).await;
    let both = async || {
        let events = launcher.get("/api/v1/history?provider=p").unwrap().1;
        (events.contains("pool-paused") && events.contains("pool-unpaused")).then_some(())
    };
    nodepool_testing::wait_for(SOON, "the history has begin and end of the pause", both).await;
}

#[tokio::test]
async fn a_tenant_that_has_all_it_may_have_waits_for_its_own_nodes() {
    let stage = Stage::new(zookeeper()).await;
    let mut configuration = stage.configuration(&[fake("p", &["a"], 5)]);
    configuration["tenant-resource-limits"] = json!([{"tenant-name": "tenant", "max-servers": 1}]);
    stage.write_config(&configuration.to_string());
    let launcher = stage.launcher().await;
    let first = stage.request(&["a"]).await;
    stage.fulfilled(&first).await;
    let second = stage.request(&["a"]).await;
    let words = "tenant tenant: it exceeds what remains of the tenant's limits: 1 instances needed, 0 there";
    let full = is_explained(&stage, &launcher, &second, Verdict::Wait, "tenant-full", words).await;
    assert!(full.ended_by.unwrap().contains("nodes of the tenant"));
    // The label is not short of anything: others get it.
    is_explained(&stage, &launcher, &of("label", "a"), Verdict::Fine, "would-launch", "p-main").await;
    stage.release(&first).await;
    is_explained(&stage, &launcher, &second, Verdict::Fine, "waits-for-requestor", "It has its nodes").await;
}

#[tokio::test]
async fn a_cloud_that_refuses_for_lack_of_quota_says_until_when_nothing_is_launched() {
    let stage = Stage::new(zookeeper()).await;
    stage.configure(&[fake("p", &["a"], 5)]);
    stage.script(&json!({"p": {"fail_create": {"message": "Quota exceeded for cores"}}}));
    let launcher = stage.launcher().await;
    let request = stage.request(&["a"]).await;
    let words = "for lack of quota; nothing is launched before 20";
    is_explained(&stage, &launcher, &request, Verdict::Wait, "quota-refused", words).await;
    let label = is_explained(&stage, &launcher, &of("label", "a"), Verdict::Wait, "behind-others", "p-main").await;
    assert!(label.facts.iter().any(|fact| fact.name == "oldest request" && fact.value == request), "{label:?}");
}

#[tokio::test]
async fn launches_that_fail_are_for_the_site_to_act_on_with_the_reason() {
    let stage = Stage::new(zookeeper()).await;
    stage.configure(&[fake("p", &["a"], 5), fake("q", &["b"], 5)]);
    stage.script(&json!({"p": {"fail_boot": {"message": "No valid host was found."}}, "q": {"fail_host_keys": true}}));
    let launcher = stage.launcher().await;
    let (no_host, no_keys) = (stage.request(&["a"]).await, stage.request(&["b"]).await);
    is_explained(&stage, &launcher, &no_host, Verdict::Act, "failed", "No valid host was found").await;
    is_explained(&stage, &launcher, &no_keys, Verdict::Act, "failed", "host key").await;
}

#[tokio::test]
async fn declined_by_all_gives_the_reason_of_each() {
    let stage = Stage::new(zookeeper()).await;
    stage.configure(&[fake("p", &["a"], 0), fake("q", &["a"], 1)]);
    let launcher = stage.launcher().await;
    let request = stage.request(&["a", "a"]).await;
    let failed = is_explained(&stage, &launcher, &request, Verdict::Change, "failed", "p-main: pool is disabled").await;
    assert!(failed.sentence.contains("q-main: it would exceed quota: the request alone"), "{}", failed.sentence);
    let codes = &stage.record(&format!("requests/{request}")).await["decline_codes"];
    let mut codes: Vec<&str> = codes.as_array().unwrap().iter().map(|code| code.as_str().unwrap()).collect();
    codes.sort_unstable();
    assert_eq!(codes, ["alone-too-large", "pool-disabled"]);
}

#[tokio::test]
async fn what_zuul_has_taken_is_served_and_its_node_says_what_it_does() {
    let stage = Stage::new(zookeeper()).await;
    stage.configure(&[fake("p", &["a"], 5)]);
    let launcher = stage.launcher().await;
    let request = stage.request(&["a"]).await;
    let node = stage.fulfilled(&request).await["nodes"][0].as_str().unwrap().to_owned();
    stage.put(&format!("nodes/{node}/lock/0123456789abcdef__lock__0000000009"), &Value::Null).await;
    is_explained(&stage, &launcher, &request, Verdict::Fine, "served", "has taken them").await;
    is_explained(&stage, &launcher, &node, Verdict::Fine, "taken", &request).await;
    let mut record = stage.record(&format!("nodes/{node}")).await;
    record["state"] = json!("in-use");
    stage.put(&format!("nodes/{node}"), &record).await;
    let runs = is_explained(&stage, &launcher, &node, Verdict::Fine, "in-use", "A job runs on it").await;
    assert!(runs.since.is_some());
    let label = is_explained(&stage, &launcher, &of("label", "a"), Verdict::Fine, "would-launch", "p-main").await;
    assert_eq!(fact(&label, "nodes in use"), "1");
}
