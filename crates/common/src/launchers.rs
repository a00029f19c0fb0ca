//! Asking launchers over HTTP for what only they know.
//!
//! Which there are, and where, stands in the components of their pools ([`PoolComponent::web_url`]); Python's have no address there.
//! [`ask`] asks all of them at once, each for a bounded time, and names those that do not answer: what one of them knows is then not
//! seen, which is not the same as that it is not so. Explanations, the overview and the history are all asked for by it.

use std::{collections::BTreeMap, time::Duration};

use futures::{StreamExt as _, stream};
use serde::{Deserialize, Serialize};

use crate::model::{PoolComponent, Records};

/// How long launchers have for their answer.
pub const ANSWER_WITHIN: Duration = Duration::from_secs(3);
/// So many are asked at once, and so many answers are held in memory.
const AT_ONCE: usize = 32;

/// A launcher that could not be asked.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Silent {
    /// The host it runs on.
    pub hostname: String,
    /// Its pools.
    pub pools: Vec<String>,
    /// Why not.
    pub why: String,
}

/// What launchers have said, by their addresses, and those that have said nothing.
#[derive(Clone, Debug, PartialEq)]
pub struct Said<T> {
    /// The answers that are understood.
    pub answers: Vec<T>,
    /// Who could not be asked, or said what is not understood.
    pub silent: Vec<Silent>,
}

impl<T> Default for Said<T> {
    fn default() -> Self {
        Self { answers: Vec::new(), silent: Vec::new() }
    }
}

/// Asks each launcher that says where it can be asked, but not the one with the address `own`, for a page: a path with its query.
/// `get` fetches it, within [`ANSWER_WITHIN`] and up to a bounded size, or says why not; `read` makes an answer of its body.
pub async fn ask<T, F>(
    records: &Records,
    own: Option<&str>,
    page: &str,
    get: impl Fn(String) -> F,
    read: impl Fn(&[u8]) -> Result<T, String>,
) -> Said<T>
where
    F: Future<Output = Result<Vec<u8>, String>>,
{
    let own = own.map(|url| url.trim_end_matches('/'));
    let others: Vec<_> = launchers(records).into_iter().filter(|(url, _)| own != Some(url.as_str())).collect();
    let pages: Vec<String> = others.iter().map(|(url, _)| format!("{url}{page}")).collect();
    let answers: Vec<_> = stream::iter(pages).map(get).buffered(AT_ONCE).collect().await;
    let mut said = Said::default();
    for ((_, pools), answer) in others.iter().zip(answers) {
        match answer.and_then(|body| read(&body)) {
            Ok(answer) => said.answers.push(answer),
            Err(why) => said.silent.push(silent(pools, why)),
        }
    }
    said
}

/// An answer that is JSON.
pub fn json<T: for<'a> Deserialize<'a>>(body: &[u8]) -> Result<T, String> {
    serde_json::from_slice(body).map_err(|error| format!("its answer is not understood: {error}"))
}

/// The launchers that say where they can be asked: the pools of each, by its address without a slash at its end.
pub fn launchers(records: &Records) -> BTreeMap<String, Vec<&PoolComponent>> {
    let mut launchers: BTreeMap<String, Vec<&PoolComponent>> = BTreeMap::new();
    for pool in records.pools.values() {
        if let Some(url) = pool.web_url() {
            launchers.entry(url.trim_end_matches('/').to_owned()).or_default().push(pool);
        }
    }
    launchers
}

/// A launcher that could not be asked, by its pools.
pub fn silent(pools: &[&PoolComponent], why: String) -> Silent {
    Silent {
        hostname: pools.first().map(|pool| pool.hostname.clone()).unwrap_or_default(),
        pools: pools.iter().map(|pool| pool.title()).collect(),
        why,
    }
}
