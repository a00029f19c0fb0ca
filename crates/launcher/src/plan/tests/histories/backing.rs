//! Nodes of provider m, which stand on nodes of the other ones: what is really so, which the records may be slow to show, and
//! what becomes of what is decided about it.
//!
//! What an action does here is what `run::placing` and `run::metastatic` say that it does: it writes only where the version of the
//! lock that is kept of the backing node, and the number of walks, are those up to which the records show everything.

use std::collections::{BTreeMap, BTreeSet};

use nodepool_common::{
    config::{Metastatic, MetastaticLabel},
    model::{Backing, Json, Place, ProviderName, metastatic_owner},
};
use serde_json::json;

use super::*;

/// The label whose nodes stand on others.
pub const STACKED: &str = "stacked";

/// What is really so, whatever the records show.
#[derive(Default)]
pub struct Truth {
    /// The version of the lock that is kept of each backing node: each placement raises it.
    versions: BTreeMap<NodeId, i32>,
    /// Nodes that stand somewhere, and whose records do not show it yet.
    unread: BTreeMap<NodeId, Place>,
    /// How often the tree was walked.
    walks: u64,
    /// Launches that were told that there will be no place for them.
    withdrawn: BTreeSet<NodeId>,
    /// The provider, and its pool, while they are out of the file.
    left: Option<(Arc<nodepool_common::config::Provider>, PoolState)>,
    /// The registered pools, while there are none.
    unregistered: BTreeMap<String, Arc<PoolComponent>>,
    /// What has happened that must not.
    pub broken: Vec<String>,
}

/// The label's settings at the beginning.
pub fn label() -> MetastaticLabel {
    MetastaticLabel {
        name: STACKED.into(),
        backing_label: "small".into(),
        max_parallel_jobs: 2,
        grace_time: Duration::from_secs(10),
        min_retention_time: Duration::ZERO,
        max_age: None,
        host_key_checking: false,
    }
}

/// Provider m, with a pool for that label.
pub fn add_provider(setting: Setting) -> Setting {
    let mut setting = setting.provider("m", |pool| {
        pool.labels = [(STACKED.into(), PoolLabel { name: STACKED.into(), diskimage: None })].into_iter().collect();
        pool.limits = Resources::new().with("instances", 7.0);
        pool.availability_zones.clear();
    });
    let labels = [(STACKED.into(), label())].into_iter().collect();
    let provider = Arc::make_mut(setting.config.providers.get_mut("m").unwrap());
    provider.driver = Driver::Metastatic(Metastatic { pools: [("main".into(), labels)].into_iter().collect() });
    setting.config.labels.insert(STACKED.into(), Label { name: STACKED.into(), min_ready: 0, max_ready_age: None });
    let state = setting.providers.get_mut("m").unwrap();
    let at = (PoolName::from("main"), LabelName::from(STACKED));
    state.label_resources.insert(at.clone(), Ok(Resources::new().with("instances", 1.0)));
    state.cloud_images.insert(at, CloudImage::There);
    setting
}

fn m() -> ProviderName {
    "m".into()
}

impl History {
    fn really_stands_at(&self, node: &NodeId) -> Option<Place> {
        let record = || self.setting.records.nodes.get(node)?.record.as_ref().ok();
        self.truth.unread.get(node).cloned().or_else(|| Place::of(record()?))
    }

    /// Nodes of m that really stand on a backing node, with their slots.
    fn really_on(&self, on: &NodeId) -> Vec<(NodeId, usize)> {
        let of_m = self
            .setting
            .records
            .nodes
            .iter()
            .filter(|(_, entry)| entry.record.as_ref().is_ok_and(|node| node.provider == Some(m())));
        let standing = of_m.filter_map(|(id, _)| Some((id.clone(), self.really_stands_at(id)?)));
        standing.filter(|(_, place)| place.backing_node == *on).map(|(id, place)| (id, place.slot)).collect()
    }

