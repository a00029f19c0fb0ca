//! [`Memory`]: a ZooKeeper in this process's memory, for tests that run more than a real one can, or more exactly.
//!
//! It has what Nodepool uses of one: sessions with ephemeral znodes, numbered names, versions, transactions, `multi`, reads of
//! many, one-shot and persistent recursive watches. It carries each request out at the call, in one order for all sessions, so
//! nothing depends on time: the clock is given. Whoever holds it breaks connections, has answers lost and sessions end. The
//! same tests run against it and against a real ZooKeeper (`tests/zk_conformance.rs`).
//!
//! What is between it and the sessions is a [`Wire`]: without one everything arrives at once. An [`Observer`] is told of each
//! transaction.
//!
//! It is one server, which never lags: `sync` has nothing to do. It knows no access rights, no limit of sizes and no state in
//! which it only reads, and sessions last until somebody ends them.

mod carry;
mod server;
mod tree;
mod wire;

use std::{
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use futures::{FutureExt, StreamExt, future::BoxFuture, stream, stream::BoxStream};
use tokio::sync::oneshot;

pub use self::{
    server::Observer,
    tree::Tree,
    wire::{Lost, Passage, Wire},
};
use self::{
    server::{OwnedOp, Server},
    tree::Znode,
};
use super::protocol::{
    Answer, Change, Changed, Client, Connector, Done, Error, Events, Found, Mode, MultiError, Op, Read, Session,
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
        Self { server: Arc::new(Mutex::new(Server::new(Box::new(clock)))) }
    }

    /// Puts a network between it and the sessions that begin from now on, in the runtime from which they are begun.
    pub fn set_wire(&self, wire: impl Wire + 'static) {
        self.server().wire = Some(Box::new(wire));
    }

    /// Has somebody told of each transaction, in the middle of it: he must not use this `Memory`.
    pub fn set_observer(&self, observer: impl FnMut(SessionId, &[(Change, String)], &Tree) + Send + 'static) {
        self.server().observer = Some(Box::new(observer));
    }

    /// What there is now.
    pub fn look<T>(&self, at: impl FnOnce(&Tree) -> T) -> T {
        at(self.server().tree())
    }

    /// Breaks a session's connection: what is asked waits, events are lost.
    pub fn suspend(&self, session: SessionId) {
        self.server().suspend(session.0);
    }

    /// The connection of a suspended session works again: what waits is carried out, in the order in which it was asked. Where
    /// the session has expired meanwhile, its client learns of that now.
    pub fn resume(&self, session: SessionId) {
        self.server().resume(session.0);
    }

    /// Ends a session; its ephemeral znodes are gone. While its connection is broken its client does not know.
    pub fn expire(&self, session: SessionId) {
        self.server().expire(session.0);
    }

    /// Whether a session is not over, and its client not connected: a server would let it expire.
    pub fn is_away(&self, session: SessionId) -> bool {
        self.server().is_away(session.0)
    }

    /// The connection breaks with the session's next request, which is carried out: its answer is lost.
    pub fn lose_answer(&self, session: SessionId) {
        self.lose(session, Some(Lost::Answer));
    }

    /// The connection breaks with the session's next request, which is never carried out.
    pub fn lose_request(&self, session: SessionId) {
        self.lose(session, Some(Lost::Request));
    }

    /// The connection does not break with the session's next request, whatever was said before.
    pub fn lose_nothing(&self, session: SessionId) {
        self.lose(session, None);
    }

    /// From now on a session's reads of many that list children are not sent: a walk of the tree takes as long as the caller wants.
    pub fn hold_listings(&self, session: SessionId) {
        self.set_holds_listings(session, true);
    }

    /// Sends the listings that were held, and those that follow at once.
    pub fn release_listings(&self, session: SessionId) {
        self.set_holds_listings(session, false);
    }

    fn set_holds_listings(&self, session: SessionId, holds: bool) {
        if let Some(of) = self.server().sessions.get(&session.0) {
            of.holds_listings.send_replace(holds);
        }
    }

    fn lose(&self, session: SessionId, lost: Option<Lost>) {
        if let Some(of) = self.server().sessions.get_mut(&session.0) {
            of.lost = lost;
        }
    }

    fn server(&self) -> MutexGuard<'_, Server> {
        self.server.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Connector for Memory {
    fn connect(&self) -> BoxFuture<'_, Result<Client, String>> {
        let (id, news) = self.server().begin();
        if let Some(news) = news {
            tokio::spawn(carry::carry(Arc::downgrade(&self.server), id, news));
        }
        let client: Client = Arc::new(InMemory { memory: self.clone(), id });
        std::future::ready(Ok(client)).boxed()
    }

    fn servers(&self) -> &[config::ZooKeeperServer] {
        &[]
    }

    fn addresses(&self) -> String {
        "in memory".to_owned()
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
        self.memory.server().close(self.id);
    }
}

