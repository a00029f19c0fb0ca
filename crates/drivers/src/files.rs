//! [`Fingerprint`]: whether files that we have read have changed since.

use std::{path::PathBuf, time::SystemTime};

/// What a set of files looked like at one moment, those that are not there included.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Fingerprint {
    paths: Vec<PathBuf>,
    looks: Vec<Option<(u64, u64, SystemTime)>>,
}

impl Fingerprint {
    /// Of these files, as they are now.
    pub fn of(paths: Vec<PathBuf>) -> Self {
        let looks = looks(&paths);
        Self { paths, looks }
    }

    /// Whether any of the files was made, changed, replaced or removed since.
    pub fn has_changed(&self) -> bool {
        looks(&self.paths) != self.looks
    }
}

fn looks(paths: &[PathBuf]) -> Vec<Option<(u64, u64, SystemTime)>> {
    use std::os::unix::fs::MetadataExt;
    let look = |path: &PathBuf| {
        let metadata = std::fs::metadata(path).ok()?;
        Some((metadata.ino(), metadata.len(), metadata.modified().ok()?))
    };
    paths.iter().map(look).collect()
}
