//! The typed configuration: what the file means, defaults applied.
//!
//! Two views of a provider stand side by side: [`Provider`] with its [`Pool`]s is what the planner needs to know of
//! any driver; [`Driver`] holds what only that driver reads.

use std::{
    collections::BTreeSet,
    fmt,
    path::{Path, PathBuf},
    sync::{Arc, LazyLock},
    time::Duration,
};

use indexmap::IndexMap;

use crate::model::{ImageName, Json, LabelName, Object, PoolName, ProviderName, Resources, TenantName};

/// A place in a configuration file, for messages: `file:line:column`, both counted from 1.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Place {
    /// The file as it was named on the command line.
    pub file: Arc<str>,
    /// From 1; 0 where only the file is known.
    pub line: usize,
    /// From 1; 0 where only the file is known.
    pub column: usize,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.line == 0 { f.write_str(&self.file) } else { write!(f, "{}:{}:{}", self.file, self.line, self.column) }
    }
}

/// The whole of `nodepool.yaml` and its secure file.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// `webapp`.
    pub webapp: WebApp,
    /// `elements-dir`.
    pub elements_dir: Option<PathBuf>,
    /// `images-dir`.
    pub images_dir: Option<PathBuf>,
    /// `build-log-dir`; the builder's default applies where it is absent.
    pub build_log_dir: Option<PathBuf>,
    /// `build-log-retention`; negative: keep all.
    pub build_log_retention: i64,
    /// `zookeeper-servers`, `zookeeper-tls`, `zookeeper-timeout`.
    pub zookeeper: ZooKeeper,
    /// `labels`.
    pub labels: IndexMap<LabelName, Label>,
    /// `diskimages` with inheritance applied, abstract ones left out.
    pub diskimages: IndexMap<ImageName, Arc<Diskimage>>,
    /// `image-builders`, ours: the hosts that diskimages with `ansible` are built on, in the order of the file.
    pub image_builders: Vec<ImageBuilder>,
    /// `providers`.
    pub providers: IndexMap<ProviderName, Arc<Provider>>,
    /// Those that cannot run as they are configured, and that are not among `providers` unless they run as they were configured
    /// before. They have not left the file.
    pub broken_providers: BTreeSet<ProviderName>,
    /// `max-hold-age`; `None`: for ever.
    pub max_hold_age: Option<Duration>,
    /// `tenant-resource-limits`; a resource that is absent is unlimited.
    pub tenant_limits: IndexMap<TenantName, Resources>,
}

/// `webapp`. Read once, at start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WebApp {
    /// Default 8005.
    pub port: u16,
    /// Default `0.0.0.0`.
    pub listen_address: String,
}

impl Default for WebApp {
    fn default() -> Self {
        Self { port: 8005, listen_address: "0.0.0.0".to_owned() }
    }
}

/// How to reach ZooKeeper.
#[derive(Clone, Debug, PartialEq)]
pub struct ZooKeeper {
    /// In the order of the file.
    pub servers: Vec<ZooKeeperServer>,
    /// Session timeout; default 10 s.
    pub timeout: Duration,
    /// `None`: plain TCP, for development (upstream refuses to start).
    pub tls: Option<ZooKeeperTls>,
}

/// One of `zookeeper-servers`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ZooKeeperServer {
    /// Host name or address, without brackets.
    pub host: String,
    /// Default 2281.
    pub port: u16,
    /// A path under which everything lives; upstream appends it to each server's own address.
    pub chroot: Option<String>,
}

/// `zookeeper-tls`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ZooKeeperTls {
    /// The client's certificate, PEM.
    pub cert: PathBuf,
    /// Its key, PEM; a PKCS#8 key in a block labelled `RSA PRIVATE KEY`, as the operator makes it, is accepted.
    pub key: PathBuf,
    /// The authority that the server's certificate must chain to, PEM.
    pub ca: PathBuf,
    /// Ours, `verify-hostname`, default false: whether the server's certificate must carry its host name, which the
    /// operator's does not.
    pub verify_hostname: bool,
}

/// One of `labels`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Label {
    /// Its name.
    pub name: LabelName,
    /// Nodes to keep ready; 0: none.
    pub min_ready: usize,
    /// Age at which an idle ready node is deleted.
    pub max_ready_age: Option<Duration>,
}

