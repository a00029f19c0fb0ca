//! Nodes: what a request is given.

use serde_json::{Value, json};

use super::{
    Json, LabelName, NodeId, Object, PoolName, ProviderName, RequestId, Resources, SharedText, TenantName, Timestamp,
    states,
    wire::{Extra, OurKeys, Reading, RecordError},
};

states! {
    /// The states of a node.
    NodeState {
        /// Being created or configured; unlocked in this state it is to be deleted.
        Building = "building",
        /// Unused by anybody since long; still valid in records.
        Testing = "testing",
        /// Ready for use.
        Ready = "ready",
        /// A job runs on it; unlocked in this state it is to be deleted.
        InUse = "in-use",
        /// The job is done; to be deleted.
        Used = "used",
        /// Kept for people.
        Hold = "hold",
        /// Being deleted.
        Deleting = "deleting",
        /// Could not be launched; to be deleted.
        Failed = "failed",
        /// Its record was just created.
        Init = "init",
        /// The cloud had no quota for it; to be deleted.
        Aborted = "aborted",
        /// Its record is about to vanish.
        Deleted = "deleted",
    }
}

impl NodeState {
    /// Whether an unlocked node in this state is to be deleted (`nodepool 11.0.0: launcher.py _cleanupNodes`).
    pub const fn is_doomed(self) -> bool {
        matches!(
            self,
            Self::Used | Self::InUse | Self::Building | Self::Failed | Self::Deleting | Self::Deleted | Self::Aborted
        )
    }
}

/// A node.
///
/// All of them are in memory: what many have alike is shared, what is only carried stays the text that it was written in.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs)] // each field is the key of its name; comments only where that is not all
pub struct Node {
    /// From the znode's name.
    pub id: NodeId,
    /// The state; set it with [`Self::set_state`].
    pub state: NodeState,
    /// When the state was last set; 0 where the record does not say.
    pub state_time: Timestamp,
    pub cloud: Option<SharedText>,
    /// `None` marks a half-deleted node.
    pub provider: Option<ProviderName>,
    pub pool: Option<PoolName>,
    /// The labels it carries; the first one counts for quota.
    pub labels: Vec<LabelName>,
    /// The request that has it; may outlive the request.
    pub allocated_to: Option<RequestId>,
    pub az: Option<SharedText>,
    pub region: Option<SharedText>,
    pub public_ipv4: Option<String>,
    pub private_ipv4: Option<String>,
    pub public_ipv6: Option<String>,
    pub host_id: Option<SharedText>,
    pub interface_ip: Option<String>,
    /// A number for ssh and winrm, an object for Kubernetes; never a text, on which Zuul's executor would fail.
    pub connection_port: Value,
    pub image_id: Option<SharedText>,
    pub launcher: Option<SharedText>,
    pub created_time: Option<Timestamp>,
    /// The cloud's id of the server: a text, or an object for some clouds.
    pub external_id: Option<Value>,
    pub hostname: Option<String>,
    pub comment: Option<String>,
    pub user_data: Option<Json>,
    pub hold_job: Option<String>,
    pub host_keys: Vec<String>,
    pub username: Option<SharedText>,
    pub connection_type: Option<SharedText>,
    pub shell_type: Option<SharedText>,
    /// Seconds that a held node is kept; `None` and 0: for as long as `max-hold-age` allows.
    pub hold_expiration: Option<i64>,
    pub resources: Option<Resources>,
    pub slot: Option<i64>,
    pub attributes: Option<Object>,
    pub python_path: Option<SharedText>,
    pub tenant_name: Option<TenantName>,
    pub driver_data: Option<Box<Value>>,
    pub requestor: Option<SharedText>,
    pub node_properties: Option<Object>,
    /// What is not ours to change.
    pub extra: Extra,
}

impl Node {
    /// A new node as upstream's constructor makes it: state `init`.
    pub fn new(now: Timestamp) -> Self {
        Self {
            id: NodeId::from(""),
            state: NodeState::Init,
            state_time: now,
            cloud: None,
            provider: None,
            pool: None,
            labels: Vec::new(),
            allocated_to: None,
            az: None,
            region: None,
            public_ipv4: None,
            private_ipv4: None,
            public_ipv6: None,
            host_id: None,
            interface_ip: None,
            connection_port: json!(22),
            image_id: None,
            launcher: None,
            created_time: Some(now),
            external_id: None,
            hostname: None,
            comment: None,
            user_data: None,
            hold_job: None,
            host_keys: Vec::new(),
            username: None,
            connection_type: None,
            shell_type: None,
            hold_expiration: None,
            resources: None,
            slot: None,
            attributes: None,
            python_path: None,
            tenant_name: None,
            driver_data: None,
            requestor: None,
            node_properties: Some(Object::default()),
            extra: Extra::default(),
        }
    }

