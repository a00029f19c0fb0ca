//! The keys of a `kubernetes`, `openshift` or `openshiftpods` provider.
//!
//! One reader for the three: `kind` says where they differ. Two spellings of nodepool 11.0.0 are repaired:
//! `default-label-extra-resources` counts (upstream validates it and reads another name), and so does `max-pods`
//! (documented as an alias of `max-servers`, and never read).

use indexmap::IndexMap;

use super::{
    Kubernetes, KubernetesKind, KubernetesLabel, PodContainer, PodResources, PodTemplate, Pool, PoolLabel,
    fields::Fields,
    kubernetes_forms,
    kubernetes_names::{self, Refused},
    names,
    provider_parts::{self, Common, Scope},
    report::Report,
    shapes,
    yaml::{Meaning, Node, Value},
};
use crate::model::{Json, LabelName, Object, Resources};

/// What a provider's keys make the default of its pools, and what these know of one another.
struct Defaults {
    max_servers: Option<f64>,
    limits: Resources,
    /// The names that its pools have.
    pool_names: Vec<String>,
}

/// Reads what the driver needs, and the pools as the planner sees them.
pub fn read(
    report: &Report,
    fields: &Fields<'_>,
    kind: KubernetesKind,
    common: &Common,
    scope: &Scope<'_>,
) -> (Kubernetes, Vec<Pool>) {
    let context = match kind {
        KubernetesKind::Namespaces => fields.filled("context"),
        KubernetesKind::Projects | KubernetesKind::Pods => fields.required_text("context"),
    };
    if let Some(why) = fields.raw("name").and_then(Node::as_text).and_then(kubernetes_names::label_value) {
        let message = format!("{}: its name is the value of a label, which Kubernetes refuses: {why}", fields.what);
        let help = "give it another name";
        report.error(fields.at_key("name"), message, Some(help.to_owned()));
    }
    let defaults = defaults(report, fields, kind);
    let mut own = IndexMap::new();
    let read =
        |part: &Report, fields: &Fields<'_>, name: &str| pool(part, fields, name, kind, common, &defaults, scope);
    let mut pools = Vec::new();
    for (name, (pool, mut labels)) in provider_parts::pools(report, fields, read) {
        labels.retain(|name, _| pool.labels.contains_key(name)); // of equal names the last counts, usable or not
        own.insert(name, labels);
        pools.push(pool);
    }
    (Kubernetes { kind, context, pools: own }, pools)
}

fn defaults(report: &Report, fields: &Fields<'_>, kind: KubernetesKind) -> Defaults {
    // Upstream's kubernetes driver accepts `max-servers` here and forgets it; its documentation means what we do.
    let key = match kind {
        KubernetesKind::Namespaces => "max-servers",
        KubernetesKind::Projects => "max-projects",
        KubernetesKind::Pods => "max-pods",
    };
    let mut max_servers = fields.limit(key);
    if kind != KubernetesKind::Namespaces && !report.strict() {
        // Upstream's schema rejects these here, its drivers read them.
        for key in ["max-projects", "max-servers"] {
            let other = fields.limit(key);
            max_servers = max_servers.or(other);
        }
    }
    let mut limits = Resources::new();
    read_limits(fields, &mut limits);
    let pools = fields.raw("pools").and_then(Node::items).unwrap_or_default();
    let pool_names = pools.iter().filter_map(|pool| pool.get("name")?.as_text().map(str::to_owned)).collect();
    Defaults { max_servers, limits, pool_names }
}

fn read_limits(fields: &Fields<'_>, limits: &mut Resources) {
    for (key, resource) in [("max-cores", "cores"), ("max-ram", "ram")] {
        if let Some(limit) = fields.limit(key) {
            limits.set(resource, limit);
        }
    }
    for (name, limit) in fields.number_map("max-resources") {
        let at = fields.get("max-resources").and_then(|map| Some(map.get(&name)?.at));
        fields.check_limit(at.unwrap_or_else(|| fields.at_key("max-resources")), &name, limit);
        limits.set(&name, limit);
    }
}

/// What a pool's `default-label-*` give its labels.
struct LabelDefaults {
    requests: PodResources,
    limits: PodResources,
    extra: IndexMap<String, f64>,
}

