//! The providers: their start, their replacement, and what is known of them.
//!
//! A provider starts in a task of its own and is retried with back-off, so that a cloud that is away stops nobody else
//! and heals by itself. Its pools take part from the beginning, so that the requests for their labels wait until the
//! cloud has answered, rather than fail because nobody else has them. Only a provider that turns out to be configured
//! wrongly takes no part, as upstream's; requests that fail for it are told why. Pools stay while a provider is replaced
//! after a change of the configuration.
//! What the planner wants to know is asked once at a time and kept:
//!
//! | answer | kept |
//! |---|---|
//! | quota | 300 s as upstream; 15 s while a pool waits for it; asked anew after a quota error, and before a decline |
//! | what a label takes, zones, an image that is there | until the provider changes or refuses a launch as misconfigured |
//! | an image that is missing | 5 s, doubling to 60 s; asked anew before a newer request is declined |
//! | a label that the cloud refutes | 60 s |

use std::{
    collections::{BTreeMap, BTreeSet},
    panic::AssertUnwindSafe,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures::FutureExt;
use nodepool_common::{
    config::{self, Config},
    model::{LabelName, NodeId, ProviderName, Records, Resources, Timestamp},
    sys::{clock, shutdown},
};
use nodepool_drivers::{CloudResource, ErrorClass, Provider, ProviderError, leaks::is_node_of};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use super::{Launcher, gone::Lost, leaks::Searched};
use crate::{
    nodescan::Nodescan,
    plan::{CloudImage, Plan, PoolKey, ProjectQuota, ProviderState, Want},
};

/// Seconds that a quota is believed (`nodepool 11.0.0: driver/utils.py MAX_QUOTA_AGE`).
const QUOTA_AGE: f64 = 300.0;
/// The same, while a pool waits for quota: others may have freed some.
const QUOTA_AGE_PAUSED: f64 = 15.0;
/// Before a provider whose task has panicked is run again.
const AFTER_A_PANIC: Duration = Duration::from_secs(60);
/// At the earliest after so many seconds a cloud is asked again for an image that it did not have.
const MISSING_IMAGE_AGAIN: f64 = 1.0;
/// What a cloud says of its quota is of no use any more when the records are not there by then; it is asked for again.
const RECORDS_WITHIN: Duration = Duration::from_secs(15);
/// Longest time for one question to a cloud.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(120);

/// A provider at work.
#[derive(Debug)]
pub struct Cloud {
    /// Its configuration.
    pub config: Arc<config::Provider>,
    /// Its driver.
    pub provider: Arc<dyn Provider>,
    /// Host-key scans, limited per provider.
    pub nodescan: Nodescan,
    /// Whether it was searched for leaks since the records were last read from the beginning.
    pub searched: Searched,
    /// Ends its tasks when it is replaced.
    stop: CancellationToken,
}

/// All providers.
#[derive(Debug, Default)]
pub struct Clouds {
    entries: Mutex<BTreeMap<ProviderName, Entry>>,
}

#[derive(Debug)]
struct Entry {
    cloud: Arc<Cloud>,
    started: bool,
    /// It, or one of the same name before it.
    ever_started: bool,
    /// Whether its pools are registered: unless its configuration cannot be used.
    takes_part: bool,
    state: ProviderState,
    asked: BTreeSet<Want>,
    /// When an answer is to be forgotten, or a question that failed may be asked again.
    until: BTreeMap<Want, Timestamp>,
    failures: BTreeMap<Want, u32>,
    quota_errors: u32,
}

impl Entry {
    fn has_trouble(&mut self, why: String) {
        if self.state.trouble.as_ref() != Some(&why) {
            warn!(logger = LOGGER, "Provider {} has trouble: {why}", self.cloud.config.name);
            self.state.trouble = Some(why);
        }
    }

    /// When the image that is asked for was last found to be missing.
    fn missing_at(&self, want: &Want) -> Option<Timestamp> {
        let Want::LabelReady(_, pool, label) = want else { return None };
        self.state.cloud_images.get(&(pool.clone(), label.clone()))?.missing_at()
    }

    fn answered(&mut self) {
        if self.state.trouble.take().is_some() {
            info!(logger = LOGGER, "Provider {} answers again", self.cloud.config.name);
        }
    }
}

/// Something to ask a cloud. Whoever takes one up brings it to an end with [`Launcher::answer`].
#[derive(Debug)]
pub struct Question {
    cloud: Arc<Cloud>,
    want: Want,
    at: Timestamp,
}

/// The providers in whose pools requests of a plan wait.
pub struct Waited<'a> {
    /// For quota.
    for_quota: BTreeSet<&'a ProviderName>,
    /// For that or anything else.
    at_all: BTreeSet<&'a ProviderName>,
}

