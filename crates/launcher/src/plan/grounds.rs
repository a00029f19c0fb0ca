//! [`Grounds`]: what all verdicts of a pool rest on.

use nodepool_common::model::{Timestamp, Uptime};

use super::{
    PoolKey, ProjectQuota, ProviderState, World,
    budget::{Budget, Used},
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
    pub back_off_ends: Option<Uptime>,
}

/// What the verdicts of a pool rest on, besides the request's class, the configuration, the registered pools, the uploads
/// and the time.
#[derive(Debug, PartialEq)]
pub struct Grounds {
    common: OfAll,
    /// What is used.
    pub used: Used,
    pressure: Vec<Pressure>,
    is_in_motion: bool,
}

/// What every verdict rests on.
#[derive(Debug, PartialEq)]
struct OfAll {
    cloud: Option<Answers>,
    tenants: u64,
    back_offs: u64,
    idle: u64,
    is_accepting_most: bool,
    /// With `max-concurrency`.
    running: Option<usize>,
}

/// What of the grounds has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Changed {
    /// Nothing.
    Nothing,
    /// What is used or what others wait for. But nobody who waits for room can go ahead: there is no more of it than there was, and
    /// somebody is before each of them.
    ButNoMoreRoom,
    /// What is used or what others wait for.
    Room,
    /// What every verdict rests on.
    Everything,
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

/// When time alone may change a verdict of a pool.
#[derive(Clone, Copy, Debug, Default)]
pub struct Until {
    /// By the age of what the cloud has said.
    answers: Timestamp,
    /// By the end of a pause; `None`: there is none.
    back_off: Option<Uptime>,
}

impl Until {
    /// Whether it is that time.
    pub fn has_come(&self, world: &World<'_>) -> bool {
        world.now >= self.answers || self.back_off.is_some_and(|at| world.uptime >= at)
    }

    /// The earlier one of each.
    #[must_use]
    pub fn earlier(self, other: Self) -> Self {
        let back_off = self.back_off.into_iter().chain(other.back_off).min();
        Self { answers: self.answers.min(other.answers), back_off }
    }
}

impl Grounds {
    /// What they are now; `None` where that cannot be compared later: this pass has given something away already that they may
    /// depend on, and who has got it is known from its record only later.
    pub fn now(
        world: &World<'_>,
        nodes: &Nodes,
        budget: &Budget<'_>,
        taken: &Taken<'_>,
        common: Common,
        key: &PoolKey,
    ) -> Option<Self> {
        if taken.has_any_of(key) || budget.has_promised_tenants() {
            return None;
        }
        let (provider, _) = world.pool_config(key)?;
        let running = || taken.running.get(&key.provider).copied().unwrap_or(0);
        if provider.metastatic().is_some() {
            // Whether it leaves requests to another depends on what that one is placing.
            return None;
        }
        Some(Self {
            common: OfAll {
                cloud: world.provider(&key.provider).map(Answers::of),
                tenants: common.tenants,
                back_offs: common.back_offs,
                idle: nodes.idle_version(key),
                is_accepting_most: taken.is_accepting_most(),
                running: provider.max_concurrency.map(|_| running()),
            },
            used: budget.used(key),
            pressure: taken.pressure_on(key).cloned().collect(),
            is_in_motion: taken.in_motion.contains(key),
        })
    }

    /// Whether what every verdict rests on is the same.
    pub fn has_in_common_with(&self, other: &Self) -> bool {
        self.common == other.common
    }

    /// What has changed since they were others. `short_at`: what was used when somebody had too little room.
    pub fn changed_since(&self, old: &Self, short_at: Option<&Used>) -> Changed {
        if self == old {
            return Changed::Nothing;
        }
        if self.common != old.common {
            return Changed::Everything;
        }
        let has_others = self.is_in_motion || !self.pressure.is_empty();
        if has_others && short_at.is_none_or(|then| self.used.is_no_less_than(then)) {
            Changed::ButNoMoreRoom
        } else {
            Changed::Room
        }
    }

    /// When time alone may change a verdict of a pool.
    pub fn until(world: &World<'_>, common: Common, key: &PoolKey) -> Until {
        let cloud = world.provider(&key.provider).into_iter().flat_map(|state| {
            let fresh = world.timing.fresh_quota;
            [state.launch_after, Some(state.quota_at - fresh), Some(state.quota_at + fresh)]
        });
        let answers = cloud.flatten().filter(|at| *at >= world.now).fold(f64::INFINITY, f64::min);
        Until { answers, back_off: common.back_off_ends }
    }
}
