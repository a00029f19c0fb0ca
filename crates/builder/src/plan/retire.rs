//! What to delete: uploads, builds, files (`nodepool 11.0.0: builder.py CleanupWorker`).
//!
//! The order is one that a crash at any point leaves recoverable: an upload is marked, its image deleted in the cloud,
//! then its record; a build is marked once nothing of it is in use, its files go, and its record goes last, when no
//! upload is left. Whoever finds half of that goes on with it.

use std::collections::{BTreeMap, BTreeSet};

use nodepool_common::model::{
    BuildId, BuildState, ImageBuild, ImageName, ImageUpload, NodeState, ProviderName, RecordError, Timestamp,
    UploadKey, UploadState, brake::Thing, guard,
};

use super::{Decision, Plan, Subject, World, orphans, world::GRACE};

/// Ready builds of an image, and ready uploads of it to a provider, that are kept.
const KEEP: usize = 2;
/// [`KEEP`].
fn kept() -> usize {
    if guard::is_removed("builds that rotation leaves") { 1 } else { KEEP }
}

/// Seconds for which an upload of another builder's stays, although our configuration does not have it.
const OTHERS_GRACE: f64 = 600.0;
/// Seconds for a builder of Python Nodepool's to do it: its clean-up comes every minute.
const UPSTREAMS: f64 = 90.0;
/// Seconds for such a builder to write or remove what its locks have brought back without data. It stumbles over those that
/// stay.
const EMPTY: f64 = 10.0;

pub(super) fn plan(world: &World<'_>, plan: &mut Plan) {
    let retirement = Retirement::new(world);
    let orphans = orphans::judged(world);
    let free = orphans.as_ref().map(|verdict| verdict.free.keys().cloned().collect()).unwrap_or_default();
    plan.held_back = orphans.map(|verdict| verdict.held);
    let mut pass = Pass { world, retirement, free, decisions: Vec::new(), wakes: Vec::new() };
    pass.empty_records();
    let mut images: BTreeSet<&ImageName> = world.records.builds.keys().map(|(image, _)| image).collect();
    images.extend(&world.records.images);
    for image in images {
        pass.image(image);
    }
    pass.files();
    for decision in pass.decisions {
        let Some(subject) = decision.subject() else { continue };
        let since = world.doing.wanted.get(&subject).copied().unwrap_or(world.now).min(world.now);
        let mut after = since + patience(world, &decision);
        if let Some(refused) = world.pause_ends(world.doing.retire_after.get(&subject)) {
            after = after.max(refused);
        }
        if world.now < after {
            plan.wake(after);
        } else if !world.doing.busy.contains(&subject) {
            plan.decisions.push(decision);
        }
        plan.wanted.insert(subject, since);
    }
    for at in pass.wakes {
        plan.wake(at);
    }
}

/// Seconds for which a deletion is left to others. Two that take the same away at the same moment are in each other's way:
/// a builder of Python Nodepool's, which lists, reads and deletes one by one and without locks, complains when something goes
/// while it does, and of ours one deletes an image that is gone. So who made a build deletes its images, but beside a builder
/// of Python Nodepool's, which takes everybody's away, all of that is left to it.
fn patience(world: &World<'_>, decision: &Decision) -> f64 {
    let beside_upstreams = world.records.has_upstreams_builder();
    match decision {
        Decision::DeleteFiles { .. } | Decision::Build { .. } | Decision::Upload { .. } => 0.0,
        Decision::RemoveEmpty { .. } if beside_upstreams => EMPTY,
        _ if beside_upstreams => UPSTREAMS,
        Decision::DeleteUpload { key, .. } => {
            let build =
                world.records.builds.get(&(key.image.clone(), key.build.clone())).and_then(|entry| entry.usable());
            let is_alone = world.records.builders.len() < 2;
            if is_alone || build.is_some_and(|build| world.is_ours(build)) { 0.0 } else { GRACE }
        }
        // Of two that do it one does nothing.
        _ => 0.0,
    }
}

