//! Reading `clouds.yaml` as openstacksdk does, as far as this driver needs it.
//!
//! `osauth` reads such files too, but knows neither `OS_CLIENT_CONFIG_FILE` nor ids of domains and users, `verify`,
//! `regions` or the address settings, and does not say where it looked. Someone whose launcher cannot find its cloud at
//! night needs exactly that: which files were read, and which clouds were in them.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use serde_json::{Map, Value};

use super::{
    addresses::Addressing,
    cloud::CloudError,
    cloud_environment,
    cloud_networks::{self, CloudNetwork, FloatingIpSource},
    config_files::{fingerprint, merge, normalized, object, read, search},
    identity::Service,
};
use crate::{Context, ErrorClass, files::Fingerprint};

/// One cloud of the file, its profile and secrets merged in, keys as the SDK normalises them.
#[derive(Clone)]
pub(crate) struct CloudSettings {
    pub name: String,
    /// The file that it is in, or [`cloud_environment::PLACE`].
    pub file: PathBuf,
    region: Option<String>,
    settings: Map<String, Value>,
    force_ipv4: bool,
    networks: Vec<CloudNetwork>,
    floating_ip_source: FloatingIpSource,
}

/// Settings contain secrets.
impl std::fmt::Debug for CloudSettings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CloudSettings").field("name", &self.name).field("file", &self.file).finish_non_exhaustive()
    }
}

/// How a cloud's certificate is judged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Verify {
    /// By these authorities.
    With(PathBuf),
    /// By those that the system trusts.
    System,
    Not,
}

