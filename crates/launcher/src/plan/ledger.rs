//! What becomes of the [`Holdings`] when an action begins, tells something or ends.
//!
//! Each decision that is carried out has one entry here, from [`Ledger::begin`] to [`Ledger::end`]: what it works on is left
//! alone by the planner for exactly so long, however it ends. A launch is set aside from the decision on: first as one that
//! has no record yet (`starting`), then, from [`Ledger::on_record`] on, as the node that it makes. It is in one of both
//! places at each moment, so nothing forgets it. A pass may count it twice for a moment, when the records show the new node
//! already and nobody has said yet that it is the launch's: then it believes that there is less room than there is, and the
//! event that says so is followed by another pass.
//!
//! Pure: whoever calls it says what time it is.

use std::{ops::Deref, sync::Arc};

use imbl::OrdMap;
use nodepool_common::model::{Failures, LabelName, NodeId, Place, ProviderName, RequestId, Uptime, guard};

use super::{Decision, HeldNode, HeldRequest, Holdings, HostKey, PoolKey};

/// One decision that is being carried out.
pub type ActionId = u64;

/// Something that may fail several times in a row: each time the pause before the next attempt is twice as long.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Attempted {
    /// The deletion of a node.
    Deletion(NodeId),
    /// A look at a static host.
    Host(HostKey),
    /// A request for a node to keep in stock.
    MinReady(LabelName),
    /// A request for a node on which those of a metastatic label can stand.
    Backing(ProviderName, LabelName),
}

/// The [`Holdings`], and what is being done about them.
#[derive(Clone, Debug, Default)]
pub struct Ledger {
    holdings: Holdings,
    actions: OrdMap<ActionId, Arc<Decision>>,
    last_action: ActionId,
    failures: Failures<Attempted>,
}

/// What a [`Ledger`] said at a moment.
#[derive(Clone, Debug, Default)]
pub struct Held {
    /// What was held and done.
    pub holdings: Holdings,
    /// What was being carried out.
    pub actions: OrdMap<ActionId, Arc<Decision>>,
}

impl Deref for Ledger {
    type Target = Holdings;

    fn deref(&self) -> &Holdings {
        &self.holdings
    }
}

impl Ledger {
    /// For the planner, which asks what has changed since its last pass.
    pub fn holdings_mut(&mut self) -> &mut Holdings {
        &mut self.holdings
    }

    /// Whether nothing is held and nothing under way.
    pub fn is_idle(&self) -> bool {
        let held = &self.holdings;
        self.actions.is_empty() && held.requests.is_empty() && held.nodes.is_empty() && held.starting.is_empty()
    }

    /// Whether an action runs that has locks, or is about to tell of one that it has taken.
    pub fn has_locks_under_way(&self) -> bool {
        let has_locks = |decision: &Arc<Decision>| {
            matches!(
                **decision,
                Decision::Accept { .. }
                    | Decision::Supply { .. }
                    | Decision::Fulfil { .. }
                    | Decision::GiveUp { .. }
                    | Decision::PutBack { .. }
                    | Decision::Forget { .. }
                    | Decision::LetGo { .. }
            )
        };
        self.actions.values().any(has_locks)
    }

    /// Begins to carry a decision out.
    pub fn begin(&mut self, decision: &Decision) -> ActionId {
        let held = &mut self.holdings;
        let (request, node) = decision.subjects();
        held.busy_requests.extend(request.filter(|_| !guard::is_removed("request set aside for its action")).cloned());
        held.busy_nodes.extend(node.cloned());
        match decision {
            Decision::Supply { pool, request, reuse, launch } => {
                held.busy_nodes.extend(reuse.iter().map(|(node, _)| node.clone()));
                if !guard::is_removed("ledger entry of a launch") {
                    let starting = Arc::make_mut(&mut held.starting);
                    starting.extend(launch.iter().map(|new| (request.clone(), pool.clone(), new.label.clone())));
                }
            }
            Decision::Accept { pool, request } => {
                held.accepting.insert(request.clone(), pool.clone());
            }
            Decision::Attend { pool, host, .. } => {
                held.busy_hosts.insert(HostKey { provider: pool.provider.clone(), host: host.id.clone() });
            }
            Decision::OrderBacking { provider, label, .. } => {
                held.busy_backing.insert((provider.clone(), label.clone()));
            }
            Decision::Place { on, slots, .. } => {
                let places =
                    slots.iter().map(|(node, slot)| (node.clone(), Place { backing_node: on.clone(), slot: *slot }));
                held.placing.extend(places);
            }
            Decision::CreateMinReady { label, .. } => {
                held.busy_labels.insert(label.clone());
            }
            _ => {}
        }
        self.last_action += 1;
        self.actions.insert(self.last_action, Arc::new(decision.clone()));
        self.last_action
    }

    /// A decision has been carried out, or could not be. What it was; `None`: it is not known.
    pub fn end(&mut self, action: ActionId) -> Option<Arc<Decision>> {
        let decision = self.actions.remove(&action)?;
        let held = &mut self.holdings;
        let (request, node) = decision.subjects();
        if let Some(request) = request {
            held.busy_requests.remove(request);
        }
        if let Some(node) = node {
            held.busy_nodes.remove(node);
        }
        match &*decision {
            Decision::Supply { request, reuse, .. } => {
                for (node, _) in reuse {
                    held.busy_nodes.remove(node);
                }
                // Those that have a record are no longer among them.
                if held.starting.iter().any(|(of, _, _)| of == request) {
                    Arc::make_mut(&mut held.starting).retain(|(of, _, _)| of != request);
                }
            }
            Decision::Accept { request, .. } => {
                held.accepting.remove(request);
            }
            Decision::Fulfil { request, .. }
            | Decision::GiveUp { request, .. }
            | Decision::PutBack { request, .. }
            | Decision::Forget { request } => self.drop_request(request),
            Decision::Attend { pool, host, .. } => {
                held.busy_hosts.remove(&HostKey { provider: pool.provider.clone(), host: host.id.clone() });
            }
            Decision::OrderBacking { provider, label, .. } => {
                held.busy_backing.remove(&(provider.clone(), label.clone()));
            }
            Decision::Place { slots, .. } => {
                for (node, _) in slots {
                    held.placing.remove(node);
                }
            }
            Decision::CreateMinReady { label, .. } => {
                held.busy_labels.remove(label);
            }
            _ => {}
        }
        Some(decision)
    }

