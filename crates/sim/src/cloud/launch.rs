//! How a server comes to be: made as far as there is room, put on record, and waited for until it is active.

use std::{sync::atomic::Ordering, time::Duration};

use nodepool_common::model::NodeId;
use nodepool_drivers::{ErrorClass, Instance, Launch, LaunchProgress, ProviderError};
use serde_json::json;
use tokio::time::Instant;

use super::{
    super::{
        causes::Fault,
        plan::Trouble,
        story::{broken, tell},
    },
    driver::Driver,
    servers::{Server, of_a_server},
};

/// How many launches the quota may refuse a launcher in one: several begin at once, and each refusal makes the next ones wait.
const REFUSED_IN_A_WINDOW: usize = 40;
/// After so long nobody waits for a server.
pub const TOO_LONG: Duration = Duration::from_secs(250);

impl Driver {
    /// Makes a server, as far as the cloud has room.
    fn create(&self, launch: &Launch) -> Result<String, ProviderError> {
        let clouds = &self.clouds;
        let doing = format!("creating server {}", launch.hostname);
        if clouds.goes_wrong(Trouble::NoRoom, 6) {
            tell!(clouds.story, "cloud {}: no room for node {}", self.name, launch.node);
            return Err(self.error(ErrorClass::Capacity, &doing, "No valid host was found"));
        }
        let boots = clouds.chance.seconds(4.0, 60.0);
        let never = clouds.goes_wrong(Trouble::BootsFail, 12);
        let fails = clouds.goes_wrong(Trouble::BootsFail, 8);
        let metadata = launch.metadata(&self.name).map(|(name, value)| (name.to_owned(), json!(value)));
        let server = Server {
            node: Some(launch.node.clone()),
            provider: self.name.to_string(),
            metadata: metadata.into_iter().collect(),
            active_at: (!never).then(|| Instant::now() + boots),
            fails,
            gone_at: None,
        };
        let another = self.with(|cloud| {
            let is_its = |server: &&Server| server.node.as_ref() == Some(&launch.node) && server.gone_at.is_none();
            cloud.servers.values().any(|server| is_its(&server))
        });
        if another {
            broken!(clouds.story, "S3", "{} makes another server for node {}", self.process, launch.node);
        }
        let made = self.with(|cloud| {
            if cloud.servers.len() >= cloud.quota {
                return None;
            }
            let id = cloud.new_id(self.name.as_str());
            cloud.servers.insert(id.clone(), server);
            Some(id)
        });
        let Some(id) = made else {
            self.may_be_refused(&launch.node);
            self.may_repeat("launching beyond the quota", REFUSED_IN_A_WINDOW);
            tell!(clouds.story, "cloud {}: the quota is used up, no server for node {}", self.name, launch.node);
            return Err(self.error(ErrorClass::Quota, &doing, "Quota exceeded for instances"));
        };
        tell!(clouds.story, "cloud {}: {} makes server {id} for node {}", self.name, self.process, launch.node);
        Ok(id)
    }

    /// One attempt, from the call to the active server.
    pub async fn attempt(&self, launch: &Launch, progress: &dyn LaunchProgress) -> Result<Instance, ProviderError> {
        let clouds = &self.clouds;
        let doing = format!("creating server {}", launch.hostname);
        self.call(&doing).await?;
        let id = self.create(launch)?;
        if clouds.dies_now(&self.process) {
            self.is_dead.store(true, Ordering::SeqCst);
        }
        self.live().await;
        if clouds.goes_wrong(Trouble::CreationsLost, 6) {
            tell!(clouds.story, "cloud {}: the answer about server {id} is lost", self.name);
            return Err(self.error(ErrorClass::Transient, &doing, "the connection broke before the answer came"));
        }
        tokio::time::sleep(clouds.chance.seconds(0.01, 0.5)).await;
        self.live().await;
        progress.created(json!(id), None).await;
        self.live().await;
        self.is_on_record(&launch.node, &id);
        loop {
            self.live().await;
            let now = Instant::now();
            let server = self.with(|cloud| cloud.servers.get(&id).cloned());
            let Some(server) = server.filter(|server| server.gone_at.is_none()) else {
                return Err(self.error(ErrorClass::Gone, &doing, "the server is gone"));
            };
            if server.active_at.is_some_and(|at| at <= now) {
                if server.fails {
                    tell!(clouds.story, "cloud {}: server {id} is in error", self.name);
                    return Err(self.error(ErrorClass::Transient, &doing, "the server is in ERROR"));
                }
                break;
            }
            let next = server.active_at.unwrap_or(now + Duration::from_secs(5));
            tokio::time::sleep_until(next.min(now + Duration::from_secs(5))).await;
        }
        let address = Some(format!("address of {id}"));
        Ok(Instance {
            external_id: json!(id),
            interface_ip: address.clone(),
            public_ipv4: address,
            resources: of_a_server(),
            ..Instance::default()
        })
    }
}

/// An attempt to launch a node; dropped after too long a time, it has come to nothing.
pub struct Attempt<'a> {
    pub driver: &'a Driver,
    pub node: &'a NodeId,
    /// `None`: it has ended.
    pub too_long: Option<Instant>,
}

impl Drop for Attempt<'_> {
    fn drop(&mut self) {
        if self.too_long.is_some_and(|too_long| too_long <= Instant::now()) {
            self.driver.clouds.truth.open().causes.fault(self.node, Fault::Attempt);
        }
    }
}
