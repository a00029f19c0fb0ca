//! Accepted requests: reuse, launch, wait for quota, fulfil, give up.
//!
//! The request's lock and the locks of its nodes are ours; which nodes it has is what we hold for it. So each pass
//! derives what is still needed, and nothing about the progress of a request is remembered anywhere else.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, hash_map::DefaultHasher},
    hash::{Hash, Hasher},
    sync::Arc,
};

use nodepool_common::{
    config::Pool,
    model::{LabelName, Node, NodeId, NodeRequest, NodeState, RequestId, RequestState},
};

use super::{
    Decision, HeldNode, NewNode, Plan, PoolKey, Waiting, Want, World,
    budget::{Budget, Fit, label_resources},
};

/// What the paused requests of a pool wait for.
#[derive(Debug, Default)]
pub struct Pressure {
    /// Resources that are short.
    pub short: BTreeSet<String>,
    /// Labels that are needed.
    pub labels: BTreeSet<LabelName>,
}

/// What is set aside in this pass.
#[derive(Debug, Default)]
pub struct Taken {
    /// Ready nodes that some request gets.
    nodes: BTreeSet<NodeId>,
    /// What paused requests wait for, by pool. A pool that is in here is paused.
    pub pressure: BTreeMap<PoolKey, Pressure>,
}

/// The first part of planning: our accepted requests, by priority.
pub fn serve(world: &World<'_>, budget: &mut Budget, plan: &mut Plan, taken: &mut Taken) {
    let mut nodes: HashMap<&RequestId, Vec<(&NodeId, &HeldNode)>> = HashMap::new();
    for (id, held) in &world.holdings.nodes {
        nodes.entry(&held.request).or_default().push((id, held));
    }
    let mut held: Vec<_> = world.holdings.requests.iter().collect();
    held.sort_by_key(|(id, _)| order_of(world, id));
    let none = Vec::new();
    let mut emptied = BTreeSet::new();
    for (id, request) in held {
        if !world.holdings.busy_requests.contains(id) {
            let mine = nodes.get(id).unwrap_or(&none);
            serve_one(world, budget, plan, taken, &mut emptied, id, &request.pool, mine);
        }
    }
    let_go_of_strays(world, plan);
    plan.paused.extend(taken.pressure.keys().cloned());
}

