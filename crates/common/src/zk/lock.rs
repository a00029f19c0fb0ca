//! kazoo's lock recipe, so that we and every Python peer exclude each other (zookeeper.md 5).
//!
//! A contender is an ephemeral, sequential child `<uuid4 hex>__lock__<10 digits>` of the lock's directory. Children
//! that end in `__lock__` and ten digits count, whoever made them; the one with the smallest digits holds the lock. If
//! the reply to our creation is lost, the child with our own uuid is ours.
//!
//! The attempt that does not wait sends three requests at once (create, list, read the record): ZooKeeper answers one
//! session's requests in order, so the listing has our contender, and the record, if we turn out to be the holder, was
//! read under the lock. One round trip. The one that waits watches its immediate predecessor, as kazoo does.
//!
//! The lock's directory is never created here: creating it would re-create a record that was just deleted (traps.md
//! 5). That is the business of those who know whether the record exists.

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;
use zookeeper_client::{Acls, Client, CreateMode, Error, Stat};

use super::{SessionId, Shared, error::is_unknown};

const MARK: &str = "__lock__";
const DIGITS: usize = 10;

/// A child of a lock's directory that we made, or may have made. Dropped before [`Self::release`], it is deleted by a
/// task: no abandoned future leaves a lock behind.
#[derive(Debug)]
pub(super) struct Contender {
    shared: Arc<Shared>,
    session: SessionId,
    dir: String,
    prefix: String,
    /// Known once the server has answered.
    name: Option<String>,
    armed: bool,
}

impl Contender {
    fn new(shared: &Arc<Shared>, session: SessionId, dir: &str) -> Self {
        let prefix = format!("{}{MARK}", uuid::Uuid::new_v4().simple());
        Self { shared: shared.clone(), session, dir: dir.to_owned(), prefix, name: None, armed: true }
    }

    /// What a `multi` creates, before the server has numbered it.
    pub fn planned(shared: &Arc<Shared>, session: SessionId, dir: &str) -> Self {
        Self::new(shared, session, dir)
    }

    /// The path that the server completes with a number.
    pub fn create_path(&self) -> String {
        format!("{}/{}", self.dir, self.prefix)
    }

    /// The server has numbered it.
    pub fn created(&mut self, path: &str) {
        self.name = path.rsplit('/').next().map(str::to_owned);
    }

    /// Its shared connection.
    pub fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// The client of its session, while that lives.
    pub fn client(&self) -> Option<Client> {
        self.shared.client_of(self.session)
    }

    /// Its own name; the prefix alone as long as the number is not known.
    pub fn name(&self) -> &str {
        self.name.as_deref().unwrap_or(&self.prefix)
    }

    /// Its full path.
    pub fn path(&self) -> String {
        format!("{}/{}", self.dir, self.name())
    }

    /// Finds it among a directory's children by its uuid.
    pub fn find(&mut self, children: &[String]) -> bool {
        match children.iter().find(|child| child.starts_with(&self.prefix)) {
            Some(child) => {
                self.name = Some(child.clone());
                true
            }
            None => false,
        }
    }

    /// It is gone, or never was.
    pub fn disarm(mut self) {
        self.armed = false;
    }

    /// Deletes it; one that is gone is fine.
    pub async fn release(mut self, client: &Client) -> Result<(), Error> {
        let deadline = self.shared.deadline();
        remove(client, &self.dir, &self.prefix, self.name.as_deref(), deadline).await?;
        self.armed = false;
        Ok(())
    }
}

impl Drop for Contender {
    fn drop(&mut self) {
        if !self.armed {
            return;
        }
        // With its session gone, so is it.
        let Some(client) = self.client() else { return };
        let (dir, prefix, name) = (std::mem::take(&mut self.dir), std::mem::take(&mut self.prefix), self.name.take());
        let deadline = self.shared.deadline();
        self.shared.spawn(async move {
            match remove(&client, &dir, &prefix, name.as_deref(), deadline).await {
                Ok(()) => tracing::debug!(logger = "nodepool.zk.Lock", "Released the abandoned lock {dir}"),
                Err(error) => tracing::debug!(logger = "nodepool.zk.Lock", "Could not release {dir}: {error}"),
            }
        });
    }
}