    /// Whether a launch may still end well: it does not stand anywhere otherwise.
    pub fn has_a_place(&self, node: &NodeId) -> bool {
        let is_of_m = self
            .setting
            .records
            .nodes
            .get(node)
            .is_some_and(|entry| entry.record.as_ref().is_ok_and(|node| node.provider == Some(m())));
        !is_of_m || self.really_stands_at(node).is_some()
    }

    /// A launch waits for a place no longer.
    pub fn seeks_no_more(&mut self, node: &NodeId) {
        self.ledger.holdings_mut().seeking.remove(node);
    }

    /// All that stood somewhere and was not shown is shown.
    fn read_all(&mut self) {
        for (node, place) in std::mem::take(&mut self.truth.unread) {
            self.change_node(&node, |node| node.driver_data = Some(Box::new(data(&place))));
        }
    }

    /// Where the lock of a backing node is, if it is one of m's.
    fn shown_now(&self, on: &NodeId) -> Option<Shown> {
        let entry = self.setting.records.nodes.get(on)?;
        let node = entry.record.as_ref().ok()?;
        let is_kept = node.state == NodeState::InUse
            && !entry.contenders.is_empty()
            && Backing::of(node).is_some_and(|backing| backing.owner == metastatic_owner(&m()));
        let version = self.truth.versions.get(on).copied().unwrap_or_default();
        is_kept.then_some(Shown { version, walks: self.truth.walks })
    }

    /// What an action on a backing node begins with; `None`: it ends there, and nothing is written.
    fn begin_on(&mut self, on: &NodeId, how: u16) -> Option<Shown> {
        let Some(shown) = self.shown_now(on).filter(|_| how % 8 != 7) else {
            let until = self.uptime + 5.0;
            self.ledger.holdings_mut().not_kept.insert(on.clone(), until);
            return None;
        };
        if self.ledger.shown.get(on) != Some(&shown) {
            self.read_all();
            self.ledger.holdings_mut().shown.insert(on.clone(), shown);
            self.kinds.insert("Shown".to_owned());
            return None;
        }
        Some(shown)
    }

    /// A launch writes down that it stands there.
    fn write_place(&mut self, node: &NodeId, on: &NodeId, slot: usize) {
        for (other, taken) in self.really_on(on) {
            if taken == slot {
                self.truth.broken.push(format!("{node} is placed on {on}, slot {slot}, where {other} stands"));
            }
        }
        let place = Place { backing_node: on.clone(), slot };
        self.change_node(node, |node| node.driver_data = Some(Box::new(data(&place))));
        *self.truth.versions.entry(on.clone()).or_default() += 1;
        self.kinds.insert("Placed".to_owned());
        // Some tell a moment later that they do not wait any more.
        if self.next.is_multiple_of(2) {
            self.seeks_no_more(node);
        }
    }

    /// Whether a launch takes what it is offered.
    fn takes_offers(&self, node: &NodeId) -> bool {
        let is_launching = self.ledger.nodes.get(node).is_some_and(|held| held.launching);
        let is_on_record = self.setting.records.nodes.contains_key(node);
        is_launching && is_on_record && self.ledger.seeking.contains_key(node) && self.really_stands_at(node).is_none()
    }

    /// Nodes have been placed on a backing node: all, some, or none of them.
    pub fn end_place(&mut self, on: &NodeId, slots: &[(NodeId, usize)], how: u16) {
        let Some(mut shown) = self.begin_on(on, how) else { return };
        let count = if how % 8 == 6 { slots.len() / 2 } else { slots.len() };
        for (at, (node, slot)) in slots.iter().take(count).enumerate() {
            if how % 8 == 5 && at + 1 == slots.len() {
                // Another process was faster: this one is not written.
                self.place_of_others(on, how & 8 != 0);
                self.kinds.insert("OthersWereFaster".to_owned());
                break;
            }
            if self.takes_offers(node) {
                self.write_place(node, on, *slot);
                shown.version += 1;
            }
        }
        self.ledger.holdings_mut().shown.insert(on.clone(), shown);
    }

