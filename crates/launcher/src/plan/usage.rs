//! What a node takes, by its record or by its label.

use nodepool_common::model::{LabelName, Node, NodeState, Resources};

use super::{PoolKey, Want, World};

/// What a node of a label takes: known, known to be impossible, or to be asked for.
pub fn label_resources<'a>(
    world: &World<'a>,
    key: &PoolKey,
    label: &LabelName,
) -> Result<&'a Result<Resources, String>, Want> {
    world
        .provider(&key.provider)
        .and_then(|p| p.label_resources.get(&(key.pool.clone(), label.clone())))
        .ok_or_else(|| Want::LabelResources(key.provider.clone(), key.pool.clone(), label.clone()))
}

/// A node's share of its provider's usage, and of its pool's where that is in the configuration. What a node takes is
/// on its record, or follows from its first label; where neither helps it does not count (`nodepool 11.0.0:
/// driver/utils.py estimatedNodepoolQuotaUsed`, which leaves out every node of a removed pool).
pub fn node_usage(world: &World<'_>, key: &PoolKey, node: &Node) -> Option<Resources> {
    world.config.providers.get(&key.provider)?;
    if node.state == NodeState::Aborted && node.external_id.is_none() {
        return None;
    }
    let known_label = || {
        let (_, pool) = world.pool_config(key)?;
        let label = node.labels.first().filter(|label| pool.labels.contains_key(*label))?;
        label_resources(world, key, label).ok()?.as_ref().ok()
    };
    Some(match (&node.resources, known_label()) {
        (Some(recorded), Some(need)) => recorded.clone().with_unrecorded_of(need),
        (Some(recorded), None) => recorded.clone(),
        (None, need) => need?.clone(),
    })
}
