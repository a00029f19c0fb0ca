//! [`Connector`]: one attempt to begin a session, and its words where that fails.

use std::sync::Arc;

use futures::{FutureExt, future::BoxFuture};
use zookeeper_client as zk;

use super::{
    super::protocol::{Client, Connector},
    diagnose::diagnose,
    session::Library,
    target::Target,
};
use crate::config;

const LOGGER: &str = "nodepool.zk.ZooKeeper";

impl Connector for Target {
    fn connect(&self) -> BoxFuture<'_, Result<Client, String>> {
        async {
            let now = self.renewed();
            let connecting = match &now.tls {
                Some(_) => now.connector.clone().secure_connect(&now.connect_string).await,
                None => now.connector.clone().connect(&now.connect_string).await,
            };
            match connecting {
                Ok(client) => match ensure_chroot(&client).await {
                    Ok(()) => Ok(Arc::new(Library(client)) as Client),
                    Err(error) => Err(format!("cannot create the chroot {}: {error}", client.path())),
                },
                Err(zk::Error::NoHosts | zk::Error::Timeout) => Err(diagnose(&now).await),
                Err(error) => Err(format!("{error}; {}", diagnose(&now).await)),
            }
        }
        .boxed()
    }

    /// The library's own reconnection is to find the newest certificates.
    fn interrupted(&self) {
        self.renewed();
    }

    fn servers(&self) -> &[config::ZooKeeperServer] {
        &self.servers
    }

    fn addresses(&self) -> String {
        Self::addresses(self)
    }
}

impl Target {
    /// With its files read again; as it was where they cannot be used, which a renewal in progress explains.
    fn renewed(&self) -> Self {
        self.renew().unwrap_or_else(|error| {
            tracing::warn!(logger = LOGGER, "Using the certificates that were read before: {error}");
            self.clone()
        })
    }
}

/// Upstream expects the chroot to be there; a fresh ZooKeeper has none, and nobody gains from failing.
async fn ensure_chroot(client: &zk::Client) -> Result<(), zk::Error> {
    let path = client.path().to_owned();
    if path == "/" || client.check_stat("/").await?.is_some() {
        return Ok(());
    }
    let Ok(root) = client.clone().chroot("/") else { return Ok(()) };
    root.mkdir(&path, &zk::CreateMode::Persistent.with_acls(zk::Acls::anyone_all())).await?;
    tracing::info!(logger = LOGGER, "Created the chroot {path}");
    Ok(())
}
