//! `zookeeper-servers`: names and addresses, each with its port.
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
    zookeeper_texts::{Written, as_items, as_keys, inside, keyed_by_host, several, written},
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
        let help = "add `zookeeper-servers: [{host: NAME, port: 2181}]`, unless the secure file has them, or another file that this one becomes a part of";
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

/// How to write an item that is no mapping.
fn as_item(node: &Node) -> String {
    match &node.value {
        Value::Scalar(Meaning::Text, text) if !text.starts_with("host ") && !text.starts_with("host:") => {
            as_items(&written(text))
        }
        _ => shapes::as_item("host", node),
    }
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
