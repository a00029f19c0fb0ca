//! Nodes that stand on nodes of other providers: backing nodes asked for, taken and given back; a node placed.
//!
//! What is to be done about backing nodes is decided in [`plan::metastatic`](crate::plan). A launch looks for a free slot
//! whenever something has changed, one launch at a time, and writes down at once where its node stands. That write also
//! checks, and raises, the version of the lock that the provider keeps of the backing node ([`Held::place_on`]): so whatever
//! becomes of this process, and whichever other one places nodes at the same moment, no slot is given twice, and none is lost.
//!
//! What stands on a backing node is in the records of the nodes that do, which reach the cache one by one. A version that
//! this process has not written itself therefore says that there may be nodes which the cache does not show yet: before a
//! decision on it, they are read ([`ZooKeeper::read_nodes_of`](nodepool_common::zk::ZooKeeper::read_nodes_of)).

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, PoisonError},
    time::Duration,
};

use nodepool_common::{
    config::MetastaticLabel,
    model::{
        Backing, LabelName, Node, NodeId, NodeRequest, NodeState, Object, Place, ProviderName, RequestId, RequestState,
        Resources, Timestamp, metastatic_owner,
    },
    sys::clock,
    zk::{Held, KeptLock, TryLock, ZkError},
};
use nodepool_drivers::{ErrorClass, ProviderError};
use serde_json::{Map, Value, json};
use tokio::sync::{Mutex, oneshot};
use tracing::{info, warn};

use super::{
    Launcher,
    events::{Event, Outcome, Reports},
    launch::{Failure, NodeLaunch},
    requests::LOCKED_ELSEWHERE,
};
use crate::{
    nodescan::Target,
    plan::{Reason, carries, free_place},
};

pub(super) const LOGGER: &str = "nodepool.driver.metastatic.MetastaticAdapter";
/// How long to wait for the lock of the node that a request was given (`nodepool 11.0.0: driver/metastatic/adapter.py
/// _checkBackingNodeRequests`).
const LOCK_TIMEOUT: Duration = Duration::from_secs(30);
/// Seconds before backing nodes are asked for again after a request for one has failed: the first time, and at most.
pub(super) const FIRST_PAUSE: f64 = 1.0;
pub(super) const LONGEST_PAUSE: f64 = 60.0;
/// Seconds for which a node that was not locked for its provider is left out of its backing nodes.
pub(super) const NOT_KEPT: f64 = 60.0;
/// How long a launch that waits goes without a look, whatever it hears.
const LOOK: Duration = Duration::from_secs(1);

/// What the launches of a launcher share.
#[derive(Debug, Default)]
pub struct Placing {
    /// Whose turn it is to look for a slot and to write down that it is taken. The version of each backing node's lock up to
    /// which the cache shows all that was placed on it.
    turn: Mutex<HashMap<NodeId, i32>>,
    /// Backing nodes that are left out of account, until when.
    not_kept: std::sync::Mutex<Arc<BTreeMap<NodeId, Timestamp>>>,
}

impl Placing {
    /// Nothing is placed on those backing nodes until the time of each.
    pub(super) fn leave_out(&self, not_kept: &BTreeMap<NodeId, Timestamp>) {
        let mut left_out = self.not_kept.lock().unwrap_or_else(PoisonError::into_inner);
        if **left_out != *not_kept {
            *left_out = Arc::new(not_kept.clone());
        }
    }

