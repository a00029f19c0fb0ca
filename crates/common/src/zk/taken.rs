//! Taking builds and uploads away: marks and removals, beside peers that do the same.
//!
//! A peer removes a build or an upload with kazoo's recursive delete (`nodepool 11.0.0: zk/zookeeper.py deleteBuild,
//! deleteUpload`): it lists what is below, deletes that one by one, and fails with `NotEmptyError` where something has been
//! put there meanwhile, be it the contender of somebody who only wanted to try the lock. So nothing is ever put below a
//! record that is being taken away, and no lock is taken for it: a mark is a write over the version that was read; a removal
//! is one `multi` that changes nothing if anybody has written or added anything since. Both are done in the session in which
//! the record was read, or not at all: in another one the version says nothing. Who holds a lock below the record is left alone.
//! Upstream's locks for this (of a build, and of an upload's number) protect no more than that: it deletes what
//! is marked, in the cloud too, without them.

use super::{
    InSession, ZkError, lock,
    paths::{self, Spot},
    protocol::{Error, MultiError, Op},
    record::stat,
    repeated::{self, repeat},
};
use crate::model::{BuildId, ImageBuild, ImageName, ImageUpload, Stat, UploadKey};

/// How often a removal that others get in the way of starts again.
const ATTEMPTS: usize = 10;

impl InSession {
    /// Writes a build that is marked for deletion over the version that was read. `None`: somebody has written or removed it
    /// since.
    pub async fn mark_build(&self, build: &ImageBuild, version: i32) -> Result<Option<Stat>, ZkError> {
        self.mark(&Spot::Build(build.image.clone(), build.id.clone()), &build.write(), version).await
    }

    /// Writes an upload that is marked for deletion, likewise.
    pub async fn mark_upload(&self, upload: &ImageUpload, version: i32) -> Result<Option<Stat>, ZkError> {
        self.mark(&Spot::Upload(upload.key()), &upload.write(), version).await
    }

    async fn mark(&self, spot: &Spot, data: &[u8], version: i32) -> Result<Option<Stat>, ZkError> {
        const VERB: &str = "writing";
        let path = spot.path();
        let client = self.client(VERB, &path)?;
        let cache = self.shared.cache().within(self.id());
        // Not repeated: after a lost answer the version would no longer match.
        match client.set(&path, data, Some(version)).await {
            Ok(new) => {
                let new = stat(&new);
                cache.wrote_image_record(spot, data, new);
                Ok(Some(new))
            }
            Err(Error::BadVersion) => Ok(None),
            Err(Error::NoNode) => {
                cache.missed_image_record(spot);
                Ok(None)
            }
            Err(error) => Err(ZkError::of(VERB, &path, error)),
        }
    }

    /// Removes a build's record of that version with all below it. False, and nothing has changed: it has uploads, somebody
    /// holds a lock of it or has written it. One that is gone is removed.
    pub async fn remove_build(&self, image: &ImageName, build: &BuildId, version: i32) -> Result<bool, ZkError> {
        let providers = format!("{}/providers/", paths::build(image, build));
        let is_upload = |path: &str| {
            let below = path.strip_prefix(&providers).map(|below| below.split('/').collect::<Vec<_>>());
            matches!(below.as_deref(), Some([_, "images", id]) if *id != "lock")
        };
        self.remove(&Spot::Build(image.clone(), build.clone()), version, is_upload).await
    }

    /// Removes an upload's record, likewise.
    pub async fn remove_upload(&self, key: &UploadKey, version: i32) -> Result<bool, ZkError> {
        self.remove(&Spot::Upload(key.clone()), version, |_| false).await
    }

    /// `keeps`: something below the record for which it stays.
    async fn remove(&self, spot: &Spot, version: i32, keeps: impl Fn(&str) -> bool) -> Result<bool, ZkError> {
        const VERB: &str = "removing";
        let path = spot.path();
        let client = self.client(VERB, &path)?;
        let cache = self.shared.cache().within(self.id());
        let deadline = self.shared.deadline();
        let fail = |error: Error| ZkError::of(VERB, &path, error);
        for _ in 0..ATTEMPTS {
            let found = repeated::subtree(&client, &path, deadline).await.map_err(fail)?;
            if found.iter().any(|path| keeps(path) || lock::is_contender(path)) {
                return Ok(false);
            }
            let mut multi = Vec::new();
            for found in &found {
                multi.push(Op::Delete(found, (*found == path).then_some(version)));
            }
            match client.multi(&multi).await {
                Ok(_) => {
                    cache.missed_image_record(spot);
                    return Ok(true);
                }
                Err(MultiError::Refused { source: Error::BadVersion, .. }) => return Ok(false),
                // Somebody added to it, or took from it, meanwhile.
                Err(MultiError::Refused { source: Error::NotEmpty | Error::NoNode, .. }) => {}
                Err(error) => {
                    let error = Error::from(error);
                    if !error.is_unanswered() || tokio::time::Instant::now() >= deadline {
                        return Err(fail(error));
                    }
                }
            }
            if repeat(deadline, || client.exists(&path)).await.map_err(fail)?.is_none() {
                cache.missed_image_record(spot);
                return Ok(true);
            }
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
        Ok(false)
    }
}
