//! What a site makes once, before `openshiftpods` can begin: a namespace, an account of ours in it with what it may do,
//! its lasting token, and the kubeconfig that a launcher finds in the site's secret.
//!
//! The names, rules and contents are those of `sf-operator nodepool create openshiftpods-namespace`, so
//! that either may go on where the other has begun. Each object is made only where it is missing and never changed. In
//! the secret other keys stay, and so do the other contexts of a kubeconfig that is there already (the operator's own
//! command replaces it whole).

use std::time::Duration;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use kube::core::{
    Request as Path,
    params::{Patch, PatchParams},
};
use serde_json::{Map, Value, json};
use tokio::time::{Instant, sleep};
use tracing::warn;

use super::{api_error::ApiError, calls::Api, home, kubeconfig, manifest};
use crate::{Context, ProviderError};

/// The context that is made, and the name under which its calls are counted.
pub const CONTEXT: &str = "openshiftpods";
const CLUSTER: &str = "OpenshiftPodsCluster";
const ACCOUNT: &str = "nodepool-sa";
const ROLE: &str = "nodepool-role";
const BINDING: &str = "nodepool-rb";
const TOKEN: &str = "nodepool-token";
const SECRET: &str = "nodepool-providers-secrets";
const KEY: &str = "kube.config";
/// How long the token is waited for, as the operator does.
const TOKEN_WITHIN: Duration = Duration::from_secs(20);
/// How often the site's secret is read and written, if others write it at the same time.
const ATTEMPTS: u32 = 5;

type Result<T> = std::result::Result<T, ProviderError>;

/// One of the objects.
#[derive(Clone, Debug, PartialEq)]
pub struct Prepared {
    /// `ServiceAccount nodepool-sa`
    pub object: String,
    /// Made now; otherwise it was there.
    pub is_new: bool,
}

/// A namespace in which an `openshiftpods` provider makes its pods.
pub struct PodsNamespace {
    name: String,
    api: Api,
}

/// What became of the site's secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stored {
    /// There was none.
    Created,
    /// Its kubeconfig is another one now.
    Updated,
    /// It said the same already.
    Unchanged,
}

impl PodsNamespace {
    /// Reaches nothing yet. `context`: of the kubeconfig, with the right to make all this; its current one by default.
    pub fn new(name: &str, context: Option<String>, environment: &Context) -> Self {
        Self { name: name.to_owned(), api: Api::new(CONTEXT.into(), context, environment) }
    }

    /// What is made, in this order.
    pub fn manifests(&self) -> Vec<Value> {
        self.objects().into_iter().map(|(_, object)| object).collect()
    }

