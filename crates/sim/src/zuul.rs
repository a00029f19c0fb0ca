//! A model Zuul: what its scheduler and executors do to requests and nodes, in their order and with their locks.
//!
//! A request is made, perhaps revised, perhaps withdrawn; when it is fulfilled its nodes are locked, then it is deleted, the nodes
//! are in use for a while, perhaps held, then used and unlocked. When Zuul's session ends all of its locks are gone: what
//! was being used is lost, and what was only asked for goes on.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use nodepool_common::{
    model::{Node, NodeId, NodeRequest, NodeState, RequestId, RequestState},
    sys::{clock::Clock, watch},
    zk::{
        paths,
        protocol::{Client, Connector, Error, Mode},
    },
};
use serde_json::json;
use tokio::time::Instant;

use super::{
    chance::Chance,
    kazoo,
    network::{Calm, Line},
    plan::{Plan, Trouble},
    story::{Story, broken, tell},
    truth::ZUUL,
};

/// For so long Zuul tries to lock a node that it was given.
const LOCKING: Duration = Duration::from_secs(30);

/// So many requests come in the same moment, where they come in bursts.
const BURST: usize = 4;

/// See the module's comment.
#[derive(Debug)]
pub struct Zuul {
    plan: Plan,
    calm: Calm,
    story: Story,
    clock: Clock,
    line: Line,
    client: watch::Sender<Option<Client>>,
    /// Requests that are not answered, or whose nodes are not returned, each with how far it is.
    open: Mutex<BTreeMap<usize, &'static str>>,
    /// When the last one was answered.
    progress: Mutex<Instant>,
}

/// Why a life of a request ends before its time.
enum Over {
    /// Zuul's session is.
    Session,
    /// What was given cannot be used.
    Unusable(String),
}

impl From<Error> for Over {
    fn from(error: Error) -> Self {
        match error {
            Error::SessionEnded | Error::Unanswered(_) => Self::Session,
            error => Self::Unusable(error.to_string()),
        }
    }
}

/// A node's lock, as Zuul has it.
struct Locked {
    node: NodeId,
    contender: String,
}

impl Zuul {
    /// One that is not connected yet.
    pub fn new(plan: &Plan, calm: Calm, story: Story, clock: Clock, line: Line) -> Arc<Self> {
        let (plan, client) = (plan.clone(), watch::Sender::new(None));
        let progress = Mutex::new(Instant::now());
        Arc::new(Self { plan, calm, story, clock, line, client, open: Mutex::default(), progress })
    }

    /// Begins a session; the one before is over.
    pub async fn connect(&self) {
        let client = self.line.connect().await.unwrap();
        for dir in [paths::REQUESTS, paths::REQUEST_LOCKS, paths::NODES] {
            let mut path = String::new();
            for part in dir.split('/').filter(|part| !part.is_empty()) {
                path = format!("{path}/{part}");
                let _ = client.create(&path, b"", Mode::Persistent).await;
            }
        }
        self.client.send_replace(Some(client));
    }

    /// Its current session.
    pub fn line(&self) -> &Line {
        &self.line
    }

