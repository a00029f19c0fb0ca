//! Images on a real Glance, as `openstack_real.rs` does with servers. What a Glance cannot be told to do (break off,
//! refuse, lie) is done by a proxy before it. Each test removes what it made, also when it fails.
#![allow(clippy::unwrap_used, clippy::expect_used)] // helpers of tests fail like tests

mod common;

use std::{fs::File, future::Future, io::Write, process::Command, sync::Arc, time::Duration};

use common::{
    Reported, image, label, launch, openstack,
    real::{CLOUD, DEADLINE, context_with, end, made, unique},
};
use nodepool_common::{
    config::{LabelImage, OpenStack, OpenStackDiskimage},
    model::{ImageUpload, UploadState},
};
use nodepool_drivers::{CloudResource, Context, ErrorClass, ImageToUpload, Provider, ResourceKind};
use nodepool_testing::{Fault, FaultProxy, Rule, wait_for};
use serde_json::{Map, Value, json};
use tempfile::TempDir;
use tokio::time::{Instant, timeout};

const GLANCE: &str = "http://127.0.0.1:9292";
const MIB: u64 = 1 << 20;

/// A provider of this run's own, and files for it.
struct Test {
    context: Context,
    provider: Arc<dyn Provider>,
    dir: TempDir,
}

impl Test {
    /// A file with something in it, and an image of it that has this run's name.
    fn image(&self, size: u64) -> ImageToUpload {
        let path = self.dir.path().join("i.raw");
        let mut file = File::create(&path).unwrap();
        file.write_all(self.provider.name().as_str().as_bytes()).unwrap();
        // The rest is a hole.
        file.set_len(size).unwrap();
        image(self.provider.name().as_str(), &path)
    }

    async fn images(&self) -> Vec<CloudResource> {
        self.provider.list_images().await.unwrap()
    }

    /// Exactly this one is left, active.
    async fn has_only(&self, id: &str) {
        let images = self.images().await;
        let found: Vec<_> = images.iter().map(|image| (image.id.as_str(), image.tag("status").unwrap())).collect();
        assert_eq!(found, [(id, "active")]);
    }

    /// The upload fails like this and leaves nothing.
    async fn fails(&self, image: &ImageToUpload, class: ErrorClass, words: &str) {
        let error = self.provider.upload_image(image).await.unwrap_err();
        eprintln!("{error}");
        assert_eq!(error.class, class, "{error}");
        assert!(error.to_string().contains(words), "{error}");
        assert_eq!(self.images().await, []);
    }

    fn calls(&self, name: &str) -> u64 {
        self.context.calls.snapshot().iter().filter(|((_, call), _)| *call == name).map(|(_, call)| call.count).sum()
    }
}

/// Runs a test with a provider whose clouds.yaml has these further settings, and removes its images and servers.
async fn with_provider<F: Future<Output = ()> + Send + 'static>(
    test: &str,
    settings: &str,
    config: OpenStack,
    body: impl FnOnce(Arc<Test>) -> F,
) {
    run(test, settings, config, body, || {}).await;
}

async fn run<F: Future<Output = ()> + Send + 'static>(
    test: &str,
    settings: &str,
    mut config: OpenStack,
    body: impl FnOnce(Arc<Test>) -> F,
    before_removal: impl FnOnce(),
) {
    let Some((context, dir)) = context_with(&[settings]) else { return };
    config.cloud.get_or_insert_with(|| CLOUD.to_owned());
    let provider = made(&unique(test), config, &context);
    provider.start().await.unwrap();
    let test = Arc::new(Test { context, provider: Arc::clone(&provider), dir });
    let done = tokio::spawn(timeout(DEADLINE, body(Arc::clone(&test)))).await;
    before_removal();
    end(&provider, done).await;
}

/// The same with a proxy before Glance.
async fn with_proxy<F: Future<Output = ()> + Send + 'static>(
    test: &str,
    config: OpenStack,
    rules: Vec<Rule>,
    body: impl FnOnce(Arc<Test>, Arc<FaultProxy>) -> F,
) {
    let proxy = Arc::new(FaultProxy::start(GLANCE).await);
    proxy.replace(rules);
    let setting = format!("image_endpoint_override: {}", proxy.url());
    let taken = Arc::clone(&proxy);
    run(test, &setting, config, |test| body(test, taken), || proxy.clear()).await;
}

fn plain() -> OpenStack {
    openstack(CLOUD, Vec::new())
}

fn answer(status: u16, body: &Value) -> Fault {
    Fault::Answer {
        status,
        headers: [("content-type".to_owned(), "application/json".to_owned())].into(),
        body: body.to_string(),
    }
}

