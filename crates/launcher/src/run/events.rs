//! What actions and launches tell the loop, and how it reaches the loop.
//!
//! Whatever becomes of what the launcher has begun is an [`Event`]: they arrive in one channel, in the order in
//! which they were sent, and only the loop applies them (`Launcher::apply`), before each pass. (What it begins, it notes itself; what
//! clouds answer is kept in [`Clouds`](super::clouds::Clouds).) An action reports exactly once that it has ended, also where it panics ([`Ending`]). What it tells before that is what the
//! loop must know earlier: a launch that has a record, a request for a backing node that failed.

use std::time::Duration;

use nodepool_common::{
    config::MetastaticLabel,
    model::{LabelName, Node, NodeId, NodeRequest, ProviderName, RequestId},
    zk::{Held, SessionId, ZkError},
};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::placing::Seeker;
use crate::plan::{ActionId, PoolKey, Shown};

/// What is told to the loop.
#[derive(Debug)]
pub enum Event {
    /// An action has ended.
    Ended { action: ActionId, outcome: Outcome },
    /// A request is locked by somebody else: not to be looked at for so long. Its lock's end wakes us earlier.
    RequestLocked { request: RequestId, pause: Duration },
    /// A node is: the same.
    NodeLocked { node: NodeId, pause: Duration },
    /// A ready node was taken for a request.
    Taken { held: Held<Node>, request: RequestId, label: LabelName },
    /// A launch has a record.
    OnRecord { node: NodeId, request: RequestId, pool: PoolKey, label: LabelName },
    /// A launch is over. `failure`: why its node is of no use to its request.
    Launched { held: Held<Node>, failure: Option<String> },
    /// A launch's task has ended, with or without [`Event::Launched`].
    LaunchEnded { node: NodeId },
    /// A launch waits for a place on a backing node, and is to be told of one, or that none will come.
    Seeks { node: NodeId, pool: PoolKey, label: LabelName, answers: Seeker },
    /// It waits no longer.
    SeeksNoMore { node: NodeId },
    /// A backing node is not locked for its provider now: it is left out of account for a while.
    NotKept { node: NodeId },
    /// A request for a backing node failed, or its node cannot be taken.
    BackingFailed { provider: ProviderName, label: Box<MetastaticLabel>, request: RequestId, why: String },
    /// A `min-ready` request failed.
    MinReadyFailed { request: RequestId, labels: Vec<LabelName> },
}

/// How an action has ended.
#[derive(Debug)]
pub enum Outcome {
    /// It has done what was decided, or there was no cause for it any more.
    Done,
    /// It failed.
    Failed(ZkError),
    /// It ended without a word: a panic, or the end of the process.
    Vanished,
    /// A request was accepted.
    Accepted(Held<NodeRequest>),
    /// Nodes that were launched to be kept in stock are in it.
    Stocked(Vec<LabelName>),
    /// None of our pools takes a request for nodes to keep in stock.
    StockRefused(Vec<LabelName>),
    /// A node is deleted.
    Deleted,
    /// A node's server cannot be deleted now. The pause grows to so many seconds.
    NotDeleted { trouble: String, longest: f64 },
    /// A host can be used. `registered`: all that was missing is.
    HostSeen { registered: bool },
    /// A host cannot be used. `failed`: why a ready node of it could not be taken away.
    HostOutOfReach { why: String, failed: Option<ZkError> },
    /// A backing node was taken for nodes of this label.
    BackingTaken(ProviderName, LabelName),
    /// The records show all that was placed on a backing node, up to there.
    Shown(Shown),
}

/// Counts the sessions of this process.
pub type SessionNumber = u64;

/// What arrives at the loop.
#[derive(Debug)]
pub struct Told {
    /// The session in which it was told.
    pub session: SessionNumber,
    /// What has happened.
    pub event: Event,
}

/// Tells the loop what happens in one session.
#[derive(Clone, Debug)]
pub struct Reports {
    events: mpsc::UnboundedSender<Told>,
    number: SessionNumber,
    /// ZooKeeper's name for it; 0 until a pass is made in it.
    id: SessionId,
    session: CancellationToken,
}

impl Reports {
    /// Of the first session.
    pub(super) fn new(events: mpsc::UnboundedSender<Told>) -> Self {
        Self { events, number: 1, id: SessionId(0), session: CancellationToken::new() }
    }

    /// Ends this session, for all who report of it.
    pub(super) fn of_next_session(&self) -> Self {
        self.session.cancel();
        let (number, session) = (self.number + 1, CancellationToken::new());
        Self { events: self.events.clone(), number, id: SessionId(0), session }
    }

    /// Of which session all this is, if none has been named yet. False: it is of another one.
    pub(super) fn enter(&mut self, id: SessionId) -> bool {
        if self.id == SessionId(0) {
            self.id = id;
        }
        self.id == id
    }

    /// Which session it is.
    pub fn number(&self) -> SessionNumber {
        self.number
    }

    /// The ZooKeeper session in which it was decided what is done here: what takes no lock is done in that one or not at all.
    pub fn session_id(&self) -> SessionId {
        self.id
    }

    /// Cancelled when the session is lost: launches stop, their locks are void.
    pub fn session(&self) -> &CancellationToken {
        &self.session
    }

    /// Whether it is.
    pub fn is_over(&self) -> bool {
        self.session.is_cancelled()
    }

    /// Tells something. After the end of the loop nobody hears it.
    pub fn tell(&self, event: Event) {
        let _ = self.events.send(Told { session: self.number, event });
    }
}

/// Where it arrives.
#[derive(Debug)]
pub struct Inbox(mpsc::UnboundedReceiver<Told>);

impl Inbox {
    pub(super) fn new(receiver: mpsc::UnboundedReceiver<Told>) -> Self {
        Self(receiver)
    }

    /// Waits for the next event. May be dropped while it waits.
    pub async fn next(&mut self) -> Option<Told> {
        self.0.recv().await
    }

    /// The next event, if it is there.
    pub fn try_next(&mut self) -> Option<Told> {
        self.0.try_recv().ok()
    }
}

/// Reports the end of an action when it is dropped.
pub struct Ending {
    reports: Reports,
    action: ActionId,
    outcome: Outcome,
}

impl Ending {
    /// Of an action that begins.
    pub fn of(action: ActionId, reports: Reports) -> Self {
        Self { reports, action, outcome: Outcome::Vanished }
    }

    /// It has ended like this.
    pub fn with(mut self, outcome: Outcome) {
        self.outcome = outcome;
    }
}

impl Drop for Ending {
    fn drop(&mut self) {
        let outcome = std::mem::replace(&mut self.outcome, Outcome::Vanished);
        self.reports.tell(Event::Ended { action: self.action, outcome });
    }
}

/// Reports the end of a launch's task when it is dropped, so that no launch stays in the book that ends without a word: with
/// a lost lock, by a panic.
pub struct LaunchEnds {
    pub(super) reports: Reports,
    pub(super) node: NodeId,
}

impl Drop for LaunchEnds {
    fn drop(&mut self) {
        self.reports.tell(Event::LaunchEnded { node: self.node.clone() });
    }
}
