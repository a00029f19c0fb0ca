//! [`Cloud`]: the few calls of an OpenStack that the driver makes, and the data they exchange.
//!
//! Everything above this trait (flavor choice, metadata, waiting, quota) is the same for the real cloud
//! ([`super::nova`]), the simulated one (`fake::cloud`) and one behind a socket (`fake::remote`), as upstream's fake
//! driver reuses its openstack adapter. Servers are read from raw Nova JSON, tolerantly: one odd server must never
//! make a listing fail (traps.md 30).

use std::{fmt, sync::Arc, time::Duration};

use async_trait::async_trait;
use nodepool_common::model::{LabelName, NodeId, PoolName};
use serde_json::{Map, Value, json};

use super::{image_service::ImageService, network_service::NetworkService};
use crate::{ErrorClass, Scope};

/// What a driver needs of an OpenStack. Every call has its own deadline and, where repeating is harmless, its own
/// retries.
#[async_trait]
pub(crate) trait Cloud: ImageService + NetworkService + Send + Sync + fmt::Debug {
    /// Credentials, endpoints.
    async fn start(&self) -> Result<(), CloudError>;
    /// How often the list of servers is worth reading.
    fn pace(&self) -> Pace;
    /// Returns when the list of servers has changed since the last listing, where the cloud can tell.
    async fn changed(&self) {
        std::future::pending::<()>().await;
    }
    /// What the token of the last call is for.
    fn scope(&self) -> Option<Scope> {
        None
    }
    /// Another number whenever its settings have been read anew: what is listed from then on may be another project's.
    fn generation(&self) -> u64 {
        0
    }
    async fn create_server(&self, create: &CreateServer) -> Result<Server, CloudError>;
    async fn list_servers(&self) -> Result<Vec<Arc<Server>>, CloudError>;
    /// One server, now; `None`: there is none. For faults, which listings may lack.
    async fn get_server(&self, id: &str) -> Result<Option<Arc<Server>>, CloudError> {
        Ok(self.list_servers().await?.into_iter().find(|server| server.id == id))
    }
    async fn delete_server(&self, id: &str) -> Result<(), CloudError>;
    /// Ends the time for which a cloud keeps a deleted server restorable.
    async fn delete_for_good(&self, id: &str) -> Result<(), CloudError> {
        self.delete_server(id).await
    }
    /// Those that are public, and those that the project was given.
    async fn list_flavors(&self) -> Result<Vec<Flavor>, CloudError>;
    /// Also the other private ones, where the user is an administrator.
    async fn list_all_flavors(&self) -> Result<Vec<Flavor>, CloudError> {
        self.list_flavors().await
    }
    /// An active image.
    async fn find_image(&self, name_or_id: &str) -> Result<Option<Named>, CloudError>;
    /// Names of those that are available.
    async fn availability_zones(&self) -> Result<Vec<String>, CloudError>;
    async fn compute_limits(&self) -> Result<ComputeLimits, CloudError>;
    /// Adds to a volume's metadata.
    async fn tag_volume(&self, id: &str, tags: &Map<String, Value>) -> Result<(), CloudError> {
        let _ = tags;
        Err(CloudError::new(ErrorClass::Bug, format!("this cloud has no volumes, so none {id}")))
    }
    /// `None`: a cloud without volumes.
    async fn volume_limits(&self) -> Result<Option<VolumeLimits>, CloudError>;
    /// Empty without volumes.
    async fn list_volumes(&self) -> Result<Vec<Volume>, CloudError> {
        Ok(Vec::new())
    }
    async fn delete_volume(&self, id: &str) -> Result<(), CloudError> {
        Err(CloudError::new(ErrorClass::Bug, format!("this cloud has no volumes, so none {id}")))
    }
    async fn console(&self, id: &str) -> Result<Option<String>, CloudError>;
    /// Answers in place of the driver's own rule, where a peer stands for the whole adapter.
    async fn label_ready(&self, pool: &PoolName, label: &LabelName) -> Option<Result<bool, CloudError>> {
        let _ = (pool, label);
        None
    }
    /// Answers in place of a scan.
    async fn host_keys(&self, node: &NodeId, address: &str) -> Option<Result<Vec<String>, CloudError>> {
        let _ = (node, address);
        None
    }
    /// How interface addresses are chosen.
    fn addressing(&self) -> super::addresses::Addressing {
        super::addresses::Addressing::default()
    }
    /// Whether it needs no clouds.yaml, although there may be one.
    fn is_simulated(&self) -> bool {
        false
    }
    /// The cloud's name for node records, where the configuration names none.
    fn cloud_name(&self) -> Option<String> {
        None
    }
}

