//! The network between the launchers and ZooKeeper: [`SlowWire`] delays and breaks, [`Line`] connects, [`mend`] lets connections work
//! again and sessions expire.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use futures::{FutureExt, future::BoxFuture};
use nodepool_common::{
    config,
    zk::{
        SessionId,
        memory::{Lost, Memory, Passage, Wire},
        protocol::{Client, Connector},
    },
};
use tokio::{sync::mpsc, time::Instant};

use super::{
    causes::PEER,
    chance::Chance,
    plan::{Plan, Trouble},
    story::{Story, broken, tell},
    truth::{SharedTruth, ZUUL},
};

/// How long a session lasts without its client.
pub const SESSION: Duration = Duration::from_secs(10);
/// A process asks for no more in one moment than this: it would ask for ever.
const AT_ONCE: u32 = 20_000;
/// A window in which requests are counted, and how many a launcher may have in one.
const WINDOW: Duration = Duration::from_secs(10);
const IN_A_WINDOW: u32 = 4_000;

/// What is known of a process's sessions.
#[derive(Debug)]
pub struct Peer {
    name: String,
    /// It was killed: nothing of it is heard any more.
    pub is_dead: Arc<AtomicBool>,
    /// Its last session.
    pub session: Option<SessionId>,
}

/// What all of the network share.
#[derive(Debug, Default)]
pub struct Peers {
    by_session: HashMap<SessionId, Arc<Mutex<Peer>>>,
    /// Requests so far, by process.
    pub asked: BTreeMap<String, u64>,
}

/// Clones are one.
#[derive(Clone, Debug, Default)]
pub struct SharedPeers(Arc<Mutex<Peers>>);

impl SharedPeers {
    /// To look at it; not across an await.
    pub fn open(&self) -> MutexGuard<'_, Peers> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Peers {
    /// Whether a session's process was killed.
    fn is_dead(&self, session: SessionId) -> bool {
        let is_dead = |peer: &Arc<Mutex<Peer>>| {
            peer.lock().unwrap_or_else(PoisonError::into_inner).is_dead.load(Ordering::SeqCst)
        };
        self.by_session.get(&session).is_some_and(is_dead)
    }
}

/// Whether troubles are over. Clones are one.
#[derive(Clone, Debug, Default)]
pub struct Calm(Arc<AtomicBool>);

impl Calm {
    /// They are over from now on.
    pub fn begin(&self) {
        self.0.store(true, Ordering::SeqCst);
    }

    /// Whether they are.
    pub fn is_now(&self) -> bool {
        self.0.load(Ordering::SeqCst)
    }
}

struct Window {
    began: Instant,
    asked: u32,
    last: Instant,
    at_once: u32,
}

/// See the module's comment.
pub struct SlowWire {
    chance: Chance,
    plan: Plan,
    calm: Calm,
    story: Story,
    peers: SharedPeers,
    truth: SharedTruth,
    windows: BTreeMap<String, Window>,
    broken: mpsc::UnboundedSender<SessionId>,
}

impl SlowWire {
    /// The network of a history; and the sessions whose connections break, for [`mend`].
    pub fn new(
        plan: &Plan,
        calm: Calm,
        story: Story,
        peers: SharedPeers,
        truth: SharedTruth,
    ) -> (Self, mpsc::UnboundedReceiver<SessionId>) {
        let (broken, breaks) = mpsc::unbounded_channel();
        let chance = Chance::of(plan.seed, "network");
        (Self { chance, plan: plan.clone(), calm, story, peers, truth, windows: BTreeMap::new(), broken }, breaks)
    }

    fn takes(&self) -> Duration {
        let is_slow = self.plan.has(Trouble::Slow) && !self.calm.is_now() && self.chance.one_in(20);
        if is_slow { self.chance.seconds(0.05, 1.0) } else { self.chance.seconds(0.0005, 0.004) }
    }

    /// Counts a request: nobody may spin.
    fn count(&mut self, owner: &str) {
        *self.peers.open().asked.entry(owner.to_owned()).or_default() += 1;
        let now = Instant::now();
        let new = || Window { began: now, asked: 0, last: now, at_once: 0 };
        let window = self.windows.entry(owner.to_owned()).or_insert_with(new);
        if window.last != now {
            (window.last, window.at_once) = (now, 0);
        }
        if now - window.began >= WINDOW {
            (window.began, window.asked) = (now, 0);
        }
        window.asked += 1;
        window.at_once += 1;
        assert!(window.at_once < AT_ONCE, "{owner} asks ZooKeeper again and again without any pause");
        if window.asked == IN_A_WINDOW {
            broken!(self.story, "no busy loop", "{owner} asks ZooKeeper {IN_A_WINDOW} times in {} s", WINDOW.as_secs());
        }
    }
}

