//! What a launcher may do in a cloud: judged when it happens, by what the records say then. And what clouds do that a launcher may give
//! as its reason.

use std::sync::PoisonError;

use nodepool_common::{
    model::{NodeId, NodeState},
    zk::SessionId,
};
use nodepool_drivers::{ErrorClass, ProviderError};
use serde_json::Value;

use super::{
    super::{causes::Fault, plan::Trouble, story::broken},
    driver::Driver,
    servers::Server,
};

impl Driver {
    /// S2: nothing that another owner uses is deleted.
    pub fn may_delete(&self, id: &str, server: &Server) {
        let Some(node) = &server.node else {
            broken!(self.clouds.story, "S2", "{} deletes server {id}, which is not ours", self.process);
            return;
        };
        let truth = self.clouds.truth.open();
        let Some(record) = truth.nodes.get(node) else { return };
        let is_its = record.external_id.as_ref().and_then(Value::as_str) == Some(id);
        if is_its && matches!(record.state, NodeState::Ready | NodeState::InUse | NodeState::Hold) {
            let state = record.state.as_str();
            broken!(self.clouds.story, "S2", "{} deletes server {id} of node {node}, which is {state}", self.process);
        }
    }

    /// S2: what is removed as leaked is none of what somebody looks after, and was not when the cloud was listed.
    pub fn may_remove(&self, id: &str) {
        let Some(node) = self.with(|cloud| cloud.servers.get(id).and_then(|server| server.node.clone())) else {
            return;
        };
        let listed = self.listed.lock().unwrap_or_else(PoisonError::into_inner).as_ref().map(|(at, _)| *at);
        let truth = self.clouds.truth.open();
        let why = if let Some(record) = truth.nodes.get(&node) {
            let is_another = record.external_id_text().is_some_and(|other| other != id);
            let is_left = is_another && record.state != NodeState::Building;
            (!is_left).then(|| format!("is there, {}", record.state.as_str()))
        } else {
            let was_there = truth.gone_at(&node).zip(listed).is_some_and(|(gone, listed)| gone >= listed);
            was_there.then(|| "was there when the cloud was listed".to_owned())
        };
        if let Some(why) = why {
            let story = &self.clouds.story;
            broken!(story, "S2", "{} removes server {id} as leaked: its node {node} {why}", self.process);
        }
    }

    /// S2: a server that was made is on record as soon as its maker knows it: who comes after a maker that dies finds it there.
    pub fn is_on_record(&self, node: &NodeId, id: &str) {
        use Trouble::{AnswersLost, Breaks, Expiry, LocksBroken, RequestsLost};
        if [AnswersLost, RequestsLost, Breaks, Expiry, LocksBroken].into_iter().any(|of| self.clouds.plan.has(of)) {
            // A write may have failed.
            return;
        }
        let truth = self.clouds.truth.open();
        let holder = truth.holder_of_node(node).map(|session| truth.owner(SessionId(session)));
        let Some(record) = truth.nodes.get(node).filter(|_| holder == Some(&self.process)) else { return };
        if record.external_id_text() != Some(id) {
            broken!(self.clouds.story, "S2", "{} does not put server {id} on record of node {node}", self.process);
        }
    }

    /// S3: who is alone asks for no more than there is, where all servers are on record.
    pub fn may_be_refused(&self, node: &NodeId) {
        let servers: Vec<_> = self.with(|cloud| cloud.servers.values().map(|server| server.node.clone()).collect());
        let truth = self.clouds.truth.open();
        let is_known = |of: &Option<NodeId>| of.as_ref().is_some_and(|of| truth.nodes.contains_key(of));
        if truth.is_alone && servers.iter().all(is_known) {
            let count = servers.len();
            broken!(self.clouds.story, "S3", "{} launches node {node}, there are {count} servers", self.process);
        }
    }

    /// How many servers there are that no record names.
    pub fn note_others(&self) {
        let servers: Vec<_> =
            self.with(|cloud| cloud.servers.iter().map(|(id, server)| (id.clone(), server.node.clone())).collect());
        let mut truth = self.clouds.truth.open();
        let is_others = |(id, node): &&(String, Option<NodeId>)| {
            let record = node.as_ref().and_then(|node| truth.nodes.get(node));
            record.is_none_or(|record| record.external_id_text() != Some(id))
        };
        let others = servers.iter().filter(is_others).count();
        truth.causes.others(self.name.as_str(), others);
    }

    /// An attempt to launch a node has come to nothing.
    pub fn spoiled(&self, node: &NodeId, error: &ProviderError) {
        let fault = match error.class {
            ErrorClass::Quota => return,
            ErrorClass::Capacity => Fault::Elsewhere,
            _ if error.away => Fault::Elsewhere,
            _ => Fault::Attempt,
        };
        self.clouds.truth.open().causes.fault(node, fault);
    }
}
