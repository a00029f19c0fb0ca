//! What is known of each provider, and for how long: answers to what the planner wants to know.
//!
//! | answer | kept |
//! |---|---|
//! | quota | 300 s as upstream; 15 s while a pool waits for it; asked anew after a quota error, and before a decline |
//! | what a label takes, zones, an image that is there | until the provider changes or refuses a launch as misconfigured |
//! | an image that is missing | 5 s, doubling to 60 s; asked anew before a newer request is declined |
//! | a label that the cloud refutes | 60 s |
//!
//! A pass takes what is known as it is then ([`Clouds::known`]) and holds no lock while it plans.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use nodepool_common::{
    config,
    model::{Failures, LabelName, NodeId, ProviderName, Resources, Timestamp, Uptime, guard},
    sys::clock::Clock,
};
use nodepool_drivers::ProviderError;
use tracing::{error, info, warn};

use super::{
    Cloud, LOGGER,
    questions::{Answer, Question},
};
use crate::{
    plan::{CloudImage, Decision, Plan, PoolKey, ProjectQuota, ProviderState, Reason, Want},
    run::{gone::Lost, published::Trouble},
};

/// Seconds that a quota is believed (`nodepool 11.0.0: driver/utils.py MAX_QUOTA_AGE`).
const QUOTA_AGE: f64 = 300.0;
/// The same, while a pool waits for quota: others may have freed some.
const QUOTA_AGE_PAUSED: f64 = 15.0;
/// At the earliest after so many seconds a cloud is asked again for an image that it did not have.
const MISSING_IMAGE_AGAIN: f64 = 1.0;

/// All providers.
#[derive(Debug)]
pub struct Clouds {
    clock: Clock,
    entries: Mutex<BTreeMap<ProviderName, Entry>>,
}

/// A provider, and what is known of it.
#[derive(Debug)]
pub(super) struct Entry {
    pub cloud: Arc<Cloud>,
    pub started: bool,
    /// It, or one of the same name before it.
    pub ever_started: bool,
    /// Whether its pools are registered: unless its configuration cannot be used.
    pub takes_part: bool,
    /// What the planner may know. A pass has it as it was when the pass began.
    state: Arc<ProviderState>,
    /// Since when it has trouble; it has none: `None`.
    trouble_since: Option<Timestamp>,
    /// Questions on their way.
    asked: BTreeSet<Want>,
    /// When an answer is to be forgotten, or a question that failed may be asked again.
    until: BTreeMap<Want, Uptime>,
    failures: Failures<Want>,
    /// Launches in a row that the cloud refused for lack of quota.
    quota_errors: u32,
}

impl Entry {
    /// Of a provider that is to start, in the place of that of the same name before it.
    pub fn new(cloud: Arc<Cloud>, old: Option<&Self>) -> Self {
        let known = known_beforehand(&cloud.config);
        Self {
            cloud,
            started: false,
            ever_started: old.is_some_and(|old| old.ever_started),
            takes_part: true,
            state: Arc::new(match old {
                Some(old) => known.following(&old.state),
                None => known,
            }),
            trouble_since: None,
            asked: BTreeSet::new(),
            until: BTreeMap::new(),
            failures: Failures::default(),
            quota_errors: 0,
        }
    }

    /// What is known, to be changed: in a copy, while a pass looks at it.
    pub fn state(&mut self) -> &mut ProviderState {
        Arc::make_mut(&mut self.state)
    }

    /// Notes why it does not answer; `None`: it does.
    pub fn set_trouble(&mut self, trouble: Option<String>, now: Timestamp) {
        self.trouble_since = trouble.as_ref().map(|_| self.trouble_since.unwrap_or(now));
        self.state().trouble = trouble;
    }

    fn has_trouble(&mut self, why: String, now: Timestamp) {
        if self.state.trouble.as_ref() != Some(&why) {
            warn!(logger = LOGGER, "Provider {} has trouble: {why}", self.cloud.config.name);
            self.set_trouble(Some(why), now);
        }
    }

    /// When the image that is asked for was last found to be missing.
    fn missing_at(&self, want: &Want) -> Option<Timestamp> {
        let Want::LabelReady(_, pool, label) = want else { return None };
        self.state.cloud_images.get(&(pool.clone(), label.clone()))?.missing_at()
    }

