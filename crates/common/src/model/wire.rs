//! The documents of `/nodepool` znodes: tolerant reading, and writing that leaves alone what is not ours to change.
//!
//! [`Reading`] takes a document apart key by key, each value still the text that it was written in. What nobody took, and
//! the original of each value that we would write in another way than it was written, is kept in [`Extra`]. Writing puts it back
//! wherever our own value is still the one that was read: what we have not changed leaves as it came.

use serde::Serialize;
use serde_json::{Map, Value};

pub use super::json::to_python_json;
use super::json::{Json, Object, Written, is_name, members_of, object_of, text_of, view_of, write_python_json};

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
    Ok(members(data)?.into_iter().collect())
}

fn members(data: &[u8]) -> Result<Vec<Written<'_>>, RecordError> {
    if data.is_empty() {
        return Err(RecordError::Empty);
    }
    let text = std::str::from_utf8(data).map_err(|error| RecordError::NotJson(error.to_string()))?;
    match members_of(text) {
        Ok(Some(members)) => Ok(members),
        Ok(None) => Err(RecordError::NotAnObject),
        Err(error) => Err(RecordError::NotJson(error.to_string())),
    }
}

/// Takes a document apart key by key; keeps a note of each key that had to be read as absent.
///
/// It borrows the document: what is copied becomes part of the record. Every change of a record is read, and a node has some
/// forty keys.
#[derive(Debug)]
pub struct Reading<'a> {
    /// Those that nobody has taken yet.
    members: Vec<Option<Written<'a>>>,
    /// Whether each name is there once, and written without escapes: then the first one found is the one.
    has_plain_names: bool,
    /// Where the member after the last one taken is. Keys are asked for in the order in which they are written, mostly.
    next: usize,
    taken: Vec<(&'static str, &'a str)>,
    /// One sentence per key whose value had another type than the key has.
    pub oddities: Vec<String>,
}

impl<'a> Reading<'a> {
    /// Parses a znode's data.
    pub fn new(data: &'a [u8]) -> Result<Self, RecordError> {
        let members = members(data)?;
        let taken = Vec::with_capacity(members.len());
        let has_plain_names = has_plain_names(&members);
        let members = members.into_iter().map(Some).collect();
        Ok(Self { members, has_plain_names, next: 0, taken, oddities: Vec::new() })
    }

