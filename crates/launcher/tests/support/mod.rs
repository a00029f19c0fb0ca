//! What the tests of the whole `nodepool-launcher` share: the process, its surroundings, and Zuul's part.
//!
//! A [`Stage`] is one test's world: a directory with the configuration and the fake cloud's script, a chroot in a real
//! ZooKeeper, and a connection to it that has none of our code in it. Processes are ended by their ids when dropped.
//! Every wait is for a condition and has a deadline; the failure shows the launchers' log.

// Measures by the host's clock, and names what it makes by its chance.
#![allow(clippy::disallowed_methods)]
#![allow(dead_code, clippy::unwrap_used, clippy::expect_used, clippy::panic)] // each test binary uses some of it

use std::{
    cell::Cell,
    collections::BTreeMap,
    fmt::Write as _,
    fs::{self, File},
    future::Future,
    io::{Read, Write},
    net::{Ipv4Addr, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::Arc,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use nodepool_testing::{ZooKeeperServer, free_port};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::sync::{Mutex, MutexGuard};
use zookeeper_client::{Acls, Client, CreateMode, CreateOptions};

/// Long enough for a machine with much else to do; a test that reaches it has failed.
pub const SOON: Duration = Duration::from_secs(30);

const PERSISTENT: CreateOptions<'static> = CreateMode::Persistent.with_acls(Acls::anyone_all());
const SEQUENTIAL: CreateOptions<'static> = CreateMode::PersistentSequential.with_acls(Acls::anyone_all());

/// The test binary's ZooKeeper, for tests that do not harm it.
pub fn zookeeper() -> &'static ZooKeeperServer {
    static SERVER: std::sync::OnceLock<ZooKeeperServer> = std::sync::OnceLock::new();
    SERVER.get_or_init(ZooKeeperServer::start)
}

/// Tests that measure, and those with many processes, come one after the other.
pub async fn alone() -> MutexGuard<'static, ()> {
    static LOCK: Mutex<()> = Mutex::const_new(());
    LOCK.lock().await
}

pub fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs_f64()
}

/// One test's world.
pub struct Stage {
    dir: TempDir,
    server_port: u16,
    chroot: String,
    pub zk: Client,
    /// Seconds of the launchers' ZooKeeper sessions.
    pub session_timeout: Cell<f64>,
    /// Seconds between two searches for leaked resources.
    pub cleanup_interval: Cell<f64>,
    environment: std::cell::RefCell<Vec<(String, String)>>,
    started: Cell<u32>,
}

