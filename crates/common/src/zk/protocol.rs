//! What we ask of a ZooKeeper and what it answers: the traits [`Session`] and [`Connector`], and their data.
//!
//! Everything else here (locks, fenced writes, the cache, elections, registrations) is made of these few operations, and
//! knows nothing else of one. `zk/wire` makes them of messages to a real ZooKeeper; something else can stand below as well
//! ([`ZooKeeper::start_with`](super::ZooKeeper::start_with)).
//!
//! What all of it relies on, and so what an implementation has to keep:
//!
//! * A request is sent when its method is called, not when its future is polled first, and the requests of one session are
//!   carried out and answered in the order of their calls: three calls before the first `await` are one round trip.
//! * An event arrives before the answer to any request that was carried out after what it tells of.
//! * While the connection is broken, requests wait for the same session to be resumed. A request whose answer was lost with
//!   the connection fails with [`Error::Unanswered`]: it may have been carried out, or not.
//! * The session ends when the last [`Client`] of it is dropped, and its ephemeral znodes with it.
//!
//! The traits are used as objects, not as type parameters: a session comes and goes while the process lives, and a parameter
//! would have to be named by each type from a lock to the launcher. The price is one allocation for each request, beside a
//! round trip.

use std::{fmt, sync::Arc};

use futures::{future::BoxFuture, stream::BoxStream};

use crate::config;

/// A ZooKeeper session. The same after a mere reconnection; another one after an expiry, with all locks gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SessionId(pub i64);

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.0)
    }
}

/// Whoever has one may ask within the session; the last one's end is the session's.
pub type Client = Arc<dyn Session>;
/// The answer that is waited for.
pub type Answer<'a, T, E = Error> = BoxFuture<'a, Result<T, E>>;
/// The events of a watch, until it is dropped.
pub type Events = BoxStream<'static, Event>;
/// Done once what a watch is about has changed, or cannot be watched any more.
pub type Changed = BoxFuture<'static, ()>;

/// A session with a ZooKeeper; the module's comment says what an implementation has to keep. Paths are absolute, below the
/// chroot. Access is for everybody, as kazoo creates everything.
pub trait Session: fmt::Debug + Send + Sync {
    /// Which one it is.
    fn id(&self) -> SessionId;

    /// How the connection is now, then each change of that. Nothing follows on [`State::Ended`].
    fn states(&self) -> BoxStream<'static, State>;

    /// What still waits for a connection fails: without one the session is over, as far as this process is concerned.
    fn give_up(&self) {}

    /// Creates a znode. Its path, with the number that the server has given it where the mode says so, and its stat.
    /// Errors: [`Error::NoNode`] without its parent, [`Error::NodeExists`].
    fn create<'a>(&'a self, path: &'a str, data: &[u8], mode: Mode) -> Answer<'a, (String, Stat)>;

    /// Deletes a znode, of that version where one is given. Errors: [`Error::NoNode`], [`Error::NotEmpty`] while it has
    /// children, [`Error::BadVersion`].
    fn delete(&self, path: &str, version: Option<i32>) -> Answer<'_, ()>;

    /// Writes a znode's data, over that version where one is given. Errors: [`Error::NoNode`], [`Error::BadVersion`].
    fn set(&self, path: &str, data: &[u8], version: Option<i32>) -> Answer<'_, Stat>;

    /// A znode's data and stat. Error: [`Error::NoNode`].
    fn get(&self, path: &str) -> Answer<'_, (Vec<u8>, Stat)>;

    /// The same, and a watch for the next change of its data, or its deletion.
    fn get_and_watch(&self, path: &str) -> Answer<'_, (Vec<u8>, Stat, Changed)>;

    /// A znode's stat; `None`: there is none.
    fn exists(&self, path: &str) -> Answer<'_, Option<Stat>>;

    /// The names of a znode's children, in any order. Error: [`Error::NoNode`].
    fn children(&self, path: &str) -> Answer<'_, Vec<String>>;

    /// What is read after that is at least as new as the newest that anybody had been told before.
    fn sync(&self, path: &str) -> Answer<'_, ()>;

