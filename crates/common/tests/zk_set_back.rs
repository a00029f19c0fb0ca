//! A ZooKeeper that is set back to an older state while we live on: what we know is what there is now.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a test fails that way

mod zk_common;

use std::{fs, path::Path, time::Duration};

use nodepool_common::{
    model::{Node, NodeId},
    zk::{SessionId, ZooKeeper},
};
use nodepool_testing::{LossyProxy, ZooKeeperServer, wait_for};
use zk_common::*;

fn connect_briefly(server: &ZooKeeperServer) -> ZooKeeper {
    connect_briefly_to(server, server.port())
}

fn connect_briefly_to(server: &ZooKeeperServer, port: u16) -> ZooKeeper {
    let mut config = config(server, "");
    config.servers[0].port = port;
    config.timeout = Duration::from_secs(5);
    connect(&config)
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let (path, to) = (entry.as_ref().unwrap().path(), to.join(entry.unwrap().file_name()));
        if path.is_dir() {
            copy(&path, &to);
        } else {
            fs::copy(&path, &to).unwrap();
        }
    }
}

fn comment(zk: &ZooKeeper, id: &NodeId) -> Option<String> {
    zk.cache().read(|records| records.nodes.get(id)?.usable()?.comment.clone())
}

async fn known(zk: &ZooKeeper, id: &NodeId, text: &str) {
    wait_for(SOON, text, async || (comment(zk, id).as_deref() == Some(text)).then_some(())).await;
}

/// Waits for another session and for all that is read in it.
async fn follow_after(zk: &ZooKeeper, first: SessionId) {
    let mut session = zk.session();
    let another = session.wait_for(|now| now.is_some_and(|now| now != first));
    tokio::time::timeout(SOON, another).await.unwrap().unwrap();
    let read = || async { zk.cache().ready().then_some(()) };
    wait_for(SOON, "the records are read", read).await;
}

async fn node_with_comment(zk: &ZooKeeper, text: &str) -> NodeId {
    let held = zk.create_node(node(1.0), |node| node.comment = Some(text.to_owned())).await.unwrap();
    let id = held.record().id.clone();
    held.unlock().await.unwrap();
    id
}

#[tokio::test]
async fn a_new_session_with_an_older_zookeeper_shows_what_is_there_and_follows_it() {
    let mut server = ZooKeeperServer::start();
    let (data, backup) = (server.directory().join("data"), server.directory().join("backup"));
    let zk = connect_briefly(&server);
    zk.cache().until_ready().await;
    let (changed, deleted) = (node_with_comment(&zk, "old").await, node_with_comment(&zk, "old").await);
    let old_version = zk.cache().read(|records| records.nodes[&changed].stat.version);
    current(&zk).await.create_request("100", false, request("early")).await.unwrap();
    server.stop();
    copy(&data, &backup);
    server.restart();

    // A session that has ended during the restart is the current one until it is used.
    let reached = async || zk.children("/nodepool").await.ok();
    wait_for(SOON, "the server is reached again", reached).await;
    tokio::time::timeout(SOON, zk.cache().until_ready()).await.unwrap();
    for text in ["1", "2", "3", "4", "5", "6", "new"] {
        let mut held = zk.lock_node(&changed, SOON).await.unwrap().unwrap();
        held.update(|node| node.comment = Some(text.to_owned())).await.unwrap();
        held.unlock().await.unwrap();
    }
    zk.lock_node(&deleted, SOON).await.unwrap().unwrap().delete(2.0).await.unwrap();
    let late = node_with_comment(&zk, "late").await;
    current(&zk).await.create_request("100", false, request("late")).await.unwrap();
    known(&zk, &changed, "new").await;
    let versions = zk.cache().read(|records| {
        assert!(records.nodes.contains_key(&late) && !records.nodes.contains_key(&deleted));
        (records.nodes[&changed].stat.version, records.nodes[&changed].stat.mzxid)
    });

    let first = zk.connected().await;
    server.stop();
    fs::remove_dir_all(&data).unwrap();
    fs::rename(&backup, &data).unwrap();
    server.restart();
    follow_after(&zk, first).await;

    zk.cache().read(|records| {
        let entry = &records.nodes[&changed];
        assert_eq!(entry.usable().unwrap().comment.as_deref(), Some("old"), "what was kept is not newer");
        assert_eq!(entry.stat.version, old_version);
        assert!(entry.stat.version < versions.0 && entry.stat.mzxid < versions.1);
        assert!(records.nodes.contains_key(&deleted), "it is there again");
        assert!(!records.nodes.contains_key(&late), "it is not on record any more");
        assert_eq!(records.requests.len(), 1);
    });

    // Its transactions are still smaller than those that were seen before.
    let other = stranger(&server, "").await;
    let path = |id: &NodeId| format!("/nodepool/nodes/{id}");
    let mut written = node(1.0);
    written.comment = Some("theirs".to_owned());
    let stat = other.set_data(&path(&changed), &written.write(), None).await.unwrap();
    assert!(stat.mzxid < versions.1, "the test has to set it back far enough");
    known(&zk, &changed, "theirs").await;

    // Our own writes rest on it, and the number of a node that it has forgotten comes again.
    let ours = |node: &mut Node| {
        node.comment = Some("ours".to_owned());
        true
    };
    let free = || async { zk.lock_and_update(&changed, ours).await.unwrap() };
    let held = wait_for(SOON, "it is locked with a write", free).await;
    assert_eq!(comment(&zk, &changed).as_deref(), Some("ours"));
    held.delete(3.0).await.unwrap();
    let again = node_with_comment(&zk, "again").await;
    assert_eq!(again, late, "numbers come again");
    known(&zk, &again, "again").await;
    zk.close().await;
}

/// Another session with the same ZooKeeper, as after a pause: nothing is taken for gone.
#[tokio::test]
async fn nothing_is_seen_as_gone_while_a_new_session_reads_the_same_records() {
    let server = ZooKeeperServer::start();
    let proxy = LossyProxy::start(server.port()).await;
    let zk = connect_briefly_to(&server, proxy.port());
    zk.cache().until_ready().await;
    let mut ids = Vec::new();
    for _ in 0..20 {
        ids.push(node_with_comment(&zk, "there").await);
    }
    let lock = zk.create_node(node(1.0), |_| ()).await.unwrap();
    let first = zk.connected().await;
    let watched = tokio::spawn({
        let (zk, ids) = (zk.clone(), ids.clone());
        async move {
            let mut changed = zk.cache().changed();
            while changed.changed().await.is_ok() {
                let seen = zk.cache().read(|records| ids.iter().filter(|id| records.nodes.contains_key(*id)).count());
                assert_eq!(seen, ids.len(), "nodes were taken for gone");
            }
        }
    });
    proxy.down();
    expired(&server, &lock.record().id).await;
    proxy.up();
    follow_after(&zk, first).await;
    assert!(!watched.is_finished(), "nodes were taken for gone");
    watched.abort();
    zk.close().await;
}
