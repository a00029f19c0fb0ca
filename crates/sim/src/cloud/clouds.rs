//! [`Clouds`]: all clouds of a history, and the troubles that they have.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use nodepool_common::model::NodeId;
use serde_json::{Map, json};
use tokio::{sync::mpsc, time::Instant};

use super::{
    super::{
        chance::Chance,
        network::Calm,
        plan::{Plan, Trouble},
        story::{Story, tell},
        truth::SharedTruth,
    },
    failures::Failures,
    servers::{Cloud, Server},
};

/// The metadata of others' servers.
const OTHERS: &str = "others";

/// All clouds. Clones are the same ones.
#[derive(Clone, Debug)]
pub struct Clouds {
    by_name: Arc<Mutex<BTreeMap<String, Cloud>>>,
    pub chance: Chance,
    pub plan: Plan,
    calm: Calm,
    pub story: Story,
    pub truth: SharedTruth,
    /// Who is to die as soon as it has had a server made.
    dies_at_creation: Arc<Mutex<BTreeSet<String>>>,
    deaths: mpsc::UnboundedSender<String>,
    /// When the same call of a process failed, of late.
    pub failures: Failures,
}

/// A server of ours, for a look from outside.
#[derive(Clone, Debug)]
pub struct Seen {
    pub provider: String,
    pub id: String,
    pub node: NodeId,
}

impl Clouds {
    /// Those of a history; and who dies while it has a server made.
    pub fn new(plan: &Plan, calm: Calm, story: Story, truth: SharedTruth) -> (Self, mpsc::UnboundedReceiver<String>) {
        let (deaths, dying) = mpsc::unbounded_channel();
        let new = || Cloud { servers: BTreeMap::new(), quota: plan.quota, next: 0, away_until: None, calls: 0 };
        let clouds = plan.providers().into_iter().map(|name| (name.to_owned(), new())).collect();
        let clouds = Self {
            by_name: Arc::new(Mutex::new(clouds)),
            chance: Chance::of(plan.seed, "clouds"),
            plan: plan.clone(),
            calm,
            story,
            truth,
            dies_at_creation: Arc::default(),
            deaths,
            failures: Failures::default(),
        };
        (clouds, dying)
    }

    fn open(&self) -> MutexGuard<'_, BTreeMap<String, Cloud>> {
        self.by_name.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One cloud, without what is gone by now.
    pub fn with<T>(&self, provider: &str, act: impl FnOnce(&mut Cloud) -> T) -> T {
        let mut clouds = self.open();
        let cloud = clouds.get_mut(provider).unwrap();
        let now = Instant::now();
        cloud.servers.retain(|_, server| server.gone_at.is_none_or(|at| at > now));
        act(cloud)
    }

    /// Whether something goes wrong now, which does once in that many times.
    pub fn goes_wrong(&self, trouble: Trouble, times: usize) -> bool {
        self.plan.has(trouble) && !self.calm.is_now() && self.chance.one_in(times)
    }

    /// A process is to die when its next server has been made.
    pub fn kill_at_creation(&self, process: &str) {
        self.dies_at_creation.lock().unwrap_or_else(PoisonError::into_inner).insert(process.to_owned());
    }

    /// Whether a process is to die now that its server has been made. It is dead from now on for whoever starts others.
    pub fn dies_now(&self, process: &str) -> bool {
        let dies = self.dies_at_creation.lock().unwrap_or_else(PoisonError::into_inner).remove(process);
        if dies {
            let _ = self.deaths.send(process.to_owned());
        }
        dies
    }

    /// A cloud is away for a while.
    pub fn go_away(&self, provider: &str, pause: Duration) {
        tell!(self.story, "cloud {provider}: away for {} s", pause.as_secs());
        self.with(provider, |cloud| cloud.away_until = Some(Instant::now() + pause));
    }

    /// Others use so many servers from now on.
    pub fn others(&self, provider: &str, count: usize) {
        tell!(self.story, "cloud {provider}: others have {count} servers");
        self.truth.open().causes.others(provider, count);
        self.with(provider, |cloud| {
            cloud.servers.retain(|_, server| server.node.is_some());
            for _ in 0..count {
                let server = Server {
                    node: None,
                    provider: provider.to_owned(),
                    metadata: Map::from_iter([("owner".to_owned(), json!(OTHERS))]),
                    active_at: Some(Instant::now()),
                    fails: false,
                    gone_at: None,
                };
                let id = cloud.new_id(provider);
                cloud.servers.insert(id, server);
            }
        });
    }

    /// One of our servers vanishes.
    pub fn lose_a_server(&self, chance: &Chance) {
        let ours = self.ours();
        if ours.is_empty() {
            return;
        }
        let Seen { provider, id, node } = chance.pick(&ours);
        tell!(self.story, "cloud {provider}: server {id} of node {node} vanishes");
        self.with(provider, |cloud| cloud.servers.remove(id));
    }

    /// Troubles are over.
    pub fn calm_down(&self) {
        self.dies_at_creation.lock().unwrap_or_else(PoisonError::into_inner).clear();
        for provider in self.plan.providers() {
            self.truth.open().causes.others(provider, 0);
            self.with(provider, |cloud| {
                cloud.away_until = None;
                cloud.servers.retain(|_, server| server.node.is_some());
            });
        }
    }

    /// Our servers.
    pub fn ours(&self) -> Vec<Seen> {
        let mut seen = Vec::new();
        for provider in self.plan.providers() {
            self.with(provider, |cloud| {
                for (id, server) in &cloud.servers {
                    if let Some(node) = &server.node {
                        seen.push(Seen { provider: server.provider.clone(), id: id.clone(), node: node.clone() });
                    }
                }
            });
        }
        seen
    }

    /// Whether there is a server of that id.
    pub fn has_server(&self, id: &str) -> bool {
        let now = Instant::now();
        let is_there = |server: &Server| server.gone_at.is_none_or(|at| at > now);
        self.open().values().any(|cloud| cloud.servers.get(id).is_some_and(is_there))
    }

    /// How often they were asked so far.
    pub fn calls(&self) -> u64 {
        self.open().values().map(|cloud| cloud.calls).sum()
    }
}
