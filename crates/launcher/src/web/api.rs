//! `/api/v1/…`: what is ours alone, as JSON.
//!
//! | path | what |
//! |---|---|
//! | `/api/v1/explain/ID` | what a request waits for, or why a node is as it is, by what all launchers say |
//! | `/api/v1/view?request=ID` | what this launcher's pools make of a request; other launchers and `nodepool explain` ask it |
//!
//! An error is an object with the key `error`. Everything here is public: nothing of it is secret, and nothing changes
//! anything.

use std::{collections::BTreeMap, sync::Arc};

use axum::{
    extract::Query,
    http::{StatusCode, Uri},
    response::Response,
};
use futures::future::BoxFuture;
use nodepool_common::{
    explain::{Explanation, LauncherView, Subject, VIEW},
    model::{RequestId, Timestamp},
};
use serde::Serialize;
use serde_json::json;
use tokio::sync::Semaphore;

use super::{accept::Format, memo::Memo, reply};

/// What all pages of this kind begin with.
pub(super) const PREFIX: &str = "/api/v1/";
const EXPLAIN: &str = "/api/v1/explain/";

/// Where explanations come from.
#[derive(Clone)]
pub struct Explain {
    /// By what all launchers say; `None`: there is no trace of it.
    pub explain: Arc<dyn Fn(Subject) -> BoxFuture<'static, Option<Explanation>> + Send + Sync>,
    /// By what this launcher's pools make of it.
    pub view: Arc<dyn Fn(&RequestId) -> LauncherView + Send + Sync>,
    /// Whether anything has been read of ZooKeeper: before that, nothing has a trace.
    pub is_known: Arc<dyn Fn() -> bool + Send + Sync>,
    /// How many explanations are made at once: each may ask all launchers.
    pub at_once: Arc<Semaphore>,
}

/// Answers a page that begins with [`PREFIX`].
pub(super) async fn answer(source: &Explain, memo: &Memo, now: Timestamp, uri: &Uri) -> Response {
    if !(source.is_known)() {
        return error(StatusCode::SERVICE_UNAVAILABLE, "the records in ZooKeeper have not been read yet");
    }
    // Each is kept for a second, as all else.
    let kept = |page: &str| (page.to_owned(), Vec::new(), Format::Json);
    if uri.path() == VIEW {
        let query = Query::<BTreeMap<String, String>>::try_from_uri(uri).unwrap_or_default();
        let Some(Some(Subject::Request(id))) = query.get("request").map(|id| Subject::of(id)) else {
            return error(StatusCode::BAD_REQUEST, "request=ID is needed, with the id of a request");
        };
        let view = memo.get_or_make(kept(&format!("{VIEW}/{id}")), now, || json_of(&(source.view)(&id)));
        return reply::plain(reply::JSON, view.body.to_string());
    }
    let Some(id) = uri.path().strip_prefix(EXPLAIN) else {
        return error(StatusCode::NOT_FOUND, "there is no such page");
    };
    let Some(subject) = Subject::of(id) else {
        return error(StatusCode::NOT_FOUND, "this is no id of a request (200-0000000123) or of a node (0000000123)");
    };
    let Ok(_turn) = source.at_once.acquire().await else {
        return error(StatusCode::SERVICE_UNAVAILABLE, "the launcher is stopping");
    };
    if let Some(known) = memo.get(&kept(uri.path()), now) {
        return reply::plain(reply::JSON, known.body.to_string());
    }
    match (source.explain)(subject).await {
        Some(explanation) => {
            let made = memo.put(kept(uri.path()), now, json_of(&explanation));
            reply::plain(reply::JSON, made.body.to_string())
        }
        None => {
            error(StatusCode::NOT_FOUND, "there is no trace of it: it never was, or it is done and its record deleted")
        }
    }
}

/// What is explained is texts, numbers and lists: it can be written.
fn json_of(page: &impl Serialize) -> String {
    serde_json::to_string(page).unwrap_or_else(|problem| json!({"error": problem.to_string()}).to_string())
}

fn error(status: StatusCode, what: &str) -> Response {
    let mut response = reply::plain(reply::JSON, json!({"error": what}).to_string());
    *response.status_mut() = status;
    response
}
