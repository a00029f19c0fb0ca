//! The launcher's loop and what it owns, without a process around it.

mod given;
mod placing;
mod renewing;
mod sessions;
mod stock;

use std::{fs, future::ready, sync::mpsc, thread};

use async_trait::async_trait;
use nodepool_common::{
    daemon::{self, Start},
    model::{LabelName, Node, NodeId, NodeRequest, NodeState, PoolName, RequestId, RequestState, Resources},
    sys::{clock, shutdown::ShutdownReason},
    zk::Held,
};
use nodepool_drivers::{
    CloudResource, ErrorClass, Instance, Launch, LaunchProgress, NodeProfile, Provider, ProviderError, Quota,
};
use nodepool_testing::{ZooKeeperServer, free_port, wait_for};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::{
    events::{Ending, Event, Outcome},
    *,
};
use crate::plan::{Decision, Want};

const SOON: Duration = Duration::from_secs(30);

/// A launcher with this ZooKeeper and these providers, that has not begun to run; its files are in the directory.
fn launcher(zookeeper: u16, providers: &[Value]) -> (Arc<Launcher>, Core, Loaded, TempDir) {
    let (start, dir) = start(zookeeper, providers);
    let (frame, loaded) = start.connect(Stats::new(None)).unwrap();
    let (launcher, core) = Launcher::new(options(), frame);
    (launcher, core, loaded, dir)
}

/// What such a launcher begins with, without a connection.
fn start(zookeeper: u16, providers: &[Value]) -> (Start, TempDir) {
    let dir = TempDir::with_prefix("nodepool-").unwrap();
    let file = dir.path().join("nodepool.yaml");
    let servers = json!([{"host": "127.0.0.1", "port": zookeeper}]);
    let labels: Vec<_> = providers.iter().map(|provider| &provider["pools"][0]["labels"][0]["name"]).collect();
    let labels: Vec<_> = labels.into_iter().map(|name| json!({"name": name})).collect();
    let text = json!({"zookeeper-servers": servers, "labels": labels, "providers": providers}).to_string();
    fs::write(&file, text).unwrap();
    let mut start = Start::load(&file, None).unwrap();
    start.patience = Duration::from_secs(2);
    (start, dir)
}

fn options() -> Options {
    Options {
        cleanup_interval: Duration::from_secs(60),
        delete_interval: Duration::from_secs(5),
        request_lock_age: Duration::from_secs(60),
        version: "test".to_owned(),
        fqdn: "host.example".to_owned(),
        history: nodepool_common::history::History::default(),
        tracer: nodepool_common::trace::Tracer::default(),
    }
}

/// A lock that a pass needs and never gets: what a bug in the launcher would look like.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_launcher_whose_pass_hangs_is_not_ready_and_says_why_and_shows_what_was_before() {
    let server = ZooKeeperServer::start();
    let (launcher, core, loaded, _dir) = launcher(server.port(), &[provider()]);
    let running = Arc::clone(&launcher);
    let running = tokio::spawn(async move { daemon::run(&running, core, &loaded).await });
    let is_ready = |wanted: bool| {
        let readiness = launcher.readiness();
        ready((readiness.ready == wanted).then_some(readiness))
    };
    wait_for(SOON, "the launcher is ready", || is_ready(true)).await;
    let list = wait_for(SOON, "its pool is listed", || ready(listed(&launcher))).await;

    let (held, (locked, is_locked), (release, released)) =
        (Arc::clone(&launcher), mpsc::channel(), mpsc::channel::<()>());
    let holder = thread::spawn(move || {
        let _pools = held.pools();
        locked.send(()).unwrap();
        let _ = released.recv();
    });
    is_locked.recv().unwrap();
    launcher.wake.notify_one();
    let readiness = wait_for(SOON, "the launcher is not ready any more", || is_ready(false)).await;
    assert!(readiness.remarks[0].contains("the one that has begun does not end"), "{readiness:?}");
    let reader = Arc::clone(&launcher);
    let read = tokio::task::spawn_blocking(move || (reader.pool_list(), reader.describe()));
    let (list_now, dump) = tokio::time::timeout(SOON, read).await.expect("who reads does not wait").unwrap();
    assert_eq!((&list_now[0]["pool"], &list_now[0]["launcher"]), (&list[0]["pool"], &list[0]["launcher"]));
    let (_, age) = dump.lines().next().unwrap().split_once('(').unwrap();
    assert!(age.split_once(" s ago").unwrap().0.parse::<f64>().unwrap() >= 1.0, "{dump}");
    drop(release);
    holder.join().unwrap();
    wait_for(SOON, "the launcher is ready again", || is_ready(true)).await;
    launcher.frame.shutdown.request(ShutdownReason::Terminate);
    running.await.unwrap();
}

