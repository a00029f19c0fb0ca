//! The loop, the watchers beside it, and the end.

use std::{process::ExitCode, sync::Arc, thread, time::Duration};

use imbl::OrdMap;
use tokio::{
    runtime::{Handle, RuntimeFlavor},
    time::{Instant, MissedTickBehavior},
};
use tracing::{error, info, warn};

use super::{
    frame::Frame,
    passes::{self, Found},
};
use crate::{
    config::{self, Config, ConfigErrors, Loaded},
    model::{PoolComponent, Timestamp},
    stats::Stats,
    sys::{
        clock,
        pace::{Pace, Pacer},
        shutdown::ShutdownReason,
    },
    zk::{Freshness, Registration, SessionId},
};

/// How often the configuration's files are looked at.
pub const LOOK: Duration = Duration::from_secs(1);
/// For the tasks that are left when a daemon has ended.
const LAST_TASKS: Duration = Duration::from_secs(5);

/// What is a daemon's own.
pub trait Daemon: Sized + Send + Sync + 'static {
    /// What the loop alone owns: nobody else has a reference to it, so no lock guards it. `()` where there is nothing.
    type Core: Send + 'static;
    /// The logger of what is said of the daemon as a whole, as upstream's.
    const LOGGER: &'static str;
    /// How soon passes follow each other.
    const PACE: Pace;
    /// How long the end waits for what runs.
    const LEAVE: Duration;
    /// Whether passes are made, too, while the tree is read again after a broken connection ([`Freshness::Renewing`]): then what
    /// is not in the records may be there.
    const PASSES_WHILE_RENEWING: bool = false;

    /// What it stands on.
    fn frame(&self) -> &Frame;

    /// Before all else.
    fn prepare(&self) -> impl Future<Output = ()> + Send {
        async {}
    }

    /// Spawns the daemon's own tasks, and registers its component, which is withdrawn in the end. The configuration is in
    /// force already.
    fn start(self: &Arc<Self>) -> Registration;

    /// Says what is odd in a configuration that can be used, and keeps of it what people can ask. It is not in force yet.
    fn note_loaded(&self, loaded: &Loaded);

    /// Keeps what people can ask of one that cannot; it has been logged.
    fn note_invalid(&self, _errors: &ConfigErrors) {}

    /// Puts a configuration into force: [`Frame::config`] is it already. What is broken in it is as it was `before`.
    fn configure(self: &Arc<Self>, before: &Config, loaded: &Loaded);

    /// The clock was set by that many seconds: all times kept in memory are moved, so that pauses last as long as before.
    fn clock_stepped(&self, core: &mut Self::Core, step: f64);

    /// There is another ZooKeeper session: all locks of the one before are gone.
    fn session_lost(&self, core: &mut Self::Core);

    /// Takes in what the core was told since the last pass, in its order. Before each pass.
    fn catch_up(&self, _core: &mut Self::Core) {}

    /// Waits until the core is told something, and takes it in. May be dropped while it waits.
    fn hear(&self, _core: &mut Self::Core) -> impl Future<Output = ()> + Send {
        std::future::pending()
    }

    /// One pass: decides, and starts what was decided. Returns when to pass again at the latest. Is called only while the
    /// tree is known, if [`Self::PASSES_WHILE_RENEWING`] also while it is being renewed.
    fn pass(self: &Arc<Self>, core: &mut Self::Core, stopping: bool) -> Option<Timestamp>;

    /// A turn of the loop in which no pass can be made: what is in ZooKeeper is not known.
    fn stand_by(&self, _core: &Self::Core, _stopping: bool) {}

    /// Whether nothing runs that a graceful stop waits for.
    fn is_idle(&self, core: &Self::Core) -> bool;

    /// A graceful stop begins: from now on passes are `stopping`.
    fn drain(&self) -> impl Future<Output = ()> + Send;

    /// A quick stop: hands back what others may take over. Nothing is begun any more.
    fn quit(&self, _core: &mut Self::Core) -> impl Future<Output = ()> + Send {
        async {}
    }

    /// What runs and is ended now, for the log; empty: nothing that is worth a word.
    fn under_way(&self) -> String {
        String::new()
    }

    /// The end has come, of either stop; what runs has been told.
    fn end(&self) -> impl Future<Output = ()> + Send {
        async {}
    }

    /// What it holds and does, for the log.
    fn state_dump(&self) -> impl Future<Output = String> + Send;

    /// Spawns a task that ends when the daemon does.
    fn spawn<F>(self: &Arc<Self>, task: impl FnOnce(Arc<Self>) -> F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        self.frame().spawn(task(Arc::clone(self)));
    }

    /// The same with a task without which the daemon cannot do its work; `what` it is, for the log.
    fn guard<F>(self: &Arc<Self>, what: &'static str, task: impl FnOnce(Arc<Self>) -> F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        self.frame().guard(what, task(Arc::clone(self)));
    }
}

