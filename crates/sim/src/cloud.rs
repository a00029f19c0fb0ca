//! [`World`]'s clouds: servers that boot, fail, linger and vanish; a quota that others use as well; answers that are errors, late or
//! lost. [`Driver`] is what a launcher asks them by.
//!
//! Promises that are about them: **S2** nothing is deleted that another owner or a node has that somebody may use; what has no
//! record goes in the end (the world's last look).

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, VecDeque},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use nodepool_common::{
    config,
    model::{LabelName, NodeId, NodeState, PoolName, ProviderName, Resources},
    zk::SessionId,
};
use nodepool_drivers::{
    CloudImageSource, CloudResource, ErrorClass, Instance, Launch, LaunchProgress, NodeProfile, OtherClouds, Provider,
    ProviderError, Quota, ResourceKind,
};
use serde_json::{Map, Value, json};
use tokio::{sync::mpsc, time::Instant};

use super::{
    causes::Fault,
    chance::Chance,
    network::Calm,
    plan::{Plan, Trouble},
    story::{Story, broken, tell},
    truth::SharedTruth,
};

const CORES: f64 = 2.0;
const RAM: f64 = 2048.0;
/// How long a driver waits for a deletion.
const DELETION: Duration = Duration::from_secs(120);
/// A window in which failures of one call are counted, and how many a launcher may not have in one.
const WINDOW: Duration = Duration::from_secs(30);
const IN_A_WINDOW: usize = 20;
/// How many launches the quota may refuse a launcher in one: several begin at once, and each refusal makes the next ones wait.
const REFUSED_IN_A_WINDOW: usize = 40;
const STARTING: &str = "starting";
const READING_THE_QUOTA: &str = "reading the quota";
/// After so long nobody waits for a server.
const TOO_LONG: Duration = Duration::from_secs(250);
/// The metadata of others' servers.
const OTHERS: &str = "others";

/// A server.
#[derive(Clone, Debug)]
struct Server {
    node: Option<NodeId>,
    provider: String,
    metadata: Map<String, Value>,
    /// When it is active; `None`: never.
    active_at: Option<Instant>,
    /// It will be in error instead.
    fails: bool,
    /// When it is gone.
    gone_at: Option<Instant>,
}

/// One cloud, by the provider that leads to it.
#[derive(Debug)]
struct Cloud {
    servers: BTreeMap<String, Server>,
    quota: usize,
    next: u32,
    away_until: Option<Instant>,
    calls: u64,
}

/// All clouds. Clones are the same ones.
#[derive(Clone, Debug)]
pub struct Clouds {
    by_name: Arc<Mutex<BTreeMap<String, Cloud>>>,
    chance: Chance,
    plan: Plan,
    calm: Calm,
    story: Story,
    truth: SharedTruth,
    /// Who is to die as soon as it has had a server made.
    dies_at_creation: Arc<Mutex<BTreeSet<String>>>,
    deaths: mpsc::UnboundedSender<String>,
    /// When the same call of a process failed, of late.
    failures: Arc<Mutex<Failures>>,
}

/// The moments of failures, by process, provider and call.
type Failures = HashMap<(String, ProviderName, String), VecDeque<Instant>>;

/// A server of ours, for a look from outside.
#[derive(Clone, Debug)]
pub struct Seen {
    pub provider: String,
    pub id: String,
    pub node: NodeId,
}

impl Clouds {
    /// Those of a history; and who dies while it has a server made.
    pub fn new(plan: &Plan, calm: Calm, story: Story, truth: SharedTruth) -> (Self, mpsc::UnboundedReceiver<String>) {
        let (deaths, dying) = mpsc::unbounded_channel();
        let new = || Cloud { servers: BTreeMap::new(), quota: plan.quota, next: 0, away_until: None, calls: 0 };
        let clouds = plan.providers().into_iter().map(|name| (name.to_owned(), new())).collect();
        let clouds = Self {
            by_name: Arc::new(Mutex::new(clouds)),
            chance: Chance::of(plan.seed, "clouds"),
            plan: plan.clone(),
            calm,
            story,
            truth,
            dies_at_creation: Arc::default(),
            deaths,
            failures: Arc::default(),
        };
        (clouds, dying)
    }

