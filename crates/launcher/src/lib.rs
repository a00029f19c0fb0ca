//! `nodepool-launcher`: serves Zuul's node requests.

pub mod nodescan;
pub mod web;
