//! [`Shared`]: the current session, for all who use it.

use std::{
    fmt,
    future::Future,
    sync::{Arc, Mutex, PoisonError, RwLock},
    time::Duration,
};

use tokio::{runtime::Handle, time::Instant};
use tokio_util::sync::CancellationToken;

use super::{
    cache::Cache,
    error::ZkError,
    protocol::{Client, Connector, SessionId},
    wire::Replies,
};
use crate::{
    config,
    model::Timestamp,
    sys::{Ambient, shutdown::Shutdown, watch},
};

/// What all clones, tasks and locks share.
pub(super) struct Shared {
    /// The current session's client, also while its connection is suspended. Whoever works clones it for the moment:
    /// the last clone's end is the session's.
    current: RwLock<Option<(SessionId, Client)>>,
    /// Connected now.
    pub(super) session: watch::Sender<Option<SessionId>>,
    /// Alive, be it suspended.
    generation: watch::Sender<Option<SessionId>>,
    cache: Cache,
    runtime: Handle,
    shutdown: Shutdown,
    /// Why the last attempt to begin a session has failed, while none has succeeded since.
    problem: Mutex<Option<String>>,
    pub(super) stop: CancellationToken,
    pub(super) closed: watch::Sender<bool>,
    timeout: Duration,
    pub(super) ambient: Ambient,
    pub(super) replies: Replies,
    /// The time of creation of the newest node that this process has made; see [`Shared::own_moment`].
    newest_node: Mutex<Timestamp>,
    pub(super) target: watch::Sender<Arc<dyn Connector>>,
    /// What `target` was made of; `None`: not of a configuration.
    pub(super) configured: Mutex<Option<config::ZooKeeper>>,
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ZooKeeper").field("session", &*self.session.borrow()).finish_non_exhaustive()
    }
}

impl Shared {
    /// Without a session yet.
    pub(super) fn new(
        target: Arc<dyn Connector>,
        replies: Replies,
        timeout: Duration,
        ambient: Ambient,
        shutdown: &Shutdown,
        stop: CancellationToken,
    ) -> Self {
        Self {
            current: RwLock::new(None),
            session: watch::Sender::new(None),
            generation: watch::Sender::new(None),
            cache: Cache::new(ambient.clock.clone()),
            runtime: Handle::current(),
            shutdown: shutdown.clone(),
            problem: Mutex::new(None),
            stop,
            closed: watch::Sender::new(false),
            timeout,
            ambient,
            replies,
            newest_node: Mutex::default(),
            target: watch::Sender::new(target),
            configured: Mutex::new(None),
        }
    }

    /// The time of creation for a new node: that of its record, or up to a second later where nodes were made in the same moment.
    /// No two of this process are the same then, so whoever misses the answer about a creation finds its own node, and not one that
    /// was made beside it for the same request.
    pub(super) fn own_moment(&self, created: Timestamp) -> Timestamp {
        const MOST: f64 = 1.0;
        // Told apart in a record: f64 has a quarter of that around today's seconds since the epoch.
        const MICROSECOND: f64 = 1e-6;
        let mut newest = self.newest_node.lock().unwrap_or_else(PoisonError::into_inner);
        let is_near = (0.0..MOST).contains(&(*newest - created));
        *newest = if is_near { *newest + MICROSECOND } else { created };
        *newest
    }

    pub(super) fn publish(&self, client: Option<(SessionId, Client)>) {
        let session = client.as_ref().map(|(session, _)| *session);
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = client;
        self.generation.send_replace(session);
        if session.is_none() {
            self.connected(None);
        }
    }

    pub(super) fn set_problem(&self, problem: Option<String>) {
        *self.problem.lock().unwrap_or_else(PoisonError::into_inner) = problem;
    }

    pub(super) fn problem(&self) -> Option<String> {
        self.problem.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn connected(&self, session: Option<SessionId>) {
        self.session.send_if_modified(|now| std::mem::replace(now, session) != session);
    }

    pub(super) fn current(&self) -> Option<(SessionId, Client)> {
        self.current.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The client of that session, while it is the current one.
    pub(super) fn client_of(&self, session: SessionId) -> Option<Client> {
        self.current().filter(|(current, _)| *current == session).map(|(_, client)| client)
    }

    /// The current session's client; waits for one, no longer than a session would last.
    pub(super) async fn client(&self, verb: &str, path: &str) -> Result<(SessionId, Client), ZkError> {
        if let Some(current) = self.current() {
            return Ok(current);
        }
        let waiting = tokio::time::timeout(self.timeout, self.next_session());
        let stopped = self.stop.cancelled();
        tokio::select! {
            biased;
            () = stopped => {}
            result = waiting => if let Ok(current) = result { return Ok(current) },
        }
        Err(ZkError::ConnectionLost { doing: format!("{verb} {path}") })
    }

    /// The current session, or the next one.
    pub(super) async fn next_session(&self) -> (SessionId, Client) {
        let mut generation = self.generation.subscribe();
        loop {
            if let Some((session, client)) = self.current() {
                return (session, client);
            }
            if generation.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    /// Waits until that session has ended.
    pub(super) async fn ended(&self, session: SessionId) {
        let mut generation = self.generation.subscribe();
        let _ = generation.wait_for(|now| *now != Some(session)).await;
    }

    /// Until when an operation with an open outcome is pursued: about as long as the session it belongs to.
    pub(super) fn deadline(&self) -> Instant {
        Instant::now() + self.timeout
    }

    pub(super) fn timeout(&self) -> Duration {
        self.timeout
    }

    pub(super) fn cache(&self) -> &Cache {
        &self.cache
    }

    /// Also from where there is no runtime, such as a `Drop`.
    pub(super) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.shutdown.tracker().spawn_on(task, &self.runtime);
    }

    /// The same for a task without which we would hear nothing any more.
    pub(super) fn guard(&self, what: &'static str, task: impl Future<Output = ()> + Send + 'static) {
        self.spawn(self.shutdown.guard(what, task));
    }
}
