//! What touches the operating system: the clock, the host's names, signals, the log.
//!
//! * [`background`]: going to the background
//! * [`causes`]: an error with all that caused it
//! * [`clock`]: seconds since the epoch, as records carry them
//! * [`crypto`]: which cryptography TLS is done with
//! * [`host`]: the names under which this process appears in ZooKeeper, metrics and logs
//! * [`logging`]: Python Nodepool's log lines and its Python logging configuration
//! * [`shutdown`]: signals into one orderly stop

pub mod background;
pub mod causes;
pub mod clock;
pub mod crypto;
pub mod host;
pub mod logging;
pub mod shutdown;
