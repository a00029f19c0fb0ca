//! What a launched server is to a node: its addresses, and what it takes.

use std::sync::Arc;

use nodepool_common::{config, model::Resources};
use serde_json::{Map, json};

use super::{
    addresses::{self, Addresses},
    errors::Result,
    shared::OpenStackProvider,
};
use crate::{
    Instance, Launch,
    openstack::api::{Address, Addressing, Server},
};

impl OpenStackProvider {
    /// Gives the server a floating IP where it needs one.
    pub(super) async fn instance(
        &self,
        launch: &Launch,
        pool: &config::OpenStackPool,
        server: &Arc<Server>,
        mut resources: Resources,
    ) -> Result<Instance> {
        let mut server = Arc::clone(server);
        let addresses = if server.known_addresses.is_some() {
            addresses::choose(&server, &[], &Addressing::default())
        } else {
            let addressing = self.addressing().await?;
            let wants = self.wants_floating_ip(pool, &server);
            let external = match self.external_names(&addressing).await {
                Ok(external) => external,
                Err(error) if wants => return Err(error),
                Err(error) => {
                    // Addresses are only classed less well.
                    tracing::warn!(provider = %self.name, "{error}");
                    Vec::new()
                }
            };
            let addresses = addresses::choose(&server, &external, &addressing);
            let needs = wants && addresses.public_v4.is_none();
            let given = if needs { self.give_floating_ip(launch, &server).await? } else { None };
            match given {
                Some(given) => {
                    resources.set("floating-ips", 1.0);
                    // Nova would tell of it as well, some seconds later.
                    Arc::make_mut(&mut server).addresses.push(given);
                    addresses::choose(&server, &external, &addressing)
                }
                None => addresses,
            }
        };
        let Addresses { interface_ip, public_v4, public_v6, private_v4 } = addresses;
        Ok(Instance {
            external_id: json!(server.id),
            interface_ip,
            // For backwards compatibility, says upstream.
            private_ipv4: private_v4.or_else(|| public_v4.clone().filter(|address| !address.is_empty())),
            public_ipv4: public_v4,
            public_ipv6: public_v6,
            host_id: server.host_id.clone(),
            cloud: self.config.cloud.clone().or_else(|| self.cloud.cloud_name()),
            region: self.config.region_name.clone(),
            az: server.az.clone(),
            driver_data: None,
            slot: None,
            node_properties: Map::new(),
            connection_port: None,
            resources,
        })
    }

    /// Nova gives addresses by their networks' names, clouds.yaml may give ids.
    async fn network_name(&self, name_or_id: &str) -> Result<String> {
        if uuid::Uuid::parse_str(name_or_id).is_err() {
            return Ok(name_or_id.to_owned());
        }
        Ok(self.lookups.network(name_or_id).await?.name)
    }

    async fn addressing(&self) -> Result<Addressing> {
        let mut addressing = self.cloud.addressing();
        if let Some(network) = &addressing.default_network {
            addressing.default_network = Some(self.network_name(network).await?);
        }
        Ok(addressing)
    }

    /// The names of networks whose IPv4 addresses are reached from outside: what clouds.yaml says counts more than
    /// what the cloud says.
    async fn external_names(&self, addressing: &Addressing) -> Result<Vec<String>> {
        let found = self.lookups.external_networks().await?;
        let mut names = Vec::new();
        for network in &addressing.networks {
            if network.routes_ipv4_externally {
                names.push(self.network_name(&network.name).await?);
            }
        }
        let listed = |name: &String, id: &String| {
            addressing.networks.iter().any(|network| network.name == *name || network.name == *id)
        };
        names.extend(found.iter().filter(|found| !listed(&found.name, &found.id)).map(|found| found.name.clone()));
        Ok(names)
    }
}

/// Whether Nova tells of a floating IP of the server.
pub(super) fn has_floating_ip(server: &Server) -> bool {
    server.addresses.iter().any(Address::is_floating)
}
