//! [`Truth`]: what the records say and who has which lock, as of each transaction; and the promises about them.
//!
//! It is told of each transaction in the middle of it, so nothing goes unseen, however short it lasts. Promises, as the design has
//! them:
//!
//! * **S1** A node belongs to one request at a time, as long as that lives. A fulfilled request has one node for each label that it
//!   asked for, in that order, all of them of one pool, ready, its own and unlocked. What is fulfilled or failed stays so.
//! * **S2** A launcher deletes no node that somebody may use: what is judged is the state before its own `deleting` ([`ends`](super::ends)).
//! * **S3** A launcher that is alone makes no node beyond its pool's `max-servers`. (Of several with the same pools each
//!   learns of the others' nodes only when they are on record, like upstream's: they may overstep by what they make at once.)
//! * **S4** A launcher writes and deletes records only with their locks. While it lives, is not told to stop and is answered, it lets
//!   go of no node that it is making, and of no request that it has made `pending`.
//! * **L1** A pool declines a request for a cause that is true ([`causes`](super::causes)); a request fails only when every pool has
//!   declined it that is registered.

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
        paths::{self, NODES, POOLS, REQUEST_LOCKS, REQUESTS},
        protocol::Change,
    },
};
use tokio::time::Instant;

use super::{
    causes::{Causes, PEER},
    ends::{Before, why_not},
    story::{Story, broken, tell},
};

/// For so long after a change of the configuration the limits of before may still be in force.
const UNTIL_IN_FORCE: Duration = Duration::from_secs(15);
/// For so long what a launcher does may follow from answers that were lost: it gives up then what it is not sure of.
const UNTIL_GIVEN_UP: Duration = Duration::from_secs(30);
/// For so long a pool may be registered without being known to all.
const UNTIL_KNOWN: Duration = Duration::from_secs(20);
/// Who deletes what goes with a session that has ended.
const NOBODY: SessionId = SessionId(0);

/// Tells whether there is a server of that id.
pub struct HasServer(pub Box<dyn Fn(&str) -> bool + Send>);

impl std::fmt::Debug for HasServer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("HasServer")
    }
}

