//! [`Listings`]: one listing of the project's servers serves everybody who waits for a server to change; floating IPs
//! likewise.
//!
//! Whoever waits calls [`Listings::after`] with the moment before which a listing is of no use to him (his server
//! may be missing from an older one). One of those who wait reads the list, the others get what he read; if he gives
//! up (a launch may be dropped at any await) the next one takes over. So there is no task to stop, and no call at
//! all while nobody waits. The interval follows [`Pace`]: short after somebody begins to wait and while servers
//! change, growing while nothing does or while the cloud fails. Failures are shared like lists: a cloud that is down
//! is asked once per interval, not once per server.
//!
//! What lists lack is gone only if a list of the same cloud had it before ([`Listings::lack`]): clouds.yaml may lead to
//! another project or region from one moment to the next, whose lists lack everything that still runs in the old one.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use tokio::{
    sync::{Notify, watch},
    time::{Instant, sleep_until},
};

use crate::openstack::api::{Cloud, CloudError, FloatingIp, Pace, Server};

/// How long it is known of something that it was listed once.
const REMEMBERED: Duration = Duration::from_secs(24 * 60 * 60);

/// The servers by id.
pub(crate) type Servers = HashMap<String, Arc<Server>>;

/// What a list had, by id.
type Found<T> = Arc<HashMap<String, Arc<T>>>;

/// What is listed.
#[async_trait]
pub(crate) trait Listed: PartialEq + Send + Sync + Sized + 'static {
    async fn list(cloud: &dyn Cloud) -> Result<Vec<Arc<Self>>, CloudError>;
    fn id(&self) -> &str;
    fn status(&self) -> &str;
    /// Returns when the list has changed since the last listing, where the cloud can tell.
    async fn changed(cloud: &dyn Cloud) {
        let _ = cloud;
        std::future::pending::<()>().await;
    }
}

#[async_trait]
impl Listed for Server {
    async fn list(cloud: &dyn Cloud) -> Result<Vec<Arc<Self>>, CloudError> {
        cloud.list_servers().await
    }

    fn id(&self) -> &str {
        &self.id
    }

    fn status(&self) -> &str {
        &self.status
    }

    async fn changed(cloud: &dyn Cloud) {
        cloud.changed().await;
    }
}

#[async_trait]
impl Listed for FloatingIp {
    async fn list(cloud: &dyn Cloud) -> Result<Vec<Arc<Self>>, CloudError> {
        Ok(cloud.list_floating_ips().await?.into_iter().map(Arc::new).collect())
    }

    fn id(&self) -> &str {
        &self.id
    }

    fn status(&self) -> &str {
        &self.status
    }
}

/// What one call of the cloud brought.
#[derive(Debug)]
pub(crate) struct Listing<T> {
    /// When the call began.
    pub started: Instant,
    /// By id.
    pub found: Result<Arc<HashMap<String, Arc<T>>>, CloudError>,
}

impl<T> Clone for Listing<T> {
    fn clone(&self) -> Self {
        Self { started: self.started, found: self.found.clone() }
    }
}

/// See the module's comment.
#[derive(Debug)]
pub(crate) struct Listings<T> {
    cloud: Arc<dyn Cloud>,
    pace: Pace,
    /// Held by whoever reads the list.
    reader: tokio::sync::Mutex<()>,
    latest: watch::Sender<Option<Listing<T>>>,
    schedule: Mutex<Schedule>,
    /// The schedule has been brought forward.
    sooner: Notify,
    recent: Mutex<Recent<T>>,
}

/// What the lists of one generation of the cloud ([`Cloud::generation`]) have shown.
#[derive(Debug)]
struct Recent<T> {
    generation: u64,
    /// The last two lists, the older one first, with when each call began.
    lists: VecDeque<(Instant, Found<T>)>,
    /// What was listed and is not any more, by id, with when the first list began that lacked it.
    missed: HashMap<String, Instant>,
}

