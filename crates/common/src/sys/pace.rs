//! [`Pace`]: how soon passes follow each other.
//!
//! A pass has a price of its own, whatever it has to do: the loop is woken, the records are looked up, what is decided is
//! handed out. A daemon with little to do should react at once; one to which hundreds of things happen in a second does better
//! with a pass for several of them. So some passes may follow each other at once, and in the long run there is one in each
//! [`Pace::every`]: what happens meanwhile is planned with together.

use std::time::Duration;

use tokio::time::Instant;

/// How many passes are made. See the module.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// In the long run there is no more than one pass in this time.
    pub every: Duration,
    /// So many passes may follow each other at once, after as many of these times without one.
    pub at_once: u32,
}

/// Keeps the pace (the generic cell rate algorithm).
#[derive(Debug)]
pub(crate) struct Pacer {
    pace: Pace,
    /// When the passes made so far would have begun had each waited for its turn; `None`: none has been made.
    due: Option<Instant>,
}

impl Pacer {
    pub(crate) fn new(pace: Pace) -> Self {
        Self { pace, due: None }
    }

    /// A pass begins. Returns when the next one may.
    pub(crate) fn begin(&mut self, now: Instant) -> Instant {
        let due = self.due.map_or(now, |due| due.max(now)) + self.pace.every;
        self.due = Some(due);
        let ahead = self.pace.every * self.pace.at_once.saturating_sub(1);
        due.checked_sub(ahead).map_or(now, |from| from.max(now))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EVERY: Duration = Duration::from_millis(5);

    /// When each of so many passes begins that are all wanted at once, in ms from the first one.
    fn begins(pacer: &mut Pacer, from: Instant, passes: u32) -> Vec<u128> {
        let mut now = from;
        let mut begun = Vec::new();
        for _ in 0..passes {
            begun.push((now - from).as_millis());
            now = pacer.begin(now);
        }
        begun
    }

    #[test]
    fn some_passes_follow_at_once_and_then_one_in_each_time() {
        let mut pacer = Pacer::new(Pace { every: EVERY, at_once: 3 });
        let now = Instant::now();
        assert_eq!(begins(&mut pacer, now, 6), [0, 0, 0, 5, 10, 15]);
        let later = now + Duration::from_millis(25);
        assert_eq!(begins(&mut pacer, later, 4), [0, 0, 5, 10], "two of the times have passed without a pass");
        let much_later = now + Duration::from_secs(60);
        assert_eq!(begins(&mut pacer, much_later, 5), [0, 0, 0, 5, 10], "no more than that is saved up");
    }

    #[test]
    fn one_at_once_is_one_in_each_time() {
        let mut pacer = Pacer::new(Pace { every: EVERY, at_once: 1 });
        assert_eq!(begins(&mut pacer, Instant::now(), 3), [0, 5, 10]);
    }

    #[test]
    fn without_a_time_all_follow_at_once() {
        let mut pacer = Pacer::new(Pace { every: Duration::ZERO, at_once: 1 });
        assert_eq!(begins(&mut pacer, Instant::now(), 3), [0, 0, 0]);
    }
}
