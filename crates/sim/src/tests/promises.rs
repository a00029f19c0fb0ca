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
    story::Story,
    truth::{SharedTruth, ZUUL},
};

struct Site {
    story: Story,
    launcher: Client,
    zuul: Client,
}

impl Site {
    /// One in which Zuul asks for a node, which there is; the pool may have two.
    async fn new() -> (Self, RequestId, NodeId) {
        let story = Story::begin();
        let truth = SharedTruth::new(story.clone());
        truth.open().limit("p", "main", 2);
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
        let site = Self { story, launcher, zuul };
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
    assert_eq!(site.broken(), ["S4", "S4"]);
}

#[tokio::test]
async fn what_others_use_or_own_is_not_deleted_unnoticed() {
    let (site, request, node) = Site::new().await;
    site.launcher.delete(&paths::request(&request), None).await.unwrap();
    site.launcher.delete(&paths::node(&node), None).await.unwrap();
    assert_eq!(site.broken(), ["S4", "S4"]);
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
    assert_eq!(site.broken(), ["S1"; 2], "the node was given away");
    site.launcher.delete(&lock, None).await.unwrap();
    site.answer(&request, RequestState::Failed, &[]).await;
    assert_eq!(site.broken(), ["S1"; 3], "it was fulfilled");
}