fn pool(
    report: &Report,
    fields: &Fields<'_>,
    name: &str,
    kind: KubernetesKind,
    common: &Common,
    defaults: &Defaults,
    scope: &Scope<'_>,
) -> (Pool, IndexMap<LabelName, KubernetesLabel>) {
    let mut pool = provider_parts::pool(fields, name, common);
    if pool.limits.limit("instances").is_infinite()
        && let Some(max) = defaults.max_servers
    {
        pool.limits.set("instances", max);
        pool.disabled = max <= 0.0;
    }
    for (name, limit) in defaults.limits.iter() {
        pool.limits.set(name, limit);
    }
    read_limits(fields, &mut pool.limits);
    let of_labels = LabelDefaults {
        requests: resources(report, fields, ["default-label-cpu", "default-label-memory", "default-label-storage"]),
        limits: resources(
            report,
            fields,
            ["default-label-cpu-limit", "default-label-memory-limit", "default-label-storage-limit"],
        ),
        extra: {
            let mut extra = fields.number_map("default-label-extra-resources");
            if !report.strict() {
                extra.extend(fields.number_map("default-label-extra_resources")); // what upstream reads
            }
            extra
        },
    };
    let refused = refused_pool_name(name, kind);
    if let Some(refused) = refused.as_ref().filter(|_| report.strict()) {
        report.error(
            fields.at_key("name"),
            format!("{}: {refused}", fields.what),
            Some(pool_name_help(name, &defaults.pool_names)),
        );
    }
    let mut labels: IndexMap<LabelName, KubernetesLabel> = IndexMap::new();
    for node in fields.list("labels") {
        let read = |part: &Report, label_fields: &Fields<'_>, label_name: &LabelName| {
            if let Some(refused) = refused.as_ref().filter(|_| !part.strict()) {
                let message = format!("{}: {refused}", label_fields.what);
                part.error(fields.at_key("name"), message, Some(pool_name_help(name, &defaults.pool_names)));
            }
            Some(label(part, label_fields, label_name.clone(), kind, &of_labels))
        };
        if let Some((name, label)) = provider_parts::label(report, node, fields, &mut pool, scope, read) {
            pool.labels.insert(name.clone(), PoolLabel { name: name.clone(), diskimage: None });
            labels.insert(name, label);
        }
    }
    (pool, labels)
}

/// Why the API refuses what is made in a pool of that name, all of it: the pool's namespace, or those of its nodes.
fn refused_pool_name(name: &str, kind: KubernetesKind) -> Option<String> {
    let (object, room) = match kind {
        KubernetesKind::Pods => ("that of its namespace", 0),
        KubernetesKind::Namespaces | KubernetesKind::Projects => {
            ("the beginning of its nodes' namespaces", kubernetes_names::NODE_SUFFIX)
        }
    };
    let why = kubernetes_names::dns_label(name, room)?;
    Some(format!("the name of the pool is {object}, and Kubernetes refuses `{name}`: {why}"))
}

/// A name that the API takes, made of one that it refuses. `taken`: the names of the provider's pools.
fn pool_name_help(name: &str, taken: &[String]) -> String {
    let fits = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' };
    let meant: String = name.chars().map(fits).take(40).collect();
    let meant = Some(meant.trim_matches('-')).filter(|meant| !meant.is_empty()).unwrap_or("main");
    let free = names::free(meant, |name| taken.iter().any(|taken| taken == name));
    format!("call it otherwise, as `{free}`")
}

fn resources(report: &Report, fields: &Fields<'_>, [cpu, memory, storage]: [&'static str; 3]) -> PodResources {
    PodResources {
        cpu: millicores(report, fields, cpu),
        memory: fields.amount(memory),
        storage: fields.amount(storage),
    }
}

