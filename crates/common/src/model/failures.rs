//! [`Failures`]: pauses that grow as long as something fails.

use std::collections::BTreeMap;

/// A pause grows to no more than two to the power of this times the first one, whatever its bound.
const MOST_DOUBLINGS: u32 = 32;

/// How often in a row things have failed, by what they are.
#[derive(Clone, Debug)]
pub struct Failures<K>(BTreeMap<K, u32>);

impl<K> Default for Failures<K> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

impl<K: Ord> Failures<K> {
    /// The pause after another failure in a row, in seconds: doubling from `first` to `most`.
    pub fn failed_again(&mut self, what: K, first: f64, most: f64) -> f64 {
        let before = self.0.entry(what).or_default();
        let doublings = *before;
        *before = doublings.saturating_add(1).min(MOST_DOUBLINGS);
        (first * f64::from(doublings).exp2()).min(most)
    }

    /// The pause after the last failure in a row, as [`Self::failed_again`] has reckoned it.
    pub fn last_pause(&self, what: &K, first: f64, most: f64) -> f64 {
        let doublings = self.0.get(what).map_or(0, |failures| failures.saturating_sub(1));
        (first * f64::from(doublings).exp2()).min(most)
    }

    /// Something worked: the pause after its next failure is the first one again.
    pub fn worked(&mut self, what: &K) {
        self.0.remove(what);
    }

    /// Forgets the failures of all that is not to be kept.
    pub fn retain(&mut self, mut keep: impl FnMut(&K) -> bool) {
        self.0.retain(|what, _| keep(what));
    }

    /// Forgets all.
    pub fn clear(&mut self) {
        self.0.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_the_longest_one_until_something_works() {
        let mut failures = Failures::default();
        let mut after = |what| failures.failed_again(what, 1.0, 6.0).to_string();
        assert_eq!([after("a"), after("a"), after("a"), after("a"), after("b")], ["1", "2", "4", "6", "1"]);
        assert_eq!(failures.last_pause(&"a", 1.0, 6.0).to_string(), "6");
        failures.worked(&"a");
        assert_eq!(failures.last_pause(&"a", 1.0, 6.0).to_string(), "1");
        failures.retain(|what| *what != "b");
        let mut after = |what| failures.failed_again(what, 1.0, 6.0).to_string();
        assert_eq!([after("a"), after("b")], ["1", "1"]);
        (0..10_000).for_each(|_| drop(after("a")));
        assert_eq!(after("a"), "6");
        failures.clear();
        assert_eq!(failures.failed_again("a", 1.0, 6.0).to_string(), "1");
    }
}
