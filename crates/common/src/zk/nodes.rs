//! Nodes: created locked, and locked without ever bringing a deleted one back.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::time::Instant;
use zookeeper_client::{Acls, Client, CreateMode, Error, MultiWriteError, MultiWriteResult};

use super::{
    Held, ZkError, ZooKeeper,
    cache::Asking,
    error::is_unknown,
    lock::{Attempt, Contender, Waited, acquire, holder, list_synced, repeat, try_acquire},
    paths, raw,
    record::{Record, stat, useless},
};
use crate::model::{Node, NodeId, NodeState, Timestamp};

/// How many of the newest records are searched for one whose creation was not answered.
pub(super) const LOOK_BACK: usize = 200;

/// Seconds since the epoch.
pub(super) fn now() -> Timestamp {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64())
}

impl ZooKeeper {
    /// Creates the node (state `init`), locks it and sets it to `building`: two round trips. Peers see what upstream
    /// shows them (zookeeper.md 6). The result is held, with its id.
    pub async fn create_node(&self, mut node: Node) -> Result<Held<Node>, ZkError> {
        const VERB: &str = "creating a node in";
        let (session, client) = self.shared.client(VERB, paths::NODES).await?;
        let asking = self.shared.cache().asking();
        let fail = |error: Error| ZkError::of(VERB, paths::NODES, error);
        node.state = NodeState::Init;
        node.id = self.create_node_record(&client, &node.document()).await?;

        let (path, dir) = (paths::node(&node.id), paths::node_lock(&node.id));
        let mut building = node.clone();
        building.set_state(NodeState::Building, now());
        let document = building.document();
        let mut contender = Contender::planned(&self.shared, session, &dir);
        let ephemeral = CreateMode::EphemeralSequential.with_acls(Acls::anyone_all());
        let mut multi = client.new_multi_writer();
        multi.add_create(&dir, b"", &raw::PERSISTENT).map_err(fail)?;
        multi.add_create(&contender.create_path(), b"", &ephemeral).map_err(fail)?;
        multi.add_set_data(&path, &document, Some(0)).map_err(fail)?;
        match multi.commit().await {
            Ok(results) => {
                let mut new = None;
                for result in results {
                    match result {
                        MultiWriteResult::Create { path, .. } if path != dir => contender.created(&path),
                        MultiWriteResult::SetData { stat } => new = Some(stat),
                        _ => {}
                    }
                }
                let new = new.ok_or_else(|| fail(Error::UnexpectedError("multi without set".to_owned())))?;
                asking.created_node(&building.clone().into(), stat(&new));
                return Ok(Held::new(building, stat(&new), contender, Some(&asking)));
            }
            // A peer was faster, or the answer is lost: find out by the ordinary way.
            Err(MultiWriteError::OperationFailed { .. }) => contender.disarm(),
            Err(MultiWriteError::RequestFailed { source }) if is_unknown(&source) => {
                let deadline = self.shared.deadline();
                match contender.look_for(&client, deadline).await {
                    Ok(true) => {
                        let (_, new) = repeat(deadline, || client.get_data(&path)).await.map_err(fail)?;
                        asking.created_node(&building.clone().into(), stat(&new));
                        return Ok(Held::new(building, stat(&new), contender, Some(&asking)));
                    }
                    Ok(false) | Err(Error::NoNode) => contender.disarm(),
                    Err(error) => return Err(fail(error)),
                }
            }
            Err(MultiWriteError::RequestFailed { source }) => return Err(fail(source)),
        }
        let held = self.lock_node(&node.id, self.shared.timeout()).await?;
        let mut held = held.ok_or_else(|| fail(Error::NoNode))?;
        if held.record().state == NodeState::Init {
            held.update(|node| node.set_state(NodeState::Building, now())).await?;
        }
        Ok(held)
    }