    /// Each with the collection that it belongs to.
    fn objects(&self) -> Vec<(String, Value)> {
        let name = &self.name;
        let core = format!("/api/v1/namespaces/{name}");
        let rbac = format!("/apis/rbac.authorization.k8s.io/v1/namespaces/{name}");
        let account_is = "kubernetes.io/service-account.name";
        vec![
            (
                "/api/v1/namespaces".to_owned(),
                json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}),
            ),
            (
                format!("{core}/serviceaccounts"),
                json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": ACCOUNT, "namespace": name}}),
            ),
            (
                format!("{rbac}/roles"),
                json!({
                    "apiVersion": "rbac.authorization.k8s.io/v1",
                    "kind": "Role",
                    "metadata": {"name": ROLE, "namespace": name},
                    "rules": [
                        {
                            "apiGroups": [""],
                            "resources": [
                                "pods", "pods/exec", "pods/portforward", "services", "persistentvolumeclaims",
                                "configmaps", "secrets",
                            ],
                            "verbs": manifest::ALL_VERBS,
                        },
                        {"apiGroups": ["apps"], "resources": ["deployments", "statefulsets"], "verbs": manifest::ALL_VERBS},
                    ],
                }),
            ),
            (
                format!("{rbac}/rolebindings"),
                json!({
                    "apiVersion": "rbac.authorization.k8s.io/v1",
                    "kind": "RoleBinding",
                    "metadata": {"name": BINDING, "namespace": name},
                    "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": ROLE},
                    "subjects": [{"kind": "ServiceAccount", "name": ACCOUNT, "namespace": name}],
                }),
            ),
            (
                format!("{core}/secrets"),
                json!({
                    "apiVersion": "v1",
                    "kind": "Secret",
                    "type": "kubernetes.io/service-account-token",
                    "metadata": {"name": TOKEN, "namespace": name, "annotations": {account_is: ACCOUNT}},
                }),
            ),
        ]
    }

    /// The API's address, if a pod elsewhere could not reach it.
    pub async fn loopback_address(&self) -> Result<Option<String>> {
        let cluster = self.api.connection().cluster().await;
        let host = cluster.map_err(|error| error.doing(self.doing()))?.host.clone();
        let address = host.split_once("://").map_or(host.as_str(), |(_, address)| address);
        let is_loopback = ["localhost", "127.", "[::1]"].iter().any(|start| address.starts_with(start));
        Ok(is_loopback.then_some(host))
    }

    /// Makes what is missing.
    pub async fn prepare(&self) -> Result<Vec<Prepared>> {
        let mut prepared = Vec::new();
        for (path, object) in self.objects() {
            let kind = object["kind"].as_str().unwrap_or_default();
            let name = object["metadata"]["name"].as_str().unwrap_or_default();
            let doing = format!("making {kind} {name} for pods in namespace {}", self.name);
            let is_new = ensure(&self.api, &path, name, &object).await.map_err(|error| error.doing(doing))?;
            prepared.push(Prepared { object: format!("{kind} {name}"), is_new });
        }
        Ok(prepared)
    }

    /// The kubeconfig for a launcher, with the account's token, for which the cluster is waited for.
    pub async fn kubeconfig(&self) -> Result<Value> {
        let failed =
            |error: ApiError| error.doing(format!("reading the token of {ACCOUNT} in namespace {}", self.name));
        let cluster = self.api.connection().cluster().await.map_err(failed)?;
        let mut entry = Map::from_iter([("server".to_owned(), json!(cluster.host))]);
        if cluster.skip_tls {
            entry.insert("insecure-skip-tls-verify".to_owned(), json!(true));
        } else if let Some(ca) = &cluster.ca {
            entry.insert("certificate-authority-data".to_owned(), json!(ca));
        }
        if let Some(name) = &cluster.tls_server_name {
            entry.insert("tls-server-name".to_owned(), json!(name));
        }
        let token = self.token().await.map_err(failed)?;
        Ok(json!({
            "apiVersion": "v1",
            "clusters": [{"cluster": entry, "name": CLUSTER}],
            "contexts": [{"context": {"cluster": CLUSTER, "namespace": self.name, "user": ACCOUNT}, "name": CONTEXT}],
            "current-context": CONTEXT,
            "kind": "Config",
            "preferences": {},
            "users": [{"name": ACCOUNT, "user": {"token": token}}],
        }))
    }

    async fn token(&self) -> std::result::Result<String, ApiError> {
        let request = home::get(&format!("/api/v1/namespaces/{}/secrets", self.name), TOKEN)?;
        let until = Instant::now() + TOKEN_WITHIN;
        loop {
            let secret = self.api.session().call("get_secret", &request).await?;
            if let Some(token) = home::text_in(&secret, "token") {
                return Ok(token);
            }
            if Instant::now() >= until {
                return Err(ApiError::timeout(format!(
                    "the cluster has put no token into secret {TOKEN} within {} s",
                    TOKEN_WITHIN.as_secs()
                )));
            }
            sleep(Duration::from_millis(250)).await;
        }
    }

    fn doing(&self) -> String {
        format!("preparing namespace {} for pods", self.name)
    }
}

/// The secret that the operator mounts into launcher and builder.
pub struct ProvidersSecret {
    api: Api,
    namespace: Option<String>,
}

