//! [`KubernetesProvider`]: a launch, told from top to bottom. A deletion is told in `ending`.
//!
//! A pod's name is `LABEL-NODE` in the pool's namespace (`openshiftpods`), or the label's in the node's own namespace. What
//! has been created is reported before anything else is awaited; what a lost answer may have created carries our labels.
//! While the API is away, a pod that is there already is waited for all the same.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    fmt,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use kube::core::{Request as Path, params::ListParams};
use nodepool_common::{
    config::{self, Kubernetes, KubernetesKind, KubernetesLabel, PodTemplate},
    model::{LabelName, PoolName, ProviderName, Resources},
};
use serde_json::{Map, Value, json};
use tokio::{
    sync::Notify,
    time::{Instant, sleep},
};
use tracing::{info, warn};

use super::{
    api_error::ApiError,
    board::{Board, Follower, News, Sight},
    calls::{Api, Patience, Session, items},
    cluster::Cluster,
    home::{self, Homes},
    life::{self, Life},
    manifest, quota,
};
use crate::{
    CloudResource, Context, ErrorClass, Instance, Launch, LaunchProgress, NodeProfile, Provider, ProviderError, Quota,
    ResourceKind, Scope,
};

pub(super) type Result<T> = std::result::Result<T, ProviderError>;

/// Names that are tried for a pod.
const NAMES: u32 = 5;
/// How long a service account is waited for: a namespace is given its own a moment after it was made.
const ACCOUNT_WITHIN: Duration = Duration::from_secs(10);
/// An API server that has just been started may refuse everybody for a moment.
const HIDDEN_FOR: Duration = Duration::from_secs(30);
/// How long a conflict is left to pass, at first.
const PAUSE: Duration = Duration::from_millis(500);
/// The launcher gives an attempt up at `launch-timeout` without knowing why; a driver that is earlier can tell.
const HEAD_START: Duration = Duration::from_secs(2);

/// See the module's comment.
pub struct KubernetesProvider {
    pub(super) name: ProviderName,
    pub(super) kind: KubernetesKind,
    context: Option<String>,
    pub(super) pools: indexmap::IndexMap<PoolName, indexmap::IndexMap<LabelName, KubernetesLabel>>,
    launch_timeout: Duration,
    pub(super) api: Arc<Api>,
    /// Of the pools' namespaces (`openshiftpods`), since the start.
    boards: Mutex<BTreeMap<String, Arc<Board>>>,
    /// How long a project may be out of our sight before it may count as gone.
    pub(super) hidden_for: Duration,
    /// Before a deletion is tried again that met a conflict; doubled each time.
    pub(super) pause: Duration,
    /// Told when a pod of ours has ended.
    ends: Arc<Notify>,
    /// The last two lists of namespaces, the younger one first.
    pub(super) listed_homes: Mutex<VecDeque<ListedHomes>>,
    /// What was said once about rights that we lack.
    pub(super) says_no_list: AtomicBool,
    says_no_quota: AtomicBool,
}

impl fmt::Debug for KubernetesProvider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KubernetesProvider").field("name", &self.name).field("kind", &self.kind).finish_non_exhaustive()
    }
}

/// What a list of namespaces had.
pub(super) struct ListedHomes {
    /// When it was begun.
    pub(super) began: Instant,
    /// Which cluster's it is.
    pub(super) cluster: Option<Scope>,
    pub(super) names: BTreeSet<String>,
}

/// A pod that was created, or found to be ours.
struct Made {
    name: String,
    uid: String,
}

impl KubernetesProvider {
    /// Reaches nothing yet.
    pub fn new(provider: &config::Provider, config: &Kubernetes, context: &Context) -> Self {
        let api = Arc::new(Api::new(provider.name.clone(), config.context.clone(), context));
        Self {
            name: provider.name.clone(),
            kind: config.kind,
            context: config.context.clone(),
            pools: config.pools.clone(),
            launch_timeout: provider.launch_timeout,
            api,
            boards: Mutex::default(),
            hidden_for: HIDDEN_FOR,
            pause: PAUSE,
            ends: Arc::default(),
            listed_homes: Mutex::default(),
            says_no_list: AtomicBool::new(false),
            says_no_quota: AtomicBool::new(false),
        }
    }

    fn label(&self, pool: &PoolName, label: &LabelName) -> Result<&KubernetesLabel> {
        self.pools.get(pool).and_then(|labels| labels.get(label)).ok_or_else(|| {
            let doing = format!("looking up label {label} in pool {pool} of provider {}", self.name);
            ProviderError::new(ErrorClass::Config, doing, "it is not in the configuration (any more)")
        })
    }

