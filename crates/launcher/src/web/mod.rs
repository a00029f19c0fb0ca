//! The launcher's HTTP API: what people, dashboards and the operator's probes read.
//!
//! The server is bound before anything else starts and answers from what it is given: a view of the tree cache, a
//! readiness, the metrics, the pools ([`WebState`]). It never waits for ZooKeeper or a cloud.
//!
//! No client can hold it up, however many there are and whatever they send or do not read ([`connections`]).
//!
//! One function answers one request, whatever its method and exactly by its path, as upstream's does:
//!
//! 1. `Accept` decides between text and JSON, or refuses ([`accept`]).
//! 2. The path selects a table; the result is kept for one second per path, what counts of the query, and format ([`memo`]).
//! 3. Headers let browsers on other sites read it and everybody cache it for that second ([`reply`]).
//!
//! `/metrics`, `/pool-list`, the pages of [`api`] and the [`dashboard`] are ours. They have one format each and ignore `Accept`.

mod accept;
mod api;
mod connections;
mod dashboard;
mod events;
mod history;
mod memo;
mod overview;
mod reply;
#[cfg(test)]
mod tests;

use std::{sync::Arc, time::Duration};

use axum::{
    Router,
    extract::{Query, State},
    http::{HeaderMap, StatusCode, Uri, header},
    response::Response,
};
use nodepool_common::{
    model::{Records, Timestamp, wire::to_python_json},
    status::{self, Table},
    sys::clock::Clock,
    zk::ZooKeeper,
};
use serde_json::Value;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use self::{
    accept::Format,
    connections::Limits,
    events::Events,
    memo::{Line, Memo},
    reply::{Document, Refusal},
};
pub use self::{api::Explain, history::HistorySource, overview::Source};

/// How long requests that are under way at shutdown may take.
const LAST_ANSWERS: Duration = Duration::from_secs(2);

/// Makes a table of the records as they are now.
pub type ReadRecords = Arc<dyn Fn(&dyn Fn(&Records) -> Table) -> Table + Send + Sync>;

/// Reads from the tree cache.
pub fn read_cache(zk: ZooKeeper) -> ReadRecords {
    Arc::new(move |make| zk.cache().read(|records| make(records)))
}

/// What `/ready` says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Readiness {
    /// Whether the launcher has made its first pass, and passes still end. Else it stays ready: the probe is liveness too, and a
    /// restart mends neither a configuration file nor a cloud.
    pub ready: bool,
    /// What people should know, in whole sentences: the file is invalid and the previous configuration stays in
    /// force, with its errors; a provider that cannot be used, and why; before readiness, what is waited for.
    pub remarks: Vec<String>,
}

/// Where the answers come from.
#[derive(Clone)]
pub struct WebState {
    /// The tree cache.
    pub records: ReadRecords,
    /// When an answer was made, and how old what it says is.
    pub clock: Clock,
    /// `/ready`.
    pub readiness: Arc<dyn Fn() -> Readiness + Send + Sync>,
    /// `/metrics`: Prometheus' text format.
    pub metrics: Arc<dyn Fn() -> String + Send + Sync>,
    /// `/pool-list`: this launcher's pools with their pauses, limits and usage.
    pub pools: Arc<dyn Fn() -> Value + Send + Sync>,
    /// `/api/v1/explain/…` and `/api/v1/view`.
    pub explain: Explain,
    /// `/api/v1/overview` and what else the dashboard asks.
    pub overview: Source,
    /// `/api/v1/history`.
    pub history: HistorySource,
}

/// Answers until shutdown; returns when the last answer is out, or a little later.
pub async fn serve(listener: TcpListener, state: WebState, shutdown: CancellationToken) {
    let over = shutdown.clone();
    tokio::select! {
        biased;
        () = connections::serve(listener, router(state, shutdown.clone()), Limits::of_process(), shutdown) => {}
        () = async { over.cancelled().await; tokio::time::sleep(LAST_ANSWERS).await } => {
            tracing::debug!("The HTTP server leaves clients that did not read their answers");
        }
    }
}

fn router(state: WebState, shutdown: CancellationToken) -> Router {
    let clients = events::CLIENTS.min(Limits::of_process().connections / 2);
    let events = Events::new(state.overview.clone(), state.clock.clone(), clients, shutdown);
    Router::new().fallback(answer).with_state(Server { state, memo: Arc::default(), events })
}

#[derive(Clone)]
struct Server {
    state: WebState,
    memo: Arc<Memo>,
    events: Arc<Events>,
}

