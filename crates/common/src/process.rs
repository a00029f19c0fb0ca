//! The frame of a daemon's process: what launcher and builder do alike between `main` and their own work.
//!
//! [`main`] goes to the background or stays, sets up the log and the runtime. [`Frame`] is what a daemon stands on: the
//! configuration with its watcher, the stop, and the connection to ZooKeeper, which outlives the daemon's own stop,
//! because what runs to its end is still recorded. Whatever ends the process is logged, and its exit status tells a stop
//! (0) from a failure (1).

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use tokio_util::sync::CancellationToken;
use tracing::error;

use crate::{
    config::{Loaded, Watcher},
    sys::{
        daemon,
        logging::{self, LogOptions},
        shutdown::{Shutdown, ShutdownReason},
    },
    zk::ZooKeeper,
};

/// For the tasks that are left when a daemon has ended.
const LAST_TASKS: Duration = Duration::from_secs(5);

/// What the command lines of both daemons say about the process.
#[derive(Clone, Debug)]
pub struct Options {
    /// The program, for messages to whoever has started it.
    pub program: &'static str,
    /// The name of its log file, without `.log`.
    pub app: &'static str,
    /// `-l`.
    pub logging: Option<PathBuf>,
    /// `-p`.
    pub pid_file: PathBuf,
    /// `-d`.
    pub debug: bool,
    /// `-f`.
    pub foreground: bool,
}

/// Runs a daemon: in the background unless told otherwise, with a log and a runtime.
pub fn main<F>(options: &Options, run: impl FnOnce() -> F) -> ExitCode
where
    F: Future<Output = ExitCode>,
{
    let complain = |error: &dyn std::error::Error| {
        eprintln!("{}: {error}", options.program);
        ExitCode::FAILURE
    };
    let foreground = options.foreground || options.debug;
    if !foreground && !daemon::is_daemon() {
        return match daemon::start(&options.pid_file) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => complain(&error),
        };
    }
    let log = LogOptions { config: options.logging.clone(), foreground, debug: options.debug, app: options.app };
    let _log = match logging::init(&log) {
        Ok(guard) => guard,
        Err(error) => return complain(&error),
    };
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return complain(&error),
    };
    let code = runtime.block_on(run());
    runtime.shutdown_timeout(Duration::from_secs(1));
    code
}

/// What a daemon stands on.
#[derive(Debug)]
pub struct Frame {
    /// The first configuration.
    pub loaded: Loaded,
    /// The stop.
    pub shutdown: Shutdown,
    /// Ends the connection, and whatever else is needed until the daemon has ended.
    pub end: CancellationToken,
}

impl Frame {
    /// Loads the configuration and listens to signals. The watcher knows the files from before they were read: a change
    /// since is found by its first poll. A failure is logged.
    pub fn new(config: &Path, secure: Option<&Path>) -> Result<(Self, Watcher), ExitCode> {
        let (watcher, loaded) = Watcher::load(config, secure).map_err(|errors| {
            error!(logger = "nodepool.config", "The configuration cannot be used:\n{errors}");
            ExitCode::FAILURE
        })?;
        let shutdown = Shutdown::new();
        shutdown.listen_for_signals().map_err(|error| {
            error!(logger = LOGGER, "Cannot listen for signals: {error}");
            ExitCode::FAILURE
        })?;
        Ok((Self { loaded, shutdown, end: CancellationToken::new() }, watcher))
    }

    /// Begins to connect to ZooKeeper. A failure is one of the configuration, and logged.
    pub fn connect(&self) -> Result<ZooKeeper, ExitCode> {
        ZooKeeper::start(&self.loaded.config.zookeeper, &self.shutdown, self.end.clone()).map_err(|error| {
            error!(logger = "nodepool.zk.ZooKeeper", "{error}");
            ExitCode::FAILURE
        })
    }

    /// Runs the daemon until it ends, and ends everything else.
    pub async fn run(self, zk: &ZooKeeper, daemon: impl Future<Output = ()>) -> ExitCode {
        self.shutdown.guard("daemon's main loop", daemon).await;
        zk.close().await;
        self.end.cancel();
        // Also where the daemon ended by itself.
        self.shutdown.request(ShutdownReason::Terminate);
        self.shutdown.join(LAST_TASKS).await;
        self.shutdown.exit_code()
    }
}

const LOGGER: &str = "nodepool";
