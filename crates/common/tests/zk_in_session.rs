//! What is decided, or read, in one session and done without a lock: in that session, or not at all.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a test fails that way

mod zk_common;

use std::sync::Arc;

use nodepool_common::{
    model::{Contenders, Entry, HeldBack, Holder, ImageUpload, UploadId, UploadState},
    zk::{InSession, ZkError, ZooKeeper, memory::Memory, paths},
};
use nodepool_testing::wait_for;
use zk_common::*;

/// Ends the session; returns once there is the next one.
async fn lose_session(memory: &Memory, zk: &ZooKeeper) -> InSession {
    let first = current(zk).await;
    memory.expire(first.id());
    let next = async || Some(zk.connected().await).filter(|next| *next != first.id());
    wait_for(SOON, "the next session", next).await;
    first
}

/// All that there is, with data and version.
async fn everything(zk: &ZooKeeper) -> Vec<(String, Vec<u8>, i32)> {
    let (mut all, mut todo) = (Vec::new(), vec!["/nodepool".to_owned()]);
    while let Some(path) = todo.pop() {
        let (data, stat) = zk.get(&path).await.unwrap().unwrap();
        todo.extend(zk.children(&path).await.unwrap().iter().map(|child| format!("{path}/{child}")));
        all.push((path, data, stat.version));
    }
    all
}

fn is_refused<T: std::fmt::Debug>(result: &Result<T, ZkError>) {
    assert!(matches!(result, Err(ZkError::SessionLost { .. })), "{result:?}");
}

#[tokio::test]
async fn what_is_to_be_done_without_a_lock_is_not_done_in_a_later_session() {
    let memory = in_memory();
    let zk = open_in(&memory);
    let first = current(&zk).await;
    let created = first.create_request("200", false, request("event")).await.unwrap();
    zk.create(&paths::request_lock(&created.id), b"").await.unwrap();
    let node_id = first.create_ready_node(node(1.0)).await.unwrap();
    let data = br#"{"state": "ready", "state_time": 1.0}"#;
    let (mut upload, _) =
        ImageUpload::read("i".into(), "b".into(), "p".into(), UploadId::from("0000000001"), data).unwrap();
    zk.create(&paths::upload(&upload.key()), data).await.unwrap();
    let holder = Holder::Provider("p".into());
    let held = HeldBack { why: "records may be lost".to_owned(), ..HeldBack::default() };
    assert!(first.hold_back(&holder, Some(&held), None).await.unwrap());
    let (_, upload_stat) = first.read_upload(&upload.key()).await.unwrap().unwrap();
    let [(_, _, held_stat)] = first.list_held_back().await.unwrap()[..] else { panic!("one record") };
    let before =
        Entry { record: Ok(Arc::new(held)), stat: held_stat, contenders: Contenders::default(), free_since: None };

    let first = lose_session(&memory, &zk).await;
    let there = everything(&zk).await;
    is_refused(&first.create_request("200", false, request("late")).await);
    is_refused(&first.delete_request(&created.id).await);
    is_refused(&first.delete_request_lock(&created.id).await);
    is_refused(&first.create_ready_node(node(2.0)).await);
    is_refused(&first.delete_node_record(&node_id).await);
    upload.set_state(UploadState::Deleting, 2.0);
    is_refused(&first.mark_upload(&upload, upload_stat.version).await);
    is_refused(&first.remove_upload(&upload.key(), upload_stat.version).await);
    is_refused(&first.remove_build(&"i".into(), &"b".into(), 0).await);
    is_refused(&first.hold_back(&holder, None, Some(&before)).await);
    is_refused(&first.forget_held_back(&holder, held_stat.version).await);
    is_refused(&first.set(&paths::node(&node_id), b"", 0).await);
    assert_eq!(everything(&zk).await, there);

    let now = current(&zk).await;
    now.delete_request(&created.id).await.unwrap();
    now.delete_request_lock(&created.id).await.unwrap();
    now.delete_node_record(&node_id).await.unwrap();
    assert!(now.mark_upload(&upload, upload_stat.version).await.unwrap().is_some());
    assert!(now.hold_back(&holder, None, Some(&before)).await.unwrap());
    assert!(zk.get(&paths::node(&node_id)).await.unwrap().is_none());
    zk.close().await;
}
