//! Actions on nodes: free, retire, delete.

use std::{fmt::Display, sync::Arc, time::Duration};

use nodepool_common::{
    model::{Node, NodeId, NodeRequest, NodeState, RequestId, RequestState, guard},
    trace,
    zk::{Held, TryLock, ZkError},
};
use tracing::{debug, error, info, warn};

use super::{
    Launcher,
    events::{Event, Outcome, Reports},
    requests::LOCKED_ELSEWHERE,
};

pub(super) const LOGGER: &str = "nodepool.DeletedNodeWorker";
/// How long one attempt to delete may take (`nodepool 11.0.0: driver/statemachine.py StateMachineNodeDeleter`).
const DELETE_TIMEOUT: Duration = Duration::from_secs(600);
/// Seconds for which the record of a node is kept whose server is in a project that the cloud's settings do not lead to any
/// more: for people to lead there again, or to delete it by hand. It takes room in its pool meanwhile.
const OUT_OF_SIGHT_FOR: f64 = 24.0 * 3600.0;
/// The longest pause between two attempts to delete such a node, in seconds.
const OUT_OF_SIGHT_PAUSE: f64 = 600.0;

impl Launcher {
    /// Unlocks a node we hold; a ready one becomes free.
    pub(super) async fn let_go(&self, held: Held<Node>, reason: &(dyn Display + Sync)) -> Result<(), ZkError> {
        let node = held.record();
        debug!(logger = LOGGER, node = %node.id, "Letting go of the node: {reason}");
        let config = self.config();
        let is_known = node.provider.as_ref().is_some_and(|provider| config.providers.contains_key(provider));
        if node.state == NodeState::Aborted && node.external_id.is_none() && !is_known {
            // There is nothing but its record, and no launcher removes those of providers that are not configured.
            return held.delete(self.clock.now()).await;
        }
        if held.record().state == NodeState::Ready && held.record().allocated_to.is_some() {
            held.update_and_unlock(|node| node.allocated_to = None).await.map_err(Into::into)
        } else {
            held.unlock().await
        }
    }

    /// Marks an idle, a held or an orphaned node for deletion.
    pub(super) async fn retire(
        &self,
        id: &NodeId,
        reason: &(dyn Display + Sync),
        reports: &Reports,
    ) -> Result<(), ZkError> {
        let Some(held) = self.lock_free(id, reports).await? else { return Ok(()) };
        let still = match held.record().state {
            NodeState::Ready => held.record().allocated_to.is_none(),
            NodeState::Hold | NodeState::Init => true,
            _ => false,
        };
        if !still && !guard::is_removed("state of an idle node under its lock") {
            return held.unlock().await;
        }
        info!(logger = "nodepool.CleanupWorker", node = %id, "Deleting node: {reason}");
        self.put_down_node("node-deleting", held.record(), None, || format!("Node {id} is not kept: {reason}"));
        held.update_and_unlock(|node| node.set_state(NodeState::Deleting, self.clock.now())).await.map_err(Into::into)
    }

    /// Frees a ready node whose request is gone, or was not fulfilled with it: whoever fulfils a request needs the lock that we have
    /// here.
    pub(super) async fn deallocate(&self, id: &NodeId, request: &RequestId, reports: &Reports) -> Result<(), ZkError> {
        let Some(held) = self.lock_free(id, reports).await? else { return Ok(()) };
        let node = held.record();
        if node.state != NodeState::Ready || node.allocated_to.as_ref() != Some(request) {
            return held.unlock().await;
        }
        match self.zk.get(&format!("/nodepool/requests/{request}")).await? {
            None => {
                info!(logger = LOGGER, node = %id, "Freeing node that was allocated to missing request {request}");
            }
            Some((data, _)) => match NodeRequest::read(request.clone(), &data) {
                Ok((record, _)) if record.state != RequestState::Fulfilled => {
                    let state = record.state;
                    warn!(
                        logger = LOGGER, node = %id,
                        "Freeing node that was allocated to request {request}, which is {state}: its lock was lost"
                    );
                }
                _ => return held.unlock().await,
            },
        }
        held.update_and_unlock(|node| node.allocated_to = None).await.map_err(Into::into)
    }

