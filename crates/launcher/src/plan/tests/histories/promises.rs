//! What must hold of each plan, whatever led to it: nothing is decided twice, no limit is exceeded, the most urgent come first,
//! what is due is decided, and who waits is told why, truly.
//!
//! Like the [`Model`] these are rules in loops over everything, and share no code with the planner.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    model::{Model, sum},
    *,
};

/// What each request waits for.
type Reasons = BTreeMap<(RequestId, PoolKey), WaitingSince>;

impl Model<'_> {
    /// How a plan breaks them.
    pub fn broken_by(&self, plan: &Plan, waiting: &Reasons) -> Vec<String> {
        let mut broken = Vec::new();
        self.once(plan, &mut broken);
        self.limits(plan, &mut broken);
        self.tenants(plan, &mut broken);
        self.concurrency(plan, &mut broken);
        self.urgent_first(plan, &mut broken);
        self.supplies(plan, &mut broken);
        self.all_that_is_due(plan, &mut broken);
        self.reasons(plan, waiting, &mut broken);
        self.slots(plan, &mut broken);
        self.pauses(plan, &mut broken);
        broken
    }

    /// No request and no node is in two decisions, nor in one and in an action that runs.
    fn once(&self, plan: &Plan, broken: &mut Vec<String>) {
        let (mut requests, mut nodes) = (BTreeSet::new(), BTreeSet::new());
        for decision in self.running.iter().map(|(_, decision)| decision).chain(&plan.decisions) {
            let (request, node) = decision.subjects();
            let others = match decision {
                Decision::Supply { reuse, .. } => reuse.iter().map(|(node, _)| node).collect(),
                Decision::Fulfil { nodes, .. } => nodes.iter().collect(),
                _ => Vec::new(),
            };
            for id in node.into_iter().chain(others) {
                if !nodes.insert(id) {
                    broken.push(format!("node {id} is decided about twice, the second time by {decision:?}"));
                }
            }
            if let Some(id) = request.filter(|id| !requests.insert(*id)) {
                broken.push(format!("request {id} is decided about twice, the second time by {decision:?}"));
            }
        }
    }

    /// What is launched has room in its pool and under its provider's quota, beside all that is there and promised.
    fn limits(&self, plan: &Plan, broken: &mut Vec<String>) {
        for provider in self.world.config.providers.values() {
            let Some(state) = self.world.providers.get(&provider.name) else { continue };
            let mut of_provider = self.used_of_provider(&provider.name);
            let mut counted = Resources::new();
            for pool in &provider.pools {
                let key = PoolKey { provider: provider.name.clone(), pool: pool.name.clone() };
                let launches = launches_in(plan, &key);
                if launches.is_empty() {
                    continue;
                }
                let takes = sum(launches.iter().map(|new| self.need(&key, &new.label)));
                let mut of_pool = self.used_of_pool(&key);
                of_pool.add(&takes);
                of_provider.add(&takes);
                exceeded(&format!("limits of {key}"), &of_pool, &takes, &pool.limits, broken);
                if !pool.ignore_provider_quota {
                    counted.add(&takes);
                }
            }
            if let Some(quota) = &state.quota {
                exceeded(&format!("quota of {}", provider.name), &of_provider, &counted, &quota.ours, broken);
            }
        }
    }

    /// What a tenant is promised leaves it within its limits.
    fn tenants(&self, plan: &Plan, broken: &mut Vec<String>) {
        for (tenant, limits) in &self.world.config.tenant_limits {
            let mut takes = Resources::new();
            for (id, pool) in accepts_of(plan) {
                if let Some(request) = self.request(id).filter(|request| request.tenant_name.as_ref() == Some(tenant)) {
                    takes.add(&sum(request.node_types.iter().map(|label| self.need(pool, label))));
                }
            }
            let mut used = self.used_of_tenant(tenant);
            used.add(&takes);
            exceeded(&format!("limits of {tenant}"), &used, &takes, limits, broken);
        }
    }

    /// A request is accepted only as long as fewer launches run than may.
    fn concurrency(&self, plan: &Plan, broken: &mut Vec<String>) {
        for provider in self.world.config.providers.values() {
            let Some(most) = provider.max_concurrency else { continue };
            let accepted = accepts_of(plan).filter(|(_, pool)| pool.provider == provider.name);
            let labels: Vec<usize> = accepted.map(|(id, _)| self.request(id).unwrap().node_types.len()).collect();
            let running = self.running_launches(&provider.name) + labels.iter().sum::<usize>();
            // Whatever was accepted last: before it there was room for one.
            if labels.iter().max().is_some_and(|last| running - last >= most) {
                broken.push(format!("{} may have {most} launches, and would have {running}", provider.name));
            }
        }
    }

    /// What is paused takes on nothing, and launches nothing.
    fn pauses(&self, plan: &Plan, broken: &mut Vec<String>) {
        for decision in &plan.decisions {
            if let Decision::Accept { pool, .. } | Decision::Supply { pool, .. } = decision
                && self.world.records.paused_by(&pool.provider, &pool.pool).is_some()
            {
                broken.push(format!("{pool} is paused: {decision:?}"));
            }
        }
    }

    /// Requests are accepted in their order; and of two that ask for the same the more urgent one.
    fn urgent_first(&self, plan: &Plan, broken: &mut Vec<String>) {
        let accepted: Vec<_> = accepts_of(plan).map(|(id, _)| id).collect();
        if !accepted.is_sorted_by_key(|id| self.urgency(id)) {
            broken.push(format!("not in their order: {accepted:?}"));
        }
        let most = self.world.timing.accepts_at_once;
        if !accepted.is_empty() && accepted.len() + self.world.holdings.accepting.len() > most {
            broken.push(format!("more than {most} are being accepted"));
        }
        for id in &accepted {
            let this = self.request(id).unwrap();
            // Nodes of several labels are to be in one zone, which is another one for each request.
            for earlier in
                self.waiting().iter().take_while(|other| *other != *id).filter(|_| this.node_types.len() == 1)
            {
                let other = self.request(earlier).unwrap();
                let is_like = other.node_types == this.node_types
                    && (&other.tenant_name, &other.provider) == (&this.tenant_name, &this.provider)
                    && (&other.declined_by, other.reuse) == (&this.declined_by, this.reuse)
                    && other.requestor == this.requestor;
                let is_by_age = self
                    .world
                    .providers
                    .values()
                    .any(|state| state.cloud_images.values().any(|image| *image != CloudImage::There));
                let is_decided = plan.decisions.iter().any(|decision| decision.subjects().0 == Some(earlier));
                if is_like && !is_by_age && !is_decided && !self.is_left_alone(earlier) {
                    broken.push(format!("{id} is accepted, and {earlier} is not, which asks for the same before it"));
                }
            }
        }
    }

    /// Whether a request is left alone for a while, as its last handling failed.
    fn is_left_alone(&self, id: &RequestId) -> bool {
        self.world.holdings.requests_after.get(id).is_some_and(|at| *at > self.world.uptime)
    }

    /// Accepted requests get what they lack, of what is there; they are handed over once they have it all, and let go once they are
    /// withdrawn or a launch has failed.
    fn supplies(&self, plan: &Plan, broken: &mut Vec<String>) {
        let (world, held) = (self.world, self.world.holdings);
        for (id, of) in held.requests.iter().filter(|(id, _)| !held.busy_requests.contains(id)) {
            let its: Vec<_> = held.nodes.iter().filter(|(_, node)| node.request == *id).collect();
            let ready = |node: &NodeId| {
                let record = world.records.nodes.get(node).and_then(|entry| entry.record.as_ref().ok());
                record.is_some_and(|node| node.state == NodeState::Ready)
            };
            let decision = plan.decisions.iter().find(|decision| decision.subjects().0 == Some(id));
            let Some(request) = self.request(id).filter(|request| request.state == RequestState::Pending) else {
                if !matches!(decision, Some(Decision::Forget { .. })) {
                    broken.push(format!("{id} was withdrawn, and is kept"));
                }
                continue;
            };
            let mut lacks = request.node_types.clone();
            for (_, node) in its.iter().filter(|(id, node)| node.launching || ready(id)) {
                if let Some(at) = lacks.iter().position(|label| *label == node.label) {
                    lacks.remove(at);
                }
            }
            let is_done = lacks.is_empty() && its.iter().all(|(id, node)| !node.launching && ready(id));
            let is_busy = its.iter().any(|(node, _)| held.busy_nodes.contains(node));
            if its.iter().any(|(_, node)| node.failure.is_some()) {
                if !matches!(decision, Some(Decision::GiveUp { .. })) {
                    broken.push(format!("a launch for {id} has failed, and it goes on"));
                }
                continue;
            }
            match decision {
                Some(Decision::Supply { pool, reuse, launch, .. }) => {
                    let labels = reuse.iter().map(|(_, label)| label).chain(launch.iter().map(|new| &new.label));
                    for label in labels {
                        match lacks.iter().position(|lacked| lacked == label) {
                            Some(at) => drop(lacks.remove(at)),
                            None => broken.push(format!("{id} gets a {label} that it does not lack")),
                        }
                    }
                    let idle = |(node, label): &(NodeId, LabelName)| self.idle(pool, Some(label)).contains(node);
                    if *pool != of.pool || !reuse.iter().all(idle) || (!reuse.is_empty() && !request.reuse) {
                        broken.push(format!("{id} gets nodes that are not there for it: {reuse:?}"));
                    }
                }
                Some(Decision::Fulfil { nodes, .. }) => {
                    let is_whole = is_done && nodes.len() == request.node_types.len();
                    if !is_whole {
                        broken.push(format!("{id} is handed over with {nodes:?}, and lacks {lacks:?}"));
                    }
                }
                _ if is_done && !is_busy => broken.push(format!("{id} has all its nodes, and is not handed over")),
                _ => {}
            }
        }
    }

    /// Nodes that nobody has go when it is time, and not before; requests that were lost or are done likewise.
    fn all_that_is_due(&self, plan: &Plan, broken: &mut Vec<String>) {
        let mut given = BTreeSet::new();
        let (mut decided, mut due) = (BTreeSet::new(), BTreeSet::new());
        for decision in &plan.decisions {
            let name = || kind(decision);
            match decision {
                Decision::Supply { reuse, .. } => given.extend(reuse.iter().map(|(node, _)| node.to_string())),
                Decision::Retire {
                    node,
                    reason: Reason::RoomNeeded | Reason::HostRemoved | Reason::TooManyOnHost { .. },
                } => {
                    given.insert(node.to_string());
                }
                Decision::Retire { node, .. }
                | Decision::Delete { node }
                | Decision::Deallocate { node, .. }
                | Decision::RemoveRecord { node } => {
                    decided.insert((node.to_string(), name()));
                }
                Decision::ResetLost { request }
                | Decision::RemoveRequestLock { request }
                | Decision::FinishMinReady { request } => {
                    decided.insert((request.to_string(), name()));
                }
                Decision::CreateMinReady { label, count } => {
                    decided.insert((format!("{count} of {label}"), name()));
                }
                _ => {}
            }
        }
        let nodes =
            self.nodes().filter_map(|(id, entry, node)| Some((id.to_string(), self.due_node(id, entry, node)?)));
        if !self.world.stopping {
            due.extend(nodes.filter(|(id, _)| !given.contains(id)).map(|(id, name)| (id, name.to_owned())));
            due.extend(self.due_stock());
        }
        due.extend(self.due_requests());
        for (what, name) in due.symmetric_difference(&decided) {
            let is_due = due.contains(&(what.clone(), name.clone()));
            broken.push(format!("{name} of {what} {}", if is_due { "is due" } else { "is decided, and is not due" }));
        }
    }

    fn due_node(&self, id: &NodeId, entry: &Entry<Node>, node: &Node) -> Option<&'static str> {
        let (world, now) = (self.world, self.world.now);
        let is_left_alone = world.holdings.nodes_after.get(id).is_some_and(|at| *at > world.uptime);
        let provider = node.provider.as_ref()?;
        if !self.is_nobodys(id) || is_left_alone || !world.config.providers.contains_key(provider) {
            return None;
        }
        let age = now - entry.since(now)?;
        let free_for = now - entry.free_since.unwrap_or(now);
        let state = world.providers.get(provider);
        match node.state {
            NodeState::Ready => {
                if let Some(request) = &node.allocated_to {
                    let is_due = self.request(request).is_none_or(|request| {
                        request.state != RequestState::Fulfilled && free_for >= world.timing.orphan_node
                    });
                    return is_due.then_some("Deallocate");
                }
                let limits = node.labels.iter().filter_map(|label| world.config.labels.get(label)?.max_ready_age);
                let is_gone = state.is_some_and(|state| state.gone.contains_key(id));
                (is_gone || limits.min().is_some_and(|most| age >= most.as_secs_f64())).then_some("Retire")
            }
            NodeState::Init => (free_for >= world.timing.orphan_node).then_some("Retire"),
            NodeState::Deleted => (age >= world.timing.empty_node).then_some("Delete"),
            NodeState::Aborted if node.external_id.is_none() => (age >= world.timing.aborted_node).then_some("Delete"),
            // The settings of these histories keep them for ever.
            NodeState::Hold | NodeState::Testing => None,
            _ => state.is_some().then_some("Delete"),
        }
    }

    fn due_requests(&self) -> Vec<(String, String)> {
        let (world, held) = (self.world, self.world.holdings);
        let is_free = |id: &RequestId| {
            held.requests.get(id).is_none() && !held.busy_requests.contains(id) && !self.is_left_alone(id)
        };
        let mut due = Vec::new();
        for (id, entry) in world.records.requests.iter().filter(|(id, _)| is_free(id)) {
            let Ok(request) = &entry.record else { continue };
            let free_for = world.now - entry.free_since.unwrap_or(world.now);
            let is_lost = request.state == RequestState::Pending && entry.contenders.is_empty();
            if is_lost && free_for >= world.timing.lost_request && !world.stopping {
                due.push((id.to_string(), "ResetLost".to_owned()));
            }
            let is_own = request.requestor.as_deref() == Some(MIN_READY_REQUESTOR)
                && entry.stat.ephemeral_owner == world.session;
            if is_own && matches!(request.state, RequestState::Fulfilled | RequestState::Failed) {
                due.push((id.to_string(), "FinishMinReady".to_owned()));
            }
        }
        for (id, lock) in world.records.request_locks.iter().filter(|(id, _)| is_free(id) && !world.stopping) {
            // In these histories they are as old as the clock.
            if lock.contenders.is_empty() && self.request(id).is_none() {
                due.push((id.to_string(), "RemoveRequestLock".to_owned()));
            }
        }
        due
    }

    /// What is to be in stock is asked for where a cloud of ours can make it.
    fn due_stock(&self) -> Vec<(String, String)> {
        let world = self.world;
        let mut due = Vec::new();
        for label in world.config.labels.values() {
            let is_later = world.holdings.min_ready_after.get(&label.name).is_some_and(|at| *at > world.uptime);
            if world.holdings.busy_labels.contains(&label.name) || is_later {
                continue;
            }
            let is_gone = |node: &Node| {
                let state = node.provider.as_ref().and_then(|provider| world.providers.get(provider));
                state.is_some_and(|state| state.gone.contains_key(&node.id))
            };
            let in_stock = self.nodes().filter(|(_, _, node)| {
                let is_free = node.state == NodeState::Ready && node.allocated_to.is_none();
                is_free && node.labels.contains(&label.name) && !is_gone(node)
            });
            let asked = world.records.requests.values().filter(|entry| {
                let Ok(request) = &entry.record else { return false };
                let is_for_stock = request.requestor.as_deref() == Some(MIN_READY_REQUESTOR);
                // One of ours that has failed is finished first.
                let is_open = request.state != RequestState::Failed || entry.stat.ephemeral_owner == world.session;
                is_for_stock && is_open && request.node_types.contains(&label.name)
            });
            let lacks = label.min_ready.saturating_sub(in_stock.count() + asked.count());
            let can_be_made = world.pools.iter().any(|state| {
                let Some((_, pool)) = world.pool_config(&state.key) else { return false };
                let Some(of_pool) = pool.labels.get(&label.name).filter(|_| pool.hosts.is_none()) else { return false };
                if world.records.paused_by(&state.key.provider, &state.key.pool).is_some() {
                    return false;
                }
                match &of_pool.diskimage {
                    Some(image) => world.records.newest_upload(image, &state.key.provider).is_some(),
                    None => world.providers.get(&state.key.provider).is_some_and(|cloud| {
                        let image = cloud.cloud_images.get(&(state.key.pool.clone(), label.name.clone()));
                        image == Some(&CloudImage::There)
                    }),
                }
            });
            if lacks > 0 && can_be_made {
                due.push((format!("{lacks} of {}", label.name), "CreateMinReady".to_owned()));
            }
        }
        due
    }

    /// Each pool that leaves a request waiting says why, and it is so.
    fn reasons(&self, plan: &Plan, waiting: &Reasons, broken: &mut Vec<String>) {
        let world = self.world;
        if world.stopping {
            return;
        }
        let accepted: BTreeSet<_> = accepts_of(plan).map(|(id, _)| id).collect();
        let declined = |id: &RequestId, pool: &PoolKey| {
            plan.decisions.iter().any(|decision| match decision {
                Decision::Decline { request, pools } => request == id && pools.iter().any(|(by, _)| by == pool),
                _ => false,
            })
        };
        for id in self.waiting().iter().filter(|id| !accepted.contains(id) && !self.is_left_alone(id)) {
            let has_its_turn =
                waiting.iter().any(|((of, _), why)| of == id && why.waiting.reason == Reason::TurnToCome);
            let request = self.request(id).unwrap();
            for state in world.pools.iter().filter(|state| !request.declined_by.contains(&state.launcher_id)) {
                let Some((provider, _)) = world.pool_config(&state.key) else { continue };
                let is_seen = world.records.registered_pool_ids().any(|id| *id == state.launcher_id);
                if is_seen
                    && provider.max_concurrency != Some(0)
                    && !has_its_turn
                    && !declined(id, &state.key)
                    && !waiting.contains_key(&(id.clone(), state.key.clone()))
                {
                    broken.push(format!("{id} waits in {} without a reason", state.key));
                }
            }
        }
        for ((id, pool), why) in waiting {
            if !self.is_so(plan, id, pool, &why.waiting.reason) {
                broken.push(format!("{id} waits in {pool} for what is not so: {:?}", why.waiting.reason));
            }
        }
    }

    fn is_so(&self, plan: &Plan, id: &RequestId, pool: &PoolKey, reason: &Reason) -> bool {
        let (world, held) = (self.world, self.world.holdings);
        let Some(request) = self.request(id) else { return false };
        let is_accepted = held.requests.get(id).is_some();
        let others_of = |provider: &nodepool_common::model::ProviderName| {
            let accepted = held.requests.iter().map(|(id, of)| (id, &of.pool)).chain(&held.accepting);
            accepted.chain(accepts_of(plan)).any(|(other, of)| other != id && of.provider == *provider)
                || waiting_for_turn(plan, provider)
        };
        match reason {
            Reason::Unknown { want, .. } => plan.wants.contains(want),
            Reason::MaxConcurrency { running, most } => {
                let config = world.config.providers.get(&pool.provider);
                config.is_some_and(|config| config.max_concurrency == Some(*most)) && running >= most
            }
            Reason::TurnToCome => accepts_of(plan).count() + held.accepting.len() >= world.timing.accepts_at_once,
            Reason::BehindOthers { .. } => others_of(&pool.provider),
            Reason::QuotaRefused { until } => {
                is_accepted && world.providers[&pool.provider].launch_after == Some(*until) && *until > world.now
            }
            Reason::TenantFull { tenant, .. } => {
                let mut used = self.used_of_tenant(tenant);
                for (other, by) in accepts_of(plan) {
                    if let Some(other) = self.request(other).filter(|other| other.tenant_name.as_ref() == Some(tenant))
                    {
                        used.add(&sum(other.node_types.iter().map(|label| self.need(by, label))));
                    }
                }
                used.add(&sum(request.node_types.iter().map(|label| self.need(pool, label))));
                let limits = &world.config.tenant_limits[tenant];
                limits.iter().any(|(name, most)| used.amount(name) > most) || waiting_for_turn(plan, &pool.provider)
            }
            Reason::NoRoom { label, excess } => {
                let is_of_pool = excess.bound == Bound::PoolRest;
                let (mut used, limits) = if is_of_pool {
                    (self.used_of_pool(pool), world.pool_config(pool).map(|(_, pool)| pool.limits.clone()))
                } else {
                    let quota = world.providers[&pool.provider].quota.as_ref();
                    (self.used_of_provider(&pool.provider), quota.map(|quota| quota.ours.clone()))
                };
                for other in world.pools.iter().map(|state| &state.key).filter(|other| other.provider == pool.provider)
                {
                    if !is_of_pool || other == pool {
                        let launches = launches_in(plan, other);
                        used.add(&sum(launches.iter().map(|new| self.need(other, &new.label))));
                    }
                }
                used.add(&self.need(pool, label));
                let limits = limits.unwrap_or_default();
                is_accepted
                    && excess.short.iter().all(|short| used.amount(&short.resource) > limits.limit(&short.resource))
            }
            Reason::LeftToProvider { provider } => {
                let others = world.records.pools.values();
                request.provider.as_ref() == Some(provider)
                    && others.filter_map(|other| other.provider_name.as_ref()).any(|name| name == provider)
            }
            Reason::LeftToPriority { pool } => {
                world.records.pools.values().any(|other| other.id.as_ref() == Some(pool) && !other.paused)
            }
            Reason::Paused(by) => world.records.paused_by(&pool.provider, &pool.pool).as_ref() == Some(by),
            Reason::NobodyHasLabels { until } => *until > world.now,
            Reason::NoneFree { label } => !request.reuse || request.node_types.contains(label),
            _ => true,
        }
    }
}

