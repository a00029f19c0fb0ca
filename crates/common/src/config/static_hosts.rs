//! The keys of a `static` provider: hosts that are there already.
//!
//! `labels` may be one text with spaces in it. Upstream offers each of its words and registers nodes that have the whole
//! text for their label, which no request ever fits; here the words count.

use std::{sync::Arc, time::Duration};

use indexmap::IndexMap;

use super::{
    ConfigError, HostId, Part, Pool, PoolLabel, StaticHost, addresses, connections,
    fields::Fields,
    image_builders::{self, Around},
    provider_parts::{self, Common, MOST_SLOTS, Scope, check_label},
    report::{FaultyPart, Report},
    yaml::{Mark, Node},
};
use crate::model::LabelName;

/// What becomes of a host that has no time to answer.
const NEVER_READY: &str = "the host is never found in time, and never ready";

/// Reads the pools with their hosts.
pub fn read(report: &Report, fields: &Fields<'_>, common: &Common, scope: &Scope<'_>) -> Vec<Pool> {
    let mut places: IndexMap<HostId, Mark> = IndexMap::new();
    let read = |report: &Report, pool_fields: &Fields<'_>, name: &str| {
        let mut pool = provider_parts::pool(pool_fields, name, common);
        let mut hosts: Vec<Arc<StaticHost>> = Vec::new();
        for node in pool_fields.list("nodes") {
            let part = report.part();
            let item = Item::read(&part, node, &pool_fields.what, &mut pool, scope);
            let errors = if report.strict() { Vec::new() } else { part.take_errors() };
            report.absorb(part);
            if !errors.is_empty() {
                item.leave_out(report, &mut pool, errors);
                continue;
            }
            let Item { what, host: Some(host), .. } = item else { continue };
            if let Some(first) = places.insert(host.id.clone(), node.at) {
                let message = format!("{what} with port {} is listed twice", host.id.port);
                let help = format!(
                    "leave this one out, the first is at {} and counts; for more jobs at once on the host write \
                     `max-parallel-jobs: NUMBER` there",
                    report.place(first)
                );
                report.warning(node.at, message, Some(help));
                places.insert(host.id, first);
                continue;
            }
            for label in &host.labels {
                pool.labels.insert(label.clone(), PoolLabel { name: label.clone(), diskimage: None });
            }
            if !host.labels.is_empty() || report.strict() {
                hosts.push(Arc::new(host));
            }
        }
        let Pool { labels, broken_labels, .. } = &mut pool;
        broken_labels.retain(|label, _| !labels.contains_key(label)); // another host has it
        pool.hosts = Some(hosts);
        (pool, ())
    };
    provider_parts::pools(report, fields, read).into_values().map(|(pool, ())| pool).collect()
}

/// An item of `nodes`.
struct Item {
    name: String,
    /// How messages about it begin.
    what: String,
    /// As far as it could be read; `None`: it has no name.
    host: Option<StaticHost>,
}

impl Item {
    fn read(report: &Report, node: &Node, within: &str, pool: &mut Pool, scope: &Scope<'_>) -> Self {
        let Some((fields, name)) = Fields::named(report, node, Some(within), "node") else {
            let name = format!("in line {}, without a name", node.at.line);
            return Self { name, what: String::new(), host: None };
        };
        let (host, what) = (host(report, &fields, name.clone(), pool, scope), fields.what.clone());
        fields.finish();
        Self { name, what, host: Some(host) }
    }

    /// Leaves it out; requests for its labels are told why, unless another host has them.
    fn leave_out(self, report: &Report, pool: &mut Pool, errors: Vec<ConfigError>) {
        let Self { name, what, host } = self;
        let reason = provider_parts::without_place(&errors, &what);
        for label in host.map(|host| host.labels).unwrap_or_default() {
            pool.broken_labels.entry(label).or_insert_with(|| format!("host {name} is left out: {reason}"));
        }
        report.faulty(FaultyPart { pool: pool.name.clone(), part: Part::Host(name.clone()), errors });
        pool.broken_hosts.insert(name, reason);
    }
}

