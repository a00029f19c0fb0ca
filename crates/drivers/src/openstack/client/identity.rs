//! [`Keystone`]: a token and the catalogue (Identity v3 `POST /auth/tokens`).
//!
//! A token is renewed before it ends, and on demand where a service has refused it although it has not (revoked, Fernet
//! keys lost): once for all who found the same token refused.

use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use chrono::{DateTime, Utc};
use nodepool_common::sys::clock::Clock;
use reqwest::{Method, Url};
use serde_json::Value;
use tokio::time::{Instant, timeout};

use super::{
    auth::{Login, request},
    catalog,
    messages::message_of,
    meter::Meter,
    redirects::{Http, SendError},
    service::Service,
    settings::CloudSettings,
};
use crate::{ErrorClass, openstack::api::CloudError};

/// Whole answer included.
const DEADLINE: Duration = Duration::from_secs(30);
/// Of an attempt to renew a token that is still good.
const RENEWAL_DEADLINE: Duration = Duration::from_secs(5);
/// Before Keystone is asked again when it was away, at first and at most.
const AWAY_AGAIN: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(10));
/// The same when it refused the credentials; other ones, from a changed file, are tried at once.
const REFUSED_AGAIN: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(60));
/// A token with less left is renewed, or with less than a fifth of its life.
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
    /// What may be missing in the settings if Keystone refuses the body.
    hint: Option<&'static str>,
    settings: CloudSettings,
    /// For tokens that do not say when they were issued.
    clock: Clock,
    token: Mutex<Option<Arc<Token>>>,
    /// The last attempt to log in, if it failed. Locked by whoever makes the next one.
    failed: tokio::sync::Mutex<Option<Failed>>,
    meter: Meter,
}

/// An attempt to log in that failed.
#[derive(Debug)]
struct Failed {
    error: CloudError,
    pause: Duration,
    next: Instant,
}

/// What Keystone gives.
pub(crate) struct Token {
    pub value: String,
    pub project: Option<String>,
    /// By our clock, and how long it is good by Keystone's: clocks differ.
    issued: Instant,
    lifetime: Duration,
    catalog: Value,
}

impl Token {
    /// Whether its time is over.
    pub fn is_over(&self) -> bool {
        self.left().is_zero()
    }

    /// How long the cloud lets its tokens live.
    pub fn lifetime(&self) -> Duration {
        self.lifetime
    }

    /// How long it is good.
    fn left(&self) -> Duration {
        self.lifetime.saturating_sub(self.issued.elapsed())
    }

    /// Whether it is good for so long, or another would hardly be good for longer.
    fn lasts(&self, least: Duration) -> bool {
        let left = self.left();
        left > least || left + self.margin() >= self.lifetime
    }

    /// With so much left it is renewed: early enough for the calls that have it.
    fn margin(&self) -> Duration {
        MARGIN.min(self.lifetime / 5)
    }
}

/// Neither has anything to show that is no secret.
impl fmt::Debug for Keystone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keystone").field("cloud", &self.cloud).field("url", &self.url.as_str()).finish_non_exhaustive()
    }
}

fn config_error(message: String) -> CloudError {
    CloudError::new(ErrorClass::Config, message)
}

