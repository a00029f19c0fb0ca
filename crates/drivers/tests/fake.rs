//! The fake driver, through the trait that the launcher uses.
//!
//! Tests that look at how long something takes run on paused time: only what is waited for counts, not what the machine
//! takes for it.
#![allow(clippy::unwrap_used, clippy::expect_used)] // helpers of tests fail like tests

mod common;

use std::{sync::Arc, time::Duration};

use common::{Reported, amounts, label, launch, openstack, provider};
use nodepool_common::config::Driver;
use nodepool_drivers::{Context, ErrorClass, Instance, Provider, ProviderError, ResourceKind, make};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::time::{Instant, timeout};

/// A provider with its script.
struct Fake {
    dir: TempDir,
    provider: Arc<dyn Provider>,
}

impl Fake {
    fn new(script: &Value) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let fake = Self { provider: Self::provider(&dir), dir };
        fake.script(script);
        fake
    }

    fn provider(dir: &TempDir) -> Arc<dyn Provider> {
        let script = dir.path().join("script.json");
        let context = Context::default().with_variable("NODEPOOL_FAKE_CLOUD_SCRIPT", script.to_str().unwrap());
        let mut small = label("small", "Fake Precise", "Fake Flavor", &[]);
        small.instance_properties.insert("a".to_owned(), "b".to_owned());
        small.dynamic_instance_properties.insert("tenant".to_owned(), "{request.tenant_name}".to_owned());
        small.dynamic_instance_properties.insert("bad".to_owned(), "{request.nope}".to_owned());
        let mut volume = label("volume", "Fake Precise", "Fake Flavor", &[]);
        volume.boot_from_volume = true;
        let labels = vec![
            small,
            volume,
            label("ipv6", "Fake Precise", "Fake Flavor", &["fake-ipv6-network-name"]),
            label("no-auto-ip", "Fake Precise", "Fake Flavor", &["no-auto-ip-network-name"]),
            label("unknown-flavor", "Fake Precise", "Large Flavor", &[]),
        ];
        let mut config = openstack("fake", labels);
        config.region_name = Some("fake-region".to_owned());
        config.port_cleanup_interval = Some(Duration::ZERO);
        make(&provider("fake-provider", Driver::Fake(config)), &context).unwrap()
    }

    /// Replaces the script; its time is made to differ however fast that goes.
    fn script(&self, script: &Value) {
        let path = self.dir.path().join("script.json");
        let before = std::fs::metadata(&path).and_then(|metadata| metadata.modified()).ok();
        loop {
            std::fs::write(&path, json!({"fake-provider": script}).to_string()).unwrap();
            if std::fs::metadata(&path).and_then(|metadata| metadata.modified()).ok() != before {
                return;
            }
        }
    }

    async fn launch(&self, label: &str, node: &str) -> (Result<Instance, ProviderError>, Vec<Value>) {
        let reported = Reported::default();
        let launched = timeout(Duration::from_secs(20), self.provider.launch(&launch(label, node), &reported)).await;
        (launched.expect("the launch ends"), reported.ids())
    }

    async fn servers(&self) -> usize {
        self.provider.list_resources().await.unwrap().len()
    }
}

fn class<T: std::fmt::Debug>(result: &Result<T, ProviderError>) -> ErrorClass {
    result.as_ref().expect_err("an error").class
}

#[tokio::test]
async fn a_server_boots_with_upstreams_addresses_and_is_deleted() {
    let fake = Fake::new(&json!({}));
    let (instance, ids) = fake.launch("small", "0000000001").await;
    let instance = instance.unwrap();
    assert_eq!(ids, std::slice::from_ref(&instance.external_id));
    assert_eq!(instance.interface_ip.as_deref(), Some("fake"));
    assert_eq!((instance.public_ipv4.as_deref(), instance.public_ipv6.as_deref()), (Some("fake"), Some("")));
    assert_eq!((instance.private_ipv4.as_deref(), instance.host_id.as_deref()), (Some("fake"), Some("fake")));
    assert_eq!((instance.cloud.as_deref(), instance.region.as_deref()), (Some("fake"), Some("fake-region")));
    assert_eq!(instance.resources.recorded(), amounts(4.0, 1.0, 8192.0));
    let resources = fake.provider.list_resources().await.unwrap();
    assert_eq!(resources.len(), 1);
    assert_eq!(
        Value::Object(resources[0].metadata.to_map()),
        json!({"groups": "fake-provider,Fake Precise,small", "a": "b", "tenant": "tenant-one",
            "nodepool_node_id": "0000000001", "nodepool_pool_name": "main", "nodepool_provider_name": "fake-provider"})
    );
    assert_eq!(resources[0].resources.recorded(), amounts(4.0, 1.0, 8192.0));
    fake.provider.delete(&instance.external_id, None).await.unwrap();
    fake.provider.delete(&instance.external_id, None).await.expect("gone already is no error");
    assert_eq!(fake.servers().await, 0);
}

