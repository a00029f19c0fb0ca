//! The story of one node: from its record to READY, or to the reason why not.
//!
//! Attempts follow each other until one succeeds or there is no point in another. What comes after a failed one follows
//! from its class:
//!
//! | | |
//! |---|---|
//! | quota | the node is aborted and its request waits |
//! | the node is not wanted here any more | the node is aborted; the planner decides about its request |
//! | the cloud's settings lead to another project by now | the node is aborted, and its request gets another: the attempt's server can neither be seen nor deleted, so its record keeps it |
//! | the configuration names what the cloud does not have | the node fails: another attempt would not find it either |
//! | the cloud has no room | the next zone, if the node stands alone (the nodes of a request share theirs); once all zones were tried, the request goes to a pool of another provider, if there is one; else again here |
//! | the cloud is there, and never began to make the server | the first time it does not count; from the second on the cloud is as good as away: where a pool of another provider can serve, the request goes there, else it is an attempt like any other |
//! | the cloud does not answer | where a pool of another provider can serve, the request goes there; else it is no fault of the attempt, which does not count: again until it answers or `launch-timeout` has passed since the first |
//! | anything else | again, `launch-retries` attempts in all |
//!
//! Before another attempt, what the last one made is deleted: a node never has two servers. Everything that must
//! survive us is on record before we wait for it: the server's id above all.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use nodepool_common::{
    model::{ImageUpload, Json, LabelName, Node, NodeId, NodeRequest, NodeState, SharedText, guard},
    trace::{self, Span},
    zk::{Held, ZkError},
};
use nodepool_drivers::{
    CloudImageSource, ErrorClass, Instance, Launch, LaunchProgress, NodeProfile, ProviderError, Scope,
};
use serde_json::{Value, json};
use tokio::{sync::Mutex, time::Instant};
use tracing::{Instrument, error, info, info_span, warn};

use super::{
    Launcher,
    clouds::Cloud,
    events::{Event, Reports},
};
use crate::{
    nodescan::{ScanError, Target},
    plan::{NewNode, PoolKey},
};

/// Pauses between attempts while the cloud is away.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// One node's launch.
pub struct NodeLaunch {
    pub(super) launcher: Arc<Launcher>,
    pub(super) cloud: Arc<Cloud>,
    pub(super) pool: PoolKey,
    pub(super) label: LabelName,
    az: Option<String>,
    request: Arc<NodeRequest>,
    /// Of the session in which it began.
    pub(super) reports: Reports,
    logger: String,
    /// The server of the current attempt as the cloud told it, whether or not that is on record yet.
    made: std::sync::Mutex<Option<Made>>,
}

/// A server that was made for a node: what is on the node's record of it, or is to be.
#[derive(Clone)]
struct Made {
    external_id: Value,
    driver_data: Option<Value>,
}

impl Made {
    fn on_record(node: &Node) -> Option<Self> {
        Some(Self { external_id: node.external_id.clone()?, driver_data: node.driver_data.as_deref().cloned() })
    }
}

/// Why an attempt failed.
pub(super) enum Failure {
    Cloud(ProviderError),
    Keyscan(ScanError),
    /// `launch-timeout` passed.
    TimedOut(Duration),
    /// The node is not wanted any more, or not possible here: no fault of the attempt.
    Withdrawn(String),
    /// Our record cannot be written: the lock is lost.
    Lost(ZkError),
}

impl Failure {
    /// `<result>` of `nodepool.launch.<result>`.
    fn result(&self) -> &'static str {
        match self {
            Self::Cloud(error) => error.launch_result(),
            Self::Keyscan(_) => "error.keyscan",
            Self::TimedOut(_) => "error.servercreatetimeout",
            Self::Withdrawn(_) => "error.nodepool",
            Self::Lost(_) => "error.zksession",
        }
    }

    /// Whether the cloud as a whole is away.
    fn is_away(&self) -> bool {
        matches!(self, Self::Cloud(error) if error.away)
    }

    /// Whether the cloud is there, and has never begun to make the server.
    fn is_never_begun(&self) -> bool {
        matches!(self, Self::Cloud(error) if error.never_begun)
    }

    /// Whether it is the fault of the attempt, and one less is left. `never_begun`: how often the cloud has not begun to make the
    /// server, with this time. Once a process of the cloud may have ended at the wrong moment; what happens again will go on.
    fn counts(&self, never_begun: u32) -> bool {
        !self.is_away() && (!self.is_never_begun() || never_begun > 1)
    }

    fn class(&self) -> ErrorClass {
        match self {
            Self::Cloud(error) => error.class,
            Self::Keyscan(_) | Self::TimedOut(_) => ErrorClass::Timeout,
            Self::Withdrawn(_) | Self::Lost(_) => ErrorClass::Transient,
        }
    }
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Cloud(error) => write!(f, "{error}"),
            Self::Keyscan(error) => write!(f, "its host keys cannot be scanned: {error}"),
            Self::TimedOut(limit) => write!(f, "not ready within launch-timeout, {} s", limit.as_secs()),
            Self::Withdrawn(why) => write!(f, "{why}"),
            Self::Lost(error) => write!(f, "{error}"),
        }
    }
}

