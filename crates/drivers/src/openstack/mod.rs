//! The `openstack` driver, in two halves which know nothing of each other but [`api`].
//!
//! | | |
//! |---|---|
//! | [`api`] | the trait [`Cloud`](api::Cloud): the few calls that the driver needs, and their data |
//! | [`client`] | makes those calls of a real cloud: clouds.yaml, Keystone, TLS, HTTP, when and how often a call is made |
//! | [`provider`] | the driver: launch, deletion, quota, clean-up, images, over any `Cloud` |
//!
//! [`make`](crate::make) joins them. The `fake` driver is the same `provider` on a simulated cloud, as upstream's is.

pub(crate) mod api;
pub(crate) mod client;
pub(crate) mod provider;
