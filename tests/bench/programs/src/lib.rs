//! What the benchmark's programs share: a small ZooKeeper client, numbers of a run, arguments.
//!
//! All of them run on one thread (a `LocalSet`): they have to cost less than the launcher that is measured.

pub mod arguments;
pub mod numbers;
mod tls;
mod wire;
pub mod zk;

pub use tls::Tls;
