//! What is created in a cluster, as upstream creates it. Pure.
//!
//! Two of upstream's keys are left out, because the API does not know them there and drops them: `restartPolicy` beside a
//! pod's `spec`, and `userNames` of a role binding.

use indexmap::IndexMap;
use nodepool_common::{
    config::{KubernetesLabel, PodContainer, PodResources, PodTemplate},
    model::{Json, Object, ProviderName},
};
use serde_json::{Map, Value, json};
use tracing::warn;

use crate::{
    Launch,
    format::{format, safe_attributes},
};

/// Who works in a node's own namespace.
pub const USER: &str = "zuul-worker";
/// What the container does: nothing, for ever. It does not listen to SIGTERM.
pub const COMMAND: [&str; 2] = ["/bin/sh", "-c"];
/// See [`COMMAND`].
pub const SLEEP: &str = "while true; do sleep 30; done;";

/// The labels of everything that a launch makes: the configured ones, then those by which it is found again.
pub fn labels(provider: &ProviderName, label: &KubernetesLabel, launch: &Launch) -> IndexMap<String, String> {
    let mut labels = label.labels.clone();
    let request = safe_attributes(&launch.request);
    for (name, template) in &label.dynamic_labels {
        match format(template, &request) {
            Ok(value) => {
                labels.insert(name.clone(), value);
            }
            Err(error) => warn!(
                "Label {name} of node {} is left out, its format {template:?} cannot be used: {error}",
                launch.node
            ),
        }
    }
    labels.extend(launch.metadata(provider).map(|(name, value)| (name.to_owned(), value)));
    labels.insert("nodepool_node_label".to_owned(), label.name.to_string());
    labels
}

/// A pod.
pub fn pod(label: &KubernetesLabel, template: &PodTemplate, name: &str, labels: &IndexMap<String, String>) -> Json {
    let spec = match template {
        PodTemplate::Spec(spec) => spec.clone(),
        PodTemplate::Container(container) => spec(label, container),
    };
    Object::default()
        .with("apiVersion", "v1")
        .with("kind", "Pod")
        .with("metadata", &json!({"name": name, "labels": labels, "annotations": label.annotations}))
        .with_json("spec", Some(spec.into()))
        .into()
}

fn spec(label: &KubernetesLabel, config: &PodContainer) -> Object {
    let list = |items: &[Json]| Json::list(items.iter().cloned());
    let mut container = Object::default()
        .with("name", &label.name)
        .with("image", &config.image)
        .with("imagePullPolicy", &config.image_pull)
        .with("command", &COMMAND)
        .with("args", &[SLEEP])
        .with_json("env", Some(list(&config.env)));
    let gpu = config.gpu.as_ref();
    let parts = [("requests", resources(config.requests, gpu)), ("limits", resources(config.limits, gpu))];
    let resources: Map<String, Value> = parts
        .into_iter()
        .filter(|(_, amounts)| !amounts.is_empty())
        .map(|(name, amounts)| (name.to_owned(), Value::Object(amounts)))
        .collect();
    if !resources.is_empty() {
        container.push("resources", Json::of(&resources));
    }
    if !config.volume_mounts.is_empty() {
        container.push("volumeMounts", list(&config.volume_mounts));
    }
    if let Some(privileged) = config.privileged {
        container.push("securityContext", Json::of(&json!({"privileged": privileged})));
    }
    let mut spec = Object::default().with_json("containers", Some(Json::list([container.into()])));
    if let Some(secrets) = &config.image_pull_secrets {
        spec.push("imagePullSecrets", list(secrets));
    }
    if let Some(selector) = &config.node_selector {
        spec.push("nodeSelector", selector.clone());
    }
    if let Some(scheduler) = &config.scheduler_name {
        spec.push("schedulerName", Json::of(scheduler));
    }
    if !config.volumes.is_empty() {
        spec.push("volumes", list(&config.volumes));
    }
    spec
}

/// 0 is "not given", as to Python.
fn resources(amounts: PodResources, gpu: Option<&(String, f64)>) -> Map<String, Value> {
    let given = |amount: Option<u64>| amount.filter(|amount| *amount != 0);
    let mut map = Map::new();
    if let Some(cpu) = given(amounts.cpu) {
        let whole = cpu.is_multiple_of(1000);
        map.insert("cpu".to_owned(), if whole { json!(cpu / 1000) } else { json!(format!("{cpu}m")) });
    }
    if let Some(memory) = given(amounts.memory) {
        map.insert("memory".to_owned(), json!(format!("{memory}Mi")));
    }
    if let Some(storage) = given(amounts.storage) {
        map.insert("ephemeral-storage".to_owned(), json!(format!("{storage}M")));
    }
    if let Some((resource, amount)) = gpu {
        map.insert(resource.clone(), json!(format!("{amount:.2}")));
    }
    map
}

