//! The [`Provider`] trait: what the launcher asks of a cloud.

use std::{collections::HashSet, fmt, sync::Arc};

use async_trait::async_trait;
use nodepool_common::model::{
    ImageName, ImageUpload, LabelName, NodeId, NodeRequest, PoolName, ProviderName, Resources, UploadId,
};
use serde_json::{Map, Value};
use tokio::time::Instant;

use crate::{ImageToUpload, Metadata, Scope};

/// A cloud with its part of the configuration. Made anew when that part changes.
#[async_trait]
pub trait Provider: Send + Sync + fmt::Debug {
    /// Its name in the configuration.
    fn name(&self) -> &ProviderName;

    /// Reaches the cloud for the first time: credentials, endpoints. A provider that fails here is retried by the
    /// caller; the others go on.
    async fn start(&self) -> Result<(), ProviderError>;

    /// How a node of this label will be reached and used; from the configuration alone.
    fn profile(&self, pool: &PoolName, label: &LabelName) -> Result<NodeProfile, ProviderError>;

    /// What one node of this label takes. [`ErrorClass::Config`] where the configuration names something that the
    /// cloud does not have (a flavor): the label is then declined with that reason.
    async fn label_resources(&self, pool: &PoolName, label: &LabelName) -> Result<Resources, ProviderError>;

    /// Whether the cloud has what the label boots from. Only asked for labels without a diskimage.
    /// Where nothing is booted from an image of the cloud's own: always.
    async fn label_ready(&self, pool: &PoolName, label: &LabelName) -> Result<bool, ProviderError> {
        let _ = (pool, label);
        Ok(true)
    }

    /// The zones to choose from where the pool names none; empty: the cloud chooses.
    async fn availability_zones(&self) -> Result<Vec<String>, ProviderError> {
        Ok(Vec::new())
    }

    /// What the cloud allows this project.
    async fn quota(&self) -> Result<Quota, ProviderError>;

    /// Every instance and other resource of the project that this provider would see in its quota or may have leaked.
    /// Other owners' resources are included (they take quota) and told apart by [`CloudResource::metadata`].
    async fn list_resources(&self) -> Result<Vec<CloudResource>, ProviderError>;

    /// Everything that carries a provider's metadata, servers and what was made with them or uploaded: what a search for
    /// leaks looks at. A kind that cannot be listed is left out and named in the log.
    async fn list_tagged(&self) -> Result<Vec<CloudResource>, ProviderError> {
        self.list_resources().await
    }

    /// The kinds that the last [`Self::list_tagged`] left out because they could not be listed: what there is of them is not
    /// known.
    fn unlisted_kinds(&self) -> HashSet<ResourceKind> {
        HashSet::new()
    }

    /// Creates a server and returns when it can be connected to (not yet: has booted). Reports the cloud's id through
    /// `progress` as soon as it is known, so that it can be deleted whatever happens next.
    async fn launch(&self, launch: &Launch, progress: &dyn LaunchProgress) -> Result<Instance, ProviderError>;

    /// Deletes a server and all that was made with it, and returns when it is gone. One that is gone already is no
    /// error. `made_in`: the `driver_data` of its record ([`Scope::driver_data`]); where the settings lead to another part of the
    /// cloud, nothing is deleted there, and the error says so ([`ProviderError::elsewhere`]).
    async fn delete(&self, external_id: &Value, made_in: Option<&Value>) -> Result<(), ProviderError>;

    /// The same, where nobody waits for the deletion itself. While nobody waits for the room that it makes either
    /// ([`Self::room_is_wanted`]), it may return some seconds after the server is gone, if that saves calls.
    async fn delete_at_leisure(&self, external_id: &Value, made_in: Option<&Value>) -> Result<(), ProviderError> {
        self.delete(external_id, made_in).await
    }

    /// Whether requests wait for room, as far as the launcher knows now. Told again and again; must be quick.
    fn room_is_wanted(&self, wanted: bool) {
        let _ = wanted;
    }

    /// Deletes a leaked resource; returns when the cloud has accepted that.
    async fn delete_resource(&self, resource: &CloudResource) -> Result<(), ProviderError>;