impl<T> Recent<T> {
    fn of(generation: u64) -> Self {
        Self { generation, lists: VecDeque::new(), missed: HashMap::new() }
    }

    /// Takes in a list; `generations`: the cloud's when the call began and when it had ended.
    fn remember(&mut self, generations: [u64; 2], began: Instant, found: &Found<T>) {
        let [before, after] = generations;
        if self.generation != after {
            *self = Self::of(after);
        }
        if before != after {
            // Of which cloud it is, or which pages of it, cannot be told.
            return;
        }
        if let Some((_, previous)) = self.lists.back() {
            let missed = previous.keys().filter(|id| !found.contains_key(*id));
            self.missed.extend(missed.map(|id| (id.clone(), began)));
        }
        self.missed.retain(|id, missed| !found.contains_key(id) && missed.elapsed() < REMEMBERED);
        if self.lists.len() == 2 {
            self.lists.pop_front();
        }
        self.lists.push_back((began, Arc::clone(found)));
    }

    /// See [`Listings::lack`].
    fn lack(&self, id: &str, moment: Option<Instant>) -> bool {
        let lacks = |(began, found): &(Instant, Found<T>)| {
            moment.is_none_or(|moment| *began > moment) && !found.contains_key(id)
        };
        self.missed.contains_key(id) && self.lists.len() == 2 && self.lists.iter().all(lacks)
    }
}

#[derive(Debug)]
struct Schedule {
    /// By the interval.
    regular: Instant,
    /// By somebody who cannot wait so long. Stands until a call begins, so that who asks while one is on its way gets
    /// another.
    requested: Option<Instant>,
    interval: Duration,
    finished: Option<Instant>,
}

impl Schedule {
    fn due(&self, least: Duration) -> Instant {
        let due = self.requested.map_or(self.regular, |requested| requested.min(self.regular));
        self.finished.map_or(due, |finished| due.max(finished + least))
    }
}

impl<T: Listed> Listings<T> {
    pub fn new(cloud: Arc<dyn Cloud>) -> Self {
        let pace = cloud.pace();
        Self {
            cloud,
            pace,
            reader: tokio::sync::Mutex::new(()),
            latest: watch::Sender::new(None),
            schedule: Mutex::new(Schedule {
                regular: Instant::now(),
                requested: None,
                interval: pace.busy,
                finished: None,
            }),
            sooner: Notify::new(),
            recent: Mutex::new(Recent::of(0)),
        }
    }

    fn schedule(&self) -> std::sync::MutexGuard<'_, Schedule> {
        self.schedule.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks for a listing within `delay`, however quiet things are.
    pub fn hurry(&self, delay: Duration) {
        let wanted = Instant::now() + delay;
        let mut schedule = self.schedule();
        schedule.interval = self.pace.busy;
        if schedule.requested.is_none_or(|requested| wanted < requested) {
            schedule.requested = Some(wanted);
            self.sooner.notify_one();
        }
    }

    /// The same, after the usual delay for something that has just begun.
    pub fn hurry_for_news(&self) {
        self.hurry(self.pace.first);
    }

    /// The last one that succeeded, however old; `None`: the last one failed, or there was none.
    pub fn latest(&self) -> Option<Arc<HashMap<String, Arc<T>>>> {
        self.latest.borrow().as_ref()?.found.as_ref().ok().map(Arc::clone)
    }

    /// Whether the last two lists, both begun after `moment`, lack an item (one alone may be wrong) that a list before
    /// them had, of the cloud with the settings that it still has.
    pub fn lack(&self, id: &str, moment: Option<Instant>) -> bool {
        self.recent().lack(id, moment)
    }

