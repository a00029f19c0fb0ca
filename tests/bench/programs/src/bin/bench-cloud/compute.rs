//! Nova.

use std::time::Instant;

use serde_json::{Value, json};

use super::others::version;
use super::reply::{Call, Reply};
use super::servers::{Cloud, FLAVORS, Flavor, IMAGE, PROJECT};

pub fn answer(cloud: &mut Cloud, call: &Call, path: &[&str], body: &[u8]) -> Reply {
    let document = version(cloud, "compute/v2.1", "v2.1", "2.96", "2.1");
    let path = match path {
        [] => return Reply::new(200, &json!({"versions": [document]})),
        ["v2.1"] => return Reply::new(200, &json!({"version": document})),
        ["v2.1", rest @ ..] => rest,
        _ => return Reply::not_found("page"),
    };
    let now = Instant::now();
    cloud.reap(now);
    match (call.method.as_str(), path) {
        ("GET", ["servers", "detail"]) => Reply::text(200, cloud.list(call, true)),
        ("GET", ["servers"]) => Reply::text(200, cloud.list(call, false)),
        ("POST", ["servers"]) => create(cloud, body),
        ("GET", ["servers", id]) => match cloud.get(id) {
            Some(server) => {
                let shown = server.show(&cloud.base, server.status(now), call.microversion >= 47);
                Reply::new(200, &json!({"server": shown}))
            }
            None => Reply::not_found(&format!("Instance {id}")),
        },
        ("DELETE", ["servers", id]) => match cloud.delete(id, now) {
            Some(()) => Reply::text(204, String::new()),
            None => Reply::not_found(&format!("Instance {id}")),
        },
        ("POST", ["servers", _, "action"]) => Reply::new(200, &json!({"output": "console\n"})),
        ("GET", ["servers", id, "ips"]) => match cloud.get(id) {
            Some(server) => {
                let shown = server.show(&cloud.base, server.status(now), false);
                Reply::new(200, &json!({"addresses": shown["addresses"]}))
            }
            None => Reply::not_found(&format!("Instance {id}")),
        },
        ("GET", ["servers", _, "os-security-groups"]) => Reply::new(200, &json!({"security_groups": []})),
        ("GET", ["servers", _, "os-interface"]) => Reply::new(200, &json!({"interfaceAttachments": []})),
        ("GET", ["servers", _, "os-volume_attachments"]) => Reply::new(200, &json!({"volumeAttachments": []})),
        ("GET", ["flavors", "detail"] | ["flavors"]) => {
            let flavors = if call.query.contains_key("marker") { &[] } else { &FLAVORS[..] };
            Reply::new(200, &json!({"flavors": flavors.iter().map(|f| show(cloud, f)).collect::<Vec<_>>()}))
        }
        ("GET", ["flavors", id]) => match Flavor::of(id) {
            Some(flavor) => Reply::new(200, &json!({"flavor": show(cloud, flavor)})),
            None => Reply::not_found(&format!("Flavor {id}")),
        },
        ("GET", ["flavors", _, "os-extra_specs"]) => Reply::new(200, &json!({"extra_specs": {}})),
        ("GET", ["limits"]) => Reply::new(200, &limits(cloud)),
        ("GET", ["os-availability-zone", ..]) => {
            let zone = json!({"zoneName": "nova", "zoneState": {"available": true}, "hosts": null});
            Reply::new(200, &json!({"availabilityZoneInfo": [zone]}))
        }
        ("GET", ["os-quota-sets", ..]) => {
            let instances = cloud.settings.max_instances;
            let quota = json!({"id": PROJECT, "instances": instances, "cores": -1, "ram": -1, "key_pairs": 100});
            Reply::new(200, &json!({"quota_set": quota}))
        }
        ("GET", ["os-keypairs"]) => Reply::new(200, &json!({"keypairs": []})),
        ("GET", ["extensions"]) => Reply::new(200, &json!({"extensions": []})),
        _ => Reply::not_found("page"),
    }
}

fn create(cloud: &mut Cloud, body: &[u8]) -> Reply {
    let Ok(body) = serde_json::from_slice::<Value>(body) else { return Reply::bad("Malformed request body") };
    let max = cloud.settings.max_instances;
    if usize::try_from(max).is_ok_and(|max| cloud.servers() >= max) {
        let message = format!("Quota exceeded for instances: Requested 1, but already used {max} of {max} instances");
        return Reply::new(403, &json!({"forbidden": {"code": 403, "message": message}}));
    }
    let wanted = &body["server"];
    match wanted["imageRef"].as_str() {
        None | Some("" | IMAGE) => {}
        Some(other) => return Reply::bad(&format!("Image {other} could not be found.")),
    }
    let flavor = wanted["flavorRef"].as_str().unwrap_or_default();
    if Flavor::of(flavor).is_none() {
        return Reply::bad(&format!("Flavor {flavor} could not be found."));
    }
    let id = cloud.create(wanted, false).id();
    let base = &cloud.base;
    let link = format!("{base}/compute/v2.1/servers/{id}");
    let mut reply = Reply::new(
        202,
        &json!({"server": {"id": id, "adminPass": "bench", "security_groups": [{"name": "default"}],
            "OS-DCF:diskConfig": "MANUAL", "links": [{"rel": "self", "href": link},
                {"rel": "bookmark", "href": format!("{base}/compute/servers/{id}")}]}}),
    );
    reply.headers.push(("location", link));
    reply
}

fn show(cloud: &Cloud, flavor: &Flavor) -> Value {
    let link = format!("{}/compute/v2.1/flavors/{}", cloud.base, flavor.id);
    json!({"id": flavor.id, "name": flavor.name, "vcpus": flavor.vcpus, "ram": flavor.ram, "disk": flavor.disk,
           "swap": "", "rxtx_factor": 1.0, "OS-FLV-EXT-DATA:ephemeral": 0, "OS-FLV-DISABLED:disabled": false,
           "os-flavor-access:is_public": true, "links": [{"rel": "self", "href": link}]})
}

fn limits(cloud: &Cloud) -> Value {
    let used = cloud.servers();
    json!({"limits": {"rate": [], "absolute": {
        "maxTotalInstances": cloud.settings.max_instances, "maxTotalCores": -1, "maxTotalRAMSize": -1,
        "maxTotalKeypairs": 100, "maxServerMeta": 128, "maxImageMeta": 128, "maxPersonality": 5,
        "maxPersonalitySize": 10240, "maxServerGroups": 10, "maxServerGroupMembers": 10, "maxSecurityGroups": -1,
        "maxSecurityGroupRules": -1, "maxTotalFloatingIps": -1, "totalInstancesUsed": used, "totalCoresUsed": used,
        "totalRAMUsed": used * 2048, "totalServerGroupsUsed": 0, "totalSecurityGroupsUsed": 0,
        "totalFloatingIpsUsed": 0}}})
}
