//! [`Site`]: a machine with an images-dir and what runs on it; [`OnSite`]: what one builder uses of it.
//!
//! Files are judged when they go (**S5**): of a build that is on record as ready none does, unless each provider has it and the
//! configuration says so; of one that is being built none does before that has failed.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File},
    io,
    os::unix::process::ExitStatusExt as _,
    path::{Path, PathBuf},
    process::ExitStatus,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use nix::fcntl::Flock;
use nodepool_builder::{
    build::{command::BuildCommand, process::Ended},
    machine::{FileWork, Machine},
};
use nodepool_common::model::{BuildState, UploadState};
use tokio::{sync::oneshot, task::AbortHandle, time::Instant};
use tokio_util::sync::CancellationToken;

use super::{
    super::{
        chance::Chance,
        network::Calm,
        story::{Story, broken, tell},
    },
    plan::{Plan, Trouble},
    truth::{BuildKey, SharedTruth},
};

/// What a whole file has in it.
const WHOLE: &str = "whole";

/// Whether an image's file is all there.
pub fn is_whole(file: &Path) -> bool {
    fs::read_to_string(file).is_ok_and(|text| text == WHOLE)
}

/// A machine. It outlives the builders on it.
#[derive(Debug)]
pub struct Site {
    pub images_dir: PathBuf,
    /// What runs, by the files that it makes.
    running: Mutex<BTreeMap<PathBuf, AbortHandle>>,
    /// Until when its disk is full.
    full_until: Mutex<Option<Instant>>,
    chance: Chance,
    plan: Plan,
    calm: Calm,
    story: Story,
    truth: SharedTruth,
}

impl Site {
    /// One with an empty images-dir.
    pub fn new(place: usize, images_dir: PathBuf, plan: &Plan, calm: Calm, story: Story, truth: SharedTruth) -> Self {
        fs::create_dir_all(&images_dir).unwrap();
        let chance = Chance::of(plan.seed, &format!("machine {place}"));
        let (running, full_until, plan) = (Mutex::default(), Mutex::default(), plan.clone());
        Self { images_dir, running, full_until, chance, plan, calm, story, truth }
    }

    fn running(&self) -> MutexGuard<'_, BTreeMap<PathBuf, AbortHandle>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Its disk is full for a while; `None`: no more.
    pub fn fill(&self, pause: Option<Duration>) {
        *self.full_until.lock().unwrap_or_else(PoisonError::into_inner) = pause.map(|pause| Instant::now() + pause);
    }

    fn is_full(&self) -> bool {
        let until = *self.full_until.lock().unwrap_or_else(PoisonError::into_inner);
        until.is_some_and(|until| until > Instant::now())
    }

    fn goes_wrong(&self, trouble: Trouble, times: usize) -> bool {
        self.plan.has(trouble) && !self.calm.is_now() && self.chance.one_in(times)
    }

    /// The files of builds, with their builds.
    pub fn files(&self) -> BTreeSet<(BuildKey, String)> {
        let names =
            fs::read_dir(&self.images_dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names
            .filter_map(|name| {
                let (stem, suffix) = name.split_once('.')?;
                let (image, build) = stem.rsplit_once('-')?;
                Some(((image.to_owned(), build.to_owned()), suffix.to_owned()))
            })
            .collect()
    }

    /// Somebody deletes an image's file.
    pub fn lose_a_file(&self) {
        let files: Vec<_> = self.files().into_iter().filter(|(_, suffix)| !suffix.contains('.')).collect();
        if files.is_empty() {
            return;
        }
        let (build, suffix) = self.chance.pick(&files);
        tell!(self.story, "somebody: deletes the {suffix} file of {}-{}", build.0, build.1);
        self.truth.open().spoiled.insert(build.clone());
        let _ = fs::remove_file(self.images_dir.join(format!("{}-{}.{suffix}", build.0, build.1)));
    }

    /// What a program that builds does, to its end.
    async fn build(self: Arc<Self>, base: PathBuf, formats: Vec<String>) -> ExitStatus {
        let file = |suffix: &str| PathBuf::from(format!("{}.{suffix}", base.display()));
        let write = |suffix: &str, text: &str| fs::write(file(suffix), text).unwrap();
        let (fails, hangs) = (self.goes_wrong(Trouble::BuildsFail, 3), self.goes_wrong(Trouble::BuildsHang, 8));
        tokio::time::sleep(self.chance.seconds(5.0, 60.0)).await;
        if fails && self.chance.one_in(2) {
            return ExitStatus::from_raw(1 << 8);
        }
        fs::create_dir_all(file("d")).unwrap();
        for format in &formats {
            write(format, "half");
            if hangs {
                tokio::time::sleep(Duration::from_secs(86_400)).await;
            }
            tokio::time::sleep(self.chance.seconds(5.0, 120.0)).await;
            if fails {
                return ExitStatus::from_raw(if self.chance.one_in(2) { 9 } else { 2 << 8 });
            }
            if self.is_full() {
                return ExitStatus::from_raw(1 << 8);
            }
            write(format, WHOLE);
            if self.chance.one_in(2) {
                write(&format!("{format}.md5"), &format!("{}  image\n", "0".repeat(32)));
                write(&format!("{format}.sha256"), &format!("{}  image\n", "0".repeat(64)));
            }
        }
        if self.goes_wrong(Trouble::BuildsLack, 4) {
            let format = self.chance.pick(&formats);
            let _ = fs::remove_file(file(format));
            if self.chance.one_in(2) {
                write(format, WHOLE);
                let _ = fs::remove_file(file(&format!("{format}.md5")));
                fs::create_dir_all(file(&format!("{format}.md5"))).unwrap();
            }
        }
        ExitStatus::from_raw(0)
    }

    /// Whether files of a build may go now; why not.
    fn may_go(&self, (key, suffix): &(BuildKey, String)) -> Option<String> {
        let truth = self.truth.open();
        let state = truth.builds.get(key)?.state;
        let format = suffix.split('.').next().unwrap_or_default();
        let is_spared = || {
            let image = truth.wanted.images.iter().find(|image| image.name == key.0)?;
            let lacks = truth.wanted.providers_of(&key.0).any(|provider| {
                provider.format == format
                    && !truth.uploads.iter().any(|(of, upload)| {
                        of.provider == *provider.name
                            && super::truth::build_of(of) == *key
                            && upload.state == UploadState::Ready
                    })
            });
            (image.delete_after_upload && !lacks).then_some(())
        };
        // Who knows: the configuration, or what a provider has, was another one a moment ago.
        let was_spared = self.plan.images.iter().any(|image| image.name == key.0 && image.delete_after_upload)
            && (self.plan.has(Trouble::Reconfigured) || self.plan.has(Trouble::UploadsDeleted));
        match state {
            BuildState::Ready if is_spared().is_none() && !was_spared => Some("is ready".to_owned()),
            _ => None,
        }
    }
}

/// What a builder uses of its machine, as long as it lives.
#[derive(Debug)]
pub struct OnSite {
    pub site: Arc<Site>,
    pub process: String,
    pub is_dead: Arc<AtomicBool>,
}

/// A child; dropped by who lives, it is killed.
struct Child<'a> {
    on: &'a OnSite,
    base: PathBuf,
}

