//! The cache's state: [`Records`], and what of the tree they don't show.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use imbl::ordmap;

use super::{
    super::{
        paths::{Lock, Spot},
        protocol::SessionId,
    },
    freshness::Freshness,
    removals::Removals,
};
use crate::model::{
    BuildId, BuilderComponent, Changes, Contenders, Entries, Entry, HeldBack, ImageBuild, ImageName, ImageUpload, Node,
    NodeId, NodeRequest, Pauses, PoolComponent, RecordError, Records, RequestId, Stat, Timestamp, WorkLock,
    change_each,
};

const LOGGER: &str = "nodepool.zk.Cache";

/// Everything that is known of `/nodepool`.
#[derive(Debug, Default)]
pub(super) struct Tree {
    /// What readers see.
    pub records: Records,
    /// The session in which all of it was read; `None`: nothing has been read yet. In a new session it may be another
    /// ZooKeeper's, or the same one set back to an older state, in which versions, transactions and names come again: then what
    /// is here serves readers until the walk is done, is compared with nothing, and nothing is added.
    session: Option<SessionId>,
    /// How far it can be relied on.
    pub freshness: Freshness,
    /// While it is walked anew in the same session: what we have written meanwhile.
    written: Option<HashSet<Spot>>,
    /// Contenders, also of records that have not been read yet. Those of requests are in `records.request_locks`.
    locks: HashMap<Lock, Contenders>,
    /// Directories of requests' locks that were seen by a contender first: they are as old as that, by our own clock.
    by_our_clock: HashSet<RequestId>,
    /// Nodes that we deleted and whose event has not arrived: an older read must not bring them back. Ids are not
    /// used again.
    gone: HashSet<NodeId>,
    /// What must not be put in by those who have asked before.
    pub removals: Removals,
    /// What somebody has created, and nobody knows whether it is still there. The records are not current before each of these
    /// has been read.
    pub unsettled: Vec<Spot>,
    /// What has changed since somebody last asked for it; `None`: nobody has yet.
    changes: Option<Changes>,
    /// The components' transactions, which the records do not carry, by path.
    component_versions: HashMap<String, i64>,
    /// How many walks have brought what is known.
    walks: u64,
    /// What has been complained about, by path: the version that was broken.
    complaints: HashMap<String, i64>,
    /// Records with keys of a wrong type.
    oddities: HashSet<String>,
}

/// Puts a record into its map if it is newer; its contenders come from `contenders`.
fn put<K: Clone + Ord, T: Clone>(
    map: &mut Entries<K, T>,
    key: K,
    record: Result<Arc<T>, RecordError>,
    stat: Stat,
    contenders: impl FnOnce() -> Contenders,
    now: Timestamp,
) -> bool {
    match map.entry(key) {
        ordmap::Entry::Occupied(mut entry) => {
            if stat.mzxid <= entry.get().stat.mzxid {
                return false;
            }
            let entry = own(entry.get_mut());
            entry.record = record;
            entry.stat = stat;
        }
        ordmap::Entry::Vacant(vacant) => {
            let contenders = contenders();
            let free_since = contenders.is_empty().then_some(now);
            vacant.insert(Arc::new(Entry { record, stat, contenders, free_since }));
        }
    }
    true
}

/// The entry to be changed: a copy where a snapshot has it, too.
fn own<T: Clone>(entry: &mut Arc<Entry<T>>) -> &mut Entry<T> {
    Arc::make_mut(entry)
}

fn set_contenders<T: Clone>(entry: Option<&mut Arc<Entry<T>>>, contenders: &Contenders, now: Timestamp) {
    if let Some(entry) = entry.map(own) {
        entry.contenders.clone_from(contenders);
        entry.free_since = free_since(contenders, entry.free_since, now);
    }
}

fn free_since(contenders: &Contenders, before: Option<Timestamp>, now: Timestamp) -> Option<Timestamp> {
    contenders.is_empty().then(|| before.unwrap_or(now))
}

