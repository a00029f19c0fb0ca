//! [`Cloud`]: one cloud, its servers and its quota.

use std::collections::BTreeMap;

use nodepool_common::model::{NodeId, Resources};
use nodepool_drivers::{CloudResource, ResourceKind};
use serde_json::{Map, Value};
use tokio::time::Instant;

const CORES: f64 = 2.0;
const RAM: f64 = 2048.0;

/// A server.
#[derive(Clone, Debug)]
pub struct Server {
    pub node: Option<NodeId>,
    pub provider: String,
    pub metadata: Map<String, Value>,
    /// When it is active; `None`: never.
    pub active_at: Option<Instant>,
    /// It will be in error instead.
    pub fails: bool,
    /// When it is gone.
    pub gone_at: Option<Instant>,
}

/// One cloud, by the provider that leads to it.
#[derive(Debug)]
pub struct Cloud {
    pub servers: BTreeMap<String, Server>,
    pub quota: usize,
    pub next: u32,
    pub away_until: Option<Instant>,
    pub calls: u64,
}

impl Cloud {
    /// An id that no server has had yet.
    pub fn new_id(&mut self, provider: &str) -> String {
        self.next += 1;
        format!("{provider}-server-{}", self.next)
    }

    /// What it lists.
    pub fn resources(&self) -> impl Iterator<Item = CloudResource> {
        self.servers.iter().map(|(id, server)| CloudResource {
            kind: ResourceKind::Instance,
            id: id.clone(),
            metadata: (&server.metadata).into(),
            resources: of_a_server(),
        })
    }
}

/// What each server takes.
pub fn of_a_server() -> Resources {
    Resources::new().with("instances", 1.0).with("cores", CORES).with("ram", RAM)
}
