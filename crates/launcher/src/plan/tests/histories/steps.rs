//! What may happen.

use super::*;

impl History {
    fn some_request(&self, which: usize) -> Option<RequestId> {
        let ids: Vec<_> = self.setting.records.requests.keys().collect();
        ids.get(which % ids.len().max(1)).map(|id| (*id).clone())
    }

    fn some_node(&self, which: usize) -> Option<NodeId> {
        let ids: Vec<_> = self.setting.records.nodes.keys().collect();
        ids.get(which % ids.len().max(1)).map(|id| (*id).clone())
    }

    /// Something happens.
    pub fn step(&mut self, what: u8, which: u16, how: u16) {
        let which = usize::from(which);
        if how % 16 == 15 {
            // Long enough for nodes to be too old, for litter, for what was lost.
            self.pass_time(f64::from(how >> 4 & 63));
        }
        match what % 48 {
            0..=5 => {
                let labels: &[&str] = match how % 9 {
                    0 => &["small", "small"],
                    1 => &["small", "big"],
                    2 => &["elsewhere"],
                    3 | 4 => &["big"],
                    _ => &["small"],
                };
                self.new_request(100 * (1 + u32::from(how) % 3), labels, |request| {
                    request.reuse = how & 16 == 0;
                    request.relative_priority = i64::from(how >> 5 & 3);
                    request.tenant_name = (how & 128 != 0).then(|| "limited".into());
                    request.provider = (how & 0x0700 == 0x0700).then(|| "q".into());
                });
            }
            6 => {
                if let Some(id) = self.some_request(which) {
                    self.setting.records.requests.remove(&id);
                    self.changes.requests.insert(id);
                }
            }
            7 => {
                if let Some(id) = self.some_request(which) {
                    self.change_request(&id, |request| match how % 5 {
                        0 => request.relative_priority = i64::from(how >> 8),
                        1 => request.declined_by.push("id-other".into()),
                        2 => request.declined_by.clear(),
                        3 => request.state = RequestState::Pending,
                        _ => request.state = RequestState::Requested,
                    });
                }
            }
            8 => {
                // Another launcher's lock; ours keep theirs.
                let is_free =
                    |id: &RequestId| !self.ledger.requests.contains_key(id) && !self.ledger.busy_requests.contains(id);
                if let Some(id) = self.some_request(which).filter(is_free) {
                    self.lock_request(&id, how & 1 == 0);
                }
            }
            9 | 10 => {
                const STATES: [NodeState; 8] = [
                    NodeState::Ready,
                    NodeState::Ready,
                    NodeState::Ready,
                    NodeState::InUse,
                    NodeState::Hold,
                    NodeState::Init,
                    NodeState::Deleting,
                    NodeState::Used,
                ];
                let allocated = self.some_request(which).filter(|_| how & 32 != 0);
                let id = self.new_node(STATES[usize::from(how % 8)], LABELS[usize::from(how >> 3 & 1)], |node| {
                    let side = how & 0x2000 != 0;
                    node.provider = Some(if side || how & 64 == 0 { "p".into() } else { "q".into() });
                    node.pool = Some(if side { "side".into() } else { "main".into() });
                    node.resources = (how & 128 == 0).then(|| cores(1.0));
                    node.tenant_name = (how & 256 != 0).then(|| "limited".into());
                    node.az = (how & 512 != 0).then(|| "az1".into());
                    node.allocated_to = allocated;
                });
                self.lock_node(&id, how & 1024 != 0);
            }
            11 => {
                if let Some(id) = self.some_node(which) {
                    self.setting.records.nodes.remove(&id);
                    self.changes.nodes.insert(id);
                }
            }
            12 | 13 => {
                if let Some(id) = self.some_node(which) {
                    let state = [NodeState::Used, NodeState::Ready, NodeState::InUse, NodeState::Failed];
                    self.change_node(&id, |node| node.state = state[usize::from(how % 4)]);
                    if how & 8 != 0 && !self.has_locked(&id) {
                        self.lock_node(&id, how & 16 != 0);
                    }
                }
            }
            14..=17 => {
                // A launch ends.
                let launching: Vec<_> = self.ledger.nodes.iter().filter(|(_, held)| held.launching).collect();
                if let Some(id) = launching.get(which % launching.len().max(1)).map(|(id, _)| (*id).clone()) {
                    let fails = how.is_multiple_of(5) || !self.has_a_place(&id);
                    self.seeks_no_more(&id);
                    let state = if fails { NodeState::Failed } else { NodeState::Ready };
                    self.change_node(&id, |node| node.state = state);
                    if how % 11 == 10 {
                        // Its lock was lost.
                        self.lock_node(&id, false);
                    } else {
                        self.ledger.launched(&id, fails.then(|| "it failed".to_owned()));
                    }
                    self.ledger.launch_ended(&id);
                }
            }
            18..=26 if !self.running.is_empty() => self.end(which, how),
            27 => self.pass_time(f64::from(how % 30) / 4.0),
            28 => {
                let name = if how & 1 == 0 { "p" } else { "q" };
                let state = self.setting.providers.get_mut(name).unwrap();
                let pool = if how & 0x1001 == 0x1000 { "side" } else { "main" };
                let image = (PoolName::from(pool), LabelName::from("small"));
                match how >> 1 & 7 {
                    0 => state.quota = Some(ProjectQuota { limits: cores(f64::from(how >> 4 & 7)), ours: cores(2.0) }),
                    1 => state.quota = Some(ProjectQuota::default()),
                    2 => state.quota_at = self.now,
                    3 => state.launch_after = (how & 16 != 0).then_some(self.now + 3.0),
                    4 => {
                        let takes = state.label_resources.entry(image);
                        let _ = takes.insert_entry(Ok(cores(f64::from(how >> 4 & 3))));
                    }
                    5 => {
                        state.label_resources.remove(&image);
                    }
                    6 => {
                        let seen = if how & 16 == 0 { CloudImage::There } else { CloudImage::Missing(self.now) };
                        state.cloud_images.insert(image, seen);
                    }
                    _ => state.zones = (how & 16 == 0).then(|| vec!["z".to_owned()]),
                }
            }
            29 => {
                let mut other = PoolComponent::clone(&self.unregistered_p());
                other.id = Some("id-other".into());
                other.provider_name = Some("o".into());
                other.supported_labels = vec!["elsewhere".into(), "small".into()];
                other.paused = how & 2 != 0;
                other.priority = if how & 4 == 0 { 100 } else { 50 };
                if how & 1 == 0 {
                    self.setting.records.pools.remove("other");
                } else {
                    self.setting.records.pools.insert("other".to_owned(), Arc::new(other));
                }
                self.changes.pools = true;
            }
            30 => match how % 6 {
                0 | 1 => {
                    let provider = self.setting.config.providers.get_mut("p").unwrap();
                    Arc::make_mut(provider).max_concurrency = (how & 256 != 0).then_some(2);
                    self.config = Arc::new(self.setting.config.clone());
                }
                2 => self.changes.everything = true,
                3 if how & 0x0700 == 0 => {
                    // The session is lost: everything that we held is free.
                    let held = std::mem::take(&mut self.ledger);
                    let requests: Vec<_> = held.requests.keys().cloned().collect();
                    let nodes: Vec<_> = held.nodes.keys().cloned().collect();
                    self.running.clear();
                    self.launches.clear();
                    for id in &requests {
                        self.lock_request(id, false);
                    }
                    for id in &nodes {
                        self.lock_node(id, false);
                    }
                    // What we asked for ends with it.
                    let session = self.setting.session;
                    let asked = self.setting.records.requests.iter();
                    let asked = asked.filter(|(_, entry)| entry.stat.ephemeral_owner == session);
                    for id in asked.map(|(id, _)| id.clone()).collect::<Vec<_>>() {
                        self.setting.records.requests.remove(&id);
                        self.changes.requests.insert(id);
                    }
                }
                4 if how & 0x0f00 == 0 => self.setting.stopping = !self.setting.stopping,
                _ => {}
            },
            31 => {
                // A server of an idle node has gone, or its node is left alone for a moment.
                if let Some(id) = self.some_node(which) {
                    let node = self.setting.records.nodes[&id].record.as_ref().unwrap();
                    let name = node.provider.clone().unwrap();
                    // Others may have its provider.
                    let Some(state) = self.setting.providers.get_mut(&name) else { return };
                    let gone = &mut state.gone;
                    match how >> 1 & 3 {
                        0 => {
                            gone.insert(id, "it has gone".to_owned());
                        }
                        1 => gone.clear(),
                        2 => {
                            self.ledger.holdings_mut().nodes_after.insert(id, self.uptime + 2.0);
                        }
                        _ => self.ledger.holdings_mut().nodes_after.clear(),
                    }
                }
            }
            32 if how & 1 == 0 => {
                // Others see a pool of ours, or do not see it yet.
                match self.setting.records.pools.remove("q") {
                    Some(component) => self.unseen = Some(component),
                    None => self.setting.records.pools.extend(self.unseen.take().map(|seen| ("q".to_owned(), seen))),
                }
                self.changes.pools = true;
            }
            32 => {
                // A pool of ours goes, or comes back.
                match self.setting.pools.iter().position(|pool| pool.key.provider == "q") {
                    Some(at) => self.known_pool = Some(self.setting.pools.remove(at)),
                    None => self.setting.pools.extend(self.known_pool.clone()),
                }
            }
            33 => {
                // Provider q boots its nodes from a diskimage.
                let key = nodepool_common::model::UploadKey {
                    image: "image".into(),
                    build: "0000000001".into(),
                    provider: "q".into(),
                    id: "0000000001".into(),
                };
                let state = if how & 2 == 0 { "ready" } else { "deleting" };
                let record = format!(r#"{{"state": "{state}", "state_time": {NOW}}}"#);
                let (image, build, provider) = (key.image.clone(), key.build.clone(), key.provider.clone());
                let id = key.id.clone();
                let upload =
                    nodepool_common::model::ImageUpload::read(image, build, provider, id, record.as_bytes()).unwrap().0;
                if how & 1 == 0 {
                    self.setting.records.uploads.insert(key, entry(upload));
                } else {
                    self.setting.records.uploads.remove(&key);
                }
                self.changes.uploads = true;
            }
            34 => {
                let name = if how & 1 == 0 { "p" } else { "q" };
                let state = self.setting.providers.get_mut(name).unwrap();
                state.trouble = (how & 2 == 0).then(|| "connection refused".to_owned());
                if how & 4 == 0 {
                    state.quota = None;
                }
            }
            35 => {
                // A provider is replaced by one with other settings, which starts after a while.
                let name = ["p", "q", "s", "m"][usize::from(how % 4)];
                if !self.away.remove(name)
                    && let Some(provider) = self.setting.config.providers.get_mut(name)
                {
                    Arc::make_mut(provider).launch_retries += 1;
                    self.config = Arc::new(self.setting.config.clone());
                    let state = self.setting.providers.get_mut(name).unwrap();
                    let fresh = if matches!(name, "s" | "m") { state.clone() } else { ProviderState::default() };
                    *state = fresh.following(state);
                    self.away.insert(name.into());
                }
            }
            36 if how.is_multiple_of(4) => self.set_clock(if how & 4 == 0 { 3600.0 } else { -3600.0 }),
            37 => self.record_some_launch(which),
            38 => {
                let label = if how & 1 == 0 { "small" } else { "big" };
                self.setting.config.labels.get_mut(label).unwrap().min_ready = usize::from(how >> 8 & 3);
                self.config = Arc::new(self.setting.config.clone());
            }
            39 if how & 1 == 0 => self.max_servers(usize::from(how >> 1)),
            39 => {
                // The settings of a cloud lead elsewhere, or back again.
                let node = self.some_node(which);
                let elsewhere =
                    &mut self.setting.providers.get_mut(if how & 2 == 0 { "p" } else { "q" }).unwrap().elsewhere;
                match node.filter(|_| how & 4 == 0) {
                    Some(node) => {
                        elsewhere.insert(node);
                    }
                    None => elsewhere.clear(),
                }
            }
            40 => self.pause(which, how),
            41 | 42 => {
                let labels: &[&str] = match how % 8 {
                    0 | 1 => &[backing::STACKED, backing::STACKED],
                    2 => &[backing::STACKED, backing::STACKED, backing::STACKED],
                    3 => &[backing::STACKED, "small"],
                    _ => &[backing::STACKED],
                };
                self.new_request(100 * (1 + u32::from(how) % 3), labels, |request| {
                    request.reuse = how & 16 == 0;
                    request.relative_priority = i64::from(how >> 5 & 3);
                });
            }
            43 | 44 => self.a_launch_goes_on(which, how),
            45 | 47 => self.happens_underneath(which, how),
            46 => self.provider_m_changes(how),
            _ => {
                self.pass_time(0.1);
                self.is_check_due = how & 1 == 0;
            }
        }
    }

    /// A pool of p gets another limit.
    fn max_servers(&mut self, how: usize) {
        let provider = Arc::make_mut(self.setting.config.providers.get_mut("p").unwrap());
        let at = how % provider.pools.len();
        let limits = cores([8.0, 5.0, 3.0, 0.5][how >> 1 & 3]);
        provider.pools[at].limits = if how & 8 == 0 { limits } else { limits.with("instances", 4.0) };
        self.config = Arc::new(self.setting.config.clone());
    }

    /// A person of the site pauses a provider or a pool, or ends that.
    fn pause(&mut self, which: usize, how: u16) {
        let provider = ProviderName::from(["p", "p", "q", "s", "m"][which % 5]);
        let pool = [None, Some(PoolName::from("main")), Some("side".into())][usize::from(how >> 1 & 3) % 3].clone();
        let known = self.setting.records.pauses.get(&provider).and_then(|entry| entry.usable());
        let mut pauses = known.map(|pauses| Pauses::clone(pauses)).unwrap_or_default();
        let pause = Pause { by: "alice@host".to_owned(), note: format!("note {how}"), since: self.now };
        pauses.set(pool.as_ref(), (how & 1 == 0).then_some(pause));
        if how & 1 == 1 && how & 32 == 0 {
            pauses = Pauses::default();
        }
        if pauses.is_empty() {
            self.setting.records.pauses.remove(&provider);
        } else {
            self.setting.records.pauses.insert(provider, entry(pauses));
        }
        self.changes.pools = true;
    }

    fn pass_time(&mut self, seconds: f64) {
        self.now += seconds;
        self.uptime = self.uptime + seconds;
    }

    /// The clock is set by that many seconds.
    fn set_clock(&mut self, step: f64) {
        self.now += step;
        self.planner.clock_stepped(step);
        self.setting.providers.values_mut().for_each(|state| state.clock_stepped(step));
        let records = &mut self.setting.records;
        let moved = |at: &mut Option<f64>| *at = at.map(|at| at + step);
        change_each(&mut records.nodes, |entry| moved(&mut Arc::make_mut(entry).free_since));
        change_each(&mut records.requests, |entry| moved(&mut Arc::make_mut(entry).free_since));
        // As the cache does.
        self.changes.everything = true;
    }
}
