//! The top level but for diskimages and providers and the secure file.

use std::{path::PathBuf, time::Duration};

use indexmap::IndexMap;

use super::{
    Diskimages, Label, WebApp, ZooKeeper, ZooKeeperTls, aliases,
    fields::Fields,
    level::Level,
    names,
    report::Report,
    shapes,
    suggest::{plain, suggest},
    yaml::{Mark, Meaning, Node, Value},
    zookeeper_servers,
};
use crate::model::{LabelName, Resources, TenantName};

/// The most that `min-ready` keeps: each node that is missing is a request in ZooKeeper, at once.
const MOST_READY: usize = 10_000;

/// `webapp`.
pub fn webapp(report: &Report, top: &Fields<'_>) -> WebApp {
    let defaults = WebApp::default();
    let help = |node: &Node| match &node.value {
        Value::Scalar(Meaning::Int(port), _) => format!("write `port: {port}` below `webapp:`"),
        Value::Scalar(Meaning::Text, text) => match text.rsplit_once(':') {
            Some((address, port)) if port.parse::<u16>().is_ok() => {
                format!("write `listen_address: {address}` and `port: {port}` below `webapp:`")
            }
            _ => shapes::as_mapping(node),
        },
        _ => shapes::as_mapping(node),
    };
    let Some(fields) = top.get("webapp").and_then(|node| Fields::or_help(report, node, "`webapp`", help)) else {
        return defaults;
    };
    let fields = fields.on(Level::WebApp);
    let port = fields.port_or_zero("port");
    if port == Some(0) && report.strict() {
        let message = "`webapp`: `port` is 0, so that the system chooses another one at each start";
        report.warning(fields.at_key("port"), message, Some("write a number from 1 to 65535".to_owned()));
    }
    let webapp = WebApp {
        port: port.unwrap_or(defaults.port),
        listen_address: fields.filled("listen_address").unwrap_or(defaults.listen_address),
    };
    fields.finish();
    webapp
}

/// `labels`; of equal names the last counts.
pub fn labels(report: &Report, top: &Fields<'_>) -> IndexMap<LabelName, Label> {
    let mut labels = IndexMap::new();
    let mut places: IndexMap<LabelName, Mark> = IndexMap::new();
    for node in top.list("labels") {
        let Some((fields, name)) = Fields::named(report, node, None, "label") else { continue };
        let name = LabelName::from(name);
        let label = Label {
            name: name.clone(),
            min_ready: fields.count("min-ready", MOST_READY).unwrap_or(0),
            max_ready_age: fields.seconds("max-ready-age").filter(|age| !age.is_zero()),
        };
        if let Some(first) = places.insert(name.clone(), fields.at()) {
            names::defined_twice(report, fields.at(), &fields.what, first, None);
        }
        labels.insert(name, label);
        fields.finish();
    }
    labels
}

/// `tenant-resource-limits`: upstream's names of the limits become those of the resources; free keys keep theirs.
pub fn tenant_limits(report: &Report, top: &Fields<'_>) -> IndexMap<TenantName, Resources> {
    const RENAMED: [(&str, &str); 5] = [
        ("max-cores", "cores"),
        ("max-servers", "instances"),
        ("max-ram", "ram"),
        ("max-volumes", "volumes"),
        ("max-volume-gb", "volume-gb"),
    ];
    let mut tenants = IndexMap::new();
    let mut places: IndexMap<String, Mark> = IndexMap::new();
    for node in top.list("tenant-resource-limits") {
        let Some(fields) = Fields::item(report, node, "one of `tenant-resource-limits`", "tenant-name") else {
            continue;
        };
        let other = ["tenant", "name"].into_iter().find_map(|key| Some((key, fields.raw_text(key)?)));
        if let Some((key, name)) = other.filter(|_| fields.raw("tenant-name").is_none()) {
            let message = format!("one of `tenant-resource-limits` has `{key}` in the place of `tenant-name`");
            report.error(fields.at_key(key), message, Some(format!("write `tenant-name: {}`", names::shown(name))));
            continue;
        }
        let Some(tenant) = fields.required_text("tenant-name") else { continue };
        let (what, at) = (format!("resource limits of tenant `{tenant}`"), fields.at());
        let mut limits = Resources::new();
        let fields = fields.called(what.as_str());
        for (key, resource) in RENAMED {
            if let Some(limit) = fields.limit(key) {
                limits.set(resource, limit);
            }
        }
        for (key, value) in fields.rest() {
            let Some(resource) = key.as_text() else {
                let message = format!("{what}: a limit's name must be a text, not {}", key.describe());
                report.lapse(key.at, message, Some("write it in quotes".to_owned()));
                continue;
            };
            // Other limits go by the names of resources, none of which begins so.
            if plain(resource).starts_with("max") {
                let known = RENAMED.map(|(known, _)| known);
                let by_other_name = aliases::of_key(Level::Pool, &plain(resource)).iter().copied();
                let meant = by_other_name.into_iter().find(|key| known.contains(key));
                let meant = meant.or_else(|| suggest(resource, known.into_iter()));
                let message = format!("{what}: `{resource}` limits nothing: no resource is called so");
                let help = meant.map_or_else(
                    || format!("write one of {}, or the name of a resource of labels", known.join(", ")),
                    |meant| format!("did you mean `{meant}`?"),
                );
                report.warning(key.at, message, Some(help));
            }
            if let Some((first, limit)) = value.entries().and_then(<[_]>::first) {
                let message = format!("{what}: `{resource}` must be a whole number, not a mapping");
                let help = format!(
                    "write what stands below it beside `tenant-name`, as `{}: {}`",
                    shapes::shown(first),
                    shapes::shown(limit)
                );
                report.error(value.at, message, Some(help));
                continue;
            }
            let Some(reader) = Fields::of(report, node, what.as_str()) else { continue };
            if let Some(limit) = reader.number_of(resource, value, true) {
                reader.check_limit(value.at, resource, limit);
                limits.set(resource, limit);
            }
        }
        if let Some(first) = places.insert(tenant.clone(), at) {
            let help = format!("the first are at {}; write both as one", report.place(first));
            report.warning(at, format!("{what} are given twice; these count"), Some(help));
        }
        tenants.insert(TenantName::from(tenant), limits);
    }
    tenants
}

