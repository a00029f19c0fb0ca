//! What the tests have around them.

use std::{
    fs,
    io::Write as _,
    path::PathBuf,
    process::{Command, Output, Stdio},
    time::Duration,
};

use nodepool_common::{
    config,
    sys::{Ambient, shutdown::Shutdown},
    zk::ZooKeeper,
};
use nodepool_testing::ZooKeeperServer;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

pub const NODEPOOL: &str = env!("CARGO_BIN_EXE_nodepool");

/// A ZooKeeper, a configuration that leads to it, and a second connection for a look behind the command line.
pub struct World {
    pub server: ZooKeeperServer,
    pub zk: ZooKeeper,
}

impl World {
    pub async fn start() -> Self {
        let server = ZooKeeperServer::start_tls();
        let tls = config::ZooKeeperTls {
            cert: server.tls_file("client.pem"),
            key: server.tls_file("client-operator.key"),
            ca: server.tls_file("ca.pem"),
            verify_hostname: false,
        };
        let zookeeper = config::ZooKeeper {
            servers: vec![config::ZooKeeperServer {
                host: "127.0.0.1".to_owned(),
                port: server.tls_port(),
                chroot: None,
            }],
            timeout: Duration::from_secs(10),
            tls: Some(tls.clone()),
        };
        let configuration = json!({
            "zookeeper-servers": [{"host": "127.0.0.1", "port": server.tls_port()}],
            "zookeeper-tls": {"cert": tls.cert, "key": tls.key, "ca": tls.ca},
            "labels": [{"name": "ubuntu"}],
            "diskimages": [{"name": "jammy", "formats": ["qcow2"]}, {"name": "noble", "pause": true}],
            "providers": [{"name": "fake-cloud", "cloud": "fake"}],
            "build-log-dir": server.directory().join("builds"),
        });
        fs::write(server.directory().join("nodepool.yaml"), configuration.to_string()).unwrap();
        let zk = ZooKeeper::start(&zookeeper, Ambient::system(), &Shutdown::new(), CancellationToken::new()).unwrap();
        zk.connected().await;
        Self { server, zk }
    }

    pub fn config(&self) -> PathBuf {
        self.server.directory().join("nodepool.yaml")
    }

    pub async fn add_node(&self, id: &str, record: &Value) {
        self.zk.create(&format!("/nodepool/nodes/{id}"), record.to_string().as_bytes()).await.unwrap();
    }

    pub async fn record(&self, path: &str) -> Option<Value> {
        let (data, _) = self.zk.get(path).await.unwrap()?;
        Some(serde_json::from_slice(&data).unwrap_or(Value::Null))
    }

    pub async fn nodepool(&self, arguments: &[&str]) -> Output {
        self.nodepool_answered(arguments, "").await
    }

    pub async fn nodepool_answered(&self, arguments: &[&str], answer: &str) -> Output {
        let mut command = Command::new(NODEPOOL);
        command.arg("-c").arg(self.config()).args(arguments);
        let answer = answer.to_owned();
        tokio::task::spawn_blocking(move || run(command, &answer)).await.unwrap()
    }
}

pub fn run(mut command: Command, answer: &str) -> Output {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    child.stdin.take().unwrap().write_all(answer.as_bytes()).unwrap();
    child.wait_with_output().unwrap()
}

/// Without ZooKeeper.
pub fn nodepool(arguments: &[&str]) -> Output {
    let mut command = Command::new(NODEPOOL);
    command.args(arguments).env_clear();
    run(command, "")
}

pub fn stdout(output: &Output) -> &str {
    std::str::from_utf8(&output.stdout).unwrap()
}

pub fn stderr(output: &Output) -> &str {
    std::str::from_utf8(&output.stderr).unwrap()
}

/// The cells of a table's rows, without the header.
pub fn rows(output: &Output) -> Vec<Vec<&str>> {
    assert_eq!(output.status.code(), Some(0), "{}", stderr(output));
    let lines = stdout(output).lines().filter(|line| line.starts_with('|')).skip(1);
    lines.map(|line| line.trim_matches('|').split('|').map(str::trim).collect()).collect()
}
