//! Where services are: Keystone's catalogue, or clouds.yaml's word.
//!
//! Endpoints are taken as they stand there, with the version that some lack, without asking each service for its
//! versions: two calls less per service, and no dependence on discovery documents that name internal addresses.

use reqwest::Url;
use serde_json::Value;

use super::{service::Service, settings::CloudSettings};

/// A service's endpoint; `None`: the catalogue has none in the region.
pub(super) fn find(catalog: &Value, settings: &CloudSettings, service: Service, project: Option<&str>) -> Option<Url> {
    if let Some(text) = settings.endpoint_override(service) {
        return Url::parse(&with_project(&text, project)).ok();
    }
    let text = |json: &Value, key: &str| json.get(key).and_then(Value::as_str).map(ToOwned::to_owned);
    let region = settings.region(service);
    let name = settings.service_name(service);
    let own_type = settings.service_type(service);
    let types = own_type.iter().map(String::as_str).chain(service.types().iter().copied());
    let entries = catalog.as_array()?;
    types.into_iter().find_map(|of_type| {
        // Several entries may have one type: one for each name, or a service that was registered twice.
        let endpoints: Vec<&Value> = entries
            .iter()
            .filter(|entry| text(entry, "type").as_deref() == Some(of_type))
            .filter(|entry| name.is_none() || text(entry, "name").is_none() || text(entry, "name") == name)
            .filter_map(|entry| entry.get("endpoints")?.as_array())
            .flatten()
            .filter(|at| region.is_none() || text(at, "region_id").or_else(|| text(at, "region")) == region)
            .collect();
        settings.interfaces(service).iter().find_map(|interface| {
            let mut fitting = endpoints.iter().filter(|at| text(at, "interface").as_ref() == Some(interface));
            fitting.find_map(|at| Url::parse(&with_project(&text(at, "url")?, project)).ok())
        })
    })
}

/// The project's id in the place of its names in catalogues and overrides (`keystoneauth1: session.py`).
fn with_project(url: &str, project: Option<&str>) -> String {
    let mut url = url.to_owned();
    for name in ["%(project_id)s", "%(tenant_id)s", "$(project_id)s", "$(tenant_id)s"] {
        url = url.replace(name, project.unwrap_or_default());
    }
    url
}

/// A path of a service, below its address with the version that its catalogue entry may lack.
pub(super) fn address(mut endpoint: Url, service: Service, path: &str) -> Url {
    let version = match service {
        Service::Compute => "v2.1",
        Service::Network => "v2.0",
        Service::Image => "v2",
        Service::Volume => "v3",
    };
    let is_version =
        |part: &str| part.strip_prefix('v').is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()));
    let mut base = endpoint.path().trim_end_matches('/').to_owned();
    if !base.split('/').any(is_version) {
        base = format!("{base}/{version}");
    }
    endpoint.set_path(&format!("{base}{path}"));
    endpoint
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::Context;

    /// As clouds in the wild have them: one port for each service, or one path.
    #[test]
    fn a_catalogue_entry_gets_the_version_it_lacks() {
        for (endpoint, service, expected) in [
            ("http://n:9696", Service::Network, "http://n:9696/v2.0/x"),
            ("http://n/networking/", Service::Network, "http://n/networking/v2.0/x"),
            ("http://n:9696/v2.0", Service::Network, "http://n:9696/v2.0/x"),
            ("http://c:8774/v2.1/abc", Service::Compute, "http://c:8774/v2.1/abc/x"),
            ("http://c/compute/v2.1", Service::Compute, "http://c/compute/v2.1/x"),
            ("http://c/compute", Service::Compute, "http://c/compute/v2.1/x"),
            ("http://g:9292/v2/", Service::Image, "http://g:9292/v2/x"),
            ("http://g/image", Service::Image, "http://g/image/v2/x"),
            ("http://v/volume/v3/abc", Service::Volume, "http://v/volume/v3/abc/x"),
        ] {
            assert_eq!(address(Url::parse(endpoint).unwrap(), service, "/x").as_str(), expected);
        }
    }

    #[test]
    fn the_endpoint_is_the_one_of_the_interface_the_region_and_the_name() {
        let catalog = json!([
            {"type": "compute", "name": "old", "endpoints": [
                {"interface": "public", "region_id": "one", "url": "http://old"}]},
            {"type": "compute", "name": "nova", "endpoints": [
                {"interface": "public", "region_id": "one", "url": "http://public"},
                {"interface": "internal", "region_id": "two", "url": "http://internal"},
                {"interface": "public", "region_id": "two", "url": "http://two"}]},
            {"type": "volumev2", "endpoints": [{"interface": "public", "region": "one", "url": "http://v2"}]},
            {"type": "volumev3", "endpoints": [
                {"interface": "public", "region": "one", "url": "http://v3/%(project_id)s"}]}]);
        let found = |settings: &str, service| {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("clouds.yaml");
            std::fs::write(&path, format!("clouds: {{c: {{{settings}}}}}")).unwrap();
            let context = Context::default().with_variable("OS_CLIENT_CONFIG_FILE", path.to_str().unwrap());
            let settings = CloudSettings::find(Some("c"), None, &context).unwrap();
            find(&catalog, &settings, service, Some("p7")).map(String::from)
        };
        for (settings, service, expected) in [
            ("region_name: two", Service::Compute, Some("http://two/")),
            ("region_name: one, compute_service_name: nova", Service::Compute, Some("http://public/")),
            ("region_name: two, interface: [internal, public]", Service::Compute, Some("http://internal/")),
            ("region_name: two, compute_endpoint_type: internalURL", Service::Compute, Some("http://internal/")),
            ("region_name: three", Service::Compute, None),
            ("", Service::Volume, Some("http://v3/p7")),
            ("volume_service_type: volumev2", Service::Volume, Some("http://v2/")),
            ("image_endpoint_override: 'http://g/%(project_id)s'", Service::Image, Some("http://g/p7")),
            ("", Service::Image, None),
        ] {
            assert_eq!(found(settings, service).as_deref(), expected, "{settings}");
        }
    }
}
