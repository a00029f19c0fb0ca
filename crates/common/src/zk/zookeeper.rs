//! [`ZooKeeper`]: the connection, as everybody has it.

use std::{
    sync::{Arc, MutexGuard, PoisonError},
    time::Duration,
};

use tokio_util::sync::CancellationToken;

use super::{
    cache::{Cache, follow},
    error::ZkError,
    protocol::{Connector, SessionId},
    session::Shared,
    supervisor::supervise,
    wire::{Replies, Target},
};
use crate::{
    config,
    sys::{Ambient, shutdown::Shutdown, watch},
};

/// A connection that outlives sessions. Cheap to clone.
#[derive(Clone, Debug)]
pub struct ZooKeeper {
    pub(super) shared: Arc<Shared>,
}

impl ZooKeeper {
    /// Starts connecting and returns at once; needs a tokio runtime. An error is one of the configuration, and names
    /// the file or the key.
    ///
    /// `end` ends the connection: give it a token that fires after everything that still wants to unlock its records is
    /// done, or call [`Self::close`] then. `shutdown` is requested when a task that keeps the connection or the cache
    /// panics: without them a process would live on without any news.
    pub fn start(
        config: &config::ZooKeeper,
        ambient: Ambient,
        shutdown: &Shutdown,
        end: CancellationToken,
    ) -> Result<Self, ZkError> {
        let replies = Replies::default();
        let target = Target::new(config, &ambient.entropy)?.measured_by(replies.clone());
        let zk = Self::start_measured(Arc::new(target), replies, config.timeout, ambient, shutdown, end);
        *zk.configured() = Some(config.clone());
        Ok(zk)
    }

    /// The same with whatever leads to sessions; `timeout`: how long one of them lasts without a connection.
    pub fn start_with(
        connector: Arc<dyn Connector>,
        timeout: Duration,
        ambient: Ambient,
        shutdown: &Shutdown,
        end: CancellationToken,
    ) -> Self {
        Self::start_measured(connector, Replies::default(), timeout, ambient, shutdown, end)
    }

    #[allow(clippy::needless_pass_by_value)] // the caller gives its token away
    fn start_measured(
        connector: Arc<dyn Connector>,
        replies: Replies,
        timeout: Duration,
        ambient: Ambient,
        shutdown: &Shutdown,
        end: CancellationToken,
    ) -> Self {
        let shared = Arc::new(Shared::new(connector, replies, timeout, ambient, shutdown, end.child_token()));
        shared.guard("keeper of the ZooKeeper session", supervise(shared.clone(), shared.target.subscribe()));
        Self { shared }
    }

    /// Servers and certificates of a reloaded configuration; the next session uses them. A session none of whose
    /// servers is configured any more ends at once. An error leaves everything as it is, as does what is configured already.
    pub fn set_servers(&self, config: &config::ZooKeeper) -> Result<(), ZkError> {
        if self.configured().as_ref() == Some(config) {
            return Ok(());
        }
        let target = Target::new(config, &self.shared.ambient.entropy)?.measured_by(self.shared.replies.clone());
        *self.configured() = Some(config.clone());
        self.shared.target.send_replace(Arc::new(target));
        Ok(())
    }

    /// Has somebody told how long each reply of a server takes, from when its request is begun; the first one who asks.
    pub fn on_reply(&self, observe: impl Fn(Duration) + Send + Sync + 'static) {
        self.shared.replies.tell(observe);
    }

    fn configured(&self) -> MutexGuard<'_, Option<config::ZooKeeper>> {
        self.shared.configured.lock().unwrap_or_else(PoisonError::into_inner)
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
        let cache = self.shared.cache();
        if cache.is_wanted_first() {
            self.shared.guard("follower of ZooKeeper's records", follow(self.shared.clone(), cache.clone()));
        }
        cache
    }

    /// Ends the session, so that our locks and components vanish at once, and waits for that.
    pub async fn close(&self) {
        self.shared.stop.cancel();
        let mut closed = self.shared.closed.subscribe();
        // The sender lives as long as we do.
        let _ = closed.wait_for(|closed| *closed).await;
    }

    /// Why no session could be begun: for each server what was seen. `None`: one was, or none was refused yet.
    pub fn problem(&self) -> Option<String> {
        self.shared.problem()
    }

    /// The configured servers, for messages.
    pub fn servers(&self) -> String {
        self.shared.target.borrow().addresses()
    }
}
