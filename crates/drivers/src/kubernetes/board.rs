//! [`Board`]: the pods of one namespace, as one watch shows them to everybody who waits for one.
//!
//! The watch is kube's: it lists, follows, and lists again when it has lost the thread. What waits for a pod looks at the
//! board whenever that pod has changed. A watch can fail (the API is away, or our account may not watch), so waiting never
//! relies on it alone: a pod that has not stirred for [`Board::patience`] is asked for by its name.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures::StreamExt;
use k8s_openapi::api::core::v1::Pod;
use kube::{
    Api as Resource,
    runtime::watcher::{self, Event, watcher},
};
use tokio::sync::watch;
use tokio_util::sync::{CancellationToken, DropGuard};
use tracing::{debug, warn};

use super::calls::{Api, ApiError};

/// Seconds after which the server ends a watch, to be begun anew: a connection that has died unnoticed lasts no longer.
const WATCH_SECONDS: u32 = 120;
/// How often a board looks whether the kubeconfig has changed.
const CHECK_INTERVAL: Duration = Duration::from_secs(5);
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// When a pod is asked for although nothing has happened to it.
const WATCHED: Duration = Duration::from_secs(20);
/// The same where nobody would tell: upstream's pace.
const UNWATCHED: Duration = Duration::from_secs(1);

/// What the board knows of a pod.
#[derive(Clone, Debug)]
pub enum Sight {
    /// It has not been seen.
    Unseen,
    /// As it was last.
    There(Arc<Pod>),
    /// It was there, and is no longer.
    Gone,
}

/// See the module's comment. The watch ends with it.
pub struct Board {
    shared: Arc<Shared>,
    _stop: DropGuard,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    pods: HashMap<String, Arc<Pod>>,
    /// Who waits for which pod.
    waiting: HashMap<String, watch::Sender<Sight>>,
    /// A list that is being read: what it had so far.
    listing: Option<HashMap<String, Arc<Pod>>>,
    /// Whether the watch works.
    follows: bool,
}

impl Shared {
    fn open(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn tell(&self, name: &str, sight: Sight) {
        if let Some(sender) = self.waiting.get(name) {
            sender.send_replace(sight);
        }
    }

    fn apply(&mut self, event: Event<Pod>) {
        match event {
            Event::Apply(pod) => {
                let Some((name, pod)) = kept(pod) else { return };
                self.tell(&name, Sight::There(Arc::clone(&pod)));
                self.pods.insert(name, pod);
            }
            Event::Delete(pod) => {
                let Some(name) = pod.metadata.name else { return };
                self.pods.remove(&name);
                self.tell(&name, Sight::Gone);
            }
            Event::Init => self.listing = Some(HashMap::new()),
            Event::InitApply(pod) => {
                if let (Some(listing), Some((name, pod))) = (&mut self.listing, kept(pod)) {
                    listing.insert(name, pod);
                }
            }
            Event::InitDone => {
                let Some(listing) = self.listing.take() else { return };
                let before = std::mem::replace(&mut self.pods, listing);
                for (name, pod) in &self.pods {
                    self.tell(name, Sight::There(Arc::clone(pod)));
                }
                for name in before.keys().filter(|name| !self.pods.contains_key(*name)) {
                    self.tell(name, Sight::Gone);
                }
            }
        }
    }
}

/// A pod as it is kept: without what nobody reads.
fn kept(mut pod: Pod) -> Option<(String, Arc<Pod>)> {
    pod.metadata.managed_fields = None;
    Some((pod.metadata.name.clone()?, Arc::new(pod)))
}

/// Somebody who waits for a pod.
pub struct Follower {
    shared: Arc<Shared>,
    name: String,
    news: watch::Receiver<Sight>,
}

impl Follower {
    /// What is known now.
    pub fn sight(&mut self) -> Sight {
        self.news.borrow_and_update().clone()
    }

    /// Returns when there is news, or when it is time to ask.
    pub async fn news_or_patience(&mut self) -> News {
        let patience = if self.shared.open().follows { WATCHED } else { UNWATCHED };
        match tokio::time::timeout(patience, self.news.changed()).await {
            Ok(Ok(())) => News::Seen,
            _ => News::Ask,
        }
    }
}

/// See [`Follower::news_or_patience`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum News {
    /// The board has something new.
    Seen,
    /// It has not for long.
    Ask,
}

impl Drop for Follower {
    fn drop(&mut self) {
        let mut state = self.shared.open();
        // Its own receiver and nobody else's.
        if state.waiting.get(&self.name).is_some_and(|sender| sender.receiver_count() <= 1) {
            state.waiting.remove(&self.name);
        }
    }
}

impl Board {
    /// Begins to watch the pods of a namespace, those with the given labels.
    pub fn watch(api: Arc<Api>, namespace: String, selector: Option<String>) -> Self {
        let shared = Arc::new(Shared::default());
        let stop = CancellationToken::new();
        let (task, token) = (Arc::clone(&shared), stop.clone());
        tokio::spawn(async move {
            tokio::select! {
                () = follow(api, namespace, selector, task) => {}
                () = token.cancelled() => {}
            }
        });
        Self { shared, _stop: stop.drop_guard() }
    }