impl ProvidersSecret {
    /// Reaches nothing yet. `namespace`: that of the operator's resource; by default the context's own.
    pub fn new(namespace: Option<String>, context: Option<String>, environment: &Context) -> Self {
        Self { api: Api::new(CONTEXT.into(), context, environment), namespace }
    }

    /// `secret nodepool-providers-secrets in namespace sf`
    pub async fn describe(&self) -> Result<String> {
        let namespace = self.namespace().await.map_err(|error| error.doing(format!("looking for secret {SECRET}")))?;
        Ok(format!("secret {SECRET} in namespace {namespace}"))
    }

    async fn namespace(&self) -> std::result::Result<String, ApiError> {
        match &self.namespace {
            Some(namespace) => Ok(namespace.clone()),
            None => Ok(self.api.connection().cluster().await?.namespace.clone()),
        }
    }

    /// Puts a kubeconfig's entries into the one that is there.
    pub async fn store(&self, kubeconfig: &Value) -> Result<Stored> {
        let doing = format!("storing the kubeconfig in {}", self.describe().await?);
        self.put(kubeconfig).await.map_err(|error| error.doing(doing))
    }

    /// Reads, merges and writes the version that was read; what another has written meanwhile is read again.
    async fn put(&self, kubeconfig: &Value) -> std::result::Result<Stored, ApiError> {
        let path = format!("/api/v1/namespaces/{}/secrets", self.namespace().await?);
        let mut attempt = 1;
        loop {
            match self.put_once(&path, kubeconfig).await {
                Err(error) if error.code == 409 && attempt < ATTEMPTS => attempt += 1,
                outcome => return outcome,
            }
        }
    }

    async fn put_once(&self, path: &str, kubeconfig: &Value) -> std::result::Result<Stored, ApiError> {
        let there = match self.api.session().call("get_secret", &home::get(path, SECRET)?).await {
            Err(error) if error.is_missing() => {
                let body = json!({
                    "apiVersion": "v1",
                    "kind": "Secret",
                    "metadata": {"name": SECRET},
                    "data": {KEY: STANDARD.encode(to_yaml(kubeconfig)?)},
                });
                self.api.session().call("create_secret", &home::post(path, &body)?).await?;
                return Ok(Stored::Created);
            }
            there => there?,
        };
        let merged = match home::text_in(&there, KEY) {
            None => kubeconfig.clone(),
            Some(text) => {
                let present: Value = serde_saphyr::from_str(&text).map_err(|error| {
                    let at = kubeconfig::place(&error);
                    ApiError::config(format!("{KEY}{at}: it is there and is no YAML, mend or remove it first"))
                })?;
                let merged = merge(&present, kubeconfig)?;
                if merged == present {
                    return Ok(Stored::Unchanged);
                }
                merged
            }
        };
        let change = Patch::Merge(json!({
            "metadata": {"resourceVersion": there["metadata"]["resourceVersion"]},
            "data": {KEY: STANDARD.encode(to_yaml(&merged)?)},
        }));
        let request = Path::new(path).patch(SECRET, &PatchParams::default(), &change);
        self.api.session().call("patch_secret", &request.map_err(|error| ApiError::bug(error.to_string()))?).await?;
        Ok(Stored::Updated)
    }
}

/// Makes an object where there is none; true: it was made.
async fn ensure(api: &Api, path: &str, name: &str, object: &Value) -> std::result::Result<bool, ApiError> {
    match api.session().call("get", &home::get(path, name)?).await {
        Ok(_) => return Ok(false),
        Err(error) if error.is_missing() => {}
        // Who may not look may be allowed to make.
        Err(error) if error.is_forbidden() => {}
        Err(error) => return Err(error),
    }
    match api.session().call("create", &home::post(path, object)?).await {
        Ok(_) => Ok(true),
        Err(error) if error.is_taken() => Ok(false),
        Err(error) => Err(error),
    }
}

