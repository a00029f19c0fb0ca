//! Reading `clouds.yaml` as openstacksdk does, as far as this driver needs it.
//!
//! `osauth` reads such files too, but knows neither `OS_CLIENT_CONFIG_FILE` nor ids of domains and users, `verify`,
//! `regions` or the address settings, and does not say where it looked. Someone whose launcher cannot find its cloud at
//! night needs exactly that: which files were read, and which clouds were in them.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use super::addresses::Addressing;
use super::{cloud::CloudError, cloud_networks};
use crate::{Context, ErrorClass};

/// One cloud of the file, its profile and secrets merged in.
#[derive(Clone)]
pub(crate) struct CloudSettings {
    pub name: String,
    /// The file that it is in.
    pub file: PathBuf,
    pub region: Option<String>,
    settings: Map<String, Value>,
    force_ipv4: bool,
}

/// Settings contain secrets.
impl std::fmt::Debug for CloudSettings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CloudSettings").field("name", &self.name).field("file", &self.file).finish_non_exhaustive()
    }
}

fn config_error(message: String) -> CloudError {
    CloudError::new(ErrorClass::Config, message)
}

/// Where files are looked for, in order; the first that exists counts.
fn search(stem: &str, variable: &str, context: &Context) -> Vec<PathBuf> {
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
type Read = (PathBuf, Map<String, Value>);

fn read(paths: &[PathBuf]) -> Result<Option<Read>, CloudError> {
    for path in paths {
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
            Err(error) => return Err(config_error(format!("cannot read {}: {error}", path.display()))),
        };
        let map = serde_saphyr::from_str(&text)
            .map_err(|error| config_error(format!("{} is no YAML that can be used: {error}", path.display())))?;
        return Ok(Some((path.clone(), map)));
    }
    Ok(None)
}

/// Puts `over`'s values into `base`, maps merged.
fn merge(base: &mut Map<String, Value>, over: Map<String, Value>) {
    for (key, value) in over {
        match (base.get_mut(&key), value) {
            (Some(Value::Object(base)), Value::Object(over)) => merge(base, over),
            (_, value) => {
                base.insert(key, value);
            }
        }
    }
}

fn object(map: &Map<String, Value>, key: &str) -> Map<String, Value> {
    map.get(key).and_then(Value::as_object).cloned().unwrap_or_default()
}

/// Texts as they are, numbers as texts (ids may look like numbers).
pub(super) fn text(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    }
}

/// YAML's and the environment's ways to say yes.
pub(super) fn truth(value: &Value) -> Option<bool> {
    match value {
        Value::Bool(value) => Some(*value),
        Value::Number(number) => number.as_i64().map(|number| number != 0),
        Value::String(text) => Some(matches!(text.to_lowercase().as_str(), "1" | "t" | "true" | "on" | "y" | "yes")),
        _ => None,
    }
}

