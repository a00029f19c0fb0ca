//! For tests on a real OpenStack (`tests/services/openstack`), named by `NODEPOOL_TEST_CLOUDS_YAML`. Without it they
//! say that they did nothing. The cloud is shared: each test removes what it made, also when it fails.
#![allow(clippy::unwrap_used, clippy::expect_used)] // helpers of tests fail like tests
// Names what it makes in a real cloud by the host's time.
#![allow(clippy::disallowed_methods)]

use std::{
    collections::BTreeMap,
    future::Future,
    panic::resume_unwind,
    sync::Arc,
    time::{Duration, SystemTime},
};

use nodepool_common::{
    config::{Driver, OpenStack, OpenStackLabel},
    model::ProviderName,
};
use nodepool_drivers::{ApiCalls, CloudResource, Context, Instance, Provider, ProviderError, make};
use reqwest::Method;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::{
    task::JoinError,
    time::{error::Elapsed, timeout},
};

use super::{Reported, label, launch, provider};

pub const CLOUD: &str = "npcloud";
pub const SMALL: &str = "npcloud-small";
pub const IMAGE: &str = "cirros-np";
/// IPv4 only.
pub const NETWORK: &str = "private-v4only";
/// IPv4 and IPv6, with a router to the external network.
pub const ROUTED: &str = "private";
/// The cloud runs on a loaded machine.
pub const DEADLINE: Duration = Duration::from_secs(600);

pub fn context() -> Option<Context> {
    let Ok(path) = std::env::var("NODEPOOL_TEST_CLOUDS_YAML") else {
        eprintln!("skipped: NODEPOOL_TEST_CLOUDS_YAML does not name the clouds.yaml of a test cloud");
        return None;
    };
    Some(Context::default().with_variable("OS_CLIENT_CONFIG_FILE", path))
}

/// The same with more settings of the cloud, each line as it stands in its clouds.yaml.
pub fn context_with(settings: &[&str]) -> Option<(Context, TempDir)> {
    let clouds = std::fs::read_to_string(context()?.variable("OS_CLIENT_CONFIG_FILE").unwrap()).unwrap();
    let settings = settings.join("\n    ");
    let clouds = clouds.replacen("  npcloud:\n", &format!("  npcloud:\n    {settings}\n"), 1);
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("clouds.yaml");
    std::fs::write(&path, clouds).unwrap();
    Some((Context::default().with_variable("OS_CLIENT_CONFIG_FILE", path.to_str().unwrap()), dir))
}

pub fn tiny(name: &str) -> OpenStackLabel {
    label(name, IMAGE, "np.tiny", &[NETWORK])
}

pub fn made(name: &str, config: OpenStack, context: &Context) -> Arc<dyn Provider> {
    make(&provider(name, Driver::OpenStack(config)), context).unwrap()
}

pub fn unique(test: &str) -> String {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_nanos();
    format!("test-{test}-{now}")
}

/// A provider whose servers and images are removed at the end. Its name is this run's own.
pub async fn with_provider<F: Future<Output = ()> + Send + 'static>(
    test: &str,
    config: OpenStack,
    context: &Context,
    body: impl FnOnce(Arc<dyn Provider>) -> F,
) {
    let provider = made(&unique(test), config, context);
    provider.start().await.unwrap();
    let done = tokio::spawn(timeout(DEADLINE, body(Arc::clone(&provider)))).await;
    end(&provider, done).await;
}

/// Removes what a test has left of servers and images, and ends as the test did.
pub async fn end(provider: &Arc<dyn Provider>, done: Result<Result<(), Elapsed>, JoinError>) {
    for server in own(provider).await {
        eprintln!("removing server {}", server.id);
        timeout(DEADLINE, provider.delete(&json!(server.id), None)).await.unwrap().unwrap();
    }
    for image in provider.list_images().await.unwrap() {
        eprintln!("removing image {}", image.id);
        provider.delete_image(&image.id).await.unwrap();
    }
    match done {
        Ok(in_time) => in_time.expect("the test ends in time"),
        Err(error) => resume_unwind(error.into_panic()),
    }
}

/// The provider's servers.
pub async fn own(provider: &Arc<dyn Provider>) -> Vec<CloudResource> {
    let name = provider.name().as_str();
    let mut resources = provider.list_resources().await.unwrap();
    resources.retain(|resource| resource.tag("nodepool_provider_name") == Some(name));
    resources
}

pub async fn launched(
    provider: &Arc<dyn Provider>,
    label: &str,
    node: &str,
) -> (Result<Instance, ProviderError>, Vec<Value>) {
    let reported = Reported::default();
    (provider.launch(&launch(label, node), &reported).await, reported.ids())
}

pub fn nodes(count: usize) -> Vec<String> {
    (1..=count).map(|node| format!("{node:010}")).collect()
}

