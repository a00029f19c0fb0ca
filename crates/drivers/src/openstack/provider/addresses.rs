//! Which of a server's addresses are its public and private ones, and which one it is reached at.
//!
//! The rule is openstacksdk's (`cloud/meta.py add_server_interfaces`), with two differences: of
//! several candidates the first is taken without probing port 22 (the host-key scan does that), and a server that has
//! nothing but a private address is reached there, where the SDK has no answer.

use std::net::Ipv4Addr;

use crate::openstack::api::{Address, Addressing, Server};

/// The addresses of a node's record; empty is `None`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Addresses {
    pub interface_ip: Option<String>,
    pub public_v4: Option<String>,
    pub public_v6: Option<String>,
    pub private_v4: Option<String>,
}

/// Chooses a server's addresses; `external` names the networks that lead outside.
pub(crate) fn choose(server: &Server, external: &[String], addressing: &Addressing) -> Addresses {
    if let Some(known) = &server.known_addresses {
        let private_v4 = known.private_v4.clone().filter(|text| !text.is_empty());
        return Addresses {
            interface_ip: known.interface_ip.clone().filter(|text| !text.is_empty()),
            // As upstream's fake has it: an address that is known to be missing is an empty text.
            public_v4: known.public_v4.clone(),
            public_v6: known.public_v6.clone(),
            private_v4,
        };
    }
    let public_v4 = public_v4(server, external);
    let public_v6 = server.access_ipv6.clone().or_else(|| find(server, 6, |_| true));
    let private_v4 = private_v4(server, external);
    let default = addressing.default_network.as_ref().and_then(|network| {
        let on_it = |address: &Address| address.network == *network;
        let v6 = if addressing.local_ipv6 && !addressing.force_ipv4 { find(server, 6, on_it) } else { None };
        v6.or_else(|| find(server, 4, on_it))
    });
    let interface_ip = default
        .or_else(|| private_v4.clone().filter(|_| addressing.private))
        .or_else(|| public_v6.clone().filter(|_| addressing.local_ipv6 && !addressing.force_ipv4))
        .or_else(|| public_v4.clone())
        .or_else(|| private_v4.clone())
        .or_else(|| public_v6.clone());
    Addresses { interface_ip, public_v4, public_v6, private_v4 }
}

/// Floating addresses first, then in Nova's order.
fn find(server: &Server, version: u64, accept: impl Fn(&Address) -> bool) -> Option<String> {
    let of_kind = |floating: bool| {
        server
            .addresses
            .iter()
            .filter(move |address| address.is_floating() == floating)
            .find(|address| address.version == version && !address.addr.is_empty() && accept(address))
            .map(|address| address.addr.clone())
    };
    of_kind(true).or_else(|| of_kind(false))
}

fn public_v4(server: &Server, external: &[String]) -> Option<String> {
    server
        .access_ipv4
        .clone()
        .or_else(|| find(server, 4, |address| external.contains(&address.network)))
        .or_else(|| find(server, 4, Address::is_floating))
        .or_else(|| find(server, 4, |address| address.network == "public"))
        .or_else(|| find(server, 4, |address| address.addr.parse().is_ok_and(|ip| !is_private(ip))))
}

fn private_v4(server: &Server, external: &[String]) -> Option<String> {
    // The one behind the floating address, if there is one.
    let mac = server.addresses.iter().find(|address| address.is_floating()).and_then(|address| address.mac.as_deref());
    let internal = |address: &Address| {
        !external.contains(&address.network)
            && !address.is_floating()
            && (mac.is_none() || address.mac.as_deref() == mac)
    };
    find(server, 4, |address| internal(address) && address.network == "private").or_else(|| find(server, 4, internal))
}