/// How often the list of servers is read while somebody waits for a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Pace {
    /// After somebody begins to wait.
    pub first: Duration,
    /// While things change.
    pub busy: Duration,
    /// While nothing changes or the cloud fails.
    pub quiet: Duration,
    /// Between two calls, whatever happens.
    pub least: Duration,
}

/// Why a call of a cloud failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct CloudError {
    pub class: ErrorClass,
    /// For people; names the call where that is not obvious.
    pub message: String,
    /// A server that exists although its creation failed.
    pub external_id: Option<String>,
    /// The cloud's HTTP status; `None`: no (complete) answer was received.
    pub status: Option<u16>,
    /// Whether that is because the cloud cannot be reached, or did not answer in time.
    pub unanswered: bool,
}

impl CloudError {
    pub fn new(class: ErrorClass, message: impl Into<String>) -> Self {
        Self { class, message: message.into(), external_id: None, status: None, unanswered: false }
    }

    /// An answer of the cloud: classed by its status and its words (drivers.md 1.6).
    pub fn answered(status: u16, message: impl Into<String>) -> Self {
        let message = message.into();
        let class = match status {
            _ if speaks_of_quota(&message) && matches!(status, 400 | 403 | 409 | 413 | 429) => ErrorClass::Quota,
            413 => ErrorClass::Quota,
            404 | 410 => ErrorClass::Gone,
            // Nova cannot choose among several networks: `networks` has to.
            409 if message.contains("Multiple possible networks") => ErrorClass::Config,
            _ if speaks_of_capacity(&message) && status < 500 => ErrorClass::Capacity,
            // 409 on a server is "it is busy", 408 and 429 mean "later".
            408 | 409 | 425 | 429 | 500.. => ErrorClass::Transient,
            400..500 => ErrorClass::Config,
            _ => ErrorClass::Bug,
        };
        Self { class, message, external_id: None, status: Some(status), unanswered: false }
    }

    /// Whether the cloud as a whole is away, for whatever was asked of it.
    pub fn is_away(&self) -> bool {
        self.unanswered || matches!(self.status, Some(408 | 425 | 429 | 502..=504))
    }

    /// Whether the cloud may have acted although we have no answer.
    pub fn is_ambiguous(&self) -> bool {
        self.external_id.is_none()
            && matches!(self.class, ErrorClass::Transient | ErrorClass::Timeout)
            && self.status.is_none_or(|status| status >= 500)
    }
}

impl fmt::Display for CloudError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.status {
            Some(status) => write!(f, "HTTP {status}: {}", self.message),
            None => f.write_str(&self.message),
        }
    }
}

impl std::error::Error for CloudError {}

/// Nova says "Quota exceeded for …", Neutron "Maximum number of ports exceeded" or "exceeds quota".
pub(crate) fn speaks_of_quota(message: &str) -> bool {
    let message = message.to_lowercase();
    message.contains("quota") || message.contains("number of ports exceeded")
}

/// Nova's scheduler found no host, or a compute host gave up and no other was left, or a network is full.
pub(crate) fn speaks_of_capacity(message: &str) -> bool {
    let message = message.to_lowercase();
    ["no valid host", "exceeded maximum number of retries", "no more ip addresses available"]
        .iter()
        .any(|words| message.contains(words))
}

