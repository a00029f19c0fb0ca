//! [`Gate`]: what all calls of one service pass, so that they learn from each other how it is.
//!
//! - "Later" (429, and 413 or 503 with `Retry-After`) is told to one call and obeyed by all: the gate is closed until
//!   then. Without a time, it is closed for a second, doubling with each such round.
//! - A service that fails (no connection, no answer in time, 502, 503, 504) several times in a row, whoever called, is
//!   in trouble: the gate is closed but for one call at a time, the probe, at growing intervals. The first answer, the
//!   probe's or that of a call that was on its way, opens it to all at once. So however many launches are waiting, a
//!   dead service is asked about as often as by one.
//! - The number of calls on their way is bounded, because each that hangs holds a socket. A part of it is kept for
//!   calls that create nothing: a hundred slow creations must not keep us from listing and deleting.
//! - clouds.yaml's `rate_limit` spaces calls ([`super::turns`]), its `concurrency` is the bound.
//!
//! 500 says nothing here: Nova answers it for one odd server as well as for a dead database.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{
    sync::{Notify, OwnedSemaphorePermit, Semaphore},
    time::{Instant, timeout_at},
};

use super::turns::Turns;
use crate::{ErrorClass, openstack::api::CloudError};

/// A longer `Retry-After` is not waited for: services have been seen to say hours.
pub(super) const LONGEST_WAIT: Duration = Duration::from_secs(30);
/// The wait that a service leaves to us, at first.
const FIRST_WAIT: Duration = Duration::from_secs(1);
/// Failures in a row that mean trouble.
const FAILURES: u32 = 3;
/// Between the failure that means trouble and the first probe.
const FIRST_PROBE: Duration = Duration::from_millis(500);
/// Between two probes, at most.
const LAST_PROBE: Duration = Duration::from_secs(10);
/// Calls on their way to one service.
const CALLS: usize = 64;

/// See the module's comment.
#[derive(Debug)]
pub(super) struct Gate {
    state: Mutex<State>,
    /// The gate has opened, or a probe has ended without one.
    news: Notify,
    calls: Arc<Semaphore>,
    creations: Arc<Semaphore>,
    turns: Turns,
}

#[derive(Debug)]
struct State {
    later: Option<Later>,
    failures: u32,
    trouble: Option<Trouble>,
}

#[derive(Debug)]
struct Later {
    until: Instant,
    wait: Duration,
    error: CloudError,
}

#[derive(Debug)]
struct Trouble {
    error: CloudError,
    interval: Duration,
    next: Instant,
    probing: bool,
}

/// How a call ended, as far as the service's health goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Health {
    /// It answers.
    Answers,
    /// It says "later", and when, if it says so. Otherwise it answers.
    Later(Option<Duration>),
    /// It fails, and may have said when to come back.
    Fails(Option<Duration>),
    /// It answers, and not well.
    Unclear,
}

/// The right to make one call. Dropped, the call was not made or not finished.
#[derive(Debug)]
pub(super) struct Pass<'a> {
    gate: &'a Gate,
    /// Whether the service is in trouble and this call is to find out how it is.
    pub is_probe: bool,
    ended: bool,
    _call: OwnedSemaphorePermit,
    _creation: Option<OwnedSemaphorePermit>,
}

/// Why there is no pass now.
#[derive(Debug)]
struct Closed {
    until: Instant,
    error: CloudError,
}

