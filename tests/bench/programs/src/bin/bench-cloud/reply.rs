//! Calls and answers.

use std::collections::HashMap;

use hyper::body::Incoming;
use hyper::{Method, Request};
use serde_json::{Value, json};

/// What a call asks, beside its path and body.
pub struct Call {
    pub method: Method,
    pub query: HashMap<String, String>,
    /// Nova's microversion: 47 of 2.47.
    pub microversion: u32,
}

impl Call {
    pub fn new(request: &Request<Incoming>) -> Self {
        let header = request.headers().get("openstack-api-version");
        let version = header.and_then(|v| v.to_str().ok()).and_then(|v| v.strip_prefix("compute 2."));
        Self {
            // A HEAD is answered as a GET, without its body.
            method: if request.method() == Method::HEAD { Method::GET } else { request.method().clone() },
            query: query(request.uri().query().unwrap_or_default()),
            microversion: version.and_then(|v| v.trim().parse().ok()).unwrap_or(1),
        }
    }

    /// Whether a filter of the query, if it is there, has this value.
    pub fn wants(&self, key: &str, value: &str) -> bool {
        self.query.get(key).is_none_or(|wanted| wanted.eq_ignore_ascii_case(value))
    }
}

/// An answer in JSON.
pub struct Reply {
    pub status: u16,
    pub body: String,
    pub headers: Vec<(&'static str, String)>,
}

impl Reply {
    pub fn new(status: u16, body: &Value) -> Self {
        Self::text(status, body.to_string())
    }

    pub fn text(status: u16, body: String) -> Self {
        Self { status, body, headers: vec![] }
    }

    pub fn not_found(what: &str) -> Self {
        let message = format!("{what} could not be found.");
        Self::new(404, &json!({"itemNotFound": {"code": 404, "message": message}}))
    }

    pub fn bad(message: &str) -> Self {
        Self::new(400, &json!({"badRequest": {"code": 400, "message": message}}))
    }
}

/// The words of a path.
pub fn segments(path: &str) -> Vec<String> {
    path.split('/').filter(|s| !s.is_empty()).map(unescape).collect()
}

fn query(text: &str) -> HashMap<String, String> {
    let pairs = text.split('&').filter(|pair| !pair.is_empty());
    pairs.map(|pair| pair.split_once('=').unwrap_or((pair, ""))).map(|(k, v)| (unescape(k), unescape(v))).collect()
}

/// `+` and `%41` as what they stand for.
fn unescape(text: &str) -> String {
    let mut out = vec![];
    let mut rest = text.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        let escaped = after.get(..2).filter(|_| first == b'%').and_then(|hex| std::str::from_utf8(hex).ok());
        if let Some(byte) = escaped.and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
            out.push(byte);
            rest = &after[2..];
        } else {
            out.push(if first == b'+' { b' ' } else { first });
            rest = after;
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_are_unescaped() {
        let query = query("name=a%2Bb+c&limit=10&flag&bad=%zz%");
        assert_eq!(query["name"], "a+b c");
        assert_eq!(query["limit"], "10");
        assert_eq!(query["flag"], "");
        assert_eq!(query["bad"], "%zz%");
    }
}
