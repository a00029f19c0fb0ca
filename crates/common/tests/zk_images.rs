//! Builds and uploads under the builders' locks, on one real ZooKeeper; each test has a chroot of its own.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a test fails that way

mod zk_common;

use std::sync::LazyLock;

use nodepool_common::{
    model::{BuildState, ImageBuild, ImageUpload, UploadId, UploadState},
    zk::{HeldWork, TryLock, Work, ZkError, ZooKeeper, paths},
};
use nodepool_testing::{ZooKeeperServer, wait_for};
use zk_common::*;
use zookeeper_client::{Acls, CreateMode};

/// Ends with the process.
static SERVER: LazyLock<ZooKeeperServer> = LazyLock::new(ZooKeeperServer::start);

async fn open(chroot: &str) -> ZooKeeper {
    let zk = connect(&config(&SERVER, chroot));
    zk.connected().await;
    tokio::time::timeout(SOON, zk.cache().until_ready()).await.unwrap();
    zk
}

fn build() -> ImageBuild {
    ImageBuild::begun("i".into(), "b1".into(), 1.0)
}

fn upload() -> ImageUpload {
    let data = br#"{"state": "uploading", "state_time": 1.0}"#;
    ImageUpload::read("i".into(), "b1".into(), "p".into(), UploadId::from(""), data).unwrap().0
}

async fn lock(zk: &ZooKeeper, work: Work) -> HeldWork {
    zk.try_lock_work(work).await.unwrap().held().expect("nobody has it")
}

fn building() -> Work {
    Work::Building("i".into())
}

fn uploading() -> Work {
    Work::Uploading("i".into(), "b1".into(), "p".into())
}

async fn built(zk: &ZooKeeper) -> HeldWork {
    let held = lock(zk, building()).await;
    held.create_build(&build()).await.unwrap();
    held
}

#[tokio::test]
async fn who_builds_an_image_is_known_and_keeps_others_out() {
    let zk = open("/building").await;
    let other = open("/building").await;
    let held = built(&zk).await;
    assert!(matches!(other.try_lock_work(building()).await.unwrap(), TryLock::Busy));
    let sees = || async {
        other.cache().read(|records| {
            let entry = records.builds.get(&("i".into(), "b1".into()))?;
            let known = entry.usable()?.state == BuildState::Building && records.building.get("i")?.is_locked();
            known.then_some(())
        })
    };
    wait_for(SOON, "the other one sees who builds", sees).await;
    zk.cache().read(|records| assert!(records.builds.contains_key(&("i".into(), "b1".into())), "our own at once"));
    held.unlock().await.unwrap();
    let free = || async { other.cache().read(|records| records.building["i"].free_since) };
    wait_for(SOON, "the other one sees that nobody does", free).await;
    assert!(matches!(other.try_lock_work(building()).await.unwrap(), TryLock::Held(_)));
}

#[tokio::test]
async fn a_later_walk_finds_the_locks_too() {
    let zk = open("/walk").await;
    let _held = built(&zk).await;
    let _uploading = lock(&zk, uploading()).await;
    let late = open("/walk").await;
    late.cache().read(|records| {
        assert!(records.building["i"].is_locked());
        assert!(records.uploading[&("i".into(), "b1".into(), "p".into())].is_locked());
        assert_eq!(records.builds.len(), 1, "a lock is no build");
        assert!(records.uploads.is_empty(), "a lock is no upload");
    });
}

