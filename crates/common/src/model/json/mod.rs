//! JSON that goes through unchanged: [`Json`] is a value kept as the text it was written in.
//!
//! `serde_json::Value` has no place for much that Python writes: integers beyond 64 bits (Zuul's `trace_id` has 128),
//! `NaN`, lone surrogates, two members of one name. So what we only carry stays text, and is looked at through
//! [`Json::shape`] (exact, one level at a time) or [`Json::view`] (a `Value`, as near as that can be). Decision 0008 says why not
//! `arbitrary_precision` or `RawValue`.

mod python;
mod scan;
#[cfg(test)]
mod tests;

use std::fmt;

use serde::Serialize;
use serde_json::{Map, Number, Value};

pub use python::{python_float, to_python_json, write_python_json};
pub use scan::NotJson;
use scan::{Scanner, decode};

/// Deeper than anything that we look into; a `Value` is dropped recursively, so it must not be as deep as a text may be.
const DEEPEST_VIEW: usize = 64;

/// A JSON value as it was written. Two are equal if they are written alike.
#[derive(Clone, PartialEq, Eq)]
pub struct Json(Box<str>);

/// What a value is, with its members still as they were written.
#[derive(Clone, Debug, PartialEq)]
pub enum Shape {
    /// `null`
    Null,
    /// `true`, `false`
    Bool(bool),
    /// A number as it is written; also `NaN`, `Infinity`, `-Infinity`.
    Number(String),
    /// A text; what is no Unicode in it (a lone surrogate) is U+FFFD.
    Text(String),
    /// A list.
    List(Vec<Json>),
    /// An object.
    Object(Object),
}

impl Json {
    /// Takes a text over as it is, blanks around it left out.
    pub fn parse(text: &str) -> Result<Self, NotJson> {
        let mut scanner = Scanner::new(text);
        let value = scanner.value()?;
        scanner.end()?;
        Ok(Self::verbatim(value))
    }

    /// What the scanner has found.
    fn verbatim(text: &str) -> Self {
        Self(text.into())
    }

    /// Something of ours, as Python would write it.
    pub fn of<T: Serialize + ?Sized>(value: &T) -> Self {
        let text = to_python_json(value);
        Self(String::from_utf8_lossy(&text).into())
    }

    /// A number as Python would write it; also one that JSON does not know.
    pub fn float(value: f64) -> Self {
        Self(python_float(value).into())
    }

    /// An integer of any size from its decimal digits; `None`: they are none.
    pub fn integer(digits: &str) -> Option<Self> {
        Self::parse(digits).ok().filter(|_| digits.trim_start_matches('-').bytes().all(|b| b.is_ascii_digit()))
    }

    /// A list.
    pub fn list(items: impl IntoIterator<Item = Self>) -> Self {
        let mut text = String::from("[");
        for (i, item) in items.into_iter().enumerate() {
            text.push_str(if i == 0 { "" } else { ", " });
            text.push_str(&item.0);
        }
        text.push(']');
        Self(text.into())
    }

    /// As it is written.
    pub const fn as_str(&self) -> &str {
        &self.0
    }

    /// What it is.
    pub fn shape(&self) -> Shape {
        let text = &*self.0;
        match text.as_bytes().first() {
            Some(b'n') | None => Shape::Null,
            Some(b't') => Shape::Bool(true),
            Some(b'f') => Shape::Bool(false),
            Some(b'"') => Shape::Text(decode(text)),
            Some(b'[') => Shape::List(items(text)),
            Some(b'{') => Shape::Object(object_of(text).unwrap_or_default()),
            Some(_) => Shape::Number(text.to_owned()),
        }
    }

    /// The members, if it is an object.
    pub fn object(&self) -> Option<Object> {
        match self.shape() {
            Shape::Object(object) => Some(object),
            _ => None,
        }
    }

    /// The text, if it is one.
    pub fn text(&self) -> Option<String> {
        text_of(&self.0)
    }

    /// As near as a `Value` can be: a number beyond its reach is the nearest double, `NaN` and what is deeper than 64 levels
    /// are null. To look at, never to write back.
    pub fn view(&self) -> Value {
        view_of(&self.0)
    }
}

