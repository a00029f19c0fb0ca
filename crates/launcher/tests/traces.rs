//! Spans of a whole launcher, as a collector gets them over HTTP.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a test fails that way

mod support;

use std::{
    net::{Ipv4Addr, SocketAddr},
    path::Path,
};

use nix::sys::signal::Signal;
use nodepool_testing::{SpanCollector, Spanned, free_port};
use serde_json::json;
use support::*;

/// Of Zuul's span for the request: 128 and 64 bits.
const TRACE: &str = "deadbeefdeadbeefdeadbeefdeadbeef";
const SPAN: &str = "feedfacefeedface";

impl Stage {
    /// Launchers export to this collector.
    fn export_to(&self, endpoint: &str) {
        self.set_env("OTEL_EXPORTER_OTLP_ENDPOINT", Path::new(endpoint));
    }

    /// A request by a Zuul whose tracing is on.
    async fn traced_request(&self, labels: &[&str], flags: u8) -> String {
        let (trace, span) = (u128::from_str_radix(TRACE, 16).unwrap(), u64::from_str_radix(SPAN, 16).unwrap());
        let record = json!({
            "requestor": "zuul", "requestor_data": "DATA", "tenant_name": "tenant", "provider": null,
            "state": "requested", "state_time": now(), "created_time": now(), "relative_priority": 0,
            "node_types": labels, "nodes": [], "reuse": true, "declined_by": [], "event_id": "0123456789abcdef",
        });
        let data = format!(r#"{{"span_info": {{"trace_id": {trace}, "span_id": {span}, "trace_flags": {flags}}}}}"#);
        self.request_of(&record.to_string().replace("\"DATA\"", &data)).await
    }
}

fn named<'a>(spans: &'a [Spanned], name: &str) -> Vec<&'a Spanned> {
    spans.iter().filter(|span| span.name == name).collect()
}

fn one<'a>(spans: &'a [Spanned], name: &str) -> &'a Spanned {
    match named(spans, name)[..] {
        [one] => one,
        _ => panic!("one {name}: {spans:#?}"),
    }
}

#[tokio::test]
async fn what_is_done_for_a_request_is_below_zuuls_span_and_the_end_of_its_node_too() {
    let stage = Stage::new(zookeeper()).await;
    let collector = SpanCollector::start().await;
    stage.configure(&[fake("p", &["a"], 5)]);
    stage.export_to(&collector.endpoint());
    stage.set_env("OTEL_EXPORTER_OTLP_HEADERS", Path::new("authorization=Bearer%20canary"));
    let mut launcher = stage.launcher().await;
    let request = stage.traced_request(&["a"], 1).await;
    let node = stage.fulfilled(&request).await["nodes"][0].as_str().unwrap().to_owned();
    stage.release(&request).await;
    stage.no_node_is_left().await;
    let untraced = stage.request(&["a"]).await;
    stage.fulfilled(&untraced).await;
    let left_out = stage.traced_request(&["a"], 0).await;
    stage.fulfilled(&left_out).await;
    // What has ended is sent before the end of the process.
    launcher.signal(Signal::SIGTERM);
    launcher.ended_soon().await;

    let all = collector.spans();
    let (of_zuul, others): (Vec<_>, Vec<_>) = all.iter().cloned().partition(|span| span.trace == TRACE);
    let names: std::collections::BTreeSet<_> = of_zuul.iter().map(|span| span.name.as_str()).collect();
    let known = ["DeleteNode", "HandOver", "LaunchAttempt", "LaunchNode", "NodeRequest", "Wait"];
    assert!(known.iter().all(|name| names.contains(name)), "{names:?}");
    let whole = one(&of_zuul, "NodeRequest");
    assert_eq!((whole.parent.as_str(), whole.service.as_str()), (SPAN, "nodepool-launcher"));
    for (name, value) in [
        ("nodepool.request", request.as_str()),
        ("nodepool.labels", "a"),
        ("nodepool.provider", "p"),
        ("nodepool.pool", "main"),
        ("nodepool.outcome", "fulfilled"),
        ("zuul.event", "0123456789abcdef"),
        ("zuul.tenant", "tenant"),
    ] {
        assert_eq!(whole.attributes.get(name).map(String::as_str), Some(value), "{name}");
    }
    let launch = one(&of_zuul, "LaunchNode");
    assert_eq!(launch.attributes["nodepool.node"], node);
    for (part, of) in
        [("Wait", whole), ("LaunchNode", whole), ("HandOver", whole), ("LaunchAttempt", launch), ("DeleteNode", launch)]
    {
        assert_eq!(one(&of_zuul, part).parent, of.id, "{part}");
    }
    let attempt = one(&of_zuul, "LaunchAttempt");
    assert!(
        whole.start <= launch.start
            && launch.start <= attempt.start
            && attempt.end <= launch.end
            && launch.end <= whole.end
    );
    assert!(one(&of_zuul, "DeleteNode").start >= whole.end);
    assert!(all.iter().all(|span| span.error.is_none() && span.end >= span.start), "{all:#?}");
    assert!(all.iter().all(|span| span.authorization.as_deref() == Some("Bearer canary")));
    assert!(!launcher.log().contains("canary"), "the header is in the log:\n{}", launcher.log());
    // The other one is a trace of its own, and what Zuul leaves out is in none.
    let requests: Vec<_> =
        named(&others, "NodeRequest").iter().map(|span| span.attributes["nodepool.request"].clone()).collect();
    assert_eq!(requests, [untraced]);
    assert_eq!(one(&others, "NodeRequest").parent, "");
}

