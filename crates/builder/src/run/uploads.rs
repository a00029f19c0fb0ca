//! The story of an upload: lock, look again, record, send, hook, record.
//!
//! The record says `uploading` from before the first byte, and carries the number by which the image in the cloud is
//! marked, so that whatever a dead builder has left there can be found. `ready` is written only when the cloud has the
//! whole image and what it has was found to be what the build made (the driver checks), and the site's hook agrees.

use std::{collections::BTreeMap, path::Path, sync::Arc, time::Duration};

use nodepool_common::{
    config::{Diskimage, Provider},
    daemon::Daemon,
    model::{
        BuildId, BuildState, Extra, ImageBuild, ImageName, ImageUpload, ProviderName, Stat, Timestamp, UploadId,
        UploadKey, UploadState, guard,
    },
    zk::{HeldWork, TryLock, Work, ZkError, paths},
};
use nodepool_drivers::ImageToUpload;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use super::{
    Builder,
    actions::{TAKE_AGAIN, WHILE_LOCKED},
    clouds::Cloud,
};
use crate::{
    build::{command::BuildCommand, log::last_line, process::Ended},
    files,
    machine::Machine,
    plan::UploadTo,
    scratch,
};

const LOGGER: &str = "nodepool.builder.UploadWorker";
/// For a site's hook, which may look at the image: an hour, as an upload has by default.
const HOOK_LIMIT: Duration = Duration::from_secs(3600);
/// For looking for a half image when the process is told to end.
const SWEEP_AT_END: Duration = Duration::from_secs(8);
/// For one attempt to take back an image that has no record: ZooKeeper's answer and the cloud's.
const TAKE_BACK: Duration = Duration::from_secs(120);
/// The longest pause between two of them, in first pauses.
const LONGEST: u32 = 60;

impl Builder {
    /// Uploads a build, if that is still called for under the lock.
    pub(super) async fn upload(
        self: &Arc<Self>,
        image: &ImageName,
        build: &BuildId,
        provider: &ProviderName,
        format: &str,
    ) -> Result<(), ZkError> {
        let to: UploadTo = (image.clone(), build.clone(), provider.clone());
        let config = self.config();
        let (Some(cloud), Some(diskimage)) = (self.clouds.get(provider), config.diskimages.get(image)) else {
            return Ok(());
        };
        let work = Work::Uploading(image.clone(), build.clone(), provider.clone());
        let lock = match self.zk.try_lock_work(work).await? {
            TryLock::Held(lock) => lock,
            TryLock::Busy => {
                self.state().doing.uploads_after.insert(to, self.clock.uptime() + WHILE_LOCKED);
                return Ok(());
            }
            // The next plan knows.
            TryLock::Gone => return Ok(()),
        };
        let record = self.zk.read_build(image, build).await?.map(|(record, _)| record);
        let record = record.filter(|record| record.state == BuildState::Ready);
        let uploads = self.zk.read_uploads(image, build, provider).await?;
        let is_there = uploads.iter().any(|(upload, _)| upload.state == UploadState::Ready)
            && !guard::is_removed("ready upload under its lock");
        let Some(record) = record.filter(|_| !is_there && !self.ending.is_cancelled()) else {
            return lock.unlock().await;
        };

        let mut upload = begun(&record, provider, self.clock.now());
        let stat = match lock.create_upload(&mut upload).await {
            Ok(stat) => stat,
            // Marked for deletion since, or gone: the next plan knows.
            Err(error) if error.is_bad_version() || error.is_no_node() => return lock.unlock().await,
            Err(error) => return Err(error),
        };
        let name = format!("build {build} of image {image} to provider {provider}");
        info!(logger = LOGGER, image = %image, build = %build, provider = %provider, "Uploading {name} as upload {}", upload.id);
        let started = Instant::now();
        let sending = async {
            tokio::select! {
                biased;
                sent = self.send(&cloud, diskimage, &record, &upload, format) => sent,
                () = self.ending.cancelled() => Err("the builder was stopped".to_owned()),
            }
        };
        let (sent, lock) = self.while_locked(lock, sending).await;
        match sent {
            Ok((external_name, external_id)) => {
                upload.set_state(UploadState::Ready, self.clock.now());
                upload.external_name = Some(external_name);
                upload.external_id = Some(external_id);
                upload.format = Some(format.to_owned());
                info!(
                    logger = LOGGER, image = %image, build = %build, provider = %provider,
                    "Image build {image}-{build} in {provider} is ready, after {:.0} s", started.elapsed().as_secs_f64()
                );
            }
            Err(reason) => {
                // The driver deletes what it has begun; of an upload that was broken off we make sure.
                if self.ending.is_cancelled() {
                    let swept = tokio::time::timeout(SWEEP_AT_END, cloud.sweep(build, &upload.id)).await;
                    if !matches!(swept, Ok(Ok(_))) {
                        // The record stays as it is, so that whoever comes next looks in the cloud.
                        return lock.unlock().await;
                    }
                }
                upload = failed(upload, &reason, self.clock.now());
                let pause =
                    self.state().upload_failed(&to, self.options.retry_interval.as_secs_f64(), self.clock.uptime());
                error!(
                    logger = LOGGER, image = %image, build = %build, provider = %provider,
                    "Failed to upload {name}: {reason}; next attempt in {pause:.0} s"
                );
            }
        }
        let concluded = self.conclude_upload(lock, &upload, stat).await;
        if upload.state == UploadState::Ready {
            if let Ok(true) = &concluded {
                self.state().upload_worked(&to);
                self.stats.image_uploaded(image, provider, started.elapsed());
            } else {
                // Nobody may ever know of the image.
                self.take_back(&cloud, &upload).await;
            }
        }
        concluded.map(drop)
    }

