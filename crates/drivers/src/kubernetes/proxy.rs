//! Which proxy the calls of a cluster go through, if any.
//!
//! `proxy-url` of the cluster's entry, else the environment's `HTTPS_PROXY` (`HTTP_PROXY` for an `http` address; a name in
//! small letters goes first), unless `NO_PROXY` excepts the cluster's address. That is how Python's client decides
//! (`requests.utils.should_bypass_proxies`) since it knows proxies at all. kube compares `NO_PROXY` with the address of
//! the proxy, and refuses a list with an empty item; so its own reading is not used.

use std::net::IpAddr;

use http::Uri;

use crate::Context;

/// The proxy for a cluster's address. The error says what is wrong with which setting.
pub fn of(server: &Uri, proxy_url: Option<&str>, environment: &Context) -> Result<Option<Uri>, String> {
    let variable = |name: &'static str, upper: &'static str| {
        environment
            .variable(name)
            .map(|value| (name, value))
            .or(environment.variable(upper).map(|value| (upper, value)))
    };
    let from_environment = || {
        let plain = server.scheme_str() == Some("http");
        if plain { variable("http_proxy", "HTTP_PROXY") } else { variable("https_proxy", "HTTPS_PROXY") }
    };
    let of_cluster = proxy_url.filter(|url| !url.is_empty()).map(|url| ("proxy-url", url));
    let Some((setting, url)) = of_cluster.or_else(from_environment) else { return Ok(None) };
    let exceptions = variable("no_proxy", "NO_PROXY").map(|(_, list)| list);
    if exceptions.is_some_and(|list| is_excepted(server, list)) {
        return Ok(None);
    }
    // As curl and Python take it: an address without a scheme is one of HTTP.
    let url = if url.contains("://") { url.to_owned() } else { format!("http://{url}") };
    url.parse().map(Some).map_err(|error| format!("{setting} is no address of a proxy: {error}"))
}

/// Whether a list of `NO_PROXY` has an address: by its name, a domain that it is in, its IP address, or a network in CIDR
/// notation; each also with a port, which must then be the same.
fn is_excepted(server: &Uri, list: &str) -> bool {
    let Some(host) = server.host().map(|host| host.trim_matches(['[', ']']).to_ascii_lowercase()) else { return false };
    let port = server.port_u16().unwrap_or(if server.scheme_str() == Some("http") { 80 } else { 443 });
    let address: Option<IpAddr> = host.parse().ok();
    let items = list.split([',', ' ']).map(str::trim).filter(|item| !item.is_empty());
    items.map(str::to_ascii_lowercase).any(|item| {
        if item == "*" {
            return true;
        }
        if let Some(address) = address {
            return network(&item).is_some_and(|network| contains(network, address))
                || is_address(&item, address)
                || with_port(&item, port).is_some_and(|item| is_address(item, address));
        }
        is_in_domain(&host, &item) || with_port(&item, port).is_some_and(|item| is_in_domain(&host, item))
    })
}

/// What is before `:PORT`, where it is that one.
fn with_port(item: &str, port: u16) -> Option<&str> {
    item.rsplit_once(':').filter(|(_, wanted)| wanted.parse() == Ok(port)).map(|(item, _)| item)
}

fn is_address(item: &str, address: IpAddr) -> bool {
    item.trim_matches(['[', ']']).parse() == Ok(address)
}

fn is_in_domain(host: &str, item: &str) -> bool {
    let domain = item.trim_start_matches("*.").trim_start_matches('.');
    host == domain || (!domain.is_empty() && host.strip_suffix(domain).is_some_and(|start| start.ends_with('.')))
}

/// The first address of a network and how many bits are its own.
fn network(item: &str) -> Option<(IpAddr, u32)> {
    let (address, bits) = item.split_once('/')?;
    Some((address.parse().ok()?, bits.parse().ok()?))
}

