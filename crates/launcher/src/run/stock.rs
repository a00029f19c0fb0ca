//! Nodes to keep in stock (`min-ready`): asking for them, putting them there, and when not to ask.
//!
//! Every launcher sees what the stock lacks, and any of them may ask for it; each request is offered to the pools of all. Where there is
//! no room, each would ask again and again, and each would have to decline whatever the others ask for. So a launcher does not ask for
//! a label for a while after
//!
//! * a request of its own has failed;
//! * each of its pools that has the label has declined a request for stock, whoever made that. If another launcher has room, it serves
//!   that request, and asks for what else is missing; if none has, a request of ours would fail, too.
//!
//! The pause after a refusal is twice the last one, up to a minute. What is refused while it lasts begins it anew, no longer than it
//! was: requests for one label are made together, and others ask, too. By chance it is up to a quarter longer: launchers that begin
//! to wait together ask one after the other, and what the first one asks for and the others decline lets those wait again. So where
//! there is no room, one launcher asks about once a minute, and not each of them (`nodepool 11.0.0: launcher.py createMinReady` asks
//! again as soon as a request has failed).
//!
//! When a node leaves the stock all launchers see it in the same moment, and each would ask for its successor before it sees that another
//! one has. So the one whose pool with the label was registered last asks at once, and the others a moment later, for what still lacks by
//! then: meanwhile it may have been asked for, or what was on its way into the stock may have come there.

use std::{sync::Arc, time::Duration};

use nodepool_common::{
    model::{LabelName, LauncherId, Node, NodeRequest, NodeState, RequestId, RequestState, Uptime},
    zk::{Held, ZkError},
};
use tracing::info;

use super::{
    LOGGER, Launcher,
    book::Book,
    events::{Event, Outcome, Reports},
};
use crate::plan::{Attempted, last_registered};

/// Seconds for which nothing is asked for after the first failure, and at most.
const FIRST_PAUSE: f64 = 2.0;
const LONGEST_PAUSE: f64 = 60.0;
/// By so much of itself a pause may be longer.
const SPREAD: f64 = 0.25;
/// For so many seconds others wait for the one who asks first.
const OTHERS_WAIT: f64 = 1.5;

impl Launcher {
    /// Asks for nodes to keep in stock, with one request for each.
    pub(super) async fn create_min_ready(
        &self,
        label: &LabelName,
        count: usize,
        reports: &Reports,
    ) -> Result<(), ZkError> {
        let mut count = count;
        if !self.asks_first(label) {
            tokio::time::sleep(Duration::from_secs_f64(self.spread(OTHERS_WAIT))).await;
            count = count.min(self.lacking(label));
        }
        if count == 0 {
            return Ok(());
        }
        info!(logger = LOGGER, "Creating requests for {count} {label} nodes");
        for _ in 0..count {
            let event_id = self.entropy.uuid().simple().to_string();
            let request = NodeRequest::min_ready(label, event_id, self.clock.now());
            self.in_session(reports).create_request("900", true, request).await?;
        }
        Ok(())
    }

    /// Whether no pool of another launcher that has a label was registered after ours.
    fn asks_first(&self, label: &LabelName) -> bool {
        let labels = std::slice::from_ref(label);
        let last = self.zk.cache().read(|records| last_registered(records, |pool| pool.supports(labels)));
        last.is_none_or(|last| self.pools().values().any(|pool| pool.launcher_id == last))
    }

