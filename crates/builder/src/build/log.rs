//! Build logs: `<build-log-dir>/<image>-<build id>.log`, and how many of an image's are kept.

use std::{
    fs::{self, File},
    io::{self, Read as _, Seek as _, SeekFrom},
    path::{Path, PathBuf},
    time::SystemTime,
};

use nodepool_common::{
    config::Config,
    model::{BuildId, ImageName},
};

use crate::files;

/// Where `build-log-dir` is not set.
pub const DEFAULT_DIR: &str = "/var/log/nodepool/builds";

/// The directory of all build logs.
pub fn dir(config: &Config) -> PathBuf {
    config.build_log_dir.clone().unwrap_or_else(|| DEFAULT_DIR.into())
}

/// A build's log.
pub fn path(dir: &Path, image: &ImageName, build: &BuildId) -> PathBuf {
    dir.join(format!("{image}-{build}.log"))
}

/// Opens a build's log, in a directory that is made if need be. Whoever writes to it appends.
pub fn create(path: &Path) -> io::Result<File> {
    if let Some(dir) = path.parent() {
        fs::create_dir_all(dir)?;
    }
    fs::OpenOptions::new().create(true).append(true).open(path)
}

/// Deletes an image's oldest logs before it gets a new one: `retention` are left, at least one; negative: all. Unlike
/// upstream, which goes by the first letters of the name, not those of an image whose name begins alike.
pub fn prune(dir: &Path, image: &ImageName, retention: i64) -> io::Result<()> {
    let Ok(keep) = usize::try_from(retention) else { return Ok(()) };
    let mut logs: Vec<(SystemTime, PathBuf)> = Vec::new();
    let entries = match fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    for entry in entries {
        let entry = entry?;
        if entry.file_name().to_str().is_some_and(|name| is_log_of(name, image)) {
            logs.push((entry.metadata()?.modified()?, entry.path()));
        }
    }
    logs.sort();
    let spare = logs.len().saturating_sub(keep.max(1));
    for (_, log) in logs.into_iter().take(spare) {
        match fs::remove_file(&log) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

fn is_log_of(name: &str, image: &ImageName) -> bool {
    name.strip_suffix(".log").and_then(files::image_of) == Some(image.as_str())
}

/// The last line that a build has written, for people in a hurry: at most 200 letters of it.
pub fn last_line(log: &Path) -> Option<String> {
    let mut file = fs::File::open(log).ok()?;
    let length = file.metadata().ok()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(4096))).ok()?;
    let mut tail = Vec::new();
    file.take(4096).read_to_end(&mut tail).ok()?;
    let tail = String::from_utf8_lossy(&tail);
    let mut lines = tail.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with("Exit code: "));
    lines.next_back().map(|line| line.chars().take(200).collect())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn the_oldest_logs_of_an_image_go_and_others_stay() {
        let dir = tempfile::tempdir().unwrap();
        for (age, name) in ["fedora-1.log", "fedora-2.log", "fedora-3.log", "fedora-minimal-1.log", "notes.log"]
            .iter()
            .rev()
            .enumerate()
        {
            let file = File::create(dir.path().join(name)).unwrap();
            file.set_modified(SystemTime::now() - Duration::from_secs(100 * (10 - age as u64))).unwrap();
        }
        let image = ImageName::from("fedora");
        let left = || {
            let mut names: Vec<_> = fs::read_dir(dir.path())
                .unwrap()
                .map(|entry| entry.unwrap().file_name().into_string().unwrap())
                .collect();
            names.sort();
            names
        };
        prune(dir.path(), &image, -1).unwrap();
        assert_eq!(left().len(), 5);
        prune(dir.path(), &image, 2).unwrap();
        assert_eq!(left(), ["fedora-1.log", "fedora-2.log", "fedora-minimal-1.log", "notes.log"]);
        prune(dir.path(), &image, 0).unwrap();
        assert_eq!(left(), ["fedora-1.log", "fedora-minimal-1.log", "notes.log"]);
        prune(&dir.path().join("missing"), &image, 1).unwrap();
    }
}