/// See the module's comment.
#[derive(Debug)]
pub struct Truth {
    story: Story,
    /// Whose session it is: a launcher's name, or Zuul's.
    owners: HashMap<SessionId, String>,
    pub nodes: BTreeMap<NodeId, Node>,
    pub requests: BTreeMap<RequestId, NodeRequest>,
    /// By the lock's directory: who has it.
    holders: HashMap<String, Holder>,
    /// What is so beside the records.
    pub causes: Causes,
    /// When nodes that are gone went.
    gone: HashMap<NodeId, Instant>,
    /// Which session has a node in use.
    users: HashMap<NodeId, SessionId>,
    /// Which session has made a request `pending`.
    pending: HashMap<RequestId, SessionId>,
    /// Registered pools by their znodes: each one's id, and since when it is there.
    pools: BTreeMap<String, (String, Instant)>,
    /// Zuul's session.
    zuul: Option<SessionId>,
    /// Who was told to stop.
    stopping: BTreeSet<String>,
    /// When something that a launcher asked or was answered was lost last.
    disturbed: BTreeMap<String, Instant>,
    /// Whether a cloud has a server.
    pub has_server: Option<HasServer>,
    /// Whether somebody breaks locks: then who has one may find it gone, and lets go of the rest.
    pub breaks_locks: bool,
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
    pub fn new(story: Story, causes: Causes) -> Self {
        Self(Arc::new(Mutex::new(Truth {
            story,
            owners: HashMap::new(),
            nodes: BTreeMap::new(),
            requests: BTreeMap::new(),
            holders: HashMap::new(),
            causes,
            gone: HashMap::new(),
            users: HashMap::new(),
            pending: HashMap::new(),
            pools: BTreeMap::new(),
            zuul: None,
            stopping: BTreeSet::new(),
            disturbed: BTreeMap::new(),
            has_server: None,
            breaks_locks: false,
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

/// Who has a lock. A session may stand in line behind itself: an action of a launcher that looks, behind one that has the lock.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Holder {
    contender: String,
    session: i64,
}

fn holder_now(tree: &Tree, dir: &str) -> Option<Holder> {
    let number = |name: &str| name.contains("__lock__").then(|| name[name.len() - 10..].to_owned());
    let first = tree.children(dir).filter_map(|name| Some((number(name)?, name))).min()?.1;
    let (_, stat) = tree.get(&format!("{dir}/{first}"))?;
    Some(Holder { contender: first.to_owned(), session: stat.ephemeral_owner })
}

impl Truth {
    /// A session has begun. Of Zuul's, the one before is over.
    pub fn owns(&mut self, session: SessionId, owner: &str) {
        if owner == ZUUL {
            self.zuul = Some(session);
        }
        self.owners.insert(session, owner.to_owned());
    }

    /// Zuul's session is over.
    pub fn zuul_ends(&mut self) {
        self.zuul = None;
    }

    /// Locks of records that launchers have now, by their directories.
    pub fn held_by_launchers(&self) -> Vec<String> {
        let is_launchers =
            |session: i64| self.zuul != Some(SessionId(session)) && self.owner(SessionId(session)) != PEER;
        let mut held: Vec<_> = self
            .holders
            .iter()
            .filter(|(_, holder)| is_launchers(holder.session))
            .map(|(dir, _)| dir.clone())
            .collect();
        held.sort();
        held
    }

    /// Who a session's is.
    pub fn owner(&self, session: SessionId) -> &str {
        let unknown = if session == NOBODY { "zookeeper" } else { "?" };
        self.owners.get(&session).map_or(unknown, String::as_str)
    }

    /// A launcher was told to stop: what it has it may let go of.
    pub fn stops(&mut self, owner: &str) {
        self.stopping.insert(owner.to_owned());
    }

    /// Something that a launcher asked or was answered is lost.
    pub fn is_disturbed(&mut self, owner: &str) {
        self.disturbed.insert(owner.to_owned(), Instant::now());
    }

    /// When a node went that is gone.
    pub fn gone_at(&self, node: &NodeId) -> Option<Instant> {
        self.gone.get(node).copied()
    }

    /// Which session has a node's lock.
    pub fn holder_of_node(&self, node: &NodeId) -> Option<i64> {
        self.holders.get(&paths::node_lock(node)).map(|holder| holder.session)
    }

    /// A transaction.
    pub fn apply(&mut self, by: SessionId, changes: &[(Change, String)], tree: &Tree) {
        let owner = self.owner(by).to_owned();
        // Of ours.
        let is_launcher = owner != ZUUL && owner != PEER && by != NOBODY;
        for (change, path) in changes {
            if let Some(id) = below(path, NODES).filter(|rest| !rest.contains('/')) {
                self.node(by, &owner, is_launcher, *change, &NodeId::from(id), tree);
            } else if let Some(id) = below(path, REQUESTS).filter(|rest| !rest.contains('/')) {
                self.request(by, &owner, is_launcher, *change, &RequestId::from(id), tree);
            } else if below(path, POOLS).is_some() {
                self.pool(path, tree);
            }
        }
        let dirs: BTreeSet<&str> = changes.iter().filter_map(|(_, path)| lock_of(path)).collect();
        for dir in dirs {
            if below(dir, NODES).is_some() || below(dir, REQUEST_LOCKS).is_some() {
                let before = self.holders.get(dir);
                let now = holder_now(tree, dir);
                if is_launcher
                    && before.is_some_and(|before| before.session == by.0)
                    && now.as_ref() != before
                    && !self.breaks_locks
                    && !self.stopping.contains(&owner)
                    && self.disturbed.get(&owner).is_none_or(|at| at.elapsed() > UNTIL_GIVEN_UP)
                {
                    self.let_go(by, &owner, dir);
                }
                match now {
                    Some(holder) => self.holders.insert(dir.to_owned(), holder),
                    None => self.holders.remove(dir),
                };
            }
        }
    }

    /// A launcher has let go of a lock.
    fn let_go(&self, by: SessionId, owner: &str, dir: &str) {
        if let Some(id) = below(dir, REQUEST_LOCKS) {
            let id = RequestId::from(id);
            // One for stock may go as soon as its nodes are there.
            let pending = |request: &NodeRequest| request.state == RequestState::Pending && !request.is_min_ready();
            let is_pending = self.requests.get(&id).is_some_and(pending);
            if is_pending && self.pending.get(&id) == Some(&by) {
                broken!(self.story, "S4", "{owner} lets go of request {id}, which it has made pending");
            }
        } else if let Some(id) = below(dir, NODES).and_then(|rest| rest.strip_suffix("/lock")) {
            let making = |node: &Node| matches!(node.state, NodeState::Init | NodeState::Building);
            if self.nodes.get(&NodeId::from(id)).is_some_and(making) {
                broken!(self.story, "S4", "{owner} lets go of node {id}, which it is making");
            }
        }
    }

    fn pool(&mut self, path: &str, tree: &Tree) {
        let id = tree.get(path).and_then(|(data, _)| {
            let document: serde_json::Value = serde_json::from_slice(data).ok()?;
            Some(document.get("id")?.as_str()?.to_owned())
        });
        match id {
            Some(id) => drop(self.pools.entry(path.to_owned()).or_insert_with(|| (id, Instant::now()))),
            None => drop(self.pools.remove(path)),
        }
    }

    /// A node is deleted, or about to be.
    fn ends(&self, owner: &str, node: &Node) {
        let before = Before {
            node,
            request: node.allocated_to.as_ref().and_then(|request| self.requests.get(request)),
            is_user_alive: self.users.get(&node.id).is_some_and(|user| self.zuul == Some(*user)),
        };
        if let Some(why) = why_not(before) {
            broken!(self.story, "S2", "{owner} deletes node {}, which {why}", node.id);
        }
    }

    /// Whether a session has a lock, at the beginning or at the end of a transaction: one may write and let go.
    fn has_lock(&self, by: SessionId, dir: &str, tree: &Tree) -> bool {
        let is_its = |holder: &Holder| holder.session == by.0;
        self.holders.get(dir).is_some_and(is_its) || holder_now(tree, dir).as_ref().is_some_and(is_its)
    }

    fn node(&mut self, by: SessionId, owner: &str, is_launcher: bool, change: Change, id: &NodeId, tree: &Tree) {
        let before = self.nodes.get(id).cloned();
        if change == Change::Deleted {
            self.nodes.remove(id);
            let Some(before) = before else { return };
            tell!(self.story, "{owner}: node {id} is gone, {} before", before.state.as_str());
            self.gone.insert(id.clone(), Instant::now());
            if is_launcher {
                if !self.has_lock(by, &paths::node_lock(id), tree) {
                    broken!(self.story, "S4", "{owner} deletes node {id} without its lock");
                }
                self.ends(owner, &before);
                let server = before.external_id_text();
                let is_there = |server: &&str| self.has_server.as_ref().is_some_and(|has| has.0(server));
                if let Some(server) = server.filter(is_there) {
                    broken!(self.story, "S2", "{owner} deletes node {id}, whose server {server} is there");
                }
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
        if now.state == NodeState::InUse && owner == ZUUL {
            self.users.insert(id.clone(), by);
        }
        let is_ending = |state| matches!(state, NodeState::Deleting | NodeState::Deleted);
        if let Some(before) = before.as_ref().filter(|before| is_launcher && !is_ending(before.state))
            && is_ending(now.state)
        {
            self.ends(owner, before);
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
            let name = format!("{provider}-{pool}");
            let limit = self.causes.limits(&name, UNTIL_IN_FORCE).max().unwrap_or(0);
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
            if !now.is_min_ready() {
                self.declined(owner, &before, &now);
            }
            let forgets = before.declined_by.iter().find(|pool| !now.declined_by.contains(pool));
            if forgets.is_some() || before.relative_priority != now.relative_priority {
                broken!(self.story, "S4", "{owner} writes request {id} over what it has not read");
            }
        }
        if now.state == RequestState::Pending && is_launcher {
            self.pending.insert(id.clone(), by);
        }
        self.requests.insert(id.clone(), now);
    }

    /// A request of Zuul's was written: declines, and a failure, are justified.
    fn declined(&self, owner: &str, before: &NodeRequest, now: &NodeRequest) {
        let id = &now.id;
        for said in now.decline_reasons.iter().skip(before.decline_reasons.len()) {
            if let Some(why) = self.causes.why_not(owner, now, said) {
                broken!(self.story, "L1", "{owner} declines request {id} for {:?}, {said}: {why}", now.node_types);
            }
        }
        if now.state != RequestState::Failed || before.state == now.state {
            return;
        }
        if now.decline_reasons.is_empty() {
            broken!(self.story, "L1", "{owner} fails request {id} without a reason");
        }
        for (pool, since) in self.pools.values() {
            let has_declined = now.declined_by.iter().any(|declined| declined.as_str() == pool);
            if since.elapsed() > UNTIL_KNOWN && !has_declined {
                broken!(self.story, "L1", "{owner} fails request {id}, which {pool} has not declined");
            }
        }
    }

    fn fulfilled(&self, owner: &str, request: &NodeRequest, tree: &Tree) {
        let id = &request.id;
        if request.nodes.len() != request.node_types.len() {
            broken!(self.story, "S1", "{owner} fulfils request {id} with nodes {:?}", request.nodes);
        }
        let pools: BTreeSet<_> = request
            .nodes
            .iter()
            .filter_map(|node| self.nodes.get(node))
            .map(|node| (&node.provider, &node.pool))
            .collect();
        if pools.len() > 1 {
            broken!(self.story, "S1", "{owner} fulfils request {id} with nodes of {pools:?}");
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
            // Somebody else may stand in line, and goes away when he sees that he is not the first.
            let lock = paths::node_lock(node);
            if self.holders.get(&lock).is_some_and(|holder| holder_now(tree, &lock).as_ref() == Some(holder)) {
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