/// A node's own namespace.
pub fn namespace(name: &str, labels: &IndexMap<String, String>) -> Value {
    json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}})
}

/// What is said of a project in its description, as JSON: a `ProjectRequest` passes that on, and drops labels.
pub fn mark(labels: &IndexMap<String, String>) -> String {
    let ours: Map<String, Value> = labels
        .iter()
        .filter(|(name, _)| name.starts_with("nodepool_"))
        .map(|(name, value)| (name.clone(), json!(value)))
        .collect();
    Value::Object(ours).to_string()
}

/// The same in OpenShift. Upstream asks for the labels only, which real clusters drop.
pub fn project_request(name: &str, labels: &IndexMap<String, String>) -> Value {
    json!({
        "apiVersion": "project.openshift.io/v1",
        "kind": "ProjectRequest",
        "metadata": {"name": name, "labels": labels},
        "description": mark(labels),
    })
}

/// [`USER`]'s account.
pub fn service_account() -> Value {
    json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": USER}})
}

/// The secret that the cluster puts [`USER`]'s token into.
pub fn token_secret() -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Secret",
        "type": "kubernetes.io/service-account-token",
        "metadata": {"name": USER, "annotations": {"kubernetes.io/service-account.name": USER}},
    })
}

/// Everything that may be done with a thing.
pub const ALL_VERBS: [&str; 7] = ["create", "delete", "get", "list", "patch", "update", "watch"];

/// What [`USER`] may do in a namespace: `zuul-restricted` where a pod is the node, `zuul` where the namespace is.
pub fn role(restricted: bool) -> Value {
    let rules = if restricted {
        json!([
            {"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list"]},
            {"apiGroups": [""], "resources": ["pods/exec"], "verbs": ALL_VERBS},
            {"apiGroups": [""], "resources": ["pods/logs"], "verbs": ALL_VERBS},
            {"apiGroups": [""], "resources": ["pods/portforward"], "verbs": ALL_VERBS},
        ])
    } else {
        json!([{
            "apiGroups": [""],
            "resources": [
                "pods", "pods/exec", "pods/log", "pods/portforward", "services", "endpoints", "crontabs", "jobs",
                "deployments", "replicasets", "configmaps", "secrets",
            ],
            "verbs": ALL_VERBS,
        }])
    };
    json!({
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "Role",
        "metadata": {"name": role_name(restricted)},
        "rules": rules,
    })
}

const fn role_name(restricted: bool) -> &'static str {
    if restricted { "zuul-restricted" } else { "zuul" }
}

