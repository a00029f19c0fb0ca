//! What a lock can protect: the records that we write.

use std::{fmt, sync::Arc};

use super::{
    ZkError,
    cache::{Asking, Within},
    paths, protocol,
};
use crate::model::{Node, NodeId, NodeRequest, RecordError, RequestId, Stat};

/// A record that is written under a lock: [`Node`] and [`NodeRequest`].
pub trait Record: Clone + fmt::Debug + Send + Sync + Sized + sealed::Sealed + 'static {
    /// What names it.
    type Id: Clone + fmt::Display + Send + Sync;
    /// The logger's word for it.
    const KIND: &'static str;

    /// Its name.
    fn id(&self) -> &Self::Id;
    /// Where the record of that name is.
    fn path(id: &Self::Id) -> String;
    /// Where its lock's contenders are.
    fn lock_dir(id: &Self::Id) -> String;
    /// Its document.
    fn document(&self) -> Vec<u8>;
    /// Reads a document.
    fn parse(id: Self::Id, data: &[u8]) -> Result<Self, RecordError>;
    /// Puts what we wrote, or read under the lock, into the cache.
    #[doc(hidden)]
    fn cache(cache: Within<'_>, record: &Arc<Self>, stat: Stat);
    /// Tells the cache of our contender before its event arrives.
    #[doc(hidden)]
    fn cache_lock(asking: &Asking, id: &Self::Id, contender: &str);
    /// Tells the cache of the lock's directory, which we made together with a write: when, by the server's clock in ms since
    /// the epoch.
    #[doc(hidden)]
    fn cache_lock_dir(asking: &Asking, id: &Self::Id, ctime: i64);
    /// Tells the cache that the record is gone.
    #[doc(hidden)]
    fn miss(cache: Within<'_>, id: &Self::Id);
    /// What the cache has of a record that nobody has locked, with its stat and whether its lock's directory is there.
    #[doc(hidden)]
    fn unlocked(cache: Within<'_>, id: &Self::Id) -> Option<(Arc<Self>, Stat, bool)>;
    /// Tells the cache of a record that is of no use.
    #[doc(hidden)]
    fn cache_broken(cache: Within<'_>, id: &Self::Id, problem: RecordError, stat: Stat);
}

mod sealed {
    pub trait Sealed {}
    impl Sealed for crate::model::Node {}
    impl Sealed for crate::model::NodeRequest {}
}

impl Record for Node {
    type Id = NodeId;
    const KIND: &'static str = "node";

    fn id(&self) -> &NodeId {
        &self.id
    }

    fn path(id: &NodeId) -> String {
        paths::node(id)
    }

    fn lock_dir(id: &NodeId) -> String {
        paths::node_lock(id)
    }

    fn document(&self) -> Vec<u8> {
        self.write()
    }

    fn parse(id: NodeId, data: &[u8]) -> Result<Self, RecordError> {
        Self::read(id, data).map(|(node, _)| node)
    }

    fn cache(cache: Within<'_>, record: &Arc<Self>, stat: Stat) {
        cache.wrote_node(record, stat);
    }

    fn cache_lock(asking: &Asking, id: &NodeId, contender: &str) {
        asking.locked(paths::Lock::Node(id.clone()), contender);
    }

    fn cache_lock_dir(_: &Asking, _: &NodeId, _: i64) {}

    fn miss(cache: Within<'_>, id: &NodeId) {
        cache.missed_node(id);
    }

    fn unlocked(cache: Within<'_>, id: &NodeId) -> Option<(Arc<Self>, Stat, bool)> {
        cache.read(|records| {
            let entry = records.nodes.get(id).filter(|entry| !entry.is_locked())?;
            // Whoever creates a node locks it at once.
            Some((entry.usable()?.clone(), entry.stat, true))
        })
    }

    fn cache_broken(cache: Within<'_>, id: &NodeId, problem: RecordError, stat: Stat) {
        cache.read_node(id, Err(problem), stat);
    }
}

impl Record for NodeRequest {
    type Id = RequestId;
    const KIND: &'static str = "node_request";

    fn id(&self) -> &RequestId {
        &self.id
    }

    fn path(id: &RequestId) -> String {
        paths::request(id)
    }

    fn lock_dir(id: &RequestId) -> String {
        paths::request_lock(id)
    }

    fn document(&self) -> Vec<u8> {
        self.write()
    }

    fn parse(id: RequestId, data: &[u8]) -> Result<Self, RecordError> {
        Self::read(id, data).map(|(request, _)| request)
    }

    fn cache(cache: Within<'_>, record: &Arc<Self>, stat: Stat) {
        cache.wrote_request(record, stat);
    }

    fn cache_lock(asking: &Asking, id: &RequestId, contender: &str) {
        asking.locked(paths::Lock::Request(id.clone()), contender);
    }

    fn cache_lock_dir(asking: &Asking, id: &RequestId, ctime: i64) {
        asking.created_request_lock(id, ctime);
    }

    fn miss(cache: Within<'_>, id: &RequestId) {
        cache.missed_request(id);
    }

    fn unlocked(cache: Within<'_>, id: &RequestId) -> Option<(Arc<Self>, Stat, bool)> {
        cache.read(|records| {
            let entry = records.requests.get(id).filter(|entry| !entry.is_locked())?;
            Some((entry.usable()?.clone(), entry.stat, records.request_locks.contains_key(id)))
        })
    }

    fn cache_broken(cache: Within<'_>, id: &RequestId, problem: RecordError, stat: Stat) {
        cache.read_request(id, Err(problem), stat);
    }
}

/// What of a znode's stat matters to who knows records.
pub(super) fn stat(stat: &protocol::Stat) -> Stat {
    Stat {
        version: stat.version,
        mzxid: stat.mzxid,
        ctime: stat.ctime,
        mtime: stat.mtime,
        ephemeral_owner: stat.ephemeral_owner,
    }
}

/// What was read under the lock is of no use: the cache is told, so that nobody plans with it again. `None`: it is gone,
/// or empty, which is what a deletion leaves when somebody locks meanwhile.
pub(super) fn useless<T: Record>(
    cache: Within<'_>,
    id: &T::Id,
    record: Option<(RecordError, Stat)>,
) -> Option<ZkError> {
    let Some((problem, stat)) = record else {
        T::miss(cache, id);
        return None;
    };
    T::cache_broken(cache, id, problem.clone(), stat);
    match problem {
        RecordError::Empty => None,
        source => Some(ZkError::Record { path: T::path(id), source }),
    }
}
