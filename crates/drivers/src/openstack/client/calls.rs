//! The methods of [`Cloud`] as calls of Nova, Glance, Neutron and Cinder.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use base64::{Engine, engine::general_purpose::STANDARD};
use reqwest::Method;
use serde_json::{Map, Value, json};

use super::{
    http::{Call, is_older},
    nova::{Answer, Nova},
    page::Items,
    service::Service,
};
use crate::{
    ErrorClass, Scope,
    openstack::api::{
        Addressing, Cloud, CloudError, ComputeLimits, CreateServer, Flavor, Named, Pace, Server, Volume, VolumeLimits,
        read_all,
    },
};

/// Nova answers a creation when the request is on its queue, which a loaded cloud takes its time for.
const CREATE_DEADLINE: Duration = Duration::from_secs(120);
/// How long a creation waits for its turn, where Nova says "later" or is away.
const CREATE_PATIENCE: Duration = Duration::from_secs(120);
/// The first compute microversion that takes `networks: auto`.
const AUTO_NETWORKS: &str = "2.37";

/// The body of `POST /servers` as the SDK writes it. `auto`: whether Nova can be asked to choose the
/// network, where none is named; older ones do so unasked.
fn server_body(create: &CreateServer, auto: bool) -> Value {
    let mut server = json!({"name": create.name, "imageRef": create.image, "flavorRef": create.flavor});
    if let Some(size) = create.volume_size {
        server["imageRef"] = json!("");
        server["block_device_mapping_v2"] = json!([{
            "boot_index": 0,
            "uuid": create.image,
            "source_type": "image",
            "destination_type": "volume",
            "volume_size": size.to_string(),
            "delete_on_termination": true,
        }]);
    }
    if !create.networks.is_empty() {
        server["networks"] = create.networks.iter().map(|id| json!({"uuid": id})).collect();
    } else if auto {
        server["networks"] = json!("auto");
    }
    if let Some(az) = &create.az {
        server["availability_zone"] = json!(az);
    }
    if let Some(key) = &create.key_name {
        server["key_name"] = json!(key);
    }
    if create.config_drive {
        server["config_drive"] = json!(true);
    }
    if !create.security_groups.is_empty() {
        server["security_groups"] = create.security_groups.iter().map(|name| json!({"name": name})).collect();
    }
    if let Some(userdata) = create.userdata.as_ref().filter(|userdata| !userdata.is_empty()) {
        server["user_data"] = json!(STANDARD.encode(userdata));
    }
    if !create.meta.is_empty() {
        server["metadata"] = json!(create.meta);
    }
    json!({"server": server})
}

/// The server that an answer tells of.
fn server_in(answer: &Answer<Value>) -> Option<Server> {
    let server = answer.value.get("server").and_then(Server::read)?;
    Some(Server { scope: answer.scope.clone(), ..server })
}

#[async_trait]
impl Cloud for Nova {
    async fn start(&self) -> Result<(), CloudError> {
        self.open().await
    }

    fn pace(&self) -> Pace {
        Pace {
            first: Duration::from_millis(500),
            busy: Duration::from_secs(1),
            quiet: Duration::from_secs(5),
            least: self.rate,
            learns: true,
        }
    }

    fn scope(&self) -> Option<Scope> {
        self.last_scope()
    }

    fn generation(&self) -> u64 {
        self.opened()
    }

    async fn create_server(&self, create: &CreateServer) -> Result<Server, CloudError> {
        let configured = self.settings().and_then(|settings| settings.microversion(Service::Compute));
        let auto = create.networks.is_empty() && !configured.is_some_and(|version| is_older(&version, AUTO_NETWORKS));
        let call = |auto: bool| {
            let mut call = Call::new("create_server", Method::POST, Service::Compute, "/servers");
            call.body = Some(server_body(create, auto));
            call.deadline = CREATE_DEADLINE;
            call.patience = CREATE_PATIENCE;
            call.microversion = auto.then_some(AUTO_NETWORKS);
            call
        };
        let answer = match self.answer(call(auto)).await {
            // Nova is older than that.
            Err(error) if auto && error.status == Some(406) => self.answer(call(false)).await?,
            answer => answer?,
        };
        server_in(&answer).ok_or_else(|| {
            CloudError::new(ErrorClass::Transient, "Nova accepted the creation without naming the server's id")
        })
    }

