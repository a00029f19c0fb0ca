//! [`Connector`]: one attempt to begin a session, and its words where that fails.

use std::sync::{Arc, atomic::AtomicU64};

use futures::{FutureExt, future::BoxFuture};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use super::{
    super::protocol::{Client, Connector, Error, Session, SessionId, State},
    connection::{Connection, Credentials},
    diagnose::diagnose,
    keeper::Keeper,
    session::WireSession,
    target::{Target, address},
};
use crate::config;

const LOGGER: &str = "nodepool.zk.ZooKeeper";

impl Connector for Target {
    fn connect(&self) -> BoxFuture<'_, Result<Client, String>> {
        async {
            let now = self.renewed();
            for (index, server) in now.ring.iter().enumerate() {
                match Connection::open(&now, server, &Credentials::new(now.timeout)).await {
                    Ok(connection) => {
                        let session = begin(&now, index, connection);
                        let chroot = &session.chroot;
                        // Where the connection breaks meanwhile, the session waits for another one, and other servers may be
                        // configured by then.
                        return match tokio::time::timeout(now.timeout, ensure_chroot(&session)).await {
                            Ok(Ok(())) => Ok(Arc::new(session) as Client),
                            Ok(Err(error)) => Err(format!("cannot create the chroot {chroot}: {error}")),
                            Err(_) => Err(format!("cannot create the chroot {chroot}: no answer")),
                        };
                    }
                    Err(failed) => {
                        tracing::debug!(logger = LOGGER, "No session from {}: {failed}", address(server));
                    }
                }
            }
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
fn begin(target: &Target, server: usize, connection: Connection) -> WireSession {
    let id = SessionId(connection.credentials.id);
    tracing::info!(logger = LOGGER, "Session {id} has begun at {}", connection.server);
    let (sender, commands) = mpsc::unbounded_channel();
    let state = watch::Sender::new(State::Connected);
    let given_up = CancellationToken::new();
    let session = WireSession {
        id,
        chroot: target.chroot.clone(),
        state: state.subscribe(),
        commands: sender,
        given_up: given_up.clone(),
        watches: AtomicU64::new(0),
    };
    let keeper = Keeper::new(target.clone(), server, &connection, state, commands, given_up);
    tokio::spawn(keeper.keep(connection.stream));
    session
}

/// Upstream expects the chroot to be there; a fresh ZooKeeper has none, and nobody gains from failing.
async fn ensure_chroot(session: &WireSession) -> Result<(), Error> {
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
