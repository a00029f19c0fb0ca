//! A namespace or project that is a node's own: made with an account for Zuul in it, and deleted as a whole.
//!
//! It is named `POOL-NODE`. If a namespace of that name is there already, it is ours from an attempt whose answer was
//! lost, or it is on its way out; the former is taken, beside the latter another name is chosen. Each step may be
//! repeated: what is there already counts as made.
//!
//! A namespace is known by its labels. OpenShift drops those of a `ProjectRequest` (openshift/origin issue 3819), so a
//! project is known by its description as well; whoever has made it may neither label it nor list more than he may see.
//!
//! The account's token is that of a secret of its own: it does not expire, and ends with the namespace. One of the
//! `TokenRequest` API would have to be renewed, also while a job has it.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use http::Request;
use kube::core::{
    Request as Path,
    params::{DeleteParams, ListParams, PostParams, Preconditions, PropagationPolicy},
};
use nodepool_common::{config::KubernetesKind, model::Json};
use serde_json::{Map, Value};
use tokio::time::{Instant, sleep};

use super::{
    api_error::ApiError,
    calls::{Patience, Session, items},
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

/// What a look at one tells.
pub enum Look {
    /// It is there.
    There(Value),
    /// It is not.
    Gone,
    /// We may not see it, if it is there. Of a project that is gone we may not know that either: with it go our rights.
    Hidden(ApiError),
}

/// What became of the wish to delete one (or a pod).
pub enum Deletion {
    /// It goes.
    Accepted,
    /// It was not there.
    Gone,
    /// It is another one by now, or somebody changes it: to be looked at again.
    Conflict(ApiError),
}

/// Namespaces of `kubernetes`, projects of `openshift`.
pub struct Homes<'a> {
    /// The calls that something is done to one by.
    pub session: &'a Session<'a>,
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
    pub async fn create(
        &self,
        name: &str,
        labels: &indexmap::IndexMap<String, String>,
        patience: Patience,
    ) -> Result<String, ApiError> {
        let mut last = None;
        for number in 1..=NAMES {
            let name = if number == 1 { name.to_owned() } else { format!("{name}-{number}") };
            let request = if self.is_project() {
                let body = manifest::project_request(&name, labels);
                post("/apis/project.openshift.io/v1/projectrequests", &body)?
            } else {
                post("/api/v1/namespaces", &manifest::namespace(&name, labels))?
            };
            match self.session.persist("create_namespace", &request, patience).await {
                Ok(_) => return Ok(name),
                Err(error) if error.is_taken() => {
                    let there = self.session.call("get_namespace", &self.get(&name)?).await;
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
    pub async fn furnish(
        &self,
        name: &str,
        has_pod: bool,
        until: Instant,
        patience: Patience,
    ) -> Result<Credentials, ApiError> {
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
            match self.session.persist(call, request, patience).await {
                Err(error) if !error.is_taken() => return Err(error),
                _ => {}
            }
        }
        self.credentials(name, until, patience).await
    }

    /// The cluster fills the secret a moment after it was made.
    async fn credentials(&self, name: &str, until: Instant, patience: Patience) -> Result<Credentials, ApiError> {
        let request = get(&format!("/api/v1/namespaces/{name}/secrets"), manifest::USER)?;
        let until = until.min(Instant::now() + TOKEN_WITHIN);
        let mut pause = std::time::Duration::from_millis(50);
        loop {
            let secret = self.session.persist("get_secret", &request, patience).await?;
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

    /// Every one of a provider's that we may see.
    pub async fn list(&self, provider: &str) -> Result<Vec<Value>, ApiError> {
        let parameters = ListParams::default();
        let parameters = if self.is_project() {
            parameters
        } else {
            parameters.labels(&format!("nodepool_provider_name={provider}"))
        };
        let list = self.session.call("list_namespaces", &self.path().list(&parameters).map_err(bug)?).await?;
        let is_its =
            |home: &&Value| marks(home).get("nodepool_provider_name").and_then(Value::as_str) == Some(provider);
        Ok(items(&list)?.iter().filter(is_its).cloned().collect())
    }

    /// Asks for the deletion of the one of that uid.
    pub async fn delete(&self, name: &str, uid: Option<&str>) -> Result<Deletion, ApiError> {
        let parameters = DeleteParams {
            propagation_policy: Some(PropagationPolicy::Background),
            preconditions: uid.map(|uid| Preconditions { uid: Some(uid.to_owned()), resource_version: None }),
            ..DeleteParams::default()
        };
        let request = self.path().delete(name, &parameters).map_err(bug)?;
        match self.session.call("delete_namespace", &request).await {
            Ok(_) => Ok(Deletion::Accepted),
            Err(error) if error.is_conflict() => Ok(Deletion::Conflict(error)),
            Err(error) if error.is_missing() => Ok(Deletion::Gone),
            Err(error) => Err(error),
        }
    }

    /// As it is.
    pub async fn look(&self, name: &str) -> Result<Look, ApiError> {
        match self.session.call("get_namespace", &self.get(name)?).await {
            Ok(there) => Ok(Look::There(there)),
            Err(error) if error.is_missing() => Ok(Look::Gone),
            Err(error) if error.is_forbidden() => Ok(Look::Hidden(error)),
            Err(error) => Err(error),
        }
    }

    /// Whether a project that we may not see is gone, as far as that can be known: our account may list projects, and it is
    /// not among them. An error where it may not.
    pub async fn is_unlisted(&self, name: &str) -> Result<bool, ApiError> {
        let list =
            self.session.call("list_namespaces", &self.path().list(&ListParams::default()).map_err(bug)?).await?;
        Ok(items(&list)?.iter().all(|home| home["metadata"]["name"].as_str() != Some(name)))
    }

    fn get(&self, name: &str) -> Result<Request<Vec<u8>>, ApiError> {
        self.path().get(name, &kube::core::params::GetParams::default()).map_err(bug)
    }
}

fn bug(error: impl std::fmt::Display) -> ApiError {
    ApiError::bug(error.to_string())
}

/// An object's labels, and of a project what its description says in their place.
pub fn marks(object: &Value) -> Map<String, Value> {
    let metadata = &object["metadata"];
    let mut marks = metadata["labels"].as_object().cloned().unwrap_or_default();
    let description = metadata["annotations"]["openshift.io/description"].as_str().unwrap_or_default();
    if let Ok(Value::Object(said)) = serde_json::from_str(description) {
        for (name, value) in said.into_iter().filter(|(name, value)| name.starts_with("nodepool_") && value.is_string())
        {
            marks.entry(name).or_insert(value);
        }
    }
    marks
}

/// Whether an object was made for the same node of the same provider, and is not on its way out.
pub fn is_ours(there: &Value, labels: &indexmap::IndexMap<String, String>) -> bool {
    let marks = marks(there);
    there["metadata"]["deletionTimestamp"].is_null()
        && ["nodepool_node_id", "nodepool_provider_name"]
            .iter()
            .all(|name| marks.get(*name).and_then(Value::as_str) == labels.get(*name).map(String::as_str))
}

/// What a secret has under a key; `None`: nothing (yet), or what is no text.
pub fn text_in(secret: &Value, key: &str) -> Option<String> {
    let bytes = STANDARD.decode(secret["data"][key].as_str()?).ok()?;
    String::from_utf8(bytes).ok().filter(|text| !text.is_empty())
}

/// A creation.
pub fn post(path: &str, body: impl Into<Json>) -> Result<Request<Vec<u8>>, ApiError> {
    let body = body.into().to_string().into_bytes();
    Path::new(path).create(&PostParams::default(), body).map_err(|error| ApiError::bug(error.to_string()))
}

/// A look at one object.
pub fn get(path: &str, name: &str) -> Result<Request<Vec<u8>>, ApiError> {
    let parameters = kube::core::params::GetParams::default();
    Path::new(path).get(name, &parameters).map_err(|error| ApiError::bug(error.to_string()))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_project_without_labels_is_known_by_its_description() {
        let labels: indexmap::IndexMap<String, String> =
            [("app", "ci"), ("nodepool_node_id", "0000000001"), ("nodepool_provider_name", "shift")]
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .into();
        let request = manifest::project_request("pool-0000000001", &labels);
        // What OpenShift makes of it.
        let project = |description: &Value| {
            json!({"metadata": {"name": "pool-0000000001", "annotations": {
                "openshift.io/description": description, "openshift.io/requester": "u"}}})
        };
        let ours = project(&request["description"]);
        assert!(is_ours(&ours, &labels));
        assert_eq!(
            Value::Object(marks(&ours)),
            json!({"nodepool_node_id": "0000000001", "nodepool_provider_name": "shift"}),
            "what a site adds is no mark"
        );
        let mut other = labels.clone();
        other.insert("nodepool_node_id".to_owned(), "0000000002".to_owned());
        assert!(!is_ours(&ours, &other), "another node's");
        for theirs in [json!(""), json!("Our shop"), json!("[1]"), json!("{\"nodepool_node_id\": 1}"), Value::Null] {
            assert!(!is_ours(&project(&theirs), &labels), "{theirs}");
        }
    }
}
