//! [`Memory`]: a ZooKeeper in this process's memory, for tests that run more than a real one can, or more exactly.
//!
//! It has what Nodepool uses of one: sessions with ephemeral znodes, numbered names, versions, transactions, `multi`, reads of
//! many, one-shot and persistent recursive watches. It carries each request out at the call, in one order for all sessions, so
//! nothing depends on time: the clock is given. Sessions are suspended, resumed and ended by whoever holds it. The same
//! tests run against it and against a real ZooKeeper (`tests/zk_conformance.rs`).

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use futures::{FutureExt, StreamExt, future::BoxFuture, stream, stream::BoxStream};
use tokio::sync::{mpsc, oneshot, watch};

use super::protocol::{
    Answer, Change, Changed, Client, Connector, Done, Error, Event, Events, Found, Mode, MultiError, Op, Read, Session,
    SessionId, Stat, State,
};
use crate::config;

/// See the module's comment. Clones are the same ZooKeeper.
#[derive(Clone)]
pub struct Memory {
    server: Arc<Mutex<Server>>,
}

impl fmt::Debug for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Memory").finish_non_exhaustive()
    }
}

impl Memory {
    /// An empty one; `clock` tells the time of its stats, in ms since the epoch.
    pub fn new(clock: impl Fn() -> i64 + Send + 'static) -> Self {
        let root = ("/".to_owned(), Znode::default());
        let server = Server {
            znodes: BTreeMap::from([root]),
            zxid: 0,
            clock: Box::new(clock),
            sessions: BTreeMap::new(),
            last_session: 0,
            recursive: Vec::new(),
            once: Vec::new(),
        };
        Self { server: Arc::new(Mutex::new(server)) }
    }

    /// Breaks a session's connection: what is asked waits, events are lost.
    pub fn suspend(&self, session: SessionId) {
        self.server().turn(session.0, State::Suspended);
    }

    /// The connection of a suspended session works again: what waits is carried out, in the order in which it was asked.
    pub fn resume(&self, session: SessionId) {
        let mut server = self.server();
        server.turn(session.0, State::Connected);
        let waiting = server.sessions.get_mut(&session.0).map(|of| std::mem::take(&mut of.waiting));
        for request in waiting.into_iter().flatten() {
            request(&mut server);
        }
    }

    /// Ends a session; its ephemeral znodes are gone.
    pub fn expire(&self, session: SessionId) {
        self.server().end(session.0, "expired");
    }

    fn server(&self) -> MutexGuard<'_, Server> {
        self.server.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Connector for Memory {
    fn connect(&self) -> BoxFuture<'_, Result<Client, String>> {
        let mut server = self.server();
        server.last_session += 1;
        let id = server.last_session;
        let session = SessionOfServer { states: watch::Sender::new(State::Connected), waiting: Vec::new() };
        server.sessions.insert(id, session);
        let client: Client = Arc::new(InMemory { memory: self.clone(), id });
        std::future::ready(Ok(client)).boxed()
    }

    fn interrupted(&self) {}

    fn servers(&self) -> &[config::ZooKeeperServer] {
        &[]
    }

    fn addresses(&self) -> String {
        "in memory".to_owned()
    }
}

/// A request that waits for its session to be resumed.
type Request = Box<dyn FnOnce(&mut Server) + Send>;

struct SessionOfServer {
    states: watch::Sender<State>,
    waiting: Vec<Request>,
}

#[derive(Clone, Default)]
struct Znode {
    data: Vec<u8>,
    /// But for what follows from the children.
    stat: Stat,
    children: BTreeSet<String>,
    /// How many children were ever created.
    created: i32,
}

impl Znode {
    fn stat(&self) -> Stat {
        let num_children = i32::try_from(self.children.len()).unwrap_or(i32::MAX);
        // As a real one tells it: each creation and each deletion counts.
        Stat { num_children, cversion: self.created.saturating_mul(2).saturating_sub(num_children), ..self.stat }
    }
}

struct Server {
    znodes: BTreeMap<String, Znode>,
    zxid: i64,
    clock: Box<dyn Fn() -> i64 + Send>,
    sessions: BTreeMap<i64, SessionOfServer>,
    last_session: i64,
    /// Session, path, receiver.
    recursive: Vec<(i64, String, mpsc::UnboundedSender<Event>)>,
    once: Vec<(i64, String, oneshot::Sender<()>)>,
}

