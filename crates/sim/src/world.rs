//! A history: the world is made, its troubles happen, they end, and the last look is taken.

mod rest;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, UNIX_EPOCH},
};

use nodepool_common::{
    model::{Node, NodeRequest, NodeState, RequestState, Timestamp},
    sys::{clock::Simulated, shutdown::ShutdownReason},
    zk::{memory::Memory, paths},
};
use tempfile::TempDir;
use tokio::{runtime, sync::mpsc, time::Instant};
use tracing::Level;

use super::{
    causes::{Causes, PEER},
    chance::Chance,
    cloud::Clouds,
    network::{Calm, Line, SharedPeers, SlowWire, mend},
    peer::Peer,
    plan::{Plan, Trouble},
    process::{Around, LOCK_AGE, Process},
    story::{Story, broken, tell},
    truth::{HasServer, SharedTruth, ZUUL},
    zuul::Zuul,
};

/// The wall time at the beginning.
const START: Timestamp = 1_760_000_000.0;
/// After troubles have ended: for so long at most nothing may come to its end while something is open.
const STANDSTILL: Duration = Duration::from_secs(1800);
/// After the last request was answered: by then all that leaked is gone, and the stock is as it is to be.
const SETTLED: Duration = Duration::from_secs(1800);

/// What came of a history.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// The promises that were broken.
    pub broken: Vec<String>,
    /// What happened.
    pub lines: Vec<String>,
    /// For how long.
    pub lived: Duration,
}

/// A launcher's place: it may be empty for a while.
type Places = Arc<Mutex<BTreeMap<usize, Process>>>;

struct World {
    plan: Plan,
    around: Around,
    calm: Calm,
    story: Story,
    zuul: Arc<Zuul>,
    dir: TempDir,
    began: Instant,
    places: Places,
    chance: Chance,
    /// How many processes were started.
    started: Mutex<usize>,
}

/// Lives a history. `log`: with the launchers' own log, up to that level.
pub fn live(plan: &Plan, log: Option<Level>) -> Outcome {
    live_for(plan, log, false)
}

/// The same until the first promise is broken: for who wants to know no more.
#[cfg(debug_assertions)]
pub fn live_until_broken(plan: &Plan) -> Outcome {
    live_for(plan, None, true)
}

fn live_for(plan: &Plan, log: Option<Level>, until_broken: bool) -> Outcome {
    let plan = plan.clone();
    tell_all(log, until_broken, |story| World::live(plan, story))
}

/// Lives a history, in a runtime of its own.
pub fn tell_all<F: Future<Output = ()>>(
    log: Option<Level>,
    until_broken: bool,
    live: impl FnOnce(Story) -> F,
) -> Outcome {
    // No driver of I/O: each step of the time would ask the system for events that never come.
    let runtime = runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    let history = async {
        let story = Story::begin();
        let (writer, bugs) = (story.clone(), story.bugs());
        let format = tracing_subscriber::fmt().with_ansi(false).without_time();
        let _log = if let Some(level) = log {
            let format = format.with_max_level(level);
            tracing::subscriber::set_default(format.with_writer(move || writer.clone()).finish())
        } else {
            let format = format.with_max_level(Level::ERROR);
            tracing::subscriber::set_default(format.with_writer(move || bugs.clone()).finish())
        };
        tokio::select! {
            biased;
            () = story.until_broken(), if until_broken => {}
            () = live(story.clone()) => {}
        }
        Outcome { broken: story.all_broken(), lines: story.lines(), lived: story.age() }
    };
    runtime.block_on(history)
}

/// Writes a configuration. Its time is one that tells nothing of when that was, by the host's clock.
fn write_config(path: &Path, plan: &Plan, number: u64) {
    fs::write(path, plan.config().to_string()).unwrap();
    let far = UNIX_EPOCH + Duration::from_secs(4_000_000_000 + number);
    File::options().write(true).open(path).unwrap().set_modified(far).unwrap();
}

