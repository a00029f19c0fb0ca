//! Backing nodes, on which nodes of metastatic providers stand: asked for, taken and given back.
//!
//! What is to be done about them is decided in [`plan::metastatic`](crate::plan); how a node is placed on one is in
//! [`placing`](super::placing). A backing node is given back in one `multi` that checks the version of the lock that is kept of
//! it, which each placement raises: so nothing is placed on it in the same moment, by whichever process.

use std::time::Duration;

use nodepool_common::{
    config::MetastaticLabel,
    model::{
        Backing, LabelName, Node, NodeId, NodeRequest, NodeState, ProviderName, RequestId, RequestState,
        metastatic_owner,
    },
    zk::{KeptLock, TryLock, ZkError},
};
use tracing::info;

use super::{
    Launcher,
    events::{Event, Outcome, Reports},
};
use crate::plan::{Reason, Shown};

pub(super) const LOGGER: &str = "nodepool.driver.metastatic.MetastaticAdapter";
/// How long to wait for the lock of the node that a request was given (`nodepool 11.0.0: driver/metastatic/adapter.py
/// _checkBackingNodeRequests`).
const LOCK_TIMEOUT: Duration = Duration::from_secs(30);
/// Seconds before backing nodes are asked for again after a request for one has failed: the first time, and at most.
pub(super) const FIRST_PAUSE: f64 = 1.0;
pub(super) const LONGEST_PAUSE: f64 = 60.0;
/// Seconds for which a node that was not locked for its provider is left out of its backing nodes.
pub(super) const NOT_KEPT: f64 = 60.0;

impl Launcher {
    pub(super) async fn order_backing(
        &self,
        provider: &ProviderName,
        label: &LabelName,
        backing: &LabelName,
        count: usize,
        reports: &Reports,
    ) -> Result<(), ZkError> {
        for _ in 0..count {
            let event_id = self.entropy.uuid().simple().to_string();
            let request = NodeRequest::backing(metastatic_owner(provider), label, backing, event_id, self.clock.now());
            let request = self.in_session(reports).create_request("100", true, request).await?;
            info!(logger = LOGGER, request = %request.id, "Asking for a {backing} node for {label} nodes of {provider}");
        }
        Ok(())
    }

    /// Takes the node of a request that was fulfilled; tells the launches that wait for one that failed. One that is of no
    /// use any more is withdrawn.
    pub(super) async fn settle_backing(
        &self,
        provider: &ProviderName,
        id: &RequestId,
        reports: &Reports,
    ) -> Result<Outcome, ZkError> {
        let Some(request) = self.zk.cache().read(|r| r.requests.get(id).and_then(|e| e.usable()).cloned()) else {
            return Ok(Outcome::Done);
        };
        let mut outcome = Outcome::Done;
        // Told before the request is gone: no other is to be made at once.
        let failed = |label: &MetastaticLabel, why: String| {
            let (provider, label) = (provider.clone(), Box::new(label.clone()));
            reports.tell(Event::BackingFailed { provider, label, request: id.clone(), why });
        };
        let config = self.config();
        let label = request.backed_label().and_then(|label| {
            let provider = config.providers.get(provider)?.metastatic()?;
            provider.any_label(&label)
        });
        match (label, request.state) {
            (None, _) => {
                info!(logger = LOGGER, request = %id, "Withdrawing the request: its label is not in the configuration of {provider}");
            }
            (Some(label), RequestState::Failed) => {
                let why = format!("the request for a node to stand on failed: {}", request.decline_reasons.join("; "));
                failed(label, why);
            }
            (Some(label), RequestState::Fulfilled) => {
                if let Some(node) = request.nodes.first() {
                    match self.take_backing(provider, label, id, node, reports).await? {
                        Ok(()) => outcome = Outcome::BackingTaken(provider.clone(), label.name.clone()),
                        Err(why) => failed(label, format!("the node to stand on cannot be taken: {why}")),
                    }
                }
            }
            _ => return Ok(outcome),
        }
        self.in_session(reports).delete_request(id).await?;
        Ok(outcome)
    }