    fn answered(&mut self, now: Timestamp) {
        if self.state.trouble.is_some() {
            self.set_trouble(None, now);
            info!(logger = LOGGER, "Provider {} answers again", self.cloud.config.name);
        }
    }
}

/// The providers in whose pools requests of a plan wait.
pub struct Waited<'a> {
    /// For quota.
    for_quota: BTreeSet<&'a ProviderName>,
    /// For that or anything else of theirs.
    at_all: BTreeSet<&'a ProviderName>,
    /// Those in which requests do not wait, as they were declined for want of room.
    declining: BTreeSet<&'a ProviderName>,
    /// Whether any waits because its tenant has all that it may: a node of any provider makes room for it.
    for_tenants: bool,
}

impl<'a> Waited<'a> {
    /// Those of a plan.
    pub fn of(plan: &'a Plan) -> Self {
        let for_quota: BTreeSet<_> = plan.starved.iter().chain(plan.paused.iter().map(|pool| &pool.provider)).collect();
        let single = plan.waiting.iter().filter(|(_, waiting)| waiting.reason.concerns_the_cloud());
        let pools = single.map(|((_, pool), _)| pool).chain(&plan.pools_waited_for);
        let at_all = pools.map(|pool| &pool.provider).chain(for_quota.iter().copied()).collect();
        let declining = declined_for_room(plan).map(|pool| &pool.provider).collect();
        Self { for_quota, at_all, declining, for_tenants: plan.is_tenant_full }
    }

    /// Whether any waits for what the end of a provider's nodes may make room for.
    fn wants_room_of(&self, provider: &ProviderName) -> bool {
        self.for_tenants || self.at_all.contains(provider)
    }
}

