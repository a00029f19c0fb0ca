//! [`Session`]: one call of one service, once.

use std::{
    sync::{Arc, atomic::AtomicBool},
    time::Duration,
};

use chrono::{DateTime, Utc};
use nodepool_common::sys::clock::Clock;
use reqwest::{Method, RequestBuilder, Url, header::HeaderMap};
use serde_json::Value;
use tokio::time::Instant;

use super::{
    catalog::address,
    gate::{Gate, Health},
    identity::{Keystone, Token},
    messages::{explain, message_of},
    meter::Meter,
    redirects::{Http, SendError},
    sdk_metrics,
    service::Service,
    settings::CloudSettings,
    tls::client,
};
use crate::{
    Context, ErrorClass,
    openstack::api::{CloudError, speaks_of_quota},
};

/// Of one attempt, unless clouds.yaml has an `api_timeout`.
pub(super) const DEADLINE: Duration = Duration::from_secs(30);
/// How long a call may wait for its turn, or for the service to come back, before it is not attempted any more.
pub(super) const PATIENCE: Duration = Duration::from_secs(60);

/// A way into the cloud.
#[derive(Debug)]
pub(super) struct Session {
    pub http: Http,
    pub keystone: Keystone,
    pub settings: CloudSettings,
    meter: Meter,
    clock: Clock,
    /// Whether Neutron takes no descriptions of floating IPs.
    pub refuses_descriptions: AtomicBool,
    gates: [Gate; Service::ALL.len()],
}

/// What came of an attempt.
#[derive(Debug)]
pub(super) struct Sent<T> {
    pub result: Result<T, CloudError>,
    end: End,
    /// What the service says of when to come back.
    retry_after: Option<Duration>,
}

/// How an attempt ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// With that HTTP status.
    Answered(u16),
    TimedOut,
    /// Without a connection: the service knows nothing of it.
    NotSent,
    /// Somewhere between: it may have been carried out.
    Broken,
}

impl<T> Sent<T> {
    /// For metrics: `None` if all is well.
    pub fn problem(&self) -> Option<String> {
        self.result.is_err().then(|| match self.end {
            End::Answered(status) if status >= 300 => status.to_string(),
            End::TimedOut => "timeout".to_owned(),
            End::NotSent => "connection".to_owned(),
            End::Answered(_) | End::Broken => "broken".to_owned(),
        })
    }

    /// What it says of the service.
    pub fn health(&self) -> Health {
        match self.end {
            _ if self.is_later() => Health::Later(self.retry_after),
            End::Answered(502..=504) | End::TimedOut | End::NotSent | End::Broken => Health::Fails(self.retry_after),
            End::Answered(500..) => Health::Unclear,
            End::Answered(_) => Health::Answers,
        }
    }

    /// Whether the service has said "later": it was not done, and may be asked for again whatever it is.
    pub fn is_later(&self) -> bool {
        // Nova once said 413 for a quota, too, with `Retry-After: 0`.
        let is_quota = || self.result.as_ref().is_err_and(|error| speaks_of_quota(&error.message));
        match self.end {
            End::Answered(429) => true,
            End::Answered(413) => self.retry_after.is_some() && !is_quota(),
            _ => false,
        }
    }

    /// Whether its deadline passed.
    pub fn timed_out(&self) -> bool {
        self.end == End::TimedOut
    }

    /// Whether the service cannot have heard of it.
    pub fn was_not_sent(&self) -> bool {
        self.end == End::NotSent
    }
}

/// One call.
pub(super) struct Call {
    /// Upstream's word for it in logs.
    pub name: &'static str,
    pub method: Method,
    pub service: Service,
    /// Appended to the endpoint.
    pub path: String,
    pub query: Vec<(String, String)>,
    pub body: Option<Value>,
    /// Of what it is about: the `driver_data` of its record. No call is made where the settings lead to another project or
    /// region.
    pub made_in: Option<Value>,
    pub headers: Vec<(&'static str, &'static str)>,
    /// The first microversion that has what the call asks for.
    pub microversion: Option<&'static str>,
    /// Whether it reads a page of a listing, which has a deadline of its own ([`super::page_deadlines`]).
    pub is_page: bool,
    /// Of one attempt.
    pub deadline: Duration,
    /// When no further attempt is made.
    pub patience: Duration,
}

impl Call {
    pub fn new(name: &'static str, method: Method, service: Service, path: impl Into<String>) -> Self {
        Self {
            name,
            method,
            service,
            path: path.into(),
            query: Vec::new(),
            body: None,
            made_in: None,
            headers: Vec::new(),
            microversion: None,
            is_page: false,
            deadline: DEADLINE,
            patience: PATIENCE,
        }
    }

