//! [`Keystone`]: a token and the catalogue, as an authentication type of `osauth`.
//!
//! `osauth`'s own password type knows users and domains by name only, and its `refresh` keeps a token that has not
//! expired, also when the cloud has just refused it (revoked, Fernet keys lost). This one speaks the same protocol
//! (Identity v3 `POST /auth/tokens`) for all of clouds.yaml's names and ids, and renews on demand, once for all who
//! found the same token refused.

use std::{fmt, sync::Arc, time::Duration};

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use osauth::{AuthType, EndpointFilters, Error, ErrorKind};
use reqwest::{Client, RequestBuilder, Url};
use serde_json::{Map, Value, json};
use tokio::sync::RwLock;

use super::{
    cloud::CloudError,
    clouds_yaml::CloudSettings,
    http::{explain, message_of},
};
use crate::ErrorClass;

/// Whole answer included.
const DEADLINE: Duration = Duration::from_secs(30);
/// A token with less left is renewed.
const MARGIN: Duration = Duration::from_secs(300);

/// See the module's comment.
pub(crate) struct Keystone {
    cloud: String,
    /// Who logs in, for messages.
    who: String,
    /// Where the settings are, for messages.
    file: String,
    url: Url,
    body: Value,
    settings: CloudSettings,
    token: RwLock<Option<Arc<Token>>>,
}

/// What Keystone gives.
pub(crate) struct Token {
    pub value: String,
    pub project: Option<String>,
    expires: DateTime<Utc>,
    issued: DateTime<Utc>,
    catalog: Value,
}

impl Token {
    /// Whether its time is over.
    pub fn is_over(&self) -> bool {
        self.expires <= Utc::now()
    }

    /// How long the cloud lets its tokens live.
    pub fn lifetime(&self) -> Duration {
        (self.expires - self.issued).to_std().unwrap_or_default()
    }
}

/// Neither has anything to show that is no secret.
impl fmt::Debug for Keystone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keystone").field("cloud", &self.cloud).field("url", &self.url.as_str()).finish_non_exhaustive()
    }
}

/// A service with the names that catalogues have for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Service {
    Compute,
    Image,
    Network,
    Volume,
}

impl Service {
    pub const ALL: [Self; 4] = [Self::Compute, Self::Image, Self::Network, Self::Volume];

