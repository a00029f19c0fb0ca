//! Builds and uploads: read afresh, and written under the locks that protect the work on them.
//!
//! Two locks, as every builder takes them: who builds an image, who uploads a build to a provider. [`HeldWork`] is one that
//! we hold, and what makes builds and uploads and concludes them: each write is one `multi` that also checks our contender,
//! so that a builder that lost its lock cannot write. The command line marks records without a lock, so writes
//! over a record that is there check its version, too. (Upstream's other two locks are about deletions: [`super::taken`].)
//!
//! No lock is ever taken by bringing a deleted build back, which kazoo's lock would do, and nothing is put below a build that somebody takes
//! away: whatever is made there, be it a directory, our contender or an upload, is made in one `multi` with a check that the
//! build is still as it was read, unmarked. A peer marks a build before it removes it.

use super::{
    InSession, ZkError, ZooKeeper,
    cache::{Asking, Within},
    fenced::TryLock,
    lock::{Attempt, Contender, Unchanged, list_synced, try_acquire},
    paths::{self, Lock, Spot},
    protocol::{self, Client, Done, Error, Mode, MultiError, Op},
    record::stat,
    repeated::{self, repeat},
};
use crate::model::{BuildId, BuildState, ImageBuild, ImageName, ImageUpload, ProviderName, Stat, UploadId, UploadKey};

/// What a builder locks.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Work {
    /// Building an image.
    Building(ImageName),
    /// Uploading a build to a provider.
    Uploading(ImageName, BuildId, ProviderName),
}

impl Work {
    fn lock(&self) -> Lock {
        match self.clone() {
            Self::Building(image) => Lock::Building(image),
            Self::Uploading(image, build, provider) => Lock::Uploading(image, build, provider),
        }
    }
}

/// A lock that we hold. Dropped without [`Self::unlock`], its contender is deleted by a task.
#[derive(Debug)]
pub struct HeldWork {
    work: Work,
    contender: Contender,
    /// The build that it was taken below.
    below: Option<Unchanged>,
}

impl ZooKeeper {
    /// Takes a lock without waiting. [`TryLock::Gone`]: the build that is to be uploaded is gone, cannot be used or is marked
    /// for deletion.
    pub async fn try_lock_work(&self, work: Work) -> Result<TryLock<HeldWork>, ZkError> {
        const VERB: &str = "locking";
        let dir = work.lock().dir();
        let (session, client) = self.shared.client(VERB, &dir).await?;
        let asking = self.shared.cache().within(session).asking();
        let fail = |error| ZkError::of(VERB, &dir, error);
        loop {
            let below = match &work {
                Work::Building(_) => None,
                Work::Uploading(image, build, _) => match self.in_session(session).read_build(image, build).await? {
                    Some((record, stat)) if record.state != BuildState::Deleting => {
                        Some(Unchanged { path: paths::build(image, build), version: stat.version })
                    }
                    _ => return Ok(TryLock::Gone),
                },
            };
            let record = below.as_ref().map_or(paths::IMAGES, |build| &build.path);
            match try_acquire(&self.shared, session, &client, &dir, record, below.as_ref()).await.map_err(fail)? {
                Attempt::Busy => return Ok(TryLock::Busy),
                // What the build is now, or whether there is one, is read again.
                Attempt::Changed => {}
                Attempt::Acquired(contender, Some(_)) => {
                    asking.locked(work.lock(), contender.name());
                    return Ok(TryLock::Held(HeldWork { work, contender, below }));
                }
                // The record went, and its lock with it.
                Attempt::Acquired(contender, None) => {
                    let _ = contender.release(&client).await;
                    return Ok(TryLock::Gone);
                }
                Attempt::NoDirectory => match &below {
                    None => repeated::create(&client, &dir, b"", self.shared.deadline()).await.map_err(fail)?,
                    Some(build) => self.make_below(&client, build, &dir).await.map_err(fail)?,
                },
            }
        }
    }