/// What a transaction has done so far: enough to undo it, and to tell of it.
#[derive(Default)]
struct Transaction {
    before: Vec<(String, Option<Znode>)>,
    events: Vec<(Change, String)>,
}

/// A part of a `multi` that can wait.
enum OwnedOp {
    Check(String, Option<i32>),
    Create(String, Vec<u8>, Mode),
    Set(String, Vec<u8>, Option<i32>),
    Delete(String, Option<i32>),
}

impl From<&Op<'_>> for OwnedOp {
    fn from(op: &Op<'_>) -> Self {
        match *op {
            Op::Check(path, version) => Self::Check(path.to_owned(), version),
            Op::Create(path, data, mode) => Self::Create(path.to_owned(), data.to_owned(), mode),
            Op::Set(path, data, version) => Self::Set(path.to_owned(), data.to_owned(), version),
            Op::Delete(path, version) => Self::Delete(path.to_owned(), version),
        }
    }
}

/// Where a path's parent is, and its own name.
fn split(path: &str) -> (&str, &str) {
    match path.rsplit_once('/') {
        Some(("", name)) => ("/", name),
        Some(parts) => parts,
        None => ("/", path),
    }
}

fn is_version(stat: &Stat, version: Option<i32>) -> Result<(), Error> {
    if version.is_none_or(|version| version == stat.version) { Ok(()) } else { Err(Error::BadVersion) }
}

impl Server {
    fn get(&self, path: &str) -> Result<&Znode, Error> {
        self.znodes.get(path).ok_or(Error::NoNode)
    }

    /// A znode that the transaction is going to change.
    fn change(&mut self, transaction: &mut Transaction, path: &str) -> Result<&mut Znode, Error> {
        let znode = self.znodes.get_mut(path).ok_or(Error::NoNode)?;
        transaction.before.push((path.to_owned(), Some(znode.clone())));
        Ok(znode)
    }

    fn apply(&mut self, transaction: &mut Transaction, session: i64, op: OwnedOp) -> Result<Done, Error> {
        let now = (self.clock)();
        let zxid = self.zxid + 1;
        match op {
            OwnedOp::Check(path, version) => {
                is_version(&self.get(&path)?.stat, version)?;
                Ok(Done::Checked)
            }
            OwnedOp::Create(path, data, mode) => {
                let parent = self.get(split(&path).0)?;
                if parent.stat.ephemeral_owner != 0 {
                    return Err(Error::Other("ephemeral node can not have children".to_owned()));
                }
                let is_numbered = matches!(mode, Mode::PersistentSequential | Mode::EphemeralSequential);
                let path = if is_numbered { format!("{path}{:010}", parent.created) } else { path };
                if self.znodes.contains_key(&path) {
                    return Err(Error::NodeExists);
                }
                let (dir, name) = split(&path);
                let parent = self.change(transaction, dir)?;
                parent.created += 1;
                parent.children.insert(name.to_owned());
                let is_ephemeral = matches!(mode, Mode::Ephemeral | Mode::EphemeralSequential);
                let stat = Stat {
                    czxid: zxid,
                    mzxid: zxid,
                    ctime: now,
                    mtime: now,
                    ephemeral_owner: if is_ephemeral { session } else { 0 },
                    ..Stat::default()
                };
                transaction.before.push((path.clone(), None));
                self.znodes.insert(path.clone(), Znode { data, stat, ..Znode::default() });
                transaction.events.push((Change::Created, path.clone()));
                Ok(Done::Created(path, Some(stat)))
            }
            OwnedOp::Set(path, data, version) => {
                is_version(&self.get(&path)?.stat, version)?;
                let znode = self.change(transaction, &path)?;
                znode.data = data;
                znode.stat.version += 1;
                znode.stat.mzxid = zxid;
                znode.stat.mtime = now;
                let stat = znode.stat();
                transaction.events.push((Change::Written, path));
                Ok(Done::Set(stat))
            }
            OwnedOp::Delete(path, version) => {
                let znode = self.get(&path)?;
                is_version(&znode.stat, version)?;
                if !znode.children.is_empty() {
                    return Err(Error::NotEmpty);
                }
                let (dir, name) = split(&path);
                self.change(transaction, dir)?.children.remove(name);
                transaction.before.push((path.clone(), self.znodes.remove(&path)));
                transaction.events.push((Change::Deleted, path));
                Ok(Done::Deleted)
            }
        }
    }

