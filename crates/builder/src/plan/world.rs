//! What the planner knows.

use std::collections::{BTreeMap, BTreeSet};

use nodepool_common::{
    config::Config,
    model::{
        BuildId, BuildState, ImageBuild, ImageName, ProviderName, Records, Timestamp, UploadKey, Uptime, WorkLock,
    },
};

use super::Subject;

/// A build of an image.
pub type LocalBuild = (ImageName, BuildId);

/// A build on its way to a provider.
pub type UploadTo = (ImageName, BuildId, ProviderName);

/// What images-dir has: the extensions of each build's files, as upstream finds them (`<image>-<build id>.<extension>`).
pub type LocalFiles = BTreeMap<LocalBuild, BTreeSet<String>>;

/// A provider that images are uploaded to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProviderImages {
    /// The format that it takes; `None`: not known now (a clouds.yaml that cannot be read), so nothing is uploaded.
    pub format: Option<String>,
}

/// What this process does at the moment, and what it does not try again yet. Its pauses are by monotonic time: whoever sets the
/// clock makes none of them longer or shorter.
#[derive(Clone, Debug, Default)]
pub struct Doing {
    /// Images that are being built here.
    pub building: BTreeSet<ImageName>,
    /// Uploads that are under way here.
    pub uploading: BTreeSet<UploadTo>,
    /// What an action of retirement works on.
    pub busy: BTreeSet<Subject>,
    /// No build before; and the transaction of the request that the failed build was begun for: one that was written since
    /// does not wait.
    pub builds_after: BTreeMap<ImageName, (Uptime, Option<i64>)>,
    /// No upload before.
    pub uploads_after: BTreeMap<UploadTo, Uptime>,
    /// No deletion before.
    pub retire_after: BTreeMap<Subject, Uptime>,
    /// Since when a deletion is wanted: [`Plan::wanted`](super::Plan::wanted) of the last plan.
    pub wanted: BTreeMap<Subject, Timestamp>,
}

/// Everything that a plan follows from.
#[derive(Debug)]
pub struct World<'a> {
    /// Seconds since the epoch: what is compared with the times of records.
    pub now: Timestamp,
    /// The same moment by monotonic time: by which pauses go.
    pub uptime: Uptime,
    /// The configuration in force.
    pub config: &'a Config,
    /// ZooKeeper, as last seen.
    pub records: &'a Records,
    /// The id of this builder (`builder_id.txt`).
    pub builder_id: &'a str,
    /// The files in images-dir; `None`: it cannot be read.
    pub files: Option<&'a LocalFiles>,
    /// Whether the file has providers that are left out, so that nobody knows which images they take.
    pub lacks_providers: bool,
    /// The providers of the configuration that images are uploaded to.
    pub providers: &'a BTreeMap<ProviderName, ProviderImages>,
    /// What we do.
    pub doing: &'a Doing,
    /// How many builds may run at a time (`--build-workers`).
    pub build_workers: usize,
    /// How many uploads may run at a time (`--upload-workers`).
    pub upload_workers: usize,
    /// Whether anything is retired at all (`--cleanup-interval` 0: no).
    pub retires: bool,
    /// Nothing new is begun: any more, or until a changed configuration is read.
    pub stopping: bool,
}

/// Seconds for a builder to take up again what it lost with its session, or to delete the images of its builds, before
/// somebody else does.
pub(super) const GRACE: f64 = 30.0;

impl World<'_> {
    /// The builds of an image that can be used, oldest first.
    pub(super) fn builds<'w>(&'w self, image: &ImageName) -> Vec<&'w ImageBuild> {
        let first = (image.clone(), BuildId::from(""));
        let of_image = self.records.builds.range(first..).take_while(|((of, _), _)| of == image);
        let mut builds: Vec<_> =
            of_image.filter_map(|(_, entry)| Some((entry.order()?, entry.usable()?.as_ref()))).collect();
        builds.sort_by(|(a, _), (b, _)| a.total_cmp(b));
        builds.into_iter().map(|(_, build)| build).collect()
    }

    /// When a pause ends, by the wall clock ([`Uptime::pause_ends`]).
    pub(super) fn pause_ends(&self, pause: Option<&Uptime>) -> Option<Timestamp> {
        Uptime::pause_ends(pause, self.now, self.uptime)
    }

    /// Since when a build is in its state.
    pub(super) fn since(&self, build: &ImageBuild) -> Timestamp {
        let entry = self.records.builds.get(&(build.image.clone(), build.id.clone()));
        entry.and_then(|entry| entry.since(self.now)).unwrap_or(self.now)
    }

    /// Since when an upload is in its state.
    pub(super) fn upload_since(&self, key: &UploadKey) -> Timestamp {
        self.records.uploads.get(key).and_then(|entry| entry.since(self.now)).unwrap_or(self.now)
    }

    /// The newest ready build of an image.
    pub(super) fn newest_ready<'w>(&'w self, image: &ImageName) -> Option<&'w ImageBuild> {
        self.builds(image).into_iter().rfind(|build| build.state == BuildState::Ready)
    }

    /// The newest ready build of an image that has all of these formats. Builders whose providers want different ones take
    /// turns otherwise.
    pub(super) fn newest_ready_in<'w>(
        &'w self,
        image: &ImageName,
        formats: &[impl AsRef<str>],
    ) -> Option<&'w ImageBuild> {
        let has = |build: &ImageBuild, format: &str| build.formats.iter().any(|one| one == format);
        self.builds(image)
            .into_iter()
            .rfind(|build| build.state == BuildState::Ready && formats.iter().all(|format| has(build, format.as_ref())))
    }

    /// Whether this builder made it.
    pub(super) fn is_ours(&self, build: &ImageBuild) -> bool {
        build.builder_id.as_deref() == Some(self.builder_id)
    }

    /// Whether the configuration speaks of an image: by itself, or where a provider lists it, be that provider one that stays
    /// as it was because its part of the file is wrong.
    pub(super) fn knows(&self, image: &ImageName) -> bool {
        self.config.diskimages.contains_key(image)
            || self.config.providers.values().any(|provider| provider.driver.diskimages().contains_key(image))
    }

    /// Whether it is ours to retire when it is no longer needed: one of an image that we know, as any builder of the same
    /// configuration may, or one of our own.
    pub(super) fn may_retire(&self, build: &ImageBuild) -> bool {
        self.knows(&build.image) || self.is_ours(build)
    }

    /// Whether somebody uploads this build to that provider.
    pub(super) fn is_being_uploaded(&self, to: &UploadTo) -> bool {
        self.doing.uploading.contains(to) || self.records.uploading.get(to).is_some_and(WorkLock::is_locked)
    }

    /// Whether somebody builds this image.
    pub(super) fn is_being_built(&self, image: &ImageName) -> bool {
        self.doing.building.contains(image) || self.records.building.get(image).is_some_and(WorkLock::is_locked)
    }

    /// When work that nobody holds the lock of may be cleaned away: `begun` is its record's time.
    pub(super) fn abandoned_at(free_since: Option<Timestamp>, begun: Timestamp) -> Timestamp {
        free_since.unwrap_or(begun).max(begun) + GRACE
    }

    /// Whether an upload's provider is one that we can delete images from.
    pub(super) fn reaches(&self, key: &UploadKey) -> bool {
        self.providers.contains_key(&key.provider)
    }
}