impl fmt::Debug for Json {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for Json {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl From<&Value> for Json {
    fn from(value: &Value) -> Self {
        Self::of(value)
    }
}

impl From<Object> for Json {
    fn from(object: Object) -> Self {
        Self(object.text().into())
    }
}

/// An object's members in their order, names and values as they were written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Object {
    /// Names have their quotes and escapes.
    members: Vec<(Box<str>, Json)>,
}

impl Object {
    /// The members of a text that is an object; `None`: it is something else.
    pub fn parse(text: &str) -> Result<Option<Self>, NotJson> {
        Ok(members_of(text)?.map(|members| members.into_iter().collect()))
    }

    /// Whether it has no member.
    pub const fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    /// The value of a name; of two, the last one, as Python reads them.
    pub fn get(&self, name: &str) -> Option<&Json> {
        self.members.iter().rev().find(|(written, _)| is_name(written, name)).map(|(_, value)| value)
    }

    /// Takes the value of a name out.
    pub fn take(&mut self, name: &str) -> Option<Json> {
        let mut value = None;
        while let Some(at) = self.members.iter().position(|(written, _)| is_name(written, name)) {
            value = Some(self.members.remove(at).1);
        }
        value
    }

    /// Sets a value: in its place where the name is there already, else at the end.
    pub fn set(&mut self, name: &str, value: impl Into<Json>) {
        match self.members.iter_mut().rev().find(|(written, _)| is_name(written, name)) {
            Some((_, there)) => *there = value.into(),
            None => self.push(name, value),
        }
    }

    /// Adds a member whose name is not there yet.
    pub fn push(&mut self, name: &str, value: impl Into<Json>) {
        self.members.push((quoted(name), value.into()));
    }

    /// Adds a member of ours.
    #[must_use]
    pub fn with<T: Serialize + ?Sized>(mut self, name: &str, value: &T) -> Self {
        self.push(name, Json::of(value));
        self
    }

    /// Adds a member that is carried, null where there is none.
    #[must_use]
    pub fn with_json(mut self, name: &str, value: Option<Json>) -> Self {
        self.push(name, value.unwrap_or_else(|| Json("null".into())));
        self
    }

    /// Adds all members of another, none of which is there yet.
    pub fn append(&mut self, mut other: Self) {
        self.members.append(&mut other.members);
    }

    /// Sets all members of another, as [`Self::set`] does.
    pub fn extend(&mut self, other: Self) {
        for (name, value) in other.members {
            let decoded = decode(&name);
            match self.members.iter_mut().rev().find(|(written, _)| is_name(written, &decoded)) {
                Some((_, there)) => *there = value,
                None => self.members.push((name, value)),
            }
        }
    }

    /// The names, and the values as they are written.
    pub fn iter(&self) -> impl Iterator<Item = (String, &Json)> {
        self.members.iter().map(|(name, value)| (decode(name), value))
    }

    /// The members as they are written.
    pub(super) fn written(&self) -> impl Iterator<Item = Written<'_>> {
        self.members.iter().map(|(name, value)| (&**name, value.as_str()))
    }

    /// Sorts the members by name, as `json.dumps(…, sort_keys=True)` does.
    pub fn sort(&mut self) {
        self.members.sort_by_cached_key(|(name, _)| decode(name));
    }

    /// As Python separates them.
    pub fn text(&self) -> String {
        let length: usize = self.members.iter().map(|(name, value)| name.len() + value.0.len() + 4).sum();
        let mut text = String::with_capacity(length + 2);
        text.push('{');
        for (i, (name, value)) in self.members.iter().enumerate() {
            text.push_str(if i == 0 { "" } else { ", " });
            text.push_str(name);
            text.push_str(": ");
            text.push_str(&value.0);
        }
        text.push('}');
        text
    }
}

impl FromIterator<(String, Json)> for Object {
    fn from_iter<I: IntoIterator<Item = (String, Json)>>(members: I) -> Self {
        Self { members: members.into_iter().map(|(name, value)| (quoted(&name), value)).collect() }
    }
}