    /// How many nodes of a label the stock lacks now, by the records: beside what is there, and what somebody asks for.
    fn lacking(&self, label: &LabelName) -> usize {
        let config = self.config();
        let Some(wanted) = config.labels.get(label).map(|label| label.min_ready) else { return 0 };
        let has = |labels: &[LabelName]| labels.contains(label);
        self.zk.cache().read(|records| {
            let nodes = records.nodes.values().filter_map(|entry| entry.usable());
            let in_stock =
                |node: &&Arc<Node>| node.state == NodeState::Ready && node.allocated_to.is_none() && has(&node.labels);
            let requests = records.requests.values().filter_map(|entry| entry.usable());
            let is_asked_for = |request: &&Arc<NodeRequest>| {
                request.is_min_ready() && request.state != RequestState::Failed && has(&request.node_types)
            };
            wanted.saturating_sub(nodes.filter(in_stock).count() + requests.filter(is_asked_for).count())
        })
    }

    /// That many seconds or up to a quarter more.
    fn spread(&self, seconds: f64) -> f64 {
        #[allow(clippy::cast_precision_loss)] // 53 bits are enough
        let by_chance = (self.entropy.seed() >> 11) as f64 / (1_u64 << 53) as f64;
        seconds * (1.0 + SPREAD * by_chance)
    }

    /// Puts the nodes of a request of our own into stock: they are free, and it has done its part.
    pub(super) async fn stock(&self, held: Held<NodeRequest>, taken: Vec<Held<Node>>) -> Result<(), ZkError> {
        let (request, session) = (Arc::clone(held.record()), held.session());
        let freed = taken.into_iter().map(|node| async move {
            let renewed = self.renewed_connection(node.record()).await;
            let free = |node: &mut Node| {
                node.allocated_to = None;
                node.connection_port = renewed.unwrap_or(node.connection_port.take());
            };
            node.update_and_unlock(free).await.map_err(ZkError::from)
        });
        futures::future::join_all(freed).await.into_iter().collect::<Result<(), _>>()?;
        held.unlock().await?;
        self.zk.in_session(session).delete_request(&request.id).await
    }

    /// A request of ours that others served, or that failed. Once it is gone, its nodes are freed like those of any
    /// request that is gone.
    pub(super) async fn finish_min_ready(&self, id: &RequestId, reports: &Reports) -> Result<Outcome, ZkError> {
        let request = self.zk.cache().read(|r| r.requests.get(id).and_then(|e| e.usable()).cloned());
        let mut outcome = Outcome::Done;
        match request.map(|request| (request.state, request.node_types.clone())) {
            // Told before it is gone: the next one is to wait.
            Some((RequestState::Failed, labels)) => {
                reports.tell(Event::MinReadyFailed { request: id.clone(), labels });
            }
            Some((RequestState::Fulfilled, labels)) => outcome = Outcome::Stocked(labels),
            _ => {}
        }
        self.in_session(reports).delete_request(id).await.map(|()| outcome)
    }

    /// Whether each of our pools that has the labels of a request is among those that have declined it.
    pub(super) fn none_of_ours_is_left(&self, request: &NodeRequest, declined: &[LauncherId]) -> bool {
        let config = self.config();
        self.pools().iter().all(|(key, pool)| {
            let configured = config.providers.get(&key.provider).and_then(|provider| provider.pool(&key.pool));
            let has = |label: &LabelName| configured.is_some_and(|pool| pool.labels.contains_key(label));
            declined.contains(&pool.launcher_id) || !request.node_types.iter().all(has)
        })
    }

    /// Nothing of a label is asked for to keep in stock for a while, as that was refused. For how many seconds.
    pub(super) fn put_stock_off(&self, book: &mut Book, label: &LabelName, now: Uptime) -> f64 {
        let (what, until) = (Attempted::MinReady(label.clone()), book.min_ready_after.get(label).copied());
        let pause = if until.is_some_and(|at| at > now) {
            book.last_pause(&what, FIRST_PAUSE, LONGEST_PAUSE)
        } else {
            book.failed_again(what, FIRST_PAUSE, LONGEST_PAUSE)
        };
        let ends = now + self.spread(pause);
        let ends = until.filter(|at| *at > ends).unwrap_or(ends);
        book.holdings_mut().min_ready_after.insert(label.clone(), ends);
        ends - now
    }
}
