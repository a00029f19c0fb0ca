//! The end of pods and namespaces: their deletion, and the lists by which leaks are found.
//!
//! Only what carries our provider's name is deleted, and a pod only under the uid that was looked at.

use std::{
    sync::{Arc, PoisonError, atomic::Ordering},
    time::Duration,
};

use k8s_openapi::api::core::v1::Pod;
use kube::core::{
    Request as Path,
    params::{DeleteParams, ListParams, Preconditions},
};
use nodepool_common::config::KubernetesKind;
use serde_json::{Map, Value};
use tokio::time::{Instant, sleep};
use tracing::{info, warn};

use super::{
    api_error::ApiError,
    board::{Follower, Sight},
    calls::{Session, items},
    home::{self, Deletion, Homes, Look},
    manifest,
    provider::{KubernetesProvider, ListedHomes, Result, next, pods_in},
    quota,
};
use crate::{CloudResource, ErrorClass, ProviderError, ResourceKind};

/// How long a deletion is waited for, as upstream does; after that it is begun anew.
const DELETED_WITHIN: Duration = Duration::from_secs(300);
/// How often something is looked at that is another one, or was changed, when it is to be deleted.
const LOOKS: u32 = 5;

impl KubernetesProvider {
    /// The namespace and name that an id of ours, `NAMESPACE-NAME`, may stand for: the longest pool that begins it first;
    /// of a pool that is no longer configured, whatever it may be.
    pub(super) fn places(&self, id: &str) -> Vec<(String, String)> {
        let of = |namespace: &str| {
            let name = id.strip_prefix(namespace)?.strip_prefix('-')?;
            Some((namespace.to_owned(), name.to_owned()))
        };
        let mut places: Vec<_> = self.pools.keys().filter_map(|pool| of(pool.as_str())).collect();
        places.sort_by_key(|(namespace, _)| std::cmp::Reverse(namespace.len()));
        if places.is_empty() {
            places = id.match_indices('-').filter_map(|(at, _)| of(&id[..at])).collect();
        }
        places
    }

    pub(super) async fn delete_pod(&self, id: &str, made_in: Option<&Value>, waits: bool) -> Result<()> {
        let doing = format!("deleting pod {id} of provider {}", self.name);
        let session = self.api.session_in(made_in);
        let (mut hidden, mut looked) = (None, false);
        for (namespace, name) in self.places(id) {
            let board = self.board(&namespace);
            // Followed first, so that its end is not missed.
            let mut follower = board.as_ref().map(|board| board.follow(&name));
            let mut known = board.as_ref().and_then(|board| board.pod(made_in, &name));
            let mut pause = self.pause;
            for look in 1..=LOOKS {
                let found = match known.take() {
                    Some(pod) => Ok(Some(pod)),
                    None => find_pod(&session, &namespace, &name).await,
                };
                let pod = match found {
                    Ok(Some(pod)) => pod,
                    Ok(None) => {
                        looked = true;
                        break;
                    }
                    // A namespace that may be none of ours, tried for the id of a pool that is gone.
                    Err(error) if error.is_forbidden() && !self.pools.contains_key(namespace.as_str()) => {
                        hidden = Some(error);
                        break;
                    }
                    Err(error) => return Err(error.doing(doing)),
                };
                looked = true;
                let owner = pod.metadata.labels.as_ref().and_then(|labels| labels.get("nodepool_provider_name"));
                if owner.map(String::as_str) != Some(self.name.as_str()) {
                    warn!("Pod {name} in namespace {namespace} is none of provider {}, it stays", self.name);
                    break;
                }
                match end_pod(&session, &namespace, &pod).await.map_err(|error| error.doing(&doing))? {
                    Deletion::Accepted | Deletion::Gone => {}
                    Deletion::Conflict(error) if look == LOOKS => return Err(error.doing(doing)),
                    // Maybe the board had an older one of that name.
                    Deletion::Conflict(_) => {
                        sleep(pause).await;
                        pause *= 2;
                        continue;
                    }
                }
                info!("Pod {name} in namespace {namespace} is being deleted");
                if !waits {
                    return Ok(());
                }
                let uid = pod.metadata.uid.as_deref();
                let gone = self.until_gone(&session, follower.as_mut(), &namespace, &name, uid);
                return tokio::time::timeout(DELETED_WITHIN, gone)
                    .await
                    .unwrap_or_else(|_| {
                        let why = format!("it is still there after {} s", DELETED_WITHIN.as_secs());
                        Err(ApiError::timeout(why))
                    })
                    .map_err(|error| error.doing(doing));
            }
        }
        // What we may not see is not gone.
        match hidden {
            Some(error) if !looked => Err(error.doing(doing)),
            _ => Ok(()),
        }
    }

