//! Acting: the launcher's loop and the actions it carries out.
//!
//! One loop ([`nodepool_common::daemon`]) waits until something may have changed (a record, an answer of a cloud, the end of an
//! action, a moment the planner named), asks the [`Planner`](crate::plan::Planner) and hands each decision to a task of its own.
//! It alone owns what the launcher holds and does ([`core`]); actions tell it what they have done ([`events`]).
//! An action locks, reads again under the lock, does one step and ends; what comes next is the next plan's business.
//! So start-up, a take-over after a crash and everyday work are one path, and nothing polls ZooKeeper.
//!
//! | module | is about |
//! |---|---|
//! | [`actions`] | carrying a decision out: a task with the locks that it needs |
//! | [`core`] | what the loop owns: events applied, a pass made |
//! | [`events`] | what actions and launches tell the loop |
//! | [`book`] | what we hold and do: the locks, and the planner's view of them |
//! | [`clouds`] | the providers: start, replacement, what is known of them |
//! | [`requests`] | actions on requests |
//! | [`spans`] | spans of what is done for requests and nodes, for OpenTelemetry |
//! | [`stock`] | nodes to keep in stock: asked for, put there, and when not to ask |
//! | [`hosts`] | static hosts: look, register, bring up to date |
//! | [`launch`] | the story of one node, from record to READY |
//! | [`metastatic`] | backing nodes, on which nodes of other providers stand |
//! | [`placing`] | nodes that stand on backing nodes |
//! | [`nodes`] | actions on nodes: free, retire, delete |
//! | [`history`] | what is kept of all that, for those who ask later |
//! | [`leaks`] | resources without a record |
//! | [`gone`] | ready nodes whose server has gone |
//! | [`published`] | what the loop shows of itself after each pass |
//! | [`report`] | metrics, and what people can ask |
//! | [`metrics`] | what is measured when somebody reads the metrics |
//! | [`view`] | what our pools make of a request, a label, an image, a provider, for `explain` |
//! | [`overview`] | how everything stands, for the dashboard |
//! | [`lists`] | all nodes and all requests, for the dashboard |
//! | [`outlook`] | what would become of a request that nobody has made |

mod actions;
mod book;
mod clouds;
mod core;
mod events;
mod gone;
mod history;
mod hosts;
mod launch;
mod leaks;
mod lists;
mod metastatic;
mod metrics;
mod nodes;
mod outlook;
mod overview;
mod placing;
mod published;
mod report;
mod requests;
mod spans;
mod stock;
#[cfg(test)]
mod tests;
mod view;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use nodepool_common::{
    config::{Config, ConfigErrors, Loaded},
    daemon::{Daemon, Frame, Pace, Wake},
    history::History,
    model::{Extra, LauncherId, PausedBy, PoolComponent, ProviderName, Timestamp},
    stats::Stats,
    sys::{clock::Clock, entropy::Entropy, host, watch},
    trace::Tracer,
    zk::{InSession, Registration, ZooKeeper},
};
use tokio::{sync::Semaphore, time::Instant};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{debug, info, warn};

pub use self::core::Core;
pub use self::published::{PassMade, Published, PublishedPool, Trouble};
pub use self::report::Readiness;
use self::{clouds::Clouds, events::Reports, spans::Spans};
use crate::plan::{Plan, PoolKey, Want, keeper_of};

/// The logger's name in the log, as upstream's.
const LOGGER: &str = "nodepool.NodePool";

/// What the command line says.
#[derive(Clone, Debug)]
pub struct Options {
    /// How often each cloud is searched for leaked resources. Upstream: 60 s.
    pub cleanup_interval: Duration,
    /// How long to wait before a deletion that failed is tried again. Upstream: 5 s.
    pub delete_interval: Duration,
    /// Age at which the lock directory of a request that is gone is removed. Upstream: 8 h.
    pub request_lock_age: Duration,
    /// The version that components carry.
    pub version: String,
    /// This host's full name, for the pools' ids. Found out once: the resolver may take its time.
    pub fqdn: String,
    /// Where what happens is kept; by default nowhere.
    pub history: History,
    /// What makes spans of what is done; by default it is off.
    pub tracer: Tracer,
}

