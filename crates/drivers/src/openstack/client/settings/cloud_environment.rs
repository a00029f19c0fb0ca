//! The cloud that the environment describes, as an `openrc` file sets it: `OS_AUTH_URL` and the like.
//!
//! To openstacksdk that is a cloud like those of clouds.yaml, named `envvars` (or what `OS_CLOUD_NAME` says), with each
//! `OS_X` as its setting `x` (`openstacksdk: config/loader.py _get_os_environ`). There it springs up from any variable
//! that begins so; here it takes an `OS_AUTH_URL`, without which nobody can log in.

use serde_json::{Map, Value};

use crate::Context;

/// In the place of the file's name, for messages.
pub(super) const PLACE: &str = "the environment (OS_*)";
/// How variables begin that say which cloud, or where files are, and those of other programs.
const OTHERS: [&str; 5] = ["OS_CLOUD", "OS_CLIENT_", "OS_TEST", "OS_STD", "OS_LOG"];

/// What a cloud of the environment is called, whether there is one or not.
pub(super) fn name(context: &Context) -> &str {
    context.variable("OS_CLOUD_NAME").unwrap_or("envvars")
}

/// Its name and its settings.
pub(super) fn cloud(context: &Context) -> Option<(String, Map<String, Value>)> {
    context.variable("OS_AUTH_URL")?;
    let settings = context
        .variables()
        .filter(|(name, value)| !value.is_empty() && !OTHERS.iter().any(|other| name.starts_with(other)))
        .filter_map(|(name, value)| Some((name.strip_prefix("OS_")?.to_lowercase(), value.into())));
    Some((name(context).to_owned(), settings.collect()))
}
