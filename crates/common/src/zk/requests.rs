//! Node requests: ours are created here, everybody's are locked here.

use super::{
    Held, InSession, TryLock, ZkError, ZooKeeper,
    lock::{Attempt, list_synced, try_acquire},
    paths::{self, Spot},
    protocol::{Client, Error, Mode},
    record::{Record, stat, useless},
    repeated::{self, repeat},
};
use crate::model::{NodeRequest, RequestId};

impl InSession {
    /// Creates a request of our own: `<priority>-<10 digits>`; ephemeral for min-ready, so that it does not outlive
    /// us. The result has its id.
    pub async fn create_request(
        &self,
        priority: &str,
        ephemeral: bool,
        mut request: NodeRequest,
    ) -> Result<NodeRequest, ZkError> {
        const VERB: &str = "creating a node request in";
        let client = self.client(VERB, paths::REQUESTS)?;
        let mode = if ephemeral { Mode::EphemeralSequential } else { Mode::PersistentSequential };
        let prefix = format!("{}/{priority}-", paths::REQUESTS);
        let document = request.document();
        let deadline = self.shared.deadline();
        let fail = |error| ZkError::of(VERB, paths::REQUESTS, error);
        let asking = self.shared.cache().within(self.id()).asking();
        loop {
            match client.create(&prefix, &document, mode).await {
                Ok((path, now)) => {
                    request.id = RequestId::from(path[paths::REQUESTS.len() + 1..].to_owned());
                    asking.created_request(&request.clone().into(), stat(&now));
                    return Ok(request);
                }
                Err(Error::NoNode) => {
                    repeat(deadline, || repeated::mkdir(&client, paths::REQUESTS)).await.map_err(fail)?;
                }
                Err(error) if error.is_unanswered() && tokio::time::Instant::now() < deadline => {
                    // The answer is lost, not necessarily the request: its event id is its own.
                    let owner = if ephemeral { self.id().0 } else { 0 };
                    if let Some(id) = find_own(&client, priority, &document, owner, deadline).await.map_err(fail)? {
                        request.id = id;
                        asking.created(&Spot::Request(request.id.clone()));
                        return Ok(request);
                    }
                }
                Err(error) => return Err(fail(error)),
            }
        }
    }

    /// Deletes a request; one that is gone is fine.
    pub async fn delete_request(&self, id: &RequestId) -> Result<(), ZkError> {
        let path = paths::request(id);
        let client = self.client("deleting", &path)?;
        match repeat(self.shared.deadline(), || client.delete(&path, None)).await {
            Ok(()) | Err(Error::NoNode) => {
                // The watch may tell it later than this answer: who looks now must not act on the request once more.
                self.shared.cache().within(self.id()).missed_request(id);
                Ok(())
            }
            Err(error) => Err(ZkError::of("deleting", &path, error)),
        }
    }

    /// Deletes a request's lock directory and what is in it.
    pub async fn delete_request_lock(&self, id: &RequestId) -> Result<(), ZkError> {
        let path = paths::request_lock(id);
        let client = self.client("deleting", &path)?;
        let deleted = repeated::delete_recursive(&client, &path, self.shared.deadline()).await;
        deleted.map_err(|error| ZkError::of("deleting", &path, error))
    }
}

impl ZooKeeper {
    /// [`InSession::try_lock_request`] in the current session.
    pub async fn try_lock_request(&self, id: &RequestId) -> Result<TryLock<Held<NodeRequest>>, ZkError> {
        self.in_current_session("locking", &paths::request(id)).await?.try_lock_request(id).await
    }
}

impl InSession {
    /// Locks a request without waiting. For a request that does not exist no lock directory is left behind.
    pub async fn try_lock_request(&self, id: &RequestId) -> Result<TryLock<Held<NodeRequest>>, ZkError> {
        const VERB: &str = "locking";
        let (path, dir) = (paths::request(id), paths::request_lock(id));
        let (session, client) = (self.id(), self.client(VERB, &path)?);
        let fail = |error| ZkError::of(VERB, &path, error);
        let deadline = self.shared.deadline();
        let cache = self.shared.cache().within(session);
        let asking = cache.asking();
        let mut made = false;
        loop {
            match try_acquire(&self.shared, session, &client, &dir, &path, None).await.map_err(fail)? {
                Attempt::Busy | Attempt::Changed => return Ok(TryLock::Busy),
                Attempt::NoDirectory => {
                    if repeat(deadline, || client.exists(&path)).await.map_err(fail)?.is_none() {
                        cache.missed_request(id);
                        return Ok(TryLock::Gone);
                    }
                    repeated::create(&client, &dir, b"", deadline).await.map_err(fail)?;
                    made = true;
                }
                Attempt::Acquired(contender, record) => {
                    let record = match record {
                        Some((data, now)) => match NodeRequest::parse(id.clone(), &data) {
                            Ok(request) => {
                                return Ok(TryLock::Held(Held::new(request, stat(&now), contender, Some(&asking))));
                            }
                            Err(problem) => Some((problem, stat(&now))),
                        },
                        None => None,
                    };
                    let problem = useless::<NodeRequest>(cache, id, record);
                    let _ = contender.release(&client).await;
                    if made {
                        // Ours, and of no use any more; whoever stands in it keeps it.
                        let _ = client.delete(&dir, None).await;
                    }
                    return problem.map_or(Ok(TryLock::Gone), Err);
                }
            }
        }
    }
}

/// Looks for a request with exactly this document among the newest of its priority.
async fn find_own(
    client: &Client,
    priority: &str,
    document: &[u8],
    owner: i64,
    deadline: tokio::time::Instant,
) -> Result<Option<RequestId>, Error> {
    let mut children = match list_synced(client, paths::REQUESTS, deadline).await {
        // It was the refusal that was lost: there is no such directory yet.
        Err(Error::NoNode) => return Ok(None),
        children => children?,
    };
    children.retain(|child| child.split_once('-').is_some_and(|(own, _)| own == priority));
    children.sort_unstable();
    for child in children.into_iter().rev().take(super::nodes::LOOK_BACK) {
        let id = RequestId::from(child);
        match repeat(deadline, || client.get(&paths::request(&id))).await {
            Ok((data, now)) if data == document && now.ephemeral_owner == owner => return Ok(Some(id)),
            Ok(_) | Err(Error::NoNode) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(None)
}
