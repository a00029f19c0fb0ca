//! [`Waits`]: since when requests wait for what they wait for.
//!
//! Of a request that waits as part of a class the reason is kept with the class ([`memory`](super::memory)); of one that is judged by
//! itself it is kept here, from pass to pass. A request may leave either for a moment: another launcher has it locked, an action
//! works on it, somebody declines it and it is of another class from then on. If it waits in the same pool for a reason of the
//! same kind within [`A_MOMENT`], it has waited all the time.
//!
//! What is kept is persistent: readers have it as it was after a pass ([`Snapshot`](super::Snapshot)).

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
};

use imbl::OrdMap;
use nodepool_common::model::{RequestId, Timestamp, change_each};

use super::{PoolKey, Reason, Waiting, WaitingSince, decision::NewlyWaiting, memory::WaitingClass};

/// For so long what a request has waited for is remembered while it waits for nothing, in seconds.
pub const A_MOMENT: f64 = 30.0;

/// See the module.
#[derive(Debug, Default)]
pub struct Waits {
    single: Single,
    left: LeftBehind,
    /// When requests have left, the first one first.
    order: VecDeque<(Timestamp, RequestId)>,
}

/// Requests that were judged one by one, in each pool.
pub type Single = OrdMap<(RequestId, PoolKey), Arc<WaitingSince>>;

/// What requests waited for that do so no longer, or not in the same way.
#[derive(Clone, Debug, Default)]
pub struct LeftBehind(OrdMap<RequestId, Arc<Vec<Left>>>);

/// What a request waited for in a pool, and until when.
#[derive(Clone, Debug)]
struct Left {
    pool: PoolKey,
    was: WaitingSince,
    at: Timestamp,
}

impl LeftBehind {
    /// What a request waited for in a pool a moment before it began to wait there for a reason of the same kind.
    fn before(&self, request: &RequestId, pool: &PoolKey, reason: &Reason, from: Timestamp) -> Option<&WaitingSince> {
        let left = self.0.get(request)?.iter().find(|left| left.pool == *pool)?;
        (left.at + A_MOMENT >= from && left.was.waiting.reason.is_like(reason)).then_some(&left.was)
    }

    /// What a request waits for in a pool, and since when, that is part of a class. `came`: when it came into the class.
    pub fn of_class(&self, request: &RequestId, pool: &PoolKey, class: &WaitingClass, came: Timestamp) -> WaitingSince {
        let (reason, from) = (class.verdict.reason.clone(), class.since.max(came));
        let since = self.before(request, pool, &reason, from).map_or(from, |before| before.since);
        WaitingSince { waiting: Waiting { reason, paused: false }, since }
    }
}

impl Waits {
    /// A request does not wait in a pool any more as it did.
    pub fn leave(&mut self, request: &RequestId, pool: &PoolKey, was: WaitingSince, now: Timestamp) {
        let all = Arc::make_mut(self.left.0.entry(request.clone()).or_default());
        all.retain(|left| left.pool != *pool);
        all.push(Left { pool: pool.clone(), was, at: now });
        self.tidy_later(request, now);
    }

    /// A request has left its class, whether or not it has waited there. What it waited for is kept as long as it is in a class; now
    /// it is looked at again after [`A_MOMENT`].
    pub fn leave_class(&mut self, request: &RequestId, now: Timestamp) {
        if self.left.0.contains_key(request) {
            self.tidy_later(request, now);
        }
    }

    fn tidy_later(&mut self, request: &RequestId, now: Timestamp) {
        if self.order.back().is_none_or(|last| *last != (now, request.clone())) {
            self.order.push_back((now, request.clone()));
        }
    }

    /// The request is gone.
    pub fn forget(&mut self, request: &RequestId) {
        self.left.0.remove(request);
    }

    /// Those that the last plan has judged one by one.
    pub fn single(&self) -> &Single {
        &self.single
    }

