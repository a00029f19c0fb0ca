//! What becomes of decisions: they are worked on, and that ends well or not; with the changes of records that come of it.

use super::*;

impl History {
    /// What is decided is being worked on.
    pub fn begin(&mut self, decisions: Vec<Decision>) {
        for decision in decisions {
            self.kinds.insert(kind(&decision));
            match &decision {
                // Is done when it is decided.
                Decision::StopSeeking { node, reason } => {
                    self.kinds.insert(with_reason(&decision, reason));
                    self.withdraw(node);
                    continue;
                }
                Decision::LetBackingGo { reason, .. } | Decision::PutBack { reason, .. } => {
                    self.kinds.insert(with_reason(&decision, reason));
                }
                // Their locks are taken out before it begins.
                Decision::Fulfil { nodes, .. } => nodes.iter().for_each(|node| self.ledger.drop_node(node)),
                Decision::LetGo { node, .. } => self.ledger.drop_node(node),
                _ => {}
            }
            let action = self.ledger.begin(&decision);
            if let Decision::Supply { launch, .. } = &decision {
                self.launches.insert(action, launch.iter().map(|new| new.label.clone()).collect());
            }
            self.running.push((action, decision));
        }
    }

    pub fn change_request(&mut self, id: &RequestId, change: impl FnOnce(&mut NodeRequest)) {
        rewrite(self.setting.records.requests.get_mut(id), change);
        self.changes.requests.insert(id.clone());
    }

    pub fn change_node(&mut self, id: &NodeId, change: impl FnOnce(&mut Node)) {
        rewrite(self.setting.records.nodes.get_mut(id), change);
        self.changes.nodes.insert(id.clone());
    }

    pub fn lock_request(&mut self, id: &RequestId, locked: bool) {
        set_locked(self.setting.records.requests.get_mut(id), locked, self.now);
        self.setting.records.request_locks.entry(id.clone()).or_default().contenders = contenders(locked);
        self.changes.requests.insert(id.clone());
    }

    pub fn lock_node(&mut self, id: &NodeId, locked: bool) {
        set_locked(self.setting.records.nodes.get_mut(id), locked, self.now);
        self.changes.nodes.insert(id.clone());
    }

    pub fn new_node(&mut self, state: NodeState, label: &str, change: impl FnOnce(&mut Node)) -> NodeId {
        self.next += 1;
        let id = NodeId::from(format!("{:010}", self.next).as_str());
        let now = self.now;
        let mut setting = std::mem::replace(&mut self.setting, Setting::new());
        setting = setting.node(id.as_str(), label, state, |node| {
            node.state_time = now;
            change(node);
        });
        self.setting = setting;
        #[allow(clippy::cast_possible_truncation)]
        {
            self.setting.node_entry(id.as_str()).stat.mtime = (now * 1000.0) as i64;
        }
        self.changes.nodes.insert(id.clone());
        id
    }

    /// Whether this launcher has a node's lock.
    pub fn has_locked(&self, id: &NodeId) -> bool {
        let hands_over = |decision: &Decision| match decision {
            Decision::Fulfil { nodes, .. } => nodes.contains(id),
            other => other.subjects().1 == Some(id),
        };
        self.ledger.nodes.contains_key(id) || self.running.iter().any(|(_, decision)| hands_over(decision))
    }

    /// Pools of ours decline a request; once all that are registered have, it has failed.
    fn decline(&mut self, request: &RequestId, pools: Vec<PoolKey>) {
        let id = |pool: PoolKey| -> LauncherId {
            if pool.pool == "side" { "id-p-side".into() } else { format!("id-{}", pool.provider).as_str().into() }
        };
        let all: Vec<LauncherId> = self.setting.records.registered_pool_ids().cloned().collect();
        self.change_request(request, |request| {
            request.declined_by.extend(pools.into_iter().map(id));
            if request.state == RequestState::Requested && all.iter().all(|pool| request.declined_by.contains(pool)) {
                request.state = RequestState::Failed;
            }
        });
    }

