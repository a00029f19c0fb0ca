//! Nodes that are placed on backing nodes, by launchers whose connections break.

use std::collections::BTreeSet;

use nodepool_common::{
    model::{Backing, Place, metastatic_owner},
    zk::{SessionId, memory::Memory},
};
use tokio::{sync::oneshot, task::JoinHandle};

use super::*;
use crate::{
    plan::NewNode,
    run::{
        launch::NodeLaunch,
        placing::{Answer, Seekers},
    },
};

const SLOTS: usize = 4;

fn meta() -> ProviderName {
    "meta".into()
}

fn pool() -> PoolKey {
    PoolKey { provider: meta(), pool: "main".into() }
}

/// A launcher whose loop is the test, with a metastatic provider.
struct Site {
    launcher: Arc<Launcher>,
    core: Core,
    session: SessionId,
    _dir: TempDir,
}

impl Site {
    async fn new(memory: &Memory) -> Self {
        let small = json!({"name": "small", "backing-label": "large", "max-parallel-jobs": SLOTS, "grace-time": 600});
        let large = json!({"name": "large", "cloud-image": "image", "min-ram": 1});
        let providers = [
            json!({
                "name": "cloud", "driver": "fake", "cloud": "fake",
                "cloud-images": [{"name": "image", "username": "zuul"}],
                "pools": [{"name": "main", "labels": [large]}],
            }),
            json!({"name": meta(), "driver": "metastatic", "pools": [{"name": "main", "labels": [small]}]}),
        ];
        let (start, _dir) = start(free_port(), &providers);
        let (frame, _loaded) = start.connect_with(Arc::new(memory.clone()), Duration::from_secs(10), Stats::new(None));
        let (launcher, core) = Launcher::new(options(), frame);
        let config = Arc::clone(&launcher.config().providers[&meta()]);
        launcher.clouds.add_started(config, Arc::new(Buggy(meta())));
        tokio::time::timeout(SOON, launcher.zk.cache().until_ready()).await.unwrap();
        let session = launcher.zk.connected().await;
        let mut site = Self { launcher, core, session, _dir };
        site.launcher.plan_and_act(&mut site.core, false);
        site
    }

    /// A node that others can stand on.
    async fn backing_node(&self) -> NodeId {
        let owner = metastatic_owner(&meta());
        let backing = Backing {
            owner: owner.clone(),
            label: "small".into(),
            slots: SLOTS,
            failed: false,
            launched: clock::now(),
        };
        let mut node = Node::new(clock::now());
        node.provider = Some("cloud".into());
        node.labels = vec!["large".into()];
        node.user_data = Some(backing.user_data());
        let held = self.launcher.zk.create_node(node, |_| {}).await.unwrap();
        let id = held.record().id.clone();
        let in_use = |node: &mut Node| node.set_state(NodeState::InUse, clock::now());
        held.update_and_keep_locked_for(&owner, in_use).await.map_err(|(_, error)| error).unwrap();
        id
    }

    /// A new node of the provider, with its lock.
    async fn new_node(&self) -> Held<Node> {
        let mut node = Node::new(clock::now());
        (node.provider, node.pool, node.labels) = (Some(meta()), Some("main".into()), vec!["small".into()]);
        self.launcher.zk.create_node(node, |_| {}).await.unwrap()
    }

    /// A launch that looks for a place; at its end the record of its node, or why it has failed.
    async fn launch(&mut self) -> JoinHandle<Result<Arc<Node>, String>> {
        let held = self.new_node().await;
        let new = NewNode { label: "small".into(), az: None };
        let request = NodeRequest::min_ready(&new.label, String::new(), clock::now());
        let cloud = self.launcher.clouds.get(&meta()).unwrap();
        let reports = self.core.book.reports();
        let launch = NodeLaunch::new(&self.launcher, cloud, pool(), &new, Arc::new(request), reports);
        self.core.book.on_record(held.record().id.clone(), "100-0000000001".into(), &pool(), new.label);
        tokio::spawn(async move {
            let held = tokio::sync::Mutex::new(held);
            let attempt = launch.attempt_in_a_slot(&held).await.map_err(|failure| failure.to_string());
            let record = Arc::clone(held.lock().await.record());
            // As long as somebody looks, it is not unlocked.
            std::mem::forget(held);
            attempt.map(|()| record)
        })
    }

    /// What the launcher's loop does, without an end.
    async fn work(&mut self) {
        loop {
            self.launcher.plan_and_act(&mut self.core, false);
            let _ = tokio::time::timeout(Duration::from_millis(20), self.launcher.hear(&mut self.core)).await;
            self.launcher.catch_up(&mut self.core);
        }
    }

    async fn version(&self, backing: &NodeId) -> i32 {
        let session = self.launcher.zk.in_session(self.session);
        session.kept_lock(backing, &metastatic_owner(&meta())).await.unwrap().unwrap().version()
    }
}

fn in_memory() -> Memory {
    #[allow(clippy::cast_possible_truncation)] // ms since the epoch fit
    Memory::new(|| (clock::now() * 1000.0) as i64)
}