impl CloudSettings {
    /// Finds a cloud. `None` as its name: `OS_CLOUD`, or the only one there is.
    pub fn find(cloud: Option<&str>, region: Option<&str>, context: &Context) -> Result<Self, CloudError> {
        let wanted = cloud.or_else(|| context.variable("OS_CLOUD"));
        let searched = search("clouds", "OS_CLIENT_CONFIG_FILE", context);
        let list =
            |paths: &[PathBuf]| paths.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", ");
        let Some((file, root)) = read(&searched)? else {
            return Err(config_error(format!(
                "there is no clouds.yaml to find cloud {} in; looked for: {}. Set OS_CLIENT_CONFIG_FILE to its path",
                wanted.unwrap_or("(any)"),
                list(&searched)
            )));
        };
        let mut clouds = object(&root, "clouds");
        let secure = search("secure", "OS_CLIENT_SECURE_FILE", context);
        if let Some((_, secure)) = read(&secure)? {
            merge(&mut clouds, object(&secure, "clouds"));
        }
        let names = clouds.keys().cloned().collect::<Vec<_>>();
        let name = match (wanted, names.as_slice()) {
            (Some(name), _) => name.to_owned(),
            (None, [only]) => only.clone(),
            (None, _) => {
                return Err(config_error(format!(
                    "the provider names no `cloud` and {} has {}: {}",
                    file.display(),
                    names.len(),
                    names.join(", ")
                )));
            }
        };
        let Some(Value::Object(own)) = clouds.get(&name) else {
            return Err(config_error(format!(
                "there is no cloud {name} in {} (it has: {}); looked for: {}",
                file.display(),
                if names.is_empty() { "none".to_owned() } else { names.join(", ") },
                list(&searched)
            )));
        };
        let mut settings = Map::new();
        if let Some(profile) = own.get("profile").or_else(|| own.get("cloud")).and_then(Value::as_str) {
            merge(&mut settings, vendor(profile, &name, context)?);
        }
        merge(&mut settings, own.clone());
        let region = choose_region(&mut settings, region, &name, &file)?;
        let force_ipv4 = settings.get("force_ipv4").and_then(truth).unwrap_or(false)
            || object(&root, "client").get("force_ipv4").and_then(truth).unwrap_or(false)
            || settings.get("prefer_ipv6").and_then(truth) == Some(false)
            || context.variable("OS_FORCE_IPV4").is_some_and(|value| truth(&value.into()).unwrap_or(false));
        Ok(Self { name, file, region, settings, force_ipv4 })
    }

    /// A setting of `auth`, which may also stand beside it.
    pub fn auth(&self, key: &str) -> Option<String> {
        let inside = self.settings.get("auth").and_then(|auth| auth.get(key));
        inside.or_else(|| self.settings.get(key)).and_then(text)
    }

    pub fn text(&self, key: &str) -> Option<String> {
        self.settings.get(key).and_then(text)
    }

    /// A map; empty where there is none.
    pub fn object(&self, key: &str) -> Map<String, Value> {
        object(&self.settings, key)
    }

    /// A switch that is off by default.
    pub fn is_on(&self, key: &str) -> bool {
        self.settings.get(key).and_then(truth).unwrap_or(false)
    }

    /// `public`, `internal` or `admin`.
    pub fn interface(&self) -> String {
        let interface = self.text("interface").or_else(|| self.text("endpoint_type")).unwrap_or_default();
        let interface = interface.trim_end_matches("URL");
        if interface.is_empty() { "public".to_owned() } else { interface.to_owned() }
    }

    /// Whether certificates are checked.
    pub fn verify(&self) -> bool {
        self.settings.get("verify").and_then(truth).unwrap_or(true)
            && !self.settings.get("insecure").and_then(truth).unwrap_or(false)
    }

    pub fn addressing(&self, local_ipv6: bool) -> Addressing {
        let networks = self.settings.get("networks").and_then(Value::as_array).into_iter().flatten();
        let is_default = |network: &&Value| network.get("default_interface").and_then(truth).unwrap_or(false);
        Addressing {
            private: self.settings.get("private").and_then(truth).unwrap_or(false),
            force_ipv4: self.force_ipv4,
            local_ipv6,
            default_network: networks.filter(is_default).find_map(|network| network.get("name").and_then(text)),
            networks: cloud_networks::read(&self.settings).unwrap_or_default(),
            floating_ip_source: cloud_networks::floating_ip_source(&self.settings).unwrap_or_default(),
        }
    }
}

/// A profile of `clouds-public.yaml`.
fn vendor(profile: &str, cloud: &str, context: &Context) -> Result<Map<String, Value>, CloudError> {
    let searched = search("clouds-public", "OS_CLIENT_VENDOR_FILE", context);
    let found = read(&searched)?.and_then(|(_, root)| object(&root, "public-clouds").get(profile).cloned());
    match found {
        Some(Value::Object(map)) => Ok(map),
        _ => Err(config_error(format!(
            "cloud {cloud} uses the profile {profile}, which is in no clouds-public.yaml; profiles that are built into \
             openstacksdk are not known here: write auth_url and the like into the cloud's own settings"
        ))),
    }
}

