//! A kubeconfig or a clouds.yaml leads to another cluster or project while a call is being answered: what the call has made is
//! in the one that it was sent to, and what the other one answers says nothing of it.
#![allow(clippy::unwrap_used, clippy::expect_used)] // helpers of tests fail like tests

mod common;

use std::{path::PathBuf, sync::Arc, time::Duration};

use common::{Reported, label, launch, openstack, provider};
use indexmap::IndexMap;
use nodepool_common::{
    config::{Driver, Kubernetes, KubernetesKind, KubernetesLabel, PodTemplate},
    model::Resources,
};
use nodepool_drivers::{Context, Provider, make};
use nodepool_testing::{Fault, FaultProxy, Rule, ScriptedCloud, wait_for};
use serde_json::{Value, json};
use tokio::time::{sleep, timeout};

const DEADLINE: Duration = Duration::from_secs(30);
/// The files are looked at once a second.
const UNTIL_SEEN: Duration = Duration::from_millis(1200);
/// How long an answer takes at most within which the settings change; it comes as soon as they have.
const LATE: u64 = 25;

const PODS: &str = "/api/v1/namespaces/main/pods";
const NAMESPACES: &str = "/api/v1/namespaces";
const PROJECT_REQUESTS: &str = "/apis/project.openshift.io/v1/projectrequests";
const SERVERS: &str = "/compute/v2.1/servers";
const SERVER: &str = "/compute/v2.1/servers/s1";

/// An API server that has nothing but its `kube-system` with that uid.
async fn cluster(uid: &str) -> FaultProxy {
    // Nobody listens there.
    let api = FaultProxy::start("http://127.0.0.1:1").await;
    let missing = json!({"kind": "Status", "status": "Failure", "code": 404, "reason": "NotFound"});
    answers(&api, "*", "/**", 404, &missing);
    answers(&api, "GET", "/version", 200, &json!({"major": "1"}));
    answers(&api, "GET", "/api/v1/namespaces/kube-system", 200, &json!({"metadata": {"uid": uid}}));
    answers(&api, "GET", PODS, 200, &json!({"metadata": {"resourceVersion": "1"}, "items": []}));
    api
}

fn answers(api: &FaultProxy, method: &str, path: &str, status: u16, body: &Value) {
    let headers = [("Content-Type".to_owned(), "application/json".to_owned())].into();
    api.prefer(Rule::new(method, path, Fault::Answer { status, headers, body: body.to_string() }));
}

fn late(status: u16, body: &Value) -> Fault {
    Fault::AnswerLate { seconds: LATE, status, body: if body.is_null() { String::new() } else { body.to_string() } }
}

/// Two clusters, and a provider whose kubeconfig leads to the first one.
struct Clusters {
    first: FaultProxy,
    second: FaultProxy,
    provider: Arc<dyn Provider>,
    directory: tempfile::TempDir,
}

impl Clusters {
    async fn new(kind: KubernetesKind) -> Self {
        let (first, second) = (cluster("uid-1").await, cluster("uid-2").await);
        let directory = tempfile::tempdir().unwrap();
        let label = KubernetesLabel {
            name: "l".into(),
            pod: (kind == KubernetesKind::Pods).then(|| PodTemplate::Container(Box::default())),
            python_path: "auto".to_owned(),
            shell_type: None,
            resources: Resources::new(),
            labels: IndexMap::new(),
            dynamic_labels: IndexMap::new(),
            annotations: IndexMap::new(),
        };
        let pools = IndexMap::from_iter([("main".into(), IndexMap::from_iter([("l".into(), label)]))]);
        let driver = Driver::Kubernetes(Kubernetes { kind, context: Some("x".to_owned()), pools });
        let context = Context::default().with_variable("KUBECONFIG", directory.path().join("config").to_str().unwrap());
        let provider = make(&provider("p", driver), &context).unwrap();
        let this = Self { first, second, provider, directory };
        this.lead_to(&this.first);
        this.provider.start().await.unwrap();
        this
    }

