//! What the openstack driver asks of a cloud, and what it makes of odd tokens: a cloud of a few answers on loopback, which
//! keeps what it was asked. It refuses each server, so that a launch ends there.
#![allow(clippy::unwrap_used, clippy::expect_used)] // helpers of tests fail like tests

mod common;

use std::sync::{Arc, Mutex};

use common::{Reported, label, launch, openstack, provider};
use nodepool_common::config::Driver;
use nodepool_drivers::{Context, ErrorClass, Provider, make};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
};

/// Sent with a request: its first line, its headers and its body.
#[derive(Clone, Debug)]
struct Asked {
    line: String,
    headers: String,
    body: Value,
}

/// How it differs from a usual cloud.
#[derive(Clone, Copy, Debug, Default)]
struct Ways {
    /// Tokens are for no project, and without a catalogue.
    unscoped: bool,
    /// Nova has no microversions above 2.1.
    old: bool,
}

struct SmallCloud {
    address: String,
    asked: Arc<Mutex<Vec<Asked>>>,
    dir: TempDir,
}

impl SmallCloud {
    async fn start(ways: Ways) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let cloud = Self { address, asked: Arc::default(), dir: tempfile::tempdir().unwrap() };
        let (asked, address) = (Arc::clone(&cloud.asked), cloud.address.clone());
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                tokio::spawn(serve(stream, ways, address.clone(), Arc::clone(&asked)));
            }
        });
        cloud
    }

    /// A provider that has this cloud in its clouds.yaml, with these settings.
    fn provider(&self, auth: &str, settings: &str) -> Arc<dyn Provider> {
        let path = self.dir.path().join("clouds.yaml");
        let text = format!("clouds: {{c: {{auth: {{auth_url: '{}', {auth}}}, {settings}}}}}", self.address);
        std::fs::write(&path, text).unwrap();
        let context = Context::default().with_variable("OS_CLIENT_CONFIG_FILE", path.to_str().unwrap());
        let mut config = openstack("c", vec![label("l", "an-image", "small", &[])]);
        config.cloud_images.values_mut().for_each(|image| image.image_id = Some("image-id".to_owned()));
        make(&provider("p", Driver::OpenStack(config)), &context).unwrap()
    }

    /// The requests for servers that a launch makes.
    async fn servers(&self, settings: &str) -> Vec<Asked> {
        let provider = self.provider("user_id: u, password: p, project_id: x", settings);
        provider.start().await.unwrap();
        let error = provider.launch(&launch("l", "0000000001"), &Reported::default()).await.unwrap_err();
        assert!(error.to_string().contains("no servers here"), "{error}");
        let asked = self.asked.lock().unwrap().clone();
        asked.into_iter().filter(|asked| asked.line.starts_with("POST /v2.1/servers ")).collect()
    }
}

async fn serve(stream: TcpStream, ways: Ways, address: String, asked: Arc<Mutex<Vec<Asked>>>) -> std::io::Result<()> {
    let mut stream = BufReader::new(stream);
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if stream.read_line(&mut head).await? == 0 {
            return Ok(());
        }
    }
    let head = head.to_lowercase().replacen("post", "POST", 1).replacen("get", "GET", 1);
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse().ok()).unwrap_or(0);
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await?;
    let (line, headers) = head.split_once("\r\n").unwrap();
    let this = Asked {
        line: line.to_owned(),
        headers: headers.to_owned(),
        body: serde_json::from_slice(&body).unwrap_or_default(),
    };
    asked.lock().unwrap().push(this.clone());
    let (status, answer) = answer(&this, ways, &address);
    let answer = answer.to_string();
    let head = format!(
        "HTTP/1.1 {status} -\r\nX-Subject-Token: t\r\nConnection: close\r\nContent-Length: {}\r\n\r\n",
        answer.len()
    );
    stream.write_all((head + &answer).as_bytes()).await
}