    /// The part of the cloud that the settings led to when that was found out last, where they may come to lead to another; of a
    /// server that was made in another one the answers say nothing. It may be another one by the next call: where something was
    /// made, [`LaunchProgress::created`] is told. `None`: there is but one, or no call was made yet.
    fn scope(&self) -> Option<Scope> {
        None
    }

    /// Why the server of a ready node is of no use any more (somebody has deleted it, its pod was evicted), as far as the
    /// driver knows without asking the cloud. What it merely does not see is not gone: `None`, too, where all that it has is
    /// from before `since`, when the node may not have been there yet; without `since` all of it counts. `made_in`: as for
    /// [`Self::delete`]; what another part of the cloud has shown does not count.
    fn has_gone(&self, external_id: &Value, made_in: Option<&Value>, since: Option<Instant>) -> Option<String> {
        let _ = (external_id, made_in, since);
        None
    }

    /// Returns when [`Self::has_gone`] may have another answer than before, other than by [`Self::list_tagged`].
    async fn some_have_gone(&self) {
        std::future::pending::<()>().await;
    }

    /// What Zuul is to connect with to a node that is about to be handed out, where that has changed since it is on record
    /// as `port`: credentials that are made for a time are renewed while the node waits. `made_in`: as for [`Self::delete`].
    async fn renewed_connection(&self, port: &Value, made_in: Option<&Value>) -> Result<Option<Value>, ProviderError> {
        let _ = (port, made_in);
        Ok(None)
    }

    /// Periodic removal of what no record can point to (ports, floating IPs). Returns what was removed.
    async fn clean_up(&self) -> Result<Vec<LeakedResource>, ProviderError> {
        Ok(Vec::new())
    }

    /// What [`Self::clean_up`] would remove if it looked now and had looked an interval ago, each with the reason.
    async fn list_orphans(&self) -> Result<Vec<(CloudResource, String)>, ProviderError> {
        Ok(Vec::new())
    }

    /// The server's console output, where label and cloud provide it.
    async fn console_log(
        &self,
        pool: &PoolName,
        label: &LabelName,
        external_id: &Value,
    ) -> Result<Option<String>, ProviderError> {
        let _ = (pool, label, external_id);
        Ok(None)
    }

    /// Whether diskimages are uploaded to it. What follows is asked only of providers that say so; one without images
    /// (pods, static) implements none of it.
    fn manages_images(&self) -> bool {
        false
    }

    /// The format that images are built and uploaded in, which is also the extension of their files: qcow2, raw, vhd, …
    /// Does not reach the cloud.
    fn image_format(&self) -> Result<String, ProviderError> {
        Err(no_images(self.name(), "choosing an image format"))
    }

    /// The name that an upload gets in the cloud; `at`: when the upload began, in seconds since the epoch.
    fn image_name(&self, image: &ImageName, upload: &UploadId, at: u64) -> Result<String, ProviderError> {
        let _ = (image, upload, at);
        Err(no_images(self.name(), "naming an image"))
    }

    /// Uploads an image and returns the cloud's id of it, once the cloud has it ready for use and what it has was found
    /// to be what was read. Bounded by the provider's own time (`image-upload-timeout`), repeated a few times where
    /// that may help. Whoever drops the future, and every error, leaves no image behind; after a process's sudden end
    /// [`Provider::list_images`] finds it.
    async fn upload_image(&self, image: &ImageToUpload) -> Result<String, ProviderError> {
        Err(no_images(self.name(), &format!("uploading image {}", image.name)))
    }

    /// Deletes an image. One that is gone already is no error; one that the cloud has in use is
    /// [`ErrorClass::Transient`].
    async fn delete_image(&self, external_id: &str) -> Result<(), ProviderError> {
        Err(no_images(self.name(), &format!("deleting image {external_id}")))
    }

    /// Every image of this provider's uploads, whole or not, as [`ResourceKind::Image`] with its metadata
    /// ([`ImageToUpload::marks`]), which tells those that no record knows.
    async fn list_images(&self) -> Result<Vec<CloudResource>, ProviderError> {
        Ok(Vec::new())
    }

    /// Host keys for an address that no network leads to: `Some` answers in place of a scan (the fake cloud's
    /// addresses). The error class [`ErrorClass::Timeout`] stands for a scan that timed out.
    async fn host_keys(&self, node: &NodeId, address: &str) -> Option<Result<Vec<String>, ProviderError>> {
        let _ = (node, address);
        None
    }
}

