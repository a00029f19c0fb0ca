//! What the openstack driver makes of answers that the test cloud does not give: each test writes them down.
#![allow(clippy::unwrap_used, clippy::expect_used)] // helpers of tests fail like tests

mod common;

use std::{sync::Arc, time::Duration};

use common::{Reported, amounts, label, launch, openstack, provider};
use nodepool_common::config::{Driver, OpenStack};
use nodepool_drivers::{Context, ErrorClass, Instance, Provider, ProviderError, make};
use nodepool_testing::{Fault, Rule, ScriptedCloud, wait_for};
use serde_json::{Value, json};
use tokio::time::{Instant, timeout};

const SERVERS: &str = "/compute/v2.1/servers";
const LISTING: &str = "/compute/v2.1/servers/detail";
const SERVER: &str = "/compute/v2.1/servers/s1";
const ACTIONS: &str = "/compute/v2.1/servers/s1/os-instance-actions";
const FLOATING_IPS: &str = "/network/v2.0/floatingips";
const NETWORKS: &str = "/network/v2.0/networks";
const PORTS: &str = "/network/v2.0/ports";
const DEADLINE: Duration = Duration::from_secs(30);

/// A cloud that boots a server `s1` on a network `net`, and a provider for it.
struct Site {
    cloud: ScriptedCloud,
    provider: Arc<dyn Provider>,
}

impl Site {
    async fn new(change: impl FnOnce(&mut OpenStack)) -> Self {
        let cloud = ScriptedCloud::start(&["force_ipv4: true"]).await;
        cloud.answer(
            "GET",
            "/compute/v2.1/flavors/detail",
            200,
            &json!({"flavors": [
            {"id": "f1", "name": "small", "ram": 512, "vcpus": 1}]}),
        );
        cloud.answer(
            "GET",
            NETWORKS,
            200,
            &json!({"networks": [{"id": "n1", "name": "net", "router:external": false}]}),
        );
        cloud.answer("GET", FLOATING_IPS, 200, &json!({"floatingips": []}));
        cloud.answer(
            "GET",
            PORTS,
            200,
            &json!({"ports": [{"id": "p1", "device_id": "s1", "network_id": "n1",
            "mac_address": "m1", "fixed_ips": [{"ip_address": "10.0.0.7"}]}]}),
        );
        cloud.answer("GET", "/volume/v3/volumes/detail", 200, &json!({"volumes": []}));
        cloud.answer("GET", "/image/v2/images", 200, &json!({"images": []}));
        cloud.answer("POST", SERVERS, 202, &json!({"server": {"id": "s1"}}));
        cloud.answer("DELETE", SERVER, 204, &json!(null));
        let mut config = openstack(ScriptedCloud::NAME, vec![label("l", "image", "small", &[])]);
        config.cloud_images["image"].image_id = Some("i1".to_owned());
        change(&mut config);
        let context = Context::default().with_variable("OS_CLIENT_CONFIG_FILE", cloud.clouds_yaml().to_str().unwrap());
        let provider = make(&provider("p", Driver::OpenStack(config)), &context).unwrap();
        let site = Self { cloud, provider };
        site.lists(&[Self::server("ACTIVE", &["10.0.0.7"])]);
        site
    }

    /// The server `s1` with these addresses on its network.
    fn server(status: &str, addresses: &[&str]) -> Value {
        let fixed = |address: &&str| json!({"version": 4, "addr": address, "OS-EXT-IPS:type": "fixed", "OS-EXT-IPS-MAC:mac_addr": "m1"});
        let addresses: Vec<Value> = addresses.iter().map(fixed).collect();
        let addresses = if addresses.is_empty() { json!({}) } else { json!({"net": addresses}) };
        json!({"id": "s1", "name": "np1", "status": status, "addresses": addresses, "flavor": {"id": "f1"},
            "metadata": {"nodepool_provider_name": "p", "nodepool_node_id": "0000000001"}})
    }

    fn lists(&self, servers: &[Value]) {
        self.cloud.answer("GET", LISTING, 200, &json!({"servers": servers}));
    }

    fn asked(&self, call: &str) -> u64 {
        self.cloud.calls().of(call)
    }

    async fn until(&self, what: &str, call: &str, times: u64) {
        wait_for(DEADLINE, what, || async { (self.asked(call) >= times).then_some(()) }).await;
    }

    async fn delete(&self) {
        timeout(DEADLINE, self.provider.delete(&json!("s1"), None)).await.expect("in time").unwrap();
    }
}

