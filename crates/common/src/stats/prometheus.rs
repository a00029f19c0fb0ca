//! The Prometheus side: labels where statsd has parts of names.

use prometheus::{
    Encoder as _, Gauge, GaugeVec, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, Opts, Registry,
    TextEncoder, core::Collector,
};

use super::replaced::Replaced;

/// Seconds: from a cached lookup to a slow cloud call.
const CALLS: &[f64] = &[0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0];
/// Seconds: launches and requests take from a second to an hour.
const LAUNCHES: &[f64] =
    &[1.0, 2.5, 5.0, 10.0, 20.0, 30.0, 45.0, 60.0, 90.0, 120.0, 180.0, 300.0, 600.0, 1800.0, 3600.0];
/// Seconds: planning is a matter of microseconds to, at a million requests, seconds.
const PLANS: &[f64] = &[0.0001, 0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0];
/// Seconds: a reply takes less than a millisecond where ZooKeeper has nothing else to do, and a session is over after ten seconds.
const REPLIES: &[f64] = &[0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0];

/// Every metric. The help texts are the documentation.
#[derive(Debug)]
#[allow(missing_docs)]
pub struct Metrics {
    registry: Registry,
    pub launches: IntCounterVec,
    pub launch_seconds: HistogramVec,
    pub requestor_launches: IntCounterVec,
    pub nodes: GaugeVec,
    pub provider_nodes: Replaced,
    pub label_nodes: Replaced,
    pub addressable_requests: Replaced,
    pub node_requests: GaugeVec,
    pub builders: GaugeVec,
    pub oldest_request: Replaced,
    pub oldest_node: Replaced,
    pub pool_paused: GaugeVec,
    pub pool_paused_by_person: GaugeVec,
    pub max_servers: GaugeVec,
    pub provider_up: Replaced,
    pub waiting_requests: Replaced,
    pub provider_quota: Replaced,
    pub provider_used: Replaced,
    pub provider_used_by_others: Replaced,
    pub pool_limit: Replaced,
    pub pool_used: Replaced,
    pub tenant_limit: GaugeVec,
    pub leaked: IntCounterVec,
    pub held_back: Replaced,
    pub zk_queue: GaugeVec,
    pub zk_connected: Gauge,
    pub zk_sessions: IntCounter,
    pub zk_replies: Histogram,
    pub config_valid: Gauge,
    pub config_reload_failures: IntCounter,
    pub requests: IntCounterVec,
    pub request_seconds: HistogramVec,
    pub cloud_calls: IntCounterVec,
    pub cloud_errors: IntCounterVec,
    pub cloud_seconds: HistogramVec,
    pub host_key_scans: HistogramVec,
    pub plan_seconds: Histogram,
    pub pass_due: Gauge,
    pub image_builds: IntCounterVec,
    pub image_build_seconds: GaugeVec,
    pub image_built_at: Replaced,
    pub image_failed_at: Replaced,
    pub image_uploaded_at: Replaced,
    pub image_bytes: GaugeVec,
    pub image_uploads: IntCounterVec,
    pub image_upload_seconds: GaugeVec,
    pub builder_build: GaugeVec,
    pub builder_upload: GaugeVec,
}

/// Sets the gauge of a pool; `None`: there is none any more.
pub fn set_of_pool(gauge: &GaugeVec, labels: [&str; 2], value: Option<bool>) {
    match value {
        Some(value) => gauge.with_label_values(&labels).set(f64::from(u8::from(value))),
        // It fails for one that was never reported.
        None => drop(gauge.remove_label_values(&labels)),
    }
}

