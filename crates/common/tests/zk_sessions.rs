//! Sessions: TLS, expiry, restarts, dead servers; components and elections across them. Each test has its own server.

// Measures by the host's clock.
#![allow(clippy::disallowed_methods)]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a test fails that way

mod zk_common;

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use nodepool_common::{
    config,
    model::{NodeId, PoolComponent},
    sys::{Ambient, shutdown::Shutdown},
    zk::{ZkError, ZooKeeper},
};
use nodepool_testing::{LossyProxy, ZooKeeperServer, free_port, wait_for};
use serde_json::Value;
use tokio_util::sync::CancellationToken;
use zk_common::*;

/// Tests wait for its end, and it has to outlive a moment in which the machine does something else.
const SHORT: Duration = Duration::from_secs(5);

fn short(server: &ZooKeeperServer) -> config::ZooKeeper {
    config::ZooKeeper { timeout: SHORT, ..config(server, "") }
}

fn tls(server: &ZooKeeperServer, host: &str) -> config::ZooKeeper {
    config::ZooKeeper {
        servers: vec![config::ZooKeeperServer { host: host.to_owned(), port: server.tls_port(), chroot: None }],
        // Also how long an operation waits for a connection that never comes.
        timeout: Duration::from_secs(8),
        tls: Some(config::ZooKeeperTls {
            cert: server.tls_file("client.pem"),
            key: server.tls_file("client-operator.key"),
            ca: server.tls_file("ca.pem"),
            verify_hostname: false,
        }),
    }
}

