//! The beginning of every HTTP client of ours, and the fetching of a page.

use std::{sync::OnceLock, time::Duration};

use nodepool_common::sys::causes::with_causes;

/// More than any page of ours that is fetched has.
const MOST: usize = 4 << 20;

/// A client's builder, once there is cryptography for it: `reqwest::Client::builder()` alone panics at `build()` in a
/// process that has not connected to ZooKeeper yet.
pub fn builder() -> reqwest::ClientBuilder {
    nodepool_common::sys::crypto::install_provider();
    reqwest::Client::builder()
}

/// The body of a page; why not, for people, where it is none with status 200, or does not come in that time.
pub async fn fetch(url: &str, within: Duration) -> Result<Vec<u8>, String> {
    let fetching = async {
        let mut answer = plain()?.get(url).send().await.map_err(said)?;
        if answer.status() != reqwest::StatusCode::OK {
            return Err(format!("it answers with {}", answer.status()));
        }
        let mut body = Vec::new();
        while let Some(part) = answer.chunk().await.map_err(said)? {
            body.extend_from_slice(&part);
            if body.len() > MOST {
                return Err(format!("its answer is larger than {MOST} bytes"));
            }
        }
        Ok(body)
    };
    match tokio::time::timeout(within, fetching).await {
        Ok(result) => result,
        Err(_) => Err(format!("no answer within {} s", within.as_secs())),
    }
}

/// The one for pages of ours.
fn plain() -> Result<&'static reqwest::Client, String> {
    static CLIENT: OnceLock<Result<reqwest::Client, String>> = OnceLock::new();
    let client = || builder().redirect(reqwest::redirect::Policy::none()).no_proxy().pool_max_idle_per_host(0).build();
    CLIENT.get_or_init(|| client().map_err(said)).as_ref().map_err(Clone::clone)
}

fn said(error: reqwest::Error) -> String {
    with_causes(&error.without_url())
}
