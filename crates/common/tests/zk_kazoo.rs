//! Our lock and kazoo's exclude each other.
//!
//! Needs a Python with kazoo: set `NODEPOOL_TEST_PYTHON` to it. Without it the test says that it is skipped.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a test fails that way

mod zk_common;

use std::{process::Stdio, time::Duration};

use nodepool_common::model::Node;
use nodepool_testing::ZooKeeperServer;
use zk_common::*;
use zookeeper_client::{Acls, CreateMode};

const EACH: usize = 150;
const TRIES: usize = 10;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn our_lock_and_kazoos_exclude_each_other() {
    let Ok(python) = std::env::var("NODEPOOL_TEST_PYTHON") else {
        println!("skipped: NODEPOOL_TEST_PYTHON names no Python with kazoo");
        return;
    };
    let server = ZooKeeperServer::start();
    let zk = [connect(&config(&server, "")), connect(&config(&server, ""))];
    let held = zk[0].create_node(node(1.0), |_| ()).await.unwrap();
    let id = held.record().id.clone();
    held.unlock().await.unwrap();
    for zk in &zk {
        zk.cache().until_ready().await;
    }
    let client = stranger(&server, "").await;
    client.create("/counter", b"0", &PERSISTENT).await.unwrap();

    let lock = format!("/nodepool/nodes/{id}/lock");
    let peers: Vec<_> = (0..2)
        .map(|_| {
            tokio::process::Command::new(&python)
                .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/kazoo_contender.py"))
                .args([&server.address(), &lock, "/counter", "/inside", &EACH.to_string()])
                .stdout(Stdio::piped())
                .kill_on_drop(true)
                .spawn()
                .unwrap()
        })
        .collect();
    let ours = zk.iter().map(|zk| {
        let (zk, id, client) = (zk.clone(), id.clone(), client.clone());
        tokio::spawn(async move {
            let (mut acquired, mut at_once) = (0, 0);
            for turn in 0..EACH {
                let held = match turn % 3 {
                    0 => zk.try_lock_node(&id).await.unwrap().held(),
                    1 => zk.lock_node(&id, SOON).await.unwrap(),
                    _ => {
                        // The lock is hardly ever free.
                        let mut held = None;
                        for _ in 0..TRIES {
                            let write = |node: &mut Node| {
                                node.slot = Some(i64::try_from(turn).unwrap());
                                true
                            };
                            held = zk.lock_and_update(&id, write).await.unwrap();
                            if held.is_some() {
                                at_once += 1;
                                break;
                            }
                            tokio::time::sleep(Duration::from_millis(1)).await;
                        }
                        held
                    }
                };
                let Some(held) = held else { continue };
                let ephemeral = CreateMode::Ephemeral.with_acls(Acls::anyone_all());
                client.create("/inside", b"ours", &ephemeral).await.expect("nobody else is inside");
                let (data, _) = client.get_data("/counter").await.unwrap();
                let value: usize = String::from_utf8(data).unwrap().parse().unwrap();
                client.set_data("/counter", (value + 1).to_string().as_bytes(), None).await.unwrap();
                client.delete("/inside", None).await.unwrap();
                held.unlock().await.unwrap();
                acquired += 1;
            }
            (acquired, at_once)
        })
    });
    let (mut expected, mut at_once) = (0_usize, 0_usize);
    for task in futures::future::join_all(ours).await {
        let (acquired, of_those) = task.unwrap();
        expected += acquired;
        at_once += of_those;
    }
    for peer in peers {
        let output = peer.wait_with_output().await.unwrap();
        assert!(output.status.success(), "kazoo saw a violation, see above");
        expected += String::from_utf8(output.stdout).unwrap().trim().parse::<usize>().unwrap();
    }
    let (data, _) = client.get_data("/counter").await.unwrap();
    assert_eq!(String::from_utf8(data).unwrap(), expected.to_string(), "no count was lost");
    assert!(expected > EACH * 4 / 2, "{expected} acquisitions are too few to mean anything");
    assert!(at_once > 0, "the lock was never free for a write that takes it");
    println!("{expected} contended acquisitions, {at_once} of them with a write, 0 violations");
    for zk in zk {
        zk.close().await;
    }
}
