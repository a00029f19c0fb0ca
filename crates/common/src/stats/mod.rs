//! Every metric, declared once, to statsd and Prometheus.
//!
//! One method of [`Stats`] is one fact that somebody may want on a dashboard. Where upstream has a metric for
//! it, the same names go to statsd, byte for byte, if `STATSD_HOST` or `STATSD_PORT` is set; Prometheus
//! has it always, with labels. What upstream does not measure goes to Prometheus only. The names of providers, labels
//! and hosts are put into statsd names as they are, dots and all, like upstream's, which some exporters' rules do not
//! match; only requestors, tenants and limits are normalized.

mod ages;
mod count;
mod prometheus;
mod replaced;
mod route;
mod statsd;

use std::{
    collections::{BTreeMap, BTreeSet},
    env,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use ::prometheus::GaugeVec;

pub use self::ages::Ages;
pub use self::count::{NodeCounts, StateCounts, count_addressable_requests, count_nodes};
use self::{prometheus::Metrics, route::Route, statsd::Statsd};
use crate::model::{ImageName, LabelName, PoolName, ProviderName, Timestamp};

/// What became of a request in a pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RequestDecision {
    /// Locked, to be served here.
    Accepted,
    /// Left to other pools.
    Declined,
    /// Its nodes are ready.
    Fulfilled,
    /// No pool can serve it, or serving it failed.
    Failed,
    /// It waits for quota, and the pool with it.
    Paused,
}

impl RequestDecision {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Accepted => "accepted",
            Self::Declined => "declined",
            Self::Fulfilled => "fulfilled",
            Self::Failed => "failed",
            Self::Paused => "paused",
        }
    }
}

/// The launcher's queues between ZooKeeper and itself. Upstream's names; ours may be 0 for ever.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct ZkQueues {
    pub connection_queue: usize,
    pub node_event: usize,
    pub node_playback: usize,
    pub request_event: usize,
    pub request_playback: usize,
    pub image_event: usize,
    pub image_playback: usize,
}

/// What a builder does with an image; the number is upstream's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WorkState {
    /// Nothing.
    Idle = 0,
    /// It is being built.
    Building = 1,
    /// It is being uploaded.
    Uploading = 2,
    /// Nothing, because it is paused.
    Paused = 3,
}

/// What a builder does, for the metrics.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct BuilderWork {
    /// By image.
    pub builds: BTreeMap<ImageName, WorkState>,
    /// By image and provider.
    pub uploads: BTreeMap<(ImageName, ProviderName), WorkState>,
    /// Requests for builds that nobody works on: 0 or 1 for each image.
    pub requests: BTreeMap<ImageName, usize>,
}

/// How much there is of what launchers may use, and how much is used, by resource (`instances`, `cores`, `ram` in MiB, …). What is
/// unlimited is not in the limits.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Amounts {
    /// What each cloud allows the project, whoever uses it.
    pub quota: BTreeMap<(ProviderName, String), f64>,
    /// What others in the project use of that.
    pub used_by_others: BTreeMap<(ProviderName, String), f64>,
    /// What all nodes of the provider use of that, whichever launcher has them.
    pub used: BTreeMap<(ProviderName, String), f64>,
    /// The limits of each of this launcher's pools.
    pub pool_limits: BTreeMap<(ProviderName, PoolName, String), f64>,
    /// What is used of those.
    pub used_in_pools: BTreeMap<(ProviderName, PoolName, String), f64>,
}

/// Where to report to. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Stats(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    metrics: Metrics,
    /// Held while gauges are replaced by others, and while they are read: no scrape sees the time in between.
    whole: Mutex<()>,
    statsd: Option<Statsd>,
    /// Further servers, by host and port.
    others: Mutex<BTreeMap<(String, u16), Arc<Statsd>>>,
    /// The names of the last [`Stats::nodes`] and [`Stats::addressable_requests`] reports: what has vanished since is
    /// set to 0 once, lest a server shows it for ever.
    reported: Mutex<BTreeMap<&'static str, BTreeSet<String>>>,
}

