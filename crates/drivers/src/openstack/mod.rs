//! The `openstack` driver.
//!
//! [`provider`] tells the stories (launch, delete, quota, clean-up) over the few calls of [`cloud::Cloud`];
//! `calls.rs` makes those calls, through [`nova`] (when and how often) and [`http`] (once), with what [`clouds_yaml`],
//! [`identity`] and [`tls`] know; [`servers`] shares one listing among all who wait. The `fake` driver is the same stories on a simulated cloud, as upstream's is.
//!
//! Not built yet: making and attaching floating IPs (a server without a public address is reached at its private one,
//! with a warning), uploading images (the builder's).

pub(crate) mod addresses;
pub(crate) mod auth;
pub(crate) mod calls;
pub(crate) mod cloud;
pub(crate) mod cloud_networks;
pub(crate) mod clouds_yaml;
pub(crate) mod config_files;
pub(crate) mod format;
pub(crate) mod gate;
pub(crate) mod http;
pub(crate) mod identity;
pub(crate) mod nova;
pub(crate) mod provider;
pub(crate) mod servers;
pub(crate) mod tls;
