//! A reload of a file in which something has become unusable.
//!
//! The rest of the file counts; what is broken stays as it runs: a provider whole, a pool as its provider had it, a label as its
//! pool had it, provided that its provider still has what the label stands on, and a diskimage that is paused for the file of our
//! own keys. The labels of a static provider are those of its hosts, each of which
//! has nodes with all of them: there, and where a host is broken that runs, the provider stays whole, too. Only what has never
//! run is left out.

use std::sync::Arc;

use indexmap::IndexMap;

use super::{
    BrokenPart, Config, Driver, LabelImage, Loaded, Metastatic, MetastaticLabel, OpenStack, OpenStackLabel,
    OpenStackPool, Part, Pool, Provider,
};
use crate::model::{LabelName, PoolName};

impl Loaded {
    /// The configuration of a reload, with what is broken as it runs.
    pub fn keeping_broken(&self, running: &Config) -> Arc<Config> {
        let mut config = Arc::clone(&self.config);
        for image in self.broken_extensions.iter().flat_map(|broken| broken.instead.paused()) {
            if let Some(before) = running.diskimages.get(image)
                && config.diskimages.contains_key(image)
            {
                Arc::make_mut(&mut config).diskimages.insert(image.clone(), Arc::clone(before));
            }
        }
        for broken in &self.broken_providers {
            if let Some(provider) = running.providers.get(&broken.name) {
                Arc::make_mut(&mut config).providers.insert(broken.name.clone(), Arc::clone(provider));
            }
        }
        for BrokenPart { provider, pool, part, .. } in &self.broken_parts {
            if let Some(before) = running.providers.get(provider)
                && let Some(provider) = Arc::make_mut(&mut config).providers.get_mut(provider)
            {
                match part {
                    Part::Pool => keep_pool(provider, pool, before),
                    Part::Label(label) => keep_label(provider, pool, label, before),
                    Part::Host(host) => keep_host(provider, pool, host, before),
                }
            }
        }
        config
    }
}

/// A static provider whose host runs is given back whole.
fn keep_host(provider: &mut Arc<Provider>, pool: &PoolName, host: &str, before: &Arc<Provider>) {
    let mut running = before.pool(pool).and_then(|pool| pool.hosts.as_ref()).into_iter().flatten();
    if running.any(|running| running.id.name == host) {
        *provider = Arc::clone(before);
    }
}

/// Gives a provider the pool that it had before, with those of its labels that can still be used; a static one is given back
/// whole.
fn keep_pool(provider: &mut Arc<Provider>, name: &PoolName, before: &Arc<Provider>) {
    let Some(kept) = before.pool(name) else { return };
    if matches!((&provider.driver, &before.driver), (Driver::Static, Driver::Static)) {
        *provider = Arc::clone(before);
        return;
    }
    let now = Arc::make_mut(provider);
    let is_of_the_driver = match (&mut now.driver, &before.driver) {
        (Driver::OpenStack(now), Driver::OpenStack(before)) | (Driver::Fake(now), Driver::Fake(before)) => {
            now.pools.get_mut(name).zip(before.pools.get(name)).is_some_and(|(now, before)| {
                *now = OpenStackPool { labels: IndexMap::new(), ..before.clone() };
                true
            })
        }
        (Driver::Kubernetes(now), Driver::Kubernetes(before)) => now.kind == before.kind,
        (Driver::Metastatic(_), Driver::Metastatic(_)) => true,
        _ => false,
    };
    let Some(pool) = now.pools.iter_mut().find(|pool| pool.name == *name).filter(|_| is_of_the_driver) else { return };
    let why = std::mem::take(&mut pool.broken_labels);
    *pool = Pool { labels: IndexMap::new(), broken_labels: why, ..kept.clone() };
    for label in kept.labels.keys() {
        keep_label(provider, name, label, before);
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
