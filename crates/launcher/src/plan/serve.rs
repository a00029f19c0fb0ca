//! Accepted requests: reuse, launch, wait for quota, fulfil, give up.
//!
//! The request's lock and the locks of its nodes are ours; which nodes it has is what we hold for it. So each pass
//! derives what is still needed, and nothing about the progress of a request is remembered anywhere else.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

use nodepool_common::{
    config::Pool,
    model::{LabelName, Node, NodeId, NodeRequest, NodeState, RequestId, RequestState, Timestamp, guard},
};

use super::{
    BrokenLabel, CloudImage, Decision, HeldNode, Plan, PoolKey, Reason, Waiting, Want, World,
    budget::{Budget, Fit},
    metastatic::is_left_to_another,
    pass::Pass,
    usage::label_resources,
};

/// Seconds by which a time of ZooKeeper's may be ahead of our clock, and still be compared with times of ours.
const CLOCKS_APART: f64 = 5.0;

impl Pass<'_> {
    /// The first part of planning: accepted requests of ours, by priority. Returns those of them that have to be looked at
    /// again in the next pass, whatever happens: all but those that only wait for their own launches.
    pub fn serve(&mut self, requests: &BTreeSet<RequestId>) -> BTreeSet<RequestId> {
        let world = self.world;
        let held = requests.iter().filter_map(|id| Some((id, world.holdings.requests.get(id)?)));
        let mut held: Vec<_> = held.collect();
        held.sort_by_key(|(id, _)| world.order_of(id));
        let mut emptied = BTreeSet::new();
        let mut unsettled = BTreeSet::new();
        for (id, request) in held {
            if world.holdings.busy_requests.contains(id) {
                unsettled.insert(id.clone());
                continue;
            }
            let nodes = self.index.held_for(id).filter_map(|node| world.holdings.nodes.get_entry(node));
            let nodes: Vec<_> = nodes.collect();
            if !self.serve_one(&mut emptied, id, &request.pool, &nodes) {
                unsettled.insert(id.clone());
            }
        }
        self.plan.paused.extend(self.taken.pressure.keys().cloned());
        unsettled
    }

    /// Whether nothing is to be done for it until one of its launches ends.
    fn serve_one(
        &mut self,
        emptied: &mut BTreeSet<PoolKey>,
        id: &RequestId,
        key: &PoolKey,
        nodes: &[(&NodeId, &HeldNode)],
    ) -> bool {
        let (world, plan) = (self.world, &mut self.plan);
        let record = world.records.requests.get(id).and_then(|entry| entry.usable());
        let Some(request) = record.filter(|request| request.state == RequestState::Pending) else {
            plan.decisions.push(Decision::Forget { request: id.clone() });
            return false;
        };
        let nodes = &let_go_of_other_pools(world, plan, key, nodes);
        let failures = nodes.iter().filter_map(|(_, held)| held.failure.clone());
        let failures: Vec<_> = failures.map(|why| Reason::LaunchFailed { why }).collect();
        if !failures.is_empty() {
            plan.decisions.push(Decision::GiveUp { request: id.clone(), reasons: failures });
            return false;
        }
        // What each node is worth: a ready one and one whose launch runs count, any other is let go (an aborted one above
        // all: the cloud had no quota for it, and the request waits).
        let mut has = Vec::new();
        let mut all_ready = true;
        for (node_id, held) in nodes {
            if world.holdings.busy_nodes.contains(*node_id) {
                return false;
            }
            let node = world.records.nodes.get(*node_id).and_then(|entry| entry.usable());
            match node.map(|node| node.state) {
                // Its launch has the lock until it ends, which is a moment after READY is on record.
                _ if held.launching => {
                    all_ready = false;
                    has.push((*node_id, *held, node));
                }
                Some(NodeState::Ready) => has.push((*node_id, *held, node)),
                state => {
                    plan.decisions
                        .push(Decision::LetGo { node: (*node_id).clone(), reason: Reason::OfNoUse { state } });
                }
            }
        }
        let missing = missing_labels(&request.node_types, has.iter().map(|(_, held, _)| &held.label));
        if missing.is_empty() {
            if all_ready || guard::is_removed("all nodes ready before the answer") {
                let nodes = in_order(&request.node_types, &has);
                plan.decisions.push(Decision::Fulfil { request: id.clone(), nodes });
            }
            return !all_ready;
        }

        let put_back = |reason| Decision::PutBack { request: id.clone(), reason };
        if world.stopping {
            if all_ready {
                plan.decisions.push(put_back(Reason::Stopping));
            }
            return false;
        }
        let Some((_, pool)) = world.pool_config(key).filter(|_| world.pools.iter().any(|p| p.key == *key)) else {
            plan.decisions.push(put_back(Reason::PoolRemoved));
            return false;
        };
        // What runs is finished, and what comes of it is free then.
        if let Some(by) = world.paused_by(key) {
            plan.decisions.push(put_back(Reason::Paused(by)));
            return false;
        }
        // Another launcher places the nodes of this provider by now: it would choose the same slot.
        if has.is_empty()
            && let Some(reason @ Reason::LeftToKeeper { .. }) = world
                .pool_config(key)
                .and_then(|(provider, _)| is_left_to_another(world, &self.index.nodes, provider, &request.node_types))
        {
            plan.decisions.push(put_back(reason));
            return false;
        }
        let zone = has.iter().find_map(|(_, _, node)| node.and_then(|n| n.az.as_deref().map(str::to_owned)));
        if world.renewing {
            self.supply_from_stock(id, key, pool, request, &missing, zone);
            return false;
        }
        match decline_reason(world, key, pool, request) {
            Declining::Yes(reason) => {
                plan.decisions.push(Decision::GiveUp { request: id.clone(), reasons: vec![reason] });
                return false;
            }
            Declining::Unknown(unknown) => {
                if !self.is_in_stock(key, pool, request, &missing, zone.clone()) {
                    let reason = reason_unknown(world, key, &unknown.first);
                    // It was accepted for nodes in stock, and somebody else has taken them. Nobody knows when the cloud will
                    // answer; until then others may serve it.
                    if has.is_empty() && is_in_trouble(world, key) {
                        self.plan.decisions.push(put_back(reason));
                        return false;
                    }
                    self.plan.wait(id, key, Waiting { reason, paused: false });
                    self.plan.wants.extend(std::iter::once(unknown.first).chain(unknown.others));
                    return false;
                }
            }
            Declining::NotNow(reason) if has.is_empty() => {
                plan.decisions.push(put_back(reason));
                return false;
            }
            Declining::No | Declining::NotNow(_) => {}
        }
        if let Some(at) = world.pause_ends(world.holdings.requests_after.get(id)) {
            self.plan.wake(at);
            return false;
        }
        let supply = self.supply(key, pool, request, &missing, zone);
        if pool.hosts.is_some()
            && let Some(shortage) = &supply.shortage
        {
            // A node that was free has turned out to be dead. Others may have one, and the request is not in their way.
            self.give_back(key, &supply);
            let reason = shortage.reason.clone();
            self.plan.decisions.push(if request.is_min_ready() {
                Decision::GiveUp { request: id.clone(), reasons: vec![reason] }
            } else {
                Decision::PutBack { request: id.clone(), reason }
            });
            return false;
        }
        // Several requests that each have a part of what they need could wait for each other for ever. So behind one that
        // waits, a later one gets everything, without taking from it, or nothing; and it lets go of what it has.
        if self.taken.is_paused(key) && (supply.shortage.is_some() || self.is_in_the_way(key, &supply)) {
            self.give_back(key, &supply);
            for (node, held, _) in has.iter().filter(|(_, held, _)| !held.launching) {
                let reason = Reason::HeldInVain { request: held.request.clone() };
                self.plan.decisions.push(Decision::LetGo { node: (*node).clone(), reason });
            }
            let reason = Reason::BehindOthers { is_accepted: true };
            self.plan.wait(id, key, Waiting { reason, paused: true });
            self.taken.pressure.entry(key.clone()).or_default();
            return false;
        }
        if let Some(want) = &supply.unknown {
            let reason = reason_unknown(world, key, want);
            if supply.is_nothing() && has.is_empty() && is_in_trouble(world, key) {
                self.plan.decisions.push(put_back(reason));
                return false;
            }
            self.plan.wait(id, key, Waiting { reason, paused: false });
            self.plan.wants.insert(want.clone());
        }
        if let Some(shortage) = &supply.shortage {
            if request.is_min_ready() && supply.is_nothing() && has.is_empty() {
                self.plan
                    .decisions
                    .push(Decision::GiveUp { request: id.clone(), reasons: vec![shortage.reason.clone()] });
                return false;
            }
            if let Some(at) = shortage.until {
                self.plan.wake(at);
            } else if emptied.insert(key.clone()) {
                self.make_room(key);
            }
            self.plan.wait(id, key, Waiting { reason: shortage.reason.clone(), paused: true });
            self.taken.press(key, shortage, &missing);
        }
        if !supply.is_nothing() {
            self.plan.decisions.push(Decision::Supply {
                pool: key.clone(),
                request: id.clone(),
                reuse: supply.reuse,
                launch: supply.launch,
            });
        }
        false
    }

    /// Retires the pool's oldest idle node, unless a node of the pool is on its way out already (`nodepool 11.0.0:
    /// zk/zookeeper.py deleteOldestUnusedNode`; its guard never triggers, as it takes
    /// seconds for milliseconds).
    fn make_room(&mut self, key: &PoolKey) {
        const GIVE_UP_ON_A_DELETION: f64 = 300.0;
        let world = self.world;
        let mut doomed = self.index.nodes.doomed(key).filter_map(|id| {
            let entry = world.records.nodes.get(id)?;
            Some((entry, entry.usable()?))
        });
        let leaving = doomed.find(|(entry, node)| {
            let free = !entry.is_locked() || node.state == NodeState::Deleting;
            let since = entry.since(world.now).unwrap_or(world.now);
            free && world.now - since < GIVE_UP_ON_A_DELETION
        });
        if leaving.is_some() {
            return;
        }
        if let Some(node) = self.taken.oldest_idle(key, None, |_| true) {
            let id = node.id.clone();
            self.taken.take(key, id.clone());
            self.plan.decisions.push(Decision::Retire { node: id, reason: Reason::RoomNeeded });
        }
    }

    /// Nodes that we hold for a request that we do not hold any more: a ready one becomes free, a broken one is let go
    /// so that it is deleted, one whose launch runs waits for that.
    pub fn let_go_of_strays(&mut self, requests: &BTreeSet<RequestId>) {
        let (world, plan) = (self.world, &mut self.plan);
        let holdings = world.holdings;
        let strays =
            requests.iter().filter(|id| !holdings.requests.contains_key(id) && !holdings.busy_requests.contains(id));
        let nodes: BTreeSet<&NodeId> = strays.flat_map(|request| self.index.held_for(request)).collect();
        for id in nodes {
            let is_launching = holdings.nodes.get(id).is_some_and(|held| held.launching);
            if !is_launching && !holdings.busy_nodes.contains(id) {
                let reason = Reason::NotNeeded;
                plan.decisions.push(Decision::LetGo { node: id.clone(), reason });
            }
        }
    }
}

