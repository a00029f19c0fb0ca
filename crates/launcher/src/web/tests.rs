//! The server on a loopback port, asked by a client that knows no more HTTP than it must.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::atomic::{AtomicUsize, Ordering},
};

use chrono::Utc;
use futures::StreamExt as _;
use nodepool_common::{
    explain::LauncherView,
    model::{Entry, Node, NodeRequest, PoolComponent, Stat},
    overview::{Overview, Part},
    sys::clock::Clock,
};
use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::*;

/// A running server; ends with the test.
struct Running {
    address: SocketAddr,
    reads: Arc<AtomicUsize>,
    readiness: Arc<std::sync::Mutex<Readiness>>,
    shutdown: CancellationToken,
    task: tokio::task::JoinHandle<()>,
}

struct Answer {
    status: u16,
    headers: BTreeMap<String, String>,
    body: String,
}

impl Answer {
    fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", String::as_str)
    }
}

impl Running {
    async fn start() -> Self {
        let records = Arc::new(records());
        let reads = Arc::new(AtomicUsize::new(0));
        let readiness = Arc::new(std::sync::Mutex::new(Readiness { ready: true, remarks: Vec::new() }));
        let state = WebState {
            records: {
                let reads = Arc::clone(&reads);
                Arc::new(move |make| {
                    reads.fetch_add(1, Ordering::Relaxed);
                    make(&records)
                })
            },
            clock: Clock::system(),
            readiness: {
                let readiness = Arc::clone(&readiness);
                Arc::new(move || readiness.lock().unwrap().clone())
            },
            metrics: Arc::new(|| "nodepool_nodes 2\n".to_owned()),
            history: HistorySource {
                of_all: Arc::new(|_| Box::pin(std::future::ready(nodepool_common::history::Page::default()))),
                own: Arc::new(|_| Box::pin(std::future::ready(nodepool_common::history::Page::default()))),
                is_known: Arc::new(|| true),
            },
            pools: Arc::new(|| json!([{"provider": "rdo", "pool": "main", "paused": false}])),
            explain: Explain {
                explain: Arc::new(|_| Box::pin(std::future::ready(Vec::new()))),
                is_known: Arc::new(|| true),
                at_once: Arc::new(tokio::sync::Semaphore::new(1)),
                long_views: Arc::new(tokio::sync::Semaphore::new(1)),
                views: Arc::new(|_| Box::pin(std::future::ready(vec![LauncherView::default()]))),
            },
            overview: Source {
                overview: Arc::new(|| Box::pin(std::future::ready(Overview::default()))),
                part: Arc::new(|| Box::pin(std::future::ready(Part::default()))),
                nodes: Arc::new(|| r#"{"rows":[]}"#.to_owned()),
                requests: Arc::new(|| r#"{"rows":[]}"#.to_owned()),
                changes: Arc::new(|| futures::stream::pending().boxed()),
            },
        };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let shutdown = CancellationToken::new();
        let task = tokio::spawn(serve(listener, state, shutdown.clone()));
        Self { address, reads, readiness, shutdown, task }
    }

    async fn ask(&self, method: &str, path: &str, headers: &[(&str, &str)]) -> Answer {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        let mut request = format!("{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n");
        for (name, value) in headers {
            request.extend([name, ": ", value, "\r\n"]);
        }
        stream.write_all(format!("{request}\r\n").as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        let mut lines = head.lines();
        let status = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
        let headers = lines.map(|l| l.split_once(": ").unwrap()).map(|(k, v)| (k.to_lowercase(), v.to_owned()));
        Answer { status, headers: headers.collect(), body: body.to_owned() }
    }

    async fn get(&self, path: &str) -> Answer {
        self.ask("GET", path, &[]).await
    }

    async fn get_as(&self, path: &str, accept: &str) -> Answer {
        self.ask("GET", path, &[("Accept", accept)]).await
    }
}

fn entry<T>(record: T) -> Arc<Entry<T>> {
    Entry::unlocked(Ok(Arc::new(record)), Stat::default())
}

fn records() -> Records {
    let mut records = Records::default();
    for id in ["0000000001", "0000000002"] {
        let data = br#"{"state": "ready", "state_time": 0, "provider": "rdo", "type": ["a", "b"]}"#;
        records.nodes.insert(id.into(), entry(Node::read(id.into(), data).unwrap().0));
    }
    let data = br#"{"state": "requested", "node_types": ["a"]}"#;
    let (request, _) = NodeRequest::read("200-0000000001".into(), data).unwrap();
    records.requests.insert("200-0000000001".into(), entry(request));
    records.images.insert("img".into());
    let (pool, _) = PoolComponent::read("h1", br#"{"supported_labels": ["b", "a"]}"#).unwrap();
    records.pools.insert("h1".into(), Arc::new(pool));
    records
}

#[tokio::test]
async fn every_list_is_there_as_text_and_as_json() {
    let server = Running::start().await;
    for (path, header, rows) in [
        ("/node-list", "| ID         | Provider | Label |", 2),
        ("/request-list", "| Request ID     | Priority |", 1),
        ("/image-list", "| Build ID | Upload ID | Provider | Image |", 0),
        ("/dib-image-list", "| ID | Image | Builder | Formats | State | Age |", 0),
        ("/image-status", "| Image | Paused | Build Request | Build Request Age |", 1),
        ("/label-list", "| Label |", 2),
    ] {
        let text = server.get(path).await;
        assert_eq!((text.status, text.header("content-type")), (200, "text/plain; charset=UTF-8"), "{path}");
        assert!(text.body.lines().nth(1).unwrap().starts_with(header), "{path}: {}", text.body);
        let json = server.get_as(path, "application/json").await;
        assert_eq!((json.status, json.header("content-type")), (200, "application/json"), "{path}");
        let value: Value = serde_json::from_str(&json.body).unwrap();
        assert_eq!(value.as_array().unwrap().len(), rows, "{path}");
    }
}

#[tokio::test]
async fn the_answers_headers_are_upstreams() {
    let server = Running::start().await;
    let answer = server.get("/label-list").await;
    assert_eq!(answer.header("access-control-allow-origin"), "*");
    assert_eq!(answer.header("cache-control"), "max-age=1, public");
    let parse = |name| chrono::NaiveDateTime::parse_from_str(answer.header(name), "%a, %d %b %Y %H:%M:%S GMT").unwrap();
    assert_eq!((parse("expires") - parse("last-modified")).num_seconds(), 1);
    assert!(!answer.headers.contains_key("etag"));
}

#[tokio::test]
async fn json_comes_only_where_it_ranks_first() {
    let server = Running::start().await;
    for (accept, expected) in [
        ("*/*", "text/plain; charset=UTF-8"),
        ("text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8", "text/plain; charset=UTF-8"),
        ("application/json, text/plain, */*", "text/plain; charset=UTF-8"),
        ("application/json", "application/json"),
        ("application/json;q=0.9, text/*;q=0.8", "application/json"),
    ] {
        let answer = server.get_as("/node-list", accept).await;
        assert_eq!((answer.status, answer.header("content-type")), (200, expected), "{accept}");
    }
    let refused = server.get_as("/node-list", "application/xml").await;
    assert_eq!((refused.status, refused.header("content-type")), (406, "text/plain; charset=UTF-8"));
    assert!(refused.body.contains("application/xml") && refused.body.contains("application/json"), "{}", refused.body);
    assert!(!refused.headers.contains_key("access-control-allow-origin"));
}

#[tokio::test]
async fn fields_select_the_columns_of_text_only() {
    let server = Running::start().await;
    let text = server.get("/node-list?fields=state,id,nonsense").await;
    assert_eq!(text.body.lines().nth(1), Some("| ID         | State |"));
    assert_eq!(server.get("/node-list?fields=").await.body.lines().nth(1).unwrap().matches('|').count(), 22);
    assert_eq!(server.get("/label-list?fields=none").await.body, "++\n||\n++\n\n\n++");
    let json = server.get_as("/node-list?fields=id", "application/json").await;
    let value: Value = serde_json::from_str(&json.body).unwrap();
    assert_eq!(value[0].as_object().unwrap().len(), 21);
    assert_eq!(value[0]["label"], json!(["a", "b"]));
}

#[tokio::test]
async fn a_node_is_found_by_its_id_and_an_unknown_one_is_an_empty_list() {
    let server = Running::start().await;
    let one = server.get_as("/node-list?node_id=0000000002", "application/json").await;
    let value: Value = serde_json::from_str(&one.body).unwrap();
    assert_eq!(value.as_array().unwrap().len(), 1);
    assert_eq!(value[0]["id"], "0000000002");
    let none = server.get_as("/node-list?node_id=0000000009", "application/json").await;
    assert_eq!((none.status, &*none.body), (200, "[]"));
}

#[tokio::test]
async fn the_same_question_within_a_second_reads_the_records_once() {
    let server = Running::start().await;
    let first = server.get("/label-list").await;
    let second = server.get("/label-list").await;
    // A slow machine may take more than the second; then both must have been made anew.
    let remade = first.header("last-modified") != second.header("last-modified");
    assert_eq!(server.reads.load(Ordering::Relaxed), if remade { 2 } else { 1 });
    let before = server.reads.load(Ordering::Relaxed);
    server.get("/label-list?fields=label").await;
    assert_eq!(server.reads.load(Ordering::Relaxed), before + 1, "another query is another question");
    for query in ["x=1", "node_id=1", "fields="] {
        server.get(&format!("/label-list?{query}")).await;
    }
    // The table without a query may be too old by now.
    assert!(server.reads.load(Ordering::Relaxed) <= before + 2, "what does not count makes no other question");
}

#[tokio::test]
async fn what_the_client_has_already_is_not_sent_again() {
    let server = Running::start().await;
    let later = (Utc::now() + chrono::TimeDelta::hours(1)).format("%a, %d %b %Y %H:%M:%S GMT").to_string();
    let unchanged = server.ask("GET", "/label-list", &[("If-Modified-Since", &later)]).await;
    assert_eq!((unchanged.status, &*unchanged.body), (304, ""));
    assert!(!unchanged.header("last-modified").is_empty());
    for date in ["Thu, 01 Jan 2015 00:00:00 GMT", "yesterday"] {
        assert_eq!(server.ask("GET", "/label-list", &[("If-Modified-Since", date)]).await.status, 200, "{date}");
    }
}

#[tokio::test]
async fn paths_are_exact_and_errors_come_in_the_clients_format() {
    let server = Running::start().await;
    for path in ["//", "/node-list/", "/nodes", "/ready/", "/NODE-LIST"] {
        assert_eq!(server.get(path).await.status, 404, "{path}");
    }
    let text = server.get("/nodes").await;
    assert_eq!(text.header("content-type"), "text/plain; charset=UTF-8");
    assert_eq!(text.body, "404 Not Found\n\nThe resource could not be found.\n\n   ");
    let html = server.get_as("/nodes", "*/*").await;
    assert_eq!(html.header("content-type"), "text/html; charset=UTF-8");
    assert!(html.body.contains("<h1>404 Not Found</h1>"), "{}", html.body);
    let json = server.get_as("/nodes", "application/json").await;
    assert_eq!(json.header("content-type"), "application/json");
    assert_eq!(
        json.body,
        r#"{"message": "The resource could not be found.<br /><br />\n\n\n", "code": "404 Not Found", "title": "Not Found"}"#
    );
    assert!(!json.headers.contains_key("cache-control"), "errors are not for keeping");
}

#[tokio::test]
async fn any_method_is_as_good_as_get() {
    let server = Running::start().await;
    for method in ["POST", "PUT", "DELETE", "OPTIONS", "PATCH"] {
        let answer = server.ask(method, "/label-list", &[]).await;
        assert_eq!(answer.status, 200, "{method}");
        assert!(answer.body.contains("| a     |"), "{method}");
    }
    let head = server.ask("HEAD", "/label-list", &[]).await;
    assert_eq!((head.status, &*head.body), (200, ""));
}

#[tokio::test]
async fn ready_is_503_before_the_first_pass_and_ok_with_remarks_after() {
    let server = Running::start().await;
    *server.readiness.lock().unwrap() =
        Readiness { ready: false, remarks: vec!["Waiting for ZooKeeper <zk1:2281>.".to_owned()] };
    let waiting = server.get("/ready").await;
    assert_eq!(waiting.status, 503);
    assert!(waiting.body.starts_with("503 Service Unavailable\n") && !waiting.body.contains("OK"), "{}", waiting.body);
    assert!(waiting.body.contains("zk1:2281"), "{}", waiting.body);
    assert!(server.get_as("/ready", "*/*").await.body.contains("&lt;zk1:2281&gt;"));

    *server.readiness.lock().unwrap() = Readiness { ready: true, remarks: Vec::new() };
    assert_eq!(server.get("/ready").await.body, "OK");
    let json = server.get_as("/ready", "application/json").await;
    assert_eq!((&*json.body, json.header("content-type")), ("OK", "application/json"), "as upstream has it");

    server.readiness.lock().unwrap().remarks.push("nodepool.yaml:3:5: unknown key".to_owned());
    let remarked = server.get("/ready").await;
    assert_eq!((remarked.status, &*remarked.body), (200, "OK\nnodepool.yaml:3:5: unknown key"));
}

#[tokio::test]
async fn metrics_and_pools_have_one_format_whatever_is_accepted() {
    let server = Running::start().await;
    let accept = "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5";
    let metrics = server.get_as("/metrics", accept).await;
    assert_eq!(metrics.header("content-type"), "text/plain; version=0.0.4; charset=utf-8");
    assert_eq!((metrics.status, &*metrics.body), (200, "nodepool_nodes 2\n"));
    let pools = server.get("/pool-list").await;
    assert_eq!(pools.body, r#"[{"provider": "rdo", "pool": "main", "paused": false}]"#);
    assert_eq!(pools.header("content-type"), "application/json");
}

#[tokio::test]
async fn shutdown_ends_the_server_though_a_client_stays_connected() {
    let server = Running::start().await;
    let mut idle = TcpStream::connect(server.address).await.unwrap();
    // Half a request: the server is in the middle of reading it.
    idle.write_all(b"GET /ready HTTP/1.1\r\n").await.unwrap();
    server.shutdown.cancel();
    tokio::time::timeout(Duration::from_secs(30), server.task).await.unwrap().unwrap();
}

#[tokio::test]
async fn the_dashboard_is_at_the_root_under_a_strict_policy_and_nothing_else_is_ours() {
    let server = Running::start().await;
    let page = server.get("/?request=300-0000000123").await;
    assert_eq!((page.status, page.header("content-type")), (200, "text/html; charset=utf-8"));
    let policy = page.header("content-security-policy");
    assert!(policy.starts_with("default-src 'none'; script-src 'self'; style-src 'self'; "), "{policy}");
    assert!(!policy.contains("unsafe"), "{policy}");
    assert_eq!((page.header("x-content-type-options"), page.header("referrer-policy")), ("nosniff", "no-referrer"));
    let again = server.ask("GET", "/", &[("If-None-Match", page.header("etag"))]).await;
    assert_eq!((again.status, again.body.as_str(), again.header("etag")), (304, "", page.header("etag")));
    // All that the page names is there, by relative addresses.
    let named = page.body.split(['"']).filter(|text| text.starts_with("./") && text.len() > 2);
    let is_file = |text: &&str| [".js", ".css", ".svg"].iter().any(|end| text.ends_with(end));
    let named: Vec<&str> = named.filter(is_file).chain(["./pages.js", "./lists.js", "./dom.js"]).collect();
    assert!(named.len() >= 6, "{named:?}");
    for file in named {
        let file = server.get(file.trim_start_matches('.')).await;
        assert_eq!((file.status, file.header("x-content-type-options")), (200, "nosniff"));
        assert!(!file.header("etag").is_empty());
    }
    for other in ["/index.html", "/dashboard", "/dashboard/", "/favicon.ico", "/dashboard.js/", "//", "/dom.js.map"] {
        let refused = server.get(other).await;
        assert_eq!((refused.status, refused.header("content-type")), (404, "text/plain; charset=UTF-8"), "{other}");
    }
}

#[tokio::test]
async fn the_overview_and_the_lists_are_json() {
    let server = Running::start().await;
    for page in ["/api/v1/overview", "/api/v1/overview/part", "/api/v1/nodes", "/api/v1/requests"] {
        let answer = server.get(page).await;
        assert_eq!((answer.status, answer.header("content-type")), (200, "application/json"), "{page}");
        assert!(serde_json::from_str::<Value>(&answer.body).unwrap().is_object(), "{page}");
    }
    let whole: Value = serde_json::from_str(&server.get("/api/v1/overview").await.body).unwrap();
    assert!(whole["at"].is_f64() && whole["attention"].is_array(), "{whole}");
}
