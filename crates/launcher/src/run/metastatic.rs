//! Nodes that stand on nodes of other providers: backing nodes asked for, taken and given back; a node placed.
//!
//! What is to be done about backing nodes is decided in [`plan::metastatic`](crate::plan). A launch looks for a free slot
//! whenever something has changed, one launch at a time, and writes down at once where its node stands: so whatever
//! becomes of us, no slot is given twice, and none is lost.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use nodepool_common::{
    config::{Metastatic, MetastaticLabel},
    model::{
        Backing, LabelName, Node, NodeId, NodeRequest, NodeState, Place, ProviderName, RequestId, RequestState,
        Resources, metastatic_owner,
    },
    sys::clock,
    zk::{Held, ZkError},
};
use nodepool_drivers::{ErrorClass, ProviderError};
use serde_json::{Map, Value, json};
use tokio::sync::{Mutex, Notify};
use tracing::{info, warn};

use super::{
    Launcher,
    launch::{Failure, NodeLaunch},
};
use crate::{
    nodescan::Target,
    plan::{carries, free_place},
};

const LOGGER: &str = "nodepool.driver.metastatic.MetastaticAdapter";
/// Seconds before a backing node is looked at again whose lock turned out to be another's.
const NOT_OURS: f64 = 60.0;
/// How long a launch that waits goes without a look, whatever it hears.
const LOOK: Duration = Duration::from_secs(1);

/// What the launches of a launcher share.
#[derive(Debug, Default)]
pub struct Placing {
    /// Whose turn it is to look for a slot and to write down that it is taken.
    turn: Mutex<()>,
    /// Launches that are to fail, because what they wait for has: how many, and why.
    failures: std::sync::Mutex<BTreeMap<(ProviderName, LabelName), (usize, String)>>,
    /// There is one.
    failed: Notify,
}

impl Placing {
    fn failures(&self) -> std::sync::MutexGuard<'_, BTreeMap<(ProviderName, LabelName), (usize, String)>> {
        self.failures.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Lets one of those who wait fail.
    fn take_failure(&self, provider: &ProviderName, label: &LabelName) -> Option<String> {
        let mut failures = self.failures();
        let key = (provider.clone(), label.clone());
        let (count, why) = failures.get_mut(&key)?;
        let why = why.clone();
        *count -= 1;
        if *count == 0 {
            failures.remove(&key);
        }
        Some(why)
    }
}

impl Launcher {
    pub(super) async fn order_backing(
        &self,
        provider: &ProviderName,
        label: &LabelName,
        backing: &LabelName,
        count: usize,
    ) -> Result<(), ZkError> {
        for _ in 0..count {
            let event_id = uuid::Uuid::new_v4().simple().to_string();
            let request = NodeRequest::backing(metastatic_owner(provider), label, backing, event_id, clock::now());
            let request = self.zk.create_request("100", true, request).await?;
            info!(logger = LOGGER, request = %request.id, "Asking for a {backing} node for {label} nodes of {provider}");
        }
        Ok(())
    }

