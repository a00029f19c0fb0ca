//! `/api/v1/events`: server-sent events. A client is sent an `overview` at once and at each change, each with an id.
//!
//! One task makes them, for all clients and only while there are some: at the first change at once, then after a pause
//! of [`PAUSE`], or of [`REST`] times as long as it took to make the last one. What has changed meanwhile is in one event.
//! All clients are sent the same memory, and each only the newest: there are no queues. A client that comes back with the id
//! of the newest in `Last-Event-ID` gets the next one. A comment every [`KEEP_ALIVE`] shows that the connection stands.
//!
//! There are so many clients at most; one more is refused with 503.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use axum::{
    body::{Body, Bytes},
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::Response,
};
use futures::{StreamExt as _, stream};
use nodepool_common::sys::{clock::Clock, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{
    api,
    overview::{self, Source},
    reply,
};

pub(super) const PATH: &str = "/api/v1/events";
/// So many clients at most, where there may be enough connections.
pub(super) const CLIENTS: usize = 1000;
/// Between two events.
const PAUSE: Duration = Duration::from_millis(250);
/// So many times as long as the last one took to make.
const REST: u32 = 4;
/// So often it is looked whether what other launchers know has changed.
const LOOK: Duration = Duration::from_secs(3);
const KEEP_ALIVE: Duration = Duration::from_secs(15);
/// After how many milliseconds a client comes back.
const RETRY: u32 = 2000;

/// See the module.
pub(super) struct Events {
    source: Source,
    clock: Clock,
    at_most: usize,
    shutdown: CancellationToken,
    newest: watch::Sender<Option<Event>>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    clients: usize,
    is_running: bool,
    /// How many were made: their ids.
    made: u64,
}

/// What is sent.
#[derive(Clone)]
struct Event {
    id: String,
    text: Bytes,
}

impl Events {
    pub(super) fn new(source: Source, clock: Clock, at_most: usize, shutdown: CancellationToken) -> Arc<Self> {
        let (newest, state) = (watch::Sender::new(None), Mutex::default());
        Arc::new(Self { source, clock, at_most, shutdown, newest, state })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing can be left half-done under this lock, so a poisoned one is as good.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn answer(self: &Arc<Self>, headers: &HeaderMap) -> Response {
        let Some(client) = self.client() else {
            let what = format!("{} clients have events already; /api/v1/overview is the same", self.at_most);
            let mut response = api::error(StatusCode::SERVICE_UNAVAILABLE, &what);
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("30"));
            return response;
        };
        let last = headers.get("last-event-id").and_then(|id| id.to_str().ok()).unwrap_or_default().to_owned();
        let mut newest = self.newest.subscribe();
        newest.mark_changed();
        let first = Bytes::from(format!("retry: {RETRY}\n\n"));
        let events = stream::unfold((client, newest, last), async |(client, mut newest, mut last)| {
            let text = loop {
                let changed = tokio::select! {
                    biased;
                    () = client.0.shutdown.cancelled() => return None,
                    changed = newest.changed() => changed,
                    () = tokio::time::sleep(KEEP_ALIVE) => break Bytes::from_static(b": all is as it was\n\n"),
                };
                changed.ok()?;
                let event = newest.borrow_and_update().clone();
                if let Some(event) = event.filter(|event| event.id != last) {
                    last = event.id;
                    break event.text;
                }
            };
            Some((text, (client, newest, last)))
        });
        let events = stream::once(async { first }).chain(events).map(Ok::<_, std::convert::Infallible>);
        let mut response = reply::plain("text/event-stream", Body::from_stream(events));
        let headers = response.headers_mut();
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
        // Proxies of nginx would collect events.
        headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
        response
    }

    fn client(self: &Arc<Self>) -> Option<Client> {
        let mut state = self.state();
        if state.clients >= self.at_most {
            return None;
        }
        state.clients += 1;
        if !state.is_running {
            state.is_running = true;
            // What was so when somebody looked last is old.
            self.newest.send_replace(None);
            tokio::spawn(Arc::clone(self).make());
        }
        Some(Client(Arc::clone(self)))
    }

    /// Makes events as long as there is a client.
    async fn make(self: Arc<Self>) {
        let mut changes = (self.source.changes)();
        let mut last = None;
        while self.goes_on() {
            let began = Instant::now();
            let overview = tokio::select! {
                biased;
                () = self.shutdown.cancelled() => return,
                overview = (self.source.overview)() => overview,
            };
            if last.as_ref() != Some(&overview) {
                self.send(&overview::written(&overview, self.clock.now()));
                last = Some(overview);
            }
            let pause = PAUSE.max(began.elapsed() * REST);
            tokio::select! {
                biased;
                () = self.shutdown.cancelled() => return,
                () = tokio::time::sleep(pause) => {}
            }
            tokio::select! {
                biased;
                () = self.shutdown.cancelled() => return,
                _ = changes.next() => {}
                () = tokio::time::sleep(LOOK) => {}
            }
        }
    }

    fn goes_on(&self) -> bool {
        let mut state = self.state();
        state.is_running = state.clients > 0;
        state.is_running
    }

    fn send(&self, data: &str) {
        let number = {
            let mut state = self.state();
            state.made += 1;
            state.made
        };
        // Those of an earlier process are others.
        let id = format!("{:.0}-{number}", self.clock.now());
        let text = Bytes::from(format!("id: {id}\nevent: overview\ndata: {data}\n\n"));
        self.newest.send_replace(Some(Event { id, text }));
    }
}

/// A client; it is forgotten when this goes.
struct Client(Arc<Events>);

impl Drop for Client {
    fn drop(&mut self) {
        self.0.state().clients -= 1;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use nodepool_common::overview::Overview;

    use super::*;

    /// What the overview says is how many nodes are ready, and changes with what is sent.
    fn events(at_most: usize) -> (Arc<Events>, watch::Sender<usize>, Arc<AtomicUsize>, CancellationToken) {
        let (sender, receiver) = {
            let sender = watch::Sender::new(0);
            let receiver = sender.subscribe();
            (sender, receiver)
        };
        let (made, counted) = (Arc::new(AtomicUsize::new(0)), receiver.clone());
        let count = Arc::clone(&made);
        let source = Source {
            overview: Arc::new(move || {
                count.fetch_add(1, Ordering::Relaxed);
                let nodes = [("ready".to_owned(), *counted.borrow())].into();
                Box::pin(std::future::ready(Overview { nodes, ..Overview::default() }))
            }),
            part: Arc::new(|| panic!("nobody asks for it")),
            nodes: Arc::new(String::new),
            requests: Arc::new(String::new),
            changes: Arc::new(move || {
                let next =
                    async |mut receiver: watch::Receiver<usize>| receiver.changed().await.ok().map(|()| ((), receiver));
                stream::unfold(receiver.clone(), next).boxed()
            }),
        };
        let shutdown = CancellationToken::new();
        (Events::new(source, Clock::system(), at_most, shutdown.clone()), sender, made, shutdown)
    }

    async fn next(body: &mut axum::body::BodyDataStream) -> Option<String> {
        let part = tokio::time::timeout(Duration::from_secs(60), body.next()).await.expect("something comes");
        part.map(|part| String::from_utf8(part.unwrap().to_vec()).unwrap())
    }

    fn body(response: Response) -> axum::body::BodyDataStream {
        assert_eq!(response.status(), StatusCode::OK);
        assert_eq!(response.headers()[header::CONTENT_TYPE], "text/event-stream");
        response.into_body().into_data_stream()
    }

    fn id(event: &str) -> &str {
        event.lines().find_map(|line| line.strip_prefix("id: ")).expect("an id")
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_has_the_newest_at_once_and_each_change_but_no_queue_of_them() {
        let (events, nodes, made, _) = events(10);
        let mut client = body(events.answer(&HeaderMap::new()));
        assert_eq!(next(&mut client).await.unwrap(), "retry: 2000\n\n");
        let first = next(&mut client).await.unwrap();
        assert!(first.contains("event: overview\ndata: {") && first.contains(r#""nodes":{"ready":0}"#), "{first}");
        tokio::time::sleep(PAUSE * 2).await;
        let began = Instant::now();
        nodes.send_replace(1);
        assert!(next(&mut client).await.unwrap().contains(r#""ready":1"#));
        assert!(began.elapsed() < Duration::from_millis(10), "the first change is not put off");
        // A client that reads nothing for a while gets what is so then.
        for number in 2..=50 {
            nodes.send_replace(number);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        tokio::time::sleep(PAUSE * 2).await;
        assert!(next(&mut client).await.unwrap().contains(r#""ready":50"#));
        assert!(made.load(Ordering::Relaxed) < 10, "a second of changes is a few events");
        assert!(next(&mut client).await.unwrap().starts_with(':'), "nothing else has happened");
    }

    #[tokio::test(start_paused = true)]
    async fn who_comes_back_with_the_id_of_the_newest_waits_for_the_next_one() {
        let (events, nodes, ..) = events(10);
        let mut stays = body(events.answer(&HeaderMap::new()));
        next(&mut stays).await;
        let first = next(&mut stays).await.unwrap();
        let headers = HeaderMap::from_iter([(
            axum::http::HeaderName::from_static("last-event-id"),
            HeaderValue::from_str(id(&first)).unwrap(),
        )]);
        let mut again = body(events.answer(&headers));
        next(&mut again).await;
        assert!(next(&mut again).await.unwrap().starts_with(':'), "it has that one");
        nodes.send_replace(1);
        assert!(next(&mut again).await.unwrap().contains(r#""ready":1"#));
        let mut late = body(events.answer(&headers));
        next(&mut late).await;
        assert!(next(&mut late).await.unwrap().contains(r#""ready":1"#), "at once: it has missed that");
    }

    #[tokio::test(start_paused = true)]
    async fn one_client_too_many_is_refused_and_nothing_is_made_for_nobody() {
        let (events, _nodes, made, shutdown) = events(2);
        let clients = [events.answer(&HeaderMap::new()), events.answer(&HeaderMap::new())];
        let refused = events.answer(&HeaderMap::new());
        assert_eq!(refused.status(), StatusCode::SERVICE_UNAVAILABLE);
        drop(clients);
        let mut client = body(events.answer(&HeaderMap::new()));
        next(&mut client).await;
        next(&mut client).await;
        drop(client);
        tokio::time::sleep(LOOK * 2).await;
        let before = made.load(Ordering::Relaxed);
        tokio::time::sleep(LOOK * 10).await;
        assert_eq!(made.load(Ordering::Relaxed), before);
        // At the end of the process each stream ends.
        let mut client = body(events.answer(&HeaderMap::new()));
        shutdown.cancel();
        while next(&mut client).await.is_some() {}
    }
}
