//! `/api/v1/overview` and the lists of the dashboard: see the table of [`super::api`].
//!
//! Each is made once a second at most, one after another, however many ask; the lists in a thread beside the server's own.

use std::sync::Arc;

use axum::response::Response;
use futures::{future::BoxFuture, stream::BoxStream};
use nodepool_common::{
    model::Timestamp,
    overview::{Overview, PART, Part},
    sys::clock::Clock,
};
use serde::Serialize;

use super::{
    accept::Format,
    api,
    memo::{Key, Line, Memo},
    reply,
};

/// What makes a list.
pub type MakeList = Arc<dyn Fn() -> String + Send + Sync>;

/// Where it comes from.
#[derive(Clone)]
pub struct Source {
    /// How everything stands, by what all launchers say.
    pub overview: Arc<dyn Fn() -> BoxFuture<'static, Overview> + Send + Sync>,
    /// What this launcher alone knows of it.
    pub part: Arc<dyn Fn() -> BoxFuture<'static, Part> + Send + Sync>,
    /// All nodes, as JSON.
    pub nodes: MakeList,
    /// All requests, as JSON.
    pub requests: MakeList,
    /// Has an item whenever something may have changed.
    pub changes: Arc<dyn Fn() -> BoxStream<'static, ()> + Send + Sync>,
}

/// One of the pages.
#[derive(Clone, Copy, Debug)]
pub(super) enum Page {
    Overview,
    Part,
    Nodes,
    Requests,
}

impl Page {
    /// That of a path.
    pub(super) fn of(path: &str) -> Option<Self> {
        Some(match path {
            "/api/v1/overview" => Self::Overview,
            PART => Self::Part,
            "/api/v1/nodes" => Self::Nodes,
            "/api/v1/requests" => Self::Requests,
            _ => return None,
        })
    }

    const fn path(self) -> &'static str {
        match self {
            Self::Overview => "/api/v1/overview",
            Self::Part => PART,
            Self::Nodes => "/api/v1/nodes",
            Self::Requests => "/api/v1/requests",
        }
    }

    pub(super) async fn answer(self, source: &Source, memo: &Arc<Memo>, clock: &Clock) -> Response {
        let key: Key = (self.path().to_owned(), Vec::new(), Format::Json);
        let (source, at) = (source.clone(), clock.clone());
        let page = memo.get_or_make(Line::Dashboard, key, clock, async move {
            match self {
                Self::Overview => written(&(source.overview)().await, at.now()),
                Self::Part => api::json_of(&(source.part)().await),
                Self::Nodes => made(source.nodes).await,
                Self::Requests => made(source.requests).await,
            }
        });
        reply::plain(reply::JSON, page.await.shared())
    }
}

async fn made(list: MakeList) -> String {
    // A panic is in the log.
    tokio::task::spawn_blocking(move || list()).await.unwrap_or_default()
}

/// As it is sent: with when it was so.
pub(super) fn written(overview: &Overview, at: Timestamp) -> String {
    #[derive(Serialize)]
    struct Written<'a> {
        at: Timestamp,
        #[serde(flatten)]
        overview: &'a Overview,
    }
    api::json_of(&Written { at, overview })
}
