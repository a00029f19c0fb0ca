//! `fault-proxy UPSTREAM [PORT]`: a [`FaultProxy`] for scripts, which control it over HTTP.
//!
//! Prints `{"url": …, "control": …}` once it listens. The control URL understands `PUT /rules` (a JSON list of
//! [`Rule`]), `DELETE /rules`, `GET /calls`, `DELETE /calls` (count from zero), `PUT /down` and `DELETE /down`.

// A test's helper may stop: that is its way to fail.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::{net::Ipv4Addr, sync::Arc};

use axum::{
    Router,
    body::Bytes,
    extract::State,
    http::StatusCode,
    routing::{get, put},
};
use nodepool_testing::{FaultProxy, faults::Rule};
use tokio::net::TcpListener;

type Proxy = State<Arc<FaultProxy>>;

async fn set_rules(State(proxy): Proxy, body: Bytes) -> Result<(), (StatusCode, String)> {
    let rules: Vec<Rule> =
        serde_json::from_slice(&body).map_err(|error| (StatusCode::BAD_REQUEST, error.to_string()))?;
    proxy.replace(rules);
    Ok(())
}

async fn calls(State(proxy): Proxy) -> String {
    serde_json::to_string(&proxy.calls()).unwrap()
}

#[tokio::main]
async fn main() {
    let mut arguments = std::env::args().skip(1);
    let upstream = arguments.next().expect("usage: fault-proxy UPSTREAM [PORT]");
    let port = arguments.next().map_or(0, |port| port.parse().expect("a port"));
    let proxy = Arc::new(FaultProxy::start_at(&upstream, port).await);
    let control = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    println!(
        "{}",
        serde_json::json!({"url": proxy.url(), "control": format!("http://{}", control.local_addr().unwrap())})
    );
    let routes = Router::new()
        .route("/rules", put(set_rules).delete(async |State(proxy): Proxy| proxy.clear()))
        .route("/calls", get(calls).delete(async |State(proxy): Proxy| proxy.forget()))
        .route("/down", put(async |State(proxy): Proxy| proxy.down()).delete(async |State(proxy): Proxy| proxy.up()))
        .with_state(proxy);
    axum::serve(control, routes).await.unwrap();
}
