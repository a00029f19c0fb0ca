//! ZooKeeper's servers in one text, as its clients take them and as people write them.

use super::yaml::{Meaning, Node, Value};

/// A server as a text names it.
pub struct Written {
    /// Its name or address, without brackets.
    pub host: String,
    /// `None`: the default.
    pub port: Option<u16>,
    /// `None`: none.
    pub chroot: Option<String>,
}

impl Written {
    /// `{host: zk01, port: 2281, chroot: /x}`; `host: zk01` where that is all.
    fn as_item(&self) -> String {
        let keys = self.keys();
        if keys.len() == 1 { format!("- {}", keys[0]) } else { format!("- {{{}}}", keys.join(", ")) }
    }

    fn keys(&self) -> Vec<String> {
        let port = self.port.map(|port| format!("port: {port}"));
        let chroot = self.chroot.as_ref().map(|chroot| format!("chroot: {chroot}"));
        let address_or_name = if self.host.contains(':') { format!("'{}'", self.host) } else { self.host.clone() };
        [Some(format!("host: {address_or_name}")), port, chroot].into_iter().flatten().collect()
    }
}

/// The servers of a text as clients of ZooKeeper take it, and as people write them: `zk://a:2181,b:2181/chroot`. Empty where
/// there is none in it.
pub fn written(text: &str) -> Vec<Written> {
    let each = text.split(',').map(|server| {
        let address = server.split_once("://").map_or(server, |(_, rest)| rest);
        let address = address.split(['?', '#']).next().unwrap_or_default().trim();
        let (host, chroot) = address.split_once('/').unwrap_or((address, ""));
        let chroot = chroot.trim_matches('/');
        let (host, port) = bare(host);
        Written { host, port, chroot: (!chroot.is_empty()).then(|| format!("/{chroot}")) }
    });
    let mut servers: Vec<_> = each.filter(|server| !server.host.is_empty()).collect();
    // Behind the last one it is that of all.
    if let Some(chroot) = servers.last().and_then(|last| last.chroot.clone()) {
        for server in &mut servers {
            server.chroot.get_or_insert_with(|| chroot.clone());
        }
    }
    servers
}

/// What to write for servers: an item for each.
pub fn as_items(servers: &[Written]) -> String {
    let items: Vec<_> = servers.iter().map(|server| format!("`{}`", server.as_item())).collect();
    match items.as_slice() {
        [] => "write `- host: zk1.example.com`, the name of your server".to_owned(),
        [item] => format!("write {item}"),
        items => format!("write one item for each server: {}", items.join(", ")),
    }
}

/// How to write servers that are no list.
pub fn as_list(node: &Node) -> Option<String> {
    match &node.value {
        Value::Scalar(Meaning::Text, text) => Some(as_items(&written(text))),
        Value::Map(_) => keyed_by_host(node).or_else(|| several(node)),
        _ => None,
    }
}

/// What to write for `zk01: 2281`, which is a key with a value, and not a host with a port.
pub fn keyed_by_host(node: &Node) -> Option<String> {
    let of = |(key, value): &(std::rc::Rc<Node>, std::rc::Rc<Node>)| {
        let host = key.as_text().filter(|key| !matches!(*key, "host" | "port" | "chroot"))?;
        let Value::Scalar(Meaning::Int(port), _) = value.value else { return None };
        let port = u16::try_from(port).ok().filter(|port| *port != 0)?;
        Some(Written { host: host.to_owned(), port: Some(port), chroot: None })
    };
    let servers: Option<Vec<_>> = node.entries()?.iter().map(of).collect();
    servers.filter(|servers| !servers.is_empty()).map(|servers| as_items(&servers))
}

/// What to write for `host: [a, b]` and `hosts: [a, b]`.
pub fn several(node: &Node) -> Option<String> {
    let hosts = ["host", "hosts"].into_iter().find_map(|key| node.get(key)?.items())?;
    let port = node.get("port").and_then(|port| match port.value {
        Value::Scalar(Meaning::Int(port), _) => u16::try_from(port).ok(),
        _ => None,
    });
    let beside = node.get("chroot").and_then(|chroot| chroot.as_text()).map(str::to_owned);
    let servers = hosts.iter().filter_map(|host| host.as_text()).flat_map(written).map(|server| Written {
        port: server.port.or(port),
        chroot: server.chroot.or_else(|| beside.clone()),
        ..server
    });
    let servers: Vec<_> = servers.collect();
    (!servers.is_empty()).then(|| as_items(&servers))
}

/// `host: zk01`, `port: 2281` and `chroot: /x`.
pub fn as_keys(server: &Written) -> String {
    let keys: Vec<_> = server.keys().into_iter().map(|key| format!("`{key}`")).collect();
    match keys.split_last() {
        Some((last, first)) if !first.is_empty() => format!("{} and {last}", first.join(", ")),
        _ => keys.join(""),
    }
}

/// A host without its port and its brackets.
fn bare(text: &str) -> (String, Option<u16>) {
    let (name, port) = host_and_port(text).map_or((text, None), |(name, port)| (name, Some(port)));
    let name = name.strip_prefix('[').and_then(|name| name.strip_suffix(']')).unwrap_or(name);
    (name.to_owned(), port)
}

/// The port that stands within a host.
pub fn inside(text: &str) -> Option<u16> {
    host_and_port(text).map(|(_, port)| port)
}

/// `NAME:PORT` or `[ADDRESS]:PORT`; not an IPv6 address, which has more colons.
fn host_and_port(host: &str) -> Option<(&str, u16)> {
    let (name, port) = host.rsplit_once(':')?;
    let bare = name.strip_prefix('[').and_then(|name| name.strip_suffix(']'));
    let port = port.parse().ok().filter(|port| *port != 0)?;
    (bare.is_some() || !name.contains(':')).then(|| (bare.unwrap_or(name), port))
}
