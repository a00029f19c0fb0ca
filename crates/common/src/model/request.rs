//! Node requests: what Zuul writes and waits for.

use serde_json::json;

use super::{
    Json, LabelName, LauncherId, NodeId, ProviderName, RequestId, TenantName, Timestamp, states,
    wire::{Extra, OurKeys, Reading, RecordError},
};

/// The requestor of requests that keep `min-ready` nodes in stock.
pub const MIN_READY_REQUESTOR: &str = "NodePool:min-ready";

states! {
    /// The states of a node request.
    RequestState {
        /// Nobody has accepted it yet.
        Requested = "requested",
        /// A launcher has accepted it and holds its lock.
        Pending = "pending",
        /// Its nodes are ready.
        Fulfilled = "fulfilled",
        /// Every registered pool has declined it.
        Failed = "failed",
    }
}

/// A node request.
#[derive(Clone, Debug, PartialEq)]
pub struct NodeRequest {
    /// From the znode's name.
    pub id: RequestId,
    /// The state; set it with [`Self::set_state`].
    pub state: RequestState,
    /// When the state was last set; 0 where the record does not say.
    pub state_time: Timestamp,
    /// Pool launchers that will not serve it, in the order of their decline.
    pub declined_by: Vec<LauncherId>,
    /// The labels wanted, one per node, in the order of the result.
    pub node_types: Vec<LabelName>,
    /// The nodes given, in the order of `node_types`; empty until fulfilled.
    pub nodes: Vec<NodeId>,
    /// Whether ready nodes in stock may be given.
    pub reuse: bool,
    /// Who asks: Zuul's system id, [`MIN_READY_REQUESTOR`], `NodePool:metastatic:<provider>`.
    pub requestor: Option<String>,
    /// Opaque; must survive unchanged.
    pub requestor_data: Option<Json>,
    /// The preferred provider.
    pub provider: Option<ProviderName>,
    /// Lower first, within a priority.
    pub relative_priority: i64,
    /// Ties the request to an event in Zuul's log and ours.
    pub event_id: Option<String>,
    /// Set by Zuul only.
    pub created_time: Option<Timestamp>,
    /// The tenant whose limits count.
    pub tenant_name: Option<TenantName>,
    /// Ours, beyond upstream: `"<provider>-<pool>: <why>"` for each decline and failure, for people. Zuul keeps
    /// keys that it doesn't know; Python launchers drop them at their next write.
    pub decline_reasons: Vec<String>,
    /// Ours, beyond upstream: the codes of these reasons, for programs.
    pub decline_codes: Vec<String>,
    /// What is not ours to change.
    pub extra: Extra,
}

impl NodeRequest {
    /// The key by which requests are ordered: priority as text, relative priority, sequence as text (`nodepool 11.0.0:
    /// zk/zookeeper.py`, `NodeRequest.priority`).
    pub fn order(&self) -> (&str, i64, &str) {
        (self.id.priority(), self.relative_priority, self.id.sequence())
    }

    /// A request of our own, for one node in stock (`nodepool 11.0.0: launcher.py createMinReady`). Its id is known
    /// once it is written.
    pub fn min_ready(label: &LabelName, event_id: String, now: Timestamp) -> Self {
        Self {
            id: RequestId::from(""),
            state: RequestState::Requested,
            state_time: now,
            declined_by: Vec::new(),
            node_types: vec![label.clone()],
            nodes: Vec::new(),
            reuse: false,
            requestor: Some(MIN_READY_REQUESTOR.to_owned()),
            requestor_data: None,
            provider: None,
            relative_priority: 0,
            event_id: Some(event_id),
            created_time: None,
            tenant_name: None,
            decline_reasons: Vec::new(),
            decline_codes: Vec::new(),
            extra: Extra::default(),
        }
    }

    /// A request of a metastatic provider, for a node under its own nodes (`nodepool 11.0.0: driver/metastatic/adapter.py
    /// _allocateBackingNode`). `label`: of the nodes that are to stand on it, which upstream keeps in memory.
    pub fn backing(owner: String, label: &LabelName, backing: &LabelName, event_id: String, now: Timestamp) -> Self {
        Self {
            reuse: true,
            requestor: Some(owner),
            requestor_data: Some(Json::of(&json!({"label": label}))),
            ..Self::min_ready(backing, event_id, now)
        }
    }

    /// Of a request that [`Self::backing`] has made: the label of the nodes that are to stand on its node.
    pub fn backed_label(&self) -> Option<LabelName> {
        Some(self.requestor_data.as_ref()?.object()?.get("label")?.text()?.as_str().into())
    }

