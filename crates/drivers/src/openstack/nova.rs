//! [`Nova`]: the calls of [`Cloud`] over HTTP, to a real OpenStack.
//!
//! Endpoints are taken from the catalogue as they stand there, without asking each service for its versions: two calls
//! less per service, and no dependence on discovery documents that name internal addresses. Every call has a deadline;
//! reads and deletions are repeated a few times when the cloud is unwell, creations never (the answer may have been
//! lost after the fact). A refused token is renewed once per call. A service that says "later" (429, `Retry-After`) is
//! obeyed up to a bound.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use async_trait::async_trait;
use backon::{BackoffBuilder, ExponentialBuilder};
use base64::{Engine, engine::general_purpose::STANDARD};
use nodepool_common::{config, model::ProviderName};
use osauth::{EndpointFilters, client::AuthenticatedClient};
use reqwest::{Certificate, Client, Method, Url};
use serde_json::{Value, json};
use tokio::{sync::RwLock, time::sleep};

use super::{
    addresses::Addressing,
    cloud::{
        Cloud, CloudError, ComputeLimits, CreateServer, Flavor, FloatingIp, Named, Pace, Port, Server, Volume,
        VolumeLimits, read_all,
    },
    clouds_yaml::CloudSettings,
    identity::{Keystone, Login, Service, from_osauth},
};
use crate::{ApiCalls, Context, ErrorClass};

const CONNECT_DEADLINE: Duration = Duration::from_secs(10);
const DEADLINE: Duration = Duration::from_secs(30);
/// Nova answers a creation when the request is on its queue, which a loaded cloud takes its time for.
const CREATE_DEADLINE: Duration = Duration::from_secs(120);
/// Repetitions of a read or a deletion.
const RETRIES: usize = 2;
const RETRY_DELAY: Duration = Duration::from_millis(500);
/// A longer `Retry-After` is not waited for.
const LONGEST_WAIT: Duration = Duration::from_secs(30);
/// Pages of a listing; more mean that a service lost its way.
const MOST_PAGES: usize = 1000;
/// The first compute microversion that takes `networks: auto`.
const AUTO_NETWORKS: &str = "2.37";
/// Authorities that the system trusts, in the places where distributions have them.
const CA_BUNDLES: [&str; 3] =
    ["/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/certs/ca-certificates.crt", "/etc/ssl/cert.pem"];

/// See the module's comment.
#[derive(Debug)]
pub(crate) struct Nova {
    provider: ProviderName,
    cloud: Option<String>,
    region: Option<String>,
    rate: Duration,
    context: Context,
    calls: ApiCalls,
    session: RwLock<Option<Arc<Session>>>,
    /// Beside the session for those who cannot wait for its lock.
    known: std::sync::OnceLock<(String, Addressing)>,
}

/// A way into the cloud.
#[derive(Debug)]
struct Session {
    http: AuthenticatedClient,
    keystone: Arc<Keystone>,
}

/// One call.
struct Call<'a> {
    /// Upstream's word for it in logs.
    name: &'static str,
    method: Method,
    service: Service,
    /// Appended to the endpoint.
    path: String,
    query: Vec<(&'a str, String)>,
    body: Option<Value>,
    headers: Vec<(&'static str, &'static str)>,
    deadline: Duration,
}

