//! A model launcher of Python Nodepool's: what it does to requests and nodes, in its order and with its locks.
//!
//! Its pool has every label, in a provider of its own that no launcher of ours has. Now and then it looks at what waits, takes the lock
//! of a request, and declines it, serves it, or dies with the request `pending`. It writes no reasons, as Python's does not. What it has
//! made is deleted when nobody has it any more; what it has left when it died, it finds like any other.
//!
//! Requests for stock it declines: what would be in stock in its provider would be nobody's to renew here. It does not answer for
//! promises itself: what is followed is what it makes of ours.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use nodepool_common::{
    model::{Node, NodeId, NodeRequest, NodeState, RequestId, RequestState},
    sys::clock::Clock,
    zk::{
        memory::Memory,
        paths,
        protocol::{Client, Connector, Error, Mode},
    },
};
use serde_json::json;

use super::{
    causes::PEER,
    chance::Chance,
    kazoo,
    network::{Calm, Line},
    plan::Plan,
    story::{Story, tell},
};

/// See the module's comment.
#[derive(Debug)]
pub struct Peer {
    plan: Plan,
    calm: Calm,
    story: Story,
    clock: Clock,
    line: Line,
    memory: Memory,
    chance: Chance,
    started: AtomicU32,
}

/// A life of it, from its start to its death.
struct Life {
    client: Client,
    /// The id of its pool.
    id: String,
}

impl Peer {
    /// One that has not started yet.
    pub fn new(plan: &Plan, calm: Calm, story: Story, clock: Clock, line: Line, memory: Memory) -> Arc<Self> {
        let chance = Chance::of(plan.seed, PEER);
        Arc::new(Self { plan: plan.clone(), calm, story, clock, line, memory, chance, started: AtomicU32::new(0) })
    }

    /// Lives for ever, and dies now and then.
    pub async fn run(self: Arc<Self>) {
        loop {
            let Ok(life) = self.start().await else { continue };
            tell!(self.story, "{PEER}: starts as {}", life.id);
            while let Ok(true) = self.look(&life).await {
                let pause = if self.calm.is_now() { 1.0 } else { self.chance.seconds(0.5, 5.0).as_secs_f64() };
                tokio::time::sleep(Duration::from_secs_f64(pause)).await;
            }
            tell!(self.story, "{PEER}: dies");
            self.memory.expire(life.client.id());
            tokio::time::sleep(self.chance.seconds(1.0, 60.0)).await;
        }
    }

    async fn start(&self) -> Result<Life, Error> {
        let client = self.line.connect().await.map_err(|_| Error::SessionEnded)?;
        let number = self.started.fetch_add(1, Ordering::Relaxed);
        let id = format!("{PEER}-PoolWorker.{PEER}-main-{number}");
        let labels: Vec<&str> = self.plan.labels.iter().map(|label| label.name).collect();
        let component = json!({
            "hostname": PEER, "state": "running", "id": id, "name": "main", "provider_name": PEER,
            "supported_labels": labels, "priority": 100, "paused": false,
        });
        for dir in ["/nodepool/components", paths::POOLS] {
            let _ = client.create(dir, b"", Mode::Persistent).await;
        }
        let path = format!("{}/{PEER}", paths::POOLS);
        client.create(&path, component.to_string().as_bytes(), Mode::EphemeralSequential).await?;
        Ok(Life { client, id })
    }

    /// One round; false: it has died in it.
    async fn look(&self, life: &Life) -> Result<bool, Error> {
        self.delete_nodes(life).await?;
        let mut waiting = life.client.children(paths::REQUESTS).await?;
        waiting.sort_unstable();
        for id in waiting.into_iter().map(RequestId::from) {
            let is_for_us = |request: &NodeRequest| {
                request.state == RequestState::Requested
                    && !request.declined_by.iter().any(|pool| pool.as_str() == life.id)
            };
            let known = self.read(&life.client, &id).await?;
            // Others are as fast as it is.
            if known.is_none_or(|request| !is_for_us(&request)) || (self.chance.one_in(2) && !self.calm.is_now()) {
                continue;
            }
            let dir = paths::request_lock(&id);
            let Some(lock) = kazoo::try_lock(&life.client, &dir, &self.chance).await? else { continue };
            let goes_on = match self.read(&life.client, &id).await?.filter(is_for_us) {
                None => true,
                Some(request) if request.is_min_ready() || self.chance.one_in(2) => {
                    self.decline(life, request).await?;
                    true
                }
                Some(request) => self.serve(life, request).await?,
            };
            if !goes_on {
                return Ok(false);
            }
            kazoo::unlock(&life.client, &lock).await?;
        }
        Ok(true)
    }

