//! Values of clouds.yaml, of whatever type they were written as.

use serde_json::Value;

/// Texts as they are, numbers as texts (ids may look like numbers).
pub(crate) fn text(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    }
}

/// YAML's and the environment's ways to say yes.
pub(crate) fn truth(value: &Value) -> Option<bool> {
    match value {
        Value::Bool(value) => Some(*value),
        Value::Number(number) => number.as_i64().map(|number| number != 0),
        Value::String(text) => Some(matches!(text.to_lowercase().as_str(), "1" | "t" | "true" | "on" | "y" | "yes")),
        _ => None,
    }
}
