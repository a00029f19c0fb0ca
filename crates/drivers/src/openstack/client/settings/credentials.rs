//! Which of a cloud's settings log in: those inside `auth` or those beside it, and by which of their names.
//!
//! openstacksdk (config/loader.py) decides it in three steps. Of project, domains and token what stands beside `auth`
//! counts more, since the environment or a command line may have put it there, and of several names the last one does
//! (`_fix_backwards_auth`). A domain that is named once is the user's and the project's; without a project it is what the
//! token is for (`_handle_domain_id`). Of all else what stands inside counts more (`_validate_auth`). An empty text is
//! no value.

use std::collections::BTreeMap;

use nodepool_common::config::suggest;
use serde_json::{Map, Value};

use super::values::text;

/// Settings whose place beside `auth` counts more, with their names in the order in which a later one counts more.
const OUTSIDE_FIRST: [(&str, &[&str]); 9] = [
    ("domain_id", &["domain_id"]),
    ("domain_name", &["domain_name"]),
    ("user_domain_id", &["user_domain_id"]),
    ("user_domain_name", &["user_domain_name"]),
    ("project_domain_id", &["project_domain_id"]),
    ("project_domain_name", &["project_domain_name"]),
    ("token", &["auth_token", "token"]),
    ("project_id", &["tenant_id", "project_id"]),
    ("project_name", &["tenant_name", "project_name"]),
];
/// Settings whose place inside `auth` counts more; of several names the first.
const INSIDE_FIRST: [(&str, &[&str]); 11] = [
    ("auth_url", &["auth_url"]),
    ("system_scope", &["system_scope"]),
    ("trust_id", &["trust_id"]),
    ("default_domain_id", &["default_domain_id"]),
    ("default_domain_name", &["default_domain_name"]),
    ("user_id", &["user_id"]),
    ("username", &["username", "user_name"]),
    ("password", &["password"]),
    ("application_credential_id", &["application_credential_id"]),
    ("application_credential_name", &["application_credential_name"]),
    ("application_credential_secret", &["application_credential_secret"]),
];

/// How to log in, and with what.
#[derive(Clone)]
pub(crate) struct Credentials {
    auth_type: String,
    values: BTreeMap<&'static str, String>,
}

impl Credentials {
    /// Of a cloud with these settings, and what to warn of. An error says what is wrong.
    pub fn read(settings: &Map<String, Value>) -> Result<(Self, Vec<String>), String> {
        let none = Map::new();
        let inside = match settings.get("auth") {
            None | Some(Value::Null) => &none,
            Some(Value::Object(auth)) => auth,
            Some(_) => return Err("its auth is not a mapping".to_owned()),
        };
        let mut values = BTreeMap::new();
        for (key, names) in OUTSIDE_FIRST {
            let mut last = None;
            for name in names {
                for place in [inside, settings] {
                    last = value(place, name)?.or(last);
                }
            }
            values.extend(last.map(|last| (key, last)));
        }
        for (key, names) in INSIDE_FIRST {
            for place in [inside, settings] {
                let Some(name) = names.iter().find(|name| place.contains_key(**name)) else { continue };
                if let Some(found) = value(place, name)?.filter(|found| !found.is_empty()) {
                    values.insert(key, found);
                    break;
                }
            }
        }
        values.retain(|_, value| !value.is_empty());
        share_domain(&mut values);
        let auth_type = auth_type(settings, &values);
        let mut warnings = unknown_keys(inside, &auth_type);
        let scopes = ["project_id", "project_name", "domain_id", "domain_name", "trust_id", "system_scope"];
        if let Some(scope) = scopes.iter().find(|key| values.contains_key(**key))
            && auth_type == "v3applicationcredential"
        {
            warnings.push(format!(
                "it has a {scope} beside an application credential, which is for its own project: it is left out here, \
                 openstacksdk sends it and Keystone refuses both"
            ));
        }
        if settings.contains_key("auth_plugin") && !settings.contains_key("auth_type") {
            warnings.push("its auth_plugin is not read, as by openstacksdk: the key is auth_type now".to_owned());
        }
        Ok((Self { auth_type, values }, warnings))
    }

