//! What the processes of one build share: a directory of its own, which its guard removes.
//!
//! ```text
//!   build.json    the mark of the build, the real programs, what each known host needs
//!   bin/          ssh, sftp, scp: all of them ourselves
//!   control/      Ansible's sockets of shared connections
//!   calls/        (while targets are found out) one file for each call of ssh
//!   hosts/        (while the playbook runs) how each host was reached
//!   notes         what must be ended and removed there beside what carries the mark
//! ```

use std::{
    fs, io,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
};

use nodepool_common::config::ImageBuilder;
use serde::{Deserialize, Serialize};
use tempfile::TempDir;

use super::executable::executable;
use crate::scratch;

/// Names the directory to the processes below ansible-playbook.
pub const VARIABLE: &str = "NODEPOOL_DIB_ANSIBLE";
/// The environment variable that each remote process carries, with the build's mark as its value.
pub const MARK: &str = "NODEPOOL_BUILD";
/// How the directory's name begins.
const PREFIX: &str = "nodepool-ansible-";
/// The programs whose place we take.
pub const PROGRAMS: [&str; 3] = ["ssh", "sftp", "scp"];

/// One of `image-builders`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[allow(missing_docs)] // as config::ImageBuilder
pub struct Declared {
    pub name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub username: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub host_keys: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_free: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub directory: Option<PathBuf>,
}

impl From<&ImageBuilder> for Declared {
    fn from(from: &ImageBuilder) -> Self {
        Self {
            name: from.name.clone(),
            host: from.host.clone(),
            port: from.port,
            username: from.username.clone(),
            host_keys: from.host_keys.clone(),
            min_free: from.min_free,
            directory: from.directory.clone(),
        }
    }
}

/// What ssh is to do in our place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Mode {
    /// Note how it was called, and succeed.
    Record,
    /// Connect to the host.
    Connect,
}

/// `build.json`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Build {
    /// The value of [`MARK`].
    pub mark: String,
    /// What ssh is to do.
    pub mode: Mode,
    /// The real programs by name, as far as they are installed.
    pub programs: Vec<(String, PathBuf)>,
    /// Hosts whose key was checked.
    pub hosts: Vec<HostOptions>,
}

/// What ssh gets for a host whose key was checked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostOptions {
    /// As `ssh -G` tells it.
    pub hostname: String,
    /// The port, as `ssh -G` tells it.
    pub port: u16,
    /// To stand before all others: of several values ssh takes the first.
    pub options: Vec<String>,
}

/// The directory of a build.
#[derive(Clone, Debug)]
pub struct State {
    /// Where it is.
    pub directory: PathBuf,
}

impl State {
    /// Makes the directory, with everything but `build.json`. It is removed with the guard returned. `beside`: where it is
    /// made if temporary files have no other place.
    pub fn make(beside: Option<&Path>) -> io::Result<(Self, TempDir)> {
        let directory = scratch::directory(PREFIX, beside)?;
        let state = Self { directory: directory.path().to_owned() };
        let ours = executable()?;
        for sub in ["bin", "control", "calls", "hosts"] {
            fs::create_dir(state.path(sub))?;
        }
        for program in PROGRAMS {
            symlink(&ours, state.path("bin").join(program))?;
        }
        Ok((state, directory))
    }

    /// A path in it.
    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    /// Reads `build.json`.
    pub fn build(&self) -> io::Result<Build> {
        Ok(serde_json::from_slice(&fs::read(self.path("build.json"))?)?)
    }

    /// Writes `build.json`.
    pub fn set_build(&self, build: &Build) -> io::Result<()> {
        fs::write(self.path("build.json"), serde_json::to_vec(build)?)
    }
}

/// A program that the search path has, but for `not`.
pub fn find_program(name: &str, not: Option<&Path>) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path)
        .filter(|directory| not != Some(directory.as_path()))
        .map(|directory| directory.join(name))
        .find(|path| is_program(path))
}

/// Whether this is a file that may be executed.
pub fn is_program(path: &Path) -> bool {
    path.is_file() && nix::unistd::access(path, nix::unistd::AccessFlags::X_OK).is_ok()
}