    /// Makes the directories of `dir` that are below a record, from above, as long as that is as it was.
    async fn make_below(&self, client: &Client, record: &Unchanged, dir: &str) -> Result<(), Error> {
        let below = dir.strip_prefix(&record.path).unwrap_or(dir);
        let ends = below.match_indices('/').map(|(at, _)| at).skip(1).chain([below.len()]);
        for end in ends {
            let path = format!("{}{}", record.path, &below[..end]);
            let made = repeat(self.shared.deadline(), || async {
                let multi = [Op::Check(&record.path, Some(record.version)), Op::Create(&path, b"", Mode::Persistent)];
                match client.multi(&multi).await {
                    Ok(_) | Err(MultiError::Refused { index: 1, source: Error::NodeExists }) => Ok(true),
                    Err(MultiError::Refused { source: Error::NoNode | Error::BadVersion, .. }) => Ok(false),
                    Err(error) => Err(error.into()),
                }
            });
            if !made.await? {
                break;
            }
        }
        Ok(())
    }

    /// A build as it is now; `None`: it is gone, or cannot be used.
    pub async fn read_build(&self, image: &ImageName, build: &BuildId) -> Result<Option<(ImageBuild, Stat)>, ZkError> {
        let in_session = self.in_current_session("reading", &paths::build(image, build)).await?;
        in_session.read_build(image, build).await
    }

    /// All builds of an image as they are now, without those that cannot be used.
    pub async fn read_builds(&self, image: &ImageName) -> Result<Vec<(ImageBuild, Stat)>, ZkError> {
        let ids = self.children(&format!("{}/builds", paths::image(image))).await?;
        let ids: Vec<BuildId> = ids.into_iter().filter(|id| id != "lock").map(BuildId::from).collect();
        let reads = ids.iter().map(|id| self.read_build(image, id));
        Ok(futures::future::try_join_all(reads).await?.into_iter().flatten().collect())
    }

    /// An upload as it is now; `None`: it is gone, or cannot be used.
    pub async fn read_upload(&self, key: &UploadKey) -> Result<Option<(ImageUpload, Stat)>, ZkError> {
        self.in_current_session("reading", &paths::upload(key)).await?.read_upload(key).await
    }

    /// All uploads of a build to a provider as they are now, without those that cannot be used.
    pub async fn read_uploads(
        &self,
        image: &ImageName,
        build: &BuildId,
        provider: &ProviderName,
    ) -> Result<Vec<(ImageUpload, Stat)>, ZkError> {
        let ids = self.children(&paths::uploads(image, build, provider)).await?;
        let key = |id: String| UploadKey {
            image: image.clone(),
            provider: provider.clone(),
            build: build.clone(),
            id: UploadId::from(id),
        };
        let keys: Vec<UploadKey> = ids.into_iter().filter(|id| id != "lock").map(key).collect();
        Ok(futures::future::try_join_all(keys.iter().map(|key| self.read_upload(key)))
            .await?
            .into_iter()
            .flatten()
            .collect())
    }

    /// The request for a build of this image, as it is now.
    pub async fn build_request(&self, image: &ImageName) -> Result<Option<Stat>, ZkError> {
        Ok(self.get(&Spot::BuildRequest(image.clone()).path()).await?.map(|(_, stat)| stat))
    }
}

impl InSession {
    /// As [`ZooKeeper::read_build`].
    pub async fn read_build(&self, image: &ImageName, build: &BuildId) -> Result<Option<(ImageBuild, Stat)>, ZkError> {
        let Some((data, stat)) = self.get(&paths::build(image, build)).await? else { return Ok(None) };
        Ok(ImageBuild::read(image.clone(), build.clone(), &data).ok().map(|(build, _)| (build, stat)))
    }

    /// As [`ZooKeeper::read_upload`].
    pub async fn read_upload(&self, key: &UploadKey) -> Result<Option<(ImageUpload, Stat)>, ZkError> {
        let Some((data, stat)) = self.get(&paths::upload(key)).await? else { return Ok(None) };
        let UploadKey { image, provider, build, id } = key.clone();
        Ok(ImageUpload::read(image, build, provider, id, &data).ok().map(|(upload, _)| (upload, stat)))
    }
}