    pub const fn types(self) -> &'static [&'static str] {
        match self {
            Self::Compute => &["compute"],
            Self::Image => &["image"],
            Self::Network => &["network"],
            Self::Volume => &["block-storage", "volumev3", "volumev2", "volume", "block-store"],
        }
    }

    pub const fn name(self) -> &'static str {
        self.types()[0]
    }
}

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
fn request(settings: &CloudSettings) -> Result<(Value, String), CloudError> {
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

impl Keystone {
    pub fn new(settings: &CloudSettings) -> Result<Self, CloudError> {
        let (body, who) = request(settings)?;
        let place = format!("cloud {} in {}", settings.name, settings.file.display());
        let parse = |key: &str, text: &str| {
            Url::parse(text).map_err(|error| config_error(format!("{key} {text:?} of {place} is no URL: {error}")))
        };
        let auth_url = settings
            .auth("auth_url")
            .map(|url| settings.expanded(&url))
            .ok_or_else(|| config_error(format!("{place} has no auth_url")))?;
        let base = auth_url.trim_end_matches('/').trim_end_matches("/v2.0").trim_end_matches("/v3");
        for service in Service::ALL {
            if let Some(text) = settings.endpoint_override(service) {
                parse(&format!("the endpoint_override of {}", service.name()), &text)?;
            }
        }
        Ok(Self {
            cloud: settings.name.clone(),
            who,
            file: settings.file.display().to_string(),
            url: parse("auth_url", &format!("{base}/v3/auth/tokens"))?,
            body,
            settings: settings.clone(),
            token: RwLock::default(),
        })
    }

    /// The token, a new one if there is none that lasts.
    pub async fn token(&self, client: &Client) -> Result<Arc<Token>, CloudError> {
        self.token_lasting(client, MARGIN).await
    }

    /// The token, a new one if the one there is has less left than that.
    pub async fn token_lasting(&self, client: &Client, least: Duration) -> Result<Arc<Token>, CloudError> {
        let lasts = |token: &Arc<Token>| (token.expires - Utc::now()).to_std().is_ok_and(|left| left > least);
        if let Some(token) = self.token.read().await.as_ref().filter(|token| lasts(token)) {
            return Ok(Arc::clone(token));
        }
        let mut current = self.token.write().await;
        if let Some(token) = current.as_ref().filter(|token| lasts(token)) {
            return Ok(Arc::clone(token));
        }
        let token = Arc::new(self.log_in(client).await?);
        *current = Some(Arc::clone(&token));
        Ok(token)
    }

    /// Forgets a token that the cloud has refused, unless somebody has renewed it already.
    pub async fn refused(&self, token: &str) {
        let mut current = self.token.write().await;
        if current.as_ref().is_some_and(|current| current.value == token) {
            *current = None;
        }
    }

    /// Puts a token that no cloud knows in the place of the good one.
    #[cfg(test)]
    pub async fn spoil_token(&self) {
        let mut current = self.token.write().await;
        let token = current.take().unwrap();
        *current = Some(Arc::new(Token {
            value: "spoilt".to_owned(),
            project: token.project.clone(),
            expires: token.expires,
            issued: token.issued,
            catalog: token.catalog.clone(),
        }));
    }

    async fn log_in(&self, client: &Client) -> Result<Token, CloudError> {
        let unreachable = |error: &reqwest::Error| {
            CloudError::new(
                ErrorClass::Transient,
                format!("cannot reach Keystone at {} (auth_url of cloud {}): {}", self.url, self.cloud, explain(error)),
            )
        };
        let answer = client.post(self.url.clone()).json(&self.body).timeout(DEADLINE).send().await;
        let answer = answer.map_err(|error| unreachable(&error))?;
        let status = answer.status().as_u16();
        let value = answer.headers().get("x-subject-token").and_then(|value| value.to_str().ok());
        let value = value.map(ToOwned::to_owned);
        let data = answer.bytes().await.map_err(|error| unreachable(&error))?;
        if !(200..300).contains(&status) {
            let message = message_of(&data);
            let mut error = match status {
                401 | 403 => CloudError::answered(
                    status,
                    format!(
                        "Keystone at {} refused the credentials of cloud {} ({}): {status} {message}; check its auth \
                         in {}",
                        self.url, self.cloud, self.who, self.file
                    ),
                ),
                404 | 405 => CloudError::answered(
                    status,
                    format!(
                        "there is no Identity v3 at {}: {message}; check auth_url of cloud {} in {}",
                        self.url, self.cloud, self.file
                    ),
                ),
                _ => CloudError::answered(status, format!("Keystone at {} answers {status} {message}", self.url)),
            };
            if (400..500).contains(&status) && !matches!(status, 408 | 429) {
                error.class = ErrorClass::Config;
            }
            error.status = None;
            return Err(error);
        }
        let malformed = |what: &str| {
            CloudError::new(ErrorClass::Transient, format!("Keystone at {} answers {status} {what}", self.url))
        };
        let body: Value = serde_json::from_slice(&data).map_err(|_| malformed("without JSON"))?;
        let token = body.get("token").ok_or_else(|| malformed("without a token"))?;
        let expires = token.get("expires_at").and_then(Value::as_str).and_then(|text| text.parse().ok());
        Ok(Token {
            value: value.ok_or_else(|| malformed("without X-Subject-Token"))?,
            project: token.pointer("/project/id").and_then(Value::as_str).map(ToOwned::to_owned),
            expires: expires.ok_or_else(|| malformed("without expires_at"))?,
            issued: Utc::now(),
            catalog: token.get("catalog").cloned().unwrap_or_default(),
        })
    }

    /// The service's endpoint.
    pub fn endpoint(&self, token: &Token, service: Service) -> Result<Url, CloudError> {
        self.find_endpoint(token, service).ok_or_else(|| {
            let region = self.settings.region(service);
            config_error(format!(
                "there is no {} service in the catalogue of cloud {} ({} interface, {}); check region-name and interface",
                service.name(),
                self.cloud,
                self.settings.interfaces(service).join(" or "),
                region.map_or_else(|| "any region".to_owned(), |region| format!("region {region}")),
            ))
        })
    }

    /// The service's endpoint; `None`: the catalogue has none in the region.
    pub fn find_endpoint(&self, token: &Token, service: Service) -> Option<Url> {
        if let Some(text) = self.settings.endpoint_override(service) {
            return Url::parse(&with_project(&text, token.project.as_deref())).ok();
        }
        let text = |json: &Value, key: &str| json.get(key).and_then(Value::as_str).map(ToOwned::to_owned);
        let region = self.settings.region(service);
        let name = self.settings.service_name(service);
        let own_type = self.settings.service_type(service);
        let types = own_type.iter().map(String::as_str).chain(service.types().iter().copied());
        let entries = token.catalog.as_array()?;
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
            self.settings.interfaces(service).iter().find_map(|interface| {
                let mut fitting = endpoints.iter().filter(|at| text(at, "interface").as_ref() == Some(interface));
                fitting.find_map(|at| Url::parse(&with_project(&text(at, "url")?, token.project.as_deref())).ok())
            })
        })
    }
}