impl Keystone {
    pub fn new(settings: &CloudSettings, meter: Meter, clock: Clock) -> Result<Self, CloudError> {
        let Login { body, who, hint } = request(settings)?;
        let place = format!("cloud {} in {}", settings.name, settings.file.display());
        let parse = |key: &str, text: &str| {
            Url::parse(text).map_err(|error| config_error(format!("{key} {text:?} of {place} is no URL: {error}")))
        };
        let auth_url = settings.credentials.get("auth_url").map(|url| settings.expanded(url)).ok_or_else(|| {
            let profile = settings.unknown_profile.as_ref().map(|text| format!(": {text}")).unwrap_or_default();
            config_error(format!("{place} has no auth_url{profile}"))
        })?;
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
            hint,
            settings: settings.clone(),
            clock,
            token: Mutex::default(),
            failed: tokio::sync::Mutex::default(),
            meter,
        })
    }

    /// The token, a new one if there is none that lasts. While Keystone is away, the old one is good to its end.
    pub async fn token(&self, client: &Http) -> Result<Arc<Token>, CloudError> {
        let known = self.known();
        if let Some(token) = known.as_ref().filter(|token| token.left() > token.margin()) {
            return Ok(Arc::clone(token));
        }
        if let Some(usable) = known.filter(|token| !token.is_over()) {
            // One renews it, and not for long; the others go on.
            let Ok(mut failed) = self.failed.try_lock() else { return Ok(usable) };
            return Ok(self.renew(client, &mut failed, RENEWAL_DEADLINE).await.unwrap_or(usable));
        }
        let mut failed = self.failed.lock().await;
        if let Some(token) = self.known().filter(|token| !token.is_over()) {
            return Ok(token);
        }
        self.renew(client, &mut failed, self.settings.api_timeout().unwrap_or(DEADLINE)).await
    }

    /// The token, a new one if the one there is has less left than that, for a call that takes long. Where tokens live
    /// no longer than that, one that is almost new will do.
    pub async fn token_lasting(&self, client: &Http, least: Duration) -> Result<Arc<Token>, CloudError> {
        if let Some(token) = self.known().filter(|token| token.lasts(least)) {
            return Ok(token);
        }
        let mut failed = self.failed.lock().await;
        if let Some(token) = self.known().filter(|token| token.lasts(least)) {
            return Ok(token);
        }
        self.renew(client, &mut failed, self.settings.api_timeout().unwrap_or(DEADLINE)).await
    }

    fn known(&self) -> Option<Arc<Token>> {
        self.token.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Logs in, or says why that failed a moment ago: Keystone is not asked by each call that wants a token, and one
    /// that refuses a password may lock its user out.
    async fn renew(
        &self,
        client: &Http,
        failed: &mut Option<Failed>,
        deadline: Duration,
    ) -> Result<Arc<Token>, CloudError> {
        if let Some(failed) = failed.as_ref().filter(|failed| failed.next > Instant::now()) {
            return Err(failed.error.clone());
        }
        let began = Instant::now();
        let answer = timeout(deadline, self.log_in(client)).await.unwrap_or_else(|_| {
            let message = format!(
                "Keystone at {} (auth_url of cloud {}) does not answer within {} s",
                self.url,
                self.cloud,
                deadline.as_secs_f64()
            );
            Err((CloudError::new(ErrorClass::Transient, message), "timeout".to_owned()))
        });
        let problem = answer.as_ref().err().map(|(_, problem)| problem.as_str());
        self.meter.record("authenticate", began.elapsed(), problem);
        match answer {
            Ok(token) => {
                if let Some(failed) = failed.take() {
                    tracing::info!("Keystone at {} gives tokens again; before: {}", self.url, failed.error);
                }
                let token = Arc::new(token);
                *self.token.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::clone(&token));
                Ok(token)
            }
            Err((error, _)) => {
                let (first, last) = if error.class == ErrorClass::Config { REFUSED_AGAIN } else { AWAY_AGAIN };
                let pause = failed.as_ref().map_or(first, |failed| (failed.pause * 2).clamp(first, last));
                *failed = Some(Failed { error: error.clone(), pause, next: Instant::now() + pause });
                Err(error)
            }
        }
    }

    /// Forgets a token that the cloud has refused, unless somebody has renewed it already.
    pub fn refused(&self, token: &str) {
        let mut current = self.token.lock().unwrap_or_else(PoisonError::into_inner);
        if current.as_ref().is_some_and(|current| current.value == token) {
            *current = None;
        }
    }

    /// Puts a token that no cloud knows in the place of the good one.
    #[cfg(test)]
    pub fn spoil_token(&self) {
        let mut current = self.token.lock().unwrap();
        let token = current.take().unwrap();
        *current = Some(Arc::new(Token {
            value: "spoilt".to_owned(),
            project: token.project.clone(),
            issued: token.issued,
            lifetime: token.lifetime,
            catalog: token.catalog.clone(),
        }));
    }

    /// An error comes with its word for metrics.
    async fn log_in(&self, client: &Http) -> Result<Token, (CloudError, String)> {
        let unreachable = |error: SendError| {
            let class = if error.is_redirect() { ErrorClass::Config } else { ErrorClass::Transient };
            let message = format!("cannot reach Keystone at {} (auth_url of cloud {}): {error}", self.url, self.cloud);
            (CloudError::new(class, message), "connection".to_owned())
        };
        let asked = Instant::now();
        let request = client.request(Method::POST, self.url.clone()).json(&self.body);
        let answer = client.send(request).await.map_err(unreachable)?;
        let status = answer.status().as_u16();
        let value = answer.headers().get("x-subject-token").and_then(|value| value.to_str().ok());
        let value = value.map(ToOwned::to_owned);
        let data = answer.bytes().await.map_err(|error| unreachable(error.into()))?;
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
                _ => {
                    let hint = self.hint.filter(|_| status == 400);
                    let hint = hint.map(|hint| format!("; {hint} (cloud {} in {})", self.cloud, self.file));
                    let message = format!("{message}{}", hint.unwrap_or_default());
                    CloudError::answered(status, format!("Keystone at {} answers {status} {message}", self.url))
                }
            };
            if (400..500).contains(&status) && !matches!(status, 408 | 429) {
                error.class = ErrorClass::Config;
            }
            error.status = None;
            return Err((error, status.to_string()));
        }
        let malformed = |what: &str| {
            let message = format!("Keystone at {} answers {status} {what}", self.url);
            (CloudError::new(ErrorClass::Transient, message), "broken".to_owned())
        };
        let body: Value = serde_json::from_slice(&data).map_err(|_| malformed("without JSON"))?;
        let token = body.get("token").ok_or_else(|| malformed("without a token"))?;
        let time = |key: &str| -> Option<DateTime<Utc>> { token.get(key)?.as_str()?.parse().ok() };
        let expires = time("expires_at").ok_or_else(|| malformed("without expires_at"))?;
        let project = token.pointer("/project/id").and_then(Value::as_str).map(ToOwned::to_owned);
        let catalog = token.get("catalog").cloned().unwrap_or_default();
        if project.is_none() {
            self.check_unscoped(&catalog)?;
        }
        Ok(Token {
            value: value.ok_or_else(|| malformed("without X-Subject-Token"))?,
            project,
            issued: asked,
            lifetime: (expires - time("issued_at").unwrap_or_else(|| self.clock.date())).to_std().unwrap_or_default(),
            catalog,
        })
    }

    /// Of a token without a project: most services do nothing with it, and Keystone leaves the catalogue away.
    fn check_unscoped(&self, catalog: &Value) -> Result<(), (CloudError, String)> {
        let why = if self.body.pointer("/auth/scope").is_some() {
            "its auth asks for another scope than a project"
        } else {
            "its auth names no project, and Keystone knows no default project of that user"
        };
        let message = format!(
            "the token of cloud {} ({}) is for no project: {why}; add project_name and its domain, or project_id, to its \
             auth in {}",
            self.cloud, self.who, self.file
        );
        if catalog.as_array().is_some_and(|catalog| !catalog.is_empty()) {
            tracing::warn!("{message}");
            return Ok(());
        }
        Err((config_error(message), "no_project".to_owned()))
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
        catalog::find(&token.catalog, &self.settings, service, token.project.as_deref())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_token_that_is_almost_new_will_do_where_tokens_live_no_longer_than_is_asked_for() {
        let hour = Duration::from_secs(3600);
        let token = |lifetime| Token {
            value: "t".to_owned(),
            project: None,
            issued: Instant::now(),
            lifetime,
            catalog: Value::Null,
        };
        let (short, long) = (token(hour), token(hour * 24));
        assert!(short.lasts(hour) && long.lasts(hour), "another would be good for no longer");
        tokio::time::advance(Duration::from_secs(299)).await;
        assert!(short.lasts(hour));
        tokio::time::advance(Duration::from_secs(2)).await;
        assert!(!short.lasts(hour), "another would be good for five minutes more");
        tokio::time::advance(hour * 22).await;
        assert!(long.lasts(hour));
        tokio::time::advance(hour).await;
        assert!(!long.lasts(hour));
    }
}