impl Drop for Child<'_> {
    fn drop(&mut self) {
        if !self.on.is_dead.load(Ordering::SeqCst)
            && let Some(child) = self.on.site.running().remove(&self.base)
        {
            child.abort();
        }
    }
}

impl OnSite {
    async fn live(&self) {
        if self.is_dead.load(Ordering::SeqCst) {
            std::future::pending::<()>().await;
        }
    }
}

#[async_trait]
impl Machine for OnSite {
    fn claim(&self, _: &Path) -> io::Result<Option<Flock<File>>> {
        // A killed builder's claim is over: here only its memory is not.
        Ok(None)
    }

    async fn end_leftovers(&self, _: PathBuf) -> usize {
        let left = std::mem::take(&mut *self.site.running());
        if !left.is_empty() {
            tokio::time::sleep(self.site.chance.seconds(0.1, 15.0)).await;
        }
        left.values().for_each(AbortHandle::abort);
        left.len()
    }

    async fn run(&self, command: &BuildCommand, _: File, limit: Duration, cancel: &CancellationToken) -> Ended {
        self.live().await;
        let site = &self.site;
        let base = command.environment.iter().find(|(name, _)| name == "DIB_IMAGE_FILENAME");
        let base = PathBuf::from(&base.unwrap().1);
        let types = command.arguments.iter().skip_while(|word| *word != "-t").nth(1);
        let formats = types.unwrap().split(',').map(str::to_owned).collect();
        let (done, is_done) = oneshot::channel();
        let build = Arc::clone(site).build(base.clone(), formats);
        let name = base.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let (story, of) = (site.story.clone(), name.clone());
        let child = tokio::spawn(async move {
            let status = build.await;
            tell!(story, "machine: the build of {of} ends with {status}");
            let _ = done.send(status);
        });
        site.running().insert(base.clone(), child.abort_handle());
        let _child = Child { on: self, base };
        let ended = tokio::select! {
            biased;
            status = is_done => status.map_or(Ended::Cancelled, Ended::Exited),
            () = tokio::time::sleep(limit) => Ended::TimedOut,
            () = cancel.cancelled() => Ended::Cancelled,
        };
        self.live().await;
        if !matches!(&ended, Ended::Exited(status) if status.success())
            && let Some((image, _)) = name.rsplit_once('-')
        {
            site.truth.open().program_failed(&self.process, image);
        }
        ended
    }

    fn free_space(&self, _: &Path) -> io::Result<u64> {
        Ok(if self.site.is_full() { 0 } else { 1 << 40 })
    }

    async fn work_on_files(&self, work: FileWork) -> io::Result<()> {
        tokio::time::sleep(self.site.chance.seconds(0.001, 0.3)).await;
        self.live().await;
        let before = self.site.files();
        work();
        for gone in before.difference(&self.site.files()) {
            let ((image, build), suffix) = gone;
            tell!(self.site.story, "{}: {image}-{build}.{suffix} is deleted", self.process);
            if let Some(why) = self.site.may_go(gone) {
                broken!(self.site.story, "S5", "{} deletes {image}-{build}.{suffix}: it {why}", self.process);
            }
        }
        Ok(())
    }
}
