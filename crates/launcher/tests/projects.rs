//! The cloud's settings lead to another project: what was made in the one before is neither seen nor deleted there, and is
//! not forgotten either.

#![allow(clippy::unwrap_used)] // helpers of tests fail like tests

mod support;

use std::{sync::Arc, time::Duration};

use nodepool_testing::ScriptedCloud;
use serde_json::{Value, json};
use support::*;

const SERVERS: &str = "/compute/v2.1/servers";
const LISTING: &str = "/compute/v2.1/servers/detail";

/// An OpenStack whose servers are as the test says, and a launcher on it.
struct Site {
    stage: Stage,
    cloud: Arc<ScriptedCloud>,
    launcher: Launcher,
}

impl Site {
    async fn new() -> Self {
        let stage = Stage::new(zookeeper()).await;
        let cloud = ScriptedCloud::start(&["force_ipv4: true"]).await;
        for (path, answer) in [
            (
                "/compute/v2.1/limits",
                json!({"limits": {"absolute": {"maxTotalCores": -1, "maxTotalInstances": -1,
                "maxTotalRAMSize": -1}}}),
            ),
            (
                "/compute/v2.1/flavors/detail",
                json!({"flavors": [{"id": "f1", "name": "small", "ram": 512, "vcpus": 1}]}),
            ),
            ("/compute/v2.1/os-availability-zone", json!({"availabilityZoneInfo": []})),
            ("/network/v2.0/networks", json!({"networks": [{"id": "n1", "name": "net", "router:external": false}]})),
            ("/network/v2.0/floatingips", json!({"floatingips": []})),
            ("/network/v2.0/ports", json!({"ports": []})),
            ("/volume/v3/volumes/detail", json!({"volumes": []})),
            ("/image/v2/images", json!({"images": []})),
        ] {
            cloud.answer("GET", path, 200, &answer);
        }
        for path in ["/volume/v3/limits", "/network/v2.0/quotas/project/details", "/network/v2.0/quotas/other/details"]
        {
            cloud.answer("GET", path, 404, &json!({}));
        }
        stage.set_env("OS_CLIENT_CONFIG_FILE", &cloud.clouds_yaml());
        let label = json!({"name": "l", "cloud-image": "image", "flavor-name": "small", "host-key-checking": false});
        stage.configure(&[json!({
            "name": "p", "driver": "openstack", "cloud": ScriptedCloud::NAME, "rate": 0.01,
            "cloud-images": [{"name": "image", "image-id": "i1"}], "pools": [{"name": "main", "max-servers": 1, "labels": [label]}],
        })]);
        let site = Self { cloud: Arc::new(cloud), launcher: stage.launch(), stage };
        site.has(&[]);
        site
    }

    /// What the project that the settings lead to has, by id and status.
    fn has(&self, servers: &[(&str, &str)]) {
        let address = json!({"net": [{"version": 4, "addr": "10.0.0.7", "OS-EXT-IPS:type": "fixed",
            "OS-EXT-IPS-MAC:mac_addr": "m1"}]});
        let server = |(id, status): &(&str, &str)| {
            json!({"id": id, "name": id, "status": status, "flavor": {"id": "f1"},
            "addresses": address, "metadata": {}})
        };
        let listed: Vec<Value> = servers.iter().map(server).collect();
        self.cloud.answer("GET", LISTING, 200, &json!({"servers": listed}));
        for id in ["s1", "s2"] {
            let path = format!("{SERVERS}/{id}");
            let (read, deleted) = match servers.iter().find(|(of, _)| *of == id) {
                Some(found) => ((200, json!({"server": server(found)})), 204),
                None => ((404, json!({})), 404),
            };
            self.cloud.answer("GET", &path, read.0, &read.1);
            self.cloud.answer("DELETE", &path, deleted, &json!(null));
        }
    }

    /// Returns when the launcher has seen that: it looks once a second while it makes calls.
    async fn leads_to(&self, project: &str) {
        self.cloud.leads_to(project);
        tokio::time::sleep(Duration::from_millis(1200)).await;
    }

    fn makes(&self, id: &str) {
        self.cloud.answer("POST", SERVERS, 202, &json!({"server": {"id": id}}));
    }

    fn deletions(&self, id: &str) -> u64 {
        self.cloud.calls().of(&format!("DELETE {SERVERS}/{id}"))
    }

    /// The id of the only node.
    async fn node(&self) -> String {
        self.stage.records("nodes").await.into_keys().next().unwrap()
    }

