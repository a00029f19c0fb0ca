//! The kubeconfig leads to another cluster: namespaces that were made in the one before are neither seen nor deleted there, and
//! are not forgotten either.

#![allow(clippy::unwrap_used)] // helpers of tests fail like tests

mod support;

use std::{fs, path::PathBuf, time::Duration};

use nodepool_testing::{Fault, FaultProxy, Rule};
use serde_json::{Value, json};
use support::*;

const NAMESPACES: &str = "/api/v1/namespaces";

/// An API server with the namespaces that a test gives it, and the uid of its `kube-system`.
struct Cluster {
    api: FaultProxy,
}

impl Cluster {
    async fn start(uid: &str) -> Self {
        // Nobody listens there.
        let this = Self { api: FaultProxy::start("http://127.0.0.1:1").await };
        let rbac = "/apis/rbac.authorization.k8s.io/v1/namespaces/*/*";
        this.answers(
            "*",
            "/**",
            404,
            &json!({"kind": "Status", "status": "Failure", "code": 404, "reason": "NotFound"}),
        );
        this.answers("GET", "/version", 200, &json!({"major": "1"}));
        for path in [NAMESPACES, "/api/v1/namespaces/*/*", rbac] {
            this.answers("POST", path, 201, &json!({"metadata": {"name": "made"}}));
        }
        let secret = json!({"data": {"token": "dG9rZW4=", "ca.crt": "Y2E="}});
        this.answers("GET", "/api/v1/namespaces/*/secrets/*", 200, &secret);
        this.has(&[]);
        this.answers("GET", &format!("{NAMESPACES}/kube-system"), 200, &json!({"metadata": {"uid": uid}}));
        this
    }

    fn answers(&self, method: &str, path: &str, status: u16, body: &Value) {
        let headers = [("Content-Type".to_owned(), "application/json".to_owned())].into();
        self.api.prefer(Rule::new(method, path, Fault::Answer { status, headers, body: body.to_string() }));
    }

    /// The namespaces of provider p that it has.
    fn has(&self, names: &[&str]) {
        let namespace = |name: &&str| {
            json!({"metadata": {"name": name, "uid": name, "labels": {
            "nodepool_provider_name": "p", "nodepool_node_id": name.trim_start_matches("main-")}}})
        };
        let items: Vec<Value> = names.iter().map(namespace).collect();
        self.answers("GET", NAMESPACES, 200, &json!({"items": items}));
        let missing = json!({"kind": "Status", "status": "Failure", "code": 404, "reason": "NotFound"});
        for method in ["GET", "DELETE"] {
            self.answers(method, &format!("{NAMESPACES}/main-*"), 404, &missing);
            for (name, item) in names.iter().zip(&items) {
                self.answers(method, &format!("{NAMESPACES}/{name}"), 200, item);
            }
        }
    }

    fn calls(&self, call: &str) -> u64 {
        self.api.calls().of(call)
    }
}

/// A launcher, and a kubeconfig that a test leads to one cluster or another.
struct Site {
    stage: Stage,
    launcher: Launcher,
    kubeconfig: PathBuf,
}

impl Site {
    async fn new(cluster: &Cluster) -> Self {
        let stage = Stage::new(zookeeper()).await;
        stage.cleanup_interval.set(0.5);
        let kubeconfig = stage.path("kubeconfig");
        lead(&kubeconfig, cluster);
        stage.set_env("KUBECONFIG", &kubeconfig);
        let label = json!({"name": "l", "type": "namespace"});
        stage.configure(&[json!({"name": "p", "driver": "kubernetes", "context": "x",
            "pools": [{"name": "main", "max-servers": 1, "labels": [label]}]})]);
        Self { launcher: stage.launch(), stage, kubeconfig }
    }

    /// Returns when the launcher has seen that: it looks once a second while it makes calls.
    async fn leads_to(&self, cluster: &Cluster) {
        lead(&self.kubeconfig, cluster);
        self.has_listed(cluster).await;
    }