/// Runs a daemon until it is told to stop, and ends everything. `loaded`: its first configuration.
pub async fn run<D: Daemon>(daemon: &Arc<D>, core: D::Core, loaded: &Loaded) -> ExitCode {
    let frame = daemon.frame();
    frame.shutdown.guard("daemon's main loop", live(daemon, core, loaded)).await;
    // Also where it panicked: nothing that runs is to go on while the connection is closed.
    frame.ending.cancel();
    frame.zk.close().await;
    frame.end.cancel();
    // Also where the daemon ended by itself.
    frame.shutdown.request(ShutdownReason::Terminate);
    frame.shutdown.join(LAST_TASKS).await;
    frame.shutdown.exit_code()
}

async fn live<D: Daemon>(daemon: &Arc<D>, core: D::Core, loaded: &Loaded) {
    let frame = daemon.frame();
    note_loaded(&**daemon, loaded);
    daemon.prepare().await;
    put_into_force(daemon, &frame.config(), loaded);
    daemon.guard("watcher of the configuration", watch_config);
    watch_passes(daemon);
    daemon.spawn(dump_on_signal);
    let component = daemon.start();

    // A task, as those that it starts and that wake it: with it on a thread of its own, each event would change threads twice.
    if let Err(error) = tokio::spawn(make_passes(Arc::clone(daemon), core)).await
        && let Ok(panic) = error.try_into_panic()
    {
        std::panic::resume_unwind(panic);
    }

    let running = daemon.under_way();
    if !running.is_empty() {
        info!(logger = D::LOGGER, "Ending what still runs: {running}");
    }
    frame.ending.cancel();
    daemon.end().await;
    frame.tasks.close();
    if tokio::time::timeout(D::LEAVE, frame.tasks.wait()).await.is_err() {
        warn!(logger = D::LOGGER, "{} tasks did not end in time and are left behind", frame.tasks.len());
    }
    component.withdraw().await;
    info!(logger = D::LOGGER, "Stopped");
}

