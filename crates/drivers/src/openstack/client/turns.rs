//! [`Turns`]: what clouds.yaml's `rate_limit` makes of calls: one after the other, at least so far apart.
//!
//! Creations and other calls wait in two lines, each in the order of arrival, and take turns while both have somebody
//! waiting. So a hundred launches that queue at one call a second do not keep the listing that they all depend on, or
//! the deletions that make room, waiting for a hundred seconds; and neither do deletions keep launches from beginning.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{
    sync::Notify,
    time::{Instant, sleep_until},
};

/// See the module's comment.
#[derive(Debug)]
pub(super) struct Turns {
    /// Between two calls; none without a limit.
    pub spacing: Duration,
    /// Of other calls and of creations; held by the first in line.
    lines: [tokio::sync::Mutex<()>; 2],
    state: Mutex<State>,
    /// A turn was taken, or somebody has left the head of a line.
    news: Notify,
}

#[derive(Debug)]
struct State {
    /// When the next call may begin.
    next: Instant,
    /// Whether the last one was a creation.
    created: bool,
    /// Whether a line has a first.
    waits: [bool; 2],
}

/// The first of a line, until it has had its turn or goes away.
struct First<'a> {
    turns: &'a Turns,
    line: usize,
}

impl Turns {
    /// With so many calls a second at most.
    pub fn new(rate: Option<f64>) -> Self {
        let spacing = rate.filter(|rate| *rate > 0.0).and_then(|rate| Duration::try_from_secs_f64(1.0 / rate).ok());
        Self {
            spacing: spacing.unwrap_or_default(),
            lines: [tokio::sync::Mutex::default(), tokio::sync::Mutex::default()],
            state: Mutex::new(State { next: Instant::now(), created: false, waits: [false; 2] }),
            news: Notify::new(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for the turn of a call. Dropped before that, none is used up.
    pub async fn take(&self, creates: bool) {
        if self.spacing.is_zero() {
            return;
        }
        let line = usize::from(creates);
        let _line = self.lines[line].lock().await;
        self.state().waits[line] = true;
        let _first = First { turns: self, line };
        loop {
            // Before the state is read, so that no news is missed.
            let mut news = std::pin::pin!(self.news.notified());
            news.as_mut().enable();
            let (next, is_others) = {
                let mut state = self.state();
                let is_others = state.waits[1 - line] && state.created == creates;
                let now = Instant::now();
                if state.next <= now && !is_others {
                    state.next = now + self.spacing;
                    state.created = creates;
                    return;
                }
                (state.next, is_others)
            };
            if is_others {
                news.await;
            } else {
                tokio::select! {
                    () = sleep_until(next) => {}
                    () = news => {}
                }
            }
        }
    }
}

impl Drop for First<'_> {
    fn drop(&mut self) {
        self.turns.state().waits[self.line] = false;
        self.turns.news.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tokio::task::JoinHandle;

    use super::*;

    /// Seconds after which it had its turn.
    fn queued(turns: &Arc<Turns>, creates: bool, start: Instant) -> JoinHandle<u64> {
        let turns = Arc::clone(turns);
        tokio::spawn(async move {
            turns.take(creates).await;
            start.elapsed().as_secs()
        })
    }

    #[tokio::test(start_paused = true)]
    async fn creations_that_queue_do_not_keep_a_listing_waiting() {
        let (turns, start) = (Arc::new(Turns::new(Some(0.5))), Instant::now());
        let creations: Vec<_> = (0..50).map(|_| queued(&turns, true, start)).collect();
        tokio::time::sleep(Duration::from_secs(9)).await;
        let listing = queued(&turns, false, start);
        let deletion = queued(&turns, false, start);
        assert_eq!((listing.await.unwrap(), deletion.await.unwrap()), (10, 14));
        let mut last = 0;
        for creation in creations {
            last = creation.await.unwrap();
        }
        assert_eq!(last, 2 * 51, "one turn each, and no turn unused");
    }

    #[tokio::test(start_paused = true)]
    async fn deletions_that_queue_do_not_keep_a_creation_waiting() {
        let (turns, start) = (Arc::new(Turns::new(Some(1.0))), Instant::now());
        let deletions: Vec<_> = (0..50).map(|_| queued(&turns, false, start)).collect();
        tokio::time::sleep(Duration::from_millis(4500)).await;
        assert_eq!(queued(&turns, true, start).await.unwrap(), 5);
        deletions.iter().for_each(JoinHandle::abort);
    }

    #[tokio::test(start_paused = true)]
    async fn who_goes_away_uses_no_turn_and_lets_the_next_come() {
        let (turns, start) = (Arc::new(Turns::new(Some(1.0))), Instant::now());
        turns.take(true).await;
        let impatient = queued(&turns, false, start);
        let patient = queued(&turns, true, start);
        tokio::time::sleep(Duration::from_millis(500)).await;
        impatient.abort();
        assert_eq!(patient.await.unwrap(), 1);
    }
}