fn choose_region(
    settings: &mut Map<String, Value>,
    wanted: Option<&str>,
    cloud: &str,
    file: &Path,
) -> Result<Option<String>, CloudError> {
    let regions: Vec<Value> = settings.get("regions").and_then(Value::as_array).cloned().unwrap_or_default();
    let name = |region: &Value| text(region).or_else(|| region.get("name").and_then(text));
    let names: Vec<String> = regions.iter().filter_map(name).collect();
    let chosen = wanted
        .map(ToOwned::to_owned)
        .or_else(|| settings.get("region_name").and_then(text))
        .or_else(|| names.first().cloned());
    let Some(chosen) = chosen else { return Ok(None) };
    if !names.is_empty() && !names.contains(&chosen) {
        return Err(config_error(format!(
            "cloud {cloud} in {} has no region {chosen} (it has: {}); check region-name",
            file.display(),
            names.join(", ")
        )));
    }
    if let Some(region) = regions.iter().find(|region| name(region).as_ref() == Some(&chosen)) {
        merge(settings, region.get("values").and_then(Value::as_object).cloned().unwrap_or_default());
    }
    Ok(Some(chosen))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn context(dir: &tempfile::TempDir, clouds: &str) -> Context {
        let path = dir.path().join("clouds.yaml");
        std::fs::write(&path, clouds).unwrap();
        Context::default().with_variable("OS_CLIENT_CONFIG_FILE", path.to_str().unwrap())
    }

    #[test]
    fn secrets_regions_and_settings_are_merged() {
        let dir = tempfile::tempdir().unwrap();
        let secure = dir.path().join("secure.yaml");
        std::fs::write(&secure, "clouds: {a: {auth: {password: hidden}}}").unwrap();
        let clouds = "clouds:\n  a:\n    auth: {auth_url: 'http://k', username: u, project_id: 7}\n    verify: no\n    \
                      private: yes\n    regions: [one, {name: two, values: {interface: internalURL}}]\n    \
                      networks: [{name: net, default_interface: true}]\n";
        let context = context(&dir, clouds).with_variable("OS_CLIENT_SECURE_FILE", secure.to_str().unwrap());
        let cloud = CloudSettings::find(None, Some("two"), &context).unwrap();
        assert_eq!(cloud.name, "a", "the only one");
        assert_eq!(cloud.auth("password").as_deref(), Some("hidden"));
        assert_eq!(cloud.auth("project_id").as_deref(), Some("7"));
        assert_eq!((cloud.region.as_deref(), cloud.interface().as_str()), (Some("two"), "internal"));
        assert!(!cloud.verify());
        let addressing = cloud.addressing(true);
        assert!(addressing.private && !addressing.force_ipv4);
        assert_eq!(addressing.default_network.as_deref(), Some("net"));
        assert!(!format!("{cloud:?}").contains("hidden"));
        let error = CloudSettings::find(Some("a"), Some("three"), &context).unwrap_err();
        assert!(error.message.contains("it has: one, two"), "{error}");
    }

    #[test]
    fn what_is_not_found_is_named_with_where_it_was_looked_for() {
        let dir = tempfile::tempdir().unwrap();
        let context = context(&dir, "clouds: {a: {}, b: {}}");
        let error = CloudSettings::find(Some("c"), None, &context).unwrap_err();
        assert_eq!(error.class, ErrorClass::Config);
        assert!(error.message.contains("no cloud c in ") && error.message.contains("it has: a, b"), "{error}");
        let nowhere = dir.path().join("nothing.yaml");
        let context = Context::default().with_variable("OS_CLIENT_CONFIG_FILE", nowhere.to_str().unwrap());
        let error = CloudSettings::find(Some("c"), None, &context).unwrap_err();
        assert!(error.message.contains("nothing.yaml"), "{error}");
    }
}
