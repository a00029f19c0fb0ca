//! Resources of ours without a record: found by their metadata, removed when two searches in a row saw them.
//!
//! Two, because a search and the records are not of the same moment (`nodepool 11.0.0: driver/statemachine.py
//! cleanupLeakedResources`). Each provider searches by itself: a hung cloud delays nobody else's. A cloud may go on listing
//! what it has deleted, even what it answers 404 for: that is asked for again in each search, but warned about and
//! counted once.
//!
//! What may be removed is for `plan` to say ([`LeakSearch`]): after a restore everything would look leaked. What is held back
//! goes on record before anything else is done, and is said in the log when it changes, in `/ready` and in the metrics
//! ([`Withheld`]). A permission (`nodepool leaks --remove`) is a change of that record: it wakes the search.
//!
//! [`Provider::clean_up`](nodepool_drivers::Provider::clean_up) is not concerned: what it removes, ports of servers that are
//! gone and floating IPs that lead nowhere, is told by the cloud alone.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, MutexGuard, PoisonError},
    time::Duration,
};

use nodepool_common::{
    config,
    model::{
        Entry, HeldBack, Holder, NodeId, ProviderName, Records, Timestamp,
        brake::{Standing, Verdict},
        guard,
    },
    sys::{host, watch},
    zk::SessionId,
};
use nodepool_drivers::{CloudResource, ProviderError, ResourceKind, leaks::standing};
use tokio::{
    sync::Notify,
    time::{Instant, MissedTickBehavior},
};
use tracing::{debug, error, info, warn};

use super::{Launcher, clouds::Cloud};
use crate::plan::{LeakSearch, Tagged, is_unclaimed};

const LOGGER: &str = "nodepool.CleanupWorker";
/// Between a search and the next one that a permission calls for.
const AFTER_A_PERMISSION: Duration = Duration::from_secs(1);
/// Before a search that failed is repeated, while launches wait for it; doubled each time.
const AFTER_A_FAILURE: Duration = Duration::from_secs(2);
/// After so long a time in which nobody looks after it, what was held back is forgotten. Long, because a launcher or a builder
/// that was stopped out of caution must find it again.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(30 * 86_400);

/// What has leaked, as long as each search finds it.
#[derive(Debug, Default)]
struct Suspects {
    /// By id, with whether the cloud has accepted its deletion: as of the last search, and of this one.
    before: BTreeMap<String, bool>,
    now: BTreeMap<String, bool>,
}

/// What is known of a leaked resource that a search has found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Suspicion {
    New,
    Confirmed,
    /// The cloud has accepted its deletion before.
    Deleted,
}

impl Suspects {
    fn found(&mut self, id: &str) -> Suspicion {
        let before = self.before.get(id).copied();
        self.now.insert(id.to_owned(), before == Some(true));
        match before {
            None => Suspicion::New,
            Some(false) => Suspicion::Confirmed,
            Some(true) => Suspicion::Deleted,
        }
    }

    /// Whether the last search has found it.
    fn has(&self, id: &str) -> bool {
        self.before.contains_key(id)
    }

    fn deleted(&mut self, id: &str) {
        self.now.insert(id.to_owned(), true);
    }

    /// Forgets what this search has not found.
    fn end(&mut self) {
        self.before = std::mem::take(&mut self.now);
    }
}

/// Whether a search has ended well, so that the numbers are known that a cloud's resources bear, or was waited for in vain.
#[derive(Debug, Default)]
pub struct Searched {
    is_over: watch::Sender<bool>,
    again: Notify,
}

impl Searched {
    /// What was found is of no worth any more: asks for a search, now.
    pub fn start_over(&self) {
        self.is_over.send_replace(false);
        self.again.notify_one();
    }

    fn is_over(&self) -> bool {
        *self.is_over.borrow()
    }

    /// Returns when a search is asked for.
    async fn asked_for(&self) {
        self.again.notified().await;
    }

    fn over(&self) {
        self.is_over.send_replace(true);
    }

    /// Waits until a search is over, but not longer than `limit`: a cloud that does not list does not stop launches, of which
    /// it may be capable.
    pub async fn wait(&self, limit: Duration) {
        let mut is_over = self.is_over.subscribe();
        if tokio::time::timeout(limit, is_over.wait_for(|is_over| *is_over)).await.is_err() {
            // Nor does it hold up those that follow.
            self.over();
        }
    }
}