    /// Takes a key out as it is written; of two of one name, the last one counts, as for Python.
    fn take_out(&mut self, key: &str) -> Option<&'a str> {
        if self.has_plain_names {
            let is_key = |member: &Option<Written<'a>>| {
                member.is_some_and(|(name, _)| {
                    name.len() == key.len() + 2 && name.as_bytes()[1..=key.len()] == *key.as_bytes()
                })
            };
            let after = self.members[self.next..].iter().position(is_key).map(|at| self.next + at);
            let at = after.or_else(|| self.members[..self.next].iter().position(is_key))?;
            self.next = at + 1;
            return self.members[at].take().map(|(_, value)| value);
        }
        let of_key = self.members.iter_mut().filter_map(|member| member.take_if(|(name, _)| is_name(name, key)));
        of_key.last().map(|(_, value)| value)
    }

    /// Takes a key out as it is written. `null` and an absent key are `None`.
    pub fn json(&mut self, key: &'static str) -> Option<Json> {
        self.take_written(key, |written| Json::parse(written).ok())
    }

    /// Takes a key out and converts it. `null` and an absent key are `None`; so, with a note, is a value that
    /// does not convert.
    pub fn take<T>(&mut self, key: &'static str, convert: impl FnOnce(&Value) -> Option<T>) -> Option<T> {
        self.take_written(key, |written| convert(&view_of(written)))
    }

    fn take_written<T>(&mut self, key: &'static str, convert: impl FnOnce(&str) -> Option<T>) -> Option<T> {
        let written = self.take_out(key)?;
        let converted = if written == "null" {
            None
        } else {
            let converted = convert(written);
            if converted.is_none() {
                let shown: String = written.chars().take(SHOWN).collect();
                let more = if shown.len() < written.len() { "…" } else { "" };
                self.oddities.push(format!("key {key} has the unusable value {shown}{more}"));
            }
            converted
        };
        self.taken.push((key, written));
        converted
    }

    /// A text.
    pub fn text(&mut self, key: &'static str) -> Option<String> {
        self.take_written(key, text_of)
    }

    /// A number.
    pub fn number(&mut self, key: &'static str) -> Option<f64> {
        self.take(key, Value::as_f64)
    }

    /// A whole number; a text that spells one counts (upstream applies `int()` in places).
    pub fn integer(&mut self, key: &'static str) -> Option<i64> {
        self.take(key, |v| v.as_i64().or_else(|| v.as_str()?.trim().parse().ok()))
    }

    /// A boolean.
    pub fn boolean(&mut self, key: &'static str) -> Option<bool> {
        self.take(key, Value::as_bool)
    }

    /// A list of texts; members of other types are left out.
    pub fn texts(&mut self, key: &'static str) -> Option<Vec<String>> {
        self.take(key, |v| Some(v.as_array()?.iter().filter_map(|t| t.as_str().map(str::to_owned)).collect()))
    }

    /// An object as it is written.
    pub fn json_object(&mut self, key: &'static str) -> Option<Object> {
        self.take_written(key, |written| written.starts_with('{').then(|| object_of(written)).flatten())
    }

    /// An object, to look into.
    pub fn object(&mut self, key: &'static str) -> Option<Map<String, Value>> {
        self.take(key, |v| v.as_object().cloned())
    }

    /// Any value, to look at.
    pub fn any(&mut self, key: &'static str) -> Option<Value> {
        self.take(key, |v| Some(v.clone()))
    }

    /// The state, which every record must have.
    pub fn state<T>(&mut self, parse: impl Fn(&str) -> Option<T>) -> Result<T, RecordError> {
        match self.take_out("state") {
            None => Err(RecordError::State(None)),
            Some(written) => {
                text_of(written).as_deref().and_then(parse).ok_or_else(|| RecordError::State(Some(written.to_owned())))
            }
        }
    }

    /// What is not ours, and the notes. `ours`: what we would write for what was taken.
    pub fn rest(self, ours: &OurKeys) -> (Extra, Vec<String>) {
        // Both are in the same order, mostly.
        let mut next = 0;
        let otherwise = self.taken.into_iter().filter_map(|(key, original)| {
            let ours = ours.get_from(&mut next, key);
            (ours != Some(original)).then(|| AsRead { key, original: original.into(), ours: ours.map(Into::into) })
        });
        (Extra { as_read: otherwise.collect(), others: self.members.into_iter().flatten().collect() }, self.oddities)
    }
}