impl<'a> Call<'a> {
    fn new(name: &'static str, method: Method, service: Service, path: impl Into<String>) -> Self {
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

    fn get(name: &'static str, service: Service, path: impl Into<String>) -> Self {
        Self::new(name, Method::GET, service, path)
    }

    fn query(mut self, key: &'a str, value: impl Into<String>) -> Self {
        self.query.push((key, value.into()));
        self
    }
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

    async fn session(&self) -> Result<Arc<Session>, CloudError> {
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

    async fn log_in(&self) -> Result<(Session, Addressing, String), CloudError> {
        let settings = CloudSettings::find(self.cloud.as_deref(), self.region.as_deref(), &self.context)?;
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
    async fn call(&self, call: Call<'_>) -> Result<Value, CloudError> {
        let session = self.session().await?;
        let repeatable = matches!(call.method, Method::GET | Method::DELETE);
        let mut delays =
            ExponentialBuilder::default().with_min_delay(RETRY_DELAY).with_max_times(RETRIES).with_jitter().build();
        let mut renewed = false;
        loop {
            let began = Instant::now();
            let (result, wait, token) = session.send(&call).await;
            let time = began.elapsed();
            self.calls.record(&self.provider, call.name, time, result.is_err());
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
    async fn list(
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

    async fn by_name_or_id(
        &self,
        name: &'static str,
        service: Service,
        (path, key): (&str, &str),
        name_or_id: &str,
        query: &[(&'static str, &str)],
    ) -> Result<Option<Named>, CloudError> {
        // Ids are UUIDs almost everywhere, and hardly any name is one.
        let by = if uuid::Uuid::parse_str(name_or_id).is_ok() { ["id", "name"] } else { ["name", "id"] };
        for by in by {
            let query: Vec<_> = query.iter().copied().chain([(by, name_or_id)]).collect();
            let found = self.list(name, service, path, key, &query).await?;
            if let Some(named) = found.iter().find_map(Named::read) {
                return Ok(Some(named));
            }
        }
        Ok(None)
    }
}

/// From the `<key>_links` of a page. Only its marker is used: the rest of the address may be an internal one.
fn next_marker(page: &Value, key: &str) -> Option<String> {
    let links = page.get(format!("{key}_links"))?.as_array()?;
    let next = links.iter().find(|link| link.get("rel").and_then(Value::as_str) == Some("next"))?;
    let url = Url::parse(next.get("href")?.as_str()?).ok()?;
    url.query_pairs().find(|(key, _)| key == "marker").map(|(_, marker)| marker.into_owned())
}

impl Session {
    /// Makes a call once. Also returns what `Retry-After` says and which token was used.
    async fn send(&self, call: &Call<'_>) -> (Result<Value, CloudError>, Option<Duration>, String) {
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

fn client(settings: &CloudSettings, context: &Context) -> Result<Client, CloudError> {
    let config = |message: String| CloudError::new(ErrorClass::Config, message);
    let mut builder = Client::builder()
        .user_agent(concat!("nodepool/", env!("CARGO_PKG_VERSION")))
        .connect_timeout(CONNECT_DEADLINE)
        .danger_accept_invalid_certs(!settings.verify());
    // What somebody named must be usable; what the system has is taken as far as it goes.
    let named = settings.text("cacert").or_else(|| context.variable("REQUESTS_CA_BUNDLE").map(ToOwned::to_owned));
    let bundle = match &named {
        Some(path) => {
            let data = std::fs::read(path);
            Some(data.map_err(|error| {
                config(format!("cannot read {path}, the cacert of cloud {}: {error}", settings.name))
            })?)
        }
        None => CA_BUNDLES.iter().find_map(|path| std::fs::read(path).ok()),
    };
    if let Some(bundle) = bundle {
        match (Certificate::from_pem_bundle(&bundle), &named) {
            (Ok(certificates), _) => {
                for certificate in certificates {
                    builder = builder.add_root_certificate(certificate);
                }
            }
            (Err(error), Some(path)) => {
                return Err(config(format!("{path}, the cacert of cloud {}, is no PEM: {error}", settings.name)));
            }
            (Err(error), None) => tracing::warn!(%error, "the system's CA bundle cannot be used"),
        }
    }
    if settings.text("cert").is_some() {
        return Err(config(format!(
            "cloud {} in {} has a client certificate (cert), which is not supported yet",
            settings.name,
            settings.file.display()
        )));
    }
    builder
        .build()
        .map_err(|error| config(format!("cannot make an HTTP client for cloud {}: {}", settings.name, explain(&error))))
}

/// The body of `POST /servers` as the SDK writes it (drivers.md 1.4).
fn server_body(create: &CreateServer) -> Value {
    let mut server = json!({"name": create.name, "imageRef": create.image, "flavorRef": create.flavor});
    if let Some(size) = create.volume_size {
        server["imageRef"] = json!("");
        server["block_device_mapping_v2"] = json!([{
            "boot_index": 0,
            "uuid": create.image,
            "source_type": "image",
            "destination_type": "volume",
            "volume_size": size.to_string(),
            "delete_on_termination": true,
        }]);
    }
    server["networks"] = if create.networks.is_empty() {
        json!("auto")
    } else {
        create.networks.iter().map(|id| json!({"uuid": id})).collect()
    };
    if let Some(az) = &create.az {
        server["availability_zone"] = json!(az);
    }
    if let Some(key) = &create.key_name {
        server["key_name"] = json!(key);
    }
    if create.config_drive {
        server["config_drive"] = json!(true);
    }
    if !create.security_groups.is_empty() {
        server["security_groups"] = create.security_groups.iter().map(|name| json!({"name": name})).collect();
    }
    if let Some(userdata) = create.userdata.as_ref().filter(|userdata| !userdata.is_empty()) {
        server["user_data"] = json!(STANDARD.encode(userdata));
    }
    if !create.meta.is_empty() {
        server["metadata"] = json!(create.meta);
    }
    json!({"server": server})
}

#[async_trait]
impl Cloud for Nova {
    async fn start(&self) -> Result<(), CloudError> {
        // Anew: the file may have been corrected since the last attempt.
        *self.session.write().await = None;
        self.session().await.map(drop)
    }

    fn pace(&self) -> Pace {
        Pace {
            first: Duration::from_millis(500),
            busy: Duration::from_secs(1),
            quiet: Duration::from_secs(5),
            least: self.rate,
        }
    }

    async fn create_server(&self, create: &CreateServer) -> Result<Server, CloudError> {
        let mut call = Call::new("create_server", Method::POST, Service::Compute, "/servers");
        call.body = Some(server_body(create));
        call.deadline = CREATE_DEADLINE;
        if create.networks.is_empty() {
            call.headers.push(("x-openstack-nova-api-version", AUTO_NETWORKS));
        }
        let answer = self.call(call).await?;
        answer.get("server").and_then(Server::read).ok_or_else(|| {
            CloudError::new(ErrorClass::Transient, "Nova accepted the creation without naming the server's id")
        })
    }

    async fn list_servers(&self) -> Result<Vec<Arc<Server>>, CloudError> {
        let servers = self.list("detailed server list", Service::Compute, "/servers/detail", "servers", &[]).await?;
        Ok(servers.iter().filter_map(Server::read).map(Arc::new).collect())
    }

    async fn get_server(&self, id: &str) -> Result<Option<Arc<Server>>, CloudError> {
        match self.call(Call::get("get_server_by_id", Service::Compute, format!("/servers/{id}"))).await {
            Ok(answer) => Ok(answer.get("server").and_then(Server::read).map(Arc::new)),
            Err(error) if error.class == ErrorClass::Gone => Ok(None),
            Err(error) => Err(error),
        }
    }

    async fn delete_server(&self, id: &str) -> Result<(), CloudError> {
        self.call(Call::new("delete_server", Method::DELETE, Service::Compute, format!("/servers/{id}")))
            .await
            .map(drop)
    }

    async fn list_flavors(&self) -> Result<Vec<Flavor>, CloudError> {
        let flavors = self.list("list_flavors", Service::Compute, "/flavors/detail", "flavors", &[]).await?;
        Ok(flavors.iter().filter_map(Flavor::read).collect())
    }

    async fn find_image(&self, name_or_id: &str) -> Result<Option<Named>, CloudError> {
        // The newest, where names repeat.
        let query = [("status", "active"), ("sort", "created_at:desc")];
        self.by_name_or_id("get_image", Service::Image, ("/images", "images"), name_or_id, &query).await
    }

    async fn find_network(&self, name_or_id: &str) -> Result<Option<Named>, CloudError> {
        self.by_name_or_id("get_network", Service::Network, ("/networks", "networks"), name_or_id, &[]).await
    }

    async fn external_networks(&self) -> Result<Vec<String>, CloudError> {
        let query = [("router:external", "true")];
        let networks = self.list("list_networks", Service::Network, "/networks", "networks", &query).await?;
        Ok(networks.iter().filter_map(Named::read).map(|network| network.name).collect())
    }

    async fn availability_zones(&self) -> Result<Vec<String>, CloudError> {
        let call = Call::get("list_availability_zone_names", Service::Compute, "/os-availability-zone");
        let answer = self.call(call).await?;
        let zones = answer.get("availabilityZoneInfo").cloned().unwrap_or_default();
        Ok(read_all(&zones, |zone| {
            let available = zone.pointer("/zoneState/available").and_then(Value::as_bool).unwrap_or(false);
            zone.get("zoneName").and_then(Value::as_str).filter(|_| available).map(ToOwned::to_owned)
        }))
    }

    async fn compute_limits(&self) -> Result<ComputeLimits, CloudError> {
        let answer = self.call(Call::get("get_compute_limits", Service::Compute, "/limits")).await?;
        let absolute = answer
            .pointer("/limits/absolute")
            .ok_or_else(|| CloudError::new(ErrorClass::Transient, "Nova answers /limits without absolute limits"))?;
        Ok(ComputeLimits::read(absolute))
    }

    async fn volume_limits(&self) -> Result<Option<VolumeLimits>, CloudError> {
        if self.has_no_volumes().await? {
            return Ok(None);
        }
        match self.call(Call::get("get_volume_limits", Service::Volume, "/limits")).await {
            Ok(answer) => Ok(answer.pointer("/limits/absolute").map(VolumeLimits::read)),
            // A service that is in the catalogue only, or not for this project.
            Err(error) if matches!(error.status, Some(403 | 404)) => Ok(None),
            Err(error) => Err(error),
        }
    }

    async fn list_volumes(&self) -> Result<Vec<Volume>, CloudError> {
        if self.has_no_volumes().await? {
            return Ok(Vec::new());
        }
        let volumes = self.list("list_volumes", Service::Volume, "/volumes/detail", "volumes", &[]).await?;
        Ok(volumes
            .iter()
            .filter_map(|volume| {
                Some(Volume { id: volume.get("id")?.as_str()?.to_owned(), size: volume.get("size")?.as_f64()? })
            })
            .collect())
    }

    async fn list_ports(&self, status: &str) -> Result<Vec<Port>, CloudError> {
        // Our own project's, whatever the credentials may see besides.
        let session = self.session().await?;
        let token = session.keystone.token(session.http.inner()).await?;
        let mut query = vec![("status", status), ("fields", "id"), ("fields", "device_owner")];
        if let Some(project) = &token.project {
            query.push(("project_id", project));
        }
        let ports = self.list("list_ports", Service::Network, "/ports", "ports", &query).await?;
        Ok(ports.iter().filter_map(Port::read).collect())
    }

    async fn delete_port(&self, id: &str) -> Result<(), CloudError> {
        self.call(Call::new("delete_port", Method::DELETE, Service::Network, format!("/ports/{id}"))).await.map(drop)
    }

    async fn list_floating_ips(&self) -> Result<Vec<FloatingIp>, CloudError> {
        let session = self.session().await?;
        let token = session.keystone.token(session.http.inner()).await?;
        let query: Vec<_> = token.project.iter().map(|project| ("project_id", project.as_str())).collect();
        let ips = self.list("list_floating_ips", Service::Network, "/floatingips", "floatingips", &query).await?;
        Ok(ips.iter().filter_map(FloatingIp::read).collect())
    }

    async fn delete_floating_ip(&self, id: &str) -> Result<(), CloudError> {
        let path = format!("/floatingips/{id}");
        self.call(Call::new("delete_floating_ip", Method::DELETE, Service::Network, path)).await.map(drop)
    }

    async fn console(&self, id: &str) -> Result<Option<String>, CloudError> {
        let path = format!("/servers/{id}/action");
        let mut call = Call::new("get_server_console", Method::POST, Service::Compute, path);
        call.body = Some(json!({"os-getConsoleOutput": {}}));
        let answer = self.call(call).await?;
        Ok(answer.get("output").and_then(Value::as_str).map(ToOwned::to_owned))
    }

    fn addressing(&self) -> Addressing {
        self.known.get().map(|(_, addressing)| addressing.clone()).unwrap_or_default()
    }

    fn cloud_name(&self) -> Option<String> {
        self.known.get().map(|(name, _)| name.clone())
    }
}

impl Nova {
    async fn has_no_volumes(&self) -> Result<bool, CloudError> {
        let session = self.session().await?;
        let token = session.keystone.token(session.http.inner()).await?;
        Ok(session.keystone.endpoint(&token, Service::Volume).is_none())
    }
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

    #[test]
    fn a_server_is_asked_for_as_the_sdk_asks() {
        let create = CreateServer {
            name: "np1".to_owned(),
            image: "i".to_owned(),
            flavor: "f".to_owned(),
            az: Some("az1".to_owned()),
            security_groups: vec!["zuul".to_owned()],
            networks: vec!["n1".to_owned(), "n2".to_owned()],
            key_name: Some("k".to_owned()),
            config_drive: true,
            userdata: Some("#!/bin/sh".to_owned()),
            volume_size: Some(40),
            ..CreateServer::default()
        };
        assert_eq!(
            server_body(&create),
            json!({"server": {
                "name": "np1", "imageRef": "", "flavorRef": "f",
                "block_device_mapping_v2": [{"boot_index": 0, "uuid": "i", "source_type": "image",
                    "destination_type": "volume", "volume_size": "40", "delete_on_termination": true}],
                "networks": [{"uuid": "n1"}, {"uuid": "n2"}], "availability_zone": "az1", "key_name": "k",
                "config_drive": true, "security_groups": [{"name": "zuul"}], "user_data": "IyEvYmluL3No"}})
        );
        let plain = server_body(&CreateServer { image: "i".to_owned(), ..CreateServer::default() });
        assert_eq!(plain.pointer("/server/networks"), Some(&json!("auto")));
        assert_eq!(plain.pointer("/server/config_drive"), None);
    }

    #[test]
    fn the_next_page_is_known_by_its_marker_only() {
        let page = json!({"servers": [], "servers_links": [
            {"rel": "next", "href": "http://internal:8774/v2.1/servers/detail?marker=abc&limit=2"}]});
        assert_eq!(next_marker(&page, "servers").as_deref(), Some("abc"));
        assert_eq!(next_marker(&json!({"servers": []}), "servers"), None);
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
