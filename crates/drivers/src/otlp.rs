//! Exports spans ([`nodepool_common::trace`]) to a collector, as OTLP over HTTP.
//!
//! It stands here because this crate is where HTTP is spoken. It is off unless the environment names a collector, by the variables that
//! every program with OpenTelemetry has, Zuul's services among them where they are not set in zuul.conf:
//!
//! | variable | |
//! |---|---|
//! | `OTEL_EXPORTER_OTLP_ENDPOINT`, `OTEL_EXPORTER_OTLP_TRACES_ENDPOINT` | the collector: `http://HOST:4318`, the second one with its path |
//! | `OTEL_EXPORTER_OTLP_PROTOCOL`, `…_TRACES_PROTOCOL` | `http/protobuf`; another one is an error: nothing is exported |
//! | `OTEL_EXPORTER_OTLP_HEADERS`, `…_TRACES_HEADERS`, `…_TIMEOUT` | as everywhere |
//! | `OTEL_EXPORTER_OTLP_CERTIFICATE`, `…_TRACES_CERTIFICATE` | a file with the certificates to trust, PEM |
//! | `OTEL_SERVICE_NAME`, `OTEL_RESOURCE_ATTRIBUTES` | who we are; by default the program's name |
//! | `OTEL_SDK_DISABLED=true`, `OTEL_TRACES_EXPORTER=none` | nothing is exported |
//!
//! What the root of a trace leaves out is left out; `OTEL_TRACES_SAMPLER` is not looked at. Spans are sent every few seconds, many at once.
//! What a collector does not take is lost: nothing waits for it, and the log says so once, and once more when it takes spans again.

