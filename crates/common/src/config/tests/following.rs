//! Advice that is followed leads on: to a file with one error less, and never back to where it began.

use super::check_bytes;
use crate::config::{ConfigError, Environment};

/// What validation says of a text.
fn errors(text: &str) -> Vec<ConfigError> {
    match check_bytes(text.as_bytes(), &Environment::default()) {
        Ok(_) => Vec::new(),
        Err(errors) => errors.iter().cloned().collect(),
    }
}

/// What a help says to write: within brackets behind `list: `, else the first text within backquotes or quotes.
fn advised(help: &str) -> String {
    if let Some((_, list)) = help.split_once("as a list: ") {
        return list.to_owned();
    }
    if let Some((_, quoted)) = help.split_once("in quotes: ") {
        return quoted.to_owned();
    }
    let number = help
        .rsplit_once("write ")
        .map(|(_, number)| number.split(',').next().unwrap_or_default())
        .filter(|number| number.parse::<f64>().is_ok());
    number.map_or_else(|| help.split('`').nth(1).unwrap_or_default().to_owned(), str::to_owned)
}

/// The value alone where the advice has its key, too.
fn value(advised: &str, key: &str) -> String {
    advised.strip_prefix(&format!("{key}: ")).unwrap_or(advised).to_owned()
}

#[test]
fn a_value_as_advised_is_right_at_once() {
    let label = "labels: [{name: l}]\nproviders:\n- name: o\n  cloud: c\n  cloud-images: [{name: i}]\n  pools:\n  - name: m\n    KEY: VALUE\n    labels:\n    - {name: l, cloud-image: i, min-ram: 1}\n";
    let server = "labels: [{name: l}]\nproviders:\n- name: o\n  cloud: c\n  cloud-images: [{name: i}]\n  pools:\n  - name: m\n    labels:\n    - {name: l, cloud-image: i, KEY: VALUE, flavor-name: x}\n";
    let pod = "labels: [{name: l}]\nproviders:\n- name: k\n  driver: kubernetes\n  pools:\n  - name: m\n    labels:\n    - {name: l, type: pod, image: i, KEY: VALUE}\n";
    let host = "labels: [{name: '9'}]\nproviders:\n- name: s\n  driver: static\n  pools:\n  - name: m\n    nodes:\n    - {name: h, KEY: VALUE}\n";
    let image = "diskimages: [{name: d, formats: [raw], KEY: VALUE}]\n";
    for (file, key, values) in [
        (image, "elements", &["5", "vm", "'vm, 9'", "yes", "{vm: }", "1.10", "2024-01-01"][..]),
        (image, "formats", &["raw", "qcow", "[raw, 5]"]),
        (image, "release", &["[21]", "{name: x}", "[jammy]"]),
        (image, "username", &["5", "[root]", "yes", "0x1", "1:30"]),
        (image, "env-vars", &["A=b", "[A=b]", "[{name: A, value: b}]"]),
        (image, "metadata", &["a=b", "[a=b]", "[{a: b}]"]),
        (image, "rebuild-age", &["1d", "'60'", "1.0"]),
        (image, "dib-cmd", &["[a, b]", "5"]),
        (label, "networks", &["10", "private", "private net", "{name: a}", "[5]", "[{name: a}]", "1e3"]),
        (label, "availability-zones", &["nova", "[1]"]),
        (label, "max-servers", &["'5'", "5.0"]),
        (server, "key-name", &["5", "[a]"]),
        (server, "instance-properties", &["a=b", "[a: b]", "[{name: a, value: b}]"]),
        (server, "boot-from-volume", &["'yes'"]),
        (pod, "labels", &["a=b", "[a=b]", "[{name: a, value: b}]"]),
        (pod, "node-selector", &["a=b", "[a: b]"]),
        (pod, "memory", &["512Mi", "'5'"]),
        (host, "labels", &["9", "[9]", "[{name: '9'}]"]),
    ] {
        for written in values {
            let mut value_of_key = (*written).to_owned();
            let mut seen = vec![value_of_key.clone()];
            loop {
                let text = file.replace("KEY", key).replace("VALUE", &value_of_key);
                let errors = errors(&text);
                let Some(first) = errors.first() else { break };
                assert_eq!(errors.len(), 1, "{text}: {errors:?}");
                let help = first.help.clone().unwrap_or_else(|| panic!("no way out: {first}"));
                let next = value(&advised(&help), key).replace(": …", ": x");
                // An item that is advised stands in its list.
                let is_item = value_of_key.starts_with('[') && first.message.contains("an item of");
                value_of_key = match next.strip_prefix("- ") {
                    Some(item) => format!("[{item}]"),
                    None if is_item && value_of_key.contains(',') => {
                        let (before, _) = value_of_key.rsplit_once(", ").unwrap();
                        format!("{before}, {next}]")
                    }
                    None if is_item => format!("[{next}]"),
                    None if next.contains(": ") && !next.starts_with(['{', '[']) => format!("{{{next}}}"),
                    None => next,
                };
                assert!(!seen.contains(&value_of_key), "a circle: {key}: {seen:?} -> {value_of_key} ({help})");
                seen.push(value_of_key.clone());
                assert!(seen.len() <= 3, "{key}: {seen:?} ({help})");
            }
        }
    }
}