    /// Locks the node of a request for the provider, and marks it as a backing node. Why that cannot be, for people.
    async fn take_backing(
        &self,
        provider: &ProviderName,
        label: &MetastaticLabel,
        request: &RequestId,
        node: &NodeId,
        reports: &Reports,
    ) -> Result<Result<(), String>, ZkError> {
        let (owner, session) = (metastatic_owner(provider), self.in_session(reports));
        let gone = || Ok(Err(format!("node {node} is gone")));
        let held = match session.try_lock_node(node).await? {
            TryLock::Held(held) => held,
            TryLock::Gone => return gone(),
            // An earlier attempt of ours that ended before the request was deleted.
            TryLock::Busy if self.is_backing(node, &owner) => return Ok(Ok(())),
            TryLock::Busy => match session.lock_node(node, LOCK_TIMEOUT).await {
                Ok(Some(held)) => held,
                Ok(None) => return gone(),
                Err(error @ ZkError::LockTimeout { .. }) => return Ok(Err(error.to_string())),
                Err(error) => return Err(error),
            },
        };
        if held.record().state != NodeState::Ready || held.record().allocated_to.as_ref() != Some(request) {
            let why = format!("node {node} is {} and not the request's any more", held.record().state);
            held.unlock().await?;
            return Ok(Err(why));
        }
        let (slots, now) = (label.max_parallel_jobs, self.clock.now());
        let backing = Backing { owner: owner.clone(), label: label.name.clone(), slots, failed: false, launched: now };
        held.update_and_keep_locked_for(&owner, |node| {
            node.user_data = Some(backing.user_data());
            node.set_state(NodeState::InUse, now);
        })
        .await?;
        info!(logger = LOGGER, request = %request, node = %node, "The node carries {slots} {} nodes of {provider}", label.name);
        Ok(Ok(()))
    }

    fn is_backing(&self, node: &NodeId, owner: &str) -> bool {
        self.zk.cache().read(|records| {
            let node = records.nodes.get(node).and_then(|entry| entry.usable());
            node.is_some_and(|node| {
                node.state == NodeState::InUse && Backing::of(node).is_some_and(|backing| backing.owner == owner)
            })
        })
    }

    /// Gives a backing node back on which nothing stands. `shown`: up to where the records showed all that was placed on it, when
    /// that was decided.
    pub(super) async fn let_backing_go(
        &self,
        provider: &ProviderName,
        node: &NodeId,
        reason: &Reason,
        shown: Option<Shown>,
        reports: &Reports,
    ) -> Result<Outcome, ZkError> {
        let Some(kept) = self.kept_lock(node, &metastatic_owner(provider), reports).await? else {
            return Ok(Outcome::Done);
        };
        if shown != Some(self.shown_now(&kept)) {
            return self.show_all_placed(provider, &kept, reports).await;
        }
        let used = |node: &mut Node| node.set_state(NodeState::Used, self.clock.now());
        if self.zk.update_kept(node, &kept, true, used).await? {
            info!(logger = LOGGER, node = %node, "Giving the backing node back: {reason}");
            return Ok(Outcome::Done);
        }
        // Somebody has placed something there since.
        self.show_all_placed(provider, &kept, reports).await
    }

    /// The lock of a backing node. One that is not locked for the provider is left out of account for a while: another
    /// contender may have been before the provider's for a moment.
    pub(super) async fn kept_lock(
        &self,
        node: &NodeId,
        owner: &str,
        reports: &Reports,
    ) -> Result<Option<KeptLock>, ZkError> {
        let kept = self.in_session(reports).kept_lock(node, owner).await?;
        if kept.is_none() {
            reports.tell(Event::NotKept { node: node.clone() });
            info!(logger = LOGGER, node = %node, "Is not locked for {owner} now: it is left out of its backing nodes for {NOT_KEPT:.0} s");
        }
        Ok(kept)
    }

    /// What the records have to show where they show all that was placed on a backing node.
    pub(super) fn shown_now(&self, kept: &KeptLock) -> Shown {
        Shown { version: kept.version(), walks: self.zk.cache().walks() }
    }

    /// Reads all nodes of a provider: from then on the records show what was placed on a backing node up to this version of
    /// its lock, and the next pass decides by that.
    pub(super) async fn show_all_placed(
        &self,
        provider: &ProviderName,
        kept: &KeptLock,
        reports: &Reports,
    ) -> Result<Outcome, ZkError> {
        let walks = self.in_session(reports).read_nodes_of(provider).await?;
        Ok(Outcome::Shown(Shown { version: kept.version(), walks }))
    }
}
