//! Locks, fenced writes and the cache, on one real ZooKeeper; each test has a chroot of its own.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a test fails that way

mod zk_common;

use std::{collections::BTreeSet, sync::LazyLock, time::Duration};

use nodepool_common::{
    model::{Entry, HeldBack, HeldItem, Holder, Node, NodeId, NodeState, RecordError, RequestState},
    zk::{TryLock, ZkError, ZooKeeper},
};
use nodepool_testing::{ZooKeeperServer, wait_for};
use zk_common::*;
use zookeeper_client::{Acls, CreateMode};

/// Ends with the process.
static SERVER: LazyLock<ZooKeeperServer> = LazyLock::new(ZooKeeperServer::start);

async fn open(chroot: &str) -> ZooKeeper {
    let zk = connect(&config(&SERVER, chroot));
    zk.connected().await;
    zk
}

async fn open_with_cache(chroot: &str) -> ZooKeeper {
    let zk = open(chroot).await;
    tokio::time::timeout(SOON, zk.cache().until_ready()).await.unwrap();
    zk
}

#[tokio::test]
async fn a_created_node_is_locked_and_building_and_everybody_sees_it() {
    let zk = open_with_cache("/created").await;
    let held = zk.create_node(node(1.0)).await.unwrap();
    assert_eq!(held.record().id, "0000000000");
    assert_eq!(held.record().state, NodeState::Building);
    zk.cache().read(|records| {
        let entry = &records.nodes[&held.record().id];
        assert_eq!(entry.usable().unwrap().state, NodeState::Building, "our own write is in the cache at once");
        assert!(entry.is_locked());
    });
    assert!(matches!(zk.try_lock_node(&held.record().id).await.unwrap(), TryLock::Busy), "somebody holds it: we do");
    let stranger = stranger(&SERVER, "/created").await;
    let (data, stat) = stranger.get_data("/nodepool/nodes/0000000000").await.unwrap();
    assert_eq!(data, held.record().write());
    assert_eq!(stat.version, 1, "created as init, then set to building");
    let contenders = stranger.list_children("/nodepool/nodes/0000000000/lock").await.unwrap();
    assert_eq!(contenders.len(), 1);
    assert!(contenders[0].ends_with("__lock__0000000000"), "{contenders:?}");

    held.update_and_unlock(|node| node.set_state(NodeState::Ready, 2.0)).await.map_err(|(_, error)| error).unwrap();
    assert!(stranger.list_children("/nodepool/nodes/0000000000/lock").await.unwrap().is_empty());
    let id = NodeId::from("0000000000");
    let free = || async {
        zk.cache().read(|records| (!records.nodes[&id].is_locked()).then(|| records.nodes[&id].free_since))
    };
    assert!(wait_for(SOON, "the cache sees the lock's end", free).await.is_some());

    let held = zk.try_lock_node(&id).await.unwrap().held().expect("it is free");
    assert_eq!(held.record().state, NodeState::Ready);
    held.delete(3.0).await.unwrap();
    assert!(zk.cache().read(|records| records.nodes.is_empty()), "gone from the cache at once");
    assert!(stranger.list_children("/nodepool/nodes").await.unwrap().is_empty());
    zk.close().await;
}

#[tokio::test]
async fn locking_a_vanished_node_does_not_bring_it_back() {
    let zk = open("/vanished").await;
    let id = NodeId::from("0000000007");
    assert!(matches!(zk.try_lock_node(&id).await.unwrap(), TryLock::Gone));
    assert!(zk.lock_node(&id, SOON).await.unwrap().is_none());
    assert!(zk.children("/nodepool").await.unwrap().is_empty());
    // A half-deleted one: its lock directory is all that is left.
    let stranger = stranger(&SERVER, "/vanished").await;
    stranger.mkdir("/nodepool/nodes/0000000007/lock", &PERSISTENT).await.unwrap();
    assert!(matches!(zk.try_lock_node(&id).await.unwrap(), TryLock::Gone));
    assert!(zk.lock_node(&id, SOON).await.unwrap().is_none());
    assert!(zk.children("/nodepool/nodes/0000000007/lock").await.unwrap().is_empty(), "no contender is left behind");
    zk.delete_node_record(&id).await.unwrap();
    assert!(zk.children("/nodepool/nodes").await.unwrap().is_empty());
    zk.close().await;
}