/// What Glance says of an image, without what differs between any two.
fn document(image: &Value) -> Map<String, Value> {
    let mut document = image.as_object().unwrap().clone();
    document.retain(|key, _| !["id", "self", "file", "created_at", "updated_at"].contains(&key.as_str()));
    document
}

#[tokio::test]
async fn an_image_is_made_as_the_sdk_makes_it_for_upstream() {
    with_provider("sdk", "disable_vendor_agent: {vm_mode: hvm, xenapi_use_agent: false}", plain(), |test| async move {
        let mut image = test.image(MIB);
        for (key, value) in [("os_distro", "fedora"), ("min_disk", "7"), ("hw_disk_bus", "scsi"), ("empty", "")] {
            image.properties.insert(key.to_owned(), value.to_owned());
        }
        image.sha256 = Some("0".repeat(64));
        test.fails(&image, ErrorClass::Bug, "i.raw is damaged").await;
        let digest = |tool: &str| {
            let output = Command::new(tool).arg(&image.path).output().unwrap();
            String::from_utf8(output.stdout).unwrap().split(' ').next().unwrap().to_owned()
        };
        (image.md5, image.sha256) = (Some(digest("md5sum")), Some(digest("sha256sum")));
        let id = test.provider.upload_image(&image).await.unwrap();
        let ours = test.images().await.remove(0);
        assert_eq!((ours.kind, &ours.id), (ResourceKind::Image, &id));
        assert_eq!(ours.tag("owner_specified.openstack.sha256"), image.sha256.as_deref());
        let Ok(python) = std::env::var("NODEPOOL_TEST_PYTHON") else {
            eprintln!("not compared: NODEPOOL_TEST_PYTHON names no Python with openstacksdk");
            return;
        };
        // The SDK takes an image of the same name for its own.
        test.provider.delete_image(&id).await.unwrap();
        let mut more = image.metadata(test.provider.name());
        for (key, value) in
            [("md5", &image.md5), ("sha256", &image.sha256), ("disk_format", &Some(image.format.clone()))]
        {
            more.insert(key.to_owned(), json!(value));
        }
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/openstack_image_by_sdk.py");
        let output = Command::new(python)
            .args([script, CLOUD, &image.name])
            .arg(&image.path)
            .arg(Value::Object(more).to_string())
            .env("OS_CLIENT_CONFIG_FILE", test.context.variable("OS_CLIENT_CONFIG_FILE").unwrap())
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let theirs: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(document(&Value::Object(ours.metadata.to_map())), document(&theirs));
    })
    .await;
}

#[tokio::test]
async fn a_server_boots_from_an_image_that_was_uploaded() {
    let mut small = label("small", "", "np.tiny", &["private-v4only"]);
    small.image = LabelImage::Diskimage("i".into());
    let mut config = openstack(CLOUD, vec![small]);
    config.diskimages.insert(
        "i".into(),
        OpenStackDiskimage {
            name: "i".into(),
            pause: false,
            meta: indexmap::IndexMap::new(),
            config_drive: None,
            connection_type: "ssh".to_owned(),
            connection_port: 22,
            username: "zuul".to_owned(),
            python_path: "auto".to_owned(),
            shell_type: None,
        },
    );
    with_provider("boot", "image_format: raw", config, |test| async move {
        let mut image = test.image(MIB);
        image.format = test.provider.image_format().unwrap();
        image.name = test.provider.image_name(&"i".into(), &image.upload, 1_700_000_000).unwrap();
        assert_eq!((image.format.as_str(), image.name.as_str()), ("raw", "i-1700000000"));
        let id = test.provider.upload_image(&image).await.unwrap();
        let document = json!({"state": "ready", "state_time": 1.0, "external_id": id}).to_string();
        let name = test.provider.name().clone();
        let read = ImageUpload::read("i".into(), image.build.clone(), name, image.upload.clone(), document.as_bytes());
        let upload = read.unwrap().0;
        assert_eq!(upload.state, UploadState::Ready);
        let mut launch = launch("small", "0000000001");
        launch.upload = Some(Arc::new(upload));
        let instance = test.provider.launch(&launch, &Reported::default()).await.unwrap();
        // A store of files has no objection; the server keeps what it has.
        test.provider.delete_image(&id).await.unwrap();
        test.provider.delete_image(&id).await.expect("gone already is no error");
        test.provider.delete(&instance.external_id, None).await.unwrap();
    })
    .await;
}

