//! [`Store`]: events in a key-value file, or in the same in memory.
//!
//! | table | key | value |
//! |---|---|---|
//! | `events` | number | the [`Event`] as JSON |
//! | `index` | kind, id, number | nothing |
//!
//! Numbers rise with time. What concerns something is a range of `index`, read from its end. A number after the newest one is free,
//! so nothing else need be kept. Events are JSON so that a version that has more in them reads those of one that has less, and
//! the other way round.

use std::{
    fs, io,
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
    time::Duration,
};

use redb::{
    AccessGuard, Database, DatabaseError, ReadableDatabase, ReadableTable, ReadableTableMetadata, TableDefinition,
    TableError, backends::InMemoryBackend,
};

use super::{
    event::{Event, Found},
    query::{Listed, Listing, Query},
};
use crate::{explain::Kind, model::Timestamp};

const EVENTS: TableDefinition<u64, &[u8]> = TableDefinition::new("events");
const INDEX: TableDefinition<(u8, &str, u64), ()> = TableDefinition::new("index");
/// Pages of the file that are kept in memory, in bytes; the library's own choice is a gigabyte.
const CACHE: usize = 4 << 20;
/// The same where all is in memory anyway.
const CACHE_OF_MEMORY: usize = 256 << 10;
/// At most so many are removed with each event that is written: where the bounds are lower than before, a start does not stand still
/// for it.
const REMOVED_FOR_EACH: u64 = 20;

/// How much is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// How many events at most.
    pub events: u64,
    /// How old an event may be, by the time of the newest.
    pub age: Duration,
}

/// Why the history can neither be read nor written.
#[derive(Debug, thiserror::Error)]
pub enum Trouble {
    /// Its file is being opened, or has failed and is opened anew later.
    #[error("the history's file is not open (yet)")]
    NotOpen,
    /// Another process has it.
    #[error("another process has it open")]
    InUse,
    /// Its directory cannot be made.
    #[error("its directory cannot be made: {0}")]
    Directory(#[source] io::Error),
    /// Anything else: the disk, or what is in the file.
    #[error("{0}")]
    Store(String),
}

impl Trouble {
    fn store(error: impl Into<redb::Error>) -> Self {
        Self::Store(error.into().to_string())
    }
}

/// An open history.
pub(super) struct Store {
    database: Database,
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Store")
    }
}

impl Store {
    /// Opens a file, or makes it and its directory.
    pub fn open(file: &Path) -> Result<Self, Trouble> {
        if let Some(directory) = file.parent() {
            fs::create_dir_all(directory).map_err(Trouble::Directory)?;
        }
        // A file that somebody has written into may say anything: the library finds most of it, and panics where it does not.
        guarded(|| {
            let database = Database::builder().set_cache_size(CACHE).create(file).map_err(|error| match error {
                DatabaseError::DatabaseAlreadyOpen => Trouble::InUse,
                other => Trouble::store(other),
            })?;
            Self::with_tables(database)
        })
    }

    /// One that ends with the process.
    pub fn in_memory() -> Result<Self, Trouble> {
        let backend = InMemoryBackend::new();
        let database = Database::builder().set_cache_size(CACHE_OF_MEMORY).create_with_backend(backend);
        Self::with_tables(database.map_err(Trouble::store)?)
    }

    /// With the tables there, and seen to be readable.
    fn with_tables(database: Database) -> Result<Self, Trouble> {
        let store = Self { database };
        store.write(&[], Bounds { events: u64::MAX, age: Duration::MAX })?;
        store.list(&Query { limit: 1, ..Query::default() })?;
        Ok(store)
    }

