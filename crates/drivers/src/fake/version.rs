//! [`Version`]: whether a file is still the one that was read.

use std::{fs::Metadata, io, os::unix::fs::MetadataExt as _, time::SystemTime};

/// Which state of a file it is. The time alone is too coarse for two writes close together; who writes aside and renames
/// makes a new file each time.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Version {
    modified: SystemTime,
    inode: u64,
}

impl Version {
    pub fn of(metadata: &Metadata) -> io::Result<Self> {
        Ok(Self { modified: metadata.modified()?, inode: metadata.ino() })
    }
}
