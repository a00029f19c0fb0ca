//! [`Removals`]: what has vanished while somebody waited for an answer.
//!
//! A server tells of a change before it answers, but the follower and whoever asked are two tasks: when the creator of
//! a record comes to put it into the cache, the follower may have applied the record's creation and its deletion
//! already. Nothing would remove it again. So whoever is going to put something in says so before asking, and what is
//! removed from then on, or lost in a new walk, is not put in: if it is there, the follower brings it.

use std::collections::{BTreeSet, VecDeque};

use super::super::paths::Spot;

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

    /// Whether that path cannot have vanished since then.
    pub fn spared(&self, start: u64, spot: &Spot) -> bool {
        start > self.walked && !self.log.iter().rev().take_while(|(at, _)| *at > start).any(|(_, gone)| gone == spot)
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
        assert!(!removals.spared(first, &one) && !removals.spared(first, &two));
        assert!(removals.spared(second, &one) && !removals.spared(second, &two));
        removals.close(first);
        assert_eq!(removals.log.len(), 1, "the second needs no more");
        removals.walked();
        assert!(!removals.spared(second, &one), "nobody knows");
        let third = removals.open();
        assert!(removals.spared(third, &two));
        removals.close(second);
        removals.note(&two);
        removals.close(third);
        assert!(removals.log.is_empty());
    }
}
