//! The clouds: the [`Provider`] trait and every driver behind it.
//!
//! A driver turns calls of the trait into calls of one cloud's API. It decides nothing about requests, knows no
//! ZooKeeper, and keeps no state that matters: what a restart must know is in the cloud resource's own metadata.
//! Every call of a cloud has a deadline inside the driver; the callers add their own (`launch-timeout`) on top and may
//! drop a future at any await, after which [`Provider::delete`] must still be able to remove what was made.

mod provider;

pub use provider::{
    CloudImageSource, CloudResource, ErrorClass, Instance, Launch, LaunchProgress, LeakedResource, NodeProfile,
    Provider, ProviderError, ResourceKind,
};