impl<'a> Waited<'a> {
    /// Those of a plan.
    pub fn of(plan: &'a Plan) -> Self {
        let for_quota: BTreeSet<_> = plan.starved.iter().chain(plan.paused.iter().map(|pool| &pool.provider)).collect();
        let pools = plan.waiting.keys().map(|(_, pool)| pool).chain(&plan.pools_waited_for);
        let at_all = pools.map(|pool| &pool.provider).chain(for_quota.iter().copied()).collect();
        Self { for_quota, at_all }
    }
}

enum Answer {
    Quota(ProjectQuota),
    /// What a quota is reckoned from, once there are records.
    Used(nodepool_drivers::Quota, Vec<CloudResource>, BTreeSet<NodeId>),
    Takes(Result<Resources, String>),
    Ready(bool),
    Zones(Vec<String>),
}

/// Of static hosts nothing has to be found out. Were it asked, requests would be accepted in the order of the answers.
fn known_beforehand(provider: &config::Provider) -> ProviderState {
    let mut state = ProviderState::default();
    let hosts = provider.pools.iter().filter(|pool| pool.hosts.is_some());
    for (pool, label) in hosts.flat_map(|pool| pool.labels.keys().map(|label| (pool.name.clone(), label.clone()))) {
        state.quota = Some(ProjectQuota::default());
        let one = Resources::new().with("instances", 1.0);
        state.label_resources.insert((pool.clone(), label.clone()), Ok(one));
        state.cloud_images.insert((pool, label), CloudImage::There);
    }
    state
}

/// A question on its way; it may be asked again once this is dropped, also by a panic.
struct Asking<'a> {
    clouds: &'a Clouds,
    question: Question,
}

impl Drop for Asking<'_> {
    fn drop(&mut self) {
        let mut entries = self.clouds.open();
        let entry = entries.get_mut(&self.question.cloud.config.name);
        // The questions of a provider that was replaced went with it.
        if let Some(entry) = entry.filter(|entry| Arc::ptr_eq(&entry.cloud, &self.question.cloud)) {
            entry.asked.remove(&self.question.want);
        }
    }
}

impl Clouds {
    fn open(&self) -> MutexGuard<'_, BTreeMap<ProviderName, Entry>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Shows what the planner may know: providers that have started. The closure must not block, and not call us.
    pub fn with_known<R>(&self, look: impl FnOnce(&BTreeMap<ProviderName, &ProviderState>) -> R) -> R {
        let entries = self.open();
        look(&entries.iter().filter(|(_, e)| e.started).map(|(name, e)| (name.clone(), &e.state)).collect())
    }

    /// Puts down which nodes of each provider are of no use to it.
    pub fn keep_lost(&self, mut found: BTreeMap<ProviderName, Lost>) {
        for (name, entry) in self.open().iter_mut() {
            let Lost { gone, elsewhere } = found.remove(name).unwrap_or_default();
            if *entry.state.gone != gone {
                *entry.state.gone = gone;
            }
            if *entry.state.elsewhere != elsewhere {
                *entry.state.elsewhere = elsewhere;
            }
        }
    }

    /// A ready node that somebody was about to be given has gone.
    pub fn keep_gone(&self, name: &ProviderName, node: &NodeId, why: String) {
        if let Some(entry) = self.open().get_mut(name) {
            entry.state.gone.insert(node.clone(), why);
        }
    }

