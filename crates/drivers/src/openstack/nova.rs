//! [`Nova`]: the way into a real OpenStack, for the calls in `calls.rs`.
//!
//! Each attempt has a deadline, each call a time after which no further attempt begins. Reads, deletions and updates
//! are repeated a few times when the cloud is unwell; creations only if the cloud cannot have heard of them (no
//! connection) or has said "later" (429): the answer to anything else may have been lost after the fact, or be a proxy's
//! who has given up waiting for Nova, so the driver looks for the server before it tries again. A refused token is renewed
//! once per call. How a service is, is known to all calls of it ([`super::gate`]).
//!
//! The way into the cloud is opened anew when clouds.yaml changes; whatever was learnt of the cloud's health, being
//! about the old one, is forgotten.

use std::{
    sync::{Arc, PoisonError},
    time::Duration,
};

use backon::{BackoffBuilder, ExponentialBuilder};
use nodepool_common::{config, model::ProviderName};
use reqwest::{Method, Url};
use serde_json::Value;
use tokio::{
    sync::Mutex,
    time::{Instant, sleep},
};

use super::{
    cloud::{CloudError, Named},
    clouds_yaml::CloudSettings,
    config_files::fingerprint,
    gate::Pass,
    http::{Call, PATIENCE, Sent, Session},
    identity::{Meter, Service, Token},
};
use crate::{Context, ErrorClass, files::Fingerprint};

/// Repetitions of a call that failed; one that is told to come back later is repeated as long as its patience lasts.
const RETRIES: usize = 2;
const RETRY_DELAY: Duration = Duration::from_millis(500);
/// Of the harmless call that finds out whether a service is back.
const PROBE_DEADLINE: Duration = Duration::from_secs(10);
/// Pages of a listing; more mean that a service lost its way.
const MOST_PAGES: usize = 1000;

/// How often files are looked at, at most.
const FILE_CHECK_INTERVAL: Duration = Duration::from_secs(1);
/// A file that has not changed for so long is not being written.
const SETTLE: Duration = Duration::from_millis(100);

/// See the module's comment.
#[derive(Debug)]
pub(crate) struct Nova {
    provider: ProviderName,
    cloud: Option<String>,
    region: Option<String>,
    pub(super) rate: Duration,
    context: Context,
    meter: Meter,
    current: Mutex<Option<Current>>,
    /// What the current session was opened with, for those who cannot wait for its lock.
    settings: std::sync::RwLock<Option<CloudSettings>>,
    /// What was last warned of.
    warned: std::sync::Mutex<Vec<String>>,
}

/// The session and when it must be opened anew.
#[derive(Debug)]
struct Current {
    session: Arc<Session>,
    files: Fingerprint,
    looked: Instant,
}

impl Nova {
    pub fn new(provider: ProviderName, config: &config::OpenStack, context: &Context) -> Self {
        Self {
            meter: Meter { provider: provider.clone(), calls: context.calls.clone() },
            provider,
            cloud: config.cloud.clone(),
            region: config.region_name.clone(),
            rate: config.rate,
            context: context.clone(),
            current: Mutex::default(),
            settings: std::sync::RwLock::default(),
            warned: std::sync::Mutex::default(),
        }
    }

