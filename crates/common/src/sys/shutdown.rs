//! Signals into one orderly stop.
//!
//! The first SIGINT, SIGUSR1 or SIGTERM sets a [`ShutdownReason`] and cancels the token that every task listens to;
//! the launcher decides by the reason how long it waits for what is under way. Upstream's SIGTERM, which is how
//! Kubernetes stops a pod, exits at once and leaves the cleaning to the next start (`nodepool 11.0.0:
//! cmd/launcher.py`); ours stops in order but without waiting for clouds, also when it comes while a SIGINT or SIGUSR1 is
//! being followed. A second SIGINT, and any further SIGTERM, is somebody who does not want to wait: the process exits at
//! once. SIGUSR2 asks for a dump of the state into the log, where Python dumps its threads' stacks.
//!
//! A task without which the process would live on and hear nothing any more (of ZooKeeper, of its configuration) is
//! spawned under [`Shutdown::guard`]: if it panics, the reason is logged and the process stops as by SIGTERM, with
//! status 1, so that whatever started it starts it again.

use std::{
    any::Any,
    cell::RefCell,
    future::Future,
    io,
    panic::{self, AssertUnwindSafe},
    process::ExitCode,
    sync::{
        Arc, Once,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    thread,
    time::Duration,
};

use futures::FutureExt;
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    task::JoinHandle,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::watch;

/// For the stop after a failure: what has failed may be what the stop needs.
const LAST_STOP: Duration = Duration::from_secs(60);

/// Why, and so how, to stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ShutdownReason {
    /// SIGINT, SIGUSR1, or a caller's own: finish what is under way.
    Graceful,
    /// SIGTERM, or a failure: release what others may take over, quickly.
    Terminate,
}

/// What a request to stop has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Requested {
    /// The stop begins.
    Begun,
    /// A graceful stop has become a quick one.
    Hastened,
    /// Nothing: it was stopping like that already, or quicker.
    Again,
}

/// The stop of a process and its tasks. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Shutdown {
    token: CancellationToken,
    tracker: TaskTracker,
    reason: watch::Sender<Option<ShutdownReason>>,
    dumps: watch::Sender<u64>,
    failed: Arc<AtomicBool>,
}

impl Default for Shutdown {
    fn default() -> Self {
        Self::new()
    }
}

/// The signals that mean something.
struct Signals {
    interrupt: Signal,
    terminate: Signal,
    stop: Signal,
    dump: Signal,
}

impl Signals {
    /// From now on, in the runtime that is entered.
    fn new() -> io::Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            stop: signal(SignalKind::user_defined1())?,
            dump: signal(SignalKind::user_defined2())?,
        })
    }
}

impl Shutdown {
    /// One that nothing has stopped yet and that does not listen to signals.
    pub fn new() -> Self {
        Self {
            token: CancellationToken::new(),
            tracker: TaskTracker::new(),
            reason: watch::Sender::new(None),
            dumps: watch::Sender::new(0),
            failed: Arc::default(),
        }
    }

    /// Follows the process' signals for as long as it lives, whatever its other threads do. The error is the kernel's refusal to
    /// install a handler, or to make a thread.
    pub fn listen_for_signals(&self) -> io::Result<()> {
        let this = self.clone();
        let (ready, is_ready) = mpsc::channel();
        // On a thread of its own, because they count most where the others are stuck; and not among the tasks that are waited for:
        // the second signal may come while that happens.
        thread::Builder::new().name("signals".to_owned()).spawn(move || {
            let signals = tokio::runtime::Builder::new_current_thread().enable_all().build().and_then(|runtime| {
                let _entered = runtime.enter();
                let signals = Signals::new()?;
                Ok((runtime, signals))
            });
            match signals {
                Ok((runtime, signals)) => {
                    let _ = ready.send(Ok(()));
                    runtime.block_on(async {
                        this.guard("listener to signals", this.take(signals)).await;
                        // What a failure has begun goes on.
                        std::future::pending::<()>().await;
                    });
                }
                Err(error) => drop(ready.send(Err(error))),
            }
        })?;
        is_ready.recv().unwrap_or_else(|_| Err(io::Error::other("the thread for signals has ended")))
    }

