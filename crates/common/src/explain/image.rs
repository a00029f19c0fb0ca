//! How it stands with a diskimage: its builds, its uploads, who waits for it.

use std::collections::{BTreeMap, BTreeSet};

use super::{Asked, Explanation, Paused, Verdict, words::count};
use crate::model::{
    BuildId, BuildState, Entry, ImageBuild, ImageName, ImageUpload, ProviderName, Records, Timestamp, UploadState,
};

const KIND: &str = "image";
/// The code of a planner's reason that a provider has no image for a label.
pub(super) const MISSING: &str = "image-missing";
/// So many of its builds and uploads are shown, the newest ones.
const SHOWN: usize = 40;
const UNPAUSE: &str = "`nodepool image-unpause`, or `pause: false` in the file";
const BUILDER: &str = "a builder that is started, and has the image in its file";

/// Why a provider does not have an image.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Gap {
    pub verdict: Verdict,
    pub code: &'static str,
    pub sentence: String,
    pub since: Option<Timestamp>,
    pub ended_by: String,
}

type Build = (BuildId, std::sync::Arc<Entry<ImageBuild>>);

/// Explains an image by the records, and by which pools of the launchers' have labels that boot from it. `None`: nobody has it.
pub fn of_image(records: &Records, image: &ImageName, asked: &Asked, now: Timestamp) -> Option<Explanation> {
    let mut wanted: BTreeMap<ProviderName, BTreeSet<String>> = BTreeMap::new();
    for pool in asked.pools().filter(|pool| !pool.labels.is_empty()) {
        let labels = wanted.entry(pool.provider.as_str().into()).or_default();
        labels.extend(pool.labels.iter().map(|label| format!("{label} in {}", pool.title())));
    }
    let builds = builds(records, image);
    let is_on_record = records.images.contains(image) || !builds.is_empty();
    if !is_on_record && wanted.is_empty() && !asked.views.iter().any(|view| view.pauses_image) {
        return None;
    }
    let uploads = uploads(records, image);
    // Who needs it, as far as that is known; else where it is.
    let mut providers: BTreeSet<ProviderName> = wanted.keys().cloned().collect();
    if providers.is_empty() {
        providers.extend(uploads.iter().filter_map(|entry| Some(entry.usable()?.provider.clone())));
    }
    let is_paused = records.paused_images.contains(image) || asked.views.iter().any(|view| view.pauses_image);
    let paused_in = |provider: &ProviderName| Paused {
        builds: is_paused,
        uploads: asked.pools().any(|pool| pool.provider == provider.as_str() && pool.paused.uploads),
    };
    let mut gaps: Vec<_> = providers
        .iter()
        .filter_map(|provider| Some((provider, gap(records, image, provider, paused_in(provider), now)?)))
        .collect();
    gaps.sort_by_key(|(_, gap)| std::cmp::Reverse(gap.verdict));
    let explanation = match gaps.first() {
        Some((provider, gap)) => Explanation {
            since: gap.since,
            ..Explanation::new(
                KIND,
                image.as_str(),
                gap.verdict,
                gap.code,
                format!("Provider {provider} has no ready upload of it: {}", gap.sentence),
            )
        }
        .ended_by(&gap.ended_by),
        None => there(image, &builds, providers.len(), (is_paused, !records.builders.is_empty()), now),
    };
    let mut explanation = explanation.fact("paused", if is_paused { "yes" } else { "no" });
    if records.build_requests.contains_key(image) {
        explanation = explanation.fact("asked for", "a build, by `nodepool image-build`");
    }
    for (id, entry) in builds.iter().take(SHOWN) {
        explanation = match &entry.record {
            Ok(build) => explanation.fact_at(&format!("build {id}"), told(build), entry.since(now)),
            Err(error) => explanation.fact(&format!("build {id}"), format!("its record cannot be read: {error}")),
        };
    }
    for entry in uploads.iter().take(SHOWN) {
        let Some(upload) = entry.usable() else { continue };
        let why = upload.reason().map(|why| format!(": {why}")).unwrap_or_default();
        let sentence = format!("{}, of build {}{why}", upload.state, upload.build);
        explanation = explanation.fact_at(&format!("in {}", upload.provider), sentence, entry.since(now));
    }
    for label in wanted.into_values().flatten() {
        explanation = explanation.fact("needed by label", label);
    }
    Some(explanation.with_launchers(asked))
}