#[tokio::test]
async fn a_listing_has_no_images_of_others() {
    with_provider("mine", "", plain(), |mine| async move {
        let id = mine.provider.upload_image(&mine.image(1)).await.unwrap();
        with_provider("other", "", plain(), |other| async move {
            assert_eq!(other.images().await, []);
            let id = other.provider.upload_image(&other.image(1)).await.unwrap();
            other.has_only(&id).await;
        })
        .await;
        mine.has_only(&id).await;
        // One who may see every project's, by the name of ours.
        let name = mine.provider.name().as_str().to_owned();
        let admin = openstack("npcloud-admin", Vec::new());
        let admin = made(&name, admin, &mine.context);
        admin.start().await.unwrap();
        assert_eq!(admin.list_images().await.unwrap(), []);
    })
    .await;
}

#[tokio::test]
async fn an_interrupted_upload_leaves_no_image() {
    with_provider("drop", "", plain(), |test| async move {
        let image = test.image(4096 * MIB);
        let (provider, taken) = (Arc::clone(&test.provider), image.clone());
        let upload = tokio::spawn(async move { provider.upload_image(&taken).await });
        wait_for(DEADLINE, "bytes on their way", async || {
            test.images().await.iter().any(|image| image.tag("status") == Some("saving")).then_some(())
        })
        .await;
        upload.abort();
        wait_for(DEADLINE, "the image is gone", async || test.images().await.is_empty().then_some(())).await;
        // Nothing of it stands in the way of the next.
        let id = test.provider.upload_image(&ImageToUpload { path: test.image(MIB).path, ..image }).await.unwrap();
        test.has_only(&id).await;
    })
    .await;
}

#[tokio::test]
async fn an_upload_that_breaks_off_is_begun_anew_with_nothing_left_of_it() {
    let cut = || Rule::new("PUT", "/v2/images/*/file", Fault::CutBody(MIB));
    with_proxy("cut", plain(), vec![cut().times(1)], |test, proxy| async move {
        let id = test.provider.upload_image(&test.image(20 * MIB)).await.unwrap();
        test.has_only(&id).await;
        assert_eq!(test.calls("upload_image"), 2);
        test.provider.delete_image(&id).await.unwrap();
        proxy.set(cut());
        test.fails(&test.image(20 * MIB), ErrorClass::Transient, "upload_image: PUT").await;
    })
    .await;
}

#[tokio::test]
async fn a_creation_whose_answer_is_lost_leaves_one_image() {
    let lost = Rule::new("POST", "/v2/images", Fault::CutAfter).times(1);
    with_proxy("lost", plain(), vec![lost], |test, _| async move {
        let id = test.provider.upload_image(&test.image(MIB)).await.unwrap();
        test.has_only(&id).await;
        assert_eq!(test.calls("create_image"), 2);
    })
    .await;
}

#[tokio::test]
async fn a_refused_token_is_renewed_for_another_attempt() {
    let refused = answer(401, &json!({"message": "no"}));
    let refused = Rule::new("PUT", "/v2/images/*/file", refused).times(1);
    with_proxy("token", plain(), vec![refused], |test, proxy| async move {
        let id = test.provider.upload_image(&test.image(MIB)).await.unwrap();
        test.has_only(&id).await;
        assert_eq!(proxy.calls().tokens.len(), 2);
    })
    .await;
}

#[tokio::test]
async fn data_whose_address_has_moved_is_not_sent_twice_and_the_error_names_the_new_one() {
    let moved = Fault::Answer {
        status: 307,
        headers: [("Location".to_owned(), format!("{GLANCE}/elsewhere?a=b"))].into(),
        body: String::new(),
    };
    with_proxy("moved", plain(), vec![Rule::new("PUT", "/v2/images/*/file", moved)], |test, _| async move {
        let words = format!("answers 307 and redirects to {GLANCE}/elsewhere, where what was streamed cannot be sent");
        test.fails(&test.image(MIB), ErrorClass::Config, &words).await;
        assert_eq!(test.calls("upload_image"), 1);
    })
    .await;
}

#[tokio::test]
async fn an_image_that_the_cloud_has_otherwise_than_it_was_sent_is_deleted() {
    let lies = answer(200, &json!({"id": "any", "status": "active", "size": MIB, "checksum": "d41d8cd98f"}));
    with_proxy("lies", plain(), vec![Rule::new("GET", "/v2/images/*", lies)], |test, _| async move {
        test.fails(&test.image(MIB), ErrorClass::Transient, "other data than was sent: checksum d41d8cd98f").await;
        assert_eq!(test.calls("upload_image"), 3);
    })
    .await;
}