impl HeldWork {
    /// What is locked.
    pub fn work(&self) -> &Work {
        &self.work
    }

    /// Whether the session that the lock lives with is still the current one. The last word has each write.
    pub fn is_valid(&self) -> bool {
        self.contender.client().is_some()
    }

    /// Waits until the session that the lock lives with has ended.
    pub async fn lost(&self) {
        self.contender.shared().ended(self.contender.session()).await;
    }

    /// Deletes our contender; one that is gone is fine.
    pub async fn unlock(self) -> Result<(), ZkError> {
        let Some(client) = self.contender.client() else {
            self.contender.disarm();
            return Ok(());
        };
        match self.contender.release(&client).await {
            Ok(()) | Err(Error::SessionEnded) => Ok(()),
            Err(error) => Err(ZkError::of("unlocking", &self.work.lock().dir(), error)),
        }
    }

    /// Creates a build's record.
    pub async fn create_build(&self, build: &ImageBuild) -> Result<Stat, ZkError> {
        let spot = Spot::Build(build.image.clone(), build.id.clone());
        let (path, data) = (spot.path(), build.write());
        let asking = self.cache().asking();
        let created = self
            .fenced("creating", &path, &[Op::Create(&path, &data, Mode::Persistent)], || async {
                // An earlier try may have made it: the id is ours alone.
                Ok(self.get(&path).await?.map(|(_, new)| (path.clone(), Some(new))))
            })
            .await?;
        Ok(remember_creation(&asking, &spot, &data, created.1))
    }

    /// Creates an upload's record; its number is the server's, and is put into the record. An error of a version, or of a
    /// record that is gone: the build has been marked for deletion since the lock was taken.
    pub async fn create_upload(&self, upload: &mut ImageUpload) -> Result<Stat, ZkError> {
        let dir = paths::uploads(&upload.image, &upload.build, &upload.provider);
        let data = upload.write();
        let prefix = format!("{dir}/");
        let mut operations = vec![Op::Create(&prefix, &data, Mode::PersistentSequential)];
        operations.extend(self.below.as_ref().map(|build| Op::Check(&build.path, Some(build.version))));
        let asking = self.cache().asking();
        let (path, new) = self
            .fenced("creating an upload in", &dir, &operations, || async { self.find_own_upload(&dir, &data).await })
            .await?;
        upload.id = UploadId::from(path.rsplit('/').next().unwrap_or_default());
        Ok(remember_creation(&asking, &Spot::Upload(upload.key()), &data, new))
    }

    /// The upload of exactly this document: nobody else makes any while we have the lock, and times differ.
    async fn find_own_upload(
        &self,
        dir: &str,
        data: &[u8],
    ) -> Result<Option<(String, Option<protocol::Stat>)>, ZkError> {
        let client = self.client("listing", dir)?;
        let children = list_synced(&client, dir, self.contender.shared().deadline()).await;
        let mut children = children.map_err(|error| ZkError::of("listing", dir, error))?;
        children.sort_unstable();
        for child in children.into_iter().rev().filter(|child| child != "lock") {
            let path = format!("{dir}/{child}");
            if let Some((found, new)) = self.get(&path).await?
                && found == data
            {
                return Ok(Some((path, Some(new))));
            }
        }
        Ok(None)
    }

    /// Writes a build over the version that was read or written last.
    pub async fn write_build(&self, build: &ImageBuild, version: i32) -> Result<Stat, ZkError> {
        self.write(&Spot::Build(build.image.clone(), build.id.clone()), &build.write(), version).await
    }

    /// Writes an upload over the version that was read or written last.
    pub async fn write_upload(&self, upload: &ImageUpload, version: i32) -> Result<Stat, ZkError> {
        self.write(&Spot::Upload(upload.key()), &upload.write(), version).await
    }

