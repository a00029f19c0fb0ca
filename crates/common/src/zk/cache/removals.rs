//! [`Removals`]: what has vanished while somebody waited for an answer.
//!
//! A server tells of a change before it answers, but the follower and whoever asked are two tasks: when the creator of
//! a record comes to put it into the cache, the follower may have applied the record's creation and its deletion
//! already. Nothing would remove it again. So whoever is going to put something in says so before asking, and what is
//! removed from then on is not put in.
//!
//! After a walk that has ended meanwhile nobody knows: it may have been too early to find the record, or have found it
//! gone. Then the record is read again ([`Tree::unsettled`](super::tree::Tree::unsettled)).

use std::collections::{BTreeSet, VecDeque};

use super::super::paths::Spot;

/// What may have happened to a path since somebody asked for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    /// It has not been removed.
    Spared,
    /// It has been removed.
    Removed,
    /// Everything was read anew meanwhile: it may be gone or not.
    Unknown,
}

#[derive(Debug, Default)]
pub(super) struct Removals {
    clock: u64,
    /// Since when those who are at work have been.
    open: BTreeSet<u64>,
    /// In the order of the removals; as far back as somebody needs it.
    log: VecDeque<(u64, Spot)>,
    /// The last walk, whose result tells nothing of what vanished.
    walked: u64,
}

impl Removals {
    /// Somebody starts to work.
    pub fn open(&mut self) -> u64 {
        let now = self.tick();
        self.open.insert(now);
        now
    }

    /// Who started then is done.
    pub fn close(&mut self, start: u64) {
        self.open.remove(&start);
        let oldest = self.open.first().copied().unwrap_or(u64::MAX);
        while self.log.front().is_some_and(|(at, _)| *at < oldest) {
            self.log.pop_front();
        }
    }

    /// A path is gone.
    pub fn note(&mut self, spot: &Spot) {
        if !self.open.is_empty() {
            let now = self.tick();
            self.log.push_back((now, spot.clone()));
        }
    }

    /// Everything was read anew.
    pub fn walked(&mut self) {
        self.walked = self.tick();
        self.log.clear();
    }

    /// What has become of that path since then.
    pub fn fate(&self, start: u64, spot: &Spot) -> Fate {
        if self.log.iter().rev().take_while(|(at, _)| *at > start).any(|(_, gone)| gone == spot) {
            Fate::Removed
        } else if start > self.walked {
            Fate::Spared
        } else {
            Fate::Unknown
        }
    }

    fn tick(&mut self) -> u64 {
        self.clock += 1;
        self.clock
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_vanished_since_counts_and_nothing_is_kept_for_nobody() {
        let (one, two) = (Spot::Node("1".into()), Spot::Node("2".into()));
        let mut removals = Removals::default();
        removals.note(&one);
        assert!(removals.log.is_empty(), "nobody is at work");
        let first = removals.open();
        removals.note(&one);
        let second = removals.open();
        removals.note(&two);
        assert_eq!([&one, &two].map(|spot| removals.fate(first, spot)), [Fate::Removed, Fate::Removed]);
        assert_eq!([&one, &two].map(|spot| removals.fate(second, spot)), [Fate::Spared, Fate::Removed]);
        removals.close(first);
        assert_eq!(removals.log.len(), 1, "the second needs no more");
        removals.walked();
        assert_eq!(removals.fate(second, &one), Fate::Unknown);
        let third = removals.open();
        assert_eq!(removals.fate(third, &two), Fate::Spared);
        removals.close(second);
        removals.note(&two);
        removals.close(third);
        assert!(removals.log.is_empty());
    }
}
