//! Launches of nodes that stand on others: each is given a slot of a backing node, in the order of their requests.
//!
//! Which slots are taken is in the records of the nodes that stand in them, and in [`Holdings::placing`](super::Holdings) for
//! those that are being written. The records may be behind: whether they show all that was placed on a backing node is seen
//! when a node is placed on it, by the version of the lock that is kept of it ([`Holdings::shown`](super::Holdings)).

use std::collections::{BTreeMap, BTreeSet};

use nodepool_common::{
    config::MetastaticLabel,
    model::{Backing, LabelName, NodeId, Place, ProviderName, Records, Timestamp, metastatic_owner},
};

use super::{Decision, Holdings, Plan, PoolKey, Reason, World, index::Index};

/// A backing node, and which of its slots are taken.
pub struct Standing {
    pub id: NodeId,
    pub backing: Backing,
    pub taken: BTreeSet<usize>,
}

impl Standing {
    /// Whether another node may be placed on it.
    pub fn is_open(&self, label: &MetastaticLabel, now: Timestamp) -> bool {
        !self.backing.failed && !self.is_too_old(label, now)
    }

    pub fn is_too_old(&self, label: &MetastaticLabel, now: Timestamp) -> bool {
        label.max_age.is_some_and(|max| now - self.backing.launched > max.as_secs_f64())
    }

    pub fn free(&self) -> impl Iterator<Item = usize> {
        (0..self.backing.slots).filter(|slot| !self.taken.contains(slot))
    }
}

/// The backing nodes of a provider, in the order of their creation. Whether the lock is really the provider's is found
/// out when one is written to: those of which it was not are left out for a while.
pub fn backing_nodes(world: &World<'_>, index: &Index, provider: &ProviderName) -> Vec<Standing> {
    let (records, now) = (world.records, world.now);
    let owner = metastatic_owner(provider);
    let mut placing: BTreeMap<&NodeId, Vec<usize>> = BTreeMap::new();
    for place in world.holdings.placing.values() {
        placing.entry(&place.backing_node).or_default().push(place.slot);
    }
    let standings =
        index.nodes.backing.iter().filter(|(_, backing)| backing.owner == owner).filter_map(|(id, backing)| {
            let entry = records.nodes.get(id)?;
            let is_left_out = world.holdings.not_kept.get(id).is_some_and(|until| world.uptime < *until);
            if is_left_out || !entry.is_locked() {
                return None;
            }
            let mut backing = backing.clone();
            backing.launched = entry.stat.no_later(backing.launched, now);
            let taken = index.nodes.slots_taken(provider, id).chain(placing.remove(id).into_iter().flatten()).collect();
            Some(Standing { id: id.clone(), backing, taken })
        });
    standings.collect()
}

/// Our launches that have no place yet, by label.
#[derive(Default)]
pub struct Waiting {
    /// Those that have begun to look for one, in the order of their requests.
    pub seeking: Vec<NodeId>,
    /// Decided already, and without a record so far.
    pub starting: usize,
}

/// Launches that seek a place and have been given none.
fn seekers<'a>(
    records: &'a Records,
    holdings: &'a Holdings,
) -> impl Iterator<Item = (&'a NodeId, &'a PoolKey, &'a LabelName)> {
    let without = holdings.seeking.iter().filter(move |(id, _)| {
        // One that stands somewhere is on record a moment before it is known that it does not seek any more.
        let node = records.nodes.get(*id).and_then(|entry| entry.usable());
        !holdings.placing.contains_key(*id) && node.is_none_or(|node| Place::of(node).is_none())
    });
    without.map(|(id, (pool, label))| (id, pool, label))
}

