//! Calls in statsd as openstacksdk counts them, whose metrics sites of Python Nodepool have on their boards:
//! `PREFIX.SERVICE.METHOD.RESOURCE.STATUS`.
//!
//! Where they go is `STATSD_HOST` and `STATSD_PORT`, as for all metrics; `metrics.statsd.host` and `.port` of
//! clouds.yaml do not count. Logins are not counted, as by the SDK.

use reqwest::Method;

use super::service::Service;

/// The name of a call, without its status. `path`: of the URL; of a call that got no answer, what it appends to the
/// service's endpoint. `project`: that of the token, whose id is left out.
pub(super) fn name(prefix: &str, service: Service, method: &Method, path: &str, project: Option<&str>) -> String {
    format!("{prefix}.{}.{method}.{}", service.name(), resource(path, project))
}

/// What of a path says what the call is about: every other part, and `server` of `/servers/ID`
/// (`openstacksdk: proxy.py _extract_name`).
fn resource(path: &str, project: Option<&str>) -> String {
    let path = path.strip_prefix('/').unwrap_or(path);
    let path = path.strip_suffix(".json").unwrap_or(path);
    if path.ends_with("tokens") {
        return "tokens".to_owned();
    }
    let is_project =
        |part: &str| project.is_some_and(|project| part == project || part.strip_prefix("AUTH_") == Some(project));
    let parts: Vec<&str> = path.split('/').filter(|part| !is_project(part)).collect();
    let is_version =
        |part: &&str| part.strip_prefix('v').is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()));
    let names: Vec<String> = match parts.as_slice() {
        [.., before, "detail"] => vec![(*before).to_owned(), "detail".to_owned()],
        [version, rest @ ..] if is_version(version) => every_other(rest),
        all => every_other(all),
    };
    if names.is_empty() {
        return "discovery".to_owned();
    }
    names.join("_").replace(['.', ':'], "_")
}

/// The parts between ids. One that an id follows is in the singular.
fn every_other(parts: &[&str]) -> Vec<String> {
    let of = |pair: &[&str]| match *pair {
        [name, _] if !name.ends_with("is") => name.strip_suffix('s').unwrap_or(name).to_owned(),
        [name, ..] => name.to_owned(),
        [] => String::new(),
    };
    parts.chunks(2).map(of).filter(|name| !name.is_empty()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `tests/monitoring` holds the same table against openstacksdk itself.
    #[test]
    fn resources_are_named_as_openstacksdk_names_them() {
        let table: Vec<(String, String)> = serde_json::from_str(include_str!("sdk_names.json")).unwrap();
        assert!(table.len() > 20);
        for (path, expected) in table {
            assert_eq!(resource(&path, Some("the-project")), expected, "{path}");
        }
        assert_eq!(
            name("clouds.one", Service::Volume, &Method::DELETE, "/v3/p/volumes/x", Some("p")),
            "clouds.one.block-storage.DELETE.volume"
        );
    }
}
