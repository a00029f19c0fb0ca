//! `nodepool-launcher`: serves Zuul's node requests.
//!
//! * [`plan`] decides, purely
//! * [`run`] acts
//! * [`nodescan`] collects SSH host keys
//! * [`web`] is the HTTP API

pub mod nodescan;
pub mod plan;
pub mod run;
pub mod web;