    /// Of a placement that goes on one slot is written already.
    fn write_some_place(&mut self, which: usize) {
        let places = self.running.iter().filter_map(|(_, decision)| match decision {
            Decision::Place { on, slots, .. } => Some((on, slots)),
            _ => None,
        });
        let places: Vec<_> = places.collect();
        let Some((on, slots)) = places.get(which % places.len().max(1)) else { return };
        let (on, slots) = ((*on).clone(), (*slots).clone());
        let Some(shown) = self.shown_now(&on).filter(|shown| self.ledger.shown.get(&on) == Some(shown)) else { return };
        let Some((node, slot)) = slots.into_iter().find(|(node, _)| self.takes_offers(node)) else { return };
        self.write_place(&node, &on, slot);
        self.ledger.holdings_mut().shown.insert(on, Shown { version: shown.version + 1, ..shown });
    }

    /// A backing node has been given back, or not.
    pub fn end_let_backing_go(&mut self, on: &NodeId, how: u16) {
        if self.begin_on(on, how).is_none() {
            return;
        }
        if let Some((other, _)) = self.really_on(on).first() {
            self.truth.broken.push(format!("backing node {on} is given back, and {other} stands on it"));
        }
        self.change_node(on, |node| node.state = NodeState::Used);
        self.lock_node(on, false);
    }

    /// Backing nodes have been asked for, or only some of them.
    pub fn end_order_backing(&mut self, label: &LabelName, backing: &LabelName, count: usize, works: bool) {
        for _ in 0..(if works { count } else { count / 2 }) {
            self.new_backing_request(label, backing);
        }
    }

    fn new_backing_request(&mut self, label: &LabelName, backing: &LabelName) -> RequestId {
        let id = self.new_request(100, &[backing.as_str()], |request| {
            request.requestor = Some(metastatic_owner(&m()));
            request.requestor_data = Some(Json::of(&json!({"label": label})));
        });
        let session = self.setting.session;
        self.setting.request_entry(id.as_str()).stat.ephemeral_owner = session;
        id
    }

    /// A request for a backing node has been settled.
    pub fn end_settle_backing(&mut self, id: &RequestId, how: u16) {
        let Some(request) = self.setting.records.requests.get(id).and_then(|entry| entry.record.as_ref().ok()).cloned()
        else {
            return;
        };
        let provider = self.config.providers.get("m").and_then(|provider| provider.metastatic());
        let label = request.backed_label().and_then(|label| provider?.any_label(&label)).cloned();
        match (label, request.state) {
            (None, _) => {}
            (Some(label), RequestState::Failed) => self.backing_failed(&label),
            (Some(label), RequestState::Fulfilled) => {
                let node = request.nodes.first().cloned();
                let is_its = |node: &NodeId| {
                    let entry = &self.setting.records.nodes.get(node);
                    entry.is_some_and(|entry| {
                        let record = entry.record.as_ref().unwrap();
                        entry.contenders.is_empty()
                            && record.state == NodeState::Ready
                            && record.allocated_to.as_ref() == Some(id)
                            && how % 8 != 7
                    })
                };
                match node {
                    Some(node) if is_its(&node) => self.take_backing(&node, &label),
                    Some(_) => self.backing_failed(&label),
                    None => {}
                }
            }
            _ => return,
        }
        self.setting.records.requests.remove(id);
        self.changes.requests.insert(id.clone());
    }

    fn backing_failed(&mut self, label: &MetastaticLabel) {
        let most = label.max_parallel_jobs;
        let failing = crate::plan::seekers_of(&self.setting.records, &self.ledger, &m(), &label.name).take(most);
        for node in failing.cloned().collect::<Vec<_>>() {
            self.seeks_no_more(&node);
        }
        let until = self.uptime + 1.0;
        self.ledger.holdings_mut().backing_after.insert((m(), label.name.clone()), until);
        self.kinds.insert("BackingFailed".to_owned());
    }

