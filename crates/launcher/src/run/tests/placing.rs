//! Nodes that are placed on backing nodes, by launchers whose connections break.

use std::collections::BTreeSet;

use nodepool_common::{
    model::{Backing, Place, metastatic_owner},
    zk::{KeptLock, SessionId, memory::Memory},
};
use tokio::{sync::oneshot, task::JoinHandle};

use super::*;
use crate::{
    plan::{NewNode, Reason, Shown},
    run::{
        events::Reports,
        launch::NodeLaunch,
        placing::{Answer, Seeker, Seekers},
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
    dir: TempDir,
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
        let (start, dir) = start(free_port(), &providers);
        let (frame, _loaded) = start.connect_with(Arc::new(memory.clone()), Duration::from_secs(10), Stats::new(None));
        let (launcher, core) = Launcher::new(options(), frame);
        let config = Arc::clone(&launcher.config().providers[&meta()]);
        launcher.clouds.add_started(config, Arc::new(Buggy(meta())));
        tokio::time::timeout(SOON, launcher.zk.cache().until_ready()).await.unwrap();
        let session = launcher.zk.connected().await;
        let mut site = Self { launcher, core, session, dir };
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

    /// What starts launches of it.
    fn starter(&self) -> Starter {
        Starter { launcher: Arc::clone(&self.launcher), reports: self.core.book.reports() }
    }

    /// How a launch is told of a place that seeks one.
    async fn seeker(&mut self, node: &NodeId) -> Seeker {
        let place = Decision::Place { provider: meta(), on: "0".into(), slots: vec![(node.clone(), 0)] };
        loop {
            let locks = self.core.book.locks_for(&place).unwrap();
            if let Some((_, seeker, _)) = locks.seekers.slots.into_iter().next() {
                return seeker;
            }
            tokio::time::timeout(SOON, self.launcher.hear(&mut self.core)).await.unwrap();
        }
    }

    /// What the launcher's loop does, without an end.
    async fn work(&mut self) {
        loop {
            self.launcher.plan_and_act(&mut self.core, false);
            let _ = tokio::time::timeout(Duration::from_millis(20), self.launcher.hear(&mut self.core)).await;
            self.launcher.catch_up(&mut self.core);
        }
    }

    /// The lock that is kept of a backing node.
    async fn kept(&self, backing: &NodeId) -> KeptLock {
        let session = self.launcher.zk.in_session(self.session);
        session.kept_lock(backing, &metastatic_owner(&meta())).await.unwrap().unwrap()
    }

    /// What the records have to show where they show all that was placed on a backing node.
    async fn shown(&self, backing: &NodeId) -> Shown {
        self.launcher.shown_now(&self.kept(backing).await)
    }
}

/// Starts launches of a launcher.
struct Starter {
    launcher: Arc<Launcher>,
    reports: Reports,
}

impl Starter {
    /// A new node of the provider, with its lock.
    async fn new_node(&self) -> Held<Node> {
        let mut node = Node::new(clock::now());
        (node.provider, node.pool, node.labels) = (Some(meta()), Some("main".into()), vec!["small".into()]);
        self.launcher.zk.create_node(node, |_| {}).await.unwrap()
    }

    fn launch_of(&self, node: &NodeId) -> NodeLaunch {
        let new = NewNode { label: "small".into(), az: None };
        let request = RequestId::from("100-0000000001");
        let record = NodeRequest::min_ready(&new.label, String::new(), clock::now());
        let cloud = self.launcher.clouds.get(&meta()).unwrap();
        let (node, label) = (node.clone(), new.label.clone());
        self.reports.tell(Event::OnRecord { node, request, pool: pool(), label });
        NodeLaunch::new(&self.launcher, cloud, pool(), &new, Arc::new(record), self.reports.clone())
    }

    /// A launch that looks for a place; at its end the place, or why it has failed.
    async fn launch(&self) -> (NodeId, JoinHandle<Result<Place, String>>) {
        let held = self.new_node().await;
        let id = held.record().id.clone();
        let launch = self.launch_of(&id);
        let launched = tokio::spawn(async move {
            let held = tokio::sync::Mutex::new(held);
            let attempt = launch.attempt_in_a_slot(&held).await.map_err(|failure| failure.to_string());
            let place = Place::of(held.lock().await.record());
            // As long as somebody looks, it is not unlocked.
            std::mem::forget(held);
            attempt.map(|()| place.unwrap())
        });
        (id, launched)
    }
}

fn in_memory() -> Memory {
    #[allow(clippy::cast_possible_truncation)] // ms since the epoch fit
    Memory::new(|| (clock::now() * 1000.0) as i64)
}

/// One connection after the other breaks, with a request that is carried out, or is not, and whose answer nobody gets. The
/// others go on meanwhile.
async fn break_connections(memory: &Memory, sessions: &[SessionId]) {
    for turn in 0.. {
        let session = sessions[turn % sessions.len()];
        if (turn / sessions.len()).is_multiple_of(2) {
            memory.lose_request(session);
        } else {
            memory.lose_answer(session);
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
        // Where nothing was sent, what comes later is not meant: else each attempt to read the tree, after a pause, could lose its
        // first request.
        memory.lose_nothing(session);
        memory.resume(session);
        // A walk of the tree that has failed is tried again after a pause, and no pass is made until then.
        if turn % 8 == 7 {
            tokio::time::sleep(Duration::from_millis(300)).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn two_launchers_that_place_at_once_give_no_slot_twice_whatever_answers_are_lost() {
    let memory = in_memory();
    let (mut one, mut two) = (Site::new(&memory).await, Site::new(&memory).await);
    let mut backing = Vec::new();
    for _ in 0..6 {
        backing.extend([one.backing_node().await, two.backing_node().await]);
    }
    let (starters, sessions) = ([one.starter(), two.starter()], [one.session, two.session]);
    let placed = async {
        let (mut launches, mut placed) = (Vec::new(), BTreeSet::new());
        for _ in 0..20 {
            // Each by a decision of its own.
            let (first, second) = tokio::join!(starters[0].launch(), starters[1].launch());
            launches.extend([first.1, second.1]);
        }
        for launch in launches {
            let place = launch.await.unwrap().unwrap();
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
    let placed = Box::pin(tokio::time::timeout(SOON, placed)).await.unwrap();
    assert_eq!(placed.len(), 40, "{placed:?}");
    assert!(placed.iter().all(|(on, slot)| backing.contains(on) && *slot < SLOTS), "{placed:?}");
}

/// Both have read that the slot is free.
#[tokio::test]
async fn of_two_launchers_that_offer_a_slot_at_once_one_gives_it_away() {
    let memory = in_memory();
    let (mut one, mut two) = (Site::new(&memory).await, Site::new(&memory).await);
    let backing = one.backing_node().await;
    let shown = Some(one.shown(&backing).await);
    let (node_of_one, placed_by_one) = one.starter().launch().await;
    let (node_of_two, placed_by_two) = two.starter().launch().await;

    let (slow, mut offers) = tokio::sync::mpsc::unbounded_channel();
    let (launcher, reports, on) = (Arc::clone(&one.launcher), one.core.book.reports(), backing.clone());
    let first = node_of_one.clone();
    let placing = tokio::spawn(async move {
        let seekers = Seekers { slots: vec![(first, slow, 0)], shown };
        launcher.place(&meta(), &on, seekers, &reports).await
    });
    let offer = tokio::time::timeout(SOON, offers.recv()).await.unwrap().unwrap();
    let seekers = Seekers { slots: vec![(node_of_two.clone(), two.seeker(&node_of_two).await, 0)], shown };
    two.launcher.place(&meta(), &backing, seekers, &two.core.book.reports()).await.unwrap();
    let at = |slot| Place { backing_node: backing.clone(), slot };
    assert_eq!(placed_by_two.await.unwrap().unwrap(), at(0));

    one.seeker(&node_of_one).await.send(offer).unwrap();
    let outcome = tokio::time::timeout(SOON, placing).await.unwrap().unwrap().unwrap();
    assert!(matches!(outcome, Outcome::Shown(now) if Some(now) == shown), "{outcome:?}");
    let placed_by_one = async {
        tokio::select! {
            placed = placed_by_one => placed.unwrap().unwrap(),
            () = one.work() => unreachable!(),
        }
    };
    assert_eq!(tokio::time::timeout(SOON, placed_by_one).await.unwrap(), at(1), "it goes on looking");
}

/// Its slot would be nobody's to give back.
#[tokio::test]
async fn a_launch_whose_provider_leaves_the_file_meanwhile_takes_no_slot() {
    let memory = in_memory();
    let mut site = Site::new(&memory).await;
    let backing = site.backing_node().await;
    let shown = Some(site.shown(&backing).await);
    let (node, placed) = site.starter().launch().await;
    let seekers = Seekers { slots: vec![(node.clone(), site.seeker(&node).await, 0)], shown };
    let file = site.dir.path().join("nodepool.yaml");
    let mut without: Value = serde_json::from_str(&fs::read_to_string(&file).unwrap()).unwrap();
    without["providers"].as_array_mut().unwrap().pop();
    fs::write(&file, without.to_string()).unwrap();
    site.launcher.frame.replace_config(&Start::load(&file, None).unwrap().loaded.config);

    let outcome = site.launcher.place(&meta(), &backing, seekers, &site.core.book.reports()).await.unwrap();
    assert!(matches!(outcome, Outcome::Shown(now) if Some(now) == shown), "{outcome:?}");
    let why = tokio::time::timeout(SOON, placed).await.unwrap().unwrap().unwrap_err();
    assert!(why.contains("not have it in the configuration any more"), "{why}");
    let record = site.launcher.zk.cache().read(|records| records.nodes[&node].record.clone()).unwrap();
    assert_eq!((&record.external_id, record.slot, Place::of(&record)), (&None, None, None));
}

#[tokio::test]
async fn nothing_is_written_before_all_that_others_have_placed_is_known() {
    let memory = in_memory();
    let (site, other) = (Site::new(&memory).await, Site::new(&memory).await);
    let backing = site.backing_node().await;
    let reports = site.core.book.reports();
    let (seeker, mut answers) = tokio::sync::mpsc::unbounded_channel();
    let node = NodeId::from("0000009999");
    let place = async |shown| {
        let seekers = Seekers { slots: vec![(node.clone(), seeker.clone(), 0)], shown };
        let provider = meta();
        let placing = site.launcher.place(&provider, &backing, seekers, &reports);
        tokio::time::timeout(SOON, placing).await.unwrap().unwrap()
    };
    let before = site.shown(&backing).await;
    let after = Shown { version: before.version + 1, ..before };
    let outcome = place(None).await;
    assert!(matches!(outcome, Outcome::Shown(shown) if shown == before), "{outcome:?}");
    assert!(answers.try_recv().is_err(), "it is not known what stands there");

    let kept = other.kept(&backing).await;
    let mut theirs = other.starter().new_node().await;
    let stands_there = |node: &mut Node| node.driver_data = Some(json!({"backing_node": backing, "slot": 0}).into());
    assert!(theirs.place_on(&kept, stands_there).await.unwrap());
    let outcome = place(Some(before)).await;
    assert!(matches!(outcome, Outcome::Shown(shown) if shown == after), "{outcome:?}");
    assert!(answers.try_recv().is_err(), "the slot was given away meanwhile");
    let known = |records: &nodepool_common::model::Records| {
        records.nodes.get(&theirs.record().id).and_then(|entry| Place::of(entry.usable()?))
    };
    assert_eq!(site.launcher.zk.cache().read(known), Some(Place { backing_node: backing.clone(), slot: 0 }));

    // A walk may have read what stands there before that was written.
    memory.suspend(site.session);
    memory.resume(site.session);
    let walked = || ready((site.launcher.zk.cache().walks() > after.walks).then_some(()));
    wait_for(SOON, "the tree is walked again", walked).await;
    let outcome = place(Some(after)).await;
    let after = site.shown(&backing).await;
    assert!(matches!(outcome, Outcome::Shown(shown) if shown == after), "{outcome:?}");
    assert!(answers.try_recv().is_err(), "it is not known whether the slot is free");

    // Where that is what was decided by, the launch is offered the slot; one that ends without a word leaves it open.
    let offered = async {
        let answer = tokio::time::timeout(SOON, answers.recv()).await.unwrap();
        assert!(matches!(answer, Some(Answer::Offer(_))), "{answer:?}");
    };
    let (outcome, ()) = tokio::join!(place(Some(after)), offered);
    assert!(matches!(outcome, Outcome::Shown(shown) if shown == after), "{outcome:?}");
}

#[tokio::test]
async fn a_backing_node_is_not_given_back_when_something_was_placed_on_it_since_that_was_decided() {
    let memory = in_memory();
    let (site, other) = (Site::new(&memory).await, Site::new(&memory).await);
    let backing = site.backing_node().await;
    let reports = site.core.book.reports();
    let give_back = async |shown| {
        let provider = meta();
        let giving_back = site.launcher.let_backing_go(&provider, &backing, &Reason::BackingIdle, shown, &reports);
        giving_back.await.unwrap()
    };
    let decided = site.shown(&backing).await;
    let since = Shown { version: decided.version + 1, ..decided };
    let kept = other.kept(&backing).await;
    let mut theirs = other.starter().new_node().await;
    assert!(theirs.place_on(&kept, |node| node.slot = Some(0)).await.unwrap());
    for shown in [None, Some(decided)] {
        let outcome = give_back(shown).await;
        assert!(matches!(outcome, Outcome::Shown(shown) if shown == since), "{outcome:?}");
        assert_eq!(site.shown(&backing).await, since, "it is locked as before");
    }
    theirs.delete(clock::now()).await.unwrap();
    assert!(matches!(give_back(Some(since)).await, Outcome::Done));
    let state = |records: &nodepool_common::model::Records| {
        records.nodes[&backing].usable().map(|node| node.state).filter(|state| *state == NodeState::Used)
    };
    wait_for(SOON, "it is given back", || ready(site.launcher.zk.cache().read(state))).await;
    assert!(site.launcher.zk.try_lock_node(&backing).await.unwrap().held().is_some(), "and can be deleted");
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
    let starter = site.starter();
    let held = starter.new_node().await;
    let node = held.record().id.clone();
    let launch = starter.launch_of(&node);
    let (ended, has_ended) = oneshot::channel();
    tokio::spawn(async move {
        launch.run(held).await;
        let _ = ended.send(());
    });
    site.seeker(&node).await;
    assert!(site.core.book.seeking.contains_key(&node));
    memory.expire(site.session);
    site.core.book.start_over();
    tokio::time::timeout(SOON, has_ended).await.unwrap().unwrap();
    assert!(site.core.book.seeking.is_empty());
}
