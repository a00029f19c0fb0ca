//! Noticing that the configuration has changed, and that whoever writes it has finished.
//!
//! The operator rewrites the file in place, not by a rename, so at any moment it may be half there: gone, empty, cut off
//! in the middle of a line, or cut off where the rest happens to be a valid configuration with fewer providers. A
//! change is therefore taken when the files have stood still: at once if they are older than a second, else when the
//! next poll finds them unchanged; an invalid file is reported when two polls have found the same one; and one that
//! has lost all its providers is believed only when it is two seconds old. Each is reported once. Polled once a second,
//! an ordinary change is taken within two.
//!
//! What belongs together may be in two files, nodepool.yaml and that of our own keys ([`extensions`]), which the operator
//! replaces one after the other: the second by `git reset`, in its clone, then nodepool.yaml from what is there.
//! So a change of the second alone is taken when it has stood still for three seconds; usually the
//! change of nodepool.yaml comes first, and both are taken at once. Should it come later, then what counts meanwhile is the
//! new second with the old nodepool.yaml, and the next load mends that: an entry that finds nothing is a warning.

use std::{
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use super::{
    ConfigErrors, Loaded,
    extensions::{self, Extensions},
    load_with,
};
use crate::sys::clock::files_now;

/// What a poll found.
#[derive(Debug)]
pub enum Poll {
    /// Nothing new.
    Unchanged,
    /// The files have changed, and are perhaps still being written; the next poll will tell.
    Settling,
    /// A new configuration.
    Changed(Loaded),
    /// The files have changed and cannot be used; the configuration in force stays. Said once for each change.
    Invalid(ConfigErrors),
}

/// Watches the configuration file, the secure file and the one with our own keys.
#[derive(Debug)]
pub struct Watcher {
    path: PathBuf,
    secure: Option<PathBuf>,
    /// Where a file with our own keys may be.
    second: Vec<PathBuf>,
    /// That file as it was when it could be used last; `None`: there was none.
    good: Option<Extensions>,
    /// What was last reported as loaded or as invalid.
    settled: Stamps,
    /// What has been seen since, and in how many polls.
    pending: Option<(Stamps, u32)>,
    /// Whether the last configuration had providers to lose.
    had_providers: bool,
}

/// The stamps of the configuration file, the secure file, and of each that may have our own keys.
type Stamps = Vec<Option<Stamp>>;

/// How many of [`Stamps`] are those of files that mean something without the others.
const WHOLE: usize = 2;

/// For how long files must have stood still: they are as old, or that many polls have found them so.
struct Calm {
    age: Duration,
    polls: u32,
}

/// What identifies one version of a file. (Upstream looks at the time alone.)
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    modified: SystemTime,
    size: u64,
    device: u64,
    inode: u64,
}

impl Stamp {
    /// `None`: there is no such file, or it cannot be looked at.
    fn of(path: &Path) -> Option<Self> {
        let metadata = fs::metadata(path).ok()?;
        let (device, inode) = (metadata.dev(), metadata.ino());
        Some(Self { modified: metadata.modified().ok()?, size: metadata.len(), device, inode })
    }
}

impl Watcher {
    /// Loads the configuration and watches its files from before they were read: what changes meanwhile or afterwards is
    /// seen by a poll.
    pub fn load(path: &Path, secure: Option<&Path>) -> Result<(Self, Loaded), ConfigErrors> {
        let mut watcher = Self::new(path, secure.map(Path::to_owned));
        let (loaded, second) = watcher.read()?;
        watcher.take(&loaded, second);
        Ok((watcher, loaded))
    }

    /// Takes the files as they are now for known.
    pub(super) fn new(path: impl Into<PathBuf>, secure: Option<PathBuf>) -> Self {
        let path = path.into();
        let second = extensions::places(&path);
        let settled = Vec::new();
        let mut watcher = Self { path, secure, second, good: None, settled, pending: None, had_providers: true };
        watcher.settled = watcher.stamps();
        watcher
    }

