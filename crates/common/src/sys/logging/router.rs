//! Python's tree of loggers: which record reaches which handlers.
//!
//! A logger's level is its own or that of the nearest ancestor by dotted name. A record that passes it goes to the
//! handlers of that logger and of all its ancestors, until one does not propagate; each handler has a level of its
//! own. Loggers of third-party crates that nobody configured are held to WARNING: their INFO is not Nodepool's.

use std::{
    collections::BTreeMap,
    io::{self, Write},
};

use super::{
    output::{Handler, Sink},
    record::{Level, Record},
};

/// One configured logger.
#[derive(Clone, Debug)]
pub struct Logger {
    /// `None`: its ancestor's.
    pub level: Option<Level>,
    /// Indices into [`Router::handlers`].
    pub handlers: Vec<usize>,
    /// Whether its ancestors' handlers see its records too.
    pub propagate: bool,
}

/// The tree of loggers and all handlers.
#[derive(Debug)]
pub struct Router {
    /// By name; the root is `""`.
    pub loggers: BTreeMap<String, Logger>,
    /// All handlers.
    pub handlers: Vec<Handler>,
}

impl Router {
    /// The level below which no logger of ours passes anything.
    pub fn lowest_of_ours(&self) -> Level {
        self.loggers
            .iter()
            .filter(|(name, _)| name.as_str() == "nodepool" || name.starts_with("nodepool."))
            .filter_map(|(_, logger)| logger.level)
            .chain([self.level_of("nodepool")])
            .min()
            .unwrap_or(Level::NOTSET)
    }

    /// The level of the least verbose record that a logger passes.
    pub fn level_of(&self, name: &str) -> Level {
        for (ancestor, logger) in self.line_of(name) {
            if let Some(level) = logger.level
                && level != Level::NOTSET
            {
                return if ancestor.is_empty() && !is_ours(name) { level.max(Level::WARNING) } else { level };
            }
        }
        Level::WARNING
    }

    /// Hands a record to every handler that it concerns.
    pub fn log(&self, record: &Record) {
        if record.level < self.level_of(&record.logger) {
            return;
        }
        let mut found = false;
        for (_, logger) in self.line_of(&record.logger) {
            for handler in &logger.handlers {
                found = true;
                self.handlers[*handler].emit(record);
            }
            if !logger.propagate {
                break;
            }
        }
        // Python's "last resort": a warning must not vanish because nobody configured anything.
        if !found && record.level >= Level::WARNING {
            let _ = writeln!(io::stderr().lock(), "{}", record.message);
        }
    }

    /// Waits a little for what is still on its way.
    pub fn flush(&self) {
        for handler in &self.handlers {
            match &handler.sink {
                Sink::Fluent(forwarder) => forwarder.flush(),
                Sink::Stream(stream) => stream.flush(),
                Sink::File(_) | Sink::Null => {}
            }
        }
    }

    /// The configured loggers from a name up to the root.
    fn line_of<'a>(&'a self, name: &'a str) -> impl Iterator<Item = (&'a str, &'a Logger)> {
        let mut next = Some(name);
        std::iter::from_fn(move || {
            let current = next?;
            next = match (current, current.rfind('.')) {
                ("", _) => None,
                (_, Some(dot)) => Some(&current[..dot]),
                (_, None) => Some(""),
            };
            Some(current)
        })
        .filter_map(|name| self.loggers.get(name).map(|logger| (name, logger)))
    }
}

/// Whether a logger is Nodepool's own.
pub fn is_ours(logger: &str) -> bool {
    logger.strip_prefix("nodepool").is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
}

/// The logger of a tracing target: `nodepool_launcher::run` is `nodepool.launcher.run`; a third-party crate's stands
/// under the Python library whose work it does, so that a configuration's `paramiko` is the SSH client here too.
pub fn logger_of(target: &str) -> String {
    let dotted = target.replace("::", ".");
    let first = dotted.split('.').next().unwrap_or_default();
    let alias = match first {
        _ if first.starts_with("nodepool_") => return dotted.replacen('_', ".", 1),
        "reqwest" | "hyper" | "hyper_util" | "h2" | "rustls" => "requests",
        "russh" => "paramiko",
        "kube" | "kube_client" | "kube_runtime" => "kubernetes",
        _ => return dotted,
    };
    format!("{alias}.{dotted}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn router(loggers: &[(&str, Option<Level>)]) -> Router {
        let loggers = loggers
            .iter()
            .map(|(name, level)| ((*name).to_owned(), Logger { level: *level, handlers: Vec::new(), propagate: true }))
            .collect();
        Router { loggers, handlers: Vec::new() }
    }

    #[test]
    fn a_logger_has_the_level_of_its_nearest_ancestor() {
        let router = router(&[
            ("", Some(Level::INFO)),
            ("nodepool", Some(Level::ERROR)),
            ("nodepool.PoolWorker", Some(Level::DEBUG)),
            ("nodepool.zk", None),
        ]);
        assert_eq!(router.level_of("nodepool.PoolWorker.rdo-main"), Level::DEBUG);
        assert_eq!(router.level_of("nodepool.zk.ZooKeeper"), Level::ERROR);
        assert_eq!(router.lowest_of_ours(), Level::DEBUG);
    }

    #[test]
    fn third_party_crates_are_held_to_warnings_unless_configured() {
        let router = router(&[("", Some(Level::DEBUG)), ("paramiko", Some(Level::INFO))]);
        assert_eq!(router.level_of("nodepool.launcher"), Level::DEBUG);
        assert_eq!(router.level_of(&logger_of("hyper::client")), Level::WARNING);
        assert_eq!(router.level_of(&logger_of("russh::client")), Level::INFO);
    }

    #[test]
    fn targets_are_named_as_python_would() {
        assert_eq!(logger_of("nodepool_launcher::run::pool"), "nodepool.launcher.run.pool");
        assert_eq!(logger_of("nodepool.PoolWorker.rdo-main"), "nodepool.PoolWorker.rdo-main");
        assert_eq!(logger_of("reqwest::connect"), "requests.reqwest.connect");
        assert!(is_ours("nodepool") && is_ours("nodepool.x") && !is_ours("nodepoolish"));
    }
}
