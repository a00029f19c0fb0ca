//! [`Listings`]: one listing of the project's servers serves everybody who waits for a server to change; floating IPs
//! likewise.
//!
//! Whoever waits calls [`Listings::after`] with the moment before which a listing is of no use to him (his server
//! may be missing from an older one). One of those who wait reads the list, the others get what he read; if he gives
//! up (a launch may be dropped at any await) the next one takes over. So there is no task to stop, and no call at
//! all while nobody waits. When a list is read:
//!
//! - [`Listings::hurry`]: for somebody who cannot wait.
//! - [`Listings::at`]: when it will be news to one who knows how long such things take
//!   ([`super::when_to_look`]), but so far from the last listing as he says, and in proportion to what that one took: a
//!   cloud that needs seconds for a listing is not asked for one after the other. While the cloud fails, at the interval.
//! - Else at an interval ([`Pace`]): short after somebody begins to wait and while servers change, growing while nothing
//!   does or while the cloud fails.
//!
//! Failures are shared like lists: a cloud that is down is asked once per interval, not once per server.
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

/// The cloud is left alone so many times as long as the last listing took …
const RESTS: u32 = 2;
/// … but not for longer than this, unless a listing takes as long.
const LONGEST_REST: Duration = Duration::from_secs(3);

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

/// When a list is read. What was asked for stands until a call begins, so that who asks while one is on its way gets another.
#[derive(Debug)]
struct Schedule {
    /// By the interval.
    regular: Instant,
    /// For somebody who cannot wait so long.
    requested: Option<Instant>,
    /// When it will be news, and the least time from the last listing's end.
    planned: Option<(Instant, Duration)>,
    interval: Duration,
    last: Option<Last>,
}

/// The last listing.
#[derive(Clone, Copy, Debug)]
struct Last {
    ended: Instant,
    took: Duration,
    failed: bool,
}

impl Last {
    /// How long the cloud is left alone for what it took.
    fn rest(&self) -> Duration {
        (self.took * RESTS).min(LONGEST_REST).max(self.took)
    }
}

impl Schedule {
    fn due(&self, least: Duration) -> Instant {
        let planned = self.planned.map(|(at, apart)| match self.last {
            Some(before) if before.failed => at.max(self.regular),
            Some(before) => at.max(before.ended + apart.max(before.rest())),
            None => at,
        });
        let due = [self.requested, planned].into_iter().flatten().min().unwrap_or(self.regular);
        self.last.map_or(due, |before| due.max(before.ended + least))
    }

    fn plan(&mut self, at: Instant, apart: Duration) {
        self.planned = Some(self.planned.map_or((at, apart), |(before, least)| (before.min(at), least.min(apart))));
    }

    fn request(&mut self, at: Instant) {
        self.requested = Some(self.requested.map_or(at, |before| before.min(at)));
    }
}

