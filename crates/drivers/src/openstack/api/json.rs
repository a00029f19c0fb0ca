//! What several services' answers have in common.

use serde_json::Value;

/// An image or a network.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Named {
    pub id: String,
    pub name: String,
}

impl Named {
    pub fn read(json: &Value) -> Option<Self> {
        Some(Self {
            id: json.get("id")?.as_str()?.to_owned(),
            name: json.get("name").and_then(Value::as_str).unwrap_or_default().to_owned(),
        })
    }
}

/// A limit as the APIs spell it: -1 is unlimited.
pub(crate) fn limit(json: &Value, keys: &[&str]) -> Option<f64> {
    keys.iter().find_map(|key| json.get(key)).and_then(Value::as_f64).filter(|limit| *limit >= 0.0)
}

/// Reads each element of a list, leaving out what cannot be used.
pub(crate) fn read_all<T>(json: &Value, read: impl Fn(&Value) -> Option<T>) -> Vec<T> {
    json.as_array().into_iter().flatten().filter_map(read).collect()
}
