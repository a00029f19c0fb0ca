//! A host's name or address, with what people write around it: `ssh://root@host1:2222`.
//!
//! Upstream takes any text, looks for a host of that name, and never finds it.

use super::fields::Fields;

/// The keys that say where a host is.
pub struct Keys {
    /// Its name or address.
    pub host: &'static str,
    /// Its port.
    pub port: &'static str,
}

/// Tells of a name with more in it than the address of the host, which nobody finds.
pub fn check(fields: &Fields<'_>, keys: &Keys, name: &str) {
    let (scheme, rest) = name.split_once("://").map_or((None, name), |(scheme, rest)| (Some(scheme), rest));
    let (user, rest) = rest.rsplit_once('@').map_or((None, rest), |(user, rest)| (Some(user), rest));
    let rest = rest.trim_end_matches('/');
    let (host, port) = match rest.rsplit_once(':') {
        Some((host, port)) if host.ends_with(']') || !host.contains(':') => (host, Some(port)),
        _ => (rest, None),
    };
    let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    let problem = if scheme.is_some() {
        "is a URL"
    } else if user.is_some() {
        "has a user in it"
    } else if port.is_some() {
        "has a port in it"
    } else if host.contains('/') || name.trim().contains(char::is_whitespace) {
        "is neither a name nor an address"
    } else if host != name {
        "has brackets around the address"
    } else {
        return;
    };
    let message = format!(
        "{}: its `{}` {problem}, and it must be the host's name or address alone: nobody finds the host",
        fields.what, keys.host
    );
    let port = port.filter(|port| port.parse::<u16>().is_ok_and(|port| port != 0));
    let plain = |text: &str| !text.is_empty() && !text.contains(|c: char| c.is_whitespace() || "/@".contains(c));
    let mut write = vec![format!("`{}: {host}`", keys.host)];
    write.extend(port.map(|port| format!("`{}: {port}`", keys.port)));
    write.extend(
        user.filter(|user| plain(user)).map(|user| format!("`username: {}`", user.split(':').next().unwrap_or(user))),
    );
    let last = write.pop().unwrap_or_default();
    let help = match write.as_slice() {
        _ if !plain(host) => "write it as `host1.example.com` or `192.0.2.1`".to_owned(),
        [] => format!("write {last}"),
        first => format!("write {} and {last}", first.join(", ")),
    };
    fields.report().lapse(fields.at_key(keys.host), message, Some(help));
}
