//! Chance, as a value that is given to whoever needs it: a process takes the system's, a test or a simulation one that a seed
//! determines.
//!
//! Ids, names and the spread of retries are made of it. They only have to differ from what other processes make; no secret is
//! made here.

use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError},
};

use uuid::{Builder, Uuid};

/// Where chance comes from. Cheap to clone; clones draw from the same source.
#[derive(Clone)]
pub struct Entropy(Source);

#[derive(Clone)]
enum Source {
    System,
    /// The state of the generator.
    Seeded(Arc<Mutex<u64>>),
}

impl Entropy {
    /// The system's.
    pub fn system() -> Self {
        Self(Source::System)
    }

    /// A sequence that a seed determines: the same draws in the same order give the same.
    pub fn seeded(seed: u64) -> Self {
        Self(Source::Seeded(Arc::new(Mutex::new(seed))))
    }

    /// A random id (UUID, version 4).
    #[allow(clippy::disallowed_methods)] // the one place that asks the system
    pub fn uuid(&self) -> Uuid {
        match &self.0 {
            Source::System => Uuid::new_v4(),
            Source::Seeded(state) => {
                let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
                let bits = (u128::from(next(&mut state)) << 64) | u128::from(next(&mut state));
                Builder::from_random_bytes(bits.to_be_bytes()).into_uuid()
            }
        }
    }

    /// A seed for a generator of somebody else's.
    pub fn seed(&self) -> u64 {
        match &self.0 {
            // The lower half: of its 64 bits 62 are random.
            Source::System => self.uuid().as_u64_pair().1,
            Source::Seeded(state) => next(&mut state.lock().unwrap_or_else(PoisonError::into_inner)),
        }
    }
}

impl fmt::Debug for Entropy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.0 {
            Source::System => "Entropy::system",
            Source::Seeded(_) => "Entropy::seeded",
        })
    }
}

/// One step of splitmix64 (Steele, Lea, Flood: Fast splittable pseudorandom number generators, 2014).
fn next(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut mixed = *state;
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_determines_all_ids_and_another_one_gives_others() {
        let ids = |seed| {
            let entropy = Entropy::seeded(seed);
            [entropy.uuid(), entropy.clone().uuid(), entropy.uuid()]
        };
        assert_eq!(ids(7), ids(7));
        let [a, b, c] = ids(7);
        assert!(a != b && b != c && a != c && !ids(8).contains(&a));
        assert_eq!(a.get_version_num(), 4);
    }

    #[test]
    fn the_generator_is_splitmix64() {
        // The first values for the seed 1234567, as published with the reference implementation.
        let mut state = 1_234_567;
        assert_eq!([next(&mut state), next(&mut state)], [6_457_827_717_110_365_317, 3_203_168_211_198_807_973]);
    }

    #[test]
    fn what_the_system_gives_differs() {
        let entropy = Entropy::system();
        assert_ne!(entropy.uuid(), entropy.uuid());
        assert_ne!(entropy.seed(), entropy.seed());
    }
}