impl Metrics {
    /// All metrics in a registry of their own, at zero.
    pub fn new() -> Self {
        let registry = Registry::new();
        let r = &registry;
        Self {
            launches: counters(
                r,
                "nodepool_launches_total",
                "Launch attempts by result",
                &["provider", "az", "result"],
            ),
            launch_seconds: histograms(
                r,
                "nodepool_launch_seconds",
                "Duration of launch attempts",
                &["provider", "label", "result"],
                LAUNCHES,
            ),
            requestor_launches: counters(
                r,
                "nodepool_requestor_launches_total",
                "Launch attempts by who requested the node",
                &["requestor", "result"],
            ),
            nodes: gauges(r, "nodepool_nodes", "Nodes by state; only the elected leader reports", &["state"]),
            provider_nodes: replaced(
                r,
                "nodepool_provider_nodes",
                "Nodes of a provider by state; only the elected leader reports",
                &["provider", "state"],
            ),
            label_nodes: replaced(
                r,
                "nodepool_label_nodes",
                "Nodes with a label by state; only the elected leader reports",
                &["label", "state"],
            ),
            addressable_requests: replaced(
                r,
                "nodepool_pool_addressable_requests",
                "Requests all of whose labels the pool supports; only the elected leader reports",
                &["provider", "pool"],
            ),
            node_requests: gauges(
                r,
                "nodepool_node_requests",
                "Node requests by state; only the elected leader reports",
                &["state"],
            ),
            builders: gauges(r, "nodepool_builders", "Registered builders; only the elected leader reports", &[]),
            oldest_request: replaced(
                r,
                "nodepool_oldest_request_timestamp_seconds",
                "When the oldest request of Zuul's for the label was made that still waits, in seconds since the epoch; \
                 only the elected leader reports",
                &["label"],
            ),
            oldest_node: replaced(
                r,
                "nodepool_oldest_node_timestamp_seconds",
                "Since when the provider's node is in the state that is longest in it, in seconds since the epoch; \
                 only the elected leader reports",
                &["provider", "state"],
            ),
            pool_paused: gauges(
                r,
                "nodepool_pool_paused",
                "Whether this launcher's pool takes no request for lack of quota",
                &["provider", "pool"],
            ),
            pool_paused_by_person: gauges(
                r,
                "nodepool_pool_paused_by_person",
                "Whether a person of the site has paused this launcher's pool, or its provider",
                &["provider", "pool"],
            ),
            max_servers: gauges(
                r,
                "nodepool_provider_max_servers",
                "Sum of max-servers of the provider's pools; +Inf: unlimited",
                &["provider"],
            ),
            provider_up: replaced(
                r,
                "nodepool_provider_up",
                "Whether the provider has started and its cloud answers",
                &["provider"],
            ),
            waiting_requests: replaced(
                r,
                "nodepool_waiting_requests",
                "Requests that a pool of this launcher leaves waiting, by the code of the reason",
                &["provider", "pool", "reason"],
            ),
            provider_quota: replaced(
                r,
                "nodepool_provider_quota",
                "What the cloud allows the project, as it was last asked; ram in MiB; not there where it is unlimited",
                &["provider", "resource"],
            ),
            provider_used: replaced(
                r,
                "nodepool_provider_used",
                "What nodes of the provider use, by the records; ram in MiB",
                &["provider", "resource"],
            ),
            provider_used_by_others: replaced(
                r,
                "nodepool_provider_used_by_others",
                "What others in the project use of the quota, as the cloud was last asked; ram in MiB",
                &["provider", "resource"],
            ),
            pool_limit: replaced(
                r,
                "nodepool_pool_limit",
                "The limits of a pool of this launcher (max-servers and the like); ram in MiB",
                &["provider", "pool", "resource"],
            ),
            pool_used: replaced(
                r,
                "nodepool_pool_used",
                "What is used of a pool's limits; ram in MiB",
                &["provider", "pool", "resource"],
            ),
            tenant_limit: gauges(
                r,
                "nodepool_tenant_limit",
                "tenant-resource-limits; +Inf: unlimited",
                &["tenant", "resource"],
            ),
            leaked: counters(
                r,
                "nodepool_leaked_resources_total",
                "Cloud resources without a record that were deleted",
                &["provider", "resource"],
            ),
            held_back: replaced(
                r,
                "nodepool_leaks_held_back",
                "Cloud resources without a record that are not removed until nodepool leaks --remove allows it",
                &["provider", "resource"],
            ),
            zk_queue: gauges(r, "nodepool_zk_queue", "Work that waits in the ZooKeeper client", &["queue"]),
            zk_connected: gauge(r, "nodepool_zk_connected", "Whether there is a ZooKeeper session"),
            zk_sessions: counter(r, "nodepool_zk_sessions_total", "ZooKeeper sessions established"),
            zk_replies: register(
                r,
                Histogram::with_opts(
                    HistogramOpts::new("nodepool_zk_reply_seconds", "From each request to ZooKeeper to its reply")
                        .buckets(REPLIES.to_vec()),
                ),
            ),
            config_valid: gauge(r, "nodepool_config_valid", "Whether the configuration file as it is now is in use"),
            config_reload_failures: counter(
                r,
                "nodepool_config_reload_failures_total",
                "Changed configurations that could not be used",
            ),
            requests: counters(
                r,
                "nodepool_requests_total",
                "Decisions about requests: accepted, declined, fulfilled, failed, paused",
                &["provider", "pool", "decision"],
            ),
            request_seconds: histograms(
                r,
                "nodepool_request_seconds",
                "From a request's creation to its fulfilment",
                &["provider", "pool", "label"],
                LAUNCHES,
            ),
            cloud_calls: counters(
                r,
                "nodepool_cloud_calls_total",
                "Calls of a cloud's API, failed ones included",
                &["provider", "operation"],
            ),
            cloud_errors: counters(
                r,
                "nodepool_cloud_errors_total",
                "Calls of a cloud's API that failed",
                &["provider", "operation", "class"],
            ),
            cloud_seconds: histograms(
                r,
                "nodepool_cloud_call_seconds",
                "Duration of calls of a cloud's API",
                &["provider", "operation"],
                CALLS,
            ),
            host_key_scans: histograms(
                r,
                "nodepool_host_key_scan_seconds",
                "Duration of host key scans",
                &["provider", "result"],
                LAUNCHES,
            ),
            plan_seconds: register(
                r,
                Histogram::with_opts(
                    HistogramOpts::new("nodepool_plan_seconds", "Duration of one pass of planning")
                        .buckets(PLANS.to_vec()),
                ),
            ),
            pass_due: gauge(r, "nodepool_pass_due_seconds", "For how long a pass has been due and none has ended"),
            image_builds: counters(
                r,
                "nodepool_image_builds_total",
                "Builds of images by result",
                &["image", "result"],
            ),
            image_build_seconds: gauges(r, "nodepool_image_build_seconds", "Duration of the last build", &["image"]),
            image_built_at: replaced(
                r,
                "nodepool_image_built_timestamp_seconds",
                "When the last build that worked ended, in seconds since the epoch; 0: all have failed. \
                 Of launchers only the elected leader reports",
                &["image"],
            ),
            image_failed_at: replaced(
                r,
                "nodepool_image_failed_timestamp_seconds",
                "When the last build that failed ended, in seconds since the epoch; only the elected leader reports",
                &["image"],
            ),
            image_uploaded_at: replaced(
                r,
                "nodepool_image_uploaded_timestamp_seconds",
                "When the last upload that worked ended, in seconds since the epoch; 0: there is none; \
                 only the elected leader reports",
                &["image", "provider"],
            ),
            image_bytes: gauges(
                r,
                "nodepool_image_bytes",
                "What the last build takes on the builder's disk",
                &["image", "format"],
            ),
            image_uploads: counters(r, "nodepool_image_uploads_total", "Uploads that worked", &["image", "provider"]),
            image_upload_seconds: gauges(
                r,
                "nodepool_image_upload_seconds",
                "Duration of the last upload that worked",
                &["image", "provider"],
            ),
            builder_build: gauges(
                r,
                "nodepool_builder_build_state",
                "What this builder does with an image: 0 nothing, 1 builds it, 3 nothing because it is paused",
                &["image"],
            ),
            builder_upload: gauges(
                r,
                "nodepool_builder_upload_state",
                "What this builder does with an image and a provider: 0 nothing, 2 uploads it, 3 nothing because it is paused",
                &["image", "provider"],
            ),
            registry,
        }
    }

