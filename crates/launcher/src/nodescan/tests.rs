//! Scans of real servers on loopback: sshd, and listeners that misbehave.

use std::{
    fmt::Write as _,
    fs,
    path::Path,
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use nodepool_testing::free_port;
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
    time::Instant,
};

use super::*;

const SSHD: &str = "/usr/sbin/sshd";
const BUDGET: Duration = Duration::from_secs(60);

fn target(port: u16, connection_type: &str) -> Target {
    Target {
        address: "127.0.0.1".to_owned(),
        port,
        connection_type: connection_type.to_owned(),
        host_key_checking: true,
    }
}

/// A real sshd with its own host keys; ended when dropped.
struct Sshd {
    child: Child,
    port: u16,
    /// As in the `.pub` files, without their comments, in the order of [`KEYS`].
    keys: Vec<String>,
    dir: TempDir,
}

/// ssh-keygen's type and size.
const KEYS: [(&str, &str); 5] =
    [("ed25519", "256"), ("ecdsa", "256"), ("ecdsa", "384"), ("ecdsa", "521"), ("rsa", "2048")];

impl Sshd {
    /// `None`, with a line that says so, where sshd is not installed.
    fn start(port: u16, keys: &[(&str, &str)], extra: &str) -> Option<Self> {
        if !Path::new(SSHD).exists() {
            eprintln!("SKIPPED: {SSHD} is not installed");
            return None;
        }
        // sshd insists on its directory for privilege separation when it runs as root.
        let _ = fs::create_dir_all("/run/sshd");
        let dir = tempfile::tempdir().unwrap();
        let mut config = format!(
            "Port {port}\nListenAddress 127.0.0.1\nPidFile none\nUsePAM no\nStrictModes no\nLogLevel VERBOSE\nMaxStartups 2000\n{extra}\n"
        );
        let mut public = Vec::new();
        for (kind, bits) in keys {
            let path = dir.path().join(format!("{kind}_{bits}"));
            let made = Command::new("ssh-keygen")
                .args(["-q", "-N", "", "-t", kind, "-b", bits, "-f"])
                .arg(&path)
                .status()
                .unwrap();
            assert!(made.success());
            writeln!(config, "HostKey {}", path.display()).unwrap();
            let text = fs::read_to_string(path.with_extension("pub")).unwrap();
            public.push(text.split(' ').take(2).collect::<Vec<_>>().join(" ").trim().to_owned());
        }
        let path = dir.path().join("sshd_config");
        fs::write(&path, config).unwrap();
        let child = Command::new(SSHD)
            .args(["-D", "-f"])
            .arg(&path)
            .arg("-E")
            .arg(dir.path().join("log"))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        Some(Self { child, port, keys: public, dir })
    }
}

impl Drop for Sshd {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// As sshd has counted them.
fn connections(sshd: &Sshd) -> usize {
    let log = fs::read_to_string(sshd.dir.path().join("log")).unwrap();
    log.lines().filter(|line| line.starts_with("Connection from ")).count()
}

#[tokio::test]
async fn a_key_costs_one_connection_and_a_type_that_the_server_lacks_none() {
    let Some(sshd) = Sshd::start(free_port(), &[("ed25519", "256"), ("ecdsa", "256"), ("rsa", "2048")], "") else {
        return;
    };
    let (nodescan, target) = (Nodescan::new(), target(sshd.port, "ssh"));
    assert_eq!(nodescan.scan(&target, BUDGET).await.unwrap(), sshd.keys);
    assert_eq!(connections(&sshd), 3);
    for (number, key) in sshd.keys.iter().enumerate() {
        let shown = nodescan.confirm(&target, std::slice::from_ref(key), BUDGET).await.unwrap();
        assert_eq!(shown, std::slice::from_ref(key));
        assert_eq!(connections(&sshd), 4 + number, "a known key needs one");
    }
    let none = nodescan.confirm(&target, &["ecdsa-sha2-nistp521 AAAA".to_owned()], BUDGET).await.unwrap();
    assert!(none.is_empty(), "the server has no such key: {none:?}");
    assert_eq!(connections(&sshd), 7);
    let all = nodescan.confirm(&target, &["ssh-of-tomorrow AAAA".to_owned()], BUDGET).await.unwrap();
    assert_eq!(all, sshd.keys, "a type that we do not know is looked for among all");
}

/// What sshd 9.8 does to an address with too many connections without a login.
#[tokio::test]
async fn a_server_that_refuses_our_address_is_named_with_the_way_out() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let server = tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let _ = stream.write_all(b"Not allowed at this time\r\n").await;
            let _ = timeout(Duration::from_secs(1), stream.read(&mut [0; 64])).await;
        }
    });
    let error = Nodescan::new().scan(&target(port, "ssh"), Duration::from_secs(6)).await.unwrap_err();
    server.abort();
    assert!(error.to_string().contains("PerSourcePenaltyExemptList"), "{error}");
}