impl Wire for SlowWire {
    fn request(&mut self, session: SessionId, writes: bool) -> Passage {
        let owner = self.peers.open().by_session.get(&session).map(name_of);
        let takes = self.takes();
        let Some(owner) = owner else { return Passage { takes, lost: None } };
        if self.peers.open().is_dead(session) {
            // Nothing of it arrives any more.
            return Passage { takes, lost: Some(Lost::Request) };
        }
        self.count(&owner);
        let mut lost = None;
        if !self.calm.is_now() {
            // What was written and not answered matters most.
            if self.plan.has(Trouble::AnswersLost) && self.chance.one_in(if writes { 150 } else { 1500 }) {
                lost = Some(Lost::Answer);
            } else if self.plan.has(Trouble::RequestsLost) && self.chance.one_in(if writes { 300 } else { 2000 }) {
                lost = Some(Lost::Request);
            }
            if let Some(lost) = lost {
                tell!(self.story, "network: the {lost:?} of {owner} is lost");
                self.truth.open().is_disturbed(&owner);
            }
        }
        Passage { takes, lost }
    }

    fn answer(&mut self, _: SessionId) -> Duration {
        self.takes()
    }

    fn broken(&mut self, session: SessionId) {
        if let Some(owner) = self.peers.open().by_session.get(&session).map(name_of) {
            self.truth.open().is_disturbed(&owner);
        }
        let _ = self.broken.send(session);
    }
}

fn name_of(peer: &Arc<Mutex<Peer>>) -> String {
    peer.lock().unwrap_or_else(PoisonError::into_inner).name.clone()
}

/// Lets broken connections work again after a while, and sessions expire of which nothing was heard for too long.
pub async fn mend(
    memory: Memory,
    plan: Plan,
    calm: Calm,
    story: Story,
    peers: SharedPeers,
    mut breaks: mpsc::UnboundedReceiver<SessionId>,
) {
    let chance = Chance::of(plan.seed, "mending");
    // How often each has broken: a connection that has broken again has its own pause.
    let times: Arc<Mutex<HashMap<SessionId, u32>>> = Arc::default();
    while let Some(session) = breaks.recv().await {
        let is_long = plan.has(Trouble::Expiry) && !calm.is_now() && chance.one_in(4);
        let pause = if is_long { chance.seconds(10.5, 60.0) } else { chance.seconds(0.02, 8.0) };
        let number = {
            let mut times = times.lock().unwrap_or_else(PoisonError::into_inner);
            let number = times.entry(session).or_default();
            *number += 1;
            *number
        };
        let (memory, story, times, peers) = (memory.clone(), story.clone(), Arc::clone(&times), peers.clone());
        tokio::spawn(async move {
            let is_last = || times.lock().unwrap_or_else(PoisonError::into_inner).get(&session) == Some(&number);
            // A process may be killed while its connection is broken: then nobody resumes the session, and it ends when its time
            // is over.
            let resume = || {
                if !peers.open().is_dead(session) {
                    memory.resume(session);
                }
            };
            tokio::time::sleep(pause.min(SESSION)).await;
            if pause < SESSION {
                resume();
                tokio::time::sleep(SESSION.saturating_sub(pause)).await;
            }
            if is_last() && memory.is_away(session) {
                tell!(story, "zookeeper: session {session} expires");
                memory.expire(session);
            }
            if pause > SESSION {
                tokio::time::sleep(pause.saturating_sub(SESSION)).await;
                resume();
            }
        });
    }
}

/// What leads a process to ZooKeeper.
#[derive(Clone, Debug)]
pub struct Line {
    memory: Memory,
    truth: SharedTruth,
    peers: SharedPeers,
    peer: Arc<Mutex<Peer>>,
}

impl Line {
    /// That of a process.
    pub fn new(name: &str, is_dead: Arc<AtomicBool>, memory: Memory, truth: SharedTruth, peers: SharedPeers) -> Self {
        let peer = Arc::new(Mutex::new(Peer { name: name.to_owned(), is_dead, session: None }));
        Self { memory, truth, peers, peer }
    }

    /// The last session.
    pub fn session(&self) -> Option<SessionId> {
        self.peer.lock().unwrap_or_else(PoisonError::into_inner).session
    }

    /// Breaks the connection, if there is one.
    pub fn cut(&self) {
        if let Some(session) = self.session() {
            self.memory.suspend(session);
        }
    }
}

impl Connector for Line {
    fn connect(&self) -> BoxFuture<'_, Result<Client, String>> {
        async {
            tokio::time::sleep(Duration::from_millis(5)).await;
            let (name, is_dead) = {
                let peer = self.peer.lock().unwrap_or_else(PoisonError::into_inner);
                (peer.name.clone(), peer.is_dead.load(Ordering::SeqCst))
            };
            if is_dead {
                std::future::pending::<()>().await;
            }
            let client = self.memory.connect().await?;
            let session = client.id();
            self.truth.open().owns(session, &name);
            self.peer.lock().unwrap_or_else(PoisonError::into_inner).session = Some(session);
            // Who is not what is tested: its connection breaks by the end of its session alone.
            if name != ZUUL && name != PEER {
                self.peers.open().by_session.insert(session, Arc::clone(&self.peer));
            }
            Ok(client)
        }
        .boxed()
    }

    fn servers(&self) -> &[config::ZooKeeperServer] {
        &[]
    }

    fn addresses(&self) -> String {
        "in memory".to_owned()
    }
}