/// `zookeeper-servers`, `zookeeper-tls` and `zookeeper-timeout`, each of the first two from the secure file if it has
/// it.
pub fn zookeeper(report: &Report, top: &Fields<'_>, secure: Option<(&Report, &Fields<'_>)>) -> ZooKeeper {
    let mut servers = zookeeper_servers::read(report, top);
    let mut tls = TlsPaths::read(report, top);
    let timeout = match top.number("zookeeper-timeout", false) {
        Some(seconds) if seconds <= 0.0 => {
            let help = "write 10.0, or leave it out";
            top.wrong(top.at_key("zookeeper-timeout"), "zookeeper-timeout", "must be more than 0 seconds", help);
            None
        }
        seconds => seconds.and_then(|seconds| top.duration("zookeeper-timeout", seconds)),
    };
    let mut tls_report = report;
    if let Some((secure_report, secure)) = secure {
        let override_ = zookeeper_servers::read(secure_report, secure);
        if !override_.is_empty() {
            servers = override_;
        }
        if let Some(override_) = TlsPaths::read(secure_report, secure) {
            let ours = tls.and_then(|main| main.verify_hostname);
            tls = Some(TlsPaths { verify_hostname: override_.verify_hostname.or(ours), ..override_ });
            tls_report = secure_report;
        }
    }
    ZooKeeper {
        servers,
        timeout: timeout.unwrap_or(Duration::from_secs(10)),
        tls: tls.and_then(|tls| tls.complete(tls_report)),
    }
}

/// `zookeeper-tls` as it stands in one file.
struct TlsPaths {
    at: Mark,
    cert: Option<PathBuf>,
    key: Option<PathBuf>,
    ca: Option<PathBuf>,
    verify_hostname: Option<bool>,
    /// What is not there, and was not told to be misspelt or without a value.
    missing: Vec<&'static str>,
}

impl TlsPaths {
    /// `None`: absent or empty, which upstream treats alike.
    fn read(report: &Report, top: &Fields<'_>) -> Option<Self> {
        let node = top.get("zookeeper-tls")?;
        let help = |node: &Node| match node.value {
            Value::Scalar(..) => "write `cert:`, `key:` and `ca:` below it, each with the path of a file".to_owned(),
            _ => shapes::as_mapping(node),
        };
        let fields = Fields::or_help(report, node, "`zookeeper-tls`", help)?.on(Level::ZooKeeperTls);
        if node.entries().is_some_and(<[_]>::is_empty) {
            return None;
        }
        let path = |key| fields.filled(key).map(PathBuf::from);
        let tls = Self {
            at: node.at,
            cert: path("cert"),
            key: path("key"),
            ca: path("ca"),
            verify_hostname: fields.bool("verify-hostname"),
            missing: ["cert", "key", "ca"].into_iter().filter(|key| fields.lacks(&[key])).collect(),
        };
        fields.finish();
        Some(tls)
    }

    /// All three paths, or none. When validating, the rest may come from the secure file, which is not looked at.
    fn complete(self, report: &Report) -> Option<ZooKeeperTls> {
        let Self { at, cert, key, ca, verify_hostname, missing } = self;
        if let (Some(cert), Some(key), Some(ca)) = (cert, key, ca) {
            return Some(ZooKeeperTls { cert, key, ca, verify_hostname: verify_hostname.unwrap_or(false) });
        }
        if missing.is_empty() {
            return None;
        }
        let missing: Vec<_> = missing.into_iter().map(|key| format!("`{key}`")).collect();
        let message = format!("`zookeeper-tls`: {} missing, so that no connection is made", missing.join(" and "));
        let help = "give all of `cert`, `key` and `ca`; a secure file that has all three takes the place of these";
        let help = Some(help.to_owned());
        report.note(!report.strict(), at, message, help);
        None
    }
}

/// The secure file's `diskimages`: more `env-vars` for images that the main file defines.
pub fn secure_env_vars(report: &Report, secure: &Fields<'_>, images: &mut Diskimages) {
    for node in secure.list("diskimages") {
        let Some((fields, name)) = Fields::named(report, node, None, "diskimage") else { continue };
        let env_vars = fields.text_map("env-vars");
        if env_vars.is_none() {
            let help = "write `env-vars:`, and below it each variable as `NAME: VALUE`";
            fields.wrong(fields.at(), "env-vars", "is missing: it is all that the secure file may give", help);
        }
        match images.buildable.get_mut(name.as_str()) {
            Some(image) => image.env_vars.extend(env_vars.unwrap_or_default()),
            None => report.error(
                fields.at(),
                format!("the main configuration has no {} that is built", fields.what),
                super::suggest(&name, images.buildable.keys().map(AsRef::as_ref))
                    .map(|meant| format!("did you mean `{meant}`?")),
            ),
        }
        fields.finish();
    }
}
