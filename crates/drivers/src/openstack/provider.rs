//! [`OpenStackProvider`]: the driver's stories over a [`Cloud`].
//!
//! What a label means to the cloud is looked up once and kept (flavors, images, networks, zones): a cloud rarely
//! changes them, and each launch would otherwise cost four calls more. An HTTP 400 on a creation says that something
//! kept is stale, so it empties all of them, as upstream does.
//!
//! A launch may be dropped at any await. What exists in the cloud by then is found again: its id was reported through
//! [`LaunchProgress`] before anything else was awaited, or its metadata names the node.

use std::{
    collections::{HashMap, HashSet},
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use nodepool_common::{
    config::{self, LabelImage},
    model::{ImageName, LabelName, NodeId, PoolName, ProviderName, Resources, UploadId},
};
use serde_json::{Map, Value, json};
use tokio::{sync::Mutex, time::Instant};

use super::{
    addresses,
    cloud::{Cloud, CloudError, CreateServer, Fault, Flavor, Named, Server},
    clouds_yaml::CloudSettings,
    format::{fill, format, safe_attributes},
    images,
    servers::{ServerList, Servers},
};
use crate::{
    CloudImageSource, CloudResource, Context, ErrorClass, ImageToUpload, Instance, Launch, LaunchProgress,
    LeakedResource, NodeProfile, Provider, ProviderError, ResourceKind,
};

/// A cloud image that was not found is looked for again after this (`nodepool 11.0.0: IMAGE_CHECK_TIMEOUT`).
const IMAGE_CHECK_INTERVAL: Duration = Duration::from_secs(300);
/// Flavors of existing servers that are not in the list we have are looked for again after this.
const FLAVOR_CHECK_INTERVAL: Duration = Duration::from_secs(300);
/// A server that listings do not have for so long, one after the other, is asked for by its id.
const MISSING_LISTINGS: u32 = 3;
/// … and for so long: a list may lag behind the server's creation.
const MISSING_FOR: Duration = Duration::from_secs(10);
/// A deletion that leaves its server in ERROR is asked for so many times in all.
const DELETE_ATTEMPTS: u32 = 3;
/// A server is in ERROR for so many listings before its deletion is asked for again.
const ERROR_LISTINGS: u32 = 3;
/// Where clouds.yaml names no `image_format` (openstacksdk: config/defaults.json).
const IMAGE_FORMAT: &str = "qcow2";

/// See the module's comment.
pub(crate) struct OpenStackProvider {
    name: ProviderName,
    config: config::OpenStack,
    cloud: Arc<dyn Cloud>,
    context: Context,
    servers: ServerList,
    kept: Mutex<Kept>,
    ports: Mutex<Option<PortCheck>>,
    warned_of_floating_ips: AtomicBool,
}

/// What the cloud has, as far as it was asked for.
#[derive(Debug, Default)]
struct Kept {
    /// By RAM, then name.
    flavors: Option<(Arc<Vec<Flavor>>, Instant)>,
    images: HashMap<String, Named>,
    missing_images: HashMap<String, Instant>,
    networks: HashMap<String, Named>,
    external_networks: Option<Arc<Vec<String>>>,
    zones: Option<Vec<String>>,
}

/// The last look at ports that are DOWN.
#[derive(Debug)]
struct PortCheck {
    at: Instant,
    down: HashSet<String>,
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
            name,
            config,
            servers: ServerList::new(Arc::clone(&cloud)),
            cloud,
            context,
            kept: Mutex::default(),
            ports: Mutex::default(),
            warned_of_floating_ips: AtomicBool::new(false),
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

    fn error(&self, doing: impl fmt::Display) -> impl FnOnce(CloudError) -> ProviderError {
        let doing = format!("{doing} in provider {}", self.name);
        move |error| ProviderError::new(error.class, doing, error)
    }

    async fn flavors(&self, not_older_than: Option<Duration>) -> Result<Arc<Vec<Flavor>>> {
        let mut kept = self.kept.lock().await;
        if let Some((flavors, at)) = &kept.flavors
            && not_older_than.is_none_or(|age| at.elapsed() <= age)
        {
            return Ok(Arc::clone(flavors));
        }
        let mut flavors = self.cloud.list_flavors().await.map_err(self.error("listing flavors"))?;
        flavors.sort_by(|a, b| a.ram.total_cmp(&b.ram).then_with(|| a.name.cmp(&b.name)));
        let flavors = Arc::new(flavors);
        kept.flavors = Some((Arc::clone(&flavors), Instant::now()));
        Ok(flavors)
    }

    async fn flavor(&self, label: &config::OpenStackLabel) -> Result<Flavor> {
        let flavors = self.flavors(None).await?;
        choose_flavor(&flavors, label).cloned().ok_or_else(|| {
            let names: Vec<&str> = flavors.iter().map(|flavor| flavor.name.as_str()).collect();
            let wanted = match (label.min_ram, &label.flavor_name) {
                (0, Some(name)) => format!("is called {name} (flavor-name) or has that id"),
                (0, None) => "is meant: the label has neither flavor-name nor min-ram".to_owned(),
                (ram, None) => format!("has {ram} MiB of RAM (min-ram)"),
                (ram, Some(name)) => format!("has {ram} MiB of RAM (min-ram) and {name} in its name (flavor-name)"),
            };
            ProviderError::new(
                ErrorClass::Config,
                format!("choosing the flavor of label {} in provider {}", label.name, self.name),
                format!("no flavor of the cloud {wanted}; it has: {}", names.join(", ")),
            )
        })
    }

    /// An image of the cloud that the configuration names.
    async fn find_image(&self, name: &str) -> Result<Option<Named>> {
        let mut kept = self.kept.lock().await;
        if let Some(image) = kept.images.get(name) {
            return Ok(Some(image.clone()));
        }
        if kept.missing_images.get(name).is_some_and(|since| since.elapsed() < IMAGE_CHECK_INTERVAL) {
            return Ok(None);
        }
        let image = self.cloud.find_image(name).await.map_err(self.error(format_args!("looking for image {name}")))?;
        if let Some(image) = &image {
            kept.missing_images.remove(name);
            kept.images.insert(name.to_owned(), image.clone());
        } else {
            kept.missing_images.insert(name.to_owned(), Instant::now());
        }
        Ok(image)
    }

    async fn network_id(&self, name: &str) -> Result<String> {
        let mut kept = self.kept.lock().await;
        if let Some(network) = kept.networks.get(name) {
            return Ok(network.id.clone());
        }
        let doing = format!("looking for network {name}");
        let network = self.cloud.find_network(name).await.map_err(self.error(&doing))?.ok_or_else(|| {
            ProviderError::new(
                ErrorClass::Config,
                format!("{doing} in provider {}", self.name),
                "the cloud has no network of that name or id that this project may see; check `networks`",
            )
        })?;
        kept.networks.insert(name.to_owned(), network.clone());
        Ok(network.id)
    }

    /// Without them, addresses are only classed less well, so an error is no reason to fail.
    async fn external_networks(&self) -> Arc<Vec<String>> {
        let mut kept = self.kept.lock().await;
        if let Some(networks) = &kept.external_networks {
            return Arc::clone(networks);
        }
        match self.cloud.external_networks().await {
            Ok(networks) => Arc::clone(kept.external_networks.insert(Arc::new(networks))),
            Err(error) => {
                tracing::warn!(provider = %self.name, %error, "cannot list external networks");
                Arc::default()
            }
        }
    }

    async fn image_id(&self, launch: &Launch, image: &Image<'_>) -> Result<String> {
        let doing = || format!("choosing the image of server {} in provider {}", launch.hostname, self.name);
        match image {
            Image::Disk(diskimage) => {
                let id = launch.upload.as_ref().and_then(|upload| upload.external_id.clone());
                id.ok_or_else(|| {
                    // The words and the metric are upstream's.
                    ProviderError::new(
                        ErrorClass::Config,
                        doing(),
                        format!("Unable to find current cloud image {} in {}", diskimage.name, self.name),
                    )
                })
            }
            Image::Cloud(image) => {
                if let Some(id) = &image.image_id {
                    return Ok(id.clone());
                }
                let name = image.external_name();
                let found = self.find_image(name).await?;
                found.map(|image| image.id).ok_or_else(|| {
                    ProviderError::new(
                        ErrorClass::Config,
                        doing(),
                        format!("the cloud has no active image called {name}; check `cloud-images`"),
                    )
                })
            }
        }
    }

    /// Groups for Ansible, then what the configuration adds, then what finds the server again (drivers.md 1.4).
    fn metadata(&self, launch: &Launch, label: &config::OpenStackLabel, image: &Image<'_>) -> Map<String, Value> {
        let mut meta = Map::new();
        meta.insert("groups".to_owned(), json!(format!("{},{},{}", self.name, image.name(), label.name)));
        for (key, value) in &label.instance_properties {
            meta.insert(key.clone(), json!(value));
        }
        let request = safe_attributes(&launch.request);
        for (key, template) in &label.dynamic_instance_properties {
            match format(template, &request) {
                Ok(value) => {
                    meta.insert(key.clone(), json!(value));
                }
                Err(error) => tracing::warn!(
                    provider = %self.name, label = %label.name, node = %launch.node, request = %launch.request.id,
                    "leaving out dynamic-instance-properties.{key}: {error}"
                ),
            }
        }
        for (key, value) in launch.metadata(&self.name) {
            meta.insert(key.to_owned(), json!(value));
        }
        meta
    }

    /// Creates the server and returns its id, after that was reported.
    async fn create(&self, create: &CreateServer, launch: &Launch, progress: &dyn LaunchProgress) -> Result<Server> {
        let doing = format!("creating server {}", create.name);
        let mut error = match self.cloud.create_server(create).await {
            Ok(server) => {
                progress.created(json!(server.id)).await;
                return Ok(server);
            }
            Err(error) => error,
        };
        if let Some(id) = error.external_id.clone() {
            progress.created(json!(id)).await;
            if let Some(fault) = self.fault(&id).await {
                tracing::error!(provider = %self.name, node = %launch.node, %id, "Detailed node error: {}", fault.message);
                if fault.class() == ErrorClass::Quota {
                    error.class = ErrorClass::Quota;
                }
                error.message = format!("{} ({})", error.message, fault.message);
            }
        } else if error.is_ambiguous() {
            self.report_lost(launch, progress).await;
        }
        match error.status {
            // Something that was kept does not exist any more.
            Some(400) => self.forget().await,
            Some(404) => {
                self.forget().await;
                error.class = ErrorClass::Config;
            }
            _ => {}
        }
        Err(self.error(&doing)(error))
    }

    async fn forget(&self) {
        tracing::info!(
            provider = %self.name,
            "the cloud refused a server's image, flavor, network, zone or key: all of them will be looked up anew"
        );
        *self.kept.lock().await = Kept::default();
    }

    /// A creation whose answer was lost may have happened: the server's metadata tells.
    async fn report_lost(&self, launch: &Launch, progress: &dyn LaunchProgress) {
        self.servers.hurry_for_news();
        let mut since = Instant::now();
        for _ in 0..2 {
            let listing = self.servers.after(since).await;
            since = listing.started;
            let Ok(servers) = listing.servers else { continue };
            let lost = servers.values().find(|server| {
                !server.is_gone()
                    && server.tag("nodepool_provider_name") == Some(self.name.as_str())
                    && server.tag("nodepool_node_id") == Some(launch.node.as_str())
            });
            if let Some(server) = lost {
                tracing::warn!(
                    provider = %self.name, node = %launch.node, id = server.id,
                    "the answer to the server's creation was lost, but it exists"
                );
                progress.created(json!(server.id)).await;
                return;
            }
        }
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
        match listing.servers {
            Ok(servers) => Ok(Some(servers)),
            Err(error) if matches!(error.class, ErrorClass::Config | ErrorClass::Bug) => {
                Err(self.error(doing())(error))
            }
            Err(_) => Ok(None),
        }
    }

    async fn wait_until_active(&self, id: &str, name: &str) -> Result<Arc<Server>> {
        let doing = || format!("waiting for server {name} ({id})");
        let mut since = Instant::now();
        let mut missing = 0;
        let mut missing_since = None;
        self.servers.hurry_for_news();
        loop {
            let Some(servers) = self.next_listing(&mut since, &doing).await? else { continue };
            let Some(server) = servers.get(id) else {
                missing += 1;
                let absent = missing_since.get_or_insert_with(Instant::now).elapsed();
                if missing >= MISSING_LISTINGS && absent >= MISSING_FOR {
                    if self.cloud.get_server(id).await.map_err(self.error(doing()))?.is_none() {
                        return Err(self.error(doing())(CloudError::new(
                            ErrorClass::Gone,
                            "the cloud does not have it any more; somebody deleted it while it was being made",
                        )));
                    }
                    missing = 0;
                }
                continue;
            };
            missing = 0;
            missing_since = None;
            match server.status.as_str() {
                "ACTIVE" => return Ok(Arc::clone(server)),
                "ERROR" => return Err(self.server_failed(doing(), server).await),
                _ if server.is_gone() => {
                    return Err(self.error(doing())(CloudError::new(ErrorClass::Gone, "somebody deleted it")));
                }
                _ => {}
            }
        }
    }

    async fn server_failed(&self, doing: String, server: &Server) -> ProviderError {
        let fault = match &server.fault {
            Some(fault) => fault.clone(),
            None => self.fault(&server.id).await.unwrap_or_default(),
        };
        let why = if fault.message.is_empty() { "Nova gives no fault" } else { fault.message.as_str() };
        let error = CloudError::new(fault.class(), format!("the server is in ERROR: {why}"));
        let error = self.error(doing)(error);
        match error.class {
            ErrorClass::Transient => error.with_launch_result("error.status"),
            _ => error,
        }
    }

    async fn instance(&self, pool: &config::OpenStackPool, server: &Server, resources: Resources) -> Instance {
        let external = if server.knows_addresses { Arc::default() } else { self.external_networks().await };
        let addressing = self.cloud.addressing();
        let addresses = addresses::choose(server, &external, &addressing);
        let wants_floating_ip = pool.auto_floating_ip
            && !server.knows_addresses
            && !addressing.private
            && !external.is_empty()
            && addresses.public_v4.is_none()
            && addresses.private_v4.is_some();
        if wants_floating_ip && !self.warned_of_floating_ips.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                provider = %self.name, pool = %pool.name,
                "auto-floating-ip is on, but floating IPs are not supported yet: servers without a public address are \
                 reached at their private one. Set auto-floating-ip: false if that is what you want"
            );
        }
        let text = |value: &Option<String>| value.clone();
        Instance {
            external_id: json!(server.id),
            interface_ip: addresses.interface_ip.clone(),
            // For backwards compatibility, says upstream.
            private_ipv4: text(&addresses.private_v4)
                .or_else(|| text(&addresses.public_v4).filter(|address| !address.is_empty())),
            public_ipv4: addresses.public_v4,
            public_ipv6: addresses.public_v6,
            host_id: server.host_id.clone(),
            cloud: self.config.cloud.clone().or_else(|| self.cloud.cloud_name()),
            region: self.config.region_name.clone(),
            az: server.az.clone(),
            driver_data: None,
            slot: None,
            node_properties: Map::new(),
            resources,
        }
    }

    /// What an existing server takes. A flavor that is gone or hidden counts as one instance (traps.md 30).
    fn usage(server: &Server, flavors: &[Flavor], sizes: &HashMap<String, f64>) -> Resources {
        let embedded = Flavor::read(&server.flavor);
        let flavor = embedded.as_ref().or_else(|| find_flavor(&server.flavor, flavors));
        let mut resources = Resources::new().with("instances", 1.0);
        if let Some(flavor) = flavor {
            resources.set("cores", flavor.vcpus);
            resources.set("ram", flavor.ram);
        }
        let volumes: Vec<f64> = server.volumes.iter().filter_map(|id| sizes.get(id)).copied().collect();
        if !volumes.is_empty() {
            #[allow(clippy::cast_precision_loss)] // a handful of volumes
            resources.set("volumes", volumes.len() as f64);
            resources.set("volume-gb", volumes.iter().sum());
        }
        resources
    }

    async fn down_ports(&self) -> Result<HashSet<String>> {
        let ports = self.cloud.list_ports("DOWN").await.map_err(self.error("listing ports that are DOWN"))?;
        Ok(ports.into_iter().filter(super::cloud::Port::is_for_compute).map(|port| port.id).collect())
    }

    /// Ports carry no metadata, so one that was DOWN twice in a row is taken for leaked (`nodepool 11.0.0:
    /// driver/openstack/adapter.py _cleanupLeakedPorts`).
    async fn clean_up_ports(&self, interval: Duration) -> Result<Vec<LeakedResource>> {
        let mut check = self.ports.lock().await;
        let Some(last) = check.as_mut() else {
            let down = self.down_ports().await?;
            *check = Some(PortCheck { at: Instant::now(), down });
            return Ok(Vec::new());
        };
        // Whole seconds, as upstream counts.
        if last.at.elapsed().as_secs() <= interval.as_secs() {
            return Ok(Vec::new());
        }
        let down = self.down_ports().await?;
        let mut removed = Vec::new();
        for id in down.intersection(&last.down) {
            match self.cloud.delete_port(id).await {
                Ok(()) => removed.push(LeakedResource { kind: ResourceKind::Port, id: id.clone() }),
                Err(error) if error.class == ErrorClass::Gone => {}
                Err(error) => tracing::warn!(provider = %self.name, port = %id, %error, "cannot delete a leaked port"),
            }
        }
        last.at = Instant::now();
        last.down = self.down_ports().await?;
        Ok(removed)
    }

    async fn clean_up_floating_ips(&self) -> Result<Vec<LeakedResource>> {
        let ips = self.cloud.list_floating_ips().await.map_err(self.error("listing floating IPs"))?;
        let mut removed = Vec::new();
        for ip in ips.into_iter().filter(|ip| ip.port.is_none()) {
            match self.cloud.delete_floating_ip(&ip.id).await {
                Ok(()) => removed.push(LeakedResource { kind: ResourceKind::FloatingIp, id: ip.id }),
                Err(error) if error.class == ErrorClass::Gone => {}
                Err(error) => {
                    tracing::warn!(provider = %self.name, floating_ip = %ip.id, %error, "cannot delete a floating IP");
                }
            }
        }
        Ok(removed)
    }
}

