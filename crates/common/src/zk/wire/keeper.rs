//! [`Keeper`]: the task that keeps one session. It sends requests, hands out replies and watch events, pings, and resumes the
//! session with another server when the connection breaks, until the session is over.
//!
//! Requests that are made at about the same time go out in one write, and all that has arrived is read at once: under load
//! there are some moments of rest between ([`PACE`]), because each message would otherwise wake this task, and each reply
//! another one.
//!
//! A session without a connection is over when a server says so, not after a time of ours, as with kazoo: servers that were all
//! down for longer than its timeout give it its full time again, with its locks. There are two exceptions. One that nobody uses
//! any more is left to expire. And one that a server refuses which begins others is over once its time has passed: servers that
//! were set back to an older state would refuse it until they have got as far as the transactions that we know of.

use std::{
    collections::{HashSet, VecDeque},
    mem,
    time::Duration,
};

use bytes::BytesMut;
use futures::FutureExt;
use tokio::{
    io::{AsyncWriteExt, WriteHalf},
    sync::{mpsc, oneshot, watch},
    time::Instant,
};
use tokio_util::sync::CancellationToken;

use super::{
    super::protocol::{Error, SessionId, State},
    addresses::Failed,
    backoff::Backoff,
    connection::{Connection, Credentials, Stream},
    diagnose::diagnose,
    jute::{Malformed, Message, Reader},
    messages::{self, Chroot, Header, WatcherEvent},
    received::Received,
    target::{Target, address},
    watches::{Watch, Watches},
};
use crate::{
    config,
    sys::pace::{Pace, Pacer},
};

const LOGGER: &str = "nodepool.zk.ZooKeeper";
/// What is kept for what is sent; more, for many requests, only as long as it takes.
const BUFFER: usize = 16 << 10;
/// How often is found out what is wrong with the servers, after the first time.
const DIAGNOSIS: Duration = Duration::from_secs(60);
/// How soon it looks again at what has arrived and what is to be sent.
const PACE: Pace = Pace { every: Duration::from_millis(2), at_once: 50 };

/// What the session's users want of its task.
#[derive(Debug)]
pub(super) enum Command {
    /// A request to the server.
    Request {
        message: Message,
        /// What the server watches once it has replied.
        watch: Option<Watch>,
        reply: oneshot::Sender<Reply>,
    },
    /// Nobody waits for the events of that persistent watch any more.
    RemoveWatch(u64),
}

/// The body of a reply.
pub(super) type Reply = Result<Vec<u8>, Error>;

/// A request without a reply yet.
#[derive(Debug)]
struct Pending {
    xid: i32,
    begun: Instant,
    watch: Option<Watch>,
    reply: oneshot::Sender<Reply>,
}

/// See the module.
pub(super) struct Keeper {
    target: Target,
    credentials: Credentials,
    /// The index in [`Target::ring`] of the server that was tried last.
    server: usize,
    /// How the server of the connection is named in the log.
    server_name: String,
    state: watch::Sender<State>,
    commands: mpsc::UnboundedReceiver<Command>,
    /// Cancelled: what waits for another connection waits in vain.
    given_up: CancellationToken,
    /// Nobody uses the session any more.
    is_closing: bool,
    last_xid: i32,
    /// In the order in which they were sent.
    pending: VecDeque<Pending>,
    watches: Watches,
    connected_at: Instant,
    last_received: Instant,
    last_sent: Instant,
    is_ping_pending: bool,
    backoff: Backoff,
    /// What attempts have failed with since the last connection that has lasted.
    problems: HashSet<String>,
    pacer: Pacer,
}

/// How a connection has ended.
enum End {
    /// With the session, by our request.
    Closed,
    Broken(String),
}

impl From<Failed> for End {
    fn from(failed: Failed) -> Self {
        Self::Broken(failed.to_string())
    }
}

impl From<std::io::Error> for End {
    fn from(error: std::io::Error) -> Self {
        Self::Broken(error.to_string())
    }
}

