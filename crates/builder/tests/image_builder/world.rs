//! Two machines on this one, each a mount namespace: an image-builder host with sshd, a user `nodepool` and a home of its
//! own, and the builder's pod, laid out as the operator does it. Nothing of the machine itself is changed, and a host
//! ends with all of its processes, because it is a process namespace, too.

// Measures by the host's clock.
#![allow(clippy::disallowed_methods)]

use std::{
    cell::RefCell,
    fmt::Write as _,
    fs,
    io::Read as _,
    net::{Ipv4Addr, TcpListener, TcpStream},
    os::unix::{fs::PermissionsExt as _, process::CommandExt as _},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::{Arc, Condvar, LazyLock, Mutex, PoisonError, Weak},
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tempfile::TempDir;

/// A test that reaches it has failed. On a machine with much else to do a playbook takes a minute.
pub const SOON: Duration = Duration::from_secs(600);
/// The address that the hosts listen on.
pub const ADDRESS: &str = "127.0.0.2";
/// Where the operator's pod has playbooks and inventory.
const PLAYBOOKS: &str = "nodepool/config/nodepool/dib-ansible";

/// ansible-playbook, if this machine can run these tests; else says why not.
pub fn ansible() -> Option<PathBuf> {
    let skip = |why: &str| {
        eprintln!("SKIPPED: {why}");
        None
    };
    let Some(ansible) = std::env::var_os("NODEPOOL_TEST_ANSIBLE").map(PathBuf::from).filter(|path| path.exists())
    else {
        return skip("NODEPOOL_TEST_ANSIBLE names no ansible-playbook (`make test` sets it; tests/setup installs it)");
    };
    for program in ["/usr/sbin/sshd", "/usr/bin/rsync", "/usr/bin/sudo"] {
        if !Path::new(program).exists() {
            return skip(&format!("{program} is not installed"));
        }
    }
    let namespaces = Command::new("unshare").args(["--mount", "--pid", "--fork", "--mount-proc", "true"]).output();
    if !namespaces.is_ok_and(|output| output.status.success()) {
        return skip("no namespaces can be made here: it takes root");
    }
    Some(ansible)
}

/// A port of [`ADDRESS`] where nobody listens and that nobody else is given.
pub fn free_port() -> u16 {
    nodepool_testing::free_port_on(ADDRESS.parse().unwrap())
}

/// Waits for a condition.
pub fn wait_for<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(value) = condition() {
            return value;
        }
        assert!(start.elapsed() < SOON, "after {SOON:?} still not: {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Makes a key without a passphrase; the public one.
pub fn keygen(path: &Path) -> String {
    let made =
        Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-C", "test", "-f"]).arg(path).status();
    assert!(made.unwrap().success());
    fs::read_to_string(path.with_extension("pub")).unwrap().trim().to_owned()
}

/// `SHA256:…` of a public key.
pub fn fingerprint(key: &str) -> String {
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), key).unwrap();
    let output = Command::new("ssh-keygen").args(["-l", "-f"]).arg(file.path()).output().unwrap();
    String::from_utf8(output.stdout).unwrap().split(' ').nth(1).unwrap().to_owned()
}

/// How a host differs from a good one.
#[derive(Clone, Debug)]
pub struct HostIs {
    /// Programs that it lacks.
    pub without: Vec<&'static str>,
    /// The size of its /home, as mount takes it.
    pub home: &'static str,
    /// What `nodepool` may run by sudo without a password, as sudoers has it.
    pub sudo: &'static str,
    /// More lines of `sshd_config`.
    pub sshd: &'static str,
}

impl Default for HostIs {
    fn default() -> Self {
        Self { without: vec![], home: "2g", sudo: "ALL", sshd: "" }
    }
}

/// An image-builder host; gone when dropped.
pub struct Host {
    child: Child,
    pub port: u16,
    /// `TYPE BASE64`.
    pub key: String,
    is: HostIs,
    dir: TempDir,
}

const HOST: &str = include_str!("../../../../tests/services/image-builder/host");