/// The loop, until the end of a stop.
async fn make_passes<D: Daemon>(daemon: Arc<D>, mut core: D::Core) {
    let frame = daemon.frame();
    let mut known = Known::default();
    let mut stop = frame.shutdown.reason();
    // It may have been told already.
    stop.mark_changed();
    let (mut changed, mut sessions) = (frame.zk.cache().changed(), frame.zk.session());
    let mut session = Session::default();
    let mut stopping = false;
    let mut pacer = Pacer::new(D::PACE);
    loop {
        let begun = Instant::now();
        let next_from = pacer.begin(begun);
        frame.wake.answer();
        let now = frame.ambient.clock.now();
        let set_by = frame.steps().step(now, begun);
        if let Some(step) = set_by {
            warn!(
                logger = D::LOGGER,
                "The clock was set by {step:.0} s: what waits for a time waits as long as before"
            );
            daemon.clock_stepped(&mut core, step);
            frame.zk.cache().clock_stepped(step);
        }
        let connected = *sessions.borrow_and_update();
        if session.is_another(connected, &frame.stats) {
            daemon.session_lost(&mut core);
        }
        daemon.catch_up(&mut core);
        let mut wake_at = None;
        let is_known = match frame.zk.cache().freshness() {
            Freshness::Current => true,
            Freshness::Renewing => D::PASSES_WHILE_RENEWING,
            Freshness::Stale => false,
        };
        if is_known {
            frame.passes.begin();
            let mut pass = || daemon.pass(&mut core, stopping);
            let is_long = known.is_other(frame, stopping) || set_by.is_some();
            wake_at = if is_long { beside_other_tasks(pass) } else { pass() };
        } else {
            daemon.stand_by(&core, stopping);
        }
        if let Some(Found::Again(after)) = frame.passes.end() {
            warn!(logger = D::LOGGER, "A pass has ended, after {after} s: the daemon goes on");
        }
        if stopping && daemon.is_idle(&core) {
            return;
        }
        // From the moment for which the pass has decided: whoever sets the clock meanwhile does not change how long that is.
        let pause = wake_at.map_or(clock::LONGEST_SLEEP, |at| clock::sleep_between(now, at));
        let until = (begun + pause).max(Instant::now() + clock::SHORTEST_SLEEP);
        frame.passes.wait(wake_at.map(|_| until), *changed.borrow());
        let told = tokio::select! {
            // A stop waits for no chance: where many things happen, it is next all the same.
            biased;
            result = stop.changed() => {
                let reason = *stop.borrow_and_update();
                if reason.is_none() && result.is_err() {
                    return;
                }
                reason
            }
            result = changed.changed() => if result.is_err() { return } else { None },
            result = sessions.changed() => if result.is_err() { return } else { None },
            () = frame.wake.notified() => None,
            () = daemon.hear(&mut core) => None,
            () = tokio::time::sleep_until(until) => None,
        };
        frame.passes.go_on();
        match told {
            Some(ShutdownReason::Graceful) => {
                stopping = true;
                daemon.drain().await;
            }
            Some(ShutdownReason::Terminate) => {
                daemon.quit(&mut core).await;
                return;
            }
            None => {}
        }
        if next_from > begun {
            tokio::time::sleep_until(next_from).await;
        }
    }
}

/// What passes decide by as a whole. Where one of these is another, all records are looked at.
#[derive(Default)]
struct Known {
    walks: u64,
    stopping: bool,
    pools: OrdMap<String, Arc<PoolComponent>>,
    config: Option<Arc<Config>>,
}

impl Known {
    /// Whether something of it is another than at the last call.
    fn is_other(&mut self, frame: &Frame, stopping: bool) -> bool {
        let (walks, config) = (frame.zk.cache().walks(), frame.config());
        let pools = frame.zk.cache().snapshot().pools;
        let is_same = self.walks == walks
            && self.stopping == stopping
            && self.pools.ptr_eq(&pools)
            && self.config.as_ref().is_some_and(|known| Arc::ptr_eq(known, &config));
        *self = Self { walks, stopping, pools, config: Some(config) };
        !is_same
    }
}

/// Runs what may take a second, while another thread goes on with the tasks of this one: the session is to be pinged. That other
/// thread has to be woken, so it is not worth while for what takes a millisecond.
pub fn beside_other_tasks<T>(work: impl FnOnce() -> T) -> T {
    match Handle::current().runtime_flavor() {
        RuntimeFlavor::MultiThread => tokio::task::block_in_place(work),
        // In tests, where all is on one thread.
        _ => work(),
    }
}

/// Looks at the files once a second; half-written or broken ones leave the running configuration in place.
async fn watch_config<D: Daemon>(daemon: Arc<D>) {
    let frame = daemon.frame();
    let mut ticks = tokio::time::interval(LOOK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        // The watcher is held until a change is in force, so that no pass takes the old configuration for current.
        match frame.watcher().poll() {
            config::Poll::Unchanged | config::Poll::Settling => {}
            config::Poll::Changed(loaded) => {
                info!(logger = D::LOGGER, "Configuration changed");
                note_loaded(&*daemon, &loaded);
                let before = frame.replace_config(&loaded.keeping_broken(&frame.config()));
                put_into_force(&daemon, &before, &loaded);
            }
            config::Poll::Invalid(errors) => {
                error!(
                    logger = D::LOGGER,
                    "The configuration file is invalid; the running configuration stays in force:\n{errors}"
                );
                daemon.note_invalid(&errors);
                frame.stats.config_reload_failed();
            }
        }
    }
}