fn config_error(message: String) -> CloudError {
    CloudError::new(ErrorClass::Config, message)
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
    /// Finds a cloud. `None` as its name: `OS_CLOUD`, or the environment's own, or the only one there is.
    pub fn find(cloud: Option<&str>, region: Option<&str>, context: &Context) -> Result<Self, CloudError> {
        let environment = cloud_environment::cloud(context);
        let of_environment = environment.as_ref().map(|(name, _)| name.clone());
        let wanted = cloud.or_else(|| context.variable("OS_CLOUD")).or(of_environment.as_deref());
        let searched = search("clouds", "OS_CLIENT_CONFIG_FILE", context);
        let list =
            |paths: &[PathBuf]| paths.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", ");
        let none_needed = environment.is_some().then(|| (PathBuf::from(cloud_environment::PLACE), Map::new()));
        let Some((mut file, mut root)) = read(&searched)?.or(none_needed) else {
            return Err(config_error(format!(
                "there is no clouds.yaml to find cloud {} in; looked for: {}. Set OS_CLIENT_CONFIG_FILE to its path",
                wanted.unwrap_or("(any)"),
                list(&searched)
            )));
        };
        let secure = search("secure", "OS_CLIENT_SECURE_FILE", context);
        if let Some((_, secure)) = read(&secure)? {
            merge(&mut root, secure);
        }
        let mut clouds = object(&root, "clouds");
        if let Some((name, settings)) = environment
            && clouds.insert(name.clone(), Value::Object(settings)).is_some()
        {
            return Err(config_error(format!(
                "both {} and {} have a cloud {name}: rename one, that of the environment with OS_CLOUD_NAME, or unset \
                 OS_AUTH_URL",
                file.display(),
                cloud_environment::PLACE
            )));
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
        if of_environment.as_deref() == Some(&name) {
            file = PathBuf::from(cloud_environment::PLACE);
        }
        let own = normalized(own.clone());
        let mut settings = Map::new();
        if let Some(profile) = own.get("profile").or_else(|| own.get("cloud")).and_then(Value::as_str) {
            settings = vendor(profile, &name, &file, context)?;
        }
        let place = format!("cloud {name} in {}", file.display());
        let region = choose_region(&own, &settings, region, &place)?;
        overlay(&mut settings, own);
        overlay(&mut settings, region.values);
        let client = normalized(object(&root, "client"));
        let wrong = |what: String| config_error(format!("{place} cannot be used: {what}"));
        Ok(Self {
            networks: cloud_networks::read(&settings).map_err(wrong)?,
            floating_ip_source: cloud_networks::floating_ip_source(&settings).map_err(wrong)?,
            force_ipv4: is_ipv4_forced(&settings, &client, context),
            region: region.name,
            name,
            file,
            settings,
        })
    }

    /// What the files look like that were read for it and that it names.
    pub(super) fn fingerprint(&self, context: &Context) -> Fingerprint {
        let named = ["cacert", "cert", "key", "verify"].into_iter().filter_map(|key| self.path(key, context));
        fingerprint(context, named)
    }

    /// A setting of `auth`, which may also stand beside it.
    pub fn auth(&self, key: &str) -> Option<String> {
        let inside = self.settings.get("auth").and_then(|auth| auth.get(key));
        inside.and_then(text).or_else(|| self.settings.get(key).and_then(text))
    }

    /// A setting that is a text, with what it says of others: `https://{region_name}.example.com`.
    pub fn text(&self, key: &str) -> Option<String> {
        self.settings.get(key).and_then(text).map(|text| self.expanded(&text))
    }

    /// A map; empty where there is none.
    pub fn object(&self, key: &str) -> Map<String, Value> {
        object(&self.settings, key)
    }

    /// A switch that is off by default.
    pub fn is_on(&self, key: &str) -> bool {
        self.settings.get(key).and_then(truth).unwrap_or(false)
    }

    /// Puts settings in the place of their names in braces (`openstacksdk: get_one`).
    pub fn expanded(&self, text: &str) -> String {
        let mut result = String::new();
        let mut rest = text;
        while let Some((before, name, after)) = rest
            .split_once('{')
            .and_then(|(before, rest)| rest.split_once('}').map(|(name, rest)| (before, name, rest)))
        {
            result.push_str(before);
            let value =
                if name == "region_name" { self.region.clone() } else { self.settings.get(name).and_then(self::text) };
            match value {
                Some(value) => result.push_str(&value),
                None => result.extend(["{", name, "}"]),
            }
            rest = after;
        }
        result.push_str(rest);
        result
    }

    /// A path, `~` being the home directory.
    pub(super) fn path(&self, key: &str, context: &Context) -> Option<PathBuf> {
        let path = self.text(key).filter(|path| !path.is_empty())?;
        match (path.strip_prefix("~/"), context.variable("HOME")) {
            (Some(rest), Some(home)) => Some(Path::new(home).join(rest)),
            _ => Some(PathBuf::from(path)),
        }
    }

    /// A setting of one service: `compute_api_version`, under any of its type's names.
    fn of_service(&self, service: Service, key: &str) -> Option<&Value> {
        let keys = service.types().iter().map(|name| format!("{}_{key}", name.replace('-', "_")));
        keys.filter_map(|key| self.settings.get(&key)).find(|value| !value.is_null())
    }

    /// `public`, `internal` or `admin`; several in order of preference.
    pub fn interfaces(&self, service: Service) -> Vec<String> {
        let value = ["interface", "endpoint_type"].into_iter().find_map(|key| self.of_service(service, key));
        let value = value.or_else(|| self.settings.get("interface")).or_else(|| self.settings.get("endpoint_type"));
        let list = match value {
            Some(Value::Array(list)) => list.iter().filter_map(text).collect(),
            value => value.and_then(text).into_iter().collect::<Vec<_>>(),
        };
        let list: Vec<String> = list
            .iter()
            .map(|interface| interface.trim_end_matches("URL").to_owned())
            .filter(|interface| !interface.is_empty())
            .collect();
        if list.is_empty() { vec!["public".to_owned()] } else { list }
    }

    /// The region whose endpoints count; `None`: any.
    pub fn region(&self, service: Service) -> Option<String> {
        self.of_service(service, "region_name").and_then(text).or_else(|| self.region.clone())
    }

    /// The service's type in the catalogue, where it is none of the usual ones.
    pub fn service_type(&self, service: Service) -> Option<String> {
        self.of_service(service, "service_type").and_then(text)
    }

    /// The service's name in the catalogue, where several have its type.
    pub fn service_name(&self, service: Service) -> Option<String> {
        self.of_service(service, "service_name").and_then(text)
    }

    /// Where the service is, whatever the catalogue says. May contain `%(project_id)s`.
    pub fn endpoint_override(&self, service: Service) -> Option<String> {
        let value = ["endpoint_override", "endpoint"].into_iter().find_map(|key| self.of_service(service, key));
        value.and_then(text).filter(|text| !text.is_empty()).map(|text| self.expanded(&text))
    }

    /// The microversion for all calls of a service (`openstacksdk: config/cloud_region.py _get_version_request`).
    pub fn microversion(&self, service: Service) -> Option<String> {
        let version = self.of_service(service, "api_version").and_then(text);
        // `2.1` means a microversion, `2.0` does not: people wrote it when there were none.
        let implied = version.filter(|version| version.split_once('.').is_some_and(|(_, minor)| minor != "0"));
        self.of_service(service, "default_microversion").and_then(text).or(implied)
    }

    /// A number for all services, or a map by service (`openstacksdk: config/cloud_region.py _get_service_config`).
    fn number(&self, key: &str, service: Service) -> Option<f64> {
        let value = self.settings.get(key)?;
        let of_service = || service.types().iter().find_map(|name| value.get(name.replace('-', "_")));
        let number = text(if value.is_object() { of_service()? } else { value })?;
        number.parse().ok().filter(|number: &f64| number.is_finite() && *number > 0.0)
    }

    /// Calls of a service in a second, at most.
    pub fn rate_limit(&self, service: Service) -> Option<f64> {
        self.number("rate_limit", service)
    }

    /// Calls of a service at a time, at most.
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // a positive number, and few calls
    pub fn concurrency(&self, service: Service) -> Option<usize> {
        self.number("concurrency", service).map(|number| number as usize)
    }

    /// How long an attempt may take; the SDK takes any key for it that ends so.
    pub fn api_timeout(&self) -> Option<Duration> {
        let of_service = |key: &String| key.ends_with("timeout") && key != "timeout" && key != "api_timeout";
        let value = self.settings.iter().find(|(key, _)| of_service(key)).map(|(_, value)| value);
        let seconds = value.or_else(|| self.settings.get("api_timeout")).and_then(text)?.parse().ok()?;
        Duration::try_from_secs_f64(seconds).ok().filter(|timeout| !timeout.is_zero())
    }

    /// How certificates are judged.
    pub(super) fn verify(&self, context: &Context) -> Verify {
        let verify = self.settings.get("verify");
        let is_path = verify.and_then(Value::as_str).is_some_and(|text| text.contains(['/', '.']));
        let is_off = !is_path && verify.and_then(truth) == Some(false);
        if is_off || self.settings.get("insecure").and_then(truth).unwrap_or(false) {
            return Verify::Not;
        }
        let named = self.path("cacert", context).or_else(|| is_path.then(|| self.path("verify", context)).flatten());
        let named = named.or_else(|| context.variable("REQUESTS_CA_BUNDLE").map(PathBuf::from));
        named.map_or(Verify::System, Verify::With)
    }

    pub fn addressing(&self, local_ipv6: bool) -> Addressing {
        let default = self.networks.iter().find(|network| network.default_interface);
        Addressing {
            private: self.settings.get("private").and_then(truth).unwrap_or(false),
            force_ipv4: self.force_ipv4,
            local_ipv6,
            default_network: default.map(|network| network.name.clone()),
            networks: self.networks.clone(),
            floating_ip_source: self.floating_ip_source,
        }
    }
}