    fn open(&self) -> MutexGuard<'_, BTreeMap<String, Cloud>> {
        self.by_name.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One cloud, without what is gone by now.
    fn with<T>(&self, provider: &str, act: impl FnOnce(&mut Cloud) -> T) -> T {
        let mut clouds = self.open();
        let cloud = clouds.get_mut(provider).unwrap();
        let now = Instant::now();
        cloud.servers.retain(|_, server| server.gone_at.is_none_or(|at| at > now));
        act(cloud)
    }

    /// Whether something goes wrong now, which does once in that many times.
    fn goes_wrong(&self, trouble: Trouble, times: usize) -> bool {
        self.plan.has(trouble) && !self.calm.is_now() && self.chance.one_in(times)
    }

    /// A process is to die when its next server has been made.
    pub fn kill_at_creation(&self, process: &str) {
        self.dies_at_creation.lock().unwrap_or_else(PoisonError::into_inner).insert(process.to_owned());
    }

    /// A cloud is away for a while.
    pub fn go_away(&self, provider: &str, pause: Duration) {
        tell!(self.story, "cloud {provider}: away for {} s", pause.as_secs());
        self.with(provider, |cloud| cloud.away_until = Some(Instant::now() + pause));
    }

    /// Others use so many servers from now on.
    pub fn others(&self, provider: &str, count: usize) {
        tell!(self.story, "cloud {provider}: others have {count} servers");
        self.truth.open().causes.others(provider, count);
        self.with(provider, |cloud| {
            cloud.servers.retain(|_, server| server.node.is_some());
            for _ in 0..count {
                let server = Server {
                    node: None,
                    provider: provider.to_owned(),
                    metadata: Map::from_iter([("owner".to_owned(), json!(OTHERS))]),
                    active_at: Some(Instant::now()),
                    fails: false,
                    gone_at: None,
                };
                let id = cloud.new_id(provider);
                cloud.servers.insert(id, server);
            }
        });
    }

    /// One of our servers vanishes.
    pub fn lose_a_server(&self, chance: &Chance) {
        let ours = self.ours();
        if ours.is_empty() {
            return;
        }
        let Seen { provider, id, node } = chance.pick(&ours);
        tell!(self.story, "cloud {provider}: server {id} of node {node} vanishes");
        self.with(provider, |cloud| cloud.servers.remove(id));
    }

    /// Troubles are over.
    pub fn calm_down(&self) {
        for provider in self.plan.providers() {
            self.truth.open().causes.others(provider, 0);
            self.with(provider, |cloud| {
                cloud.away_until = None;
                cloud.servers.retain(|_, server| server.node.is_some());
            });
        }
    }

    /// Our servers.
    pub fn ours(&self) -> Vec<Seen> {
        let mut seen = Vec::new();
        for provider in self.plan.providers() {
            self.with(provider, |cloud| {
                for (id, server) in &cloud.servers {
                    if let Some(node) = &server.node {
                        seen.push(Seen { provider: server.provider.clone(), id: id.clone(), node: node.clone() });
                    }
                }
            });
        }
        seen
    }

    /// Whether there is a server of that id.
    pub fn has_server(&self, id: &str) -> bool {
        let now = Instant::now();
        let is_there = |server: &Server| server.gone_at.is_none_or(|at| at > now);
        self.open().values().any(|cloud| cloud.servers.get(id).is_some_and(is_there))
    }

    /// How often they were asked so far.
    pub fn calls(&self) -> u64 {
        self.open().values().map(|cloud| cloud.calls).sum()
    }

    /// Drivers of one process.
    pub fn of_process(&self, process: &str, is_dead: Arc<AtomicBool>) -> Arc<dyn OtherClouds> {
        Arc::new(OfProcess { clouds: self.clone(), process: process.to_owned(), is_dead })
    }
}

impl Cloud {
    fn new_id(&mut self, provider: &str) -> String {
        self.next += 1;
        format!("{provider}-server-{}", self.next)
    }

    fn resources(&self) -> impl Iterator<Item = CloudResource> {
        self.servers.iter().map(|(id, server)| CloudResource {
            kind: ResourceKind::Instance,
            id: id.clone(),
            metadata: (&server.metadata).into(),
            resources: of_a_server(),
        })
    }
}

