//! Nodes: created locked, and locked without ever bringing a deleted one back.

use std::time::Duration;

use tokio::time::Instant;

use super::{
    Held, InSession, KeptLock, TryLock, ZkError, ZooKeeper,
    cache::{Asking, Write},
    lock::{Attempt, Contender, Waited, acquire, holder, list_synced, try_acquire},
    paths::{self, Spot},
    protocol::{self, Client, Done, Error, Mode, MultiError, Op},
    record::{Record, stat, useless},
    repeated::{self, repeat},
    session::Shared,
};
use crate::model::{Node, NodeId, NodeState, ProviderName, guard};

/// How many of the newest records are searched for one whose creation was not answered.
pub(super) const LOOK_BACK: usize = 200;

impl ZooKeeper {
    /// [`InSession::create_node`] in the current session.
    pub async fn create_node(&self, node: Node, prepare: impl FnOnce(&mut Node) + Send) -> Result<Held<Node>, ZkError> {
        self.in_current_session("creating a node in", paths::NODES).await?.create_node(node, prepare).await
    }

    /// [`InSession::try_lock_node`] in the current session.
    pub async fn try_lock_node(&self, id: &NodeId) -> Result<TryLock<Held<Node>>, ZkError> {
        self.in_current_session("locking", &paths::node(id)).await?.try_lock_node(id).await
    }

    /// [`InSession::lock_node`] in the current session.
    pub async fn lock_node(&self, id: &NodeId, timeout: Duration) -> Result<Option<Held<Node>>, ZkError> {
        self.in_current_session("locking", &paths::node(id)).await?.lock_node(id, timeout).await
    }

    /// Changes a node under a lock that is kept for an owner. With `ends`, that lock ends in the same moment, provided that
    /// it is still at its version: nothing was placed on the node since. False: another process was faster, or the node is
    /// gone, and nothing was written.
    pub async fn update_kept(
        &self,
        id: &NodeId,
        kept: &KeptLock,
        ends: bool,
        change: impl FnOnce(&mut Node) + Send,
    ) -> Result<bool, ZkError> {
        const VERB: &str = "writing";
        let path = paths::node(id);
        let client = self.shared.client_of(kept.session);
        let client = client.ok_or_else(|| ZkError::SessionLost { doing: format!("{VERB} {path}") })?;
        let asking = self.shared.cache().within(kept.session).asking();
        let fail = |error: Error| ZkError::of(VERB, &path, error);
        let (data, now) = match repeat(self.shared.deadline(), || client.get(&path)).await {
            Ok(record) => record,
            Err(Error::NoNode) => return Ok(false),
            Err(error) => return Err(fail(error)),
        };
        let mut node = match Node::read(id.clone(), &data) {
            Ok((node, _)) => node,
            Err(source) => return Err(ZkError::Record { path, source }),
        };
        change(&mut node);
        let document = node.document();
        let mut multi =
            vec![Op::Check(&kept.path, ends.then_some(kept.version)), Op::Set(&path, &document, Some(now.version))];
        if ends {
            multi.push(Op::Delete(&kept.path, None));
        }
        match client.multi(&multi).await {
            Ok(results) => {
                if let Some(Done::Set(new)) = results.into_iter().nth(1) {
                    asking.created_node(&node.into(), stat(&new));
                }
                Ok(true)
            }
            Err(MultiError::Refused { .. }) => Ok(false),
            Err(error) => Err(fail(error.into())),
        }
    }
}