impl Stats {
    /// From `STATSD_HOST` and `STATSD_PORT`. Resolves the host's name: call it once, at start. A name that cannot be
    /// resolved costs a warning and is tried again; a port that is none costs statsd.
    pub fn from_env() -> Self {
        let variable = |name| env::var(name).ok().filter(|value| !value.is_empty());
        let (host, port) = (variable("STATSD_HOST"), variable("STATSD_PORT"));
        if host.is_none() && port.is_none() {
            return Self::new(None);
        }
        let host = host.unwrap_or_else(|| "localhost".to_owned());
        let port = port.unwrap_or_else(|| "8125".to_owned());
        let Ok(number) = port.trim().parse() else {
            tracing::warn!(
                logger = "nodepool.stats",
                "Not sending metrics to statsd: STATSD_PORT is {port:?}, which is no port number; set it and restart"
            );
            return Self::new(None);
        };
        Self::new(Some((&host, number)))
    }

    /// With a statsd server, or without.
    pub fn new(statsd: Option<(&str, u16)>) -> Self {
        let statsd = statsd.map(|(host, port)| Statsd::new(Route::new(host, port)));
        let (whole, others, reported) = (Mutex::default(), Mutex::default(), Mutex::default());
        Self(Arc::new(Inner { metrics: Metrics::new(), whole, statsd, others, reported }))
    }

    /// Whether metrics go to statsd.
    pub fn has_statsd(&self) -> bool {
        self.0.statsd.is_some()
    }

    /// All metrics in Prometheus' text format.
    pub fn render(&self) -> String {
        let _whole = self.whole();
        self.0.metrics.render()
    }

    fn other_server(&self, server: &(String, u16)) -> Arc<Statsd> {
        let mut others = self.0.others.lock().unwrap_or_else(PoisonError::into_inner);
        let made = others.entry(server.clone()).or_insert_with(|| {
            let (host, port) = server;
            Arc::new(Statsd::new(Route::in_background(host, *port)))
        });
        Arc::clone(made)
    }

    fn whole(&self) -> MutexGuard<'_, ()> {
        self.0.whole.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One attempt to launch a node has ended. `result` is `ready` or `error.…`.
    pub fn launch_result(
        &self,
        provider: &ProviderName,
        az: Option<&str>,
        label: &LabelName,
        requestor: Option<&str>,
        result: &str,
        duration: Duration,
    ) {
        let az = az.filter(|az| !az.is_empty());
        let requestor = requestor.filter(|requestor| !requestor.is_empty());
        let metrics = &self.0.metrics;
        metrics.launches.with_label_values(&[provider.as_str(), az.unwrap_or_default(), result]).inc();
        let of_label = metrics.launch_seconds.with_label_values(&[provider.as_str(), label.as_str(), result]);
        of_label.observe(duration.as_secs_f64());
        if let Some(requestor) = requestor {
            metrics.requestor_launches.with_label_values(&[requestor, result]).inc();
        }
        let Some(statsd) = &self.0.statsd else { return };
        let pipeline = statsd.pipeline(false);
        let names = [
            Some(format!("nodepool.launch.provider.{provider}.{result}")),
            Some(format!("nodepool.launch.{result}")),
            az.map(|az| format!("nodepool.launch.provider.{provider}.{az}.{result}")),
            requestor.map(|requestor| format!("nodepool.launch.requestor.{}.{result}", normalized(requestor))),
        ];
        for name in names.iter().flatten() {
            pipeline.timing(name, duration);
            pipeline.count(name, 1);
        }
    }

    /// The nodes of the whole system; only the elected leader calls it, at most once a second. `force` sends what has
    /// not changed too.
    pub fn nodes(&self, counts: &NodeCounts, force: bool) {
        let metrics = &self.0.metrics;
        let whole = self.whole();
        for (state, n) in counts.all.iter() {
            metrics.nodes.with_label_values(&[state.as_str()]).set(number(n));
        }
        let mut of_providers = metrics.provider_nodes.replace();
        for (provider, states) in &counts.providers {
            states.iter().for_each(|(state, n)| of_providers.set(&[provider.as_str(), state.as_str()], number(n)));
        }
        let mut of_labels = metrics.label_nodes.replace();
        for (label, states) in &counts.labels {
            states.iter().for_each(|(state, n)| of_labels.set(&[label.as_str(), state.as_str()], number(n)));
        }
        drop((of_providers, of_labels, whole));
        if !self.has_statsd() {
            return;
        }
        let all = counts.all.iter().map(|(state, n)| (format!("nodepool.nodes.{state}"), n));
        let of_providers = counts.providers.iter().flat_map(|(provider, states)| {
            states.iter().map(move |(state, n)| (format!("nodepool.provider.{provider}.nodes.{state}"), n))
        });
        let of_labels = counts.labels.iter().flat_map(|(label, states)| {
            states.iter().map(move |(state, n)| (format!("nodepool.label.{label}.nodes.{state}"), n))
        });
        let gauges = all.chain(of_providers).chain(of_labels).map(|(name, n)| (name, number(n)));
        self.report("nodes", gauges.collect(), force);
    }

