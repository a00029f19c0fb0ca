//! [`Truth`]: what the records of builds and uploads say, as of each transaction; and the promises about them.
//!
//! * **S4** A builder begins and ends builds and uploads under their locks alone, so no image is built twice at once and no build is
//!   uploaded twice to a provider. States go one way, and only what is marked for deletion is removed.
//! * **S5** A build is ready only if its files are whole, an upload only if the cloud has the image. Rotation leaves two: a builder
//!   marks an upload only if two others of its image are ready in that provider, a build only if two others are ready; but what somebody
//!   deletes, and what is no longer in the configuration, goes.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use nodepool_common::{
    model::{BuildState, ImageBuild, ImageUpload, UploadKey, UploadState},
    zk::{
        SessionId,
        memory::Tree,
        paths::{self, IMAGES},
        protocol::Change,
    },
};
use tokio::{sync::mpsc, time::Instant};

use super::{
    super::{
        chance::Chance,
        network::Calm,
        story::{Story, broken, tell},
        truth::SharedTruth as Sessions,
    },
    machine::is_whole,
    plan::{Plan, Trouble},
};

/// The wall time at the beginning.
pub const START: f64 = 1_760_000_000.0;
/// For so long a builder may act on what was so before a person or a configuration changed it.
const UNTIL_KNOWN: Duration = Duration::from_secs(40);
/// The first pause after a build that failed.
const AFTER_A_FAILURE: Duration = Duration::from_secs(10);
/// How many builds, and uploads to a provider, rotation leaves.
const KEPT: usize = 2;

/// A build: its image and its id.
pub type BuildKey = (String, String);

type Has = dyn Fn(&str, &str) -> bool + Send;

/// Tells whether a provider has an image, whole.
pub struct HasImage(pub Box<Has>);

impl std::fmt::Debug for HasImage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("HasImage")
    }
}

/// See the module's comment.
#[derive(Debug)]
pub struct Truth {
    story: Story,
    calm: Calm,
    chance: Chance,
    sessions: Sessions,
    /// The configuration that is written.
    pub wanted: Plan,
    /// When it was changed last.
    pub changed: Instant,
    pub builds: BTreeMap<BuildKey, ImageBuild>,
    pub uploads: BTreeMap<UploadKey, ImageUpload>,
    /// When a build came into its state, as its record and ZooKeeper say: by that builders order them.
    pub since: BTreeMap<BuildKey, f64>,
    /// When somebody deleted of an image.
    touched: BTreeMap<String, Instant>,
    /// When somebody asked for a build of an image.
    pub asked: BTreeMap<String, Instant>,
    /// When a builder began a build of an image last, and when the program that failed to ended, by builder and image.
    programs: BTreeMap<(String, String), (Instant, Option<Instant>)>,
    /// Cloud images that somebody has deleted.
    pub vanished: BTreeSet<String>,
    /// Builds of which somebody has deleted files.
    pub spoiled: BTreeSet<BuildKey>,
    /// images-dir of each place.
    pub dirs: BTreeMap<usize, PathBuf>,
    /// Builders that live.
    pub living: BTreeMap<String, Arc<AtomicBool>>,
    pub has_image: Option<HasImage>,
    deaths: mpsc::UnboundedSender<String>,
    /// How many builds were begun.
    pub begun: usize,
}

/// Clones are one.
#[derive(Clone, Debug)]
pub struct SharedTruth(Arc<Mutex<Truth>>);

impl SharedTruth {
    /// Nothing is there yet; and who dies.
    pub fn new(story: Story, calm: Calm, plan: &Plan, sessions: Sessions) -> (Self, mpsc::UnboundedReceiver<String>) {
        let (deaths, dying) = mpsc::unbounded_channel();
        let truth = Truth {
            story,
            calm,
            chance: Chance::of(plan.seed, "deaths"),
            sessions,
            wanted: plan.clone(),
            changed: Instant::now(),
            builds: BTreeMap::new(),
            uploads: BTreeMap::new(),
            since: BTreeMap::new(),
            touched: BTreeMap::new(),
            asked: BTreeMap::new(),
            programs: BTreeMap::new(),
            vanished: BTreeSet::new(),
            spoiled: BTreeSet::new(),
            dirs: BTreeMap::new(),
            living: BTreeMap::new(),
            has_image: None,
            deaths,
            begun: 0,
        };
        (Self(Arc::new(Mutex::new(truth))), dying)
    }

