//! A ZooKeeper that is not there.

use std::{
    fs,
    io::{BufRead as _, BufReader},
    net::TcpListener,
    process::{Child, Command, Stdio},
    sync::mpsc,
    time::Duration,
};

use nodepool_common::sys::host;
use nodepool_testing::{ZooKeeperServer, free_port};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::time::Instant;

use crate::world::{NODEPOOL, World, run, stderr};

/// Much longer than any of these commands takes, and shorter than for ever.
const SOON: Duration = Duration::from_secs(30);

fn configured(servers: &Value, tls: Option<&Value>) -> (TempDir, Command) {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("nodepool.yaml");
    let mut config = json!({"zookeeper-servers": servers});
    if let Some(tls) = tls {
        config["zookeeper-tls"] = tls.clone();
    }
    fs::write(&file, config.to_string()).unwrap();
    let mut command = Command::new(NODEPOOL);
    command.arg("-c").arg(&file);
    (dir, command)
}

fn ends_with(mut command: Command, named: &[&str]) {
    let begun = Instant::now();
    // Long enough for a whole handshake, on a busy machine too.
    command.args(["--timeout", "6", "list"]);
    let ended = run(command, "");
    let took = begun.elapsed();
    assert_eq!((ended.status.code(), ended.stdout.len()), (Some(1), 0), "{ended:?}");
    let said = stderr(&ended);
    let last = said.lines().last().unwrap_or_default();
    assert!(last.starts_with("nodepool: error: no connection to ZooKeeper within 6s: "), "{said}");
    for name in named {
        assert!(last.contains(name), "{name}: {said}");
    }
    assert!(took >= Duration::from_secs(6) && took < SOON, "{took:?}");
}

#[test]
fn a_server_that_refuses_is_named() {
    let (one, other) = (free_port(), free_port());
    let servers = json!([{"host": "127.0.0.1", "port": one}, {"host": "127.0.0.1", "port": other}]);
    let (_dir, command) = configured(&servers, None);
    ends_with(command, &[&format!("127.0.0.1:{one}: "), &format!("127.0.0.1:{other}: "), "refused"]);
}

#[test]
fn a_server_that_does_not_answer_is_named() {
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = silent.local_addr().unwrap().port();
    let (_dir, command) = configured(&json!([{"host": "127.0.0.1", "port": port}]), None);
    ends_with(command, &[&format!("127.0.0.1:{port}: "), "answer"]);
}

#[test]
fn a_server_whose_certificate_is_anothers_is_named() {
    let (server, other) = (ZooKeeperServer::start_tls(), ZooKeeperServer::start_tls());
    let tls = json!({"cert": server.tls_file("client.pem"), "key": server.tls_file("client.key"), "ca": other.tls_file("ca.pem")});
    let (_dir, command) = configured(&json!([{"host": "127.0.0.1", "port": server.tls_port()}]), Some(&tls));
    ends_with(command, &["certificate is not signed by the authority in zookeeper-tls ca"]);
}

/// The log is in a file, and so says nothing.
#[test]
fn a_command_that_waits_without_a_word_says_what_for() {
    let port = free_port();
    let (dir, mut command) = configured(&json!([{"host": "127.0.0.1", "port": port}]), None);
    let (log, file) = (dir.path().join("log.yaml"), dir.path().join("log"));
    let logging = json!({
        "version": 1,
        "handlers": {"file": {"class": "logging.FileHandler", "filename": file}},
        "root": {"handlers": ["file"], "level": "INFO"},
    });
    fs::write(&log, logging.to_string()).unwrap();
    command.arg("-l").arg(&log).arg("list").stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let line = first_line(&mut child);
    let waits = child.try_wait().unwrap().is_none();
    child.kill().unwrap();
    child.wait().unwrap();
    let line = line.expect("a line within 30 s");
    assert!(line.starts_with("nodepool: waiting for ZooKeeper"), "{line}");
    assert!(line.contains(&format!("127.0.0.1:{port}: ")) && line.contains("refused"), "{line}");
    assert!(waits, "it gave up");
    assert!(fs::read_to_string(&file).unwrap().contains("Cannot connect to ZooKeeper"));
}

fn first_line(child: &mut Child) -> Option<String> {
    let lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let (sender, received) = mpsc::channel();
    std::thread::spawn(move || lines.map_while(Result::ok).try_for_each(|line| sender.send(line)));
    received.recv_timeout(SOON).ok()
}

/// Also once it has begun: here while it follows a build's log.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_that_is_lost_and_does_not_come_back_ends_a_command() {
    let mut world = World::start().await;
    let build = json!({"state": "building", "builder": host::fqdn()}).to_string();
    world.zk.create("/nodepool/images/jammy/builds/c0ffee", build.as_bytes()).await.unwrap();
    let logs = world.server.directory().join("builds");
    fs::create_dir_all(&logs).unwrap();
    fs::write(logs.join("jammy-c0ffee.log"), "begun\n").unwrap();
    // Long enough for the first connection, on a busy machine too.
    let mut command = Command::new(NODEPOOL);
    command.arg("-c").arg(world.config()).args(["build-log", "-f", "jammy", "--timeout", "8"]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
    assert_eq!(line, "begun\n");
    world.server.stop();
    let ended = tokio::task::spawn_blocking(move || child.wait_with_output()).await.unwrap().unwrap();
    assert_eq!(ended.status.code(), Some(1), "{ended:?}");
    assert!(stderr(&ended).contains("no connection to ZooKeeper within 8s: 127.0.0.1:"), "{ended:?}");
}
