//! For tests only: a real ZooKeeper on loopback, proxies that break connections to it and to clouds on demand, and
//! waiting for a condition with a deadline.
//!
//! Nothing here is mocked: [`ZooKeeperServer`] runs `tests/services/zookeeper/run` in a directory of its own, in a
//! process group of its own, on free ports, and ends exactly that group when it is dropped.

// For tests, which measure by the host's clock.
#![allow(clippy::disallowed_methods)]
// A test's helper may stop the test: that is its way to fail.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::missing_panics_doc)]

mod collector;
mod fault_proxy;
pub mod faults;
mod ports;
mod proxy;
mod scripted_cloud;

pub use collector::{SpanCollector, Spanned};
pub use fault_proxy::FaultProxy;
pub use faults::{Calls, Fault, Rule};
pub use ports::{free_port, free_port_on};
pub use proxy::LossyProxy;
pub use scripted_cloud::ScriptedCloud;

use std::{
    future::Future,
    io::{Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpStream},
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, killpg},
    unistd::Pid,
};
use tempfile::TempDir;

/// How long a ZooKeeper may take to come up on a busy machine.
const START: Duration = Duration::from_secs(60);

/// Runs the script for as long as our end of its standard input is open. A server in a `static` is never dropped, and a
/// test process may be killed: the server ends with it in any case, and its directory is removed.
const GUARD: &str = r#""$0" "$@" </dev/null & server=$!; cat >/dev/null; kill $server; wait $server; rm -rf "$1""#;

/// A real ZooKeeper; gone when dropped, and with the test process.
#[derive(Debug)]
pub struct ZooKeeperServer {
    dir: TempDir,
    port: u16,
    tls_port: Option<u16>,
    child: Option<Child>,
}

impl ZooKeeperServer {
    /// Starts one without TLS and waits until it serves.
    pub fn start() -> Self {
        Self::run(false)
    }

    /// Starts one that also listens with TLS; see [`Self::tls_file`].
    pub fn start_tls() -> Self {
        Self::run(true)
    }

    fn run(tls: bool) -> Self {
        let mut server = Self {
            dir: TempDir::with_prefix("nodepool-zookeeper-").unwrap(),
            port: free_port(),
            tls_port: tls.then(free_port),
            child: None,
        };
        server.restart();
        server
    }

    /// The plain port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The port with TLS, of a server made by [`Self::start_tls`].
    pub fn tls_port(&self) -> u16 {
        self.tls_port.expect("a server made by start_tls")
    }

    /// `127.0.0.1:<port>`.
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// A certificate or key: `ca.pem`, `client.pem`, `client.key`, `client-operator.key` (as the operator ships it).
    pub fn tls_file(&self, name: &str) -> PathBuf {
        self.dir.path().join("tls").join(name)
    }

    /// The server's own directory, for a failed test's sake.
    pub fn directory(&self) -> &Path {
        self.dir.path()
    }

    /// Stops the server; its data stays.
    pub fn stop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let group = Pid::from_raw(i32::try_from(child.id()).unwrap());
            let _ = killpg(group, Signal::SIGTERM);
            let deadline = Instant::now() + Duration::from_secs(10);
            while Instant::now() < deadline && matches!(child.try_wait(), Ok(None)) {
                std::thread::sleep(Duration::from_millis(20));
            }
            let _ = killpg(group, Signal::SIGKILL);
            let _ = child.wait();
        }
    }

    /// Stops its processes without ending them: clients hear nothing, as in a network partition.
    pub fn pause(&self) {
        self.signal(Signal::SIGSTOP);
    }

    /// Ends [`Self::pause`].
    pub fn resume(&self) {
        self.signal(Signal::SIGCONT);
    }

    fn signal(&self, signal: Signal) {
        let child = self.child.as_ref().expect("the server runs");
        killpg(Pid::from_raw(i32::try_from(child.id()).unwrap()), signal).unwrap();
    }

    /// (Re)starts the server on the same ports with the same data, and waits until it serves.
    pub fn restart(&mut self) {
        self.stop();
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/services/zookeeper/run");
        let mut command = Command::new("bash");
        command.args(["-c", GUARD]).arg(&script).arg(self.dir.path()).arg(self.port.to_string());
        if let Some(port) = self.tls_port {
            command.arg(port.to_string());
        }
        command.stdin(Stdio::piped()).stdout(Stdio::null()).process_group(0);
        self.child = Some(command.spawn().unwrap_or_else(|error| panic!("{}: {error}", script.display())));
        let deadline = Instant::now() + START;
        while !self.serves() {
            assert!(Instant::now() < deadline, "ZooKeeper does not serve after {START:?}:\n{}", self.log());
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    fn serves(&self) -> bool {
        // `srvr`, not `ruok`: the latter is answered before the server serves.
        self.command("srvr").is_some_and(|answer| answer.contains("Mode:"))
            && self.tls_port.is_none_or(|port| TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_ok())
    }

    /// Sends one of ZooKeeper's four-letter commands; `None` where nobody answers.
    pub fn command(&self, command: &str) -> Option<String> {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, self.port));
        let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(1)).ok()?;
        stream.set_read_timeout(Some(Duration::from_secs(2))).ok()?;
        stream.write_all(command.as_bytes()).ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        Some(answer)
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("zookeeper.log")).unwrap_or_default()
    }
}

impl Drop for ZooKeeperServer {
    fn drop(&mut self) {
        if self.child.is_some() {
            // A paused process does not hear SIGTERM.
            self.resume();
        }
        self.stop();
    }
}

/// Waits until the condition yields a value; fails the test with `what` after `deadline`.
pub async fn wait_for<T, F>(deadline: Duration, what: &str, mut condition: impl FnMut() -> F) -> T
where
    F: Future<Output = Option<T>>,
{
    let start = Instant::now();
    loop {
        if let Some(value) = condition().await {
            return value;
        }
        assert!(start.elapsed() < deadline, "after {deadline:?} still not: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
