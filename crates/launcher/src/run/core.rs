//! [`Core`]: what the launcher knows and does, owned by its loop alone.
//!
//! The loop applies each [`Event`] in the order in which it was told, then makes a pass, which reads records and clouds and
//! plans. Nobody else has a reference to the core, so no lock guards it, and a pass holds none: it looks at a snapshot of the
//! records. Who wants to know what is held and what waits takes what it has published after its last pass
//! ([`Published`](super::published::Published)).

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use nodepool_common::{
    config::MetastaticLabel,
    daemon::beside_other_tasks,
    model::{LabelName, NodeId, ProviderName, Records, RequestId, Timestamp, Uptime, guard},
    zk::TakenIn,
};
use tokio::time::Instant;
use tracing::{error, info, warn};

use super::{
    LOGGER, Launcher,
    book::Book,
    clouds::Waited,
    events::{Event, Outcome, Told},
    metastatic::{FIRST_PAUSE, LONGEST_PAUSE, NOT_KEPT},
    placing::NoPlace,
    published::PassMade,
};
use crate::plan::{Attempted, Decision, Holdings, HostKey, News, Plan, Planner, PoolState, Timing, World, seekers_of};

/// How often what the planner remembers is compared with everything.
const CHECK_EVERY: Duration = Duration::from_secs(300);
/// Seconds before an action that failed is tried again.
const AFTER_AN_ERROR: f64 = 1.0;

/// What the loop owns.
#[derive(Debug)]
pub struct Core {
    pub(super) book: Book,
    /// In memory of its own: the loop's future would have room for all of it in each of its states.
    pub(super) planner: Box<Planner>,
    /// The last pass that was made.
    pub(super) last_pass: Option<PassMade>,
    /// When what the planner remembers was last compared with everything.
    checked: Option<Instant>,
    /// Requests that the history has as seen, and whose records are there.
    seen: BTreeSet<RequestId>,
}

impl Core {
    /// A core that knows nothing yet.
    pub(super) fn new() -> Self {
        Self { book: Book::new(), planner: Box::default(), last_pass: None, checked: None, seen: BTreeSet::new() }
    }

    pub(super) fn clock_stepped(&mut self, step: f64) {
        self.planner.clock_stepped(step);
        if let Some(pass) = &mut self.last_pass {
            pass.at += step;
        }
    }

    /// Whether what the planner remembers is to be compared with everything, so that nothing that went unnoticed is forgotten
    /// for ever. It costs one pass over all records.
    fn is_check_due(&mut self) -> bool {
        // What was made from everything at the first pass needs no check.
        let is_due = self.checked.is_some_and(|last| last.elapsed() > CHECK_EVERY);
        if is_due || self.checked.is_none() {
            self.checked = Some(Instant::now());
        }
        is_due
    }

    /// When that is due.
    fn check_again_at(&self, now: Timestamp) -> Option<Timestamp> {
        Some(now + CHECK_EVERY.saturating_sub(self.checked?.elapsed()).as_secs_f64() + 0.1)
    }
}

impl Launcher {
    /// Applies what was told in a session of ours; what is told of one that has ended has no meaning any more.
    pub(super) fn apply(&self, core: &mut Core, told: Told) {
        let Told { session, event } = told;
        let book = &mut core.book;
        if !book.is_of_this_session(session) {
            return;
        }
        let now = self.clock.uptime();
        match event {
            Event::Ended { action, outcome } => {
                if let Some(decision) = book.end(action) {
                    self.ended(book, &decision, outcome, now);
                }
            }
            Event::RequestLocked { request, pause } => {
                book.holdings_mut().requests_after.insert(request, now + pause);
            }
            Event::NodeLocked { node, pause } => {
                book.holdings_mut().nodes_after.insert(node, now + pause);
            }
            Event::Taken { held, request, label } => book.hold_node(held, request, label),
            Event::OnRecord { node, request, pool, label } => book.on_record(node, request, &pool, label),
            Event::Launched { held, failure } => book.launched(held, failure),
            Event::LaunchEnded { .. } if guard::is_removed("end of a launch without an outcome") => {}
            Event::LaunchEnded { node } => book.launch_ended(&node),
            Event::Seeks { node, pool, label, answers } => book.seek(node, pool, label, answers),
            Event::SeeksNoMore { node } => book.sought(&node),
            Event::NotKept { node } => {
                book.holdings_mut().not_kept.insert(node, now + NOT_KEPT);
            }
            Event::BackingFailed { provider, label, request, why } => {
                let failing = self.zk.cache().read(|records| would_have_stood(records, book, &provider, &label));
                backing_failed(book, (&provider, &label.name), failing, &request, &why, now);
            }
            Event::MinReadyFailed { request, labels } => {
                for label in &labels {
                    let pause = self.put_stock_off(book, label, now);
                    info!(
                        logger = LOGGER, request = %request,
                        "No pool could keep a {label} node in stock; asking again in {pause:.0} s"
                    );
                }
            }
        }
    }