    pub(super) const fn homes<'a>(&self, session: &'a Session<'a>) -> Homes<'a> {
        Homes { session, kind: self.kind }
    }

    /// What selects our objects among others'.
    pub(super) fn selector(&self) -> String {
        format!("nodepool_provider_name={}", self.name)
    }

    pub(super) fn board(&self, namespace: &str) -> Option<Arc<Board>> {
        self.boards.lock().unwrap_or_else(PoisonError::into_inner).get(namespace).cloned()
    }

    fn watch(&self, namespace: &str) -> Board {
        Board::watch(Arc::clone(&self.api), namespace.to_owned(), Some(self.selector()), Arc::clone(&self.ends))
    }

    /// Until when a launch that begins now may take.
    fn deadline(&self) -> Instant {
        Instant::now() + self.launch_timeout.saturating_sub(HEAD_START).max(self.launch_timeout / 2)
    }

    // A launch.

    async fn launch_pod(
        &self,
        launch: &Launch,
        label: &KubernetesLabel,
        progress: &dyn LaunchProgress,
    ) -> Result<Instance> {
        let until = self.deadline();
        let namespace = launch.pool.as_str();
        let doing =
            format!("creating pod {}-{} in namespace {namespace} of provider {}", label.name, launch.node, self.name);
        let board = self.board(namespace).unwrap_or_else(|| Arc::new(self.watch(namespace)));
        let labels = manifest::labels(&self.name, label, launch);
        let template = template(label).map_err(|error| error.doing(&doing))?;
        let name = format!("{}-{}", label.name, launch.node);
        let session = self.api.session();
        let patience = Patience::at_the_beginning(until);
        let made = create_pod(&session, namespace, label, template, &name, &labels, patience).await;
        let made = made.map_err(|error| in_namespace(error, namespace).doing(&doing))?;
        progress.created(json!(format!("{namespace}-{}", made.name)), session.scope()).await;
        let on = self.wait_for(&session, &board, namespace, &made, until).await?;
        let doing = format!("reading the credentials of provider {}", self.name);
        let cluster = session.cluster().await.map_err(|error| error.doing(&doing))?;
        let token = cluster.token().await.map_err(|error| error.doing(&doing))?;
        let port = pod_port(&cluster, token.as_deref(), namespace, &made.name);
        let mut instance = self.instance(label, &format!("{namespace}-{}", made.name), port);
        instance.interface_ip = Some(made.name);
        instance.host_id = on;
        Ok(instance)
    }

    async fn launch_home(
        &self,
        launch: &Launch,
        label: &KubernetesLabel,
        progress: &dyn LaunchProgress,
    ) -> Result<Instance> {
        let until = self.deadline();
        let wanted = format!("{}-{}", launch.pool, launch.node);
        let doing = format!("creating namespace {wanted} of provider {}", self.name);
        let labels = manifest::labels(&self.name, label, launch);
        let session = self.api.session();
        let homes = self.homes(&session);
        let created = homes.create(&wanted, &labels, Patience::at_the_beginning(until)).await;
        let name = created.map_err(|error| error.doing(&doing))?;
        progress.created(json!(name), session.scope()).await;
        let patience = Patience::in_the_middle(until).in_new_namespace();
        let furnished = homes.furnish(&name, label.pod.is_some(), until, patience).await;
        let credentials = furnished.map_err(|error| error.doing(&doing))?;
        let cluster = session.cluster().await.map_err(|error| error.doing(&doing))?;
        let mut port = Map::new();
        if self.kind == KubernetesKind::Namespaces {
            port.insert("name".to_owned(), json!(name));
        }
        port.insert("namespace".to_owned(), json!(name));
        port.insert("host".to_owned(), json!(cluster.host));
        port.insert("skiptls".to_owned(), json!(cluster.skip_tls));
        port.insert("token".to_owned(), json!(credentials.token));
        port.insert("user".to_owned(), json!(manifest::USER));
        if !cluster.skip_tls {
            port.insert("ca_crt".to_owned(), json!(credentials.ca));
        }
        let mut on = None;
        if let Some(template) = &label.pod {
            let doing = format!("creating pod {} in namespace {name} of provider {}", label.name, self.name);
            let board = self.watch(&name);
            let pod = label.name.as_str();
            let made = create_pod(&session, &name, label, template, pod, &labels, patience).await;
            let made = made.map_err(|error| error.doing(&doing))?;
            on = self.wait_for(&session, &board, &name, &made, until).await?;
            port.insert("pod".to_owned(), json!(made.name));
        }
        let pod = port.get("pod").and_then(Value::as_str).map(str::to_owned);
        let mut instance = self.instance(label, &name, Value::Object(port));
        instance.interface_ip = pod;
        // Upstream's openshift driver does not tell.
        instance.host_id = on.filter(|_| self.kind == KubernetesKind::Namespaces);
        Ok(instance)
    }