/// A number of cores, as thousandths of one. Upstream's schema wants it whole, and its daemons cut the fraction off: 0.5 is
/// no request and no limit at all (`nodepool 11.0.0: driver/kubernetes/provider.py getPodBodyNodepool`).
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // it is between 0 and 1e9
fn millicores(report: &Report, fields: &Fields<'_>, key: &'static str) -> Option<u64> {
    let node = fields.get(key)?;
    let cores = match &node.value {
        Value::Scalar(Meaning::Float(cores), _) => *cores,
        Value::Scalar(Meaning::Text, text) if is_part_of_a_cpu(text) => {
            let message = format!("must be a whole number of CPUs, not {}", node.describe());
            fields.wrong(node.at, key, message, whole_cpus(fields, key, text));
            return None;
        }
        _ => return fields.amount(key).map(|cores| cores.saturating_mul(1000)),
    };
    if cores.fract() == 0.0 || !(0.0..1e6).contains(&cores) {
        return fields.amount(key).map(|cores| cores.saturating_mul(1000));
    }
    let thousandths = (cores * 1000.0).round().max(1.0) as u64;
    let whole = cores.trunc();
    let message = format!(
        "{}: `{key}` must be a whole number of CPUs, not {cores}: here it counts as {thousandths}m, and Python Nodepool cuts \
         it off to {whole}{}",
        fields.what,
        if whole == 0.0 { ", which asks for none and limits nothing" } else { "" }
    );
    report.lapse(node.at, message, Some(whole_cpus(fields, key, &format!("{thousandths}m"))));
    Some(thousandths)
}

/// What to do where part of a CPU is meant: only a `spec` can ask for that.
fn whole_cpus(fields: &Fields<'_>, key: &str, amount: &str) -> String {
    let part = if key.ends_with("-limit") { "limits" } else { "requests" };
    let amount = amount.trim();
    if key.starts_with("default-label") {
        return format!(
            "write a whole number without quotes; a label whose pod needs less has a `spec`, with \
             `spec.containers[0].resources: {{{part}: {{cpu: {amount}}}}}`"
        );
    }
    let text = |key: &str| fields.raw_text(key).filter(|text| text.len() < 100);
    let image = text("image").unwrap_or("IMAGE");
    let name = text("name").filter(|name| kubernetes_names::dns_label(name, 0).is_none()).unwrap_or("main");
    let number = |key: &str| match &fields.raw(key)?.value {
        Value::Scalar(_, text) if text.parse::<u64>().is_ok() => Some(text),
        _ => None,
    };
    let asked = |own: &str, other: &str| {
        let cpu = if key == own { Some(amount.to_owned()) } else { number(own).map(ToString::to_string) };
        let memory = number(other).map(|memory| format!("{memory}Mi"));
        let amounts = [("cpu", cpu), ("memory", memory)];
        let amounts = amounts.into_iter().filter_map(|(name, amount)| Some(format!("{name}: {}", amount?)));
        amounts.collect::<Vec<_>>().join(", ")
    };
    let parts = [("requests", asked("cpu", "memory")), ("limits", asked("cpu-limit", "memory-limit"))];
    let parts = parts.into_iter().filter(|(_, amounts)| !amounts.is_empty());
    let parts: Vec<_> = parts.map(|(part, amounts)| format!("{part}: {{{amounts}}}")).collect();
    format!(
        "write a whole number without quotes; a pod that needs less is written as `spec: {{containers: [{{name: {name}, image: \
         {image}, command: [sleep, infinity], resources: {{{}}}}}]}}`, in the place of `image`, `{key}` and the other keys \
         of the container",
        parts.join(", ")
    )
}

/// `0.75`, `500m`: texts, of which Python's daemons make nothing.
fn is_part_of_a_cpu(text: &str) -> bool {
    let text = text.trim();
    text.strip_suffix('m').unwrap_or(text).parse::<f64>().is_ok_and(f64::is_finite) && text.parse::<i64>().is_err()
}