/// Gives [`USER`] that role.
pub fn role_binding(namespace: &str, restricted: bool) -> Value {
    json!({
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "RoleBinding",
        "metadata": {"name": "zuul-role"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": role_name(restricted)},
        "subjects": [{"kind": "ServiceAccount", "name": USER, "namespace": namespace}],
    })
}

/// Makes [`USER`] the administrator of a project.
pub fn project_role_binding(project: &str) -> Value {
    json!({
        "apiVersion": "authorization.openshift.io/v1",
        "kind": "RoleBinding",
        "metadata": {"name": "admin-0"},
        "roleRef": {"name": "admin"},
        "subjects": [{"kind": "ServiceAccount", "name": USER, "namespace": project}],
        "userNames": [format!("system:serviceaccount:{project}:{USER}")],
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use nodepool_common::model::{NodeRequest, Resources};

    use super::*;

    fn label(name: &str, template: PodTemplate) -> KubernetesLabel {
        KubernetesLabel {
            name: name.into(),
            pod: Some(template),
            python_path: "auto".to_owned(),
            shell_type: None,
            resources: Resources::new(),
            labels: IndexMap::new(),
            dynamic_labels: IndexMap::new(),
            annotations: IndexMap::new(),
        }
    }

    fn launch(label: &str) -> Launch {
        let data = br#"{"state": "requested", "state_time": 1, "node_types": [], "tenant_name": "tenant-1"}"#;
        let (request, _) = NodeRequest::read("100-0000000000".into(), data).unwrap();
        Launch {
            node: "0000000000".into(),
            pool: "main".into(),
            label: label.into(),
            hostname: String::new(),
            az: None,
            upload: None,
            request: Arc::new(request),
        }
    }

    /// Upstream's `test_kubernetes_machine_extra` and `test_openshift_machine_extra`, to the letter.
    #[test]
    fn a_pod_with_everything_is_as_upstream_makes_it() {
        let container = PodContainer {
            image: Some("docker.io/fedora:28".to_owned()),
            image_pull: "IfNotPresent".to_owned(),
            image_pull_secrets: Some(Vec::new()),
            node_selector: Some(Object::default().with("storageType", "ssd")),
            privileged: Some(true),
            scheduler_name: Some("myscheduler".to_owned()),
            volumes: vec![Json::of(
                &json!({"name": "my-csi-inline-vol", "csi": {"driver": "inline.storage.kubernetes.io"}}),
            )],
            volume_mounts: vec![Json::of(&json!({"name": "my-csi-inline-vol", "mountPath": "/data"}))],
            ..PodContainer::default()
        };
        let template = PodTemplate::Container(Box::new(container));
        let mut label = label("pod-extra", template.clone());
        label.labels.insert("environment".to_owned(), "qa".to_owned());
        label.dynamic_labels.insert("tenant".to_owned(), "{request.tenant_name}".to_owned());
        label.dynamic_labels.insert("broken".to_owned(), "{request.nothing}".to_owned());
        let labels = labels(&"openshift".into(), &label, &launch("pod-extra"));
        let pod = pod(&label, &template, "pod-extra", &labels).view();
        assert_eq!(
            pod["metadata"],
            json!({
                "name": "pod-extra",
                "annotations": {},
                "labels": {
                    "environment": "qa",
                    "nodepool_node_id": "0000000000",
                    "nodepool_provider_name": "openshift",
                    "nodepool_pool_name": "main",
                    "nodepool_node_label": "pod-extra",
                    "tenant": "tenant-1",
                },
            })
        );
        assert_eq!(
            pod["spec"],
            json!({
                "containers": [{
                    "args": ["while true; do sleep 30; done;"],
                    "command": ["/bin/sh", "-c"],
                    "env": [],
                    "image": "docker.io/fedora:28",
                    "imagePullPolicy": "IfNotPresent",
                    "name": "pod-extra",
                    "securityContext": {"privileged": true},
                    "volumeMounts": [{"mountPath": "/data", "name": "my-csi-inline-vol"}],
                }],
                "imagePullSecrets": [],
                "nodeSelector": {"storageType": "ssd"},
                "schedulerName": "myscheduler",
                "volumes": [{"csi": {"driver": "inline.storage.kubernetes.io"}, "name": "my-csi-inline-vol"}],
            })
        );
    }

    /// Upstream's `test_*_default_label_resources` (its fraction of a GPU is refused by a real API) and `…_limits`.
    #[test]
    fn requests_and_limits_are_written_as_upstream_writes_them() {
        let container = PodContainer {
            requests: PodResources { cpu: Some(2000), memory: Some(1024), storage: Some(10) },
            limits: PodResources { cpu: Some(8000), memory: Some(4196), storage: Some(0) },
            gpu: Some(("gpu-vendor.example/example-gpu".to_owned(), 0.5)),
            ..PodContainer::default()
        };
        let template = PodTemplate::Container(Box::new(container));
        let pod = pod(&label("l", template.clone()), &template, "l-0000000000", &IndexMap::new()).view();
        assert_eq!(
            pod["spec"]["containers"][0]["resources"],
            json!({
                "limits": {"cpu": 8, "memory": "4196Mi", "gpu-vendor.example/example-gpu": "0.50"},
                "requests": {
                    "cpu": 2, "ephemeral-storage": "10M", "memory": "1024Mi", "gpu-vendor.example/example-gpu": "0.50",
                },
            })
        );
        assert_eq!(pod["spec"].get("imagePullSecrets"), None, "the kubernetes driver has none");
    }

    #[test]
    fn a_fraction_of_a_cpu_is_written_in_thousandths() {
        let of = |cpu| resources(PodResources { cpu: Some(cpu), ..PodResources::default() }, None);
        assert_eq!((&of(500)["cpu"], &of(1500)["cpu"], &of(3000)["cpu"]), (&json!("500m"), &json!("1500m"), &json!(3)));
    }

    /// Upstream's `test_*_custom`.
    #[test]
    fn a_spec_goes_through_as_it_is() {
        let spec =
            r#"{"containers": [{"name": "c", "image": "i"}], "somethingNew": 340282366920938463463374607431768211455}"#;
        let template = PodTemplate::Spec(Object::parse(spec).unwrap().unwrap());
        let pod = pod(&label("pod-custom", template.clone()), &template, "pod-custom-0000000000", &IndexMap::new());
        assert_eq!(pod.object().unwrap().get("spec").map(Json::as_str), Some(spec));
        assert_eq!(pod.view()["metadata"]["name"], "pod-custom-0000000000");
    }
}
