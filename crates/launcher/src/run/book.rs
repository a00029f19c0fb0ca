//! [`Book`]: what this launcher holds and does at the moment.
//!
//! It pairs the planner's view ([`Ledger`]) with the locks themselves. The loop of [`nodepool_common::daemon`]
//! owns it, alone: an action is given the locks that it works with when it begins, and what it has to say reaches the book
//! as an [`Event`](super::events::Event), in the order in which it was said. Nothing here survives the session: when that is
//! lost, the book begins anew and everything is planned from the records; what actions of before still tell is dropped, and
//! with it the locks, which are void.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    ops::{Deref, DerefMut},
};

use nodepool_common::{
    model::{LabelName, Node, NodeId, NodeRequest, RequestId, Uptime, guard},
    zk::{Held, SessionId},
};
use tokio::sync::mpsc;

use super::{
    events::{Inbox, Reports, SessionNumber},
    placing::{Answer, NoPlace, Seeker, Seekers},
};
use crate::plan::{Decision, Ledger, PoolKey, remove_where};

/// What this launcher holds and does.
#[derive(Debug)]
pub struct Book {
    ledger: Ledger,
    // In order, because that is the order in which they are given back where the launcher leaves.
    requests: BTreeMap<RequestId, Held<NodeRequest>>,
    nodes: BTreeMap<NodeId, Held<Node>>,
    /// How launches that wait for a place hear of one, or that none will come; those in the ledger's `seeking`.
    seekers: HashMap<NodeId, Seeker>,
    /// What actions of this session report with.
    reports: Reports,
    inbox: Inbox,
}

/// The lock of an accepted request, with the pool that accepted it.
pub type Accepted = (Held<NodeRequest>, PoolKey);

/// The locks that an action works with. They are its own: it unlocks them, or ends with them, which lets them go. And what of
/// the book it works with beside them.
#[derive(Debug, Default)]
pub struct Locks {
    /// Of a request.
    pub request: Option<Accepted>,
    /// Of nodes.
    pub nodes: Vec<Held<Node>>,
    /// Of an action on a backing node.
    pub seekers: Seekers,
}

impl Deref for Book {
    type Target = Ledger;

    fn deref(&self) -> &Ledger {
        &self.ledger
    }
}

impl DerefMut for Book {
    fn deref_mut(&mut self) -> &mut Ledger {
        &mut self.ledger
    }
}

impl Book {
    /// An empty book.
    pub fn new() -> Self {
        let (sender, receiver) = mpsc::unbounded_channel();
        Self {
            ledger: Ledger::default(),
            requests: BTreeMap::new(),
            nodes: BTreeMap::new(),
            seekers: HashMap::new(),
            reports: Reports::new(sender),
            inbox: Inbox::new(receiver),
        }
    }

    /// Begins anew: the session is lost. Launches stop, and what is told of the old session is no longer heard.
    pub fn start_over(&mut self) {
        self.reports = self.reports.of_next_session();
        if guard::is_removed("end of what a lost session held") {
            return;
        }
        self.ledger = Ledger::default();
        self.requests.clear();
        self.nodes.clear();
        self.seekers.clear();
    }

    /// What is decided from now on follows from what was read in that session. False: the book is still of another one.
    pub fn enter(&mut self, session: SessionId) -> bool {
        self.reports.enter(session)
    }

    /// Whether that session is the one of which the book is.
    pub fn is_of_this_session(&self, session: SessionNumber) -> bool {
        self.reports.number() == session
    }

    /// What an action of this session reports with.
    pub fn reports(&self) -> Reports {
        self.reports.clone()
    }

    /// What has been told.
    pub fn inbox(&mut self) -> &mut Inbox {
        &mut self.inbox
    }

