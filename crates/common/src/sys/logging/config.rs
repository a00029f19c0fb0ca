//! Python's `logging.config.dictConfig`, as far as it makes sense here, into a [`Router`].
//!
//! What upstream's users and the operator configure is understood: formatters with `%` formats, stream, file and
//! Fluent handlers, loggers by dotted name. What is not (other classes, filters, unknown levels) costs one warning
//! that names it and is left out: a launcher does not die of its log. What cannot be left out, such as a log file
//! that cannot be opened, is an error.

use std::{collections::BTreeMap, io, path::PathBuf};

use serde_json::{Map, Value};

use super::{
    LogError,
    fluent::Forwarder,
    format::{Formatter, Template, is_datefmt},
    output::{Handler, LogFile, Sink},
    record::Level,
    router::{Logger, Router},
    stream::Stream,
};

/// A router, and what was left out of it.
pub type Routed = (Router, Vec<String>);

/// Makes the router of a configuration. Opens its files, starts its forwarders.
pub fn route(config: &Map<String, Value>) -> Result<Routed, LogError> {
    let mut reader = Reader { warnings: Vec::new() };
    if config.get("version").and_then(Value::as_i64) != Some(1) {
        reader.warn("version is not 1; reading it as 1".to_owned());
    }
    for ignored in ["filters", "incremental"] {
        if config.get(ignored).is_some_and(|value| !matches!(value, Value::Bool(false))) {
            reader.warn(format!("{ignored} has no effect"));
        }
    }
    let formatters = section(config, "formatters")
        .map(|(name, value)| (name.to_owned(), reader.formatter(name, value)))
        .collect::<BTreeMap<_, _>>();
    let mut handlers = Vec::new();
    let mut indices = BTreeMap::new();
    for (name, value) in section(config, "handlers") {
        let sink = reader.sink(name, value)?;
        let formatter = match text(value, "formatter") {
            None => Formatter::bare(),
            Some(wanted) => formatters.get(wanted).cloned().unwrap_or_else(|| {
                reader.warn(format!("handler {name}: there is no formatter {wanted}"));
                Formatter::bare()
            }),
        };
        let level = reader.level(&format!("handler {name}"), value.get("level")).unwrap_or(Level::NOTSET);
        // One that cannot be made still stands for its name: its records go nowhere, rather than to stderr.
        indices.insert(name, handlers.len());
        handlers.push(Handler { level, formatter, sink });
    }
    let mut loggers = BTreeMap::new();
    let root = config.get("root").into_iter().map(|root| ("", root));
    for (name, value) in section(config, "loggers").chain(root) {
        let what = if name.is_empty() { "the root logger".to_owned() } else { format!("logger {name}") };
        let mut used = Vec::new();
        for handler in value.get("handlers").and_then(Value::as_array).into_iter().flatten() {
            match handler.as_str().and_then(|handler| indices.get(handler)) {
                Some(index) => used.push(*index),
                None => reader.warn(format!("{what}: there is no handler {handler}")),
            }
        }
        let logger = Logger {
            level: reader.level(&what, value.get("level")),
            handlers: used,
            propagate: value.get("propagate").is_none_or(truth),
        };
        loggers.insert(if name == "root" { String::new() } else { name.to_owned() }, logger);
    }
    Ok((Router { loggers, handlers }, reader.warnings))
}

struct Reader {
    warnings: Vec<String>,
}

impl Reader {
    fn warn(&mut self, text: String) {
        self.warnings.push(text);
    }

    fn level(&mut self, what: &str, value: Option<&Value>) -> Option<Level> {
        let value = value.filter(|value| !value.is_null())?;
        let level = match value {
            Value::String(name) => Level::parse(name),
            Value::Number(number) => number.as_u64().and_then(|number| u8::try_from(number).ok()).map(Level),
            _ => None,
        };
        if level.is_none() {
            self.warn(format!("{what}: there is no level {value}; use DEBUG, INFO, WARNING, ERROR or CRITICAL"));
        }
        level
    }

