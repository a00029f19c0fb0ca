//! Ready nodes that wait for a job, and what became of them meanwhile: a pod is evicted, somebody deletes a server, a token
//! expires.
//!
//! Nothing is asked for it: a driver tells what its watch or its listings have shown anyhow
//! ([`Provider::has_gone`](nodepool_drivers::Provider::has_gone)). `plan` hands out none that has gone, and retires it;
//! what Zuul connects with is brought up to date when a node is handed over.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use nodepool_common::{
    model::{Node, NodeState, ProviderName, Records},
    sys::clock,
};
use serde_json::Value;
use tracing::warn;

use super::{Launcher, clouds::Cloud};
use crate::plan::ProviderState;

/// Longest time for new credentials; without them the old ones are handed over.
const RENEWED_WITHIN: Duration = Duration::from_secs(10);

impl Launcher {
    /// Puts down which ready nodes that nobody has are gone.
    pub(super) fn note_gone(
        &self,
        records: &Records,
        providers: &mut BTreeMap<ProviderName, ProviderState>,
        steps: &clock::Steps,
    ) {
        let (now, at) = (clock::now(), Instant::now());
        let mut clouds: BTreeMap<&ProviderName, Option<Arc<Cloud>>> = BTreeMap::new();
        for entry in records.nodes.values().filter(|entry| !entry.is_locked()) {
            let Some(node) = entry.usable() else { continue };
            let (Some(provider), Some(external_id)) = (&node.provider, &node.external_id) else { continue };
            if node.state != NodeState::Ready || node.allocated_to.is_some() {
                continue;
            }
            let cloud = clouds.entry(provider).or_insert_with(|| self.clouds.get(provider));
            let since = steps.seen_after(entry.since(now).unwrap_or(now), now, at);
            let why = cloud.as_ref().and_then(|cloud| cloud.provider.has_gone(external_id, since));
            if let (Some(why), Some(state)) = (why, providers.get_mut(provider)) {
                state.gone.insert(node.id.clone(), why);
            }
        }
    }

    /// Plans anew whenever a driver has seen something go.
    pub(super) async fn look_for_gone(&self, cloud: &Cloud) {
        loop {
            cloud.provider.some_have_gone().await;
            self.wake.notify_one();
        }
    }

    /// What Zuul is to connect with, where that is not what the record says any more.
    pub(super) async fn renewed_connection(&self, node: &Node) -> Option<Value> {
        let cloud = node.provider.as_ref().and_then(|provider| self.clouds.get(provider))?;
        let renewed = cloud.provider.renewed_connection(&node.connection_port);
        let trouble = match tokio::time::timeout(RENEWED_WITHIN, renewed).await {
            Ok(Ok(renewed)) => return renewed,
            Ok(Err(error)) => error.to_string(),
            Err(_) => format!("no answer within {} s", RENEWED_WITHIN.as_secs()),
        };
        warn!(node = %node.id, "The node is handed over with the credentials that it had: {trouble}");
        None
    }
}
