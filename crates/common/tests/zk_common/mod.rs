//! What the ZooKeeper tests share: a configuration for a test server, and connections that are closed.
#![allow(dead_code)] // each test binary uses some of it
// The host's time is that of a ZooKeeper in memory.
#![allow(clippy::disallowed_methods)]

use std::{
    sync::{Arc, LazyLock, Mutex},
    time::Duration,
};

use nodepool_common::{
    config,
    model::{Node, NodeId, NodeRequest},
    sys::{Ambient, clock, shutdown::Shutdown},
    zk::{InSession, ZooKeeper, memory::Memory},
};
use nodepool_testing::{ZooKeeperServer, wait_for};
use tokio_util::sync::CancellationToken;
use zookeeper_client::{Acls, Client, CreateMode};

/// Long enough for a machine with much else to do; a test that reaches it has failed.
pub const SOON: Duration = Duration::from_secs(30);

/// The server of those tests of a file that need none of their own, each in a chroot. Ends with the process.
pub static SERVER: LazyLock<ZooKeeperServer> = LazyLock::new(ZooKeeperServer::start);

/// Our connection to [`SERVER`].
pub async fn open(chroot: &str) -> ZooKeeper {
    let zk = connect(&config(&SERVER, chroot));
    zk.connected().await;
    zk
}

/// The same once the records are known.
pub async fn open_with_cache(chroot: &str) -> ZooKeeper {
    let zk = open(chroot).await;
    tokio::time::timeout(SOON, zk.cache().until_ready()).await.unwrap();
    zk
}

pub fn config(server: &ZooKeeperServer, chroot: &str) -> config::ZooKeeper {
    config::ZooKeeper {
        servers: vec![config::ZooKeeperServer {
            host: "127.0.0.1".to_owned(),
            port: server.port(),
            chroot: Some(chroot.to_owned()),
        }],
        timeout: Duration::from_secs(10),
        tls: None,
    }
}

pub fn connect(config: &config::ZooKeeper) -> ZooKeeper {
    ZooKeeper::start(config, Ambient::system(), &Shutdown::new(), CancellationToken::new()).unwrap()
}

/// For what is done in a session.
pub async fn current(zk: &ZooKeeper) -> InSession {
    zk.in_session(zk.connected().await)
}

/// A ZooKeeper in memory.
#[allow(clippy::cast_possible_truncation)] // ms since the epoch fit
pub fn in_memory() -> Memory {
    Memory::new(|| (clock::now() * 1000.0) as i64)
}

/// Our connection to one.
pub fn open_in(memory: &Memory) -> ZooKeeper {
    let connector = Arc::new(memory.clone());
    ZooKeeper::start_with(
        connector,
        Duration::from_secs(10),
        Ambient::system(),
        &Shutdown::new(),
        CancellationToken::new(),
    )
}

/// Somebody else's connection, without any of our code, in the same chroot.
pub async fn stranger(server: &ZooKeeperServer, chroot: &str) -> Client {
    let client = Client::connector()
        .with_session_timeout(Duration::from_secs(10))
        .connect(&format!("{}{chroot}", server.address()))
        .await
        .unwrap();
    if !chroot.is_empty() {
        let root = client.clone().chroot("/").unwrap();
        root.mkdir(chroot, &CreateMode::Persistent.with_acls(Acls::anyone_all())).await.unwrap();
    }
    client
}

/// Waits until a server has ended the session that has a node locked.
pub async fn expired(server: &ZooKeeperServer, node: &NodeId) {
    let (other, dir) = (stranger(server, "").await, format!("/nodepool/nodes/{node}/lock"));
    let gone = || async { other.list_children(&dir).await.unwrap().is_empty().then_some(()) };
    wait_for(SOON, "the session has expired", gone).await;
}

pub fn node(now: f64) -> Node {
    let mut node = Node::new(now);
    node.provider = Some("p".into());
    node.pool = Some("main".into());
    node.labels = vec!["ubuntu".into()];
    node
}

pub fn request(event: &str) -> NodeRequest {
    NodeRequest::min_ready(&"ubuntu".into(), event.to_owned(), 1_760_000_000.25)
}

pub const PERSISTENT: zookeeper_client::CreateOptions<'static> = CreateMode::Persistent.with_acls(Acls::anyone_all());

/// What was logged, message by message; also what other tests of the binary logged.
#[derive(Clone, Default)]
pub struct Log(Arc<Mutex<String>>);

impl Log {
    /// Installs it for the whole test binary, once.
    pub fn install() -> Self {
        static LOG: std::sync::OnceLock<Log> = std::sync::OnceLock::new();
        LOG.get_or_init(|| {
            let log = Log::default();
            let writer = log.clone();
            tracing_subscriber::fmt()
                .with_env_filter("info,zookeeper_client=off")
                .with_ansi(false)
                .with_writer(move || writer.clone())
                .init();
            log
        })
        .clone()
    }

    pub fn lines(&self, pattern: &str) -> Vec<String> {
        self.0.lock().unwrap().lines().filter(|line| line.contains(pattern)).map(str::to_owned).collect()
    }
}

impl std::io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().push_str(&String::from_utf8_lossy(bytes));
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}
