//! [`Server`]: the znodes, sessions and watches of a ZooKeeper in memory, and what each request does to them.

use std::collections::{BTreeMap, BTreeSet};

use tokio::sync::{mpsc, oneshot, watch};

use super::super::protocol::{Change, Done, Error, Event, Mode, MultiError, Op, Stat, State};

/// A request that waits for its session to be resumed.
pub(super) type Request = Box<dyn FnOnce(&mut Server) + Send>;

/// What the next request of a session is going to lose, and the connection with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lost {
    /// The request: it is not carried out.
    Request,
    /// The answer: it is carried out.
    Answer,
}

pub(super) struct SessionOfServer {
    /// As its client sees it.
    pub states: watch::Sender<State>,
    pub waiting: Vec<Request>,
    pub lost: Option<Lost>,
    /// It has expired, which its client learns when it is connected again.
    is_over: bool,
}

impl SessionOfServer {
    pub fn new() -> Self {
        Self { states: watch::Sender::new(State::Connected), waiting: Vec::new(), lost: None, is_over: false }
    }

    pub fn is(&self, state: &State) -> bool {
        *self.states.borrow() == *state
    }
}

#[derive(Default)]
pub(super) struct Znode {
    pub data: Vec<u8>,
    /// But for what follows from the children.
    stat: Stat,
    children: BTreeSet<String>,
    /// How many children were ever created.
    created: i32,
}

impl Znode {
    pub fn stat(&self) -> Stat {
        let num_children = i32::try_from(self.children.len()).unwrap_or(i32::MAX);
        // As a real one tells it: each creation and each deletion counts.
        Stat { num_children, cversion: self.created.wrapping_mul(2).wrapping_sub(num_children), ..self.stat }
    }

    /// A real server's order is that of a hash table. This one is not that of their creation, by which locks are ordered.
    pub fn children(&self) -> Vec<String> {
        self.children.iter().rev().cloned().collect()
    }
}

/// A persistent recursive watch.
struct Recursive {
    session: i64,
    top: String,
    events: mpsc::UnboundedSender<Event>,
}

/// A watch for one change of a znode's data, or its deletion.
struct Once {
    session: i64,
    path: String,
    changed: oneshot::Sender<()>,
    /// It has changed while the connection was broken: told once that works again.
    is_due: bool,
}

pub(super) struct Server {
    znodes: BTreeMap<String, Znode>,
    /// Of the last transaction. One that is refused has a number, too, as with a real server.
    zxid: i64,
    clock: Box<dyn Fn() -> i64 + Send>,
    pub sessions: BTreeMap<i64, SessionOfServer>,
    last_session: i64,
    recursive: Vec<Recursive>,
    once: Vec<Once>,
}

/// How to undo a part of a transaction.
enum Undo {
    Created(String),
    Written(String, Vec<u8>, Stat),
    Deleted(String, Znode),
}

/// A transaction under way.
struct Transaction {
    zxid: i64,
    now: i64,
    session: i64,
    undo: Vec<Undo>,
    events: Vec<(Change, String)>,
}

