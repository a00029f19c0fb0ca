//! Keys that people write in the place of one of ours: those of other programs, of Python's libraries, of everyday speech.
//!
//! They are told before any likeness of letters, which leads astray here: `cacert` looks more like `cert` than like `ca`.

use super::level::Level;

/// What is written, in which part of the file, and the keys of which one is meant: the first that the part has.
const ALIASES: &[(Level, &[&str], &[&str])] = &[
    (
        Level::Top,
        &["zookeeper", "zk", "zk-servers", "zookeeper-hosts", "zookeeper-server", "zookeepers"],
        &["zookeeper-servers"],
    ),
    (Level::Top, &["zookeeper-ssl", "zk-tls", "tls"], &["zookeeper-tls"]),
    (Level::Top, &["images", "dib-images"], &["diskimages"]),
    (Level::Top, &["clouds"], &["providers"]),
    (Level::Top, &["tenants", "tenant-limits", "tenant-quota", "tenant-quotas", "quotas"], &["tenant-resource-limits"]),
    (Level::Top, &["web", "webserver"], &["webapp"]),
    (Level::WebApp, &["address", "host", "bind", "bind-address", "listen"], &["listen_address"]),
    (Level::ZooKeeperServer, &["hostname", "address", "server", "name", "ip"], &["host"]),
    (Level::ZooKeeperServer, &["path", "root", "prefix"], &["chroot"]),
    (
        Level::ZooKeeperTls,
        &["cacert", "ca-cert", "ca_cert", "cafile", "ca-file", "ca_file", "ca-bundle", "cacerts", "truststore"],
        &["ca"],
    ),
    (Level::ZooKeeperTls, &["certificate", "client-cert", "certfile", "cert-file", "cert_file", "crt"], &["cert"]),
    (Level::ZooKeeperTls, &["keyfile", "key-file", "key_file", "client-key", "private-key"], &["key"]),
    (Level::ZooKeeperTls, &["verify", "check-hostname"], &["verify-hostname"]),
    (Level::Label, &["min", "minimum", "min-nodes", "ready"], &["min-ready"]),
    (Level::Label, &["max-age", "ready-age", "ttl"], &["max-ready-age"]),
    (Level::ImageBuilder, &["user", "ssh-user", "login"], &["username"]),
    (Level::ImageBuilder, &["hostname", "address", "ip"], &["host"]),
    (Level::ImageBuilder, &["ssh-port"], &["port"]),
    (Level::Provider, &["region"], &["region-name"]),
    (Level::Provider, &["cloud-name"], &["cloud"]),
    (Level::Provider, &["kube-context", "cluster"], &["context"]),
    (Level::Provider, &["type", "kind"], &["driver"]),
    (Level::Provider, &["timeout"], &["launch-timeout"]),
    (Level::Provider, &["retries"], &["launch-retries"]),
    (
        Level::Provider,
        &["max-servers", "max-server", "max-pods", "max-projects", "max-namespaces", "max-nodes", "max-instances"],
        &["max-servers", "max-projects", "max-pods"],
    ),
    (
        Level::Pool,
        &["max-pods", "max-projects", "max-namespaces", "max-nodes", "max-instances", "max-vms", "max"],
        &["max-servers"],
    ),
    (Level::Pool, &["max-cpu", "max-cpus", "max-vcpus"], &["max-cores"]),
    (Level::Pool, &["max-memory", "max-mem"], &["max-ram"]),
    (Level::Pool, &["az", "azs", "zone", "zones"], &["availability-zones"]),
    (Level::Pool, &["floating-ip", "floating-ips", "auto-ip", "public-ip"], &["auto-floating-ip"]),
    (Level::Pool, &["secgroups", "sec-groups"], &["security-groups"]),
    (Level::Pool, &["net", "nets"], &["networks"]),
    (Level::Pool, &["attributes"], &["node-attributes"]),
    (Level::Pool, &["hosts", "servers"], &["nodes"]),
];

/// Drivers by other names.
const DRIVERS: &[(&[&str], &str)] = &[
    (&["k8s", "kube"], "kubernetes"),
    (&["os", "nova", "shade"], "openstack"),
    (&["ocp", "okd"], "openshift"),
    (&["pods", "pod"], "openshiftpods"),
    (&["ec2", "amazon"], "aws"),
    (&["gcp", "google"], "gce"),
    (&["ibm", "ibmcloud"], "ibmvpc"),
    (&["ssh", "baremetal", "bare-metal", "node", "nodes"], "static"),
];

/// Where logging in to a cloud is configured.
const CLOUDS_YAML: &str = "how to log in to a cloud stands in clouds.yaml; `cloud` names it";

/// What else to say of a key that is not there.
const REMARKS: &[(Level, &[&str], &str)] = &[
    (
        Level::Label,
        &["max-ready"],
        "`min-ready` says how many nodes are kept ready, and no more are; `max-servers` of a pool, how many there are at most",
    ),
    (
        Level::ZooKeeperServer,
        &["tls", "ssl", "secure"],
        "connections are with TLS where `zookeeper-tls` stands at the top level",
    ),
    (
        Level::Top,
        &["include", "includes", "import", "extends"],
        "a configuration includes no other files: write here what stands in them",
    ),
    (Level::Provider, &["auth", "auth-type", "auth_url", "auth_type", "credentials", "project", "tenant"], CLOUDS_YAML),
];

/// The keys of which one is meant by another; none where it is like none.
pub fn of_key(level: Level, name: &str) -> &'static [&'static str] {
    let found = ALIASES.iter().find(|(on, names, _)| *on == level && names.contains(&name));
    found.map_or(if matches!(name, "id" | "title") { &["name"] } else { &[] }, |(_, _, keys)| keys)
}

/// What to say of a key for which there is none.
pub fn remark(level: Level, name: &str) -> Option<&'static str> {
    REMARKS.iter().find(|(on, keys, _)| *on == level && keys.contains(&name)).map(|(_, _, remark)| *remark)
}

/// The driver that is known by that name elsewhere.
pub fn of_driver(name: &str) -> Option<&'static str> {
    let name = name.to_lowercase();
    DRIVERS.iter().find(|(names, _)| names.contains(&name.as_str())).map(|(_, driver)| *driver)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::advice;

    #[test]
    fn an_alias_leads_to_a_key_of_its_part_and_is_none_itself() {
        for (level, names, keys) in ALIASES {
            let known = advice::keys_of(*level, None);
            assert!(keys.iter().any(|key| known.contains(key)), "{level:?} has none of {keys:?}");
            let others = names.iter().filter(|name| known.contains(name) && !keys.contains(name));
            assert_eq!(others.collect::<Vec<_>>(), [&""; 0], "{level:?}");
        }
    }
}
