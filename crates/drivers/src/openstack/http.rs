//! [`Session`]: one call of one service, once.
//!
//! Endpoints are taken from the catalogue as they stand there, without asking each service for its versions: two calls
//! less per service, and no dependence on discovery documents that name internal addresses.

use std::{sync::Arc, time::Duration};

use osauth::client::AuthenticatedClient;
use reqwest::{Method, RequestBuilder, Url};
use serde_json::Value;

use super::{
    cloud::CloudError,
    clouds_yaml::CloudSettings,
    identity::{Keystone, Login, Service, from_osauth},
    tls::client,
};
use crate::{Context, ErrorClass};

const DEADLINE: Duration = Duration::from_secs(30);

#[derive(Debug)]
pub(super) struct Session {
    pub http: AuthenticatedClient,
    pub keystone: Arc<Keystone>,
    pub settings: CloudSettings,
}

/// One call.
pub(super) struct Call<'a> {
    /// Upstream's word for it in logs.
    pub name: &'static str,
    pub method: Method,
    pub service: Service,
    /// Appended to the endpoint.
    pub path: String,
    pub query: Vec<(&'a str, String)>,
    pub body: Option<Value>,
    pub headers: Vec<(&'static str, &'static str)>,
    /// The first microversion that has what the call asks for.
    pub microversion: Option<&'static str>,
    pub deadline: Duration,
}

impl<'a> Call<'a> {
    pub fn new(name: &'static str, method: Method, service: Service, path: impl Into<String>) -> Self {
        Self {
            name,
            method,
            service,
            path: path.into(),
            query: Vec::new(),
            body: None,
            headers: Vec::new(),
            microversion: None,
            deadline: DEADLINE,
        }
    }

    pub fn get(name: &'static str, service: Service, path: impl Into<String>) -> Self {
        Self::new(name, Method::GET, service, path)
    }

    pub fn query(mut self, key: &'a str, value: impl Into<String>) -> Self {
        self.query.push((key, value.into()));
        self
    }
}

impl Session {
    /// Of the cloud with these settings. Nothing is asked of it yet.
    pub async fn new(settings: CloudSettings, context: &Context) -> Result<Self, CloudError> {
        let client = client(&settings, context)?;
        let keystone = Arc::new(Keystone::new(&settings)?);
        let http = AuthenticatedClient::new(client, Login(Arc::clone(&keystone))).await;
        Ok(Self { http: http.map_err(|error| from_osauth(&error))?, keystone, settings })
    }

    /// Where a path of a service is.
    pub async fn url(&self, service: Service, path: &str) -> Result<Url, CloudError> {
        let token = self.keystone.token(self.http.inner()).await?;
        Ok(address(self.keystone.endpoint(&token, service)?, service, path))
    }

    /// Makes a call once. Also returns what `Retry-After` says and which token was used.
    pub async fn send(&self, call: &Call<'_>) -> (Result<Value, CloudError>, Option<Duration>, String) {
        let mut wait = None;
        let mut token = String::new();
        let result = tokio::time::timeout(call.deadline, self.send_unbounded(call, &mut wait, &mut token)).await;
        let result = result.unwrap_or_else(|_| {
            Err(CloudError::new(
                ErrorClass::Transient,
                format!("{} ({} API) took longer than {} s", call.name, call.service.name(), call.deadline.as_secs()),
            ))
        });
        (result, wait, token)
    }

    async fn send_unbounded(
        &self,
        call: &Call<'_>,
        wait: &mut Option<Duration>,
        token: &mut String,
    ) -> Result<Value, CloudError> {
        let auth = self.http.auth_type();
        let url = self.url(call.service, &call.path).await?;
        let unreachable = |error: &reqwest::Error| {
            let class = if error.is_builder() { ErrorClass::Bug } else { ErrorClass::Transient };
            CloudError::new(class, format!("{} {url}: {}", call.method, explain(error)))
        };
        let mut request = self.http.inner().request(call.method.clone(), url.clone()).query(&call.query);
        let configured = self.settings.microversion(call.service);
        if let Some(version) = newer(configured.as_deref(), call.microversion) {
            request = with_microversion(request, call.service, version);
        }
        for (name, value) in &call.headers {
            request = request.header(*name, *value);
        }
        if let Some(body) = &call.body {
            request = request.json(body);
        }
        let request = auth.authenticate(self.http.inner(), request).await.map_err(|error| from_osauth(&error))?;
        let request = request.build().map_err(|error| unreachable(&error))?;
        if let Some(value) = request.headers().get("x-auth-token").and_then(|value| value.to_str().ok()) {
            value.clone_into(token);
        }
        let answer = self.http.inner().execute(request).await.map_err(|error| unreachable(&error))?;
        let status = answer.status().as_u16();
        let header = |name: &str| answer.headers().get(name).and_then(|value| value.to_str().ok());
        *wait = header("retry-after").and_then(|value| value.parse().ok()).map(Duration::from_secs);
        let data = answer.bytes().await.map_err(|error| unreachable(&error))?;
        if !(200..300).contains(&status) {
            return Err(CloudError::answered(status, message_of(&data)));
        }
        if data.is_empty() {
            return Ok(Value::Null);
        }
        serde_json::from_slice(&data).map_err(|error| {
            CloudError::new(
                ErrorClass::Transient,
                format!("{} {url} answers {status} without JSON: {error}", call.method),
            )
        })
    }
}