fn label(
    report: &Report,
    fields: &Fields<'_>,
    name: LabelName,
    kind: KubernetesKind,
    defaults: &LabelDefaults,
) -> KubernetesLabel {
    let is_pod = is_pod(report, fields, kind);
    kubernetes_forms::check(report, fields, kind, is_pod);
    let spec = fields.json_map("spec").filter(|spec| !spec.is_empty());
    let labels = fields.str_map("labels").unwrap_or_default();
    let dynamic_labels = fields.str_map("dynamic-labels").unwrap_or_default();
    let annotations = fields.str_map("annotations").unwrap_or_default();
    for (key, refused) in [
        ("labels", kubernetes_names::labels(&labels, false)),
        ("dynamic-labels", kubernetes_names::labels(&dynamic_labels, true)),
        ("annotations", kubernetes_names::annotations(&annotations)),
    ] {
        for Refused { key: name, is_key, message } in refused {
            let entries = fields.get(key).and_then(|map| map.entries()).unwrap_or_default();
            let entry = entries.iter().find(|(key, _)| key.as_text() == Some(&name));
            let at = entry.map_or_else(|| fields.at_key(key), |(key, value)| if is_key { key.at } else { value.at });
            let message = format!("{}: Kubernetes refuses this in `{key}`: {message}", fields.what);
            report.error(at, message, Some("write it otherwise, or leave it out".to_owned()));
        }
    }
    if let Some(refused) = refused_label_name(name.as_str(), kind, is_pod, spec.is_some()) {
        let help = "give it another name, at the top level and in Zuul's nodesets too";
        report.error(fields.at_key("name"), format!("{}: {refused}", fields.what), Some(help.to_owned()));
    }
    // Beside `spec`, upstream's schema has no key of the other form; at run time they count for quota, not for the pod.
    let has_container_keys = fields.get("spec").is_none() || !report.strict();
    let (container, own) = if has_container_keys {
        let (container, own) = container(report, fields, kind, defaults);
        if is_pod && spec.is_none() {
            check_limits(report, fields, &container);
        }
        (container, own)
    } else {
        (PodContainer { requests: defaults.requests, ..PodContainer::default() }, OwnKeys::default())
    };
    let mut resources = Resources::new().with("instances", 1.0);
    let PodResources { cpu, memory, storage } = container.requests;
    for (name, amount, unit) in [("cores", cpu, 1000.0), ("ram", memory, 1.0), ("ephemeral-storage", storage, 1.0)] {
        if let Some(amount) = given(amount) {
            resources.set(name, as_number(amount) / unit);
        }
    }
    if let Some((resource, amount)) = &container.gpu {
        resources.set(resource, *amount);
    }
    for (resource, amount) in defaults.extra.iter().chain(&own.extra) {
        resources.set(resource, *amount);
    }
    KubernetesLabel {
        name,
        pod: is_pod.then(|| spec.map_or_else(|| PodTemplate::Container(Box::new(container)), PodTemplate::Spec)),
        python_path: own.python_path.unwrap_or_else(|| "auto".to_owned()),
        shell_type: own.shell_type,
        resources,
        labels,
        dynamic_labels,
        annotations,
    }
}

/// Why the API refuses what is made for a label of that name: a pod and its container have it for their name, everything
/// has it for the value of a label.
fn refused_label_name(name: &str, kind: KubernetesKind, is_pod: bool, has_spec: bool) -> Option<String> {
    let room = if kind == KubernetesKind::Pods { kubernetes_names::NODE_SUFFIX } else { 0 };
    let (object, why) = match (is_pod, has_spec) {
        (true, false) => ("that of a container", kubernetes_names::dns_label(name, 0)),
        (true, true) => ("that of a pod", kubernetes_names::dns_subdomain(name, room)),
        (false, _) => ("the value of a label", None),
    };
    let (object, why) = match why {
        Some(why) => (object, why),
        None => ("the value of a label", kubernetes_names::label_value(name)?),
    };
    Some(format!("its name is also {object}, and Kubernetes refuses `{name}` there: {why}"))
}

/// What of the container's form is no matter of the container.
#[derive(Default)]
struct OwnKeys {
    python_path: Option<String>,
    shell_type: Option<String>,
    extra: IndexMap<String, f64>,
}

/// Whether the label's node is a pod: `type`. Upstream takes any text, and any but one for the same.
fn is_pod(report: &Report, fields: &Fields<'_>, kind: KubernetesKind) -> bool {
    let Some(other) = kubernetes_forms::node_without_image(kind) else {
        if !report.strict() {
            fields.know("type"); // whatever it says
        }
        return true;
    };
    let counts_as = if kind == KubernetesKind::Projects { other } else { "pod" };
    if fields.raw("type").is_none() && fields.lacks(&["type"]) {
        fields.know("type");
        let help = format!("write `type: pod` for a pod, or `type: {other}` for an empty {other}");
        report.error(fields.at(), format!("{}: `type` is missing", fields.what), Some(help));
        return fields.raw("image").is_some() || fields.raw("spec").is_some();
    }
    let Some(given) = fields.required_text("type") else { return true };
    if given != "pod" && given != other {
        let message =
            format!("{}: there is no `type` `{given}` with this driver; it counts as `{counts_as}`", fields.what);
        let help = match given.as_str() {
            "namespace" | "project" => format!("write `type: {other}` for an empty {other}, or `type: pod`"),
            _ => format!("write `type: pod`, or `type: {other}` for an empty {other}"),
        };
        report.warning(fields.at_key("type"), message, Some(help));
        return counts_as == "pod";
    }
    given == "pod"
}

