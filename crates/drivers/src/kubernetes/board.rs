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
use serde_json::Value;
use tokio::{
    sync::{Notify, watch},
    time::Instant,
};
use tokio_util::sync::{CancellationToken, DropGuard};
use tracing::{debug, warn};

use super::{api_error::ApiError, calls::Api, life};
use crate::Scope;

/// Seconds after which the server ends a watch, to be begun anew: a connection that has died unnoticed lasts no longer.
const WATCH_SECONDS: u32 = 120;
/// How often a board looks whether the kubeconfig has changed.
const CHECK_INTERVAL: Duration = Duration::from_secs(5);
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// How many pods that are gone are remembered at least, and for how long at least.
const REMEMBERED: usize = 1000;
const REMEMBERED_FOR: Duration = Duration::from_secs(600);
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
    /// The one of that uid was there and is no longer. `None`: there is none of that name.
    Gone(Option<String>),
}

impl Sight {
    /// Whether the pod of that uid is certainly not there any more: its name may have been given to another one since.
    pub fn is_end_of(&self, uid: Option<&str>) -> bool {
        match self {
            Self::Unseen => false,
            Self::There(pod) => pod.metadata.uid.as_deref() != uid,
            Self::Gone(gone) => gone.as_deref().is_none_or(|gone| Some(gone) == uid),
        }
    }
}

/// See the module's comment. The watch ends with it.
pub struct Board {
    shared: Arc<Shared>,
    _stop: DropGuard,
}

struct Shared {
    state: Mutex<State>,
    /// Told when a pod has ended.
    ends: Arc<Notify>,
}

#[derive(Default)]
struct State {
    pods: HashMap<String, Arc<Pod>>,
    /// Who waits for which pod.
    waiting: HashMap<String, watch::Sender<Sight>>,
    /// Names of pods that were seen and are gone, with when that was noticed.
    removed: HashMap<String, Instant>,
    /// A list that is being read: when it was begun, and what it had so far.
    listing: Option<(Instant, HashMap<String, Arc<Pod>>)>,
    /// When the last list that was read to its end was begun.
    listed: Option<Instant>,
    /// Whether the watch works.
    follows: bool,
    /// Which cluster all this is of.
    cluster: Option<Scope>,
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

    /// Returns whether a pod has ended.
    fn apply(&mut self, event: Event<Pod>) -> bool {
        match event {
            Event::Apply(pod) => {
                let Some((name, pod)) = kept(pod) else { return false };
                self.tell(&name, Sight::There(Arc::clone(&pod)));
                self.removed.remove(&name);
                let has_ended = life::has_ended(&pod).is_some();
                self.pods.insert(name, pod);
                has_ended
            }
            Event::Delete(pod) => {
                let Some(name) = pod.metadata.name else { return false };
                self.tell(&name, Sight::Gone(pod.metadata.uid.clone()));
                if self.pods.get(&name).is_some_and(|known| known.metadata.uid != pod.metadata.uid) {
                    return false;
                }
                self.pods.remove(&name);
                self.remove(name);
                true
            }
            Event::Init => {
                self.listing = Some((Instant::now(), HashMap::new()));
                false
            }
            Event::InitApply(pod) => {
                if let (Some((_, listing)), Some((name, pod))) = (&mut self.listing, kept(pod)) {
                    listing.insert(name, pod);
                }
                false
            }
            Event::InitDone => {
                let Some((began, listing)) = self.listing.take() else { return false };
                self.listed = Some(began);
                let before = std::mem::replace(&mut self.pods, listing);
                for (name, pod) in &self.pods {
                    self.removed.remove(name);
                    self.tell(name, Sight::There(Arc::clone(pod)));
                }
                let gone: Vec<_> = before.into_iter().filter(|(name, _)| !self.pods.contains_key(name)).collect();
                for (name, pod) in gone {
                    self.tell(&name, Sight::Gone(pod.metadata.uid.clone()));
                    self.remove(name);
                }
                true
            }
        }
    }

    /// What is to come is of that cluster. What another one had says nothing of it.
    fn begin(&mut self, cluster: Scope) {
        if self.cluster.as_ref() != Some(&cluster) {
            (self.listing, self.listed, self.cluster) = (None, None, Some(cluster));
            self.pods.clear();
            self.removed.clear();
        }
    }

    /// Whether what it has seen says something of what was made there.
    fn is_of(&self, made_in: Option<&Value>) -> bool {
        self.cluster.as_ref().is_some_and(|cluster| cluster.lacks(made_in).is_none())
    }

    fn remove(&mut self, name: String) {
        if self.removed.len() >= REMEMBERED {
            self.removed.retain(|_, at| at.elapsed() < REMEMBERED_FOR);
        }
        self.removed.insert(name, Instant::now());
    }

