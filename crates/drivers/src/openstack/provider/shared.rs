//! [`OpenStackProvider`]: what the driver's stories share.

use std::{
    collections::{HashMap, HashSet},
    fmt,
    sync::Arc,
};

use nodepool_common::{
    config::{self, LabelImage},
    model::{LabelName, PoolName, ProviderName},
};
use tokio::{
    sync::{Mutex, Semaphore},
    time::Instant,
};

use super::{
    errors::{Result, error},
    listings::{Listings, Servers},
    lookups::Lookups,
};
use crate::{
    ErrorClass, ProviderError, ResourceKind,
    openstack::api::{Cloud, CloudError, Fault, FloatingIp, ImageFormat, Port, Server},
};

/// So many floating IPs are made or deleted at a time. Neutron's transactions on one external network get into each
/// other's way and are repeated: on a cloud where one takes 1 s, twenty at once took 20 s to 90 s each.
const FLOATING_IPS_AT_ONCE: usize = 4;

/// See the module's comment. Its stories are told by the files beside this one.
pub(crate) struct OpenStackProvider {
    pub(super) name: ProviderName,
    pub(super) config: config::OpenStack,
    pub(super) cloud: Arc<dyn Cloud>,
    pub(super) image_format: ImageFormat,
    pub(super) servers: Listings<Server>,
    pub(super) floating_ips: Listings<FloatingIp>,
    /// See [`FLOATING_IPS_AT_ONCE`].
    pub(super) floating_ip_changes: Semaphore,
    pub(super) lookups: Lookups,
    pub(super) ports: Mutex<Option<PortCheck>>,
    /// Labels whose servers turned out to need floating IPs: whether one does is known only once it has its addresses.
    pub(super) gives_floating_ips: std::sync::Mutex<HashSet<(PoolName, LabelName)>>,
    /// Kinds of resources that could not be listed in the last search for leaks.
    pub(super) unlisted: std::sync::Mutex<HashSet<ResourceKind>>,
}

/// The last look at ports that are DOWN.
#[derive(Debug)]
pub(super) struct PortCheck {
    pub at: Instant,
    /// By id.
    pub down: HashMap<String, Port>,
}

impl fmt::Debug for OpenStackProvider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OpenStackProvider")
            .field("name", &self.name)
            .field("cloud", &self.cloud)
            .finish_non_exhaustive()
    }
}

impl OpenStackProvider {
    pub fn new(
        name: ProviderName,
        config: config::OpenStack,
        cloud: Arc<dyn Cloud>,
        image_format: ImageFormat,
    ) -> Self {
        Self {
            servers: Listings::new(Arc::clone(&cloud)),
            floating_ips: Listings::new(Arc::clone(&cloud)),
            floating_ip_changes: Semaphore::new(FLOATING_IPS_AT_ONCE),
            lookups: Lookups::new(name.clone(), Arc::clone(&cloud)),
            name,
            config,
            cloud,
            image_format,
            ports: Mutex::default(),
            gives_floating_ips: std::sync::Mutex::default(),
            unlisted: std::sync::Mutex::default(),
        }
    }

    pub(super) fn label(
        &self,
        pool: &PoolName,
        label: &LabelName,
    ) -> Result<(&config::OpenStackPool, &config::OpenStackLabel)> {
        let found = self.config.pools.get(pool).and_then(|pool| Some((pool, pool.labels.get(label)?)));
        found.ok_or_else(|| {
            ProviderError::new(
                ErrorClass::Config,
                format!("looking up label {label} of pool {pool} in provider {}", self.name),
                "the configuration has no such label there (any more)",
            )
        })
    }

    pub(super) fn image(&self, label: &config::OpenStackLabel) -> Result<Image<'_>> {
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

    pub(super) fn gives_floating_ips(&self) -> std::sync::MutexGuard<'_, HashSet<(PoolName, LabelName)>> {
        self.gives_floating_ips.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    pub(super) fn unlisted(&self) -> std::sync::MutexGuard<'_, HashSet<ResourceKind>> {
        self.unlisted.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    pub(super) fn error(&self, doing: impl fmt::Display) -> impl FnOnce(CloudError) -> ProviderError {
        error(&self.name, doing)
    }

    pub(super) fn forget(&self) {
        tracing::info!(
            provider = %self.name,
            "the cloud refused a server's image, flavor, network, zone or key: all of them will be looked up anew"
        );
        self.lookups.forget();
    }

    pub(super) async fn fault(&self, id: &str) -> Option<Fault> {
        match self.cloud.get_server(id, None).await {
            Ok(server) => server.and_then(|server| server.fault.as_deref().cloned()),
            Err(error) => {
                tracing::warn!(provider = %self.name, %id, %error, "cannot read the server's fault");
                None
            }
        }
    }

    /// A listing that began after `since`, which moves on to it. `None` where the cloud does not answer at the moment:
    /// the callers have deadlines, and until then it may come back.
    pub(super) async fn next_listing(
        &self,
        since: &mut Instant,
        doing: impl Fn() -> String,
    ) -> Result<Option<Arc<Servers>>> {
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

/// What a label's servers are made from.
pub(super) enum Image<'a> {
    Disk(&'a config::OpenStackDiskimage),
    Cloud(&'a config::CloudImage),
}

impl Image<'_> {
    pub(super) fn name(&self) -> &str {
        match self {
            Self::Disk(image) => image.name.as_str(),
            Self::Cloud(image) => &image.name,
        }
    }

    pub(super) fn config_drive(&self) -> bool {
        match self {
            Self::Disk(image) => image.config_drive,
            Self::Cloud(image) => image.config_drive,
        }
        .unwrap_or(false)
    }
}

/// The name or id by which a cloud image is looked up.
pub(super) trait ExternalName {
    fn external_name(&self) -> &str;
}

impl ExternalName for config::CloudImage {
    fn external_name(&self) -> &str {
        self.image_name.as_deref().unwrap_or(&self.name)
    }
}
