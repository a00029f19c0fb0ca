//! Deletions: of uploads with their images in the clouds, of builds, of files.
//!
//! Each step is recorded before the next is begun, and each action looks again under its lock, so that two builders, or
//! one that dies in the middle, end where one would have.

use nodepool_common::{
    model::{BuildId, BuildState, ImageBuild, ImageName, RecordError, UploadKey, UploadState},
    sys::clock,
    zk::{Work, ZkError, paths},
};
use nodepool_drivers::ProviderError;
use tokio::task::spawn_blocking;
use tracing::{info, warn};

use super::{Builder, actions::WHILE_LOCKED};
use crate::{files, plan::Subject};

const LOGGER: &str = "nodepool.builder.CleanupWorker";

impl Builder {
    /// Marks an upload, deletes its image, deletes its record. A cloud that refuses is asked again later; what is marked
    /// stays marked.
    pub(super) async fn delete_upload(&self, key: &UploadKey, reason: &str) -> Result<(), ZkError> {
        let subject = Subject::Upload(key.clone());
        let Some(cloud) = self.clouds.get(&key.provider) else { return Ok(()) };
        let Some(lock) = self.zk.try_lock_work(Work::Upload(key.clone())).await? else {
            self.later(subject);
            return Ok(());
        };
        let Some((mut upload, stat)) = self.zk.read_upload(key).await? else { return lock.unlock().await };
        let name = format!("image build {}-{} from {}", key.image, key.build, key.provider);
        match upload.state {
            // Somebody is at it after all.
            UploadState::Uploading => return lock.unlock().await,
            UploadState::Deleting => {}
            UploadState::Ready | UploadState::Failed => {
                info!(logger = LOGGER, image = %key.image, build = %key.build, provider = %key.provider, "Deleting {name}: {reason}");
                upload.set_state(UploadState::Deleting, clock::now());
                lock.write_upload(&upload, stat.version).await?;
                self.wake.notify_one();
            }
        }
        if let Some(id) = &upload.external_id {
            let deleted = match cloud.connected().await {
                Ok(provider) => provider.delete_image(id).await,
                Err(error) => Err(error),
            };
            if let Err(error) = deleted {
                self.refused(&subject, &format!("Unable to delete {name}"), &error);
                return lock.unlock().await;
            }
        } else if let Err(error) = cloud.sweep(&key.build, &key.id).await {
            // Nothing on record says that there is anything.
            warn!(logger = LOGGER, "Cannot look in {} for what upload {} may have left: {error}", key.provider, key.id);
        }
        lock.delete_upload(key).await?;
        info!(logger = LOGGER, image = %key.image, build = %key.build, provider = %key.provider, "Deleted {name} (upload {})", key.id);
        Ok(())
    }

    /// Removes what an upload has left that its builder did not come back to.
    pub(super) async fn forget_upload(&self, key: &UploadKey) -> Result<(), ZkError> {
        let subject = Subject::Upload(key.clone());
        let Some(cloud) = self.clouds.get(&key.provider) else { return Ok(()) };
        let work = Work::Uploading(key.image.clone(), key.build.clone(), key.provider.clone());
        let Some(lock) = self.zk.try_lock_work(work).await? else {
            self.later(subject);
            return Ok(());
        };
        let now = self.zk.read_upload(key).await?.map(|(upload, _)| upload);
        if now.is_none_or(|upload| upload.state != UploadState::Uploading) {
            return lock.unlock().await;
        }
        if let Err(error) = cloud.sweep(&key.build, &key.id).await {
            let what = format!(
                "Unable to look in {} for what upload {} of image {} has left",
                key.provider, key.id, key.image
            );
            self.refused(&subject, &what, &error);
            return lock.unlock().await;
        }
        info!(
            logger = LOGGER, image = %key.image, build = %key.build, provider = %key.provider,
            "Removed upload {} of {}-{} to {}, which nobody goes on with", key.id, key.image, key.build, key.provider
        );
        lock.delete_upload(key).await
    }

