//! All nodes and all requests, for the dashboard's lists and `nodepool top`: a row of values for each, as there may be ten thousand.
//! They have nothing in them that upstream's tables do not show to everybody.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::model::{PoolName, Records, RequestId, Timestamp};

/// Where a launcher has all nodes, below its address.
pub const NODES: &str = "/api/v1/nodes";
/// Where it has all requests.
pub const REQUESTS: &str = "/api/v1/requests";

/// Rows of values, and what they are.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct List {
    /// The names of the values.
    pub columns: Vec<Cow<'static, str>>,
    /// The values of each, an array in the order of the columns.
    pub rows: Vec<Value>,
}

impl List {
    fn new(columns: &[&'static str], rows: Vec<Value>) -> Self {
        Self { columns: columns.iter().map(|name| Cow::Borrowed(*name)).collect(), rows }
    }
}

/// All nodes of which the record can be read.
pub fn nodes(records: &Records, now: Timestamp) -> List {
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
    let columns = ["id", "state", "labels", "provider", "pool", "since", "locked", "request", "address", "comment"];
    List::new(&columns, rows.collect())
}

/// All requests of which the record can be read; `code` is that of what a request waits for, where that is known.
pub fn requests<'a>(records: &Records, now: Timestamp, code: impl Fn(&RequestId) -> Option<&'a str>) -> List {
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
            code(id),
            request.tenant_name,
            request.nodes,
        ])
    });
    let columns = ["id", "state", "labels", "requestor", "priority", "asked", "waits_for", "tenant", "nodes"];
    List::new(&columns, rows.collect())
}