    /// What requests waited for that do so no longer, or not in the same way.
    pub fn left(&self) -> &LeftBehind {
        &self.left
    }

    /// Takes over what a plan says of those that it has judged one by one. Returns those of them that did not wait for just
    /// that before. `waits`: whether a request is one of a class.
    pub fn note(
        &mut self,
        waiting: &BTreeMap<(RequestId, PoolKey), Waiting>,
        now: Timestamp,
        waits: impl Fn(&RequestId) -> bool,
    ) -> Vec<NewlyWaiting> {
        let mut others = Vec::new();
        let gone: Vec<_> = self.single.keys().filter(|key| !waiting.contains_key(*key)).cloned().collect();
        for (key, now_waits) in waiting {
            let (request, pool) = key;
            let known = self.single.get(key).map(Arc::as_ref);
            if known.is_some_and(|known| known.waiting == *now_waits) {
                continue;
            }
            let before = known.or_else(|| self.left.before(request, pool, &now_waits.reason, now));
            let same = before.filter(|before| before.waiting.reason.is_like(&now_waits.reason));
            let since = same.map_or(now, |before| before.since);
            if before.is_none_or(|before| before.waiting != *now_waits) {
                others.push(NewlyWaiting {
                    pool: pool.clone(),
                    request: request.clone(),
                    are_others: false,
                    waiting: now_waits.clone(),
                    was_paused: before.is_some_and(|before| before.waiting.paused),
                });
            }
            let waiting = WaitingSince { waiting: now_waits.clone(), since };
            self.single.insert(key.clone(), Arc::new(waiting));
        }
        for key in gone {
            if let Some(was) = self.single.remove(&key) {
                self.leave(&key.0, &key.1, Arc::unwrap_or_clone(was), now);
            }
        }
        self.tidy(now, waits);
        others
    }

    /// Drops what is of no use any more: of a request that has been away for longer than a moment.
    fn tidy(&mut self, now: Timestamp, waits: impl Fn(&RequestId) -> bool) {
        while let Some((at, _)) = self.order.front()
            && *at + A_MOMENT < now
            && let Some((_, request)) = self.order.pop_front()
        {
            let is_over = |left: &Left| left.at + A_MOMENT < now;
            if self.left.0.get(&request).is_some_and(|all| all.iter().all(is_over)) && !waits(&request) {
                self.left.0.remove(&request);
            }
        }
    }

    /// The clock was set by that many seconds.
    pub fn clock_stepped(&mut self, step: f64) {
        change_each(&mut self.single, |waiting| Arc::make_mut(waiting).since += step);
        self.order.iter_mut().for_each(|(at, _)| *at += step);
        change_each(&mut self.left.0, |all| {
            for left in Arc::make_mut(all) {
                left.at += step;
                left.was.since += step;
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_kept_for_good_of_a_request_that_waited_and_was_accepted_later() {
        let (id, pool) = (RequestId::from("100-0000000000"), PoolKey { provider: "p".into(), pool: "main".into() });
        let waiting = Waiting { reason: Reason::TurnToCome, paused: false };
        let mut waits = Waits::default();
        waits.leave(&id, &pool, WaitingSince { waiting, since: 0.0 }, 0.0);
        // It came back, and is in a class of which nothing is waiting here.
        waits.note(&BTreeMap::new(), 100.0, |_| true);
        assert_eq!((waits.left.0.len(), waits.order.len()), (1, 0));
        waits.leave_class(&id, 200.0);
        waits.note(&BTreeMap::new(), 201.0, |_| false);
        assert_eq!(waits.left.0.len(), 1, "it may come back in a moment");
        waits.note(&BTreeMap::new(), 231.0, |_| false);
        assert_eq!((waits.left.0.len(), waits.order.len()), (0, 0));
        // Nor of one of which nothing is known.
        waits.leave_class(&id, 240.0);
        assert!(waits.order.is_empty());
    }
}
