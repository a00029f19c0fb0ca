//! What touches the operating system: the clock, chance, the host's names, signals, the log.
//!
//! * [`background`]: going to the background
//! * [`causes`]: an error with all that caused it
//! * [`clock`]: wall time, as records carry it, and monotonic time
//! * [`crypto`]: which cryptography TLS is done with
//! * [`entropy`]: chance, of which ids are made
//! * [`host`]: the names under which this process appears in ZooKeeper, metrics and logs
//! * [`logging`]: Python Nodepool's log lines and its Python logging configuration
//! * [`pace`]: how soon what is repeated follows
//! * [`shutdown`]: signals into one orderly stop
//! * [`watch`]: a value that many wait for, who are woken in their order

pub mod background;
pub mod causes;
pub mod clock;
pub mod crypto;
pub mod entropy;
pub mod host;
pub mod logging;
pub mod pace;
pub mod shutdown;
pub mod watch;

use self::{clock::Clock, entropy::Entropy};

/// What is neither told nor asked for: time and chance. Given at construction to whoever needs them. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Ambient {
    /// Tells the time.
    pub clock: Clock,
    /// What ids are made of.
    pub entropy: Entropy,
}

impl Ambient {
    /// The system's.
    pub fn system() -> Self {
        Self { clock: Clock::system(), entropy: Entropy::system() }
    }
}

impl Default for Ambient {
    fn default() -> Self {
        Self::system()
    }
}
