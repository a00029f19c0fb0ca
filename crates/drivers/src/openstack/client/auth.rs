//! What clouds.yaml's `auth` means to Keystone: the body of `POST /v3/auth/tokens`.
//!
//! Passwords, application credentials and tokens, for a project, a domain, a trust, the system, or for whatever Keystone
//! chooses, as keystoneauth asks for them (keystoneauth1: identity/v3/base.py, identity/generic/): nothing is added that
//! is not in the settings. Other plugins of keystoneauth are refused by name.

use serde_json::{Map, Value, json};

use super::settings::{CloudSettings, Credentials};
use crate::{ErrorClass, openstack::api::CloudError};

const NO_USER_DOMAIN: &str = "its auth names no user_domain_name or user_domain_id";

/// How to log in.
#[derive(Debug)]
pub(super) struct Login {
    /// Of `POST /auth/tokens`.
    pub body: Value,
    /// For messages.
    pub who: String,
    /// What may be missing if Keystone refuses the body as malformed.
    pub hint: Option<&'static str>,
}

/// By id if there is one, else by name.
fn by_id_or_name(credentials: &Credentials, id: &str, name: &str) -> Option<Value> {
    let of = |key: &str, value: &str| json!({key: value});
    credentials.get(id).map(|id| of("id", id)).or_else(|| credentials.get(name).map(|name| of("name", name)))
}

/// The domain of the user or the project. The plugins that know versions of Identity (`password`, `token`) have a default
/// for both, whose id counts more than a name.
fn domain(credentials: &Credentials, of: &str) -> Option<Value> {
    let has_default = matches!(credentials.auth_type(), "password" | "token");
    let get = |key: &str| {
        let default = || credentials.get(&format!("default_domain_{key}")).filter(|_| has_default);
        credentials.get(&format!("{of}_domain_{key}")).or_else(default)
    };
    get("id").map(|id| json!({"id": id})).or_else(|| get("name").map(|name| json!({"name": name})))
}

/// Without what is not named: Keystone says then what it misses.
fn user(credentials: &Credentials) -> Option<Map<String, Value>> {
    let mut user = Map::new();
    if let Some(id) = credentials.get("user_id") {
        user.insert("id".to_owned(), json!(id));
    } else {
        user.insert("name".to_owned(), json!(credentials.get("username")?));
        user.extend(domain(credentials, "user").map(|domain| ("domain".to_owned(), domain)));
    }
    Some(user)
}

/// Keystone wants one beside a name, where others that speak its language may not.
fn lacks_domain(named: &Map<String, Value>) -> bool {
    named.contains_key("name") && !named.contains_key("domain")
}

/// What the token is for; `None`: for the user's default project, if there is one. An error says what is wrong.
fn scope(credentials: &Credentials) -> Result<Option<Value>, String> {
    let project = by_id_or_name(credentials, "project_id", "project_name").map(|mut project| {
        if let (Some(_), Some(domain)) = (project.get("name"), domain(credentials, "project")) {
            project["domain"] = domain;
        }
        json!({"project": project})
    });
    let domain = by_id_or_name(credentials, "domain_id", "domain_name").map(|domain| json!({"domain": domain}));
    let trust = credentials.get("trust_id").map(|id| json!({"OS-TRUST:trust": {"id": id}}));
    let system = match credentials.get("system_scope") {
        None => None,
        Some("all") => Some(json!({"system": {"all": true}})),
        Some(other) => return Err(format!("its system_scope is {other}; there is only all")),
    };
    let mut scopes = [("project", project), ("domain", domain), ("trust", trust), ("system", system)]
        .into_iter()
        .filter_map(|(name, scope)| Some((name, scope?)))
        .collect::<Vec<_>>();
    if scopes.len() > 1 {
        let names: Vec<&str> = scopes.iter().map(|(name, _)| *name).collect();
        return Err(format!("a token is for one thing, and its auth names several: {}", names.join(", ")));
    }
    Ok(scopes.pop().map(|(_, scope)| scope))
}

