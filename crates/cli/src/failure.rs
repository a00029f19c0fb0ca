//! Why a command ends with status 1, and how it says anything at all.

use std::{
    io::{self, Write as _},
    path::PathBuf,
    time::Duration,
};

use nodepool_common::{config::ConfigErrors, sys::logging::LogError, zk::ZkError};
use nodepool_drivers::ProviderError;

/// What went wrong.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The configuration cannot be used.
    #[error("the configuration cannot be used:\n{0}")]
    Config(#[from] ConfigErrors),
    /// The logging configuration cannot be used.
    #[error(transparent)]
    Log(#[from] LogError),
    /// ZooKeeper refused or was lost.
    #[error(transparent)]
    ZooKeeper(#[from] ZkError),
    /// There is no connection to ZooKeeper, and `--timeout` is over.
    #[error("no connection to ZooKeeper within {timeout:?}: {problem}")]
    NoConnection {
        /// How long it was waited for.
        timeout: Duration,
        /// What each server does.
        problem: String,
    },
    /// A cloud refused.
    #[error(transparent)]
    Provider(#[from] ProviderError),
    /// What was asked for cannot be done, in a sentence of its own.
    #[error("{0}")]
    Refused(String),
    /// A file that the command was to read or write.
    #[error("{doing} {}: {source}", path.display())]
    File {
        /// "reading", "writing"
        doing: &'static str,
        /// The file as it was named.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Standard output is gone.
    #[error("writing to standard output: {0}")]
    Output(#[source] io::Error),
    /// The operating system gives us no timers or sockets.
    #[error("starting up: {0}")]
    Runtime(#[source] io::Error),
    /// The log has said it already.
    #[error("see above")]
    Reported,
}

/// A line on stdout, at once.
pub fn say(line: &str) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    writeln!(out, "{line}").and_then(|()| out.flush()).map_err(Failure::Output)
}

/// A line on stderr, for people. That nobody reads it is no reason to stop.
pub fn say_aside(line: &str) {
    let _ = writeln!(io::stderr().lock(), "nodepool: {line}");
}