/// What a server is made from.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct CreateServer {
    pub name: String,
    /// Image id.
    pub image: String,
    /// Flavor id.
    pub flavor: String,
    pub az: Option<String>,
    /// Names.
    pub security_groups: Vec<String>,
    /// Network ids; empty: the cloud chooses.
    pub networks: Vec<String>,
    pub key_name: Option<String>,
    pub config_drive: bool,
    pub meta: Map<String, Value>,
    /// Plain text.
    pub userdata: Option<String>,
    /// GB of a volume to boot from, deleted with the server.
    pub volume_size: Option<u64>,
}

/// A server, from raw Nova JSON.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Server {
    pub id: String,
    pub name: String,
    /// In capitals.
    pub status: String,
    pub task_state: Option<String>,
    pub addresses: Vec<Address>,
    pub access_ipv4: Option<String>,
    pub access_ipv6: Option<String>,
    pub host_id: Option<String>,
    pub az: Option<String>,
    pub metadata: Map<String, Value>,
    pub flavor: Value,
    /// Ids of attached volumes.
    pub volumes: Vec<String>,
    pub fault: Option<Fault>,
    /// A simulated cloud knows its addresses itself; then the next four are the answer.
    pub interface_ip: Option<String>,
    pub public_v4: Option<String>,
    pub public_v6: Option<String>,
    pub private_v4: Option<String>,
    /// Whether the JSON had `interface_ip`.
    pub knows_addresses: bool,
}

/// One of a server's addresses.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Address {
    /// Name of its network.
    pub network: String,
    pub version: u64,
    pub addr: String,
    /// `fixed` or `floating`; `None` on clouds without that extension.
    pub kind: Option<String>,
    pub mac: Option<String>,
}

/// Why a server is in ERROR.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Fault {
    pub message: String,
    pub code: Option<i64>,
}

impl Fault {
    pub fn class(&self) -> ErrorClass {
        if speaks_of_quota(&self.message) || self.code == Some(413) {
            ErrorClass::Quota
        } else if speaks_of_capacity(&self.message) {
            ErrorClass::Capacity
        } else {
            ErrorClass::Transient
        }
    }
}

impl Server {
    /// `None`: no object with an id.
    pub fn read(json: &Value) -> Option<Self> {
        let text = |key: &str| json.get(key).and_then(Value::as_str).map(ToOwned::to_owned);
        let addresses = json.get("addresses").and_then(Value::as_object).into_iter().flatten();
        let fault = json.get("fault").filter(|fault| fault.is_object()).map(|fault| Fault {
            message: fault.get("message").and_then(Value::as_str).unwrap_or_default().to_owned(),
            code: fault.get("code").and_then(Value::as_i64),
        });
        let volumes = json.get("os-extended-volumes:volumes_attached").and_then(Value::as_array).into_iter().flatten();
        Some(Self {
            id: text("id")?,
            name: text("name").unwrap_or_default(),
            status: text("status").unwrap_or_default().to_uppercase(),
            task_state: text("OS-EXT-STS:task_state"),
            addresses: addresses
                .flat_map(|(network, list)| {
                    list.as_array().into_iter().flatten().map(move |address| Address::read(network, address))
                })
                .collect(),
            access_ipv4: text("accessIPv4").filter(|text| !text.is_empty()),
            access_ipv6: text("accessIPv6").filter(|text| !text.is_empty()),
            host_id: text("hostId"),
            az: text("OS-EXT-AZ:availability_zone"),
            metadata: json.get("metadata").and_then(Value::as_object).cloned().unwrap_or_default(),
            flavor: json.get("flavor").cloned().unwrap_or_default(),
            volumes: volumes.filter_map(|volume| Some(volume.get("id")?.as_str()?.to_owned())).collect(),
            fault,
            interface_ip: text("interface_ip"),
            public_v4: text("public_v4"),
            public_v6: text("public_v6"),
            private_v4: text("private_v4"),
            knows_addresses: json.get("interface_ip").is_some(),
        })
    }

    /// Whether somebody has deleted it.
    pub fn is_deleted(&self) -> bool {
        self.status == "DELETED" || self.is_soft_deleted()
    }

    /// Whether it can still be restored (`reclaim_instance_interval` of Nova). Until that time is over it keeps its
    /// ports and volumes, and its place in the quota where that is counted in Placement.
    pub fn is_soft_deleted(&self) -> bool {
        self.status == "SOFT_DELETED"
    }

