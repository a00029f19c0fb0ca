//! What a Python builder takes away at this moment is left alone: its recursive delete finds nothing that we have put there.
//!
//! Needs a Python with kazoo: set `NODEPOOL_TEST_PYTHON` to it. Without it the test says that it is skipped.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a test fails that way

mod zk_common;

use std::{
    process::{Output, Stdio},
    time::Duration,
};

use nodepool_common::{
    model::{BuildState, ImageBuild, ImageUpload, UploadId},
    zk::{Work, ZooKeeper},
};
use nodepool_testing::ZooKeeperServer;
use zk_common::*;
use zookeeper_client::{Acls, Client, CreateMode};

/// Builds that are taken away where nothing goes wrong.
const BUILDS: u32 = 150;

/// Makes a build as soon as there is none.
async fn build(zk: ZooKeeper) {
    for number in 0_u64.. {
        while zk.read_builds(&"i".into()).await.unwrap().len() > 1 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let Some(lock) = zk.try_lock_work(Work::Building("i".into())).await.unwrap().held() else { continue };
        let mut build = ImageBuild::begun("i".into(), format!("{number:032x}").into(), 1.0);
        build.state = BuildState::Ready;
        lock.create_build(&build).await.unwrap();
        lock.unlock().await.unwrap();
    }
}

/// Uploads whatever there is, again and again.
async fn upload(zk: ZooKeeper) {
    loop {
        for (build, _) in zk.read_builds(&"i".into()).await.unwrap() {
            let work = Work::Uploading("i".into(), build.id.clone(), "p".into());
            let Some(lock) = zk.try_lock_work(work).await.unwrap().held() else { continue };
            let data = br#"{"state": "uploading", "state_time": 1.0}"#;
            let id = UploadId::from("");
            let (mut upload, _) = ImageUpload::read("i".into(), build.id, "p".into(), id, data).unwrap();
            // It may have been marked, or be gone.
            let _ = lock.create_upload(&mut upload).await;
            lock.unlock().await.unwrap();
        }
    }
}

/// Takes away what is marked, as the other one does.
async fn remove(zk: ZooKeeper) {
    loop {
        for (build, stat) in zk.read_builds(&"i".into()).await.unwrap() {
            for (upload, stat) in zk.read_uploads(&"i".into(), &build.id, &"p".into()).await.unwrap() {
                current(&zk).await.remove_upload(&upload.key(), stat.version).await.unwrap();
            }
            if build.state == BuildState::Deleting {
                current(&zk).await.remove_build(&"i".into(), &build.id, stat.version).await.unwrap();
            }
        }
    }
}

/// Does as [`upload`] without a look at the build: what a lock did that is merely made where it is missing.
async fn upload_carelessly(client: Client) {
    let ephemeral = CreateMode::EphemeralSequential.with_acls(Acls::anyone_all());
    loop {
        let builds = client.list_children("/nodepool/images/i/builds").await.unwrap_or_default();
        for build in builds.into_iter().filter(|name| name != "lock") {
            let dir = format!("/nodepool/images/i/builds/{build}/providers/p/images/lock");
            // It may go at any moment.
            let _ = client.mkdir(&dir, &PERSISTENT).await;
            if let Ok((_, sequence)) = client.create(&format!("{dir}/x__lock__"), b"", &ephemeral).await {
                let _ = client.delete(&format!("{dir}/x__lock__{sequence}"), None).await;
            }
        }
    }
}

/// Lets a Python builder take so many builds away while `beside` runs; how it ended. `None`: there is no Python.
async fn taken_away(
    server: &ZooKeeperServer,
    builds: u32,
    beside: impl IntoIterator<Item = tokio::task::JoinHandle<()>>,
) -> Option<Output> {
    let Ok(python) = std::env::var("NODEPOOL_TEST_PYTHON") else {
        println!("skipped: NODEPOOL_TEST_PYTHON names no Python with kazoo");
        return None;
    };
    let peer = tokio::process::Command::new(&python)
        .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/kazoo_remover.py"))
        .args([&server.address(), "/nodepool/images/i", &builds.to_string(), "300"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let output = peer.wait_with_output().await.unwrap();
    for task in beside {
        assert!(!task.is_finished(), "{:?}", task.await);
        task.abort();
    }
    Some(output)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_put_below_what_a_python_builder_takes_away() {
    let server = ZooKeeperServer::start();
    let zk: Vec<_> = (0..3).map(|_| connect(&config(&server, ""))).collect();
    let ours = [
        tokio::spawn(build(zk[0].clone())),
        tokio::spawn(upload(zk[1].clone())),
        tokio::spawn(upload(zk[2].clone())),
        tokio::spawn(remove(zk[2].clone())),
    ];
    let Some(output) = taken_away(&server, BUILDS, ours).await else { return };
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    println!("{} builds", String::from_utf8_lossy(&output.stdout).trim());
    for zk in zk {
        zk.close().await;
    }
}

/// That the test above can fail: the same, with somebody who does it wrong.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_python_builder_fails_where_something_is_put_below_what_it_takes_away() {
    let server = ZooKeeperServer::start();
    let zk = connect(&config(&server, ""));
    let careless = stranger(&server, "").await;
    let beside = [tokio::spawn(build(zk.clone())), tokio::spawn(upload_carelessly(careless))];
    // It meets the one moment sooner or later.
    let Some(output) = taken_away(&server, u32::MAX, beside).await else { return };
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(error.contains("something was put below"), "it noticed nothing: {error}");
    zk.close().await;
}