    /// Sends a build's file and runs the hook; the image's name and id in the cloud, or why there is none.
    async fn send(
        &self,
        cloud: &Cloud,
        diskimage: &Diskimage,
        build: &ImageBuild,
        upload: &ImageUpload,
        format: &str,
    ) -> Result<(String, String), String> {
        let path = files::image_file(&self.images_dir, &build.image, &build.id, format);
        let (md5, sha256) = files::checksums(&path);
        // Seconds since the epoch fit.
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        let at = upload.state_time as u64;
        let provider = cloud.connected().await.map_err(|error| error.to_string())?;
        let name = provider.image_name(&build.image, &upload.id, at).map_err(|error| error.to_string())?;
        let to_upload = ImageToUpload {
            name: name.clone(),
            path: path.clone(),
            format: format.to_owned(),
            build: build.id.clone(),
            upload: upload.id.clone(),
            properties: properties(diskimage, &cloud.config),
            md5,
            sha256,
        };
        let id = provider.upload_image(&to_upload).await.map_err(|error| error.to_string())?;
        if let Some(hook) = cloud.config.driver.post_upload_hook()
            && let Err(reason) = run_hook(&*self.machine, hook, &cloud.config.name, &id, &path, &self.ending).await
        {
            if let Err(error) = provider.delete_image(&id).await {
                warn!(logger = LOGGER, "Image {id} stays in provider {}: {error}", cloud.config.name);
            }
            return Err(reason);
        }
        Ok((name, id))
    }

    /// Records the end of an upload, whatever happened to our lock meanwhile. False: the record was taken from us, or the
    /// build is gone or being deleted. After an error the record may say either.
    async fn conclude_upload(&self, mut lock: HeldWork, upload: &ImageUpload, mut stat: Stat) -> Result<bool, ZkError> {
        let until = Instant::now() + TAKE_AGAIN;
        while let Err(error) = lock.write_upload(upload, stat.version).await {
            if error.is_no_node() {
                return lock.unlock().await.map(|()| false);
            }
            let Some(again) = self.take_again(lock, until, error).await? else { return Ok(false) };
            lock = again;
            match self.zk.read_upload(&upload.key()).await {
                Ok(Some((now, _))) if is_as_written(&now, upload) => break,
                Ok(Some((now, newer))) if now.state == UploadState::Uploading => stat = newer,
                // Somebody else has decided about it.
                Ok(_) => return lock.unlock().await.map(|()| false),
                // The session went again: the next write tells.
                Err(error) if error.is_transient() => {}
                Err(error) => return Err(error),
            }
        }
        lock.unlock().await.map(|()| true)
    }

    /// Deletes an image whose record could not be written, unless the record has it all the same; tries again until that
    /// has succeeded or the builder ends.
    async fn take_back(self: &Arc<Self>, cloud: &Arc<Cloud>, upload: &ImageUpload) {
        if guard::is_removed("taking back an image without a record") {
            return;
        }
        let Err(why) = self.try_to_take_back(cloud, upload).await else { return };
        let UploadKey { image, provider, build, id } = upload.key();
        warn!(
            logger = LOGGER, image = %image, build = %build, provider = %provider,
            "The image of upload {id} of build {build} of image {image} stays in provider {provider} for now, without a \
             record: {why}"
        );
        let (cloud, upload) = (Arc::clone(cloud), upload.clone());
        self.spawn(|this| async move {
            let first = this.options.retry_interval;
            let mut pause = first;
            loop {
                tokio::time::sleep(pause).await;
                if this.try_to_take_back(&cloud, &upload).await.is_ok() {
                    return;
                }
                pause = (pause * 2).min(first * LONGEST);
            }
        });
    }