/// What became of the server of a failed attempt.
enum Undone {
    /// It is gone.
    Yes,
    /// It cannot be deleted.
    No,
    /// It can neither be seen nor deleted: the cloud's settings lead elsewhere by now, with why.
    OutOfSight(String),
}

impl From<ZkError> for Failure {
    fn from(error: ZkError) -> Self {
        Self::Lost(error)
    }
}

impl From<ProviderError> for Failure {
    fn from(error: ProviderError) -> Self {
        Self::Cloud(error)
    }
}

impl NodeLaunch {
    /// A launch of a node whose record was just made.
    pub fn new(
        launcher: &Arc<Launcher>,
        cloud: Arc<Cloud>,
        pool: PoolKey,
        new: &NewNode,
        request: Arc<NodeRequest>,
        reports: Reports,
    ) -> Self {
        let logger = format!("nodepool.StateMachineNodeLauncher.{}", pool.provider);
        Self {
            launcher: Arc::clone(launcher),
            cloud,
            pool,
            label: new.label.clone(),
            az: new.az.clone(),
            request,
            reports,
            logger,
            made: std::sync::Mutex::default(),
        }
    }

    /// Launches; gives the lock back to the loop with the outcome. Ends without a word when the session is lost: the
    /// record is then unlocked and `building`, which dooms it.
    pub async fn run(self, held: Held<Node>) {
        let id = held.record().id.clone();
        let span = info_span!("launch", request = %self.request.id, event_id = self.request.event_id, node = %id);
        let launched = self.launcher.spans.launch(&self.request.id, &id, &self.label, &self.pool);
        let session = self.reports.session().clone();
        tokio::select! {
            biased;
            () = self.attempts(held, launched).instrument(span) => {}
            () = session.cancelled() => {}
        }
    }

