//! A planner that remembers decides the same as one that looks at everything anew.
//!
//! A history is a list of steps: requests come, change and go, nodes do, other launchers lock and unlock, clouds answer, and
//! what was decided is carried out, fails, or is lost with the session. After each step a [`Planner`] that has seen all of it
//! is compared with [`Planner::simple`], which has seen nothing and looks at each request by itself.

use proptest::prelude::*;

use super::*;
use nodepool_common::model::{Changes, MIN_READY_REQUESTOR, PoolName};

/// Pools of the world: two providers of ours, and one pool of another launcher.
const LABELS: [&str; 3] = ["small", "big", "elsewhere"];

struct History {
    setting: Setting,
    config: Arc<Config>,
    now: f64,
    changes: Changes,
    running: Vec<Decision>,
    next: u32,
    /// The pool of ours that is away.
    known_pool: Option<PoolState>,
    planner: Planner,
    /// Whether the planner is compared with itself after the next step, as the launcher does now and then.
    is_check_due: bool,
    /// What kinds of decisions were made.
    kinds: std::collections::BTreeSet<String>,
}

impl History {
    fn new() -> Self {
        let mut setting = Setting::new().provider("p", |pool| pool.limits = cores(8.0)).provider("q", |pool| {
            pool.limits = cores(6.0);
            pool.availability_zones.clear();
            pool.labels.swap_remove("big");
            pool.labels["small"].diskimage = Some("image".into());
        });
        setting.config.labels.get_mut("small").unwrap().max_ready_age = Some(Duration::from_secs(40));
        setting.config.tenant_limits.insert("limited".into(), cores(3.0));
        let mut other = (*setting.records.pools["p"]).clone();
        other.id = Some("id-other".into());
        other.provider_name = Some("o".into());
        other.supported_labels = vec!["elsewhere".into(), "small".into()];
        setting.records.pools.insert("other".to_owned(), Arc::new(other));
        let config = Arc::new(setting.config.clone());
        Self {
            setting,
            config,
            now: NOW,
            changes: Changes::default(),
            running: Vec::new(),
            next: 0,
            known_pool: None,
            planner: Planner::default(),
            is_check_due: false,
            kinds: std::collections::BTreeSet::new(),
        }
    }

