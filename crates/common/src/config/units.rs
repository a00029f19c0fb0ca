//! Numbers that were written with a unit: `1h` where seconds are wanted, `8G` where MiB are.
//!
//! No key of the configuration takes a unit. Each has its own, which a person who writes one has to be told, together with
//! the number that was meant.

/// What a key counts in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Unit {
    Seconds,
    MiB,
    /// GiB, which OpenStack calls GB.
    GB,
    GiB,
    Logs,
}

/// The keys with a unit. A key has the same one wherever it stands.
const KEYS: [(Unit, &[&str]); 5] = [
    (
        Unit::Seconds,
        &[
            "max-hold-age",
            "zookeeper-timeout",
            "max-ready-age",
            "rebuild-age",
            "build-timeout",
            "boot-timeout",
            "launch-timeout",
            "image-upload-timeout",
            "port-cleanup-interval",
            "rate",
            "timeout",
            "grace-time",
            "min-retention-time",
            "max-age",
        ],
    ),
    (
        Unit::MiB,
        &[
            "min-ram",
            "max-ram",
            "memory",
            "memory-limit",
            "storage",
            "storage-limit",
            "default-label-memory",
            "default-label-memory-limit",
            "default-label-storage",
            "default-label-storage-limit",
        ],
    ),
    (Unit::GB, &["volume-size", "max-volume-gb"]),
    (Unit::GiB, &["min-free"]),
    (Unit::Logs, &["build-log-retention"]),
];

/// What to write in the place of a text that is no number. `is_whole`: the key takes no fraction.
pub fn advice(key: &str, text: &str, is_whole: bool) -> String {
    if key == "port" || key.ends_with("-port") {
        return "a port is a number from 1 to 65535, without quotes".to_owned();
    }
    let Some((unit, _)) = KEYS.iter().find(|(_, keys)| keys.contains(&key)) else {
        return if is_whole { "write a whole number alone" } else { "write a number alone" }.to_owned();
    };
    let name = match unit {
        Unit::Seconds if key == "rate" => "the number of seconds between two calls of the cloud",
        Unit::Seconds => "a number of seconds",
        Unit::MiB => "a number of MiB",
        Unit::GB => "a number of GB",
        Unit::GiB => "a number of GiB",
        Unit::Logs => return "it is how many logs are kept of each image, a whole number".to_owned(),
    };
    match meant(*unit, text).filter(|number| !is_whole || number.fract() == 0.0) {
        Some(number) => format!("it is {name}: write {number}"),
        None => format!("it is {name}{}: write the number alone", if is_whole { ", without a fraction" } else { "" }),
    }
}

/// The number that a text with units means for that key, if it counts in a unit.
pub fn meant_by(key: &str, text: &str) -> Option<f64> {
    let (unit, _) = KEYS.iter().find(|(_, keys)| keys.contains(&key))?;
    meant(*unit, text)
}

/// The number that a text with units means in that unit: `1h30m`, `8 GiB`.
fn meant(unit: Unit, text: &str) -> Option<f64> {
    let factor = if unit == Unit::Seconds { seconds } else { mebibytes };
    let mut rest = text.trim();
    let mut sum = 0.0;
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let number: f64 = rest[..end].parse().ok()?;
        rest = rest[end..].trim_start();
        let end = rest.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(rest.len());
        sum += number * factor(&rest[..end].to_ascii_lowercase())?;
        rest = rest[end..].trim_start();
    }
    let number = if matches!(unit, Unit::GB | Unit::GiB) { sum / 1024.0 } else { sum };
    (number > 0.0 && number < 1e15).then_some(number)
}

fn seconds(unit: &str) -> Option<f64> {
    Some(match unit {
        "s" | "sec" | "secs" | "second" | "seconds" => 1.0,
        "m" | "min" | "mins" | "minute" | "minutes" => 60.0,
        "h" | "hr" | "hrs" | "hour" | "hours" => 3600.0,
        "d" | "day" | "days" => 86_400.0,
        "w" | "week" | "weeks" => 604_800.0,
        _ => return None,
    })
}

/// Powers of 1024, whatever the unit is called: nobody means 7629 MiB with `8GB` of memory.
fn mebibytes(unit: &str) -> Option<f64> {
    Some(match unit {
        "k" | "kb" | "ki" | "kib" => 1.0 / 1024.0,
        "m" | "mb" | "mi" | "mib" => 1.0,
        "g" | "gb" | "gi" | "gib" => 1024.0,
        "t" | "tb" | "ti" | "tib" => 1024.0 * 1024.0,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::advice::is_key_of_any_part;

    #[test]
    fn a_unit_is_converted_to_that_of_the_key() {
        for (key, text, expected) in [
            ("max-ready-age", "1h", "it is a number of seconds: write 3600"),
            ("rebuild-age", "1d 12h", "it is a number of seconds: write 129600"),
            ("boot-timeout", "5 minutes", "it is a number of seconds: write 300"),
            ("min-ram", "8G", "it is a number of MiB: write 8192"),
            ("memory", "512Mi", "it is a number of MiB: write 512"),
            ("volume-size", "80 GB", "it is a number of GB: write 80"),
            ("max-volume-gb", "1.5TB", "it is a number of GB: write 1536"),
            ("volume-size", "100M", "it is a number of GB, without a fraction: write the number alone"),
            ("min-ram", "eight", "it is a number of MiB, without a fraction: write the number alone"),
            (
                "rate",
                "1/s",
                "it is the number of seconds between two calls of the cloud, without a fraction: write the number alone",
            ),
            ("build-log-retention", "7d", "it is how many logs are kept of each image, a whole number"),
            ("max-servers", "5G", "write a whole number alone"),
        ] {
            assert_eq!(advice(key, text, true), expected, "{key}: {text}");
        }
        assert_eq!(advice("min-free", "1536M", false), "it is a number of GiB: write 1.5");
    }

    #[test]
    fn what_has_a_unit_is_a_key() {
        for key in KEYS.iter().flat_map(|(_, keys)| *keys) {
            assert!(is_key_of_any_part(key), "{key}");
        }
    }
}
