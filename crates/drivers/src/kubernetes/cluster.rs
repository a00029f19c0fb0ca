//! [`Connection`]: a client of the cluster, made anew when what it was made from changes.
//!
//! The files are looked at whenever a client is asked for, at most once a second; a call that was refused for its
//! credentials looks at once ([`Connection::refused`]) and runs an exec plugin anew. While the new files cannot be used,
//! the old client stays. A token that is a file of its own, or that a plugin gives for a time, is renewed inside the client.

use std::{sync::Arc, time::Duration};

use http::{HeaderValue, Request, Response, header::AUTHORIZATION};
use kube::{
    Client,
    client::{Body, ClientBuilder, ConfigExt},
    core::{Request as Path, params::GetParams},
};
use serde_json::Value;
use tokio::{
    sync::{Mutex, OnceCell},
    time::Instant,
};
use tower::{BoxError, Layer, ServiceExt, service_fn, util::BoxCloneSyncService};
use tracing::{info, warn};

use super::{
    api_error::{ApiError, chain},
    kubeconfig::{self, Access},
};
use crate::{Context, Scope, files::Fingerprint};

/// How often files are looked at, at most.
const FILE_CHECK_INTERVAL: Duration = Duration::from_secs(1);
/// Longest time for the question which cluster it is.
const IDENTITY_WITHIN: Duration = Duration::from_secs(30);
/// How often credentials that are refused are made anew from unchanged files, at most.
const RENEWAL_INTERVAL: Duration = Duration::from_secs(10);

/// What answers with the header that a call would carry.
type Header = BoxCloneSyncService<Request<Body>, Response<Option<HeaderValue>>, BoxError>;

/// A cluster as one reading of the files describes it.
pub struct Cluster {
    /// The client.
    pub client: Client,
    /// The API's address.
    pub host: String,
    /// Whether its certificate is not looked at.
    pub skip_tls: bool,
    /// The authority's certificates, PEM in base64.
    pub ca: Option<String>,
    /// The name that its certificate has to have, where that is not its address.
    pub tls_server_name: Option<String>,
    /// The namespace of the context.
    pub namespace: String,
    /// What it is known by, once that was asked for.
    identity: OnceCell<Scope>,
    header: Option<Header>,
    files: Fingerprint,
    made: Instant,
}

impl Cluster {
    async fn connect(access: Access) -> Result<Self, ApiError> {
        let Access { mut config, host, skip_tls, ca, files } = access;
        // Calls have deadlines and repetitions of their own.
        config.default_retry = false;
        config.connect_timeout = Some(Duration::from_secs(10));
        let (tls_server_name, namespace) = (config.tls_server_name.clone(), config.default_namespace.clone());
        // Making it may run an exec plugin, and waits for it.
        let made = tokio::task::spawn_blocking(move || {
            let header = config.auth_layer()?.map(|layer| {
                let echo = service_fn(|request: Request<Body>| async move {
                    Ok::<_, BoxError>(Response::new(request.headers().get(AUTHORIZATION).cloned()))
                });
                BoxCloneSyncService::new(layer.layer(echo))
            });
            Ok::<_, kube::Error>((ClientBuilder::try_from(config)?.build(), header))
        });
        let (client, header) = made.await.map_err(|error| ApiError::bug(error.to_string()))??;
        let identity = OnceCell::new();
        Ok(Self {
            client,
            host,
            skip_tls,
            ca,
            tls_server_name,
            namespace,
            identity,
            header,
            files,
            made: Instant::now(),
        })
    }

