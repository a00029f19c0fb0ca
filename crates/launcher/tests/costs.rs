//! What one node costs ZooKeeper, from the request to the end of the node's record. A transaction goes to every server's
//! disk, so they bound how many nodes a site can serve; docs/architecture.md says which ones there are.

// Measures by the host's clock.
#![allow(clippy::disallowed_methods)]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::cast_precision_loss)] // a test fails that way

mod support;

use std::time::{Duration, Instant};

use nodepool_testing::ZooKeeperServer;
use serde_json::json;
use support::*;
use zookeeper_client::{Acls, CreateMode, CreateOptions};

const EPHEMERAL_SEQUENTIAL: CreateOptions<'static> = CreateMode::EphemeralSequential.with_acls(Acls::anyone_all());

/// Those in the table of docs/architecture.md, "The life of a node".
const TRANSACTIONS: f64 = 8.0;
/// Those, what peers have written, and one or two pings.
const PACKETS: f64 = 12.0;
/// The events of a ZooKeeper before 3.9 do not tell which are those of our own writes: all are read.
const PACKETS_BEFORE_3_9: f64 = 20.0;
const LIVES: u32 = 20;

/// What ZooKeeper has numbered.
fn transactions(server: &ZooKeeperServer) -> u64 {
    let answer = server.command("srvr").unwrap();
    let zxid = answer.lines().find_map(|line| line.strip_prefix("Zxid: 0x")).unwrap();
    u64::from_str_radix(zxid, 16).unwrap() & 0xffff_ffff
}

/// What ZooKeeper has received from each session by now, other than from `mine`.
fn packets(server: &ZooKeeperServer, mine: &str) -> u64 {
    let answer = server.command("cons").unwrap();
    let others = answer.lines().filter(|line| line.contains("sid=0x") && !line.contains(mine));
    let count = |line: &str| line.split("recved=").nth(1)?.split([',', ')']).next()?.parse::<u64>().ok();
    others.filter_map(count).sum()
}

#[tokio::test]
async fn a_nodes_life_takes_eight_transactions() {
    let server = ZooKeeperServer::start();
    let stage = Stage::new(&server).await;
    stage.script(&json!({"*": {"boot_delay": 0.1, "state_dir": stage.state_dir()}}));
    let mut provider = fake("p", &["a"], 5);
    provider["pools"][0]["host-key-checking"] = json!(false);
    stage.configure(&[provider]);
    let launcher = stage.launcher().await;
    stage.offered("a").await;
    let mine = format!("sid=0x{:x},", stage.zk.session_id().0);
    // Start-up is over when nothing has happened for a second.
    let mut before = (transactions(&server), Instant::now());
    stage
        .wait("start-up is over", async || {
            let transactions = transactions(&server);
            if transactions != before.0 {
                before = (transactions, Instant::now());
            }
            before.1.elapsed() > Duration::from_secs(1)
        })
        .await;
    let before = (transactions(&server), packets(&server, &mine));
    for _ in 0..LIVES {
        let request = stage.request(&["a"]).await;
        let nodes = stage.fulfilled(&request).await["nodes"].clone();
        let node = format!("nodes/{}", nodes[0].as_str().unwrap());
        let contender = format!("/nodepool/{node}/lock/0123456789abcdef__lock__");
        let (_, sequence) = stage.zk.create(&contender, b"", &EPHEMERAL_SEQUENTIAL).await.unwrap();
        stage.release(&request).await;
        stage.zk.delete(&format!("{contender}{sequence}"), None).await.unwrap();
        stage.no_node_is_left().await;
    }
    // Zuul's part: the request comes, the node is locked and used, the request goes, the node is unlocked.
    let transactions = transactions(&server) - before.0 - u64::from(5 * LIVES);
    let packets = packets(&server, &mine) - before.1;
    let each = |count: u64| count as f64 / f64::from(LIVES);
    let (transactions, packets) = (each(transactions), each(packets));
    println!("{transactions} transactions, {packets} packets");
    // A change that comes from nobody's request, such as a pool's pause, may be among them.
    assert!(transactions <= TRANSACTIONS + 0.2, "{transactions} transactions a node\n{}", launcher.log());
    let answer = server.command("srvr").unwrap();
    let is_old = ["3.6.", "3.7.", "3.8."].iter().any(|old| answer.contains(&format!("version: {old}")));
    let bound = if is_old { PACKETS_BEFORE_3_9 } else { PACKETS };
    assert!(packets <= bound, "{packets} packets a node\n{}", launcher.log());
    assert!(stage.zk.list_children("/nodepool/requests-lock").await.unwrap().is_empty(), "litter was left");
}
