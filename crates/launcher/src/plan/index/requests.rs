//! What follows from each request's record, from its lock, and from whether it is ours.
//!
//! Requests that wait are kept in classes: those of a class differ in their id, their relative priority and their age only. Most verdicts hold for the
//! whole class: where one has to wait for room, all behind it have to, so a pool looks at the first of each class only, until it
//! has accepted that. Where id or age matters (the zone of several nodes, an image that was missing before the request was made)
//! each request is looked at.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use nodepool_common::model::{
    LabelName, LauncherId, NodeRequest, ProviderName, RequestId, RequestState, TenantName, Timestamp,
    metastatic_provider,
};

use crate::plan::World;

/// What a pool looks at when it judges a request, but for its number and its age.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Shape {
    /// Its labels.
    pub labels: Vec<LabelName>,
    /// Whose limits count.
    pub tenant: Option<TenantName>,
    /// The provider that it prefers.
    pub provider: Option<ProviderName>,
    /// Who has declined it.
    pub declined_by: Vec<LauncherId>,
    /// Whether it may be given nodes in stock.
    pub reuse: bool,
    /// Whether it asks for nodes to keep in stock.
    pub is_min_ready: bool,
}

impl Shape {
    /// That of a request.
    pub fn of(request: &NodeRequest) -> Self {
        Self {
            labels: request.node_types.clone(),
            tenant: request.tenant_name.clone(),
            provider: request.provider.clone(),
            declined_by: request.declined_by.clone(),
            reuse: request.reuse,
            is_min_ready: request.is_min_ready(),
        }
    }
}

/// The place of a request in the order: priority as text, relative priority, sequence as text (`nodepool 11.0.0:
/// zk/zookeeper.py`, `NodeRequest.priority`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rank {
    relative: i64,
    /// Which.
    pub id: RequestId,
}

impl Rank {
    /// That of a request.
    pub fn of(request: &NodeRequest) -> Self {
        Self { relative: request.relative_priority, id: request.id.clone() }
    }
}

impl Ord for Rank {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.id.priority(), self.relative, self.id.sequence(), &self.id).cmp(&(
            other.id.priority(),
            other.relative,
            other.id.sequence(),
            &other.id,
        ))
    }
}

impl PartialOrd for Rank {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

/// Names a class, as long as it has requests.
pub type ClassId = u64;

/// Requests of one shape.
#[derive(Debug)]
pub struct Class {
    /// What they have in common.
    pub shape: Shape,
    /// They, in their order.
    pub requests: BTreeSet<Rank>,
}

/// All requests, by what is asked of them.
#[derive(Debug, Default)]
pub struct Requests {
    facts: HashMap<RequestId, Facts>,
    by_shape: BTreeMap<Shape, ClassId>,
    /// What classes were called before everything was looked at again.
    known: BTreeMap<Shape, ClassId>,
    next: ClassId,
    /// Those that wait, and that nobody has locked.
    pub classes: BTreeMap<ClassId, Class>,
    /// See [`Self::take_renewed`].
    renewed: BTreeSet<ClassId>,
    /// See [`Self::take_left`].
    left: Vec<Place>,
    /// Where requests were before everything was looked at again: those that were not looked at yet.
    before: BTreeMap<RequestId, Place>,
    /// Pending ones that nobody has locked.
    pub lost: BTreeSet<RequestId>,
    /// Those that a launcher has made, for nodes in stock or to stand on.
    pub of_launchers: BTreeSet<RequestId>,
    /// Lock directories that nobody is in and whose request is gone, by their creation (ms since the epoch).
    pub litter: BTreeSet<(i64, RequestId)>,
}

/// Where a request is that waits.
#[derive(Clone, Debug)]
pub struct Place {
    /// Its class.
    pub class: ClassId,
    /// Its place there.
    pub rank: Rank,
    /// Since when.
    pub since: Timestamp,
}

impl Place {
    fn is_at(&self, other: &Self) -> bool {
        self.class == other.class && self.rank == other.rank
    }
}

#[derive(Debug, Default)]
struct Facts {
    place: Option<Place>,
    litter: Option<i64>,
}

impl Requests {
    /// Nothing, but classes of shapes that there are now will have the same names, and others names that none had before.
    pub fn emptied(&mut self) -> Self {
        let facts = std::mem::take(&mut self.facts).into_iter();
        let mut before: BTreeMap<_, _> = facts.filter_map(|(id, facts)| Some((id, facts.place?))).collect();
        before.extend(std::mem::take(&mut self.before));
        Self {
            next: self.next,
            known: std::mem::take(&mut self.by_shape),
            left: std::mem::take(&mut self.left),
            before,
            ..Self::default()
        }
    }

