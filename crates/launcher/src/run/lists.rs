//! All nodes and all requests, for the dashboard's lists ([`nodepool_common::overview::lists`]), with what only this launcher knows:
//! the code of what each request waits for in its pools.

use std::collections::BTreeMap;

use nodepool_common::{
    model::RequestId,
    overview::lists::{self, List},
};

use super::{Launcher, view::code_of};

/// What the codes of reasons to leave a request to others begin with.
const LEFT_TO: &str = "left-to-";

impl Launcher {
    /// All nodes.
    pub fn list_nodes(&self) -> String {
        written(&lists::nodes(&self.zk.cache().snapshot(), self.clock.now()))
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
        written(&lists::requests(&records, now, |id| codes.get(id).map(String::as_str)))
    }
}

/// It is texts, numbers and lists: it can be written.
fn written(list: &List) -> String {
    serde_json::to_string(list).unwrap_or_default()
}
