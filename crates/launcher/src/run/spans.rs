//! The spans of what is done for requests and nodes ([`nodepool_common::trace`]).
//!
//! | span | below | from, to |
//! |---|---|---|
//! | `NodeRequest` | Zuul's span for the request, else none | asked for; fulfilled, declined, put back, withdrawn |
//! | `Wait` | `NodeRequest` | asked for; accepted by a pool of ours |
//! | `LaunchNode` | `NodeRequest` | the node is on record; it is ready, or there will be none |
//! | `LaunchAttempt`, `UndoAttempt` | `LaunchNode` | an attempt; the deletion of what a failed one has made |
//! | `ScanHostKeys` | `LaunchAttempt` | the server is active; its keys are known |
//! | `HandOver` | `NodeRequest` | all nodes are ready; the request says so |
//! | `DeleteNode` | `LaunchNode`, where this launcher has launched it | it is locked for that; its server is gone, or cannot be deleted now |
//! | `create_server`, … | the one of these that calls | a call of the cloud, by the name that metrics have for it |
//!
//! The span of a request is there from its acceptance on: each launcher tells of what it has served itself.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    fmt::Display,
    sync::{Mutex, MutexGuard, PoisonError},
};

use nodepool_common::{
    model::{LabelName, NodeId, NodeRequest, RequestId},
    trace::{Parent, Span, Tracer},
};

use crate::plan::PoolKey;

/// Of so many nodes it is known in which trace they were launched; the end of others begins one of its own.
const NODES: usize = 20_000;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Spans {
    tracer: Tracer,
    /// Of accepted requests.
    requests: Mutex<HashMap<RequestId, Span>>,
    nodes: Mutex<Nodes>,
}

/// The launch of each node, and the nodes in the order in which they were launched.
#[derive(Debug, Default)]
struct Nodes {
    launched: BTreeMap<NodeId, Parent>,
    order: VecDeque<NodeId>,
}

impl Spans {
    pub fn new(tracer: Tracer) -> Self {
        Self { tracer, ..Self::default() }
    }

    fn requests(&self) -> MutexGuard<'_, HashMap<RequestId, Span>> {
        self.requests.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn nodes(&self) -> MutexGuard<'_, Nodes> {
        self.nodes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A pool of ours has accepted a request.
    pub fn accepted(&self, request: &NodeRequest, pool: &PoolKey) {
        if !self.tracer.is_on() {
            return;
        }
        let labels: Vec<String> = request.node_types.iter().map(ToString::to_string).collect();
        let mut span = self.tracer.begin_at("NodeRequest", Parent::of_request(request), request.created_time);
        span.part_until_now("Wait");
        span.set("nodepool.request", request.id.as_str());
        span.set("nodepool.labels", labels);
        span.set("nodepool.provider", pool.provider.as_str());
        span.set("nodepool.pool", pool.pool.as_str());
        if let Some(event) = &request.event_id {
            span.set("zuul.event", event.as_str());
        }
        if let Some(tenant) = &request.tenant_name {
            span.set("zuul.tenant", tenant.as_str());
        }
        self.requests().insert(request.id.clone(), span);
    }

    /// A part of what is done for an accepted request.
    pub fn part(&self, request: &RequestId, name: &'static str) -> Span {
        if !self.tracer.is_on() {
            return Span::default();
        }
        self.requests().get(request).map_or_else(Span::default, |span| span.part(name))
    }

    /// Nothing more is done for a request. `why`: it was not fulfilled.
    pub fn ended(&self, request: &RequestId, outcome: &'static str, why: Option<&dyn Display>) {
        if !self.tracer.is_on() {
            return;
        }
        // It is sent when the map is free again.
        let span = self.requests().remove(request);
        if let Some(mut span) = span {
            span.set("nodepool.outcome", outcome);
            if let Some(why) = why {
                span.fail(why);
            }
        }
    }

    /// The session is lost, and with it all that was accepted.
    pub fn lost(&self) {
        let all = std::mem::take(&mut *self.requests());
        for mut span in all.into_values() {
            span.fail("the session with ZooKeeper was lost");
        }
    }

    /// A launch begins.
    pub fn launch(&self, request: &RequestId, node: &NodeId, label: &LabelName, pool: &PoolKey) -> Span {
        let span = self.part(request, "LaunchNode");
        let Some(parent) = span.parent() else { return span };
        let mut nodes = self.nodes();
        if nodes.launched.insert(node.clone(), parent).is_none() {
            nodes.order.push_back(node.clone());
        }
        while nodes.order.len() > NODES {
            let oldest = nodes.order.pop_front();
            oldest.and_then(|oldest| nodes.launched.remove(&oldest));
        }
        of_node(span, node, pool.provider.as_str()).with("nodepool.label", label.as_str())
    }

    /// The deletion of a node begins.
    pub fn deletion(&self, node: &NodeId, provider: &str) -> Span {
        if !self.tracer.is_on() {
            return Span::default();
        }
        let launched = self.nodes().launched.get(node).copied();
        of_node(self.tracer.begin("DeleteNode", launched), node, provider)
    }

    /// A node is gone.
    pub fn gone(&self, node: &NodeId) {
        if self.tracer.is_on() {
            self.nodes().launched.remove(node);
        }
    }
}

fn of_node(span: Span, node: &NodeId, provider: &str) -> Span {
    span.with("nodepool.node", node.as_str()).with("nodepool.provider", provider)
}
