//! [`Truth`]: what the records say and who has which lock, as of each transaction; and the promises about them.
//!
//! It hears of each transaction in the middle of it, so nothing goes unseen, however short it lasts. Promises, as the design has them:
//!
//! * **S1** A node belongs to one request at a time, as long as that lives. A fulfilled request has one node for each label that it
//!   asked for, in that order, all of them ready, its own and unlocked. What is fulfilled or failed stays so.
//! * **S3** A launcher that is alone makes no node beyond its pool's `max-servers`. (Of several with the same pools each
//!   learns of the others' nodes only when they are on record, like upstream's: they may overstep by what they make at once.)
//! * **S4** A launcher writes records only with their locks, and deletes no node that somebody may use.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use nodepool_common::{
    model::{Node, NodeId, NodeRequest, NodeState, RequestId, RequestState},
    zk::{
        SessionId,
        memory::Tree,
        paths::{self, NODES, REQUEST_LOCKS, REQUESTS},
        protocol::Change,
    },
};
use tokio::time::Instant;

use super::story::{Story, broken, tell};

/// For so long after a change of the configuration the limits of before may still be in force.
const UNTIL_IN_FORCE: Duration = Duration::from_secs(15);

/// What `max-servers` of a pool is.
#[derive(Clone, Copy, Debug)]
struct Limit {
    now: usize,
    before: usize,
    since: Instant,
}

/// See the module's comment.
#[derive(Debug)]
pub struct Truth {
    story: Story,
    /// Whose session it is: a launcher's name, or Zuul's.
    owners: HashMap<SessionId, String>,
    pub nodes: BTreeMap<NodeId, Node>,
    pub requests: BTreeMap<RequestId, NodeRequest>,
    /// By the lock's directory: which session has it.
    holders: HashMap<String, i64>,
    limits: BTreeMap<(String, String), Limit>,
    /// Whether one launcher is alone at work.
    pub is_alone: bool,
}

/// Clones are one.
#[derive(Clone, Debug)]
pub struct SharedTruth(Arc<Mutex<Truth>>);

/// The name under which Zuul's sessions are known.
pub const ZUUL: &str = "zuul";

impl SharedTruth {
    /// Nothing is there yet.
    pub fn new(story: Story) -> Self {
        Self(Arc::new(Mutex::new(Truth {
            story,
            owners: HashMap::new(),
            nodes: BTreeMap::new(),
            requests: BTreeMap::new(),
            holders: HashMap::new(),
            limits: BTreeMap::new(),
            is_alone: true,
        })))
    }