    fn world<'a>(
        &'a self,
        providers: &'a BTreeMap<nodepool_common::model::ProviderName, &'a ProviderState>,
    ) -> World<'a> {
        World {
            now: self.now,
            config: &self.config,
            records: &self.setting.records,
            pools: &self.setting.pools,
            providers,
            session: self.setting.session,
            holdings: &self.setting.holdings,
            timing: Timing { request_lock: 5.0, accepts_at_once: 3, ..Timing::default() },
            stopping: self.setting.stopping,
        }
    }

    /// Both planners decide; what they have decided is begun.
    fn decide(&mut self) -> Result<(), TestCaseError> {
        let touched = self.setting.holdings.take_touched();
        let changes = std::mem::take(&mut self.changes);
        let mut planner = std::mem::take(&mut self.planner);
        let is_check_due = std::mem::take(&mut self.is_check_due);
        let providers = self.setting.providers.iter().map(|(name, state)| (name.clone(), state)).collect();
        let world = self.world(&providers);
        let plan = planner.plan(&world, News { changes, touched, setting: false });
        let simple = Planner::simple().plan(&world, News::everything());
        prop_assert_eq!(&plan.decisions, &simple.decisions);
        prop_assert_eq!(&plan.wants, &simple.wants);
        prop_assert_eq!(&plan.paused, &simple.paused);
        prop_assert_eq!(&plan.starved, &simple.starved);
        prop_assert_eq!(plan.is_tenant_full, simple.is_tenant_full);
        if is_check_due {
            let (_, differences) = planner.check(&world, &plan);
            prop_assert_eq!(differences, Vec::<String>::new());
        }
        let waiting = planner.waiting();
        for key in simple.waiting.keys() {
            prop_assert!(waiting.contains_key(key), "{:?} waits without a reason", key);
        }
        // Others wait for what the first of their class waits for, and may see other numbers.
        for (key, simple) in simple.waiting.iter().filter(|((id, _), _)| self.is_first_of_its_kind(id)) {
            prop_assert_eq!(&waiting[key].waiting, simple, "why {:?} waits", key);
        }
        self.planner = planner;
        self.begin(plan.decisions);
        Ok(())
    }

    /// Whether no request that waits, and asks for the same, comes before this one.
    fn is_first_of_its_kind(&self, id: &RequestId) -> bool {
        let records = &self.setting.records.requests;
        let kind = |request: &NodeRequest| {
            let (labels, declined) = (request.node_types.clone(), request.declined_by.clone());
            (labels, declined, request.tenant_name.clone(), request.provider.clone(), request.reuse)
        };
        let order = |request: &NodeRequest| (request.id.priority().to_owned(), request.relative_priority);
        let Some(this) = records.get(id).and_then(|entry| entry.usable()) else { return false };
        records.values().filter_map(|entry| entry.usable()).all(|other| {
            kind(other) != kind(this) || (order(this), this.id.sequence()) <= (order(other), other.id.sequence())
        })
    }

    /// What is decided is being worked on.
    fn begin(&mut self, decisions: Vec<Decision>) {
        let holdings = &mut self.setting.holdings;
        for decision in decisions {
            let (request, node) = decision.subjects();
            if let Some(request) = request {
                holdings.busy_requests.insert(request.clone());
            }
            if let Some(node) = node {
                holdings.busy_nodes.insert(node.clone());
            }
            match &decision {
                Decision::Accept { request, pool } => {
                    holdings.accepting.insert(request.clone(), pool.clone());
                }
                Decision::Supply { request, pool, reuse, launch } => {
                    for (node, _) in reuse {
                        holdings.busy_nodes.insert(node.clone());
                    }
                    let starting = launch.iter().map(|new| (request.clone(), pool.clone(), new.label.clone()));
                    holdings.starting.extend(starting);
                }
                Decision::CreateMinReady { label, .. } => {
                    holdings.busy_labels.insert(label.clone());
                }
                Decision::Attend { .. }
                | Decision::OrderBacking { .. }
                | Decision::SettleBacking { .. }
                | Decision::StopSeeking { .. }
                | Decision::LetBackingGo { .. } => panic!("no such world: {decision:?}"),
                _ => {}
            }
            let name = format!("{decision:?}");
            self.kinds.extend(name.split(' ').next().map(str::to_owned));
            self.running.push(decision);
        }
    }

    fn change_request(&mut self, id: &RequestId, change: impl FnOnce(&mut NodeRequest)) {
        rewrite(self.setting.records.requests.get_mut(id), change);
        self.changes.requests.insert(id.clone());
    }

    fn change_node(&mut self, id: &NodeId, change: impl FnOnce(&mut Node)) {
        rewrite(self.setting.records.nodes.get_mut(id), change);
        self.changes.nodes.insert(id.clone());
    }

    fn lock_request(&mut self, id: &RequestId, locked: bool) {
        set_locked(self.setting.records.requests.get_mut(id), locked, self.now);
        self.setting.records.request_locks.entry(id.clone()).or_default().contenders = contenders(locked);
        self.changes.requests.insert(id.clone());
    }

    fn lock_node(&mut self, id: &NodeId, locked: bool) {
        set_locked(self.setting.records.nodes.get_mut(id), locked, self.now);
        self.changes.nodes.insert(id.clone());
    }

    fn new_node(&mut self, state: NodeState, label: &str, change: impl FnOnce(&mut Node)) -> NodeId {
        self.next += 1;
        let id = NodeId::from(format!("{:010}", self.next).as_str());
        let now = self.now;
        let mut setting = std::mem::replace(&mut self.setting, Setting::new());
        setting = setting.node(id.as_str(), label, state, |node| {
            node.state_time = now;
            change(node);
        });
        self.setting = setting;
        self.changes.nodes.insert(id.clone());
        id
    }

    fn drop_request(&mut self, id: &RequestId) {
        self.setting.holdings.requests.remove(id);
        self.lock_request(id, false);
    }

    /// An action ends: it has done what it was to do, or it has failed.
    fn end(&mut self, decision: &Decision, works: bool) {
        let now = self.now;
        let after = now + 1.0;
        match decision {
            Decision::Accept { request, pool } => {
                self.setting.holdings.accepting.remove(request);
                if works && self.setting.records.requests.contains_key(request) {
                    self.change_request(request, |r| r.state = RequestState::Pending);
                    self.lock_request(request, true);
                    self.setting.holdings.requests.insert(request.clone(), HeldRequest { pool: pool.clone() });
                }
            }
            Decision::Decline { request, pools } if works => {
                let pools: Vec<_> = pools.iter().map(|(pool, _)| format!("id-{}", pool.provider)).collect();
                self.change_request(request, |r| r.declined_by.extend(pools.iter().map(|p| p.as_str().into())));
            }
            Decision::Supply { request, pool, reuse, launch } => {
                self.setting.holdings.starting.retain(|(of, ..)| of != request);
                for (node, label) in reuse {
                    if works && self.setting.records.nodes.contains_key(node) {
                        self.change_node(node, |node| node.allocated_to = Some(request.clone()));
                        self.lock_node(node, true);
                        let held = HeldNode {
                            request: request.clone(),
                            label: label.clone(),
                            launching: false,
                            failure: None,
                        };
                        self.setting.holdings.nodes.insert(node.clone(), held);
                    }
                    self.setting.holdings.busy_nodes.remove(node);
                }
                for new in launch.iter().filter(|_| works) {
                    let (provider, of) = (pool.provider.clone(), request.clone());
                    let takes = if new.label == "big" { cores(4.0) } else { cores(1.0) };
                    let az = new.az.clone();
                    let id = self.new_node(NodeState::Building, new.label.as_str(), |node| {
                        node.provider = Some(provider);
                        node.allocated_to = Some(of);
                        node.resources = Some(takes.with("instances", 1.0));
                        node.az = az;
                    });
                    self.lock_node(&id, true);
                    let held =
                        HeldNode { request: request.clone(), label: new.label.clone(), launching: true, failure: None };
                    self.setting.holdings.nodes.insert(id, held);
                }
            }
            Decision::Fulfil { request, nodes } => {
                for node in nodes {
                    self.setting.holdings.nodes.remove(node);
                    self.lock_node(node, false);
                }
                if works {
                    self.change_request(request, |r| r.state = RequestState::Fulfilled);
                }
                self.drop_request(request);
            }
            Decision::GiveUp { request, .. } | Decision::PutBack { request, .. } | Decision::Forget { request } => {
                let declines = matches!(decision, Decision::GiveUp { .. });
                self.change_request(request, |r| {
                    if r.state == RequestState::Pending {
                        r.state = RequestState::Requested;
                    }
                    if declines {
                        r.declined_by.push("id-p".into());
                    }
                });
                self.drop_request(request);
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
            Decision::LetGo { node, .. } => {
                self.setting.holdings.nodes.remove(node);
                self.lock_node(node, false);
            }
            Decision::Retire { node, .. } if works => {
                self.change_node(node, |node| node.state = NodeState::Deleting);
            }
            Decision::Delete { node } | Decision::RemoveRecord { node } if works => {
                self.setting.records.nodes.remove(node);
                self.changes.nodes.insert(node.clone());
            }
            Decision::Deallocate { node, .. } if works => self.change_node(node, |node| node.allocated_to = None),
            Decision::CreateMinReady { label, count } => {
                self.setting.holdings.busy_labels.remove(label);
                for _ in 0..*count {
                    let id = self.new_request(900, std::slice::from_ref(&label.as_str()), |r| {
                        r.requestor = Some(MIN_READY_REQUESTOR.to_owned());
                        r.reuse = false;
                    });
                    let session = self.setting.session;
                    self.setting.records.requests.get_mut(&id).unwrap().stat.ephemeral_owner = session;
                }
            }
            _ => {}
        }
        let holdings = &mut self.setting.holdings;
        let (request, node) = decision.subjects();
        if let Some(node) = node {
            if !works {
                holdings.nodes_after.insert(node.clone(), after);
            }
            holdings.busy_nodes.remove(node);
        }
        if let Some(request) = request {
            if !works {
                holdings.requests_after.insert(request.clone(), after);
            }
            holdings.busy_requests.remove(request);
        }
    }

    fn new_request(&mut self, priority: u32, labels: &[&str], change: impl FnOnce(&mut NodeRequest)) -> RequestId {
        self.next += 1;
        let id = format!("{priority}-{:010}", self.next);
        let setting = std::mem::replace(&mut self.setting, Setting::new());
        self.setting = setting.request(&id, labels, change);
        let id = RequestId::from(id.as_str());
        let entry = self.setting.records.requests.get_mut(&id).unwrap();
        entry.free_since = Some(self.now);
        #[allow(clippy::cast_possible_truncation)]
        {
            entry.stat.ctime = (self.now * 1000.0) as i64;
        }
        self.changes.requests.insert(id.clone());
        id
    }

    fn some_request(&self, which: usize) -> Option<RequestId> {
        let ids: Vec<_> = self.setting.records.requests.keys().collect();
        ids.get(which % ids.len().max(1)).map(|id| (*id).clone())
    }

    fn some_node(&self, which: usize) -> Option<NodeId> {
        let ids: Vec<_> = self.setting.records.nodes.keys().collect();
        ids.get(which % ids.len().max(1)).map(|id| (*id).clone())
    }

    /// Something happens.
    fn step(&mut self, what: u8, which: u16, how: u16) {
        let which = usize::from(which);
        match what % 36 {
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
                if let Some(id) = self.some_request(which).filter(|id| !self.setting.holdings.requests.contains_key(id))
                {
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
                    node.provider = Some(if how & 64 == 0 { "p".into() } else { "q".into() });
                    node.resources = (how & 128 == 0).then(|| cores(1.0));
                    node.tenant_name = (how & 256 != 0).then(|| "limited".into());
                    node.az = (how & 512 != 0).then(|| "az1".to_owned());
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
                    if how & 8 != 0 && !self.setting.holdings.nodes.contains_key(&id) {
                        self.lock_node(&id, how & 16 != 0);
                    }
                }
            }
            14..=17 => {
                // A launch ends.
                let launching: Vec<_> = self.setting.holdings.nodes.iter().filter(|(_, held)| held.launching).collect();
                if let Some(id) = launching.get(which % launching.len().max(1)).map(|(id, _)| (*id).clone()) {
                    let fails = how.is_multiple_of(5);
                    let state = if fails { NodeState::Failed } else { NodeState::Ready };
                    self.change_node(&id, |node| node.state = state);
                    if let Some(held) = self.setting.holdings.nodes.get_mut(&id) {
                        held.launching = false;
                        held.failure = fails.then(|| "it failed".to_owned());
                    }
                }
            }
            18..=26 if !self.running.is_empty() => {
                let decision = self.running.swap_remove(which % self.running.len());
                self.end(&decision, !how.is_multiple_of(8));
            }
            27 => self.now += f64::from(how % 30) / 4.0,
            28 => {
                let name = if how & 1 == 0 { "p" } else { "q" };
                let state = self.setting.providers.get_mut(name).unwrap();
                let image = (PoolName::from("main"), LabelName::from("small"));
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
                let mut other = (*self.setting.records.pools["p"]).clone();
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
                0 => {
                    self.setting.config.labels.get_mut("small").unwrap().min_ready = usize::from(how >> 8 & 3);
                    self.config = Arc::new(self.setting.config.clone());
                }
                1 => {
                    let provider = self.setting.config.providers.get_mut("p").unwrap();
                    Arc::make_mut(provider).max_concurrency = (how & 256 != 0).then_some(2);
                    self.config = Arc::new(self.setting.config.clone());
                }
                2 => self.changes.everything = true,
                3 if how & 0x0f00 == 0 => {
                    // The session is lost: everything that we held is free.
                    let (requests, nodes): (Vec<_>, Vec<_>) = {
                        let held = &self.setting.holdings;
                        (held.requests.keys().cloned().collect(), held.nodes.keys().cloned().collect())
                    };
                    self.setting.holdings = Holdings::default();
                    self.running.clear();
                    for id in &requests {
                        self.lock_request(id, false);
                    }
                    for id in &nodes {
                        self.lock_node(id, false);
                    }
                }
                4 if how & 0x0f00 == 0 => self.setting.stopping = !self.setting.stopping,
                _ => {}
            },
            31 => {
                // A server of an idle node has gone, or its node is left alone for a moment.
                if let Some(id) = self.some_node(which) {
                    let name = if how & 1 == 0 { "p" } else { "q" };
                    let gone = &mut self.setting.providers.get_mut(name).unwrap().gone;
                    match how >> 1 & 3 {
                        0 => {
                            gone.insert(id, "it has gone".to_owned());
                        }
                        1 => gone.clear(),
                        2 => {
                            self.setting.holdings.nodes_after.insert(id, self.now + 2.0);
                        }
                        _ => self.setting.holdings.nodes_after.clear(),
                    }
                }
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
            _ => {
                self.now += 0.1;
                self.is_check_due = how & 1 == 0;
            }
        }
    }
}

