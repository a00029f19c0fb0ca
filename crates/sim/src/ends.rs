//! What a node was before a launcher had it deleted: by that it is judged, not by the `deleting` that the launcher writes first.

use nodepool_common::model::{Node, NodeRequest, NodeState};

/// A node, as it was before.
#[derive(Clone, Copy, Debug)]
pub struct Before<'a> {
    pub node: &'a Node,
    /// That of the node, if it lives.
    pub request: Option<&'a NodeRequest>,
    /// Whether the session that has it in use lives.
    pub is_user_alive: bool,
}

/// Why a launcher that has the node's lock must not delete it; `None`: it may. Who makes a node may give it up; what was used is
/// to go, and what is in use is when its user's session is over.
pub fn why_not(before: Before<'_>) -> Option<String> {
    let Before { node, request, is_user_alive } = before;
    match node.state {
        NodeState::Ready => {
            let of = node.allocated_to.as_ref()?;
            let lives = if request.is_some() { "which lives" } else { "and was not freed" };
            Some(format!("is ready for request {of}, {lives}"))
        }
        NodeState::InUse if is_user_alive => Some("is in use".to_owned()),
        NodeState::Hold => Some("is held".to_owned()),
        _ => None,
    }
}