#[tokio::test]
async fn a_server_that_is_active_without_an_address_is_waited_for() {
    let site = Site::new(|_| {}).await;
    site.lists(&[Site::server("ACTIVE", &[])]);
    let (launch, reported) = (launch("l", "0000000001"), Reported::default());
    let comes = async {
        site.until("Nova is asked again", &format!("GET {LISTING}"), 2).await;
        site.lists(&[Site::server("ACTIVE", &["10.0.0.7"])]);
    };
    let (launched, ()) = tokio::join!(timeout(DEADLINE, site.provider.launch(&launch, &reported)), comes);
    assert_eq!(launched.expect("in time").unwrap().interface_ip.as_deref(), Some("10.0.0.7"));
}

/// The creation's connection is cut; the server is there, and Nova's conductor has done so much with it.
async fn launched_without_an_answer(
    site: &Site,
    actions: &Value,
    then: &[&str],
) -> (Result<Instance, ProviderError>, Vec<Value>) {
    let mut server = Site::server("BUILD", &[]);
    server["OS-EXT-STS:task_state"] = json!("scheduling");
    site.lists(&[server]);
    site.cloud.meets(Rule::new("POST", SERVERS, Fault::CutBefore).times(1));
    site.cloud.answer("GET", ACTIONS, 200, &json!({"instanceActions": actions}));
    let (launch, reported) = (launch("l", "0000000001"), Reported::default());
    let goes_on = async {
        let asked = async || (site.asked(&format!("GET {ACTIONS}")) >= 1).then_some(());
        wait_for(2 * DEADLINE, "Nova is asked what it has begun", asked).await;
        if !then.is_empty() {
            site.lists(&[Site::server("ACTIVE", then)]);
        }
    };
    let (launched, ()) = tokio::join!(timeout(2 * DEADLINE, site.provider.launch(&launch, &reported)), goes_on);
    assert_eq!(site.asked(&format!("GET {ACTIONS}")), 1);
    (launched.expect("in time"), reported.ids())
}

#[tokio::test]
async fn a_server_whose_creation_was_cut_off_within_nova_is_not_waited_for() {
    let site = Site::new(|_| {}).await;
    let (launched, ids) = launched_without_an_answer(&site, &json!([]), &[]).await;
    let error = launched.unwrap_err();
    assert!(error.never_begun && !error.away, "it costs no attempt, and the cloud is there: {error}");
    assert!(error.to_string().contains("30 s later Nova has not begun to make server s1"), "{error}");
    assert_eq!(ids, [json!("s1")], "what was created is known, so that it is deleted");
}

#[tokio::test]
async fn a_server_that_nova_has_begun_is_waited_for_although_its_creation_was_not_answered() {
    let site = Site::new(|config| config.rate = Duration::ZERO).await;
    let (launched, _) = launched_without_an_answer(&site, &json!([{"action": "create"}]), &["10.0.0.7"]).await;
    assert_eq!(launched.unwrap().interface_ip.as_deref(), Some("10.0.0.7"));
    // When its making began nobody knows: it says nothing of how long servers take.
    let began = Instant::now();
    site.provider.launch(&launch("l", "0000000001"), &Reported::default()).await.unwrap();
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
}

#[tokio::test]
async fn a_list_whose_pages_repeat_is_an_error_and_no_short_list() {
    let site = Site::new(|config| config.port_cleanup_interval = Some(Duration::ZERO)).await;
    let again = |key: &str, item: Value| json!({key: [item], format!("{key}_links"): [{"rel": "next", "href": "http://cloud/x?marker=a&limit=1"}]});
    site.cloud.answer("GET", LISTING, 200, &again("servers", Site::server("ACTIVE", &[])));
    let error = site.provider.list_resources().await.unwrap_err();
    let words = "page 2 of the compute service's list links to a page that was read before (marker=a&limit=1)";
    assert!(error.to_string().contains(words), "{error}");
    assert_eq!((error.class, site.asked(&format!("GET {LISTING}"))), (ErrorClass::Transient, 2));

    let image = json!({"images": [{"id": "i"}], "next": "/v2/images?marker=i"});
    site.cloud.answer("GET", "/image/v2/images", 200, &image);
    let error = site.provider.list_images().await.unwrap_err();
    assert!(error.to_string().contains("of the image service's list links"), "{error}");

    site.cloud.answer("GET", PORTS, 200, &again("ports", json!({"id": "p1"})));
    let error = site.provider.clean_up().await.unwrap_err();
    assert!(error.to_string().contains("of the network service's list links"), "{error}");

    let mut server = Site::server("ACTIVE", &[]);
    server["os-extended-volumes:volumes_attached"] = json!([{"id": "v"}]);
    site.lists(&[server]);
    site.cloud.answer("GET", "/volume/v3/volumes/detail", 200, &again("volumes", json!({"id": "v", "size": 1})));
    let error = site.provider.list_resources().await.unwrap_err();
    assert!(error.to_string().contains("of the block-storage service's list links"), "{error}");
}