    /// keystoneauth's name of the plugin.
    pub fn auth_type(&self) -> &str {
        &self.auth_type
    }

    /// A setting, never empty.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.values.get(key).map(String::as_str)
    }
}

/// A setting that must be a text; `None`: there is none.
fn value(place: &Map<String, Value>, key: &str) -> Result<Option<String>, String> {
    match place.get(key) {
        None | Some(Value::Null) => Ok(None),
        // Not what it is: it may be a password.
        Some(Value::Array(_) | Value::Object(_)) => Err(format!("its {key} is not a text")),
        Some(Value::Bool(value)) => Err(format!(
            "its {key} has become the boolean {value}: yes, no, on, off, true and false are booleans in YAML where they \
             stand without quotes; write it in quotes"
        )),
        Some(other) => Ok(text(other)),
    }
}

fn share_domain(values: &mut BTreeMap<&'static str, String>) {
    if !values.contains_key("project_id") && !values.contains_key("project_name") {
        return;
    }
    for (key, users) in [
        ("domain_id", ["user_domain_id", "project_domain_id"]),
        ("domain_name", ["user_domain_name", "project_domain_name"]),
    ] {
        if let Some(domain) = values.remove(key) {
            for user in users {
                values.entry(user).or_insert_with(|| domain.clone());
            }
        }
    }
}

/// As the SDK has it, but that an application credential alone, or a token alone, says what it is.
fn auth_type(settings: &Map<String, Value>, values: &BTreeMap<&'static str, String>) -> String {
    let Some(named) = settings.get("auth_type") else {
        let has = |key: &str| values.contains_key(key);
        return match () {
            () if has("password") => "password",
            () if has("application_credential_secret") => "v3applicationcredential",
            () if has("token") => "token",
            () => "password",
        }
        .to_owned();
    };
    match text(named).unwrap_or_default().as_str() {
        "" | "None" => "none",
        "token_endpoint" => "admin_token",
        other => other,
    }
    .to_owned()
}