    async fn set_deleting(&self, node: &str) {
        let path = format!("/nodepool/nodes/{node}");
        let (data, _) = self.stage.zk.get_data(&path).await.unwrap();
        let mut record: Value = serde_json::from_slice(&data).unwrap();
        record["state"] = json!("deleting");
        record["state_time"] = json!(now());
        record["allocated_to"] = Value::Null;
        self.stage.zk.set_data(&path, record.to_string().as_bytes(), None).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_of_the_project_before_keeps_its_node_until_the_settings_lead_there_again() {
    let site = Site::new().await;
    site.makes("s1");
    site.has(&[("s1", "ACTIVE")]);
    let request = site.stage.request(&["l"]).await;
    site.stage.wait_for_state(&request, "fulfilled").await;
    let node = site.node().await;
    let record = site.stage.record(&format!("nodes/{node}")).await;
    assert_eq!(record["driver_data"], json!({"project": "project", "region": null}));
    site.leads_to("other").await;
    site.has(&[]);
    // First, because the launcher frees the node of a request that is gone.
    site.set_deleting(&node).await;
    site.stage.zk.delete(&format!("/nodepool/requests/{request}"), None).await.unwrap();
    let told = "it was made in project project; the settings of its cloud lead to project other now";
    site.stage.wait("the log tells why", async || site.launcher.log().contains(told)).await;
    assert_eq!(site.deletions("s1"), 0, "it is not asked for in another project");
    let record = site.stage.record(&format!("nodes/{node}")).await;
    assert_eq!((&record["state"], &record["external_id"]), (&json!("deleting"), &json!("s1")));
    site.leads_to("project").await;
    site.has(&[("s1", "ACTIVE")]);
    site.stage.wait("it is asked for there", async || site.deletions("s1") > 0).await;
    site.has(&[]);
    site.stage.wait("its node is gone", async || site.stage.records("nodes").await.is_empty()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_launch_whose_server_is_in_the_project_before_leaves_it_on_record_and_its_request_gets_another() {
    let site = Site::new().await;
    site.makes("s1");
    site.has(&[("s1", "BUILD")]);
    let request = site.stage.request(&["l"]).await;
    let made = async || {
        let nodes = site.stage.records("nodes").await;
        nodes.values().any(|node| node["external_id"] == "s1")
    };
    site.stage.wait("the server is being made", made).await;
    let first = site.node().await;
    site.leads_to("other").await;
    site.stage.wait("that project is asked", async || site.cloud.is_asked_for("other")).await;
    site.makes("s2");
    site.has(&[("s2", "ACTIVE")]);
    let served = site.stage.wait_for_state(&request, "fulfilled").await;
    let second = served["nodes"][0].as_str().unwrap();
    assert_ne!(second, first);
    let record = site.stage.record(&format!("nodes/{second}")).await;
    assert_eq!(record["driver_data"]["project"], "other");
    let record = site.stage.record(&format!("nodes/{first}")).await;
    assert_eq!((&record["external_id"], &record["driver_data"]["project"]), (&json!("s1"), &json!("project")));
}

/// As the record of a node that was made elsewhere, and is to be deleted since `age` seconds.
async fn leave(site: &Site, id: &str, driver_data: &Value, age: f64) {
    let record = json!({
        "state": "deleting", "state_time": now() - age, "created_time": now() - age - 60.0, "provider": "p",
        "pool": "main", "type": ["l"], "external_id": "s1", "driver_data": driver_data, "launcher": "l",
    });
    site.stage.create(&format!("/nodepool/nodes/{id}"), record.to_string().as_bytes()).await;
    site.stage.create(&format!("/nodepool/nodes/{id}/lock"), b"").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_out_of_sight_is_given_up_after_a_day_and_one_of_an_unknown_project_at_once() {
    let site = Site::new().await;
    let elsewhere = json!({"project": "gone", "region": null});
    leave(&site, "0000000101", &elsewhere, 23.0 * 3600.0).await;
    leave(&site, "0000000102", &elsewhere, 25.0 * 3600.0).await;
    leave(&site, "0000000103", &Value::Null, 60.0).await;
    let left = async || site.stage.records("nodes").await.into_keys().collect::<Vec<_>>() == ["0000000101"];
    site.stage.wait("one is left", left).await;
    let error = "removed after 24 h without a look at its server";
    site.stage.wait("the log has it", async || site.launcher.log().contains(error)).await;
    site.stage.wait("it is asked for", async || site.launcher.log().contains("Could not delete the node")).await;
    assert!(left().await);
}
