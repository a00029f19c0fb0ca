//! The commands on images, builds and uploads.

use std::{fs, process::Command};

use nodepool_testing::free_port;
use serde_json::{Value, json};

use crate::world::{NODEPOOL, World, rows, run, stderr, stdout};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn images_are_requested_paused_deleted_and_carried_over() {
    let world = World::start().await;
    assert_eq!(world.nodepool(&["image-build", "jammy"]).await.status.code(), Some(0));
    for (image, reason) in [("noble", "paused"), ("plan9", "non disk-image-builder")] {
        let refused = world.nodepool(&["image-build", image]).await;
        assert_eq!((refused.status.code(), stdout(&refused)), (Some(1), ""));
        assert!(stderr(&refused).contains(reason), "{}", stderr(&refused));
    }
    assert_eq!(world.nodepool(&["image-pause", "jammy"]).await.status.code(), Some(0));
    assert_eq!(world.nodepool(&["image-pause", "plan9"]).await.status.code(), Some(1));
    assert_eq!(rows(&world.nodepool(&["image-status"]).await)[0][..3], ["jammy", "True", "pending"]);

    let build = "/nodepool/images/jammy/builds/c0ffee";
    world.zk.create(build, br#"{"state": "ready", "formats": "qcow2,raw", "later": 1}"#).await.unwrap();
    for (id, state) in [("0000000001", "ready"), ("0000000002", "uploading")] {
        let data = json!({"state": state, "external_id": "e"}).to_string();
        world.zk.create(&format!("{build}/providers/p/images/{id}"), data.as_bytes()).await.unwrap();
    }
    assert_eq!(
        rows(&world.nodepool(&["dib-image-list"]).await)[0][..5],
        ["jammy-c0ffee", "jammy", "", "qcow2,raw", "paused"]
    );
    let file = world.server.directory().join("export");
    fs::write(&file, "x".repeat(10_000)).unwrap();
    let path = file.to_str().unwrap();
    assert_eq!(world.nodepool(&["export-image-data", path]).await.status.code(), Some(0));

    let upload = ["image-delete", "--provider", "p", "--image", "jammy", "--build-id", "c0ffee", "--upload-id"];
    for (id, expected) in [
        ("0000000001", ""),
        ("0000000002", "Cannot delete because image upload in progress\n"),
        ("0000000003", "Image upload not found\n"),
    ] {
        let output = world.nodepool(&[&upload[..], &[id]].concat()).await;
        assert_eq!((output.status.code(), stdout(&output)), (Some(0), expected));
    }
    let uploads = world.nodepool(&["image-list"]).await;
    assert_eq!([rows(&uploads)[0][6], rows(&uploads)[1][6]], ["deleting", "uploading"]);
    assert_eq!(stdout(&world.nodepool(&["dib-image-delete", "jammy-c0ffee"]).await), "");
    let record = world.record(build).await.unwrap();
    assert_eq!((&record["state"], &record["later"]), (&json!("deleting"), &json!(1)));
    assert_eq!(stdout(&world.nodepool(&["dib-image-delete", "jammy-0"]).await), "Build jammy-0 not found\n");

    world.zk.delete_recursive("/nodepool/images").await.unwrap();
    assert_eq!(world.nodepool(&["import-image-data", path]).await.status.code(), Some(0));
    assert_eq!(world.record(build).await.unwrap()["state"], "ready");
    let uploads = world.nodepool(&["image-list"]).await;
    assert_eq!(rows(&uploads).iter().map(|row| row[1]).collect::<Vec<_>>(), ["0000000001", "0000000002"]);
    assert!(world.record("/nodepool/images/jammy/pause").await.is_some());
    assert_eq!(world.nodepool(&["image-unpause", "jammy"]).await.status.code(), Some(0));
    assert!(world.record("/nodepool/images/jammy/pause").await.is_none());
}

/// A word of the command line that is a path leads nowhere.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_an_images_own_name_and_an_uploads_own_number_are_taken() {
    let world = World::start().await;
    let build = "/nodepool/images/jammy/builds/c0ffee";
    let upload = format!("{build}/providers/p/images/0000000001");
    world.zk.create(build, br#"{"state": "ready"}"#).await.unwrap();
    world.zk.create(&upload, br#"{"state": "ready"}"#).await.unwrap();
    for lock in ["/nodepool/images/jammy/builds/lock", &format!("{build}/providers/p/images/lock")] {
        world.zk.create(lock, b"").await.unwrap();
    }
    assert_eq!(world.nodepool(&["image-pause", "jammy/builds"]).await.status.code(), Some(1));
    assert_eq!(world.zk.children("/nodepool/images/jammy/builds").await.unwrap(), ["c0ffee", "lock"]);
    assert_eq!(world.nodepool(&["image-unpause", "jammy/builds"]).await.status.code(), Some(0));
    for id in ["jammy-lock", "jammy-c0ffee/providers/p/images/0000000001"] {
        let missing = world.nodepool(&["dib-image-delete", id]).await;
        assert_eq!((missing.status.code(), stdout(&missing)), (Some(0), format!("Build {id} not found\n").as_str()));
    }
    let delete = ["image-delete", "--provider", "p", "--image", "jammy", "--build-id", "c0ffee", "--upload-id", "lock"];
    assert_eq!(stdout(&world.nodepool(&delete).await), "Image upload not found\n");
    assert_eq!(world.record(&upload).await.unwrap()["state"], "ready");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn image_data_is_not_imported_under_a_builder_at_work() {
    let world = World::start().await;
    let uploads = "/nodepool/images/jammy/builds/c0ffee/providers/p/images";
    let file = world.server.directory().join("import");
    fs::write(&file, json!({format!("{uploads}/0000000003"): r#"{"state": "ready"}"#}).to_string()).unwrap();
    let import = ["import-image-data", file.to_str().unwrap()];
    world.zk.create(&format!("{uploads}/lock/x__lock__0000000000"), b"").await.unwrap();
    let refused = world.nodepool(&import).await;
    assert_eq!(refused.status.code(), Some(1));
    assert!(stderr(&refused).contains(uploads) && stderr(&refused).contains("Stop all builders"), "{refused:?}");
    assert_eq!(world.zk.children(uploads).await.unwrap(), ["lock"]);
    assert_eq!(world.zk.children(&format!("{uploads}/lock")).await.unwrap().len(), 1, "the builder keeps its lock");

    world.zk.delete_recursive(&format!("{uploads}/lock/x__lock__0000000000")).await.unwrap();
    assert_eq!(world.nodepool(&import).await.status.code(), Some(0));
    assert_eq!(world.zk.children(uploads).await.unwrap(), ["0000000003"]);
}

fn image(id: &str, name: &str, provider: &str, upload: &str) -> Value {
    json!({"id": id, "name": name, "status": "active", "nodepool_build_id": "c0ffee", "nodepool_upload_id": upload,
        "nodepool_provider_name": provider})
}

/// One cloud of four has what no record knows, one has nothing, one cannot be reached, and one has unusable answers.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn alien_images_are_those_with_our_marks_that_no_upload_knows() {
    let world = World::start().await;
    let directory = world.server.directory();
    let mut config: Value = serde_json::from_slice(&fs::read(world.config()).unwrap()).unwrap();
    config["providers"] = json!([
        {"name": "fake-cloud", "cloud": "fake"},
        {"name": "fake-broken", "cloud": "fake"},
        {"name": "unreachable", "cloud": "unreachable"},
        {"name": "fake-other", "cloud": "fake"},
        {"name": "racks", "driver": "static", "pools": []},
    ]);
    fs::write(world.config(), config.to_string()).unwrap();
    let clouds = directory.join("clouds.yaml");
    let auth = json!({"auth_url": format!("http://127.0.0.1:{}", free_port()), "username": "u", "password": "p",
        "project_name": "p", "user_domain_name": "d", "project_domain_name": "d"});
    fs::write(&clouds, json!({"clouds": {"unreachable": {"auth": auth}}}).to_string()).unwrap();

    let of_others = json!({"id": "i5", "name": "rescue", "status": "active", "nodepool_provider_name": "fake-cloud"});
    let images = json!({
        "i1": image("i1", "jammy-1", "fake-cloud", "0000000001"),
        "i2": image("i2", "jammy-2", "fake-cloud", "0000000002"),
        "i3": image("i3", "jammy-3", "fake-cloud", "0000000003"),
        "i4": image("i4", "jammy-4", "their-cloud", "0000000004"),
        "i5": of_others,
    });
    let state = |images: &Value| json!({"servers": {}, "images": images}).to_string();
    fs::write(directory.join("fake-cloud.json"), state(&images)).unwrap();
    fs::write(
        directory.join("fake-other.json"),
        state(&json!({"o1": image("o1", "noble-1", "fake-other", "0000000001")})),
    )
    .unwrap();
    fs::write(directory.join("fake-broken.json"), "no JSON").unwrap();
    let script = directory.join("script.json");
    fs::write(&script, json!({"*": {"state_dir": directory}}).to_string()).unwrap();
    let uploads = "/nodepool/images/jammy/builds/c0ffee/providers/fake-cloud/images";
    for (id, record) in [("1", json!({"state": "deleting", "external_id": "i1"})), ("2", json!({"state": "uploading"}))]
    {
        world.zk.create(&format!("{uploads}/000000000{id}"), record.to_string().as_bytes()).await.unwrap();
    }

    let aliens = async |arguments: &[&str]| {
        let mut command = Command::new(NODEPOOL);
        command.arg("-c").arg(world.config()).arg("alien-image-list").args(arguments);
        command.env("NODEPOOL_FAKE_CLOUD_SCRIPT", &script).env("OS_CLIENT_CONFIG_FILE", &clouds);
        tokio::task::spawn_blocking(move || run(command, "")).await.unwrap()
    };
    let all = aliens(&[]).await;
    assert_eq!(
        (all.status.code(), stdout(&all)),
        (
            Some(0),
            "\
+------------+---------+----------+
| Provider   | Name    | Image ID |
+------------+---------+----------+
| fake-cloud | jammy-3 | i3       |
| fake-other | noble-1 | o1       |
+------------+---------+----------+
"
        ),
        "{}",
        stderr(&all)
    );
    let warnings: Vec<_> = stderr(&all).lines().filter(|line| line.contains("Exception listing")).collect();
    assert_eq!(warnings.len(), 2, "{warnings:?}");
    for (warning, provider) in warnings.iter().zip(["fake-broken", "unreachable"]) {
        let said = format!(" WARNING nodepool.cmd.nodepoolcmd: Exception listing alien images for {provider}: ");
        assert!(warning.contains(&said), "{warning}");
    }

    let one = aliens(&["fake-other"]).await;
    assert_eq!(rows(&one), [["fake-other", "noble-1", "o1"]]);
    assert!(!stderr(&one).contains("Exception listing"), "the others are not asked");
    let none = aliens(&["fake-othr"]).await;
    assert_eq!(rows(&none).len(), 0);
    assert!(stderr(&none).contains("no provider fake-othr in the configuration; it has: fake-cloud"), "{none:?}");
}
