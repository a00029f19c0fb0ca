//! The keys of a `static` provider: hosts that are there already (config.md 14).
//!
//! `labels` may be one text with spaces in it. Upstream offers each of its words and registers nodes that have the whole
//! text for their label, which no request ever fits; here the words count.

use std::{sync::Arc, time::Duration};

use indexmap::IndexMap;

use super::{
    HostId, Pool, PoolLabel, StaticHost, connections,
    fields::Fields,
    image_builders::{self, Around},
    providers::{self, Common, MOST_SLOTS, Scope, check_label},
    report::Report,
    yaml::Mark,
};
use crate::model::{LabelName, PoolName};

/// What becomes of a host that has no time to answer.
const NEVER_READY: &str = "the host is never found in time, and never ready";

/// Reads the pools with their hosts.
pub fn read(report: &Report, fields: &Fields<'_>, common: &Common, scope: &Scope<'_>) -> Vec<Pool> {
    let mut pools: IndexMap<PoolName, Pool> = IndexMap::new();
    let mut places: IndexMap<HostId, Mark> = IndexMap::new();
    for node in fields.list("pools") {
        let Some((pool_fields, name)) = Fields::named(report, node, Some(&fields.what), "pool") else { continue };
        let mut pool = providers::pool(&pool_fields, &name, common);
        let mut hosts: Vec<Arc<StaticHost>> = Vec::new();
        for node in pool_fields.list("nodes") {
            let Some((host_fields, name)) = Fields::named(report, node, Some(&pool_fields.what), "node") else {
                continue;
            };
            let Some(host) = host(report, &host_fields, name, &mut pool, scope) else { continue };
            if let Some(first) = places.insert(host.id.clone(), node.at) {
                let message = format!("{} with port {} is listed twice", host_fields.what, host.id.port);
                let help = format!(
                    "the first is at {}, and counts; max-parallel-jobs is the way to more",
                    report.place(first)
                );
                report.warning(node.at, message, Some(help));
                places.insert(host.id, first);
                host_fields.finish();
                continue;
            }
            for label in &host.labels {
                pool.labels.insert(label.clone(), PoolLabel { name: label.clone(), diskimage: None });
            }
            if !host.labels.is_empty() || report.strict() {
                hosts.push(Arc::new(host));
            }
            host_fields.finish();
        }
        pool.hosts = Some(hosts);
        pools.insert(pool.name.clone(), pool);
        pool_fields.finish();
    }
    pools.into_values().collect()
}

fn host(report: &Report, fields: &Fields<'_>, name: String, pool: &mut Pool, scope: &Scope<'_>) -> Option<StaticHost> {
    let labels = fields.text_or_texts("labels");
    if fields.get("labels").is_none() {
        report.error(fields.at(), format!("{}: `labels` is missing", fields.what), None);
    }
    let labels = labels?;
    if labels.iter().all(|text| text.trim().is_empty()) {
        let message = format!("{}: it has no `labels`, so that nothing is ever run on it", fields.what);
        report.warning(fields.at_key("labels"), message, None);
    }
    let labels: Vec<LabelName> = labels.iter().flat_map(|text| text.split_whitespace()).map(LabelName::from).collect();
    let (at, what) = (fields.at_key("labels"), &fields.what);
    let labels = labels.into_iter().filter(|label| {
        let what = format!("{what}: label `{label}`");
        providers::part_of_label(report, pool, label, &what, |part| check_label(part, at, &what, label, scope))
    });
    let labels: Vec<LabelName> = labels.collect();
    let port = fields.port("connection-port");
    // Upstream's schema rejects the old name, its driver reads it.
    let old_port = if report.strict() { None } else { fields.port("ssh-port") };
    let slots = fields.count("max-parallel-jobs", MOST_SLOTS).unwrap_or(1);
    if slots == 0 {
        let message = format!("{}: `max-parallel-jobs` is 0, so that this host is no node at all", fields.what);
        report.warning(fields.at_key("max-parallel-jobs"), message, None);
    }
    let host_key_checking = fields.bool("host-key-checking").unwrap_or(true);
    let connection_type = connections::read(fields, fields.text("connection-type"));
    Some(StaticHost {
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
    })
}

/// `host-key`, each as `TYPE BASE64`: what stands behind that in a line of a `.pub` file, or before it in one of `known_hosts`,
/// is left away, with a warning, since upstream compares the whole text, which is then never among the host's keys. What no
/// host can show is told.
fn host_keys(report: &Report, fields: &Fields<'_>, are_checked: bool) -> Vec<String> {
    let at = fields.at_key("host-key");
    let keys = fields.text_or_texts("host-key").unwrap_or_default().into_iter().map(|text| {
        let (key, Around { hosts, comment }) = image_builders::key_within(&text);
        if !hosts.is_empty() {
            let message = format!(
                "{}: this `host-key` is a line of known_hosts, and `{hosts}` before the key is left away; Python Nodepool \
                 never finds the host with such a key",
                fields.what
            );
            let short: String = key.chars().take(32).collect();
            report.warning(at, message, Some(format!("write the key without it: `{short}…`")));
        } else if !comment.is_empty() {
            let message = format!("{}: the comment `{comment}` of this `host-key` is left away", fields.what);
            let help =
                "leave it out: Python Nodepool takes it for a part of the key, and finds that the host has another one";
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
