//! The frame of a daemon: all that launcher and builder do alike. What is a daemon's own is its [`Daemon`].
//!
//! ```text
//!   main.rs     Arguments ──> main()      background or foreground, log, runtime
//!               Start::new()              configuration (watched from before it was read), signals
//!               Start::connect()          ZooKeeper ──> Frame
//!               run(daemon)               until the end:
//!
//!     signals    record changed · session changed · Frame::wake · Daemon::hear · a time has come · a request to stop
//!        │
//!        v       ┌── the clock was set?      ──> Daemon::clock_stepped
//!        │       ├── another session?        ──> Daemon::session_lost; then Daemon::catch_up
//!      loop ─────┼── the tree is known?      ──> Daemon::pass ──> when to pass again at the latest; else Daemon::stand_by
//!        ^       └── stopping, and idle?     ──> the end
//!        │                        SIGINT, SIGUSR1 ──> Daemon::drain, and on; SIGTERM ──> Daemon::quit, and the end
//!        └── no more often than Daemon::PACE says
//!
//!     beside it  watcher of the configuration (1 s)  ──> Daemon::note_loaded, ::configure
//!                watch over the passes (1 s)         ──> Frame::overdue, for /ready
//!                SIGUSR2                             ──> Daemon::state_dump, into the log
//! ```
//!
//! The loop alone owns the daemon's [`Daemon::Core`]: what it decides from, and changes by what it is told.
//!
//! The **end**: what runs is told by [`Frame::ending`]; [`Daemon::end`]; the tasks are waited for, as long as
//! [`Daemon::LEAVE`]; the component is withdrawn; the connection to ZooKeeper is closed, so that all locks vanish at once.
//! The connection outlives the daemon's own stop because what runs to its end is still recorded.
//!
//! A task without which the daemon would live on and hear nothing any more is guarded: its panic ends the process with
//! status 1 ([`Shutdown::guard`](crate::sys::shutdown::Shutdown::guard)). So is the loop. A pass that does not end, which no
//! guard can see, is found by [`passes`].
//!
//! | module | is about |
//! |---|---|
//! | [`arguments`] | what both command lines have |
//! | [`process`] | background or foreground, log, runtime |
//! | [`frame`] | what a daemon stands on: configuration, ZooKeeper, metrics, tasks, stop |
//! | [`passes`] | whether passes still end |
//! | [`run`] | the loop, the watchers and the end |

pub mod arguments;
pub mod frame;
pub mod passes;
pub mod process;
pub mod run;

pub use self::{
    arguments::{Arguments, seconds},
    frame::{Frame, Start, Wake},
    process::{Program, VERSION, main},
    run::{Daemon, beside_other_tasks, run},
};
pub use crate::sys::pace::Pace;
