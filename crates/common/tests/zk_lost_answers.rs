//! Connections that break after the server has done its part: whatever was asked is done once, and reported as done.

// Measures by the host's clock.
#![allow(clippy::disallowed_methods)]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a test fails that way

mod zk_common;

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use nodepool_common::{
    model::{Node, NodeRequest, NodeState, RequestState},
    zk::{Held, NotUnlocked, Record, ZooKeeper},
};
use nodepool_testing::{LossyProxy, ZooKeeperServer};
use zk_common::*;

/// More requests than any of the operations sends.
const REQUESTS: usize = 5;

struct Stage {
    _server: ZooKeeperServer,
    proxy: LossyProxy,
    zk: ZooKeeper,
    /// Sees the truth, by a connection of its own.
    other: zookeeper_client::Client,
    lost: usize,
}

impl Stage {
    async fn new() -> Self {
        let server = ZooKeeperServer::start();
        let proxy = LossyProxy::start(server.port()).await;
        let mut config = config(&server, "");
        config.servers[0].port = proxy.port();
        let zk = connect(&config);
        zk.connected().await;
        zk.create("/nodepool/nodes", b"").await.unwrap();
        zk.create("/nodepool/requests", b"").await.unwrap();
        let other = stranger(&server, "").await;
        Self { _server: server, proxy, zk, other, lost: 0 }
    }

    fn lose(&self, nth: usize) {
        self.proxy.lose_answer(nth);
    }

    fn done(&mut self) {
        self.lost += usize::from(self.proxy.has_lost());
        self.proxy.lose_answer(0);
    }

    async fn children(&self, path: &str) -> usize {
        self.other.list_children(path).await.unwrap().len()
    }

