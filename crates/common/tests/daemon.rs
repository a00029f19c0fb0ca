//! The frame of a daemon, with a daemon of the test's own on a real ZooKeeper.

// Measures by the host's clock.
#![allow(clippy::disallowed_methods)]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a test fails that way

use std::{
    fs,
    future::ready,
    path::PathBuf,
    process::ExitCode,
    sync::{
        Arc, LazyLock, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
        mpsc,
    },
    thread,
    time::{Duration, Instant},
};

use nodepool_common::{
    config::{Config, Loaded},
    daemon::{self, Daemon, Frame, Pace, Start},
    model::Timestamp,
    stats::Stats,
    sys::shutdown::ShutdownReason,
    zk::Registration,
};
use nodepool_testing::{ZooKeeperServer, wait_for};
use serde_json::json;
use tempfile::TempDir;
use tokio::task::JoinHandle;

const SOON: Duration = Duration::from_secs(30);
static SERVER: LazyLock<ZooKeeperServer> = LazyLock::new(ZooKeeperServer::start);

/// Counts its passes; each needs a lock that the test may have.
struct Counter {
    frame: Frame,
    lock: Mutex<()>,
    passes: AtomicUsize,
    panics: AtomicBool,
    is_idle: AtomicBool,
    told: Mutex<Vec<&'static str>>,
}

impl Counter {
    fn passes(&self) -> usize {
        self.passes.load(Ordering::SeqCst)
    }

    fn pass_due_for(&self) -> f64 {
        let text = self.frame.stats.render();
        text.lines().find_map(|line| line.strip_prefix("nodepool_pass_due_seconds ")?.parse().ok()).unwrap()
    }

    fn told(&self, what: &'static str) {
        self.told.lock().unwrap().push(what);
    }
}

/// A pass that does not end before the test wants it to.
struct Hanging {
    release: mpsc::Sender<()>,
    holder: thread::JoinHandle<()>,
}

impl Hanging {
    fn pass_of(daemon: &Arc<Counter>) -> Self {
        let (held, (release, released)) = (Arc::clone(daemon), mpsc::channel::<()>());
        let (locked, is_locked) = mpsc::channel();
        let holder = thread::spawn(move || {
            let _lock = held.lock.lock().unwrap();
            locked.send(()).unwrap();
            let _ = released.recv();
        });
        is_locked.recv().unwrap();
        daemon.frame.wake.notify_one();
        Self { release, holder }
    }

    fn end(self) {
        drop(self.release);
        self.holder.join().unwrap();
    }
}

impl Daemon for Counter {
    type Core = ();
    const LOGGER: &'static str = "nodepool.test";
    const PACE: Pace = Pace { every: Duration::ZERO, at_once: 1 };
    const LEAVE: Duration = Duration::from_secs(5);

    fn frame(&self) -> &Frame {
        &self.frame
    }

    fn start(self: &Arc<Self>) -> Registration {
        self.frame.zk.register_launcher("host.example", "test")
    }

    fn note_loaded(&self, _loaded: &Loaded) {
        self.told("loaded");
    }

    fn configure(self: &Arc<Self>, _before: &Config, _loaded: &Loaded) {
        self.told("configured");
    }

    fn session_lost(&self, (): &mut ()) {
        self.told("session lost");
    }

    fn clock_stepped(&self, (): &mut (), _step: f64) {}

    fn pass(self: &Arc<Self>, (): &mut (), _stopping: bool) -> Option<Timestamp> {
        assert!(!self.panics.load(Ordering::SeqCst), "as the test wants it");
        drop(self.lock.lock().unwrap());
        self.passes.fetch_add(1, Ordering::SeqCst);
        None
    }

    fn is_idle(&self, (): &()) -> bool {
        self.is_idle.load(Ordering::SeqCst)
    }

    async fn drain(&self) {
        self.told("drain");
    }

    async fn quit(&self, (): &mut ()) {
        self.told("quit");
    }

    async fn end(&self) {
        self.told("end");
    }

    async fn state_dump(&self) -> String {
        String::new()
    }
}

