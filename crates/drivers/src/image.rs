//! [`ImageToUpload`]: a file that is to become an image of a cloud.

use std::{collections::BTreeMap, path::PathBuf};

use nodepool_common::model::{BuildId, ProviderName, UploadId};
use serde_json::{Map, Value};

/// One upload of one build, as its record describes it (`nodepool 11.0.0: builder.py _uploadImage`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageToUpload {
    /// Its name in the cloud: [`Provider::image_name`](crate::Provider::image_name).
    pub name: String,
    /// A regular file that nobody writes to.
    pub path: PathBuf,
    /// qcow2, raw, vhd, …: [`Provider::image_format`](crate::Provider::image_format).
    pub format: String,
    /// The build that the file is of.
    pub build: BuildId,
    /// The upload's number.
    pub upload: UploadId,
    /// `metadata` of the diskimage, overlaid by `meta` of the provider's.
    pub properties: BTreeMap<String, String>,
    /// In hexadecimal digits, where the build left it beside the file; the upload fails if the file has another.
    pub md5: Option<String>,
    /// Likewise.
    pub sha256: Option<String>,
}

impl ImageToUpload {
    /// The properties and the three by which the image is found again, which go before them.
    pub fn metadata(&self, provider: &ProviderName) -> Map<String, Value> {
        let properties = self.properties.iter().map(|(key, value)| (key.clone(), value.as_str().into()));
        let marks = self.marks(provider).map(|(key, value)| (key.to_owned(), value.into()));
        properties.chain(marks).collect()
    }

    /// The metadata by which the image of this very upload is found again, whoever made it
    /// (`nodepool 11.0.0: driver/statemachine.py uploadImage`).
    pub fn marks(&self, provider: &ProviderName) -> [(&'static str, String); 3] {
        [
            ("nodepool_build_id", self.build.to_string()),
            ("nodepool_upload_id", self.upload.to_string()),
            ("nodepool_provider_name", provider.to_string()),
        ]
    }
}
