//! [`Process`]: one builder, from its start to its end, however that comes.

use std::{
    path::Path,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use nodepool_builder::run::{Builder, Options};
use nodepool_common::{
    daemon::{self, Daemon, Start},
    stats::Stats,
    sys::{Ambient, clock::Simulated, entropy::Entropy, shutdown::ShutdownReason},
    zk::memory::Memory,
};
use nodepool_drivers::Context;
use tokio::task::JoinHandle;

use super::{
    super::{
        chance::Chance,
        network::{Line, SESSION, SharedPeers},
        story::{Story, broken, tell},
        truth::SharedTruth as Sessions,
    },
    cloud::Clouds,
    machine::{OnSite, Site},
    truth::SharedTruth,
};

/// What is around a process.
#[derive(Clone, Debug)]
pub struct Around {
    pub memory: Memory,
    pub clouds: Clouds,
    pub truth: SharedTruth,
    pub sessions: Sessions,
    pub peers: SharedPeers,
    pub story: Story,
}

/// See the module's comment.
#[derive(Debug)]
pub struct Process {
    pub name: String,
    builder: Arc<Builder>,
    clock: Simulated,
    is_dead: Arc<AtomicBool>,
    line: Line,
    running: JoinHandle<()>,
    story: Story,
    truth: SharedTruth,
    set_by: Mutex<f64>,
}

fn options(name: &str, build_workers: usize) -> Options {
    Options {
        build_workers,
        upload_workers: 2,
        cleanup_interval: Some(Duration::from_secs(60)),
        retry_interval: Duration::from_secs(10),
        version: "simulated".to_owned(),
        fqdn: format!("{name}.example"),
    }
}

impl Process {
    /// Starts a builder with that configuration on that machine; its clock shows `now`.
    pub fn start(
        name: &str,
        config: &Path,
        now: f64,
        chance: &Chance,
        around: &Around,
        site: Arc<Site>,
        build_workers: usize,
    ) -> Self {
        let clock = Simulated::starting_at(now);
        let mut start = Start::load(config, None).unwrap();
        start.ambient = Ambient { clock: clock.clock(), entropy: Entropy::seeded(chance.seed()) };
        let is_dead = Arc::new(AtomicBool::new(false));
        let Around { memory, clouds, truth, sessions, peers, story } = around;
        let line = Line::new(name, Arc::clone(&is_dead), memory.clone(), sessions.clone(), peers.clone());
        let (frame, loaded) = start.connect_with(Arc::new(line.clone()), SESSION, Stats::new(None));
        let context = Context::default().with_other_clouds(clouds.of_process(name, Arc::clone(&is_dead)));
        let machine = OnSite { site, process: name.to_owned(), is_dead: Arc::clone(&is_dead) };
        let builder = Builder::on(options(name, build_workers), frame, context, Arc::new(machine)).unwrap();
        tell!(story, "{name}: starts");
        truth.open().living.insert(name.to_owned(), Arc::clone(&is_dead));
        let ours = Arc::clone(&builder);
        let running = tokio::spawn(async move {
            daemon::run(&ours, (), &loaded).await;
        });
        let (story, truth, set_by) = (story.clone(), truth.clone(), Mutex::default());
        Self { name: name.to_owned(), builder, clock, is_dead, line, running, story, truth, set_by }
    }

    /// Nothing of it is heard any more, whether its connection works or is broken already; its session expires later.
    pub fn kill(&self) {
        tell!(self.story, "{}: is killed", self.name);
        self.truth.open().living.remove(&self.name);
        self.is_dead.store(true, Ordering::SeqCst);
        self.line.cut();
        self.builder.frame().shutdown.request(ShutdownReason::Terminate);
    }

    /// Tells it to stop, and waits for that; kills it where that takes too long.
    pub async fn stop(mut self, reason: ShutdownReason, patience: Duration) {
        tell!(self.story, "{}: is told to stop: {reason:?}", self.name);
        self.builder.frame().shutdown.request(reason);
        if tokio::time::timeout(patience, &mut self.running).await.is_err() {
            if reason == ShutdownReason::Terminate && !self.is_dead.load(Ordering::SeqCst) {
                broken!(self.story, "an end", "{} does not stop within {} s", self.name, patience.as_secs());
            }
            self.kill();
        } else {
            tell!(self.story, "{}: has stopped", self.name);
            self.truth.open().living.remove(&self.name);
        }
    }

    /// Breaks its connection.
    pub fn cut(&self) {
        tell!(self.story, "{}: its connection breaks", self.name);
        self.line.cut();
    }

    /// Sets its host's clock.
    pub fn set_clock(&self, seconds: f64) {
        tell!(self.story, "{}: its clock is set by {seconds} s", self.name);
        *self.set_by.lock().unwrap_or_else(PoisonError::into_inner) += seconds;
        self.clock.set_by(seconds);
    }

    /// Its host's clock is right again.
    pub fn set_clock_right(&self) {
        let set_by = *self.set_by.lock().unwrap_or_else(PoisonError::into_inner);
        if set_by != 0.0 {
            self.set_clock(-set_by);
        }
    }
}
