//! A namespace or project that is a node's own: made with an account for Zuul in it, and deleted as a whole.
//!
//! It is named `POOL-NODE`. If a namespace of that name is there already, it is ours from an attempt whose answer was
//! lost, or it is on its way out; the former is taken, beside the latter another name is chosen. Each step may be
//! repeated: what is there already counts as made.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use http::Request;
use kube::core::{
    Request as Path,
    params::{DeleteParams, PostParams, PropagationPolicy},
};
use nodepool_common::config::KubernetesKind;
use serde_json::Value;
use tokio::time::{Instant, sleep};

use super::{
    calls::{Api, ApiError},
    manifest,
};

/// Names that are tried.
const NAMES: u32 = 5;
/// How long the token is waited for, as upstream does.
pub const TOKEN_WITHIN: std::time::Duration = std::time::Duration::from_secs(30);

/// The account's credentials, as Zuul is given them.
pub struct Credentials {
    /// The bearer token.
    pub token: String,
    /// The authority's certificate, PEM in base64.
    pub ca: String,
}

/// Namespaces of `kubernetes`, projects of `openshift`.
pub struct Homes<'a> {
    /// The cluster.
    pub api: &'a Api,
    /// Which of the two.
    pub kind: KubernetesKind,
}

impl Homes<'_> {
    fn is_project(&self) -> bool {
        self.kind == KubernetesKind::Projects
    }

    fn path(&self) -> Path {
        Path::new(if self.is_project() { "/apis/project.openshift.io/v1/projects" } else { "/api/v1/namespaces" })
    }

    /// Makes one for a node; returns its name.
    pub async fn create(&self, name: &str, labels: &indexmap::IndexMap<String, String>) -> Result<String, ApiError> {
        let mut last = None;
        for number in 1..=NAMES {
            let name = if number == 1 { name.to_owned() } else { format!("{name}-{number}") };
            let request = if self.is_project() {
                let body = manifest::project_request(&name, labels);
                post("/apis/project.openshift.io/v1/projectrequests", &body)?
            } else {
                post("/api/v1/namespaces", &manifest::namespace(&name, labels))?
            };
            match self.api.call("create_namespace", &request).await {
                Ok(_) => return Ok(name),
                Err(error) if error.is_taken() => {
                    let there = self.api.call("get_namespace", &self.get(&name)?).await;
                    if there.is_ok_and(|there| is_ours(&there, labels)) {
                        return Ok(name);
                    }
                    last = Some(error);
                }
                Err(error) => return Err(error),
            }
        }
        Err(last.unwrap_or_else(|| ApiError::bug("no name was tried".to_owned())))
    }

    /// Puts Zuul's account into it, with what it may do there.
    pub async fn furnish(&self, name: &str, has_pod: bool, until: Instant) -> Result<Credentials, ApiError> {
        let core = format!("/api/v1/namespaces/{name}");
        let rbac = format!("/apis/rbac.authorization.k8s.io/v1/namespaces/{name}");
        let mut steps = vec![
            ("create_service_account", post(&format!("{core}/serviceaccounts"), &manifest::service_account())?),
            ("create_secret", post(&format!("{core}/secrets"), &manifest::token_secret())?),
        ];
        if self.is_project() {
            let path = format!("/apis/authorization.openshift.io/v1/namespaces/{name}/rolebindings");
            steps.push(("create_role_binding", post(&path, &manifest::project_role_binding(name))?));
        } else {
            steps.push(("create_role", post(&format!("{rbac}/roles"), &manifest::role(has_pod))?));
            let binding = manifest::role_binding(name, has_pod);
            steps.push(("create_role_binding", post(&format!("{rbac}/rolebindings"), &binding)?));
        }
        for (call, request) in &steps {
            match self.api.persist(call, request, until).await {
                Err(error) if !error.is_taken() => return Err(error),
                _ => {}
            }
        }
        self.credentials(name, until).await
    }

    /// The cluster fills the secret a moment after it was made.
    async fn credentials(&self, name: &str, until: Instant) -> Result<Credentials, ApiError> {
        let request = get(&format!("/api/v1/namespaces/{name}/secrets"), manifest::USER)?;
        let until = until.min(Instant::now() + TOKEN_WITHIN);
        let mut pause = std::time::Duration::from_millis(50);
        loop {
            let secret = self.api.persist("get_secret", &request, until).await?;
            let ca = secret["data"]["ca.crt"].as_str().filter(|text| !text.is_empty());
            if let (Some(token), Some(ca)) = (text_in(&secret, "token"), ca) {
                return Ok(Credentials { token, ca: ca.to_owned() });
            }
            if Instant::now() + pause > until {
                return Err(ApiError::timeout(format!(
                    "secret {} of namespace {name} was not given a token within {} s",
                    manifest::USER,
                    TOKEN_WITHIN.as_secs()
                )));
            }
            sleep(pause).await;
            pause = (pause * 2).min(std::time::Duration::from_secs(1));
        }
    }

    /// Every one of our provider's, as the API lists it.
    pub async fn list(&self, selector: &str) -> Result<Vec<Value>, ApiError> {
        let parameters = kube::core::params::ListParams::default().labels(selector);
        let request = self.path().list(&parameters).map_err(|error| ApiError::bug(error.to_string()))?;
        let list = self.api.call("list_namespaces", &request).await?;
        Ok(list["items"].as_array().cloned().unwrap_or_default())
    }

    /// Asks for its deletion. One that is gone is no error; true: it was there.
    pub async fn delete(&self, name: &str) -> Result<bool, ApiError> {
        let parameters =
            DeleteParams { propagation_policy: Some(PropagationPolicy::Background), ..DeleteParams::default() };
        let request = self.path().delete(name, &parameters).map_err(|error| ApiError::bug(error.to_string()))?;
        match self.api.call("delete_namespace", &request).await {
            Ok(_) => Ok(true),
            // It is being deleted already.
            Err(error) if error.code == 409 => Ok(true),
            Err(error) if error.is_missing() => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// As it is; `None`: it is gone.
    pub async fn look(&self, name: &str) -> Result<Option<Value>, ApiError> {
        match self.api.call("get_namespace", &self.get(name)?).await {
            Ok(there) => Ok(Some(there)),
            Err(error) if error.is_missing() => Ok(None),
            // Of a project that is gone, its former administrator may know nothing.
            Err(error) if self.is_project() && error.is_forbidden() => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn get(&self, name: &str) -> Result<Request<Vec<u8>>, ApiError> {
        self.path().get(name, &kube::core::params::GetParams::default()).map_err(|e| ApiError::bug(e.to_string()))
    }
}

/// Whether an object was made for the same node of the same provider, and is not on its way out.
pub fn is_ours(there: &Value, labels: &indexmap::IndexMap<String, String>) -> bool {
    let metadata = &there["metadata"];
    metadata["deletionTimestamp"].is_null()
        && ["nodepool_node_id", "nodepool_provider_name"]
            .iter()
            .all(|name| metadata["labels"][name].as_str() == labels.get(*name).map(String::as_str))
}

/// What a secret has under a key; `None`: nothing (yet), or what is no text.
pub fn text_in(secret: &Value, key: &str) -> Option<String> {
    let bytes = STANDARD.decode(secret["data"][key].as_str()?).ok()?;
    String::from_utf8(bytes).ok().filter(|text| !text.is_empty())
}

/// A creation.
pub fn post(path: &str, body: &Value) -> Result<Request<Vec<u8>>, ApiError> {
    let body = serde_json::to_vec(body).map_err(|error| ApiError::bug(error.to_string()))?;
    Path::new(path).create(&PostParams::default(), body).map_err(|error| ApiError::bug(error.to_string()))
}

/// A look at one object.
pub fn get(path: &str, name: &str) -> Result<Request<Vec<u8>>, ApiError> {
    let parameters = kube::core::params::GetParams::default();
    Path::new(path).get(name, &parameters).map_err(|error| ApiError::bug(error.to_string()))
}
