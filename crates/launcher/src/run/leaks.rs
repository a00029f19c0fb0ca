//! Resources of ours without a record: found by their metadata, removed when two searches in a row saw them.
//!
//! Two, because a search and the records are not of the same moment (`nodepool 11.0.0: driver/statemachine.py
//! cleanupLeakedResources`). Each provider searches by itself: a hung cloud delays nobody else's.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use nodepool_common::model::{BuildId, ProviderName, Records, UploadId};
use nodepool_drivers::{CloudResource, ProviderError};
use tokio::time::MissedTickBehavior;
use tracing::{info, warn};

use super::{
    Launcher,
    clouds::{Cloud, is_node_of},
};

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
        let resources = cloud.provider.list_resources().await?;
        let leaked: Vec<_> = self
            .zk
            .cache()
            .read(|records| resources.into_iter().filter(|resource| is_leaked(records, name, resource)).collect());
        let mut seen = BTreeSet::new();
        let mut counts: BTreeMap<&'static str, usize> = BTreeMap::new();
        for resource in leaked {
            if suspects.contains(&resource.id) {
                let kind = resource.kind.plural();
                warn!(
                    logger = LOGGER,
                    "Deleting leaked resource of provider {name}: {} of {kind}, without a record of node {}",
                    resource.id,
                    resource.tag("nodepool_node_id").unwrap_or("?")
                );
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

/// Whether a resource carries our provider's name and no record knows it.
fn is_leaked(records: &Records, provider: &ProviderName, resource: &CloudResource) -> bool {
    if resource.tag("nodepool_provider_name") != Some(provider.as_str()) {
        return false;
    }
    if resource.tag("nodepool_node_id").is_some() {
        return !is_node_of(records, provider, resource);
    }
    match (resource.tag("nodepool_build_id"), resource.tag("nodepool_upload_id")) {
        (Some(build), Some(upload)) => {
            let (build, upload) = (BuildId::from(build), UploadId::from(upload));
            !records.uploads.keys().any(|k| k.provider == *provider && k.build == build && k.id == upload)
        }
        _ => false,
    }
}
