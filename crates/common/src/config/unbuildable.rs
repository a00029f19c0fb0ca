//! Diskimages of which no build can come.
//!
//! What a build does is the business of `dib-cmd`, which may be any program; so these are warnings. An image of which a file
//! says little more than its name is one that another file says how to build: launchers need no more.

use std::path::Path;

use super::{
    Diskimage,
    advice::suggest,
    fields::Fields,
    formats::FORMATS,
    report::Report,
    unserved::{items, text},
    yaml::{Mark, Node},
};

/// What launchers read of a diskimage.
const OF_LAUNCHERS: [&str; 4] = ["name", "username", "python-path", "shell-type"];

/// Warns of a format that nobody knows.
pub fn check_format(report: &Report, at: Mark, what: &str, key: &str, format: &str) {
    if !FORMATS.contains(&format) {
        let message = format!("{what}: `{format}` in `{key}` is no format that disk-image-create or a cloud knows");
        let help = suggest(format, FORMATS.into_iter()).map_or_else(
            || {
                "write one of these: raw, qcow2, vhd, vmdk, tar; or leave it where `dib-cmd` makes files of that kind"
                    .to_owned()
            },
            |meant| format!("did you mean `{meant}`?"),
        );
        report.warning(at, message, Some(help));
    }
}

/// Tells of a `dib-cmd` that cannot be split into words, which makes each build fail.
pub fn check_command(report: &Report, image: &Fields<'_>, command: &str) {
    if shlex::split(command).is_none() {
        let message = format!("{}: `dib-cmd` has a quote without its end: {command}", image.what);
        report.lapse(image.at_key("dib-cmd"), message, Some("write the quote at its end, too".to_owned()));
    }
}

/// Whether a file says how an image is built.
pub fn is_described(image: &Node) -> bool {
    let entries = image.entries().unwrap_or_default();
    entries.iter().any(|(key, _)| !key.as_text().is_some_and(|key| OF_LAUNCHERS.contains(&key)))
}

/// Warns of an image whose build has nothing to begin with, or to end in. `told`: keys that were reported as unusable.
pub fn check(report: &Report, top: &Fields<'_>, at: Mark, image: &Diskimage, told: &[&str]) {
    let program = shlex::split(&image.dib_cmd).unwrap_or_default();
    let is_bare = match program.as_slice() {
        [program] => Path::new(program).file_name().is_some_and(|name| name == "disk-image-create"),
        _ => false,
    };
    if is_bare && image.ansible.is_none() && image.elements.is_empty() && !told.contains(&"elements") {
        let message =
            format!("diskimage `{}` has no `elements`, and disk-image-create builds nothing without any", image.name);
        let help = "name at least that of its distribution, as `elements: [ubuntu-minimal, vm]`, or a `dib-cmd` that needs none";
        report.warning(at, message, Some(help.to_owned()));
    }
    let name = image.name.as_str();
    if image.formats.is_empty() && !told.contains(&"formats") && !is_listed(top, name) && !is_parent(top, name) {
        let message = format!("diskimage `{name}` is never built: it has no `formats`, and no provider lists it");
        let help = "add it to the `diskimages` of a provider, whose format it then has, or give it `formats`";
        report.warning(at, message, Some(help.to_owned()));
    }
}

fn is_listed(top: &Fields<'_>, image: &str) -> bool {
    let providers = top.raw("providers").and_then(Node::items).unwrap_or_default();
    providers
        .iter()
        .flat_map(|provider| items(provider, "diskimages"))
        .any(|listed| text(listed, "name") == Some(image))
}

fn is_parent(top: &Fields<'_>, image: &str) -> bool {
    let images = top.raw("diskimages").and_then(Node::items).unwrap_or_default();
    images.iter().any(|child| text(child, "parent") == Some(image))
}
