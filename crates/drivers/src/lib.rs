//! The clouds: the [`Provider`] trait and every driver behind it.
//!
//! A driver turns calls of the trait into calls of one cloud's API. It decides nothing about requests, knows no
//! ZooKeeper, and keeps no state that matters: what a restart must know is in the cloud resource's own metadata.
//! Every call of a cloud has a deadline inside the driver; the callers add their own (`launch-timeout`) on top and may
//! drop a future at any await, after which [`Provider::delete`] must still be able to remove what was made.

// Tests measure by the host's clock, and name what they make by its chance.
#![cfg_attr(test, allow(clippy::disallowed_methods))]

mod checksums;
mod context;
mod fake;
mod files;
mod format;
pub mod http_client;
mod image;
mod kubernetes;
pub mod leaks;
mod metadata;
mod metastatic;
mod openstack;
pub mod otlp;
mod provider;
mod scope;
mod static_hosts;

use std::sync::Arc;

use nodepool_common::config::{self, Driver};

use self::{
    fake::{clouds::FakeClouds, remote::RemoteCloud},
    openstack::{
        api::Cloud,
        client::{CloudSettings, Nova},
        provider::OpenStackProvider,
    },
};

pub use checksums::{Checksumming, Checksums};
pub use context::{ApiCall, ApiCalls, Context, OtherClouds};
pub use image::ImageToUpload;
pub use kubernetes::site::{self as pods_namespace, PodsNamespace, ProvidersSecret, Stored};
pub use metadata::Metadata;
pub use provider::{
    CloudImageSource, CloudResource, ErrorClass, Instance, Launch, LaunchProgress, LeakedResource, NodeProfile,
    Provider, ProviderError, Quota, ResourceKind,
};
pub use scope::Scope;

/// Makes the provider that a part of the configuration describes. It does not reach its cloud yet:
/// [`Provider::start`] does.
pub fn make(provider: &config::Provider, context: &Context) -> Result<Arc<dyn Provider>, ProviderError> {
    if let Some(clouds) = &context.other_clouds {
        return Ok(clouds.make(provider));
    }
    let name = &provider.name;
    let (config, cloud): (_, Arc<dyn Cloud>) = match &provider.driver {
        Driver::Kubernetes(config) => {
            return Ok(Arc::new(kubernetes::KubernetesProvider::new(provider, config, context)));
        }
        Driver::Metastatic(config) => {
            return Ok(Arc::new(metastatic::MetastaticProvider::new(name.clone(), config.clone(), context)));
        }
        Driver::Static => return Ok(Arc::new(static_hosts::StaticProvider::new(name.clone(), context))),
        Driver::OpenStack(config) => (config, Arc::new(Nova::new(name.clone(), config, context))),
        Driver::Fake(config) => match context.variable("NODEPOOL_FAKE_CLOUD") {
            Some(address) => (config, Arc::new(RemoteCloud::new(name.clone(), address))),
            None => (config, FakeClouds::of(name, context)),
        },
    };
    let image_format = CloudSettings::image_format(config, context);
    let entropy = context.ambient.entropy.clone();
    Ok(Arc::new(OpenStackProvider::new(name.clone(), config.clone(), cloud, image_format, entropy)))
}
