//! What is left out of a configuration that runs without it.

use std::fmt;

use super::Place;
use crate::model::{LabelName, PoolName, ProviderName};

/// A provider that was left out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BrokenProvider {
    /// Its name; `number N, without a name` where it has none.
    pub name: ProviderName,
    /// Where the first error stands.
    pub place: Place,
    /// All that is wrong with it, each with its place.
    pub reason: String,
}

/// A part of a provider that cannot be used as it is configured. Its provider runs without it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BrokenPart {
    /// Its provider.
    pub provider: ProviderName,
    /// Its pool.
    pub pool: PoolName,
    /// What of the pool it is.
    pub part: Part,
    /// All that is wrong with it, each with its place.
    pub reason: String,
}

/// Pools, and what of them is left out alone. A name is `in line N, without a name` where there is none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Part {
    /// All of the pool: its own keys have errors. None of its labels is served.
    Pool,
    /// A label that the pool does not serve.
    Label(LabelName),
    /// A host that the pool does not have. The nodes that may be that host's are left alone.
    Host(String),
}

impl fmt::Display for BrokenPart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { provider, pool, part, reason } = self;
        match part {
            Part::Pool => write!(f, "Pool {pool} of provider {provider}")?,
            Part::Label(label) => write!(f, "Label {label} of pool {pool} of provider {provider}")?,
            Part::Host(host) => write!(f, "Host {host} of pool {pool} of provider {provider}")?,
        }
        f.write_str(match part {
            Part::Pool | Part::Label(_) => {
                " is left out (in a reload it stays as it was, and so does all of a static provider): "
            }
            Part::Host(_) => {
                " is left out (nodes that are registered stay; in a reload all of the provider stays as it was): "
            }
        })?;
        f.write_str(reason)
    }
}

/// What is left out.
#[derive(Default)]
pub struct Broken {
    /// Providers.
    pub providers: Vec<BrokenProvider>,
    /// Parts of others.
    pub parts: Vec<BrokenPart>,
}
