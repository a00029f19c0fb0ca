//! Which region of a cloud counts, and what it says (`openstacksdk: config/loader.py _get_region`).

use serde_json::{Map, Value};

use super::{config_files::normalized, values::text};

/// A region and its settings.
#[derive(Debug, Default)]
pub(super) struct Region {
    /// `None`: the cloud has no regions that we know of.
    pub name: Option<String>,
    pub values: Map<String, Value>,
    pub warnings: Vec<String>,
}

/// The wanted one, or the first that the cloud's own settings have, or its profile's. An error says what is wrong.
pub(super) fn choose(
    own: &Map<String, Value>,
    profile: &Map<String, Value>,
    wanted: Option<&str>,
) -> Result<Region, String> {
    let mut known = listed(own)?;
    if known.is_empty() {
        known = listed(profile)?;
    }
    let name = |region: &Value| text(region).or_else(|| region.get("name").and_then(text));
    let wanted = wanted.filter(|name| !name.is_empty());
    let chosen = match wanted {
        Some(wanted) => known.iter().find(|region| name(region).as_deref() == Some(wanted)),
        None => known.first(),
    };
    if let (Some(wanted), None, false) = (wanted, chosen, known.is_empty()) {
        let names = known.iter().filter_map(name).collect::<Vec<_>>().join(", ");
        return Err(format!("has no region {wanted} (it has: {names}); check region-name"));
    }
    let values = chosen.and_then(|region| region.get("values")).and_then(Value::as_object).cloned();
    let values = normalized(values.unwrap_or_default()).into_iter().filter(|(_, value)| !value.is_null()).collect();
    let warnings = known.iter().flat_map(unknown_keys).collect();
    let name = chosen.and_then(name).or_else(|| wanted.map(ToOwned::to_owned)).filter(|name| !name.is_empty());
    Ok(Region { name, values, warnings })
}

/// A cloud's regions, by either of the two keys for them.
fn listed(settings: &Map<String, Value>) -> Result<Vec<Value>, String> {
    let list = match (settings.get("regions"), settings.get("region_name")) {
        (Some(Value::Array(regions)), _) | (_, Some(Value::Array(regions))) => regions.clone(),
        (_, Some(Value::Bool(value))) => return Err(boolean(*value)),
        (_, Some(name)) => text(name).iter().flat_map(|names| names.split(',')).map(Value::from).collect(),
        _ => Vec::new(),
    };
    for region in &list {
        match region {
            Value::Bool(value) => return Err(boolean(*value)),
            Value::Object(entry) if entry.get("name").and_then(text).is_none() => {
                return Err("cannot be used: an entry of its regions has no name".to_owned());
            }
            Value::Object(entry) if !matches!(entry.get("values"), None | Some(Value::Null | Value::Object(_))) => {
                return Err("cannot be used: the values of one of its regions are not a mapping".to_owned());
            }
            _ => {}
        }
    }
    Ok(list)
}

fn boolean(value: bool) -> String {
    format!(
        "cannot be used: the name of its region has become the boolean {value}, as YAML reads yes, no, on and off; write \
         it in quotes"
    )
}

/// Settings of a region stand below its `values`.
fn unknown_keys(region: &Value) -> Vec<String> {
    let keys = region.as_object().into_iter().flat_map(Map::keys);
    keys.filter(|key| !matches!(key.as_str(), "name" | "values"))
        .map(|key| {
            format!(
                "an entry of its regions has a key `{key}`, which is ignored here and which openstacksdk refuses: a \
                 region has `name` and `values`, its settings stand below `values`"
            )
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn choose_in(own: &Value, wanted: Option<&str>) -> Result<Region, String> {
        choose(own.as_object().unwrap(), &Map::new(), wanted)
    }

    #[test]
    fn a_regions_settings_stand_below_values() {
        let region =
            choose_in(&json!({"regions": [{"name": "a", "interface": "internal", "values": {"x-y": 1}}]}), None);
        let region = region.unwrap();
        assert_eq!(region.values, *json!({"x_y": 1}).as_object().unwrap());
        assert!(region.warnings[0].contains("a key `interface`"), "{:?}", region.warnings);
        for (own, what) in [
            (json!({"regions": [{"values": {}}]}), "an entry of its regions has no name"),
            (json!({"regions": [{"name": "a", "values": "x"}]}), "are not a mapping"),
            (json!({"region_name": false}), "has become the boolean false"),
            (json!({"regions": ["a", true]}), "has become the boolean true"),
        ] {
            let error = choose_in(&own, None).unwrap_err();
            assert!(error.contains(what), "{error}");
        }
    }

    #[test]
    fn the_regions_of_a_profile_count_where_the_cloud_names_none() {
        let profile = json!({"regions": ["theirs", "other"]});
        let profile = profile.as_object().unwrap();
        assert_eq!(choose(&Map::new(), profile, None).unwrap().name.as_deref(), Some("theirs"));
        assert_eq!(choose(&Map::new(), profile, Some("other")).unwrap().name.as_deref(), Some("other"));
        let own = json!({"region_name": "mine"});
        assert_eq!(choose(own.as_object().unwrap(), profile, None).unwrap().name.as_deref(), Some("mine"));
        assert!(choose(own.as_object().unwrap(), profile, Some("other")).unwrap_err().contains("it has: mine"));
    }
}