impl InMemory {
    /// Has a request carried out: now, when it has arrived, or when the session is resumed; or it is lost. `writes`: whether it
    /// changes something.
    fn ask<T: Send + 'static, E: From<Error> + Send + 'static>(
        &self,
        writes: bool,
        request: impl FnOnce(&mut Server) -> Result<T, E> + Send + 'static,
    ) -> Answer<'static, T, E> {
        let mut server = self.memory.server();
        let (answer, answered) = oneshot::channel();
        let id = self.id;
        let unanswered = || Err(Error::Unanswered("the connection broke".to_owned()).into());
        let request = move |server: &mut Server, arrives: bool| {
            if !server.sessions.contains_key(&id) {
                let _ = answer.send(Err(Error::SessionEnded.into()));
                return;
            }
            if !arrives {
                let _ = answer.send(unanswered());
                return;
            }
            let result = request(server);
            let delivery = move |arrives| drop(answer.send(if arrives { result } else { unanswered() }));
            server.deliver(id, Box::new(delivery));
        };
        server.send(id, writes, Box::new(request));
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
        self.ask(true, move |server| match server.one(id, op)? {
            Done::Created(path, Some(stat)) => Ok((path, stat)),
            other => Err(Error::unexpected(&other)),
        })
    }

    fn delete(&self, path: &str, version: Option<i32>) -> Answer<'_, ()> {
        let (id, op) = (self.id, OwnedOp::Delete(path.to_owned(), version));
        self.ask(true, move |server| server.one(id, op).map(drop))
    }

    fn set(&self, path: &str, data: &[u8], version: Option<i32>) -> Answer<'_, Stat> {
        let (id, op) = (self.id, OwnedOp::Set(path.to_owned(), data.to_owned(), version));
        self.ask(true, move |server| match server.one(id, op)? {
            Done::Set(stat) => Ok(stat),
            other => Err(Error::unexpected(&other)),
        })
    }

    fn get(&self, path: &str) -> Answer<'_, (Vec<u8>, Stat)> {
        let path = path.to_owned();
        self.ask(false, move |server| server.get(&path).map(|znode| (znode.data.clone(), znode.stat())))
    }

    fn get_and_watch(&self, path: &str) -> Answer<'_, (Vec<u8>, Stat, Changed)> {
        let (id, path) = (self.id, path.to_owned());
        self.ask(false, move |server| {
            let (data, stat) = server.get(&path).map(|znode| (znode.data.clone(), znode.stat()))?;
            Ok((data, stat, server.watch_once(id, path).map(drop).boxed()))
        })
    }

    fn exists(&self, path: &str) -> Answer<'_, Option<Stat>> {
        let path = path.to_owned();
        self.ask(false, move |server| Ok(server.find(&path).map(Znode::stat)))
    }

    fn children(&self, path: &str) -> Answer<'_, Vec<String>> {
        let path = path.to_owned();
        self.ask(false, move |server| server.get(&path).map(Znode::children))
    }

    fn sync(&self, _: &str) -> Answer<'_, ()> {
        self.ask(false, |_| Ok(()))
    }

    fn read(&self, reads: &[Read<'_>]) -> Answer<'_, Vec<Result<Found, Error>>> {
        let reads: Vec<(bool, String)> = reads
            .iter()
            .map(|read| match *read {
                Read::Data(path) => (true, path.to_owned()),
                Read::Children(path) => (false, path.to_owned()),
            })
            .collect();
        let lists = reads.iter().any(|(is_data, _)| !is_data);
        let read = move |server: &mut Server| {
            let find = |(is_data, path): &(bool, String)| {
                let znode = server.get(path)?;
                Ok(if *is_data {
                    Found::Data(znode.data.clone(), znode.stat())
                } else {
                    Found::Children(znode.children())
                })
            };
            Ok(reads.iter().map(find).collect())
        };
        let holds = self.memory.server().sessions.get(&self.id).map(|session| session.holds_listings.subscribe());
        match holds.filter(|holds| lists && *holds.borrow()) {
            None => self.ask(false, read),
            Some(mut holds) => async move {
                // Where the session has ended, the answer says so.
                let _ = holds.wait_for(|holds| !*holds).await.map(drop);
                self.ask(false, read).await
            }
            .boxed(),
        }
    }

    fn multi(&self, operations: &[Op<'_>]) -> Answer<'_, Vec<Done>, MultiError> {
        let (id, operations) = (self.id, operations.iter().map(OwnedOp::from).collect());
        self.ask(true, move |server| {
            let mut done = server.transact(id, operations)?;
            for part in &mut done {
                // As a real one (ZOOKEEPER-4667).
                if let Done::Created(_, stat) = part {
                    *stat = None;
                }
            }
            Ok(done)
        })
    }

    fn watch(&self, path: &str) -> Answer<'_, Events> {
        let (id, path) = (self.id, path.to_owned());
        self.ask(false, move |server| {
            let told = server.watch_below(id, path);
            let events = stream::unfold(told, |mut told| async move { told.recv().await.map(|event| (event, told)) });
            Ok(events.boxed())
        })
    }
}
