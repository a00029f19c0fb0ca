//! The openstack driver on a real OpenStack (`shared/openstack`), named by `NODEPOOL_TEST_CLOUDS_YAML`. Without it the
//! tests say that they did nothing. The cloud is shared: each test removes the servers it made, also when it fails.
#![allow(clippy::unwrap_used, clippy::expect_used)] // helpers of tests fail like tests

mod common;

use std::{
    collections::BTreeMap,
    net::TcpListener,
    panic::resume_unwind,
    sync::Arc,
    time::{Duration, SystemTime},
};

use common::{Reported, label, launch, openstack, provider};
use nodepool_common::config::{Driver, OpenStack, OpenStackLabel};
use nodepool_drivers::{Context, ErrorClass, Instance, Provider, ProviderError, make};
use serde_json::{Value, json};
use tokio::time::timeout;

const CLOUD: &str = "npcloud";
const SMALL: &str = "npcloud-small";
const IMAGE: &str = "cirros-np";
const NETWORK: &str = "private-v4only";
/// The cloud runs on a loaded machine.
const DEADLINE: Duration = Duration::from_secs(300);

fn context() -> Option<Context> {
    let Ok(path) = std::env::var("NODEPOOL_TEST_CLOUDS_YAML") else {
        eprintln!("skipped: NODEPOOL_TEST_CLOUDS_YAML does not name the clouds.yaml of a test cloud");
        return None;
    };
    Some(Context::default().with_variable("OS_CLIENT_CONFIG_FILE", path))
}

fn tiny(name: &str) -> OpenStackLabel {
    label(name, IMAGE, "np.tiny", &[NETWORK])
}

fn made(name: &str, config: OpenStack, context: &Context) -> Arc<dyn Provider> {
    make(&provider(name, Driver::OpenStack(config)), context).unwrap()
}

/// A provider whose servers are removed at the end. Its name is this run's own.
async fn with_provider<F: Future<Output = ()> + Send + 'static>(
    test: &str,
    config: OpenStack,
    context: &Context,
    body: impl FnOnce(Arc<dyn Provider>) -> F,
) {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_nanos();
    let name = format!("test-{test}-{now}");
    let provider = made(&name, config, context);
    provider.start().await.unwrap();
    let done = tokio::spawn(timeout(DEADLINE, body(Arc::clone(&provider)))).await;
    let ours = provider.list_resources().await.unwrap();
    for resource in ours.iter().filter(|resource| resource.tag("nodepool_provider_name") == Some(&name)) {
        eprintln!("removing server {}", resource.id);
        timeout(DEADLINE, provider.delete(&json!(resource.id))).await.unwrap().unwrap();
    }
    match done {
        Ok(in_time) => in_time.expect("the test ends in time"),
        Err(error) => resume_unwind(error.into_panic()),
    }
}

async fn launched(
    provider: &Arc<dyn Provider>,
    label: &str,
    node: &str,
) -> (Result<Instance, ProviderError>, Vec<Value>) {
    let reported = Reported::default();
    (provider.launch(&launch(label, node), &reported).await, reported.ids())
}

#[tokio::test]
async fn a_server_is_launched_listed_and_deleted_with_few_calls() {
    let Some(context) = context() else { return };
    let mut small = tiny("small");
    small.userdata = Some("#!/bin/sh\ntrue\n".to_owned());
    small.instance_properties.insert("np_console".to_owned(), "hello from the console".to_owned());
    small.dynamic_instance_properties.insert("tenant".to_owned(), "{request.tenant_name}".to_owned());
    let mut config = openstack(CLOUD, vec![small]);
    config.region_name = Some("RegionOne".to_owned());
    config.pools["main"].security_groups = vec!["default".to_owned()];
    let calls = context.calls.clone();
    with_provider("launch", config, &context, |provider| async move {
        let mut launch = launch("small", "0000000001");
        launch.az = provider.availability_zones().await.unwrap().first().cloned();
        assert!(provider.label_ready(&launch.pool, &launch.label).await.unwrap());
        let reported = Reported::default();
        let instance = provider.launch(&launch, &reported).await.unwrap();
        assert_eq!(reported.ids(), std::slice::from_ref(&instance.external_id));
        let address = instance.interface_ip.clone().unwrap();
        assert!(address.starts_with("127.66."), "{address}");
        assert_eq!(instance.private_ipv4, Some(address));
        assert_eq!(instance.public_ipv4, None);
        assert_eq!((instance.cloud.as_deref(), instance.region.as_deref()), (Some(CLOUD), Some("RegionOne")));
        assert_eq!(instance.az, launch.az);
        assert!(instance.host_id.is_some_and(|id| !id.is_empty()));
        assert_eq!(instance.resources.recorded(), common::amounts(1.0, 1.0, 512.0));
        let resources = provider.list_resources().await.unwrap();
        let ours = resources.iter().find(|resource| json!(resource.id) == instance.external_id).unwrap();
        assert_eq!(ours.tag("nodepool_node_id"), Some("0000000001"));
        assert_eq!(ours.tag("tenant"), Some("tenant-one"));
        assert_eq!(ours.tag("groups").unwrap(), format!("{},{IMAGE},small", provider.name()));
        assert_eq!(ours.resources.recorded(), common::amounts(1.0, 1.0, 512.0));
        let console = provider.console_log(&launch.pool, &launch.label, &instance.external_id).await.unwrap();
        assert!(console.unwrap().contains("hello from the console"));
        provider.delete(&instance.external_id).await.unwrap();
        provider.delete(&instance.external_id).await.expect("gone already is no error");
    })
    .await;
    let calls: BTreeMap<_, _> =
        calls.snapshot().into_iter().map(|((_, call), counted)| (call, (counted.count, counted.failed))).collect();
    eprintln!("{calls:?}");
    for once in ["create_server", "get_network", "get_image", "list_flavors", "list_availability_zone_names"] {
        assert_eq!(calls[once], (1, 0), "{once}");
    }
    assert_eq!(calls["delete_server"], (2, 1), "the second finds it gone");
}

