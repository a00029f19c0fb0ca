//! Answers and their headers, as upstream's `WebOb` writes them.

use std::sync::Arc;

use axum::{
    body::{Body, Bytes},
    http::{HeaderValue, StatusCode, header},
    response::Response,
};
use chrono::{DateTime, NaiveDateTime, Utc};
use nodepool_common::model::{Timestamp, wire::to_python_json};
use serde_json::json;

use super::accept::{Format, Page, negotiate_page};

/// `WebOb` adds a charset to texts only.
pub(super) const JSON: &str = "application/json";
const TEXT: &str = "text/plain; charset=UTF-8";
const HTML: &str = "text/html; charset=UTF-8";

/// How long an answer is good, in seconds; clients are told the same.
pub(super) const EXPIRY: Timestamp = 1.0;

const HTTP_DATE: &str = "%a, %d %b %Y %H:%M:%S GMT";

/// A body and the time it was made.
#[derive(Clone, Debug)]
pub(super) struct Document {
    pub(super) made: Timestamp,
    pub(super) body: Arc<str>,
}

impl Document {
    /// For an answer: all that are on their way share the memory.
    pub(super) fn shared(&self) -> Bytes {
        struct Shared(Arc<str>);
        impl AsRef<[u8]> for Shared {
            fn as_ref(&self) -> &[u8] {
                self.0.as_bytes()
            }
        }
        Bytes::from_owner(Shared(Arc::clone(&self.body)))
    }
}

/// Why there is no document.
#[derive(Clone, Debug)]
pub(super) struct Refusal {
    pub(super) status: StatusCode,
    pub(super) explanation: &'static str,
    /// More, for people; may be empty.
    pub(super) detail: String,
}

impl Refusal {
    pub(super) fn new(status: StatusCode, explanation: &'static str) -> Self {
        Self { status, explanation, detail: String::new() }
    }
}

/// 200, or 304 where the client has it already.
pub(super) fn document(document: &Document, format: Format, if_modified_since: Option<&HeaderValue>) -> Response {
    #[allow(clippy::cast_possible_truncation)] // cut to whole seconds, as the header has them
    let made = document.made as i64;
    let mut response = if if_modified_since.and_then(parse_date).is_some_and(|since| made <= since) {
        let mut response = Response::new(Body::empty());
        *response.status_mut() = StatusCode::NOT_MODIFIED;
        response
    } else {
        plain(if format == Format::Json { JSON } else { TEXT }, document.shared())
    };
    #[allow(clippy::cast_possible_truncation)]
    let expires = (document.made + EXPIRY) as i64;
    let headers = response.headers_mut();
    headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("max-age=1, public"));
    headers.insert(header::LAST_MODIFIED, header_value(&date(made)));
    headers.insert(header::EXPIRES, header_value(&date(expires)));
    response
}

/// 200 and nothing but the content.
pub(super) fn plain(content_type: &'static str, body: impl Into<Body>) -> Response {
    let mut response = Response::new(body.into());
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

/// An error in the format that the client prefers.
pub(super) fn refusal(refusal: &Refusal, accept: Option<&str>) -> Response {
    let status = refusal.status;
    let title = status.canonical_reason().unwrap_or_default();
    let (explanation, detail) = (refusal.explanation, &refusal.detail);
    let mut response = match negotiate_page(accept) {
        Page::Text => plain(TEXT, format!("{} {title}\n\n{explanation}\n\n {detail}  ", status.as_str())),
        Page::Html => {
            let detail = detail.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
            plain(
                HTML,
                format!(
                    "<html>\n <head>\n  <title>{code} {title}</title>\n </head>\n <body>\n  <h1>{code} {title}</h1>\n  \
                     {explanation}<br /><br />\n{detail}\n\n\n </body>\n</html>",
                    code = status.as_str()
                ),
            )
        }
        Page::Json => plain(
            JSON,
            to_python_json(&json!({
                "message": format!("{explanation}<br /><br />\n{detail}\n\n"),
                "code": format!("{} {title}", status.as_str()),
                "title": title,
            })),
        ),
    };
    *response.status_mut() = status;
    response
}

/// The one answer that cannot be in a format the client wants.
pub(super) fn not_acceptable(accept: &str) -> Response {
    let mut response = plain(
        TEXT,
        format!(
            "406 Not Acceptable\n\nThis is available as text/plain and application/json. The request's Accept header \
             takes neither: {accept:?}. Leave it out for text, or send \"Accept: application/json\".\n"
        ),
    );
    *response.status_mut() = StatusCode::NOT_ACCEPTABLE;
    response
}

fn date(seconds: i64) -> String {
    DateTime::<Utc>::from_timestamp(seconds, 0).unwrap_or_default().format(HTTP_DATE).to_string()
}

/// Epoch seconds; `None`, which is "always modified", where it is no date.
fn parse_date(value: &HeaderValue) -> Option<i64> {
    let text = value.to_str().ok()?.trim();
    NaiveDateTime::parse_from_str(text, HTTP_DATE).ok().map(|date| date.and_utc().timestamp())
}

/// A header value made of a constant or a date: visible ASCII, always.
fn header_value(text: &str) -> HeaderValue {
    HeaderValue::from_str(text).unwrap_or_else(|_| HeaderValue::from_static(""))
}