    /// Nothing is done where the connection breaks before the server has heard of it, as by an answer to somebody else.
    async fn lock_and_update<T: Record>(
        &self,
        id: &T::Id,
        path: &str,
        change: impl FnOnce(&mut T) -> bool + Copy,
    ) -> Held<T> {
        let start = Instant::now();
        while start.elapsed() < SOON {
            tokio::time::timeout(SOON, self.zk.cache().until_ready()).await.unwrap();
            let before = self.other.get_data(path).await.unwrap().1;
            if let Some(held) = self.zk.lock_and_update(id, change).await.unwrap() {
                return held;
            }
            assert_eq!(self.other.get_data(path).await.unwrap().1, before, "it says that nothing was done");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("{path} is free, and cannot be locked");
    }

    async fn held(&self) -> Held<Node> {
        self.zk.create_node(node(1.0), |_| ()).await.unwrap()
    }
}

#[tokio::test]
async fn records_are_created_once() {
    let mut stage = Stage::new().await;
    for nth in 1..=REQUESTS {
        stage.lose(nth);
        let event = format!("event-{nth}");
        let created = current(&stage.zk).await.create_request("900", nth % 2 == 0, request(&event)).await.unwrap();
        stage.done();
        assert_eq!(stage.children("/nodepool/requests").await, nth);
        assert!(stage.other.check_stat(&format!("/nodepool/requests/{}", created.id)).await.unwrap().is_some());
    }
    for nth in 1..=REQUESTS {
        stage.lose(nth);
        let held = stage.held().await;
        stage.done();
        assert_eq!(stage.children("/nodepool/nodes").await, nth);
        let path = format!("/nodepool/nodes/{}", held.record().id);
        assert_eq!(stage.other.get_data(&path).await.unwrap().0, held.record().write());
        assert_eq!(held.record().state, NodeState::Building);
        assert_eq!(stage.children(&format!("{path}/lock")).await, 1);
        held.unlock().await.unwrap();
        assert_eq!(stage.children(&format!("{path}/lock")).await, 0);
    }
    // One request creates a request, two a node.
    assert!(stage.lost >= 3, "only {} answers were lost", stage.lost);
    stage.zk.close().await;
}

/// Whoever counts records after a creation must not find them complete without what was created.
#[tokio::test]
async fn current_records_have_what_was_created_by_a_lost_answer() {
    let mut stage = Stage::new().await;
    stage.zk.cache().until_ready().await;
    let cache = stage.zk.cache().clone();
    let current_records = async |session| loop {
        if let Some(records) = cache.snapshot_in(session) {
            break records;
        }
        tokio::task::yield_now().await;
    };
    for nth in 1..=REQUESTS {
        let zk = current(&stage.zk).await;
        stage.lose(nth);
        let created = zk.create_request("900", nth % 2 == 0, request(&format!("event-{nth}"))).await.unwrap();
        assert!(current_records(zk.id()).await.requests.contains_key(&created.id));
        stage.done();
        stage.lose(nth);
        let held = zk.create_node(node(1.0), |_| ()).await.unwrap();
        assert!(current_records(zk.id()).await.nodes.contains_key(&held.record().id));
        stage.done();
    }
    assert!(stage.lost >= 3, "only {} answers were lost", stage.lost);
    stage.zk.close().await;
}

/// A request for several nodes of one label has them created beside each other, with the same text but for their times.
#[tokio::test]
async fn nodes_created_in_the_same_moment_are_not_taken_for_each_other() {
    const AT_ONCE: usize = 8;
    let mut stage = Stage::new().await;
    for nth in 1..=AT_ONCE {
        stage.lose(nth);
        let created = (0..AT_ONCE).map(|_| stage.held());
        let created = tokio::time::timeout(SOON, futures::future::join_all(created)).await.unwrap();
        stage.done();
        let ids: BTreeSet<_> = created.iter().map(|held| held.record().id.clone()).collect();
        assert_eq!(ids.len(), AT_ONCE, "each has its own: {ids:?}");
        assert_eq!(stage.children("/nodepool/nodes").await, nth * AT_ONCE);
    }
    assert!(stage.lost >= AT_ONCE / 2, "only {} answers were lost", stage.lost);
    stage.zk.close().await;
}

#[tokio::test]
async fn writes_under_a_lock_happen_once_and_the_lock_is_left() {
    let mut stage = Stage::new().await;
    for nth in 1..=REQUESTS {
        let mut held = stage.held().await;
        let path = format!("/nodepool/nodes/{}", held.record().id);
        stage.lose(nth);
        held.update(|node| node.comment = Some("one".to_owned())).await.unwrap();
        stage.done();
        let (data, stat) = stage.other.get_data(&path).await.unwrap();
        assert_eq!(data, held.record().write());
        assert_eq!(stat.version, held.stat().version, "the lost answer's stat was found");
        stage.lose(nth);
        held.update_and_unlock(|node| node.set_state(NodeState::Ready, 2.0)).await.map_err(|(_, e)| e).unwrap();
        stage.done();
        assert_eq!(stage.children(&format!("{path}/lock")).await, 0);

        stage.lose(nth);
        let held = stage.zk.try_lock_node(&path[path.len() - 10..].into()).await.unwrap().held().expect("it is free");
        stage.done();
        assert_eq!(held.record().state, NodeState::Ready);
        assert_eq!(stage.children(&format!("{path}/lock")).await, 1);
        stage.lose(nth);
        held.unlock().await.unwrap();
        stage.done();
        assert_eq!(stage.children(&format!("{path}/lock")).await, 0);

        stage.lose(nth);
        let held = stage.zk.lock_node(&path[path.len() - 10..].into(), SOON).await.unwrap().expect("it is free");
        stage.done();
        assert_eq!(stage.children(&format!("{path}/lock")).await, 1);
        stage.lose(nth);
        held.delete(3.0).await.unwrap();
        stage.done();
        assert!(stage.other.check_stat(&path).await.unwrap().is_none());
    }
    assert!(stage.lost >= 6, "only {} answers were lost", stage.lost);
    stage.zk.close().await;
}

#[tokio::test]
async fn requests_are_locked_and_rows_deleted_all_the_same() {
    let mut stage = Stage::new().await;
    for nth in 1..=REQUESTS {
        let created =
            current(&stage.zk).await.create_request("200", false, request(&format!("event-{nth}"))).await.unwrap();
        let dir = format!("/nodepool/requests-lock/{}", created.id);
        stage.lose(nth);
        let held = stage.zk.try_lock_request(&created.id).await.unwrap().held().expect("it is free");
        stage.done();
        assert_eq!(stage.children(&dir).await, 1);
        held.unlock().await.unwrap();
        assert_eq!(stage.children(&dir).await, 0);
        stage.lose(nth);
        current(&stage.zk).await.delete_request(&created.id).await.unwrap();
        stage.done();
        stage.lose(nth);
        current(&stage.zk).await.delete_request_lock(&created.id).await.unwrap();
        stage.done();
        assert_eq!(stage.children("/nodepool/requests").await, 0);
        assert_eq!(stage.children("/nodepool/requests-lock").await, 0);
    }
    assert!(stage.lost >= 3, "only {} answers were lost", stage.lost);
    stage.zk.close().await;
}

#[tokio::test]
async fn what_is_locked_and_written_at_once_is_so_once() {
    let mut stage = Stage::new().await;
    stage.zk.cache().until_ready().await;
    for nth in 1..=REQUESTS {
        let created =
            current(&stage.zk).await.create_request("200", false, request(&format!("event-{nth}"))).await.unwrap();
        let (path, dir) =
            (format!("/nodepool/requests/{}", created.id), format!("/nodepool/requests-lock/{}", created.id));
        stage.lose(nth);
        let accept = |request: &mut NodeRequest| {
            request.set_state(RequestState::Pending, 2.0);
            true
        };
        let held = stage.lock_and_update(&created.id, &path, accept).await;
        stage.done();
        let (data, stat) = stage.other.get_data(&path).await.unwrap();
        assert_eq!((data, stat.version), (held.record().write(), held.stat().version));
        assert_eq!(stage.children(&dir).await, 1);

        // Our own deletion of the contender is the last that is known of an earlier try.
        let nodes = [stage.held().await, stage.held().await];
        let locks = nodes.each_ref().map(|node| format!("/nodepool/nodes/{}/lock", node.record().id));
        stage.lose(nth);
        let fulfil = |request: &mut NodeRequest| request.set_state(RequestState::Fulfilled, 3.0);
        held.update_and_unlock_with(nodes.into(), fulfil).await.unwrap();
        stage.done();
        let (data, stat) = stage.other.get_data(&path).await.unwrap();
        assert!(String::from_utf8(data).unwrap().contains("fulfilled"));
        assert_eq!(stat.version, 2, "written once each time");
        assert_eq!(stage.children(&dir).await, 0);
        for lock in &locks {
            assert_eq!(stage.children(lock).await, 0);
        }

        let id = locks[0][locks[0].len() - 15..locks[0].len() - 5].into();
        // The records are read anew where the connection broke.
        let cache = stage.zk.cache();
        let known =
            || cache.ready() && cache.read(|records| records.nodes.get(&id).is_some_and(|node| !node.is_locked()));
        nodepool_testing::wait_for(SOON, "the node is unlocked", async || known().then_some(())).await;
        stage.lose(nth);
        let used = |node: &mut Node| {
            node.set_state(NodeState::Deleting, 4.0);
            true
        };
        let held = stage.lock_and_update(&id, locks[0].trim_end_matches("/lock"), used).await;
        stage.done();
        assert_eq!(stage.children(&locks[0]).await, 1);
        assert_eq!(held.record().state, NodeState::Deleting);
        held.delete(5.0).await.unwrap();
    }
    assert!(stage.lost >= 3, "only {} answers were lost", stage.lost);
    stage.zk.close().await;
}

/// Zuul deletes a request without a lock, at any time.
#[tokio::test]
async fn a_request_that_is_withdrawn_while_a_write_is_in_doubt_leaves_no_lock() {
    let stage = Stage::new().await;
    let created = current(&stage.zk).await.create_request("200", false, request("event")).await.unwrap();
    let held = stage.zk.try_lock_request(&created.id).await.unwrap().held().unwrap();
    let nodes = [stage.held().await, stage.held().await];
    let nodes_locks = nodes.each_ref().map(|node| format!("/nodepool/nodes/{}/lock", node.record().id));
    stage.other.delete(&format!("/nodepool/requests/{}", created.id), None).await.unwrap();
    stage.proxy.lose_request();
    let fulfil = |request: &mut NodeRequest| request.set_state(RequestState::Fulfilled, 3.0);
    let result = held.update_and_unlock_with(nodes.into(), fulfil).await;
    assert!(matches!(&result, Err(NotUnlocked::Failed(error)) if error.is_no_node()), "{result:?}");
    for lock in nodes_locks.iter().chain([&format!("/nodepool/requests-lock/{}", created.id)]) {
        let is_free = async || (stage.children(lock).await == 0).then_some(());
        nodepool_testing::wait_for(SOON, "the locks are given back", is_free).await;
    }
    stage.zk.close().await;
}
