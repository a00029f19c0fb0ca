//! What people and broken launches leave in a project, and what the driver removes of it. In the small
//! project, because clean-up looks at all of a project.
#![allow(clippy::unwrap_used, clippy::expect_used)] // helpers of tests fail like tests

mod common;

use std::time::Duration;

use common::{
    openstack,
    real::{DEADLINE, NETWORK, Person, SMALL, context, made, tiny, unique},
};
use nodepool_drivers::{LeakedResource, ResourceKind};
use nodepool_testing::wait_for;
use reqwest::Method;
use serde_json::json;

#[tokio::test]
async fn a_port_is_leaked_only_if_it_names_a_server_that_is_gone() {
    let Some(context) = context() else { return };
    let person = Person::log_in(&context, SMALL).await;
    let network = person.network(NETWORK).await;
    let mut config = openstack(SMALL, vec![tiny("l")]);
    config.port_cleanup_interval = Some(Duration::ZERO);
    let provider = made(&unique("ports"), config, &context);
    provider.start().await.unwrap();
    let port = async |device: &str, owner: &str| {
        let body = json!({"port": {"network_id": network, "device_id": device, "device_owner": owner}});
        let port = person.post("network", "/ports", body).await["port"].clone();
        assert_eq!(port["status"], "DOWN");
        port["id"].as_str().unwrap().to_owned()
    };
    let gone = "11111111-2222-3333-4444-555555555555";
    let leaked = [port(gone, "").await, port(gone, "compute:az1").await];
    let others = [port("", "").await, port(gone, "compute:kuryr").await];
    assert_eq!(provider.clean_up().await.unwrap(), [], "the first check only looks");
    // A check within the interval, which is at least a second, does nothing.
    let removed = wait_for(DEADLINE, "the leaked ports are removed", || async {
        let removed = provider.clean_up().await.unwrap();
        (!removed.is_empty()).then_some(removed)
    })
    .await;
    let removed: Vec<String> = removed.into_iter().map(|LeakedResource { id, .. }| id).collect();
    assert!(leaked.iter().all(|port| removed.contains(port)), "{removed:?}");
    for port in &others {
        assert!(!removed.contains(port));
        person.delete("network", &format!("/ports/{port}")).await;
    }
    for port in leaked {
        let (status, _) = person.try_call("network", Method::GET, &format!("/ports/{port}"), None).await;
        assert_eq!(status, 404);
    }
}

#[tokio::test]
async fn floating_ips_that_lead_nowhere_are_removed_if_the_configuration_says_so() {
    let Some(context) = context() else { return };
    let person = Person::log_in(&context, SMALL).await;
    let network = person.network("public").await;
    let mut config = openstack(SMALL, vec![tiny("l")]);
    config.port_cleanup_interval = None;
    let name = unique("floating-ips");
    let description = json!({"nodepool_provider_name": name, "nodepool_node_id": "0000000001"}).to_string();
    let body = json!({"floatingip": {"floating_network_id": network, "description": description}});
    let made_by_hand = person.post("network", "/floatingips", body).await["floatingip"].clone();
    let id = made_by_hand["id"].as_str().unwrap();

    let keeping = made(&name, config.clone(), &context);
    keeping.start().await.unwrap();
    assert_eq!(keeping.clean_up().await.unwrap(), []);
    let tagged = keeping.list_tagged().await.unwrap();
    let ours = tagged.iter().find(|resource| resource.id == id).expect("a search for leaks sees it");
    assert_eq!((ours.kind, ours.tag("nodepool_node_id")), (ResourceKind::FloatingIp, Some("0000000001")));

    config.clean_floating_ips = true;
    let cleaning = made(&name, config, &context);
    cleaning.start().await.unwrap();
    let removed = cleaning.clean_up().await.unwrap();
    assert!(removed.contains(&LeakedResource { kind: ResourceKind::FloatingIp, id: id.to_owned() }), "{removed:?}");
    assert_eq!(person.floating_ips(keeping.name()).await.len(), 0);
}