    /// What clouds.yaml says of the cloud; `None`: nobody has read it yet.
    pub(super) fn settings(&self) -> Option<CloudSettings> {
        self.settings.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Reads clouds.yaml anew, logs in, and sees that there is a compute service.
    pub(super) async fn open(&self) -> Result<(), CloudError> {
        let session = {
            let mut current = self.current.lock().await;
            Arc::clone(&current.insert(self.read().await?).session)
        };
        session.url(Service::Compute, "").await.map(drop)
    }

    /// The way into the cloud. Once a second the files are looked at that it was opened with: if any has changed and
    /// stands still, a new one takes its place, or, if the files are broken now, a warning says so and the old one stays.
    pub(super) async fn session(&self) -> Result<Arc<Session>, CloudError> {
        let mut current = self.current.lock().await;
        let Some(known) = current.as_mut() else {
            return Ok(Arc::clone(&current.insert(self.read().await?).session));
        };
        if known.looked.elapsed() >= FILE_CHECK_INTERVAL {
            known.looked = Instant::now();
            // Taken before they are read: what changes meanwhile is seen the next time.
            let files = known.session.settings.fingerprint(&self.context);
            if known.files.has_changed() && self.stands_still(&files).await {
                match self.read().await {
                    Ok(new) => {
                        tracing::info!(
                            provider = %self.provider,
                            "{} has changed: cloud {} is used as it says now",
                            new.session.settings.file.display(), new.session.settings.name
                        );
                        *known = new;
                    }
                    Err(error) => {
                        known.files = files;
                        tracing::warn!(
                            provider = %self.provider, %error,
                            "clouds.yaml or one of its companions has changed and cannot be used: the old settings stay \
                             in force"
                        );
                    }
                }
            }
        }
        Ok(Arc::clone(&known.session))
    }

    /// Whether the files are not just being written.
    async fn stands_still(&self, files: &Fingerprint) -> bool {
        sleep(SETTLE).await;
        !files.has_changed()
    }

    /// Counts a call that was made beside [`Self::call`].
    pub(super) fn record(&self, call: &'static str, time: Duration, result: Result<(), &CloudError>) {
        let problem =
            result.err().map(|error| error.status.map_or("connection".to_owned(), |status| status.to_string()));
        self.meter.record(call, time, problem.as_deref());
    }

    /// Tells what is odd in clouds.yaml, once: a cloud that is away is opened again and again.
    fn warn(&self, warnings: &[String]) {
        let mut warned = self.warned.lock().unwrap_or_else(PoisonError::into_inner);
        for warning in warnings.iter().filter(|warning| !warned.contains(warning)) {
            tracing::warn!(provider = %self.provider, "{warning}");
        }
        *warned = warnings.to_vec();
    }

    async fn read(&self) -> Result<Current, CloudError> {
        let files = fingerprint(&self.context, None);
        let settings = CloudSettings::read(self.cloud.as_deref(), self.region.as_deref(), &self.context).await?;
        self.warn(&settings.warnings);
        let named = settings.fingerprint(&self.context);
        let session = Arc::new(Session::new(settings.clone(), &self.context, self.meter.clone())?);
        *self.settings.write().unwrap_or_else(PoisonError::into_inner) = Some(settings);
        // One that has changed while it was read is read again.
        let files = if files.has_changed() { files } else { named };
        Ok(Current { session, files, looked: Instant::now() })
    }

    /// The way into the cloud and its token, waiting for Keystone as a call does.
    pub(super) async fn token(&self) -> Result<(Arc<Session>, Arc<Token>), CloudError> {
        self.token_until(Instant::now() + PATIENCE).await.map_err(marked)
    }

    async fn token_until(&self, until: Instant) -> Result<(Arc<Session>, Arc<Token>), CloudError> {
        loop {
            let session = self.session().await?;
            match session.token().await {
                Ok(token) => return Ok((session, token)),
                Err(error) if error.class == ErrorClass::Transient && Instant::now() < until => {
                    sleep(FILE_CHECK_INTERVAL).await;
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Makes a call as often as is right, and reads its JSON.
    pub(super) async fn call(&self, call: Call<'_>) -> Result<Value, CloudError> {
        self.repeat(call).await.map_err(marked)
    }

    async fn repeat(&self, call: Call<'_>) -> Result<Value, CloudError> {
        let until = Instant::now() + call.patience;
        let repeatable = matches!(call.method, Method::GET | Method::DELETE | Method::PUT);
        let mut delays =
            ExponentialBuilder::default().with_min_delay(RETRY_DELAY).with_max_times(RETRIES).with_jitter().build();
        let mut renewed = false;
        loop {
            // Each time: clouds.yaml may have changed while the call waited.
            let (session, token) = self.token_until(until).await?;
            let gate = session.gate(call.service);
            let Some(pass) = gate.pass(!repeatable, until, FILE_CHECK_INTERVAL).await? else { continue };
            if pass.is_probe && !repeatable {
                // How the service is must not be found out by something that cannot be repeated.
                let mut probe = Call::get("probe", call.service, "/");
                probe.deadline = PROBE_DEADLINE;
                self.send(&session, &probe, &token, pass).await;
                continue;
            }
            let sent = self.send(&session, &call, &token, pass).await;
            let (is_later, was_not_sent) = (sent.is_later(), sent.was_not_sent());
            let mut error = match sent.result {
                Ok(value) => return Ok(value),
                Err(error) => error,
            };
            let refused = error.status == Some(401);
            if refused && !renewed {
                renewed = true;
                session.keystone.refused(&token.value);
                continue;
            }
            if refused {
                // A service may know a new token a moment later only (keys that rotate, caches): it says nothing of ours.
                error.class = ErrorClass::Transient;
                error.message = format!("{}; the token is one that Keystone has just given", error.message);
            }
            let unwell = error.class == ErrorClass::Transient && error.status != Some(409);
            let delay = match (is_later, unwell && (repeatable || was_not_sent || refused)) {
                // The gate knows how long.
                (true, _) => Some(Duration::ZERO),
                (false, true) => delays.next(),
                (false, false) => None,
            };
            let Some(delay) = delay.filter(|_| Instant::now() < until) else { return Err(error) };
            tracing::info!(provider = %self.provider, "API call {} failed, trying again: {error}", call.name);
            sleep(delay).await;
        }
    }

    /// Makes a call once, tells the gate what it says of the service, and counts it.
    async fn send(&self, session: &Session, call: &Call<'_>, token: &Token, pass: Pass<'_>) -> Sent {
        let began = Instant::now();
        let sent = session.send(call, token).await;
        let time = began.elapsed();
        pass.end(sent.health(), sent.result.as_ref().err());
        let problem = sent.problem();
        self.meter.record(call.name, time, problem.as_deref());
        let result = problem.as_deref().unwrap_or("ok");
        tracing::debug!(provider = %self.provider, result, "API call {} in {time:?}", call.name);
        sent
    }

    /// All pages of a listing.
    pub(super) async fn list(
        &self,
        name: &'static str,
        service: Service,
        path: &str,
        key: &str,
        query: &[(&'static str, &str)],
    ) -> Result<Vec<Value>, CloudError> {
        let mut all = Vec::new();
        let mut marker: Option<String> = None;
        for _ in 0..MOST_PAGES {
            let mut call = Call::get(name, service, path);
            for (key, value) in query {
                call = call.query(key, *value);
            }
            if let Some(marker) = &marker {
                call = call.query("marker", marker.clone());
            }
            let mut page = self.call(call).await?;
            let next = next_marker(&page, key);
            // An answer that is none must not pass for "there is nothing": what is not there gets deleted.
            let Some(Value::Array(mut items)) = page.get_mut(key).map(Value::take) else {
                return Err(CloudError::new(ErrorClass::Transient, format!("{name} was answered without {key}")));
            };
            all.append(&mut items);
            if next.is_none() || next == marker {
                return Ok(all);
            }
            marker = next;
        }
        Err(CloudError::new(ErrorClass::Transient, format!("{name} has more than {MOST_PAGES} pages")))
    }

    /// The first of those that [`Self::all_by_name_or_id`] finds.
    pub(super) async fn by_name_or_id(
        &self,
        name: &'static str,
        service: Service,
        path_and_key: (&str, &str),
        name_or_id: &str,
        query: &[(&'static str, &str)],
    ) -> Result<Option<Named>, CloudError> {
        Ok(self.all_by_name_or_id(name, service, path_and_key, name_or_id, query).await?.into_iter().next())
    }

    pub(super) async fn all_by_name_or_id(
        &self,
        name: &'static str,
        service: Service,
        (path, key): (&str, &str),
        name_or_id: &str,
        query: &[(&'static str, &str)],
    ) -> Result<Vec<Named>, CloudError> {
        // Ids are UUIDs almost everywhere, and hardly any name is one.
        let by = if uuid::Uuid::parse_str(name_or_id).is_ok() { ["id", "name"] } else { ["name", "id"] };
        for by in by {
            let query: Vec<_> = query.iter().copied().chain([(by, name_or_id)]).collect();
            let found = self.list(name, service, path, key, &query).await?;
            let found: Vec<Named> = found.iter().filter_map(Named::read).collect();
            if !found.is_empty() {
                return Ok(found);
            }
        }
        Ok(Vec::new())
    }
}

/// An error that is no answer says that the cloud is away.
fn marked(error: CloudError) -> CloudError {
    CloudError { unanswered: error.status.is_none() && error.class == ErrorClass::Transient, ..error }
}

/// From the `<key>_links` of a page, or Glance's `next`. Only its marker is used: the rest of the address may be an
/// internal one, and Glance gives none but the path.
fn next_marker(page: &Value, key: &str) -> Option<String> {
    let links = page.get(format!("{key}_links")).and_then(Value::as_array).into_iter().flatten();
    let mut next = links.filter(|link| link.get("rel").and_then(Value::as_str) == Some("next"));
    let address = next.next().and_then(|link| link.get("href")).or_else(|| page.get("next"))?.as_str()?;
    let (_, query) = address.split_once('?')?;
    Url::parse(&format!("any:?{query}"))
        .ok()?
        .query_pairs()
        .find(|(key, _)| key == "marker")
        .map(|(_, marker)| marker.into_owned())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::{
        ApiCalls,
        openstack::cloud::{Cloud, Flavor},
    };

    #[test]
    fn the_next_page_is_known_by_its_marker_only() {
        let page = json!({"servers": [], "servers_links": [
            {"rel": "next", "href": "http://internal:8774/v2.1/servers/detail?marker=abc&limit=2"}]});
        assert_eq!(next_marker(&page, "servers").as_deref(), Some("abc"));
        assert_eq!(next_marker(&json!({"servers": []}), "servers"), None);
        let page = json!({"images": [], "next": "/v2/images?limit=2&marker=abc"});
        assert_eq!(next_marker(&page, "images").as_deref(), Some("abc"));
    }

    /// On a real cloud, like `tests/openstack_real.rs`.
    async fn real() -> Option<Nova> {
        let Ok(path) = std::env::var("NODEPOOL_TEST_CLOUDS_YAML") else {
            eprintln!("skipped: NODEPOOL_TEST_CLOUDS_YAML does not name the clouds.yaml of a test cloud");
            return None;
        };
        let nova = Nova {
            provider: "test".into(),
            cloud: Some("npcloud".to_owned()),
            region: None,
            rate: Duration::ZERO,
            context: Context::default().with_variable("OS_CLIENT_CONFIG_FILE", path),
            meter: Meter { provider: "test".into(), calls: ApiCalls::default() },
            current: Mutex::default(),
            settings: std::sync::RwLock::default(),
            warned: std::sync::Mutex::default(),
        };
        nova.start().await.unwrap();
        Some(nova)
    }

    #[tokio::test]
    async fn a_token_that_the_cloud_does_not_know_is_renewed() {
        let Some(nova) = real().await else { return };
        let session = nova.session().await.unwrap();
        session.keystone.spoil_token();
        nova.compute_limits().await.unwrap();
        let calls = nova.meter.calls.snapshot();
        let call = calls[&("test".into(), "get_compute_limits")];
        assert_eq!((call.count, call.failed), (2, 1));
    }

    #[tokio::test]
    async fn all_pages_of_a_listing_are_read() {
        let Some(nova) = real().await else { return };
        let all = nova.list_flavors().await.unwrap();
        let query = [("limit", "2")];
        let paged = nova.list("paged", Service::Compute, "/flavors/detail", "flavors", &query).await.unwrap();
        assert_eq!(paged.iter().filter_map(Flavor::read).collect::<Vec<_>>(), all);
        let calls = nova.meter.calls.snapshot();
        assert!(calls[&("test".into(), "paged")].count >= 3);
    }
}