#[tokio::test]
async fn networks_decide_about_addresses() {
    let fake = Fake::new(&json!({"boot_delay": 0}));
    let instance = fake.launch("ipv6", "0000000001").await.0.unwrap();
    assert_eq!(instance.interface_ip.as_deref(), Some("fake_v6"));
    assert_eq!(instance.public_ipv6.as_deref(), Some("fake_v6"));
    assert_eq!(instance.host_id.as_deref(), Some("fake_host_id"));
    let instance = fake.launch("no-auto-ip", "0000000002").await.0.unwrap();
    assert_eq!((instance.interface_ip.as_deref(), instance.public_ipv4.as_deref()), (Some("fake"), Some("")));
}

#[tokio::test(start_paused = true)]
async fn an_instant_cloud_is_instant() {
    let fake = Fake::new(&json!({"boot_delay": 0.005}));
    fake.launch("small", "0000000001").await.0.unwrap();
    let mut times = Vec::new();
    for node in 0..11 {
        let began = Instant::now();
        let instance = fake.launch("small", &format!("{node:010}")).await.0.unwrap();
        fake.provider.delete(&instance.external_id, None).await.unwrap();
        times.push(began.elapsed());
    }
    times.sort_unstable();
    assert!(times[5] < Duration::from_millis(40), "launch and deletion take {times:?}");
}

#[tokio::test(start_paused = true)]
async fn many_launches_at_once_all_end() {
    let fake = Fake::new(&json!({"quota": {"instances": 300, "cores": -1, "ram": -1}}));
    let nodes: Vec<String> = (0..300).map(|node| format!("{node:010}")).collect();
    let launches = nodes.iter().map(|node| fake.launch("small", node));
    let began = Instant::now();
    for (launched, _) in futures::future::join_all(launches).await {
        launched.unwrap();
    }
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    assert_eq!(fake.servers().await, 300);
    assert_eq!(class(&fake.launch("small", "0000000300").await.0), ErrorClass::Quota);
}

#[tokio::test]
async fn quota_and_labels_are_as_upstreams() {
    let fake = Fake::new(&json!({}));
    let (main, of) = ("main".into(), |name: &str| name.into());
    let limits = fake.provider.quota().await.unwrap().limits;
    let expected = amounts(100.0, 20.0, 1_000_000.0).with("volumes", 100.0).with("volume-gb", 1_000_000.0);
    assert_eq!(limits, expected);
    let volume = fake.provider.label_resources(&main, &of("volume")).await.unwrap();
    assert_eq!(volume.recorded(), amounts(4.0, 1.0, 8192.0).with("volumes", 1.0).with("volume-gb", 50.0));
    let unknown = fake.provider.label_resources(&main, &of("unknown-flavor")).await;
    assert_eq!(class(&unknown), ErrorClass::Config);
    assert_eq!(
        unknown.unwrap_err().to_string(),
        "choosing the flavor of label unknown-flavor in provider fake-provider: no flavor of the cloud is called Large \
         Flavor (flavor-name) or has that id; it has: Fake Flavor, Unreal Flavor"
    );
    assert_eq!(fake.provider.availability_zones().await.unwrap(), ["az1", "az2"]);
    assert!(fake.provider.label_ready(&main, &of("small")).await.unwrap());
    fake.script(&json!({"quota": {"instances": -1}}));
    assert!(fake.provider.quota().await.unwrap().limits.limit("instances").is_infinite());
}

#[tokio::test]
async fn a_cloud_image_that_is_not_there_makes_a_label_unready() {
    let fake = Fake::new(&json!({"images": ["another"]}));
    assert!(!fake.provider.label_ready(&"main".into(), &"small".into()).await.unwrap());
    assert_eq!(class(&fake.launch("small", "0000000001").await.0), ErrorClass::Config);
}

#[tokio::test]
async fn a_zone_that_is_not_there_is_refused() {
    let fake = Fake::new(&json!({}));
    let mut launch = launch("small", "0000000001");
    launch.az = Some("az9".to_owned());
    let refused = fake.provider.launch(&launch, &Reported::default()).await;
    assert_eq!(class(&refused), ErrorClass::Config);
}

#[tokio::test]
async fn a_server_that_fails_to_boot_is_classed_by_its_fault() {
    let fake = Fake::new(&json!({}));
    for (message, expected, result) in [
        ("quota server fault", ErrorClass::Quota, "error.quota"),
        ("No valid host was found.", ErrorClass::Capacity, "error.capacity"),
        ("expected error", ErrorClass::Transient, "error.status"),
    ] {
        fake.script(&json!({"fail_boot": {"times": 1, "message": message}}));
        let (launched, ids) = fake.launch("small", "0000000001").await;
        let error = launched.unwrap_err();
        assert_eq!((error.class, error.launch_result()), (expected, result), "{error}");
        assert!(error.to_string().contains(message), "{error}");
        fake.provider.delete(&ids[0], None).await.unwrap();
    }
    fake.launch("small", "0000000001").await.0.expect("the fault happens once");
}

#[tokio::test]
async fn a_creation_that_fails_with_a_server_reports_it() {
    let fake = Fake::new(&json!({"fail_create": {"times": 1, "message": "quota server fault", "with_id": true}}));
    let (launched, ids) = fake.launch("small", "0000000001").await;
    assert_eq!(class(&launched), ErrorClass::Quota);
    assert_eq!(ids.len(), 1);
    fake.provider.delete(&ids[0], None).await.unwrap();
    assert_eq!(fake.servers().await, 0);
}

