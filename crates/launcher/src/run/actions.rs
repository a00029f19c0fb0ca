//! Carrying a decision out: one task, what it works on marked busy, its end noted.

use std::sync::Arc;

use nodepool_common::{
    model::{LabelName, NodeId, ProviderName, RequestId},
    sys::clock,
    zk::ZkError,
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info};

use super::{Launcher, metastatic::NoPlace};
use crate::plan::{Decision, HostKey, Want};

/// Seconds before an action that failed is tried again.
pub(super) const AFTER_AN_ERROR: f64 = 1.0;
/// So many requests are accepted at once. ZooKeeper answers in the order in which it is asked: were a thousand requests
/// accepted at once, each write for the node of the first one would have to wait for all of them.
pub(super) const ACCEPTS_AT_ONCE: usize = 32;

impl Launcher {
    /// Starts an action; what it works on is busy until it ends, however it ends.
    pub(super) fn carry_out(self: &Arc<Self>, decision: Decision) {
        // What was decided in a session is not begun in another one: nobody reckons with it any more.
        let session = self.book.open().session();
        let busy = self.mark_busy(&decision);
        let this = Arc::clone(self);
        let ending = self.ending.clone();
        self.tasks.spawn(async move {
            let _busy = busy;
            tokio::select! {
                () = this.act(decision, &session) => {}
                () = ending.cancelled() => {}
            }
        });
    }

    async fn act(self: &Arc<Self>, decision: Decision, session: &CancellationToken) {
        debug!(logger = "nodepool.Planner", "Decided: {decision:?}");
        // Each in memory of its own, taken when it begins: a task would have room for the largest from the first moment, also where
        // a thousand wait for their turn.
        let result = match &decision {
            Decision::Accept { pool, request } => {
                // Is never closed.
                let _turn = self.accepts.acquire().await.ok();
                Box::pin(self.accept(pool, request, session)).await
            }
            Decision::Decline { request, pools } => Box::pin(self.decline(request, pools)).await,
            Decision::Supply { pool, request, reuse, launch } => {
                Box::pin(self.supply(pool, request, reuse, launch)).await
            }
            Decision::Fulfil { request, nodes } => Box::pin(self.fulfil(request, nodes)).await,
            Decision::GiveUp { request, reasons } => Box::pin(self.give_up(request, reasons)).await,
            Decision::PutBack { request, reason } => Box::pin(self.put_back(request, reason)).await,
            Decision::Forget { request } => Box::pin(self.forget(request)).await,
            Decision::ResetLost { request } => Box::pin(self.reset_lost(request)).await,
            Decision::RemoveRequestLock { request } => Box::pin(self.zk.delete_request_lock(request)).await,
            Decision::CreateMinReady { label, count } => Box::pin(self.create_min_ready(label, *count)).await,
            Decision::FinishMinReady { request } => Box::pin(self.finish_min_ready(request)).await,
            Decision::LetGo { node, reason } => Box::pin(self.let_go(node, reason)).await,
            Decision::Retire { node, reason } => Box::pin(self.retire(node, reason)).await,
            Decision::Delete { node } => Box::pin(self.delete(node)).await,
            Decision::Attend { pool, host, missing } => Box::pin(self.attend(pool, host, missing)).await,
            Decision::OrderBacking { provider, label, backing, count } => {
                Box::pin(self.order_backing(provider, label, backing, *count)).await
            }
            Decision::StopSeeking { node, reason } => {
                self.book.open().stop_seeking(node, NoPlace::Withdrawn(reason.to_string()));
                Ok(())
            }
            Decision::SettleBacking { provider, request } => Box::pin(self.settle_backing(provider, request)).await,
            Decision::LetBackingGo { provider, node, reason } => {
                Box::pin(self.let_backing_go(provider, node, reason)).await
            }
            Decision::Deallocate { node, request } => Box::pin(self.deallocate(node, request)).await,
            Decision::RemoveRecord { node } => {
                info!(logger = "nodepool.CleanupWorker", node = %node, "Removing a node record that holds nothing");
                Box::pin(self.zk.delete_node_record(node)).await
            }
        };
        if let Err(error) = result {
            self.action_failed(&decision, &error);
        }
    }

