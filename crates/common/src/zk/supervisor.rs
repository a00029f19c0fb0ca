//! One task that keeps a session for as long as the process lives.
//!
//! A [`Session`](super::protocol::Session) keeps itself alive: it reconnects and is resumed. What it cannot do is begin a
//! new one after it has expired. That is this task: connect (for ever, 0.2 s then doubling to 2 s apart), publish the
//! client, wait until its session ends, again. Everybody else follows [`Shared::session`]: the cache walks anew, components
//! register anew, elections are entered anew, and what was held under the old session is not valid any more.
//!
//! While the connection is merely suspended the client stays published, however long that takes: operations wait in it until
//! the same session is resumed, or fail when a server says that it has expired. Only where other servers are configured by
//! now, which a live session does not learn of, it is given up once it has been suspended for its timeout.

use std::{sync::Arc, time::Duration};

use futures::{StreamExt, stream::BoxStream};

use tokio::time::Instant;

use super::{
    protocol::{Client, Connector, State},
    session::Shared,
};
use crate::sys::watch;

const LOGGER: &str = "nodepool.zk.ZooKeeper";
const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);
/// How long the end of a session is waited for; its server ends it anyway.
const FAREWELL: Duration = Duration::from_secs(3);

pub(super) async fn supervise(shared: Arc<Shared>, mut target: watch::Receiver<Arc<dyn Connector>>) {
    loop {
        let Some(client) = connect(&shared, &mut target).await else { break };
        let ended = serve(&shared, client, &mut target).await;
        if ended {
            break;
        }
    }
    shared.closed.send_replace(true);
}

/// Tries until there is a session; `None`: it is to stop.
async fn connect(shared: &Shared, target: &mut watch::Receiver<Arc<dyn Connector>>) -> Option<Client> {
    let mut pause = FIRST_PAUSE;
    let mut reported = String::new();
    loop {
        let now = target.borrow_and_update().clone();
        let problem = tokio::select! {
            biased;
            () = shared.stop.cancelled() => return None,
            result = now.connect() => match result {
                Ok(client) => {
                    let session = client.id();
                    tracing::info!(logger = LOGGER, "Connected to ZooKeeper {}, session {session}", now.addresses());
                    shared.set_problem(None);
                    return Some(client);
                }
                Err(problem) => problem,
            },
        };
        shared.set_problem(Some(problem.clone()));
        if problem == reported {
            tracing::debug!(logger = LOGGER, "Still no connection to ZooKeeper: {problem}");
        } else {
            tracing::warn!(logger = LOGGER, "Cannot connect to ZooKeeper, trying on: {problem}");
            reported = problem;
        }
        tokio::select! {
            biased;
            () = shared.stop.cancelled() => return None,
            () = tokio::time::sleep(pause) => {}
            _ = target.changed() => {}
        }
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// Publishes a client until its session ends; whether we are to stop.
async fn serve(shared: &Shared, client: Client, target: &mut watch::Receiver<Arc<dyn Connector>>) -> bool {
    let session = client.id();
    let old = target.borrow().servers().to_vec();
    let mut states = client.states();
    let mut state = next(&mut states).await;
    let unused = Arc::downgrade(&client);
    shared.publish(Some((session, client)));
    let (mut is_reconfigured, mut give_up_at) = (false, None);
    let stop = loop {
        match &state {
            State::Connected => {
                give_up_at = None;
                shared.connected(Some(session));
            }
            State::Suspended => {
                give_up_at = give_up_at.or(Some(Instant::now() + shared.timeout()));
                shared.connected(None);
                tracing::warn!(logger = LOGGER, "Connection to ZooKeeper suspended, session {session}");
            }
            State::Ended(why) => {
                tracing::warn!(logger = LOGGER, "ZooKeeper session {session} lost ({why})");
                shared.publish(None);
                return shared.stop.is_cancelled();
            }
        }
        let was = state.clone();
        tokio::select! {
            biased;
            () = shared.stop.cancelled() => break true,
            changed = next(&mut states) => {
                state = changed;
                if was == State::Suspended && state == State::Connected {
                    tracing::info!(logger = LOGGER, "Connection to ZooKeeper resumed, session {session}");
                }
            }
            Ok(()) = target.changed() => {
                // A live session does not learn of new servers, and which one serves it is not known. While one of
                // its servers is still configured it stays: the new list serves the next session.
                is_reconfigured = true;
                let new = target.borrow_and_update().servers().to_vec();
                if !new.iter().any(|server| old.contains(server)) {
                    tracing::info!(logger = LOGGER, "None of session {session}'s servers is configured any more");
                    break false;
                }
            }
            () = until(give_up_at), if is_reconfigured => {
                tracing::info!(logger = LOGGER, "Session {session} is given up: other servers are configured by now");
                break false;
            }
        }
    };
    // The last clone ends the session; operations in flight keep theirs until they are done.
    shared.publish(None);
    let ended = tokio::time::timeout(FAREWELL, async {
        while !matches!(state, State::Ended(_)) {
            state = next(&mut states).await;
        }
    });
    if ended.await.is_err() {
        // What still waits in it would do so for as long as there is no connection.
        if let Some(client) = unused.upgrade() {
            client.give_up();
        }
    }
    stop
}

async fn until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

/// The next state; none follows on the last one.
async fn next(states: &mut BoxStream<'static, State>) -> State {
    match states.next().await {
        Some(state) => state,
        None => std::future::pending().await,
    }
}