/// A provider with one pool, `main`.
fn provider() -> Value {
    json!({
        "name": "p", "driver": "fake", "cloud": "fake",
        "cloud-images": [{"name": "image", "username": "zuul"}],
        "pools": [{"name": "main", "labels": [{"name": "a", "cloud-image": "image", "min-ram": 1}]}],
    })
}

/// `/pool-list`, once a pool is in it.
fn listed(launcher: &Launcher) -> Option<Value> {
    Some(launcher.pool_list()).filter(|list| list[0]["pool"] == "main")
}

#[tokio::test]
async fn the_pools_are_listed_before_there_is_a_connection_to_zookeeper() {
    // Nobody listens there.
    let (launcher, core, loaded, _dir) = launcher(free_port(), &[provider()]);
    let running = Arc::clone(&launcher);
    let running = tokio::spawn(async move { daemon::run(&running, core, &loaded).await });
    let list = wait_for(SOON, "its pool is listed", || ready(listed(&launcher))).await;
    assert_eq!(list[0]["waiting"], json!([]));
    assert!(!launcher.readiness().ready && launcher.describe().starts_with("Last pass: none yet"));
    launcher.frame.shutdown.request(ShutdownReason::Terminate);
    running.await.unwrap();
}

/// A driver with a bug.
#[derive(Debug)]
struct Buggy(ProviderName);

#[async_trait]
impl Provider for Buggy {
    fn name(&self) -> &ProviderName {
        &self.0
    }

    async fn start(&self) -> Result<(), ProviderError> {
        Ok(())
    }

    fn profile(&self, _pool: &PoolName, _label: &LabelName) -> Result<NodeProfile, ProviderError> {
        Err(ProviderError::new(ErrorClass::Bug, "launching a node", "nothing is launched here"))
    }

    async fn label_resources(&self, _pool: &PoolName, _label: &LabelName) -> Result<Resources, ProviderError> {
        panic!("as the test wants it")
    }

    async fn quota(&self) -> Result<Quota, ProviderError> {
        panic!("as the test wants it")
    }

    async fn list_resources(&self) -> Result<Vec<CloudResource>, ProviderError> {
        Ok(Vec::new())
    }

    async fn launch(&self, _launch: &Launch, _progress: &dyn LaunchProgress) -> Result<Instance, ProviderError> {
        Err(ProviderError::new(ErrorClass::Bug, "launching a node", "nothing is launched here"))
    }

    async fn delete(&self, _external_id: &Value, _made_in: Option<&Value>) -> Result<(), ProviderError> {
        Ok(())
    }

    async fn delete_resource(&self, _resource: &CloudResource) -> Result<(), ProviderError> {
        Ok(())
    }
}

#[tokio::test]
async fn a_driver_that_panics_while_it_is_asked_is_in_trouble_and_asked_again_after_a_pause() {
    // Nobody listens there: no ZooKeeper is needed.
    let (launcher, _core, ..) = launcher(free_port(), &[provider()]);
    let name = ProviderName::from("p");
    let config = Arc::clone(&launcher.config().providers[&name]);
    launcher.clouds.add_started(config, Arc::new(Buggy(name.clone())));
    let want = Want::LabelResources(name, "main".into(), "a".into());
    launcher.find_out(want.clone());
    let trouble = || ready(launcher.clouds.troubles().pop());
    let Trouble { why, since, .. } = wait_for(SOON, "the provider is in trouble", trouble).await;
    assert!((-1.0..SOON.as_secs_f64()).contains(&(clock::now() - since)), "since {since}");
    assert!(why.contains("its driver panicked") && why.contains("as the test wants it"), "{why}");
    // The planner wants to know in each pass, and is woken when asking has a point again.
    assert!(launcher.clouds.ask(want.clone()).is_none(), "it is asked again at once");
    let (now, uptime) = (clock::now(), launcher.clock.uptime());
    // A wall time is exact to less than a microsecond.
    let pause = launcher.clouds.forget_stale(now, uptime).unwrap() - now + 1e-6;
    launcher.clouds.forget_stale(now + pause, uptime + pause);
    wait_for(SOON, "it is asked again", || ready(launcher.clouds.ask(want.clone()))).await;
}

/// A request that is locked and pending, as one that was accepted.
async fn accepted(zk: &ZooKeeper, label: &LabelName) -> Held<NodeRequest> {
    let request = NodeRequest::min_ready(label, String::new(), clock::now());
    let session = zk.in_session(zk.connected().await);
    let id = session.create_request("100", false, request).await.unwrap().id;
    let mut held = zk.try_lock_request(&id).await.unwrap().held().unwrap();
    held.update(|request| request.set_state(RequestState::Pending, clock::now())).await.unwrap();
    held
}