    /// What follows from the end of an action.
    fn ended(&self, book: &mut Book, decision: &Decision, outcome: Outcome, now: Uptime) {
        match (outcome, decision) {
            (Outcome::Failed(error), _) => {
                error.say_of(decision, LOGGER);
                if !guard::is_removed("pause after an error") {
                    book.put_off(decision, now + AFTER_AN_ERROR);
                }
            }
            // Whatever made it panic may still be so.
            (Outcome::Vanished, _) => book.put_off(decision, now + AFTER_AN_ERROR),
            (Outcome::Accepted(held), Decision::Accept { pool, .. }) => book.hold_request(held, pool.clone()),
            (Outcome::Stocked(labels), _) => {
                for label in labels {
                    book.worked(&Attempted::MinReady(label));
                }
            }
            (Outcome::StockRefused(labels), _) => {
                for label in &labels {
                    self.put_stock_off(book, label, now);
                }
            }
            (Outcome::Deleted, Decision::Delete { node }) => book.worked(&Attempted::Deletion(node.clone())),
            (Outcome::NotDeleted { trouble, longest }, Decision::Delete { node }) => {
                let first = self.options.delete_interval.as_secs_f64();
                let pause = book.failed_again(Attempted::Deletion(node.clone()), first, longest);
                book.holdings_mut().nodes_after.insert(node.clone(), now + pause);
                let logger = super::nodes::LOGGER;
                warn!(logger, node = %node, "Could not delete the node, trying again in {pause:.0} s: {trouble}");
            }
            (Outcome::HostSeen { registered }, Decision::Attend { pool, host, .. }) => {
                let key = HostKey { provider: pool.provider.clone(), host: host.id.clone() };
                book.worked(&Attempted::Host(key.clone()));
                if registered {
                    book.holdings_mut().hosts_seen.insert(key, (Arc::clone(host), pool.pool.clone()));
                }
            }
            (Outcome::HostOutOfReach { why, failed }, Decision::Attend { pool, host, .. }) => {
                if let Some(error) = failed {
                    error.say_of(decision, LOGGER);
                }
                let key = HostKey { provider: pool.provider.clone(), host: host.id.clone() };
                let longest = self.options.cleanup_interval.as_secs_f64().max(1.0);
                let pause = book.failed_again(Attempted::Host(key.clone()), 1.0, longest);
                let held = book.holdings_mut();
                held.hosts_seen.remove(&key);
                held.hosts_after.insert(key, now + pause);
                warn!(
                    logger = super::hosts::LOGGER,
                    "host {} of {pool} cannot be used, looking again in {pause:.0} s: {why}", host.id
                );
            }
            (Outcome::BackingTaken(provider, label), _) => book.worked(&Attempted::Backing(provider, label)),
            (Outcome::Shown(shown), Decision::Place { on: node, .. } | Decision::LetBackingGo { node, .. }) => {
                book.holdings_mut().shown.insert(node.clone(), shown);
            }
            _ => {}
        }
    }

