//! How everything stands, for the dashboard ([`nodepool_common::overview`]): this launcher's part, and the parts of others.
//!
//! Both are made of the last [`Published`] and of the records, in a thread beside the others; nothing is locked meanwhile. What others
//! know is asked for only while somebody looks, and at most once in [`OTHERS_EVERY`]; between two answers the last one counts. So a
//! change that this launcher knows of is shown at once, however slow another one is.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, PoisonError},
    time::Duration,
};

use futures::{
    StreamExt as _,
    stream::{self, BoxStream},
};
use nodepool_common::{
    config::Diskimage,
    explain::{Said, Verdict, WaitingView},
    launchers::{self, ANSWER_WITHIN},
    model::{ImageName, ProviderName, Records, RequestId},
    overview::{self, ImagePart, Overview, Part, ProviderPart, Waits},
    sys::{host, watch},
};
use nodepool_drivers::http_client;
use tokio::time::Instant;

use super::{
    Launcher,
    published::{Published, PublishedPool},
    view::said,
};
use crate::plan::{PoolKey, Reason};

/// How often others are asked.
const OTHERS_EVERY: Duration = Duration::from_secs(2);
/// What they have said for so long is as good as nothing.
const OTHERS_COUNT: Duration = Duration::from_secs(15);
/// Of so many requests for which somebody has to act more is said.
const FIRST: usize = 30;

/// What others have said.
#[derive(Debug, Default)]
pub(super) struct Others {
    at: Option<Instant>,
    is_asking: bool,
    known: Arc<launchers::Said<Part>>,
}

impl Launcher {
    /// How everything stands now.
    pub async fn overview(self: &Arc<Self>) -> Overview {
        let others = self.others().await;
        let own = Arc::clone(self);
        // A panic is in the log.
        tokio::task::spawn_blocking(move || own.overview_with(&others)).await.unwrap_or_default()
    }

    /// What only this launcher knows of it.
    pub async fn overview_part(self: &Arc<Self>) -> Part {
        let own = Arc::clone(self);
        let part = move || own.part(&own.published(), &own.zk.cache().snapshot());
        tokio::task::spawn_blocking(part).await.unwrap_or_default()
    }

    /// Has an item whenever something may have changed.
    pub fn changes(&self) -> BoxStream<'static, ()> {
        let next = async |mut published: watch::Receiver<_>| published.changed().await.ok().map(|()| ((), published));
        stream::unfold(self.published.subscribe(), next).boxed()
    }

    fn overview_with(&self, others: &launchers::Said<Part>) -> Overview {
        let records = self.zk.cache().snapshot();
        let mut parts = vec![self.part(&self.published(), &records)];
        parts.extend(others.answers.iter().cloned());
        overview::overview(&records, &parts, &others.silent, self.clock.now())
    }

    /// The parts of other launchers, as they were lately.
    async fn others(self: &Arc<Self>) -> Arc<launchers::Said<Part>> {
        let (known, is_fresh, asks) = {
            let mut others = self.others.lock().unwrap_or_else(PoisonError::into_inner);
            let age = others.at.map(|at| at.elapsed());
            let asks = !others.is_asking && age.is_none_or(|age| age >= OTHERS_EVERY);
            others.is_asking |= asks;
            (Arc::clone(&others.known), age.is_some_and(|age| age < OTHERS_COUNT), asks)
        };
        if asks {
            let own = Arc::clone(self);
            // It goes on where nobody waits for it any more.
            let asking = tokio::spawn(async move { own.ask_others().await });
            if !is_fresh {
                return asking.await.unwrap_or_default();
            }
        }
        known
    }

    async fn ask_others(self: &Arc<Self>) -> Arc<launchers::Said<Part>> {
        let known = Arc::new(self.ask_other_launchers(overview::PART, launchers::json).await);
        let mut others = self.others.lock().unwrap_or_else(PoisonError::into_inner);
        (others.at, others.is_asking, others.known) = (Some(Instant::now()), false, Arc::clone(&known));
        known
    }

    /// What all other launchers that are registered answer with at a page.
    pub(super) async fn ask_other_launchers<T>(
        &self,
        page: &str,
        read: impl Fn(&[u8]) -> Result<T, String>,
    ) -> launchers::Said<T> {
        let (records, own) = (self.zk.cache().snapshot(), self.web_url.get().map(String::as_str));
        let get = async |url: String| http_client::fetch(&url, ANSWER_WITHIN).await;
        launchers::ask(&records, own, page, get, read).await
    }

    fn part(&self, published: &Published, records: &Records) -> Part {
        let waiting = published.kinds();
        // What has waited longest, and what somebody has to act for.
        let mut requests: BTreeSet<RequestId> =
            overview::oldest(records, self.clock.now()).into_iter().map(|(id, _)| id).collect();
        let grave = waiting.values().flatten().filter(|waits| waits.verdict >= Verdict::Act);
        requests.extend(grave.take(FIRST).map(|waits| RequestId::from(waits.first.as_str())));
        let view = |pool: &PublishedPool| {
            let kinds = waiting.get(&pool.key).into_iter().flatten();
            let kinds = kinds.map(|waits| WaitingView {
                code: waits.code.clone(),
                sentence: waits.sentence.clone(),
                requests: waits.requests,
                since: waits.since,
            });
            published.busy_view_of(pool, kinds.collect())
        };
        let names = published.config.providers.keys().cloned().chain(self.all_left_out());
        let provider = |name: ProviderName| {
            let pools = published.pools.iter().filter(|pool| pool.key.provider == name).map(view).collect();
            let view = self.view_of_provider(published, &name)?;
            Some((name.to_string(), ProviderPart { view, pools }))
        };
        let image = |(name, image): (&ImageName, &Arc<Diskimage>)| {
            (name.to_string(), ImagePart { is_paused: image.pause, pools: published.pools_of_image(name) })
        };
        let labels = published.config.labels.values().map(|label| (label.name.to_string(), label.min_ready));
        Part {
            hostname: host::hostname(),
            caution: self.caution(published),
            remarks: self.remarks_of_itself(),
            providers: names.filter_map(provider).collect(),
            images: published.config.diskimages.iter().map(image).collect(),
            labels: labels.collect(),
            requests: requests.iter().map(|id| (id.to_string(), published.views_of_request(records, id))).collect(),
            waiting: waiting.into_values().flatten().collect(),
        }
    }
}

impl Published {
    /// What requests wait for in each pool, by the kind of the reason.
    fn kinds(&self) -> BTreeMap<PoolKey, Vec<Waits>> {
        let mut kinds: BTreeMap<PoolKey, Vec<(&Reason, Waits)>> = BTreeMap::new();
        for kind in self.planned.kinds() {
            let known = kinds.entry(kind.pool.clone()).or_default();
            if let Some((_, waits)) = known.iter_mut().find(|(reason, _)| reason.is_like(kind.reason)) {
                waits.requests += kind.requests;
                if kind.since < waits.since {
                    (waits.since, waits.first) = (kind.since, kind.first.to_string());
                    waits.sentence = said(kind.reason, None).sentence;
                }
                continue;
            }
            let Said { verdict, code, sentence, .. } = said(kind.reason, None);
            let (pool, first) = (kind.pool.to_string(), kind.first.to_string());
            let (requests, since) = (kind.requests, kind.since);
            known.push((kind.reason, Waits { pool, verdict, code, sentence, requests, first, since }));
        }
        kinds.into_iter().map(|(pool, kinds)| (pool, kinds.into_iter().map(|(_, waits)| waits).collect())).collect()
    }
}
