//! Actions on requests: accept, decline, supply, fulfil, put back.

use std::{fmt::Display, sync::Arc, time::Duration};

use nodepool_common::{
    config::Provider,
    daemon::Daemon,
    explain::PROVIDER_IN_TROUBLE,
    model::{LabelName, LauncherId, Node, NodeId, NodeRequest, NodeState, RequestId, RequestState, guard},
    stats::RequestDecision,
    sys::clock,
    trace,
    zk::{Held, NotUnlocked, TryLock, ZkError},
};
use tracing::{debug, info, warn};

use super::{
    Launcher,
    core::Core,
    events::{Event, LaunchEnds, Outcome, Reports},
    launch::NodeLaunch,
    view::code_of,
};
use crate::plan::{NewNode, PoolKey, Reason};

/// How long a request or a node that somebody else has locked is not looked at. Its lock's end wakes us earlier: this only
/// keeps a race from spinning.
pub(super) const LOCKED_ELSEWHERE: Duration = Duration::from_millis(250);

/// How long a process that has to go tries to release what it has.
pub(super) const LEAVING: Duration = Duration::from_secs(5);

/// The longest time that the first launches of a provider wait for its first search for leaks.
const FIRST_SEARCH: Duration = Duration::from_secs(5);

impl Launcher {
    /// The id of a pool that takes part.
    fn launcher_id(&self, key: &PoolKey) -> Option<LauncherId> {
        self.pools().get(key).map(|pool| pool.launcher_id.clone())
    }

    /// Locks a request; `None` where another has its lock, or it is gone.
    async fn lock_request(&self, id: &RequestId, reports: &Reports) -> Result<Option<Held<NodeRequest>>, ZkError> {
        let attempt = self.in_session(reports).try_lock_request(id).await?;
        if matches!(attempt, TryLock::Busy) {
            reports.tell(Event::RequestLocked { request: id.clone(), pause: LOCKED_ELSEWHERE });
        }
        Ok(attempt.held())
    }

    /// Locks a waiting request; `None` where it is not to be had or not waiting any more.
    async fn lock_waiting(&self, id: &RequestId, reports: &Reports) -> Result<Option<Held<NodeRequest>>, ZkError> {
        let Some(held) = self.lock_request(id, reports).await? else { return Ok(None) };
        if held.record().state == RequestState::Requested || guard::is_removed("state of a request under its lock") {
            Ok(Some(held))
        } else {
            held.unlock().await?;
            Ok(None)
        }
    }

    /// Accepts a request.
    pub(super) async fn accept(&self, pool: &PoolKey, id: &RequestId, reports: &Reports) -> Result<Outcome, ZkError> {
        let Some(launcher_id) = self.launcher_id(pool) else { return Ok(Outcome::Done) };
        let accept = |request: &mut NodeRequest| {
            let is_to_be_had = request.state == RequestState::Requested && !request.declined_by.contains(&launcher_id);
            if is_to_be_had {
                request.set_state(RequestState::Pending, self.clock.now());
            }
            is_to_be_had
        };
        let held = if let Some(held) = self.in_session(reports).lock_and_update(id, accept).await? {
            held
        } else {
            let Some(mut held) = self.lock_waiting(id, reports).await? else { return Ok(Outcome::Done) };
            if held.record().declined_by.contains(&launcher_id) {
                return held.unlock().await.map(|()| Outcome::Done);
            }
            held.update(|request| request.set_state(RequestState::Pending, self.clock.now())).await?;
            held
        };
        let request = Arc::clone(held.record());
        info!(
            logger = %pool_logger(pool), request = %id, event_id = request.event_id,
            "Accepted request for {}", labels(&request)
        );
        self.stats.request_decision(&pool.provider, &pool.pool, RequestDecision::Accepted);
        self.put_down_accepted(&request, pool);
        Ok(Outcome::Accepted(held))
    }

