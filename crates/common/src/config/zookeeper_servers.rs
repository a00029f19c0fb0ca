//! `zookeeper-servers` (config.md 3): names and addresses, each with its port.
//!
//! Upstream glues `host`, `port` and `chroot` together and hands the text to kazoo, which finds something else in it where
//! `host` is more than a host. Daemons take what is meant, with a warning; `config-validate` has an error for it.

use super::{
    ZooKeeperServer,
    advice::Level,
    fields::Fields,
    report::Report,
    yaml::{Mark, Node},
};

/// kazoo's port for a host that has none.
const KAZOOS_PORT: u16 = 2181;

/// Reads `zookeeper-servers`.
pub fn read(report: &Report, top: &Fields<'_>) -> Vec<ZooKeeperServer> {
    let mut servers = Vec::new();
    let mut chroots: Vec<(String, Mark)> = Vec::new();
    for node in top.list("zookeeper-servers") {
        let Some(fields) = Fields::item(report, node, "one of `zookeeper-servers`", "host") else { continue };
        let fields = fields.on(Level::ZooKeeperServer);
        let host = fields.required_text("host");
        let port = fields.port("port");
        let chroot = fields.filled("chroot");
        if let Some(chroot) = &chroot {
            check_chroot(report, fields.at_key("chroot"), chroot);
            chroots.push((chroot.trim_matches('/').to_owned(), fields.at_key("chroot")));
        }
        if let Some(host) = host {
            for (host, port) in hosts(report, fields.at_key("host"), &host, port) {
                servers.push(ZooKeeperServer { host, port: port.unwrap_or(2281), chroot: chroot.clone() });
            }
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

/// Warns that there is nobody to connect to, in a file that has something to do. An empty one says nothing: it is what a
/// site begins with whose other half comes from elsewhere.
pub fn check_that_there_are(report: &Report, root: &Node, servers: &[ZooKeeperServer]) {
    let has_work = |key: &str| root.get(key).and_then(|node| node.items()).is_some_and(|items| !items.is_empty());
    let is_unusable = root.get("zookeeper-servers").is_some_and(|node| {
        !node.is_null() && node.items().is_none_or(|items| !items.is_empty()) // and that was reported
    });
    if report.strict()
        && !report.keeps_keys()
        && servers.is_empty()
        && !is_unusable
        && ["providers", "diskimages"].into_iter().any(has_work)
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

/// The hosts that a `host` names, each with its port; `None`: the default.
fn hosts(report: &Report, at: Mark, text: &str, port: Option<u16>) -> Vec<(String, Option<u16>)> {
    let text = text.trim();
    if let Some((_, rest)) = text.split_once("://") {
        let meant = rest.split(['/', '?', '#']).next().unwrap_or_default();
        let message = format!("ZooKeeper's `host` is `{text}`: it must be a name or an address, not a URL");
        report.lapse(at, message, Some(told(meant, port)));
        return vec![bare(meant, port)];
    }
    if text.contains(',') {
        let message = format!("ZooKeeper's `host` is `{text}`: each server is an item of its own");
        let items: Vec<_> = text.split(',').map(str::trim).filter(|host| !host.is_empty()).collect();
        let help = items.iter().map(|host| format!("`- host: {host}`")).collect::<Vec<_>>().join(", ");
        report.lapse(at, message, Some(format!("write {help}, each with its `port`")));
        let last = items.len().saturating_sub(1);
        // The port is glued to the last one, and kazoo has one of its own for the others.
        let port_of = |index| if index == last { port } else { Some(KAZOOS_PORT) };
        return items
            .into_iter()
            .enumerate()
            .map(|(index, host)| bare(host, inside(host).or(port_of(index))))
            .collect();
    }
    if inside(text).is_some() {
        let message = format!("ZooKeeper's `host` is `{text}`: the port is a key of its own");
        report.lapse(at, message, Some(told(text, port)));
    } else if text.contains(|c: char| c.is_whitespace() || "/@?#".contains(c)) {
        let message = format!("ZooKeeper's `host` is `{text}`, which is neither a host's name nor an address");
        report.lapse(at, message, Some("write the name alone, as `zk1.example.com`".to_owned()));
    }
    vec![bare(text, port)]
}

/// What to write for a host, and for the port within it.
fn told(text: &str, port: Option<u16>) -> String {
    match bare(text, port) {
        (host, Some(port)) => format!("write `host: {host}` and `port: {port}`"),
        (host, None) => format!("write `host: {host}`"),
    }
}

/// A host without its port and its brackets.
fn bare(text: &str, port: Option<u16>) -> (String, Option<u16>) {
    let (name, inside) = host_and_port(text).map_or((text, None), |(name, inside)| (name, Some(inside)));
    let name = name.strip_prefix('[').and_then(|name| name.strip_suffix(']')).unwrap_or(name);
    (name.to_owned(), port.or(inside))
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
