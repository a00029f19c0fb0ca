//! The drivers whose nodes are pods, namespaces and projects.

use std::time::Duration;

use super::{super::Driver, check, check_errors, lines, load};
use crate::{
    config::{KubernetesLabel, Loaded, PodContainer, PodTemplate},
    model::Resources,
};

const KINDS: [&str; 3] = ["kubernetes", "openshift", "openshiftpods"];

/// A configuration of one provider: its own keys, its pool's and its label's, as JSON.
fn one(driver: &str, provider: &str, pool: &str, label: &str) -> String {
    format!(
        "labels: [{{name: l}}]\nproviders: [{{name: p, driver: {driver}, context: c{provider}, pools: [{{name: n{pool}, \
         labels: [{{name: l{label}}}]}}]}}]\n"
    )
}

fn pod(driver: &str) -> &'static str {
    if driver == "openshiftpods" { ", image: i" } else { ", type: pod, image: i" }
}

fn label(loaded: &Loaded) -> &KubernetesLabel {
    match &loaded.config.providers["p"].driver {
        Driver::Kubernetes(kubernetes) => &kubernetes.pools["n"]["l"],
        driver => panic!("{driver:?}"),
    }
}

fn container(loaded: &Loaded) -> &PodContainer {
    match &label(loaded).pod {
        Some(PodTemplate::Container(container)) => container,
        other => panic!("{other:?}"),
    }
}

fn limits(text: &str) -> Resources {
    let loaded = load(text);
    loaded.config.providers["p"].pools[0].limits.clone()
}

#[test]
fn a_label_has_the_defaults_of_a_pod() {
    for driver in KINDS {
        let text = one(driver, "", "", pod(driver));
        assert_eq!(check(&text), "", "{driver}");
        let loaded = load(&text);
        assert_eq!(lines(&loaded.warnings), "");
        let container = container(&loaded);
        assert_eq!((container.image.as_deref(), container.image_pull.as_str()), (Some("i"), "IfNotPresent"));
        assert_eq!(
            container.image_pull_secrets.is_some(),
            driver != "kubernetes",
            "kubernetes has none, others an empty list"
        );
        assert_eq!(container.privileged, None);
        let label = label(&loaded);
        assert_eq!((label.python_path.as_str(), label.shell_type.as_deref()), ("auto", None));
        assert_eq!(label.resources, Resources::new().with("instances", 1.0));
        assert_eq!(loaded.config.providers["p"].launch_timeout, Duration::from_secs(330), "ours: upstream waits 300 s");
    }
}

#[test]
fn what_a_label_leaves_open_is_its_pools_default_and_limits_follow_requests() {
    for driver in KINDS {
        let pool = ", default-label-cpu: 1, default-label-memory: 100, default-label-storage: 10, \
                    default-label-cpu-limit: 4, default-label-extra-resources: {licences: 2}";
        let of_label = ", memory: 200, gpu: 0.5, gpu-resource: vendor.example/gpu, extra-resources: {slots: 3}";
        let loaded = load(&one(driver, "", pool, &format!("{}{of_label}", pod(driver))));
        let container = container(&loaded);
        let amounts = |of: &crate::config::PodResources| (of.cpu, of.memory, of.storage);
        assert_eq!(amounts(&container.requests), (Some(1), Some(200), Some(10)));
        assert_eq!(amounts(&container.limits), (Some(4), Some(200), Some(10)));
        assert_eq!(container.gpu, Some(("vendor.example/gpu".to_owned(), 0.5)));
        let expected = [
            ("instances", 1.0),
            ("cores", 1.0),
            ("ram", 200.0),
            ("ephemeral-storage", 10.0),
            ("vendor.example/gpu", 0.5),
            ("licences", 2.0),
            ("slots", 3.0),
        ];
        assert_eq!(
            label(&loaded).resources,
            expected.iter().fold(Resources::new(), |all, (name, n)| all.with(name, *n))
        );
    }
}

#[test]
fn a_pool_has_the_limits_of_its_provider_unless_it_says_others() {
    let all = Resources::new().with("instances", 5.0).with("cores", 20.0).with("ram", 300.0).with("licences", 4.0);
    for (driver, key) in [("openshift", "max-projects"), ("openshiftpods", "max-pods")] {
        let provider = format!(", {key}: 5, max-cores: 10, max-ram: 300, max-resources: {{licences: 4}}");
        let text = one(driver, &provider, ", max-cores: 20", pod(driver));
        assert_eq!(check(&text), "");
        assert_eq!(limits(&text), all, "{driver}");
    }
    let text =
        one("kubernetes", ", max-ram: 300", ", max-servers: 5, max-cores: 20, max-resources: {licences: 4}", pod(""));
    assert_eq!(limits(&text), all);
    let less = one("openshiftpods", ", max-pods: 5", ", max-servers: 2", pod("openshiftpods"));
    assert_eq!(limits(&less), Resources::new().with("instances", 2.0));
}

#[test]
fn a_namespace_is_no_pod() {
    for (driver, kind) in [("kubernetes", "namespace"), ("openshift", "project")] {
        let loaded = load(&one(driver, "", "", &format!(", type: {kind}")));
        assert_eq!(label(&loaded).pod, None);
        let warned = check(&one(driver, "", "", ", type: server"));
        assert!(warned.contains("there is no `type` `server`") && warned.contains(kind), "{warned}");
        assert!(check_errors(&one(driver, "", "", ", image: i")).contains("`type` is missing"), "{driver}");
    }
}

#[test]
fn a_spec_stands_alone() {
    for driver in KINDS {
        let kind = if driver == "openshiftpods" { "" } else { ", type: pod" };
        let spec = format!("{kind}, spec: {{containers: [{{name: a, image: b}}]}}");
        let text = one(driver, "", "", &spec);
        assert_eq!(check(&text), "");
        assert!(matches!(label(&load(&text)).pod, Some(PodTemplate::Spec(_))));
        let both = check_errors(&one(driver, "", "", &format!("{spec}, image: i")));
        assert!(both.contains("main:2:") && both.contains("image"), "{both}");
    }
}

#[test]
fn what_is_missing_is_named_with_its_place() {
    let without = "labels: [{name: l}]\nproviders:\n- name: p\n  driver: openshiftpods\n  pools: [{name: n, labels: [{name: l}]}]\n";
    let errors = check_errors(without);
    assert!(errors.contains("main:3:3: provider `p`: `context` is missing"), "{errors}");
    assert!(errors.contains("main:5:") && errors.contains("neither `image` nor `spec`"), "{errors}");
    let loaded = load(&one("openshiftpods", "", "", ""));
    assert!(lines(&loaded.warnings).contains("neither `image` nor `spec`"), "at run time the others are served");
}

#[test]
fn environment_variables_are_pairs_and_more_where_no_schema_is_asked() {
    let plain = one("openshiftpods", "", "", ", image: i, env: [{name: A, value: b}]");
    assert_eq!(check(&plain), "");
    let from = one("openshiftpods", "", "", ", image: i, env: [{name: A, valueFrom: {fieldRef: {fieldPath: x}}}]");
    assert!(check_errors(&from).contains("`value` is missing"));
    let loaded = load(&from);
    assert_eq!(container(&loaded).env[0]["valueFrom"]["fieldRef"]["fieldPath"], "x");
}
