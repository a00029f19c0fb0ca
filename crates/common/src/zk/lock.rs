//! kazoo's lock recipe (`kazoo/recipe/lock.py`), so that we and every Python peer exclude each other.
//!
//! A contender is an ephemeral, sequential child `<uuid4 hex>__lock__<10 digits>` of the lock's directory. Children
//! that end in `__lock__` and ten digits count, whoever made them; the one with the smallest digits holds the lock. If
//! the reply to our creation is lost, the child with our own uuid is ours. The next server that the session talks to may
//! not have heard of it yet; believing its listing would make a second contender behind a first one that nobody deletes.
//! So such a listing is preceded by a `sync`, and from then on all children with our uuid are deleted, not one by name.
//!
//! The attempt that does not wait sends three requests at once (create, list, read the record): ZooKeeper answers one
//! session's requests in order, so the listing has our contender, and the record, if we turn out to be the holder, was
//! read under the lock. One round trip. The one that waits watches its immediate predecessor, as kazoo does.
//!
//! The lock's directory is never created here: creating it with its parents, as kazoo does, would bring back a record that
//! was just deleted, without data, and an empty build makes the clean-up of a Python builder fail each time. That is the
//! business of those who know whether the record exists.

use std::sync::Arc;

use tokio::time::Instant;

use super::{
    protocol::{Client, Done, Error, Mode, MultiError, Op, SessionId, Stat},
    repeated::repeat,
    session::Shared,
};
use crate::model::guard;

const MARK: &str = "__lock__";
const DIGITS: usize = 10;

/// The path of a contender that no session owns, before the server has numbered it.
pub(super) fn new_contender(shared: &Shared, dir: &str) -> String {
    format!("{dir}/{}", new_prefix(shared))
}

fn new_prefix(shared: &Shared) -> String {
    format!("{}{MARK}", shared.ambient.entropy.uuid().simple())
}

/// Who holds a lock, of the children of its directory.
pub(super) fn holder(children: &[String]) -> Option<&str> {
    children.iter().filter_map(|child| Some((sequence(child)?, child))).min().map(|(_, child)| child.as_str())
}

/// Whether a path is that of somebody who holds a lock, or waits for it.
pub(super) fn is_contender(path: &str) -> bool {
    path.rsplit('/').next().is_some_and(|name| sequence(name).is_some())
}

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
    /// An answer to its creation was lost: there may be more than one.
    doubtful: bool,
    armed: bool,
}

