//! Static hosts: a look at one, its nodes registered and brought up to date (`nodepool 11.0.0: driver/static/provider.py`).
//!
//! What is to be done is decided in [`plan::hosts`](crate::plan). A host that cannot be reached, or shows other keys than
//! its configuration says, has no ready nodes until it does; that is found out here, and when one of its nodes is about
//! to be handed out. It pauses nothing and nobody.
//!
//! sshd counts connections without a login against the address that they come from, and refuses it in the end
//! (`PerSourcePenalties`, on by default since OpenSSH 9.8). So a host whose keys are known, from the configuration or from
//! an earlier look, is asked for those only, and one that was in order a moment ago is taken for alive.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use nodepool_common::{
    config::StaticHost,
    model::{Node, NodeId, NodeState},
    zk::{Held, ZkError},
};
use serde_json::json;
use tokio::{
    net::{TcpStream, lookup_host},
    time::Instant,
};
use tracing::{info, warn};

use super::{
    Launcher,
    clouds::Cloud,
    events::{Outcome, Reports},
};
use crate::{
    nodescan::{ScanError, Target},
    plan::{HostKey, PoolKey, free_slots, host_of},
};

/// How long a host that speaks SSH counts as alive after it was.
const ALIVE_FOR: Duration = Duration::from_secs(5);

pub(super) const LOGGER: &str = "nodepool.driver.static.StaticNodeProvider";

/// Static hosts that speak SSH, as they were when they were last connected to and in order.
#[derive(Debug, Default)]
pub struct HostsMet(Mutex<HashMap<HostKey, Met>>);

/// What is known of a static host since it was last connected to.
#[derive(Debug)]
struct Met {
    /// Its configuration then.
    host: Arc<StaticHost>,
    /// The host keys that it has.
    keys: Vec<String>,
    /// When.
    at: Instant,
}

impl HostsMet {
    fn open(&self) -> MutexGuard<'_, HashMap<HostKey, Met>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A host was connected to and is in order.
    fn meets(&self, key: &HostKey, host: &Arc<StaticHost>, keys: &[String]) {
        self.open().insert(key.clone(), Met { host: Arc::clone(host), keys: keys.to_vec(), at: Instant::now() });
    }

    /// When that was last so, and the keys that it had; `None` where its configuration was another one then.
    fn last(&self, key: &HostKey, host: &Arc<StaticHost>) -> Option<(Instant, Vec<String>)> {
        let met = self.open();
        met.get(key).filter(|met| met.host == *host).map(|met| (met.at, met.keys.clone()))
    }

    /// It is not in order any more.
    fn forget(&self, key: &HostKey) {
        self.open().remove(key);
    }
}

/// What a look at a host has told.
#[derive(Debug)]
struct Look {
    keys: Vec<String>,
    /// By a connection of ours.
    connected: bool,
    public_ipv4: Option<String>,
    public_ipv6: Option<String>,
}

impl Launcher {
    /// Looks at a host, registers what is missing and brings what is there up to date.
    pub(super) async fn attend(
        &self,
        pool: &PoolKey,
        host: &Arc<StaticHost>,
        missing: &[usize],
        reports: &Reports,
    ) -> Result<Outcome, ZkError> {
        let Some(cloud) = self.clouds.get(&pool.provider) else { return Ok(Outcome::Done) };
        let key = HostKey { provider: pool.provider.clone(), host: host.id.clone() };
        let name = format!("host {} of {pool}", host.id);
        let met = self.hosts_met.last(&key, host).map(|(_, keys)| keys).unwrap_or_default();
        let look = match look_at(&cloud, host, &met).await {
            Ok(look) => {
                if look.connected && host.has_host_keys() {
                    self.hosts_met.meets(&key, host, &look.keys);
                }
                look
            }
            Err(why) => return Ok(self.out_of_reach(&key, &name, why, reports).await),
        };
        // Looking takes a while: another launcher may have been started meanwhile, and registers what is missing.
        if !self.is_keeper_of(&pool.provider) {
            return Ok(Outcome::HostSeen { registered: false });
        }
        for id in self.ready_nodes(&key) {
            self.bring_up_to_date(&id, pool, host, &look, reports).await?;
        }
        let Some(attributes) = self.config().providers.get(&pool.provider).and_then(|provider| {
            let pool = provider.pool(&pool.pool)?;
            Some(pool.node_attributes.clone())
        }) else {
            return Ok(Outcome::HostSeen { registered: false });
        };
        let free = self.zk.cache().read(|records| free_slots(records, &key, host));
        for slot in missing.iter().filter(|slot| free.contains(slot)) {
            let mut node = Node::new(self.clock.now());
            node.provider = Some(pool.provider.clone());
            node.launcher = Some("static driver".into());
            node.external_id = Some(json!(host.id.name));
            node.hostname = Some(host.id.name.clone());
            node.interface_ip = Some(host.id.name.clone());
            node.username = Some(host.id.username.as_str().into());
            node.connection_port = json!(host.id.port);
            node.slot = i64::try_from(*slot).ok();
            node.attributes.clone_from(&attributes);
            describe(&mut node, pool, host, &look);
            // The next pass sees to what is left.
            if reports.is_over() || !self.is_keeper_of(&pool.provider) {
                return Ok(Outcome::HostSeen { registered: false });
            }
            let id = self.in_session(reports).create_ready_node(node).await?;
            info!(logger = %logger(pool), node = %id, "Registered {name}, slot {slot}");
        }
        Ok(Outcome::HostSeen { registered: true })
    }

