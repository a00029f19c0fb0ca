//! `list`, `request-list`, `delete`, `hold`.

use std::time::Duration;

use nodepool_common::{
    model::{Node, NodeId, NodeState, Records},
    status,
    sys::clock,
    zk::{Held, ZooKeeper},
};
use nodepool_drivers::Context;

use crate::{
    failure::{Failure, say, say_aside},
    listing::View,
    output::{self, Format},
    session::Session,
    walk,
};

/// How long to wait for a node's lock (`nodepool 11.0.0: cmd/nodepoolcmd.py`).
const LOCK_TIMEOUT: Duration = Duration::from_secs(5);

/// `list [--detail]`.
pub async fn list(zk: &ZooKeeper, detail: bool, view: &View) -> Result<(), Failure> {
    let read = async || Ok(status::node_list(&walk::nodes(zk).await?, None, clock::now()));
    view.show((!detail).then_some(status::NODE_FIELDS), read).await
}

/// `request-list`.
pub async fn request_list(zk: &ZooKeeper, view: &View) -> Result<(), Failure> {
    view.show(None, async || Ok(status::request_list(&walk::requests(zk).await?, clock::now()))).await
}

/// `delete ID`: a launcher does the rest.
pub async fn delete(zk: &ZooKeeper, id: &str, format: Format) -> Result<(), Failure> {
    set_state(zk, id, NodeState::Deleting, format).await
}

/// `hold ID`.
pub async fn hold(zk: &ZooKeeper, id: &str, format: Format) -> Result<(), Failure> {
    set_state(zk, id, NodeState::Hold, format).await
}

async fn set_state(zk: &ZooKeeper, id: &str, state: NodeState, format: Format) -> Result<(), Failure> {
    let Some((id, held)) = lock(zk, id).await? else { return no_node(id, format) };
    held.update_and_unlock(|node| node.set_state(state, clock::now())).await.map_err(|(_, error)| error)?;
    show(zk, &id, format).await
}

/// `delete --now ID`: we do it ourselves, through the node's provider.
pub async fn delete_now(session: &Session, id: &str, format: Format) -> Result<(), Failure> {
    let zk = &session.zk;
    let Some((id, mut held)) = lock(zk, id).await? else { return no_node(id, format) };
    let node = held.record().clone();
    let Some(config) = node.provider.as_ref().and_then(|name| session.config.providers.get(name)) else {
        let provider = node.provider.as_ref().map_or("None", |name| name.as_str());
        let refusal = format!("Provider {provider} for node {id} not defined on this launcher");
        instead_of_a_node(&refusal, format)?;
        return Ok(held.unlock().await?);
    };
    let provider = nodepool_drivers::make(config, &Context::from_env())?;
    provider.start().await?;
    held.update(|node| node.set_state(NodeState::Deleting, clock::now())).await?;
    if let Some(external_id) = &node.external_id {
        provider.delete(external_id, node.driver_data.as_deref()).await?;
    }
    held.delete(clock::now()).await?;
    show(zk, &id, format).await
}

/// Locks a node; `None`: there is none.
async fn lock(zk: &ZooKeeper, id: &str) -> Result<Option<(NodeId, Held<Node>)>, Failure> {
    let held = if walk::is_name(id) { zk.lock_node(&NodeId::from(id), LOCK_TIMEOUT).await? } else { None };
    Ok(held.map(|held| (NodeId::from(id), held)))
}

fn no_node(id: &str, format: Format) -> Result<(), Failure> {
    instead_of_a_node(&format!("Node id {id} not found"), format)
}

/// Upstream has this in place of the table. A program gets an empty list there.
fn instead_of_a_node(line: &str, format: Format) -> Result<(), Failure> {
    if format == Format::Table {
        return say(line);
    }
    say_aside(line);
    output::print(&status::node_list(&Records::default(), None, clock::now()), Some(status::NODE_FIELDS), format)
}

/// The node as it is now, as `list` shows it; without a row once it is gone.
async fn show(zk: &ZooKeeper, id: &NodeId, format: Format) -> Result<(), Failure> {
    let records = walk::node(zk, id).await?;
    let table = status::node_list(&records, Some(id.as_str()), clock::now());
    output::print(&table, Some(status::NODE_FIELDS), format)
}
