//! [`Grounds`]: what all verdicts of a pool rest on.

use nodepool_common::model::{Resources, Timestamp};

use super::{
    PoolKey, ProjectQuota, ProviderState, World,
    budget::Budget,
    index::Nodes,
    taken::{Pressure, Taken},
};

/// What the grounds of all pools have in common.
#[derive(Clone, Copy, Debug, Default)]
pub struct Common {
    /// Version of `Holdings::nodes_after`: the nodes in a back-off.
    pub back_offs: u64,
    /// Version of what tenants have.
    pub tenants: u64,
    /// When the next of these back-offs ends.
    pub back_off_ends: Option<Timestamp>,
}

/// What all verdicts of a pool rest on, besides the request's class, the configuration, the registered pools, the uploads
/// and the time.
#[derive(Debug, PartialEq)]
pub struct Grounds {
    cloud: Option<Answers>,
    used_of_provider: Resources,
    used_of_pool: Resources,
    tenants: u64,
    back_offs: u64,
    idle: u64,
    pressure: Vec<Pressure>,
    is_in_motion: bool,
    is_accepting_most: bool,
    running: usize,
}

/// What a cloud has said.
#[derive(Debug, PartialEq)]
struct Answers {
    quota: Option<ProjectQuota>,
    quota_at: Timestamp,
    zones: Option<Vec<String>>,
    launch_after: Option<Timestamp>,
    trouble: Option<String>,
    label_resources: u64,
    cloud_images: u64,
    gone: u64,
    elsewhere: u64,
}

impl Answers {
    fn of(state: &ProviderState) -> Self {
        Self {
            quota: state.quota.clone(),
            quota_at: state.quota_at,
            zones: state.zones.clone(),
            launch_after: state.launch_after,
            trouble: state.trouble.clone(),
            label_resources: state.label_resources.version(),
            cloud_images: state.cloud_images.version(),
            gone: state.gone.version(),
            elsewhere: state.elsewhere.version(),
        }
    }
}

impl Grounds {
    /// What they are now; `None` where that cannot be compared later: this pass has given something away already that they may
    /// depend on, and who has got it is known from its record only later.
    pub fn now(
        world: &World<'_>,
        nodes: &Nodes,
        budget: &mut Budget<'_>,
        taken: &Taken<'_>,
        common: Common,
        key: &PoolKey,
    ) -> Option<Self> {
        if taken.has_any_of(key) || budget.has_promised_tenants() {
            return None;
        }
        let (provider, _) = world.pool_config(key)?;
        if provider.metastatic().is_some() {
            // Whether it leaves requests to another depends on what that one is placing.
            return None;
        }
        let (used_of_provider, used_of_pool) = budget.used(key);
        Some(Self {
            cloud: world.provider(&key.provider).map(Answers::of),
            used_of_provider,
            used_of_pool,
            tenants: common.tenants,
            back_offs: common.back_offs,
            idle: nodes.idle_version(key),
            pressure: taken.pressure_on(key).cloned().collect(),
            is_in_motion: taken.in_motion.contains(key),
            is_accepting_most: taken.is_accepting_most(),
            running: taken.running.get(&key.provider).copied().unwrap_or(0),
        })
    }

    /// When time alone may change a verdict of a pool.
    pub fn until(world: &World<'_>, common: Common, key: &PoolKey) -> Timestamp {
        let cloud = world.provider(&key.provider).into_iter().flat_map(|state| {
            let fresh = world.timing.fresh_quota;
            [state.launch_after, Some(state.quota_at - fresh), Some(state.quota_at + fresh)]
        });
        let moments = cloud.flatten().filter(|at| *at >= world.now).chain(common.back_off_ends);
        moments.fold(f64::INFINITY, f64::min)
    }
}
