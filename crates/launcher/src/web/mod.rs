//! The launcher's HTTP API: what people, dashboards and the operator's probes read.
//!
//! The server is bound before anything else starts and answers from what it is given: a view of the tree cache, a
//! readiness, the metrics, the pools ([`WebState`]). It never waits for ZooKeeper or a cloud.
//!
//! One function answers one request, whatever its method and exactly by its path, as upstream's does:
//!
//! 1. `Accept` decides between text and JSON, or refuses ([`accept`]).
//! 2. The path selects a table; the result is kept for one second per path, query and format ([`memo`]).
//! 3. Headers let browsers on other sites read it and everybody cache it for that second ([`reply`]).
//!
//! `/metrics`, `/pool-list` and the pages of [`api`] are ours. They have one format each and ignore `Accept`. A dashboard would be
//! routes of its own beside the fallback in [`router`].

mod accept;
mod api;
mod memo;
mod reply;
#[cfg(test)]
mod tests;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

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

pub use self::api::Explain;
use self::{
    accept::Format,
    memo::Memo,
    reply::{Document, Refusal},
};

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
}

/// Answers until shutdown; returns when the last answer is out, or a little later.
pub async fn serve(listener: TcpListener, state: WebState, shutdown: CancellationToken) {
    let over = shutdown.clone();
    let serving = axum::serve(listener, router(state)).with_graceful_shutdown(shutdown.cancelled_owned());
    tokio::select! {
        biased;
        result = serving => {
            if let Err(error) = result {
                tracing::error!("The HTTP server ended: {error}");
            }
        }
        () = async { over.cancelled().await; tokio::time::sleep(LAST_ANSWERS).await } => {
            tracing::debug!("The HTTP server leaves clients that did not read their answers");
        }
    }
}

fn router(state: WebState) -> Router {
    Router::new().fallback(answer).with_state(Server { state, memo: Arc::default() })
}

#[derive(Clone)]
struct Server {
    state: WebState,
    memo: Arc<Memo>,
}

async fn answer(State(server): State<Server>, uri: Uri, headers: HeaderMap) -> Response {
    match uri.path() {
        "/metrics" => {
            return reply::plain("text/plain; version=0.0.4; charset=utf-8", (server.state.metrics)());
        }
        "/pool-list" => {
            // Made anew once a second at most: there may be many nodes and requests.
            let key = (uri.path().to_owned(), Vec::new(), Format::Json);
            let pools = server.memo.get_or_make(key, server.state.clock.now(), || {
                String::from_utf8_lossy(&to_python_json(&(server.state.pools)())).into_owned()
            });
            return reply::plain(reply::JSON, pools.body.to_string());
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
    match document(&server, &uri, format) {
        Ok(document) => reply::document(&document, format, headers.get(header::IF_MODIFIED_SINCE)),
        Err(refusal) => reply::refusal(&refusal, accept.as_deref()),
    }
}

fn document(server: &Server, uri: &Uri, format: Format) -> Result<Document, Refusal> {
    if uri.path() == "/ready" {
        return ready(&(server.state.readiness)(), server.state.clock.now());
    }
    // All values of a key matter for the memory, the last one for the answer, as in upstream.
    let Query(parameters) = Query::<Vec<(String, String)>>::try_from_uri(uri).unwrap_or_default();
    let parameter: BTreeMap<&str, &str> = parameters.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
    let now = server.state.clock.now();
    let make = table_maker(uri.path(), parameter.get("node_id").copied(), now)
        .ok_or_else(|| Refusal::new(StatusCode::NOT_FOUND, "The resource could not be found."))?;
    let key = (uri.path().to_owned(), parameters.clone(), format);
    Ok(server.memo.get_or_make(key, now, || {
        let table = (server.state.records)(&*make);
        match format {
            Format::Json => table.render_json(),
            Format::Text => {
                let fields: Option<Vec<&str>> =
                    parameter.get("fields").filter(|list| !list.is_empty()).map(|list| list.split(',').collect());
                table.render_text(fields.as_deref())
            }
        }
    }))
}

type MakeTable<'a> = Box<dyn Fn(&Records) -> Table + 'a>;

/// The table behind a path.
fn table_maker<'a>(path: &str, node_id: Option<&'a str>, now: Timestamp) -> Option<MakeTable<'a>> {
    // An empty node_id asks for all nodes.
    let node_id = node_id.filter(|id| !id.is_empty());
    Some(match path {
        "/node-list" => Box::new(move |records| status::node_list(records, node_id, now)),
        "/request-list" => Box::new(move |records| status::request_list(records, now)),
        "/image-list" => Box::new(move |records| status::image_list(records, now)),
        "/dib-image-list" => Box::new(move |records| status::dib_image_list(records, now)),
        "/image-status" => {
            Box::new(move |records| status::image_status(records, |image| status::is_building(records, image), now))
        }
        "/label-list" => Box::new(move |records| status::label_list(records, now)),
        _ => return None,
    })
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