impl Tree {
    /// What has changed since the last call; everything, at the first.
    pub fn take_changes(&mut self) -> Changes {
        self.changes.replace(Changes::default()).unwrap_or_else(Changes::everything)
    }

    /// See [`super::Cache::walks`].
    pub fn walks(&self) -> u64 {
        self.walks
    }

    /// The transaction that what we have of a path is from. Of a request's lock only its time of creation is kept, which never
    /// changes.
    pub fn version(&self, spot: &Spot) -> Option<i64> {
        let records = &self.records;
        match spot {
            Spot::Node(id) => records.nodes.get(id).map(|entry| entry.stat.mzxid),
            Spot::Request(id) => records.requests.get(id).map(|entry| entry.stat.mzxid),
            Spot::RequestLock(id) => records.request_locks.get(id).filter(|lock| lock.ctime > 0).map(|_| i64::MAX),
            _ => None,
        }
    }

    /// Whether there is something of that path. `None`: it cannot be told.
    pub fn knows(&self, spot: &Spot) -> Option<bool> {
        let records = &self.records;
        match spot {
            Spot::Node(id) => Some(records.nodes.contains_key(id)),
            Spot::Request(id) => Some(records.requests.contains_key(id)),
            Spot::Build(image, build) => Some(records.builds.contains_key(&(image.clone(), build.clone()))),
            Spot::Upload(key) => Some(records.uploads.contains_key(key)),
            Spot::RequestLock(id) => Some(records.request_locks.contains_key(id)),
            Spot::Contender(Lock::Request(id), name) => {
                Some(records.request_locks.get(id).is_some_and(|lock| lock.contenders.contains(name)))
            }
            Spot::Contender(lock @ (Lock::Node(_) | Lock::Build(..) | Lock::Upload(_)), name) => {
                Some(self.locks.get(lock).is_some_and(|contenders| contenders.contains(name)))
            }
            _ => None,
        }
    }

    /// Notes what a path says something about.
    fn note(&mut self, spot: &Spot) {
        let Some(changes) = &mut self.changes else { return };
        match spot {
            Spot::Node(id) | Spot::Contender(Lock::Node(id), _) => {
                changes.nodes.insert(id.clone());
            }
            Spot::Request(id) | Spot::RequestLock(id) | Spot::Contender(Lock::Request(id), _) => {
                changes.requests.insert(id.clone());
            }
            Spot::Pool(_) | Spot::Pauses(_) => changes.pools = true,
            Spot::Upload(_) => changes.uploads = true,
            _ => {}
        }
    }

