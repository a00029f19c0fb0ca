//! [`HeldBack`]: what a launcher or a builder does not remove, although no record knows it, until somebody allows it.
//!
//! A record of ours alone: `/nodepool/leaks/provider/<provider>` of the launchers of a provider, `/nodepool/leaks/builder/
//! <builder id>` of a builder's images-dir. Neither Python Nodepool nor Zuul looks below `/nodepool/leaks`. It is there for as
//! long as something is held back. Whoever searches writes it, `nodepool leaks` shows it, and `nodepool leaks --remove` sets
//! [`HeldItem::allowed`] of the items that it has shown. No lock protects it: each write is one over the version that was read,
//! so that neither side ever writes over what it has not seen, whatever has become of its session meanwhile.
//!
//! [`brake`](super::brake) is the rule by which it comes, changes and goes.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{ProviderName, RecordError};

/// The largest record that is written, in bytes. A znode holds 1 MiB at most; this is room for some two thousand items.
pub const LARGEST: usize = 256 * 1024;

/// Whose search holds something back.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Holder {
    /// The launchers' search in a provider's cloud.
    Provider(ProviderName),
    /// The look of the builder of that id (`builder_id.txt`) at its images-dir.
    Builder(String),
}

impl std::fmt::Display for Holder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Provider(name) => write!(f, "provider {name}"),
            Self::Builder(id) => write!(f, "builder {id}"),
        }
    }
}

/// Something that no record knows, and that stays until it is allowed to go.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeldItem {
    /// `instances`, `images`, …, or `files` of a builder's.
    pub kind: String,
    /// The cloud's id; of files, `<image>-<build id>`.
    pub id: String,
    /// Why it counts as leaked.
    pub why: String,
    /// Since when it is held back; seconds since the epoch.
    pub since: i64,
    /// Somebody has allowed its removal, once.
    #[serde(default)]
    pub allowed: bool,
    /// Since when no search has found it; seconds since the epoch. `None`: the last one did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub missed_since: Option<i64>,
}

/// The record.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct HeldBack {
    /// Of a builder's: where it runs. Of a provider's: the host name of the launcher that made the record.
    pub host: String,
    /// Why the removal was stopped in the beginning.
    pub why: String,
    /// Since when anything is held back; seconds since the epoch.
    pub since: i64,
    /// How many there are in all, also those for which the record has no room.
    pub found: usize,
    /// Those that can be allowed to go.
    pub items: Vec<HeldItem>,
}

impl HeldBack {
    /// Reads a record. There are no oddities: what is of a wrong type makes it unusable.
    pub fn read(data: &[u8]) -> Result<(Self, Vec<String>), RecordError> {
        if data.is_empty() {
            return Err(RecordError::Empty);
        }
        let read = serde_json::from_slice(data).map_err(|error| RecordError::NotJson(error.to_string()))?;
        Ok((read, Vec::new()))
    }

    /// The document, with the first items for which there is room ([`LARGEST`]).
    pub fn write(&self) -> Vec<u8> {
        let mut room = LARGEST.saturating_sub(self.host.len() + self.why.len() * 2 + 256);
        let mut items = Vec::new();
        for item in &self.items {
            let needed = serde_json::to_vec(item).map_or(0, |bytes| bytes.len() + 1);
            if needed > room {
                break;
            }
            room -= needed;
            items.push(item.clone());
        }
        // It has nothing that JSON cannot express.
        serde_json::to_vec(&Self { items, ..self.clone() }).unwrap_or_default()
    }

    /// Whether it can be read, and had room for all items.
    pub fn is_whole(&self) -> bool {
        !self.why.is_empty() && !self.items.is_empty() && self.items.len() >= self.found
    }

    /// Those that nobody has allowed to go.
    pub fn held(&self) -> impl Iterator<Item = &HeldItem> {
        self.items.iter().filter(|item| !item.allowed)
    }

    /// How many of each kind nobody has allowed to go.
    pub fn counts(&self) -> BTreeMap<&str, usize> {
        let mut counts = BTreeMap::new();
        for item in self.held() {
            *counts.entry(item.kind.as_str()).or_default() += 1;
        }
        counts
    }

    /// The same in words: "20 images, 200 instances".
    pub fn summary(&self) -> String {
        self.counts().into_iter().map(|(kind, count)| format!("{count} {kind}")).collect::<Vec<_>>().join(", ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn item(n: usize) -> HeldItem {
        let id = format!("{n:08}-0000-4000-8000-000000000000");
        HeldItem {
            kind: "instances".to_owned(),
            id,
            why: "there is no node 0000000001".to_owned(),
            since: 7,
            allowed: false,
            missed_since: None,
        }
    }

    #[test]
    fn a_record_comes_back_as_it_was_written() {
        let held = HeldBack {
            host: "h".to_owned(),
            why: "\"why\"".to_owned(),
            since: 5,
            found: 2,
            items: vec![item(1), HeldItem { allowed: true, missed_since: Some(9), ..item(2) }],
        };
        assert!(held.is_whole());
        assert_eq!(HeldBack::read(&held.write()), Ok((held.clone(), Vec::new())));
        assert_eq!(held.held().collect::<Vec<_>>(), [&item(1)]);
        assert_eq!(held.summary(), "1 instances");
        assert!(matches!(HeldBack::read(b"{\"items\": 3}"), Err(RecordError::NotJson(_))));
        assert_eq!(HeldBack::read(b""), Err(RecordError::Empty));
    }

    #[test]
    fn a_record_is_never_larger_than_a_znode_and_says_how_many_there_are() {
        let held = HeldBack { found: 20_000, items: (0..20_000).map(item).collect(), ..HeldBack::default() };
        let data = held.write();
        assert!(data.len() <= LARGEST, "{}", data.len());
        let (read, _) = HeldBack::read(&data).unwrap();
        assert_eq!(read.found, 20_000);
        assert!(!read.is_whole() && !HeldBack::default().is_whole());
        assert!(read.items.len() > 1000, "{}", read.items.len());
        assert_eq!(read.items[..], held.items[..read.items.len()]);
        assert_eq!(HeldBack { found: 20_000, ..read }.write(), data, "it is the same when it is written again");
    }
}