    fn recent(&self) -> std::sync::MutexGuard<'_, Recent<T>> {
        self.recent.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A listing that began after `moment`, maybe one that somebody else is waiting for.
    pub async fn after(&self, moment: Instant) -> Listing<T> {
        let mut latest = self.latest.subscribe();
        loop {
            if let Some(listing) = latest.borrow_and_update().as_ref().filter(|listing| listing.started > moment) {
                return listing.clone();
            }
            tokio::select! {
                biased;
                // Cannot fail: `self` has the sender.
                _ = latest.changed() => {}
                _reading = self.reader.lock() => {
                    // Somebody may have read it while this one queued.
                    if !latest.has_changed().unwrap_or(false) {
                        self.read().await;
                    }
                }
            }
        }
    }

    /// What was listed, by id. Of what is as it was in the last list, that one is kept: two lists of thousands of servers are
    /// remembered.
    fn by_id(&self, found: Vec<Arc<T>>) -> HashMap<String, Arc<T>> {
        let last = self.recent().lists.back().map(|(_, last)| Arc::clone(last));
        let known = |item: &Arc<T>| last.as_ref()?.get(item.id()).filter(|known| *known == item).map(Arc::clone);
        found.into_iter().map(|item| (item.id().to_owned(), known(&item).unwrap_or(item))).collect()
    }

    /// Waits until a call is due, and makes it.
    async fn read(&self) {
        loop {
            let due = self.schedule().due(self.pace.least);
            tokio::select! {
                biased;
                () = sleep_until(due) => break,
                () = self.sooner.notified() => {}
                () = T::changed(&*self.cloud) => self.hurry(Duration::ZERO),
            }
        }
        self.schedule().requested = None;
        let started = Instant::now();
        let generation = self.cloud.generation();
        let found = T::list(&*self.cloud).await.map(|found| Arc::new(self.by_id(found)));
        let news = match (&found, self.latest.borrow().as_ref().map(|listing| &listing.found)) {
            (Ok(now), Some(Ok(before))) => differ(now, before),
            (now, before) => now.is_ok() && before.is_none_or(Result::is_err),
        };
        let finished = Instant::now();
        {
            let mut schedule = self.schedule();
            schedule.interval = if news { self.pace.busy } else { schedule.interval.mul_f64(1.5).min(self.pace.quiet) };
            schedule.regular = finished + schedule.interval;
            schedule.finished = Some(finished);
        }
        if let Ok(found) = &found {
            self.recent().remember([generation, self.cloud.generation()], started, found);
        }
        self.latest.send_replace(Some(Listing { started, found }));
    }
}

fn differ<T: Listed>(now: &HashMap<String, Arc<T>>, before: &HashMap<String, Arc<T>>) -> bool {
    now.len() != before.len()
        || now.iter().any(|(id, item)| before.get(id).is_none_or(|before| before.status() != item.status()))
}

#[cfg(test)]
mod tests {
    use nodepool_testing::ScriptedCloud;
    use serde_json::json;
    use tokio::time::sleep;

    use super::*;
    use crate::openstack::client::Nova;

    fn list(ids: &[&str]) -> Found<Server> {
        let server = |id: &&str| {
            let server = Server::read(&json!({"id": id})).unwrap();
            ((*id).to_owned(), Arc::new(server))
        };
        Arc::new(ids.iter().map(server).collect())
    }

    /// What the given lists have shown, each with the cloud's generations at its beginning and its end.
    fn shown(lists: &[([u64; 2], &[&str])]) -> Recent<Server> {
        let mut recent = Recent::of(0);
        for (generations, ids) in lists {
            recent.remember(*generations, Instant::now(), &list(ids));
        }
        recent
    }

