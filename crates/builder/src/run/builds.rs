//! The story of a build: lock, look again, record, run, check, record.
//!
//! The record says `building` from before anything is run until everything is known, so whoever finds one whose lock
//! nobody holds knows that its builder died. A session that is lost in an hour's build costs nothing: the build goes on,
//! and its lock is taken again ([`Builder::while_locked`]).

use std::{fs, io::Write as _, path::Path, time::Duration};

use nodepool_common::{
    config::{Config, Diskimage},
    model::{BuildId, BuildState, ImageBuild, ImageName, Stat, guard},
    zk::{HeldWork, TryLock, Work, ZkError},
};
use tokio::time::Instant;
use tracing::{error, info, warn};

use super::{
    Builder,
    actions::{TAKE_AGAIN, WHILE_LOCKED},
};
use crate::{
    build::{command::BuildCommand, log, process::Ended},
    files,
    machine::Machine,
    plan::Why,
};

const LOGGER: &str = "nodepool.builder.BuildWorker";
/// Bytes that must be free where nobody knows how large the image will be.
const LEAST_SPACE: u64 = 100 * 1024 * 1024;

/// What became of a build.
struct Outcome {
    /// For the metrics: the exit code.
    code: i32,
    /// Why it is of no use.
    failure: Option<String>,
}

impl Builder {
    /// Builds an image, if that is still called for under the lock.
    pub(super) async fn build(
        &self,
        image: &ImageName,
        formats: &[String],
        newest: Option<&BuildId>,
        why: Why,
    ) -> Result<(), ZkError> {
        let config = self.config();
        let Some(diskimage) = config.diskimages.get(image) else { return Ok(()) };
        let TryLock::Held(lock) = self.zk.try_lock_work(Work::Building(image.clone())).await? else {
            self.state().doing.builds_after.insert(image.clone(), (self.clock.uptime() + WHILE_LOCKED, None));
            return Ok(());
        };
        let request = self.zk.build_request(image).await?;
        let requested = request.is_some();
        let ready = self.zk.read_builds(image).await?.into_iter().filter(|(build, _)| build.state == BuildState::Ready);
        // In the planner's order.
        let at = |(build, stat): &(ImageBuild, Stat)| stat.in_order(build.state_time);
        let ready = ready.max_by(|a, b| at(a).total_cmp(&at(b)));
        let is_due = match why {
            Why::Requested => requested,
            _ => ready.as_ref().map(|(build, _)| &build.id) == newest,
        };
        if !is_due || self.ending.is_cancelled() {
            return lock.unlock().await;
        }

        let id = BuildId::from(self.entropy.uuid().simple().to_string());
        let mut build = ImageBuild::begun(image.clone(), id.clone(), self.clock.now());
        build.builder = Some(self.options.fqdn.clone());
        build.builder_id = Some(self.id.clone());
        build.formats = formats.to_vec();
        let stat = lock.create_build(&build).await?;
        info!(logger = LOGGER, image = %image, build = %id, "Building image {image}: {why}");
        self.frame.wake.notify_one();

        let started = Instant::now();
        let last = ready.map(|(build, _)| build);
        let (outcome, lock) = self.while_locked(lock, self.make(&config, diskimage, &build, last.as_ref())).await;
        self.report_build(image, formats, &files::base(&self.images_dir, image, &id), started.elapsed(), &outcome);

        build.username = Some(diskimage.username.clone());
        build.python_path = Some(diskimage.python_path.clone());
        build.shell_type.clone_from(&diskimage.shell_type);
        if let Some(reason) = &outcome.failure {
            build.formats.clear();
            build.set_reason(reason);
            build.set_state(BuildState::Failed, self.clock.now());
            self.remove_files_of(&build).await;
            // Without a request: any that comes.
            let known = request.map_or(0, |stat| stat.mzxid);
            let first = self.options.retry_interval.as_secs_f64();
            let pause = self.state().build_failed(image, first, self.clock.uptime(), Some(known));
            error!(
                logger = LOGGER, image = %image, build = %id,
                "DIB failed creating {image}: {reason}; next attempt in {pause:.0} s"
            );
        } else {
            build.set_state(BuildState::Ready, self.clock.now());
            info!(
                logger = LOGGER, image = %image, build = %id,
                "DIB image {image} is built, in {:.0} s", started.elapsed().as_secs_f64()
            );
        }
        let lock = self.conclude_build(lock, &build, stat).await?;
        if build.state == BuildState::Ready {
            self.state().build_worked(image);
        }
        let Some(lock) = lock else { return Ok(()) };
        if requested && build.state == BuildState::Ready {
            lock.delete_build_request(image).await?;
        }
        lock.unlock().await
    }

