//! Periodic removal of what no record can point to: ports and floating IPs.
//!
//! A port carries nothing of ours, and upstream deletes every port of the project that is DOWN at two checks, has no
//! owner or is for compute. That takes ports away from other people: one that somebody has made and not used yet is
//! DOWN and has no owner, and so is the port of a server that is shut off on some clouds. What leaks is something
//! else: Nova names the server in each port it makes, and leaves the port behind when a build breaks off at the wrong
//! moment. So a port is leaked if it was DOWN at two checks and names a server that Nova does not have. One that names
//! none was not made by Nova and is left alone. Where ports tell of no device at all (simulated clouds), upstream's
//! rule stays.

use std::{collections::HashMap, time::Duration};

use serde_json::Map;
use tokio::time::Instant;

use super::{
    errors::Result,
    shared::{OpenStackProvider, PortCheck},
};
use crate::{
    CloudResource, ErrorClass, LeakedResource, ResourceKind,
    openstack::api::{FloatingIp, Port},
};

impl OpenStackProvider {
    async fn down_ports(&self) -> Result<HashMap<String, Port>> {
        let ports = self.cloud.list_ports("DOWN").await.map_err(self.error("listing ports that are DOWN"))?;
        let suspects = ports.into_iter().filter(Port::is_for_compute).filter(|port| port.device.as_deref() != Some(""));
        Ok(suspects.map(|port| (port.id.clone(), port)).collect())
    }

    /// Removes ports that are leaked; at the first check, and within the interval, none.
    pub(super) async fn clean_up_ports(&self, interval: Duration) -> Result<Vec<LeakedResource>> {
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
        for (id, port) in &down {
            // A port that has come to something else since is another one.
            if last.down.get(id) != Some(port) || !self.has_lost_its_server(port).await {
                continue;
            }
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

    /// What would be removed, had everything been so at the check before; with why.
    pub(super) async fn orphans(&self) -> Result<Vec<(CloudResource, String)>> {
        let mut found = Vec::new();
        if let Some(interval) = self.config.port_cleanup_interval {
            for port in self.down_ports().await?.into_values() {
                if self.has_lost_its_server(&port).await {
                    let server =
                        port.device.as_deref().map_or(String::new(), |id| format!(" its server {id} is gone,"));
                    let why = format!("it is DOWN,{server} removed if so for {} s", interval.as_secs());
                    found.push((CloudResource::of(ResourceKind::Port, port.id, Map::new()), why));
                }
            }
        }
        if self.config.clean_floating_ips {
            for ip in self.unattached_floating_ips().await? {
                let why = format!("{} leads nowhere (clean-floating-ips)", ip.address);
                found.push((CloudResource::of(ResourceKind::FloatingIp, ip.id, Map::new()), why));
            }
        }
        Ok(found)
    }

    async fn unattached_floating_ips(&self) -> Result<Vec<FloatingIp>> {
        let ips = self.cloud.list_floating_ips().await.map_err(self.error("listing floating IPs"))?;
        Ok(ips.into_iter().filter(|ip| ip.port.is_none()).collect())
    }

    async fn has_lost_its_server(&self, port: &Port) -> bool {
        let Some(device) = &port.device else { return true };
        match self.cloud.get_server(device, None).await {
            Ok(server) => server.is_none(),
            Err(error) => {
                tracing::warn!(
                    provider = %self.name, port = %port.id, %error,
                    "cannot tell whether the port is leaked, because Nova does not tell of its server {device}"
                );
                false
            }
        }
    }

    pub(super) async fn clean_up_floating_ips(&self) -> Result<Vec<LeakedResource>> {
        let mut removed = Vec::new();
        for ip in self.unattached_floating_ips().await? {
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