/// The project's id in the place of its names in catalogues and overrides (`keystoneauth1: session.py`).
fn with_project(url: &str, project: Option<&str>) -> String {
    let mut url = url.to_owned();
    for name in ["%(project_id)s", "%(tenant_id)s", "$(project_id)s", "$(tenant_id)s"] {
        url = url.replace(name, project.unwrap_or_default());
    }
    url
}

/// For `osauth`, whose trait must be owned.
#[derive(Clone, Debug)]
pub(crate) struct Login(pub Arc<Keystone>);

/// The class survives as the kind.
fn to_osauth(error: &CloudError) -> Error {
    let kind = match error.class {
        ErrorClass::Config => ErrorKind::AuthenticationFailed,
        _ => ErrorKind::ProtocolError,
    };
    Error::new(kind, error.message.clone())
}

/// The reverse.
pub(crate) fn from_osauth(error: &Error) -> CloudError {
    let class = match error.kind() {
        ErrorKind::AuthenticationFailed | ErrorKind::EndpointNotFound => ErrorClass::Config,
        _ => ErrorClass::Transient,
    };
    // The kind's own words would only repeat the message.
    let text = error.to_string();
    let message = text.strip_prefix(&format!("{}: ", error.kind())).unwrap_or(&text);
    CloudError::new(class, message)
}

#[async_trait]
impl AuthType for Login {
    async fn authenticate(&self, client: &Client, request: RequestBuilder) -> Result<RequestBuilder, Error> {
        let token = self.0.token(client).await.map_err(|error| to_osauth(&error))?;
        Ok(request.header("x-auth-token", &token.value))
    }

    async fn get_endpoint(&self, client: &Client, service: &str, _: &EndpointFilters) -> Result<Url, Error> {
        let token = self.0.token(client).await.map_err(|error| to_osauth(&error))?;
        let known = Service::ALL.into_iter().find(|known| known.types().contains(&service));
        let unknown = || Error::new(ErrorKind::EndpointNotFound, format!("no call is made of {service} services"));
        self.0.endpoint(&token, known.ok_or_else(unknown)?).map_err(|error| to_osauth(&error))
    }

    /// The next call logs in.
    async fn refresh(&self, _: &Client) -> Result<(), Error> {
        *self.0.token.write().await = None;
        Ok(())
    }
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
