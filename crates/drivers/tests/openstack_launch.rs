//! Servers on a real OpenStack, from their making to their end.
#![allow(clippy::unwrap_used, clippy::expect_used)] // helpers of tests fail like tests
// Measures by the host's clock.
#![allow(clippy::disallowed_methods)]

mod common;

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use common::{
    Reported, label, launch, openstack,
    real::{
        CLOUD, DEADLINE, IMAGE, NETWORK, Person, ROUTED, context, counted, launched, made, own, tiny, unique,
        with_provider,
    },
};
use nodepool_drivers::{ErrorClass, ResourceKind};
use reqwest::Method;
use serde_json::{Value, json};

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
        provider.delete(&instance.external_id, None).await.unwrap();
        provider.delete(&instance.external_id, None).await.expect("gone already is no error");
    })
    .await;
    let calls = counted(&calls);
    eprintln!("{calls:?}");
    for once in ["create_server", "get_network", "get_image", "list_availability_zone_names"] {
        assert_eq!(calls[once], (1, 0), "{once}");
    }
    // Once more where a server of another test has a flavor that is not public.
    assert!(calls["list_flavors"].0 <= 2, "{calls:?}");
    assert_eq!(calls["delete_server"], (2, 1), "the second finds it gone");
}

#[tokio::test]
async fn one_listing_serves_many_launches() {
    let Some(context) = context() else { return };
    let mut slow = tiny("slow");
    slow.instance_properties.insert("np_spawn_delay".to_owned(), "5".to_owned());
    let calls = context.calls.clone();
    let began = Instant::now();
    with_provider("many", openstack(CLOUD, vec![slow]), &context, |provider| async move {
        let nodes: Vec<String> = (1..=6).map(|node| format!("{node:010}")).collect();
        let launches = nodes.iter().map(|node| launched(&provider, "slow", node));
        let instances = futures::future::join_all(launches).await;
        let deletions = instances.iter().map(|(instance, _)| {
            let instance = instance.as_ref().expect("a server");
            provider.delete(&instance.external_id, None)
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
    // One a second, and one more whenever a wait begins. Each server waited for alone would need that many each.
    let most = began.elapsed().as_secs() + 2 * 6;
    assert!(count("detailed server list") <= most, "{most} at most");
}

#[tokio::test]
async fn a_server_boots_from_a_volume() {
    let Some(context) = context() else { return };
    let mut volume = label("volume", IMAGE, "np.nodisk", &[NETWORK]);
    volume.boot_from_volume = true;
    volume.volume_size = 3;
    let person = Person::log_in(&context, CLOUD).await;
    with_provider("volume", openstack(CLOUD, vec![volume]), &context, |provider| async move {
        let (instance, _) = launched(&provider, "volume", "0000000001").await;
        let instance = instance.unwrap();
        let expected = common::amounts(2.0, 1.0, 2048.0).with("volumes", 1.0).with("volume-gb", 3.0);
        assert_eq!(instance.resources.recorded(), expected);
        let resources = provider.list_resources().await.unwrap();
        let ours = resources.iter().find(|resource| json!(resource.id) == instance.external_id).unwrap();
        assert_eq!(ours.resources.recorded(), expected);
        let volumes = person.get("volumev3", "/volumes/detail").await;
        let ours = |volume: &&Value| volume["attachments"][0]["server_id"] == instance.external_id;
        let volume = volumes["volumes"].as_array().unwrap().iter().find(ours).expect("its volume");
        assert_eq!(volume["metadata"]["nodepool_provider_name"], json!(provider.name()));
        assert_eq!(volume["metadata"]["nodepool_node_id"], "0000000001");
        provider.delete(&instance.external_id, None).await.unwrap();
    })
    .await;
}

#[tokio::test]
async fn flavors_are_found_by_name_by_id_and_by_their_memory() {
    let Some(context) = context() else { return };
    let id = Person::log_in(&context, CLOUD).await.flavor("np.medium").await;
    let by_ram = |name: &str, ram: u64, flavor: Option<&str>| {
        let mut label = label(name, IMAGE, "", &[NETWORK]);
        label.min_ram = ram;
        label.flavor_name = flavor.map(ToOwned::to_owned);
        label
    };
    let labels = vec![
        label("name", IMAGE, "np.small", &[NETWORK]),
        label("id", IMAGE, &id, &[NETWORK]),
        by_ram("ram", 2049, None),
        by_ram("ram-and-name", 600, Some("nodisk")),
        by_ram("too-much", 1 << 40, None),
    ];
    with_provider("flavors", openstack(CLOUD, labels), &context, |provider| async move {
        let memory = async |label: &str| provider.label_resources(&"main".into(), &label.into()).await;
        for (label, cores, ram) in
            [("name", 2.0, 2048.0), ("id", 4.0, 8192.0), ("ram", 4.0, 8192.0), ("ram-and-name", 2.0, 2048.0)]
        {
            assert_eq!(memory(label).await.unwrap().recorded(), common::amounts(cores, 1.0, ram), "{label}");
        }
        let error = memory("too-much").await.unwrap_err();
        assert_eq!(error.class, ErrorClass::Config);
        assert!(error.to_string().contains("it has: ") && error.to_string().contains("np.tiny"), "{error}");
    })
    .await;
}

#[tokio::test]
async fn what_a_label_says_is_what_the_server_is_made_with() {
    let Some(context) = context() else { return };
    let (person, admin) = (Person::log_in(&context, CLOUD).await, Person::log_in(&context, "npcloud-admin").await);
    let name = unique("words");
    person.post("compute", "/os-keypairs", json!({"keypair": {"name": name}})).await;
    let body = json!({"security_group": {"name": name}});
    let group = person.post("network", "/security-groups", body).await["security_group"]["id"].clone();
    let mut full = label("full", "by-name", "np.tiny", &[NETWORK, ROUTED]);
    full.key_name = Some(name.clone());
    full.userdata = Some("#!/bin/sh\necho ä\n".to_owned());
    let properties = [("team", "one"), ("over", "static"), ("groups", "mine"), ("nodepool_node_id", "forged")];
    full.instance_properties.extend(properties.map(|(key, value)| (key.to_owned(), value.to_owned())));
    let dynamic = [("over", "{request.tenant_name}"), ("bad", "{request.no_such_field}")];
    full.dynamic_instance_properties.extend(dynamic.map(|(key, value)| (key.to_owned(), value.to_owned())));
    let mut config = openstack(CLOUD, vec![full]);
    config.pools["main"].security_groups = vec![name.clone(), "default".to_owned()];
    let image = &mut config.cloud_images["by-name"];
    image.image_name = Some(IMAGE.to_owned());
    image.config_drive = Some(true);
    let (key, groups) = (name.clone(), [name, "default".to_owned()]);
    with_provider("words", config, &context, |provider| async move {
        let mut launch = launch("full", "0000000001");
        let zones = provider.availability_zones().await.unwrap();
        assert_eq!(zones, ["az1", "az2"]);
        launch.az = zones.last().cloned();
        let instance = provider.launch(&launch, &Reported::default()).await.unwrap();
        assert_eq!(instance.az.as_deref(), Some("az2"));
        let server = admin.server(&instance.external_id).await;
        assert_eq!(server["key_name"], json!(key));
        assert_eq!(server["config_drive"], "True");
        assert_eq!(server["OS-EXT-SRV-ATTR:user_data"], "IyEvYmluL3NoCmVjaG8gw6QK");
        let names = server["security_groups"].as_array().unwrap().iter().map(|group| group["name"].as_str().unwrap());
        let mut names: Vec<_> = names.collect();
        names.sort_unstable();
        names.dedup();
        let mut groups: Vec<_> = groups.iter().map(String::as_str).collect();
        groups.sort_unstable();
        assert_eq!(names, groups);
        let path = format!("/servers/{}/os-interface", instance.external_id.as_str().unwrap());
        let attached = admin.get("compute", &path).await;
        assert_eq!(attached["interfaceAttachments"].as_array().unwrap().len(), 2);
        // Nova orders by the request.
        let addresses: Vec<_> = server["addresses"].as_object().unwrap().keys().cloned().collect();
        assert!(addresses.contains(&NETWORK.to_owned()) && addresses.contains(&ROUTED.to_owned()), "{addresses:?}");
        let metadata: BTreeMap<String, String> = serde_json::from_value(server["metadata"].clone()).unwrap();
        let expected = [
            ("groups", "mine"),
            ("nodepool_node_id", "0000000001"),
            ("nodepool_pool_name", "main"),
            ("nodepool_provider_name", provider.name().as_str()),
            ("over", "tenant-one"),
            ("team", "one"),
        ];
        let metadata: Vec<_> = metadata.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
        assert_eq!(metadata, expected);
    })
    .await;
    person.delete("network", &format!("/security-groups/{}", group.as_str().unwrap())).await;
}

#[tokio::test]
async fn without_networks_the_cloud_is_asked_to_choose() {
    let Some(context) = context() else { return };
    let auto = label("auto", IMAGE, "np.tiny", &[]);
    with_provider("auto", openstack(CLOUD, vec![auto]), &context, |provider| async move {
        let (result, _) = launched(&provider, "auto", "0000000001").await;
        match result {
            Ok(instance) => assert!(instance.interface_ip.is_some()),
            // This cloud has two shared networks, and no topology of its own to offer.
            Err(error) => {
                eprintln!("{error}");
                assert!(error.to_string().contains("network"), "{error}");
            }
        }
    })
    .await;
}

#[tokio::test]
async fn a_server_whose_flavor_was_deleted_is_listed_and_counted() {
    let Some(context) = context() else { return };
    let admin = Person::log_in(&context, "npcloud-admin").await;
    let name = unique("flavor");
    let body = json!({"flavor": {"name": name, "ram": 256, "vcpus": 1, "disk": 1}});
    let id = admin.post("compute", "/flavors", body).await["flavor"]["id"].as_str().unwrap().to_owned();
    let config = openstack(CLOUD, vec![label("l", IMAGE, &name, &[NETWORK])]);
    with_provider("flavor", config, &context, |provider| async move {
        let instance = launched(&provider, "l", "0000000001").await.0.unwrap();
        admin.delete("compute", &format!("/flavors/{id}")).await;
        let own = own(&provider).await;
        assert_eq!(json!(own[0].id), instance.external_id);
        assert!(own[0].kind == ResourceKind::Instance && own[0].resources.amount("instances") > 0.0);
    })
    .await;
}

/// One that the project was given is in everybody's list, one that it was not in an administrator's, if he asks for it.
#[tokio::test]
async fn a_flavor_that_is_private_is_found_by_whoever_may_use_it() {
    let Some(context) = context() else { return };
    let (person, admin) = (Person::log_in(&context, CLOUD).await, Person::log_in(&context, "npcloud-admin").await);
    let name = unique("private");
    let body =
        json!({"flavor": {"name": name, "ram": 256, "vcpus": 1, "disk": 1, "os-flavor-access:is_public": false}});
    let id = admin.post("compute", "/flavors", body).await["flavor"]["id"].as_str().unwrap().to_owned();
    let finds = async |cloud: &str| {
        let provider = made(&name, openstack(cloud, vec![label("l", IMAGE, &name, &[NETWORK])]), &context);
        provider.label_resources(&"main".into(), &"l".into()).await
    };
    let by_admin = finds("npcloud-admin").await;
    let not_given = finds(CLOUD).await;
    let access = json!({"addTenantAccess": {"tenant": person.project}});
    admin.post("compute", &format!("/flavors/{id}/action"), access).await;
    let given = finds(CLOUD).await;
    admin.delete("compute", &format!("/flavors/{id}")).await;
    assert_eq!(by_admin.unwrap().recorded(), common::amounts(1.0, 1.0, 256.0));
    assert_eq!(not_given.unwrap_err().class, ErrorClass::Config);
    assert_eq!(given.unwrap().recorded(), common::amounts(1.0, 1.0, 256.0));
}

#[tokio::test]
async fn a_server_that_somebody_deletes_while_it_is_made_is_gone() {
    let Some(context) = context() else { return };
    let person = Person::log_in(&context, CLOUD).await;
    let mut slow = tiny("slow");
    slow.instance_properties.insert("np_spawn_delay".to_owned(), "60".to_owned());
    with_provider("behind", openstack(CLOUD, vec![slow]), &context, |provider| async move {
        let reported = Reported::default();
        let launch = launch("slow", "0000000001");
        let launching = provider.launch(&launch, &reported);
        let deleting = async {
            let id =
                nodepool_testing::wait_for(DEADLINE, "the id is known", async || reported.ids().first().cloned()).await;
            person.call("compute", Method::DELETE, &format!("/servers/{}", id.as_str().unwrap()), None).await;
        };
        let (launched, ()) = tokio::join!(launching, deleting);
        let error = launched.unwrap_err();
        eprintln!("{error}");
        assert_eq!(error.class, ErrorClass::Gone, "{error}");
    })
    .await;
}