    /// All or nothing; who watches is told before the answer.
    fn transact(&mut self, session: i64, operations: Vec<OwnedOp>) -> Result<Vec<Done>, MultiError> {
        let mut transaction = Transaction::default();
        let mut done = Vec::with_capacity(operations.len());
        for (index, op) in operations.into_iter().enumerate() {
            match self.apply(&mut transaction, session, op) {
                Ok(result) => done.push(result),
                Err(source) => {
                    for (path, before) in transaction.before.into_iter().rev() {
                        match before {
                            Some(znode) => drop(self.znodes.insert(path, znode)),
                            None => drop(self.znodes.remove(&path)),
                        }
                    }
                    return Err(MultiError::Refused { index, source });
                }
            }
        }
        self.zxid += 1;
        for (change, path) in transaction.events {
            self.tell(change, &path);
        }
        Ok(done)
    }

    fn one(&mut self, session: i64, op: OwnedOp) -> Result<Done, Error> {
        let mut done = self.transact(session, vec![op])?;
        done.pop().ok_or_else(|| Error::unexpected(&"nothing"))
    }

    fn is_connected(&self, session: i64) -> bool {
        self.sessions.get(&session).is_some_and(|of| *of.states.borrow() == State::Connected)
    }

    fn tell(&mut self, change: Change, path: &str) {
        let is_below = |top: &str| path.strip_prefix(top).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
        for (session, top, events) in &self.recursive {
            if is_below(top) && self.is_connected(*session) {
                let _ = events.send(Event::Znode { change, path: path.to_owned(), zxid: Some(self.zxid) });
            }
        }
        self.recursive.retain(|(_, _, events)| !events.is_closed());
        if change != Change::Created {
            for (_, _, changed) in self.once.extract_if(.., |(_, of, _)| of == path) {
                let _ = changed.send(());
            }
        }
        self.once.retain(|(_, _, changed)| !changed.is_closed());
    }

    /// A session's connection breaks, or works again.
    fn turn(&mut self, session: i64, state: State) {
        let Some(of) = self.sessions.get(&session) else { return };
        if *of.states.borrow() == state {
            return;
        }
        let event = if state == State::Connected { Event::Gap } else { Event::Suspended };
        of.states.send_replace(state);
        for (_, _, events) in self.recursive.iter().filter(|(owner, ..)| *owner == session) {
            let _ = events.send(event.clone());
        }
        if event == Event::Gap {
            self.recursive.retain(|(owner, ..)| *owner != session);
        }
    }

    fn end(&mut self, session: i64, why: &str) {
        let Some(of) = self.sessions.remove(&session) else { return };
        of.states.send_replace(State::Ended(why.to_owned()));
        for (_, _, events) in self.recursive.extract_if(.., |(owner, ..)| *owner == session) {
            let _ = events.send(Event::Ended);
        }
        self.once.retain(|(owner, ..)| *owner != session);
        let owned = |znode: &Znode| znode.stat.ephemeral_owner == session;
        let ephemeral: Vec<OwnedOp> = self
            .znodes
            .iter()
            .filter(|(_, znode)| owned(znode))
            .map(|(path, _)| OwnedOp::Delete(path.clone(), None))
            .collect();
        // Ephemeral znodes have no children: nothing can refuse.
        let _ = self.transact(session, ephemeral);
        // Each finds that there is no session.
        for request in of.waiting {
            request(self);
        }
    }
}

/// One session.
struct InMemory {
    memory: Memory,
    id: i64,
}

impl fmt::Debug for InMemory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("InMemory").field("id", &self.id).finish_non_exhaustive()
    }
}

impl Drop for InMemory {
    fn drop(&mut self) {
        self.memory.server().end(self.id, "closed");
    }
}

impl InMemory {
    /// Carries a request out now, or when the session is resumed.
    fn ask<T: Send + 'static, E: From<Error> + Send + 'static>(
        &self,
        request: impl FnOnce(&mut Server) -> Result<T, E> + Send + 'static,
    ) -> Answer<'static, T, E> {
        let mut server = self.memory.server();
        let id = self.id;
        let Some(session) = server.sessions.get_mut(&id) else {
            return std::future::ready(Err(Error::SessionEnded.into())).boxed();
        };
        if *session.states.borrow() == State::Connected {
            return std::future::ready(request(&mut server)).boxed();
        }
        let (answer, answered) = oneshot::channel();
        session.waiting.push(Box::new(move |server| {
            let is_alive = server.sessions.contains_key(&id);
            let result = if is_alive { request(server) } else { Err(Error::SessionEnded.into()) };
            let _ = answer.send(result);
        }));
        answered.map(|result| result.unwrap_or_else(|_| Err(Error::SessionEnded.into()))).boxed()
    }
}

