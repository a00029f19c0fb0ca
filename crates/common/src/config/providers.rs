//! `providers`: what all drivers have in common, and which driver reads the rest (config.md 9).
//!
//! What is wrong within one provider breaks only that one when the daemons load: it is left out, with its reasons, and
//! the others run. `config-validate` counts every error.

use std::{sync::Arc, time::Duration};

use indexmap::IndexMap;

use super::{
    BrokenProvider, Diskimages, Driver, KubernetesKind, Label, Pool, Provider, Report,
    fields::{Fields, suggest},
    kubernetes, metastatic, openstack, static_hosts,
    yaml::{Mark, Node},
};
use crate::model::{LabelName, PoolName, ProviderName, Resources};

/// The drivers of nodepool 11.0.0.
const UPSTREAM: [&str; 13] = [
    "aws",
    "azure",
    "example",
    "fake",
    "gce",
    "ibmvpc",
    "kubernetes",
    "metastatic",
    "openshift",
    "openshiftpods",
    "openstack",
    "static",
    "test",
];

/// Those of ours.
const BUILT: [&str; 7] = ["openstack", "openshiftpods", "openshift", "kubernetes", "static", "metastatic", "fake"];

/// `launch-timeout` where it is not given.
const LAUNCH_TIMEOUT: Duration = Duration::from_secs(3600);
/// The same where a node is a pod or a namespace. Upstream has no such key there, and waits 300 s for a pod and 30 s for
/// the token before it.
const POD_LAUNCH_TIMEOUT: Duration = Duration::from_secs(330);

/// `boot-timeout` where it is not given.
const BOOT_TIMEOUT: Duration = Duration::from_secs(60);
const METASTATIC_BOOT_TIMEOUT: Duration = Duration::from_secs(120);

/// What a provider may refer to.
pub struct Scope<'a> {
    /// The top-level labels.
    pub labels: &'a IndexMap<LabelName, Label>,
    /// The top-level diskimages.
    pub diskimages: &'a Diskimages,
}

/// The providers that can run and those that cannot.
#[derive(Default)]
pub struct Providers {
    /// In the order of the file.
    pub good: IndexMap<ProviderName, Arc<Provider>>,
    /// Likewise.
    pub broken: Vec<BrokenProvider>,
}

/// Reads `providers`.
pub fn providers(report: &Report, top: &Fields<'_>, scope: &Scope<'_>) -> Providers {
    let mut all = Providers::default();
    let mut places: IndexMap<ProviderName, Mark> = IndexMap::new();
    for (number, node) in (1..).zip(top.list("providers")) {
        let part = report.part();
        let name = node.get("name").and_then(|name| name.as_text()).filter(|name| !name.is_empty());
        let name = ProviderName::from(name.map_or_else(|| format!("number {number}, without a name"), str::to_owned));
        if let Some(first) = places.insert(name.clone(), node.at) {
            let help = Some(format!("the first is at {}", report.place(first)));
            report.warning(node.at, format!("provider `{name}` is defined twice; this one counts"), help);
            all.good.shift_remove(&name);
            all.broken.retain(|broken| broken.name != name);
        }
        let provider = provider(&part, node, &name, scope);
        if report.strict() {
            report.absorb(part);
            continue;
        }
        let errors = part.take_errors();
        match (errors.first(), provider) {
            (None, Some(provider)) => {
                all.good.insert(name, Arc::new(provider));
            }
            (first, _) => {
                let place = first.map_or_else(|| report.place(node.at), |error| error.place.clone());
                let reasons: Vec<String> = errors.iter().map(ToString::to_string).collect();
                all.broken.push(BrokenProvider { name, place, reason: reasons.join("; ") });
            }
        }
        report.absorb(part);
    }
    all
}