impl<'a> FromIterator<Written<'a>> for Object {
    fn from_iter<I: IntoIterator<Item = Written<'a>>>(members: I) -> Self {
        Self { members: members.into_iter().map(|(name, value)| (name.into(), Json::verbatim(value))).collect() }
    }
}

/// A member as it is written: its name with quotes and escapes, its value.
pub(super) type Written<'a> = (&'a str, &'a str);

/// The members of a text that is an object; `None`: it is something else.
pub(super) fn members_of(text: &str) -> Result<Option<Vec<Written<'_>>>, NotJson> {
    let mut scanner = Scanner::new(text);
    if !scanner.take(b'{') {
        scanner.value()?;
        scanner.end()?;
        return Ok(None);
    }
    let mut members = Vec::new();
    if !scanner.take(b'}') {
        loop {
            members.push((scanner.name()?, scanner.value()?));
            if scanner.take(b'}') {
                break;
            }
            scanner.comma()?;
        }
    }
    scanner.end()?;
    Ok(Some(members))
}

/// The members of a value as it is written, if it is an object.
pub(super) fn object_of(written: &str) -> Option<Object> {
    Object::parse(written).ok().flatten()
}

/// What a value as it is written says, if it is a text.
pub(super) fn text_of(written: &str) -> Option<String> {
    written.starts_with('"').then(|| decode(written))
}

/// See [`Json::view`].
pub(super) fn view_of(written: &str) -> Value {
    view(written, DEEPEST_VIEW)
}

/// The items of the text of a list.
fn items(text: &str) -> Vec<Json> {
    let mut scanner = Scanner::new(text);
    let mut items = Vec::new();
    if scanner.take(b'[') && !scanner.take(b']') {
        while let Ok(item) = scanner.value() {
            items.push(Json::verbatim(item));
            if !scanner.take(b',') {
                break;
            }
        }
    }
    items
}

/// A name with its quotes, and escapes where Python writes some. Most names need none.
fn quoted(name: &str) -> Box<str> {
    if name.bytes().all(|byte| matches!(byte, b' '..=b'~') && !matches!(byte, b'"' | b'\\')) {
        format!("\"{name}\"").into()
    } else {
        Json::of(name).0
    }
}

/// Whether a name with its quotes and escapes is that one. Decodes only a name that is the same up to its first escape: each
/// record has dozens of names that are compared with dozens of others.
pub(super) fn is_name(written: &str, name: &str) -> bool {
    let bare = &written.as_bytes()[1..written.len() - 1];
    // Escapes only make it longer.
    if bare.len() < name.len() || (bare.len() > name.len() && !bare.contains(&b'\\')) {
        return false;
    }
    for (at, byte) in bare.iter().enumerate() {
        if *byte == b'\\' {
            return decode(written) == name;
        }
        if name.as_bytes().get(at) != Some(byte) {
            return false;
        }
    }
    bare.len() == name.len()
}

fn view(text: &str, deepest: usize) -> Value {
    match text.as_bytes().first() {
        Some(b't') => Value::Bool(true),
        Some(b'f') => Value::Bool(false),
        Some(b'"') => Value::String(decode(text)),
        Some(b'[' | b'{') if deepest == 0 => Value::Null,
        Some(b'[') => Value::Array(items(text).iter().map(|item| view(&item.0, deepest - 1)).collect()),
        Some(b'{') => {
            let members = members_of(text).ok().flatten().unwrap_or_default();
            let members = members.into_iter().map(|(name, value)| (decode(name), view(value, deepest - 1)));
            Value::Object(members.collect::<Map<_, _>>())
        }
        Some(b'-' | b'0'..=b'9') => number(text).map_or(Value::Null, Value::Number),
        _ => Value::Null,
    }
}

fn number(text: &str) -> Option<Number> {
    if let Ok(number) = text.parse::<i64>() {
        return Some(number.into());
    }
    match text.parse::<u64>() {
        Ok(number) => Some(number.into()),
        Err(_) => Number::from_f64(text.parse().ok()?),
    }
}
