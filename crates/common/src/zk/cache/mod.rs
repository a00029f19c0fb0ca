//! [`Cache`]: everything under `/nodepool` as last seen, for planners to read without a round trip.
//!
//! One persistent recursive watch on `/nodepool` (ZooKeeper 3.6 or newer, as upstream) says what changed; what has
//! data is read again, contenders of locks are known from their names alone. In each new session, and after each
//! broken connection (a server does not repeat what a persistent watch missed meanwhile, ZOOKEEPER-4698), the tree is
//! walked anew. Between that nothing is read: an idle cache is silent.
//!
//! Events carry no data, so a newer state can be read before its event arrives; data is applied only if its `mzxid` is
//! newer. A lock's end that follows on a change of its record counts when that has been read. Our own writes go in at once,
//! so that a planner never sees the state from before them, and are not read ([`echoes`]). But only a creation puts in what
//! was not there ([`removals`] says when not even that): whatever else we read or wrote may be gone by now, and the event
//! that says so applied. What was created, and cannot be put in because nobody knows whether it is still there, is read again,
//! and until then the records are not current: whoever counts them after a creation does not miss what was created.
//!
//! A new session may be with a ZooKeeper that was set back to an older state, in which transactions, versions and even names
//! come again. So nothing of what was known is compared with what is read in it ([`Within`]): it is shown until the walk is
//! done, while the records are [`Freshness::Stale`], and then it is gone.
//!
//! Where the connection was broken and the session lives on, what was known stays of use while the walk renews it
//! ([`Freshness::Renewing`]): versions can be compared, our locks are ours, and what happens from now on is put in as ever. What
//! others did while the connection was broken is not in it. So what is decided then has to be checked by ZooKeeper when it is
//! done, and nothing follows from what is not seen. What the watch tells meanwhile is told once more to what the walk has read.
//!
//! Readers get a snapshot ([`Records`] share what has not changed), so nobody who looks holds up what comes in, nor the other way
//! round.
//!
//! [`tree`] is the state and its changes, [`follow`] the task that feeds it.

mod echoes;
mod follow;
mod freshness;
mod removals;
mod tree;
mod walk;

use std::sync::{
    Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard,
    atomic::{AtomicBool, AtomicUsize, Ordering},
};

use tokio::sync::Notify;

pub use self::freshness::Freshness;
pub(super) use self::{echoes::Write, follow::follow};
use self::{
    echoes::{Echo, Echoes},
    removals::Fate,
    tree::Tree,
};
use super::{
    paths::{Lock, Spot},
    protocol::SessionId,
};
use crate::{
    model::{Changes, Node, NodeId, NodeRequest, RecordError, Records, RequestId, Stat, Timestamp},
    sys::{clock::Clock, watch},
};

/// Everything under `/nodepool`, as last seen. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Cache {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    clock: Clock,
    tree: RwLock<Tree>,
    started: AtomicBool,
    /// That of the tree, for those who wait for it.
    freshness: watch::Sender<Freshness>,
    changed: watch::Sender<u64>,
    waiting: AtomicUsize,
    reading: AtomicUsize,
    echoes: Mutex<Echoes>,
    answered: Notify,
    /// There is something in [`Tree::unsettled`].
    unsettled: Notify,
}

/// What a planner begins with.
#[derive(Debug)]
pub struct TakenIn {
    /// The records.
    pub records: Records,
    /// What has changed in them since the last time, by anybody; everything, at the first.
    pub changes: Changes,
    /// Whether they are being renewed: what is not in them may be there all the same.
    pub renewing: bool,
}

/// How much the cache has yet to do, for the metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CacheQueues {
    /// Changes whose data has not been asked for yet.
    pub events: usize,
    /// Reads that have not been answered yet.
    pub playback: usize,
}

impl Cache {
    /// An empty one, whose times are by that clock.
    pub(super) fn new(clock: Clock) -> Self {
        Self {
            inner: Arc::new(Inner {
                clock,
                tree: RwLock::default(),
                started: AtomicBool::new(false),
                freshness: watch::Sender::new(Freshness::default()),
                changed: watch::Sender::new(0),
                waiting: AtomicUsize::new(0),
                reading: AtomicUsize::new(0),
                echoes: Mutex::default(),
                answered: Notify::new(),
                unsettled: Notify::new(),
            }),
        }
    }

    fn now(&self) -> Timestamp {
        self.inner.clock.now()
    }

    /// The records as they are now. Whoever has them holds up nobody, however long he looks: what changes meanwhile is not in
    /// them.
    pub fn snapshot(&self) -> Records {
        self.seen().records.clone()
    }