/// How often each call was made and how often it failed.
pub fn counted(calls: &ApiCalls) -> BTreeMap<&'static str, (u64, u64)> {
    calls.snapshot().into_iter().map(|((_, call), counted)| (call, (counted.count, counted.failed))).collect()
}

/// A user of the cloud beside the driver, who sees what it has done and does what people do.
#[derive(Debug)]
pub struct Person {
    http: reqwest::Client,
    token: String,
    catalog: Value,
    /// The id of his project.
    pub project: String,
}

impl Person {
    pub async fn log_in(context: &Context, cloud: &str) -> Self {
        let clouds = std::fs::read_to_string(context.variable("OS_CLIENT_CONFIG_FILE").unwrap()).unwrap();
        let clouds: Value = serde_saphyr::from_str(&clouds).unwrap();
        let auth = &clouds["clouds"][cloud]["auth"];
        let body = json!({"auth": {
            "identity": {"methods": ["password"], "password": {"user": {"name": auth["username"],
                "password": auth["password"], "domain": {"name": auth["user_domain_name"]}}}},
            "scope": {"project": {"name": auth["project_name"], "domain": {"name": auth["project_domain_name"]}}}}});
        nodepool_common::sys::crypto::install_provider();
        let http = reqwest::Client::new();
        let url = format!("{}/auth/tokens", auth["auth_url"].as_str().unwrap());
        let answer = http.post(url).json(&body).send().await.unwrap();
        let token = answer.headers()["x-subject-token"].to_str().unwrap().to_owned();
        let body: Value = answer.json().await.unwrap();
        let project = body["token"]["project"]["id"].as_str().unwrap().to_owned();
        Self { http, token, catalog: body["token"]["catalog"].clone(), project }
    }

    /// A call of `compute`, `network` or `volumev3`; also returns the status.
    pub async fn try_call(&self, service: &str, method: Method, path: &str, body: Option<Value>) -> (u16, Value) {
        let entry = self.catalog.as_array().unwrap().iter().find(|entry| entry["type"] == service).unwrap();
        let endpoints = entry["endpoints"].as_array().unwrap();
        let url = endpoints.iter().find(|endpoint| endpoint["interface"] == "public").unwrap()["url"].as_str().unwrap();
        let version = if service == "network" { "/v2.0" } else { "" };
        let mut request = self.http.request(method, format!("{}{version}{path}", url.trim_end_matches('/')));
        request = request.header("x-auth-token", &self.token);
        if service == "compute" {
            // The first that shows user data.
            request = request.header("x-openstack-nova-api-version", "2.3");
        }
        if let Some(body) = body {
            request = request.json(&body);
        }
        let answer = request.send().await.unwrap();
        let status = answer.status().as_u16();
        (status, serde_json::from_slice(&answer.bytes().await.unwrap()).unwrap_or_default())
    }

    pub async fn call(&self, service: &str, method: Method, path: &str, body: Option<Value>) -> Value {
        let (status, answer) = self.try_call(service, method.clone(), path, body).await;
        assert!((200..300).contains(&status), "{method} {path}: {status} {answer}");
        answer
    }

    pub async fn get(&self, service: &str, path: &str) -> Value {
        self.call(service, Method::GET, path, None).await
    }

    pub async fn post(&self, service: &str, path: &str, body: Value) -> Value {
        self.call(service, Method::POST, path, Some(body)).await
    }

    /// Something that may be gone.
    pub async fn delete(&self, service: &str, path: &str) {
        let (status, answer) = self.try_call(service, Method::DELETE, path, None).await;
        assert!((200..300).contains(&status) || status == 404, "DELETE {path}: {status} {answer}");
    }

    pub async fn server(&self, id: &Value) -> Value {
        self.get("compute", &format!("/servers/{}", id.as_str().unwrap())).await["server"].clone()
    }

    /// The project's floating IPs that name this provider.
    pub async fn floating_ips(&self, provider: &ProviderName) -> Vec<Value> {
        let answer = self.get("network", "/floatingips").await;
        let ips = answer["floatingips"].as_array().unwrap().iter();
        ips.filter(|ip| ip["description"].as_str().unwrap().contains(provider.as_str())).cloned().collect()
    }

    pub async fn network(&self, name: &str) -> String {
        let answer = self.get("network", &format!("/networks?name={name}")).await;
        answer["networks"][0]["id"].as_str().unwrap().to_owned()
    }

    pub async fn flavor(&self, name: &str) -> String {
        let answer = self.get("compute", "/flavors").await;
        let flavors = answer["flavors"].as_array().unwrap();
        flavors.iter().find(|flavor| flavor["name"] == name).unwrap()["id"].as_str().unwrap().to_owned()
    }
}