impl From<Malformed> for End {
    fn from(error: Malformed) -> Self {
        Self::Broken(error.to_string())
    }
}

impl Keeper {
    /// Of the session of that connection, to the server with that index.
    pub(super) fn new(
        target: Target,
        server: usize,
        connection: &Connection,
        state: watch::Sender<State>,
        commands: mpsc::UnboundedReceiver<Command>,
        given_up: CancellationToken,
    ) -> Self {
        let now = Instant::now();
        Self {
            backoff: Backoff::new(target.entropy.clone()),
            target,
            credentials: connection.credentials.clone(),
            server,
            server_name: connection.server.clone(),
            state,
            commands,
            given_up,
            is_closing: false,
            last_xid: 0,
            pending: VecDeque::new(),
            watches: Watches::default(),
            connected_at: now,
            last_received: now,
            last_sent: now,
            is_ping_pending: false,
            problems: HashSet::new(),
            pacer: Pacer::new(PACE),
        }
    }

    /// Until the session is over.
    pub(super) async fn keep(mut self, mut stream: Box<dyn Stream>) {
        let why = loop {
            let Err(end) = self.serve(stream).await;
            match end {
                End::Closed => break "closed",
                End::Broken(why) => self.suspend(&why),
            }
            let given_up = self.given_up.clone();
            match given_up.run_until_cancelled(self.resume()).await.unwrap_or(Err("given up")) {
                Ok(next) => stream = next,
                Err(why) => break why,
            }
            self.watches.resume();
            self.state.send_replace(State::Connected);
        };
        self.end(why);
    }

    fn id(&self) -> SessionId {
        SessionId(self.credentials.id)
    }

    /// The connection is broken. The state first: who sees that a request has failed sees why, too.
    fn suspend(&mut self, why: &str) {
        let (id, server) = (self.id(), &self.server_name);
        tracing::info!(logger = LOGGER, "Session {id} has lost its connection to {server}: {why}");
        self.state.send_replace(State::Suspended);
        self.watches.suspend();
        for pending in self.pending.drain(..) {
            let _ = pending.reply.send(Err(Error::Unanswered(why.to_owned())));
        }
        self.is_ping_pending = false;
        self.is_closing = false;
        if self.connected_at.elapsed() < self.credentials.timeout / 3 {
            self.backoff.failed();
        } else {
            self.backoff.reset();
            self.problems.clear();
        }
    }

    fn end(mut self, why: &str) {
        self.state.send_replace(State::Ended(why.to_owned()));
        self.watches.end();
        self.commands.close();
        while let Ok(command) = self.commands.try_recv() {
            if let Command::Request { reply, .. } = command {
                let _ = reply.send(Err(Error::SessionEnded));
            }
        }
    }

