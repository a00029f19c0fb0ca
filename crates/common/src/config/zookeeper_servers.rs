//! `zookeeper-servers` (config.md 3): names and addresses, each with its port.
//!
//! Upstream glues `host`, `port` and `chroot` together and hands the text to kazoo, which finds something else in it where
//! `host` is more than a host. Daemons take what is meant, with a warning; `config-validate` has an error for it.

use super::{
    ZooKeeperServer,
    advice::Level,
    fields::Fields,
    report::Report,
    shapes,
    yaml::{Mark, Meaning, Node, Value},
};

/// kazoo's port for a host that has none.
const KAZOOS_PORT: u16 = 2181;

/// Reads `zookeeper-servers`.
pub fn read(report: &Report, top: &Fields<'_>) -> Vec<ZooKeeperServer> {
    let mut servers = Vec::new();
    let mut chroots: Vec<(String, Mark)> = Vec::new();
    for node in top.list("zookeeper-servers") {
        let what = "one of `zookeeper-servers`";
        if let Some(help) = keyed_by_host(node) {
            report.error(node.at, format!("{what} has no `host`, but a host in the place of a key"), Some(help));
            continue;
        }
        if let Some(servers) = several(node) {
            report.error(
                node.at,
                format!("{what} has a list of hosts: each server is an item of its own"),
                Some(servers),
            );
            continue;
        }
        let Some(fields) = Fields::or_help(report, node, what, as_item) else { continue };
        let fields = fields.on(Level::ZooKeeperServer);
        let host = fields.required_text("host");
        let (port, chroot) = (fields.port("port"), fields.filled("chroot"));
        if let Some(chroot) = &chroot {
            check_chroot(report, fields.at_key("chroot"), chroot);
            chroots.push((chroot.trim_matches('/').to_owned(), fields.at_key("chroot")));
        }
        if let Some(host) = host {
            let found = hosts(report, fields.at_key("host"), &host, port, chroot.as_deref());
            servers.extend(found.into_iter().map(|server| ZooKeeperServer {
                host: server.host,
                port: server.port.unwrap_or(2281),
                chroot: server.chroot,
            }));
        }
        fields.finish();
    }
    if let Some(((first, _), (other, at))) =
        chroots.first().and_then(|first| Some((first, chroots.iter().find(|other| other.0 != first.0)?)))
        && report.strict()
    {
        let message = format!("ZooKeeper's `chroot` is `/{first}` at one server and `/{other}` at this one");
        let help = "the servers are one ensemble and have the same `chroot`";
        report.error(*at, message, Some(help.to_owned()));
    }
    servers
}

/// Warns that there is nobody to connect to, in a file that has something to do or whose list has nothing in it. A file without
/// both is what a site begins with whose other half comes from elsewhere.
pub fn check_that_there_are(report: &Report, top: &Fields<'_>, root: &Node, servers: &[ZooKeeperServer]) {
    let has_work = |key: &str| root.get(key).and_then(|node| node.items()).is_some_and(|items| !items.is_empty());
    let is_unusable = root.get("zookeeper-servers").is_some_and(|node| {
        !node.is_null() && node.items().is_none_or(|items| !items.is_empty()) // and that was reported
    });
    let is_empty = root.get("zookeeper-servers").and_then(|node| node.items()).is_some_and(<[_]>::is_empty);
    if report.strict()
        && !report.keeps_keys()
        && servers.is_empty()
        && !is_unusable
        && top.misspelt("zookeeper-servers").is_none()
        && (["providers", "diskimages"].into_iter().any(has_work) || is_empty)
    {
        let at = root.get("zookeeper-servers").map_or(root.at, |node| node.at);
        let message = "there are no `zookeeper-servers`: with this file alone neither launcher nor builder starts";
        let help = "add them, unless the secure file has them, or another file that this one becomes a part of";
        report.warning(at, message, Some(help.to_owned()));
    }
}

fn check_chroot(report: &Report, at: Mark, chroot: &str) {
    if !chroot.starts_with('/') {
        // Upstream glues it to the port, where it can only fail; kazoo reads `host:2281` + `test` as a bad port.
        let message = format!("ZooKeeper's `chroot` `{chroot}` does not begin with a slash");
        report.warning(at, message, Some(format!("write `/{chroot}`")));
    }
}