    /// The requests that each pool could serve; reported together with [`Self::nodes`].
    pub fn addressable_requests(&self, counts: &BTreeMap<(ProviderName, PoolName), usize>, force: bool) {
        let whole = self.whole();
        let mut of_pools = self.0.metrics.addressable_requests.replace();
        for ((provider, pool), n) in counts {
            of_pools.set(&[provider.as_str(), pool.as_str()], number(*n));
        }
        drop((of_pools, whole));
        let gauges = counts.iter().map(|((provider, pool), n)| {
            (format!("nodepool.provider.{provider}.pool.{pool}.addressable_requests"), number(*n))
        });
        self.report("addressable_requests", gauges.collect(), force);
    }

    /// How old requests, nodes and images are; reported together with [`Self::nodes`]. Prometheus only.
    pub fn ages(&self, ages: &Ages) {
        let metrics = &self.0.metrics;
        let _whole = self.whole();
        for (state, n) in &ages.requests {
            metrics.node_requests.with_label_values(&[state.as_str()]).set(number(*n));
        }
        metrics.builders.with_label_values::<&str>(&[]).set(number(ages.builders));
        let mut oldest_request = metrics.oldest_request.replace();
        for (label, since) in &ages.waiting {
            oldest_request.set(&[label.as_str()], *since);
        }
        let mut oldest_node = metrics.oldest_node.replace();
        for ((provider, state), since) in &ages.nodes {
            oldest_node.set(&[provider.as_str(), state.as_str()], *since);
        }
        for (gauges, ages) in [(&metrics.image_built_at, &ages.built), (&metrics.image_failed_at, &ages.failed)] {
            let mut at = gauges.replace();
            for (image, time) in ages {
                at.set(&[image.as_str()], *time);
            }
        }
        let mut uploaded_at = metrics.image_uploaded_at.replace();
        for ((image, provider), at) in &ages.uploaded {
            uploaded_at.set(&[image.as_str(), provider.as_str()], *at);
        }
    }

