//! What a Kubernetes API surely refuses in a pod's `spec`, and what it drops from it.
//!
//! `spec` goes to the API as it is, and the API says what is wrong with it at each launch, to a log that its author does not
//! see. What it decides from the document alone, in all versions of today (Kubernetes: `core/v1` of the API reference,
//! `pkg/apis/core/validation`), is told from the file. A webhook of the cluster may complete a pod before it is looked at, so
//! that to the daemons all of this is a warning.

use std::collections::HashSet;

use super::{
    fields::Fields,
    kubernetes_names, shapes,
    suggest::suggest,
    unserved::{items, text},
    yaml::{Mark, Meaning, Node, Value},
};

/// The keys of a pod's `spec` (Kubernetes 1.36).
const OF_PODS: &[&str] = &[
    "activeDeadlineSeconds",
    "affinity",
    "automountServiceAccountToken",
    "containers",
    "dnsConfig",
    "dnsPolicy",
    "enableServiceLinks",
    "ephemeralContainers",
    "hostAliases",
    "hostIPC",
    "hostNetwork",
    "hostPID",
    "hostUsers",
    "hostname",
    "hostnameOverride",
    "imagePullSecrets",
    "initContainers",
    "nodeName",
    "nodeSelector",
    "os",
    "overhead",
    "preemptionPolicy",
    "priority",
    "priorityClassName",
    "readinessGates",
    "resourceClaims",
    "resources",
    "restartPolicy",
    "runtimeClassName",
    "schedulerName",
    "schedulingGates",
    "securityContext",
    "serviceAccount",
    "serviceAccountName",
    "setHostnameAsFQDN",
    "shareProcessNamespace",
    "subdomain",
    "terminationGracePeriodSeconds",
    "tolerations",
    "topologySpreadConstraints",
    "volumes",
];

/// The keys of a container in it.
const OF_CONTAINERS: &[&str] = &[
    "args",
    "command",
    "env",
    "envFrom",
    "image",
    "imagePullPolicy",
    "lifecycle",
    "livenessProbe",
    "name",
    "ports",
    "readinessProbe",
    "resizePolicy",
    "resources",
    "restartPolicy",
    "restartPolicyRules",
    "securityContext",
    "startupProbe",
    "stdin",
    "stdinOnce",
    "terminationMessagePath",
    "terminationMessagePolicy",
    "tty",
    "volumeDevices",
    "volumeMounts",
    "workingDir",
];

/// Those of a container's keys that are lists.
const LISTS: [&str; 6] = ["args", "command", "env", "envFrom", "ports", "volumeMounts"];

/// How to write the containers of a pod.
pub const CONTAINERS: &str = "write them as in a pod: `containers: [{name: …, image: …}]`";

/// Checks the `spec` of a label, which is a mapping and not empty.
pub fn check(label: &Fields<'_>, spec: &Node) {
    let pod = Part { label, what: "its `spec`".to_owned() };
    if let Some(inner) = spec.get("spec").filter(|inner| inner.entries().is_some()) {
        pod.refused(
            inner.at,
            "has a `spec` of its own: it is a whole manifest",
            "write only what stands below that second `spec`; labels and annotations are keys of this label".to_owned(),
        );
        return;
    }
    pod.drops(spec, OF_PODS);
    let Some(containers) = spec.get("containers").filter(|list| !list.is_null()) else {
        let is_meant = |key: &str| suggest(key, OF_PODS.iter().copied()) == Some("containers");
        let misspelt = spec.entries().unwrap_or_default().iter().find(|(key, _)| key.as_text().is_some_and(is_meant));
        match misspelt {
            Some((key, _)) => pod.refused(key.at, "has no `containers`", "did you mean `containers`?".to_owned()),
            None => pod.refused(spec.at, "has no `containers`", CONTAINERS.to_owned()),
        }
        return;
    };
    let Some(list) = containers.items() else {
        let help = if containers.entries().is_some() {
            shapes::as_list("containers", containers)
        } else {
            CONTAINERS.to_owned()
        };
        pod.refused(
            containers.at,
            format!("has {} for `containers`, which must be a list", containers.describe()),
            help,
        );
        return;
    };
    if list.is_empty() {
        pod.refused(containers.at, "has no `containers`", CONTAINERS.to_owned());
    }
    let volumes = spec.get("volumes");
    let mut names = HashSet::new();
    for container in list.iter().map(AsRef::as_ref).chain(items(spec, "initContainers")) {
        pod.container(container, volumes.map(AsRef::as_ref), &mut names);
    }
}