#[tokio::test]
async fn an_attempt_that_fails_says_why_and_so_does_the_request() {
    let stage = Stage::new(zookeeper()).await;
    let collector = SpanCollector::start().await;
    let mut provider = fake("p", &["a"], 5);
    provider["launch-retries"] = json!(2);
    stage.configure(&[provider]);
    stage.script(&json!({"p": {"fail_boot": {"message": "No valid host was found."}}}));
    stage.export_to(&collector.endpoint());
    let mut launcher = stage.launcher().await;
    let request = stage.traced_request(&["a"], 1).await;
    stage.wait_for_state(&request, "failed").await;
    launcher.signal(Signal::SIGTERM);
    launcher.ended_soon().await;
    let spans = collector.spans();
    let attempts = named(&spans, "LaunchAttempt");
    let numbers: Vec<_> = attempts.iter().map(|span| span.attributes["nodepool.attempt"].as_str()).collect();
    assert_eq!(numbers, ["1", "2"]);
    for span in attempts.into_iter().chain([one(&spans, "LaunchNode"), one(&spans, "NodeRequest")]) {
        assert!(span.error.as_ref().is_some_and(|why| why.contains("No valid host was found")), "{span:?}");
    }
    assert_eq!(one(&spans, "NodeRequest").attributes["nodepool.outcome"], "declined");
}

#[tokio::test]
async fn a_collector_that_is_away_is_in_nobodys_way_and_gets_what_follows() {
    let stage = Stage::new(zookeeper()).await;
    stage.configure(&[fake("p", &["a"], 5)]);
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()));
    stage.export_to(&format!("http://{address}"));
    let launcher = stage.launcher().await;
    let request = stage.traced_request(&["a"], 1).await;
    stage.fulfilled(&request).await;
    launcher.has_logged(&["spans are lost", "the collector does not take them"]).await;
    let collector = SpanCollector::on(address).await;
    let second = stage.traced_request(&["a"], 1).await;
    stage.fulfilled(&second).await;
    let has_come =
        async || collector.spans().iter().any(|span| span.attributes.get("nodepool.request") == Some(&second));
    stage.wait("the collector has the second request", has_come).await;
    launcher.has_logged(&["The collector takes spans again"]).await;
}

#[tokio::test]
async fn what_of_the_environment_cannot_be_used_is_told_and_nothing_is_exported() {
    let stage = Stage::new(zookeeper()).await;
    stage.configure(&[fake("p", &["a"], 5)]);
    stage.export_to("http://127.0.0.1:1");
    stage.set_env("OTEL_EXPORTER_OTLP_PROTOCOL", Path::new("grpc"));
    let launcher = stage.launcher().await;
    launcher.has_logged(&["No spans are exported", "OTEL_EXPORTER_OTLP_PROTOCOL is grpc"]).await;
    let request = stage.traced_request(&["a"], 1).await;
    stage.fulfilled(&request).await;
}