/// One of `diskimages`, parents merged in.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs)] // each field is the key of its name
pub struct Diskimage {
    pub name: ImageName,
    pub dib_cmd: String,
    pub pause: bool,
    pub elements: Vec<String>,
    /// What the image is built in; the formats that providers want are added by the builder.
    pub formats: Vec<String>,
    pub keep_formats: Vec<String>,
    pub delete_after_upload: bool,
    pub release: String,
    pub rebuild_age: Duration,
    pub env_vars: IndexMap<String, String>,
    pub username: String,
    pub python_path: String,
    pub shell_type: Option<String>,
    pub build_timeout: Duration,
    pub metadata: IndexMap<String, String>,
    /// Ours: the image is made by a playbook on an image-builder host. Then `dib_cmd` is not used, and `elements` is
    /// empty.
    pub ansible: Option<AnsibleBuild>,
}

impl Diskimage {
    /// `dib-cmd` where it is not given.
    pub const DIB_CMD: &str = "disk-image-create";

    /// Whether nothing says how it is built: [`Self::DIB_CMD`] makes no image without elements.
    pub fn is_without_command(&self) -> bool {
        self.ansible.is_none() && self.dib_cmd == Self::DIB_CMD && self.elements.is_empty()
    }
}

/// `ansible` of a diskimage, ours: how a playbook makes it (docs/image-builder.md).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AnsibleBuild {
    /// `playbook`: a path as it is, or one below the directory of `dib-ansible`.
    pub playbook: PathBuf,
    /// `inventory`: a path as it is, or one below the directory of `dib-ansible`; `None`: `inventory.yaml` in that directory.
    pub inventory: Option<PathBuf>,
    /// `image-builder`: the inventory host to build on; `None`: whichever hosts the playbook names.
    pub image_builder: Option<String>,
    /// `min-free`: bytes that must be free where the image is to arrive; `None`: as `dib-ansible` decides.
    pub min_free: Option<u64>,
}

/// One of `image-builders`, ours: a host that images are built on (docs/image-builder.md).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageBuilder {
    /// `name`: its name in the inventory.
    pub name: String,
    /// `host`: its address. With it no inventory file is needed.
    pub host: Option<String>,
    /// `port`; `None`: as OpenSSH's configuration says.
    pub port: Option<u16>,
    /// `username`; `None`: as OpenSSH's configuration says.
    pub username: Option<String>,
    /// `host-keys`, each `TYPE BASE64`: the only ones that this host may have. Empty: as OpenSSH's known hosts say.
    pub host_keys: Vec<String>,
    /// `min-free`: bytes that must be free on it; `None`: as `dib-ansible` decides.
    pub min_free: Option<u64>,
    /// `directory`: where they must be free; `None`: in the user's home.
    pub directory: Option<PathBuf>,
}

/// One of `providers`: what every driver has.
#[derive(Clone, Debug, PartialEq)]
pub struct Provider {
    /// Its name.
    pub name: ProviderName,
    /// Where it stands in the file.
    pub place: Place,
    /// `None`: unlimited. 0: the provider handles no request at all.
    pub max_concurrency: Option<usize>,
    /// `launch-retries`: attempts in total, at least 1. Default 3.
    pub launch_retries: u32,
    /// `launch-timeout`, per attempt. Default 3600 s.
    pub launch_timeout: Duration,
    /// `boot-timeout`: the budget of the host-key scan. Default 60 s.
    pub boot_timeout: Duration,
    /// In the order of the file.
    pub pools: Vec<Pool>,
    /// What only its driver reads.
    pub driver: Driver,
}

impl Provider {
    /// What its driver reads, where that is `metastatic`.
    pub const fn metastatic(&self) -> Option<&Metastatic> {
        match &self.driver {
            Driver::Metastatic(metastatic) => Some(metastatic),
            _ => None,
        }
    }

    /// The pool of that name.
    pub fn pool(&self, name: &PoolName) -> Option<&Pool> {
        self.pools.iter().find(|pool| pool.name == *name)
    }
}

