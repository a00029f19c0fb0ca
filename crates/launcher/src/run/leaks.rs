//! Resources of ours without a record: found by their metadata, removed when two searches in a row saw them.
//!
//! Two, because a search and the records are not of the same moment (`nodepool 11.0.0: driver/statemachine.py
//! cleanupLeakedResources`). Each provider searches by itself: a hung cloud delays nobody else's.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use nodepool_common::model::Records;
use nodepool_drivers::{ProviderError, leaks::leaked};
use tokio::time::MissedTickBehavior;
use tracing::{info, warn};

use super::{Launcher, clouds::Cloud};

const LOGGER: &str = "nodepool.CleanupWorker";

impl Launcher {
    /// Searches one cloud, for as long as its provider is in the configuration.
    pub(super) async fn look_for_leaks(&self, cloud: &Arc<Cloud>) {
        let mut suspects = BTreeSet::new();
        let mut ticks = tokio::time::interval(self.options.cleanup_interval);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            // Without trustworthy records everything would look leaked.
            self.zk.cache().until_ready().await;
            if let Err(error) = self.search(cloud, &mut suspects).await {
                warn!(logger = LOGGER, "Cannot look for leaked resources: {error}");
            }
        }
    }

    async fn search(&self, cloud: &Cloud, suspects: &mut BTreeSet<String>) -> Result<(), ProviderError> {
        let name = &cloud.config.name;
        let resources = cloud.provider.list_tagged().await?;
        self.clouds.answered(name);
        let with_reason = |records: &Records| {
            let why = resources.into_iter().map(|resource| (leaked(records, name, &resource), resource));
            why.filter_map(|(why, resource)| Some((why?, resource))).collect::<Vec<_>>()
        };
        let leaked = self.zk.cache().read(with_reason);
        let mut seen = BTreeSet::new();
        let mut counts: BTreeMap<&'static str, usize> = BTreeMap::new();
        for (why, resource) in leaked {
            if suspects.contains(&resource.id) {
                let kind = resource.kind.plural();
                warn!(logger = LOGGER, "Deleting leaked resource of provider {name}: {} of {kind}: {why}", resource.id);
                match cloud.provider.delete_resource(&resource).await {
                    Ok(()) => *counts.entry(kind).or_default() += 1,
                    Err(error) => {
                        warn!(logger = LOGGER, "Leaked resource {} stays for now: {error}", resource.id);
                        seen.insert(resource.id);
                    }
                }
            } else {
                seen.insert(resource.id);
            }
        }
        *suspects = seen;
        for removed in cloud.provider.clean_up().await? {
            info!(logger = LOGGER, "Removed leaked {} {} of provider {name}", removed.kind.plural(), removed.id);
            *counts.entry(removed.kind.plural()).or_default() += 1;
        }
        for (kind, count) in counts {
            self.stats.leaked(name, kind, count);
        }
        Ok(())
    }
}
