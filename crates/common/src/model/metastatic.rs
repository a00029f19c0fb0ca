//! What the metastatic driver writes into nodes: whose a backing node is, and where a node of its own stands
//! (`nodepool 11.0.0: driver/metastatic/adapter.py`).

use serde_json::{Map, Value, json};

use super::{Json, LabelName, Node, NodeId, ProviderName, Timestamp};

/// More than any machine carries: a record that says more is none of ours.
const MOST_SLOTS: usize = 10_000;

/// Before a provider's name, in the name under which it owns backing nodes.
const OWNER: &str = "NodePool:metastatic:";

/// The name under which a metastatic provider asks for backing nodes, locks them and owns them.
pub fn metastatic_owner(provider: &ProviderName) -> String {
    format!("{OWNER}{provider}")
}

/// The provider that has such a name.
pub fn metastatic_provider(owner: &str) -> Option<ProviderName> {
    owner.strip_prefix(OWNER).map(ProviderName::from)
}

/// `user_data` of a backing node. Upstream writes it as a text with JSON in it.
#[derive(Clone, Debug, PartialEq)]
pub struct Backing {
    /// See [`metastatic_owner`].
    pub owner: String,
    /// The label of the nodes that stand on it.
    pub label: LabelName,
    /// How many it carries.
    pub slots: usize,
    /// It gets no more nodes.
    pub failed: bool,
    /// Since when it is one, in seconds since the epoch; 0: for ever.
    pub launched: Timestamp,
}

impl Backing {
    /// Of a node that is a backing node of anybody's.
    pub fn of(node: &Node) -> Option<Self> {
        let data = match node.user_data.as_ref()?.view() {
            Value::String(text) => serde_json::from_str::<Map<String, Value>>(&text).ok()?,
            Value::Object(map) => map,
            _ => return None,
        };
        Some(Self {
            owner: data.get("owner")?.as_str()?.to_owned(),
            label: data.get("label")?.as_str()?.into(),
            slots: usize::try_from(data.get("slots")?.as_u64()?).ok().filter(|slots| *slots <= MOST_SLOTS)?,
            failed: data.get("failed").and_then(Value::as_bool).unwrap_or(false),
            launched: data.get("launched").and_then(Value::as_f64).unwrap_or(0.0),
        })
    }

    /// As it stands in a record.
    pub fn user_data(&self) -> Json {
        let data = json!({
            "owner": self.owner,
            "label": self.label,
            "slots": self.slots,
            "failed": self.failed,
            "launched": self.launched,
        });
        Json::of(&data.to_string())
    }
}

/// Where a node stands, from its `driver_data`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The backing node.
    pub backing_node: NodeId,
    /// Which of its slots.
    pub slot: usize,
}

impl Place {
    /// Of a node that stands somewhere.
    pub fn of(node: &Node) -> Option<Self> {
        let data = node.driver_data.as_deref()?;
        Some(Self {
            backing_node: data.get("backing_node")?.as_str()?.into(),
            slot: usize::try_from(data.get("slot")?.as_u64()?).ok()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_backing_node_is_marked_as_upstream_marks_it() {
        let mut node = Node::new(0.0);
        assert_eq!(Backing::of(&node), None);
        node.user_data = Some(Json::of(&json!(
            r#"{"owner": "NodePool:metastatic:meta", "label": "user-label", "slots": 2, "failed": false, "launched": 1760000000.5}"#
        )));
        let backing = Backing::of(&node).unwrap();
        assert_eq!(backing.owner, metastatic_owner(&"meta".into()));
        assert_eq!(metastatic_provider(&backing.owner), Some("meta".into()));
        assert_eq!((backing.label.as_str(), backing.slots, backing.failed), ("user-label", 2, false));
        node.user_data = Some(backing.user_data());
        assert_eq!(Backing::of(&node).unwrap(), backing);
        // What Zuul writes there, and what anybody might.
        let absurd = json!(r#"{"owner": "o", "label": "l", "slots": 1000000000000}"#);
        for other in [json!({"zuul_system": "z"}), json!("text"), json!(7), json!(r#"{"owner": 1}"#), absurd] {
            node.user_data = Some(Json::of(&other));
            assert_eq!(Backing::of(&node), None);
        }
    }

    #[test]
    fn a_place_is_read_from_what_upstream_writes() {
        let mut node = Node::new(0.0);
        node.driver_data =
            Some(json!({"metadata": {}, "backing_node": "0000000002", "slot": 1, "node": "0000000001"}).into());
        assert_eq!(Place::of(&node), Some(Place { backing_node: "0000000002".into(), slot: 1 }));
        node.driver_data = Some(json!({"backing_node": null, "slot": 1}).into());
        assert_eq!(Place::of(&node), None);
    }
}
