//! [`Book`]: what this launcher holds and does at the moment.
//!
//! It pairs the planner's view ([`Holdings`]) with the locks themselves. An action takes a lock out of the book while
//! it works with it and puts it back; the view keeps saying that we hold it and that it is busy. Nothing here
//! survives the session: when that is lost, the book is emptied and everything is planned anew from the records.

use std::{
    collections::{BTreeSet, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use nodepool_common::{
    config::StaticHost,
    model::{LabelName, Node, NodeId, NodeRequest, ProviderName, RequestId, Timestamp},
    zk::Held,
};
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use super::metastatic::NoPlace;
use crate::plan::{HeldNode, HeldRequest, Holdings, HostKey, PoolKey};

/// What this launcher holds and does.
#[derive(Debug, Default)]
pub struct Book {
    inner: Mutex<Inner>,
}

/// The book, opened.
#[derive(Debug, Default)]
pub struct Inner {
    /// What the planner sees.
    pub view: Holdings,
    requests: HashMap<RequestId, Held<NodeRequest>>,
    nodes: HashMap<NodeId, Held<Node>>,
    /// How launches that wait for a place hear that none will come; those in the view's `seeking`.
    seekers: HashMap<NodeId, oneshot::Sender<NoPlace>>,
    /// Static hosts that speak SSH, as they were when they were last connected to and in order.
    pub met: HashMap<HostKey, Met>,
    /// Failures in a row, for back-off.
    failures: HashMap<String, u32>,
    /// Cancelled when the session is lost: launches stop, their locks are void.
    session: CancellationToken,
}

/// What is known of a static host since it was last connected to.
#[derive(Clone, Debug)]
pub struct Met {
    /// Its configuration then.
    pub host: Arc<StaticHost>,
    /// The host keys that it has.
    pub keys: Vec<String>,
    /// When.
    pub at: Instant,
}

impl Book {
    /// Opens the book. Never held across an await.
    pub fn open(&self) -> MutexGuard<'_, Inner> {
        // A panic in an action leaves the book usable: every entry is checked against the records again.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Forgets everything: the session is lost.
    pub fn start_over(&self) {
        // Cancelled while the book is open: no action can enter anything of the old session into the new book.
        let mut inner = self.open();
        inner.session.cancel();
        *inner = Inner::default();
    }
}

impl Inner {
    /// Ends with the session.
    pub fn session(&self) -> CancellationToken {
        self.session.clone()
    }

    /// Whether nothing runs: no lock held, no action under way.
    pub fn is_idle(&self) -> bool {
        let view = &self.view;
        view.requests.is_empty()
            && view.nodes.is_empty()
            && view.busy_nodes.is_empty()
            && view.busy_requests.is_empty()
            && view.starting.is_empty()
    }

    /// Enters an accepted request.
    pub fn hold_request(&mut self, held: Held<NodeRequest>, pool: PoolKey) {
        let id = held.record().id.clone();
        self.view.requests.insert(id.clone(), HeldRequest { pool });
        self.requests.insert(id, held);
    }

    /// Takes a request's lock out to work with it.
    pub fn take_request(&mut self, id: &RequestId) -> Option<Held<NodeRequest>> {
        self.requests.remove(id)
    }

    /// Strikes a request.
    pub fn drop_request(&mut self, id: &RequestId) {
        self.view.requests.remove(id);
        self.requests.remove(id);
    }

    /// Enters a node whose lock is in the hands of its launch.
    pub fn hold_launching(&mut self, node: NodeId, request: RequestId, label: LabelName) {
        self.view.nodes.insert(node, HeldNode { request, label, launching: true, failure: None });
    }

    /// Enters a ready node.
    pub fn hold_node(&mut self, held: Held<Node>, request: RequestId, label: LabelName) {
        let id = held.record().id.clone();
        self.view.nodes.insert(id.clone(), HeldNode { request, label, launching: false, failure: None });
        self.nodes.insert(id, held);
    }

    /// A launch is over; its lock comes back. Where the session changed meanwhile the lock is void and dropped.
    pub fn launched(&mut self, held: Held<Node>, failure: Option<String>) {
        if let Some(view) = self.view.nodes.get_mut(&held.record().id) {
            view.launching = false;
            view.failure = failure;
            self.nodes.insert(held.record().id.clone(), held);
        }
    }

    /// A launch ended without giving its lock back: the lock is lost, the records decide.
    pub fn launch_vanished(&mut self, id: &NodeId) {
        if self.view.nodes.get(id).is_some_and(|node| node.launching) {
            self.view.nodes.remove(id);
        }
    }

    /// Takes a node's lock out to work with it, and strikes the node.
    pub fn take_node(&mut self, id: &NodeId) -> Option<Held<Node>> {
        self.view.nodes.remove(id);
        self.nodes.remove(id)
    }

    /// Enters a launch that waits for a place on a backing node. The answer comes only where there will be none.
    pub fn seek(&mut self, node: NodeId, pool: PoolKey, label: LabelName) -> oneshot::Receiver<NoPlace> {
        let (told, hears) = oneshot::channel();
        self.seekers.insert(node.clone(), told);
        self.view.seeking.insert(node, (pool, label));
        hears
    }

    /// Strikes a launch that waits no longer.
    pub fn sought(&mut self, node: &NodeId) {
        self.seekers.remove(node);
        self.view.seeking.remove(node);
    }

    /// Tells a launch that there will be no place for it. It counts as waiting no longer.
    pub fn stop_seeking(&mut self, node: &NodeId, why: NoPlace) {
        self.view.seeking.remove(node);
        if let Some(seeker) = self.seekers.remove(node) {
            // One that has ended is not interested.
            let _ = seeker.send(why);
        }
    }

    /// Launches that wait for a place, of a provider and a label.
    pub fn seeking(&self, provider: &ProviderName, label: &LabelName) -> impl Iterator<Item = &NodeId> {
        let wanted = self.view.seeking.iter().filter(move |(_, (pool, of))| pool.provider == *provider && of == label);
        wanted.map(|(node, _)| node)
    }

    /// Notes since when nothing stands on the backing nodes.
    pub fn note_idle(&mut self, idle: BTreeSet<NodeId>, now: Timestamp) {
        self.view.idle_since.retain(|node, _| idle.contains(node));
        for node in idle {
            self.view.idle_since.entry(node).or_insert(now);
        }
    }

    /// A static host that speaks SSH was connected to and is in order.
    pub fn meets(&mut self, key: &HostKey, host: &Arc<StaticHost>, keys: &[String]) {
        self.met.insert(key.clone(), Met { host: Arc::clone(host), keys: keys.to_vec(), at: Instant::now() });
    }

    /// The next back-off for something that failed again: doubling from `first` to `most` seconds.
    pub fn back_off(&mut self, what: &str, first: f64, most: f64) -> f64 {
        let failures = self.failures.entry(what.to_owned()).or_default();
        *failures = failures.saturating_add(1);
        (first * 2f64.powi(i32::try_from(*failures - 1).unwrap_or(i32::MAX))).min(most)
    }

    /// Something worked: its back-off starts over.
    pub fn worked(&mut self, what: &str) {
        self.failures.remove(what);
    }

    /// The clock was set by that many seconds: what has to wait for a time waits no longer and no shorter.
    pub fn clock_stepped(&mut self, step: f64) {
        let view = &mut self.view;
        let times = view
            .nodes_after
            .values_mut()
            .chain(view.requests_after.values_mut())
            .chain(view.min_ready_after.values_mut())
            .chain(view.hosts_after.values_mut())
            .chain(view.backing_after.values_mut())
            .chain(view.not_kept.values_mut())
            .chain(view.idle_since.values_mut());
        times.for_each(|at| *at += step);
    }

    /// Drops notes about things that are gone.
    pub fn tidy(&mut self, now: Timestamp) {
        self.view.nodes_after.retain(|_, at| *at > now);
        self.view.requests_after.retain(|_, at| *at > now);
        self.view.min_ready_after.retain(|_, at| *at > now);
        self.view.hosts_after.retain(|_, at| *at > now);
        self.view.backing_after.retain(|_, at| *at > now);
        self.view.not_kept.retain(|_, at| *at > now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = 1_000_000.0;

    #[test]
    fn what_waits_for_a_time_waits_as_long_as_before_when_the_clock_is_set() {
        for step in [3600.0, -3600.0] {
            let mut book = Inner::default();
            let (view, at) = (&mut book.view, NOW + 60.0);
            let id = nodepool_common::config::HostId { name: "a".to_owned(), username: "zuul".to_owned(), port: 22 };
            view.nodes_after.insert("1".into(), at);
            view.requests_after.insert("r".into(), at);
            view.min_ready_after.insert("small".into(), at);
            view.hosts_after.insert(HostKey { provider: "p".into(), host: id }, at);
            view.backing_after.insert(("p".into(), "small".into()), at);
            view.not_kept.insert("2".into(), at);
            view.idle_since.insert("3".into(), NOW - 10.0);
            book.clock_stepped(step);
            assert_eq!(book.view.idle_since.get("3"), Some(&(NOW - 10.0 + step)));
            let mut waiting_at = |seconds: f64| {
                book.tidy(NOW + step + seconds);
                let view = &book.view;
                [
                    view.nodes_after.len(),
                    view.requests_after.len(),
                    view.min_ready_after.len(),
                    view.hosts_after.len(),
                    view.backing_after.len(),
                    view.not_kept.len(),
                ]
            };
            assert_eq!(waiting_at(59.0), [1; 6], "{step}");
            assert_eq!(waiting_at(61.0), [0; 6], "{step}");
        }
    }
}
