//! A reload of a file in which something has become unusable.
//!
//! The rest of the file counts; what is broken stays as it runs: a provider whole, a label as its pool had it, provided
//! that its pool still has what the label stands on. The labels of a static provider are those of its hosts, each of which
//! has nodes with all of them: there, and where a host is broken that runs, the provider stays whole, too. Only what has never
//! run is left out.

use std::sync::Arc;

use super::{Config, Driver, LabelImage, Loaded, Metastatic, MetastaticLabel, OpenStack, OpenStackLabel, Provider};
use crate::model::{LabelName, PoolName};

impl Loaded {
    /// The configuration of a reload, with what is broken as it runs.
    pub fn keeping_broken(&self, running: &Config) -> Arc<Config> {
        let mut config = Arc::clone(&self.config);
        for broken in &self.broken_providers {
            if let Some(provider) = running.providers.get(&broken.name) {
                Arc::make_mut(&mut config).providers.insert(broken.name.clone(), Arc::clone(provider));
            }
        }
        for broken in &self.broken_labels {
            if let Some(before) = running.providers.get(&broken.provider)
                && let Some(provider) = Arc::make_mut(&mut config).providers.get_mut(&broken.provider)
            {
                keep_label(provider, &broken.pool, &broken.label, before);
            }
        }
        for broken in &self.broken_hosts {
            let runs = |before: &&Arc<Provider>| {
                let hosts = before.pool(&broken.pool).and_then(|pool| pool.hosts.as_ref());
                hosts.is_some_and(|hosts| hosts.iter().any(|host| host.id.name == broken.host))
            };
            if let Some(before) = running.providers.get(&broken.provider).filter(runs)
                && let Some(provider) = Arc::make_mut(&mut config).providers.get_mut(&broken.provider)
            {
                *provider = Arc::clone(before);
            }
        }
        config
    }
}

/// Gives a pool the label that it had before, if that can still be used; a static provider is given back whole.
fn keep_label(provider: &mut Arc<Provider>, pool: &PoolName, label: &LabelName, before: &Arc<Provider>) {
    let Some(kept) = before.pool(pool).and_then(|pool| pool.labels.get(label)) else { return };
    if matches!((&provider.driver, &before.driver), (Driver::Static, Driver::Static)) {
        *provider = Arc::clone(before);
        return;
    }
    let provider = Arc::make_mut(provider);
    let is_kept = match (&mut provider.driver, &before.driver) {
        (Driver::OpenStack(now), Driver::OpenStack(before)) | (Driver::Fake(now), Driver::Fake(before)) => {
            openstack(now, pool, before.pools.get(pool).and_then(|pool| pool.labels.get(label)))
        }
        (Driver::Kubernetes(now), Driver::Kubernetes(before)) if now.kind == before.kind => {
            let of_before = before.pools.get(pool).and_then(|labels| labels.get(label));
            now.pools.get_mut(pool).zip(of_before).is_some_and(|(labels, kept)| {
                labels.insert(label.clone(), kept.clone());
                true
            })
        }
        (Driver::Metastatic(now), Driver::Metastatic(before)) => metastatic(now, pool, before.label(pool, label)),
        _ => false,
    };
    if is_kept && let Some(pool) = provider.pools.iter_mut().find(|other| other.name == *pool) {
        pool.broken_labels.shift_remove(label);
        pool.labels.insert(label.clone(), kept.clone());
    }
}

fn openstack(now: &mut OpenStack, pool: &PoolName, kept: Option<&OpenStackLabel>) -> bool {
    let Some((pool, kept)) = now.pools.get_mut(pool).zip(kept) else { return false };
    let has_image = match &kept.image {
        LabelImage::Diskimage(image) => now.diskimages.contains_key(image),
        LabelImage::CloudImage(image) => now.cloud_images.contains_key(image),
    };
    if has_image {
        pool.labels.insert(kept.name.clone(), kept.clone());
    }
    has_image
}

fn metastatic(now: &mut Metastatic, pool: &PoolName, kept: Option<&MetastaticLabel>) -> bool {
    let Some(kept) = kept else { return false };
    let mut others = now.pools.values().flat_map(|labels| labels.values());
    let agrees = others.all(|other| other.backing_label != kept.backing_label || other.has_backing_of(kept));
    let Some(labels) = now.pools.get_mut(pool).filter(|_| agrees) else { return false };
    labels.insert(kept.name.clone(), kept.clone());
    true
}
