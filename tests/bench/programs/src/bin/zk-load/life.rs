//! The life of requests, from their creation to the deletion of their nodes.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::rc::Rc;

use nodepool_bench::numbers::{float, now};
use nodepool_bench::zk::{CHANGED, EPHEMERAL, Error, SEQUENCE, Zk};
use tokio::sync::{Notify, Semaphore};
use tokio::task::spawn_local;
use tokio::time::{Duration, Instant, sleep, timeout_at};

use super::document::{self, Document};
use super::options::{Mode, Options};
use super::random::Random;

pub const REQUESTS: &str = "/nodepool/requests";
const NODES: &str = "/nodepool/nodes";

/// One request; times in seconds since the epoch.
#[derive(Default)]
pub struct Request {
    pub submitted: f64,
    pub requestor_data: String,
    /// Set with the request's creation.
    pub id: RefCell<String>,
    /// When it was seen fulfilled or failed.
    pub answered: Cell<Option<f64>>,
    pub failed: Cell<bool>,
    /// From creation to answer by ZooKeeper's clock, in seconds: free of our own delay.
    pub zk_latency: Cell<f64>,
    /// Its record as it was answered.
    pub record: RefCell<Vec<u8>>,
    returned: Cell<bool>,
    done: Notify,
}

/// All that is submitted.
pub struct Load {
    pub options: Options,
    pub requests: RefCell<Vec<Rc<Request>>>,
    pub errors: RefCell<Vec<String>>,
    /// How many are on record, answered, and given back.
    pub created: Cell<usize>,
    pub answered: Cell<usize>,
    pub returned: Cell<usize>,
    zk: Zk,
    random: Random,
    system_id: String,
    user_data: String,
    progress: Notify,
    room: Semaphore,
}

fn count(cell: &Cell<usize>) {
    cell.set(cell.get() + 1);
}

impl Load {
    pub fn new(options: Options, zk: Zk) -> Rc<Self> {
        let random = Random::new();
        let system_id = random.uuid();
        Rc::new(Self {
            room: Semaphore::new(if options.mode == Mode::Closed { options.concurrency } else { 0 }),
            options,
            requests: RefCell::default(),
            errors: RefCell::default(),
            created: Cell::default(),
            answered: Cell::default(),
            returned: Cell::default(),
            zk,
            random,
            user_data: format!("{{\"zuul_system\": \"{system_id}\", \"project_name\": \"bench-project\"}}"),
            system_id,
            progress: Notify::new(),
        })
    }

    /// How many requests were submitted.
    pub fn submitted(&self) -> usize {
        self.requests.borrow().len()
    }

    fn submit(self: &Rc<Self>) -> Rc<Request> {
        let submitted = now();
        let (requestor_data, all) = document::request(&self.options, &self.random, &self.system_id, submitted);
        let request = Rc::new(Request { submitted, requestor_data, ..Request::default() });
        self.requests.borrow_mut().push(request.clone());
        let path = format!("{REQUESTS}/{:03}-", self.options.priority);
        let created = self.zk.create(&path, all.as_bytes(), SEQUENCE);
        let (of, its) = (self.clone(), request.clone());
        spawn_local(async move {
            if let Err(e) = of.life(&its, created).await {
                of.errors.borrow_mut().push(format!("{}: {e}", its.id.borrow()));
            }
            of.finished(&its);
        });
        request
    }

    fn finished(&self, request: &Request) {
        if !request.returned.replace(true) {
            count(&self.returned);
            self.room.add_permits(1);
            request.done.notify_one();
            self.progress.notify_one();
        }
    }

    async fn life(
        self: &Rc<Self>,
        request: &Rc<Request>,
        created: impl Future<Output = Result<String, Error>>,
    ) -> Result<(), String> {
        let path = created.await;
        count(&self.created);
        self.progress.notify_one();
        let path = path.map_err(|e| format!("create: {e}"))?;
        let id = path.rsplit('/').next().unwrap_or_default().to_string();
        request.id.replace(id.clone());
        let answer = loop {
            let event = self.zk.watch(&path);
            let (data, stat) = self.zk.get(&path, true).await.map_err(|e| format!("read: {e}"))?;
            let time = now();
            let record: Document = serde_json::from_slice(&data).map_err(|e| format!("not JSON: {e}"))?;
            let state: String = record.value("state").unwrap_or_default();
            if state == "fulfilled" || state == "failed" {
                request.answered.set(Some(time));
                request.failed.set(state == "failed");
                let milliseconds = u32::try_from(stat.mtime - stat.ctime).unwrap_or_default();
                request.zk_latency.set(f64::from(milliseconds) / 1000.0);
                request.record.replace(data);
                count(&self.answered);
                self.progress.notify_one();
                break record;
            }
            match event.await {
                Ok(CHANGED) => {}
                Ok(_) => return Err("the request is gone".into()),
                Err(_) => return Err(Error::CONNECTION_LOSS.to_string()),
            }
        };
        if request.failed.get() {
            let _ = self.zk.delete(&path).await;
            return Ok(());
        }
        let nodes: Vec<String> = answer.value("nodes").unwrap_or_default();
        if nodes.is_empty() {
            return Err("fulfilled without nodes".into());
        }
        let to_lock = Rc::new(Cell::new(nodes.len()));
        let uses: Vec<_> = nodes
            .into_iter()
            .map(|node| {
                let (of, its, id, to_lock) = (self.clone(), request.clone(), id.clone(), to_lock.clone());
                spawn_local(async move { of.use_node(&its, &id, &node, &to_lock).await })
            })
            .collect();
        for node in uses {
            node.await.map_err(|e| e.to_string())??;
        }
        Ok(())
    }

