//! [`Plan`]: the outcome of planning.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::Arc,
};

use nodepool_common::{
    config::StaticHost,
    model::{LabelName, NodeId, ProviderName, RequestId, Timestamp},
};

use super::{PoolKey, Reason, Want};

/// The outcome of planning.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Plan {
    /// What to do now, most important first. No two touch the same request or node.
    pub decisions: Vec<Decision>,
    /// What the planner needs to know to decide more.
    pub wants: BTreeSet<Want>,
    /// Requests whose wait was judged one by one, per pool of ours: accepted ones, and those of which not all alike wait. All
    /// others wait as part of a class: [`Snapshot::waiting`](super::Snapshot::waiting) has both.
    pub waiting: BTreeMap<(RequestId, PoolKey), Waiting>,
    /// Requests that wait, and did not before, or for another reason.
    pub newly_waiting: Vec<NewlyWaiting>,
    /// Pools of ours in which requests wait that nobody has accepted, for what their cloud says or sets free
    /// ([`Reason::concerns_the_cloud`]).
    pub pools_waited_for: BTreeSet<PoolKey>,
    /// How often a pool has looked at a request: what it took to decide.
    pub looks: usize,
    /// How many nodes that nobody has were looked at.
    pub node_looks: usize,
    /// Pools with a request that waits for quota.
    pub paused: BTreeSet<PoolKey>,
    /// Providers with a request that waits for what other users of the project take.
    pub starved: BTreeSet<ProviderName>,
    /// Whether a request waits because its tenant has all that it may, on whatever provider.
    pub is_tenant_full: bool,
    /// Backing nodes on which nothing stands.
    pub idle_backing: BTreeSet<NodeId>,
    /// The earliest time at which the planner asks for another pass. Answers of clouds have timers of their own.
    pub wake_at: Option<Timestamp>,
}

impl Plan {
    /// How another one that was made of the same world differs in what follows from it: for people.
    pub fn differences(&self, other: &Self) -> Vec<String> {
        fn one<T: PartialEq + fmt::Debug>(what: &str, right: &T, wrong: &T) -> Option<String> {
            (right != wrong).then(|| format!("{what} were {wrong:?}, and should be {right:?}"))
        }
        let differences = [
            one("decisions", &self.decisions, &other.decisions),
            one("questions", &self.wants, &other.wants),
            one("paused pools", &self.paused, &other.paused),
            one("starved providers", &self.starved, &other.starved),
            one("whether a tenant is at its limits", &self.is_tenant_full, &other.is_tenant_full),
            one("requests that wait by themselves", &self.waiting, &other.waiting),
            one("pools in which others wait", &self.pools_waited_for, &other.pools_waited_for),
            one("idle backing nodes", &self.idle_backing, &other.idle_backing),
            one("the next wake-up", &self.wake_at, &other.wake_at),
        ];
        differences.into_iter().flatten().collect()
    }

    /// Nodes that nobody has, and that are given to a request or taken away: no more is to be decided about them.
    pub(super) fn disposed_of(&self) -> impl Iterator<Item = &NodeId> {
        self.decisions.iter().flat_map(|decision| {
            let (one, reuse) = match decision {
                Decision::Retire { node, .. } | Decision::Delete { node } => (Some(node), [].as_slice()),
                Decision::Supply { reuse, .. } => (None, reuse.as_slice()),
                _ => (None, [].as_slice()),
            };
            one.into_iter().chain(reuse.iter().map(|(node, _)| node))
        })
    }

    /// Asks to be called again at a time.
    pub(super) fn wake(&mut self, at: Timestamp) {
        self.wake_at = Some(self.wake_at.map_or(at, |earlier| earlier.min(at)));
    }

    /// Notes why a request waits.
    pub(super) fn wait(&mut self, request: &RequestId, pool: &PoolKey, waiting: Waiting) {
        self.waiting.insert((request.clone(), pool.clone()), waiting);
    }
}

/// A request that waits in a pool, and did not before, or not for just that.
#[derive(Clone, Debug, PartialEq)]
pub struct NewlyWaiting {
    /// The pool that does not serve it yet.
    pub pool: PoolKey,
    /// Which.
    pub request: RequestId,
    /// Whether all others like it that come after it wait for the same.
    pub are_others: bool,
    /// Why it waits.
    pub waiting: Waiting,
    /// Whether it paused its pool already.
    pub was_paused: bool,
}