/// Those of the nodes of a request that are of its pool. All nodes of a request are of one pool; another one of ours may have given it
/// up while launches went on. What these come to says nothing of this pool, and is let go of.
fn let_go_of_other_pools<'a>(
    world: &World<'_>,
    plan: &mut Plan,
    key: &PoolKey,
    nodes: &[(&'a NodeId, &'a HeldNode)],
) -> Vec<(&'a NodeId, &'a HeldNode)> {
    let is_of_pool = |id: &NodeId| {
        let node = world.records.nodes.get(id).and_then(|entry| entry.usable());
        node.is_none_or(|node| node.provider.as_ref() == Some(&key.provider) && node.pool.as_ref() == Some(&key.pool))
    };
    let (ours, others): (Vec<_>, Vec<_>) = nodes.iter().copied().partition(|(id, _)| is_of_pool(id));
    for (id, held) in others {
        if !held.launching && !world.holdings.busy_nodes.contains(id) {
            plan.decisions.push(Decision::LetGo { node: id.clone(), reason: Reason::NotNeeded });
        }
    }
    ours
}

/// Whether a pool has to decline a set of labels (`nodepool 11.0.0: driver/__init__.py getDeclinedReasons`).
#[derive(Debug, PartialEq)]
pub enum Declining {
    /// Yes, for this reason.
    Yes(Reason),
    /// No.
    No,
    /// Not for now: other users of the project take what it would need, and nobody but this provider could serve it.
    NotNow(Reason),
    /// To be found out first.
    Unknown(Unknown),
}