/// A pool: what the planner needs to know of it, whatever its driver.
#[derive(Clone, Debug, PartialEq)]
pub struct Pool {
    /// Its name, unique within the provider.
    pub name: PoolName,
    /// Lower is preferred: the pool's, else the provider's, else 100.
    pub priority: i64,
    /// `max-servers` ≤ 0: declines everything.
    pub disabled: bool,
    /// `max-servers` (as `instances`), `max-cores`, `max-ram`, `max-volumes`, `max-volume-gb` and further ones.
    pub limits: Resources,
    /// `ignore-provider-quota`.
    pub ignore_provider_quota: bool,
    /// `availability-zones`; empty: all of the cloud's.
    pub availability_zones: Vec<String>,
    /// Copied to each node's `attributes`.
    pub node_attributes: Option<Object>,
    /// In the order of the file.
    pub labels: IndexMap<LabelName, PoolLabel>,
    /// Labels that cannot be used as they are configured, with why.
    pub broken_labels: IndexMap<LabelName, String>,
    /// Hosts of a `static` provider that cannot be used as they are configured, with why. Their nodes are not gone.
    pub broken_hosts: IndexMap<String, String>,
    /// Of a `static` provider: its nodes, which are there already. Such a pool launches none.
    pub hosts: Option<Vec<Arc<StaticHost>>>,
}

/// What tells one static host from another.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HostId {
    /// `name`: host name or address.
    pub name: String,
    /// `username`, `zuul` by default.
    pub username: String,
    /// `connection-port`, 22 by default, also for winrm.
    pub port: u16,
}

impl std::fmt::Display for HostId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}@{}:{}", self.username, self.name, self.port)
    }
}

/// An item of `nodes` in a pool of a `static` provider.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StaticHost {
    /// What tells it from others.
    pub id: HostId,
    /// `labels`: each of its nodes has them all.
    pub labels: Vec<LabelName>,
    /// `host-key`: keys of which each must be among those that it shows, as `TYPE BASE64`.
    pub host_keys: Vec<String>,
    /// `host-key-checking`; without it nobody looks at its keys, and `host-key` is what Zuul is given.
    pub host_key_checking: bool,
    /// `timeout`: for a look at it.
    pub timeout: Duration,
    /// `connection-type`
    pub connection_type: String,
    /// `shell-type`
    pub shell_type: Option<String>,
    /// `python-path`
    pub python_path: String,
    /// `max-parallel-jobs`: how many nodes it is.
    pub max_parallel_jobs: usize,
}

impl StaticHost {
    /// Whether it speaks SSH, and so has keys.
    pub fn has_host_keys(&self) -> bool {
        matches!(self.connection_type.as_str(), "ssh" | "network_cli")
    }
}

/// What the `metastatic` driver reads.
#[derive(Clone, Debug, PartialEq)]
pub struct Metastatic {
    /// Its labels, by pool.
    pub pools: IndexMap<PoolName, IndexMap<LabelName, MetastaticLabel>>,
}

impl Metastatic {
    /// A label of a pool.
    pub fn label(&self, pool: &PoolName, label: &LabelName) -> Option<&MetastaticLabel> {
        self.pools.get(pool)?.get(label)
    }

    /// A label of whichever pool has it first.
    pub fn any_label(&self, label: &LabelName) -> Option<&MetastaticLabel> {
        self.pools.values().find_map(|labels| labels.get(label))
    }
}

/// A label of a `metastatic` provider.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MetastaticLabel {
    /// Its name.
    pub name: LabelName,
    /// `backing-label`: what its nodes stand on.
    pub backing_label: LabelName,
    /// `max-parallel-jobs`: how many of its nodes stand on one.
    pub max_parallel_jobs: usize,
    /// `grace-time`: how long one on which nothing stands is kept.
    pub grace_time: Duration,
    /// `min-retention-time`: how long one is kept at least.
    pub min_retention_time: Duration,
    /// `max-age`: after that nothing new is placed on it.
    pub max_age: Option<Duration>,
    /// `host-key-checking`: whether each of its nodes is scanned once more.
    pub host_key_checking: bool,
}

impl MetastaticLabel {
    /// Whether what concerns the nodes underneath is the same.
    pub fn has_backing_of(&self, other: &Self) -> bool {
        let backing = |label: &Self| Self { name: LabelName::from(""), host_key_checking: false, ..label.clone() };
        backing(self) == backing(other)
    }
}

