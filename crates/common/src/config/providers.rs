//! `providers`: what all drivers have in common, and which driver reads the rest.
//!
//! What is wrong within one label of a pool, or one host of a static one, breaks only that when the daemons load, what else is
//! wrong within one pool only that pool, and what else is wrong within one provider only that one: it is left out, with its
//! reasons, and the others run. `config-validate` counts every error.

use std::{sync::Arc, time::Duration};

use indexmap::IndexMap;

use super::{
    BrokenPart, BrokenProvider, ConfigError, Driver, KubernetesKind, Provider, Report,
    advice::{Level, suggest},
    aliases,
    fields::Fields,
    kubernetes,
    left_out::Broken,
    metastatic, names, openstack,
    provider_parts::{Common, Scope},
    report::FaultyPart,
    static_hosts, unbuilt,
    yaml::{Mark, Node},
};
use crate::model::ProviderName;

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
pub const BUILT: [&str; 7] = ["openstack", "openshiftpods", "openshift", "kubernetes", "static", "metastatic", "fake"];

/// What to do with a provider of another driver.
const LEAVE_IT: &str = "leave this provider to a launcher of Python Nodepool, in a file of its own";

/// The drivers to choose from: `fake` is for tests.
fn offered() -> String {
    BUILT.into_iter().filter(|driver| *driver != "fake").collect::<Vec<_>>().join(", ")
}

/// `launch-timeout` where it is not given.
const LAUNCH_TIMEOUT: Duration = Duration::from_secs(3600);
/// The same where a node is a pod or a namespace. Upstream has no such key there, and waits 300 s for a pod and 30 s for
/// the token before it.
const POD_LAUNCH_TIMEOUT: Duration = Duration::from_secs(330);

/// `boot-timeout` where it is not given.
const BOOT_TIMEOUT: Duration = Duration::from_secs(60);
const METASTATIC_BOOT_TIMEOUT: Duration = Duration::from_secs(120);

/// What becomes of launches without any time.
const NO_LAUNCH: &str = "each launch is given up at once";
const NO_BOOT: &str = "each launch of a node whose keys are checked fails at once";

/// The providers that can run and those that cannot.
#[derive(Default)]
pub struct Providers {
    /// In the order of the file.
    pub good: IndexMap<ProviderName, Arc<Provider>>,
    /// Providers, and parts of good providers, in the order of the file.
    pub broken: Broken,
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
            let lost = ", and nothing of the first";
            names::defined_twice(report, node.at, &format!("provider `{name}`"), first, Some(lost));
            all.good.shift_remove(&name);
            all.broken.providers.retain(|broken| broken.name != name);
            all.broken.parts.retain(|broken| broken.provider != name);
        }
        let provider = provider(&part, node, &name, scope);
        if report.strict() {
            report.absorb(part);
            continue;
        }
        let (mut errors, parts) = (part.take_errors(), part.take_faulty());
        match provider {
            Some(provider) if errors.is_empty() => {
                all.broken.parts.extend(parts.into_iter().map(|FaultyPart { pool, part, errors }| BrokenPart {
                    provider: name.clone(),
                    pool,
                    part,
                    reason: all_of(&errors),
                }));
                all.good.insert(name, Arc::new(provider));
            }
            _ => {
                errors.extend(parts.into_iter().flat_map(|part| part.errors));
                let place = errors.first().map_or_else(|| report.place(node.at), |error| error.place.clone());
                all.broken.providers.push(BrokenProvider { name, place, reason: all_of(&errors) });
            }
        }
        report.absorb(part);
    }
    all
}

fn all_of(errors: &[ConfigError]) -> String {
    errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

fn provider(report: &Report, node: &Node, name: &ProviderName, scope: &Scope<'_>) -> Option<Provider> {
    let what = format!("provider `{}`", names::shown(name.as_str()));
    let fields = Fields::item(report, node, what, "name")?.on(Level::Provider);
    names::check(report, fields.at_key("name"), &fields.what, &fields.required_text("name")?);
    let driver = if name.as_str().starts_with("fake") {
        fields.know("driver"); // whatever it says
        "fake".to_owned()
    } else {
        driver(&fields)?
    };
    if let Some(built) = BUILT.into_iter().find(|built| *built == driver) {
        report.about_driver(built);
    }
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
            let message = format!("provider `{name}`: this launcher does not serve driver `{known}`");
            let help = format!("{LEAVE_IT}; the drivers here are: {}", offered());
            report.error(fields.at_key("driver"), message, Some(help));
            unbuilt::check(report, &fields, &common, scope);
            return None;
        }
        unknown => {
            let help = match aliases::of_driver(unknown).or_else(|| suggest(unknown, UPSTREAM.into_iter())) {
                Some(meant) if BUILT.contains(&meant) => {
                    format!("did you mean `{meant}`? The drivers are: {}", offered())
                }
                Some(meant) => format!(
                    "did you mean `{meant}`? This launcher does not serve that: {LEAVE_IT}; the drivers here are: {}",
                    offered()
                ),
                None => format!("the drivers are: {}", offered()),
            };
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
            .map_or(LAUNCH_TIMEOUT, |default| fields.time_limit("launch-timeout", NO_LAUNCH).unwrap_or(default)),
        boot_timeout: boot_timeout
            .map_or(BOOT_TIMEOUT, |default| fields.time_for_some("boot-timeout", NO_BOOT).unwrap_or(default)),
        pools,
        driver,
    };
    fields.finish();
    Some(provider)
}

/// The name of the provider's driver. `None`: what stands there was reported and names none, so that nothing is known of the
/// provider's other keys.
fn driver(fields: &Fields<'_>) -> Option<String> {
    let misspelt = fields.misspelt("driver").map(|(_, value)| &**value);
    if fields.lacks(&["driver"]) {
        fields.know("driver");
        return Some("openstack".to_owned());
    }
    let given = fields.filled("driver");
    match fields.raw("driver").or(misspelt)? {
        // The form of the first versions that had drivers.
        node if node.entries().is_some() => node.get("name")?.as_text().map(str::to_owned),
        node if node.is_null() || node.as_text() == Some("") => Some("openstack".to_owned()),
        node => given.or_else(|| misspelt?.as_text().map(str::to_owned)).filter(|_| node.items().is_none()),
    }
}

/// Attempts in total. Upstream's loop runs once whatever the number; fewer make no sense.
fn launch_retries(report: &Report, fields: &Fields<'_>) -> u32 {
    let retries = fields.int("launch-retries").unwrap_or(3);
    if retries < 1 {
        let message =
            format!("{}: `launch-retries` is {retries} and counts as 1: it is the number of attempts", fields.what);
        let help = "write 1 or more, or leave the key out to get 3".to_owned();
        report.warning(fields.at_key("launch-retries"), message, Some(help));
    }
    u32::try_from(retries.max(1)).unwrap_or(u32::MAX)
}