    /// Follows a pod from now on, whether it is there yet or not.
    pub fn follow(&self, name: &str) -> Follower {
        let mut state = self.shared.open();
        let sight = state.pods.get(name).map_or(Sight::Unseen, |pod| Sight::There(Arc::clone(pod)));
        let news = if let Some(sender) = state.waiting.get(name) {
            sender.subscribe()
        } else {
            let (sender, news) = watch::channel(sight);
            state.waiting.insert(name.to_owned(), sender);
            news
        };
        Follower { shared: Arc::clone(&self.shared), name: name.to_owned(), news }
    }

    /// A pod as it was last seen.
    pub fn pod(&self, name: &str) -> Option<Arc<Pod>> {
        self.shared.open().pods.get(name).cloned()
    }
}

async fn follow(api: Arc<Api>, namespace: String, selector: Option<String>, shared: Arc<Shared>) {
    let mut pause = FIRST_PAUSE;
    let mut said = String::new();
    loop {
        let cluster = match api.connection().cluster().await {
            Ok(cluster) => cluster,
            Err(error) => {
                debug!("Pods of namespace {namespace} are not watched: {error}");
                tokio::time::sleep(LONGEST_PAUSE).await;
                continue;
            }
        };
        let config = watcher::Config { label_selector: selector.clone(), ..watcher::Config::default() };
        let pods: Resource<Pod> = Resource::namespaced(cluster.client.clone(), &namespace);
        let mut events = std::pin::pin!(watcher(pods, config.timeout(WATCH_SECONDS)));
        loop {
            let Ok(event) = tokio::time::timeout(CHECK_INTERVAL, events.next()).await else {
                match api.connection().cluster().await {
                    Ok(current) if !Arc::ptr_eq(&current, &cluster) => break,
                    _ => continue,
                }
            };
            match event {
                Some(Ok(event)) => {
                    let listed = matches!(event, Event::InitDone | Event::Apply(_));
                    let mut state = shared.open();
                    state.apply(event);
                    if listed {
                        state.follows = true;
                        pause = FIRST_PAUSE;
                        said.clear();
                    }
                }
                Some(Err(error)) => {
                    let error = of_watch(error);
                    shared.open().follows = false;
                    let why = error.to_string();
                    if error.is_forbidden() {
                        if said != why {
                            warn!(
                                "Pods of namespace {namespace} are asked for once a second, because our account may not \
                                 follow them (it needs `list` and `watch` on pods): {why}"
                            );
                        }
                        tokio::time::sleep(LONGEST_PAUSE * 12).await;
                    } else {
                        if said != why {
                            debug!("The watch of namespace {namespace} is broken, to be repeated: {why}");
                        }
                        if error.code == 401 {
                            // Others have asked for new credentials meanwhile, or this does.
                            api.connection().refused(&cluster).await;
                        }
                        tokio::time::sleep(pause).await;
                        pause = (pause * 2).min(LONGEST_PAUSE);
                    }
                    said = why;
                    let current = api.connection().cluster().await;
                    if current.is_ok_and(|current| !Arc::ptr_eq(&current, &cluster)) {
                        break;
                    }
                }
                None => break,
            }
        }
    }
}

fn of_watch(error: watcher::Error) -> ApiError {
    match error {
        watcher::Error::InitialListFailed(error)
        | watcher::Error::WatchStartFailed(error)
        | watcher::Error::WatchFailed(error) => error.into(),
        watcher::Error::WatchError(status) => kube::Error::Api(status).into(),
        watcher::Error::NoResourceVersion => ApiError::bug("what was watched has no version".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod(name: &str) -> Pod {
        serde_json::from_value(json!({"metadata": {"name": name}})).unwrap()
    }

    #[test]
    fn who_waits_is_told_also_by_a_new_list() {
        let mut state = State::default();
        let (sender, mut news) = watch::channel(Sight::Unseen);
        state.waiting.insert("a".to_owned(), sender);
        state.apply(Event::Apply(pod("b")));
        assert!(!news.has_changed().unwrap(), "another pod is no news");
        state.apply(Event::Apply(pod("a")));
        assert!(matches!(*news.borrow_and_update(), Sight::There(_)));
        state.apply(Event::Init);
        state.apply(Event::InitApply(pod("b")));
        assert!(!news.has_changed().unwrap(), "a list counts when it is complete");
        state.apply(Event::InitDone);
        assert!(matches!(*news.borrow_and_update(), Sight::Gone), "it is not in the list");
        // A pod that was created after the list was read: not seen so far, so not missed.
        state.apply(Event::Init);
        state.apply(Event::InitDone);
        assert!(!news.has_changed().unwrap());
    }
}