    async fn attempts(self, held: Held<Node>, mut span: Span) {
        let node = held.record().id.clone();
        let held = Mutex::new(held);
        let retries = self.cloud.config.launch_retries.max(1);
        let began = Instant::now();
        let mut attempt = 1;
        let mut pause = FIRST_PAUSE;
        let mut zones = self.zones();
        let mut never_begun = 0;
        let failure = loop {
            let started = Instant::now();
            let limit = self.cloud.config.launch_timeout;
            let mut of_attempt = span.part("LaunchAttempt").with("nodepool.attempt", i64::from(attempt));
            if let Some(zone) = zones.first() {
                of_attempt.set("nodepool.zone", zone.as_str());
            }
            let trying = tokio::time::timeout(limit, self.attempt(&held, zones.first()));
            let outcome = match trace::within(&of_attempt, trying).await {
                Ok(outcome) => outcome,
                Err(_) => Err(Failure::TimedOut(limit)),
            };
            if let Err(failure) = &outcome {
                of_attempt.fail(failure);
            }
            drop(of_attempt);
            let result = outcome.as_ref().map_or_else(Failure::result, |()| "ready");
            self.record(zones.first(), result, started.elapsed());
            let failure = match outcome {
                Ok(()) => break None,
                Err(failure) => failure,
            };
            if let Failure::Lost(error) = &failure {
                error!(logger = %self.logger, "Lost the lock of node {node} during its launch: {error}");
                return;
            }
            let record = Arc::clone(held.lock().await.record());
            let failure = match out_of_sight(&self.cloud, &record) {
                Some(why) => Failure::Withdrawn(format!("its server is out of sight: {why}")),
                None => failure,
            };
            let class = failure.class();
            let number = attempt;
            self.launcher.put_down_node("launch-failed", &record, Some(&self.request.id), || {
                format!(
                    "Attempt {number} of {retries} to launch node {node} of label {} has failed: {failure}",
                    self.label
                )
            });
            if class == ErrorClass::Quota || matches!(failure, Failure::Withdrawn(_)) {
                info!(logger = %self.logger, "Aborting node {node}: {failure}");
                break Some(failure);
            }
            let elsewhere = self.another_provider_may_serve();
            never_begun += u32::from(failure.is_never_begun());
            let counts = failure.counts(never_begun) || began.elapsed() >= limit;
            if counts {
                warn!(logger = %self.logger, "Launch attempt {attempt}/{retries} for node {node} failed: {failure}");
            } else if failure.is_never_begun() {
                warn!(logger = %self.logger, "Launch attempt {attempt}/{retries} for node {node} is repeated: {failure}");
            } else {
                self.launcher.clouds.away(&self.pool.provider, failure.to_string());
                warn!(logger = %self.logger, "The cloud is away during the launch of node {node}, it waits: {failure}");
            }
            if let Failure::Keyscan(_) = &failure {
                self.log_console(&held).await;
            }
            let no_room = class == ErrorClass::Capacity;
            if no_room && !zones.is_empty() {
                zones.remove(0);
            }
            // What the configuration asks for and the cloud does not have will not come with another attempt.
            let goes_elsewhere = failure.is_away()
                || (failure.is_never_begun() && failure.counts(never_begun))
                || (no_room && zones.is_empty());
            let pointless = class == ErrorClass::Config || (elsewhere && goes_elsewhere);
            if pointless || (counts && (attempt >= retries || guard::is_removed("attempts of a launch"))) {
                break Some(failure);
            }
            let undone = if guard::is_removed("end of a failed attempt's server") {
                Undone::Yes
            } else {
                trace::within(&span.part("UndoAttempt"), self.undo(&held)).await
            };
            match undone {
                Undone::Yes => {}
                Undone::No => break Some(failure),
                Undone::OutOfSight(why) => {
                    let why = Failure::Withdrawn(format!("its server is out of sight: {why}"));
                    info!(logger = %self.logger, "Aborting node {node}: {why}");
                    break Some(why);
                }
            }
            if zones.is_empty() {
                zones = self.zones();
            }
            if counts {
                attempt += 1;
            } else {
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
        };
        if let Some(failure) = &failure {
            span.fail(failure);
        }
        drop(span);
        self.finish(held.into_inner(), failure).await;
    }

    /// The zones to try, in this order: the request's own, and for a node that stands alone the others.
    fn zones(&self) -> Vec<String> {
        let Some(own) = self.az.clone() else { return Vec::new() };
        let mut zones = vec![own];
        if self.request.node_types.len() == 1 {
            let pool = self.cloud.config.pool(&self.pool.pool);
            let named = pool.map(|pool| pool.availability_zones.clone()).filter(|named| !named.is_empty());
            let all = named.unwrap_or_else(|| self.launcher.clouds.zones(&self.pool.provider));
            zones.extend(all.into_iter().filter(|zone| Some(zone) != self.az.as_ref()));
        }
        zones
    }

    /// Whether the request would find another provider if this one declines it.
    fn another_provider_may_serve(&self) -> bool {
        let ours = Some(&self.pool.provider);
        let cache = self.launcher.zk.cache();
        cache
            .read(|records| records.pools_that_may_serve(&self.request).any(|pool| pool.provider_name.as_ref() != ours))
    }

    /// Puts down what is known of the node before its first attempt, where that can be known.
    pub(super) fn announce(&self, node: &mut Node) {
        if self.cloud.config.metastatic().is_none()
            && let Ok(profile) = self.cloud.provider.profile(&self.pool.pool, &self.label)
            && let Ok((_, image_id)) = self.image(&profile)
        {
            apply_profile(node, &profile);
            node.image_id = image_id;
        }
    }

    /// The upload that a node is made from, where it is one, and what of its image is on record.
    fn image(&self, profile: &NodeProfile) -> Result<(Option<Arc<ImageUpload>>, Option<SharedText>), ProviderError> {
        match &profile.image {
            None => Ok((None, None)),
            Some(CloudImageSource::Cloud(name)) => Ok((None, Some(name.as_str().into()))),
            Some(CloudImageSource::Diskimage(image)) => {
                let provider = &self.pool.provider;
                let upload = self.launcher.zk.cache().read(|records| records.newest_upload(image, provider).cloned());
                let upload = upload.ok_or_else(|| {
                    let doing = format!("choosing an image for label {}", self.label);
                    let why = format!("there is no ready upload of {image} in provider {provider}");
                    ProviderError::new(ErrorClass::Transient, doing, why)
                })?;
                let path = upload.path();
                Ok((Some(upload), Some(path.into())))
            }
        }
    }

    /// One attempt in a zone, up to READY on record.
    async fn attempt(&self, held: &Mutex<Held<Node>>, az: Option<&String>) -> Result<(), Failure> {
        if self.cloud.config.metastatic().is_some() {
            return self.attempt_in_a_slot(held).await;
        }
        let provider = &self.cloud.provider;
        let profile = provider.profile(&self.pool.pool, &self.label)?;
        let (upload, image_id) = self.image(&profile)?;
        let node = {
            let mut held = held.lock().await;
            let told = held.record().connection_type.is_some() && held.record().image_id == image_id;
            if !told {
                held.update(|node| {
                    apply_profile(node, &profile);
                    node.image_id = image_id;
                })
                .await?;
            }
            held.record().id.clone()
        };
        let launch = Launch {
            hostname: format!("np{node}"),
            node,
            pool: self.pool.pool.clone(),
            label: self.label.clone(),
            az: az.cloned(),
            upload,
            request: Arc::clone(&self.request),
        };
        let progress = OnRecord { held, launch: self };
        let instance = provider.launch(&launch, &progress).await?;
        if !profile.host_key_checking {
            let mut held = held.lock().await;
            held.update(|node| {
                apply_instance(node, instance);
                node.set_state(NodeState::Ready, self.launcher.clock.now());
            })
            .await?;
            return Ok(());
        }
        let target = Target {
            address: instance.interface_ip.clone().unwrap_or_default(),
            port: profile.connection_port,
            connection_type: profile.connection_type.clone(),
            host_key_checking: true,
        };
        held.lock().await.update(|node| apply_instance(node, instance)).await?;
        let keys = self.host_keys(&launch.node, &target).await?;
        let mut held = held.lock().await;
        held.update(|node| {
            node.host_keys = keys;
            node.set_state(NodeState::Ready, self.launcher.clock.now());
        })
        .await?;
        Ok(())
    }

    /// A node's keys, once it answers.
    pub(super) async fn host_keys(&self, node: &NodeId, target: &Target) -> Result<Vec<String>, Failure> {
        let boot_timeout = self.cloud.config.boot_timeout;
        if target.address.is_empty() {
            let doing = format!("scanning the host keys of node {node}");
            return Err(ProviderError::new(ErrorClass::Transient, doing, "the server has no address").into());
        }
        if let Some(answer) = self.cloud.provider.host_keys(node, &target.address).await {
            let keys = answer.map_err(|error| match error.class {
                ErrorClass::Timeout => {
                    let last = error.to_string();
                    Failure::Keyscan(ScanError::Timeout {
                        target: target.clone(),
                        budget: boot_timeout,
                        attempts: 1,
                        last,
                    })
                }
                _ => Failure::Cloud(error),
            })?;
            return Ok(if target.has_host_keys() { keys } else { Vec::new() });
        }
        let mut span = trace::part("ScanHostKeys");
        let started = Instant::now();
        let keys = self.cloud.nodescan.scan(target, boot_timeout).await;
        if let Err(error) = &keys {
            span.fail(error);
        }
        self.launcher.stats.host_key_scan(&self.pool.provider, keys.is_ok(), started.elapsed());
        keys.map_err(Failure::Keyscan)
    }

    fn made(&self) -> std::sync::MutexGuard<'_, Option<Made>> {
        self.made.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// The servers that carry this node's id: what an attempt left whose answer we never saw.
    async fn unanswered(&self, node: &str) -> Result<Vec<Made>, ProviderError> {
        let resources = self.cloud.provider.list_tagged().await?;
        let ours = resources.into_iter().filter(|resource| {
            resource.kind.is_node()
                && resource.tag("nodepool_provider_name") == Some(self.pool.provider.as_str())
                && resource.tag("nodepool_node_id") == Some(node)
        });
        Ok(ours.map(|resource| Made { external_id: json!(resource.id), driver_data: None }).collect())
    }

    /// Deletes what an attempt made. Tries for as long as an attempt may take, because the next attempt must not leave
    /// the node with two servers.
    async fn undo(&self, held: &Mutex<Held<Node>>) -> Undone {
        let node = held.lock().await.record().id.clone();
        let on_record = Made::on_record(held.lock().await.record());
        let known = self.made().take().or(on_record);
        let give_up = Instant::now() + self.cloud.config.launch_timeout.max(Duration::from_secs(60));
        let mut pause = Duration::from_millis(500);
        loop {
            let deleting = async {
                let servers = match &known {
                    Some(made) => vec![made.clone()],
                    None if guard::is_removed("look for a server after a lost answer") => Vec::new(),
                    None => self.unanswered(node.as_str()).await?,
                };
                for server in servers {
                    self.cloud.provider.delete(&server.external_id, server.driver_data.as_ref()).await?;
                }
                Ok::<_, ProviderError>(())
            };
            match tokio::time::timeout_at(give_up, deleting).await {
                Ok(Ok(())) => break,
                // The settings may have changed since the failure.
                Ok(Err(error)) if error.elsewhere => {
                    *self.made() = known;
                    return Undone::OutOfSight(error.to_string());
                }
                Ok(Err(error)) if error.away && self.another_provider_may_serve() => {
                    warn!(logger = %self.logger, "The server of a failed attempt cannot be deleted now: {error}");
                    *self.made() = known;
                    return Undone::No;
                }
                Ok(Err(error)) if Instant::now() + pause < give_up => {
                    warn!(logger = %self.logger, "Deleting the server of a failed attempt, to be repeated: {error}");
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(Duration::from_secs(10));
                }
                Ok(Err(error)) => {
                    error!(logger = %self.logger, "The server of a failed attempt cannot be deleted: {error}");
                    *self.made() = known;
                    return Undone::No;
                }
                Err(_) => {
                    *self.made() = known;
                    return Undone::No;
                }
            }
        }
        let forgotten = held.lock().await.update(|node| (node.external_id, node.driver_data) = (None, None)).await;
        if forgotten.is_ok() { Undone::Yes } else { Undone::No }
    }

    /// Writes the outcome and gives the lock back.
    async fn finish(&self, mut held: Held<Node>, failure: Option<Failure>) {
        let Some(failure) = failure else {
            info!(logger = %self.logger, "Node {} is ready", held.record().id);
            self.launcher.put_down_node("node-ready", held.record(), Some(&self.request.id), || {
                format!("Node {} of label {} is ready", held.record().id, self.label)
            });
            self.launcher.clouds.launch_worked(&self.pool.provider);
            self.reports.tell(Event::Launched { held, failure: None });
            return;
        };
        let reason = failure.to_string();
        let state = match failure.class() {
            _ if matches!(failure, Failure::Withdrawn(_)) => NodeState::Aborted,
            ErrorClass::Quota => {
                self.launcher.clouds.quota_refused(&self.pool.provider);
                NodeState::Aborted
            }
            ErrorClass::Config => {
                self.launcher.clouds.doubt(&self.pool.provider);
                NodeState::Failed
            }
            _ => NodeState::Failed,
        };
        let made = self.made().take();
        let written = held
            .update(|node| {
                if let Some(Made { external_id, driver_data }) = made {
                    (node.external_id, node.driver_data) = (Some(external_id), driver_data.map(Box::new));
                }
                node.comment = Some(reason.clone());
                node.set_state(state, self.launcher.clock.now());
            })
            .await;
        if let Err(error) = written {
            error!(logger = %self.logger, "Node {}: {error}", held.record().id);
            return;
        }
        self.launcher.put_down_node("node-failed", held.record(), Some(&self.request.id), || {
            format!(
                "The launch of node {} of label {} has ended without a node: {reason}",
                held.record().id,
                self.label
            )
        });
        let failed = (state == NodeState::Failed).then(|| format!("node {}: {reason}", held.record().id));
        self.reports.tell(Event::Launched { held, failure: failed });
    }

    /// The server's console, line by line, after a scan that failed (`console-log`).
    async fn log_console(&self, held: &Mutex<Held<Node>>) {
        let external_id = held.lock().await.record().external_id.clone();
        let Some(external_id) = external_id else { return };
        match self.cloud.provider.console_log(&self.pool.pool, &self.label, &external_id).await {
            Ok(Some(console)) => {
                info!(logger = %self.logger, "Console log from external id {}:", plain(&external_id));
                for line in console.lines() {
                    info!(logger = %self.logger, "{}", line.trim_end());
                }
            }
            Ok(None) => {}
            Err(error) => warn!(logger = %self.logger, "No console log: {error}"),
        }
    }

    fn record(&self, az: Option<&String>, result: &str, took: Duration) {
        let az = az.map(String::as_str);
        let requestor = self.request.requestor.as_deref();
        self.launcher.stats.launch_result(&self.pool.provider, az, &self.label, requestor, result, took);
    }
}

/// Puts the server's id on record as soon as the cloud has told it.
struct OnRecord<'a> {
    held: &'a Mutex<Held<Node>>,
    launch: &'a NodeLaunch,
}

