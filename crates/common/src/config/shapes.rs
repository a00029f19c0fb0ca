//! What was written as a list, a mapping or a text although it must be another of them, and how to write it.
//!
//! Each function says for a node that has the wrong shape what the right one looks like, with the node's own names in it, but no
//! values of environment variables: those may be passwords, and a daemon's errors are there for everybody to read. The caller
//! has found that the shape is wrong; an answer is always given, at least in general words.

use super::{
    unbuildable,
    yaml::{Meaning, Node, Value, without_space},
    zookeeper_servers,
};

/// The key that each item of a list begins with.
pub fn head(list: &str) -> &'static str {
    match list {
        "zookeeper-servers" => "host",
        "tenant-resource-limits" => "tenant-name",
        _ => "name",
    }
}

/// A list of mappings, each with that first key.
pub fn as_list(list: &str, node: &Node) -> String {
    let head = head(list);
    if let Some(help) = zookeeper_servers::as_list(node).filter(|_| list == "zookeeper-servers") {
        return help;
    }
    match &node.value {
        Value::Map(entries) => {
            let Some((first, value)) = entries.first() else { return "write `[]` for none".to_owned() };
            if let Some(key) = first.as_text().and_then(|key| key.strip_prefix('-')) {
                return format!("write `- {key}: {}`, with a space behind the dash", shown(value));
            }
            if let Some(value) = node.get(head) {
                return format!(
                    "begin each item with a dash: `- {head}: {}`, and its other keys below `{head}`",
                    shown(value)
                );
            }
            let name = shown(first);
            if list == "env" {
                return format!("write each as `- {{name: {name}, value: …}}`");
            }
            format!("write each as `- {head}: {name}`, and its other keys below `{head}`")
        }
        _ => as_item(head, node),
    }
}

/// An item of a list of mappings.
pub fn as_item(head: &str, node: &Node) -> String {
    match &node.value {
        Value::Scalar(Meaning::Text, text) => {
            if let Some((name, _)) = text.split_once('=').filter(|_| head == "name") {
                return format!("write `- {{name: {name}, value: …}}`");
            }
            if let Some(value) = text.strip_prefix(head).and_then(|rest| rest.strip_prefix(' ')) {
                return format!("write `- {head}: {value}`, with a colon behind `{head}`");
            }
            without_space(text).map_or_else(
                || format!("write `- {head}: {}`", shown(node)),
                |meant| format!("write `- {meant}`, with a space behind the colon"),
            )
        }
        Value::List(items) if items.len() == 1 && items[0].entries().is_some() => {
            "write it with one dash only".to_owned()
        }
        _ => format!("write `- {head}: …`, and its other keys below `{head}`"),
    }
}

/// A mapping.
pub fn as_mapping(node: &Node) -> String {
    let name = |node: &Node| match (node.get("name"), &node.value) {
        (Some(name), _) if node.get("value").is_some() => Some(shown(name)),
        (_, Value::Map(entries)) => entries.first().map(|(key, _)| shown(key)),
        (_, Value::Scalar(Meaning::Text, text)) => {
            let is_pair = text.contains('=') || without_space(text).is_some();
            text.split(['=', ':']).next().filter(|_| is_pair).map(str::to_owned)
        }
        _ => None,
    };
    let items = node.items();
    let first = items.map_or_else(|| name(node), |items| items.first().and_then(|item| name(item)));
    let dash = if items.is_some() { ", without a dash" } else { "" };
    first.map_or_else(|| format!("write `KEY: VALUE`{dash}"), |name| format!("write `{name}: …`{dash}"))
}

/// The value of a key that is a single text.
pub fn as_text(key: &str, node: &Node) -> String {
    let one = match &node.value {
        Value::List(items) => items.first().filter(|item| items.len() == 1 && is_plain(item)),
        _ => node.get("name").filter(|name| is_plain(name)),
    };
    one.map_or_else(|| format!("write `{key}: TEXT`"), |one| format!("write `{key}: {}`", shown(one)))
}

/// A list of texts.
pub fn as_texts(key: &str, node: &Node) -> String {
    match &node.value {
        Value::Scalar(_, text) => {
            // None of these has a space in it; a network may.
            let are_words = matches!(key, "elements" | "formats" | "keep-formats");
            let words = text.split(|c: char| c == ',' || are_words && c.is_whitespace()).map(str::trim);
            let words: Vec<_> =
                words.filter(|word| !matches!(*word, "" | "-")).map(|word| in_brackets(key, word)).collect();
            format!("write it as a list: [{}]", words.join(", "))
        }
        _ => match node.get("name").filter(|name| is_plain(name)) {
            Some(name) => format!("write the names alone, as a list: [{}]", shown(name)),
            None => "write texts alone, as a list: [ONE, ANOTHER]".to_owned(),
        },
    }
}

/// An item of a list of texts.
pub fn as_text_item(key: &str, node: &Node) -> String {
    let one =
        node.get("name").or_else(|| node.entries().filter(|entries| entries.len() == 1).map(|entries| &entries[0].1));
    let Some(one) = one.filter(|one| is_plain(one)) else { return "write a text alone".to_owned() };
    let before = if key == "networks" { ": earlier versions of Nodepool had a mapping there" } else { "" };
    format!("write `- {}` alone{before}", shown(one))
}

/// What an item of a list of texts was meant to be, in its place within brackets.
fn in_brackets(key: &str, word: &str) -> String {
    let word = if matches!(key, "formats" | "keep-formats") { unbuildable::meant_format(word) } else { word };
    let is_plain = |c: char| !c.is_whitespace() && !",[]{}:#&*!|>'\"%@`".contains(c);
    if word.chars().all(is_plain) { word.to_owned() } else { format!("'{}'", word.replace('\'', "''")) }
}

const fn is_plain(node: &Node) -> bool {
    matches!(node.value, Value::Scalar(..)) && !node.is_null()
}

/// A value as it stands, if it is short.
fn shown(node: &Node) -> String {
    match &node.value {
        Value::Scalar(_, text) if !text.is_empty() && text.len() <= 60 && !text.contains('\n') => text.clone(),
        _ => "…".to_owned(),
    }
}