    pub fn get(name: &'static str, service: Service, path: impl Into<String>) -> Self {
        Self::new(name, Method::GET, service, path)
    }
}

impl Session {
    /// Of the cloud with these settings. Nothing is asked of it yet.
    pub fn new(settings: CloudSettings, context: &Context, meter: Meter) -> Result<Self, CloudError> {
        let http = Http::new(client(&settings, context)?);
        let keystone = Keystone::new(&settings, meter.clone(), context.ambient.clock.clone())?;
        let gates = Service::ALL.map(|service| Gate::new(settings.rate_limit(service), settings.concurrency(service)));
        let (clock, refuses_descriptions) = (context.ambient.clock.clone(), AtomicBool::new(false));
        Ok(Self { http, keystone, settings, meter, clock, refuses_descriptions, gates })
    }

    /// What all calls of the service pass.
    pub fn gate(&self, service: Service) -> &Gate {
        &self.gates[service as usize]
    }

    /// The token for a call, a new one if there is none that lasts.
    pub async fn token(&self) -> Result<Arc<Token>, CloudError> {
        self.keystone.token(&self.http).await
    }

    /// Where a path of a service is.
    pub async fn url(&self, service: Service, path: &str) -> Result<Url, CloudError> {
        Ok(address(self.keystone.endpoint(&*self.token().await?, service)?, service, path))
    }

    /// Makes a call once; `read` reads the answer's body.
    pub async fn send<T>(&self, call: &Call, token: &Token, read: &Read<'_, T>) -> Sent<T> {
        let deadline = self.settings.api_timeout().unwrap_or(call.deadline);
        let url = match self.keystone.endpoint(token, call.service) {
            Ok(endpoint) => address(endpoint, call.service, &call.path),
            Err(error) => return Sent { result: Err(error), end: End::Answered(404), retry_after: None },
        };
        let host = url.host_str().unwrap_or_default();
        let host = url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"));
        let place = format!("{}, {} API at {host}", call.name, call.service.name());
        let began = Instant::now();
        let attempt = tokio::time::timeout(deadline, self.attempt(call, token, read, &url, &place));
        let sent = attempt.await.unwrap_or_else(|_| {
            let message = format!("no answer within {} s ({place})", deadline.as_secs_f64());
            Sent { result: Err(CloudError::new(ErrorClass::Transient, message)), end: End::TimedOut, retry_after: None }
        });
        let (status, path) = match sent.end {
            End::Answered(status) => (Some(status), url.path()),
            _ => (None, &*call.path),
        };
        self.count(call.service, &call.method, path, token, status, began.elapsed());
        sent
    }

    /// Counts a call as openstacksdk does; `status`: `None` if there was no answer.
    pub fn count(
        &self,
        service: Service,
        method: &Method,
        path: &str,
        token: &Token,
        status: Option<u16>,
        time: Duration,
    ) {
        let statsd = &self.settings.statsd;
        if statsd.server.is_some() || self.meter.calls.has_statsd() {
            let name = sdk_metrics::name(&statsd.prefix, service, method, path, token.project.as_deref());
            self.meter.calls.record_as_sdk(statsd.server.as_ref(), &name, status, time);
        }
    }

    async fn attempt<T>(&self, call: &Call, token: &Token, read: &Read<'_, T>, url: &Url, place: &str) -> Sent<T> {
        let failed = |class, message: String, end| Sent {
            result: Err(CloudError::new(class, format!("{message} ({place})"))),
            end,
            retry_after: None,
        };
        let lost = |error: &reqwest::Error| match error {
            error if error.is_builder() => failed(ErrorClass::Bug, explain(error), End::NotSent),
            error if error.is_connect() => failed(
                ErrorClass::Transient,
                format!("cannot connect to {url}: {}; the cloud or the way to it is down", explain(error)),
                End::NotSent,
            ),
            error => failed(ErrorClass::Transient, format!("the connection broke: {}", explain(error)), End::Broken),
        };
        let mut request = self.http.request(call.method.clone(), url.clone()).query(&call.query);
        request = request.header("x-auth-token", &token.value);
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
        let answer = match self.http.send(request).await {
            Ok(answer) => answer,
            Err(SendError::Broken(error)) => return lost(&error),
            Err(SendError::Redirect(status, message)) => {
                return failed(ErrorClass::Config, message, End::Answered(status));
            }
        };
        let status = answer.status().as_u16();
        let retry_after = retry_after(answer.headers(), self.clock.date());
        let data = match answer.bytes().await {
            Ok(data) => data,
            Err(error) => return lost(&error),
        };
        let answered = |result| Sent { result, end: End::Answered(status), retry_after };
        if !(200..300).contains(&status) {
            let mut error = CloudError::answered(status, message_of(&data));
            error.message = format!("{} ({place})", error.message);
            let mut sent = answered(Err(error));
            if status == 413 && sent.is_later() {
                sent.result = sent.result.map_err(|error| CloudError { class: ErrorClass::Transient, ..error });
            }
            return sent;
        }
        answered(read(&data).map_err(|error| {
            let message = format!("it answers {status} without JSON that can be used: {error} ({place})");
            CloudError::new(ErrorClass::Transient, message)
        }))
    }
}

