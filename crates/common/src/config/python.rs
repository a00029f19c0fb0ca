//! Values as Python writes them.

use super::yaml::{Meaning, Node, Value, digits};
use crate::model::{Json, Object, json::python_float};

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
pub fn json(node: &Node) -> Json {
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

/// A key of a mapping as [`json`] has it.
pub fn json_key(key: &Node) -> String {
    let json = json(key);
    json.text().unwrap_or_else(|| json.to_string())
}