/// It is wherever it is needed.
fn there(
    image: &ImageName,
    builds: &[Build],
    providers: usize,
    (is_paused, has_builders): (bool, bool),
    now: Timestamp,
) -> Explanation {
    let name = image.as_str();
    let newest = builds.first().and_then(|(id, entry)| Some((id, entry, entry.usable()?)));
    let serves =
        |count: usize| if count > 0 { "an older build serves meanwhile" } else { "no provider is known to need it" };
    match newest {
        Some((id, entry, build)) if build.state == BuildState::Failed => {
            let sentence = format!("Its newest build {id} has failed: {}; {}", why(build), serves(providers));
            let failed = Explanation::new(KIND, name, Verdict::Act, "build-failed", sentence);
            Explanation { since: entry.since(now), ..failed }.ended_by(&again(
                "a build that works",
                is_paused,
                has_builders,
            ))
        }
        Some((_, entry, build)) if build.state == BuildState::Building => {
            let sentence = format!("A build of it runs{}; {}", on(build), serves(providers));
            Explanation { since: entry.since(now), ..Explanation::new(KIND, name, Verdict::Fine, "building", sentence) }
        }
        None if providers == 0 => {
            let explanation = Explanation::new(
                KIND,
                name,
                Verdict::Fine,
                "not-built",
                "It has no build, and no provider is known to need it",
            );
            if is_paused { explanation.ended_by(UNPAUSE) } else { explanation }
        }
        _ if is_paused => {
            let sentence = format!("{}, and it is paused: no newer one is built", is_in(providers));
            Explanation::new(KIND, name, Verdict::Fine, "paused", sentence).ended_by(UNPAUSE)
        }
        _ => Explanation::new(KIND, name, Verdict::Fine, "ready", is_in(providers)),
    }
}

/// What ends a failure: what is tried again by itself, unless something has to be done first.
fn again(what: &str, is_paused: bool, has_builders: bool) -> String {
    match (is_paused, has_builders) {
        (true, _) => UNPAUSE.to_owned(),
        (false, true) => format!("{what}: it is tried again by itself"),
        (false, false) => BUILDER.to_owned(),
    }
}

fn is_in(providers: usize) -> String {
    match providers {
        0 => "It is built, and no provider is known to need it".to_owned(),
        number => format!("It is ready in each provider that needs it ({})", count(number, "provider")),
    }
}