    /// A provider that has started.
    pub fn get(&self, name: &ProviderName) -> Option<Arc<Cloud>> {
        self.open().get(name).filter(|entry| entry.started).map(|entry| Arc::clone(&entry.cloud))
    }

    /// Whether the pools of a provider are to be registered.
    pub fn takes_part(&self, name: &ProviderName) -> bool {
        self.open().get(name).is_some_and(|entry| entry.takes_part)
    }

    /// Whether a provider cannot serve yet: it is starting for the first time, or does not come to start.
    pub fn is_absent(&self, name: &ProviderName) -> bool {
        let is_absent = |entry: &Entry| !entry.started && (!entry.ever_started || entry.state.trouble.is_some());
        self.open().get(name).is_none_or(is_absent)
    }

    /// Whether its quota is known.
    fn knows_quota(&self, name: &ProviderName) -> bool {
        self.open().get(name).is_some_and(|entry| entry.state.quota.is_some())
    }

    /// Why a provider could not start so far.
    pub fn cannot_start(&self, name: &ProviderName) -> Option<String> {
        self.open().get(name).filter(|entry| !entry.started)?.state.trouble.clone()
    }

    /// Each provider, and whether its cloud answers.
    pub fn health(&self) -> BTreeMap<ProviderName, bool> {
        let entries = self.open();
        entries.iter().map(|(name, e)| (name.clone(), e.started && e.state.trouble.is_none())).collect()
    }

    /// Providers that do not answer, with why.
    pub fn troubles(&self) -> Vec<(ProviderName, String)> {
        let entries = self.open();
        entries.iter().filter_map(|(name, e)| Some((name.clone(), e.state.trouble.clone()?))).collect()
    }

    /// The cloud's zones, where they are known.
    pub fn zones(&self, name: &ProviderName) -> Vec<String> {
        self.open().get(name).and_then(|entry| entry.state.zones.clone()).unwrap_or_default()
    }

    /// What a node of a label takes, where that is known.
    pub fn label_resources(&self, pool: &PoolKey, label: &LabelName) -> Option<Resources> {
        let entries = self.open();
        let known = &entries.get(&pool.provider)?.state.label_resources;
        known.get(&(pool.pool.clone(), label.clone()))?.as_ref().ok().cloned()
    }

    /// Takes up a question, unless it is being asked or has to wait.
    pub fn ask(&self, want: Want) -> Option<Question> {
        let mut entries = self.open();
        let entry = entries.get_mut(provider_of(&want)).filter(|entry| entry.started)?;
        // Of an image that was missing the planner wants to know again when somebody asks for it.
        let may_be_repeated = entry.missing_at(&want).is_some_and(|asked| asked + MISSING_IMAGE_AGAIN <= clock::now());
        if (entry.until.contains_key(&want) && !may_be_repeated) || !entry.asked.insert(want.clone()) {
            return None;
        }
        Some(Question { cloud: Arc::clone(&entry.cloud), want, at: clock::now() })
    }

    /// The clock was set by that many seconds: answers and pauses last as long as before.
    pub fn clock_stepped(&self, step: f64) {
        for entry in self.open().values_mut() {
            entry.state.clock_stepped(step);
            entry.until.values_mut().for_each(|at| *at += step);
        }
    }

    /// Forgets what is too old. Returns when the next answer becomes so.
    pub fn forget_stale(&self, now: Timestamp) -> Option<Timestamp> {
        let mut next: Option<Timestamp> = None;
        for entry in self.open().values_mut() {
            let old: Vec<Want> = entry.until.iter().filter(|(_, at)| **at <= now).map(|(w, _)| w.clone()).collect();
            for want in old {
                entry.until.remove(&want);
                match want {
                    Want::LabelResources(_, pool, label) => {
                        entry.state.label_resources.remove(&(pool, label));
                    }
                    Want::LabelReady(_, pool, label) => {
                        entry.state.cloud_images.remove(&(pool, label));
                    }
                    Want::Quota(_) | Want::Zones(_) => {}
                }
            }
            let missing = entry.state.cloud_images.values().filter_map(|image| image.missing_at());
            let missing = missing.map(|asked| asked + MISSING_IMAGE_AGAIN).filter(|at| *at > now);
            let times = entry.until.values().copied().chain(missing);
            next = times.chain(next).reduce(f64::min);
        }
        next
    }