#[tokio::test]
async fn a_write_after_the_lock_was_taken_away_fails_and_changes_nothing() {
    let zk = open("/fenced").await;
    let stranger = stranger(&SERVER, "/fenced").await;
    for way in 0..3 {
        let mut held = zk.create_node(node(f64::from(way))).await.unwrap();
        let path = format!("/nodepool/nodes/{}", held.record().id);
        let before = stranger.get_data(&path).await.unwrap();
        let contender = stranger.list_children(&format!("{path}/lock")).await.unwrap().remove(0);
        stranger.delete(&format!("{path}/lock/{contender}"), None).await.unwrap();
        let record = held.record().clone();
        let error = match way {
            0 => held.update(|node| node.set_state(NodeState::Ready, 9.0)).await.unwrap_err(),
            1 => {
                let (held, error) =
                    held.update_and_unlock(|node| node.set_state(NodeState::Ready, 9.0)).await.unwrap_err();
                assert!(held.is_none());
                error
            }
            _ => held.delete(9.0).await.unwrap_err(),
        };
        assert!(matches!(error, ZkError::LockLost { .. }), "{error}");
        assert!(error.is_transient());
        assert!(error.to_string().contains(&path), "{error}");
        assert_eq!(stranger.get_data(&path).await.unwrap(), before);
        assert_eq!(record.state, NodeState::Building);
    }
    zk.close().await;
}

/// Two launchers place a node on one backing node, both from what they knew before.
#[tokio::test]
async fn of_two_nodes_placed_on_one_version_of_another_one_is_refused() {
    let (one, two) = (open_with_cache("/placed").await, open_with_cache("/placed").await);
    let held = one.create_node(node(1.0)).await.unwrap();
    let id = held.record().id.clone();
    held.update_and_keep_locked_for("owner", |node| node.comment = Some("as it is".to_owned()))
        .await
        .map_err(|(_, error)| error)
        .unwrap();
    let (mut first, mut second) =
        (one.create_node(node(2.0)).await.unwrap(), two.create_node(node(3.0)).await.unwrap());
    let record = one.get(&format!("/nodepool/nodes/{id}")).await.unwrap();
    let kept = one.kept_lock(&id, "owner").await.unwrap().unwrap();
    assert!(one.kept_lock(&id, "other").await.unwrap().is_none());
    assert!(first.place_on(&kept, |node| node.slot = Some(0)).await.unwrap());
    assert!(!second.place_on(&kept, |node| node.slot = Some(0)).await.unwrap());
    assert_eq!(second.record().slot, None);
    let on_record = two.get(&format!("/nodepool/nodes/{}", second.record().id)).await.unwrap().unwrap().0;
    assert_eq!(on_record, second.record().write());

    two.read_nodes_of(first.record().provider.as_ref().unwrap()).await.unwrap();
    let placed = two.cache().read(|records| records.nodes[&first.record().id].usable().unwrap().slot);
    assert_eq!(placed, Some(0), "known without its event");
    let next = two.kept_lock(&id, "owner").await.unwrap().unwrap();
    assert_eq!(next.version(), kept.version() + 1);
    assert!(second.place_on(&next, |node| node.slot = Some(1)).await.unwrap());
    assert_eq!(one.get(&format!("/nodepool/nodes/{id}")).await.unwrap(), record, "peers see no other version of it");

    // Who gives it back meanwhile has the same fence.
    let used = |node: &mut Node| node.set_state(NodeState::Used, 9.0);
    assert!(
        !one.update_kept(&id, &next, true, used).await.unwrap(),
        "nothing stood on it then, and now something does"
    );
    assert!(one.update_kept(&id, &next, false, |node| node.comment = Some("new".to_owned())).await.unwrap());
    let last = one.kept_lock(&id, "owner").await.unwrap().unwrap();
    assert!(one.update_kept(&id, &last, true, used).await.unwrap());
    assert!(!first.place_on(&last, |node| node.slot = Some(2)).await.unwrap());
    assert_eq!(first.record().slot, Some(0));
    assert!(one.kept_lock(&id, "owner").await.unwrap().is_none());
    two.delete_node_record(&id).await.unwrap();
    assert!(!one.update_kept(&id, &last, false, used).await.unwrap(), "it is gone");
    first.delete(9.0).await.unwrap();
    second.delete(9.0).await.unwrap();
    one.close().await;
    two.close().await;
}