    /// Which cluster it is, so that another one is told from it. Asked for once; an error is that of the call.
    pub async fn identity(&self) -> Result<&Scope, ApiError> {
        let asked = async {
            let request = Path::new("/api/v1/namespaces").get("kube-system", &GetParams::default());
            let request = request.map_err(|error| ApiError::bug(error.to_string()))?;
            let answer = tokio::time::timeout(IDENTITY_WITHIN, self.client.request::<Value>(request)).await;
            let late = |_| Err(ApiError::unanswered(IDENTITY_WITHIN));
            let uid = match answer.map_or_else(late, |answer| answer.map_err(ApiError::from)) {
                Ok(namespace) => namespace["metadata"]["uid"].as_str().map(str::to_owned),
                Err(error) if error.away || error.code == 401 || error.code == 0 => return Err(error),
                // Our account may not see it.
                Err(_) => None,
            };
            Ok(Scope::Cluster { uid, server: self.host.clone() })
        };
        self.identity.get_or_try_init(|| asked).await
    }

    /// The bearer token that calls carry; `None` for those who show a certificate.
    pub async fn token(&self) -> Result<Option<String>, ApiError> {
        let Some(header) = self.header.clone() else { return Ok(None) };
        let answer = header.oneshot(Request::new(Body::empty())).await;
        let answer =
            answer.map_err(|error| ApiError::credentials(format!("they cannot be renewed: {}", chain(&*error))))?;
        let text = answer.body().as_ref().and_then(|value| value.to_str().ok());
        Ok(text.and_then(|text| text.strip_prefix("Bearer ")).map(|token| token.trim().to_owned()))
    }
}

/// See the module's comment.
pub struct Connection {
    context: Option<String>,
    environment: Context,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    cluster: Option<Arc<Cluster>>,
    looked: Option<Instant>,
    /// What is wrong with the files that are there now.
    unusable: Option<String>,
}

impl Connection {
    /// Reads nothing yet.
    pub fn new(context: Option<String>, environment: Context) -> Self {
        Self { context, environment, state: Mutex::default() }
    }

    /// The cluster as the files describe it now.
    pub async fn cluster(&self) -> Result<Arc<Cluster>, ApiError> {
        let mut state = self.state.lock().await;
        let Some(cluster) = state.cluster.clone() else { return self.load(&mut state).await };
        if state.looked.is_some_and(|at| at.elapsed() < FILE_CHECK_INTERVAL) {
            return Ok(cluster);
        }
        state.looked = Some(Instant::now());
        #[allow(clippy::cast_possible_truncation)] // seconds of this era
        let now = self.environment.ambient.clock.now() as i64;
        let expired = cluster.client.valid_until().is_some_and(|until| until.as_second() <= now);
        if !expired && !cluster.files.has_changed() {
            return Ok(cluster);
        }
        Ok(self.renew(&mut state, cluster).await)
    }

    /// A call that was made with this cluster's client was refused for its credentials. Returns another one, if there is.
    pub async fn refused(&self, cluster: &Arc<Cluster>) -> Option<Arc<Cluster>> {
        let mut state = self.state.lock().await;
        let current = state.cluster.clone()?;
        if !Arc::ptr_eq(&current, cluster) {
            return Some(current);
        }
        if !cluster.files.has_changed() && (cluster.header.is_none() || cluster.made.elapsed() < RENEWAL_INTERVAL) {
            return None;
        }
        let renewed = self.renew(&mut state, current).await;
        (!Arc::ptr_eq(&renewed, cluster)).then_some(renewed)
    }

    async fn renew(&self, state: &mut State, cluster: Arc<Cluster>) -> Arc<Cluster> {
        match self.load(state).await {
            Ok(renewed) => renewed,
            Err(error) => {
                let why = error.to_string();
                if state.unusable.as_ref() != Some(&why) {
                    warn!("The kubeconfig has changed and cannot be used, going on with what it said before: {why}");
                    state.unusable = Some(why);
                }
                cluster
            }
        }
    }

    async fn load(&self, state: &mut State) -> Result<Arc<Cluster>, ApiError> {
        let access = kubeconfig::read(self.context.as_deref(), &self.environment).map_err(ApiError::config)?;
        let cluster = Arc::new(Cluster::connect(access).await?);
        if state.cluster.is_some() {
            info!("Read the kubeconfig again: {}", cluster.host);
        }
        *state = State { cluster: Some(Arc::clone(&cluster)), looked: Some(Instant::now()), unusable: None };
        Ok(cluster)
    }
}
