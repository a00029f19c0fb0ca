//! What follows from each request's record, from its lock, and from whether it is ours.
//!
//! Requests that wait are kept in classes: those of a class differ in their id, their relative priority and their age only. Most verdicts hold for the
//! whole class: where one has to wait for room, all behind it have to, so a pool looks at the first of each class only, until it
//! has accepted that. Where id or age matters (the zone of several nodes, an image that was missing before the request was made)
//! each request is looked at.
//!
//! The classes are persistent: who reads what waits ([`Snapshot`](crate::plan::Snapshot)) has them as they were after a pass.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    ops::Bound::{Excluded, Included, Unbounded},
    sync::Arc,
};

use imbl::OrdMap;
use nodepool_common::model::{
    LabelName, LauncherId, NodeRequest, ProviderName, RequestId, RequestState, TenantName, Timestamp, change_each,
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
#[derive(Clone, Debug)]
pub struct Class {
    /// What they have in common.
    pub shape: Arc<Shape>,
    /// They, in their order, each with when it came into this class.
    requests: OrdMap<Rank, Timestamp>,
}

impl Class {
    /// The first one.
    pub fn first(&self) -> Option<&Rank> {
        self.requests.get_min().map(|(rank, _)| rank)
    }

    /// The first one after another.
    pub fn after(&self, rank: &Rank) -> Option<&Rank> {
        self.requests.range::<_, Rank>((Excluded(rank), Unbounded)).next().map(|(rank, _)| rank)
    }

    /// All of them, in their order.
    pub fn ranks(&self) -> impl Iterator<Item = &Rank> {
        self.requests.keys()
    }

    /// Those from one on, each with when it came into this class.
    pub fn from(&self, rank: &Rank) -> impl Iterator<Item = (&Rank, Timestamp)> {
        self.requests.range::<_, Rank>((Included(rank), Unbounded)).map(|(rank, since)| (rank, *since))
    }

    /// When one came into it; `None`: it is not in it.
    pub fn since(&self, rank: &Rank) -> Option<Timestamp> {
        self.requests.get(rank).copied()
    }
}

/// All requests, by what is asked of them.
#[derive(Debug, Default)]
pub struct Requests {
    facts: HashMap<RequestId, Facts>,
    by_shape: BTreeMap<Arc<Shape>, ClassId>,
    /// What classes were called before everything was looked at again.
    known: BTreeMap<Arc<Shape>, ClassId>,
    next: ClassId,
    /// Those that wait, and that nobody has locked.
    pub classes: OrdMap<ClassId, Class>,
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

/// Where a request was that waited.
#[derive(Clone, Debug)]
pub struct Place {
    /// Its class.
    pub class: ClassId,
    /// Its place there.
    pub rank: Rank,
    /// Since when.
    pub since: Timestamp,
}

#[derive(Debug, Default)]
struct Facts {
    /// Its class, and its place there.
    place: Option<(ClassId, Rank)>,
    litter: Option<i64>,
}

impl Requests {
    /// Nothing, but classes of shapes that there are now will have the same names, and others names that none had before.
    pub fn emptied(&mut self) -> Self {
        let facts = std::mem::take(&mut self.facts).into_iter();
        let place = |(id, facts): (RequestId, Facts)| {
            let (class, rank) = facts.place?;
            Some((id, self.place_of(class, rank)?))
        };
        let mut before: BTreeMap<_, _> = facts.filter_map(place).collect();
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
                    facts.place = Some((class, Rank::of(request)));
                }
                RequestState::Pending if !is_locked && !is_ours => {
                    self.lost.insert(id.clone());
                }
                _ => {}
            }
        }
        let was = match old.place {
            Some((class, rank)) => self.place_of(class, rank),
            None => self.before.remove(id),
        };
        let mut stays = false;
        if let Some((id, rank)) = &facts.place {
            stays = was.as_ref().is_some_and(|was| was.class == *id && was.rank == *rank);
            let since = was.as_ref().filter(|_| stays).map_or(world.now, |was| was.since);
            // It enters before it leaves: a class that becomes empty ends.
            self.enter(*id, rank, since);
        }
        if let Some(was) = was.filter(|_| !stays) {
            self.leave(was.class, &was.rank);
            self.left.push(was);
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

    /// Whether a request is in a class: it waits.
    pub fn waits(&self, id: &RequestId) -> bool {
        self.facts.get(id).is_some_and(|facts| facts.place.is_some())
    }

    fn place_of(&self, class: ClassId, rank: Rank) -> Option<Place> {
        let since = self.classes.get(&class)?.since(&rank)?;
        Some(Place { class, rank, since })
    }

    /// The clock was set by that many seconds.
    pub fn clock_stepped(&mut self, step: f64) {
        change_each(&mut self.classes, |class| change_each(&mut class.requests, |since| *since += step));
    }

    fn class_of(&mut self, shape: Shape) -> ClassId {
        if let Some(id) = self.by_shape.get(&shape) {
            return *id;
        }
        let id = self.known.remove(&shape).unwrap_or_else(|| {
            self.next += 1;
            self.next
        });
        let shape = Arc::new(shape);
        self.classes.insert(id, Class { shape: Arc::clone(&shape), requests: OrdMap::new() });
        self.by_shape.insert(shape, id);
        id
    }

    fn enter(&mut self, id: ClassId, rank: &Rank, since: Timestamp) {
        let Some(class) = self.classes.get(&id) else { return };
        let is_first = class.first().is_none_or(|first| rank <= first);
        if class.since(rank).is_none()
            && let Some(class) = self.classes.get_mut(&id)
        {
            class.requests.insert(rank.clone(), since);
        }
        if is_first {
            self.renewed.insert(id);
        }
    }

    fn leave(&mut self, id: ClassId, rank: &Rank) {
        let Some(class) = self.classes.get_mut(&id) else { return };
        if class.first() == Some(rank) {
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