/// A label of a pool: what the planner needs to know of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PoolLabel {
    /// Its name.
    pub name: LabelName,
    /// The diskimage it boots from, whose newest ready upload must exist in the provider.
    pub diskimage: Option<ImageName>,
}

/// What only one driver reads.
#[derive(Clone, Debug, PartialEq)]
pub enum Driver {
    /// `driver: openstack`, the default.
    OpenStack(OpenStack),
    /// `driver: fake`, or any provider whose name begins with `fake`: openstack's keys on a simulated cloud.
    Fake(OpenStack),
    /// `driver: kubernetes`, `openshift` or `openshiftpods`.
    Kubernetes(Kubernetes),
    /// `driver: metastatic`.
    Metastatic(Metastatic),
    /// `driver: static`: everything is in its pools' hosts.
    Static,
}

impl Driver {
    /// The driver's name in the file.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::OpenStack(_) => "openstack",
            Self::Fake(_) => "fake",
            Self::Kubernetes(kubernetes) => kubernetes.kind.driver(),
            Self::Metastatic(_) => "metastatic",
            Self::Static => "static",
        }
    }

    /// What a driver that speaks OpenStack's API reads.
    const fn openstack(&self) -> Option<&OpenStack> {
        match self {
            Self::OpenStack(openstack) | Self::Fake(openstack) => Some(openstack),
            Self::Kubernetes(_) | Self::Metastatic(_) | Self::Static => None,
        }
    }

    /// The images that are uploaded to this provider, whichever driver it has.
    pub fn diskimages(&self) -> &IndexMap<ImageName, OpenStackDiskimage> {
        static NONE: LazyLock<IndexMap<ImageName, OpenStackDiskimage>> = LazyLock::new(IndexMap::new);
        self.openstack().map_or(&NONE, |openstack| &openstack.diskimages)
    }

    /// `post-upload-hook`: what is run after each upload.
    pub fn post_upload_hook(&self) -> Option<&Path> {
        self.openstack()?.post_upload_hook.as_deref()
    }
}

/// An `openstack` provider's own keys.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs)] // each field is the key of its name; comments only where that is not all
pub struct OpenStack {
    /// `None`: the only cloud of clouds.yaml, as the SDK decides.
    pub cloud: Option<String>,
    pub region_name: Option<String>,
    pub image_upload_timeout: Duration,
    /// The least time between two calls; zero: unlimited.
    pub rate: Duration,
    pub image_name_format: String,
    pub clean_floating_ips: bool,
    /// `None`: off.
    pub port_cleanup_interval: Option<Duration>,
    pub post_upload_hook: Option<PathBuf>,
    pub diskimages: IndexMap<ImageName, OpenStackDiskimage>,
    pub cloud_images: IndexMap<String, CloudImage>,
    pub pools: IndexMap<PoolName, OpenStackPool>,
}

/// `diskimages[]` of a provider, with what comes from the top-level diskimage of that name.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs)]
pub struct OpenStackDiskimage {
    pub name: ImageName,
    pub pause: bool,
    pub meta: IndexMap<String, String>,
    pub config_drive: Option<bool>,
    pub connection_type: String,
    pub connection_port: u16,
    /// From the top-level diskimage, like the next two.
    pub username: String,
    pub python_path: String,
    pub shell_type: Option<String>,
}

/// `cloud-images[]` of a provider.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs)]
pub struct CloudImage {
    pub name: String,
    pub config_drive: Option<bool>,
    /// Used without looking it up.
    pub image_id: Option<String>,
    /// Looked up as name or id; the default is `name`.
    pub image_name: Option<String>,
    pub username: Option<String>,
    pub python_path: String,
    pub shell_type: Option<String>,
    pub connection_type: String,
    pub connection_port: u16,
}

/// What only the openstack driver reads of a pool.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs)]
pub struct OpenStackPool {
    pub name: PoolName,
    pub networks: Vec<String>,
    pub security_groups: Vec<String>,
    pub auto_floating_ip: bool,
    pub labels: IndexMap<LabelName, OpenStackLabel>,
}