    async fn list_servers(&self) -> Result<Vec<Arc<Server>>, CloudError> {
        let (name, path) = ("detailed server list", "/servers/detail");
        let items =
            Items { key: "servers", members: Some(Server::MEMBERS), convert: |server: Value| Server::read(&server) };
        let servers = self.list_read(name, Service::Compute, path, items, &[]).await?;
        Ok(servers.into_iter().map(|(server, scope)| Arc::new(Server { scope, ..server })).collect())
    }

    async fn get_server(&self, id: &str, made_in: Option<&Value>) -> Result<Option<Arc<Server>>, CloudError> {
        let mut call = Call::get("get_server_by_id", Service::Compute, format!("/servers/{id}"));
        call.made_in = made_in.cloned();
        match self.answer(call).await {
            Ok(answer) => match server_in(&answer) {
                Some(server) => Ok(Some(Arc::new(server))),
                None => Err(CloudError::new(ErrorClass::Transient, format!("server {id} was answered without it"))),
            },
            Err(error) if error.class == ErrorClass::Gone => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Nova's conductor notes the action `create` when it has chosen a host. Until then only its API knows the server.
    async fn has_begun(&self, id: &str) -> Result<bool, CloudError> {
        let path = format!("/servers/{id}/os-instance-actions");
        let answer = self.call(Call::get("list_server_actions", Service::Compute, path)).await?;
        let actions = answer.get("instanceActions").and_then(Value::as_array).ok_or_else(|| {
            CloudError::new(ErrorClass::Transient, format!("the actions of server {id} were answered without them"))
        })?;
        Ok(!actions.is_empty())
    }

    async fn delete_server(&self, id: &str, made_in: Option<&Value>) -> Result<(), CloudError> {
        let mut call = Call::new("delete_server", Method::DELETE, Service::Compute, format!("/servers/{id}"));
        call.made_in = made_in.cloned();
        self.call(call).await.map(drop)
    }

    async fn delete_for_good(&self, id: &str, made_in: Option<&Value>) -> Result<(), CloudError> {
        let mut call =
            Call::new("force_delete_server", Method::POST, Service::Compute, format!("/servers/{id}/action"));
        call.body = Some(json!({"forceDelete": null}));
        call.made_in = made_in.cloned();
        self.call(call).await.map(drop)
    }

    async fn list_flavors(&self) -> Result<Vec<Flavor>, CloudError> {
        let flavors = self.list("list_flavors", Service::Compute, "/flavors/detail", "flavors", &[]).await?;
        Ok(flavors.iter().filter_map(Flavor::read).collect())
    }

    async fn list_all_flavors(&self) -> Result<Vec<Flavor>, CloudError> {
        let query = [("is_public", "None")];
        match self.list("list_flavors", Service::Compute, "/flavors/detail", "flavors", &query).await {
            Ok(flavors) => Ok(flavors.iter().filter_map(Flavor::read).collect()),
            // Nova ignores it where the user is none; others may not like it.
            Err(error) if matches!(error.status, Some(400 | 403)) => self.list_flavors().await,
            Err(error) => Err(error),
        }
    }

    async fn find_image(&self, name_or_id: &str) -> Result<Option<Named>, CloudError> {
        // The newest, where names repeat.
        let query = [("status", "active"), ("sort", "created_at:desc")];
        self.by_name_or_id("get_image", Service::Image, ("/images", "images"), name_or_id, &query).await
    }

    async fn availability_zones(&self) -> Result<Vec<String>, CloudError> {
        let call = Call::get("list_availability_zone_names", Service::Compute, "/os-availability-zone");
        let answer = self.call(call).await?;
        let zones = answer.get("availabilityZoneInfo").cloned().unwrap_or_default();
        Ok(read_all(&zones, |zone| {
            let available = zone.pointer("/zoneState/available").and_then(Value::as_bool).unwrap_or(false);
            zone.get("zoneName").and_then(Value::as_str).filter(|_| available).map(ToOwned::to_owned)
        }))
    }

    async fn compute_limits(&self) -> Result<ComputeLimits, CloudError> {
        let answer = self.call(Call::get("get_compute_limits", Service::Compute, "/limits")).await?;
        let absolute = answer
            .pointer("/limits/absolute")
            .ok_or_else(|| CloudError::new(ErrorClass::Transient, "Nova answers /limits without absolute limits"))?;
        Ok(ComputeLimits::read(absolute))
    }

    async fn volume_limits(&self) -> Result<Option<VolumeLimits>, CloudError> {
        if self.has_no(Service::Volume).await? {
            return Ok(None);
        }
        match self.call(Call::get("get_volume_limits", Service::Volume, "/limits")).await {
            Ok(answer) => Ok(answer.pointer("/limits/absolute").map(VolumeLimits::read)),
            // A service that is in the catalogue only, or not for this project.
            Err(error) if matches!(error.status, Some(403 | 404)) => Ok(None),
            Err(error) => Err(error),
        }
    }

    async fn list_volumes(&self) -> Result<Vec<Volume>, CloudError> {
        if self.has_no(Service::Volume).await? {
            return Ok(Vec::new());
        }
        let volumes = self.list("list_volumes", Service::Volume, "/volumes/detail", "volumes", &[]).await?;
        Ok(volumes.iter().filter_map(Volume::read).collect())
    }

    async fn tag_volume(&self, id: &str, tags: &Map<String, Value>) -> Result<(), CloudError> {
        let path = format!("/volumes/{id}/metadata");
        // This adds; a PUT would replace what others have put there.
        let mut call = Call::new("set_volume_metadata", Method::POST, Service::Volume, path);
        call.body = Some(json!({"metadata": tags}));
        self.call(call).await.map(drop)
    }

    async fn delete_volume(&self, id: &str) -> Result<(), CloudError> {
        self.call(Call::new("delete_volume", Method::DELETE, Service::Volume, format!("/volumes/{id}"))).await.map(drop)
    }

    async fn console(&self, id: &str) -> Result<Option<String>, CloudError> {
        let path = format!("/servers/{id}/action");
        let mut call = Call::new("get_server_console", Method::POST, Service::Compute, path);
        call.body = Some(json!({"os-getConsoleOutput": {}}));
        let answer = self.call(call).await?;
        Ok(answer.get("output").and_then(Value::as_str).map(ToOwned::to_owned))
    }

    fn addressing(&self) -> Addressing {
        self.settings().map(|settings| settings.addressing(self.ipv6.is_routed())).unwrap_or_default()
    }

    fn cloud_name(&self) -> Option<String> {
        self.settings().map(|settings| settings.name)
    }
}

impl Nova {
    pub(super) async fn has_no(&self, service: Service) -> Result<bool, CloudError> {
        let (session, token) = self.token().await?;
        Ok(session.keystone.find_endpoint(&token, service).is_none())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_is_asked_for_as_the_sdk_asks() {
        let create = CreateServer {
            name: "np1".to_owned(),
            image: "i".to_owned(),
            flavor: "f".to_owned(),
            az: Some("az1".to_owned()),
            security_groups: vec!["zuul".to_owned()],
            networks: vec!["n1".to_owned(), "n2".to_owned()],
            key_name: Some("k".to_owned()),
            config_drive: true,
            userdata: Some("#!/bin/sh".to_owned()),
            volume_size: Some(40),
            ..CreateServer::default()
        };
        assert_eq!(
            server_body(&create, true),
            json!({"server": {
                "name": "np1", "imageRef": "", "flavorRef": "f",
                "block_device_mapping_v2": [{"boot_index": 0, "uuid": "i", "source_type": "image",
                    "destination_type": "volume", "volume_size": "40", "delete_on_termination": true}],
                "networks": [{"uuid": "n1"}, {"uuid": "n2"}], "availability_zone": "az1", "key_name": "k",
                "config_drive": true, "security_groups": [{"name": "zuul"}], "user_data": "IyEvYmluL3No"}})
        );
        let plain = server_body(&CreateServer { image: "i".to_owned(), ..CreateServer::default() }, true);
        assert_eq!(plain.pointer("/server/networks"), Some(&json!("auto")));
        assert_eq!(plain.pointer("/server/config_drive"), None);
    }
}