#[tokio::test]
async fn a_server_whose_creation_was_not_heard_of_is_found_by_its_metadata_and_used() {
    let fake = Fake::new(&json!({"lose_create": {"times": 1}}));
    let (launched, ids) = fake.launch("small", "0000000001").await;
    assert_eq!(ids, [launched.unwrap().external_id]);
    assert_eq!(fake.servers().await, 1);
}

#[tokio::test]
async fn a_refused_creation_leaves_nothing() {
    let fake = Fake::new(&json!({"fail_create": {"times": 1}}));
    let (launched, ids) = fake.launch("small", "0000000001").await;
    assert_eq!((class(&launched), ids.len()), (ErrorClass::Transient, 0));
    assert_eq!(fake.servers().await, 0);
}

#[tokio::test(start_paused = true)]
async fn a_launch_that_is_dropped_can_be_cleaned_up() {
    let fake = Fake::new(&json!({"hang_boot": {"times": 1}}));
    let reported = Reported::default();
    let hanging = launch("small", "0000000001");
    assert!(timeout(Duration::from_millis(200), fake.provider.launch(&hanging, &reported)).await.is_err());
    let ids = reported.ids();
    assert_eq!(ids.len(), 1, "it was reported at once");
    fake.provider.delete(&ids[0], None).await.unwrap();
    assert_eq!(fake.servers().await, 0);
    fake.launch("small", "0000000001").await.0.unwrap();
}

#[tokio::test]
async fn listings_that_fail_delay_a_launch_and_nothing_else() {
    let fake = Fake::new(&json!({"fail_list": {"times": 2}}));
    fake.launch("small", "0000000001").await.0.unwrap();
}

#[tokio::test]
async fn deletions_fail_and_hang_as_told() {
    let fake = Fake::new(&json!({"fail_delete": {"times": 1}, "hang_delete": 0.2}));
    let instance = fake.launch("small", "0000000001").await.0.unwrap();
    assert_eq!(class(&fake.provider.delete(&instance.external_id, None).await), ErrorClass::Transient);
    let began = Instant::now();
    fake.provider.delete(&instance.external_id, None).await.unwrap();
    assert!(began.elapsed() >= Duration::from_millis(190));
}

#[tokio::test(start_paused = true)]
async fn servers_outlive_the_process_in_a_state_file() {
    let fake = Fake::new(&json!({}));
    let state = fake.dir.path().join("state.json");
    fake.script(&json!({"state_file": state, "hang_boot": {"times": 1, "seconds": 0.3}}));
    let reported = Reported::default();
    let booting = launch("small", "0000000001");
    assert!(timeout(Duration::from_millis(50), fake.provider.launch(&booting, &reported)).await.is_err());
    let after = Fake { provider: Fake::provider(&fake.dir), dir: fake.dir };
    let resources = after.provider.list_resources().await.unwrap();
    assert_eq!(resources.len(), 1, "another process sees it");
    assert_eq!(resources[0].tag("nodepool_node_id"), Some("0000000001"));
    after.provider.delete_resource(&resources[0]).await.unwrap();
    assert_eq!(after.servers().await, 0);
}

#[tokio::test]
async fn host_keys_of_fake_addresses_are_fake() {
    let fake = Fake::new(&json!({"fail_host_keys": {"times": 1}}));
    fake.provider.start().await.unwrap();
    let node = "0000000001".into();
    assert!(fake.provider.host_keys(&node, "192.0.2.1").await.is_none(), "this one is scanned");
    assert_eq!(class(&fake.provider.host_keys(&node, "fake_v6").await.unwrap()), ErrorClass::Timeout);
    assert_eq!(fake.provider.host_keys(&node, "fake").await.unwrap().unwrap(), ["ssh-rsa FAKEKEY"]);
}

#[tokio::test(start_paused = true)]
async fn ports_that_are_down_twice_are_removed() {
    let fake = Fake::new(&json!({}));
    assert_eq!(fake.provider.clean_up().await.unwrap(), [], "the first look only remembers");
    assert_eq!(fake.provider.clean_up().await.unwrap(), [], "the interval has not passed");
    let began = Instant::now();
    let removed = loop {
        let removed = fake.provider.clean_up().await.unwrap();
        if !removed.is_empty() {
            break removed;
        }
        assert!(began.elapsed() < Duration::from_secs(10), "nothing is removed");
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    assert_eq!(removed.len(), 2);
    assert!(removed.iter().all(|port| port.kind == ResourceKind::Port));
    // More than one second, as upstream counts whole ones.
    assert!(began.elapsed() > Duration::from_millis(900));
}

#[tokio::test]
async fn a_script_with_a_mistake_says_so() {
    let fake = Fake::new(&json!({"boot_dellay": 1}));
    let error = fake.provider.start().await.unwrap_err();
    assert_eq!(error.class, ErrorClass::Config);
    assert!(error.to_string().contains("boot_dellay"), "{error}");
}
