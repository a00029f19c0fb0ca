//! The driver before an API server whose every answer a test gives: refusals, conflicts and lost answers at the moment that
//! matters. What a real one answers is tried by `tests/interop/pods.py`.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use async_trait::async_trait;
use indexmap::IndexMap;
use nodepool_common::{
    config::{self, Driver, Kubernetes, KubernetesKind, KubernetesLabel, PodTemplate},
    model::{NodeRequest, Resources},
};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};

use super::{
    KubernetesProvider,
    site::{ProvidersSecret, Stored},
};
use crate::{Context, ErrorClass, Instance, Launch, LaunchProgress, Provider, ProviderError, Scope};

/// A call: `GET /api/v1/…` without its query, and its body.
#[derive(Clone, Debug)]
struct Call {
    what: String,
    body: Value,
}

/// An API server that answers what a test says, one connection for each call.
struct Stub {
    directory: tempfile::TempDir,
    port: u16,
    calls: Arc<Mutex<Vec<Call>>>,
    server: JoinHandle<()>,
}

impl Drop for Stub {
    fn drop(&mut self) {
        self.server.abort();
    }
}

impl Stub {
    /// `answer` is given the call, how often the same was asked before, and its body.
    async fn start(answer: impl Fn(&str, usize, &Value) -> (u16, Value) + Send + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let calls: Arc<Mutex<Vec<Call>>> = Arc::default();
        let noted = Arc::clone(&calls);
        let server = tokio::spawn(async move {
            let mut asked: HashMap<String, usize> = HashMap::new();
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                let Some(call) = read(&mut stream).await else { continue };
                let before = asked.entry(call.what.clone()).or_default();
                let (status, body) = answer(&call.what, *before, &call.body);
                *before += 1;
                noted.lock().unwrap().push(call);
                let body = body.to_string();
                let head = format!(
                    "HTTP/1.1 {status} X\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
                    body.len()
                );
                let _ = stream.write_all((head + &body).as_bytes()).await;
            }
        });
        let stub = Self { directory: tempfile::tempdir().unwrap(), port, calls, server };
        stub.write_kubeconfig("one");
        stub
    }

    fn write_kubeconfig(&self, token: &str) {
        let document = json!({
            "clusters": [{"name": "c", "cluster": {"server": format!("http://127.0.0.1:{}", self.port)}}],
            "users": [{"name": "u", "user": {"token": token}}],
            "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u", "namespace": "sf"}}],
            "current-context": "x",
        });
        std::fs::write(self.directory.path().join("config"), document.to_string()).unwrap();
    }

    fn context(&self) -> Context {
        Context::default().with_variable("KUBECONFIG", self.directory.path().join("config").to_str().unwrap())
    }

    /// A provider `p` with a pool `pool`, which has a label `l`: a pod, or with `bare` a namespace.
    fn provider(&self, kind: KubernetesKind, bare: bool) -> KubernetesProvider {
        let label = KubernetesLabel {
            name: "l".into(),
            pod: (!bare).then(|| PodTemplate::Container(Box::default())),
            python_path: "auto".to_owned(),
            shell_type: None,
            resources: Resources::new(),
            labels: IndexMap::new(),
            dynamic_labels: IndexMap::new(),
            annotations: IndexMap::new(),
        };
        let pools = IndexMap::from_iter([("pool".into(), IndexMap::from_iter([("l".into(), label)]))]);
        let kubernetes = Kubernetes { kind, context: Some("x".to_owned()), pools };
        let provider = config::Provider {
            name: "p".into(),
            place: config::Place::default(),
            max_concurrency: None,
            launch_retries: 1,
            launch_timeout: Duration::from_secs(60),
            boot_timeout: Duration::from_secs(60),
            pools: Vec::new(),
            driver: Driver::Kubernetes(kubernetes.clone()),
        };
        KubernetesProvider::new(&provider, &kubernetes, &self.context())
    }

    fn calls(&self, what: &str) -> Vec<Value> {
        let calls = self.calls.lock().unwrap();
        calls.iter().filter(|call| call.what == what).map(|call| call.body.clone()).collect()
    }
}