impl Host {
    /// A good one, which lets this pod's key in.
    pub fn start(pod: &Pod) -> Self {
        Self::start_as(pod, free_port(), HostIs::default())
    }

    pub fn start_as(pod: &Pod, port: u16, is: HostIs) -> Self {
        let dir = TempDir::with_prefix("image-builder-").unwrap();
        let key = keygen(&dir.path().join("host_key"));
        fs::write(dir.path().join("authorized_keys"), format!("{}\n", pod.public_key)).unwrap();
        let config = format!(
            "Port {port}\nListenAddress {ADDRESS}\nHostKey {}\nPidFile none\nUsePAM no\nStrictModes no\n\
             Subsystem sftp /usr/lib/openssh/sftp-server\nMaxStartups 100\nMaxSessions 50\n{}\n",
            dir.path().join("host_key").display(),
            is.sshd
        );
        fs::write(dir.path().join("sshd_config"), config).unwrap();
        let log = fs::File::create(dir.path().join("log")).unwrap();
        let mut command = Command::new("unshare");
        command.args(["--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "sh", "-c", HOST, "sh"]);
        command.arg(dir.path()).arg(is.home).arg(is.sudo).args(&is.without);
        command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        let child = command.spawn().unwrap();
        let mut host = Self { child, port, key: key.split(' ').take(2).collect::<Vec<_>>().join(" "), is, dir };
        wait_for("sshd listens", || {
            if let Some(status) = host.child.try_wait().unwrap() {
                panic!("the host has ended with {status}: {}", host.log());
            }
            TcpStream::connect((ADDRESS, port)).ok()
        });
        host
    }

    /// The same machine, installed anew: the same port, another key.
    pub fn reinstalled(self, pod: &Pod) -> Self {
        let (port, is) = (self.port, self.is.clone());
        drop(self);
        Self::start_as(pod, port, is)
    }

    pub fn log(&self) -> String {
        fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }

    /// A file of its `nodepool`.
    pub fn home(&self, name: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root/home/nodepool", self.first())).join(name)
    }

    /// The number of its process 1, as this machine counts.
    fn first(&self) -> i32 {
        let path = format!("/proc/{0}/task/{0}/children", self.child.id());
        fs::read_to_string(path).unwrap().trim().parse().unwrap()
    }

    /// Command lines of its processes but sshd's.
    pub fn processes(&self) -> Vec<String> {
        let namespace = |pid: i32| fs::read_link(format!("/proc/{pid}/ns/pid")).ok();
        let own = namespace(self.first());
        let pids = fs::read_dir("/proc").unwrap().filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
        pids.filter(|pid| own.is_some() && namespace(*pid) == own)
            .filter_map(|pid| fs::read(format!("/proc/{pid}/cmdline")).ok())
            .map(|line| String::from_utf8_lossy(&line).replace('\0', " ").trim().to_owned())
            .filter(|line| !line.is_empty() && !line.contains("sshd"))
            .collect()
    }

    /// Waits until a process with this command line runs.
    pub fn wait_for_process(&self, what: &str) {
        wait_for(&format!("`{what}` runs on the host"), || {
            self.processes().iter().any(|line| line == what).then_some(())
        });
    }

    /// Waits until nothing of a build runs any more.
    pub fn wait_until_idle(&self) {
        wait_for(&format!("the host is idle: {:?}", self.processes()), || self.processes().is_empty().then_some(()));
    }

    /// Ansible's temporary directories that were left.
    pub fn temporaries(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(self.home(".ansible/tmp")).into_iter().flatten().filter_map(Result::ok);
        entries.map(|entry| entry.path()).collect()
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The builder's surroundings, as the operator's pod has them.
pub struct Pod {
    dir: TempDir,
    ansible: Option<PathBuf>,
    pub public_key: String,
    /// Further commands before the program, in the pod's namespace.
    pub prepare: String,
    _turn: Arc<Turn>,
}

/// What a test has as long as it has a pod. As many have one at once as there are processors: a playbook keeps one busy, and
/// a build has only seconds to end what it runs on its host.
struct Turn;

static FREE: LazyLock<Mutex<usize>> =
    LazyLock::new(|| Mutex::new(std::thread::available_parallelism().map_or(1, usize::from)));
static FREED: Condvar = Condvar::new();

impl Turn {
    /// This thread's, for a test with two pods has one turn.
    fn of_this_test() -> Arc<Self> {
        thread_local!(static MINE: RefCell<Weak<Turn>> = const { RefCell::new(Weak::new()) });
        MINE.with_borrow_mut(|mine| {
            mine.upgrade().unwrap_or_else(|| {
                let free = FREE.lock().unwrap_or_else(PoisonError::into_inner);
                *FREED.wait_while(free, |free| *free == 0).unwrap_or_else(PoisonError::into_inner) -= 1;
                let turn = Arc::new(Self);
                *mine = Arc::downgrade(&turn);
                turn
            })
        })
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        *FREE.lock().unwrap_or_else(PoisonError::into_inner) += 1;
        FREED.notify_one();
    }
}

const POD: &str = r#"
set -e
mount --bind "$1/var-lib" /var/lib
mount --bind "$1/passwd" /etc/passwd
eval "$2"
shift 2
exec "$@"
"#;

impl Pod {
    /// One that can run dib-ansible, with the operator's `ssh_config` and Zuul's public keys.
    pub fn new(ansible: PathBuf) -> Self {
        let pod = Self::bare();
        Self { ansible: Some(ansible), ..pod }
    }

    /// One without Ansible.
    pub fn bare() -> Self {
        let turn = Turn::of_this_test();
        let dir = TempDir::with_prefix("nodepool-pod-").unwrap();
        let lib = dir.path().join("var-lib");
        for sub in [
            PLAYBOOKS,
            "nodepool/dib",
            "nodepool/.ssh",
            "tmp",
            "nodepool-ssh-key",
            "zuul-ssh-key",
            "zuul-spare-ssh-key",
        ] {
            fs::create_dir_all(lib.join(sub)).unwrap();
        }
        let key = lib.join("nodepool-ssh-key/priv");
        let public_key = keygen(&key);
        // As the operator mounts it: readable by all, and somebody else's, which OpenSSH lets pass.
        fs::set_permissions(&key, fs::Permissions::from_mode(0o444)).unwrap();
        std::os::unix::fs::chown(&key, Some(64002), Some(64002)).unwrap();
        for sub in ["zuul-ssh-key", "zuul-spare-ssh-key"] {
            fs::write(lib.join(sub).join("pub"), format!("ssh-ed25519 {sub}\n")).unwrap();
        }
        let passwd = fs::read_to_string("/etc/passwd").unwrap();
        let home_of_root = |line: &str| match line.split(':').collect::<Vec<_>>()[..] {
            ["root", password, uid, gid, gecos, _, shell] => {
                format!("root:{password}:{uid}:{gid}:{gecos}:/var/lib/nodepool:{shell}\n")
            }
            _ => format!("{line}\n"),
        };
        fs::write(dir.path().join("passwd"), passwd.lines().map(home_of_root).collect::<String>()).unwrap();
        let pod = Self { dir, ansible: None, public_key, prepare: String::new(), _turn: turn };
        pod.write(
            "nodepool/.ssh/config",
            "Host *\n  IdentityFile /var/lib/nodepool-ssh-key/priv\n  UserKnownHostsFile /var/lib/nodepool/known_hosts\n  \
             ServerAliveInterval 60\n  HashKnownHosts no\n",
        );
        pod
    }

    /// A file below the pod's /var/lib.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join("var-lib").join(name)
    }

    pub fn write(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).unwrap();
    }

    pub fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap_or_default()
    }

    /// The image that builds make.
    pub fn image(&self) -> PathBuf {
        self.path("nodepool/dib/image-0a.raw")
    }

    /// Ansible's own, `ansible_…` of the host's variables beside address and port.
    pub fn inventory(&self, port: u16, more: &str) {
        let text = format!(
            "ungrouped:\n  hosts:\n    image-builder:\n      ansible_host: {ADDRESS}\n      ansible_port: {port}\n      \
             ansible_user: nodepool\n{more}"
        );
        self.write(&format!("{PLAYBOOKS}/inventory.yaml"), &text);
    }

    pub fn playbook(&self, text: &str) {
        self.write(&format!("{PLAYBOOKS}/image.yaml"), text);
    }

    /// Records a host's key as known.
    pub fn trust(&self, host: &Host) {
        let known = self.read("nodepool/known_hosts");
        self.write("nodepool/known_hosts", &format!("{known}[{ADDRESS}]:{} {}\n", host.port, host.key));
    }

    /// A command in the pod. The process is the program itself.
    pub fn command(&self, program: &Path, arguments: &[&str]) -> Command {
        let mut command = Command::new("unshare");
        command.args(["--mount", "sh", "-c", POD, "sh"]).arg(self.dir.path()).arg(&self.prepare).arg(program);
        command.args(arguments).stdin(Stdio::null()).env("HOME", "/var/lib/nodepool").env("TMPDIR", "/var/lib/tmp");
        command.env_remove("SSH_AUTH_SOCK").current_dir("/");
        if let Some(ansible) = &self.ansible {
            command.env("NODEPOOL_ANSIBLE_PLAYBOOK", ansible);
        }
        command
    }

    /// `dib-ansible image.yaml …` as the builder calls it.
    pub fn build(&self) -> Command {
        self.build_with(&[])
    }

    pub fn build_with(&self, options: &[&str]) -> Command {
        let usual =
            ["image.yaml", "-x", "-t", "raw", "--checksum", "--no-tmpfs", "-o", "/var/lib/nodepool/dib/image-0a"];
        let words: Vec<&str> = options.iter().chain(&usual).copied().collect();
        self.command(Path::new(env!("CARGO_BIN_EXE_dib-ansible")), &words)
    }

    /// Builds to the end.
    pub fn run(&self) -> Ended {
        self.run_with(&[])
    }

    pub fn run_with(&self, options: &[&str]) -> Ended {
        Running::start(self, self.build_with(options)).wait()
    }
}

/// What came of a process.
#[derive(Debug)]
pub struct Ended {
    pub status: ExitStatus,
    pub log: String,
}

impl Ended {
    /// Fails the test unless the status is this and the log has all of these.
    #[track_caller]
    pub fn has(&self, status: i32, texts: &[&str]) {
        let mut wrong = String::new();
        if self.status.code() != Some(status) {
            write!(wrong, "the status is {}, not {status}; ", self.status).unwrap();
        }
        for text in texts.iter().filter(|text| !self.log.contains(**text)) {
            write!(wrong, "`{text}` is missing; ").unwrap();
        }
        assert!(wrong.is_empty(), "{wrong}\n{}", self.log);
    }
}

/// A process of the pod, with its output in a file, as the builder has it; killed when dropped.
pub struct Running {
    pub child: Child,
    log: PathBuf,
}

impl Running {
    /// In a process group of its own, as the builder starts it.
    pub fn start(pod: &Pod, mut command: Command) -> Self {
        let log = pod.dir.path().join("build.log");
        let file = fs::File::create(&log).unwrap();
        command.stdout(file.try_clone().unwrap()).stderr(file).process_group(0);
        Self { child: command.spawn().unwrap(), log }
    }

    pub fn log(&self) -> String {
        let mut bytes = Vec::new();
        fs::File::open(&self.log).unwrap().read_to_end(&mut bytes).unwrap();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    pub fn signal(&self, signal: Signal) {
        kill(self.pid(), signal).unwrap();
    }

    pub fn pid(&self) -> Pid {
        Pid::from_raw(i32::try_from(self.child.id()).unwrap())
    }

    pub fn wait(mut self) -> Ended {
        let status = wait_for("dib-ansible has ended", || self.child.try_wait().unwrap());
        Ended { status, log: self.log() }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the log:\n{}", self.log());
        }
        if self.child.try_wait().is_ok_and(|status| status.is_none()) {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

/// A listener on the hosts' address.
pub fn listener() -> TcpListener {
    let address: Ipv4Addr = ADDRESS.parse().unwrap();
    TcpListener::bind((address, 0)).unwrap()
}
