//! What our pools make of a request, and what there is to say of a label, an image or a provider, for `explain`
//! ([`nodepool_common::explain`]): read off the last [`Published`].
//!
//! What a pool would do with a request for a label, the planner is [asked](super::outlook). That, and to put together what all
//! requests wait for, takes as long as a pass over everything: it is done in a thread beside the others, one at a time, and at
//! most a fifth of the time, however many ask.
//!
//! Of a label for which nobody has asked for long a launcher may not know what its nodes take. It asks the cloud, as it would for a
//! request, and no more often; who asks us waits for that answer, for a moment.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, PoisonError},
    time::Duration,
};

use nodepool_common::{
    explain::{
        self, Answer, Asked, Explanation, LauncherView, Launching, Paused, PoolView, ProviderView, Said, Subject,
        Verdict, WaitingView,
    },
    launchers::ANSWER_WITHIN,
    model::{ImageName, LabelName, NodeRequest, ProviderName, Records, RequestId, Resources, Timestamp},
    sys::{clock, host},
    zk::Freshness,
};
use nodepool_drivers::http_client;
use tokio::{sync::oneshot, time::Instant};

use super::{
    Launcher,
    outlook::{Outlook, Outlooks, for_one, outlook},
    published::{Published, PublishedPool},
};
use crate::plan::{Bound, PoolKey, PoolState, Reason, Timing, WaitingSince, Want, World};

/// So many times as long as a look at everything has taken, nobody may look again.
const REST: u32 = 4;
/// For so long an answer waits for what clouds are asked for its sake.
const CLOUDS_ANSWER: Duration = Duration::from_millis(1500);
/// Between two looks whether they have answered.
const LOOK: Duration = Duration::from_millis(200);

impl Launcher {
    /// What there is to say of some things that only this launcher knows; of each, in their order.
    pub async fn views_of(self: &Arc<Self>, subjects: &[Subject]) -> Vec<LauncherView> {
        let published = self.published();
        let mut views: Vec<_> = subjects.iter().map(|subject| self.short_view(&published, subject)).collect();
        let long = |subject: &Subject| match subject {
            Subject::Label(_) => true,
            Subject::Provider(name) => published.pools.iter().any(|pool| pool.key.provider == *name),
            Subject::Request(_) | Subject::Node(_) | Subject::Image(_) => false,
        };
        let long: Vec<usize> = (0..subjects.len()).filter(|at| long(&subjects[*at])).collect();
        if !long.is_empty() {
            let pools = self.look_at(long.iter().map(|at| subjects[*at].clone()).collect()).await;
            long.into_iter().zip(pools).for_each(|(at, pools)| views[at].pools = pools);
        }
        views
    }

    /// What needs no look at everything: of a label and a provider all but the pools.
    fn short_view(&self, published: &Published, subject: &Subject) -> LauncherView {
        let view = LauncherView {
            hostname: host::hostname(),
            as_of: published.pass.map(|pass| pass.at),
            caution: self.caution(published),
            ..LauncherView::default()
        };
        match subject {
            Subject::Request(id) => {
                LauncherView { pools: published.views_of_request(&self.zk.cache().snapshot(), id), ..view }
            }
            Subject::Node(_) | Subject::Label(_) => view,
            Subject::Image(image) => LauncherView {
                pools: published.pools_of_image(image),
                pauses_image: published.config.diskimages.get(image).is_some_and(|image| image.pause),
                ..view
            },
            Subject::Provider(name) => LauncherView { provider: self.view_of_provider(published, name), ..view },
        }
    }