    async fn write(&self, spot: &Spot, data: &[u8], version: i32) -> Result<Stat, ZkError> {
        let path = spot.path();
        let written = self
            .fenced("writing", &path, &[Op::Set(&path, data, Some(version))], || async {
                let now = self.get(&path).await?;
                Ok(now
                    .filter(|(now, new)| now == data && new.version > version)
                    .map(|(_, new)| (path.clone(), Some(new))))
            })
            .await;
        let cache = self.cache();
        match written {
            Ok((_, new)) => {
                let new = new.as_ref().map(stat).unwrap_or_default();
                cache.wrote_image_record(spot, data, new);
                Ok(new)
            }
            Err(error) => {
                if error.is_no_node() {
                    cache.missed_image_record(spot);
                }
                Err(error)
            }
        }
    }

    /// Strikes the request for a build that is done.
    pub async fn delete_build_request(&self, image: &ImageName) -> Result<(), ZkError> {
        let path = Spot::BuildRequest(image.clone()).path();
        let client = self.client("deleting", &path)?;
        match repeat(self.contender.shared().deadline(), || client.delete(&path, None)).await {
            Ok(()) | Err(Error::NoNode) => {
                self.cache().missed_image_record(&Spot::BuildRequest(image.clone()));
                Ok(())
            }
            Err(error) => Err(ZkError::of("deleting", &path, error)),
        }
    }

    /// For what is learnt in the lock's own session.
    fn cache(&self) -> Within<'_> {
        self.contender.shared().cache().within(self.contender.session())
    }

    fn client(&self, verb: &str, path: &str) -> Result<Client, ZkError> {
        self.contender.client().ok_or_else(|| ZkError::SessionLost { doing: format!("{verb} {path}") })
    }

    fn lock_lost(&self, verb: &str, path: &str) -> ZkError {
        ZkError::LockLost { doing: format!("{verb} {path}"), lock: self.contender.path() }
    }

    async fn get(&self, path: &str) -> Result<Option<(Vec<u8>, protocol::Stat)>, ZkError> {
        let client = self.client("reading", path)?;
        match repeat(self.contender.shared().deadline(), || client.get(path)).await {
            Ok(found) => Ok(Some(found)),
            Err(Error::NoNode) => Ok(None),
            Err(error) => Err(ZkError::of("reading", path, error)),
        }
    }

    /// These operations together with the check of our contender; the first one's path and new stat, which of what was created
    /// is not known. Where the answer is lost, `done` says whether it happened.
    async fn fenced<F>(
        &self,
        verb: &str,
        path: &str,
        operations: &[Op<'_>],
        done: impl Fn() -> F,
    ) -> Result<(String, Option<protocol::Stat>), ZkError>
    where
        F: Future<Output = Result<Option<(String, Option<protocol::Stat>)>, ZkError>>,
    {
        let fail = |error: Error| ZkError::of(verb, path, error);
        let deadline = self.contender.shared().deadline();
        let own = self.contender.path();
        let mut doubtful = false;
        loop {
            let client = self.client(verb, path)?;
            let mut multi = vec![Op::Check(&own, None)];
            multi.extend_from_slice(operations);
            let error = match client.multi(&multi).await {
                Ok(results) => {
                    return match results.into_iter().nth(1) {
                        Some(Done::Created(path, new)) => Ok((path, new)),
                        Some(Done::Set(new)) => Ok((path.to_owned(), Some(new))),
                        other => Err(fail(Error::unexpected(&other))),
                    };
                }
                Err(MultiError::Refused { index: 0, source: Error::NoNode }) => {
                    return Err(self.lock_lost(verb, path));
                }
                Err(error) => Error::from(error),
            };
            let open = error.is_unanswered();
            if (open || doubtful)
                && let Some(done) = done().await?
            {
                return Ok(done);
            }
            if !open || tokio::time::Instant::now() >= deadline {
                return Err(fail(error));
            }
            doubtful = true;
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    }
}

/// What was created in a `multi` has no stat (ZOOKEEPER-4667), but certainly version 0. The event brings the rest.
fn remember_creation(asking: &Asking, spot: &Spot, data: &[u8], new: Option<protocol::Stat>) -> Stat {
    let new = new.as_ref().map(stat).unwrap_or_default();
    asking.created_image_record(spot, data, new);
    new
}