impl InSession {
    /// Creates the node (state `init`), locks it and sets it to `building`, with what else `prepare` says: two round trips.
    /// Peers see what upstream shows them: the node in state `init` first, then locked and `building`. The result is held, with
    /// its id; and the cache has it, or is not current until it has, so that whoever counts nodes from then on does not miss it.
    pub async fn create_node(
        &self,
        mut node: Node,
        prepare: impl FnOnce(&mut Node) + Send,
    ) -> Result<Held<Node>, ZkError> {
        const VERB: &str = "creating a node in";
        let (session, client) = (self.id(), self.client(VERB, paths::NODES)?);
        let asking = self.shared.cache().within(session).asking();
        let _writing = self.shared.cache().writing(Write::NewNode);
        let fail = |error: Error| ZkError::of(VERB, paths::NODES, error);
        node.state = NodeState::Init;
        node.id = create_record(&self.shared, &client, &mut node).await?;

        let (path, dir) = (paths::node(&node.id), paths::node_lock(&node.id));
        let mut building = node.clone();
        prepare(&mut building);
        building.set_state(NodeState::Building, self.shared.ambient.clock.now());
        let document = building.document();
        let mut contender = Contender::planned(&self.shared, session, &dir);
        let contending = contender.create_path();
        let multi = [
            Op::Create(&dir, b"", Mode::Persistent),
            Op::Create(&contending, b"", Mode::EphemeralSequential),
            Op::Set(&path, &document, Some(0)),
        ];
        match client.multi(&multi).await {
            Ok(results) => {
                let mut new = None;
                for result in results {
                    match result {
                        Done::Created(path, _) if path != dir => contender.created(&path),
                        Done::Set(of) => new = Some(of),
                        _ => {}
                    }
                }
                let new = new.ok_or_else(|| fail(Error::unexpected(&"multi without set")))?;
                if !guard::is_removed("new node in the records at once") {
                    asking.created_node(&building.clone().into(), stat(&new));
                }
                return Ok(Held::new(building, stat(&new), contender, Some(&asking)));
            }
            // A peer was faster, or the answer is lost: find out by the ordinary way.
            Err(MultiError::Refused { .. }) => contender.disarm(),
            Err(MultiError::Failed(source)) if source.is_unanswered() => {
                let deadline = self.shared.deadline();
                match contender.look_for(&client, deadline).await {
                    Ok(true) => {
                        let (_, new) = repeat(deadline, || client.get(&path)).await.map_err(fail)?;
                        asking.created_node(&building.clone().into(), stat(&new));
                        return Ok(Held::new(building, stat(&new), contender, Some(&asking)));
                    }
                    Ok(false) | Err(Error::NoNode) => contender.disarm(),
                    Err(error) => return Err(fail(error)),
                }
            }
            Err(MultiError::Failed(source)) => return Err(fail(source)),
        }
        asking.created(&Spot::Node(node.id.clone()));
        let held = self.lock_node(&node.id, self.shared.timeout()).await?;
        let mut held = held.ok_or_else(|| fail(Error::NoNode))?;
        match held.record().state {
            NodeState::Init => held.update(|node| *node = building).await?,
            // It was our own write whose answer is lost, and the lock that came with it was broken.
            _ if held.record().document() == document => {}
            // Somebody else has decided what becomes of it.
            _ => {
                held.unlock().await?;
                return Err(fail(Error::NoNode));
            }
        }
        Ok(held)
    }

    /// Locks a node without waiting. One that is gone, which is also one that is empty, is never re-created, as kazoo's lock
    /// does with the parents of its directory; the cache knows.
    pub async fn try_lock_node(&self, id: &NodeId) -> Result<TryLock<Held<Node>>, ZkError> {
        let (path, dir) = (paths::node(id), paths::node_lock(id));
        let (session, client) = (self.id(), self.client("locking", &path)?);
        let cache = self.shared.cache().within(session);
        let asking = cache.asking();
        let fail = |error| ZkError::of("locking", &path, error);
        loop {
            match try_acquire(&self.shared, session, &client, &dir, &path, None).await.map_err(fail)? {
                Attempt::Busy | Attempt::Changed => return Ok(TryLock::Busy),
                Attempt::NoDirectory => {
                    if !self.make_lock_dir(&client, &dir).await.map_err(fail)? {
                        cache.missed_node(id);
                        return Ok(TryLock::Gone);
                    }
                }
                Attempt::Acquired(contender, record) => {
                    let held = self.hold(&client, id, contender, record, Some(&asking)).await?;
                    return Ok(held.map_or(TryLock::Gone, TryLock::Held));
                }
            }
        }
    }

