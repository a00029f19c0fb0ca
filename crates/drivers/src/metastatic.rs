//! The driver `metastatic`: its nodes stand on nodes of other providers. It launches and deletes nothing in any cloud.
//!
//! Which node stands where is in the records, so it is the launcher's business (`plan::metastatic`, `run::metastatic`).

use async_trait::async_trait;
use nodepool_common::{
    config::Metastatic,
    model::{LabelName, NodeId, PoolName, ProviderName, Resources},
};
use serde_json::Value;

use crate::{
    CloudResource, Context, ErrorClass, Instance, Launch, LaunchProgress, NodeProfile, Provider, ProviderError, Quota,
    fake::remote::RemoteCloud, openstack::api::Cloud as _,
};

type Result<T> = std::result::Result<T, ProviderError>;

/// See the module's comment.
#[derive(Debug)]
pub struct MetastaticProvider {
    name: ProviderName,
    config: Metastatic,
    /// Tells host keys in the place of a scan (upstream's tests).
    fake: Option<RemoteCloud>,
}

impl MetastaticProvider {
    /// One for these labels.
    pub fn new(name: ProviderName, config: Metastatic, context: &Context) -> Self {
        let fake = context.variable("NODEPOOL_FAKE_CLOUD").map(|address| RemoteCloud::new(name.clone(), address));
        Self { name, config, fake }
    }
}

#[async_trait]
impl Provider for MetastaticProvider {
    fn name(&self) -> &ProviderName {
        &self.name
    }

    async fn start(&self) -> Result<()> {
        Ok(())
    }

    /// What is not told here is that of the node underneath.
    fn profile(&self, pool: &PoolName, label: &LabelName) -> Result<NodeProfile> {
        let found = self.config.label(pool, label).ok_or_else(|| {
            let doing = format!("looking up label {label} in pool {pool} of provider {}", self.name);
            ProviderError::new(ErrorClass::Config, doing, "it is not in the configuration (any more)")
        })?;
        Ok(NodeProfile {
            username: None,
            python_path: None,
            shell_type: None,
            connection_type: "ssh".to_owned(),
            connection_port: 22,
            host_key_checking: found.host_key_checking,
            image: None,
        })
    }

    async fn label_resources(&self, _: &PoolName, _: &LabelName) -> Result<Resources> {
        Ok(Resources::new().with("instances", 1.0))
    }

    async fn quota(&self) -> Result<Quota> {
        Ok(Quota::default())
    }

    async fn list_resources(&self) -> Result<Vec<CloudResource>> {
        Ok(Vec::new())
    }

    async fn launch(&self, launch: &Launch, _: &dyn LaunchProgress) -> Result<Instance> {
        let doing = format!("launching node {} in provider {}", launch.node, self.name);
        Err(ProviderError::new(ErrorClass::Bug, doing, "its nodes are placed, none is launched"))
    }

    async fn delete(&self, _: &Value, _: Option<&Value>) -> Result<()> {
        Ok(())
    }

    async fn delete_resource(&self, _: &CloudResource) -> Result<()> {
        Ok(())
    }

    async fn host_keys(&self, node: &NodeId, address: &str) -> Option<Result<Vec<String>>> {
        let keys = self.fake.as_ref()?.host_keys(node, address).await?;
        let doing = format!("scanning the host keys of {address} for node {node}");
        Some(keys.map_err(|error| ProviderError::new(error.class, doing, error.to_string())))
    }
}
