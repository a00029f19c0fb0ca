//! Floating IPs of servers: made for those that have no public address, deleted with them.
//!
//! One is bound to the server's port when it is made, so there is no moment at which it belongs to nobody. That it is
//! the server's is known from Neutron, at once; Nova hears of it seconds later (its network info cache), which nothing
//! here waits for. None that exists is ever taken: it is somebody's.
//!
//! A launch may be dropped at any await, and an answer may be lost. Therefore the floating IP has no record but itself:
//! its description names provider, node and server, and Neutron tells which server its port belongs to. A deletion
//! finds it by these, in a listing that all deletions of that moment share; what came into being after its server was
//! gone is found by the search for leaks. Where Neutron refuses descriptions, a deletion finds it by the server's ports.

use std::{sync::Arc, time::Duration};

use nodepool_common::config;
use serde_json::json;
use tokio::time::{Instant, timeout};

use super::{errors::Result, instance::has_floating_ip, shared::OpenStackProvider};
use crate::{
    ErrorClass, Launch, ProviderError,
    openstack::api::{Address, CloudError, CreateFloatingIp, FloatingIp, FloatingIpSource, Port, SERVER_TAG, Server},
};

/// So long it may take until the address leads to its server (`openstacksdk: cloud/_floating_ip.py`).
const ACTIVE_WITHIN: Duration = Duration::from_secs(60);

impl OpenStackProvider {
    /// Whether this cloud gives floating IPs at all. `floating_ip_source: nova` is Neutron's as well: Nova has only
    /// ever passed them on since it has no network of its own.
    pub(super) fn has_floating_ips(&self) -> bool {
        !self.cloud.is_simulated() && self.cloud.addressing().floating_ip_source != FloatingIpSource::None
    }

    /// Whether the server should have one, if it turns out to have no public address
    /// (`openstacksdk: cloud/_floating_ip.py _needs_floating_ip`).
    pub(super) fn wants_floating_ip(&self, pool: &config::OpenStackPool, server: &Server) -> bool {
        pool.auto_floating_ip
            && self.has_floating_ips()
            && !self.cloud.addressing().private
            && !has_floating_ip(server)
            && server.addresses.iter().any(|address| address.version == 4)
    }

    /// `None`: the cloud has no network that floating IPs could come from, or the server no port.
    pub(super) async fn give_floating_ip(&self, launch: &Launch, server: &Server) -> Result<Option<Address>> {
        let Some(network) = self.floating_network().await? else { return Ok(None) };
        let doing = || format!("making a floating IP for server {} ({})", server.name, server.id);
        let mut tags = self.tags(launch);
        // A description has room for 255 characters, and nobody looks for this one.
        tags.remove("nodepool_pool_name");
        tags.insert(SERVER_TAG.to_owned(), json!(server.id));
        self.gives_floating_ips().insert((launch.pool.clone(), launch.label.clone()));
        let mut unreachable = None;
        for (port, fixed) in self.nat_ports(server).await? {
            let create =
                CreateFloatingIp { network: network.clone(), port: port.id.clone(), fixed, tags: tags.clone() };
            // The semaphore is never closed.
            let turn = self.floating_ip_changes.acquire().await.ok();
            let made = match self.cloud.create_floating_ip(&create).await {
                Ok(made) => made,
                // No router leads from there to this port's network; another port may be better placed.
                Err(error) if error.status == Some(404) => {
                    unreachable = Some(error);
                    continue;
                }
                Err(error) => match self.lost_floating_ip(&create, &error).await {
                    Some(made) => made,
                    None => return Err(self.error(doing())(error)),
                },
            };
            drop(turn);
            let address = self.wait_for_floating_ip(made, &port.id, &doing()).await?;
            tracing::info!(
                provider = %self.name, node = %launch.node, id = server.id, "Floating IP {address} leads to {}", create.fixed
            );
            return Ok(Some(Address {
                network: port_network(server, &port).to_owned(),
                version: 4,
                addr: address,
                kind: Some("floating".to_owned()),
                mac: port.mac,
            }));
        }
        match unreachable {
            None => Ok(None),
            Some(error) => Err(self.error(doing())(CloudError {
                class: ErrorClass::Config,
                message: format!(
                    "{}. Set auto-floating-ip: false, or say in clouds.yaml which networks are nat_source and \
                     nat_destination",
                    error.message
                ),
                ..error
            })),
        }
    }

    /// Id of the network that floating IPs come from: the one that clouds.yaml marks, or the first that routers
    /// lead to.
    async fn floating_network(&self) -> Result<Option<String>> {
        let addressing = self.cloud.addressing();
        if let Some(source) = addressing.networks.iter().find(|network| network.nat_source) {
            return Ok(Some(self.lookups.network(&source.name).await?.id));
        }
        let external = self.lookups.external_networks().await?;
        Ok(external.iter().find(|network| network.is_routers).map(|network| network.id.clone()))
    }

