//! Which node gets which slot of which backing node, and which backing nodes are asked for, taken and given back: recounted from all
//! records and all actions that run.
//!
//! Like the [`Model`] and its promises these are rules in loops over everything, and share no code with the planner.

use std::collections::{BTreeMap, BTreeSet};

use nodepool_common::{config::MetastaticLabel, model::Json};
use serde_json::Value;

use super::{backing::STACKED, model::Model, *};

const OWNER: &str = "NodePool:metastatic:m";

/// A backing node of provider m, by its record.
struct Under {
    id: NodeId,
    label: LabelName,
    failed: bool,
    launched: f64,
    slots: usize,
    /// Slots in which somebody stands, or is about to.
    taken: BTreeSet<usize>,
}

impl Under {
    fn free(&self) -> Vec<usize> {
        (0..self.slots).filter(|slot| !self.taken.contains(slot)).collect()
    }
}

/// What a node's record says of where it stands.
fn place(node: &Node) -> Option<(NodeId, usize)> {
    let data = node.driver_data.as_ref()?.as_object()?;
    Some((data["backing_node"].as_str()?.into(), usize::try_from(data["slot"].as_u64()?).ok()?))
}

/// What a plan may come to for provider m.
#[derive(Default)]
struct Right {
    placed: Vec<(NodeId, NodeId, usize)>,
    ended: BTreeSet<NodeId>,
    ordered: usize,
    let_go: BTreeSet<NodeId>,
    idle: BTreeSet<NodeId>,
}

