//! What every command but `config-validate` begins with: the configuration, and a connection to ZooKeeper.
//!
//! As upstream's, it waits for ZooKeeper for as long as it takes; the log says which servers do not answer and why. Where a
//! server answers nothing at all that takes a while, and a log that goes elsewhere is not seen: then a line on stderr says what is
//! waited for. With `--timeout` a command ends when it has had no connection for so long, at its start or later.

use std::{path::Path, sync::Arc, time::Duration};

use nodepool_common::{
    config::{self, Config},
    sys::{
        Ambient,
        shutdown::{Shutdown, ShutdownReason},
    },
    zk::ZooKeeper,
};

use crate::failure::{Failure, say_aside};

/// For what is left to do when a command is done: locks of abandoned actions are released.
const LAST_TASKS: Duration = Duration::from_secs(10);

/// After which a command that has no connection yet says so, unless the log has.
const PATIENCE: Duration = Duration::from_secs(3);

/// What a command is started with.
#[derive(Clone, Copy, Debug)]
pub struct Surroundings<'a> {
    /// nodepool.yaml.
    pub config: &'a Path,
    /// Its secure file.
    pub secure: Option<&'a Path>,
    /// How long it goes on without a connection to ZooKeeper; `None`: for ever.
    pub timeout: Option<Duration>,
    /// Whether the log is on stderr.
    pub is_log_seen: bool,
}

/// A command's surroundings.
pub struct Session {
    /// `nodepool.yaml`, with its secure file.
    pub config: Arc<Config>,
    /// Connected.
    pub zk: ZooKeeper,
    timeout: Option<Duration>,
    shutdown: Shutdown,
}

impl Session {
    /// Loads the configuration and connects.
    pub async fn open(with: Surroundings<'_>) -> Result<Self, Failure> {
        let session = Self::begin(with)?;
        tokio::select! {
            biased;
            _ = session.zk.connected() => Ok(()),
            gone = session.gone() => Err(gone),
            () = session.say_what_it_waits_for(with.is_log_seen) => Ok(()),
        }?;
        Ok(session)
    }

    /// Loads the configuration and begins to connect; in a runtime.
    pub fn begin(with: Surroundings<'_>) -> Result<Self, Failure> {
        let loaded = config::load(with.config, with.secure)?;
        if let Some(broken) = &loaded.broken_extensions {
            tracing::warn!(logger = "nodepool.config", "{broken}");
        }
        for broken in &loaded.broken_providers {
            tracing::warn!(
                logger = "nodepool.config",
                "Provider {} cannot be used as it is configured: {}",
                broken.name,
                broken.reason
            );
        }
        for broken in &loaded.broken_parts {
            tracing::warn!(logger = "nodepool.config", "{broken}");
        }
        let config = loaded.config;
        if config.zookeeper.servers.is_empty() {
            return Err(Failure::Refused(format!(
                "{} names no ZooKeeper: add zookeeper-servers, or pass the secure file that has them with -s",
                with.config.display()
            )));
        }
        let shutdown = Shutdown::new();
        let zk = ZooKeeper::start(&config.zookeeper, Ambient::system(), &shutdown, shutdown.token().clone())?;
        Ok(Self { config, zk, timeout: with.timeout, shutdown })
    }

    /// Says it once, and goes on for ever.
    async fn say_what_it_waits_for(&self, is_log_seen: bool) {
        tokio::time::sleep(PATIENCE).await;
        let problem = self.zk.problem();
        if problem.is_none() || !is_log_seen {
            let problem = problem.unwrap_or_else(|| format!("{}: no answer yet", self.zk.servers()));
            say_aside(&format!("waiting for ZooKeeper (--timeout SECONDS ends that): {problem}"));
        }
        std::future::pending::<()>().await;
    }

    /// Ends when there has been no connection for the time of `--timeout`, and says why there is none.
    pub async fn gone(&self) -> Failure {
        let Some(timeout) = self.timeout else { return std::future::pending().await };
        let mut session = self.zk.session();
        let mut otherwise = "no answer";
        loop {
            if tokio::time::timeout(timeout, session.wait_for(Option::is_some)).await.is_err() {
                let problem = self.zk.problem().unwrap_or_else(|| format!("{}: {otherwise}", self.zk.servers()));
                return Failure::NoConnection { timeout, problem };
            }
            // The sender lives as long as we do.
            let _ = session.wait_for(Option::is_none).await;
            otherwise = "the connection was lost, and did not come back";
        }
    }

    /// Ends the ZooKeeper session, so that what it locked is free at once.
    pub async fn close(self) {
        self.zk.close().await;
        self.shutdown.request(ShutdownReason::Terminate);
        self.shutdown.join(LAST_TASKS).await;
    }
}
