//! The commands on images, builds and uploads. They leave marks in ZooKeeper; the builders act on them.

use std::collections::BTreeSet;

use nodepool_common::{
    model::{BuildId, ImageName, Json, UploadKey, wire},
    status::{self, Table},
    sys::clock,
    zk::ZooKeeper,
};

use crate::{
    args::WhichUpload,
    failure::{Failure, say},
    listing::View,
    session::Session,
    walk::{self, IMAGES},
};

/// `image-list`.
pub async fn image_list(zk: &ZooKeeper, view: &View) -> Result<(), Failure> {
    view.show(None, async || Ok(status::image_list(&walk::uploads(zk).await?, clock::now()))).await
}

/// `dib-image-list`.
pub async fn dib_image_list(zk: &ZooKeeper, view: &View) -> Result<(), Failure> {
    view.show(None, async || Ok(status::dib_image_list(&walk::builds(zk).await?, clock::now()))).await
}

/// `image-status`.
pub async fn image_status(zk: &ZooKeeper, view: &View) -> Result<(), Failure> {
    view.show(None, async || read_status(zk).await).await
}

async fn read_status(zk: &ZooKeeper) -> Result<Table, Failure> {
    let records = walk::builds(zk).await?;
    let mut building = BTreeSet::new();
    for image in records.build_requests.keys() {
        if is_building(zk, image, &records).await? {
            building.insert(image.clone());
        }
    }
    Ok(status::image_status(&records, |image| building.contains(image), clock::now()))
}

/// A builder works on an image where it holds the lock for building, and has begun: its build is no older than the
/// lock's directory (`nodepool 11.0.0: zk/zookeeper.py getBuildRequest`).
async fn is_building(
    zk: &ZooKeeper,
    image: &ImageName,
    records: &nodepool_common::model::Records,
) -> Result<bool, Failure> {
    let lock = format!("{IMAGES}/{image}/builds/lock");
    let Some((_, lock_stat)) = zk.get(&lock).await? else { return Ok(false) };
    let newest = records.builds.iter().filter(|((of, _), _)| of == image).map(|(_, entry)| entry.stat.ctime).max();
    Ok(newest.is_some_and(|newest| newest >= lock_stat.ctime) && !zk.children(&lock).await?.is_empty())
}

/// `image-build IMAGE`.
pub async fn build(session: &Session, image: &str) -> Result<(), Failure> {
    let Some(diskimage) = session.config.diskimages.get(image) else {
        return Err(Failure::Refused(format!(
            "Trying to build a non disk-image-builder image: {image}. The diskimages of the configuration are: {}",
            session.config.diskimages.keys().map(ImageName::as_str).collect::<Vec<_>>().join(", ")
        )));
    };
    if diskimage.pause {
        return Err(Failure::Refused(format!(
            "Skipping build request for image {image}; paused. Take `pause: true` from the diskimage in the configuration"
        )));
    }
    let path = format!("{IMAGES}/{image}/request-build");
    // A build that failed leaves its request. Written again it is a new one, and a builder does not wait any longer.
    if session.zk.get(&path).await?.is_some() {
        match session.zk.set(&path, b"").await {
            Err(error) if error.is_no_node() => {}
            written => return Ok(written.map(drop)?),
        }
    }
    Ok(session.zk.create(&path, b"").await?)
}

/// `image-pause IMAGE`.
pub async fn pause(zk: &ZooKeeper, image: &str) -> Result<(), Failure> {
    let path = format!("{IMAGES}/{image}");
    if !walk::is_name(image) || zk.get(&path).await?.is_none() {
        return Err(Failure::Refused(format!("There is no image {image} in ZooKeeper; `image-status` lists them")));
    }
    Ok(zk.create(&format!("{path}/pause"), b"").await?)
}

/// `image-unpause IMAGE`. One that is not paused, or not there at all, is fine.
pub async fn unpause(zk: &ZooKeeper, image: &str) -> Result<(), Failure> {
    if !walk::is_name(image) {
        return Ok(());
    }
    Ok(zk.delete_recursive(&format!("{IMAGES}/{image}/pause")).await?)
}

/// `dib-image-delete IMAGE-BUILDID`.
pub async fn delete_build(zk: &ZooKeeper, id: &str) -> Result<(), Failure> {
    let Some((image, build)) = id.rsplit_once('-') else {
        return Err(Failure::Refused(format!("{id} is no id of `dib-image-list`, which are IMAGE-BUILDID")));
    };
    let path = walk::build_path(&ImageName::from(image), &BuildId::from(build));
    let can_be = walk::is_name(image) && walk::is_record_id(build);
    match if can_be { mark_for_deletion(zk, &path, "building").await? } else { Marked::Missing } {
        Marked::Yes => Ok(()),
        Marked::Missing => say(&format!("Build {id} not found")),
        Marked::Busy => say("Cannot delete a build in progress"),
    }
}

/// `image-delete`.
pub async fn delete_upload(zk: &ZooKeeper, upload: &WhichUpload) -> Result<(), Failure> {
    let path = walk::upload_path(&UploadKey {
        image: upload.image.as_str().into(),
        provider: upload.provider.as_str().into(),
        build: upload.build_id.as_str().into(),
        id: upload.upload_id.as_str().into(),
    });
    let can_be = [&upload.image, &upload.provider, &upload.build_id].into_iter().all(|word| walk::is_name(word))
        && walk::is_record_id(&upload.upload_id);
    match if can_be { mark_for_deletion(zk, &path, "uploading").await? } else { Marked::Missing } {
        Marked::Yes => Ok(()),
        Marked::Missing => say("Image upload not found"),
        Marked::Busy => say("Cannot delete because image upload in progress"),
    }
}

enum Marked {
    Yes,
    Missing,
    Busy,
}

/// Sets a record's state to `deleting` and leaves all else in it as it is. Without a lock, as upstream does it: a
/// builder that writes at the same moment makes this fail rather than lose its change.
async fn mark_for_deletion(zk: &ZooKeeper, path: &str, busy: &str) -> Result<Marked, Failure> {
    let zk = zk.in_current_session("reading", path).await?;
    let Some((data, stat)) = zk.get(path).await? else { return Ok(Marked::Missing) };
    let mut record = wire::document(&data).map_err(|error| {
        Failure::Refused(format!("{path} cannot be used: {error}. `erase` removes a provider's unusable uploads"))
    })?;
    if record.get("state").and_then(Json::text).as_deref() == Some(busy) {
        return Ok(Marked::Busy);
    }
    record.set("state", Json::of("deleting"));
    record.set("state_time", Json::float(clock::now()));
    zk.set(path, record.text().as_bytes(), stat.version).await?;
    Ok(Marked::Yes)
}
