//! What carries this provider's metadata: servers, and what was made with them or uploaded. A search for leaks looks at
//! all of it; what has leaked is for the caller to say, who has the records ([`crate::leaks`]).
//!
//! What is attached goes with its server, so only volumes and floating IPs that are not are looked at. A kind that cannot
//! be listed is left out, said once, and said again only after it could be listed in between.

use std::sync::Arc;

use super::{errors::Result, shared::OpenStackProvider};
use crate::{CloudResource, ErrorClass, ProviderError, ResourceKind, openstack::api::Server};

impl OpenStackProvider {
    pub(super) async fn tagged(&self) -> Result<Vec<CloudResource>> {
        // Without their flavors and volumes, which only quotas need.
        let servers = self.servers_now().await?;
        let server = |server: &Arc<Server>| {
            CloudResource::of(ResourceKind::Instance, server.id.clone(), server.metadata.clone())
        };
        let mut found: Vec<_> = servers.values().filter(|server| !server.is_deleted()).map(server).collect();
        let others = [
            (ResourceKind::FloatingIp, self.own_floating_ips().await),
            (ResourceKind::Volume, self.own_volumes().await),
            (ResourceKind::Image, self.list_uploaded().await),
        ];
        for (kind, listed) in others {
            match listed {
                Ok(resources) => {
                    self.unlisted().remove(&kind);
                    found.extend(resources);
                }
                Err(error) => self.cannot_list(kind, &error),
            }
        }
        Ok(found)
    }

    async fn own_floating_ips(&self) -> Result<Vec<CloudResource>> {
        if !self.has_floating_ips() {
            return Ok(Vec::new());
        }
        let ips = self.cloud.list_floating_ips().await.map_err(self.error("listing floating IPs"))?;
        // One that leads somewhere goes with its server.
        let ours = ips.into_iter().filter(|ip| ip.port.is_none());
        Ok(ours
            .map(|ip| CloudResource::of(ResourceKind::FloatingIp, ip.id, ip.tags))
            .filter(|ip| ip.tag("nodepool_provider_name") == Some(self.name.as_str()))
            .collect())
    }

    async fn own_volumes(&self) -> Result<Vec<CloudResource>> {
        let volumes = self.cloud.list_volumes().await.map_err(self.error("listing volumes"))?;
        Ok(volumes
            .into_iter()
            .filter(|volume| !volume.attached)
            .map(|volume| CloudResource::of(ResourceKind::Volume, volume.id, volume.metadata))
            .filter(|volume| volume.tag("nodepool_provider_name") == Some(self.name.as_str()))
            .collect())
    }

    fn cannot_list(&self, kind: ResourceKind, error: &ProviderError) {
        if self.unlisted().insert(kind) {
            let kind = kind.plural();
            tracing::warn!(provider = %self.name, "leaked {kind} are not looked for until they can be listed: {error}");
        }
    }

    /// Deletes something that has leaked. What is gone already is no error.
    pub(super) async fn delete_leaked(&self, resource: &CloudResource) -> Result<()> {
        let id = resource.id.as_str();
        let deleted = match resource.kind {
            ResourceKind::Instance => self.cloud.delete_server(id, None).await,
            ResourceKind::Port => self.cloud.delete_port(id).await,
            ResourceKind::FloatingIp => self.cloud.delete_floating_ip(id).await,
            ResourceKind::Volume => self.cloud.delete_volume(id).await,
            ResourceKind::Image => self.cloud.delete_image(id).await,
            // No such thing is ever listed here.
            ResourceKind::Pod | ResourceKind::Namespace => Ok(()),
        };
        match deleted {
            Err(error) if error.class != ErrorClass::Gone => {
                let kind = resource.kind.plural();
                Err(self.error(format_args!("deleting {id} of the leaked {kind}"))(error))
            }
            _ => Ok(()),
        }
    }
}