#[tokio::test]
async fn the_first_upload_is_number_one_and_its_record_is_upstreams() {
    let zk = open("/upload").await;
    let _building = built(&zk).await;
    let held = lock(&zk, uploading()).await;
    let mut first = upload();
    let stat = held.create_upload(&mut first).await.unwrap();
    assert_eq!(first.id, "0000000001");
    assert_eq!(first.path(), "/nodepool/images/i/builds/b1/providers/p/images/0000000001");
    let mut second = upload();
    second.state_time = 2.0;
    held.create_upload(&mut second).await.unwrap();
    assert_eq!(second.id, "0000000002");
    first.set_state(UploadState::Ready, 3.0);
    first.external_id = Some("x".to_owned());
    held.write_upload(&first, stat.version).await.unwrap();
    let read = zk.read_uploads(&"i".into(), &"b1".into(), &"p".into()).await.unwrap();
    assert_eq!(
        read.iter().map(|(upload, _)| upload.state).collect::<Vec<_>>(),
        [UploadState::Ready, UploadState::Uploading]
    );
    zk.cache()
        .read(|records| assert_eq!(records.uploads[&first.key()].usable().unwrap().external_id, first.external_id));
    let stale = held.write_upload(&first, stat.version).await;
    assert!(matches!(stale, Err(ZkError::Other { .. })), "somebody may have marked it since: {stale:?}");
}

#[tokio::test]
async fn a_lock_does_not_bring_back_what_is_gone() {
    let zk = open("/gone").await;
    assert!(matches!(zk.try_lock_work(uploading()).await.unwrap(), TryLock::Gone), "there is no such build");
    let held = built(&zk).await;
    held.unlock().await.unwrap();
    zk.delete_recursive(&paths::build(&"i".into(), &"b1".into())).await.unwrap();
    assert!(matches!(zk.try_lock_work(uploading()).await.unwrap(), TryLock::Gone));
    assert!(zk.get("/nodepool/images/i/builds/b1").await.unwrap().is_none());
}

#[tokio::test]
async fn who_lost_the_lock_cannot_write() {
    let zk = open("/lost").await;
    let held = built(&zk).await;
    let stranger = stranger(&SERVER, "/lost").await;
    let dir = "/nodepool/images/i/builds/lock";
    for contender in stranger.list_children(dir).await.unwrap() {
        stranger.delete(&format!("{dir}/{contender}"), None).await.unwrap();
    }
    let mut done = build();
    done.set_state(BuildState::Ready, 2.0);
    let error = held.write_build(&done, 0).await.unwrap_err();
    assert!(error.is_lock_lost(), "{error}");
    assert_eq!(zk.read_build(&"i".into(), &"b1".into()).await.unwrap().unwrap().0.state, BuildState::Building);
}

#[tokio::test]
async fn a_build_goes_with_all_below_it_but_not_with_an_upload() {
    let zk = open("/delete").await;
    built(&zk).await.unlock().await.unwrap();
    let sending = lock(&zk, uploading()).await;
    let mut there = upload();
    sending.create_upload(&mut there).await.unwrap();
    sending.unlock().await.unwrap();
    let (image, id) = ("i".into(), "b1".into());
    let stat = zk.read_build(&image, &id).await.unwrap().unwrap().1;
    assert!(!current(&zk).await.remove_build(&image, &id, stat.version).await.unwrap(), "it has an upload");
    there.set_state(UploadState::Deleting, 2.0);
    assert!(current(&zk).await.mark_upload(&there, 7).await.unwrap().is_none(), "somebody has written it since");
    let marked = current(&zk).await.mark_upload(&there, 0).await.unwrap().unwrap();
    // Somebody works on it, as a Python builder may.
    let stranger = stranger(&SERVER, "/delete").await;
    let held = |dir: String| {
        let stranger = stranger.clone();
        async move {
            stranger.create(&dir, b"", &PERSISTENT).await.unwrap();
            let ephemeral = CreateMode::EphemeralSequential.with_acls(Acls::anyone_all());
            let (_, sequence) = stranger.create(&format!("{dir}/x__lock__"), b"", &ephemeral).await.unwrap();
            format!("{dir}/x__lock__{sequence}")
        }
    };
    let contender = held(format!("{}/lock", paths::upload(&there.key()))).await;
    assert!(!current(&zk).await.remove_upload(&there.key(), marked.version).await.unwrap());
    stranger.delete(&contender, None).await.unwrap();
    assert!(!current(&zk).await.remove_upload(&there.key(), 0).await.unwrap(), "another version than was read");
    assert!(current(&zk).await.remove_upload(&there.key(), marked.version).await.unwrap());
    assert!(zk.get(&paths::upload(&there.key())).await.unwrap().is_none());
    let contender = held("/nodepool/images/i/builds/b1/lock".to_owned()).await;
    assert!(!current(&zk).await.remove_build(&image, &id, stat.version).await.unwrap());
    stranger.delete(&contender, None).await.unwrap();
    assert!(current(&zk).await.remove_build(&image, &id, stat.version).await.unwrap());
    assert!(current(&zk).await.remove_build(&image, &id, stat.version).await.unwrap(), "it is gone already");
    assert_eq!(zk.children("/nodepool/images/i/builds").await.unwrap(), ["lock"]);
    zk.cache().read(|records| assert!(records.builds.is_empty() && records.uploads.is_empty()));
}