    /// Quotas that a plan relies on and that are too old; and when the next one becomes so.
    pub fn quotas_to_refresh(&self, waited: &Waited<'_>, now: Timestamp) -> (Vec<Want>, Option<Timestamp>) {
        let mut wants = Vec::new();
        let mut next = None;
        for (name, entry) in self.open().iter() {
            let (paused, relied_on) = (waited.for_quota.contains(name), waited.at_all.contains(name));
            let due = entry.state.quota_at + if paused { QUOTA_AGE_PAUSED } else { QUOTA_AGE };
            if !entry.started || entry.state.quota.is_none() || !(relied_on || entry.state.quota_at == 0.0) {
                continue;
            }
            if due <= now {
                wants.push(Want::Quota(name.clone()));
            } else {
                next = Some(next.map_or(due, |earlier: f64| earlier.min(due)));
            }
        }
        (wants, next)
    }

    /// Tells each provider whether requests wait in its pools: for what deletions free, maybe.
    pub fn tell_who_waits(&self, waited: &Waited<'_>) {
        for (name, entry) in self.open().iter().filter(|(_, entry)| entry.started) {
            entry.cloud.provider.room_is_wanted(waited.at_all.contains(name));
        }
    }

    /// The cloud refused a launch for lack of quota: launch nothing for a moment, and ask for the quota anew.
    pub fn quota_refused(&self, name: &ProviderName) {
        if let Some(entry) = self.open().get_mut(name) {
            let pause = f64::from(1_u32 << entry.quota_errors.min(4));
            entry.quota_errors += 1;
            entry.state.launch_after = Some(clock::now() + pause);
            entry.state.quota_at = 0.0;
            entry.until.remove(&Want::Quota(name.clone()));
            // What a node takes may have turned out to be more than was thought (a floating IP).
            entry.state.label_resources.retain(|_, takes| takes.is_err());
        }
    }

    /// A launch worked.
    pub fn launch_worked(&self, name: &ProviderName) {
        if let Some(entry) = self.open().get_mut(name) {
            entry.quota_errors = 0;
            entry.state.launch_after = None;
            entry.answered();
        }
    }

    /// A cloud has answered something that the planner did not ask.
    pub fn answered(&self, name: &ProviderName) {
        if let Some(entry) = self.open().get_mut(name) {
            entry.answered();
        }
    }

    /// Has all clouds searched for leaks at once: ZooKeeper may have been set back, and may give out numbers again.
    pub fn search_anew(&self) {
        for entry in self.open().values() {
            entry.cloud.searched.start_over();
        }
    }

    /// The cloud was away for a launch. What is known of its trouble stays: each launch would word it differently.
    pub fn away(&self, name: &ProviderName, why: String) {
        if let Some(entry) = self.open().get_mut(name).filter(|entry| entry.state.trouble.is_none()) {
            entry.has_trouble(why);
        }
    }

    /// A server of ours is gone: the next launch need not wait.
    pub fn room_was_made(&self, name: &ProviderName) {
        if let Some(entry) = self.open().get_mut(name) {
            entry.state.launch_after = None;
        }
    }

    /// The cloud says that something in the configuration is not there (any more): ask for everything anew.
    pub fn doubt(&self, name: &ProviderName) {
        if let Some(entry) = self.open().get_mut(name) {
            entry.state.zones = None;
            entry.state.cloud_images.clear();
            entry.state.label_resources.clear();
            entry.until.clear();
        }
    }