/// What the last search of a provider has held back, and the nodes whose numbers are taken.
#[derive(Clone, Debug, Default)]
pub(super) struct Withheld {
    /// `None`: nothing.
    pub held: Option<HeldBack>,
    /// Nodes that resources in the cloud name and no record has.
    pub named: BTreeSet<NodeId>,
}

/// What a search knows.
struct Findings {
    /// What the cloud has of ours.
    resources: Vec<CloudResource>,
    /// The same, in the same order, as the planner sees it.
    tagged: Vec<Tagged>,
    verdict: Verdict,
    named: BTreeSet<NodeId>,
    /// The record of what is held back, as it is.
    before: Option<Arc<Entry<HeldBack>>>,
}

impl Findings {
    fn new(
        records: &Records,
        provider: &config::Provider,
        resources: Vec<CloudResource>,
        unlisted: &BTreeSet<&'static str>,
        next_node: Option<u64>,
        suspects: &Suspects,
        now: Timestamp,
    ) -> Self {
        let ours = |resource: CloudResource| {
            let tagged = Tagged {
                kind: resource.kind.plural(),
                id: resource.id.clone(),
                is_image: resource.kind == ResourceKind::Image,
                node: resource.tag("nodepool_node_id").map(NodeId::from),
                standing: standing(records, &provider.name, &resource)?,
                is_confirmed: suspects.has(&resource.id) || guard::is_removed("second look at a leak"),
            };
            Some((resource, tagged))
        };
        let (resources, tagged): (Vec<_>, Vec<_>) = resources.into_iter().filter_map(ours).unzip();
        #[allow(clippy::cast_possible_truncation)] // seconds since the epoch fit
        let now = now as i64;
        let host = host::hostname();
        let search = LeakSearch { now, host: &host, provider, records, tagged: &tagged, unlisted, next_node };
        let (verdict, named) = (search.judge(), search.named_nodes());
        let before = records.held_back.get(&Holder::Provider(provider.name.clone())).cloned();
        Self { resources, tagged, verdict, named, before }
    }

    /// Those that no record knows.
    fn leaked(&self) -> impl Iterator<Item = &CloudResource> {
        let leaked = |(_, tagged): &(&CloudResource, &Tagged)| matches!(tagged.standing, Standing::Leaked(_));
        self.resources.iter().zip(&self.tagged).filter(leaked).map(|(resource, _)| resource)
    }

    fn why_free(&self, resource: &CloudResource) -> Option<&String> {
        self.verdict.free.get(&(resource.kind.plural().to_owned(), resource.id.clone()))
    }
}

impl Launcher {
    /// Searches one cloud, for as long as its provider is in the configuration.
    pub(super) async fn look_for_leaks(&self, cloud: &Arc<Cloud>) {
        let mut suspects = Suspects::default();
        let mut ticks = tokio::time::interval(self.options.cleanup_interval);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut pause = AFTER_A_FAILURE;
        loop {
            tokio::select! {
                biased;
                _ = ticks.tick() => {}
                () = self.removal_allowed(&cloud.config.name) => {}
                () = cloud.searched.asked_for() => {}
                // One that failed has told no numbers.
                () = tokio::time::sleep(pause), if !cloud.searched.is_over() => {}
            }
            // Without trustworthy records everything would look leaked.
            self.zk.cache().until_ready().await;
            let session = self.session_id();
            match self.search(cloud, &mut suspects).await {
                // Otherwise the next one is asked for already, or about to be.
                Ok(()) if session == self.session_id() => {
                    pause = AFTER_A_FAILURE;
                    cloud.searched.over();
                }
                Ok(()) => {}
                Err(error) => {
                    warn!(logger = LOGGER, "Cannot look for leaked resources: {error}");
                    pause = (pause * 2).min(self.options.cleanup_interval.max(AFTER_A_FAILURE));
                }
            }
            // What was listed may lack the servers of ready nodes.
            self.wake.notify_one();
        }
    }

