//! [`Connector`]: one attempt to begin a session, and its words where that fails.

use std::sync::{Arc, atomic::AtomicU64};

use futures::{FutureExt, future::BoxFuture};
use tokio::sync::{mpsc, watch};

use super::{
    super::protocol::{Client, Connector, Error, Session, SessionId, State},
    connection::{Connection, Ticket},
    diagnose::diagnose,
    keeper::Keeper,
    session::Wire,
    target::Target,
};
use crate::config;

const LOGGER: &str = "nodepool.zk.ZooKeeper";

impl Connector for Target {
    fn connect(&self) -> BoxFuture<'_, Result<Client, String>> {
        async {
            let now = self.renewed();
            let mut problem = String::new();
            for (server, address) in now.servers.iter().enumerate() {
                match Connection::open(&now, address, &Ticket::new(now.timeout)).await {
                    Ok(connection) => {
                        let session = begin(&now, server, connection);
                        let chroot = &session.chroot;
                        return match ensure_chroot(&session).await {
                            Ok(()) => Ok(Arc::new(session) as Client),
                            Err(error) => Err(format!("cannot create the chroot {chroot}: {error}")),
                        };
                    }
                    Err(failed) => problem = failed.to_string(),
                }
            }
            tracing::debug!(logger = LOGGER, "No server gives us a session: {problem}");
            Err(diagnose(&now).await)
        }
        .boxed()
    }

    fn servers(&self) -> &[config::ZooKeeperServer] {
        &self.servers
    }

    fn addresses(&self) -> String {
        Self::addresses(self)
    }
}

/// The session that a server has begun.
fn begin(target: &Target, server: usize, connection: Connection) -> Wire {
    let Connection { stream, ticket } = connection;
    let id = SessionId(ticket.id);
    let (orders, to_obey) = mpsc::unbounded_channel();
    let state = watch::Sender::new(State::Connected);
    let wire = Wire { id, chroot: target.chroot.clone(), state: state.subscribe(), orders, watches: AtomicU64::new(0) };
    let keeper = Keeper::new(target.clone(), server, ticket, state, to_obey);
    tokio::spawn(keeper.keep(stream));
    wire
}

/// Upstream expects the chroot to be there; a fresh ZooKeeper has none, and nobody gains from failing.
async fn ensure_chroot(session: &Wire) -> Result<(), Error> {
    if session.chroot.is_empty() || session.exists("/").await?.is_some() {
        return Ok(());
    }
    let ends = session.chroot.match_indices('/').map(|(at, _)| at).skip(1).chain([session.chroot.len()]);
    for end in ends {
        match session.create_outside(&session.chroot[..end]).await {
            Ok(()) | Err(Error::NodeExists) => {}
            Err(error) => return Err(error),
        }
    }
    tracing::info!(logger = LOGGER, "Created the chroot {}", session.chroot);
    Ok(())
}
