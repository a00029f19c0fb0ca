//! Where records go: streams, files, Fluentd, nowhere.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

use super::{
    fluent::Forwarder,
    format::Formatter,
    record::{Level, Record},
    stream::Stream,
};

/// A handler of the configuration.
#[derive(Debug)]
pub struct Handler {
    /// Records below are not its business.
    pub level: Level,
    /// What it makes of a record.
    pub formatter: Formatter,
    /// Where it puts it.
    pub sink: Sink,
}

/// Where a handler puts records.
#[derive(Debug)]
pub enum Sink {
    /// `ext://sys.stdout`, `ext://sys.stderr`.
    Stream(Stream),
    /// Any of the file handlers.
    File(LogFile),
    /// Fluentd.
    Fluent(Forwarder),
    /// `NullHandler`.
    Null,
}

impl Handler {
    /// Puts out a record. A failure to write has nowhere to be told: it is passed over, as in Python.
    pub fn emit(&self, record: &Record) {
        if record.level < self.level {
            return;
        }
        let line = |record: &Record| self.formatter.text(record) + "\n";
        match &self.sink {
            Sink::Stream(stream) => stream.write(line(record).as_bytes()),
            Sink::File(file) => {
                let _ = file.write(line(record).as_bytes());
            }
            Sink::Fluent(forwarder) => forwarder.send(record, &self.formatter.document(record)),
            Sink::Null => {}
        }
    }
}

/// A file that is opened anew when somebody has rotated it away, as `WatchedFileHandler` does; all file handlers
/// behave so. With a size it rotates itself, as `RotatingFileHandler`.
#[derive(Debug)]
pub struct LogFile {
    path: PathBuf,
    max_bytes: u64,
    backups: u32,
    open: Mutex<Option<(File, u64, u64)>>,
}

impl LogFile {
    /// Opens or creates the file. `max_bytes` 0: never rotates itself.
    pub fn open(path: PathBuf, max_bytes: u64, backups: u32) -> io::Result<Self> {
        let file = open(&path)?;
        Ok(Self { path, max_bytes, backups, open: Mutex::new(Some(file)) })
    }

    fn write(&self, line: &[u8]) -> io::Result<()> {
        let mut slot = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let here = fs::metadata(&self.path).ok().map(|data| (data.dev(), data.ino(), data.len()));
        let mut usable = slot
            .as_ref()
            .zip(here)
            .is_some_and(|((_, device, inode), (there, number, _))| (*device, *inode) == (there, number));
        if let Some((_, _, size)) = here
            && self.max_bytes > 0
            && self.backups > 0
            && size > 0
            && size + line.len() as u64 > self.max_bytes
        {
            self.rotate();
            usable = false;
        }
        if !usable {
            *slot = None;
            *slot = Some(open(&self.path)?);
        }
        slot.as_mut().map_or(Ok(()), |(file, _, _)| file.write_all(line))
    }

    /// `log.1` → `log.2` …, `log` → `log.1`.
    fn rotate(&self) {
        let numbered = |n: u32| {
            let mut name = self.path.as_os_str().to_owned();
            name.push(format!(".{n}"));
            PathBuf::from(name)
        };
        for n in (1..self.backups).rev() {
            let _ = fs::rename(numbered(n), numbered(n + 1));
        }
        let _ = fs::rename(&self.path, numbered(1));
    }
}

fn open(path: &Path) -> io::Result<(File, u64, u64)> {
    let file = OpenOptions::new().create(true).append(true).open(path)?;
    let data = file.metadata()?;
    Ok((file, data.dev(), data.ino()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_was_rotated_away_is_opened_anew() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("nodepool.log");
        let file = LogFile::open(path.clone(), 0, 0).unwrap();
        file.write(b"one\n").unwrap();
        fs::rename(&path, dir.path().join("old")).unwrap();
        file.write(b"two\n").unwrap();
        assert_eq!(fs::read_to_string(dir.path().join("old")).unwrap(), "one\n");
        assert_eq!(fs::read_to_string(&path).unwrap(), "two\n");
        fs::remove_file(&path).unwrap();
        file.write(b"three\n").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "three\n");
    }

    #[test]
    fn a_file_with_a_size_rotates_itself() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("nodepool.log");
        let file = LogFile::open(path.clone(), 8, 2).unwrap();
        for line in ["aaaa\n", "bbbb\n", "cccc\n", "dddd\n"] {
            file.write(line.as_bytes()).unwrap();
        }
        let read = |name: &str| fs::read_to_string(dir.path().join(name)).unwrap();
        assert_eq!(
            [read("nodepool.log"), read("nodepool.log.1"), read("nodepool.log.2")],
            ["dddd\n", "cccc\n", "bbbb\n"]
        );
    }
}