    fn lead_to(&self, cluster: &FaultProxy) {
        let text = json!({
            "clusters": [{"name": "c", "cluster": {"server": cluster.url()}}],
            "users": [{"name": "u", "user": {"token": "t"}}],
            "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
        });
        let path: PathBuf = self.directory.path().join("config");
        std::fs::write(path.with_extension("new"), text.to_string()).unwrap();
        std::fs::rename(path.with_extension("new"), path).unwrap();
    }

    /// While the first cluster takes its time, the kubeconfig comes to lead to the second one, and others use that.
    async fn change_while_the_first_answers(&self) {
        wait_for(DEADLINE, "the call is sent", || async { (self.first.calls().held > 0).then_some(()) }).await;
        self.lead_to(&self.second);
        sleep(UNTIL_SEEN).await;
        self.provider.start().await.unwrap();
        let now = self.provider.scope().unwrap().driver_data();
        assert_eq!(now["cluster"], "uid-2");
        assert_eq!(self.first.calls().of(&format!("POST {PODS}")), 0, "it is not answered yet");
        self.first.let_go();
    }
}

async fn what_is_created_meanwhile_is_put_down_where_it_is(kind: KubernetesKind, path: &str) {
    let site = Clusters::new(kind).await;
    site.first.prefer(Rule::new("POST", path, late(201, &json!({"metadata": {"name": "l-0000000001", "uid": "1"}}))));
    let (launch, reported) = (launch("l", "0000000001"), Reported::default());
    let launching = timeout(DEADLINE, site.provider.launch(&launch, &reported));
    let (launched, ()) = tokio::join!(launching, site.change_while_the_first_answers());
    let made_in: Vec<_> = reported.scopes().into_iter().map(|scope| scope.unwrap().driver_data()).collect();
    assert_eq!(made_in, [json!({"cluster": "uid-1", "server": site.first.url()})]);
    let error = launched.expect("in time").unwrap_err();
    assert!(error.elsewhere, "what it needs further is not looked for in the second cluster: {error}");
    let asked = site.second.calls();
    assert!(asked.calls.keys().all(|call| !call.starts_with("POST")), "{asked:?}");
}

#[tokio::test]
async fn a_pod_that_is_created_meanwhile_is_put_down_where_it_is() {
    what_is_created_meanwhile_is_put_down_where_it_is(KubernetesKind::Pods, PODS).await;
}

#[tokio::test]
async fn a_namespace_that_is_created_meanwhile_is_put_down_where_it_is() {
    what_is_created_meanwhile_is_put_down_where_it_is(KubernetesKind::Namespaces, NAMESPACES).await;
}

#[tokio::test]
async fn a_project_that_is_created_meanwhile_is_put_down_where_it_is() {
    what_is_created_meanwhile_is_put_down_where_it_is(KubernetesKind::Projects, PROJECT_REQUESTS).await;
}

#[tokio::test]
async fn a_namespace_is_deleted_in_its_own_cluster_only() {
    let site = Clusters::new(KubernetesKind::Namespaces).await;
    let (path, id) = (format!("{NAMESPACES}/main-0000000001"), json!("main-0000000001"));
    let there = json!({"metadata": {"name": id, "uid": "1", "labels": {"nodepool_provider_name": "p"}}});
    for api in [&site.first, &site.second] {
        answers(api, "GET", &path, 200, &there);
        answers(api, "DELETE", &path, 200, &there);
    }
    let made_in = site.provider.scope().unwrap().driver_data();
    // Its deletion is accepted; then the other cluster is asked whether it has gone.
    site.first.prefer(Rule::new("DELETE", &path, late(200, &there)));
    let deleting = timeout(DEADLINE, site.provider.delete(&id, Some(&made_in)));
    let (deleted, ()) = tokio::join!(deleting, site.change_while_the_first_answers());
    let error = deleted.expect("in time").unwrap_err();
    assert!(error.elsewhere && error.to_string().contains("(its kube-system has the uid uid-1)"), "{error}");
    assert!(site.provider.delete(&id, Some(&made_in)).await.unwrap_err().elsewhere);
    let of_it = |api: &FaultProxy| ["GET", "DELETE"].map(|method| api.calls().of(&format!("{method} {path}")));
    assert_eq!((of_it(&site.first), of_it(&site.second)), ([1, 1], [0, 0]));
}