    /// Looks at the records as they are now.
    pub fn read<R>(&self, look: impl FnOnce(&Records) -> R) -> R {
        look(&self.snapshot())
    }

    /// The records, where they are those of that session and current. What follows from them, and from what is not in them, can
    /// then be done in that session or not at all.
    pub fn snapshot_in(&self, session: SessionId) -> Option<Records> {
        let tree = self.seen();
        (tree.is_of(session) && tree.freshness == Freshness::Current).then(|| tree.records.clone())
    }

    /// The records, where they are those of that session, and what has changed in them since the last call; also while they are
    /// being renewed. `None`: they are another session's, or stale.
    pub fn take_in(&self, session: SessionId) -> Option<TakenIn> {
        let mut tree = self.tree();
        if !tree.is_of(session) || tree.freshness == Freshness::Stale {
            return None;
        }
        let (records, renewing) = (tree.records.clone(), tree.freshness == Freshness::Renewing);
        Some(TakenIn { records, changes: tree.take_changes(), renewing })
    }

    /// How many walks of the tree are done. Each may bring an older state of a record than we knew: what happened during it is
    /// applied afterwards.
    pub fn walks(&self) -> u64 {
        self.seen().walks()
    }

    /// How far the records can be relied on. Whatever that is, they are there to be seen.
    pub fn freshness(&self) -> Freshness {
        *self.inner.freshness.borrow()
    }

    /// Whether the records are those of a live connection: the walk is done, and what happened during it applied.
    pub fn ready(&self) -> bool {
        self.freshness() == Freshness::Current
    }

    /// Waits until [`Self::ready`].
    pub async fn until_ready(&self) {
        // The sender lives as long as we do.
        let _ = self.inner.freshness.subscribe().wait_for(|freshness| *freshness == Freshness::Current).await;
    }

    /// The clock was set: what this process has seen since when moves with it.
    pub fn clock_stepped(&self, step: f64) {
        self.tree().clock_stepped(step, self.now());
    }

    /// A number that grows with each change.
    pub fn changed(&self) -> watch::Receiver<u64> {
        self.inner.changed.subscribe()
    }

    /// How much the cache has yet to do.
    pub fn queues(&self) -> CacheQueues {
        CacheQueues {
            events: self.inner.waiting.load(Ordering::Relaxed),
            playback: self.inner.reading.load(Ordering::Relaxed),
        }
    }

    /// Whether nobody has wanted to know of the tree before: then somebody has to [`follow`] it.
    pub(super) fn is_wanted_first(&self) -> bool {
        !self.inner.started.swap(true, Ordering::SeqCst)
    }

    fn heir(&self) -> Tree {
        self.seen().heir()
    }

    fn is_started(&self) -> bool {
        self.inner.started.load(Ordering::Relaxed)
    }

    /// Changes the tree; whoever waits for a change is told if there was one.
    fn change(&self, change: impl FnOnce(&mut Tree) -> bool) {
        let changed = change(&mut self.tree());
        if changed {
            self.inner.changed.send_modify(|generation| *generation += 1);
        }
    }

    fn set_freshness(&self, freshness: Freshness) {
        let differs = self.set_freshness_of(&mut self.tree(), freshness);
        if differs {
            self.inner.changed.send_modify(|generation| *generation += 1);
        }
    }

    /// To be called under the tree's lock: nobody finds the one without the other. Whether it was another.
    fn set_freshness_of(&self, tree: &mut Tree, freshness: Freshness) -> bool {
        tree.freshness = freshness;
        self.inner.freshness.send_if_modified(|now| std::mem::replace(now, freshness) != freshness)
    }

    /// The records are current, unless something has become unsettled meanwhile.
    fn set_current(&self) {
        self.change(|tree| tree.unsettled.is_empty() && self.set_freshness_of(tree, Freshness::Current));
    }

    /// What has become unsettled since the last call.
    fn take_unsettled(&self) -> Vec<Spot> {
        if self.seen().unsettled.is_empty() {
            return Vec::new();
        }
        std::mem::take(&mut self.tree().unsettled)
    }

    /// Returns when something has become unsettled since the last call.
    async fn some_unsettled(&self) {
        self.inner.unsettled.notified().await;
    }

    /// What a walk in that session has read takes the place of what was known. It is stale until what happened during the walk
    /// has been applied to it.
    fn walked(&self, tree: Tree, session: SessionId) {
        self.set_freshness(Freshness::Stale);
        self.change(|old| {
            old.replace(tree, session);
            true
        });
    }