#[tokio::test]
async fn a_write_to_a_deleted_record_says_so_and_does_not_create_it() {
    let zk = open("/deleted").await;
    let created = zk.create_request("200", false, request("e1")).await.unwrap();
    let mut held = zk.try_lock_request(&created.id).await.unwrap().held().unwrap();
    assert_eq!(held.stat().ephemeral_owner, 0, "it outlives us");
    zk.delete_request(&created.id).await.unwrap();
    let error = held.update(|request| request.set_state(RequestState::Pending, 1.0)).await.unwrap_err();
    assert!(error.is_no_node(), "{error}");
    assert!(zk.get(&format!("/nodepool/requests/{}", created.id)).await.unwrap().is_none());
    held.unlock().await.unwrap();
    zk.close().await;
}

#[tokio::test]
async fn a_request_that_is_gone_is_not_locked_and_leaves_no_directory() {
    let zk = open("/gone-request").await;
    assert!(matches!(zk.try_lock_request(&"200-0000000009".into()).await.unwrap(), TryLock::Gone));
    assert!(zk.children("/nodepool/requests-lock").await.unwrap().is_empty());
    let request = zk.create_request("900", true, request("e1")).await.unwrap();
    assert_eq!(request.id, "900-0000000000");
    let held = zk.try_lock_request(&request.id).await.unwrap().held().unwrap();
    assert_eq!(**held.record(), request);
    assert_eq!(held.stat().ephemeral_owner, zk.connected().await.0, "it ends with our session");
    assert!(matches!(zk.try_lock_request(&request.id).await.unwrap(), TryLock::Busy));
    held.unlock().await.unwrap();
    zk.delete_request(&request.id).await.unwrap();
    assert!(matches!(zk.try_lock_request(&request.id).await.unwrap(), TryLock::Gone), "its lock directory outlives it");
    assert_eq!(zk.children("/nodepool/requests-lock").await.unwrap(), ["900-0000000000"]);
    assert!(zk.children("/nodepool/requests-lock/900-0000000000").await.unwrap().is_empty());
    zk.delete_request_lock(&request.id).await.unwrap();
    zk.delete_request_lock(&request.id).await.unwrap();
    zk.delete_request(&request.id).await.unwrap();
    assert!(zk.children("/nodepool/requests-lock").await.unwrap().is_empty());
    zk.close().await;
}

#[tokio::test]
async fn who_waits_for_a_lock_gets_it_in_turn_or_times_out() {
    let (one, two) = (open("/wait").await, open("/wait").await);
    let held = one.create_node(node(1.0)).await.unwrap();
    let id = held.record().id.clone();
    let error = two.lock_node(&id, Duration::from_millis(200)).await.unwrap_err();
    assert!(matches!(error, ZkError::LockTimeout { .. }), "{error}");
    assert_eq!(two.children(&format!("/nodepool/nodes/{id}/lock")).await.unwrap().len(), 1, "it left the line");
    let waiter = tokio::spawn({
        let (two, id) = (two.clone(), id.clone());
        async move { two.lock_node(&id, SOON).await }
    });
    let lock = format!("/nodepool/nodes/{id}/lock");
    let queued = || async { (one.children(&lock).await.unwrap().len() == 2).then_some(()) };
    wait_for(SOON, "the second stands in line", queued).await;
    held.update_and_unlock(|node| node.comment = Some("done".to_owned())).await.map_err(|(_, error)| error).unwrap();
    let held = waiter.await.unwrap().unwrap().unwrap();
    assert_eq!(held.record().comment.as_deref(), Some("done"), "read under the lock");
    drop(held);
    let empty = || async { one.children(&lock).await.unwrap().is_empty().then_some(()) };
    wait_for(SOON, "a dropped lock is released", empty).await;
    one.close().await;
    two.close().await;
}