/// Why a provider does not have an image that it needs; `None`: it has. `paused`: what launchers' files say.
pub(super) fn gap(
    records: &Records,
    image: &ImageName,
    provider: &ProviderName,
    paused: Paused,
    now: Timestamp,
) -> Option<Gap> {
    let is_paused = paused.builds || records.paused_images.contains(image);
    if records.newest_upload(image, provider).is_some() {
        return None;
    }
    let gap = |verdict, code, sentence: String, since, ended_by: &str| Gap {
        verdict,
        code,
        sentence,
        since,
        ended_by: ended_by.to_owned(),
    };
    let has_builders = !records.builders.is_empty();
    let (builds, uploads) = (builds(records, image), uploads(records, image));
    let upload = uploads.iter().find_map(|entry| {
        let upload = entry.usable().filter(|upload| upload.provider == *provider)?;
        Some((upload, entry.since(now)))
    });
    let build = builds.first().and_then(|(id, entry)| Some((id, entry.usable()?, entry.since(now))));
    let before = || match builds.get(1).and_then(|(_, entry)| entry.usable()) {
        Some(build) if build.state == BuildState::Failed => format!("; the one before it failed: {}", why(build)),
        _ => String::new(),
    };
    Some(match (upload, build) {
        (Some((upload, since)), _) if upload.state == UploadState::Uploading => {
            let sentence = format!("build {} is being uploaded", upload.build);
            gap(Verdict::Wait, "image-uploading", sentence, since, "the end of the upload")
        }
        _ if paused.uploads => {
            let sentence =
                "the provider's `diskimages` in the file has it with `pause: true`, so nobody uploads it there";
            gap(Verdict::Act, "image-upload-paused", sentence.to_owned(), None, "`pause: false` there, and an upload")
        }
        (_, Some((id, build, since))) if build.state == BuildState::Building && has_builders => {
            let sentence = format!("build {id} runs{}{}", on(build), before());
            gap(Verdict::Wait, "image-building", sentence, since, "the end of the build, and of its upload")
        }
        (Some((upload, since)), _) if upload.state == UploadState::Failed => {
            let why = upload.reason().unwrap_or_else(|| "why is in its builder's log".to_owned());
            let sentence = format!("the upload of build {} has failed: {why}", upload.build);
            let ended_by = again("an upload that works", false, has_builders);
            gap(Verdict::Act, "image-upload-failed", sentence, since, &ended_by)
        }
        (_, Some((id, build, since))) if build.state == BuildState::Failed => {
            let sentence = format!("build {id} has failed: {}", why(build));
            let ended_by = again("a build that works", is_paused, has_builders);
            gap(Verdict::Act, "image-build-failed", sentence, since, &ended_by)
        }
        (_, Some((id, build, since))) if build.state == BuildState::Ready && has_builders => {
            let sentence = format!("build {id} is ready, and has not been uploaded");
            gap(Verdict::Wait, "image-to-be-uploaded", sentence, since, "its upload")
        }
        _ if is_paused => {
            gap(Verdict::Act, "image-paused", "it is paused, so nobody builds it".to_owned(), None, UNPAUSE)
        }
        _ if !has_builders => {
            let sentence = "no builder is running".to_owned();
            gap(Verdict::Act, "no-builder", sentence, None, BUILDER)
        }
        _ => {
            let sentence = "it has not been built, or what there was of it is being deleted".to_owned();
            gap(
                Verdict::Wait,
                "image-to-be-built",
                sentence,
                None,
                "a build of it by a builder that has it in its file",
            )
        }
    })
}

/// Its builds, the newest first.
fn builds(records: &Records, image: &ImageName) -> Vec<Build> {
    let first = (image.clone(), BuildId::from(""));
    let own = records.builds.range(first..).take_while(|((of, _), _)| of == image);
    let mut builds: Vec<Build> = own.map(|((_, id), entry)| (id.clone(), entry.clone())).collect();
    builds.sort_by(|(_, a), (_, b)| newest_first(a.order(), b.order()));
    builds
}

/// Its uploads, the newest first.
fn uploads(records: &Records, image: &ImageName) -> Vec<std::sync::Arc<Entry<ImageUpload>>> {
    let own = records.uploads.iter().filter(|(key, _)| key.image == *image);
    let mut uploads: Vec<_> = own.map(|(_, entry)| entry.clone()).collect();
    uploads.sort_by(|a, b| newest_first(a.order(), b.order()));
    uploads
}

fn newest_first(a: Option<Timestamp>, b: Option<Timestamp>) -> std::cmp::Ordering {
    b.unwrap_or(f64::NEG_INFINITY).total_cmp(&a.unwrap_or(f64::NEG_INFINITY))
}

fn on(build: &ImageBuild) -> String {
    build.builder.as_ref().map(|builder| format!(" on {builder}")).unwrap_or_default()
}

fn why(build: &ImageBuild) -> String {
    build.reason().unwrap_or_else(|| format!("why is in its log{} (`nodepool build-log`)", on(build)))
}

fn told(build: &ImageBuild) -> String {
    let mut told = format!("{}{}", build.state, on(build));
    if !build.formats.is_empty() {
        told = format!("{told}, {}", build.formats.join(", "));
    }
    match build.reason() {
        Some(why) => format!("{told}: {why}"),
        None => told,
    }
}