    /// Reads a record; the second value lists keys that had to be read as absent.
    pub fn read(id: NodeId, data: &[u8]) -> Result<(Self, Vec<String>), RecordError> {
        let mut r = Reading::new(data)?;
        let state = r.state(NodeState::parse)?;
        let port = |v: &Value| (v.is_i64() || v.is_object() || v.is_string()).then(|| v.clone());
        // The older spelling is read as a fallback only, and written beside the newer one.
        let ssh_port = r.take("ssh_port", port);
        let mut node = Self {
            id,
            state,
            state_time: r.number("state_time").unwrap_or(0.0),
            cloud: r.text("cloud").map(Into::into),
            provider: r.text("provider").map(Into::into),
            pool: r.text("pool").map(Into::into),
            labels: r.take("type", labels).unwrap_or_default(),
            allocated_to: r.text("allocated_to").map(Into::into),
            az: r.text("az").map(Into::into),
            region: r.text("region").map(Into::into),
            public_ipv4: r.text("public_ipv4"),
            private_ipv4: r.text("private_ipv4"),
            public_ipv6: r.text("public_ipv6"),
            host_id: r.text("host_id").map(Into::into),
            interface_ip: r.text("interface_ip"),
            connection_port: r.take("connection_port", port).or(ssh_port).unwrap_or(json!(22)),
            image_id: r.text("image_id").map(Into::into),
            launcher: r.text("launcher").map(Into::into),
            created_time: r.number("created_time"),
            external_id: r.any("external_id"),
            hostname: r.text("hostname"),
            comment: r.text("comment"),
            user_data: r.json("user_data"),
            hold_job: r.text("hold_job"),
            host_keys: r.texts("host_keys").unwrap_or_default(),
            username: r.text("username").map(Into::into),
            connection_type: r.text("connection_type").map(Into::into),
            shell_type: r.text("shell_type").map(Into::into),
            hold_expiration: r.take("hold_expiration", hold_expiration),
            resources: r.object("resources").map(|m| Resources::from_json(&m)),
            slot: r.integer("slot"),
            attributes: r.json_object("attributes"),
            python_path: r.text("python_path").map(Into::into),
            tenant_name: r.text("tenant_name").map(Into::into),
            driver_data: r.any("driver_data").map(Box::new),
            requestor: r.text("requestor").map(Into::into),
            node_properties: r.json_object("node_properties"),
            extra: Extra::default(),
        };
        let (extra, oddities) = r.rest(&node.ours());
        node.extra = extra;
        Ok((node, oddities))
    }

    /// The record's bytes: upstream's 37 keys in upstream's order, then those of others.
    pub fn write(&self) -> Vec<u8> {
        self.extra.complete(&self.ours()).into_bytes()
    }

    fn ours(&self) -> OurKeys {
        OurKeys::of(37)
            .with("state", self.state.as_str())
            .with("state_time", &self.state_time)
            .with("cloud", &self.cloud)
            .with("provider", &self.provider)
            .with("pool", &self.pool)
            .with("type", &self.labels)
            .with("allocated_to", &self.allocated_to)
            .with("az", &self.az)
            .with("region", &self.region)
            .with("public_ipv4", &self.public_ipv4)
            .with("private_ipv4", &self.private_ipv4)
            .with("public_ipv6", &self.public_ipv6)
            .with("host_id", &self.host_id)
            .with("interface_ip", &self.interface_ip)
            .with("connection_port", &self.connection_port)
            .with("ssh_port", &self.connection_port)
            .with("image_id", &self.image_id)
            .with("launcher", &self.launcher)
            .with("created_time", &self.created_time)
            .with("external_id", &self.external_id)
            .with("hostname", &self.hostname)
            .with("comment", &self.comment)
            .with_written("user_data", self.user_data.as_ref().map(Json::as_str))
            .with("hold_job", &self.hold_job)
            .with("host_keys", &self.host_keys)
            .with("username", &self.username)
            .with("connection_type", &self.connection_type)
            .with("shell_type", &self.shell_type)
            .with("hold_expiration", &self.hold_expiration)
            .with("resources", &self.resources.as_ref().map(Resources::to_json))
            .with("slot", &self.slot)
            .with_written("attributes", self.attributes.as_ref().map(Object::text).as_deref())
            .with("python_path", &self.python_path)
            .with("tenant_name", &self.tenant_name)
            .with("driver_data", &self.driver_data)
            .with("requestor", &self.requestor)
            .with_written("node_properties", self.node_properties.as_ref().map(Object::text).as_deref())
    }

