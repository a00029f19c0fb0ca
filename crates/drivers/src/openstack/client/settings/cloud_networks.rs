//! What clouds.yaml says of a cloud's networks and floating IPs.

use serde_json::{Map, Value};

use super::values::{text, truth};
use crate::openstack::api::{CloudNetwork, FloatingIpSource};

/// Reads `networks`, or the two older keys in its place. An error says what is wrong.
pub(super) fn read(settings: &Map<String, Value>) -> Result<Vec<CloudNetwork>, String> {
    let mut networks = Vec::new();
    let listed = settings.get("networks").filter(|networks| !networks.is_null());
    for network in listed.and_then(Value::as_array).into_iter().flatten() {
        let name = network.get("name").and_then(text).filter(|name| !name.is_empty());
        let name = name.ok_or("an entry of its networks has no name")?;
        let is = |key: &str| network.get(key).and_then(truth);
        let external = is("routes_externally").unwrap_or(false);
        networks.push(CloudNetwork {
            name,
            routes_ipv4_externally: is("routes_ipv4_externally").unwrap_or(external),
            routes_ipv6_externally: is("routes_ipv6_externally").unwrap_or(external),
            nat_source: is("nat_source").unwrap_or(false),
            nat_destination: is("nat_destination").unwrap_or(false),
            default_interface: is("default_interface").unwrap_or(false),
        });
    }
    for (key, external) in [("external_network", true), ("internal_network", false)] {
        let Some(name) = settings.get(key).and_then(text) else { continue };
        if listed.is_some() {
            return Err(format!("it has both networks and {key}; make {key} an entry of networks"));
        }
        networks.push(CloudNetwork {
            name,
            routes_ipv4_externally: external,
            routes_ipv6_externally: external,
            nat_source: false,
            nat_destination: !external,
            default_interface: external,
        });
    }
    for (key, is) in [
        ("nat_destination", (|network| network.nat_destination) as fn(&CloudNetwork) -> bool),
        ("default_interface", |network| network.default_interface),
    ] {
        let names: Vec<&str> =
            networks.iter().filter(|network| is(network)).map(|network| network.name.as_str()).collect();
        if names.len() > 1 {
            return Err(format!("of its networks, {} are marked {key}; only one can be", names.join(" and ")));
        }
    }
    Ok(networks)
}

/// Reads `floating_ip_source`. An error says what is wrong.
pub(super) fn floating_ip_source(settings: &Map<String, Value>) -> Result<FloatingIpSource, String> {
    // An explicit nothing takes the SDK's default away: there is no source then.
    let source = match settings.get("floating_ip_source") {
        None => return Ok(FloatingIpSource::default()),
        Some(value) => text(value).unwrap_or_default().to_lowercase(),
    };
    match source.as_str() {
        "neutron" => Ok(FloatingIpSource::Neutron),
        "nova" => Ok(FloatingIpSource::Nova),
        "" | "none" => Ok(FloatingIpSource::None),
        other => Err(format!("its floating_ip_source is {other}; there are neutron, nova and None")),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn settings(json: Value) -> Map<String, Value> {
        serde_json::from_value(json).unwrap()
    }

    #[test]
    fn networks_are_read_as_the_sdk_reads_them() {
        let networks = read(&settings(json!({"networks": [
            {"name": "out", "routes_externally": true, "routes_ipv6_externally": false, "nat_source": true},
            {"name": "in", "nat_destination": "yes", "default_interface": true}]})))
        .unwrap();
        assert_eq!(
            networks,
            [
                CloudNetwork {
                    name: "out".to_owned(),
                    routes_ipv4_externally: true,
                    nat_source: true,
                    ..CloudNetwork::default()
                },
                CloudNetwork {
                    name: "in".to_owned(),
                    nat_destination: true,
                    default_interface: true,
                    ..CloudNetwork::default()
                }
            ]
        );
        let old = read(&settings(json!({"external_network": "e", "internal_network": "i"}))).unwrap();
        assert!(old[0].routes_ipv4_externally && old[0].default_interface && old[1].nat_destination);
    }

    #[test]
    fn networks_that_the_sdk_refuses_are_refused() {
        for (json, what) in [
            (json!({"networks": [{"nat_source": true}]}), "has no name"),
            (json!({"networks": [], "external_network": "e"}), "both networks and external_network"),
            (
                json!({"networks": [{"name": "a", "nat_destination": true}, {"name": "b", "nat_destination": true}]}),
                "a and b are marked nat_destination",
            ),
        ] {
            let error = read(&settings(json)).unwrap_err();
            assert!(error.contains(what), "{error}");
        }
    }

    #[test]
    fn the_source_of_floating_ips_is_neutron_unless_said_otherwise() {
        for (json, source) in [
            (json!({}), FloatingIpSource::Neutron),
            (json!({"floating_ip_source": "Nova"}), FloatingIpSource::Nova),
            (json!({"floating_ip_source": "None"}), FloatingIpSource::None),
            (json!({"floating_ip_source": null}), FloatingIpSource::None),
        ] {
            assert_eq!(floating_ip_source(&settings(json)), Ok(source));
        }
        assert!(floating_ip_source(&settings(json!({"floating_ip_source": "x"}))).is_err());
    }
}
