//! Resources of ours without a record: found by their metadata, removed when two searches in a row saw them.
//!
//! Two, because a search and the records are not of the same moment (`nodepool 11.0.0: driver/statemachine.py
//! cleanupLeakedResources`). Each provider searches by itself: a hung cloud delays nobody else's. A cloud may go on listing
//! what it has deleted, even what it answers 404 for: that is asked for again in each search, but warned about and
//! counted once.

use std::{collections::BTreeMap, sync::Arc};

use nodepool_common::model::Records;
use nodepool_drivers::{ProviderError, leaks::leaked};
use tokio::time::MissedTickBehavior;
use tracing::{debug, info, warn};

use super::{Launcher, clouds::Cloud};

const LOGGER: &str = "nodepool.CleanupWorker";

/// What has leaked, as long as each search finds it.
#[derive(Debug, Default)]
struct Suspects {
    /// By id, with whether the cloud has accepted its deletion: as of the last search, and of this one.
    before: BTreeMap<String, bool>,
    now: BTreeMap<String, bool>,
}

/// What is known of a leaked resource that a search has found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Suspicion {
    New,
    Confirmed,
    /// The cloud has accepted its deletion before.
    Deleted,
}

impl Suspects {
    fn found(&mut self, id: &str) -> Suspicion {
        let before = self.before.get(id).copied();
        self.now.insert(id.to_owned(), before == Some(true));
        match before {
            None => Suspicion::New,
            Some(false) => Suspicion::Confirmed,
            Some(true) => Suspicion::Deleted,
        }
    }

    fn deleted(&mut self, id: &str) {
        self.now.insert(id.to_owned(), true);
    }

    /// Forgets what this search has not found.
    fn end(&mut self) {
        self.before = std::mem::take(&mut self.now);
    }
}

impl Launcher {
    /// Searches one cloud, for as long as its provider is in the configuration.
    pub(super) async fn look_for_leaks(&self, cloud: &Arc<Cloud>) {
        let mut suspects = Suspects::default();
        let mut ticks = tokio::time::interval(self.options.cleanup_interval);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            // Without trustworthy records everything would look leaked.
            self.zk.cache().until_ready().await;
            if let Err(error) = self.search(cloud, &mut suspects).await {
                warn!(logger = LOGGER, "Cannot look for leaked resources: {error}");
            }
            // What was listed may lack the servers of ready nodes.
            self.wake.notify_one();
        }
    }

    async fn search(&self, cloud: &Cloud, suspects: &mut Suspects) -> Result<(), ProviderError> {
        let name = &cloud.config.name;
        let resources = cloud.provider.list_tagged().await?;
        self.clouds.answered(name);
        let with_reason = |records: &Records| {
            let why = resources.into_iter().map(|resource| (leaked(records, name, &resource), resource));
            why.filter_map(|(why, resource)| Some((why?, resource))).collect::<Vec<_>>()
        };
        let leaked = self.zk.cache().read(with_reason);
        let mut counts: BTreeMap<&'static str, usize> = BTreeMap::new();
        for (why, resource) in leaked {
            let suspicion = suspects.found(&resource.id);
            let kind = resource.kind.plural();
            match suspicion {
                Suspicion::New => continue,
                Suspicion::Confirmed => warn!(
                    logger = LOGGER,
                    "Deleting leaked resource of provider {name}: {} of {kind}: {why}", resource.id
                ),
                Suspicion::Deleted => debug!(
                    logger = LOGGER,
                    "Deleting {} of {kind} again: provider {name} goes on listing it", resource.id
                ),
            }
            match cloud.provider.delete_resource(&resource).await {
                Ok(()) => {
                    suspects.deleted(&resource.id);
                    *counts.entry(kind).or_default() += usize::from(suspicion == Suspicion::Confirmed);
                }
                Err(error) => warn!(logger = LOGGER, "Leaked resource {} stays for now: {error}", resource.id),
            }
        }
        suspects.end();
        for removed in cloud.provider.clean_up().await? {
            info!(logger = LOGGER, "Removed leaked {} {} of provider {name}", removed.kind.plural(), removed.id);
            *counts.entry(removed.kind.plural()).or_default() += 1;
        }
        for (kind, count) in counts.into_iter().filter(|(_, count)| *count > 0) {
            self.stats.leaked(name, kind, count);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_listed_although_it_was_deleted_is_warned_about_and_counted_once() {
        let mut suspects = Suspects::default();
        let mut search = |accepted: bool| {
            let suspicion = suspects.found("server");
            if accepted {
                suspects.deleted("server");
            }
            suspects.end();
            suspicion
        };
        let searches = [false, false, true, true, false].map(&mut search);
        assert_eq!(
            searches,
            [
                Suspicion::New,
                Suspicion::Confirmed, // the cloud refused
                Suspicion::Confirmed,
                Suspicion::Deleted,
                Suspicion::Deleted
            ]
        );
        suspects.end();
        assert_eq!(suspects.found("server"), Suspicion::New, "a search did not find it");
    }
}
