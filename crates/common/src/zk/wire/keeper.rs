//! [`Keeper`]: the task that keeps one session. It sends what is asked, hands out answers and what watches tell, pings, and
//! looks for a server again when the connection breaks, until the session is over.
//!
//! What is asked at about the same time goes out in one write, and what has arrived is taken in with one read: under load
//! there are some moments of rest between ([`PACE`]), because each message would otherwise wake this task, and each answer
//! another one.

use std::{
    collections::{HashMap, VecDeque},
    mem,
    time::Duration,
};

use bytes::{Buf, BytesMut};
use futures::FutureExt;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, WriteHalf},
    sync::{mpsc, oneshot, watch},
    time::Instant,
};

use super::{
    super::protocol::{Change, Error, Event, State},
    connection::{Connection, Failed, Stream, Ticket, first_message},
    jute::{Message, Reader},
    messages::{self, Below, Header, Notification},
    target::Target,
};
use crate::sys::pace::{Pace, Pacer};

const LOGGER: &str = "nodepool.zk.ZooKeeper";
/// What is kept for what is received and for what is sent; more, for a great message, only as long as it takes.
const BUFFER: usize = 16 << 10;
/// Between two rounds of all servers.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
/// How soon it looks again at what has arrived and what is to be sent.
const PACE: Pace = Pace { every: Duration::from_millis(2), at_once: 50 };

/// What it is told.
#[derive(Debug)]
pub(super) enum Order {
    /// To ask the server.
    Ask {
        message: Message,
        /// What the server watches once it has answered.
        watch: Option<Watch>,
        answer: oneshot::Sender<Answer>,
    },
    /// Nobody listens to that watch any more.
    Forget(u64),
}

/// The body of an answer.
pub(super) type Answer = Result<Vec<u8>, Error>;

/// Who is told. Paths are full ones.
#[derive(Debug)]
pub(super) enum Watch {
    Once { path: String, changed: oneshot::Sender<()> },
    Below { number: u64, path: String, events: mpsc::UnboundedSender<Event> },
}

#[derive(Debug)]
struct Asked {
    number: i32,
    watch: Option<Watch>,
    answer: oneshot::Sender<Answer>,
}

#[derive(Debug)]
struct Listener {
    number: u64,
    path: String,
    events: mpsc::UnboundedSender<Event>,
}

impl Listener {
    fn hears_of(&self, path: &str) -> bool {
        path.strip_prefix(&self.path).is_some_and(|rest| rest.is_empty() || rest.starts_with('/') || self.path == "/")
    }
}

/// See the module.
pub(super) struct Keeper {
    target: Target,
    ticket: Ticket,
    /// Which server was asked last.
    server: usize,
    state: watch::Sender<State>,
    orders: mpsc::UnboundedReceiver<Order>,
    /// Nobody can ask any more.
    is_closing: bool,
    last_number: i32,
    /// Sent, in this order, and not answered.
    asked: VecDeque<Asked>,
    once: HashMap<String, Vec<oneshot::Sender<()>>>,
    below: Vec<Listener>,
    heard: Instant,
    sent: Instant,
    is_pinged: bool,
    pacer: Pacer,
}

/// How the connection has ended.
enum End {
    /// With the session, as we wanted.
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

impl Keeper {
    /// Of the session of a connection to the server with that index.
    pub(super) fn new(
        target: Target,
        server: usize,
        ticket: Ticket,
        state: watch::Sender<State>,
        orders: mpsc::UnboundedReceiver<Order>,
    ) -> Self {
        let now = Instant::now();
        Self {
            target,
            ticket,
            server,
            state,
            orders,
            is_closing: false,
            last_number: 0,
            asked: VecDeque::new(),
            once: HashMap::new(),
            below: Vec::new(),
            heard: now,
            sent: now,
            is_pinged: false,
            pacer: Pacer::new(PACE),
        }
    }

    /// Until the session is over.
    pub(super) async fn keep(mut self, mut stream: Box<dyn Stream>) {
        let why = loop {
            let Err(end) = self.serve(stream).await;
            match end {
                End::Closed => break "closed",
                End::Broken(why) => {
                    tracing::info!(logger = LOGGER, "The connection to a ZooKeeper server broke: {why}");
                    self.interrupt(&why);
                }
            }
            match self.resume().await {
                Some(next) => stream = next,
                None => break "expired",
            }
            for listener in mem::take(&mut self.below) {
                let _ = listener.events.send(Event::Gap);
            }
            self.state.send_replace(State::Connected);
        };
        self.end(why);
    }

