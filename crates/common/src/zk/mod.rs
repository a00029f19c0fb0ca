//! ZooKeeper: the one place where Nodepool's state lives, shared with Zuul and with Python Nodepool.
//!
//! [`ZooKeeper`] is a connection that outlives sessions. A supervisor task keeps a session; everything that depends on
//! one follows it:
//!
//! * [`Cache`]: everything under `/nodepool`, fed by one persistent recursive watch, walked anew after each loss
//! * [`Held`]: a lock with the record it protects; each write checks the lock in the same transaction. [`HeldWork`] is
//!   the same for what builders do; what they take away needs none
//! * [`Registration`]: a component (who is alive), registered anew in each session
//! * elections: kazoo's, entered anew in each session
//!
//! Operations without a lock wait for a session for up to the session timeout; operations under a lock end with the
//! lock's own session, and what follows without a lock from what was read ([`InSession`]) with the session in which that was.
//! What a lost answer leaves open is found out before it is reported.
//!
//! What the files import of each other goes one way, from a row to rows above it:
//!
//! | | what it has |
//! |---|---|
//! | `protocol` | what we ask of a ZooKeeper, as traits; all below it know no more of one |
//! | `error` `paths` | errors; where everything is |
//! | `wire` | `protocol` of a real ZooKeeper, by messages over TCP and TLS: from the configuration to sessions |
//! | `memory` | `protocol` in this process's memory, for tests |
//! | `cache` | the tree and its changes; its follower alone imports `session` |
//! | `session` | the current session, for all who use it |
//! | `repeated` | operations that are repeated where an answer was lost |
//! | `lock` | kazoo's lock |
//! | `record` `fenced` | what a lock protects; its fenced writes |
//! | `supervisor` | the task that keeps a session |
//! | `zookeeper` | [`ZooKeeper`], the connection as everybody has it |
//! | `in_session` | one session, for what is done in it or not at all |
//! | `raw` `claim` `nodes` `requests` `images` `taken` `held_back` `pauses` `components` `election` | its operations, by subject |
//!
//! One thread of names runs through the log: `logger` is the name upstream's logger has for the same thing.

mod cache;
mod claim;
mod components;
mod election;
mod error;
mod fenced;
mod held_back;
mod images;
mod in_session;
mod lock;
pub mod memory;
mod nodes;
pub mod paths;
mod pauses;
pub mod protocol;
mod raw;
mod record;
mod repeated;
mod requests;
mod session;
mod supervisor;
mod taken;
mod wire;
mod zookeeper;

use std::sync::Arc;

use crate::{config, sys::entropy::Entropy};

pub use self::{
    cache::{Cache, CacheQueues, Freshness, TakenIn},
    components::Registration,
    error::{SharedError, ZkError},
    fenced::{Held, KeptLock, NotUnlocked, TryLock},
    images::{HeldWork, Work},
    in_session::InSession,
    protocol::SessionId,
    record::Record,
    zookeeper::ZooKeeper,
};

/// What leads to sessions of a real ZooKeeper, below everything else here. An error is one of the configuration, and names the
/// file or the key.
pub fn connector(config: &config::ZooKeeper, entropy: &Entropy) -> Result<Arc<dyn protocol::Connector>, ZkError> {
    Ok(Arc::new(wire::Target::new(config, entropy)?))
}