    /// Reads a record; the second value lists keys that had to be read as absent.
    pub fn read(id: RequestId, data: &[u8]) -> Result<(Self, Vec<String>), RecordError> {
        let mut r = Reading::new(data)?;
        let state = r.state(RequestState::parse)?;
        let mut request = Self {
            id,
            state,
            state_time: r.number("state_time").unwrap_or(0.0),
            declined_by: r.texts("declined_by").unwrap_or_default().into_iter().map(Into::into).collect(),
            node_types: r.texts("node_types").unwrap_or_default().into_iter().map(Into::into).collect(),
            nodes: r.texts("nodes").unwrap_or_default().into_iter().map(Into::into).collect(),
            reuse: r.boolean("reuse").unwrap_or(true),
            requestor: r.text("requestor"),
            requestor_data: r.json("requestor_data"),
            provider: r.text("provider").map(Into::into),
            relative_priority: r.integer("relative_priority").unwrap_or(0),
            event_id: r.text("event_id"),
            created_time: r.number("created_time"),
            tenant_name: r.text("tenant_name").map(Into::into),
            decline_reasons: r.texts("decline_reasons").unwrap_or_default(),
            decline_codes: r.texts("decline_codes").unwrap_or_default(),
            extra: Extra::default(),
        };
        let (extra, oddities) = r.rest(&request.ours());
        request.extra = extra;
        Ok((request, oddities))
    }

    /// The record's bytes: upstream's 13 keys in upstream's order, then ours, then those of others.
    pub fn write(&self) -> Vec<u8> {
        self.extra.complete(&self.ours()).into_bytes()
    }

    fn ours(&self) -> OurKeys {
        let ours = OurKeys::of(15)
            .with("state", self.state.as_str())
            .with("state_time", &self.state_time)
            .with("declined_by", &self.declined_by)
            .with("node_types", &self.node_types)
            .with("nodes", &self.nodes)
            .with("reuse", &self.reuse)
            .with("requestor", &self.requestor)
            .with_written("requestor_data", self.requestor_data.as_ref().map(Json::as_str))
            .with("provider", &self.provider)
            .with("relative_priority", &self.relative_priority)
            .with("event_id", &self.event_id)
            .with("created_time", &self.created_time)
            .with("tenant_name", &self.tenant_name);
        let of_declines = [("decline_reasons", &self.decline_reasons), ("decline_codes", &self.decline_codes)];
        let there = of_declines.into_iter().filter(|(_, list)| !list.is_empty());
        there.fold(ours, |ours, (key, list)| ours.with(key, list))
    }

    /// Sets the state and its time, as upstream's setter does (also when the state stays the same).
    pub fn set_state(&mut self, state: RequestState, now: Timestamp) {
        self.state = state;
        self.state_time = now;
    }

    /// Whether it is to be answered still.
    pub fn is_open(&self) -> bool {
        matches!(self.state, RequestState::Requested | RequestState::Pending)
    }

    /// Whether it keeps `min-ready` nodes in stock, ours or another launcher's.
    pub fn is_min_ready(&self) -> bool {
        self.requestor.as_deref() == Some(MIN_READY_REQUESTOR)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_min_ready_request_is_written_as_upstream_writes_it() {
        let request =
            NodeRequest::min_ready(&"ubuntu".into(), "5f0c5f0c5f0c5f0c5f0c5f0c5f0c5f0c".into(), 1_760_000_000.25);
        assert_eq!(
            String::from_utf8(request.write()).unwrap(),
            r#"{"state": "requested", "state_time": 1760000000.25, "declined_by": [], "node_types": ["ubuntu"], "nodes": [], "reuse": false, "requestor": "NodePool:min-ready", "requestor_data": null, "provider": null, "relative_priority": 0, "event_id": "5f0c5f0c5f0c5f0c5f0c5f0c5f0c5f0c", "created_time": null, "tenant_name": null}"#
        );
    }

    #[test]
    fn zuuls_request_survives_reading_and_writing_with_its_unknown_keys() {
        let data = br#"{"requestor_data": {"build_set_uuid": "b0a1", "span_info": null}, "node_types": ["ubuntu", "ubuntu"], "requestor": "0a1b", "created_time": 1760000000.25, "provider": null, "state": "requested", "state_time": 1760000000.2, "relative_priority": 3, "event_id": "5f0c", "tenant_name": "t", "from_the_future": [1]}"#;
        let (request, oddities) = NodeRequest::read("200-0000000001".into(), data).unwrap();
        assert!(oddities.is_empty());
        assert!(request.reuse);
        assert_eq!(request.relative_priority, 3);
        let (again, _) = NodeRequest::read("200-0000000001".into(), &request.write()).unwrap();
        assert_eq!(again, request);
        assert!(again.extra.get("from_the_future").is_some());
    }

    #[test]
    fn a_key_of_the_wrong_type_is_noted_and_read_as_absent() {
        let data = br#"{"state": "requested", "relative_priority": {}, "node_types": "ubuntu"}"#;
        let (request, oddities) = NodeRequest::read("200-0000000001".into(), data).unwrap();
        assert_eq!(request.relative_priority, 0);
        assert_eq!(oddities.len(), 2, "{oddities:?}");
    }
}
