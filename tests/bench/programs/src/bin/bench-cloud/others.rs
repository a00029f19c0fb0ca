//! Keystone, Glance, Neutron and Cinder: nothing of theirs changes.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

use super::reply::{Call, Reply};
use super::servers::{Cloud, IMAGE, NETWORKS, Network, PROJECT, Server, TIME, USER};

/// An entry of a service's list of versions.
pub fn version(cloud: &Cloud, path: &str, id: &str, newest: &str, oldest: &str) -> Value {
    let link = format!("{}/{path}/", cloud.base);
    json!({"id": id, "status": "CURRENT", "version": newest, "min_version": oldest, "updated": TIME,
           "links": [{"rel": "self", "href": link}]})
}

pub fn identity(cloud: &Cloud, call: &Call, path: &[&str]) -> Reply {
    let link = format!("{}/identity/v3/", cloud.base);
    let v3 = json!({"id": "v3.14", "status": "stable", "updated": TIME,
        "media-types": [{"base": "application/json", "type": "application/vnd.openstack.identity-v3+json"}],
        "links": [{"rel": "self", "href": link}]});
    let project = json!({"id": PROJECT, "name": "bench", "domain_id": "default", "enabled": true});
    match (call.method.as_str(), path) {
        ("GET", []) => Reply::new(300, &json!({"versions": {"values": [v3]}})),
        ("GET", ["v3"]) => Reply::new(200, &json!({"version": v3})),
        ("POST", ["v3", "auth", "tokens"]) => {
            let mut reply = Reply::new(201, &token(cloud));
            reply.headers.push(("x-subject-token", "bench-token".into()));
            reply
        }
        ("GET", ["v3", "auth", "tokens"]) => Reply::new(200, &token(cloud)),
        ("GET", ["v3", "auth", "catalog"]) => Reply::new(200, &json!({"catalog": token(cloud)["token"]["catalog"]})),
        ("GET", ["v3", "projects"]) => Reply::new(200, &json!({"projects": [project]})),
        ("GET", ["v3", "projects", _]) => Reply::new(200, &json!({"project": project})),
        _ => Reply::not_found("page"),
    }
}

fn token(cloud: &Cloud) -> Value {
    let service = |kind: &str, name: &str, path: &str| {
        let endpoints = ["public", "internal", "admin"].map(|interface| {
            json!({"id": format!("{kind}-{interface}"), "interface": interface, "region": "bench",
                   "region_id": "bench", "url": format!("{}/{path}", cloud.base)})
        });
        json!({"id": kind, "type": kind, "name": name, "endpoints": endpoints})
    };
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let domain = json!({"id": "default", "name": "Default"});
    json!({"token": {
        "methods": ["password"], "audit_ids": ["bench"],
        "user": {"domain": domain, "id": USER, "name": "bench", "password_expires_at": null},
        "project": {"domain": domain, "id": PROJECT, "name": "bench"},
        "is_domain": false, "roles": [{"id": "r1", "name": "member"}],
        "issued_at": time(now), "expires_at": time(now + Duration::from_secs(86400)),
        // With Cinder: openstacksdk 4.22 raises ServiceDisabledException without, which Python Nodepool does not expect.
        "catalog": [service("identity", "keystone", "identity"), service("compute", "nova", "compute/v2.1"),
            service("image", "glance", "image"), service("network", "neutron", "network"),
            service("block-storage", "cinder", "volume/v3")]}})
}