    /// Adds events, and removes the oldest ones that are beyond the bounds: all of it or nothing.
    pub fn write(&self, new: &[Event], bounds: Bounds) -> Result<(), Trouble> {
        guarded(|| {
            let mut transaction = self.database.begin_write().map_err(Trouble::store)?;
            // Else a file that was not closed is read as a whole when it is opened next.
            transaction.set_quick_repair(true);
            {
                let mut events = transaction.open_table(EVENTS).map_err(Trouble::store)?;
                let mut index = transaction.open_table(INDEX).map_err(Trouble::store)?;
                let newest = events.last().map_err(Trouble::store)?.map_or(0, |(number, _)| number.value());
                for (number, event) in (newest + 1..).zip(new) {
                    let json = serde_json::to_vec(event).map_err(|error| Trouble::Store(error.to_string()))?;
                    events.insert(number, json.as_slice()).map_err(Trouble::store)?;
                    for (kind, id) in event.subjects() {
                        index.insert((code(kind), id, number), ()).map_err(Trouble::store)?;
                    }
                }
                let oldest_time = new.last().map_or(f64::MIN, |event| event.at - bounds.age.as_secs_f64());
                for _ in 0..(new.len() as u64).saturating_mul(REMOVED_FOR_EACH) {
                    let too_many = events.len().map_err(Trouble::store)? > bounds.events;
                    // What cannot be read is of a file that somebody has changed; it goes, and its index stays without a use.
                    let read = |event: &[u8]| serde_json::from_slice::<Event>(event).unwrap_or_default();
                    let oldest = events.first().map_err(Trouble::store)?;
                    let oldest = oldest.map(|(number, event)| (number.value(), read(event.value())));
                    let Some((number, event)) = oldest else { break };
                    if !too_many && event.at >= oldest_time {
                        break;
                    }
                    events.remove(number).map_err(Trouble::store)?;
                    for (kind, id) in event.subjects() {
                        index.remove((code(kind), id, number)).map_err(Trouble::store)?;
                    }
                }
            }
            transaction.commit().map_err(Trouble::store)
        })
    }

    /// The newest events that are asked for; see [`History::list`](super::History::list).
    pub fn list(&self, query: &Query) -> Result<Listed, Trouble> {
        guarded(|| {
            let transaction = self.database.begin_read().map_err(Trouble::store)?;
            let events = match transaction.open_table(EVENTS) {
                Ok(events) => events,
                Err(TableError::TableDoesNotExist(_)) => return Ok(Listed::default()),
                Err(error) => return Err(Trouble::store(error)),
            };
            let before = match query.until {
                Some(until) => first_at(&events, until)?.min(query.before.unwrap_or(u64::MAX)),
                None => query.before.unwrap_or(u64::MAX),
            };
            let mut listed = Listing::new(query);
            let read = |number: u64| -> Result<Option<Found>, Trouble> {
                let json = events.get(number).map_err(Trouble::store)?;
                let event = json.and_then(|json| serde_json::from_slice(json.value()).ok());
                Ok(event.map(|event| Found { number, launcher: String::new(), event }))
            };
            if let Some(subject) = query.indexed() {
                let index = transaction.open_table(INDEX).map_err(Trouble::store)?;
                let (kind, id) = (code(subject.kind()), subject.id());
                for entry in index.range((kind, id, 0)..(kind, id, before)).map_err(Trouble::store)?.rev() {
                    let number = entry.map_err(Trouble::store)?.0.value().2;
                    if !read(number)?.is_none_or(|found| listed.takes(found)) {
                        break;
                    }
                }
            } else {
                for entry in events.range(0..before).map_err(Trouble::store)?.rev() {
                    let (number, json) = entry.map_err(Trouble::store)?;
                    let Ok(event) = serde_json::from_slice(json.value()) else { continue };
                    if !listed.takes(Found { number: number.value(), launcher: String::new(), event }) {
                        break;
                    }
                }
            }
            Ok(listed.done())
        })
    }
}

/// The number of the first event of that time or later, or one after the last. Their numbers have no gaps and rise with the time.
fn first_at(events: &impl ReadableTable<u64, &'static [u8]>, time: Timestamp) -> Result<u64, Trouble> {
    let number =
        |entry: Option<(AccessGuard<'_, u64>, _)>| entry.map(|(number, _): (_, AccessGuard<'_, &[u8]>)| number.value());
    let Some(mut low) = number(events.first().map_err(Trouble::store)?) else { return Ok(0) };
    let mut high = number(events.last().map_err(Trouble::store)?).map_or(low, |last| last + 1);
    while low < high {
        let middle = low + (high - low) / 2;
        let json = events.get(middle).map_err(Trouble::store)?;
        let event = json.and_then(|json| serde_json::from_slice::<Event>(json.value()).ok());
        if event.is_none_or(|event| event.at < time) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    Ok(low)
}

/// The kind as keys have it: never to be changed.
const fn code(kind: Kind) -> u8 {
    match kind {
        Kind::Request => 1,
        Kind::Node => 2,
        Kind::Label => 3,
        Kind::Image => 4,
        Kind::Provider => 5,
    }
}

/// Makes trouble of a panic.
fn guarded<T>(work: impl FnOnce() -> Result<T, Trouble>) -> Result<T, Trouble> {
    let damaged = |_| Err(Trouble::Store("it is damaged: reading it has panicked".to_owned()));
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(damaged)
}
