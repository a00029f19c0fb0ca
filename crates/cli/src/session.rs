//! What every command but `config-validate` begins with: the configuration, and a connection to ZooKeeper.
//!
//! As upstream's, it waits for ZooKeeper for as long as it takes; the log says which servers do not answer and why.

use std::{path::Path, sync::Arc, time::Duration};

use nodepool_common::{
    config::{self, Config},
    sys::{
        Ambient,
        shutdown::{Shutdown, ShutdownReason},
    },
    zk::ZooKeeper,
};

use crate::failure::Failure;

/// For what is left to do when a command is done: locks of abandoned actions are released.
const LAST_TASKS: Duration = Duration::from_secs(10);

/// A command's surroundings.
pub struct Session {
    /// `nodepool.yaml`, with its secure file.
    pub config: Arc<Config>,
    /// Connected.
    pub zk: ZooKeeper,
    shutdown: Shutdown,
}

impl Session {
    /// Loads the configuration and connects.
    pub async fn open(path: &Path, secure: Option<&Path>) -> Result<Self, Failure> {
        let loaded = config::load(path, secure)?;
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
                path.display()
            )));
        }
        let shutdown = Shutdown::new();
        let zk = ZooKeeper::start(&config.zookeeper, Ambient::system(), &shutdown, shutdown.token().clone())?;
        zk.connected().await;
        Ok(Self { config, zk, shutdown })
    }

    /// Ends the ZooKeeper session, so that what it locked is free at once.
    pub async fn close(self) {
        self.zk.close().await;
        self.shutdown.request(ShutdownReason::Terminate);
        self.shutdown.join(LAST_TASKS).await;
    }
}