/// A daemon with its configuration in a directory of its own.
struct Running {
    dir: TempDir,
    daemon: Arc<Counter>,
    task: JoinHandle<ExitCode>,
}

fn file(dir: &TempDir) -> PathBuf {
    dir.path().join("nodepool.yaml")
}

impl Running {
    fn start() -> Self {
        Self::start_after(|_| {})
    }

    fn start_after(before: impl FnOnce(&Start)) -> Self {
        let dir = TempDir::with_prefix("nodepool-frame-").unwrap();
        let chroot = format!("/{}", dir.path().file_name().unwrap().to_str().unwrap());
        let servers = json!([{"host": "127.0.0.1", "port": SERVER.port(), "chroot": chroot}]);
        fs::write(file(&dir), json!({"zookeeper-servers": servers, "labels": [], "providers": []}).to_string())
            .unwrap();
        let mut start = Start::load(&file(&dir), None).unwrap();
        start.patience = Duration::from_secs(2);
        before(&start);
        let (frame, loaded) = start.connect(Stats::new(None)).unwrap();
        let daemon = Arc::new(Counter {
            frame,
            lock: Mutex::default(),
            passes: AtomicUsize::default(),
            panics: AtomicBool::default(),
            is_idle: AtomicBool::default(),
            told: Mutex::default(),
        });
        let running = Arc::clone(&daemon);
        let task = tokio::spawn(async move { daemon::run(&running, (), &loaded).await });
        Self { dir, daemon, task }
    }

    async fn wait(&self, what: &str, mut condition: impl FnMut(&Counter) -> bool) {
        wait_for(SOON, what, || ready(condition(&self.daemon).then_some(()))).await;
    }

    /// Its exit code and what it was told, once it has ended.
    async fn ended(self) -> (String, Vec<&'static str>) {
        let code = tokio::time::timeout(SOON, self.task).await.expect("the daemon ends").unwrap();
        let told = self.daemon.told.lock().unwrap().clone();
        (format!("{code:?}"), told)
    }
}

