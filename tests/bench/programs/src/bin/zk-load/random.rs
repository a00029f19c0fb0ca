//! Names and gaps that differ from run to run.

use std::cell::Cell;
use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;

/// splitmix64; names and gaps need no better.
pub struct Random(Cell<u64>);

impl Random {
    pub fn new() -> Self {
        // The standard library's hash maps are seeded from the system.
        Self(Cell::new(RandomState::new().hash_one(std::process::id())))
    }

    pub fn next(&self) -> u64 {
        self.0.set(self.0.get().wrapping_add(0x9e37_79b9_7f4a_7c15));
        let mut z = self.0.get();
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// From 0 to 1.
    pub fn share(&self) -> f64 {
        let upper = u32::try_from(self.next() >> 32).unwrap_or_default();
        f64::from(upper) / f64::from(u32::MAX)
    }

    /// As Python's `uuid4().hex`.
    pub fn uuid(&self) -> String {
        let high = self.next() & !0xf000 | 0x4000;
        let low = self.next() & !(3 << 62) | 2 << 62;
        format!("{high:016x}{low:016x}")
    }
}