    /// The connection is broken.
    fn interrupt(&mut self, why: &str) {
        for asked in self.asked.drain(..) {
            let _ = asked.answer.send(Err(Error::Unanswered(why.to_owned())));
        }
        // The server has forgotten them: who waits looks again, once there is a connection.
        self.once.clear();
        for listener in &self.below {
            let _ = listener.events.send(Event::Suspended);
        }
        self.is_pinged = false;
        self.is_closing = false;
        self.state.send_replace(State::Suspended);
    }

    fn end(mut self, why: &str) {
        for listener in self.below.drain(..) {
            let _ = listener.events.send(Event::Ended);
        }
        self.orders.close();
        while let Ok(order) = self.orders.try_recv() {
            if let Order::Ask { answer, .. } = order {
                let _ = answer.send(Err(Error::SessionEnded));
            }
        }
        self.state.send_replace(State::Ended(why.to_owned()));
    }

    /// Looks for a server that resumes the session; `None`: it is over.
    async fn resume(&mut self) -> Option<Box<dyn Stream>> {
        // A server that nobody can reach may have ended it by now; we give it up a little later.
        let until = self.heard + self.ticket.timeout * 7 / 5;
        let mut pause = FIRST_PAUSE;
        loop {
            // Certificates are renewed while we run.
            let target = self.target.renewed();
            for _ in 0..target.servers.len() {
                self.server = (self.server + 1) % target.servers.len();
                let opening = Connection::open(&target, &target.servers[self.server], &self.ticket);
                match tokio::time::timeout_at(until, opening).await {
                    Ok(Ok(connection)) => {
                        self.ticket = connection.ticket;
                        self.heard = Instant::now();
                        self.sent = self.heard;
                        return Some(connection.stream);
                    }
                    Ok(Err(Failed::Expired)) | Err(_) => return None,
                    Ok(Err(Failed::Broken(why))) => {
                        tracing::debug!(logger = LOGGER, "No connection to a ZooKeeper server yet: {why}");
                    }
                }
            }
            let next = Instant::now() + pause;
            if next >= until {
                tokio::time::sleep_until(until).await;
                return None;
            }
            tokio::time::sleep_until(next).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// Serves on a connection until it ends.
    async fn serve(&mut self, stream: Box<dyn Stream>) -> Result<std::convert::Infallible, End> {
        let (mut reading, mut writing) = tokio::io::split(stream);
        let (mut received, mut to_send) = (BytesMut::with_capacity(BUFFER), BytesMut::new());
        let mut orders = Vec::new();
        let mut is_flushed = true;
        let mut is_silent = false;
        let mut timer = Box::pin(tokio::time::sleep_until(self.look_at()));
        loop {
            tokio::select! {
                read = reading.read_buf(&mut received) => {
                    if read? == 0 {
                        return Err(End::Broken("the server closed the connection".to_owned()));
                    }
                    (self.heard, is_silent) = (Instant::now(), false);
                    self.take_in(&mut received)?;
                }
                sent = send(&mut writing, &mut to_send), if !is_flushed => {
                    sent?;
                    is_flushed = true;
                }
                count = self.orders.recv_many(&mut orders, usize::MAX), if !self.is_closing => {
                    if count == 0 {
                        self.is_closing = true;
                        let (answer, _) = oneshot::channel();
                        self.ask(messages::close(), None, answer, &mut to_send);
                    }
                }
                () = &mut timer => {
                    let now = Instant::now();
                    if now >= self.heard + self.ticket.patience() {
                        // Where this process was held up, what the server has sent is there and was not read yet.
                        if mem::replace(&mut is_silent, true) {
                            let silent = (now - self.heard).as_millis();
                            return Err(End::Broken(format!("the server has not answered for {silent} ms")));
                        }
                    } else if !self.is_pinged && now >= self.sent + self.ping_after() {
                        self.is_pinged = true;
                        to_send.extend_from_slice(&messages::ping().numbered(Header::PING));
                    }
                    timer.as_mut().reset(self.look_at().max(now + self.tick()));
                }
            }
            let now = Instant::now();
            let rest_until = self.pacer.begin(now);
            while let Ok(order) = self.orders.try_recv() {
                orders.push(order);
            }
            for order in orders.drain(..) {
                self.obey(order, &mut to_send);
            }
            if !to_send.is_empty() {
                self.sent = now;
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
        (self.ticket.timeout / 20).max(Duration::from_millis(1))
    }

    /// After how long without anything else.
    fn ping_after(&self) -> Duration {
        self.tick() * 3
    }

    /// When to ping or to give up at the earliest.
    fn look_at(&self) -> Instant {
        let silence = self.heard + self.ticket.patience();
        if self.is_pinged { silence } else { silence.min(self.sent + self.ping_after()) }
    }

    fn obey(&mut self, order: Order, to_send: &mut BytesMut) {
        match order {
            Order::Ask { message, watch, answer } => self.ask(message, watch, answer, to_send),
            Order::Forget(number) => {
                let Some(at) = self.below.iter().position(|listener| listener.number == number) else { return };
                let path = self.below.swap_remove(at).path;
                if self.below.iter().all(|other| other.path != path) {
                    // Whatever else is watched there is forgotten with it: who waits for it looks again.
                    self.once.remove(&path);
                    let (answer, _) = oneshot::channel();
                    self.ask(messages::remove_watches(&path), None, answer, to_send);
                }
            }
        }
    }

    fn ask(&mut self, message: Message, watch: Option<Watch>, answer: oneshot::Sender<Answer>, to_send: &mut BytesMut) {
        self.last_number = self.last_number.checked_add(1).unwrap_or(1);
        to_send.extend_from_slice(&message.numbered(self.last_number));
        self.asked.push_back(Asked { number: self.last_number, watch, answer });
    }

    /// All messages that are there.
    fn take_in(&mut self, received: &mut BytesMut) -> Result<(), End> {
        while let Some((message, length)) = first_message(received)? {
            self.hear(message)?;
            received.advance(length);
        }
        if received.is_empty() && received.capacity() > BUFFER {
            *received = BytesMut::with_capacity(BUFFER);
        }
        Ok(())
    }

    fn hear(&mut self, message: &[u8]) -> Result<(), End> {
        let broken = |error: super::jute::Malformed| End::Broken(error.to_string());
        let mut message = Reader(message);
        let header = Header::read(&mut message).map_err(broken)?;
        match header.number {
            Header::NOTIFICATION => {
                self.tell(header.zxid, &Notification::read(&mut message).map_err(broken)?);
                return Ok(());
            }
            Header::PING => {
                self.is_pinged = false;
                return Ok(());
            }
            _ => {}
        }
        self.ticket.last_zxid = self.ticket.last_zxid.max(header.zxid);
        if self.asked.front().is_none_or(|asked| asked.number != header.number) {
            return Err(End::Broken(format!("the server answered {}, which was not asked", header.number)));
        }
        let Some(asked) = self.asked.pop_front() else { return Ok(()) };
        if self.is_closing && self.asked.is_empty() {
            return Err(End::Closed);
        }
        let answer = if header.code == 0 {
            self.watch(asked.watch);
            Ok(message.0.to_vec())
        } else {
            Err(messages::error(header.code))
        };
        let _ = asked.answer.send(answer);
        Ok(())
    }

    /// From now on the server tells of it.
    fn watch(&mut self, watch: Option<Watch>) {
        match watch {
            None => {}
            Some(Watch::Once { path, changed }) => {
                let waiting = self.once.entry(path).or_default();
                waiting.retain(|other| !other.is_closed());
                waiting.push(changed);
            }
            Some(Watch::Below { number, path, events }) => self.below.push(Listener { number, path, events }),
        }
    }

    fn tell(&mut self, zxid: i64, told: &Notification<'_>) {
        if matches!(told.change, Some(Change::Written | Change::Deleted)) {
            // Who waits is told by the end of the channel.
            self.once.remove(told.path);
        }
        for listener in self.below.iter().filter(|listener| listener.hears_of(told.path)) {
            if let Some(event) = Below(&self.target.chroot).event(zxid, told) {
                let _ = listener.events.send(event);
            }
        }
    }
}

/// All of it. May be dropped while it waits: what is sent is gone from the buffer.
async fn send(writing: &mut WriteHalf<Box<dyn Stream>>, to_send: &mut BytesMut) -> std::io::Result<()> {
    writing.write_all_buf(to_send).await?;
    writing.flush().await
}

#[cfg(test)]
mod tests;