    async fn until_gone(
        &self,
        session: &Session<'_>,
        mut follower: Option<&mut Follower>,
        namespace: &str,
        name: &str,
        uid: Option<&str>,
    ) -> std::result::Result<(), ApiError> {
        loop {
            let sight = if let Some(follower) = &mut follower {
                next(session, follower, namespace, name).await?
            } else {
                sleep(Duration::from_secs(1)).await;
                match find_pod(session, namespace, name).await {
                    Ok(None) => Sight::Gone(None),
                    Ok(Some(pod)) => Sight::There(pod),
                    Err(error) if error.elsewhere => return Err(error),
                    Err(_) => Sight::Unseen,
                }
            };
            if sight.is_end_of(uid) {
                return Ok(());
            }
        }
    }

    pub(super) async fn delete_home(&self, name: &str, made_in: Option<&Value>, waits: bool) -> Result<()> {
        let doing = format!("deleting namespace {name} of provider {}", self.name);
        let session = self.api.session_in(made_in);
        let homes = self.homes(&session);
        let mut pause = self.pause;
        let mut conflict = None;
        for _ in 0..LOOKS {
            let Some(there) = self.find_home(&homes, name).await.map_err(|error| error.doing(&doing))? else {
                return Ok(());
            };
            let marks = home::marks(&there);
            let owner = marks.get("nodepool_provider_name").and_then(Value::as_str);
            // A project whose description was changed: its name is on record.
            if owner.map_or(self.kind == KubernetesKind::Namespaces, |owner| owner != self.name.as_str()) {
                warn!("Namespace {name} is none of provider {}, it stays", self.name);
                return Ok(());
            }
            let uid = there["metadata"]["uid"].as_str();
            if there["metadata"]["deletionTimestamp"].is_null() {
                match homes.delete(name, uid).await.map_err(|error| error.doing(&doing))? {
                    Deletion::Accepted => info!("Namespace {name} is being deleted"),
                    Deletion::Gone => return Ok(()),
                    Deletion::Conflict(error) => {
                        conflict = Some(error);
                        sleep(pause).await;
                        pause *= 2;
                        continue;
                    }
                }
            }
            return if waits { self.until_home_is_gone(&homes, name, uid, doing).await } else { Ok(()) };
        }
        Err(conflict.unwrap_or_else(|| ApiError::bug("nothing was tried".to_owned())).doing(doing))
    }

    /// A node's namespace as it is; `None`: it is gone. One that we may not see is looked for again for a while (an API
    /// server that has just started refuses everybody) and then counts as gone only where that can be known.
    async fn find_home(&self, homes: &Homes<'_>, name: &str) -> std::result::Result<Option<Value>, ApiError> {
        let give_up = Instant::now() + self.hidden_for;
        loop {
            match homes.look(name).await? {
                Look::There(there) => return Ok(Some(there)),
                Look::Gone => return Ok(None),
                Look::Hidden(error) if self.kind == KubernetesKind::Namespaces => return Err(error),
                Look::Hidden(_) if Instant::now() < give_up => sleep(Duration::from_secs(2)).await,
                Look::Hidden(error) => {
                    if homes.is_unlisted(name).await? {
                        info!("Project {name} counts as gone: it is not among those that we may see ({error})");
                        return Ok(None);
                    }
                    return Err(error);
                }
            }
        }
    }

    /// Waits for the end of a namespace whose deletion was accepted, which nothing can stop.
    async fn until_home_is_gone(&self, homes: &Homes<'_>, name: &str, uid: Option<&str>, doing: String) -> Result<()> {
        let until = Instant::now() + DELETED_WITHIN;
        let mut pause = Duration::from_millis(500);
        loop {
            sleep(pause).await;
            pause = (pause * 2).min(Duration::from_secs(5));
            match homes.look(name).await {
                Ok(Look::There(there)) if there["metadata"]["uid"].as_str() == uid => {}
                // Our rights in a project go before it does.
                Ok(_) => return Ok(()),
                Err(error) if error.class == ErrorClass::Transient && !error.elsewhere => {}
                Err(error) => return Err(error.doing(doing)),
            }
            if Instant::now() > until {
                let why = format!("it is still there after {} s", DELETED_WITHIN.as_secs());
                return Err(ProviderError::new(ErrorClass::Timeout, doing, why));
            }
        }
    }

    // Lists.