/// Something to do, and why.
#[derive(Clone, Debug, PartialEq)]
pub enum Decision {
    /// Lock a waiting request and set it `pending`.
    Accept {
        /// The pool that will serve it.
        pool: PoolKey,
        /// Which.
        request: RequestId,
    },
    /// Lock a waiting request and add pools to `declined_by`.
    Decline {
        /// Which.
        request: RequestId,
        /// The pools of ours that will not serve it, each with its reason.
        pools: Vec<(PoolKey, Reason)>,
    },
    /// Give an accepted request nodes: ready ones, new ones.
    Supply {
        /// The pool that serves it.
        pool: PoolKey,
        /// Which.
        request: RequestId,
        /// Ready nodes to take, with the label each satisfies.
        reuse: Vec<(NodeId, LabelName)>,
        /// Nodes to launch.
        launch: Vec<NewNode>,
    },
    /// All nodes of an accepted request are ready: hand them over.
    Fulfil {
        /// Which.
        request: RequestId,
        /// In the order of its labels.
        nodes: Vec<NodeId>,
    },
    /// Decline an accepted request.
    GiveUp {
        /// Which.
        request: RequestId,
        /// Why.
        reasons: Vec<Reason>,
    },
    /// Put an accepted request back, without a decline: its pool goes away.
    PutBack {
        /// Which.
        request: RequestId,
        /// Why.
        reason: Reason,
    },
    /// An accepted request was withdrawn: let go of it.
    Forget {
        /// Which.
        request: RequestId,
    },
    /// Unlock a node we hold. A ready one becomes free for others.
    LetGo {
        /// Which.
        node: NodeId,
        /// Why.
        reason: Reason,
    },
    /// Mark an idle ready or a held node for deletion.
    Retire {
        /// Which.
        node: NodeId,
        /// Why.
        reason: Reason,
    },
    /// Delete a node from its cloud and its record.
    Delete {
        /// Which.
        node: NodeId,
    },
    /// Free a ready node whose request is gone, or that nobody has locked though its request is not fulfilled.
    Deallocate {
        /// Which.
        node: NodeId,
        /// The request that it was allocated to.
        request: RequestId,
    },
    /// Put a request back that its launcher left pending.
    ResetLost {
        /// Which.
        request: RequestId,
    },
    /// Remove a node's record that holds nothing.
    RemoveRecord {
        /// Which.
        node: NodeId,
    },
    /// Remove the lock directory of a request that is gone.
    RemoveRequestLock {
        /// Which.
        request: RequestId,
    },
    /// Ask for nodes to keep in stock, one request each.
    CreateMinReady {
        /// Of which label.
        label: LabelName,
        /// How many.
        count: usize,
    },
    /// Look at a static host, register its nodes and bring those that it has up to date.
    Attend {
        /// Its pool.
        pool: PoolKey,
        /// As it is configured.
        host: Arc<StaticHost>,
        /// The slots without a node.
        missing: Vec<usize>,
    },
    /// Ask for nodes on which those of a metastatic provider can stand, one request each.
    OrderBacking {
        /// Whose.
        provider: ProviderName,
        /// Of the nodes that are to stand on them.
        label: LabelName,
        /// What is asked for.
        backing: LabelName,
        /// How many.
        count: usize,
    },
    /// Give launches that seek a place slots of a backing node.
    Place {
        /// Whose.
        provider: ProviderName,
        /// The backing node.
        on: NodeId,
        /// Which launch's node gets which slot.
        slots: Vec<(NodeId, usize)>,
    },
    /// End the launch of a node for which no place will come.
    StopSeeking {
        /// Which.
        node: NodeId,
        /// Why.
        reason: Reason,
    },
    /// A request for a backing node is fulfilled, failed or not needed any more: take its node, let the launches that
    /// wait for it fail, or withdraw it.
    SettleBacking {
        /// Whose.
        provider: ProviderName,
        /// Which.
        request: RequestId,
    },
    /// Nothing stands on a backing node any more: give it back.
    LetBackingGo {
        /// Whose.
        provider: ProviderName,
        /// Which.
        node: NodeId,
        /// Why.
        reason: Reason,
    },
    /// A `min-ready` request of ours is fulfilled or failed: free its nodes, remove it.
    FinishMinReady {
        /// Which.
        request: RequestId,
    },
}

impl Decision {
    /// The request and the node that a decision is about.
    pub fn subjects(&self) -> (Option<&RequestId>, Option<&NodeId>) {
        match self {
            Self::Accept { request, .. }
            | Self::Decline { request, .. }
            | Self::Supply { request, .. }
            | Self::Fulfil { request, .. }
            | Self::GiveUp { request, .. }
            | Self::PutBack { request, .. }
            | Self::Forget { request }
            | Self::ResetLost { request }
            | Self::RemoveRequestLock { request }
            | Self::SettleBacking { request, .. }
            | Self::FinishMinReady { request } => (Some(request), None),
            Self::LetGo { node, .. }
            | Self::Retire { node, .. }
            | Self::Delete { node }
            | Self::Deallocate { node, .. }
            | Self::LetBackingGo { node, .. }
            | Self::StopSeeking { node, .. }
            | Self::Place { on: node, .. }
            | Self::RemoveRecord { node } => (None, Some(node)),
            Self::CreateMinReady { .. } | Self::Attend { .. } | Self::OrderBacking { .. } => (None, None),
        }
    }
}

/// A node to launch.
#[derive(Clone, Debug, PartialEq)]
pub struct NewNode {
    /// Its label.
    pub label: LabelName,
    /// Its zone; `None`: the cloud chooses.
    pub az: Option<String>,
}

/// Why a request waits.
#[derive(Clone, Debug, PartialEq)]
pub struct Waiting {
    /// Why.
    pub reason: Reason,
    /// Whether we have accepted it and it waits for quota, which pauses the pool.
    pub paused: bool,
}

/// Why a request waits, and since when it has for a reason of this kind.
#[derive(Clone, Debug, PartialEq)]
pub struct WaitingSince {
    /// Why.
    pub waiting: Waiting,
    /// Since when.
    pub since: Timestamp,
}
