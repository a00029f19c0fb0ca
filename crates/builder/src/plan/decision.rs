//! What the planner says.

use std::{collections::BTreeMap, fmt};

use nodepool_common::model::{BuildId, BuildState, HeldBack, ImageName, ProviderName, Timestamp, UploadKey};

/// Why an image is built; the more urgent first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Why {
    /// `image-build`.
    Requested,
    /// There is no ready build.
    NoBuild,
    /// The newest ready build lacks a format.
    Formats,
    /// The newest ready build is this builder's own, and its file for a provider that lacks it is gone.
    FilesLost,
    /// The newest ready build is as old as `rebuild-age`.
    Age,
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Requested => "somebody asked for it (image-build)",
            Self::NoBuild => "it has no ready build",
            Self::Formats => "its newest build lacks a format",
            Self::FilesLost => {
                "the files of its newest build, which this builder made, are no longer in images-dir, and a provider lacks it"
            }
            Self::Age => "its newest build has reached rebuild-age",
        })
    }
}

/// What an action of retirement works on.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Subject {
    /// A build's record.
    Build(ImageName, BuildId),
    /// An upload's record and its image in the cloud.
    Upload(UploadKey),
    /// A build's files.
    Files(ImageName, BuildId),
}

/// One step. Each carries what it is about; the action reads it again under its lock.
#[derive(Clone, Debug, PartialEq)]
pub enum Decision {
    /// Build an image in these formats.
    Build {
        /// Which.
        image: ImageName,
        /// Sorted.
        formats: Vec<String>,
        /// Its newest ready build by now: if there is a newer one under the lock, somebody else was faster.
        newest: Option<BuildId>,
        /// Why.
        why: Why,
    },
    /// Upload a build's file of that format to a provider.
    Upload {
        /// Of which image.
        image: ImageName,
        /// Which build.
        build: BuildId,
        /// Where to.
        provider: ProviderName,
        /// The file's extension.
        format: String,
    },
    /// Mark an upload for deletion, delete its image in the cloud, then its record.
    DeleteUpload {
        /// Which.
        key: UploadKey,
        /// Why.
        reason: String,
    },
    /// Remove what an upload that nobody works on has left: its image in the cloud, found by its marks, then its record.
    ForgetUpload {
        /// Which.
        key: UploadKey,
    },
    /// Mark a build for deletion.
    RetireBuild {
        /// Of which image.
        image: ImageName,
        /// Which.
        build: BuildId,
        /// The state that it was decided for: what is in another one by now is not retired for that reason.
        state: BuildState,
        /// Why.
        reason: String,
    },
    /// Delete the record of a build that has no upload left.
    DeleteBuild {
        /// Of which image.
        image: ImageName,
        /// Which.
        build: BuildId,
    },
    /// Remove a record without data.
    RemoveEmpty {
        /// A build or an upload.
        what: Subject,
    },
    /// Delete a build's files: all of them, or those of some formats.
    DeleteFiles {
        /// Of which image.
        image: ImageName,
        /// Which build's.
        build: BuildId,
        /// `None`: all, with the manifest.
        formats: Option<Vec<String>>,
        /// Why.
        reason: String,
    },
}

impl Decision {
    /// What an action of retirement works on; `None` for builds and uploads.
    pub fn subject(&self) -> Option<Subject> {
        match self {
            Self::Build { .. } | Self::Upload { .. } => None,
            Self::DeleteUpload { key, .. } | Self::ForgetUpload { key } => Some(Subject::Upload(key.clone())),
            Self::RetireBuild { image, build, .. } | Self::DeleteBuild { image, build } => {
                Some(Subject::Build(image.clone(), build.clone()))
            }
            Self::RemoveEmpty { what } => Some(what.clone()),
            Self::DeleteFiles { image, build, .. } => Some(Subject::Files(image.clone(), build.clone())),
        }
    }
}

/// What to do now.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Plan {
    /// In the order in which they should be begun.
    pub decisions: Vec<Decision>,
    /// When to plan again at the latest; seconds since the epoch.
    pub wake_at: Option<Timestamp>,
    /// Every deletion that is called for, begun or not, and since when.
    pub wanted: BTreeMap<Subject, Timestamp>,
    /// What is to be on record as held back; `None`: nobody has looked.
    pub held_back: Option<Option<HeldBack>>,
}

impl Plan {
    /// Something may change at that time.
    pub(super) fn wake(&mut self, at: Timestamp) {
        self.wake_at = Some(self.wake_at.map_or(at, |known| known.min(at)));
    }
}
