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
}

/// Answers a page that begins with [`PREFIX`].
pub(super) async fn answer(source: &Explain, memo: &Memo, now: Timestamp, uri: &Uri) -> Response {
    if uri.path() == VIEW {
        let query = Query::<BTreeMap<String, String>>::try_from_uri(uri).unwrap_or_default();
        return match query.get("request").map(|id| Subject::of(id)) {
            Some(Some(Subject::Request(id))) => json_page(&(source.view)(&id)),
            _ => error(StatusCode::BAD_REQUEST, "request=ID is needed, with the id of a request"),
        };
    }
    let Some(id) = uri.path().strip_prefix(EXPLAIN) else {
        return error(StatusCode::NOT_FOUND, "there is no such page");
    };
    let Some(subject) = Subject::of(id) else {
        return error(StatusCode::NOT_FOUND, "this is no id of a request (200-0000000123) or of a node (0000000123)");
    };
    // Kept for a second as all else: each explanation may ask all launchers.
    let key = (uri.path().to_owned(), Vec::new(), Format::Json);
    if let Some(known) = memo.get(&key, now) {
        return reply::plain(reply::JSON, known.body.to_string());
    }
    match (source.explain)(subject).await {
        Some(explanation) => match serde_json::to_string(&explanation) {
            Ok(body) => reply::plain(reply::JSON, memo.put(key, now, body).body.to_string()),
            Err(problem) => error(StatusCode::INTERNAL_SERVER_ERROR, &problem.to_string()),
        },
        None => {
            error(StatusCode::NOT_FOUND, "there is no trace of it: it never was, or it is done and its record deleted")
        }
    }
}

fn json_page(page: &impl Serialize) -> Response {
    match serde_json::to_string(page) {
        Ok(body) => reply::plain(reply::JSON, body),
        Err(problem) => error(StatusCode::INTERNAL_SERVER_ERROR, &problem.to_string()),
    }
}

fn error(status: StatusCode, what: &str) -> Response {
    let mut response = reply::plain(reply::JSON, json!({"error": what}).to_string());
    *response.status_mut() = status;
    response
}
