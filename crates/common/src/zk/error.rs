//! What can go wrong between us and ZooKeeper, classed by what the caller can do about it.

use std::{fmt, sync::Arc, time::Duration};

use tracing::{error, info};

use super::protocol::Error;
use crate::model::RecordError;

/// Why an operation did not happen. Each message says what was being done to which path.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ZkError {
    /// Our contender is gone while our session lives: somebody deleted it. Nothing was written.
    #[error("{doing}: our lock {lock} was deleted by somebody else; nothing was written")]
    LockLost {
        /// What we were doing to which path.
        doing: String,
        /// The contender's path.
        lock: String,
    },
    /// The session that the operation belonged to has ended, and its locks with it.
    #[error("{doing}: the ZooKeeper session that this belonged to has ended")]
    SessionLost {
        /// What we were doing to which path.
        doing: String,
    },
    /// There is no connection now, or it broke and the outcome could not be found out in time.
    #[error("{doing}: no connection to ZooKeeper")]
    ConnectionLost {
        /// What we were doing to which path.
        doing: String,
    },
    /// The path is gone.
    #[error("{doing}: {path} does not exist")]
    NoNode {
        /// What we were doing.
        doing: String,
        /// The path that is not there.
        path: String,
    },
    /// Somebody else kept the lock for all the time we were given.
    #[error("could not lock {path} within {timeout:?}: somebody else holds its lock")]
    LockTimeout {
        /// The record to be locked.
        path: String,
        /// How long we waited.
        timeout: Duration,
    },
    /// The record under the lock cannot be used.
    #[error("{path}: {source}")]
    Record {
        /// The record's path.
        path: String,
        /// What is wrong with it.
        source: RecordError,
    },
    /// The configuration cannot work: an unreadable certificate, differing chroots.
    #[error("{problem}")]
    Config {
        /// Which file or key, what is wrong, what to do.
        problem: String,
        /// The cause, where another library found it.
        source: Option<SharedError>,
    },
    /// Anything else; a bug, or a server that refuses.
    #[error("{doing}: {source}")]
    Other {
        /// What we were doing to which path.
        doing: String,
        /// ZooKeeper's error.
        source: Error,
    },
}

/// An error of another library, kept as a source.
#[derive(Clone, Debug)]
pub struct SharedError(Arc<dyn std::error::Error + Send + Sync>);

impl fmt::Display for SharedError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl std::error::Error for SharedError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0.source()
    }
}

impl ZkError {
    /// Whether the same may work later without anybody's help: the lock or the record may be somebody else's by then,
    /// so begin anew, from the cache.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::LockLost { .. }
            | Self::SessionLost { .. }
            | Self::ConnectionLost { .. }
            | Self::LockTimeout { .. } => true,
            Self::NoNode { .. } | Self::Record { .. } | Self::Config { .. } => false,
            Self::Other { source, .. } => source.is_unanswered() || *source == Error::ReadOnly,
        }
    }

    /// Whether the lock that the operation needed is no longer ours, for whichever reason.
    pub fn is_lock_lost(&self) -> bool {
        matches!(self, Self::LockLost { .. } | Self::SessionLost { .. })
    }

    /// Whether somebody has written the record since the version that the write was for.
    pub fn is_bad_version(&self) -> bool {
        matches!(self, Self::Other { source: Error::BadVersion, .. })
    }

    /// Whether the record is gone.
    pub fn is_no_node(&self) -> bool {
        matches!(self, Self::NoNode { .. })
    }

    /// Says in the log that something that was decided failed with this: loudly only where that is not to be expected.
    pub fn say_of(&self, decision: &dyn fmt::Debug, logger: &str) {
        if self.is_transient() {
            info!(logger, "Will be tried again: {self}");
        } else if self.is_no_node() {
            // Whatever was wanted of it, its deletion above all, nobody wants it of what is gone.
            info!(logger, "Somebody else was faster: {self}");
        } else {
            error!(logger, "{self} (while carrying out {decision:?})");
        }
    }

    /// Classes an error of ZooKeeper; `verb` and `path` say what was being done.
    pub(super) fn of(verb: &str, path: &str, error: impl Into<Error>) -> Self {
        let doing = format!("{verb} {path}");
        match error.into() {
            Error::SessionEnded => Self::SessionLost { doing },
            Error::NoNode => Self::NoNode { doing, path: path.to_owned() },
            Error::Unanswered(_) => Self::ConnectionLost { doing },
            source => Self::Other { doing, source },
        }
    }

    pub(super) fn config(problem: impl Into<String>) -> Self {
        Self::Config { problem: problem.into(), source: None }
    }

    pub(super) fn config_because(
        problem: impl Into<String>,
        source: impl std::error::Error + Send + Sync + 'static,
    ) -> Self {
        Self::Config { problem: format!("{}: {source}", problem.into()), source: Some(SharedError(Arc::new(source))) }
    }
}