/// The keys that describe the container.
fn container(
    report: &Report,
    fields: &Fields<'_>,
    kind: KubernetesKind,
    defaults: &LabelDefaults,
) -> (PodContainer, OwnKeys) {
    let image = fields.filled("image");
    let requests = resources(report, fields, ["cpu", "memory", "storage"]).or(defaults.requests);
    let limits =
        resources(report, fields, ["cpu-limit", "memory-limit", "storage-limit"]).or(defaults.limits).or(requests);
    let gpu = fields.fraction("gpu");
    let gpu_resource = fields.filled("gpu-resource");
    let container = PodContainer {
        image,
        image_pull: fields.text("image-pull").unwrap_or_else(|| "IfNotPresent".to_owned()),
        image_pull_secrets: match kind {
            KubernetesKind::Namespaces => None,
            _ => Some(fields.json_list("image-pull-secrets").unwrap_or_default()),
        },
        requests,
        limits,
        gpu: gpu_resource.zip(gpu.filter(|gpu| *gpu != 0.0)),
        env: env(report, fields),
        node_selector: fields.json_map("node-selector").filter(|selector| !selector.is_empty()),
        privileged: fields.bool("privileged"),
        scheduler_name: fields.filled("scheduler-name"),
        volumes: fields.json_list("volumes").unwrap_or_default(),
        volume_mounts: fields.json_list("volume-mounts").unwrap_or_default(),
    };
    let own = OwnKeys {
        python_path: fields.text("python-path"),
        shell_type: fields.text("shell-type"),
        extra: fields.number_map("extra-resources"),
    };
    (container, own)
}

/// Tells of a limit below what is asked for, with which the API refuses the pod.
fn check_limits(report: &Report, fields: &Fields<'_>, container: &PodContainer) {
    let PodContainer { requests, limits, .. } = container;
    for (key, limit_key, asked, most, unit) in [
        ("cpu", "cpu-limit", requests.cpu, limits.cpu, 1000.0),
        ("memory", "memory-limit", requests.memory, limits.memory, 1.0),
        ("storage", "storage-limit", requests.storage, limits.storage, 1.0),
    ] {
        let (Some(asked), Some(most)) = (given(asked), given(most)) else { continue };
        if most >= asked {
            continue;
        }
        let of = |key: &str| {
            let is_own = fields.raw(key).is_some_and(|value| !value.is_null());
            if is_own { format!("`{key}`") } else { format!("`default-label-{key}` of its pool") }
        };
        let message = format!(
            "{}: {} is {}, less than {}, {}, and Kubernetes refuses such a pod",
            fields.what,
            of(limit_key),
            as_number(most) / unit,
            of(key),
            as_number(asked) / unit
        );
        let at = if fields.raw(limit_key).is_some() { fields.at_key(limit_key) } else { fields.at_key(key) };
        report.lapse(at, message, Some(format!("write `{limit_key}: {}` or more", as_number(asked) / unit)));
    }
}

/// `env`: names and values. What upstream's schema does not know (`valueFrom`) is passed on where no schema is asked.
fn env(report: &Report, fields: &Fields<'_>) -> Vec<Json> {
    let items = fields.list("env").iter().filter_map(|node| {
        let what = format!("{}, an item of `env`", fields.what);
        let item = Fields::or_help(report, node, what, shapes::as_variable)?;
        let mut variable = Object::default().with("name", &item.required_text("name")?);
        match item.text("value") {
            Some(value) => variable.push("value", Json::of(&value)),
            None if report.strict() => item.require("value"),
            None => {}
        }
        if report.strict() {
            item.finish();
        } else {
            variable.append(item.rest_as_json().collect());
        }
        Some(variable.into())
    });
    items.collect()
}

impl PodResources {
    /// These, and where they say nothing, others.
    fn or(self, others: Self) -> Self {
        Self {
            cpu: self.cpu.or(others.cpu),
            memory: self.memory.or(others.memory),
            storage: self.storage.or(others.storage),
        }
    }
}

/// 0 is "not given" to Python.
fn given(amount: Option<u64>) -> Option<u64> {
    amount.filter(|amount| *amount != 0)
}

#[allow(clippy::cast_precision_loss)] // cores and MiB are far below 2^53
const fn as_number(amount: u64) -> f64 {
    amount as f64
}
