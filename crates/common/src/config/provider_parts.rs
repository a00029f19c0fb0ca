//! What the readers of all drivers use: pools, labels, and what a provider may refer to.

use indexmap::{IndexMap, IndexSet};

use super::{
    ConfigError, Diskimages, Label, Part, Pool, Report,
    advice::suggest,
    backing::Circles,
    doubtful::Doubtful,
    fields::Fields,
    names,
    report::FaultyPart,
    yaml::{Mark, Node},
};
use crate::model::{LabelName, PoolName, Resources};

/// The most nodes that one static host, or one node under metastatic ones, is cut into: each is a record in ZooKeeper.
pub const MOST_SLOTS: usize = 1000;

/// What a provider may refer to.
pub struct Scope<'a> {
    /// The top-level labels.
    pub labels: &'a IndexMap<LabelName, Label>,
    /// Names that unusable top-level labels may have.
    pub doubtful_labels: &'a Doubtful,
    /// The top-level diskimages.
    pub diskimages: &'a Diskimages,
    /// Metastatic labels whose backing labels go round in a circle.
    pub circles: &'a Circles,
}

/// -1, the default, and any other negative number: unlimited. 0: the provider handles nothing.
fn max_concurrency(fields: &Fields<'_>) -> Option<usize> {
    let most = fields.int("max-concurrency")?;
    if most == 0 {
        let message = format!("{}: `max-concurrency` is 0, so that it serves no request at all", fields.what);
        let help = "leave the key out where there is no limit; Nodepool's documentation of 0 is wrong";
        fields.report().warning(fields.at_key("max-concurrency"), message, Some(help.to_owned()));
    }
    usize::try_from(most).ok()
}

/// Keys of every provider.
pub struct Common {
    /// `None`: unlimited.
    pub max_concurrency: Option<usize>,
    priority: Option<i64>,
}

impl Common {
    /// Reads them.
    pub fn read(fields: &Fields<'_>) -> Self {
        Self { max_concurrency: max_concurrency(fields), priority: fields.int("priority") }
    }
}

