//! Python Nodepool's log, from tracing's events.
//!
//! Whoever reads Nodepool's logs today, person or program, must not notice the difference: the same lines
//! (`2026-11-23 02:57:40,123 INFO nodepool.PoolWorker.rdo-main: [e: …] [node_request: …] [node: …] message`), the same
//! logger names, the same Python logging configuration with `-l`.
//!
//! * `layer`: events and spans into `record`s. The fields `event_id`, `request` and `node`, of the event or of a
//!   span around it, become the annotation; the field `logger` names the logger (else the module does); other fields
//!   follow the message as `key=value`.
//! * `router`: Python's tree of loggers, levels and handlers
//! * `format`, `output`, `stream`, `fluent`: what handlers make of records, and where they put them
//! * `config`, `ini`: the `-l` file, as mapping (YAML, JSON) or in the old INI form

// Its threads belong to no runtime.
#![allow(clippy::disallowed_methods)]

mod config;
mod error;
mod fluent;
mod format;
mod ini;
mod layer;
mod output;
mod record;
mod router;
mod stream;

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use serde_json::{Map, Value, json};
use tracing_subscriber::layer::SubscriberExt as _;

pub use self::error::LogError;
use self::{
    layer::{LogBridge, PythonLayer},
    router::Router,
};

/// The command line's part in logging.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogOptions {
    /// `-l FILE`.
    pub config: Option<PathBuf>,
    /// `-f`: to stdout rather than a file.
    pub foreground: bool,
    /// `-d`: to stdout, with DEBUG. Without effect together with `-l`.
    pub debug: bool,
    /// The name of the log file where neither is given: `nodepool` (launcher) or `nodepool-builder`.
    pub app: &'static str,
}

/// Keep it until the end of `main`: what is on its way to Fluentd gets a moment when it is dropped.
#[derive(Debug)]
#[must_use]
pub struct LogGuard(Arc<Router>);

impl Drop for LogGuard {
    fn drop(&mut self) {
        self.0.flush();
    }
}

/// Sets up logging for a daemon, for the life of the process.
pub fn init(options: &LogOptions) -> Result<LogGuard, LogError> {
    let config = match &options.config {
        Some(path) => read(path)?,
        None => daemon_default(options),
    };
    install(&config)
}

/// Sets up logging for the `nodepool` command: stderr; `--debug` outdoes `-l` (`nodepool 11.0.0: cmd/nodepoolcmd.py`).
pub fn init_command_line(config: Option<&Path>, debug: bool) -> Result<LogGuard, LogError> {
    let config = match config {
        Some(path) if !debug => read(path)?,
        _ => command_default(debug),
    };
    install(&config)
}

fn install(config: &Map<String, Value>) -> Result<LogGuard, LogError> {
    let (router, warnings) = config::route(config)?;
    let router = Arc::new(router);
    let subscriber = tracing_subscriber::registry().with(PythonLayer::new(router.clone()));
    tracing::subscriber::set_global_default(subscriber).map_err(|_| LogError::Twice)?;
    // `log` is only what some third-party crates use; that somebody else has set it up is no reason to stop.
    if log::set_boxed_logger(Box::new(LogBridge(router.clone()))).is_ok() {
        log::set_max_level(log::LevelFilter::Debug);
    }
    for warning in warnings {
        tracing::warn!(logger = "nodepool.logconfig", "Logging configuration: {warning}");
    }
    Ok(LogGuard(router))
}

/// Reads a `-l` file.
fn read(path: &Path) -> Result<Map<String, Value>, LogError> {
    let invalid = |reason: String| LogError::Invalid { path: path.to_owned(), reason };
    let real = expand_user(path);
    let text = fs::read_to_string(&real).map_err(|source| LogError::Unreadable { path: path.to_owned(), source })?;
    let is_mapping = matches!(real.extension().and_then(|e| e.to_str()), Some("yml" | "yaml" | "json"));
    if !is_mapping {
        return ini::parse(&text).map_err(invalid);
    }
    match serde_saphyr::from_str::<Value>(&text) {
        Ok(Value::Object(config)) => Ok(config),
        Ok(_) => Err(invalid("it is no mapping; see Python's logging.config.dictConfig".to_owned())),
        Err(error) => Err(invalid(error.to_string())),
    }
}

/// `~/` at the beginning is the home directory, as upstream's command line has it.
fn expand_user(path: &Path) -> PathBuf {
    match (path.strip_prefix("~"), std::env::var_os("HOME")) {
        (Ok(rest), Some(home)) => PathBuf::from(home).join(rest),
        _ => path.to_owned(),
    }
}

const FORMAT: &str = "%(asctime)s %(levelname)s %(name)s: %(message)s";

/// Upstream's default for daemons (`nodepool 11.0.0: logconfig.py`), with loggers for the libraries that only we use.
fn daemon_default(options: &LogOptions) -> Map<String, Value> {
    let level = if options.debug { "DEBUG" } else { "INFO" };
    let library = json!({"handlers": ["normal"], "level": "WARN"});
    let handler = if options.foreground || options.debug {
        json!({"class": "logging.StreamHandler", "stream": "ext://sys.stdout", "level": level, "formatter": "simple"})
    } else {
        json!({
            "class": "logging.handlers.WatchedFileHandler", "level": level, "formatter": "simple",
            "filename": format!("/var/log/nodepool/{}.log", options.app),
        })
    };
    object(json!({
        "version": 1,
        "formatters": {"simple": {"class": "nodepool.logconfig.MultiLineFormatter", "format": FORMAT}},
        "handlers": {"normal": handler, "null": {"class": "logging.NullHandler"}},
        "loggers": {
            "nodepool": {"handlers": ["normal"], "level": level},
            "requests": library, "openstack": library, "kazoo": library, "kubernetes": library,
        },
        "root": {"handlers": ["null"]},
    }))
}

fn command_default(debug: bool) -> Map<String, Value> {
    let quiet = if debug {
        json!({})
    } else {
        // The last one says what kazoo's says upstream: that there is a connection.
        json!({
            "kazoo": {"level": "WARNING"}, "nodepool.ComponentRegistry": {"level": "WARNING"},
            "nodepool.zk.ZooKeeper": {"level": "WARNING"},
        })
    };
    object(json!({
        "version": 1,
        "formatters": {"simple": {"format": FORMAT}},
        "handlers": {"console": {"class": "logging.StreamHandler", "formatter": "simple"}},
        "loggers": quiet,
        "root": {"handlers": ["console"], "level": if debug { "DEBUG" } else { "INFO" }},
    }))
}

fn object(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(map) => map,
        _ => Map::new(),
    }
}

#[cfg(test)]
mod tests;