    /// Applies what was read of a path. Whether something changed.
    pub fn put(&mut self, spot: &Spot, data: &[u8], stat: Stat, now: Timestamp) -> bool {
        self.note(spot);
        match spot {
            Spot::Node(id) => {
                let record = self.judge(spot, stat, Node::read(id.clone(), data));
                self.put_node(id.clone(), record, stat, now)
            }
            Spot::Request(id) => {
                let record = self.judge(spot, stat, NodeRequest::read(id.clone(), data));
                self.put_request(id.clone(), record, stat, now)
            }
            Spot::Build(image, build) => {
                let record = self.judge(spot, stat, ImageBuild::read(image.clone(), build.clone(), data));
                let locks = &self.locks;
                let key = (image.clone(), build.clone());
                let lock = Lock::Build(key.0.clone(), key.1.clone());
                put(&mut self.records.builds, key, record, stat, || contenders(locks, &lock), now)
            }
            Spot::Upload(key) => {
                let read =
                    ImageUpload::read(key.image.clone(), key.build.clone(), key.provider.clone(), key.id.clone(), data);
                let record = self.judge(spot, stat, read);
                let locks = &self.locks;
                let lock = Lock::Upload(key.clone());
                put(&mut self.records.uploads, key.clone(), record, stat, || contenders(locks, &lock), now)
            }
            Spot::Pool(name) => {
                if !self.is_newer_component(spot, stat) {
                    return false;
                }
                match self.judge(spot, stat, PoolComponent::read(name, data)) {
                    Ok(pool) => {
                        self.records.pools.insert(name.clone(), pool);
                        true
                    }
                    Err(_) => self.records.pools.remove(name).is_some(),
                }
            }
            Spot::Builder(name) => {
                if !self.is_newer_component(spot, stat) {
                    return false;
                }
                match self.judge(spot, stat, BuilderComponent::read(data)) {
                    Ok(builder) => self.records.builders.insert(name.clone(), builder.clone()) != Some(builder),
                    Err(_) => self.records.builders.remove(name).is_some(),
                }
            }
            Spot::HeldBack(holder) => {
                let record = self.judge(spot, stat, HeldBack::read(data));
                put(&mut self.records.held_back, holder.clone(), record, stat, Contenders::default, now)
            }
            Spot::Pauses(provider) => {
                let record = self.judge(spot, stat, Pauses::read(data));
                put(&mut self.records.pauses, provider.clone(), record, stat, Contenders::default, now)
            }
            Spot::BuildRequest(image) => self.records.build_requests.insert(image.clone(), stat) != Some(stat),
            Spot::RequestLock(id) => {
                self.by_our_clock.remove(id);
                let lock = self.records.request_locks.entry(id.clone()).or_default();
                lock.free_since = free_since(&lock.contenders, lock.free_since, now);
                std::mem::replace(&mut lock.ctime, stat.ctime) != stat.ctime
            }
            Spot::Image(_) | Spot::Pause(_) | Spot::Contender(..) => self.add(spot, now),
        }
    }

    fn is_newer_component(&mut self, spot: &Spot, stat: Stat) -> bool {
        let known = self.component_versions.entry(spot.path()).or_insert(i64::MIN);
        let is_newer = stat.mzxid > *known;
        *known = stat.mzxid.max(*known);
        is_newer
    }

    /// Whether it was read in that session.
    pub fn is_of(&self, session: SessionId) -> bool {
        self.session == Some(session)
    }

    /// A walk begins: what is put in meanwhile by those who wrote it may be newer than what the walk reads.
    pub fn walk_begins(&mut self) {
        self.written = Some(HashSet::new());
    }

    /// Puts in what somebody has learnt in that session of a path: by writing it, or by reading it under a lock.
    pub fn learn(&mut self, session: SessionId, spot: &Spot, put: impl FnOnce(&mut Self) -> bool) -> bool {
        if !self.is_of(session) {
            return false;
        }
        if let Some(written) = &mut self.written {
            written.insert(spot.clone());
        }
        put(self)
    }

    /// What we know better than the follower does yet, of a node that is here. One that is not is either gone, or the
    /// follower is about to bring it.
    pub fn update_node(
        &mut self,
        id: NodeId,
        record: Result<Arc<Node>, RecordError>,
        stat: Stat,
        now: Timestamp,
    ) -> bool {
        self.records.nodes.contains_key(&id) && self.put_node(id, record, stat, now)
    }

    /// What we know better than the follower does yet, of a request that is here.
    pub fn update_request(
        &mut self,
        id: RequestId,
        record: Result<Arc<NodeRequest>, RecordError>,
        stat: Stat,
        now: Timestamp,
    ) -> bool {
        self.records.requests.contains_key(&id) && self.put_request(id, record, stat, now)
    }

    /// What we know better than the follower does yet, of a build or an upload that is here: what we wrote, or read under its lock.
    pub fn update_image_record(&mut self, spot: &Spot, data: &[u8], stat: Stat, now: Timestamp) -> bool {
        self.knows(spot) == Some(true) && self.put(spot, data, stat, now)
    }

