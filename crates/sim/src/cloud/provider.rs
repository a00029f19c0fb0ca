//! The drivers' trait: what a launcher asks, and how a server ends.

use std::{
    sync::{Arc, Mutex, PoisonError, atomic::AtomicBool},
    time::Duration,
};

use async_trait::async_trait;
use nodepool_common::{
    config,
    model::{LabelName, NodeId, PoolName, ProviderName, Resources},
};
use nodepool_drivers::{
    CloudImageSource, CloudResource, ErrorClass, Instance, Launch, LaunchProgress, NodeProfile, OtherClouds, Provider,
    ProviderError, Quota,
};
use serde_json::Value;
use tokio::time::Instant;

use super::{
    super::{causes::Fault, plan::Trouble, story::tell},
    clouds::Clouds,
    driver::{Driver, READING_THE_QUOTA, STARTING},
    launch::{Attempt, TOO_LONG},
    servers::of_a_server,
};

/// How long a driver waits for a deletion.
const DELETION: Duration = Duration::from_secs(120);

impl Clouds {
    /// Drivers of one process.
    pub fn of_process(&self, process: &str, is_dead: Arc<AtomicBool>) -> Arc<dyn OtherClouds> {
        Arc::new(OfProcess { clouds: self.clone(), process: process.to_owned(), is_dead })
    }
}

#[derive(Debug)]
struct OfProcess {
    clouds: Clouds,
    process: String,
    is_dead: Arc<AtomicBool>,
}

impl OtherClouds for OfProcess {
    fn make(&self, provider: &config::Provider) -> Arc<dyn Provider> {
        Arc::new(Driver {
            name: provider.name.clone(),
            clouds: self.clouds.clone(),
            process: self.process.clone(),
            is_dead: Arc::clone(&self.is_dead),
            listed: Mutex::default(),
        })
    }
}

/// The deletion of a node's server; dropped before it is done, it has come to nothing.
struct Deletion<'a> {
    driver: &'a Driver,
    node: Option<NodeId>,
    is_done: bool,
}

impl Drop for Deletion<'_> {
    fn drop(&mut self) {
        if let Some(node) = self.node.as_ref().filter(|_| !self.is_done) {
            self.driver.clouds.truth.open().causes.not_deleted(node);
        }
    }
}

impl Driver {
    /// Whose server that is or was.
    fn node_of(&self, id: &str) -> Option<NodeId> {
        let of_server = self.with(|cloud| cloud.servers.get(id)?.node.clone());
        of_server.or_else(|| {
            let truth = self.clouds.truth.open();
            let node = truth.nodes.values().find(|node| node.external_id_text() == Some(id));
            node.map(|node| node.id.clone())
        })
    }

    /// A server is being deleted from now on; false: there is none.
    fn remove(&self, id: &str) -> bool {
        let clouds = &self.clouds;
        let lingers = clouds.goes_wrong(Trouble::Lingering, 4);
        let takes = if lingers { clouds.chance.seconds(30.0, 400.0) } else { clouds.chance.seconds(0.5, 6.0) };
        let found = self.with(|cloud| {
            let server = cloud.servers.get_mut(id)?;
            let is_new = server.gone_at.is_none();
            if is_new {
                server.gone_at = Some(Instant::now() + takes);
            }
            Some((server.clone(), is_new))
        });
        let Some((server, is_new)) = found else { return false };
        if is_new {
            tell!(clouds.story, "cloud {}: {} deletes server {id}", self.name, self.process);
            self.may_delete(id, &server);
        }
        true
    }

    /// What is listed; and what is known by that of who has gone.
    async fn list(&self, doing: &str) -> Result<Vec<CloudResource>, ProviderError> {
        self.call(doing).await?;
        let resources: Vec<_> = self.with(|cloud| cloud.resources().collect());
        let ids = resources.iter().map(|resource| resource.id.clone()).collect();
        let at = Instant::now();
        self.note_others();
        // A long list is of the moment when it was begun.
        tokio::time::sleep(self.clouds.chance.seconds(0.01, 1.5)).await;
        self.live().await;
        *self.listed.lock().unwrap_or_else(PoisonError::into_inner) = Some((at, ids));
        Ok(resources)
    }
}

