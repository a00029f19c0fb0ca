//! What our pools make of a request, for `explain` ([`nodepool_common::explain`]): read off the last [`Published`].

use std::collections::BTreeMap;

use nodepool_common::{
    explain::{self, ANSWER_WITHIN, Answer, Explanation, LauncherView, Launching, PoolView, Said, Subject, Verdict},
    model::RequestId,
    sys::host,
    zk::Freshness,
};
use nodepool_drivers::http_client;

use super::{
    Launcher,
    published::{Published, PublishedPool},
};
use crate::plan::{Bound, PoolKey, Reason, WaitingSince};

impl Launcher {
    /// What each of our pools makes of a request.
    pub fn view_of(&self, id: &RequestId) -> LauncherView {
        let records = self.zk.cache().snapshot();
        let request = records.requests.get(id).and_then(|entry| entry.usable());
        let published = self.published();
        let waiting = request.map(|request| published.planned.waiting_of(request)).unwrap_or_default();
        let pools = published.pools.iter().map(|pool| published.view_of(pool, id, &waiting));
        LauncherView {
            hostname: host::hostname(),
            as_of: published.pass.map(|pass| pass.at),
            caution: self.caution(&published),
            pools: pools.collect(),
        }
    }

    /// Why what was published last may be old.
    fn caution(&self, published: &Published) -> Option<String> {
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

    /// What a request waits for, or why a node is as it is, by what all launchers say; `None`: there is no trace of it.
    pub async fn explain(&self, subject: &Subject) -> Option<Explanation> {
        match subject {
            Subject::Request(id) => self.explain_request(id).await,
            Subject::Node(id) => explain::of_node(&self.zk.cache().snapshot(), id, self.clock.now()),
        }
    }

    async fn explain_request(&self, id: &RequestId) -> Option<Explanation> {
        let records = self.zk.cache().snapshot();
        let own = self.web_url.get();
        let is_own = |url: &str| own.and_then(|own| url.strip_prefix(own)).is_some_and(|rest| rest.starts_with('/'));
        let get = async |url: String| {
            if is_own(&url) {
                return serde_json::to_vec(&self.view_of(id)).map_err(|error| error.to_string());
            }
            http_client::fetch(&url, ANSWER_WITHIN).await
        };
        let asked = explain::ask(&records, id, get).await;
        explain::of_request(&records, id, &asked, self.clock.now())
    }
}

impl Published {
    fn view_of(&self, pool: &PublishedPool, id: &RequestId, waiting: &BTreeMap<PoolKey, WaitingSince>) -> PoolView {
        let key = &pool.key;
        PoolView {
            id: pool.launcher_id.to_string(),
            provider: key.provider.to_string(),
            pool: key.pool.to_string(),
            answer: self.answer(key, id, waiting.get(key)),
            trouble: self.trouble(&key.provider).map(|trouble| (trouble.why.clone(), trouble.since)),
        }
    }

    fn answer(&self, pool: &PoolKey, id: &RequestId, waiting: Option<&WaitingSince>) -> Answer {
        let holdings = &self.held.holdings;
        let waits = waiting.map(said);
        if holdings.accepting.get(id) == Some(pool) {
            return Answer::Accepting;
        }
        if holdings.requests.get(id).is_none_or(|held| held.pool != *pool) {
            return waits.map_or(Answer::Nothing, Answer::Waits);
        }
        let nodes = || holdings.nodes.iter().filter(|(_, held)| held.request == *id);
        let ready = nodes().filter(|(_, held)| !held.launching && held.failure.is_none()).count();
        let launching = nodes().filter(|(_, held)| held.launching);
        let launching = launching.map(|(node, held)| (node.to_string(), held.label.to_string()));
        // Those that have no record yet.
        let starting = holdings.starting.iter().filter(|(request, ..)| request == id);
        let starting = starting.map(|(_, _, label)| (String::new(), label.to_string()));
        let launching = launching.chain(starting).map(|(node, label)| Launching { node, label }).collect();
        Answer::Serves { ready, launching, waits }
    }
}

fn said(waiting: &WaitingSince) -> Said {
    let reason = &waiting.waiting.reason;
    let why = serde_json::to_value(reason).unwrap_or_default();
    Said {
        verdict: verdict(reason),
        code: code(&why),
        sentence: reason.to_string(),
        why,
        since: waiting.since,
        ended_by: reason.ended_by().map(str::to_owned),
    }
}

/// That of a reason as it is written.
fn code(why: &serde_json::Value) -> String {
    why.get("code").and_then(serde_json::Value::as_str).unwrap_or_default().to_owned()
}

/// What is to be done about what a request waits for.
fn verdict(reason: &Reason) -> Verdict {
    match reason {
        Reason::Unknown { trouble: Some(_), .. }
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
