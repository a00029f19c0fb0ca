//! stdout or stderr as a place for records: a reader that does not read must not hold up whoever logs.
//!
//! A record is written at once, by whoever logs it, as long as the stream takes it without waiting: so nothing is left
//! behind when the process ends, however it ends. What a full pipe does not take goes into a bounded backlog, which a thread
//! writes as soon as somebody reads again; what comes after it waits behind it. When the backlog is full, records are lost,
//! and the log says how many once there is room.
//!
//! Whether a pipe takes a record is asked before it is written, since it cannot be made not to wait: other processes have it,
//! too. So that nothing is written in between, handlers that write to the same pipe share one backlog and its lock; they may
//! have it as stdout and as stderr.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{self, Write as _},
    os::{
        fd::{AsFd, OwnedFd},
        unix::fs::MetadataExt as _,
    },
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    thread,
    time::{Duration, Instant},
};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

/// What a pipe that is ready takes without waiting (`PIPE_BUF`).
const ATOMIC: usize = 4096;
/// What may wait for a reader: some minutes of a busy launcher. Bytes.
const MOST: usize = 4 * 1024 * 1024;
/// How often the thread looks whether there is a reader, beside being told.
const LOOK_AGAIN: Duration = Duration::from_secs(1);
/// How long the end of the process may wait for one.
const FLUSH: Duration = Duration::from_secs(2);

/// See the module's comment. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Stream {
    /// `None`: the process was started without one.
    file: Option<Arc<File>>,
    backlog: Arc<Mutex<Backlog>>,
}

/// Those that are in use, by device and inode of what they are written to.
static BACKLOGS: Mutex<Backlogs> = Mutex::new(BTreeMap::new());
type Backlogs = BTreeMap<(u64, u64), Weak<Mutex<Backlog>>>;

#[derive(Debug, Default)]
struct Backlog {
    waiting: Vec<u8>,
    /// Records that found it full.
    lost: u64,
    /// A thread empties it.
    emptied: bool,
}

impl Stream {
    /// On a descriptor of this process, which stays open.
    pub fn on(descriptor: impl AsFd) -> Self {
        Self::new(descriptor.as_fd().try_clone_to_owned().ok())
    }

    fn new(descriptor: Option<OwnedFd>) -> Self {
        let file = descriptor.map(|descriptor| Arc::new(File::from(descriptor)));
        let backlog = file.as_deref().map(backlog_of).unwrap_or_default();
        Self { file, backlog }
    }

    /// Puts out a line. Never waits.
    pub fn write(&self, line: &[u8]) {
        let Some(file) = &self.file else { return };
        let mut backlog = self.open();
        let mut rest = line;
        if backlog.waiting.is_empty() {
            while let Some((now, later)) = rest.split_at_checked(rest.len().min(ATOMIC))
                && !now.is_empty()
                && is_ready(file, Duration::ZERO)
            {
                let Ok(written) = (&**file).write(now) else { return };
                rest = if written == now.len() { later } else { &rest[written..] };
            }
        }
        if rest.is_empty() {
            return;
        }
        if backlog.waiting.len() + rest.len() > MOST {
            backlog.lost += 1;
        } else {
            backlog.waiting.extend_from_slice(rest);
        }
        if !backlog.emptied {
            let stream = self.clone();
            let spawned = thread::Builder::new().name("log".to_owned()).spawn(move || stream.empty());
            backlog.emptied = spawned.is_ok();
        }
    }

    /// Waits a little for somebody to read what waits.
    pub fn flush(&self) {
        let until = Instant::now() + FLUSH;
        while !self.open().waiting.is_empty() && Instant::now() < until {
            thread::sleep(Duration::from_millis(10));
        }
    }

    /// Writes the backlog, piece by piece, as the reader takes it.
    fn empty(&self) {
        let Some(file) = &self.file else { return };
        loop {
            let ready = is_ready(file, LOOK_AGAIN);
            let mut backlog = self.open();
            if backlog.waiting.is_empty() {
                backlog.emptied = false;
                return;
            }
            if !ready {
                continue;
            }
            let piece = backlog.waiting.len().min(ATOMIC);
            match (&**file).write(&backlog.waiting[..piece]) {
                Ok(written) => drop(backlog.waiting.drain(..written)),
                // Nobody will ever read it.
                Err(error) if error.kind() != io::ErrorKind::Interrupted => backlog.waiting.clear(),
                Err(_) => {}
            }
            if backlog.waiting.is_empty() && backlog.lost > 0 {
                let lost = std::mem::take(&mut backlog.lost);
                let said = format!("nodepool: {lost} log records were lost: nobody has read this stream for a while\n");
                backlog.waiting.extend_from_slice(said.as_bytes());
            }
        }
    }