/// What keystoneauth refuses before it asks: `v3…` plugins have names in domains only.
fn check_domains(credentials: &Credentials) -> Result<(), String> {
    let auth_type = credentials.auth_type();
    if !auth_type.starts_with("v3") {
        return Ok(());
    }
    for (name, of) in [("username", "user"), ("project_name", "project")] {
        let is_needed = credentials.get(name).is_some() && (name != "username" || auth_type != "v3token");
        if is_needed && by_id_or_name(credentials, &format!("{of}_domain_id"), &format!("{of}_domain_name")).is_none() {
            return Err(format!(
                "auth_type {auth_type} needs {of}_domain_name or {of}_domain_id beside {name} (auth_type password does \
                 not, where Keystone does not)"
            ));
        }
    }
    Ok(())
}

/// How the cloud's settings log in.
pub(super) fn request(settings: &CloudSettings) -> Result<Login, CloudError> {
    let credentials = &settings.credentials;
    let place = format!("cloud {} in {}", settings.name, settings.file.display());
    let error = |message: String| CloudError::new(ErrorClass::Config, message);
    let wrong = |what: String| error(format!("{place} cannot be used: {what}"));
    let missing = |what: &str| error(format!("{place} has no {what} in its auth"));
    let needed = |key: &str| credentials.get(key).ok_or_else(|| missing(key));
    let mut hint = None;
    let (method, details, who) = match credentials.auth_type() {
        "password" | "v3password" => {
            let mut user = user(credentials).ok_or_else(|| missing("username or user_id"))?;
            hint = lacks_domain(&user).then_some(NO_USER_DOMAIN);
            let who = user.get("name").or_else(|| user.get("id")).and_then(Value::as_str).unwrap_or_default();
            let who = format!("user {who}");
            user.insert("password".to_owned(), json!(needed("password")?));
            ("password", json!({"user": user}), who)
        }
        "v3applicationcredential" => {
            let mut details = Map::from_iter([("secret".to_owned(), json!(needed("application_credential_secret")?))]);
            let who = if let Some(id) = credentials.get("application_credential_id") {
                details.insert("id".to_owned(), json!(id));
                id
            } else {
                let name = credentials.get("application_credential_name");
                let name = name.ok_or_else(|| missing("application_credential_id"))?;
                details.insert("name".to_owned(), json!(name));
                let user =
                    user(credentials).ok_or_else(|| missing("username or user_id beside the credential's name"))?;
                hint = lacks_domain(&user).then_some(NO_USER_DOMAIN);
                details.insert("user".to_owned(), Value::Object(user));
                name
            };
            ("application_credential", Value::Object(details), format!("application credential {who}"))
        }
        "token" | "v3token" => ("token", json!({"id": needed("token")?}), "a token".to_owned()),
        other => {
            return Err(wrong(format!(
                "its auth_type is {other}, which is not built in; password, v3password, v3applicationcredential, token \
                 and v3token are. An application credential takes the place of any other (docs/migration.md)"
            )));
        }
    };
    let mut auth = json!({"identity": {"methods": [method], method: details}});
    // An application credential is for one project, and Keystone refuses it with any scope.
    if method != "application_credential" {
        check_domains(credentials).map_err(wrong)?;
        let scope = scope(credentials).map_err(wrong)?;
        let project = scope.as_ref().and_then(|scope| scope.get("project")?.as_object());
        if project.is_some_and(lacks_domain) {
            hint = hint.or(Some("its auth names no project_domain_name or project_domain_id"));
        }
        if let Some(scope) = scope {
            auth["scope"] = scope;
        }
    }
    Ok(Login { body: json!({"auth": auth}), who, hint })
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

    fn body(auth: &str) -> Value {
        request(&settings(auth)).unwrap().body
    }

    #[test]
    fn names_and_ids_of_users_and_domains_are_sent() {
        let login = request(&settings(
            "auth: {auth_url: 'http://k', user_id: u1, password: p, project_name: pr, project_domain_id: d1}",
        ))
        .unwrap();
        assert_eq!(login.who, "user u1");
        assert_eq!(
            login.body,
            json!({"auth": {
                "identity": {"methods": ["password"], "password": {"user": {"id": "u1", "password": "p"}}},
                "scope": {"project": {"name": "pr", "domain": {"id": "d1"}}}}})
        );
    }

    #[test]
    fn no_domain_is_invented() {
        let login =
            request(&settings("auth: {username: u, password: p, project_name: x, user_domain_name: d}")).unwrap();
        assert_eq!(login.body.pointer("/auth/scope"), Some(&json!({"project": {"name": "x"}})));
        assert_eq!(login.hint, Some("its auth names no project_domain_name or project_domain_id"));
        let login = request(&settings("auth: {username: u, password: p, project_id: x}")).unwrap();
        assert_eq!(
            login.body.pointer("/auth/identity/password/user"),
            Some(&json!({"name": "u", "password": "p"})),
            "as keystoneauth has it"
        );
        assert_eq!(login.hint, Some(NO_USER_DOMAIN));
        let login = request(&settings(
            "auth_type: v3applicationcredential, auth: {application_credential_name: a, application_credential_secret: s, \
             username: u}",
        ));
        assert_eq!(login.unwrap().hint, Some(NO_USER_DOMAIN));
    }

    #[test]
    fn a_default_domain_is_for_both_and_its_id_goes_before_a_name() {
        let both = "auth: {username: u, password: p, project_name: x, user_domain_name: d, default_domain_id: e}";
        let sent = body(both);
        assert_eq!(sent.pointer("/auth/identity/password/user/domain"), Some(&json!({"id": "e"})));
        assert_eq!(sent.pointer("/auth/scope/project/domain"), Some(&json!({"id": "e"})));
    }

    #[test]
    fn a_token_is_for_a_project_a_domain_a_trust_the_system_or_for_what_keystone_chooses() {
        for (scope, sent) in [
            ("project_id: x", Some(json!({"project": {"id": "x"}}))),
            ("domain_name: d", Some(json!({"domain": {"name": "d"}}))),
            ("trust_id: t", Some(json!({"OS-TRUST:trust": {"id": "t"}}))),
            ("system_scope: all", Some(json!({"system": {"all": true}}))),
            ("project_name: ''", None),
        ] {
            let body = body(&format!("auth: {{user_id: u, password: p, {scope}}}"));
            assert_eq!(body.pointer("/auth/scope"), sent.as_ref(), "{scope}");
        }
        for (scope, what) in [
            ("project_id: x, trust_id: t", "several: project, trust"),
            ("system_scope: some", "its system_scope is some; there is only all"),
        ] {
            let error = request(&settings(&format!("auth: {{user_id: u, password: p, {scope}}}"))).unwrap_err();
            assert!(error.message.contains(what), "{error}");
        }
    }

    #[test]
    fn an_application_credential_has_no_scope() {
        let login = request(&settings(
            "auth_type: v3applicationcredential, auth: {application_credential_id: a, application_credential_secret: s, \
             project_id: x}",
        ))
        .unwrap();
        assert_eq!(login.who, "application credential a");
        assert_eq!(
            login.body,
            json!({"auth": {"identity": {"methods": ["application_credential"],
                "application_credential": {"id": "a", "secret": "s"}}}})
        );
    }

    #[test]
    fn what_is_missing_is_said() {
        for (auth, what) in [
            ("auth: {username: u, project_name: p}", "no password in its auth"),
            ("auth: {password: p}", "no username or user_id in its auth"),
            ("auth_type: v3kerberos, auth: {}", "v3kerberos, which is not built in"),
            ("auth_type: null, auth: {}", "its auth_type is none, which is not built in"),
            ("auth_type: v3password, auth: {username: u, password: p}", "needs user_domain_name or user_domain_id"),
            (
                "auth_type: v3token, auth: {token: t, project_name: p}",
                "needs project_domain_name or project_domain_id beside project_name",
            ),
        ] {
            let error = request(&settings(auth)).unwrap_err();
            assert!(error.message.contains(what), "{error}");
            assert_eq!(error.class, ErrorClass::Config);
        }
    }
}