    /// Makes a build's files, or says why there are none.
    async fn make(
        &self,
        config: &Config,
        diskimage: &Diskimage,
        build: &ImageBuild,
        last: Option<&ImageBuild>,
    ) -> Outcome {
        let images_dir = &self.images_dir;
        let (image, id) = (&build.image, &build.id);
        let logs = log::dir(config);
        let log_path = log::path(&logs, image, id);
        if let Err(error) = log::prune(&logs, image, config.build_log_retention) {
            warn!(logger = LOGGER, "Cannot remove old build logs from {}: {error}", logs.display());
        }
        let mut log = match log::create(&log_path) {
            Ok(log) => log,
            Err(error) => {
                let failure =
                    Some(format!("cannot write the build log {} (build-log-dir): {error}", log_path.display()));
                return Outcome { code: 1, failure };
            }
        };
        let base = files::base(images_dir, image, id);
        let ready = enough_space(&*self.machine, images_dir, last).and_then(|()| {
            BuildCommand::new(config, diskimage, &build.formats, &base).map_err(|error| error.to_string())
        });
        let mut outcome = match ready {
            Err(failure) => Outcome { code: 1, failure: Some(failure) },
            Ok(command) => {
                let own = if command.is_own { " (in nodepool-builder itself)" } else { "" };
                info!(logger = LOGGER, image = %image, build = %id, "Running {}{own}", command.arguments.join(" "));
                // A full disk has no room for it; the build will tell.
                let _ = log.write_all(command.note.as_deref().unwrap_or_default().as_bytes());
                info!(logger = LOGGER, image = %image, build = %id, "Logging to {}", log_path.display());
                match log.try_clone() {
                    Ok(out) => self.run_build(&command, out, diskimage, &log_path).await,
                    Err(error) => Outcome { code: 1, failure: Some(error.to_string()) },
                }
            }
        };
        if outcome.failure.is_none() {
            outcome.failure = self.check_files(&base, &build.formats).await.err();
        }
        if let Some(failure) = &outcome.failure {
            // A full disk has no room for it.
            let _ = writeln!(log, "Build failed: {failure}");
        }
        outcome
    }

    async fn run_build(&self, command: &BuildCommand, log: fs::File, image: &Diskimage, log_path: &Path) -> Outcome {
        let ended = self.machine.run(command, log, image.build_timeout, &self.ending).await;
        let failure = match &ended {
            Ended::Exited(status) if status.success() => None,
            Ended::Exited(_) => {
                let said = log::last_line(log_path).map(|line| format!("; it said last: {line}")).unwrap_or_default();
                Some(format!("exit code {}{said} (the whole log: {})", ended.code(), log_path.display()))
            }
            Ended::TimedOut => {
                Some(format!("not done after {} s (build-timeout of the diskimage)", image.build_timeout.as_secs()))
            }
            Ended::Cancelled => Some("the builder was stopped".to_owned()),
            Ended::NotStarted(error) => {
                let program = command.arguments.first().map(String::as_str).unwrap_or_default();
                Some(format!("cannot run {program}: {error}; check dib-cmd of the diskimage"))
            }
        };
        Outcome { code: ended.code(), failure }
    }

