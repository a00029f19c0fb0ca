//! [`SpanCollector`]: takes spans over HTTP as an OpenTelemetry collector does, and keeps them.
//!
//! It reads what was sent with the messages of OTLP itself. A real one also takes gRPC and JSON, and passes everything on.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    net::{Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex, PoisonError},
};

use axum::{
    Router,
    body::Bytes,
    http::{HeaderMap, StatusCode},
    routing::post,
};
use opentelemetry_proto::tonic::{
    collector::trace::v1::ExportTraceServiceRequest,
    common::v1::{AnyValue, KeyValue, any_value::Value},
};
use prost::Message as _;
use tokio::{net::TcpListener, task::JoinHandle};

/// Takes spans, until it is dropped.
#[derive(Debug)]
pub struct SpanCollector {
    address: SocketAddr,
    spans: Arc<Mutex<Vec<Spanned>>>,
    task: JoinHandle<()>,
}

/// A span as it was sent.
#[derive(Clone, Debug, PartialEq)]
pub struct Spanned {
    /// Who sent it: `service.name`.
    pub service: String,
    /// What was done.
    pub name: String,
    /// The trace, in hexadecimal digits.
    pub trace: String,
    /// The span, likewise.
    pub id: String,
    /// The span above it; empty: there is none.
    pub parent: String,
    /// Nanoseconds since the epoch.
    pub start: u64,
    /// Likewise.
    pub end: u64,
    /// By their names, as text.
    pub attributes: BTreeMap<String, String>,
    /// Why it failed.
    pub error: Option<String>,
    /// Its `authorization` header.
    pub authorization: Option<String>,
}

impl SpanCollector {
    /// On a free port.
    pub async fn start() -> Self {
        Self::on(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).await
    }

    /// On that address.
    pub async fn on(address: SocketAddr) -> Self {
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        let spans = Arc::<Mutex<Vec<Spanned>>>::default();
        let kept = Arc::clone(&spans);
        let take = async move |headers: HeaderMap, body: Bytes| {
            let Ok(sent) = ExportTraceServiceRequest::decode(body) else { return StatusCode::BAD_REQUEST };
            let authorization = headers.get("authorization").and_then(|value| value.to_str().ok()).map(str::to_owned);
            kept.lock().unwrap_or_else(PoisonError::into_inner).extend(spans_of(sent, authorization.as_deref()));
            StatusCode::OK
        };
        let router = Router::new().route("/v1/traces", post(take));
        let task = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self { address, spans, task }
    }

    /// What `OTEL_EXPORTER_OTLP_ENDPOINT` is to be.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// All that was sent so far.
    pub fn spans(&self) -> Vec<Spanned> {
        self.spans.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for SpanCollector {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn spans_of(sent: ExportTraceServiceRequest, authorization: Option<&str>) -> Vec<Spanned> {
    let mut spans = Vec::new();
    for of_resource in sent.resource_spans {
        let resource = attributes(of_resource.resource.map(|resource| resource.attributes).unwrap_or_default());
        let service = resource.get("service.name").cloned().unwrap_or_default();
        for span in of_resource.scope_spans.into_iter().flat_map(|scope| scope.spans) {
            spans.push(Spanned {
                service: service.clone(),
                name: span.name,
                trace: hexadecimal(&span.trace_id),
                id: hexadecimal(&span.span_id),
                parent: hexadecimal(&span.parent_span_id),
                start: span.start_time_unix_nano,
                end: span.end_time_unix_nano,
                attributes: attributes(span.attributes),
                error: span.status.filter(|status| status.code == 2).map(|status| status.message),
                authorization: authorization.map(str::to_owned),
            });
        }
    }
    spans
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").unwrap();
        text
    })
}

fn attributes(all: Vec<KeyValue>) -> BTreeMap<String, String> {
    all.into_iter().map(|KeyValue { key, value, .. }| (key, text(value))).collect()
}

fn text(value: Option<AnyValue>) -> String {
    match value.and_then(|value| value.value) {
        Some(Value::StringValue(text)) => text,
        Some(Value::IntValue(number)) => number.to_string(),
        Some(Value::ArrayValue(array)) => {
            array.values.into_iter().map(|value| text(Some(value))).collect::<Vec<_>>().join(",")
        }
        other => format!("{other:?}"),
    }
}
