//! [`Frame`]: what a daemon stands on. [`Start`]: how it comes to be.

use std::{
    io,
    panic::AssertUnwindSafe,
    path::Path,
    process::ExitCode,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, RwLock,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use tokio::sync::{Notify, oneshot};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::error;

use super::{
    arguments::Arguments,
    passes::{self, Passes},
};
use crate::{
    config::{Config, ConfigErrors, Loaded, Watcher},
    stats::Stats,
    sys::{Ambient, clock::Steps, shutdown::Shutdown},
    zk::{ZooKeeper, protocol::Connector},
};

const LOGGER: &str = "nodepool";

/// A daemon that has its configuration, and no connection yet.
#[derive(Debug)]
pub struct Start {
    /// The first configuration.
    pub loaded: Loaded,
    /// The stop.
    pub shutdown: Shutdown,
    /// For how long a pass may be due until it is overdue.
    pub patience: Duration,
    /// Time and chance; the system's, unless replaced.
    pub ambient: Ambient,
    watcher: Watcher,
}

impl Start {
    /// Loads the configuration and listens to signals. A failure is logged.
    pub fn new(arguments: &Arguments) -> Result<Self, ExitCode> {
        let start = Self::load(&arguments.config, arguments.secure.as_deref()).map_err(|errors| {
            error!(logger = "nodepool.config", "The configuration cannot be used:\n{errors}");
            ExitCode::FAILURE
        })?;
        start.shutdown.listen_for_signals().map_err(|error| {
            error!(logger = LOGGER, "Cannot listen for signals: {error}");
            ExitCode::FAILURE
        })?;
        Ok(start)
    }

    /// Loads the configuration, watched from before it was read: a change since is found by the watcher's first look.
    pub fn load(config: &Path, secure: Option<&Path>) -> Result<Self, ConfigErrors> {
        let (watcher, loaded) = Watcher::load(config, secure)?;
        let (shutdown, patience, ambient) = (Shutdown::new(), passes::PATIENCE, Ambient::system());
        Ok(Self { loaded, shutdown, patience, ambient, watcher })
    }

    /// Begins to connect to ZooKeeper. A failure is one of the configuration, and logged.
    pub fn connect(self, stats: Stats) -> Result<(Frame, Loaded), ExitCode> {
        let (servers, end) = (&self.loaded.config.zookeeper, CancellationToken::new());
        let zk = ZooKeeper::start(servers, self.ambient.clone(), &self.shutdown, end.clone()).map_err(|error| {
            error!(logger = "nodepool.zk.ZooKeeper", "{error}");
            ExitCode::FAILURE
        })?;
        let measured = stats.clone();
        zk.on_reply(move |took| measured.zk_reply(took));
        Ok(self.on(zk, true, stats, end))
    }

    /// Begins to connect to what this connector leads to, whatever the configuration says; `timeout` is the session's.
    pub fn connect_with(self, connector: Arc<dyn Connector>, timeout: Duration, stats: Stats) -> (Frame, Loaded) {
        let end = CancellationToken::new();
        let zk = ZooKeeper::start_with(connector, timeout, self.ambient.clone(), &self.shutdown, end.clone());
        self.on(zk, false, stats, end)
    }

    fn on(self, zk: ZooKeeper, has_configured_servers: bool, stats: Stats, end: CancellationToken) -> (Frame, Loaded) {
        let frame = Frame {
            zk,
            has_configured_servers,
            stats,
            ambient: self.ambient,
            shutdown: self.shutdown,
            wake: Wake::default(),
            tasks: TaskTracker::new(),
            ending: CancellationToken::new(),
            end,
            passes: Passes::new(self.patience),
            config: RwLock::new(Arc::clone(&self.loaded.config)),
            watcher: Mutex::new(self.watcher),
            steps: Mutex::default(),
        };
        (frame, self.loaded)
    }
}

/// See the module's comment.
#[derive(Debug)]
pub struct Frame {
    /// The connection.
    pub zk: ZooKeeper,
    /// Metrics.
    pub stats: Stats,
    /// Time and chance.
    pub ambient: Ambient,
    /// The stop.
    pub shutdown: Shutdown,
    /// Has the loop make a pass.
    pub wake: Wake,
    /// What the daemon's end waits for, for as long as [`Daemon::LEAVE`](super::Daemon::LEAVE).
    pub tasks: TaskTracker,
    /// Cancelled when the daemon ends; until then what runs may go on although nothing new is begun.
    pub ending: CancellationToken,
    /// Cancelled when the daemon has ended: ends the connection, and whatever else is needed until then.
    pub(super) end: CancellationToken,
    pub(super) passes: Passes,
    /// Whether the connection is to the servers that the configuration names, and follows it.
    pub(super) has_configured_servers: bool,
    config: RwLock<Arc<Config>>,
    watcher: Mutex<Watcher>,
    steps: Mutex<Steps>,
}

impl Frame {
    /// The running configuration.
    pub fn config(&self) -> Arc<Config> {
        Arc::clone(&self.config.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Makes a configuration the running one; returns that of before.
    pub fn replace_config(&self, config: &Arc<Config>) -> Arc<Config> {
        std::mem::replace(&mut *self.config.write().unwrap_or_else(PoisonError::into_inner), Arc::clone(config))
    }

    /// Never held across an await. Held until a change is in force.
    pub(super) fn watcher(&self) -> MutexGuard<'_, Watcher> {
        self.watcher.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the files say something else than the running configuration ([`Watcher::is_behind`]). Waits while a change is
    /// being put into force.
    pub fn is_behind(&self) -> bool {
        self.watcher().is_behind()
    }

    /// When the clock was set. Never held across an await.
    pub fn steps(&self) -> MutexGuard<'_, Steps> {
        self.steps.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Why a pass is overdue ([`passes`](super::passes)), for people; `None`: none is. Takes no lock that a pass that
    /// hangs could have.
    pub fn overdue(&self) -> Option<String> {
        self.passes.overdue()
    }

    /// Spawns a task that ends when the daemon does.
    pub fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let ending = self.ending.clone();
        self.tasks.spawn(async move {
            tokio::select! {
                biased;
                () = task => {}
                () = ending.cancelled() => {}
            }
        });
    }

    /// The same with a task without which the daemon cannot do its work; `what` it is, for the log.
    pub fn guard(&self, what: &'static str, task: impl Future<Output = ()> + Send + 'static) {
        self.spawn(self.shutdown.guard(what, task));
    }

    /// Serves until the daemon has ended: what runs to its end may be watched. The server has a thread and a runtime of its own, so
    /// neither waits for the other: a large answer does not delay the pings of the ZooKeeper session, and whoever asks while a pass
    /// hangs is answered. Sockets are to be registered in that runtime, that is, in `server`'s future. Without a thread for
    /// it there is an error.
    pub fn serve<F>(
        &self,
        what: &'static str,
        server: impl FnOnce(CancellationToken) -> F + Send + 'static,
    ) -> io::Result<()>
    where
        F: Future<Output = ()>,
    {
        let end = self.end.clone();
        let (done, is_done) = oneshot::channel::<thread::Result<io::Result<()>>>();
        thread::Builder::new().name(what.to_owned()).spawn(move || {
            let serve = || {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
                runtime.block_on(async { server(end).await });
                Ok(())
            };
            let _ = done.send(std::panic::catch_unwind(AssertUnwindSafe(serve)));
        })?;
        // The end of the process waits for it, as for the tasks, and its panic ends the process.
        self.shutdown.spawn(self.shutdown.guard(what, async move {
            match is_done.await {
                Ok(Err(panic)) => std::panic::resume_unwind(panic),
                Ok(Ok(Err(error))) => error!(logger = LOGGER, "The {what} cannot be started: {error}"),
                Ok(Ok(Ok(()))) | Err(_) => {}
            }
        }));
        Ok(())
    }
}

/// Has the loop make a pass. Carries no data; whoever wakes it twice before it has looked has woken it once. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Wake(Arc<Woken>);

#[derive(Debug, Default)]
struct Woken {
    notify: Notify,
    /// Until the loop has gone on.
    pending: AtomicBool,
}

impl Wake {
    /// Has the loop make a pass.
    pub fn notify_one(&self) {
        self.0.pending.store(true, Ordering::SeqCst);
        self.0.notify.notify_one();
    }

    /// Until somebody wakes, or has done so since the last time.
    pub(super) async fn notified(&self) {
        self.0.notify.notified().await;
    }

    /// The loop has gone on: what was told until now is being looked at.
    pub(super) fn answer(&self) {
        self.0.pending.store(false, Ordering::SeqCst);
    }

    /// Whether the loop was woken and has not gone on.
    pub(super) fn is_pending(&self) -> bool {
        self.0.pending.load(Ordering::SeqCst)
    }
}
