//! The `nodepool` binary against a real ZooKeeper with TLS, the client's key in the operator's shape.
//!
//! Tables are checked here by their cells; that they equal upstream's to the character is for the unit tests of
//! `nodepool_common::status` and for `tests/upstream/compare`.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // tests

mod build_log;
mod explain;
mod filters;
mod formats;
mod history;
mod images;
mod pauses;
mod terminal;
mod timeout;
mod top;
mod world;

use std::{
    fs,
    io::{BufRead as _, BufReader},
    process::{Command, Stdio},
    sync::mpsc,
    time::Duration,
};

use nodepool_testing::free_port;
use serde_json::{Value, json};

use crate::world::{NODEPOOL, World, nodepool, rows, run, stderr, stdout};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_are_listed_held_and_deleted() {
    let world = World::start().await;
    let empty = world.nodepool(&["list"]).await;
    assert_eq!(rows(&empty).len(), 0);
    assert_eq!(stdout(&empty).lines().count(), 4, "header and rules");
    assert_eq!(stderr(&empty), "", "a cron job's mail");

    world.add_node("0000000001", &json!({"state": "ready", "type": ["a", "b"], "provider": "p", "later": 1})).await;
    world.add_node("0000000002", &json!({"state": "in-use"})).await;
    world.add_node("0000000003", &json!({"state": "flying"})).await;
    world.zk.create("/nodepool/nodes/0000000002/lock/x__lock__0000000000", b"").await.unwrap();
    let list = world.nodepool(&["list"]).await;
    let nodes = rows(&list);
    assert_eq!(nodes.len(), 2, "the node in an unknown state is left out");
    assert!(stderr(&list).contains("/nodepool/nodes/0000000003") && stderr(&list).contains("flying"));
    assert_eq!(nodes[0][..7], ["0000000001", "p", "a,b", "", "", "", "ready"]);
    assert_eq!([nodes[0][8], nodes[1][8]], ["unlocked", "locked"]);
    assert_eq!(rows(&world.nodepool(&["list", "--detail"]).await)[0].len(), 21);
    assert!(world.record("/nodepool/nodes/0000000001/lock").await.is_none(), "looking leaves nothing behind");

    let held = world.nodepool(&["hold", "0000000001"]).await;
    assert_eq!(rows(&held)[0][6..], ["hold", rows(&held)[0][7], "unlocked"]);
    let deleted = world.nodepool(&["delete", "0000000001"]).await;
    assert_eq!(rows(&deleted).len(), 1);
    assert_eq!(rows(&deleted)[0][6], "deleting");
    let record = world.record("/nodepool/nodes/0000000001").await.unwrap();
    assert_eq!((&record["state"], &record["later"]), (&json!("deleting"), &json!(1)), "unknown keys stay");

    let locked = world.nodepool(&["delete", "0000000002"]).await;
    assert_eq!((locked.status.code(), stdout(&locked)), (Some(1), ""));
    assert!(stderr(&locked).contains("/nodepool/nodes/0000000002"), "{}", stderr(&locked));
    for command in [&["delete", "0000000009"][..], &["hold", "0000000009"], &["delete", "--now", "0000000009"]] {
        let missing = world.nodepool(command).await;
        assert_eq!((missing.status.code(), stdout(&missing)), (Some(0), "Node id 0000000009 not found\n"));
    }
    assert!(world.record("/nodepool/nodes/0000000009").await.is_none(), "a missing node is not created");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_is_deleted_now_through_its_provider() {
    let world = World::start().await;
    world.add_node("0000000001", &json!({"state": "ready", "provider": "fake-cloud", "external_id": "s1"})).await;
    world.add_node("0000000002", &json!({"state": "ready", "provider": "elsewhere", "external_id": "s2"})).await;
    let deleted = world.nodepool(&["delete", "--now", "0000000001"]).await;
    assert_eq!(rows(&deleted).len(), 0);
    assert!(world.record("/nodepool/nodes/0000000001").await.is_none());
    let foreign = world.nodepool(&["delete", "--now", "0000000002"]).await;
    assert_eq!(
        (foreign.status.code(), stdout(&foreign)),
        (Some(0), "Provider elsewhere for node 0000000002 not defined on this launcher\n")
    );
    assert_eq!(world.record("/nodepool/nodes/0000000002").await.unwrap()["state"], "ready");
}

/// Three servers are in the cloud: of a node on record, of a node that is gone, of somebody else.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leaks_are_listed_and_stay_where_they_are() {
    let world = World::start().await;
    world.add_node("0000000001", &json!({"state": "ready", "provider": "fake-cloud", "external_id": "s1"})).await;
    let server = |id: &str, provider: &str, node: &str| {
        let tags = json!({"nodepool_provider_name": provider, "nodepool_node_id": node});
        json!({"document": {"id": id, "metadata": tags}, "boots_at": 0.0, "volume_size": null})
    };
    let directory = world.server.directory();
    let state = directory.join("fake-cloud.json");
    let servers = json!({"servers": {"s1": server("s1", "fake-cloud", "0000000001"), "s2": server("s2", "fake-cloud", "0000000002"),
        "s3": server("s3", "their-cloud", "0000000003")}, "images": {}});
    fs::write(&state, servers.to_string()).unwrap();
    let script = directory.join("script.json");
    fs::write(&script, json!({"*": {"state_dir": directory, "down_ports": 0}}).to_string()).unwrap();
    let mut command = Command::new(NODEPOOL);
    command.arg("-c").arg(world.config()).arg("leaks").env("NODEPOOL_FAKE_CLOUD_SCRIPT", script);
    let leaks = tokio::task::spawn_blocking(move || run(command, "")).await.unwrap();
    assert_eq!(rows(&leaks), [["fake-cloud", "instances", "s2", "there is no node 0000000002", ""]]);
    assert_eq!(fs::read_to_string(&state).unwrap(), servers.to_string(), "nothing was removed");
    let unknown = world.nodepool(&["leaks", "--provider", "fake"]).await;
    assert_eq!(unknown.status.code(), Some(1));
    assert!(stderr(&unknown).contains("no provider fake in the configuration; it has: fake-cloud"), "{unknown:?}");
}