/// What only the openstack driver reads of a pool's label.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs)]
pub struct OpenStackLabel {
    pub name: LabelName,
    pub image: LabelImage,
    /// MiB; 0: not given.
    pub min_ram: u64,
    pub flavor_name: Option<String>,
    pub key_name: Option<String>,
    pub console_log: bool,
    pub boot_from_volume: bool,
    /// GB.
    pub volume_size: u64,
    pub instance_properties: IndexMap<String, String>,
    pub dynamic_instance_properties: IndexMap<String, String>,
    pub userdata: Option<String>,
    /// The label's, else the pool's.
    pub networks: Vec<String>,
    /// The label's, else the pool's.
    pub host_key_checking: bool,
}

/// What a label boots from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LabelImage {
    /// A diskimage that the builder uploads.
    Diskimage(ImageName),
    /// An image that is in the cloud already: the name of one of `cloud-images`.
    CloudImage(String),
}

/// A `kubernetes`, `openshift` or `openshiftpods` provider's own keys.
#[derive(Clone, Debug, PartialEq)]
pub struct Kubernetes {
    /// Which of the three.
    pub kind: KubernetesKind,
    /// `context` of the kubeconfig; `None` (`kubernetes` only): the current one, or the pod that we run in.
    pub context: Option<String>,
    /// Their labels, by pool.
    pub pools: IndexMap<PoolName, IndexMap<LabelName, KubernetesLabel>>,
}

/// What the three drivers make of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum KubernetesKind {
    /// `kubernetes`: a namespace for each node, named `POOL-NODE`, and a pod in it unless the label wants none.
    Namespaces,
    /// `openshift`: the same with OpenShift's projects.
    Projects,
    /// `openshiftpods`: a pod for each node in the namespace that has the pool's name.
    Pods,
}

impl KubernetesKind {
    /// The driver's name in the file.
    pub const fn driver(self) -> &'static str {
        match self {
            Self::Namespaces => "kubernetes",
            Self::Projects => "openshift",
            Self::Pods => "openshiftpods",
        }
    }
}

/// A pool's label in one of the three drivers.
#[derive(Clone, Debug, PartialEq)]
pub struct KubernetesLabel {
    /// Its name; of the container too.
    pub name: LabelName,
    /// `None`: the namespace or project itself is the node (`type: namespace`, `type: project`).
    pub pod: Option<PodTemplate>,
    /// `python-path`.
    pub python_path: String,
    /// `shell-type`.
    pub shell_type: Option<String>,
    /// What one node takes, as limits count it and as Zuul sees it: `instances`, `cores`, `ram` (MiB),
    /// `ephemeral-storage` (MB), the GPU's resource name, `extra-resources`.
    pub resources: Resources,
    /// `labels` of the pod, or of the namespace.
    pub labels: IndexMap<String, String>,
    /// `dynamic-labels`: formats.
    pub dynamic_labels: IndexMap<String, String>,
    /// `annotations` of the pod.
    pub annotations: IndexMap<String, String>,
}

/// What a label's pod is made from.
#[derive(Clone, Debug, PartialEq)]
pub enum PodTemplate {
    /// `spec`, as it is.
    Spec(Object),
    /// One container that sleeps.
    Container(Box<PodContainer>),
}

/// A container as the label's keys describe it, where the pod is not given whole (`spec`).
#[derive(Clone, Debug, Default, PartialEq)]
#[allow(missing_docs)] // each field is the key of its name; comments only where that is not all
pub struct PodContainer {
    pub image: Option<String>,
    /// `image-pull`: the container's `imagePullPolicy`.
    pub image_pull: String,
    /// As they are. `None`: the key does not exist (`kubernetes`), and the pod's spec has none.
    pub image_pull_secrets: Option<Vec<Json>>,
    /// What it is sure to get.
    pub requests: PodResources,
    /// What it may take at most.
    pub limits: PodResources,
    /// `gpu-resource` and `gpu`: how much of it.
    pub gpu: Option<(String, f64)>,
    pub env: Vec<Json>,
    pub node_selector: Option<Object>,
    pub privileged: Option<bool>,
    pub scheduler_name: Option<String>,
    /// As they are.
    pub volumes: Vec<Json>,
    /// As they are.
    pub volume_mounts: Vec<Json>,
}

/// A container's requests or limits; `None`: none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PodResources {
    /// Thousandths of a core.
    pub cpu: Option<u64>,
    /// MiB.
    pub memory: Option<u64>,
    /// MB, of ephemeral storage.
    pub storage: Option<u64>,
}