    /// A host that cannot be used: its ready nodes go, and it is looked at again later. A node that cannot be taken away now
    /// changes nothing of that, and the next look tries it again. Until then it may be handed out: of a host whose keys are
    /// checked not before that host was found to answer ([`Self::is_alive`]), of any other without a look.
    async fn out_of_reach(&self, key: &HostKey, name: &str, why: String, reports: &Reports) -> Outcome {
        self.hosts_met.forget(key);
        let mut failed = None;
        for id in self.ready_nodes(key) {
            if let Err(error) = self.retire(&id, &format!("{name} cannot be used: {why}"), reports).await {
                failed.get_or_insert(error);
            }
        }
        Outcome::HostOutOfReach { why, failed }
    }

    /// The nodes of a host that are ready and that nobody has, as far as is known.
    fn ready_nodes(&self, key: &HostKey) -> Vec<NodeId> {
        self.zk.cache().read(|records| {
            let of_host = records.nodes.iter().filter(|(_, entry)| {
                entry.usable().is_some_and(|node| {
                    node.provider.as_ref() == Some(&key.provider)
                        && node.state == NodeState::Ready
                        && node.allocated_to.is_none()
                        && host_of(node).as_ref() == Some(&key.host)
                })
            });
            of_host.filter(|(_, entry)| !entry.is_locked()).map(|(id, _)| id.clone()).collect()
        })
    }

    async fn bring_up_to_date(
        &self,
        id: &NodeId,
        pool: &PoolKey,
        host: &StaticHost,
        look: &Look,
        reports: &Reports,
    ) -> Result<(), ZkError> {
        let known = self.zk.cache().read(|records| records.nodes.get(id).and_then(|entry| entry.usable()).cloned());
        let is_current = |node: &Node| {
            let mut as_it_should_be = node.clone();
            describe(&mut as_it_should_be, pool, host, look);
            *node == as_it_should_be
        };
        if known.is_none_or(|node| is_current(&node)) {
            return Ok(());
        }
        // Who has it now gets it as it is.
        let Some(held) = self.in_session(reports).try_lock_node(id).await?.held() else { return Ok(()) };
        let node = held.record();
        if node.state != NodeState::Ready || node.allocated_to.is_some() || is_current(node) {
            return held.unlock().await;
        }
        info!(logger = %logger(pool), node = %id, "Bringing the node of host {} up to date", host.id);
        held.update_and_unlock(|node| describe(node, pool, host, look)).await.map_err(Into::into)
    }

    /// Whether a static node that is about to be handed out can be reached. One that cannot is given up: its record
    /// says so, and its host is looked at again. Other nodes are taken for alive.
    pub(super) async fn is_alive(&self, held: Held<Node>) -> Result<Option<Held<Node>>, ZkError> {
        let node = Arc::clone(held.record());
        let config = self.config();
        let found = node.provider.as_ref().and_then(|provider| {
            let pool = config.providers.get(provider)?.pool(node.pool.as_ref()?)?;
            let hosts = pool.hosts.as_ref()?;
            let id = host_of(&node);
            Some((provider.clone(), hosts.iter().find(|host| Some(&host.id) == id.as_ref()).cloned()))
        });
        let Some((provider, host)) = found else { return Ok(Some(held)) };
        let why = match &host {
            None => "its host is not in the configuration any more".to_owned(),
            Some(host) if !host.host_key_checking => return Ok(Some(held)),
            Some(host) => {
                let Some(cloud) = self.clouds.get(&provider) else { return Ok(Some(held)) };
                let key = HostKey { provider: provider.clone(), host: host.id.clone() };
                let met = self.hosts_met.last(&key, host);
                if met.as_ref().is_some_and(|(at, _)| at.elapsed() < ALIVE_FOR) {
                    return Ok(Some(held));
                }
                match try_port(&cloud, host).await {
                    Ok(()) => {
                        if let Some((_, keys)) = met {
                            self.hosts_met.meets(&key, host, &keys);
                        }
                        return Ok(Some(held));
                    }
                    Err(why) => why,
                }
            }
        };
        warn!(
            logger = LOGGER,
            node = %node.id,
            "Node {} of provider {provider} cannot be handed out, it is given up: {why}",
            node.hostname.as_deref().unwrap_or_default()
        );
        held.update_and_unlock(|node| node.set_state(NodeState::Deleting, self.clock.now())).await?;
        Ok(None)
    }
}