/// Says what is odd in a configuration that can be used.
fn note_loaded<D: Daemon>(daemon: &D, loaded: &Loaded) {
    for warning in &loaded.warnings {
        warn!(logger = "nodepool.config", "{warning}");
    }
    if let Some(path) = &loaded.extensions {
        info!(logger = "nodepool.config", "Keys of our own are read from {}", path.display());
    }
    if let Some(broken) = &loaded.broken_extensions {
        error!(logger = "nodepool.config", "{broken}");
    }
    daemon.note_loaded(loaded);
}

/// Of what is the running configuration now.
fn put_into_force<D: Daemon>(daemon: &Arc<D>, before: &Config, loaded: &Loaded) {
    let frame = daemon.frame();
    if frame.has_configured_servers
        && let Err(error) = frame.zk.set_servers(&frame.config().zookeeper)
    {
        error!(logger = D::LOGGER, "The new ZooKeeper servers cannot be used, the old ones stay: {error}");
    }
    daemon.configure(before, loaded);
    frame.wake.notify_one();
}

/// The ZooKeeper session in which all was done.
#[derive(Default)]
struct Session {
    last: Option<SessionId>,
    /// Whether there is one, as last reported.
    is_connected: Option<bool>,
}

impl Session {
    /// Whether the locks of the last session are gone. While there is none, what was done in the last one may still be good: it
    /// may come back.
    fn is_another(&mut self, now: Option<SessionId>, stats: &Stats) -> bool {
        if self.is_connected.replace(now.is_some()) != Some(now.is_some()) {
            stats.zk_connected(now.is_some());
        }
        if now.is_none() || now == self.last {
            return false;
        }
        stats.zk_session();
        std::mem::replace(&mut self.last, now).is_some()
    }
}

/// Notices passes that do not end, on a thread of its own: a pass that hangs keeps a thread of the runtime, and whatever
/// waits for what that has locked keeps the others.
fn watch_passes<D: Daemon>(daemon: &Arc<D>) {
    // Its thread would look once a second of the host's, and meanwhile nothing or an hour has passed.
    if daemon.frame().ambient.clock.is_simulated() {
        return;
    }
    let (watched, changed) = (Arc::downgrade(daemon), daemon.frame().zk.cache().changed());
    let runtime = Handle::current();
    let watch = move || {
        // Its clock is the one by which passes are due.
        let _runtime = runtime.enter();
        while let Some(daemon) = watched.upgrade().filter(|daemon| !daemon.frame().ending.is_cancelled()) {
            let frame = daemon.frame();
            let until_now = *changed.borrow();
            let found = frame.passes.tick(Instant::now(), frame.wake.is_pending(), until_now);
            frame.stats.pass_due_for(frame.passes.due_for());
            if let Some(Found::Overdue(why)) = found {
                error!(logger = D::LOGGER, "{why}");
            }
            drop(daemon);
            thread::sleep(passes::TICK);
        }
    };
    if let Err(error) = thread::Builder::new().name("passes".to_owned()).spawn(watch) {
        error!(logger = D::LOGGER, "Nobody watches whether passes end, there is no thread for it: {error}");
    }
}

/// SIGUSR2: what the daemon is doing goes to the log, where Python's threads would have dumped their stacks.
async fn dump_on_signal<D: Daemon>(daemon: Arc<D>) {
    let mut dumps = daemon.frame().shutdown.state_dumps();
    while dumps.changed().await.is_ok() {
        info!(logger = "nodepool.stack_dump", "{}", daemon.state_dump().await);
    }
}
