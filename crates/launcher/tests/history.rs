//! What a launcher says of requests and nodes whose records are gone: at `/api/v1/history` and by `explain`, also after a restart.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a test fails that way

mod support;

use serde_json::{Value, json};
use support::*;

/// A page.
fn page(launcher: &Launcher, query: &str) -> Value {
    let (status, body) = launcher.get(&format!("/api/v1/history{query}")).expect("an answer");
    assert_eq!(status, 200, "{body}");
    serde_json::from_str(&body).unwrap()
}

/// Its events, the newest first.
fn events(launcher: &Launcher, query: &str) -> Vec<Value> {
    page(launcher, query)["events"].as_array().unwrap().clone()
}

/// Their codes, the oldest first.
fn codes(events: &[Value]) -> Vec<&str> {
    events.iter().rev().map(|event| event["code"].as_str().unwrap()).collect()
}

/// Waits until something has happened, and is written.
async fn happened(stage: &Stage, launcher: &Launcher, query: &str, code: &str) -> Vec<Value> {
    stage.wait(&format!("{code} of {query}"), async || codes(&events(launcher, query)).contains(&code)).await;
    events(launcher, query)
}

fn explanation(launcher: &Launcher, id: &str) -> Value {
    let (status, body) = launcher.get(&format!("/api/v1/explain/{id}")).expect("an answer");
    assert_eq!(status, 200, "{body}");
    serde_json::from_str(&body).unwrap()
}

fn text(event: &Value) -> &str {
    event["text"].as_str().unwrap()
}

#[tokio::test]
async fn what_became_of_requests_that_are_gone_is_told_also_after_a_restart() {
    let stage = Stage::new(zookeeper()).await;
    stage.set_env("NODEPOOL_HISTORY_DIR", &stage.path("history"));
    stage.configure(&[fake("p", &["a"], 1)]);
    let mut launcher = stage.launcher().await;
    let served = stage.request(&["a"]).await;
    let node = stage.fulfilled(&served).await["nodes"][0].as_str().unwrap().to_owned();
    stage.release(&served).await;
    let declined = stage.request(&["a", "a"]).await;
    let reasons = stage.wait_for_state(&declined, "failed").await["decline_reasons"][0].as_str().unwrap().to_owned();
    stage.zk.delete(&format!("/nodepool/requests/{declined}"), None).await.unwrap();
    stage.no_node_is_left().await;
    let (of_served, of_declined) = (format!("?request={served}"), format!("?request={declined}"));
    happened(&stage, &launcher, &format!("?node={node}"), "node-deleted").await;
    happened(&stage, &launcher, &of_served, "request-gone").await;
    happened(&stage, &launcher, &of_declined, "request-gone").await;

    for restarted in [false, true] {
        if restarted {
            launcher.kill();
            launcher = stage.launcher().await;
            stage.wait("the file is open", async || !events(&launcher, "").is_empty()).await;
        }
        let found = events(&launcher, &of_served);
        let all = codes(&found);
        for code in ["request-seen", "request-accepted", "node-launching", "node-ready", "request-fulfilled"] {
            assert!(all.contains(&code), "{code}: {all:?}");
        }
        assert!(text(found.last().unwrap()).contains("zuul asks for tenant tenant for [a]"), "{found:?}");
        let found = events(&launcher, &of_declined);
        assert_eq!(codes(&found), ["request-seen", "request-declined", "request-failed", "request-gone"]);
        let reason = reasons.strip_prefix("p-main: ").unwrap();
        assert!(text(&found[2]).contains(reason), "in the words of the record: {found:?}");
        let found = events(&launcher, &format!("?node={node}"));
        assert_eq!(codes(&found).first(), Some(&"node-launching"));
        assert_eq!(events(&launcher, "?provider=p&limit=1").len(), 1);
        assert_eq!(events(&launcher, "?label=other").len(), 0);

        let of = explanation(&launcher, &served);
        assert_eq!((&of["code"], &of["verdict"]), (&json!("gone"), &json!("fine")), "{of}");
        assert!(of["sentence"].as_str().unwrap().contains(&node), "{of}");
        let of = explanation(&launcher, &declined);
        assert_eq!((&of["code"], &of["verdict"]), (&json!("failed"), &json!("change")), "{of}");
        assert!(of["sentence"].as_str().unwrap().contains(reason), "{of}");
        let of = explanation(&launcher, &node);
        assert!(of["sentence"].as_str().unwrap().contains("is deleted"), "{of}");
    }
    assert_eq!(launcher.get("/api/v1/history?pool=p").unwrap().0, 400);
    // As long as the killed one is registered, it may know.
    let gone = async || launcher.get("/api/v1/explain/100-4444444444").is_some_and(|(status, _)| status == 404);
    stage.wait("nothing is known of what never was", gone).await;
}