/// A launcher at work.
#[derive(Debug)]
pub struct Launcher {
    options: Options,
    frame: Frame,
    /// The frame's, by their short names.
    zk: ZooKeeper,
    stats: Stats,
    clock: Clock,
    entropy: Entropy,
    wake: Wake,
    tasks: TaskTracker,
    ending: CancellationToken,
    /// What the loop shows of itself.
    published: watch::Sender<Arc<Published>>,
    clouds: Clouds,
    context: nodepool_drivers::Context,
    pools: Mutex<BTreeMap<PoolKey, RunningPool>>,
    /// Whether the pools have been withdrawn for good, because the launcher stops. Set and asked with `pools` locked.
    takes_part_no_more: AtomicBool,
    /// When all ready nodes were last looked at for those that have gone; `None`: they are to be now.
    looked_for_gone: Mutex<Option<Instant>>,
    readiness: Mutex<Readiness>,
    hosts_met: hosts::HostsMet,
    /// What the searches for leaks have held back.
    withheld: Mutex<BTreeMap<ProviderName, leaks::Withheld>>,
    /// Where others can ask this launcher over HTTP.
    web_url: OnceLock<String>,
    /// Whoever looks at everything for somebody who asks has this ([`view`]).
    long_looks: Arc<Semaphore>,
    /// What clouds are to be asked for somebody who asks us ([`view`]).
    wanted: Mutex<BTreeSet<Want>>,
    /// What other launchers have said of how everything stands ([`overview`]).
    others: Mutex<overview::Others>,
    spans: Spans,
}

/// A pool that takes part: its id and its component.
#[derive(Debug)]
struct RunningPool {
    launcher_id: LauncherId,
    registration: Registration,
    said: PoolComponent,
    /// Who of the site has paused it.
    paused_by: Option<PausedBy>,
}

impl RunningPool {
    fn publish(&self) {
        let said = self.said.clone();
        self.registration.update(|component| *component = said);
    }
}

impl Daemon for Launcher {
    type Core = Core;
    const LOGGER: &'static str = LOGGER;
    // What happens one at a time is met at once; in a burst, where each node brings some twenty events, a pass is for several.
    const PACE: Pace = Pace { every: Duration::from_millis(5), at_once: 20 };
    const LEAVE: Duration = Duration::from_secs(5);
    const PASSES_WHILE_RENEWING: bool = true;

    fn frame(&self) -> &Frame {
        &self.frame
    }

    fn start(self: &Arc<Self>) -> Registration {
        self.guard("reporter of statistics", Self::report_statistics);
        self.guard("keeper of what is held back", Self::forget_unclaimed);
        self.zk.register_launcher(&host::hostname(), &self.options.version)
    }

    fn note_loaded(&self, loaded: &Loaded) {
        self.note_usable(loaded);
    }

    fn note_invalid(&self, errors: &ConfigErrors) {
        self.note_unusable(errors);
    }

    /// Providers and pools come, change and go.
    fn configure(self: &Arc<Self>, _before: &Config, _loaded: &Loaded) {
        let config = self.config();
        self.apply_providers(&config);
        self.match_pools();
        self.report_configuration(&config);
    }

    fn clock_stepped(&self, core: &mut Core, step: f64) {
        core.clock_stepped(step);
        self.clouds.clock_stepped(step);
    }

    fn session_lost(&self, core: &mut Core) {
        warn!(logger = LOGGER, "The ZooKeeper session was lost: starting over from the records");
        self.clouds.search_anew();
        self.spans.lost();
        core.book.start_over();
    }

    fn catch_up(&self, core: &mut Core) {
        while let Some(told) = core.book.inbox().try_next() {
            self.apply(core, told);
        }
    }

    async fn hear(&self, core: &mut Core) {
        if let Some(told) = core.book.inbox().next().await {
            self.apply(core, told);
        }
    }

    fn pass(self: &Arc<Self>, core: &mut Core, stopping: bool) -> Option<Timestamp> {
        let wake_at = self.plan_and_act(core, stopping);
        self.publish(core, stopping);
        wake_at
    }

