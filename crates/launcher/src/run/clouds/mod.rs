//! The providers: their start, their replacement, and what is known of them.
//!
//! A provider starts in a task of its own and is retried with back-off, so that a cloud that is away stops nobody else
//! and heals by itself. Its pools take part from the beginning, so that the requests for their labels wait until the
//! cloud has answered, rather than fail because nobody else has them. Only a provider that turns out to be configured
//! wrongly takes no part, as upstream's; requests that fail for it are told why. Pools stay while a provider is replaced
//! after a change of the configuration.
//!
//! [`known`]: what is known of them. [`questions`]: what they are asked.

mod known;
mod questions;

use std::{panic::AssertUnwindSafe, sync::Arc, time::Duration};

use futures::FutureExt;
use nodepool_common::{
    config::{self, Config},
    daemon::Daemon,
    model::guard,
    sys::shutdown,
};
use nodepool_drivers::{ErrorClass, Provider};
use tokio_util::sync::CancellationToken;
use tracing::{error, info};

use self::known::Entry;
pub use self::known::{Clouds, Waited};
use super::{Launcher, leaks::Searched};
use crate::{nodescan::Nodescan, plan::Want};

const LOGGER: &str = "nodepool.ProviderManager";

/// Before a provider whose task has panicked is run again.
const AFTER_A_PANIC: Duration = Duration::from_secs(60);
/// Longest time for one question to a cloud.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(120);

/// A provider at work.
#[derive(Debug)]
pub struct Cloud {
    /// Its configuration.
    pub config: Arc<config::Provider>,
    /// Its driver.
    pub provider: Arc<dyn Provider>,
    /// Host-key scans, limited per provider.
    pub nodescan: Nodescan,
    /// Whether it was searched for leaks since the records were last read from the beginning.
    pub searched: Searched,
    /// Ends its tasks when it is replaced.
    stop: CancellationToken,
}

impl Cloud {
    fn new(config: Arc<config::Provider>, provider: Arc<dyn Provider>) -> Self {
        Self {
            config,
            provider,
            nodescan: Nodescan::default(),
            searched: Searched::default(),
            stop: CancellationToken::new(),
        }
    }
}

#[cfg(test)]
impl Clouds {
    /// A provider with a driver of a test's own, as if it had started.
    pub(super) fn add_started(&self, config: Arc<config::Provider>, driver: Arc<dyn Provider>) {
        let name = config.name.clone();
        let mut entry = Entry::new(Arc::new(Cloud::new(config, driver)), None);
        entry.started = true;
        self.open().insert(name, entry);
    }
}

impl Launcher {
    /// Brings the providers in line with the configuration: an unchanged one stays as it is.
    pub(super) fn apply_providers(self: &Arc<Self>, config: &Config) {
        let mut entries = self.clouds.open();
        entries.retain(|name, entry| {
            let stays = config.providers.contains_key(name);
            if !stays {
                info!(logger = LOGGER, "Provider {name} was removed from the configuration");
                entry.cloud.stop.cancel();
            }
            stays
        });
        for (name, provider) in &config.providers {
            let old = entries.get(name);
            if old.is_some_and(|entry| config::same_provider(&entry.cloud.config, provider)) {
                continue;
            }
            let made = match nodepool_drivers::make(provider, &self.context) {
                Ok(made) => made,
                Err(error) => {
                    error!(logger = LOGGER, "Provider {name} ({}) is left out: {error}", provider.place);
                    self.note_broken(name, &error.to_string());
                    continue;
                }
            };
            if let Some(old) = old {
                info!(logger = LOGGER, "Provider {name} changed in the configuration");
                old.cloud.stop.cancel();
            }
            let cloud = Arc::new(Cloud::new(Arc::clone(provider), made));
            let entry = Entry::new(Arc::clone(&cloud), old);
            entries.insert(name.clone(), entry);
            self.spawn(|this| async move {
                let stop = cloud.stop.clone();
                tokio::select! {
                    biased;
                    () = this.keep_running(cloud) => {}
                    () = stop.cancelled() => {}
                }
            });
        }
    }

    /// Runs a provider; again after a panic, which is its own trouble and nobody else's.
    async fn keep_running(self: Arc<Self>, cloud: Arc<Cloud>) {
        let name = &cloud.config.name;
        loop {
            let running = AssertUnwindSafe(Arc::clone(&self).run_cloud(Arc::clone(&cloud))).catch_unwind().await;
            if let Err(panic) = running {
                error!(logger = LOGGER, "What runs provider {name} panicked{}", shutdown::describe(&*panic));
            }
            tokio::time::sleep(AFTER_A_PANIC).await;
        }
    }

    /// Starts a provider, however long that takes, and looks for leaks from then on.
    async fn run_cloud(self: Arc<Self>, cloud: Arc<Cloud>) {
        let name = &cloud.config.name;
        let mut pause = Duration::from_secs(1);
        let mut said = String::new();
        loop {
            let (trouble, is_away) = match tokio::time::timeout(ANSWER_TIMEOUT, cloud.provider.start()).await {
                Ok(Ok(())) => break,
                Ok(Err(error)) => (error.to_string(), error.class != ErrorClass::Config),
                Err(_) => (format!("it did not start within {} s", ANSWER_TIMEOUT.as_secs()), true),
            };
            if said != trouble {
                error!(
                    logger = LOGGER,
                    "Provider {name} ({}) cannot start, the others go on; trying again: {trouble}", cloud.config.place
                );
                said.clone_from(&trouble);
            }
            if let Some(entry) = self.clouds.open().get_mut(name) {
                entry.set_trouble(Some(trouble), self.clock.now());
                entry.takes_part = is_away || entry.ever_started;
            }
            self.match_pools();
            self.wake.notify_one();
            if !guard::is_removed("pause before a cloud is started again") {
                tokio::time::sleep(pause).await;
            }
            pause = (pause * 2).min(Duration::from_secs(60));
        }
        if let Some(entry) = self.clouds.open().get_mut(name) {
            entry.started = true;
            entry.ever_started = true;
            entry.takes_part = true;
            entry.set_trouble(None, self.clock.now());
        }
        info!(logger = LOGGER, "Provider {name} started");
        self.match_pools();
        self.wake.notify_one();
        // At a start of the launcher requests wait: what takes longest is asked for while the records are still being read.
        if !self.clouds.knows_quota(name) {
            self.find_out(Want::Quota(name.clone()));
        }
        tokio::join!(self.look_for_leaks(&cloud), self.look_for_gone(&cloud));
    }
}
