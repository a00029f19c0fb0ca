//! [`LogError`]: why there is no log.

use std::{io, path::PathBuf};

/// Why there is no log.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The `-l` file is missing or unreadable.
    #[error("unable to read logging config file at {}: {source}", path.display())]
    Unreadable {
        /// As given.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The `-l` file is no logging configuration.
    #[error("logging config file {}: {reason}", path.display())]
    Invalid {
        /// As given.
        path: PathBuf,
        /// What is wrong with it, with its place.
        reason: String,
    },
    /// A log file cannot be opened.
    #[error("opening the log file {}: {source}; create its directory, or log to stdout with -f", path.display())]
    LogFile {
        /// The log file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Somebody has set up logging in this process before.
    #[error("logging is already set up in this process")]
    Twice,
}