    /// See [`Board::has_gone`].
    fn has_gone(&self, name: &str, since: Option<Instant>) -> Option<String> {
        if let Some(pod) = self.pods.get(name) {
            return life::has_ended(pod);
        }
        let listed_later = self.listed.is_some_and(|listed| since.is_none_or(|since| listed > since));
        (self.removed.contains_key(name) || listed_later).then(|| "it is not there any more".to_owned())
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
    /// `ends` is told when one has ended.
    pub fn watch(api: Arc<Api>, namespace: String, selector: Option<String>, ends: Arc<Notify>) -> Self {
        let shared = Arc::new(Shared { state: Mutex::default(), ends });
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

    /// Why a pod that was there at a moment is of no use any more; `None`: it is, or nothing is known of it since then.
    /// `made_in`: the `driver_data` of its record. `since`: `None` where that was before anything that this process could have
    /// seen.
    pub fn has_gone(&self, made_in: Option<&Value>, name: &str, since: Option<Instant>) -> Option<String> {
        let state = self.shared.open();
        state.has_gone(name, since).filter(|_| state.is_of(made_in))
    }

    /// A pod that was made in that cluster, as it was last seen.
    pub fn pod(&self, made_in: Option<&Value>, name: &str) -> Option<Arc<Pod>> {
        let state = self.shared.open();
        state.pods.get(name).filter(|_| state.is_of(made_in)).cloned()
    }
}

async fn follow(api: Arc<Api>, namespace: String, selector: Option<String>, shared: Arc<Shared>) {
    let mut pause = FIRST_PAUSE;
    let mut said = String::new();
    loop {
        let session = api.session();
        let cluster = match session.cluster().await {
            Ok(cluster) => cluster,
            Err(error) => {
                debug!("Pods of namespace {namespace} are not watched: {error}");
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(LONGEST_PAUSE);
                continue;
            }
        };
        if let Some(scope) = session.scope() {
            shared.open().begin(scope.clone());
        }
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
                    let one_has_ended = state.apply(event);
                    if listed {
                        state.follows = true;
                        pause = FIRST_PAUSE;
                        said.clear();
                    }
                    drop(state);
                    if one_has_ended {
                        shared.ends.notify_one();
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
        assert!(matches!(*news.borrow_and_update(), Sight::Gone(_)), "it is not in the list");
        // A pod that was created after the list was read: not seen so far, so not missed.
        state.apply(Event::Init);
        state.apply(Event::InitDone);
        assert!(!news.has_changed().unwrap());
    }
    #[test]
    fn of_another_clusters_pods_nothing_is_known() {
        let of = |uid: &str| Scope::Cluster { uid: Some(uid.to_owned()), server: "https://a".to_owned() };
        let mut state = State::default();
        state.begin(of("1"));
        state.apply(Event::Init);
        state.apply(Event::InitApply(pod("a")));
        state.apply(Event::InitDone);
        assert!(state.has_gone("b", None).is_some());
        state.begin(of("1"));
        assert!(state.has_gone("b", None).is_some() && state.pods.contains_key("a"), "a watch that was begun anew");
        state.begin(of("2"));
        assert_eq!((state.has_gone("a", None), state.has_gone("b", None)), (None, None));
    }

    #[test]
    fn an_old_pods_end_is_not_that_of_a_new_one_of_the_same_name() {
        let of = |uid: &str| -> Pod { serde_json::from_value(json!({"metadata": {"name": "a", "uid": uid}})).unwrap() };
        let mut state = State::default();
        let (sender, mut news) = watch::channel(Sight::Unseen);
        state.waiting.insert("a".to_owned(), sender);
        state.apply(Event::Apply(of("old")));
        // The new one is made when the old one's end has not come here yet.
        state.apply(Event::Delete(of("old")));
        let sight = news.borrow_and_update().clone();
        assert!(sight.is_end_of(Some("old")) && !sight.is_end_of(Some("new")));
        state.apply(Event::Apply(of("new")));
        let sight = news.borrow_and_update().clone();
        assert!(sight.is_end_of(Some("old")) && !sight.is_end_of(Some("new")));
        state.apply(Event::Delete(of("old")));
        assert!(state.pods.contains_key("a"), "told twice, it is still the old one's end");
        assert!(Sight::Gone(None).is_end_of(Some("new")), "there is none of that name");
    }
    #[test]
    fn a_pod_is_gone_when_its_end_was_seen_or_a_later_list_lacks_it() {
        let mut state = State::default();
        let ready = Instant::now();
        assert_eq!(state.has_gone("a", Some(ready)), None, "nothing is known of it");
        assert_eq!(state.has_gone("a", None), None);
        state.listing = Some((ready, HashMap::new()));
        state.apply(Event::InitDone);
        assert_eq!(state.has_gone("a", Some(ready)), None, "the list is not younger than it");
        assert!(state.has_gone("a", None).is_some(), "it was there before");
        state.apply(Event::Apply(pod("a")));
        assert_eq!(state.has_gone("a", None), None);
        assert!(state.apply(Event::Delete(pod("a"))));
        assert!(state.has_gone("a", Some(Instant::now())).is_some(), "its end was seen");
        let evicted = json!({"metadata": {"name": "b"}, "status": {"phase": "Failed", "reason": "Evicted"}});
        assert!(state.apply(Event::Apply(serde_json::from_value(evicted).unwrap())));
        assert_eq!(state.has_gone("b", None), Some("it failed: Evicted".to_owned()));
    }
}