async fn remove(client: &Client, dir: &str, prefix: &str, name: Option<&str>, deadline: Instant) -> Result<(), Error> {
    let name = match name {
        Some(name) => name.to_owned(),
        None => match repeat(deadline, || client.list_children(dir)).await {
            Ok(children) => match children.into_iter().find(|child| child.starts_with(prefix)) {
                Some(child) => child,
                None => return Ok(()),
            },
            Err(Error::NoNode) => return Ok(()),
            Err(error) => return Err(error),
        },
    };
    let path = format!("{dir}/{name}");
    match repeat(deadline, || client.delete(&path, None)).await {
        Ok(()) | Err(Error::NoNode) => Ok(()),
        Err(error) => Err(error),
    }
}

/// How an attempt without waiting ended.
pub(super) enum Attempt {
    /// Ours, with the record as it was read under the lock; `None`: it has no record.
    Acquired(Contender, Option<(Vec<u8>, Stat)>),
    /// Somebody else holds it.
    Busy,
    /// The lock's directory does not exist.
    NoDirectory,
}

/// Tries once, in one round trip.
pub(super) async fn try_acquire(
    shared: &Arc<Shared>,
    session: SessionId,
    client: &Client,
    dir: &str,
    record: &str,
) -> Result<Attempt, Error> {
    let deadline = shared.deadline();
    let mut contender = Contender::new(shared, session, dir);
    let path = contender.create_path();
    let options = CreateMode::EphemeralSequential.with_acls(Acls::anyone_all());
    loop {
        let creating = client.create(&path, b"", &options);
        let listing = client.list_children(dir);
        let reading = client.get_data(record);
        let (created, children, data) = tokio::join!(creating, listing, reading);
        let mut children = children;
        match created {
            Ok((_, sequence)) => contender.created(&format!("{path}{sequence}")),
            Err(Error::NoNode) => {
                contender.disarm();
                return Ok(Attempt::NoDirectory);
            }
            Err(error) if is_unknown(&error) && Instant::now() < deadline => {
                children = repeat(deadline, || client.list_children(dir)).await;
                match &children {
                    Ok(list) if contender.find(list) => {}
                    Ok(_) => continue,
                    Err(Error::NoNode) => {
                        contender.disarm();
                        return Ok(Attempt::NoDirectory);
                    }
                    Err(error) => return Err(error.clone()),
                }
            }
            Err(error) => return Err(error),
        }
        let children = match children {
            Err(error) if is_unknown(&error) => repeat(deadline, || client.list_children(dir)).await,
            result => result,
        };
        let children = match children {
            Ok(children) => children,
            // Deleted with everything below it, our contender included.
            Err(Error::NoNode) => {
                contender.disarm();
                return Ok(Attempt::NoDirectory);
            }
            Err(error) => return Err(error),
        };
        if predecessor(&children, contender.name()) != Ok(None) {
            // Best effort, as kazoo; if it fails, dropping the contender tries on.
            let _ = contender.release(client).await;
            return Ok(Attempt::Busy);
        }
        let data = match data {
            Err(error) if is_unknown(&error) => repeat(deadline, || client.get_data(record)).await,
            result => result,
        };
        return match data {
            Ok(data) => Ok(Attempt::Acquired(contender, Some(data))),
            Err(Error::NoNode) => Ok(Attempt::Acquired(contender, None)),
            Err(error) => Err(error),
        };
    }
}

/// How waiting ended.
pub(super) enum Waited {
    Acquired(Contender),
    /// The lock's directory does not exist (any more).
    NoDirectory,
    /// Somebody else held it until the deadline.
    TimedOut,
}