    /// One launch that was decided has a record.
    fn record_launch(&mut self, action: ActionId, request: &RequestId, pool: &PoolKey, new: &NewNode) {
        let labels = self.launches.get_mut(&action).unwrap();
        labels.remove(labels.iter().position(|label| *label == new.label).unwrap());
        let (provider, of, of_pool, az) = (pool.provider.clone(), request.clone(), pool.pool.clone(), new.az.clone());
        let takes = match new.label.as_str() {
            "big" => cores(4.0),
            backing::STACKED => Resources::new(),
            _ => cores(1.0),
        };
        let id = self.new_node(NodeState::Building, new.label.as_str(), |node| {
            node.provider = Some(provider);
            node.pool = Some(of_pool);
            node.allocated_to = Some(of);
            node.resources = Some(takes.with("instances", 1.0));
            node.az = az.map(Into::into);
        });
        self.lock_node(&id, true);
        self.ledger.on_record(id.clone(), request.clone(), pool, new.label.clone());
        if new.label == backing::STACKED && self.next.is_multiple_of(2) {
            self.ledger.holdings_mut().seeking.insert(id, (pool.clone(), new.label.clone()));
        }
    }

    /// A launch of an action that goes on has a record already.
    pub fn record_some_launch(&mut self, which: usize) {
        let starting = &self.ledger.starting;
        let Some((request, pool, label)) = starting.get(which % starting.len().max(1)).cloned() else { return };
        let supply = self.running.iter().find_map(|(action, decision)| match decision {
            Decision::Supply { request: of, launch, .. } if *of == request => Some((*action, launch)),
            _ => None,
        });
        let (action, launch) = supply.unwrap();
        let new = launch.iter().find(|new| new.label == label).unwrap().clone();
        self.record_launch(action, &request, &pool, &new);
    }

    /// An action ends: it has done what it was to do, or it has failed. `how`: whether it works, and what it meets with.
    pub fn end(&mut self, which: usize, how: u16) {
        let (works, how) = (!how.is_multiple_of(8), how >> 3);
        let (action, decision) = self.running.swap_remove(which % self.running.len());
        match &decision {
            Decision::Accept { request, .. } if works => {
                self.change_request(request, |r| r.state = RequestState::Pending);
            }
            Decision::Decline { request, pools } if works => {
                self.decline(request, pools.iter().map(|(pool, _)| pool.clone()).collect());
            }
            Decision::Supply { request, pool, reuse, launch } if works => {
                for (node, label) in reuse {
                    if !self.setting.records.nodes.contains_key(node) {
                        continue;
                    }
                    self.change_node(node, |node| node.allocated_to = Some(request.clone()));
                    self.lock_node(node, true);
                    self.ledger.taken(node.clone(), request.clone(), label.clone());
                }
                let left =
                    self.ledger.starting.iter().filter(|(of, ..)| of == request).map(|(_, _, label)| label.clone());
                let mut left: Vec<_> = left.collect();
                for new in launch {
                    if let Some(at) = left.iter().position(|label| *label == new.label) {
                        left.swap_remove(at);
                        self.record_launch(action, request, pool, new);
                    }
                }
            }
            Decision::Fulfil { request, nodes } => {
                for node in nodes {
                    self.lock_node(node, false);
                }
                if works {
                    self.change_request(request, |r| {
                        r.state = RequestState::Fulfilled;
                        r.nodes.clone_from(nodes);
                    });
                }
                self.lock_request(request, false);
            }
            Decision::GiveUp { request, .. } | Decision::PutBack { request, .. } | Decision::Forget { request } => {
                self.change_request(request, |r| {
                    if r.state == RequestState::Pending {
                        r.state = RequestState::Requested;
                    }
                });
                if matches!(decision, Decision::GiveUp { .. }) {
                    self.decline(
                        request,
                        self.ledger.requests.get(request).map(|held| held.pool.clone()).into_iter().collect(),
                    );
                }
                self.lock_request(request, false);
            }
            Decision::ResetLost { request } if works => {
                self.change_request(request, |r| r.state = RequestState::Requested);
            }
            Decision::FinishMinReady { request } if works => {
                self.setting.records.requests.remove(request);
                self.changes.requests.insert(request.clone());
            }
            Decision::RemoveRequestLock { request } if works => {
                self.setting.records.request_locks.remove(request);
                self.changes.requests.insert(request.clone());
            }
            Decision::LetGo { node, .. } => self.lock_node(node, false),
            Decision::Retire { node, .. } if works => {
                self.change_node(node, |node| node.state = NodeState::Deleting);
            }
            Decision::Delete { node } | Decision::RemoveRecord { node } if works => {
                self.setting.records.nodes.remove(node);
                self.changes.nodes.insert(node.clone());
            }
            Decision::Deallocate { node, .. } if works => self.change_node(node, |node| node.allocated_to = None),
            Decision::CreateMinReady { label, count } => {
                for _ in 0..*count {
                    let id = self.new_request(900, std::slice::from_ref(&label.as_str()), |r| {
                        r.requestor = Some(MIN_READY_REQUESTOR.to_owned());
                        r.reuse = false;
                    });
                    let session = self.setting.session;
                    self.setting.request_entry(id.as_str()).stat.ephemeral_owner = session;
                }
            }
            Decision::OrderBacking { label, backing, count, .. } => {
                self.end_order_backing(label, backing, *count, works);
            }
            Decision::SettleBacking { request, .. } if works => self.end_settle_backing(request, how),
            Decision::Place { on, slots, .. } if works => self.end_place(on, slots, how),
            Decision::LetBackingGo { node, .. } if works => self.end_let_backing_go(node, how),
            Decision::Attend { pool, host, missing } if works => {
                for slot in missing {
                    self.new_node(NodeState::Ready, "small", |node| {
                        node.provider = Some(pool.provider.clone());
                        node.hostname = Some(host.id.name.clone());
                        node.username = Some(host.id.username.as_str().into());
                        node.connection_port = host.id.port.into();
                        node.slot = i64::try_from(*slot).ok();
                    });
                }
            }
            _ => {}
        }
        self.ledger.end(action);
        self.launches.remove(&action);
        if !works {
            self.ledger.put_off(&decision, self.uptime + 1.0);
            return;
        }
        match decision {
            Decision::Accept { request, pool } if self.setting.records.requests.contains_key(&request) => {
                self.lock_request(&request, true);
                self.ledger.accepted(request, pool);
            }
            Decision::Attend { pool, host, .. } => {
                let key = HostKey { provider: pool.provider.clone(), host: host.id.clone() };
                self.ledger.holdings_mut().hosts_seen.insert(key, (host, pool.pool));
            }
            _ => {}
        }
    }