    /// Returns when a cluster's namespaces were listed as they are now, often enough to judge by.
    async fn has_listed(&self, cluster: &Cluster) {
        let list = format!("GET {NAMESPACES}");
        let before = cluster.calls(&list);
        self.stage.wait("they are listed", async || cluster.calls(&list) >= before + 3).await;
    }

    async fn set(&self, node: &str, values: &[(&str, Value)]) {
        let mut record = self.stage.record(&format!("nodes/{node}")).await;
        for (key, value) in values {
            record[*key] = value.clone();
        }
        self.stage.zk.set_data(&format!("/nodepool/nodes/{node}"), record.to_string().as_bytes(), None).await.unwrap();
    }
}

fn lead(kubeconfig: &PathBuf, cluster: &Cluster) {
    let text = json!({
        "clusters": [{"name": "c", "cluster": {"server": cluster.api.url()}}],
        "users": [{"name": "u", "user": {"token": "t"}}],
        "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
    });
    let aside = kubeconfig.with_extension("new");
    fs::write(&aside, text.to_string()).unwrap();
    fs::rename(&aside, kubeconfig).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_namespace_of_the_cluster_before_keeps_its_node_until_the_kubeconfig_leads_there_again() {
    let (first, second) = (Cluster::start("uid-1").await, Cluster::start("uid-2").await);
    let site = Site::new(&first).await;
    let request = site.stage.request(&["l"]).await;
    site.stage.wait_for_state(&request, "fulfilled").await;
    let node = site.stage.records("nodes").await.into_keys().next().unwrap();
    let (path, name) = (format!("nodes/{node}"), format!("main-{node}"));
    first.has(&[&name]);
    site.has_listed(&first).await;
    let record = site.stage.record(&path).await;
    assert_eq!(record["driver_data"], json!({"cluster": "uid-1", "server": first.api.url()}));
    // Ready, and nobody's: what another cluster lists does not tell of it.
    site.set(&node, &[("state", json!("ready")), ("allocated_to", Value::Null)]).await;
    site.stage.zk.delete(&format!("/nodepool/requests/{request}"), None).await.unwrap();
    site.leads_to(&second).await;
    assert_eq!(site.stage.record(&path).await["state"], "ready", "{}", site.launcher.log());
    // Nor does it when the node is handed out: where it is, it works.
    let request = site.stage.request(&["l"]).await;
    let served = site.stage.wait_for_state(&request, "fulfilled").await;
    assert_eq!(served["nodes"], json!([node]), "{}", site.launcher.log());
    site.set(&node, &[("allocated_to", Value::Null)]).await;
    site.stage.zk.delete(&format!("/nodepool/requests/{request}"), None).await.unwrap();
    // To be deleted: what another cluster does not have is not gone, and takes no room in the pool.
    site.set(&node, &[("state", json!("deleting")), ("state_time", json!(now()))]).await;
    let told = format!("made in the cluster at {} (its kube-system has the uid uid-1)", first.api.url());
    site.stage.wait("the log tells why", async || site.launcher.log().contains(&told)).await;
    let of_it = ["GET", "DELETE"].map(|method| second.calls(&format!("{method} {NAMESPACES}/{name}")));
    assert_eq!(of_it, [0, 0], "another cluster is not asked for it");
    assert_eq!(site.stage.record(&path).await["external_id"], json!(name));
    let request = site.stage.request(&["l"]).await;
    let served = site.stage.wait_for_state(&request, "fulfilled").await;
    let other = site.stage.record(&format!("nodes/{}", served["nodes"][0].as_str().unwrap())).await;
    assert_eq!(other["driver_data"]["cluster"], "uid-2");
    site.leads_to(&first).await;
    let deleted = format!("DELETE {NAMESPACES}/{name}");
    site.stage.wait_within(Duration::from_secs(60), "it is deleted there", async || first.calls(&deleted) > 0).await;
    first.has(&[]);
    site.stage.wait("its node is gone", async || !site.stage.records("nodes").await.contains_key(&node)).await;
}
