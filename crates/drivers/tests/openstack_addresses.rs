//! Addresses and floating IPs of servers on a real OpenStack.
#![allow(clippy::unwrap_used, clippy::expect_used)] // helpers of tests fail like tests
// Measures by the host's clock.
#![allow(clippy::disallowed_methods)]

mod common;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use common::{
    Reported, label, launch, openstack,
    real::{CLOUD, IMAGE, NETWORK, Person, ROUTED, context, context_with, counted, launched, nodes, with_provider},
};
use nodepool_common::config::OpenStack;
use nodepool_drivers::ErrorClass;
use nodepool_testing::{Fault, FaultProxy, Rule, wait_for};
use serde_json::json;

/// One label on a network that floating IPs can lead to.
fn floating() -> OpenStack {
    let mut config = openstack(CLOUD, vec![label("l", IMAGE, "np.tiny", &[ROUTED])]);
    config.pools["main"].auto_floating_ip = true;
    config
}

#[tokio::test]
async fn a_floating_ip_is_made_recorded_and_deleted_with_the_server() {
    let Some((context, _dir)) = context_with(&["force_ipv4: true"]) else { return };
    let person = Person::log_in(&context, CLOUD).await;
    with_provider("floating", floating(), &context, |provider| async move {
        let instance = launched(&provider, "l", "0000000001").await.0.unwrap();
        let address = instance.public_ipv4.clone().unwrap();
        assert!(address.starts_with("127.65."), "{address}");
        assert!(instance.private_ipv4.as_ref().unwrap().starts_with("127.64."), "{instance:?}");
        assert!(instance.public_ipv6.as_ref().unwrap().starts_with("fd64:"), "{instance:?}");
        assert_eq!(instance.interface_ip.as_ref(), Some(&address));
        let ips = person.floating_ips(provider.name()).await;
        assert_eq!(ips.len(), 1);
        assert_eq!((&ips[0]["floating_ip_address"], &ips[0]["status"]), (&json!(address), &json!("ACTIVE")));
        assert_eq!(ips[0]["fixed_ip_address"], json!(instance.private_ipv4));
        assert_eq!(ips[0]["port_details"]["device_id"], instance.external_id);
        for part in ["\"nodepool_node_id\":\"0000000001\"", instance.external_id.as_str().unwrap()] {
            assert!(ips[0]["description"].as_str().unwrap().contains(part), "{}", ips[0]["description"]);
        }
        provider.delete(&instance.external_id, None).await.unwrap();
        assert_eq!(person.floating_ips(provider.name()).await, [json!(null); 0]);
    })
    .await;
}

#[tokio::test]
async fn ipv6_is_preferred_where_this_host_has_a_default_route_for_it() {
    let Some(context) = context() else { return };
    let routes = std::fs::read_to_string("/proc/net/ipv6_route").unwrap_or_default();
    let has_ipv6 = routes.lines().any(|route| {
        let fields: Vec<&str> = route.split_whitespace().collect();
        fields[..2] == ["0".repeat(32).as_str(), "00"] && fields.last() != Some(&"lo")
    });
    let mut config = floating();
    config.pools["main"].auto_floating_ip = false;
    with_provider("ipv6", config, &context, move |provider| async move {
        let instance = launched(&provider, "l", "0000000001").await.0.unwrap();
        let expected = if has_ipv6 { &instance.public_ipv6 } else { &instance.private_ipv4 };
        assert!(expected.is_some() && instance.interface_ip == *expected, "{has_ipv6} {instance:?}");
    })
    .await;
}

#[tokio::test]
async fn twenty_servers_with_floating_ips_take_less_than_eight_calls_each() {
    few_calls_per_node("with a floating IP", floating()).await;
}

#[tokio::test]
async fn twenty_servers_without_floating_ips_take_less_than_eight_calls_each() {
    few_calls_per_node("without", openstack(CLOUD, vec![label("l", IMAGE, "np.tiny", &[NETWORK])])).await;
}