use std::{
    borrow::Cow,
    env, fs,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use async_trait::async_trait;
use bytes::Bytes;
use nodepool_common::{
    model::Timestamp,
    sys::{Ambient, causes::with_causes, host},
    trace::{Ended, SpanContext, Tracer, Value},
};
use opentelemetry::{
    Array, InstrumentationScope, KeyValue, StringValue,
    trace::{SpanId, SpanKind, Status, TraceFlags, TraceId, TraceState},
};
use opentelemetry_http::{HttpClient, HttpError, Request, Response};
use opentelemetry_otlp::{SpanExporter, WithHttpConfig as _};
use opentelemetry_sdk::{
    Resource,
    trace::{SpanData, SpanEvents, SpanExporter as _, SpanLinks},
};
use tokio::{
    sync::{mpsc, oneshot},
    time::Instant,
};
use tracing::{error, info, warn};

use crate::http_client;

const LOGGER: &str = "nodepool.Tracing";
/// Spans are sent after so long, or when there are so many.
const EVERY: Duration = Duration::from_secs(5);
const AT_ONCE: usize = 512;
/// How long a collector may take, unless the environment says otherwise.
const TIMEOUT: Duration = Duration::from_secs(10);
/// More of an answer is not read: it says what was refused, if anything.
const LONGEST_ANSWER: usize = 64 << 10;

/// Exports what a tracer brings. Keep it until the end.
#[derive(Debug)]
pub struct Exporting(mpsc::Sender<oneshot::Sender<()>>);

impl Exporting {
    /// Has all spans sent that have ended, for no longer than that.
    pub async fn flush(self, within: Duration) {
        let (done, is_done) = oneshot::channel();
        if self.0.send(done).await.is_ok() {
            let _ = tokio::time::timeout(within, is_done).await;
        }
    }
}

/// Begins to export spans, in a runtime, where the environment names a collector; else the tracer is off. So it is where the
/// environment cannot be used: the log says why, and all else goes on.
pub fn start(service: &str, ambient: &Ambient) -> (Tracer, Option<Exporting>) {
    if !is_wanted() {
        return (Tracer::default(), None);
    }
    match exporter(service) {
        Ok(exporter) => {
            info!(logger = LOGGER, "Spans are exported to {}", place());
            let (tracer, ended) = Tracer::new(ambient.clone());
            let (flush, flushes) = mpsc::channel(1);
            tokio::spawn(export(exporter, tracer.clone(), ended, flushes));
            (tracer, Some(Exporting(flush)))
        }
        Err(why) => {
            error!(logger = LOGGER, "No spans are exported: {why}");
            (Tracer::default(), None)
        }
    }
}

fn exporter(service: &str) -> Result<SpanExporter, String> {
    let protocol = variable("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL").or_else(|| variable("OTEL_EXPORTER_OTLP_PROTOCOL"));
    if let Some(other) = protocol.filter(|protocol| protocol != "http/protobuf") {
        return Err(format!("OTEL_EXPORTER_OTLP_PROTOCOL is {other}, and only http/protobuf is spoken"));
    }
    let client = Client(client()?);
    let mut exporter = SpanExporter::builder()
        .with_http()
        .with_http_client(client)
        .build()
        .map_err(|error| format!("the variables of the environment (OTEL_…) cannot be used: {error}"))?;
    exporter.set_resource(&resource(service));
    Ok(exporter)
}

fn variable(name: &str) -> Option<String> {
    env::var(name).ok().filter(|value| !value.is_empty())
}

fn endpoint() -> Option<String> {
    variable("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT").or_else(|| variable("OTEL_EXPORTER_OTLP_ENDPOINT"))
}

/// The collector's host, for people: an address may have a password in it.
fn place() -> String {
    let url = endpoint().and_then(|endpoint| reqwest::Url::parse(&endpoint).ok());
    let host = |url: &reqwest::Url| Some(format!("{}:{}", url.host_str()?, url.port_or_known_default()?));
    url.as_ref().and_then(host).unwrap_or_else(|| "a collector".to_owned())
}

fn is_wanted() -> bool {
    let is_off = variable("OTEL_SDK_DISABLED").is_some_and(|value| value.eq_ignore_ascii_case("true"));
    endpoint().is_some() && !is_off && variable("OTEL_TRACES_EXPORTER").is_none_or(|exporter| exporter != "none")
}

fn resource(service: &str) -> Resource {
    let mut resource = Resource::builder();
    let is_named = variable("OTEL_SERVICE_NAME").is_some()
        || variable("OTEL_RESOURCE_ATTRIBUTES").is_some_and(|all| all.contains("service.name="));
    if !is_named {
        resource = resource.with_service_name(service.to_owned());
    }
    resource.with_attribute(KeyValue::new("host.name", host::hostname())).build()
}

fn client() -> Result<reqwest::Client, String> {
    let mut builder = http_client::builder().redirect(reqwest::redirect::Policy::none()).timeout(timeout());
    let name = "OTEL_EXPORTER_OTLP_CERTIFICATE";
    if let Some(file) = variable("OTEL_EXPORTER_OTLP_TRACES_CERTIFICATE").or_else(|| variable(name)) {
        let unusable =
            |error: &dyn std::fmt::Display| format!("the certificates in {file} ({name}) cannot be used: {error}");
        let pem = fs::read(&file).map_err(|error| unusable(&error))?;
        for certificate in reqwest::Certificate::from_pem_bundle(&pem).map_err(|error| unusable(&error))? {
            builder = builder.add_root_certificate(certificate);
        }
    }
    builder.build().map_err(|error| with_causes(&error))
}

/// In milliseconds, as OpenTelemetry has it.
fn timeout() -> Duration {
    let set = variable("OTEL_EXPORTER_OTLP_TRACES_TIMEOUT").or_else(|| variable("OTEL_EXPORTER_OTLP_TIMEOUT"));
    set.and_then(|milliseconds| milliseconds.parse().ok()).map_or(TIMEOUT, Duration::from_millis)
}

/// Ours, for the exporter.
#[derive(Debug)]
struct Client(reqwest::Client);

#[async_trait]
impl HttpClient for Client {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let request = reqwest::Request::try_from(request)?;
        let mut answer = self.0.execute(request).await.map_err(|error| with_causes(&error.without_url()))?;
        let mut response = Response::builder().status(answer.status());
        for (name, value) in answer.headers() {
            response = response.header(name, value);
        }
        let mut body = Vec::new();
        while let Some(part) = answer.chunk().await? {
            body.extend_from_slice(&part);
            if body.len() > LONGEST_ANSWER {
                return Err(format!("its answer is larger than {LONGEST_ANSWER} bytes").into());
            }
        }
        Ok(response.body(body.into())?)
    }
}