/// Reads the body of an answer.
pub(super) type Read<'a, T> = dyn Fn(&[u8]) -> serde_json::Result<T> + Sync + 'a;

/// Any JSON; null, where the answer has no body.
pub(super) fn any_json(data: &[u8]) -> serde_json::Result<Value> {
    if data.is_empty() { Ok(Value::Null) } else { serde_json::from_slice(data) }
}

/// `Retry-After`, in seconds or as a date, which is compared with the answer's own: clocks differ.
fn retry_after(headers: &HeaderMap, now: DateTime<Utc>) -> Option<Duration> {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).map(str::trim);
    let after = text("retry-after")?;
    if let Ok(seconds) = after.parse::<f64>() {
        return Duration::try_from_secs_f64(seconds.max(0.0)).ok();
    }
    let date = |text: &str| DateTime::parse_from_rfc2822(text).ok().map(|date| date.to_utc());
    let now = text("date").and_then(date).unwrap_or(now);
    Some((date(after)? - now).to_std().unwrap_or_default())
}

/// The newer of two microversions.
fn newer<'a>(configured: Option<&'a str>, needed: Option<&'a str>) -> Option<&'a str> {
    match (configured, needed) {
        (Some(configured), Some(needed)) => Some(if is_older(configured, needed) { needed } else { configured }),
        (configured, needed) => configured.or(needed),
    }
}

/// Whether a microversion is older than another; `latest` is not.
pub(super) fn is_older(version: &str, than: &str) -> bool {
    let number = |version: &str| version.split_once('.').and_then(|(a, b)| Some((a.parse().ok()?, b.parse().ok()?)));
    number(version).zip(number(than)).is_some_and(|(a, b): ((u32, u32), (u32, u32))| a < b)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retry_after_is_read_as_seconds_and_as_a_date_by_the_servers_clock() {
        let now = "2026-11-24T12:00:00Z".parse().unwrap();
        for (after, date, wait) in [
            ("7", None, Some(7)),
            (" 0 ", None, Some(0)),
            ("Tue, 24 Nov 2026 12:00:09 GMT", None, Some(9)),
            ("Tue, 24 Nov 2026 12:30:09 GMT", Some("Tue, 24 Nov 2026 12:30:00 GMT"), Some(9)),
            ("Tue, 24 Nov 2026 11:00:00 GMT", None, Some(0)),
            ("soon", None, None),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert("retry-after", after.parse().unwrap());
            date.map(|date| headers.insert("date", date.parse().unwrap()));
            assert_eq!(retry_after(&headers, now), wait.map(Duration::from_secs), "{after}");
        }
    }

    #[test]
    fn later_is_429_and_413_that_is_no_quota() {
        let sent = |status, message: &str, wait: Option<u64>| Sent::<Value> {
            result: Err(CloudError::answered(status, message)),
            end: End::Answered(status),
            retry_after: wait.map(Duration::from_secs),
        };
        assert_eq!(sent(429, "Too Many", None).health(), Health::Later(None));
        assert_eq!(sent(413, "Slow down", Some(3)).health(), Health::Later(Some(Duration::from_secs(3))));
        assert_eq!(sent(413, "Quota exceeded", Some(0)).health(), Health::Answers);
        assert_eq!(sent(413, "Body too large", None).health(), Health::Answers);
        assert_eq!(sent(503, "", Some(3)).health(), Health::Fails(Some(Duration::from_secs(3))));
        assert!(!sent(503, "", Some(3)).is_later(), "it may have been done: a proxy may say it");
        assert_eq!(sent(500, "", None).health(), Health::Unclear);
        assert_eq!(sent(404, "", None).health(), Health::Answers);
        assert_eq!(sent(503, "", None).problem().as_deref(), Some("503"));
    }

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
}