impl World {
    async fn live(plan: Plan, story: Story) {
        let began = Instant::now();
        let calm = Calm::default();
        let truth = SharedTruth::new(story.clone(), Causes::of(&plan));
        let peers = SharedPeers::default();
        let server_clock = Simulated::starting_at(START).clock();
        let clock = server_clock.clone();
        #[allow(clippy::cast_possible_truncation)] // ms since the epoch fit
        let memory = Memory::new(move || (server_clock.now() * 1000.0) as i64);
        let (wire, breaks) = SlowWire::new(&plan, calm.clone(), story.clone(), peers.clone(), truth.clone());
        memory.set_wire(wire);
        let observed = truth.clone();
        memory.set_observer(move |by, changes, tree| observed.open().apply(by, changes, tree));
        let (clouds, dying) = Clouds::new(&plan, calm.clone(), story.clone(), truth.clone());
        tokio::spawn(mend(memory.clone(), plan.clone(), calm.clone(), story.clone(), peers.clone(), breaks));
        let line = Line::new(ZUUL, Arc::default(), memory.clone(), truth.clone(), peers.clone());
        let of_peer = clock.clone();
        let zuul = Zuul::new(&plan, calm.clone(), story.clone(), clock, line);
        zuul.connect().await;
        let of_server = clouds.clone();
        {
            let mut truth = truth.open();
            truth.has_server = Some(HasServer(Box::new(move |id| of_server.has_server(id))));
            truth.breaks_locks = plan.has(Trouble::LocksBroken);
        }
        let around = Around { memory, clouds, truth, peers, story: story.clone() };
        let (dir, chance) = (TempDir::with_prefix("nodepool-sim-").unwrap(), Chance::of(plan.seed, "operators"));
        let places = Places::default();
        let started = Mutex::default();
        let world = Arc::new(Self { plan, around, calm, story, zuul, dir, began, places, chance, started });
        world.tell_limits();
        write_config(&world.file(), &world.plan, 0);
        for place in 0..world.plan.replicas {
            world.start(place);
        }
        tokio::spawn(Arc::clone(&world).bury(dying));
        tokio::spawn(Arc::clone(&world.zuul).make_requests());
        if world.plan.has(Trouble::Peer) {
            let Around { memory, truth, peers, .. } = &world.around;
            let line = Line::new(PEER, Arc::default(), memory.clone(), truth.clone(), peers.clone());
            let (calm, story) = (world.calm.clone(), world.story.clone());
            tokio::spawn(Peer::new(&world.plan, calm, story, of_peer, line, memory.clone()).run());
        }
        if world.plan.has(Trouble::LocksBroken) {
            tokio::spawn(Arc::clone(&world).break_locks());
        }
        let troubles = Arc::clone(&world).make_trouble();
        if tokio::time::timeout(world.plan.calm_after, troubles).await.is_err() {
            tell!(world.story, "--- troubles end");
        }
        world.calm_down().await;
        world.look_at_last().await;
        world.end().await;
    }

    fn file(&self) -> PathBuf {
        self.dir.path().join("nodepool.yaml")
    }

    fn places(&self) -> MutexGuard<'_, BTreeMap<usize, Process>> {
        self.places.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell_limits(&self) {
        let mut truth = self.around.truth.open();
        truth.is_alone = self.plan.replicas == 1;
        for pool in &self.plan.pools {
            truth.causes.limit(&pool.full_name(), pool.max_servers);
        }
    }

    fn start(&self, place: usize) {
        let number = {
            let mut started = self.started.lock().unwrap_or_else(PoisonError::into_inner);
            *started += 1;
            *started
        };
        let name = format!("launcher-{place}.{number}");
        let chance = Chance::of(self.plan.seed, &name);
        let now = START + self.began.elapsed().as_secs_f64();
        let process = Process::start(&name, &self.file(), now, &chance, &self.around);
        self.places().insert(place, process);
    }

    /// Those that the clouds have killed are dead, and started again.
    async fn bury(self: Arc<Self>, mut dying: mpsc::UnboundedReceiver<String>) {
        while let Some(name) = dying.recv().await {
            let place = self.places().iter().find(|(_, process)| process.name == name).map(|(place, _)| *place);
            if let Some(place) = place {
                self.kill(place);
            }
        }
    }