    /// The story of a node's end: DELETING, its server gone, DELETED, its record gone.
    pub(super) async fn delete(&self, id: &NodeId, reports: &Reports) -> Result<Outcome, ZkError> {
        let Some((mut held, state)) = self.lock_doomed(id, reports).await? else { return Ok(Outcome::Done) };
        let node = Arc::clone(held.record());
        if !state.is_doomed() {
            return held.unlock().await.map(|()| Outcome::Done);
        }
        if state != NodeState::Deleting && state != NodeState::Deleted {
            info!(logger = LOGGER, node = %id, "Deleting {state} node");
        }
        // A node that is `deleted` has no server any more; its record was all that was left.
        if node.state != NodeState::Deleted
            && let Some(external_id) = &node.external_id
            && !guard::is_removed("end of a server before its record")
        {
            let Some(cloud) = node.provider.as_ref().and_then(|provider| self.clouds.get(provider)) else {
                return held.unlock().await.map(|()| Outcome::Done);
            };
            if node.state != NodeState::Deleting {
                held.update(|node| node.set_state(NodeState::Deleting, self.clock.now())).await?;
            }
            let mut span = self.spans.deletion(id, node.provider.as_ref().map_or("", |provider| provider.as_str()));
            let deleting = cloud.provider.delete_at_leisure(external_id, node.driver_data.as_deref());
            let deleting = trace::within(&span, tokio::time::timeout(DELETE_TIMEOUT, deleting)).await;
            match &deleting {
                Ok(Ok(())) => {}
                Ok(Err(why)) => span.fail(why),
                Err(_) => span.fail("it takes too long"),
            }
            drop(span);
            if let Ok(Err(why)) = &deleting
                && why.elsewhere
            {
                let now = self.clock.now();
                let since = held.stat().no_later(held.record().state_time, now);
                if now - since < OUT_OF_SIGHT_FOR {
                    held.unlock().await?;
                    return Ok(Outcome::NotDeleted { trouble: why.to_string(), longest: OUT_OF_SIGHT_PAUSE });
                }
                error!(
                    logger = LOGGER, node = %id,
                    "The node's record is removed after {} h without a look at its server {external_id}, which may live on: \
                     {why}", OUT_OF_SIGHT_FOR / 3600.0
                );
            } else {
                let trouble = match deleting {
                    Ok(Ok(())) => None,
                    Ok(Err(error)) => Some(error.to_string()),
                    Err(_) => Some(format!("not gone after {} s", DELETE_TIMEOUT.as_secs())),
                };
                if let Some(trouble) = trouble {
                    let longest = self.options.delete_interval.as_secs_f64() * 12.0;
                    // Its record stays `deleting` and unlocked, as upstream leaves it.
                    held.unlock().await?;
                    return Ok(Outcome::NotDeleted { trouble, longest });
                }
            }
        }
        held.delete(self.clock.now()).await?;
        // The end of one that the cloud refused makes no room: the pause after the refusal stands.
        if let Some(provider) = &node.provider
            && node.external_id.is_some()
            && state != NodeState::Aborted
        {
            self.clouds.room_was_made(provider);
        }
        self.spans.gone(id);
        info!(logger = LOGGER, node = %id, "Deleted node");
        self.put_down_node("node-deleted", &node, node.allocated_to.as_ref(), || {
            format!("Node {id} is deleted; it was {state} before")
        });
        Ok(Outcome::Deleted)
    }

    /// Locks a node that is to be deleted, in one step with `deleting` where it has a server; with the state that it was in.
    async fn lock_doomed(&self, id: &NodeId, reports: &Reports) -> Result<Option<(Held<Node>, NodeState)>, ZkError> {
        let mut state = None;
        let mark = |node: &mut Node| {
            state = Some(node.state);
            let has_cloud = node.provider.as_ref().is_some_and(|provider| self.clouds.get(provider).is_some());
            let has_server = node.state != NodeState::Deleted && node.external_id.is_some() && has_cloud;
            if has_server && node.state != NodeState::Deleting {
                node.set_state(NodeState::Deleting, self.clock.now());
            }
            state.is_some_and(NodeState::is_doomed)
        };
        let claimed = self.in_session(reports).lock_and_update(id, mark).await?;
        if let (Some(held), Some(state)) = (claimed, state) {
            return Ok(Some((held, state)));
        }
        let held = self.lock_free(id, reports).await?;
        Ok(held.map(|held| {
            let state = held.record().state;
            (held, state)
        }))
    }

    /// Locks a node that nobody has; `None` where somebody has, or it is gone.
    async fn lock_free(&self, id: &NodeId, reports: &Reports) -> Result<Option<Held<Node>>, ZkError> {
        let attempt = self.in_session(reports).try_lock_node(id).await?;
        if matches!(attempt, TryLock::Busy) {
            reports.tell(Event::NodeLocked { node: id.clone(), pause: LOCKED_ELSEWHERE });
        }
        Ok(attempt.held())
    }
}