impl Session for InMemory {
    fn id(&self) -> SessionId {
        SessionId(self.id)
    }

    fn states(&self) -> BoxStream<'static, State> {
        let states = self.memory.server().sessions.get(&self.id).map(|session| session.states.subscribe());
        let Some(mut states) = states else {
            return stream::iter([State::Ended("closed".to_owned())]).boxed();
        };
        states.mark_changed();
        stream::unfold(states, |mut states| async move {
            states.changed().await.ok()?;
            let now = states.borrow_and_update().clone();
            Some((now, states))
        })
        .boxed()
    }

    fn create<'a>(&'a self, path: &'a str, data: &[u8], mode: Mode) -> Answer<'a, (String, Stat)> {
        let (id, op) = (self.id, OwnedOp::Create(path.to_owned(), data.to_owned(), mode));
        self.ask(move |server| match server.one(id, op)? {
            Done::Created(path, Some(stat)) => Ok((path, stat)),
            other => Err(Error::unexpected(&other)),
        })
    }

    fn delete(&self, path: &str, version: Option<i32>) -> Answer<'_, ()> {
        let (id, op) = (self.id, OwnedOp::Delete(path.to_owned(), version));
        self.ask(move |server| server.one(id, op).map(drop))
    }

    fn set(&self, path: &str, data: &[u8], version: Option<i32>) -> Answer<'_, Stat> {
        let (id, op) = (self.id, OwnedOp::Set(path.to_owned(), data.to_owned(), version));
        self.ask(move |server| match server.one(id, op)? {
            Done::Set(stat) => Ok(stat),
            other => Err(Error::unexpected(&other)),
        })
    }

    fn get(&self, path: &str) -> Answer<'_, (Vec<u8>, Stat)> {
        let path = path.to_owned();
        self.ask(move |server| server.get(&path).map(|znode| (znode.data.clone(), znode.stat())))
    }

    fn get_and_watch(&self, path: &str) -> Answer<'_, (Vec<u8>, Stat, Changed)> {
        let (id, path) = (self.id, path.to_owned());
        self.ask(move |server| {
            let (data, stat) = server.get(&path).map(|znode| (znode.data.clone(), znode.stat()))?;
            let (tell, told) = oneshot::channel();
            server.once.push((id, path, tell));
            Ok((data, stat, told.map(drop).boxed()))
        })
    }

    fn exists(&self, path: &str) -> Answer<'_, Option<Stat>> {
        let path = path.to_owned();
        self.ask(move |server| Ok(server.znodes.get(&path).map(Znode::stat)))
    }

    fn children(&self, path: &str) -> Answer<'_, Vec<String>> {
        let path = path.to_owned();
        self.ask(move |server| server.get(&path).map(|znode| znode.children.iter().cloned().collect()))
    }

    fn sync(&self, _: &str) -> Answer<'_, ()> {
        self.ask(|_| Ok(()))
    }

    fn read(&self, reads: &[Read<'_>]) -> Answer<'_, Vec<Result<Found, Error>>> {
        let reads: Vec<(bool, String)> = reads
            .iter()
            .map(|read| match *read {
                Read::Data(path) => (true, path.to_owned()),
                Read::Children(path) => (false, path.to_owned()),
            })
            .collect();
        self.ask(move |server| {
            let find = |(is_data, path): &(bool, String)| {
                let znode = server.get(path)?;
                Ok(if *is_data {
                    Found::Data(znode.data.clone(), znode.stat())
                } else {
                    Found::Children(znode.children.iter().cloned().collect())
                })
            };
            Ok(reads.iter().map(find).collect())
        })
    }

    fn multi(&self, operations: &[Op<'_>]) -> Answer<'_, Vec<Done>, MultiError> {
        let (id, operations) = (self.id, operations.iter().map(OwnedOp::from).collect());
        self.ask(move |server| server.transact(id, operations))
    }

    fn watch(&self, path: &str) -> Answer<'_, Events> {
        let (id, path) = (self.id, path.to_owned());
        self.ask(move |server| {
            let (tell, told) = mpsc::unbounded_channel();
            server.recursive.push((id, path, tell));
            let events = stream::unfold(told, |mut told| async move { told.recv().await.map(|event| (event, told)) });
            Ok(events.boxed())
        })
    }
}
