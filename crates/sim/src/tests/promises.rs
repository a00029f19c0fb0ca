//! What breaks a promise is noticed, and what does not is not: each case is a few transactions, by hand.

use nodepool_common::{
    model::{Node, NodeId, NodeRequest, NodeState, RequestId, RequestState},
    zk::{
        memory::Memory,
        paths,
        protocol::{Client, Connector, Mode},
    },
};

use crate::{
    causes::{Causes, Fault},
    plan::{Plan, Pool},
    story::Story,
    truth::{SharedTruth, ZUUL},
};

struct Site {
    story: Story,
    truth: SharedTruth,
    launcher: Client,
    zuul: Client,
}

/// Two providers with a pool each.
fn plan() -> Plan {
    let pool = |provider, labels| Pool { provider, name: "main", max_servers: 2, labels };
    Plan { pools: vec![pool("p", vec!["a"]), pool("q", vec!["a", "b"])], quota: 5, ..Plan::of(0) }
}

impl Site {
    /// One in which Zuul asks for a node, which there is; the pool may have two.
    async fn new() -> (Self, RequestId, NodeId) {
        let story = Story::begin();
        let truth = SharedTruth::new(story.clone(), Causes::of(&plan()));
        truth.open().causes.limit("p-main", 2);
        let memory = Memory::new(|| 0);
        let observed = truth.clone();
        memory.set_observer(move |by, changes, tree| observed.open().apply(by, changes, tree));
        let (launcher, zuul) = (memory.connect().await.unwrap(), memory.connect().await.unwrap());
        truth.open().owns(launcher.id(), "launcher");
        truth.open().owns(zuul.id(), ZUUL);
        for dir in [paths::ROOT, paths::NODES, paths::REQUESTS, paths::REQUEST_LOCKS] {
            zuul.create(dir, b"", Mode::Persistent).await.unwrap();
        }
        let request = NodeRequest::min_ready(&"a".into(), String::new(), 0.0);
        let request = NodeRequest { requestor: Some(ZUUL.to_owned()), ..request };
        let path = format!("{}/200-", paths::REQUESTS);
        let (path, _) = zuul.create(&path, &request.write(), Mode::PersistentSequential).await.unwrap();
        let request = RequestId::from(path.rsplit('/').next().unwrap());
        let site = Self { story, truth, launcher, zuul };
        let node = site.make_node(NodeState::Ready, Some(&request)).await;
        (site, request, node)
    }

    fn node(state: NodeState, of: Option<&RequestId>) -> Node {
        let mut node = Node::new(0.0);
        (node.provider, node.pool) = (Some("p".into()), Some("main".into()));
        node.labels = vec!["a".into()];
        node.allocated_to = of.cloned();
        node.set_state(state, 0.0);
        node
    }

    async fn make_node(&self, state: NodeState, of: Option<&RequestId>) -> NodeId {
        let path = format!("{}/", paths::NODES);
        let data = Self::node(state, of).write();
        let (path, _) = self.launcher.create(&path, &data, Mode::PersistentSequential).await.unwrap();
        NodeId::from(path.rsplit('/').next().unwrap())
    }

    async fn write_node(&self, node: &NodeId, state: NodeState, of: Option<&RequestId>) {
        self.launcher.set(&paths::node(node), &Self::node(state, of).write(), None).await.unwrap();
    }

    async fn lock(&self, dir: &str) -> String {
        let _ = self.launcher.create(dir, b"", Mode::Persistent).await;
        let contender = format!("{dir}/0__lock__");
        self.launcher.create(&contender, b"", Mode::EphemeralSequential).await.unwrap().0
    }

    /// The launcher makes a request that it has locked fulfilled or failed.
    async fn answer(&self, id: &RequestId, state: RequestState, nodes: &[&NodeId]) {
        let (data, _) = self.launcher.get(&paths::request(id)).await.unwrap();
        let (mut request, _) = NodeRequest::read(id.clone(), &data).unwrap();
        request.nodes = nodes.iter().copied().cloned().collect();
        request.set_state(state, 0.0);
        self.launcher.set(&paths::request(id), &request.write(), None).await.unwrap();
    }

    /// The names of the promises that were broken.
    fn broken(&self) -> Vec<String> {
        let name = |line: &String| line.split(':').next().unwrap().to_owned();
        self.story.all_broken().iter().map(name).collect()
    }
}

#[tokio::test]
async fn a_request_that_is_served_as_it_should_be_breaks_nothing() {
    let (site, request, node) = Site::new().await;
    site.lock(&paths::request_lock(&request)).await;
    let lock = site.lock(&paths::node_lock(&node)).await;
    site.write_node(&node, NodeState::Ready, Some(&request)).await;
    site.launcher.delete(&lock, None).await.unwrap();
    site.answer(&request, RequestState::Fulfilled, &[&node]).await;
    site.zuul.delete(&paths::request(&request), None).await.unwrap();
    assert_eq!(site.broken(), [""; 0]);
}

