//! `/api/v1/…`: what is ours alone, as JSON.
//!
//! | path | what |
//! |---|---|
//! | `/api/v1/explain/ID` | what a request waits for, or why a node is as it is, by what all launchers say |
//! | `/api/v1/explain/NAME` | the same of a label, an image and a provider of that name: a list of all that there are |
//! | `/api/v1/explain/NAME?kind=KIND` | the same of one of them: `label`, `image`, `provider`, `request`, `node` |
//! | `/api/v1/view?KIND=ID` | what this launcher alone knows of it; other launchers and `nodepool explain` ask it |
//! | `/api/v1/view?KIND=ID&KIND=ID…` | the same of up to five things: a list in their order |
//!
//! | `/api/v1/overview` | how everything stands ([`Overview`](nodepool_common::overview::Overview)) and `at`, when that was so |
//! | `/api/v1/overview/part` | what this launcher alone knows of it; other launchers ask it |
//! | `/api/v1/events` | server-sent events: `overview` with the same as its data, at each change ([`super::events`]) |
//! | `/api/v1/nodes`, `/api/v1/requests` | all of them: `columns`, and in `rows` the values of each; of why a request waits, this launcher's word |
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

/// What there is to say of each thing, in their order.
pub type OfEach<T> = Arc<dyn Fn(Vec<Subject>) -> BoxFuture<'static, Vec<T>> + Send + Sync>;

/// Where explanations come from.
#[derive(Clone)]
pub struct Explain {
    /// By what all launchers say, of each, in their order; `None`: there is no trace of it.
    pub explain: OfEach<Option<Explanation>>,
    /// What this launcher alone knows of each, in their order.
    pub views: OfEach<LauncherView>,
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
        return view(source, memo, clock, uri).await;
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
    let key = |subject: &Subject| kept(EXPLAIN, std::slice::from_ref(subject));
    let mut pages: Vec<Option<String>> =
        subjects.iter().map(|subject| Some(memo.get(&key(subject), clock.now())?.body.to_string())).collect();
    let missing: Vec<usize> = (0..pages.len()).filter(|at| pages[*at].is_none()).collect();
    if !missing.is_empty() {
        let made = (source.explain)(missing.iter().map(|at| subjects[*at].clone()).collect()).await;
        for (at, explanation) in missing.into_iter().zip(made) {
            pages[at] = explanation
                .map(|explanation| memo.put(key(&subjects[at]), clock.now(), json_of(&explanation)).body.to_string());
        }
    }
    let known: Vec<String> = pages.into_iter().flatten().collect();
    if known.is_empty() {
        return error(StatusCode::NOT_FOUND, &explain::no_trace(&id, kind));
    }
    // Who asks by an id or says of what kind the name is, gets the one thing that there is; else a list, however long it is.
    let is_one = kind.is_some() || Subject::of(&id, kind).len() == 1;
    let all = known.join(",");
    reply::plain(reply::JSON, if is_one { all } else { format!("[{all}]") })
}

/// Under what a page of this kind is kept for a second, as all else.
fn kept(page: &str, subjects: &[Subject]) -> memo::Key {
    let subjects = subjects.iter().map(|subject| (subject.kind().as_str().to_owned(), subject.id().to_owned()));
    (page.to_owned(), subjects.collect(), Format::Json)
}

/// What this launcher alone knows.
async fn view(source: &Explain, memo: &Memo, clock: &Clock, uri: &Uri) -> Response {
    let Query(parameters) = Query::<Vec<(String, String)>>::try_from_uri(uri).unwrap_or_default();
    let asked = parameters.iter().filter_map(|(kind, id)| Some(Subject::of(id, Some(Kind::parse(kind)?))));
    let asked: Vec<_> = asked.collect();
    let subjects: Vec<Subject> = asked.iter().flatten().cloned().collect();
    if subjects.is_empty() || subjects.len() != asked.len() || subjects.len() > Kind::ALL.len() {
        let needed = "KIND=ID is needed, of a request, a label, an image or a provider, or up to five of these";
        return error(StatusCode::BAD_REQUEST, needed);
    }
    let key = kept(VIEW, &subjects);
    if let Some(known) = memo.get(&key, clock.now()) {
        return reply::plain(reply::JSON, known.shared());
    }
    let takes_long = subjects.iter().any(|subject| matches!(subject, Subject::Label(_) | Subject::Provider(_)));
    let _turn = match takes_long.then(|| source.long_views.try_acquire()) {
        Some(Err(_)) => return error(StatusCode::SERVICE_UNAVAILABLE, "too many look at labels and providers"),
        Some(Ok(turn)) => Some(turn),
        None => None,
    };
    let views = (source.views)(subjects).await;
    let made = memo.put(key, clock.now(), if let [view] = &views[..] { json_of(view) } else { json_of(&views) });
    reply::plain(reply::JSON, made.shared())
}

/// What is explained is texts, numbers and lists: it can be written.
pub(super) fn json_of(page: &impl Serialize) -> String {
    serde_json::to_string(page).unwrap_or_else(|problem| json!({"error": problem.to_string()}).to_string())
}

pub(super) fn error(status: StatusCode, what: &str) -> Response {
    let mut response = reply::plain(reply::JSON, json!({"error": what}).to_string());
    *response.status_mut() = status;
    response
}