    /// Whether the cloud tells of an address at which it may be reached. Nova's answer comes from a cache, which may be
    /// filled a moment after the server has become ACTIVE.
    pub fn has_address(&self) -> bool {
        self.knows_addresses
            || self.access_ipv4.is_some()
            || self.access_ipv6.is_some()
            || self.addresses.iter().any(|address| !address.addr.is_empty())
    }

    /// A key of the metadata, where it is a text.
    pub fn tag(&self, key: &str) -> Option<&str> {
        self.metadata.get(key).and_then(Value::as_str)
    }
}

impl Address {
    pub fn is_floating(&self) -> bool {
        self.kind.as_deref() == Some("floating")
    }

    fn read(network: &str, json: &Value) -> Self {
        let text = |key: &str| json.get(key).and_then(Value::as_str).map(ToOwned::to_owned);
        Self {
            network: network.to_owned(),
            version: json.get("version").and_then(Value::as_u64).unwrap_or(4),
            addr: text("addr").unwrap_or_default(),
            kind: text("OS-EXT-IPS:type"),
            mac: text("OS-EXT-IPS-MAC:mac_addr"),
        }
    }
}

/// A flavor.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Flavor {
    pub id: String,
    pub name: String,
    /// MiB.
    pub ram: f64,
    pub vcpus: f64,
}

impl Flavor {
    /// `None`: not a flavor with its amounts.
    pub fn read(json: &Value) -> Option<Self> {
        let text = |key: &str| json.get(key).and_then(Value::as_str).map(ToOwned::to_owned);
        Some(Self {
            id: text("id").unwrap_or_default(),
            // As embedded in a server (microversion 2.47 on) it has no id and another key for its name.
            name: text("name").or_else(|| text("original_name")).unwrap_or_default(),
            ram: json.get("ram")?.as_f64()?,
            vcpus: json.get("vcpus")?.as_f64()?,
        })
    }
}

/// An image or a network.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Named {
    pub id: String,
    pub name: String,
}

impl Named {
    pub fn read(json: &Value) -> Option<Self> {
        Some(Self {
            id: json.get("id")?.as_str()?.to_owned(),
            name: json.get("name").and_then(Value::as_str).unwrap_or_default().to_owned(),
        })
    }
}

/// What Nova allows the project; `None`: unlimited or unknown.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct ComputeLimits {
    pub cores: Option<f64>,
    pub instances: Option<f64>,
    /// MiB.
    pub ram: Option<f64>,
}

/// What Cinder allows the project; `None`: unlimited or unknown.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct VolumeLimits {
    pub volumes: Option<f64>,
    pub gigabytes: Option<f64>,
    /// By everybody in the project.
    pub volumes_used: f64,
    pub gigabytes_used: f64,
}

/// A limit as the APIs spell it: -1 is unlimited.
pub(crate) fn limit(json: &Value, keys: &[&str]) -> Option<f64> {
    keys.iter().find_map(|key| json.get(key)).and_then(Value::as_f64).filter(|limit| *limit >= 0.0)
}

impl ComputeLimits {
    /// From Nova's `absolute` or the SDK's spelling.
    pub fn read(json: &Value) -> Self {
        Self {
            cores: limit(json, &["maxTotalCores", "max_total_cores"]),
            instances: limit(json, &["maxTotalInstances", "max_total_instances"]),
            ram: limit(json, &["maxTotalRAMSize", "max_total_ram_size"]),
        }
    }
}

impl VolumeLimits {
    /// From Cinder's `absolute`, or the object around it.
    pub fn read(json: &Value) -> Self {
        let json = json.get("absolute").unwrap_or(json);
        let used = |key: &str| limit(json, &[key]).unwrap_or(0.0);
        Self {
            volumes: limit(json, &["maxTotalVolumes"]),
            gigabytes: limit(json, &["maxTotalVolumeGigabytes"]),
            volumes_used: used("totalVolumesUsed"),
            gigabytes_used: used("totalGigabytesUsed"),
        }
    }
}

