//! The story of a launch.
//!
//! It may be dropped at any await. What exists in the cloud by then is found again: its id was reported through
//! [`LaunchProgress`] before anything else was awaited, or its metadata names the node.

use std::{sync::Arc, time::Duration};

use nodepool_common::config;
use serde_json::{Map, Value, json};
use tokio::time::{Instant, timeout};

use super::{
    errors::Result,
    shared::{ExternalName, Image, OpenStackProvider, Wait},
    usage::need,
    when_to_look::Kind,
};
use crate::{
    ErrorClass, Instance, Launch, LaunchProgress, ProviderError,
    format::{format, safe_attributes},
    openstack::api::{CloudError, CreateServer, Flavor, Server},
};

/// A server that listings do not have for so long, one after the other, is asked for by its id.
const MISSING_LISTINGS: u32 = 3;
/// … and for so long: a list may lag behind the server's creation.
const MISSING_FOR: Duration = Duration::from_secs(10);

/// A server whose creation was not answered must be begun within this time.
const BEGUN_WITHIN: Duration = Duration::from_secs(30);

/// So long a server may be ACTIVE without an address.
const ADDRESS_WITHIN: Duration = Duration::from_secs(120);

/// Longest time for marking a volume.
const TAG_WITHIN: Duration = Duration::from_secs(5);

/// A server that exists from now on.
struct Created<'a> {
    server: Server,
    /// That it boots.
    boot: Wait<'a>,
    /// Why Nova's answer was lost, where it was.
    lost: Option<CloudError>,
}

/// Whether Nova goes on with a server whose creation was not answered.
struct Doubt {
    /// Why its answer was lost.
    error: CloudError,
    ask_at: Instant,
    /// How many times it is asked, where there is no answer.
    tries: u32,
}

impl Doubt {
    fn new(error: CloudError) -> Self {
        Self { error, ask_at: Instant::now() + BEGUN_WITHIN, tries: 3 }
    }
}

impl OpenStackProvider {
    pub(super) async fn launch_server(&self, launch: &Launch, progress: &dyn LaunchProgress) -> Result<Instance> {
        let (pool, label) = self.label(&launch.pool, &launch.label)?;
        let (mut flavor, mut create) = self.what_to_create(launch, pool, label).await?;
        let boot = |flavor: &Flavor| Kind::Boot(label.name.clone(), flavor.id.clone());
        let created = match self.create(&create, boot(&flavor), launch, progress).await {
            // Something that was kept may have been replaced in the cloud: once more with what is there now, if that
            // is something else.
            Err(error) if matches!(error.status, Some(400 | 404)) => {
                self.forget();
                let anew = self.what_to_create(launch, pool, label).await?;
                if anew.1 == create {
                    Err(error)
                } else {
                    (flavor, create) = anew;
                    self.create(&create, boot(&flavor), launch, progress).await
                }
            }
            created => created,
        };
        let Created { server, lost, boot } = created.map_err(self.error(creating(&create)))?;
        let server = if server.status == "ACTIVE" && server.has_address() {
            Arc::new(server)
        } else {
            self.wait_until_active(&server, boot, lost, &create, launch).await?
        };
        self.instance(launch, pool, &server, need(&flavor, label)).await
    }

    async fn what_to_create(
        &self,
        launch: &Launch,
        pool: &config::OpenStackPool,
        label: &config::OpenStackLabel,
    ) -> Result<(Flavor, CreateServer)> {
        let image = self.image(label)?;
        let flavor = self.lookups.flavor(label).await?;
        let mut networks = Vec::new();
        for name in &label.networks {
            networks.push(self.lookups.network(name).await?.id);
        }
        // As the SDK has it: where nothing is named, the network that servers are reached on.
        let default = self.cloud.addressing().default_network.filter(|_| networks.is_empty());
        if let Some(name) = default {
            networks.push(self.lookups.network(&name).await?.id);
        }
        let create = CreateServer {
            name: launch.hostname.clone(),
            image: self.image_id(launch, &image).await?,
            flavor: flavor.id.clone(),
            az: launch.az.clone(),
            security_groups: pool.security_groups.clone(),
            networks,
            key_name: label.key_name.clone(),
            config_drive: image.config_drive(),
            meta: self.metadata(launch, label, &image),
            userdata: label.userdata.clone(),
            volume_size: label.boot_from_volume.then_some(label.volume_size),
        };
        Ok((flavor, create))
    }

