//! Taking a mapping apart, key by key.
//!
//! [`Fields`] hands out the values of the keys that a section has, converts them, and at [`Fields::finish`] reports the
//! keys that it was never asked for. A value that cannot be used is reported where it stands and counts as absent, so
//! that one load finds every error. A key without a value (`labels:`) is absent too; upstream's schema rejects it
//! (config.md 2).

use std::{cell::RefCell, rc::Rc, time::Duration};

use super::{
    advice::{self, Level},
    names,
    report::Report,
    yaml::{Mark, Meaning, Node, Value, digits, whole},
};
use crate::model::{
    Json, Object,
    json::{Shape, python_float},
};
use indexmap::IndexMap;

/// A mapping that is being taken apart.
pub struct Fields<'a> {
    report: &'a Report,
    node: &'a Node,
    /// What this mapping is, for messages: ``provider `x`, pool `main` ``.
    pub what: String,
    /// Which part of the file this mapping is, for advice on keys that it does not have.
    level: Level,
    /// The keys that were asked for.
    known: RefCell<Vec<&'static str>>,
}

impl<'a> Fields<'a> {
    /// Starts on a node that must be a mapping.
    pub fn of(report: &'a Report, node: &'a Node, what: impl Into<String>) -> Option<Self> {
        let what = what.into();
        if node.entries().is_none() {
            report.error(node.at, format!("{what} must be a mapping, not {}", node.describe()), None);
            return None;
        }
        Some(Self { report, node, what, level: Level::Other, known: RefCell::default() })
    }

