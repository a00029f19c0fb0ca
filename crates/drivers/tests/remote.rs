//! The fake driver with its cloud behind a socket. The peer here speaks the protocol of `fake/remote.rs` and nothing
//! more; upstream's own fake adapter speaks it in `tests/conformance`.
#![allow(clippy::unwrap_used, clippy::expect_used)] // helpers of tests fail like tests

mod common;

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
};

use common::{Reported, image, label, launch, openstack, provider};
use nodepool_common::config::Driver;
use nodepool_drivers::{Context, ErrorClass, Provider, make};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::{UnixListener, UnixStream},
    task::JoinHandle,
};

/// What the peer was asked, and the servers it has.
#[derive(Debug, Default)]
struct Asked {
    calls: Vec<(String, Value)>,
    servers: Vec<Value>,
    images: Vec<Value>,
}

/// Answers until it is told to hang up.
async fn serve(stream: UnixStream, asked: Arc<Mutex<Asked>>) {
    let (read, mut write) = stream.into_split();
    let mut lines = BufReader::new(read).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        let request: Value = serde_json::from_str(&line).unwrap();
        let method = request["method"].as_str().unwrap().to_owned();
        let params = &request["params"];
        let reply = {
            let mut asked = asked.lock().unwrap();
            asked.calls.push((method.clone(), params.clone()));
            match method.as_str() {
                "create_server" if params["meta"]["mode"] == "hang-up" => return,
                "create_server" => {
                    let id = format!("server-{}", asked.servers.len());
                    let failing = params["meta"]["mode"] == "fault";
                    asked.servers.push(json!({
                        "id": id, "name": params["name"], "status": if failing { "ERROR" } else { "ACTIVE" },
                        "fault": if failing { json!({"message": "quota server fault"}) } else { Value::Null },
                        "interface_ip": "fake", "public_v4": "fake", "public_v6": "", "private_v4": "fake",
                        "hostId": "fake", "metadata": params["meta"], "flavor": {"id": params["flavor"]},
                        "OS-EXT-AZ:availability_zone": params["az"], "os-extended-volumes:volumes_attached": []}));
                    if failing {
                        json!({"error": {"class": "transient", "message": "Error creating server", "external_id": id}})
                    } else {
                        json!({"result": {"id": id, "status": "BUILD"}})
                    }
                }
                "list_servers" => json!({"result": asked.servers}),
                "delete_server" => {
                    asked.servers.retain(|server| server["id"] != params["id"]);
                    json!({"result": null})
                }
                "upload_image" => {
                    let mut image = params["metadata"].clone();
                    image["id"] = json!("image-0");
                    asked.images.push(image);
                    json!({"result": {"id": "image-0"}})
                }
                "list_images" => json!({"result": asked.images}),
                "delete_image" => {
                    asked.images.retain(|image| image["id"] != params["id"]);
                    json!({"result": null})
                }
                "list_flavors" => json!({"result": [{"id": "f1", "name": "Fake Flavor", "ram": 8192, "vcpus": 4}]}),
                "find_image" | "find_network" => {
                    json!({"result": {"id": format!("id of {}", params["name_or_id"].as_str().unwrap()), "name": "n"}})
                }
                "compute_limits" => json!({"result": {"max_total_cores": 100, "max_total_instances": 20,
                    "max_total_ram_size": -1}}),
                "volume_limits" => {
                    json!({"result": {"absolute": {"maxTotalVolumes": 100, "maxTotalVolumeGigabytes": 1000}}})
                }
                "label_ready" => json!({"result": params["label"] == "small"}),
                "host_keys" => json!({"result": ["ssh-rsa FAKEKEY"]}),
                _ => json!({"result": null}),
            }
        };
        let mut reply = reply;
        reply["id"] = request["id"].clone();
        write.write_all(format!("{reply}\n").as_bytes()).await.unwrap();
    }
}

struct Peer {
    _dir: tempfile::TempDir,
    path: PathBuf,
    asked: Arc<Mutex<Asked>>,
    task: JoinHandle<()>,
}

