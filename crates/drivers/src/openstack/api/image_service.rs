//! [`ImageService`]: Glance's calls that the stories over images (`provider/image_upload.rs`) are made of.
//!
//! A cloud may do all in one call (the one behind a socket does): it answers the creation with an active image, and
//! the calls between are never made.

use async_trait::async_trait;
use nodepool_common::model::ProviderName;
use serde_json::{Map, Value};

use super::{CloudError, ImageData};
use crate::{ErrorClass, ImageToUpload};

/// How an image's data gets into the cloud.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Route {
    /// `PUT /images/ID/file`: the image is active when that is answered.
    Direct,
    /// The interoperable import: `PUT /images/ID/stage`, then `POST /images/ID/import` with `glance-direct`.
    Import,
}

/// Glance's calls. None repeats a creation or an upload by itself.
#[async_trait]
pub(crate) trait ImageService {
    /// Makes the record of an image without data.
    async fn create_image(&self, image: &NewImage) -> Result<Image, CloudError>;
    /// One image, now; `None`: there is none.
    async fn get_image(&self, id: &str) -> Result<Option<Image>, CloudError>;
    /// One that is gone is [`ErrorClass::Gone`], one in use [`ErrorClass::Transient`].
    async fn delete_image(&self, id: &str) -> Result<(), CloudError>;
    /// The project's images, in any state, that have all of this metadata; without copies that others made of them.
    async fn images_with(&self, metadata: &[(&'static str, String)]) -> Result<Vec<Image>, CloudError>;
    /// Which route the configuration wants.
    async fn route(&self) -> Result<Route, CloudError> {
        Ok(Route::Direct)
    }
    /// Whether the cloud takes images by import; the error says what it does instead.
    async fn takes_imports(&self) -> Result<(), CloudError> {
        Err(whole("import"))
    }
    /// Sends the data of a record; without a deadline: the caller has one.
    async fn send_image(&self, id: &str, route: Route, data: ImageData) -> Result<(), CloudError> {
        let _ = (id, route, data);
        Err(whole("take the data of"))
    }
    /// Imports what was staged; returns when that is accepted.
    async fn import_image(&self, id: &str) -> Result<(), CloudError> {
        let _ = id;
        Err(whole("import"))
    }
    /// What the cloud says of an import that failed.
    async fn import_failure(&self, id: &str) -> Option<String> {
        let _ = id;
        None
    }
}

/// What `image_format` of clouds.yaml says, read anew each time; `None`: nothing.
pub(crate) type ImageFormat = Box<dyn Fn() -> Result<Option<String>, CloudError> + Send + Sync>;

fn whole(what: &str) -> CloudError {
    CloudError::new(ErrorClass::Bug, format!("this cloud takes an image in one call and cannot {what} it separately"))
}

/// What an image is made from.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct NewImage {
    pub name: String,
    /// `disk_format`.
    pub format: String,
    /// The file, for a cloud that reads it itself.
    pub path: String,
    /// Bytes.
    pub size: u64,
    pub md5: Option<String>,
    pub sha256: Option<String>,
    /// Properties and what finds the image again, all of them texts.
    pub metadata: Map<String, Value>,
}

impl NewImage {
    pub fn new(image: &ImageToUpload, size: u64, provider: &ProviderName) -> Self {
        Self {
            name: image.name.clone(),
            format: image.format.clone(),
            path: image.path.display().to_string(),
            size,
            md5: image.md5.clone(),
            sha256: image.sha256.clone(),
            metadata: image.metadata(provider),
        }
    }
}

/// An image, from raw Glance JSON.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Image {
    pub id: String,
    /// In small letters.
    pub status: String,
    pub format: Option<String>,
    /// Bytes.
    pub size: Option<u64>,
    /// MD5; absent on clouds in FIPS mode.
    pub checksum: Option<String>,
    /// Algorithm and value.
    pub hash: Option<(String, String)>,
    /// The stores that an import could not bring it to.
    pub failed_import: Option<String>,
    /// The whole document: its properties stand beside Glance's own keys.
    pub metadata: Map<String, Value>,
}

impl Image {
    /// `None`: no object with an id.
    pub fn read(json: &Value) -> Option<Self> {
        let text = |key: &str| json.get(key).and_then(Value::as_str).map(ToOwned::to_owned);
        Some(Self {
            id: text("id")?,
            status: text("status").unwrap_or_default().to_lowercase(),
            format: text("disk_format"),
            size: json.get("size").and_then(Value::as_u64),
            checksum: text("checksum"),
            hash: text("os_hash_algo").zip(text("os_hash_value")),
            failed_import: text("os_glance_failed_import").filter(|stores| !stores.is_empty()),
            metadata: json.as_object().cloned().unwrap_or_default(),
        })
    }

    /// Whether somebody made it from an image of ours: a server's snapshot, a volume's copy. Nova and Cinder give those
    /// all properties of the image that was booted, our marks too. The file's name is in the properties of an upload
    /// as the SDK writes them, ours or Python Nodepool's, and is that of the image.
    pub fn is_copy(&self) -> bool {
        let text = |key: &str| self.metadata.get(key).and_then(Value::as_str);
        let snapshot = text("image_type") == Some("snapshot")
            || ["base_image_ref", "instance_uuid"].into_iter().any(|key| self.metadata.contains_key(key));
        let uploaded_as = text("owner_specified.openstack.object").map(|object| object.trim_start_matches("images/"));
        snapshot || uploaded_as.is_some_and(|name| text("name") != Some(name))
    }

    /// Whether it has all of this metadata.
    pub fn has(&self, metadata: &[(&'static str, String)]) -> bool {
        metadata.iter().all(|(key, value)| self.metadata.get(*key).and_then(Value::as_str) == Some(value))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_image_of_any_shape_is_read() {
        let image = Image::read(&json!({"id": "i", "status": "active", "size": null, "os_hash_algo": "sha512",
            "os_glance_failed_import": "", "nodepool_build_id": "b"}))
        .unwrap();
        assert_eq!((image.size, image.hash.clone(), image.failed_import.clone()), (None, None, None));
        assert!(image.has(&[("nodepool_build_id", "b".to_owned())]));
        assert!(!image.has(&[("nodepool_build_id", "b".to_owned()), ("nodepool_upload_id", "1".to_owned())]));
        assert!(Image::read(&json!({"name": "without an id"})).is_none());
    }

    #[test]
    fn what_nova_and_cinder_make_from_an_image_of_ours_is_a_copy() {
        let marked = json!({"id": "i", "name": "n-1", "nodepool_build_id": "b",
            "owner_specified.openstack.object": "images/n-1"});
        let with = |change: Value| {
            let mut json = marked.clone();
            json.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
            Image::read(&json).unwrap()
        };
        assert!(!with(json!({})).is_copy());
        assert!(with(json!({"name": "held-for-debugging", "image_type": "snapshot"})).is_copy());
        assert!(with(json!({"base_image_ref": "i0"})).is_copy());
        assert!(with(json!({"name": "from-a-volume"})).is_copy());
    }
}
