//! The history: what was asked, decided and done in the last days.
//!
//! Zuul deletes the record of a request as soon as it has its nodes, and people ask an hour later. So a launcher keeps
//! [`Event`]s: what happened, when, in one plain sentence, with the ids that it concerns. They are found by each of these, the newest
//! first.
//!
//! # What is kept
//!
//! The newest events, bounded by their number and their age ([`Bounds`]): as new ones come, the oldest go. An event is bounded,
//! too ([`Event::bounded`]), so that the bound of their number is one of the file's size. Room that becomes free in the
//! file is used again; it does not shrink.
//!
//! # Where
//!
//! In one file of a directory that is given, [`FILE`], or in memory, with the same code: a key-value store ([`store`]) with
//! transactions. A directory is one process's; its file is locked.
//!
//! # Who waits for whom
//!
//! Nobody waits for the history. [`History::record`] puts an event into a bounded channel, and one thread ([`writer`]) commits
//! what is there [each second](writer::EVERY), and what is left at the end. So a process that is killed loses the last second. Where
//! the channel is full or the disk is broken, events are dropped, counted and warned of; the process goes on. The thread opens the
//! file, too: a large one that was not closed does not delay a start.
//!
//! A file that cannot be used at the start (damaged, of a newer version, locked by another process) stays as it is: a warning says
//! which and what to do, and the history is kept in memory. Where the file fails later, it is opened anew after a while.
//!
//! # Several launchers
//!
//! Each has its own history. Whoever wants to know more than one of them asks them all and puts their pages together
//! ([`page`]); who does not answer is named.
//!
//! # Texts
//!
//! All of it is public, as all that `explain` says, and in the same words: texts are those that records and logs have, too.

mod event;
mod page;
pub mod past;
mod query;
mod store;
mod table;
#[cfg(test)]
mod tests;
mod writer;

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
        mpsc::{self, SyncSender, TrySendError},
    },
    thread,
    time::Duration,
};

use tracing::{error, warn};

use self::writer::{LOGGER, Shared, Told, Writer};
pub use self::{
    event::{Event, Found},
    page::{PAGE, Page, REQUEST_GONE, REQUEST_SEEN, asked},
    query::{HIGHEST_LIMIT, LIMIT, Listed, Query},
    store::{Bounds, Trouble},
    table::{COLUMNS, table},
};

/// The name of the file in its directory.
pub const FILE: &str = "history.redb";
/// How many events may wait to be written: more than a busy launcher makes in a second, and more than there are at a start, when each
/// request that waits is one, all at the same moment and maybe before the file is open. 24 bytes each, and about 500 while it waits.
const WAITING: usize = 32_768;
/// One warning for so many events that were dropped.
const WARN_EVERY: u64 = 1000;

/// What records events and looks them up. Cheap to clone; clones are one history. The default one keeps nothing.
#[derive(Clone, Debug, Default)]
pub struct History(Option<Arc<Inner>>);

#[derive(Debug)]
struct Inner {
    told: SyncSender<Told>,
    shared: Arc<Shared>,
    dropped: AtomicU64,
}

impl History {
    /// A history in a directory, or in memory where there is none. Its file is opened beside the caller.
    pub fn start(directory: Option<&Path>, bounds: Bounds) -> Self {
        let (told, inbox) = mpsc::sync_channel(WAITING);
        let shared = Arc::new(Shared::default());
        let file: Option<PathBuf> = directory.map(|directory| directory.join(FILE));
        let writer = Writer::new(file, bounds, Arc::clone(&shared));
        if let Err(error) = thread::Builder::new().name("history".to_owned()).spawn(move || writer.run(&inbox)) {
            error!(logger = LOGGER, "No history is kept, its thread cannot be started: {error}");
            return Self::default();
        }
        Self(Some(Arc::new(Inner { told, shared, dropped: AtomicU64::new(0) })))
    }

    /// Whether it keeps anything: else nobody need put events together.
    pub fn is_on(&self) -> bool {
        self.0.is_some()
    }

    /// Has an event kept. Never waits.
    pub fn record(&self, event: Event) {
        let Some(inner) = &self.0 else { return };
        let told = Told::Event(Box::new(event.bounded()));
        let Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) = inner.told.try_send(told) else {
            return;
        };
        let dropped = inner.dropped.fetch_add(1, Ordering::Relaxed) + 1;
        if dropped % WARN_EVERY == 1 {
            warn!(
                logger = LOGGER,
                "The history cannot be written as fast as events come, or its disk does not answer: {dropped} were dropped so far"
            );
        }
    }

    /// How many events were dropped since the start.
    pub fn dropped(&self) -> u64 {
        self.0.as_ref().map_or(0, |inner| inner.dropped.load(Ordering::Relaxed) + inner.shared.lost())
    }

    /// The newest events that are asked for, the newest first. What was recorded within the last second may be missing. Reads a file:
    /// not for a thread of the runtime.
    pub fn list(&self, query: &Query) -> Result<Listed, Trouble> {
        let Some(inner) = &self.0 else { return Ok(Listed::default()) };
        let store = inner.shared.store().ok_or(Trouble::NotOpen)?;
        store.list(query)
    }

    /// Writes what was recorded before, and waits for that for so long at most. Returns whether it was done.
    pub fn flush(&self, within: Duration) -> bool {
        let Some(inner) = &self.0 else { return true };
        let (done, written) = mpsc::sync_channel(1);
        // A full channel means that the disk does not keep up: then what is left is not waited for.
        inner.told.try_send(Told::Flush(done)).is_ok() && written.recv_timeout(within).is_ok()
    }
}