    /// Locks a node, waiting in line with everybody else. `None`: it is gone. [`ZkError::LockTimeout`]: somebody else
    /// held it all the time.
    pub async fn lock_node(&self, id: &NodeId, timeout: Duration) -> Result<Option<Held<Node>>, ZkError> {
        let until = Instant::now() + timeout;
        let (path, dir) = (paths::node(id), paths::node_lock(id));
        let (session, client) = (self.id(), self.client("locking", &path)?);
        let fail = |error| ZkError::of("locking", &path, error);
        loop {
            match acquire(&self.shared, session, &client, &dir, b"", Some(until)).await.map_err(fail)? {
                Waited::TimedOut => return Err(ZkError::LockTimeout { path, timeout }),
                Waited::NoDirectory => {
                    if !self.make_lock_dir(&client, &dir).await.map_err(fail)? {
                        self.shared.cache().within(session).missed_node(id);
                        return Ok(None);
                    }
                }
                Waited::Acquired(contender) => {
                    let record = match repeat(self.shared.deadline(), || client.get(&path)).await {
                        Ok(record) => Some(record),
                        Err(Error::NoNode) => None,
                        Err(error) => return Err(fail(error)),
                    };
                    return self.hold(&client, id, contender, record, None).await;
                }
            }
        }
    }

