//! [`Held`]: a lock that we hold, with the record that it protects. The only thing that can write the record.
//!
//! Each write is one `multi`: check that our contender still exists, set the data. ZooKeeper does both or neither, so
//! a process that lost its lock cannot write, not even for a moment, whatever it believes. Where a
//! connection breaks before the answer came, the outcome is found out: the record is read again and compared, and the
//! write repeated while the session is the same.
//!
//! A node that is placed on another one is written together with the lock that is kept of that one ([`Held::place_on`]), at
//! the version that was looked at: so two processes that both see a slot free cannot both give it away.

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;

use super::{
    cache::{Asking, Within, Write, Writing},
    error::ZkError,
    lock::Contender,
    paths::{self, Spot},
    protocol::{Client, Done, Error, Mode, MultiError, Op, SessionId},
    record::{Record, stat},
    repeated::{self, repeat},
};
use crate::model::{Node, NodeState, Stat, Timestamp, guard};

/// How often a deletion that others get in the way of starts again.
const DELETE_ATTEMPTS: usize = 10;

/// How an attempt to take a lock without waiting ended; `L`: a lock that is held ([`Held`], [`super::HeldWork`]).
#[derive(Debug)]
#[must_use]
pub enum TryLock<L> {
    /// The lock is ours.
    Held(L),
    /// Another contender holds it. It may be free later.
    Busy,
    /// What it protects does not exist any more, or is being deleted: it will never be free again.
    Gone,
}

impl<L> TryLock<L> {
    /// The lock, for callers that have nothing to do without it, whatever the reason.
    pub fn held(self) -> Option<L> {
        match self {
            Self::Held(held) => Some(held),
            Self::Busy | Self::Gone => None,
        }
    }
}

/// A lock that is kept for an owner ([`Held::update_and_keep_locked_for`]), as it was read: no process holds it, and any may
/// use it in the owner's name.
#[derive(Clone, Debug)]
pub struct KeptLock {
    /// In which it was read: its version says nothing in another one.
    pub(super) session: SessionId,
    pub(super) path: String,
    pub(super) owner: String,
    pub(super) version: i32,
}

impl KeptLock {
    /// Grows with each node that is placed on the one that is locked.
    pub fn version(&self) -> i32 {
        self.version
    }

    /// As it is after one more node was placed: for who has just done that ([`Held::place_on`]) and places another.
    #[must_use]
    pub fn raised(self) -> Self {
        Self { version: self.version.wrapping_add(1), ..self }
    }
}

/// A lock we hold, with the record it protects. Dropped without [`Self::unlock`], the contender is deleted by a task.
#[derive(Debug)]
pub struct Held<T: Record> {
    record: Arc<T>,
    stat: Stat,
    contender: Contender,
}

impl<T: Record> Held<T> {
    /// `asking`: since before our contender was asked for; without it the cache hears of that by its event.
    pub(super) fn new(record: T, stat: Stat, contender: Contender, asking: Option<&Asking>) -> Self {
        let held = Self { record: Arc::new(record), stat, contender };
        if let Some(asking) = asking {
            T::cache_lock(asking, held.record.id(), held.contender.name());
        }
        held.remember();
        held
    }

    /// The record, as last read or written under this lock.
    pub fn record(&self) -> &Arc<T> {
        &self.record
    }

    /// Of the record.
    pub fn stat(&self) -> Stat {
        self.stat
    }

    /// The session that the lock lives with.
    pub fn session(&self) -> SessionId {
        self.contender.session()
    }

    /// Whether the session that the lock lives with is still the current one (suspended counts: it may be resumed).
    /// The last word has each write.
    pub fn is_valid(&self) -> bool {
        self.contender.client().is_some()
    }

    /// Changes the record: one `multi` that also checks our contender. On success [`Self::record`] is the new one, and
    /// the cache has it.
    pub async fn update(&mut self, change: impl FnOnce(&mut T) + Send) -> Result<(), ZkError> {
        let mut next = T::clone(&self.record);
        change(&mut next);
        let _writing = self.writing();
        let stat = self.write(&next.document(), Then::Keep).await.inspect_err(|error| self.missed(error))?;
        self.written(next, stat);
        Ok(())
    }

    fn written(&mut self, record: T, stat: Stat) {
        self.stat = stat;
        self.record = Arc::new(record);
        self.remember();
    }

    /// Deletes our contender; one that is gone is fine.
    pub async fn unlock(self) -> Result<(), ZkError> {
        let dir = T::lock_dir(self.record.id());
        // With the session gone, so is the lock.
        let Some(client) = self.contender.client() else {
            self.contender.disarm();
            return Ok(());
        };
        match self.contender.release(&client).await {
            Ok(()) | Err(Error::SessionEnded) => Ok(()),
            Err(error) => Err(ZkError::of("unlocking", &dir, error)),
        }
    }

