//! [`InSession::lock_and_update`]: a lock that nobody has, taken together with the write that it is wanted for.
//!
//! That nobody has a lock shows in its directory: one that does not exist, or that ZooKeeper lets us delete, has no
//! contender. So one `multi` deletes the directory where there is one, creates it with our contender as its first child,
//! and writes the record over the version that we know. ZooKeeper does all of it or nothing, so the record is what we
//! decided on, and the lock is ours (`nodepool 11.0.0: zk/zookeeper.py lockNode` needs a creation, a listing and a reading
//! before its write).
//!
//! kazoo's recipe goes on beside it: nobody ever sees the directory missing. Whoever has made sure of it before creates
//! their contender in the new one, behind ours; whoever did so before us is in it, and then it cannot be deleted.
//!
//! What the cache has may be old, and a peer may be faster: then nothing happens, and the caller takes the lock in the
//! ordinary way, which reads the record.

use std::sync::Arc;

use super::{
    Held, InSession, ZkError, ZooKeeper,
    cache::Write,
    lock::Contender,
    paths::Spot,
    protocol::{Client, Done, Error, Mode, MultiError, Op, SessionId},
    record::{Record, stat},
    repeated::repeat,
    session::Shared,
};
use crate::model::{Stat, guard};

/// What is claimed.
struct Claim<'a> {
    dir: &'a str,
    /// Whether the directory is there, as far as is known.
    dir_exists: bool,
    record: &'a str,
    version: i32,
    /// `None`: the record is to stay as it is.
    data: Option<&'a [u8]>,
}

impl ZooKeeper {
    /// [`InSession::lock_and_update`] in the current session.
    pub async fn lock_and_update<T: Record>(
        &self,
        id: &T::Id,
        change: impl FnOnce(&mut T) -> bool,
    ) -> Result<Option<Held<T>>, ZkError> {
        self.in_current_session("locking and writing", &T::path(id)).await?.lock_and_update(id, change).await
    }
}

impl InSession {
    /// Locks a record that nobody has locked and changes it, in one `multi`, provided that it is as the cache has it and
    /// `change` agrees (false: it does not want to). A record that is the same afterwards is not written. `None`: nothing
    /// was changed and nothing is held; the ordinary way will tell more.
    pub async fn lock_and_update<T: Record>(
        &self,
        id: &T::Id,
        change: impl FnOnce(&mut T) -> bool,
    ) -> Result<Option<Held<T>>, ZkError> {
        const VERB: &str = "locking and writing";
        let (path, dir) = (T::path(id), T::lock_dir(id));
        let (session, client) = (self.id(), self.client(VERB, &path)?);
        let cache = self.shared.cache();
        let asking = cache.within(session).asking();
        let _writing = [&path, &dir].map(|path| Spot::parse(path).map(|spot| cache.writing(Write::Of(spot))));
        let Some((known, known_stat, dir_exists)) = T::unlocked(cache.within(session), id) else { return Ok(None) };
        let mut next = T::clone(&known);
        if !change(&mut next) {
            return Ok(None);
        }
        let document = next.document();
        let data = (document != known.document()).then_some(document.as_slice());
        let claim = Claim { dir: &dir, dir_exists, record: &path, version: known_stat.version, data };
        let claimed = claim.make(&self.shared, session, &client).await;
        let claimed = claimed.map_err(|error| ZkError::of(VERB, &path, error))?;
        Ok(claimed.map(|(contender, new)| {
            if let Some(new) = new {
                T::cache_lock_dir(&asking, id, new.mtime);
            }
            Held::new(next, new.unwrap_or(known_stat), contender, Some(&asking))
        }))
    }
}

impl Claim<'_> {
    /// The lock, and the stat of what was written.
    async fn make(
        &self,
        shared: &Arc<Shared>,
        session: SessionId,
        client: &Client,
    ) -> Result<Option<(Contender, Option<Stat>)>, Error> {
        let mut contender = Contender::planned(shared, session, self.dir);
        let path = contender.create_path();
        let mut multi = Vec::new();
        let is_kept = self.dir_exists && guard::is_removed("empty directory of a claimed lock");
        if self.dir_exists && !is_kept {
            multi.push(Op::Delete(self.dir, None));
        }
        if !is_kept {
            multi.push(Op::Create(self.dir, b"", Mode::Persistent));
        }
        multi.push(Op::Create(&path, b"", Mode::EphemeralSequential));
        match self.data {
            Some(data) => {
                let version = (!guard::is_removed("version of a claim")).then_some(self.version);
                multi.push(Op::Set(self.record, data, version));
            }
            None => multi.push(Op::Check(self.record, Some(self.version))),
        }
        match client.multi(&multi).await {
            Ok(results) => {
                let mut new = None;
                for result in results {
                    match result {
                        Done::Created(path, _) if path != self.dir => contender.created(&path),
                        Done::Set(of) => new = Some(stat(&of)),
                        _ => {}
                    }
                }
                Ok(Some((contender, new)))
            }
            Err(MultiError::Refused { .. }) => {
                contender.disarm();
                Ok(None)
            }
            Err(MultiError::Failed(source)) if source.is_unanswered() => self.find_out(contender, client, shared).await,
            Err(MultiError::Failed(source)) => Err(source),
        }
    }

    /// The answer is lost: our contender is there if, and only if, all the rest was done.
    async fn find_out(
        &self,
        mut contender: Contender,
        client: &Client,
        shared: &Arc<Shared>,
    ) -> Result<Option<(Contender, Option<Stat>)>, Error> {
        let deadline = shared.deadline();
        match contender.look_for(client, deadline).await {
            Ok(true) if !guard::is_removed("look after a lost answer of a claim") => {}
            Ok(_) | Err(Error::NoNode) => {
                contender.disarm();
                return Ok(None);
            }
            Err(error) => return Err(error),
        }
        let Some(data) = self.data else { return Ok(Some((contender, None))) };
        match repeat(deadline, || client.get(self.record)).await {
            Ok((now, new)) if now == data => Ok(Some((contender, Some(stat(&new))))),
            // Somebody has written it since without the lock, or it is gone.
            Ok(_) | Err(Error::NoNode) => {
                let _ = contender.release(client).await;
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }
}