    /// Where its findings go.
    pub const fn report(&self) -> &'a Report {
        self.report
    }

    /// Starts on a mapping with a `name`, which then stands in the messages, behind those of what it belongs to.
    pub fn named(report: &'a Report, node: &'a Node, within: Option<&str>, kind: &str) -> Option<(Self, String)> {
        let level = Level::named(within.is_some(), kind);
        let within = within.map(|within| format!("{within}, ")).unwrap_or_default();
        let article = if kind.starts_with(['a', 'e', 'i', 'o']) { "an" } else { "a" };
        let fields = Self::of(report, node, format!("{within}{article} {kind}"))?.on(level);
        let name = fields.required_text("name")?;
        let fields = fields.called(format!("{within}{kind} `{}`", names::shown(&name)));
        names::check(report, &fields, &name);
        Some((fields, name))
    }

    /// The same under another name in messages.
    pub fn called(self, what: impl Into<String>) -> Self {
        Self { what: what.into(), ..self }
    }

    /// The same as that part of the file.
    pub fn on(self, level: Level) -> Self {
        Self { level, ..self }
    }

    /// Where the mapping begins.
    pub const fn at(&self) -> Mark {
        self.node.at
    }

    /// Where the value of a key stands; the mapping itself where there is none.
    pub fn at_key(&self, key: &str) -> Mark {
        self.node.get(key).map_or(self.node.at, |value| value.at)
    }

    /// The value of a key as it stands, null or not; nothing is reported, and the key is not known by it.
    pub fn raw(&self, key: &str) -> Option<&'a Node> {
        self.node.get(key).map(AsRef::as_ref)
    }

    /// The text of a key, where it is one; nothing is reported where it is not.
    pub fn raw_text(&self, key: &str) -> Option<&'a str> {
        self.raw(key)?.as_text()
    }

    /// Reports the keys that nobody asked for.
    pub fn finish(self) {
        let known = self.known.into_inner();
        if self.report.keeps_keys() {
            self.report.note_keys(self.level, known);
            return;
        }
        for (key, _) in self.node.entries().unwrap_or_default() {
            if !key.as_text().is_some_and(|name| known.contains(&name)) {
                let name = python_str(key).unwrap_or_default();
                let (message, help) = advice::unknown_key(&self.what, self.level, self.report.driver(), &name, &known);
                self.report.lapse(key.at, message, Some(help));
            }
        }
    }

    /// Reads one key of a free-form mapping with another reader; see [`Self::rest`].
    pub fn know(&self, key: &'static str) {
        self.known.borrow_mut().push(key);
    }

    /// The entries that nobody has asked for so far, for mappings with free keys; nothing is left unknown.
    pub fn rest(self) -> impl Iterator<Item = (&'a Rc<Node>, &'a Rc<Node>)> {
        let known = self.known.into_inner();
        let entries = self.node.entries().unwrap_or_default().iter();
        entries
            .map(|(key, value)| (key, value))
            .filter(move |(key, _)| !key.as_text().is_some_and(|k| known.contains(&k)))
    }

    /// The value, if the key is there and has one.
    pub fn get(&self, key: &'static str) -> Option<&'a Rc<Node>> {
        self.value(key, "give it one, or leave the key out")
    }

    /// The value, if the key is there and has one. `help`: the way out where it has none.
    fn value(&self, key: &'static str, help: &str) -> Option<&'a Rc<Node>> {
        self.know(key);
        let (name, value) = self.node.entries()?.iter().find(|(name, _)| name.as_text() == Some(key))?;
        if value.is_null() {
            if self.report.strict() {
                let message = format!("{}: `{key}` has no value", self.what);
                self.report.error(name.at, message, Some(help.to_owned()));
            }
            return None;
        }
        Some(value)
    }

    /// Reports the value of a key as unusable.
    pub fn wrong(&self, at: Mark, key: &str, message: impl AsRef<str>) {
        self.report.error(at, format!("{}: `{key}` {}", self.what, message.as_ref()), None);
    }

    /// A key that must be there.
    fn required<T>(&self, key: &'static str, value: Option<T>) -> Option<T> {
        let missing = self.node.get(key).is_none_or(|node| node.is_null() && !self.report.strict());
        if value.is_none() && missing {
            self.report.error(self.node.at, format!("{}: `{key}` is missing", self.what), None);
        }
        value
    }

    /// A text. An empty one is a text; see [`Self::filled`].
    pub fn text(&self, key: &'static str) -> Option<String> {
        self.get(key).and_then(|node| self.text_of(&format!("`{key}`"), node))
    }

    /// A text, with an empty one as absent, for keys that upstream tests for truth.
    pub fn filled(&self, key: &'static str) -> Option<String> {
        self.text(key).filter(|text| !text.is_empty())
    }

    /// A text that must be there.
    pub fn required_text(&self, key: &'static str) -> Option<String> {
        let text = self.value(key, "give it one: it must be there");
        let text = self.required(key, text.and_then(|node| self.text_of(&format!("`{key}`"), node)))?;
        if text.is_empty() {
            self.wrong(self.at_key(key), key, "must not be empty");
            return None;
        }
        Some(text)
    }

    /// `subject`: what the node is, for messages.
    fn text_of(&self, subject: &str, node: &Node) -> Option<String> {
        match &node.value {
            Value::Scalar(Meaning::Text, text) => Some(text.clone()),
            Value::Scalar(_, text) => {
                self.report.lapse(
                    node.at,
                    format!("{}: {subject} must be a text, not {}", self.what, node.describe()),
                    Some(format!("write it in quotes: '{text}'")),
                );
                (!self.report.strict()).then(|| text.clone())
            }
            _ => {
                let message = format!("{}: {subject} must be a text, not {}", self.what, node.describe());
                self.report.error(node.at, message, None);
                None
            }
        }
    }

    /// A boolean.
    pub fn bool(&self, key: &'static str) -> Option<bool> {
        let node = self.get(key)?;
        let meant = match &node.value {
            Value::Scalar(Meaning::Bool(value), _) => return Some(*value),
            Value::Scalar(Meaning::Int(value @ (0 | 1)), _) => Some(*value == 1),
            Value::Scalar(Meaning::Text, text) => match text.trim().to_ascii_lowercase().as_str() {
                "true" | "yes" | "on" => Some(true),
                "false" | "no" | "off" => Some(false),
                _ => None,
            },
            _ => None,
        };
        let message = format!("{}: `{key}` must be true or false, not {}", self.what, node.describe());
        self.coerced(node.at, message, meant, "write `true` or `false`, without quotes")
    }

    /// A whole number.
    pub fn int(&self, key: &'static str) -> Option<i64> {
        self.get(key).and_then(|node| self.int_of(key, node))
    }

    fn int_of(&self, key: &str, node: &Node) -> Option<i64> {
        let meant = match &node.value {
            Value::Scalar(Meaning::Int(value), _) => return Some(*value),
            // A boolean is an int in Python; upstream's schema lets it pass.
            Value::Scalar(Meaning::Bool(value), _) => {
                self.report.warning(node.at, format!("{}: `{key}` should be a whole number", self.what), None);
                return Some(i64::from(*value));
            }
            Value::Scalar(Meaning::Float(value), _) => match whole(*value) {
                Meaning::Int(value) => Some(value),
                _ => None,
            },
            Value::Scalar(Meaning::Text, text) => text.trim().parse().ok(),
            _ => None,
        };
        let message = format!("{}: `{key}` must be a whole number, not {}", self.what, node.describe());
        self.coerced(node.at, message, meant, "write the number without quotes or fraction")
    }

    /// A number that may have a fraction. `strict_int`: upstream's schema wants it whole.
    pub fn number(&self, key: &'static str, strict_int: bool) -> Option<f64> {
        self.get(key).and_then(|node| self.number_of(key, node, strict_int))
    }

    /// The number that a node is.
    #[allow(clippy::cast_precision_loss)] // limits and seconds are far below 2^53
    pub fn number_of(&self, key: &str, node: &Node, strict_int: bool) -> Option<f64> {
        if strict_int
            && (self.report.strict()
                || !matches!(&node.value, Value::Scalar(Meaning::Float(_) | Meaning::BigInt(_), _)))
        {
            return self.int_of(key, node).map(|value| value as f64);
        }
        let meant = match &node.value {
            Value::Scalar(Meaning::Int(value), _) => Some(*value as f64),
            Value::Scalar(Meaning::Float(value) | Meaning::BigInt(value), _) => Some(*value),
            Value::Scalar(Meaning::Bool(value), _) => Some(f64::from(u8::from(*value))),
            Value::Scalar(Meaning::Text, text) => text.trim().parse().ok(),
            _ => None,
        };
        if meant.is_none_or(f64::is_nan) {
            self.wrong(node.at, key, format!("must be a number, not {}", node.describe()));
            return None;
        }
        meant
    }

    /// A number that upstream's schema wants to have a decimal point.
    pub fn fraction(&self, key: &'static str) -> Option<f64> {
        let node = self.get(key)?;
        let number = self.number_of(key, node, false)?;
        if !matches!(&node.value, Value::Scalar(Meaning::Float(_), _)) {
            let message = format!("{}: `{key}` must have a decimal point, not be {}", self.what, node.describe());
            self.report.lapse(node.at, message, Some(format!("write {number:?}")));
        }
        Some(number)
    }

    /// A mapping of texts to whole numbers (`max-resources`); none where the key is absent.
    pub fn number_map(&self, key: &'static str) -> IndexMap<String, f64> {
        let name = format!("a key of `{key}`");
        let numbers = self.free_map(key, |node| self.text_of(&name, node), |node| self.number_of(key, node, true));
        numbers.unwrap_or_default()
    }

    /// Seconds. Negative ones count as none, with a warning.
    pub fn seconds(&self, key: &'static str) -> Option<Duration> {
        let seconds = self.number(key, true)?;
        self.duration(key, seconds)
    }

    /// A number of seconds as a duration.
    pub fn duration(&self, key: &str, seconds: f64) -> Option<Duration> {
        if seconds < 0.0 {
            self.report.warning(self.at_key(key), format!("{}: `{key}` is negative and counts as 0", self.what), None);
            return Some(Duration::ZERO);
        }
        // A hundred years: more would only overflow when it is added to a clock.
        if seconds > 3_155_760_000.0 {
            self.wrong(self.at_key(key), key, "is more than a hundred years");
            return None;
        }
        Some(Duration::from_secs_f64(seconds))
    }

    /// An amount: a whole number; a negative one counts as 0, with a warning.
    pub fn amount(&self, key: &'static str) -> Option<u64> {
        let value = self.int(key)?;
        if value < 0 {
            self.report.warning(self.at_key(key), format!("{}: `{key}` is negative and counts as 0", self.what), None);
        }
        Some(u64::try_from(value).unwrap_or(0))
    }

    /// A number of things that are kept in memory or in ZooKeeper, one by one: not negative, and not more than `most`. A
    /// larger one counts as that, with a warning; it is an error when validating.
    pub fn count(&self, key: &'static str, most: usize) -> Option<usize> {
        let value = self.amount(key)?;
        match usize::try_from(value) {
            Ok(count) if count <= most => Some(count),
            _ => {
                let message = format!("{}: `{key}` is {value}, and more than {most} are not kept", self.what);
                self.report.lapse(self.at_key(key), message, Some(format!("write {most} or less")));
                Some(most)
            }
        }
    }

    /// A TCP port.
    pub fn port(&self, key: &'static str) -> Option<u16> {
        let value = self.int(key)?;
        let port = u16::try_from(value).ok();
        if port.is_none() {
            self.wrong(self.at_key(key), key, format!("must be a port between 0 and 65535, not {value}"));
        }
        port
    }

    /// A list's items; none where the key is absent.
    pub fn list(&self, key: &'static str) -> &'a [Rc<Node>] {
        match self.get(key).map(|node| (&node.value, node)) {
            Some((Value::List(items), _)) => items,
            Some((_, node)) => {
                self.wrong(node.at, key, format!("must be a list, not {}", node.describe()));
                &[]
            }
            None => &[],
        }
    }

    /// A list of texts.
    pub fn texts(&self, key: &'static str) -> Option<Vec<String>> {
        let node = self.get(key)?;
        if let Value::List(items) = &node.value {
            let subject = format!("an item of `{key}`");
            return Some(items.iter().filter_map(|item| self.text_of(&subject, item)).collect());
        }
        self.report.error(
            node.at,
            format!("{}: `{key}` must be a list of texts, not {}", self.what, node.describe()),
            matches!(node.value, Value::Scalar(..)).then(|| "put it in brackets: [ ]".to_owned()),
        );
        None
    }

    /// A text, or a list of them.
    pub fn text_or_texts(&self, key: &'static str) -> Option<Vec<String>> {
        match self.get(key)?.value {
            Value::Scalar(..) => self.text(key).map(|text| vec![text]),
            _ => self.texts(key),
        }
    }

    /// A mapping of texts to texts, strictly (`env-vars`).
    pub fn text_map(&self, key: &'static str) -> Option<IndexMap<String, String>> {
        let (name, value) = (format!("a key of `{key}`"), format!("a value of `{key}`"));
        self.free_map(key, |node| self.text_of(&name, node), |node| self.text_of(&value, node))
    }

    /// A mapping of anything to anything, as Python's `str()` would write it (`meta`, `instance-properties`). What is
    /// no plain value is written as JSON, for want of a meaning.
    pub fn str_map(&self, key: &'static str) -> Option<IndexMap<String, String>> {
        self.free_map(key, python_str, |node| {
            Some(python_str(node).unwrap_or_else(|| {
                let message = format!("{}: a value of `{key}` should be plain, not {}", self.what, node.describe());
                self.report.warning(node.at, message, None);
                json(node).to_string()
            }))
        })
    }

    fn free_map<T>(
        &self,
        key: &'static str,
        name: impl Fn(&'a Node) -> Option<String>,
        value: impl Fn(&'a Node) -> Option<T>,
    ) -> Option<IndexMap<String, T>> {
        let node = self.get(key)?;
        let Some(entries) = node.entries() else {
            self.wrong(node.at, key, format!("must be a mapping, not {}", node.describe()));
            return None;
        };
        let pairs = entries.iter().filter_map(|(key, node)| Some((name(key)?, value(node)?)));
        Some(pairs.collect())
    }

    /// A mapping of anything, as JSON (`node-attributes`).
    pub fn json_map(&self, key: &'static str) -> Option<Object> {
        let node = self.get(key)?;
        if let Shape::Object(object) = json(node).shape() {
            return Some(object);
        }
        self.wrong(node.at, key, format!("must be a mapping, not {}", node.describe()));
        None
    }

    /// A list of anything, as JSON (`volumes`).
    pub fn json_list(&self, key: &'static str) -> Option<Vec<Json>> {
        let node = self.get(key)?;
        if let Shape::List(list) = json(node).shape() {
            return Some(list);
        }
        self.wrong(node.at, key, format!("must be a list, not {}", node.describe()));
        None
    }

    /// The entries that nobody has asked for so far, as JSON.
    pub fn rest_as_json(self) -> impl Iterator<Item = (String, Json)> {
        self.rest().map(|(key, value)| (json_key(key), json(value)))
    }

    /// A value that means what we read, but that upstream's schema would reject; or one that means nothing.
    fn coerced<T>(&self, at: Mark, message: String, meant: Option<T>, help: &str) -> Option<T> {
        let help = meant.as_ref().map(|_| help.to_owned());
        if meant.is_some() {
            self.report.lapse(at, message, help);
            meant.filter(|_| !self.report.strict())
        } else {
            self.report.error(at, message, help);
            None
        }
    }
}

/// A scalar as Python's `str()` writes what PyYAML makes of it; `None`: no scalar.
pub fn python_str(node: &Node) -> Option<String> {
    let Value::Scalar(meaning, text) = &node.value else { return None };
    Some(match meaning {
        Meaning::Null => "None".to_owned(),
        Meaning::Bool(value) => if *value { "True" } else { "False" }.to_owned(),
        Meaning::Int(value) => value.to_string(),
        Meaning::BigInt(_) => digits(text)?,
        Meaning::Float(value) if value.is_nan() => "nan".to_owned(),
        Meaning::Float(value) if value.is_infinite() => if *value > 0.0 { "inf" } else { "-inf" }.to_owned(),
        Meaning::Float(value) => python_float(*value),
        Meaning::Date | Meaning::Merge | Meaning::Text => text.clone(),
    })
}

/// A node as Python's `json.dumps` writes what PyYAML makes of it. What JSON cannot hold becomes text.
fn json(node: &Node) -> Json {
    match &node.value {
        Value::List(items) => Json::list(items.iter().map(|item| json(item))),
        Value::Map(entries) => {
            entries.iter().map(|(key, value)| (json_key(key), json(value))).collect::<Object>().into()
        }
        Value::Scalar(meaning, text) => match meaning {
            Meaning::Null => Json::of(&()),
            Meaning::Bool(value) => Json::of(value),
            Meaning::Int(value) => Json::of(value),
            Meaning::BigInt(value) => {
                digits(text).and_then(|digits| Json::integer(&digits)).unwrap_or_else(|| Json::float(*value))
            }
            Meaning::Float(value) => Json::float(*value),
            Meaning::Date | Meaning::Merge | Meaning::Text => Json::of(text),
        },
    }
}

fn json_key(key: &Node) -> String {
    let json = json(key);
    json.text().unwrap_or_else(|| json.to_string())
}

/// The known name that was probably meant.
pub fn suggest<'n>(name: &str, known: impl Iterator<Item = &'n str>) -> Option<&'n str> {
    let plain = |text: &str| text.to_lowercase().replace('_', "-");
    let name = plain(name);
    known
        .map(|candidate| (strsim::normalized_damerau_levenshtein(&name, &plain(candidate)), candidate))
        .filter(|(likeness, _)| *likeness >= 0.6)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, candidate)| candidate)
}