/// By min-ram: the smallest one with so much whose name contains flavor-name. Else by exact name or id.
fn choose_flavor<'a>(by_ram: &'a [Flavor], label: &config::OpenStackLabel) -> Option<&'a Flavor> {
    let name = label.flavor_name.as_deref().unwrap_or("");
    if label.min_ram == 0 {
        return by_ram.iter().find(|flavor| flavor.name == name || flavor.id == name);
    }
    #[allow(clippy::cast_precision_loss)] // MiB
    by_ram.iter().find(|flavor| flavor.ram >= label.min_ram as f64 && flavor.name.contains(name))
}

/// The flavor that a server's embedded one refers to.
fn find_flavor<'a>(embedded: &Value, flavors: &'a [Flavor]) -> Option<&'a Flavor> {
    let text = |key: &str| embedded.get(key).and_then(Value::as_str);
    let id = embedded.as_str().or_else(|| text("id"));
    let name = text("original_name").or_else(|| text("name"));
    flavors
        .iter()
        .find(|flavor| id == Some(flavor.id.as_str()))
        .or_else(|| flavors.iter().find(|flavor| name == Some(flavor.name.as_str())))
}

/// What one node of a label takes.
#[allow(clippy::cast_precision_loss)] // GB
fn need(flavor: &Flavor, label: &config::OpenStackLabel) -> Resources {
    let resources = Resources::new().with("instances", 1.0).with("cores", flavor.vcpus).with("ram", flavor.ram);
    if label.boot_from_volume {
        resources.with("volumes", 1.0).with("volume-gb", label.volume_size as f64)
    } else {
        resources
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
                image: CloudImageSource::Diskimage(image.name.clone()),
            },
            Image::Cloud(image) => NodeProfile {
                username: image.username.clone(),
                python_path: Some(image.python_path.clone()),
                shell_type: image.shell_type.clone(),
                connection_type: image.connection_type.clone(),
                connection_port: image.connection_port,
                host_key_checking: label.host_key_checking,
                image: CloudImageSource::Cloud(image.name.clone()),
            },
        })
    }

    async fn label_resources(&self, pool: &PoolName, label: &LabelName) -> Result<Resources> {
        let (_, label) = self.label(pool, label)?;
        Ok(need(&self.flavor(label).await?, label))
    }

    async fn label_ready(&self, pool: &PoolName, label: &LabelName) -> Result<bool> {
        if let Some(ready) = self.cloud.label_ready(pool, label).await {
            return ready.map_err(self.error(format_args!("asking whether label {label} is ready")));
        }
        let (_, label) = self.label(pool, label)?;
        let Image::Cloud(image) = self.image(label)? else { return Ok(false) };
        // An id is not validated, as in upstream: the creation will tell.
        if image.image_id.is_some() || self.find_image(image.external_name()).await?.is_some() {
            return Ok(true);
        }
        tracing::warn!(
            provider = %self.name, label = %label.name,
            "the cloud has no active image called {}, the cloud-image of the label; it is looked for again every {} s",
            image.external_name(), IMAGE_CHECK_INTERVAL.as_secs()
        );
        Ok(false)
    }

    async fn availability_zones(&self) -> Result<Vec<String>> {
        let mut kept = self.kept.lock().await;
        if let Some(zones) = &kept.zones {
            return Ok(zones.clone());
        }
        let zones = match self.cloud.availability_zones().await {
            // A cloud may not want to tell; then it chooses itself.
            Err(error) if matches!(error.status, Some(403 | 404)) => Vec::new(),
            other => other.map_err(self.error("listing availability zones"))?,
        };
        Ok(kept.zones.insert(zones).clone())
    }

    async fn quota_limits(&self) -> Result<Resources> {
        let compute = self.cloud.compute_limits().await.map_err(self.error("reading the compute quota"))?;
        let volume = self.cloud.volume_limits().await.map_err(self.error("reading the volume quota"))?;
        let volume = volume.unwrap_or_default();
        Ok(Resources::new()
            .with("cores", compute.cores)
            .with("instances", compute.instances)
            .with("ram", compute.ram)
            .with("volumes", volume.volumes)
            .with("volume-gb", volume.gigabytes))
    }

    async fn list_resources(&self) -> Result<Vec<CloudResource>> {
        let now = Instant::now();
        self.servers.hurry(Duration::ZERO);
        let servers = self.servers.after(now).await.servers.map_err(self.error("listing servers"))?;
        let servers: Vec<&Arc<Server>> = servers.values().filter(|server| server.status != "DELETED").collect();
        let known = |flavors: &[Flavor]| {
            servers
                .iter()
                .all(|server| Flavor::read(&server.flavor).is_some() || find_flavor(&server.flavor, flavors).is_some())
        };
        let mut flavors = self.flavors(None).await?;
        if !known(&flavors) {
            flavors = self.flavors(Some(FLAVOR_CHECK_INTERVAL)).await?;
        }
        let sizes: HashMap<String, f64> = if servers.iter().any(|server| !server.volumes.is_empty()) {
            let volumes = self.cloud.list_volumes().await.map_err(self.error("listing volumes"))?;
            volumes.into_iter().map(|volume| (volume.id, volume.size)).collect()
        } else {
            HashMap::new()
        };
        Ok(servers
            .into_iter()
            .map(|server| CloudResource {
                kind: ResourceKind::Instance,
                id: server.id.clone(),
                metadata: server.metadata.clone(),
                resources: Self::usage(server, &flavors, &sizes),
            })
            .collect())
    }

    async fn launch(&self, launch: &Launch, progress: &dyn LaunchProgress) -> Result<Instance> {
        let (pool, label) = self.label(&launch.pool, &launch.label)?;
        let image = self.image(label)?;
        let flavor = self.flavor(label).await?;
        let mut networks = Vec::new();
        for name in &label.networks {
            networks.push(self.network_id(name).await?);
        }
        let create = CreateServer {
            name: launch.hostname.clone(),
            image: self.image_id(launch, &image).await?,
            flavor: flavor.id.clone(),
            az: launch.az.clone(),
            security_groups: pool.security_groups.clone(),
            networks,
            key_name: label.key_name.clone(),
            config_drive: image.config_drive(),
            meta: self.metadata(launch, label, &image),
            userdata: label.userdata.clone(),
            volume_size: label.boot_from_volume.then_some(label.volume_size),
        };
        let created = self.create(&create, launch, progress).await?;
        let server = if created.status == "ACTIVE" {
            Arc::new(created)
        } else {
            self.wait_until_active(&created.id, &create.name).await?
        };
        Ok(self.instance(pool, &server, need(&flavor, label)).await)
    }

    async fn delete(&self, external_id: &Value) -> Result<()> {
        let Some(id) = external_id.as_str() else {
            return Err(ProviderError::new(
                ErrorClass::Bug,
                format!("deleting server {external_id} in provider {}", self.name),
                "an OpenStack server's id is a text",
            ));
        };
        let doing = || format!("deleting server {id}");
        for _ in 0..DELETE_ATTEMPTS {
            let mut since = Instant::now();
            match self.cloud.delete_server(id).await {
                Ok(()) => {}
                Err(error) if error.class == ErrorClass::Gone => return Ok(()),
                Err(error) => return Err(self.error(doing())(error)),
            }
            self.servers.hurry_for_news();
            let mut errors = 0;
            while errors < ERROR_LISTINGS {
                let Some(servers) = self.next_listing(&mut since, &doing).await? else { continue };
                match servers.get(id) {
                    None => return Ok(()),
                    Some(server) if server.is_gone() => return Ok(()),
                    Some(server) if server.status == "ERROR" && server.task_state.is_none() => errors += 1,
                    Some(_) => errors = 0,
                }
            }
        }
        let fault = self.fault(id).await.unwrap_or_default();
        Err(self.error(doing())(CloudError::new(
            ErrorClass::Transient,
            format!("it is still in ERROR after {DELETE_ATTEMPTS} deletions: {}", fault.message),
        )))
    }

    async fn delete_resource(&self, resource: &CloudResource) -> Result<()> {
        let id = resource.id.as_str();
        let deleted = match resource.kind {
            ResourceKind::Instance => self.cloud.delete_server(id).await,
            ResourceKind::Port => self.cloud.delete_port(id).await,
            ResourceKind::FloatingIp => self.cloud.delete_floating_ip(id).await,
            ResourceKind::Image => self.cloud.delete_image(id).await,
            ResourceKind::Volume => {
                Err(CloudError::new(ErrorClass::Bug, "the driver lists no such resources, so it deletes none"))
            }
        };
        match deleted {
            Err(error) if error.class != ErrorClass::Gone => {
                let kind = resource.kind.plural();
                Err(self.error(format_args!("deleting {id} of the leaked {kind}"))(error))
            }
            _ => Ok(()),
        }
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
        let (cloud, region) = (self.config.cloud.as_deref(), self.config.region_name.as_deref());
        match CloudSettings::find(cloud, region, &self.context) {
            Ok(settings) => Ok(settings.text("image_format").unwrap_or_else(|| IMAGE_FORMAT.to_owned())),
            Err(_) if self.cloud.is_simulated() => Ok(IMAGE_FORMAT.to_owned()),
            Err(error) => Err(self.error("choosing the image format (image_format of clouds.yaml)")(error)),
        }
    }

    fn image_name(&self, image: &ImageName, upload: &UploadId, at: u64) -> Result<String> {
        let template = &self.config.image_name_format;
        let part = |name: &str| match name {
            "image_name" => Ok(json!(image)),
            "upload_id" => Ok(json!(upload)),
            "timestamp" => Ok(json!(at.to_string())),
            _ => Err(format!("{{{name}}}: only `image_name`, `upload_id` and `timestamp` can be used")),
        };
        fill(template, &part).map_err(|error| {
            let doing = format!("naming upload {upload} of image {image}");
            self.error(doing)(CloudError::new(ErrorClass::Config, format!("image-name-format {template:?}: {error}")))
        })
    }

    async fn upload_image(&self, image: &ImageToUpload) -> Result<String> {
        let limit = self.config.image_upload_timeout;
        let uploaded = images::upload(&self.cloud, &self.name, image, limit).await;
        uploaded.map_err(self.error(format_args!("uploading {} as image {}", image.path.display(), image.name)))
    }

    async fn delete_image(&self, external_id: &str) -> Result<()> {
        let deleted = images::delete(&*self.cloud, external_id).await;
        deleted.map_err(self.error(format_args!("deleting image {external_id}")))
    }

    async fn list_images(&self) -> Result<Vec<CloudResource>> {
        let ours = [("nodepool_provider_name", self.name.to_string())];
        let images = self.cloud.images_with(&ours).await.map_err(self.error("listing images"))?;
        Ok(images
            .into_iter()
            .map(|image| CloudResource {
                kind: ResourceKind::Image,
                id: image.id,
                metadata: image.metadata,
                resources: Resources::new(),
            })
            .collect())
    }

    async fn host_keys(&self, node: &NodeId, address: &str) -> Option<Result<Vec<String>>> {
        let keys = self.cloud.host_keys(node, address).await?;
        Some(keys.map_err(self.error(format_args!("scanning the host keys of {address} for node {node}"))))
    }
}