    fn instance(&self, label: &KubernetesLabel, external_id: &str, port: Value) -> Instance {
        Instance {
            external_id: json!(external_id),
            cloud: self.context.clone(),
            connection_port: Some(port),
            resources: label.resources.clone(),
            ..Instance::default()
        }
    }

    /// Waits until a pod is ready; returns where it runs.
    async fn wait_for(
        &self,
        session: &Session<'_>,
        board: &Board,
        namespace: &str,
        made: &Made,
        until: Instant,
    ) -> Result<Option<String>> {
        let doing = format!("waiting for pod {} in namespace {namespace} of provider {}", made.name, self.name);
        let mut follower = board.follow(&made.name);
        let mut trouble: Option<String> = None;
        let mut waiting = (ErrorClass::Timeout, "nothing is known of it yet".to_owned());
        let mut sight = follower.sight();
        let (class, why) = loop {
            let life = match &sight {
                Sight::There(pod) if pod.metadata.uid.as_deref() == Some(made.uid.as_str()) => Some(life::of(pod)),
                Sight::Gone(_) if sight.is_end_of(Some(&made.uid)) => {
                    break (ErrorClass::Transient, "somebody has deleted it".to_owned());
                }
                // Of an earlier pod of that name, or not seen yet.
                _ => None,
            };
            match life {
                Some(Life::Ready { on }) => return Ok(on),
                Some(Life::Over(class, why)) => break (class, why),
                Some(Life::Trouble(class, why)) => {
                    if trouble.is_none() {
                        warn!("Pod {} in namespace {namespace} has trouble and is waited for: {why}", made.name);
                    }
                    trouble = Some(why.clone());
                    waiting = (class, why);
                }
                Some(Life::Waiting(class, why)) => {
                    let before = trouble.iter().map(|trouble| format!("; before that: {trouble}"));
                    waiting = (class, why + &before.collect::<String>());
                }
                None => {}
            }
            let next = next(session, &mut follower, namespace, &made.name);
            let Ok(seen) = tokio::time::timeout_at(until, next).await else {
                let (class, why) = waiting;
                let limit = self.launch_timeout.as_secs();
                break (class, format!("it is not ready within launch-timeout, {limit} s: {why}"));
            };
            sight = seen.map_err(|error| error.doing(&doing))?;
        };
        let events = events(session, namespace, &made.name).await;
        Err(ProviderError::new(class, doing, format!("{why}{events}")))
    }
}

/// Creates a pod under the first name that is free. One that is there already and ours is that of a lost answer.
async fn create_pod(
    session: &Session<'_>,
    namespace: &str,
    label: &KubernetesLabel,
    template: &PodTemplate,
    name: &str,
    labels: &indexmap::IndexMap<String, String>,
    patience: Patience,
) -> std::result::Result<Made, ApiError> {
    let path = pods_in(namespace);
    let mut last = None;
    for number in 1..=NAMES {
        let name = if number == 1 { name.to_owned() } else { format!("{name}-{number}") };
        let request = home::post(&path, manifest::pod(label, template, &name, labels))?;
        let account_until = Instant::now() + ACCOUNT_WITHIN;
        let answer = loop {
            match session.persist("create_pod", &request, patience).await {
                Err(error) if error.misses_service_account() && Instant::now() < account_until => {
                    sleep(Duration::from_millis(200)).await;
                }
                answer => break answer,
            }
        };
        let there = match answer {
            Ok(pod) => pod,
            Err(error) if error.is_taken() => {
                let there = session.call("get_pod", &home::get(&path, &name)?).await;
                last = Some(error);
                match there {
                    Ok(there) if home::is_ours(&there, labels) => there,
                    _ => continue,
                }
            }
            Err(error) => return Err(error),
        };
        let uid = there["metadata"]["uid"].as_str().unwrap_or_default().to_owned();
        return Ok(Made { name, uid });
    }
    Err(last.unwrap_or_else(|| ApiError::bug("no name was tried".to_owned())))
}