#[tokio::test]
async fn nothing_is_put_below_a_build_that_is_marked_for_deletion() {
    let zk = open("/marked").await;
    built(&zk).await.unlock().await.unwrap();
    let sending = lock(&zk, uploading()).await;
    assert!(matches!(zk.try_lock_work(uploading()).await.unwrap(), TryLock::Busy));
    let mut marked = build();
    marked.set_state(BuildState::Deleting, 2.0);
    current(&zk).await.mark_build(&marked, 0).await.unwrap().unwrap();
    let error = sending.create_upload(&mut upload()).await.unwrap_err();
    assert!(error.is_bad_version(), "{error}");
    sending.unlock().await.unwrap();
    assert!(matches!(zk.try_lock_work(uploading()).await.unwrap(), TryLock::Gone));
    assert_eq!(zk.children("/nodepool/images/i/builds/b1/providers/p/images").await.unwrap(), ["lock"]);
}

#[tokio::test]
async fn a_builder_of_python_nodepools_is_known_by_its_component() {
    let zk = open("/builders").await;
    let ours = zk.register_builder("ours", "1");
    let running = || async {
        zk.cache().read(|records| (records.builders.len() == 1 && !records.has_upstreams_builder()).then_some(()))
    };
    wait_for(SOON, "ours runs", running).await;
    let stranger = stranger(&SERVER, "/builders").await;
    let theirs = br#"{"hostname": "h", "kind": "builder", "model_api": 0, "state": "stopped", "version": "11.0.0"}"#;
    let ephemeral = CreateMode::EphemeralSequential.with_acls(Acls::anyone_all());
    let (_, sequence) = stranger.create("/nodepool/components/builder/h", theirs, &ephemeral).await.unwrap();
    let seen = || async { zk.cache().read(|records| records.has_upstreams_builder().then_some(())) };
    wait_for(SOON, "theirs is seen", seen).await;
    let late = open("/builders").await;
    assert!(late.cache().read(nodepool_common::model::Records::has_upstreams_builder), "by a walk, too");
    stranger.delete(&format!("/nodepool/components/builder/h{sequence}"), None).await.unwrap();
    wait_for(SOON, "theirs is gone", running).await;
    ours.withdraw().await;
}

#[tokio::test]
async fn a_request_for_a_build_is_struck_when_it_is_done() {
    let zk = open("/request").await;
    let held = built(&zk).await;
    assert!(zk.build_request(&"i".into()).await.unwrap().is_none());
    zk.create("/nodepool/images/i/request-build", b"").await.unwrap();
    assert!(zk.build_request(&"i".into()).await.unwrap().is_some());
    held.delete_build_request(&"i".into()).await.unwrap();
    held.delete_build_request(&"i".into()).await.unwrap();
    assert!(zk.build_request(&"i".into()).await.unwrap().is_none());
}
