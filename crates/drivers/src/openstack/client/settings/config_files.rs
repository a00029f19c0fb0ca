//! `clouds.yaml` and its companions as files: where they are, what is in them, whether they have changed.
//!
//! They are read with the tree that reads `nodepool.yaml`, which has PyYAML's rules and keeps each scalar's text: a
//! project's id may look like a number, and is one to a YAML library that means well.

use std::path::{Path, PathBuf};

use nodepool_common::config::yaml::{self, Meaning, Node};
use serde_json::{Map, Value};

use crate::{Context, ErrorClass, files::Fingerprint, openstack::api::CloudError};

/// Where files are looked for, in order; the first that exists counts (`openstacksdk: config/loader.py`).
pub(super) fn search(stem: &str, variable: &str, context: &Context) -> Vec<PathBuf> {
    let mut directories = vec![PathBuf::from(".")];
    if let Some(dir) = context.variable("XDG_CONFIG_HOME") {
        directories.push(Path::new(dir).join("openstack"));
    }
    if let Some(home) = context.variable("HOME") {
        directories.push(Path::new(home).join(".config/openstack"));
    }
    directories.push(PathBuf::from("/etc/xdg/openstack"));
    directories.push(PathBuf::from("/etc/openstack"));
    let named = context.variable(variable).map(PathBuf::from);
    let in_directories = directories
        .iter()
        .flat_map(|directory| ["yaml", "yml", "json"].map(|extension| directory.join(format!("{stem}.{extension}"))));
    named.into_iter().chain(in_directories).collect()
}

/// A file and what is in it.
pub(super) type Read = (PathBuf, Map<String, Value>);

/// The first of the files that exists and may be read; one that is not a YAML mapping is an error (the SDK goes on to
/// the next, and then does not find the cloud).
pub(super) fn read(paths: &[PathBuf]) -> Result<Option<Read>, CloudError> {
    for path in paths {
        let name = path.display();
        let unusable = |why: String| CloudError::new(ErrorClass::Config, why);
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if matches!(error.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory) => {
                continue;
            }
            Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => {
                tracing::warn!("not allowed to read {name}: going on to the next place where it may be");
                continue;
            }
            Err(error) => return Err(unusable(format!("cannot read {name}: {error}"))),
        };
        // These files have passwords in them: nothing of the text is repeated.
        let document = yaml::parse(&text).map_err(|problem| {
            let what = problem.without_its_text();
            unusable(format!("{name}:{}:{}: {what}", problem.at.line, problem.at.column))
        })?;
        let Some(Value::Object(map)) = document.root.as_deref().map(json) else {
            return Err(unusable(format!("{name}:1:1: there is no mapping with `clouds` in it, or nothing at all")));
        };
        return Ok(Some((path.clone(), map)));
    }
    Ok(None)
}

/// Scalars are texts as written, but for booleans and nothing. Keys are as the SDK has them after normalising
/// (`openstacksdk: config/_util.py normalize_keys`), but for names of clouds.
pub(super) fn json(node: &Node) -> Value {
    match &node.value {
        yaml::Value::Scalar(Meaning::Null, _) => Value::Null,
        yaml::Value::Scalar(Meaning::Bool(value), _) => Value::Bool(*value),
        yaml::Value::Scalar(_, text) => Value::String(text.clone()),
        yaml::Value::List(items) => items.iter().map(|item| json(item)).collect(),
        yaml::Value::Map(entries) => entries
            .iter()
            .filter_map(|(key, value)| match &key.value {
                yaml::Value::Scalar(_, key) => Some((key.clone(), json(value))),
                _ => None,
            })
            .collect(),
    }
}

/// Each key with `_` for `-`, at any depth.
pub(super) fn normalized(map: Map<String, Value>) -> Map<String, Value> {
    map.into_iter()
        .map(|(key, value)| {
            let value = match value {
                Value::Object(map) => Value::Object(normalized(map)),
                other => other,
            };
            (key.replace('-', "_"), value)
        })
        .collect()
}

/// Puts `over`'s values into `base`, maps merged.
pub(super) fn merge(base: &mut Map<String, Value>, over: Map<String, Value>) {
    for (key, value) in over {
        match (base.get_mut(&key), value) {
            (Some(Value::Object(base)), Value::Object(over)) => merge(base, over),
            (_, value) => {
                base.insert(key, value);
            }
        }
    }
}

/// A map's map; empty where there is none.
pub(super) fn object(map: &Map<String, Value>, key: &str) -> Map<String, Value> {
    map.get(key).and_then(Value::as_object).cloned().unwrap_or_default()
}

/// Of every file that tells about a cloud: those that are looked for, and those that its settings name.
pub(crate) fn fingerprint(context: &Context, named: impl IntoIterator<Item = PathBuf>) -> Fingerprint {
    let mut paths = search("clouds", "OS_CLIENT_CONFIG_FILE", context);
    paths.extend(search("secure", "OS_CLIENT_SECURE_FILE", context));
    paths.extend(search("clouds-public", "OS_CLIENT_VENDOR_FILE", context));
    paths.extend(named);
    Fingerprint::of(paths)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_is_no_yaml_is_named_with_line_and_column_but_not_with_what_it_says() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("clouds.yaml");
        std::fs::write(&path, "clouds:\n  a:\n    auth: {password: hidden\n").unwrap();
        let error = read(std::slice::from_ref(&path)).unwrap_err();
        assert!(error.message.contains(&format!("{}:3:11: ", path.display())), "{error}");
        assert!(!error.message.contains("hidden"), "{error}");
        for password in ["@hidden", "%hidden", "*hidden", "ab: hidden", "'a' hidden", "{hidden", "`hidden"] {
            std::fs::write(&path, format!("clouds:\n  a:\n    auth:\n      password: {password}\n      x: y\n"))
                .unwrap();
            let error = read(std::slice::from_ref(&path)).unwrap_err();
            assert!(error.message.contains("not YAML") && !error.message.contains("hidden"), "{error}");
        }
        std::fs::write(&path, "# nothing\n").unwrap();
        assert!(read(std::slice::from_ref(&path)).unwrap_err().message.contains("no mapping with `clouds`"));
    }

    #[test]
    fn an_id_that_looks_like_a_number_is_kept_as_written() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("clouds.yaml");
        std::fs::write(&path, "a: 0123\nb: 12345678901234567890123456789012\nc: 1.50\nd: off\n").unwrap();
        let (_, map) = read(&[path]).unwrap().unwrap();
        assert_eq!(map["a"], "0123");
        assert_eq!(map["b"], "12345678901234567890123456789012");
        assert_eq!((&map["c"], &map["d"]), (&"1.50".into(), &false.into()));
    }

    #[test]
    fn a_file_that_is_made_changed_replaced_or_removed_is_noticed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("clouds.yaml");
        let context = Context::default().with_variable("OS_CLIENT_CONFIG_FILE", path.to_str().unwrap());
        let before = fingerprint(&context, None);
        assert!(!before.has_changed());
        std::fs::write(&path, "clouds: {}").unwrap();
        assert!(before.has_changed());
        let made = fingerprint(&context, None);
        // The same text under the same name, as kubelet replaces a secret.
        let other = dir.path().join("other");
        std::fs::copy(&path, &other).unwrap();
        std::fs::rename(&other, &path).unwrap();
        assert!(made.has_changed());
        let replaced = fingerprint(&context, [dir.path().join("ca.pem")]);
        std::fs::write(dir.path().join("ca.pem"), "x").unwrap();
        assert!(replaced.has_changed(), "files that the settings name count");
        std::fs::remove_file(&path).unwrap();
        assert!(made.has_changed());
    }
}
