//! [`Cloud`]: the few calls of an OpenStack that the driver makes.
//!
//! Everything above this trait (flavor choice, metadata, waiting, quota) is the same for the real cloud
//! (`client`), the simulated one (`fake::cloud`) and one behind a socket (`fake::remote`), as upstream's fake
//! driver reuses its openstack adapter. Servers are read from raw Nova JSON, tolerantly: one odd server must never
//! make a listing fail, as it does for upstream.

use std::{fmt, sync::Arc, time::Duration};

use async_trait::async_trait;
use nodepool_common::model::{LabelName, NodeId, PoolName};
use serde_json::{Map, Value};

use super::{
    Addressing, CloudError, ComputeLimits, CreateServer, Flavor, ImageService, Named, NetworkService, Server, Volume,
    VolumeLimits,
};
use crate::{ErrorClass, Scope};

/// What a driver needs of an OpenStack. Every call has its own deadline and, where repeating is harmless, its own
/// retries.
#[async_trait]
pub(crate) trait Cloud: ImageService + NetworkService + Send + Sync + fmt::Debug {
    /// Credentials, endpoints.
    async fn start(&self) -> Result<(), CloudError>;
    /// How often the list of servers is worth reading.
    fn pace(&self) -> Pace;
    /// Returns when the list of servers has changed since the last listing, where the cloud can tell.
    async fn changed(&self) {
        std::future::pending::<()>().await;
    }
    /// What the token of the last call is for. Where a server was made, [`Server::scope`] tells.
    fn scope(&self) -> Option<Scope> {
        None
    }
    /// Another number whenever its settings have been read anew: what is listed from then on may be another project's.
    fn generation(&self) -> u64 {
        0
    }
    async fn create_server(&self, create: &CreateServer) -> Result<Server, CloudError>;
    async fn list_servers(&self) -> Result<Vec<Arc<Server>>, CloudError>;
    /// One server, now; `None`: there is none. For faults, which listings may lack. `made_in`: as for
    /// [`Provider::delete`](crate::Provider::delete), here and below.
    async fn get_server(&self, id: &str, made_in: Option<&Value>) -> Result<Option<Arc<Server>>, CloudError> {
        let _ = made_in;
        Ok(self.list_servers().await?.into_iter().find(|server| server.id == id))
    }
    /// Whether the cloud has begun to make a server that it lists.
    async fn has_begun(&self, id: &str) -> Result<bool, CloudError> {
        let _ = id;
        Ok(true)
    }
    async fn delete_server(&self, id: &str, made_in: Option<&Value>) -> Result<(), CloudError>;
    /// Ends the time for which a cloud keeps a deleted server restorable.
    async fn delete_for_good(&self, id: &str, made_in: Option<&Value>) -> Result<(), CloudError> {
        self.delete_server(id, made_in).await
    }
    /// Those that are public, and those that the project was given.
    async fn list_flavors(&self) -> Result<Vec<Flavor>, CloudError>;
    /// Also the other private ones, where the user is an administrator.
    async fn list_all_flavors(&self) -> Result<Vec<Flavor>, CloudError> {
        self.list_flavors().await
    }
    /// An active image.
    async fn find_image(&self, name_or_id: &str) -> Result<Option<Named>, CloudError>;
    /// Names of those that are available.
    async fn availability_zones(&self) -> Result<Vec<String>, CloudError>;
    async fn compute_limits(&self) -> Result<ComputeLimits, CloudError>;
    /// Adds to a volume's metadata.
    async fn tag_volume(&self, id: &str, tags: &Map<String, Value>) -> Result<(), CloudError> {
        let _ = tags;
        Err(CloudError::new(ErrorClass::Bug, format!("this cloud has no volumes, so none {id}")))
    }
    /// `None`: a cloud without volumes.
    async fn volume_limits(&self) -> Result<Option<VolumeLimits>, CloudError>;
    /// Empty without volumes.
    async fn list_volumes(&self) -> Result<Vec<Volume>, CloudError> {
        Ok(Vec::new())
    }
    async fn delete_volume(&self, id: &str) -> Result<(), CloudError> {
        Err(CloudError::new(ErrorClass::Bug, format!("this cloud has no volumes, so none {id}")))
    }
    async fn console(&self, id: &str) -> Result<Option<String>, CloudError>;
    /// Answers in place of the driver's own rule, where a peer stands for the whole adapter.
    async fn label_ready(&self, pool: &PoolName, label: &LabelName) -> Option<Result<bool, CloudError>> {
        let _ = (pool, label);
        None
    }
    /// Answers in place of a scan.
    async fn host_keys(&self, node: &NodeId, address: &str) -> Option<Result<Vec<String>, CloudError>> {
        let _ = (node, address);
        None
    }
    /// How interface addresses are chosen.
    fn addressing(&self) -> Addressing {
        Addressing::default()
    }
    /// Whether it needs no clouds.yaml, although there may be one.
    fn is_simulated(&self) -> bool {
        false
    }
    /// The cloud's name for node records, where the configuration names none.
    fn cloud_name(&self) -> Option<String> {
        None
    }
}

/// How often the list of servers is read while somebody waits for a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Pace {
    /// After somebody begins to wait.
    pub first: Duration,
    /// While things change.
    pub busy: Duration,
    /// While nothing changes or the cloud fails.
    pub quiet: Duration,
    /// Between two calls, whatever happens.
    pub least: Duration,
    /// Whether the list is read when it will be news, by how long such things took before, rather than at intervals. Not
    /// where the cloud tells of changes, or is at the command of a test.
    pub learns: bool,
}