#[async_trait]
impl Provider for Driver {
    fn name(&self) -> &ProviderName {
        &self.name
    }

    async fn start(&self) -> Result<(), ProviderError> {
        // Also where nobody waits for its end.
        self.clouds.truth.open().causes.not_started(&self.process, self.name.as_str());
        self.call(STARTING).await?;
        self.clouds.truth.open().causes.started(&self.process, self.name.as_str());
        Ok(())
    }

    fn profile(&self, _: &PoolName, _: &LabelName) -> Result<NodeProfile, ProviderError> {
        Ok(NodeProfile {
            username: Some("zuul".to_owned()),
            python_path: Some("auto".to_owned()),
            shell_type: None,
            connection_type: "ssh".to_owned(),
            connection_port: 22,
            host_key_checking: true,
            image: Some(CloudImageSource::Cloud("image".to_owned())),
        })
    }

    async fn label_resources(&self, _: &PoolName, _: &LabelName) -> Result<Resources, ProviderError> {
        self.call("reading flavors").await?;
        Ok(of_a_server())
    }

    #[allow(clippy::cast_precision_loss)] // some tens
    async fn quota(&self) -> Result<Quota, ProviderError> {
        self.call(READING_THE_QUOTA).await?;
        let limits = Resources::new().with("instances", self.with(|cloud| cloud.quota) as f64);
        Ok(Quota { limits, used: Resources::new() })
    }

    async fn list_resources(&self) -> Result<Vec<CloudResource>, ProviderError> {
        self.list("listing servers").await
    }

    async fn launch(&self, launch: &Launch, progress: &dyn LaunchProgress) -> Result<Instance, ProviderError> {
        let mut attempt = Attempt { driver: self, node: &launch.node, too_long: Some(Instant::now() + TOO_LONG) };
        let result = self.attempt(launch, progress).await;
        attempt.too_long = None;
        result.inspect_err(|error| self.spoiled(&launch.node, error))
    }

    async fn delete(&self, external_id: &Value, _: Option<&Value>) -> Result<(), ProviderError> {
        let id = external_id.as_str().unwrap_or_default();
        let doing = format!("deleting server {id}");
        let mut deletion = Deletion { driver: self, node: self.node_of(id), is_done: false };
        self.call(&doing).await?;
        let began = Instant::now();
        while self.remove(id) {
            if began.elapsed() > DELETION {
                return Err(self.error(ErrorClass::Timeout, &doing, "it is still there"));
            }
            tokio::time::sleep(Duration::from_secs(1)).await;
            self.live().await;
        }
        deletion.is_done = true;
        Ok(())
    }

    async fn delete_resource(&self, resource: &CloudResource) -> Result<(), ProviderError> {
        self.call(&format!("deleting leaked server {}", resource.id)).await?;
        self.may_remove(&resource.id);
        self.remove(&resource.id);
        Ok(())
    }

    fn has_gone(&self, external_id: &Value, _: Option<&Value>, since: Option<Instant>) -> Option<String> {
        let listed = self.listed.lock().unwrap_or_else(PoisonError::into_inner);
        let (at, ids) = listed.as_ref()?;
        let is_new = since.is_none_or(|since| *at > since);
        (is_new && !ids.contains(external_id.as_str()?)).then(|| "its server is gone".to_owned())
    }

    async fn host_keys(&self, node: &NodeId, _: &str) -> Option<Result<Vec<String>, ProviderError>> {
        self.live().await;
        tokio::time::sleep(self.clouds.chance.seconds(0.1, 4.0)).await;
        self.live().await;
        if self.clouds.goes_wrong(Trouble::BootsFail, 10) {
            tell!(self.clouds.story, "cloud {}: node {node} cannot be reached", self.name);
            self.clouds.truth.open().causes.fault(node, Fault::Attempt);
            return Some(Err(self.error(ErrorClass::Timeout, "scanning host keys", "no answer")));
        }
        Some(Ok(vec!["ssh-rsa KEY".to_owned()]))
    }
}
