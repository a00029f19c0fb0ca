//! Records as Zuul writes them, and whether what it wrote comes back.

use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::Value;
use serde_json::value::RawValue;

use super::options::Options;
use super::random::Random;
use nodepool_bench::numbers::now;

/// Keys that no launcher knows, below `requestor_data`, where Nodepool leaves everything as it is. Numbers as Python
/// writes them.
const EXTRA: &str = r#"{"integer": 1606938044258990275541962092341162602522202993782792835301376, "negative": -18446744073709551617, "float": 1.0, "fraction": 0.1, "text": "caf\u00e9 \"\\ \u2713", "list": [null, true, {}, []], "empty": ""}"#;

/// A JSON object: its keys in their order, each value as it was written.
pub struct Document(Vec<(String, Box<RawValue>)>);

impl<'de> Deserialize<'de> for Document {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Entries;
        impl<'de> Visitor<'de> for Entries {
            type Value = Document;

            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Document, A::Error> {
                let mut entries = vec![];
                while let Some(entry) = map.next_entry()? {
                    entries.push(entry);
                }
                Ok(Document(entries))
            }
        }
        deserializer.deserialize_map(Entries)
    }
}

impl Document {
    /// The value of a key, as it was written; the last where it is there twice.
    pub fn raw(&self, key: &str) -> Option<&str> {
        self.0.iter().rfind(|(k, _)| k == key).map(|(_, v)| v.get())
    }

    /// The value of a key; None where it is missing or of another type.
    pub fn value<'a, T: Deserialize<'a>>(&'a self, key: &str) -> Option<T> {
        serde_json::from_str(self.raw(key)?).ok()
    }
}

fn quoted(s: &str) -> String {
    Value::from(s).to_string()
}

/// A new request: its `requestor_data`, and all of it.
pub fn request(options: &Options, random: &Random, system_id: &str, time: f64) -> (String, String) {
    // A number of 128 bits, which neither a double nor 64 bits can hold.
    let trace_id = u128::from(random.next()) << 64 | u128::from(random.next());
    let nanoseconds = format!("{:.0}", time * 1e9);
    let data = format!(
        "{{\"build_set_uuid\": \"{}\", \"tenant_name\": \"bench-tenant\", \"pipeline_name\": \"check\", \
         \"job_uuid\": \"{}\", \"job_name\": \"bench-job\", \"span_info\": {{\"name\": \"RequestNodes\", \
         \"trace_id\": {trace_id}, \"span_id\": {}, \"trace_flags\": 3, \"start_time\": {nanoseconds}, \
         \"parent\": null}}, \"bench_extra\": {EXTRA}}}",
        random.uuid(),
        random.uuid(),
        random.next() | 1,
    );
    let labels = vec![quoted(&options.label); options.nodes].join(", ");
    let all = format!(
        "{{\"requestor_data\": {data}, \"node_types\": [{labels}], \"requestor\": \"{system_id}\", \
         \"created_time\": {time:?}, \"provider\": null, \"state\": \"requested\", \"state_time\": {time:?}, \
         \"relative_priority\": 0, \"event_id\": \"{}\", \"tenant_name\": \"bench-tenant\"}}",
        random.uuid(),
    );
    (data, all)
}

/// A node that was read, in another state.
pub fn node(read: &Document, state: &str, user_data: &str) -> String {
    let now = format!("{:?}", now());
    let state = quoted(state);
    let mut entries: Vec<(&str, &str)> =
        ["id", "state", "hold_job", "comment", "user_data", "tenant_name", "requestor"]
            .into_iter()
            .map(|key| (key, read.raw(key).unwrap_or("null")))
            .collect();
    for (key, value) in &read.0 {
        if !["name", "aliases"].contains(&key.as_str()) && !entries.iter().any(|(known, _)| known == key) {
            entries.push((key, value.get()));
        }
    }
    let entries: Vec<String> = entries
        .into_iter()
        .map(|(key, value)| {
            let value = match key {
                "state" => &state,
                "state_time" => &now,
                "user_data" => user_data,
                _ => value,
            };
            format!("{}: {value}", quoted(key))
        })
        .collect();
    format!("{{{}}}", entries.join(", "))
}

