//! Nova's data: servers, flavors, limits.

use std::sync::Arc;

use serde_json::{Map, Value, json};

use super::{limit, speaks_of_capacity, speaks_of_quota};
use crate::{ErrorClass, Metadata, Scope};

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
    pub metadata: Metadata,
    pub flavor: ServerFlavor,
    /// Ids of attached volumes.
    pub volumes: Vec<String>,
    pub fault: Option<Box<Fault>>,
    /// Where a simulated cloud knows which address is which.
    pub known_addresses: Option<Box<KnownAddresses>>,
    /// Where the call went to that told of it; `None`: the cloud is but one.
    pub scope: Option<Arc<Scope>>,
}

/// The addresses of a simulated cloud's server, as they are to be on record.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct KnownAddresses {
    pub interface_ip: Option<String>,
    pub public_v4: Option<String>,
    pub public_v6: Option<String>,
    pub private_v4: Option<String>,
}

/// What a server says of its flavor: from microversion 2.47 on its name and amounts, before that its id.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct ServerFlavor {
    pub id: Option<String>,
    pub name: Option<String>,
    /// MiB and number.
    pub ram_and_vcpus: Option<(f64, f64)>,
}

impl ServerFlavor {
    fn read(json: &Value) -> Self {
        let text = |key: &str| json.get(key).and_then(Value::as_str).map(ToOwned::to_owned);
        Self {
            id: json.as_str().map(ToOwned::to_owned).or_else(|| text("id")),
            name: text("original_name").or_else(|| text("name")),
            ram_and_vcpus: Flavor::read(json).map(|flavor| (flavor.ram, flavor.vcpus)),
        }
    }
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
    /// The members of Nova's JSON that [`Self::read`] looks at: less than half of what Nova says of a server.
    pub const MEMBERS: &'static [&'static str] = &[
        "id",
        "name",
        "status",
        "addresses",
        "accessIPv4",
        "accessIPv6",
        "fault",
        "flavor",
        "hostId",
        "metadata",
        "OS-EXT-AZ:availability_zone",
        "OS-EXT-STS:task_state",
        "os-extended-volumes:volumes_attached",
        "interface_ip",
        "public_v4",
        "public_v6",
        "private_v4",
    ];

    /// `None`: no object with an id.
    pub fn read(json: &Value) -> Option<Self> {
        let get = |key: &str| {
            debug_assert!(Self::MEMBERS.contains(&key), "{key} is not among the members that are kept of a listing");
            json.get(key)
        };
        let text = |key: &str| get(key).and_then(Value::as_str).map(ToOwned::to_owned);
        let addresses = get("addresses").and_then(Value::as_object).into_iter().flatten();
        let fault = get("fault").filter(|fault| fault.is_object()).map(|fault| Fault {
            message: fault.get("message").and_then(Value::as_str).unwrap_or_default().to_owned(),
            code: fault.get("code").and_then(Value::as_i64),
        });
        let known_addresses = get("interface_ip").is_some().then(|| KnownAddresses {
            interface_ip: text("interface_ip"),
            public_v4: text("public_v4"),
            public_v6: text("public_v6"),
            private_v4: text("private_v4"),
        });
        let mut addresses: Vec<_> = addresses
            .flat_map(|(network, list)| {
                list.as_array().into_iter().flatten().map(move |address| Address::read(network, address))
            })
            .collect();
        // Most have one, and room for four.
        addresses.shrink_to_fit();
        let volumes = get("os-extended-volumes:volumes_attached").and_then(Value::as_array).into_iter().flatten();
        Some(Self {
            scope: None,
            id: text("id")?,
            name: text("name").unwrap_or_default(),
            status: text("status").unwrap_or_default().to_uppercase(),
            task_state: text("OS-EXT-STS:task_state"),
            addresses,
            access_ipv4: text("accessIPv4").filter(|text| !text.is_empty()),
            access_ipv6: text("accessIPv6").filter(|text| !text.is_empty()),
            host_id: text("hostId"),
            az: text("OS-EXT-AZ:availability_zone"),
            metadata: get("metadata").and_then(Value::as_object).map(Metadata::from).unwrap_or_default(),
            flavor: get("flavor").map(ServerFlavor::read).unwrap_or_default(),
            volumes: volumes.filter_map(|volume| Some(volume.get("id")?.as_str()?.to_owned())).collect(),
            fault: fault.map(Box::new),
            known_addresses: known_addresses.map(Box::new),
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
        self.known_addresses.is_some()
            || self.access_ipv4.is_some()
            || self.access_ipv6.is_some()
            || self.addresses.iter().any(|address| !address.addr.is_empty())
    }

    /// A key of the metadata, where it is a text.
    pub fn tag(&self, key: &str) -> Option<&str> {
        self.metadata.text(key)
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
            name: text("name").unwrap_or_default(),
            ram: json.get("ram")?.as_f64()?,
            vcpus: json.get("vcpus")?.as_f64()?,
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

#[cfg(test)]
mod tests {
    use super::*;

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
        assert!(server.known_addresses.is_none() && server.fault.is_none());
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
