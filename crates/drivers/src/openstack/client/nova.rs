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
    sync::{
        Arc, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use backon::{BackoffBuilder, ExponentialBuilder};
use nodepool_common::{config, model::ProviderName};
use reqwest::Method;
use serde_json::Value;
use tokio::{
    sync::Mutex,
    time::{Instant, sleep, sleep_until},
};

use super::{
    gate::{Health, Pass},
    http::{Call, PATIENCE, Read, Sent, Session, any_json},
    identity::Token,
    ipv6::Ipv6Route,
    meter::Meter,
    page_deadlines::PageDeadlines,
    service::Service,
    settings::{CloudSettings, fingerprint},
};
use crate::{Context, ErrorClass, Scope, files::Fingerprint, openstack::api::CloudError};

/// Repetitions of a call that failed; one that is told to come back later is repeated as long as its patience lasts.
const RETRIES: usize = 2;
/// How long a call that was a probe lets others go first, once the next one may be made.
const AFTER_THE_OTHERS: Duration = Duration::from_millis(100);
const RETRY_DELAY: Duration = Duration::from_millis(500);
/// Of the harmless call that finds out whether a service is back.
const PROBE_DEADLINE: Duration = Duration::from_secs(10);

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
    opened: AtomicU64,
    /// What the last token was for.
    scope: std::sync::RwLock<Option<Scope>>,
    /// What was last warned of.
    warned: std::sync::Mutex<Vec<String>>,
    pub(super) page_deadlines: PageDeadlines,
    pub(super) ipv6: Ipv6Route,
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
        Self::of(provider, config.cloud.clone(), config.region_name.clone(), config.rate, context.clone())
    }

    fn of(
        provider: ProviderName,
        cloud: Option<String>,
        region: Option<String>,
        rate: Duration,
        context: Context,
    ) -> Self {
        Self {
            meter: Meter { provider: provider.clone(), calls: context.calls.clone() },
            provider,
            cloud,
            region,
            rate,
            context,
            current: Mutex::default(),
            settings: std::sync::RwLock::default(),
            opened: AtomicU64::default(),
            scope: std::sync::RwLock::default(),
            warned: std::sync::Mutex::default(),
            page_deadlines: PageDeadlines::default(),
            ipv6: Ipv6Route::default(),
        }
    }

    /// What clouds.yaml says of the cloud; `None`: nobody has read it yet.
    pub(super) fn settings(&self) -> Option<CloudSettings> {
        self.settings.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// How often the way into the cloud has been opened.
    pub(super) fn opened(&self) -> u64 {
        self.opened.load(Ordering::SeqCst)
    }

    /// What the token of the last call was for.
    pub(super) fn last_scope(&self) -> Option<Scope> {
        self.scope.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn note_scope(&self, session: &Session, token: &Token) {
        let scope = scope_of(session, token);
        let mut last = self.scope.write().unwrap_or_else(PoisonError::into_inner);
        if let Some((now, before)) = scope.as_ref().zip(last.as_ref())
            && now.lacks(Some(&before.driver_data())).is_some()
        {
            tracing::warn!(
                provider = %self.provider,
                "cloud {} leads to {now} now, and not to {before} any more: servers that were made there cannot be seen or \
                 deleted until it does again",
                session.settings.name
            );
        }
        *last = scope;
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
        // Before the session is in use: what it lists must not pass for the old one's.
        self.opened.fetch_add(1, Ordering::SeqCst);
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
                Ok(token) => {
                    self.note_scope(&session, &token);
                    return Ok((session, token));
                }
                Err(error) if error.class == ErrorClass::Transient && Instant::now() < until => {
                    sleep(FILE_CHECK_INTERVAL).await;
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Makes a call as often as is right, and reads its JSON.
    pub(super) async fn call(&self, call: Call) -> Result<Value, CloudError> {
        self.answer(call).await.map(|answer| answer.value)
    }

    /// The same, with where it came from.
    pub(super) async fn answer(&self, call: Call) -> Result<Answer<Value>, CloudError> {
        self.repeat(call, &any_json).await.map_err(marked)
    }

    /// The same for a page of a listing.
    pub(super) async fn page<T>(&self, mut call: Call, read: &Read<'_, T>) -> Result<Answer<T>, CloudError> {
        call.is_page = true;
        self.repeat(call, read).await.map_err(marked)
    }

    async fn repeat<T>(&self, mut call: Call, read: &Read<'_, T>) -> Result<Answer<T>, CloudError> {
        let until = Instant::now() + call.patience;
        let repeatable = matches!(call.method, Method::GET | Method::DELETE | Method::PUT);
        let delays = ExponentialBuilder::default().with_min_delay(RETRY_DELAY).with_max_times(RETRIES).with_jitter();
        let mut delays = delays.with_jitter_seed(self.context.ambient.entropy.seed()).build();
        let mut renewed = false;
        loop {
            // Each time: clouds.yaml may have changed while the call waited.
            let (session, token) = self.token_until(until).await?;
            // Of the very token that is sent: by the time of the answer the settings may lead elsewhere.
            let scope = scope_of(&session, &token);
            if let Some(why) = scope.as_ref().and_then(|scope| scope.lacks(call.made_in.as_ref())) {
                return Err(CloudError::elsewhere(why));
            }
            let gate = session.gate(call.service);
            let Some(pass) = gate.pass(!repeatable, until, FILE_CHECK_INTERVAL).await? else { continue };
            if pass.is_probe && (!repeatable || call.is_page) {
                // How the service is must not be found out by something that cannot be repeated, or may take minutes.
                self.probe(&session, call.service, &token, pass).await;
                continue;
            }
            if call.is_page {
                call.deadline = self.page_deadlines.of(call.name);
            }
            let was_probe = pass.is_probe;
            let began = Instant::now();
            let sent = self.send(&session, &call, &token, pass, read).await;
            let time = began.elapsed();
            if call.is_page && sent.timed_out() {
                let pass = gate.pass(false, Instant::now() + PROBE_DEADLINE, PROBE_DEADLINE).await;
                if let Ok(Some(pass)) = pass
                    && self.probe(&session, call.service, &token, pass).await
                {
                    self.page_deadlines.late(call.name, call.deadline);
                }
            }
            let (is_later, was_not_sent) = (sent.is_later(), sent.was_not_sent());
            let mut error = match sent.result {
                Ok(value) => return Ok(Answer { value, took: time, scope: scope.map(Arc::new) }),
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
            if was_probe && let Some(next) = gate.next_probe() {
                // Another call that waits is the next probe, if there is one: this one would use up its attempts for all.
                sleep_until((next + AFTER_THE_OTHERS).min(until)).await;
            }
        }
    }

    /// Whether the service answers a harmless call.
    async fn probe(&self, session: &Session, service: Service, token: &Token, pass: Pass<'_>) -> bool {
        let mut probe = Call::get("probe", service, "/");
        probe.deadline = PROBE_DEADLINE;
        self.send(session, &probe, token, pass, &any_json).await.health() == Health::Answers
    }

    /// Makes a call once, tells the gate what it says of the service, and counts it.
    async fn send<T>(
        &self,
        session: &Session,
        call: &Call,
        token: &Token,
        pass: Pass<'_>,
        read: &Read<'_, T>,
    ) -> Sent<T> {
        let began = Instant::now();
        let sent = session.send(call, token, read).await;
        let time = began.elapsed();
        let mut health = sent.health();
        if call.is_page && sent.timed_out() {
            health = Health::Unclear;
        }
        pass.end(health, sent.result.as_ref().err());
        let problem = sent.problem();
        self.meter.record(call.name, time, problem.as_deref());
        let result = problem.as_deref().unwrap_or("ok");
        tracing::debug!(provider = %self.provider, result, "API call {} in {time:?}", call.name);
        sent
    }
}

/// What a call was answered.
pub(super) struct Answer<T> {
    pub value: T,
    /// How long the attempt took that brought it.
    pub took: Duration,
    /// What the token was for that it was made with.
    pub scope: Option<Arc<Scope>>,
}

fn scope_of(session: &Session, token: &Token) -> Option<Scope> {
    let region = session.settings.region(Service::Compute);
    token.project.clone().map(|project| Scope::Project { project, region })
}

/// An error that is no answer says that the cloud is away.
fn marked(error: CloudError) -> CloudError {
    let unanswered = error.status.is_none() && error.class == ErrorClass::Transient && !error.elsewhere;
    CloudError { unanswered, ..error }
}

#[cfg(test)]
impl Nova {
    /// The way into a test's cloud.
    pub fn of_test(cloud: &str, clouds_yaml: &str) -> Self {
        let context = Context::default().with_variable("OS_CLIENT_CONFIG_FILE", clouds_yaml);
        Self::of("test".into(), Some(cloud.to_owned()), None, Duration::ZERO, context)
    }
}

#[cfg(test)]
mod tests {
    use nodepool_testing::{Fault, Rule, ScriptedCloud};
    use serde_json::json;

    use super::*;
    use crate::openstack::api::{Cloud as _, Flavor};

    /// On a real cloud, like `tests/openstack_real.rs`.
    async fn real() -> Option<Nova> {
        let Ok(path) = std::env::var("NODEPOOL_TEST_CLOUDS_YAML") else {
            eprintln!("skipped: NODEPOOL_TEST_CLOUDS_YAML does not name the clouds.yaml of a test cloud");
            return None;
        };
        let nova = Nova::of_test("npcloud", &path);
        nova.start().await.unwrap();
        Some(nova)
    }

    #[tokio::test]
    async fn a_listing_that_takes_long_gets_more_time_and_keeps_nothing_else_waiting() {
        const SERVERS: &str = "/compute/v2.1/servers/detail";
        let cloud = ScriptedCloud::start(&[]).await;
        let nova = Nova {
            page_deadlines: PageDeadlines::starting_with(Duration::from_millis(250)),
            ..Nova::of_test(ScriptedCloud::NAME, cloud.clouds_yaml().to_str().unwrap())
        };
        cloud.answer("GET", SERVERS, 200, &json!({"servers": [{"id": "s"}]}));
        cloud.answer("DELETE", "/compute/v2.1/servers/s", 204, &json!(null));
        cloud.answer("GET", "/compute/v2.1/", 200, &json!({}));
        cloud.meets(Rule::new("GET", SERVERS, Fault::Hang(60)).times(3));
        // A service that hangs as a whole is not given more time for its listings.
        cloud.meets(Rule::new("GET", "/compute/v2.1/", Fault::CutBefore).times(1));
        let error = nova.list_servers().await.unwrap_err();
        assert!(error.message.contains("no answer within 0.5 s (detailed server list"), "the third: {error}");
        let trouble = nova.session().await.unwrap().gate(Service::Compute).next_probe();
        assert_eq!(trouble, None, "the service is not in trouble");
        nova.delete_server("s", None).await.unwrap();
        assert_eq!(nova.page_deadlines.of("detailed server list"), Duration::from_secs(1));
        assert_eq!(nova.list_servers().await.unwrap().len(), 1);
    }

    #[tokio::test]
    async fn calls_are_counted_for_statsd_as_openstacksdk_does() {
        let statsd = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        statsd.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        let names = || {
            let mut packet = [0; 1024];
            let read = statsd.recv(&mut packet).expect("a packet");
            let text = String::from_utf8(packet[..read].to_vec()).unwrap();
            text.lines().map(|line| line.split(':').next().unwrap_or_default().to_owned()).collect::<Vec<_>>()
        };
        let stats = nodepool_common::stats::Stats::new(Some(("127.0.0.1", statsd.local_addr().unwrap().port())));
        let cloud = ScriptedCloud::start(&[]).await;
        let plain = Nova::of_test(ScriptedCloud::NAME, cloud.clouds_yaml().to_str().unwrap());
        let nova = Nova {
            meter: Meter { provider: "test".into(), calls: Context::default().with_stats(stats).calls },
            context: plain.context.clone().with_variable("STATSD_PREFIX", "clouds.one"),
            ..plain
        };
        cloud.answer("GET", "/compute/v2.1/servers/detail", 200, &json!({"servers": []}));
        nova.list_servers().await.unwrap();
        let answered = "clouds.one.compute.GET.servers_detail.200";
        assert_eq!(names(), [answered, answered, "clouds.one.compute.GET.servers_detail.attempted"]);
        cloud.answer("DELETE", "/compute/v2.1/servers/s", 204, &json!(null));
        cloud.meets(Rule::new("DELETE", "/compute/v2.1/servers/s", Fault::CutBefore).times(1));
        nova.delete_server("s", None).await.unwrap();
        // Without an answer the SDK knows only what it appends to the endpoint.
        assert_eq!(names(), ["clouds.one.compute.DELETE.server.failed", "clouds.one.compute.DELETE.server.attempted"]);
        let answered = "clouds.one.compute.DELETE.compute_server.204";
        assert_eq!(names(), [answered, answered, "clouds.one.compute.DELETE.compute_server.attempted"]);
    }

    #[tokio::test]
    async fn calls_are_counted_where_clouds_yaml_says() {
        let server = || {
            let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
            socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
            let port = socket.local_addr().unwrap().port();
            (socket, port)
        };
        let ((own, own_port), (of_cloud, port)) = (server(), server());
        let stats = nodepool_common::stats::Stats::new(Some(("127.0.0.1", own_port)));
        let cloud = ScriptedCloud::start(&[&format!("metrics: {{statsd: {{host: 127.0.0.1, port: {port}}}}}")]).await;
        let plain = Nova::of_test(ScriptedCloud::NAME, cloud.clouds_yaml().to_str().unwrap());
        let calls = Context::default().with_stats(stats).calls;
        let nova = Nova { meter: Meter { provider: "test".into(), calls }, ..plain };
        cloud.answer("GET", "/compute/v2.1/servers/detail", 200, &json!({"servers": []}));
        of_cloud.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
        let mut packet = [0; 1024];
        let mut read = None;
        // What is counted before the server's name is known is lost.
        for _ in 0..50 {
            nova.list_servers().await.unwrap();
            read = of_cloud.recv(&mut packet).ok();
            if read.is_some() {
                break;
            }
        }
        let read = read.expect("a packet");
        let text = String::from_utf8_lossy(&packet[..read]);
        assert!(text.starts_with("openstack.api.compute.GET.servers_detail.200:"), "{text}");
        own.set_nonblocking(true).unwrap();
        assert!(own.recv(&mut packet).is_err(), "it is for the other server");
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