/// Keys inside `auth` that the plugin does not take.
fn unknown_keys(inside: &Map<String, Value>, auth_type: &str) -> Vec<String> {
    let user = ["user_id", "username", "user_name", "user_domain_id", "user_domain_name"];
    let own: Vec<&str> = match auth_type {
        "password" | "v3password" => user.into_iter().chain(["password"]).collect(),
        "token" | "v3token" => vec!["token", "auth_token"],
        "v3applicationcredential" => user
            .into_iter()
            .chain(["application_credential_id", "application_credential_name", "application_credential_secret"])
            .collect(),
        _ => return Vec::new(),
    };
    let scope = ["auth_url", "system_scope", "trust_id", "tenant_id", "tenant_name", "project_id", "project_name"];
    let domains = ["domain_id", "domain_name", "project_domain_id", "project_domain_name"];
    let default = ["default_domain_id", "default_domain_name"];
    let default = default.into_iter().filter(|_| matches!(auth_type, "password" | "token"));
    let known: Vec<&str> = own.into_iter().chain(scope).chain(domains).chain(default).collect();
    let unknown = inside.keys().filter(|key| !known.contains(&key.as_str()));
    let warning = |key: &String| {
        let meant = suggest(key, known.iter().copied());
        let meant = meant.map(|meant| format!(" (did you mean `{meant}`?)")).unwrap_or_default();
        format!(
            "its auth has a key `{key}`, which auth_type {auth_type} does not take{meant}: it is ignored here, \
             openstacksdk refuses the cloud"
        )
    };
    unknown.map(warning).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(settings: &Value) -> (Credentials, Vec<String>) {
        Credentials::read(settings.as_object().unwrap()).unwrap()
    }

    #[test]
    fn what_stands_beside_auth_counts_more_for_project_and_domains_and_less_for_all_else() {
        let (credentials, warnings) = read(&json!({
            "auth": {"username": "in", "password": "in", "project_name": "in", "user_domain_id": "in", "tenant_id": "t"},
            "username": "out", "password": "out", "project_name": "out", "user_domain_id": "out", "trust_id": "out",
        }));
        for (key, value) in [
            ("username", Some("in")),
            ("password", Some("in")),
            ("project_name", Some("out")),
            ("project_id", Some("t")),
            ("user_domain_id", Some("out")),
            ("trust_id", Some("out")),
        ] {
            assert_eq!(credentials.get(key), value, "{key}");
        }
        assert_eq!(warnings, [""; 0]);
    }

    #[test]
    fn an_empty_text_is_no_value() {
        let (credentials, _) = read(&json!({
            "auth": {"username": "", "password": "p", "project_name": "in", "project_domain_id": ""},
            "username": "out", "project_name": "",
        }));
        assert_eq!(credentials.get("username"), Some("out"));
        assert_eq!(
            credentials.get("project_name"),
            None,
            "what stands beside auth hides what is inside, even if empty"
        );
        assert_eq!(credentials.get("project_domain_id"), None);
    }

    #[test]
    fn a_domain_named_once_is_the_users_and_the_projects_where_there_is_a_project() {
        let (credentials, _) =
            read(&json!({"auth": {"project_name": "p", "domain_name": "d", "user_domain_name": "u"}}));
        assert_eq!(credentials.get("user_domain_name"), Some("u"));
        assert_eq!(credentials.get("project_domain_name"), Some("d"));
        assert_eq!(credentials.get("domain_name"), None);
        let (credentials, _) = read(&json!({"auth": {"domain_name": "d"}}));
        assert_eq!(credentials.get("domain_name"), Some("d"));
    }

    #[test]
    fn what_yaml_has_made_a_boolean_of_is_said() {
        for (settings, what) in [
            (json!({"auth": {"password": true}}), "its password has become the boolean true"),
            (json!({"auth": {}, "project_name": false}), "its project_name has become the boolean false"),
            (json!({"auth": {"username": ["hidden"]}}), "its username is not a text"),
            (json!({"auth": "hidden"}), "its auth is not a mapping"),
        ] {
            let error = Credentials::read(settings.as_object().unwrap()).err().unwrap();
            assert!(error.contains(what) && !error.contains("hidden"), "{error}");
        }
    }

    #[test]
    fn a_key_that_the_plugin_does_not_take_is_a_warning_with_what_was_meant() {
        let (_, warnings) = read(&json!({"auth": {"usrname": "u", "password": "p", "project_id": "x"}}));
        assert_eq!(warnings.len(), 1);
        assert!(warnings[0].contains("a key `usrname`") && warnings[0].contains("did you mean `username`?"));
        let (_, warnings) = read(&json!({"auth_type": "v3applicationcredential",
            "auth": {"application_credential_id": "i", "application_credential_secret": "s", "password": "hidden"}}));
        assert!(
            warnings[0].contains("`password`, which auth_type v3applicationcredential does not take"),
            "{warnings:?}"
        );
        assert!(!warnings[0].contains("hidden"));
        let (_, warnings) = read(&json!({"auth_type": "v3applicationcredential", "project_name": "p",
            "auth": {"application_credential_id": "i", "application_credential_secret": "s"}}));
        assert!(warnings[0].contains("it has a project_name beside an application credential"), "{warnings:?}");
        let (credentials, warnings) = read(&json!({"auth_plugin": "v3token", "auth": {"password": "p"}}));
        assert_eq!(credentials.auth_type(), "password");
        assert!(warnings[0].contains("the key is auth_type now"), "{warnings:?}");
    }
}
