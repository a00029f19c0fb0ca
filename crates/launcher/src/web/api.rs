//! `/api/v1/…`: what is ours alone, as JSON.
//!
//! | path | what |
//! |---|---|
//! | `/api/v1/explain/ID` | what a request waits for, or why a node is as it is, by what all launchers say |
//! | `/api/v1/explain/NAME` | the same of a label, an image and a provider of that name: a list of all that there are |
//! | `/api/v1/explain/NAME?kind=KIND` | the same of one of them: `label`, `image`, `provider`, `request`, `node` |
//! | `/api/v1/view?KIND=ID` | what this launcher alone knows of it; other launchers and `nodepool explain` ask it |
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
    explain::{self, Explanation, Kind, LauncherView, Subject, VIEW},
    sys::clock::Clock,
};
use serde::Serialize;
use serde_json::json;
use tokio::sync::Semaphore;

use super::{
    accept::Format,
    memo::{self, Memo},
    reply,
};

/// What all pages of this kind begin with.
pub(super) const PREFIX: &str = "/api/v1/";
const EXPLAIN: &str = "/api/v1/explain/";

/// Where explanations come from.
#[derive(Clone)]
pub struct Explain {
    /// By what all launchers say; `None`: there is no trace of it.
    pub explain: Arc<dyn Fn(Subject) -> BoxFuture<'static, Option<Explanation>> + Send + Sync>,
    /// What this launcher alone knows of it.
    pub view: Arc<dyn Fn(Subject) -> BoxFuture<'static, LauncherView> + Send + Sync>,
    /// Whether anything has been read of ZooKeeper: before that, nothing has a trace.
    pub is_known: Arc<dyn Fn() -> bool + Send + Sync>,
    /// How many explanations are made at once: each may ask all launchers.
    pub at_once: Arc<Semaphore>,
    /// How many may wait for what this launcher alone knows of a label or a provider, which takes long.
    pub long_views: Arc<Semaphore>,
}

/// Answers a page that begins with [`PREFIX`].
pub(super) async fn answer(source: &Explain, memo: &Memo, clock: &Clock, uri: &Uri) -> Response {
    if !(source.is_known)() {
        return error(StatusCode::SERVICE_UNAVAILABLE, "the records in ZooKeeper have not been read yet");
    }
    let query = Query::<BTreeMap<String, String>>::try_from_uri(uri).unwrap_or_default();
    if uri.path() == VIEW {
        return view(source, memo, clock, &query).await;
    }
    let Some(id) = uri.path().strip_prefix(EXPLAIN) else {
        return error(StatusCode::NOT_FOUND, "there is no such page");
    };
    let kind = match query.get("kind").map(|word| Kind::parse(word)) {
        Some(None) => return error(StatusCode::BAD_REQUEST, &format!("kind is one of {}", Kind::words())),
        kind => kind.flatten(),
    };
    let id = explain::decoded(id).unwrap_or_default();
    let subjects = Subject::of(&id, kind);
    if subjects.is_empty() {
        return error(StatusCode::NOT_FOUND, &explain::no_id(&id, kind));
    }
    let Ok(_turn) = source.at_once.acquire().await else {
        return error(StatusCode::SERVICE_UNAVAILABLE, "the launcher is stopping");
    };
    let mut known = Vec::new();
    for subject in subjects {
        let key = kept(EXPLAIN, &subject);
        let page = match memo.get(&key, clock.now()) {
            Some(page) => Some(page.body.to_string()),
            None => (source.explain)(subject.clone())
                .await
                .map(|explanation| memo.put(key, clock.now(), json_of(&explanation)).body.to_string()),
        };
        known.extend(page);
    }
    if known.is_empty() {
        return error(StatusCode::NOT_FOUND, &explain::no_trace(&id, kind));
    }
    // Who asks by an id or says of what kind the name is, gets the one thing that there is; else a list, however long it is.
    let is_one = kind.is_some() || Subject::of(&id, kind).len() == 1;
    let all = known.join(",");
    reply::plain(reply::JSON, if is_one { all } else { format!("[{all}]") })
}

/// Under what a page of this kind is kept for a second, as all else.
fn kept(page: &str, subject: &Subject) -> memo::Key {
    (page.to_owned(), vec![(subject.kind().as_str().to_owned(), subject.id().to_owned())], Format::Json)
}

/// What this launcher alone knows.
async fn view(source: &Explain, memo: &Memo, clock: &Clock, query: &BTreeMap<String, String>) -> Response {
    let asked = Kind::ALL.into_iter().find_map(|kind| Some((kind, query.get(kind.as_str())?)));
    let Some(subject) = asked.and_then(|(kind, id)| Subject::of(id, Some(kind)).into_iter().next()) else {
        return error(StatusCode::BAD_REQUEST, "KIND=ID is needed, of a request, a label, an image or a provider");
    };
    let key = kept(VIEW, &subject);
    if let Some(known) = memo.get(&key, clock.now()) {
        return reply::plain(reply::JSON, known.body.to_string());
    }
    let takes_long = matches!(subject, Subject::Label(_) | Subject::Provider(_));
    let _turn = match takes_long.then(|| source.long_views.try_acquire()) {
        Some(Err(_)) => return error(StatusCode::SERVICE_UNAVAILABLE, "too many look at labels and providers"),
        Some(Ok(turn)) => Some(turn),
        None => None,
    };
    let view = (source.view)(subject).await;
    let made = memo.put(key, clock.now(), json_of(&view));
    reply::plain(reply::JSON, made.body.to_string())
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