/// What protects uploads.
struct Retirement<'a> {
    /// The newest ready uploads of ready builds, for each image and provider.
    recent: BTreeSet<&'a UploadKey>,
    /// Uploads that nodes on record were made from, by their znode's path.
    used: BTreeSet<&'a str>,
    uploads: BTreeMap<(&'a ImageName, &'a BuildId), Vec<(&'a UploadKey, &'a ImageUpload)>>,
}

impl<'a> Retirement<'a> {
    fn new(world: &'a World<'_>) -> Self {
        let mut uploads: BTreeMap<_, Vec<_>> = BTreeMap::new();
        let mut ready: BTreeMap<(&ImageName, &ProviderName), Vec<(Timestamp, &UploadKey)>> = BTreeMap::new();
        for (key, entry) in &world.records.uploads {
            let Some(upload) = entry.usable() else { continue };
            uploads.entry((&key.image, &key.build)).or_default().push((key, upload.as_ref()));
            let build =
                world.records.builds.get(&(key.image.clone(), key.build.clone())).and_then(|entry| entry.usable());
            if upload.state == UploadState::Ready && build.is_some_and(|build| build.state == BuildState::Ready) {
                ready.entry((&key.image, &key.provider)).or_default().push((entry.order().unwrap_or_default(), key));
            }
        }
        let mut recent = BTreeSet::new();
        for mut keys in ready.into_values() {
            keys.sort_by(|a, b| b.0.total_cmp(&a.0));
            recent.extend(keys.into_iter().take(KEEP).map(|(_, key)| key));
        }
        let nodes = world.records.nodes.values().filter_map(|entry| entry.usable());
        let used = nodes
            .filter(|node| node.state != NodeState::Deleted)
            .filter_map(|node| node.image_id.as_deref())
            .filter(|image| image.starts_with('/'))
            .collect();
        Self { recent, used, uploads }
    }

    fn uploads_of(&self, build: &'a ImageBuild) -> &[(&'a UploadKey, &'a ImageUpload)] {
        self.uploads.get(&(&build.image, &build.id)).map_or(&[], Vec::as_slice)
    }
}

struct Pass<'a> {
    world: &'a World<'a>,
    retirement: Retirement<'a>,
    /// Files without a record that may be deleted.
    free: BTreeSet<Thing>,
    decisions: Vec<Decision>,
    wakes: Vec<Timestamp>,
}

impl<'a> Pass<'a> {
    /// What is left of a record that was deleted while somebody took its lock.
    fn empty_records(&mut self) {
        let records = self.world.records;
        let is_empty = |error: Option<&RecordError>| matches!(error, Some(RecordError::Empty));
        let builds =
            records.builds.iter().filter(|(_, entry)| is_empty(entry.record.as_ref().err()) && !entry.is_locked());
        let builds = builds.map(|((image, build), _)| Subject::Build(image.clone(), build.clone()));
        let uploads =
            records.uploads.iter().filter(|(_, entry)| is_empty(entry.record.as_ref().err()) && !entry.is_locked());
        let uploads = uploads.map(|(key, _)| Subject::Upload(key.clone()));
        self.decisions.extend(builds.chain(uploads).map(|what| Decision::RemoveEmpty { what }));
    }

    fn image(&mut self, image: &'a ImageName) {
        let world = self.world;
        let builds = world.builds(image);
        let known = world.knows(image);
        let ready = builds.iter().rev().filter(|build| build.state == BuildState::Ready);
        let kept: BTreeSet<&BuildId> =
            if known { ready.take(kept()).map(|build| &build.id).collect() } else { BTreeSet::new() };
        for build in &builds {
            self.uploads(build, kept.contains(&build.id));
            self.build(build, &builds, kept.contains(&build.id), known);
        }
    }

