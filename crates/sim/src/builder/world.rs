//! A history: the world is made, its troubles happen, they end, and the last look is taken.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, UNIX_EPOCH},
};

use nodepool_common::{
    model::{BuildState, ImageBuild, ImageUpload, UploadState},
    sys::{clock::Simulated, shutdown::ShutdownReason},
    zk::{
        memory::Memory,
        paths,
        protocol::{Client, Connector, Mode},
    },
};
use tempfile::TempDir;
use tokio::{sync::mpsc, time::Instant};
use tracing::Level;

use super::{
    super::{
        causes::Causes,
        chance::Chance,
        network::{Calm, SharedPeers, SlowWire, mend},
        story::{Story, tell},
        truth::SharedTruth as Sessions,
        world::{Outcome, tell_all},
    },
    cloud::Clouds,
    machine::Site,
    plan::{Plan, Trouble},
    process::{Around, Process},
    truth::{HasImage, START, SharedTruth},
};

/// A builder's place: it may be empty for a while.
type Places = Mutex<BTreeMap<usize, Process>>;

/// See the module's comment.
pub struct World {
    pub plan: Plan,
    pub around: Around,
    calm: Calm,
    pub story: Story,
    operator: Client,
    dir: TempDir,
    pub began: Instant,
    pub sites: Vec<Arc<Site>>,
    places: Places,
    chance: Chance,
    started: Mutex<usize>,
}

/// Lives a history. `log`: with the builders' own log, up to that level.
pub fn live(plan: &Plan, log: Option<Level>) -> Outcome {
    let plan = plan.clone();
    tell_all(log, false, |story| World::live(plan, story))
}

/// The same until the first promise is broken: for who wants to know no more.
#[cfg(debug_assertions)]
pub fn live_until_broken(plan: &Plan) -> Outcome {
    let plan = plan.clone();
    tell_all(None, true, |story| World::live(plan, story))
}

impl World {
    async fn live(plan: Plan, story: Story) {
        let calm = Calm::default();
        let network = plan.network();
        let sessions = Sessions::new(story.clone(), Causes::of(&network));
        let (truth, dying) = SharedTruth::new(story.clone(), calm.clone(), &plan, sessions.clone());
        let peers = SharedPeers::default();
        let server_clock = Simulated::starting_at(START).clock();
        #[allow(clippy::cast_possible_truncation)] // ms since the epoch fit
        let memory = Memory::new(move || (server_clock.now() * 1000.0) as i64);
        let (wire, breaks) = SlowWire::new(&network, calm.clone(), story.clone(), peers.clone(), sessions.clone());
        memory.set_wire(wire);
        let observed = truth.clone();
        memory.set_observer(move |by, changes, tree| observed.open().apply(by, changes, tree));
        let clouds = Clouds::new(&plan, calm.clone(), story.clone(), truth.clone());
        tokio::spawn(mend(memory.clone(), network, calm.clone(), story.clone(), peers.clone(), breaks));
        let operator = memory.connect().await.unwrap();
        sessions.open().owns(operator.id(), "operator");
        let of_image = clouds.clone();
        truth.open().has_image = Some(HasImage(Box::new(move |provider, id| of_image.has(provider, id))));
        let dir = TempDir::with_prefix("nodepool-sim-").unwrap();
        let site = |place| {
            let path = dir.path().join(format!("images-{place}"));
            truth.open().dirs.insert(place, path.clone());
            Arc::new(Site::new(place, path, &plan, calm.clone(), story.clone(), truth.clone()))
        };
        let sites = (0..plan.builders).map(site).collect();
        let around = Around { memory, clouds, truth, sessions, peers, story: story.clone() };
        let (began, chance) = (Instant::now(), Chance::of(plan.seed, "operators of builders"));
        let (places, started) = (Places::default(), Mutex::default());
        let world = Arc::new(Self { plan, around, calm, story, operator, dir, began, sites, places, chance, started });
        world.write_config(&world.plan, 0);
        for place in 0..world.plan.builders {
            world.start(place);
        }
        tokio::spawn(Arc::clone(&world).bury(dying));
        let troubles = Arc::clone(&world).make_trouble();
        if tokio::time::timeout(world.plan.calm_after, troubles).await.is_err() {
            tell!(world.story, "--- troubles end");
        }
        world.calm_down().await;
        world.look_at_last().await;
        let processes = std::mem::take(&mut *world.places());
        for process in processes.into_values() {
            process.stop(ShutdownReason::Terminate, Duration::from_secs(120)).await;
        }
    }

    fn file(&self, place: usize) -> PathBuf {
        self.dir.path().join(format!("nodepool-{place}.yaml"))
    }