    fn formatter(&mut self, name: &str, value: &Value) -> Formatter {
        let class = class(value);
        let datefmt = text(value, "datefmt");
        if datefmt.is_some_and(|text| !is_datefmt(text)) {
            self.warn(format!("formatter {name}: datefmt is not understood; the default is used"));
        }
        if text(value, "style").is_some_and(|style| style != "%") {
            self.warn(format!("formatter {name}: only style % is understood"));
            return Formatter::bare();
        }
        match value.get("format").or_else(|| value.get("fmt")) {
            Some(Value::Object(keys)) => Formatter::Fluent(
                keys.iter()
                    .map(|(key, value)| {
                        (key.clone(), value.clone(), value.as_str().map(|text| Template::parse(text, datefmt)))
                    })
                    .collect(),
            ),
            _ if class.starts_with("fluent.") => {
                let defaults = [("sys_host", "%(hostname)s"), ("sys_name", "%(name)s"), ("sys_module", "%(module)s")];
                Formatter::Fluent(
                    defaults
                        .into_iter()
                        .map(|(key, text)| (key.to_owned(), Value::Null, Some(Template::parse(text, datefmt))))
                        .collect(),
                )
            }
            format => {
                let multi_line = class == "nodepool.logconfig.MultiLineFormatter";
                if !multi_line && !matches!(class, "" | "logging.Formatter") {
                    self.warn(format!("formatter {name}: class {class} is not known; its format is used as it stands"));
                }
                let format = format.and_then(Value::as_str).unwrap_or("%(message)s");
                Formatter::Line { template: Template::parse(format, datefmt), multi_line }
            }
        }
    }

    fn sink(&mut self, name: &str, value: &Value) -> Result<Sink, LogError> {
        let class = class(value);
        if value.get("filters").is_some() {
            self.warn(format!("handler {name}: filters have no effect"));
        }
        Ok(match class.rsplit('.').next().unwrap_or_default() {
            "StreamHandler" => match text(value, "stream") {
                Some("ext://sys.stdout") => Sink::Stream(Stream::on(io::stdout())),
                None | Some("ext://sys.stderr") => Sink::Stream(Stream::on(io::stderr())),
                Some(other) => {
                    self.warn(format!("handler {name}: stream {other} is not known; using stderr"));
                    Sink::Stream(Stream::on(io::stderr()))
                }
            },
            kind @ ("FileHandler" | "WatchedFileHandler" | "RotatingFileHandler" | "TimedRotatingFileHandler") => {
                let Some(path) = text(value, "filename") else {
                    self.warn(format!("handler {name}: filename is missing; its records go nowhere"));
                    return Ok(Sink::Null);
                };
                if kind == "TimedRotatingFileHandler" {
                    self.warn(format!(
                        "handler {name}: {path} is not rotated by time here; have logrotate do it, the file is opened anew"
                    ));
                }
                let rotating = kind == "RotatingFileHandler";
                let number = |key| value.get(key).and_then(Value::as_u64).filter(|_| rotating).unwrap_or(0);
                let backups = u32::try_from(number("backupCount")).unwrap_or(u32::MAX).min(1000);
                let path = PathBuf::from(path);
                Sink::File(
                    LogFile::open(path.clone(), number("maxBytes"), backups)
                        .map_err(|source| LogError::LogFile { path, source })?,
                )
            }
            "FluentHandler" => {
                let host = text(value, "host").unwrap_or("localhost").to_owned();
                let port =
                    value.get("port").and_then(number).and_then(|port| u16::try_from(port).ok()).unwrap_or(24224);
                let tag = text(value, "tag").unwrap_or("nodepool").to_owned();
                let nanoseconds = value.get("nanosecond_precision").is_some_and(truth);
                if host.starts_with("unix://") {
                    self.warn(format!("handler {name}: {host}: only TCP is supported; its records go nowhere"));
                    return Ok(Sink::Null);
                }
                match Forwarder::start(host, port, tag, nanoseconds) {
                    Ok(forwarder) => Sink::Fluent(forwarder),
                    Err(error) => {
                        self.warn(format!("handler {name}: cannot start its thread: {error}; its records go nowhere"));
                        Sink::Null
                    }
                }
            }
            "NullHandler" => Sink::Null,
            _ => {
                self.warn(format!("handler {name}: class {class} is not known; its records go nowhere"));
                Sink::Null
            }
        })
    }
}

fn section<'a>(config: &'a Map<String, Value>, name: &str) -> impl Iterator<Item = (&'a str, &'a Value)> + use<'a> {
    config.get(name).and_then(Value::as_object).into_iter().flatten().map(|(key, value)| (key.as_str(), value))
}

fn text<'a>(value: &'a Value, key: &str) -> Option<&'a str> {
    value.get(key).and_then(Value::as_str)
}

/// `class`, or the factory `()`.
fn class(value: &Value) -> &str {
    text(value, "class").or_else(|| text(value, "()")).unwrap_or_default()
}

fn number(value: &Value) -> Option<u64> {
    value.as_u64().or_else(|| value.as_str()?.trim().parse().ok())
}

/// Python's idea of truth, for what configurations contain.
fn truth(value: &Value) -> bool {
    match value {
        Value::Bool(yes) => *yes,
        Value::Number(number) => number.as_f64() != Some(0.0),
        Value::Null => false,
        Value::String(text) => !text.is_empty(),
        Value::Array(_) | Value::Object(_) => true,
    }
}
