//! The last look of all: nothing is asked for any more, so little happens, and each thing that does is due.
//!
//! How much may happen follows from what there is to do. A launcher that has nothing to do renews what it knows of its clouds. A node in
//! stock that is too old by then goes, and is replaced. Where the stock has too few nodes because there is no room, launchers ask
//! again after pauses that grow to a minute, one of them at a time (`nodepool_launcher::run::stock`): once these pauses have grown, all of
//! them together ask for each missing node as often as they last a minute in that time, and each of them reads, locks and declines it.

use std::{collections::BTreeMap, time::Duration};

use nodepool_common::model::{Node, NodeId, NodeState};
use tokio::time::Instant;

use super::{
    super::{
        plan::Label,
        story::{broken, tell},
    },
    START, World,
};

/// For so long little is asked.
const IDLE: Duration = Duration::from_secs(300);
/// By each launcher, of ZooKeeper and of clouds.
const ASKED_WHEN_IDLE: u64 = 150;
const CALLS_WHEN_IDLE: u64 = 40;
/// As much again for each node in stock that is too old by then: its end, and its successor's launch.
const ASKED_FOR_A_NODE: u64 = 150;
const CALLS_FOR_A_NODE: u64 = 60;
/// What a request for stock for which there is no room costs each launcher.
const ASKED_FOR_A_REQUEST: u64 = 30;
/// So many are made for each missing node, by all launchers together, once their pauses have grown.
const REQUESTS_WHEN_IDLE: u64 = 6;
/// And so many by each launcher while they grow anew, as there was room for a moment.
const REQUESTS_AFTER_SUCCESS: u64 = 6;
/// For so long pauses grow.
const UNTIL_GROWN: Duration = Duration::from_secs(400);
/// For so long a request for stock for which there is no room is under way.
const UNTIL_REFUSED: Duration = Duration::from_secs(60);

/// How many nodes of a label the stock lacks.
fn lack(label: &Label, stock: &BTreeMap<NodeId, String>) -> usize {
    label.min_ready.saturating_sub(stock.values().filter(|of| **of == label.name).count())
}

impl World {
    /// Looks for so long, and says what should not have been.
    pub(super) async fn look_at_rest(&self) {
        let lacking = |stock: &BTreeMap<NodeId, String>| {
            let has = |label: &Label| self.plan.pools.iter().any(|pool| pool.labels.contains(&label.name));
            self.plan.labels.iter().filter(|label| has(label)).map(|label| lack(label, stock)).sum::<usize>()
        };
        if lacking(&self.stock()) > 0 {
            tokio::time::sleep(UNTIL_GROWN).await;
        }
        let asked = |world: &Self| world.around.peers.open().asked.values().sum::<u64>();
        let (asked_before, calls_before) = (asked(self), self.around.clouds.calls());
        let (stock, under_way) = (self.stock(), self.under_way());
        // Where something goes, there may be room for what lacked before.
        let lacked = lacking(&stock);
        tokio::time::sleep(IDLE).await;
        let (asked, calls) = (asked(self) - asked_before, self.around.clouds.calls() - calls_before);
        // What was in stock may grow too old, once, and what replaces it cannot within that time.
        let now = self.stock();
        let is_aging = |label: &str| self.plan.labels.iter().any(|of| of.name == label && of.max_ready_age > 0);
        let left: Vec<_> = stock.iter().filter(|(node, _)| !now.contains_key(*node)).collect();
        if let Some((node, label)) = left.iter().find(|(_, label)| !is_aging(label)) {
            broken!(self.story, "L2", "node {node} of label {label} was in stock, and is gone: nothing was asked for");
        }
        let renewed = u64::try_from(left.len()).unwrap();
        // Several launchers may see the same one go at the same moment.
        let came = now.keys().filter(|node| !stock.contains_key(*node)).count();
        if came > left.len() * self.plan.replicas + under_way + lacked {
            broken!(
                self.story,
                "L2",
                "{came} nodes were made for {} in stock that went, {under_way} that were asked for, and {lacked} that lacked",
                left.len()
            );
        }
        let replicas = u64::try_from(self.plan.replicas).unwrap();
        let lacking = u64::try_from(lacked.max(lacking(&now))).unwrap();
        let refused = lacking * (REQUESTS_WHEN_IDLE + REQUESTS_AFTER_SUCCESS * replicas * renewed);
        let may_ask = (ASKED_WHEN_IDLE + ASKED_FOR_A_REQUEST * refused) * replicas + ASKED_FOR_A_NODE * renewed;
        let may_call = CALLS_WHEN_IDLE * replicas + CALLS_FOR_A_NODE * renewed;
        let idle = IDLE.as_secs();
        let both = format!("ZooKeeper is asked {asked} times of {may_ask}, clouds {calls} times of {may_call}");
        tell!(self.story, "--- idle for {idle} s, {lacking} nodes lack in stock: {both}");
        if asked > may_ask || calls > may_call {
            broken!(self.story, "no busy loop", "idle for {idle} s, {lacking} nodes lack in stock: {both}");
        }
        if let Some((node, age)) = self.too_old() {
            broken!(self.story, "L2", "node {node} has been in stock for {age:.0} s, longer than it may");
        }
        if renewed == 0 {
            self.look_at_what_lacks().await;
        }
    }

    /// Nothing lacks that could be there; what is asked for in vain is refused soon.
    async fn look_at_what_lacks(&self) {
        let until = Instant::now() + UNTIL_REFUSED;
        while let Some(lacks) = self.lacks() {
            if Instant::now() > until {
                broken!(self.story, "L2", "nothing was asked for, and {lacks}");
                return;
            }
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    }

    /// A free node that is older than nodes of its label may be, by more than a minute.
    fn too_old(&self) -> Option<(NodeId, f64)> {
        let now = START + self.began.elapsed().as_secs_f64();
        let truth = self.around.truth.open();
        let mut free =
            truth.nodes.values().filter(|node| node.state == NodeState::Ready && node.allocated_to.is_none());
        free.find_map(|node| {
            let label = self.plan.labels.iter().find(|label| node.labels.iter().any(|of| *of == label.name))?;
            #[allow(clippy::cast_precision_loss)] // some minutes
            let most = label.max_ready_age as f64;
            let age = now - node.state_time;
            (most > 0.0 && age > most + 60.0).then(|| (node.id.clone(), age))
        })
    }

    /// How many requests for stock are under way: their nodes replace what went before.
    fn under_way(&self) -> usize {
        let truth = self.around.truth.open();
        truth.requests.values().filter(|request| request.is_min_ready()).count()
    }

    /// Nodes that are free, each with its label.
    fn stock(&self) -> BTreeMap<NodeId, String> {
        let truth = self.around.truth.open();
        let is_free = |node: &&Node| node.state == NodeState::Ready && node.allocated_to.is_none();
        let free = truth.nodes.values().filter(is_free);
        free.map(|node| (node.id.clone(), node.labels.first().map(ToString::to_string).unwrap_or_default())).collect()
    }
}