#[tokio::test]
async fn an_abandoned_attempt_leaves_no_contender() {
    let (one, two) = (open("/abandoned").await, open("/abandoned").await);
    let held = one.create_node(node(1.0)).await.unwrap();
    let lock = format!("/nodepool/nodes/{}/lock", held.record().id);
    {
        let waiting = two.lock_node(&held.record().id, SOON);
        tokio::pin!(waiting);
        let queued = async {
            let queued = || async { (one.children(&lock).await.unwrap().len() == 2).then_some(()) };
            wait_for(SOON, "the second stands in line", queued).await;
        };
        tokio::select! {
            _ = &mut waiting => panic!("the lock is held"),
            () = queued => {}
        }
    }
    let left = || async { (one.children(&lock).await.unwrap().len() == 1).then_some(()) };
    wait_for(SOON, "the abandoned contender is gone", left).await;
    held.unlock().await.unwrap();
    one.close().await;
    two.close().await;
}

#[tokio::test]
async fn a_node_that_others_wait_for_is_deleted_with_them() {
    let zk = open("/delete-contended").await;
    let stranger = stranger(&SERVER, "/delete-contended").await;
    let held = zk.create_node(node(1.0)).await.unwrap();
    let path = format!("/nodepool/nodes/{}", held.record().id);
    let ephemeral = CreateMode::EphemeralSequential.with_acls(Acls::anyone_all());
    stranger.create(&format!("{path}/lock/ffff__lock__"), b"zuul", &ephemeral).await.unwrap();
    held.delete(2.0).await.unwrap();
    assert!(zk.get(&path).await.unwrap().is_none());
    zk.close().await;
}

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

    let mut creating = std::pin::pin!(zk.create_request("200", false, request("e")));
    assert!(futures::poll!(&mut creating).is_pending(), "it has been asked for");
    let id = wait_for(SOON, "its creation", one).await;
    other.delete(&format!("/nodepool/requests/{id}"), None).await.unwrap();
    wait_for(SOON, "its deletion", none).await;
    assert_eq!(creating.await.unwrap().id, id);
    assert!(requests().is_empty(), "what we created is back");

    let id = zk.create_request("200", false, request("e")).await.unwrap().id;
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
    let id = zk.create_request("200", false, request("e")).await.unwrap().id;
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
    let created = zk.create_request("200", false, request("e")).await.unwrap();
    let held = zk.create_node(node(1.0)).await.unwrap();
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
async fn five_thousand_nodes_are_read_within_seconds() {
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
    zk.cache().until_ready().await;
    let taken = start.elapsed();
    assert_eq!(zk.cache().read(|records| records.nodes.len()), 5000);
    assert!(taken < Duration::from_secs(10), "took {taken:?}");
    println!("5000 nodes in {taken:?}");
    zk.close().await;
}

