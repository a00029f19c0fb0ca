//! What the launcher puts into the [history](nodepool_common::history): one line where something happens, all words here.
//!
//! | code | what |
//! |---|---|
//! | `request-seen` | a request waits that was not there before, or the launcher has started |
//! | `request-accepted`, `request-declined` | what a pool decided; the reason as in `decline_reasons` |
//! | `request-failed` | every pool has declined it |
//! | `request-fulfilled` | its nodes are handed over |
//! | `request-put-back` | its launcher could not serve it to the end |
//! | `request-gone` | its record is deleted: Zuul has its nodes, or needs none any more |
//! | `node-launching`, `launch-failed`, `node-ready` | a launch: its begin, each attempt that failed, its end |
//! | `node-failed` | a launch of which no node came |
//! | `node-deleting`, `node-deleted` | why it is not kept; its end |
//! | `pool-paused`, `pool-unpaused` | a person of the site has paused a pool, or its provider; its end |
//!
//! Nothing is decided by it, and where there is no history nothing is put together for it. Where a request begins and ends to be served,
//! its span does, too ([`super::spans`]).

use std::{collections::BTreeSet, fmt::Display};

use nodepool_common::{
    explain::{Explanation, Subject},
    history::{Event, History, Page, Query, REQUEST_GONE, REQUEST_SEEN, asked, past},
    launchers::{ANSWER_WITHIN, Silent},
    model::{Changes, LabelName, Node, NodeId, NodeRequest, Records, RequestId},
    sys::host,
};
use nodepool_drivers::http_client;
use tokio::sync::Semaphore;

use super::{Launcher, view::sentence};
use crate::plan::{PoolKey, Reason};

impl Launcher {
    /// The history, to look things up.
    pub fn history(&self) -> &History {
        &self.options.history
    }

    /// What this launcher alone has seen and done. Where that cannot be read, it is one of those that say nothing.
    pub async fn own_history(&self, query: Query) -> Page {
        // Of a file: so many at once, also where who asks has gone meanwhile.
        static AT_ONCE: Semaphore = Semaphore::const_new(4);
        // It is never closed.
        let turn = AT_ONCE.acquire().await.ok();
        let history = self.history().clone();
        let listed = tokio::task::spawn_blocking(move || {
            let _turn = turn;
            history.list(&query)
        });
        let why = match listed.await {
            Ok(Ok(listed)) => return Page::of_one(&host::hostname(), listed),
            Ok(Err(trouble)) => format!("its history cannot be read: {trouble}"),
            Err(_) => "a bug: reading its history has failed, see its log".to_owned(),
        };
        let pools = self.published().pools.iter().map(|pool| pool.key.to_string()).collect();
        Page { silent: vec![Silent { hostname: host::hostname(), pools, why }], ..Page::default() }
    }

    /// What all launchers have seen and done, and which of them do not answer.
    pub async fn history_of_all(&self, query: &Query) -> Page {
        let (records, own) = (self.zk.cache().snapshot(), self.web_url.get().map(String::as_str));
        let get = async |url: String| http_client::fetch(&url, ANSWER_WITHIN).await;
        let (others, page) = tokio::join!(asked(&records, own, query, get), self.own_history(query.clone()));
        Page::merged(others.answers.into_iter().chain([page]), others.silent, query.limit)
    }

    /// Adds what became of a request or a node whose record is gone.
    pub(super) async fn add_past(&self, subject: &Subject, explanation: &mut Option<Explanation>) {
        if let Some(query) = past::needed(subject, explanation.as_ref()) {
            let page = self.history_of_all(&query).await;
            *explanation = past::add(subject, explanation.take(), page);
        }
    }

    fn put_down(&self, code: &str, event: impl FnOnce() -> (String, Event)) {
        if self.history().is_on() {
            let (text, event) = event();
            self.history().record(Event { at: self.clock.now(), code: code.to_owned(), text, ..event });
        }
    }

    /// Records requests that wait and were not there before, and those that are gone. `seen`: those that were recorded so.
    pub(super) fn put_down_requests(&self, seen: &mut BTreeSet<RequestId>, records: &Records, changes: &Changes) {
        if !self.history().is_on() {
            return;
        }
        if changes.everything {
            let all: BTreeSet<RequestId> = seen.iter().chain(records.requests.keys()).cloned().collect();
            for id in &all {
                self.put_down_one(seen, records, id);
            }
        } else {
            changes.requests.iter().for_each(|id| self.put_down_one(seen, records, id));
        }
    }

