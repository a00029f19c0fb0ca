//! Signals into one orderly stop.
//!
//! The first SIGINT, SIGUSR1 or SIGTERM sets a [`ShutdownReason`] and cancels the token that every task listens to;
//! the launcher decides by the reason how long it waits for what is under way. Upstream's SIGTERM, which is how
//! Kubernetes stops a pod, exits at once and leaves the cleaning to the next start (`nodepool 11.0.0:
//! cmd/launcher.py`); ours stops in order but without waiting for clouds. A second SIGINT or SIGTERM is somebody who
//! does not want to wait: the process exits at once. SIGUSR2 asks for a dump of the state into the log, where Python
//! dumps its threads' stacks.

use std::{future::Future, io, time::Duration};

use tokio::{
    signal::unix::{SignalKind, signal},
    sync::watch,
    task::JoinHandle,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// Why, and so how, to stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ShutdownReason {
    /// SIGINT, SIGUSR1, or a caller's own: finish what is under way.
    Graceful,
    /// SIGTERM: release what others may take over, quickly.
    Terminate,
}

/// The stop of a process and its tasks. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Shutdown {
    token: CancellationToken,
    tracker: TaskTracker,
    reason: watch::Sender<Option<ShutdownReason>>,
    dumps: watch::Sender<u64>,
}

impl Default for Shutdown {
    fn default() -> Self {
        Self::new()
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
        }
    }

    /// Listens to the process' signals for as long as it lives. Must be called within a tokio runtime. The error is
    /// the kernel's refusal to install a handler.
    pub fn listen_for_signals(&self) -> io::Result<()> {
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut terminate = signal(SignalKind::terminate())?;
        let mut stop = signal(SignalKind::user_defined1())?;
        let mut dump = signal(SignalKind::user_defined2())?;
        let this = self.clone();
        // Not tracked: it must still hear the second signal while the tracked tasks are being waited for.
        tokio::spawn(async move {
            loop {
                let (name, number, reason) = tokio::select! {
                    Some(()) = interrupt.recv() => ("SIGINT", 2, ShutdownReason::Graceful),
                    Some(()) = terminate.recv() => ("SIGTERM", 15, ShutdownReason::Terminate),
                    Some(()) = stop.recv() => ("SIGUSR1", 0, ShutdownReason::Graceful),
                    Some(()) = dump.recv() => {
                        this.dumps.send_modify(|n| *n += 1);
                        continue;
                    }
                    else => return,
                };
                if this.request(reason) {
                    tracing::info!(signal = name, "Stopping; the same signal again exits at once");
                } else if number != 0 {
                    tracing::warn!(signal = name, "Second signal while stopping: exiting at once");
                    std::process::exit(128 + number);
                }
            }
        });
        Ok(())
    }

    /// Stops everything. True for the first request; a later one changes nothing.
    pub fn request(&self, reason: ShutdownReason) -> bool {
        let first = self.reason.send_if_modified(|current| {
            let first = current.is_none();
            if first {
                *current = Some(reason);
            }
            first
        });
        self.token.cancel();
        first
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

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_first_reason_stays() {
        let shutdown = Shutdown::new();
        assert!(!shutdown.token().is_cancelled());
        assert!(shutdown.request(ShutdownReason::Terminate));
        assert!(!shutdown.request(ShutdownReason::Graceful));
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
        assert!(shutdown.join(Duration::from_secs(5)).await);
    }

    #[tokio::test]
    async fn signals_become_reasons_and_dumps() {
        let shutdown = Shutdown::new();
        shutdown.listen_for_signals().unwrap();
        let mut dumps = shutdown.state_dumps();
        let me = nix::unistd::Pid::this();
        nix::sys::signal::kill(me, nix::sys::signal::Signal::SIGUSR2).unwrap();
        tokio::time::timeout(Duration::from_secs(5), dumps.changed()).await.unwrap().unwrap();
        assert!(!shutdown.token().is_cancelled(), "a dump stops nothing");
        nix::sys::signal::kill(me, nix::sys::signal::Signal::SIGUSR1).unwrap();
        let reason = tokio::time::timeout(Duration::from_secs(5), shutdown.requested()).await.unwrap();
        assert_eq!(reason, ShutdownReason::Graceful);
    }
}
