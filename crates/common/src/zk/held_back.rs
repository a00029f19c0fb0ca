//! What is held back from removal ([`HeldBack`]): read and written by launchers, builders and the command line.
//!
//! There is no lock. A write is one over the version that was read in the same session, and a creation does not touch what is
//! there already, so that a permission that somebody has just given is never written over, and nobody writes what follows from
//! an older state.

use super::{
    InSession, ZkError, paths,
    protocol::Error,
    repeated::{create, repeat},
};
use crate::model::{Entry, HeldBack, Holder, RecordError, Stat};

/// A record as it was read.
pub type ReadHeldBack = (Holder, Result<HeldBack, RecordError>, Stat);

impl InSession {
    /// All that is held back, read now.
    pub async fn list_held_back(&self) -> Result<Vec<ReadHeldBack>, ZkError> {
        let mut holders = Vec::new();
        for name in self.children(paths::HELD_BY_PROVIDERS).await? {
            holders.push(paths::provider_holder(&name));
        }
        for name in self.children(paths::HELD_BY_BUILDERS).await? {
            holders.push(paths::builder_holder(&name));
        }
        let mut found = Vec::with_capacity(holders.len());
        for holder in holders {
            if let Some((data, stat)) = self.get(&paths::held_back(&holder)).await? {
                found.push((holder, HeldBack::read(&data).map(|(held, _)| held), stat));
            }
        }
        Ok(found)
    }

    /// Brings the record from what it is, `before`, as it was read in this session, to what it is to be: makes, writes or
    /// removes it, or leaves it as it is. False: somebody else has changed it since, and nothing was done.
    pub async fn hold_back(
        &self,
        holder: &Holder,
        held: Option<&HeldBack>,
        before: Option<&Entry<HeldBack>>,
    ) -> Result<bool, ZkError> {
        match (held, before) {
            (None, None) => Ok(true),
            (Some(held), None) => self.create_held_back(holder, held).await.map(|()| true),
            (None, Some(before)) => self.forget_held_back(holder, before.stat.version).await,
            (Some(held), Some(before)) => {
                let data = held.write();
                if before.usable().is_some_and(|before| before.write() == data) {
                    return Ok(true);
                }
                self.write_held_back(holder, held, before.stat.version).await
            }
        }
    }

    /// One that is there already stays as it is.
    async fn create_held_back(&self, holder: &Holder, held: &HeldBack) -> Result<(), ZkError> {
        const VERB: &str = "creating";
        let path = paths::held_back(holder);
        let client = self.client(VERB, &path)?;
        let created = create(&client, &path, &held.write(), self.shared.deadline()).await;
        created.map_err(|error| ZkError::of(VERB, &path, error))
    }

    /// Writes a record over the version that was read. False: somebody has written or removed it since.
    pub async fn write_held_back(&self, holder: &Holder, held: &HeldBack, version: i32) -> Result<bool, ZkError> {
        match self.set(&paths::held_back(holder), &held.write(), version).await {
            Ok(_) => Ok(true),
            Err(error) if error.is_bad_version() || error.is_no_node() => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Removes a record of that version. False: somebody has written it since. One that is gone is removed.
    pub async fn forget_held_back(&self, holder: &Holder, version: i32) -> Result<bool, ZkError> {
        let path = paths::held_back(holder);
        let client = self.client("deleting", &path)?;
        match client.delete(&path, Some(version)).await {
            Ok(()) | Err(Error::NoNode) => Ok(true),
            Err(Error::BadVersion) => Ok(false),
            Err(error) => Err(ZkError::of("deleting", &path, error)),
        }
    }

    /// The number of the next node that is created: who names a greater one, or this one, has it from elsewhere. 0 where the
    /// directory is not there, as in an empty ZooKeeper: no number was given out. `None` where that cannot be known.
    ///
    /// ZooKeeper numbers the children of a directory in the order of their creation, and tells how often children were created
    /// or deleted (`cversion`: 2 * creations - children). Each creation of any child counts, so that the number is never too
    /// small.
    pub async fn next_node_number(&self) -> Result<Option<u64>, ZkError> {
        let client = self.client("reading", paths::NODES)?;
        let found = repeat(self.shared.deadline(), || client.exists(paths::NODES)).await;
        let found = found.map_err(|error| ZkError::of("reading", paths::NODES, error))?;
        Ok(found.map_or(Some(0), |stat| {
            let twice = i64::from(stat.cversion) + i64::from(stat.num_children);
            // After two thousand million changes it begins anew.
            u64::try_from(twice).ok().map(|twice| twice / 2)
        }))
    }
}
