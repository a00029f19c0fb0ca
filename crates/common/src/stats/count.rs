//! How many nodes and requests there are: pure functions of the records.

use std::collections::BTreeMap;

use crate::model::{LabelName, NodeState, PoolName, ProviderName, Records};

/// A number of nodes for every state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StateCounts([usize; NodeState::ALL.len()]);

impl StateCounts {
    /// The number of nodes in a state.
    pub fn get(&self, state: NodeState) -> usize {
        self.0[state as usize]
    }

    /// All states with their numbers, zeros included.
    pub fn iter(&self) -> impl Iterator<Item = (NodeState, usize)> + '_ {
        NodeState::ALL.iter().map(|state| (*state, self.get(*state)))
    }

    fn add(&mut self, state: NodeState) {
        self.0[state as usize] += 1;
    }
}

/// The nodes of the whole system, by state.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeCounts {
    /// All nodes.
    pub all: StateCounts,
    /// Those of each provider.
    pub providers: BTreeMap<ProviderName, StateCounts>,
    /// Those of each label; a node counts for each label that it carries.
    pub labels: BTreeMap<LabelName, StateCounts>,
}

/// Counts the nodes (`nodepool 11.0.0: stats.py updateNodeStats`). Every provider and label that a registered pool
/// or the caller's configuration names is there, with zeros if need be; so is whatever the nodes themselves name.
/// Nodes that cannot be read do not count.
pub fn count_nodes<'a>(
    records: &'a Records,
    providers: impl IntoIterator<Item = &'a ProviderName>,
    labels: impl IntoIterator<Item = &'a LabelName>,
) -> NodeCounts {
    let mut counts = NodeCounts::default();
    for provider in providers.into_iter().chain(records.pools.values().filter_map(|pool| pool.provider_name.as_ref())) {
        counts.providers.entry(provider.clone()).or_default();
    }
    for label in labels.into_iter().chain(records.pools.values().flat_map(|pool| &pool.supported_labels)) {
        counts.labels.entry(label.clone()).or_default();
    }
    for node in records.nodes.values().filter_map(|entry| entry.usable()) {
        counts.all.add(node.state);
        for label in &node.labels {
            counts.labels.entry(label.clone()).or_default().add(node.state);
        }
        // A half-deleted node belongs to nobody.
        if let Some(provider) = &node.provider {
            counts.providers.entry(provider.clone()).or_default().add(node.state);
        }
    }
    counts
}

/// For each registered pool the number of requests, in whatever state, all of whose labels it supports
/// (`nodepool 11.0.0: stats.py updateNodeRequestStats`).
pub fn count_addressable_requests(records: &Records) -> BTreeMap<(ProviderName, PoolName), usize> {
    let mut counts = BTreeMap::new();
    for pool in records.pools.values() {
        let (Some(provider), Some(name)) = (&pool.provider_name, &pool.name) else { continue };
        // Launchers that serve the same pool register it once each: it is still one pool.
        let key = (provider.clone(), name.clone());
        let requests = records.requests.values().filter_map(|entry| entry.usable());
        let count = requests
            .filter(|request| request.node_types.iter().all(|label| pool.supported_labels.contains(label)))
            .count();
        counts.insert(key, count);
    }
    counts
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::model::{Entry, LauncherId, Node, NodeRequest, PoolComponent, RecordError, Stat};

    fn entry<T>(record: T) -> Arc<Entry<T>> {
        Entry::unlocked(Ok(Arc::new(record)), Stat::default())
    }

    fn pool(provider: &str, name: &str, labels: &[&str]) -> Arc<PoolComponent> {
        let data = serde_json::json!({
            "hostname": "h", "id": "h-1", "name": name, "provider_name": provider, "supported_labels": labels,
        });
        let (pool, _) = PoolComponent::read("h", data.to_string().as_bytes()).unwrap();
        assert_eq!(pool.id, Some(LauncherId::from("h-1")));
        Arc::new(pool)
    }

    fn node(provider: Option<&str>, labels: &[&str], state: NodeState) -> Arc<Entry<Node>> {
        let mut node = Node::new(0.0);
        node.state = state;
        node.provider = provider.map(Into::into);
        node.labels = labels.iter().map(|label| (*label).into()).collect();
        entry(node)
    }

    #[test]
    fn states_providers_and_labels_without_nodes_are_zero() {
        let mut records = Records::default();
        records.pools.insert("h0".to_owned(), pool("rdo", "main", &["ubuntu"]));
        let counts = count_nodes(&records, [&"aws".into()], [&"centos".into()]);
        assert_eq!(counts.all.iter().count(), 11);
        assert!(counts.all.iter().all(|(_, n)| n == 0));
        assert_eq!(counts.providers.keys().map(ProviderName::as_str).collect::<Vec<_>>(), ["aws", "rdo"]);
        assert_eq!(counts.labels.keys().map(LabelName::as_str).collect::<Vec<_>>(), ["centos", "ubuntu"]);
    }

    #[test]
    fn a_node_counts_once_for_each_of_its_labels() {
        let mut records = Records::default();
        records.nodes.insert("1".into(), node(Some("rdo"), &["a", "b"], NodeState::Ready));
        records.nodes.insert("2".into(), node(Some("rdo"), &["a"], NodeState::InUse));
        records.nodes.insert("3".into(), node(None, &["a"], NodeState::Deleted));
        records.nodes.insert("4".into(), Entry::unlocked(Err(RecordError::Empty), Stat::default()));
        let counts = count_nodes(&records, [], []);
        assert_eq!(counts.all.get(NodeState::Ready), 1);
        assert_eq!(counts.all.get(NodeState::Deleted), 1);
        assert_eq!(counts.labels["a"].get(NodeState::Ready), 1);
        assert_eq!(counts.labels["a"].get(NodeState::InUse), 1);
        assert_eq!(counts.labels["b"].get(NodeState::Ready), 1);
        assert_eq!(counts.providers.len(), 1, "a half-deleted node has no provider");
        assert_eq!(counts.providers["rdo"].get(NodeState::InUse), 1);
    }

    #[test]
    fn a_request_is_addressable_by_each_pool_that_has_all_its_labels() {
        let mut records = Records::default();
        records.pools.insert("h0".to_owned(), pool("rdo", "main", &["a", "b"]));
        records.pools.insert("h1".to_owned(), pool("rdo", "small", &["a"]));
        for (id, labels) in [("100-1", vec!["a"]), ("100-2", vec!["a", "b"]), ("100-3", vec!["c"])] {
            let mut request = NodeRequest::min_ready(&"a".into(), String::new(), 0.0);
            request.node_types = labels.into_iter().map(Into::into).collect();
            records.requests.insert(id.into(), entry(request));
        }
        let counts = count_addressable_requests(&records);
        assert_eq!(counts[&("rdo".into(), "main".into())], 2);
        assert_eq!(counts[&("rdo".into(), "small".into())], 1);
    }
}