    async fn take(&self, mut signals: Signals) {
        loop {
            let (name, number, reason) = tokio::select! {
                biased;
                Some(()) = signals.interrupt.recv() => ("SIGINT", 2, ShutdownReason::Graceful),
                Some(()) = signals.terminate.recv() => ("SIGTERM", 15, ShutdownReason::Terminate),
                Some(()) = signals.stop.recv() => ("SIGUSR1", 0, ShutdownReason::Graceful),
                Some(()) = signals.dump.recv() => {
                    self.dumps.send_modify(|n| *n += 1);
                    continue;
                }
                else => return,
            };
            match self.request(reason) {
                Requested::Begun => {
                    tracing::info!(signal = name, "Stopping; SIGTERM makes it quick, SIGINT again exits at once");
                }
                Requested::Hastened => {
                    tracing::info!(signal = name, "Stopping quickly: what is under way is not waited for any longer");
                }
                Requested::Again if number != 0 => {
                    tracing::warn!(signal = name, "Another signal while stopping: exiting at once");
                    std::process::exit(128 + number);
                }
                Requested::Again => {}
            }
        }
    }

    /// Stops everything. A later request can only make it quicker.
    pub fn request(&self, reason: ShutdownReason) -> Requested {
        let mut requested = Requested::Again;
        self.reason.send_if_modified(|current| {
            requested = match (*current, reason) {
                (None, _) => Requested::Begun,
                (Some(ShutdownReason::Graceful), ShutdownReason::Terminate) => Requested::Hastened,
                (Some(_), _) => return false,
            };
            *current = Some(reason);
            true
        });
        self.token.cancel();
        requested
    }

    /// Stops everything quickly, because the process cannot do its work any more; the process' status will be 1. If the
    /// stop does not come to its end within a minute, the process exits all the same.
    pub fn fail(&self, why: &str) {
        tracing::error!(logger = LOGGER, "Ending the process: {why}");
        self.failed.store(true, Ordering::SeqCst);
        self.request(ShutdownReason::Terminate);
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async {
                tokio::time::sleep(LAST_STOP).await;
                tracing::error!(logger = LOGGER, "The stop does not end: exiting at once");
                std::process::exit(1);
            });
        }
    }

    /// A task whose panic is the end of the process ([`Self::fail`]); `what` it is, for the log.
    pub fn guard<F>(&self, what: &'static str, task: F) -> impl Future<Output = ()> + use<F>
    where
        F: Future<Output = ()>,
    {
        note_where_panics_happen();
        let this = self.clone();
        async move {
            if let Err(panic) = AssertUnwindSafe(task).catch_unwind().await {
                this.fail(&format!("the {what} panicked{}", describe(&*panic)));
            }
        }
    }

    /// What the process ends with: 1 after a failure.
    pub fn exit_code(&self) -> ExitCode {
        if self.failed.load(Ordering::SeqCst) { ExitCode::FAILURE } else { ExitCode::SUCCESS }
    }

    /// Cancelled once the stop begins.
    pub fn token(&self) -> &CancellationToken {
        &self.token
    }

    /// Counts the tasks that [`Self::join`] waits for.
    pub fn tracker(&self) -> &TaskTracker {
        &self.tracker
    }

    /// Runs a task that [`Self::join`] waits for.
    pub fn spawn<F>(&self, task: F) -> JoinHandle<F::Output>
    where
        F: Future<Output: Send> + Send + 'static,
    {
        self.tracker.spawn(task)
    }

    /// `None` until the stop begins.
    pub fn reason(&self) -> watch::Receiver<Option<ShutdownReason>> {
        self.reason.subscribe()
    }

    /// Waits until the stop begins.
    pub async fn requested(&self) -> ShutdownReason {
        let mut reason = self.reason.subscribe();
        // The sender lives as long as `self`: the wait cannot fail.
        reason.wait_for(Option::is_some).await.ok().and_then(|reason| *reason).unwrap_or(ShutdownReason::Graceful)
    }

    /// Changes at each SIGUSR2: write the state to the log.
    pub fn state_dumps(&self) -> watch::Receiver<u64> {
        self.dumps.subscribe()
    }

    /// Waits for all tracked tasks; false if the deadline came first. Call it after [`Self::request`].
    pub async fn join(&self, deadline: Duration) -> bool {
        self.tracker.close();
        tokio::time::timeout(deadline, self.tracker.wait()).await.is_ok()
    }
}

const LOGGER: &str = "nodepool";

thread_local! {
    /// Where this thread panicked last.
    static PLACE: RefCell<String> = const { RefCell::new(String::new()) };
}

/// A caught panic does not say where it happened, only the hook is told. What the hook did before it still does: a
/// daemon in the foreground has the message on stderr too.
fn note_where_panics_happen() {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let before = panic::take_hook();
        panic::set_hook(Box::new(move |panic| {
            let place = panic.location().map(|place| format!(" at {place}")).unwrap_or_default();
            PLACE.with_borrow_mut(|last| *last = place);
            before(panic);
        }));
    });
}

