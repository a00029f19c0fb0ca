//! What a launcher does while it reads the tree again after a broken connection, in the same session: what fences protect.

use nodepool_common::{
    sys::{Ambient, shutdown::Shutdown},
    zk::{Freshness, SessionId, memory::Memory},
};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::*;

/// A launcher that runs, with a ZooKeeper in memory, and a peer.
struct Site {
    memory: Memory,
    launcher: Arc<Launcher>,
    session: SessionId,
    running: JoinHandle<std::process::ExitCode>,
    peer: ZooKeeper,
    _dir: TempDir,
}

impl Site {
    /// With so many ready nodes.
    async fn with_stock(count: usize) -> Self {
        #[allow(clippy::cast_possible_truncation)] // ms since the epoch fit
        let memory = Memory::new(|| (clock::now() * 1000.0) as i64);
        let provider = json!({
            "name": "p", "driver": "fake", "cloud": "fake",
            "cloud-images": [{"name": "image", "username": "zuul"}],
            "pools": [{
                "name": "main", "host-key-checking": false,
                "labels": [{"name": "a", "cloud-image": "image", "min-ram": 1}],
            }],
        });
        let (_, dir) = start(free_port(), &[provider]);
        let file = dir.path().join("nodepool.yaml");
        let mut config: Value = serde_json::from_str(&fs::read_to_string(&file).unwrap()).unwrap();
        config["labels"] = json!([{"name": "a", "min-ready": count}]);
        fs::write(&file, config.to_string()).unwrap();
        let (connector, timeout) = (Arc::new(memory.clone()), Duration::from_secs(10));
        let start = Start::load(&file, None).unwrap();
        let (frame, loaded) = start.connect_with(connector.clone(), timeout, Stats::new(None));
        let (launcher, core) = Launcher::new(options(), frame);
        let run = Arc::clone(&launcher);
        let running = tokio::spawn(async move { daemon::run(&run, core, &loaded).await });
        let (ambient, stop) = (Ambient::system(), CancellationToken::new());
        let peer = ZooKeeper::start_with(connector, timeout, ambient, &Shutdown::new(), stop);
        let session = launcher.zk.connected().await;
        let site = Self { memory, launcher, session, running, peer, _dir: dir };
        let offers = |pool: &Arc<PoolComponent>| !pool.supported_labels.is_empty();
        let is_offered =
            async || site.launcher.zk.cache().read(|records| records.pools.values().any(offers).then_some(()));
        wait_for(SOON, "the pool", is_offered).await;
        wait_for(SOON, "the stock", async || (site.stock().await.len() == count).then_some(())).await;
        wait_for(SOON, "the end of the requests for it", async || site.requests().await.is_empty().then_some(())).await;
        site
    }

    /// Breaks the launcher's connection for as long as `meanwhile` takes. It does not get to read the tree again after that.
    async fn reconnect(&self, meanwhile: impl AsyncFnOnce()) {
        self.memory.suspend(self.session);
        self.memory.hold_listings(self.session);
        self.freshness(Freshness::Stale).await;
        meanwhile().await;
        self.memory.resume(self.session);
        self.freshness(Freshness::Renewing).await;
    }

    async fn freshness(&self, wanted: Freshness) {
        let is = async || (self.launcher.zk.cache().freshness() == wanted).then_some(());
        wait_for(SOON, &format!("{wanted:?} records"), is).await;
    }

    fn is_renewing(&self) -> bool {
        self.launcher.zk.cache().freshness() == Freshness::Renewing
    }

    /// The ready nodes that nobody has.
    async fn stock(&self) -> Vec<NodeId> {
        let mut stock = Vec::new();
        for id in self.peer.children("/nodepool/nodes").await.unwrap_or_default() {
            let (node, id) = (self.node(&id.as_str().into()).await, NodeId::from(id));
            let contenders = self.peer.children(&format!("/nodepool/nodes/{id}/lock")).await.unwrap_or_default();
            if node["state"] == "ready" && node["allocated_to"].is_null() && contenders.is_empty() {
                stock.push(id);
            }
        }
        stock.sort();
        stock
    }

    async fn requests(&self) -> Vec<String> {
        self.peer.children("/nodepool/requests").await.unwrap()
    }

    async fn node(&self, id: &NodeId) -> Value {
        self.document(&format!("/nodepool/nodes/{id}")).await
    }

    async fn document(&self, path: &str) -> Value {
        let data = self.peer.get(path).await.unwrap().unwrap_or_default().0;
        serde_json::from_slice(&data).unwrap_or_default()
    }

    /// Asks for a node, as Zuul does.
    async fn ask(&self) -> RequestId {
        let request = json!({
            "state": "requested", "state_time": clock::now(), "node_types": ["a"], "nodes": [], "reuse": true,
            "requestor": "zuul", "declined_by": [],
        });
        let mut request = NodeRequest::read("".into(), request.to_string().as_bytes()).unwrap().0;
        request.relative_priority = 0;
        let session = self.peer.in_session(self.peer.connected().await);
        session.create_request("200", false, request).await.unwrap().id
    }

    async fn state(&self, request: &RequestId) -> Value {
        self.document(&format!("/nodepool/requests/{request}")).await["state"].clone()
    }

    /// Waits until a request is fulfilled; the node that it got.
    async fn fulfilled(&self, request: &RequestId) -> NodeId {
        let what = format!("request {request} is fulfilled");
        wait_for(SOON, &what, async || (self.state(request).await == "fulfilled").then_some(())).await;
        let document = self.document(&format!("/nodepool/requests/{request}")).await;
        document["nodes"][0].as_str().unwrap().into()
    }