/// What has to be found out before it is known whether a request has to be declined.
#[derive(Debug, PartialEq)]
pub struct Unknown {
    /// What it waits for, as people are told.
    pub first: Want,
    /// What it will wait for then.
    pub others: Vec<Want>,
    /// Whether that is so because of the age of this very request.
    pub is_by_age: bool,
}

/// See [`Declining`]. The first reason that applies.
pub fn decline_reason(world: &World<'_>, key: &PoolKey, pool: &Pool, request: &NodeRequest) -> Declining {
    let labels = &request.node_types;
    if pool.disabled {
        return Declining::Yes(Reason::PoolDisabled);
    }
    let unknown: Vec<LabelName> = labels.iter().filter(|l| !pool.labels.contains_key(*l)).cloned().collect();
    if !unknown.is_empty() {
        let broken = labels.iter().filter_map(|label| Some((label, pool.broken_labels.get(label)?)));
        let broken = broken.map(|(label, why)| BrokenLabel { label: label.clone(), why: why.clone() });
        return Declining::Yes(Reason::LabelsMissing { labels: unknown, broken: broken.collect() });
    }
    // All that is unknown is asked for at once. A label whose configuration the cloud refutes is declined for that, whatever is
    // the matter with its image.
    let mut wants = Vec::new();
    for label in labels {
        match label_resources(world, key, label) {
            Ok(Ok(_)) => {}
            Ok(Err(error)) => {
                let broken = BrokenLabel { label: label.clone(), why: error.clone() };
                return Declining::Yes(Reason::LabelUnusable(broken));
            }
            Err(want) => wants.push(want),
        }
    }
    let knows_what_they_take = wants.is_empty();
    for label in labels {
        match image_available(world, key, pool, label) {
            Ok(true) => {}
            Ok(false) if !knows_what_they_take => {}
            Ok(false) => {
                let image = pool.labels.get(label).and_then(|l| l.diskimage.as_ref());
                if image.is_none() && is_older_than(world, key, label, request) {
                    let first = cloud_image(key, label);
                    return Declining::Unknown(Unknown { first, others: Vec::new(), is_by_age: true });
                }
                return Declining::Yes(Reason::ImageMissing { label: label.clone(), image: image.cloned() });
            }
            Err(want) => wants.push(want),
        }
    }
    let needs_quota = !pool.ignore_provider_quota && world.provider(&key.provider).is_none_or(|p| p.quota.is_none());
    if !wants.is_empty() && needs_quota {
        wants.push(Want::Quota(key.provider.clone()));
    }
    let mut wants = wants.into_iter();
    if let Some(first) = wants.next() {
        return Declining::Unknown(Unknown { first, others: wants.collect(), is_by_age: false });
    }
    match Budget::could_ever_fit(world, key, pool, request) {
        Fit::Yes => Declining::No,
        Fit::No(excess) => Declining::Yes(Reason::AloneTooLarge(excess)),
        // Upstream always declines. It does not pause the pool: others may need less, and nobody knows how long it is.
        Fit::NotNow(excess) => {
            let mut others = world.records.pools_that_may_serve(request);
            let elsewhere = others.any(|pool| pool.provider_name.as_ref() != Some(&key.provider));
            let reason = Reason::AloneTooLarge(excess);
            if elsewhere { Declining::Yes(reason) } else { Declining::NotNow(reason) }
        }
        Fit::Unknown(first) => Declining::Unknown(Unknown { first, others: Vec::new(), is_by_age: false }),
        Fit::Broken(broken) => Declining::Yes(Reason::LabelUnusable(broken)),
    }
}