    fn take_backing(&mut self, node: &NodeId, label: &MetastaticLabel) {
        let backing = Backing {
            owner: metastatic_owner(&m()),
            label: label.name.clone(),
            slots: label.max_parallel_jobs,
            failed: false,
            launched: self.now,
        };
        self.change_node(node, |node| {
            node.user_data = Some(backing.user_data());
            node.state = NodeState::InUse;
        });
        self.lock_node(node, true);
        self.kinds.insert("BackingTaken".to_owned());
    }

    /// A launch of m goes on: it begins to wait for a place, hears of one, or looks for another one.
    pub fn a_launch_goes_on(&mut self, which: usize, how: u16) {
        if how & 0x4000 != 0 {
            return self.write_some_place(which);
        }
        let of_m = |id: &NodeId| {
            let record = self.setting.records.nodes.get(id).and_then(|entry| entry.record.as_ref().ok());
            record.is_some_and(|node| node.provider == Some(m()))
        };
        let launching = self.ledger.nodes.iter().filter(|(id, held)| held.launching && of_m(id));
        let launching: Vec<_> = launching.map(|(id, held)| (id.clone(), held.label.clone())).collect();
        let Some((id, label)) = launching.get(which % launching.len().max(1)).cloned() else { return };
        let place = self.really_stands_at(&id);
        if self.ledger.seeking.contains_key(&id) {
            if place.is_some() {
                self.seeks_no_more(&id);
            }
            return;
        }
        if self.truth.withdrawn.contains(&id) {
            return;
        }
        if let Some(place) = place {
            // It cannot be reached there: the attempt has failed.
            if !how.is_multiple_of(4) {
                return;
            }
            if how & 8 == 0 {
                self.change_backing(&place.backing_node, |backing| backing.failed = true);
            }
            self.truth.unread.remove(&id);
            self.change_node(&id, |node| node.driver_data = None);
        }
        let pool = PoolKey { provider: m(), pool: "main".into() };
        self.ledger.holdings_mut().seeking.insert(id, (pool, label));
    }

    /// A launch is told that there will be no place for it.
    pub fn withdraw(&mut self, node: &NodeId) {
        self.seeks_no_more(node);
        self.truth.withdrawn.insert(node.clone());
    }

    fn change_backing(&mut self, id: &NodeId, change: impl FnOnce(&mut Backing)) {
        if self.setting.records.nodes.contains_key(id) {
            self.change_node(id, |node| {
                if let Some(mut backing) = Backing::of(node) {
                    change(&mut backing);
                    node.user_data = Some(backing.user_data());
                }
            });
        }
    }

    fn some_backing(&self, which: usize) -> Option<NodeId> {
        let nodes = self.setting.records.nodes.iter().filter(|(_, entry)| {
            let node = entry.record.as_ref().unwrap();
            node.state == NodeState::InUse && Backing::of(node).is_some()
        });
        let ids: Vec<_> = nodes.map(|(id, _)| id.clone()).collect();
        ids.get(which % ids.len().max(1)).cloned()
    }

    /// Another launcher places a node of its own.
    fn place_of_others(&mut self, on: &NodeId, is_shown: bool) {
        let record = self.setting.records.nodes.get(on).and_then(|entry| entry.record.as_ref().ok());
        let slots = record.and_then(|node| Backing::of(node)).map_or(0, |backing| backing.slots);
        let taken = self.really_on(on);
        let Some(slot) = (0..slots).find(|slot| taken.iter().all(|(_, other)| other != slot)) else { return };
        let id = self.new_node(NodeState::Building, STACKED, |node| {
            node.provider = Some(m());
            node.resources = Some(Resources::new().with("instances", 1.0));
        });
        self.lock_node(&id, true);
        let place = Place { backing_node: on.clone(), slot };
        if is_shown {
            self.change_node(&id, |node| node.driver_data = Some(Box::new(data(&place))));
        } else {
            self.truth.unread.insert(id, place);
        }
        *self.truth.versions.entry(on.clone()).or_default() += 1;
    }

