//! A node is placed on another one: the action that gives slots to launches, and what a launch makes of it.
//!
//! Which launch gets which slot is decided in [`plan::placing`](crate::plan). The action reads the lock that is kept of the
//! backing node. Where its version is not the one up to which the records show all that was placed there, somebody else has
//! placed nodes; where the tree was walked since, the records may show an older state. Then the nodes are read, nothing is written,
//! and the next pass decides anew. Otherwise each launch is offered its slot, one
//! after the other: only the launch has the lock of its node. It writes down where the node stands in one `multi` that checks and
//! raises that version ([`Held::place_on`]). So whatever becomes of this process, and whichever other one places nodes at the same
//! moment, no slot is given twice, and none is lost.

use std::sync::Arc;

use nodepool_common::{
    config::MetastaticLabel,
    model::{Backing, LabelName, Node, NodeId, NodeState, Object, Place, ProviderName, Resources, metastatic_owner},
    zk::{Held, KeptLock, ZkError},
};
use nodepool_drivers::{ErrorClass, ProviderError};
use serde_json::{Map, Value, json};
use tokio::sync::{Mutex, mpsc, oneshot};
use tracing::{info, warn};

use super::{
    Launcher,
    events::{Event, Outcome, Reports},
    launch::{Failure, NodeLaunch},
    metastatic::LOGGER,
};
use crate::{nodescan::Target, plan::Shown};

/// How a launch that waits for a place is told of one, or that there will be none.
pub type Seeker = mpsc::UnboundedSender<Answer>;

/// What a launch that waits for a place is told.
#[derive(Debug)]
pub enum Answer {
    /// There is one for it.
    Offer(Offer),
    /// It gets none.
    NoPlace(NoPlace),
}

/// A slot that a launch is to write down as its own.
#[derive(Debug)]
pub struct Offer {
    place: Place,
    /// The lock of the backing node, at the version by which the slot is free.
    kept: KeptLock,
    /// The backing node.
    under: Arc<Node>,
    /// Whether it is the launch's now. Not told where the launch has ended: then it may be, or not.
    taken: oneshot::Sender<bool>,
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
}

impl Drop for Seeking<'_> {
    fn drop(&mut self) {
        self.reports.tell(Event::SeeksNoMore { node: self.node.clone() });
    }
}

/// What a placement works with, as it was when that was decided.
#[derive(Debug, Default)]
pub struct Seekers {
    /// Who is to be placed, how it is told, and in which slot.
    pub slots: Vec<(NodeId, Seeker, usize)>,
    /// Up to where the records showed all that was placed on the backing node.
    pub shown: Option<Shown>,
}

impl Launcher {
    /// Places nodes on a backing node.
    pub(super) async fn place(
        &self,
        provider: &ProviderName,
        on: &NodeId,
        seekers: Seekers,
        reports: &Reports,
    ) -> Result<Outcome, ZkError> {
        let Some(mut kept) = self.kept_lock(on, &metastatic_owner(provider), reports).await? else {
            return Ok(Outcome::Done);
        };
        let now = self.shown_now(&kept);
        if seekers.shown != Some(now) {
            return self.show_all_placed(provider, &kept, reports).await;
        }
        let under = self.zk.cache().read(|records| records.nodes.get(on).and_then(|entry| entry.usable()).cloned());
        let Some(under) = under else { return Ok(Outcome::Done) };
        let mut given = Vec::new();
        for (node, seeker, slot) in seekers.slots {
            let place = Place { backing_node: on.clone(), slot };
            let (taken, is_taken) = oneshot::channel();
            let offer = Offer { place, kept: kept.clone(), under: Arc::clone(&under), taken };
            if seeker.send(Answer::Offer(offer)).is_err() {
                // It has ended before: its slot is left to the next pass.
                continue;
            }
            match is_taken.await {
                Ok(true) => {
                    kept = kept.raised();
                    given.push((node, slot));
                }
                // Another process was faster, or the launch has ended and may have written: the lock is read again.
                Ok(false) | Err(_) => break,
            }
        }
        // What was written is in the cache, unless the cache has not read that node yet: then all is read before the next one is
        // placed.
        let are_shown = self.zk.cache().read(|records| {
            let stands = |node: &NodeId| records.nodes.get(node).and_then(|entry| Place::of(entry.usable()?));
            given.iter().all(|(node, slot)| stands(node) == Some(Place { backing_node: on.clone(), slot: *slot }))
        });
        if !are_shown {
            return Ok(Outcome::Done);
        }
        Ok(Outcome::Shown(Shown { version: kept.version(), ..now }))
    }
}