impl Gate {
    /// With so many calls a second and so many at a time at most.
    pub fn new(rate: Option<f64>, concurrency: Option<usize>) -> Self {
        let calls = concurrency.unwrap_or(CALLS).max(1);
        Self {
            state: Mutex::new(State { later: None, failures: 0, trouble: None }),
            news: Notify::new(),
            calls: Arc::new(Semaphore::new(calls)),
            creations: Arc::new(Semaphore::new((calls * 3 / 4).max(1))),
            turns: Turns::new(rate),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for a pass until then. `Ok(None)`: it takes longer than `look_up`, so that the caller may look about him
    /// before he asks again. An error is the one that keeps the gate closed.
    pub async fn pass(&self, creates: bool, until: Instant, look_up: Duration) -> Result<Option<Pass<'_>>, CloudError> {
        let look_up = Instant::now() + look_up;
        loop {
            let acquired = timeout_at(until, async {
                let creation = if creates { Some(Arc::clone(&self.creations).acquire_owned().await) } else { None };
                (creation.transpose(), Arc::clone(&self.calls).acquire_owned().await)
            });
            // A semaphore of ours is never closed.
            let Ok((Ok(creation), Ok(call))) = acquired.await else {
                return Err(CloudError::new(
                    ErrorClass::Transient,
                    "its turn did not come in time: all calls that may be on their way at once are slow".to_owned(),
                ));
            };
            // Before the state is read, so that no news is missed.
            let mut news = std::pin::pin!(self.news.notified());
            news.as_mut().enable();
            let closed = match self.enter(until) {
                Ok(is_probe) => {
                    let pass = Pass { gate: self, is_probe, ended: false, _call: call, _creation: creation };
                    if timeout_at(until, self.turns.take(creates)).await.is_err() {
                        return Err(CloudError::new(
                            ErrorClass::Transient,
                            format!(
                                "its turn did not come in time: rate_limit spaces calls by {:?}",
                                self.turns.spacing
                            ),
                        ));
                    }
                    // While it waited for its turn, others may have learnt better.
                    if is_probe || !self.has_closed() {
                        return Ok(Some(pass));
                    }
                    continue;
                }
                Err(closed) => closed,
            };
            drop((creation, call));
            let now = Instant::now();
            if now >= until {
                return Err(closed.error);
            }
            if now >= look_up {
                return Ok(None);
            }
            // Whether it is the time or the news that ends the wait, the state tells.
            let _ = timeout_at(closed.until.min(until).min(look_up), news).await;
        }
    }

    /// Whether the caller may go, and if so, whether as the probe.
    fn enter(&self, until: Instant) -> Result<bool, Closed> {
        let mut state = self.state();
        let now = Instant::now();
        if let Some(later) = state.later.as_ref().filter(|later| later.until > now) {
            return Err(Closed { until: later.until, error: later.error.clone() });
        }
        if let Some(trouble) = state.trouble.as_ref()
            && (trouble.probing || trouble.next > now)
        {
            let until = if trouble.probing { until } else { trouble.next };
            return Err(Closed { until, error: trouble.error.clone() });
        }
        let is_probe = state.trouble.is_some();
        if let Some(trouble) = &mut state.trouble {
            trouble.probing = true;
        }
        Ok(is_probe)
    }

    /// When the next probe of a service in trouble may be made.
    pub fn next_probe(&self) -> Option<Instant> {
        self.state().trouble.as_ref().map(|trouble| trouble.next)
    }

    fn has_closed(&self) -> bool {
        let state = self.state();
        state.trouble.is_some() || state.later.as_ref().is_some_and(|later| later.until > Instant::now())
    }

    fn ended(&self, health: Health, is_probe: bool, error: Option<&CloudError>) {
        let mut state = self.state();
        let now = Instant::now();
        let unknown = || CloudError::new(ErrorClass::Transient, "the service is in trouble".to_owned());
        let error = || error.cloned().unwrap_or_else(unknown);
        if let Health::Later(wait) | Health::Fails(wait @ Some(_)) = health {
            state.come_back(now, wait, &error());
        }
        match health {
            Health::Answers | Health::Later(_) => {
                state.failures = 0;
                state.trouble = None;
                if health == Health::Answers && state.later.as_ref().is_some_and(|later| later.until <= now) {
                    state.later = None;
                }
                self.news.notify_waiters();
            }
            Health::Fails(_) => {
                state.failures = state.failures.saturating_add(1);
                if state.trouble.is_none() && state.failures >= FAILURES {
                    let next = now + FIRST_PROBE;
                    state.trouble = Some(Trouble { error: error(), interval: FIRST_PROBE, next, probing: false });
                }
            }
            Health::Unclear => {}
        }
        if let Some(trouble) = state.trouble.as_mut().filter(|_| is_probe) {
            trouble.interval = (trouble.interval * 2).min(LAST_PROBE);
            trouble.next = now + trouble.interval;
            trouble.probing = false;
            trouble.error = error();
            self.news.notify_waiters();
        }
    }
}

impl State {
    fn come_back(&mut self, now: Instant, wait: Option<Duration>, error: &CloudError) {
        // Answers to calls that were on their way when the gate was closed are no new round.
        let again = self.later.as_ref().filter(|later| later.until <= now).map(|later| later.wait * 2);
        let current = self.later.as_ref().map(|later| later.wait);
        // At least for a moment, also where it says "now": it has just said "later".
        let wait = wait.or(again).or(current).unwrap_or(FIRST_WAIT).clamp(FIRST_WAIT, LONGEST_WAIT);
        if self.later.as_ref().is_none_or(|later| later.until < now + wait) {
            self.later = Some(Later { until: now + wait, wait, error: error.clone() });
        }
    }
}

impl Pass<'_> {
    /// The call has ended so; with its error, if it had one.
    pub fn end(mut self, health: Health, error: Option<&CloudError>) {
        self.ended = true;
        self.gate.ended(health, self.is_probe, error);
    }
}