/// Changes a record that is there.
fn rewrite<T: Clone>(entry: Option<&mut Entry<T>>, change: impl FnOnce(&mut T)) {
    if let Some(record) = entry.map(|entry| entry.record.as_mut().unwrap()) {
        change(Arc::make_mut(record));
    }
}

/// Locks or unlocks a record that is there.
fn set_locked<T>(entry: Option<&mut Entry<T>>, locked: bool, now: f64) {
    if let Some(entry) = entry {
        entry.contenders = contenders(locked);
        entry.free_since = (!locked).then_some(now);
    }
}

fn contenders(locked: bool) -> std::collections::BTreeSet<String> {
    locked.then(|| "c".to_owned()).into_iter().collect()
}

proptest! {
    #![proptest_config(ProptestConfig { max_shrink_iters: 20_000, ..ProptestConfig::with_cases(cases()) })]

    #[test]
    fn what_is_remembered_changes_no_decision(steps in prop::collection::vec(any::<(u8, u16, u16)>(), 1..120)) {
        let mut history = History::new();
        for (what, which, how) in steps {
            history.step(what, which, how);
            history.decide()?;
        }
    }
}

/// The histories lead to every decision that a world without static and metastatic providers, and without records that cannot
/// be read, knows.
#[test]
fn the_histories_lead_everywhere() {
    let mut kinds = std::collections::BTreeSet::new();
    let mut random = 1_u64;
    let mut draw = || {
        // Knuth's MMIX.
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        random.to_be_bytes()
    };
    for _ in 0..60 {
        let mut history = History::new();
        for _ in 0..150 {
            let [what, a, b, c, d, ..] = draw();
            history.step(what, u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]));
            history.decide().unwrap();
        }
        kinds.append(&mut history.kinds);
    }
    let known = [
        "Accept",
        "CreateMinReady",
        "Deallocate",
        "Decline",
        "Delete",
        "FinishMinReady",
        "Forget",
        "Fulfil",
        "GiveUp",
        "LetGo",
        "PutBack",
        "RemoveRequestLock",
        "ResetLost",
        "Retire",
        "Supply",
    ];
    let missing: Vec<_> = known.into_iter().filter(|kind| !kinds.contains(*kind)).collect();
    assert!(missing.is_empty(), "not seen: {missing:?}, seen: {kinds:?}");
}

/// How many histories: some hundred, or as many as the environment asks for.
fn cases() -> u32 {
    std::env::var("PROPTEST_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(300)
}
