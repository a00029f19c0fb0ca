//! The clock of records: seconds since the epoch, as Python's `time.time()`.
//!
//! A record's time is a number that somebody else has written: it may be before the epoch, in a far future, or beyond what
//! a [`Duration`] holds. So nothing is reckoned from one but here, or with [`Stat::no_later`](crate::model::Stat::no_later).
//!
//! Pauses and ages that a process keeps in memory are by the same clock, because planners compare them with the times in
//! records. So that none of them takes an hour longer when somebody sets the clock back by an hour, whoever keeps such
//! times asks [`Steps`] at each pass, and moves them by as much as the clock was moved.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::model::Timestamp;

/// Whoever waits for a time looks again after this at the latest.
pub const LONGEST_SLEEP: Duration = Duration::from_secs(3600);
/// Whoever waits for a time that has come already does not spin.
const SHORTEST_SLEEP: Duration = Duration::from_millis(1);
/// Less than this is how NTP slews a clock, and how long a process may be kept waiting between two looks at clocks. Seconds.
const LEAST_STEP: f64 = 1.0;

/// Seconds since the epoch. 0 on a machine whose clock stands before it.
pub fn now() -> Timestamp {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |elapsed| elapsed.as_secs_f64())
}

/// How long to sleep until a time, whatever it is: from a millisecond to an hour.
pub fn until(at: Timestamp) -> Duration {
    sleep_between(now(), at)
}

fn sleep_between(now: Timestamp, at: Timestamp) -> Duration {
    let longest = LONGEST_SLEEP.as_secs_f64();
    // `min` and `max` leave what is not a number out.
    let seconds = (at - now).min(longest).max(SHORTEST_SLEEP.as_secs_f64());
    Duration::try_from_secs_f64(seconds).unwrap_or(LONGEST_SLEEP)
}

/// What has passed between a record's time and now: nothing where that is yet to come, as between two hosts' clocks.
/// `None`: no record was written then, whoever says so.
pub fn since(then: Timestamp, now: Timestamp) -> Option<Duration> {
    let is_a_time = then.is_finite() && then >= 0.0;
    is_a_time.then(|| Duration::try_from_secs_f64((now - then).max(0.0)).ok()).flatten()
}

/// Notices that the clock was set.
#[derive(Debug, Default)]
pub struct Steps(Option<(Timestamp, Instant)>);

impl Steps {
    /// By how many seconds the clock was set since the last call; negative: back. `now` and `at` are the same moment.
    pub fn step(&mut self, now: Timestamp, at: Instant) -> Option<f64> {
        let (before, before_at) = self.0.replace((now, at))?;
        let step = now - before - at.saturating_duration_since(before_at).as_secs_f64();
        (step.abs() >= LEAST_STEP).then_some(step)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NOW: Timestamp = 1_760_000_000.0;

    #[test]
    fn a_sleep_ends_when_its_time_has_come_or_after_an_hour() {
        assert_eq!(sleep_between(NOW, NOW + 2.5), Duration::from_millis(2500));
        assert_eq!(sleep_between(NOW, NOW - 1e300), SHORTEST_SLEEP);
        assert_eq!(sleep_between(NOW, 1e300), LONGEST_SLEEP);
        assert_eq!(sleep_between(NOW, f64::INFINITY), LONGEST_SLEEP);
        assert!(sleep_between(NOW, f64::NAN) <= LONGEST_SLEEP);
    }

    #[test]
    fn what_has_passed_is_known_of_times_that_can_be() {
        assert_eq!(since(NOW - 1.5, NOW), Some(Duration::from_millis(1500)));
        assert_eq!(since(NOW + 1.5, NOW), Some(Duration::ZERO), "another host's clock is ahead");
        assert_eq!(since(-1e300, NOW), None);
        assert_eq!(since(f64::NAN, NOW), None);
        assert_eq!(since(1e300, NOW), Some(Duration::ZERO));
    }

    proptest! {
        #[test]
        fn no_time_is_too_absurd(time in any::<f64>()) {
            let sleep = sleep_between(NOW, time);
            prop_assert!((SHORTEST_SLEEP..=LONGEST_SLEEP).contains(&sleep));
            since(time, NOW);
        }
    }

    #[test]
    fn a_clock_that_is_set_has_made_a_step_once() {
        let (mut steps, start) = (Steps::default(), Instant::now());
        let mut step = |now, after| steps.step(now, start + Duration::from_secs(after));
        assert_eq!(step(1_000_000.0, 0), None, "nothing to compare with");
        assert_eq!(step(1_000_060.5, 60), None);
        assert_eq!(step(996_470.5, 70), Some(-3600.0));
        assert_eq!(step(996_480.5, 80), None);
        assert_eq!(step(1_000_090.5, 90), Some(3600.0));
    }
}