    /// As [`Self::update_and_unlock`], and unlocks these nodes before, in the same `multi`: who sees the new data finds
    /// them free. Where the lock of one of them is lost, nothing is written, and all come back with the error.
    pub async fn update_and_unlock_with(
        mut self,
        nodes: Vec<Held<Node>>,
        change: impl FnOnce(&mut T) + Send,
    ) -> Result<(), NotUnlocked<T>> {
        let mut next = T::clone(&self.record);
        change(&mut next);
        let _writing = self.writing();
        let unlocked = nodes.iter().filter(|_| !guard::is_removed("unlocking of nodes with the answer"));
        let locks: Vec<String> = unlocked.map(|node| node.contender.path()).collect();
        match self.write(&next.document(), Then::UnlockWith(&locks)).await {
            Ok(stat) => {
                for node in nodes {
                    node.contender.disarm();
                }
                self.written(next, stat);
                self.contender.disarm();
                Ok(())
            }
            Err(error) if matches!(&error, ZkError::LockLost { lock, .. } if locks.contains(lock)) => {
                Err(NotUnlocked::LockLost { held: Box::new(self), nodes, error })
            }
            Err(error) => Err(NotUnlocked::Failed(self.kept_on(error).1)),
        }
    }

    /// Changes the record and unlocks it, in one `multi`: who watches the record sees the new data no later than the
    /// lock's end. On failure the lock comes back with the error, where we may still hold it.
    pub async fn update_and_unlock(self, change: impl FnOnce(&mut T) + Send) -> Result<(), (Option<Self>, ZkError)> {
        self.update_and(Then::Unlock, change).await
    }

    async fn update_and(
        mut self,
        then: Then<'_>,
        change: impl FnOnce(&mut T) + Send,
    ) -> Result<(), (Option<Self>, ZkError)> {
        let mut next = T::clone(&self.record);
        change(&mut next);
        let _writing = self.writing();
        match self.write(&next.document(), then).await {
            Ok(stat) => {
                self.written(next, stat);
                self.contender.disarm();
                Ok(())
            }
            Err(error) => Err(self.kept_on(error)),
        }
    }

    /// A write that was to end the lock has failed.
    fn kept_on(self, error: ZkError) -> (Option<Self>, ZkError) {
        if error.is_lock_lost() {
            self.contender.disarm();
            return (None, error);
        }
        self.missed(&error);
        (Some(self), error)
    }

    /// A write that found no record.
    fn missed(&self, error: &ZkError) {
        if error.is_no_node() {
            T::miss(self.cache(), self.record.id());
        }
    }

    /// To be kept until what is written is in the cache, or will not be.
    fn writing(&self) -> Option<Writing> {
        Spot::parse(&self.path()).map(|spot| self.contender.shared().cache().writing(Write::Of(spot)))
    }

    fn remember(&self) {
        T::cache(self.cache(), &self.record, self.stat);
    }

