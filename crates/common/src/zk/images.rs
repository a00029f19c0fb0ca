//! Builds and uploads: read afresh, and written under the locks that protect the work on them (zookeeper.md 5).
//!
//! Four locks, as every builder takes them: who builds an image, who uploads a build to a provider, who marks a build or
//! an upload for deletion. [`HeldWork`] is one that we hold, and the only thing that writes builds and uploads: each write
//! is one `multi` that also checks our contender, so that a builder that lost its lock cannot write (promise S4). The
//! command line marks records without a lock, so writes over a record that is there check its version, too.
//!
//! No lock is ever taken by bringing a deleted build or upload back (traps.md 5): lock directories are made one level at
//! a time, below records that exist.

use zookeeper_client::{Acls, Client, CreateMode, Error, MultiWriteError, MultiWriteResult, MultiWriter};

use super::{
    ZkError, ZooKeeper,
    cache::Asking,
    error::is_unknown,
    lock::{Attempt, Contender, list_synced, repeat, try_acquire},
    paths::{self, Lock, Spot},
    raw,
    record::stat,
};
use crate::model::{BuildId, ImageBuild, ImageName, ImageUpload, ProviderName, Stat, UploadId, UploadKey};

/// How often a deletion that others get in the way of starts again.
const DELETE_ATTEMPTS: usize = 10;

/// What a builder locks.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Work {
    /// Building an image.
    Building(ImageName),
    /// Marking a build for deletion, and deleting it.
    Build(ImageName, BuildId),
    /// Uploading a build to a provider.
    Uploading(ImageName, BuildId, ProviderName),
    /// Marking an upload for deletion, and deleting it.
    Upload(UploadKey),
}

impl Work {
    fn lock(&self) -> Lock {
        match self.clone() {
            Self::Building(image) => Lock::Building(image),
            Self::Build(image, build) => Lock::Build(image, build),
            Self::Uploading(image, build, provider) => Lock::Uploading(image, build, provider),
            Self::Upload(key) => Lock::Upload(key),
        }
    }

    /// The record that must exist for it; a lock is no reason to make one.
    fn anchor(&self) -> Option<String> {
        match self {
            Self::Building(_) => None,
            Self::Build(image, build) | Self::Uploading(image, build, _) => Some(paths::build(image, build)),
            Self::Upload(key) => Some(paths::upload(key)),
        }
    }
}

/// A lock that we hold. Dropped without [`Self::unlock`], its contender is deleted by a task.
#[derive(Debug)]
pub struct HeldWork {
    work: Work,
    contender: Contender,
}

impl ZooKeeper {
    /// Takes a lock without waiting. `None`: somebody else has it, or what it is about is gone.
    pub async fn try_lock_work(&self, work: Work) -> Result<Option<HeldWork>, ZkError> {
        const VERB: &str = "locking";
        let dir = work.lock().dir();
        let (session, client) = self.shared.client(VERB, &dir).await?;
        let asking = self.shared.cache().asking();
        let fail = |error| ZkError::of(VERB, &dir, error);
        let anchor = work.anchor();
        loop {
            let record = anchor.as_deref().unwrap_or(paths::IMAGES);
            match try_acquire(&self.shared, session, &client, &dir, record).await.map_err(fail)? {
                Attempt::Busy => return Ok(None),
                Attempt::Acquired(contender, Some(_)) => {
                    asking.locked(work.lock(), contender.name());
                    return Ok(Some(HeldWork { work, contender }));
                }
                // The record went, and its lock with it.
                Attempt::Acquired(contender, None) => {
                    let _ = contender.release(&client).await;
                    return Ok(None);
                }
                Attempt::NoDirectory => {
                    let made = match &anchor {
                        None => raw::create(&client, &dir, b"", self.shared.deadline()).await.map(|()| true),
                        Some(anchor) => self.make_below(&client, anchor, &dir).await,
                    };
                    if !made.map_err(fail)? {
                        return Ok(None);
                    }
                }
            }
        }
    }

    /// Makes the directories of `dir` that are below `anchor`, from above; false: the anchor is gone.
    async fn make_below(&self, client: &Client, anchor: &str, dir: &str) -> Result<bool, Error> {
        let below = dir.strip_prefix(anchor).unwrap_or(dir);
        let ends = below.match_indices('/').map(|(at, _)| at).skip(1).chain([below.len()]);
        for end in ends {
            let path = format!("{anchor}{}", &below[..end]);
            match repeat(self.shared.deadline(), || client.create(&path, b"", &raw::PERSISTENT)).await {
                Ok(_) | Err(Error::NodeExists) => {}
                Err(Error::NoNode) => return Ok(false),
                Err(error) => return Err(error),
            }
        }
        Ok(true)
    }

