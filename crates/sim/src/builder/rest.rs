//! The last look: what must be so once troubles have ended, and that nobody spins.
//!
//! * **L1** Each image that a provider uses has a ready build no older than `rebuild-age` and the time that a build takes, and
//!   each provider the upload of one.
//! * **L2** What leaked is gone: images in clouds that no ready upload names (but those whose builder was killed after others had
//!   looked for them, and those that a driver denies, which are the launchers' to find), files and records that nobody needs.
//! * **no busy loop** With nothing to do next to nothing is asked of ZooKeeper, and nothing of clouds.

use std::{collections::BTreeMap, time::Duration};

use nodepool_common::model::{BuildState, ImageBuild, ImageUpload, UploadKey, UploadState};
use tokio::time::Instant;

use super::{
    super::story::{broken, tell},
    cloud::Image,
    truth::{BuildKey, START, Truth, build_of},
    world::World,
};

/// For so long after troubles something may still lack or be left: the longest pause after failures, and two builds.
const SETTLED: Duration = Duration::from_secs(3600);
/// A build, its upload, and who waits for a worker.
const REBUILT: f64 = 1500.0;
/// For so long little is asked.
const IDLE: Duration = Duration::from_secs(1800);
/// In that time, by each builder of ZooKeeper.
const ASKED: u64 = 60;
/// As much for each build that falls due, by each builder, with its uploads and what it supersedes; and of clouds.
const ASKED_FOR_A_BUILD: u64 = 200;
const CALLS_FOR_A_BUILD: u64 = 12;

impl World {
    /// L1, L2: what must be so in the end.
    pub(super) async fn look_at_last(&self) {
        let until = Instant::now() + SETTLED;
        while let Some(lacks) = self.lacks() {
            if Instant::now() > until {
                broken!(self.story, "L1", "{} s after troubles {lacks}", SETTLED.as_secs());
                self.tell_state();
                return;
            }
            self.allow_what_is_held_back().await;
            tokio::time::sleep(Duration::from_secs(5)).await;
        }
        tell!(self.story, "--- all is as it is to be");
        let asked = || self.around.peers.open().asked.values().sum::<u64>();
        let (asked_before, calls_before) = (asked(), self.around.clouds.calls());
        let begun = self.around.truth.open().begun;
        let until = Instant::now() + IDLE;
        let mut lacking_since = None;
        while Instant::now() < until {
            tokio::time::sleep(Duration::from_secs(10)).await;
            // While an image is built anew, and what that supersedes goes.
            match self.lacks() {
                None => lacking_since = None,
                Some(lacks) => {
                    let since = *lacking_since.get_or_insert_with(Instant::now);
                    if since.elapsed().as_secs_f64() > REBUILT {
                        broken!(self.story, "L1", "for {REBUILT} s {lacks}");
                        self.tell_state();
                        return;
                    }
                }
            }
        }
        let builds = u64::try_from(self.around.truth.open().begun - begun).unwrap() + 1;
        let builders = u64::try_from(self.plan.builders).unwrap();
        let (asked, calls) = (asked() - asked_before, self.around.clouds.calls() - calls_before);
        let providers = u64::try_from(self.plan.providers.len()).unwrap();
        let may_ask = (ASKED + ASKED_FOR_A_BUILD * builds) * builders;
        let may_call = CALLS_FOR_A_BUILD * builds * providers;
        let both = format!("ZooKeeper is asked {asked} times of {may_ask}, clouds {calls} times of {may_call}");
        tell!(self.story, "--- idle for {} s, {} builds: {both}", IDLE.as_secs(), builds - 1);
        if asked > may_ask || calls > may_call {
            broken!(self.story, "no busy loop", "idle for {} s, {} builds: {both}", IDLE.as_secs(), builds - 1);
        }
    }

    /// What is not as it is to be.
    fn lacks(&self) -> Option<String> {
        let images = self.around.clouds.images();
        let truth = self.around.truth.open();
        self.lacks_builds(&truth)
            .or_else(|| self.is_left(&truth))
            .or_else(|| {
                let named = |provider: &str, id: &str| {
                    truth.uploads.values().any(|upload| {
                        upload.provider == *provider
                            && upload.state == UploadState::Ready
                            && upload.external_id.as_deref() == Some(id)
                    })
                };
                let is_looked_for = |image: &Image| image.had_record || truth.living.contains_key(&image.maker);
                let leaked = images
                    .iter()
                    .find(|(id, image)| !named(&image.provider, id) && is_looked_for(image) && !image.is_left);
                leaked.map(|(id, image)| format!("image {id} of build {} has no ready upload", image.build))
            })
            .or_else(|| self.files_left(&truth))
    }