    /// `<id>/lock` and nothing above it; false: the node is gone.
    async fn make_lock_dir(&self, client: &Client, dir: &str) -> Result<bool, Error> {
        match repeat(self.shared.deadline(), || client.create(dir, b"", Mode::Persistent)).await {
            Ok(_) | Err(Error::NodeExists) => Ok(true),
            Err(Error::NoNode) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Under the lock: what is empty or gone is not held.
    async fn hold(
        &self,
        client: &Client,
        id: &NodeId,
        contender: Contender,
        record: Option<(Vec<u8>, protocol::Stat)>,
        asking: Option<&Asking>,
    ) -> Result<Option<Held<Node>>, ZkError> {
        let record = match record {
            Some((data, now)) => match Node::parse(id.clone(), &data) {
                Ok(node) => return Ok(Some(Held::new(node, stat(&now), contender, asking))),
                Err(problem) => Some((problem, stat(&now))),
            },
            None => None,
        };
        let problem = useless::<Node>(self.shared.cache().within(contender.session()), id, record);
        let _ = contender.release(client).await;
        problem.map_or(Ok(None), Err)
    }

    /// Creates a node that is ready and free from the beginning: a static one.
    pub async fn create_ready_node(&self, mut node: Node) -> Result<NodeId, ZkError> {
        let client = self.client("creating a node in", paths::NODES)?;
        let asking = self.shared.cache().within(self.id()).asking();
        node.set_state(NodeState::Ready, self.shared.ambient.clock.now());
        node.id = create_record(&self.shared, &client, &mut node).await?;
        let path = paths::node(&node.id);
        // Only its stat is missing for what we know already; whoever was faster has the newer record.
        match repeat(self.shared.deadline(), || client.exists(&path)).await {
            Ok(Some(new)) if new.version == 0 => asking.created_node(&node.clone().into(), stat(&new)),
            Ok(_) => asking.created(&Spot::Node(node.id.clone())),
            Err(error) => return Err(ZkError::of("creating a node in", &path, error)),
        }
        Ok(node.id)
    }

    /// The lock that is kept of a node for an owner ([`Held::update_and_keep_locked_for`]). `None`: it is not locked, or for
    /// another, or it is gone.
    pub async fn kept_lock(&self, id: &NodeId, owner: &str) -> Result<Option<KeptLock>, ZkError> {
        const VERB: &str = "reading the lock of";
        let (path, dir) = (paths::node(id), paths::node_lock(id));
        let (session, client) = (self.id(), self.client(VERB, &path)?);
        let fail = |error: Error| ZkError::of(VERB, &path, error);
        let deadline = self.shared.deadline();
        let children = match repeat(deadline, || client.children(&dir)).await {
            Ok(children) => children,
            Err(Error::NoNode) => return Ok(None),
            Err(error) => return Err(fail(error)),
        };
        let Some(path) = holder(&children).map(|name| format!("{dir}/{name}")) else { return Ok(None) };
        match repeat(deadline, || client.get(&path)).await {
            Ok((who, stat)) if who == owner.as_bytes() => {
                Ok(Some(KeptLock { session, path, owner: owner.to_owned(), version: stat.version }))
            }
            Ok(_) | Err(Error::NoNode) => Ok(None),
            Err(error) => Err(fail(error)),
        }
    }

    /// Reads the nodes of a provider, and those that the cache does not know yet, and puts them into the cache. Its events
    /// come in the order of what happened, but their records are read one by one: this makes sure that whatever happened
    /// before a record in the cache was written is in it, too.
    ///
    /// Returns the number of the walk that had brought what the cache knew before. As long as it is the last one
    /// ([`Cache::walks`](super::Cache::walks)), what was read is there. A walk that ends later, or has ended meanwhile, may have read
    /// all of it earlier.
    pub async fn read_nodes_of(&self, provider: &ProviderName) -> Result<u64, ZkError> {
        let client = self.client("reading", paths::NODES)?;
        let cache = self.shared.cache();
        let walks = cache.walks();
        let asking = cache.within(self.id()).asking();
        let deadline = self.shared.deadline();
        let fail = |error: Error| ZkError::of("reading", paths::NODES, error);
        let children = repeat(deadline, || client.children(paths::NODES)).await.map_err(fail)?;
        let ids: Vec<NodeId> = cache.read(|records| {
            let may_be_of_provider = |id: &NodeId| {
                let entry = records.nodes.get(id);
                entry.is_none_or(|entry| entry.usable().is_some_and(|node| node.provider.as_ref() == Some(provider)))
            };
            children.into_iter().map(NodeId::from).filter(may_be_of_provider).collect()
        });
        let reads = ids.iter().map(|id| async {
            let path = paths::node(id);
            repeat(deadline, || client.get(&path)).await
        });
        for (id, read) in ids.iter().zip(futures::future::join_all(reads).await) {
            match read {
                // What cannot be used places nothing.
                Ok((data, now)) => {
                    if let Ok((node, _)) = Node::read(id.clone(), &data) {
                        asking.created_node(&node.into(), stat(&now));
                    }
                }
                Err(Error::NoNode) => {}
                Err(error) => return Err(fail(error)),
            }
        }
        Ok(walks)
    }

    /// Removes a node without its lock: an empty or unreadable record, or the command line's erase.
    pub async fn delete_node_record(&self, id: &NodeId) -> Result<(), ZkError> {
        let path = paths::node(id);
        let client = self.client("deleting", &path)?;
        let deleted = repeated::delete_recursive(&client, &path, self.shared.deadline()).await;
        deleted.map_err(|error| ZkError::of("deleting", &path, error))?;
        self.shared.cache().within(self.id()).deleted_node(id);
        Ok(())
    }
}

/// Creates the record, with a time of creation of its own, and returns its number.
async fn create_record(shared: &Shared, client: &Client, node: &mut Node) -> Result<NodeId, ZkError> {
    let fail = |error| ZkError::of("creating a node in", paths::NODES, error);
    node.created_time = node.created_time.map(|created| shared.own_moment(created));
    let document = &node.document();
    let deadline = shared.deadline();
    let prefix = format!("{}/", paths::NODES);
    loop {
        match client.create(&prefix, document, Mode::PersistentSequential).await {
            Ok((path, _)) => return Ok(NodeId::from(path[prefix.len()..].to_owned())),
            Err(Error::NoNode) => {
                repeat(deadline, || repeated::mkdir(client, paths::NODES)).await.map_err(fail)?;
            }
            Err(error) if error.is_unanswered() && Instant::now() < deadline => {
                if let Some(id) = find_own(client, document, deadline).await.map_err(fail)? {
                    return Ok(id);
                }
            }
            Err(error) => return Err(fail(error)),
        }
    }
}

/// Looks for a node with exactly this document, which nobody has locked yet, among the newest.
async fn find_own(client: &Client, document: &[u8], deadline: Instant) -> Result<Option<NodeId>, Error> {
    let mut children = match list_synced(client, paths::NODES, deadline).await {
        // It was the refusal that was lost: there is no such directory yet.
        Err(Error::NoNode) => return Ok(None),
        children => children?,
    };
    children.sort_unstable();
    for child in children.into_iter().rev().take(LOOK_BACK) {
        let id = NodeId::from(child);
        match repeat(deadline, || client.get(&paths::node(&id))).await {
            Ok((data, now)) if data == document && now.num_children == 0 => return Ok(Some(id)),
            Ok(_) | Err(Error::NoNode) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(None)
}