    async fn read(&self, client: &Client, id: &RequestId) -> Result<Option<NodeRequest>, Error> {
        match client.get(&paths::request(id)).await {
            Ok((data, _)) => Ok(NodeRequest::read(id.clone(), &data).ok().map(|(request, _)| request)),
            Err(Error::NoNode) => Ok(None),
            Err(error) => Err(error),
        }
    }

    async fn write(&self, client: &Client, mut request: NodeRequest, state: RequestState) -> Result<(), Error> {
        request.set_state(state, self.clock.now());
        match client.set(&paths::request(&request.id), &request.write(), None).await {
            Ok(_) | Err(Error::NoNode) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// It fails once each pool has declined it that is registered.
    async fn decline(&self, life: &Life, mut request: NodeRequest) -> Result<(), Error> {
        request.declined_by.push(life.id.as_str().into());
        let mut all = true;
        for name in life.client.children(paths::POOLS).await? {
            let Ok((data, _)) = life.client.get(&format!("{}/{name}", paths::POOLS)).await else { continue };
            let component: serde_json::Value = serde_json::from_slice(&data).unwrap_or_default();
            all &= request.declined_by.iter().any(|pool| component["id"] == pool.as_str());
        }
        let state = if all { RequestState::Failed } else { RequestState::Requested };
        self.write(&life.client, request, state).await
    }

    /// False: it has died meanwhile.
    async fn serve(&self, life: &Life, mut request: NodeRequest) -> Result<bool, Error> {
        let (client, id) = (&life.client, request.id.clone());
        self.write(client, request.clone(), RequestState::Pending).await?;
        let mut made = Vec::new();
        for label in &request.node_types {
            let mut node = Node::new(self.clock.now());
            (node.provider, node.pool) = (Some(PEER.into()), Some("main".into()));
            (node.labels, node.allocated_to) = (vec![label.clone()], Some(id.clone()));
            node.set_state(NodeState::Building, self.clock.now());
            let path = format!("{}/", paths::NODES);
            let (path, _) = client.create(&path, &node.write(), Mode::PersistentSequential).await?;
            node.id = NodeId::from(path.rsplit('/').next().unwrap_or_default());
            let Some(lock) = kazoo::try_lock(client, &paths::node_lock(&node.id), &self.chance).await? else {
                return Ok(true);
            };
            made.push((node, lock));
        }
        tokio::time::sleep(self.chance.seconds(1.0, 40.0)).await;
        if self.chance.one_in(4) && !self.calm.is_now() {
            return Ok(false);
        }
        for (node, _) in &mut made {
            node.set_state(NodeState::Ready, self.clock.now());
            client.set(&paths::node(&node.id), &node.write(), None).await?;
        }
        // Its priority may have been revised.
        let Some(now) = self.read(client, &id).await? else {
            for (_, lock) in &made {
                kazoo::unlock(client, lock).await?;
            }
            return Ok(true);
        };
        request.relative_priority = now.relative_priority;
        request.nodes = made.iter().map(|(node, _)| node.id.clone()).collect();
        self.write(client, request, RequestState::Fulfilled).await?;
        for (_, lock) in &made {
            kazoo::unlock(client, lock).await?;
        }
        Ok(true)
    }

    /// Deletes its nodes that nobody has any more.
    async fn delete_nodes(&self, life: &Life) -> Result<(), Error> {
        let client = &life.client;
        for id in client.children(paths::NODES).await?.into_iter().map(NodeId::from) {
            let Ok((data, _)) = client.get(&paths::node(&id)).await else { continue };
            let Ok((node, _)) = Node::read(id.clone(), &data) else { continue };
            if node.provider.as_ref().is_none_or(|provider| *provider != PEER) || self.is_given(client, &node).await? {
                continue;
            }
            let dir = paths::node_lock(&id);
            let Some(lock) = kazoo::try_lock(client, &dir, &self.chance).await? else { continue };
            let Ok((data, _)) = client.get(&paths::node(&id)).await else { continue };
            let is_free = Node::read(id.clone(), &data).is_ok_and(|(now, _)| now.state == node.state);
            if !is_free || self.is_given(client, &node).await? {
                kazoo::unlock(client, &lock).await?;
                continue;
            }
            for path in [lock, dir, paths::node(&id)] {
                // Somebody may stand in line.
                if client.delete(&path, None).await.is_err() {
                    break;
                }
            }
        }
        Ok(())
    }

    /// Whether a node waits for whom it was made, or is held by people.
    async fn is_given(&self, client: &Client, node: &Node) -> Result<bool, Error> {
        if node.state == NodeState::Hold {
            return Ok(true);
        }
        let Some(request) = node.allocated_to.as_ref().filter(|_| node.state == NodeState::Ready) else {
            return Ok(false);
        };
        Ok(self.read(client, request).await?.is_some_and(|request| request.state == RequestState::Fulfilled))
    }
}