async fn read(stream: &mut TcpStream) -> Option<Call> {
    let mut data = Vec::new();
    let end = loop {
        if let Some(at) = data.windows(4).position(|part| part == b"\r\n\r\n") {
            break at + 4;
        }
        if stream.read_buf(&mut data).await.ok()? == 0 {
            return None;
        }
    };
    let head = String::from_utf8_lossy(&data[..end]).to_ascii_lowercase();
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse().ok()).unwrap_or(0);
    while data.len() < end + length {
        if stream.read_buf(&mut data).await.ok()? == 0 {
            return None;
        }
    }
    let line = String::from_utf8_lossy(&data[..end]).lines().next()?.to_owned();
    let mut words = line.split(' ');
    let (method, target) = (words.next()?, words.next()?);
    let what = format!("{method} {}", target.split('?').next()?.trim_end_matches('/'));
    Some(Call { what, body: serde_json::from_slice(&data[end..]).unwrap_or(Value::Null) })
}

fn refusal(code: u16, reason: &str, message: &str) -> (u16, Value) {
    let status = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code, "reason": reason,
        "message": message});
    (code, status)
}

fn forbidden(what: &str) -> (u16, Value) {
    refusal(403, "Forbidden", &format!("{what} is forbidden: User \"u\" cannot do that"))
}

fn launch() -> Launch {
    let data = br#"{"state": "requested", "state_time": 1, "node_types": ["l"]}"#;
    let (request, _) = NodeRequest::read("100-0000000000".into(), data).unwrap();
    Launch {
        node: "0000000001".into(),
        pool: "pool".into(),
        label: "l".into(),
        hostname: String::new(),
        az: None,
        upload: None,
        request: Arc::new(request),
    }
}

struct Nowhere;

#[async_trait]
impl LaunchProgress for Nowhere {
    async fn created(&self, _external_id: Value, _made_in: Option<&Scope>) {}
}

async fn launched(provider: &KubernetesProvider) -> Result<Instance, ProviderError> {
    tokio::time::timeout(Duration::from_secs(50), provider.launch(&launch(), &Nowhere)).await.unwrap()
}

const PODS: &str = "/api/v1/namespaces/pool/pods";
const PROJECT: &str = "/apis/project.openshift.io/v1/projects/pool-0000000001";
const PROJECTS: &str = "/apis/project.openshift.io/v1/projects";
const REQUESTS: &str = "POST /apis/project.openshift.io/v1/projectrequests";