/// Upstream's `test_nodescan`.
#[tokio::test]
async fn every_type_of_host_key_is_collected() {
    let Some(sshd) = Sshd::start(free_port(), &KEYS, "") else { return };
    for connection_type in ["ssh", "network_cli"] {
        let keys = Nodescan::new().scan(&target(sshd.port, connection_type), BUDGET).await.unwrap();
        assert_eq!(keys, sshd.keys, "{connection_type}");
    }
}

#[tokio::test]
async fn types_that_the_server_does_not_have_are_left_out() {
    let Some(sshd) = Sshd::start(free_port(), &[("ecdsa", "384"), ("rsa", "2048")], "") else { return };
    let keys = Nodescan::new().scan(&target(sshd.port, "ssh"), BUDGET).await.unwrap();
    assert_eq!(keys, sshd.keys);
}

/// Old network devices offer nothing better.
#[tokio::test]
async fn a_server_with_only_old_algorithms_is_scanned() {
    let old =
        "KexAlgorithms diffie-hellman-group14-sha1\nCiphers aes128-cbc\nMACs hmac-sha1\nHostKeyAlgorithms ssh-rsa";
    let Some(sshd) = Sshd::start(free_port(), &[("rsa", "2048")], old) else { return };
    let keys = Nodescan::new().scan(&target(sshd.port, "network_cli"), BUDGET).await.unwrap();
    assert_eq!(keys, sshd.keys);
}

#[tokio::test]
async fn a_server_whose_key_types_we_do_not_know_has_no_keys() {
    // Its greeting: a KEXINIT with no key type but one for hardware tokens.
    let mut payload = vec![20; 17];
    for names in [
        "curve25519-sha256",
        "sk-ssh-ed25519@openssh.com",
        "aes128-ctr",
        "aes128-ctr",
        "hmac-sha2-256",
        "hmac-sha2-256",
        "none",
        "none",
        "",
        "",
    ] {
        payload.extend(u32::try_from(names.len()).unwrap().to_be_bytes());
        payload.extend(names.as_bytes());
    }
    payload.extend([0; 5]);
    let padding = 8 - (payload.len() + 5) % 8 + 8;
    let mut greeting = b"SSH-2.0-token\r\n".to_vec();
    greeting.extend(u32::try_from(1 + payload.len() + padding).unwrap().to_be_bytes());
    greeting.push(u8::try_from(padding).unwrap());
    greeting.extend(payload);
    greeting.resize(greeting.len() + padding, 0);

    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let server = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        stream.write_all(&greeting).await.unwrap();
        let _ = stream.read_to_end(&mut Vec::new()).await;
    });
    let keys = Nodescan::new().scan(&target(port, "ssh"), BUDGET).await.unwrap();
    assert!(keys.is_empty(), "{keys:?}");
    server.abort();
}

/// Upstream's `test_nodescan_connection_timeout`.
#[tokio::test]
async fn a_node_that_refuses_times_out_and_says_so() {
    let budget = Duration::from_secs(5);
    let started = Instant::now();
    let error = Nodescan::new().scan(&target(free_port(), "ssh"), budget).await.unwrap_err();
    assert!(started.elapsed() >= budget && started.elapsed() < budget * 6, "{:?}", started.elapsed());
    let ScanError::Timeout { attempts, ref last, .. } = error;
    assert!(attempts >= 2);
    assert_eq!(last, "connection refused");
    assert!(error.to_string().contains("scanning 127.0.0.1 port "), "{error}");
}

/// Upstream's `test_nodescan_ssh_timeout`.
#[tokio::test]
async fn a_node_that_accepts_and_says_nothing_times_out_and_says_so() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let error = Nodescan::new().scan(&target(port, "ssh"), Duration::from_secs(5)).await.unwrap_err();
    let ScanError::Timeout { last, .. } = error;
    assert_eq!(last, "connected, but no SSH banner");
}

/// As the last one, with time for the limit of a single attempt.
#[tokio::test]
async fn a_silent_connection_is_given_up_after_ten_seconds_and_tried_again() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let scan = tokio::spawn(async move { Nodescan::new().scan(&target(port, "ssh"), BUDGET).await });
    let first = listener.accept().await.unwrap();
    let started = Instant::now();
    let second = timeout(BUDGET, listener.accept()).await.unwrap().unwrap();
    assert!(started.elapsed() > Duration::from_secs(9), "{:?}", started.elapsed());
    scan.abort();
    drop((first, second));
}

