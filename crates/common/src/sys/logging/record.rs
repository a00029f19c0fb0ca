//! One log record, with the attributes that Python's formatters may ask for.

use std::fmt::Write as _;

use chrono::{DateTime, Local};

/// A level with Python's number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Level(pub u8);

impl Level {
    /// Everything.
    pub const NOTSET: Self = Self(0);
    /// tracing's `TRACE`, which Python does not have: below DEBUG, but called DEBUG.
    pub const TRACE: Self = Self(5);
    #[allow(missing_docs)]
    pub const DEBUG: Self = Self(10);
    #[allow(missing_docs)]
    pub const INFO: Self = Self(20);
    #[allow(missing_docs)]
    pub const WARNING: Self = Self(30);
    #[allow(missing_docs)]
    pub const ERROR: Self = Self(40);
    #[allow(missing_docs)]
    pub const CRITICAL: Self = Self(50);

    /// Python's name of the level.
    pub const fn name(self) -> &'static str {
        match self.0 {
            0..20 => "DEBUG",
            20..30 => "INFO",
            30..40 => "WARNING",
            40..50 => "ERROR",
            _ => "CRITICAL",
        }
    }

    /// The level of a name or number of a Python logging configuration.
    pub fn parse(text: &str) -> Option<Self> {
        Some(match text {
            "NOTSET" => Self::NOTSET,
            "DEBUG" => Self::DEBUG,
            "INFO" => Self::INFO,
            "WARN" | "WARNING" => Self::WARNING,
            "ERROR" => Self::ERROR,
            "CRITICAL" | "FATAL" => Self::CRITICAL,
            number => Self(number.parse().ok()?),
        })
    }
}

impl From<&tracing::Level> for Level {
    fn from(level: &tracing::Level) -> Self {
        match *level {
            tracing::Level::TRACE => Self::TRACE,
            tracing::Level::DEBUG => Self::DEBUG,
            tracing::Level::INFO => Self::INFO,
            tracing::Level::WARN => Self::WARNING,
            tracing::Level::ERROR => Self::ERROR,
        }
    }
}

impl From<log::Level> for Level {
    fn from(level: log::Level) -> Self {
        match level {
            log::Level::Trace => Self::TRACE,
            log::Level::Debug => Self::DEBUG,
            log::Level::Info => Self::INFO,
            log::Level::Warn => Self::WARNING,
            log::Level::Error => Self::ERROR,
        }
    }
}

/// The ids that tie a line to a job: from the event's own fields, else from the spans around it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Annotations {
    /// Of the event in Zuul that caused it all.
    pub event_id: Option<String>,
    /// The node request's id.
    pub node_request: Option<String>,
    /// The node's id.
    pub node: Option<String>,
    /// The logger's name, where it is not that of the module.
    pub logger: Option<String>,
}

impl Annotations {
    /// Takes what is missing here from an enclosing span.
    pub fn fill_from(&mut self, outer: &Self) {
        for (mine, theirs) in [
            (&mut self.event_id, &outer.event_id),
            (&mut self.node_request, &outer.node_request),
            (&mut self.node, &outer.node),
            (&mut self.logger, &outer.logger),
        ] {
            if mine.is_none() {
                mine.clone_from(theirs);
            }
        }
    }

    /// `[e: EVENT] [node_request: ID] [node: ID] `, present parts only (`nodepool 11.0.0: logconfig.py
    /// EventIdLogAdapter`).
    pub fn prefix(&self) -> String {
        let mut prefix = String::new();
        for (name, id) in [("e", &self.event_id), ("node_request", &self.node_request), ("node", &self.node)] {
            if let Some(id) = id {
                let _ = write!(prefix, "[{name}: {id}] ");
            }
        }
        prefix
    }
}

/// One log record.
#[derive(Clone, Debug)]
#[allow(missing_docs)] // each field is Python's attribute of that name
pub struct Record {
    pub created: DateTime<Local>,
    pub level: Level,
    /// Python's `name`.
    pub logger: String,
    /// With the annotations before it and the event's other fields behind it.
    pub message: String,
    pub annotations: Annotations,
    /// The event's other fields.
    pub fields: Vec<(&'static str, String)>,
    pub pathname: String,
    pub lineno: u32,
    pub module: String,
}
