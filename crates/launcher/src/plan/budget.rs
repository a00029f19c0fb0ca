//! What is used and what remains of each quota and limit.
//!
//! Usage is what the records say, in every state, plus the launches that have no record yet, plus what this very
//! pass decides: so decisions of one pass never add up to more than there is.
//!
//! A node that was made in another project or cluster than the settings lead to now takes nothing of this one's quota. In its
//! pool, and for its tenant, it counts as long as it is of use. Once it is to be deleted, which nobody can until the settings
//! lead there again, it does not: a pool whose nodes were all made there would stand still for a day.

use std::{collections::BTreeMap, sync::Arc};

use nodepool_common::{
    config::Pool,
    model::{LabelName, NodeRequest, ProviderName, Resources, TenantName, guard},
};

use super::{
    Bound, BrokenLabel, Excess, PoolKey, Short, Want, World,
    index::{Nodes, Sum},
    usage::label_resources,
};

/// Usage so far, by provider, pool and tenant: what the index says, plus what this pass has decided.
pub struct Budget<'a> {
    nodes: &'a Nodes,
    nothing: Arc<Resources>,
    /// Those that this pass has changed.
    providers: BTreeMap<ProviderName, Arc<Resources>>,
    /// The same.
    pools: BTreeMap<PoolKey, Arc<Resources>>,
    tenants: BTreeMap<TenantName, Resources>,
    has_promised_tenants: bool,
}

/// What is used of a pool's provider, and in the pool.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Used {
    /// Of the quota of its provider.
    pub of_provider: Arc<Resources>,
    /// Of its own limits.
    pub of_pool: Arc<Resources>,
}

impl Used {
    /// Whether of nothing less is used than then.
    pub fn is_no_less_than(&self, then: &Self) -> bool {
        let no_less = |now: &Arc<Resources>, then: &Arc<Resources>| {
            Arc::ptr_eq(now, then) || then.iter().all(|(name, amount)| now.amount(name) >= amount)
        };
        no_less(&self.of_provider, &then.of_provider) && no_less(&self.of_pool, &then.of_pool)
    }
}

/// Whether something fits.
#[derive(Debug, PartialEq)]
pub enum Fit {
    /// It does.
    Yes,
    /// It does not, because of these resources.
    No(Excess),
    /// Other users of the project take what it would need: that may come back.
    NotNow(Excess),
    /// Something has to be found out first.
    Unknown(Want),
    /// The cloud or the configuration makes it impossible to say.
    Broken(BrokenLabel),
}

impl<'a> Budget<'a> {
    /// What is used at the beginning of a pass.
    pub fn new(world: &World<'_>, nodes: &'a Nodes) -> Self {
        let mut budget = Self {
            nodes,
            nothing: Arc::default(),
            providers: BTreeMap::new(),
            pools: BTreeMap::new(),
            tenants: BTreeMap::new(),
            has_promised_tenants: false,
        };
        for (_, key, label) in world.holdings.starting.iter() {
            if let Ok(Ok(resources)) = label_resources(world, key, label) {
                budget.take(key, resources);
            }
        }
        budget.count_promises(world);
        budget.has_promised_tenants = false;
        budget
    }

    /// What the tenants use that were promised something before this pass; a number that changes with what others do.
    pub fn tenants(&self) -> (u64, &BTreeMap<TenantName, Resources>) {
        (self.nodes.tenants_version, &self.tenants)
    }

    /// Whether this pass has promised a tenant with limits anything.
    pub fn has_promised_tenants(&self) -> bool {
        self.has_promised_tenants
    }

    /// What is used of a pool's provider, and in the pool.
    pub fn used(&self, key: &PoolKey) -> Used {
        Used { of_provider: Arc::clone(self.of_provider(&key.provider)), of_pool: Arc::clone(self.of_pool(key)) }
    }

    /// Counts what tenants were promised and have no node for yet; and for requests that are just being accepted,
    /// what their pools will need.
    fn count_promises(&mut self, world: &World<'_>) {
        let limits = &world.config.tenant_limits;
        // Without limits of tenants only those that are just being accepted matter: they are few.
        let held = world.holdings.requests.iter().filter(|_| !limits.is_empty()).map(|(id, held)| (id, &held.pool));
        let promised: BTreeMap<_, _> = held.chain(&world.holdings.accepting).collect();
        for (id, key) in promised {
            let Some(request) = world.records.requests.get(id).and_then(|entry| entry.usable()) else { continue };
            let tenant = request.tenant_name.as_ref().filter(|name| limits.contains_key(*name));
            let is_being_accepted = world.holdings.accepting.contains_key(id);
            if tenant.is_none() && !is_being_accepted {
                continue;
            }
            let mut labels = request.node_types.clone();
            for node in self.nodes.allocated_to(id).filter_map(|node| world.records.nodes.get(node)?.usable()) {
                if let Some(at) = labels.iter().position(|label| node.labels.contains(label)) {
                    labels.swap_remove(at);
                }
            }
            if let Some(tenant) = tenant {
                self.take_for_tenant(world, key, tenant, &labels);
            }
            if is_being_accepted {
                for label in &labels {
                    if let Ok(Ok(resources)) = label_resources(world, key, label) {
                        self.take(key, resources);
                    }
                }
            }
        }
    }

