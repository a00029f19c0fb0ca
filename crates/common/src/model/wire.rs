//! The documents of `/nodepool` znodes: JSON as Python's `json.dumps` writes it, and tolerant reading.

use std::io;

use serde::Serialize;
use serde_json::{Map, Value, ser::Formatter};

/// Why a znode's data cannot be used as a record.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// The znode is there and holds nothing: locking a deleted record leaves this (zookeeper.md 5).
    #[error("the record is empty")]
    Empty,
    /// Truncated or not JSON.
    #[error("the record is not JSON: {0}")]
    NotJson(String),
    /// JSON, but a list or a number.
    #[error("the record is not a JSON object")]
    NotAnObject,
    /// No `state`, or one that upstream's readers refuse too.
    #[error("the record has {}", .0.as_ref().map_or("no state".to_owned(), |s| format!("the unknown state {s}")))]
    State(Option<String>),
}

/// Takes a document apart key by key; keeps a note of each key that had to be read as absent.
#[derive(Debug)]
pub struct Reading {
    map: Map<String, Value>,
    /// One sentence per key whose value had another type than the key has.
    pub oddities: Vec<String>,
}

impl Reading {
    /// Parses a znode's data.
    pub fn new(data: &[u8]) -> Result<Self, RecordError> {
        if data.is_empty() {
            return Err(RecordError::Empty);
        }
        match serde_json::from_slice(data) {
            Ok(Value::Object(map)) => Ok(Self { map, oddities: Vec::new() }),
            Ok(_) => Err(RecordError::NotAnObject),
            Err(error) => Err(RecordError::NotJson(error.to_string())),
        }
    }

    /// Takes a key out and converts it. `null` and an absent key are `None`; so, with a note, is a value that
    /// does not convert.
    pub fn take<T>(&mut self, key: &str, convert: impl FnOnce(&Value) -> Option<T>) -> Option<T> {
        let value = self.map.shift_remove(key)?;
        if value.is_null() {
            return None;
        }
        let converted = convert(&value);
        if converted.is_none() {
            self.oddities.push(format!("key {key} has the unusable value {value}"));
        }
        converted
    }

    /// A text.
    pub fn text(&mut self, key: &str) -> Option<String> {
        self.take(key, |v| v.as_str().map(str::to_owned))
    }

    /// A number.
    pub fn number(&mut self, key: &str) -> Option<f64> {
        self.take(key, Value::as_f64)
    }

    /// A whole number; a text that spells one counts (upstream applies `int()` in places).
    pub fn integer(&mut self, key: &str) -> Option<i64> {
        self.take(key, |v| v.as_i64().or_else(|| v.as_str()?.trim().parse().ok()))
    }

    /// A boolean.
    pub fn boolean(&mut self, key: &str) -> Option<bool> {
        self.take(key, Value::as_bool)
    }

    /// A list of texts; members of other types are left out.
    pub fn texts(&mut self, key: &str) -> Option<Vec<String>> {
        self.take(key, |v| Some(v.as_array()?.iter().filter_map(|t| t.as_str().map(str::to_owned)).collect()))
    }

    /// An object.
    pub fn object(&mut self, key: &str) -> Option<Map<String, Value>> {
        self.take(key, |v| v.as_object().cloned())
    }

    /// Any value.
    pub fn any(&mut self, key: &str) -> Option<Value> {
        self.take(key, |v| Some(v.clone()))
    }

    /// The state, which every record must have.
    pub fn state<T>(&mut self, parse: impl Fn(&str) -> Option<T>) -> Result<T, RecordError> {
        match self.map.shift_remove("state") {
            None => Err(RecordError::State(None)),
            Some(value) => value.as_str().and_then(parse).ok_or_else(|| RecordError::State(Some(value.to_string()))),
        }
    }

    /// The keys nobody took: not ours to know, ours to keep.
    pub fn rest(self) -> (Map<String, Value>, Vec<String>) {
        (self.map, self.oddities)
    }
}

/// Serializes as Python's `json.dumps` does by default: `", "` and `": "`, non-ASCII as `\uXXXX`.
///
/// Never fails for JSON values and their maps and lists: they have nothing that cannot be written.
pub fn to_python_json<T: Serialize + ?Sized>(value: &T) -> Vec<u8> {
    let mut out = Vec::with_capacity(1024);
    let mut serializer = serde_json::Serializer::with_formatter(&mut out, PythonFormatter);
    // Writing JSON values into memory has no failure; an impossible one would leave a truncated document, which
    // every reader treats as unusable rather than as wrong data.
    let _ = value.serialize(&mut serializer);
    out
}

struct PythonFormatter;

impl Formatter for PythonFormatter {
    fn begin_array_value<W: ?Sized + io::Write>(&mut self, writer: &mut W, first: bool) -> io::Result<()> {
        if first { Ok(()) } else { writer.write_all(b", ") }
    }

    fn begin_object_key<W: ?Sized + io::Write>(&mut self, writer: &mut W, first: bool) -> io::Result<()> {
        if first { Ok(()) } else { writer.write_all(b", ") }
    }

    fn begin_object_value<W: ?Sized + io::Write>(&mut self, writer: &mut W) -> io::Result<()> {
        writer.write_all(b": ")
    }

    fn write_string_fragment<W: ?Sized + io::Write>(&mut self, writer: &mut W, fragment: &str) -> io::Result<()> {
        if fragment.is_ascii() {
            return writer.write_all(fragment.as_bytes());
        }
        let mut units = [0; 2];
        for c in fragment.chars() {
            if c.is_ascii() {
                writer.write_all(&[c as u8])?;
            } else {
                for unit in c.encode_utf16(&mut units) {
                    write!(writer, "\\u{unit:04x}")?;
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn documents_look_like_pythons() {
        let Value::Object(map) = json!({"a": [1, "ü😀\n\"", null, true], "b": {"c": 1_760_000_000.25, "d": 2.0}})
        else {
            unreachable!()
        };
        assert_eq!(
            String::from_utf8(to_python_json(&map)).unwrap(),
            r#"{"a": [1, "\u00fc\ud83d\ude00\n\"", null, true], "b": {"c": 1760000000.25, "d": 2.0}}"#
        );
    }

    #[test]
    fn what_cannot_be_a_record_says_why() {
        assert_eq!(Reading::new(b"").unwrap_err(), RecordError::Empty);
        assert!(matches!(Reading::new(b"{\"state\": \"rea").unwrap_err(), RecordError::NotJson(_)));
        assert_eq!(Reading::new(b"[]").unwrap_err(), RecordError::NotAnObject);
        let mut reading = Reading::new(br#"{"state": "flying"}"#).unwrap();
        let error = reading.state(|_| None::<()>).unwrap_err();
        assert_eq!(error.to_string(), "the record has the unknown state \"flying\"");
    }
}