/// A ready node that is locked, for a request.
async fn allocated(zk: &ZooKeeper, request: &RequestId) -> Held<Node> {
    let mut node = Node::new(clock::now());
    node.allocated_to = Some(request.clone());
    let mut held = zk.create_node(node, |_| {}).await.unwrap();
    held.update(|node| node.set_state(NodeState::Ready, clock::now())).await.unwrap();
    held
}

/// Whether others can have both.
async fn are_released(zk: &ZooKeeper, request: &RequestId, node: &NodeId) {
    let node = zk.try_lock_node(node).await.unwrap().held().expect("the node is free");
    assert_eq!(node.record().allocated_to, None);
    let request = zk.try_lock_request(request).await.unwrap().held().expect("the request is free");
    assert_eq!(request.record().state, RequestState::Requested);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn what_actions_bring_while_the_launcher_leaves_is_released_too() {
    let server = ZooKeeperServer::start();
    let (launcher, mut core, ..) = launcher(server.port(), &[]);
    launcher.zk.cache().until_ready().await;
    let (label, pool) = (LabelName::from("a"), PoolKey { provider: "p".into(), pool: "main".into() });
    let held = accepted(&launcher.zk, &label).await;
    let request = held.record().id.clone();
    let taken = allocated(&launcher.zk, &request).await;
    let node = taken.record().id.clone();

    let reports = core.book.reports();
    let reuse = vec![(node.clone(), label.clone())];
    let supply = Decision::Supply { pool: pool.clone(), request: request.clone(), reuse, launch: Vec::new() };
    let supply = Ending::of(core.book.begin(&supply), reports.clone());
    let accept = Ending::of(core.book.begin(&Decision::Accept { pool, request: request.clone() }), reports.clone());
    let actions = async {
        // The launcher has looked at what it was told, and waits.
        tokio::time::sleep(Duration::from_millis(300)).await;
        accept.with(Outcome::Accepted(held));
        tokio::time::sleep(Duration::from_millis(300)).await;
        reports.tell(Event::Taken { held: taken, request: request.clone(), label });
        supply.with(Outcome::Done);
    };
    let began = Instant::now();
    tokio::join!(launcher.leave(&mut core), actions);
    assert!(began.elapsed() < requests::LEAVING, "nothing runs any more, and it waits");
    are_released(&launcher.zk, &request, &node).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_node_of_a_launch_that_ends_while_the_launcher_leaves_is_released_too() {
    let server = ZooKeeperServer::start();
    let (launcher, mut core, ..) = launcher(server.port(), &[]);
    launcher.zk.cache().until_ready().await;
    let (label, pool) = (LabelName::from("a"), PoolKey { provider: "p".into(), pool: "main".into() });
    let held = accepted(&launcher.zk, &label).await;
    let request = held.record().id.clone();
    let ready = allocated(&launcher.zk, &request).await;
    let node = ready.record().id.clone();
    core.book.on_record(node.clone(), request.clone(), &pool, label);
    core.book.hold_request(held, pool);
    let reports = core.book.reports();
    // Told while the request is being put back: both begin in this order.
    let launch = async { reports.tell(Event::Launched { held: ready, failure: None }) };
    tokio::join!(launcher.leave(&mut core), launch);
    are_released(&launcher.zk, &request, &node).await;
}

/// A look at everything takes as long as a pass over everything, and cannot be broken off.
#[tokio::test]
async fn who_goes_away_during_a_long_look_makes_no_room_for_another_one() {
    let (launcher, ..) = launcher(free_port(), &[provider()]);
    let (begins, begun) = mpsc::channel();
    let (long, other) = (Duration::from_millis(300), begins.clone());
    let asking = tokio::spawn({
        let launcher = launcher.clone();
        async move {
            launcher
                .beside_others(move |_| {
                    begins.send(Instant::now()).unwrap();
                    thread::sleep(long);
                })
                .await;
        }
    });
    let first = tokio::task::spawn_blocking(move || (begun.recv_timeout(SOON).unwrap(), begun)).await.unwrap();
    let (first, begun) = first;
    asking.abort();
    assert!(asking.await.unwrap_err().is_cancelled());
    launcher.beside_others(move |_| other.send(Instant::now()).unwrap()).await;
    let between = begun.recv_timeout(SOON).unwrap() - first;
    assert!(between >= long * 5, "the next look began after {between:?}");
}
