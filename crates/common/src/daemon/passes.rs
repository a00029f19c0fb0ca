//! Whether passes still end: a daemon whose pass hangs, or whose loop stands still, answers every probe and decides nothing.
//!
//! The loop puts down what it is doing; once a second ([`TICK`]) a thread of its own looks ([`Passes::tick`]). A pass is **due**
//! while the loop is at work, and while it waits although it was woken or its time has come. It is **overdue** when so
//! many looks in a row have found one due, and none has ended between them.
//!
//! Looks are counted, not seconds: a machine that was suspended, or a container that was frozen, for an hour has made one
//! look meanwhile, however the clocks count that hour. While there is no connection to ZooKeeper, or the tree is read for
//! the first time, no pass is due: there is nothing to decide from.
//!
//! A panic in a pass is no case of this: it ends the process.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

/// How often somebody looks.
pub const TICK: Duration = Duration::from_secs(1);

/// For how long a pass may be due until it is overdue, unless told otherwise. A pass over 100,000 nodes takes about a second;
/// a pod without its share of CPU may need ten times that.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// What the loop does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Doing {
    /// It waits for a signal, or for this time. `changes`: the changes of records that it has seen.
    Waiting { until: Option<Instant>, changes: u64 },
    /// It makes a pass.
    Passing,
    /// All else: it begins or ends, or paces itself.
    Between,
}

#[derive(Debug)]
struct State {
    doing: Doing,
    /// Looks in a row that found a pass due.
    looks: u32,
}

/// See the module's comment.
#[derive(Debug)]
pub struct Passes {
    /// In looks.
    patience: u32,
    state: Mutex<State>,
}

/// What a look has found, where it is something to be said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// A pass is overdue from now on; why, for people.
    Overdue(String),
    /// Passes end again, after that many seconds.
    Again(u32),
}

impl Passes {
    /// With that much patience, in whole seconds.
    pub fn new(patience: Duration) -> Self {
        let patience = u32::try_from(patience.as_secs() / TICK.as_secs()).unwrap_or(u32::MAX).max(1);
        Self { patience, state: Mutex::new(State { doing: Doing::Between, looks: 0 }) }
    }

    /// A pass begins.
    pub fn begin(&self) {
        self.open().doing = Doing::Passing;
    }

    /// A pass has ended, or there was no cause for one.
    pub fn end(&self) -> Option<Found> {
        let mut state = self.open();
        let looks = std::mem::take(&mut state.looks);
        state.doing = Doing::Between;
        (looks >= self.patience).then_some(Found::Again(looks))
    }

    /// The loop waits. `until`: when it passes at the latest.
    pub fn wait(&self, until: Option<Instant>, changes: u64) {
        self.open().doing = Doing::Waiting { until, changes };
    }

    /// The loop goes on.
    pub fn go_on(&self) {
        self.open().doing = Doing::Between;
    }

    /// One look, [`TICK`] after the last one. `woken`: the loop was told to pass. `changes`: of records until now.
    pub fn tick(&self, now: Instant, woken: bool, changes: u64) -> Option<Found> {
        let mut state = self.open();
        let is_due = match state.doing {
            Doing::Passing | Doing::Between => true,
            Doing::Waiting { until, changes: seen } => {
                woken || changes != seen || until.is_some_and(|until| until <= now)
            }
        };
        state.looks = if is_due { state.looks.saturating_add(1) } else { 0 };
        (state.looks == self.patience).then(|| Found::Overdue(state.describe()))
    }

    /// Why a pass is overdue, for people; `None`: none is.
    pub fn overdue(&self) -> Option<String> {
        let state = self.open();
        (state.looks >= self.patience).then(|| state.describe())
    }

    /// For how many seconds a pass has been due; 0: none is.
    pub fn due_for(&self) -> u32 {
        self.open().looks
    }

    /// Is never held while something else is waited for.
    fn open(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn describe(&self) -> String {
        let what = match self.doing {
            Doing::Passing => "the one that has begun does not end",
            Doing::Between | Doing::Waiting { .. } => "one is due, and does not begin",
        };
        format!(
            "No pass has ended for {} s: {what}. Nothing is decided any more, what runs goes on. Restart this process, \
             and please report it with its log.",
            self.looks
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(3);

    fn looks(passes: &Passes, count: usize) -> Vec<Option<Found>> {
        (0..count).map(|_| passes.tick(Instant::now(), false, 7)).collect()
    }

    #[test]
    fn a_pass_that_does_not_end_is_overdue_after_a_while_and_said_once() {
        let passes = Passes::new(LONG);
        passes.begin();
        assert_eq!(looks(&passes, 2), [None, None]);
        assert_eq!(passes.overdue(), None);
        let found = looks(&passes, 3);
        assert!(matches!(&found[0], Some(Found::Overdue(why)) if why.contains("does not end")), "{found:?}");
        assert_eq!(found[1..], [None, None]);
        assert!(passes.overdue().unwrap().starts_with("No pass has ended for 5 s"), "{:?}", passes.overdue());
        assert_eq!(passes.end(), Some(Found::Again(5)));
        assert_eq!((passes.overdue(), passes.due_for()), (None, 0));
    }

    #[test]
    fn passes_that_end_are_never_overdue_however_many_there_are() {
        let passes = Passes::new(LONG);
        for _ in 0..20 {
            passes.begin();
            assert_eq!(looks(&passes, 2), [None, None]);
            assert_eq!(passes.end(), None);
        }
    }

    #[test]
    fn a_loop_that_waits_is_overdue_only_where_something_should_have_woken_it() {
        let now = Instant::now();
        let after = |until: Option<Duration>, woken, changes| {
            let passes = Passes::new(LONG);
            passes.wait(until.map(|until| now + until), 7);
            (0..10).for_each(|_| drop(passes.tick(now + Duration::from_secs(10), woken, changes)));
            passes.overdue()
        };
        assert_eq!(after(None, false, 7), None, "an idle daemon");
        assert_eq!(after(Some(Duration::from_secs(3600)), false, 7), None);
        assert!(after(Some(Duration::from_secs(5)), false, 7).is_some(), "its time has come");
        assert!(after(None, true, 7).is_some(), "it was woken");
        assert!(after(None, false, 8).is_some(), "a record has changed");
    }

    #[test]
    fn what_was_due_and_has_become_needless_is_forgotten() {
        let passes = Passes::new(LONG);
        passes.begin();
        looks(&passes, 2);
        passes.wait(None, 7);
        assert_eq!(looks(&passes, 1), [None]);
        passes.begin();
        assert_eq!(looks(&passes, 2), [None, None], "counted anew");
    }
}