#[cfg(test)]
mod tests {
    use indexmap::IndexMap;

    use super::*;

    fn flavor(name: &str, ram: f64) -> Flavor {
        Flavor { id: format!("id-{name}"), name: name.to_owned(), ram, vcpus: 1.0 }
    }

    fn label(min_ram: u64, flavor_name: Option<&str>) -> config::OpenStackLabel {
        config::OpenStackLabel {
            name: "l".into(),
            image: LabelImage::CloudImage("i".to_owned()),
            min_ram,
            flavor_name: flavor_name.map(ToOwned::to_owned),
            key_name: None,
            console_log: false,
            boot_from_volume: false,
            volume_size: 50,
            instance_properties: IndexMap::new(),
            dynamic_instance_properties: IndexMap::new(),
            userdata: None,
            networks: Vec::new(),
            host_key_checking: true,
        }
    }

    #[test]
    fn flavors_are_chosen_as_upstream_chooses_them() {
        let flavors = [flavor("a.small", 2048.0), flavor("b.small", 2048.0), flavor("a.large", 8192.0)];
        for (min_ram, name, expected) in [
            (0, Some("b.small"), Some("b.small")),
            (0, Some("id-a.large"), Some("a.large")),
            (0, Some("small"), None),
            (2000, None, Some("a.small")),
            (2048, Some("b"), Some("b.small")),
            (2049, None, Some("a.large")),
            (2049, Some("b"), None),
            (8193, None, None),
        ] {
            let chosen = choose_flavor(&flavors, &label(min_ram, name)).map(|flavor| flavor.name.as_str());
            assert_eq!(chosen, expected, "{min_ram} {name:?}");
        }
    }