    /// Writes each builder's configuration. Its time is one that tells nothing of when that was, by the host's clock.
    fn write_config(&self, plan: &Plan, number: u64) {
        for (place, site) in self.sites.iter().enumerate() {
            let text = plan.config(&site.images_dir, &self.dir.path().join(format!("logs-{place}"))).to_string();
            fs::write(self.file(place), text).unwrap();
            let far = UNIX_EPOCH + Duration::from_secs(4_000_000_000 + number);
            File::options().write(true).open(self.file(place)).unwrap().set_modified(far).unwrap();
        }
        let mut truth = self.around.truth.open();
        if truth.wanted != *plan {
            truth.changed = Instant::now();
        }
        truth.wanted = plan.clone();
    }

    fn places(&self) -> MutexGuard<'_, BTreeMap<usize, Process>> {
        self.places.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn start(&self, place: usize) {
        let number = {
            let mut started = self.started.lock().unwrap_or_else(PoisonError::into_inner);
            *started += 1;
            *started
        };
        let name = format!("builder-{place}.{number}");
        let chance = Chance::of(self.plan.seed, &name);
        let now = START + self.began.elapsed().as_secs_f64();
        let (file, site) = (self.file(place), Arc::clone(&self.sites[place]));
        let process = Process::start(&name, &file, now, &chance, &self.around, site, self.plan.build_workers);
        self.places().insert(place, process);
    }

    /// Those that died by themselves are dead, and started again.
    async fn bury(self: Arc<Self>, mut dying: mpsc::UnboundedReceiver<String>) {
        while let Some(name) = dying.recv().await {
            let place = self.places().iter().find(|(_, process)| process.name == name).map(|(place, _)| *place);
            if let Some(place) = place {
                self.kill(place);
            }
        }
    }

    /// A builder is killed, and another one started in its place later.
    fn kill(self: &Arc<Self>, place: usize) {
        let Some(process) = self.places().remove(&place) else { return };
        process.kill();
        let pause =
            if self.chance.one_in(4) { self.chance.seconds(60.0, 600.0) } else { self.chance.seconds(0.5, 40.0) };
        let this = Arc::clone(self);
        tokio::spawn(async move {
            tokio::time::sleep(pause).await;
            this.start(place);
        });
    }

    /// A builder is told to stop, and another one started when it has.
    fn restart(self: &Arc<Self>, place: usize) {
        let Some(process) = self.places().remove(&place) else { return };
        let reason = *self.chance.pick(&[ShutdownReason::Graceful, ShutdownReason::Terminate]);
        let this = Arc::clone(self);
        tokio::spawn(async move {
            process.stop(reason, Duration::from_secs(1200)).await;
            this.start(place);
        });
    }