    /// Takes the node of a request that was fulfilled; tells those who wait of one that failed.
    pub(super) async fn settle_backing(&self, provider: &ProviderName, id: &RequestId) -> Result<(), ZkError> {
        let Some(request) = self.zk.cache().read(|r| r.requests.get(id).and_then(|e| e.usable()).cloned()) else {
            return Ok(());
        };
        let Some(label) = request.backed_label() else { return self.zk.delete_request(id).await };
        let config = self.config();
        let slots = config
            .providers
            .get(provider)
            .and_then(|provider| provider.metastatic()?.any_label(&label))
            .map_or(1, |label| label.max_parallel_jobs);
        if request.state == RequestState::Failed {
            let why = format!("the request for a node to stand on failed: {}", request.decline_reasons.join("; "));
            warn!(logger = LOGGER, request = %id, "{why}");
            // As many as would have stood on it; what waits for nothing any more is not to fail a later one.
            let waiting = self.waiting_for_a_place(provider, &label).min(slots);
            if waiting > 0 {
                self.placing.failures().insert((provider.clone(), label.clone()), (waiting, why));
                self.placing.failed.notify_waiters();
                // Until they know, the request counts as one that is open: they shall not be taken for lacking another.
                for _ in 0..20 {
                    if !self.placing.failures().contains_key(&(provider.clone(), label.clone())) {
                        break;
                    }
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
                // Who has not heard by now waits for something else.
                self.placing.failures().remove(&(provider.clone(), label));
            }
            return self.zk.delete_request(id).await;
        }
        let Some(node) = request.nodes.first() else { return self.zk.delete_request(id).await };
        let Some(held) = self.zk.try_lock_node(node).await? else {
            self.book.open().view.requests_after.insert(id.clone(), clock::now() + 0.25);
            return Ok(());
        };
        if held.record().state != NodeState::Ready || held.record().allocated_to.as_ref() != Some(id) {
            held.unlock().await?;
            return self.zk.delete_request(id).await;
        }
        let owner = metastatic_owner(provider);
        let now = clock::now();
        let backing = Backing { owner: owner.clone(), label, slots, failed: false, launched: now };
        held.update_and_keep_locked_for(&owner, |node| {
            node.user_data = Some(backing.user_data());
            node.set_state(NodeState::InUse, now);
        })
        .await?;
        info!(logger = LOGGER, request = %id, node = %node, "The node carries {slots} {} nodes of {provider}", backing.label);
        self.zk.delete_request(id).await
    }

    /// Launches of ours that have no place yet.
    fn waiting_for_a_place(&self, provider: &ProviderName, label: &LabelName) -> usize {
        let launching: Vec<NodeId> = {
            let book = self.book.open();
            let of_label = book.view.nodes.iter().filter(|(_, held)| held.launching && held.label == *label);
            of_label.map(|(id, _)| id.clone()).collect()
        };
        self.zk.cache().read(|records| {
            let waits = |node: &Arc<Node>| node.provider.as_ref() == Some(provider) && Place::of(node).is_none();
            launching.iter().filter(|id| records.nodes.get(*id).and_then(|e| e.usable()).is_some_and(waits)).count()
        })
    }

    pub(super) async fn let_backing_go(
        &self,
        provider: &ProviderName,
        node: &NodeId,
        reason: &str,
    ) -> Result<(), ZkError> {
        let owner = metastatic_owner(provider);
        // Nothing is placed on it meanwhile, and nothing has been since that was decided.
        let _turn = self.placing.turn.lock().await;
        if self.zk.cache().read(|records| carries(records, provider, node)) {
            return Ok(());
        }
        let done =
            self.zk.update_kept(node, &owner, true, |node| node.set_state(NodeState::Used, clock::now())).await?;
        if done {
            info!(logger = LOGGER, node = %node, "Giving the backing node back: {reason}");
        } else {
            warn!(logger = LOGGER, node = %node, "Says that it is {owner}'s, but is not locked for it: it stays");
            self.book.open().view.nodes_after.insert(node.clone(), clock::now() + NOT_OURS);
        }
        Ok(())
    }
}

impl NodeLaunch {
    /// An attempt of a node that stands on another one: a slot, what is underneath, and where the label says so one more
    /// look at it.
    pub(super) async fn attempt_in_a_slot(&self, held: &Mutex<Held<Node>>, config: &Metastatic) -> Result<(), Failure> {
        let Some(label) = config.label(&self.pool.pool, &self.label) else {
            let doing = format!("placing a node of label {}", self.label);
            return Err(ProviderError::new(ErrorClass::Config, doing, "it is not in the configuration any more").into());
        };
        let (place, under) = self.place(held, label).await?;
        let own_attributes = self.cloud.config.pool(&self.pool.pool).and_then(|pool| pool.node_attributes.clone());
        let target = Target {
            address: under.interface_ip.clone().unwrap_or_default(),
            port: under.connection_port.as_u64().and_then(|port| u16::try_from(port).ok()).unwrap_or(22),
            connection_type: under.connection_type.clone().unwrap_or_else(|| "ssh".to_owned()),
            host_key_checking: true,
        };
        let node = {
            let mut held = held.lock().await;
            held.update(|node| {
                stand_on(node, &under, own_attributes);
                if !label.host_key_checking {
                    node.set_state(NodeState::Ready, clock::now());
                }
            })
            .await?;
            held.record().id.clone()
        };
        if !label.host_key_checking {
            return Ok(());
        }
        let keys = match self.host_keys(&node, &target).await {
            Ok(keys) => keys,
            Err(failure) => {
                self.give_up(&place.backing_node, &failure).await?;
                return Err(failure);
            }
        };
        held.lock()
            .await
            .update(|node| {
                node.host_keys = keys;
                node.set_state(NodeState::Ready, clock::now());
            })
            .await?;
        Ok(())
    }