    pub(super) async fn decline(
        &self,
        id: &RequestId,
        pools: &[(PoolKey, Reason)],
        reports: &Reports,
    ) -> Result<Outcome, ZkError> {
        let Some(held) = self.lock_waiting(id, reports).await? else { return Ok(Outcome::Done) };
        self.write_decline(held, pools).await
    }

    /// Declines an accepted request. Its ready nodes become free in the next pass, its running launches go on: their
    /// nodes serve the next one.
    pub(super) async fn give_up(
        &self,
        held: Held<NodeRequest>,
        pool: &PoolKey,
        reasons: &[Reason],
    ) -> Result<Outcome, ZkError> {
        let reasons: Vec<_> = reasons.iter().map(|reason| (pool.clone(), reason.clone())).collect();
        self.write_decline(held, &reasons).await
    }

    /// Adds declines to a request and releases it: `failed` once every registered pool has declined, `requested`
    /// otherwise (`nodepool 11.0.0: driver/__init__.py _declineRequest`).
    async fn write_decline(&self, held: Held<NodeRequest>, pools: &[(PoolKey, Reason)]) -> Result<Outcome, ZkError> {
        let mut declined = held.record().declined_by.clone();
        for (pool, _) in pools {
            if let Some(launcher_id) = self.launcher_id(pool)
                && !declined.contains(&launcher_id)
            {
                declined.push(launcher_id);
            }
        }
        // A pool that has registered while the connection was broken counts, too.
        self.zk.cache().until_ready().await;
        let all = self.zk.cache().snapshot_in(held.session()).map(|records| {
            // Where nobody is registered, as while the last launcher stops, nobody has declined either.
            let mut registered = records.registered_pool_ids().peekable();
            let is_one_enough = guard::is_removed("decline of every pool");
            registered.peek().is_some() && registered.all(|id| declined.contains(id) || is_one_enough)
        });
        // Who is registered was read in another session: it says nothing of who is now, and the lock is void.
        let Some(all) = all else { return held.unlock().await.map(|()| Outcome::Done) };
        let state = if all { RequestState::Failed } else { RequestState::Requested };
        let request = Arc::clone(held.record());
        let refuses_stock = request.is_min_ready() && self.none_of_ours_is_left(&request, &declined);
        let (mut reasons, mut codes) = (request.decline_reasons.clone(), request.decline_codes.clone());
        for (pool, reason) in pools {
            info!(
                logger = %pool_logger(pool), request = %request.id, event_id = request.event_id,
                "Declining request for {}: {reason}", labels(&request)
            );
            self.stats.request_decision(&pool.provider, &pool.pool, RequestDecision::Declined);
            reasons.push(format!("{pool}: {reason}"));
            codes.push(code_of(reason));
        }
        if all {
            let absentees = self.absentees(&request);
            codes.extend(absentees.iter().map(|_| PROVIDER_IN_TROUBLE.to_owned()));
            reasons.extend(absentees);
        }
        let why = reasons.join("; ");
        held.update_and_unlock(|request| {
            request.declined_by = declined;
            request.decline_reasons = reasons;
            request.decline_codes = codes;
            request.set_state(state, self.clock.now());
        })
        .await?;
        self.put_down_declined(&request, pools, all.then_some(&why));
        if all {
            warn!(
                logger = "nodepool.NodePool", request = %request.id, event_id = request.event_id,
                "Request for {} failed, every pool has declined it: {why}", labels(&request)
            );
            if let Some((pool, _)) = pools.first() {
                self.stats.request_decision(&pool.provider, &pool.pool, RequestDecision::Failed);
            }
        }
        Ok(if refuses_stock { Outcome::StockRefused(request.node_types.clone()) } else { Outcome::Done })
    }