    async fn image_id(&self, launch: &Launch, image: &Image<'_>) -> Result<String> {
        let doing = || format!("choosing the image of server {} in provider {}", launch.hostname, self.name);
        match image {
            Image::Disk(diskimage) => {
                let id = launch.upload.as_ref().and_then(|upload| upload.external_id.clone());
                id.ok_or_else(|| {
                    // The words and the metric are upstream's.
                    ProviderError::new(
                        ErrorClass::Config,
                        doing(),
                        format!("Unable to find current cloud image {} in {}", diskimage.name, self.name),
                    )
                })
            }
            Image::Cloud(image) => {
                if let Some(id) = &image.image_id {
                    return Ok(id.clone());
                }
                let name = image.external_name();
                let found = self.lookups.image(name).await?;
                found.map(|image| image.id).ok_or_else(|| {
                    ProviderError::new(
                        ErrorClass::Config,
                        doing(),
                        format!("the cloud has no active image called {name}; check `cloud-images`"),
                    )
                })
            }
        }
    }

    /// Groups for Ansible, then what the configuration adds, then what finds the server again.
    fn metadata(&self, launch: &Launch, label: &config::OpenStackLabel, image: &Image<'_>) -> Map<String, Value> {
        let mut meta = Map::new();
        meta.insert("groups".to_owned(), json!(format!("{},{},{}", self.name, image.name(), label.name)));
        for (key, value) in &label.instance_properties {
            meta.insert(key.clone(), json!(value));
        }
        let request = safe_attributes(&launch.request);
        for (key, template) in &label.dynamic_instance_properties {
            match format(template, &request) {
                Ok(value) => {
                    meta.insert(key.clone(), json!(value));
                }
                Err(error) => tracing::warn!(
                    provider = %self.name, label = %label.name, node = %launch.node, request = %launch.request.id,
                    "leaving out dynamic-instance-properties.{key}: {error}"
                ),
            }
        }
        meta.extend(self.tags(launch));
        meta
    }

    /// What finds again what a launch has made.
    pub(super) fn tags(&self, launch: &Launch) -> Map<String, Value> {
        launch.metadata(&self.name).into_iter().map(|(key, value)| (key.to_owned(), json!(value))).collect()
    }

