//! The names under which this process appears in ZooKeeper, metrics and logs.
//!
//! Upstream uses two of them side by side and peers compare neither: `gethostname()` in components and metrics,
//! `socket.getfqdn()` in launcher and builder ids. The second is looked up as Python does it: the host name's first
//! address, that address' names, the first one with a dot. Nothing here fails: a machine without a resolver gets its
//! plain host name, as in Python.

use std::{
    fs, io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, ToSocketAddrs},
};

use tokio::net::UdpSocket;

/// `gethostname()`; `localhost` where the kernel gives none.
pub fn hostname() -> String {
    nix::unistd::gethostname()
        .ok()
        .map(|name| name.to_string_lossy().into_owned())
        .filter(|name| !name.is_empty())
        .unwrap_or_else(|| "localhost".to_owned())
}

/// Python's `socket.getfqdn()`. Asks the resolver: call it once, at start, where blocking is allowed.
pub fn fqdn() -> String {
    let name = hostname();
    let Some(address) = (name.as_str(), 0).to_socket_addrs().ok().and_then(|mut found| found.next()) else {
        return name;
    };
    let hosts = fs::read_to_string("/etc/hosts").unwrap_or_default();
    let names = names_in_hosts_file(&hosts, address.ip()).or_else(|| reverse_lookup(address.ip()));
    names.and_then(|names| qualified(&names)).unwrap_or(name)
}

/// The address of this host from which it would reach another one. Nothing is sent. An error: the name has no address, or there
/// is no way there.
pub async fn address_towards(host: &str, port: u16) -> io::Result<IpAddr> {
    let mut failure = io::Error::from(io::ErrorKind::AddrNotAvailable);
    for there in tokio::net::lookup_host((host, port)).await? {
        let any: IpAddr = if there.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
        let socket = UdpSocket::bind((any, 0)).await?;
        match socket.connect(there).await.and_then(|()| socket.local_addr()) {
            Ok(here) => return Ok(here.ip()),
            Err(error) => failure = error,
        }
    }
    Err(failure)
}

/// This process' id.
pub fn pid() -> u32 {
    std::process::id()
}

/// The first name with a dot; failing that the canonical one, which stands first.
fn qualified(names: &[String]) -> Option<String> {
    names.iter().find(|name| name.contains('.')).or(names.first()).cloned()
}

/// The names of the first line of a hosts file for that address: glibc's `gethostbyaddr` with `files` first.
fn names_in_hosts_file(hosts: &str, address: IpAddr) -> Option<Vec<String>> {
    hosts.lines().find_map(|line| {
        let mut words = line.split('#').next().unwrap_or_default().split_whitespace();
        (words.next()?.parse() == Ok(address)).then(|| words.map(str::to_owned).collect())
    })
}

/// The resolver's name for an address. It has no aliases to offer.
fn reverse_lookup(address: IpAddr) -> Option<Vec<String>> {
    let name = dns_lookup::lookup_addr(&address).ok()?;
    // The lookup answers with the address itself where it has no name.
    name.parse::<IpAddr>().is_err().then(|| vec![name])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_way_to_a_host_says_from_which_address_it_is_reached() {
        assert_eq!(address_towards("127.0.0.1", 2181).await.unwrap(), Ipv4Addr::LOCALHOST);
        assert!(address_towards("", 2181).await.is_err());
    }

    #[test]
    fn the_first_name_with_a_dot_is_the_qualified_one() {
        let hosts =
            "127.0.0.1 localhost\n# 10.0.0.5 not.this\n10.0.0.5\tlauncher launcher.example.org other.example # x\n";
        let names = names_in_hosts_file(hosts, "10.0.0.5".parse().unwrap()).unwrap();
        assert_eq!(qualified(&names).as_deref(), Some("launcher.example.org"));
    }

    #[test]
    fn a_host_without_a_qualified_name_keeps_its_short_one() {
        let names = names_in_hosts_file("10.0.0.5 nodepool-launcher-7c9d\n", "10.0.0.5".parse().unwrap()).unwrap();
        assert_eq!(qualified(&names).as_deref(), Some("nodepool-launcher-7c9d"));
        assert_eq!(names_in_hosts_file("", "10.0.0.5".parse().unwrap()), None);
    }

    #[test]
    fn this_machine_has_names() {
        assert!(!hostname().is_empty());
        assert!(!fqdn().is_empty());
    }
}
