//! Python's `%`-style formatters.
//!
//! A format such as `%(asctime)s %(levelname)-8s %(name)s: %(message)s` is taken apart once, when the configuration
//! is read; what it names that we don't have comes out empty. With nodepool's `MultiLineFormatter` each further
//! line of a message is formatted as if it were a message of its own, indented by two spaces (`nodepool 11.0.0:
//! logconfig.py`). A Fluent formatter has one such format per key of its record.

use std::fmt::Write as _;

use chrono::format::{Item, StrftimeItems};
use serde_json::{Map, Value};

use super::record::Record;

/// What a handler makes of a record.
#[derive(Clone, Debug)]
pub enum Formatter {
    /// Text.
    Line {
        /// The format of a line.
        template: Template,
        /// Whether the lines of a message are formatted one by one.
        multi_line: bool,
    },
    /// A document: key and template.
    Fluent(Vec<(String, Value, Option<Template>)>),
}

impl Formatter {
    /// Python's default: the message alone.
    pub fn bare() -> Self {
        Self::Line { template: Template::parse("%(message)s", None), multi_line: false }
    }

    /// The text for a stream or file, without the newline at its end.
    pub fn text(&self, record: &Record) -> String {
        match self {
            Self::Line { template, multi_line } => {
                let text = template.render(record, &record.message);
                if !multi_line || !text.contains('\n') {
                    return text;
                }
                let mut lines = text.split('\n');
                let mut out = lines.next().unwrap_or_default().to_owned();
                for line in lines {
                    out.push('\n');
                    out.push_str(&template.render(record, &format!("  {line}")));
                }
                out
            }
            Self::Fluent(_) => Value::Object(self.document(record)).to_string(),
        }
    }

    /// The document for Fluentd: the formatter's keys, and the message as fluent-logger adds it.
    pub fn document(&self, record: &Record) -> Map<String, Value> {
        let mut document = Map::new();
        match self {
            Self::Fluent(keys) => {
                for (key, constant, template) in keys {
                    let value = template
                        .as_ref()
                        .map_or_else(|| constant.clone(), |template| template.render(record, &record.message).into());
                    document.insert(key.clone(), value);
                }
                document.insert("message".to_owned(), record.message.clone().into());
            }
            Self::Line { .. } => {
                document.insert("message".to_owned(), self.text(record).into());
            }
        }
        document
    }
}

/// A format, taken apart.
#[derive(Clone, Debug)]
pub struct Template {
    segments: Vec<Segment>,
    datefmt: Option<String>,
}

#[derive(Clone, Debug, PartialEq)]
enum Segment {
    Literal(String),
    Attribute { name: String, left: bool, zero: bool, width: usize, precision: Option<usize>, conversion: char },
}

impl Template {
    /// Takes a format apart. What is no valid conversion stays as it stands. A `datefmt` that chrono does not
    /// understand is left out.
    pub fn parse(format: &str, datefmt: Option<&str>) -> Self {
        let mut segments = Vec::new();
        let mut literal = String::new();
        let mut rest = format;
        while let Some(at) = rest.find('%') {
            literal.push_str(&rest[..at]);
            let tail = &rest[at..];
            if let Some(after) = tail.strip_prefix("%%") {
                literal.push('%');
                rest = after;
            } else if let Some((segment, after)) = attribute(tail) {
                if !literal.is_empty() {
                    segments.push(Segment::Literal(std::mem::take(&mut literal)));
                }
                segments.push(segment);
                rest = after;
            } else {
                literal.push('%');
                rest = &tail[1..];
            }
        }
        literal.push_str(rest);
        if !literal.is_empty() {
            segments.push(Segment::Literal(literal));
        }
        let datefmt = datefmt.filter(|text| is_datefmt(text)).map(str::to_owned);
        Self { segments, datefmt }
    }

    fn render(&self, record: &Record, message: &str) -> String {
        let mut out = String::with_capacity(96 + message.len());
        for segment in &self.segments {
            match segment {
                Segment::Literal(text) => out.push_str(text),
                Segment::Attribute { name, left, zero, width, precision, conversion } => {
                    let text = match (self.attribute(name, record, message), conversion) {
                        (Text(text), _) => text,
                        (Number(number), 'f') => format!("{number:.*}", precision.unwrap_or(6)),
                        (Number(number), 'd' | 'i') => format!("{:.0}", number.trunc()),
                        (Number(number), _) => number.to_string(),
                    };
                    let padding = width.saturating_sub(text.chars().count());
                    match (left, zero) {
                        (true, _) => {
                            let _ = write!(out, "{text}{:padding$}", "");
                        }
                        (false, true) if *conversion != 's' => {
                            let _ = write!(out, "{}{text}", "0".repeat(padding));
                        }
                        _ => {
                            let _ = write!(out, "{:padding$}{text}", "");
                        }
                    }
                }
            }
        }
        out
    }

