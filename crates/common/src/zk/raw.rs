//! Plain reads and writes, for the command line and odd jobs.

use tokio::time::Instant;
use zookeeper_client::{Acls, Client, CreateMode, CreateOptions, Error};

use super::{ZkError, ZooKeeper, lock::repeat, record::stat};
use crate::model::Stat;

/// How often a deletion starts again when somebody adds children meanwhile.
const ATTEMPTS: usize = 10;

/// A plain directory or record, for everybody, as kazoo creates them.
pub(super) const PERSISTENT: CreateOptions<'static> = CreateMode::Persistent.with_acls(Acls::anyone_all());

impl ZooKeeper {
    /// Data and stat; `None`: there is no such path. Paths are absolute, without the chroot.
    pub async fn get(&self, path: &str) -> Result<Option<(Vec<u8>, Stat)>, ZkError> {
        let (_, client) = self.shared.client("reading", path).await?;
        match repeat(self.shared.deadline(), || client.get_data(path)).await {
            Ok((data, now)) => Ok(Some((data, stat(&now)))),
            Err(Error::NoNode) => Ok(None),
            Err(error) => Err(ZkError::of("reading", path, error)),
        }
    }

    /// The names of a path's children, sorted; none where the path is missing.
    pub async fn children(&self, path: &str) -> Result<Vec<String>, ZkError> {
        let (_, client) = self.shared.client("listing", path).await?;
        match repeat(self.shared.deadline(), || client.list_children(path)).await {
            Ok(mut children) => {
                children.sort_unstable();
                Ok(children)
            }
            Err(Error::NoNode) => Ok(Vec::new()),
            Err(error) => Err(ZkError::of("listing", path, error)),
        }
    }

    /// Creates a persistent znode and its parents; one that is there already stays as it is.
    pub async fn create(&self, path: &str, data: &[u8]) -> Result<(), ZkError> {
        let (_, client) = self.shared.client("creating", path).await?;
        create(&client, path, data, self.shared.deadline()).await.map_err(|error| ZkError::of("creating", path, error))
    }

    /// Writes a znode's data; `version` is checked where given. For records that are not locked by design: uploads and
    /// builds that the command line marks for deletion.
    pub async fn set(&self, path: &str, data: &[u8], version: Option<i32>) -> Result<Stat, ZkError> {
        let (_, client) = self.shared.client("writing", path).await?;
        // Not repeated where a version is given: after a lost answer it would no longer match.
        let result = match version {
            Some(_) => client.set_data(path, data, version).await,
            None => repeat(self.shared.deadline(), || client.set_data(path, data, None)).await,
        };
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

pub(super) async fn create(client: &Client, path: &str, data: &[u8], deadline: Instant) -> Result<(), Error> {
    loop {
        match repeat(deadline, || client.create(path, data, &PERSISTENT)).await {
            Ok(_) | Err(Error::NodeExists) => return Ok(()),
            Err(Error::NoNode) => match path.rfind('/') {
                Some(end) if end > 0 => repeat(deadline, || client.mkdir(&path[..end], &PERSISTENT)).await?,
                _ => return Err(Error::NoNode),
            },
            Err(error) => return Err(error),
        }
    }
}

/// A path and everything below it, children before their parents.
pub(super) async fn subtree(client: &Client, path: &str, deadline: Instant) -> Result<Vec<String>, Error> {
    let mut found = vec![path.to_owned()];
    let mut level = vec![path.to_owned()];
    while !level.is_empty() {
        let listings = level.iter().map(|path| repeat(deadline, || client.list_children(path)));
        let mut next = Vec::new();
        for (parent, children) in level.iter().zip(futures::future::join_all(listings).await) {
            match children {
                Ok(children) => next.extend(children.into_iter().map(|child| format!("{parent}/{child}"))),
                Err(Error::NoNode) => {}
                Err(error) => return Err(error),
            }
        }
        found.extend(next.iter().cloned());
        level = next;
    }
    found.reverse();
    Ok(found)
}

/// Child first, all deletions sent at once: ZooKeeper carries one session's requests out in their order.
pub(super) async fn delete_recursive(client: &Client, path: &str, deadline: Instant) -> Result<(), Error> {
    let mut last = Error::NotEmpty;
    for _ in 0..ATTEMPTS {
        let paths = subtree(client, path, deadline).await?;
        let mut again = false;
        for result in futures::future::join_all(paths.iter().map(|path| client.delete(path, None))).await {
            match result {
                Ok(()) | Err(Error::NoNode) => {}
                Err(error) if error == Error::NotEmpty || super::error::is_unknown(&error) => {
                    again = true;
                    last = error;
                }
                Err(error) => return Err(error),
            }
        }
        if !again {
            return Ok(());
        }
    }
    Err(last)
}