    /// A launcher is killed, and another one started in its place later.
    fn kill(self: &Arc<Self>, place: usize) {
        let Some(process) = self.places().remove(&place) else { return };
        process.kill();
        let pause = self.chance.seconds(0.5, 40.0);
        let this = Arc::clone(self);
        tokio::spawn(async move {
            tokio::time::sleep(pause).await;
            this.start(place);
        });
    }

    /// A launcher is told to stop, and another one started when it has, or before.
    fn restart(self: &Arc<Self>, place: usize) {
        let Some(process) = self.places().remove(&place) else { return };
        let reason = *self.chance.pick(&[ShutdownReason::Graceful, ShutdownReason::Terminate]);
        let this = Arc::clone(self);
        tokio::spawn(async move {
            process.stop(reason, Duration::from_secs(600)).await;
            this.start(place);
        });
    }

    /// What operators, hosts and the world do to them, until troubles end.
    async fn make_trouble(self: Arc<Self>) {
        let mut config = self.plan.clone();
        let mut version = 0;
        let happening = [
            Trouble::Breaks,
            Trouble::Expiry,
            Trouble::Away,
            Trouble::Others,
            Trouble::Vanishing,
            Trouble::ZuulDies,
            Trouble::Killed,
            Trouble::KilledAtCreation,
            Trouble::Restarted,
            Trouble::Reconfigured,
            Trouble::ClockSet,
        ];
        loop {
            tokio::time::sleep(self.chance.seconds(1.0, 120.0)).await;
            let trouble = *self.chance.pick(&happening);
            let place = self.chance.below(self.plan.replicas);
            let providers: Vec<_> = self.plan.providers().into_iter().collect();
            let provider = *self.chance.pick(&providers);
            let pause = self.chance.seconds(5.0, 120.0);
            if !self.plan.has(trouble) {
                continue;
            }
            match trouble {
                Trouble::Breaks | Trouble::Expiry => {
                    if let Some(process) = self.places().get(&place) {
                        process.cut();
                    }
                }
                Trouble::Away => self.around.clouds.go_away(provider, pause),
                Trouble::Others => self.around.clouds.others(provider, self.chance.below(self.plan.quota + 1).min(20)),
                Trouble::Vanishing => self.around.clouds.lose_a_server(&self.chance),
                Trouble::ZuulDies => {
                    tell!(self.story, "zuul: its session ends");
                    self.around.truth.open().zuul_ends();
                    if let Some(session) = self.zuul.line().session() {
                        self.around.memory.expire(session);
                    }
                    // Troubles may end meanwhile, and this loop with them; its next session comes all the same.
                    let zuul = Arc::clone(&self.zuul);
                    let _ = tokio::spawn(async move { zuul.connect().await }).await;
                }
                Trouble::Killed => self.kill(place),
                Trouble::KilledAtCreation => {
                    if let Some(process) = self.places().get(&place) {
                        self.around.clouds.kill_at_creation(&process.name);
                    }
                }
                Trouble::Restarted => self.restart(place),
                Trouble::Reconfigured => {
                    version += 1;
                    self.reconfigure(&mut config, version);
                }
                Trouble::ClockSet => {
                    let seconds = *self.chance.pick(&[-3600.0, -60.0, 60.0, 3600.0]);
                    if let Some(process) = self.places().get(&place) {
                        process.set_clock(seconds);
                    }
                }
                _ => {}
            }
        }
    }

    /// Now and then somebody breaks a lock, until troubles end.
    async fn break_locks(self: Arc<Self>) {
        let chance = Chance::of(self.plan.seed, "lock breakers");
        while !self.calm.is_now() {
            self.break_a_lock(&chance).await;
            tokio::time::sleep(chance.seconds(5.0, 150.0)).await;
        }
    }

