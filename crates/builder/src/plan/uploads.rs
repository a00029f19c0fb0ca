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

fn judge(world: &World<'_>, provider: &ProviderName, image: &ImageName, plan: &mut Plan) -> Option<(bool, Decision)> {
    let format = world.providers.get(provider)?.format.clone()?;
    // A provider whose part of the file is wrong may list an image that is not there any more.
    world.config.diskimages.get(image)?;
    let build = world.newest_ready_in(image, &[&format])?;
    let to: UploadTo = (image.clone(), build.id.clone(), provider.clone());
    // Else another builder has the file, or the build is about to be made anew with this format.
    let here = world.files.get(&(image.clone(), build.id.clone())).is_some_and(|files| files.contains(&format));
    let is_ready = world.records.uploads.iter().any(|(key, entry)| {
        key.build == build.id
            && key.provider == *provider
            && key.image == *image
            && entry.usable().is_some_and(|upload| upload.state == UploadState::Ready)
    });
    // What an earlier life of ours has left half done goes first, and its end brings us here again: both want the same lock.
    let is_left_over = world.retires
        && world.is_ours(build)
        && world.records.uploads.iter().any(|(key, entry)| {
            (&key.image, &key.build, &key.provider) == (&to.0, &to.1, &to.2)
                && entry.usable().is_some_and(|upload| upload.state == UploadState::Uploading)
        });
    if !here || is_ready || is_left_over || world.is_being_uploaded(&to) {
        return None;
    }
    let failed_before = world.doing.uploads_after.get(&to);
    if let Some(after) = failed_before.filter(|after| world.now < **after) {
        plan.wake(*after);
        return None;
    }
    let decision =
        Decision::Upload { image: image.clone(), build: build.id.clone(), provider: provider.clone(), format };
    Some((failed_before.is_some(), decision))
}