/// A place where what came back is not what was sent.
#[derive(Debug, PartialEq)]
pub struct Difference {
    pub path: String,
    pub sent: String,
    pub got: String,
}

/// Where `got` is not `sent`: numbers have to be the same characters, texts the same after unescaping; the order of keys
/// and white space are free.
pub fn differences(path: &str, sent: &str, got: &str, out: &mut Vec<Difference>) {
    let as_object = |text| serde_json::from_str::<Document>(text).ok();
    let as_list = |text| serde_json::from_str::<Vec<Box<RawValue>>>(text).ok();
    let as_text = |text| serde_json::from_str::<String>(text).ok();
    let difference = |path: String, sent: &str, got: &str| Difference { path, sent: sent.into(), got: got.into() };
    let join = |key: &str| if path.is_empty() { key.to_string() } else { format!("{path}.{key}") };
    if let Some((sent, got)) = as_object(sent).zip(as_object(got)) {
        for (key, value) in got.0.iter().filter(|(key, _)| sent.raw(key).is_none()) {
            out.push(difference(join(key), "(absent)", value.get()));
        }
        for (key, value) in &sent.0 {
            match got.raw(key) {
                Some(got) => differences(&join(key), value.get(), got, out),
                None => out.push(difference(join(key), value.get(), "(absent)")),
            }
        }
    } else if let Some((sent, got)) = as_list(sent).zip(as_list(got)).filter(|(sent, got)| sent.len() == got.len()) {
        for (sent, got) in sent.iter().zip(&got) {
            differences(path, sent.get(), got.get(), out);
        }
    } else if as_text(sent).zip(as_text(got)).is_none_or(|(sent, got)| sent != got) && sent != got {
        out.push(difference(path.to_string(), sent, got));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn paths(sent: &str, got: &str) -> Vec<String> {
        let mut out = vec![];
        differences("", sent, got, &mut out);
        out.into_iter().map(|d| d.path).collect()
    }

    #[test]
    fn order_white_space_and_escapes_are_free() {
        assert_eq!(paths(r#"{"a": 1, "b": "caf\u00e9"}"#, r#"{"b":"café","a":1}"#), Vec::<String>::new());
        assert_eq!(paths(EXTRA, EXTRA), Vec::<String>::new());
    }

    #[test]
    fn numbers_are_the_same_characters() {
        assert_eq!(paths(r#"{"a": {"b": 1.0}}"#, r#"{"a": {"b": 1}}"#), ["a.b"]);
        assert_eq!(paths("[18446744073709551617]", "[1.8446744073709552e19]"), [""]);
    }

    #[test]
    fn missing_and_added_keys_and_values_of_another_kind_are_found() {
        assert_eq!(paths(r#"{"a": 1, "b": {"c": []}}"#, r#"{"b": {"c": {}}, "d": null}"#), ["d", "a", "b.c"]);
        assert_eq!(paths(r#"{"a": [1]}"#, r#"{"a": [1, 2]}"#), ["a"]);
        assert_eq!(paths(r#"{"a": "1"}"#, r#"{"a": 1}"#), ["a"]);
    }

    #[test]
    fn a_node_keeps_what_is_not_changed() {
        let read = serde_json::from_str(r#"{"state": "ready", "slot": 3, "name": "x", "state_time": 1.5}"#).unwrap();
        let written: Value = serde_json::from_str(&node(&read, "used", "{}")).unwrap();
        assert_eq!(written["state"], "used");
        assert_eq!(written["slot"], 3);
        assert_eq!(written["hold_job"], Value::Null);
        assert!(written.get("name").is_none());
        assert!(written["state_time"].as_f64().unwrap() > 1.5);
    }
}