#[allow(clippy::too_many_arguments)] // the pass's state, threaded through one story
fn serve_one(
    world: &World<'_>,
    budget: &mut Budget,
    plan: &mut Plan,
    taken: &mut Taken,
    emptied: &mut BTreeSet<PoolKey>,
    id: &RequestId,
    key: &PoolKey,
    nodes: &[(&NodeId, &HeldNode)],
) {
    let record = world.records.requests.get(id).and_then(|entry| entry.usable());
    let Some(request) = record.filter(|request| request.state == RequestState::Pending) else {
        plan.decisions.push(Decision::Forget { request: id.clone() });
        return;
    };
    let failures: Vec<String> = nodes.iter().filter_map(|(_, held)| held.failure.clone()).collect();
    if !failures.is_empty() {
        plan.decisions.push(Decision::GiveUp { request: id.clone(), reasons: failures });
        return;
    }
    // What each node is worth: a ready one and one whose launch runs count, any other is let go (an aborted one above
    // all: the cloud had no quota for it, and the request waits).
    let mut has = Vec::new();
    let mut all_ready = true;
    for (node_id, held) in nodes {
        if world.holdings.busy_nodes.contains(*node_id) {
            return;
        }
        let node = world.records.nodes.get(*node_id).and_then(|entry| entry.usable());
        match node.map(|node| node.state) {
            // Its launch has the lock until it ends, which is a moment after READY is on record.
            _ if held.launching => {
                all_ready = false;
                has.push((*node_id, *held, node));
            }
            Some(NodeState::Ready) => has.push((*node_id, *held, node)),
            state => plan.decisions.push(Decision::LetGo {
                node: (*node_id).clone(),
                reason: format!("it is {} and of no use to its request", state.map_or("gone", NodeState::as_str)),
            }),
        }
    }
    let missing = missing_labels(&request.node_types, has.iter().map(|(_, held, _)| &held.label));
    if missing.is_empty() {
        if all_ready {
            let nodes = in_order(&request.node_types, &has);
            plan.decisions.push(Decision::Fulfil { request: id.clone(), nodes });
        }
        return;
    }

    let put_back = |reason: &str| Decision::PutBack { request: id.clone(), reason: reason.to_owned() };
    let Some((_, pool)) = world.pool_config(key).filter(|_| world.pools.iter().any(|p| p.key == *key)) else {
        plan.decisions.push(put_back("its pool was removed from the configuration"));
        return;
    };
    if world.stopping {
        if all_ready {
            plan.decisions.push(put_back("the launcher is stopping"));
        }
        return;
    }
    match decline_reason(world, key, pool, &request.node_types) {
        Declining::Yes(reason) => {
            plan.decisions.push(Decision::GiveUp { request: id.clone(), reasons: vec![reason] });
            return;
        }
        Declining::Unknown(want) => {
            plan.wait(id, key, unknown(world, key, &want));
            plan.wants.insert(want);
            return;
        }
        Declining::No => {}
    }
    let zone = has.iter().find_map(|(_, _, node)| node.and_then(|n| n.az.clone()));
    let supply = supply(world, budget, taken, key, pool, request, &missing, zone);
    if let Some(want) = &supply.unknown {
        plan.wait(id, key, unknown(world, key, want));
        plan.wants.insert(want.clone());
    }
    if let Some(shortage) = &supply.shortage {
        if request.is_min_ready() && supply.is_nothing() && has.is_empty() {
            plan.decisions.push(Decision::GiveUp { request: id.clone(), reasons: vec![shortage.reason.clone()] });
            return;
        }
        if let Some(at) = shortage.until {
            plan.wake(at);
        } else if emptied.insert(key.clone()) {
            make_room(world, plan, taken, key);
        }
        plan.wait(id, key, Waiting { reason: shortage.reason.clone(), paused: true });
        taken.press(key, shortage, &missing);
    }
    if !supply.is_nothing() {
        plan.decisions.push(Decision::Supply {
            pool: key.clone(),
            request: id.clone(),
            reuse: supply.reuse,
            launch: supply.launch,
        });
    }
}

/// Where the nodes for a request would come from.
#[derive(Debug, Default)]
pub struct Supply {
    /// Ready nodes, with the label each satisfies.
    pub reuse: Vec<(NodeId, LabelName)>,
    /// Nodes to launch.
    pub launch: Vec<NewNode>,
    /// What stops it from getting the rest.
    pub shortage: Option<Shortage>,
    /// What has to be found out first.
    pub unknown: Option<Want>,
}

/// What stops a request from getting its nodes.
#[derive(Debug)]
pub struct Shortage {
    /// For people.
    pub reason: String,
    /// The resources that are short.
    pub short: Vec<String>,
    /// Until when to wait in any case.
    pub until: Option<f64>,
}

impl Supply {
    /// Whether there is no node in it.
    pub fn is_nothing(&self) -> bool {
        self.reuse.is_empty() && self.launch.is_empty()
    }
}

impl Taken {
    /// Puts a node back.
    pub fn give_back(&mut self, node: &NodeId) {
        self.nodes.remove(node);
    }

    /// Notes that a pool is paused, and for what.
    pub fn press(&mut self, key: &PoolKey, shortage: &Shortage, missing: &[LabelName]) {
        let pressure = self.pressure.entry(key.clone()).or_default();
        pressure.short.extend(shortage.short.iter().cloned());
        pressure.labels.extend(missing.iter().cloned());
    }
}