    /// Marks a build for deletion, so that its files may go.
    pub(super) async fn retire_build(&self, image: &ImageName, build: &BuildId, reason: &str) -> Result<(), ZkError> {
        // Who builds it holds the image's lock; that lock tells whether anybody does.
        for work in [Work::Building(image.clone()), Work::Build(image.clone(), build.clone())] {
            let is_about_building = matches!(work, Work::Building(_));
            let Some((now, _)) = self.zk.read_build(image, build).await? else { return Ok(()) };
            if is_about_building != (now.state == BuildState::Building) {
                continue;
            }
            let Some(lock) = self.zk.try_lock_work(work).await? else {
                self.later(Subject::Build(image.clone(), build.clone()));
                return Ok(());
            };
            let Some((mut now, stat)) = self.zk.read_build(image, build).await? else { return lock.unlock().await };
            if now.state != BuildState::Deleting && is_about_building == (now.state == BuildState::Building) {
                info!(logger = LOGGER, image = %image, build = %build, "Retiring build {build} of image {image}: {reason}");
                now.set_state(BuildState::Deleting, clock::now());
                lock.write_build(&now, stat.version).await?;
            }
            return lock.unlock().await;
        }
        Ok(())
    }

    /// Deletes the record of a build that is marked and has no upload left.
    pub(super) async fn delete_build(&self, image: &ImageName, build: &BuildId) -> Result<(), ZkError> {
        let subject = Subject::Build(image.clone(), build.clone());
        let Some(lock) = self.zk.try_lock_work(Work::Build(image.clone(), build.clone())).await? else {
            self.later(subject);
            return Ok(());
        };
        let now = self.zk.read_build(image, build).await?.map(|(build, _)| build);
        if now.is_none_or(|build| build.state != BuildState::Deleting) {
            return lock.unlock().await;
        }
        if lock.delete_build(image, build).await? {
            info!(logger = LOGGER, image = %image, build = %build, "Deleted build {build} of image {image}");
        } else {
            self.later(subject);
        }
        Ok(())
    }

    /// Removes a record that has no data, and nothing below it that matters.
    pub(super) async fn remove_empty(&self, what: &Subject) -> Result<(), ZkError> {
        let (path, below) = match what {
            Subject::Build(image, build) => {
                let path = paths::build(image, build);
                let below = self.zk.children(&format!("{path}/providers")).await?;
                (path, below)
            }
            Subject::Upload(key) => (paths::upload(key), Vec::new()),
            Subject::Files(..) => return Ok(()),
        };
        let is_empty = self.zk.get(&path).await?.is_some_and(|(data, _)| data.is_empty());
        if is_empty && below.is_empty() && self.zk.children(&format!("{path}/lock")).await?.is_empty() {
            info!(logger = LOGGER, "Removing {path}, a record without data");
            self.zk.delete_recursive(&path).await?;
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
            (Some(BuildState::Ready), formats) => formats.is_some(),
            (None | Some(BuildState::Deleting | BuildState::Failed), _) => true,
        };
        if !may_go {
            return Ok(());
        }
        let (images_dir, of, id) = (self.images_dir.clone(), image.clone(), build.clone());
        let formats = formats.map(<[String]>::to_vec);
        let deleted = spawn_blocking(move || files::delete(&images_dir, &of, &id, formats.as_deref())).await;
        match deleted.map_err(std::io::Error::other).flatten() {
            Ok(deleted) => {
                for path in deleted {
                    info!(logger = LOGGER, image = %image, build = %build, "Removed {}: {reason}", path.display());
                }
            }
            Err(error) => {
                warn!(logger = LOGGER, image = %image, build = %build, "Cannot delete the files of {image}-{build}: {error}");
                let subject = Subject::Files(image.clone(), build.clone());
                self.state().retirement_failed(&subject, self.options.retry_interval.as_secs_f64(), clock::now());
            }
        }
        Ok(())
    }

    /// Somebody else has the lock.
    fn later(&self, subject: Subject) {
        self.state().doing.retire_after.insert(subject, clock::now() + WHILE_LOCKED);
    }

    /// The cloud does not do it now.
    fn refused(&self, subject: &Subject, what: &str, error: &ProviderError) {
        warn!(logger = LOGGER, "{what}, trying again: {error}");
        self.state().retirement_failed(subject, self.options.retry_interval.as_secs_f64(), clock::now());
    }
}