    #[test]
    fn what_two_lists_lack_is_gone_only_if_one_before_had_it() {
        assert!(shown(&[([1, 1], &["a", "b"]), ([1, 1], &["b"]), ([1, 1], &["b"])]).lack("a", None));
        assert!(!shown(&[([1, 1], &["a"]), ([1, 1], &[])]).lack("a", None), "one list may be wrong");
        assert!(!shown(&[([1, 1], &["b"]), ([1, 1], &["b"]), ([1, 1], &[])]).lack("a", None), "it was never listed");
        assert!(!shown(&[([1, 1], &["a"]), ([1, 1], &[]), ([1, 1], &["a"]), ([1, 1], &[])]).lack("a", None));
        let gone = shown(&[([1, 1], &["a"]), ([1, 1], &[]), ([1, 1], &[]), ([1, 1], &[])]);
        assert!(gone.lack("a", None) && !gone.lack("a", Some(Instant::now())), "the lists are older than that");
    }

    #[tokio::test]
    async fn what_is_as_it_was_takes_no_memory_twice() {
        let cloud = ScriptedCloud::start(&[]).await;
        let nova = Arc::new(Nova::of_test(ScriptedCloud::NAME, cloud.clouds_yaml().to_str().unwrap()));
        nova.start().await.unwrap();
        let servers: Listings<Server> = Listings::new(nova as Arc<dyn Cloud>);
        let list = async |status: &str| {
            let listed = json!([{"id": "changes", "status": status}, {"id": "stays", "status": "ACTIVE"}]);
            cloud.answer("GET", "/compute/v2.1/servers/detail", 200, &json!({"servers": listed}));
            servers.hurry(Duration::ZERO);
            servers.after(Instant::now()).await.found.unwrap()
        };
        let (before, after) = (list("BUILD").await, list("ACTIVE").await);
        assert!(Arc::ptr_eq(&before["stays"], &after["stays"]));
        assert_eq!((&*before["changes"].status, &*after["changes"].status), ("BUILD", "ACTIVE"));
    }

    #[test]
    fn what_another_cloud_does_not_list_is_not_gone() {
        let all: &[&str] = &["a", "b"];
        assert!(!shown(&[([1, 1], all), ([1, 1], all), ([2, 2], &[]), ([2, 2], &[])]).lack("a", None));
        assert!(
            !shown(&[([1, 1], all), ([1, 2], &[]), ([2, 2], &[]), ([2, 2], &[])]).lack("a", None),
            "changed within"
        );
        assert!(!shown(&[([1, 2], all), ([2, 2], &[]), ([2, 2], &[])]).lack("a", None), "maybe of the cloud before");
        assert!(shown(&[([2, 2], &[]), ([3, 3], all), ([3, 3], &[]), ([3, 3], &[])]).lack("a", None), "back again");
    }

    #[tokio::test]
    async fn servers_that_a_changed_clouds_yaml_leads_away_from_are_not_gone() {
        const SERVERS: &str = "/compute/v2.1/servers/detail";
        let cloud = ScriptedCloud::start(&[]).await;
        let path = cloud.clouds_yaml();
        let nova = Arc::new(Nova::of_test(ScriptedCloud::NAME, path.to_str().unwrap()));
        nova.start().await.unwrap();
        let servers: Listings<Server> = Listings::new(Arc::clone(&nova) as Arc<dyn Cloud>);
        let list = async |ids: &[&str]| {
            let listed: Vec<_> = ids.iter().map(|id| json!({"id": id})).collect();
            cloud.answer("GET", SERVERS, 200, &json!({"servers": listed}));
            servers.hurry(Duration::ZERO);
            assert_eq!(servers.after(Instant::now()).await.found.unwrap().len(), ids.len());
        };
        list(&["s", "t"]).await;
        list(&["s"]).await;
        list(&["s"]).await;
        assert!(servers.lack("t", None) && !servers.lack("s", None), "somebody has deleted it");
        std::fs::write(
            &path,
            std::fs::read_to_string(&path).unwrap().replace("project_name: p", "project_name: other"),
        )
        .unwrap();
        sleep(Duration::from_secs(1)).await;
        for _ in 0..3 {
            list(&[]).await;
            assert!(!servers.lack("s", None), "it is in the project before");
        }
        assert_eq!(nova.generation(), 2);
    }
}
