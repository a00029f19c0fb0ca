//! Locks and fenced writes, on one real ZooKeeper; each test has a chroot of its own.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a test fails that way

mod zk_common;

use std::time::Duration;

use nodepool_common::{
    model::{Node, NodeId, NodeRequest, NodeState, RequestState},
    zk::{NotUnlocked, TryLock, ZkError},
};
use nodepool_testing::wait_for;
use zk_common::*;
use zookeeper_client::{Acls, CreateMode};

#[tokio::test]
async fn a_created_node_is_locked_and_building_and_everybody_sees_it() {
    let zk = open_with_cache("/created").await;
    let held = zk.create_node(node(1.0), |_| ()).await.unwrap();
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
    current(&zk).await.delete_node_record(&id).await.unwrap();
    assert!(zk.children("/nodepool/nodes").await.unwrap().is_empty());
    zk.close().await;
}

#[tokio::test]
async fn a_write_after_the_lock_was_taken_away_fails_and_changes_nothing() {
    let zk = open("/fenced").await;
    let stranger = stranger(&SERVER, "/fenced").await;
    for way in 0..3 {
        let mut held = zk.create_node(node(f64::from(way)), |_| ()).await.unwrap();
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

#[tokio::test]
async fn a_lock_is_taken_with_a_write_by_one_of_many() {
    let all = [open_with_cache("/claimed").await, open_with_cache("/claimed").await, open_with_cache("/claimed").await];
    let held = all[0].create_node(node(1.0), |_| ()).await.unwrap();
    let id = held.record().id.clone();
    held.unlock().await.unwrap();
    // All may know an older version than the last: then none has it, and all try again.
    let one_has_it = |round: i64| {
        let (all, id) = (&all, &id);
        move || async move {
            let claims = all.iter().map(|zk| {
                zk.lock_and_update(id, |node: &mut Node| {
                    node.slot = Some(round);
                    true
                })
            });
            let claims = futures::future::join_all(claims).await;
            let mut held: Vec<_> = claims.into_iter().filter_map(|claim| claim.unwrap()).collect();
            assert!(held.len() <= 1, "two hold one lock");
            held.pop()
        }
    };
    for round in 0..50_i32 {
        let held = wait_for(SOON, "one has the lock", one_has_it(round.into())).await;
        assert_eq!(held.stat().version, round + 2, "the others wrote nothing");
        assert_eq!(all[0].children(&format!("/nodepool/nodes/{id}/lock")).await.unwrap().len(), 1);
        held.unlock().await.unwrap();
    }
    let held = all[1].try_lock_node(&id).await.unwrap().held().unwrap();
    assert!(all[0].lock_and_update(&id, |_: &mut Node| true).await.unwrap().is_none(), "it is locked");
    held.delete(2.0).await.unwrap();
    assert!(all[0].lock_and_update(&id, |_: &mut Node| true).await.unwrap().is_none(), "it is gone");
    assert!(all[0].children("/nodepool/nodes").await.unwrap().is_empty(), "and stays so");
    for zk in all {
        zk.close().await;
    }
}

#[tokio::test]
async fn a_request_whose_node_lost_its_lock_is_not_fulfilled() {
    let zk = open_with_cache("/handed-over").await;
    let stranger = stranger(&SERVER, "/handed-over").await;
    let created = current(&zk).await.create_request("200", false, request("event")).await.unwrap();
    let held = zk.try_lock_request(&created.id).await.unwrap().held().unwrap();
    let nodes = [zk.create_node(node(1.0), |_| ()).await.unwrap(), zk.create_node(node(2.0), |_| ()).await.unwrap()];
    let locks = nodes.each_ref().map(|node| format!("/nodepool/nodes/{}/lock", node.record().id));
    let lost = zk.children(&locks[1]).await.unwrap().remove(0);
    stranger.delete(&format!("{}/{lost}", locks[1]), None).await.unwrap();
    let fulfil = |request: &mut NodeRequest| request.set_state(RequestState::Fulfilled, 3.0);
    let error = held.update_and_unlock_with(nodes.into(), fulfil).await.unwrap_err();
    let NotUnlocked::LockLost { held, nodes, error } = error else { panic!("{error:?}") };
    assert!(error.to_string().contains(&lost), "{error}");
    let (data, _) = zk.get(&format!("/nodepool/requests/{}", created.id)).await.unwrap().unwrap();
    assert!(!String::from_utf8(data).unwrap().contains("fulfilled"));
    // All others are still ours.
    assert_eq!(zk.children(&locks[0]).await.unwrap().len(), 1);
    let [first, second] = <[_; 2]>::try_from(nodes).unwrap();
    first.update_and_unlock(|node| node.allocated_to = None).await.map_err(|(_, error)| error).unwrap();
    let (_, error) = second.update_and_unlock(|node| node.allocated_to = None).await.unwrap_err();
    assert!(error.is_lock_lost(), "{error}");
    let put_back = |request: &mut NodeRequest| request.set_state(RequestState::Requested, 3.0);
    held.update_and_unlock(put_back).await.map_err(|(_, error)| error).unwrap();
    for dir in locks.iter().chain([&format!("/nodepool/requests-lock/{}", created.id)]) {
        assert!(zk.children(dir).await.unwrap().is_empty(), "{dir}");
    }

    // Without the request's lock nothing happens.
    let held = zk.try_lock_request(&created.id).await.unwrap().held().unwrap();
    let dir = format!("/nodepool/requests-lock/{}", created.id);
    let lost = zk.children(&dir).await.unwrap().remove(0);
    stranger.delete(&format!("{dir}/{lost}"), None).await.unwrap();
    let node = zk.create_node(node(3.0), |_| ()).await.unwrap();
    let fail = |request: &mut NodeRequest| request.set_state(RequestState::Failed, 4.0);
    let error = held.update_and_unlock_with(vec![node], fail).await.unwrap_err();
    let NotUnlocked::Failed(error) = error else { panic!("{error:?}") };
    assert!(error.is_lock_lost(), "{error}");
    let (after, _) = zk.get(&format!("/nodepool/requests/{}", created.id)).await.unwrap().unwrap();
    assert!(!String::from_utf8(after).unwrap().contains("failed"));
    zk.close().await;
}

#[tokio::test]
async fn the_lock_directory_of_a_request_goes_with_its_last_node_where_nobody_needs_it() {
    let zk = open_with_cache("/litter").await;
    let stranger = stranger(&SERVER, "/litter").await;
    // The request is there; somebody stands in its directory; neither.
    for (request_stays, somebody, left) in [(true, false, 1), (false, true, 2), (false, false, 2)] {
        let created = current(&zk).await.create_request("200", false, request("event")).await.unwrap();
        let held = zk.try_lock_request(&created.id).await.unwrap().held().unwrap();
        held.unlock().await.unwrap();
        let dir = format!("/nodepool/requests-lock/{}", created.id);
        let mut node = node(1.0);
        node.allocated_to = Some(created.id.clone());
        let held = zk.create_node(node, |_| ()).await.unwrap();
        if !request_stays {
            current(&zk).await.delete_request(&created.id).await.unwrap();
        }
        let as_it_is = || {
            zk.cache().read(|records| {
                records.request_locks.get(&created.id).is_some_and(|lock| lock.contenders.is_empty())
                    && records.requests.contains_key(&created.id) == request_stays
            })
        };
        wait_for(SOON, "all that is known", async || as_it_is().then_some(())).await;
        if somebody {
            // Maybe before the cache knows, maybe not.
            stranger.create(&format!("{dir}/a__lock__0000000009"), b"", &PERSISTENT).await.unwrap();
        }
        held.delete(2.0).await.unwrap();
        assert_eq!(zk.children("/nodepool/requests-lock").await.unwrap().len(), left);
        assert!(zk.children("/nodepool/nodes").await.unwrap().is_empty());
    }
    zk.close().await;
}

/// Two launchers place a node on one backing node, both from what they knew before.
#[tokio::test]
async fn of_two_nodes_placed_on_one_version_of_another_one_is_refused() {
    let (one, two) = (open_with_cache("/placed").await, open_with_cache("/placed").await);
    let (in_one, in_two) = (current(&one).await, current(&two).await);
    let held = one.create_node(node(1.0), |_| ()).await.unwrap();
    let id = held.record().id.clone();
    held.update_and_keep_locked_for("owner", |node| node.comment = Some("as it is".to_owned()))
        .await
        .map_err(|(_, error)| error)
        .unwrap();
    let (mut first, mut second) =
        (one.create_node(node(2.0), |_| ()).await.unwrap(), two.create_node(node(3.0), |_| ()).await.unwrap());
    let record = one.get(&format!("/nodepool/nodes/{id}")).await.unwrap();
    let kept = in_one.kept_lock(&id, "owner").await.unwrap().unwrap();
    assert!(in_one.kept_lock(&id, "other").await.unwrap().is_none());
    assert!(first.place_on(&kept, |node| node.slot = Some(0)).await.unwrap());
    assert!(!second.place_on(&kept, |node| node.slot = Some(0)).await.unwrap());
    assert_eq!(second.record().slot, None);
    let on_record = two.get(&format!("/nodepool/nodes/{}", second.record().id)).await.unwrap().unwrap().0;
    assert_eq!(on_record, second.record().write());

    in_two.read_nodes_of(first.record().provider.as_ref().unwrap()).await.unwrap();
    let placed = two.cache().read(|records| records.nodes[&first.record().id].usable().unwrap().slot);
    assert_eq!(placed, Some(0), "known without its event");
    let next = in_two.kept_lock(&id, "owner").await.unwrap().unwrap();
    assert_eq!(next.version(), kept.version() + 1);
    let seen_by_one = in_one.kept_lock(&id, "owner").await.unwrap().unwrap();
    assert!(second.place_on(&next, |node| node.slot = Some(1)).await.unwrap());
    assert_eq!(one.get(&format!("/nodepool/nodes/{id}")).await.unwrap(), record, "peers see no other version of it");

    // Who gives it back meanwhile has the same fence.
    let used = |node: &mut Node| node.set_state(NodeState::Used, 9.0);
    assert!(
        !one.update_kept(&id, &seen_by_one, true, used).await.unwrap(),
        "nothing stood on it then, and now something does"
    );
    assert!(one.update_kept(&id, &seen_by_one, false, |node| node.comment = Some("new".to_owned())).await.unwrap());
    let last = in_one.kept_lock(&id, "owner").await.unwrap().unwrap();
    assert!(one.update_kept(&id, &last, true, used).await.unwrap());
    assert!(!first.place_on(&last, |node| node.slot = Some(2)).await.unwrap());
    assert_eq!(first.record().slot, Some(0));
    assert!(in_one.kept_lock(&id, "owner").await.unwrap().is_none());
    in_two.delete_node_record(&id).await.unwrap();
    assert!(!one.update_kept(&id, &last, false, used).await.unwrap(), "it is gone");
    first.delete(9.0).await.unwrap();
    second.delete(9.0).await.unwrap();
    one.close().await;
    two.close().await;
}

#[tokio::test]
async fn a_write_to_a_deleted_record_says_so_and_does_not_create_it() {
    let zk = open("/deleted").await;
    let created = current(&zk).await.create_request("200", false, request("e1")).await.unwrap();
    let mut held = zk.try_lock_request(&created.id).await.unwrap().held().unwrap();
    assert_eq!(held.stat().ephemeral_owner, 0, "it outlives us");
    current(&zk).await.delete_request(&created.id).await.unwrap();
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
    let request = current(&zk).await.create_request("900", true, request("e1")).await.unwrap();
    assert_eq!(request.id, "900-0000000000");
    let held = zk.try_lock_request(&request.id).await.unwrap().held().unwrap();
    assert_eq!(**held.record(), request);
    assert_eq!(held.stat().ephemeral_owner, zk.connected().await.0, "it ends with our session");
    assert!(matches!(zk.try_lock_request(&request.id).await.unwrap(), TryLock::Busy));
    held.unlock().await.unwrap();
    current(&zk).await.delete_request(&request.id).await.unwrap();
    assert!(matches!(zk.try_lock_request(&request.id).await.unwrap(), TryLock::Gone), "its lock directory outlives it");
    assert_eq!(zk.children("/nodepool/requests-lock").await.unwrap(), ["900-0000000000"]);
    assert!(zk.children("/nodepool/requests-lock/900-0000000000").await.unwrap().is_empty());
    current(&zk).await.delete_request_lock(&request.id).await.unwrap();
    current(&zk).await.delete_request_lock(&request.id).await.unwrap();
    current(&zk).await.delete_request(&request.id).await.unwrap();
    assert!(zk.children("/nodepool/requests-lock").await.unwrap().is_empty());
    zk.close().await;
}

#[tokio::test]
async fn who_waits_for_a_lock_gets_it_in_turn_or_times_out() {
    let (one, two) = (open("/wait").await, open("/wait").await);
    let held = one.create_node(node(1.0), |_| ()).await.unwrap();
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
    let held = one.create_node(node(1.0), |_| ()).await.unwrap();
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
    let held = zk.create_node(node(1.0), |_| ()).await.unwrap();
    let path = format!("/nodepool/nodes/{}", held.record().id);
    let ephemeral = CreateMode::EphemeralSequential.with_acls(Acls::anyone_all());
    stranger.create(&format!("{path}/lock/ffff__lock__"), b"zuul", &ephemeral).await.unwrap();
    held.delete(2.0).await.unwrap();
    assert!(zk.get(&path).await.unwrap().is_none());
    zk.close().await;
}

#[tokio::test]
async fn many_tasks_never_hold_one_lock_together() {
    let zk = [open("/exclusive").await, open("/exclusive").await];
    let held = zk[0].create_node(node(1.0), |_| ()).await.unwrap();
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
    assert_eq!(current(&zk).await.next_node_number().await.unwrap(), Some(0), "there is no directory");
    let mut last = 0;
    for round in 0..3 {
        let held = [zk.create_node(node(1.0), |_| ()).await.unwrap(), zk.create_node(node(2.0), |_| ()).await.unwrap()];
        last = held[1].record().id.as_str().parse::<u64>().unwrap();
        assert_eq!(current(&zk).await.next_node_number().await.unwrap(), Some(last + 1));
        let [one, two] = held;
        one.delete(3.0).await.unwrap();
        if round > 0 {
            two.delete(3.0).await.unwrap();
        }
        assert_eq!(current(&zk).await.next_node_number().await.unwrap(), Some(last + 1), "deletions count nothing");
    }
    assert_eq!(last, 5);
}