async fn few_calls_per_node(what: &'static str, config: OpenStack) {
    const COUNT: usize = 20;
    let Some(context) = context() else { return };
    let calls = context.calls.clone();
    let floating = config.pools["main"].auto_floating_ip;
    let began = Instant::now();
    with_provider("twenty", config, &context, move |provider| async move {
        let nodes = nodes(COUNT);
        let launches = nodes.iter().map(|node| launched(&provider, "l", node));
        let launches = futures::future::join_all(launches).await;
        let instances: Vec<_> = launches.into_iter().map(|(instance, _)| instance.unwrap()).collect();
        assert!(instances.iter().all(|instance| instance.public_ipv4.is_some() == floating));
        let deletions = instances.iter().map(|instance| provider.delete(&instance.external_id, None));
        for deleted in futures::future::join_all(deletions).await {
            deleted.unwrap();
        }
        let calls = counted(&calls);
        // Repetitions and how often the list is looked at tell how fast the cloud is, not what a node costs.
        let listings = calls["detailed server list"].0;
        let succeeded: u64 = calls.values().map(|(count, failed)| count - failed).sum();
        eprintln!("{what}: {succeeded} calls for {COUNT} nodes in {:?}: {calls:?}", began.elapsed());
        assert!(succeeded - listings < 6 * COUNT as u64, "{calls:?}");
        assert!(listings < 2 * COUNT as u64 + began.elapsed().as_secs() / 5, "{calls:?}");
    })
    .await;
}

#[tokio::test]
async fn without_auto_floating_ip_a_server_is_reached_at_its_private_address() {
    let Some((context, _dir)) = context_with(&["force_ipv4: true"]) else { return };
    let person = Person::log_in(&context, CLOUD).await;
    let mut config = floating();
    config.pools["main"].auto_floating_ip = false;
    with_provider("no-floating", config, &context, |provider| async move {
        let instance = launched(&provider, "l", "0000000001").await.0.unwrap();
        assert_eq!(instance.public_ipv4, None);
        assert!(instance.interface_ip.as_ref().unwrap().starts_with("127.64."), "{instance:?}");
        assert_eq!(person.floating_ips(provider.name()).await.len(), 0);
    })
    .await;
}

#[tokio::test]
async fn clouds_that_are_private_or_have_no_source_get_no_floating_ips() {
    for setting in ["private: true", "floating_ip_source: None"] {
        let Some((context, _dir)) = context_with(&[setting, "force_ipv4: true"]) else { return };
        with_provider("private", floating(), &context, |provider| async move {
            let instance = launched(&provider, "l", "0000000001").await.0.unwrap();
            assert_eq!(instance.public_ipv4, None);
            assert!(instance.interface_ip.unwrap().starts_with("127.64."));
        })
        .await;
    }
}

#[tokio::test]
async fn what_clouds_yaml_says_of_networks_counts() {
    let networks =
        "networks: [{name: private, default_interface: true, nat_destination: true}, {name: public, nat_source: true}]";
    let Some((context, _dir)) = context_with(&[networks, "force_ipv4: true"]) else { return };
    let mut config = floating();
    config.pools["main"].labels["l"].networks = vec![NETWORK.to_owned(), ROUTED.to_owned()];
    with_provider("networks", config, &context, |provider| async move {
        let instance = launched(&provider, "l", "0000000001").await.0.unwrap();
        assert!(instance.public_ipv4.as_ref().unwrap().starts_with("127.65."), "{instance:?}");
        assert!(instance.private_ipv4.as_ref().unwrap().starts_with("127.64."), "behind the floating IP: {instance:?}");
        // Floating addresses of the default interface come first, as in the SDK.
        assert_eq!(instance.interface_ip, instance.public_ipv4);
        assert!(instance.public_ipv6.unwrap().starts_with("fd64:"));
    })
    .await;
}