    /// Providers that have labels of a request and take no part, with why: nobody else could tell.
    fn absentees(&self, request: &NodeRequest) -> Vec<String> {
        let config = self.config();
        let has =
            |provider: &Provider, label: &LabelName| provider.pools.iter().any(|pool| pool.labels.contains_key(label));
        let mut absentees = Vec::new();
        for provider in config.providers.values() {
            if let Some(label) = request.node_types.iter().find(|label| has(provider, label))
                && let Some(why) = self.clouds.cannot_start(&provider.name)
            {
                absentees.push(format!("provider {}, which has {label}, takes no part: {why}", provider.name));
            }
        }
        absentees
    }

    /// Gives an accepted request nodes. What cannot be had any more is left to the next pass.
    pub(super) async fn supply(
        self: &Arc<Self>,
        pool: &PoolKey,
        id: &RequestId,
        reuse: &[(NodeId, LabelName)],
        launch: &[NewNode],
        reports: &Reports,
    ) -> Result<(), ZkError> {
        let Some(request) = self.zk.cache().read(|r| r.requests.get(id).and_then(|e| e.usable()).cloned()) else {
            return Ok(());
        };
        let reused = reuse.iter().map(|(node, label)| self.reuse(&request, node, label, reports));
        let launched = launch.iter().map(|node| self.start_launch(pool, &request, node, reports));
        let (reused, launched) = tokio::join!(futures::future::join_all(reused), futures::future::join_all(launched));
        reused.into_iter().chain(launched).collect()
    }

    /// Takes a ready node for a request.
    async fn reuse(
        &self,
        request: &NodeRequest,
        id: &NodeId,
        label: &LabelName,
        reports: &Reports,
    ) -> Result<(), ZkError> {
        let mut held = match self.in_session(reports).try_lock_node(id).await? {
            TryLock::Held(held) => held,
            TryLock::Gone => return Ok(()),
            TryLock::Busy => {
                reports.tell(Event::NodeLocked { node: id.clone(), pause: LOCKED_ELSEWHERE });
                return Ok(());
            }
        };
        let node = held.record();
        let is_free = node.state == NodeState::Ready && node.allocated_to.is_none() && node.labels.contains(label);
        if !is_free && !guard::is_removed("state of a ready node under its lock") {
            return held.unlock().await;
        }
        if self.notices_gone(node) {
            return held.unlock().await;
        }
        let Some(alive) = self.is_alive(held).await? else { return Ok(()) };
        held = alive;
        let renewed = self.renewed_connection(held.record()).await;
        held.update(|node| {
            node.connection_port = renewed.unwrap_or(node.connection_port.take());
            node.allocated_to = Some(request.id.clone());
            node.tenant_name.clone_from(&request.tenant_name);
            node.requestor = request.requestor.as_deref().map(Into::into);
        })
        .await?;
        info!(
            logger = "nodepool.NodeRequestHandler", request = %request.id, event_id = request.event_id, node = %id,
            "Taking ready node for label {label}"
        );
        reports.tell(Event::Taken { held, request: request.id.clone(), label: label.clone() });
        Ok(())
    }

