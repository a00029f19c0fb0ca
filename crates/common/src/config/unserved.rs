//! Labels that are to be kept ready, and that no pool of the file serves.
//!
//! Neither upstream nor we ask for nodes of them (`nodepool 11.0.0: launcher.py createMinReady`). That is no error: where
//! several launchers have a file each, all of them may have the same top-level labels.

use std::collections::HashSet;

use super::{
    report::Report,
    yaml::{Mark, Node, Value},
};

/// How many of them are named.
const NAMED: usize = 5;

/// Warns of all of them in one line, at the first.
pub fn check(report: &Report, root: &Node) {
    let served = served(root);
    let waits = |label: &Node| {
        let name = text(label, "name").filter(|name| !served.contains(name))?;
        let min_ready = label.get("min-ready").filter(|count| count.is_above_0())?;
        Some((name.to_owned(), min_ready.at))
    };
    let unserved: Vec<(String, Mark)> = items(root, "labels").filter_map(waits).collect();
    let Some((_, first)) = unserved.first() else { return };
    let mut names: Vec<_> = unserved.iter().take(NAMED).map(|(name, _)| format!("`{name}`")).collect();
    if unserved.len() > NAMED {
        names.push(format!("{} more", unserved.len() - NAMED));
    }
    let message = format!("nothing is kept ready for {}: no pool of this file serves it", names.join(", "));
    let help = "name it in the `labels` of a pool, or of a node of a static pool, or leave `min-ready` out; where another launcher \
         with a file of its own serves it, all is well";
    report.warning(*first, message, Some(help.to_owned()));
}

/// The labels that pools name, those of metastatic pools and of static hosts too.
fn served(root: &Node) -> HashSet<&str> {
    let mut served = HashSet::new();
    if root.get("providers").is_none_or(|providers| providers.items().is_none()) {
        let others = root.entries().unwrap_or_default().iter();
        others.filter(|(key, _)| key.as_text() != Some("labels")).for_each(|(_, value)| mentioned(value, &mut served));
    }
    for provider in items(root, "providers") {
        if provider.get("pools").is_none_or(|pools| pools.items().is_none()) {
            mentioned(provider, &mut served);
        }
    }
    for pool in items(root, "providers").flat_map(|provider| items(provider, "pools")) {
        if ["labels", "nodes"].into_iter().all(|key| pool.get(key).is_none_or(|list| list.items().is_none())) {
            mentioned(pool, &mut served);
        }
        served.extend(items(pool, "labels").filter_map(|label| text(label, "name")));
        for node in items(pool, "nodes") {
            served.extend(text(node, "labels").into_iter().flat_map(str::split_whitespace));
            served.extend(items(node, "labels").filter_map(Node::as_text));
        }
    }
    served
}

/// All texts in what is perhaps a pool under a misspelt key, or one in another form: that was told.
fn mentioned<'a>(node: &'a Node, texts: &mut HashSet<&'a str>) {
    match &node.value {
        Value::Scalar(_, text) => {
            texts.insert(text);
        }
        Value::List(items) => items.iter().for_each(|item| mentioned(item, texts)),
        Value::Map(entries) => entries.iter().for_each(|(key, value)| {
            mentioned(key, texts);
            mentioned(value, texts);
        }),
    }
}

/// The items of a list in a mapping; none where there is no such list.
pub fn items<'a>(node: &'a Node, key: &str) -> impl Iterator<Item = &'a Node> {
    node.get(key).and_then(|node| node.items()).unwrap_or_default().iter().map(AsRef::as_ref)
}

/// The text of a key in a mapping.
pub fn text<'a>(node: &'a Node, key: &str) -> Option<&'a str> {
    node.get(key).and_then(|node| node.as_text())
}
