//! One task that keeps a session for as long as the process lives.
//!
//! `zookeeper-client` keeps one *session* alive: it reconnects and resumes it by itself, and re-adds its watches. What
//! it cannot do is begin a new session after the old one has expired. That is this task: connect (for ever, 0.2 s then
//! doubling to 2 s apart), publish the client, wait until its session ends, again. Everybody else follows
//! [`Shared::session`]: the cache walks anew, components register anew, elections are entered anew, and what was held
//! under the old session is not valid any more.
//!
//! While the connection is merely suspended the client stays published: operations wait in it until the same session
//! is resumed, or fail when it expires.

use std::{sync::Arc, time::Duration};

use tokio::sync::watch;
use zookeeper_client::{Acls, Client, CreateMode, SessionState};

use super::{connect::Target, diagnose::diagnose, protocol::SessionId, session::Shared};

const LOGGER: &str = "nodepool.zk.ZooKeeper";
const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);
/// How long a session may take to say good-bye; its server ends it anyway.
const FAREWELL: Duration = Duration::from_secs(3);

pub(super) async fn supervise(shared: Arc<Shared>, mut target: watch::Receiver<Arc<Target>>) {
    loop {
        let Some(client) = connect(&shared, &mut target).await else { break };
        let ended = serve(&shared, client, &mut target).await;
        if ended {
            break;
        }
    }
    shared.closed.send_replace(true);
}

/// Tries until there is a session; `None`: told to stop.
async fn connect(shared: &Shared, target: &mut watch::Receiver<Arc<Target>>) -> Option<Client> {
    let mut pause = FIRST_PAUSE;
    let mut told = String::new();
    loop {
        let now = renewed(&target.borrow_and_update().clone());
        let attempt = async {
            let connecting = match &now.tls {
                Some(_) => now.connector.clone().secure_connect(&now.connect_string).await,
                None => now.connector.clone().connect(&now.connect_string).await,
            };
            match connecting {
                Ok(client) => match ensure_chroot(&client).await {
                    Ok(()) => Ok(client),
                    Err(error) => Err(format!("cannot create the chroot {}: {error}", client.path())),
                },
                Err(zookeeper_client::Error::NoHosts | zookeeper_client::Error::Timeout) => Err(diagnose(&now).await),
                Err(error) => Err(format!("{error}; {}", diagnose(&now).await)),
            }
        };
        let problem = tokio::select! {
            () = shared.stop.cancelled() => return None,
            result = attempt => match result {
                Ok(client) => {
                    let session = client.session_id();
                    tracing::info!(logger = LOGGER, "Connected to ZooKeeper {}, session {session}", now.addresses());
                    return Some(client);
                }
                Err(problem) => problem,
            },
        };
        if problem == told {
            tracing::debug!(logger = LOGGER, "Still no connection to ZooKeeper: {problem}");
        } else {
            tracing::warn!(logger = LOGGER, "Cannot connect to ZooKeeper, trying on: {problem}");
            told = problem;
        }
        tokio::select! {
            () = shared.stop.cancelled() => return None,
            () = tokio::time::sleep(pause) => {}
            _ = target.changed() => {}
        }
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// The target with its files read again; as it was where they cannot be used, which a renewal in progress explains.
fn renewed(target: &Arc<Target>) -> Target {
    target.renew().unwrap_or_else(|error| {
        tracing::warn!(logger = LOGGER, "Using the certificates that were read before: {error}");
        Target::clone(target)
    })
}

/// Upstream expects the chroot to be there; a fresh ZooKeeper has none, and nobody gains from failing.
async fn ensure_chroot(client: &Client) -> Result<(), zookeeper_client::Error> {
    let path = client.path().to_owned();
    if path == "/" || client.check_stat("/").await?.is_some() {
        return Ok(());
    }
    let Ok(root) = client.clone().chroot("/") else { return Ok(()) };
    root.mkdir(&path, &CreateMode::Persistent.with_acls(Acls::anyone_all())).await?;
    tracing::info!(logger = LOGGER, "Created the chroot {path}");
    Ok(())
}

/// Publishes a client until its session ends; whether we are to stop.
async fn serve(shared: &Shared, client: Client, target: &mut watch::Receiver<Arc<Target>>) -> bool {
    let session = SessionId(client.session_id().0);
    let old = target.borrow().servers.clone();
    let mut states = client.state_watcher();
    let mut state = client.state();
    shared.publish(Some((session, client)));
    let stop = loop {
        match state {
            SessionState::SyncConnected | SessionState::ConnectedReadOnly => shared.connected(Some(session)),
            SessionState::Disconnected => {
                shared.connected(None);
                // The client's own reconnection is to find the newest certificates.
                renewed(&target.borrow().clone());
                tracing::warn!(logger = LOGGER, "Connection to ZooKeeper suspended, session {session}");
            }
            SessionState::Expired | SessionState::AuthFailed | SessionState::Closed => {
                tracing::warn!(logger = LOGGER, "ZooKeeper session {session} lost ({state})");
                shared.publish(None);
                return shared.stop.is_cancelled();
            }
        }
        let was = state;
        tokio::select! {
            biased;
            () = shared.stop.cancelled() => break true,
            changed = states.changed() => {
                state = changed;
                if was == SessionState::Disconnected && state == SessionState::SyncConnected {
                    tracing::info!(logger = LOGGER, "Connection to ZooKeeper resumed, session {session}");
                }
            }
            Ok(()) = target.changed() => {
                // A live session cannot be told of new servers, and which one serves it is not known. While one of
                // its servers is still configured it stays: the new list serves the next session.
                let new = target.borrow_and_update().servers.clone();
                if !new.iter().any(|server| old.contains(server)) {
                    tracing::info!(logger = LOGGER, "None of session {session}'s servers is configured any more");
                    break false;
                }
            }
        }
    };
    // The last clone ends the session; operations in flight keep theirs until they are done.
    shared.publish(None);
    let _ = tokio::time::timeout(FAREWELL, async {
        while !matches!(state, SessionState::Closed | SessionState::Expired | SessionState::AuthFailed) {
            state = states.changed().await;
        }
    })
    .await;
    stop
}
