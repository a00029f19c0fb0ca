//! The fake cloud's Glance. It takes an image's bytes to their end and keeps none of them, but what a Glance reports of
//! them; so the stories over images are the same as on a real cloud, their errors included.
//!
//! As in upstream's fake (`nodepool 11.0.0: driver/fake/adapter.py`), an image whose metadata says `SHOULD_FAIL: 'true'`
//! cannot be uploaded.

use async_trait::async_trait;
use serde_json::{Value, json};

use super::{
    cloud::{FakeCloud, lost_answer, pause, refused, unusable},
    script::FaultDetails,
    stored_image::StoredImage,
};
use crate::{
    checksums::Checksumming,
    openstack::api::{CloudError, Image, ImageData, ImageService, NewImage, Route},
};

/// Upstream's words.
const SHOULD_FAIL: &str = "This image has SHOULD_FAIL set to True.";

fn absent(id: &str) -> CloudError {
    CloudError::answered(404, format!("No image found with ID {id}"))
}

impl FakeCloud {
    /// What the script wants to happen instead.
    fn upload_fault(&self, image: &NewImage) -> Option<FaultDetails> {
        let wanted = image.metadata.get("SHOULD_FAIL").and_then(Value::as_str);
        if wanted.is_some_and(|wanted| wanted.eq_ignore_ascii_case("true")) {
            return Some(FaultDetails { message: Some(SHOULD_FAIL.to_owned()), ..FaultDetails::default() });
        }
        self.lock().director.fault("fail_upload", |script| &script.fail_upload)
    }
}

#[async_trait]
impl ImageService for FakeCloud {
    async fn create_image(&self, image: &NewImage) -> Result<Image, CloudError> {
        self.begin().await?;
        if let Some(mut fault) = self.upload_fault(image) {
            fault.status.get_or_insert(400);
            return Err(refused(&fault, "the upload"));
        }
        let id = self.new_id();
        let mut stored = StoredImage(image.metadata.clone());
        stored.set("id", json!(id));
        stored.set("name", json!(image.name));
        stored.set("disk_format", json!(image.format));
        stored.set("status", json!("queued"));
        let made = stored.image();
        let mut world = self.lock();
        world.images.insert(id.clone(), stored);
        world.write_state(self.provider.as_str()).map_err(unusable)?;
        if world.director.fault("lose_upload", |script| &script.lose_upload).is_some() {
            return Err(lost_answer());
        }
        made.ok_or_else(|| absent(&id))
    }

    async fn get_image(&self, id: &str) -> Result<Option<Image>, CloudError> {
        self.begin().await?;
        Ok(self.lock().images.get(id).and_then(StoredImage::image))
    }

    async fn delete_image(&self, id: &str) -> Result<(), CloudError> {
        self.begin().await?;
        let mut world = self.lock();
        if let Some(fault) = world.director.fault("fail_image_delete", |script| &script.fail_image_delete) {
            return Err(refused(&fault, "the deletion"));
        }
        world.images.remove(id).ok_or_else(|| absent(id))?;
        world.write_state(self.provider.as_str()).map_err(unusable)
    }

    async fn images_with(&self, metadata: &[(&'static str, String)]) -> Result<Vec<Image>, CloudError> {
        self.begin().await?;
        let world = self.lock();
        Ok(world.images.values().filter_map(StoredImage::image).filter(|image| image.has(metadata)).collect())
    }

    async fn send_image(&self, id: &str, _: Route, mut data: ImageData) -> Result<(), CloudError> {
        let hang = self.lock().director.hang("hang_upload", |script| script.hang_upload);
        pause(hang).await;
        let mut checksums = Checksumming::default();
        while let Some(chunk) = data.next().await {
            checksums.update(&chunk);
        }
        self.begin().await?;
        let mut world = self.lock();
        if world.director.fault("corrupt_upload", |script| &script.corrupt_upload).is_some() {
            checksums.update(b"?");
        }
        let has = checksums.finish();
        let stored = world.images.get_mut(id).ok_or_else(|| absent(id))?;
        stored.set("status", json!("active"));
        stored.set("size", json!(has.size));
        stored.set("checksum", json!(has.md5));
        stored.set("os_hash_algo", json!("sha512"));
        stored.set("os_hash_value", json!(has.sha512));
        world.write_state(self.provider.as_str()).map_err(unusable)
    }
}
