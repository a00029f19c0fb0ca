//! What the launcher, the builder and the command line share. Knows no cloud.
//!
//! * [`config`]: `nodepool.yaml` into a typed, validated [`config::Config`]
//! * [`model`]: ids, records and states, and their documents in ZooKeeper
//! * [`zk`]: the connection, the tree cache, locks, fenced writes, components, elections
//! * [`status`]: the tables of the command line and the HTTP API
//! * [`stats`]: every metric, declared once, to statsd and Prometheus
//! * [`sys`]: logging, shutdown, the host's names
//! * [`daemon`]: all that launcher and builder do alike
//! * [`explain`]: why something waits, or is as it is, from records and from what launchers say
//! * [`overview`]: how everything stands, from the same
//! * [`history`]: what was asked, decided and done in the last days
//! * [`trace`]: spans for OpenTelemetry

// Tests measure by the host's clock, and name what they make by its chance.
#![cfg_attr(test, allow(clippy::disallowed_methods))]

pub mod config;
pub mod daemon;
pub mod explain;
pub mod history;
pub mod launchers;
pub mod model;
pub mod overview;
pub mod stats;
pub mod status;
pub mod sys;
pub mod trace;
pub mod zk;
