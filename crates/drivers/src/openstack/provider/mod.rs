//! The driver: the stories of a node over the few calls of a [`Cloud`](super::api::Cloud), which it knows nothing else of.
//!
//! | | what it tells | imports of these |
//! |---|---|---|
//! | `errors` | a cloud's error as a provider's | |
//! | `addresses` | which of a server's addresses is which. Pure | |
//! | `listings` | one listing that all share who wait for one | |
//! | `lookups` | what a label means to the cloud, looked up once and kept | `errors` |
//! | `image_upload` | an image's way into a cloud | |
//! | `when_to_look` | when a listing will be news. Pure | |
//! | `shared` | `OpenStackProvider`: what the stories below share | `errors` `listings` `lookups` `when_to_look` |
//! | `instance` | a server that is ready, as the launcher wants it | `shared` `addresses` |
//! | `floating_ips` | floating IPs of a server | `shared` `instance` |
//! | `usage` | what a server takes, what a project has left | `shared` `listings` |
//! | `launch` | a launch | `shared` `usage` `when_to_look` |
//! | `delete` | a deletion | `shared` `when_to_look` |
//! | `cleanup` | ports and floating IPs that no record can point to | `shared` |
//! | `tagged` | what carries our marks | `shared` |
//! | `images` | the builder's images | `shared` `image_upload` |
//!
//! This file has the trait [`Provider`], whose methods lead to them.

mod addresses;
mod cleanup;
mod delete;
mod errors;
mod floating_ips;
mod image_upload;
mod images;
mod instance;
mod launch;
mod listings;
mod lookups;
mod shared;
mod tagged;
mod usage;
mod when_to_look;

use std::collections::HashSet;

use async_trait::async_trait;
use nodepool_common::model::{ImageName, LabelName, NodeId, PoolName, ProviderName, Resources, UploadId};
use serde_json::Value;
use tokio::time::Instant;

use self::{
    errors::Result,
    shared::{ExternalName as _, Image},
};
use crate::{
    CloudImageSource, CloudResource, ImageToUpload, Instance, Launch, LaunchProgress, LeakedResource, NodeProfile,
    Provider, ProviderError, Quota, ResourceKind, Scope,
};

pub(crate) use self::shared::OpenStackProvider;

#[async_trait]
impl Provider for OpenStackProvider {
    fn name(&self) -> &ProviderName {
        &self.name
    }

    async fn start(&self) -> Result<()> {
        self.cloud.start().await.map_err(|error| {
            ProviderError::new(error.class, format!("connecting provider {} to its cloud", self.name), error)
        })
    }

    fn profile(&self, pool: &PoolName, label: &LabelName) -> Result<NodeProfile> {
        let (_, label) = self.label(pool, label)?;
        Ok(match self.image(label)? {
            Image::Disk(image) => NodeProfile {
                username: Some(image.username.clone()),
                python_path: Some(image.python_path.clone()),
                shell_type: image.shell_type.clone(),
                connection_type: image.connection_type.clone(),
                connection_port: image.connection_port,
                host_key_checking: label.host_key_checking,
                image: Some(CloudImageSource::Diskimage(image.name.clone())),
            },
            Image::Cloud(image) => NodeProfile {
                username: image.username.clone(),
                python_path: Some(image.python_path.clone()),
                shell_type: image.shell_type.clone(),
                connection_type: image.connection_type.clone(),
                connection_port: image.connection_port,
                host_key_checking: label.host_key_checking,
                image: Some(CloudImageSource::Cloud(image.name.clone())),
            },
        })
    }

    async fn label_resources(&self, pool: &PoolName, label: &LabelName) -> Result<Resources> {
        let gives = self.gives_floating_ips().contains(&(pool.clone(), label.clone()));
        let (_, label) = self.label(pool, label)?;
        let need = usage::need(&self.lookups.flavor(label).await?, label);
        let floating_ips = gives.then_some(1.0);
        Ok(need.with("floating-ips", floating_ips))
    }

