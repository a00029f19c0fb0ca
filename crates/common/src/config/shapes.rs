//! What was written as a list, a mapping or a text although it must be another of them, and how to write it.
//!
//! Each function says for a node that has the wrong shape what the right one looks like, with the node's own names in it, but no
//! values of environment variables: those may be passwords, and a daemon's errors are there for everybody to read. The caller
//! has found that the shape is wrong; an answer is always given, at least in general words.

use super::{
    formats,
    yaml::{Meaning, Node, Value, is_plain_text, without_space},
    zookeeper_texts,
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
    if let Some(help) = zookeeper_texts::as_list(node).filter(|_| list == "zookeeper-servers") {
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
                    as_a_text(value)
                );
            }
            if list == "env" {
                return format!("write each as `- {{name: {}, value: …}}`", shown(first));
            }
            format!("write each as `- {head}: {}`, and its other keys below `{head}`", as_a_text(first))
        }
        _ => as_item(head, node),
    }
}

/// An item of a list of mappings.
pub fn as_item(head: &str, node: &Node) -> String {
    match &node.value {
        Value::Scalar(Meaning::Text, text) => {
            if let Some(value) = text.strip_prefix(head).and_then(|rest| rest.strip_prefix(": ")) {
                return format!("take the quotes away: `- {head}: {}`", value.trim());
            }
            if head == "name" && text.contains(", ") && !text.contains(['=', ':']) {
                let names: Vec<_> = text.split(',').map(|name| format!("`- name: {}`", name.trim())).collect();
                return format!("write an item for each: {}", names.join(", "));
            }
            if let Some((key, value)) = pair(text) {
                if key == head {
                    return format!("write `- {head}: {value}`, with a colon in the place of `=`");
                }
                return format!("write `- {head}: …` first, and `{key}: {value}` below `{head}`");
            }
            if let Some(value) = text.strip_prefix(head).and_then(|rest| rest.strip_prefix(' ')) {
                return format!("write `- {head}: {value}`, with a colon behind `{head}`");
            }
            without_space(text).map_or_else(
                || format!("write `- {head}: {}`", as_a_text(node)),
                |meant| format!("write `- {meant}`, with a space behind the colon"),
            )
        }
        Value::List(items) if items.len() == 1 && items[0].entries().is_some() => {
            "write it with one dash only".to_owned()
        }
        _ => format!("write `- {head}: …`, and its other keys below `{head}`"),
    }
}

/// An item of `env`: `A=b` is a name and a value.
pub fn as_variable(node: &Node) -> String {
    match node.as_text().and_then(pair) {
        Some((name, _)) => format!("write `- {{name: {name}, value: …}}`"),
        None => as_item("name", node),
    }
}

/// `key = value` and `key=value`.
fn pair(text: &str) -> Option<(&str, &str)> {
    let (key, value) = text.split_once('=')?;
    let (key, value) = (key.trim(), value.trim());
    let is_key = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
    (!key.is_empty() && key.chars().all(is_key) && !value.is_empty()).then_some((key, value))
}

/// A mapping.
pub fn as_mapping(node: &Node) -> String {
    mapping(node, true)
}

/// A mapping whose values are not repeated.
pub fn as_mapping_of_secrets(node: &Node) -> String {
    mapping(node, false)
}

fn mapping(node: &Node, shows_values: bool) -> String {
    const MOST: usize = 4;
    let entry = |key: &str, value: Option<&Node>| {
        let value = value.filter(|_| shows_values).map_or_else(|| "…".to_owned(), shown);
        format!("`{key}: {value}`")
    };
    let of_text = |text: &str| match text.split_once(['=', ':']) {
        Some((key, value)) if shows_values => format!("`{}: {}`", key.trim(), value.trim()),
        Some((key, _)) => format!("`{}: …`", key.trim()),
        None => format!("`{text}: …`"),
    };
    let entries = |node: &Node| match (node.get("name"), &node.value) {
        (Some(name), _) if node.get("value").is_some() => {
            vec![entry(&shown(name), node.get("value").map(AsRef::as_ref))]
        }
        (_, Value::Map(entries)) => entries.iter().map(|(key, value)| entry(&shown(key), Some(value))).collect(),
        (_, Value::Scalar(Meaning::Text, text)) if !text.is_empty() => vec![of_text(text)],
        _ => Vec::new(),
    };
    let items = node.items();
    let is_pair = |text: &str| text.contains('=') || without_space(text).is_some();
    let mut written: Vec<_> = match items {
        Some(items) => items.iter().flat_map(|item| entries(item)).collect(),
        None if node.as_text().is_some_and(is_pair) => entries(node),
        None => Vec::new(),
    };
    let dash = if items.is_none() {
        ""
    } else if written.len() == 1 {
        ", without a dash"
    } else {
        ", without dashes"
    };
    if written.len() > MOST {
        written.truncate(MOST);
        written.push("so on".to_owned());
    }
    match written.split_last() {
        None => format!("write keys below it, each with a colon and its value{dash}"),
        Some((one, [])) => format!("write {one}{dash}"),
        Some((last, first)) => format!("write {} and {last}{dash}", first.join(", ")),
    }
}