/// Whether there is something to boot a label from.
pub fn image_available(world: &World<'_>, key: &PoolKey, pool: &Pool, label: &LabelName) -> Result<bool, Want> {
    match pool.labels.get(label).and_then(|l| l.diskimage.as_ref()) {
        Some(image) => Ok(world.records.newest_upload(image, &key.provider).is_some()),
        None => world
            .provider(&key.provider)
            .and_then(|p| p.cloud_images.get(&(key.pool.clone(), label.clone())))
            .map(|image| *image == CloudImage::There)
            .ok_or_else(|| cloud_image(key, label)),
    }
}

fn cloud_image(key: &PoolKey, label: &LabelName) -> Want {
    Want::LabelReady(key.provider.clone(), key.pool.clone(), label.clone())
}

/// Whether the cloud was last asked for a label's image before a request was made, and did not have it. It may have it by
/// now: people make an image and ask for a node of it at once. A request from the future says nothing, as ZooKeeper's clock
/// is not ours then.
#[allow(clippy::cast_precision_loss)] // milliseconds since the epoch fit
fn is_older_than(world: &World<'_>, key: &PoolKey, label: &LabelName, request: &NodeRequest) -> bool {
    let known = world.provider(&key.provider).and_then(|p| p.cloud_images.get(&(key.pool.clone(), label.clone())));
    let Some(asked) = known.and_then(|image| image.missing_at()) else { return false };
    let made = world.records.requests.get(&request.id).map_or(0, |entry| entry.stat.ctime) as Timestamp / 1000.0;
    asked < made && made < world.now + CLOCKS_APART
}

