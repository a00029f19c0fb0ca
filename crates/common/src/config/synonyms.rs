//! What other programs, and other parts of the file, call a key of labels, images and hosts: `flavor`, `imagePullPolicy`,
//! `ssh-port`. Those of the top level, of providers and pools are in [`super::aliases`].
//!
//! People write these by habit. Few of them look like the key that they mean, so that likeness finds nothing, or the wrong one.
//! [`SYNONYMS`] are other names of keys, with what they mean in each part of the file that has one of these keys; [`REMARKS`]
//! are for what no key says, or several do.

use super::{
    level::Level,
    shapes::{is_plain, shown},
    suggest::plain,
    units,
    yaml::{Node, Value},
};

const OPENSTACK: &[&str] = &["openstack", "fake"];
const PODS: &[&str] = &["kubernetes", "openshift", "openshiftpods"];

/// Names of keys that do not exist, and the keys that they may mean; in these parts of the file, in any where none is named.
type Synonyms = (&'static [Level], &'static [&'static str], &'static [&'static str]);

const SYNONYMS: &[Synonyms] = &[
    // How a node is reached.
    (
        &[Level::StaticNode],
        &["host", "hostname", "address", "addr", "ip", "ip-address", "fqdn", "ansible-host"],
        &["name"],
    ),
    (&[], &["user", "user-name", "ssh-user", "login", "remote-user", "ansible-user"], &["username"]),
    (&[], &["port", "ssh-port", "ansible-port", "remote-port"], &["connection-port", "port"]),
    (&[], &["connection", "ansible-connection"], &["connection-type"]),
    (&[], &["python", "interpreter", "python-interpreter", "ansible-python-interpreter"], &["python-path"]),
    (&[], &["shell", "ansible-shell-type"], &["shell-type"]),
    (&[], &["check-host-key", "verify-host-key", "strict-host-key-checking"], &["host-key-checking"]),
    (&[Level::StaticNode], &["hostkey", "public-key", "ssh-host-key"], &["host-key"]),
    (&[Level::Other], &["key", "var", "variable"], &["name"]),
    // How many.
    (
        &[Level::StaticNode, Level::PoolLabel],
        &["slots", "jobs", "max-jobs", "parallel-jobs", "max-slots", "capacity", "max-concurrency", "concurrency"],
        &["max-parallel-jobs"],
    ),
    (&[Level::PoolLabel], &["grace", "grace-period"], &["grace-time"]),
    (&[Level::PoolLabel], &["backing", "backed-by", "base-label"], &["backing-label"]),
    // Servers of a cloud.
    (
        &[],
        &["flavor", "flavour", "flavour-name", "flavor-id", "instance-type", "machine-type", "vm-size"],
        &["flavor-name"],
    ),
    (&[], &["keypair", "key-pair", "keypair-name", "key", "ssh-key", "ssh-key-name"], &["key-name"]),
    (&[], &["region"], &["region-name"]),
    (&[], &["az", "azs", "zone", "zones", "availability-zone"], &["availability-zones"]),
    (&[], &["floating-ip", "floating-ips", "public-ip"], &["auto-floating-ip"]),
    (&[Level::PoolLabel], &["cloud-init", "user-data"], &["userdata"]),
    (&[Level::PoolLabel], &["volume-gb", "disk-size", "root-volume-size"], &["volume-size", "storage"]),
    (
        &[Level::PoolLabel],
        &["metadata", "meta", "properties", "server-properties", "instance-metadata", "tags"],
        &["instance-properties"],
    ),
    (&[Level::PoolLabel], &["ram", "mem", "min-memory", "memory", "memory-mb", "min-ram"], &["min-ram", "memory"]),
    (&[Level::ProviderDiskimage], &["metadata", "properties", "image-properties", "tags"], &["meta"]),
    (&[Level::CloudImage], &["id", "uuid"], &["image-id"]),
    (&[Level::CloudImage], &["image"], &["image-name"]),
    // Pods.
    (&[Level::PoolLabel], &["cpus", "cores", "vcpu", "vcpus", "cpu-request", "cpu-requests", "request-cpu"], &["cpu"]),
    (&[Level::PoolLabel], &["memory-request", "memory-requests", "request-memory"], &["memory"]),
    (&[Level::PoolLabel], &["limit-cpu", "cpu-limits", "max-cpu"], &["cpu-limit"]),
    (&[Level::PoolLabel], &["limit-memory", "memory-limits", "max-memory"], &["memory-limit"]),
    (&[Level::PoolLabel], &["disk", "ephemeral-storage", "storage-size"], &["storage"]),
    (&[Level::PoolLabel], &["image-pull-policy", "pull-policy"], &["image-pull"]),
    (&[Level::PoolLabel], &["cloud-image", "diskimage", "container-image", "docker-image", "image-name"], &["image"]),
    (&[Level::PoolLabel], &["env-vars", "environment", "environment-variables", "vars"], &["env"]),
    (&[Level::PoolLabel], &["kind"], &["type"]),
    // How an image is built.
    (
        &[Level::Diskimage],
        &["env", "env-var", "environment", "environment-variables", "vars", "variables"],
        &["env-vars"],
    ),
    (&[Level::Diskimage], &["timeout"], &["build-timeout"]),
    (&[Level::Diskimage], &["cmd", "command", "build-cmd", "build-command", "program"], &["dib-cmd"]),
    (&[Level::Diskimage], &["version", "distro-release", "os-release", "dib-release"], &["release"]),
    (
        &[Level::Diskimage],
        &["type", "types", "image-type", "image-types", "image-format", "image-formats"],
        &["formats"],
    ),
    (&[Level::Diskimage], &["age", "max-age", "rebuild", "rebuild-interval", "rebuild-after"], &["rebuild-age"]),
    (&[Level::Diskimage], &["base", "base-image", "inherit", "inherits", "extends", "from"], &["parent"]),
    (&[Level::Diskimage], &["meta", "properties", "image-properties", "tags"], &["metadata"]),
    (&[Level::ImageBuilder], &["dir", "path", "workdir", "work-dir", "build-dir"], &["directory"]),
    (&[Level::ImageBuilder], &["free-space", "min-free-space", "min-disk"], &["min-free"]),
];

/// What to do about a key of these names, in these parts of the file and with these drivers; with any where none is named.
/// `VALUE` stands for what was written.
type Remark = (&'static [Level], &'static [&'static str], &'static [&'static str], &'static str);

const REMARKS: &[Remark] = &[
    (
        &[Level::PoolLabel, Level::Pool],
        &[],
        &["max-ready"],
        "there is no such limit: `min-ready` says how many nodes are kept ready, and `max-servers` of a pool how many there may be",
    ),
    (&[Level::PoolLabel], OPENSTACK, &["hostname", "server-name"], "leave it out: Nodepool names its servers itself"),
    (
        &[Level::PoolLabel],
        OPENSTACK,
        &["cpu", "cpus", "cores", "vcpu", "vcpus", "min-cpu", "min-cpus", "min-cores", "min-vcpus"],
        "how many a server has is a matter of its flavor: name one with `flavor-name`",
    ),
    (
        &[Level::PoolLabel],
        OPENSTACK,
        &["disk", "disk-size", "disk-gb", "min-disk", "root-disk", "storage", "volume", "volumes"],
        "a flavor says how large the disk is: name one with `flavor-name`, or write `boot-from-volume: true` and `volume-size`, in GB",
    ),
    (&[Level::PoolLabel], PODS, &["metadata"], "write its `labels` and `annotations` as keys of this label itself"),
    (
        &[Level::PoolLabel],
        PODS,
        &[
            "affinity",
            "args",
            "command",
            "containers",
            "dns-config",
            "dns-policy",
            "env-from",
            "host-aliases",
            "host-network",
            "init-containers",
            "lifecycle",
            "liveness-probe",
            "ports",
            "priority-class-name",
            "readiness-probe",
            "restart-policy",
            "runtime-class-name",
            "security-context",
            "service-account",
            "service-account-name",
            "tolerations",
            "working-dir",
        ],
        "it is a part of a pod's `spec`: write the whole of that, `spec: {containers: [{name: …, image: …}]}`, in the place of \
         `image` and all that describes the one container",
    ),
    (
        &[Level::PoolLabel],
        &["kubernetes", "openshift"],
        &["namespace", "project"],
        "leave it out: each node is made in one of its own",
    ),
    (
        &[Level::PoolLabel],
        &["openshiftpods"],
        &["namespace", "project"],
        "leave it out: pods are made in the namespace that has the name of the pool",
    ),
    (
        &[Level::PoolLabel],
        &["kubernetes"],
        &["image-pull-secrets"],
        "with this driver only a `spec` can have them, as `imagePullSecrets`; or give them to the service account of the nodes' \
         namespaces",
    ),
    (&[Level::PoolLabel], &["openshiftpods"], &["type"], "leave it out: nodes of this driver are always pods"),
    (
        &[Level::Pool],
        &["static"],
        &["labels", "hosts", "servers", "node"],
        "a static pool has `nodes`: `- name: HOST`, each with its own `labels`",
    ),
    (
        &[Level::StaticNode],
        &[],
        &["key", "key-file", "key-name", "password", "private-key", "ssh-key", "ssh-private-key"],
        "leave it out: Nodepool does not log in to nodes, and Zuul's executors have a key of their own; the key that the host \
         shows is its `host-key`",
    ),
    (
        &[Level::ImageBuilder],
        &[],
        &["identity-file", "key", "key-file", "password", "private-key", "ssh-key"],
        "leave it out: OpenSSH finds the key, in ~/.ssh of the builder's user",
    ),
    (
        &[Level::Diskimage],
        &[],
        &["package", "packages"],
        "an element installs packages: name one that does so in `elements`",
    ),
    (
        &[Level::Diskimage],
        &[],
        &["distribution", "distro", "os"],
        "name the distribution's element in `elements`; which version of it is `release`",
    ),
    (&[Level::Diskimage], &[], &["playbook"], "it belongs below `ansible`: `ansible: {playbook: VALUE}`"),
    (&[Level::Diskimage], &[], &["inventory"], "it belongs below `ansible`, beside `playbook`: `inventory: VALUE`"),
    (
        &[Level::Diskimage],
        &[],
        &["image-builder"],
        "it belongs below `ansible`, beside `playbook`: `image-builder: VALUE`",
    ),
    (
        &[Level::Diskimage],
        &[],
        &["cloud", "clouds", "provider", "providers"],
        "it is the other way round: a provider that is to have this image lists its name in `diskimages` of its own",
    ),
];

/// What to do about a key that no key of that part of the file stands for.
pub fn remark(level: Level, driver: Option<&str>, name: &str, value: &Node) -> Option<String> {
    let name = plain(name);
    if level == Level::PoolLabel
        && driver.is_some_and(|driver| PODS.contains(&driver))
        && let "resources" | "limits" | "requests" = name.as_str()
    {
        return Some(resources(&name, value));
    }
    let fits = |(levels, drivers, names, _): &&Remark| {
        levels.contains(&level)
            && (drivers.is_empty() || driver.is_some_and(|driver| drivers.contains(&driver)))
            && names.contains(&name.as_str())
    };
    let (.., text) = REMARKS.iter().find(fits)?;
    Some(text.replace("VALUE", &shown(value)))
}

/// The keys of that part of the file that are called so elsewhere.
pub fn keys(level: Level, name: &str) -> impl Iterator<Item = &'static str> {
    let name = plain(name);
    let means = move |(levels, names, _): &&Synonyms| {
        (levels.is_empty() || levels.contains(&level)) && names.contains(&name.as_str())
    };
    SYNONYMS.iter().filter(means).flat_map(|(_, _, keys)| keys.iter().copied())
}

/// What a container's `resources`, or a part of them, are written as.
fn resources(name: &str, value: &Node) -> String {
    let mut keys = Vec::new();
    let mut has_part_of_a_cpu = false;
    for part in ["requests", "limits"] {
        let amounts = if name == part { Some(value) } else { value.get(part).map(AsRef::as_ref) };
        for (resource, amount) in amounts.and_then(Node::entries).unwrap_or_default() {
            let Some(resource) = resource.as_text().filter(|_| is_plain(amount)) else { continue };
            let resource = if resource == "ephemeral-storage" { "storage" } else { resource };
            let Some(key) = AMOUNTS.iter().find(|(known, _)| *known == resource) else { continue };
            let key = if part == "limits" { key.1 } else { key.0 };
            let Value::Scalar(_, text) = &amount.value else { continue };
            if resource == "cpu" && text.parse::<u32>().is_err() {
                has_part_of_a_cpu = true;
            }
            let text = units::meant_by(key, text).map_or_else(|| text.clone(), |number| number.to_string());
            keys.push(format!("`{key}: {text}`"));
        }
    }
    if has_part_of_a_cpu {
        let place = "`spec: {containers: [{name: …, image: …, resources: …}]}`";
        return format!("whole numbers of CPUs only can be written without a `spec`: put it there, {place}");
    }
    if keys.is_empty() {
        return "each amount is a key of its own: `cpu`, `memory` and `storage` (both in MiB) are what the container asks for, \
                `cpu-limit`, `memory-limit` and `storage-limit` the most that it gets"
            .to_owned();
    }
    format!("each amount is a key of this label itself, memory and storage in MiB: write {}", keys.join(", "))
}

/// The keys for what a container asks for, and for the most that it gets, of each resource.
const AMOUNTS: [(&str, &str); 3] = [("cpu", "cpu-limit"), ("memory", "memory-limit"), ("storage", "storage-limit")];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::advice::keys_of;

    #[test]
    fn what_other_names_mean_are_keys_and_they_themselves_are_none() {
        for (levels, names, keys) in SYNONYMS {
            for key in *keys {
                let has = |level: &Level| keys_of(*level, None).contains(key);
                let anywhere = crate::config::advice::is_key_of_any_part(key);
                // What has no level of its own is not taken down.
                let is_of_others = levels.contains(&Level::Other);
                assert!(is_of_others || if levels.is_empty() { anywhere } else { levels.iter().any(has) }, "{key}");
            }
            assert!(!names.is_empty() && names.iter().all(|name| plain(name) == *name), "{names:?}");
        }
        for (levels, drivers, names, text) in REMARKS {
            for (level, name) in levels.iter().flat_map(|level| names.iter().map(move |name| (level, name))) {
                let of = |driver: Option<&'static str>| keys_of(*level, driver).contains(name);
                let is_key = if drivers.is_empty() { of(None) } else { drivers.iter().any(|driver| of(Some(driver))) };
                assert!(!is_key, "{level:?} of {drivers:?} has a key `{name}`: {text}");
            }
        }
    }
}