    fn stand_by(&self, core: &Core, stopping: bool) {
        self.publish(core, stopping);
    }

    fn is_idle(&self, core: &Core) -> bool {
        core.book.is_idle()
    }

    async fn drain(&self) {
        info!(logger = LOGGER, "Stopping: no new requests, running launches are finished first");
        self.withdraw_pools().await;
    }

    async fn quit(&self, core: &mut Core) {
        self.leave(core).await;
    }

    async fn end(&self) {
        self.withdraw_pools().await;
    }

    async fn state_dump(&self) -> String {
        self.describe()
    }
}

impl Launcher {
    /// The ZooKeeper session in which was decided what is reported there: all of it is done in that one or not at all.
    fn in_session(&self, reports: &Reports) -> InSession {
        self.zk.in_session(reports.session_id())
    }

    /// A launcher on its frame, and what its loop will own; nothing runs yet. Its drivers have the process's environment.
    pub fn new(options: Options, frame: Frame) -> (Arc<Self>, Core) {
        Self::with_context(options, frame, nodepool_drivers::Context::from_env())
    }

    /// The same with another environment for its drivers; they have the frame's metrics, time and chance.
    pub fn with_context(options: Options, frame: Frame, context: nodepool_drivers::Context) -> (Arc<Self>, Core) {
        let spans = Spans::new(options.tracer.clone());
        let launcher = Arc::new(Self {
            options,
            zk: frame.zk.clone(),
            stats: frame.stats.clone(),
            clock: frame.ambient.clock.clone(),
            entropy: frame.ambient.entropy.clone(),
            wake: frame.wake.clone(),
            tasks: frame.tasks.clone(),
            ending: frame.ending.clone(),
            published: watch::Sender::new(Arc::new(Published::nothing(frame.config()))),
            clouds: Clouds::new(frame.ambient.clock.clone()),
            context: context.with_stats(frame.stats.clone()).with_ambient(frame.ambient.clone()),
            pools: Mutex::default(),
            takes_part_no_more: AtomicBool::new(false),
            looked_for_gone: Mutex::default(),
            readiness: Mutex::default(),
            hosts_met: hosts::HostsMet::default(),
            withheld: Mutex::default(),
            web_url: OnceLock::new(),
            long_looks: Arc::new(Semaphore::new(1)),
            wanted: Mutex::default(),
            others: Mutex::default(),
            spans,
            frame,
        });
        (launcher, Core::new())
    }

    /// Says where others can ask this launcher over HTTP. To be called once, before its pools register.
    pub fn set_web_url(&self, url: String) {
        let _ = self.web_url.set(url);
    }

    /// The running configuration.
    pub fn config(&self) -> Arc<Config> {
        self.frame.config()
    }

    fn pools(&self) -> MutexGuard<'_, BTreeMap<PoolKey, RunningPool>> {
        self.pools.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether it is on this launcher to do what only one may do for a provider ([`keeper_of`]), as far as is known now.
    fn is_keeper_of(&self, provider: &ProviderName) -> bool {
        let keeper = self.zk.cache().read(|records| keeper_of(records, provider, &[]));
        let pools = self.pools();
        keeper.is_some_and(|keeper| pools.values().any(|pool| pool.launcher_id == keeper))
    }

    /// The ZooKeeper session; 0 while there is none.
    fn session_id(&self) -> i64 {
        self.zk.session().borrow().map_or(0, |session| session.0)
    }