#[tokio::test]
async fn a_write_without_the_lock_is_noticed() {
    let (site, request, node) = Site::new().await;
    site.write_node(&node, NodeState::Deleting, None).await;
    site.answer(&request, RequestState::Pending, &[]).await;
    assert_eq!(site.broken(), ["S4", "S2", "S4"], "the node was for the request");
}

#[tokio::test]
async fn what_others_use_or_own_is_not_deleted_unnoticed() {
    let (site, request, node) = Site::new().await;
    site.launcher.delete(&paths::request(&request), None).await.unwrap();
    site.launcher.delete(&paths::node(&node), None).await.unwrap();
    assert_eq!(site.broken(), ["S4", "S4", "S2"]);
}

#[tokio::test]
async fn what_somebody_may_use_is_not_marked_for_deletion_unnoticed() {
    let (site, request, node) = Site::new().await;
    let stock = site.make_node(NodeState::Ready, None).await;
    for node in [&node, &stock] {
        site.lock(&paths::node_lock(node)).await;
        site.write_node(node, NodeState::Deleting, None).await;
    }
    assert_eq!(site.broken(), ["S2"], "the one is for a request");
    site.lock(&paths::node_lock(&stock)).await;
    site.write_node(&stock, NodeState::Ready, Some(&request)).await;
    for (state, count) in [(NodeState::InUse, 2), (NodeState::Used, 2), (NodeState::Hold, 3)] {
        site.zuul.set(&paths::node(&stock), &Site::node(state, Some(&request)).write(), None).await.unwrap();
        site.write_node(&stock, NodeState::Deleting, Some(&request)).await;
        assert_eq!(site.broken(), vec!["S2"; count], "{state:?}");
    }
    // The session that had it in use is over.
    site.zuul.set(&paths::node(&stock), &Site::node(NodeState::InUse, Some(&request)).write(), None).await.unwrap();
    site.truth.open().owns(nodepool_common::zk::SessionId(77), ZUUL);
    site.write_node(&stock, NodeState::Deleting, Some(&request)).await;
    assert_eq!(site.broken(), ["S2"; 3]);
}

#[tokio::test]
async fn a_lock_that_is_let_go_before_its_work_is_done_is_noticed() {
    let (site, request, _) = Site::new().await;
    let lock = site.lock(&paths::request_lock(&request)).await;
    site.answer(&request, RequestState::Pending, &[]).await;
    let node = site.make_node(NodeState::Building, Some(&request)).await;
    let lock_of_node = site.lock(&paths::node_lock(&node)).await;
    site.launcher.delete(&lock_of_node, None).await.unwrap();
    site.launcher.delete(&lock, None).await.unwrap();
    assert_eq!(site.broken(), ["S4"; 2]);
}

#[tokio::test]
async fn a_pool_declines_for_what_is_so() {
    let (site, request, _) = Site::new().await;
    site.lock(&paths::request_lock(&request)).await;
    let (data, _) = site.launcher.get(&paths::request(&request)).await.unwrap();
    let (mut record, _) = NodeRequest::read(request.clone(), &data).unwrap();
    let mut count = 0;
    let mut is_noticed = async |labels: &[&str], said: &str| {
        record.node_types = labels.iter().map(|label| (*label).into()).collect();
        record.decline_reasons.push(said.to_owned());
        site.launcher.set(&paths::request(&request), &record.write(), None).await.unwrap();
        let before = std::mem::replace(&mut count, site.broken().len());
        count > before
    };
    let too_large = |bound: &str| format!("p-main: it would exceed quota: the request alone exceeds {bound}: 6 needed");
    assert!(is_noticed(&["a"], "p-main: node type(s) [a] not available").await);
    assert!(!is_noticed(&["a", "b"], "p-main: node type(s) [b] not available").await);
    assert!(is_noticed(&["a"; 5], &too_large("the provider's quota")).await);
    assert!(!is_noticed(&["a"; 6], &too_large("the provider's quota")).await);
    assert!(is_noticed(&["a"; 2], &too_large("the pool's limits")).await);
    assert!(!is_noticed(&["a"; 3], &too_large("the pool's limits")).await);
    let others = "p-main: the request alone exceeds what others of its project leave of the provider's quota: 6 needed";
    assert!(is_noticed(&["a"], others).await);
    site.truth.open().causes.others("p", 5);
    assert!(!is_noticed(&["a"], others).await);
    let failed = "p-main: node 0000000005: the server is in ERROR";
    let spoil = |fault| site.truth.open().causes.fault(&"0000000005".into(), fault);
    assert!(is_noticed(&["a"], failed).await);
    spoil(Fault::Elsewhere);
    assert!(!is_noticed(&["a"], failed).await, "another provider has the label");
    assert!(is_noticed(&["c"], failed).await);
    spoil(Fault::Attempt);
    assert!(!is_noticed(&["c"], failed).await, "there are two attempts");
    let failed = "p-main: node 0000000006: the server is in ERROR";
    tokio::time::pause();
    site.truth.open().causes.fault(&"0000000006".into(), Fault::Attempt);
    site.truth.open().causes.not_deleted(&"0000000006".into());
    assert!(is_noticed(&["c"], failed).await, "its server may be deleted yet");
    tokio::time::advance(std::time::Duration::from_secs(300)).await;
    site.truth.open().causes.not_deleted(&"0000000006".into());
    assert!(!is_noticed(&["c"], failed).await, "it was tried for long");
    let absent = "provider p, which has a, takes no part: 500";
    assert!(is_noticed(&["a"], absent).await);
    site.truth.open().causes.not_started("another", "p");
    assert!(is_noticed(&["a"], absent).await, "it has failed to start elsewhere");
    site.truth.open().causes.not_started("launcher", "p");
    site.truth.open().causes.started("launcher", "p");
    assert!(!is_noticed(&["a"], absent).await, "it has only just started");
    tokio::time::advance(std::time::Duration::from_secs(60)).await;
    assert!(is_noticed(&["a"], absent).await, "it has started a minute ago");
    site.truth.open().causes.not_started("launcher", "p");
    assert!(!is_noticed(&["a"], absent).await, "it has failed again");
    assert!(is_noticed(&["a"], "p-main: at capacity").await);
}

