//! Builds of diskimages and their uploads: the launcher reads them, the builder writes them.

use super::{
    BuildId, ImageName, ProviderName, Timestamp, UploadId, states,
    wire::{Extra, OurKeys, Reading, RecordError},
};

states! {
    /// The states of a build.
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

/// An upload's place in the tree.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[allow(missing_docs)]
pub struct UploadKey {
    pub image: ImageName,
    pub provider: ProviderName,
    pub build: BuildId,
    pub id: UploadId,
}

states! {
    /// The states of an upload.
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

/// A build of a diskimage.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs)] // each field is the key of its name
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
    /// What is not ours to change.
    pub extra: Extra,
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
            extra: Extra::default(),
        };
        let (extra, oddities) = r.rest(&build.ours());
        build.extra = extra;
        Ok((build, oddities))
    }

    /// A build that begins.
    pub fn begun(image: ImageName, id: BuildId, now: Timestamp) -> Self {
        Self {
            image,
            id,
            state: BuildState::Building,
            state_time: now,
            builder: None,
            builder_id: None,
            formats: Vec::new(),
            username: None,
            python_path: None,
            shell_type: None,
            extra: Extra::default(),
        }
    }

    /// A new state, with its time.
    pub const fn set_state(&mut self, state: BuildState, now: Timestamp) {
        self.state = state;
        self.state_time = now;
    }

    /// Why it failed: a key of ours, which Python Nodepool ignores.
    pub fn reason(&self) -> Option<String> {
        self.extra.get(REASON)?.text()
    }

    /// Says why it failed.
    pub fn set_reason(&mut self, reason: &str) {
        self.extra.set(REASON, &shortened(reason));
    }

    /// The record's bytes: upstream's keys in upstream's order, those without a value left out as there, then those of
    /// others.
    pub fn write(&self) -> Vec<u8> {
        self.extra.complete(&self.ours()).into_bytes()
    }

    fn ours(&self) -> OurKeys {
        let mut ours = OurKeys::of(8).with("state", self.state.as_str()).with("state_time", &self.state_time);
        let formats = {
            let mut formats: Vec<&str> = self.formats.iter().map(String::as_str).collect();
            formats.sort_unstable();
            Some(formats.join(",")).filter(|formats| !formats.is_empty())
        };
        let optional = [("builder", &self.builder), ("builder_id", &self.builder_id), ("formats", &formats)];
        for (key, value) in optional {
            if let Some(value) = value {
                ours = ours.with(key, value);
            }
        }
        ours.with("username", &self.username)
            .with("python_path", &self.python_path)
            .with("shell_type", &self.shell_type)
    }
}

/// A reason that fits a record: beginning and end of a long one. A cloud may answer with a page, a hook with a log.
fn shortened(reason: &str) -> String {
    const HALF: usize = 1000;
    let count = reason.chars().count();
    if count <= 2 * HALF {
        return reason.to_owned();
    }
    let (start, end): (String, String) =
        (reason.chars().take(HALF).collect(), reason.chars().skip(count - HALF).collect());
    format!("{start} […] {end}")
}

/// Beyond upstream's keys: why a build or an upload failed.
const REASON: &str = "reason";

/// An upload of a build to a provider.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs)] // each field is the key of its name
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
    /// What is not ours to change.
    pub extra: Extra,
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
            extra: Extra::default(),
        };
        let (extra, oddities) = r.rest(&upload.ours());
        upload.extra = extra;
        Ok((upload, oddities))
    }

    /// A new state, with its time.
    pub const fn set_state(&mut self, state: UploadState, now: Timestamp) {
        self.state = state;
        self.state_time = now;
    }

    /// Why it failed: a key of ours, which Python Nodepool ignores.
    pub fn reason(&self) -> Option<String> {
        self.extra.get(REASON)?.text()
    }

    /// Says why it failed.
    pub fn set_reason(&mut self, reason: &str) {
        self.extra.set(REASON, &shortened(reason));
    }

    /// Its place in the tree.
    pub fn key(&self) -> UploadKey {
        UploadKey {
            image: self.image.clone(),
            provider: self.provider.clone(),
            build: self.build.clone(),
            id: self.id.clone(),
        }
    }

    /// The record's bytes: upstream's 8 keys in upstream's order, then those of others.
    pub fn write(&self) -> Vec<u8> {
        self.extra.complete(&self.ours()).into_bytes()
    }

    fn ours(&self) -> OurKeys {
        OurKeys::of(8)
            .with("state", self.state.as_str())
            .with("state_time", &self.state_time)
            .with("external_id", &self.external_id)
            .with("external_name", &self.external_name)
            .with("format", &self.format)
            .with("username", &self.username)
            .with("python_path", &self.python_path)
            .with("shell_type", &self.shell_type)
    }

    /// The upload's znode, which a node made from it names as its `image_id`.
    pub fn path(&self) -> String {
        format!("/nodepool/images/{}/builds/{}/providers/{}/images/{}", self.image, self.build, self.provider, self.id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(bytes: Vec<u8>) -> String {
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn a_build_is_written_as_upstream_writes_it() {
        let mut build = ImageBuild::begun("i".into(), "b".into(), 1_760_000_000.25);
        build.builder = Some("b1.example".to_owned());
        build.builder_id = Some("3f0a".to_owned());
        build.formats = vec!["raw".to_owned(), "qcow2".to_owned()];
        assert_eq!(
            text(build.write()),
            r#"{"state": "building", "state_time": 1760000000.25, "builder": "b1.example", "builder_id": "3f0a", "#
                .to_owned()
                + r#""formats": "qcow2,raw", "username": null, "python_path": null, "shell_type": null}"#
        );
        build.set_state(BuildState::Failed, 2.0);
        build.formats.clear();
        build.set_reason("exit code 1");
        assert_eq!(
            text(build.write()),
            r#"{"state": "failed", "state_time": 2.0, "builder": "b1.example", "builder_id": "3f0a", "#.to_owned()
                + r#""username": null, "python_path": null, "shell_type": null, "reason": "exit code 1"}"#
        );
        let mut long = build.clone();
        long.set_reason(&"é".repeat(1_000_000));
        assert!(long.write().len() < 20_000, "ZooKeeper takes no large record");
        let (read, oddities) = ImageBuild::read("i".into(), "b".into(), &build.write()).unwrap();
        assert_eq!(read.reason().as_deref(), Some("exit code 1"));
        assert_eq!((read, oddities.len()), (build, 0));
    }
}
