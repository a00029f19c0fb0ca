//! Our lock and kazoo's exclude each other.
//!
//! Two contenders of ours and two of kazoo's go on until each has got the lock often enough in each way, so how often a
//! try finds it free, and how fast the machine is, decides only how long the test takes.
//!
//! Needs a Python with kazoo: set `NODEPOOL_TEST_PYTHON` to it. Without it the test says that it is skipped.

// Measures by the host's clock, and waits by its chance.
#![allow(clippy::disallowed_methods)]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a test fails that way

mod zk_common;

use std::{
    process::Stdio,
    time::{Duration, Instant},
};

use nodepool_common::{
    model::{Node, NodeId},
    zk::{Held, ZooKeeper},
};
use nodepool_testing::ZooKeeperServer;
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines},
    process::{Child, ChildStdin, ChildStdout},
    sync::mpsc,
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;
use zk_common::*;
use zookeeper_client::{Acls, Client, CreateMode};

/// Acquisitions of each contender of ours in each of three ways, and of each of kazoo's in a third of its two.
const EACH: usize = 50;

/// Until all have them. It takes about 10 s on an idle machine.
const DEADLINE: Duration = Duration::from_secs(300);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn our_lock_and_kazoos_exclude_each_other() {
    let Ok(python) = std::env::var("NODEPOOL_TEST_PYTHON") else {
        println!("skipped: NODEPOOL_TEST_PYTHON names no Python with kazoo");
        return;
    };
    let server = ZooKeeperServer::start();
    let patient = nodepool_common::config::ZooKeeper { timeout: SOON, ..config(&server, "") };
    let zk = [connect(&patient), connect(&patient)];
    let held = zk[0].create_node(node(1.0), |_| ()).await.unwrap();
    let id = held.record().id.clone();
    held.unlock().await.unwrap();
    for zk in &zk {
        zk.cache().until_ready().await;
    }
    let client = Client::connector().with_session_timeout(SOON).connect(&server.address()).await.unwrap();
    client.create("/counter", b"0", &PERSISTENT).await.unwrap();

    let lock = format!("/nodepool/nodes/{id}/lock");
    let mut kazoos = [KazooContender::start(&python, &server, &lock), KazooContender::start(&python, &server, &lock)];
    for kazoo in &mut kazoos {
        kazoo.expect("ready").await;
    }
    let over = CancellationToken::new();
    let (enough, mut has_enough) = mpsc::unbounded_channel();
    let mut ours = JoinSet::new();
    for zk in zk.clone() {
        let ours_now = Contender { zk, id: id.clone(), client: client.clone(), got: [0; 3] };
        ours.spawn(ours_now.contend(over.clone(), enough.clone()));
    }
    for kazoo in &mut kazoos {
        kazoo.begin().await;
    }
    let all_have_enough = async {
        for kazoo in &mut kazoos {
            kazoo.expect("enough").await;
        }
        for _ in 0..zk.len() {
            has_enough.recv().await;
        }
    };
    tokio::select! {
        () = all_have_enough => {}
        early = ours.join_next() => panic!("a contender of ours has ended before the others have enough: {early:?}"),
        () = tokio::time::sleep(DEADLINE) => {
            over.cancel();
            panic!("not all have got the lock often enough in {DEADLINE:?}; ours: {:?}", ours.join_all().await);
        }
    }
    over.cancel();
    let ours = ours.join_all().await;
    let mut expected: usize = ours.iter().flatten().sum();
    for kazoo in kazoos {
        expected += kazoo.end().await;
    }
    let (data, _) = client.get_data("/counter").await.unwrap();
    assert_eq!(String::from_utf8(data).unwrap(), expected.to_string(), "no count was lost");
    println!("{expected} contended acquisitions, 0 violations; ours by a try, by waiting, with a write: {ours:?}");
    for zk in zk {
        zk.close().await;
    }
}

/// One of ours.
struct Contender {
    zk: ZooKeeper,
    id: NodeId,
    client: Client,
    /// Acquisitions: by a try, by waiting, together with a write.
    got: [usize; 3],
}

impl Contender {
    /// Goes on until it is `over`; says on the way when it has `enough`.
    async fn contend(mut self, over: CancellationToken, enough: mpsc::UnboundedSender<()>) -> [usize; 3] {
        let mut said = false;
        for turn in 0.. {
            if over.is_cancelled() {
                break;
            }
            let began = Instant::now();
            let way = turn % self.got.len();
            if let Some(held) = self.acquire(way, turn).await {
                self.count_inside().await;
                held.unlock().await.unwrap();
                self.got[way] += 1;
            }
            if !said && self.got.iter().all(|got| *got >= EACH) {
                said = true;
                enough.send(()).unwrap();
            }
            // In proportion to what a turn takes, so that the lock is now contended and now free on a machine of any speed.
            let times = f64::from(Uuid::new_v4().as_bytes()[0]) / 128.0;
            tokio::time::sleep(began.elapsed().mul_f64(times)).await;
        }
        self.got
    }

    async fn acquire(&self, way: usize, turn: usize) -> Option<Held<Node>> {
        match way {
            0 => self.zk.try_lock_node(&self.id).await.unwrap().held(),
            1 => self.zk.lock_node(&self.id, SOON).await.unwrap(),
            _ => {
                let write = |node: &mut Node| {
                    node.slot = Some(i64::try_from(turn).unwrap());
                    true
                };
                self.zk.lock_and_update(&self.id, write).await.unwrap()
            }
        }
    }

    /// Under the lock: fails if somebody else is inside, and loses a count if somebody comes.
    async fn count_inside(&self) {
        let ephemeral = CreateMode::Ephemeral.with_acls(Acls::anyone_all());
        self.client.create("/inside", b"ours", &ephemeral).await.expect("nobody else is inside");
        let (data, _) = self.client.get_data("/counter").await.unwrap();
        let value: usize = String::from_utf8(data).unwrap().parse().unwrap();
        self.client.set_data("/counter", (value + 1).to_string().as_bytes(), None).await.unwrap();
        self.client.delete("/inside", None).await.unwrap();
    }
}

/// A process of `kazoo_contender.py`.
struct KazooContender {
    child: Child,
    input: ChildStdin,
    output: Lines<BufReader<ChildStdout>>,
}

impl KazooContender {
    fn start(python: &str, server: &ZooKeeperServer, lock: &str) -> Self {
        let mut child = tokio::process::Command::new(python)
            .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/kazoo_contender.py"))
            .args([&server.address(), lock, "/counter", "/inside", &EACH.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let input = child.stdin.take().unwrap();
        let output = BufReader::new(child.stdout.take().unwrap()).lines();
        Self { child, input, output }
    }

    async fn expect(&mut self, word: &str) {
        let line = self.output.next_line().await.unwrap();
        assert_eq!(line.as_deref(), Some(word), "kazoo has ended, see above");
    }

    async fn begin(&mut self) {
        self.input.write_all(b"begin\n").await.unwrap();
    }

    /// Its acquisitions.
    async fn end(mut self) -> usize {
        drop(self.input);
        let acquired = self.output.next_line().await.unwrap();
        let status = self.child.wait().await.unwrap();
        assert!(status.success(), "kazoo saw a violation, see above");
        acquired.unwrap().parse().unwrap()
    }
}