#[tokio::test]
async fn a_request_that_fails_before_every_pool_has_declined_it_is_noticed() {
    let (site, request, _) = Site::new().await;
    for dir in [paths::COMPONENTS, paths::POOLS] {
        site.launcher.create(dir, b"", Mode::Persistent).await.unwrap();
    }
    let path = format!("{}/host", paths::POOLS);
    site.launcher.create(&path, br#"{"id": "q"}"#, Mode::EphemeralSequential).await.unwrap();
    site.lock(&paths::request_lock(&request)).await;
    tokio::time::pause();
    tokio::time::advance(std::time::Duration::from_secs(30)).await;
    site.answer(&request, RequestState::Failed, &[]).await;
    assert_eq!(site.broken(), ["L1"; 2], "it has no reason either");
}

#[tokio::test]
async fn a_node_beyond_the_limit_of_its_pool_is_noticed() {
    let (site, ..) = Site::new().await;
    site.make_node(NodeState::Init, None).await;
    assert_eq!(site.broken(), [""; 0]);
    site.make_node(NodeState::Init, None).await;
    assert_eq!(site.broken(), ["S3"]);
}

#[tokio::test]
async fn a_node_that_is_taken_from_its_request_is_noticed() {
    let (site, request, node) = Site::new().await;
    site.lock(&paths::request_lock(&request)).await;
    site.lock(&paths::node_lock(&node)).await;
    site.write_node(&node, NodeState::Ready, Some(&"200-0000000077".into())).await;
    assert_eq!(site.broken(), ["S1"]);
}

#[tokio::test]
async fn an_answer_is_given_once_and_with_what_is_fit_for_use() {
    let (site, request, node) = Site::new().await;
    site.lock(&paths::request_lock(&request)).await;
    let lock = site.lock(&paths::node_lock(&node)).await;
    site.answer(&request, RequestState::Fulfilled, &[&node]).await;
    assert_eq!(site.broken(), ["S1"], "the node is locked");
    site.write_node(&node, NodeState::Deleting, Some(&request)).await;
    assert_eq!(site.broken(), ["S1", "S2", "S1"], "the node was given away");
    site.launcher.delete(&lock, None).await.unwrap();
    site.answer(&request, RequestState::Failed, &[]).await;
    assert_eq!(site.broken(), ["S1", "S2", "S1", "S1", "L1"], "it was fulfilled, and there is no reason");
}

#[tokio::test]
async fn nodes_of_two_pools_for_one_request_are_noticed() {
    let (site, request, node) = Site::new().await;
    site.lock(&paths::request_lock(&request)).await;
    let mut other = Site::node(NodeState::Ready, Some(&request));
    other.pool = Some("second".into());
    site.truth.open().causes.limit("p-second", 2);
    let path = format!("{}/", paths::NODES);
    let (path, _) = site.launcher.create(&path, &other.write(), Mode::PersistentSequential).await.unwrap();
    let other = NodeId::from(path.rsplit('/').next().unwrap());
    let (data, _) = site.launcher.get(&paths::request(&request)).await.unwrap();
    let (mut record, _) = NodeRequest::read(request.clone(), &data).unwrap();
    record.node_types = vec!["a".into(), "a".into()];
    site.zuul.set(&paths::request(&request), &record.write(), None).await.unwrap();
    site.answer(&request, RequestState::Fulfilled, &[&node, &other]).await;
    assert_eq!(site.broken(), ["S1"]);
}
