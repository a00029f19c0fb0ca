//! Static hosts: which of their nodes are to be registered, brought up to date, or taken away.
//!
//! A host has as many nodes as `max-parallel-jobs` says, each with a number, its slot. Each of them has a record that is
//! ready from the beginning; a job uses it up, and once that record is gone its slot is registered anew. Everything
//! follows from the configuration and the records (`nodepool 11.0.0: driver/static/provider.py`); in memory there is only
//! which hosts were looked at as they are configured now, and which are to be left alone for a moment.
//!
//! Of several launchers that have a provider one does this ([`keeper_of`]). If two did it for a moment all the same, a
//! slot has two nodes, and the later one goes once nobody uses it. Where a provider has no pool any more nobody registers
//! one, and any launcher that knows the provider takes its ready nodes away.

use std::{collections::BTreeMap, sync::Arc};

use nodepool_common::{
    config::{Driver, HostId, Provider, StaticHost},
    model::{Entry, Node, NodeId, NodeState, Records},
};

use super::{Decision, HostKey, Plan, PoolKey, Reason, World, host_nodes::host_of, index::Index, keeper_of};

/// A node's record, where it stands, and what it says.
#[derive(Clone, Copy)]
struct Registered<'a> {
    id: &'a NodeId,
    entry: &'a Entry<Node>,
    node: &'a Node,
}

/// Decides about the hosts of all static providers.
pub fn hosts(world: &World<'_>, index: &Index, plan: &mut Plan) {
    for provider in world.config.providers.values() {
        if matches!(provider.driver, Driver::Static)
            && world.providers.contains_key(&provider.name)
            && keeper_of(world.records, &provider.name, &[])
                .map_or(provider.pools.is_empty(), |keeper| world.is_ours(&keeper))
        {
            hosts_of(world, index, plan, provider);
        }
    }
}

fn hosts_of(world: &World<'_>, index: &Index, plan: &mut Plan, provider: &Provider) {
    let mut nodes: BTreeMap<HostId, Vec<Registered<'_>>> = BTreeMap::new();
    let mut unknown = Vec::new();
    for (id, entry) in index.nodes.of_provider(&provider.name).filter_map(|id| world.records.nodes.get_key_value(id)) {
        let Some(node) = entry.usable().filter(|node| node.provider.as_ref() == Some(&provider.name)) else { continue };
        let registered = Registered { id, entry, node };
        match host_of(node) {
            Some(host) => nodes.entry(host).or_default().push(registered),
            None => unknown.push(registered),
        }
    }
    for pool in &provider.pools {
        for host in pool.hosts.iter().flatten() {
            let key = HostKey { provider: provider.name.clone(), host: host.id.clone() };
            let nodes = nodes.remove(&host.id).unwrap_or_default();
            let (missing, excess) = slots(host, &nodes);
            for each in excess {
                let reason = Reason::TooManyOnHost { host: host.id.clone(), slots: host.max_parallel_jobs };
                retire(world, plan, each, reason);
            }
            let holdings = world.holdings;
            if holdings.busy_hosts.contains(&key) {
                continue;
            }
            let is_known = holdings.hosts_seen.get(&key).is_some_and(|seen| seen.0 == *host && seen.1 == pool.name);
            if missing.is_empty() && is_known {
                continue;
            }
            if let Some(at) = world.pause_ends(holdings.hosts_after.get(&key)) {
                plan.wake(at);
                continue;
            }
            plan.decisions.push(Decision::Attend {
                pool: PoolKey { provider: provider.name.clone(), pool: pool.name.clone() },
                host: Arc::clone(host),
                missing,
            });
        }
    }
    // What an error in the file leaves out has not gone.
    if provider.pools.iter().any(|pool| !pool.broken_hosts.is_empty()) {
        return;
    }
    for each in nodes.into_values().flatten().chain(unknown) {
        retire(world, plan, each, Reason::HostRemoved);
    }
}

/// The slots of a host that have no node, as far as is known now.
pub fn free_slots(records: &Records, key: &HostKey, host: &StaticHost) -> Vec<usize> {
    let of_host: Vec<Registered<'_>> = records
        .nodes
        .iter()
        .filter_map(|(id, entry)| Some(Registered { id, entry, node: entry.usable()? }))
        .filter(|each| {
            each.node.provider.as_ref() == Some(&key.provider) && host_of(each.node).as_ref() == Some(&key.host)
        })
        .collect();
    slots(host, &of_host).0
}

/// The slots without a node, and the nodes without a slot. A record without a number (of an earlier version) takes any.
fn slots<'a>(host: &StaticHost, nodes: &[Registered<'a>]) -> (Vec<usize>, Vec<Registered<'a>>) {
    let mut is_taken = vec![false; host.max_parallel_jobs];
    let mut others = Vec::new();
    for each in nodes {
        // On its way out: its slot is free already, as for upstream.
        if matches!(each.node.state, NodeState::Building | NodeState::Deleting | NodeState::Deleted) {
            continue;
        }
        let slot = each.node.slot.and_then(|slot| usize::try_from(slot).ok());
        match slot.and_then(|slot| is_taken.get_mut(slot)) {
            Some(taken) if !*taken => *taken = true,
            _ => others.push(*each),
        }
    }
    let mut excess = Vec::new();
    for each in others {
        match is_taken.iter_mut().find(|taken| !**taken) {
            Some(taken) => *taken = true,
            None => excess.push(each),
        }
    }
    let missing = is_taken.iter().enumerate().filter(|(_, taken)| !**taken).map(|(slot, _)| slot).collect();
    (missing, excess)
}

/// Takes a node away that is ready and that nobody has. One that is in use goes when it was used.
fn retire(world: &World<'_>, plan: &mut Plan, registered: Registered<'_>, reason: Reason) {
    let Registered { id, entry, node } = registered;
    let holdings = world.holdings;
    let is_free = node.state == NodeState::Ready
        && node.allocated_to.is_none()
        && !entry.is_locked()
        && !holdings.busy_nodes.contains(id)
        && !holdings.nodes.contains_key(id)
        && holdings.nodes_after.get(id).is_none_or(|at| *at <= world.uptime);
    // Upkeep, and what was decided for requests, come first.
    if is_free && !plan.disposed_of().any(|node| node == id) {
        plan.decisions.push(Decision::Retire { node: id.clone(), reason });
    }
}