/// Finds nodes for the missing labels of a request, in their order, and sets them aside.
#[allow(clippy::too_many_arguments)] // the pass's state, threaded through one story
pub fn supply(
    world: &World<'_>,
    budget: &mut Budget,
    taken: &mut Taken,
    key: &PoolKey,
    pool: &Pool,
    request: &NodeRequest,
    missing: &[LabelName],
    mut zone: Option<String>,
) -> Supply {
    let mut supply = Supply::default();
    for label in missing {
        if request.reuse
            && let Some(node) = idle_nodes(world, taken, key)
                .filter(|node| node.labels.contains(label) && (zone.is_none() || node.az == zone))
                .min_by(|a, b| a.state_time.total_cmp(&b.state_time))
        {
            zone = zone.or_else(|| node.az.clone());
            taken.nodes.insert(node.id.clone());
            supply.reuse.push((node.id.clone(), label.clone()));
            continue;
        }
        let provider = world.provider(&key.provider);
        if let Some(at) = provider.and_then(|p| p.launch_after).filter(|at| *at > world.now) {
            supply.shortage = Some(Shortage {
                reason: "the cloud refused the last launch for lack of quota".to_owned(),
                short: vec!["instances".to_owned()],
                until: Some(at),
            });
            break;
        }
        match budget.fits(world, key, pool, label) {
            Fit::Yes => {}
            Fit::No { reason, short } => {
                supply.shortage = Some(Shortage { reason: format!("{label} {reason}"), short, until: None });
                break;
            }
            Fit::Unknown(want) => {
                supply.unknown = Some(want);
                break;
            }
            // decline_reason has looked at this label already.
            Fit::Broken(_) => break,
        }
        if zone.is_none() {
            zone = match zones(world, key, pool) {
                Ok(zones) => choose_zone(&request.id, zones),
                Err(want) => {
                    supply.unknown = Some(want);
                    break;
                }
            };
        }
        if let Ok(Ok(resources)) = label_resources(world, key, label) {
            budget.take(key, resources);
        }
        supply.launch.push(NewNode { label: label.clone(), az: zone.clone() });
    }
    supply
}

/// Ready nodes of a pool that nobody has and nobody is about to get.
fn idle_nodes<'a>(world: &World<'a>, taken: &Taken, key: &PoolKey) -> impl Iterator<Item = &'a Arc<Node>> {
    let busy = world.holdings;
    world
        .records
        .nodes
        .iter()
        .filter(move |(id, entry)| {
            !entry.is_locked()
                && !busy.busy_nodes.contains(*id)
                && !busy.nodes.contains_key(*id)
                && !taken.nodes.contains(*id)
        })
        .filter_map(|(_, entry)| entry.usable())
        .filter(move |node| {
            node.state == NodeState::Ready
                && node.allocated_to.is_none()
                && node.provider.as_ref() == Some(&key.provider)
                && node.pool.as_ref() == Some(&key.pool)
        })
}

/// Retires the pool's oldest idle node, unless a node of the pool is on its way out already (`nodepool 11.0.0:
/// zk/zookeeper.py deleteOldestUnusedNode`; its guard never triggers, traps.md 12).
fn make_room(world: &World<'_>, plan: &mut Plan, taken: &mut Taken, key: &PoolKey) {
    const GIVE_UP_ON_A_DELETION: f64 = 300.0;
    let leaving = world.records.nodes.values().filter_map(|entry| entry.usable().map(|node| (entry, node))).find(
        |(entry, node)| {
            let ours = node.provider.as_ref() == Some(&key.provider) && node.pool.as_ref() == Some(&key.pool);
            let free = !entry.is_locked() || node.state == NodeState::Deleting;
            ours && node.state.is_doomed() && free && world.now - node.state_time < GIVE_UP_ON_A_DELETION
        },
    );
    if leaving.is_some() {
        return;
    }
    if let Some(node) = idle_nodes(world, taken, key).min_by(|a, b| a.state_time.total_cmp(&b.state_time)) {
        let id = node.id.clone();
        taken.nodes.insert(id.clone());
        plan.decisions.push(Decision::Retire { node: id, reason: "idle, and its room is needed".to_owned() });
    }
}

/// Nodes that we hold for a request that we do not hold any more: a ready one becomes free, a broken one is let go
/// so that it is deleted, one whose launch runs waits for that.
fn let_go_of_strays(world: &World<'_>, plan: &mut Plan) {
    for (id, held) in &world.holdings.nodes {
        let idle = !held.launching && !world.holdings.busy_nodes.contains(id);
        if idle
            && !world.holdings.requests.contains_key(&held.request)
            && !world.holdings.busy_requests.contains(&held.request)
        {
            let reason = "its request needs it no longer".to_owned();
            plan.decisions.push(Decision::LetGo { node: id.clone(), reason });
        }
    }
}

/// Whether a pool has to decline a set of labels (`nodepool 11.0.0: driver/__init__.py getDeclinedReasons`).
#[derive(Debug, PartialEq)]
pub enum Declining {
    /// Yes, for this reason.
    Yes(String),
    /// No.
    No,
    /// To be found out first.
    Unknown(Want),
}

