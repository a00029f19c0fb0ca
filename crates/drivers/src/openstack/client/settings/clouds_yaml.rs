//! Reading `clouds.yaml` as openstacksdk does, as far as this driver needs it.
//!
//! `osauth` reads such files too, but knows neither `OS_CLIENT_CONFIG_FILE` nor ids of domains and users, `verify`,
//! `regions` or the address settings, and does not say where it looked. Someone whose launcher cannot find its cloud at
//! night needs exactly that: which files were read, and which clouds were in them.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use nodepool_common::config;
use reqwest::Url;
use serde_json::{Map, Value};

use super::{
    Credentials,
    cloud_entry::Entry,
    cloud_environment, cloud_networks,
    config_files::{fingerprint, object},
    profiles, regions,
    remote_profiles::RemoteProfiles,
    sdk_statsd::SdkStatsd,
    values::{text, truth},
};
use crate::{
    Context, ErrorClass,
    files::Fingerprint,
    openstack::{
        api::{Addressing, CloudError, CloudNetwork, FloatingIpSource, ImageFormat},
        client::{service::Service, trust::Verify},
    },
};

/// One cloud of the file, its profile and secrets merged in, keys as the SDK normalises them.
#[derive(Clone)]
pub(crate) struct CloudSettings {
    pub name: String,
    /// The file that it is in, or [`cloud_environment::PLACE`].
    pub file: PathBuf,
    pub credentials: Credentials,
    /// What to tell whoever wrote the file.
    pub warnings: Vec<String>,
    /// Says so, where the cloud names a profile that nobody knows.
    pub unknown_profile: Option<String>,
    region: Option<String>,
    settings: Map<String, Value>,
    /// Where its calls are counted in statsd.
    pub statsd: SdkStatsd,
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

/// What comes of looking for a cloud.
enum Look {
    Found(Box<CloudSettings>),
    /// Its profile is published below that URL, and has to be fetched first.
    Unfetched(Url),
}

fn config_error(message: String) -> CloudError {
    CloudError::new(ErrorClass::Config, message)
}

impl CloudSettings {
    /// Finds a cloud. `None` as its name: `OS_CLOUD`, or the environment's own, or the only one there is. Of one whose
    /// profile has to be fetched first an error says so, and it is fetched meanwhile.
    pub fn find(cloud: Option<&str>, region: Option<&str>, context: &Context) -> Result<Self, CloudError> {
        match Self::look(cloud, region, context)? {
            Look::Found(settings) => Ok(*settings),
            Look::Unfetched(url) => {
                RemoteProfiles::of(context).fetch_later(&url, context);
                let message = format!("the profile {url} that clouds.yaml names is being fetched");
                Err(CloudError::new(ErrorClass::Transient, message))
            }
        }
    }

    /// The same; fetches the profile if there is need.
    pub async fn read(cloud: Option<&str>, region: Option<&str>, context: &Context) -> Result<Self, CloudError> {
        loop {
            match Self::look(cloud, region, context)? {
                Look::Found(settings) => return Ok(*settings),
                Look::Unfetched(url) => RemoteProfiles::of(context).fetch(&url, context).await?,
            }
        }
    }

    /// Reads the image format of a provider's cloud, whenever that is asked for.
    pub fn image_format(provider: &config::OpenStack, context: &Context) -> ImageFormat {
        let (cloud, region, context) = (provider.cloud.clone(), provider.region_name.clone(), context.clone());
        Box::new(move || Ok(Self::find(cloud.as_deref(), region.as_deref(), &context)?.text("image_format")))
    }

    fn look(cloud: Option<&str>, region: Option<&str>, context: &Context) -> Result<Look, CloudError> {
        let Entry { name, file, own, client, metrics, mut warnings } = Entry::find(cloud, context)?;
        let place = format!("cloud {name} in {}", file.display());
        let (mut settings, mut unknown_profile) = (Map::new(), None);
        let profile = own.get("profile").or_else(|| own.get("cloud")).and_then(Value::as_str);
        if let Some(profile) = profile.filter(|name| !name.is_empty() && *name != cloud_environment::name(context)) {
            match profiles::find(profile, &place, context)? {
                profiles::Found::Profile { settings: found, warning } => {
                    settings = found;
                    warnings.extend(warning);
                }
                profiles::Found::Unfetched(url) => return Ok(Look::Unfetched(url)),
                profiles::Found::Unknown(text) => unknown_profile = Some(text),
            }
        }
        warnings.extend(unknown_profile.clone());
        let region =
            regions::choose(&own, &settings, region).map_err(|what| config_error(format!("{place} {what}")))?;
        overlay(&mut settings, own);
        overlay(&mut settings, region.values);
        let wrong = |what: String| config_error(format!("{place} cannot be used: {what}"));
        let (credentials, of_auth) = Credentials::read(&settings).map_err(wrong)?;
        warnings.extend(region.warnings.into_iter().chain(of_auth).map(|what| format!("{place}: {what}")));
        Ok(Look::Found(Box::new(Self {
            networks: cloud_networks::read(&settings).map_err(wrong)?,
            floating_ip_source: cloud_networks::floating_ip_source(&settings).map_err(wrong)?,
            force_ipv4: is_ipv4_forced(&settings, &client, context),
            statsd: SdkStatsd::read(&settings, &metrics, context),
            region: region.name,
            credentials,
            warnings,
            unknown_profile,
            name,
            file,
            settings,
        })))
    }

    /// What the files look like that were read for it and that it names.
    pub(crate) fn fingerprint(&self, context: &Context) -> Fingerprint {
        let named = ["cert", "key"].into_iter().filter_map(|key| self.path(key, context));
        let authorities = match self.verify(context) {
            Verify::With { path, .. } => Some(path),
            Verify::System | Verify::Not => None,
        };
        fingerprint(context, named.chain(authorities))
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
    pub fn expanded(&self, template: &str) -> String {
        let mut result = String::new();
        let mut rest = template;
        while let Some((before, name, after)) = rest
            .split_once('{')
            .and_then(|(before, rest)| rest.split_once('}').map(|(name, rest)| (before, name, rest)))
        {
            result.push_str(before);
            let value =
                if name == "region_name" { self.region.clone() } else { self.settings.get(name).and_then(text) };
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
    pub(crate) fn path(&self, key: &str, context: &Context) -> Option<PathBuf> {
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
    pub(crate) fn verify(&self, context: &Context) -> Verify {
        let verify = self.settings.get("verify");
        let is_path = verify.and_then(Value::as_str).is_some_and(|text| text.contains(['/', '.']));
        let is_off = !is_path && verify.and_then(truth) == Some(false);
        if is_off || self.settings.get("insecure").and_then(truth).unwrap_or(false) {
            return Verify::Not;
        }
        let of_cloud = |key: &'static str| self.path(key, context).map(|path| (path, key));
        let named = of_cloud("cacert").or_else(|| of_cloud("verify").filter(|_| is_path));
        named.map_or_else(|| Verify::of_environment(context), |(path, named)| Verify::With { path, named })
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

#[cfg(test)]
mod tests;