/// Whether the cloud of a pool does not answer.
fn is_in_trouble(world: &World<'_>, key: &PoolKey) -> bool {
    world.provider(&key.provider).is_some_and(|state| state.trouble.is_some())
}

/// That something has to be found out.
pub fn reason_unknown(world: &World<'_>, key: &PoolKey, want: &Want) -> Reason {
    let is_too_old = match want {
        Want::Quota(provider) => world.provider(provider).is_some_and(|state| state.quota.is_some()),
        _ => false,
    };
    let trouble = world.provider(&key.provider).and_then(|state| state.trouble.clone());
    Reason::Unknown { want: want.clone(), is_too_old, trouble }
}

/// The labels that no node satisfies yet, in their order.
fn missing_labels<'a>(wanted: &[LabelName], has: impl Iterator<Item = &'a LabelName>) -> Vec<LabelName> {
    let mut counts: HashMap<&LabelName, usize> = HashMap::new();
    for label in has {
        *counts.entry(label).or_default() += 1;
    }
    let mut missing = Vec::new();
    for label in wanted {
        match counts.get_mut(label) {
            Some(count) if *count > 0 => *count -= 1,
            _ => missing.push(label.clone()),
        }
    }
    missing
}

/// The nodes in the order of the request's labels.
fn in_order(wanted: &[LabelName], has: &[(&NodeId, &HeldNode, Option<&Arc<Node>>)]) -> Vec<NodeId> {
    let mut left: Vec<_> = has.iter().map(|(id, held, _)| (*id, &held.label)).collect();
    wanted
        .iter()
        .filter_map(|label| {
            let at = left.iter().position(|(_, l)| *l == label)?;
            Some(left.swap_remove(at).0.clone())
        })
        .collect()
}
