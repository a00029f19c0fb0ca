//! Names that a Kubernetes API takes, and those that it refuses.
//!
//! What we make carries the names of provider, pool and label as the values of labels, and some of them as names of
//! objects. The API's rules (Kubernetes: "Object Names and IDs", "Labels and Selectors") are the same in all versions, so
//! that what it would refuse at each launch can be told from the file alone.

use indexmap::IndexMap;

/// The longest label value, DNS label and last part of a key.
const LONGEST: usize = 63;
/// The longest DNS subdomain.
const LONGEST_SUBDOMAIN: usize = 253;
/// `-` and a node's number, as it stands behind a name.
pub const NODE_SUFFIX: usize = 11;
/// All annotations of an object together, in bytes.
const MOST_ANNOTATIONS: usize = 256 * 1024;

const fn is_lower(c: char) -> bool {
    c.is_ascii_lowercase() || c.is_ascii_digit()
}

/// Why a text is no DNS label (RFC 1123): the name of a namespace or a container. `room`: for what is put behind it.
pub fn dns_label(text: &str, room: usize) -> Option<String> {
    let most = LONGEST - room;
    if text.len() > most {
        return Some(format!("it is longer than {most} characters"));
    }
    let fits = text.chars().all(|c| is_lower(c) || c == '-') && has_ends(text, is_lower);
    (!fits).then(|| {
        "it may have lower-case letters, digits and `-`, and must begin and end with a letter or a digit".to_owned()
    })
}

/// Why a text is no DNS subdomain (RFC 1123): the name of a pod. `room`: for what is put behind it.
pub fn dns_subdomain(text: &str, room: usize) -> Option<String> {
    let most = LONGEST_SUBDOMAIN - room;
    if text.len() > most {
        return Some(format!("it is longer than {most} characters"));
    }
    let is_part = |part: &str| part.chars().all(|c| is_lower(c) || c == '-') && has_ends(part, is_lower);
    (!text.split('.').all(is_part)).then(|| {
        "it may have lower-case letters, digits, `-` and `.`, and each part must begin and end with a letter or a digit"
            .to_owned()
    })
}

/// Why a text cannot be the value of a label.
pub fn label_value(text: &str) -> Option<String> {
    if text.is_empty() {
        return None;
    }
    qualified(text)
}

/// Why a text cannot be the key of a label or an annotation: `[PREFIX/]NAME`.
fn key(text: &str) -> Option<String> {
    let (prefix, name) = text.split_once('/').map_or((None, text), |(prefix, name)| (Some(prefix), name));
    prefix
        .and_then(|prefix| dns_subdomain(prefix, 0))
        .map(|why| format!("what stands before `/` is no domain: {why}"))
        .or_else(|| qualified(name))
}

fn qualified(text: &str) -> Option<String> {
    if text.len() > LONGEST {
        return Some(format!("it is longer than {LONGEST} characters"));
    }
    let is_end = |c: char| c.is_ascii_alphanumeric();
    let fits = text.chars().all(|c| is_end(c) || matches!(c, '-' | '_' | '.')) && has_ends(text, is_end);
    (!fits).then(|| {
        "it may have letters, digits, `-`, `_` and `.`, and must begin and end with a letter or a digit".to_owned()
    })
}

fn has_ends(text: &str, is_end: impl Fn(char) -> bool) -> bool {
    text.starts_with(&is_end) && text.ends_with(&is_end)
}

/// What is wrong with a label or an annotation.
#[derive(Debug)]
pub struct Refused {
    /// Which.
    pub key: String,
    /// Whether it is the key that is wrong, not the value.
    pub is_key: bool,
    /// For people.
    pub message: String,
}

/// What is wrong with the labels of an object. `are_formats`: their values are made at each launch, and
/// only those that have nothing to be filled in are known.
pub fn labels(labels: &IndexMap<String, String>, are_formats: bool) -> Vec<Refused> {
    let mut wrong = Vec::new();
    for (name, value) in labels {
        if let Some(why) = key(name) {
            let message = format!("the key `{name}` cannot be that of a label: {why}");
            wrong.push(Refused { key: name.clone(), is_key: true, message });
        } else if !(are_formats && value.contains(['{', '}']))
            && let Some(why) = label_value(value)
        {
            let message = format!("`{value}` cannot be the value of the label `{name}`: {why}");
            wrong.push(Refused { key: name.clone(), is_key: false, message });
        }
    }
    wrong
}

/// What is wrong with the annotations of an object.
pub fn annotations(annotations: &IndexMap<String, String>) -> Vec<Refused> {
    let bad = annotations.keys().filter_map(|name| {
        let why = key(&name.to_lowercase())?;
        let message = format!("the key `{name}` cannot be that of an annotation: {why}");
        Some(Refused { key: name.clone(), is_key: true, message })
    });
    let mut wrong: Vec<_> = bad.collect();
    let size: usize = annotations.iter().map(|(key, value)| key.len() + value.len()).sum();
    if size > MOST_ANNOTATIONS
        && let Some((first, _)) = annotations.first()
    {
        let message =
            format!("annotations of {size} bytes are more than the {MOST_ANNOTATIONS} that an object may have");
        wrong.push(Refused { key: first.clone(), is_key: false, message });
    }
    wrong
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_judged_as_the_api_judges_them() {
        let long = "a".repeat(64);
        for good in ["a", "a-b", "0a"] {
            assert_eq!(dns_label(good, 0), None, "{good}");
        }
        for bad in ["", "A", "a_b", "a.b", "-a", "a-", long.as_str()] {
            assert!(dns_label(bad, 0).is_some(), "{bad}");
        }
        assert!(dns_label(&long[..53], NODE_SUFFIX).is_some_and(|why| why.contains("longer than 52")));
        for (text, fits) in [("rocky-9.4", true), ("a..b", false), ("a.-b", false), ("a.b-", false), ("A.b", false)] {
            assert_eq!(dns_subdomain(text, 0).is_none(), fits, "{text}");
        }
        for (text, fits) in [("", true), ("Pod_Fedora", true), ("a b", false), ("_a", false), (long.as_str(), false)] {
            assert_eq!(label_value(text).is_none(), fits, "{text}");
        }
    }

    #[test]
    fn keys_of_labels_and_annotations_may_have_a_domain() {
        let of = |pairs: &[(&str, &str)]| pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        assert!(labels(&of(&[("example.com/team", "ci"), ("Team_2", "")]), false).is_empty());
        for (name, value) in [("", "a"), ("a b", "a"), ("Example/a", "a"), ("/a", "a"), ("a/", "a"), ("a", "b c")] {
            assert_eq!(labels(&of(&[(name, value)]), false).len(), 1, "{name:?} {value:?}");
        }
        assert!(labels(&of(&[("tenant", "{request.tenant_name}")]), true).is_empty());
        assert_eq!(labels(&of(&[("tenant", "a b")]), true).len(), 1);
        assert!(annotations(&of(&[("example.com/Why", "any text: at all\n")])).is_empty());
        assert_eq!(annotations(&of(&[("why not", "")])).len(), 1);
        assert_eq!(annotations(&of(&[("a", &"x".repeat(MOST_ANNOTATIONS))])).len(), 1);
    }
}