    /// Every format that was wanted is there, with its checksums.
    async fn check_files(&self, base: &Path, formats: &[String]) -> Result<(), String> {
        for format in formats {
            let file = files::with_suffix(base, format);
            if !file.is_file() && !guard::is_removed("look for a build's files") {
                return Err(format!("the build ended well, but did not make {}", file.display()));
            }
            let (path, stop) = (file.clone(), self.ending.clone());
            let added = self.on_files(move || files::add_checksums(&path, &stop)).await;
            added.map_err(|error| format!("cannot compute the checksums of {}: {error}", file.display()))?;
        }
        if self.ending.is_cancelled() { Err("the builder was stopped".to_owned()) } else { Ok(()) }
    }

    /// Records the end of a build, whatever happened to our lock meanwhile. Without an error and without the lock: the record
    /// was taken from us, and the files are gone with it.
    async fn conclude_build(
        &self,
        mut lock: HeldWork,
        build: &ImageBuild,
        mut stat: Stat,
    ) -> Result<Option<HeldWork>, ZkError> {
        let until = Instant::now() + TAKE_AGAIN;
        while let Err(error) = lock.write_build(build, stat.version).await {
            let again = if error.is_no_node() { None } else { self.take_again(lock, until, error).await? };
            let Some(again) = again else {
                warn!(
                    logger = LOGGER, image = %build.image, build = %build.id,
                    "The record of build {} of image {} is gone: somebody deleted it meanwhile", build.id, build.image
                );
                self.remove_files_of(build).await;
                return Ok(None);
            };
            lock = again;
            match self.zk.read_build(&build.image, &build.id).await {
                Ok(Some((now, newer))) if now.state == BuildState::Building => stat = newer,
                // Somebody else has decided about it.
                Ok(Some(_)) => return Ok(Some(lock)),
                // Gone, or the session went again: the next write tells.
                Ok(None) => {}
                Err(error) if error.is_transient() => {}
                Err(error) => return Err(error),
            }
        }
        Ok(Some(lock))
    }

    /// Deletes all files of a build; a failure is said, and the next pass tries again.
    async fn remove_files_of(&self, build: &ImageBuild) {
        let (images_dir, image, id) = (self.images_dir.clone(), build.image.clone(), build.id.clone());
        let deleted = self.on_files(move || files::delete(&images_dir, &image, &id, None)).await;
        if let Err(error) = deleted {
            warn!(logger = LOGGER, "Cannot delete the files of build {} of image {}: {error}", build.id, build.image);
        }
    }

    fn report_build(&self, image: &ImageName, formats: &[String], base: &Path, took: Duration, outcome: &Outcome) {
        let size = |format: &String| Some((format.clone(), files::allocated(&files::with_suffix(base, format)).ok()?));
        let sizes: Vec<_> = match outcome.failure {
            None => formats.iter().filter_map(size).collect(),
            Some(_) => Vec::new(),
        };
        self.stats.image_built(image, outcome.failure.is_none(), outcome.code, took, &sizes, self.clock.now());
    }
}

/// Whether images-dir has room for an image: as much as the last build took.
fn enough_space(machine: &dyn Machine, images_dir: &Path, last: Option<&ImageBuild>) -> Result<(), String> {
    let free = machine
        .free_space(images_dir)
        .map_err(|error| format!("cannot use images-dir {}: {error}", images_dir.display()))?;
    let size = |build: &ImageBuild| -> u64 {
        let file = |format: &String| files::image_file(images_dir, &build.image, &build.id, format);
        build.formats.iter().filter_map(|format| files::allocated(&file(format)).ok()).sum()
    };
    let needed = last.map_or(0, size).max(LEAST_SPACE);
    if free >= needed {
        return Ok(());
    }
    let mib = |bytes: u64| bytes / 1024 / 1024;
    Err(format!(
        "not enough space in images-dir {}: {} MiB are free, {} are needed (what the last build took, at least {}); \
         nothing was begun. Make room there, or delete builds (dib-image-delete)",
        images_dir.display(),
        mib(free),
        mib(needed),
        mib(LEAST_SPACE)
    ))
}