    fn set_queues(&self, waiting: usize, reading: usize) {
        self.inner.waiting.store(waiting, Ordering::Relaxed);
        self.inner.reading.store(reading, Ordering::Relaxed);
    }

    /// To be called before a write is sent; what it returns is kept until what was written is in the cache.
    pub(super) fn writing(&self, write: Write) -> Writing {
        let number = self.is_started().then(|| self.echoes().open(write));
        Writing { cache: self.clone(), number }
    }

    /// The number of the write that began last.
    fn last_write(&self) -> u64 {
        self.echoes().last()
    }

    /// Returns when the answer to a write has come since the last call.
    async fn some_write_answered(&self) {
        self.inner.answered.notified().await;
    }

    /// What an event of that transaction says; `until`: the write that had begun last when it came.
    fn echo(&self, spot: &Spot, zxid: Option<i64>, until: u64) -> Echo {
        let Some(zxid) = zxid else { return Echo::News };
        let known = self.seen().version(spot);
        if known.is_some_and(|known| known >= zxid) {
            Echo::Known
        } else if self.echoes().may_bring(spot, known.is_some(), until) {
            Echo::Awaited
        } else {
            Echo::News
        }
    }

    fn echoes(&self) -> MutexGuard<'_, Echoes> {
        self.inner.echoes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Everything is going to be read, in that session. What was known stays to be seen until that is done.
    fn walk_begins(&self, session: SessionId) {
        let mut tree = self.tree();
        if !tree.is_of(session) {
            self.echoes().forget();
        }
        tree.walk_begins();
    }

    /// Whether the records were read in that session: only then their versions say something of what is there now.
    pub fn is_of(&self, session: SessionId) -> bool {
        self.seen().is_of(session)
    }

    /// For what is written and read in that session.
    pub(super) fn within(&self, session: SessionId) -> Within<'_> {
        Within { cache: self, session }
    }

    fn seen(&self) -> RwLockReadGuard<'_, Tree> {
        self.inner.tree.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn tree(&self) -> RwLockWriteGuard<'_, Tree> {
        self.inner.tree.write().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The cache, for who tells it what happened in one session. Records that were read in another one stay as they are, because
/// transactions and versions of two sessions cannot be compared: the walk of the newer one brings what there is.
#[derive(Clone, Copy, Debug)]
pub struct Within<'a> {
    cache: &'a Cache,
    session: SessionId,
}

impl Within<'_> {
    /// To be called before asking for the creation of what is to be put in.
    pub(super) fn asking(self) -> Asking {
        let start = self.cache.is_started().then(|| self.cache.tree().removals.open());
        Asking { cache: self.cache.clone(), session: self.session, start }
    }

    /// Looks at the records; `None`: they were read in another session.
    pub(super) fn read<R>(self, look: impl FnOnce(&Records) -> Option<R>) -> Option<R> {
        let records = {
            let tree = self.cache.seen();
            tree.is_of(self.session).then(|| tree.records.clone())
        };
        look(&records?)
    }

    /// We wrote a node, or read it under its lock.
    pub(super) fn wrote_node(self, node: &Arc<Node>, stat: Stat) {
        self.read_node(&node.id, Ok(node.clone()), stat);
    }

    /// We wrote a request, or read it under its lock.
    pub(super) fn wrote_request(self, request: &Arc<NodeRequest>, stat: Stat) {
        self.read_request(&request.id, Ok(request.clone()), stat);
    }

    /// We read a node under its lock, be it of use or not.
    pub(super) fn read_node(self, id: &NodeId, record: Result<Arc<Node>, RecordError>, stat: Stat) {
        self.learn(&Spot::Node(id.clone()), |tree| tree.update_node(id.clone(), record, stat, self.cache.now()));
    }

    /// We read a request under its lock, be it of use or not.
    pub(super) fn read_request(self, id: &RequestId, record: Result<Arc<NodeRequest>, RecordError>, stat: Stat) {
        self.learn(&Spot::Request(id.clone()), |tree| tree.update_request(id.clone(), record, stat, self.cache.now()));
    }

    /// We wrote a build or an upload, or read it under its lock.
    pub(super) fn wrote_image_record(self, spot: &Spot, data: &[u8], stat: Stat) {
        self.learn(spot, |tree| tree.update_image_record(spot, data, stat, self.cache.now()));
    }

    /// We deleted a build or an upload, or it turned out to be gone.
    pub(super) fn missed_image_record(self, spot: &Spot) {
        self.missed(spot);
    }

    /// We deleted a node.
    pub(super) fn deleted_node(self, id: &NodeId) {
        self.learn(&Spot::Node(id.clone()), |tree| tree.node_is_gone(id));
    }

    /// A node turned out to be gone.
    pub(super) fn missed_node(self, id: &NodeId) {
        self.missed(&Spot::Node(id.clone()));
    }

    /// A request turned out to be gone.
    pub(super) fn missed_request(self, id: &RequestId) {
        self.missed(&Spot::Request(id.clone()));
    }

    /// Names are not used again, so what is gone now stays gone; an event that says so finds nothing to do.
    fn missed(self, spot: &Spot) {
        self.learn(spot, |tree| tree.remove(spot, self.cache.now()));
    }

    fn learn(self, spot: &Spot, put: impl FnOnce(&mut Tree) -> bool) {
        if self.cache.is_started() {
            self.cache.change(|tree| tree.learn(self.session, spot, put));
        }
    }
}