/// A kubeconfig with another one's entries put into it; what has the same name is replaced.
fn merge(present: &Value, added: &Value) -> std::result::Result<Value, ApiError> {
    let no_kubeconfig = || ApiError::config(format!("{KEY} is there and is no kubeconfig, mend or remove it first"));
    let mut merged = match present {
        Value::Null => return Ok(added.clone()),
        Value::Object(map) => map.clone(),
        _ => return Err(no_kubeconfig()),
    };
    for list in ["clusters", "contexts", "users"] {
        let entries = merged.entry(list).or_insert_with(|| json!([]));
        if entries.is_null() {
            *entries = json!([]);
        }
        let entries = entries.as_array_mut().ok_or_else(no_kubeconfig)?;
        for entry in added[list].as_array().into_iter().flatten() {
            match entries.iter_mut().find(|there| there["name"] == entry["name"]) {
                Some(there) => {
                    let (old, new) = (&there["context"]["namespace"], &entry["context"]["namespace"]);
                    if old != new {
                        warn!("Context {} is that of namespace {new} now; it was that of {old}", entry["name"]);
                    }
                    *there = entry.clone();
                }
                None => entries.push(entry.clone()),
            }
        }
    }
    for (key, value) in added.as_object().into_iter().flatten() {
        let there = merged.entry(key.clone()).or_insert_with(|| value.clone());
        if there.as_str() == Some("") {
            *there = value.clone();
        }
    }
    Ok(Value::Object(merged))
}

/// As a kubeconfig is usually written.
fn to_yaml(value: &Value) -> std::result::Result<String, ApiError> {
    serde_saphyr::to_string(value).map_err(|error| ApiError::bug(error.to_string()))
}

/// A document for people and for `kubectl`.
pub fn yaml(value: &Value) -> Result<String> {
    to_yaml(value).map_err(|error| error.doing("writing YAML"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kubeconfig(namespace: &str, token: &str) -> Value {
        json!({
            "apiVersion": "v1",
            "clusters": [{"cluster": {"server": "https://api:6443"}, "name": CLUSTER}],
            "contexts": [{"context": {"cluster": CLUSTER, "namespace": namespace, "user": ACCOUNT}, "name": CONTEXT}],
            "current-context": CONTEXT,
            "kind": "Config",
            "users": [{"name": ACCOUNT, "user": {"token": token}}],
        })
    }

    #[test]
    fn other_contexts_of_a_site_stay() {
        let present: Value = serde_saphyr::from_str(
            "apiVersion: v1\nkind: Config\ncurrent-context: other\nclusters: [{name: c, cluster: {server: s}}]\n\
             contexts: [{name: other, context: {cluster: c, user: u}}]\nusers: null\n",
        )
        .unwrap();
        let merged = merge(&present, &kubeconfig("nodepool", "t1")).unwrap();
        assert_eq!(merged["current-context"], "other");
        assert_eq!(merged["contexts"][0]["name"], "other");
        assert_eq!(merged["contexts"][1]["name"], CONTEXT);
        assert_eq!(merged["users"], json!([{"name": ACCOUNT, "user": {"token": "t1"}}]));
        assert_eq!(merge(&merged, &kubeconfig("nodepool", "t1")).unwrap(), merged, "once more changes nothing");
        let renewed = merge(&merged, &kubeconfig("nodepool", "t2")).unwrap();
        assert_eq!(renewed["users"], json!([{"name": ACCOUNT, "user": {"token": "t2"}}]));
        assert_eq!(renewed["clusters"].as_array().unwrap().len(), 2);
    }

    #[test]
    fn what_is_no_kubeconfig_is_not_written_over() {
        for present in [json!("text"), json!({"users": {"a": 1}})] {
            let error = merge(&present, &kubeconfig("n", "t")).unwrap_err().to_string();
            assert_eq!(error, "kube.config is there and is no kubeconfig, mend or remove it first");
        }
        assert_eq!(merge(&Value::Null, &kubeconfig("n", "t")).unwrap(), kubeconfig("n", "t"));
    }
}