    /// A node's record, unless we deleted it.
    pub fn put_node(&mut self, id: NodeId, record: Result<Arc<Node>, RecordError>, stat: Stat, now: Timestamp) -> bool {
        if self.gone.contains(&id) {
            return false;
        }
        self.note(&Spot::Node(id.clone()));
        let locks = &self.locks;
        let lock = Lock::Node(id.clone());
        put(&mut self.records.nodes, id, record, stat, || contenders(locks, &lock), now)
    }

    /// A request's record.
    pub fn put_request(
        &mut self,
        id: RequestId,
        record: Result<Arc<NodeRequest>, RecordError>,
        stat: Stat,
        now: Timestamp,
    ) -> bool {
        self.note(&Spot::Request(id.clone()));
        let lock = self.records.request_locks.get(&id).map(|lock| lock.contenders.clone());
        put(&mut self.records.requests, id, record, stat, || lock.unwrap_or_default(), now)
    }

    /// What has no data, or none that we keep, is there.
    pub fn add(&mut self, spot: &Spot, now: Timestamp) -> bool {
        self.note(spot);
        match spot {
            Spot::Image(image) => self.records.images.insert(image.clone()).is_none(),
            Spot::Pause(image) => self.records.paused_images.insert(image.clone()).is_none(),
            Spot::Contender(lock, name) => self.contend(lock, now, |contenders| contenders.insert(name.as_str())),
            _ => false,
        }
    }

    /// A path is gone.
    pub fn remove(&mut self, spot: &Spot, now: Timestamp) -> bool {
        let path = spot.path();
        self.note(spot);
        self.complaints.remove(&path);
        self.oddities.remove(&path);
        self.removals.note(spot);
        match spot {
            Spot::Node(id) => {
                self.locks.remove(&Lock::Node(id.clone()));
                let known = self.records.nodes.remove(id).is_some();
                self.gone.remove(id) || known
            }
            Spot::Request(id) => self.records.requests.remove(id).is_some(),
            Spot::RequestLock(id) => {
                set_contenders(self.records.requests.get_mut(id), &Contenders::default(), now);
                self.by_our_clock.remove(id);
                self.records.request_locks.remove(id).is_some()
            }
            Spot::Image(image) => {
                self.records.building.remove(image);
                self.records.images.remove(image).is_some()
            }
            Spot::Pause(image) => self.records.paused_images.remove(image).is_some(),
            Spot::BuildRequest(image) => self.records.build_requests.remove(image).is_some(),
            Spot::Build(image, build) => {
                self.locks.remove(&Lock::Build(image.clone(), build.clone()));
                let first = (image.clone(), build.clone(), "".into());
                let of_it = self.records.uploading.range(first..).map(|(key, _)| key.clone());
                let of_it: Vec<_> = of_it.take_while(|(of, id, _)| (of, id) == (image, build)).collect();
                for key in &of_it {
                    self.records.uploading.remove(key);
                }
                self.records.builds.remove(&(image.clone(), build.clone())).is_some()
            }
            Spot::Upload(key) => {
                self.locks.remove(&Lock::Upload(key.clone()));
                self.records.uploads.remove(key).is_some()
            }
            Spot::Pool(name) => {
                self.component_versions.remove(&path);
                self.records.pools.remove(name).is_some()
            }
            Spot::Builder(name) => {
                self.component_versions.remove(&path);
                self.records.builders.remove(name).is_some()
            }
            Spot::HeldBack(holder) => self.records.held_back.remove(holder).is_some(),
            Spot::Pauses(provider) => self.records.pauses.remove(provider).is_some(),
            Spot::Contender(lock, name) => self.contend(lock, now, |contenders| contenders.remove(name)),
        }
    }

    /// We deleted a node; its event follows.
    pub fn node_is_gone(&mut self, id: &NodeId) -> bool {
        let known = self.remove(&Spot::Node(id.clone()), 0.0);
        if known {
            self.gone.insert(id.clone());
        }
        known
    }

