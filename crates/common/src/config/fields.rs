//! Taking a mapping apart, key by key.
//!
//! [`Fields`] hands out the values of the keys that a section has, converts them, and at [`Fields::finish`] reports the
//! keys that it was never asked for: so whoever reads a section asks for all of its keys, whatever is wrong with one of
//! them. A value that cannot be used is reported where it stands and counts as absent, so that one load finds every error.
//! A key without a value (`labels:`) is absent too; upstream's schema rejects it.
//!
//! The readers of lists and mappings are in `collections`, those of limits and times in `numbers`.
//!
//! One mistake is told once: a key that is missing because it is misspelt is told as misspelt only ([`Fields::lacks`]).

use std::{cell::RefCell, rc::Rc, time::Duration};

use super::{
    advice::{self, Level},
    names,
    python::python_str,
    report::Report,
    shapes, units,
    yaml::{Entry, Mark, Meaning, Node, Value, is_plain_text, whole},
};

/// What may stand for one.
const A_PORT: &str = "a port is a number from 1 to 65535";

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
    /// Where keys stand that were reported already, as unknown or as without a value.
    told: RefCell<Vec<Mark>>,
}

impl<'a> Fields<'a> {
    /// Starts on a node that must be a mapping.
    pub fn of(report: &'a Report, node: &'a Node, what: impl Into<String>) -> Option<Self> {
        Self::or_help(report, node, what, shapes::as_mapping)
    }

    /// Starts on an item of a list of mappings, each of which begins with that key.
    pub fn item(report: &'a Report, node: &'a Node, what: impl Into<String>, head: &str) -> Option<Self> {
        Self::or_help(report, node, what, |node| shapes::as_item(head, node))
    }

    /// Starts on a node that must be a mapping; `help` says how to write one in its place.
    pub fn or_help(
        report: &'a Report,
        node: &'a Node,
        what: impl Into<String>,
        help: impl FnOnce(&Node) -> String,
    ) -> Option<Self> {
        let what = what.into();
        if node.entries().is_none() {
            let message = format!("{what} must be a mapping, not {}", node.describe());
            report.error(node.at, message, Some(help(node)));
            return None;
        }
        Some(Self { report, node, what, level: Level::Other, known: RefCell::default(), told: RefCell::default() })
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
        let fields = Self::item(report, node, format!("{within}{article} {kind}"), "name")?.on(level);
        let name = fields.required_text("name")?;
        let fields = fields.called(format!("{within}{kind} `{}`", names::shown(&name)));
        names::check(report, fields.at_key("name"), &fields.what, &name);
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
        if self.report.keeps_keys() {
            self.report.note_keys(self.level, self.known.into_inner());
            return;
        }
        for entry @ (key, _) in self.node.entries().unwrap_or_default() {
            let is_known = key.as_text().is_some_and(|name| self.known.borrow().contains(&name));
            if !is_known && !self.has_told(key.at) {
                self.unknown(entry, &self.known.borrow());
            }
        }
    }

    /// Whether the key at that place was reported before; from now on it was.
    fn has_told(&self, key: Mark) -> bool {
        let mut told = self.told.borrow_mut();
        let is_told = told.contains(&key);
        if !is_told {
            told.push(key);
        }
        is_told
    }