    /// This launcher is no longer the elected leader: another one reports the nodes and requests now.
    pub fn stop_leading(&self) {
        let metrics = &self.0.metrics;
        let _whole = self.whole();
        [&metrics.nodes, &metrics.node_requests, &metrics.builders].into_iter().for_each(GaugeVec::reset);
        let replaced = [
            &metrics.provider_nodes,
            &metrics.label_nodes,
            &metrics.addressable_requests,
            &metrics.oldest_request,
            &metrics.oldest_node,
            &metrics.image_built_at,
            &metrics.image_failed_at,
            &metrics.image_uploaded_at,
        ];
        // By nothing.
        for gauges in replaced {
            drop(gauges.replace());
        }
        self.0.reported.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// The sum of a provider's `max-servers`; infinite where a pool has none.
    pub fn max_servers(&self, provider: &ProviderName, servers: f64) {
        self.0.metrics.max_servers.with_label_values(&[provider.as_str()]).set(servers);
        self.gauge(&format!("nodepool.provider.{provider}.max_servers"), servers);
    }

    /// Whether each provider's cloud answers; those that are not named are not there any more.
    pub fn providers_up(&self, providers: &BTreeMap<ProviderName, bool>) {
        let _whole = self.whole();
        let mut up = self.0.metrics.provider_up.replace();
        for (provider, is_up) in providers {
            up.set(&[provider.as_str()], flag(*is_up));
        }
    }

    /// Whether this launcher's pool takes no request for lack of quota; `None`: it has no such pool any more.
    pub fn pool_paused(&self, provider: &ProviderName, pool: &PoolName, paused: Option<bool>) {
        prometheus::set_of_pool(&self.0.metrics.pool_paused, [provider.as_str(), pool.as_str()], paused);
    }

    /// Whether a person of the site has paused this launcher's pool; `None`: it has no such pool any more.
    pub fn pool_paused_by_person(&self, provider: &ProviderName, pool: &PoolName, paused: Option<bool>) {
        prometheus::set_of_pool(&self.0.metrics.pool_paused_by_person, [provider.as_str(), pool.as_str()], paused);
    }

    /// How many requests each of this launcher's pools leaves waiting, by the code of the reason, and the amounts that decide it.
    /// Prometheus only.
    pub fn measured(&self, waiting: &BTreeMap<(ProviderName, PoolName, String), usize>, amounts: &Amounts) {
        let metrics = &self.0.metrics;
        let _whole = self.whole();
        let of_providers = [
            (&metrics.provider_quota, &amounts.quota),
            (&metrics.provider_used_by_others, &amounts.used_by_others),
            (&metrics.provider_used, &amounts.used),
        ];
        for (gauges, values) in of_providers {
            let mut amounts = gauges.replace();
            for ((provider, resource), value) in values {
                amounts.set(&[provider.as_str(), resource], *value);
            }
        }
        let waiting = waiting.iter().map(|(key, count)| (key.clone(), number(*count))).collect();
        let of_pools = [
            (&metrics.waiting_requests, &waiting),
            (&metrics.pool_limit, &amounts.pool_limits),
            (&metrics.pool_used, &amounts.used_in_pools),
        ];
        for (gauges, values) in of_pools {
            let mut amounts = gauges.replace();
            for ((provider, pool, what), value) in values {
                amounts.set(&[provider.as_str(), pool.as_str(), what], *value);
            }
        }
    }

    /// One of a tenant's limits; infinite where it has none.
    pub fn tenant_limit(&self, tenant: &str, resource: &str, limit: f64) {
        self.0.metrics.tenant_limit.with_label_values(&[tenant, resource]).set(limit);
        self.gauge(&format!("nodepool.tenant_limits.{}.{}", normalized(tenant), normalized(resource)), limit);
    }

    /// Leaked resources were deleted; `plural` is the kind's, such as `instances`.
    pub fn leaked(&self, provider: &ProviderName, plural: &str, n: usize) {
        if n == 0 {
            return;
        }
        self.0.metrics.leaked.with_label_values(&[provider.as_str(), plural]).inc_by(n as u64);
        if let Some(statsd) = &self.0.statsd {
            let n = i64::try_from(n).unwrap_or(i64::MAX);
            statsd.pipeline(false).count(&format!("nodepool.provider.{provider}.leaked.{plural}"), n);
        }
    }

    /// What searches for leaks hold back, by provider and the kind's plural; those that are not named hold nothing back.
    pub fn held_back(&self, counts: &BTreeMap<(ProviderName, String), usize>) {
        let mut gauges = BTreeMap::new();
        let whole = self.whole();
        let mut held_back = self.0.metrics.held_back.replace();
        for ((provider, plural), n) in counts {
            held_back.set(&[provider.as_str(), plural.as_str()], number(*n));
            gauges.insert(format!("nodepool.provider.{provider}.held_back.{plural}"), number(*n));
        }
        drop((held_back, whole));
        self.report("held_back", gauges, true);
    }

    /// How many builds' files a builder holds back; `host` is the full host name, dots and all.
    pub fn files_held_back(&self, host: &str, n: usize) {
        self.gauge(&format!("nodepool.builder.{host}.held_back.files"), number(n));
    }

    /// The launcher's queues, each 10 s; `host` is the plain host name.
    pub fn zk_queues(&self, host: &str, queues: &ZkQueues) {
        let values = [
            ("client.connection_queue", queues.connection_queue),
            ("node_cache.event_queue", queues.node_event),
            ("node_cache.playback_queue", queues.node_playback),
            ("request_cache.event_queue", queues.request_event),
            ("request_cache.playback_queue", queues.request_playback),
            ("image_cache.event_queue", queues.image_event),
            ("image_cache.playback_queue", queues.image_playback),
        ];
        for (name, n) in values {
            self.0.metrics.zk_queue.with_label_values(&[name]).set(number(n));
        }
        if let Some(statsd) = &self.0.statsd {
            let pipeline = statsd.pipeline(false);
            for (name, n) in values {
                pipeline.gauge(&format!("nodepool.launcher.{host}.zk.{name}"), number(n));
            }
        }
    }

    /// Whether there is a ZooKeeper session.
    pub fn zk_connected(&self, connected: bool) {
        self.0.metrics.zk_connected.set(flag(connected));
    }

    /// A new ZooKeeper session was established.
    pub fn zk_session(&self) {
        self.0.metrics.zk_sessions.inc();
    }

    /// A server of ZooKeeper has replied to a request after so long.
    pub fn zk_reply(&self, took: Duration) {
        self.0.metrics.zk_replies.observe(took.as_secs_f64());
    }

    /// Whether the configuration file as it is now is the one in use.
    pub fn config_valid(&self, valid: bool) {
        self.0.metrics.config_valid.set(flag(valid));
    }

    /// A changed configuration could not be used.
    pub fn config_reload_failed(&self) {
        self.0.metrics.config_reload_failures.inc();
        self.config_valid(false);
    }

    /// A pool has decided about a request.
    pub fn request_decision(&self, provider: &ProviderName, pool: &PoolName, decision: RequestDecision) {
        self.0.metrics.requests.with_label_values(&[provider.as_str(), pool.as_str(), decision.as_str()]).inc();
    }

    /// The time from a request's creation to its fulfilment. `label`: that of all nodes that it asks for; `None`: they have
    /// several, of which there may be any number of combinations.
    pub fn request_fulfilled_after(
        &self,
        provider: &ProviderName,
        pool: &PoolName,
        label: Option<&LabelName>,
        duration: Duration,
    ) {
        let names = [provider.as_str(), pool.as_str(), label.map_or("", LabelName::as_str)];
        self.0.metrics.request_seconds.with_label_values(&names).observe(duration.as_secs_f64());
    }

    /// A call of a cloud's API has returned. `operation` is a short constant such as `create_server`; `error` is an HTTP
    /// status (`503`), `timeout`, `connection` (it was not made) or `broken` (its answer was lost or is none).
    pub fn cloud_call(&self, provider: &ProviderName, operation: &str, error: Option<&str>, duration: Duration) {
        let metrics = &self.0.metrics;
        metrics.cloud_calls.with_label_values(&[provider.as_str(), operation]).inc();
        metrics.cloud_seconds.with_label_values(&[provider.as_str(), operation]).observe(duration.as_secs_f64());
        if let Some(class) = error {
            metrics.cloud_errors.with_label_values(&[provider.as_str(), operation, class]).inc();
        }
    }

    /// A call of OpenStack's as openstacksdk counts it, to statsd only; `name` is without the status, which is `None` if
    /// there was no answer (`openstacksdk: proxy.py _report_stats_statsd`). `server`: host and port of another statsd server
    /// than the process's own, as clouds.yaml may name one.
    pub fn sdk_call(&self, server: Option<&(String, u16)>, name: &str, status: Option<u16>, duration: Duration) {
        let other = server.map(|server| self.other_server(server));
        let Some(statsd) = other.as_deref().or(self.0.statsd.as_ref()) else { return };
        let pipeline = statsd.pipeline(false);
        if let Some(status) = status {
            let answered = format!("{name}.{status}");
            pipeline.timing(&answered, duration);
            pipeline.count(&answered, 1);
            if duration > Duration::from_secs(1) {
                pipeline.count(&format!("{name}.over_1000"), 1);
            }
        } else {
            pipeline.count(&format!("{name}.failed"), 1);
        }
        pipeline.count(&format!("{name}.attempted"), 1);
    }

    /// A host key scan has ended.
    pub fn host_key_scan(&self, provider: &ProviderName, ok: bool, duration: Duration) {
        let result = if ok { "ok" } else { "timeout" };
        let histogram = self.0.metrics.host_key_scans.with_label_values(&[provider.as_str(), result]);
        histogram.observe(duration.as_secs_f64());
    }

    /// One pass of planning has ended.
    pub fn plan(&self, duration: Duration) {
        self.0.metrics.plan_seconds.observe(duration.as_secs_f64());
    }

    /// For how many seconds a pass has been due and none has ended.
    pub fn pass_due_for(&self, seconds: u32) {
        self.0.metrics.pass_due.set(f64::from(seconds));
    }

    /// A build has ended, at that time. `sizes`: the bytes that each format's file takes on the disk, where it ended well
    /// (`nodepool 11.0.0: builder.py _buildImage`).
    pub fn image_built(
        &self,
        image: &ImageName,
        ok: bool,
        code: i32,
        duration: Duration,
        sizes: &[(String, u64)],
        at: Timestamp,
    ) {
        let metrics = &self.0.metrics;
        let result = if ok { "ready" } else { "failed" };
        metrics.image_builds.with_label_values(&[image.as_str(), result]).inc();
        metrics.image_build_seconds.with_label_values(&[image.as_str()]).set(duration.as_secs_f64());
        #[allow(clippy::cast_precision_loss)] // sizes of files
        let sizes = sizes.iter().map(|(format, size)| (format, *size as f64));
        for (format, size) in sizes.clone() {
            metrics.image_bytes.with_label_values(&[image.as_str(), format.as_str()]).set(size);
        }
        let now = at.floor();
        if ok {
            metrics.image_built_at.set(&[image.as_str()], now);
        }
        let Some(statsd) = &self.0.statsd else { return };
        let pipeline = statsd.pipeline(true);
        let base = format!("nodepool.dib_image_build.{image}");
        for (format, size) in sizes {
            pipeline.gauge(&format!("{base}.{format}.size"), size);
        }
        pipeline.timing(&format!("{base}.status.duration"), duration);
        pipeline.gauge(&format!("{base}.status.rc"), f64::from(code));
        pipeline.gauge(&format!("{base}.status.last_build"), now);
    }

    /// An upload has ended well.
    pub fn image_uploaded(&self, image: &ImageName, provider: &ProviderName, duration: Duration) {
        let metrics = &self.0.metrics;
        metrics.image_uploads.with_label_values(&[image.as_str(), provider.as_str()]).inc();
        metrics
            .image_upload_seconds
            .with_label_values(&[image.as_str(), provider.as_str()])
            .set(duration.as_secs_f64());
        if let Some(statsd) = &self.0.statsd {
            let pipeline = statsd.pipeline(false);
            let name = format!("nodepool.image_update.{image}.{provider}");
            pipeline.timing(&name, duration);
            pipeline.count(&name, 1);
        }
    }

    /// What a builder does with each image, and what is asked for; sent as often as it is called. `host`
    /// is the full host name, dots and all.
    pub fn builder(&self, host: &str, work: &BuilderWork) {
        let mut gauges = BTreeMap::new();
        for (image, state) in &work.builds {
            self.0.metrics.builder_build.with_label_values(&[image.as_str()]).set(f64::from(*state as u8));
            gauges.insert(format!("nodepool.builder.{host}.image.{image}.build.state"), f64::from(*state as u8));
        }
        for ((image, provider), state) in &work.uploads {
            let labels = [image.as_str(), provider.as_str()];
            self.0.metrics.builder_upload.with_label_values(&labels).set(f64::from(*state as u8));
            let name = format!("nodepool.builder.{host}.image.{image}.provider.{provider}.upload.state");
            gauges.insert(name, f64::from(*state as u8));
        }
        for (image, requests) in &work.requests {
            gauges.insert(format!("nodepool.image.{image}.image_build_requests"), number(*requests));
        }
        gauges.insert("nodepool.image_build_requests".to_owned(), number(work.requests.values().sum()));
        self.report("builder", gauges, true);
    }

    fn gauge(&self, name: &str, value: f64) {
        if let Some(statsd) = &self.0.statsd {
            statsd.pipeline(false).gauge(name, value);
        }
    }

    /// Sends a report's gauges, and zeros for those that it no longer has.
    fn report(&self, what: &'static str, gauges: BTreeMap<String, f64>, force: bool) {
        let Some(statsd) = &self.0.statsd else { return };
        let pipeline = statsd.pipeline(force);
        for (name, value) in &gauges {
            pipeline.gauge(name, *value);
        }
        let names = gauges.into_keys().collect::<BTreeSet<_>>();
        let mut reported = self.0.reported.lock().unwrap_or_else(PoisonError::into_inner);
        let before = reported.insert(what, names).unwrap_or_default();
        for gone in reported.get(what).into_iter().flat_map(|names| before.difference(names)) {
            pipeline.gauge(gone, 0.0);
        }
    }
}

/// A part of a statsd name that comes from people: `.` separates parts, `:` ends the name (`nodepool 11.0.0:
/// stats.py normalize_statsd_name`).
fn normalized(part: &str) -> String {
    part.replace(['.', ':'], "_")
}

#[allow(clippy::cast_precision_loss)] // nobody has 2^52 nodes
fn number(n: usize) -> f64 {
    n as f64
}

fn flag(yes: bool) -> f64 {
    f64::from(u8::from(yes))
}

#[cfg(test)]
mod tests;
