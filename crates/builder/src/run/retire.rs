//! Deletions: of uploads with their images in the clouds, of builds, of files.
//!
//! Each step is recorded before the next is begun, and each action looks again before it writes, so that two builders, or
//! one that dies in the middle, end where one would have. Nothing is locked for it: see `zk/taken.rs` in `common`.

use nodepool_common::{
    model::{
        BuildId, BuildState, ImageBuild, ImageName, ImageUpload, RecordError, Stat, UploadKey, UploadState, guard,
    },
    zk::{InSession, TryLock, Work, ZkError, paths},
};
use nodepool_drivers::ProviderError;
use tracing::{info, warn};

use super::{Builder, actions::WHILE_LOCKED, clouds::Cloud};
use crate::{files, plan::Subject};

const LOGGER: &str = "nodepool.builder.CleanupWorker";

impl Builder {
    /// Marks an upload, deletes its image, deletes its record. A cloud that refuses is asked again later; what is marked
    /// stays marked.
    pub(super) async fn delete_upload(&self, key: &UploadKey, reason: &str) -> Result<(), ZkError> {
        let Some(cloud) = self.clouds.get(&key.provider) else { return Ok(()) };
        let zk = self.zk.in_current_session("reading", &paths::upload(key)).await?;
        let Some((mut upload, mut stat)) = zk.read_upload(key).await? else { return Ok(()) };
        let had_failed = upload.state == UploadState::Failed;
        match upload.state {
            // Somebody is at it after all.
            UploadState::Uploading => return Ok(()),
            UploadState::Deleting => {}
            UploadState::Ready | UploadState::Failed => {
                info!(
                    logger = LOGGER, image = %key.image, build = %key.build, provider = %key.provider,
                    "Deleting image build {}-{} from {}: {reason}", key.image, key.build, key.provider
                );
                upload.set_state(UploadState::Deleting, self.clock.now());
                if !guard::is_removed("mark before an image is deleted") {
                    let Some(marked) = zk.mark_upload(&upload, stat.version).await? else { return Ok(()) };
                    stat = marked;
                }
                self.frame.wake.notify_one();
            }
        }
        if upload.external_id.is_none() && had_failed {
            // The driver has deleted what it had begun: a cloud that does not answer is no reason to keep the record.
            if let Err(error) = cloud.sweep(&key.build, &key.id).await {
                warn!(
                    logger = LOGGER,
                    "Cannot look in {} for what upload {} may have left: {error}", key.provider, key.id
                );
            }
            return self.remove_upload(&zk, key, stat).await;
        }
        self.take_from_cloud(&zk, &cloud, &upload, stat).await
    }

    /// Marks an upload that its builder did not come back to, and deletes what it has left.
    pub(super) async fn forget_upload(&self, key: &UploadKey) -> Result<(), ZkError> {
        let Some(cloud) = self.clouds.get(&key.provider) else { return Ok(()) };
        let zk = self.zk.in_current_session("reading", &paths::upload(key)).await?;
        let Some((mut upload, stat)) = zk.read_upload(key).await? else { return Ok(()) };
        if upload.state != UploadState::Uploading {
            return Ok(());
        }
        let lock = format!("{}/lock", paths::uploads(&key.image, &key.build, &key.provider));
        if !zk.children(&lock).await?.is_empty() {
            self.later(Subject::Upload(key.clone()));
            return Ok(());
        }
        // Who comes back to it after all finds this, and deletes what he has sent.
        upload.set_state(UploadState::Deleting, self.clock.now());
        let Some(marked) = zk.mark_upload(&upload, stat.version).await? else { return Ok(()) };
        info!(
            logger = LOGGER, image = %key.image, build = %key.build, provider = %key.provider,
            "Removing upload {} of {}-{} to {}, which nobody goes on with", key.id, key.image, key.build, key.provider
        );
        self.take_from_cloud(&zk, &cloud, &upload, marked).await
    }

    /// Deletes the image of a marked upload, then its record. `stat`: of the record, as it was read or written in that session.
    pub(super) async fn take_from_cloud(
        &self,
        zk: &InSession,
        cloud: &Cloud,
        upload: &ImageUpload,
        stat: Stat,
    ) -> Result<(), ZkError> {
        let key = upload.key();
        let deleted = match &upload.external_id {
            Some(id) => match cloud.connected().await {
                Ok(provider) => provider.delete_image(id).await,
                Err(error) => Err(error),
            },
            None if guard::is_removed("search for a half-sent image") => Ok(()),
            None => cloud.sweep(&key.build, &key.id).await.map(drop),
        };
        if let Err(error) = deleted {
            let what = format!("Unable to delete image build {}-{} from {}", key.image, key.build, key.provider);
            self.refused(&Subject::Upload(key), &what, &error);
            return Ok(());
        }
        self.remove_upload(zk, &key, stat).await
    }

    async fn remove_upload(&self, zk: &InSession, key: &UploadKey, stat: Stat) -> Result<(), ZkError> {
        if zk.remove_upload(key, stat.version).await? {
            info!(
                logger = LOGGER, image = %key.image, build = %key.build, provider = %key.provider,
                "Deleted image build {}-{} from {} (upload {})", key.image, key.build, key.provider, key.id
            );
        } else {
            self.later(Subject::Upload(key.clone()));
        }
        Ok(())
    }