    /// traps.md 30: upstream's whole listing fails on such a server.
    #[test]
    fn a_server_whose_flavor_is_gone_counts_as_one_instance() {
        let flavors = [flavor("small", 2048.0)];
        let usage = |flavor: Value| {
            let server = Server::read(&json!({"id": "s", "flavor": flavor,
                "os-extended-volumes:volumes_attached": [{"id": "v1"}, {"id": "unknown"}]}));
            OpenStackProvider::usage(&server.unwrap(), &flavors, &HashMap::from([("v1".to_owned(), 10.0)]))
        };
        let with_volume = |resources: Resources| resources.with("volumes", 1.0).with("volume-gb", 10.0);
        let one = Resources::new().with("instances", 1.0);
        assert_eq!(usage(json!({"id": "gone"})), with_volume(one.clone()));
        let small = one.clone().with("cores", 1.0).with("ram", 2048.0);
        assert_eq!(usage(json!({"id": "id-small"})), with_volume(small.clone()));
        assert_eq!(usage(json!({"original_name": "small"})), with_volume(small));
        let embedded = usage(json!({"original_name": "gone", "vcpus": 3, "ram": 512, "disk": 1}));
        assert_eq!(embedded, with_volume(one.with("cores", 3.0).with("ram", 512.0)));
    }
}