    /// Something happens to backing nodes, or in another launcher.
    pub fn happens_underneath(&mut self, which: usize, how: u16) {
        let backing = self.some_backing(which);
        match (how % 10, backing) {
            (0 | 1, Some(on)) if self.shown_now(&on).is_some() => self.place_of_others(&on, how & 8 != 0),
            (2, _) => {
                // The tree is walked, which brings an older state of some records.
                self.truth.walks += 1;
                let standing = self.setting.records.nodes.iter().filter_map(|(id, entry)| {
                    let node = entry.record.as_ref().ok().filter(|node| node.provider == Some(m()))?;
                    Some((id.clone(), Place::of(node)?))
                });
                let standing: Vec<_> = standing.collect();
                for (at, (node, place)) in standing.into_iter().enumerate() {
                    if how >> 3 & (1 << (at % 4)) != 0 {
                        self.change_node(&node, |node| node.driver_data = None);
                        self.truth.unread.insert(node, place);
                    }
                }
            }
            (3, _) => self.read_all(),
            (4 | 8, _) => {
                // Another launcher has taken a backing node.
                let id = self.new_node(NodeState::Ready, "small", |node| {
                    node.provider = Some(if how & 8 == 0 { "p" } else { "q" }.into());
                    node.resources = Some(cores(1.0));
                });
                self.take_backing(&id, &label());
            }
            (5, Some(on)) => {
                let launched = self.now + f64::from(how >> 4 & 63) - 50.0;
                self.change_backing(&on, |backing| match how >> 3 & 1 {
                    0 => backing.failed = true,
                    _ => backing.launched = launched,
                });
            }
            (6, Some(on)) if !self.has_locked(&on) => self.lock_node(&on, how & 8 != 0),
            _ => self.a_backing_request_ends(which, how),
        }
    }

    /// Another launcher has a node for a request of ours, or every pool has declined it.
    fn a_backing_request_ends(&mut self, which: usize, how: u16) {
        let owner = metastatic_owner(&m());
        let ours = self.setting.records.requests.iter().filter(|(id, entry)| {
            let request = entry.record.as_ref().unwrap();
            request.requestor.as_deref() == Some(&*owner)
                && !matches!(request.state, RequestState::Fulfilled | RequestState::Failed)
                && !self.ledger.requests.contains_key(*id)
                && !self.ledger.busy_requests.contains(id)
        });
        let ours: Vec<_> = ours.map(|(id, _)| id.clone()).collect();
        let Some(id) = ours.get(which % ours.len().max(1)).cloned() else { return };
        if how & 8 == 0 {
            return self.change_request(&id, |request| request.state = RequestState::Failed);
        }
        let node = self.new_node(NodeState::Ready, "small", |node| {
            node.provider = Some("o".into());
            node.allocated_to = Some(id.clone());
        });
        self.change_request(&id, |request| {
            request.state = RequestState::Fulfilled;
            request.nodes = vec![node];
        });
    }