    async fn label_ready(&self, pool: &PoolName, label: &LabelName) -> Result<bool> {
        if let Some(ready) = self.cloud.label_ready(pool, label).await {
            return ready.map_err(self.error(format_args!("asking whether label {label} is ready")));
        }
        let (_, label) = self.label(pool, label)?;
        let Image::Cloud(image) = self.image(label)? else { return Ok(false) };
        // An id is not validated, as in upstream: the creation will tell.
        if image.image_id.is_some() || self.lookups.image(image.external_name()).await?.is_some() {
            return Ok(true);
        }
        tracing::warn!(
            provider = %self.name, label = %label.name,
            "the cloud has no active image called {}, the cloud-image of the label: requests for it are declined until it is there",
            image.external_name()
        );
        Ok(false)
    }

    async fn availability_zones(&self) -> Result<Vec<String>> {
        self.lookups.zones().await
    }

    async fn quota(&self) -> Result<Quota> {
        self.project_quota().await
    }

    async fn list_resources(&self) -> Result<Vec<CloudResource>> {
        self.resources().await
    }

    async fn launch(&self, launch: &Launch, progress: &dyn LaunchProgress) -> Result<Instance> {
        self.launch_server(launch, progress).await
    }

    async fn delete(&self, external_id: &Value, made_in: Option<&Value>) -> Result<()> {
        self.delete_server(external_id, made_in, false).await
    }

    async fn delete_at_leisure(&self, external_id: &Value, made_in: Option<&Value>) -> Result<()> {
        self.delete_server(external_id, made_in, true).await
    }

    fn room_is_wanted(&self, wanted: bool) {
        OpenStackProvider::room_is_wanted(self, wanted);
    }

    fn scope(&self) -> Option<Scope> {
        self.cloud.scope()
    }

    /// What lists lack counts only after one of the same project that had it, so nothing need be known of where it was made.
    fn has_gone(&self, external_id: &Value, _made_in: Option<&Value>, since: Option<Instant>) -> Option<String> {
        let gone = self.servers.lack(external_id.as_str()?, since);
        gone.then(|| "the cloud does not list it any more".to_owned())
    }

    async fn list_tagged(&self) -> Result<Vec<CloudResource>> {
        self.tagged().await
    }

    fn unlisted_kinds(&self) -> HashSet<ResourceKind> {
        self.unlisted().clone()
    }

    async fn delete_resource(&self, resource: &CloudResource) -> Result<()> {
        self.delete_leaked(resource).await
    }

    async fn clean_up(&self) -> Result<Vec<LeakedResource>> {
        let mut removed = Vec::new();
        if let Some(interval) = self.config.port_cleanup_interval {
            removed.extend(self.clean_up_ports(interval).await?);
        }
        if self.config.clean_floating_ips {
            removed.extend(self.clean_up_floating_ips().await?);
        }
        Ok(removed)
    }

    async fn list_orphans(&self) -> Result<Vec<(CloudResource, String)>> {
        self.orphans().await
    }

    async fn console_log(&self, pool: &PoolName, label: &LabelName, external_id: &Value) -> Result<Option<String>> {
        let (_, label) = self.label(pool, label)?;
        let Some(id) = external_id.as_str().filter(|_| label.console_log) else { return Ok(None) };
        // It is read to explain another error; not having it is none.
        self.cloud.console(id).await.or_else(|error| {
            tracing::info!(provider = %self.name, %id, %error, "the cloud does not give the server's console log");
            Ok(None)
        })
    }

    fn manages_images(&self) -> bool {
        true
    }

    fn image_format(&self) -> Result<String> {
        self.wanted_image_format()
    }

    fn image_name(&self, image: &ImageName, upload: &UploadId, at: u64) -> Result<String> {
        self.fill_image_name(image, upload, at)
    }

    async fn upload_image(&self, image: &ImageToUpload) -> Result<String> {
        self.upload(image).await
    }

    async fn delete_image(&self, external_id: &str) -> Result<()> {
        self.delete_uploaded(external_id).await
    }

    async fn list_images(&self) -> Result<Vec<CloudResource>> {
        self.list_uploaded().await
    }

    async fn host_keys(&self, node: &NodeId, address: &str) -> Option<Result<Vec<String>>> {
        let keys = self.cloud.host_keys(node, address).await?;
        Some(keys.map_err(self.error(format_args!("scanning the host keys of {address} for node {node}"))))
    }
}
