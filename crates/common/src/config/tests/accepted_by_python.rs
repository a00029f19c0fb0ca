//! The keys that Nodepool 11.0.0's `config-validate` accepts.
//!
//! From its schemas (`nodepool/cmd/config_validator.py`, `driver/*/config.py`), as voluptuous has them.

use crate::config::advice::Level;

/// A part of the file, the drivers if it is in a provider, and keys.
const ACCEPTED: &[(Level, &[&str], &str)] = &[
    (
        Level::Top,
        &[],
        "build-log-dir build-log-retention diskimages elements-dir images-dir labels max-hold-age providers \
         tenant-resource-limits webapp zookeeper-servers zookeeper-timeout zookeeper-tls",
    ),
    (Level::WebApp, &[], "listen_address port"),
    (Level::ZooKeeperServer, &[], "chroot host port"),
    (Level::ZooKeeperTls, &[], "ca cert key"),
    (Level::Label, &[], "max-ready-age min-ready name"),
    (
        Level::Diskimage,
        &[],
        "abstract build-timeout delete-after-upload dib-cmd elements env-vars formats keep-formats metadata \
         name parent pause python-path rebuild-age release username",
    ),
    (Level::Provider, &["openstack", "fake", "metastatic"], "boot-timeout launch-timeout"),
    (
        Level::Provider,
        &["openstack", "fake"],
        "clean-floating-ips cloud cloud-images diskimages image-name-format image-upload-timeout nodepool-id \
         port-cleanup-interval post-upload-hook rate region-name",
    ),
    (Level::Provider, &["kubernetes", "openshift", "openshiftpods"], "context max-cores max-ram max-resources"),
    (
        Level::Provider,
        &["openstack", "fake", "kubernetes", "openshift", "openshiftpods", "static", "metastatic"],
        "driver max-concurrency name pools priority",
    ),
    (
        Level::Provider,
        &["openstack", "fake", "kubernetes", "openshift", "openshiftpods", "metastatic"],
        "launch-retries",
    ),
    (Level::Provider, &["openshiftpods"], "max-pods"),
    (Level::Provider, &["openshift"], "max-projects"),
    (Level::Provider, &["kubernetes"], "max-servers"),
    (Level::ProviderDiskimage, &["openstack", "fake"], "config-drive connection-port connection-type meta name pause"),
    (
        Level::CloudImage,
        &["openstack", "fake"],
        "config-drive connection-port connection-type image-id image-name name python-path shell-type \
         username",
    ),
    (
        Level::Pool,
        &["openstack", "fake"],
        "auto-floating-ip availability-zones ignore-provider-quota max-volume-gb max-volumes networks \
         security-groups",
    ),
    (
        Level::Pool,
        &["kubernetes", "openshift", "openshiftpods"],
        "default-label-cpu default-label-cpu-limit default-label-extra-resources default-label-memory \
         default-label-memory-limit default-label-storage default-label-storage-limit max-resources",
    ),
    (Level::Pool, &["openstack", "fake", "metastatic"], "host-key-checking"),
    (Level::Pool, &["openstack", "fake", "kubernetes", "openshift", "openshiftpods", "metastatic"], "labels"),
    (Level::Pool, &["openstack", "fake", "kubernetes", "openshift", "openshiftpods"], "max-cores max-ram"),
    (
        Level::Pool,
        &["openstack", "fake", "kubernetes", "openshift", "openshiftpods", "static", "metastatic"],
        "max-servers name node-attributes priority",
    ),
    (Level::Pool, &["static"], "nodes"),
    (
        Level::PoolLabel,
        &["kubernetes", "openshift", "openshiftpods"],
        "annotations cpu cpu-limit dynamic-labels env extra-resources gpu gpu-resource image image-pull \
         labels memory memory-limit node-selector privileged python-path scheduler-name shell-type spec \
         storage storage-limit volume-mounts volumes",
    ),
    (Level::PoolLabel, &["metastatic"], "backing-label grace-time max-age max-parallel-jobs min-retention-time"),
    (
        Level::PoolLabel,
        &["openstack", "fake"],
        "boot-from-volume cloud-image console-log diskimage dynamic-instance-properties flavor-name \
         instance-properties key-name min-ram networks userdata volume-size",
    ),
    (Level::PoolLabel, &["openstack", "fake", "metastatic"], "host-key-checking"),
    (Level::PoolLabel, &["openshift", "openshiftpods"], "image-pull-secrets"),
    (Level::PoolLabel, &["openstack", "fake", "kubernetes", "openshift", "openshiftpods", "metastatic"], "name"),
    (Level::PoolLabel, &["kubernetes", "openshift"], "type"),
    (
        Level::StaticNode,
        &["static"],
        "connection-port connection-type host-key host-key-checking labels max-parallel-jobs name python-path \
         shell-type timeout username",
    ),
];

/// Whether a part of the file may have a key there; of a provider, with that driver.
pub fn accepts(level: Level, driver: Option<&str>, key: &str) -> bool {
    ACCEPTED.iter().any(|(on, drivers, keys)| {
        let fits = drivers.is_empty() || driver.is_some_and(|driver| drivers.contains(&driver));
        *on == level && fits && keys.split_whitespace().any(|known| known == key)
    })
}