    /// To look at it; not across an await.
    pub fn open(&self) -> MutexGuard<'_, Truth> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The place of a builder of that name.
pub fn place_of(name: &str) -> Option<usize> {
    name.strip_prefix("builder-")?.split('.').next()?.parse().ok()
}

/// Which session has a lock.
fn holder(tree: &Tree, dir: &str) -> Option<i64> {
    let number = |name: &str| name.contains("__lock__").then(|| name[name.len() - 10..].to_owned());
    let first = tree.children(dir).filter_map(|name| Some((number(name)?, name))).min()?.1;
    Some(tree.get(&format!("{dir}/{first}"))?.1.ephemeral_owner)
}

impl Truth {
    /// Somebody deletes of that image.
    pub fn touches(&mut self, image: &str) {
        self.touched.insert(image.to_owned(), Instant::now());
    }

    /// Whether something was lately changed by hand about an image, or in the configuration.
    fn is_changing(&self, image: &str) -> bool {
        let is_new = |at: &Instant| at.elapsed() < UNTIL_KNOWN;
        is_new(&self.changed) || self.touched.get(image).is_some_and(is_new)
    }

    /// A builder dies now, for whoever asks it anything; it is buried later.
    pub fn dies(&mut self, name: &str) {
        if let Some(is_dead) = self.living.remove(name) {
            is_dead.store(true, Ordering::SeqCst);
            let _ = self.deaths.send(name.to_owned());
        }
    }

    /// The program that a builder ran for an image has failed.
    pub fn program_failed(&mut self, owner: &str, image: &str) {
        if let Some((_, failed)) = self.programs.get_mut(&(owner.to_owned(), image.to_owned())) {
            *failed = Some(Instant::now());
        }
    }

    /// A transaction.
    pub fn apply(&mut self, by: SessionId, changes: &[(Change, String)], tree: &Tree) {
        let owner = self.sessions.open().owner(by).to_owned();
        let is_builder = place_of(&owner).is_some();
        for (change, path) in changes {
            let Some(below) = path.strip_prefix(IMAGES).and_then(|path| path.strip_prefix('/')) else { continue };
            match below.split('/').collect::<Vec<_>>().as_slice() {
                [image, "builds", id] if *id != "lock" => {
                    self.build(by, &owner, is_builder, *change, (*image).to_owned(), (*id).to_owned(), tree);
                }
                [image, "builds", build, "providers", provider, "images", id] if *id != "lock" => {
                    let key = UploadKey {
                        image: (*image).into(),
                        provider: (*provider).into(),
                        build: (*build).into(),
                        id: (*id).into(),
                    };
                    self.upload(by, &owner, is_builder, *change, &key, tree);
                }
                _ => {}
            }
        }
        let may_die = is_builder && self.wanted.has(Trouble::KilledAtWrite) && !self.calm.is_now();
        if may_die && self.chance.one_in(80) {
            tell!(self.story, "{owner}: dies with this write");
            self.dies(&owner);
        }
    }