    /// Makes the record of a new node and starts its launch.
    async fn start_launch(
        self: &Arc<Self>,
        pool: &PoolKey,
        request: &Arc<NodeRequest>,
        new: &NewNode,
        reports: &Reports,
    ) -> Result<(), ZkError> {
        let Some(cloud) = self.clouds.get(&pool.provider) else { return Ok(()) };
        cloud.searched.wait(FIRST_SEARCH).await;
        // Asked after the wait: the launcher may be leaving by now, and begins nothing any more.
        let Some(launcher_id) = self.launcher_id(pool) else { return Ok(()) };
        let config = self.config();
        let Some(pool_config) = config.providers.get(&pool.provider).and_then(|p| p.pool(&pool.pool)) else {
            return Ok(());
        };
        let mut node = Node::new(self.clock.now());
        node.provider = Some(pool.provider.clone());
        node.pool = Some(pool.pool.clone());
        node.labels = vec![new.label.clone()];
        node.allocated_to = Some(request.id.clone());
        node.launcher = Some(launcher_id.as_str().into());
        node.tenant_name.clone_from(&request.tenant_name);
        node.requestor = request.requestor.as_deref().map(Into::into);
        node.attributes.clone_from(&pool_config.node_attributes);
        node.az = new.az.as_deref().map(Into::into);
        node.resources = self.clouds.label_resources(pool, &new.label).map(|resources| resources.recorded());
        let launch = NodeLaunch::new(self, cloud, pool.clone(), new, Arc::clone(request), reports.clone());
        let held = self.create_unnamed_node(pool, node, &launch).await?;
        let id = held.record().id.clone();
        info!(
            logger = %pool_logger(pool), request = %request.id, event_id = request.event_id, node = %id,
            "Launching node of label {}", new.label
        );
        self.put_down_node("node-launching", held.record(), Some(&request.id), || {
            format!("Pool {pool} launches node {id} of label {} for request {}", new.label, request.id)
        });
        if reports.is_over() {
            return Ok(());
        }
        reports.tell(Event::OnRecord {
            node: id.clone(),
            request: request.id.clone(),
            pool: pool.clone(),
            label: new.label.clone(),
        });
        let ends = LaunchEnds { reports: reports.clone(), node: id };
        let ending = self.ending.clone();
        self.tasks.spawn(async move {
            let _ends = ends;
            tokio::select! {
                biased;
                () = launch.run(held) => {}
                () = ending.cancelled() => {}
            }
        });
        Ok(())
    }

    /// Makes the record of a new node, with a number that nothing in its cloud names: where ZooKeeper was set back, it gives
    /// numbers out again, and a driver would take an old node's server, pod or namespace for the new one's. Numbers that are
    /// taken are passed over.
    async fn create_unnamed_node(
        &self,
        pool: &PoolKey,
        node: Node,
        launch: &NodeLaunch,
    ) -> Result<Held<Node>, ZkError> {
        loop {
            // A search that ends while the record is made may have seen it, and no number that is on record is taken; one that
            // began before sees what the last one did not.
            let before = self.taken_numbers(&pool.provider);
            let held = self.in_session(&launch.reports).create_node(node.clone(), |node| launch.announce(node)).await?;
            let id = held.record().id.clone();
            if !before.contains(&id) && !self.is_taken(&pool.provider, &id) {
                return Ok(held);
            }
            info!(logger = %pool_logger(pool), node = %id, "The number {id} is passed over: something in the cloud bears it");
            held.delete(self.clock.now()).await?;
        }
    }

    /// Hands the nodes over. They are unlocked when the request says so, because Zuul locks them next.
    pub(super) async fn fulfil(
        &self,
        held: Held<NodeRequest>,
        pool: &PoolKey,
        taken: Vec<Held<Node>>,
        nodes: &[NodeId],
    ) -> Result<Outcome, ZkError> {
        let ours = held.record().is_min_ready() && held.stat().ephemeral_owner == held.session().0;
        let request = Arc::clone(held.record());
        let id = &request.id;
        if ours {
            self.stock(held, taken).await?;
        } else {
            let span = self.spans.part(id, "HandOver");
            if !trace::within(&span, self.hand_over(held, taken, nodes)).await? {
                return Ok(Outcome::Done);
            }
        }
        if let Some(waited) = request.created_time.and_then(|created| clock::since(created, self.clock.now()))
            && !ours
        {
            let label =
                request.node_types.first().filter(|first| request.node_types.iter().all(|label| label == *first));
            self.stats.request_fulfilled_after(&pool.provider, &pool.pool, label, waited);
        }
        self.stats.request_decision(&pool.provider, &pool.pool, RequestDecision::Fulfilled);
        self.put_down_fulfilled(&request, pool, nodes);
        let names: Vec<&str> = nodes.iter().map(NodeId::as_str).collect();
        info!(
            logger = %pool_logger(pool), request = %id, event_id = request.event_id,
            "Fulfilled request for {} with node(s) {}", labels(&request), names.join(", ")
        );
        Ok(if ours { Outcome::Stocked(request.node_types.clone()) } else { Outcome::Done })
    }

