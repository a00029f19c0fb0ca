//! The fault proxy before a server that tells what it has heard.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use axum::{Router, body::Body, extract::State, http::Request};
use http_body_util::BodyExt;
use nodepool_testing::{Fault, FaultProxy, Rule, wait_for};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

/// What the server has heard: bodies as far as they came.
type Heard = Arc<Mutex<Vec<Vec<u8>>>>;

async fn server() -> (String, Heard) {
    async fn hear(State(heard): State<Heard>, request: Request<Body>) -> &'static str {
        let mut body = request.into_body();
        let index = {
            let mut heard = heard.lock().unwrap();
            heard.push(Vec::new());
            heard.len() - 1
        };
        while let Some(Ok(frame)) = body.frame().await {
            heard.lock().unwrap()[index].extend(frame.into_data().unwrap());
        }
        "heard"
    }
    let heard = Heard::default();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/base", listener.local_addr().unwrap());
    let routes = Router::new().fallback(hear).with_state(heard.clone());
    tokio::spawn(async move { axum::serve(listener, routes).await });
    (url, heard)
}

async fn stage() -> (FaultProxy, Heard, reqwest::Client) {
    let (url, heard) = server().await;
    // reqwest asks for it though no TLS is spoken here; another test may have been faster.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let client = reqwest::Client::builder().no_proxy().pool_max_idle_per_host(0).build().unwrap();
    (FaultProxy::start(&url).await, heard, client)
}

const SOON: Duration = Duration::from_secs(30);

#[tokio::test]
async fn without_rules_it_passes_everything_on_and_counts() {
    let (proxy, heard, client) = stage().await;
    for id in ["7", "8"] {
        let answer = client.put(format!("{}/things/{id}?all=yes", proxy.url())).body("a body").send().await.unwrap();
        assert_eq!((answer.status().as_u16(), answer.text().await.unwrap().as_str()), (200, "heard"));
    }
    assert_eq!(*heard.lock().unwrap(), [b"a body", b"a body"]);
    let calls = proxy.calls();
    assert_eq!((calls.of("PUT /base/things/*"), calls.total(), calls.faults), (2, 2, 0));
    proxy.forget();
    assert_eq!(proxy.calls().total(), 0);
}

#[tokio::test]
async fn an_answer_that_is_ordered_comes_with_its_headers_and_the_server_hears_nothing() {
    let (proxy, heard, client) = stage().await;
    let headers = [("Retry-After".to_owned(), "3".to_owned())].into();
    proxy.set(
        Rule::new("GET", "/base/*", Fault::Answer { status: 429, headers, body: "slow down".to_owned() }).times(1),
    );
    let answer = client.get(format!("{}/x", proxy.url())).send().await.unwrap();
    assert_eq!((answer.status().as_u16(), answer.headers()["retry-after"].to_str().unwrap()), (429, "3"));
    assert_eq!(answer.text().await.unwrap(), "slow down");
    assert!(heard.lock().unwrap().is_empty());
    assert_eq!(client.get(format!("{}/x", proxy.url())).send().await.unwrap().status(), 200);
    assert_eq!(proxy.calls().calls["GET /base/x"], [("200".to_owned(), 1), ("429".to_owned(), 1)].into());
}

#[tokio::test]
async fn a_connection_is_cut_before_or_after_the_server_has_done_it() {
    let (proxy, heard, client) = stage().await;
    for (fault, times) in [(Fault::CutBefore, 0), (Fault::CutAfter, 1)] {
        proxy.replace(vec![Rule::new("*", "**", fault)]);
        assert!(client.post(proxy.url()).body("do it").send().await.is_err());
        assert_eq!(heard.lock().unwrap().len(), times);
    }
    assert_eq!(proxy.calls().calls["POST /base"], [("cut".to_owned(), 2)].into());
}

#[tokio::test]
async fn a_body_is_cut_after_its_first_bytes() {
    let (proxy, heard, client) = stage().await;
    proxy.set(Rule::new("PUT", "**", Fault::CutBody(1000)));
    assert!(client.put(proxy.url()).body(vec![7; 100_000]).send().await.is_err());
    let heard = || async { heard.lock().unwrap().first().is_some_and(|body| body.len() == 1000).then_some(()) };
    wait_for(SOON, "a thousand bytes heard", heard).await;
}

#[tokio::test]
async fn bodies_pass_as_they_come() {
    let (proxy, heard, _) = stage().await;
    let address = proxy.url().replace("http://", "").replace("/base", "");
    let mut stream = TcpStream::connect(&address).await.unwrap();
    stream.write_all(b"PUT /base HTTP/1.1\r\nHost: x\r\nContent-Length: 8\r\n\r\nhalf").await.unwrap();
    // The other half is not sent before the server has this one.
    let half = || async { (heard.lock().unwrap().first().map(Vec::as_slice) == Some(b"half")).then_some(()) };
    wait_for(SOON, "the first half heard", half).await;
    stream.write_all(b"full").await.unwrap();
    let mut answer = [0; 12];
    stream.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"HTTP/1.1 200");
}

#[tokio::test]
async fn a_hanging_service_says_nothing_and_one_that_is_down_refuses() {
    let (proxy, heard, client) = stage().await;
    proxy.set(Rule::new("GET", "/base/hang", Fault::Hang(3600)));
    let hanging = tokio::spawn(client.get(format!("{}/hang", proxy.url())).send());
    wait_for(SOON, "hanging", || async { (proxy.calls().faults == 1).then_some(()) }).await;
    assert!(!hanging.is_finished(), "it says nothing");
    hanging.abort();
    let counted = || async { (proxy.calls().of("GET /base/hang") == 1).then_some(()) };
    wait_for(SOON, "counted: who hung up", counted).await;
    let hanging = tokio::spawn(client.get(format!("{}/hang", proxy.url())).send());
    wait_for(SOON, "hanging", || async { (proxy.calls().faults == 2).then_some(()) }).await;
    proxy.down();
    assert!(hanging.await.unwrap().is_err(), "what hung is cut");
    assert!(client.get(proxy.url()).send().await.unwrap_err().is_connect());
    proxy.up();
    let up = || async { client.get(proxy.url()).send().await.ok() };
    wait_for(SOON, "up again", up).await;
    assert_eq!(heard.lock().unwrap().len(), 1, "what hung was never passed on");
}
