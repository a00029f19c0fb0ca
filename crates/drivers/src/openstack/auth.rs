//! What clouds.yaml's `auth` means to Keystone: the body of `POST /v3/auth/tokens`.
//!
//! Passwords, application credentials and tokens, with all of the SDK's names and ids (`openstacksdk: config/loader.py
//! _fix_backwards_auth`). Other plugins of keystoneauth are refused by name.

use serde_json::{Map, Value, json};

use super::{cloud::CloudError, clouds_yaml::CloudSettings};
use crate::ErrorClass;

fn config_error(message: String) -> CloudError {
    CloudError::new(ErrorClass::Config, message)
}

/// `{"name": …}` or `{"id": …}`.
fn name_or_id(settings: &CloudSettings, prefix: &str) -> Option<Value> {
    let id = settings.auth(&format!("{prefix}_id")).map(|id| json!({"id": id}));
    id.or_else(|| settings.auth(&format!("{prefix}_name")).map(|name| json!({"name": name})))
}

fn domain(settings: &CloudSettings, prefix: &str) -> Value {
    name_or_id(settings, prefix)
        .or_else(|| name_or_id(settings, "domain"))
        .or_else(|| name_or_id(settings, "default_domain"))
        .unwrap_or_else(|| json!({"id": "default"}))
}

fn user(settings: &CloudSettings) -> Option<Map<String, Value>> {
    let mut user = Map::new();
    if let Some(id) = settings.auth("user_id") {
        user.insert("id".to_owned(), json!(id));
    } else {
        user.insert("name".to_owned(), json!(settings.auth("username")?));
        user.insert("domain".to_owned(), domain(settings, "user_domain"));
    }
    Some(user)
}

/// The body of `POST /auth/tokens`, and who that is.
pub(super) fn request(settings: &CloudSettings) -> Result<(Value, String), CloudError> {
    let missing = |what: &str| {
        config_error(format!("cloud {} in {} has no {what} in its auth", settings.name, settings.file.display()))
    };
    let app_credential =
        settings.auth("application_credential_id").or_else(|| settings.auth("application_credential_name"));
    let auth_type = settings.text("auth_type").or_else(|| settings.text("auth_plugin")).unwrap_or_else(|| {
        // Kinder than the SDK, which wants it said.
        let by_credential = app_credential.is_some() && settings.auth("password").is_none();
        if by_credential { "v3applicationcredential" } else { "password" }.to_owned()
    });
    let (method, details, who) = match auth_type.as_str() {
        "password" | "v3password" => {
            let mut user = user(settings).ok_or_else(|| missing("username or user_id"))?;
            let who = user.get("name").or_else(|| user.get("id")).and_then(Value::as_str).unwrap_or_default();
            let who = format!("user {who}");
            let password = settings.auth("password").ok_or_else(|| missing("password"))?;
            user.insert("password".to_owned(), json!(password));
            ("password", json!({"user": user}), who)
        }
        "v3applicationcredential" => {
            let secret = settings
                .auth("application_credential_secret")
                .ok_or_else(|| missing("application_credential_secret"))?;
            let mut details = Map::from_iter([("secret".to_owned(), json!(secret))]);
            if let Some(id) = settings.auth("application_credential_id") {
                details.insert("id".to_owned(), json!(id));
            } else {
                let name = app_credential.clone().ok_or_else(|| missing("application_credential_id"))?;
                details.insert("name".to_owned(), json!(name));
                let user = user(settings).ok_or_else(|| missing("username or user_id beside the credential's name"))?;
                details.insert("user".to_owned(), Value::Object(user));
            }
            let who = format!("application credential {}", app_credential.unwrap_or_default());
            ("application_credential", Value::Object(details), who)
        }
        "token" | "v3token" => {
            let token = settings.auth("token").ok_or_else(|| missing("token"))?;
            ("token", json!({"id": token}), "a token".to_owned())
        }
        other => {
            return Err(config_error(format!(
                "cloud {} in {} has auth_type {other}; supported are password, v3password, v3applicationcredential, \
                 token, v3token",
                settings.name,
                settings.file.display()
            )));
        }
    };
    let mut auth = json!({"identity": {"methods": [method], method: details}});
    // An application credential has its project in it, and refuses another.
    if method != "application_credential" {
        let project = match name_or_id(settings, "project").or_else(|| name_or_id(settings, "tenant")) {
            Some(Value::Object(mut project)) => {
                if !project.contains_key("id") {
                    project.insert("domain".to_owned(), domain(settings, "project_domain"));
                }
                project
            }
            _ => return Err(missing("project_name or project_id")),
        };
        auth["scope"] = json!({"project": project});
    }
    Ok((json!({"auth": auth}), who))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Context;

    fn settings(auth: &str) -> CloudSettings {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("clouds.yaml");
        std::fs::write(&path, format!("clouds: {{c: {{{auth}}}}}")).unwrap();
        let context = Context::default().with_variable("OS_CLIENT_CONFIG_FILE", path.to_str().unwrap());
        CloudSettings::find(Some("c"), None, &context).unwrap()
    }

    #[test]
    fn names_and_ids_of_users_and_domains_are_sent() {
        let (body, who) = request(&settings(
            "auth: {auth_url: 'http://k', user_id: u1, password: p, project_name: pr, project_domain_id: d1}",
        ))
        .unwrap();
        assert_eq!(who, "user u1");
        assert_eq!(
            body,
            json!({"auth": {
                "identity": {"methods": ["password"], "password": {"user": {"id": "u1", "password": "p"}}},
                "scope": {"project": {"name": "pr", "domain": {"id": "d1"}}}}})
        );
        let (body, _) = request(&settings("auth: {username: u, password: p, project_id: x}")).unwrap();
        assert_eq!(
            body.pointer("/auth/identity/password/user/domain"),
            Some(&json!({"id": "default"})),
            "as keystoneauth has it"
        );
    }

    #[test]
    fn an_application_credential_has_no_scope() {
        let (body, who) = request(&settings(
            "auth_type: v3applicationcredential, auth: {application_credential_id: a, application_credential_secret: s}",
        ))
        .unwrap();
        assert_eq!(who, "application credential a");
        assert_eq!(
            body,
            json!({"auth": {"identity": {"methods": ["application_credential"],
                "application_credential": {"id": "a", "secret": "s"}}}})
        );
    }

    #[test]
    fn what_is_missing_is_said() {
        for (auth, what) in [
            ("auth: {username: u, project_name: p}", "no password"),
            ("auth: {username: u, password: p}", "no project_name"),
            ("auth_type: v3kerberos, auth: {}", "v3kerberos; supported are"),
        ] {
            let error = request(&settings(auth)).unwrap_err();
            assert!(error.message.contains(what), "{error}");
            assert_eq!(error.class, ErrorClass::Config);
        }
    }
}