/// A mapping that is the value of a key.
pub fn as_mapping_of(key: &str, node: &Node) -> String {
    match (key, &node.value) {
        ("env-vars", _) => as_mapping_of_secrets(node),
        ("spec", Value::Scalar(..) | Value::List(_)) => {
            "write the pod as it is: `spec: {containers: [{name: …, image: …}]}`".to_owned()
        }
        ("ansible", Value::Scalar(Meaning::Text, _)) => format!("write `ansible: {{playbook: {}}}`", shown(node)),
        _ => as_mapping(node),
    }
}

/// A key that was misspelt, with its value where that has to be written otherwise, too.
pub fn with_its_list(key: &str, value: &Node) -> String {
    match &value.value {
        Value::Scalar(..) if LISTS_OF_TEXTS.contains(&key) && !value.is_null() => {
            let list = as_texts(key, value);
            list.split_once(": ").map_or_else(|| key.to_owned(), |(_, list)| format!("{key}: {list}"))
        }
        _ => key.to_owned(),
    }
}

/// The keys whose value is a list of texts, and not a text.
const LISTS_OF_TEXTS: [&str; 6] =
    ["elements", "formats", "keep-formats", "networks", "security-groups", "availability-zones"];

/// The value of a key that is a single text.
pub fn as_text(key: &str, node: &Node) -> String {
    let paths = node.items().filter(|items| key == "elements-dir" && items.iter().all(|item| is_plain(item)));
    if let Some(paths) = paths.filter(|paths| !paths.is_empty()) {
        let paths: Vec<_> = paths.iter().map(|path| shown(path)).collect();
        return format!("write `{key}: {}`, with a colon between them", paths.join(":"));
    }
    let one = match &node.value {
        Value::List(items) => items.first().filter(|item| items.len() == 1 && is_plain(item)),
        Value::Map(entries) => {
            let single = entries.first().filter(|_| entries.len() == 1).map(|(_, value)| value);
            node.get("name").or(single).filter(|one| is_plain(one))
        }
        Value::Scalar(..) => None,
    };
    if let Some(one) = one {
        return format!("write `{key}: {}`", as_a_text(one));
    }
    if key == "userdata" && node.entries().is_some() {
        return "write it as a text of several lines: `userdata: |`, and what stands below as it is".to_owned();
    }
    let items = node.items().unwrap_or_default();
    let words: Option<Vec<&str>> = items.iter().map(|item| item.as_text()).collect();
    match words.filter(|words| !words.is_empty()) {
        Some(words) if key == "dib-cmd" => match shlex::try_join(words) {
            Ok(command) if command.len() <= 200 => format!("write it in one line: `{key}: {command}`"),
            _ => format!("write it in one line: `{key}: PROGRAM ARGUMENT…`"),
        },
        Some(_) => format!("it has one value only: write `{key}: {}`", as_a_text(&items[0])),
        None => format!("write a single text behind `{key}:`, in the same line"),
    }
}

/// A list of texts.
pub fn as_texts(key: &str, node: &Node) -> String {
    match &node.value {
        Value::Scalar(_, text) => {
            // None of these has a space in it; a network may.
            let are_words = matches!(key, "elements" | "formats" | "keep-formats");
            let dash = |word| if are_words { str::trim_start_matches(word, '-') } else { word };
            let words = text.split(|c: char| c == ',' || are_words && c.is_whitespace()).map(str::trim).map(dash);
            let words: Vec<_> =
                words.filter(|word| !matches!(*word, "" | "-")).map(|word| in_brackets(key, word)).collect();
            format!("write it as a list: [{}]", words.join(", "))
        }
        _ => match (node.get("name").filter(|name| is_plain(name)), node.entries()) {
            (Some(name), _) => format!("write the names alone, as a list: [{}]", shown(name)),
            (None, Some(entries)) if !entries.is_empty() && entries.iter().all(|(key, _)| is_plain(key)) => {
                let keys: Vec<_> = entries.iter().map(|(name, _)| in_brackets(key, &shown(name))).collect();
                format!("write the names alone, as a list: [{}]", keys.join(", "))
            }
            _ => "write texts alone, as a list: [ONE, ANOTHER]".to_owned(),
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
    let word = if matches!(key, "formats" | "keep-formats") { formats::meant_format(word) } else { word };
    let is_plain = |c: char| !c.is_whitespace() && !",[]{}:#&*!|>'\"%@`".contains(c);
    if word.chars().all(is_plain) && is_plain_text(word) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', "''"))
    }
}

/// Whether it is a single value.
pub const fn is_plain(node: &Node) -> bool {
    matches!(node.value, Value::Scalar(..)) && !node.is_null()
}

/// A value as a text is written that means the same to YAML: in quotes where it would mean something else without.
fn as_a_text(node: &Node) -> String {
    let text = shown(node);
    if text == "…" || is_plain_text(&text) { text } else { format!("'{}'", text.replace('\'', "''")) }
}

/// A value as it stands, if it is short.
pub fn shown(node: &Node) -> String {
    match &node.value {
        Value::Scalar(_, text) if !text.is_empty() && text.len() <= 60 && !text.contains('\n') => text.clone(),
        _ => "…".to_owned(),
    }
}