    /// Marks a build for deletion, so that its files may go, if it is in that state.
    pub(super) async fn retire_build(
        &self,
        image: &ImageName,
        build: &BuildId,
        state: BuildState,
        reason: &str,
    ) -> Result<(), ZkError> {
        // Who builds it holds the image's lock; that lock tells whether anybody does.
        let lock = if state == BuildState::Building {
            let TryLock::Held(lock) = self.zk.try_lock_work(Work::Building(image.clone())).await? else {
                self.later(Subject::Build(image.clone(), build.clone()));
                return Ok(());
            };
            Some(lock)
        } else {
            None
        };
        let zk = self.zk.in_current_session("reading", &paths::build(image, build)).await?;
        if let Some((mut now, stat)) = zk.read_build(image, build).await?
            && (now.state == state || guard::is_removed("state of a build before it is retired"))
        {
            info!(logger = LOGGER, image = %image, build = %build, "Retiring build {build} of image {image}: {reason}");
            now.set_state(BuildState::Deleting, self.clock.now());
            zk.mark_build(&now, stat.version).await?;
        }
        match lock {
            Some(lock) => lock.unlock().await,
            None => Ok(()),
        }
    }

    /// Deletes the record of a build that is marked and has no upload left.
    pub(super) async fn delete_build(&self, image: &ImageName, build: &BuildId) -> Result<(), ZkError> {
        let zk = self.zk.in_current_session("reading", &paths::build(image, build)).await?;
        let Some((now, stat)) = zk.read_build(image, build).await? else { return Ok(()) };
        if now.state != BuildState::Deleting {
            return Ok(());
        }
        if zk.remove_build(image, build, stat.version).await? {
            info!(logger = LOGGER, image = %image, build = %build, "Deleted build {build} of image {image}");
        } else {
            self.later(Subject::Build(image.clone(), build.clone()));
        }
        Ok(())
    }

    /// Removes a record that has no data, and nothing below it that matters.
    pub(super) async fn remove_empty(&self, what: &Subject) -> Result<(), ZkError> {
        let path = match what {
            Subject::Build(image, build) => paths::build(image, build),
            Subject::Upload(key) => paths::upload(key),
            Subject::Files(..) => return Ok(()),
        };
        let zk = self.zk.in_current_session("reading", &path).await?;
        let Some((_, stat)) = zk.get(&path).await?.filter(|(data, _)| data.is_empty()) else { return Ok(()) };
        let removed = match what {
            Subject::Build(image, build) => zk.remove_build(image, build, stat.version).await?,
            Subject::Upload(key) => zk.remove_upload(key, stat.version).await?,
            Subject::Files(..) => return Ok(()),
        };
        if removed {
            info!(logger = LOGGER, "Removed {path}, a record without data");
        } else {
            self.later(what.clone());
        }
        Ok(())
    }

    /// Deletes files of a build, if its record still allows it.
    pub(super) async fn delete_files(
        &self,
        image: &ImageName,
        build: &BuildId,
        formats: Option<&[String]>,
        reason: &str,
    ) -> Result<(), ZkError> {
        let state = match self.zk.get(&paths::build(image, build)).await? {
            None => None,
            Some((data, _)) => match ImageBuild::read(image.clone(), build.clone(), &data) {
                Ok((build, _)) => Some(build.state),
                Err(RecordError::Empty) => None,
                // Perhaps somebody repairs it.
                Err(_) => return Ok(()),
            },
        };
        let may_go = match (state, formats) {
            (Some(BuildState::Building), _) => false,
            (Some(BuildState::Ready), formats) => {
                formats.is_some() || guard::is_removed("state of a build before its files go")
            }
            (None | Some(BuildState::Deleting | BuildState::Failed), _) => true,
        };
        if !may_go {
            return Ok(());
        }
        let (images_dir, of, id) = (self.images_dir.clone(), image.clone(), build.clone());
        let formats = formats.map(<[String]>::to_vec);
        match self.on_files(move || files::delete(&images_dir, &of, &id, formats.as_deref())).await {
            Ok(deleted) => {
                for path in deleted {
                    info!(logger = LOGGER, image = %image, build = %build, "Removed {}: {reason}", path.display());
                }
            }
            Err(error) => {
                warn!(logger = LOGGER, image = %image, build = %build, "Cannot delete the files of {image}-{build}: {error}");
                let subject = Subject::Files(image.clone(), build.clone());
                self.state().retirement_failed(
                    &subject,
                    self.options.retry_interval.as_secs_f64(),
                    self.clock.uptime(),
                );
            }
        }
        Ok(())
    }

    /// Somebody else has the lock.
    fn later(&self, subject: Subject) {
        self.state().doing.retire_after.insert(subject, self.clock.uptime() + WHILE_LOCKED);
    }

    /// The cloud does not do it now.
    fn refused(&self, subject: &Subject, what: &str, error: &ProviderError) {
        warn!(logger = LOGGER, "{what}, trying again: {error}");
        self.state().retirement_failed(subject, self.options.retry_interval.as_secs_f64(), self.clock.uptime());
    }
}
