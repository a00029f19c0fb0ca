//! [`Http`]: the HTTP client of a cloud, which follows redirects as openstacksdk does.
//!
//! A catalogue may say `http` where the cloud has only `https`, or name a host that has moved. HTTP clients are made
//! for browsers: they turn a redirected POST into a GET without its body. keystoneauth repeats the request as it was,
//! with method, body and token (`keystoneauth1: session.py _send_request`), and so is done here, with two exceptions:
//! a token is not carried from TLS to where all can read it, and data that is streamed cannot be sent twice. Both are
//! errors that name the address to correct.

use std::{
    collections::BTreeSet,
    fmt,
    sync::{Mutex, PoisonError},
};

use reqwest::{Client, Method, RequestBuilder, Response, Url, header::LOCATION};

use super::messages::explain;

/// In a row, as keystoneauth's.
const MOST: usize = 30;
/// keystoneauth's; 304 and 300 are no commands to go elsewhere.
const STATUSES: [u16; 6] = [301, 302, 303, 305, 307, 308];

/// See the module's comment.
#[derive(Debug)]
pub(crate) struct Http {
    client: Client,
    /// The redirects that were told of: each costs a call, each time.
    told: Mutex<BTreeSet<String>>,
}

/// Why there is no answer.
#[derive(Debug)]
pub(crate) enum SendError {
    Broken(reqwest::Error),
    /// With that HTTP status, a redirect that is not followed.
    Redirect(u16, String),
}

impl SendError {
    /// Which the same request would meet again.
    pub const fn is_redirect(&self) -> bool {
        matches!(self, Self::Redirect(..))
    }
}

impl fmt::Display for SendError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Broken(error) => f.write_str(&explain(error)),
            Self::Redirect(_, message) => f.write_str(message),
        }
    }
}

impl From<reqwest::Error> for SendError {
    fn from(error: reqwest::Error) -> Self {
        Self::Broken(error)
    }
}

impl Http {
    /// With a client that follows no redirects by itself.
    pub fn new(client: Client) -> Self {
        Self { client, told: Mutex::default() }
    }

    /// A request to be sent with [`Self::send`].
    pub fn request(&self, method: Method, url: Url) -> RequestBuilder {
        self.client.request(method, url)
    }

    /// Sends it, and again to wherever it is sent.
    pub async fn send(&self, request: RequestBuilder) -> Result<Response, SendError> {
        let mut request = request.build()?;
        let mut moves = 0;
        loop {
            let again = request.try_clone();
            let answer = self.client.execute(request).await?;
            let Some(target) = target(&answer) else { return Ok(answer) };
            let from = without_query(answer.url());
            let refuse = |why: &str| {
                let target = without_query(&target);
                let status = answer.status().as_u16();
                let message = format!(
                    "{from} answers {status} and redirects to {target}, {why}; correct the address in Keystone's \
                     catalogue, or auth_url or endpoint_override in clouds.yaml"
                );
                SendError::Redirect(status, message)
            };
            if answer.url().scheme() == "https" && target.scheme() != "https" {
                return Err(refuse("which would show the token to all on the way"));
            }
            let Some(mut next) = again else {
                return Err(refuse("where what was streamed cannot be sent a second time"));
            };
            moves += 1;
            if moves > MOST {
                return Err(refuse("without an end"));
            }
            self.tell(&from, &target);
            // Its query is the target's business.
            *next.url_mut() = target;
            request = next;
        }
    }

    /// Once for each pair of hosts.
    fn tell(&self, from: &Url, target: &Url) {
        let [from, target] = [from, target].map(|url| url.origin().ascii_serialization());
        let told = format!("{from} redirects to {target}");
        if self.told.lock().unwrap_or_else(PoisonError::into_inner).insert(told.clone()) {
            tracing::warn!(
                "{told}: each call there is made twice; correct the address in Keystone's catalogue, or auth_url or \
                 endpoint_override in clouds.yaml"
            );
        }
    }
}

/// Where the answer sends us.
fn target(answer: &Response) -> Option<Url> {
    if !STATUSES.contains(&answer.status().as_u16()) {
        return None;
    }
    // Relative ones are common.
    answer.url().join(answer.headers().get(LOCATION)?.to_str().ok()?).ok()
}

/// For messages.
fn without_query(url: &Url) -> Url {
    let mut url = url.clone();
    url.set_query(None);
    url
}
