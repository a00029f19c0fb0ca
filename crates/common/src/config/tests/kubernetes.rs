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
        assert_eq!(amounts(&container.requests), (Some(1000), Some(200), Some(10)));
        assert_eq!(amounts(&container.limits), (Some(4000), Some(200), Some(10)));
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
        let warned = check(&one(driver, "", "", ", type: server, image: i"));
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
    assert_eq!(container(&loaded).env[0].view()["valueFrom"]["fieldRef"]["fieldPath"], "x");
}

#[test]
fn a_fraction_of_a_cpu_counts_in_thousandths_with_a_word_about_python() {
    for driver in KINDS {
        let text = one(driver, "", ", default-label-cpu-limit: 1.5", &format!("{}, cpu: 0.5", pod(driver)));
        let loaded = load(&text);
        let container = container(&loaded);
        assert_eq!((container.requests.cpu, container.limits.cpu), (Some(500), Some(1500)));
        assert_eq!(label(&loaded).resources, Resources::new().with("instances", 1.0).with("cores", 0.5));
        let warnings = lines(&loaded.warnings);
        assert!(
            warnings.contains("`cpu` must be a whole number of CPUs, not 0.5: here it counts as 500m"),
            "{warnings}"
        );
        assert!(
            warnings.contains("Python Nodepool cuts it off to 0, which asks for none and limits nothing"),
            "{warnings}"
        );
        assert!(warnings.contains("cuts it off to 1 ("), "{warnings}");
        assert!(check_errors(&text).contains("must be a whole number of CPUs, not 0.5"), "as upstream's schema");
        let quoted = load(&one(driver, "", "", &format!("{}, cpu: '0.75'", pod(driver))));
        assert!(quoted.broken_providers.is_empty());
        assert!(quoted.broken_parts[0].reason.contains("`cpu` must be a whole number of CPUs, not the text `0.75`"));
        for part in ["'0.75'", "500m"] {
            let errors = check_errors(&one(driver, "", "", &format!("{}, cpu: {part}", pod(driver))));
            assert!(errors.contains("a pod that needs less is written as `spec: {containers: [{name: l, image: i, command: [sleep, infinity], resources: {requests: {cpu: "), "{errors}");
        }
    }
}

#[test]
fn names_that_the_api_refuses_are_told() {
    let named = |driver: &str, pool: &str, label: &str, more: &str| {
        let kind = if driver == "openshiftpods" { "" } else { ", type: pod" };
        format!(
            "labels: [{{name: {label}}}]\nproviders: [{{name: p, driver: {driver}, context: c, pools: [{{name: {pool}, labels: \
             [{{name: {label}{kind}{more}}}]}}]}}]\n"
        )
    };
    for driver in KINDS {
        assert_eq!(check(&named(driver, "main", "rocky-9", ", image: i")), "");
        for (label, more, expected) in [
            ("Pod_Fedora", ", image: i", "its name is also that of a container, and Kubernetes refuses `Pod_Fedora`"),
            ("rocky-9.4", ", image: i", "its name is also that of a container, and Kubernetes refuses `rocky-9.4`"),
            (
                "Rocky",
                ", spec: {containers: [{name: a, image: b}]}",
                "its name is also that of a pod, and Kubernetes refuses `Rocky`",
            ),
            (&"a".repeat(64), ", image: i", "it is longer than 63 characters"),
            (
                "a",
                ", image: i, labels: {team: a b}",
                "refuses this in `labels`: `a b` cannot be the value of the label `team`",
            ),
            (
                "a",
                ", image: i, dynamic-labels: {a b: x}",
                "in `dynamic-labels`: the key `a b` cannot be that of a label",
            ),
            (
                "a",
                ", image: i, annotations: {a b: x}",
                "in `annotations`: the key `a b` cannot be that of an annotation",
            ),
        ] {
            let text = named(driver, "main", label, more);
            let errors = check_errors(&text);
            assert!(errors.contains(expected), "{driver} {label}{more}: {errors}");
            assert_eq!(load(&text).broken_parts.len(), 1, "at run time it costs the label");
        }
        assert_eq!(
            check(&named(driver, "main", "rocky-9.4", ", spec: {containers: [{name: a, image: b}]}")),
            "",
            "a pod may have dots"
        );
        let pool = named(driver, "CI_Pods", "a", ", image: i");
        let errors = check_errors(&pool);
        assert!(errors.lines().count() == 1 && errors.contains("Kubernetes refuses `CI_Pods`"), "{errors}");
        assert!(errors.ends_with("(call it otherwise, as `ci-pods`)"), "{errors}");
        assert!(load(&pool).broken_parts[0].reason.contains("Kubernetes refuses `CI_Pods`"));
    }
    let namespace = named("kubernetes", "main", "Any_Name", "").replace("type: pod", "type: namespace");
    assert_eq!(check(&namespace), "", "it is the value of a label only");
}
