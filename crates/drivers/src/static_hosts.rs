//! The driver `static`: hosts that are there already. It launches and deletes nothing.
//!
//! What is special about such nodes is in their records, so it is the launcher's business (`plan::hosts`, `run::hosts`).
//! Left here: that nothing is done in any cloud, and the hosts whose keys a simulated cloud tells (upstream's tests have
//! such, as its own scan does: a name with `fake` in it).

use async_trait::async_trait;
use nodepool_common::model::{LabelName, NodeId, PoolName, ProviderName, Resources};
use serde_json::Value;

use crate::{
    CloudResource, Context, ErrorClass, Instance, Launch, LaunchProgress, NodeProfile, Provider, ProviderError, Quota,
    fake::remote::RemoteCloud, openstack::api::Cloud as _,
};

type Result<T> = std::result::Result<T, ProviderError>;

/// See the module's comment.
#[derive(Debug)]
pub struct StaticProvider {
    name: ProviderName,
    fake: Option<RemoteCloud>,
}

impl StaticProvider {
    /// One for these hosts.
    pub fn new(name: ProviderName, context: &Context) -> Self {
        let fake = context.variable("NODEPOOL_FAKE_CLOUD").map(|address| RemoteCloud::new(name.clone(), address));
        Self { name, fake }
    }

    fn nothing_to_launch(&self, label: &LabelName) -> ProviderError {
        let doing = format!("launching a node of label {label} in provider {}", self.name);
        ProviderError::new(ErrorClass::Bug, doing, "its nodes are there or not, none is launched")
    }
}

#[async_trait]
impl Provider for StaticProvider {
    fn name(&self) -> &ProviderName {
        &self.name
    }

    async fn start(&self) -> Result<()> {
        Ok(())
    }

    fn profile(&self, _: &PoolName, label: &LabelName) -> Result<NodeProfile> {
        Err(self.nothing_to_launch(label))
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
        Err(self.nothing_to_launch(&launch.label))
    }

    async fn delete(&self, _: &Value, _: Option<&Value>) -> Result<()> {
        Ok(())
    }

    async fn delete_resource(&self, _: &CloudResource) -> Result<()> {
        Ok(())
    }

    async fn host_keys(&self, node: &NodeId, address: &str) -> Option<Result<Vec<String>>> {
        let keys = self.fake.as_ref()?.host_keys(node, address).await?;
        let doing = format!("looking at host {address} of provider {}", self.name);
        Some(keys.map_err(|error| ProviderError::new(ErrorClass::Timeout, doing, error.to_string())))
    }
}