/// As Keystone writes it, of the time since the epoch (Howard Hinnant's `civil_from_days`).
fn time(since: Duration) -> String {
    let (days, seconds) = (since.as_secs() / 86400, since.as_secs() % 86400);
    let shifted = days + 719_468;
    let (era, day) = (shifted / 146_097, shifted % 146_097);
    let year = (day - day / 1460 + day / 36524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    let year = era * 400 + year + u64::from(month <= 2);
    let (hour, minute, second) = (seconds / 3600, seconds % 3600 / 60, seconds % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.000000Z")
}

pub fn image(cloud: &Cloud, call: &Call, path: &[&str]) -> Reply {
    let document = version(cloud, "image/v2", "v2.9", "", "");
    let image = json!({"id": IMAGE, "name": "bench-image", "status": "active", "visibility": "public",
        "disk_format": "qcow2", "container_format": "bare", "min_disk": 0, "min_ram": 0, "size": 1_048_576,
        "protected": false, "tags": [], "owner": PROJECT, "checksum": "d41d8cd98f00b204e9800998ecf8427e",
        "os_hidden": false, "created_at": TIME, "updated_at": TIME, "self": format!("/v2/images/{IMAGE}"),
        "file": format!("/v2/images/{IMAGE}/file"), "schema": "/v2/schemas/image"});
    match (call.method.as_str(), path) {
        ("GET", [] | ["versions"]) => Reply::new(300, &json!({"versions": [document]})),
        ("GET", ["v2"]) => Reply::new(200, &json!({"versions": [document]})),
        ("GET", ["v2", "images"]) => {
            let text = |key: &str| image[key].as_str().unwrap_or_default();
            let wanted = !call.query.contains_key("marker")
                && ["name", "status", "id", "visibility"].iter().all(|key| call.wants(key, text(key)));
            let images = wanted.then_some(&image).into_iter().collect::<Vec<_>>();
            Reply::new(200, &json!({"images": images, "first": "/v2/images", "schema": "/v2/schemas/images"}))
        }
        ("GET", ["v2", "images", IMAGE]) => Reply::new(200, &image),
        _ => Reply::not_found("Image"),
    }
}

fn show(network: &Network) -> Value {
    let external = network.name == "public";
    json!({"id": network.id, "name": network.name, "status": "ACTIVE", "admin_state_up": true,
           "router:external": external, "shared": true, "tenant_id": PROJECT, "project_id": PROJECT, "mtu": 1450,
           "port_security_enabled": true, "availability_zones": ["nova"], "availability_zone_hints": [],
           "is_default": external, "tags": [], "subnets": [network.subnet]})
}

fn ports(server: &Server) -> impl Iterator<Item = Value> {
    server.networks.iter().enumerate().map(move |(i, network)| {
        let id = server.id();
        let address = json!({"ip_address": server.address(network), "subnet_id": network.subnet});
        json!({"id": format!("9{i}{}", &id[2..]), "name": "", "status": "ACTIVE", "admin_state_up": true,
               "device_id": id, "device_owner": "compute:nova", "network_id": network.id, "tenant_id": PROJECT,
               "project_id": PROJECT, "mac_address": "fa:16:3e:00:00:00", "tags": [], "security_groups": [],
               "fixed_ips": [address]})
    })
}

pub fn network(cloud: &Cloud, call: &Call, path: &[&str]) -> Reply {
    let path = match path {
        [] => return Reply::new(200, &json!({"versions": [version(cloud, "network/v2.0", "v2.0", "", "")]})),
        ["v2.0"] => return Reply::new(200, &json!({"resources": []})),
        ["v2.0", rest @ ..] => rest,
        _ => return Reply::not_found("page"),
    };
    // Clients of Neutron may write `networks.json`.
    let path: Vec<&str> = path.iter().map(|word| word.trim_end_matches(".json")).collect();
    match (call.method.as_str(), path.as_slice()) {
        ("GET", ["networks"]) => {
            let external = |network: &Network| if network.name == "public" { "true" } else { "false" };
            let networks = NETWORKS.iter().filter(|network| {
                call.wants("name", network.name)
                    && call.wants("id", network.id)
                    && call.wants("router:external", external(network))
            });
            Reply::new(200, &json!({"networks": networks.map(show).collect::<Vec<_>>()}))
        }
        ("GET", ["networks", id]) => match NETWORKS.iter().find(|network| network.id == *id) {
            Some(network) => Reply::new(200, &json!({"network": show(network)})),
            None => Reply::not_found("Network"),
        },
        ("GET", ["subnets"]) => {
            let subnets = NETWORKS.iter().map(|network| {
                let range = format!("127.{}.0.0/16", if network.name == "public" { 100 } else { 101 });
                json!({"id": network.subnet, "name": format!("{}-subnet", network.name), "network_id": network.id,
                    "cidr": range, "ip_version": 4, "enable_dhcp": true, "gateway_ip": null, "tenant_id": PROJECT,
                    "project_id": PROJECT, "dns_nameservers": [], "host_routes": [], "allocation_pools": [],
                    "tags": []})
            });
            Reply::new(200, &json!({"subnets": subnets.collect::<Vec<_>>()}))
        }
        ("GET", ["ports"]) if !call.wants("status", "ACTIVE") => Reply::new(200, &json!({"ports": []})),
        ("GET", ["ports"]) => {
            let ports: Vec<Value> = match call.query.get("device_id") {
                Some(id) => cloud.get(id).into_iter().flat_map(ports).collect(),
                None => cloud.all().flat_map(ports).collect(),
            };
            Reply::new(200, &json!({"ports": ports}))
        }
        ("GET", ["quotas", ..]) => Reply::new(
            200,
            &json!({"quota": {"network": -1, "subnet": -1, "port": -1, "floatingip": -1, "router": -1,
                "security_group": -1, "security_group_rule": -1}}),
        ),
        ("GET", ["security-groups"]) => Reply::new(200, &json!({"security_groups": []})),
        ("GET", [kind @ ("floatingips" | "routers" | "extensions" | "availability_zones")]) => {
            let mut none = json!({});
            none[*kind] = json!([]);
            Reply::new(200, &none)
        }
        _ => Reply::not_found("page"),
    }
}

pub fn volume(cloud: &Cloud, call: &Call, path: &[&str]) -> Reply {
    match (call.method.as_str(), path) {
        ("GET", [] | ["v3"]) => {
            Reply::new(300, &json!({"versions": [version(cloud, "volume/v3", "v3.0", "3.70", "3.0")]}))
        }
        ("GET", ["v3", .., "limits"]) => Reply::new(
            200,
            &json!({"limits": {"rate": [], "absolute": {"maxTotalVolumes": -1, "maxTotalVolumeGigabytes": -1,
                "maxTotalSnapshots": -1, "maxTotalBackups": -1, "maxTotalBackupGigabytes": -1, "totalVolumesUsed": 0,
                "totalGigabytesUsed": 0, "totalSnapshotsUsed": 0, "totalBackupsUsed": 0,
                "totalBackupGigabytesUsed": 0}}}),
        ),
        ("GET", ["v3", ..]) => Reply::new(200, &json!({"volumes": []})),
        _ => Reply::not_found("page"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_those_of_the_calendar() {
        assert_eq!(time(Duration::from_secs(0)), "1970-01-01T00:00:00.000000Z");
        assert_eq!(time(Duration::from_secs(1_709_251_199)), "2024-02-29T23:59:59.000000Z");
        assert_eq!(time(Duration::from_secs(1_764_447_899)), "2025-11-29T20:24:59.000000Z");
    }
}