#[tokio::test]
async fn an_empty_page_is_the_last_whatever_it_links_to() {
    let site = Site::new(|_| {}).await;
    let empty = json!({"servers": [], "servers_links": [{"rel": "next", "href": "http://cloud/x?marker=a"}]});
    site.cloud.answer("GET", LISTING, 200, &empty);
    assert_eq!(site.provider.list_resources().await.unwrap(), []);
}

#[tokio::test]
async fn a_server_on_a_network_of_the_data_centre_needs_no_floating_ip() {
    let site = Site::new(|config| config.pools["main"].auto_floating_ip = true).await;
    site.cloud.answer(
        "GET",
        NETWORKS,
        200,
        &json!({"networks": [
        {"id": "n0", "name": "public", "router:external": true},
        {"id": "n1", "name": "net", "router:external": false, "provider:physical_network": "physnet1"}]}),
    );
    let instance = site.provider.launch(&launch("l", "0000000001"), &Reported::default()).await.unwrap();
    assert_eq!(instance.public_ipv4.as_deref(), Some("10.0.0.7"));
    assert_eq!(site.asked(&format!("POST {FLOATING_IPS}")), 0);
}

/// Nor does this Neutron tell whose a port is: only the ports themselves do.
#[tokio::test]
async fn a_neutron_that_refuses_descriptions_gives_floating_ips_and_they_go_with_their_servers() {
    let site = Site::new(|config| config.pools["main"].auto_floating_ip = true).await;
    let public = json!({"networks": [{"id": "n0", "name": "public", "router:external": true}]});
    site.cloud.answer("GET", NETWORKS, 200, &public);
    let ip = |id: &str, port: &str| json!({"id": id, "status": "ACTIVE", "floating_ip_address": "192.0.2.7", "port_id": port});
    site.cloud.answer("POST", FLOATING_IPS, 201, &json!({"floatingip": ip("ip1", "p1")}));
    let refusal = json!({"NeutronError": {"type": "HTTPBadRequest", "detail": "",
        "message": "Unrecognized attribute(s) 'description'"}});
    site.cloud.answer_once("POST", FLOATING_IPS, 400, &refusal);
    for node in ["0000000001", "0000000002"] {
        let instance = site.provider.launch(&launch("l", node), &Reported::default()).await.unwrap();
        assert_eq!(instance.public_ipv4.as_deref(), Some("192.0.2.7"));
    }
    assert_eq!(site.asked(&format!("POST {FLOATING_IPS}")), 3, "the refusal is remembered");

    let ips = json!({"floatingips": [ip("ip1", "p1"), ip("ip2", "another's")]});
    site.cloud.answer("GET", FLOATING_IPS, 200, &ips);
    site.cloud.answer("DELETE", "/network/v2.0/floatingips/*", 204, &json!(null));
    site.lists(&[]);
    site.delete().await;
    let deleted = |id: &str| site.asked(&format!("DELETE {FLOATING_IPS}/{id}"));
    assert_eq!((deleted("ip1"), deleted("ip2")), (1, 0));
}

#[tokio::test]
async fn a_server_that_the_cloud_keeps_after_its_deletion_is_deleted_for_good() {
    let site = Site::new(|_| {}).await;
    site.lists(&[Site::server("SOFT_DELETED", &[])]);
    let counted = site.provider.list_resources().await.unwrap();
    assert_eq!(counted[0].resources.recorded(), amounts(1.0, 1.0, 512.0), "it keeps what it takes");
    assert_eq!(site.provider.list_tagged().await.unwrap(), [], "its deletion has been asked for");

    let action = format!("POST {SERVER}/action");
    site.cloud.answer("POST", &format!("{SERVER}/action"), 202, &json!(null));
    let goes = async {
        site.until("it is deleted for good", &action, 1).await;
        site.lists(&[]);
    };
    tokio::join!(site.delete(), goes);
    assert_eq!(site.asked(&action), 1);
}