    fn put_down_one(&self, seen: &mut BTreeSet<RequestId>, records: &Records, id: &RequestId) {
        let Some(entry) = records.requests.get(id) else {
            if seen.remove(id) {
                let text = "Its record is deleted: who asked has its nodes, or needs none any more";
                let event = Event { request: Some(id.to_string()), ..Event::default() };
                self.put_down(REQUEST_GONE, || (text.to_owned(), event));
            }
            return;
        };
        let Some(request) = entry.usable() else { return };
        if request.is_open() && seen.insert(id.clone()) {
            self.put_down(REQUEST_SEEN, || {
                let who = request.requestor.as_deref().unwrap_or("somebody");
                let tenant = request.tenant_name.as_ref().map(|tenant| format!(" for tenant {tenant}"));
                let text = format!("{who} asks{} for {}", tenant.unwrap_or_default(), labels(request));
                (text, of_request(request))
            });
        }
    }

    /// Records that a pool has accepted a request.
    pub(super) fn put_down_accepted(&self, request: &NodeRequest, pool: &PoolKey) {
        self.spans.accepted(request, pool);
        self.put_down("request-accepted", || {
            (format!("Pool {pool} has accepted it: {}", labels(request)), of_pool(of_request(request), pool))
        });
    }

    /// Records that pools have declined a request, each with its reason, and whether it has failed with that.
    pub(super) fn put_down_declined(&self, request: &NodeRequest, pools: &[(PoolKey, Reason)], failed: Option<&str>) {
        self.spans.ended(&request.id, "declined", pools.first().map(|(_, reason)| reason as &dyn Display));
        for (pool, reason) in pools {
            self.put_down("request-declined", || {
                (format!("Pool {pool} has declined it: {}", sentence(reason)), of_pool(of_request(request), pool))
            });
        }
        if let Some(why) = failed {
            self.put_down("request-failed", || {
                (format!("It has failed, every registered pool has declined it: {why}"), of_request(request))
            });
        }
    }

    /// Records that a request has its nodes.
    pub(super) fn put_down_fulfilled(&self, request: &NodeRequest, pool: &PoolKey, nodes: &[NodeId]) {
        self.spans.ended(&request.id, "fulfilled", None);
        self.put_down("request-fulfilled", || {
            let names: Vec<&str> = nodes.iter().map(NodeId::as_str).collect();
            let event = Event { nodes: names.iter().map(ToString::to_string).collect(), ..of_request(request) };
            (format!("Pool {pool} has fulfilled it with node(s) {}", names.join(", ")), of_pool(event, pool))
        });
    }

    /// Records that a request waits again.
    pub(super) fn put_down_put_back(&self, request: &NodeRequest, why: &dyn Display) {
        self.spans.ended(&request.id, "put-back", Some(why));
        self.put_down("request-put-back", || (format!("It waits again: {why}"), of_request(request)));
    }

    /// Records that a person of the site has paused a pool, or has ended that.
    pub(super) fn put_down_pause(&self, pool: &PoolKey, is_paused: bool, text: String) {
        let code = if is_paused { "pool-paused" } else { "pool-unpaused" };
        self.put_down(code, || (text, of_pool(Event::default(), pool)));
    }

    /// Records a step of a node, for a request or for none.
    pub(super) fn put_down_node(
        &self,
        code: &str,
        node: &Node,
        request: Option<&RequestId>,
        text: impl FnOnce() -> String,
    ) {
        self.put_down(code, || (text(), of_node(node, request)));
    }
}

fn of_request(request: &NodeRequest) -> Event {
    Event {
        request: Some(request.id.to_string()),
        labels: request.node_types.iter().map(ToString::to_string).collect(),
        ..Event::default()
    }
}

fn of_pool(event: Event, pool: &PoolKey) -> Event {
    Event { provider: Some(pool.provider.to_string()), pool: Some(pool.pool.to_string()), ..event }
}

fn of_node(node: &Node, request: Option<&RequestId>) -> Event {
    let (image, build) = node.image_id.as_deref().and_then(image_of).unzip();
    Event {
        request: request.map(ToString::to_string),
        nodes: vec![node.id.to_string()],
        provider: node.provider.as_ref().map(ToString::to_string),
        pool: node.pool.as_ref().map(ToString::to_string),
        labels: node.labels.iter().map(ToString::to_string).collect(),
        image,
        build,
        ..Event::default()
    }
}

/// The diskimage and the build of an upload, by its path in ZooKeeper; a cloud's own image has none.
fn image_of(path: &str) -> Option<(String, String)> {
    let (image, rest) = path.strip_prefix("/nodepool/images/")?.split_once("/builds/")?;
    let build = rest.split('/').next()?;
    Some((image.to_owned(), build.to_owned()))
}

fn labels(request: &NodeRequest) -> String {
    let labels: Vec<&str> = request.node_types.iter().map(LabelName::as_str).collect();
    format!("[{}]", labels.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_upload_is_of_an_image_and_a_build() {
        let path = "/nodepool/images/debian/builds/0000000007/providers/cloud/images/0000000001";
        assert_eq!(image_of(path), Some(("debian".to_owned(), "0000000007".to_owned())));
        assert_eq!(image_of("debian-12"), None);
    }
}