fn of_a_server() -> Resources {
    Resources::new().with("instances", 1.0).with("cores", CORES).with("ram", RAM)
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

/// A driver of the model clouds.
#[derive(Debug)]
struct Driver {
    name: ProviderName,
    clouds: Clouds,
    process: String,
    is_dead: Arc<AtomicBool>,
    /// When the servers were listed last, and which there were.
    listed: Mutex<Option<(Instant, BTreeSet<String>)>>,
}

impl Driver {
    fn error(&self, class: ErrorClass, doing: &str, why: &str) -> ProviderError {
        ProviderError::new(class, format!("{doing} in provider {}", self.name), why.to_owned())
    }

    fn with<T>(&self, act: impl FnOnce(&mut Cloud) -> T) -> T {
        self.clouds.with(self.name.as_str(), act)
    }

    /// Nothing is heard of a process that was killed.
    async fn live(&self) {
        if self.is_dead.load(Ordering::SeqCst) {
            std::future::pending::<()>().await;
        }
    }

    /// A call about one server, or one that is made by itself, has failed: it is made again after pauses that grow.
    fn may_ask_again(&self, doing: &str) {
        if doing.contains(" server ") || [STARTING, READING_THE_QUOTA].contains(&doing) {
            self.may_repeat(doing, IN_A_WINDOW);
        }
    }

    /// Nothing fails more often than that within [`WINDOW`].
    fn may_repeat(&self, doing: &str, most: usize) {
        let mut failures = self.clouds.failures.lock().unwrap_or_else(PoisonError::into_inner);
        let of_late = failures.entry((self.process.clone(), self.name.clone(), doing.to_owned())).or_default();
        of_late.push_back(Instant::now());
        of_late.retain(|at| at.elapsed() < WINDOW);
        if of_late.len() == most {
            let (story, seconds) = (&self.clouds.story, WINDOW.as_secs());
            broken!(story, "no busy loop", "{}: {doing}: fails {most} times in {seconds} s", self.process);
        }
    }

    /// What each call begins with: it takes its time, and may come to nothing.
    async fn call(&self, doing: &str) -> Result<(), ProviderError> {
        let clouds = &self.clouds;
        self.live().await;
        self.with(|cloud| cloud.calls += 1);
        let hangs = clouds.goes_wrong(Trouble::Hangs, 60);
        let takes = if hangs { clouds.chance.seconds(30.0, 200.0) } else { clouds.chance.seconds(0.02, 0.8) };
        tokio::time::sleep(takes).await;
        self.live().await;
        let fails = |away: bool, class, why: &str| {
            tell!(clouds.story, "cloud {}: {}: {doing}: {why}", self.name, self.process);
            self.may_ask_again(doing);
            Err(ProviderError { away, ..self.error(class, doing, why) })
        };
        if self.with(|cloud| cloud.away_until.is_some_and(|until| until > Instant::now())) {
            clouds.truth.open().causes.away(self.name.as_str());
            return fails(true, ErrorClass::Transient, "503 Service Unavailable");
        }
        if hangs {
            // As far as anybody can tell.
            clouds.truth.open().causes.away(self.name.as_str());
            return fails(true, ErrorClass::Timeout, "no answer");
        }
        if clouds.goes_wrong(Trouble::CloudErrors, 15) {
            return fails(false, ErrorClass::Transient, "500 Internal Server Error");
        }
        Ok(())
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
        if lingers && let Some(node) = &server.node {
            clouds.truth.open().causes.fault(node, Fault::Deletion);
        }
        true
    }

    /// S2: what is removed as leaked is none of what somebody looks after, and was not when the cloud was listed.
    fn may_remove(&self, id: &str) {
        let Some(node) = self.with(|cloud| cloud.servers.get(id).and_then(|server| server.node.clone())) else {
            return;
        };
        let listed = self.listed.lock().unwrap_or_else(PoisonError::into_inner).as_ref().map(|(at, _)| *at);
        let truth = self.clouds.truth.open();
        let why = if let Some(record) = truth.nodes.get(&node) {
            let is_another = record.external_id_text().is_some_and(|other| other != id);
            let is_left = is_another && record.state != NodeState::Building;
            (!is_left).then(|| format!("is there, {}", record.state.as_str()))
        } else {
            let was_there = truth.gone_at(&node).zip(listed).is_some_and(|(gone, listed)| gone >= listed);
            was_there.then(|| "was there when the cloud was listed".to_owned())
        };
        if let Some(why) = why {
            let story = &self.clouds.story;
            broken!(story, "S2", "{} removes server {id} as leaked: its node {node} {why}", self.process);
        }
    }

    /// How many servers there are that no record names.
    fn note_others(&self) {
        let servers: Vec<_> =
            self.with(|cloud| cloud.servers.iter().map(|(id, server)| (id.clone(), server.node.clone())).collect());
        let mut truth = self.clouds.truth.open();
        let is_others = |(id, node): &&(String, Option<NodeId>)| {
            let record = node.as_ref().and_then(|node| truth.nodes.get(node));
            record.is_none_or(|record| record.external_id_text() != Some(id))
        };
        let others = servers.iter().filter(is_others).count();
        truth.causes.others(self.name.as_str(), others);
    }

    /// An attempt to launch a node has come to nothing.
    fn spoiled(&self, node: &NodeId, error: &ProviderError) {
        let fault = match error.class {
            ErrorClass::Quota => return,
            ErrorClass::Capacity => Fault::Elsewhere,
            _ if error.away => Fault::Elsewhere,
            _ => Fault::Attempt,
        };
        self.clouds.truth.open().causes.fault(node, fault);
    }

    /// S2: nothing that another owner uses is deleted.
    fn may_delete(&self, id: &str, server: &Server) {
        let Some(node) = &server.node else {
            broken!(self.clouds.story, "S2", "{} deletes server {id}, which is not ours", self.process);
            return;
        };
        let truth = self.clouds.truth.open();
        let Some(record) = truth.nodes.get(node) else { return };
        let is_its = record.external_id.as_ref().and_then(Value::as_str) == Some(id);
        if is_its && matches!(record.state, NodeState::Ready | NodeState::InUse | NodeState::Hold) {
            let state = record.state.as_str();
            broken!(self.clouds.story, "S2", "{} deletes server {id} of node {node}, which is {state}", self.process);
        }
    }

    /// S2: a server that was made is on record as soon as its maker knows it: who comes after a maker that dies finds it there.
    fn is_on_record(&self, node: &NodeId, id: &str) {
        use Trouble::{AnswersLost, Breaks, Expiry, LocksBroken, RequestsLost};
        if [AnswersLost, RequestsLost, Breaks, Expiry, LocksBroken].into_iter().any(|of| self.clouds.plan.has(of)) {
            // A write may have failed.
            return;
        }
        let truth = self.clouds.truth.open();
        let holder = truth.holder_of_node(node).map(|session| truth.owner(SessionId(session)));
        let Some(record) = truth.nodes.get(node).filter(|_| holder == Some(&self.process)) else { return };
        if record.external_id_text() != Some(id) {
            broken!(self.clouds.story, "S2", "{} does not put server {id} on record of node {node}", self.process);
        }
    }

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

    /// S3: who is alone asks for no more than there is, where all servers are on record.
    fn may_be_refused(&self, node: &NodeId) {
        let servers: Vec<_> = self.with(|cloud| cloud.servers.values().map(|server| server.node.clone()).collect());
        let truth = self.clouds.truth.open();
        let is_known = |of: &Option<NodeId>| of.as_ref().is_some_and(|of| truth.nodes.contains_key(of));
        if truth.is_alone && servers.iter().all(is_known) {
            let count = servers.len();
            broken!(self.clouds.story, "S3", "{} launches node {node}, there are {count} servers", self.process);
        }
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

    async fn attempt(&self, launch: &Launch, progress: &dyn LaunchProgress) -> Result<Instance, ProviderError> {
        let clouds = &self.clouds;
        let doing = format!("creating server {}", launch.hostname);
        self.call(&doing).await?;
        let id = self.create(launch)?;
        let dies = clouds.dies_at_creation.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.process);
        if dies {
            self.is_dead.store(true, Ordering::SeqCst);
            let _ = clouds.deaths.send(self.process.clone());
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
struct Attempt<'a> {
    driver: &'a Driver,
    node: &'a NodeId,
    /// `None`: it has ended.
    too_long: Option<Instant>,
}

impl Drop for Attempt<'_> {
    fn drop(&mut self) {
        if self.too_long.is_some_and(|too_long| too_long <= Instant::now()) {
            self.driver.clouds.truth.open().causes.fault(self.node, Fault::Attempt);
        }
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
        self.call(&doing).await?;
        let began = Instant::now();
        while self.remove(id) {
            if began.elapsed() > DELETION {
                return Err(self.error(ErrorClass::Timeout, &doing, "it is still there"));
            }
            tokio::time::sleep(Duration::from_secs(1)).await;
            self.live().await;
        }
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