    /// Reports a key that this mapping does not have. `known`: those that it has.
    fn unknown(&self, (key, value): &Entry, known: &[&'static str]) {
        let name = python_str(key).unwrap_or_default();
        let of = |key: &str| self.node.entries()?.iter().find(|(name, _)| name.as_text() == Some(key));
        let unknown = advice::Unknown {
            what: &self.what,
            level: self.level,
            driver: self.report.driver(),
            name: &name,
            value,
            known,
            place_of: &|key| of(key).map(|(name, _)| self.report.place(name.at)),
        };
        let (message, help) = unknown.told();
        self.report.lapse(key.at, message, Some(help));
    }

    /// Nothing more is to be said of a key: the caller has reported it.
    pub fn settle(&self, key: &str) {
        let entries = self.node.entries().unwrap_or_default();
        if let Some((key, _)) = entries.iter().find(|(name, _)| name.as_text() == Some(key)) {
            self.has_told(key.at);
        }
    }

    /// Reports a key that this mapping does not have, with what to do about it.
    pub fn refuse(&self, key: &str, help: String) {
        let Some((key, _)) = self.node.entries().into_iter().flatten().find(|(name, _)| name.as_text() == Some(key))
        else {
            return;
        };
        if !self.has_told(key.at) {
            let name = python_str(key).unwrap_or_default();
            self.report.lapse(key.at, format!("{} has no key `{name}`", self.what), Some(help));
        }
    }

    /// The entry whose key is a misspelt `key`, where that itself is not there. `None` unless validating: at run time it is
    /// a warning only.
    pub fn misspelt(&self, key: &'static str) -> Option<&'a Entry> {
        if !self.report.strict() || self.report.keeps_keys() || self.node.get(key).is_some() {
            return None;
        }
        let mut known = advice::keys_of(self.level, self.report.driver());
        known.extend(self.known.borrow().iter().copied().chain([key]));
        let driver = self.report.driver();
        let is_meant =
            |name: &str| !known.contains(&name) && advice::meant(self.level, driver, name, &known) == Some(key);
        self.node.entries()?.iter().find(|(name, _)| name.as_text().is_some_and(is_meant))
    }

    /// Whether this mapping says nothing for any of these keys. One whose value was reported as unusable is there; one that
    /// is misspelt is reported as that here, and is there, too.
    pub fn lacks(&self, keys: &[&'static str]) -> bool {
        let is_there = |key: &&str| {
            self.node.get(key).is_some_and(|node| {
                let is_told = self.report.strict() && node.is_null();
                is_told || !node.is_null() && node.as_text() != Some("")
            })
        };
        if keys.iter().any(|key| is_there(key) || self.report.has_below(self.node.at, key)) {
            return false;
        }
        let Some((key, entry)) = keys.iter().find_map(|key| Some((*key, self.misspelt(key)?))) else { return true };
        if !self.has_told(entry.0.at) {
            self.unknown(entry, &[key]);
        }
        false
    }

    /// Reads one key of a free-form mapping with another reader; see [`Self::rest`].
    pub fn know(&self, key: &'static str) {
        let mut known = self.known.borrow_mut();
        if !known.contains(&key) {
            known.push(key);
        }
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
            if self.report.strict() && !self.has_told(name.at) {
                let message = format!("{}: `{key}` has no value", self.what);
                self.report.error(name.at, message, Some(help.to_owned()));
            }
            return None;
        }
        Some(value)
    }

    /// Reports the value of a key as unusable.
    pub fn wrong(&self, at: Mark, key: &str, message: impl AsRef<str>, help: impl Into<String>) {
        self.report.error(at, format!("{}: `{key}` {}", self.what, message.as_ref()), Some(help.into()));
    }

    /// Reports a key that must be there if it is not.
    pub fn require(&self, key: &'static str) {
        if self.lacks(&[key]) {
            let help =
                self.report.dash_too_many(self.node.at).filter(|_| matches!(key, "name" | "host" | "tenant-name"));
            let help = help.or_else(|| self.name_as_key(key)).or_else(|| advice::missing(key).map(str::to_owned));
            self.report.error(self.node.at, format!("{}: `{key}` is missing", self.what), help);
        }
    }

    /// What to write where the first key is the name of the item: `- small: {min-ready: 2}`.
    fn name_as_key(&self, key: &str) -> Option<String> {
        let (first, value) = self.node.entries()?.first()?;
        let is_alone = value.is_null() || value.entries().is_some();
        let name = first.as_text().filter(|name| {
            is_alone && !advice::keys_of(self.level, self.report.driver()).contains(name) && is_plain_text(name)
        })?;
        if !matches!(key, "name" | "host" | "tenant-name") {
            return None;
        }
        self.has_told(first.at);
        Some(format!("write `- {key}: {name}`, and its other keys below `{key}`"))
    }

    /// A text. An empty one is a text; see [`Self::filled`].
    pub fn text(&self, key: &'static str) -> Option<String> {
        self.get(key).and_then(|node| self.text_of(key, node))
    }

    /// A text, with an empty one as absent, for keys that upstream tests for truth.
    pub fn filled(&self, key: &'static str) -> Option<String> {
        self.text(key).filter(|text| !text.is_empty())
    }

    /// A text that must be there.
    pub fn required_text(&self, key: &'static str) -> Option<String> {
        let Some(node) = self.value(key, "give it one: it must be there") else {
            self.require(key);
            return None;
        };
        let text = self.text_of(key, node)?;
        if text.is_empty() {
            self.wrong(
                self.at_key(key),
                key,
                "must not be empty",
                format!("write a text behind `{key}:`, without which it cannot be"),
            );
            return None;
        }
        Some(text)
    }

    fn text_of(&self, key: &str, node: &Node) -> Option<String> {
        self.text_in(&format!("`{key}`"), node, |node| shapes::as_text(key, node))
    }

    /// `subject`: what the node is, for messages; `help` says how to write a text in its place.
    pub fn text_in(&self, subject: &str, node: &Node, help: impl FnOnce(&Node) -> String) -> Option<String> {
        match &node.value {
            Value::Scalar(Meaning::Text, text) => Some(text.clone()),
            Value::Scalar(meaning, text) => {
                let help = if *meaning == Meaning::Null {
                    "write '' for an empty text, or leave it out".to_owned()
                } else {
                    format!("write it in quotes: '{text}'")
                };
                let message = format!("{}: {subject} must be a text, not {}", self.what, node.describe());
                self.report.lapse(node.at, message, Some(help));
                (!self.report.strict()).then(|| text.clone())
            }
            _ => {
                let message = format!("{}: {subject} must be a text, not {}", self.what, node.describe());
                self.report.error(node.at, message, Some(help(node)));
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
        let help = meant
            .map_or_else(|| "write `true` or `false`".to_owned(), |meant| format!("write `{meant}`, without quotes"));
        self.coerced(node.at, message, meant, &help)
    }

    /// A whole number.
    pub fn int(&self, key: &'static str) -> Option<i64> {
        self.get(key).and_then(|node| self.int_of(key, node))
    }

    fn int_of(&self, key: &str, node: &Node) -> Option<i64> {
        let meant = match &node.value {
            Value::Scalar(Meaning::Int(value), text) => {
                self.check_notation(key, node.at, text, *value);
                return Some(*value);
            }
            // A boolean is an int in Python; upstream's schema lets it pass.
            Value::Scalar(Meaning::Bool(value), _) => {
                let number = i64::from(*value);
                let message = format!("{}: `{key}` should be a whole number, and counts as {number}", self.what);
                self.report.warning(
                    node.at,
                    message,
                    Some(format!("write the number that is meant, as `{key}: {number}`")),
                );
                return Some(number);
            }
            Value::Scalar(Meaning::Float(value), _) => match whole(*value) {
                Meaning::Int(value) => Some(value),
                _ => None,
            },
            Value::Scalar(Meaning::Text, text) => text.trim().parse().ok(),
            _ => None,
        };
        let message = format!("{}: `{key}` must be a whole number, not {}", self.what, node.describe());
        let help = match (&meant, &node.value) {
            (None, Value::Scalar(Meaning::Text, text)) if grouped(text).is_some() => {
                format!("write {}", grouped(text).unwrap_or_default())
            }
            (Some(meant), _) => format!("write {meant}, without quotes or fraction"),
            (None, Value::Scalar(_, text)) => units::advice(key, text, true),
            (None, _) => units::advice(key, "", true),
        };
        self.coerced(node.at, message, meant, &help)
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
            let text = if let Value::Scalar(_, text) = &node.value { text } else { "" };
            let message = format!("must be a number, not {}", node.describe());
            self.wrong(node.at, key, message, units::advice(key, text, false));
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

    /// Seconds. Negative ones count as none, with a warning.
    pub fn seconds(&self, key: &'static str) -> Option<Duration> {
        let seconds = self.number(key, true)?;
        self.duration(key, seconds)
    }

    /// A number of seconds as a duration.
    pub fn duration(&self, key: &str, seconds: f64) -> Option<Duration> {
        if seconds < 0.0 {
            self.negative(key);
            return Some(Duration::ZERO);
        }
        // A hundred years: more would only overflow when it is added to a clock.
        if seconds > 3_155_760_000.0 {
            self.wrong(self.at_key(key), key, "is more than a hundred years", "it is a number of seconds");
            return None;
        }
        Some(Duration::from_secs_f64(seconds))
    }

    /// An amount: a whole number; a negative one counts as 0, with a warning.
    pub fn amount(&self, key: &'static str) -> Option<u64> {
        let value = self.int(key)?;
        if value < 0 {
            self.negative(key);
        }
        Some(u64::try_from(value).unwrap_or(0))
    }

    fn negative(&self, key: &str) {
        let message = format!("{}: `{key}` is negative and counts as 0", self.what);
        self.report.warning(
            self.at_key(key),
            message,
            Some("write 0 or more, or leave it out to get its default".to_owned()),
        );
    }

    /// A number of things that are kept in memory or in ZooKeeper, one by one: not negative, and not more than `most`. A
    /// larger one counts as that, with a warning; it is an error when validating.
    pub fn count(&self, key: &'static str, most: usize) -> Option<usize> {
        let value = self.amount(key)?;
        match usize::try_from(value) {
            Ok(count) if count <= most => Some(count),
            _ => {
                let message = format!("{}: `{key}` is {value}, and at most {most} are allowed", self.what);
                self.report.lapse(self.at_key(key), message, Some(format!("write {most} or less")));
                Some(most)
            }
        }
    }

    /// A TCP port.
    pub fn port(&self, key: &'static str) -> Option<u16> {
        let value = self.int(key)?;
        let port = u16::try_from(value).ok().filter(|port| *port != 0);
        if port.is_none() {
            let message = format!("cannot be {value}");
            self.wrong(self.at_key(key), key, message, A_PORT);
        }
        port
    }

    /// A TCP port, or 0, which upstream takes too; the caller says what comes of it.
    pub fn port_or_zero(&self, key: &'static str) -> Option<u16> {
        match self.raw(key).map(|node| &node.value) {
            Some(Value::Scalar(Meaning::Int(0), _)) => {
                self.know(key);
                Some(0)
            }
            _ => self.port(key),
        }
    }

    /// A value that means what we read, but that upstream's schema would reject; or one that means nothing.
    fn coerced<T>(&self, at: Mark, message: String, meant: Option<T>, help: &str) -> Option<T> {
        let help = Some(help.to_owned());
        if meant.is_some() {
            self.report.lapse(at, message, help);
            meant.filter(|_| !self.report.strict())
        } else {
            self.report.error(at, message, help);
            None
        }
    }
}

/// `1,000` and `1 000` as 1000.
fn grouped(text: &str) -> Option<i64> {
    let (first, rest) = text.split_once([',', ' ', '\''])?;
    let are_groups =
        rest.split([',', ' ', '\'']).all(|group| group.len() == 3 && group.bytes().all(|b| b.is_ascii_digit()));
    let digits: String = text.chars().filter(char::is_ascii_digit).collect();
    (are_groups && !first.is_empty() && first.bytes().all(|b| b.is_ascii_digit())).then(|| digits.parse().ok())?
}