    async fn pods_of(
        &self,
        session: &Session<'_>,
        namespace: &str,
    ) -> std::result::Result<Vec<CloudResource>, ApiError> {
        let parameters = ListParams::default().labels(&self.selector());
        let request = Path::new(pods_in(namespace)).list(&parameters);
        let list = session.call("list_pods", &request.map_err(|error| ApiError::bug(error.to_string()))?).await?;
        Ok(items(&list)?.iter().filter_map(|pod| of_pod(namespace, pod)).collect())
    }

    async fn resources(&self) -> std::result::Result<Vec<CloudResource>, ApiError> {
        let session = self.api.session();
        if self.kind == KubernetesKind::Pods {
            let mut all = Vec::new();
            for pool in self.pools.keys() {
                all.extend(self.pods_of(&session, pool.as_str()).await?);
            }
            return Ok(all);
        }
        let began = Instant::now();
        let list = self.homes(&session).list(self.name.as_str()).await?;
        let names = list.iter().filter_map(|home| home["metadata"]["name"].as_str().map(str::to_owned));
        {
            let mut lists = self.listed_homes.lock().unwrap_or_else(PoisonError::into_inner);
            lists.truncate(1);
            lists.push_front(ListedHomes { began, cluster: session.scope().cloned(), names: names.collect() });
        }
        Ok(list
            .iter()
            .filter(|home| home["metadata"]["deletionTimestamp"].is_null())
            .filter_map(|home| {
                let (name, labels) = name_and_labels(home)?;
                Some(CloudResource::of(ResourceKind::Namespace, name, labels))
            })
            .collect())
    }

    /// What our account may not list is not listed, and said once.
    pub(super) async fn listed(&self) -> Result<Vec<CloudResource>> {
        match self.resources().await {
            Err(error) if error.is_forbidden() => {
                if !self.says_no_list.swap(true, Ordering::Relaxed) {
                    warn!("Leaks of provider {} cannot be found, because our account may not list: {error}", self.name);
                }
                Ok(Vec::new())
            }
            answer => answer.map_err(|error| error.doing(format!("listing what provider {} has", self.name))),
        }
    }
}

async fn find_pod(
    session: &Session<'_>,
    namespace: &str,
    name: &str,
) -> std::result::Result<Option<Arc<Pod>>, ApiError> {
    match session.call("get_pod", &home::get(&pods_in(namespace), name)?).await {
        Ok(pod) => serde_json::from_value(pod).map(|pod| Some(Arc::new(pod))).map_err(|e| ApiError::bug(e.to_string())),
        Err(error) if error.is_missing() => Ok(None),
        Err(error) => Err(error),
    }
}

/// Asks for a pod's deletion.
async fn end_pod(session: &Session<'_>, namespace: &str, pod: &Pod) -> std::result::Result<Deletion, ApiError> {
    let name = pod.metadata.name.as_deref().unwrap_or_default();
    let parameters = DeleteParams {
        grace_period_seconds: sleeps(pod).then_some(1),
        preconditions: Some(Preconditions { uid: pod.metadata.uid.clone(), resource_version: None }),
        ..DeleteParams::default()
    };
    let request = Path::new(pods_in(namespace)).delete(name, &parameters);
    let request = request.map_err(|error| ApiError::bug(error.to_string()))?;
    match session.call("delete_pod", &request).await {
        Ok(_) => Ok(Deletion::Accepted),
        Err(error) if error.is_conflict() => Ok(Deletion::Conflict(error)),
        Err(error) if error.is_missing() => Ok(Deletion::Gone),
        Err(error) => Err(error),
    }
}

fn name_and_labels(object: &Value) -> Option<(String, Map<String, Value>)> {
    Some((object["metadata"]["name"].as_str()?.to_owned(), home::marks(object)))
}

/// A listed pod; one that is on its way out is none.
fn of_pod(namespace: &str, pod: &Value) -> Option<CloudResource> {
    if !pod["metadata"]["deletionTimestamp"].is_null() {
        return None;
    }
    let (name, labels) = name_and_labels(pod)?;
    let pod: Pod = serde_json::from_value(pod.clone()).ok()?;
    let id = format!("{namespace}-{name}");
    Some(CloudResource { resources: quota::taken_by(&pod), ..CloudResource::of(ResourceKind::Pod, id, labels) })
}

/// Whether it does nothing but our own sleep, which does not listen to SIGTERM: no use in waiting 30 s for it.
fn sleeps(pod: &Pod) -> bool {
    let containers = pod.spec.iter().flat_map(|spec| &spec.containers);
    let mut arguments = containers.map(|container| container.args.iter().flatten().map(String::as_str));
    arguments.all(|arguments| arguments.eq([manifest::SLEEP]))
}
