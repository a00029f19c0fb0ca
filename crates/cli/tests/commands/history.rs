//! `nodepool history`, and what `explain` says of what is gone, by launchers that are pages here. With real launchers:
//! `crates/launcher/tests/history.rs`.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    net::{TcpListener, TcpStream},
    sync::{Arc, Mutex},
};

use nodepool_testing::free_port;
use serde_json::{Value, json};

use crate::world::{World, nodepool, rows, stderr, stdout};

const START: f64 = 1_760_000_000.0;

/// Answers each request with a page; ends with the test's process. Returns its address, and what it was asked.
fn launcher(page: &Value) -> (String, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let (asked, body) = (Arc::new(Mutex::new(Vec::new())), page.to_string());
    let log = Arc::clone(&asked);
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            answer(stream, &body, &log);
        }
    });
    (url, asked)
}

fn answer(mut stream: TcpStream, body: &str, asked: &Mutex<Vec<String>>) {
    let mut lines = BufReader::new(stream.try_clone().unwrap()).lines().map_while(Result::ok);
    let first = lines.next().unwrap_or_default();
    asked.lock().unwrap().push(first.split(' ').nth(1).unwrap_or_default().to_owned());
    while lines.next().is_some_and(|line| !line.is_empty()) {}
    let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len());
    let _ = stream.write_all(format!("{head}{body}").as_bytes());
}

async fn register(world: &World, name: &str, url: &str) {
    let pool = json!({"hostname": format!("host-{name}"), "state": "running", "id": name, "name": "main", "provider_name": name,
        "supported_labels": ["noble"], "priority": 100, "paused": false, "web_url": url});
    world.zk.create(&format!("/nodepool/components/pool/{name}0000000000"), pool.to_string().as_bytes()).await.unwrap();
}

fn event(number: u32, launcher: &str, code: &str, provider: &str) -> Value {
    json!({"number": number, "launcher": launcher, "at": START + f64::from(number), "code": code, "text": format!("text {number}"),
        "request": "100-0000000001", "nodes": ["0000000001", "0000000002"], "provider": provider, "labels": ["noble"]})
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_happened_is_listed_by_what_all_launchers_know() {
    let world = World::start().await;
    let page = |events: &[Value]| json!({"events": events, "silent": []});
    let (one, asked) =
        launcher(&page(&[event(4, "host-p", "request-fulfilled", "p"), event(1, "host-p", "request-seen", "p")]));
    let (other, _) = launcher(&page(&[event(3, "host-q", "request-declined", "q")]));
    register(&world, "p", &one).await;
    register(&world, "q", &other).await;

    let list = world.nodepool(&["history", "100-0000000001"]).await;
    let found = rows(&list);
    assert_eq!(
        found.iter().map(|row| row[1]).collect::<Vec<_>>(),
        ["request-fulfilled", "request-declined", "request-seen"]
    );
    let nodes = "0000000001,0000000002";
    assert_eq!(found[0], ["2025-10-09 08:53:24 UTC", "request-fulfilled", "100-0000000001", nodes, "p", "text 4"]);
    assert_eq!(stderr(&list), "", "all have answered");
    assert_eq!(asked.lock().unwrap()[..], ["/api/v1/history?alone=true&limit=100&request=100-0000000001"]);

    let options =
        ["history", "noble", "--kind", "label", "--provider", "q", "--event", "request-declined,x", "--limit", "5"];
    let json = world.nodepool(&[&options[..], &["--since", "2h", "--format", "json"]].concat()).await;
    let all: Value = serde_json::from_str(stdout(&json)).unwrap();
    assert_eq!((all.as_array().unwrap().len(), &all[0]["launcher"]), (1, &json!("host-q")), "{all}");
    assert_eq!((&all[0]["label"], &all[0]["nodes"][0]), (&json!(["noble"]), &json!("0000000001")));
    let newest = asked.lock().unwrap().last().unwrap().clone();
    assert!(
        newest.contains("alone=true&limit=5&label=noble&provider=q&event=request-declined&event=x&since=17"),
        "{newest}"
    );
    let csv = world.nodepool(&["history", "--format", "csv", "--sort", "event", "--limit", "1"]).await;
    assert_eq!(stdout(&csv).lines().count(), 2, "{csv:?}");
    assert!(stdout(&csv).starts_with("time,event,request,nodes,provider,text\n"), "{csv:?}");
    // Of a name three things may be meant, and an event is there once.
    assert_eq!(rows(&world.nodepool(&["history", "noble"]).await).len(), 3);

    // Its record is gone, and launchers remember.
    let explained = world.nodepool(&["explain", "100-0000000001"]).await;
    assert_eq!(explained.status.code(), Some(0), "{explained:?}");
    assert!(stdout(&explained).contains("Its record is gone. text 4"), "{explained:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn launchers_that_do_not_answer_are_named_and_none_is_an_error() {
    let world = World::start().await;
    let none = world.nodepool(&["history"]).await;
    assert_eq!((none.status.code(), stdout(&none)), (Some(1), ""));
    assert!(stderr(&none).contains("no launcher that can be asked is registered in ZooKeeper"), "{none:?}");

    register(&world, "away", &format!("http://127.0.0.1:{}", free_port())).await;
    let silent = world.nodepool(&["history"]).await;
    assert_eq!((silent.status.code(), stdout(&silent)), (Some(1), ""));
    assert!(stderr(&silent).contains("no launcher answers: the launcher on host-away (away-main): "), "{silent:?}");
    // As many as there may be, of one host and with one pool.
    let twin = json!({"hostname": "host-away", "state": "running", "id": "twin", "name": "main", "provider_name": "away",
        "supported_labels": [], "priority": 100, "paused": false, "web_url": format!("http://127.0.0.2:{}", free_port())});
    world.zk.create("/nodepool/components/pool/twin0000000000", twin.to_string().as_bytes()).await.unwrap();
    let silent = world.nodepool(&["history"]).await;
    assert_eq!((silent.status.code(), stdout(&silent)), (Some(1), ""));
    let explained = world.nodepool(&["explain", "100-0000000009"]).await;
    assert_eq!(explained.status.code(), Some(2), "it may be known where nobody answers: {explained:?}");
    assert!(stdout(&explained).contains("The launcher on host-away could not be asked"), "{explained:?}");

    let (url, _) = launcher(&json!({"events": [], "silent": []}));
    register(&world, "p", &url).await;
    let empty = world.nodepool(&["history"]).await;
    assert_eq!(rows(&empty).len(), 0);
    assert!(
        stderr(&empty).contains("what only one launcher has seen is missing: the launcher on host-away"),
        "{empty:?}"
    );
}

#[test]
fn a_wrong_command_line_is_status_2() {
    for wrong in [
        &["history", "--since", "yesterday"][..],
        &["history", "--limit", "0"],
        &["history", "--kind", "label"],
        &["history", "x", "--kind", "pool"],
        &["history", "--sort", "size"],
    ] {
        assert_eq!(nodepool(wrong).status.code(), Some(2), "{wrong:?}");
    }
}
