//! `/api/v1/overview` and `/api/v1/events` of real launchers: what the dashboard shows. Its pages are looked at in a browser
//! (`tests/dashboard`).

// Measures by the host's clock.
#![allow(clippy::disallowed_methods)]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a test fails that way

mod support;

use std::{
    io::{BufRead as _, BufReader, Write as _},
    net::{Ipv4Addr, TcpStream},
    time::{Duration, Instant},
};

use nodepool_common::{
    explain::{Explanation, Verdict},
    overview::Overview,
};
use serde_json::json;
use support::*;

fn overview(launcher: &Launcher) -> Overview {
    let (status, body) = launcher.get("/api/v1/overview").expect("an answer");
    assert_eq!(status, 200, "{body}");
    serde_json::from_str(&body).unwrap_or_else(|error| panic!("{error}: {body}"))
}

/// Waits for an overview of which something is so.
async fn has(stage: &Stage, launcher: &Launcher, what: &str, is_so: impl Fn(&Overview) -> bool) -> Overview {
    let mut last = overview(launcher);
    stage
        .wait(what, async || {
            last = overview(launcher);
            is_so(&last)
        })
        .await;
    last
}

#[tokio::test]
async fn what_waits_and_what_needs_somebody_is_said_in_the_words_of_explanations() {
    let stage = Stage::new(zookeeper()).await;
    let mut configuration = stage.configuration(&[fake("p", &["a"], 1), fake("q", &["b"], 5)]);
    configuration["labels"][1]["min-ready"] = json!(1);
    stage.write_config(&configuration.to_string());
    stage.script(&json!({"q": {"fail_create": {"status": 503, "message": "the API is down for maintenance"}}}));
    let launcher = stage.launcher().await;
    let served = stage.request(&["a"]).await;
    stage.fulfilled(&served).await;
    let accepted = stage.request(&["a"]).await;
    let behind = stage.request(&["a"]).await;
    let away = stage.request(&["b"]).await;
    let seen = has(&stage, &launcher, "all of it is in the overview", |seen| {
        let waits =
            |id: &String, code: &str| seen.oldest.iter().any(|request| request.id == *id && request.code == code);
        waits(&accepted, "no-room")
            && waits(&behind, "behind-others")
            && waits(&away, "provider-in-trouble")
            && seen.attention.iter().any(|of| of.kind == "provider")
    })
    .await;
    // The same as is explained of each.
    for request in &seen.oldest {
        let (_, body) = launcher.get(&format!("/api/v1/explain/{}", request.id)).unwrap();
        let explanation: Explanation = serde_json::from_str(&body).unwrap();
        // What is explained later may have gone on.
        if explanation.code == request.code {
            assert_eq!(
                (request.verdict, &request.sentence, request.before),
                (explanation.verdict, &explanation.sentence, explanation.before)
            );
        }
    }
    let provider = seen.attention.iter().find(|of| of.kind == "provider").unwrap();
    assert_eq!((provider.verdict, provider.ids[0].as_str()), (Verdict::Act, "q"));
    assert!(provider.sentence.contains("the API is down for maintenance"), "{provider:?}");
    let label = seen.labels.iter().find(|label| label.name == "a").unwrap();
    assert_eq!((label.waiting + label.served, label.in_use, label.pools), (2, 1, 1), "{label:?}");
    assert_eq!(seen.labels.iter().find(|label| label.name == "b").unwrap().min_ready, 1);
    let p = seen.providers.iter().find(|provider| provider.name == "p").unwrap();
    let limit = p.pools[0].limits.iter().find(|limit| limit.resource == "instances").unwrap();
    assert_eq!((limit.limit, limit.used), (Some(1.0), 1.0));
    assert!(p.quota.iter().any(|amount| amount.resource == "cores" && amount.limit.is_some()), "{p:?}");
    assert_eq!(seen.nodes.get("ready"), Some(&1), "{:?}", seen.nodes);
    // A request that has failed needs somebody, too.
    let unknown = stage.request(&["unknown"]).await;
    stage.wait_for_state(&unknown, "failed").await;
    let failed = |seen: &Overview| seen.attention.iter().any(|of| of.ids == [unknown.clone()] && of.code == "failed");
    has(&stage, &launcher, "the failed request is in the overview", failed).await;
}

#[tokio::test]
async fn each_launcher_shows_all_and_names_one_that_does_not_answer() {
    let stage = Stage::new(zookeeper()).await;
    stage.configure(&[fake("p", &["a"], 1)]);
    let [one, other] = [stage.launcher().await, stage.launcher().await];
    let served = stage.request(&["a"]).await;
    stage.fulfilled(&served).await;
    let waiting = stage.request(&["a"]).await;
    // One of them has accepted it, and both say so.
    for launcher in [&one, &other] {
        let is_known = |seen: &Overview| {
            seen.launchers.len() == 2 && seen.oldest.iter().any(|of| of.id == waiting && of.code == "no-room")
        };
        has(&stage, launcher, "both launchers' parts are in it", is_known).await;
    }
    one.signal(nix::sys::signal::Signal::SIGSTOP);
    let names_it = |seen: &Overview| seen.silent.iter().any(|silent| silent.why.contains("no answer within"));
    has(&stage, &other, "it names the one that stands still", names_it).await;
    // It answers by itself meanwhile.
    assert_eq!(overview(&other).requests.values().sum::<usize>(), 2);
}

#[tokio::test]
async fn events_come_at_once_and_at_each_change() {
    let stage = Stage::new(zookeeper()).await;
    stage.configure(&[fake("p", &["a"], 0)]);
    let launcher = stage.launcher().await;
    let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, launcher.port)).unwrap();
    stream.set_read_timeout(Some(SOON)).unwrap();
    write!(&stream, "GET /api/v1/events HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
    let mut lines = BufReader::new(&stream).lines().map(|line| line.expect("something comes"));
    let mut next = move || lines.find_map(|line| line.strip_prefix("data: ").map(str::to_owned)).unwrap();
    let first: Overview = serde_json::from_str(&next()).unwrap();
    assert_eq!((first.requests.len(), first.providers.len()), (0, 1), "{first:?}");
    tokio::time::sleep(Duration::from_millis(500)).await;
    let began = Instant::now();
    let record = json!({"state": "fulfilled", "state_time": now(), "node_types": ["a"], "nodes": []});
    stage.request_of(&record.to_string()).await;
    while serde_json::from_str::<Overview>(&next()).unwrap().requests.is_empty() {}
    println!("a change was sent after {:?}", began.elapsed());
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
}