    fn attribute(&self, name: &str, record: &Record, message: &str) -> Attribute {
        #[allow(clippy::cast_precision_loss)] // a time of day in ms is far below 2^52
        let seconds = record.created.timestamp_millis() as f64 / 1000.0;
        let annotation = |id: &Option<String>| Text(id.clone().unwrap_or_default());
        match name {
            "message" => Text(message.to_owned()),
            "asctime" => Text(self.asctime(record)),
            "levelname" => Text(record.level.name().to_owned()),
            "levelno" => Number(f64::from(record.level.0)),
            "name" => Text(record.logger.clone()),
            "created" => Number(seconds),
            "msecs" => Number(f64::from(record.created.timestamp_subsec_millis())),
            "process" => Number(f64::from(std::process::id())),
            "processName" => Text("MainProcess".to_owned()),
            // Tasks have no thread of their own; a number keeps `%(thread)d` well-formed.
            "thread" => Number(0.0),
            "threadName" => Text(std::thread::current().name().unwrap_or("tokio").to_owned()),
            "pathname" => Text(record.pathname.clone()),
            "filename" => Text(record.pathname.rsplit('/').next().unwrap_or_default().to_owned()),
            "lineno" => Number(f64::from(record.lineno)),
            "module" => Text(record.module.rsplit("::").next().unwrap_or_default().to_owned()),
            "funcName" => Text(record.module.clone()),
            "hostname" | "sys_host" => Text(crate::sys::host::hostname()),
            "event_id" => annotation(&record.annotations.event_id),
            "node_request" => annotation(&record.annotations.node_request),
            "node" => annotation(&record.annotations.node),
            other => Text(
                record
                    .fields
                    .iter()
                    .find(|(field, _)| *field == other)
                    .map(|(_, value)| value.clone())
                    .unwrap_or_default(),
            ),
        }
    }

    /// `2026-11-23 02:57:40,123`, or by `datefmt`, which has no milliseconds in Python.
    fn asctime(&self, record: &Record) -> String {
        let mut text = String::new();
        // chrono refuses formats that it does not know, which parse() has sorted out; an empty time is no loss.
        let _ = match &self.datefmt {
            Some(datefmt) => write!(text, "{}", record.created.format(datefmt)),
            None => write!(
                text,
                "{},{:03}",
                record.created.format("%Y-%m-%d %H:%M:%S"),
                record.created.timestamp_subsec_millis().min(999)
            ),
        };
        text
    }
}

enum Attribute {
    Text(String),
    Number(f64),
}
use Attribute::{Number, Text};

/// Whether a date format is one that can be used.
pub fn is_datefmt(text: &str) -> bool {
    !StrftimeItems::new(text).any(|item| matches!(item, Item::Error))
}

/// `%(name)-8.3s` at the start of a text, and what follows it.
fn attribute(text: &str) -> Option<(Segment, &str)> {
    let (name, after) = text.strip_prefix("%(")?.split_once(')')?;
    let flags_end = after.find(|c: char| !matches!(c, '-' | '0' | '+' | ' ' | '#')).unwrap_or(after.len());
    let (flags, after) = after.split_at(flags_end);
    let (width, after) = number(after);
    let (precision, after) = match after.strip_prefix('.') {
        Some(after) => {
            let (precision, after) = number(after);
            (Some(precision), after)
        }
        None => (None, after),
    };
    let conversion = after.chars().next().filter(char::is_ascii_alphabetic)?;
    let segment = Segment::Attribute {
        name: name.to_owned(),
        left: flags.contains('-'),
        zero: flags.contains('0'),
        // A line of a thousand blanks helps nobody.
        width: width.min(200),
        precision: precision.map(|precision| precision.min(20)),
        conversion,
    };
    Some((segment, &after[1..]))
}

fn number(text: &str) -> (usize, &str) {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    (text[..end].parse().unwrap_or(0), &text[end..])
}