    /// Somebody deletes the contender of a launcher that has a lock, as people do who tidy up.
    async fn break_a_lock(&self, chance: &Chance) {
        let held = self.around.truth.open().held_by_launchers();
        let Some(dir) = (!held.is_empty()).then(|| chance.pick(&held)) else { return };
        let number = |name: &str| name[name.len().saturating_sub(10)..].to_owned();
        let first = self.around.memory.look(|tree| {
            let contenders = tree.children(dir).filter(|name| name.contains("__lock__"));
            contenders.min_by_key(|name| number(name)).map(|name| format!("{dir}/{name}"))
        });
        if let Some(contender) = first {
            tell!(self.story, "operator: deletes {contender}");
            self.zuul.delete(&contender).await;
        }
    }

    fn reconfigure(&self, config: &mut Plan, version: u64) {
        let label = self.chance.below(config.labels.len());
        config.labels[label].min_ready = self.chance.below(3);
        let pool = self.chance.below(config.pools.len());
        let max_servers = self.plan.pools[pool].max_servers;
        config.pools[pool].max_servers = (max_servers + self.chance.below(5)).saturating_sub(2).max(1);
        let of = &config.pools[pool];
        tell!(
            self.story,
            "operator: label {} has min-ready {}, pool {}-{} max-servers {}",
            config.labels[label].name,
            config.labels[label].min_ready,
            of.provider,
            of.name,
            of.max_servers
        );
        self.around.truth.open().causes.limit(&of.full_name(), of.max_servers);
        write_config(&self.file(), config, version);
    }

