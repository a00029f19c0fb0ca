//! Components: who is alive, for Zuul and for the other launchers.
//!
//! A component is an ephemeral, sequential znode `<hostname><10 digits>`. A task of its own writes it: what callers
//! change is only remembered, and the newest state written, so that nobody waits for it and ten changes are one write.
//! Each write checks the version of our last one, as upstream's do; a foreign write is read and overwritten. In each
//! new session the component is registered anew.

use std::{sync::Arc, time::Duration};

use serde_json::{Value, json};

use super::{
    ZooKeeper,
    lock::list_synced,
    paths,
    protocol::{Client, Error, Mode},
    repeated::{self, repeat},
    session::Shared,
};
use crate::{
    model::{PoolComponent, wire::to_python_json},
    sys::watch,
};

const LOGGER: &str = "nodepool.zk.ComponentRegistry";
const KINDS: [&str; 3] = ["pool", "launcher", "builder"];
const PAUSE: Duration = Duration::from_millis(500);
/// How long a withdrawal is waited for: the stop of a process must not depend on a ZooKeeper that does not answer.
const FAREWELL: Duration = Duration::from_secs(3);

impl ZooKeeper {
    /// Registers a pool. It is kept registered until [`Registration::withdraw`], or until the registration is dropped.
    pub fn register_pool(&self, component: PoolComponent) -> Registration {
        self.register(Document::Pool(component))
    }

    /// Registers a launcher process: `stopped` first, then `running`, as upstream.
    pub fn register_launcher(&self, hostname: &str, version: &str) -> Registration {
        self.register_process("launcher", hostname, version)
    }

    /// Registers a builder process, likewise. (Upstream's builders stay `stopped`, by
    /// which they are told apart: [`BuilderComponent`](crate::model::BuilderComponent).)
    pub fn register_builder(&self, hostname: &str, version: &str) -> Registration {
        self.register_process("builder", hostname, version)
    }

    fn register_process(&self, kind: &'static str, hostname: &str, version: &str) -> Registration {
        let (hostname, version) = (hostname.to_owned(), version.to_owned());
        let registration = self.register(Document::Process { kind, hostname, version, state: "stopped" });
        registration.document.send_modify(|document| {
            if let Some(Document::Process { state, .. }) = document {
                *state = "running";
            }
        });
        registration
    }

    fn register(&self, document: Document) -> Registration {
        let first = document.clone();
        let document = watch::Sender::new(Some(document));
        let done = watch::Sender::new(false);
        let registration = Registration { document, done: done.subscribe() };
        let (shared, changes) = (self.shared.clone(), registration.document.subscribe());
        self.shared.guard("keeper of a component", async move {
            keep(&shared, first, changes).await;
            done.send_replace(true);
        });
        registration
    }
}

/// A registered component. Dropped, it is withdrawn by its task.
#[derive(Debug)]
pub struct Registration {
    document: watch::Sender<Option<Document>>,
    done: watch::Receiver<bool>,
}

impl Drop for Registration {
    fn drop(&mut self) {
        self.document.send_replace(None);
    }
}

impl Registration {
    /// Changes a pool's component. Returns at once; a task writes the newest state.
    pub fn update(&self, change: impl FnOnce(&mut PoolComponent)) {
        self.document.send_if_modified(|document| match document {
            Some(Document::Pool(component)) => {
                let before = component.clone();
                change(component);
                *component != before
            }
            _ => false,
        });
    }

    /// Deletes the component, and waits for that; not for long where ZooKeeper does not answer: the component then goes
    /// with its session.
    pub async fn withdraw(mut self) {
        self.document.send_replace(None);
        if tokio::time::timeout(FAREWELL, self.done.wait_for(|done| *done)).await.is_err() {
            tracing::warn!(
                logger = LOGGER,
                "ZooKeeper does not answer: a component is left, and goes with the session at the latest"
            );
        }
    }
}

#[derive(Clone, Debug, PartialEq)]
enum Document {
    Pool(PoolComponent),
    Process { kind: &'static str, hostname: String, version: String, state: &'static str },
}

impl Document {
    fn prefix(&self) -> String {
        match self {
            Self::Pool(pool) => format!("{}/pool/{}", paths::COMPONENTS, pool.hostname),
            Self::Process { kind, hostname, .. } => format!("{}/{kind}/{hostname}", paths::COMPONENTS),
        }
    }

