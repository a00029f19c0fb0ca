//! What of the project's quota is used, by whom, and how much there is.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use nodepool_common::{config, model::Resources};
use tokio::time::Instant;

use super::{errors::Result, listings::Servers, shared::OpenStackProvider};
use crate::{
    CloudResource, Quota, ResourceKind,
    openstack::api::{Flavor, Server, ServerFlavor},
};

/// Flavors of existing servers that are not in the list we have are looked for again after this.
const FLAVOR_CHECK_INTERVAL: Duration = Duration::from_secs(300);

impl OpenStackProvider {
    pub(super) async fn project_quota(&self) -> Result<Quota> {
        let (compute, volume, network) = tokio::try_join!(
            async { self.cloud.compute_limits().await.map_err(self.error("reading the compute quota")) },
            async { self.cloud.volume_limits().await.map_err(self.error("reading the volume quota")) },
            async { self.cloud.network_quota().await.map_err(self.error("reading the network quota")) },
        )?;
        let mut quota = Quota {
            limits: Resources::new()
                .with("cores", compute.cores)
                .with("instances", compute.instances)
                .with("ram", compute.ram),
            used: Resources::new(),
        };
        let volume = volume.unwrap_or_default();
        let network = network.unwrap_or_default();
        for (name, limit, used) in [
            ("volumes", volume.volumes, volume.volumes_used),
            ("volume-gb", volume.gigabytes, volume.gigabytes_used),
            ("ports", network.ports, network.ports_used),
            ("floating-ips", network.floating_ips, network.floating_ips_used),
        ] {
            if let Some(limit) = limit {
                quota.limits.set(name, limit);
                quota.used.set(name, used);
            }
        }
        Ok(quota)
    }

    /// A listing that begins now.
    pub(super) async fn servers_now(&self) -> Result<Arc<Servers>> {
        let now = Instant::now();
        self.servers.hurry(Duration::ZERO);
        self.servers.after(now).await.found.map_err(self.error("listing servers"))
    }

    pub(super) async fn resources(&self) -> Result<Vec<CloudResource>> {
        let servers = self.servers_now().await?;
        let servers: Vec<&Arc<Server>> = servers.values().filter(|server| server.status != "DELETED").collect();
        let known = |flavors: &[Flavor]| {
            servers
                .iter()
                .all(|server| server.flavor.ram_and_vcpus.is_some() || find_flavor(&server.flavor, flavors).is_some())
        };
        let mut flavors = self.lookups.flavors(None).await?;
        if !known(&flavors) {
            flavors = self.lookups.all_flavors(FLAVOR_CHECK_INTERVAL).await?;
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
                resources: usage(server, &flavors, &sizes),
            })
            .collect())
    }
}

/// What an existing server takes. A flavor that is gone or hidden counts as one instance.
fn usage(server: &Server, flavors: &[Flavor], sizes: &HashMap<String, f64>) -> Resources {
    let listed = || find_flavor(&server.flavor, flavors).map(|flavor| (flavor.ram, flavor.vcpus));
    let mut resources = Resources::new().with("instances", 1.0);
    if let Some((ram, vcpus)) = server.flavor.ram_and_vcpus.or_else(listed) {
        resources.set("cores", vcpus);
        resources.set("ram", ram);
    }
    let volumes: Vec<f64> = server.volumes.iter().filter_map(|id| sizes.get(id)).copied().collect();
    if !volumes.is_empty() {
        resources.set("volumes", amount(volumes.len()));
        resources.set("volume-gb", volumes.iter().sum());
    }
    let ports: HashSet<_> = server.addresses.iter().filter_map(|address| address.mac.as_deref()).collect();
    // While it is being built it has one that Nova does not tell of yet.
    resources.set("ports", amount(ports.len().max(1)));
    let floating = server.addresses.iter().filter(|address| address.is_floating()).count();
    if floating > 0 {
        resources.set("floating-ips", amount(floating));
    }
    resources
}

#[allow(clippy::cast_precision_loss)] // a handful
fn amount(count: usize) -> f64 {
    count as f64
}

/// The flavor that a server names.
fn find_flavor<'a>(named: &ServerFlavor, flavors: &'a [Flavor]) -> Option<&'a Flavor> {
    flavors
        .iter()
        .find(|flavor| named.id.as_ref() == Some(&flavor.id))
        .or_else(|| flavors.iter().find(|flavor| named.name.as_ref() == Some(&flavor.name)))
}

/// What one node of a label takes.
#[allow(clippy::cast_precision_loss)] // GB
pub(super) fn need(flavor: &Flavor, label: &config::OpenStackLabel) -> Resources {
    let resources = Resources::new()
        .with("instances", 1.0)
        .with("cores", flavor.vcpus)
        .with("ram", flavor.ram)
        // One where the cloud chooses the network.
        .with("ports", amount(label.networks.len().max(1)));
    if label.boot_from_volume {
        resources.with("volumes", 1.0).with("volume-gb", label.volume_size as f64)
    } else {
        resources
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    /// Upstream's whole listing fails on such a server.
    #[test]
    fn a_server_whose_flavor_is_gone_counts_as_one_instance() {
        let flavors = [Flavor { id: "id-small".to_owned(), name: "small".to_owned(), ram: 2048.0, vcpus: 1.0 }];
        let usage = |flavor: Value| {
            let server = Server::read(&json!({"id": "s", "flavor": flavor,
                "os-extended-volumes:volumes_attached": [{"id": "v1"}, {"id": "unknown"}]}));
            usage(&server.unwrap(), &flavors, &HashMap::from([("v1".to_owned(), 10.0)]))
        };
        let with_volume =
            |resources: Resources| resources.with("volumes", 1.0).with("volume-gb", 10.0).with("ports", 1.0);
        let one = Resources::new().with("instances", 1.0);
        assert_eq!(usage(json!({"id": "gone"})), with_volume(one.clone()));
        let small = one.clone().with("cores", 1.0).with("ram", 2048.0);
        assert_eq!(usage(json!({"id": "id-small"})), with_volume(small.clone()));
        assert_eq!(usage(json!({"original_name": "small"})), with_volume(small));
        let embedded = usage(json!({"original_name": "gone", "vcpus": 3, "ram": 512, "disk": 1}));
        assert_eq!(embedded, with_volume(one.with("cores", 3.0).with("ram", 512.0)));
    }
    #[test]
    fn a_server_has_a_port_for_each_of_its_interfaces() {
        let address = |mac: &str, kind: &str| json!({"version": 4, "addr": "192.0.2.1", "OS-EXT-IPS-MAC:mac_addr": mac, "OS-EXT-IPS:type": kind});
        let server = Server::read(&json!({"id": "s", "addresses": {
            "a": [address("m1", "fixed"), address("m1", "fixed"), address("m1", "floating")],
            "b": [address("m2", "fixed")]}}));
        let resources = usage(&server.unwrap(), &[], &HashMap::new());
        assert_eq!(resources, Resources::new().with("instances", 1.0).with("ports", 2.0).with("floating-ips", 1.0));
    }
}