#[async_trait]
impl LaunchProgress for OnRecord<'_> {
    async fn created(&self, external_id: Value, made_in: Option<&Scope>) {
        let driver_data = made_in.map(Scope::driver_data);
        // First of all: the attempt may be dropped at any await, the next one below included.
        *self.launch.made() = Some(Made { external_id: external_id.clone(), driver_data: driver_data.clone() });
        let logger = &self.launch.logger;
        let mut held = self.held.lock().await;
        if held.record().external_id.as_ref() == Some(&external_id) {
            return;
        }
        if guard::is_removed("record of a server's id") {
            return;
        }
        let text = plain(&external_id);
        let made =
            |node: &mut Node| (node.external_id, node.driver_data) = (Some(external_id), driver_data.map(Box::new));
        match held.update(made).await {
            Ok(()) => info!(logger = %logger, "Server {text} is being created"),
            Err(error) => warn!(logger = %logger, "Server {text} is not on record: {error}"),
        }
    }
}

/// Why the cloud's answers say nothing of a node's server, by where its settings led last; `None`: they do, as far as is known.
pub(super) fn out_of_sight(cloud: &Cloud, node: &Node) -> Option<String> {
    node.external_id.as_ref()?;
    cloud.provider.scope()?.lacks(node.driver_data.as_deref())
}