/// Place and message of the panic that this thread has just caught.
pub fn describe(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().copied();
    let text = text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("without a message");
    format!("{}: {text}", PLACE.take())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_first_reason_stays() {
        let shutdown = Shutdown::new();
        assert!(!shutdown.token().is_cancelled());
        assert_eq!(shutdown.request(ShutdownReason::Terminate), Requested::Begun);
        assert_eq!(shutdown.request(ShutdownReason::Graceful), Requested::Again);
        assert_eq!(shutdown.requested().await, ShutdownReason::Terminate);
        assert!(shutdown.token().is_cancelled());
    }

    #[tokio::test]
    async fn join_waits_for_tracked_tasks_until_its_deadline() {
        let shutdown = Shutdown::new();
        let token = shutdown.token().clone();
        shutdown.spawn(async move { token.cancelled().await });
        assert!(!shutdown.join(Duration::from_millis(20)).await, "the task waits for the stop");
        shutdown.request(ShutdownReason::Graceful);
        assert!(shutdown.join(Duration::from_secs(30)).await);
    }

    #[tokio::test]
    async fn signals_become_reasons_and_dumps() {
        let shutdown = Shutdown::new();
        shutdown.listen_for_signals().unwrap();
        let mut dumps = shutdown.state_dumps();
        let me = nix::unistd::Pid::this();
        nix::sys::signal::kill(me, nix::sys::signal::Signal::SIGUSR2).unwrap();
        tokio::time::timeout(Duration::from_secs(30), dumps.changed()).await.unwrap().unwrap();
        assert!(!shutdown.token().is_cancelled(), "a dump stops nothing");
        nix::sys::signal::kill(me, nix::sys::signal::Signal::SIGUSR1).unwrap();
        let reason = tokio::time::timeout(Duration::from_secs(30), shutdown.requested()).await.unwrap();
        assert_eq!(reason, ShutdownReason::Graceful);
        // Does not end this process, as a second SIGINT would.
        nix::sys::signal::kill(me, nix::sys::signal::Signal::SIGTERM).unwrap();
        let mut reason = shutdown.reason();
        let hastened = reason.wait_for(|reason| *reason == Some(ShutdownReason::Terminate));
        tokio::time::timeout(Duration::from_secs(30), hastened).await.unwrap().unwrap();
    }

    #[test]
    fn a_graceful_stop_can_become_a_quick_one_and_no_other_way_round() {
        let shutdown = Shutdown::new();
        let mut reasons = shutdown.reason();
        assert_eq!(shutdown.request(ShutdownReason::Graceful), Requested::Begun);
        assert_eq!(shutdown.request(ShutdownReason::Graceful), Requested::Again);
        assert_eq!(*reasons.borrow_and_update(), Some(ShutdownReason::Graceful));
        assert_eq!(shutdown.request(ShutdownReason::Terminate), Requested::Hastened);
        assert!(reasons.has_changed(), "whoever drains is told");
        assert_eq!(shutdown.request(ShutdownReason::Terminate), Requested::Again);
        assert_eq!(shutdown.request(ShutdownReason::Graceful), Requested::Again);
        assert_eq!(*reasons.borrow(), Some(ShutdownReason::Terminate));
    }

    #[tokio::test]
    async fn a_guarded_task_that_panics_ends_the_process_and_one_that_ends_does_not() {
        let shutdown = Shutdown::new();
        shutdown.guard("task that ends", async {}).await;
        assert_eq!(*shutdown.reason().borrow(), None);
        assert_eq!(format!("{:?}", shutdown.exit_code()), format!("{:?}", ExitCode::SUCCESS));
        shutdown.request(ShutdownReason::Graceful);
        shutdown.spawn(shutdown.guard("task that panics", async { panic!("as the test wants it") })).await.unwrap();
        assert_eq!(*shutdown.reason().borrow(), Some(ShutdownReason::Terminate), "nobody waits for a drain any more");
        assert_eq!(format!("{:?}", shutdown.exit_code()), format!("{:?}", ExitCode::FAILURE));
    }

    #[test]
    fn a_panic_is_described_by_place_and_message() {
        note_where_panics_happen();
        let panic = panic::catch_unwind(|| panic!("number {}", 7)).unwrap_err();
        let text = describe(&*panic);
        assert!(text.contains("shutdown.rs:") && text.ends_with(": number 7"), "{text}");
        let panic = panic::catch_unwind(|| panic!("plain")).unwrap_err();
        assert!(describe(&*panic).ends_with(": plain"));
    }
}
