//! The two forms of a pod's label, and what nobody makes a pod from.
//!
//! Either its keys describe one container, or `spec` is the pod as it is; a namespace has neither. Upstream's schema tells the
//! two apart by `spec`, even by an empty one, which its driver then takes for none; it asks for an image in `openshiftpods`
//! only, and for nothing within `spec`. What the API refuses in each launch is an error of `config-validate`; daemons go on
//! with a warning, since a webhook of the cluster may complete a pod.

use super::{KubernetesKind, advice::suggest, fields::Fields, report::Report, yaml::Node};

/// What describes the container and nothing else; `cpu` and its like count for quota, too.
const OF_THE_CONTAINER: [&str; 8] =
    ["image", "image-pull", "image-pull-secrets", "env", "privileged", "scheduler-name", "volumes", "volume-mounts"];

/// The values of `imagePullPolicy` (Kubernetes: "Container images").
const POLICIES: [&str; 3] = ["Always", "IfNotPresent", "Never"];

/// Checks a label.
pub fn check(report: &Report, fields: &Fields<'_>, kind: KubernetesKind, is_pod: bool) {
    if report.keeps_keys() {
        return; // what is asked for here would count as known
    }
    if !is_pod {
        check_namespace(report, fields, kind);
        return;
    }
    let Some(spec) = fields.raw("spec").filter(|spec| !spec.is_null()) else {
        check_container(report, fields);
        return;
    };
    let is_empty = spec.entries().is_some_and(<[_]>::is_empty);
    if is_empty {
        check_container(report, fields);
    } else if spec.entries().is_some() && !has_container(spec) {
        let message = format!("{}: its `spec` has no `containers`, and Kubernetes refuses such a pod", fields.what);
        report.lapse(spec.at, message, Some("write them as in a pod: `containers: [{name: …, image: …}]`".to_owned()));
    }
    if report.strict() {
        let has_key = |key: &str| kind != KubernetesKind::Namespaces || key != "image-pull-secrets";
        for key in OF_THE_CONTAINER.into_iter().filter(|key| fields.raw(key).is_some() && has_key(key)) {
            let message = format!("{}: `{key}` beside `spec`, which describes the whole pod", fields.what);
            fields.know(key);
            let help =
                if is_empty { "leave the empty `spec` out" } else { "say it in `spec`, or leave one of the two out" };
            report.error(fields.at_key(key), message, Some(help.to_owned()));
        }
    }
}

fn has_container(spec: &Node) -> bool {
    spec.get("containers").and_then(|list| list.items()).is_some_and(|items| !items.is_empty())
}

/// A container of no image is no container.
fn check_container(report: &Report, fields: &Fields<'_>) {
    if fields.lacks(&["image"]) && (fields.raw("spec").is_some() || fields.lacks(&["spec"])) {
        let message = format!("{} has neither `image` nor `spec`, and Kubernetes refuses such a pod", fields.what);
        report.lapse(fields.at(), message, Some("say which image its pod runs".to_owned()));
    }
    let policy = fields.raw("image-pull").and_then(Node::as_text).unwrap_or_default();
    if !policy.is_empty() && !POLICIES.contains(&policy) {
        let message =
            format!("{}: there is no `image-pull` `{policy}`, and Kubernetes refuses such a pod", fields.what);
        let help = suggest(policy, POLICIES.into_iter()).map_or_else(
            || format!("write one of {}", POLICIES.join(", ")),
            |meant| format!("did you mean `{meant}`?"),
        );
        report.lapse(fields.at_key("image-pull"), message, Some(help));
    }
}

/// A namespace, or a project, runs nothing.
fn check_namespace(report: &Report, fields: &Fields<'_>, kind: KubernetesKind) {
    let node = if kind == KubernetesKind::Projects { "project" } else { "namespace" };
    let is_there = |key: &&str| fields.raw(key).is_some_and(|value| !value.is_null());
    let keys: Vec<_> = OF_THE_CONTAINER.into_iter().chain(["node-selector", "spec"]).filter(is_there).collect();
    if let Some(first) = keys.first() {
        let have = if keys.len() == 1 { "has" } else { "have" };
        let named = keys.iter().map(|key| format!("`{key}`")).collect::<Vec<_>>().join(", ");
        let message = format!("{}: {named} {have} no effect, since its node is an empty {node}", fields.what);
        let help = "write `type: pod` for a node that runs something, or leave them out";
        report.warning(fields.at_key(first), message, Some(help.to_owned()));
    }
}
