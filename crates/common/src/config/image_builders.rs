//! `image-builders`: the hosts on which images are built by a playbook. Ours; upstream's validator does not know it.

use super::{ImageBuilder, addresses, fields::Fields, python::python_str, report::Report, shapes};

/// Reads `image-builders`.
pub fn image_builders(report: &Report, top: &Fields<'_>) -> Vec<ImageBuilder> {
    let mut builders: Vec<ImageBuilder> = Vec::new();
    // Upstream's daemons ignore the key, so a file may have one of that name and another meaning.
    if let Some(node) = top.get("image-builders").filter(|node| node.items().is_none()) {
        let message =
            format!("{}: `image-builders` must be a list, not {}; the daemons ignore it", top.what, node.describe());
        report.lapse(node.at, message, Some(shapes::as_list("image-builders", node)));
        return builders;
    }
    for node in top.list("image-builders") {
        let Some((fields, name)) = Fields::named(report, node, None, "image-builder") else { continue };
        let builder = ImageBuilder {
            name,
            host: fields.filled("host"),
            port: fields.port("port"),
            username: fields.filled("username"),
            host_keys: host_keys(report, &fields),
            min_free: gibibytes(&fields, "min-free"),
            directory: fields.filled("directory").map(Into::into),
        };
        if let Some(host) = &builder.host {
            addresses::check(&fields, &addresses::Keys { host: "host", port: "port" }, host);
        }
        if builder.host.is_none() && fields.lacks(&["host"]) {
            for key in ["port", "username"] {
                if fields.get(key).is_some() {
                    let help = Some("give `host`, too, or say it in the inventory".to_owned());
                    let message = format!("{}: `{key}` without `host` means nothing", fields.what);
                    report.error(fields.at_key(key), message, help);
                }
            }
        }
        if builders.iter().any(|other| other.name == builder.name) {
            let help = "give it another name, or remove one of the two";
            report.error(fields.at(), format!("{} is defined twice", fields.what), Some(help.to_owned()));
        }
        builders.push(builder);
        fields.finish();
    }
    builders
}

/// A number of GiB, which may have a fraction, as bytes.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // it is not negative, and far below 2^53
pub fn gibibytes(fields: &Fields<'_>, key: &'static str) -> Option<u64> {
    let number = fields.number(key, false)?;
    if !(0.0..=1e6).contains(&number) {
        fields.wrong(fields.at_key(key), key, "must be a number of GiB, at least 0", "write 0 to have nothing checked");
        return None;
    }
    Some((number * f64::from(1 << 30)) as u64)
}

/// `host-keys`, without comments.
fn host_keys(report: &Report, fields: &Fields<'_>) -> Vec<String> {
    let mut keys = Vec::new();
    if let Some(node) = fields.get("host-keys").filter(|node| node.as_text().is_some()) {
        fields.wrong(node.at, "host-keys", "must be a list, not a text", shapes::as_texts("host-keys", node));
        return keys;
    }
    for node in fields.list("host-keys") {
        match python_str(node).as_deref().map(host_key) {
            Some(Ok(key)) => keys.push(key),
            Some(Err(problem)) => {
                let help = Some("write it as /etc/ssh/ssh_host_ed25519_key.pub of that host does".to_owned());
                report.error(node.at, format!("{}: this host key {problem}", fields.what), help);
            }
            None => {
                let message = format!("must be a list of texts, and one of them is {}", node.describe());
                fields.wrong(node.at, "host-keys", message, "write each key as `- TYPE BASE64`");
            }
        }
    }
    keys
}

/// What stands around a key.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Around {
    /// Before it: the hosts of a line of `known_hosts`.
    pub hosts: String,
    /// Behind it: the comment.
    pub comment: String,
}

/// `[HOSTS] TYPE BASE64 [COMMENT]` as `TYPE BASE64` and what stands around it; any other text as it is, and a line of
/// `known_hosts` that begins with a marker, which may revoke the key, too.
pub fn key_within(text: &str) -> (String, Around) {
    let words: Vec<&str> = text.split_whitespace().collect();
    let (hosts, words) = match words.split_first() {
        Some((hosts, rest)) if !is_key_type(hosts) && !hosts.starts_with('@') => (*hosts, rest),
        _ => ("", words.as_slice()),
    };
    match words.split_first_chunk::<2>() {
        Some((key, comment)) if is_key_type(key[0]) && !(hosts.is_empty() && comment.is_empty()) => {
            (key.join(" "), Around { hosts: hosts.to_owned(), comment: comment.join(" ") })
        }
        _ => (text.to_owned(), Around::default()),
    }
}

fn is_key_type(text: &str) -> bool {
    ["ssh-", "ecdsa-", "sk-"].iter().any(|begin| text.starts_with(begin))
}

/// `TYPE BASE64 [COMMENT]`, where the key itself names the same type.
pub fn host_key(text: &str) -> Result<String, String> {
    let mut words = text.split_whitespace();
    let (Some(kind), Some(encoded)) = (words.next(), words.next()) else {
        return Err("is not of two words, its type and the key".to_owned());
    };
    if !is_key_type(kind) {
        return Err(format!("begins with `{kind}`, which is no type of a key"));
    }
    let length = [0, 0, 0, u8::try_from(kind.len()).unwrap_or(0)];
    let begins: Vec<u8> = length.into_iter().chain(kind.bytes()).collect();
    match base64_decoded(encoded) {
        Some(bytes) if bytes.len() > begins.len() && bytes.starts_with(&begins) => Ok(format!("{kind} {encoded}")),
        Some(_) => Err(format!("is not of the type that it names, `{kind}`, or is cut short")),
        None => Err("is no base64: it is cut short or was changed in copying".to_owned()),
    }
}

/// Standard base64 with its padding.
fn base64_decoded(text: &str) -> Option<Vec<u8>> {
    let digits = text.trim_end_matches('=');
    if !text.len().is_multiple_of(4) || text.len() - digits.len() > 2 {
        return None;
    }
    let (mut bytes, mut bits, mut held) = (Vec::with_capacity(text.len() / 4 * 3), 0_u32, 0);
    for digit in digits.bytes() {
        let value = match digit {
            b'A'..=b'Z' => digit - b'A',
            b'a'..=b'z' => digit - b'a' + 26,
            b'0'..=b'9' => digit - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return None,
        };
        bits = bits << 6 | u32::from(value);
        held += 6;
        if held >= 8 {
            held -= 8;
            bytes.push(u8::try_from(bits >> held & 0xff).ok()?);
        }
    }
    Some(bytes)
}