/// Those of a provider, in the order of their requests.
fn seekers_in_order<'a>(
    records: &'a Records,
    holdings: &'a Holdings,
    provider: &ProviderName,
) -> impl Iterator<Item = (&'a NodeId, &'a PoolKey, &'a LabelName)> + use<'a> {
    let of_provider = seekers(records, holdings).filter(|(_, pool, _)| pool.provider == *provider);
    let order = |id: &NodeId| holdings.nodes.get(id).map(|held| records.order_of(&held.request));
    let mut seekers: Vec<_> = of_provider.map(|seeker| (order(seeker.0), seeker)).collect();
    seekers.sort();
    seekers.into_iter().map(|(_, seeker)| seeker)
}

/// Launches of a label of a provider that wait for a place and have been given none, in the order of their requests.
pub fn seekers_of<'a>(
    records: &'a Records,
    holdings: &'a Holdings,
    provider: &ProviderName,
    label: &LabelName,
) -> impl Iterator<Item = &'a NodeId> + use<'a> {
    let label = label.clone();
    let seekers = seekers_in_order(records, holdings, provider).filter(move |(.., of)| **of == label);
    seekers.map(|(id, ..)| id)
}

/// Whether a pool has a metastatic label in the configuration.
fn has(world: &World<'_>, pool: &PoolKey, label: &LabelName) -> bool {
    let provider = world.config.providers.get(&pool.provider).and_then(|provider| provider.metastatic());
    provider.is_some_and(|provider| provider.label(&pool.pool, label).is_some())
}

/// What waits for places of a provider.
pub fn waiting(world: &World<'_>, provider: &ProviderName) -> BTreeMap<LabelName, Waiting> {
    let mut waiting: BTreeMap<LabelName, Waiting> = BTreeMap::new();
    for (id, pool, label) in seekers_in_order(world.records, world.holdings, provider) {
        if has(world, pool, label) {
            waiting.entry(label.clone()).or_default().seeking.push(id.clone());
        }
    }
    for (_, _, label) in world.holdings.starting.iter().filter(|(_, pool, _)| pool.provider == *provider) {
        waiting.entry(label.clone()).or_default().starting += 1;
    }
    waiting
}

/// Ends the launches whose pool does not have their label in the configuration any more.
pub fn end_unwanted(world: &World<'_>, plan: &mut Plan) {
    for (node, ..) in seekers(world.records, world.holdings).filter(|(_, pool, label)| !has(world, pool, label)) {
        plan.decisions.push(Decision::StopSeeking { node: node.clone(), reason: Reason::LabelRemoved });
    }
}

/// Gives launches of a label free slots, those of the oldest backing nodes first. Who is given one waits no longer.
pub fn place(
    world: &World<'_>,
    plan: &mut Plan,
    provider: &ProviderName,
    label: &MetastaticLabel,
    standings: &mut [Standing],
    waiting: &mut Waiting,
) {
    let holdings = world.holdings;
    let mut left = std::mem::take(&mut waiting.seeking).into_iter().peekable();
    for standing in standings.iter_mut().filter(|s| s.backing.label == label.name && s.is_open(label, world.now)) {
        if left.peek().is_none() {
            break;
        }
        if let Some(at) = world.pause_ends(holdings.nodes_after.get(&standing.id)) {
            plan.wake(at);
            continue;
        }
        let free: Vec<_> = standing.free().collect();
        if holdings.busy_nodes.contains(&standing.id) {
            // Its other slots are given away when that has ended.
            waiting.seeking.extend(left.by_ref().take(free.len()));
            continue;
        }
        let slots: Vec<_> = left.by_ref().take(free.len()).zip(free).collect();
        if !slots.is_empty() {
            standing.taken.extend(slots.iter().map(|(_, slot)| *slot));
            plan.decisions.push(Decision::Place { provider: provider.clone(), on: standing.id.clone(), slots });
        }
    }
    waiting.seeking.extend(left);
    if !waiting.seeking.is_empty() {
        // One that is left out for now may have room then.
        holdings.not_kept.values().filter_map(|until| world.pause_ends(Some(until))).for_each(|until| plan.wake(until));
    }
}