#[tokio::test]
async fn a_network_that_routes_externally_needs_no_floating_ip() {
    let networks = "networks: [{name: private-v4only, routes_externally: true}]";
    let Some((context, _dir)) = context_with(&[networks]) else { return };
    let mut config = floating();
    config.pools["main"].labels["l"].networks = vec![NETWORK.to_owned()];
    with_provider("routed", config, &context, |provider| async move {
        let instance = launched(&provider, "l", "0000000001").await.0.unwrap();
        assert!(instance.public_ipv4.as_ref().unwrap().starts_with("127.66."), "{instance:?}");
        assert_eq!(instance.interface_ip, instance.public_ipv4);
    })
    .await;
}

#[tokio::test]
async fn a_network_that_no_router_leads_to_is_named_with_the_way_out() {
    let Some(context) = context() else { return };
    let mut config = floating();
    config.pools["main"].labels["l"].networks = vec![NETWORK.to_owned()];
    with_provider("unrouted", config, &context, |provider| async move {
        let error = launched(&provider, "l", "0000000001").await.0.unwrap_err();
        eprintln!("{error}");
        assert_eq!(error.class, ErrorClass::Config, "{error}");
        assert!(error.to_string().contains("auto-floating-ip: false"), "{error}");
    })
    .await;
}

/// The answer to the creation is lost; then one launch is dropped while it waits for it.
#[tokio::test]
async fn a_floating_ip_whose_creation_was_not_heard_of_is_found_again() {
    let Some(plain) = context() else { return };
    let person = Arc::new(Person::log_in(&plain, CLOUD).await);
    let proxy = Arc::new(FaultProxy::start("http://127.0.0.1:9696").await);
    let Some((context, _dir)) = context_with(&[&format!("network_endpoint_override: {}", proxy.url())]) else { return };
    with_provider("lost", floating(), &context, |provider| async move {
        proxy.set(Rule::new("POST", "/v2.0/floatingips", Fault::CutAfter).times(1));
        let instance = launched(&provider, "l", "0000000001").await.0.unwrap();
        assert!(instance.public_ipv4.unwrap().starts_with("127.65."));
        assert_eq!(person.floating_ips(provider.name()).await.len(), 1, "it was adopted, not made again");
        provider.delete(&instance.external_id, None).await.unwrap();
        assert_eq!(person.floating_ips(provider.name()).await.len(), 0);

        proxy.set(Rule::new("POST", "/v2.0/floatingips", Fault::DelayAnswer(60)).times(1));
        let reported = Reported::default();
        let dropped = launch("l", "0000000002");
        let launching = provider.launch(&dropped, &reported);
        // Not as soon as it is listed: Neutron may begin a creation anew that meets a deletion.
        let exists = wait_for(Duration::from_secs(120), "Neutron has answered the creation", || async {
            (proxy.calls().held == 1).then_some(())
        });
        tokio::select! {
            _ = launching => unreachable!("its answer is held back"),
            () = exists => {}
        }
        assert_eq!(person.floating_ips(provider.name()).await.len(), 1);
        provider.delete(&reported.ids()[0], None).await.unwrap();
        assert_eq!(person.floating_ips(provider.name()).await.len(), 0);
    })
    .await;
}

#[tokio::test]
async fn a_floating_ip_that_cannot_be_deleted_keeps_its_server() {
    let Some(plain) = context() else { return };
    let person = Person::log_in(&plain, CLOUD).await;
    let proxy = FaultProxy::start("http://127.0.0.1:9696").await;
    let Some((context, _dir)) = context_with(&[&format!("network_endpoint_override: {}", proxy.url())]) else { return };
    with_provider("keeps", floating(), &context, |provider| async move {
        let instance = launched(&provider, "l", "0000000001").await.0.unwrap();
        let refusal = Fault::Answer { status: 409, headers: [].into(), body: "busy".to_owned() };
        proxy.set(Rule::new("DELETE", "/v2.0/floatingips/*", refusal).times(1));
        let error = provider.delete(&instance.external_id, None).await.unwrap_err();
        assert!(error.to_string().contains("deleting floating IP"), "{error}");
        person.server(&instance.external_id).await;
        provider.delete(&instance.external_id, None).await.unwrap();
        assert_eq!(person.floating_ips(provider.name()).await.len(), 0);
    })
    .await;
}
