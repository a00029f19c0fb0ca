//! Configurations and launches for the tests of drivers.
#![allow(dead_code, missing_docs)] // each test file uses its part

pub mod real;

use std::{
    collections::BTreeMap,
    path::Path,
    sync::{Arc, Mutex},
    time::Duration,
};

use async_trait::async_trait;
use indexmap::IndexMap;
use nodepool_common::{
    config::{self, CloudImage, Driver, LabelImage, OpenStack, OpenStackLabel, OpenStackPool},
    model::{NodeRequest, Resources},
};
use nodepool_drivers::{ImageToUpload, Launch, LaunchProgress, Scope};
use serde_json::Value;

pub fn cloud_image(name: &str) -> CloudImage {
    CloudImage {
        name: name.to_owned(),
        config_drive: None,
        image_id: None,
        image_name: None,
        username: Some("zuul".to_owned()),
        python_path: "auto".to_owned(),
        shell_type: None,
        connection_type: "ssh".to_owned(),
        connection_port: 22,
    }
}

pub fn label(name: &str, image: &str, flavor: &str, networks: &[&str]) -> OpenStackLabel {
    OpenStackLabel {
        name: name.into(),
        image: LabelImage::CloudImage(image.to_owned()),
        min_ram: 0,
        flavor_name: Some(flavor.to_owned()),
        key_name: None,
        console_log: true,
        boot_from_volume: false,
        volume_size: 50,
        instance_properties: IndexMap::new(),
        dynamic_instance_properties: IndexMap::new(),
        userdata: None,
        networks: networks.iter().map(|name| (*name).to_owned()).collect(),
        host_key_checking: true,
    }
}

pub fn openstack(cloud: &str, labels: Vec<OpenStackLabel>) -> OpenStack {
    let image = |label: &OpenStackLabel| match &label.image {
        LabelImage::CloudImage(name) => Some((name.clone(), cloud_image(name))),
        LabelImage::Diskimage(_) => None,
    };
    OpenStack {
        cloud: Some(cloud.to_owned()),
        region_name: None,
        image_upload_timeout: Duration::from_secs(3600),
        rate: Duration::from_millis(100),
        image_name_format: "{image_name}-{timestamp}".to_owned(),
        clean_floating_ips: false,
        port_cleanup_interval: Some(Duration::from_secs(600)),
        post_upload_hook: None,
        diskimages: IndexMap::new(),
        cloud_images: labels.iter().filter_map(image).collect(),
        pools: IndexMap::from_iter([(
            "main".into(),
            OpenStackPool {
                name: "main".into(),
                networks: Vec::new(),
                security_groups: Vec::new(),
                auto_floating_ip: false,
                labels: labels.into_iter().map(|label| (label.name.clone(), label)).collect(),
            },
        )]),
    }
}

pub fn provider(name: &str, driver: Driver) -> config::Provider {
    config::Provider {
        name: name.into(),
        place: config::Place::default(),
        max_concurrency: None,
        launch_retries: 3,
        launch_timeout: Duration::from_secs(3600),
        boot_timeout: Duration::from_secs(60),
        pools: Vec::new(),
        driver,
    }
}

pub fn launch(label: &str, node: &str) -> Launch {
    let request = br#"{"state": "pending", "node_types": ["l"], "tenant_name": "tenant-one"}"#;
    let (request, _) = NodeRequest::read("200-0000000001".into(), request).unwrap();
    Launch {
        node: node.into(),
        pool: "main".into(),
        label: label.into(),
        hostname: format!("np{node}"),
        az: None,
        upload: None,
        request: Arc::new(request),
    }
}

pub fn image(name: &str, path: &Path) -> ImageToUpload {
    ImageToUpload {
        name: name.to_owned(),
        path: path.to_owned(),
        format: path.extension().unwrap().to_str().unwrap().to_owned(),
        build: "0123456789abcdef0123456789abcdef".into(),
        upload: "0000000001".into(),
        properties: BTreeMap::new(),
        md5: None,
        sha256: None,
    }
}

/// Keeps what was reported.
#[derive(Debug, Default)]
pub struct Reported(Mutex<Vec<(Value, Option<Scope>)>>);

impl Reported {
    pub fn ids(&self) -> Vec<Value> {
        self.0.lock().unwrap().iter().map(|(id, _)| id.clone()).collect()
    }

    /// Where each was made.
    pub fn scopes(&self) -> Vec<Option<Scope>> {
        self.0.lock().unwrap().iter().map(|(_, scope)| scope.clone()).collect()
    }
}

#[async_trait]
impl LaunchProgress for Reported {
    async fn created(&self, external_id: Value, made_in: Option<&Scope>) {
        self.0.lock().unwrap().push((external_id, made_in.cloned()));
    }
}

pub fn amounts(cores: f64, instances: f64, ram: f64) -> Resources {
    Resources::new().with("cores", cores).with("instances", instances).with("ram", ram)
}