#[tokio::test]
async fn many_tasks_never_hold_one_lock_together() {
    let zk = [open("/exclusive").await, open("/exclusive").await];
    let held = zk[0].create_node(node(1.0)).await.unwrap();
    let id = held.record().id.clone();
    held.unlock().await.unwrap();
    let inside = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let tasks = (0..8_usize).map(|task| {
        let (zk, id, inside) = (zk[task % 2].clone(), id.clone(), inside.clone());
        tokio::spawn(async move {
            let mut count = 0;
            for turn in 0..25 {
                let held = if turn % 2 == 0 {
                    zk.lock_node(&id, SOON).await.unwrap()
                } else {
                    zk.try_lock_node(&id).await.unwrap().held()
                };
                let Some(mut held) = held else { continue };
                assert_eq!(inside.fetch_add(1, std::sync::atomic::Ordering::SeqCst), 0, "two hold the lock");
                held.update(|node| node.slot = Some(node.slot.unwrap_or(0) + 1)).await.unwrap();
                count += 1;
                inside.fetch_sub(1, std::sync::atomic::Ordering::SeqCst);
                held.unlock().await.unwrap();
            }
            count
        })
    });
    let mut expected = 0_i64;
    for task in futures::future::join_all(tasks).await {
        expected += task.unwrap();
    }
    let held = zk[0].try_lock_node(&id).await.unwrap().held().unwrap();
    assert_eq!(held.record().slot, Some(expected), "no write was lost");
    assert!(expected >= 8 * 13);
    held.delete(1.0).await.unwrap();
    for zk in zk {
        zk.close().await;
    }
}

#[tokio::test]
async fn the_number_of_the_next_node_is_known() {
    let zk = open("/numbers").await;
    assert_eq!(zk.next_node_number().await.unwrap(), Some(0), "there is no directory");
    let mut last = 0;
    for round in 0..3 {
        let held = [zk.create_node(node(1.0)).await.unwrap(), zk.create_node(node(2.0)).await.unwrap()];
        last = held[1].record().id.as_str().parse::<u64>().unwrap();
        assert_eq!(zk.next_node_number().await.unwrap(), Some(last + 1));
        let [one, two] = held;
        one.delete(3.0).await.unwrap();
        if round > 0 {
            two.delete(3.0).await.unwrap();
        }
        assert_eq!(zk.next_node_number().await.unwrap(), Some(last + 1), "deletions count nothing");
    }
    assert_eq!(last, 5);
}

/// What is held back, once the cache has so many items of it.
async fn cached(zk: &ZooKeeper, holder: &Holder, items: usize) -> Entry<HeldBack> {
    let has_them = |entry: &Entry<HeldBack>| entry.usable().is_some_and(|held| held.items.len() == items);
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
    assert!(zk.hold_back(&holder, None, None).await.unwrap());
    assert!(zk.hold_back(&holder, Some(&held(vec![item("1")])), None).await.unwrap());
    let one = cached(&zk, &holder, 1).await;
    assert!(zk.hold_back(&holder, Some(&held(vec![item("1")])), Some(&one)).await.unwrap());
    let [(found, read, stat)] = &zk.list_held_back().await.unwrap()[..] else { panic!("one record") };
    assert_eq!(
        (found, read.as_ref().unwrap(), stat.version),
        (&holder, &held(vec![item("1")]), 0),
        "the same again writes nothing"
    );
    assert!(zk.hold_back(&holder, Some(&held(vec![item("1"), item("2")])), Some(&one)).await.unwrap());
    let two = cached(&zk, &holder, 2).await;
    assert!(!zk.hold_back(&holder, Some(&held(vec![])), Some(&one)).await.unwrap(), "somebody has written since");
    assert!(!zk.hold_back(&holder, None, Some(&one)).await.unwrap());
    assert_eq!(cached(&zk, &holder, 2).await.stat, two.stat);
    // A new process finds it in its walk.
    let other = open_with_cache("/held-back").await;
    assert_eq!(other.cache().read(|records| records.held_back[&holder].stat), two.stat);
    assert!(zk.hold_back(&holder, None, Some(&two)).await.unwrap());
    wait_for(SOON, "the cache has it no more", || async {
        zk.cache().read(|records| records.held_back.is_empty()).then_some(())
    })
    .await;
    assert!(zk.list_held_back().await.unwrap().is_empty());
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
