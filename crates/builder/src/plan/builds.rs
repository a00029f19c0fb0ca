//! Which images to build (`nodepool 11.0.0: builder.py _checkImageForScheduledImageUpdates,
//! _checkImageForManualBuildRequest`).

use std::collections::BTreeSet;

use nodepool_common::{
    config::{Config, Diskimage},
    model::{ProviderName, guard},
};

use super::{Decision, Plan, ProviderImages, Why, World, uploads};

/// The formats that an image is built in: its own, and those of the providers that use it. Empty: it is never built.
fn wanted_formats<'a>(
    image: &Diskimage,
    config: &'a Config,
    providers: impl IntoIterator<Item = (&'a ProviderName, &'a ProviderImages)>,
) -> Vec<String> {
    let uses = |name: &ProviderName| {
        config.providers.get(name).is_some_and(|provider| provider.driver.diskimages().contains_key(&image.name))
    };
    let theirs =
        providers.into_iter().filter(|(name, _)| uses(name)).filter_map(|(_, provider)| provider.format.clone());
    image.formats.iter().cloned().chain(theirs).collect::<BTreeSet<_>>().into_iter().collect()
}

pub(super) fn plan(world: &World<'_>, plan: &mut Plan) {
    let mut due: Vec<(Why, Decision)> = Vec::new();
    for image in world.config.diskimages.values() {
        due.extend(judge(world, image, plan));
    }
    // Stable: within one reason the order of the file.
    due.sort_by_key(|(why, _)| *why);
    let free = world.build_workers.saturating_sub(world.doing.building.len());
    plan.decisions.extend(due.into_iter().take(free).map(|(_, decision)| decision));
}

fn judge(world: &World<'_>, image: &Diskimage, plan: &mut Plan) -> Option<(Why, Decision)> {
    let name = &image.name;
    if image.pause || world.records.paused_images.contains(name) || world.is_being_built(name) {
        return None;
    }
    let formats = wanted_formats(image, world.config, world.providers);
    if formats.is_empty() {
        return None;
    }
    let newest = world.newest_ready(name);
    let request = world.records.build_requests.get(name);
    let why = match (newest, world.newest_ready_in(name, &formats)) {
        _ if request.is_some() => Why::Requested,
        (None, _) => Why::NoBuild,
        (_, None) => Why::Formats,
        (_, Some(_)) if world.files.is_some() && uploads::is_file_lost(world, name) => Why::FilesLost,
        (_, Some(build)) => {
            let at = world.since(build) + image.rebuild_age.as_secs_f64();
            if world.now < at {
                plan.wake(at);
                return None;
            }
            Why::Age
        }
    };
    if let Some((after, known)) = world.doing.builds_after.get(name)
        && let Some(after) = world.pause_ends(Some(after))
    {
        // What somebody asks for after a failure does not wait for its end, be it for the second time: the request of the
        // build that failed is still there, and is written again.
        let is_another = request.is_some_and(|stat| known.is_some_and(|known| stat.mzxid > known));
        if !is_another && !guard::is_removed("pause after a failed build") {
            plan.wake(after);
            return None;
        }
    }
    let newest = newest.map(|build| build.id.clone());
    Some((why, Decision::Build { image: name.clone(), formats, newest, why }))
}