fn plain(external_id: &Value) -> String {
    external_id.as_str().map_or_else(|| external_id.to_string(), str::to_owned)
}

fn apply_profile(node: &mut Node, profile: &NodeProfile) {
    node.username = profile.username.as_deref().map(Into::into);
    node.python_path = profile.python_path.as_deref().map(Into::into);
    node.shell_type = profile.shell_type.as_deref().map(Into::into);
    node.connection_type = Some(profile.connection_type.as_str().into());
    node.connection_port = json!(profile.connection_port);
}

/// What the cloud says of the server (`nodepool 11.0.0: driver/statemachine.py updateNodeFromInstance`).
fn apply_instance(node: &mut Node, instance: Instance) {
    node.external_id = Some(instance.external_id);
    node.interface_ip = instance.interface_ip;
    node.public_ipv4 = instance.public_ipv4;
    node.private_ipv4 = instance.private_ipv4;
    node.public_ipv6 = instance.public_ipv6;
    node.host_id = instance.host_id.map(Into::into);
    node.cloud = instance.cloud.map(Into::into);
    node.region = instance.region.map(Into::into);
    node.az = instance.az.map(Into::into);
    // Else it stays as it was when the server was made.
    if let Some(data) = instance.driver_data {
        node.driver_data = Some(data.into());
    }
    node.slot = instance.slot;
    let properties = instance.node_properties.iter().map(|(name, value)| (name.clone(), Json::of(value)));
    node.node_properties = Some(properties.collect());
    if let Some(port) = instance.connection_port {
        node.connection_port = port;
    }
    node.resources = Some(instance.resources.recorded());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_that_the_cloud_does_not_begin_to_make_costs_no_attempt_once() {
        let error = || ProviderError::new(ErrorClass::Transient, "creating server s", "504");
        let never_begun = Failure::Cloud(ProviderError { never_begun: true, ..error() });
        assert_eq!([1, 2, 3].map(|times| never_begun.counts(times)), [false, true, true]);
        let away = Failure::Cloud(ProviderError { away: true, ..error() });
        assert_eq!([0, 1, 2].map(|times| away.counts(times)), [false, false, false]);
        assert_eq!([0, 1, 2].map(|times| Failure::Cloud(error()).counts(times)), [true, true, true]);
    }
}