    /// The ready builds of an image, the newest first, each with its time.
    fn ready<'a>(truth: &'a Truth, image: &str) -> Vec<(&'a BuildKey, f64)> {
        let mut ready: Vec<_> = truth
            .builds
            .iter()
            .filter(|(key, build)| key.0 == image && build.state == BuildState::Ready)
            .filter_map(|(key, _)| Some((key, *truth.since.get(key)?)))
            .collect();
        ready.sort_by(|a, b| b.1.total_cmp(&a.1));
        ready
    }

    fn lacks_builds(&self, truth: &Truth) -> Option<String> {
        let now = START + self.story.age().as_secs_f64();
        for image in &self.plan.images {
            if self.plan.formats(image.name).is_empty() {
                continue;
            }
            let ready = Self::ready(truth, image.name);
            let has = |(key, _): &&(&BuildKey, f64), format: &str| {
                truth.builds.get(*key).is_some_and(|build| build.formats.iter().any(|of| of == format))
            };
            // One that was made while the configuration was another one may lack a format.
            let formats = self.plan.formats(image.name);
            let whole = ready.iter().find(|build| formats.iter().all(|format| has(build, format)));
            let Some((_, at)) = whole else {
                return Some(format!("image {} has no ready build in all formats", image.name));
            };
            #[allow(clippy::cast_precision_loss)] // some hours
            if now - at > image.rebuild_age as f64 + REBUILT {
                return Some(format!("the newest build of image {} is {:.0} s old", image.name, now - at));
            }
            for provider in self.plan.providers_of(image.name) {
                let Some((newest, _)) = ready.iter().find(|build| has(build, provider.format)) else { continue };
                let mut of = truth.uploads.iter().filter(|(key, upload)| {
                    key.provider == *provider.name && build_of(key) == **newest && upload.state == UploadState::Ready
                });
                let Some((key, upload)) = of.next() else {
                    return Some(format!("provider {} lacks build {}-{}", provider.name, newest.0, newest.1));
                };
                let id = upload.external_id.clone().unwrap_or_default();
                if !truth.vanished.contains(&id) && !self.around.clouds.has(provider.name, &id) {
                    return Some(format!("upload {key:?} is ready, and image {id} is not there"));
                }
            }
        }
        None
    }

    /// Records that nobody needs.
    fn is_left(&self, truth: &Truth) -> Option<String> {
        // What has failed stays for people until the next one has ended.
        let has_later = |key: &UploadKey| {
            let mut others = truth.uploads.keys().filter(|other| other.provider == key.provider);
            others.any(|other| build_of(other) == build_of(key) && other.id > key.id)
        };
        let is_over = |(key, upload): &(&UploadKey, &ImageUpload)| match upload.state {
            UploadState::Ready => false,
            UploadState::Failed => has_later(key) || !truth.is_ready(&build_of(key)),
            UploadState::Uploading | UploadState::Deleting => true,
        };
        if let Some((key, upload)) = truth.uploads.iter().find(is_over) {
            return Some(format!("upload {key:?} is {}", upload.state.as_str()));
        }
        let is_over = |(key, build): &(&BuildKey, &ImageBuild)| match build.state {
            BuildState::Ready => false,
            BuildState::Failed => {
                let newest = Self::ready(truth, &key.0).first().map(|(_, at)| *at);
                newest > truth.since.get(*key).copied() || !self.plan.has_image(&key.0)
            }
            BuildState::Building | BuildState::Deleting => true,
        };
        if let Some((key, build)) = truth.builds.iter().find(is_over) {
            return Some(format!("build {key:?} is {}", build.state.as_str()));
        }
        let mut uploads: BTreeMap<_, Vec<(&UploadKey, f64)>> = BTreeMap::new();
        for (key, upload) in &truth.uploads {
            uploads.entry((&key.image, &key.provider)).or_default().push((key, upload.state_time));
        }
        if let Some(((image, provider), of)) = uploads.iter().find(|(_, of)| of.len() > 4) {
            return Some(format!("provider {provider} has {} uploads of image {image}", of.len()));
        }
        for image in &self.plan.images {
            let ready = Self::ready(truth, image.name);
            // One that is older than the kept ones is there for its uploads.
            let spare = ready.iter().skip(2).find(|(key, _)| !truth.uploads.keys().any(|of| build_of(of) == **key));
            if let Some((key, _)) = spare.filter(|_| !self.plan.formats(image.name).is_empty()) {
                return Some(format!("build {key:?} is there, which nobody needs"));
            }
        }
        None
    }

    /// Files without their builds.
    fn files_left(&self, truth: &Truth) -> Option<String> {
        let all = self.sites.iter().flat_map(|site| site.files());
        all.filter(|(build, _)| !truth.is_ready(build))
            .map(|(build, suffix)| format!("the {suffix} file of build {build:?} is there, which is not ready"))
            .next()
    }

    fn tell_state(&self) {
        let truth = self.around.truth.open();
        for (key, build) in &truth.builds {
            tell!(self.story, "there is: build {key:?} {} {:?}", build.state.as_str(), build.reason());
        }
        for (key, upload) in &truth.uploads {
            let of = (upload.state.as_str(), &upload.external_id, upload.reason());
            tell!(self.story, "there is: upload {key:?} {of:?}");
        }
        for (place, site) in self.sites.iter().enumerate() {
            tell!(self.story, "there is: on machine {place} {:?}", site.files());
        }
        drop(truth);
        for (id, image) in self.around.clouds.images() {
            tell!(self.story, "there is: image {id}: {image:?}");
        }
    }
}