    /// Tries one server after the other until one of them resumes the session. The error is why it is over.
    async fn resume(&mut self) -> Result<Box<dyn Stream>, &'static str> {
        let (mut diagnose_at, mut diagnosis) = (self.last_received + self.credentials.timeout, String::new());
        loop {
            tokio::time::sleep(self.backoff.pause(self.target.ring.len())).await;
            if self.commands.is_closed() && self.last_received.elapsed() >= self.credentials.timeout {
                return Err("closed while there was no connection");
            }
            // Certificates are renewed while we run.
            let target = self.target.renewed();
            if Instant::now() >= diagnose_at {
                let found = diagnose(&target).await;
                if found != diagnosis {
                    tracing::warn!(logger = LOGGER, "Session {} is still not resumed, trying on: {found}", self.id());
                }
                (diagnose_at, diagnosis) = (Instant::now() + DIAGNOSIS, found);
            }
            self.server = (self.server + 1) % target.ring.len();
            let server = &target.ring[self.server];
            match Connection::open(&target, server, &self.credentials).await {
                Ok(connection) => return Ok(self.resumed(connection)),
                Err(Failed::Expired) => return Err("expired"),
                Err(failed) => {
                    self.backoff.failed();
                    let problem = format!("Session {} is not resumed by {}: {failed}", self.id(), address(server));
                    if self.problems.contains(&problem) {
                        tracing::debug!(logger = LOGGER, "{problem}");
                    } else {
                        tracing::info!(logger = LOGGER, "{problem}");
                        self.problems.insert(problem);
                    }
                    let is_old = self.last_received.elapsed() >= self.credentials.timeout * 7 / 5;
                    if is_old && matches!(failed, Failed::Refused(_)) && begins_sessions(&target, server).await {
                        // It may have begun to serve a moment ago.
                        match Connection::open(&target, server, &self.credentials).await {
                            Ok(connection) => return Ok(self.resumed(connection)),
                            Err(Failed::Refused(_)) => return Err("refused by a server that begins others"),
                            Err(Failed::Expired) => return Err("expired"),
                            Err(Failed::Broken(_)) => {}
                        }
                    }
                }
            }
        }
    }

    fn resumed(&mut self, connection: Connection) -> Box<dyn Stream> {
        let now = Instant::now();
        self.credentials = connection.credentials;
        self.server_name = connection.server;
        (self.connected_at, self.last_received, self.last_sent) = (now, now, now);
        tracing::info!(logger = LOGGER, "Session {} is resumed by {}", self.id(), self.server_name);
        connection.stream
    }

    /// Serves on a connection until it ends.
    async fn serve(&mut self, stream: Box<dyn Stream>) -> Result<std::convert::Infallible, End> {
        let (mut reading, mut writing) = tokio::io::split(stream);
        let (mut received, mut to_send) = (Received::new(), BytesMut::new());
        let mut commands = Vec::new();
        let mut is_flushed = true;
        let mut is_silent = false;
        let mut timer = Box::pin(tokio::time::sleep_until(self.look_at()));
        loop {
            tokio::select! {
                read = received.fill(&mut reading) => {
                    if read? == 0 {
                        return Err(End::Broken("the server closed the connection".to_owned()));
                    }
                    (self.last_received, is_silent) = (Instant::now(), false);
                    received.process(|message| self.process(message, &mut to_send))?;
                }
                sent = send(&mut writing, &mut to_send), if !is_flushed => {
                    sent?;
                    is_flushed = true;
                }
                count = self.commands.recv_many(&mut commands, usize::MAX), if !self.is_closing => {
                    if count == 0 {
                        self.is_closing = true;
                        self.request_unawaited(messages::close(), &mut to_send);
                    }
                }
                () = &mut timer => {
                    let now = Instant::now();
                    if now >= self.last_received + self.credentials.response_timeout() {
                        // Where this process was held up, what the server has sent is there and was not read yet.
                        if mem::replace(&mut is_silent, true) {
                            let silent = (now - self.last_received).as_millis();
                            return Err(End::Broken(format!("the server has not answered for {silent} ms")));
                        }
                    } else if !self.is_ping_pending && now >= self.last_sent + self.ping_after() {
                        self.is_ping_pending = true;
                        to_send.extend_from_slice(&messages::ping().with_xid(Header::PING));
                    }
                    timer.as_mut().reset(self.look_at().max(now + self.tick()));
                }
            }
            let now = Instant::now();
            let rest_until = self.pacer.begin(now);
            while let Ok(command) = self.commands.try_recv() {
                commands.push(command);
            }
            for command in commands.drain(..) {
                self.execute(command, &mut to_send);
            }
            if !to_send.is_empty() {
                self.last_sent = now;
                is_flushed = match send(&mut writing, &mut to_send).now_or_never() {
                    Some(sent) => sent.map(|()| true)?,
                    None => false,
                };
                if to_send.is_empty() && to_send.capacity() > BUFFER {
                    to_send = BytesMut::new();
                }
            }
            if rest_until > now {
                tokio::time::sleep_until(rest_until).await;
            }
        }
    }

    /// Of pings and timeouts.
    fn tick(&self) -> Duration {
        (self.credentials.timeout / 20).max(Duration::from_millis(1))
    }

    /// After how long without a request a ping is sent.
    fn ping_after(&self) -> Duration {
        self.tick() * 3
    }

    /// When to ping or to give the connection up at the earliest.
    fn look_at(&self) -> Instant {
        let silence = self.last_received + self.credentials.response_timeout();
        if self.is_ping_pending { silence } else { silence.min(self.last_sent + self.ping_after()) }
    }

    fn execute(&mut self, command: Command, to_send: &mut BytesMut) {
        match command {
            Command::Request { message, watch, reply } => self.request(message, watch, reply, to_send),
            Command::RemoveWatch(id) => {
                let unused = self.watches.remove(id);
                self.remove_watches(unused, to_send);
            }
        }
    }

    fn request(
        &mut self,
        message: Message,
        watch: Option<Watch>,
        reply: oneshot::Sender<Reply>,
        to_send: &mut BytesMut,
    ) {
        self.last_xid = self.last_xid.checked_add(1).unwrap_or(1);
        to_send.extend_from_slice(&message.with_xid(self.last_xid));
        self.pending.push_back(Pending { xid: self.last_xid, begun: Instant::now(), watch, reply });
    }

    /// A request whose reply nobody waits for.
    fn request_unawaited(&mut self, message: Message, to_send: &mut BytesMut) {
        let (reply, _) = oneshot::channel();
        self.request(message, None, reply, to_send);
    }

    /// Has the server remove its watches at that path, unless one is on its way to it: that one would be removed, too.
    fn remove_watches(&mut self, path: Option<String>, to_send: &mut BytesMut) {
        let Some(path) = path.filter(|_| !self.is_closing) else { return };
        let mut requested = self.pending.iter().filter_map(|pending| pending.watch.as_ref());
        if !requested.any(|watch| watch.path() == path) {
            self.request_unawaited(messages::remove_watches(&path), to_send);
        }
    }

    /// Processes a message of the server.
    fn process(&mut self, message: &[u8], to_send: &mut BytesMut) -> Result<(), End> {
        let mut message = Reader(message);
        let header = Header::read(&mut message)?;
        match header.xid {
            Header::WATCHER_EVENT => {
                let event = WatcherEvent::read(&mut message)?;
                self.watches.dispatch(Chroot(&self.target.chroot), header.zxid, &event);
                return Ok(());
            }
            Header::PING => {
                self.is_ping_pending = false;
                return Ok(());
            }
            _ => {}
        }
        self.credentials.last_zxid = self.credentials.last_zxid.max(header.zxid);
        if self.pending.front().is_none_or(|pending| pending.xid != header.xid) {
            return Err(End::Broken(format!("the server replied to {}, which is not the oldest request", header.xid)));
        }
        let Some(pending) = self.pending.pop_front() else { return Ok(()) };
        self.target.replies.came_after(pending.begun.elapsed());
        if self.is_closing && self.pending.is_empty() {
            return Err(End::Closed);
        }
        let reply = if header.code == 0 {
            if let Some(watch) = pending.watch {
                let unused = self.watches.confirm(watch);
                self.remove_watches(unused, to_send);
            }
            Ok(message.0.to_vec())
        } else {
            Err(messages::error(header.code))
        };
        let _ = pending.reply.send(reply);
        Ok(())
    }
}

/// Whether a server begins new sessions. The one that it begins is closed.
async fn begins_sessions(target: &Target, server: &config::ZooKeeperServer) -> bool {
    let Ok(mut new) = Connection::open(target, server, &Credentials::new(target.timeout)).await else { return false };
    // It ends by itself where that fails.
    let _ = new.stream.write_all(&messages::close().with_xid(1)).await;
    let _ = new.stream.flush().await;
    true
}

/// All of it. May be dropped while it waits: what is sent is gone from the buffer.
async fn send(writing: &mut WriteHalf<Box<dyn Stream>>, to_send: &mut BytesMut) -> std::io::Result<()> {
    writing.write_all_buf(to_send).await?;
    writing.flush().await
}

#[cfg(test)]
mod tests;