/// A part of a `multi` that can wait.
pub(super) enum OwnedOp {
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

/// Whether a watch of `top` and all below it is of that path, too.
fn is_below(path: &str, top: &str) -> bool {
    top == "/" || path.strip_prefix(top).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

impl Server {
    pub fn new(clock: Box<dyn Fn() -> i64 + Send>) -> Self {
        Self {
            znodes: BTreeMap::from([("/".to_owned(), Znode::default())]),
            zxid: 0,
            clock,
            sessions: BTreeMap::new(),
            last_session: 0,
            recursive: Vec::new(),
            once: Vec::new(),
        }
    }

    /// Begins a session.
    pub fn begin(&mut self) -> i64 {
        self.zxid += 1;
        self.last_session += 1;
        self.sessions.insert(self.last_session, SessionOfServer::new());
        self.last_session
    }

    pub fn find(&self, path: &str) -> Option<&Znode> {
        self.znodes.get(path)
    }

    pub fn get(&self, path: &str) -> Result<&Znode, Error> {
        self.find(path).ok_or(Error::NoNode)
    }

    fn get_mut(&mut self, path: &str) -> Result<&mut Znode, Error> {
        self.znodes.get_mut(path).ok_or(Error::NoNode)
    }

    fn apply(&mut self, transaction: &mut Transaction, op: OwnedOp) -> Result<Done, Error> {
        let (zxid, now) = (transaction.zxid, transaction.now);
        match op {
            OwnedOp::Check(path, version) => {
                is_version(&self.get(&path)?.stat, version)?;
                Ok(Done::Checked)
            }
            OwnedOp::Create(path, data, mode) => {
                let parent = self.get(split(&path).0)?;
                let is_numbered = matches!(mode, Mode::PersistentSequential | Mode::EphemeralSequential);
                let path = if is_numbered { format!("{path}{:010}", parent.created) } else { path };
                if self.znodes.contains_key(&path) {
                    return Err(Error::NodeExists);
                }
                if parent.stat.ephemeral_owner != 0 {
                    return Err(Error::Other("ephemeral node can not have children".to_owned()));
                }
                let (dir, name) = split(&path);
                let parent = self.get_mut(dir)?;
                parent.created = parent.created.wrapping_add(1);
                parent.children.insert(name.to_owned());
                let is_ephemeral = matches!(mode, Mode::Ephemeral | Mode::EphemeralSequential);
                let stat = Stat {
                    czxid: zxid,
                    mzxid: zxid,
                    ctime: now,
                    mtime: now,
                    ephemeral_owner: if is_ephemeral { transaction.session } else { 0 },
                    ..Stat::default()
                };
                self.znodes.insert(path.clone(), Znode { data, stat, ..Znode::default() });
                transaction.undo.push(Undo::Created(path.clone()));
                transaction.events.push((Change::Created, path.clone()));
                Ok(Done::Created(path, Some(stat)))
            }
            OwnedOp::Set(path, data, version) => {
                let znode = self.get_mut(&path)?;
                is_version(&znode.stat, version)?;
                let (data, stat) = (std::mem::replace(&mut znode.data, data), znode.stat);
                znode.stat.version += 1;
                znode.stat.mzxid = zxid;
                znode.stat.mtime = now;
                let new = znode.stat();
                transaction.undo.push(Undo::Written(path.clone(), data, stat));
                transaction.events.push((Change::Written, path));
                Ok(Done::Set(new))
            }
            OwnedOp::Delete(path, version) => {
                let znode = self.get(&path)?;
                is_version(&znode.stat, version)?;
                if !znode.children.is_empty() {
                    return Err(Error::NotEmpty);
                }
                let (dir, name) = split(&path);
                self.get_mut(dir)?.children.remove(name);
                if let Some(znode) = self.znodes.remove(&path) {
                    transaction.undo.push(Undo::Deleted(path.clone(), znode));
                }
                transaction.events.push((Change::Deleted, path));
                Ok(Done::Deleted)
            }
        }
    }

    fn undo(&mut self, undo: Undo) {
        match undo {
            Undo::Created(path) => {
                let (dir, name) = split(&path);
                self.znodes.remove(&path);
                if let Some(parent) = self.znodes.get_mut(dir) {
                    parent.children.remove(name);
                    parent.created = parent.created.wrapping_sub(1);
                }
            }
            Undo::Written(path, data, stat) => {
                if let Some(znode) = self.znodes.get_mut(&path) {
                    (znode.data, znode.stat) = (data, stat);
                }
            }
            Undo::Deleted(path, znode) => {
                let (dir, name) = split(&path);
                if let Some(parent) = self.znodes.get_mut(dir) {
                    parent.children.insert(name.to_owned());
                }
                self.znodes.insert(path, znode);
            }
        }
    }

    /// All or nothing; who watches is told before the answer.
    pub fn transact(&mut self, session: i64, operations: Vec<OwnedOp>) -> Result<Vec<Done>, MultiError> {
        self.zxid += 1;
        let mut transaction =
            Transaction { zxid: self.zxid, now: (self.clock)(), session, undo: Vec::new(), events: Vec::new() };
        let mut done = Vec::with_capacity(operations.len());
        for (index, op) in operations.into_iter().enumerate() {
            match self.apply(&mut transaction, op) {
                Ok(result) => done.push(result),
                Err(source) => {
                    transaction.undo.into_iter().rev().for_each(|undo| self.undo(undo));
                    return Err(MultiError::Refused { index, source });
                }
            }
        }
        for (change, path) in transaction.events {
            self.tell(change, &path);
        }
        Ok(done)
    }

    pub fn one(&mut self, session: i64, op: OwnedOp) -> Result<Done, Error> {
        let mut done = self.transact(session, vec![op])?;
        done.pop().ok_or_else(|| Error::unexpected(&"nothing"))
    }

    /// A watch for the next change of a znode that is there.
    pub fn watch_once(&mut self, session: i64, path: String) -> oneshot::Receiver<()> {
        let (changed, told) = oneshot::channel();
        self.once.push(Once { session, path, changed, is_due: false });
        told
    }

    /// A watch for all that happens below a path, and to it.
    pub fn watch_below(&mut self, session: i64, top: String) -> mpsc::UnboundedReceiver<Event> {
        let (events, told) = mpsc::unbounded_channel();
        self.recursive.push(Recursive { session, top, events });
        told
    }

    /// Who is connected is told of a change; of one-shot watches also who comes back.
    fn tell(&mut self, change: Change, path: &str) {
        let Self { sessions, recursive, once, zxid, .. } = self;
        let is_connected = |session| sessions.get(&session).is_some_and(|of| of.is(&State::Connected));
        recursive.retain(|watch| !watch.events.is_closed());
        for watch in recursive.iter().filter(|watch| is_below(path, &watch.top) && is_connected(watch.session)) {
            let _ = watch.events.send(Event::Znode { change, path: path.to_owned(), zxid: Some(*zxid) });
        }
        once.retain(|watch| !watch.changed.is_closed());
        if change == Change::Created {
            return;
        }
        for watch in once.iter_mut().filter(|watch| watch.path == path) {
            watch.is_due = true;
        }
        for watch in once.extract_if(.., |watch| watch.is_due && is_connected(watch.session)) {
            let _ = watch.changed.send(());
        }
    }

    /// A session's connection breaks.
    pub fn suspend(&mut self, session: i64) {
        let Some(of) = self.sessions.get(&session).filter(|of| of.is(&State::Connected)) else { return };
        of.states.send_replace(State::Suspended);
        for watch in self.recursive.iter().filter(|watch| watch.session == session) {
            let _ = watch.events.send(Event::Suspended);
        }
    }

    /// A session's connection works again. What waits is carried out, in the order in which it was asked.
    pub fn resume(&mut self, session: i64) {
        let Some(of) = self.sessions.get_mut(&session).filter(|of| of.is(&State::Suspended)) else { return };
        if of.is_over {
            self.end(session, "expired");
            return;
        }
        of.states.send_replace(State::Connected);
        let waiting = std::mem::take(&mut of.waiting);
        for watch in self.recursive.extract_if(.., |watch| watch.session == session) {
            let _ = watch.events.send(Event::Gap);
        }
        for watch in self.once.extract_if(.., |watch| watch.session == session && watch.is_due) {
            let _ = watch.changed.send(());
        }
        for request in waiting {
            request(self);
        }
    }

    /// A session is over. Its client learns of that when it is connected.
    pub fn expire(&mut self, session: i64) {
        match self.sessions.get_mut(&session) {
            Some(of) if of.is(&State::Suspended) => {
                of.is_over = true;
                self.bury(session);
            }
            _ => self.end(session, "expired"),
        }
    }

    /// Nobody has the session's client any more. A server that is not connected to it knows nothing of that.
    pub fn close(&mut self, session: i64) {
        match self.sessions.get_mut(&session) {
            Some(of) if of.is(&State::Suspended) && !of.is_over => {
                of.states.send_replace(State::Ended("closed".to_owned()));
                of.waiting.clear();
                self.recursive.retain(|watch| watch.session != session);
                self.once.retain(|watch| watch.session != session);
            }
            _ => self.end(session, "closed"),
        }
    }

    fn end(&mut self, session: i64, why: &str) {
        let Some(of) = self.sessions.remove(&session) else { return };
        of.states.send_replace(State::Ended(why.to_owned()));
        for watch in self.recursive.extract_if(.., |watch| watch.session == session) {
            let _ = watch.events.send(Event::Ended);
        }
        self.once.retain(|watch| watch.session != session);
        self.bury(session);
        // Each finds that there is no session.
        for request in of.waiting {
            request(self);
        }
    }

    /// Deletes a session's ephemeral znodes.
    fn bury(&mut self, session: i64) {
        let ephemeral = self.znodes.iter().filter(|(_, znode)| znode.stat.ephemeral_owner == session);
        let deletions = ephemeral.map(|(path, _)| OwnedOp::Delete(path.clone(), None)).collect();
        // They have no children: nothing can refuse.
        let _ = self.transact(session, deletions);
    }
}
