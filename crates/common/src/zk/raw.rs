//! Plain reads and writes, for the command line and odd jobs.

use futures::{StreamExt as _, TryStreamExt as _, stream};

use super::{
    InSession, ZkError, ZooKeeper,
    protocol::{Error, Found, Read},
    record::stat,
    repeated::{create, delete_recursive, repeat},
};
use crate::model::Stat;

/// Reads in one request.
const BATCH: usize = 128;
/// Requests in flight.
const IN_FLIGHT: usize = 8;

impl ZooKeeper {
    /// Data and stat; `None`: there is no such path. Paths are absolute, without the chroot.
    pub async fn get(&self, path: &str) -> Result<Option<(Vec<u8>, Stat)>, ZkError> {
        self.in_current_session("reading", path).await?.get(path).await
    }

    /// The names of a path's children, sorted; none where the path is missing.
    pub async fn children(&self, path: &str) -> Result<Vec<String>, ZkError> {
        self.in_current_session("listing", path).await?.children(path).await
    }

    /// As [`Self::get`] of many paths, many in one request, in their order.
    pub async fn get_many(&self, paths: &[String]) -> Result<Vec<Option<(Vec<u8>, Stat)>>, ZkError> {
        let found = self.read_many("reading", paths, Read::Data).await?;
        let data = |found| match found {
            Some(Found::Data(data, now)) => Some((data, stat(&now))),
            _ => None,
        };
        Ok(found.into_iter().map(data).collect())
    }

    /// As [`Self::children`] of many paths, many in one request, in their order.
    pub async fn children_of_many(&self, paths: &[String]) -> Result<Vec<Vec<String>>, ZkError> {
        let found = self.read_many("listing", paths, Read::Children).await?;
        let names = |found| match found {
            Some(Found::Children(mut names)) => {
                names.sort_unstable();
                names
            }
            _ => Vec::new(),
        };
        Ok(found.into_iter().map(names).collect())
    }

    /// `None` where a path is missing.
    async fn read_many<'a>(
        &self,
        verb: &str,
        paths: &'a [String],
        read: impl Fn(&'a str) -> Read<'a>,
    ) -> Result<Vec<Option<Found>>, ZkError> {
        let Some(first) = paths.first() else { return Ok(Vec::new()) };
        let (_, client) = self.shared.client(verb, first).await?;
        let (client, deadline) = (&client, self.shared.deadline());
        let batches = paths.chunks(BATCH).map(|paths| {
            let reads: Vec<_> = paths.iter().map(|path| read(path)).collect();
            async move {
                let failed = |path: &str, error| ZkError::of(verb, path, error);
                let answers =
                    repeat(deadline, || client.read(&reads)).await.map_err(|error| failed(&paths[0], error))?;
                let found = paths.iter().zip(answers).map(|(path, answer)| match answer {
                    Ok(found) => Ok(Some(found)),
                    Err(Error::NoNode) => Ok(None),
                    Err(error) => Err(failed(path, error)),
                });
                found.collect::<Result<Vec<_>, ZkError>>()
            }
        });
        let found: Vec<Vec<_>> = stream::iter(batches).buffered(IN_FLIGHT).try_collect().await?;
        Ok(found.into_iter().flatten().collect())
    }

    /// Creates a persistent znode and its parents; one that is there already stays as it is.
    pub async fn create(&self, path: &str, data: &[u8]) -> Result<(), ZkError> {
        let (_, client) = self.shared.client("creating", path).await?;
        create(&client, path, data, self.shared.deadline()).await.map_err(|error| ZkError::of("creating", path, error))
    }

    /// Writes a znode's data, whatever there was.
    pub async fn set(&self, path: &str, data: &[u8]) -> Result<Stat, ZkError> {
        let (_, client) = self.shared.client("writing", path).await?;
        let result = repeat(self.shared.deadline(), || client.set(path, data, None)).await;
        result.map(|new| stat(&new)).map_err(|error| ZkError::of("writing", path, error))
    }

    /// Deletes a path and everything below it; one that is missing is fine.
    pub async fn delete_recursive(&self, path: &str) -> Result<(), ZkError> {
        let (_, client) = self.shared.client("deleting", path).await?;
        delete_recursive(&client, path, self.shared.deadline())
            .await
            .map_err(|error| ZkError::of("deleting", path, error))
    }
}

impl InSession {
    /// As [`ZooKeeper::get`].
    pub async fn get(&self, path: &str) -> Result<Option<(Vec<u8>, Stat)>, ZkError> {
        let client = self.client("reading", path)?;
        match repeat(self.shared.deadline(), || client.get(path)).await {
            Ok((data, now)) => Ok(Some((data, stat(&now)))),
            Err(Error::NoNode) => Ok(None),
            Err(error) => Err(ZkError::of("reading", path, error)),
        }
    }

    /// As [`ZooKeeper::children`].
    pub async fn children(&self, path: &str) -> Result<Vec<String>, ZkError> {
        let client = self.client("listing", path)?;
        match repeat(self.shared.deadline(), || client.children(path)).await {
            Ok(mut children) => {
                children.sort_unstable();
                Ok(children)
            }
            Err(Error::NoNode) => Ok(Vec::new()),
            Err(error) => Err(ZkError::of("listing", path, error)),
        }
    }

    /// Writes a znode's data over the version that was read in this session. For records that are not locked by design: what
    /// the command line marks for deletion, and what is held back.
    pub async fn set(&self, path: &str, data: &[u8], version: i32) -> Result<Stat, ZkError> {
        // Not repeated: after a lost answer the version would no longer match.
        let result = self.client("writing", path)?.set(path, data, Some(version)).await;
        result.map(|new| stat(&new)).map_err(|error| ZkError::of("writing", path, error))
    }
}
