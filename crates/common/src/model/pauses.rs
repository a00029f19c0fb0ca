//! [`Pauses`]: what people of the site have paused of a provider.
//!
//! A record of ours alone, `/nodepool/pauses/<provider>`: neither Python Nodepool nor Zuul reads it. It is there for as long as anything
//! of the provider is paused. `nodepool pause` and `unpause` write it, each time over the version that was read, and the launchers
//! follow it. It lasts until somebody ends it, whatever is restarted meanwhile.
//!
//! A paused pool accepts no request and starts no launch. What is launched already is finished and handed over, and nodes are deleted as
//! ever.

use std::{collections::BTreeMap, fmt};

use serde::{Deserialize, Serialize};

use super::{PoolName, ProviderName, RecordError, Timestamp};
use crate::sys::clock;

/// Who has paused something, and why.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Pause {
    /// The person, as `user@host`.
    pub by: String,
    /// Why, in their words; may be empty.
    pub note: String,
    /// Since when, in seconds since the epoch.
    pub since: Timestamp,
}

/// The record.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Pauses {
    /// The whole provider is paused.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub provider: Option<Pause>,
    /// These pools of it are.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub pools: BTreeMap<PoolName, Pause>,
}

/// That a pool is paused.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PausedBy {
    /// Its provider.
    pub provider: ProviderName,
    /// The pool, where it is not the whole provider that is paused.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub pool: Option<PoolName>,
    /// As [`Pause::by`].
    pub by: String,
    /// As [`Pause::note`].
    pub note: String,
    /// As [`Pause::since`].
    pub since: Timestamp,
}

impl Pauses {
    /// Reads a record. There are no oddities: what is of a wrong type makes it unusable.
    pub fn read(data: &[u8]) -> Result<(Self, Vec<String>), RecordError> {
        if data.is_empty() {
            return Err(RecordError::Empty);
        }
        let read = serde_json::from_slice(data).map_err(|error| RecordError::NotJson(error.to_string()))?;
        Ok((read, Vec::new()))
    }

    /// The document.
    pub fn write(&self) -> Vec<u8> {
        // It has nothing that JSON cannot express: times are finite.
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// Whether nothing is paused.
    pub fn is_empty(&self) -> bool {
        self.provider.is_none() && self.pools.is_empty()
    }

    /// The pause of the whole provider, or of one of its pools.
    pub fn get(&self, pool: Option<&PoolName>) -> Option<&Pause> {
        pool.map_or(self.provider.as_ref(), |pool| self.pools.get(pool))
    }

    /// Pauses the whole provider or one of its pools, or ends that. What it was before.
    pub fn set(&mut self, pool: Option<&PoolName>, pause: Option<Pause>) -> Option<Pause> {
        match (pool, pause) {
            (None, pause) => std::mem::replace(&mut self.provider, pause),
            (Some(pool), Some(pause)) => self.pools.insert(pool.clone(), pause),
            (Some(pool), None) => self.pools.remove(pool),
        }
    }
}

impl PausedBy {
    /// By a pause of the whole provider, or of one pool of it.
    pub fn new(provider: &ProviderName, pool: Option<&PoolName>, pause: &Pause) -> Self {
        let Pause { by, note, since } = pause.clone();
        Self { provider: provider.clone(), pool: pool.cloned(), by, note, since }
    }

    /// In words, with the time since when it is so.
    #[allow(clippy::cast_possible_truncation)] // whole seconds since the epoch
    pub fn sentence(&self) -> String {
        format!("{self} (since {})", clock::utc(self.since as i64))
    }
}

/// "provider p is paused by alice@host: its cloud is being updated".
impl fmt::Display for PausedBy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { provider, pool, by, note, .. } = self;
        match pool {
            Some(pool) => write!(f, "pool {pool} of provider {provider} is paused by {by}")?,
            None => write!(f, "provider {provider} is paused by {by}")?,
        }
        if note.is_empty() { Ok(()) } else { write!(f, ": {note}") }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_comes_back_as_it_was_written() {
        let pause = |note: &str| Pause { by: "alice@h".to_owned(), note: note.to_owned(), since: 1.5 };
        let mut pauses = Pauses::default();
        assert!(pauses.is_empty());
        assert_eq!(pauses.set(None, Some(pause("all"))), None);
        assert_eq!(pauses.set(Some(&"main".into()), Some(pause("one"))), None);
        assert_eq!(Pauses::read(&pauses.write()), Ok((pauses.clone(), Vec::new())));
        assert_eq!(pauses.get(Some(&"main".into())).unwrap().note, "one");
        assert_eq!(pauses.set(None, None).unwrap().note, "all");
        assert_eq!((pauses.get(None), pauses.get(Some(&"other".into()))), (None, None));
        assert!(!pauses.is_empty());
        pauses.set(Some(&"main".into()), None);
        assert!(pauses.is_empty());
    }

    #[test]
    fn what_a_later_release_adds_is_no_error_and_what_is_no_record_is_one() {
        let (read, _) = Pauses::read(br#"{"provider": {"by": "a", "until": 7}, "zones": []}"#).unwrap();
        assert_eq!(read.provider.unwrap().by, "a");
        assert_eq!(Pauses::read(b""), Err(RecordError::Empty));
        assert!(matches!(Pauses::read(b"{\"pools\": 3}"), Err(RecordError::NotJson(_))));
    }

    #[test]
    fn who_has_paused_what_and_why_is_one_sentence() {
        let pause = |note: &str| Pause { by: "alice@h".to_owned(), note: note.to_owned(), since: 1.5 };
        let of = |pool: Option<&PoolName>, note| PausedBy::new(&"p".into(), pool, &pause(note)).to_string();
        assert_eq!(of(None, "update"), "provider p is paused by alice@h: update");
        assert_eq!(of(Some(&"main".into()), ""), "pool main of provider p is paused by alice@h");
    }
}
