//! What a real OpenStack refuses, and how that is classed.
#![allow(clippy::unwrap_used, clippy::expect_used)] // helpers of tests fail like tests

mod common;

use common::{
    label, openstack,
    real::{CLOUD, IMAGE, NETWORK, Person, ROUTED, SMALL, context, launched, made, tiny, unique, with_provider},
};
use nodepool_drivers::ErrorClass;
use serde_json::json;

/// Its quota is too small for two tests at a time.
static SMALL_PROJECT: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

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
    let _alone = SMALL_PROJECT.lock().await;
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
                provider.delete(id, None).await.unwrap();
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
        provider.delete(&ids[0], None).await.unwrap();
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
async fn a_key_or_security_group_that_does_not_exist_is_named_in_novas_words() {
    let Some(context) = context() else { return };
    let mut key = tiny("key");
    key.key_name = Some("no-such-key".to_owned());
    with_provider("key", openstack(CLOUD, vec![key]), &context, |provider| async move {
        let error = launched(&provider, "key", "0000000001").await.0.unwrap_err();
        eprintln!("{error}");
        assert_eq!(error.class, ErrorClass::Config, "{error}");
        assert!(error.to_string().contains("key_name"), "{error}");
    })
    .await;
    let mut config = openstack(CLOUD, vec![tiny("group")]);
    config.pools["main"].security_groups = vec!["no-such-group".to_owned()];
    with_provider("group", config, &context, |provider| async move {
        let error = launched(&provider, "group", "0000000001").await.0.unwrap_err();
        eprintln!("{error}");
        assert_eq!(error.class, ErrorClass::Config, "{error}");
        assert!(error.to_string().contains("no-such-group"), "{error}");
    })
    .await;
}

#[tokio::test]
async fn a_network_name_that_two_networks_have_is_an_error_that_names_their_ids() {
    let Some(context) = context() else { return };
    let person = Person::log_in(&context, CLOUD).await;
    let name = unique("twice");
    let mut ids = Vec::new();
    for _ in 0..2 {
        let answer = person.post("network", "/networks", json!({"network": {"name": name}})).await;
        ids.push(answer["network"]["id"].as_str().unwrap().to_owned());
    }
    let config = openstack(CLOUD, vec![label("l", IMAGE, "np.tiny", &[&name])]);
    let provider = made(&name, config, &context);
    provider.start().await.unwrap();
    let error = launched(&provider, "l", "0000000001").await.0.unwrap_err();
    for id in &ids {
        person.delete("network", &format!("/networks/{id}")).await;
    }
    eprintln!("{error}");
    assert_eq!(error.class, ErrorClass::Config);
    assert!(ids.iter().all(|id| error.to_string().contains(id)), "{error}");
}

#[tokio::test]
async fn a_server_in_error_gives_novas_reason() {
    let Some(context) = context() else { return };
    let mut fails = tiny("fails");
    fails.instance_properties.insert("np_spawn_fail".to_owned(), "abort".to_owned());
    with_provider("error", openstack(CLOUD, vec![fails]), &context, |provider| async move {
        let (result, ids) = launched(&provider, "fails", "0000000001").await;
        let error = result.unwrap_err();
        eprintln!("{error}");
        assert_eq!((error.class, error.launch_result()), (ErrorClass::Transient, "error.status"));
        assert!(error.to_string().contains("the server is in ERROR: "), "{error}");
        provider.delete(&ids[0], None).await.unwrap();
    })
    .await;
}

#[tokio::test]
async fn more_floating_ips_than_the_quota_is_classed_as_such() {
    let Some(context) = context() else { return };
    let person = Person::log_in(&context, SMALL).await;
    let _alone = SMALL_PROJECT.lock().await;
    let network = person.network("public").await;
    let mut config = openstack(SMALL, vec![label("l", IMAGE, "np.tiny", &[ROUTED])]);
    config.pools["main"].auto_floating_ip = true;
    let mut taken = Vec::new();
    for _ in 0..2 {
        let body = json!({"floatingip": {"floating_network_id": network}});
        let answer = person.post("network", "/floatingips", body).await;
        taken.push(answer["floatingip"]["id"].as_str().unwrap().to_owned());
    }
    with_provider("no-ips", config, &context, |provider| async move {
        let (result, _) = launched(&provider, "l", "0000000001").await;
        for id in taken {
            person.delete("network", &format!("/floatingips/{id}")).await;
        }
        let error = result.unwrap_err();
        eprintln!("{error}");
        assert_eq!(error.class, ErrorClass::Quota, "{error}");
    })
    .await;
}