    /// The clock was set by that many seconds, and is at `now`. What was seen after that and before it was noticed has a time
    /// of the new clock already: it is not put off.
    pub fn clock_stepped(&mut self, step: f64, now: Timestamp) {
        self.changes = self.changes.take().map(|_| Changes::everything());
        let records = &mut self.records;
        let moved = |at: &mut Option<Timestamp>| *at = at.map(|at| (at + step).min(now));
        change_each(&mut records.nodes, |entry| moved(&mut own(entry).free_since));
        change_each(&mut records.requests, |entry| moved(&mut own(entry).free_since));
        change_each(&mut records.request_locks, |lock| moved(&mut lock.free_since));
        for id in &self.by_our_clock {
            if let Some(lock) = records.request_locks.get_mut(id) {
                lock.ctime = (lock.ctime + millis(step)).min(millis(now));
            }
        }
        change_each(&mut records.builds, |entry| moved(&mut own(entry).free_since));
        change_each(&mut records.uploads, |entry| moved(&mut own(entry).free_since));
        change_each(&mut records.building, |lock| moved(&mut lock.free_since));
        change_each(&mut records.uploading, |lock| moved(&mut lock.free_since));
    }

    /// An empty one that remembers what has been complained about.
    pub fn heir(&self) -> Self {
        Self { complaints: self.complaints.clone(), oddities: self.oddities.clone(), ..Self::default() }
    }

    /// The result of a walk in that session takes the place of what was known. What we wrote meanwhile is newer than what the
    /// walk read.
    pub fn replace(&mut self, mut new: Self, session: SessionId) {
        let written = self.written.take().filter(|_| self.is_of(session));
        new.session = Some(session);
        new.walks = self.walks + 1;
        new.complaints.extend(std::mem::take(&mut self.complaints));
        new.oddities.extend(std::mem::take(&mut self.oddities));
        let (old, records) = (&mut self.records, &mut new.records);
        for spot in written.into_iter().flatten() {
            match spot {
                Spot::Node(id) => keep_newer(records.nodes.get_mut(&id), old.nodes.remove(&id)),
                Spot::Request(id) => keep_newer(records.requests.get_mut(&id), old.requests.remove(&id)),
                Spot::Build(image, build) => {
                    let key = (image, build);
                    keep_newer(records.builds.get_mut(&key), old.builds.remove(&key));
                }
                Spot::Upload(key) => keep_newer(records.uploads.get_mut(&key), old.uploads.remove(&key)),
                _ => {}
            }
        }
        new.changes = self.changes.take().map(|_| Changes::everything());
        new.removals = std::mem::take(&mut self.removals);
        new.removals.walked();
        *self = new;
    }

    /// Contenders come and go.
    fn contend(&mut self, lock: &Lock, now: Timestamp, change: impl FnOnce(&mut Contenders) -> bool) -> bool {
        match lock {
            Lock::Request(id) => return self.contend_for_request(id, now, change),
            Lock::Building(image) => {
                return work(self.records.building.entry(image.clone()).or_default(), now, change);
            }
            Lock::Uploading(image, build, provider) => {
                let key = (image.clone(), build.clone(), provider.clone());
                return work(self.records.uploading.entry(key).or_default(), now, change);
            }
            Lock::Node(_) | Lock::Build(..) | Lock::Upload(_) => {}
        }
        let contenders = self.locks.entry(lock.clone()).or_default();
        let changed = change(contenders);
        match lock {
            Lock::Node(id) => set_contenders(self.records.nodes.get_mut(id), contenders, now),
            Lock::Build(image, build) => {
                let key: (ImageName, BuildId) = (image.clone(), build.clone());
                set_contenders(self.records.builds.get_mut(&key), contenders, now);
            }
            Lock::Upload(key) => set_contenders(self.records.uploads.get_mut(key), contenders, now),
            Lock::Request(_) | Lock::Building(_) | Lock::Uploading(..) => {}
        }
        if contenders.is_empty() {
            self.locks.remove(lock);
        }
        changed
    }

