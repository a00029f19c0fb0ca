//! Images of the builder's: what they are called and made as, and their way in and out.

use nodepool_common::model::{ImageName, Json, UploadId};

use super::{errors::Result, image_upload, shared::OpenStackProvider};
use crate::{CloudResource, ErrorClass, ImageToUpload, ResourceKind, format::fill, openstack::api::CloudError};

/// Where clouds.yaml names no `image_format` (openstacksdk: config/defaults.json).
const FORMAT: &str = "qcow2";

impl OpenStackProvider {
    pub(super) fn wanted_image_format(&self) -> Result<String> {
        match (self.image_format)() {
            Ok(format) => Ok(format.unwrap_or_else(|| FORMAT.to_owned())),
            Err(_) if self.cloud.is_simulated() => Ok(FORMAT.to_owned()),
            Err(error) => Err(self.error("choosing the image format (image_format of clouds.yaml)")(error)),
        }
    }

    pub(super) fn fill_image_name(&self, image: &ImageName, upload: &UploadId, at: u64) -> Result<String> {
        let template = &self.config.image_name_format;
        let part = |name: &str| match name {
            "image_name" => Ok(Json::of(image)),
            "upload_id" => Ok(Json::of(upload)),
            "timestamp" => Ok(Json::of(&at.to_string())),
            _ => Err(format!("{{{name}}}: only `image_name`, `upload_id` and `timestamp` can be used")),
        };
        fill(template, &part).map_err(|error| {
            let doing = format!("naming upload {upload} of image {image}");
            self.error(doing)(CloudError::new(ErrorClass::Config, format!("image-name-format {template:?}: {error}")))
        })
    }

    pub(super) async fn upload(&self, image: &ImageToUpload) -> Result<String> {
        let limit = self.config.image_upload_timeout;
        let uploaded = image_upload::upload(&self.cloud, &self.name, image, limit, self.entropy.seed()).await;
        uploaded.map_err(self.error(format_args!("uploading {} as image {}", image.path.display(), image.name)))
    }

    pub(super) async fn delete_uploaded(&self, id: &str) -> Result<()> {
        image_upload::delete(&*self.cloud, id).await.map_err(self.error(format_args!("deleting image {id}")))
    }

    pub(super) async fn list_uploaded(&self) -> Result<Vec<CloudResource>> {
        let ours = [("nodepool_provider_name", self.name.to_string())];
        let images = self.cloud.images_with(&ours).await.map_err(self.error("listing images"))?;
        Ok(images.into_iter().map(|image| CloudResource::of(ResourceKind::Image, image.id, image.metadata)).collect())
    }
}