/// Checks mounts against the volumes of the same pod. `of`: what has the mounts; `what`: which key of it.
pub fn mounts(label: &Fields<'_>, of: &str, what: &str, mounts: Option<&Node>, volumes: Option<&Node>) {
    let part = Part { label, what: of.to_owned() };
    let volumes: Option<Vec<&str>> = match volumes {
        Some(volumes) if !volumes.is_null() => {
            volumes.items().map(|list| list.iter().filter_map(|volume| text(volume, "name")).collect())
        }
        _ => Some(Vec::new()),
    };
    for mount in mounts.and_then(Node::items).unwrap_or_default() {
        let Some(name) = text(mount, "name") else { continue };
        if let Some(volumes) = &volumes
            && !volumes.contains(&name)
        {
            let help = suggest(name, volumes.iter().copied()).map_or_else(
                || format!("add `- name: {name}` to `volumes`, with what it is, as `emptyDir: {{}}`"),
                |meant| format!("did you mean `{meant}`?"),
            );
            part.refused(mount.at, format!("mounts `{name}` in `{what}`, and there is no such volume"), help);
        }
        if mount.get("mountPath").is_none_or(|path| path.is_null() || path.as_text() == Some("")) {
            let help = format!("write `{{name: {name}, mountPath: /PATH}}`");
            part.refused(mount.at, format!("mounts `{name}` in `{what}` without a `mountPath`"), help);
        }
    }
}

/// A part of a label's pod.
struct Part<'a> {
    label: &'a Fields<'a>,
    /// What it is, for messages.
    what: String,
}

impl Part<'_> {
    fn refused(&self, at: Mark, problem: impl AsRef<str>, help: String) {
        let message =
            format!("{}: {} {}, and Kubernetes refuses such a pod", self.label.what, self.what, problem.as_ref());
        self.label.report().lapse(at, message, Some(help));
    }

    /// Warns of keys that only look like one that there is.
    fn drops(&self, node: &Node, known: &[&str]) {
        for (key, _) in node.entries().unwrap_or_default() {
            let Some(name) = key.as_text().filter(|name| !known.contains(name)) else { continue };
            // The key without which there is no pod is told as missing.
            let meant = suggest(name, known.iter().copied());
            if let Some(meant) = meant.filter(|meant| !["containers", "name", "image"].contains(meant)) {
                let message =
                    format!("{}: Kubernetes knows no `{name}` in {}, and drops it", self.label.what, self.what);
                self.label.report().warning(key.at, message, Some(format!("did you mean `{meant}`?")));
            }
        }
    }

    fn container<'n>(&self, node: &'n Node, volumes: Option<&Node>, names: &mut HashSet<&'n str>) {
        if node.entries().is_none() {
            let help = "write `- name: …`, and its `image` below `name`".to_owned();
            self.refused(node.at, format!("has {} for a container", node.describe()), help);
            return;
        }
        let name = text(node, "name").filter(|name| !name.is_empty());
        let what = name
            .map_or_else(|| "a container of its `spec`".to_owned(), |name| format!("container `{name}` of its `spec`"));
        let this = Part { label: self.label, what };
        this.drops(node, OF_CONTAINERS);
        match name {
            None => this.needs(node, "name", "give it one: lower-case letters, digits and `-`, as `name: main`"),
            Some(name) => {
                let at = node.get("name").map_or(node.at, |name| name.at);
                if let Some(why) = kubernetes_names::dns_label(name, 0) {
                    this.refused(at, format!("cannot have that name: {why}"), "give it another name".to_owned());
                } else if !names.insert(name) {
                    this.refused(at, "is not the only one of that name", "give it another name".to_owned());
                }
            }
        }
        if node.get("image").is_none_or(|image| image.is_null() || image.as_text() == Some("")) {
            this.needs(node, "image", "say which image it runs: `image: REGISTRY/NAME:TAG`");
        }
        for key in LISTS {
            if let Some(value) = node.get(key).filter(|value| !value.is_null() && value.items().is_none()) {
                this.refused(
                    value.at,
                    format!("has {} for `{key}`, which must be a list", value.describe()),
                    as_list(key, value),
                );
            }
        }
        for variable in items(node, "env").filter(|variable| variable.entries().is_some()) {
            if text(variable, "name").is_none_or(str::is_empty) {
                this.refused(
                    variable.at,
                    "has a variable without a `name` in `env`",
                    "write `- {name: …, value: …}`".to_owned(),
                );
            }
        }
        this.resources(node);
        mounts(self.label, &this.what, "volumeMounts", node.get("volumeMounts").map(AsRef::as_ref), volumes);
    }

    /// Tells of a key that must be there, at the one that was meant for it if there is one.
    fn needs(&self, node: &Node, key: &str, help: &str) {
        let is_meant = |name: &str| !OF_CONTAINERS.contains(&name) && suggest(name, [key].into_iter()).is_some();
        let misspelt = node.entries().unwrap_or_default().iter().find(|(name, _)| name.as_text().is_some_and(is_meant));
        let (at, help) = misspelt
            .map_or_else(|| (node.at, help.to_owned()), |(name, _)| (name.at, format!("did you mean `{key}`?")));
        self.refused(at, format!("has no `{key}`"), help);
    }

    /// Amounts that are none, and requests above their limit.
    fn resources(&self, container: &Node) {
        let Some(resources) = container.get("resources") else { return };
        for part in ["requests", "limits"] {
            for (name, amount) in resources.get(part).and_then(|part| part.entries()).unwrap_or_default() {
                let Value::Scalar(meaning, written) = &amount.value else { continue };
                if *meaning != Meaning::Null && quantity(written).is_none() {
                    let name = name.as_text().unwrap_or("?");
                    let problem = format!("has `{written}` as its `{name}` in `{part}`, which is no amount");
                    let help =
                        "write a number, with a unit of Kubernetes or without: `2`, `500m`, `512Mi`, `4Gi`".to_owned();
                    self.refused(amount.at, problem, help);
                }
            }
        }
        let amount = |part: &str, name: &str| match &resources.get(part)?.get(name)?.value {
            Value::Scalar(_, text) => Some((text.clone(), quantity(text)?)),
            _ => None,
        };
        for (name, request) in resources.get("requests").and_then(|part| part.entries()).unwrap_or_default() {
            let Some(name) = name.as_text() else { continue };
            if let (Some(asked), Some(most)) = (amount("requests", name), amount("limits", name))
                && asked.1 > most.1
            {
                let problem = format!("asks for {} of `{name}`, more than its limit, {}", asked.0, most.0);
                self.refused(request.at, problem, "raise the limit, or ask for less".to_owned());
            }
        }
    }
}

