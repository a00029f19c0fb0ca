//! [`Nova`]: the way into a real OpenStack, for the calls in `calls.rs`.
//!
//! Every call has a deadline; reads and deletions are repeated a few times when the cloud is unwell, creations never (the
//! answer may have been lost after the fact). A refused token is renewed once per call. A service that says "later"
//! (429, `Retry-After`) is obeyed up to a bound.

use std::{
    sync::{Arc, PoisonError},
    time::{Duration, Instant},
};

use backon::{BackoffBuilder, ExponentialBuilder};
use nodepool_common::{config, model::ProviderName};
use reqwest::{Method, Url};
use serde_json::Value;
use tokio::{sync::Mutex, time::sleep};

use super::{
    cloud::{CloudError, Named},
    clouds_yaml::CloudSettings,
    config_files::Fingerprint,
    http::{Call, Session},
    identity::Service,
};
use crate::{ApiCalls, Context, ErrorClass};

/// Repetitions of a read or a deletion.
const RETRIES: usize = 2;
const RETRY_DELAY: Duration = Duration::from_millis(500);
/// A longer `Retry-After` is not waited for.
const LONGEST_WAIT: Duration = Duration::from_secs(30);
/// Pages of a listing; more mean that a service lost its way.
const MOST_PAGES: usize = 1000;

/// How often files are looked at, at most.
const FILE_CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// See the module's comment.
#[derive(Debug)]
pub(crate) struct Nova {
    provider: ProviderName,
    cloud: Option<String>,
    region: Option<String>,
    pub(super) rate: Duration,
    context: Context,
    calls: ApiCalls,
    current: Mutex<Option<Current>>,
    /// What the current session was opened with, for those who cannot wait for its lock.
    settings: std::sync::RwLock<Option<CloudSettings>>,
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
            provider,
            cloud: config.cloud.clone(),
            region: config.region_name.clone(),
            rate: config.rate,
            calls: context.calls.clone(),
            context: context.clone(),
            current: Mutex::default(),
            settings: std::sync::RwLock::default(),
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

    /// The way into the cloud. Once a second the files are looked at that it was opened with: if any has changed, a new
    /// one takes its place, or, if the files are broken now, a warning says so and the old one stays.
    pub(super) async fn session(&self) -> Result<Arc<Session>, CloudError> {
        let mut current = self.current.lock().await;
        let Some(known) = current.as_mut() else {
            return Ok(Arc::clone(&current.insert(self.read().await?).session));
        };
        if known.looked.elapsed() >= FILE_CHECK_INTERVAL {
            known.looked = Instant::now();
            if known.files.has_changed() {
                // Taken before they are read: what changes meanwhile is seen the next time.
                let files = known.session.settings.fingerprint(&self.context);
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

    /// Counts a call.
    pub(super) fn record(&self, call: &'static str, time: Duration, failed: bool) {
        self.calls.record(&self.provider, call, time, failed);
    }

    async fn read(&self) -> Result<Current, CloudError> {
        let files = Fingerprint::take(&self.context, None);
        let settings = CloudSettings::find(self.cloud.as_deref(), self.region.as_deref(), &self.context)?;
        let named = settings.fingerprint(&self.context);
        let session = Arc::new(Session::new(settings.clone(), &self.context).await?);
        *self.settings.write().unwrap_or_else(PoisonError::into_inner) = Some(settings);
        // One that has changed while it was read is read again.
        let files = if files.has_changed() { files } else { named };
        Ok(Current { session, files, looked: Instant::now() })
    }

    /// Makes a call as often as is right, and reads its JSON.
    pub(super) async fn call(&self, call: Call<'_>) -> Result<Value, CloudError> {
        let session = self.session().await?;
        let repeatable = matches!(call.method, Method::GET | Method::DELETE);
        let mut delays =
            ExponentialBuilder::default().with_min_delay(RETRY_DELAY).with_max_times(RETRIES).with_jitter().build();
        let mut renewed = false;
        loop {
            let began = Instant::now();
            let (result, wait, token) = session.send(&call).await;
            let time = began.elapsed();
            self.record(call.name, time, result.is_err());
            tracing::debug!(provider = %self.provider, ok = result.is_ok(), "API call {} in {time:?}", call.name);
            let mut error = match result {
                Ok(value) => return Ok(value),
                Err(error) => error,
            };
            error.unanswered = error.status.is_none() && error.class == ErrorClass::Transient;
            if error.status == Some(401) && !renewed {
                renewed = true;
                session.keystone.refused(&token).await;
                continue;
            }
            // What is "later" was not done, so it may be asked for again whatever it is.
            let later = error.status == Some(429);
            let unwell = error.class == ErrorClass::Transient && error.status != Some(409);
            let delay = if later || (repeatable && unwell) { delays.next() } else { None };
            let Some(delay) = delay else { return Err(error) };
            let delay = wait.map_or(delay, |wait| wait.min(LONGEST_WAIT));
            tracing::info!(
                provider = %self.provider, %error,
                "API call {} failed, trying again in {} ms", call.name, delay.as_millis()
            );
            sleep(delay).await;
        }
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
            if let Some(Value::Array(mut items)) = page.get_mut(key).map(Value::take) {
                all.append(&mut items);
            }
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
    use crate::openstack::cloud::{Cloud, Flavor};

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
            calls: ApiCalls::default(),
            current: Mutex::default(),
            settings: std::sync::RwLock::default(),
        };
        nova.start().await.unwrap();
        Some(nova)
    }

    #[tokio::test]
    async fn a_token_that_the_cloud_does_not_know_is_renewed() {
        let Some(nova) = real().await else { return };
        let session = nova.session().await.unwrap();
        session.keystone.spoil_token().await;
        nova.compute_limits().await.unwrap();
        let calls = nova.calls.snapshot();
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
        let calls = nova.calls.snapshot();
        assert!(calls[&("test".into(), "paged")].count >= 3);
    }
}
