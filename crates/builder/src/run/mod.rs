//! Acting: the builder's loop and the actions it carries out.
//!
//! One loop ([`Builder::run`]) waits until something may have changed (a record, the end of an action, the configuration, a
//! moment the planner named), calls [`plan`](crate::plan::plan) and hands each decision to a task of its own.
//!
//! | module | is about |
//! |---|---|
//! | [`actions`] | carrying a decision out: a task, what is busy meanwhile, when to try again |
//! | [`builds`] | the story of a build, from the lock to READY |
//! | [`uploads`] | the story of an upload |
//! | [`retire`] | deletions: of uploads, builds, files |
//! | [`clouds`] | the providers that images are uploaded to |
//! | [`withhold`] | files without a record that are not deleted |
//! | [`state`] | what this builder does, and what it does not try again yet |
//! | [`report`] | metrics |

mod actions;
mod builds;
mod clouds;
mod report;
mod retire;
mod state;
mod uploads;
mod withhold;

use std::{
    fs::File,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock},
    time::Duration,
};

use nix::fcntl::Flock;
use nodepool_common::{
    config::{self, Config},
    model::Holder,
    stats::Stats,
    sys::{
        clock, host,
        shutdown::{Shutdown, ShutdownReason},
    },
    zk::ZooKeeper,
};
use tokio::{sync::Notify, time::Instant};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{error, info, warn};

use self::{clouds::Clouds, state::State};
use crate::{
    build::{look, process},
    files,
    plan::{LocalFiles, World, plan},
};

/// The logger's name in the log, as upstream's.
const LOGGER: &str = "nodepool.builder";
/// Between two passes: what changes meanwhile is planned with together.
const PACE: Duration = Duration::from_millis(100);
/// Seconds between two looks at the configuration file.
const LOOK: f64 = 1.0;
/// For what still runs when the process is told to end: a build's own grace, and the record's last write.
const LEAVE: Duration = Duration::from_secs(25);

/// What the command line says.
#[derive(Clone, Debug)]
pub struct Options {
    /// `--build-workers`: builds at a time. Upstream's default: 1.
    pub build_workers: usize,
    /// `--upload-workers`: uploads at a time. Upstream's default: 4.
    pub upload_workers: usize,
    /// How often metrics are sent and the files looked at although nothing has happened. Upstream: 60 s. `None`: nothing is
    /// ever retired.
    pub cleanup_interval: Option<Duration>,
    /// The pause before a build or an upload that failed is tried again; doubles up to 60 times that.
    pub retry_interval: Duration,
    /// The version that the component carries.
    pub version: String,
    /// This host's full name: `builder` in the records.
    pub fqdn: String,
}

/// Why a builder cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The configuration lacks something that only a builder needs.
    #[error("{0}")]
    Config(String),
    /// images-dir cannot be used.
    #[error(
        "cannot use images-dir {}: {source}; it must exist, this user must be able to write to it, and no other builder may \
         use it", path.display()
    )]
    ImagesDir {
        /// As it is configured.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
}

/// A builder at work.
#[derive(Debug)]
pub struct Builder {
    options: Options,
    /// From images-dir.
    id: String,
    /// As it was at the start: a builder is who it is there.
    images_dir: PathBuf,
    /// On images-dir.
    _claim: Option<Flock<File>>,
    zk: ZooKeeper,
    stats: Stats,
    config: RwLock<Arc<Config>>,
    watcher: Mutex<config::Watcher>,
    state: Mutex<State>,
    clouds: Clouds,
    wake: Notify,
    tasks: TaskTracker,
    /// Cancelled when the process ends: builds and uploads end with it.
    ending: CancellationToken,
}

impl Builder {
    /// A builder with a first configuration; nothing runs yet. Reads or makes its id. `watcher` was made before the
    /// configuration was loaded, so that no change is missed.
    pub fn new(
        options: Options,
        watcher: config::Watcher,
        config: Arc<Config>,
        zk: ZooKeeper,
        stats: Stats,
    ) -> Result<Arc<Self>, StartError> {
        let Some(images_dir) = config.images_dir.clone() else {
            return Err(StartError::Config("No images-dir specified in config.".to_owned()));
        };
        let id = files::builder_id(&images_dir)
            .map_err(|source| StartError::ImagesDir { path: images_dir.clone(), source })?;
        let claim =
            files::claim(&images_dir).map_err(|source| StartError::ImagesDir { path: images_dir.clone(), source })?;
        let clouds = Clouds::new(nodepool_drivers::Context::from_env().with_stats(stats.clone()));
        Ok(Arc::new(Self {
            options,
            id,
            images_dir,
            _claim: claim,
            zk,
            stats,
            config: RwLock::new(config),
            watcher: Mutex::new(watcher),
            state: Mutex::default(),
            clouds,
            wake: Notify::new(),
            tasks: TaskTracker::new(),
            ending: CancellationToken::new(),
        }))
    }

