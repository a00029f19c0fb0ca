//! [`NetworkService`] over HTTP.

use std::{sync::atomic::Ordering::Relaxed, time::Duration};

use async_trait::async_trait;
use reqwest::Method;
use serde_json::Value;

use super::{http::Call, nova::Nova, service::Service};
use crate::{
    ErrorClass,
    openstack::api::{
        CloudError, CreateFloatingIp, ExternalNetwork, FloatingIp, Named, NetworkQuota, NetworkService, Port,
    },
};

/// Neutron may try an address many times over while others take theirs from the same subnet.
const CREATE_DEADLINE: Duration = Duration::from_secs(120);

#[async_trait]
impl NetworkService for Nova {
    async fn find_network(&self, name_or_id: &str) -> Result<Option<Named>, CloudError> {
        let name = "get_network";
        let mut found =
            self.all_by_name_or_id(name, Service::Network, ("/networks", "networks"), name_or_id, &[]).await?;
        if found.len() > 1 {
            let ids: Vec<&str> = found.iter().map(|network| network.id.as_str()).collect();
            return Err(CloudError::new(
                ErrorClass::Config,
                format!("{} networks are called {name_or_id}; name one by its id: {}", ids.len(), ids.join(", ")),
            ));
        }
        Ok(found.pop())
    }

    async fn external_networks(&self) -> Result<Vec<ExternalNetwork>, CloudError> {
        if self.has_no(Service::Network).await? {
            return Ok(Vec::new());
        }
        // All of them: no filter says "or".
        let query = ["id", "name", "router:external", "provider:physical_network"].map(|field| ("fields", field));
        let networks = self.list("list_networks", Service::Network, "/networks", "networks", &query).await?;
        Ok(networks.iter().filter_map(ExternalNetwork::read).collect())
    }

    async fn network_quota(&self) -> Result<Option<NetworkQuota>, CloudError> {
        if self.has_no(Service::Network).await? {
            return Ok(None);
        }
        let Some(project) = self.project().await? else { return Ok(None) };
        let path = format!("/quotas/{project}/details");
        match self.call(Call::get("get_network_quotas", Service::Network, path)).await {
            Ok(answer) => Ok(answer.get("quota").map(NetworkQuota::read)),
            Err(error) if error.is_away() => Err(error),
            // Without that extension, not for this user, or a vendor's own network service: nodes are served all the same.
            Err(error) => {
                tracing::debug!(%error, "the network service does not tell its quotas");
                Ok(None)
            }
        }
    }

    async fn list_ports(&self, status: &str) -> Result<Vec<Port>, CloudError> {
        // Our own project's, whatever the credentials may see besides.
        let project = self.project().await?;
        let mut query = vec![("status", status), ("fields", "id"), ("fields", "device_owner"), ("fields", "device_id")];
        query.extend(project.as_deref().map(|project| ("project_id", project)));
        let ports = self.list("list_ports", Service::Network, "/ports", "ports", &query).await?;
        Ok(ports.iter().filter_map(Port::read).collect())
    }

    async fn server_ports(&self, server: &str) -> Result<Vec<Port>, CloudError> {
        let ports = self.list("list_ports", Service::Network, "/ports", "ports", &[("device_id", server)]).await?;
        Ok(ports.iter().filter_map(Port::read).collect())
    }

    async fn delete_port(&self, id: &str) -> Result<(), CloudError> {
        self.call(Call::new("delete_port", Method::DELETE, Service::Network, format!("/ports/{id}"))).await.map(drop)
    }

    async fn list_floating_ips(&self) -> Result<Vec<FloatingIp>, CloudError> {
        if self.has_no(Service::Network).await? {
            return Ok(Vec::new());
        }
        let project = self.project().await?;
        let query: Vec<_> = project.iter().map(|project| ("project_id", project.as_str())).collect();
        let ips = self.list("list_floating_ips", Service::Network, "/floatingips", "floatingips", &query).await?;
        Ok(ips.iter().filter_map(FloatingIp::read).collect())
    }

    async fn create_floating_ip(&self, create: &CreateFloatingIp) -> Result<FloatingIp, CloudError> {
        let session = self.session().await?;
        let tagged = !session.refuses_descriptions.load(Relaxed);
        let answer = match self.make_floating_ip(create, tagged).await {
            Err(error) if tagged && error.status == Some(400) && error.message.contains("description") => {
                tracing::warn!(
                    %error,
                    "Neutron refuses the description that marks a floating IP as ours, so it gets none; one that outlives \
                     its server is not found as a leak, only by clean-floating-ips"
                );
                session.refuses_descriptions.store(true, Relaxed);
                self.make_floating_ip(create, false).await?
            }
            answer => answer?,
        };
        answer.get("floatingip").and_then(FloatingIp::read).ok_or_else(|| {
            CloudError::new(ErrorClass::Transient, "Neutron accepted the floating IP's creation without naming its id")
        })
    }

    async fn delete_floating_ip(&self, id: &str) -> Result<(), CloudError> {
        let path = format!("/floatingips/{id}");
        self.call(Call::new("delete_floating_ip", Method::DELETE, Service::Network, path)).await.map(drop)
    }
}

impl Nova {
    async fn make_floating_ip(&self, create: &CreateFloatingIp, tagged: bool) -> Result<Value, CloudError> {
        let mut call = Call::new("create_floating_ip", Method::POST, Service::Network, "/floatingips");
        call.body = Some(create.body(tagged));
        call.deadline = CREATE_DEADLINE;
        self.call(call).await
    }

    /// The project that our token is for.
    async fn project(&self) -> Result<Option<String>, CloudError> {
        let (_, token) = self.token().await?;
        Ok(token.project.clone())
    }
}
