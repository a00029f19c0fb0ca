//! [`Session`]: one call of one service, once.
//!
//! Endpoints are taken from the catalogue as they stand there, without asking each service for its versions: two calls
//! less per service, and no dependence on discovery documents that name internal addresses.

use std::{sync::Arc, time::Duration};

use osauth::{EndpointFilters, client::AuthenticatedClient};
use reqwest::{Method, Url};
use serde_json::Value;

use super::{
    cloud::CloudError,
    identity::{Keystone, Service, from_osauth},
};
use crate::ErrorClass;

const DEADLINE: Duration = Duration::from_secs(30);

#[derive(Debug)]
pub(super) struct Session {
    pub http: AuthenticatedClient,
    pub keystone: Arc<Keystone>,
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
        let endpoint = auth.get_endpoint(self.http.inner(), call.service.name(), &EndpointFilters::default()).await;
        let url = address(endpoint.map_err(|error| from_osauth(&error))?, call.service, &call.path);
        let unreachable = |error: &reqwest::Error| {
            let class = if error.is_builder() { ErrorClass::Bug } else { ErrorClass::Transient };
            CloudError::new(class, format!("{} {url}: {}", call.method, explain(error)))
        };
        let mut request = self.http.inner().request(call.method.clone(), url.clone()).query(&call.query);
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