    /// Keeps an answer.
    fn keep(&self, question: &Question, answer: Result<Answer, ProviderError>) {
        let mut entries = self.open();
        let Some(entry) = entries.get_mut(&question.cloud.config.name) else { return };
        // The answer of a provider that was replaced meanwhile is nobody's.
        if !Arc::ptr_eq(&entry.cloud, &question.cloud) {
            return;
        }
        let want = &question.want;
        let now = clock::now();
        let answer = match answer {
            Ok(answer) => {
                entry.answered();
                answer
            }
            Err(error) => {
                entry.has_trouble(error.to_string());
                if let Want::LabelReady(_, pool, label) = want {
                    entry.state.cloud_images.remove(&(pool.clone(), label.clone()));
                }
                let pause = longer(&mut entry.failures, want, 1.0, 30.0);
                entry.until.insert(want.clone(), now + pause);
                return;
            }
        };
        match (want, answer) {
            (Want::Quota(_), Answer::Quota(quota)) => {
                entry.state.quota = Some(quota);
                entry.state.quota_at = now;
            }
            (Want::Zones(_), Answer::Zones(zones)) => entry.state.zones = Some(zones),
            (Want::LabelResources(_, pool, label), Answer::Takes(takes)) => {
                if let Err(error) = &takes {
                    error!(
                        logger = LOGGER,
                        "Label {label} of provider {} is unusable: {error}", question.cloud.config.name
                    );
                    entry.until.insert(want.clone(), now + 60.0);
                }
                let label = (pool.clone(), label.clone());
                // A change has all nodes of the provider reckoned anew.
                if entry.state.label_resources.get(&label) != Some(&takes) {
                    entry.state.label_resources.insert(label, takes);
                }
            }
            (Want::LabelReady(_, pool, label), Answer::Ready(ready)) => {
                let image = if ready { CloudImage::There } else { CloudImage::Missing(question.at) };
                entry.state.cloud_images.insert((pool.clone(), label.clone()), image);
                if !ready {
                    let pause = longer(&mut entry.failures, want, 5.0, 60.0);
                    entry.until.insert(want.clone(), now + pause);
                    return;
                }
            }
            _ => {}
        }
        entry.failures.remove(want);
    }
}

const LOGGER: &str = "nodepool.ProviderManager";

fn longer(failures: &mut BTreeMap<Want, u32>, want: &Want, first: f64, most: f64) -> f64 {
    let count = failures.entry(want.clone()).or_default();
    *count = count.saturating_add(1);
    (first * f64::from(1_u32 << (*count - 1).min(16))).min(most)
}

fn provider_of(want: &Want) -> &ProviderName {
    match want {
        Want::Quota(provider)
        | Want::LabelResources(provider, _, _)
        | Want::LabelReady(provider, _, _)
        | Want::Zones(provider) => provider,
    }
}

impl Launcher {
    /// Brings the providers in line with the configuration: an unchanged one stays as it is.
    pub(super) fn apply_providers(self: &Arc<Self>, config: &Config) {
        let mut entries = self.clouds.open();
        entries.retain(|name, entry| {
            let stays = config.providers.contains_key(name);
            if !stays {
                info!(logger = LOGGER, "Provider {name} was removed from the configuration");
                entry.cloud.stop.cancel();
            }
            stays
        });
        for (name, provider) in &config.providers {
            let old = entries.get(name);
            if old.is_some_and(|entry| config::same_provider(&entry.cloud.config, provider)) {
                continue;
            }
            let made = match nodepool_drivers::make(provider, &self.context) {
                Ok(made) => made,
                Err(error) => {
                    error!(logger = LOGGER, "Provider {name} ({}) is left out: {error}", provider.place);
                    self.note_broken(name, &error.to_string());
                    continue;
                }
            };
            if let Some(old) = old {
                info!(logger = LOGGER, "Provider {name} changed in the configuration");
                old.cloud.stop.cancel();
            }
            let cloud = Arc::new(Cloud {
                config: Arc::clone(provider),
                provider: made,
                nodescan: Nodescan::default(),
                searched: Searched::default(),
                stop: CancellationToken::new(),
            });
            let entry = Entry {
                cloud: Arc::clone(&cloud),
                started: false,
                ever_started: old.is_some_and(|old| old.ever_started),
                takes_part: true,
                state: match old {
                    Some(old) => known_beforehand(provider).following(&old.state),
                    None => known_beforehand(provider),
                },
                asked: BTreeSet::new(),
                until: BTreeMap::new(),
                failures: BTreeMap::new(),
                quota_errors: 0,
            };
            entries.insert(name.clone(), entry);
            self.spawn(|this| async move {
                let stop = cloud.stop.clone();
                tokio::select! {
                    () = this.keep_running(cloud) => {}
                    () = stop.cancelled() => {}
                }
            });
        }
    }

