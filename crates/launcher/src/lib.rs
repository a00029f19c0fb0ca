//! `nodepool-launcher`: serves Zuul's node requests.
//!
//! * [`plan`] decides, purely
//! * [`run`] acts
//! * [`nodescan`] collects SSH host keys
//! * [`web`] is the HTTP API

// Tests measure by the host's clock, and name what they make by its chance.
#![cfg_attr(test, allow(clippy::disallowed_methods))]

pub mod nodescan;
pub mod plan;
pub mod run;
pub mod web;
