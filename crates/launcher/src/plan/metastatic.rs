//! Metastatic providers: backing nodes to ask for, to take and to let go.
//!
//! A node of such a provider stands in a slot of a backing node, which is a node of some other provider, asked for by a
//! request of ours and locked for the provider's own name. Which node stands where is in the records (`user_data` of the
//! backing node, `driver_data` of the other), and so nothing is lost with a process (`nodepool 11.0.0:
//! driver/metastatic/adapter.py`). In memory is only since when nothing stands on a backing node.
//!
//! Of several launchers that have a provider one places nodes ([`World::keeper_of`]), once others have finished what they
//! were launching ([`is_left_to_another`]).

use std::collections::{BTreeMap, BTreeSet};

use nodepool_common::{
    config::{Driver, Metastatic, MetastaticLabel, Provider},
    model::{
        Backing, LabelName, LauncherId, NodeId, NodeState, Place, ProviderName, Records, RequestState, Timestamp,
        metastatic_owner,
    },
};

use super::{Decision, Holdings, Plan, World};

/// A backing node, and which of its slots are taken.
struct Standing {
    id: NodeId,
    backing: Backing,
    taken: BTreeSet<usize>,
}

impl Standing {
    /// Whether another node may be placed on it.
    fn is_open(&self, label: &MetastaticLabel, now: Timestamp) -> bool {
        !self.backing.failed && !self.is_too_old(Some(label), now)
    }

    fn is_too_old(&self, label: Option<&MetastaticLabel>, now: Timestamp) -> bool {
        let max = label.and_then(|label| label.max_age);
        max.is_some_and(|max| now - self.backing.launched > max.as_secs_f64())
    }

    fn free(&self) -> impl Iterator<Item = usize> {
        (0..self.backing.slots).filter(|slot| !self.taken.contains(slot))
    }
}

/// The backing nodes of a provider, in the order of their creation. Whether the lock is really the provider's is found
/// out by whoever writes to one.
fn backing_nodes(records: &Records, provider: &ProviderName) -> Vec<Standing> {
    let owner = metastatic_owner(provider);
    let mut taken: BTreeMap<NodeId, BTreeSet<usize>> = BTreeMap::new();
    for node in records.nodes.values().filter_map(|entry| entry.usable()) {
        if node.provider.as_ref() == Some(provider)
            && let Some(place) = Place::of(node)
        {
            taken.entry(place.backing_node).or_default().insert(place.slot);
        }
    }
    let standings = records.nodes.iter().filter_map(|(id, entry)| {
        let node = entry.usable().filter(|node| node.state == NodeState::InUse && entry.is_locked())?;
        let backing = Backing::of(node).filter(|backing| backing.owner == owner)?;
        Some(Standing { id: id.clone(), backing, taken: taken.remove(id).unwrap_or_default() })
    });
    standings.collect()
}

/// A free slot for a node of a label: on the oldest backing node that has one.
pub fn free_place(
    records: &Records,
    provider: &ProviderName,
    label: &MetastaticLabel,
    now: Timestamp,
) -> Option<Place> {
    backing_nodes(records, provider)
        .iter()
        .filter(|standing| standing.backing.label == label.name && standing.is_open(label, now))
        .find_map(|standing| Some(Place { backing_node: standing.id.clone(), slot: standing.free().next()? }))
}

/// Notes since when nothing stands on the backing nodes of all metastatic providers.
pub fn note_idle<'a>(
    providers: impl Iterator<Item = &'a Provider>,
    records: &Records,
    holdings: &mut Holdings,
    now: Timestamp,
) {
    let metastatic = providers.filter(|provider| matches!(provider.driver, Driver::Metastatic(_)));
    let idle: BTreeSet<NodeId> = metastatic
        .flat_map(|provider| backing_nodes(records, &provider.name))
        .filter(|standing| standing.taken.is_empty())
        .map(|standing| standing.id)
        .collect();
    holdings.idle_since.retain(|id, _| idle.contains(id));
    for id in idle {
        holdings.idle_since.entry(id).or_insert(now);
    }
}

/// Whether a pool of a metastatic provider leaves new nodes to another launcher; with its pool's id, unless that one only
/// finishes what it has begun.
pub fn is_left_to_another(world: &World<'_>, provider: &Provider) -> Option<(String, Option<LauncherId>)> {
    if !matches!(provider.driver, Driver::Metastatic(_)) {
        return None;
    }
    if let Some(keeper) = world.keeper_of(&provider.name)
        && !world.is_keeper_of(&provider.name)
    {
        return Some((format!("left to {keeper}, which places the nodes of this provider"), Some(keeper)));
    }
    let foreign = world.records.nodes.iter().find(|(id, entry)| {
        let is_launching = entry.usable().is_some_and(|node| {
            node.provider.as_ref() == Some(&provider.name)
                && matches!(node.state, NodeState::Init | NodeState::Building)
        });
        is_launching && entry.is_locked() && !world.holdings.nodes.contains_key(*id) && !world.is_starting(provider)
    });
    foreign.map(|(id, _)| (format!("another launcher is still placing node {id}"), None))
}