#[tokio::test]
async fn one_listing_serves_many_launches() {
    let Some(context) = context() else { return };
    let mut slow = tiny("slow");
    slow.instance_properties.insert("np_spawn_delay".to_owned(), "5".to_owned());
    let calls = context.calls.clone();
    with_provider("many", openstack(CLOUD, vec![slow]), &context, |provider| async move {
        let nodes: Vec<String> = (1..=6).map(|node| format!("{node:010}")).collect();
        let launches = nodes.iter().map(|node| launched(&provider, "slow", node));
        let instances = futures::future::join_all(launches).await;
        let deletions = instances.iter().map(|(instance, _)| {
            let instance = instance.as_ref().expect("a server");
            provider.delete(&instance.external_id)
        });
        for deleted in futures::future::join_all(deletions).await {
            deleted.unwrap();
        }
    })
    .await;
    let counted = calls.snapshot();
    let count = |name: &str| counted.iter().filter(|((_, call), _)| *call == name).map(|(_, c)| c.count).sum::<u64>();
    let time =
        |name: &str| counted.iter().filter(|((_, call), _)| *call == name).map(|(_, c)| c.time).sum::<Duration>();
    eprintln!(
        "{} listings ({:?}), {} creations",
        count("detailed server list"),
        time("detailed server list"),
        count("create_server")
    );
    assert_eq!(count("create_server"), 6);
    // Each server waited for alone would need that many each.
    assert!(count("detailed server list") < 60);
}

#[tokio::test]
async fn a_server_boots_from_a_volume() {
    let Some(context) = context() else { return };
    let mut volume = label("volume", IMAGE, "np.nodisk", &[NETWORK]);
    volume.boot_from_volume = true;
    volume.volume_size = 3;
    with_provider("volume", openstack(CLOUD, vec![volume]), &context, |provider| async move {
        let (instance, _) = launched(&provider, "volume", "0000000001").await;
        let instance = instance.unwrap();
        let expected = common::amounts(2.0, 1.0, 2048.0).with("volumes", 1.0).with("volume-gb", 3.0);
        assert_eq!(instance.resources.recorded(), expected);
        let resources = provider.list_resources().await.unwrap();
        let ours = resources.iter().find(|resource| json!(resource.id) == instance.external_id).unwrap();
        assert_eq!(ours.resources.recorded(), expected);
        provider.delete(&instance.external_id).await.unwrap();
    })
    .await;
}

#[tokio::test]
async fn quota_is_read_from_nova_cinder_and_neutron() {
    let Some(context) = context() else { return };
    let provider = made("test-quota", openstack(SMALL, vec![tiny("small")]), &context);
    provider.start().await.unwrap();
    let limits = provider.quota().await.unwrap().limits;
    let expected = common::amounts(6.0, 3.0, 6144.0)
        .with("volumes", 2.0)
        .with("volume-gb", 20.0)
        .with("ports", 10.0)
        .with("floating-ips", 2.0);
    assert_eq!(limits, expected);
}