    /// A build as it is now; `None`: it is gone, or cannot be used.
    pub async fn read_build(&self, image: &ImageName, build: &BuildId) -> Result<Option<(ImageBuild, Stat)>, ZkError> {
        let Some((data, stat)) = self.get(&paths::build(image, build)).await? else { return Ok(None) };
        Ok(ImageBuild::read(image.clone(), build.clone(), &data).ok().map(|(build, _)| (build, stat)))
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
        let Some((data, stat)) = self.get(&paths::upload(key)).await? else { return Ok(None) };
        let UploadKey { image, provider, build, id } = key.clone();
        Ok(ImageUpload::read(image, build, provider, id, &data).ok().map(|(upload, _)| (upload, stat)))
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
            Ok(()) | Err(Error::SessionExpired | Error::ClientClosed) => Ok(()),
            Err(error) => Err(ZkError::of("unlocking", &self.work.lock().dir(), error)),
        }
    }

    /// Creates a build's record.
    pub async fn create_build(&self, build: &ImageBuild) -> Result<Stat, ZkError> {
        let spot = Spot::Build(build.image.clone(), build.id.clone());
        let (path, data) = (spot.path(), build.write());
        let asking = self.contender.shared().cache().asking();
        let created = self
            .fenced(
                "creating",
                &path,
                |multi| multi.add_create(&path, &data, &raw::PERSISTENT),
                || async {
                    // An earlier try may have made it: the id is ours alone.
                    Ok(self.get(&path).await?.map(|(_, new)| (path.clone(), new)))
                },
            )
            .await?;
        Ok(remember_creation(&asking, &spot, &data, created.1))
    }

    /// Creates an upload's record; its number is the server's, and is put into the record.
    pub async fn create_upload(&self, upload: &mut ImageUpload) -> Result<Stat, ZkError> {
        let dir = paths::uploads(&upload.image, &upload.build, &upload.provider);
        let data = upload.write();
        let prefix = format!("{dir}/");
        let mode = CreateMode::PersistentSequential.with_acls(Acls::anyone_all());
        let asking = self.contender.shared().cache().asking();
        let (path, new) = self
            .fenced(
                "creating an upload in",
                &dir,
                |multi| multi.add_create(&prefix, &data, &mode),
                || async { self.find_own_upload(&dir, &data).await },
            )
            .await?;
        upload.id = UploadId::from(path.rsplit('/').next().unwrap_or_default());
        Ok(remember_creation(&asking, &Spot::Upload(upload.key()), &data, new))
    }

    /// The upload of exactly this document: nobody else makes any while we have the lock, and times differ.
    async fn find_own_upload(
        &self,
        dir: &str,
        data: &[u8],
    ) -> Result<Option<(String, zookeeper_client::Stat)>, ZkError> {
        let client = self.client("listing", dir)?;
        let children = list_synced(&client, dir, self.contender.shared().deadline()).await;
        let mut children = children.map_err(|error| ZkError::of("listing", dir, error))?;
        children.sort_unstable();
        for child in children.into_iter().rev().filter(|child| child != "lock") {
            let path = format!("{dir}/{child}");
            if let Some((found, new)) = self.get(&path).await?
                && found == data
            {
                return Ok(Some((path, new)));
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
            .fenced(
                "writing",
                &path,
                |multi| multi.add_set_data(&path, data, Some(version)),
                || async {
                    let now = self.get(&path).await?;
                    Ok(now
                        .filter(|(now, new)| now == data && new.version > version)
                        .map(|(_, new)| (path.clone(), new)))
                },
            )
            .await;
        let cache = self.contender.shared().cache();
        match written {
            Ok((_, new)) => {
                cache.wrote_image_record(spot, data, stat(&new));
                Ok(stat(&new))
            }
            Err(error) => {
                if error.is_no_node() {
                    cache.missed_image_record(spot);
                }
                Err(error)
            }
        }
    }

    /// Deletes an upload's record with what is below it, our own contender included.
    pub async fn delete_upload(self, key: &UploadKey) -> Result<(), ZkError> {
        self.delete(&Spot::Upload(key.clone()), |_| false).await.map(drop)
    }

    /// Deletes a build's record with what is below it. False: it has uploads, and stays.
    pub async fn delete_build(self, image: &ImageName, build: &BuildId) -> Result<bool, ZkError> {
        let providers = format!("{}/providers/", paths::build(image, build));
        let is_upload = |path: &str| {
            let below = path.strip_prefix(&providers).map(|below| below.split('/').collect::<Vec<_>>());
            matches!(below.as_deref(), Some([_, "images", id]) if *id != "lock")
        };
        self.delete(&Spot::Build(image.clone(), build.clone()), is_upload).await
    }

    /// Strikes the request for a build that is done.
    pub async fn delete_build_request(&self, image: &ImageName) -> Result<(), ZkError> {
        let path = Spot::BuildRequest(image.clone()).path();
        let client = self.client("deleting", &path)?;
        match repeat(self.contender.shared().deadline(), || client.delete(&path, None)).await {
            Ok(()) | Err(Error::NoNode) => {
                self.contender.shared().cache().missed_image_record(&Spot::BuildRequest(image.clone()));
                Ok(())
            }
            Err(error) => Err(ZkError::of("deleting", &path, error)),
        }
    }

    /// A record and all below it, in one `multi`, so that nobody finds half of it. False: something below it that
    /// `keeps` it.
    async fn delete(mut self, spot: &Spot, keeps: impl Fn(&str) -> bool) -> Result<bool, ZkError> {
        const VERB: &str = "deleting";
        let path = spot.path();
        let own = self.contender.path();
        let deadline = self.contender.shared().deadline();
        let fail = |error: Error| ZkError::of(VERB, &path, error);
        for _ in 0..DELETE_ATTEMPTS {
            let client = self.client(VERB, &path)?;
            let below = raw::subtree(&client, &path, deadline).await.map_err(fail)?;
            if below.iter().any(|path| keeps(path)) {
                return Ok(false);
            }
            let mut multi = client.new_multi_writer();
            multi.add_check_version(&own, -1).map_err(fail)?;
            for path in &below {
                multi.add_delete(path, None).map_err(fail)?;
            }
            match multi.commit().await {
                Ok(_) => return Ok(self.gone(spot, below.contains(&own))),
                // Somebody added to it, or took from it, meanwhile.
                Err(MultiWriteError::OperationFailed { index: 1.., source: Error::NotEmpty | Error::NoNode }) => {}
                Err(MultiWriteError::OperationFailed { index: 0, source: Error::NoNode }) => {
                    return match repeat(deadline, || client.check_stat(&path)).await {
                        // An earlier try did it, or somebody else.
                        Ok(None) => Ok(self.gone(spot, true)),
                        Ok(Some(_)) => Err(self.lock_lost(VERB, &path)),
                        Err(error) => Err(fail(error)),
                    };
                }
                Err(error) => {
                    let error = Error::from(error);
                    if !is_unknown(&error) || tokio::time::Instant::now() >= deadline {
                        return Err(fail(error));
                    }
                    tokio::time::sleep(std::time::Duration::from_millis(20)).await;
                }
            }
            if repeat(deadline, || client.check_stat(&path)).await.map_err(fail)?.is_none() {
                return Ok(self.gone(spot, false));
            }
        }
        Err(ZkError::Other { doing: format!("{VERB} {path}"), source: Error::NotEmpty })
    }

    fn gone(&mut self, spot: &Spot, with_our_contender: bool) -> bool {
        self.contender.shared().cache().missed_image_record(spot);
        if with_our_contender {
            self.contender.forget();
        }
        true
    }

    fn client(&self, verb: &str, path: &str) -> Result<Client, ZkError> {
        self.contender.client().ok_or_else(|| ZkError::SessionLost { doing: format!("{verb} {path}") })
    }

    fn lock_lost(&self, verb: &str, path: &str) -> ZkError {
        ZkError::LockLost { doing: format!("{verb} {path}"), lock: self.contender.path() }
    }

    async fn get(&self, path: &str) -> Result<Option<(Vec<u8>, zookeeper_client::Stat)>, ZkError> {
        let client = self.client("reading", path)?;
        match repeat(self.contender.shared().deadline(), || client.get_data(path)).await {
            Ok(found) => Ok(Some(found)),
            Err(Error::NoNode) => Ok(None),
            Err(error) => Err(ZkError::of("reading", path, error)),
        }
    }

    /// One operation together with the check of our contender; its path and new stat. Where the answer is lost, `done`
    /// says whether it happened.
    async fn fenced<F>(
        &self,
        verb: &str,
        path: &str,
        add: impl Fn(&mut MultiWriter<'_>) -> Result<(), Error>,
        done: impl Fn() -> F,
    ) -> Result<(String, zookeeper_client::Stat), ZkError>
    where
        F: Future<Output = Result<Option<(String, zookeeper_client::Stat)>, ZkError>>,
    {
        let fail = |error: Error| ZkError::of(verb, path, error);
        let deadline = self.contender.shared().deadline();
        let own = self.contender.path();
        let mut doubtful = false;
        loop {
            let client = self.client(verb, path)?;
            let mut multi = client.new_multi_writer();
            multi.add_check_version(&own, -1).map_err(fail)?;
            add(&mut multi).map_err(fail)?;
            let error = match multi.commit().await {
                Ok(results) => {
                    return match results.into_iter().nth(1) {
                        Some(MultiWriteResult::Create { path, stat }) => Ok((path, stat)),
                        Some(MultiWriteResult::SetData { stat }) => Ok((path.to_owned(), stat)),
                        other => Err(fail(Error::UnexpectedError(format!("multi answered {other:?}")))),
                    };
                }
                Err(MultiWriteError::OperationFailed { index: 0, source: Error::NoNode }) => {
                    return Err(self.lock_lost(verb, path));
                }
                Err(error) => Error::from(error),
            };
            let open = is_unknown(&error);
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
fn remember_creation(asking: &Asking, spot: &Spot, data: &[u8], new: zookeeper_client::Stat) -> Stat {
    let new = if new.is_invalid() { Stat::default() } else { stat(&new) };
    asking.created_image_record(spot, data, new);
    new
}