/// When a listing is of use to somebody who waits.
#[derive(Clone, Copy, Debug)]
enum Use {
    Regularly,
    At(Instant, Duration),
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
                planned: None,
                interval: pace.busy,
                last: None,
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
        self.ask(|schedule, pace| {
            schedule.interval = pace.busy;
            schedule.request(Instant::now() + delay);
        });
    }

    /// Asks for a listing at that moment, at the earliest so long after the last one.
    pub fn plan(&self, at: Instant, apart: Duration) {
        self.ask(|schedule, _| schedule.plan(at, apart));
    }

    fn ask(&self, change: impl FnOnce(&mut Schedule, Pace)) {
        let mut schedule = self.schedule();
        let before = schedule.due(self.pace.least);
        change(&mut schedule, self.pace);
        if schedule.due(self.pace.least) < before {
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
        self.wait(moment, Use::Regularly).await
    }

    /// The same, for one to whom it is news when it begins at `at` or later. At the earliest it begins so long after the one
    /// before.
    pub async fn at(&self, at: Instant, apart: Duration, moment: Instant) -> Listing<T> {
        self.wait(moment, Use::At(at, apart)).await
    }

    async fn wait(&self, moment: Instant, when: Use) -> Listing<T> {
        let mut latest = self.latest.subscribe();
        loop {
            if let Some(listing) = latest.borrow_and_update().as_ref().filter(|listing| listing.started > moment) {
                return listing.clone();
            }
            // Each time: a call that has begun meanwhile has used it up.
            match when {
                Use::At(at, apart) => self.plan(at, apart),
                Use::Regularly => self.ask(|schedule, _| schedule.request(schedule.regular)),
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
        {
            let mut schedule = self.schedule();
            (schedule.requested, schedule.planned) = (None, None);
        }
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
            let fails_now = found.is_err() && schedule.last.is_none_or(|last| !last.failed);
            schedule.interval =
                if news || fails_now { self.pace.busy } else { schedule.interval.mul_f64(1.5).min(self.pace.quiet) };
            schedule.regular = finished + schedule.interval;
            schedule.last = Some(Last { ended: finished, took: finished - started, failed: found.is_err() });
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

    /// A cloud whose servers are listed once they have booted. All of a test is done by one thread.
    #[derive(Debug, PartialEq)]
    struct Booted(String);

    #[derive(Debug, Default)]
    struct World {
        /// By id, when they have booted.
        servers: HashMap<String, Instant>,
        listing_takes: Duration,
        is_away: bool,
        /// When each listing began and ended.
        listings: Vec<(Instant, Option<Instant>)>,
    }

    thread_local! {
        static WORLD: std::cell::RefCell<World> = std::cell::RefCell::default();
    }

    #[async_trait]
    impl Listed for Booted {
        async fn list(_: &dyn Cloud) -> Result<Vec<Arc<Self>>, CloudError> {
            let takes = WORLD.with_borrow_mut(|world| {
                assert!(world.listings.last().is_none_or(|last| last.1.is_some()), "one at a time");
                world.listings.push((Instant::now(), None));
                world.listing_takes
            });
            sleep(takes).await;
            WORLD.with_borrow_mut(|world| {
                let began = world.listings.last_mut().map(|last| last.1.replace(Instant::now()));
                assert_eq!(began, Some(None));
                if world.is_away {
                    return Err(CloudError::new(crate::ErrorClass::Transient, "HTTP 503"));
                }
                let booted = world.servers.iter().filter(|(_, at)| **at <= Instant::now());
                Ok(booted.map(|(id, _)| Arc::new(Self(id.clone()))).collect())
            })
        }

        fn id(&self) -> &str {
            &self.0
        }

        fn status(&self) -> &'static str {
            "ACTIVE"
        }
    }

    /// Launches so many servers, one each `every`, that boot for `boots`; each waits as launches do. Returns how much too late
    /// they were seen in the mean, and how many listings there were in all.
    async fn launch(count: usize, every: Duration, boots: Duration) -> (Duration, usize) {
        use crate::openstack::provider::when_to_look::{Experience, Outcome};
        let nova = Arc::new(Nova::of_test("none", "/nonexistent"));
        let listings: Arc<Listings<Booted>> = Arc::new(Listings::new(nova));
        let experience = Arc::new(Mutex::new(Experience::default()));
        let launches: Vec<_> = (0..count)
            .map(|i| {
                let (listings, experience) = (Arc::clone(&listings), Arc::clone(&experience));
                tokio::spawn(async move {
                    sleep(every * u32::try_from(i).unwrap()).await;
                    let began = Instant::now();
                    WORLD.with_borrow_mut(|world| world.servers.insert(i.to_string(), began + boots));
                    let (mut seen, mut first, mut not_yet) = (began, None, None);
                    loop {
                        let look = experience.lock().unwrap().next(not_yet);
                        let listing = listings.at(began + look.age, look.apart, seen).await;
                        seen = listing.started;
                        let Ok(found) = listing.found else { continue };
                        let age = seen - began;
                        let first = *first.get_or_insert(age);
                        if found.contains_key(&i.to_string()) {
                            experience.lock().unwrap().learn(Outcome { first, not_yet, done: age, failed: false });
                            return (began + boots).elapsed();
                        }
                        experience.lock().unwrap().not_yet(age);
                        not_yet = Some(age);
                    }
                })
            })
            .collect();
        let mut late = Duration::ZERO;
        for launch in launches {
            late += launch.await.unwrap();
        }
        (late / u32::try_from(count).unwrap(), WORLD.with_borrow(|world| world.listings.len()))
    }

    #[tokio::test(start_paused = true)]
    async fn where_many_boot_each_is_seen_soon_and_a_listing_serves_several() {
        for (boots_ms, every_ms, most_late_ms) in [(0, 20, 60), (500, 5, 80), (500, 20, 80), (40_000, 500, 3000)] {
            WORLD.set(World { listing_takes: Duration::from_millis(5), ..World::default() });
            let [boots, every] = [boots_ms, every_ms].map(Duration::from_millis);
            let (late, listings) = launch(300, every, boots).await;
            assert!(late <= Duration::from_millis(most_late_ms), "{boots:?}: {late:?} too late");
            assert!(listings <= 300, "{boots:?}: {listings} listings");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_cloud_that_is_slow_with_its_listings_is_left_alone_between_them() {
        let began = Instant::now();
        WORLD.set(World { listing_takes: Duration::from_secs(5), ..World::default() });
        let (late, _) = launch(200, Duration::from_millis(500), Duration::from_secs(10)).await;
        assert!(late < Duration::from_secs(12), "{late:?} too late");
        WORLD.with_borrow(|world| {
            let is_apart =
                |pair: &[(Instant, Option<Instant>)]| pair[1].0 - pair[0].1.unwrap() >= Duration::from_secs(5);
            assert!(world.listings.windows(2).all(is_apart), "{:?}", world.listings);
        });
        assert!(began.elapsed() < Duration::from_secs(130));
    }

    #[tokio::test(start_paused = true)]
    async fn launches_that_begin_while_the_cloud_is_away_ask_it_no_more_often() {
        WORLD.set(World { is_away: true, ..World::default() });
        let launches = tokio::spawn(launch(200, Duration::from_millis(300), Duration::from_secs(1)));
        sleep(Duration::from_secs(60)).await;
        let during = WORLD.with_borrow_mut(|world| {
            world.is_away = false;
            world.listings.len()
        });
        assert!(during < 20, "{during} listings in a minute");
        launches.await.unwrap();
    }
}