fn provider(report: &Report, node: &Node, name: &ProviderName, scope: &Scope<'_>) -> Option<Provider> {
    let fields = Fields::of(report, node, format!("provider `{name}`"))?;
    fields.required_text("name")?;
    let driver = if name.as_str().starts_with("fake") {
        fields.know("driver"); // whatever it says
        "fake".to_owned()
    } else {
        fields.filled("driver").unwrap_or_else(|| "openstack".to_owned())
    };
    let common = Common::read(&fields);
    // What only one driver reads; those that have no such key launch nothing, or boot nothing.
    let (driver, pools, launch_timeout, boot_timeout) = match driver.as_str() {
        "openstack" | "fake" => {
            let (cloud, pools) = openstack::read(report, &fields, &common, scope);
            let driver = if driver == "fake" { Driver::Fake(cloud) } else { Driver::OpenStack(cloud) };
            (driver, pools, Some(LAUNCH_TIMEOUT), Some(BOOT_TIMEOUT))
        }
        "metastatic" => {
            let (metastatic, pools) = metastatic::read(report, &fields, &common, scope);
            (Driver::Metastatic(metastatic), pools, Some(LAUNCH_TIMEOUT), Some(METASTATIC_BOOT_TIMEOUT))
        }
        "kubernetes" | "openshift" | "openshiftpods" => {
            let kind = match driver.as_str() {
                "kubernetes" => KubernetesKind::Namespaces,
                "openshift" => KubernetesKind::Projects,
                _ => KubernetesKind::Pods,
            };
            let (kubernetes, pools) = kubernetes::read(report, &fields, kind, &common, scope);
            (Driver::Kubernetes(kubernetes), pools, Some(POD_LAUNCH_TIMEOUT), None)
        }
        "static" => (Driver::Static, static_hosts::read(report, &fields, &common, scope), None, None),
        known if UPSTREAM.contains(&known) => {
            let message = format!(
                "driver `{known}` of provider `{name}` is not built yet; this nodepool serves {}",
                BUILT.join(", ")
            );
            report.error(fields.at_key("driver"), message, None);
            return None;
        }
        unknown => {
            let help = suggest(unknown, UPSTREAM.into_iter()).map_or_else(
                || format!("the drivers are: {}", UPSTREAM.join(", ")),
                |meant| format!("did you mean `{meant}`? The drivers are: {}", UPSTREAM.join(", ")),
            );
            let message = format!("provider `{name}`: there is no driver `{unknown}`");
            report.error(fields.at_key("driver"), message, Some(help));
            return None;
        }
    };
    let provider = Provider {
        name: name.clone(),
        place: report.place(node.at),
        max_concurrency: common.max_concurrency,
        launch_retries: launch_timeout.map_or(1, |_| launch_retries(report, &fields)),
        launch_timeout: launch_timeout
            .map_or(LAUNCH_TIMEOUT, |default| fields.seconds("launch-timeout").unwrap_or(default)),
        boot_timeout: boot_timeout.map_or(BOOT_TIMEOUT, |default| fields.seconds("boot-timeout").unwrap_or(default)),
        pools,
        driver,
    };
    fields.finish();
    Some(provider)
}

/// Attempts in total. Upstream's loop runs once whatever the number; fewer make no sense.
fn launch_retries(report: &Report, fields: &Fields<'_>) -> u32 {
    let retries = fields.int("launch-retries").unwrap_or(3);
    if retries < 1 {
        let message =
            format!("{}: `launch-retries` is {retries} and counts as 1: it is the number of attempts", fields.what);
        report.warning(fields.at_key("launch-retries"), message, None);
    }
    u32::try_from(retries.max(1)).unwrap_or(u32::MAX)
}

/// Keys of every provider.
pub struct Common {
    max_concurrency: Option<usize>,
    priority: Option<i64>,
}

impl Common {
    fn read(fields: &Fields<'_>) -> Self {
        Self {
            // -1, the default, and any other negative number: unlimited. 0: the provider handles nothing.
            max_concurrency: fields.int("max-concurrency").and_then(|n| usize::try_from(n).ok()),
            priority: fields.int("priority"),
        }
    }
}

/// Keys of every pool: a pool without labels and without what its driver reads.
pub fn pool(fields: &Fields<'_>, name: &str, common: &Common) -> Pool {
    let max_servers = fields.number("max-servers", true);
    Pool {
        name: PoolName::from(name),
        priority: fields.int("priority").or(common.priority).unwrap_or(100),
        disabled: max_servers.is_some_and(|max| max <= 0.0),
        limits: Resources::new().with("instances", max_servers),
        ignore_provider_quota: false,
        availability_zones: Vec::new(),
        node_attributes: fields.json_map("node-attributes"),
        labels: IndexMap::new(),
        hosts: None,
    }
}

/// Checks that a pool's label is one of the top-level labels; upstream stops loading altogether where it is not.
pub fn check_label(report: &Report, at: Mark, what: &str, name: &LabelName, scope: &Scope<'_>) {
    if scope.labels.contains_key(name) {
        return;
    }
    let help = suggest(name.as_str(), scope.labels.keys().map(AsRef::as_ref)).map_or_else(
        || format!("add `- name: {name}` to the top-level `labels`"),
        |meant| format!("did you mean `{meant}`? Else add `- name: {name}` to the top-level `labels`"),
    );
    report.error(at, format!("{what} is not among the top-level labels"), Some(help));
}

/// Checks that a diskimage that a provider wants is one that is built.
pub fn check_diskimage(report: &Report, at: Mark, what: &str, name: &str, scope: &Scope<'_>) {
    if scope.diskimages.buildable.contains_key(name) || scope.diskimages.unusable.contains(name) {
        return;
    }
    let (message, help) = if scope.diskimages.abstracts.contains(name) {
        (format!("{what}: diskimage `{name}` is abstract and never built"), None)
    } else {
        let known = scope.diskimages.buildable.keys().map(AsRef::as_ref);
        let help = suggest(name, known).map(|meant| format!("did you mean `{meant}`?"));
        (format!("{what}: diskimage `{name}` is not among the top-level diskimages"), help)
    };
    report.error(at, message, help);
}