fn pool(id: &str) -> PoolComponent {
    let (pool, _) = PoolComponent::read("host1", br#"{"state": "running"}"#).unwrap();
    PoolComponent { id: Some(id.into()), name: Some("main".into()), provider_name: Some("p".into()), ..pool }
}

#[tokio::test]
async fn the_operators_key_and_a_foreign_host_name_connect_and_a_strict_client_says_why_it_does_not() {
    let log = Log::install();
    let server = ZooKeeperServer::start_tls();
    let config = tls(&server, "127.0.0.1");
    let zk = connect(&config);
    tokio::time::timeout(SOON, zk.connected()).await.unwrap();
    zk.create("/a/b", b"x").await.unwrap();
    assert_eq!(zk.get("/a/b").await.unwrap().unwrap().0, b"x");
    tokio::time::timeout(SOON, zk.cache().until_ready()).await.unwrap();
    zk.close().await;

    // Other tests log too: the server's address tells ours.
    let said = |port: u16, pattern: &str| {
        let (log, address, pattern) = (log.clone(), format!("127.0.0.1:{port}: "), pattern.to_owned());
        move || {
            let line = log.lines(&address).into_iter().find(|line| line.contains(&pattern));
            async move { line }
        }
    };

    let mut strict = config.clone();
    strict.tls.as_mut().unwrap().verify_hostname = true;
    let zk = connect(&strict);
    let line = wait_for(SOON, "the foreign name is named", said(server.tls_port(), "server.zookeeper.invalid")).await;
    assert!(line.contains("verify-hostname") && line.contains("WARN"), "{line}");
    let error = tokio::time::timeout(SOON, zk.get("/a")).await.unwrap().unwrap_err();
    assert!(matches!(error, ZkError::ConnectionLost { .. }), "{error}");
    zk.close().await;

    // Another authority: made by another server.
    let other = ZooKeeperServer::start_tls();
    let mut foreign = config.clone();
    foreign.tls.as_mut().unwrap().ca = other.tls_file("ca.pem");
    let zk = connect(&foreign);
    wait_for(SOON, "the wrong authority is named", said(server.tls_port(), "not signed by the authority")).await;
    zk.close().await;

    // Our own certificate is one that the server does not know.
    let mut unknown = config.clone();
    let files = unknown.tls.as_mut().unwrap();
    (files.cert, files.key) = (other.tls_file("client.pem"), other.tls_file("client.key"));
    let zk = connect(&unknown);
    wait_for(SOON, "the refusal is told", said(server.tls_port(), "refused our certificate")).await;
    zk.close().await;

    // A TLS client at the plain port.
    let mut wrong_port = config.clone();
    wrong_port.servers[0].port = server.port();
    let zk = connect(&wrong_port);
    wait_for(SOON, "the port is doubted", said(server.port(), "is this its TLS port")).await;
    zk.close().await;
}

#[tokio::test]
async fn renewed_certificates_are_used_without_a_restart() {
    let log = Log::install();
    let (server, other) = (ZooKeeperServer::start_tls(), ZooKeeperServer::start_tls());
    let dir = tempfile::tempdir().unwrap();
    let mut config = tls(&server, "localhost");
    let files = config.tls.as_mut().unwrap();
    (files.cert, files.key) = (dir.path().join("cert.pem"), dir.path().join("key.pem"));
    let copy = |from: &ZooKeeperServer| {
        std::fs::copy(from.tls_file("client.key"), dir.path().join("key.pem")).unwrap();
        std::fs::copy(from.tls_file("client.pem"), dir.path().join("cert.pem")).unwrap();
    };
    copy(&other);
    let zk = connect(&config);
    let pattern = format!("localhost:{}: the server refused our certificate", server.tls_port());
    wait_for(SOON, "the old one is refused", || async { log.lines(&pattern).into_iter().next() }).await;
    copy(&server);
    tokio::time::timeout(SOON, zk.connected()).await.unwrap();
    zk.close().await;
}

fn openssl(dir: &Path, arguments: &str) {
    let done = std::process::Command::new("openssl").args(arguments.split(' ')).current_dir(dir).output().unwrap();
    assert!(done.status.success(), "openssl {arguments}: {}", String::from_utf8_lossy(&done.stderr));
}

/// kazoo takes all three.
#[tokio::test]
async fn a_certificate_that_is_its_own_authority_connects_or_the_way_out_is_told() {
    let log = Log::install();
    let mut server = ZooKeeperServer::start_tls();
    let mut config = tls(&server, "localhost");
    let files = server.tls_file("");
    config.tls.as_mut().unwrap().ca = files.join("own.pem");
    let request = "req -newkey rsa:2048 -nodes -subj /CN=own -keyout own.key";
    let own = [
        (format!("{request} -x509 -out own.pem -addext basicConstraints=CA:FALSE"), None),
        (
            format!("{request} -x509 -out own.pem -addext basicConstraints=critical,CA:TRUE"),
            Some("basicConstraints=CA:FALSE"),
        ),
        (format!("{request} -out own.csr"), Some("X.509 version 1")),
    ];
    for (make, told) in own {
        openssl(&files, &make);
        if told == Some("X.509 version 1") {
            openssl(&files, "x509 -req -in own.csr -signkey own.key -out own.pem");
        }
        let store = [files.join("own.pem"), files.join("own.key")].map(|file| std::fs::read_to_string(file).unwrap());
        std::fs::write(files.join("server-store.pem"), store.concat()).unwrap();
        server.restart();
        let zk = connect(&config);
        match told {
            None => {
                tokio::time::timeout(SOON, zk.connected()).await.unwrap();
            }
            Some(told) => {
                let pattern = format!("localhost:{}: the server's own certificate", server.tls_port());
                let line =
                    wait_for(SOON, told, || async { log.lines(&pattern).into_iter().find(|line| line.contains(told)) })
                        .await;
                assert!(line.contains("zoo.cfg") && line.contains("openssl"), "{line}");
            }
        }
        zk.close().await;
    }
    // The same of our own certificate.
    let error = {
        let tls = config.tls.as_mut().unwrap();
        (tls.cert, tls.key) = (files.join("own.pem"), files.join("own.key"));
        ZooKeeper::start(&config, Ambient::system(), &Shutdown::new(), CancellationToken::new())
            .unwrap_err()
            .to_string()
    };
    assert!(error.contains("cert: cannot use") && error.contains("own.pem") && error.contains("-extfile"), "{error}");
}

#[tokio::test]
async fn unusable_files_are_named() {
    let server = ZooKeeperServer::start_tls();
    let error = |change: &dyn Fn(&mut config::ZooKeeperTls)| {
        let mut config = tls(&server, "127.0.0.1");
        change(config.tls.as_mut().unwrap());
        ZooKeeper::start(&config, Ambient::system(), &Shutdown::new(), CancellationToken::new())
            .unwrap_err()
            .to_string()
    };
    let missing = error(&|tls| tls.ca = PathBuf::from("/nowhere/ca.pem"));
    assert!(missing.contains("/nowhere/ca.pem") && missing.contains("ca:"), "{missing}");
    let swapped = error(&|tls| std::mem::swap(&mut tls.key, &mut tls.cert));
    assert!(swapped.contains("client.pem") && swapped.contains("no private key"), "{swapped}");
    let foreign = error(&|tls| tls.cert = tls.ca.clone());
    assert!(foreign.contains("client-operator.key"), "{foreign}");
    let empty = error(&|tls| tls.ca = PathBuf::from("/dev/null"));
    assert!(empty.contains("/dev/null") && empty.contains("no certificate"), "{empty}");
}

#[tokio::test]
async fn a_session_that_expires_takes_its_locks_and_everything_else_comes_back() {
    let server = ZooKeeperServer::start();
    let proxy = LossyProxy::start(server.port()).await;
    let mut config = short(&server);
    config.servers[0].port = proxy.port();
    let zk = connect(&config);
    let first = zk.connected().await;
    zk.cache().until_ready().await;
    let registration = zk.register_pool(pool("l1"));
    let launcher = zk.register_launcher("host1", "11.0.0");
    let mut leading = zk.stand_for_election("stats", "host1-1");
    tokio::time::timeout(SOON, leading.wait_for(|leading| *leading)).await.unwrap().unwrap();
    let mut held = zk.create_node(node(1.0), |_| ()).await.unwrap();
    let id = held.record().id.clone();
    assert!(held.is_valid());
    let registered = || async { zk.cache().read(|records| records.pools.keys().next().cloned()) };
    let component = wait_for(SOON, "the pool is registered", registered).await;
    assert_eq!(component, "host10000000000");

    proxy.down();
    wait_for(SOON, "the cache knows", || async { (!zk.cache().ready()).then_some(()) }).await;
    assert!(zk.cache().read(|records| records.nodes.contains_key(&id)), "stale, but there");
    expired(&server, &id).await;
    assert!(held.is_valid(), "no server has said that it is not");
    assert!(!*leading.borrow());
    let late = tokio::spawn(async move {
        let written = held.update(|node| node.comment = Some("late".to_owned())).await;
        (written, held)
    });
    let resumed = std::time::Instant::now();
    proxy.up();
    let (written, held) = tokio::time::timeout(SOON, late).await.unwrap().unwrap();
    let error = written.unwrap_err();
    assert!(matches!(error, ZkError::SessionLost { .. }), "{error}");

    let second = tokio::time::timeout(SOON, zk.connected()).await.unwrap();
    assert_ne!(first, second);
    zk.cache().until_ready().await;
    let again = || async { zk.cache().read(|records| records.pools.keys().find(|name| **name != component).cloned()) };
    let name = wait_for(SOON, "the pool is registered again", again).await;
    assert_eq!(name, "host10000000001");
    println!("registered again {:?} after the server was back", resumed.elapsed());
    assert!(!held.is_valid(), "an old lock never becomes valid again");
    held.unlock().await.unwrap();
    tokio::time::timeout(SOON, leading.wait_for(|leading| *leading)).await.unwrap().unwrap();

    let locked = || async { zk.try_lock_node(&id).await.unwrap().held() };
    let held = wait_for(SOON, "the old contender is gone with its session", locked).await;
    assert_eq!(held.record().comment, None);
    let alone = || async { (zk.children("/nodepool/components/pool").await.unwrap().len() == 1).then_some(()) };
    wait_for(SOON, "the old component is gone with its session", alone).await;

    registration.update(|pool| pool.paused = true);
    let paused = || async { zk.cache().read(|records| records.pools.get(&name)?.paused.then_some(())) };
    wait_for(SOON, "a change after that is written", paused).await;
    registration.withdraw().await;
    assert!(zk.children("/nodepool/components/pool").await.unwrap().is_empty());
    drop(launcher);
    let none = || async { zk.children("/nodepool/components/launcher").await.unwrap().is_empty().then_some(()) };
    wait_for(SOON, "a dropped registration is withdrawn", none).await;
    zk.close().await;
}

#[tokio::test]
async fn a_restarted_server_resumes_the_session_and_the_cache_misses_nothing() {
    let log = Log::install();
    let mut server = ZooKeeperServer::start();
    let mut config = config(&server, "");
    // Longer than ZooKeeper takes to start again on a busy machine.
    config.timeout = 2 * SOON;
    let zk = connect(&config);
    let first = zk.connected().await;
    zk.cache().until_ready().await;
    let mut held = zk.create_node(node(1.0), |_| ()).await.unwrap();
    zk.create("/nodepool/nodes/broken-across-a-restart", b"{").await.unwrap();
    let complaints = || log.lines("/nodepool/nodes/broken-across-a-restart: ").len();
    wait_for(SOON, "the complaint", || async { (complaints() == 1).then_some(()) }).await;

    server.stop();
    let mut session = zk.session();
    tokio::time::timeout(SOON, session.wait_for(Option::is_none)).await.unwrap().unwrap();
    assert!(held.is_valid(), "suspended is not lost");
    // Asked for while nobody is there: it waits for the same session.
    let write =
        tokio::spawn(async move { held.update(|node| node.comment = Some("patient".to_owned())).await.map(|()| held) });
    server.restart();
    // While we may still be away.
    let other = stranger(&server, "").await;
    other.create("/nodepool/nodes/other", br#"{"state": "ready"}"#, &PERSISTENT).await.unwrap();

    assert_eq!(tokio::time::timeout(SOON, zk.connected()).await.unwrap(), first);
    let held = tokio::time::timeout(SOON, write).await.unwrap().unwrap().unwrap();
    assert_eq!(held.record().comment.as_deref(), Some("patient"));
    let id = NodeId::from("other");
    let seen = || async { (zk.cache().ready() && zk.cache().read(|r| r.nodes.contains_key(&id))).then_some(()) };
    wait_for(SOON, "what happened meanwhile", seen).await;
    other.create("/nodepool/nodes/later", br#"{"state": "ready"}"#, &PERSISTENT).await.unwrap();
    let id = NodeId::from("later");
    let seen = || async { zk.cache().read(|r| r.nodes.contains_key(&id)).then_some(()) };
    wait_for(SOON, "the watch is back too", seen).await;
    assert_eq!(complaints(), 1, "the same broken record is not news after a reconnection");
    held.delete(2.0).await.unwrap();
    zk.close().await;
}

/// As with kazoo: a server that starts again gives the sessions that it knows their whole time again.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_session_and_its_locks_survive_servers_that_were_down_for_longer_than_its_timeout() {
    let mut server = ZooKeeperServer::start();
    let zk = connect(&short(&server));
    let first = zk.connected().await;
    zk.cache().until_ready().await;
    let mut leading = zk.stand_for_election("stats", "host1-1");
    tokio::time::timeout(SOON, leading.wait_for(|leading| *leading)).await.unwrap().unwrap();
    let mut held = zk.create_node(node(1.0), |_| ()).await.unwrap();
    let id = held.record().id.clone();

    server.stop();
    tokio::time::timeout(SOON, leading.wait_for(|leading| !leading)).await.unwrap().unwrap();
    let write =
        tokio::spawn(async move { held.update(|node| node.comment = Some("patient".to_owned())).await.map(|()| held) });
    // Nothing is to happen meanwhile.
    tokio::time::sleep(SHORT * 2).await;
    assert!(!write.is_finished());
    server.restart();

    assert_eq!(tokio::time::timeout(SOON, zk.connected()).await.unwrap(), first);
    let held = tokio::time::timeout(SOON, write).await.unwrap().unwrap().unwrap();
    assert!(held.is_valid());
    let other = connect(&config(&server, ""));
    other.connected().await;
    assert!(other.try_lock_node(&id).await.unwrap().held().is_none(), "it is still ours");
    tokio::time::timeout(SOON, leading.wait_for(|leading| *leading)).await.unwrap().unwrap();
    held.delete(2.0).await.unwrap();
    zk.close().await;
    other.close().await;
}

/// A server that nobody reaches any more does not keep a process from its end, nor what waits for it.
#[tokio::test]
async fn what_waits_in_a_suspended_session_fails_when_it_is_closed_or_other_servers_are_configured() {
    let (mut server, other) = (ZooKeeperServer::start(), ZooKeeperServer::start());
    let zk = connect(&short(&server));
    let mut session = zk.session();
    zk.connected().await;
    zk.create("/a", b"").await.unwrap();
    server.stop();
    tokio::time::timeout(SOON, session.wait_for(Option::is_none)).await.unwrap().unwrap();
    let waiting = tokio::spawn({
        let zk = zk.clone();
        async move { zk.get("/a").await }
    });
    // Still one of the servers that the session knows, and another one that it does not.
    let mut both = short(&server);
    both.servers.push(config(&other, "").servers.remove(0));
    zk.set_servers(&both).unwrap();
    let read = tokio::time::timeout(SOON, waiting).await.unwrap().unwrap();
    assert!(matches!(read, Err(ZkError::SessionLost { .. })), "{read:?}");
    tokio::time::timeout(SOON, zk.connected()).await.expect("the other server is used");

    drop(other);
    tokio::time::timeout(SOON, session.wait_for(Option::is_none)).await.unwrap().unwrap();
    let waiting = tokio::spawn({
        let zk = zk.clone();
        async move { zk.get("/a").await }
    });
    tokio::time::timeout(SOON, zk.close()).await.unwrap();
    let read = tokio::time::timeout(SOON, waiting).await.unwrap().unwrap();
    assert!(read.is_err());
}

#[tokio::test]
async fn an_idle_cache_reads_nothing() {
    let server = ZooKeeperServer::start();
    let zk = connect(&config(&server, ""));
    zk.cache().until_ready().await;
    zk.create("/nodepool/nodes/x", br#"{"state": "ready"}"#).await.unwrap();
    let known = || async { (zk.cache().read(|r| r.nodes.len()) == 1 && zk.cache().ready()).then_some(()) };
    wait_for(SOON, "the cache is up to date", known).await;
    let received = || {
        let text = server.command("srvr").unwrap();
        let line = text.lines().find(|line| line.starts_with("Received:")).unwrap();
        line.split(' ').nth(1).unwrap().parse::<u64>().unwrap()
    };
    let (before, start) = (received(), std::time::Instant::now());
    // A pause to see nothing happen in, not to wait for something.
    tokio::time::sleep(Duration::from_secs(3)).await;
    let packets = received() - before;
    // Our own two questions, and pings: one each two seconds or so.
    let seconds = start.elapsed().as_secs();
    assert!(packets <= 5 + seconds, "{packets} packets in {seconds} s");
    zk.close().await;
}

#[tokio::test]
async fn a_dead_server_does_not_matter_while_another_lives_and_a_chroot_is_made() {
    let log = Log::install();
    // Both at first: this thread waits for a start, and nobody keeps sessions alive meanwhile.
    let (server, second) = (ZooKeeperServer::start(), ZooKeeperServer::start());
    let mut config = config(&server, "/zuul/deep");
    let dead = config::ZooKeeperServer { host: "127.0.0.1".to_owned(), port: free_port(), chroot: None };
    config.servers.insert(0, dead.clone());
    let zk = connect(&config);
    tokio::time::timeout(SOON, zk.connected()).await.unwrap();
    zk.cache().until_ready().await;
    current(&zk).await.create_request("900", true, request("e")).await.unwrap();
    let root = stranger(&server, "").await;
    assert_eq!(root.list_children("/").await.unwrap().len(), 2, "zookeeper and zuul");
    let mut below = root.list_children("/zuul/deep/nodepool").await.unwrap();
    below.sort();
    assert_eq!(below, ["components", "elections", "images", "nodes", "requests", "requests-lock"]);
    let first = zk.connected().await;

    // The list changes but keeps a server: the session stays. None of it is left: another session, elsewhere.
    let mut both = config.clone();
    both.servers = vec![config.servers[1].clone(), dead.clone()];
    zk.set_servers(&both).unwrap();
    zk.get("/nodepool").await.unwrap();
    assert_eq!(zk.connected().await, first);
    zk.set_servers(&zk_common::config(&second, "/elsewhere")).unwrap();
    let moved = || async { zk.get("/nodepool/requests/900-0000000000").await.unwrap().is_none().then_some(()) };
    wait_for(SOON, "the new server is used", moved).await;
    assert!(root.list_children("/zuul/deep/nodepool/requests").await.unwrap().is_empty(), "the old session was closed");
    zk.close().await;

    let mut none = config.clone();
    none.servers.truncate(1);
    let zk = connect(&none);
    let pattern = format!("127.0.0.1:{}: cannot connect", none.servers[0].port);
    wait_for(SOON, "the refusal is told", || async { log.lines(&pattern).into_iter().next() }).await;
    zk.close().await;
}

#[tokio::test]
async fn components_look_like_upstreams_and_survive_foreign_writes() {
    let server = ZooKeeperServer::start();
    let zk = connect(&config(&server, ""));
    let registration = zk.register_pool(pool("l1"));
    let _launcher = zk.register_launcher("host1", "11.0.0");
    let running = || async {
        let (data, _) = zk.get("/nodepool/components/launcher/host10000000000").await.unwrap()?;
        let text = String::from_utf8(data).unwrap();
        text.contains("running").then_some(text)
    };
    let text = wait_for(SOON, "the launcher runs", running).await;
    assert_eq!(
        text,
        r#"{"hostname": "host1", "kind": "launcher", "model_api": 0, "state": "running", "version": "11.0.0"}"#
    );
    assert_eq!(zk.children("/nodepool/components").await.unwrap(), ["builder", "launcher", "pool"]);
    let path = "/nodepool/components/pool/host10000000000";
    let there = || async { zk.get(path).await.unwrap().map(|_| ()) };
    wait_for(SOON, "the pool is registered", there).await;

    zk.set(path, b"{}").await.unwrap();
    registration.update(|pool| pool.priority = 7);
    let read = || async {
        let (data, _) = zk.get(path).await.unwrap()?;
        let value: Value = serde_json::from_slice(&data).unwrap();
        (value["priority"] == 7 && value["id"] == "l1").then_some(())
    };
    wait_for(SOON, "a foreign write is overwritten by the next change", read).await;

    zk.delete_recursive(path).await.unwrap();
    registration.update(|pool| pool.paused = true);
    let again = || async { zk.get("/nodepool/components/pool/host10000000001").await.unwrap().map(|_| ()) };
    wait_for(SOON, "a deleted component is registered again", again).await;
    zk.close().await;
    let other = stranger(&server, "").await;
    assert!(other.list_children("/nodepool/components/pool").await.unwrap().is_empty(), "gone with the session");
}

#[tokio::test]
async fn one_candidate_leads_and_the_next_follows() {
    let server = ZooKeeperServer::start();
    let (one, two) = (connect(&config(&server, "")), connect(&config(&server, "")));
    let mut first = one.stand_for_election("stats", "host-1");
    tokio::time::timeout(SOON, first.wait_for(|leading| *leading)).await.unwrap().unwrap();
    let mut second = two.stand_for_election("stats", "host-2");
    let queued = || async { (one.children("/nodepool/elections/stats").await.unwrap().len() == 2).then_some(()) };
    wait_for(SOON, "both stand", queued).await;
    assert!(*first.borrow() && !*second.borrow());
    let leader = one.children("/nodepool/elections/stats").await.unwrap();
    let mut identifiers = Vec::new();
    for contender in leader {
        identifiers.push(one.get(&format!("/nodepool/elections/stats/{contender}")).await.unwrap().unwrap().0);
    }
    identifiers.sort();
    assert_eq!(identifiers, [b"host-1", b"host-2"]);
    drop(first);
    tokio::time::timeout(SOON, second.wait_for(|leading| *leading)).await.unwrap().unwrap();
    // Somebody takes it away: the leader steps down and stands again.
    let contender = two.children("/nodepool/elections/stats").await.unwrap().remove(0);
    two.delete_recursive(&format!("/nodepool/elections/stats/{contender}")).await.unwrap();
    let replaced = || async {
        let now = two.children("/nodepool/elections/stats").await.unwrap();
        (now.len() == 1 && now[0] != contender && *second.borrow()).then_some(())
    };
    wait_for(SOON, "it stands and leads again", replaced).await;
    one.close().await;
    two.close().await;
}

#[tokio::test]
async fn who_has_no_connection_does_not_lead_and_leads_again_with_it() {
    let mut server = ZooKeeperServer::start();
    // Its end is not what is waited for.
    let zk = connect(&config::ZooKeeper { timeout: 3 * SOON, ..config(&server, "") });
    let first = zk.connected().await;
    let mut leads = zk.stand_for_election("stats", "first");
    tokio::time::timeout(SOON, leads.wait_for(|leads| *leads)).await.unwrap().unwrap();
    server.stop();
    tokio::time::timeout(SOON, leads.wait_for(|leads| !leads)).await.expect("it does not lead any more").unwrap();
    let mut other = zk.stand_for_election("other", "first");
    tokio::time::sleep(Duration::from_millis(500)).await; // it stands while there is no connection
    server.restart();
    tokio::time::timeout(SOON, leads.wait_for(|leads| *leads)).await.expect("it leads again").unwrap();
    tokio::time::timeout(SOON, other.wait_for(|leads| *leads)).await.expect("it leads here, too").unwrap();
    assert_eq!(zk.connected().await, first);
    zk.close().await;
}

#[tokio::test]
async fn a_candidate_leaves_the_servers_that_are_no_longer_configured() {
    let (old, new) = (ZooKeeperServer::start(), ZooKeeperServer::start());
    let first = connect(&config(&old, ""));
    let mut leads = first.stand_for_election("stats", "first");
    tokio::time::timeout(SOON, leads.wait_for(|leads| *leads)).await.unwrap().unwrap();
    // Longer than the test waits for its end.
    let second = connect(&config::ZooKeeper { timeout: 2 * SOON, ..config(&old, "") });
    let mut waits = second.stand_for_election("stats", "second");
    let candidates = |count: usize| {
        let first = &first;
        move || async move { (first.children("/nodepool/elections/stats").await.unwrap().len() == count).then_some(()) }
    };
    wait_for(SOON, "both stand in line", candidates(2)).await;
    second.set_servers(&config(&new, "")).unwrap();
    tokio::time::timeout(SOON, waits.wait_for(|leads| *leads)).await.expect("it leads at the new ones").unwrap();
    // Well before its session's end by time: nobody keeps that alive.
    wait_for(SOON, "only the first stands at the old one", candidates(1)).await;
    assert!(*leads.borrow());
    first.close().await;
    second.close().await;
}

/// A quiet moment never comes on a busy site.
#[tokio::test]
async fn the_cache_is_ready_although_something_changes_all_the_time() {
    let server = ZooKeeperServer::start();
    let writer = stranger(&server, "").await;
    writer.mkdir("/nodepool/nodes", &PERSISTENT).await.unwrap();
    let paths: Vec<String> = (0..200).map(|n| format!("/nodepool/nodes/{n:010}")).collect();
    for path in &paths {
        writer.create(path, br#"{"state": "ready"}"#, &PERSISTENT).await.unwrap();
    }
    // Eight writes are under way at any time, for as long as the test runs.
    let paths = std::sync::Arc::new(paths);
    let writers: Vec<_> = (0..8)
        .map(|offset| {
            let (writer, paths) = (writer.clone(), std::sync::Arc::clone(&paths));
            tokio::spawn(async move {
                for path in paths.iter().cycle().skip(offset * 25) {
                    writer.set_data(path, br#"{"state": "ready"}"#, None).await.unwrap();
                }
            })
        })
        .collect();
    let zk = connect(&config(&server, ""));
    zk.connected().await;
    let ready = tokio::time::timeout(2 * SOON, zk.cache().until_ready()).await;
    let known = zk.cache().read(|records| records.nodes.len());
    writers.iter().for_each(tokio::task::JoinHandle::abort);
    ready.expect("ready under load");
    assert_eq!(known, 200);
    zk.close().await;
}

#[tokio::test]
async fn a_withdrawal_does_not_wait_for_a_zookeeper_that_does_not_answer() {
    let server = ZooKeeperServer::start();
    let mut config = config(&server, "");
    config.timeout = Duration::from_secs(40);
    let zk = connect(&config);
    let registration = zk.register_pool(pool("l1"));
    let registered = || async { zk.children("/nodepool/components/pool").await.ok()?.first().cloned() };
    wait_for(SOON, "it is registered", registered).await;
    server.pause();
    let withdrawn = tokio::time::timeout(Duration::from_secs(30), registration.withdraw()).await;
    server.resume();
    withdrawn.expect("given up in time");
    let gone = || async { zk.children("/nodepool/components/pool").await.unwrap().is_empty().then_some(()) };
    wait_for(SOON, "withdrawn once it answers again", gone).await;
    zk.close().await;
}