#[tokio::test]
async fn a_server_that_the_cloud_keeps_and_will_not_delete_for_good_is_no_deleted_server() {
    let site = Site::new(|_| {}).await;
    site.lists(&[Site::server("SOFT_DELETED", &[])]);
    let refusal = json!({"forbidden": {"code": 403, "message": "Policy doesn't allow os-deferred-delete:force"}});
    site.cloud.answer("POST", &format!("{SERVER}/action"), 403, &refusal);
    let id = json!("s1");
    let deleting = site.provider.delete(&id, None);
    let listed = async {
        let action = format!("POST {SERVER}/action");
        site.until("it is to be deleted for good", &action, 1).await;
        let listings = site.asked(&format!("GET {LISTING}"));
        site.until("it is looked at again and again", &format!("GET {LISTING}"), listings + 2).await;
        assert_eq!(site.asked(&action), 1);
    };
    tokio::select! {
        deleted = deleting => unreachable!("the cloud still has it: {deleted:?}"),
        () = listed => {}
    }
    site.lists(&[]);
    site.delete().await;
}

/// Nova says DELETED and still counts the server in the quota, until it has told Placement: seconds where it is busy. Some
/// clouds go on listing it.
#[tokio::test]
async fn a_server_that_is_listed_as_deleted_has_not_given_up_its_quota_for_some_seconds() {
    let site = Site::new(|_| {}).await;
    site.lists(&[Site::server("DELETED", &[])]);
    let id = json!("s1");
    let listing = format!("GET {LISTING}");
    tokio::select! {
        deleted = site.provider.delete(&id, None) => unreachable!("Nova still lists it: {deleted:?}"),
        () = site.until("it is looked at again and again", &listing, 4) => {}
    }

    let goes = async {
        site.until("it is deleted", &format!("DELETE {SERVER}"), 2).await;
        site.lists(&[]);
        site.asked(&listing)
    };
    let ((), before) = tokio::join!(site.delete(), goes);
    // One may have been on its way.
    assert!(site.asked(&listing) <= before + 2, "what is listed no more is gone");

    site.lists(&[Site::server("DELETED", &[])]);
    site.delete().await;
}

#[tokio::test]
async fn a_server_that_is_up_at_once_is_seen_at_the_first_look() {
    // Before, the first look came half a second after the creation. A busy machine may take as long for the launch, but
    // not each time.
    let mut times = Vec::new();
    while times.iter().all(|time| *time >= Duration::from_millis(450)) {
        assert!(times.len() < 60, "each launch took as long: {times:?}");
        let site = Site::new(|config| config.rate = Duration::ZERO).await;
        let began = Instant::now();
        site.provider.launch(&launch("l", "0000000001"), &Reported::default()).await.unwrap();
        times.push(began.elapsed());
        assert_eq!(site.asked(&format!("GET {LISTING}")), 1);
    }
}

#[tokio::test]
async fn a_deletion_that_nobody_waits_for_is_noticed_in_a_listing_that_others_need_or_when_room_is_wanted() {
    let site = Site::new(|config| config.rate = Duration::ZERO).await;
    let listings = || site.asked(&format!("GET {LISTING}"));
    let id = json!("s1");
    site.lists(&[]);

    // Nobody: after some seconds.
    let began = Instant::now();
    site.provider.delete_at_leisure(&id, None).await.unwrap();
    assert!(began.elapsed() > Duration::from_secs(4) && listings() == 1, "{:?}", began.elapsed());

    // Somebody else lists the servers: the deletion does without a listing of its own.
    let others = async {
        site.until("it is deleted", &format!("DELETE {SERVER}"), 2).await;
        // The answer is on its way.
        tokio::time::sleep(Duration::from_secs(1)).await;
        site.provider.list_resources().await.unwrap();
    };
    let (deleted, ()) = tokio::join!(site.provider.delete_at_leisure(&id, None), others);
    deleted.unwrap();
    assert_eq!(listings(), 2);

    // A request waits for room: now, and from the beginning. Each would take four seconds otherwise.
    let waits = async {
        site.until("it is deleted", &format!("DELETE {SERVER}"), 3).await;
        tokio::time::sleep(Duration::from_millis(300)).await;
        assert_eq!(listings(), 2);
        site.provider.room_is_wanted(true);
        Instant::now()
    };
    let (deleted, began) = tokio::join!(site.provider.delete_at_leisure(&id, None), waits);
    deleted.unwrap();
    site.provider.delete_at_leisure(&id, None).await.unwrap();
    assert!(began.elapsed() < Duration::from_secs(7) && listings() == 4, "{:?}", began.elapsed());
}