    /// `to_lock`: how many of the request's nodes are not locked yet; the request is deleted when the last one is.
    async fn use_node(
        self: &Rc<Self>,
        request: &Rc<Request>,
        request_id: &str,
        id: &str,
        to_lock: &Cell<usize>,
    ) -> Result<(), String> {
        let zk = &self.zk;
        let failed = |what: &'static str| move |e: Error| format!("node {id}: {what}: {e}");
        let path = format!("{NODES}/{id}");
        let (data, _) = zk.get(&path, false).await.map_err(failed("read"))?;
        let node: Document = serde_json::from_slice(&data).map_err(|e| format!("node {id}: not JSON: {e}"))?;
        let owner: Option<String> = node.value("allocated_to");
        if owner.as_deref() != Some(request_id) {
            return Err(format!("node {id} is allocated to {}", owner.as_deref().unwrap_or("nobody")));
        }
        let lock = self.lock(&format!("{path}/lock")).await.map_err(failed("lock"))?;
        to_lock.set(to_lock.get() - 1);
        if to_lock.get() == 0 {
            let gone = zk.delete(&format!("{REQUESTS}/{request_id}"));
            let (of, its) = (self.clone(), request.clone());
            spawn_local(async move {
                if let Err(e) = gone.await {
                    of.errors.borrow_mut().push(format!("{}: delete: {e}", its.id.borrow()));
                    of.finished(&its);
                }
            });
        }
        let record = document::node(&node, "in-use", &self.user_data);
        zk.set(&path, record.as_bytes()).await.map_err(failed("in-use"))?;
        if self.options.hold > 0.0 {
            sleep(Duration::from_secs_f64(self.options.hold)).await;
        }
        let record = document::node(&node, "used", &self.user_data);
        zk.set(&path, record.as_bytes()).await.map_err(failed("used"))?;
        zk.delete(&lock).await.map_err(failed("unlock"))
    }

    /// kazoo's lock; returns the path of our contender once it is the first.
    async fn lock(&self, directory: &str) -> Result<String, Error> {
        let zk = &self.zk;
        let contender = format!("{directory}/{}__lock__", self.random.uuid());
        let mut ours = zk.create(&contender, b"", EPHEMERAL | SEQUENCE).await;
        if let Err(Error::NO_NODE) = ours {
            zk.ensure(directory).await?;
            ours = zk.create(&contender, b"", EPHEMERAL | SEQUENCE).await;
        }
        let ours = ours?;
        let name = ours.rsplit('/').next().unwrap_or_default();
        loop {
            let mut contenders = zk.children(directory).await?;
            contenders.sort_by_cached_key(|c| c.get(c.len().saturating_sub(10)..).map(String::from));
            let at = contenders.iter().position(|c| c == name).ok_or(Error::NO_NODE)?;
            if at == 0 {
                return Ok(ours);
            }
            // The launcher still holds it: wait until it lets go.
            let before = format!("{directory}/{}", contenders[at - 1]);
            let event = zk.watch(&before);
            match zk.exists(&before, true).await {
                Ok(_) => event.await.map(|_| ()).map_err(|_| Error::CONNECTION_LOSS)?,
                Err(Error::NO_NODE) => {}
                Err(e) => return Err(e),
            }
        }
    }

    /// Waits until it is reached; returns at the deadline, too.
    pub async fn until(&self, deadline: Instant, reached: impl Fn() -> bool) {
        while !reached() && timeout_at(deadline, self.progress.notified()).await.is_ok() {}
    }

    /// How many nodes are on record.
    pub async fn node_count(&self) -> Result<i32, Error> {
        match self.zk.exists(NODES, false).await {
            Ok(stat) => Ok(stat.children),
            Err(Error::NO_NODE) => Ok(0),
            Err(e) => Err(e),
        }
    }

    /// Seconds until at most `keep` nodes are left, None if they are not in time.
    pub async fn empty_but(&self, keep: i32, timeout: f64, poll: f64) -> Option<f64> {
        let start = now();
        while now() - start < timeout {
            if self.node_count().await.ok()? <= keep {
                return Some(now() - start);
            }
            sleep(Duration::from_secs_f64(poll)).await;
        }
        None
    }

    /// Submits all; returns by how many seconds the open mode was late at worst.
    pub async fn submit_all(self: &Rc<Self>, start: f64, keep: i32) -> f64 {
        let options = &self.options;
        let end = Instant::now() + Duration::from_secs_f64(options.timeout);
        let mut late: f64 = 0.0;
        let mut last: Option<Rc<Request>> = None;
        for i in 0..options.requests {
            match options.mode {
                Mode::Burst => {}
                Mode::Closed => match timeout_at(end, self.room.acquire()).await {
                    Ok(Ok(permit)) => permit.forget(),
                    _ => break,
                },
                Mode::Open => {
                    let wait = start + float(i) / options.rate - now();
                    if wait > 0.0 {
                        sleep(Duration::from_secs_f64(wait)).await;
                    } else {
                        late = late.max(-wait);
                    }
                }
                Mode::Serial => {
                    if let Some(request) = &last {
                        let wait = (request.submitted + options.timeout - now()).max(0.0);
                        let end = Instant::now() + Duration::from_secs_f64(wait);
                        let _ = timeout_at(end, request.done.notified()).await;
                        if options.wait_empty {
                            self.empty_but(keep, options.timeout, 0.05).await;
                        }
                        sleep(Duration::from_secs_f64(options.gap * self.random.share())).await;
                    }
                }
            }
            last = Some(self.submit());
            if options.mode != Mode::Serial && Instant::now() > end {
                break;
            }
            tokio::task::yield_now().await; // so that it is sent
        }
        late
    }
}