    /// Takes a node's lock, as Zuul does.
    async fn lock(&self, node: &NodeId) -> Held<Node> {
        self.peer.try_lock_node(node).await.unwrap().held().expect("nobody has its lock")
    }

    /// Long enough for the launcher to do what it should not.
    async fn a_while(&self) {
        tokio::time::sleep(Duration::from_millis(500)).await;
        assert!(self.is_renewing());
    }

    async fn end(self) {
        self.peer.close().await;
        self.launcher.frame.shutdown.request(ShutdownReason::Terminate);
        self.running.await.unwrap();
    }
}

#[tokio::test]
async fn what_is_in_stock_is_handed_out_while_the_tree_is_read_again_and_nothing_is_launched() {
    let site = Site::with_stock(2).await;
    let stock = site.stock().await;
    site.reconnect(async || {}).await;
    let mut given = Vec::new();
    for _ in 0..2 {
        let request = site.ask().await;
        given.push(site.fulfilled(&request).await);
    }
    given.sort();
    assert_eq!(given, stock);
    let third = site.ask().await;
    site.a_while().await;
    assert_eq!(site.state(&third).await, "requested", "others may have it");
    assert_eq!(site.peer.children("/nodepool/nodes").await.unwrap().len(), 2, "nothing is launched");
    assert!(site.requests().await.iter().all(|id| id.starts_with("200-")), "nor is anything asked for, for the stock");
    site.memory.release_listings(site.session);
    let new = site.fulfilled(&third).await;
    assert!(!stock.contains(&new));
    site.end().await;
}

#[tokio::test]
async fn a_node_that_comes_back_is_deleted_while_the_tree_is_read_again() {
    let site = Site::with_stock(1).await;
    let request = site.ask().await;
    let node = site.fulfilled(&request).await;
    let mut held = site.lock(&node).await;
    held.update(|node| node.set_state(NodeState::InUse, clock::now())).await.unwrap();
    site.reconnect(async || {}).await;
    held.update_and_unlock(|node| node.set_state(NodeState::Used, clock::now()))
        .await
        .map_err(|(_, error)| error)
        .unwrap();
    let path = format!("/nodepool/nodes/{node}");
    wait_for(SOON, "the node is deleted", async || site.peer.get(&path).await.unwrap().is_none().then_some(())).await;
    assert!(site.is_renewing());
    site.memory.release_listings(site.session);
    site.freshness(Freshness::Current).await;
    site.end().await;
}

/// The launcher takes both for free.
#[tokio::test]
async fn a_node_that_was_locked_or_deleted_while_the_connection_was_broken_is_given_to_nobody() {
    let site = Site::with_stock(2).await;
    let stock = site.stock().await;
    let mut locked = None;
    site.reconnect(async || {
        locked = Some(site.lock(&stock[0]).await);
        site.lock(&stock[1]).await.delete(clock::now()).await.unwrap();
    })
    .await;
    let is_seen = |node| site.launcher.zk.cache().read(|records| records.nodes.contains_key(node));
    assert!(is_seen(&stock[0]) && is_seen(&stock[1]), "as far as the launcher knows");
    let mut locked = locked.unwrap();
    let request = site.ask().await;
    let tried = async || (site.state(&request).await == "pending" && !is_seen(&stock[1])).then_some(());
    wait_for(SOON, "the launcher has tried to give it one of them", tried).await;
    site.a_while().await;
    assert_eq!(site.state(&request).await, "pending");
    let node = site.node(&stock[0]).await;
    assert!(node["state"] == "ready" && node["allocated_to"].is_null(), "{node}");
    locked.update(|node| node.comment = Some("mine".to_owned())).await.unwrap();
    site.memory.release_listings(site.session);
    let given = site.fulfilled(&request).await;
    assert!(!stock.contains(&given));
    assert_eq!(site.node(&stock[0]).await["comment"], "mine");
    site.end().await;
}

/// A pool that has registered while the connection was broken may have the label that nobody else has.
#[tokio::test]
async fn a_request_fails_for_want_of_a_pool_only_when_all_pools_have_been_read() {
    let site = Site::with_stock(0).await;
    let mut other = None;
    site.reconnect(async || {
        let component = site.launcher.zk.cache().read(|records| records.pools.values().next().cloned()).unwrap();
        let mut component = PoolComponent::clone(&component);
        (component.id, component.provider_name) = (Some("another".into()), Some("q".into()));
        component.supported_labels = vec!["b".into()];
        other = Some(site.peer.register_pool(component));
        let known = async || (site.peer.children("/nodepool/components/pool").await.unwrap().len() == 2).then_some(());
        wait_for(SOON, "the other pool is registered", known).await;
    })
    .await;
    let mut request = NodeRequest::min_ready(&"b".into(), String::new(), clock::now());
    request.requestor = Some("zuul".to_owned());
    let session = site.peer.in_session(site.peer.connected().await);
    let request = session.create_request("200", false, request).await.unwrap().id;
    // Requests whose labels nobody has are declined after two seconds.
    tokio::time::sleep(Duration::from_millis(2500)).await;
    assert!(site.is_renewing());
    let document = site.document(&format!("/nodepool/requests/{request}")).await;
    assert_eq!(document["declined_by"], json!([]), "{document}");
    site.memory.release_listings(site.session);
    site.freshness(Freshness::Current).await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(site.state(&request).await, "requested", "it is left to the other pool");
    drop(other);
    site.end().await;
}
