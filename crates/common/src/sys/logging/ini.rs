//! Python's `logging.config.fileConfig`: an INI file, rewritten as the mapping that [`super::config`] reads.
//!
//! `[loggers]`, `[handlers]` and `[formatters]` list keys; `[logger_KEY]`, `[handler_KEY]`, `[formatter_KEY]` say
//! more. A handler's `args` is a Python tuple; the few shapes that occur (a stream, a file name, a host and a port)
//! are understood.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

type Sections = BTreeMap<String, BTreeMap<String, String>>;

/// The mapping of an INI file; the error says what is wrong with it.
pub fn parse(text: &str) -> Result<Map<String, Value>, String> {
    let sections = sections(text)?;
    let mut config = Map::from_iter([("version".to_owned(), json!(1))]);
    let mut loggers = Map::new();
    for (kind, plural) in [("formatter", "formatters"), ("handler", "handlers"), ("logger", "loggers")] {
        let keys = sections.get(plural).and_then(|section| section.get("keys"));
        let keys = keys.ok_or_else(|| format!("there is no section [{plural}] with keys"))?;
        let mut entries = Map::new();
        for key in list(keys) {
            let name = format!("{kind}_{key}");
            let section = sections.get(&name).ok_or_else(|| format!("there is no section [{name}]"))?;
            match kind {
                "formatter" => entries.insert(key.to_owned(), formatter(section)),
                "handler" => entries.insert(key.to_owned(), handler(section)),
                _ if key == "root" => config.insert("root".to_owned(), logger(section)),
                _ => {
                    let qualname = section.get("qualname").map_or(key, String::as_str);
                    loggers.insert(qualname.to_owned(), logger(section))
                }
            };
        }
        if kind != "logger" {
            config.insert(plural.to_owned(), Value::Object(entries));
        }
    }
    config.insert("loggers".to_owned(), Value::Object(loggers));
    Ok(config)
}

fn sections(text: &str) -> Result<Sections, String> {
    let mut sections = Sections::new();
    let mut current: Option<(String, String)> = None;
    for (number, line) in text.lines().enumerate() {
        let trimmed = line.trim();
        if trimmed.is_empty() || trimmed.starts_with(['#', ';']) {
            continue;
        }
        if let Some(name) = trimmed.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            sections.entry(name.to_owned()).or_default();
            current = Some((name.to_owned(), String::new()));
        } else if let Some((section, key)) = &mut current {
            let entries = sections.entry(section.clone()).or_default();
            if line.starts_with([' ', '\t']) && !key.is_empty() {
                let value = entries.entry(key.clone()).or_default();
                value.push('\n');
                value.push_str(trimmed);
            } else if let Some((name, value)) = trimmed.split_once(['=', ':']) {
                name.trim().to_lowercase().clone_into(key);
                entries.insert(key.clone(), value.trim().to_owned());
            } else {
                return Err(format!("line {}: neither a section nor a key with a value", number + 1));
            }
        } else {
            return Err(format!("line {}: it stands in no section", number + 1));
        }
    }
    Ok(sections)
}

fn list(keys: &str) -> impl Iterator<Item = &str> {
    keys.split(',').map(str::trim).filter(|key| !key.is_empty())
}

fn formatter(section: &BTreeMap<String, String>) -> Value {
    let mut value = Map::new();
    for key in ["class", "format", "datefmt", "style"] {
        if let Some(text) = section.get(key).filter(|text| !text.is_empty()) {
            value.insert(key.to_owned(), json!(text));
        }
    }
    Value::Object(value)
}

fn logger(section: &BTreeMap<String, String>) -> Value {
    let mut value = Map::new();
    if let Some(level) = section.get("level").filter(|level| !level.is_empty()) {
        value.insert("level".to_owned(), json!(level));
    }
    let handlers = section.get("handlers").map(String::as_str).unwrap_or_default();
    value.insert("handlers".to_owned(), list(handlers).collect::<Vec<_>>().into());
    if let Some(propagate) = section.get("propagate") {
        value.insert("propagate".to_owned(), json!(propagate.trim() != "0"));
    }
    Value::Object(value)
}

fn handler(section: &BTreeMap<String, String>) -> Value {
    let class = section.get("class").map(String::as_str).unwrap_or_default();
    let mut value = Map::from_iter([("class".to_owned(), json!(class))]);
    for key in ["level", "formatter"] {
        if let Some(text) = section.get(key).filter(|text| !text.is_empty()) {
            value.insert(key.to_owned(), json!(text));
        }
    }
    let args = arguments(section.get("args").map(String::as_str).unwrap_or_default());
    let names: &[&str] = match class.rsplit('.').next().unwrap_or_default() {
        "StreamHandler" => &["stream"],
        "RotatingFileHandler" => &["filename", "mode", "maxBytes", "backupCount"],
        "FileHandler" | "WatchedFileHandler" | "TimedRotatingFileHandler" => &["filename"],
        "FluentHandler" => &["tag", "host", "port"],
        _ => &[],
    };
    for (name, argument) in names.iter().zip(args) {
        value.insert((*name).to_owned(), argument);
    }
    Value::Object(value)
}

/// The elements of a Python tuple of literals; `sys.stdout` becomes `ext://sys.stdout`. Commas inside quotes split
/// too: no handler that we know has one there.
fn arguments(text: &str) -> Vec<Value> {
    let inner = text.trim().trim_start_matches('(').trim_end_matches(')');
    inner
        .split(',')
        .map(str::trim)
        .filter(|item| !item.is_empty())
        .map(|item| {
            if let Some(quoted) = item.strip_prefix(['\'', '"']).and_then(|rest| rest.strip_suffix(['\'', '"'])) {
                json!(quoted)
            } else if let Ok(number) = item.parse::<i64>() {
                json!(number)
            } else {
                json!(format!("ext://{item}"))
            }
        })
        .collect()
}