    /// Brings the registered pools in line with the configuration; see [`clouds`] for when a pool takes part.
    fn match_pools(self: &Arc<Self>) {
        // Locked first: a concurrent call with an older configuration must not bring a removed pool back.
        let mut pools = self.pools();
        // Others would leave requests to a pool that came back during a drain, and wait for its word.
        if self.takes_part_no_more.load(Ordering::Relaxed) {
            return;
        }
        let config = self.config();
        let is_gone = |key: &PoolKey| {
            config.providers.get(&key.provider).is_none_or(|p| p.pool(&key.pool).is_none())
                || !self.clouds.takes_part(&key.provider)
        };
        let gone: Vec<_> = pools.keys().filter(|key| is_gone(key)).cloned().collect();
        let gone: Vec<_> = gone.iter().filter_map(|key| pools.remove_entry(key)).collect();
        for provider in config.providers.values() {
            for pool in &provider.pools {
                let key = PoolKey { provider: provider.name.clone(), pool: pool.name.clone() };
                let labels: Vec<_> = pool.labels.keys().cloned().collect();
                if let Some(running) = pools.get_mut(&key) {
                    if running.said.supported_labels != labels || running.said.priority != pool.priority {
                        running.said.supported_labels = labels;
                        running.said.priority = pool.priority;
                        running.publish();
                    }
                } else if self.clouds.takes_part(&provider.name) {
                    let launcher_id = LauncherId::from(format!(
                        "{}-PoolWorker.{key}-{}",
                        self.options.fqdn,
                        self.entropy.uuid().simple()
                    ));
                    let paused_by = self.zk.cache().read(|records| records.paused_by(&key.provider, &key.pool));
                    let mut said = PoolComponent {
                        hostname: host::hostname(),
                        state: "running".to_owned(),
                        version: Some(self.options.version.clone()),
                        model_api: 0,
                        id: Some(launcher_id.clone()),
                        name: Some(pool.name.clone()),
                        provider_name: Some(provider.name.clone()),
                        supported_labels: labels,
                        priority: pool.priority,
                        paused: paused_by.is_some() || self.clouds.is_absent(&provider.name),
                        extra: Extra::default(),
                    };
                    if let Some(url) = self.web_url.get() {
                        said.set_web_url(url);
                    }
                    let registration = self.zk.register_pool(said.clone());
                    info!(logger = LOGGER, "Pool {key} takes part as {launcher_id}");
                    // Whether it is paused is told with the first pass.
                    pools.insert(key, RunningPool { launcher_id, registration, said, paused_by: None });
                }
            }
        }
        drop(pools);
        for (key, pool) in gone {
            self.stats.pool_paused(&key.provider, &key.pool, None);
            self.stats.pool_paused_by_person(&key.provider, &key.pool, None);
            info!(logger = LOGGER, "Pool {key} takes part no longer: it was removed, or its provider cannot be used");
            self.tasks.spawn(pool.registration.withdraw());
        }
    }

    /// Tells others which pools wait for quota, for their cloud, or for a person of the site: others need not leave requests to those.
    fn publish_pauses(&self, plan: &Plan) {
        let records = self.zk.cache().snapshot();
        for (key, pool) in self.pools().iter_mut() {
            let lacks_quota = plan.paused.contains(key);
            self.stats.pool_paused(&key.provider, &key.pool, Some(lacks_quota));
            let paused_by = records.paused_by(&key.provider, &key.pool);
            self.stats.pool_paused_by_person(&key.provider, &key.pool, Some(paused_by.is_some()));
            if pool.paused_by != paused_by {
                self.tell_pause(key, paused_by.as_ref());
                pool.paused_by = paused_by;
            }
            let paused = lacks_quota || pool.paused_by.is_some() || self.clouds.is_absent(&key.provider);
            if pool.said.paused != paused {
                debug!(logger = LOGGER, "Pool {key} is {}", if paused { "paused" } else { "no longer paused" });
                pool.said.paused = paused;
                pool.publish();
            }
        }
    }

    /// Says it where a person of the site has paused a pool, or has ended that.
    fn tell_pause(&self, key: &PoolKey, by: Option<&PausedBy>) {
        let text = match by {
            Some(by) => format!("Pool {key} takes on nothing: {by}"),
            None => format!("Pool {key} takes on requests again: nobody pauses it any more"),
        };
        info!(logger = LOGGER, "{text}");
        self.put_down_pause(key, by.is_some(), text);
    }

    /// Withdraws all pools, for good: what a file or a provider brings later makes none.
    async fn withdraw_pools(&self) {
        let pools = {
            let mut pools = self.pools();
            self.takes_part_no_more.store(true, Ordering::Relaxed);
            std::mem::take(&mut *pools)
        };
        futures::future::join_all(pools.into_values().map(|pool| async move { pool.registration.withdraw().await }))
            .await;
    }
}