    pub fn new_request(&mut self, priority: u32, labels: &[&str], change: impl FnOnce(&mut NodeRequest)) -> RequestId {
        self.next += 1;
        let id = format!("{priority}-{:010}", self.next);
        let setting = std::mem::replace(&mut self.setting, Setting::new());
        self.setting = setting.request(&id, labels, change);
        let id = RequestId::from(id.as_str());
        let entry = self.setting.request_entry(id.as_str());
        entry.free_since = Some(self.now);
        #[allow(clippy::cast_possible_truncation)]
        {
            entry.stat.ctime = (self.now * 1000.0) as i64;
        }
        self.changes.requests.insert(id.clone());
        id
    }
}

/// The kind of a decision, and that of its reason.
fn with_reason(decision: &Decision, reason: &Reason) -> String {
    let text = format!("{reason:?}");
    format!("{} {}", kind(decision), text.split([' ', '(']).next().unwrap())
}

/// Changes a record that is there.
fn rewrite<T: Clone>(entry: Option<&mut Arc<Entry<T>>>, change: impl FnOnce(&mut T)) {
    if let Some(record) = entry.map(|entry| Arc::make_mut(entry).record.as_mut().unwrap()) {
        change(Arc::make_mut(record));
    }
}

/// Locks or unlocks a record that is there.
fn set_locked<T: Clone>(entry: Option<&mut Arc<Entry<T>>>, locked: bool, now: f64) {
    if let Some(entry) = entry.map(Arc::make_mut) {
        entry.contenders = contenders(locked);
        entry.free_since = (!locked).then_some(now);
    }
}

fn contenders(locked: bool) -> Contenders {
    locked.then(|| "c".to_owned()).into_iter().collect()
}
