//! What is measured at the moment at which somebody reads `/metrics`.
//!
//! How many requests wait for which reason, what the clouds allow and what is used of it are in the last [`Published`]. To count
//! them takes a look at each request that waits, so it is done for whoever asks, in the HTTP server's thread, and not after
//! each pass.

use std::collections::BTreeMap;

use nodepool_common::stats::Amounts;

use super::{Launcher, Published, view::code_of};

impl Launcher {
    /// `/metrics`: everything, in Prometheus' text format.
    pub fn metrics(&self) -> String {
        let published = self.published();
        let mut waiting = BTreeMap::new();
        for (pool, reason, count) in published.planned.count().into_iter().filter(|(_, _, count)| *count > 0) {
            *waiting.entry((pool.provider.clone(), pool.pool.clone(), code_of(reason))).or_default() += count;
        }
        self.stats.measured(&waiting, &self.amounts(&published));
        self.stats.render()
    }

    /// What there is of the clouds' resources, and what is used. Of what is unlimited there is no limit.
    fn amounts(&self, published: &Published) -> Amounts {
        let mut amounts = Amounts::default();
        for (provider, state) in self.clouds.known() {
            let Some(quota) = &state.quota else { continue };
            for (resource, limit) in quota.limits.iter() {
                let key = (provider.clone(), resource.to_owned());
                amounts.used_by_others.insert(key.clone(), limit - quota.ours.limit(resource));
                // Of what no node has taken yet there is no amount in use.
                amounts.used.insert(key.clone(), 0.0);
                amounts.quota.insert(key, limit);
            }
        }
        for in_use in published.planned.used.iter() {
            let (provider, pool) = (&in_use.pool.provider, &in_use.pool.pool);
            for (resource, used) in in_use.used.of_provider.iter() {
                amounts.used.insert((provider.clone(), resource.to_owned()), used);
            }
            let config = published.config.providers.get(provider).and_then(|config| config.pool(pool));
            for (resource, limit) in config.into_iter().flat_map(|config| config.limits.iter()) {
                let key = (provider.clone(), pool.clone(), resource.to_owned());
                amounts.used_in_pools.insert(key.clone(), 0.0);
                amounts.pool_limits.insert(key, limit);
            }
            for (resource, used) in in_use.used.of_pool.iter() {
                amounts.used_in_pools.insert((provider.clone(), pool.clone(), resource.to_owned()), used);
            }
        }
        amounts
    }
}