/// Somebody waits for the answer to what may create something. Only what cannot have vanished since is put in; what may have is
/// read again before the records are current.
#[derive(Debug)]
pub struct Asking {
    cache: Cache,
    session: SessionId,
    /// `None`: nobody wants to know of the tree.
    start: Option<u64>,
}

impl Asking {
    /// We created a node, and maybe wrote it since.
    pub(super) fn created_node(&self, node: &Arc<Node>, stat: Stat) {
        self.put(&Spot::Node(node.id.clone()), |tree| {
            tree.put_node(node.id.clone(), Ok(node.clone()), stat, self.cache.now())
        });
    }

    /// We created a request.
    pub(super) fn created_request(&self, request: &Arc<NodeRequest>, stat: Stat) {
        self.put(&Spot::Request(request.id.clone()), |tree| {
            tree.put_request(request.id.clone(), Ok(request.clone()), stat, self.cache.now())
        });
    }

    /// We created a build or an upload.
    pub(super) fn created_image_record(&self, spot: &Spot, data: &[u8], stat: Stat) {
        self.put(spot, |tree| tree.put(spot, data, stat, self.cache.now()));
    }

    /// We created the directory of a request's lock; the server's time of that, in ms since the epoch.
    pub(super) fn created_request_lock(&self, id: &RequestId, ctime: i64) {
        let spot = Spot::RequestLock(id.clone());
        let stat = Stat { ctime, ..Stat::default() };
        self.put(&spot, |tree| tree.put(&spot, b"", stat, self.cache.now()));
    }

    /// We created something, and do not know what its record says by now: it is read.
    pub(super) fn created(&self, spot: &Spot) {
        if self.start.is_some() {
            self.cache.change(|tree| tree.learn(self.session, spot, |tree| self.unsettle(tree, spot)));
        }
    }

    /// We hold a lock.
    pub(super) fn locked(&self, lock: Lock, contender: &str) {
        let spot = Spot::Contender(lock, contender.to_owned());
        self.put(&spot, |tree| tree.add(&spot, self.cache.now()));
    }

    fn put(&self, spot: &Spot, put: impl FnOnce(&mut Tree) -> bool) {
        if let Some(start) = self.start {
            self.cache.change(|tree| {
                tree.learn(self.session, spot, |tree| match tree.removals.fate(start, spot) {
                    Fate::Spared => put(tree),
                    Fate::Removed => false,
                    // What is there can only become newer.
                    Fate::Unknown if tree.knows(spot) == Some(true) => put(tree),
                    Fate::Unknown => self.unsettle(tree, spot),
                })
            });
        }
    }

    /// The follower has to read it; the records are not current until then. Whether that changes something.
    fn unsettle(&self, tree: &mut Tree, spot: &Spot) -> bool {
        if tree.knows(spot) == Some(true) {
            return false;
        }
        tree.unsettled.push(spot.clone());
        self.cache.inner.unsettled.notify_one();
        // While they are renewed, nothing follows from what is not in them.
        tree.freshness == Freshness::Current && self.cache.set_freshness_of(tree, Freshness::Stale)
    }
}

impl Drop for Asking {
    fn drop(&mut self) {
        if let Some(start) = self.start {
            self.cache.tree().removals.close(start);
        }
    }
}

/// A write of ours is under way.
#[derive(Debug)]
pub(super) struct Writing {
    cache: Cache,
    /// `None`: nobody wants to know of the tree.
    number: Option<u64>,
}

