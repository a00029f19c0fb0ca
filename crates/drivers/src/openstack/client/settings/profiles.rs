//! A cloud's `profile`: what the clouds of one vendor have in common.
//!
//! As openstacksdk finds it (config/loader.py `_expand_vendor_profile`, config/vendors/__init__.py): the one of that name
//! in `clouds-public.yaml`, as it is; or the one of that name among the vendors that the SDK carries (`vendors.yaml`), which
//! may stand for another; or, where the name is a URL, what the vendor publishes there ([`super::remote_profiles`]). A
//! cloud that has been shut down is refused. A deprecated profile is a warning, and so is an unknown one: the cloud's own
//! settings may be complete.

use nodepool_common::config::suggest;
use reqwest::Url;
use serde_json::{Map, Value};

use super::{
    config_files::{normalized, object, read, search},
    remote_profiles::RemoteProfiles,
    vendors::{vendor, vendors},
};
use crate::{Context, ErrorClass, openstack::api::CloudError};

/// What comes of a profile's name.
#[derive(Debug)]
pub(super) enum Found {
    Profile {
        settings: Map<String, Value>,
        warning: Option<String>,
    },
    /// It is published below that URL, and has not been fetched yet.
    Unfetched(Url),
    /// Nobody knows it; the text says so.
    Unknown(String),
}

/// Looks for a profile of a cloud (`place`, for messages).
pub(super) fn find(name: &str, place: &str, context: &Context) -> Result<Found, CloudError> {
    let searched = search("clouds-public", "OS_CLIENT_VENDOR_FILE", context);
    let local = read(&searched)?.and_then(|(_, root)| object(&root, "public-clouds").remove(name));
    if let Some(Value::Object(settings)) = local {
        return Ok(Found::Profile { settings: normalized(settings), warning: None });
    }
    let mut settings = match vendor(name) {
        Some(settings) => settings,
        None => match published(name, context) {
            Some(Ok(settings)) => settings,
            Some(Err(url)) => return Ok(Found::Unfetched(url)),
            None => return Ok(Found::Unknown(unknown(name, place))),
        },
    };
    if let Some(Value::String(other)) = settings.remove("profile") {
        match vendor(&other).map(Ok).or_else(|| published(&other, context)) {
            Some(Ok(nested)) => settings = nested,
            Some(Err(url)) => return Ok(Found::Unfetched(url)),
            None => {}
        }
    }
    let mut take = |key: &str| match settings.remove(key) {
        Some(Value::String(text)) => text,
        _ => String::new(),
    };
    let (status, message) = (take("status"), take("message"));
    let warning = match status.as_str() {
        "shutdown" => {
            return Err(CloudError::new(
                ErrorClass::Config,
                format!("{place} cannot be used: its profile {name} is of a cloud that no longer exists: {message}"),
            ));
        }
        "deprecated" => Some(format!("{place} uses the profile {name}, which is deprecated: {message}")),
        _ => None,
    };
    Ok(Found::Profile { settings: normalized(settings), warning })
}

/// What a URL stands for, or the URL, if that is not known yet; `None`: it is no URL with a host.
fn published(name: &str, context: &Context) -> Option<Result<Map<String, Value>, Url>> {
    let url = Url::parse(name).ok().filter(Url::has_host)?;
    Some(RemoteProfiles::of(context).get(&url).ok_or(url))
}

fn unknown(name: &str, place: &str) -> String {
    let vendors = vendors();
    let meant = suggest(name, vendors.keys().map(String::as_str));
    let meant = meant.map(|meant| format!(" (did you mean {meant}?)")).unwrap_or_default();
    format!(
        "{place} uses the profile {name}{meant}, which is neither in a clouds-public.yaml nor among the vendors that \
         openstacksdk knows: it counts as empty"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(name: &str) -> (Map<String, Value>, Option<String>) {
        match find(name, "cloud c", &Context::default()).unwrap() {
            Found::Profile { settings, warning } => (settings, warning),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn each_vendor_of_the_sdk_is_a_profile_a_url_or_a_cloud_that_is_no_more() {
        let names: Vec<String> = vendors().keys().cloned().collect();
        assert_eq!(names.len(), 25, "{names:?}");
        let (mut gone, mut published) = (Vec::new(), Vec::new());
        for name in &names {
            match find(name, "cloud c", &Context::default()) {
                Ok(Found::Profile { settings, .. }) => {
                    assert!(settings.contains_key("auth") || name == "bluebox", "{name}");
                }
                Ok(Found::Unfetched(url)) => published.push((name.as_str(), url.to_string())),
                Ok(Found::Unknown(text)) => panic!("{text}"),
                Err(error) => {
                    assert!(error.message.contains("of a cloud that no longer exists: "), "{error}");
                    gone.push(name.as_str());
                }
            }
        }
        gone.sort_unstable();
        assert_eq!(gone, ["betacloud", "ibmcloud", "internap", "ultimum", "unitedstack"]);
        published.sort_unstable();
        assert_eq!(
            published,
            [("ovh", "https://ovhcloud.com/".to_owned()), ("vexxhost", "https://vexxhost.com/".to_owned())]
        );
    }

    #[test]
    fn a_deprecated_profile_is_used_with_a_warning() {
        let (settings, warning) = settings("fuga");
        assert!(settings["auth"]["auth_url"].as_str().unwrap().contains("fuga"));
        assert!(!settings.contains_key("status") && !settings.contains_key("message"));
        assert!(warning.unwrap().contains("deprecated: the API Endpoint is no longer responsive"));
    }

    #[test]
    fn what_has_been_published_takes_the_place_of_the_profile_that_stands_for_it() {
        let context = Context::default();
        let published = serde_json::json!({"auth": {"auth_url": "https://k"}, "regions": ["r"]});
        let published = published.as_object().unwrap().clone();
        RemoteProfiles::of(&context).put(&"https://vexxhost.com".parse().unwrap(), published.clone());
        match find("vexxhost", "cloud c", &context).unwrap() {
            Found::Profile { settings, warning: None } => assert_eq!(settings, published),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn an_unknown_profile_is_told_with_what_was_meant() {
        for (name, what) in [("rackspac", "(did you mean rackspace?), which is"), ("own", "own, which is neither")] {
            match find(name, "cloud c", &Context::default()).unwrap() {
                Found::Unknown(text) => assert!(text.contains(what), "{text}"),
                other => panic!("{other:?}"),
            }
        }
    }
}