/// Waits for the lock, in line with everybody else. `identifier` is what `contenders()` shows to others.
pub(super) async fn acquire(
    shared: &Arc<Shared>,
    session: SessionId,
    client: &Client,
    dir: &str,
    identifier: &[u8],
    until: Option<Instant>,
) -> Result<Waited, Error> {
    let options = CreateMode::EphemeralSequential.with_acls(Acls::anyone_all());
    let mut contender = Contender::new(shared, session, dir);
    'contend: loop {
        let path = contender.create_path();
        match client.create(&path, identifier, &options).await {
            Ok((_, sequence)) => contender.created(&format!("{path}{sequence}")),
            Err(Error::NoNode) => {
                contender.disarm();
                return Ok(Waited::NoDirectory);
            }
            Err(error) if is_unknown(&error) => match repeat(shared.deadline(), || client.list_children(dir)).await {
                Ok(children) if contender.find(&children) => {}
                Ok(_) => continue,
                Err(Error::NoNode) => {
                    contender.disarm();
                    return Ok(Waited::NoDirectory);
                }
                Err(error) => return Err(error),
            },
            Err(error) => return Err(error),
        }
        loop {
            let children = match repeat(shared.deadline(), || client.list_children(dir)).await {
                Ok(children) => children,
                Err(Error::NoNode) => {
                    contender.disarm();
                    return Ok(Waited::NoDirectory);
                }
                Err(error) => return Err(error),
            };
            let before = match predecessor(&children, contender.name()) {
                Ok(None) => return Ok(Waited::Acquired(contender)),
                Ok(Some(before)) => format!("{dir}/{before}"),
                // Somebody deleted ours: stand in line again, with a new name.
                Err(Missing) => {
                    contender.disarm();
                    contender = Contender::new(shared, session, dir);
                    continue 'contend;
                }
            };
            let watcher = match repeat(shared.deadline(), || client.get_and_watch_data(&before)).await {
                Ok((_, _, watcher)) => watcher,
                Err(Error::NoNode) => continue,
                Err(error) => return Err(error),
            };
            let timeout = async {
                match until {
                    Some(until) => tokio::time::sleep_until(until).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                _ = watcher.changed() => {}
                () = timeout => {
                    let _ = contender.release(client).await;
                    return Ok(Waited::TimedOut);
                }
            }
        }
    }
}

/// Our own contender is not in the directory.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Missing;

/// Whom `own` waits for; `None`: it holds the lock.
pub(super) fn predecessor<'a>(children: &'a [String], own: &str) -> Result<Option<&'a str>, Missing> {
    if !children.iter().any(|child| child == own) {
        return Err(Missing);
    }
    let Some(mine) = sequence(own) else { return Err(Missing) };
    Ok(children
        .iter()
        .filter_map(|child| Some((sequence(child)?, child.as_str())))
        .filter(|(sequence, _)| *sequence < mine)
        .max_by(|a, b| a.0.cmp(b.0))
        .map(|(_, child)| child))
}

/// The text by which contenders are ordered; `None`: not a contender. kazoo searches for `__lock__(-?\d{10})$`.
fn sequence(child: &str) -> Option<&str> {
    let start = child.len().checked_sub(DIGITS)?;
    let (rest, digits) = child.split_at_checked(start)?;
    if !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    if rest.ends_with(MARK) {
        return Some(digits);
    }
    // The counter is a signed 32-bit number.
    rest.strip_suffix('-')?.ends_with(MARK).then(|| &child[start - 1..])
}

/// Repeats what may be repeated, while only the connection is at fault. Between two tries the request waits inside the
/// client for the connection; the short pause is for a connection that breaks at once.
pub(super) async fn repeat<T, F>(deadline: Instant, mut operation: impl FnMut() -> F) -> Result<T, Error>
where
    F: Future<Output = Result<T, Error>>,
{
    loop {
        match operation().await {
            Err(error) if is_unknown(&error) && Instant::now() < deadline => {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            result => return result,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn the_smallest_ten_digits_hold_the_lock() {
        let children = names(&["b__lock__0000000012", "a__lock__0000000010", "c__lock__0000000011"]);
        assert_eq!(predecessor(&children, "a__lock__0000000010"), Ok(None));
        assert_eq!(predecessor(&children, "c__lock__0000000011"), Ok(Some("a__lock__0000000010")));
        assert_eq!(predecessor(&children, "b__lock__0000000012"), Ok(Some("c__lock__0000000011")));
        assert_eq!(predecessor(&children, "d__lock__0000000013"), Err(Missing));
    }

    #[test]
    fn names_that_kazoo_does_not_count_are_not_counted() {
        let children = names(&["x-lock-0000000001", "y__rlock__0000000002", "z__lock__12", "é", "a__lock__0000000010"]);
        assert_eq!(predecessor(&children, "a__lock__0000000010"), Ok(None));
        assert_eq!(sequence("a__lock__-000000001x"), None);
        assert_eq!(sequence("a__lock__-2147483647"), Some("-2147483647"));
    }
}
