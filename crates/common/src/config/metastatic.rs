//! The keys of a `metastatic` provider: labels whose nodes stand on nodes of other providers.

use std::time::Duration;

use indexmap::IndexMap;

use super::{
    Metastatic, MetastaticLabel, Pool, PoolLabel, advice,
    fields::Fields,
    provider_parts::{self, Common, MOST_SLOTS, Scope, check_label},
    report::Report,
    yaml::{Mark, Node},
};
use crate::model::{LabelName, PoolName};

/// Reads the driver's labels, and the pools as the planner sees them.
pub fn read(report: &Report, fields: &Fields<'_>, common: &Common, scope: &Scope<'_>) -> (Metastatic, Vec<Pool>) {
    if fields.raw("pools").is_none_or(Node::is_null) && fields.lacks(&["pools"]) {
        let help = advice::missing("pools").map(str::to_owned);
        report.lapse(fields.at(), format!("{}: `pools` is missing", fields.what), help);
    }
    if !report.strict() {
        fields.know("rate"); // upstream's schema rejects it, its driver reads it and does nothing with it
    }
    let mut own: IndexMap<PoolName, IndexMap<LabelName, MetastaticLabel>> = IndexMap::new();
    let mut backed: IndexMap<LabelName, (Mark, MetastaticLabel)> = IndexMap::new();
    let read = |report: &Report, pool_fields: &Fields<'_>, name: &str| {
        let mut pool = provider_parts::pool(pool_fields, name, common);
        let checks = pool_fields.bool("host-key-checking").unwrap_or(false);
        let mut labels: IndexMap<LabelName, MetastaticLabel> = IndexMap::new();
        for node in pool_fields.list("labels") {
            let read = |part: &Report, fields: &Fields<'_>, name: &LabelName| {
                let label = label(part, fields, name, checks, scope)?;
                if let Some((first, other)) = backed.get(&label.backing_label)
                    && !label.has_backing_of(other)
                {
                    let (keys, differences) = differences(&label, other);
                    let message = format!(
                        "{}: Multiple label definitions for the same backing label must be identical, and those for `{}` \
                         are not: {differences} in label `{}`",
                        fields.what, label.backing_label, other.name
                    );
                    let help = format!(
                        "that one is at {}: write the same {keys} in both, or give one of them another `backing-label`",
                        part.place(*first)
                    );
                    part.error(node.at, message, Some(help));
                }
                Some(label)
            };
            if let Some((name, label)) = provider_parts::label(report, node, pool_fields, &mut pool, scope, read) {
                backed.entry(label.backing_label.clone()).or_insert_with(|| (node.at, label.clone()));
                pool.labels.insert(name.clone(), PoolLabel { name: name.clone(), diskimage: None });
                labels.insert(name, label);
            }
        }
        (pool, labels)
    };
    let mut pools = Vec::new();
    for (name, (pool, mut labels)) in provider_parts::pools(report, fields, read) {
        labels.retain(|name, _| pool.labels.contains_key(name)); // of equal names the last counts, usable or not
        own.insert(name, labels);
        pools.push(pool);
    }
    (Metastatic { pools: own }, pools)
}

/// The keys in which two labels differ that share their backing nodes, and what each says of them.
fn differences(here: &MetastaticLabel, there: &MetastaticLabel) -> (String, String) {
    let seconds =
        |time: Option<Duration>| time.map_or_else(|| "not given".to_owned(), |time| time.as_secs_f64().to_string());
    let of = |label: &MetastaticLabel| {
        [
            ("max-parallel-jobs", label.max_parallel_jobs.to_string()),
            ("grace-time", seconds(Some(label.grace_time))),
            ("min-retention-time", seconds(Some(label.min_retention_time))),
            ("max-age", seconds(label.max_age)),
        ]
    };
    let pairs = of(here).into_iter().zip(of(there)).filter(|((_, here), (_, there))| here != there);
    let (mut keys, mut values) = (Vec::new(), Vec::new());
    for ((key, here), (_, there)) in pairs {
        keys.push(format!("`{key}`"));
        values.push(format!("`{key}` is {here} here and {there}"));
    }
    (keys.join(" and "), values.join(", "))
}

fn label(
    report: &Report,
    fields: &Fields<'_>,
    name: &LabelName,
    checks: bool,
    scope: &Scope<'_>,
) -> Option<MetastaticLabel> {
    let backing_label = fields.required_text("backing-label").map(LabelName::from);
    if let Some(backing_label) = &backing_label {
        let what = format!("{}: backing-label `{backing_label}`", fields.what);
        check_label(report, fields.at_key("backing-label"), &what, backing_label, scope);
    }
    // At run time each label that is a part of it, or stands on one, is told by itself.
    if let Some(circle) = scope.circles.at(fields.at()).filter(|circle| circle.is_first || !report.strict()) {
        let message = format!(
            "{}: its backing labels go round in a circle, so that no node is ever made: {}",
            fields.what, circle.way
        );
        let help = "one of them must have a `backing-label` that a provider of another driver serves";
        report.error(fields.at_key("backing-label"), message, Some(help.to_owned()));
    }
    let slots = fields.count("max-parallel-jobs", MOST_SLOTS).unwrap_or(1);
    if slots < 1 {
        let message = format!("{}: `max-parallel-jobs` is {slots}, so that no node fits", fields.what);
        report.error(fields.at_key("max-parallel-jobs"), message, Some("write 1 or more".to_owned()));
    }
    let min_retention_time = fields.seconds("min-retention-time").unwrap_or(Duration::ZERO);
    let max_age = fields.seconds("max-age").filter(|age| !age.is_zero());
    if max_age.is_some_and(|age| age < min_retention_time) {
        let message = format!("{}: `max-age` must be at least `min-retention-time`", fields.what);
        let help = format!("write {} seconds or more", min_retention_time.as_secs());
        report.error(fields.at_key("max-age"), message, Some(help));
    }
    let (grace_time, host_key_checking) = (fields.seconds("grace-time"), fields.bool("host-key-checking"));
    Some(MetastaticLabel {
        name: name.clone(),
        backing_label: backing_label?,
        max_parallel_jobs: slots,
        grace_time: grace_time.unwrap_or(Duration::from_secs(60)),
        min_retention_time,
        max_age,
        host_key_checking: host_key_checking.unwrap_or(checks),
    })
}
