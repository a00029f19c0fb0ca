//! The documents of `/nodepool` znodes: tolerant reading, and writing that leaves alone what is not ours to change.
//!
//! [`Reading`] takes a document apart key by key, each value still the text that it was written in. What nobody took, and
//! the original of each value that we would write in another way than it was written, is kept in [`Extra`]. Writing puts it back
//! wherever our own value is still the one that was read: what we have not changed leaves as it came.

use serde::Serialize;
use serde_json::{Map, Value};

pub use super::json::to_python_json;
use super::json::{Json, Object};

/// How much of an unusable value a message shows.
const SHOWN: usize = 200;

/// Why a znode's data cannot be used as a record.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// The znode is there and holds nothing: locking a deleted record leaves this.
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

/// A znode's data as an object.
pub fn document(data: &[u8]) -> Result<Object, RecordError> {
    if data.is_empty() {
        return Err(RecordError::Empty);
    }
    let text = std::str::from_utf8(data).map_err(|error| RecordError::NotJson(error.to_string()))?;
    match Object::parse(text) {
        Ok(Some(document)) => Ok(document),
        Ok(None) => Err(RecordError::NotAnObject),
        Err(error) => Err(RecordError::NotJson(error.to_string())),
    }
}

/// Takes a document apart key by key; keeps a note of each key that had to be read as absent.
#[derive(Debug)]
pub struct Reading {
    document: Object,
    taken: Object,
    /// One sentence per key whose value had another type than the key has.
    pub oddities: Vec<String>,
}

impl Reading {
    /// Parses a znode's data.
    pub fn new(data: &[u8]) -> Result<Self, RecordError> {
        Ok(Self { document: document(data)?, taken: Object::default(), oddities: Vec::new() })
    }

    /// Takes a key out as it is written. `null` and an absent key are `None`.
    pub fn json(&mut self, key: &str) -> Option<Json> {
        self.take_json(key, |json| Some(json.clone()))
    }

    /// Takes a key out and converts it. `null` and an absent key are `None`; so, with a note, is a value that
    /// does not convert.
    pub fn take<T>(&mut self, key: &str, convert: impl FnOnce(&Value) -> Option<T>) -> Option<T> {
        self.take_json(key, |json| convert(&json.view()))
    }

    fn take_json<T>(&mut self, key: &str, convert: impl FnOnce(&Json) -> Option<T>) -> Option<T> {
        let json = self.document.take(key)?;
        let converted = if json.as_str() == "null" {
            None
        } else {
            let converted = convert(&json);
            if converted.is_none() {
                let shown: String = json.as_str().chars().take(SHOWN).collect();
                let more = if shown.len() < json.as_str().len() { "…" } else { "" };
                self.oddities.push(format!("key {key} has the unusable value {shown}{more}"));
            }
            converted
        };
        self.taken.push(key, json);
        converted
    }

    /// A text.
    pub fn text(&mut self, key: &str) -> Option<String> {
        self.take_json(key, Json::text)
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

    /// An object as it is written.
    pub fn json_object(&mut self, key: &str) -> Option<Object> {
        self.take_json(key, Json::object)
    }

    /// An object, to look into.
    pub fn object(&mut self, key: &str) -> Option<Map<String, Value>> {
        self.take(key, |v| v.as_object().cloned())
    }

    /// Any value, to look at.
    pub fn any(&mut self, key: &str) -> Option<Value> {
        self.take(key, |v| Some(v.clone()))
    }

    /// The state, which every record must have.
    pub fn state<T>(&mut self, parse: impl Fn(&str) -> Option<T>) -> Result<T, RecordError> {
        match self.document.take("state") {
            None => Err(RecordError::State(None)),
            Some(json) => {
                json.text().as_deref().and_then(parse).ok_or_else(|| RecordError::State(Some(json.to_string())))
            }
        }
    }

    /// What is not ours, and the notes. `ours`: what we would write for what was taken.
    pub fn rest(mut self, ours: &Object) -> (Extra, Vec<String>) {
        let otherwise = self.taken.iter().filter_map(|(key, original)| {
            let ours = ours.get(&key);
            (ours != Some(original)).then(|| AsRead { ours: ours.cloned(), original: original.clone(), key })
        });
        let as_read = otherwise.collect();
        // Of some forty keys hardly any is left.
        self.document.shrink_to_fit();
        (Extra { as_read, others: self.document }, self.oddities)
    }
}

/// What of a record is not ours to change.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Extra {
    /// Keys of others.
    others: Object,
    as_read: Box<[AsRead]>,
}

/// A value of ours that was written in another way than we would write it: `2.50`, a list with members that we do not
/// understand, an integer beyond 64 bits.
#[derive(Clone, Debug, PartialEq)]
struct AsRead {
    key: String,
    original: Json,
    /// What we made of it; `None`: we would leave the key out.
    ours: Option<Json>,
}

impl Extra {
    /// A key of others.
    pub fn get(&self, key: &str) -> Option<&Json> {
        self.others.get(key)
    }

    /// Sets a key beyond upstream's.
    pub fn set<T: Serialize + ?Sized>(&mut self, key: &str, value: &T) {
        self.others.set(key, Json::of(value));
    }

    /// The whole record: `ours`, each value as it was read where it is still the same, then the keys of others.
    pub fn complete(&self, mut ours: Object) -> Object {
        for AsRead { key, original, ours: then } in &self.as_read {
            if ours.get(key) == then.as_ref() {
                ours.set(key, original.clone());
            }
        }
        ours.append(self.others.clone());
        ours
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_a_record_says_why() {
        assert_eq!(Reading::new(b"").unwrap_err(), RecordError::Empty);
        assert!(matches!(Reading::new(b"{\"state\": \"rea").unwrap_err(), RecordError::NotJson(_)));
        assert_eq!(Reading::new(b"[]").unwrap_err(), RecordError::NotAnObject);
        let mut reading = Reading::new(br#"{"state": "flying"}"#).unwrap();
        let error = reading.state(|_| None::<()>).unwrap_err();
        assert_eq!(error.to_string(), "the record has the unknown state \"flying\"");
    }

    #[test]
    fn a_value_is_put_back_as_it_was_read_until_it_is_changed() {
        let mut reading = Reading::new(br#"{"n": 2.50, "list": ["a", 5], "other": 1e0}"#).unwrap();
        let (number, list) = (reading.number("n").unwrap(), reading.texts("list").unwrap());
        assert_eq!((number, &list[..]), (2.5, &["a".to_owned()][..]));
        let ours = |number: f64, list: &[String]| Object::default().with("n", &number).with("list", list);
        let (extra, _) = reading.rest(&ours(number, &list));
        let written = |number, list: &[String]| extra.complete(ours(number, list)).text();
        assert_eq!(written(number, &list), r#"{"n": 2.50, "list": ["a", 5], "other": 1e0}"#);
        assert_eq!(written(3.0, &[]), r#"{"n": 3.0, "list": [], "other": 1e0}"#);
    }
}