impl Peer {
    fn listen(path: &Path, asked: Arc<Mutex<Asked>>) -> JoinHandle<()> {
        let listener = UnixListener::bind(path).unwrap();
        tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                connections.spawn(serve(stream, Arc::clone(&asked)));
            }
        })
    }

    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("cloud.sock");
        let asked = Arc::default();
        Self { task: Self::listen(&path, Arc::clone(&asked)), _dir: dir, path, asked }
    }

    fn provider(&self, mode: &str) -> Arc<dyn Provider> {
        let address = format!("unix:{}", self.path.display());
        let context = Context::default().with_variable("NODEPOOL_FAKE_CLOUD", address);
        let mut small = label("small", "Fake Precise", "Fake Flavor", &["net"]);
        small.instance_properties.insert("mode".to_owned(), mode.to_owned());
        make(&provider("fake-provider", Driver::Fake(openstack("fake", vec![small]))), &context).unwrap()
    }

    fn params(&self, method: &str) -> Value {
        let asked = self.asked.lock().unwrap();
        asked.calls.iter().find(|(name, _)| name == method).map(|(_, params)| params.clone()).unwrap_or_default()
    }
}

#[tokio::test]
async fn a_server_is_made_and_deleted_through_the_socket() {
    let peer = Peer::new();
    let provider = peer.provider("plain");
    provider.start().await.unwrap();
    let reported = Reported::default();
    let instance = provider.launch(&launch("small", "0000000001"), &reported).await.unwrap();
    assert_eq!(reported.ids(), [json!("server-0")]);
    assert_eq!(instance.interface_ip.as_deref(), Some("fake"));
    assert_eq!(peer.params("hello"), json!({"provider": "fake-provider"}));
    assert_eq!(
        peer.params("create_server"),
        json!({"name": "np0000000001", "image": "id of Fake Precise", "flavor": "f1", "az": null,
            "security_groups": [], "nics": [{"net-id": "id of net"}], "key_name": null, "config_drive": false,
            "meta": {"groups": "fake-provider,Fake Precise,small", "mode": "plain", "nodepool_node_id": "0000000001",
                "nodepool_pool_name": "main", "nodepool_provider_name": "fake-provider"},
            "userdata": null, "boot_from_volume": false, "volume_size": null})
    );
    assert!(provider.label_ready(&"main".into(), &"small".into()).await.unwrap());
    let limits = provider.quota().await.unwrap().limits;
    assert!(limits.limit("ram").is_infinite() && limits.limit("cores") <= 100.0);
    let keys = provider.host_keys(&"0000000001".into(), "192.0.2.1").await;
    assert_eq!(keys.unwrap().unwrap(), ["ssh-rsa FAKEKEY"], "the peer is asked for any address");
    assert_eq!(provider.list_resources().await.unwrap()[0].resources.recorded(), common::amounts(4.0, 1.0, 8192.0));
    provider.delete(&instance.external_id, None).await.unwrap();
    assert!(provider.list_resources().await.unwrap().is_empty());
    peer.task.abort();
}

#[tokio::test]
async fn an_image_is_uploaded_and_deleted_through_the_socket() {
    let peer = Peer::new();
    let provider = peer.provider("plain");
    let path = peer.path.with_file_name("i.qcow2");
    std::fs::write(&path, "nodepool").unwrap();
    let id = provider.upload_image(&image("i-1", &path)).await.unwrap();
    assert_eq!(
        peer.params("upload_image"),
        json!({"name": "i-1", "filename": path, "disk_format": "qcow2", "md5": null, "sha256": null, "size": 8,
            "metadata": {"nodepool_build_id": "0123456789abcdef0123456789abcdef", "nodepool_upload_id": "0000000001",
                "nodepool_provider_name": "fake-provider"}})
    );
    assert_eq!(provider.list_images().await.unwrap()[0].id, id);
    provider.delete_image(&id).await.unwrap();
    assert_eq!(provider.list_images().await.unwrap(), []);
    peer.task.abort();
}

/// Upstream's `test_launchNode_node_fault_message` and its kind.
#[tokio::test]
async fn an_error_with_an_id_reports_the_server_and_reads_its_fault() {
    let peer = Peer::new();
    let provider = peer.provider("fault");
    let reported = Reported::default();
    let error = provider.launch(&launch("small", "0000000001"), &reported).await.unwrap_err();
    assert_eq!(error.class, ErrorClass::Quota, "{error}");
    assert_eq!(reported.ids(), [json!("server-0")]);
    peer.task.abort();
}

#[tokio::test]
async fn a_dropped_connection_fails_the_call_and_is_made_again() {
    let peer = Peer::new();
    let provider = peer.provider("hang-up");
    let reported = Reported::default();
    let error = provider.launch(&launch("small", "0000000001"), &reported).await.unwrap_err();
    assert_eq!(error.class, ErrorClass::Transient, "{error}");
    assert!(reported.ids().is_empty());
    assert!(provider.quota().await.is_ok(), "by a new connection");
    let hellos = peer.asked.lock().unwrap().calls.iter().filter(|(method, _)| method == "hello").count();
    assert_eq!(hellos, 2);
    peer.task.abort();
}