async fn export(
    exporter: SpanExporter,
    tracer: Tracer,
    mut ended: mpsc::Receiver<Ended>,
    mut flushes: mpsc::Receiver<oneshot::Sender<()>>,
) {
    let scope = InstrumentationScope::builder("nodepool").with_version(env!("CARGO_PKG_VERSION")).build();
    let mut trouble = false;
    loop {
        let mut batch = Vec::new();
        let mut done = None;
        let deadline = Instant::now() + EVERY;
        while batch.len() < AT_ONCE && done.is_none() {
            tokio::select! {
                biased;
                span = ended.recv() => match span {
                    Some(span) => batch.push(data(span, &scope)),
                    None => return,
                },
                // After the last of them: what has ended before is in front of it.
                flush = flushes.recv() => match flush {
                    Some(flush) => done = Some(flush),
                    None => return,
                },
                () = tokio::time::sleep_until(deadline) => break,
            }
        }
        let number = batch.len();
        if number > 0 {
            let is_lost = exporter.export(batch).await.err();
            match &is_lost {
                None if trouble => info!(logger = LOGGER, "The collector takes spans again"),
                Some(error) if !trouble => {
                    warn!(
                        logger = LOGGER,
                        "{number} spans are lost, and those that follow: the collector does not take them: {error}"
                    );
                }
                _ => {}
            }
            trouble = is_lost.is_some();
        }
        let dropped = tracer.take_dropped();
        if dropped > 0 && !trouble {
            warn!(logger = LOGGER, "{dropped} spans are lost: the collector is too slow");
        }
        if let Some(done) = done {
            let _ = done.send(());
        }
    }
}

/// A span as the exporter takes it.
fn data(span: Ended, scope: &InstrumentationScope) -> SpanData {
    let Ended { name, context, parent, is_call, start, end, attributes, error } = span;
    SpanData {
        span_context: otel(context),
        parent_span_id: parent.map_or(SpanId::INVALID, |parent| SpanId::from(parent.context.span)),
        parent_span_is_remote: parent.is_some_and(|parent| parent.is_remote),
        span_kind: if is_call { SpanKind::Client } else { SpanKind::Internal },
        name: Cow::Borrowed(name),
        start_time: time(start),
        end_time: time(end),
        attributes: attributes.into_iter().map(|(name, value)| KeyValue::new(name, attribute(value))).collect(),
        dropped_attributes_count: 0,
        events: SpanEvents::default(),
        links: SpanLinks::default(),
        status: error.map_or(Status::Unset, Status::error),
        instrumentation_scope: scope.clone(),
    }
}

fn otel(context: SpanContext) -> opentelemetry::trace::SpanContext {
    opentelemetry::trace::SpanContext::new(
        TraceId::from(context.trace),
        SpanId::from(context.span),
        if context.is_sampled { TraceFlags::SAMPLED } else { TraceFlags::default() },
        false,
        TraceState::default(),
    )
}

fn attribute(value: Value) -> opentelemetry::Value {
    match value {
        Value::Text(text) => text.into(),
        Value::Number(number) => number.into(),
        Value::Texts(texts) => {
            opentelemetry::Value::Array(Array::String(texts.into_iter().map(StringValue::from).collect()))
        }
    }
}

fn time(at: Timestamp) -> SystemTime {
    UNIX_EPOCH + Duration::try_from_secs_f64(at).unwrap_or_default()
}
