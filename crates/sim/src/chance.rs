//! [`Chance`]: what a seed determines. Each actor has its own, so that what one of them draws does not change what the others
//! do: a history with one actor less is the same history for the rest.

use std::time::Duration;

use nodepool_common::sys::entropy::Entropy;

/// A sequence of draws.
#[derive(Clone, Debug)]
pub struct Chance(Entropy);

impl Chance {
    /// That of one actor in the history of that seed.
    pub fn of(seed: u64, actor: &str) -> Self {
        // FNV-1a: any hash does that is the same everywhere.
        let name = actor
            .bytes()
            .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
        Self(Entropy::seeded(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ name))
    }

    /// A number below that one, which is not 0.
    pub fn below(&self, bound: usize) -> usize {
        let bound = u64::try_from(bound.max(1)).unwrap();
        usize::try_from(self.0.seed() % bound).unwrap()
    }

    /// True once in that many times.
    pub fn one_in(&self, times: usize) -> bool {
        self.below(times) == 0
    }

    /// Seconds, from the one to the other.
    #[allow(clippy::cast_precision_loss)] // 53 bits are enough
    pub fn seconds(&self, from: f64, to: f64) -> Duration {
        let unit = (self.0.seed() >> 11) as f64 / (1_u64 << 53) as f64;
        Duration::from_secs_f64(from + unit * (to - from))
    }

    /// One of them.
    pub fn pick<'a, T>(&self, of: &'a [T]) -> &'a T {
        &of[self.below(of.len())]
    }

    /// For somebody who needs a source of his own.
    pub fn seed(&self) -> u64 {
        self.0.seed()
    }
}
