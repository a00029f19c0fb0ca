//! What is used and what remains of each quota and limit.
//!
//! Usage is what the records say, in every state, plus the launches that have no record yet, plus what this very
//! pass decides: so decisions of one pass never add up to more than there is (S3).
//!
//! A node that was made in another project or cluster than the settings lead to now takes nothing of this one's quota. In its
//! pool, and for its tenant, it counts as long as it is of use. Once it is to be deleted, which nobody can until the settings
//! lead there again, it does not: a pool whose nodes were all made there would stand still for a day.

use std::collections::BTreeMap;

use nodepool_common::{
    config::Pool,
    model::{LabelName, Node, NodeRequest, NodeState, ProviderName, Resources, TenantName},
};

use super::{PoolKey, Want, World};

/// Usage so far, by provider, pool and tenant.
pub struct Budget {
    providers: BTreeMap<ProviderName, Resources>,
    pools: BTreeMap<PoolKey, Resources>,
    tenants: BTreeMap<TenantName, Resources>,
}

/// Whether something fits.
#[derive(Debug, PartialEq)]
pub enum Fit {
    /// It does.
    Yes,
    /// It does not, because of these resources.
    No {
        /// For people.
        reason: String,
        /// The names of the resources that are short.
        short: Vec<String>,
        /// Whether it is the provider that is short of them.
        of_provider: bool,
    },
    /// Other users of the project take what it would need: that may come back.
    NotNow(String),
    /// Something has to be found out first.
    Unknown(Want),
    /// The cloud or the configuration makes it impossible to say.
    Broken(String),
}

impl Budget {
    /// What the records say is used.
    pub fn new(world: &World<'_>) -> Self {
        let mut budget = Self { providers: BTreeMap::new(), pools: BTreeMap::new(), tenants: BTreeMap::new() };
        for entry in world.records.nodes.values() {
            let Some(node) = entry.usable() else { continue };
            let is_elsewhere = world.is_elsewhere(node);
            if is_elsewhere && node.state == NodeState::Deleting {
                continue;
            }
            if let (Some(tenant), Some(resources)) = (&node.tenant_name, &node.resources)
                && world.config.tenant_limits.contains_key(tenant)
            {
                budget.tenants.entry(tenant.clone()).or_default().add(resources);
            }
            if let Some((key, resources)) = node_usage(world, node) {
                if !is_elsewhere {
                    budget.providers.entry(key.provider.clone()).or_default().add(&resources);
                }
                budget.pools.entry(key).or_default().add(&resources);
            }
        }
        for (_, key, label) in &world.holdings.starting {
            if let Ok(Ok(resources)) = label_resources(world, key, label) {
                budget.take(key, resources);
            }
        }
        budget.count_promises(world);
        budget
    }

    /// Counts what tenants were promised and have no node for yet; and for requests that are just being accepted,
    /// what their pools will need.
    fn count_promises(&mut self, world: &World<'_>) {
        let held = world.holdings.requests.iter().map(|(id, held)| (id, &held.pool));
        let mut promised = BTreeMap::new();
        for (id, key) in held.chain(&world.holdings.accepting) {
            let Some(request) = world.records.requests.get(id).and_then(|entry| entry.usable()) else { continue };
            let limited = request.tenant_name.as_ref().filter(|name| world.config.tenant_limits.contains_key(*name));
            if limited.is_some() || world.holdings.accepting.contains_key(id) {
                promised.insert(id, (key, limited, request.node_types.clone()));
            }
        }
        if promised.is_empty() {
            return;
        }
        for node in world.records.nodes.values().filter_map(|entry| entry.usable()) {
            if let Some((_, _, labels)) = node.allocated_to.as_ref().and_then(|id| promised.get_mut(id))
                && let Some(at) = labels.iter().position(|label| node.labels.contains(label))
            {
                labels.swap_remove(at);
            }
        }
        for (id, (key, tenant, labels)) in promised {
            if let Some(tenant) = tenant {
                self.take_for_tenant(world, key, tenant, &labels);
            }
            if world.holdings.accepting.contains_key(id) {
                for label in &labels {
                    if let Ok(Ok(resources)) = label_resources(world, key, label) {
                        self.take(key, resources);
                    }
                }
            }
        }
    }

    /// Counts a launch that was just decided.
    pub fn take(&mut self, key: &PoolKey, resources: &Resources) {
        self.providers.entry(key.provider.clone()).or_default().add(resources);
        self.pools.entry(key.clone()).or_default().add(resources);
    }

    /// Undoes [`Self::take`].
    pub fn give_back(&mut self, key: &PoolKey, resources: &Resources) {
        if let Some(used) = self.providers.get_mut(&key.provider) {
            *used = used.less(resources);
        }
        if let Some(used) = self.pools.get_mut(key) {
            *used = used.less(resources);
        }
    }

    /// Whether a request could ever be served by the pool, whatever else runs there (the check at acceptance).
    pub fn could_ever_fit(world: &World<'_>, key: &PoolKey, pool: &Pool, request: &NodeRequest) -> Fit {
        let mut need = Resources::new();
        for label in &request.node_types {
            match label_resources(world, key, label) {
                Ok(Ok(resources)) => need.add(resources),
                Ok(Err(error)) => return Fit::Broken(error.clone()),
                Err(want) => return Fit::Unknown(want),
            }
        }
        if !pool.ignore_provider_quota {
            let Some(quota) = world.provider(&key.provider).and_then(|p| p.quota.as_ref()) else {
                return Fit::Unknown(Want::Quota(key.provider.clone()));
            };
            let fits = quota.limits.fits(&need) && quota.ours.fits(&need);
            if !fits && !quota_is_fresh(world, key) {
                return Fit::Unknown(Want::Quota(key.provider.clone()));
            }
            if !quota.limits.fits(&need) {
                return no("the provider's quota", &quota.limits, &need, true);
            }
            if !quota.ours.fits(&need) {
                return Fit::NotNow(exceeds(
                    "what others of its project leave of the provider's quota",
                    &quota.ours,
                    &need,
                ));
            }
        }
        if pool.limits.fits(&need) { Fit::Yes } else { no("the pool's limits", &pool.limits, &need, false) }
    }