    fn bytes(&self) -> Vec<u8> {
        match self {
            Self::Pool(pool) => pool.write(),
            Self::Process { kind, hostname, version, state } => {
                // The keys in their order: upstream sorts them.
                match json!({
                    "hostname": hostname, "kind": kind, "model_api": 0, "state": state, "version": version,
                }) {
                    Value::Object(map) => to_python_json(&map),
                    _ => Vec::new(),
                }
            }
        }
    }
}

/// Keeps a component registered, session after session, until it is withdrawn.
async fn keep(shared: &Arc<Shared>, first: Document, mut changes: watch::Receiver<Option<Document>>) {
    let mut first = Some(first);
    loop {
        let (session, client) = tokio::select! {
            biased;
            () = shared.stop.cancelled() => return,
            _ = changes.wait_for(Option::is_none) => return,
            next = shared.next_session() => next,
        };
        let Some(now) = first.take().or_else(|| changes.borrow().clone()) else { return };
        let result = tokio::select! {
            biased;
            () = shared.stop.cancelled() => return,
            () = shared.ended(session) => Ok(()),
            result = keep_in_session(&client, now, &mut changes) => match result {
                Ok(()) => return,
                Err(error) => Err(error),
            },
        };
        if let Err(error) = result {
            tracing::info!(logger = LOGGER, "Registering a component failed, trying again: {error}");
            tokio::time::sleep(PAUSE).await;
        }
    }
}

/// Registers and writes; ends well once withdrawn.
async fn keep_in_session(
    client: &Client,
    mut written: Document,
    changes: &mut watch::Receiver<Option<Document>>,
) -> Result<(), Error> {
    let (mut path, mut version) = register(client, &written).await?;
    loop {
        let wanted = changes.borrow_and_update().clone();
        let Some(wanted) = wanted else {
            tracing::info!(logger = LOGGER, "Withdrew {path}");
            let deadline = tokio::time::Instant::now() + Duration::from_secs(5);
            return match repeat(deadline, || client.delete(&path, None)).await {
                Ok(()) | Err(Error::NoNode) => Ok(()),
                Err(error) => Err(error),
            };
        };
        if wanted != written {
            match client.set(&path, &wanted.bytes(), Some(version)).await {
                Ok(stat) => {
                    version = stat.version;
                    written = wanted;
                }
                // Somebody else wrote, or our own write's answer was lost: the state we want is the same.
                Err(Error::BadVersion) => match client.exists(&path).await {
                    Ok(Some(stat)) => version = stat.version,
                    Ok(None) => {}
                    Err(error) if error.is_unanswered() => {}
                    Err(error) => return Err(error),
                },
                Err(Error::NoNode) => {
                    tracing::warn!(logger = LOGGER, "{path} was deleted by somebody else, registering again");
                    (path, version) = register(client, &wanted).await?;
                    written = wanted;
                }
                Err(error) if error.is_unanswered() => tokio::time::sleep(Duration::from_millis(20)).await,
                Err(error) => return Err(error),
            }
            continue;
        }
        // The sender lives in the registration, whose end is a change too.
        if changes.changed().await.is_err() {
            return Ok(());
        }
    }
}

async fn register(client: &Client, document: &Document) -> Result<(String, i32), Error> {
    let prefix = document.prefix();
    let bytes = document.bytes();
    let deadline = tokio::time::Instant::now() + Duration::from_secs(10);
    // Upstream's registries watch all three.
    for kind in KINDS {
        repeated::create(client, &format!("{}/{kind}", paths::COMPONENTS), b"", deadline).await?;
    }
    loop {
        match client.create(&prefix, &bytes, Mode::EphemeralSequential).await {
            Ok((path, stat)) => {
                tracing::info!(logger = LOGGER, "Registered {path}");
                return Ok((path, stat.version));
            }
            // The answer is lost: whichever of our session's components says the same is the one.
            Err(error) if error.is_unanswered() && tokio::time::Instant::now() < deadline => {
                // The next server may not have heard of it yet.
                let (dir, name) = prefix.rsplit_once('/').unwrap_or_default();
                for child in list_synced(client, dir, deadline).await? {
                    if !child.starts_with(name) {
                        continue;
                    }
                    let path = format!("{dir}/{child}");
                    if let Ok((data, stat)) = repeat(deadline, || client.get(&path)).await
                        && stat.ephemeral_owner == client.id().0
                        && data == bytes
                    {
                        return Ok((path, stat.version));
                    }
                }
            }
            Err(error) => return Err(error),
        }
    }
}