    fn open(&self) -> MutexGuard<'_, Backlog> {
        self.backlog.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The backlog of everybody who writes to the same pipe.
fn backlog_of(file: &File) -> Arc<Mutex<Backlog>> {
    let Ok(identity) = file.metadata().map(|metadata| (metadata.dev(), metadata.ino())) else { return Arc::default() };
    let mut backlogs = BACKLOGS.lock().unwrap_or_else(PoisonError::into_inner);
    // Whoever has a backlog has the pipe: no other one can have its number.
    backlogs.retain(|_, backlog| backlog.strong_count() > 0);
    if let Some(known) = backlogs.get(&identity).and_then(Weak::upgrade) {
        return known;
    }
    let new = Arc::default();
    backlogs.insert(identity, Arc::downgrade(&new));
    new
}

/// Whether a write of [`ATOMIC`] bytes would not wait. A reader that is gone is no reason to wait either.
fn is_ready(file: &File, within: Duration) -> bool {
    let mut descriptors = [PollFd::new(file.as_fd(), PollFlags::POLLOUT)];
    let within = PollTimeout::try_from(within).unwrap_or(PollTimeout::ZERO);
    poll(&mut descriptors, within).is_ok_and(|ready| ready > 0)
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead as _, BufReader, Read as _};

    use super::*;

    fn line(number: usize) -> String {
        format!("record {number} {}", "x".repeat(100))
    }

    #[test]
    fn a_reader_that_does_not_read_holds_nobody_up_and_gets_what_fits_in_order() {
        let (reader, writer) = io::pipe().unwrap();
        let stream = Stream::new(Some(writer.into()));
        let started = Instant::now();
        for number in 0..100_000 {
            stream.write((line(number) + "\n").as_bytes());
        }
        assert!(started.elapsed() < Duration::from_secs(30), "{:?}", started.elapsed());
        let mut lines = BufReader::new(reader).lines();
        let mut number = 0;
        let said = loop {
            let read = lines.next().unwrap().unwrap();
            if read.starts_with("nodepool: ") {
                break read;
            }
            assert_eq!(read, line(number));
            number += 1;
        };
        assert!(number * 113 > MOST, "the backlog was used: {number}");
        assert!(said.contains(&format!("{} log records were lost", 100_000 - number)), "{said}");
        stream.write(b"and on it goes\n");
        assert_eq!(lines.next().unwrap().unwrap(), "and on it goes");
    }

    #[test]
    fn two_handlers_on_one_pipe_do_not_hold_each_other_up() {
        for round in 0..300 {
            let (mut reader, writer) = io::pipe().unwrap();
            let streams = [(); 2].map(|()| Stream::on(&writer));
            // Full but for one page, which each of the two finds free.
            let full = File::from(OwnedFd::from(writer.try_clone().unwrap()));
            while is_ready(&full, Duration::ZERO) {
                (&full).write_all(&[b'x'; ATOMIC]).unwrap();
            }
            reader.read_exact(&mut [0; ATOMIC]).unwrap();
            let start = Arc::new(std::sync::Barrier::new(2));
            let (tell, told) = std::sync::mpsc::channel();
            for stream in &streams {
                let (stream, start, tell) = (stream.clone(), Arc::clone(&start), tell.clone());
                thread::spawn(move || {
                    start.wait();
                    stream.write(&[b'y'; ATOMIC]);
                    let _ = tell.send(());
                });
            }
            for _ in &streams {
                told.recv_timeout(Duration::from_secs(10)).unwrap_or_else(|_| panic!("one waits, in round {round}"));
            }
        }
    }

    #[test]
    fn what_another_handler_puts_out_comes_after_what_waits() {
        let (reader, writer) = io::pipe().unwrap();
        let (first, second) = (Stream::on(&writer), Stream::on(&writer));
        drop(writer);
        for number in 0..10_000 {
            first.write((line(number) + "\n").as_bytes());
        }
        second.write(b"the last\n");
        let mut lines = BufReader::new(reader).lines();
        for number in 0..10_000 {
            assert_eq!(lines.next().unwrap().unwrap(), line(number));
        }
        assert_eq!(lines.next().unwrap().unwrap(), "the last");
    }

    #[test]
    fn a_record_is_written_before_the_call_returns_however_long_it_is() {
        let (mut reader, writer) = io::pipe().unwrap();
        let stream = Stream::new(Some(writer.into()));
        let long = "y".repeat(3 * ATOMIC + 7) + "\n";
        stream.write(long.as_bytes());
        assert!(!stream.open().emptied, "no thread is needed");
        let mut read = vec![0; long.len()];
        reader.read_exact(&mut read).unwrap();
        assert_eq!(read, long.as_bytes());
    }

    #[test]
    fn a_reader_that_is_gone_and_a_stream_that_never_was_are_passed_over() {
        let (reader, writer) = io::pipe().unwrap();
        let stream = Stream::new(Some(writer.into()));
        drop(reader);
        stream.write(b"to nobody\n");
        Stream::new(None).write(b"to nothing\n");
        assert!(stream.open().waiting.is_empty());
    }
}
