//! Ready nodes that wait for a job, and what became of them meanwhile: a pod is evicted, somebody deletes a server, a token
//! expires.
//!
//! Nothing is asked for it: a driver tells what its watch or its listings have shown anyhow
//! ([`Provider::has_gone`](nodepool_drivers::Provider::has_gone)). `plan` hands out none that has gone, and retires it;
//! what Zuul connects with is brought up to date when a node is handed over.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::PoisonError,
    time::Duration,
};

use nodepool_common::model::{Node, NodeId, NodeState, ProviderName, Records, Timestamp};
use serde_json::Value;
use tokio::time::Instant;
use tracing::warn;

use super::{Launcher, clouds::Cloud};

/// Longest time for new credentials; without them the old ones are handed over.
const RENEWED_WITHIN: Duration = Duration::from_secs(10);

/// Nodes of a provider that are of no use to it.
#[derive(Debug, Default)]
pub(super) struct Lost {
    /// Ready nodes that have gone, with the reason.
    pub gone: BTreeMap<NodeId, String>,
    /// Nodes that are where its settings do not lead any more.
    pub elsewhere: BTreeSet<NodeId>,
}

/// All ready nodes are looked at again after so long, where a driver has not said that some have gone. Those that are about
/// to be handed out are looked at in any case.
const LOOK_AGAIN_AFTER: Duration = Duration::from_secs(1);

impl Launcher {
    /// Puts down which nodes are where the settings of their cloud do not lead any more, and which ready nodes that nobody has
    /// are gone. Of the former nothing is known. Where it is not due yet, returns when it is: what has changed since the last
    /// look may have to be looked at.
    pub(super) fn note_gone(&self, records: &Records) -> Option<Timestamp> {
        let (now, at) = (self.clock.now(), Instant::now());
        let mut looked = self.looked_for_gone.lock().unwrap_or_else(PoisonError::into_inner);
        let since_last = looked.map(|last| at.duration_since(last));
        if let Some(left) = since_last.and_then(|since| LOOK_AGAIN_AFTER.checked_sub(since)) {
            return Some(now + left.as_secs_f64());
        }
        *looked = Some(at);
        drop(looked);
        let steps = self.frame.steps();
        let mut clouds = BTreeMap::new();
        let mut found: BTreeMap<ProviderName, Lost> = BTreeMap::new();
        for entry in records.nodes.values() {
            let Some(node) = entry.usable() else { continue };
            let (Some(provider), Some(external_id)) = (&node.provider, &node.external_id) else { continue };
            let known = clouds.entry(provider).or_insert_with(|| {
                let cloud = self.clouds.get(provider)?;
                let scope = cloud.provider.scope();
                Some((cloud, scope))
            });
            let Some((cloud, scope)) = known else { continue };
            if scope.as_ref().is_some_and(|scope| scope.lacks(node.driver_data.as_deref()).is_some()) {
                found.entry(provider.clone()).or_default().elsewhere.insert(node.id.clone());
                continue;
            }
            if entry.is_locked() || node.state != NodeState::Ready || node.allocated_to.is_some() {
                continue;
            }
            let since = steps.seen_after(entry.since(now).unwrap_or(now), now, at);
            let why = cloud.provider.has_gone(external_id, node.driver_data.as_deref(), since);
            if let Some(why) = why {
                found.entry(provider.clone()).or_default().gone.insert(node.id.clone(), why);
            }
        }
        self.clouds.keep_lost(found);
        None
    }

    /// Whether a ready node that is about to be handed out has gone. The next pass retires it.
    pub(super) fn notices_gone(&self, node: &Node) -> bool {
        let (Some(provider), Some(external_id)) = (&node.provider, &node.external_id) else { return false };
        let Some(cloud) = self.clouds.get(provider) else { return false };
        let since = self.frame.steps().seen_after(node.state_time, self.clock.now(), Instant::now());
        let Some(why) = cloud.provider.has_gone(external_id, node.driver_data.as_deref(), since) else { return false };
        self.clouds.keep_gone(provider, &node.id, why);
        true
    }

    /// Has all ready nodes looked at in the next pass, and makes one.
    pub(super) fn look_at_ready_nodes(&self) {
        *self.looked_for_gone.lock().unwrap_or_else(PoisonError::into_inner) = None;
        self.wake.notify_one();
    }

    /// Plans anew whenever a driver has seen something go.
    pub(super) async fn look_for_gone(&self, cloud: &Cloud) {
        loop {
            cloud.provider.some_have_gone().await;
            self.look_at_ready_nodes();
        }
    }

    /// What Zuul is to connect with, where that is not what the record says any more.
    pub(super) async fn renewed_connection(&self, node: &Node) -> Option<Value> {
        let cloud = node.provider.as_ref().and_then(|provider| self.clouds.get(provider))?;
        let renewed = cloud.provider.renewed_connection(&node.connection_port, node.driver_data.as_deref());
        let renewed = tokio::time::timeout(RENEWED_WITHIN, renewed).await;
        let trouble = match renewed {
            Ok(Ok(renewed)) => return renewed,
            Ok(Err(error)) => error.to_string(),
            Err(_) => format!("no answer within {} s", RENEWED_WITHIN.as_secs()),
        };
        warn!(node = %node.id, "The node is handed over with the credentials that it had: {trouble}");
        None
    }
}