impl Drop for Pass<'_> {
    fn drop(&mut self) {
        if self.is_probe && !self.ended {
            // Somebody else is to find out.
            if let Some(trouble) = &mut self.gate.state().trouble {
                trouble.probing = false;
            }
            self.gate.news.notify_waiters();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(3600);

    fn error(text: &str) -> CloudError {
        CloudError::new(ErrorClass::Transient, text)
    }

    async fn passed(gate: &Gate) -> Pass<'_> {
        gate.pass(false, Instant::now() + LONG, LONG).await.unwrap().unwrap()
    }

    async fn in_trouble() -> Gate {
        let gate = Gate::new(None, None);
        for _ in 0..FAILURES {
            passed(&gate).await.end(Health::Fails(None), Some(&error("HTTP 503")));
        }
        gate
    }

    #[tokio::test(start_paused = true)]
    async fn what_one_call_is_told_to_wait_all_wait() {
        let gate = Gate::new(None, None);
        let start = Instant::now();
        let on_its_way = passed(&gate).await;
        passed(&gate).await.end(Health::Later(Some(Duration::from_secs(7))), Some(&error("HTTP 429")));
        // Which still had its answer on the way, does not lengthen it.
        on_its_way.end(Health::Later(Some(Duration::from_secs(7))), Some(&error("HTTP 429")));
        drop(passed(&gate).await);
        assert_eq!(start.elapsed().as_secs(), 7);
        let impatient = gate.pass(false, Instant::now(), LONG).await;
        assert!(impatient.unwrap().is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn a_wait_without_a_time_doubles_and_a_long_one_is_bounded() {
        let gate = Gate::new(None, None);
        let start = Instant::now();
        for _ in 0..3 {
            passed(&gate).await.end(Health::Later(None), Some(&error("HTTP 429")));
        }
        drop(passed(&gate).await);
        assert_eq!(start.elapsed().as_secs(), 1 + 2 + 4);
        passed(&gate).await.end(Health::Later(Some(LONG)), Some(&error("HTTP 429")));
        drop(passed(&gate).await);
        assert_eq!(start.elapsed().as_secs(), 7 + LONGEST_WAIT.as_secs());
    }

    #[tokio::test(start_paused = true)]
    async fn a_service_in_trouble_is_asked_by_one_call_at_a_time_ever_less_often() {
        let gate = Arc::new(in_trouble().await);
        let start = Instant::now();
        let asked = Arc::new(Mutex::new(Vec::new()));
        for _ in 0..200 {
            let (gate, asked) = (Arc::clone(&gate), Arc::clone(&asked));
            tokio::spawn(async move {
                while let Ok(Some(pass)) = gate.pass(true, start + LONG, LONG).await {
                    asked.lock().unwrap().push(start.elapsed().as_millis());
                    pass.end(Health::Fails(None), Some(&error("HTTP 503")));
                }
            });
        }
        tokio::time::sleep(Duration::from_secs(60)).await;
        let asked: Vec<u128> = asked.lock().unwrap().iter().map(|ms| (ms + 50) / 100).collect();
        assert_eq!(asked, [5, 15, 35, 75, 155, 255, 355, 455, 555], "tenths of a second");
    }

    #[tokio::test(start_paused = true)]
    async fn the_first_answer_lets_all_go_at_once() {
        let gate = in_trouble().await;
        let probe = passed(&gate).await;
        assert!(probe.is_probe);
        let start = Instant::now();
        let many: Vec<_> = (0..50).map(|_| passed(&gate)).collect();
        let (many, ()) = tokio::join!(futures::future::join_all(many), async {
            tokio::time::sleep(Duration::from_secs(5)).await;
            probe.end(Health::Answers, None);
        });
        assert!(many.iter().all(|pass| !pass.is_probe));
        assert_eq!(start.elapsed().as_secs(), 5);
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_too_long_gets_the_error_that_closed_the_gate() {
        let gate = in_trouble().await;
        let _probe = passed(&gate).await;
        let start = Instant::now();
        let error = gate.pass(false, start + Duration::from_secs(4), LONG).await.unwrap_err();
        assert_eq!((error.message.as_str(), start.elapsed().as_secs()), ("HTTP 503", 4));
        assert!(gate.pass(false, start + LONG, Duration::from_secs(1)).await.unwrap().is_none(), "time to look up");
    }

    #[tokio::test(start_paused = true)]
    async fn a_probe_that_is_given_up_is_followed_by_another() {
        let gate = in_trouble().await;
        drop(passed(&gate).await);
        assert!(passed(&gate).await.is_probe);
    }

    #[tokio::test(start_paused = true)]
    async fn failures_between_answers_are_no_trouble_and_500_is_neither() {
        let gate = Gate::new(None, None);
        for health in [
            Health::Fails(None),
            Health::Fails(None),
            Health::Answers,
            Health::Unclear,
            Health::Unclear,
            Health::Answers,
        ]
        .into_iter()
        .cycle()
        .take(20)
        {
            let pass = passed(&gate).await;
            assert!(!pass.is_probe);
            pass.end(health, None);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn calls_that_hang_are_bounded_and_leave_room_for_others_than_creations() {
        let gate = Gate::new(None, Some(8));
        let soon = || Instant::now() + Duration::from_secs(1);
        let mut hanging = Vec::new();
        while let Ok(Some(pass)) = gate.pass(true, soon(), LONG).await {
            hanging.push(pass);
        }
        assert_eq!(hanging.len(), 6);
        while let Ok(Some(pass)) = gate.pass(false, soon(), LONG).await {
            hanging.push(pass);
        }
        assert_eq!(hanging.len(), 8);
    }

    #[tokio::test(start_paused = true)]
    async fn rate_limit_spaces_calls() {
        let gate = Gate::new(Some(4.0), None);
        let start = Instant::now();
        for _ in 0..9 {
            passed(&gate).await.end(Health::Answers, None);
        }
        assert_eq!(start.elapsed().as_millis(), 2000);
    }
}