/// Pools in which a request for stock was declined because there is no room: it does not wait, and the next one is judged by the same
/// quota.
fn declined_for_room(plan: &Plan) -> impl Iterator<Item = &PoolKey> {
    let declines = plan.decisions.iter().filter_map(|decision| match decision {
        Decision::Decline { pools, .. } => Some(pools),
        _ => None,
    });
    declines.flatten().filter(|(_, reason)| matches!(reason, Reason::AtCapacity { .. })).map(|(pool, _)| pool)
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

impl Clouds {
    /// None yet.
    pub fn new(clock: Clock) -> Self {
        Self { clock, entries: Mutex::default() }
    }

    pub(super) fn open(&self) -> MutexGuard<'_, BTreeMap<ProviderName, Entry>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the planner may know, as it is now: of providers that have started.
    pub fn known(&self) -> BTreeMap<ProviderName, Arc<ProviderState>> {
        let entries = self.open();
        entries.iter().filter(|(_, e)| e.started).map(|(name, e)| (name.clone(), Arc::clone(&e.state))).collect()
    }

    /// Puts down which nodes of each provider are of no use to it.
    pub fn keep_lost(&self, mut found: BTreeMap<ProviderName, Lost>) {
        for (name, entry) in self.open().iter_mut() {
            let Lost { gone, elsewhere } = found.remove(name).unwrap_or_default();
            if *entry.state.gone != gone {
                *entry.state().gone = gone;
            }
            if *entry.state.elsewhere != elsewhere {
                *entry.state().elsewhere = elsewhere;
            }
        }
    }

    /// A ready node that somebody was about to be given has gone.
    pub fn keep_gone(&self, name: &ProviderName, node: &NodeId, why: String) {
        if let Some(entry) = self.open().get_mut(name) {
            entry.state().gone.insert(node.clone(), why);
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
    pub(super) fn knows_quota(&self, name: &ProviderName) -> bool {
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

    /// Providers that do not answer.
    pub fn troubles(&self) -> Vec<Trouble> {
        let trouble = |(name, entry): (&ProviderName, &Entry)| {
            let (why, since) = (entry.state.trouble.clone()?, entry.trouble_since?);
            Some(Trouble { provider: name.clone(), why, since })
        };
        self.open().iter().filter_map(trouble).collect()
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
        let may_be_repeated =
            entry.missing_at(&want).is_some_and(|asked| asked + MISSING_IMAGE_AGAIN <= self.clock.now());
        if (entry.until.contains_key(&want) && !may_be_repeated) || !entry.asked.insert(want.clone()) {
            return None;
        }
        Some(Question { cloud: Arc::clone(&entry.cloud), want, at: self.clock.uptime() })
    }

    /// A question is no longer on its way.
    pub(super) fn asked(&self, question: &Question) {
        let mut entries = self.open();
        let entry = entries.get_mut(&question.cloud.config.name);
        // The questions of a provider that was replaced went with it.
        if let Some(entry) = entry.filter(|entry| Arc::ptr_eq(&entry.cloud, &question.cloud)) {
            entry.asked.remove(&question.want);
        }
    }

    /// The clock was set by that many seconds: answers are as old, and the pause of launches as long, as before.
    pub fn clock_stepped(&self, step: f64) {
        for entry in self.open().values_mut() {
            entry.state().clock_stepped(step);
            if let Some(since) = &mut entry.trouble_since {
                *since += step;
            }
        }
    }

    /// Forgets what is too old. Returns when the next answer becomes so.
    pub fn forget_stale(&self, now: Timestamp, uptime: Uptime) -> Option<Timestamp> {
        let mut next: Option<Timestamp> = None;
        for entry in self.open().values_mut() {
            let old: Vec<Want> = entry.until.iter().filter(|(_, at)| **at <= uptime).map(|(w, _)| w.clone()).collect();
            for want in old {
                entry.until.remove(&want);
                match want {
                    Want::LabelResources(_, pool, label) => {
                        entry.state().label_resources.remove(&(pool, label));
                    }
                    Want::LabelReady(_, pool, label) => {
                        entry.state().cloud_images.remove(&(pool, label));
                    }
                    Want::Quota(_) | Want::Zones(_) => {}
                }
            }
            let missing = entry.state.cloud_images.values().filter_map(|image| image.missing_at());
            let missing = missing.map(|asked| asked + MISSING_IMAGE_AGAIN).filter(|at| *at > now);
            let times = entry.until.values().map(|at| at.wall(now, uptime)).chain(missing);
            next = times.chain(next).reduce(f64::min);
        }
        next
    }

    /// Quotas that a plan relies on and that are too old; and when the next one becomes so.
    pub fn quotas_to_refresh(&self, waited: &Waited<'_>, now: Timestamp) -> (Vec<Want>, Option<Timestamp>) {
        let mut wants = Vec::new();
        let mut next = None;
        for (name, entry) in self.open().iter() {
            let paused = waited.for_quota.contains(name);
            let relied_on = waited.at_all.contains(name) || waited.declining.contains(name);
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
            entry.cloud.provider.room_is_wanted(waited.wants_room_of(name));
        }
    }

    /// The cloud refused a launch for lack of quota: launch nothing for a moment, and ask for the quota anew.
    pub fn quota_refused(&self, name: &ProviderName) {
        if let Some(entry) = self.open().get_mut(name) {
            let pause = f64::from(1_u32 << entry.quota_errors.min(4));
            entry.quota_errors += 1;
            entry.state().launch_after = Some(self.clock.now() + pause);
            entry.state().quota_at = 0.0;
            entry.until.remove(&Want::Quota(name.clone()));
            // What a node takes may have turned out to be more than was thought (a floating IP).
            entry.state().label_resources.retain(|_, takes| takes.is_err());
        }
    }

    /// A launch worked.
    pub fn launch_worked(&self, name: &ProviderName) {
        if let Some(entry) = self.open().get_mut(name) {
            entry.quota_errors = 0;
            entry.state().launch_after = None;
            entry.answered(self.clock.now());
        }
    }

    /// A cloud has answered something that the planner did not ask.
    pub fn answered(&self, name: &ProviderName) {
        if let Some(entry) = self.open().get_mut(name) {
            entry.answered(self.clock.now());
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
            entry.has_trouble(why, self.clock.now());
        }
    }

    /// A server of ours is gone: the next launch need not wait.
    pub fn room_was_made(&self, name: &ProviderName) {
        if let Some(entry) = self.open().get_mut(name) {
            entry.state().launch_after = None;
        }
    }

    /// The cloud says that something in the configuration is not there (any more): ask for everything anew.
    pub fn doubt(&self, name: &ProviderName) {
        if let Some(entry) = self.open().get_mut(name) {
            entry.state().zones = None;
            entry.state().cloud_images.clear();
            entry.state().label_resources.clear();
            entry.until.clear();
        }
    }

    /// Keeps an answer.
    pub(super) fn keep(&self, question: &Question, answer: Result<Answer, ProviderError>) {
        let mut entries = self.open();
        let Some(entry) = entries.get_mut(&question.cloud.config.name) else { return };
        // The answer of a provider that was replaced meanwhile is nobody's.
        if !Arc::ptr_eq(&entry.cloud, &question.cloud) {
            return;
        }
        let want = &question.want;
        let (now, uptime) = (self.clock.now(), self.clock.uptime());
        let answer = match answer {
            Ok(answer) => {
                entry.answered(now);
                answer
            }
            Err(error) => {
                entry.has_trouble(error.to_string(), now);
                if let Want::LabelReady(_, pool, label) = want {
                    entry.state().cloud_images.remove(&(pool.clone(), label.clone()));
                }
                let pause = entry.failures.failed_again(want.clone(), 1.0, 30.0);
                if !guard::is_removed("pause after a question that failed") {
                    entry.until.insert(want.clone(), uptime + pause);
                }
                return;
            }
        };
        match (want, answer) {
            (Want::Quota(_), Answer::RoughQuota(quota)) => {
                entry.state().quota = Some(quota);
                entry.state().quota_at = 0.0;
            }
            (Want::Quota(_), Answer::Quota(quota)) => {
                entry.state().quota = Some(quota);
                entry.state().quota_at = now;
            }
            (Want::Zones(_), Answer::Zones(zones)) => entry.state().zones = Some(zones),
            (Want::LabelResources(_, pool, label), Answer::Takes(takes)) => {
                if let Err(error) = &takes {
                    error!(
                        logger = LOGGER,
                        "Label {label} of provider {} is unusable: {error}", question.cloud.config.name
                    );
                    entry.until.insert(want.clone(), uptime + 60.0);
                }
                let label = (pool.clone(), label.clone());
                // A change has all nodes of the provider reckoned anew.
                if entry.state.label_resources.get(&label) != Some(&takes) {
                    entry.state().label_resources.insert(label, takes);
                }
            }
            (Want::LabelReady(_, pool, label), Answer::Ready(ready)) => {
                // By the wall clock, with which the times of requests are compared, and as it goes now.
                let asked = question.at.wall(now, uptime);
                let image = if ready { CloudImage::There } else { CloudImage::Missing(asked) };
                entry.state().cloud_images.insert((pool.clone(), label.clone()), image);
                if !ready {
                    let pause = entry.failures.failed_again(want.clone(), 5.0, 60.0);
                    entry.until.insert(want.clone(), uptime + pause);
                    return;
                }
            }
            _ => {}
        }
        entry.failures.worked(want);
    }
}

fn provider_of(want: &Want) -> &ProviderName {
    match want {
        Want::Quota(provider)
        | Want::LabelResources(provider, _, _)
        | Want::LabelReady(provider, _, _)
        | Want::Zones(provider) => provider,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::Waiting;

    #[test]
    fn room_is_wanted_where_requests_wait_and_everywhere_for_a_tenant_at_its_limits() {
        let (p, q) = (ProviderName::from("p"), ProviderName::from("q"));
        let mut plan = Plan::default();
        plan.pools_waited_for.insert(PoolKey { provider: p.clone(), pool: "main".into() });
        let wants = |plan: &Plan| {
            let waited = Waited::of(plan);
            (waited.wants_room_of(&p), waited.wants_room_of(&q))
        };
        assert_eq!(wants(&plan), (true, false));
        plan.is_tenant_full = true;
        assert_eq!(wants(&plan), (true, true));
    }

    #[test]
    fn room_is_not_wanted_for_requests_that_only_wait_for_their_turn_or_for_others() {
        let pool = PoolKey { provider: "p".into(), pool: "main".into() };
        let wants = |reason: Reason| {
            let mut plan = Plan::default();
            plan.waiting.insert(("100-0000000000".into(), pool.clone()), Waiting { reason, paused: false });
            Waited::of(&plan).wants_room_of(&pool.provider)
        };
        assert!(!wants(Reason::TurnToCome) && !wants(Reason::LeftToPoolsWithLabels));
        assert!(
            wants(Reason::BehindOthers { is_accepted: false }) && wants(Reason::BehindOthers { is_accepted: true })
        );
    }
}
