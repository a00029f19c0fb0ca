//! Which of a cloud's resources have leaked: they carry our provider's name, and no record knows what they are for.
//!
//! Pure, because two ask: the launcher before it removes them, and `nodepool leaks`, which only lists them.

use nodepool_common::model::{BuildId, NodeId, NodeState, ProviderName, Records, UploadId, brake::Standing, guard};

use crate::CloudResource;

/// Whether a resource belongs to a node of this provider that is known.
pub fn is_node_of(provider: &ProviderName, resource: &CloudResource, is_known: impl Fn(&NodeId) -> bool) -> bool {
    resource.tag("nodepool_provider_name") == Some(provider.as_str())
        && resource.tag("nodepool_node_id").is_some_and(|id| is_known(&NodeId::from(id)))
}

/// What records say of a resource; `None`: it is none of ours (`nodepool 11.0.0: driver/statemachine.py
/// cleanupLeakedResources`).
pub fn standing(records: &Records, provider: &ProviderName, resource: &CloudResource) -> Option<Standing> {
    if resource.tag("nodepool_provider_name") != Some(provider.as_str()) {
        return None;
    }
    if let Some(id) = resource.tag("nodepool_node_id") {
        let entry = records.nodes.get(&NodeId::from(id)).filter(|_| !guard::is_removed("node of a resource"));
        let Some(entry) = entry else {
            return Some(Standing::Leaked(format!("there is no node {id}")));
        };
        let Some(node) = entry.usable().filter(|_| resource.kind.is_node()) else { return Some(Standing::Known) };
        return Some(match node.external_id_text() {
            Some(server) if server == resource.id => Standing::Known,
            // A second server of a node: an attempt whose answer was lost. While the node is being built the one on record
            // may not be the last word.
            Some(other) if node.state != NodeState::Building => {
                Standing::Leaked(format!("node {id} has another server, {other}"))
            }
            _ => Standing::Open,
        });
    }
    let (build, upload) = (resource.tag("nodepool_build_id")?, resource.tag("nodepool_upload_id")?);
    let (build_id, upload_id) = (BuildId::from(build), UploadId::from(upload));
    let known =
        records.uploads.keys().any(|key| key.provider == *provider && key.build == build_id && key.id == upload_id);
    let why = || format!("there is no upload {upload} of build {build}");
    Some(if known { Standing::Known } else { Standing::Leaked(why()) })
}

/// Why a resource has leaked; `None`: it has not, or is none of ours.
pub fn leaked(records: &Records, provider: &ProviderName, resource: &CloudResource) -> Option<String> {
    match standing(records, provider, resource)? {
        Standing::Leaked(why) => Some(why),
        Standing::Known | Standing::Open => None,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use nodepool_common::model::{Entry, Node, Stat};
    use serde_json::{Map, json};

    use super::*;
    use crate::ResourceKind;

    #[test]
    fn a_server_of_a_node_that_has_no_server_on_record_yet_is_neither_known_nor_leaked() {
        let mut records = Records::default();
        let mut put = |external_id: Option<&str>, state: NodeState| {
            let mut node = Node::new(0.0);
            node.external_id = external_id.map(|id| json!(id));
            node.state = state;
            let record = Ok(Arc::new(node));
            let entry = Entry::unlocked(record, Stat::default());
            records.nodes.insert("1".into(), entry);
            let marks = [("nodepool_provider_name", "p"), ("nodepool_node_id", "1")];
            let marks = marks.map(|(key, value)| (key.to_owned(), json!(value)));
            let of = |kind| CloudResource::of(kind, "old".to_owned(), Map::from_iter(marks.clone()));
            let volume = standing(&records, &"p".into(), &of(ResourceKind::Volume));
            assert_eq!(volume, Some(Standing::Known), "it may be the node's, whichever server it has");
            standing(&records, &"p".into(), &of(ResourceKind::Instance)).unwrap()
        };
        assert_eq!(put(None, NodeState::Building), Standing::Open);
        assert_eq!(put(Some("new"), NodeState::Building), Standing::Open);
        assert_eq!(put(Some("old"), NodeState::Building), Standing::Known);
        assert_eq!(put(Some("old"), NodeState::Ready), Standing::Known);
        let second = Standing::Leaked("node 1 has another server, new".to_owned());
        assert_eq!(put(Some("new"), NodeState::Ready), second);
    }
}