#[tokio::test]
async fn a_launch_that_fails_is_kept_with_the_clouds_error_without_a_directory_too() {
    let stage = Stage::new(zookeeper()).await;
    stage.configure(&[fake("p", &["a"], 5)]);
    stage.script(&json!({"p": {"fail_boot": {"message": "No valid host was found."}}}));
    let launcher = stage.launcher().await;
    let request = stage.request(&["a"]).await;
    let found = happened(&stage, &launcher, &format!("?request={request}"), "request-failed").await;
    let attempts: Vec<&Value> = found.iter().filter(|event| event["code"] == "launch-failed").collect();
    assert_eq!(attempts.len(), 3, "launch-retries: {found:?}");
    assert!(
        text(attempts[2]).contains("Attempt 1 of 3") && text(attempts[2]).contains("No valid host was found"),
        "{found:?}"
    );
    assert_eq!(codes(&events(&launcher, "?provider=p")).iter().filter(|code| **code == "node-failed").count(), 1);
}

#[tokio::test]
async fn each_launcher_answers_for_all_and_names_those_that_it_cannot_ask() {
    let stage = Stage::new(zookeeper()).await;
    // Long enough that one which stands still stays registered.
    stage.session_timeout.set(30.0);
    stage.configure(&[fake("p", &["a"], 1)]);
    let mut launchers = [stage.launcher().await, stage.launcher().await];
    let request = stage.request(&["a"]).await;
    stage.fulfilled(&request).await;
    stage.release(&request).await;
    stage.no_node_is_left().await;
    let (of_it, alone) = (format!("?request={request}"), format!("?request={request}&alone=true"));
    for launcher in &launchers {
        happened(&stage, launcher, &alone, "request-gone").await;
        happened(&stage, launcher, &of_it, "node-deleted").await;
    }
    let served = |launcher: &Launcher| codes(&events(launcher, &alone)).contains(&"request-fulfilled");
    if !served(&launchers[0]) {
        launchers.reverse();
    }
    let [one, other] = launchers;
    assert!(served(&one) && !served(&other), "one of them has served it");

    // The same of both, but for the time that an answer is kept.
    let found = events(&other, &of_it);
    let all = codes(&found);
    assert_eq!(all.first(), Some(&"request-seen"));
    for code in ["request-seen", "request-gone", "request-fulfilled", "node-ready"] {
        assert_eq!(all.iter().filter(|found| **found == code).count(), 1, "{code}, though both have seen it: {all:?}");
    }
    assert_eq!(found, events(&one, &of_it));
    // Page by page it is the same.
    let (mut pages, mut until) = (Vec::new(), String::new());
    loop {
        let page = page(&other, &format!("{of_it}&limit=2{until}"));
        pages.extend(page["events"].as_array().unwrap().clone());
        let Some(next) = page["next"].as_f64() else { break };
        until = format!("&until={next}");
    }
    // But what both have seen is there twice where a page ends between.
    let all_of =
        |events: &[Value]| codes(events).into_iter().map(str::to_owned).collect::<std::collections::BTreeSet<_>>();
    assert_eq!(all_of(&pages), all_of(&found));
    assert!((found.len()..=found.len() + 2).contains(&pages.len()), "{pages:?}");
    assert_eq!(codes(&events(&other, &format!("{of_it}&event=node-ready&event=request-fulfilled"))).len(), 2);
    let of = explanation(&other, &request);
    assert_eq!((&of["code"], of["sentence"].as_str().unwrap().contains("has fulfilled it")), (&json!("gone"), true));

    // A process that stands still answers nothing.
    one.signal(nix::sys::signal::Signal::SIGSTOP);
    let is_named = |page: &Value| {
        let silent = &page["silent"][0];
        silent["pools"] == json!(["p-main"]) && silent["why"].as_str().is_some_and(|why| why.contains("no answer"))
    };
    let names_it = async || is_named(&page(&other, &of_it));
    stage.wait("it says that it could not ask the first one", names_it).await;
    // Either of them may have deleted its node.
    let left = events(&other, &of_it);
    let of_request: Vec<_> = codes(&left).into_iter().filter(|code| !code.starts_with("node-delet")).collect();
    assert_eq!(of_request, ["request-seen", "request-gone"]);
    let of = explanation(&other, &request);
    assert!(is_named(&of) && of["sentence"].as_str().unwrap().contains("no launcher that answers"), "{of}");
    let unknown = explanation(&other, "100-4444444444");
    assert_eq!((&unknown["code"], is_named(&unknown)), (&json!("not-asked"), true), "{unknown}");
}
