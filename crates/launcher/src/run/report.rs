//! Metrics, and what people can ask: readiness, the pools and what waits.

use std::{
    collections::BTreeMap,
    sync::{Arc, PoisonError},
    time::Duration,
};

use nodepool_common::{
    config::{Config, ConfigErrors, Loaded},
    model::{HeldBack, ProviderName, Resources, Timestamp},
    stats::{Ages, RequestDecision, ZkQueues, count_addressable_requests, count_nodes},
    sys::{clock, host},
    zk::Freshness,
};
use serde_json::{Value, json};
use tokio::time::MissedTickBehavior;
use tracing::{debug, error, info};

use super::{Launcher, Published, requests::pool_logger};
use crate::{
    plan::{NewlyWaiting, Plan, PoolKey, WaitingSince},
    web,
};

/// What `/ready` says of the configuration.
#[derive(Debug, Default)]
pub struct Readiness {
    /// Why the file is not the running configuration.
    invalid: Option<String>,
    /// Why the file with our own keys does not count as it is.
    broken_extensions: Option<String>,
    /// Providers that are left out, with why.
    broken: BTreeMap<ProviderName, String>,
    /// Labels and hosts that are left out, with why.
    broken_parts: Vec<String>,
}

impl Readiness {
    /// Why a provider is left out.
    pub(super) fn broken(&self, provider: &ProviderName) -> Option<String> {
        self.broken.get(provider).cloned()
    }
}

impl Launcher {
    /// What `/ready` answers. The operator's start-up, readiness and liveness probes all ask it.
    pub fn readiness(&self) -> web::Readiness {
        if let Some(overdue) = self.frame.overdue() {
            return web::Readiness { ready: false, remarks: vec![overdue] };
        }
        // Nothing from here on is locked while a pass plans: it may be one that hangs, and who asks must not.
        let published = self.published();
        let mut remarks = self.remarks_of_file();
        let readiness = self.readiness.lock().unwrap_or_else(PoisonError::into_inner);
        for (provider, why) in &readiness.broken {
            remarks.push(format!("Provider {provider} is left out: {why}"));
        }
        remarks.extend(readiness.broken_parts.iter().cloned());
        drop(readiness);
        remarks.extend(self.remarks_of_withheld());
        for trouble in &published.troubles {
            remarks.push(format!("Provider {} has trouble: {}", trouble.provider, trouble.why));
        }
        match self.zk.cache().freshness() {
            Freshness::Current => {}
            Freshness::Renewing => remarks.push(
                "The connection to ZooKeeper was lost for a while, and the records are being read again.".to_owned(),
            ),
            Freshness::Stale if self.session_id() == 0 => {
                remarks.push("There is no connection to ZooKeeper.".to_owned());
            }
            Freshness::Stale => remarks.push("The records in ZooKeeper are being read.".to_owned()),
        }
        web::Readiness { ready: published.pass.is_some(), remarks }
    }

    /// Providers that are left out of the configuration.
    pub(super) fn all_left_out(&self) -> Vec<ProviderName> {
        self.readiness.lock().unwrap_or_else(PoisonError::into_inner).broken.keys().cloned().collect()
    }

    /// What [`Self::readiness`] remarks but for what providers have, and for the records.
    pub(super) fn remarks_of_itself(&self) -> Vec<String> {
        let mut remarks = self.remarks_of_file();
        remarks.extend(self.readiness.lock().unwrap_or_else(PoisonError::into_inner).broken_parts.iter().cloned());
        remarks.extend(self.remarks_of_withheld());
        remarks
    }

    fn remarks_of_file(&self) -> Vec<String> {
        let readiness = self.readiness.lock().unwrap_or_else(PoisonError::into_inner);
        let invalid = readiness.invalid.as_ref().map(|invalid| {
            format!("The configuration file is invalid, the previous configuration stays in force:\n{invalid}")
        });
        invalid.into_iter().chain(readiness.broken_extensions.clone()).collect()
    }

    fn remarks_of_withheld(&self) -> Vec<String> {
        let remark = |(provider, held): (ProviderName, HeldBack)| {
            format!(
                "Provider {provider} holds back the removal of {} that have no record, since {}: {}; `nodepool leaks` lists them, \
                 `nodepool leaks --remove` lets those be removed.",
                held.summary(),
                clock::utc(held.since),
                held.why
            )
        };
        self.withheld_now().into_iter().map(remark).collect()
    }

