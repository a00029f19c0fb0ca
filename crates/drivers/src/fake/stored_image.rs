//! [`StoredImage`]: an image as the fake cloud keeps it.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::openstack::api::Image;

/// An image, as Glance's document.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct StoredImage(pub Map<String, Value>);

impl StoredImage {
    /// As the driver sees it.
    pub fn image(&self) -> Option<Image> {
        Image::read(&Value::Object(self.0.clone()))
    }

    /// Sets a key of the document.
    pub fn set(&mut self, key: &str, value: Value) {
        self.0.insert(key.to_owned(), value);
    }
}
