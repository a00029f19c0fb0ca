//! Images of the fake driver: the stories over images, through the trait that the builder uses, under faults that a
//! real Glance cannot be told to have.
#![allow(clippy::unwrap_used, clippy::expect_used)] // helpers of tests fail like tests
// Names what it makes by the host's chance.
#![allow(clippy::disallowed_methods)]

mod common;

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use common::{image, openstack, provider};
use nodepool_common::config::Driver;
use nodepool_drivers::{CloudResource, Context, ErrorClass, ImageToUpload, Provider, ResourceKind, make};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::time::{Instant, sleep, timeout};

const DEADLINE: Duration = Duration::from_secs(20);
const MD5: &str = "8b0ab6c0ec4c04693bc98cdbd59d975b";

/// A provider with its script, and an image file.
struct Fake {
    dir: TempDir,
    provider: Arc<dyn Provider>,
    image: ImageToUpload,
}

impl Fake {
    fn new(script: &Value) -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("script.json"), json!({"fake-provider": script}).to_string()).unwrap();
        std::fs::write(dir.path().join("i.qcow2"), "nodepool").unwrap();
        let image = image("i-1700000000", &dir.path().join("i.qcow2"));
        Self { provider: Self::provider(&dir, Duration::from_secs(3600)), image, dir }
    }

    fn provider(dir: &TempDir, limit: Duration) -> Arc<dyn Provider> {
        let script = dir.path().join("script.json");
        let clouds = dir.path().join("clouds.yaml");
        let context = Context::default()
            .with_variable("NODEPOOL_FAKE_CLOUD_SCRIPT", script.to_str().unwrap())
            .with_variable("OS_CLIENT_CONFIG_FILE", clouds.to_str().unwrap());
        let mut config = openstack("fake", Vec::new());
        config.image_upload_timeout = limit;
        "{image_name}-{upload_id:>12}-{timestamp}".clone_into(&mut config.image_name_format);
        make(&provider("fake-provider", Driver::Fake(config)), &context).unwrap()
    }

    async fn upload(&self) -> Result<String, nodepool_drivers::ProviderError> {
        timeout(DEADLINE, self.provider.upload_image(&self.image)).await.expect("the upload ends")
    }

    async fn images(&self) -> Vec<CloudResource> {
        self.provider.list_images().await.unwrap()
    }

    /// Waits until there are so many.
    async fn until_there_are(&self, count: usize) {
        let start = Instant::now();
        while self.images().await.len() != count {
            assert!(start.elapsed() < DEADLINE, "{:?}", self.images().await);
            sleep(Duration::from_millis(5)).await;
        }
    }

    /// The upload fails like this and leaves nothing.
    async fn fails(&self, class: ErrorClass, words: &str) {
        let error = self.upload().await.unwrap_err();
        assert_eq!(error.class, class, "{error}");
        assert!(error.to_string().contains(words), "{error}");
        assert_eq!(self.images().await, []);
    }
}

#[tokio::test]
async fn an_image_is_uploaded_found_by_its_metadata_and_deleted() {
    let mut fake = Fake::new(&json!({}));
    fake.image.md5 = Some(MD5.to_uppercase());
    fake.image.properties.insert("os_distro".to_owned(), "fedora".to_owned());
    fake.image.properties.insert("nodepool_upload_id".to_owned(), "not the user's to say".to_owned());
    let id = fake.upload().await.unwrap();
    let images = fake.images().await;
    let [found] = images.as_slice() else { unreachable!("{images:?}") };
    assert_eq!((found.kind, &found.id), (ResourceKind::Image, &id));
    for (key, value) in [
        ("nodepool_provider_name", "fake-provider"),
        ("nodepool_build_id", fake.image.build.as_str()),
        ("nodepool_upload_id", fake.image.upload.as_str()),
        ("os_distro", "fedora"),
        ("status", "active"),
        ("checksum", MD5),
    ] {
        assert_eq!(found.tag(key), Some(value), "{key}");
    }
    fake.provider.delete_resource(found).await.unwrap();
    assert_eq!(fake.images().await, []);
    fake.provider.delete_image(&id).await.expect("gone already is no error");
}

#[tokio::test]
async fn names_and_formats_come_from_the_configuration_and_clouds_yaml() {
    let fake = Fake::new(&json!({}));
    assert!(fake.provider.manages_images());
    assert_eq!(fake.provider.image_format().unwrap(), "qcow2", "no clouds.yaml, as far as a fake cloud is concerned");
    std::fs::write(fake.dir.path().join("clouds.yaml"), "clouds: {fake: {image_format: vhd}}").unwrap();
    assert_eq!(fake.provider.image_format().unwrap(), "vhd");
    let name = fake.provider.image_name(&"f41".into(), &"0000000007".into(), 1_700_000_000).unwrap();
    assert_eq!(name, "f41-  0000000007-1700000000");
    let openstack = provider("os", Driver::OpenStack(openstack("absent", Vec::new())));
    let clouds = fake.dir.path().join("clouds.yaml");
    let context = Context::default().with_variable("OS_CLIENT_CONFIG_FILE", clouds.to_str().unwrap());
    let error = make(&openstack, &context).unwrap().image_format().unwrap_err();
    assert!(error.class == ErrorClass::Config && error.to_string().contains("no cloud absent"), "{error}");
}