    /// Sets the state and its time, as upstream's setter does (also when the state stays the same).
    pub fn set_state(&mut self, state: NodeState, now: Timestamp) {
        self.state = state;
        self.state_time = now;
    }

    /// The cloud's id of the server where that is a text.
    pub fn external_id_text(&self) -> Option<&str> {
        self.external_id.as_ref().and_then(Value::as_str)
    }
}

/// `type` is a list; a bare text is accepted and wrapped.
fn labels(value: &Value) -> Option<Vec<LabelName>> {
    match value {
        Value::String(label) => Some(vec![label.as_str().into()]),
        Value::Array(list) => Some(list.iter().filter_map(|l| l.as_str().map(Into::into)).collect()),
        _ => None,
    }
}

/// Texts are coerced; one that is no number means "no expiry".
#[allow(clippy::cast_possible_truncation)] // a fraction of a second of a hold is nothing
fn hold_expiration(value: &Value) -> Option<i64> {
    match value {
        Value::Number(n) => n.as_i64().or_else(|| n.as_f64().map(|f| f as i64)),
        Value::String(text) => Some(text.trim().parse().unwrap_or(0)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_node_is_written_as_upstream_writes_it() {
        let mut node = Node::new(1_760_000_000.25);
        node.provider = Some("p".into());
        node.pool = Some("main".into());
        node.labels = vec!["ubuntu".into()];
        node.allocated_to = Some("200-0000000007".into());
        node.launcher = Some("host.example-PoolWorker.p-main-5f0c".into());
        node.tenant_name = Some("t".into());
        node.requestor = Some("zs".into());
        assert_eq!(
            String::from_utf8(node.write()).unwrap(),
            r#"{"state": "init", "state_time": 1760000000.25, "cloud": null, "provider": "p", "pool": "main", "type": ["ubuntu"], "allocated_to": "200-0000000007", "az": null, "region": null, "public_ipv4": null, "private_ipv4": null, "public_ipv6": null, "host_id": null, "interface_ip": null, "connection_port": 22, "ssh_port": 22, "image_id": null, "launcher": "host.example-PoolWorker.p-main-5f0c", "created_time": 1760000000.25, "external_id": null, "hostname": null, "comment": null, "user_data": null, "hold_job": null, "host_keys": [], "username": null, "connection_type": null, "shell_type": null, "hold_expiration": null, "resources": null, "slot": null, "attributes": null, "python_path": null, "tenant_name": "t", "driver_data": null, "requestor": "zs", "node_properties": {}}"#
        );
    }

    #[test]
    fn old_and_odd_nodes_are_read() {
        let data = br#"{"state": "ready", "type": "ubuntu", "ssh_port": 2222, "host_keys": null, "id": "0000000001"}"#;
        let (node, oddities) = Node::read("0000000001".into(), data).unwrap();
        assert!(oddities.is_empty(), "{oddities:?}");
        assert_eq!(node.labels, ["ubuntu"]);
        assert_eq!(node.connection_port, json!(2222));
        assert!(node.host_keys.is_empty());
        assert_eq!(node.extra.get("id"), Some(&Json::of("0000000001")), "what Zuul adds stays");
    }

    /// Upstream's `test_hold_expiration_bad_type_coercion`.
    #[test]
    fn a_hold_expiration_that_is_no_number_is_no_expiry() {
        for (text, expected) in [("\"1\"", Some(1)), ("\"notanumber\"", Some(0)), ("3.7", Some(3)), ("[1]", None)] {
            let data = format!(r#"{{"state": "hold", "hold_expiration": {text}}}"#);
            let (node, _) = Node::read("1".into(), data.as_bytes()).unwrap();
            assert_eq!(node.hold_expiration, expected, "{text}");
        }
    }
}
