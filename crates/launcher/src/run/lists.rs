//! All nodes and all requests, for the dashboard's lists: a row of values for each, as there may be ten thousand. They have
//! nothing in them that upstream's tables do not show to everybody.

use std::collections::BTreeMap;

use nodepool_common::model::{PoolName, RequestId};
use serde::Serialize;
use serde_json::{Value, json};

use super::{Launcher, view::code_of};

/// What the codes of reasons to leave a request to others begin with.
const LEFT_TO: &str = "left-to-";

/// Rows of values, and what they are.
#[derive(Debug, Serialize)]
pub struct List {
    columns: &'static [&'static str],
    rows: Vec<Value>,
}

impl Launcher {
    /// All nodes.
    pub fn list_nodes(&self) -> String {
        let (records, now) = (self.zk.cache().snapshot(), self.clock.now());
        let nodes = records.nodes.iter().filter_map(|(id, entry)| Some((id, entry, entry.usable()?)));
        let rows = nodes.map(|(id, entry, node)| {
            json!([
                id,
                node.state.as_str(),
                node.labels,
                node.provider,
                node.pool.as_ref().map(PoolName::as_str),
                entry.since(now),
                entry.is_locked(),
                node.allocated_to,
                node.interface_ip,
                node.hold_job.as_ref().or(node.comment.as_ref()),
            ])
        });
        let columns =
            &["id", "state", "labels", "provider", "pool", "since", "locked", "request", "address", "comment"];
        written(&List { columns, rows: rows.collect() })
    }

    /// All requests, with the code of what each waits for in this launcher's pools.
    pub fn list_requests(&self) -> String {
        let (records, now, published) = (self.zk.cache().snapshot(), self.clock.now(), self.published());
        let mut codes: BTreeMap<RequestId, String> = BTreeMap::new();
        for ((request, _), waits) in published.planned.waiting() {
            let code = code_of(&waits.waiting.reason);
            // What it is left to another pool for, that one says.
            match codes.get(&request) {
                Some(known) if !known.starts_with(LEFT_TO) => {}
                _ => drop(codes.insert(request, code)),
            }
        }
        let requests = records.requests.iter();
        let requests = requests.filter_map(|(id, entry)| Some((id, entry.asked(now)?, entry.usable()?)));
        let rows = requests.map(|(id, asked, request)| {
            json!([
                id,
                request.state.as_str(),
                request.node_types,
                request.requestor,
                request.relative_priority,
                asked,
                codes.get(id),
                request.tenant_name,
                request.nodes,
            ])
        });
        let columns = &["id", "state", "labels", "requestor", "priority", "asked", "waits_for", "tenant", "nodes"];
        written(&List { columns, rows: rows.collect() })
    }
}

/// It is texts, numbers and lists: it can be written.
fn written(list: &List) -> String {
    serde_json::to_string(list).unwrap_or_default()
}