    /// The settings of m change, or who else has it.
    pub fn provider_m_changes(&mut self, how: u16) {
        match how % 8 {
            0 => {
                let has_it = how & 8 != 0;
                self.change_label(|label| {
                    if has_it {
                        label.get_or_insert_with(self::label);
                    } else {
                        *label = None;
                    }
                });
                let labels = if has_it { vec![STACKED.into()] } else { vec![] };
                if let Some(component) = self.setting.records.pools.get_mut("m") {
                    Arc::make_mut(component).supported_labels = labels;
                    self.changes.pools = true;
                }
            }
            1..=3 => self.change_label(|label| {
                let Some(label) = label else { return };
                match how % 8 {
                    1 => label.max_parallel_jobs = [2, 1, 3, 0][usize::from(how >> 3 & 3)],
                    2 => label.max_age = (how & 8 != 0).then(|| Duration::from_secs(u64::from(how >> 4 & 63))),
                    _ => {
                        label.grace_time = Duration::from_secs(u64::from(how >> 3 & 15));
                        label.min_retention_time = Duration::from_secs(u64::from(how >> 7 & 31));
                    }
                }
            }),
            4 => {
                // Another launcher has the provider: one that began before ours, or after.
                for name in ["a-m", "z-m"] {
                    self.setting.records.pools.remove(name);
                }
                if how & 8 != 0 {
                    let mut other = PoolComponent::clone(&self.unregistered_p());
                    other.id = Some("id-other-m".into());
                    other.provider_name = Some(m());
                    other.supported_labels = if how & 16 == 0 { vec![STACKED.into()] } else { vec!["tall".into()] };
                    let name = if how & 32 == 0 { "a-m" } else { "z-m" };
                    self.setting.records.pools.insert(name.to_owned(), Arc::new(other));
                }
                self.changes.pools = true;
            }
            5 => {
                // The launcher stops, and no pool is registered; or it goes on, and they are again.
                self.setting.stopping = self.truth.unregistered.is_empty();
                let pools = &mut self.setting.records.pools;
                if self.setting.stopping {
                    self.truth.unregistered = std::mem::take(pools).into_iter().collect();
                } else {
                    pools.extend(std::mem::take(&mut self.truth.unregistered));
                }
                self.changes.pools = true;
            }
            6 => self.m_leaves_or_comes_back(),
            _ => {
                let held = self.ledger.holdings_mut();
                held.not_kept.clear();
                if how & 8 != 0 {
                    held.shown.clear();
                }
            }
        }
    }

    fn change_label(&mut self, change: impl FnOnce(&mut Option<MetastaticLabel>)) {
        let Some(provider) = self.setting.config.providers.get_mut("m") else { return };
        let provider = Arc::make_mut(provider);
        let Driver::Metastatic(config) = &mut provider.driver else { unreachable!() };
        let labels = config.pools.get_mut("main").unwrap();
        let mut label = labels.swap_remove(STACKED);
        change(&mut label);
        provider.pools[0].labels.clear();
        if let Some(label) = label {
            provider.pools[0].labels.insert(STACKED.into(), PoolLabel { name: STACKED.into(), diskimage: None });
            labels.insert(STACKED.into(), label);
        }
        self.config = Arc::new(self.setting.config.clone());
    }

    fn m_leaves_or_comes_back(&mut self) {
        if let Some((provider, pool)) = self.truth.left.take() {
            self.setting.config.providers.insert("m".into(), provider);
            let mut component = PoolComponent::clone(&self.unregistered_p());
            component.id = Some("id-m".into());
            component.provider_name = Some(m());
            component.supported_labels = vec![STACKED.into()];
            self.setting.records.pools.insert("m".to_owned(), Arc::new(component));
            self.setting.pools.push(pool);
        } else {
            let at = self.setting.pools.iter().position(|pool| pool.key.provider == "m").unwrap();
            let provider = self.setting.config.providers.shift_remove("m").unwrap();
            self.truth.left = Some((provider, self.setting.pools.remove(at)));
            self.setting.records.pools.remove("m");
            self.truth.unregistered.remove("m");
        }
        self.config = Arc::new(self.setting.config.clone());
        self.changes.pools = true;
    }

    /// The component of provider p's first pool, registered or not.
    pub fn unregistered_p(&self) -> Arc<PoolComponent> {
        let pools = &self.setting.records.pools;
        Arc::clone(pools.get("p").or_else(|| self.truth.unregistered.get("p")).unwrap())
    }

    /// Notes since when nothing stands on the backing nodes, as the book does.
    pub fn note_idle(&mut self, idle: BTreeSet<NodeId>) {
        let uptime = self.uptime;
        let since = &mut self.ledger.holdings_mut().idle_since;
        remove_where(since, |node, _| !idle.contains(node));
        for node in idle {
            since.entry(node).or_insert(uptime);
        }
    }
}

/// `driver_data` of a node that stands there.
fn data(place: &Place) -> serde_json::Value {
    json!({"backing_node": place.backing_node, "slot": place.slot})
}