    /// Creates a node that is ready and free from the beginning: a static one.
    pub async fn create_ready_node(&self, mut node: Node) -> Result<NodeId, ZkError> {
        let (_, client) = self.shared.client("creating a node in", paths::NODES).await?;
        let asking = self.shared.cache().asking();
        node.set_state(NodeState::Ready, now());
        node.id = self.create_node_record(&client, &node.document()).await?;
        let path = paths::node(&node.id);
        // Only its stat is missing for what we know already; whoever was faster has the newer record.
        match repeat(self.shared.deadline(), || client.check_stat(&path)).await {
            Ok(Some(new)) if new.version == 0 => asking.created_node(&node.clone().into(), stat(&new)),
            Ok(_) => {}
            Err(error) => return Err(ZkError::of("creating a node in", &path, error)),
        }
        Ok(node.id)
    }

    async fn create_node_record(&self, client: &Client, document: &[u8]) -> Result<NodeId, ZkError> {
        let fail = |error| ZkError::of("creating a node in", paths::NODES, error);
        let deadline = self.shared.deadline();
        let prefix = format!("{}/", paths::NODES);
        let sequential = CreateMode::PersistentSequential.with_acls(Acls::anyone_all());
        loop {
            match client.create(&prefix, document, &sequential).await {
                Ok((_, sequence)) => return Ok(NodeId::from(sequence.to_string())),
                Err(Error::NoNode) => {
                    repeat(deadline, || client.mkdir(paths::NODES, &raw::PERSISTENT)).await.map_err(fail)?;
                }
                Err(error) if is_unknown(&error) && Instant::now() < deadline => {
                    if let Some(id) = find_own(client, document, deadline).await.map_err(fail)? {
                        return Ok(id);
                    }
                }
                Err(error) => return Err(fail(error)),
            }
        }
    }

    /// Locks a node without waiting. `None`: somebody else holds it, or it is gone; it is never re-created (traps.md
    /// 5). The record was read under the lock.
    pub async fn try_lock_node(&self, id: &NodeId) -> Result<Option<Held<Node>>, ZkError> {
        let (path, dir) = (paths::node(id), paths::node_lock(id));
        let (session, client) = self.shared.client("locking", &path).await?;
        let asking = self.shared.cache().asking();
        let fail = |error| ZkError::of("locking", &path, error);
        loop {
            match try_acquire(&self.shared, session, &client, &dir, &path).await.map_err(fail)? {
                Attempt::Busy => return Ok(None),
                Attempt::NoDirectory => {
                    if !self.make_lock_dir(&client, &dir).await.map_err(fail)? {
                        self.shared.cache().missed_node(id);
                        return Ok(None);
                    }
                }
                Attempt::Acquired(contender, record) => {
                    return self.hold(&client, id, contender, record, Some(&asking)).await;
                }
            }
        }
    }

    /// Locks a node, waiting in line with everybody else. `None`: it is gone. [`ZkError::LockTimeout`]: somebody else
    /// held it all the time.
    pub async fn lock_node(&self, id: &NodeId, timeout: Duration) -> Result<Option<Held<Node>>, ZkError> {
        let until = Instant::now() + timeout;
        let (path, dir) = (paths::node(id), paths::node_lock(id));
        let (session, client) = self.shared.client("locking", &path).await?;
        let fail = |error| ZkError::of("locking", &path, error);
        loop {
            match acquire(&self.shared, session, &client, &dir, b"", Some(until)).await.map_err(fail)? {
                Waited::TimedOut => return Err(ZkError::LockTimeout { path, timeout }),
                Waited::NoDirectory => {
                    if !self.make_lock_dir(&client, &dir).await.map_err(fail)? {
                        self.shared.cache().missed_node(id);
                        return Ok(None);
                    }
                }
                Waited::Acquired(contender) => {
                    let record = match repeat(self.shared.deadline(), || client.get_data(&path)).await {
                        Ok(record) => Some(record),
                        Err(Error::NoNode) => None,
                        Err(error) => return Err(fail(error)),
                    };
                    return self.hold(&client, id, contender, record, None).await;
                }
            }
        }
    }