    /// To look at it; not across an await.
    pub fn open(&self) -> MutexGuard<'_, Truth> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn below<'a>(path: &'a str, dir: &str) -> Option<&'a str> {
    path.strip_prefix(dir)?.strip_prefix('/')
}

/// The directory of the lock whose contender that is.
fn lock_of(path: &str) -> Option<&str> {
    path.contains("__lock__").then(|| path.rsplit_once('/').map(|(dir, _)| dir)).flatten()
}

fn holder_now(tree: &Tree, dir: &str) -> Option<i64> {
    let number = |name: &str| name.contains("__lock__").then(|| name[name.len() - 10..].to_owned());
    let first = tree.children(dir).filter_map(|name| Some((number(name)?, name))).min()?.1;
    tree.get(&format!("{dir}/{first}")).map(|(_, stat)| stat.ephemeral_owner)
}

impl Truth {
    /// A session has begun.
    pub fn owns(&mut self, session: SessionId, owner: &str) {
        self.owners.insert(session, owner.to_owned());
    }

    /// Who a session's is.
    pub fn owner(&self, session: SessionId) -> &str {
        self.owners.get(&session).map_or("?", String::as_str)
    }

    /// A pool may have that many servers from now on.
    pub fn limit(&mut self, provider: &str, pool: &str, max_servers: usize) {
        let limit = self.limits.entry((provider.to_owned(), pool.to_owned()));
        let now = Instant::now();
        limit
            .and_modify(|limit| *limit = Limit { now: max_servers, before: limit.now.max(limit.before), since: now })
            .or_insert(Limit { now: max_servers, before: max_servers, since: now });
    }

    /// Which session has a node's lock.
    pub fn holder_of_node(&self, node: &NodeId) -> Option<i64> {
        self.holders.get(&paths::node_lock(node)).copied()
    }

    /// A transaction.
    pub fn apply(&mut self, by: SessionId, changes: &[(Change, String)], tree: &Tree) {
        let owner = self.owner(by).to_owned();
        let is_launcher = owner != ZUUL;
        for (change, path) in changes {
            if let Some(id) = below(path, NODES).filter(|rest| !rest.contains('/')) {
                self.node(by, &owner, is_launcher, *change, &NodeId::from(id), tree);
            } else if let Some(id) = below(path, REQUESTS).filter(|rest| !rest.contains('/')) {
                self.request(by, &owner, is_launcher, *change, &RequestId::from(id), tree);
            }
        }
        let dirs: BTreeSet<&str> = changes.iter().filter_map(|(_, path)| lock_of(path)).collect();
        for dir in dirs {
            if below(dir, NODES).is_some() || below(dir, REQUEST_LOCKS).is_some() {
                match holder_now(tree, dir) {
                    Some(holder) => self.holders.insert(dir.to_owned(), holder),
                    None => self.holders.remove(dir),
                };
            }
        }
    }

    /// Whether a session has a lock, at the beginning or at the end of a transaction: one may write and let go.
    fn has_lock(&self, by: SessionId, dir: &str, tree: &Tree) -> bool {
        self.holders.get(dir) == Some(&by.0) || holder_now(tree, dir) == Some(by.0)
    }

    fn node(&mut self, by: SessionId, owner: &str, is_launcher: bool, change: Change, id: &NodeId, tree: &Tree) {
        let before = self.nodes.get(id).cloned();
        if change == Change::Deleted {
            self.nodes.remove(id);
            let Some(before) = before else { return };
            tell!(self.story, "{owner}: node {id} is gone, {} before", before.state.as_str());
            let may_be_used = matches!(before.state, NodeState::Ready | NodeState::InUse | NodeState::Hold);
            if is_launcher && may_be_used {
                broken!(
                    self.story,
                    "S4",
                    "{owner} deletes the record of node {id}, which is {}",
                    before.state.as_str()
                );
            }
            return;
        }
        let Some((data, _)) = tree.get(&paths::node(id)) else { return };
        let Ok((now, _)) = Node::read(id.clone(), data) else { return };
        let is_news = before.as_ref().is_none_or(|before| {
            (before.state, &before.allocated_to, &before.external_id)
                != (now.state, &now.allocated_to, &now.external_id)
        });
        if is_news {
            let server = now.external_id.as_ref().and_then(|id| id.as_str()).unwrap_or("no server");
            let request = now.allocated_to.as_ref().map_or("no request", |id| id.as_str());
            let place = format!(
                "{}-{}",
                now.provider.as_ref().map_or("", |name| name.as_str()),
                now.pool.as_ref().map_or("", |name| name.as_str())
            );
            tell!(self.story, "{owner}: node {id} of {place} is {}, {server}, {request}", now.state.as_str());
        }
        let dir = paths::node_lock(id);
        if is_launcher && change == Change::Written && !self.has_lock(by, &dir, tree) {
            broken!(self.story, "S4", "{owner} writes node {id} without its lock");
        }
        if let Some(before) = &before
            && let Some(request) = &before.allocated_to
            && is_launcher
        {
            let lives = self.requests.get(request);
            let is_moved = now.allocated_to.as_ref().is_some_and(|other| other != request);
            if is_moved && lives.is_some() {
                broken!(self.story, "S1", "{owner} gives node {id} of request {request} to {:?}", now.allocated_to);
            }
            let is_given = lives.is_some_and(|lives| {
                lives.state == RequestState::Fulfilled && !lives.is_min_ready() && lives.nodes.contains(id)
            });
            let is_changed = now.state != before.state || now.allocated_to != before.allocated_to;
            if is_given && is_changed {
                broken!(
                    self.story,
                    "S1",
                    "{owner} makes node {id} {} for {:?}, which fulfilled request {request} has",
                    now.state.as_str(),
                    now.allocated_to
                );
            }
        }
        let is_new = before.is_none();
        let place =
            now.provider.as_ref().zip(now.pool.as_ref()).map(|(provider, pool)| (provider.clone(), pool.clone()));
        self.nodes.insert(id.clone(), now);
        if let Some((provider, pool)) = place.filter(|_| is_new && is_launcher && self.is_alone) {
            // A limit is one of servers: what the cloud has refused to make has none.
            let has_none = |node: &Node| node.state == NodeState::Aborted && node.external_id.is_none();
            let of_pool = |node: &&Node| {
                node.provider.as_ref() == Some(&provider) && node.pool.as_ref() == Some(&pool) && !has_none(node)
            };
            let there = self.nodes.values().filter(of_pool).count();
            let limit = self.limits.get(&(provider.to_string(), pool.to_string()));
            let limit = limit.map_or(0, |limit| {
                if limit.since.elapsed() < UNTIL_IN_FORCE { limit.now.max(limit.before) } else { limit.now }
            });
            if there > limit {
                broken!(self.story, "S3", "{owner} makes node {id}: pool {provider}-{pool} has {there} of {limit}");
            }
        }
    }

    fn request(&mut self, by: SessionId, owner: &str, is_launcher: bool, change: Change, id: &RequestId, tree: &Tree) {
        let before = self.requests.get(id).cloned();
        if change == Change::Deleted {
            self.requests.remove(id);
            let Some(before) = before else { return };
            tell!(self.story, "{owner}: request {id} is gone, {} before", before.state.as_str());
            if is_launcher && !before.is_min_ready() {
                broken!(self.story, "S4", "{owner} deletes request {id}, which is Zuul's");
            }
            return;
        }
        let Some((data, _)) = tree.get(&paths::request(id)) else { return };
        let Ok((now, _)) = NodeRequest::read(id.clone(), data) else { return };
        let is_news = before.as_ref().is_none_or(|before| {
            (before.state, &before.nodes, &before.declined_by) != (now.state, &now.nodes, &now.declined_by)
        });
        if is_news {
            let why = now.decline_reasons.last().map_or("", String::as_str);
            tell!(
                self.story,
                "{owner}: request {id} for {:?} is {}, nodes {:?} {why}",
                now.node_types,
                now.state.as_str(),
                now.nodes
            );
        }
        if let Some(before) = before.filter(|_| is_launcher) {
            if !self.has_lock(by, &paths::request_lock(id), tree) {
                broken!(self.story, "S4", "{owner} writes request {id} without its lock");
            }
            if matches!(before.state, RequestState::Fulfilled | RequestState::Failed) && before.state != now.state {
                broken!(
                    self.story,
                    "S1",
                    "{owner} makes request {id} {}, which was {}",
                    now.state.as_str(),
                    before.state.as_str()
                );
            }
            if now.state == RequestState::Fulfilled && before.state != now.state {
                self.fulfilled(owner, &now, tree);
            }
        }
        self.requests.insert(id.clone(), now);
    }

    fn fulfilled(&self, owner: &str, request: &NodeRequest, tree: &Tree) {
        let id = &request.id;
        if request.nodes.len() != request.node_types.len() {
            broken!(self.story, "S1", "{owner} fulfils request {id} with nodes {:?}", request.nodes);
        }
        for (node, label) in request.nodes.iter().zip(&request.node_types) {
            // As of the end of the transaction: it may have written both.
            let record = tree.get(&paths::node(node)).and_then(|(data, _)| Node::read(node.clone(), data).ok());
            let Some((record, _)) = record else {
                broken!(self.story, "S1", "{owner} fulfils request {id} with node {node}, which is not there");
                continue;
            };
            if record.state != NodeState::Ready || record.allocated_to.as_ref() != Some(id) {
                broken!(
                    self.story,
                    "S1",
                    "{owner} fulfils request {id} with node {node}, which is {} and of {:?}",
                    record.state.as_str(),
                    record.allocated_to
                );
            }
            if !record.labels.contains(label) {
                broken!(self.story, "S1", "{owner} fulfils request {id} with node {node} of {:?}", record.labels);
            }
            if holder_now(tree, &paths::node_lock(node)).is_some() {
                broken!(self.story, "S1", "{owner} fulfils request {id} with node {node}, which is locked");
            }
            let other = self
                .requests
                .values()
                .find(|other| other.id != *id && other.state == RequestState::Fulfilled && other.nodes.contains(node));
            // What keeps stock gives its nodes away by that.
            if let Some(other) = other.filter(|other| !other.is_min_ready()) {
                broken!(self.story, "S1", "{owner} fulfils request {id} with node {node}, which {} has", other.id);
            }
        }
    }
}
