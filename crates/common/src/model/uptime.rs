//! [`Uptime`]: time that nobody sets.

use std::{
    cmp::Ordering,
    ops::{Add, Sub},
    time::Duration,
};

/// Monotonic time: seconds since this process's clock was made. By it go pauses and ages of what is known in memory, which no setting
/// of the host's clock makes longer or shorter. Means nothing to other processes, and is in no record.
#[derive(Clone, Copy, Debug, Default)]
pub struct Uptime(pub f64);

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
