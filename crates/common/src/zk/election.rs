//! kazoo's Election: whoever holds the lock of that name leads, until its session ends.

use std::{sync::Arc, time::Duration};

use super::{
    ZooKeeper,
    lock::{Waited, acquire},
    paths,
    protocol::{Client, Error, SessionId},
    repeated,
    session::Shared,
};
use crate::sys::watch;

const LOGGER: &str = "nodepool.zk.Election";
/// Between two attempts of which the first has failed.
const PAUSE: Duration = Duration::from_millis(500);

impl ZooKeeper {
    /// Stands for election at `/nodepool/elections/<name>`; `identifier` is what others see of us there. True while we
    /// lead and are connected. Enters again in each session, and leaves when the connection is closed.
    pub fn stand_for_election(&self, name: &str, identifier: &str) -> watch::Receiver<bool> {
        let leading = watch::Sender::new(false);
        let receiver = leading.subscribe();
        let (shared, dir) = (self.shared.clone(), format!("{}/{name}", paths::ELECTIONS));
        let identifier = identifier.to_owned();
        self.shared.guard("candidate of an election", async move {
            loop {
                tokio::select! {
                    biased;
                    () = shared.stop.cancelled() => break,
                    // Nobody cares any more.
                    () = leading.closed() => break,
                    () = term(&shared, &dir, &identifier, &leading) => {}
                }
                leading.send_replace(false);
            }
            leading.send_replace(false);
        });
        receiver
    }
}

/// From standing in line to the end of leading.
async fn term(shared: &Arc<Shared>, dir: &str, identifier: &str, leading: &watch::Sender<bool>) {
    let pause = tokio::time::sleep(PAUSE);
    let (session, client) = shared.next_session().await;
    let contender = match acquire(shared, session, &client, dir, identifier.as_bytes(), None).await {
        Ok(Waited::Acquired(contender)) => contender,
        Ok(Waited::NoDirectory) => {
            if let Err(error) = repeated::create(&client, dir, b"", shared.deadline()).await {
                tracing::info!(logger = LOGGER, "Cannot create {dir}: {error}");
                pause.await;
            }
            return;
        }
        Ok(Waited::TimedOut) => return,
        Err(error) => {
            tracing::info!(logger = LOGGER, "Election {dir}: {error}; standing again");
            pause.await;
            return;
        }
    };
    tracing::info!(logger = LOGGER, "Won the election {dir} as {identifier}");
    lead(shared, session, &client, &contender.path(), leading).await;
    leading.send_replace(false);
    tracing::info!(logger = LOGGER, "No longer leading {dir}");
    let _ = contender.release(&client).await;
}

/// Leads whenever there is a connection, until the contender is gone, by somebody else's deletion or with its session.
async fn lead(shared: &Shared, session: SessionId, client: &Client, contender: &str, leading: &watch::Sender<bool>) {
    let (mut connection, mut loss) = (shared.session.subscribe(), shared.session.subscribe());
    loop {
        // What is asked without a connection waits for one, and may wait for long.
        tokio::select! {
            biased;
            () = shared.ended(session) => return,
            _ = connection.wait_for(|now| *now == Some(session)) => {}
        }
        let watching = async {
            // Asked anew after each interruption: while we were away somebody may have deleted our contender.
            let (_, _, changed) = client.get_and_watch(contender).await?;
            leading.send_replace(true);
            changed.await;
            Ok(())
        };
        let watched = tokio::select! {
            biased;
            () = shared.ended(session) => return,
            _ = loss.wait_for(|now| *now != Some(session)) => {
                leading.send_replace(false);
                continue;
            }
            watched = watching => watched,
        };
        match watched {
            Err(Error::NoNode | Error::SessionEnded) => return,
            // It broke just now, and whether there is another connection is not known yet.
            Err(_) => {
                leading.send_replace(false);
                tokio::time::sleep(PAUSE).await;
            }
            Ok(()) => {}
        }
    }
}
