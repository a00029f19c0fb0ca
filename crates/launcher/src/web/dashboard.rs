//! The dashboard: a page at `/` and what it loads, embedded. It shows what [`super::api`] says, and nothing else.
//!
//! All of it is one document, `./`, whose query says what is shown (`./?request=300-0000000123`), and whose addresses are
//! relative: whatever path a proxy has before ours, they work. There is no build step and no library. Nothing is loaded
//! from elsewhere, and no script or style is in the document: the policy forbids both, and user-given text is only ever
//! set as text.
//!
//! | file | what |
//! |---|---|
//! | `index.html` | the frame: heading, search, where the pages go |
//! | `dashboard.js` | which page is shown, and the events that keep it up to date |
//! | `pages.js` | the front page and what is told of one thing |
//! | `lists.js` | all nodes, all requests: filter, search, order, in the address |
//! | `dom.js` | elements, times, words |
//!
//! All other paths stay upstream's: 404 in its own words.

use std::sync::LazyLock;

use axum::{
    body::{Body, Bytes},
    http::{HeaderName, HeaderValue, StatusCode, header},
    response::Response,
};

use super::reply;

const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; \
                      base-uri 'none'; form-action 'self'; frame-ancestors 'none'";

/// One of the files.
pub(super) struct Asset {
    path: &'static str,
    content_type: &'static str,
    body: &'static str,
    tag: HeaderValue,
}

static ASSETS: LazyLock<Vec<Asset>> = LazyLock::new(|| {
    const SCRIPT: &str = "text/javascript; charset=utf-8";
    vec![
        Asset::new("/", "text/html; charset=utf-8", include_str!("dashboard/index.html")),
        Asset::new("/dashboard.css", "text/css; charset=utf-8", include_str!("dashboard/dashboard.css")),
        Asset::new("/dashboard.svg", "image/svg+xml", include_str!("dashboard/dashboard.svg")),
        Asset::new("/dashboard.js", SCRIPT, include_str!("dashboard/dashboard.js")),
        Asset::new("/pages.js", SCRIPT, include_str!("dashboard/pages.js")),
        Asset::new("/lists.js", SCRIPT, include_str!("dashboard/lists.js")),
        Asset::new("/dom.js", SCRIPT, include_str!("dashboard/dom.js")),
    ]
});

/// That of a path.
pub(super) fn asset(path: &str) -> Option<&'static Asset> {
    ASSETS.iter().find(|asset| asset.path == path)
}

impl Asset {
    fn new(path: &'static str, content_type: &'static str, body: &'static str) -> Self {
        // FNV-1a: it changes with the content, nobody has to be kept from making the same one.
        let hash = body
            .bytes()
            .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3));
        let tag = HeaderValue::from_str(&format!("\"{hash:016x}\"")).unwrap_or_else(|_| HeaderValue::from_static(""));
        Self { path, content_type, body, tag }
    }

    /// 200, or 304 where the client has it already. It is asked for each time: after an update all files are of one version.
    pub(super) fn answer(&self, if_none_match: Option<&HeaderValue>) -> Response {
        let has_it = if_none_match.and_then(|tags| tags.to_str().ok()).is_some_and(|tags| {
            tags.split(',').map(|tag| tag.trim().trim_start_matches("W/")).any(|tag| tag == self.tag || tag == "*")
        });
        let mut response = if has_it {
            let mut response = Response::new(Body::empty());
            *response.status_mut() = StatusCode::NOT_MODIFIED;
            response
        } else {
            reply::plain(self.content_type, Bytes::from_static(self.body.as_bytes()))
        };
        let headers = response.headers_mut();
        headers.insert(header::ETAG, self.tag.clone());
        let mut put = |name: HeaderName, value: &'static str| headers.insert(name, HeaderValue::from_static(value));
        put(header::CACHE_CONTROL, "no-cache");
        put(header::CONTENT_SECURITY_POLICY, POLICY);
        put(header::X_CONTENT_TYPE_OPTIONS, "nosniff");
        put(header::REFERRER_POLICY, "no-referrer");
        response
    }
}