    fn contend_for_request(
        &mut self,
        id: &RequestId,
        now: Timestamp,
        change: impl FnOnce(&mut Contenders) -> bool,
    ) -> bool {
        // A contender's deletion may be heard of after its directory's own.
        let known = self.records.request_locks.contains_key(id);
        let lock = self.records.request_locks.entry(id.clone()).or_default();
        let changed = change(&mut lock.contenders);
        if !known && lock.contenders.is_empty() {
            self.records.request_locks.remove(id);
            return changed;
        }
        if !known {
            // So that nobody takes it for an old one. It is not read for that: what it says but its age is known.
            lock.ctime = millis(now);
            self.by_our_clock.insert(id.clone());
        }
        lock.free_since = free_since(&lock.contenders, lock.free_since, now);
        set_contenders(self.records.requests.get_mut(id), &lock.contenders, now);
        changed
    }

    /// Says what is wrong with a record: once for each version of a broken one, once for each path with odd keys.
    fn judge<T>(
        &mut self,
        spot: &Spot,
        stat: Stat,
        read: Result<(T, Vec<String>), RecordError>,
    ) -> Result<Arc<T>, RecordError> {
        match read {
            Ok((record, oddities)) => {
                if !oddities.is_empty() {
                    let path = spot.path();
                    if self.oddities.insert(path.clone()) {
                        tracing::warn!(
                            logger = LOGGER,
                            "{path}: {}; read as if absent. Whoever wrote the record has a bug",
                            oddities.join(", ")
                        );
                    }
                }
                Ok(Arc::new(record))
            }
            Err(error) => {
                let path = spot.path();
                if self.complaints.insert(path.clone(), stat.mzxid) != Some(stat.mzxid) {
                    tracing::warn!(logger = LOGGER, "{path}: {error}; {}", consequence(spot, &error));
                }
                Err(error)
            }
        }
    }
}

/// Contenders for work come and go.
fn work(lock: &mut WorkLock, now: Timestamp, change: impl FnOnce(&mut Contenders) -> bool) -> bool {
    let changed = change(&mut lock.contenders);
    lock.free_since = free_since(&lock.contenders, lock.free_since, now);
    changed
}

#[allow(clippy::cast_possible_truncation)] // ms since the epoch fit
fn millis(seconds: f64) -> i64 {
    (seconds * 1000.0) as i64
}

fn contenders(locks: &HashMap<Lock, Contenders>, lock: &Lock) -> Contenders {
    locks.get(lock).cloned().unwrap_or_default()
}

fn keep_newer<T: Clone>(new: Option<&mut Arc<Entry<T>>>, old: Option<Arc<Entry<T>>>) {
    if let (Some(new), Some(old)) = (new, old)
        && old.stat.mzxid > new.stat.mzxid
    {
        let new = own(new);
        new.record.clone_from(&old.record);
        new.stat = old.stat;
    }
}

/// What becomes of a record that cannot be used.
fn consequence(spot: &Spot, error: &RecordError) -> &'static str {
    match (spot, error) {
        (Spot::Node(_), RecordError::Empty) => "it is left of a deleted node and will be removed by the clean-up",
        (Spot::Request(_), _) => "the request is ignored until somebody writes or deletes it",
        (Spot::Builder(_), _) => "the component is ignored",
        (Spot::Pauses(_), _) => "the whole provider counts as paused; `nodepool unpause` of it removes the record",
        (Spot::HeldBack(_), _) => "it is written anew; what it has allowed has to be allowed again",
        (Spot::Pool(_), _) => "the component is ignored: nobody waits for it to decline a request",
        _ => "the record is ignored; repair or delete it",
    }
}

#[cfg(test)]
mod tests;