/// Puts `over`'s values into `base`; only `auth` is merged (`openstacksdk: config/loader.py _auth_update`).
fn overlay(base: &mut Map<String, Value>, over: Map<String, Value>) {
    for (key, value) in over {
        match (base.get_mut(&key), value) {
            (Some(Value::Object(base)), Value::Object(over)) if key == "auth" => base.extend(over),
            (_, value) => {
                base.insert(key, value);
            }
        }
    }
}

/// The cloud's own word first, then `client`'s and the environment's, `prefer_ipv6: false` being another way to say it.
fn is_ipv4_forced(settings: &Map<String, Value>, client: &Map<String, Value>, context: &Context) -> bool {
    let variable = |name: &str| context.variable(name).and_then(|value| truth(&value.into()));
    let of = |map: &Map<String, Value>, key: &str| map.get(key).and_then(truth);
    let everywhere = variable("OS_FORCE_IPV4")
        .or_else(|| of(client, "force_ipv4"))
        .or_else(|| of(client, "broken_ipv6"))
        .unwrap_or(false)
        || variable("OS_PREFER_IPV6").or_else(|| of(client, "prefer_ipv6")) == Some(false);
    of(settings, "force_ipv4").unwrap_or(everywhere) || of(settings, "prefer_ipv6") == Some(false)
}