#[tokio::test]
async fn more_than_the_quota_is_classed_as_such() {
    let Some(context) = context() else { return };
    with_provider("over-quota", openstack(SMALL, vec![tiny("small")]), &context, |provider| async move {
        let nodes: Vec<String> = (1..=5).map(|node| format!("{node:010}")).collect();
        let launches = nodes.iter().map(|node| launched(&provider, "small", node));
        let results = futures::future::join_all(launches).await;
        let errors: Vec<_> = results.iter().filter_map(|(result, _)| result.as_ref().err()).collect();
        assert!(errors.len() >= 2, "{errors:?}");
        for error in errors {
            eprintln!("{error}");
            assert_eq!(error.class, ErrorClass::Quota, "{error}");
        }
        // With these in place, Nova refuses at once.
        let (refused, ids) = launched(&provider, "small", "0000000006").await;
        let refused = refused.unwrap_err();
        eprintln!("{refused}");
        assert_eq!(refused.class, ErrorClass::Quota);
        assert!(refused.to_string().contains("HTTP 403: Quota exceeded") && ids.is_empty(), "{refused}");
        for (_, ids) in &results {
            for id in ids {
                provider.delete(id).await.unwrap();
            }
        }
    })
    .await;
}

#[tokio::test]
async fn a_flavor_that_fits_nowhere_is_a_lack_of_capacity() {
    let Some(context) = context() else { return };
    let huge = label("huge", IMAGE, "np.huge", &[NETWORK]);
    with_provider("huge", openstack(CLOUD, vec![huge]), &context, |provider| async move {
        let (result, ids) = launched(&provider, "huge", "0000000001").await;
        let error = result.unwrap_err();
        assert_eq!(error.class, ErrorClass::Capacity, "{error}");
        assert!(error.to_string().contains("No valid host"), "{error}");
        provider.delete(&ids[0]).await.unwrap();
    })
    .await;
}

#[tokio::test]
async fn what_the_cloud_does_not_have_is_a_mistake_in_the_configuration() {
    let Some(context) = context() else { return };
    let mut config = openstack(
        CLOUD,
        vec![
            label("flavor", IMAGE, "np.none", &[NETWORK]),
            label("network", IMAGE, "np.tiny", &["no-such-network"]),
            label("image", "no-such-image", "np.tiny", &[NETWORK]),
            label("image-id", "by-id", "np.tiny", &[NETWORK]),
        ],
    );
    config.cloud_images["by-id"].image_id = Some("11111111-2222-3333-4444-555555555555".to_owned());
    with_provider("config", config, &context, |provider| async move {
        for (label, text) in [
            ("flavor", "np.none"),
            ("network", "no-such-network"),
            ("image", "no-such-image"),
            ("image-id", "HTTP 400: "),
        ] {
            let (result, ids) = launched(&provider, label, "0000000001").await;
            let error = result.unwrap_err();
            eprintln!("{error}");
            assert_eq!(error.class, ErrorClass::Config, "{error}");
            assert!(error.to_string().contains(text), "{error}");
            assert!(ids.is_empty());
        }
    })
    .await;
}

#[tokio::test]
async fn an_application_credential_logs_in() {
    let Some(context) = context() else { return };
    let provider = made("test-appcred", openstack("npcloud-appcred", vec![tiny("small")]), &context);
    provider.start().await.unwrap();
    assert!(provider.quota().await.unwrap().limits.limit("instances") >= 2000.0);
}

#[tokio::test]
async fn a_start_that_fails_says_why() {
    let Some(context) = context() else { return };
    let path = context.variable("OS_CLIENT_CONFIG_FILE").unwrap().to_owned();
    let clouds = std::fs::read_to_string(&path).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let start = |cloud: &str, clouds: &str| {
        let file = dir.path().join("clouds.yaml");
        std::fs::write(&file, clouds).unwrap();
        let context = Context::default().with_variable("OS_CLIENT_CONFIG_FILE", file.to_str().unwrap());
        let provider = made("test-start", openstack(cloud, vec![tiny("small")]), &context);
        async move {
            let error = provider.start().await.unwrap_err();
            eprintln!("{error}");
            error
        }
    };
    let wrong = start(CLOUD, &clouds.replace("np-secret", "wrong")).await;
    assert_eq!(wrong.class, ErrorClass::Config);
    for part in ["refused the credentials of cloud npcloud (user nodepool): 401", "check its auth in"] {
        assert!(wrong.to_string().contains(part), "{wrong}");
    }
    let unknown = start("nowhere", &clouds).await;
    assert_eq!(unknown.class, ErrorClass::Config);
    assert!(unknown.to_string().contains("no cloud nowhere in") && unknown.to_string().contains(SMALL), "{unknown}");
    let region = start(CLOUD, &clouds.replace("RegionOne", "RegionTwo")).await;
    assert_eq!(region.class, ErrorClass::Config);
    assert!(region.to_string().contains("region RegionTwo"), "{region}");
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let unreachable = start(CLOUD, &clouds.replace("127.0.0.1:5000", &closed.to_string())).await;
    assert_eq!(unreachable.class, ErrorClass::Transient);
    assert!(unreachable.to_string().contains("refused"), "{unreachable}");
}