    /// The uploads of a build that nobody needs any more.
    fn uploads(&mut self, build: &'a ImageBuild, is_kept: bool) {
        let world = self.world;
        let uploads = self.retirement.uploads_of(build).to_vec();
        for (key, upload) in &uploads {
            if !world.reaches(key) {
                continue;
            }
            let to = (key.image.clone(), key.build.clone(), key.provider.clone());
            if upload.state == UploadState::Uploading {
                if world.may_retire(build) && !world.is_being_uploaded(&to) {
                    let free_since = world.records.uploading.get(&to).and_then(|lock| lock.free_since);
                    let begun = world.upload_since(key);
                    let at = if world.is_ours(build) { begun } else { World::abandoned_at(free_since, begun) };
                    self.when(at, Decision::ForgetUpload { key: (*key).clone() });
                }
                continue;
            }
            let reason = if upload.state == UploadState::Deleting {
                Some("it is marked for deletion".to_owned())
            } else {
                self.reason_against(build, key, upload, &uploads, is_kept)
            };
            if let Some(reason) = reason {
                self.decisions.push(Decision::DeleteUpload { key: (*key).clone(), reason });
            }
        }
    }

    /// Why an upload that is not marked yet should go.
    fn reason_against(
        &self,
        build: &ImageBuild,
        key: &UploadKey,
        upload: &ImageUpload,
        siblings: &[(&UploadKey, &ImageUpload)],
        is_kept: bool,
    ) -> Option<String> {
        let world = self.world;
        let explicit = build.state == BuildState::Deleting;
        if !explicit && !world.may_retire(build) {
            return None;
        }
        if upload.state == UploadState::Failed {
            let later = siblings.iter().any(|(other, _)| other.provider == key.provider && other.id > key.id);
            let reason = if later { "a later upload was begun" } else { "its build is no longer needed" };
            return (later || explicit || !is_kept).then(|| format!("it failed, and {reason}"));
        }
        let path = upload.path();
        if !explicit && self.retirement.used.contains(path.as_str()) {
            return None;
        }
        let provider = world.config.providers.get(&key.provider)?;
        if !provider.driver.diskimages().contains_key(&key.image) {
            // Another builder may have another configuration, or not yet the new one, and upload it again and again.
            let settled = world.is_ours(build) || world.now >= world.upload_since(key) + OTHERS_GRACE;
            return settled.then(|| {
                format!("image {} is no longer among the diskimages of provider {}", key.image, key.provider)
            });
        }
        if explicit {
            return Some("its build is being deleted".to_owned());
        }
        if is_kept {
            return None;
        }
        let known = world.knows(&key.image);
        if known && self.retirement.recent.contains(key) && !guard::is_removed("uploads that rotation leaves") {
            return None;
        }
        Some(if known { "there are newer ones".to_owned() } else { gone_image(&key.image) })
    }

    /// A build that nobody needs any more.
    fn build(&mut self, build: &'a ImageBuild, all: &[&ImageBuild], is_kept: bool, known: bool) {
        let world = self.world;
        let uploads = self.retirement.uploads_of(build);
        let (image, id) = (build.image.clone(), build.id.clone());
        let reason = match build.state {
            BuildState::Deleting => {
                if uploads.is_empty() {
                    self.decisions.push(Decision::DeleteBuild { image, build: id });
                }
                return;
            }
            BuildState::Building => {
                if world.is_being_built(&build.image) || !world.may_retire(build) {
                    return;
                }
                let free_since = world.records.building.get(&build.image).and_then(|lock| lock.free_since);
                let begun = world.since(build);
                let at = if world.is_ours(build) { begun } else { World::abandoned_at(free_since, begun) };
                let who = build.builder.as_deref().unwrap_or("its builder");
                let reason = format!("it was left half done: {who} stopped while building it");
                self.when(at, Decision::RetireBuild { image, build: id, state: build.state, reason });
                return;
            }
            BuildState::Failed => {
                let ended = [BuildState::Ready, BuildState::Failed];
                // They are in the order of time.
                let mut since = all.iter().skip_while(|other| other.id != build.id).skip(1);
                let later = since.any(|other| ended.contains(&other.state));
                if later { "it failed, and a later one has ended".to_owned() } else { gone_image(&build.image) }
            }
            BuildState::Ready => {
                if known {
                    "there are newer ones".to_owned()
                } else {
                    gone_image(&build.image)
                }
            }
        };
        let is_last_failure = build.state == BuildState::Failed && known && !reason.ends_with("has ended");
        if is_kept || is_last_failure || !world.may_retire(build) {
            return;
        }
        // Its files are needed as long as one of its uploads is.
        if uploads.iter().all(|(_, upload)| upload.state == UploadState::Deleting) {
            self.decisions.push(Decision::RetireBuild { image, build: id, state: build.state, reason });
        }
    }