/// What is launched in a pool.
fn launches_in<'a>(plan: &'a Plan, key: &PoolKey) -> Vec<&'a NewNode> {
    let launches = plan.decisions.iter().filter_map(|decision| match decision {
        Decision::Supply { pool, launch, .. } if pool == key => Some(launch),
        _ => None,
    });
    launches.flatten().collect()
}

fn accepts_of(plan: &Plan) -> impl Iterator<Item = (&RequestId, &PoolKey)> {
    plan.decisions.iter().filter_map(|decision| match decision {
        Decision::Accept { pool, request } => Some((request, pool)),
        _ => None,
    })
}

/// Whether a pool of a provider has chosen a request whose turn comes later: it keeps its room for the rest of the pass.
fn waiting_for_turn(plan: &Plan, provider: &nodepool_common::model::ProviderName) -> bool {
    plan.waiting.iter().any(|((_, pool), why)| pool.provider == *provider && why.reason == Reason::TurnToCome)
}

/// Notes which limits are exceeded by those who take something of them.
fn exceeded(what: &str, used: &Resources, takes: &Resources, limits: &Resources, broken: &mut Vec<String>) {
    for (name, most) in limits.iter().filter(|(name, most)| takes.amount(name) > 0.0 && used.amount(name) > most + 1e-6)
    {
        broken.push(format!("{what}: {} {name} of {most}", used.amount(name)));
    }
}

/// The name of a kind of decisions.
pub fn kind(decision: &Decision) -> String {
    let text = format!("{decision:?}");
    text.split(' ').next().unwrap().to_owned()
}