/// Each connection breaks again and again, with a request that is carried out, or is not, and whose answer nobody gets.
async fn break_connections(memory: &Memory, sessions: &[SessionId]) {
    for turn in 0.. {
        tokio::time::sleep(Duration::from_millis(3)).await;
        for session in sessions {
            if turn % 2 == 0 { memory.lose_answer(*session) } else { memory.lose_request(*session) }
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
        sessions.iter().for_each(|session| memory.resume(*session));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn two_launchers_that_place_at_once_give_no_slot_twice_whatever_answers_are_lost() {
    let memory = in_memory();
    let (mut one, mut two) = (Site::new(&memory).await, Site::new(&memory).await);
    let backing = [one.backing_node().await, two.backing_node().await, one.backing_node().await];
    let mut launches = Vec::new();
    for _ in 0..SLOTS {
        launches.extend([one.launch().await, two.launch().await]);
    }
    let (sessions, count) = ([one.session, two.session], launches.len());
    let placed = async {
        let mut placed = BTreeSet::new();
        for launch in launches {
            let place = Place::of(&launch.await.unwrap().unwrap()).unwrap();
            placed.insert((place.backing_node, place.slot));
        }
        placed
    };
    let placed = async {
        tokio::select! {
            placed = placed => placed,
            () = one.work() => unreachable!(),
            () = two.work() => unreachable!(),
            () = break_connections(&memory, &sessions) => unreachable!(),
        }
    };
    let placed = tokio::time::timeout(SOON, placed).await.unwrap();
    assert_eq!(placed.len(), count, "{placed:?}");
    assert!(placed.iter().all(|(on, slot)| backing.contains(on) && *slot < SLOTS), "{placed:?}");
}

#[tokio::test]
async fn nothing_is_written_before_all_that_others_have_placed_is_known() {
    let memory = in_memory();
    let (site, other) = (Site::new(&memory).await, Site::new(&memory).await);
    let backing = site.backing_node().await;
    let reports = site.core.book.reports();
    let (seeker, mut answers) = tokio::sync::mpsc::unbounded_channel();
    let place = async |shown| {
        let seekers = Seekers { slots: vec![(seeker.clone(), 0)], shown };
        let provider = meta();
        let placing = site.launcher.place(&provider, &backing, seekers, &reports);
        tokio::time::timeout(SOON, placing).await.unwrap().unwrap()
    };
    let version = site.version(&backing).await;
    let outcome = place(None).await;
    assert!(matches!(outcome, Outcome::Shown(shown) if shown == version), "{outcome:?}");
    assert!(answers.try_recv().is_err(), "it is not known what stands there");

    let session = other.launcher.zk.in_session(other.session);
    let kept = session.kept_lock(&backing, &metastatic_owner(&meta())).await.unwrap().unwrap();
    let mut theirs = other.new_node().await;
    let stands_there = |node: &mut Node| node.driver_data = Some(json!({"backing_node": backing, "slot": 0}));
    assert!(theirs.place_on(&kept, stands_there).await.unwrap());
    let outcome = place(Some(version)).await;
    assert!(matches!(outcome, Outcome::Shown(shown) if shown == version + 1), "{outcome:?}");
    assert!(answers.try_recv().is_err(), "the slot was given away meanwhile");
    let known = |records: &nodepool_common::model::Records| {
        records.nodes.get(&theirs.record().id).and_then(|entry| Place::of(entry.usable()?))
    };
    assert_eq!(site.launcher.zk.cache().read(known), Some(Place { backing_node: backing.clone(), slot: 0 }));

    // Where that is what was decided by, the launch is offered the slot; one that ends without a word leaves it open.
    let offered = async {
        let answer = tokio::time::timeout(SOON, answers.recv()).await.unwrap();
        assert!(matches!(answer, Some(Answer::Offer(_))), "{answer:?}");
    };
    let (outcome, ()) = tokio::join!(place(Some(version + 1)), offered);
    assert!(matches!(outcome, Outcome::Shown(shown) if shown == version + 1), "{outcome:?}");
}

#[tokio::test]
async fn a_node_that_is_not_locked_for_the_provider_gets_nothing_and_is_left_out() {
    let memory = in_memory();
    let mut site = Site::new(&memory).await;
    let backing = site.backing_node().await;
    site.launcher.zk.delete_recursive(&format!("/nodepool/nodes/{backing}/lock")).await.unwrap();
    let reports = site.core.book.reports();
    let outcome = site.launcher.place(&meta(), &backing, Seekers::default(), &reports).await.unwrap();
    assert!(matches!(outcome, Outcome::Done), "{outcome:?}");
    site.launcher.catch_up(&mut site.core);
    assert!(site.core.book.not_kept.contains_key(&backing));
}

#[tokio::test]
async fn a_launch_that_waits_for_a_place_ends_with_its_session() {
    let memory = in_memory();
    let mut site = Site::new(&memory).await;
    let held = site.new_node().await;
    let node = held.record().id.clone();
    let new = NewNode { label: "small".into(), az: None };
    let request = Arc::new(NodeRequest::min_ready(&new.label, String::new(), clock::now()));
    let cloud = site.launcher.clouds.get(&meta()).unwrap();
    let reports = site.core.book.reports();
    let launch = NodeLaunch::new(&site.launcher, cloud, pool(), &new, request, reports);
    let (ended, has_ended) = oneshot::channel();
    tokio::spawn(async move {
        launch.run(held).await;
        let _ = ended.send(());
    });
    tokio::time::timeout(SOON, site.launcher.hear(&mut site.core)).await.unwrap();
    assert!(site.core.book.seeking.contains_key(&node));
    memory.expire(site.session);
    site.core.book.start_over();
    tokio::time::timeout(SOON, has_ended).await.unwrap().unwrap();
    assert!(site.core.book.seeking.is_empty());
}
