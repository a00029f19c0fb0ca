//! What we speak of with a ZooKeeper.

use std::fmt;

/// A ZooKeeper session. The same after a mere reconnection; another one after an expiry, with all locks gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SessionId(pub i64);

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.0)
    }
}
