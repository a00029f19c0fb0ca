//! Why a node is as it is.

use super::{Explanation, Verdict};
use crate::model::{
    Backing, Entry, LabelName, Node, NodeId, NodeState, Records, RequestId, RequestState, Timestamp, pool_title,
};

const KIND: &str = "node";

/// Explains a node by the records. `None`: there is none of that id.
pub fn of_node(records: &Records, id: &NodeId, now: Timestamp) -> Option<Explanation> {
    let entry = records.nodes.get(id)?;
    let node = match &entry.record {
        Ok(node) => node,
        Err(error) => {
            let sentence = format!("Its record cannot be read: {error}");
            return Some(Explanation::new(KIND, id.as_str(), Verdict::Act, "record-broken", sentence));
        }
    };
    let (verdict, code, sentence, ended_by) = judge(records, node, entry);
    let mut explanation = Explanation::new(KIND, id.as_str(), verdict, code, sentence);
    explanation.since = entry.since(now);
    explanation.ended_by = ended_by.map(str::to_owned);
    Some(with_facts(explanation, node))
}

/// Verdict, code, sentence, what ends it.
fn judge(records: &Records, node: &Node, entry: &Entry<Node>) -> (Verdict, &'static str, String, Option<&'static str>) {
    let is_locked = entry.is_locked();
    match node.state {
        NodeState::Init | NodeState::Building if is_locked => {
            (Verdict::Wait, "launching", "It is being launched".to_owned(), Some("the end of its launch"))
        }
        NodeState::Ready => match (&node.allocated_to, is_locked) {
            (Some(request), true) if is_pending(records, request) => (
                Verdict::Wait,
                "waits-for-others",
                format!("It is ready, and kept for request {request} until the others of it are"),
                Some("the other nodes of the request"),
            ),
            (Some(request), true) => {
                (Verdict::Fine, "taken", format!("It is ready, and taken for request {request}"), None)
            }
            (Some(request), false) if records.requests.contains_key(request) => (
                Verdict::Wait,
                "waits-for-requestor",
                format!("It is ready, set aside for request {request}, and not taken yet"),
                Some("the other nodes of the request, and that Zuul takes them"),
            ),
            (Some(request), false) => (
                Verdict::Wait,
                "set-aside-in-vain",
                format!("It is ready, and was set aside for request {request}, which is gone"),
                Some("a launcher that frees it, within moments"),
            ),
            (None, _) => (Verdict::Fine, "in-stock", "It is ready, and nobody has asked for it yet".to_owned(), None),
        },
        NodeState::InUse if is_locked && Backing::of(node).is_some() => (
            Verdict::Fine,
            "carries-nodes",
            "It carries nodes of another provider".to_owned(),
            Some("the end of those nodes, and the grace time of its label"),
        ),
        NodeState::InUse if is_locked => {
            (Verdict::Fine, "in-use", "A job runs on it".to_owned(), Some("the end of the job"))
        }
        NodeState::Hold => {
            let job = node.hold_job.as_ref().map(|job| format!(", for {job}")).unwrap_or_default();
            let sentence = format!("It is held for people{job}");
            (Verdict::Fine, "held", sentence, Some("`nodepool delete`, its hold's end in Zuul, or max-hold-age"))
        }
        NodeState::Deleting | NodeState::Deleted if is_locked => {
            (Verdict::Wait, "deleting", "It is being deleted".to_owned(), Some("the cloud has deleted its server"))
        }
        state => (
            Verdict::Wait,
            "to-be-deleted",
            format!("It is {state}{}, and is to be deleted", if is_locked { "" } else { " and nobody has it" }),
            Some("the launcher that has its provider deletes it; without such a launcher nobody does"),
        ),
    }
}

fn is_pending(records: &Records, request: &RequestId) -> bool {
    let request = records.requests.get(request).and_then(|entry| entry.usable());
    request.is_some_and(|request| request.state == RequestState::Pending)
}

fn with_facts(mut explanation: Explanation, node: &Node) -> Explanation {
    let labels: Vec<_> = node.labels.iter().map(LabelName::as_str).collect();
    explanation = explanation.fact("state", node.state.as_str()).fact("labels", labels.join(", "));
    if let Some(provider) = &node.provider {
        explanation = match &node.pool {
            Some(pool) => explanation.fact("pool", pool_title(provider.as_str(), pool.as_str())),
            None => explanation.fact("provider", provider.as_str()),
        };
    }
    if let Some(id) = node.external_id_text() {
        explanation = explanation.fact("server", id);
    }
    if let Some(address) = &node.interface_ip {
        explanation = explanation.fact("address", address);
    }
    if let Some(request) = &node.allocated_to {
        explanation = explanation.fact("request", request.as_str());
    }
    if let Some(comment) = &node.comment {
        explanation = explanation.fact("comment", comment);
    }
    if let Some(created) = node.created_time {
        explanation = explanation.fact_at("created", "", Some(created));
    }
    explanation
}