/// Upstream's `test_nodescan_ssh_error`.
#[tokio::test]
async fn a_server_that_does_not_speak_ssh_times_out_and_says_so() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let server = tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let _ = stream.try_write(b"220 mail.example ESMTP\r\n");
        }
    });
    let error = Nodescan::new().scan(&target(port, "ssh"), Duration::from_secs(5)).await.unwrap_err();
    server.abort();
    let ScanError::Timeout { attempts, last, .. } = error;
    assert!(attempts >= 2, "it is tried again");
    assert!(last.starts_with("SSH: "), "{last}");
}

#[tokio::test]
async fn a_connection_that_is_closed_at_once_is_retried_until_sshd_is_up() {
    let port = free_port();
    let listener = TcpListener::bind(("127.0.0.1", port)).await.unwrap();
    let scan = tokio::spawn(async move { Nodescan::new().scan(&target(port, "ssh"), BUDGET).await });
    // Two attempts find a port that hangs up, as while a machine's sshd is being restarted.
    for _ in 0..2 {
        drop(listener.accept().await.unwrap());
    }
    assert!(!scan.is_finished());
    drop(listener);
    let Some(sshd) = Sshd::start(port, &KEYS, "") else { return };
    assert_eq!(scan.await.unwrap().unwrap(), sshd.keys);
}

#[tokio::test]
async fn without_host_key_checking_nothing_is_connected_to() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut target = target(listener.local_addr().unwrap().port(), "ssh");
    target.host_key_checking = false;
    assert!(Nodescan::new().scan(&target, BUDGET).await.unwrap().is_empty());
    target.address = "no.such.host.invalid".to_owned();
    assert!(Nodescan::new().scan(&target, BUDGET).await.unwrap().is_empty());
    assert!(timeout(Duration::from_millis(100), listener.accept()).await.is_err(), "somebody connected");
}

#[tokio::test]
async fn winrm_is_connected_to_and_no_more() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let keys = Nodescan::new().scan(&target(port, "winrm"), BUDGET).await.unwrap();
    assert!(keys.is_empty());
    let (mut stream, _) = listener.accept().await.unwrap();
    let mut said = Vec::new();
    stream.read_to_end(&mut said).await.unwrap();
    assert!(said.is_empty(), "a connection that is no SSH must not be spoken to");
}

#[tokio::test]
async fn a_name_that_cannot_be_resolved_times_out_and_says_so() {
    let mut target = target(22, "ssh");
    target.address = "no.such.host.invalid".to_owned();
    let error = Nodescan::new().scan(&target, Duration::from_secs(2)).await.unwrap_err();
    assert!(error.to_string().contains("name"), "{error}");
}

/// Upstream's `test_nodescan_queue`: its limit of one, ours of a hundred.
#[tokio::test]
async fn scans_beyond_the_limit_wait_for_their_turn() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let nodescan = Nodescan::new();
    let finished = Arc::new(AtomicUsize::new(0));
    let scans = (0..MAX_REQUESTS + 20)
        .map(|_| {
            let (nodescan, finished) = (nodescan.clone(), finished.clone());
            tokio::spawn(async move {
                let result = nodescan.scan(&target(port, "ssh"), BUDGET).await;
                finished.fetch_add(1, Ordering::SeqCst);
                result
            })
        })
        .collect::<Vec<_>>();
    let mut open = Vec::new();
    for _ in 0..MAX_REQUESTS {
        open.push(timeout(BUDGET, listener.accept()).await.unwrap().unwrap());
    }
    assert!(timeout(Duration::from_millis(300), listener.accept()).await.is_err(), "the others wait");
    assert_eq!(finished.load(Ordering::SeqCst), 0);
    // One ends, one begins.
    scans[0].abort();
    timeout(BUDGET, listener.accept()).await.expect("the next scan begins").unwrap();
    assert!(timeout(Duration::from_millis(300), listener.accept()).await.is_err(), "only one");
    scans.iter().for_each(tokio::task::JoinHandle::abort);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_hundred_scans_at_once_get_every_key() {
    // Without RSA, whose signatures take long in a build without optimization.
    let Some(sshd) = Sshd::start(free_port(), &KEYS[..2], "") else { return };
    let nodescan = Nodescan::new();
    let port = sshd.port;
    let scans = (0..200)
        .map(|_| {
            let nodescan = nodescan.clone();
            tokio::spawn(async move { nodescan.scan(&target(port, "ssh"), Duration::from_secs(300)).await })
        })
        .collect::<Vec<_>>();
    for scan in scans {
        assert_eq!(scan.await.unwrap().unwrap(), sshd.keys);
    }
}
