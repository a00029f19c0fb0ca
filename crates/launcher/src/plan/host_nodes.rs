//! Which static host a node is.

use nodepool_common::{config::HostId, model::Node};

use super::World;

/// The host that a node is, by its record; `None` where that has no port.
pub fn host_of(node: &Node) -> Option<HostId> {
    Some(HostId {
        name: node.hostname.clone()?,
        username: node.username.as_deref().unwrap_or_default().to_owned(),
        port: node.connection_port.as_u64().and_then(|port| u16::try_from(port).ok())?,
    })
}

/// Whether a node may be that of a host which an error in the file leaves out. Nobody gets it, and nobody takes it away.
pub fn is_left_out(world: &World<'_>, node: &Node) -> bool {
    let provider = node.provider.as_ref().and_then(|name| world.config.providers.get(name));
    let Some(provider) = provider.filter(|p| p.pools.iter().any(|pool| !pool.broken_hosts.is_empty())) else {
        return false;
    };
    let host = host_of(node);
    let mut known = provider.pools.iter().flat_map(|pool| pool.hosts.iter().flatten());
    !known.any(|known| Some(&known.id) == host.as_ref())
}
