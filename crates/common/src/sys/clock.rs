//! What time it is: wall time, which records carry, and monotonic time, by which pauses are measured.
//!
//! **Wall time** is seconds since the epoch, as Python's `time.time()`. It comes from a [`Clock`] that is given to whoever needs it:
//! a process takes the system's, a test or a simulation one of its own ([`Simulated`]), which goes as tokio's time does and can be
//! set. It jumps when somebody sets the host's clock. So it is for what is compared with the times in records, and for what
//! people read.
//!
//! **Monotonic time** never jumps. There are two forms of it, of the same clock:
//!
//! * [`tokio::time::Instant`], for deadlines, pauses and measured durations where things happen. It is std's, except in a runtime
//!   whose time is paused: there it stands still until everything waits, and then goes on to the next time that somebody waits
//!   for. So it is given by the runtime, and needs no value of ours.
//! * [`Uptime`], seconds since the clock was made ([`Clock::uptime`]): for what is decided from in memory, without tokio.
//!
//! Threads that are not of the runtime (the log's, those of child processes) use std's `Instant`; nothing that they do decides
//! anything. The times of files are by [`files_now`], because a file system stamps them with the host's clock.
//! `clippy.toml` forbids all other ways to ask for the time outside `sys`.
//!
//! A record's time is a number that somebody else has written: it may be before the epoch, in a far future, or beyond what
//! a [`Duration`] holds. So nothing is reckoned from one but here, or with [`Stat::no_later`](crate::model::Stat::no_later).
//!
//! Some wall times are kept in memory, because they are compared with records' times or shown to people: since when a record is
//! free, or a request waits. So that they stay as long ago as they are when somebody sets the clock, whoever keeps such
//! times asks [`Steps`] at each pass, and moves them by as much as the clock was moved.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use chrono::{DateTime, Local, Utc};
use tokio::time::Instant;

use crate::model::{Timestamp, Uptime};

/// Whoever waits for a time looks again after this at the latest.
pub const LONGEST_SLEEP: Duration = Duration::from_secs(3600);
/// Whoever waits for a time that has come already does not spin.
pub const SHORTEST_SLEEP: Duration = Duration::from_millis(1);
/// Less than this is how NTP slews a clock, and how long a process may be kept waiting between two looks at clocks. Seconds.
const LEAST_STEP: f64 = 1.0;
/// By so many seconds the clocks of hosts that write records may differ without harm.
const CLOCKS_DIFFER: f64 = 30.0;

/// Tells the time; see the module's comment. Cheap to clone; clones are one clock.
#[derive(Clone, Debug)]
pub struct Clock {
    made: Instant,
    wall: Wall,
}

#[derive(Clone, Debug)]
enum Wall {
    System,
    /// What it shows at [`Uptime`] 0.
    Simulated(Arc<Mutex<Timestamp>>),
}

impl Clock {
    /// The system's.
    pub fn system() -> Self {
        Self { made: Instant::now(), wall: Wall::System }
    }

    /// Seconds since the epoch. 0 on a machine whose clock stands before it.
    #[allow(clippy::disallowed_methods)] // this is what others ask in place of it
    pub fn now(&self) -> Timestamp {
        match &self.wall {
            Wall::System => now(),
            Wall::Simulated(start) => *start.lock().unwrap_or_else(PoisonError::into_inner) + self.uptime().0,
        }
    }

    /// Whether it is not the system's: then nothing that goes by the host's time has a meaning.
    pub fn is_simulated(&self) -> bool {
        matches!(self.wall, Wall::Simulated(_))
    }

    /// The same as a date.
    pub fn date(&self) -> DateTime<Utc> {
        let since_epoch = Duration::try_from_secs_f64(self.now()).unwrap_or_default();
        DateTime::from(UNIX_EPOCH + since_epoch)
    }

    /// Since this clock was made.
    pub fn uptime(&self) -> Uptime {
        Uptime(self.made.elapsed().as_secs_f64())
    }
}

/// A clock whose wall time starts where it is told to, goes as tokio's time does, and is set without regard to the system's.
#[derive(Debug)]
pub struct Simulated {
    clock: Clock,
    start: Arc<Mutex<Timestamp>>,
}

impl Simulated {
    /// One that shows `start` now.
    pub fn starting_at(start: Timestamp) -> Self {
        let start = Arc::new(Mutex::new(start));
        Self { clock: Clock { made: Instant::now(), wall: Wall::Simulated(start.clone()) }, start }
    }

    /// What is given to those who need a clock.
    pub fn clock(&self) -> Clock {
        self.clock.clone()
    }

    /// Sets the wall clock by that many seconds, as an administrator may; negative: back.
    pub fn set_by(&self, seconds: f64) {
        *self.start.lock().unwrap_or_else(PoisonError::into_inner) += seconds;
    }
}

