//! Images of uploads whose record is lost to the builder while they are under way: none stays in the cloud.
//!
//! The whole `nodepool-builder` on a real ZooKeeper, with the fake cloud. A `post-upload-hook` that waits for a file keeps
//! an upload under way while the image is whole in the cloud already.

// Measures by the host's clock.
#![allow(clippy::disallowed_methods)]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a test fails that way

use std::{
    fs::{self, File},
    os::unix::fs::PermissionsExt as _,
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::LazyLock,
    time::Duration,
};

use nodepool_testing::{ZooKeeperServer, wait_for};
use serde_json::{Value, json};
use tempfile::TempDir;
use zookeeper_client::{Acls, Client, CreateMode};

/// Long enough for a machine with much else to do, and less than the two minutes for which a lost lock is asked for again.
const SOON: Duration = Duration::from_secs(60);

/// Ends with the process.
static SERVER: LazyLock<ZooKeeperServer> = LazyLock::new(ZooKeeperServer::start);

/// A builder in the middle of its first upload.
struct Uploading {
    dir: TempDir,
    zk: Client,
    builder: Child,
    /// The build's record.
    build: String,
}

impl Drop for Uploading {
    fn drop(&mut self) {
        let _ = self.builder.kill();
        let _ = self.builder.wait();
    }
}