/// A volume.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Volume {
    pub id: String,
    /// GB.
    pub size: f64,
    pub metadata: Map<String, Value>,
    pub attached: bool,
}

impl Volume {
    /// `None`: no volume with an id and a size.
    pub fn read(json: &Value) -> Option<Self> {
        Some(Self {
            id: json.get("id")?.as_str()?.to_owned(),
            size: json.get("size")?.as_f64()?,
            metadata: json.get("metadata").and_then(Value::as_object).cloned().unwrap_or_default(),
            attached: json.get("attachments").and_then(Value::as_array).is_some_and(|list| !list.is_empty()),
        })
    }
}

/// Reads each element of a list, leaving out what cannot be used.
pub(crate) fn read_all<T>(json: &Value, read: impl Fn(&Value) -> Option<T>) -> Vec<T> {
    json.as_array().into_iter().flatten().filter_map(read).collect()
}

impl CreateServer {
    /// As `fake::remote` sends it.
    pub fn to_params(&self) -> Value {
        json!({
            "name": self.name,
            "image": self.image,
            "flavor": self.flavor,
            "az": self.az,
            "security_groups": self.security_groups,
            "nics": self.networks.iter().map(|id| json!({"net-id": id})).collect::<Vec<_>>(),
            "key_name": self.key_name,
            "config_drive": self.config_drive,
            "meta": self.meta,
            "userdata": self.userdata,
            "boot_from_volume": self.volume_size.is_some(),
            "volume_size": self.volume_size,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_classed_by_status_and_words() {
        for (status, message, class) in [
            (403, "Quota exceeded for instances: Requested 1, but already used 3 of 3 instances", ErrorClass::Quota),
            (403, "Policy doesn't allow os_compute_api:servers:create to be performed.", ErrorClass::Config),
            (413, "Over limit", ErrorClass::Quota),
            (403, "Maximum number of ports exceeded", ErrorClass::Quota),
            (400, "Invalid key_name provided.", ErrorClass::Config),
            (401, "The request you have made requires authentication.", ErrorClass::Config),
            (404, "Instance x could not be found.", ErrorClass::Gone),
            (409, "Multiple possible networks found, use a Network ID to be more specific.", ErrorClass::Config),
            (409, "Cannot 'delete' instance x while it is in task_state spawning", ErrorClass::Transient),
            (500, "No valid host was found.", ErrorClass::Transient),
            (503, "<html>", ErrorClass::Transient),
            (409, "Quota exceeded for resources: ['floatingip'].", ErrorClass::Quota),
            (409, "No more IP addresses available on network x.", ErrorClass::Capacity),
        ] {
            assert_eq!(CloudError::answered(status, message).class, class, "{status} {message}");
        }
    }

    #[test]
    fn faults_are_classed_by_their_words() {
        for (message, code, class) in [
            ("quota server fault", None, ErrorClass::Quota),
            ("Quota exceeded for instances", Some(413), ErrorClass::Quota),
            ("Over the limit", Some(413), ErrorClass::Quota),
            ("No valid host was found. There are not enough hosts available.", Some(500), ErrorClass::Capacity),
            ("expected error", None, ErrorClass::Transient),
        ] {
            assert_eq!(Fault { message: message.to_owned(), code }.class(), class, "{message}");
        }
    }

    #[test]
    fn a_server_of_any_shape_is_read() {
        let server = Server::read(&json!({"id": "s", "addresses": null, "metadata": null, "fault": null})).unwrap();
        assert_eq!(server.id, "s");
        assert!(!server.knows_addresses && server.fault.is_none());
        assert!(Server::read(&json!({"name": "without an id"})).is_none());
        assert!(Server::read(&json!({"id": "s", "status": "soft_deleted"})).unwrap().is_deleted());
    }

    #[test]
    fn minus_one_is_unlimited() {
        let limits =
            ComputeLimits::read(&json!({"maxTotalCores": -1, "maxTotalInstances": 3, "maxTotalRAMSize": 6144}));
        assert_eq!(limits, ComputeLimits { cores: None, instances: Some(3.0), ram: Some(6144.0) });
    }
}