/// A server as a text names it.
struct Written {
    host: String,
    /// `None`: the default.
    port: Option<u16>,
    chroot: Option<String>,
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
fn written(text: &str) -> Vec<Written> {
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

fn as_items(servers: &[Written]) -> String {
    let items: Vec<_> = servers.iter().map(|server| format!("`{}`", server.as_item())).collect();
    match items.as_slice() {
        [] => "write `- host: zk1.example.com`, the name of your server".to_owned(),
        [item] => format!("write {item}"),
        items => format!("write one item for each server: {}", items.join(", ")),
    }
}

/// How to write an item that is no mapping.
fn as_item(node: &Node) -> String {
    match &node.value {
        Value::Scalar(Meaning::Text, text) if !text.starts_with("host ") && !text.starts_with("host:") => {
            as_items(&written(text))
        }
        _ => shapes::as_item("host", node),
    }
}

/// How to write servers that are no list.
pub fn as_list(node: &Node) -> Option<String> {
    match &node.value {
        Value::Scalar(Meaning::Text, text) => Some(as_items(&written(text))),
        Value::Map(_) => keyed_by_host(node),
        _ => None,
    }
}

/// What to write for `zk01: 2281`, which is a key with a value, and not a host with a port.
fn keyed_by_host(node: &Node) -> Option<String> {
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
fn several(node: &Node) -> Option<String> {
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

/// The servers that a `host` names. `port` and `chroot`: what stands beside it.
fn hosts(report: &Report, at: Mark, text: &str, port: Option<u16>, chroot: Option<&str>) -> Vec<Written> {
    let text = text.trim();
    let beside = |server: Written| Written {
        host: server.host,
        port: port.or(server.port),
        chroot: chroot.map(str::to_owned).or(server.chroot),
    };
    let mut servers = written(text);
    let lapse = |message: &str, help: String| {
        report.lapse(at, format!("ZooKeeper's `host` is `{text}`: {message}"), Some(help));
    };
    if servers.len() > 1 {
        let last = servers.len() - 1;
        for (index, server) in servers.iter_mut().enumerate() {
            // The port is glued to the last one, and kazoo has one of its own for the others.
            let meant = if index == last { port } else { Some(KAZOOS_PORT) };
            server.port = server.port.or(meant);
            server.chroot = chroot.map(str::to_owned).or_else(|| server.chroot.take());
        }
        lapse("each server is an item of its own", as_items(&servers));
        return servers;
    }
    let told = |server: &Written| format!("write {}", as_keys(server));
    let is_odd = |c: char| c.is_whitespace() || "/@?#$<>{}".contains(c);
    let Some(server) = servers.pop().filter(|server| !server.host.contains(is_odd)) else {
        let message = format!("ZooKeeper's `host` is `{text}`, which is neither a host's name nor an address");
        report.lapse(at, message, Some("write the name alone, as `zk1.example.com`".to_owned()));
        return vec![Written { host: text.to_owned(), port, chroot: chroot.map(str::to_owned) }];
    };
    let server = beside(server);
    if text.contains("://") {
        lapse("it must be a name or an address, not a URL", told(&server));
    } else if text.contains(['/', '?', '#']) {
        lapse("a path is a key of its own", told(&server));
    } else if inside(text).is_some() {
        lapse("the port is a key of its own", told(&server));
    }
    vec![server]
}

/// `host: zk01`, `port: 2281` and `chroot: /x`.
fn as_keys(server: &Written) -> String {
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

fn inside(text: &str) -> Option<u16> {
    host_and_port(text).map(|(_, port)| port)
}

/// `NAME:PORT` or `[ADDRESS]:PORT`; not an IPv6 address, which has more colons.
fn host_and_port(host: &str) -> Option<(&str, u16)> {
    let (name, port) = host.rsplit_once(':')?;
    let bare = name.strip_prefix('[').and_then(|name| name.strip_suffix(']'));
    let port = port.parse().ok().filter(|port| *port != 0)?;
    (bare.is_some() || !name.contains(':')).then(|| (bare.unwrap_or(name), port))
}