    /// Changes a node that is kept locked for an owner ([`Held::update_and_keep_locked_for`]); with `ends`, that lock ends
    /// in the same moment. False: it is not his, or not any more.
    pub async fn update_kept(
        &self,
        id: &NodeId,
        owner: &str,
        ends: bool,
        change: impl FnOnce(&mut Node) + Send,
    ) -> Result<bool, ZkError> {
        const VERB: &str = "writing";
        let (path, dir) = (paths::node(id), paths::node_lock(id));
        let (_, client) = self.shared.client(VERB, &path).await?;
        let asking = self.shared.cache().asking();
        let fail = |error: Error| ZkError::of(VERB, &path, error);
        let deadline = self.shared.deadline();
        let children = match repeat(deadline, || client.list_children(&dir)).await {
            Ok(children) => children,
            Err(Error::NoNode) => return Ok(false),
            Err(error) => return Err(fail(error)),
        };
        let Some(contender) = holder(&children).map(|name| format!("{dir}/{name}")) else { return Ok(false) };
        let (who, (data, now)) = match tokio::try_join!(
            repeat(deadline, || client.get_data(&contender)),
            repeat(deadline, || client.get_data(&path))
        ) {
            Ok(((who, _), record)) => (who, record),
            Err(Error::NoNode) => return Ok(false),
            Err(error) => return Err(fail(error)),
        };
        let Ok((mut node, _)) = Node::read(id.clone(), &data) else { return Ok(false) };
        if who != owner.as_bytes() {
            return Ok(false);
        }
        change(&mut node);
        let mut multi = client.new_multi_writer();
        multi.add_check_version(&contender, -1).map_err(fail)?;
        multi.add_set_data(&path, &node.document(), Some(now.version)).map_err(fail)?;
        if ends {
            multi.add_delete(&contender, None).map_err(fail)?;
        }
        match multi.commit().await {
            Ok(results) => {
                if let Some(MultiWriteResult::SetData { stat: new }) = results.into_iter().nth(1) {
                    asking.created_node(&node.into(), stat(&new));
                }
                Ok(true)
            }
            // Somebody was faster; whoever asked looks again.
            Err(MultiWriteError::OperationFailed { .. }) => Ok(false),
            Err(error) => Err(fail(error.into())),
        }
    }

    /// Removes a node without its lock: an empty or unreadable record, or the command line's erase.
    pub async fn delete_node_record(&self, id: &NodeId) -> Result<(), ZkError> {
        self.delete_recursive(&paths::node(id)).await?;
        self.shared.cache().deleted_node(id);
        Ok(())
    }

    /// `<id>/lock` and nothing above it; false: the node is gone.
    async fn make_lock_dir(&self, client: &Client, dir: &str) -> Result<bool, Error> {
        match repeat(self.shared.deadline(), || client.create(dir, b"", &raw::PERSISTENT)).await {
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
        record: Option<(Vec<u8>, zookeeper_client::Stat)>,
        asking: Option<&Asking>,
    ) -> Result<Option<Held<Node>>, ZkError> {
        let record = match record {
            Some((data, now)) => match Node::parse(id.clone(), &data) {
                Ok(node) => return Ok(Some(Held::new(node, stat(&now), contender, asking))),
                Err(problem) => Some((problem, stat(&now))),
            },
            None => None,
        };
        let problem = useless::<Node>(self.shared.cache(), id, record);
        let _ = contender.release(client).await;
        problem.map_or(Ok(None), Err)
    }
}

/// Looks for a node with exactly this document, which nobody has locked yet, among the newest.
async fn find_own(client: &Client, document: &[u8], deadline: Instant) -> Result<Option<NodeId>, Error> {
    let mut children = list_synced(client, paths::NODES, deadline).await?;
    children.sort_unstable();
    for child in children.into_iter().rev().take(LOOK_BACK) {
        let id = NodeId::from(child);
        match repeat(deadline, || client.get_data(&paths::node(&id))).await {
            Ok((data, now)) if data == document && now.num_children == 0 => return Ok(Some(id)),
            Ok(_) | Err(Error::NoNode) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(None)
}
