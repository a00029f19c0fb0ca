//! [`OpenStackProvider`]: the driver's stories over a [`Cloud`].
//!
//! This file has what they share; each story has a file of its own: [`launch`] with [`instance`], [`delete`],
//! [`floating_ips`], [`usage`], [`cleanup`], [`tagged`].
//! What a label means to the cloud is looked up once and kept: [`lookups`].

mod cleanup;
mod delete;
mod floating_ips;
mod images;
mod instance;
mod launch;
mod lookups;
mod tagged;
mod usage;

use std::{collections::HashSet, fmt, sync::Arc};

use async_trait::async_trait;
use nodepool_common::{
    config::{self, LabelImage},
    model::{ImageName, LabelName, NodeId, PoolName, ProviderName, Resources, UploadId},
};
use serde_json::Value;
use tokio::{
    sync::{Mutex, Semaphore},
    time::Instant,
};

use super::{
    cloud::{Cloud, CloudError, Fault, Server},
    listings::{Listings, Servers},
    network_service::FloatingIp,
};
use crate::{
    CloudImageSource, CloudResource, Context, ErrorClass, ImageToUpload, Instance, Launch, LaunchProgress,
    LeakedResource, NodeProfile, Provider, ProviderError, Quota, ResourceKind, Scope,
};

/// See the module's comment.
pub(crate) struct OpenStackProvider {
    name: ProviderName,
    config: config::OpenStack,
    cloud: Arc<dyn Cloud>,
    context: Context,
    servers: Listings<Server>,
    floating_ips: Listings<FloatingIp>,
    /// See [`floating_ips::AT_ONCE`].
    floating_ip_changes: Semaphore,
    lookups: lookups::Lookups,
    ports: Mutex<Option<cleanup::PortCheck>>,
    /// Labels whose servers turned out to need floating IPs: whether one does is known only once it has its addresses.
    gives_floating_ips: std::sync::Mutex<HashSet<(PoolName, LabelName)>>,
    /// Kinds of resources that could not be listed in the last search for leaks.
    unlisted: std::sync::Mutex<HashSet<ResourceKind>>,
}

impl fmt::Debug for OpenStackProvider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OpenStackProvider")
            .field("name", &self.name)
            .field("cloud", &self.cloud)
            .finish_non_exhaustive()
    }
}

type Result<T> = std::result::Result<T, ProviderError>;

impl OpenStackProvider {
    pub fn new(name: ProviderName, config: config::OpenStack, cloud: Arc<dyn Cloud>, context: Context) -> Self {
        Self {
            servers: Listings::new(Arc::clone(&cloud)),
            floating_ips: Listings::new(Arc::clone(&cloud)),
            floating_ip_changes: Semaphore::new(floating_ips::AT_ONCE),
            lookups: lookups::Lookups::new(name.clone(), Arc::clone(&cloud)),
            name,
            config,
            cloud,
            context,
            ports: Mutex::default(),
            gives_floating_ips: std::sync::Mutex::default(),
            unlisted: std::sync::Mutex::default(),
        }
    }

    fn label(&self, pool: &PoolName, label: &LabelName) -> Result<(&config::OpenStackPool, &config::OpenStackLabel)> {
        let found = self.config.pools.get(pool).and_then(|pool| Some((pool, pool.labels.get(label)?)));
        found.ok_or_else(|| {
            ProviderError::new(
                ErrorClass::Config,
                format!("looking up label {label} of pool {pool} in provider {}", self.name),
                "the configuration has no such label there (any more)",
            )
        })
    }

    fn image(&self, label: &config::OpenStackLabel) -> Result<Image<'_>> {
        let found = match &label.image {
            LabelImage::Diskimage(name) => self.config.diskimages.get(name).map(Image::Disk),
            LabelImage::CloudImage(name) => self.config.cloud_images.get(name).map(Image::Cloud),
        };
        found.ok_or_else(|| {
            let (what, name) = match &label.image {
                LabelImage::Diskimage(name) => ("diskimages", name.to_string()),
                LabelImage::CloudImage(name) => ("cloud-images", name.clone()),
            };
            ProviderError::new(
                ErrorClass::Config,
                format!("looking up the image of label {} in provider {}", label.name, self.name),
                format!("{name} is not in the provider's {what}; add it there"),
            )
        })
    }

    fn gives_floating_ips(&self) -> std::sync::MutexGuard<'_, HashSet<(PoolName, LabelName)>> {
        self.gives_floating_ips.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn unlisted(&self) -> std::sync::MutexGuard<'_, HashSet<ResourceKind>> {
        self.unlisted.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn error(&self, doing: impl fmt::Display) -> impl FnOnce(CloudError) -> ProviderError {
        error(&self.name, doing)
    }

    fn forget(&self) {
        tracing::info!(
            provider = %self.name,
            "the cloud refused a server's image, flavor, network, zone or key: all of them will be looked up anew"
        );
        self.lookups.forget();
    }

    async fn fault(&self, id: &str) -> Option<Fault> {
        match self.cloud.get_server(id).await {
            Ok(server) => server.and_then(|server| server.fault.clone()),
            Err(error) => {
                tracing::warn!(provider = %self.name, %id, %error, "cannot read the server's fault");
                None
            }
        }
    }

    /// A listing that began after `since`, which moves on to it. `None` where the cloud does not answer at the moment:
    /// the callers have deadlines, and until then it may come back.
    async fn next_listing(&self, since: &mut Instant, doing: impl Fn() -> String) -> Result<Option<Arc<Servers>>> {
        let listing = self.servers.after(*since).await;
        *since = listing.started;
        match listing.found {
            Ok(servers) => Ok(Some(servers)),
            Err(error) if error.class == ErrorClass::Bug => Err(self.error(doing())(error)),
            // Also where it refuses: what waits has done nothing wrong, and credentials are mended.
            Err(_) => Ok(None),
        }
    }
}

enum Image<'a> {
    Disk(&'a config::OpenStackDiskimage),
    Cloud(&'a config::CloudImage),
}

impl Image<'_> {
    fn name(&self) -> &str {
        match self {
            Self::Disk(image) => image.name.as_str(),
            Self::Cloud(image) => &image.name,
        }
    }

    fn config_drive(&self) -> bool {
        match self {
            Self::Disk(image) => image.config_drive,
            Self::Cloud(image) => image.config_drive,
        }
        .unwrap_or(false)
    }
}

/// The name or id by which a cloud image is looked up.
trait ExternalName {
    fn external_name(&self) -> &str;
}

impl ExternalName for config::CloudImage {
    fn external_name(&self) -> &str {
        self.image_name.as_deref().unwrap_or(&self.name)
    }
}

fn error(provider: &ProviderName, doing: impl fmt::Display) -> impl FnOnce(CloudError) -> ProviderError {
    let doing = format!("{doing} in provider {provider}");
    move |error| ProviderError { away: error.is_away(), ..ProviderError::new(error.class, doing, error) }
}

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

    async fn delete(&self, external_id: &Value) -> Result<()> {
        self.delete_server(external_id).await
    }

    fn scope(&self) -> Option<Scope> {
        self.cloud.scope()
    }

    fn has_gone(&self, external_id: &Value, since: Option<std::time::Instant>) -> Option<String> {
        let gone = self.servers.lack(external_id.as_str()?, since.map(Instant::from_std));
        gone.then(|| "the cloud does not list it any more".to_owned())
    }

    async fn list_tagged(&self) -> Result<Vec<CloudResource>> {
        self.tagged().await
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