    /// Runs a provider; again after a panic, which is its own trouble and nobody else's.
    async fn keep_running(self: Arc<Self>, cloud: Arc<Cloud>) {
        let name = &cloud.config.name;
        loop {
            let running = AssertUnwindSafe(Arc::clone(&self).run_cloud(Arc::clone(&cloud))).catch_unwind().await;
            if let Err(panic) = running {
                error!(logger = LOGGER, "What runs provider {name} panicked{}", shutdown::describe(&*panic));
            }
            tokio::time::sleep(AFTER_A_PANIC).await;
        }
    }

    /// Starts a provider, however long that takes, and looks for leaks from then on.
    async fn run_cloud(self: Arc<Self>, cloud: Arc<Cloud>) {
        let name = &cloud.config.name;
        let mut pause = Duration::from_secs(1);
        let mut said = String::new();
        loop {
            let (trouble, is_away) = match tokio::time::timeout(ANSWER_TIMEOUT, cloud.provider.start()).await {
                Ok(Ok(())) => break,
                Ok(Err(error)) => (error.to_string(), error.class != ErrorClass::Config),
                Err(_) => (format!("it did not start within {} s", ANSWER_TIMEOUT.as_secs()), true),
            };
            if said != trouble {
                error!(
                    logger = LOGGER,
                    "Provider {name} ({}) cannot start, the others go on; trying again: {trouble}", cloud.config.place
                );
                said.clone_from(&trouble);
            }
            if let Some(entry) = self.clouds.open().get_mut(name) {
                entry.state.trouble = Some(trouble);
                entry.takes_part = is_away || entry.ever_started;
            }
            self.match_pools();
            self.wake.notify_one();
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(Duration::from_secs(60));
        }
        if let Some(entry) = self.clouds.open().get_mut(name) {
            entry.started = true;
            entry.ever_started = true;
            entry.takes_part = true;
            entry.state.trouble = None;
        }
        info!(logger = LOGGER, "Provider {name} started");
        self.match_pools();
        self.wake.notify_one();
        // At a start of the launcher requests wait: what takes longest is asked for while the records are still being read.
        if !self.clouds.knows_quota(name) {
            self.find_out(Want::Quota(name.clone()));
        }
        tokio::join!(self.look_for_leaks(&cloud), self.look_for_gone(&cloud));
    }

    /// Asks a cloud, and keeps the answer.
    pub(super) async fn answer(&self, question: Question) {
        let question = Asking { clouds: &self.clouds, question };
        let question = &question.question;
        let answer = tokio::time::timeout(ANSWER_TIMEOUT, self.answer_of(question)).await.unwrap_or_else(|_| {
            let name = &question.cloud.config.name;
            let why = format!("no answer within {} s", ANSWER_TIMEOUT.as_secs());
            Err(ProviderError::new(ErrorClass::Timeout, format!("asking provider {name}"), why))
        });
        let answer = match answer {
            Ok(Answer::Used(quota, resources, before)) => {
                // At a start the cloud may be faster than ZooKeeper. Without records all servers would be those of others.
                if tokio::time::timeout(RECORDS_WITHIN, self.zk.cache().until_ready()).await.is_err() {
                    return;
                }
                let name = &question.cloud.config.name;
                let used = |records: &Records| used_by_others(records, &before, name, &resources, &quota.used);
                let others = self.zk.cache().read(used);
                let ours = quota.limits.less(&others);
                Ok(Answer::Quota(ProjectQuota { limits: quota.limits, ours }))
            }
            answer => answer,
        };
        self.clouds.keep(question, answer);
    }

