//! What the simulated cloud is told to do: sizes, delays, faults.
//!
//! The environment variable `NODEPOOL_FAKE_CLOUD_SCRIPT` names a JSON file. It is read again at each call when its
//! file is another one or has another modification time, which also starts every `times` anew. Its keys are provider names; `"*"` is for all
//! of them, and what a provider's own entry says goes before it:
//!
//! ```json
//! {
//!   "*":             {"boot_delay": 0.1, "api_delay": 0.0},
//!   "fake-provider": {"quota": {"instances": 5}, "fail_boot": {"times": 2, "message": "No valid host was found."}}
//! }
//! ```
//!
//! | key | meaning | default |
//! |---|---|---|
//! | `boot_delay` | seconds from BUILD to ACTIVE | 0.1 |
//! | `api_delay` | seconds that each call takes | 0 |
//! | `quota` | `cores instances ram volumes volume-gb`; -1: unlimited | 100, 20, 1000000, 100, 1000000 |
//! | `azs` | names of the zones | az1, az2 |
//! | `full_azs` | zones without room: a server there goes to ERROR | none |
//! | `images` | names and ids of the images that exist | every one |
//! | `down_ports` | how many leaked ports there are at first | 2 |
//! | `console` | the text of every server's console | none |
//! | `fail_create` | fault: the creation is refused, with `status` (default 500; 403 where `message` speaks of quota). `with_id: true`: a server in ERROR is left behind, and the error names it | |
//! | `lose_create` | fault: the server is created, its answer is lost | |
//! | `fail_boot` | fault: the server goes to ERROR, with `message` as its fault | |
//! | `fail_delete`, `fail_list` | fault: the call is refused with `status` (default 500) | |
//! | `fail_upload` | fault: the upload of an image is refused, with `status` (default 400: no attempt follows) | |
//! | `lose_upload` | fault: the image's record is created, the answer to that is lost | |
//! | `corrupt_upload` | fault: the image becomes active with other data than was sent | |
//! | `fail_image_delete` | fault: the deletion of an image is refused with `status` (default 500) | |
//! | `fail_host_keys` | fault: the host-key scan times out | |
//! | `hang_create` | hang: the call answers so much later | |
//! | `hang_upload` | hang: the data of an image is taken so much later | |
//! | `hang_boot` | hang: the server stays in BUILD so much longer | |
//! | `hang_delete` | hang: the server stays, being deleted, so much longer | |
//! | `state_dir` | directory with one `<provider>.json`, in which servers and images outlive this process | |
//! | `state_file` | the same, as the path of the file | |
//!
//! A *fault* is `{"times": n, "message": "..."}` or `true`; a *hang* is a number of seconds, or `{"times": n,
//! "seconds": s}`. Without `times` it happens each time, without `seconds` it lasts for ever.

use std::{
    collections::HashMap,
    fs::File,
    io::Read as _,
    path::{Path, PathBuf},
};

use serde::Deserialize;
use serde_json::{Map, Value};

use super::version::Version;

/// One provider's part of the script.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Script {
    pub boot_delay: f64,
    pub api_delay: f64,
    pub quota: Quota,
    pub azs: Vec<String>,
    pub full_azs: Vec<String>,
    pub images: Option<Vec<String>>,
    pub down_ports: usize,
    pub console: Option<String>,
    pub fail_create: Option<Fault>,
    pub lose_create: Option<Fault>,
    pub fail_boot: Option<Fault>,
    pub fail_delete: Option<Fault>,
    pub fail_list: Option<Fault>,
    pub fail_upload: Option<Fault>,
    pub lose_upload: Option<Fault>,
    pub corrupt_upload: Option<Fault>,
    pub fail_image_delete: Option<Fault>,
    pub fail_host_keys: Option<Fault>,
    pub hang_create: Option<Hang>,
    pub hang_upload: Option<Hang>,
    pub hang_boot: Option<Hang>,
    pub hang_delete: Option<Hang>,
    pub state_dir: Option<PathBuf>,
    pub state_file: Option<PathBuf>,
}