    /// Files of builds that are gone, going, or failed, and formats that every provider has.
    fn files(&mut self) {
        let world = self.world;
        for ((image, id), extensions) in world.files.into_iter().flatten() {
            if world.doing.building.contains(image) && self.is_being_made(image, id) {
                continue;
            }
            let entry = world.records.builds.get(&(image.clone(), id.clone()));
            let reason = match entry.map(|entry| entry.record.as_ref()) {
                // Of an image that nobody has ever heard of, or with a mere number for an id, it is somebody else's file.
                None if !world.records.images.contains(image) || id.as_str().len() != orphans::BUILD_ID => None,
                None if !self.free.contains(&orphans::thing(image, id)) => None,
                None => Some("there is no such build"),
                // Perhaps somebody repairs the record.
                Some(Err(RecordError::Empty)) => Some("its record is empty"),
                Some(Err(_)) => None,
                Some(Ok(build)) => match build.state {
                    BuildState::Deleting => Some("the build is being deleted"),
                    BuildState::Failed => Some("the build failed"),
                    BuildState::Building => None,
                    BuildState::Ready => {
                        self.spare_formats(build, extensions);
                        None
                    }
                },
            };
            if let Some(reason) = reason {
                let (image, build, reason) = (image.clone(), id.clone(), reason.to_owned());
                self.decisions.push(Decision::DeleteFiles { image, build, formats: None, reason });
            }
        }
    }

    /// A build of ours whose record we may not have seen yet.
    fn is_being_made(&self, image: &ImageName, id: &BuildId) -> bool {
        let entry = self.world.records.builds.get(&(image.clone(), id.clone())).and_then(|entry| entry.usable());
        entry.is_none_or(|build| build.state == BuildState::Building)
    }

    /// `delete-after-upload`: formats that all providers of the image have, and that `keep-formats` does not name.
    fn spare_formats(&mut self, build: &ImageBuild, extensions: &BTreeSet<String>) {
        let world = self.world;
        let Some(image) = world.config.diskimages.get(&build.image).filter(|image| image.delete_after_upload) else {
            return;
        };
        // A provider that is left out for now may need any of them.
        if world.lacks_providers {
            return;
        }
        let mut needed: BTreeSet<&str> = image.keep_formats.iter().map(String::as_str).collect();
        for (name, provider) in &world.config.providers {
            if !provider.driver.diskimages().contains_key(&build.image) {
                continue;
            }
            let is_there = self.retirement.uploads.get(&(&build.image, &build.id)).is_some_and(|uploads| {
                uploads.iter().any(|(key, upload)| key.provider == *name && upload.state == UploadState::Ready)
            });
            if is_there {
                continue;
            }
            match world.providers.get(name).and_then(|provider| provider.format.as_deref()) {
                Some(format) => drop(needed.insert(format)),
                // Whatever it takes may still be needed.
                None => return,
            }
        }
        let spare: Vec<String> =
            extensions.iter().filter(|format| !needed.contains(format.as_str())).cloned().collect();
        // A build that nobody has uploaded yet, because no provider uses it, keeps its files.
        if !spare.is_empty() && self.retirement.uploads.contains_key(&(&build.image, &build.id)) {
            let reason = "every provider has it (delete-after-upload)".to_owned();
            self.decisions.push(Decision::DeleteFiles {
                image: build.image.clone(),
                build: build.id.clone(),
                formats: Some(spare),
                reason,
            });
        }
    }

    /// A decision now or later.
    fn when(&mut self, at: Timestamp, decision: Decision) {
        if self.world.now >= at {
            self.decisions.push(decision);
        } else {
            self.wakes.push(at);
        }
    }
}

fn gone_image(image: &ImageName) -> String {
    format!("image {image} is no longer in the configuration")
}