    /// Does not let what a decision was about be decided again before a time.
    pub fn put_off(&mut self, decision: &Decision, until: Uptime) {
        let (request, node) = decision.subjects();
        if let Some(request) = request {
            self.holdings.requests_after.insert(request.clone(), until);
        }
        if let Some(node) = node {
            self.holdings.nodes_after.insert(node.clone(), until);
        }
        match decision {
            Decision::CreateMinReady { label, .. } => {
                self.holdings.min_ready_after.insert(label.clone(), until);
            }
            Decision::OrderBacking { provider, label, .. } => {
                self.holdings.backing_after.insert((provider.clone(), label.clone()), until);
            }
            Decision::Attend { pool, host, .. } => {
                let key = HostKey { provider: pool.provider.clone(), host: host.id.clone() };
                self.holdings.hosts_after.insert(key, until);
            }
            _ => {}
        }
    }

    /// A request was accepted.
    pub fn accepted(&mut self, request: RequestId, pool: PoolKey) {
        self.holdings.requests.insert(request, HeldRequest { pool });
    }

    /// A request is ours no more.
    pub fn drop_request(&mut self, request: &RequestId) {
        self.holdings.requests.remove(request);
    }

    /// A launch has a record.
    pub fn on_record(&mut self, node: NodeId, request: RequestId, pool: &PoolKey, label: LabelName) {
        let starting = &mut self.holdings.starting;
        if let Some(at) = starting.iter().position(|(of, by, what)| *of == request && by == pool && *what == label) {
            Arc::make_mut(starting).swap_remove(at);
        }
        self.holdings.nodes.insert(node, HeldNode { request, label, launching: true, failure: None });
    }

    /// A ready node was taken for a request.
    pub fn taken(&mut self, node: NodeId, request: RequestId, label: LabelName) {
        self.holdings.nodes.insert(node, HeldNode { request, label, launching: false, failure: None });
    }

    /// A launch is over, and its node is still ours. Returns false where it was not known.
    pub fn launched(&mut self, node: &NodeId, failure: Option<String>) -> bool {
        let Some(held) = self.holdings.nodes.get_mut(node) else { return false };
        held.launching = false;
        held.failure = failure;
        true
    }

    /// A launch has ended. One that had not been [`Self::launched`] before has lost its lock: the records decide.
    pub fn launch_ended(&mut self, node: &NodeId) {
        if self.holdings.nodes.get(node).is_some_and(|held| held.launching) {
            self.holdings.nodes.remove(node);
        }
    }

    /// A node is handed over or let go.
    pub fn drop_node(&mut self, node: &NodeId) {
        self.holdings.nodes.remove(node);
    }

    /// The pause after another failure in a row, in seconds: doubling from `first` to `most`.
    pub fn failed_again(&mut self, what: Attempted, first: f64, most: f64) -> f64 {
        if guard::is_removed("pause after a failure") { 0.0 } else { self.failures.failed_again(what, first, most) }
    }

    /// The pause after the last failure in a row, in seconds.
    pub fn last_pause(&self, what: &Attempted, first: f64, most: f64) -> f64 {
        if guard::is_removed("pause after a failure") { 0.0 } else { self.failures.last_pause(what, first, most) }
    }

    /// Something worked: the pause after its next failure is the first one again.
    pub fn worked(&mut self, what: &Attempted) {
        self.failures.worked(what);
    }

    /// Forgets what is known of nodes that have gone meanwhile: how often their deletion failed, what was placed on them.
    pub fn forget_gone(&mut self, is_on_record: impl Fn(&NodeId) -> bool) {
        self.failures.retain(|what| !matches!(what, Attempted::Deletion(node) if !is_on_record(node)));
        remove_where(&mut self.holdings.shown, |node, _| !is_on_record(node));
    }

    /// Forgets what was to wait until a time that has come.
    pub fn tidy(&mut self, now: Uptime) {
        let held = &mut self.holdings;
        remove_where(&mut held.nodes_after, |_, at| *at <= now);
        remove_where(&mut held.requests_after, |_, at| *at <= now);
        remove_where(&mut held.min_ready_after, |_, at| *at <= now);
        remove_where(&mut held.hosts_after, |_, at| *at <= now);
        remove_where(&mut held.backing_after, |_, at| *at <= now);
        remove_where(&mut held.not_kept, |_, at| *at <= now);
    }

    /// What it says now, for those who read it while it changes. It shares what is the same.
    pub fn snapshot(&self) -> Held {
        Held { holdings: self.holdings.snapshot(), actions: self.actions.clone() }
    }
}

/// Removes the entries for which something is so. A map in which it is so for none is only read.
pub fn remove_where<K: Ord + Clone, V: Clone>(map: &mut OrdMap<K, V>, is_so: impl Fn(&K, &V) -> bool) {
    let those: Vec<K> = map.iter().filter(|(key, value)| is_so(key, value)).map(|(key, _)| key.clone()).collect();
    for key in &those {
        map.remove(key);
    }
}
