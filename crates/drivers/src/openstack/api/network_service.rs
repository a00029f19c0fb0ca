//! [`NetworkService`]: Neutron's calls, and the data they exchange. A simulated cloud has the first few only.

use async_trait::async_trait;
use serde_json::{Map, Value, json};

use super::{CloudError, Named, limit};
use crate::ErrorClass;

/// Neutron's calls. None repeats a creation by itself.
#[async_trait]
pub(crate) trait NetworkService {
    /// More than one of a name is [`ErrorClass::Config`].
    async fn find_network(&self, name_or_id: &str) -> Result<Option<Named>, CloudError>;
    /// Networks that lead outside; none without a network service.
    async fn external_networks(&self) -> Result<Vec<ExternalNetwork>, CloudError> {
        Ok(Vec::new())
    }
    /// `None`: the network service does not tell.
    async fn network_quota(&self) -> Result<Option<NetworkQuota>, CloudError> {
        Ok(None)
    }
    /// The project's ports in a status.
    async fn list_ports(&self, status: &str) -> Result<Vec<Port>, CloudError>;
    /// A server's ports.
    async fn server_ports(&self, server: &str) -> Result<Vec<Port>, CloudError> {
        let _ = server;
        Ok(Vec::new())
    }
    async fn delete_port(&self, id: &str) -> Result<(), CloudError>;
    /// The project's; none without a network service.
    async fn list_floating_ips(&self) -> Result<Vec<FloatingIp>, CloudError>;
    /// Makes one that leads to a port's address; without its tags where the cloud keeps none.
    async fn create_floating_ip(&self, create: &CreateFloatingIp) -> Result<FloatingIp, CloudError> {
        Err(CloudError::new(
            ErrorClass::Bug,
            format!("this cloud has no floating IPs, so none for port {}", create.port),
        ))
    }
    async fn delete_floating_ip(&self, id: &str) -> Result<(), CloudError>;
}

/// A network whose IPv4 addresses are reached from outside, as far as the cloud tells
/// (`openstacksdk: cloud/_network_common.py _set_interesting_networks`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ExternalNetwork {
    pub id: String,
    pub name: String,
    /// Whether routers lead there (`router:external`), so that floating IPs may come from it. Otherwise it is one of the
    /// data centre's own (`provider:physical_network`, which most clouds show to administrators only).
    pub is_routers: bool,
}

impl ExternalNetwork {
    /// `None`: a network of the cloud's inside.
    pub fn read(json: &Value) -> Option<Self> {
        let Named { id, name } = Named::read(json)?;
        let is_routers = json.get("router:external").and_then(Value::as_bool).unwrap_or(false);
        let is_physical =
            json.get("provider:physical_network").and_then(Value::as_str).is_some_and(|name| !name.is_empty());
        (is_routers || is_physical).then_some(Self { id, name, is_routers })
    }
}

/// A network port.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Port {
    pub id: String,
    pub device_owner: Option<String>,
    /// What it belongs to, a server for one; empty: nothing; `None`: the cloud does not tell.
    pub device: Option<String>,
    pub network: String,
    pub mac: Option<String>,
    /// Its IPv4 addresses.
    pub fixed_v4: Vec<String>,
}

impl Port {
    pub fn read(json: &Value) -> Option<Self> {
        let text = |key: &str| json.get(key).and_then(Value::as_str).map(ToOwned::to_owned);
        let fixed = json.get("fixed_ips").and_then(Value::as_array).into_iter().flatten();
        let fixed = fixed.filter_map(|address| address.get("ip_address").and_then(Value::as_str));
        Some(Self {
            id: text("id")?,
            device_owner: text("device_owner"),
            device: text("device_id"),
            network: text("network_id").unwrap_or_default(),
            mac: text("mac_address"),
            fixed_v4: fixed.filter(|address| !address.contains(':')).map(ToOwned::to_owned).collect(),
        })
    }

    /// Whether a server had it, or nobody: not a router's, not DHCP's, and not a container's, which Kuryr calls
    /// `compute` although Nova knows nothing of it.
    pub fn is_for_compute(&self) -> bool {
        self.device_owner
            .as_deref()
            .is_none_or(|owner| owner.is_empty() || owner.starts_with("compute:") && owner != "compute:kuryr")
    }
}

/// A floating IP address to be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct CreateFloatingIp {
    /// Id of the network it comes from.
    pub network: String,
    /// Id of the port it leads to.
    pub port: String,
    /// The port's address it leads to.
    pub fixed: String,
    /// What it is found again by.
    pub tags: Map<String, Value>,
}

/// A floating IP address.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct FloatingIp {
    pub id: String,
    /// In capitals.
    pub status: String,
    pub address: String,
    /// What it leads to.
    pub port: Option<String>,
    /// The server that has that port.
    pub server: Option<String>,
    /// What we (or our like) wrote into its description, the only text of ours that Neutron keeps with it.
    pub tags: Map<String, Value>,
}

/// The server's id among a floating IP's tags.
pub(crate) const SERVER_TAG: &str = "nodepool_server_id";