    /// Waits for a slot and takes it.
    async fn place(&self, held: &Mutex<Held<Node>>, label: &MetastaticLabel) -> Result<(Place, Arc<Node>), Failure> {
        let provider = &self.pool.provider;
        // That of an earlier attempt is free again.
        if held.lock().await.record().driver_data.is_some() {
            held.lock().await.update(|node| (node.driver_data, node.slot) = (None, None)).await?;
        }
        let cache = self.launcher.zk.cache();
        let mut changed = cache.changed();
        loop {
            {
                let _turn = self.launcher.placing.turn.lock().await;
                let found = cache.read(|records| {
                    let place = free_place(records, provider, label, clock::now())?;
                    let under = records.nodes.get(&place.backing_node).and_then(|entry| entry.usable()).cloned()?;
                    Some((place, under))
                });
                if let Some((place, under)) = found {
                    let mut held = held.lock().await;
                    let id = held.record().id.clone();
                    let data = self.driver_data(&id, &place);
                    held.update(|node| {
                        node.external_id = Some(json!(id));
                        node.slot = i64::try_from(place.slot).ok();
                        node.driver_data = Some(data);
                    })
                    .await?;
                    info!(logger = LOGGER, "Node {id} stands on {}, slot {}", place.backing_node, place.slot);
                    return Ok((place, under));
                }
                if let Some(why) = self.launcher.placing.take_failure(provider, &self.label) {
                    let doing = format!("placing a node of label {}", self.label);
                    return Err(ProviderError::new(ErrorClass::Transient, doing, why).into());
                }
            }
            tokio::select! {
                _ = changed.changed() => {}
                () = self.launcher.placing.failed.notified() => {}
                () = tokio::time::sleep(LOOK) => {}
            }
        }
    }

    /// As upstream writes it.
    fn driver_data(&self, node: &NodeId, place: &Place) -> Value {
        let metadata = [
            ("nodepool_node_id", node.to_string()),
            ("nodepool_pool_name", self.pool.pool.to_string()),
            ("nodepool_provider_name", self.pool.provider.to_string()),
        ];
        let metadata: Map<String, Value> =
            metadata.into_iter().map(|(name, value)| (name.to_owned(), json!(value))).collect();
        json!({"metadata": metadata, "backing_node": place.backing_node, "slot": place.slot, "node": node})
    }

    /// A backing node that does not answer gets nothing more.
    async fn give_up(&self, backing_node: &NodeId, failure: &Failure) -> Result<(), ZkError> {
        let owner = metastatic_owner(&self.pool.provider);
        warn!(logger = LOGGER, node = %backing_node, "Nothing more is placed on the backing node: {failure}");
        let mark = |node: &mut Node| {
            if let Some(backing) = Backing::of(node) {
                node.user_data = Some(Backing { failed: true, ..backing }.user_data());
            }
        };
        self.launcher.zk.update_kept(backing_node, &owner, false, mark).await?;
        Ok(())
    }
}

/// What a node has from the one that it stands on.
fn stand_on(node: &mut Node, under: &Node, own_attributes: Option<Map<String, Value>>) {
    node.interface_ip.clone_from(&under.interface_ip);
    node.public_ipv4.clone_from(&under.public_ipv4);
    node.public_ipv6.clone_from(&under.public_ipv6);
    node.private_ipv4.clone_from(&under.private_ipv4);
    node.az.clone_from(&under.az);
    node.region.clone_from(&under.region);
    node.cloud.clone_from(&under.cloud);
    node.username.clone_from(&under.username);
    node.python_path.clone_from(&under.python_path);
    node.shell_type.clone_from(&under.shell_type);
    node.connection_port.clone_from(&under.connection_port);
    node.connection_type.clone_from(&under.connection_type);
    node.host_keys.clone_from(&under.host_keys);
    node.resources = Some(Resources::new().with("instances", 1.0).recorded());
    let mut attributes = under.attributes.clone().unwrap_or_default();
    attributes.extend(own_attributes.unwrap_or_default());
    node.attributes = (!attributes.is_empty()).then_some(attributes);
}
