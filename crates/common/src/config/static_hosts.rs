//! The keys of a `static` provider: hosts that are there already (config.md 14).
//!
//! `labels` may be one text with spaces in it. Upstream offers each of its words and registers nodes that have the whole
//! text for their label, which no request ever fits; here the words count.

use std::{sync::Arc, time::Duration};

use indexmap::IndexMap;

use super::{
    HostId, Pool, PoolLabel, StaticHost,
    fields::Fields,
    providers::{self, Common, Scope, check_label},
    report::Report,
    yaml::Mark,
};
use crate::model::{LabelName, PoolName};

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
            let Some(host) = host(report, &host_fields, name, scope) else { continue };
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
            hosts.push(Arc::new(host));
            host_fields.finish();
        }
        pool.hosts = Some(hosts);
        pools.insert(pool.name.clone(), pool);
        pool_fields.finish();
    }
    pools.into_values().collect()
}

fn host(report: &Report, fields: &Fields<'_>, name: String, scope: &Scope<'_>) -> Option<StaticHost> {
    let labels = fields.text_or_texts("labels");
    if fields.get("labels").is_none() {
        report.error(fields.at(), format!("{}: `labels` is missing", fields.what), None);
    }
    let labels: Vec<LabelName> = labels?.iter().flat_map(|text| text.split_whitespace()).map(LabelName::from).collect();
    for label in &labels {
        check_label(report, fields.at_key("labels"), &format!("{}: label `{label}`", fields.what), label, scope);
    }
    let port = fields.port("connection-port");
    // Upstream's schema rejects the old name, its driver reads it.
    let old_port = if report.strict() { None } else { fields.port("ssh-port") };
    let slots = fields.int("max-parallel-jobs").unwrap_or(1);
    Some(StaticHost {
        id: HostId {
            name,
            username: fields.text("username").unwrap_or_else(|| "zuul".to_owned()),
            port: port.or(old_port).unwrap_or(22),
        },
        labels,
        host_keys: fields.text_or_texts("host-key").unwrap_or_default(),
        host_key_checking: fields.bool("host-key-checking").unwrap_or(true),
        timeout: fields.seconds("timeout").unwrap_or(Duration::from_secs(5)),
        connection_type: fields.text("connection-type").unwrap_or_else(|| "ssh".to_owned()),
        shell_type: fields.text("shell-type"),
        python_path: fields.text("python-path").unwrap_or_else(|| "auto".to_owned()),
        max_parallel_jobs: usize::try_from(slots).unwrap_or(0),
    })
}