impl Stage {
    pub async fn new(server: &ZooKeeperServer) -> Self {
        let dir = TempDir::with_prefix("nodepool-launcher-").unwrap();
        let chroot = format!("/{}", dir.path().file_name().unwrap().to_str().unwrap());
        let connect = || async {
            let connector = Client::connector().with_session_timeout(Duration::from_secs(40));
            connector.connect(&server.address()).await.ok()
        };
        let zk = nodepool_testing::wait_for(SOON, "connected to ZooKeeper", connect).await;
        zk.mkdir(&format!("{chroot}/nodepool/requests"), &PERSISTENT).await.unwrap();
        zk.mkdir(&format!("{chroot}/nodepool/nodes"), &PERSISTENT).await.unwrap();
        let zk = zk.chroot(chroot.clone()).unwrap_or_else(|_| panic!("a chroot {chroot}"));
        let stage = Self {
            dir,
            server_port: server.port(),
            chroot,
            zk,
            session_timeout: Cell::new(10.0),
            cleanup_interval: Cell::new(60.0),
            environment: std::cell::RefCell::default(),
            started: Cell::new(0),
        };
        stage.script(&json!({}));
        stage
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Further environment of launchers that start from now on.
    pub fn set_env(&self, name: &str, value: &Path) {
        self.environment.borrow_mut().push((name.to_owned(), value.to_str().unwrap().to_owned()));
    }

    /// What the fake clouds do from now on; whole at any moment.
    pub fn script(&self, script: &Value) {
        let aside = self.path("script.new");
        fs::write(&aside, script.to_string()).unwrap();
        fs::rename(&aside, self.path("script.json")).unwrap();
    }

    /// A configuration with these providers. The labels are those that the pools mention.
    pub fn configuration(&self, providers: &[Value]) -> Value {
        let mut labels: Vec<&str> = Vec::new();
        for pool in providers.iter().flat_map(|p| p["pools"].as_array().unwrap()) {
            labels.extend(pool["labels"].as_array().into_iter().flatten().map(|label| label["name"].as_str().unwrap()));
            // Static hosts have one as a text, or several in a list.
            for of_host in pool["nodes"].as_array().into_iter().flatten().map(|host| &host["labels"]) {
                labels.extend(of_host.as_str());
                labels.extend(of_host.as_array().into_iter().flatten().filter_map(Value::as_str));
            }
        }
        labels.sort_unstable();
        labels.dedup();
        json!({
            "zookeeper-servers": [{"host": "127.0.0.1", "port": self.server_port, "chroot": self.chroot}],
            "zookeeper-timeout": self.session_timeout.get(),
            "labels": labels.iter().map(|name| json!({"name": name})).collect::<Vec<_>>(),
            "providers": providers,
        })
    }

    /// Writes the configuration file in place, as the operator does. JSON is YAML.
    pub fn configure(&self, providers: &[Value]) {
        self.write_config(&serde_json::to_string_pretty(&self.configuration(providers)).unwrap());
    }

    pub fn write_config(&self, text: &str) {
        fs::write(self.path("nodepool.yaml"), text).unwrap();
    }

    /// Starts a launcher, and does not wait for it.
    pub fn launch(&self) -> Launcher {
        self.started.set(self.started.get() + 1);
        let log = self.path(&format!("launcher-{}.log", self.started.get()));
        let port = free_port();
        let mut command = Command::new(env!("CARGO_BIN_EXE_nodepool-launcher"));
        command.arg("-f").arg("-c").arg(self.path("nodepool.yaml"));
        command.args(["--web-address", "127.0.0.1", "--web-port", &port.to_string()]);
        command.args(["--cleanup-interval", &self.cleanup_interval.get().to_string(), "--delete-interval", "0.5"]);
        command.env("NODEPOOL_FAKE_CLOUD_SCRIPT", self.path("script.json"));
        command.envs(self.environment.borrow().iter().map(|(name, value)| (name, value)));
        command.stdin(Stdio::null()).stdout(File::create(&log).unwrap());
        command.stderr(File::options().append(true).open(&log).unwrap());
        let child = command.spawn().unwrap();
        Launcher { child, port, log }
    }

    /// Starts a launcher and waits until it is ready.
    pub async fn launcher(&self) -> Launcher {
        let mut launcher = self.launch();
        self.wait("the launcher is ready", async || {
            assert!(launcher.exited().is_none(), "the launcher ended:\n{}", launcher.log());
            launcher.get("/ready").is_some_and(|(status, _)| status == 200)
        })
        .await;
        launcher
    }

    /// Waits for a condition; a failure shows what all launchers logged, and the records.
    pub async fn wait(&self, what: &str, condition: impl AsyncFnMut() -> bool) {
        self.wait_within(SOON, what, condition).await;
    }

    pub async fn wait_within(&self, deadline: Duration, what: &str, mut condition: impl AsyncFnMut() -> bool) {
        let start = Instant::now();
        while !condition().await {
            let late = start.elapsed() > deadline;
            assert!(!late, "after {deadline:?} still not: {what}\n{}", self.everything().await);
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// For the message of a failed test.
    pub async fn everything(&self) -> String {
        let mut text = String::new();
        for number in 1..=self.started.get() {
            let log = fs::read_to_string(self.path(&format!("launcher-{number}.log"))).unwrap_or_default();
            let lines: Vec<_> = log.lines().collect();
            let last = lines[lines.len().saturating_sub(150)..].join("\n");
            writeln!(text, "--- launcher {number}\n{last}").unwrap();
        }
        let records = tokio::time::timeout(Duration::from_secs(5), async {
            let mut text = String::new();
            for what in ["requests", "nodes"] {
                for (id, record) in self.records(what).await.into_iter().take(20) {
                    writeln!(text, "{what}/{id}: {record}").unwrap();
                }
            }
            text
        });
        text + &records.await.unwrap_or_else(|_| "ZooKeeper does not answer\n".to_owned())
    }

    /// Writes a request with every key that Zuul writes; its id.
    pub async fn request(&self, labels: &[&str]) -> String {
        let record = json!({
            "requestor": "zuul", "requestor_data": null, "tenant_name": "tenant", "provider": null,
            "state": "requested", "state_time": now(), "created_time": now(), "relative_priority": 0,
            "node_types": labels, "nodes": [], "reuse": true, "declined_by": [], "event_id": "0123456789abcdef",
        });
        self.request_of(&record.to_string()).await
    }

    /// Writes a request that is whatever it is; its id.
    pub async fn request_of(&self, record: &str) -> String {
        let (_, sequence) = self.zk.create("/nodepool/requests/100-", record.as_bytes(), &SEQUENTIAL).await.unwrap();
        format!("100-{sequence}")
    }

    pub async fn create(&self, path: &str, data: &[u8]) {
        self.zk.create(path, data, &PERSISTENT).await.unwrap();
    }

    /// The data at a path below /nodepool. Waits out a ZooKeeper that is away.
    pub async fn data(&self, path: &str) -> Option<Vec<u8>> {
        let start = Instant::now();
        loop {
            match self.zk.get_data(&format!("/nodepool/{path}")).await {
                Ok((data, _)) => return Some(data),
                Err(zookeeper_client::Error::NoNode) => return None,
                Err(zookeeper_client::Error::ConnectionLoss) if start.elapsed() < SOON => {
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
                Err(error) => panic!("reading {path}: {error}"),
            }
        }
    }

    /// The record at a path below /nodepool; null where there is none or it is none.
    pub async fn record(&self, path: &str) -> Value {
        self.data(path).await.and_then(|data| serde_json::from_slice(&data).ok()).unwrap_or_default()
    }

    /// All records below /nodepool/`what`.
    pub async fn records(&self, what: &str) -> BTreeMap<String, Value> {
        let mut records = BTreeMap::new();
        for id in self.zk.list_children(&format!("/nodepool/{what}")).await.unwrap_or_default() {
            if let Some(data) = self.data(&format!("{what}/{id}")).await {
                records.insert(id, serde_json::from_slice(&data).unwrap_or_default());
            }
        }
        records
    }

    pub async fn state(&self, request: &str) -> String {
        self.record(&format!("requests/{request}")).await["state"].as_str().unwrap_or("gone").to_owned()
    }

    pub async fn wait_for_state(&self, request: &str, state: &str) -> Value {
        self.wait(&format!("request {request} is {state}"), async || self.state(request).await == state).await;
        self.record(&format!("requests/{request}")).await
    }

    pub async fn fulfilled(&self, request: &str) -> Value {
        self.wait_for_state(request, "fulfilled").await
    }

    /// Zuul's end of a build: its nodes are used, the request is deleted.
    pub async fn release(&self, request: &str) {
        for node in self.record(&format!("requests/{request}")).await["nodes"].as_array().unwrap() {
            let path = format!("nodes/{}", node.as_str().unwrap());
            let mut record = self.record(&path).await;
            record["state"] = json!("used");
            record["state_time"] = json!(now());
            self.zk.set_data(&format!("/nodepool/{path}"), record.to_string().as_bytes(), None).await.unwrap();
        }
        self.zk.delete(&format!("/nodepool/requests/{request}"), None).await.unwrap();
    }

    /// Waits until there are no nodes, neither on record nor, with a state file, in the cloud.
    pub async fn no_node_is_left(&self) {
        self.wait("no node is left", async || {
            self.zk.list_children("/nodepool/nodes").await.unwrap().is_empty() && self.servers().is_empty()
        })
        .await;
    }

    /// The pools that take part.
    pub async fn pools(&self) -> Vec<Value> {
        self.records("components/pool").await.into_values().collect()
    }

    /// Waits until some pool says that it has a label.
    pub async fn offered(&self, label: &str) {
        let has = |pool: &Value| pool["supported_labels"].as_array().is_some_and(|list| list.contains(&json!(label)));
        self.wait(&format!("label {label} is offered"), async || self.pools().await.iter().any(has)).await;
    }

    /// Waits until a pool of each of these providers takes part: before that, another one serves what they would have.
    pub async fn taking_part(&self, providers: &[&str]) {
        self.wait(&format!("{} take part", providers.join(", ")), async || {
            let pools = self.pools().await;
            providers.iter().all(|name| pools.iter().any(|pool| pool["provider_name"] == **name))
        })
        .await;
    }

    /// Where the fake clouds keep their servers, for the script's `state_dir`: a file for each provider, so that they
    /// outlive the launcher.
    pub fn state_dir(&self) -> PathBuf {
        let path = self.path("clouds");
        fs::create_dir_all(&path).unwrap();
        path
    }

    /// Lets the servers of a provider boot that `hang_boot` keeps from it; the launcher looks once a second. For a moment
    /// when no server is created or deleted there.
    pub fn boot(&self, provider: &str) {
        let mut servers = self.state_of(provider)["servers"].clone();
        for server in servers.as_object_mut().unwrap().values_mut() {
            server["boots_at"] = json!(now());
        }
        self.set_servers(provider, &servers);
    }

    /// The servers of a provider are these from now on, as somebody else would change them.
    pub fn set_servers(&self, provider: &str, servers: &Value) {
        let (file, aside) = (format!("{provider}.json"), format!("{provider}.aside"));
        fs::write(self.state_dir().join(&aside), json!({"servers": servers, "images": {}}).to_string()).unwrap();
        fs::rename(self.state_dir().join(aside), self.state_dir().join(file)).unwrap();
    }

    fn state_of(&self, provider: &str) -> Value {
        let file = self.state_dir().join(format!("{provider}.json"));
        serde_json::from_slice(&fs::read(file).unwrap()).unwrap()
    }

    /// The servers in the state files.
    pub fn servers(&self) -> BTreeMap<String, Value> {
        let mut servers = BTreeMap::new();
        for file in fs::read_dir(self.state_dir()).unwrap().map(|file| file.unwrap().path()) {
            if file.extension().is_some_and(|extension| extension == "json") {
                let state: Value = serde_json::from_slice(&fs::read(file).unwrap()).unwrap();
                let provider = state["servers"].as_object().unwrap();
                servers.extend(provider.iter().map(|(id, server)| (id.clone(), server.clone())));
            }
        }
        servers.retain(|_, server| server["gone_at"].as_f64().is_none_or(|at| at > now()));
        servers
    }
}

/// A provider of the fake driver with one pool, `main`.
pub fn fake(name: &str, labels: &[&str], max_servers: u32) -> Value {
    let labels: Vec<_> =
        labels.iter().map(|label| json!({"name": label, "cloud-image": "image", "min-ram": 8192})).collect();
    json!({
        "name": name, "driver": "fake", "cloud": "fake", "launch-retries": 3,
        "cloud-images": [{"name": "image", "image-id": "fake-image-id", "username": "zuul"}],
        "pools": [{"name": "main", "max-servers": max_servers, "labels": labels}],
    })
}

/// A provider of the openstack driver.
pub fn openstack(name: &str, cloud: &str, label: &str) -> Value {
    let mut provider = fake(name, &[label], 5);
    provider["driver"] = json!("openstack");
    provider["cloud"] = json!(cloud);
    provider
}

/// A running launcher; killed when dropped.
pub struct Launcher {
    child: Child,
    pub port: u16,
    pub log: PathBuf,
}

impl Launcher {
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap()
    }

    /// How many lines of the log contain all of these.
    pub fn count(&self, words: &[&str]) -> usize {
        self.log().lines().filter(|line| words.iter().all(|word| line.contains(word))).count()
    }

    pub fn logged(&self, words: &[&str]) -> bool {
        self.count(words) > 0
    }

    /// Waits for such a line: what the records show may be there before it is logged.
    pub async fn has_logged(&self, words: &[&str]) {
        self.wait_for_lines(words, |count| count > 0).await;
    }

    /// Waits until there are that many such lines, and not more.
    pub async fn has_logged_times(&self, times: usize, words: &[&str]) {
        self.wait_for_lines(words, |count| count >= times).await;
        assert_eq!(self.count(words), times, "lines with all of {words:?}:\n{}", self.log());
    }

    async fn wait_for_lines(&self, words: &[&str], enough: impl Fn(usize) -> bool) {
        let start = Instant::now();
        loop {
            let count = self.count(words);
            if enough(count) {
                return;
            }
            assert!(start.elapsed() < SOON, "{count} lines have all of {words:?}:\n{}", self.log());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Status and body; `None` where nobody answers.
    pub fn get(&self, path: &str) -> Option<(u16, String)> {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).ok()?;
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        write!(stream, "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        let (head, body) = answer.split_once("\r\n\r\n")?;
        Some((head.split(' ').nth(1)?.parse().ok()?, body.to_owned()))
    }

    pub fn ready(&self) -> String {
        let (status, body) = self.get("/ready").expect("an answer");
        assert_eq!(status, 200, "{body}");
        body
    }

    /// `/pool-list`.
    pub fn pool_list(&self) -> Value {
        serde_json::from_str(&self.get("/pool-list").expect("an answer").1).unwrap()
    }

    /// One line of `/metrics`.
    pub fn metric(&self, name: &str) -> Option<f64> {
        let (_, text) = self.get("/metrics").expect("an answer");
        text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok())
    }

    pub fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(i32::try_from(self.child.id()).unwrap()), signal).unwrap();
    }

    pub fn exited(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().unwrap()
    }

    /// Waits for its end.
    pub async fn ended_soon(&mut self) -> ExitStatus {
        self.ended(SOON).await
    }

    /// The same where it may take longer, or must not take as long.
    pub async fn ended(&mut self, within: Duration) -> ExitStatus {
        let start = Instant::now();
        loop {
            if let Some(status) = self.exited() {
                return status;
            }
            assert!(start.elapsed() < within, "the launcher still runs after {within:?}:\n{}", self.log());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// `kill -9`.
    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Launcher {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Runs futures side by side, at most so many at once.
pub async fn side_by_side<F: Future<Output = ()>>(at_once: usize, futures: impl IntoIterator<Item = F>) {
    let permits = Arc::new(tokio::sync::Semaphore::new(at_once));
    let limited = futures.into_iter().map(|future| {
        let permits = Arc::clone(&permits);
        Box::pin(async move {
            let _permit = permits.acquire().await.unwrap();
            future.await;
        })
    });
    futures::future::join_all(limited).await;
}