fn no_images(provider: &ProviderName, doing: &str) -> ProviderError {
    ProviderError::new(ErrorClass::Bug, format!("{doing} in provider {provider}"), "its driver has no images")
}

/// How a node of a label is reached and used (`nodepool 11.0.0: driver/statemachine.py startStateMachine`).
#[derive(Clone, Debug, PartialEq)]
pub struct NodeProfile {
    /// The login name; `None`: Zuul's default.
    pub username: Option<String>,
    /// Ansible's interpreter; `auto` lets it look.
    pub python_path: Option<String>,
    /// Ansible's shell type.
    pub shell_type: Option<String>,
    /// ssh, winrm, `network_cli`, …
    pub connection_type: String,
    /// TCP port.
    pub connection_port: u16,
    /// Whether host keys are collected before the node is ready.
    pub host_key_checking: bool,
    /// What it boots from; `None`: nothing that its record could name (a pod's image is its label's own affair).
    pub image: Option<CloudImageSource>,
}

/// What a node boots from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CloudImageSource {
    /// The newest ready upload of this diskimage; the launcher fills in [`Launch::upload`].
    Diskimage(nodepool_common::model::ImageName),
    /// An image that is in the cloud already; the text is what goes into the node's `image_id`.
    Cloud(String),
}

/// One attempt to make a server.
#[derive(Clone, Debug)]
pub struct Launch {
    /// The node's record.
    pub node: NodeId,
    /// The pool it is for.
    pub pool: PoolName,
    /// The label it is for.
    pub label: LabelName,
    /// The server's name: `np` and the node's id.
    pub hostname: String,
    /// The zone chosen for the request; `None`: the cloud chooses.
    pub az: Option<String>,
    /// The upload to boot from, for labels with a diskimage.
    pub upload: Option<Arc<ImageUpload>>,
    /// The request it is for, whose fields may be used in metadata.
    pub request: Arc<NodeRequest>,
}

impl Launch {
    /// The metadata by which the server is found again (`nodepool 11.0.0: driver/statemachine.py`).
    pub fn metadata(&self, provider: &ProviderName) -> [(&'static str, String); 3] {
        [
            ("nodepool_node_id", self.node.to_string()),
            ("nodepool_pool_name", self.pool.to_string()),
            ("nodepool_provider_name", provider.to_string()),
        ]
    }
}

/// Where a launch reports what must not be lost.
#[async_trait]
pub trait LaunchProgress: Send + Sync {
    /// The cloud's id of the server that is being made, and the part of the cloud that the call went to which made it (`None`:
    /// there is but one). Returns when that is on record.
    async fn created(&self, external_id: Value, made_in: Option<&Scope>);
}

/// A server that can be connected to.
#[derive(Clone, Debug, Default, PartialEq)]
#[allow(missing_docs)] // the node's fields of the same names
pub struct Instance {
    pub external_id: Value,
    pub interface_ip: Option<String>,
    pub public_ipv4: Option<String>,
    pub private_ipv4: Option<String>,
    pub public_ipv6: Option<String>,
    pub host_id: Option<String>,
    pub cloud: Option<String>,
    pub region: Option<String>,
    pub az: Option<String>,
    pub driver_data: Option<Value>,
    pub slot: Option<i64>,
    pub node_properties: Map<String, Value>,
    /// What Zuul connects with, where that is more than a port.
    pub connection_port: Option<Value>,
    /// What it really takes.
    pub resources: Resources,
}

/// What a resource of a cloud is; the plural is a component of a metric's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ResourceKind {
    /// A server.
    Instance,
    /// A network port.
    Port,
    /// A floating IP address.
    FloatingIp,
    /// A volume.
    Volume,
    /// An uploaded image.
    Image,
    /// A pod.
    Pod,
    /// A namespace or project with everything in it.
    Namespace,
}

