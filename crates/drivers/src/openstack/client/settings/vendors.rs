//! The vendors that openstacksdk carries, with the profiles of their clouds.

use nodepool_common::config::yaml;
use serde_json::{Map, Value};

use super::config_files::json;

const VENDORS: &str = include_str!("vendors.yaml");

/// One of the vendors that openstacksdk carries.
pub(super) fn vendor(name: &str) -> Option<Map<String, Value>> {
    match vendors().remove(name) {
        Some(Value::Object(settings)) => Some(settings),
        _ => None,
    }
}

/// All of them by their names.
pub(super) fn vendors() -> Map<String, Value> {
    match yaml::parse(VENDORS).ok().and_then(|document| Some(json(document.root.as_deref()?))) {
        Some(Value::Object(vendors)) => vendors,
        _ => Map::new(),
    }
}