fn answer(asked: &Asked, ways: Ways, address: &str) -> (u16, Value) {
    let service = |kind: &str, path: &str| json!({"type": kind, "endpoints": [{"interface": "public", "region_id": "R", "url": format!("{address}{path}")}]});
    match asked.line.split([' ', '?']).nth(1).unwrap() {
        "/v3/auth/tokens" => {
            let user = asked.body.pointer("/auth/identity/password/user").unwrap();
            if user.get("id").or_else(|| user.get("domain")).is_none() {
                return (400, json!({"error": {"code": 400, "message": "Expecting to find domain in user."}}));
            }
            let mut token = json!({"issued_at": "2026-01-01T00:00:00Z", "expires_at": "2026-01-01T01:00:00Z"});
            if !ways.unscoped {
                token["project"] = json!({"id": "x"});
                token["catalog"] = json!([service("compute", "/v2.1"), service("network", "")]);
            }
            (201, json!({"token": token}))
        }
        "/v2.1/flavors/detail" => (200, json!({"flavors": [{"id": "f", "name": "small", "ram": 512, "vcpus": 1}]})),
        "/v2.0/networks" => (200, json!({"networks": [{"id": "net-id", "name": "ci-net"}]})),
        "/v2.1/servers" if ways.old && asked.headers.contains("openstack-api-version") => {
            (406, json!({"computeFault": {"message": "Version 2.37 is not supported by the API."}}))
        }
        "/v2.1/servers" => (403, json!({"forbidden": {"message": "no servers here"}})),
        _ => (404, json!({})),
    }
}

#[tokio::test]
async fn a_label_without_networks_boots_on_the_default_interface() {
    let cloud = SmallCloud::start(Ways::default()).await;
    let asked = cloud.servers("networks: [{name: ci-net, default_interface: true}, {name: storage-net}]").await;
    assert_eq!(asked[0].body.pointer("/server/networks"), Some(&json!([{"uuid": "net-id"}])));
    assert!(!asked[0].headers.contains("2.37"), "{}", asked[0].headers);
}

#[tokio::test]
async fn without_a_default_interface_nova_chooses_the_network_if_it_can_be_asked_to() {
    for (settings, networks, version) in [
        ("networks: [{name: ci-net}]", Some(json!("auto")), Some("2.37")),
        ("compute_default_microversion: '2.60'", Some(json!("auto")), Some("2.60")),
        // Such a Nova knows no `auto`; nothing means the same to it.
        ("compute_api_version: '2.36'", None, Some("2.36")),
    ] {
        let cloud = SmallCloud::start(Ways::default()).await;
        let asked = cloud.servers(settings).await;
        assert_eq!(asked[0].body.pointer("/server/networks"), networks.as_ref(), "{settings}");
        let header = version.map(|version| format!("openstack-api-version: compute {version}\r\n"));
        assert!(header.is_none_or(|header| asked[0].headers.contains(&header)), "{settings}: {}", asked[0].headers);
    }
    let cloud = SmallCloud::start(Ways { old: true, ..Ways::default() }).await;
    let asked = cloud.servers("").await;
    assert_eq!(asked.last().unwrap().body.pointer("/server/networks"), None, "{asked:?}");
}

#[tokio::test]
async fn a_token_for_no_project_is_complained_of() {
    let cloud = SmallCloud::start(Ways { unscoped: true, ..Ways::default() }).await;
    for (scope, why) in [("", "its auth names no project"), (", domain_id: d", "another scope than a project")] {
        let provider = cloud.provider(&format!("user_id: u, password: p{scope}"), "");
        let error = provider.start().await.unwrap_err();
        assert_eq!(error.class, ErrorClass::Config);
        let text = error.to_string();
        assert!(
            text.contains("is for no project") && text.contains(why) && text.contains("add project_name"),
            "{text}"
        );
    }
}

#[tokio::test]
async fn keystones_word_about_a_domain_comes_with_the_setting_that_is_missing() {
    let cloud = SmallCloud::start(Ways::default()).await;
    let provider = cloud.provider("username: u, password: p, project_id: x", "");
    let error = provider.start().await.unwrap_err().to_string();
    assert!(error.contains("Expecting to find domain in user.; its auth names no user_domain_name"), "{error}");
}
