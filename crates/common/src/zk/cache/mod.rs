//! [`Cache`]: everything under `/nodepool` as last seen, for planners to read without a round trip.
//!
//! One persistent recursive watch on `/nodepool` (ZooKeeper 3.6 or newer, as upstream) says what changed; what has
//! data is read again, contenders of locks are known from their names alone. In each new session, and after each
//! broken connection (a server does not repeat what a persistent watch missed meanwhile, ZOOKEEPER-4698), the tree is
//! walked anew. Between that nothing is read: an idle cache is silent.
//!
//! Events carry no data, so a newer state can be read before its event arrives; data is applied only if its `mzxid` is
//! newer. Our own writes go in at once, so that a planner never sees what we have just changed.
//!
//! [`tree`] is the state and its changes, [`follow`] the task that feeds it.

mod follow;
mod tree;
mod walk;

use std::sync::{
    Arc, PoisonError, RwLock,
    atomic::{AtomicBool, AtomicUsize, Ordering},
};

use tokio::sync::watch;

use self::tree::Tree;
use super::{
    Shared,
    nodes::now,
    paths::{Lock, Spot},
};
use crate::model::{Node, NodeId, NodeRequest, Records, Stat};

/// Everything under `/nodepool`, as last seen. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Cache {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    tree: RwLock<Tree>,
    started: AtomicBool,
    ready: watch::Sender<bool>,
    changed: watch::Sender<u64>,
    waiting: AtomicUsize,
    reading: AtomicUsize,
}

/// How much the cache has yet to do, for the metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CacheQueues {
    /// Changes whose data has not been asked for yet.
    pub events: usize,
    /// Reads that have not been answered yet.
    pub playback: usize,
}

impl Default for Cache {
    fn default() -> Self {
        Self {
            inner: Arc::new(Inner {
                tree: RwLock::default(),
                started: AtomicBool::new(false),
                ready: watch::Sender::new(false),
                changed: watch::Sender::new(0),
                waiting: AtomicUsize::new(0),
                reading: AtomicUsize::new(0),
            }),
        }
    }
}

impl Cache {
    /// Looks at the records. The closure must not block, and not call the cache.
    pub fn read<R>(&self, look: impl FnOnce(&Records) -> R) -> R {
        look(&self.inner.tree.read().unwrap_or_else(PoisonError::into_inner).records)
    }

    /// Whether the records are those of a live connection: the walk is done, and what happened during it applied.
    /// While false the records stay, stale.
    pub fn ready(&self) -> bool {
        *self.inner.ready.borrow()
    }

    /// Waits until [`Self::ready`].
    pub async fn until_ready(&self) {
        // The sender lives as long as we do.
        let _ = self.inner.ready.subscribe().wait_for(|ready| *ready).await;
    }

    /// A number that grows with each change.
    pub fn changed(&self) -> watch::Receiver<u64> {
        self.inner.changed.subscribe()
    }

    /// How much the cache has yet to do.
    pub fn queues(&self) -> CacheQueues {
        CacheQueues {
            events: self.inner.waiting.load(Ordering::Relaxed),
            playback: self.inner.reading.load(Ordering::Relaxed),
        }
    }

    pub(super) fn ensure_started(&self, shared: &Arc<Shared>) {
        if !self.inner.started.swap(true, Ordering::SeqCst) {
            shared.spawn(follow::follow(shared.clone(), self.clone()));
        }
    }

    fn heir(&self) -> Tree {
        self.inner.tree.read().unwrap_or_else(PoisonError::into_inner).heir()
    }

    fn is_started(&self) -> bool {
        self.inner.started.load(Ordering::Relaxed)
    }

    /// Changes the tree; whoever waits for a change is told if there was one.
    fn change(&self, change: impl FnOnce(&mut Tree) -> bool) {
        if change(&mut self.inner.tree.write().unwrap_or_else(PoisonError::into_inner)) {
            self.inner.changed.send_modify(|generation| *generation += 1);
        }
    }

    fn set_ready(&self, ready: bool) {
        let differs = self.inner.ready.send_if_modified(|now| std::mem::replace(now, ready) != ready);
        if differs {
            self.inner.changed.send_modify(|generation| *generation += 1);
        }
    }

    fn set_queues(&self, waiting: usize, reading: usize) {
        self.inner.waiting.store(waiting, Ordering::Relaxed);
        self.inner.reading.store(reading, Ordering::Relaxed);
    }

    /// We wrote a node, or read it under its lock.
    pub(super) fn wrote_node(&self, node: &Arc<Node>, stat: Stat) {
        if self.is_started() {
            self.change(|tree| tree.put_node(node.id.clone(), Ok(node.clone()), stat, now()));
        }
    }

    /// We wrote a request, or read it under its lock.
    pub(super) fn wrote_request(&self, request: &Arc<NodeRequest>, stat: Stat) {
        if self.is_started() {
            self.change(|tree| tree.put_request(request.id.clone(), Ok(request.clone()), stat, now()));
        }
    }

    /// We deleted a node.
    pub(super) fn deleted_node(&self, id: &NodeId) {
        if self.is_started() {
            self.change(|tree| tree.node_is_gone(id));
        }
    }

    /// We hold a lock.
    pub(super) fn locked(&self, lock: Lock, contender: &str) {
        if self.is_started() {
            self.change(|tree| tree.add(&Spot::Contender(lock, contender.to_owned()), now()));
        }
    }
}