/// Reads the pools of a provider with `read`, which makes of each what the planner knows of it, and what only its driver knows.
///
/// The errors of a pool's own keys are that pool's alone: unless this is `config-validate`, such a pool serves nothing, and its
/// labels have for a reason that it is left out. Of equal names the last counts.
pub fn pools<T>(
    report: &Report,
    provider: &Fields<'_>,
    mut read: impl FnMut(&Report, &Fields<'_>, &str) -> (Pool, T),
) -> IndexMap<PoolName, (Pool, T)> {
    let mut pools: IndexMap<PoolName, (Pool, T)> = IndexMap::new();
    let mut places: IndexMap<PoolName, Mark> = IndexMap::new();
    for node in provider.list("pools") {
        let part = report.part();
        let Some((fields, name)) = Fields::named(&part, node, Some(&provider.what), "pool") else {
            report.absorb(part); // nothing could be said of it by name
            continue;
        };
        let (mut pool, own) = read(&part, &fields, &name);
        let what = fields.what.clone();
        fields.finish();
        let errors = if report.strict() { Vec::new() } else { part.take_errors() };
        report.absorb(part);
        if !errors.is_empty() {
            leave_out(&mut pool, &without_place(&errors, &what));
            report.faulty(FaultyPart { pool: pool.name.clone(), part: Part::Pool, errors });
        }
        if let Some(first) = places.insert(pool.name.clone(), node.at) {
            let before = pools.get(&pool.name).map(|(before, _)| &before.labels);
            let labels = before.into_iter().flat_map(IndexMap::keys).filter(|label| !pool.labels.contains_key(*label));
            let lost = names::listed(labels.map(AsRef::as_ref));
            let lost = (!lost.is_empty()).then(|| format!(", without {lost} of the first"));
            names::defined_twice(report, node.at, &what, first, lost.as_deref());
        }
        pools.insert(pool.name.clone(), (pool, own));
    }
    pools
}

/// Takes everything out of a pool that serves anything. Nodes that are there stay.
fn leave_out(pool: &mut Pool, reason: &str) {
    for label in std::mem::take(&mut pool.labels).into_keys() {
        pool.broken_labels.insert(label, format!("pool {} is left out: {reason}", pool.name));
    }
    if let Some(hosts) = &mut pool.hosts {
        for host in hosts.drain(..) {
            pool.broken_hosts.insert(host.id.name.clone(), format!("its pool is left out: {reason}"));
        }
        // Where the hosts could not be read at all, there are some all the same.
        if pool.broken_hosts.is_empty() {
            pool.broken_hosts.insert("all of its hosts".to_owned(), format!("their pool is left out: {reason}"));
        }
    }
}

/// Keys of every pool: a pool without labels and without what its driver reads.
pub fn pool(fields: &Fields<'_>, name: &str, common: &Common) -> Pool {
    let max_servers = fields.limit("max-servers");
    Pool {
        name: PoolName::from(name),
        priority: fields.int("priority").or(common.priority).unwrap_or(100),
        disabled: max_servers.is_some_and(|max| max <= 0.0),
        limits: Resources::new().with("instances", max_servers),
        ignore_provider_quota: false,
        availability_zones: Vec::new(),
        node_attributes: fields.json_map("node-attributes"),
        labels: IndexMap::new(),
        broken_labels: IndexMap::new(),
        broken_hosts: IndexMap::new(),
        hosts: None,
    }
}

/// Reads one of a pool's `labels` with `read`, which says nothing about a label that cannot be used, and whose errors are
/// that label's alone: unless this is `config-validate`, such a label is not an error of its provider, but one of the
/// pool's `broken_labels`. Of equal names the last counts.
pub fn label<T>(
    report: &Report,
    node: &Node,
    pool_fields: &Fields<'_>,
    pool: &mut Pool,
    scope: &Scope<'_>,
    read: impl FnOnce(&Report, &Fields<'_>, &LabelName) -> Option<T>,
) -> Option<(LabelName, T)> {
    let part = report.part();
    let Some((fields, name)) = Fields::named(&part, node, Some(&pool_fields.what), "label") else {
        settle(report, part, pool, &format!("in line {}, without a name", node.at.line).into(), "");
        return None;
    };
    let (name, what) = (LabelName::from(name), fields.what.clone());
    check_label(&part, fields.at(), &what, &name, scope);
    let label = read(&part, &fields, &name);
    fields.finish();
    let before = (pool.labels.shift_remove(&name).is_some(), pool.broken_labels.shift_remove(&name).is_some());
    if before != (false, false) {
        report.warning(
            node.at,
            format!("{what} is listed twice; this one counts"),
            Some("leave one of the two out".to_owned()),
        );
    }
    let is_usable = settle(report, part, pool, &name, &what);
    label.filter(|_| is_usable).map(|label| (name, label))
}

/// Checks a part of a pool's label, whose errors cost that label; whether it can be used. `what`: how its messages begin.
pub fn part_of_label(
    report: &Report,
    pool: &mut Pool,
    label: &LabelName,
    what: &str,
    check: impl FnOnce(&Report),
) -> bool {
    let part = report.part();
    check(&part);
    settle(report, part, pool, label, what)
}

/// Puts what was found in a label where it belongs; whether the label can be used. `what`: how its messages begin.
fn settle(report: &Report, part: Report, pool: &mut Pool, label: &LabelName, what: &str) -> bool {
    let errors = if report.strict() { Vec::new() } else { part.take_errors() };
    report.absorb(part);
    if errors.is_empty() {
        return true;
    }
    pool.broken_labels.insert(label.clone(), without_place(&errors, what));
    report.faulty(FaultyPart { pool: pool.name.clone(), part: Part::Label(label.clone()), errors });
    false
}

/// What is wrong with something, for those who know what it is. `what`: how the messages begin.
pub fn without_place(errors: &[ConfigError], what: &str) -> String {
    let of_it = |error: &ConfigError| {
        let message = error.message.strip_prefix(what).unwrap_or(&error.message);
        message.trim_start_matches([':', ' ']).to_owned()
    };
    errors.iter().map(of_it).collect::<Vec<_>>().join("; ")
}

/// The port by which nodes are connected to. Upstream takes 0, and no node is ever reached.
pub fn connection_port(fields: &Fields<'_>, key: &'static str) -> Option<u16> {
    let port = fields.port_or_zero(key);
    if port == Some(0) {
        let message = format!("{}: `{key}` is 0, so that no node can be connected to", fields.what);
        fields.report().lapse(fields.at_key(key), message, Some("write a number from 1 to 65535".to_owned()));
    }
    port
}

/// Checks that a pool's label is one of the top-level labels; upstream stops loading altogether where it is not.
pub fn check_label(report: &Report, at: Mark, what: &str, name: &LabelName, scope: &Scope<'_>) {
    if scope.labels.contains_key(name) || scope.doubtful_labels.has(name.as_str()) {
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
        let help = format!("name a diskimage that has it as its `parent`, or take `abstract` away from `{name}`");
        (format!("{what}: diskimage `{name}` is abstract and never built"), help)
    } else {
        let known = scope.diskimages.buildable.keys().map(AsRef::as_ref);
        let help = suggest(name, known).map_or_else(
            || format!("add `- name: {name}` to the top-level `diskimages`, which say how images are built"),
            |meant| format!("did you mean `{meant}`?"),
        );
        (format!("{what}: diskimage `{name}` is not among the top-level diskimages"), help)
    };
    report.error(at, message, Some(help));
}

/// Reports that a label boots from a cloud-image that its provider lacks. `known`: those that it has; `diskimages`: its own.
pub fn no_cloud_image(
    report: &Report,
    label: &Fields<'_>,
    name: &str,
    known: &IndexSet<String>,
    diskimages: &IndexSet<String>,
) {
    let help = if diskimages.contains(name) {
        format!("`{name}` is one of its `diskimages`: write `diskimage: {name}`")
    } else {
        suggest(name, known.iter().map(String::as_str)).map_or_else(
            || {
                format!(
                    "add `- name: {name}` to the `cloud-images` of the provider, with what else its driver asks for"
                )
            },
            |meant| format!("did you mean `{meant}`?"),
        )
    };
    let message = format!("{}: there is no cloud-image `{name}` in the provider", label.what);
    report.error(label.at_key("cloud-image"), message, Some(help));
}
