//! Acting: the builder's loop and the actions it carries out.
//!
//! One loop ([`nodepool_common::daemon`]) waits until something may have changed (a record, the end of an action, the configuration, a
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
    io,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use nix::fcntl::Flock;
use nodepool_common::{
    config::{Config, Loaded},
    daemon::{Daemon, Frame, Pace, run::LOOK},
    model::{Holder, Timestamp},
    stats::Stats,
    sys::{clock::Clock, entropy::Entropy, host},
    zk::{Registration, ZooKeeper},
};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use self::{clouds::Clouds, state::State};
use crate::{
    build::look,
    files,
    machine::{Machine, ThisMachine, on_files},
    plan::{LocalFiles, World, plan},
};

/// The logger's name in the log, as upstream's.
const LOGGER: &str = "nodepool.builder";

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
        source: io::Error,
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
    frame: Frame,
    /// The frame's, by their short names. Builds and uploads end with `ending`.
    zk: ZooKeeper,
    stats: Stats,
    clock: Clock,
    entropy: Entropy,
    ending: CancellationToken,
    state: Mutex<State>,
    clouds: Clouds,
    machine: Arc<dyn Machine>,
}

impl Daemon for Builder {
    /// What it does is known to its actions too: [`State`].
    type Core = ();
    const LOGGER: &'static str = LOGGER;
    const PACE: Pace = Pace { every: Duration::from_millis(100), at_once: 1 };
    /// A build's own grace, and the record's last write.
    const LEAVE: Duration = Duration::from_secs(25);

    fn frame(&self) -> &Frame {
        &self.frame
    }

    async fn prepare(&self) {
        self.end_leftovers().await;
    }

    fn start(self: &Arc<Self>) -> Registration {
        self.guard("reporter of statistics", Self::report_regularly);
        let component = self.zk.register_builder(&host::hostname(), &self.options.version);
        info!(logger = LOGGER, "Builder {} started", self.id);
        component
    }

    fn note_loaded(&self, loaded: &Loaded) {
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
    }

    fn configure(self: &Arc<Self>, before: &Config, loaded: &Loaded) {
        let config = self.config();
        if config.images_dir.as_ref() != Some(&self.images_dir) {
            let ours = self.images_dir.display();
            error!(
                logger = LOGGER,
                "images-dir has changed in the configuration: {ours} stays in use until the next start"
            );
        }
        let changed = self.clouds.apply(&config);
        let mut state = self.state();
        state.reconsider(before, &config, &changed);
        state.lacks_providers =
            loaded.broken_providers.iter().any(|broken| !config.providers.contains_key(&broken.name));
    }

    fn session_lost(&self, (): &mut ()) {
        warn!(
            logger = LOGGER,
            "The ZooKeeper session was lost: builds and uploads that run go on, and are taken up again"
        );
    }

    fn clock_stepped(&self, (): &mut (), step: f64) {
        self.state().clock_stepped(step);
    }

    fn pass(self: &Arc<Self>, (): &mut (), stopping: bool) -> Option<Timestamp> {
        self.plan_and_act(stopping)
    }

    fn is_idle(&self, (): &()) -> bool {
        self.state().is_idle()
    }

    async fn drain(&self) {
        let running = self.state().under_way();
        let what = if running.is_empty() { "nothing runs" } else { "finished first: " };
        info!(logger = LOGGER, "Stopping: nothing new is begun; {what}{running}");
    }

    fn under_way(&self) -> String {
        self.state().under_way()
    }

    async fn state_dump(&self) -> String {
        format!("{:#?}", self.state())
    }
}

impl Builder {
    /// A builder on its frame; nothing runs yet. Reads or makes its id. It has the process's environment and its machine.
    pub fn new(options: Options, frame: Frame) -> Result<Arc<Self>, StartError> {
        Self::on(options, frame, nodepool_drivers::Context::from_env(), Arc::new(ThisMachine))
    }

    /// The same with another environment for its drivers, on another machine.
    pub fn on(
        options: Options,
        frame: Frame,
        context: nodepool_drivers::Context,
        machine: Arc<dyn Machine>,
    ) -> Result<Arc<Self>, StartError> {
        let Some(images_dir) = frame.config().images_dir.clone() else {
            return Err(StartError::Config("No images-dir specified in config.".to_owned()));
        };
        let id = files::builder_id(&images_dir, &frame.ambient.entropy)
            .map_err(|source| StartError::ImagesDir { path: images_dir.clone(), source })?;
        let claim =
            machine.claim(&images_dir).map_err(|source| StartError::ImagesDir { path: images_dir.clone(), source })?;
        let context = context.with_stats(frame.stats.clone()).with_ambient(frame.ambient.clone());
        Ok(Arc::new(Self {
            options,
            id,
            images_dir,
            _claim: claim,
            zk: frame.zk.clone(),
            stats: frame.stats.clone(),
            clock: frame.ambient.clock.clone(),
            entropy: frame.ambient.entropy.clone(),
            ending: frame.ending.clone(),
            frame,
            state: Mutex::default(),
            clouds: Clouds::new(context),
            machine,
        }))
    }

    /// The running configuration.
    pub fn config(&self) -> Arc<Config> {
        self.frame.config()
    }

    /// Does work on files ([`Machine::work_on_files`]).
    async fn on_files<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> io::Result<T> + Send + 'static,
    ) -> io::Result<T> {
        on_files(&*self.machine, work).await
    }

    /// Never held across an await.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What a killed builder has left running in our images-dir would write into it.
    async fn end_leftovers(&self) {
        let ended = self.machine.end_leftovers(self.images_dir.clone()).await;
        if ended > 0 {
            warn!(logger = LOGGER, "Ended {ended} processes of builds that an earlier builder has left");
        }
    }

    /// One pass: plan, and start what was decided. Returns when to pass again at the latest.
    ///
    /// While the file says something else than the configuration in force, nothing is begun: it would be against
    /// what the operator has written. A provider that was taken out and then erased would get its images back, and
    /// nobody who has it in the configuration would be left to delete them.
    fn plan_and_act(self: &Arc<Self>, stopping: bool) -> Option<Timestamp> {
        let session = (*self.zk.session().borrow())?;
        let (now, uptime) = (self.clock.now(), self.clock.uptime());
        let behind = self.frame.is_behind();
        let config = self.config();
        let files = self.local_files();
        let providers = self.clouds.images();
        let holder = Holder::Builder(self.id.clone());
        let (plan, held_before) = {
            let mut state = self.state();
            state.tidy(uptime);
            // Those of another session are gone in a moment, which wakes us.
            let records = self.zk.cache().snapshot_in(session)?;
            let plan = plan(&World {
                now,
                uptime,
                config: &config,
                records: &records,
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
            state.doing.wanted.clone_from(&plan.wanted);
            (plan, records.held_back.get(&holder).cloned())
        };
        if let Some(held) = plan.held_back {
            self.withhold(session, held, held_before);
        }
        for decision in plan.decisions {
            self.carry_out(decision);
        }
        // An invalid file is no event.
        if behind { Some(now + LOOK.as_secs_f64()) } else { plan.wake_at }
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
}