#[tokio::test]
async fn a_webhook_that_cannot_be_called_is_waited_for() {
    let stub = Stub::start(|call, before, _| {
        let pod = json!({"metadata": {"name": "l-0000000001", "uid": "1"}, "status": {
            "phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}});
        if call == format!("POST {PODS}") && before < 2 {
            return refusal(500, "InternalError", "failed calling webhook \"w\": context deadline exceeded");
        }
        match call {
            _ if call == format!("POST {PODS}") => (201, pod),
            _ if call == format!("GET {PODS}/l-0000000001") => (200, pod),
            _ => forbidden("it"),
        }
    })
    .await;
    let instance = launched(&stub.provider(KubernetesKind::Pods, false)).await.unwrap();
    assert_eq!(instance.external_id, json!("pool-l-0000000001"));
    assert_eq!(stub.calls(&format!("POST {PODS}")).len(), 3);
}

/// What a project is furnished with; the first answer of each step is the given one.
fn furnished(call: &str, before: usize, first: (u16, Value)) -> (u16, Value) {
    if before == 0 {
        return first;
    }
    match call.split_once(' ') {
        Some(("GET", _)) => (200, json!({"data": {"token": "dG9rZW4=", "ca.crt": "Y2E="}})),
        _ => (201, json!({})),
    }
}

#[tokio::test]
async fn in_a_project_that_was_just_made_a_refusal_is_waited_for() {
    let stub = Stub::start(|call, before, _| match call {
        REQUESTS => (201, json!({})),
        _ => furnished(call, before, forbidden("serviceaccounts")),
    })
    .await;
    let instance = launched(&stub.provider(KubernetesKind::Projects, true)).await.unwrap();
    assert_eq!(instance.connection_port.unwrap()["token"], "token");
}

#[tokio::test]
async fn after_a_lost_answer_our_project_is_taken_although_it_has_no_labels() {
    let description = Arc::new(Mutex::new(Value::Null));
    let stub = Stub::start(move |call, before, body| match call {
        REQUESTS if before == 0 => {
            *description.lock().unwrap() = body["description"].clone();
            refusal(500, "InternalError", "the answer got lost")
        }
        REQUESTS => refusal(409, "AlreadyExists", "project.project.openshift.io \"pool-0000000001\" already exists"),
        _ if call == format!("GET {PROJECT}") => {
            let said = description.lock().unwrap().clone();
            (200, json!({"metadata": {"name": "pool-0000000001", "annotations": {"openshift.io/description": said}}}))
        }
        _ => furnished(call, before + 1, forbidden("it")),
    })
    .await;
    let instance = launched(&stub.provider(KubernetesKind::Projects, true)).await.unwrap();
    assert_eq!(instance.external_id, json!("pool-0000000001"));
}

#[tokio::test]
async fn leaked_projects_are_listed_by_what_their_descriptions_say() {
    let stub = Stub::start(|call, _, _| {
        let project = |name: &str, description: &str| {
            json!({"metadata": {"name": name, "annotations": {"openshift.io/description": description}}})
        };
        match call {
            _ if call == format!("GET {PROJECTS}") => (200, json!({"items": [
                project("pool-1", r#"{"nodepool_node_id": "1", "nodepool_provider_name": "p"}"#),
                project("pool-2", r#"{"nodepool_node_id": "2", "nodepool_provider_name": "q"}"#),
                project("pool-3", "another's"),
            ]})),
            _ => forbidden("it"),
        }
    })
    .await;
    let listed = stub.provider(KubernetesKind::Projects, true).list_tagged().await.unwrap();
    let found: Vec<_> = listed.iter().map(|found| (found.id.as_str(), found.tag("nodepool_node_id"))).collect();
    assert_eq!(found, [("pool-1", Some("1"))]);
}

#[tokio::test]
async fn a_project_that_we_may_not_see_is_gone_only_if_that_can_be_known() {
    for (listed, expected) in [
        (forbidden("projects"), Err(ErrorClass::Config)),
        ((200, json!({"items": [{"metadata": {"name": "pool-0000000001"}}]})), Err(ErrorClass::Config)),
        ((200, json!({"message": "log in first"})), Err(ErrorClass::Transient)),
        ((200, json!({"items": []})), Ok(())),
        ((200, json!({"items": null})), Ok(())),
    ] {
        let answer = listed.clone();
        let stub = Stub::start(move |call, _, _| match call {
            _ if call == format!("GET {PROJECTS}") => answer.clone(),
            _ => forbidden("projects.project.openshift.io \"pool-0000000001\""),
        })
        .await;
        let mut provider = stub.provider(KubernetesKind::Projects, true);
        provider.hidden_for = Duration::ZERO;
        let outcome = provider.delete(&json!("pool-0000000001"), None).await;
        assert_eq!(outcome.map_err(|error| error.class), expected);
    }
}

#[tokio::test]
async fn a_conflict_is_no_deletion() {
    let stub = Stub::start(|call, before, _| match call {
        "GET /api/v1/namespaces/pool-0000000001" if before < 2 => {
            let metadata = json!({"name": "pool-0000000001", "uid": format!("uid-{before}"),
                "labels": {"nodepool_provider_name": "p"}});
            (200, json!({"metadata": metadata}))
        }
        "DELETE /api/v1/namespaces/pool-0000000001" if before == 0 => {
            refusal(409, "Conflict", "the UID does not match")
        }
        "DELETE /api/v1/namespaces/pool-0000000001" => (200, json!({})),
        _ => refusal(404, "NotFound", "not found"),
    })
    .await;
    stub.provider(KubernetesKind::Namespaces, true).delete(&json!("pool-0000000001"), None).await.unwrap();
    let uids: Vec<_> = stub.calls("DELETE /api/v1/namespaces/pool-0000000001");
    let uids: Vec<_> = uids.iter().map(|options| options["preconditions"]["uid"].as_str().unwrap()).collect();
    assert_eq!(uids, ["uid-0", "uid-1"]);
}

#[tokio::test]
async fn a_pod_whose_deletion_meets_conflicts_only_is_not_deleted() {
    let stub = Stub::start(|call, before, _| {
        let pod =
            json!({"metadata": {"name": "l-1", "uid": before.to_string(), "labels": {"nodepool_provider_name": "p"}}});
        if call == format!("GET {PODS}/l-1") { (200, pod) } else { refusal(409, "Conflict", "the UID does not match") }
    })
    .await;
    let mut provider = stub.provider(KubernetesKind::Pods, false);
    provider.pause = Duration::from_millis(10);
    let began = std::time::Instant::now();
    let error = provider.delete(&json!("pool-l-1"), None).await.unwrap_err();
    assert_eq!(error.class, ErrorClass::Transient);
    assert!(error.to_string().contains("the UID does not match"), "{error}");
    let tries = stub.calls(&format!("DELETE {PODS}/l-1")).len();
    assert!(tries > 2 && began.elapsed() > Duration::from_millis(10 + 20), "{tries} tries with pauses between");
}

#[tokio::test]
async fn a_pod_is_gone_only_if_it_is_in_none_of_the_places_that_its_id_may_stand_for() {
    let list = |pods: Value| (200, json!({"metadata": {"resourceVersion": "1"}, "items": pods}));
    let stub = Stub::start(move |call, before, _| match call {
        "GET /version" => (200, json!({})),
        "GET /api/v1/namespaces/ci/pods" if before == 0 => list(json!([])),
        "GET /api/v1/namespaces/ci-large/pods" if before == 0 => list(json!([{"metadata": {
            "name": "fedora-0000000001", "resourceVersion": "1", "labels": {"nodepool_provider_name": "p"}}}])),
        _ => forbidden("it"),
    })
    .await;
    let mut provider = stub.provider(KubernetesKind::Pods, false);
    let labels = provider.pools.shift_remove("pool").unwrap();
    provider.pools.insert("ci".into(), labels.clone());
    provider.pools.insert("ci-large".into(), labels);
    let (there, gone, long_ago) = (json!("ci-large-fedora-0000000001"), json!("ci-large-fedora-0000000002"), None);
    assert_eq!(provider.has_gone(&gone, None, long_ago), None, "nothing was seen yet");
    provider.start().await.unwrap();
    tokio::time::timeout(Duration::from_secs(30), async {
        while provider.has_gone(&gone, None, long_ago).is_none() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await
    .expect("both lists lack it");
    assert_eq!(provider.has_gone(&there, None, long_ago), None);
}

/// A kubeconfig whose exec plugin is this script, with a password in its environment.
fn write_plugin(stub: &Stub, script: &str) {
    let document = json!({
        "clusters": [{"name": "c", "cluster": {"server": format!("http://127.0.0.1:{}", stub.port)}}],
        "users": [{"name": "u", "user": {"exec": {"apiVersion": "client.authentication.k8s.io/v1", "command": "sh",
            "args": ["-c", script, stub.directory.path().join("broken").to_str().unwrap()], "interactiveMode": "Never",
            "env": [{"name": "OS_PASSWORD", "value": "hunter2"}]}}}],
        "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
    });
    std::fs::write(stub.directory.path().join("config"), document.to_string()).unwrap();
}

#[tokio::test]
async fn an_exec_plugin_that_fails_is_told_without_its_environment_and_output() {
    const TOKEN: &str = r#"{"apiVersion": "client.authentication.k8s.io/v1", "kind": "ExecCredential",
        "status": {"token": "the-token", "expirationTimestamp": "2020-01-01T00:00:00Z"}}"#;
    let stub = Stub::start(|_, _, _| (200, json!({}))).await;
    write_plugin(&stub, &format!("echo '{TOKEN}'; if [ -e $0 ]; then echo no route >&2; exit 3; fi"));
    let provider = stub.provider(KubernetesKind::Pods, false);
    provider.start().await.unwrap();
    std::fs::write(stub.directory.path().join("broken"), "").unwrap();
    let renewed = provider.start().await.unwrap_err().to_string();
    let token = provider.api.connection().cluster().await.unwrap().token().await.unwrap_err().to_string();
    let begun = stub.provider(KubernetesKind::Pods, false).start().await.unwrap_err().to_string();
    for error in [renewed, token, begun] {
        assert!(error.contains("its exec plugin sh has failed (exit status: 3): no route"), "{error}");
        assert!(!error.contains("hunter2") && !error.contains("the-token"), "{error}");
    }
}

#[tokio::test]
async fn the_newer_pod_of_a_name_is_deleted_although_only_the_older_one_was_seen() {
    let pod = |uid: &str| json!({"metadata": {"name": "l-1", "uid": uid, "resourceVersion": "1", "labels": {"nodepool_provider_name": "p"}}});
    let stub = Stub::start(move |call, before, body| match call {
        "GET /version" => (200, json!({})),
        _ if call == format!("GET {PODS}") && before == 0 => {
            (200, json!({"metadata": {"resourceVersion": "1"}, "items": [pod("old")]}))
        }
        _ if call == format!("DELETE {PODS}/l-1") && body["preconditions"]["uid"] == "old" => {
            refusal(409, "Conflict", "the UID in the precondition (old) does not match the UID in record (new)")
        }
        _ if call == format!("DELETE {PODS}/l-1") => (200, json!({})),
        _ if call == format!("GET {PODS}/l-1") && before == 0 => (200, pod("new")),
        _ if call == format!("GET {PODS}/l-1") => refusal(404, "NotFound", "not found"),
        _ => forbidden("it"),
    })
    .await;
    let provider = stub.provider(KubernetesKind::Pods, false);
    provider.start().await.unwrap();
    tokio::time::timeout(Duration::from_secs(30), async {
        while provider.board("pool").and_then(|board| board.pod(None, "l-1")).is_none() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await
    .expect("the board has the older one");
    let id = json!("pool-l-1");
    let deleted = provider.delete(&id, None);
    tokio::time::timeout(Duration::from_secs(30), deleted).await.unwrap().unwrap();
    assert_eq!(stub.calls(&format!("DELETE {PODS}/l-1")).len(), 2, "also the newer one");
}

#[tokio::test]
async fn of_a_pool_that_is_gone_a_pod_that_we_may_not_see_is_not_gone() {
    let stub = Stub::start(|_, _, _| forbidden("pods")).await;
    let provider = stub.provider(KubernetesKind::Pods, false);
    let error = provider.delete(&json!("former-l-1"), None).await.unwrap_err();
    assert_eq!(error.class, ErrorClass::Config, "{error}");
    let stub = Stub::start(|call, _, _| match call {
        "GET /api/v1/namespaces/former/pods/l-1" => refusal(404, "NotFound", "pods \"l-1\" not found"),
        _ => forbidden("pods"),
    })
    .await;
    stub.provider(KubernetesKind::Pods, false).delete(&json!("former-l-1"), None).await.unwrap();
}

#[tokio::test]
async fn a_node_that_waited_is_handed_over_with_the_credentials_of_now() {
    let stub = Stub::start(|_, _, _| forbidden("it")).await;
    let provider = stub.provider(KubernetesKind::Pods, false);
    let made = json!({"pod": "l-1", "namespace": "pool", "host": format!("http://127.0.0.1:{}", stub.port), "ca_crt": null,
        "skiptls": false, "token": "one", "user": "zuul-worker"});
    assert_eq!(provider.renewed_connection(&made, None).await.unwrap(), None);
    stub.write_kubeconfig("three");
    tokio::time::timeout(Duration::from_secs(30), async {
        loop {
            if let Some(renewed) = provider.renewed_connection(&made, None).await.unwrap() {
                let mut expected = made.clone();
                expected["token"] = json!("three");
                assert_eq!(renewed, expected);
                return;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    })
    .await
    .expect("renewed");
    let of_namespaces = stub.provider(KubernetesKind::Namespaces, false);
    assert_eq!(of_namespaces.renewed_connection(&made, None).await.unwrap(), None, "its account's token lasts");
}

#[tokio::test]
async fn a_namespace_that_two_later_lists_lack_has_gone() {
    let stub = Stub::start(|call, before, _| match call {
        "GET /api/v1/namespaces" if before == 0 => {
            (200, json!({"items": [{"metadata": {"name": "pool-1", "labels": {"nodepool_provider_name": "p"}}}]}))
        }
        "GET /api/v1/namespaces" if before == 2 => (200, json!({"message": "log in first"})),
        "GET /api/v1/namespaces" if before <= 3 => (200, json!({"items": []})),
        _ => forbidden("namespaces"),
    })
    .await;
    let provider = stub.provider(KubernetesKind::Namespaces, true);
    let (id, long_ago) = (json!("pool-1"), None);
    assert_eq!(provider.has_gone(&id, None, long_ago), None, "nothing was listed");
    provider.list_tagged().await.unwrap();
    assert_eq!(provider.has_gone(&id, None, long_ago), None);
    provider.list_tagged().await.unwrap();
    assert_eq!(provider.has_gone(&id, None, long_ago), None, "one list alone may be wrong");
    let error = provider.list_tagged().await.unwrap_err();
    assert_eq!(error.class, ErrorClass::Transient, "{error}");
    assert_eq!(
        provider.has_gone(&id, None, long_ago),
        None,
        "an answer that is no list does not say that there is nothing"
    );
    provider.list_tagged().await.unwrap();
    assert!(provider.has_gone(&id, None, long_ago).is_some());
    assert_eq!(
        provider.has_gone(&id, None, Some(tokio::time::Instant::now())),
        None,
        "the list is older than the node"
    );
    let unseen = stub.provider(KubernetesKind::Namespaces, true);
    assert!(unseen.list_tagged().await.unwrap().is_empty(), "our account may not list");
    assert_eq!(unseen.has_gone(&id, None, long_ago), None, "what we may not see is not gone");
}

#[tokio::test]
async fn what_another_writes_into_the_sites_secret_at_the_same_time_stays() {
    const SECRET: &str = "/api/v1/namespaces/sf/secrets/nodepool-providers-secrets";
    let base64 = |text: &str| {
        use base64::Engine as _;
        base64::engine::general_purpose::STANDARD.encode(text)
    };
    let context =
        |name: &str| json!({"contexts": [{"name": name, "context": {"cluster": name, "user": name}}]}).to_string();
    let stub = Stub::start(move |call, before, body| match call {
        _ if call == format!("GET {SECRET}") => {
            let (version, text) = if before == 0 { ("1", context("first")) } else { ("2", context("second")) };
            (200, json!({"metadata": {"resourceVersion": version}, "data": {"kube.config": base64(&text)}}))
        }
        _ if call == format!("PATCH {SECRET}") && body["metadata"]["resourceVersion"] != "2" => {
            refusal(409, "Conflict", "the object has been modified")
        }
        _ => (200, json!({})),
    })
    .await;
    let ours = json!({"contexts": [{"name": "ours", "context": {"cluster": "c", "user": "u"}}]});
    let stored = ProvidersSecret::new(None, None, &stub.context()).store(&ours).await.unwrap();
    assert_eq!(stored, Stored::Updated);
    let written = super::home::text_in(stub.calls(&format!("PATCH {SECRET}")).last().unwrap(), "kube.config").unwrap();
    let written: Value = serde_saphyr::from_str(&written).unwrap();
    let names: Vec<_> = written["contexts"].as_array().unwrap().iter().map(|context| &context["name"]).collect();
    assert_eq!(names, ["second", "ours"]);
}