    /// Troubles are over: everybody is there, the configuration is that of the beginning, clouds answer.
    async fn calm_down(&self) {
        self.calm.begin();
        self.around.clouds.calm_down();
        self.tell_limits();
        write_config(&self.file(), &self.plan, 1_000_000);
        for process in self.places().values() {
            process.set_clock_right();
        }
        // Until who is being started again has been.
        let until = Instant::now() + Duration::from_secs(700);
        while self.places().len() < self.plan.replicas && Instant::now() < until {
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        let dead: Vec<_> = self.places().iter().filter(|(_, process)| process.is_dead()).map(|(at, _)| *at).collect();
        for place in dead {
            self.start(place);
        }
    }

    /// L1, L2, L3: what must be so in the end.
    async fn look_at_last(&self) {
        // L1 and L3.
        let began = Instant::now();
        loop {
            let open = self.zuul.what_is_open();
            if open.is_empty() {
                break;
            }
            // What came last may be the first for long: it has its time, too.
            if self.zuul.stands_still_for().min(began.elapsed()) > STANDSTILL {
                let still = STANDSTILL.as_secs();
                broken!(self.story, "L1", "nothing was answered or returned for {still} s; open: {open:?}");
                self.tell_state();
                return;
            }
            tokio::time::sleep(Duration::from_secs(5)).await;
        }
        tell!(self.story, "--- all requests are over");
        let until = Instant::now() + SETTLED;
        while let Some(lacks) = self.lacks().or_else(|| self.is_left()) {
            if Instant::now() > until {
                broken!(self.story, "L2", "{} s after the last request {lacks}", SETTLED.as_secs());
                self.tell_state();
                return;
            }
            tokio::time::sleep(Duration::from_secs(2)).await;
        }
        tell!(self.story, "--- all is as it is to be");
        self.look_at_rest().await;
    }

    /// What is not as it is to be when nothing is asked for any more.
    fn lacks(&self) -> Option<String> {
        let servers = self.around.clouds.ours();
        let truth = self.around.truth.open();
        if let Some(request) = truth.requests.values().find(|request| !request.is_min_ready()) {
            return Some(format!("request {} is there", request.id));
        }
        let is_open = |request: &&NodeRequest| {
            matches!(request.state, RequestState::Requested | RequestState::Pending) && request.is_min_ready()
        };
        if let Some(request) = truth.requests.values().find(is_open) {
            return Some(format!("request {} for nodes in stock is {}", request.id, request.state.as_str()));
        }
        let mut free: BTreeMap<&str, usize> = BTreeMap::new();
        let there: BTreeSet<&str> = servers.iter().map(|server| server.id.as_str()).collect();
        let mut used: BTreeSet<String> = BTreeSet::new();
        for node in truth.nodes.values() {
            let is_stock = node.state == NodeState::Ready && node.allocated_to.is_none();
            if !is_stock {
                let state = node.state.as_str();
                return Some(format!("node {} is {state}, of {:?}", node.id, node.allocated_to));
            }
            if let Some(server) = node.external_id_text() {
                if !there.contains(server) {
                    return Some(format!("node {} is in stock, and its server {server} is gone", node.id));
                }
                used.insert(server.to_owned());
            }
            for label in &node.labels {
                let known = self.plan.labels.iter().find(|known| *label == known.name);
                *free.entry(known.map_or("?", |known| known.name)).or_default() += 1;
            }
        }
        if let Some(server) = servers.iter().find(|server| !used.contains(&server.id)) {
            return Some(format!("server {} of {} for node {} is there", server.id, server.provider, server.node));
        }
        let short = self.plan.labels.iter().find(|label| {
            let has = free.get(label.name).copied().unwrap_or(0);
            has < label.min_ready && self.has_room(label.name, &truth.nodes.values().collect::<Vec<_>>())
        });
        short.map(|label| format!("label {} has too few nodes in stock: {free:?}", label.name))
    }

    /// What is of no use to anybody any more, and there for longer than it takes to remove it.
    fn is_left(&self) -> Option<String> {
        let truth = self.around.truth.open();
        let is_over = |request: &&NodeRequest| {
            matches!(request.state, RequestState::Fulfilled | RequestState::Failed) && request.is_min_ready()
        };
        if let Some(request) = truth.requests.values().find(is_over) {
            return Some(format!("request {} for nodes in stock is {}", request.id, request.state.as_str()));
        }
        #[allow(clippy::cast_possible_truncation)] // ms since the epoch fit
        let old = ((START + self.began.elapsed().as_secs_f64() - LOCK_AGE.as_secs_f64() - 60.0) * 1000.0) as i64;
        self.around.memory.look(|tree| {
            let mut locks = tree.children(paths::REQUEST_LOCKS).filter(|id| !truth.requests.contains_key(*id));
            let is_old = |id: &&str| {
                tree.get(&format!("{}/{id}", paths::REQUEST_LOCKS)).is_some_and(|(_, stat)| stat.ctime < old)
            };
            locks.find(is_old).map(|id| format!("the lock's directory of request {id} is there, which is gone"))
        })
    }

    /// Whether some pool with that label could have one more node.
    fn has_room(&self, label: &str, nodes: &[&Node]) -> bool {
        self.plan.pools.iter().filter(|pool| pool.labels.contains(&label)).any(|pool| {
            let of_provider = |node: &&&Node| node.provider.as_ref().is_some_and(|name| *name == pool.provider);
            let of_pool =
                |node: &&&Node| of_provider(node) && node.pool.as_ref().is_some_and(|name| *name == pool.name);
            nodes.iter().filter(of_provider).count() < self.plan.quota
                && nodes.iter().filter(of_pool).count() < pool.max_servers
        })
    }

    fn tell_state(&self) {
        let truth = self.around.truth.open();
        for request in truth.requests.values() {
            tell!(
                self.story,
                "there is: request {} {} for {:?}, declined by {:?}, {:?}",
                request.id,
                request.state.as_str(),
                request.node_types,
                request.declined_by,
                request.decline_reasons
            );
        }
        for node in truth.nodes.values() {
            tell!(
                self.story,
                "there is: node {} {} {:?} of {:?}, {:?}, locked by {:?}",
                node.id,
                node.state.as_str(),
                node.labels,
                node.allocated_to,
                node.external_id,
                truth.holder_of_node(&node.id)
            );
        }
        drop(truth);
        for server in self.around.clouds.ours() {
            tell!(self.story, "there is: server {} for node {}", server.id, server.node);
        }
    }

    async fn end(&self) {
        let processes = std::mem::take(&mut *self.places());
        for process in processes.into_values() {
            process.stop(ShutdownReason::Terminate, Duration::from_secs(120)).await;
        }
    }
}
