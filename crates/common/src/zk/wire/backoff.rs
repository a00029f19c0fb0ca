//! [`Backoff`]: how long to wait before the next server is tried.
//!
//! All servers are tried before there is a pause, which grows with each time they have been. A server that resumes the session
//! and breaks the connection again at once is no better than one that cannot be reached, so that counts alike: only a
//! connection that has lasted begins anew. Part of each pause is drawn by chance, so that the clients that a server has lost do not
//! all come back at the same moments.

use std::time::Duration;

use crate::sys::entropy::Entropy;

const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// See the module.
#[derive(Debug)]
pub(super) struct Backoff {
    entropy: Entropy,
    /// Attempts without a connection that has lasted.
    failures: usize,
}

impl Backoff {
    /// Without a failure yet.
    pub(super) fn new(entropy: Entropy) -> Self {
        Self { entropy, failures: 0 }
    }

    /// An attempt has failed, or its connection broke soon.
    pub(super) fn failed(&mut self) {
        self.failures = self.failures.saturating_add(1);
    }

    /// A connection has lasted.
    pub(super) fn reset(&mut self) {
        self.failures = 0;
    }

    /// The pause before the next attempt, where there are so many servers.
    pub(super) fn pause(&self, servers: usize) -> Duration {
        let servers = servers.max(1);
        let rounds = self.failures / servers;
        if rounds == 0 || !self.failures.is_multiple_of(servers) {
            return Duration::ZERO;
        }
        let doublings = u32::try_from(rounds - 1).unwrap_or(u32::MAX).min(16);
        let longest = (FIRST_PAUSE * 2_u32.pow(doublings)).min(LONGEST_PAUSE);
        let half = longest / 2;
        let by_chance = self.entropy.seed() % (u64::try_from(half.as_micros()).unwrap_or(u64::MAX) + 1);
        half + Duration::from_micros(by_chance)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pauses(backoff: &mut Backoff, servers: usize, attempts: usize) -> Vec<u128> {
        let next = |_| {
            let pause = backoff.pause(servers);
            backoff.failed();
            pause.as_millis()
        };
        (0..attempts).map(next).collect()
    }

    #[test]
    fn all_servers_are_tried_before_a_pause_and_pauses_grow() {
        let mut backoff = Backoff::new(Entropy::seeded(1));
        let pauses = pauses(&mut backoff, 3, 24);
        for (attempt, pause) in pauses.iter().enumerate() {
            let longest = match attempt {
                3 => 50,
                6 => 100,
                9 => 200,
                12 => 400,
                15 => 800,
                18 | 21 => 1000,
                _ => 0,
            };
            assert!((longest / 2..=longest).contains(pause), "attempt {attempt}: {pauses:?}");
        }
        backoff.reset();
        assert_eq!(backoff.pause(3), Duration::ZERO);
    }

    #[test]
    fn two_clients_do_not_come_back_at_the_same_moments() {
        let of = |seed| pauses(&mut Backoff::new(Entropy::seeded(seed)), 1, 8);
        assert_ne!(of(1), of(2));
    }
}