impl Uploading {
    async fn start() -> Self {
        let dir = TempDir::with_prefix("nodepool-builder-").unwrap();
        let path = |name: &str| dir.path().join(name);
        let chroot = format!("/{}", dir.path().file_name().unwrap().to_str().unwrap());
        let zk = Client::connect(&SERVER.address()).await.unwrap();
        zk.mkdir(&chroot, &CreateMode::Persistent.with_acls(Acls::anyone_all())).await.unwrap();
        let zk = zk.chroot(chroot.clone()).unwrap_or_else(|_| panic!("a chroot {chroot}"));
        let script = |name: &str, text: &str| -> PathBuf {
            fs::write(path(name), format!("#!/bin/sh\n{text}\n")).unwrap();
            fs::set_permissions(path(name), fs::Permissions::from_mode(0o755)).unwrap();
            path(name)
        };
        let dib = script("dib", "while [ \"$1\" != -o ]; do shift; done; echo image >\"$2.qcow2\"");
        let hook = script("hook", "cd \"${0%/*}\"; : >uploaded; until [ -e go ]; do sleep 0.05; done");
        for name in ["images", "logs"] {
            fs::create_dir(path(name)).unwrap();
        }
        fs::write(path("script.json"), json!({"*": {"state_file": path("cloud.json")}}).to_string()).unwrap();
        let provider = json!({
            "name": "cloud", "driver": "fake", "cloud": "fake", "region-name": "r", "rate": 0.001, "pools": [],
            "diskimages": [{"name": "i"}], "post-upload-hook": hook,
        });
        let config = json!({
            "zookeeper-servers": [{"host": "127.0.0.1", "port": SERVER.port(), "chroot": chroot}],
            "images-dir": path("images"), "build-log-dir": path("logs"), "labels": [], "providers": [provider],
            "diskimages": [{"name": "i", "formats": ["qcow2"], "dib-cmd": dib}],
        });
        fs::write(path("nodepool.yaml"), config.to_string()).unwrap();
        let log = File::create(path("log")).unwrap();
        let builder = Command::new(env!("CARGO_BIN_EXE_nodepool-builder"))
            .args(["-f", "--retry-interval", "0.2", "-c"])
            .arg(path("nodepool.yaml"))
            .env("NODEPOOL_FAKE_CLOUD_SCRIPT", path("script.json"))
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        let mut this = Self { dir, zk, builder, build: String::new() };
        this.wait("the image is in the cloud", async || this.path("uploaded").exists()).await;
        assert_eq!(this.images(), 1);
        let builds = this.children("/nodepool/images/i/builds").await;
        let build = builds.iter().find(|name| *name != "lock").unwrap();
        this.build = format!("/nodepool/images/i/builds/{build}");
        this
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// How many images the cloud has.
    fn images(&self) -> usize {
        let state: Value = serde_json::from_slice(&fs::read(self.path("cloud.json")).unwrap()).unwrap();
        state["images"].as_object().unwrap().len()
    }

    fn uploads_dir(&self) -> String {
        format!("{}/providers/cloud/images", self.build)
    }

    async fn children(&self, path: &str) -> Vec<String> {
        match self.zk.list_children(path).await {
            Ok(children) => children,
            Err(zookeeper_client::Error::NoNode) => Vec::new(),
            Err(error) => panic!("listing {path}: {error}"),
        }
    }

    async fn uploads(&self) -> Vec<String> {
        self.children(&self.uploads_dir()).await.into_iter().filter(|name| name != "lock").collect()
    }

    /// Somebody marks the build for deletion, and its upload's lock is gone, as with the session that it lived in.
    async fn loses_its_lock_while_the_build_is_marked(&self) {
        let (data, stat) = self.zk.get_data(&self.build).await.unwrap();
        let mut record: Value = serde_json::from_slice(&data).unwrap();
        record["state"] = json!("deleting");
        self.zk.set_data(&self.build, record.to_string().as_bytes(), Some(stat.version)).await.unwrap();
        let lock = format!("{}/lock", self.uploads_dir());
        let contenders = self.children(&lock).await;
        assert_eq!(contenders.len(), 1);
        for contender in contenders {
            self.zk.delete(&format!("{lock}/{contender}"), None).await.unwrap();
        }
    }

    fn goes_on(&self) {
        File::create(self.path("go")).unwrap();
    }

    async fn wait(&self, what: &str, mut condition: impl AsyncFnMut() -> bool) {
        let started = std::time::Instant::now();
        while !condition().await {
            let log = || fs::read_to_string(self.path("log")).unwrap_or_default();
            assert!(started.elapsed() < SOON, "after {SOON:?} still not: {what}\n{}", log());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

#[tokio::test]
async fn an_image_whose_record_was_removed_is_deleted_when_its_upload_ends() {
    let uploading = Uploading::start().await;
    uploading.loses_its_lock_while_the_build_is_marked().await;
    // As a builder of Python Nodepool's does with what nobody holds.
    for upload in uploading.uploads().await {
        uploading.zk.delete(&format!("{}/{upload}", uploading.uploads_dir()), None).await.unwrap();
    }
    assert_eq!(uploading.images(), 1, "its upload is still under way");
    uploading.goes_on();
    uploading.wait("the image is deleted", async || uploading.images() == 0).await;
}

#[tokio::test]
async fn an_upload_of_a_build_that_was_marked_leaves_neither_image_nor_record() {
    let uploading = Uploading::start().await;
    uploading.loses_its_lock_while_the_build_is_marked().await;
    uploading.goes_on();
    uploading.wait("the image is deleted", async || uploading.images() == 0).await;
    uploading.wait("its record is removed", async || uploading.uploads().await.is_empty()).await;
    let is_gone = async || uploading.zk.check_stat(&uploading.build).await.unwrap().is_none();
    uploading.wait("the build's record is removed", is_gone).await;
}

#[tokio::test]
async fn an_upload_whose_lock_was_lost_is_ready_all_the_same() {
    let uploading = Uploading::start().await;
    let lock = format!("{}/lock", uploading.uploads_dir());
    for contender in uploading.children(&lock).await {
        uploading.zk.delete(&format!("{lock}/{contender}"), None).await.unwrap();
    }
    uploading.goes_on();
    let state = async || {
        let [upload] = uploading.uploads().await.try_into().ok()?;
        let (data, _) = uploading.zk.get_data(&format!("{}/{upload}", uploading.uploads_dir())).await.ok()?;
        serde_json::from_slice::<Value>(&data).ok()?["state"].as_str().map(str::to_owned)
    };
    wait_for(SOON, "the upload is ready", async || (state().await? == "ready").then_some(())).await;
    assert_eq!(uploading.images(), 1);
}
