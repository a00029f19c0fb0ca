//! [`Server`]: the znodes, sessions and watches of a ZooKeeper in memory, and what each request does to them.

use std::{collections::BTreeMap, sync::Arc};

use tokio::sync::{Notify, mpsc, oneshot};

use super::{
    super::protocol::{Change, Done, Error, Event, Mode, MultiError, Op, SessionId, Stat, State},
    tree::{Tree, Znode},
    wire::{Delivery, Lost, UnderWay, Wire},
};
use crate::sys::watch;

/// A request: carried out where the second value says so, otherwise lost.
pub(super) type Request = Box<dyn FnOnce(&mut Server, bool) + Send>;

/// Is told of each transaction: whose it is, what it has changed, and what there is now. What goes with a session that has ended
/// is nobody's: session 0.
pub type Observer = Box<dyn FnMut(SessionId, &[(Change, String)], &Tree) + Send>;

pub(super) struct SessionOfServer {
    /// As its client sees it.
    pub states: watch::Sender<State>,
    /// What waits for the session to be resumed; with whether it changes something.
    waiting: Vec<(bool, Request)>,
    /// What is on its way.
    pub under_way: UnderWay<Request>,
    /// What its next request is going to lose.
    pub lost: Option<Lost>,
    /// Nothing of what is delivered arrives.
    is_unheard: bool,
    /// Whether listings are to be held.
    pub holds_listings: watch::Sender<bool>,
    /// It has expired, which its client learns when it is connected again.
    is_over: bool,
    /// Nobody has its client any more.
    is_abandoned: bool,
}

impl SessionOfServer {
    pub fn new() -> Self {
        Self {
            states: watch::Sender::new(State::Connected),
            waiting: Vec::new(),
            under_way: UnderWay::new(),
            lost: None,
            is_unheard: false,
            holds_listings: watch::Sender::new(false),
            is_over: false,
            is_abandoned: false,
        }
    }

    pub fn is(&self, state: &State) -> bool {
        *self.states.borrow() == *state
    }
}

/// A persistent recursive watch.
struct Recursive {
    session: i64,
    top: String,
    events: mpsc::UnboundedSender<Event>,
}

/// A watch for one change of a znode's data, or its deletion. It is gone with that, and with the connection: who waits is told
/// by the end of the channel, too, and looks again.
struct Once {
    session: i64,
    path: String,
    changed: oneshot::Sender<()>,
}