    /// Does what takes long: see the module.
    pub(super) async fn beside_others<T: Default + Send + 'static>(
        self: &Arc<Self>,
        work: impl FnOnce(&Self) -> T + Send + 'static,
    ) -> T {
        // It is never closed.
        let Ok(turn) = Arc::clone(&self.long_looks).acquire_owned().await else { return T::default() };
        let (own, (done, answer)) = (Arc::clone(self), oneshot::channel());
        // In a task of its own: who has asked may have gone before it is done, and the turn is over only after the rest.
        tokio::spawn(async move {
            let began = Instant::now();
            // A panic is in the log.
            let made = tokio::task::spawn_blocking(move || work(&own)).await.unwrap_or_default();
            let rest = began.elapsed() * REST;
            let _ = done.send(made);
            tokio::time::sleep(rest).await;
            drop(turn);
        });
        answer.await.unwrap_or_default()
    }

    /// The pools of labels and providers, all in one look.
    async fn look_at(self: &Arc<Self>, subjects: Vec<Subject>) -> Vec<Vec<PoolView>> {
        let began = Instant::now();
        loop {
            let (asked, looks) = (subjects.clone(), Instant::now());
            let (pools, waits_for_answer) = self.beside_others(move |own| own.pools_of(&asked)).await;
            // The next look begins after the rest of this one.
            let next_ends = began.elapsed() + looks.elapsed() * (REST + 1);
            if !waits_for_answer || next_ends > CLOUDS_ANSWER {
                return pools;
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// The pools of labels and providers; and whether clouds that were asked for that will know more.
    fn pools_of(&self, subjects: &[Subject]) -> (Vec<Vec<PoolView>>, bool) {
        let (published, mut waits_for_answer) = (self.published(), false);
        let pools = subjects.iter().map(|subject| match subject {
            Subject::Label(label) => {
                let (pools, waits) = self.pools_of_label(&published, label);
                waits_for_answer |= waits;
                pools
            }
            Subject::Provider(name) => Self::pools_of_provider(&published, name),
            Subject::Request(_) | Subject::Node(_) | Subject::Image(_) => Vec::new(),
        });
        (pools.collect(), waits_for_answer)
    }

    /// Has the loop ask clouds for something.
    fn want(&self, wants: BTreeSet<Want>) {
        self.wanted.lock().unwrap_or_else(PoisonError::into_inner).extend(wants);
        self.wake.notify_one();
    }

    /// What clouds are to be asked for others.
    pub(super) fn take_wanted(&self) -> BTreeSet<Want> {
        std::mem::take(&mut *self.wanted.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// What each of our pools that has a label, or would have it, would do with a request for one node; and whether clouds that
    /// were asked for that will know more.
    fn pools_of_label(&self, published: &Published, label: &LabelName) -> (Vec<PoolView>, bool) {
        let records = self.zk.cache().snapshot();
        let has = |pool: &&PublishedPool| {
            let config = published.config.providers.get(&pool.key.provider).and_then(|p| p.pool(&pool.key.pool));
            config.is_some_and(|pool| pool.labels.contains_key(label) || pool.broken_labels.contains_key(label))
        };
        let pools: Vec<&PublishedPool> = published.pools.iter().filter(has).collect();
        if pools.is_empty() {
            return (Vec::new(), false);
        }
        let asks = |request: &RequestId| {
            let request = records.requests.get(request).and_then(|entry| entry.usable());
            request.is_some_and(|request| request.node_types.contains(label))
        };
        let mut waiting = published.waiting(asks);
        let Outlooks { of_pools: mut would, wants } =
            self.outlook_of(published, &records, &for_one(label, self.clock.now()), &pools);
        let is_to_be_answered =
            |outlook: &Outlook| matches!(outlook, Outlook::Waits(Reason::Unknown { trouble: None, .. }));
        let waits_for_answer = would.values().any(is_to_be_answered);
        if waits_for_answer {
            self.want(wants);
        }
        let view = |pool: &PublishedPool| PoolView {
            answer: would.remove(&pool.key).map(answer_of).unwrap_or_default(),
            image: published.image_of(&pool.key, label).map(ToString::to_string),
            paused: published
                .image_of(&pool.key, label)
                .map(|image| published.paused(&pool.key, image))
                .unwrap_or_default(),
            waiting: waiting.remove(&pool.key).unwrap_or_default(),
            ..published.view_of(pool)
        };
        (pools.into_iter().map(view).collect(), waits_for_answer)
    }

    /// What pools of ours would do with a request.
    fn outlook_of(
        &self,
        published: &Published,
        records: &Records,
        request: &NodeRequest,
        pools: &[&PublishedPool],
    ) -> Outlooks {
        let state = |pool: &PublishedPool| PoolState { key: pool.key.clone(), launcher_id: pool.launcher_id.clone() };
        let (all, known): (Vec<_>, _) = (published.pools.iter().map(state).collect(), self.clouds.known());
        let world = World {
            now: self.clock.now(),
            uptime: self.clock.uptime(),
            config: &published.config,
            records,
            pools: &all,
            providers: &known.iter().map(|(name, state)| (name.clone(), &**state)).collect(),
            session: self.session_id(),
            holdings: &published.held.holdings,
            timing: Timing::default(),
            stopping: published.stopping,
            renewing: false,
        };
        let asked: Vec<_> = pools.iter().map(|pool| state(pool)).collect();
        outlook(&world, request, &asked)
    }

    /// What each of our pools of a provider is busy with.
    fn pools_of_provider(published: &Published, provider: &ProviderName) -> Vec<PoolView> {
        let mut waiting = published.waiting(|_| true);
        let view = |pool: &PublishedPool| published.busy_view_of(pool, waiting.remove(&pool.key).unwrap_or_default());
        published.pools.iter().filter(|pool| pool.key.provider == *provider).map(view).collect()
    }

    /// What is known of a provider; `None`: the configuration does not have it.
    pub(super) fn view_of_provider(&self, published: &Published, name: &ProviderName) -> Option<ProviderView> {
        let left_out = self.left_out(name);
        let config = published.config.providers.get(name);
        if config.is_none() && left_out.is_none() {
            return None;
        }
        let known = self.clouds.known();
        let state = known.get(name);
        let quota = state.and_then(|state| state.quota.as_ref());
        let used = published.planned.used.iter().find(|in_use| in_use.pool.provider == *name);
        let holdings = &published.held.holdings;
        let of_it =
            |request: &RequestId| holdings.requests.get(request).is_some_and(|held| held.pool.provider == *name);
        let launching = holdings.nodes.iter().filter(|(_, node)| node.launching && of_it(&node.request)).count();
        let starting = holdings.starting.iter().filter(|(_, pool, _)| pool.provider == *name).count();
        Some(ProviderView {
            left_out,
            trouble: published.trouble(name).map(|trouble| (trouble.why.clone(), trouble.since)),
            quota: quota.map(|quota| amounts(&quota.limits)).unwrap_or_default(),
            ours: quota.map(|quota| amounts(&quota.ours)).unwrap_or_default(),
            used: used.map(|in_use| amounts(&in_use.used.of_provider)).unwrap_or_default(),
            quota_at: state.map(|state| state.quota_at).filter(|at| *at > 0.0),
            launch_after: state.and_then(|state| state.launch_after).filter(|at| *at > self.clock.now()),
            max_concurrency: config.and_then(|config| config.max_concurrency),
            launching: launching + starting,
        })
    }

    /// Why a provider is left out of the configuration, or stays as it was.
    fn left_out(&self, name: &ProviderName) -> Option<String> {
        self.readiness.lock().unwrap_or_else(PoisonError::into_inner).broken(name)
    }

    /// Why what was published last may be old.
    pub(super) fn caution(&self, published: &Published) -> Option<String> {
        let overdue = self.frame.overdue();
        let of_records = || match published.records {
            Freshness::Current => None,
            Freshness::Renewing => Some("the records in ZooKeeper are being read again".to_owned()),
            Freshness::Stale => Some("there is no connection to ZooKeeper, or its records are being read".to_owned()),
        };
        overdue.or_else(of_records)
    }

    /// Whether anything has been read of ZooKeeper.
    pub fn knows_records(&self) -> bool {
        self.zk.cache().walks() > 0
    }

    /// What a request waits for, or how it stands with anything else, by what all launchers say; of each, in their order. `None`:
    /// there is no trace of it.
    pub async fn explain(self: &Arc<Self>, subjects: &[Subject]) -> Vec<Option<Explanation>> {
        let asked = self.ask(subjects).await;
        // As it is by now: what the launchers speak of may be younger than the question.
        let records = self.zk.cache().snapshot();
        let explain = |(subject, asked)| explain::explain(&records, subject, asked, self.clock.now());
        let mut explained: Vec<_> = subjects.iter().zip(&asked).map(explain).collect();
        for (subject, explanation) in subjects.iter().zip(&mut explained) {
            self.add_past(subject, explanation).await;
        }
        explained
    }

    async fn ask(self: &Arc<Self>, subjects: &[Subject]) -> Vec<Asked> {
        let records = self.zk.cache().snapshot();
        let own = self.web_url.get();
        let is_own = |url: &str| own.and_then(|own| url.strip_prefix(own)).is_some_and(|rest| rest.starts_with('/'));
        // As it is in the page: without those of which the records know everything.
        let asked: Vec<_> = subjects.iter().filter(|it| explain::is_asked(&records, it)).cloned().collect();
        let get = async |url: String| {
            if is_own(&url) {
                let views = tokio::time::timeout(ANSWER_WITHIN, self.views_of(&asked)).await;
                let views = views.map_err(|_| format!("no answer within {ANSWER_WITHIN:?}"))?;
                return explain::views_written(&views).map_err(|error| error.to_string());
            }
            http_client::fetch(&url, ANSWER_WITHIN).await
        };
        explain::ask(&records, subjects, get).await
    }
}

impl Published {
    /// A pool, and what keeps it from serving.
    fn view_of(&self, pool: &PublishedPool) -> PoolView {
        let key = &pool.key;
        let config = self.config.providers.get(&key.provider);
        let out_of_service = match config.and_then(|provider| Some((provider, provider.pool(&key.pool)?))) {
            Some((_, pool)) if pool.disabled => Some("max-servers is 0".to_owned()),
            Some((provider, _)) if provider.max_concurrency == Some(0) => Some("max-concurrency is 0".to_owned()),
            _ => None,
        };
        PoolView {
            id: pool.launcher_id.to_string(),
            provider: key.provider.to_string(),
            pool: key.pool.to_string(),
            trouble: self.trouble(&key.provider).map(|trouble| (trouble.why.clone(), trouble.since)),
            out_of_service,
            paused_by: pool.paused_by.clone(),
            ..PoolView::default()
        }
    }

    /// A pool, and what it is busy with.
    pub(super) fn busy_view_of(&self, pool: &PublishedPool, waiting: Vec<WaitingView>) -> PoolView {
        PoolView {
            waiting,
            limits: self.limits(&pool.key),
            used: self.used(&pool.key).map(|used| amounts(&used.of_pool)).unwrap_or_default(),
            ..self.view_of(pool)
        }
    }

    /// What each of our pools makes of a request.
    pub(super) fn views_of_request(&self, records: &Records, id: &RequestId) -> Vec<PoolView> {
        let request = records.requests.get(id).and_then(|entry| entry.usable());
        let waiting = request.map(|request| self.planned.waiting_of(request)).unwrap_or_default();
        self.pools.iter().map(|pool| self.view_of_request(pool, id, waiting.get(&pool.key))).collect()
    }

    fn view_of_request(&self, pool: &PublishedPool, id: &RequestId, waiting: Option<&WaitingSince>) -> PoolView {
        PoolView { answer: self.answer(&pool.key, id, waiting), ..self.view_of(pool) }
    }

    /// The diskimage that a pool's nodes of a label boot from.
    fn image_of(&self, pool: &PoolKey, label: &LabelName) -> Option<&ImageName> {
        self.config.providers.get(&pool.provider)?.pool(&pool.pool)?.labels.get(label)?.diskimage.as_ref()
    }

    /// What the file pauses of an image, for a pool.
    fn paused(&self, pool: &PoolKey, image: &ImageName) -> Paused {
        let uploaded = self.config.providers.get(&pool.provider).and_then(|it| it.driver.diskimages().get(image));
        Paused {
            builds: self.config.diskimages.get(image).is_some_and(|image| image.pause),
            uploads: uploaded.is_some_and(|image| image.pause),
        }
    }

    /// Our pools with labels that boot from an image.
    pub(super) fn pools_of_image(&self, image: &ImageName) -> Vec<PoolView> {
        let view = |pool: &PublishedPool| {
            let config = self.config.providers.get(&pool.key.provider)?.pool(&pool.key.pool)?;
            let labels = config.labels.iter().filter(|(_, label)| label.diskimage.as_ref() == Some(image));
            let labels: Vec<String> = labels.map(|(name, _)| name.to_string()).collect();
            (!labels.is_empty()).then(|| PoolView {
                labels,
                paused: self.paused(&pool.key, image),
                ..self.view_of(pool)
            })
        };
        self.pools.iter().filter_map(view).collect()
    }

    fn used(&self, pool: &PoolKey) -> Option<&crate::plan::Used> {
        self.planned.used.iter().find(|in_use| in_use.pool == *pool).map(|in_use| &in_use.used)
    }

    fn limits(&self, pool: &PoolKey) -> BTreeMap<String, f64> {
        let config = self.config.providers.get(&pool.provider).and_then(|provider| provider.pool(&pool.pool));
        config.map(|pool| amounts(&pool.limits)).unwrap_or_default()
    }

    /// What requests wait for in each pool, by the kind of the reason.
    fn waiting(&self, counts: impl Fn(&RequestId) -> bool) -> BTreeMap<PoolKey, Vec<WaitingView>> {
        let mut kinds: BTreeMap<PoolKey, Vec<(Reason, usize, Timestamp)>> = BTreeMap::new();
        for ((request, pool), WaitingSince { waiting, since }) in self.planned.waiting() {
            if !counts(&request) {
                continue;
            }
            let known = kinds.entry(pool).or_default();
            match known.iter_mut().find(|(reason, ..)| reason.is_like(&waiting.reason)) {
                Some((reason, number, first)) => {
                    *number += 1;
                    if since < *first {
                        (*reason, *first) = (waiting.reason, since);
                    }
                }
                None => known.push((waiting.reason, 1, since)),
            }
        }
        let view = |(reason, requests, since): (Reason, usize, Timestamp)| {
            let Said { code, sentence, .. } = said(&reason, None);
            WaitingView { code, sentence, requests, since }
        };
        kinds.into_iter().map(|(pool, kinds)| (pool, kinds.into_iter().map(view).collect())).collect()
    }

    fn answer(&self, pool: &PoolKey, id: &RequestId, waiting: Option<&WaitingSince>) -> Answer {
        let holdings = &self.held.holdings;
        let waits = waiting.map(|waiting| said(&waiting.waiting.reason, Some(waiting.since)));
        if holdings.accepting.get(id) == Some(pool) {
            return Answer::Accepting;
        }
        if holdings.requests.get(id).is_none_or(|held| held.pool != *pool) {
            return waits.map_or(Answer::Nothing, Answer::Waits);
        }
        let nodes = || holdings.nodes.iter().filter(|(_, held)| held.request == *id);
        let done = nodes().filter(|(_, held)| !held.launching && held.failure.is_none());
        let done: Vec<String> = done.map(|(node, _)| node.to_string()).collect();
        let launching = nodes().filter(|(_, held)| held.launching);
        let launching = launching.map(|(node, held)| (node.to_string(), held.label.to_string()));
        // Those that have no record yet.
        let starting = holdings.starting.iter().filter(|(request, ..)| request == id);
        let starting = starting.map(|(_, _, label)| (String::new(), label.to_string()));
        let launching = launching.chain(starting).map(|(node, label)| Launching { node, label }).collect();
        Answer::Serves { ready: done.len(), done, launching, waits }
    }
}

fn answer_of(outlook: Outlook) -> Answer {
    match outlook {
        Outlook::HasReady => Answer::HasReady,
        Outlook::WouldLaunch => Answer::WouldLaunch,
        Outlook::Waits(reason) => Answer::Waits(said(&reason, None)),
        Outlook::Declines(reason) => Answer::Declines(said(&reason, None)),
        Outlook::Undecided => Answer::Nothing,
    }
}

fn amounts(resources: &Resources) -> BTreeMap<String, f64> {
    // What is unlimited cannot be written.
    resources.iter().filter(|(_, amount)| amount.is_finite()).map(|(name, amount)| (name.to_owned(), amount)).collect()
}

pub(super) fn said(reason: &Reason, since: Option<Timestamp>) -> Said {
    let why = serde_json::to_value(reason).unwrap_or_default();
    Said {
        verdict: verdict(reason),
        code: code(&why),
        sentence: sentence(reason),
        why,
        since,
        ended_by: reason.ended_by().map(str::to_owned),
    }
}

/// In its words, with what is a moment in it: whoever reads that does so later.
#[allow(clippy::cast_possible_truncation)] // whole seconds since the epoch
pub(super) fn sentence(reason: &Reason) -> String {
    match reason {
        Reason::QuotaRefused { until } => format!("{reason}; nothing is launched before {}", clock::utc(*until as i64)),
        Reason::Paused(by) => by.sentence(),
        _ => reason.to_string(),
    }
}

/// The code by which programs know the kind of a reason: the one in its data, such as `no-room`.
pub(super) fn code_of(reason: &Reason) -> String {
    code(&serde_json::to_value(reason).unwrap_or_default())
}

/// That of a reason as it is written.
fn code(why: &serde_json::Value) -> String {
    why.get("code").and_then(serde_json::Value::as_str).unwrap_or_default().to_owned()
}

/// What is to be done about what a request waits for.
fn verdict(reason: &Reason) -> Verdict {
    match reason {
        Reason::Unknown { trouble: Some(_), .. }
        | Reason::Paused(_)
        | Reason::ImageMissing { image: None, .. }
        | Reason::LaunchFailed { .. } => Verdict::Act,
        // Others in the project use what it needs: that comes back.
        Reason::AloneTooLarge(excess) if excess.bound == Bound::ProviderQuotaLessOthers => Verdict::Wait,
        Reason::PoolDisabled
        | Reason::LabelsMissing { .. }
        | Reason::LabelUnusable(_)
        | Reason::AloneTooLarge(_)
        | Reason::DeclinedByKeeper { .. }
        | Reason::NobodyHasLabels { .. } => Verdict::Change,
        Reason::AtCapacity { of } => verdict(of),
        // Of requests, all others end by themselves; those of nodes do not come here.
        _ => Verdict::Wait,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::Excess;

    #[test]
    fn what_others_use_comes_back_and_what_is_larger_than_the_quota_never_fits() {
        let of = |bound| verdict(&Reason::AloneTooLarge(Excess { bound, short: Vec::new() }));
        assert_eq!(of(Bound::ProviderQuotaLessOthers), Verdict::Wait);
        assert_eq!(of(Bound::ProviderQuota), Verdict::Change);
        assert_eq!(of(Bound::PoolLimits), Verdict::Change);
    }
}
