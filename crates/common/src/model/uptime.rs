//! [`Uptime`]: time that nobody sets.

use std::{
    cmp::Ordering,
    ops::{Add, Sub},
    time::Duration,
};

use super::Timestamp;

/// Monotonic time: seconds since this process's clock was made. By it go pauses and ages of what is known in memory, which no setting
/// of the host's clock makes longer or shorter. Means nothing to other processes, and is in no record.
#[derive(Clone, Copy, Debug, Default)]
pub struct Uptime(pub f64);

impl Uptime {
    /// This moment as the wall clock shows it, or would have shown it, where it shows `now` at the moment `uptime`.
    pub fn wall(self, now: Timestamp, uptime: Self) -> Timestamp {
        now + (self - uptime)
    }

    /// When a pause ends by the wall clock, unless that is set meanwhile; `None`: it is over, or there is none. `now` and
    /// `uptime` are the same moment.
    pub fn pause_ends(pause: Option<&Self>, now: Timestamp, uptime: Self) -> Option<Timestamp> {
        pause.filter(|ends| **ends > uptime).map(|ends| ends.wall(now, uptime))
    }
}

/// Later by that many seconds.
impl Add<f64> for Uptime {
    type Output = Self;

    fn add(self, seconds: f64) -> Self {
        Self(self.0 + seconds)
    }
}

/// Later by that long.
impl Add<Duration> for Uptime {
    type Output = Self;

    fn add(self, pause: Duration) -> Self {
        self + pause.as_secs_f64()
    }
}

/// Seconds between two; negative where the second one is later.
impl Sub for Uptime {
    type Output = f64;

    fn sub(self, other: Self) -> f64 {
        self.0 - other.0
    }
}

impl PartialEq for Uptime {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Uptime {}

impl Ord for Uptime {
    fn cmp(&self, other: &Self) -> Ordering {
        self.0.total_cmp(&other.0)
    }
}

impl PartialOrd for Uptime {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