fn host(report: &Report, fields: &Fields<'_>, name: String, pool: &mut Pool, scope: &Scope<'_>) -> StaticHost {
    let labels = fields.text_or_texts("labels");
    if fields.raw("labels").is_none_or(Node::is_null) {
        fields.require("labels");
    }
    let is_told = fields.raw("labels").and_then(Node::items).is_some_and(|items| !items.is_empty());
    let is_blank = |labels: &Vec<String>| labels.iter().all(|text| text.trim().is_empty());
    if labels.as_ref().is_some_and(|labels| is_blank(labels) && !(is_told && labels.is_empty())) {
        let message = format!("{}: it has no `labels`, so that nothing is ever run on it", fields.what);
        let help = "name the top-level labels that it has, or leave the host out".to_owned();
        report.warning(fields.at_key("labels"), message, Some(help));
    }
    let labels = labels.unwrap_or_default();
    let labels: Vec<LabelName> = labels.iter().flat_map(|text| text.split_whitespace()).map(LabelName::from).collect();
    let (at, what, has_labels) = (fields.at_key("labels"), &fields.what, !labels.is_empty());
    let labels = labels.into_iter().filter(|label| {
        let what = format!("{what}: label `{label}`");
        provider_parts::part_of_label(report, pool, label, &what, |part| {
            if label.as_str().contains(',') && !scope.labels.contains_key(label) {
                let labels: Vec<_> = label.as_str().split(',').filter(|label| !label.is_empty()).collect();
                let help = format!("write several as a list: [{}]", labels.join(", "));
                part.error(at, format!("{what} is not among the top-level labels"), Some(help));
            } else {
                check_label(part, at, &what, label, scope);
            }
        })
    });
    let labels: Vec<LabelName> = labels.collect();
    if labels.is_empty() && has_labels && !report.strict() {
        pool.broken_hosts.insert(name.clone(), "none of its `labels` can be used".to_owned());
    }
    let port = provider_parts::connection_port(fields, "connection-port");
    // Upstream's schema rejects the old name, its driver reads it.
    let old_port = if report.strict() { None } else { provider_parts::connection_port(fields, "ssh-port") };
    let slots = fields.count("max-parallel-jobs", MOST_SLOTS).unwrap_or(1);
    if slots == 0 {
        let message = format!("{}: `max-parallel-jobs` is 0, so that this host is no node at all", fields.what);
        let help = "write 1 or more, or leave the host out".to_owned();
        report.warning(fields.at_key("max-parallel-jobs"), message, Some(help));
    }
    let host_key_checking = fields.bool("host-key-checking").unwrap_or(true);
    let connection_type = connections::read(fields, fields.text("connection-type"));
    if OVER_THE_NETWORK.contains(&connection_type.as_str()) {
        addresses::check(fields, &addresses::Keys { host: "name", port: "connection-port" }, &name);
    }
    StaticHost {
        id: HostId {
            name,
            username: fields.text("username").unwrap_or_else(|| "zuul".to_owned()),
            port: port.or(old_port).unwrap_or(22),
        },
        labels,
        host_keys: host_keys(report, fields, host_key_checking),
        host_key_checking,
        timeout: if host_key_checking { fields.time_limit("timeout", NEVER_READY) } else { fields.seconds("timeout") }
            .unwrap_or(Duration::from_secs(5)),
        connection_type,
        shell_type: fields.text("shell-type"),
        python_path: fields.text("python-path").unwrap_or_else(|| "auto".to_owned()),
        max_parallel_jobs: slots,
    }
}

/// Connections that go to an address or a name of a host (`connection-type`).
const OVER_THE_NETWORK: [&str; 10] =
    ["ssh", "smart", "paramiko", "paramiko_ssh", "winrm", "psrp", "network_cli", "netconf", "httpapi", "persistent"];

/// `host-key`, each as `TYPE BASE64`: what stands behind that in a line of a `.pub` file, or before it in one of `known_hosts`,
/// is ignored, with a warning, since upstream compares the whole text, which is then never among the host's keys. What no
/// host can show is told.
fn host_keys(report: &Report, fields: &Fields<'_>, are_checked: bool) -> Vec<String> {
    let at = fields.at_key("host-key");
    let keys = fields.text_or_texts("host-key").unwrap_or_default().into_iter().map(|text| {
        let (key, Around { hosts, comment }) = image_builders::key_within(&text);
        if !hosts.is_empty() {
            let message = format!(
                "{}: this `host-key` is a line of known_hosts, and `{hosts}` before the key is ignored here; Python Nodepool \
                 never finds the host with such a key",
                fields.what
            );
            let short: String = key.chars().take(32).collect();
            report.warning(at, message, Some(format!("write the key without it: `{short}…`")));
        } else if !comment.is_empty() {
            let message = format!("{}: the comment `{comment}` of this `host-key` is ignored here", fields.what);
            let help =
                "delete it: Python Nodepool takes it for a part of the key, and finds that the host has another one";
            report.warning(at, message, Some(help.to_owned()));
        }
        if are_checked && let Err(problem) = image_builders::host_key(&key) {
            let message = format!("{}: this `host-key` {problem}, so that the host is never ready", fields.what);
            let help = "write it as /etc/ssh/ssh_host_ed25519_key.pub of that host does, without the comment";
            report.warning(at, message, Some(help.to_owned()));
        }
        key
    });
    keys.collect()
}
