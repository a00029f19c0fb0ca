//! kazoo's Election: whoever holds the lock of that name leads, until its session ends.

use std::sync::Arc;

use super::{
    ZooKeeper,
    lock::{Waited, acquire},
    paths, repeated,
    session::Shared,
};
use crate::sys::watch;

const LOGGER: &str = "nodepool.zk.Election";

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
    let pause = tokio::time::sleep(std::time::Duration::from_millis(500));
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
    let path = contender.path();
    let mut connected = shared.session.subscribe();
    loop {
        // Asked anew after each interruption: while we were away somebody may have deleted our contender.
        let watching = tokio::select! {
            biased;
            () = shared.ended(session) => None,
            watching = client.get_and_watch(&path) => watching.ok(),
        };
        let Some((_, _, changed)) = watching else {
            if shared.client_of(session).is_none() {
                break;
            }
            match client.exists(&path).await {
                Ok(None) => break,
                _ => continue,
            }
        };
        leading.send_replace(true);
        tokio::select! {
            biased;
            () = shared.ended(session) => break,
            () = changed => {}
            () = async { drop(connected.wait_for(|now| *now != Some(session)).await) } => {}
        }
        if *shared.session.borrow() != Some(session) {
            leading.send_replace(false);
            tokio::select! {
                biased;
                () = shared.ended(session) => break,
                () = async { drop(connected.wait_for(Option::is_some).await) } => {}
            }
        }
    }
    leading.send_replace(false);
    tracing::info!(logger = LOGGER, "No longer leading {dir}");
    let _ = contender.release(&client).await;
}