/// What a pod is next seen as: on the board, or when that is silent for long, asked for.
pub(super) async fn next(
    session: &Session<'_>,
    follower: &mut Follower,
    namespace: &str,
    name: &str,
) -> std::result::Result<Sight, ApiError> {
    loop {
        if follower.news_or_patience().await == News::Seen {
            return Ok(follower.sight());
        }
        let Ok(request) = home::get(&pods_in(namespace), name) else { continue };
        match session.call("get_pod", &request).await {
            Ok(pod) => {
                if let Ok(pod) = serde_json::from_value(pod) {
                    return Ok(Sight::There(Arc::new(pod)));
                }
            }
            Err(error) if error.is_missing() => return Ok(Sight::Gone(None)),
            Err(error) if error.elsewhere => return Err(error),
            Err(_) => {}
        }
    }
}

/// The last warnings about a pod, in brackets; nothing where we may not see them.
async fn events(session: &Session<'_>, namespace: &str, pod: &str) -> String {
    let parameters = ListParams::default().fields(&format!("involvedObject.name={pod},type=Warning"));
    let request = Path::new(format!("/api/v1/namespaces/{namespace}/events")).list(&parameters);
    let Ok(request) = request else { return String::new() };
    let Ok(list) = session.call("list_events", &request).await else { return String::new() };
    let mut said: Vec<String> = Vec::new();
    for event in items(&list).unwrap_or_default().iter().rev() {
        let text = |key: &str| event[key].as_str().unwrap_or_default().trim();
        let line = format!("{}: {}", text("reason"), text("message"));
        if !said.contains(&line) && said.len() < 3 {
            said.push(line);
        }
    }
    if said.is_empty() { String::new() } else { format!(" (its events: {})", said.join("; ")) }
}

/// What Zuul connects with to a pod of the pool's namespace: with the kubeconfig's own credentials.
fn pod_port(cluster: &Cluster, token: Option<&str>, namespace: &str, pod: &str) -> Value {
    json!({
        "pod": pod,
        "namespace": namespace,
        "host": cluster.host,
        "ca_crt": cluster.ca,
        "skiptls": cluster.skip_tls,
        "token": token,
        "user": manifest::USER,
    })
}

fn template(label: &KubernetesLabel) -> std::result::Result<&PodTemplate, ApiError> {
    label.pod.as_ref().ok_or_else(|| ApiError::bug(format!("label {} has no pod", label.name)))
}

/// A namespace that is missing is the configuration's affair.
fn in_namespace(mut error: ApiError, namespace: &str) -> ApiError {
    if error.is_missing() {
        error.class = ErrorClass::Config;
        error.message = format!(
            "{}: the pool's name is the namespace of its pods, create namespace {namespace} first",
            error.message
        );
    }
    error
}

pub(super) fn pods_in(namespace: &str) -> String {
    format!("/api/v1/namespaces/{namespace}/pods")
}

#[async_trait]
impl Provider for KubernetesProvider {
    fn name(&self) -> &ProviderName {
        &self.name
    }

    async fn start(&self) -> Result<()> {
        let doing = format!("connecting provider {} to its cluster", self.name);
        let version = Path::new("/version").list(&ListParams::default());
        let version = version.map_err(|error| ApiError::bug(error.to_string()).doing(&doing))?;
        // Whoever the cluster knows may ask for that.
        match self.api.session().call("get_version", &version).await {
            Err(error) if error.code != 403 => return Err(error.doing(doing)),
            _ => {}
        }
        if self.kind == KubernetesKind::Pods {
            let mut boards = self.boards.lock().unwrap_or_else(PoisonError::into_inner);
            for pool in self.pools.keys() {
                let namespace = pool.as_str();
                boards.entry(namespace.to_owned()).or_insert_with(|| Arc::new(self.watch(namespace)));
            }
        }
        Ok(())
    }

    fn profile(&self, pool: &PoolName, label: &LabelName) -> Result<NodeProfile> {
        let label = self.label(pool, label)?;
        let connection_type = match (&label.pod, self.kind) {
            (Some(_), _) => "kubectl",
            (None, KubernetesKind::Projects) => "project",
            (None, _) => "namespace",
        };
        Ok(NodeProfile {
            username: None,
            python_path: Some(label.python_path.clone()),
            shell_type: label.shell_type.clone(),
            connection_type: connection_type.to_owned(),
            // Until the launch tells what Zuul connects with.
            connection_port: 22,
            host_key_checking: false,
            image: None,
        })
    }

    async fn label_resources(&self, pool: &PoolName, label: &LabelName) -> Result<Resources> {
        Ok(self.label(pool, label)?.resources.clone())
    }