    fn open(&self) -> MutexGuard<'_, BTreeMap<usize, &'static str>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is not over yet.
    pub fn what_is_open(&self) -> BTreeMap<usize, &'static str> {
        self.open().clone()
    }

    /// For how long nothing has come to its end.
    pub fn stands_still_for(&self) -> Duration {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner).elapsed()
    }

    /// Deletes a znode, whatever that is.
    pub async fn delete(&self, path: &str) {
        let _ = self.client().await.delete(path, None).await;
    }

    async fn client(&self) -> Client {
        let mut client = self.client.subscribe();
        loop {
            if let Some(client) = client.borrow_and_update().clone() {
                return client;
            }
            let _ = client.changed().await;
        }
    }

    /// Makes all requests of a history, each at its time.
    pub async fn make_requests(self: Arc<Self>) {
        let chance = Chance::of(self.plan.seed, "requests");
        let mut times: Vec<Duration> =
            (0..self.plan.requests).map(|_| chance.seconds(1.0, self.plan.calm_after.as_secs_f64())).collect();
        times.sort();
        if self.plan.has(Trouble::Bursts) {
            for burst in times.chunks_mut(BURST) {
                burst.fill(burst[0]);
            }
        }
        let began = Instant::now();
        for (number, time) in times.into_iter().enumerate() {
            tokio::time::sleep_until(began + time).await;
            let this = Arc::clone(&self);
            this.open().insert(number, "asked for");
            tokio::spawn(async move {
                this.live(number).await;
                this.open().remove(&number);
                *this.progress.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
            });
        }
    }

    /// The life of one request.
    async fn live(&self, number: usize) {
        let chance = Chance::of(self.plan.seed, &format!("request {number}"));
        let Some(path) = self.ask(number, &chance).await else { return };
        let id = RequestId::from(path.rsplit('/').next().unwrap_or_default());
        let mut revise = self.plan.has(Trouble::Revised).then(|| chance.seconds(0.5, 60.0));
        let withdraws = self.plan.has(Trouble::Withdrawn) && chance.one_in(4);
        let withdraw = withdraws.then(|| Instant::now() + chance.seconds(0.1, 90.0));
        loop {
            let client = self.client().await;
            let (data, changed) = match client.get_and_watch(&path).await {
                Ok((data, _, changed)) => (data, changed),
                Err(Error::NoNode) => {
                    // Zuul has deleted it, and does not know that: its session was over. That of a launcher would be noticed.
                    tell!(self.story, "zuul: request {id} is gone");
                    return;
                }
                Err(_) => {
                    tokio::time::sleep(Duration::from_millis(200)).await;
                    continue;
                }
            };
            let Ok((request, _)) = NodeRequest::read(id.clone(), &data) else { return };
            match request.state {
                RequestState::Failed => {
                    tell!(self.story, "zuul: request {id} failed: {:?}", request.decline_reasons);
                    self.delete_for_certain(&path).await;
                    return;
                }
                RequestState::Fulfilled => {
                    self.open().insert(number, "fulfilled");
                    match self.take(&client, &path, &request, number, &chance).await {
                        Ok(()) => return,
                        Err(Over::Unusable(why)) => {
                            broken!(self.story, "S1", "Zuul cannot use what request {id} was given: {why}");
                            return;
                        }
                        // Its locks are gone. Where the request is still there, it goes on.
                        Err(Over::Session) => {
                            let client = self.client().await;
                            if client.exists(&path).await.is_ok_and(|found| found.is_none()) {
                                tell!(self.story, "zuul: the nodes of request {id} are lost with its session");
                                return;
                            }
                            tokio::time::sleep(Duration::from_millis(200)).await;
                            continue;
                        }
                    }
                }
                RequestState::Requested | RequestState::Pending => {}
            }
            let pause = tokio::time::sleep(revise.unwrap_or(Duration::from_secs(3600)));
            let withdrawal =
                tokio::time::sleep_until(withdraw.unwrap_or_else(|| Instant::now() + Duration::from_secs(3600)));
            tokio::select! {
                biased;
                () = changed => {}
                () = pause => {
                    if revise.take().is_some() {
                        self.revise(&client, &path, &id, &chance).await;
                    }
                }
                () = withdrawal => {
                    if withdraw.is_some() {
                        tell!(self.story, "zuul: request {id} is withdrawn");
                        self.delete_for_certain(&path).await;
                        return;
                    }
                }
                // A new session: its watches are its own.
                () = self.another_client() => {}
            }
        }
    }

    async fn another_client(&self) {
        let _ = self.client.subscribe().changed().await;
    }

    /// Makes a request; its path.
    async fn ask(&self, number: usize, chance: &Chance) -> Option<String> {
        let count = self.plan.most_nodes.min(*chance.pick(&[1, 1, 1, 2, 2, 3, 5]));
        let labels: Vec<&str> = (0..count)
            .map(|_| if chance.one_in(60) { "nobody-has-it" } else { chance.pick(&self.plan.labels).name })
            .collect();
        let priority = chance.pick(&["100", "200", "200", "300"]);
        let now = self.clock.now();
        let request = json!({
            "requestor_data": {"job_name": format!("job {number}")}, "node_types": labels, "requestor": ZUUL,
            "created_time": now, "provider": null, "state": "requested", "state_time": now,
            "relative_priority": chance.below(3), "event_id": format!("event-{number}"), "tenant_name": "tenant",
        });
        let client = self.client().await;
        let path = format!("{}/{priority}-", paths::REQUESTS);
        let made = client.create(&path, request.to_string().as_bytes(), Mode::PersistentSequential).await;
        made.ok().map(|(path, _)| path)
    }

    /// Gives a request another relative priority, as Zuul does: where nobody has locked it.
    async fn revise(&self, client: &Client, path: &str, id: &RequestId, chance: &Chance) {
        let dir = paths::request_lock(id);
        let Ok(contender) = kazoo::contend(client, &dir, chance).await else { return };
        if kazoo::is_first(client, &dir, &contender).await.unwrap_or(false)
            && let Ok((data, stat)) = client.get(path).await
            && let Ok((mut request, _)) = NodeRequest::read(id.clone(), &data)
        {
            request.relative_priority = i64::try_from(chance.below(5)).unwrap();
            tell!(self.story, "zuul: request {id} has the relative priority {}", request.relative_priority);
            let _ = client.set(path, &request.write(), Some(stat.version)).await;
        }
        let _ = client.delete(&contender, None).await;
    }

    /// Takes what a request was given, uses it and gives it back.
    async fn take(
        &self,
        client: &Client,
        path: &str,
        request: &NodeRequest,
        number: usize,
        chance: &Chance,
    ) -> Result<(), Over> {
        tokio::time::sleep(chance.seconds(0.05, 3.0)).await;
        let mut locked = Vec::new();
        for node in &request.nodes {
            match self.lock(client, node, &request.id, chance).await {
                Ok(lock) => locked.push(lock),
                Err(over) => {
                    for lock in &locked {
                        let _ = client.delete(&lock.contender, None).await;
                    }
                    let _ = client.delete(path, None).await;
                    return Err(over);
                }
            }
        }
        match client.delete(path, None).await {
            Ok(()) | Err(Error::NoNode) => {}
            Err(error) => return Err(error.into()),
        }
        self.open().insert(number, "in use");
        for lock in &locked {
            self.set(client, &lock.node, NodeState::InUse).await?;
        }
        self.pause(chance, 300.0).await;
        let is_held = self.plan.has(Trouble::Held) && !self.calm.is_now() && chance.one_in(4);
        if is_held {
            let mut is_on_record = Vec::new();
            for lock in &locked {
                let held = self.set(client, &lock.node, NodeState::Hold).await;
                is_on_record.push(held.is_ok());
                let _ = client.delete(&lock.contender, None).await;
            }
            self.open().insert(number, "held");
            self.pause(chance, 900.0).await;
            for (lock, is_on_record) in locked.iter().zip(is_on_record) {
                self.release(&lock.node, &request.id, is_on_record, chance).await?;
            }
            return Ok(());
        }
        for lock in locked {
            self.set(client, &lock.node, NodeState::Used).await?;
            client.delete(&lock.contender, None).await?;
        }
        Ok(())
    }

    /// Gives a held node back, in whatever session there is by then. One that was not put on record as held may be gone.
    async fn release(
        &self,
        node: &NodeId,
        request: &RequestId,
        is_on_record: bool,
        chance: &Chance,
    ) -> Result<(), Over> {
        loop {
            let client = self.client().await;
            let released = async {
                if self.read(&client, node).await?.state == NodeState::Hold {
                    let lock = self.lock(&client, node, request, chance).await?;
                    self.set(&client, node, NodeState::Used).await?;
                    client.delete(&lock.contender, None).await?;
                }
                Ok(())
            };
            match released.await {
                Err(Over::Session) => tokio::time::sleep(Duration::from_millis(200)).await,
                Err(Over::Unusable(_)) if !is_on_record => return Ok(()),
                other => return other,
            }
        }
    }

    /// Deletes a znode, in whatever session it takes: a scheduler that begins anew looks for what the one before has left.
    async fn delete_for_certain(&self, path: &str) {
        while let Err(error) = self.client().await.delete(path, None).await
            && error != Error::NoNode
        {
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }

    /// As long as a job takes; short when troubles are over.
    async fn pause(&self, chance: &Chance, longest: f64) {
        let end = Instant::now() + chance.seconds(5.0, longest);
        while Instant::now() < end && !self.calm.is_now() {
            tokio::time::sleep_until(end.min(Instant::now() + Duration::from_secs(10))).await;
        }
    }

    async fn lock(&self, client: &Client, node: &NodeId, request: &RequestId, chance: &Chance) -> Result<Locked, Over> {
        let dir = paths::node_lock(node);
        let contender = kazoo::contend(client, &dir, chance).await?;
        let until = Instant::now() + LOCKING;
        while !kazoo::is_first(client, &dir, &contender).await? {
            if Instant::now() > until {
                let _ = client.delete(&contender, None).await;
                return Err(Over::Unusable(format!("node {node} is locked")));
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        let record = self.read(client, node).await?;
        if record.allocated_to.as_ref() != Some(request) {
            let _ = client.delete(&contender, None).await;
            return Err(Over::Unusable(format!("node {node} is {:?}'s", record.allocated_to)));
        }
        Ok(Locked { node: node.clone(), contender })
    }

    async fn read(&self, client: &Client, node: &NodeId) -> Result<Node, Over> {
        let (data, _) = client.get(&paths::node(node)).await?;
        Node::read(node.clone(), &data).map(|(node, _)| node).map_err(|error| Over::Unusable(error.to_string()))
    }

    async fn set(&self, client: &Client, node: &NodeId, state: NodeState) -> Result<(), Over> {
        let mut record = self.read(client, node).await?;
        record.set_state(state, self.clock.now());
        client.set(&paths::node(node), &record.write(), None).await?;
        Ok(())
    }
}