    /// What operators, hosts and the world do, until troubles end.
    async fn make_trouble(self: Arc<Self>) {
        let happening = [
            Trouble::Breaks,
            Trouble::Expiry,
            Trouble::Away,
            Trouble::Vanishing,
            Trouble::DiskFull,
            Trouble::FilesLost,
            Trouble::Requested,
            Trouble::BuildsDeleted,
            Trouble::UploadsDeleted,
            Trouble::Paused,
            Trouble::Reconfigured,
            Trouble::Killed,
            Trouble::Restarted,
            Trouble::ClockSet,
        ];
        let mut version = 0;
        loop {
            tokio::time::sleep(self.chance.seconds(1.0, 120.0)).await;
            let trouble = *self.chance.pick(&happening);
            let place = self.chance.below(self.plan.builders);
            let pause = self.chance.seconds(20.0, 400.0);
            let image = self.chance.pick(&self.plan.images).name;
            if !self.plan.has(trouble) {
                continue;
            }
            match trouble {
                Trouble::Breaks | Trouble::Expiry => {
                    if let Some(process) = self.places().get(&place) {
                        process.cut();
                    }
                }
                Trouble::Away => {
                    let pause = if self.chance.one_in(3) { pause * 8 } else { pause };
                    self.around.clouds.go_away(self.chance.pick(&self.plan.providers).name, pause);
                }
                Trouble::Vanishing => self.around.clouds.lose_an_image(&self.chance),
                Trouble::DiskFull => {
                    tell!(self.story, "machine {place}: its disk is full for {} s", pause.as_secs());
                    self.sites[place].fill(Some(pause));
                }
                Trouble::FilesLost => self.sites[place].lose_a_file(),
                Trouble::Requested => {
                    self.around.truth.open().asked.insert(image.to_owned(), Instant::now());
                    self.mark(image, "request-build", true).await;
                }
                Trouble::BuildsDeleted => self.delete_a_build().await,
                Trouble::UploadsDeleted => self.delete_an_upload().await,
                Trouble::Paused => {
                    let is_paused = self.chance.one_in(2);
                    self.mark(image, "pause", is_paused).await;
                }
                Trouble::Reconfigured => {
                    version += 1;
                    self.reconfigure(version);
                }
                Trouble::Killed => self.kill(place),
                Trouble::Restarted => self.restart(place),
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

    /// An operator makes a znode of an image, or deletes it.
    async fn mark(&self, image: &str, name: &str, is_there: bool) {
        let path = format!("{}/{name}", paths::image(&image.into()));
        tell!(self.story, "operator: {name} of image {image}: {is_there}");
        if is_there {
            let _ = self.operator.create(&path, b"", Mode::Persistent).await;
        } else {
            let _ = self.operator.delete(&path, None).await;
        }
    }

    /// `dib-image-delete`.
    async fn delete_a_build(&self) {
        let builds: Vec<_> = {
            let truth = self.around.truth.open();
            truth.builds.values().filter(|build| build.state != BuildState::Building).cloned().collect()
        };
        if builds.is_empty() {
            return;
        }
        let build = self.chance.pick(&builds);
        let path = paths::build(&build.image, &build.id);
        let Ok((data, stat)) = self.operator.get(&path).await else { return };
        let Ok((mut build, _)) = ImageBuild::read(build.image.clone(), build.id.clone(), &data) else { return };
        build.set_state(BuildState::Deleting, START + self.began.elapsed().as_secs_f64());
        self.around.truth.open().touches(build.image.as_str());
        let _ = self.operator.set(&path, &build.write(), Some(stat.version)).await;
    }

    /// `image-delete`.
    async fn delete_an_upload(&self) {
        let uploads: Vec<_> = {
            let truth = self.around.truth.open();
            truth.uploads.values().filter(|upload| upload.state != UploadState::Uploading).cloned().collect()
        };
        if uploads.is_empty() {
            return;
        }
        let key = self.chance.pick(&uploads).key();
        let path = paths::upload(&key);
        let Ok((data, stat)) = self.operator.get(&path).await else { return };
        let read = ImageUpload::read(key.image.clone(), key.build, key.provider, key.id, &data);
        let Ok((mut upload, _)) = read else { return };
        upload.set_state(UploadState::Deleting, START + self.began.elapsed().as_secs_f64());
        self.around.truth.open().touches(key.image.as_str());
        let _ = self.operator.set(&path, &upload.write(), Some(stat.version)).await;
    }

    /// An image or a provider is taken out, or all is again as it was.
    fn reconfigure(&self, version: u64) {
        let mut plan = self.plan.clone();
        match self.chance.below(4) {
            0 if plan.images.len() > 1 => {
                let image = plan.images.remove(self.chance.below(plan.images.len()));
                for provider in &mut plan.providers {
                    provider.images.remove(image.name);
                }
            }
            1 if plan.providers.len() > 1 => drop(plan.providers.remove(self.chance.below(plan.providers.len()))),
            2 => {
                let (of, image) = (self.chance.below(plan.providers.len()), self.chance.pick(&self.plan.images).name);
                let images = &mut plan.providers[of].images;
                if !images.remove(image) {
                    images.insert(image);
                }
            }
            _ => {}
        }
        tell!(self.story, "operator: the configuration is now {plan}");
        self.write_config(&plan, version);
    }

    /// Troubles are over: everybody is there, the configuration is that of the beginning, clouds answer.
    async fn calm_down(&self) {
        self.calm.begin();
        self.around.clouds.calm_down();
        self.write_config(&self.plan, 1_000_000);
        for site in &self.sites {
            site.fill(None);
        }
        for process in self.places().values() {
            process.set_clock_right();
        }
        for image in &self.plan.images {
            self.mark(image.name, "pause", false).await;
        }
        // Until who is being started again has been.
        let until = Instant::now() + Duration::from_secs(1300);
        while self.places().len() < self.plan.builders && Instant::now() < until {
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    }

    /// `nodepool leaks --remove`: what builders hold back of files without a record may go.
    pub async fn allow_what_is_held_back(&self) {
        let dir = "/nodepool/leaks/builder";
        for holder in self.operator.children(dir).await.unwrap_or_default() {
            let path = format!("{dir}/{holder}");
            let Ok((data, stat)) = self.operator.get(&path).await else { continue };
            let Ok((mut held, _)) = nodepool_common::model::HeldBack::read(&data) else { continue };
            if held.held().next().is_some() {
                tell!(self.story, "operator: lets {} files go", held.items.len());
                held.items.iter_mut().for_each(|item| item.allowed = true);
                let _ = self.operator.set(&path, &held.write(), Some(stat.version)).await;
            }
        }
    }
}