    async fn answer_of(&self, question: &Question) -> Result<Answer, ProviderError> {
        let provider = &question.cloud.provider;
        match &question.want {
            Want::Quota(_) => {
                // A node that is deleted while the cloud answers may be in its list and no longer on record.
                let before: BTreeSet<NodeId> = self.zk.cache().read(|records| records.nodes.keys().cloned().collect());
                let (quota, resources) = tokio::try_join!(provider.quota(), provider.list_resources())?;
                Ok(Answer::Used(quota, resources, before))
            }
            Want::Zones(_) => provider.availability_zones().await.map(Answer::Zones),
            Want::LabelReady(_, pool, label) => provider.label_ready(pool, label).await.map(Answer::Ready),
            Want::LabelResources(_, pool, label) => match provider.label_resources(pool, label).await {
                Ok(takes) => Ok(Answer::Takes(Ok(takes))),
                Err(error) if error.class == ErrorClass::Config => Ok(Answer::Takes(Err(error.to_string()))),
                Err(error) => Err(error),
            },
        }
    }
}

/// What is taken by others than nodes of this provider (`nodepool 11.0.0: driver/statemachine.py unmanagedQuotaUsed`):
/// those on record now, and those that were `before` the cloud was asked. Our own leaked servers count: they take quota
/// until they are gone. Of a resource that others than servers use as
/// well, `used` says how much that is in all.
fn used_by_others(
    records: &Records,
    before: &BTreeSet<NodeId>,
    provider: &ProviderName,
    resources: &[CloudResource],
    used: &Resources,
) -> Resources {
    let (mut ours, mut others) = (Resources::new(), Resources::new());
    for resource in resources.iter().filter(|resource| resource.kind.is_node()) {
        let is_node = is_node_of(provider, resource, |node| records.nodes.contains_key(node) || before.contains(node));
        let side = if is_node { &mut ours } else { &mut others };
        side.add(&resource.resources);
    }
    for (name, in_all) in used.iter() {
        // The two were not read at the same moment.
        others.set(name, (in_all - ours.amount(name)).max(0.0));
    }
    others
}

#[cfg(test)]
mod tests {
    use nodepool_common::model::{Entry, Node, Stat};
    use nodepool_drivers::ResourceKind;
    use serde_json::{Map, json};

    use super::*;

    #[test]
    fn others_use_what_servers_that_are_no_nodes_take_and_of_some_resources_what_is_not_ours() {
        let provider = ProviderName::from("p");
        let server = |node: &str, ports: f64| CloudResource {
            kind: ResourceKind::Instance,
            id: format!("server-{node}"),
            metadata: Map::from_iter([
                ("nodepool_provider_name".to_owned(), json!("p")),
                ("nodepool_node_id".to_owned(), json!(node)),
            ])
            .into(),
            resources: Resources::new().with("cores", 2.0).with("ports", ports),
        };
        let mut records = Records::default();
        let record = Ok(Arc::new(Node::new(0.0)));
        let entry = Entry { record, stat: Stat::default(), contenders: BTreeSet::new(), free_since: None };
        records.nodes.insert("1".into(), entry);
        let listed = [server("1", 2.0), server("2", 1.0)];
        let others = |ports: Option<f64>| {
            used_by_others(&records, &BTreeSet::new(), &provider, &listed, &Resources::new().with("ports", ports))
        };
        assert_eq!(others(None), Resources::new().with("cores", 2.0).with("ports", 1.0));
        let of_router = Resources::new().with("cores", 2.0).with("ports", 7.0);
        assert_eq!(others(Some(9.0)), of_router, "a router's and the like count");
        assert_eq!(others(Some(1.0)), Resources::new().with("cores", 2.0).with("ports", 0.0));
        let before = BTreeSet::from(["2".into()]);
        let others = used_by_others(&records, &before, &provider, &listed, &Resources::new());
        assert_eq!(others, Resources::new(), "its record went while the cloud answered");
    }
}