    /// For what is learnt in the lock's own session.
    fn cache(&self) -> Within<'_> {
        self.contender.shared().cache().within(self.contender.session())
    }

    fn path(&self) -> String {
        T::path(self.record.id())
    }

    fn client(&self, verb: &str) -> Result<Client, ZkError> {
        self.contender.client().ok_or_else(|| ZkError::SessionLost { doing: format!("{verb} {}", self.path()) })
    }

    fn lost(&self, verb: &str, lock: String) -> ZkError {
        ZkError::LockLost { doing: format!("{verb} {}", self.path()), lock }
    }

    /// The fenced write.
    async fn write(&self, data: &[u8], then: Then<'_>) -> Result<Stat, ZkError> {
        let unlock = matches!(then, Then::Unlock | Then::UnlockWith(_) | Then::LeaveTo(_));
        let others = if let Then::UnlockWith(others) = then { others } else { &[] };
        let verb = if unlock { "writing and unlocking" } else { "writing" };
        let (path, contender) = (self.path(), self.contender.path());
        let fail = |error: Error| ZkError::of(verb, &path, error);
        let deadline = self.contender.shared().deadline();
        let mut doubtful = false;
        loop {
            let client = self.client(verb)?;
            let kept;
            let fence = if guard::is_removed("fence of a write") { paths::ROOT } else { &contender };
            let mut multi = vec![Op::Check(fence, None)];
            multi.extend(others.iter().map(|other| Op::Delete(other, None)));
            multi.push(Op::Set(&path, data, None));
            match &then {
                Then::Keep | Then::Unlock | Then::UnlockWith(_) => {}
                Then::LeaveTo(owner) => {
                    // Behind ours, which goes in the same moment.
                    kept = super::lock::new_contender(self.contender.shared(), &T::lock_dir(self.record.id()));
                    multi.push(Op::Create(&kept, owner.as_bytes(), Mode::PersistentSequential));
                }
                Then::PlaceUnder(kept) => {
                    multi.push(Op::Set(&kept.path, kept.owner.as_bytes(), Some(kept.version)));
                }
            }
            if unlock || guard::is_removed("lock kept after a write") {
                multi.push(Op::Delete(&contender, None));
            }
            let error = match client.multi(&multi).await {
                Ok(results) => {
                    return match results.into_iter().nth(1 + others.len()) {
                        Some(Done::Set(new)) => Ok(stat(&new)),
                        other => Err(fail(Error::unexpected(&other))),
                    };
                }
                Err(MultiError::Refused { index: 0, source: Error::NoNode }) => {
                    // An earlier try may have done it all, our contender's deletion included; somebody may even have
                    // written since. Nobody else deletes our contender while our session lives.
                    if doubtful && unlock {
                        match repeat(deadline, || client.get(&path)).await {
                            Ok((there, now)) if there == data => return Ok(stat(&now)),
                            // Of what others have written since, the version is not that of what we know.
                            Ok((_, now)) if now.version > self.stat.version => return Ok(self.stat),
                            Ok(_) => {}
                            Err(Error::NoNode) => return Ok(self.stat),
                            Err(error) => return Err(fail(error)),
                        }
                    }
                    return Err(self.lost(verb, contender));
                }
                Err(MultiError::Refused { index, source: Error::NoNode }) if (1..=others.len()).contains(&index) => {
                    return Err(self.lost(verb, others[index - 1].clone()));
                }
                // The kept lock is at another version, or gone, which is the same to the caller.
                Err(MultiError::Refused { index: 2, source: Error::BadVersion | Error::NoNode })
                    if matches!(then, Then::PlaceUnder(_)) =>
                {
                    // It may have been an earlier try of ours that changed the version.
                    if doubtful {
                        match repeat(deadline, || client.get(&path)).await {
                            Ok((now, new)) if now == data && new.mzxid != self.stat.mzxid => return Ok(stat(&new)),
                            Ok(_) => {}
                            Err(error) => return Err(fail(error)),
                        }
                    }
                    return Err(fail(Error::BadVersion));
                }
                Err(error) => Error::from(error),
            };
            if !error.is_unanswered() || Instant::now() >= deadline {
                return Err(fail(error));
            }
            if guard::is_removed("look after a lost answer of a write") {
                return Ok(self.stat);
            }
            doubtful = true;
            match repeat(deadline, || client.get(&path)).await {
                Ok((now, new)) if now == data && new.mzxid != self.stat.mzxid => return Ok(stat(&new)),
                Ok(_) => tokio::time::sleep(Duration::from_millis(20)).await,
                // Whether it was deleted after that or before: the next try finds our contender gone, or the record.
                Err(Error::NoNode) if unlock => {}
                Err(error) => return Err(fail(error)),
            }
        }
    }
}

/// Why a record was not written, and nodes were not unlocked.
#[derive(Debug)]
pub enum NotUnlocked<T: Record> {
    /// The lock of one of the nodes is lost; those of the record and of the other nodes are still ours.
    LockLost {
        /// The record.
        held: Box<Held<T>>,
        /// All nodes.
        nodes: Vec<Held<Node>>,
        /// Which.
        error: ZkError,
    },
    /// Something else; all locks are given back.
    Failed(ZkError),
}