/// See [`Declining`]. The first reason that applies.
pub fn decline_reason(world: &World<'_>, key: &PoolKey, pool: &Pool, labels: &[LabelName]) -> Declining {
    if pool.disabled {
        return Declining::Yes("pool is disabled by max-servers".to_owned());
    }
    let unknown: Vec<&str> = labels.iter().filter(|l| !pool.labels.contains_key(*l)).map(LabelName::as_str).collect();
    if !unknown.is_empty() {
        return Declining::Yes(format!("node type(s) [{}] not available", unknown.join(", ")));
    }
    // A label whose configuration the cloud refutes is declined before its image is looked at.
    for label in labels {
        match label_resources(world, key, label) {
            Ok(Ok(_)) => {}
            Ok(Err(error)) => return Declining::Yes(format!("label {label} cannot be used: {error}")),
            Err(want) => return Declining::Unknown(want),
        }
    }
    for label in labels {
        match image_available(world, key, pool, label) {
            Ok(true) => {}
            Ok(false) => {
                let image = pool.labels.get(label).and_then(|l| l.diskimage.as_ref());
                return Declining::Yes(match image {
                    Some(image) => format!("image of label {label} is not available: no ready upload of {image} here"),
                    None => format!("image of label {label} is not available: the cloud does not have it"),
                });
            }
            Err(want) => return Declining::Unknown(want),
        }
    }
    match Budget::could_ever_fit(world, key, pool, labels) {
        Fit::Yes => Declining::No,
        Fit::No { reason, .. } => Declining::Yes(format!("it would exceed quota: the request alone {reason}")),
        Fit::Unknown(want) => Declining::Unknown(want),
        Fit::Broken(error) => Declining::Yes(error),
    }
}

/// Whether there is something to boot a label from.
pub fn image_available(world: &World<'_>, key: &PoolKey, pool: &Pool, label: &LabelName) -> Result<bool, Want> {
    match pool.labels.get(label).and_then(|l| l.diskimage.as_ref()) {
        Some(image) => Ok(world.records.newest_upload(image, &key.provider).is_some()),
        None => world
            .provider(&key.provider)
            .and_then(|p| p.label_ready.get(&(key.pool.clone(), label.clone())).copied())
            .ok_or_else(|| Want::LabelReady(key.provider.clone(), key.pool.clone(), label.clone())),
    }
}

/// A waiting of which the reason is that something has to be found out.
pub fn unknown(world: &World<'_>, key: &PoolKey, want: &Want) -> Waiting {
    let what = match want {
        Want::Quota(provider) => format!("the quota of provider {provider} is not known yet"),
        Want::LabelResources(_, _, label) => format!("what a node of label {label} takes is not known yet"),
        Want::LabelReady(_, _, label) => format!("whether the image of label {label} is there is not known yet"),
        Want::Zones(provider) => format!("the availability zones of provider {provider} are not known yet"),
    };
    let trouble = world.provider(&key.provider).and_then(|p| p.trouble.as_ref());
    Waiting { reason: trouble.map_or(what.clone(), |trouble| format!("{what}: {trouble}")), paused: false }
}

/// The key by which requests are ordered: priority as text, relative priority, sequence as text (zookeeper.md 2).
pub fn order_of<'a>(world: &World<'_>, id: &'a RequestId) -> (&'a str, i64, &'a str) {
    let relative = world.records.requests.get(id).and_then(|e| e.usable()).map_or(0, |r| r.relative_priority);
    (id.priority(), relative, id.sequence())
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

fn zones<'a>(world: &World<'a>, key: &PoolKey, pool: &'a Pool) -> Result<&'a [String], Want> {
    if !pool.availability_zones.is_empty() {
        return Ok(&pool.availability_zones);
    }
    world.provider(&key.provider).and_then(|p| p.zones.as_deref()).ok_or_else(|| Want::Zones(key.provider.clone()))
}

/// The zone of all launches for a request: drawn once, from the request's id, so that a restart draws the same.
fn choose_zone(request: &RequestId, zones: &[String]) -> Option<String> {
    let mut hasher = DefaultHasher::new();
    request.hash(&mut hasher);
    let count = u64::try_from(zones.len()).ok().filter(|count| *count > 0)?;
    zones.get(usize::try_from(hasher.finish() % count).ok()?).cloned()
}
