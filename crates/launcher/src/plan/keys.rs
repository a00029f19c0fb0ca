//! What names a pool, and a host.

use std::fmt;

use nodepool_common::{
    config::HostId,
    model::{PoolName, ProviderName},
};

/// A pool of a provider.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PoolKey {
    /// The provider.
    pub provider: ProviderName,
    /// Its pool.
    pub pool: PoolName,
}

impl fmt::Display for PoolKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.provider, self.pool)
    }
}

/// A host of a provider.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HostKey {
    /// The provider.
    pub provider: ProviderName,
    /// Which of its hosts.
    pub host: HostId,
}
