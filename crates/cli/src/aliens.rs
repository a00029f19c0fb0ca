//! `alien-image-list`: images in the clouds that carry our marks and that no upload on record knows
//! (`nodepool 11.0.0: cmd/nodepoolcmd.py alien_image_list`, which shows none: it asks before any provider is made).
//!
//! Each provider is asked for the images that bear its own name, so that two providers in one project do not call each
//! other's images alien. Upstream knows an image by its cloud's id, from uploads that are `ready`, and would so list what
//! a builder is uploading or deleting at that moment. Here an upload in any state knows its image; one that has no id
//! yet knows it by the marks. Records are read before the clouds are asked and again afterwards: whichever of record and
//! image is made or removed first, no reading shows the one without the other.

use std::collections::HashSet;

use futures::future::join_all;
use nodepool_common::{
    config,
    model::{ProviderName, Records},
    status::{Column, Row, Table},
};
use nodepool_drivers::{CloudResource, Context, ProviderError};
use serde_json::json;

use crate::{failure::Failure, listing::View, session::Session, walk};

/// The table's columns.
pub const COLUMNS: &[Column] = &[("provider", "Provider"), ("name", "Name"), ("id", "Image ID")];
const LOGGER: &str = "nodepool.cmd.nodepoolcmd";

/// `alien-image-list [PROVIDER]`. As upstream's, it ends well whatever the clouds say: what cannot be listed is a warning.
pub async fn list(session: &Session, only: Option<&str>, view: &View) -> Result<(), Failure> {
    let providers = &session.config.providers;
    if let Some(name) = only.filter(|name| !providers.contains_key(*name)) {
        let names: Vec<&str> = providers.keys().map(AsRef::as_ref).collect();
        let names = names.join(", ");
        tracing::warn!(logger = LOGGER, "There is no provider {name} in the configuration; it has: {names}");
    }
    let before = walk::uploads(&session.zk).await?;
    let wanted = providers.iter().filter(|(name, _)| only.is_none_or(|only| only == name.as_str()));
    let asked = join_all(wanted.map(|(name, config)| async move { (name, marked(config).await) })).await;
    let mut found = Vec::new();
    for (name, images) in asked {
        match images {
            Ok(images) => found.extend(images.into_iter().map(|image| (name, image))),
            Err(error) => tracing::warn!(logger = LOGGER, "Exception listing alien images for {name}: {error}"),
        }
    }
    let unknown = |records: &Records, (name, image): &(&ProviderName, CloudResource)| !knows(records, name, image);
    found.retain(|image| unknown(&before, image));
    if !found.is_empty() {
        let after = walk::uploads(&session.zk).await?;
        found.retain(|image| unknown(&after, image));
    }
    let mut table = Table::new(COLUMNS, 0.0);
    for (name, image) in found {
        table.push(Row::of(vec![json!(name), json!(image.tag("name")), json!(image.id)]));
    }
    view.print(table, None)
}

/// A provider's images that a builder has uploaded; none where its driver has no images.
async fn marked(config: &config::Provider) -> Result<Vec<CloudResource>, ProviderError> {
    let provider = nodepool_drivers::make(config, &Context::from_env())?;
    if !provider.manages_images() {
        return Ok(Vec::new());
    }
    provider.start().await?;
    let images = provider.list_images().await?;
    let mut seen = HashSet::new();
    let ours = |image: &CloudResource| image.tag("nodepool_build_id").is_some() && seen.insert(image.id.clone());
    Ok(images.into_iter().filter(ours).collect())
}

/// Whether an upload on record is of this image.
fn knows(records: &Records, provider: &ProviderName, image: &CloudResource) -> bool {
    let (build, upload) = (image.tag("nodepool_build_id"), image.tag("nodepool_upload_id"));
    records.uploads.iter().filter(|(key, _)| key.provider == *provider).any(|(key, entry)| {
        match entry.usable().and_then(|record| record.external_id.as_deref()) {
            Some(id) => id == image.id,
            None => build == Some(key.build.as_str()) && upload == Some(key.id.as_str()),
        }
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use nodepool_common::model::{Entry, ImageUpload, Stat, UploadKey};
    use nodepool_drivers::ResourceKind;
    use serde_json::Value;

    use super::*;

    fn records(uploads: &[(&str, &str, Value)]) -> Records {
        let entry = |(provider, upload, record): &(&str, &str, Value)| {
            let key =
                UploadKey { image: "i".into(), provider: (*provider).into(), build: "b".into(), id: (*upload).into() };
            let UploadKey { image, provider, build, id } = key.clone();
            let record = ImageUpload::read(image, build, provider, id, record.to_string().as_bytes());
            let record = record.map(|(record, _)| Arc::new(record));
            (key, Entry::unlocked(record, Stat::default()))
        };
        Records { uploads: uploads.iter().map(entry).collect(), ..Records::default() }
    }

    fn image(id: &str, upload: &str) -> CloudResource {
        let marks = json!({"nodepool_build_id": "b", "nodepool_upload_id": upload, "nodepool_provider_name": "p"});
        CloudResource::of(ResourceKind::Image, id.to_owned(), marks.as_object().unwrap().clone())
    }

    #[test]
    fn an_upload_with_an_id_knows_that_image_alone() {
        let records = records(&[("p", "1", json!({"state": "deleting", "external_id": "x"}))]);
        assert!(knows(&records, &"p".into(), &image("x", "1")));
        assert!(!knows(&records, &"p".into(), &image("y", "1")), "the image of an attempt whose answer was lost");
        assert!(!knows(&records, &"q".into(), &image("x", "1")), "another provider's record");
    }

    #[test]
    fn an_upload_without_an_id_or_without_a_usable_record_knows_its_image_by_the_marks() {
        for record in [json!({"state": "uploading"}), json!({"state": "flying"}), json!(null)] {
            let records = records(&[("p", "1", record)]);
            assert!(knows(&records, &"p".into(), &image("x", "1")));
            assert!(!knows(&records, &"p".into(), &image("x", "2")));
        }
    }
}
