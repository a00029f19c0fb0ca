//! [`Published`]: what the launcher is and does, as its last pass has left it: for all who read it.
//!
//! The loop alone owns the [`Core`](super::core::Core). After each pass, and each turn in which none can be made, it puts an
//! immutable value into one place ([`Launcher::publish`]), and whoever wants to know something takes that one: `/pool-list`,
//! `/ready`, the state dump. Nobody asks the loop and waits for its answer; where it hangs, they say what was so before, and
//! the dump says how long ago that was.
//!
//! That costs a pass some microseconds, however much is held and waits: the collections of the ledger and of the planner are
//! persistent, of which a copy is a counter, and what is the same in two values is shared. What is derived from them (a pool's
//! requests, what each of them waits for, any text) is made by the reader.

use std::{sync::Arc, time::Duration};

use nodepool_common::{
    config::Config,
    model::{LauncherId, PausedBy, ProviderName, Timestamp, Uptime},
    zk::Freshness,
};

use super::{Launcher, RunningPool, core::Core};
use crate::plan::{Held, PoolKey, Snapshot};

/// See the module.
#[derive(Clone, Debug)]
pub struct Published {
    /// The last pass; `None`: there was none yet.
    pub pass: Option<PassMade>,
    /// How far the records could be relied on then.
    pub records: Freshness,
    /// Whether the launcher takes on no more work, and ends when what runs has ended.
    pub stopping: bool,
    /// The configuration that was in force, with the limits of each pool.
    pub config: Arc<Config>,
    /// The pools that take part.
    pub pools: Vec<PublishedPool>,
    /// Providers that do not answer.
    pub troubles: Vec<Trouble>,
    /// What is held and being done, and what is not tried again yet.
    pub held: Held,
    /// What waits and why, and what is used.
    pub planned: Snapshot,
}

/// When a pass was made, and how long it took.
#[derive(Clone, Copy, Debug)]
pub struct PassMade {
    /// When it began, by the wall clock.
    pub at: Timestamp,
    /// The same moment by monotonic time.
    pub uptime: Uptime,
    /// To decide, and to begin what was decided.
    pub took: Duration,
}

/// A pool that takes part.
#[derive(Clone, Debug, PartialEq)]
pub struct PublishedPool {
    /// Which.
    pub key: PoolKey,
    /// Its component's id.
    pub launcher_id: LauncherId,
    /// Whether others are told that it waits for quota, for its cloud, or for a person of the site.
    pub paused: bool,
    /// Who of the site has paused it.
    pub paused_by: Option<PausedBy>,
}

/// A provider that does not answer.
#[derive(Clone, Debug, PartialEq)]
pub struct Trouble {
    /// Which.
    pub provider: ProviderName,
    /// Why, as last heard of.
    pub why: String,
    /// Since when it does not, with whatever reason.
    pub since: Timestamp,
}

impl Published {
    /// Before anything is known but the configuration.
    pub(super) fn nothing(config: Arc<Config>) -> Self {
        Self {
            pass: None,
            records: Freshness::Stale,
            stopping: false,
            config,
            pools: Vec::new(),
            troubles: Vec::new(),
            held: Held::default(),
            planned: Snapshot::default(),
        }
    }

    /// The trouble of a provider.
    pub fn trouble(&self, provider: &ProviderName) -> Option<&Trouble> {
        self.troubles.iter().find(|trouble| trouble.provider == *provider)
    }
}

impl Launcher {
    /// The last one.
    pub fn published(&self) -> Arc<Published> {
        Arc::clone(&self.published.borrow())
    }

    /// Shows what is so from now on.
    pub(super) fn publish(&self, core: &Core, stopping: bool) {
        let published_pool = |(key, pool): (&PoolKey, &RunningPool)| PublishedPool {
            key: key.clone(),
            launcher_id: pool.launcher_id.clone(),
            paused: pool.said.paused,
            paused_by: pool.paused_by.clone(),
        };
        let published = Published {
            pools: self.pools().iter().map(published_pool).collect(),
            pass: core.last_pass,
            records: self.zk.cache().freshness(),
            stopping,
            config: self.config(),
            troubles: self.clouds.troubles(),
            held: core.book.snapshot(),
            planned: core.planner.snapshot(),
        };
        self.published.send_replace(Arc::new(published));
    }
}
