//! Periodic removal of what no record can point to: ports and floating IPs.

use std::{collections::HashSet, time::Duration};

use tokio::time::Instant;

use super::{super::cloud::Port, OpenStackProvider, Result};
use crate::{ErrorClass, LeakedResource, ResourceKind};

/// The last look at ports that are DOWN.
#[derive(Debug)]
pub(super) struct PortCheck {
    at: Instant,
    down: HashSet<String>,
}

impl OpenStackProvider {
    async fn down_ports(&self) -> Result<HashSet<String>> {
        let ports = self.cloud.list_ports("DOWN").await.map_err(self.error("listing ports that are DOWN"))?;
        Ok(ports.into_iter().filter(Port::is_for_compute).map(|port| port.id).collect())
    }

    /// Ports carry no metadata, so one that was DOWN twice in a row is taken for leaked (`nodepool 11.0.0:
    /// driver/openstack/adapter.py _cleanupLeakedPorts`).
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

    pub(super) async fn clean_up_floating_ips(&self) -> Result<Vec<LeakedResource>> {
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