    fn of_provider(&self, provider: &ProviderName) -> &Arc<Resources> {
        let known = || self.nodes.of_providers.get(provider).map(Sum::total);
        self.providers.get(provider).or_else(known).unwrap_or(&self.nothing)
    }

    fn of_pool(&self, key: &PoolKey) -> &Arc<Resources> {
        let known = || self.nodes.of_pools.get(key).map(Sum::total);
        self.pools.get(key).or_else(known).unwrap_or(&self.nothing)
    }

    /// Changes what is used of a pool's provider, and in the pool.
    fn change(&mut self, key: &PoolKey, change: impl Fn(&mut Resources)) {
        let Used { of_provider, of_pool } = self.used(key);
        change(Arc::make_mut(self.providers.entry(key.provider.clone()).or_insert(of_provider)));
        change(Arc::make_mut(self.pools.entry(key.clone()).or_insert(of_pool)));
    }

    fn of_tenant(&mut self, tenant: &TenantName) -> &mut Resources {
        let known = || self.nodes.of_tenants.get(tenant).map(|sum| (**sum.total()).clone()).unwrap_or_default();
        self.tenants.entry(tenant.clone()).or_insert_with(known)
    }

    /// Counts a launch that was just decided.
    pub fn take(&mut self, key: &PoolKey, resources: &Resources) {
        if !guard::is_removed("room set aside in a pass") {
            self.change(key, |used| used.add(resources));
        }
    }

    /// Undoes [`Self::take`].
    pub fn give_back(&mut self, key: &PoolKey, resources: &Resources) {
        self.change(key, |used| *used = used.less(resources));
    }

    /// Whether a request could ever be served by the pool, whatever else runs there (the check at acceptance).
    pub fn could_ever_fit(world: &World<'_>, key: &PoolKey, pool: &Pool, request: &NodeRequest) -> Fit {
        let mut need = Resources::new();
        for label in &request.node_types {
            match label_resources(world, key, label) {
                Ok(Ok(resources)) => need.add(resources),
                Ok(Err(error)) => return Fit::Broken(BrokenLabel { label: label.clone(), why: error.clone() }),
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
            if !quota.limits.fits(&need) || guard::is_removed("decline only for what is true") {
                return Fit::No(excess(Bound::ProviderQuota, &quota.limits, &need));
            }
            if !quota.ours.fits(&need) {
                return Fit::NotNow(excess(Bound::ProviderQuotaLessOthers, &quota.ours, &need));
            }
        }
        if pool.limits.fits(&need) || guard::is_removed("decline of what never fits") {
            Fit::Yes
        } else {
            Fit::No(excess(Bound::PoolLimits, &pool.limits, &need))
        }
    }

    /// Whether one more node of a label fits now.
    pub fn fits(&self, world: &World<'_>, key: &PoolKey, pool: &Pool, label: &LabelName) -> Fit {
        let need = match label_resources(world, key, label) {
            Ok(Ok(resources)) => resources,
            Ok(Err(error)) => return Fit::Broken(BrokenLabel { label: label.clone(), why: error.clone() }),
            Err(want) => return Fit::Unknown(want),
        };
        if !pool.ignore_provider_quota {
            let Some(quota) = world.provider(&key.provider).and_then(|p| p.quota.as_ref()) else {
                return Fit::Unknown(Want::Quota(key.provider.clone()));
            };
            let remaining = quota.ours.less(self.of_provider(&key.provider));
            if !remaining.fits(need) && !guard::is_removed("quota of a provider") {
                return Fit::No(excess(Bound::ProviderRest, &remaining, need));
            }
        }
        let remaining = pool.limits.less(self.of_pool(key));
        if remaining.fits(need) || guard::is_removed("limit of a pool") {
            Fit::Yes
        } else {
            Fit::No(excess(Bound::PoolRest, &remaining, need))
        }
    }

    /// What these nodes would take more than a tenant may have; `None`: nothing. A tenant without limits may have anything.
    pub fn beyond_tenant(
        &mut self,
        world: &World<'_>,
        key: &PoolKey,
        tenant: &TenantName,
        labels: &[LabelName],
    ) -> Result<Option<Excess>, Want> {
        let Some(limits) = world.config.tenant_limits.get(tenant) else { return Ok(None) };
        let mut need = Resources::new();
        for label in labels {
            match label_resources(world, key, label) {
                Ok(Ok(resources)) => need.add(resources),
                // Labels that the pool does not know, or not yet, take nothing here: they are declined elsewhere.
                Ok(Err(_)) => {}
                Err(want) => return Err(want),
            }
        }
        let remaining = limits.less(self.of_tenant(tenant));
        Ok((!remaining.fits(&need)).then(|| excess(Bound::TenantRest, &remaining, &need)))
    }

    /// Counts what a tenant was just promised.
    pub fn take_for_tenant(&mut self, world: &World<'_>, key: &PoolKey, tenant: &TenantName, labels: &[LabelName]) {
        if world.config.tenant_limits.contains_key(tenant) {
            self.has_promised_tenants = true;
            let used = self.of_tenant(tenant);
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

fn excess(bound: Bound, remaining: &Resources, need: &Resources) -> Excess {
    let short = remaining.shortages(need);
    let short = short.map(|(name, needed, there)| Short { resource: name.to_owned(), needed, there });
    Excess { bound, short: short.collect() }
}