    /// Many reads in one request, each with its own result; what each finds is of about the same moment.
    fn read(&self, reads: &[Read<'_>]) -> Answer<'_, Vec<Result<Found, Error>>>;

    /// All of these or nothing, in one moment.
    fn multi(&self, operations: &[Op<'_>]) -> Answer<'_, Vec<Done>, MultiError>;

    /// Watches a path and everything below it for ever. What happens while the connection is broken is not told: after
    /// [`Event::Gap`] everything may be different, and the watch is gone.
    fn watch(&self, path: &str) -> Answer<'_, Events>;
}

/// What leads to sessions of one ZooKeeper.
pub trait Connector: fmt::Debug + Send + Sync {
    /// Tries once to begin a session; the error says in words for people why there is none.
    fn connect(&self) -> BoxFuture<'_, Result<Client, String>>;

    /// Where the ZooKeeper is.
    fn servers(&self) -> &[config::ZooKeeperServer];

    /// The same, for messages.
    fn addresses(&self) -> String;
}

/// How a session's connection is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// It works.
    Connected,
    /// It is broken; the session may be resumed.
    Suspended,
    /// The session is over: in words, why.
    Ended(String),
}

/// How a znode is created.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// It stays.
    Persistent,
    /// It stays, and its name is completed by a number of ten digits, which grows with each creation in the same place.
    PersistentSequential,
    /// It ends with the session.
    Ephemeral,
    /// Both.
    EphemeralSequential,
}

/// What ZooKeeper knows of a znode, as far as anybody here wants to know.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stat {
    /// The transaction that created it.
    pub czxid: i64,
    /// The transaction that wrote it last.
    pub mzxid: i64,
    /// When it was created, by the server's clock, in ms since the epoch.
    pub ctime: i64,
    /// When it was written last, likewise.
    pub mtime: i64,
    /// How often it was written since its creation.
    pub version: i32,
    /// How often children were created and deleted.
    pub cversion: i32,
    /// The session that it ends with; 0: none.
    pub ephemeral_owner: i64,
    /// How many children it has.
    pub num_children: i32,
}

/// A part of a `multi`. Versions are checked where they are given.
#[derive(Clone, Copy, Debug)]
pub enum Op<'a> {
    /// The znode is there.
    Check(&'a str, Option<i32>),
    /// As [`Session::create`].
    Create(&'a str, &'a [u8], Mode),
    /// As [`Session::set`].
    Set(&'a str, &'a [u8], Option<i32>),
    /// As [`Session::delete`].
    Delete(&'a str, Option<i32>),
}

/// What has come of a part of a `multi`, in their order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Done {
    /// Of [`Op::Check`].
    Checked,
    /// Of [`Op::Create`]: its path; its stat where the server tells it (ZOOKEEPER-4667).
    Created(String, Option<Stat>),
    /// Of [`Op::Set`].
    Set(Stat),
    /// Of [`Op::Delete`].
    Deleted,
}

/// What is to be read.
#[derive(Clone, Copy, Debug)]
pub enum Read<'a> {
    /// As [`Session::get`].
    Data(&'a str),
    /// As [`Session::children`].
    Children(&'a str),
}

/// What was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// Of [`Read::Data`].
    Data(Vec<u8>, Stat),
    /// Of [`Read::Children`].
    Children(Vec<String>),
}

/// What a watch tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// Something has happened to a znode.
    Znode {
        /// What.
        change: Change,
        /// Where, below the chroot.
        path: String,
        /// The transaction; `None` from a ZooKeeper before 3.9.
        zxid: Option<i64>,
    },
    /// The connection is broken.
    Suspended,
    /// The connection works again; events were lost, and the watch may be.
    Gap,
    /// The session is over.
    Ended,
}

/// What has happened to a znode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// It was created.
    Created,
    /// Its data was written.
    Written,
    /// It was deleted.
    Deleted,
}

/// Why a request was not carried out, or is not known to have been.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The znode, or a new one's parent, is not there.
    #[error("node not exists")]
    NoNode,
    /// The znode is there already.
    #[error("node already exists")]
    NodeExists,
    /// The znode has another version.
    #[error("mismatch version")]
    BadVersion,
    /// The znode has children.
    #[error("node has not empty children")]
    NotEmpty,
    /// The server has lost the others, and takes no writes for now.
    #[error("write request is sent to read only server")]
    ReadOnly,
    /// The session is over; nothing was done, or it does not matter any more.
    #[error("session expired")]
    SessionEnded,
    /// The answer was lost: it may have been carried out, or not.
    #[error("{0}")]
    Unanswered(String),
    /// Anything else; a bug, or a server that refuses.
    #[error("{0}")]
    Other(String),
}

impl Error {
    /// Whether the operation may or may not have happened.
    pub fn is_unanswered(&self) -> bool {
        matches!(self, Self::Unanswered(_))
    }

    /// What an implementation must not answer.
    pub(super) fn unexpected(answer: &impl fmt::Debug) -> Self {
        Self::Other(format!("unexpected answer {answer:?}"))
    }
}

/// Why a `multi` was not carried out, or is not known to have been.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MultiError {
    /// One part could not be done, so nothing was.
    #[error("operation at index {index} failed: {source}")]
    Refused {
        /// Which, counted from 0.
        index: usize,
        /// Why.
        source: Error,
    },
    /// The whole request failed.
    #[error("{0}")]
    Failed(#[from] Error),
}

impl From<MultiError> for Error {
    fn from(error: MultiError) -> Self {
        match error {
            MultiError::Refused { source, .. } | MultiError::Failed(source) => source,
        }
    }
}