    #[allow(clippy::too_many_arguments)]
    fn build(
        &mut self,
        by: SessionId,
        owner: &str,
        is_builder: bool,
        change: Change,
        image: String,
        id: String,
        tree: &Tree,
    ) {
        let key = (image, id);
        let (image, id) = &key;
        let path = paths::build(&image.as_str().into(), &id.as_str().into());
        let now = tree.get(&path).and_then(|(data, _)| {
            ImageBuild::read(image.as_str().into(), id.as_str().into(), data).ok().map(|(build, _)| build)
        });
        let before = self.builds.get(&key).cloned();
        let (was, is) = (before.as_ref().map(|build| build.state), now.as_ref().map(|build| build.state));
        tell!(self.story, "{owner}: build {image}-{id}: {} -> {}", shown(was), shown(is));
        let holds = || holder(tree, &format!("{}/builds/lock", paths::image(&image.as_str().into()))) == Some(by.0);
        if is_builder {
            match (was, is) {
                (None, Some(BuildState::Building)) => {
                    self.begun += 1;
                    if !holds() {
                        broken!(self.story, "S4", "{owner} begins build {image}-{id} without the lock");
                    }
                    self.may_begin(owner, &key);
                    self.programs.insert((owner.to_owned(), image.clone()), (Instant::now(), None));
                }
                (Some(BuildState::Building), Some(BuildState::Failed)) if holds() => {}
                (Some(BuildState::Building), Some(BuildState::Ready)) if holds() => {
                    self.may_be_ready(owner, &key, now.as_ref());
                }
                (Some(BuildState::Building | BuildState::Failed), Some(BuildState::Deleting)) => {}
                (Some(BuildState::Ready), Some(BuildState::Deleting)) => self.may_retire(owner, &key),
                (Some(BuildState::Deleting) | None, None) => {
                    if let Some(upload) = self.uploads.keys().find(|upload| is_of(upload, &key)) {
                        let _ = change;
                        broken!(self.story, "S2", "{owner} removes build {image}-{id}, which has upload {upload:?}");
                    }
                }
                _ => broken!(
                    self.story,
                    "S4",
                    "{owner} makes build {image}-{id} {}, which was {}",
                    shown(is),
                    shown(was)
                ),
            }
        }
        if was != is {
            let written = START + self.story.age().as_secs_f64();
            let since = now.as_ref().map_or(written, |build| build.state_time.min(written));
            self.since.insert(key.clone(), since);
        }
        match now {
            Some(build) => self.builds.insert(key, build),
            None => self.builds.remove(&key),
        };
    }

    /// After a build that failed there is a pause, but for what somebody asks for, and for another configuration.
    fn may_begin(&self, owner: &str, (image, id): &BuildKey) {
        let Some((begun, Some(failed))) = self.programs.get(&(owner.to_owned(), image.clone())) else { return };
        let is_wanted = self.asked.get(image).is_some_and(|asked| asked >= begun);
        if failed.elapsed() < AFTER_A_FAILURE && !is_wanted && self.changed + UNTIL_KNOWN < *failed {
            let before = failed.elapsed().as_secs_f64();
            broken!(self.story, "no busy loop", "{owner} begins build {image}-{id} {before} s after another failed");
        }
    }

    /// A build is ready only with all its files.
    fn may_be_ready(&self, owner: &str, (image, id): &BuildKey, build: Option<&ImageBuild>) {
        let dir = place_of(owner).and_then(|place| self.dirs.get(&place));
        let (Some(dir), Some(build)) = (dir, build) else { return };
        for format in &build.formats {
            if !is_whole(&dir.join(format!("{image}-{id}.{format}")))
                && !self.spoiled.contains(&(image.clone(), id.clone()))
            {
                broken!(self.story, "S5", "{owner} makes build {image}-{id} ready without a whole {format} file");
            }
        }
    }

    /// A ready build may be marked.
    fn may_retire(&self, owner: &str, key: &BuildKey) {
        let (image, id) = key;
        if self.is_changing(image) || !self.wanted.has_image(image) {
            return;
        }
        let others =
            self.builds.iter().filter(|(of, build)| of.0 == *image && *of != key && build.state == BuildState::Ready);
        let others = others.count();
        if others < KEPT {
            broken!(self.story, "S5", "{owner} retires build {image}-{id}, and {others} others are ready");
        }
    }