impl Drop for Writing {
    fn drop(&mut self) {
        if let Some(number) = self.number {
            self.cache.echoes().close(number);
            self.cache.inner.answered.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request() -> Arc<NodeRequest> {
        let mut request = NodeRequest::min_ready(&"ubuntu".into(), "event".to_owned(), 1.0);
        request.id = "200-0000000001".into();
        Arc::new(request)
    }

    fn stat(mzxid: i64) -> Stat {
        Stat { mzxid, ..Stat::default() }
    }

    const SESSION: SessionId = SessionId(1);

    fn cache() -> Cache {
        let cache = Cache::new(Clock::system());
        cache.inner.started.store(true, Ordering::Relaxed);
        walked(&cache, SESSION);
        cache
    }

    /// A walk has found nothing.
    fn walked(cache: &Cache, session: SessionId) {
        cache.walk_begins(session);
        cache.walked(cache.heir(), session);
    }

    /// What the follower does.
    fn follow(cache: &Cache, mzxid: i64) {
        let request = request();
        cache.change(|tree| tree.put(&Spot::Request(request.id.clone()), &request.write(), stat(mzxid), 1.0));
    }

    fn lose(cache: &Cache) {
        cache.change(|tree| tree.remove(&Spot::Request(request().id.clone()), 1.0));
    }

    fn known(cache: &Cache) -> bool {
        cache.read(|records| !records.requests.is_empty())
    }

    #[test]
    fn what_we_read_or_wrote_does_not_bring_back_what_is_gone() {
        let cache = cache();
        follow(&cache, 1);
        lose(&cache);
        cache.within(SESSION).wrote_request(&request(), stat(2));
        assert!(!known(&cache));
        follow(&cache, 1);
        cache.within(SESSION).wrote_request(&request(), stat(2));
        assert_eq!(cache.read(|records| records.requests[&request().id].stat.mzxid), 2, "what is there is updated");
        cache.within(SESSION).missed_request(&request().id);
        assert!(!known(&cache));
    }

    #[test]
    fn what_we_created_is_put_in_unless_it_is_gone_already() {
        let cache = cache();
        let asking = cache.within(SESSION).asking();
        asking.created_request(&request(), stat(1));
        assert!(known(&cache));
        lose(&cache);
        asking.created_request(&request(), stat(1));
        assert!(!known(&cache), "its creation and its deletion came first");
        cache.within(SESSION).asking().created_request(&request(), stat(1));
        assert!(known(&cache));
    }

    #[test]
    fn what_was_created_before_a_walk_comes_from_the_follower_alone() {
        let cache = cache();
        let asking = cache.within(SESSION).asking();
        walked(&cache, SESSION);
        asking.created_request(&request(), stat(1));
        asking.locked(Lock::Request(request().id.clone()), "a__lock__0000000000");
        assert!(!known(&cache));
        assert!(cache.read(|records| records.request_locks.is_empty()));
    }

    #[test]
    fn records_are_not_current_before_what_was_created_across_a_walk_has_been_read() {
        let cache = cache();
        let asking = cache.within(SESSION).asking();
        walked(&cache, SESSION);
        cache.set_current();
        assert!(cache.ready());
        asking.created_request(&request(), stat(1));
        assert!(!cache.ready() && cache.take_in(SESSION).is_none());
        cache.set_current();
        assert!(!cache.ready(), "it has not been read yet");
        let spot = Spot::Request(request().id.clone());
        assert_eq!(cache.take_unsettled(), std::slice::from_ref(&spot));
        follow(&cache, 1);
        cache.set_current();
        assert!(cache.ready());
        asking.created_request(&request(), stat(1));
        asking.created(&spot);
        assert!(cache.ready(), "it is known");
    }

    #[test]
    fn what_is_gone_for_certain_is_not_read_again() {
        let cache = cache();
        let asking = cache.within(SESSION).asking();
        walked(&cache, SESSION);
        cache.set_current();
        lose(&cache);
        asking.created_request(&request(), stat(1));
        assert!(cache.ready());
    }

    #[test]
    fn a_contender_that_is_gone_already_locks_nothing() {
        let cache = cache();
        follow(&cache, 1);
        let (lock, name) = (Lock::Request(request().id.clone()), "a__lock__0000000000");
        let asking = cache.within(SESSION).asking();
        asking.locked(lock.clone(), name);
        assert!(cache.read(|records| records.requests[&request().id].is_locked()));
        cache.change(|tree| tree.remove(&Spot::Contender(lock.clone(), name.to_owned()), 1.0));
        asking.locked(lock, name);
        assert!(!cache.read(|records| records.requests[&request().id].is_locked()));
    }
}