    /// Gives the nodes to those who have asked for them. Returns whether it did: where the lock of a node was taken from us,
    /// whoever did that may be about to delete it. The request is let go then, pending: it is put back as any that is lost, and
    /// with it whatever node is allocated to it.
    async fn hand_over(
        &self,
        held: Held<NodeRequest>,
        mut taken: Vec<Held<Node>>,
        nodes: &[NodeId],
    ) -> Result<bool, ZkError> {
        let renewed = taken.iter_mut().map(|node| async move {
            match self.renewed_connection(node.record()).await {
                Some(port) => node.update(|node| node.connection_port = port).await,
                None => Ok(()),
            }
        });
        futures::future::join_all(renewed).await.into_iter().collect::<Result<(), _>>()?;
        let fulfil = |request: &mut NodeRequest| {
            request.nodes = nodes.to_vec();
            request.set_state(RequestState::Fulfilled, self.clock.now());
        };
        match held.update_and_unlock_with(taken, fulfil).await {
            Ok(()) => Ok(true),
            Err(NotUnlocked::LockLost { held, nodes, error }) => {
                warn!(logger = "nodepool.NodePool", request = %held.record().id, "Letting go of it, as a node of it is not ours any more: {error}");
                let freed = nodes.into_iter().map(|node| async move {
                    let free = |node: &mut Node| node.allocated_to = None;
                    match node.update_and_unlock(free).await.map_err(ZkError::from) {
                        Err(error) if !error.is_lock_lost() && !error.is_no_node() => Err(error),
                        _ => Ok(()),
                    }
                });
                futures::future::join_all(freed).await.into_iter().collect::<Result<(), _>>()?;
                held.unlock().await?;
                Ok(false)
            }
            Err(NotUnlocked::Failed(error)) => Err(error),
        }
    }

    pub(super) async fn put_back(
        &self,
        held: Held<NodeRequest>,
        pool: &PoolKey,
        reason: &(dyn Display + Sync),
    ) -> Result<(), ZkError> {
        let request = Arc::clone(held.record());
        let result = held
            .update_and_unlock(|request| {
                request.nodes.clear();
                request.set_state(RequestState::Requested, self.clock.now());
            })
            .await;
        let event_id = &request.event_id;
        info!(logger = %pool_logger(pool), request = %request.id, event_id, "Put back: {reason}");
        self.put_down_put_back(&request, reason);
        result.map_err(Into::into)
    }