    /// Creates the server; its id is reported before anything else. That it boots is waited for from then on.
    async fn create(
        &self,
        create: &CreateServer,
        boot: Kind,
        launch: &Launch,
        progress: &dyn LaunchProgress,
    ) -> std::result::Result<Created<'_>, CloudError> {
        let mut error = match self.cloud.create_server(create).await {
            Ok(server) => {
                let wait = self.wait(boot, Instant::now());
                progress.created(json!(server.id), server.scope.as_deref()).await;
                return Ok(Created { server, lost: None, boot: wait });
            }
            Err(error) => error,
        };
        if let Some(id) = error.external_id.clone() {
            // Only the simulated cloud knows it.
            progress.created(json!(id), None).await;
            if let Some(fault) = self.fault(&id).await {
                tracing::error!(provider = %self.name, node = %launch.node, %id, "Detailed node error: {}", fault.message);
                if fault.class() == ErrorClass::Quota {
                    error.class = ErrorClass::Quota;
                }
                error.message = format!("{} ({})", error.message, fault.message);
            }
        } else if error.is_ambiguous()
            && let Some(server) = self.lost_server(launch).await
        {
            tracing::warn!(
                provider = %self.name, node = %launch.node, id = server.id, %error,
                "the answer to the server's creation was lost, but it exists"
            );
            progress.created(json!(server.id), server.scope.as_deref()).await;
            let wait = self.wait(boot, Instant::now()).begun_unseen();
            return Ok(Created { server: Server::clone(&server), lost: Some(error), boot: wait });
        }
        if error.status == Some(404) {
            error.class = ErrorClass::Config;
        }
        Err(error)
    }

    /// A creation whose answer was lost may have happened: the server's metadata tells. It is this attempt's: what an
    /// earlier one left was deleted before.
    async fn lost_server(&self, launch: &Launch) -> Option<Arc<Server>> {
        self.servers.hurry_for_news();
        let mut since = Instant::now();
        for _ in 0..2 {
            let listing = self.servers.after(since).await;
            since = listing.started;
            let Ok(servers) = listing.found else { continue };
            let lost = servers.values().find(|server| {
                !server.is_deleted()
                    && server.tag("nodepool_provider_name") == Some(self.name.as_str())
                    && server.tag("nodepool_node_id") == Some(launch.node.as_str())
            });
            if lost.is_some() {
                return lost.cloned();
            }
        }
        None
    }

    /// `lost`: why the creation's answer was lost, where it was.
    async fn wait_until_active(
        &self,
        created: &Server,
        mut wait: Wait<'_>,
        lost: Option<CloudError>,
        create: &CreateServer,
        launch: &Launch,
    ) -> Result<Arc<Server>> {
        let id = created.id.as_str();
        let made_in = created.scope.as_ref().map(|scope| scope.driver_data());
        let doing = || format!("waiting for server {} ({id})", create.name);
        let mut tagged = create.volume_size.is_none();
        let mut missing = 0;
        let mut missing_since = None;
        let mut active_since = None;
        let mut doubt = lost.map(Doubt::new);
        if !self.cloud.pace().learns {
            self.servers.hurry_for_news();
        }
        loop {
            let Some(servers) = self.next_listing(&mut wait, &doing).await? else { continue };
            let Some(server) = servers.get(id) else {
                missing += 1;
                wait.soon();
                let absent = missing_since.get_or_insert_with(Instant::now).elapsed();
                if missing >= MISSING_LISTINGS && absent >= MISSING_FOR {
                    let found = self.cloud.get_server(id, made_in.as_ref()).await;
                    if found.map_err(self.error(doing()))?.is_none() {
                        return Err(self.error(doing())(CloudError::new(
                            ErrorClass::Gone,
                            "the cloud does not have it any more; somebody deleted it while it was being made",
                        )));
                    }
                    missing = 0;
                }
                continue;
            };
            missing = 0;
            missing_since = None;
            if !tagged && !server.volumes.is_empty() {
                tagged = true;
                self.tag_volumes(&server.volumes, launch).await;
            }
            match server.status.as_str() {
                "ACTIVE" if server.has_address() => {
                    wait.done(false);
                    return Ok(Arc::clone(server));
                }
                "ACTIVE" if active_since.get_or_insert_with(Instant::now).elapsed() < ADDRESS_WITHIN => wait.soon(),
                "ACTIVE" => {
                    let why = format!("ACTIVE for {} s, it has no address yet", ADDRESS_WITHIN.as_secs());
                    return Err(self.error(doing())(CloudError::new(ErrorClass::Timeout, why)));
                }
                "ERROR" => {
                    wait.done(true);
                    return Err(self.server_failed(doing(), server).await);
                }
                "BUILD" => {
                    if let Some(error) = self.cut_off(id, &mut doubt).await {
                        let error = self.error(creating(create))(error);
                        return Err(ProviderError { never_begun: true, ..error });
                    }
                    if doubt.is_some() {
                        // It may never boot.
                        wait.soon();
                    } else {
                        wait.not_yet();
                    }
                }
                _ if server.is_deleted() => {
                    return Err(self.error(doing())(CloudError::new(ErrorClass::Gone, "somebody deleted it")));
                }
                _ => wait.not_yet(),
            }
        }
    }

    /// The error of a creation that was cut off within Nova: an API process that ends after it has noted the server and
    /// before it has handed it on leaves a server in BUILD that Nova never makes.
    async fn cut_off(&self, id: &str, doubt: &mut Option<Doubt>) -> Option<CloudError> {
        let Doubt { error, tries, .. } = doubt.take_if(|doubt| doubt.ask_at <= Instant::now())?;
        match self.cloud.has_begun(id).await {
            Ok(true) => None,
            Ok(false) => {
                let within = BEGUN_WITHIN.as_secs();
                // The cloud as a whole is there by now.
                let why = format!("{error}; {within} s later Nova has not begun to make server {id}");
                Some(CloudError::new(error.class, why))
            }
            Err(why) => {
                tracing::warn!(
                    provider = %self.name, %id, error = %why,
                    "cannot ask whether Nova has begun to make a server whose creation was not answered"
                );
                // Who may not ask waits as for any other server.
                if why.class == ErrorClass::Transient && tries > 1 {
                    *doubt = Some(Doubt { tries: tries - 1, ..Doubt::new(error) });
                }
                None
            }
        }
    }

    /// So that they are found should they outlive their server.
    async fn tag_volumes(&self, volumes: &[String], launch: &Launch) {
        let tags = self.tags(launch);
        for id in volumes {
            // The server may be ready: it does not wait for a volume service that is away.
            let tagged = timeout(TAG_WITHIN, self.cloud.tag_volume(id, &tags)).await;
            let late = || CloudError::new(ErrorClass::Timeout, format!("not done within {TAG_WITHIN:?}"));
            if let Err(error) = tagged.unwrap_or_else(|_| Err(late())) {
                tracing::warn!(
                    provider = %self.name, node = %launch.node, volume = %id, %error,
                    "cannot mark the server's volume as ours; should it outlive the server, nobody will know"
                );
            }
        }
    }

    async fn server_failed(&self, doing: String, server: &Server) -> ProviderError {
        let fault = match &server.fault {
            Some(fault) => fault.as_ref().clone(),
            None => self.fault(&server.id).await.unwrap_or_default(),
        };
        let why = if fault.message.is_empty() { "Nova gives no fault" } else { fault.message.as_str() };
        let error = CloudError::new(fault.class(), format!("the server is in ERROR: {why}"));
        let error = self.error(doing)(error);
        match error.class {
            ErrorClass::Transient => error.with_launch_result("error.status"),
            _ => error,
        }
    }
}

/// What is being done until Nova has answered.
fn creating(create: &CreateServer) -> String {
    format!("creating server {}", create.name)
}
