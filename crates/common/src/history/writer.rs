//! [`Writer`]: the thread that opens the store and writes what it is told.

use std::{
    path::PathBuf,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
        mpsc::{Receiver, RecvTimeoutError, SyncSender},
    },
    time::{Duration, Instant},
};

use tracing::{error, info, warn};

use super::{
    event::Event,
    store::{Bounds, Store, Trouble},
};

/// The logger of what is said of the history.
pub(super) const LOGGER: &str = "nodepool.History";
/// So long after the first event that is not written yet, all that have come are.
pub(super) const EVERY: Duration = Duration::from_secs(1);
/// So long after a failure the file is opened anew.
const OPEN_AGAIN: Duration = Duration::from_secs(60);
/// Events that are kept in memory at most: about 4 MiB.
const MOST_IN_MEMORY: u64 = 5_000;
/// Events of one transaction: what is written at once is held in memory.
const AT_ONCE: usize = 5000;

/// What the thread is told.
#[derive(Debug)]
pub(super) enum Told {
    /// To be kept.
    Event(Box<Event>),
    /// All that came before is to be written at once; then this is told.
    Flush(SyncSender<()>),
}

/// What the thread and those who read have in common.
#[derive(Debug, Default)]
pub(super) struct Shared {
    store: Mutex<Option<Arc<Store>>>,
    lost: AtomicU64,
}

impl Shared {
    /// The store, while it is open.
    pub fn store(&self) -> Option<Arc<Store>> {
        self.store.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// How many events could not be written.
    pub fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }

    fn set(&self, store: Option<Store>) {
        *self.store.lock().unwrap_or_else(PoisonError::into_inner) = store.map(Arc::new);
    }
}

/// See the module.
pub(super) struct Writer {
    /// `None`: in memory.
    file: Option<PathBuf>,
    bounds: Bounds,
    shared: Arc<Shared>,
    failed: Option<Instant>,
}

#[allow(clippy::disallowed_methods)] // a thread that no runtime drives
impl Writer {
    pub fn new(file: Option<PathBuf>, bounds: Bounds, shared: Arc<Shared>) -> Self {
        Self { file, bounds, shared, failed: None }
    }

    /// Writes until nobody can tell it anything any more.
    pub fn run(mut self, inbox: &Receiver<Told>) {
        self.open_first();
        let mut events = Vec::new();
        while let Ok(first) = inbox.recv() {
            let mut flushed = take(first, &mut events);
            let due = Instant::now() + EVERY;
            while flushed.is_none() && events.len() < AT_ONCE {
                match inbox.recv_timeout(due.saturating_duration_since(Instant::now())) {
                    Ok(told) => flushed = take(told, &mut events),
                    Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => break,
                }
            }
            self.write(&events);
            events.clear();
            if let Some(flushed) = flushed {
                let _ = flushed.send(());
            }
        }
        // The file is closed, where nobody reads.
        self.shared.set(None);
    }

    /// At the start: a file that cannot be used is left alone, and all is kept in memory.
    fn open_first(&mut self) {
        let Some(file) = self.file.clone() else { return self.open_memory() };
        match Store::open(&file) {
            Ok(store) => {
                info!(logger = LOGGER, "The history is kept in {}", file.display());
                self.shared.set(Some(store));
            }
            Err(trouble) => {
                let way_out = match trouble {
                    Trouble::InUse => "Give each launcher a directory of its own",
                    Trouble::Directory(_) => "Give a directory that this process may write to",
                    _ => "Move the file away, or give its history up by removing it",
                };
                warn!(
                    logger = LOGGER,
                    "The history is kept in memory only, and ends with this process: {} cannot be used: {trouble}. {way_out}, \
                     and start the launcher again",
                    file.display()
                );
                self.file = None;
                self.open_memory();
            }
        }
    }

    fn open_memory(&mut self) {
        self.bounds.events = self.bounds.events.min(MOST_IN_MEMORY);
        match Store::in_memory() {
            Ok(store) => self.shared.set(Some(store)),
            Err(trouble) => error!(logger = LOGGER, "No history is kept: {trouble}"),
        }
    }

    fn write(&mut self, events: &[Event]) {
        if events.is_empty() {
            return;
        }
        let written = match self.store() {
            Some(store) => store.write(events, self.bounds),
            None => Err(Trouble::NotOpen),
        };
        let Err(trouble) = written else { return };
        let lost = self.shared.lost.fetch_add(events.len() as u64, Ordering::Relaxed) + events.len() as u64;
        if let Some(file) = &self.file
            && !matches!(trouble, Trouble::NotOpen)
        {
            warn!(
                logger = LOGGER,
                "The history cannot be written to {}: {trouble}. {lost} events are lost so far; it is opened anew in {} s",
                file.display(),
                OPEN_AGAIN.as_secs()
            );
            // After an error the library does nothing more with it.
            self.shared.set(None);
            self.failed = Some(Instant::now());
        }
    }

    /// The store; after a failure opened anew, when it is time.
    fn store(&mut self) -> Option<Arc<Store>> {
        if let (Some(file), Some(failed)) = (&self.file, self.failed)
            && failed.elapsed() >= OPEN_AGAIN
        {
            match Store::open(file) {
                Ok(store) => {
                    info!(logger = LOGGER, "The history is kept in {} again", file.display());
                    self.shared.set(Some(store));
                    self.failed = None;
                }
                Err(trouble) => {
                    let lost = self.shared.lost();
                    warn!(
                        logger = LOGGER,
                        "{} cannot be used yet: {trouble}. {lost} events are lost so far",
                        file.display()
                    );
                    self.failed = Some(Instant::now());
                }
            }
        }
        self.shared.store()
    }
}

/// Puts an event to those that are to be written; returns who waits for that.
fn take(told: Told, events: &mut Vec<Event>) -> Option<SyncSender<()>> {
    match told {
        Told::Event(event) => {
            events.push(*event);
            None
        }
        Told::Flush(done) => Some(done),
    }
}
