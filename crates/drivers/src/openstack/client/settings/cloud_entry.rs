//! [`Entry`]: a cloud as it stands in `clouds.yaml` and `secure.yaml`, or in the environment, before profile and region
//! are put together with it.
//!
//! Someone whose launcher cannot find its cloud at night needs to know which files were read and which clouds were in them.

use std::path::PathBuf;

use serde_json::{Map, Value};

use super::{
    cloud_environment,
    config_files::{merge, normalized, object, read, search},
};
use crate::{Context, ErrorClass, openstack::api::CloudError};

/// See the module's comment.
pub(super) struct Entry {
    pub name: String,
    /// The file that it is in, or [`cloud_environment::PLACE`].
    pub file: PathBuf,
    /// Its settings, secrets merged in.
    pub own: Map<String, Value>,
    /// What stands beside the clouds, for all of them.
    pub client: Map<String, Value>,
    /// `metrics`, which stands beside the clouds, too, for all of them.
    pub metrics: Map<String, Value>,
    /// What to tell whoever wrote the file.
    pub warnings: Vec<String>,
}

fn config(message: String) -> CloudError {
    CloudError::new(ErrorClass::Config, message)
}

impl Entry {
    /// `None` as its name: `OS_CLOUD`, or the environment's own, or the only one there is.
    pub fn find(cloud: Option<&str>, context: &Context) -> Result<Self, CloudError> {
        let environment = cloud_environment::cloud(context);
        let of_environment = environment.as_ref().map(|(name, _)| name.clone());
        let wanted = cloud.or_else(|| context.variable("OS_CLOUD")).or(of_environment.as_deref());
        let searched = search("clouds", "OS_CLIENT_CONFIG_FILE", context);
        let list =
            |paths: &[PathBuf]| paths.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", ");
        let none_needed = environment.is_some().then(|| (PathBuf::from(cloud_environment::PLACE), Map::new()));
        let Some((mut file, mut root)) = read(&searched)?.or(none_needed) else {
            return Err(config(format!(
                "there is no clouds.yaml to find cloud {} in; looked for: {}. Set OS_CLIENT_CONFIG_FILE to its path",
                wanted.unwrap_or("(any)"),
                list(&searched)
            )));
        };
        let secure = search("secure", "OS_CLIENT_SECURE_FILE", context);
        if let Some((_, secure)) = read(&secure)? {
            merge(&mut root, secure);
        }
        if root.get("clouds").is_some_and(|clouds| !clouds.is_null() && !clouds.is_object()) {
            return Err(config(format!("`clouds` in {} is not a mapping of names to clouds", file.display())));
        }
        let (mut clouds, strays): (Map<_, _>, Map<_, _>) =
            object(&root, "clouds").into_iter().partition(|(_, cloud)| cloud.is_object());
        let stray = |name: &String| {
            format!(
                "`{name}`, which stands below `clouds` in {}, is not a mapping, so it is no cloud; if it is a cloud's \
                 setting, indent it below that cloud",
                file.display()
            )
        };
        let warnings: Vec<String> = strays.keys().map(stray).collect();
        if let Some((name, settings)) = environment
            && clouds.insert(name.clone(), Value::Object(settings)).is_some()
        {
            return Err(config(format!(
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
                return Err(config(format!(
                    "the provider names no `cloud` and {} has {}: {}",
                    file.display(),
                    names.len(),
                    names.join(", ")
                )));
            }
        };
        let Some(Value::Object(own)) = clouds.get(&name) else {
            if strays.contains_key(&name) {
                return Err(config(stray(&name)));
            }
            return Err(config(format!(
                "there is no cloud {name} in {} (it has: {}); looked for: {}",
                file.display(),
                if names.is_empty() { "none".to_owned() } else { names.join(", ") },
                list(&searched)
            )));
        };
        if of_environment.as_deref() == Some(&name) {
            file = PathBuf::from(cloud_environment::PLACE);
        }
        let (own, client) = (normalized(own.clone()), normalized(object(&root, "client")));
        Ok(Self { name, file, own, client, metrics: object(&root, "metrics"), warnings })
    }
}