    fn left_out(&self) -> Arc<BTreeMap<NodeId, Timestamp>> {
        Arc::clone(&self.not_kept.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Why a launch that waits for a place gets none.
#[derive(Debug)]
pub enum NoPlace {
    /// The request for a backing node failed: a failed attempt.
    Failed(String),
    /// None is looked for any more: no fault of the attempt, and its request is not declined for it.
    Withdrawn(String),
}

impl NoPlace {
    fn failure(self, label: &LabelName) -> Failure {
        match self {
            Self::Failed(why) => ProviderError::new(ErrorClass::Transient, placing(label), why).into(),
            Self::Withdrawn(why) => Failure::Withdrawn(format!("{}: {why}", placing(label))),
        }
    }
}

fn placing(label: &LabelName) -> String {
    format!("placing a node of label {label}")
}

/// A launch that waits for a place; over when it is dropped.
struct Seeking<'a> {
    reports: &'a Reports,
    node: NodeId,
    answer: oneshot::Receiver<NoPlace>,
}

impl Drop for Seeking<'_> {
    fn drop(&mut self) {
        self.reports.tell(Event::SeeksNoMore { node: self.node.clone() });
    }
}

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
            let event_id = uuid::Uuid::new_v4().simple().to_string();
            let request = NodeRequest::backing(metastatic_owner(provider), label, backing, event_id, clock::now());
            let request = self.zk.in_session(reports.session_id()).create_request("100", true, request).await?;
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
                    match self.take_backing(provider, label, id, node).await? {
                        Ok(()) => outcome = Outcome::BackingTaken(provider.clone(), label.name.clone()),
                        Err(why) => failed(label, format!("the node to stand on cannot be taken: {why}")),
                    }
                }
            }
            _ => return Ok(outcome),
        }
        self.zk.in_session(reports.session_id()).delete_request(id).await?;
        Ok(outcome)
    }

    /// Locks the node of a request for the provider, and marks it as a backing node. Why that cannot be, for people.
    async fn take_backing(
        &self,
        provider: &ProviderName,
        label: &MetastaticLabel,
        request: &RequestId,
        node: &NodeId,
    ) -> Result<Result<(), String>, ZkError> {
        let owner = metastatic_owner(provider);
        let gone = || Ok(Err(format!("node {node} is gone")));
        let held = match self.zk.try_lock_node(node).await? {
            TryLock::Held(held) => held,
            TryLock::Gone => return gone(),
            // An earlier attempt of ours that ended before the request was deleted.
            TryLock::Busy if self.is_backing(node, &owner) => return Ok(Ok(())),
            TryLock::Busy => match self.zk.lock_node(node, LOCK_TIMEOUT).await {
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
        let (slots, now) = (label.max_parallel_jobs, clock::now());
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

    pub(super) async fn let_backing_go(
        &self,
        provider: &ProviderName,
        node: &NodeId,
        reason: &Reason,
        reports: &Reports,
    ) -> Result<(), ZkError> {
        let owner = metastatic_owner(provider);
        // Nothing is placed on it meanwhile, and nothing has been since that was decided.
        let mut known = self.placing.turn.lock().await;
        let Some(kept) = self.kept_lock(node, &owner, reports).await? else { return Ok(()) };
        self.show_all_placed(&mut known, provider, node, &kept).await?;
        if self.zk.cache().read(|records| carries(records, provider, node)) {
            return Ok(());
        }
        let used = |node: &mut Node| node.set_state(NodeState::Used, clock::now());
        if self.zk.update_kept(node, &kept, true, used).await? {
            info!(logger = LOGGER, node = %node, "Giving the backing node back: {reason}");
        } else {
            reports.tell(Event::NodeLocked { node: node.clone(), pause: LOCKED_ELSEWHERE });
        }
        Ok(())
    }

    /// The lock of a backing node. One that is not locked for the provider is left out of account for a while: another
    /// contender may have been before the provider's for a moment.
    async fn kept_lock(&self, node: &NodeId, owner: &str, reports: &Reports) -> Result<Option<KeptLock>, ZkError> {
        let kept = self.zk.kept_lock(node, owner).await?;
        if kept.is_none() {
            reports.tell(Event::NotKept { node: node.clone() });
            info!(logger = LOGGER, node = %node, "Is not locked for {owner} now: it is left out of its backing nodes for {NOT_KEPT:.0} s");
        }
        Ok(kept)
    }

    /// Sees to it that the cache shows all nodes that were placed on a backing node up to this version of its lock.
    async fn show_all_placed(
        &self,
        known: &mut HashMap<NodeId, i32>,
        provider: &ProviderName,
        node: &NodeId,
        kept: &KeptLock,
    ) -> Result<(), ZkError> {
        if known.get(node) != Some(&kept.version()) {
            self.zk.read_nodes_of(provider).await?;
            known.retain(|node, _| self.zk.cache().read(|records| records.nodes.contains_key(node)));
            known.insert(node.clone(), kept.version());
        }
        Ok(())
    }
}

impl NodeLaunch {
    /// An attempt of a node that stands on another one: a slot, what is underneath, and where the label says so one more
    /// look at it.
    pub(super) async fn attempt_in_a_slot(&self, held: &Mutex<Held<Node>>) -> Result<(), Failure> {
        let (label, place, under) = self.place(held).await?;
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

    /// The label as it is configured now: a launch may have to wait for a place while that changes.
    fn configured(&self) -> Result<MetastaticLabel, NoPlace> {
        let config = self.launcher.config();
        let provider = config.providers.get(&self.pool.provider).and_then(|provider| provider.metastatic());
        provider.and_then(|provider| provider.label(&self.pool.pool, &self.label)).cloned().ok_or_else(|| {
            let why = format!("pool {} does not have it in the configuration any more", self.pool);
            NoPlace::Withdrawn(why)
        })
    }

    /// Waits for a slot and takes it; with the label, the slot and the node underneath.
    async fn place(&self, held: &Mutex<Held<Node>>) -> Result<(MetastaticLabel, Place, Arc<Node>), Failure> {
        let id = held.lock().await.record().id.clone();
        // That of an earlier attempt is free again.
        if held.lock().await.record().driver_data.is_some() {
            held.lock().await.update(|node| (node.driver_data, node.slot) = (None, None)).await?;
        }
        let mut changed = self.launcher.zk.cache().changed();
        let (told, answer) = oneshot::channel();
        self.reports.tell(Event::Seeks {
            node: id.clone(),
            pool: self.pool.clone(),
            label: self.label.clone(),
            answer: told,
        });
        let mut seeking = Seeking { reports: &self.reports, node: id, answer };
        loop {
            let label = self.configured().map_err(|why| why.failure(&self.label))?;
            if let Some((place, under)) = self.take_place(held, &label).await? {
                return Ok((label, place, under));
            }
            tokio::select! {
                answer = &mut seeking.answer => match answer {
                    Ok(why) => return Err(why.failure(&self.label)),
                    // The book was emptied: the session has ended, and this launch ends with it.
                    Err(_) => std::future::pending().await,
                },
                _ = changed.changed() => {}
                () = tokio::time::sleep(LOOK) => {}
            }
        }
    }

    /// Takes a free slot; `None` where there is none, or where another process was faster.
    async fn take_place(
        &self,
        held: &Mutex<Held<Node>>,
        label: &MetastaticLabel,
    ) -> Result<Option<(Place, Arc<Node>)>, Failure> {
        let provider = &self.pool.provider;
        let zk = &self.launcher.zk;
        let find = || {
            let not_kept = self.launcher.placing.left_out();
            zk.cache().read(|records| {
                let place = free_place(records, provider, &not_kept, label, clock::now())?;
                let under = records.nodes.get(&place.backing_node)?.usable()?;
                Some((place, Arc::clone(under)))
            })
        };
        let mut known = self.launcher.placing.turn.lock().await;
        let Some((likely, _)) = find() else { return Ok(None) };
        let on = &likely.backing_node;
        let Some(kept) = self.launcher.kept_lock(on, &metastatic_owner(provider), &self.reports).await? else {
            return Ok(None);
        };
        self.launcher.show_all_placed(&mut known, provider, on, &kept).await?;
        let Some((place, under)) = find().filter(|(place, _)| place.backing_node == *on) else { return Ok(None) };
        let mut held = held.lock().await;
        let id = held.record().id.clone();
        let data = self.driver_data(&id, &place);
        let placed = held.place_on(&kept, |node| {
            node.external_id = Some(json!(id));
            node.slot = i64::try_from(place.slot).ok();
            node.driver_data = Some(data);
        });
        if !placed.await? {
            return Ok(None);
        }
        known.insert(place.backing_node.clone(), kept.version().wrapping_add(1));
        info!(logger = LOGGER, "Node {id} stands on {}, slot {}", place.backing_node, place.slot);
        Ok(Some((place, under)))
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
        if let Some(kept) = self.launcher.kept_lock(backing_node, &owner, &self.reports).await? {
            self.launcher.zk.update_kept(backing_node, &kept, false, mark).await?;
        }
        Ok(())
    }
}

/// What a node has from the one that it stands on.
fn stand_on(node: &mut Node, under: &Node, own_attributes: Option<Object>) {
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