pub(super) struct Server {
    tree: Tree,
    /// Of the last transaction. One that is refused has a number, too, as with a real server.
    zxid: i64,
    clock: Box<dyn Fn() -> i64 + Send>,
    pub sessions: BTreeMap<i64, SessionOfServer>,
    last_session: i64,
    recursive: Vec<Recursive>,
    once: Vec<Once>,
    /// `None`: everything arrives at once.
    pub wire: Option<Box<dyn Wire>>,
    pub observer: Option<Observer>,
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
            tree: Tree(BTreeMap::from([("/".to_owned(), Znode::default())])),
            zxid: 0,
            clock,
            sessions: BTreeMap::new(),
            last_session: 0,
            recursive: Vec::new(),
            once: Vec::new(),
            wire: None,
            observer: None,
        }
    }

    /// A request of a session: sent, or kept until the session is resumed.
    pub fn send(&mut self, session: i64, writes: bool, request: Request) {
        let Some(of) = self.sessions.get_mut(&session) else { return request(self, false) };
        if of.is(&State::Connected) {
            let lost = of.lost.take();
            self.send_now(session, writes, lost, request);
        } else {
            of.waiting.push((writes, request));
        }
    }

    /// The same of one that is connected. `lost`: what is lost with it in any case.
    fn send_now(&mut self, session: i64, writes: bool, lost: Option<Lost>, request: Request) {
        let Some(of) = self.sessions.get_mut(&session) else { return request(self, false) };
        if let Some(wire) = &mut self.wire {
            let mut passage = wire.request(SessionId(session), writes);
            passage.lost = lost.or(passage.lost);
            of.under_way.send(passage, request);
            return;
        }
        of.is_unheard = lost == Some(Lost::Answer);
        request(self, lost != Some(Lost::Request));
        if lost.is_some() {
            self.suspend(session);
        }
    }

    /// An answer or an event for a session.
    pub fn deliver(&mut self, session: i64, delivery: Delivery) {
        match (self.sessions.get_mut(&session), &mut self.wire) {
            (Some(of), Some(wire)) => of.under_way.deliver(wire.answer(SessionId(session)), delivery),
            (Some(of), None) => delivery(!of.is_unheard),
            (None, _) => delivery(false),
        }
    }

    /// Begins a session.
    /// Its number; and where there is a wire, what wakes who carries what is on its way.
    pub fn begin(&mut self) -> (i64, Option<Arc<Notify>>) {
        self.zxid += 1;
        self.last_session += 1;
        let session = SessionOfServer::new();
        let news = self.wire.is_some().then(|| Arc::clone(&session.under_way.news));
        self.sessions.insert(self.last_session, session);
        (self.last_session, news)
    }

    /// The znodes.
    pub fn tree(&self) -> &Tree {
        &self.tree
    }

    pub fn find(&self, path: &str) -> Option<&Znode> {
        self.tree.0.get(path)
    }

    pub fn get(&self, path: &str) -> Result<&Znode, Error> {
        self.find(path).ok_or(Error::NoNode)
    }

    fn get_mut(&mut self, path: &str) -> Result<&mut Znode, Error> {
        self.tree.0.get_mut(path).ok_or(Error::NoNode)
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
                if self.tree.0.contains_key(&path) {
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
                self.tree.0.insert(path.clone(), Znode { data, stat, ..Znode::default() });
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
                if let Some(znode) = self.tree.0.remove(&path) {
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
                self.tree.0.remove(&path);
                if let Some(parent) = self.tree.0.get_mut(dir) {
                    parent.children.remove(name);
                    parent.created = parent.created.wrapping_sub(1);
                }
            }
            Undo::Written(path, data, stat) => {
                if let Some(znode) = self.tree.0.get_mut(&path) {
                    (znode.data, znode.stat) = (data, stat);
                }
            }
            Undo::Deleted(path, znode) => {
                let (dir, name) = split(&path);
                if let Some(parent) = self.tree.0.get_mut(dir) {
                    parent.children.insert(name.to_owned());
                }
                self.tree.0.insert(path, znode);
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
        for (change, path) in &transaction.events {
            self.tell(*change, path);
        }
        if let Some(observer) = &mut self.observer {
            observer(SessionId(session), &transaction.events, &self.tree);
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
        self.once.push(Once { session, path, changed });
        told
    }

    /// A watch for all that happens below a path, and to it.
    pub fn watch_below(&mut self, session: i64, top: String) -> mpsc::UnboundedReceiver<Event> {
        let (events, told) = mpsc::unbounded_channel();
        self.recursive.push(Recursive { session, top, events });
        told
    }

    /// Who is connected is told of a change.
    fn tell(&mut self, change: Change, path: &str) {
        let Self { sessions, recursive, once, zxid, .. } = self;
        let is_connected = |session| sessions.get(&session).is_some_and(|of| of.is(&State::Connected));
        recursive.retain(|watch| !watch.events.is_closed());
        once.retain(|watch| !watch.changed.is_closed());
        let mut deliveries: Vec<(i64, Delivery)> = Vec::new();
        for watch in recursive.iter().filter(|watch| is_below(path, &watch.top) && is_connected(watch.session)) {
            let event = Event::Znode { change, path: path.to_owned(), zxid: Some(*zxid) };
            let events = watch.events.clone();
            let delivery = move |arrives| {
                if arrives {
                    let _ = events.send(event);
                }
            };
            deliveries.push((watch.session, Box::new(delivery)));
        }
        if change != Change::Created {
            for watch in once.extract_if(.., |watch| watch.path == path) {
                let session = watch.session;
                // What is lost with the connection is told when that breaks.
                deliveries.push((
                    session,
                    Box::new(move |_| {
                        let _ = watch.changed.send(());
                    }),
                ));
            }
        }
        for (session, delivery) in deliveries {
            self.deliver(session, delivery);
        }
    }

    /// A session's connection breaks; what is on its way is lost.
    pub fn suspend(&mut self, session: i64) {
        let Some(of) = self.sessions.get_mut(&session).filter(|of| of.is(&State::Connected)) else { return };
        of.states.send_replace(State::Suspended);
        of.is_unheard = false;
        let (requests, deliveries) = of.under_way.lose();
        self.once.retain(|watch| watch.session != session);
        for watch in self.recursive.iter().filter(|watch| watch.session == session) {
            let _ = watch.events.send(Event::Suspended);
        }
        for delivery in deliveries {
            delivery(false);
        }
        for request in requests {
            request(self, false);
        }
        if let Some(wire) = &mut self.wire {
            wire.broken(SessionId(session));
        }
    }

    /// A session's connection works again. What waits is carried out, in the order in which it was asked.
    pub fn resume(&mut self, session: i64) {
        let Some(of) = self.sessions.get_mut(&session).filter(|of| of.is(&State::Suspended) && !of.is_abandoned) else {
            return;
        };
        if of.is_over {
            self.end(session, "expired");
            return;
        }
        of.states.send_replace(State::Connected);
        let waiting = std::mem::take(&mut of.waiting);
        for watch in self.recursive.extract_if(.., |watch| watch.session == session) {
            let _ = watch.events.send(Event::Gap);
        }
        for (writes, request) in waiting {
            // What is to be lost with the next request is not meant for these: whoever breaks connections on and on would let
            // none of them through.
            self.send_now(session, writes, None, request);
        }
    }

    /// Whether a session that is not over has no client that is connected.
    pub fn is_away(&self, session: i64) -> bool {
        self.sessions.get(&session).is_some_and(|of| !of.is_over && (of.is_abandoned || !of.is(&State::Connected)))
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
                of.is_abandoned = true;
                of.waiting.clear();
                self.recursive.retain(|watch| watch.session != session);
            }
            Some(of) if of.is(&State::Connected) && self.wire.is_some() => {
                of.is_abandoned = true;
                let close = move |server: &mut Self, arrives: bool| {
                    if arrives {
                        server.end(session, "closed");
                    }
                };
                self.send(session, true, Box::new(close));
            }
            _ => self.end(session, "closed"),
        }
    }

    fn end(&mut self, session: i64, why: &str) {
        let Some(mut of) = self.sessions.remove(&session) else { return };
        let (requests, deliveries) = of.under_way.lose();
        of.under_way.news.notify_one();
        for delivery in deliveries {
            delivery(true);
        }
        of.states.send_replace(State::Ended(why.to_owned()));
        for watch in self.recursive.extract_if(.., |watch| watch.session == session) {
            let _ = watch.events.send(Event::Ended);
        }
        self.once.retain(|watch| watch.session != session);
        self.bury(session);
        // Each finds that there is no session.
        for request in requests.into_iter().chain(of.waiting.into_iter().map(|(_, request)| request)) {
            request(self, false);
        }
    }

    /// Deletes a session's ephemeral znodes.
    fn bury(&mut self, session: i64) {
        let ephemeral = self.tree.0.iter().filter(|(_, znode)| znode.stat.ephemeral_owner == session);
        let deletions = ephemeral.map(|(path, _)| OwnedOp::Delete(path.clone(), None)).collect();
        // They have no children: nothing can refuse.
        let _ = self.transact(0, deletions);
    }
}