    /// One pass: plan, and start what was decided. Returns when to pass again at the latest.
    ///
    /// All of it is of one session: the records, what the book says and what is decided. Where one of them is of another, as
    /// for a moment after a session was lost, no pass is made; what brings them together wakes the loop.
    pub(super) fn plan_and_act(self: &Arc<Self>, core: &mut Core, stopping: bool) -> Option<Timestamp> {
        let session = (*self.zk.session().borrow())?;
        if !self.zk.cache().is_of(session) || !core.book.enter(session) {
            return None;
        }
        let (now, uptime) = (self.clock.now(), self.clock.uptime());
        let config = self.config();
        let recheck_at = self.clouds.forget_stale(now, uptime);
        let pools: Vec<PoolState> = self
            .pools()
            .iter()
            .map(|(key, pool)| PoolState { key: key.clone(), launcher_id: pool.launcher_id.clone() })
            .collect();
        let started = Instant::now();
        core.book.tidy(uptime);
        // Where they were replaced just now, all that was taken to be planned with comes again with the new session.
        let TakenIn { records, changes, renewing } = self.zk.cache().take_in(session)?;
        if !renewing {
            self.put_down_requests(&mut core.seen, &records, &changes);
        }
        let touched = core.book.holdings_mut().take_touched();
        let is_check_due = !renewing && core.is_check_due();
        let planner = &mut core.planner;
        let look_again_at = self.note_gone(&records);
        if is_check_due {
            core.book.forget_gone(|node| records.nodes.contains_key(node));
        }
        let known = self.clouds.known();
        let world = World {
            now,
            uptime,
            config: &config,
            records: &records,
            pools: &pools,
            providers: &known.iter().map(|(name, state)| (name.clone(), &**state)).collect(),
            session: session.0,
            holdings: &core.book,
            timing: Timing { request_lock: self.options.request_lock_age.as_secs_f64(), ..Timing::default() },
            stopping,
            renewing,
        };
        let news = News { changes, touched, setting: false };
        let mut plan = if is_check_due {
            // It looks at everything, twice.
            beside_other_tasks(|| plan_and_check(planner, &world, news))
        } else {
            planner.plan(&world, news)
        };
        // Not kept while decisions are handed out: what changes from here on need not be copied.
        drop(records);
        self.stats.plan(started.elapsed());
        let (mut refresh, mut refresh_at) = (Vec::new(), None);
        // While the records are renewed nothing new is known of who waits for what.
        if !renewing {
            core.book.note_idle(std::mem::take(&mut plan.idle_backing), uptime);
            let waited = Waited::of(&plan);
            self.clouds.tell_who_waits(&waited);
            (refresh, refresh_at) = self.clouds.quotas_to_refresh(&waited, now);
            self.publish_pauses(&plan);
            self.say_what_waits(&plan);
        }
        let Plan { decisions, wants, wake_at, .. } = plan;
        for want in wants.into_iter().chain(refresh).chain(self.take_wanted()) {
            self.find_out(want);
        }
        for decision in decisions {
            self.carry_out(&mut core.book, decision);
        }
        core.last_pass = Some(PassMade { at: now, uptime, took: started.elapsed() });
        [wake_at, recheck_at, refresh_at, look_again_at, core.check_again_at(now)]
            .into_iter()
            .flatten()
            .reduce(f64::min)
    }
}

/// A plan, and how what the planner remembers differs from what everything says: nothing that went unnoticed is forgotten for
/// ever.
fn plan_and_check(planner: &mut Planner, world: &World<'_>, news: News) -> Plan {
    let plan = planner.plan(world, news);
    let (right, differences) = planner.check(world, &plan);
    for difference in differences {
        error!(logger = LOGGER, "A bug in the launcher, please report it: {difference}");
    }
    right
}

/// The launches that would have stood on the next backing node: the first ones of those that wait, as many as it has slots.
fn would_have_stood(
    records: &Records,
    holdings: &Holdings,
    provider: &ProviderName,
    label: &MetastaticLabel,
) -> Vec<NodeId> {
    seekers_of(records, holdings, provider, &label.name).take(label.max_parallel_jobs).cloned().collect()
}

/// A request for a backing node failed, or its node cannot be taken: the launches fail that would have stood on it, and for a
/// while no other is asked for.
fn backing_failed(
    book: &mut Book,
    (provider, label): (&ProviderName, &LabelName),
    failing: Vec<NodeId>,
    request: &RequestId,
    why: &str,
    now: Uptime,
) {
    for node in failing {
        book.stop_seeking(&node, NoPlace::Failed(why.to_owned()));
    }
    let key = (provider.clone(), label.clone());
    // Requests that were made together fail together: that is one failure.
    let again = if let Some(at) = book.backing_after.get(&key).filter(|at| **at > now) {
        *at
    } else {
        now + book.failed_again(Attempted::Backing(key.0.clone(), key.1.clone()), FIRST_PAUSE, LONGEST_PAUSE)
    };
    book.holdings_mut().backing_after.insert(key, again);
    let logger = super::metastatic::LOGGER;
    warn!(logger, request = %request, "{why}; asking again in {:.0} s at the earliest", again - now);
}