/// What becomes of the lock with a write, and what is written with it.
enum Then<'a> {
    /// It stays ours.
    Keep,
    /// It stays ours, and this one, which has to be at its version, gets the next one.
    PlaceUnder(&'a KeptLock),
    /// It ends.
    Unlock,
    /// It ends, and these contenders of ours before it.
    UnlockWith(&'a [String]),
    /// It goes to this owner, and outlives our session.
    LeaveTo(&'a str),
}

impl Held<Node> {
    /// Changes the record and leaves the lock to an owner that is no process, as upstream's metastatic driver has its
    /// backing nodes locked: until [`ZooKeeper::update_kept`](super::ZooKeeper::update_kept) ends that, whatever becomes of us.
    pub async fn update_and_keep_locked_for(
        self,
        owner: &str,
        change: impl FnOnce(&mut Node) + Send,
    ) -> Result<(), (Option<Self>, ZkError)> {
        self.update_and(Then::LeaveTo(owner), change).await
    }

    /// Changes the record as [`Self::update`] does, provided that the lock which is kept of the node underneath is still at
    /// its version, and raises that, in one `multi`: it grows with each node that is placed. The record of the node
    /// underneath is not touched. False: another process was faster, or the lock is gone, and nothing was written.
    pub async fn place_on(&mut self, kept: &KeptLock, change: impl FnOnce(&mut Node) + Send) -> Result<bool, ZkError> {
        let mut next = Node::clone(&self.record);
        change(&mut next);
        let _writing = self.writing();
        match self.write(&next.document(), Then::PlaceUnder(kept)).await {
            Ok(stat) => {
                self.written(next, stat);
                Ok(true)
            }
            Err(error) if error.is_bad_version() => Ok(false),
            Err(error) => {
                self.missed(&error);
                Err(error)
            }
        }
    }

    /// Deletes the node with its lock: one `multi` that writes state `deleted`, as peers expect to have seen it before
    /// (`nodepool 11.0.0: zk/zookeeper.py deleteNode`), and removes our contender, the lock's directory and the node. Where others stand in line for
    /// the lock, `deleted` is written first and everything below the node is removed with it, as upstream does.
    ///
    /// The lock's directory of the request that the node was for goes with it, where that request is gone and nobody stands
    /// there: in 8 hours somebody would have to remove it (`nodepool 11.0.0: launcher.py _cleanupNodeRequestLocks`).
    pub async fn delete(mut self, now: Timestamp) -> Result<(), ZkError> {
        const VERB: &str = "deleting";
        let (id, path, contender) = (self.record.id.clone(), self.path(), self.contender.path());
        let dir = Node::lock_dir(&id);
        let deadline = self.contender.shared().deadline();
        let mut last = Node::clone(&self.record);
        last.set_state(NodeState::Deleted, now);
        let document = last.document();
        // What is known to be below the node; an empty list is the common case.
        let mut others: Vec<String> = Vec::new();
        let mut litter = self.litter();
        let _writing = self.writing();
        for _ in 0..DELETE_ATTEMPTS {
            let client = self.client(VERB)?;
            let fail = |error: Error| ZkError::of(VERB, &path, error);
            let mut multi = vec![Op::Check(&contender, None), Op::Set(&path, &document, None)];
            multi.extend(others.iter().map(|other| Op::Delete(other, None)));
            multi.push(Op::Delete(&contender, None));
            multi.push(Op::Delete(&dir, None));
            multi.push(Op::Delete(&path, None));
            if let Some(litter) = &litter {
                multi.push(Op::Delete(litter, None));
            }
            match client.multi(&multi).await {
                Ok(_) | Err(MultiError::Refused { index: 1, source: Error::NoNode }) => {
                    self.gone();
                    return Ok(());
                }
                Err(MultiError::Refused { index: 0, source: Error::NoNode }) => {
                    return match repeat(deadline, || client.exists(&path)).await {
                        // Our own earlier try, or a peer who went further: what we wanted is done.
                        Ok(None) => {
                            self.gone();
                            Ok(())
                        }
                        Ok(Some(_)) => Err(self.lost(VERB, contender)),
                        Err(error) => Err(fail(error)),
                    };
                }
                // Gone already, or somebody stands in it.
                Err(MultiError::Refused { index, .. }) if index == others.len() + 5 => litter = None,
                Err(MultiError::Refused { source: Error::NotEmpty | Error::NoNode, .. }) => {
                    if self.record.state != NodeState::Deleted {
                        self.update(|node| node.set_state(NodeState::Deleted, now)).await?;
                    }
                    let subtree = repeated::subtree(&client, &path, deadline).await.map_err(fail)?;
                    others = subtree
                        .into_iter()
                        .filter(|below| *below != path && *below != dir && *below != contender)
                        .collect();
                }
                Err(error) => {
                    let error = Error::from(error);
                    if !error.is_unanswered() || Instant::now() >= deadline {
                        return Err(fail(error));
                    }
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            }
        }
        // Contenders come faster than we delete them.
        let client = self.client(VERB)?;
        repeated::delete_recursive(&client, &path, deadline).await.map_err(|error| ZkError::of(VERB, &path, error))?;
        self.gone();
        Ok(())
    }

    /// A directory that nobody needs any more when the node is gone.
    fn litter(&self) -> Option<String> {
        let request = self.record.allocated_to.as_ref()?;
        self.cache().read(|records| {
            let lock = records.request_locks.get(request)?;
            let is_litter = lock.contenders.is_empty() && !records.requests.contains_key(request);
            is_litter.then(|| paths::request_lock(request))
        })
    }

    fn gone(self) {
        self.cache().deleted_node(&self.record.id);
        self.contender.disarm();
    }
}

/// For callers that do not want the lock back: it is dropped, and with it the contender.
impl<T: Record> From<(Option<Held<T>>, ZkError)> for ZkError {
    fn from((_, error): (Option<Held<T>>, ZkError)) -> Self {
        error
    }
}