    /// Returns when more is allowed to be removed than the last search knew.
    async fn removal_allowed(&self, provider: &ProviderName) {
        // Whatever may be wrong with the record, the cloud is not searched without a pause.
        tokio::time::sleep(AFTER_A_PERMISSION).await;
        let holder = Holder::Provider(provider.clone());
        let allowed = |held: &HeldBack| held.items.iter().filter(|item| item.allowed).count();
        let known = self.all_withheld().get(provider).and_then(|withheld| withheld.held.as_ref()).map_or(0, allowed);
        let mut changed = self.zk.cache().changed();
        loop {
            let now = self.zk.cache().read(|records| {
                records.held_back.get(&holder).and_then(|entry| entry.usable()).map_or(0, |held| allowed(held.as_ref()))
            });
            if now > known {
                return;
            }
            if changed.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    async fn search(&self, cloud: &Cloud, suspects: &mut Suspects) -> Result<(), ProviderError> {
        let name = &cloud.config.name;
        let resources = cloud.provider.list_tagged().await?;
        let unlisted = cloud.provider.unlisted_kinds().into_iter().map(ResourceKind::plural).collect();
        self.clouds.answered(name);
        self.look_at_ready_nodes();
        // Both after the cloud was listed: what is in the listing has its record, and its number is given out.
        let Some(session) = *self.zk.session().borrow() else { return Ok(()) };
        let next_node = match self.zk.in_session(session).next_node_number().await {
            Ok(next_node) if self.zk.cache().ready() => next_node,
            // Records of a connection that is lost may be old.
            Ok(_) => return Ok(()),
            Err(error) => {
                warn!(logger = LOGGER, "No leaked resource of provider {name} is removed now: {error}");
                return Ok(());
            }
        };
        let Some(records) = self.zk.cache().snapshot_in(session) else { return Ok(()) };
        let now = self.clock.now();
        let found = Findings::new(&records, &cloud.config, resources, &unlisted, next_node, suspects, now);
        drop(records);
        self.withhold(session, name, &found).await;
        let mut counts: BTreeMap<&'static str, usize> = BTreeMap::new();
        for resource in found.leaked() {
            let kind = resource.kind.plural();
            let suspicion = suspects.found(&resource.id);
            let Some(why) = found.why_free(resource) else { continue };
            match suspicion {
                Suspicion::New if !guard::is_removed("second look at a leak") => continue,
                Suspicion::New => {}
                Suspicion::Confirmed => warn!(
                    logger = LOGGER,
                    "Deleting leaked resource of provider {name}: {} of {kind}: {why}", resource.id
                ),
                Suspicion::Deleted => debug!(
                    logger = LOGGER,
                    "Deleting {} of {kind} again: provider {name} goes on listing it", resource.id
                ),
            }
            match cloud.provider.delete_resource(resource).await {
                Ok(()) => {
                    suspects.deleted(&resource.id);
                    *counts.entry(kind).or_default() += usize::from(suspicion == Suspicion::Confirmed);
                }
                Err(error) => warn!(logger = LOGGER, "Leaked resource {} stays for now: {error}", resource.id),
            }
        }
        suspects.end();
        for removed in cloud.provider.clean_up().await? {
            info!(logger = LOGGER, "Removed leaked {} {} of provider {name}", removed.kind.plural(), removed.id);
            *counts.entry(removed.kind.plural()).or_default() += 1;
        }
        for (kind, count) in counts.into_iter().filter(|(_, count)| *count > 0) {
            self.stats.leaked(name, kind, count);
        }
        Ok(())
    }

    /// Puts on record what this search holds back, and says what has changed in that.
    async fn withhold(&self, session: SessionId, name: &ProviderName, found: &Findings) {
        let holder = Holder::Provider(name.clone());
        let held = found.verdict.held.as_ref();
        // Where somebody was faster, the next search sees what he has written.
        if let Err(error) = self.zk.in_session(session).hold_back(&holder, held, found.before.as_deref()).await {
            warn!(logger = LOGGER, "What is held back of provider {name} is not on record yet: {error}");
        }
        let withheld = Withheld { held: held.cloned(), named: found.named.clone() };
        let before = self.all_withheld().insert(name.clone(), withheld).unwrap_or_default().held;
        let ids = |held: Option<&HeldBack>| {
            let held = held.into_iter().flat_map(HeldBack::held);
            held.map(|item| (item.kind.clone(), item.id.clone())).collect::<BTreeSet<_>>()
        };
        let (ids_before, ids_now) = (ids(before.as_ref()), ids(held));
        match held {
            Some(held) if !ids_now.is_subset(&ids_before) => error!(
                logger = LOGGER,
                "Nothing is removed of what has leaked from provider {name}: {} have no record, and {}. `nodepool leaks` lists \
                 them. If ZooKeeper's data was lost, restore it; if they are to go, `nodepool leaks --remove` lets those that it \
                 lists be removed, once",
                held.summary(),
                held.why
            ),
            Some(_) if ids_now.is_empty() && !ids_before.is_empty() => {
                info!(logger = LOGGER, "What was held back of provider {name} may be removed now: it was allowed");
            }
            None if before.is_some() => {
                info!(logger = LOGGER, "Nothing is held back of provider {name} any more");
            }
            _ => {}
        }
        self.report_withheld();
    }

    pub(super) fn all_withheld(&self) -> MutexGuard<'_, BTreeMap<ProviderName, Withheld>> {
        self.withheld.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is held back of the providers of the configuration.
    pub(super) fn withheld_now(&self) -> Vec<(ProviderName, HeldBack)> {
        let config = self.config();
        let all = self.all_withheld();
        let of = all.iter().filter(|(name, _)| config.providers.contains_key(*name));
        of.filter_map(|(name, withheld)| Some((name.clone(), withheld.held.clone()?)))
            .filter(|(_, held)| held.held().next().is_some())
            .collect()
    }

    /// Nodes that resources of the provider name and that were on no record when it was last searched.
    pub(super) fn taken_numbers(&self, provider: &ProviderName) -> BTreeSet<NodeId> {
        self.all_withheld().get(provider).map(|withheld| withheld.named.clone()).unwrap_or_default()
    }

    /// Whether a number is among them.
    pub(super) fn is_taken(&self, provider: &ProviderName, id: &NodeId) -> bool {
        self.all_withheld().get(provider).is_some_and(|withheld| withheld.named.contains(id))
    }

    /// Removes records of what is held back that nobody has looked after for long: their provider is in no launcher's
    /// configuration any more, or their builder does not run. It must have been so all the time as this process saw it, so
    /// that a launcher that is being restarted does not lose its own.
    pub(super) async fn forget_unclaimed(self: Arc<Self>) {
        let mut ticks = tokio::time::interval(self.options.cleanup_interval);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut unclaimed: BTreeMap<Holder, Instant> = BTreeMap::new();
        loop {
            ticks.tick().await;
            let session = self.zk.session().borrow().filter(|_| self.zk.cache().ready());
            let config = self.config();
            let records = session.and_then(|session| Some((session, self.zk.cache().snapshot_in(session)?)));
            let Some((session, records)) = records else {
                unclaimed.clear();
                continue;
            };
            let is_unclaimed = |(holder, entry): &(&Holder, &Arc<Entry<HeldBack>>)| {
                is_unclaimed(holder, entry.usable().map(AsRef::as_ref), &records, &config)
            };
            let found = records.held_back.iter().filter(is_unclaimed);
            let found: BTreeMap<_, _> = found.map(|(holder, entry)| (holder.clone(), entry.stat)).collect();
            unclaimed.retain(|holder, _| found.contains_key(holder));
            for (holder, stat) in found {
                let since = *unclaimed.entry(holder.clone()).or_insert_with(Instant::now);
                if since.elapsed() < FORGOTTEN_AFTER {
                    continue;
                }
                match self.zk.in_session(session).forget_held_back(&holder, stat.version).await {
                    Ok(false) => {}
                    Ok(true) => {
                        info!(logger = LOGGER, "Forgot what was held back of {holder}, which nobody runs any more");
                    }
                    Err(error) => debug!(logger = LOGGER, "Cannot forget what was held back of {holder}: {error}"),
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn launches_wait_for_a_search_but_not_for_ever_and_anew_after_records_were_lost() {
        const NEVER: Duration = Duration::from_secs(3600);
        let searched = Searched::default();
        searched.over();
        searched.wait(NEVER).await;
        searched.start_over();
        searched.asked_for().await;
        let waits = tokio::time::timeout(Duration::from_millis(50), searched.wait(NEVER)).await.is_err();
        assert!(waits, "what is known is of the lost session");
        searched.wait(Duration::from_millis(10)).await;
        searched.wait(NEVER).await;
    }

    #[test]
    fn what_is_listed_although_it_was_deleted_is_warned_about_and_counted_once() {
        let mut suspects = Suspects::default();
        let mut search = |accepted: bool| {
            let suspicion = suspects.found("server");
            if accepted {
                suspects.deleted("server");
            }
            suspects.end();
            suspicion
        };
        let searches = [false, false, true, true, false].map(&mut search);
        assert_eq!(
            searches,
            [
                Suspicion::New,
                Suspicion::Confirmed, // the cloud refused
                Suspicion::Confirmed,
                Suspicion::Deleted,
                Suspicion::Deleted
            ]
        );
        suspects.end();
        assert_eq!(suspects.found("server"), Suspicion::New, "a search did not find it");
    }
}