    /// Notes the outcome of a load that worked.
    pub(super) fn note_usable(&self, loaded: &Loaded) {
        let mut readiness = self.readiness.lock().unwrap_or_else(PoisonError::into_inner);
        readiness.invalid = None;
        readiness.broken_extensions = loaded.broken_extensions.as_ref().map(ToString::to_string);
        readiness.broken.clear();
        for broken in &loaded.broken_providers {
            error!(
                logger = "nodepool.config",
                "Provider {} is left out, the others go on:\n{}", broken.name, broken.reason
            );
            readiness.broken.insert(broken.name.clone(), broken.reason.clone());
        }
        readiness.broken_parts = loaded.broken_parts.iter().map(ToString::to_string).collect();
        for broken in &readiness.broken_parts {
            error!(logger = "nodepool.config", "{broken}");
        }
        self.stats.config_valid(loaded.broken_extensions.is_none());
    }

    /// Notes that the file cannot be used.
    pub(super) fn note_unusable(&self, errors: &ConfigErrors) {
        self.readiness.lock().unwrap_or_else(PoisonError::into_inner).invalid = Some(errors.to_string());
    }

    pub(super) fn note_broken(&self, provider: &ProviderName, why: &str) {
        self.readiness.lock().unwrap_or_else(PoisonError::into_inner).broken.insert(provider.clone(), why.to_owned());
    }

    /// Logs why requests wait, once per reason.
    pub(super) fn say_what_waits(&self, plan: &Plan) {
        for NewlyWaiting { pool, request, are_others, waiting, was_paused } in &plan.newly_waiting {
            let (logger, reason) = (pool_logger(pool), &waiting.reason);
            if waiting.paused && !was_paused {
                self.stats.request_decision(&pool.provider, &pool.pool, RequestDecision::Paused);
            }
            if waiting.paused {
                info!(logger = %logger, request = %request, "Waiting for room: {reason}");
            } else if *are_others {
                debug!(logger = %logger, request = %request, "Not served yet, nor others like it behind it: {reason}");
            } else {
                debug!(logger = %logger, request = %request, "Not served yet: {reason}");
            }
        }
    }

    /// `/pool-list`: this launcher's pools and what they are busy with, after the last pass.
    pub fn pool_list(&self) -> Value {
        self.list_pools(&self.published())
    }

    fn list_pools(&self, published: &Published) -> Value {
        let (held, waiting) = (&published.held.holdings.requests, published.planned.waiting());
        let mut used: BTreeMap<PoolKey, Resources> = BTreeMap::new();
        self.zk.cache().read(|records| {
            for node in records.nodes.values().filter_map(|entry| entry.usable()) {
                if let (Some(provider), Some(pool), Some(resources)) = (&node.provider, &node.pool, &node.resources) {
                    let key = PoolKey { provider: provider.clone(), pool: pool.clone() };
                    used.entry(key).or_default().add(resources);
                }
            }
        });
        let mut list = Vec::new();
        for pool in &published.pools {
            let key = &pool.key;
            let provider = published.config.providers.get(&key.provider);
            let limits = provider.and_then(|p| p.pool(&key.pool)).map(|p| &p.limits);
            let active: Vec<_> = held.iter().filter(|(_, request)| request.pool == *key).map(|(id, _)| id).collect();
            let mine = waiting.iter().filter(|((_, pool), _)| pool == key);
            let reasons: Vec<_> = mine
                .clone()
                .map(|((id, _), WaitingSince { waiting, since })| {
                    let since = clock::utc(whole_seconds(*since));
                    json!({
                        "request": id,
                        "reason": waiting.reason.to_string(),
                        "why": waiting.reason,
                        "since": since,
                        "ended_by": waiting.reason.ended_by(),
                        "paused": waiting.paused,
                    })
                })
                .collect();
            let paused_requests: Vec<_> =
                mine.filter(|(_, since)| since.waiting.paused).map(|((id, _), _)| id).collect();
            list.push(json!({
                "provider": key.provider,
                "pool": key.pool,
                "launcher": pool.launcher_id,
                "paused": pool.paused,
                "paused_by": pool.paused_by,
                "active_requests": active,
                "paused_requests": paused_requests,
                "waiting": reasons,
                "limits": limits.map(Resources::to_json),
                "used": used.get(key).map(Resources::to_json),
                "trouble": published.trouble(&key.provider).map(|trouble| &trouble.why),
            }));
        }
        Value::Array(list)
    }

