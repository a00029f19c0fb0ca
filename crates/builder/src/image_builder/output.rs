//! The files that a build is to make, and those that one which was cut short leaves.

use std::{
    fs,
    path::{Path, PathBuf},
    time::SystemTime,
};

use crate::files::{self, with_suffix};

/// `PATH.raw`, `PATH.qcow2`.
pub fn files(output: &Path, formats: &[String]) -> Vec<PathBuf> {
    formats.iter().map(|format| with_suffix(output, format)).collect()
}

/// The directory where they are to be.
pub fn directory(output: &Path) -> PathBuf {
    output.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new(".")).to_owned()
}

/// Those that are not there.
pub fn missing(files: &[PathBuf]) -> Vec<&PathBuf> {
    files.iter().filter(|file| !file.exists()).collect()
}

/// What the newest earlier image of the same name takes on disk, in these formats together; 0: there is none.
///
/// Images are called `NAME-BUILD`.
pub fn space_of_last(output: &Path, formats: &[String]) -> u64 {
    let Some((name, _)) = output.file_name().and_then(|name| name.to_str()?.rsplit_once('-')) else { return 0 };
    let entries = fs::read_dir(directory(output)).into_iter().flatten().filter_map(Result::ok);
    let mut last: Option<(SystemTime, String, u64)> = None;
    for entry in entries {
        let file_name = entry.file_name().to_string_lossy().into_owned();
        let Some((stem, format)) = file_name.rsplit_once('.') else { continue };
        let (Ok(metadata), Ok(space)) = (entry.metadata(), files::allocated(&entry.path())) else { continue };
        if files::image_of(stem) != Some(name) || !formats.iter().any(|wanted| wanted == format) {
            continue;
        }
        let made = metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH);
        last = Some(match last.take() {
            Some((newest, of, sum)) if of == stem => (newest.max(made), of, sum + space),
            Some(newer) if newer.0 >= made => newer,
            _ => (made, stem.to_owned(), space),
        });
    }
    last.map_or(0, |(_, _, space)| space)
}

/// Removes what rsync had not finished: `.NAME.raw.XXXXXX` beside the file. The builder's own clean-up does not know
/// such names.
pub fn remove_unfinished(files: &[PathBuf]) -> Vec<PathBuf> {
    let mut removed = Vec::new();
    for file in files {
        let Some(name) = file.file_name() else { continue };
        let prefix = format!(".{}.", name.to_string_lossy());
        for entry in fs::read_dir(directory(file)).into_iter().flatten().filter_map(Result::ok) {
            let name = entry.file_name().to_string_lossy().into_owned();
            let is_rsyncs = name.strip_prefix(&prefix).is_some_and(|rest| rest.len() == 6 && rest.is_ascii());
            if is_rsyncs && fs::remove_file(entry.path()).is_ok() {
                removed.push(entry.path());
            }
        }
    }
    removed
}

/// Removes the files that were made since then: an older one of the same name is not this build's.
pub fn remove_since(files: &[PathBuf], since: SystemTime) -> Vec<PathBuf> {
    use std::os::unix::fs::MetadataExt as _;
    let since = since.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs());
    // rsync may give a file the time of its original; ctime is when it came here.
    let is_ours = |file: &Path| fs::metadata(file).is_ok_and(|data| u64::try_from(data.ctime()).unwrap_or(0) >= since);
    files.iter().filter(|file| is_ours(file) && fs::remove_file(file).is_ok()).cloned().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_image_of_the_name_says_how_much_the_next_one_will_take() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        let formats = ["raw".to_owned(), "qcow2".to_owned()];
        assert_eq!(space_of_last(&path("image-0b"), &formats), 0);
        for (name, size) in [("image-0a.raw", 8192), ("image-0a.qcow2", 4096), ("image-0a.vhd", 65536)] {
            fs::write(path(name), vec![1; size]).unwrap();
        }
        fs::write(path("image-big-0a.raw"), vec![1; 65536]).unwrap();
        assert_eq!(space_of_last(&path("image-0b"), &formats), 8192 + 4096);
        assert_eq!(space_of_last(&path("image-0b"), &formats[..1]), 8192);
        assert_eq!(space_of_last(&path("test"), &formats), 0, "a file by hand has no earlier ones");
    }

    #[test]
    fn only_what_this_build_made_is_removed() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        let files = files(&path("image-0a"), &["raw".to_owned()]);
        assert_eq!(files, [path("image-0a.raw")]);
        for name in ["image-0a.raw", ".image-0a.raw.AbC123", ".image-0a.raw.config", ".image-0b.raw.AbC123"] {
            fs::write(path(name), "").unwrap();
        }
        assert_eq!(remove_unfinished(&files).len(), 2, "of six letters each");
        assert!(path(".image-0b.raw.AbC123").exists());
        assert!(remove_since(&files, SystemTime::now() + std::time::Duration::from_secs(60)).is_empty());
        assert_eq!(remove_since(&files, SystemTime::now() - std::time::Duration::from_secs(60)), files);
        assert_eq!(missing(&files), [&files[0]]);
    }
}
