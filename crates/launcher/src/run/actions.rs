//! Carrying a decision out: one task, the locks that it works with, its end reported.

use std::sync::Arc;

use nodepool_common::{daemon::Daemon, zk::ZkError};
use tracing::{debug, info};

use super::{
    Launcher,
    book::{Book, Locks},
    events::{Ending, Outcome, Reports},
    placing::NoPlace,
    requests::forget,
};
use crate::plan::{Decision, Want};

impl Launcher {
    /// Starts an action; what it works on is left alone until it has ended, however it ends.
    pub(super) fn carry_out(self: &Arc<Self>, book: &mut Book, decision: Decision) {
        let Some(locks) = book.locks_for(&decision) else { return self.wake.notify_one() };
        if let Decision::StopSeeking { node, reason } = &decision {
            return book.stop_seeking(node, NoPlace::Withdrawn(reason.to_string()));
        }
        let reports = book.reports();
        let ending = Ending::of(book.begin(&decision), reports.clone());
        let this = Arc::clone(self);
        let stopped = self.ending.clone();
        self.tasks.spawn(async move {
            tokio::select! {
                biased;
                outcome = this.act(decision, locks, &reports) => ending.with(outcome.unwrap_or_else(Outcome::Failed)),
                () = stopped.cancelled() => {}
            }
        });
    }

    async fn act(self: &Arc<Self>, decision: Decision, locks: Locks, reports: &Reports) -> Result<Outcome, ZkError> {
        debug!(logger = "nodepool.Planner", "Decided: {decision:?}");
        // Each in memory of its own: every task would have room for the largest.
        let done = match &decision {
            Decision::Accept { pool, request } => return Box::pin(self.accept(pool, request, reports)).await,
            Decision::Decline { request, pools } => return Box::pin(self.decline(request, pools, reports)).await,
            Decision::Supply { pool, request, reuse, launch } => {
                Box::pin(self.supply(pool, request, reuse, launch, reports)).await
            }
            Decision::Fulfil { .. }
            | Decision::GiveUp { .. }
            | Decision::PutBack { .. }
            | Decision::Forget { .. }
            | Decision::LetGo { .. } => return Box::pin(self.act_with_locks(decision, locks)).await,
            Decision::ResetLost { request } => Box::pin(self.reset_lost(request, reports)).await,
            Decision::RemoveRequestLock { request } => {
                Box::pin(self.in_session(reports).delete_request_lock(request)).await
            }
            Decision::CreateMinReady { label, count } => Box::pin(self.create_min_ready(label, *count, reports)).await,
            Decision::FinishMinReady { request } => return Box::pin(self.finish_min_ready(request, reports)).await,
            Decision::Retire { node, reason } => Box::pin(self.retire(node, reason, reports)).await,
            Decision::Delete { node } => return Box::pin(self.delete(node, reports)).await,
            Decision::Attend { pool, host, missing } => {
                return Box::pin(self.attend(pool, host, missing, reports)).await;
            }
            Decision::OrderBacking { provider, label, backing, count } => {
                Box::pin(self.order_backing(provider, label, backing, *count, reports)).await
            }
            // Is done when it is decided.
            Decision::StopSeeking { .. } => Ok(()),
            Decision::SettleBacking { provider, request } => {
                return Box::pin(self.settle_backing(provider, request, reports)).await;
            }
            Decision::LetBackingGo { provider, node, reason } => {
                let shown = locks.seekers.shown;
                return Box::pin(self.let_backing_go(provider, node, reason, shown, reports)).await;
            }
            Decision::Place { provider, on, .. } => {
                return Box::pin(self.place(provider, on, locks.seekers, reports)).await;
            }
            Decision::Deallocate { node, request } => Box::pin(self.deallocate(node, request, reports)).await,
            Decision::RemoveRecord { node } => {
                info!(logger = "nodepool.CleanupWorker", node = %node, "Removing a node record that holds nothing");
                Box::pin(self.in_session(reports).delete_node_record(node)).await
            }
        };
        done.map(|()| Outcome::Done)
    }

    /// What is done under locks that we have had since before.
    async fn act_with_locks(&self, decision: Decision, locks: Locks) -> Result<Outcome, ZkError> {
        let Locks { request, nodes, .. } = locks;
        let done = match (decision, request) {
            (Decision::Fulfil { nodes: ids, .. }, Some((held, pool))) => {
                return self.fulfil(held, &pool, nodes, &ids).await;
            }
            (Decision::GiveUp { reasons, .. }, Some((held, pool))) => return self.give_up(held, &pool, &reasons).await,
            (Decision::PutBack { reason, .. }, Some((held, pool))) => self.put_back(held, &pool, &reason).await,
            (Decision::Forget { .. }, Some((held, pool))) => {
                self.spans.ended(&held.record().id, "withdrawn", None);
                forget(held, &pool).await
            }
            (Decision::LetGo { reason, .. }, _) => {
                for held in nodes {
                    self.let_go(held, &reason).await?;
                }
                Ok(())
            }
            _ => Ok(()),
        };
        done.map(|()| Outcome::Done)
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
}
