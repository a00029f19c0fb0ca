//! [`Story`]: what happens in a history, in its order and with its time; and which promises were broken. Two histories are the same
//! if their stories are.

use std::{
    fmt::{self, Write as _},
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{sync::Notify, time::Instant};

/// Lines of a story that are kept.
const LONGEST: usize = 200_000;

/// See the module's comment. Clones are one story.
#[derive(Clone, Debug)]
pub struct Story {
    began: Instant,
    told: Arc<Mutex<Told>>,
    /// Told when a promise is broken.
    is_broken: Arc<Notify>,
}

#[derive(Debug, Default)]
struct Told {
    lines: Vec<String>,
    broken: Vec<String>,
}

impl Story {
    /// One that begins now.
    pub fn begin() -> Self {
        Self { began: Instant::now(), told: Arc::default(), is_broken: Arc::default() }
    }

    fn told(&self) -> MutexGuard<'_, Told> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// For how long it has been told.
    pub fn age(&self) -> Duration {
        self.began.elapsed()
    }

    /// Something has happened.
    pub fn tell(&self, what: fmt::Arguments<'_>) {
        let mut line = format!("{:10.3} ", self.began.elapsed().as_secs_f64());
        let _ = line.write_fmt(what);
        let mut told = self.told();
        if told.lines.len() < LONGEST {
            told.lines.push(line);
        }
    }

    /// A promise was broken: which one, and how.
    pub fn broken(&self, promise: &str, how: fmt::Arguments<'_>) {
        self.tell(format_args!("!!! {promise}: {how}"));
        self.told().broken.push(format!("{promise}: {how}"));
        self.is_broken.notify_one();
    }

    /// Takes the launchers' own log, and tells only of what they call a bug.
    pub fn bugs(&self) -> Bugs {
        Bugs(self.clone())
    }

    /// Waits until a promise is broken.
    pub async fn until_broken(&self) {
        self.is_broken.notified().await;
    }

    /// The promises that were broken so far.
    pub fn all_broken(&self) -> Vec<String> {
        self.told().broken.clone()
    }

    /// All lines.
    pub fn lines(&self) -> Vec<String> {
        self.told().lines.clone()
    }
}

macro_rules! tell {
    ($story:expr, $($what:tt)*) => { $story.tell(format_args!($($what)*)) };
}
macro_rules! broken {
    ($story:expr, $promise:expr, $($how:tt)*) => { $story.broken($promise, format_args!($($how)*)) };
}
pub(crate) use {broken, tell};

/// The launchers' own log, for a story that is to be read.
impl io::Write for Story {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        tell!(self, "        | {}", String::from_utf8_lossy(line).trim_end());
        self.bugs().write(line)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// See [`Story::bugs`].
#[derive(Clone, Debug)]
pub struct Bugs(Story);

impl io::Write for Bugs {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let text = String::from_utf8_lossy(line);
        if text.contains("A bug in the launcher") {
            broken!(self.0, "no bug", "{}", text.trim_end());
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
