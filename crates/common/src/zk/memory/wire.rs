//! What is between the sessions and a [`Memory`](super::Memory): nothing, or a network that takes its time and breaks.
//!
//! With a [`Wire`] each request is on its way before it is carried out, and so is each answer and event on its way back. Those of one
//! session keep their order, as on one connection; between sessions anything overtakes anything. When a connection
//! breaks, what is on its way is lost, in both directions: whoever asked does not know what was carried out. It works
//! again when somebody says so ([`Memory::resume`](super::Memory::resume)).

use std::{collections::VecDeque, sync::Arc, time::Duration};

use tokio::{sync::Notify, time::Instant};

use super::super::protocol::SessionId;

/// What a request is going to lose, and the connection with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lost {
    /// The request: it is not carried out.
    Request,
    /// The answer: it is carried out.
    Answer,
}

/// How a request fares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Passage {
    /// How long it is on its way.
    pub takes: Duration,
    /// What breaks with it.
    pub lost: Option<Lost>,
}

/// The network: asked for each request and for each answer and event. It is asked while the server is locked: it must not use
/// the [`Memory`](super::Memory).
pub trait Wire: Send {
    /// A request is sent. `writes`: whether it changes something.
    fn request(&mut self, session: SessionId, writes: bool) -> Passage;

    /// How long an answer or an event is on its way.
    fn answer(&mut self, session: SessionId) -> Duration;

    /// A session's connection has broken.
    fn broken(&mut self, session: SessionId);
}

/// What arrives at a client, or does not.
pub(super) type Delivery = Box<dyn FnOnce(bool) + Send>;

/// What is on its way between a session and the server, each with its arrival.
pub(super) struct UnderWay<Request> {
    requests: VecDeque<(Instant, Option<Lost>, Request)>,
    deliveries: VecDeque<(Instant, Delivery)>,
    /// Something was sent, or the session is over.
    pub news: Arc<Notify>,
}

/// What has arrived.
pub(super) enum Arrived<Request> {
    Request(Request, Option<Lost>),
    Delivery(Delivery),
}

impl<Request> UnderWay<Request> {
    /// Nothing yet.
    pub fn new() -> Self {
        Self { requests: VecDeque::new(), deliveries: VecDeque::new(), news: Arc::default() }
    }

    /// Sends a request, behind those that are on their way.
    pub fn send(&mut self, passage: Passage, request: Request) {
        let before = self.requests.back().map(|(at, ..)| *at);
        self.requests.push_back((after(before, passage.takes), passage.lost, request));
        self.news.notify_one();
    }

    /// Sends an answer or an event, likewise.
    pub fn deliver(&mut self, takes: Duration, delivery: Delivery) {
        let before = self.deliveries.back().map(|(at, _)| *at);
        self.deliveries.push_back((after(before, takes), delivery));
        self.news.notify_one();
    }

    /// All that is on its way is lost.
    pub fn lose(&mut self) -> (Vec<Request>, Vec<Delivery>) {
        let requests = self.requests.drain(..).map(|(.., request)| request).collect();
        let deliveries = self.deliveries.drain(..).map(|(_, delivery)| delivery).collect();
        (requests, deliveries)
    }

    /// When the next one arrives.
    pub fn next(&self) -> Option<Instant> {
        let request = self.requests.front().map(|(at, ..)| *at);
        let delivery = self.deliveries.front().map(|(at, _)| *at);
        [request, delivery].into_iter().flatten().min()
    }

    /// Takes what has arrived by now: requests first.
    pub fn arrived(&mut self) -> Option<Arrived<Request>> {
        let now = Instant::now();
        if self.requests.front().is_some_and(|(at, ..)| *at <= now) {
            return self.requests.pop_front().map(|(_, lost, request)| Arrived::Request(request, lost));
        }
        if self.deliveries.front().is_some_and(|(at, _)| *at <= now) {
            return self.deliveries.pop_front().map(|(_, delivery)| Arrived::Delivery(delivery));
        }
        None
    }
}

fn after(before: Option<Instant>, takes: Duration) -> Instant {
    let at = Instant::now() + takes;
    before.map_or(at, |before| before.max(at))
}