    /// The server's ports that a floating IP may lead to, in the order of Nova's addresses, each with an address.
    async fn nat_ports(&self, server: &Server) -> Result<Vec<(Port, String)>> {
        let doing = format!("listing the ports of server {} ({})", server.name, server.id);
        let mut ports = self.cloud.server_ports(&server.id).await.map_err(self.error(&doing))?;
        let addressing = self.cloud.addressing();
        let destination = addressing.networks.iter().find(|network| network.nat_destination);
        // As upstream: the mark tells which of several ports, a single one is taken wherever it is.
        if let Some(destination) = destination.filter(|_| ports.len() > 1) {
            let network = self.lookups.network(&destination.name).await?;
            ports.retain(|port| port.network == network.id);
            if ports.is_empty() {
                return Err(ProviderError::new(
                    ErrorClass::Config,
                    format!("{doing} in provider {}", self.name),
                    format!("it has none on {}, which clouds.yaml marks as nat_destination", network.name),
                ));
            }
        }
        let place = |port: &Port| server.addresses.iter().position(|address| address.mac == port.mac);
        ports.sort_by_key(|port| place(port).unwrap_or(usize::MAX));
        Ok(ports.into_iter().filter_map(|port| port.fixed_v4.first().cloned().map(|fixed| (port, fixed))).collect())
    }

    /// A creation whose answer was lost may have happened.
    async fn lost_floating_ip(&self, create: &CreateFloatingIp, error: &CloudError) -> Option<FloatingIp> {
        if !error.is_ambiguous() {
            return None;
        }
        let mut since = Instant::now();
        for _ in 0..2 {
            self.floating_ips.hurry_for_news();
            let listing = self.floating_ips.after(since).await;
            since = listing.started;
            let Ok(listed) = listing.found else { continue };
            let is_it = |ip: &FloatingIp| {
                ip.port.as_ref() == Some(&create.port) && (ip.tags == create.tags || ip.tags.is_empty())
            };
            if let Some(lost) = listed.values().find(|ip| is_it(ip)) {
                tracing::warn!(
                    provider = %self.name, floating_ip = lost.id,
                    "the answer to the floating IP's creation was lost, but it exists"
                );
                return Some(FloatingIp::clone(lost));
            }
        }
        None
    }

    /// Waits until it leads to the port, and returns its address. It is deleted with its server if it does not.
    async fn wait_for_floating_ip(&self, made: FloatingIp, port: &str, doing: &str) -> Result<String> {
        let fail = |class, why: String| Err(self.error(doing)(CloudError::new(class, why)));
        let waiting = async {
            let mut now = Arc::new(made);
            let mut since = Instant::now();
            loop {
                if now.port.as_deref() != Some(port) {
                    return fail(ErrorClass::Transient, format!("{} no longer leads to port {port}", now.address));
                }
                match now.status.as_str() {
                    "ACTIVE" => return Ok(now.address.clone()),
                    "ERROR" => return fail(ErrorClass::Transient, format!("{} is in ERROR", now.address)),
                    _ => {}
                }
                self.floating_ips.hurry_for_news();
                let listing = self.floating_ips.after(since).await;
                since = listing.started;
                let Ok(listed) = listing.found else { continue };
                match listed.get(&now.id) {
                    Some(listed) => now = Arc::clone(listed),
                    None => return fail(ErrorClass::Gone, format!("somebody deleted {}", now.address)),
                }
            }
        };
        match timeout(ACTIVE_WITHIN, waiting).await {
            Ok(done) => done,
            Err(_) => fail(
                ErrorClass::Timeout,
                format!("it was not ACTIVE after {} s; check the cloud's router", ACTIVE_WITHIN.as_secs()),
            ),
        }
    }

    /// Deletes what leads to the server or was made for it. The server should be there until that is done, because a
    /// deletion that fails is repeated with the server's id.
    pub(super) async fn delete_floating_ips(&self, server: &str) -> Result<()> {
        if !self.may_have_floating_ip(server) {
            return Ok(());
        }
        let doing = format!("looking for the floating IPs of server {server}");
        self.floating_ips.hurry(Duration::ZERO);
        let listed = match self.floating_ips.after(Instant::now()).await.found {
            // Without that extension, or not for this user: then there are none of ours.
            Err(error) if matches!(error.status, Some(403 | 404)) => return Ok(()),
            listed => listed.map_err(self.error(doing))?,
        };
        let ports = if listed.values().any(|ip| ip.is_known_by_its_port()) {
            let doing = format!("listing the ports of server {server}, because floating IPs are known by them only");
            self.cloud.server_ports(server).await.map_err(self.error(doing))?
        } else {
            Vec::new()
        };
        let leads_to_it =
            |ip: &FloatingIp| ip.is_known_by_its_port() && ports.iter().any(|port| Some(&port.id) == ip.port.as_ref());
        for ip in listed.values().filter(|ip| ip.is_of(server) || leads_to_it(ip)) {
            let _turn = self.floating_ip_changes.acquire().await.ok();
            match self.cloud.delete_floating_ip(&ip.id).await {
                Err(error) if error.class != ErrorClass::Gone => {
                    let doing = format!("deleting floating IP {} of server {server}", ip.address);
                    return Err(self.error(doing)(error));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Not if no pool asks for any and Nova, which was asked before, tells of none.
    fn may_have_floating_ip(&self, server: &str) -> bool {
        let told = || self.servers.latest().and_then(|servers| servers.get(server).cloned());
        self.has_floating_ips()
            && (self.config.pools.values().any(|pool| pool.auto_floating_ip)
                || told().is_none_or(|server| has_floating_ip(&server)))
    }
}

fn port_network<'a>(server: &'a Server, port: &Port) -> &'a str {
    let on_it =
        server.addresses.iter().find(|address| address.mac == port.mac || port.fixed_v4.contains(&address.addr));
    on_it.map_or("", |address| address.network.as_str())
}
