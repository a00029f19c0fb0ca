//! What a new configuration changes.

use super::{Config, Place, Provider};
use crate::model::ProviderName;

/// What differs between two configurations, as far as somebody must act on it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Diff {
    /// Providers that are new, in the order of the new file.
    pub added: Vec<ProviderName>,
    /// Providers that are gone, in the order of the old file.
    pub removed: Vec<ProviderName>,
    /// Providers of which anything has changed but their place in the file.
    pub changed: Vec<ProviderName>,
    /// The top-level `labels`.
    pub labels_changed: bool,
    /// Servers, TLS or timeout.
    pub zookeeper_changed: bool,
    /// Port or address, which only a restart applies.
    pub webapp_changed: bool,
}

impl Diff {
    /// Whether nothing of all that differs.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// Compares two configurations.
pub fn diff(old: &Config, new: &Config) -> Diff {
    let names = |of: &Config, keep: &dyn Fn(&ProviderName) -> bool| {
        of.providers.keys().filter(|name| keep(name)).cloned().collect::<Vec<_>>()
    };
    Diff {
        added: names(new, &|name| !old.providers.contains_key(name)),
        removed: names(old, &|name| !new.providers.contains_key(name)),
        changed: names(new, &|name| {
            let before_and_after = old.providers.get(name).zip(new.providers.get(name));
            before_and_after.is_some_and(|(before, after)| !same(before, after))
        }),
        labels_changed: old.labels != new.labels,
        zookeeper_changed: old.zookeeper != new.zookeeper,
        webapp_changed: old.webapp != new.webapp,
    }
}

/// Whether two providers are equal but for where they stand: a line inserted above must not restart a provider.
pub fn same(before: &Provider, after: &Provider) -> bool {
    let placeless = |provider: &Provider| Provider { place: Place::default(), ..provider.clone() };
    before == after || placeless(before) == placeless(after)
}