/// What of a record may change while the node is the same one.
fn describe(node: &mut Node, pool: &PoolKey, host: &StaticHost, look: &Look) {
    node.pool = Some(pool.pool.clone());
    node.labels.clone_from(&host.labels);
    node.connection_type = Some(host.connection_type.as_str().into());
    node.shell_type = host.shell_type.as_deref().map(Into::into);
    node.python_path = Some(host.python_path.as_str().into());
    node.host_keys.clone_from(&look.keys);
    node.public_ipv4.clone_from(&look.public_ipv4);
    node.public_ipv6.clone_from(&look.public_ipv6);
}

fn logger(pool: &PoolKey) -> String {
    format!("{LOGGER}.{pool}")
}

/// Resolves a host's name, and sees whether it answers and shows the keys that it should. `met`: those that it had when it
/// was last looked at. The error is for people.
async fn look_at(cloud: &Cloud, host: &StaticHost, met: &[String]) -> Result<Look, String> {
    if host.has_host_keys() && !host.host_key_checking {
        // Nobody looks at it; its name has to be good all the same.
        let (public_ipv4, public_ipv6) =
            if host.id.name.contains("fake") { (None, None) } else { addresses(host).await? };
        return Ok(Look { keys: host.host_keys.clone(), connected: false, public_ipv4, public_ipv6 });
    }
    let told = cloud.provider.host_keys(&NodeId::from(""), &host.id.name).await;
    let connected = told.is_none();
    let (keys, public_ipv4, public_ipv6) = if let Some(keys) = told {
        (keys.map_err(|error| error.to_string())?, None, None)
    } else {
        let (public_ipv4, public_ipv6) = addresses(host).await?;
        let target = Target {
            address: host.id.name.clone(),
            port: host.id.port,
            connection_type: host.connection_type.clone(),
            host_key_checking: true,
        };
        let keys = keys_of(cloud, host, &target, met).await?;
        (keys, public_ipv4, public_ipv6)
    };
    if !host.has_host_keys() {
        return Ok(Look { keys: Vec::new(), connected, public_ipv4, public_ipv6 });
    }
    if let Some(lacking) = host.host_keys.iter().find(|key| !keys.contains(key)) {
        let shown = if keys.is_empty() { "none".to_owned() } else { keys.join(", ") };
        return Err(format!("its host-key {lacking} is not among the keys that it shows: {shown}"));
    }
    Ok(Look { keys, connected, public_ipv4, public_ipv6 })
}

/// The keys of a host, with as few connections as will do: one for each that the configuration names; one where the keys
/// are those of the last look; else one for each that it has.
async fn keys_of(cloud: &Cloud, host: &StaticHost, target: &Target, met: &[String]) -> Result<Vec<String>, String> {
    let (nodescan, timeout) = (&cloud.nodescan, host.timeout);
    let reason = |error: ScanError| error.last_reason();
    if !host.has_host_keys() {
        return nodescan.scan(target, timeout).await.map_err(reason);
    }
    if !host.host_keys.is_empty() {
        return nodescan.confirm(target, &host.host_keys, timeout).await.map_err(reason);
    }
    if let Some(first) = met.first()
        && nodescan.confirm(target, std::slice::from_ref(first), timeout).await.map_err(reason)?.contains(first)
    {
        return Ok(met.to_vec());
    }
    nodescan.scan(target, timeout).await.map_err(reason)
}

/// Whether a host's port accepts connections, when a node is handed out.
async fn try_port(cloud: &Cloud, host: &StaticHost) -> Result<(), String> {
    if let Some(told) = cloud.provider.host_keys(&NodeId::from(""), &host.id.name).await {
        return told.map(|_| ()).map_err(|error| error.to_string());
    }
    let connecting = TcpStream::connect((host.id.name.as_str(), host.id.port));
    match tokio::time::timeout(host.timeout, connecting).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(error)) => Err(format!("{}: {error}", host.id)),
        Err(_) => Err(format!("{}: no answer within {} s", host.id, seconds(host.timeout))),
    }
}

/// The first address of a host's name, which goes into the record.
async fn addresses(host: &StaticHost) -> Result<(Option<String>, Option<String>), String> {
    let lookup = tokio::time::timeout(host.timeout, lookup_host((host.id.name.as_str(), host.id.port))).await;
    let found = match lookup {
        Ok(Ok(mut found)) => found.next(),
        Ok(Err(error)) => return Err(format!("its name cannot be resolved: {error}")),
        Err(_) => return Err(format!("its name cannot be resolved within {} s", seconds(host.timeout))),
    };
    match found.map(|address| address.ip()) {
        Some(std::net::IpAddr::V4(address)) => Ok((Some(address.to_string()), None)),
        Some(std::net::IpAddr::V6(address)) => Ok((None, Some(address.to_string()))),
        None => Err("its name has no address".to_owned()),
    }
}

fn seconds(time: Duration) -> f64 {
    time.as_secs_f64()
}