/// The system's wall time, for the command line and for tests, which have no [`Clock`].
#[allow(clippy::disallowed_methods)] // the one place that asks the system
pub fn now() -> Timestamp {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |elapsed| elapsed.as_secs_f64())
}

/// What a file would have for its time if it were written now.
#[allow(clippy::disallowed_methods)] // the host's clock, whatever that of this process shows
pub fn files_now() -> SystemTime {
    SystemTime::now()
}

/// The system's wall time as lines of a log have it, in the zone of this host.
#[allow(clippy::disallowed_methods)] // the one place that asks the system
pub fn local_now() -> DateTime<Local> {
    Local::now()
}

/// How long to sleep from one time until another one, whatever they are: from a millisecond to an hour.
pub fn sleep_between(now: Timestamp, at: Timestamp) -> Duration {
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

/// A time of a record as people read it.
pub fn utc(seconds: i64) -> String {
    let time = DateTime::from_timestamp(seconds, 0);
    time.map_or_else(|| seconds.to_string(), |time| time.format("%Y-%m-%d %H:%M:%S UTC").to_string())
}

/// Notices that the clock was set.
#[derive(Debug, Default)]
pub struct Steps {
    last: Option<(Timestamp, Instant)>,
    /// When it was last noticed that the clock was set.
    noticed: Option<Instant>,
}

impl Steps {
    /// By how many seconds the clock was set since the last call; negative: back. `now` and `at` are the same moment.
    pub fn step(&mut self, now: Timestamp, at: Instant) -> Option<f64> {
        let (before, before_at) = self.last.replace((now, at))?;
        let step = now - before - at.saturating_duration_since(before_at).as_secs_f64();
        let has_stepped = step.abs() >= LEAST_STEP;
        if has_stepped {
            self.noticed = Some(at);
        }
        has_stepped.then_some(step)
    }

    /// When something must have been seen at the earliest to say anything of what a record knows since `since`, by whatever
    /// host's clock. `None`: whatever this process has seen does. `now` and `at` are the same moment.
    ///
    /// Never before the last step of the clock: how long ago a time of before it was cannot be told by the clock after it.
    pub fn seen_after(&self, since: Timestamp, now: Timestamp, at: Instant) -> Option<Instant> {
        let age = now - since - CLOCKS_DIFFER;
        let moment = if age < 0.0 {
            // A day stands for "not yet", however far in the future that is.
            Some(at + Duration::from_secs_f64((-age).min(86_400.0)))
        } else {
            Duration::try_from_secs_f64(age).ok().and_then(|age| at.checked_sub(age))
        };
        moment.max(self.noticed)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NOW: Timestamp = 1_760_000_000.0;

    #[tokio::test(start_paused = true)]
    async fn a_simulated_clock_goes_with_tokios_time_and_only_its_wall_time_is_set() {
        let simulated = Simulated::starting_at(NOW);
        let clock = simulated.clock();
        tokio::time::sleep(Duration::from_secs(7200)).await;
        assert_eq!((clock.now(), clock.uptime()), (NOW + 7200.0, Uptime(7200.0)));
        simulated.set_by(-3600.0);
        assert_eq!((clock.now(), clock.uptime()), (NOW + 3600.0, Uptime(7200.0)), "clones are one clock");
    }

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

    #[test]
    fn what_was_seen_counts_when_it_was_after_the_records_time_whatever_the_clocks_say() {
        let (steps, look) = (Steps::default(), Instant::now());
        let counts = |since: Timestamp| steps.seen_after(since, NOW, look).is_none_or(|from| look > from);
        assert!(counts(NOW - 60.0));
        assert!(!counts(NOW - 1.0), "another host's clock may be a little behind");
        assert!(!counts(NOW + 3600.0) && !counts(1e300));
        assert!(counts(0.0) && counts(-1e300));
    }

    #[test]
    fn what_was_seen_before_the_clock_was_set_says_nothing_of_what_a_record_has_from_then() {
        let start = Instant::now();
        let after = |seconds| start + Duration::from_secs(seconds);
        for step in [3600.0, -3600.0] {
            let mut steps = Steps::default();
            steps.step(NOW, start);
            let counts = |steps: &Steps, seen, since, now, at| {
                steps.seen_after(since, now, after(at)).is_none_or(|from| after(seen) > from)
            };
            // Ready at the 100th second, and seen missing in the 60th, before it was made.
            assert!(!counts(&steps, 60, NOW + 100.0, NOW + 105.0, 105));
            steps.step(NOW + 110.0 + step, after(110));
            assert!(!counts(&steps, 60, NOW + 100.0, NOW + 111.0 + step, 111), "{step}");
        }
        let mut steps = Steps::default();
        steps.step(NOW, start);
        steps.step(NOW + 3710.0, after(110));
        let later = steps.seen_after(NOW + 100.0, NOW + 3800.0, after(200));
        assert!(later.is_none_or(|from| after(120) > from), "what is seen after the step counts");
    }
}