impl FloatingIp {
    pub fn read(json: &Value) -> Option<Self> {
        let text = |key: &str| json.get(key).and_then(Value::as_str).map(ToOwned::to_owned);
        let tags = text("description").and_then(|text| serde_json::from_str(&text).ok());
        Some(Self {
            id: text("id")?,
            status: text("status").unwrap_or_default().to_uppercase(),
            address: text("floating_ip_address").unwrap_or_default(),
            port: text("port_id").filter(|id| !id.is_empty()),
            server: json.pointer("/port_details/device_id").and_then(Value::as_str).map(ToOwned::to_owned),
            tags: tags.unwrap_or_default(),
        })
    }

    /// Whether it leads somewhere, and only its port tells where: some clouds refuse descriptions, and some do not tell
    /// whose the port is.
    pub fn is_known_by_its_port(&self) -> bool {
        self.port.is_some() && self.server.is_none() && !self.tags.contains_key(SERVER_TAG)
    }

    /// Whether it was made for a server or leads to it.
    pub fn is_of(&self, server: &str) -> bool {
        match &self.server {
            Some(now) if !now.is_empty() => now == server,
            _ => self.tags.get(SERVER_TAG).and_then(Value::as_str) == Some(server),
        }
    }
}

impl CreateFloatingIp {
    /// The body of `POST /floatingips`, with or without the tags.
    pub fn body(&self, tagged: bool) -> Value {
        let mut ip = json!({
            "floating_network_id": self.network,
            "port_id": self.port,
            "fixed_ip_address": self.fixed,
        });
        if tagged {
            ip["description"] = json!(Value::Object(self.tags.clone()).to_string());
        }
        json!({"floatingip": ip})
    }
}

/// What Neutron allows the project (`None`: unlimited) and what everybody in it uses.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct NetworkQuota {
    pub ports: Option<f64>,
    pub ports_used: f64,
    pub floating_ips: Option<f64>,
    pub floating_ips_used: f64,
}

impl NetworkQuota {
    /// From the `quota` of `GET /quotas/<project>/details`.
    pub fn read(json: &Value) -> Self {
        let of = |resource: &str| json.get(resource).cloned().unwrap_or_default();
        let (ports, ips) = (of("port"), of("floatingip"));
        // What is reserved is about to be used.
        let used = |json: &Value| ["used", "reserved"].map(|key| limit(json, &[key]).unwrap_or(0.0)).iter().sum();
        Self {
            ports: limit(&ports, &["limit"]),
            ports_used: used(&ports),
            floating_ips: limit(&ips, &["limit"]),
            floating_ips_used: used(&ips),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_reserved_in_the_network_counts_as_used() {
        let quota = json!({"port": {"limit": 10, "used": 2, "reserved": 1}, "floatingip": {"limit": -1, "used": 3}});
        let expected = NetworkQuota { ports: Some(10.0), ports_used: 3.0, floating_ips: None, floating_ips_used: 3.0 };
        assert_eq!(NetworkQuota::read(&quota), expected);
    }

    #[test]
    fn a_floating_ip_belongs_to_the_server_it_leads_to_now() {
        let read = |server: &str, tagged: &str| {
            let json = json!({"id": "f", "status": "active", "floating_ip_address": "192.0.2.1", "port_id": null,
                "port_details": {"device_id": server}, "description": json!({SERVER_TAG: tagged}).to_string()});
            FloatingIp::read(&json).unwrap()
        };
        assert!(read("s", "other").is_of("s") && !read("other", "s").is_of("s"));
        assert!(read("", "s").is_of("s"), "its port is gone");
        let foreign = FloatingIp::read(&json!({"id": "f", "description": "my address"})).unwrap();
        assert!(foreign.tags.is_empty() && !foreign.is_of("s"));
    }

    #[test]
    fn a_network_is_external_if_routers_lead_there_or_it_is_the_data_centres_own() {
        for (network, is_routers) in [
            (json!({"router:external": true}), Some(true)),
            (json!({"router:external": true, "provider:physical_network": "physnet1"}), Some(true)),
            (json!({"router:external": false, "provider:physical_network": "physnet1"}), Some(false)),
            (json!({"router:external": false, "provider:physical_network": null}), None),
            (json!({"provider:physical_network": ""}), None),
            (json!({}), None),
        ] {
            let mut json = json!({"id": "n", "name": "net"});
            json.as_object_mut().unwrap().extend(network.as_object().unwrap().clone());
            let read = ExternalNetwork::read(&json);
            assert_eq!(read.map(|network| network.is_routers), is_routers, "{json}");
        }
    }

    #[test]
    fn a_containers_port_is_not_for_compute() {
        for (owner, ours) in [("", true), ("compute:nova", true), ("compute:kuryr", false), ("network:dhcp", false)] {
            let port = Port::read(&json!({"id": "p", "device_owner": owner})).unwrap();
            assert_eq!(port.is_for_compute(), ours, "{owner}");
        }
    }
}