/// An OpenStack whose clouds.yaml leads to one project or another.
struct Cloud {
    scripted: ScriptedCloud,
    provider: Arc<dyn Provider>,
}

impl Cloud {
    async fn new() -> Self {
        let scripted = ScriptedCloud::start(&["force_ipv4: true"]).await;
        let flavors = json!({"flavors": [{"id": "f1", "name": "small", "ram": 512, "vcpus": 1}]});
        let limits = json!({"limits": {"absolute": {}}});
        for (path, answer) in [
            ("/compute/v2.1/flavors/detail", flavors),
            ("/compute/v2.1/limits", limits),
            ("/compute/v2.1/servers/detail", json!({"servers": []})),
            ("/network/v2.0/networks", json!({"networks": []})),
            ("/network/v2.0/floatingips", json!({"floatingips": []})),
            ("/network/v2.0/ports", json!({"ports": []})),
        ] {
            scripted.answer("GET", path, 200, &answer);
        }
        scripted.answer("GET", SERVER, 404, &json!({}));
        let mut config = openstack(ScriptedCloud::NAME, vec![label("l", "image", "small", &[])]);
        config.cloud_images["image"].image_id = Some("i1".to_owned());
        let file = scripted.clouds_yaml();
        let context = Context::default().with_variable("OS_CLIENT_CONFIG_FILE", file.to_str().unwrap());
        let provider = make(&provider("p", Driver::OpenStack(config)), &context).unwrap();
        provider.start().await.unwrap();
        Self { scripted, provider }
    }

    async fn change_while_it_answers(&self) {
        wait_for(DEADLINE, "the call is sent", || async { (self.scripted.calls().held > 0).then_some(()) }).await;
        self.scripted.leads_to("other");
        sleep(UNTIL_SEEN).await;
        // Whatever: a call of somebody else.
        let _ = self.provider.list_tagged().await;
        assert_eq!(self.provider.scope().unwrap().driver_data()["project"], "other");
        self.scripted.let_go();
    }
}

#[tokio::test]
async fn a_server_that_is_created_meanwhile_is_put_down_in_its_project() {
    let cloud = Cloud::new().await;
    cloud.scripted.meets(Rule::new("POST", SERVERS, late(202, &json!({"server": {"id": "s1"}}))));
    let (launch, reported) = (launch("l", "0000000001"), Reported::default());
    let launching = cloud.provider.launch(&launch, &reported);
    let changed = async {
        cloud.change_while_it_answers().await;
        wait_for(DEADLINE, "it is put down", || async { (!reported.ids().is_empty()).then_some(()) }).await;
    };
    tokio::select! {
        launched = launching => unreachable!("no list has it: {launched:?}"),
        () = changed => {}
    }
    let made_in: Vec<_> = reported.scopes().into_iter().map(|scope| scope.unwrap().driver_data()).collect();
    assert_eq!(made_in, [json!({"project": "project", "region": null})]);
}

#[tokio::test]
async fn a_server_that_another_project_does_not_list_is_not_gone() {
    let cloud = Cloud::new().await;
    let (id, made_in) = (json!("s1"), json!({"project": "project", "region": null}));
    cloud.scripted.meets(Rule::new("DELETE", SERVER, late(204, &Value::Null)));
    let deleting = timeout(DEADLINE, cloud.provider.delete(&id, Some(&made_in)));
    let (deleted, ()) = tokio::join!(deleting, cloud.change_while_it_answers());
    let error = deleted.expect("in time").unwrap_err();
    assert!(error.elsewhere && error.to_string().contains("it was made in project project"), "{error}");
    let deletions = || cloud.scripted.calls().of(&format!("DELETE {SERVER}"));
    let before = deletions();
    assert!(cloud.provider.delete(&id, Some(&made_in)).await.unwrap_err().elsewhere);
    assert_eq!(deletions(), before, "nothing is deleted in the other project");
}