impl Default for Script {
    fn default() -> Self {
        Self {
            boot_delay: 0.1,
            api_delay: 0.0,
            quota: Quota::default(),
            azs: vec!["az1".to_owned(), "az2".to_owned()],
            full_azs: Vec::new(),
            images: None,
            down_ports: 2,
            console: None,
            fail_create: None,
            lose_create: None,
            fail_boot: None,
            fail_delete: None,
            fail_list: None,
            fail_upload: None,
            lose_upload: None,
            corrupt_upload: None,
            fail_image_delete: None,
            fail_host_keys: None,
            hang_create: None,
            hang_upload: None,
            hang_boot: None,
            hang_delete: None,
            state_dir: None,
            state_file: None,
        }
    }
}

/// Upstream's fake amounts.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct Quota {
    pub cores: f64,
    pub instances: f64,
    pub ram: f64,
    pub volumes: f64,
    pub volume_gb: f64,
}

impl Default for Quota {
    fn default() -> Self {
        Self { cores: 100.0, instances: 20.0, ram: 1_000_000.0, volumes: 100.0, volume_gb: 1_000_000.0 }
    }
}

/// See the module's comment.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
pub(crate) enum Fault {
    Always(bool),
    Some(FaultDetails),
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct FaultDetails {
    pub times: Option<u64>,
    pub message: Option<String>,
    pub status: Option<u16>,
    pub with_id: bool,
}

/// See the module's comment.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(untagged)]
pub(crate) enum Hang {
    Seconds(f64),
    Some { times: Option<u64>, seconds: Option<f64> },
}

/// The script as last read, and how often each of its faults has happened.
#[derive(Debug, Default)]
pub(crate) struct Director {
    path: Option<PathBuf>,
    read: Option<Version>,
    pub script: Script,
    happened: HashMap<&'static str, u64>,
}

impl Director {
    pub fn new(path: Option<PathBuf>) -> Self {
        Self { path, ..Self::default() }
    }

    /// Reads the script if it has changed.
    pub fn refresh(&mut self, provider: &str) -> Result<(), String> {
        let Some(path) = &self.path else { return Ok(()) };
        let cannot = |error| format!("cannot read the fake cloud's script {}: {error}", path.display());
        let file = File::open(path).map_err(cannot)?;
        // Of the file that is read, which may not be there any more under its name.
        let version = file.metadata().and_then(|metadata| Version::of(&metadata)).map_err(cannot)?;
        if self.read.as_ref() == Some(&version) {
            return Ok(());
        }
        self.script = read(file, path, provider)?;
        self.read = Some(version);
        self.happened.clear();
        Ok(())
    }

    fn once_more(&mut self, name: &'static str, times: Option<u64>) -> bool {
        let happened = self.happened.entry(name).or_default();
        let again = times.is_none_or(|times| *happened < times);
        *happened += u64::from(again);
        again
    }

    /// The fault, if it is to happen now.
    pub fn fault(&mut self, name: &'static str, of: impl Fn(&Script) -> &Option<Fault>) -> Option<FaultDetails> {
        let details = match of(&self.script).as_ref()? {
            Fault::Always(true) => FaultDetails::default(),
            Fault::Always(false) => return None,
            Fault::Some(details) => details.clone(),
        };
        self.once_more(name, details.times).then_some(details)
    }

    /// How many seconds to hang now; infinite: for ever.
    pub fn hang(&mut self, name: &'static str, of: impl Fn(&Script) -> Option<Hang>) -> f64 {
        match of(&self.script) {
            Some(Hang::Seconds(seconds)) => seconds,
            Some(Hang::Some { times, seconds }) if self.once_more(name, times) => seconds.unwrap_or(f64::INFINITY),
            None | Some(Hang::Some { .. }) => 0.0,
        }
    }

    /// Where servers are kept, if anywhere.
    pub fn state_file(&self, provider: &str) -> Option<PathBuf> {
        let in_dir = || Some(self.script.state_dir.as_ref()?.join(format!("{provider}.json")));
        self.script.state_file.clone().or_else(in_dir)
    }
}

fn read(mut file: File, path: &Path, provider: &str) -> Result<Script, String> {
    let say = |error: &dyn std::fmt::Display| format!("cannot use the fake cloud's script {}: {error}", path.display());
    let mut data = Vec::new();
    file.read_to_end(&mut data).map_err(|error| say(&error))?;
    let all: Map<String, Value> = serde_json::from_slice(&data).map_err(|error| say(&error))?;
    let mut merged = Map::new();
    for name in ["*", provider] {
        if let Some(part) = all.get(name).and_then(Value::as_object) {
            merged.extend(part.clone());
        }
    }
    serde_json::from_value(Value::Object(merged)).map_err(|error| say(&error))
}