fn contains((network, bits): (IpAddr, u32), address: IpAddr) -> bool {
    let same = |a: u128, b: u128, width: u32| bits <= width && (a ^ b).checked_shr(width - bits).unwrap_or(0) == 0;
    match (network, address) {
        (IpAddr::V4(a), IpAddr::V4(b)) => same(a.to_bits().into(), b.to_bits().into(), 32),
        (IpAddr::V6(a), IpAddr::V6(b)) => same(a.to_bits(), b.to_bits(), 128),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn proxy(server: &str, proxy_url: Option<&str>, variables: &[(&str, &str)]) -> Result<Option<String>, String> {
        let environment =
            variables.iter().fold(Context::default(), |all, (name, value)| all.with_variable(name, *value));
        Ok(of(&server.parse().unwrap(), proxy_url, &environment)?.map(|uri| uri.to_string()))
    }

    #[test]
    fn what_no_proxy_excepts_is_the_clusters_address() {
        let cases = [
            ("https://api.example.org:6443", "api.example.org", true),
            ("https://api.example.org:6443", "example.org", true),
            ("https://api.example.org:6443", ".example.org", true),
            ("https://api.example.org:6443", "*.example.org", true),
            ("https://API.example.org:6443", "Api.Example.org", true),
            ("https://api.example.org:6443", "localhost,, api.example.org,", true),
            ("https://api.example.org:6443", "api.example.org:6443", true),
            ("https://api.example.org:6443", "api.example.org:443", false),
            ("https://api.example.org", "api.example.org:443", true),
            ("https://api.example.org:6443", "ple.org", false),
            ("https://api.example.org:6443", "proxy.example.net", false),
            ("https://api.example.org:6443", "10.0.0.0/8", false),
            ("https://api.example.org:6443", "*", true),
            ("https://10.1.2.3:6443", "10.0.0.0/8", true),
            ("https://10.1.2.3:6443", "10.1.2.3", true),
            ("https://10.1.2.3:6443", "10.1.2.3:6443", true),
            ("https://10.1.2.3:6443", "0.0.0.0/0", true),
            ("https://10.1.2.3:6443", "192.168.0.0/16,no/host", false),
            ("https://[fd00::1]:6443", "fd00::/8", true),
            ("https://[fd00::1]:6443", "fd00::1", true),
            ("https://[fd00::1]:6443", "fd00::2,10.0.0.0/8", false),
        ];
        for (server, list, excepted) in cases {
            let variables = [("HTTPS_PROXY", "http://proxy.example.net:3128"), ("NO_PROXY", list)];
            let expected = if excepted { None } else { Some("http://proxy.example.net:3128/".to_owned()) };
            assert_eq!(proxy(server, None, &variables), Ok(expected), "{server} with NO_PROXY={list}");
        }
    }

    #[test]
    fn the_proxys_own_address_is_not_what_is_excepted() {
        let variables = [("HTTPS_PROXY", "http://proxy.example.net:3128"), ("NO_PROXY", "proxy.example.net")];
        assert_eq!(proxy("https://api:6443", None, &variables), Ok(Some("http://proxy.example.net:3128/".to_owned())));
    }

    #[test]
    fn a_clusters_own_proxy_goes_before_the_environments() {
        let variables = [("HTTPS_PROXY", "http://all:1"), ("https_proxy", "small:2"), ("HTTP_PROXY", "http://plain:3")];
        let of = |server, url| proxy(server, url, &variables).unwrap().unwrap();
        assert_eq!(of("https://api:6443", Some("http://own:4")), "http://own:4/");
        assert_eq!(of("https://api:6443", Some("")), "http://small:2/");
        assert_eq!(of("http://api:8080", None), "http://plain:3/");
        let except = [("NO_PROXY", "api")];
        assert_eq!(proxy("https://api:6443", Some("http://own:4"), &except), Ok(None), "as Python's client");
        let error = proxy("https://api:6443", Some("http://a b"), &[]).unwrap_err();
        assert_eq!(error, "proxy-url is no address of a proxy: invalid uri character");
    }
}