    /// Whether one more node of a label fits now.
    pub fn fits(&self, world: &World<'_>, key: &PoolKey, pool: &Pool, label: &LabelName) -> Fit {
        let need = match label_resources(world, key, label) {
            Ok(Ok(resources)) => resources,
            Ok(Err(error)) => return Fit::Broken(error.clone()),
            Err(want) => return Fit::Unknown(want),
        };
        let nothing = Resources::new();
        if !pool.ignore_provider_quota {
            let Some(quota) = world.provider(&key.provider).and_then(|p| p.quota.as_ref()) else {
                return Fit::Unknown(Want::Quota(key.provider.clone()));
            };
            let remaining = quota.ours.less(self.providers.get(&key.provider).unwrap_or(&nothing));
            if !remaining.fits(need) {
                return no("what remains of the provider's quota", &remaining, need, true);
            }
        }
        let remaining = pool.limits.less(self.pools.get(key).unwrap_or(&nothing));
        if remaining.fits(need) { Fit::Yes } else { no("what remains of the pool's limits", &remaining, need, false) }
    }

    /// Whether a tenant may have these nodes too; counts them if so. A tenant without limits may have anything.
    pub fn tenant_fits(&mut self, world: &World<'_>, key: &PoolKey, tenant: &TenantName, labels: &[LabelName]) -> Fit {
        let Some(limits) = world.config.tenant_limits.get(tenant) else { return Fit::Yes };
        let mut need = Resources::new();
        for label in labels {
            match label_resources(world, key, label) {
                Ok(Ok(resources)) => need.add(resources),
                // Labels that the pool does not know, or not yet, take nothing here: they are declined elsewhere.
                Ok(Err(_)) => {}
                Err(want) => return Fit::Unknown(want),
            }
        }
        let remaining = limits.less(self.tenants.entry(tenant.clone()).or_default());
        if remaining.fits(&need) {
            Fit::Yes
        } else {
            no("what remains of the tenant's limits", &remaining, &need, false)
        }
    }

    /// Counts what a tenant was just promised.
    pub fn take_for_tenant(&mut self, world: &World<'_>, key: &PoolKey, tenant: &TenantName, labels: &[LabelName]) {
        if world.config.tenant_limits.contains_key(tenant) {
            let used = self.tenants.entry(tenant.clone()).or_default();
            for label in labels {
                if let Ok(Ok(resources)) = label_resources(world, key, label) {
                    used.add(resources);
                }
            }
        }
    }
}

/// Whether a provider's quota is new enough to turn something away for good.
fn quota_is_fresh(world: &World<'_>, key: &PoolKey) -> bool {
    // Also where the clock was set back meanwhile.
    world.provider(&key.provider).is_some_and(|p| (world.now - p.quota_at).abs() <= world.timing.fresh_quota)
}

/// What a node of a label takes: known, known to be impossible, or to be asked for.
pub fn label_resources<'a>(
    world: &World<'a>,
    key: &PoolKey,
    label: &LabelName,
) -> Result<&'a Result<Resources, String>, Want> {
    world
        .provider(&key.provider)
        .and_then(|p| p.label_resources.get(&(key.pool.clone(), label.clone())))
        .ok_or_else(|| Want::LabelResources(key.provider.clone(), key.pool.clone(), label.clone()))
}

/// A node's share of its provider's usage, and of its pool's where that is in the configuration. What a node takes is
/// on its record, or follows from its first label; where neither helps it does not count (`nodepool 11.0.0:
/// driver/utils.py estimatedNodepoolQuotaUsed`, which leaves out every node of a removed pool).
fn node_usage(world: &World<'_>, node: &Node) -> Option<(PoolKey, Resources)> {
    let key = PoolKey { provider: node.provider.clone()?, pool: node.pool.clone()? };
    world.config.providers.get(&key.provider)?;
    if node.state == NodeState::Aborted && node.external_id.is_none() {
        return None;
    }
    let known_label = || {
        let (_, pool) = world.pool_config(&key)?;
        let label = node.labels.first().filter(|label| pool.labels.contains_key(*label))?;
        label_resources(world, &key, label).ok()?.as_ref().ok()
    };
    let resources = match (&node.resources, known_label()) {
        (Some(recorded), Some(need)) => recorded.clone().with_unrecorded_of(need),
        (Some(recorded), None) => recorded.clone(),
        (None, need) => need?.clone(),
    };
    Some((key, resources))
}

fn no(what: &str, remaining: &Resources, need: &Resources, of_provider: bool) -> Fit {
    let short = remaining.shortages(need).map(|(name, _, _)| name.to_owned()).collect();
    Fit::No { reason: exceeds(what, remaining, need), short, of_provider }
}

fn exceeds(what: &str, remaining: &Resources, need: &Resources) -> String {
    let amounts =
        remaining.shortages(need).map(|(name, wanted, there)| format!("{wanted} {name} needed, {there} there"));
    format!("exceeds {what}: {}", amounts.collect::<Vec<_>>().join(", "))
}
