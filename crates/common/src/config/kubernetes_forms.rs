//! The two forms of a pod's label, and what nobody makes a pod from.
//!
//! Either its keys describe one container, or `spec` is the pod as it is; a namespace has neither. Upstream's schema tells the
//! two apart by `spec`, even by an empty one, which its driver then takes for none; it asks for an image in `openshiftpods`
//! only, and for nothing within `spec` ([`kubernetes_spec`]). What the API refuses in each launch is an error of
//! `config-validate`; daemons go on with a warning, since a webhook of the cluster may complete a pod.

use super::{
    KubernetesKind, advice::suggest, fields::Fields, kubernetes_spec, report::Report, shapes::shown, yaml::Node,
};

/// What describes the container and nothing else; `cpu` and its like count for quota, too.
const OF_THE_CONTAINER: [&str; 8] =
    ["image", "image-pull", "image-pull-secrets", "env", "privileged", "scheduler-name", "volumes", "volume-mounts"];

/// Keys that stand beside `spec` in no schema of upstream's, and what says the same within it.
const WITHIN_SPEC: [(&str, &str); 20] = [
    ("image", "as the `image` of a container"),
    ("image-pull", "as `imagePullPolicy: VALUE` of a container"),
    ("image-pull-secrets", "as `imagePullSecrets`"),
    ("env", "as `env` of a container"),
    ("privileged", "as `securityContext: {privileged: VALUE}` of a container"),
    ("scheduler-name", "as `schedulerName: VALUE`"),
    ("volumes", "as `volumes`"),
    ("volume-mounts", "as `volumeMounts` of a container"),
    ("node-selector", "as `nodeSelector`"),
    ("cpu", "as `resources: {requests: {cpu: VALUE}}` of CONTAINER"),
    ("memory", "as `resources: {requests: {memory: VALUEMi}}` of CONTAINER"),
    ("storage", "as `resources: {requests: {ephemeral-storage: VALUEM}}` of CONTAINER"),
    ("cpu-limit", "as `resources: {limits: {cpu: VALUE}}` of CONTAINER"),
    ("memory-limit", "as `resources: {limits: {memory: VALUEMi}}` of CONTAINER"),
    ("storage-limit", "as `resources: {limits: {ephemeral-storage: VALUEM}}` of CONTAINER"),
    ("gpu", "as `resources: {limits: {RESOURCE: VALUE}}` of CONTAINER"),
    ("gpu-resource", "as `resources: {limits: {VALUE: 1}}` of CONTAINER"),
    ("extra-resources", ""),
    ("python-path", ""),
    ("shell-type", ""),
];

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
    if fields.raw("spec").is_some_and(Node::is_null) && fields.raw("containers").is_some() {
        let message = format!("{}: `spec` has no value, and `containers` stands beside it", fields.what);
        let help = "indent `containers`, and what else is of the pod, more than `spec`: then it is a part of that";
        report.lapse(fields.at_key("containers"), message, Some(help.to_owned()));
        fields.settle("spec");
        fields.settle("containers");
        return;
    }
    let Some(spec) = fields.raw("spec").filter(|spec| !spec.is_null()) else {
        check_container(report, fields, kind);
        return;
    };
    let is_empty = spec.entries().is_some_and(<[_]>::is_empty);
    if is_empty {
        check_container(report, fields, kind);
    } else if spec.entries().is_some() {
        kubernetes_spec::check(fields, spec);
    }
    if report.strict() {
        let has_key = |key: &str| kind != KubernetesKind::Namespaces || key != "image-pull-secrets";
        for (key, within) in WITHIN_SPEC.into_iter().filter(|(key, _)| has_key(key)) {
            let Some(value) = fields.raw(key) else { continue };
            let message = format!("{}: `{key}` beside `spec`, which describes the whole pod", fields.what);
            fields.know(key);
            let help = match within {
                _ if is_empty => "leave the empty `spec` out".to_owned(),
                "" => "leave it out: Python Nodepool's config-validate refuses it there".to_owned(),
                within => format!("write it within `spec`, {}", filled(within, key, value, spec)),
            };
            let at = if is_empty { spec.at } else { fields.at_key(key) };
            report.error(at, message, Some(help));
        }
    }
}

/// The place within `spec` for a value.
fn filled(within: &str, key: &str, value: &Node, spec: &Node) -> String {
    let containers = spec.get("containers").and_then(|list| list.items()).unwrap_or_default();
    let container = match containers {
        [one] => one
            .get("name")
            .and_then(|name| name.as_text())
            .map(|name| format!("`spec.containers[0]`, container `{name}`")),
        _ => None,
    };
    let container = container.unwrap_or_else(|| "its container, `spec.containers[…]`".to_owned());
    let value = shown(value);
    // With a unit of its own it is what Kubernetes takes already.
    let has_unit = value.ends_with(|c: char| c.is_ascii_alphabetic());
    let unit = if key.starts_with("memory") { "Mi" } else { "M" };
    let amount = if has_unit { value.clone() } else { format!("{value}{unit}") };
    let of_amount = key.starts_with("memory") || key.starts_with("storage");
    let within = if of_amount {
        within.replace("VALUEMi", &amount).replace("VALUEM", &amount)
    } else {
        within.replace("VALUE", &value)
    };
    within.replace("CONTAINER", &container)
}

/// A container of no image is no container.
fn check_container(report: &Report, fields: &Fields<'_>, kind: KubernetesKind) {
    let has_empty_spec = fields.raw("spec").is_some_and(|spec| !spec.is_null());
    if fields.lacks(&["image"]) && (has_empty_spec || fields.lacks(&["spec"])) {
        if let Some(spec) = fields.raw("spec").filter(|_| has_empty_spec) {
            let message = format!("{}: its `spec` is empty, and Kubernetes refuses such a pod", fields.what);
            let help = "write `image: REGISTRY/NAME:TAG` in its place, or fill it in: `spec: {containers: [{name: main, image: \
                        REGISTRY/NAME:TAG, command: [sleep, infinity]}]}`";
            report.lapse(spec.at, message, Some(help.to_owned()));
            return;
        }
        let message = format!("{} has neither `image` nor `spec`, and Kubernetes refuses such a pod", fields.what);
        let other = node_without_image(kind)
            .map_or_else(String::new, |node| format!(", or `type: {node}` for a node that is an empty {node}"));
        let help = format!("say which image its pod runs, `image: REGISTRY/NAME:TAG`{other}");
        report.lapse(fields.at(), message, Some(help));
    }
    let mounts = fields.raw("volume-mounts");
    kubernetes_spec::mounts(fields, "its pod", "volume-mounts", mounts, fields.raw("volumes"));
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

/// What the driver calls a node that runs nothing, if it has such.
pub const fn node_without_image(kind: KubernetesKind) -> Option<&'static str> {
    match kind {
        KubernetesKind::Namespaces => Some("namespace"),
        KubernetesKind::Projects => Some("project"),
        KubernetesKind::Pods => None,
    }
}

/// A namespace, or a project, runs nothing.
fn check_namespace(report: &Report, fields: &Fields<'_>, kind: KubernetesKind) {
    let node = node_without_image(kind).unwrap_or("pod");
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