impl NodeLaunch {
    /// An attempt of a node that stands on another one: a slot, what is underneath, and where the label says so one more
    /// look at it.
    pub(super) async fn attempt_in_a_slot(&self, held: &Mutex<Held<Node>>) -> Result<(), Failure> {
        let (backing_node, under, label) = self.stand_somewhere(held).await?;
        let own_attributes = self.cloud.config.pool(&self.pool.pool).and_then(|pool| pool.node_attributes.clone());
        let target = Target {
            address: under.interface_ip.clone().unwrap_or_default(),
            port: under.connection_port.as_u64().and_then(|port| u16::try_from(port).ok()).unwrap_or(22),
            connection_type: under.connection_type.as_deref().unwrap_or("ssh").to_owned(),
            host_key_checking: true,
        };
        let node = {
            let mut held = held.lock().await;
            held.update(|node| {
                stand_on(node, &under, own_attributes);
                if !label.host_key_checking {
                    node.set_state(NodeState::Ready, self.launcher.clock.now());
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
                self.give_up(&backing_node, &failure).await?;
                return Err(failure);
            }
        };
        held.lock()
            .await
            .update(|node| {
                node.host_keys = keys;
                node.set_state(NodeState::Ready, self.launcher.clock.now());
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

    /// Waits until the node is given a slot, and writes down that it stands there; with the node underneath, and the label as it
    /// was configured then. A label that is gone by then takes no slot: nobody would give it back.
    async fn stand_somewhere(&self, held: &Mutex<Held<Node>>) -> Result<(NodeId, Arc<Node>, MetastaticLabel), Failure> {
        let node = held.lock().await.record().id.clone();
        // That of an earlier attempt is free again.
        if held.lock().await.record().driver_data.is_some() {
            held.lock().await.update(|node| (node.driver_data, node.slot) = (None, None)).await?;
        }
        let (told, mut answers) = mpsc::unbounded_channel();
        let (pool, label) = (self.pool.clone(), self.label.clone());
        self.reports.tell(Event::Seeks { node: node.clone(), pool, label, answers: told });
        let _seeking = Seeking { reports: &self.reports, node };
        while let Some(answer) = answers.recv().await {
            let offer = match answer {
                Answer::Offer(offer) => offer,
                Answer::NoPlace(why) => return Err(why.failure(&self.label)),
            };
            let Offer { place, kept, under, taken } = offer;
            let label = self.configured().map_err(|why| why.failure(&self.label))?;
            let is_taken = self.stand_at(held, &place, &kept).await?;
            // Who has offered it may have ended.
            let _ = taken.send(is_taken);
            if is_taken {
                return Ok((place.backing_node, under, label));
            }
        }
        // The book was emptied: the session has ended, and this launch ends with it.
        std::future::pending().await
    }

    /// Writes down where the node stands. False: another process was faster, and nothing was written.
    async fn stand_at(&self, held: &Mutex<Held<Node>>, place: &Place, kept: &KeptLock) -> Result<bool, ZkError> {
        let mut held = held.lock().await;
        let id = held.record().id.clone();
        let data = self.driver_data(&id, place);
        let placed = held.place_on(kept, |node| {
            node.external_id = Some(json!(id));
            node.slot = i64::try_from(place.slot).ok();
            node.driver_data = Some(data.into());
        });
        let is_placed = placed.await?;
        if is_placed {
            info!(logger = LOGGER, "Node {id} stands on {}, slot {}", place.backing_node, place.slot);
        }
        Ok(is_placed)
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
