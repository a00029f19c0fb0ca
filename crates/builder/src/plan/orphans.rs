//! Files of builds that are on no record: what of them may be deleted, and what is held back
//! ([`brake`](nodepool_common::model::brake) has the rule, and why there is one).
//!
//! The sign that the records are not those of images-dir: there are files of builds of an image that the configuration has, and
//! no build of it is on record as ready whose files are here, or that another builder has made. The newest ones are kept, so
//! there always is one, once there has been one. One of ours without its files is of an older copy of the records, unless the
//! image's files go once they are uploaded (`delete-after-upload`).

use nodepool_common::model::{
    BuildId, BuildState, HeldBack, Holder, ImageName,
    brake::{Count, Search, Sort, Thing, Verdict, judge},
};

use super::World;

/// The kind under which a build's files are on record.
pub const FILES: &str = "files";

/// Digits of a build's id; old ones have fewer.
pub(super) const BUILD_ID: usize = 32;

/// A build's files as a thing that can be held back.
pub(super) fn thing(image: &ImageName, build: &BuildId) -> Thing {
    (FILES.to_owned(), format!("{image}-{build}"))
}

/// What of the files without a record may be deleted; `None`: images-dir cannot be read.
pub(super) fn judged(world: &World<'_>) -> Option<Verdict> {
    let records = world.records;
    let is_ready = |image: &ImageName, build: &BuildId| {
        let entry = records.builds.get(&(image.clone(), build.clone()));
        entry.and_then(|entry| entry.usable()).is_some_and(|build| build.state == BuildState::Ready)
    };
    let files = world.files?;
    let is_orphan = |(image, build): &&(ImageName, BuildId)| {
        // Of an image that nobody has ever heard of, or with a mere number for an id, it is somebody else's file.
        (world.knows(image) || records.images.contains(image))
            && build.as_str().len() == BUILD_ID
            && !records.builds.contains_key(&(image.clone(), build.clone()))
    };
    // While an image is built here, its newest files may be those of a build whose record we have not seen yet.
    let is_being_built = |(image, _): &&(ImageName, BuildId)| world.doing.building.contains(image);
    let (open, orphans): (Vec<_>, Vec<_>) = files.keys().filter(is_orphan).partition(is_being_built);
    let known = files.keys().filter(|(image, build)| is_ready(image, build)).count();
    let keeps_no_files =
        |image: &ImageName| world.config.diskimages.get(image).is_some_and(|image| image.delete_after_upload);
    let has_ready = |image: &ImageName| {
        let of_image =
            records.builds.range((image.clone(), BuildId::from(""))..).take_while(|((of, _), _)| of == image);
        of_image.filter_map(|(key, entry)| Some((key, entry.usable()?))).any(|(key, build)| {
            build.state == BuildState::Ready
                && (files.contains_key(key) || !world.is_ours(build) || keeps_no_files(image))
        })
    };
    let unheard = orphans.iter().find(|(image, _)| world.knows(image) && !has_ready(image));
    let doubt = unheard.map(|(image, _)| {
        format!(
            "no build of image {image} is on record as ready that has its files here, although the configuration has the image \
             and there are files of other builds"
        )
    });
    #[allow(clippy::cast_possible_truncation)] // seconds since the epoch fit
    let now = world.now as i64;
    let search = Search {
        now,
        found: orphans
            .iter()
            .map(|(image, build)| (thing(image, build), "there is no such build".to_owned()))
            .collect(),
        counts: vec![Count { sort: Sort::Images, name: "builds' files", found: orphans.len(), known }],
        open: open.iter().map(|(image, build)| thing(image, build)).collect(),
        known: records.builds.keys().map(|(image, build)| thing(image, build)).collect(),
        image_doubt: doubt,
        ..Search::default()
    };
    let unusable = HeldBack::default();
    let held = records.held_back.get(&Holder::Builder(world.builder_id.to_owned()));
    Some(judge(&search, held.map(|entry| entry.usable().map_or(&unusable, AsRef::as_ref))))
}
