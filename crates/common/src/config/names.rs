//! Names that are hardly what was meant, and those that ZooKeeper has no place for.

use super::{
    report::Report,
    yaml::{self, Mark},
};

/// A name as it is shown: control characters, which would break the line, and what nobody sees by their escapes.
pub fn shown(name: &str) -> String {
    name.chars().fold(String::with_capacity(name.len()), |mut text, c| {
        if c.is_control() {
            text.extend(c.escape_default());
        } else if yaml::is_invisible(c) {
            text.extend(c.escape_unicode());
        } else {
            text.push(c);
        }
        text
    })
}

/// Warns of a name with a blank at an end, or with a line break or another control character: whoever asks for it elsewhere
/// hardly writes it so.
/// `what`: whose name it is; `at`: where it stands.
pub fn check(report: &Report, at: Mark, what: &str, name: &str) {
    let unquoted = name.trim_matches(['"', '\'']);
    if unquoted.len() + 1 == name.len() && !unquoted.is_empty() {
        let message = format!("{what}: its name has a quote at one end, which is a part of it");
        report.warning(at, message, Some(format!("write `name: {}`", shown(unquoted))));
        return;
    }
    let meant = name.trim();
    let problem = if meant.is_empty() {
        "is nothing but blanks"
    } else if meant.chars().any(char::is_control) {
        "has a line break or another control character"
    } else if meant != name {
        "has a blank or a line break at an end, which is a part of it"
    } else {
        return;
    };
    let help = (!meant.is_empty() && !meant.chars().any(char::is_control)).then(|| format!("write `name: {meant}`"));
    let help = help.unwrap_or_else(|| "give it another name, here and where it is named".to_owned());
    report.warning(at, format!("{what}: its name {problem}"), Some(help));
}

/// The names of the fields that Python's `str.format` fills in; or the brace that has no other.
pub fn within_braces(format: &str) -> Result<Vec<String>, char> {
    let mut names = Vec::new();
    let mut rest = format;
    while let Some(at) = rest.find(['{', '}']) {
        let (brace, after) = rest[at..].split_at(1);
        if let Some(after) = after.strip_prefix(brace) {
            rest = after; // one that is meant as such
        } else if brace == "}" {
            return Err('}');
        } else {
            let (field, after) = after.split_once('}').ok_or('{')?;
            names.push(field.split(['!', ':', '.', '[']).next().unwrap_or_default().to_owned());
            rest = after;
        }
    }
    Ok(names)
}

/// Whether ZooKeeper can have a node of that name; the names of providers and images are parts of its paths.
pub fn is_part_of_a_path(name: &str) -> bool {
    !matches!(name, "" | "." | "..") && !name.contains(|c: char| c == '/' || c.is_control())
}

/// Says of a provider that its uploads cannot be kept under its name, which upstream writes and never finds again, so that it
/// uploads in each pass; whether it is so. Nothing but uploads is kept under it.
pub fn cannot_have_uploads(report: &Report, at: Mark, what: &str, name: &str, has_images: bool) -> bool {
    if is_part_of_a_path(name) {
        return false;
    }
    let message = format!("{what}: its name cannot be a part of a path in ZooKeeper, where its images are kept");
    let help = "call it by letters, digits, dots and dashes, without `/`";
    report.note(report.strict() && has_images, at, message, Some(help.to_owned()));
    true
}

/// Tells of the second of two things of one name, of which it is the one that counts. `lost`: what of the first is lost by that,
/// which daemons go on without, as upstream's, and config-validate does not accept.
pub fn defined_twice(report: &Report, at: Mark, what: &str, first: Mark, lost: Option<&str>) {
    let message = format!("{what} is defined twice; this one counts{}", lost.unwrap_or_default());
    let help = format!("the first is at {}; write both as one, or give one of them another name", report.place(first));
    report.note(report.strict() && lost.is_some(), at, message, Some(help));
}

/// Names for a message, not more than a few of them; empty where there is none.
pub fn listed<'n>(names: impl Iterator<Item = &'n str>) -> String {
    const MOST: usize = 5;
    let mut listed: Vec<_> = names.take(MOST + 1).map(|name| format!("`{}`", shown(name))).collect();
    if listed.len() > MOST {
        listed.truncate(MOST);
        listed.push("others".to_owned());
    }
    listed.join(", ")
}

/// That name, or the first of `NAME-2`, `NAME-3` and so on that nobody has.
pub fn free(name: &str, is_taken: impl Fn(&str) -> bool) -> String {
    let mut free = name.to_owned();
    for number in 2_u32.. {
        if !is_taken(&free) {
            break;
        }
        free = format!("{name}-{number}");
    }
    free
}