/// What Python's `ipaddress` calls private, as far as servers have such addresses.
fn is_private(ip: Ipv4Addr) -> bool {
    ip.is_private()
        || ip.is_loopback()
        || ip.is_link_local()
        || ip.is_unspecified()
        || ip.is_broadcast()
        || ip.is_documentation()
        || ip.octets()[0] == 0
        || ip.octets()[0] >= 240
        || (ip.octets()[0] == 198 && ip.octets()[1] & 0xfe == 18)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn chosen(json: &Value, external: &[&str], addressing: &Addressing) -> Addresses {
        let external: Vec<String> = external.iter().map(|name| (*name).to_owned()).collect();
        choose(&Server::read(json).unwrap(), &external, addressing)
    }

    #[test]
    fn a_server_on_an_external_network_is_reached_there() {
        let server = json!({"id": "s", "addresses": {
            "internal": [{"version": 4, "addr": "10.0.0.7", "OS-EXT-IPS:type": "fixed"}],
            "ext": [{"version": 4, "addr": "192.0.2.7", "OS-EXT-IPS:type": "fixed"}]}});
        let addresses = chosen(&server, &["ext"], &Addressing::default());
        assert_eq!(addresses.interface_ip.as_deref(), Some("192.0.2.7"));
        assert_eq!(addresses.public_v4.as_deref(), Some("192.0.2.7"));
        assert_eq!(addresses.private_v4.as_deref(), Some("10.0.0.7"));
    }

    #[test]
    fn a_floating_address_is_the_public_one() {
        let server = json!({"id": "s", "addresses": {"private": [
            {"version": 4, "addr": "10.0.0.7", "OS-EXT-IPS:type": "fixed", "OS-EXT-IPS-MAC:mac_addr": "m1"},
            {"version": 4, "addr": "10.0.0.8", "OS-EXT-IPS:type": "fixed", "OS-EXT-IPS-MAC:mac_addr": "m2"},
            {"version": 4, "addr": "10.9.0.1", "OS-EXT-IPS:type": "floating", "OS-EXT-IPS-MAC:mac_addr": "m2"}]}});
        let addresses = chosen(&server, &[], &Addressing::default());
        assert_eq!(addresses.interface_ip.as_deref(), Some("10.9.0.1"));
        assert_eq!(addresses.private_v4.as_deref(), Some("10.0.0.8"), "the one behind the floating address");
        let inside = Addressing { private: true, ..Addressing::default() };
        assert_eq!(chosen(&server, &[], &inside).interface_ip.as_deref(), Some("10.0.0.8"));
    }

    #[test]
    fn ipv6_is_preferred_where_this_host_has_it() {
        let server = json!({"id": "s", "accessIPv4": "192.0.2.1", "addresses": {
            "net": [{"version": 6, "addr": "2001:db8::7"}, {"version": 4, "addr": "10.0.0.7"}]}});
        let v6 = Addressing { local_ipv6: true, ..Addressing::default() };
        assert_eq!(chosen(&server, &[], &v6).interface_ip.as_deref(), Some("2001:db8::7"));
        let forced = Addressing { force_ipv4: true, ..v6 };
        assert_eq!(chosen(&server, &[], &forced).interface_ip.as_deref(), Some("192.0.2.1"));
    }

    #[test]
    fn a_server_with_a_private_address_only_is_reached_there() {
        let server = json!({"id": "s", "addresses": {"net": [{"version": 4, "addr": "10.0.0.7"}]}});
        let addresses = chosen(&server, &[], &Addressing::default());
        assert_eq!((addresses.interface_ip.as_deref(), addresses.public_v4), (Some("10.0.0.7"), None));
    }

    #[test]
    fn a_global_address_on_any_network_is_public() {
        let server = json!({"id": "s", "addresses": {"net": [{"version": 4, "addr": "8.8.4.4"}]}});
        assert_eq!(chosen(&server, &[], &Addressing::default()).public_v4.as_deref(), Some("8.8.4.4"));
    }

    #[test]
    fn a_simulated_cloud_has_the_last_word() {
        let server = json!({"id": "s", "interface_ip": "fake", "public_v4": "", "public_v6": "", "private_v4": "fake"});
        let addresses = chosen(&server, &[], &Addressing::default());
        assert_eq!(addresses.interface_ip.as_deref(), Some("fake"));
        assert_eq!(addresses.public_v4.as_deref(), Some(""));
    }
}
