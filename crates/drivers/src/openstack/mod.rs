//! The `openstack` driver.
//!
//! [`provider`] tells the stories (launch, delete, quota, clean-up) over the few calls of [`cloud::Cloud`];
//! `calls.rs` makes those calls, through [`pages`] (listings), [`nova`] (how often), [`gate`] (when) and [`http`] (once),
//! with what [`clouds_yaml`] (and what it stands on: [`cloud_entry`], [`profiles`], [`regions`], [`credentials`]),
//! [`identity`], [`tls`] and [`redirects`] know; `neutron.rs` and `glance.rs` have those of [`network_service`] and
//! [`image_service`]. [`listings`] shares one listing among all who wait. The `fake` driver is the same stories on a
//! simulated cloud, as upstream's is.

pub(crate) mod addresses;
pub(crate) mod auth;
pub(crate) mod calls;
pub(crate) mod catalog;
pub(crate) mod cloud;
pub(crate) mod cloud_entry;
pub(crate) mod cloud_environment;
pub(crate) mod cloud_networks;
pub(crate) mod clouds_yaml;
pub(crate) mod config_files;
pub(crate) mod credentials;
pub(crate) mod gate;
pub(crate) mod glance;
pub(crate) mod http;
pub(crate) mod identity;
pub(crate) mod image_file;
pub(crate) mod image_service;
pub(crate) mod images;
pub(crate) mod listings;
pub(crate) mod network_service;
pub(crate) mod neutron;
pub(crate) mod nova;
pub(crate) mod pages;
pub(crate) mod profiles;
pub(crate) mod provider;
pub(crate) mod redirects;
pub(crate) mod regions;
pub(crate) mod remote_profiles;
pub(crate) mod sdk_metrics;
pub(crate) mod tls;
pub(crate) mod turns;