/// A service's address with the version that its catalogue entry may lack.
fn address(mut endpoint: Url, service: Service, path: &str) -> Url {
    let version = match service {
        Service::Network => Some(("v2", "v2.0")),
        Service::Image => Some(("v2", "v2")),
        Service::Compute | Service::Volume => None,
    };
    let mut base = endpoint.path().trim_end_matches('/').to_owned();
    if let Some((prefix, version)) = version
        && !base.rsplit('/').next().is_some_and(|last| last.starts_with(prefix))
    {
        base = format!("{base}/{version}");
    }
    endpoint.set_path(&format!("{base}{path}"));
    endpoint
}

/// The newer of two microversions.
fn newer<'a>(configured: Option<&'a str>, needed: Option<&'a str>) -> Option<&'a str> {
    let number = |version: &str| version.split_once('.').and_then(|(a, b)| Some((a.parse().ok()?, b.parse().ok()?)));
    match (configured, needed) {
        (Some(configured), Some(needed)) => {
            let older = number(configured).zip(number(needed)).is_some_and(|(a, b): ((u32, u32), (u32, u32))| a < b);
            Some(if older { needed } else { configured })
        }
        (configured, needed) => configured.or(needed),
    }
}

/// As `keystoneauth1: session.py _set_microversion_headers` does.
fn with_microversion(request: RequestBuilder, service: Service, version: &str) -> RequestBuilder {
    match service {
        Service::Compute => request
            .header("x-openstack-nova-api-version", version)
            .header("openstack-api-version", format!("compute {version}")),
        Service::Volume => request.header("openstack-api-version", format!("volume {version}")),
        Service::Image | Service::Network => request,
    }
}

/// An error of the HTTP client with its causes: the outermost text alone never says why.
pub(crate) fn explain(error: &reqwest::Error) -> String {
    let mut texts = vec![if error.is_timeout() { "timed out".to_owned() } else { error.to_string() }];
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        let text = error.to_string();
        if texts.last() != Some(&text) {
            texts.push(text);
        }
        cause = error.source();
    }
    texts.join(": ")
}

/// The message in an error's body: `{"forbidden": {"message": …}}`, `{"error": {"message": …}}`, or text.
pub(crate) fn message_of(data: &[u8]) -> String {
    let json: Option<Value> = serde_json::from_slice(data).ok();
    let message = json.as_ref().and_then(Value::as_object).and_then(|map| {
        let inner = map.values().find_map(|value| value.get("message").or_else(|| value.get("detail")));
        inner.or_else(|| map.get("message")).and_then(Value::as_str)
    });
    let text = message.map_or_else(|| String::from_utf8_lossy(data).into_owned(), ToOwned::to_owned);
    let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
    if text.is_empty() { "(no message)".to_owned() } else { text.chars().take(500).collect() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newer_of_the_configured_and_the_needed_microversion_is_sent() {
        for (configured, needed, sent) in [
            (None, None, None),
            (Some("2.93"), Some("2.37"), Some("2.93")),
            (Some("2.9"), Some("2.37"), Some("2.37")),
            (Some("2.60"), None, Some("2.60")),
            (None, Some("2.37"), Some("2.37")),
        ] {
            assert_eq!(newer(configured, needed), sent);
        }
    }

    #[test]
    fn a_catalogue_entry_gets_the_version_it_lacks() {
        for (endpoint, service, expected) in [
            ("http://n:9696", Service::Network, "http://n:9696/v2.0/ports"),
            ("http://n:9696/networking/", Service::Network, "http://n:9696/networking/v2.0/ports"),
            ("http://n:9696/v2.0", Service::Network, "http://n:9696/v2.0/ports"),
            ("http://c:8774/v2.1/abc", Service::Compute, "http://c:8774/v2.1/abc/ports"),
            ("http://g:9292/v2/", Service::Image, "http://g:9292/v2/ports"),
        ] {
            assert_eq!(address(Url::parse(endpoint).unwrap(), service, "/ports").as_str(), expected);
        }
    }

    #[test]
    fn the_message_is_found_in_every_services_errors() {
        for (body, message) in [
            (
                r#"{"forbidden": {"code": 403, "message": "Quota exceeded for instances"}}"#,
                "Quota exceeded for instances",
            ),
            (r#"{"NeutronError": {"type": "OverQuota", "message": "no", "detail": ""}}"#, "no"),
            (r#"{"message": "flat"}"#, "flat"),
            ("<html>\n  gone </html>", "<html> gone </html>"),
            ("", "(no message)"),
        ] {
            assert_eq!(message_of(body.as_bytes()), message);
        }
    }
}