    /// Everything was looked at: what is not there again is gone.
    pub fn forget_known(&mut self) {
        self.known.clear();
        self.left.extend(std::mem::take(&mut self.before).into_values());
    }

    /// Looks at a request again.
    pub fn refresh(&mut self, world: &World<'_>, id: &RequestId) {
        let old = self.facts.remove(id).unwrap_or_default();
        self.lost.remove(id);
        self.of_launchers.remove(id);
        if let Some(ctime) = old.litter {
            self.litter.remove(&(ctime, id.clone()));
        }
        let mut facts = Facts::default();
        let entry = world.records.requests.get(id);
        if entry.is_none()
            && let Some(lock) = world.records.request_locks.get(id).filter(|lock| lock.contenders.is_empty())
        {
            self.litter.insert((lock.ctime, id.clone()));
            facts.litter = Some(lock.ctime);
        }
        let request = entry.and_then(|entry| Some((entry.usable()?, entry.is_locked())));
        if let Some((request, is_locked)) = request {
            let owner = request.requestor.as_deref().unwrap_or_default();
            if request.is_min_ready() || metastatic_provider(owner).is_some() {
                self.of_launchers.insert(id.clone());
            }
            let is_ours = world.holdings.busy_requests.contains(id) || world.holdings.requests.contains_key(id);
            match request.state {
                RequestState::Requested if !is_locked && !is_ours => {
                    let class = self.class_of(Shape::of(request));
                    facts.place = Some(Place { class, rank: Rank::of(request), since: world.now });
                }
                RequestState::Pending if !is_locked && !is_ours => {
                    self.lost.insert(id.clone());
                }
                _ => {}
            }
        }
        let was = old.place.or_else(|| self.before.remove(id));
        let stays = match (&was, &mut facts.place) {
            (Some(was), Some(place)) if was.is_at(place) => {
                place.since = was.since;
                true
            }
            _ => false,
        };
        // It enters before it leaves: a class that becomes empty ends.
        if let Some(Place { class, rank, .. }) = &facts.place
            && let Some(class) = self.classes.get_mut(class)
        {
            class.requests.insert(rank.clone());
        }
        if let Some(was) = was.filter(|_| !stays) {
            self.leave(was.class, &was.rank);
            self.left.push(was);
        }
        if let Some(Place { class: id, rank, .. }) = &facts.place
            && self.classes.get(id).is_some_and(|class| class.requests.first() == Some(rank))
        {
            self.renewed.insert(*id);
        }
        if facts.place.is_some() || facts.litter.is_some() {
            self.facts.insert(id.clone(), facts);
        }
    }

    /// Classes that since the last call have come, gone, or got another first request, or whose first request was looked at
    /// again: an action may have ended that worked on it.
    pub fn take_renewed(&mut self) -> BTreeSet<ClassId> {
        std::mem::take(&mut self.renewed)
    }

    /// Where requests were that since the last call have left their place: for another one, or because they do not wait any
    /// more, or are gone.
    pub fn take_left(&mut self) -> Vec<Place> {
        std::mem::take(&mut self.left)
    }

    /// Where a request is; `None`: it does not wait.
    pub fn place(&self, id: &RequestId) -> Option<&Place> {
        self.facts.get(id)?.place.as_ref()
    }

    /// The clock was set by that many seconds.
    pub fn clock_stepped(&mut self, step: f64) {
        self.facts.values_mut().filter_map(|facts| facts.place.as_mut()).for_each(|place| place.since += step);
    }

    fn class_of(&mut self, shape: Shape) -> ClassId {
        if let Some(id) = self.by_shape.get(&shape) {
            return *id;
        }
        let id = self.known.remove(&shape).unwrap_or_else(|| {
            self.next += 1;
            self.next
        });
        self.classes.insert(id, Class { shape: shape.clone(), requests: BTreeSet::new() });
        self.by_shape.insert(shape, id);
        id
    }

    fn leave(&mut self, id: ClassId, rank: &Rank) {
        let Some(class) = self.classes.get_mut(&id) else { return };
        if class.requests.first() == Some(rank) {
            self.renewed.insert(id);
        }
        class.requests.remove(rank);
        if class.requests.is_empty()
            && let Some(class) = self.classes.remove(&id)
        {
            self.by_shape.remove(&class.shape);
        }
    }
}