/// Decides about the backing nodes of all metastatic providers.
pub fn metastatic(world: &World<'_>, plan: &mut Plan) {
    for provider in world.config.providers.values() {
        if let Driver::Metastatic(config) = &provider.driver
            && world.providers.contains_key(&provider.name)
        {
            let standings = backing_nodes(world.records, &provider.name);
            let waiting = waiting(world, &provider.name);
            let ordered = orders(world, plan, &provider.name);
            for (label, count) in &waiting {
                order(world, plan, provider, config, &standings, ordered.get(label).copied(), label, *count);
            }
            let is_ours = world.keeper_of(&provider.name).is_none() || world.is_keeper_of(&provider.name);
            if is_ours && !world.stopping {
                for standing in standings.iter().filter(|standing| {
                    // One that may still be of use to those who wait is kept for them; any other takes room from them.
                    let label = config.any_label(&standing.backing.label);
                    let is_of_use = label.is_some_and(|label| standing.is_open(label, world.now));
                    !is_of_use || !waiting.contains_key(&standing.backing.label)
                }) {
                    let_go(world, plan, &provider.name, config, standing);
                }
            }
        }
    }
}

/// Our launches that have no place yet, by label.
fn waiting(world: &World<'_>, provider: &ProviderName) -> BTreeMap<LabelName, usize> {
    let mut waiting = BTreeMap::new();
    for (id, held) in world.holdings.nodes.iter().filter(|(_, held)| held.launching) {
        let node = world.records.nodes.get(id).and_then(|entry| entry.usable());
        if node.is_some_and(|node| node.provider.as_ref() == Some(provider) && Place::of(node).is_none()) {
            *waiting.entry(held.label.clone()).or_default() += 1;
        }
    }
    // Decided already, and without a record so far.
    for (_, _, label) in world.holdings.starting.iter().filter(|(_, pool, _)| pool.provider == *provider) {
        *waiting.entry(label.clone()).or_default() += 1;
    }
    waiting
}

/// Whether something stands on a backing node, or has just been placed on it.
pub fn carries(records: &Records, provider: &ProviderName, backing_node: &NodeId) -> bool {
    records.nodes.values().filter_map(|entry| entry.usable()).any(|node| {
        node.provider.as_ref() == Some(provider)
            && Place::of(node).is_some_and(|place| place.backing_node == *backing_node)
    })
}

/// Sees to the requests for backing nodes that are done; counts the others by label.
fn orders(world: &World<'_>, plan: &mut Plan, provider: &ProviderName) -> BTreeMap<LabelName, usize> {
    let owner = metastatic_owner(provider);
    let mut open = BTreeMap::new();
    for (id, entry) in &world.records.requests {
        let ours = |request: &&std::sync::Arc<nodepool_common::model::NodeRequest>| {
            request.requestor.as_deref() == Some(&owner) && entry.stat.ephemeral_owner == world.session
        };
        let Some(request) = entry.usable().filter(ours) else { continue };
        let Some(label) = request.backed_label() else { continue };
        match request.state {
            RequestState::Fulfilled | RequestState::Failed => {
                let holdings = world.holdings;
                if let Some(at) = holdings.requests_after.get(id).filter(|at| **at > world.now) {
                    plan.wake(*at);
                } else if !holdings.busy_requests.contains(id) && !holdings.requests.contains_key(id) {
                    plan.decisions.push(Decision::SettleBacking { provider: provider.clone(), request: id.clone() });
                }
                // Until it is settled it counts.
                *open.entry(label).or_default() += 1;
            }
            _ => *open.entry(label).or_default() += 1,
        }
    }
    open
}

#[allow(clippy::too_many_arguments)] // all of one question: how many are lacking
fn order(
    world: &World<'_>,
    plan: &mut Plan,
    provider: &Provider,
    config: &Metastatic,
    standings: &[Standing],
    ordered: Option<usize>,
    label: &LabelName,
    waiting: usize,
) {
    let Some(of_label) = config.any_label(label).filter(|label| label.max_parallel_jobs > 0) else { return };
    if world.holdings.busy_backing.contains(&(provider.name.clone(), label.clone())) {
        return;
    }
    let open = standings.iter().filter(|s| s.backing.label == *label && s.is_open(of_label, world.now));
    let room = open.map(|standing| standing.free().count()).sum::<usize>();
    let room = room + ordered.unwrap_or(0) * of_label.max_parallel_jobs;
    let count = waiting.saturating_sub(room).div_ceil(of_label.max_parallel_jobs);
    if count > 0 {
        plan.decisions.push(Decision::OrderBacking {
            provider: provider.name.clone(),
            label: label.clone(),
            backing: of_label.backing_label.clone(),
            count,
        });
    }
}

/// Lets a backing node go on which nothing stands, once its time has come.
fn let_go(world: &World<'_>, plan: &mut Plan, provider: &ProviderName, config: &Metastatic, standing: &Standing) {
    let holdings = world.holdings;
    if !standing.taken.is_empty() || holdings.busy_nodes.contains(&standing.id) {
        return;
    }
    if let Some(at) = holdings.nodes_after.get(&standing.id).filter(|at| **at > world.now) {
        plan.wake(*at);
        return;
    }
    let label = config.any_label(&standing.backing.label);
    let since = holdings.idle_since.get(&standing.id).copied().unwrap_or(world.now);
    let (due, reason) = match label {
        None => (world.now, "its label is not in the configuration any more".to_owned()),
        Some(_) if standing.backing.failed => (world.now, "it has failed".to_owned()),
        Some(label) if standing.is_too_old(Some(label), world.now) => {
            (world.now, "it is older than max-age".to_owned())
        }
        Some(label) => {
            let kept = standing.backing.launched + label.min_retention_time.as_secs_f64();
            (kept.max(since + label.grace_time.as_secs_f64()), "nothing stands on it".to_owned())
        }
    };
    if due > world.now {
        plan.wake(due);
        return;
    }
    plan.decisions.push(Decision::LetBackingGo { provider: provider.clone(), node: standing.id.clone(), reason });
}
