//! SSH host keys of new nodes, so that Zuul's executors connect to the right machine.
//!
//! A node is ready when its address answers (`nodepool 11.0.0: driver/statemachine.py NodescanRequest`):
//!
//! 1. The address is resolved, once; its first result counts.
//! 2. A TCP connection is tried until somebody answers: a booting machine refuses, or does not answer at all.
//! 3. Where people will connect by SSH, a key exchange tells a host key (`keyscan`). Nobody logs in. If it fails, the
//!    server is not up yet: back to 2. Then every other key type that it offers is asked for on a connection of its own,
//!    a few at once, since a server shows one key per connection.
//!
//! The budget of it all is the provider's `boot-timeout`; upstream's counts the time in the queue too, ours begins
//! with the scan. A name that cannot be resolved is tried again, where upstream gives the launch up.

mod attempt;
mod greeting;
mod keyscan;

use std::{fmt, net::SocketAddr, sync::Arc, time::Duration};

use tokio::{
    net::lookup_host,
    sync::Semaphore,
    time::{Instant, sleep, timeout},
};

use self::attempt::{Attempts, Progress, connect};

/// Scans at the same time in one provider; others wait (`nodepool 11.0.0: NodescanWorker.MAX_REQUESTS`).
pub const MAX_REQUESTS: usize = 100;
/// Connections for further key types at the same time in one provider: a key exchange costs processor time, and one
/// that comes too slowly would cost a node one of its keys.
const MAX_EXCHANGES: usize = 32;
const FIRST_PAUSE: Duration = Duration::from_millis(300);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// What to scan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// The node's `interface_ip`, or its host name.
    pub address: String,
    /// Its `connection_port`.
    pub port: u16,
    /// Its `connection_type`: only `ssh` and `network_cli` have host keys.
    pub connection_type: String,
    /// The label's `host-key-checking`; without it nothing is scanned at all.
    pub host_key_checking: bool,
}

impl Target {
    /// Whether it speaks SSH.
    pub fn has_host_keys(&self) -> bool {
        matches!(self.connection_type.as_str(), "ssh" | "network_cli")
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} port {}", self.address, self.port)
    }
}

/// Why there are no host keys.
#[derive(Debug, thiserror::Error)]
pub enum ScanError {
    /// The node did not answer within `boot-timeout`: `error.keyscan`.
    #[error(
        "scanning {target} for host keys: not reachable within {}s (boot-timeout) in {attempts} attempts, \
         the last one: {last}",
        budget.as_secs_f64()
    )]
    Timeout {
        /// What was scanned.
        target: Target,
        /// The provider's `boot-timeout`.
        budget: Duration,
        /// How often it was tried.
        attempts: u32,
        /// Why the last attempt failed.
        last: String,
    },
}

impl ScanError {
    /// What the last attempt said, without the story around it.
    pub fn last_reason(&self) -> String {
        let Self::Timeout { budget, last, .. } = self;
        format!("{last} (within {} s)", budget.as_secs_f64())
    }
}

/// The scans of one provider. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Nodescan {
    permits: Arc<Semaphore>,
    exchanges: Arc<Semaphore>,
}

impl Default for Nodescan {
    fn default() -> Self {
        Self::new()
    }
}

impl Nodescan {
    /// One that scans [`MAX_REQUESTS`] nodes at once.
    pub fn new() -> Self {
        Self::with_limit(MAX_REQUESTS)
    }

    /// One with another limit; at least one.
    pub fn with_limit(limit: usize) -> Self {
        Self { permits: Arc::new(Semaphore::new(limit.max(1))), exchanges: Arc::new(Semaphore::new(MAX_EXCHANGES)) }
    }

    /// Waits until the node can be reached and returns its host keys, each `"<type> <base64>"`, in the order in which
    /// SSH clients prefer them. A server without a key that we know gives an empty list, which is no error. Dropping
    /// the future ends the scan.
    pub async fn scan(&self, target: &Target, boot_timeout: Duration) -> Result<Vec<String>, ScanError> {
        if !target.host_key_checking {
            return Ok(Vec::new());
        }
        self.ask(target, &[], boot_timeout).await
    }

    /// The keys that the server shows of the types of those that are known, with one connection for each: some of them are
    /// missing where it has others. Keys of a type that we do not know are looked for as by [`Self::scan`].
    pub async fn confirm(
        &self,
        target: &Target,
        known: &[String],
        boot_timeout: Duration,
    ) -> Result<Vec<String>, ScanError> {
        self.ask(target, known, boot_timeout).await
    }

    async fn ask(&self, target: &Target, known: &[String], boot_timeout: Duration) -> Result<Vec<String>, ScanError> {
        // The semaphore is never closed; without it a scan would merely not be queued.
        let _permit = self.permits.acquire().await.ok();
        let progress = Progress::default();
        let started = Instant::now();
        let result = timeout(boot_timeout, scan(target, known, &self.exchanges, &progress)).await;
        let Attempts { number, last } = progress.take();
        match result {
            Ok(keys) => {
                tracing::debug!(
                    logger = "nodepool.Nodescan",
                    keys = keys.len(),
                    attempts = number,
                    seconds = started.elapsed().as_secs_f64(),
                    "Scanned {target}"
                );
                Ok(keys)
            }
            Err(_) => Err(ScanError::Timeout { target: target.clone(), budget: boot_timeout, attempts: number, last }),
        }
    }
}

/// The story without its deadline.
async fn scan(target: &Target, known: &[String], exchanges: &Semaphore, progress: &Progress) -> Vec<String> {
    let mut pause = FIRST_PAUSE;
    let mut address = None;
    loop {
        match attempt(target, known, &mut address, exchanges, progress).await {
            Ok(keys) => return keys,
            Err(why) => {
                tracing::trace!(logger = "nodepool.Nodescan", "{target}: {why}");
                progress.is(why);
            }
        }
        sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// One attempt; the error is its reason, for people.
async fn attempt(
    target: &Target,
    known: &[String],
    address: &mut Option<SocketAddr>,
    exchanges: &Semaphore,
    progress: &Progress,
) -> Result<Vec<String>, String> {
    progress.begin();
    let address = match *address {
        Some(address) => address,
        None => *address.insert(resolve(target).await?),
    };
    if !target.has_host_keys() {
        connect(address).await?;
        return Ok(Vec::new());
    }
    if !known.is_empty()
        && let Some(keys) = keyscan::confirm(address, known, progress).await?
    {
        return Ok(keys);
    }
    keyscan::scan(address, exchanges, progress).await
}

async fn resolve(target: &Target) -> Result<SocketAddr, String> {
    match lookup_host((target.address.as_str(), target.port)).await {
        Ok(mut found) => found.next().ok_or_else(|| "its name has no address".to_owned()),
        Err(error) => Err(format!("its name cannot be resolved: {error}")),
    }
}

#[cfg(test)]
mod tests;
