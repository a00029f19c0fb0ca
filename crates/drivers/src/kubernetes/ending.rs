//! The end of pods and namespaces: their deletion, and the lists by which leaks are found.
//!
//! Only what carries our provider's name is deleted, and a pod only under the uid that was looked at.

use std::{
    sync::{Arc, atomic::Ordering},
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
    board::Sight,
    calls::ApiError,
    home, manifest,
    provider::{KubernetesProvider, Result, pods_in},
    quota,
};
use crate::{CloudResource, ErrorClass, ProviderError, ResourceKind};

/// How long a deletion is waited for, as upstream does; after that it is begun anew.
const DELETED_WITHIN: Duration = Duration::from_secs(300);

impl KubernetesProvider {
    /// The namespace and name that an id of ours, `NAMESPACE-NAME`, may stand for: the longest pool that begins it first;
    /// of a pool that is no longer configured, whatever it may be.
    fn places(&self, id: &str) -> Vec<(String, String)> {
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

    pub(super) async fn delete_pod(&self, id: &str, waits: bool) -> Result<()> {
        let doing = format!("deleting pod {id} of provider {}", self.name);
        for (namespace, name) in self.places(id) {
            let board = self.board(&namespace);
            // Followed first, so that its end is not missed.
            let mut follower = board.as_ref().map(|board| board.follow(&name));
            let pod = match board.as_ref().and_then(|board| board.pod(&name)) {
                Some(pod) => Some(pod),
                None => self.find_pod(&namespace, &name).await.map_err(|error| error.doing(&doing))?,
            };
            let Some(pod) = pod else { continue };
            let owner = pod.metadata.labels.as_ref().and_then(|labels| labels.get("nodepool_provider_name"));
            if owner.map(String::as_str) != Some(self.name.as_str()) {
                warn!("Pod {name} in namespace {namespace} is none of provider {}, it stays", self.name);
                continue;
            }
            self.end_pod(&namespace, &pod).await.map_err(|error| error.doing(&doing))?;
            info!("Pod {name} in namespace {namespace} is being deleted");
            if !waits {
                return Ok(());
            }
            let uid = pod.metadata.uid.clone();
            let gone = async {
                loop {
                    let sight = if let Some(follower) = &mut follower {
                        self.next(follower, &namespace, &name).await
                    } else {
                        sleep(Duration::from_secs(1)).await;
                        match self.find_pod(&namespace, &name).await {
                            Ok(None) => Sight::Gone,
                            Ok(Some(pod)) => Sight::There(pod),
                            Err(_) => Sight::Unseen,
                        }
                    };
                    match sight {
                        Sight::Gone => return,
                        Sight::There(pod) if pod.metadata.uid != uid => return,
                        _ => {}
                    }
                }
            };
            return tokio::time::timeout(DELETED_WITHIN, gone).await.map_err(|_| {
                let why = format!("it is still there after {} s", DELETED_WITHIN.as_secs());
                ProviderError::new(ErrorClass::Timeout, doing, why)
            });
        }
        Ok(())
    }

    async fn find_pod(&self, namespace: &str, name: &str) -> std::result::Result<Option<Arc<Pod>>, ApiError> {
        match self.api.call("get_pod", &home::get(&pods_in(namespace), name)?).await {
            Ok(pod) => {
                serde_json::from_value(pod).map(|pod| Some(Arc::new(pod))).map_err(|e| ApiError::bug(e.to_string()))
            }
            Err(error) if error.is_missing() => Ok(None),
            // A namespace that is none of ours, tried for the id of a pool that is gone.
            Err(error) if error.is_forbidden() && !self.pools.contains_key(namespace) => Ok(None),
            Err(error) => Err(error),
        }
    }

    async fn end_pod(&self, namespace: &str, pod: &Pod) -> std::result::Result<(), ApiError> {
        let name = pod.metadata.name.as_deref().unwrap_or_default();
        let parameters = DeleteParams {
            grace_period_seconds: sleeps(pod).then_some(1),
            preconditions: Some(Preconditions { uid: pod.metadata.uid.clone(), resource_version: None }),
            ..DeleteParams::default()
        };
        let request = Path::new(pods_in(namespace)).delete(name, &parameters);
        let request = request.map_err(|error| ApiError::bug(error.to_string()))?;
        match self.api.call("delete_pod", &request).await {
            // Gone, or another one has its name.
            Err(error) if !error.is_missing() && error.code != 409 => Err(error),
            _ => Ok(()),
        }
    }

    pub(super) async fn delete_home(&self, name: &str, waits: bool) -> Result<()> {
        let doing = format!("deleting namespace {name} of provider {}", self.name);
        let homes = self.homes();
        let failed = |error: ApiError| error.doing(&doing);
        let Some(there) = homes.look(name).await.map_err(failed)? else { return Ok(()) };
        let owner = there["metadata"]["labels"]["nodepool_provider_name"].as_str();
        // OpenShift may drop the labels of a project.
        if owner.map_or(self.kind == KubernetesKind::Namespaces, |owner| owner != self.name.as_str()) {
            warn!("Namespace {name} is none of provider {}, it stays", self.name);
            return Ok(());
        }
        if !homes.delete(name).await.map_err(failed)? {
            return Ok(());
        }
        info!("Namespace {name} is being deleted");
        if !waits {
            return Ok(());
        }
        let uid = there["metadata"]["uid"].clone();
        let until = Instant::now() + DELETED_WITHIN;
        let mut pause = Duration::from_millis(500);
        loop {
            sleep(pause).await;
            pause = (pause * 2).min(Duration::from_secs(5));
            match homes.look(name).await {
                Ok(Some(there)) if there["metadata"]["uid"] == uid => {}
                Ok(_) => break,
                Err(error) if error.away => {}
                Err(error) => return Err(failed(error)),
            }
            if Instant::now() > until {
                let why = format!("it is still there after {} s", DELETED_WITHIN.as_secs());
                return Err(ProviderError::new(ErrorClass::Timeout, doing, why));
            }
        }
        Ok(())
    }

    // Lists.

    async fn pods_of(&self, namespace: &str) -> std::result::Result<Vec<CloudResource>, ApiError> {
        let parameters = ListParams::default().labels(&self.selector());
        let request = Path::new(pods_in(namespace)).list(&parameters);
        let list = self.api.call("list_pods", &request.map_err(|error| ApiError::bug(error.to_string()))?).await?;
        let items = list["items"].as_array().cloned().unwrap_or_default();
        Ok(items.into_iter().filter_map(|pod| of_pod(namespace, &pod)).collect())
    }

    async fn resources(&self) -> std::result::Result<Vec<CloudResource>, ApiError> {
        if self.kind == KubernetesKind::Pods {
            let mut all = Vec::new();
            for pool in self.pools.keys() {
                all.extend(self.pods_of(pool.as_str()).await?);
            }
            return Ok(all);
        }
        let list = self.homes().list(&self.selector()).await?;
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

fn name_and_labels(object: &Value) -> Option<(String, Map<String, Value>)> {
    let metadata = &object["metadata"];
    Some((metadata["name"].as_str()?.to_owned(), metadata["labels"].as_object().cloned().unwrap_or_default()))
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
