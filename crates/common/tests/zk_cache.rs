//! The cache, on one real ZooKeeper; each test has a chroot of its own.

// Measures by the host's clock.
#![allow(clippy::disallowed_methods)]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a test fails that way

mod zk_common;

use std::{collections::BTreeSet, sync::Arc};

use nodepool_common::{
    model::{
        Entry, HeldBack, HeldItem, Holder, NodeId, NodeState, Pause, Pauses, PoolName, ProviderName, RecordError,
        RequestState,
    },
    zk::{TryLock, ZooKeeper},
};
use nodepool_testing::wait_for;
use zk_common::*;
use zookeeper_client::{Acls, CreateMode};

#[tokio::test]
async fn the_cache_follows_what_others_do() {
    let zk = open_with_cache("/cache").await;
    let other = stranger(&SERVER, "/cache").await;
    let cache = zk.cache();
    let node_data = node(1.0).write();
    let (_, sequence) = other
        .create("/nodepool/nodes/", &node_data, &CreateMode::PersistentSequential.with_acls(Acls::anyone_all()))
        .await
        .unwrap();
    let id = NodeId::from(sequence.to_string());
    let path = format!("/nodepool/nodes/{id}");
    let known = || async { cache.read(|records| records.nodes.contains_key(&id).then_some(())) };
    wait_for(SOON, "the node", known).await;
    assert!(cache.read(|records| records.nodes[&id].free_since.is_some()));

    other.mkdir(&format!("{path}/lock"), &PERSISTENT).await.unwrap();
    let ephemeral = CreateMode::Ephemeral.with_acls(Acls::anyone_all());
    let contender = format!("{path}/lock/abc__lock__0000000000");
    other.create(&contender, b"", &ephemeral).await.unwrap();
    let locked = || async { cache.read(|records| records.nodes[&id].is_locked().then_some(())) };
    wait_for(SOON, "the contender", locked).await;
    assert!(cache.read(|records| records.nodes[&id].free_since.is_none()));

    let mut ready = node(1.0);
    ready.set_state(NodeState::Ready, 2.0);
    other.set_data(&path, &ready.write(), None).await.unwrap();
    let changed =
        || async { cache.read(|records| (records.nodes[&id].usable()?.state == NodeState::Ready).then_some(())) };
    wait_for(SOON, "the new state", changed).await;
    assert!(cache.read(|records| records.nodes[&id].is_locked()), "a lock outlives a write");

    other.delete(&contender, None).await.unwrap();
    let free = || async { cache.read(|records| records.nodes[&id].free_since) };
    assert!(wait_for(SOON, "the lock's end", free).await > 1e9);

    other.delete(&format!("{path}/lock"), None).await.unwrap();
    other.delete(&path, None).await.unwrap();
    let gone = || async { cache.read(|records| records.nodes.is_empty().then_some(())) };
    wait_for(SOON, "the deletion", gone).await;

    // Requests and their locks, images, builds, uploads, pools.
    for (path, data) in [
        ("/nodepool/requests/200-0000000001", request("e").write()),
        ("/nodepool/requests-lock/200-0000000001", vec![]),
        ("/nodepool/requests-lock/200-0000000001/abc__lock__0000000000", vec![]),
        ("/nodepool/images/i", vec![]),
        ("/nodepool/images/i/pause", vec![]),
        ("/nodepool/images/i/request-build", vec![]),
        ("/nodepool/images/i/builds", vec![]),
        ("/nodepool/images/i/builds/lock", vec![]),
        ("/nodepool/images/i/builds/0a", br#"{"state": "ready"}"#.to_vec()),
        ("/nodepool/images/i/builds/0a/lock", vec![]),
        ("/nodepool/images/i/builds/0a/lock/abc__lock__0000000000", vec![]),
        ("/nodepool/images/i/builds/0a/providers", vec![]),
        ("/nodepool/images/i/builds/0a/providers/p", vec![]),
        ("/nodepool/images/i/builds/0a/providers/p/images", vec![]),
        ("/nodepool/images/i/builds/0a/providers/p/images/lock", vec![]),
        (
            "/nodepool/images/i/builds/0a/providers/p/images/0000000001",
            br#"{"state": "ready", "external_id": "x"}"#.to_vec(),
        ),
        (
            "/nodepool/components/pool/host0000000000",
            br#"{"id": "l1", "name": "main", "supported_labels": ["ubuntu"]}"#.to_vec(),
        ),
    ] {
        other.create(path, &data, &PERSISTENT).await.unwrap();
    }
    let all = || async {
        cache.read(|records| {
            (records.requests.get("200-0000000001")?.is_locked()
                && records.request_locks.get("200-0000000001")?.ctime > 0
                && records.images.len() == 1
                && records.paused_images.len() == 1
                && records.build_requests.get("i")?.ctime > 0
                && records.builds.get(&("i".into(), "0a".into()))?.is_locked()
                && records.newest_upload(&"i".into(), &"p".into())?.external_id.as_deref() == Some("x")
                && records.registered_pool_ids().any(|id| *id == "l1"))
            .then_some(())
        })
    };
    wait_for(SOON, "everything else", all).await;
    assert_eq!(cache.read(|records| (records.builds.len(), records.uploads.len())), (1, 1), "locks are no records");

    // A second reader walks to the same result.
    let late = open_with_cache("/cache").await;
    let summary = |zk: &ZooKeeper| {
        zk.cache().read(|records| {
            (
                records.requests.values().map(|entry| (entry.stat, entry.contenders.clone())).collect::<Vec<_>>(),
                records.request_locks.iter().map(|(id, lock)| (id.clone(), lock.ctime)).collect::<Vec<_>>(),
                records.builds.values().map(|entry| (entry.stat, entry.contenders.clone())).collect::<Vec<_>>(),
                records.uploads.values().map(|entry| entry.stat).collect::<Vec<_>>(),
                records.images.clone(),
                records.paused_images.clone(),
                records.build_requests.clone(),
                records.pools.keys().cloned().collect::<BTreeSet<_>>(),
            )
        })
    };
    assert_eq!(summary(&late), summary(&zk));

    zk.delete_recursive("/nodepool/images/i").await.unwrap();
    zk.delete_recursive("/nodepool/requests-lock").await.unwrap();
    let gone = || async {
        cache.read(|records| {
            (records.images.is_empty()
                && records.builds.is_empty()
                && records.uploads.is_empty()
                && records.paused_images.is_empty()
                && records.build_requests.is_empty()
                && records.request_locks.is_empty()
                && !records.requests.get("200-0000000001")?.is_locked())
            .then_some(())
        })
    };
    wait_for(SOON, "everything is gone", gone).await;
    late.close().await;
    zk.close().await;
}

/// Our task is late: when it gets to see its answer, the follower has applied a deletion that came after it.
#[tokio::test]
async fn what_is_gone_when_our_answer_is_looked_at_stays_out_of_the_cache() {
    let zk = open_with_cache("/phantoms").await;
    let other = stranger(&SERVER, "/phantoms").await;
    let requests = || zk.cache().read(|records| records.requests.keys().cloned().collect::<Vec<_>>());
    let one = || async { requests().pop() };
    let none = || async { requests().is_empty().then_some(()) };

    let session = current(&zk).await;
    let mut creating = std::pin::pin!(session.create_request("200", false, request("e")));
    assert!(futures::poll!(&mut creating).is_pending(), "it has been asked for");
    let id = wait_for(SOON, "its creation", one).await;
    other.delete(&format!("/nodepool/requests/{id}"), None).await.unwrap();
    wait_for(SOON, "its deletion", none).await;
    assert_eq!(creating.await.unwrap().id, id);
    assert!(requests().is_empty(), "what we created is back");

    let id = current(&zk).await.create_request("200", false, request("e")).await.unwrap().id;
    assert_eq!(requests(), std::slice::from_ref(&id), "what we created is known at once");
    zk.try_lock_request(&id).await.unwrap().held().unwrap().unlock().await.unwrap();
    let mut locking = std::pin::pin!(zk.try_lock_request(&id));
    assert!(futures::poll!(&mut locking).is_pending(), "it has been asked for");
    // One session's requests are answered in order: so those of the lock have been.
    let dir = format!("/nodepool/requests-lock/{id}");
    assert_eq!(zk.children(&dir).await.unwrap().len(), 1);
    other.delete(&format!("/nodepool/requests/{id}"), None).await.unwrap();
    wait_for(SOON, "its deletion", none).await;
    let mut held = locking.await.unwrap().held().expect("it was there when we read it");
    assert!(requests().is_empty(), "what we locked is back");
    held.update(|request| request.set_state(RequestState::Pending, 1.0)).await.unwrap_err();
    held.unlock().await.unwrap();
    assert!(requests().is_empty());

    // The lock's directory is cleaned away, contender and all, before we hear that it is ours.
    let id = current(&zk).await.create_request("200", false, request("e")).await.unwrap().id;
    zk.try_lock_request(&id).await.unwrap().held().unwrap().unlock().await.unwrap();
    let dir = format!("/nodepool/requests-lock/{id}");
    let mut locking = std::pin::pin!(zk.try_lock_request(&id));
    assert!(futures::poll!(&mut locking).is_pending(), "it has been asked for");
    let contender = zk.children(&dir).await.unwrap().remove(0);
    let locked = || zk.cache().read(|records| records.requests[&id].contenders.contains(&contender));
    wait_for(SOON, "our contender", || async { locked().then_some(()) }).await;
    other.delete(&format!("{dir}/{contender}"), None).await.unwrap();
    wait_for(SOON, "its end", || async { (!locked()).then_some(()) }).await;
    drop(locking.await.unwrap());
    assert!(!locked(), "a contender that is gone locks the request");
    zk.close().await;
}

#[tokio::test]
async fn a_record_that_is_found_gone_or_empty_under_its_lock_is_not_planned_with_again() {
    let zk = open_with_cache("/found-gone").await;
    let other = stranger(&SERVER, "/found-gone").await;
    let created = current(&zk).await.create_request("200", false, request("e")).await.unwrap();
    let held = zk.create_node(node(1.0), |_| ()).await.unwrap();
    let id = held.record().id.clone();
    held.unlock().await.unwrap();
    let (request, node) = (format!("/nodepool/requests/{}", created.id), format!("/nodepool/nodes/{id}"));
    other.delete(&request, None).await.unwrap();
    assert!(matches!(zk.try_lock_request(&created.id).await.unwrap(), TryLock::Gone));
    assert!(zk.cache().read(|records| records.requests.is_empty()), "at once");
    other.set_data(&node, b"", None).await.unwrap();
    assert!(matches!(zk.try_lock_node(&id).await.unwrap(), TryLock::Gone));
    let problem = zk.cache().read(|records| records.nodes[&id].record.clone()).unwrap_err();
    assert_eq!(problem, RecordError::Empty, "the clean-up needs to see it");
    other.delete(&format!("{node}/lock"), None).await.unwrap();
    other.delete(&node, None).await.unwrap();
    assert!(matches!(zk.try_lock_node(&id).await.unwrap(), TryLock::Gone));
    assert!(zk.cache().read(|records| records.nodes.is_empty()), "at once");
    zk.close().await;
}

/// Whoever acts on requests must not see one again that it has just deleted: the watch may tell the end later than the answer.
#[tokio::test]
async fn what_is_deleted_is_out_of_the_cache_when_that_is_answered() {
    let zk = open_with_cache("/deleted").await;
    for _ in 0..100 {
        let session = current(&zk).await;
        let id = session.create_request("200", false, request("e")).await.unwrap().id;
        let known = || async { zk.cache().read(|records| records.requests.contains_key(&id).then_some(())) };
        wait_for(SOON, "the request", known).await;
        session.delete_request(&id).await.unwrap();
        assert!(zk.cache().read(|records| !records.requests.contains_key(&id)), "{id}");
    }
    zk.close().await;
}

#[tokio::test]
async fn broken_records_are_kept_as_errors_and_complained_about_once() {
    let log = Log::install();
    let zk = open_with_cache("/broken").await;
    let other = stranger(&SERVER, "/broken").await;
    let state = |id: &str| {
        let id = NodeId::from(id);
        zk.cache().read(|records| records.nodes.get(&id).map(|entry| entry.record.clone()))
    };
    for (id, data) in [("a1", ""), ("a2", "{\"state\": \"rea"), ("a3", r#"{"state": "flying"}"#)] {
        other.create(&format!("/nodepool/nodes/{id}"), data.as_bytes(), &PERSISTENT).await.unwrap();
    }
    other.create("/nodepool/nodes/a4", br#"{"state": "ready", "host_keys": 7}"#, &PERSISTENT).await.unwrap();
    wait_for(SOON, "the last one", || async { state("a4") }).await.unwrap();
    wait_for(SOON, "the others", || async { state("a1").and(state("a2")).and(state("a3")) }).await.unwrap_err();
    assert_eq!(state("a1").unwrap().unwrap_err(), RecordError::Empty);
    assert!(matches!(state("a2").unwrap().unwrap_err(), RecordError::NotJson(_)));
    assert!(matches!(state("a3").unwrap().unwrap_err(), RecordError::State(Some(_))));

    assert!(matches!(zk.try_lock_node(&"a1".into()).await.unwrap(), TryLock::Gone), "an empty record is not held");
    let error = zk.try_lock_node(&"a3".into()).await.unwrap_err();
    assert!(error.to_string().contains("flying") && error.to_string().contains("a3"), "{error}");
    assert!(zk.children("/nodepool/nodes/a3/lock").await.unwrap().is_empty());

    let late = open_with_cache("/broken").await;
    late.close().await;
    // Once by each of the two caches.
    for (id, what) in [("a1", "empty"), ("a2", "not JSON"), ("a3", "flying"), ("a4", "host_keys")] {
        let lines = log.lines(&format!("/nodepool/nodes/{id}: "));
        assert_eq!(lines.len(), 2, "{lines:?}");
        assert!(lines[0].contains(what) && lines[0].contains("WARN"), "{lines:?}");
    }
    other.set_data("/nodepool/nodes/a3", br#"{"state": "ready"}"#, None).await.unwrap();
    let repaired = || async { state("a3").and_then(Result::ok) };
    wait_for(SOON, "the repaired record", repaired).await;
    zk.close().await;
}

#[tokio::test]
async fn five_thousand_nodes_are_read_within_a_minute() {
    let zk = open("/many").await;
    let other = stranger(&SERVER, "/many").await;
    other.mkdir("/nodepool/nodes", &PERSISTENT).await.unwrap();
    let data = node(1.0).write();
    let sequential = CreateMode::PersistentSequential.with_acls(Acls::anyone_all());
    for _ in 0..10 {
        let creations = (0..500).map(|_| other.create("/nodepool/nodes/", &data, &sequential));
        for creation in futures::future::join_all(creations).await {
            creation.unwrap();
        }
    }
    let start = std::time::Instant::now();
    tokio::time::timeout(2 * SOON, zk.cache().until_ready()).await.unwrap();
    let taken = start.elapsed();
    assert_eq!(zk.cache().read(|records| records.nodes.len()), 5000);
    println!("5000 nodes in {taken:?}");
    zk.close().await;
}

/// What is held back, once the cache has so many items of it.
async fn cached(zk: &ZooKeeper, holder: &Holder, items: usize) -> Arc<Entry<HeldBack>> {
    let has_them = |entry: &Arc<Entry<HeldBack>>| entry.usable().is_some_and(|held| held.items.len() == items);
    let look = || async { zk.cache().read(|records| records.held_back.get(holder).cloned()).filter(has_them) };
    wait_for(SOON, "the cache has it", look).await
}

#[tokio::test]
async fn what_is_held_back_is_written_over_what_was_read_only() {
    let zk = open_with_cache("/held-back").await;
    let holder = Holder::Provider("a/b".into());
    let item = |id: &str| HeldItem {
        kind: "instances".to_owned(),
        id: id.to_owned(),
        why: "there is no node".to_owned(),
        since: 1,
        allowed: false,
        missed_since: None,
    };
    let held =
        |items: Vec<HeldItem>| HeldBack { why: "w".to_owned(), found: items.len(), items, ..HeldBack::default() };
    assert!(current(&zk).await.hold_back(&holder, None, None).await.unwrap());
    assert!(current(&zk).await.hold_back(&holder, Some(&held(vec![item("1")])), None).await.unwrap());
    let one = cached(&zk, &holder, 1).await;
    assert!(current(&zk).await.hold_back(&holder, Some(&held(vec![item("1")])), Some(&one)).await.unwrap());
    let [(found, read, stat)] = &current(&zk).await.list_held_back().await.unwrap()[..] else { panic!("one record") };
    assert_eq!(
        (found, read.as_ref().unwrap(), stat.version),
        (&holder, &held(vec![item("1")]), 0),
        "the same again writes nothing"
    );
    assert!(current(&zk).await.hold_back(&holder, Some(&held(vec![item("1"), item("2")])), Some(&one)).await.unwrap());
    let two = cached(&zk, &holder, 2).await;
    assert!(
        !current(&zk).await.hold_back(&holder, Some(&held(vec![])), Some(&one)).await.unwrap(),
        "somebody has written since"
    );
    assert!(!current(&zk).await.hold_back(&holder, None, Some(&one)).await.unwrap());
    assert_eq!(cached(&zk, &holder, 2).await.stat, two.stat);
    // A new process finds it in its walk.
    let other = open_with_cache("/held-back").await;
    assert_eq!(other.cache().read(|records| records.held_back[&holder].stat), two.stat);
    assert!(current(&zk).await.hold_back(&holder, None, Some(&two)).await.unwrap());
    wait_for(SOON, "the cache has it no more", || async {
        zk.cache().read(|records| records.held_back.is_empty()).then_some(())
    })
    .await;
    assert!(current(&zk).await.list_held_back().await.unwrap().is_empty());
}

#[tokio::test]
async fn what_is_paused_is_written_over_what_was_read_only_and_seen_by_all() {
    let zk = open_with_cache("/pauses").await;
    let (provider, main): (ProviderName, PoolName) = ("a/b".into(), "main".into());
    let pause = |by: &str| Some(Pause { by: by.to_owned(), note: "update".to_owned(), since: 1.5 });
    let by = |zk: &ZooKeeper| zk.cache().read(|records| records.paused_by(&provider, &main).map(|paused| paused.by));
    let session = current(&zk).await;
    assert!(session.read_pauses(&provider).await.unwrap().is_none());
    let mut pauses = Pauses::default();
    assert!(session.write_pauses(&provider, &pauses, None).await.unwrap(), "nothing is to be done");
    assert!(session.list_pauses().await.unwrap().is_empty());
    pauses.set(Some(&main), pause("alice"));
    assert!(session.write_pauses(&provider, &pauses, None).await.unwrap());
    wait_for(SOON, "it is seen", async || by(&zk).filter(|by| by == "alice")).await;
    assert!(!session.write_pauses(&provider, &pauses, None).await.unwrap(), "somebody has made it already");
    let (read, stat) = session.read_pauses(&provider).await.unwrap().unwrap();
    assert_eq!(read.unwrap(), pauses);
    pauses.set(None, pause("bob"));
    assert!(session.write_pauses(&provider, &pauses, Some(stat)).await.unwrap());
    assert!(!session.write_pauses(&provider, &Pauses::default(), Some(stat)).await.unwrap(), "written since");
    wait_for(SOON, "the change is seen", async || by(&zk).filter(|by| by == "bob")).await;
    // A new process finds it in its walk.
    let other = open_with_cache("/pauses").await;
    assert_eq!(by(&other).as_deref(), Some("bob"));
    assert_eq!(session.list_pauses().await.unwrap(), [(provider.clone(), Ok(pauses))]);
    let (_, stat) = session.read_pauses(&provider).await.unwrap().unwrap();
    assert!(session.write_pauses(&provider, &Pauses::default(), Some(stat)).await.unwrap());
    wait_for(SOON, "its end is seen", async || by(&other).is_none().then_some(())).await;
    assert!(session.write_pauses(&provider, &Pauses::default(), Some(stat)).await.unwrap(), "it is gone already");
}

/// A node that comes and goes while everything is read for the first time is waited for by nobody.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_cache_is_ready_although_nodes_come_and_go_while_it_is_filled() {
    let stranger = stranger(&SERVER, "/coming-and-going").await;
    let options = CreateMode::Persistent.with_acls(Acls::anyone_all());
    stranger.mkdir("/nodepool/nodes", &options).await.unwrap();
    let sequential = CreateMode::PersistentSequential.with_acls(Acls::anyone_all());
    let churn = tokio::spawn(async move {
        loop {
            let (_, sequence) = stranger.create("/nodepool/nodes/", b"{}", &sequential).await.unwrap();
            stranger.delete(&format!("/nodepool/nodes/{sequence}"), None).await.unwrap();
        }
    });
    for _ in 0..20 {
        let zk = open_with_cache("/coming-and-going").await;
        zk.close().await;
    }
    churn.abort();
}