    fn upload(&mut self, by: SessionId, owner: &str, is_builder: bool, _: Change, key: &UploadKey, tree: &Tree) {
        let name = format!("{}-{} in {} ({})", key.image, key.build, key.provider, key.id);
        let now = tree.get(&paths::upload(key)).and_then(|(data, _)| {
            let UploadKey { image, provider, build, id } = key.clone();
            ImageUpload::read(image, build, provider, id, data).ok().map(|(upload, _)| upload)
        });
        let was = self.uploads.get(key).map(|upload| upload.state);
        let is = now.as_ref().map(|upload| upload.state);
        let show = |state: Option<UploadState>| state.map_or("none", UploadState::as_str);
        tell!(self.story, "{owner}: upload {name}: {} -> {}", show(was), show(is));
        let lock = format!("{}/lock", paths::uploads(&key.image, &key.build, &key.provider));
        let holds = || holder(tree, &lock) == Some(by.0);
        if is_builder {
            match (was, is) {
                (None, Some(UploadState::Uploading)) => {
                    if !holds() {
                        broken!(self.story, "S4", "{owner} begins upload {name} without the lock");
                    }
                    let is_there = |(other, upload): (&UploadKey, &ImageUpload)| {
                        (&other.image, &other.build, &other.provider) == (&key.image, &key.build, &key.provider)
                            && upload.state == UploadState::Ready
                    };
                    if self.uploads.iter().any(is_there) {
                        broken!(self.story, "S4", "{owner} begins upload {name}, and it is there");
                    }
                }
                (Some(UploadState::Uploading), Some(UploadState::Ready)) if holds() => {
                    let id = now.as_ref().and_then(|upload| upload.external_id.clone()).unwrap_or_default();
                    let has = self.has_image.as_ref().is_none_or(|has| (has.0)(key.provider.as_str(), &id));
                    if !has && !self.vanished.contains(&id) {
                        broken!(self.story, "S5", "{owner} makes upload {name} ready, and image {id} is not there");
                    }
                }
                (Some(UploadState::Ready), Some(UploadState::Deleting)) => self.may_delete(owner, key),
                (Some(UploadState::Uploading), Some(UploadState::Failed)) if holds() => {}
                (Some(UploadState::Uploading | UploadState::Failed), Some(UploadState::Deleting))
                | (Some(UploadState::Deleting) | None, None) => {}
                _ => broken!(self.story, "S4", "{owner} makes upload {name} {}, which was {}", show(is), show(was)),
            }
        }
        match now {
            Some(upload) => self.uploads.insert(key.clone(), upload),
            None => self.uploads.remove(key),
        };
    }

    /// Whether a build is on record as ready.
    pub fn is_ready(&self, key: &BuildKey) -> bool {
        self.builds.get(key).is_some_and(|build| build.state == BuildState::Ready)
    }

    /// A ready upload may be marked.
    fn may_delete(&self, owner: &str, key: &UploadKey) {
        let is_listed = self.wanted.providers_of(key.image.as_str()).any(|of| key.provider == *of.name);
        let of_build = build_of(key);
        if !self.wanted.has_image(key.image.as_str()) || !is_listed || self.is_changing(key.image.as_str()) {
            return;
        }
        // Somebody has it deleted: a builder marks no build that has one that is not marked.
        if self.builds.get(&of_build).is_some_and(|build| build.state == BuildState::Deleting) {
            return;
        }
        let others = self.uploads.iter().filter(|(other, upload)| {
            (&other.image, &other.provider) == (&key.image, &key.provider)
                && *other != key
                && upload.state == UploadState::Ready
                && self.is_ready(&build_of(other))
        });
        let others = others.count();
        if others < KEPT {
            broken!(
                self.story,
                "S5",
                "{owner} deletes {}-{} from {}, and {others} others are ready",
                key.image,
                key.build,
                key.provider
            );
        }
    }
}

fn shown(state: Option<BuildState>) -> &'static str {
    state.map_or("none", BuildState::as_str)
}

/// The build of an upload.
pub fn build_of(upload: &UploadKey) -> BuildKey {
    (upload.image.to_string(), upload.build.to_string())
}

fn is_of(upload: &UploadKey, build: &BuildKey) -> bool {
    build_of(upload) == *build
}
