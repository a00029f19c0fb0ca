//! ZooKeeper: the one place where Nodepool's state lives, shared with Zuul and with Python Nodepool.
//!
//! [`ZooKeeper`] is a connection that outlives sessions. A supervisor task keeps a session; everything that depends on
//! one follows it:
//!
//! * [`Cache`]: everything under `/nodepool`, fed by one persistent recursive watch, walked anew after each loss
//! * [`Held`]: a lock with the record it protects; each write checks the lock in the same transaction. [`HeldWork`] is
//!   the same for what builders do; what they take away needs none
//! * [`Registration`]: a component (who is alive), registered anew in each session
//! * elections: kazoo's, entered anew in each session
//!
//! Operations without a lock wait for a session for up to the session timeout; operations under a lock end with the
//! lock's own session. What a lost answer leaves open is found out before it is reported.
//!
//! One thread of names runs through the log: `logger` is the name upstream's logger has for the same thing.

mod cache;
mod components;
mod connect;
mod diagnose;
mod election;
mod error;
mod fenced;
mod held_back;
mod images;
mod lock;
mod nodes;
pub mod paths;
mod pem;
mod raw;
mod record;
mod requests;
mod supervisor;
mod taken;

use std::{
    fmt,
    future::Future,
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use tokio::{runtime::Handle, sync::watch, time::Instant};
use tokio_util::sync::CancellationToken;
use zookeeper_client::Client;

use self::connect::Target;
pub use self::{
    cache::{Cache, CacheQueues},
    components::Registration,
    error::{SharedError, ZkError},
    fenced::{Held, KeptLock, TryLock},
    images::{HeldWork, Work},
    record::Record,
};
use crate::{config, sys::shutdown::Shutdown};

/// A ZooKeeper session. The same after a mere reconnection; another one after an expiry, with all locks gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SessionId(pub i64);

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.0)
    }
}

/// A connection that outlives sessions. Cheap to clone.
#[derive(Clone, Debug)]
pub struct ZooKeeper {
    shared: Arc<Shared>,
}

impl ZooKeeper {
    /// Starts connecting and returns at once; needs a tokio runtime. An error is one of the configuration, and names
    /// the file or the key.
    ///
    /// `end` ends the connection: give it a token that fires after everything that still wants to unlock its records is
    /// done, or call [`Self::close`] then. `shutdown` hears of it when a task that keeps the connection or the cache
    /// panics: without them a process would live on and hear nothing.
    #[allow(clippy::needless_pass_by_value)] // the caller gives its token away
    pub fn start(config: &config::ZooKeeper, shutdown: &Shutdown, end: CancellationToken) -> Result<Self, ZkError> {
        let target = watch::Sender::new(Arc::new(Target::new(config)?));
        let shared = Arc::new(Shared {
            current: RwLock::new(None),
            session: watch::Sender::new(None),
            generation: watch::Sender::new(None),
            cache: Cache::default(),
            runtime: Handle::current(),
            shutdown: shutdown.clone(),
            stop: end.child_token(),
            closed: watch::Sender::new(false),
            timeout: config.timeout,
            target,
        });
        shared
            .guard("keeper of the ZooKeeper session", supervisor::supervise(shared.clone(), shared.target.subscribe()));
        Ok(Self { shared })
    }

    /// Servers and certificates of a reloaded configuration; the next session uses them. A session none of whose
    /// servers is configured any more ends at once. An error leaves everything as it is.
    pub fn set_servers(&self, config: &config::ZooKeeper) -> Result<(), ZkError> {
        self.shared.target.send_replace(Arc::new(Target::new(config)?));
        Ok(())
    }

    /// The session that is connected now; `None` while there is none, or while its connection is lost.
    pub fn session(&self) -> watch::Receiver<Option<SessionId>> {
        self.shared.session.subscribe()
    }

    /// Waits for a connection.
    pub async fn connected(&self) -> SessionId {
        let mut session = self.session();
        loop {
            if let Some(session) = *session.borrow_and_update() {
                return session;
            }
            if session.changed().await.is_err() {
                // The sender lives as long as we do.
                std::future::pending::<()>().await;
            }
        }
    }

    /// Everything under `/nodepool`. The first call starts it: who never asks, like most of the command line, walks
    /// and watches nothing.
    pub fn cache(&self) -> &Cache {
        self.shared.cache.ensure_started(&self.shared);
        &self.shared.cache
    }

    /// Ends the session, so that our locks and components vanish at once, and waits for that.
    pub async fn close(&self) {
        self.shared.stop.cancel();
        let mut closed = self.shared.closed.subscribe();
        // The sender lives as long as we do.
        let _ = closed.wait_for(|closed| *closed).await;
    }

    /// The configured servers, for messages.
    pub fn servers(&self) -> String {
        self.shared.target.borrow().addresses()
    }
}

/// What all clones, tasks and locks share.
pub(super) struct Shared {
    /// The current session's client, also while its connection is suspended. Whoever works clones it for the moment:
    /// the last clone's end is the session's.
    current: RwLock<Option<(SessionId, Client)>>,
    /// Connected now.
    session: watch::Sender<Option<SessionId>>,
    /// Alive, be it suspended.
    generation: watch::Sender<Option<SessionId>>,
    cache: Cache,
    runtime: Handle,
    shutdown: Shutdown,
    stop: CancellationToken,
    closed: watch::Sender<bool>,
    timeout: Duration,
    target: watch::Sender<Arc<Target>>,
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ZooKeeper").field("session", &*self.session.borrow()).finish_non_exhaustive()
    }
}

impl Shared {
    fn publish(&self, client: Option<(SessionId, Client)>) {
        let session = client.as_ref().map(|(session, _)| *session);
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = client;
        self.generation.send_replace(session);
        if session.is_none() {
            self.connected(None);
        }
    }

    fn connected(&self, session: Option<SessionId>) {
        self.session.send_if_modified(|now| std::mem::replace(now, session) != session);
    }

    fn current(&self) -> Option<(SessionId, Client)> {
        self.current.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The client of that session, while it is the current one.
    fn client_of(&self, session: SessionId) -> Option<Client> {
        self.current().filter(|(current, _)| *current == session).map(|(_, client)| client)
    }

    /// The current session's client; waits for one, no longer than a session would last.
    async fn client(&self, verb: &str, path: &str) -> Result<(SessionId, Client), ZkError> {
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
    async fn next_session(&self) -> (SessionId, Client) {
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
    async fn ended(&self, session: SessionId) {
        let mut generation = self.generation.subscribe();
        let _ = generation.wait_for(|now| *now != Some(session)).await;
    }

    /// Until when an operation with an open outcome is pursued: about as long as the session it belongs to.
    fn deadline(&self) -> Instant {
        Instant::now() + self.timeout
    }

    fn timeout(&self) -> Duration {
        self.timeout
    }

    fn cache(&self) -> &Cache {
        &self.cache
    }

    /// Also from where there is no runtime, such as a `Drop`.
    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.shutdown.tracker().spawn_on(task, &self.runtime);
    }

    /// The same for a task without which we would hear nothing any more.
    fn guard(&self, what: &'static str, task: impl Future<Output = ()> + Send + 'static) {
        self.spawn(self.shutdown.guard(what, task));
    }
}