    /// Puts a request back that its launcher left pending, and frees the nodes it had (`nodepool 11.0.0: launcher.py
    /// _resetLostRequest`). Doomed nodes stay as they are: they are deleted anyway.
    pub(super) async fn reset_lost(&self, id: &RequestId, reports: &Reports) -> Result<(), ZkError> {
        let Some(held) = self.lock_request(id, reports).await? else { return Ok(()) };
        if held.record().state != RequestState::Pending {
            return held.unlock().await;
        }
        // A node that is not seen would stay allocated to it: the connection may have broken since that was decided.
        let Some(records) = self.zk.cache().snapshot_in(self.in_session(reports).id()) else {
            return held.unlock().await;
        };
        let of_request = records.nodes.iter().filter(|(_, entry)| {
            entry.usable().is_some_and(|node| {
                node.allocated_to.as_ref() == Some(id) && matches!(node.state, NodeState::Ready | NodeState::Init)
            })
        });
        let nodes: Vec<NodeId> = of_request.map(|(node, _)| node.clone()).collect();
        drop(records);
        for node in nodes {
            let locked_elsewhere = match self.in_session(reports).try_lock_node(&node).await? {
                TryLock::Held(node_lock) if node_lock.record().allocated_to.as_ref() == Some(id) => {
                    node_lock
                        .update_and_unlock(|node| {
                            if node.state == NodeState::Init {
                                node.set_state(NodeState::Deleting, self.clock.now());
                            }
                            node.allocated_to = None;
                        })
                        .await?;
                    false
                }
                TryLock::Held(node_lock) => {
                    node_lock.unlock().await?;
                    false
                }
                TryLock::Busy => true,
                TryLock::Gone => false,
            };
            if locked_elsewhere {
                // Its launcher's session has not expired yet, or somebody else is at it.
                reports.tell(Event::RequestLocked { request: id.clone(), pause: Duration::from_secs(1) });
                return held.unlock().await;
            }
        }
        let request = Arc::clone(held.record());
        held.update_and_unlock(|request| {
            request.nodes.clear();
            request.set_state(RequestState::Requested, self.clock.now());
        })
        .await?;
        let event_id = &request.event_id;
        info!(logger = "nodepool.CleanupWorker", request = %id, event_id, "Reset lost request");
        self.put_down_put_back(&request, &"the launcher that served it has ended");
        Ok(())
    }

    /// Releases everything at once, for a process that has to go: requests are put back, ready nodes freed; the nodes
    /// that are being launched lose their locks with the session and are deleted by whoever comes next. Actions that are
    /// about to bring a lock are waited for: a node that was taken for a request would else stay allocated to it, and nobody
    /// would have it.
    pub(super) async fn leave(&self, core: &mut Core) {
        info!(logger = "nodepool.NodePool", "Terminating: putting requests back");
        // From now on no accept and no launch begins.
        self.withdraw_pools().await;
        let release = async {
            loop {
                self.catch_up(core);
                // A launch may have ended meanwhile: it is over when there was nothing left.
                if self.release_all(core).await {
                    continue;
                }
                if !core.book.has_locks_under_way() {
                    return;
                }
                self.hear(core).await;
            }
        };
        if tokio::time::timeout(LEAVING, release).await.is_err() {
            warn!(
                logger = "nodepool.NodePool",
                "Not all was released within {} s, ZooKeeper or a cloud does not answer: the rest is left to the next launcher",
                LEAVING.as_secs()
            );
        }
    }

    /// Puts back the requests that are held now, and frees the nodes. Returns whether there were any.
    async fn release_all(&self, core: &mut Core) -> bool {
        let (requests, nodes) = core.book.take_all();
        let any = !requests.is_empty() || !nodes.is_empty();
        let reason = &"the launcher is terminating";
        let put_back = requests.into_iter().map(|(held, pool)| async move { self.put_back(held, &pool, reason).await });
        let put_back = futures::future::join_all(put_back).await;
        let let_go = futures::future::join_all(nodes.into_iter().map(|held| self.let_go(held, reason))).await;
        for error in put_back.into_iter().chain(let_go).filter_map(Result::err) {
            debug!(logger = "nodepool.NodePool", "{error}");
        }
        any
    }
}

/// Lets go of an accepted request that was withdrawn or taken over.
pub(super) async fn forget(held: Held<NodeRequest>, pool: &PoolKey) -> Result<(), ZkError> {
    let request = Arc::clone(held.record());
    info!(
        logger = %pool_logger(pool), request = %request.id, event_id = request.event_id,
        "The request was withdrawn or taken over; letting go of it"
    );
    held.unlock().await
}

/// The logger of a pool's lines, as upstream's.
pub(super) fn pool_logger(pool: &PoolKey) -> String {
    format!("nodepool.PoolWorker.{pool}")
}

fn labels(request: &NodeRequest) -> String {
    let labels: Vec<&str> = request.node_types.iter().map(LabelName::as_str).collect();
    format!("[{}]", labels.join(", "))
}