impl Model<'_> {
    /// The slots that are taken by nodes of m on record.
    fn slots_on_record(&self) -> BTreeSet<(NodeId, usize)> {
        let of_m = self.nodes().filter(|(_, _, node)| node.provider.as_ref().is_some_and(|name| name == "m"));
        of_m.filter_map(|(_, _, node)| place(node)).collect()
    }

    /// Launches that are being placed, by what runs.
    fn placing(&self) -> BTreeMap<NodeId, (NodeId, usize)> {
        let mut placing = BTreeMap::new();
        for (_, decision) in self.running {
            if let Decision::Place { on, slots, .. } = decision {
                placing.extend(slots.iter().map(|(node, slot)| (node.clone(), (on.clone(), *slot))));
            }
        }
        placing
    }

    /// How what is kept of slots differs from this.
    pub fn slots_kept(&self, index: &crate::plan::index::Index, differences: &mut Vec<String>) {
        let on_record = self.slots_on_record();
        let nodes: BTreeSet<_> = self.world.records.nodes.keys().chain(on_record.iter().map(|(on, _)| on)).collect();
        for id in nodes {
            let was: Vec<_> = index.nodes.slots_taken(&"m".into(), id).collect();
            let right: Vec<_> = on_record.iter().filter(|(on, _)| on == id).map(|(_, slot)| *slot).collect();
            if was != right {
                differences.push(format!("slots taken of {id}: {was:?}, and should be {right:?}"));
            }
        }
        let launched = self.nodes().filter(|(id, entry, node)| {
            node.provider.as_ref().is_some_and(|name| name == "m")
                && matches!(node.state, NodeState::Init | NodeState::Building)
                && !entry.contenders.is_empty()
                && self.world.holdings.nodes.get(*id).is_none()
        });
        let right: Vec<_> = launched.map(|(id, ..)| id.clone()).collect();
        let was: Vec<_> = index.nodes.launched_by_others(&"m".into()).cloned().collect();
        if was != right {
            differences.push(format!("launched by others: {was:?}, and should be {right:?}"));
        }
        let kept: BTreeMap<_, _> = self
            .world
            .holdings
            .placing
            .iter()
            .map(|(node, place)| (node.clone(), (place.backing_node.clone(), place.slot)))
            .collect();
        if kept != self.placing() {
            differences.push(format!("being placed: {kept:?}, and should be {:?}", self.placing()));
        }
    }

    /// The backing nodes of m, oldest first.
    fn unders(&self) -> Vec<Under> {
        let world = self.world;
        let (on_record, placing) = (self.slots_on_record(), self.placing());
        let mut unders = Vec::new();
        for (id, entry, node) in self.nodes() {
            let Some(Value::String(text)) = node.user_data.as_ref().map(Json::view) else { continue };
            let Ok(data) = serde_json::from_str::<Value>(&text) else { continue };
            let is_left_out = world.holdings.not_kept.get(id).is_some_and(|until| *until > world.uptime);
            if data["owner"] != OWNER || node.state != NodeState::InUse || entry.contenders.is_empty() || is_left_out {
                continue;
            }
            let taken = on_record.iter().filter(|(on, _)| on == id).map(|(_, slot)| *slot);
            let given = placing.values().filter(|(on, _)| on == id).map(|(_, slot)| *slot);
            unders.push(Under {
                id: id.clone(),
                label: data["label"].as_str().unwrap().into(),
                failed: data["failed"] == true,
                launched: entry.stat.no_later(data["launched"].as_f64().unwrap(), world.now),
                slots: usize::try_from(data["slots"].as_u64().unwrap()).unwrap(),
                taken: taken.chain(given).collect(),
            });
        }
        unders
    }

    /// The label, as it is configured.
    fn stacked(&self) -> Option<&MetastaticLabel> {
        let provider = self.world.config.providers.get("m")?;
        let Driver::Metastatic(config) = &provider.driver else { return None };
        config.pools.get("main")?.get(STACKED)
    }

    /// Those who wait for a place and have none, the first one first.
    fn seekers(&self) -> Vec<NodeId> {
        let (held, placing) = (self.world.holdings, self.placing());
        let stands = |id: &NodeId| self.nodes().any(|(other, _, node)| other == id && place(node).is_some());
        let mut seekers: Vec<_> =
            held.seeking.keys().filter(|id| !placing.contains_key(*id) && !stands(id)).cloned().collect();
        seekers.sort_by_key(|id| (held.nodes.get(id).map(|held| self.urgency(&held.request)), id.clone()));
        seekers
    }

    fn is_too_old(&self, under: &Under) -> bool {
        let most = self.stacked().and_then(|label| label.max_age);
        most.is_some_and(|most| self.world.now - under.launched > most.as_secs_f64())
    }

    fn is_open(&self, under: &Under) -> bool {
        self.stacked().is_some() && under.label == STACKED && !under.failed && !self.is_too_old(under)
    }

    fn is_put_off(&self, node: &NodeId) -> bool {
        self.world.holdings.nodes_after.get(node).is_some_and(|at| *at > self.world.uptime)
    }

    /// Our requests for backing nodes: all of them, and those that are served or may be.
    fn open_orders(&self) -> (usize, usize) {
        let world = self.world;
        let (mut open, mut served) = (0, 0);
        for entry in world.records.requests.values() {
            let Ok(request) = &entry.record else { continue };
            let is_ours = world.session != 0 && entry.stat.ephemeral_owner == world.session;
            if request.requestor.as_deref() != Some(OWNER) || !is_ours {
                continue;
            }
            open += 1;
            let may_serve = world.records.pools.values().any(|pool| {
                let has_declined = pool.id.as_ref().is_none_or(|id| request.declined_by.contains(id));
                !has_declined && request.node_types.iter().all(|label| pool.supported_labels.contains(label))
            });
            let is_done = matches!(request.state, RequestState::Fulfilled | RequestState::Failed);
            if is_done || !entry.contenders.is_empty() || may_serve {
                served += 1;
            }
        }
        (open, served)
    }

    /// What is right.
    fn right(&self) -> Right {
        let (world, held) = (self.world, self.world.holdings);
        let mut right = Right::default();
        let mut unders = self.unders();
        let seekers = self.seekers();
        let is_known = world.providers.contains_key("m");
        let Some(label) = self.stacked() else {
            right.ended.extend(seekers);
            self.to_be_let_go(&unders, false, &mut right);
            return right;
        };
        let starting = held.starting.iter().filter(|(_, pool, _)| pool.provider == "m").count();
        let does_any_wait = !seekers.is_empty() || starting > 0;
        // Who came first gets the free slots of the oldest one; where an action works on that, he waits for its end.
        let mut left: Vec<NodeId> = seekers;
        let mut waiting = Vec::new();
        for under in &mut unders {
            if !self.is_open(under) || self.is_put_off(&under.id) {
                continue;
            }
            let free = under.free();
            let rest = left.split_off(free.len().min(left.len()));
            let first = std::mem::replace(&mut left, rest);
            if held.busy_nodes.contains(&under.id) {
                waiting.extend(first);
                continue;
            }
            for (node, slot) in first.into_iter().zip(free) {
                under.taken.insert(slot);
                right.placed.push((node, under.id.clone(), slot));
            }
        }
        waiting.extend(left);
        let room: usize = unders.iter().filter(|under| self.is_open(under)).map(|under| under.free().len()).sum();
        let jobs = label.max_parallel_jobs;
        let lacking = |orders: usize| (waiting.len() + starting).saturating_sub(room + orders * jobs);
        let (open, served) = self.open_orders();
        let is_ordering = held.busy_backing.contains(&("m".into(), STACKED.into()));
        let is_backed = world.records.pools.values().any(|pool| pool.supported_labels.contains(&label.backing_label));
        if !is_known || jobs == 0 || is_ordering || !does_any_wait {
        } else if world.stopping && !is_backed {
            right.ended.extend(waiting.iter().rev().take(lacking(served)).cloned());
        } else if held.backing_after.get(&("m".into(), STACKED.into())).is_none_or(|at| *at <= world.uptime) {
            right.ordered = lacking(open).div_ceil(jobs);
        }
        self.to_be_let_go(&unders, does_any_wait, &mut right);
        right
    }

    /// Backing nodes on which nothing stands, and those of them that are to go.
    fn to_be_let_go(&self, unders: &[Under], does_any_wait: bool, right: &mut Right) {
        let (world, held) = (self.world, self.world.holdings);
        let with_m =
            world.records.pools.iter().filter(|(_, pool)| pool.provider_name.as_ref().is_some_and(|p| p == "m"));
        let with_m: Vec<_> = with_m.collect();
        let is_configured = world.config.providers.contains_key("m");
        for under in unders.iter().filter(|under| under.taken.is_empty()) {
            let node = self.world.records.nodes[&under.id].record.as_ref().unwrap();
            let is_deleted_by_us =
                node.provider.as_ref().is_some_and(|provider| world.config.providers.contains_key(provider));
            if !is_configured && (!with_m.is_empty() || !is_deleted_by_us) {
                continue;
            }
            right.idle.insert(under.id.clone());
            let has_label = with_m
                .iter()
                .filter(|(_, pool)| pool.supported_labels.contains(&under.label))
                .max_by_key(|(name, _)| *name);
            let keeper = has_label.or_else(|| with_m.iter().max_by_key(|(name, _)| *name));
            let is_ours = keeper
                .is_none_or(|(_, pool)| world.pools.iter().any(|ours| Some(&ours.launcher_id) == pool.id.as_ref()));
            let is_kept_for_somebody = does_any_wait && self.is_open(under);
            let is_known = !is_configured || world.providers.contains_key("m");
            if world.stopping || !is_ours || !is_known || is_kept_for_somebody {
                continue;
            }
            // As the planner reckons it, to the last digit.
            let idle_since = held.idle_since.get(&under.id).map_or(world.now, |since| world.wall(*since));
            let is_due = match self.stacked() {
                _ if !is_configured => idle_since + world.timing.unowned_backing <= world.now,
                None => true,
                Some(label) => {
                    let is_retained = world.now < under.launched + label.min_retention_time.as_secs_f64();
                    let is_in_grace = world.now < idle_since + label.grace_time.as_secs_f64();
                    under.failed || self.is_too_old(under) || (!is_retained && !is_in_grace)
                }
            };
            if is_due && !self.is_put_off(&under.id) && !held.busy_nodes.contains(&under.id) {
                right.let_go.insert(under.id.clone());
            }
        }
    }

    /// Requests for backing nodes that are to be settled: those that are done, and those whose label has gone, unless something else is
    /// done about them.
    fn to_be_settled(&self, plan: &Plan) -> BTreeSet<RequestId> {
        let (world, held) = (self.world, self.world.holdings);
        let is_served = |id: &RequestId| {
            plan.decisions.iter().any(|decision| {
                !matches!(decision, Decision::SettleBacking { .. }) && decision.subjects().0 == Some(id)
            })
        };
        let ours = world.records.requests.iter().filter(|(id, entry)| {
            let Ok(request) = &entry.record else { return false };
            let is_done = matches!(request.state, RequestState::Fulfilled | RequestState::Failed);
            let is_handed_over = held.requests.get(*id).is_none();
            request.requestor.as_deref() == Some(OWNER)
                && world.session != 0
                && entry.stat.ephemeral_owner == world.session
                && ((is_done && is_handed_over) || (self.stacked().is_none() && !is_served(id)))
                && !held.busy_requests.contains(id)
                && held.requests_after.get(*id).is_none_or(|at| *at <= world.uptime)
        });
        ours.map(|(id, _)| id.clone()).collect()
    }

    /// No slot is given twice and nobody is passed over; no place is denied where one comes; backing nodes are asked for by the slots
    /// that are lacking, and go where nothing stands or is being placed, when it is time.
    pub fn slots(&self, plan: &Plan, broken: &mut Vec<String>) {
        let right = self.right();
        let mut was = Right::default();
        let mut settled = BTreeSet::new();
        let mut given: BTreeSet<(NodeId, usize)> = self.slots_on_record();
        given.extend(self.placing().into_values());
        for decision in &plan.decisions {
            match decision {
                Decision::Place { on, slots, .. } => {
                    for (node, slot) in slots {
                        was.placed.push((node.clone(), on.clone(), *slot));
                        if !given.insert((on.clone(), *slot)) {
                            broken.push(format!("slot {slot} of {on} is given twice"));
                        }
                    }
                }
                Decision::StopSeeking { node, .. } => {
                    was.ended.insert(node.clone());
                }
                Decision::OrderBacking { count, .. } => was.ordered += count,
                Decision::LetBackingGo { node, .. } => {
                    was.let_go.insert(node.clone());
                }
                Decision::SettleBacking { request, .. } => {
                    settled.insert(request.clone());
                }
                _ => {}
            }
        }
        was.idle.clone_from(&plan.idle_backing);
        differ("places", &was.placed, &right.placed, broken);
        differ("launches that are ended", &was.ended, &right.ended, broken);
        differ("backing nodes that are asked for", &was.ordered, &right.ordered, broken);
        differ("backing nodes that are given back", &was.let_go, &right.let_go, broken);
        differ("backing nodes on which nothing stands", &was.idle, &right.idle, broken);
        differ("requests for backing nodes that are settled", &settled, &self.to_be_settled(plan), broken);
    }
}

fn differ<T: PartialEq + std::fmt::Debug>(what: &str, was: &T, right: &T, broken: &mut Vec<String>) {
    if was != right {
        broken.push(format!("{what}: {was:?}, and should be {right:?}"));
    }
}