/// A profile of `clouds-public.yaml`.
fn vendor(profile: &str, cloud: &str, file: &Path, context: &Context) -> Result<Map<String, Value>, CloudError> {
    let searched = search("clouds-public", "OS_CLIENT_VENDOR_FILE", context);
    let found = read(&searched)?.and_then(|(_, root)| object(&root, "public-clouds").get(profile).cloned());
    match found {
        Some(Value::Object(map)) => Ok(normalized(map)),
        _ => Err(config_error(format!(
            "cloud {cloud} in {} uses the profile {profile}, which is in no clouds-public.yaml; profiles that are built \
             into openstacksdk are not known here: write auth_url and the like into the cloud's own settings",
            file.display()
        ))),
    }
}

/// A region and its settings.
struct Region {
    /// `None`: the cloud has no regions that we know of.
    name: Option<String>,
    values: Map<String, Value>,
}

/// The wanted one, or the first that the cloud's own settings have, or its profile's
/// (`openstacksdk: config/loader.py _get_region`).
fn choose_region(
    own: &Map<String, Value>,
    profile: &Map<String, Value>,
    wanted: Option<&str>,
    place: &str,
) -> Result<Region, CloudError> {
    let listed = |settings: &Map<String, Value>| match (settings.get("regions"), settings.get("region_name")) {
        (Some(Value::Array(regions)), _) | (_, Some(Value::Array(regions))) => regions.clone(),
        (_, Some(name)) => text(name).iter().flat_map(|names| names.split(',')).map(Value::from).collect(),
        _ => Vec::new(),
    };
    let mut known = listed(own);
    if known.is_empty() {
        known = listed(profile);
    }
    let name = |region: &Value| text(region).or_else(|| region.get("name").and_then(text));
    let wanted = wanted.filter(|name| !name.is_empty());
    let chosen = match wanted {
        Some(wanted) => known.iter().find(|region| name(region).as_deref() == Some(wanted)),
        None => known.first(),
    };
    if let (Some(wanted), None, false) = (wanted, chosen, known.is_empty()) {
        return Err(config_error(format!(
            "{place} has no region {wanted} (it has: {}); check region-name",
            known.iter().filter_map(name).collect::<Vec<_>>().join(", ")
        )));
    }
    let values = chosen.and_then(|region| region.get("values")).and_then(Value::as_object).cloned();
    let values = normalized(values.unwrap_or_default()).into_iter().filter(|(_, value)| !value.is_null()).collect();
    let name = chosen.and_then(name).or_else(|| wanted.map(ToOwned::to_owned)).filter(|name| !name.is_empty());
    Ok(Region { name, values })
}

#[cfg(test)]
mod tests;