/// Whether each name is there once and has no escapes. `false` costs time and nothing else, so a hash is enough.
fn has_plain_names(members: &[Written<'_>]) -> bool {
    let mut seen = [0_u64; 64];
    members.iter().all(|(name, _)| {
        // FNV-1a: names are short.
        let mut hash = 0xcbf2_9ce4_8422_2325_u64;
        for byte in name.bytes() {
            if byte == b'\\' {
                return false;
            }
            hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
        // Twelve of the upper bits, which depend on all bytes; by these all names of ours are told apart.
        let [_, word, bit, ..] = hash.to_be_bytes();
        let (word, bit) = (usize::from(word & 63), 1 << (bit & 63));
        let is_new = seen[word] & bit == 0;
        seen[word] |= bit;
        is_new
    })
}

/// The keys of a record that are ours, in their order, with the values that we would write.
#[derive(Debug, Default)]
pub struct OurKeys {
    /// The values, one after the other.
    values: Vec<u8>,
    /// Each key, and where its value ends.
    keys: Vec<(&'static str, usize)>,
}

impl OurKeys {
    /// For a record with so many keys.
    pub fn of(count: usize) -> Self {
        Self { values: Vec::with_capacity(count * 16), keys: Vec::with_capacity(count) }
    }

    /// Adds a key, which has no escapes.
    #[must_use]
    pub fn with<T: Serialize + ?Sized>(mut self, key: &'static str, value: &T) -> Self {
        write_python_json(&mut self.values, value);
        self.keys.push((key, self.values.len()));
        self
    }

    /// Adds a key whose value is carried as it is written, null where there is none.
    #[must_use]
    pub fn with_written(mut self, key: &'static str, value: Option<&str>) -> Self {
        self.values.extend_from_slice(value.unwrap_or("null").as_bytes());
        self.keys.push((key, self.values.len()));
        self
    }

    fn iter(&self) -> impl Iterator<Item = Written<'_>> {
        let mut begin = 0;
        self.keys.iter().map(move |(key, end)| {
            let value = &self.values[begin..*end];
            begin = *end;
            // What was serialized, or was a text before.
            (*key, std::str::from_utf8(value).unwrap_or_default())
        })
    }

    fn get(&self, key: &str) -> Option<&str> {
        self.get_from(&mut 0, key)
    }

    /// Looks from `next` on first, and leaves there what is behind the key.
    fn get_from(&self, next: &mut usize, key: &str) -> Option<&str> {
        let is_key = |(name, _): &(&'static str, usize)| *name == key;
        let after = self.keys[*next..].iter().position(is_key).map(|at| *next + at);
        let at = after.or_else(|| self.keys[..*next].iter().position(is_key))?;
        *next = at + 1;
        let begin = at.checked_sub(1).map_or(0, |before| self.keys[before].1);
        std::str::from_utf8(&self.values[begin..self.keys[at].1]).ok()
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
    key: &'static str,
    original: Box<str>,
    /// What we made of it; `None`: we would leave the key out.
    ours: Option<Box<str>>,
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
    pub fn complete(&self, ours: &OurKeys) -> String {
        let mut text = String::with_capacity(ours.values.len() + ours.keys.len() * 24 + 64);
        let mut add = |name: &str, value: &str, quote: &str| {
            text.push_str(if text.is_empty() { "{" } else { ", " });
            for part in [quote, name, quote, ": ", value] {
                text.push_str(part);
            }
        };
        for (key, value) in ours.iter() {
            let as_read =
                self.as_read.iter().find(|as_read| as_read.key == key && as_read.ours.as_deref() == Some(value));
            add(key, as_read.map_or(value, |as_read| &as_read.original), "\"");
        }
        for as_read in self.as_read.iter().filter(|as_read| as_read.ours.is_none() && ours.get(as_read.key).is_none()) {
            add(as_read.key, &as_read.original, "\"");
        }
        for (name, value) in self.others.written() {
            add(name, value, "");
        }
        text.push_str(if text.is_empty() { "{}" } else { "}" });
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Node;

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
    fn keys_are_found_in_any_order_and_of_two_the_last_one_counts() {
        for (record, a, b) in [
            (r#"{"state": "x", "a": 1, "b": 2}"#, Some(1), Some(2)),
            (r#"{"b": 2, "state": "x", "a": 1}"#, Some(1), Some(2)),
            (r#"{"a": 1, "b": 2, "a": 3}"#, Some(3), Some(2)),
            (r#"{"a": 1, "\u0061": 3, "b": 2}"#, Some(3), Some(2)),
            (r#"{"\u0061": 3, "aa": 4}"#, Some(3), None),
            (r#"{"é": 3, "b": null}"#, None, None),
        ] {
            for reversed in [false, true] {
                let mut reading = Reading::new(record.as_bytes()).unwrap();
                let mut found: Vec<_> = ["a", "b"].into();
                if reversed {
                    found.reverse();
                }
                let mut found: Vec<_> = found.into_iter().map(|key| (key, reading.integer(key))).collect();
                found.sort_unstable();
                assert_eq!(found, [("a", a), ("b", b)], "{record}");
                assert_eq!((reading.integer("a"), reading.integer("b")), (None, None), "each is taken once: {record}");
                assert_eq!(reading.integer("éx"), None, "as long as two others: {record}");
            }
        }
    }

    #[test]
    fn the_keys_of_records_are_told_apart() {
        let node = Node::new(0.0).write();
        assert!(Reading::new(&node).unwrap().has_plain_names, "or each node is read slowly");
    }

    #[test]
    fn a_value_is_put_back_as_it_was_read_until_it_is_changed() {
        let mut reading = Reading::new(br#"{"n": 2.50, "list": ["a", 5], "other": 1e0}"#).unwrap();
        let (number, list) = (reading.number("n").unwrap(), reading.texts("list").unwrap());
        assert_eq!((number, &list[..]), (2.5, &["a".to_owned()][..]));
        let ours = |number: f64, list: &[String]| OurKeys::default().with("n", &number).with("list", list);
        let (extra, _) = reading.rest(&ours(number, &list));
        let written = |number, list: &[String]| extra.complete(&ours(number, list));
        assert_eq!(written(number, &list), r#"{"n": 2.50, "list": ["a", 5], "other": 1e0}"#);
        assert_eq!(written(3.0, &[]), r#"{"n": 3.0, "list": [], "other": 1e0}"#);
    }
}
