//! [`Nova`]: the way into a real OpenStack, for the calls in `calls.rs`.
//!
//! Every call has a deadline; reads and deletions are repeated a few times when the cloud is unwell, creations never (the
//! answer may have been lost after the fact). A refused token is renewed once per call. A service that says "later"
//! (429, `Retry-After`) is obeyed up to a bound.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use backon::{BackoffBuilder, ExponentialBuilder};
use nodepool_common::{config, model::ProviderName};
use osauth::{EndpointFilters, client::AuthenticatedClient};
use reqwest::{Method, Url};
use serde_json::Value;
use tokio::{sync::RwLock, time::sleep};

use super::{
    addresses::Addressing,
    cloud::{CloudError, Named},
    clouds_yaml::CloudSettings,
    http::{Call, Session},
    identity::{Keystone, Login, Service, from_osauth},
    tls::client,
};
use crate::{ApiCalls, Context, ErrorClass};

/// Repetitions of a read or a deletion.
const RETRIES: usize = 2;
const RETRY_DELAY: Duration = Duration::from_millis(500);
/// A longer `Retry-After` is not waited for.
const LONGEST_WAIT: Duration = Duration::from_secs(30);
/// Pages of a listing; more mean that a service lost its way.
const MOST_PAGES: usize = 1000;

/// See the module's comment.
#[derive(Debug)]
pub(crate) struct Nova {
    provider: ProviderName,
    cloud: Option<String>,
    region: Option<String>,
    pub(super) rate: Duration,
    context: Context,
    calls: ApiCalls,
    pub(super) session: RwLock<Option<Arc<Session>>>,
    /// Beside the session for those who cannot wait for its lock.
    pub(super) known: std::sync::OnceLock<(String, Addressing)>,
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
            session: RwLock::default(),
            known: std::sync::OnceLock::new(),
        }
    }

    pub(super) async fn session(&self) -> Result<Arc<Session>, CloudError> {
        if let Some(session) = self.session.read().await.as_ref() {
            return Ok(Arc::clone(session));
        }
        let mut current = self.session.write().await;
        if let Some(session) = current.as_ref() {
            return Ok(Arc::clone(session));
        }
        let (session, addressing, name) = self.log_in().await?;
        // A later start reads the file anew, but what was told of it once stays for those who asked.
        let _ = self.known.set((name, addressing));
        Ok(Arc::clone(current.insert(Arc::new(session))))
    }

    /// What clouds.yaml says of the cloud now.
    pub(super) fn settings(&self) -> Result<CloudSettings, CloudError> {
        CloudSettings::find(self.cloud.as_deref(), self.region.as_deref(), &self.context)
    }

    /// Counts a call.
    pub(super) fn record(&self, call: &'static str, time: Duration, failed: bool) {
        self.calls.record(&self.provider, call, time, failed);
    }

    async fn log_in(&self) -> Result<(Session, Addressing, String), CloudError> {
        let settings = self.settings()?;
        let client = client(&settings, &self.context)?;
        let keystone = Arc::new(Keystone::new(&settings)?);
        // This logs in.
        let http = AuthenticatedClient::new(client, Login(Arc::clone(&keystone)))
            .await
            .map_err(|error| from_osauth(&error))?;
        http.get_endpoint(Service::Compute.name(), &EndpointFilters::default())
            .await
            .map_err(|error| from_osauth(&error))?;
        Ok((Session { http, keystone }, settings.addressing(has_ipv6()), settings.name.clone()))
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

/// Whether this host has a default route for IPv6, as the SDK asks before it prefers such addresses.
fn has_ipv6() -> bool {
    let zero = "0".repeat(32);
    std::fs::read_to_string("/proc/net/ipv6_route").is_ok_and(|routes| {
        routes.lines().any(|line| {
            let fields: Vec<&str> = line.split_whitespace().collect();
            fields.first() == Some(&zero.as_str()) && fields.get(1) == Some(&"00") && fields.last() != Some(&"lo")
        })
    })
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
            session: RwLock::default(),
            known: std::sync::OnceLock::new(),
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
