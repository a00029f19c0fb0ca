//! One build as a child process: what is run, with which environment, into which log, for how long, and how it ends.
//!
//! | module | is about |
//! |---|---|
//! | [`command`] | arguments and environment, upstream's to the word |
//! | [`look`] | the images' programs, as they are on this machine |
//! | [`log`] | the log's file and how many are kept |
//! | [`process`] | running it; ending it with everything that it has started |

pub mod command;
pub mod log;
pub mod look;
pub mod process;