fn code(code: ExitCode) -> String {
    format!("{code:?}")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_pass_that_does_not_end_is_overdue_until_it_ends() {
    let running = Running::start();
    running.wait("a pass has ended", |daemon| daemon.passes() > 0).await;
    // Longer than the daemon's patience: an idle daemon owes no pass.
    tokio::time::sleep(Duration::from_secs(4)).await;
    assert_eq!(running.daemon.frame.overdue(), None);
    let hanging = Hanging::pass_of(&running.daemon);
    running.wait("the pass is overdue", |daemon| daemon.frame.overdue().is_some()).await;
    let why = running.daemon.frame.overdue().unwrap();
    assert!(why.contains("the one that has begun does not end"), "{why}");
    running.wait("the metric says so", |daemon| daemon.pass_due_for() >= 2.0).await;
    hanging.end();
    running.wait("passes end again", |daemon| daemon.frame.overdue().is_none()).await;
    running.wait("the metric says so", |daemon| daemon.pass_due_for() < 1.0).await;
    running.daemon.frame.shutdown.request(ShutdownReason::Terminate);
    assert_eq!(running.ended().await.0, code(ExitCode::SUCCESS));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_server_answers_while_a_pass_keeps_the_only_thread() {
    let (ask, mut asked) = tokio::sync::mpsc::unbounded_channel::<mpsc::Sender<&str>>();
    let running = Running::start();
    let server = move |end: tokio_util::sync::CancellationToken| async move {
        while let Some(Some(answer)) = end.run_until_cancelled(asked.recv()).await {
            answer.send("served").unwrap();
        }
    };
    running.daemon.frame.serve("test's server", server).unwrap();
    running.wait("a pass has ended", |daemon| daemon.passes() > 0).await;
    let hanging = Hanging::pass_of(&running.daemon);
    let (answer, answered) = mpsc::channel();
    ask.send(answer).unwrap();
    assert_eq!(answered.recv_timeout(SOON), Ok("served"));
    hanging.end();
    running.daemon.frame.shutdown.request(ShutdownReason::Terminate);
    assert_eq!(running.ended().await.0, code(ExitCode::SUCCESS));
    assert!(ask.is_closed(), "the server has ended before the process does");
}

/// As where all that runs waits for a lock that the pass has.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_pass_that_keeps_every_thread_of_the_runtime_is_noticed_all_the_same() {
    let running = Running::start();
    running.wait("a pass has ended", |daemon| daemon.passes() > 0).await;
    let hanging = Hanging::pass_of(&running.daemon);
    let began = Instant::now();
    // Nothing of the runtime goes on: not its clock either.
    while running.daemon.frame.overdue().is_none() || running.daemon.pass_due_for() < 2.0 {
        assert!(began.elapsed() < SOON, "nobody has noticed");
        thread::sleep(Duration::from_millis(50));
    }
    hanging.end();
    running.wait("passes end again", |daemon| daemon.frame.overdue().is_none()).await;
    running.daemon.frame.shutdown.request(ShutdownReason::Terminate);
    assert_eq!(running.ended().await.0, code(ExitCode::SUCCESS));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pass_that_panics_ends_the_process_with_a_failure() {
    let running = Running::start();
    running.wait("a pass has ended", |daemon| daemon.passes() > 0).await;
    running.daemon.panics.store(true, Ordering::SeqCst);
    running.daemon.frame.wake.notify_one();
    assert_eq!(running.ended().await.0, code(ExitCode::FAILURE));
}

#[tokio::test]
async fn a_graceful_stop_waits_for_what_runs_and_a_quick_one_ends_it() {
    let running = Running::start();
    running.wait("a pass has ended", |daemon| daemon.passes() > 0).await;
    let shutdown = running.daemon.frame.shutdown.clone();
    shutdown.request(ShutdownReason::Graceful);
    running.wait("it drains", |daemon| daemon.told.lock().unwrap().contains(&"drain")).await;
    let passes = running.daemon.passes();
    running.daemon.frame.wake.notify_one();
    running.wait("passes go on", |daemon| daemon.passes() > passes).await;
    assert!(!running.task.is_finished(), "something runs");
    shutdown.request(ShutdownReason::Terminate);
    let (ended, told) = running.ended().await;
    assert_eq!(ended, code(ExitCode::SUCCESS));
    assert_eq!(told, ["loaded", "configured", "drain", "quit", "end"]);

    let running = Running::start();
    running.wait("a pass has ended", |daemon| daemon.passes() > 0).await;
    running.daemon.frame.shutdown.request(ShutdownReason::Graceful);
    running.daemon.is_idle.store(true, Ordering::SeqCst);
    running.daemon.frame.wake.notify_one();
    assert_eq!(running.ended().await.1, ["loaded", "configured", "drain", "end"]);
}

#[tokio::test]
async fn a_stop_that_was_asked_for_before_the_loop_began_ends_it() {
    let running = Running::start_after(|start| {
        start.shutdown.request(ShutdownReason::Terminate);
    });
    assert_eq!(running.ended().await.1, ["loaded", "configured", "quit", "end"]);
}

#[tokio::test]
async fn a_changed_file_is_put_into_force_and_a_broken_one_is_not() {
    let running = Running::start();
    running.wait("a pass has ended", |daemon| daemon.passes() > 0).await;
    let text = fs::read_to_string(file(&running.dir)).unwrap();
    fs::write(file(&running.dir), "labels: [").unwrap();
    let failures = |daemon: &Counter| daemon.frame.stats.render().contains("nodepool_config_reload_failures_total 1");
    running.wait("the file is found broken", failures).await;
    assert_eq!(*running.daemon.told.lock().unwrap(), ["loaded", "configured"]);
    fs::write(file(&running.dir), text.replace(r#""labels":[]"#, r#""labels":[{"name":"a"}]"#)).unwrap();
    running.wait("the label is there", |daemon| daemon.frame.config().labels.contains_key("a")).await;
    running.wait("it is told", |daemon| daemon.told.lock().unwrap().len() == 4).await;
    running.daemon.frame.shutdown.request(ShutdownReason::Terminate);
    assert_eq!(running.ended().await.1, ["loaded", "configured", "loaded", "configured", "quit", "end"]);
}
