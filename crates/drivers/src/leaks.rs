//! Which of a cloud's resources have leaked: they carry our provider's name, and no record knows what they are for.
//!
//! Pure, because two ask: the launcher before it removes them, and `nodepool leaks`, which only lists them.

use nodepool_common::model::{BuildId, NodeId, NodeState, ProviderName, Records, UploadId};

use crate::CloudResource;

/// Whether a resource belongs to a node of this provider that is known.
pub fn is_node_of(provider: &ProviderName, resource: &CloudResource, is_known: impl Fn(&NodeId) -> bool) -> bool {
    resource.tag("nodepool_provider_name") == Some(provider.as_str())
        && resource.tag("nodepool_node_id").is_some_and(|id| is_known(&NodeId::from(id)))
}

/// Why a resource has leaked; `None`: it has not, or is none of ours (`nodepool 11.0.0: driver/statemachine.py
/// cleanupLeakedResources`).
pub fn leaked(records: &Records, provider: &ProviderName, resource: &CloudResource) -> Option<String> {
    if resource.tag("nodepool_provider_name") != Some(provider.as_str()) {
        return None;
    }
    if let Some(id) = resource.tag("nodepool_node_id") {
        if !records.nodes.contains_key(&NodeId::from(id)) {
            return Some(format!("there is no node {id}"));
        }
        // A second server of a node: an attempt whose answer was lost. While the node is being built the one on record
        // may not be the last word.
        let node = records.nodes.get(&NodeId::from(id)).and_then(|entry| entry.usable())?;
        let other = node.external_id_text().filter(|other| *other != resource.id)?;
        let second = resource.kind.is_node() && node.state != NodeState::Building;
        return second.then(|| format!("node {id} has another server, {other}"));
    }
    let (build, upload) = (resource.tag("nodepool_build_id")?, resource.tag("nodepool_upload_id")?);
    let (build_id, upload_id) = (BuildId::from(build), UploadId::from(upload));
    let known =
        records.uploads.keys().any(|key| key.provider == *provider && key.build == build_id && key.id == upload_id);
    (!known).then(|| format!("there is no upload {upload} of build {build}"))
}
