//! Operations that are repeated where the connection is at fault, or somebody comes between.

use std::{future::Future, time::Duration};

use tokio::time::Instant;

use super::protocol::{Client, Error, Mode};

/// How often a deletion starts again when somebody adds children meanwhile.
const ATTEMPTS: usize = 10;

/// Repeats what may be repeated, while only the connection is at fault. Between two tries the request waits inside the
/// client for the connection; the short pause is for a connection that breaks at once.
pub(super) async fn repeat<T, F>(deadline: Instant, mut operation: impl FnMut() -> F) -> Result<T, Error>
where
    F: Future<Output = Result<T, Error>>,
{
    loop {
        match operation().await {
            Err(error) if error.is_unanswered() && Instant::now() < deadline => {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            result => return result,
        }
    }
}

/// A persistent znode and its parents; one that is there already stays as it is.
pub(super) async fn create(client: &Client, path: &str, data: &[u8], deadline: Instant) -> Result<(), Error> {
    loop {
        match repeat(deadline, || client.create(path, data, Mode::Persistent)).await {
            Ok(_) | Err(Error::NodeExists) => return Ok(()),
            Err(Error::NoNode) => match path.rfind('/') {
                Some(end) if end > 0 => repeat(deadline, || mkdir(client, &path[..end])).await?,
                _ => return Err(Error::NoNode),
            },
            Err(error) => return Err(error),
        }
    }
}

/// A directory and its parents; those that are there stay as they are.
pub(super) async fn mkdir(client: &Client, path: &str) -> Result<(), Error> {
    let mut missing = vec![path];
    while let Some(&next) = missing.last() {
        match client.create(next, b"", Mode::Persistent).await {
            Ok(_) | Err(Error::NodeExists) => drop(missing.pop()),
            Err(Error::NoNode) => match next.rfind('/') {
                Some(end) if end > 0 => missing.push(&next[..end]),
                _ => return Err(Error::NoNode),
            },
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// A path and everything below it, children before their parents.
pub(super) async fn subtree(client: &Client, path: &str, deadline: Instant) -> Result<Vec<String>, Error> {
    let mut found = vec![path.to_owned()];
    let mut level = vec![path.to_owned()];
    while !level.is_empty() {
        let listings = level.iter().map(|path| repeat(deadline, || client.children(path)));
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
                Err(error) if error == Error::NotEmpty || error.is_unanswered() => {
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