    /// The locks that a decision needs, taken out. `None` where they are not here: the ledger and the locks have come apart, which
    /// is a bug, and the records decide.
    pub fn locks_for(&mut self, decision: &Decision) -> Option<Locks> {
        match decision {
            Decision::Fulfil { request, nodes } => {
                let request = self.take_request(request)?;
                let taken: Vec<_> = nodes.iter().filter_map(|node| self.take_node(node)).collect();
                if taken.len() != nodes.len() {
                    self.ledger.drop_request(&request.0.record().id);
                    return None;
                }
                Some(Locks { request: Some(request), nodes: taken, ..Locks::default() })
            }
            Decision::GiveUp { request, .. } | Decision::PutBack { request, .. } | Decision::Forget { request } => {
                Some(Locks { request: Some(self.take_request(request)?), ..Locks::default() })
            }
            Decision::LetGo { node, .. } => Some(Locks { nodes: vec![self.take_node(node)?], ..Locks::default() }),
            Decision::Place { on, slots, .. } => {
                let seeker =
                    |(node, slot): &(NodeId, usize)| Some((node.clone(), self.seekers.get(node)?.clone(), *slot));
                let slots = slots.iter().filter_map(seeker).collect();
                Some(Locks {
                    seekers: Seekers { slots, shown: self.ledger.shown.get(on).copied() },
                    ..Locks::default()
                })
            }
            Decision::LetBackingGo { node, .. } => {
                let shown = self.ledger.shown.get(node).copied();
                Some(Locks { seekers: Seekers { shown, ..Seekers::default() }, ..Locks::default() })
            }
            _ => Some(Locks::default()),
        }
    }

    /// Takes an accepted request's lock out. It counts as ours until the action that has it ends.
    fn take_request(&mut self, id: &RequestId) -> Option<Accepted> {
        let pool = self.ledger.requests.get(id)?.pool.clone();
        let held = self.requests.remove(id);
        if held.is_none() {
            self.ledger.drop_request(id);
        }
        Some((held?, pool))
    }

    /// Takes a node's lock out, and strikes the node.
    fn take_node(&mut self, id: &NodeId) -> Option<Held<Node>> {
        self.ledger.drop_node(id);
        self.nodes.remove(id)
    }

    /// Takes everything out: for a process that has to go.
    pub fn take_all(&mut self) -> (Vec<Accepted>, Vec<Held<Node>>) {
        let ids: Vec<_> = self.requests.keys().cloned().collect();
        let requests = ids.iter().filter_map(|id| self.take_request(id)).collect();
        (requests, std::mem::take(&mut self.nodes).into_values().collect())
    }

    /// Enters an accepted request.
    pub fn hold_request(&mut self, held: Held<NodeRequest>, pool: PoolKey) {
        let id = held.record().id.clone();
        self.ledger.accepted(id.clone(), pool);
        self.requests.insert(id, held);
    }

    /// Enters a ready node that was taken for a request.
    pub fn hold_node(&mut self, held: Held<Node>, request: RequestId, label: LabelName) {
        let id = held.record().id.clone();
        self.ledger.taken(id.clone(), request, label);
        self.nodes.insert(id, held);
    }

    /// A launch is over; its lock comes back.
    pub fn launched(&mut self, held: Held<Node>, failure: Option<String>) {
        let id = &held.record().id;
        if self.ledger.launched(id, failure) {
            self.nodes.insert(id.clone(), held);
        }
    }

    /// Enters a launch that waits for a place on a backing node.
    pub fn seek(&mut self, node: NodeId, pool: PoolKey, label: LabelName, seeker: Seeker) {
        self.seekers.insert(node.clone(), seeker);
        self.ledger.holdings_mut().seeking.insert(node, (pool, label));
    }

    /// Strikes a launch that waits no longer.
    pub fn sought(&mut self, node: &NodeId) {
        self.seekers.remove(node);
        self.ledger.holdings_mut().seeking.remove(node);
    }

    /// Tells a launch that there will be no place for it. It counts as waiting no longer.
    pub fn stop_seeking(&mut self, node: &NodeId, why: NoPlace) {
        self.ledger.holdings_mut().seeking.remove(node);
        if let Some(seeker) = self.seekers.remove(node) {
            // One that has ended is not interested.
            let _ = seeker.send(Answer::NoPlace(why));
        }
    }

    /// Notes since when nothing stands on the backing nodes.
    pub fn note_idle(&mut self, idle: BTreeSet<NodeId>, now: Uptime) {
        let since = &mut self.ledger.holdings_mut().idle_since;
        remove_where(since, |node, _| !idle.contains(node));
        for node in idle {
            if !since.contains_key(&node) {
                since.insert(node, now);
            }
        }
    }
}
