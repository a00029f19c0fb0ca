//! [`Replies`]: who is told how long ZooKeeper takes to reply.

use std::{
    fmt,
    sync::{Arc, OnceLock},
    time::Duration,
};

type Observe = dyn Fn(Duration) + Send + Sync;

/// Takes the time from each request to its reply, of all sessions of a process; nobody, until one is named.
#[derive(Clone, Default)]
pub(in crate::zk) struct Replies(Arc<OnceLock<Box<Observe>>>);

impl Replies {
    /// Names who is told; the first one stays.
    pub fn tell(&self, observe: impl Fn(Duration) + Send + Sync + 'static) {
        let _ = self.0.set(Box::new(observe));
    }

    /// A reply has come after so long.
    pub fn came_after(&self, took: Duration) {
        if let Some(observe) = self.0.get() {
            observe(took);
        }
    }
}

impl fmt::Debug for Replies {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Replies")
    }
}