    /// Notes that an action failed, so that the next plan does not repeat it at once.
    fn action_failed(&self, decision: &Decision, error: &ZkError) {
        if error.is_transient() {
            info!(logger = "nodepool.NodePool", "Will be tried again: {error}");
        } else if error.is_no_node() {
            // Whatever was wanted of it, its deletion above all, nobody wants it of what is gone.
            info!(logger = "nodepool.NodePool", "Somebody else was faster: {error}");
        } else {
            error!(logger = "nodepool.NodePool", "{error} (while carrying out {decision:?})");
        }
        let after = clock::now() + AFTER_AN_ERROR;
        let mut book = self.book.open();
        let (request, node) = decision.subjects();
        if let Some(request) = request {
            book.view.requests_after.insert(request.clone(), after);
        }
        if let Some(node) = node {
            book.view.nodes_after.insert(node.clone(), after);
        }
        if let Decision::CreateMinReady { label, .. } = decision {
            book.view.min_ready_after.insert(label.clone(), after);
        }
        if let Decision::OrderBacking { provider, label, .. } = decision {
            book.view.backing_after.insert((provider.clone(), label.clone()), after);
        }
        if let Decision::Attend { pool, host, .. } = decision {
            let key = HostKey { provider: pool.provider.clone(), host: host.id.clone() };
            book.view.hosts_after.insert(key, after);
        }
    }

    /// Finds out what the planner wants to know, unless that is under way.
    pub(super) fn find_out(self: &Arc<Self>, want: Want) {
        if let Some(question) = self.clouds.ask(want) {
            let this = Arc::clone(self);
            self.spawn(|_| async move {
                this.answer(question).await;
                this.wake.notify_one();
            });
        }
    }

    /// Marks what a decision works on.
    fn mark_busy(self: &Arc<Self>, decision: &Decision) -> Busy {
        let mut book = self.book.open();
        let (request, node) = decision.subjects();
        if let Some(request) = request {
            book.view.busy_requests.insert(request.clone());
        }
        if let Some(node) = node {
            book.view.busy_nodes.insert(node.clone());
        }
        let mut nodes: Vec<NodeId> = node.into_iter().cloned().collect();
        let mut starting = false;
        let mut label = None;
        let mut host = None;
        let mut backing = None;
        match decision {
            Decision::Supply { pool, request, reuse, launch } => {
                starting = true;
                for (node, _) in reuse {
                    book.view.busy_nodes.insert(node.clone());
                    nodes.push(node.clone());
                }
                for new in launch {
                    book.view.starting.push((request.clone(), pool.clone(), new.label.clone()));
                }
            }
            Decision::Accept { pool, request } => {
                book.view.accepting.insert(request.clone(), pool.clone());
            }
            Decision::Attend { pool, host: of, .. } => {
                let key = HostKey { provider: pool.provider.clone(), host: of.id.clone() };
                book.view.busy_hosts.insert(key.clone());
                host = Some(key);
            }
            Decision::OrderBacking { provider, label: of, .. } => {
                backing = Some((provider.clone(), of.clone()));
                book.view.busy_backing.extend(backing.clone());
            }
            Decision::CreateMinReady { label: of, .. } => {
                book.view.busy_labels.insert(of.clone());
                label = Some(of.clone());
            }
            _ => {}
        }
        Busy {
            launcher: Arc::clone(self),
            session: book.session(),
            request: request.cloned(),
            nodes,
            label,
            host,
            backing,
            starting,
        }
    }
}

/// What an action works on; released when it ends, also by a panic. An action of an older session has nothing in the
/// book any more.
struct Busy {
    launcher: Arc<Launcher>,
    session: CancellationToken,
    request: Option<RequestId>,
    nodes: Vec<NodeId>,
    label: Option<LabelName>,
    host: Option<HostKey>,
    backing: Option<(ProviderName, LabelName)>,
    starting: bool,
}

impl Drop for Busy {
    fn drop(&mut self) {
        let mut book = self.launcher.book.open();
        if self.session.is_cancelled() {
            return;
        }
        for node in &self.nodes {
            book.view.busy_nodes.remove(node);
        }
        if let Some(request) = &self.request {
            book.view.busy_requests.remove(request);
            book.view.accepting.remove(request);
            if self.starting {
                book.view.starting.retain(|(of, _, _)| of != request);
            }
        }
        if let Some(label) = &self.label {
            book.view.busy_labels.remove(label);
        }
        if let Some(backing) = &self.backing {
            book.view.busy_backing.remove(backing);
        }
        if let Some(host) = &self.host {
            book.view.busy_hosts.remove(host);
        }
        drop(book);
        self.launcher.wake.notify_one();
    }
}
