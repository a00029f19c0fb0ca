//! Which builds to upload (`nodepool 11.0.0: builder.py _checkProviderImageUpload`).

use nodepool_common::model::{ImageName, ProviderName, UploadState};

use super::{Decision, Plan, World, world::UploadTo};

pub(super) fn plan(world: &World<'_>, plan: &mut Plan) {
    let mut due: Vec<(bool, Decision)> = Vec::new();
    for (name, provider) in &world.config.providers {
        for image in provider.driver.diskimages().values().filter(|image| !image.pause) {
            due.extend(judge(world, name, &image.name, plan));
        }
    }
    // What has not failed yet goes first; else the order of the file.
    due.sort_by_key(|(failed_before, _)| *failed_before);
    let free = world.upload_workers.saturating_sub(world.doing.uploading.len());
    plan.decisions.extend(due.into_iter().take(free).map(|(_, decision)| decision));
}

/// Whether a provider lacks the newest build that it may have, which this builder made and has no file of: nobody will ever
/// upload it.
pub(super) fn is_file_lost(world: &World<'_>, image: &ImageName) -> bool {
    world.config.providers.iter().any(|(name, provider)| {
        let is_listed = provider.driver.diskimages().get(image).is_some_and(|image| !image.pause);
        is_listed
            && missing(world, name, image).is_some_and(|(to, format)| {
                let entry = world.records.builds.get(&(to.0.clone(), to.1.clone())).and_then(|entry| entry.usable());
                entry.is_some_and(|build| world.is_ours(build)) && !has_file(world, &to, &format)
            })
    })
}

/// The build that a provider lacks and may have, and in which format.
fn missing(world: &World<'_>, provider: &ProviderName, image: &ImageName) -> Option<(UploadTo, String)> {
    let format = world.providers.get(provider)?.format.clone()?;
    // A provider whose part of the file is wrong may list an image that is not there any more.
    world.config.diskimages.get(image)?;
    let build = world.newest_ready_in(image, &[&format])?;
    let to: UploadTo = (image.clone(), build.id.clone(), provider.clone());
    let is_ready = world.records.uploads.iter().any(|(key, entry)| {
        key.build == build.id
            && key.provider == *provider
            && key.image == *image
            && entry.usable().is_some_and(|upload| upload.state == UploadState::Ready)
    });
    (!is_ready && !world.is_being_uploaded(&to)).then_some((to, format))
}

fn has_file(world: &World<'_>, (image, build, _): &UploadTo, format: &str) -> bool {
    let files = world.files.and_then(|files| files.get(&(image.clone(), build.clone())));
    files.is_some_and(|files| files.contains(format))
}

fn judge(world: &World<'_>, provider: &ProviderName, image: &ImageName, plan: &mut Plan) -> Option<(bool, Decision)> {
    let (to, format) = missing(world, provider, image)?;
    // What an earlier life of ours has left half done goes first, and its end brings us here again: both want the same lock.
    let is_left_over = world.retires
        && world
            .records
            .builds
            .get(&(to.0.clone(), to.1.clone()))
            .and_then(|entry| entry.usable())
            .is_some_and(|build| world.is_ours(build))
        && world.records.uploads.iter().any(|(key, entry)| {
            (&key.image, &key.build, &key.provider) == (&to.0, &to.1, &to.2)
                && entry.usable().is_some_and(|upload| upload.state == UploadState::Uploading)
        });
    // Else another builder has the file, or the build is about to be made anew with this format.
    if !has_file(world, &to, &format) || is_left_over {
        return None;
    }
    let failed_before = world.doing.uploads_after.get(&to);
    if let Some(after) = world.pause_ends(failed_before) {
        plan.wake(after);
        return None;
    }
    let decision = Decision::Upload { image: image.clone(), build: to.1.clone(), provider: provider.clone(), format };
    Some((failed_before.is_some(), decision))
}