    /// Of a namespace's quota objects, where all pools are in that one namespace. With several, the API's refusal tells
    /// which is used up.
    async fn quota(&self) -> Result<Quota> {
        let only = self.pools.keys().next().filter(|_| self.kind == KubernetesKind::Pods && self.pools.len() == 1);
        let Some(pool) = only else { return Ok(Quota::default()) };
        let doing = format!("reading the quota of namespace {pool} of provider {}", self.name);
        let path = Path::new(format!("/api/v1/namespaces/{pool}/resourcequotas"));
        let request =
            path.list(&ListParams::default()).map_err(|error| ApiError::bug(error.to_string()).doing(&doing))?;
        match self.api.session().call("list_quotas", &request).await {
            Ok(list) => {
                let quotas = items(&list).map_err(|error| error.doing(&doing))?;
                let quotas: Vec<_> =
                    quotas.iter().filter_map(|quota| serde_json::from_value(quota.clone()).ok()).collect();
                Ok(quota::of(&quotas))
            }
            Err(error) if error.is_forbidden() => {
                if !self.says_no_quota.swap(true, Ordering::Relaxed) {
                    info!(
                        "Quotas of namespace {pool} become known when they are used up, our account may not list them"
                    );
                }
                Ok(Quota::default())
            }
            Err(error) => Err(error.doing(doing)),
        }
    }

    fn scope(&self) -> Option<Scope> {
        self.api.leads_to()
    }

    fn has_gone(&self, external_id: &Value, made_in: Option<&Value>, since: Option<Instant>) -> Option<String> {
        let id = external_id.as_str()?;
        match self.kind {
            KubernetesKind::Pods => {
                // Of the places that an id may stand for the pod is in one, and the others never have it.
                let mut why = None;
                for (namespace, name) in self.places(id) {
                    if let Some(board) = self.board(&namespace) {
                        let gone = board.has_gone(made_in, &name, since)?;
                        why.get_or_insert(gone);
                    }
                }
                why
            }
            KubernetesKind::Namespaces => {
                let lists = self.listed_homes.lock().unwrap_or_else(PoisonError::into_inner);
                let cluster = lists.front()?.cluster.as_ref()?;
                if cluster.lacks(made_in).is_some() {
                    return None;
                }
                let mut lack = lists.iter().map(|list| {
                    list.cluster.as_ref() == Some(cluster)
                        && since.is_none_or(|since| list.began > since)
                        && !list.names.contains(id)
                });
                // One list alone may be wrong.
                (lists.len() == 2 && lack.all(|lacks| lacks)).then(|| "its namespace is not there any more".to_owned())
            }
            // A project that is not listed may be one that we may not see for a moment.
            KubernetesKind::Projects => None,
        }
    }

    async fn some_have_gone(&self) {
        self.ends.notified().await;
    }

    /// Of a pod, to which Zuul connects with our own credentials: an exec plugin's token or one in a file is made for a
    /// time. The account of a namespace has a token that lasts as long as the namespace.
    async fn renewed_connection(&self, port: &Value, made_in: Option<&Value>) -> Result<Option<Value>> {
        let (Some(pod), Some(namespace)) = (port["pod"].as_str(), port["namespace"].as_str()) else { return Ok(None) };
        if self.kind != KubernetesKind::Pods {
            return Ok(None);
        }
        let doing = format!("renewing the credentials for pod {pod} of provider {}", self.name);
        let cluster = self.api.session_in(made_in).cluster().await.map_err(|error| error.doing(&doing))?;
        let token = cluster.token().await.map_err(|error| error.doing(&doing))?;
        let now = pod_port(&cluster, token.as_deref(), namespace, pod);
        Ok((now != *port).then_some(now))
    }

    async fn list_resources(&self) -> Result<Vec<CloudResource>> {
        self.listed().await
    }

    async fn launch(&self, launch: &Launch, progress: &dyn LaunchProgress) -> Result<Instance> {
        let label = self.label(&launch.pool, &launch.label)?;
        match self.kind {
            KubernetesKind::Pods => self.launch_pod(launch, label, progress).await,
            KubernetesKind::Namespaces | KubernetesKind::Projects => self.launch_home(launch, label, progress).await,
        }
    }

    async fn delete(&self, external_id: &Value, made_in: Option<&Value>) -> Result<()> {
        let Some(id) = external_id.as_str() else {
            let doing = format!("deleting {external_id} of provider {}", self.name);
            return Err(ProviderError::new(ErrorClass::Bug, doing, "it is no name of ours"));
        };
        match self.kind {
            KubernetesKind::Pods => self.delete_pod(id, made_in, true).await,
            KubernetesKind::Namespaces | KubernetesKind::Projects => self.delete_home(id, made_in, true).await,
        }
    }

    async fn delete_resource(&self, resource: &CloudResource) -> Result<()> {
        match resource.kind {
            ResourceKind::Pod => self.delete_pod(&resource.id, None, false).await,
            _ => self.delete_home(&resource.id, None, false).await,
        }
    }
}
