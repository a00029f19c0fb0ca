//! Cinder's data: volumes, limits.

use serde_json::{Map, Value};

use super::limit;

/// What Cinder allows the project; `None`: unlimited or unknown.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct VolumeLimits {
    pub volumes: Option<f64>,
    pub gigabytes: Option<f64>,
    /// By everybody in the project.
    pub volumes_used: f64,
    pub gigabytes_used: f64,
}

impl VolumeLimits {
    /// From Cinder's `absolute`, or the object around it.
    pub fn read(json: &Value) -> Self {
        let json = json.get("absolute").unwrap_or(json);
        let used = |key: &str| limit(json, &[key]).unwrap_or(0.0);
        Self {
            volumes: limit(json, &["maxTotalVolumes"]),
            gigabytes: limit(json, &["maxTotalVolumeGigabytes"]),
            volumes_used: used("totalVolumesUsed"),
            gigabytes_used: used("totalGigabytesUsed"),
        }
    }
}

/// A volume.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Volume {
    pub id: String,
    /// GB.
    pub size: f64,
    pub metadata: Map<String, Value>,
    pub attached: bool,
}

impl Volume {
    /// `None`: no volume with an id and a size.
    pub fn read(json: &Value) -> Option<Self> {
        Some(Self {
            id: json.get("id")?.as_str()?.to_owned(),
            size: json.get("size")?.as_f64()?,
            metadata: json.get("metadata").and_then(Value::as_object).cloned().unwrap_or_default(),
            attached: json.get("attachments").and_then(Value::as_array).is_some_and(|list| !list.is_empty()),
        })
    }
}