    /// Loads the files as they are now; with the one of our own keys.
    fn read(&self) -> Result<(Loaded, Option<Extensions>), ConfigErrors> {
        let second = extensions::first_of(&self.second).map(Extensions::read);
        let loaded = load_with(&self.path, self.secure.as_deref(), second.as_ref(), self.good.as_ref())?;
        Ok((loaded, second))
    }

    /// Remembers what is in force from now on.
    fn take(&mut self, loaded: &Loaded, second: Option<Extensions>) {
        self.had_providers = !is_bare(loaded);
        if loaded.broken_extensions.is_none() {
            self.good = second;
        }
    }

    /// Looks at the files. To be called once a second.
    pub fn poll(&mut self) -> Poll {
        self.poll_at(files_now())
    }

    /// Whether the files are others than those last reported: a poll will soon tell what they say. Until then, what is
    /// not urgent had better wait; upstream's builder reads a changed file before it begins anything.
    #[must_use]
    pub fn is_behind(&self) -> bool {
        self.stamps() != self.settled
    }

    pub(super) fn poll_at(&mut self, now: SystemTime) -> Poll {
        let stamps = self.stamps();
        if stamps == self.settled {
            self.pending = None;
            return Poll::Unchanged;
        }
        let polls = match &self.pending {
            Some((pending, polls)) if *pending == stamps => polls.saturating_add(1),
            _ => 1,
        };
        self.pending = Some((stamps.clone(), polls));
        let age = self.age(&stamps, now);
        let calm = self.calm(&stamps);
        if polls < calm.polls && age < calm.age {
            return Poll::Settling;
        }
        let result = self.read();
        let after = self.stamps();
        if after != stamps {
            self.pending = Some((after, 1)); // it was written while we read it
            return Poll::Settling;
        }
        match result {
            // With a clock that went back the file may seem young for long: three polls do as well.
            Ok((loaded, _)) if self.had_providers && is_bare(&loaded) && age < Duration::from_secs(2) && polls < 3 => {
                Poll::Settling
            }
            Ok((loaded, _)) if loaded.broken_extensions.is_some() && polls < 2 => Poll::Settling,
            Ok((loaded, second)) => {
                self.settle(stamps);
                self.take(&loaded, second);
                Poll::Changed(loaded)
            }
            Err(_) if polls < 2 => Poll::Settling,
            Err(errors) => {
                self.settle(stamps);
                Poll::Invalid(errors)
            }
        }
    }

    fn settle(&mut self, stamps: Stamps) {
        self.settled = stamps;
        self.pending = None;
    }

    fn stamps(&self) -> Stamps {
        let whole = [Stamp::of(&self.path), self.secure.as_deref().and_then(Stamp::of)];
        whole.into_iter().chain(self.second.iter().map(|path| Stamp::of(path))).collect()
    }

    fn calm(&self, stamps: &Stamps) -> Calm {
        if stamps.iter().take(WHOLE).eq(self.settled.iter().take(WHOLE)) {
            Calm { age: Duration::from_secs(3), polls: 4 }
        } else {
            Calm { age: Duration::from_secs(1), polls: 2 }
        }
    }

    /// The time since the last change of a file that has changed; zero for one from the future or one that is gone.
    fn age(&self, stamps: &Stamps, now: SystemTime) -> Duration {
        let changed = stamps.iter().zip(&self.settled).filter(|(new, old)| new != old);
        let age = |stamp: &Option<Stamp>| stamp.and_then(|stamp| now.duration_since(stamp.modified).ok());
        changed.map(|(new, _)| age(new).unwrap_or_default()).min().unwrap_or_default()
    }
}

/// No providers at all, not even broken ones: what a file looks like whose end has not been written yet.
fn is_bare(loaded: &Loaded) -> bool {
    loaded.config.providers.is_empty() && loaded.broken_providers.is_empty()
}