#[tokio::test]
async fn an_upload_ends_with_its_time() {
    let mut config = plain();
    config.image_upload_timeout = Duration::from_secs(5);
    let slow = Rule::new("PUT", "/v2/images/*/file", Fault::DelayAnswer(60));
    with_proxy("slow", config, vec![slow], |test, _| async move {
        test.fails(&test.image(MIB), ErrorClass::Timeout, "after 5 s (image-upload-timeout)").await;
    })
    .await;
}

#[tokio::test]
async fn an_image_that_is_in_use_stays_and_says_so() {
    let used = answer(409, &json!({"message": "Image could not be deleted because it is in use: by a volume"}));
    with_proxy("used", plain(), vec![Rule::new("DELETE", "/v2/images/*", used).times(1)], |test, _| async move {
        let id = test.provider.upload_image(&test.image(MIB)).await.unwrap();
        let error = test.provider.delete_image(&id).await.unwrap_err();
        assert_eq!(error.class, ErrorClass::Transient);
        assert!(error.to_string().contains(&id) && error.to_string().contains("in use: by a volume"), "{error}");
        test.has_only(&id).await;
        let leaked = test.images().await.remove(0);
        test.provider.delete_resource(&leaked).await.unwrap();
        assert_eq!(test.images().await, []);
    })
    .await;
}

#[tokio::test]
async fn an_image_is_imported_where_clouds_yaml_speaks_of_tasks() {
    with_provider("import", "image_api_use_tasks: true", plain(), |test| async move {
        let id = test.provider.upload_image(&test.image(2 * MIB)).await.unwrap();
        test.has_only(&id).await;
        assert_eq!((test.calls("stage_image"), test.calls("import_image"), test.calls("upload_image")), (1, 1, 0));
    })
    .await;
}

#[tokio::test]
async fn an_image_is_imported_where_direct_uploads_are_refused() {
    let refused = answer(403, &json!({"message": "You are not authorized to complete upload_image action."}));
    let refused = || Rule::new("PUT", "/v2/images/*/file", refused.clone());
    with_proxy("policy", plain(), vec![refused()], |test, proxy| async move {
        let id = test.provider.upload_image(&test.image(2 * MIB)).await.unwrap();
        test.has_only(&id).await;
        assert_eq!((test.calls("upload_image"), test.calls("stage_image"), test.calls("import_image")), (1, 1, 1));
        test.provider.delete_image(&id).await.unwrap();
        // And where there is no other way.
        let methods = answer(200, &json!({"import-methods": {"value": ["web-download"]}}));
        proxy.set(Rule::new("GET", "/v2/info/import", methods));
        let words = "the cloud refuses direct uploads (HTTP 403: upload_image: You are not authorized";
        test.fails(&test.image(MIB), ErrorClass::Config, words).await;
        test.fails(&test.image(MIB), ErrorClass::Config, "no import by glance-direct (it has: web-download)").await;
    })
    .await;
}

#[tokio::test]
async fn an_import_that_fails_is_an_error_that_names_the_store() {
    let failed = answer(200, &json!({"id": "any", "status": "queued", "os_glance_failed_import": "store"}));
    let proxy = FaultProxy::start(GLANCE).await;
    proxy.set(Rule::new("GET", "/v2/images/*", failed));
    let settings = format!("image_endpoint_override: {}\n    image_api_use_tasks: true", proxy.url());
    with_provider("failed", &settings, plain(), |test| async move {
        test.fails(&test.image(MIB), ErrorClass::Transient, "failed to import the image into store").await;
        assert_eq!(test.calls("import_image"), 3);
    })
    .await;
}

/// `VmRSS` or `VmHWM` of this process, in bytes.
fn memory(key: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':')).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_gib_are_uploaded_in_64_mib_of_memory() {
    with_provider("huge", "", plain(), |test| async move {
        let size = 10 << 30;
        let mut image = test.image(size);
        image.md5 = None;
        // Resets the high-water mark.
        std::fs::write("/proc/self/clear_refs", "5").unwrap();
        let (before, start) = (memory("VmRSS"), Instant::now());
        let id = test.provider.upload_image(&image).await.unwrap();
        let (grown, time) = (memory("VmHWM").saturating_sub(before), start.elapsed());
        #[allow(clippy::cast_precision_loss)] // for people
        let rate = size as f64 / 1e6 / time.as_secs_f64();
        eprintln!("10 GiB in {time:.1?}: {rate:.0} MB/s, {} KiB of memory", grown / 1024);
        assert!(grown <= 64 * MIB, "{grown}");
        let found = test.images().await.remove(0);
        assert_eq!((found.id.as_str(), found.metadata.to_map()["size"].as_u64()), (id.as_str(), Some(size)));
    })
    .await;
}