#[tokio::test]
async fn a_file_that_is_not_what_its_checksums_say_never_becomes_an_image() {
    let mut fake = Fake::new(&json!({}));
    fake.image.md5 = Some(MD5.to_owned());
    fake.image.sha256 = Some("0".repeat(64));
    fake.fails(ErrorClass::Bug, "i.qcow2 is damaged").await;
    fake.image.path = fake.dir.path().join("absent.qcow2");
    fake.fails(ErrorClass::Transient, "absent.qcow2").await;
}

#[tokio::test]
async fn what_the_cloud_has_must_be_what_was_sent() {
    let once = Fake::new(&json!({"corrupt_upload": {"times": 1}}));
    let id = once.upload().await.expect("the second attempt");
    assert_eq!(once.images().await.iter().map(|image| image.id.as_str()).collect::<Vec<_>>(), [id]);
    let always = Fake::new(&json!({"corrupt_upload": true}));
    always.fails(ErrorClass::Transient, "other data than was sent: size 9, not 8").await;
}

#[tokio::test]
async fn an_upload_is_repeated_where_that_may_help() {
    let unwell = Fake::new(&json!({"fail_upload": {"times": 2, "status": 503}}));
    unwell.upload().await.expect("the third attempt");
    assert_eq!(unwell.images().await.len(), 1);
    let refused = Fake::new(&json!({"fail_upload": {"times": 1, "message": "no"}}));
    refused.fails(ErrorClass::Config, "HTTP 400: no").await;
    let mut should_fail = Fake::new(&json!({}));
    should_fail.image.properties.insert("SHOULD_FAIL".to_owned(), "true".to_owned());
    should_fail.fails(ErrorClass::Config, "SHOULD_FAIL").await;
}

#[tokio::test]
async fn a_creation_whose_answer_is_lost_leaves_no_second_image() {
    let fake = Fake::new(&json!({"lose_upload": {"times": 1}}));
    let id = fake.upload().await.unwrap();
    assert_eq!(fake.images().await.iter().map(|image| image.id.as_str()).collect::<Vec<_>>(), [id]);
    let always = Fake::new(&json!({"lose_upload": true}));
    always.fails(ErrorClass::Transient, "the connection broke").await;
}

#[tokio::test(start_paused = true)]
async fn an_interrupted_upload_leaves_nothing() {
    let fake = Fake::new(&json!({"hang_upload": {}}));
    let (provider, image) = (Arc::clone(&fake.provider), fake.image.clone());
    let upload = tokio::spawn(async move { provider.upload_image(&image).await });
    fake.until_there_are(1).await;
    upload.abort();
    fake.until_there_are(0).await;
    // Between the creation and its answer.
    let slow = Fake::new(&json!({"api_delay": 0.2}));
    assert!(timeout(Duration::from_millis(50), slow.provider.upload_image(&slow.image)).await.is_err());
    slow.until_there_are(1).await;
    slow.until_there_are(0).await;
}

#[tokio::test]
async fn an_upload_ends_with_its_time() {
    let mut fake = Fake::new(&json!({"hang_upload": {}}));
    fake.provider = Fake::provider(&fake.dir, Duration::from_millis(100));
    fake.fails(ErrorClass::Timeout, "image-upload-timeout").await;
}

#[tokio::test]
async fn an_image_that_cannot_be_deleted_stays_and_says_so() {
    let fake = Fake::new(&json!({"fail_image_delete": {"status": 409, "message": "in use", "times": 1}}));
    let id = fake.upload().await.unwrap();
    let error = fake.provider.delete_image(&id).await.unwrap_err();
    assert_eq!(error.class, ErrorClass::Transient);
    assert!(error.to_string().contains(&format!("deleting image {id}")) && error.to_string().contains("in use"));
    fake.provider.delete_image(&id).await.unwrap();
}

#[tokio::test]
async fn images_outlive_the_process_where_the_script_keeps_them() {
    let fake = Fake::new(&json!({}));
    let script = json!({"fake-provider": {"state_dir": fake.dir.path()}}).to_string();
    let path = fake.dir.path().join("script.json");
    std::fs::write(&path, script).unwrap();
    let later = SystemTime::now() + Duration::from_secs(2);
    std::fs::File::options().write(true).open(&path).unwrap().set_modified(later).unwrap();
    let id = fake.upload().await.unwrap();
    let another = Fake::provider(&fake.dir, DEADLINE);
    assert_eq!(another.list_images().await.unwrap()[0].id, id);
    another.delete_image(&id).await.unwrap();
    assert_eq!(fake.images().await, []);
}