/// `leaks --remove` asks no cloud; what it shows is what it allows.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_held_back_is_listed_and_allowed_once() {
    let world = World::start().await;
    let nothing = world.nodepool(&["leaks", "--remove"]).await;
    assert_eq!((nothing.status.code(), stdout(&nothing)), (Some(0), "Nothing is held back.\n"));
    let item = |kind: &str, id: &str, allowed: bool| json!({"kind": kind, "id": id, "why": "it has no record", "since": 1_700_000_000, "allowed": allowed});
    let held =
        |items: &[Value]| json!({"host": "host-1", "why": "w", "since": 1_700_000_000, "found": 5, "items": items});
    let (fake, gone) = ("/nodepool/leaks/provider/fake-cloud", "/nodepool/leaks/provider/gone%2Fcloud");
    let builder = "/nodepool/leaks/builder/b1";
    for (path, items) in [
        (fake, vec![item("instances", "s1", true), item("instances", "s2", false)]),
        (gone, vec![item("images", "i1", false)]),
        (builder, vec![item("files", "jammy-1", false)]),
    ] {
        world.zk.create(path, held(&items).to_string().as_bytes()).await.unwrap();
    }
    let since = "held back since 2023-11-14 22:13:20 UTC";
    let listed = world.nodepool(&["leaks"]).await;
    let expected = [
        ["fake-cloud", "instances", "s1", "it has no record", "allowed"],
        ["fake-cloud", "instances", "s2", "it has no record", since],
        ["gone/cloud", "images", "i1", "it has no record", since],
        ["images-dir of host-1", "files", "jammy-1", "it has no record", since],
    ];
    let found: Vec<_> = rows(&listed).into_iter().filter(|row| row[1] != "ports").collect();
    assert_eq!(found, expected);
    let said = stderr(&listed);
    assert!(
        said.contains("fake-cloud holds back 1 instances (and 3 more, which are listed once these are gone) since"),
        "{said}"
    );
    for path in [fake, gone, builder] {
        assert_eq!(world.zk.get(path).await.unwrap().unwrap().1.version, 0, "looking changes nothing");
    }

    let full = fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let mut command = Command::new(NODEPOOL);
    command.arg("-c").arg(world.config()).args(["leaks", "--remove"]).stdout(full);
    let unseen = tokio::task::spawn_blocking(move || command.output()).await.unwrap().unwrap();
    assert_eq!(unseen.status.code(), Some(1), "{unseen:?}");
    for path in [fake, gone, builder] {
        assert_eq!(world.zk.get(path).await.unwrap().unwrap().1.version, 0, "what nobody has seen is not allowed");
    }

    let one = world.nodepool(&["leaks", "--remove", "--provider", "fake-cloud"]).await;
    assert_eq!(rows(&one), [["fake-cloud", "instances", "s2", "it has no record", since]]);
    assert!(stderr(&one).contains("fake-cloud: 1 instances (and 3 more"), "{one:?}");
    let allowed = world.record(fake).await.unwrap();
    assert_eq!(allowed["items"], json!([item("instances", "s1", true), item("instances", "s2", true)]));
    assert_eq!((allowed["found"].clone(), allowed["why"].clone()), (json!(5), json!("w")));
    assert_eq!(world.record(gone).await.unwrap(), held(&[item("images", "i1", false)]), "only the one that was named");

    let all = world.nodepool(&["leaks", "--remove"]).await;
    let places: Vec<_> = rows(&all).into_iter().map(|row| row[0].to_owned()).collect();
    assert_eq!(places, ["gone/cloud", "images-dir of host-1"]);
    for path in [gone, builder] {
        assert_eq!(world.record(path).await.unwrap()["items"][0]["allowed"], true);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_providers_records_are_shown_and_erased_after_a_yes() {
    let world = World::start().await;
    world.add_node("0000000001", &json!({"state": "ready", "provider": "p", "external_id": "s1"})).await;
    world.add_node("0000000002", &json!({"state": "building", "provider": "p"})).await;
    world.add_node("0000000003", &json!({"state": "ready", "provider": "q"})).await;
    let build = "/nodepool/images/jammy/builds/c0ffee";
    world.zk.create(build, br#"{"state": "ready"}"#).await.unwrap();
    for upload in ["p/images/0000000002", "p/images/0000000001", "q/images/0000000001"] {
        world.zk.create(&format!("{build}/providers/{upload}"), br#"{"state": "ready"}"#).await.unwrap();
    }
    let info = world.nodepool(&["info", "p"]).await;
    assert_eq!(
        stdout(&info),
        "\
ZooKeeper data for provider p

Image data:
+------------+----------+-----------------------+
| Image Name | Build ID | Upload IDs            |
+------------+----------+-----------------------+
| jammy      | c0ffee   | 0000000001,0000000002 |
+------------+----------+-----------------------+

Nodes:
+------------+-----------+
| ID         | Server ID |
+------------+-----------+
| 0000000001 | s1        |
| 0000000002 | None      |
+------------+-----------+
"
    );
    let prompt = "\nWARNING! This action is not reversible!\nErase ZooKeeper data for provider p? [N/y] ";
    for answer in ["", "\n", "n\n", "yes\n"] {
        let refused = world.nodepool_answered(&["erase", "p"], answer).await;
        assert_eq!(stdout(&refused), format!("{prompt}Aborting. No data erased.\n"), "{answer:?}");
    }
    assert!(world.record("/nodepool/nodes/0000000001").await.is_some());
    let erased = world.nodepool_answered(&["erase", "p"], "Y\n").await;
    assert_eq!(stdout(&erased), format!("{prompt}Erasing build data for p...\nErasing node data for p...\n"));
    assert_eq!(world.zk.children("/nodepool/nodes").await.unwrap(), ["0000000003"]);
    assert_eq!(world.zk.children(&format!("{build}/providers")).await.unwrap(), ["q"]);
    assert_eq!(world.nodepool(&["erase", "--force", "q"]).await.status.code(), Some(0));
    assert_eq!(world.zk.children("/nodepool/nodes").await.unwrap(), [""; 0]);
}

#[test]
fn without_a_command_the_help_is_on_stdout_and_the_status_is_1() {
    let help = nodepool(&[]);
    assert_eq!(help.status.code(), Some(1));
    for command in
        ["list", "request-list", "delete", "hold", "info", "erase", "config-validate", "image-list", "alien-image-list"]
    {
        assert!(stdout(&help).lines().any(|line| line.trim_start().starts_with(command)), "{command}");
    }
    assert_eq!(nodepool(&["nonsense"]).status.code(), Some(2));
    let version = nodepool(&["--version"]);
    assert_eq!(version.status.code(), Some(0));
    assert!(stdout(&version).starts_with("Nodepool version: "));
}

#[test]
fn config_validate_works_in_an_empty_environment_and_names_the_place_of_each_error() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("nodepool.yaml");
    let validate = |text: &str| {
        fs::write(&file, text).unwrap();
        nodepool(&["-c", file.to_str().unwrap(), "config-validate"])
    };
    let valid = validate("{}\n");
    assert_eq!((valid.status.code(), stdout(&valid)), (Some(0), ""));
    let said = format!(" INFO nodepool.cmd.config_validator: validating {}\n", file.display());
    assert_eq!(stderr(&valid).split_at("2026-01-01 00:00:00,000".len()).1, said);

    let invalid = validate("labels:\n  - name: a\nlabelz: []\nmax-hold-age: soon\n");
    assert_eq!((invalid.status.code(), stdout(&invalid)), (Some(1), ""));
    let errors: Vec<_> = stderr(&invalid).lines().filter(|line| line.contains(" ERROR ")).collect();
    assert_eq!(errors.len(), 2, "{errors:?}");
    assert!(errors[0].contains(&format!("nodepool.cmd.config_validator: {}:3:1: ", file.display())), "{errors:?}");
    assert!(errors[1].contains(&format!("{}:4:", file.display())), "{errors:?}");

    let both = validate("max-hold-age: soon\nlabels:\n  - name: 'a '\nwebapp: {}\nwebapp: {}\n");
    assert_eq!((both.status.code(), stdout(&both)), (Some(1), ""));
    let levels: Vec<_> = stderr(&both).lines().filter_map(|line| line.split(' ').nth(2)).collect();
    assert_eq!(levels, ["INFO", "WARNING", "WARNING", "ERROR"], "the last line is an error: {}", stderr(&both));
    assert!(stderr(&both).find(":3:").is_some_and(|label| label < stderr(&both).find(":5:1: ").unwrap()));

    let missing = nodepool(&["-c", "/nonexistent/nodepool.yaml", "config-validate"]);
    assert_eq!(missing.status.code(), Some(1));
    assert!(stderr(&missing).contains("/nonexistent/nodepool.yaml"), "{}", stderr(&missing));
}

#[test]
fn a_configuration_without_zookeeper_is_refused_with_a_way_out() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("nodepool.yaml");
    fs::write(&file, "{}\n").unwrap();
    let refused = nodepool(&["-c", file.to_str().unwrap(), "list"]);
    assert_eq!((refused.status.code(), stdout(&refused)), (Some(1), ""));
    assert!(stderr(&refused).contains("zookeeper-servers"), "{}", stderr(&refused));
}

#[test]
fn an_unreachable_zookeeper_is_waited_for_and_named() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("nodepool.yaml");
    let port = free_port();
    fs::write(&file, json!({"zookeeper-servers": [{"host": "127.0.0.1", "port": port}]}).to_string()).unwrap();
    let mut command = Command::new(NODEPOOL);
    command.arg("-c").arg(&file).arg("list").stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let (sender, received) = mpsc::channel();
    std::thread::spawn(move || lines.map_while(Result::ok).try_for_each(|line| sender.send(line)));
    let named = received.recv_timeout(Duration::from_secs(20));
    let waits = child.try_wait().unwrap().is_none();
    child.kill().unwrap();
    child.wait().unwrap();
    let line = named.expect("a warning within 20 s");
    assert!(line.contains("WARNING") && line.contains(&format!("127.0.0.1:{port}")), "{line}");
    assert!(waits, "it gave up");
}