impl Contender {
    fn new(shared: &Arc<Shared>, session: SessionId, dir: &str) -> Self {
        let prefix = new_prefix(shared);
        Self { shared: shared.clone(), session, dir: dir.to_owned(), prefix, name: None, doubtful: false, armed: true }
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

    /// The session that it lives with.
    pub fn session(&self) -> SessionId {
        self.session
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

    /// Finds it among a directory's children by its uuid: the first one in line, if there are more.
    pub fn find(&mut self, children: &[String]) -> bool {
        self.name = children.iter().filter(|child| child.starts_with(&self.prefix)).min().cloned();
        self.name.is_some()
    }

    /// The answer to its creation is lost: finds out whether it was created.
    pub async fn look_for(&mut self, client: &Client, deadline: Instant) -> Result<bool, Error> {
        self.doubtful = true;
        let children = list_synced(client, &self.dir, deadline).await?;
        Ok(self.find(&children))
    }

    /// Once there has been a doubt: of several with our uuid the first one is it, and the others go.
    async fn settle(&mut self, client: &Client, children: &mut Vec<String>, deadline: Instant) -> Result<(), Error> {
        if !self.doubtful || !self.find(children) {
            return Ok(());
        }
        let (prefix, own) = (&self.prefix, self.name());
        for other in children.extract_if(.., |child| child.starts_with(prefix) && child != own) {
            delete(client, &format!("{}/{other}", self.dir), deadline).await?;
        }
        Ok(())
    }

    /// It is gone, or never was.
    pub fn disarm(mut self) {
        self.armed = false;
    }

    /// Its name, where there cannot be another.
    fn certain_name(&self) -> Option<&str> {
        self.name.as_deref().filter(|_| !self.doubtful)
    }

    /// Deletes it; one that is gone is fine.
    pub async fn release(mut self, client: &Client) -> Result<(), Error> {
        let deadline = self.shared.deadline();
        remove(client, &self.dir, &self.prefix, self.certain_name(), deadline).await?;
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
        let name = self.certain_name().map(str::to_owned);
        let (dir, prefix) = (std::mem::take(&mut self.dir), std::mem::take(&mut self.prefix));
        let deadline = self.shared.deadline();
        self.shared.spawn(async move {
            match remove(&client, &dir, &prefix, name.as_deref(), deadline).await {
                Ok(()) => tracing::debug!(logger = "nodepool.zk.Lock", "Released the abandoned lock {dir}"),
                Err(error) => tracing::debug!(logger = "nodepool.zk.Lock", "Could not release {dir}: {error}"),
            }
        });
    }
}

/// `name`: where it is certain; otherwise everything with our uuid goes.
async fn remove(client: &Client, dir: &str, prefix: &str, name: Option<&str>, deadline: Instant) -> Result<(), Error> {
    if let Some(name) = name {
        return delete(client, &format!("{dir}/{name}"), deadline).await;
    }
    let children = match list_synced(client, dir, deadline).await {
        Ok(children) => children,
        Err(Error::NoNode) => return Ok(()),
        Err(error) => return Err(error),
    };
    for child in children.iter().filter(|child| child.starts_with(prefix)) {
        delete(client, &format!("{dir}/{child}"), deadline).await?;
    }
    Ok(())
}

async fn delete(client: &Client, path: &str, deadline: Instant) -> Result<(), Error> {
    match repeat(deadline, || client.delete(path, None)).await {
        Ok(()) | Err(Error::NoNode) => Ok(()),
        Err(error) => Err(error),
    }
}

/// A directory's children as of now, also from a server that lags behind the one that we have just lost.
pub(super) async fn list_synced(client: &Client, dir: &str, deadline: Instant) -> Result<Vec<String>, Error> {
    // Both again where the connection breaks: the next server may lag as well.
    repeat(deadline, || async {
        client.sync(dir).await?;
        client.children(dir).await
    })
    .await
}

/// How an attempt without waiting ended.
pub(super) enum Attempt {
    /// Ours, with the record as it was read under the lock; `None`: it has no record.
    Acquired(Contender, Option<(Vec<u8>, Stat)>),
    /// Somebody else holds it.
    Busy,
    /// The record that the lock is below is not as it was read any more.
    Changed,
    /// The lock's directory does not exist.
    NoDirectory,
}

/// A record as it was read.
#[derive(Clone, Debug)]
pub(super) struct Unchanged {
    pub path: String,
    pub version: i32,
}

/// Creates a contender, where `below` says so only while that record is as it was read; its full path.
async fn contend(client: &Client, path: &str, below: Option<&Unchanged>) -> Result<String, Error> {
    let Some(record) = below else {
        return client.create(path, b"", Mode::EphemeralSequential).await.map(|(path, _)| path);
    };
    let multi = [Op::Check(&record.path, Some(record.version)), Op::Create(path, b"", Mode::EphemeralSequential)];
    match client.multi(&multi).await {
        Ok(results) => match results.into_iter().nth(1) {
            Some(Done::Created(path, _)) => Ok(path),
            other => Err(Error::unexpected(&other)),
        },
        Err(MultiError::Refused { index: 0, source: Error::NoNode }) => Err(Error::BadVersion),
        Err(error) => Err(error.into()),
    }
}

/// Tries once, in one round trip. `below`: nothing is created once that record has changed.
pub(super) async fn try_acquire(
    shared: &Arc<Shared>,
    session: SessionId,
    client: &Client,
    dir: &str,
    record: &str,
    below: Option<&Unchanged>,
) -> Result<Attempt, Error> {
    let deadline = shared.deadline();
    let mut contender = Contender::new(shared, session, dir);
    let path = contender.create_path();
    loop {
        // Sent in this order: the client sends a request when it is called, which none is before the first poll.
        let creating = contend(client, &path, below);
        let listing = async { client.children(dir).await };
        let reading = async { client.get(record).await };
        let (created, children, data) = tokio::join!(creating, listing, reading);
        let mut children = children;
        match created {
            Ok(path) => contender.created(&path),
            Err(Error::NoNode) => {
                contender.disarm();
                return Ok(Attempt::NoDirectory);
            }
            Err(Error::BadVersion) => {
                contender.disarm();
                return Ok(Attempt::Changed);
            }
            Err(error) if error.is_unanswered() && Instant::now() < deadline => {
                match contender.look_for(client, deadline).await {
                    Ok(true) => children = repeat(deadline, || client.children(dir)).await,
                    Ok(false) => continue,
                    Err(Error::NoNode) => {
                        contender.disarm();
                        return Ok(Attempt::NoDirectory);
                    }
                    Err(error) => return Err(error),
                }
            }
            Err(error) => return Err(error),
        }
        let children = match children {
            Err(error) if error.is_unanswered() => repeat(deadline, || client.children(dir)).await,
            result => result,
        };
        let mut children = match children {
            Ok(children) => children,
            // Deleted with everything below it, our contender included.
            Err(Error::NoNode) => {
                contender.disarm();
                return Ok(Attempt::NoDirectory);
            }
            Err(error) => return Err(error),
        };
        contender.settle(client, &mut children, deadline).await?;
        let is_first = predecessor(&children, contender.name()) == Ok(None);
        if !is_first && !guard::is_removed("place in line for a lock") {
            // Best effort, as kazoo; if it fails, dropping the contender tries on.
            let _ = contender.release(client).await;
            return Ok(Attempt::Busy);
        }
        let data = match data {
            Err(error) if error.is_unanswered() => repeat(deadline, || client.get(record)).await,
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
    let mut contender = Contender::new(shared, session, dir);
    'contend: loop {
        let path = contender.create_path();
        match client.create(&path, identifier, Mode::EphemeralSequential).await {
            Ok((path, _)) => contender.created(&path),
            Err(Error::NoNode) => {
                contender.disarm();
                return Ok(Waited::NoDirectory);
            }
            Err(error) if error.is_unanswered() => match contender.look_for(client, shared.deadline()).await {
                Ok(true) => {}
                Ok(false) => continue,
                Err(Error::NoNode) => {
                    contender.disarm();
                    return Ok(Waited::NoDirectory);
                }
                Err(error) => return Err(error),
            },
            Err(error) => return Err(error),
        }
        loop {
            let mut children = match repeat(shared.deadline(), || client.children(dir)).await {
                Ok(children) => children,
                Err(Error::NoNode) => {
                    contender.disarm();
                    return Ok(Waited::NoDirectory);
                }
                Err(error) => return Err(error),
            };
            contender.settle(client, &mut children, shared.deadline()).await?;
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
            let changed = match repeat(shared.deadline(), || client.get_and_watch(&before)).await {
                Ok((_, _, changed)) => changed,
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
                biased;
                () = changed => {}
                // Also by a change of the servers: the old session lives for as long as anybody has its client, and its
                // place in line with it.
                () = shared.ended(session) => return Err(Error::SessionEnded),
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

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

    /// As a session leaves it that was resumed on a lagging server.
    #[tokio::test]
    async fn a_contender_that_was_created_twice_is_the_first_and_vanishes_whole() {
        let server = nodepool_testing::ZooKeeperServer::start();
        let host = crate::config::ZooKeeperServer { host: "127.0.0.1".to_owned(), port: server.port(), chroot: None };
        let config = crate::config::ZooKeeper { servers: vec![host], timeout: Duration::from_secs(10), tls: None };
        let zk = super::super::ZooKeeper::start(
            &config,
            crate::sys::Ambient::system(),
            &crate::sys::shutdown::Shutdown::new(),
            tokio_util::sync::CancellationToken::new(),
        )
        .unwrap();
        let dir = "/locks";
        zk.create(dir, b"").await.unwrap();
        let (session, client) = zk.shared.next_session().await;
        let deadline = zk.shared.deadline();
        for released in [true, false] {
            let mut contender = Contender::new(&zk.shared, session, dir);
            assert!(!contender.look_for(&client, deadline).await.unwrap());
            for _ in 0..2 {
                let (path, _) = client.create(&contender.create_path(), b"", Mode::EphemeralSequential).await.unwrap();
                contender.created(&path);
            }
            let mut children = zk.children(dir).await.unwrap();
            assert_eq!(children.len(), 2);
            if released {
                contender.release(&client).await.unwrap();
            } else {
                let first = children[0].clone();
                contender.settle(&client, &mut children, deadline).await.unwrap();
                assert_eq!(contender.name(), first);
                assert_eq!(predecessor(&children, contender.name()), Ok(None));
                assert_eq!(zk.children(dir).await.unwrap(), [first]);
                contender.release(&client).await.unwrap();
            }
            assert!(zk.children(dir).await.unwrap().is_empty());
        }
        zk.close().await;
    }
}