/// How to write a list in the place of something else.
fn as_list(key: &str, value: &Node) -> String {
    match (key, &value.value) {
        ("env" | "volumeMounts" | "ports" | "envFrom", _) => {
            let first = value
                .entries()
                .and_then(|entries| entries.first())
                .map_or_else(|| "…".to_owned(), |(key, _)| shapes::shown(key));
            if key == "env" {
                format!("write `- {{name: {first}, value: …}}`")
            } else {
                format!("write `{key}:`, and below it items with a dash: `- {first}: …`")
            }
        }
        (_, Value::Scalar(_, text)) if text.len() <= 60 && !text.contains(['[', ']', '\n']) => {
            let words: Vec<_> = text.split_whitespace().map(|word| format!("'{word}'")).collect();
            format!("write `{key}: [{}]`", words.join(", "))
        }
        _ => format!("write `{key}: ['…', '…']`"),
    }
}

/// A quantity of Kubernetes (`500m`, `1Gi`, `2e3`) as a number.
fn quantity(text: &str) -> Option<f64> {
    let text = text.trim();
    let end = text.find(|c: char| !c.is_ascii_digit() && !matches!(c, '.' | '+' | '-')).unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let number: f64 = number.parse().ok()?;
    let factor = match unit {
        "" => 1.0,
        "n" => 1e-9,
        "u" => 1e-6,
        "m" => 1e-3,
        "k" => 1e3,
        "M" => 1e6,
        "G" => 1e9,
        "T" => 1e12,
        "P" => 1e15,
        "E" => 1e18,
        "Ki" => 1024.0,
        "Mi" => 1024_f64.powi(2),
        "Gi" => 1024_f64.powi(3),
        "Ti" => 1024_f64.powi(4),
        "Pi" => 1024_f64.powi(5),
        "Ei" => 1024_f64.powi(6),
        exponent => 10_f64.powi(exponent.strip_prefix(['e', 'E'])?.parse().ok()?),
    };
    Some(number * factor)
}

#[cfg(test)]
mod tests {
    use super::quantity;

    #[test]
    fn quantities_are_read_as_kubernetes_reads_them() {
        for (text, number) in [("2", 2.0), ("500m", 0.5), ("1Gi", 1_073_741_824.0), ("1.5G", 1.5e9), ("2e3", 2000.0)] {
            assert!(quantity(text).is_some_and(|read| (read - number).abs() < 1e-9), "{text}");
        }
        for text in ["", "2 Gi", "1GB", "two", "4gi", "1,5"] {
            assert_eq!(quantity(text), None, "{text}");
        }
    }
}