    /// One attempt; why it failed.
    async fn try_to_take_back(&self, cloud: &Cloud, upload: &ImageUpload) -> Result<(), String> {
        let limit = if self.ending.is_cancelled() { SWEEP_AT_END } else { TAKE_BACK };
        let attempt = async {
            let zk = self.zk.in_current_session("reading", &paths::upload(&upload.key())).await;
            let zk = zk.map_err(|error| error.to_string())?;
            match zk.read_upload(&upload.key()).await.map_err(|error| error.to_string())? {
                // Our write was carried out, though we have not heard of it.
                Some((now, _)) if is_as_written(&now, upload) => Ok(()),
                Some((now, stat)) if now.state != UploadState::Deleting => {
                    // First the record, so that nothing boots from what is about to go, whatever is still under way.
                    let mut marked = now;
                    marked.set_state(UploadState::Deleting, self.clock.now());
                    let written = zk.mark_upload(&marked, stat.version).await.map_err(|error| error.to_string())?;
                    let stat = written.ok_or_else(|| "somebody has just written its record".to_owned())?;
                    self.take_from_cloud(&zk, cloud, &marked, stat).await.map_err(|error| error.to_string())
                }
                // Whoever took the record may have looked for the image before it was whole.
                Some(_) | None => {
                    cloud.sweep(&upload.build, &upload.id).await.map(drop).map_err(|error| error.to_string())
                }
            }
        };
        let late = |_| Err(format!("no answer within {} s", limit.as_secs()));
        tokio::time::timeout(limit, attempt).await.unwrap_or_else(late)
    }
}

/// Whether a record says of an upload's end what we wanted to write.
fn is_as_written(now: &ImageUpload, wanted: &ImageUpload) -> bool {
    now.state == wanted.state && now.external_id == wanted.external_id
}

/// The record of an upload that begins; its number is still the server's to give.
fn begun(build: &ImageBuild, provider: &ProviderName, now: f64) -> ImageUpload {
    ImageUpload {
        image: build.image.clone(),
        build: build.id.clone(),
        provider: provider.clone(),
        id: UploadId::from(""),
        state: UploadState::Uploading,
        state_time: now,
        external_id: None,
        external_name: None,
        format: None,
        username: build.username.clone(),
        python_path: build.python_path.clone(),
        shell_type: build.shell_type.clone(),
        extra: Extra::default(),
    }
}

/// As upstream leaves it, with the reason.
fn failed(mut upload: ImageUpload, reason: &str, now: Timestamp) -> ImageUpload {
    upload.username = None;
    upload.python_path = None;
    upload.shell_type = None;
    upload.set_reason(reason);
    upload.set_state(UploadState::Failed, now);
    upload
}

/// `metadata` of the diskimage, overlaid by `meta` of the provider's.
fn properties(diskimage: &Diskimage, provider: &Provider) -> BTreeMap<String, String> {
    let own = provider.driver.diskimages().get(&diskimage.name).map(|image| &image.meta);
    let all = diskimage.metadata.iter().chain(own.into_iter().flatten());
    all.map(|(key, value)| (key.clone(), value.clone())).collect()
}

/// Runs `post-upload-hook` with the provider's name, the image's id and the file's path (`nodepool 11.0.0: builder.py`), as
/// builds are run: nothing of it outlives it, and its output is not kept in memory.
async fn run_hook(
    machine: &dyn Machine,
    hook: &Path,
    provider: &ProviderName,
    id: &str,
    file: &Path,
    stop: &CancellationToken,
) -> Result<(), String> {
    let shown = hook.display();
    let words = [hook.as_os_str(), provider.as_str().as_ref(), id.as_ref(), file.as_os_str()];
    let command = BuildCommand {
        arguments: words.map(|word| word.to_string_lossy().into_owned()).to_vec(),
        ..BuildCommand::default()
    };
    let output = scratch::file().map_err(|error| format!("no file for the output of {shown}: {error}"))?;
    let log = output.reopen().map_err(|error| format!("no file for the output of {shown}: {error}"))?;
    let ended = machine.run(&command, log, HOOK_LIMIT, stop).await;
    let said = last_line(output.path()).map(|line| format!("; it said last: {line}")).unwrap_or_default();
    match ended {
        Ended::Exited(status) if status.success() => {
            info!(logger = LOGGER, provider = %provider, "post-upload-hook {shown} ended well{said}");
            Ok(())
        }
        Ended::Exited(status) => Err(format!("post-upload-hook {shown} ended with {status}{said}")),
        Ended::TimedOut => Err(format!("post-upload-hook {shown} was ended after {} s{said}", HOOK_LIMIT.as_secs())),
        Ended::Cancelled => Err("the builder was stopped".to_owned()),
        Ended::NotStarted(error) => Err(format!("cannot run post-upload-hook {shown}: {error}")),
    }
}
