//! Builds of diskimages and their uploads: the launcher reads them, the builder writes them.

use serde_json::{Map, Value, json};

use super::{
    BuildId, ImageName, ProviderName, Timestamp, UploadId, states,
    wire::{Reading, RecordError, to_python_json},
};

states! {
    /// The states of a build (zookeeper.md 4.4).
    BuildState {
        /// `dib-cmd` is running.
        Building = "building",
        /// Its files are complete.
        Ready = "ready",
        /// To be removed with its uploads and files.
        Deleting = "deleting",
        /// `dib-cmd` failed.
        Failed = "failed",
    }
}

states! {
    /// The states of an upload (zookeeper.md 4.5).
    UploadState {
        /// Bytes are on their way.
        Uploading = "uploading",
        /// Usable in the provider.
        Ready = "ready",
        /// To be removed from the provider.
        Deleting = "deleting",
        /// Did not arrive.
        Failed = "failed",
    }
}

/// A build of a diskimage (zookeeper.md 4.4).
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs)] // each field is the key of its name in zookeeper.md 4.4
pub struct ImageBuild {
    pub image: ImageName,
    pub id: BuildId,
    pub state: BuildState,
    pub state_time: Timestamp,
    pub builder: Option<String>,
    pub builder_id: Option<String>,
    pub formats: Vec<String>,
    pub username: Option<String>,
    pub python_path: Option<String>,
    pub shell_type: Option<String>,
    /// Keys of others.
    pub extra: Map<String, Value>,
}

impl ImageBuild {
    /// Reads a record; the second value lists keys that had to be read as absent.
    pub fn read(image: ImageName, id: BuildId, data: &[u8]) -> Result<(Self, Vec<String>), RecordError> {
        let mut r = Reading::new(data)?;
        let state = r.state(BuildState::parse)?;
        let mut build = Self {
            image,
            id,
            state,
            state_time: r.number("state_time").unwrap_or(0.0),
            builder: r.text("builder"),
            builder_id: r.text("builder_id"),
            formats: r
                .text("formats")
                .map(|text| text.split(',').filter(|f| !f.is_empty()).map(str::to_owned).collect())
                .unwrap_or_default(),
            username: r.text("username"),
            python_path: r.text("python_path"),
            shell_type: r.text("shell_type"),
            extra: Map::new(),
        };
        let (extra, oddities) = r.rest();
        build.extra = extra;
        Ok((build, oddities))
    }
}

/// An upload of a build to a provider (zookeeper.md 4.5).
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs)] // each field is the key of its name in zookeeper.md 4.5
pub struct ImageUpload {
    pub image: ImageName,
    pub build: BuildId,
    pub provider: ProviderName,
    pub id: UploadId,
    pub state: UploadState,
    pub state_time: Timestamp,
    pub external_id: Option<String>,
    pub external_name: Option<String>,
    pub format: Option<String>,
    pub username: Option<String>,
    pub python_path: Option<String>,
    pub shell_type: Option<String>,
    /// Keys of others.
    pub extra: Map<String, Value>,
}

impl ImageUpload {
    /// Reads a record; the second value lists keys that had to be read as absent.
    pub fn read(
        image: ImageName,
        build: BuildId,
        provider: ProviderName,
        id: UploadId,
        data: &[u8],
    ) -> Result<(Self, Vec<String>), RecordError> {
        let mut r = Reading::new(data)?;
        let state = r.state(UploadState::parse)?;
        let mut upload = Self {
            image,
            build,
            provider,
            id,
            state,
            state_time: r.number("state_time").unwrap_or(0.0),
            external_id: r.text("external_id"),
            external_name: r.text("external_name"),
            format: r.text("format"),
            username: r.text("username"),
            python_path: r.text("python_path"),
            shell_type: r.text("shell_type"),
            extra: Map::new(),
        };
        let (extra, oddities) = r.rest();
        upload.extra = extra;
        Ok((upload, oddities))
    }

    /// The record's bytes: upstream's 8 keys in upstream's order, then those of others.
    pub fn write(&self) -> Vec<u8> {
        let Value::Object(mut map) = json!({
            "state": self.state.as_str(),
            "state_time": self.state_time,
            "external_id": self.external_id,
            "external_name": self.external_name,
            "format": self.format,
            "username": self.username,
            "python_path": self.python_path,
            "shell_type": self.shell_type,
        }) else {
            return Vec::new();
        };
        map.extend(self.extra.clone());
        to_python_json(&map)
    }

    /// The upload's znode, which a node made from it names as its `image_id`.
    pub fn path(&self) -> String {
        format!("/nodepool/images/{}/builds/{}/providers/{}/images/{}", self.image, self.build, self.provider, self.id)
    }
}