    /// The running configuration.
    pub fn config(&self) -> Arc<Config> {
        Arc::clone(&self.config.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Never held across an await.
    fn watcher(&self) -> MutexGuard<'_, config::Watcher> {
        self.watcher.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Never held across an await.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs until told to stop. Returns when everything that ran has ended.
    pub async fn run(self: &Arc<Self>, shutdown: &Shutdown) {
        let mut stop = shutdown.reason();
        self.end_leftovers().await;
        self.apply_config(&self.config());
        self.guard(shutdown, "watcher of the configuration", Self::watch_config);
        self.guard(shutdown, "watcher of the ZooKeeper session", Self::watch_session);
        self.guard(shutdown, "reporter of statistics", Self::report_regularly);
        let component = self.zk.register_builder(&host::hostname(), &self.options.version);
        info!(logger = LOGGER, "Builder {} started", self.id);

        let mut changed = self.zk.cache().changed();
        let mut stopping = false;
        let mut steps = clock::Steps::default();
        loop {
            if let Some(step) = steps.step(clock::now(), std::time::Instant::now()) {
                warn!(
                    logger = LOGGER,
                    "The clock was set by {step:.0} s: what waits for a time waits as long as before"
                );
                self.state().clock_stepped(step);
                self.zk.cache().clock_stepped(step);
            }
            let passed = Instant::now();
            let wake_at = if self.zk.cache().ready() { self.pass(stopping) } else { None };
            if stopping && self.state().is_idle() {
                break;
            }
            let pause = wake_at.map_or(clock::LONGEST_SLEEP, clock::until);
            tokio::select! {
                result = changed.changed() => if result.is_err() { break },
                () = self.wake.notified() => {}
                () = tokio::time::sleep(pause) => {}
                result = stop.changed() => {
                    let reason = *stop.borrow_and_update();
                    match reason {
                        Some(ShutdownReason::Graceful) => {
                            let running = self.state().under_way();
                            let what = if running.is_empty() { "nothing runs" } else { "finished first: " };
                            info!(logger = LOGGER, "Stopping: nothing new is begun; {what}{running}");
                            stopping = true;
                        }
                        Some(ShutdownReason::Terminate) => break,
                        None => if result.is_err() { break },
                    }
                }
            }
            tokio::time::sleep_until(passed + PACE).await;
        }
        let running = self.state().under_way();
        if !running.is_empty() {
            info!(logger = LOGGER, "Ending what still runs: {running}");
        }
        self.ending.cancel();
        self.tasks.close();
        if tokio::time::timeout(LEAVE, self.tasks.wait()).await.is_err() {
            warn!(logger = LOGGER, "{} tasks did not end in time and are left behind", self.tasks.len());
        }
        component.withdraw().await;
        info!(logger = LOGGER, "Stopped");
    }

    /// What a killed builder has left running in our images-dir would write into it.
    async fn end_leftovers(&self) {
        let images_dir = self.images_dir.clone();
        let ended = tokio::task::spawn_blocking(move || process::end_leftovers(&images_dir)).await.unwrap_or_default();
        if ended > 0 {
            warn!(logger = LOGGER, "Ended {ended} processes of builds that an earlier builder has left");
        }
    }

    /// One pass: plan, and start what was decided. Returns when to pass again at the latest.
    ///
    /// While the file says something else than the configuration in force, nothing is begun: it would be against
    /// what the operator has written. A provider that was taken out and then erased would get its images back, and
    /// nobody who has it in the configuration would be left to delete them.
    fn pass(self: &Arc<Self>, stopping: bool) -> Option<f64> {
        let now = clock::now();
        let behind = self.watcher().is_behind();
        let config = self.config();
        let files = self.local_files();
        let providers = self.clouds.images();
        let holder = Holder::Builder(self.id.clone());
        let (plan, held_before) = {
            let mut state = self.state();
            state.tidy(now);
            let (plan, held_before) = self.zk.cache().read(|records| {
                let plan = plan(&World {
                    now,
                    config: &config,
                    records,
                    builder_id: &self.id,
                    files: files.as_ref(),
                    lacks_providers: state.lacks_providers,
                    providers: &providers,
                    doing: &state.doing,
                    build_workers: self.options.build_workers,
                    upload_workers: self.options.upload_workers,
                    retires: self.options.cleanup_interval.is_some(),
                    stopping: stopping || behind,
                });
                (plan, records.held_back.get(&holder).cloned())
            });
            state.doing.wanted.clone_from(&plan.wanted);
            (plan, held_before)
        };
        if let Some(held) = plan.held_back {
            self.withhold(held, held_before);
        }
        for decision in plan.decisions {
            self.carry_out(decision);
        }
        // An invalid file is no event.
        if behind { Some(now + LOOK) } else { plan.wake_at }
    }

    /// The files in images-dir; `None` where it cannot be read, which is said once.
    fn local_files(&self) -> Option<LocalFiles> {
        let images_dir = &self.images_dir;
        let found = files::scan(images_dir);
        let mut state = self.state();
        match found {
            Ok(files) => {
                state.files_trouble.clear();
                Some(files)
            }
            Err(error) => {
                let trouble = format!("Cannot read images-dir {}: {error}", images_dir.display());
                if state.files_trouble != trouble {
                    error!(logger = LOGGER, "{trouble}");
                    state.files_trouble = trouble;
                }
                None
            }
        }
    }

    /// Spawns a task that ends when the builder does, and without which it would be deaf.
    fn guard<F>(self: &Arc<Self>, shutdown: &Shutdown, what: &'static str, task: impl FnOnce(Arc<Self>) -> F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let guarded = shutdown.guard(what, task(Arc::clone(self)));
        self.spawn(|_| guarded);
    }

    /// Spawns a task that ends when the builder does.
    fn spawn<F>(self: &Arc<Self>, task: impl FnOnce(Arc<Self>) -> F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let future = task(Arc::clone(self));
        let ending = self.ending.clone();
        self.tasks.spawn(async move {
            tokio::select! {
                () = future => {}
                () = ending.cancelled() => {}
            }
        });
    }

    /// Makes a configuration the running one.
    fn apply_config(self: &Arc<Self>, config: &Arc<Config>) {
        let before =
            std::mem::replace(&mut *self.config.write().unwrap_or_else(PoisonError::into_inner), Arc::clone(config));
        if let Err(error) = self.zk.set_servers(&config.zookeeper) {
            error!(logger = LOGGER, "The new ZooKeeper servers cannot be used, the old ones stay: {error}");
        }
        if config.images_dir.as_ref() != Some(&self.images_dir) {
            let ours = self.images_dir.display();
            error!(
                logger = LOGGER,
                "images-dir has changed in the configuration: {ours} stays in use until the next start"
            );
        }
        let changed = self.clouds.apply(config);
        self.state().reconsider(&before, config, &changed);
        self.wake.notify_one();
    }

    /// Looks at the file once a second; a half-written or broken one leaves the running configuration in place.
    async fn watch_config(self: Arc<Self>) {
        let mut ticks = tokio::time::interval(Duration::from_secs_f64(LOOK));
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            // The watcher is held until a change is in force, so that no pass takes the old configuration for current.
            match self.watcher().poll() {
                config::Poll::Unchanged | config::Poll::Settling => {}
                config::Poll::Changed(loaded) => {
                    info!(logger = LOGGER, "Configuration changed");
                    self.note_loaded(&loaded);
                    let config = loaded.keeping_broken(&self.config());
                    self.apply_config(&config);
                    self.note_left_out(&loaded);
                }
                config::Poll::Invalid(errors) => {
                    error!(
                        logger = LOGGER,
                        "The configuration file is invalid; the running configuration stays in force:\n{errors}"
                    );
                    self.stats.config_reload_failed();
                }
            }
        }
    }

    /// Says what is odd in a configuration that can be used.
    pub fn note_loaded(&self, loaded: &config::Loaded) {
        for warning in &loaded.warnings {
            warn!(logger = "nodepool.config", "{warning}");
        }
        if let Some(path) = &loaded.extensions {
            info!(logger = "nodepool.config", "Keys of our own are read from {}", path.display());
        }
        if let Some(broken) = &loaded.broken_extensions {
            error!(logger = "nodepool.config", "{broken}");
        }
        let look::Findings { warnings, notes } = look::at_programs(&loaded.config);
        for warning in &warnings {
            warn!(logger = "nodepool.config", "{warning}");
        }
        for note in &notes {
            info!(logger = "nodepool.config", "{note}");
        }
        for broken in &loaded.broken_providers {
            error!(logger = "nodepool.config", "Provider {} is left out: {}", broken.name, broken.reason);
        }
        // Launchers leave it out; its provider's images are built and uploaded all the same.
        for broken in &loaded.broken_parts {
            warn!(logger = "nodepool.config", "{broken}");
        }
        self.stats.config_valid(loaded.broken_providers.is_empty() && loaded.broken_extensions.is_none());
        self.note_left_out(loaded);
    }

    /// Whether there are providers that are not in the running configuration.
    fn note_left_out(&self, loaded: &config::Loaded) {
        let running = self.config();
        self.state().lacks_providers =
            loaded.broken_providers.iter().any(|broken| !running.providers.contains_key(&broken.name));
    }

    /// Plans anew in each session: a lock that was lost is free for others.
    async fn watch_session(self: Arc<Self>) {
        let mut sessions = self.zk.session();
        let mut current = None;
        loop {
            let session = *sessions.borrow_and_update();
            self.stats.zk_connected(session.is_some());
            if let Some(session) = session {
                if current.is_some_and(|current| current != session) {
                    warn!(
                        logger = LOGGER,
                        "The ZooKeeper session was lost: builds and uploads that run go on, and are taken up again"
                    );
                }
                if current != Some(session) {
                    self.stats.zk_session();
                }
                current = Some(session);
                self.wake.notify_one();
            }
            if sessions.changed().await.is_err() {
                return;
            }
        }
    }
}