    /// SIGUSR2: everything this launcher holds and waits for.
    pub(super) fn describe(&self) -> String {
        let published = self.published();
        let made = match &published.pass {
            Some(pass) => format!(
                "{} ({:.1} s ago, it took {:.1} ms)",
                clock::utc(whole_seconds(pass.at)),
                self.clock.uptime() - pass.uptime,
                pass.took.as_secs_f64() * 1000.0
            ),
            None => "none yet".to_owned(),
        };
        let records = match published.records {
            Freshness::Current => "current",
            Freshness::Renewing => "being read again",
            Freshness::Stale => "of a connection that is lost, or not read yet",
        };
        format!(
            "Last pass: {made}; records: {records}\nPools: {:#}\nHeld and under way: {:#?}",
            self.list_pools(&published),
            published.held.holdings
        )
    }

    /// What follows from the configuration alone.
    pub(super) fn report_configuration(&self, config: &Config) {
        for provider in config.providers.values() {
            let servers = provider.pools.iter().map(|pool| pool.limits.limit("instances")).sum();
            self.stats.max_servers(&provider.name, servers);
        }
        for (tenant, limits) in &config.tenant_limits {
            for name in ["cores", "instances", "ram"] {
                self.stats.tenant_limit(tenant.as_str(), name, limits.limit(name));
            }
            for (name, limit) in limits.iter().filter(|(name, _)| !["cores", "instances", "ram"].contains(name)) {
                self.stats.tenant_limit(tenant.as_str(), name, limit);
            }
        }
    }

    /// Reports the nodes and requests of the whole system while this launcher is the elected one, at most once a
    /// second and only after a change; and its own state every ten seconds.
    pub(super) async fn report_statistics(self: Arc<Self>) {
        let identifier = format!("{}-{}", host::hostname(), host::pid());
        let elected = self.zk.stand_for_election("stats", &identifier);
        let mut changed = self.zk.cache().changed();
        let mut own = tokio::time::interval(Duration::from_secs(10));
        own.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut leads = false;
        let mut elections = elected.clone();
        loop {
            let force = tokio::select! {
                biased;
                _ = own.tick() => {
                    self.report_own();
                    // Once in a while in full: statsd is UDP, and a server may have been restarted.
                    true
                }
                result = elections.changed() => {
                    if result.is_err() { return }
                    true
                }
                // Last: something changes all the time.
                result = changed.changed() => {
                    if result.is_err() { return }
                    false
                }
            };
            let leads_now = *elected.borrow();
            if leads_now && self.zk.cache().ready() {
                let config = self.config();
                let (nodes, requests, ages) = self.zk.cache().read(|records| {
                    let nodes = count_nodes(records, config.providers.keys(), config.labels.keys());
                    let images = config.providers.iter().flat_map(|(provider, settings)| {
                        settings.driver.diskimages().keys().map(move |image| (image, provider))
                    });
                    (nodes, count_addressable_requests(records), Ages::of(records, images))
                });
                self.stats.nodes(&nodes, force);
                self.stats.addressable_requests(&requests, force);
                self.stats.ages(&ages);
                tokio::time::sleep(Duration::from_secs(1)).await;
            } else if leads && !leads_now {
                self.stats.stop_leading();
            }
            leads = leads_now;
        }
    }

    /// How much the searches for leaks hold back.
    pub(super) fn report_withheld(&self) {
        let withheld = self.withheld_now();
        let counts = withheld.iter().flat_map(|(provider, held)| {
            held.counts().into_iter().map(move |(kind, count)| ((provider.clone(), kind.to_owned()), count))
        });
        self.stats.held_back(&counts.collect());
    }

    fn report_own(&self) {
        let queues = self.zk.cache().queues();
        self.stats.zk_queues(
            &host::hostname(),
            &ZkQueues { node_event: queues.events, node_playback: queues.playback, ..ZkQueues::default() },
        );
        self.report_configuration(&self.config());
        self.stats.providers_up(&self.clouds.health());
        self.report_withheld();
    }
}

#[allow(clippy::cast_possible_truncation)] // whole seconds since the epoch
fn whole_seconds(time: Timestamp) -> i64 {
    time as i64
}