    /// All metrics in the text format.
    pub fn render(&self) -> String {
        let mut text = Vec::new();
        // Writing to memory fails only for a metric without samples, which gather() leaves out.
        let _ = TextEncoder::new().encode(&self.registry.gather(), &mut text);
        let text = String::from_utf8_lossy(&text);
        // The crate writes infinity as Rust does; the format's spelling is `+Inf`.
        text.lines()
            .map(|line| line.strip_suffix(" inf").map_or(format!("{line}\n"), |name| format!("{name} +Inf\n")))
            .collect()
    }
}

/// Names, labels and help texts are constants of this file: if one is wrong, every test of this module fails.
#[allow(clippy::expect_used)]
fn register<M: Collector + Clone + 'static>(registry: &Registry, metric: prometheus::Result<M>) -> M {
    let metric = metric.expect("a metric's name or labels are invalid");
    registry.register(Box::new(metric.clone())).expect("a metric is declared twice");
    metric
}

fn gauge(registry: &Registry, name: &str, help: &str) -> Gauge {
    register(registry, Gauge::new(name, help))
}

fn counter(registry: &Registry, name: &str, help: &str) -> IntCounter {
    register(registry, IntCounter::new(name, help))
}

fn gauges(registry: &Registry, name: &str, help: &str, labels: &[&str]) -> GaugeVec {
    register(registry, GaugeVec::new(Opts::new(name, help), labels))
}

fn replaced(registry: &Registry, name: &str, help: &str, labels: &[&str]) -> Replaced {
    Replaced::new(gauges(registry, name, help, labels))
}

fn counters(registry: &Registry, name: &str, help: &str, labels: &[&str]) -> IntCounterVec {
    register(registry, IntCounterVec::new(Opts::new(name, help), labels))
}

fn histograms(registry: &Registry, name: &str, help: &str, labels: &[&str], buckets: &[f64]) -> HistogramVec {
    register(registry, HistogramVec::new(HistogramOpts::new(name, help).buckets(buckets.to_vec()), labels))
}