impl ResourceKind {
    /// As in `nodepool.provider.<p>.leaked.<plural>`.
    pub const fn plural(self) -> &'static str {
        match self {
            Self::Instance => "instances",
            Self::Port => "ports",
            Self::FloatingIp => "floatingips",
            Self::Volume => "volumes",
            Self::Image => "images",
            Self::Pod => "pods",
            // Upstream's name for them.
            Self::Namespace => "nodes",
        }
    }

    /// Whether it is what a node is made of, rather than something made with it.
    pub const fn is_node(self) -> bool {
        matches!(self, Self::Instance | Self::Pod | Self::Namespace)
    }
}

/// What a cloud allows a project.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Quota {
    /// In all; absent names are unlimited.
    pub limits: Resources,
    /// What is used in all of those resources that others than servers use as well (volumes, ports, floating IPs), where
    /// the cloud tells. Of the rest, [`Provider::list_resources`] has everything.
    pub used: Resources,
}

/// A resource that a cloud listed.
#[derive(Clone, Debug, PartialEq)]
pub struct CloudResource {
    /// What it is.
    pub kind: ResourceKind,
    /// The cloud's id.
    pub id: String,
    /// `nodepool_provider_name`, `nodepool_node_id`, … and what others put there.
    pub metadata: Metadata,
    /// What it takes of the quota.
    pub resources: Resources,
}

impl CloudResource {
    /// One that takes nothing of the quotas that nodes are reckoned with.
    pub fn of(kind: ResourceKind, id: String, metadata: impl Into<Metadata>) -> Self {
        Self { kind, id, metadata: metadata.into(), resources: Resources::new() }
    }

    /// A key of the metadata, where it is a text.
    pub fn tag(&self, key: &str) -> Option<&str> {
        self.metadata.text(key)
    }
}

/// Something [`Provider::clean_up`] removed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeakedResource {
    /// What it was.
    pub kind: ResourceKind,
    /// The cloud's id.
    pub id: String,
}

/// What to do about an error of a cloud.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ErrorClass {
    /// May work next time: 5xx, connection errors, an unexplained ERROR of a server.
    Transient,
    /// Did not finish within its deadline.
    Timeout,
    /// The project's quota is used up: wait, it is not the attempt's fault.
    Quota,
    /// The cloud has no room (`NoValidHost`).
    Capacity,
    /// The configuration or the credentials name something that the cloud does not have or allow.
    Config,
    /// It does not exist (any more).
    Gone,
    /// Ours.
    Bug,
}

/// An error of a cloud: what was being done to which object, and why it failed.
#[derive(Debug, thiserror::Error)]
#[error("{doing}: {source}")]
pub struct ProviderError {
    /// What to do about it.
    pub class: ErrorClass,
    /// "creating server np0000000001 in provider rdo"
    pub doing: String,
    /// Why.
    #[source]
    pub source: Box<dyn std::error::Error + Send + Sync>,
    /// Where the class alone does not give upstream's name in the metrics.
    pub result: Option<&'static str>,
    /// Whether the cloud as a whole is away: it cannot be reached, does not answer in time, or says "later". Nothing is
    /// wrong with what was asked for.
    pub away: bool,
    /// Whether the settings lead to another part of the cloud than the one that it was about ([`Provider::delete`]): nothing was
    /// asked for there, and nothing is known of it.
    pub elsewhere: bool,
    /// Whether the cloud never began what was asked for, and is there: asking again is all that is needed.
    pub never_begun: bool,
}

impl ProviderError {
    /// An error of a class.
    pub fn new(
        class: ErrorClass,
        doing: impl Into<String>,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Self {
        Self {
            class,
            doing: doing.into(),
            source: source.into(),
            result: None,
            away: false,
            elsewhere: false,
            never_begun: false,
        }
    }

    /// The same with another name in `nodepool.launch.<result>`.
    #[must_use]
    pub const fn with_launch_result(mut self, result: &'static str) -> Self {
        self.result = Some(result);
        self
    }

    /// The error's name in `nodepool.launch.<result>` (`nodepool 11.0.0: exceptions.py`).
    pub const fn launch_result(&self) -> &'static str {
        if let Some(result) = self.result {
            return result;
        }
        match self.class {
            ErrorClass::Quota => "error.quota",
            ErrorClass::Capacity => "error.capacity",
            ErrorClass::Timeout => "error.servercreatetimeout",
            ErrorClass::Config => "error.nodepool",
            ErrorClass::Transient | ErrorClass::Gone | ErrorClass::Bug => "error.unknown",
        }
    }
}