async fn answer(State(server): State<Server>, uri: Uri, headers: HeaderMap) -> Response {
    match uri.path() {
        "/metrics" => {
            return reply::plain("text/plain; version=0.0.4; charset=utf-8", (server.state.metrics)());
        }
        "/pool-list" => {
            // Made anew once a second at most: there may be many nodes and requests.
            let key = (uri.path().to_owned(), Vec::new(), Format::Json);
            let pools = Arc::clone(&server.state.pools);
            let make = move || String::from_utf8_lossy(&to_python_json(&pools())).into_owned();
            return reply::plain(
                reply::JSON,
                server.memo.get_or_make_beside(Line::Tables, key, &server.state.clock, make).await.shared(),
            );
        }
        path if let Some(asset) = dashboard::asset(path) => return asset.answer(headers.get(header::IF_NONE_MATCH)),
        events::PATH => return server.events.answer(&headers),
        path if let Some(page) = overview::Page::of(path) => {
            return page.answer(&server.state.overview, &server.memo, &server.state.clock).await;
        }
        history::PATH => {
            return history::answer(&server.state.history, &server.memo, &server.state.clock, &uri).await;
        }
        path if path.starts_with(api::PREFIX) => {
            return api::answer(&server.state.explain, &server.memo, &server.state.clock, &uri).await;
        }
        _ => {}
    }
    let accept = accept::header(&headers);
    let Some(format) = accept::negotiate(accept.as_deref()) else {
        return reply::not_acceptable(accept.as_deref().unwrap_or_default());
    };
    match document(&server, &uri, format).await {
        Ok(document) => reply::document(&document, format, headers.get(header::IF_MODIFIED_SINCE)),
        Err(refusal) => reply::refusal(&refusal, accept.as_deref()),
    }
}

async fn document(server: &Server, uri: &Uri, format: Format) -> Result<Document, Refusal> {
    if uri.path() == "/ready" {
        return ready(&(server.state.readiness)(), server.state.clock.now());
    }
    let Some(table) = Page::of(uri.path()) else {
        return Err(Refusal::new(StatusCode::NOT_FOUND, "The resource could not be found."));
    };
    // Of two values of a key the last one counts, as in upstream. An empty one is as good as none.
    let Query(parameters) = Query::<Vec<(String, String)>>::try_from_uri(uri).unwrap_or_default();
    let parameter = |name: &str| {
        let (_, value) = parameters.iter().rev().find(|(key, _)| key == name)?;
        (!value.is_empty()).then(|| value.clone())
    };
    let node = parameter("node_id").filter(|_| matches!(table, Page::Nodes));
    let fields = parameter("fields").filter(|_| format == Format::Text);
    // Nothing else of the query changes the answer.
    let named = |name: &str, value: &Option<String>| Some((name.to_owned(), value.clone()?));
    let counts = [named("node_id", &node), named("fields", &fields)].into_iter().flatten().collect();
    let (records, clock) = (Arc::clone(&server.state.records), server.state.clock.clone());
    let make = move || {
        let table = records(&|records| table.of_records(records, node.as_deref(), clock.now()));
        match format {
            Format::Json => table.render_json(),
            Format::Text => {
                table.render_text(fields.as_deref().map(|list| list.split(',').collect::<Vec<_>>()).as_deref())
            }
        }
    };
    let key = (uri.path().to_owned(), counts, format);
    Ok(server.memo.get_or_make_beside(Line::Tables, key, &server.state.clock, make).await)
}

/// One of upstream's tables.
#[derive(Clone, Copy, Debug)]
enum Page {
    Nodes,
    Requests,
    Images,
    DibImages,
    ImageStatus,
    Labels,
}

impl Page {
    fn of(path: &str) -> Option<Self> {
        Some(match path {
            "/node-list" => Self::Nodes,
            "/request-list" => Self::Requests,
            "/image-list" => Self::Images,
            "/dib-image-list" => Self::DibImages,
            "/image-status" => Self::ImageStatus,
            "/label-list" => Self::Labels,
            _ => return None,
        })
    }

    fn of_records(self, records: &Records, node: Option<&str>, now: Timestamp) -> Table {
        match self {
            Self::Nodes => status::node_list(records, node, now),
            Self::Requests => status::request_list(records, now),
            Self::Images => status::image_list(records, now),
            Self::DibImages => status::dib_image_list(records, now),
            Self::ImageStatus => status::image_status(records, |image| status::is_building(records, image), now),
            Self::Labels => status::label_list(records, now),
        }
    }
}

/// `OK` and nothing else while all is well; further lines where it is not. Probes read the status.
fn ready(readiness: &Readiness, now: Timestamp) -> Result<Document, Refusal> {
    if !readiness.ready {
        let explanation = "The server is currently unavailable. Please try again at a later time.";
        return Err(Refusal {
            status: StatusCode::SERVICE_UNAVAILABLE,
            explanation,
            detail: readiness.remarks.join("\n"),
        });
    }
    let mut body = "OK".to_owned();
    for remark in &readiness.remarks {
        body.push('\n');
        body.push_str(remark);
    }
    Ok(Document { made: now, body: body.into() })
}
