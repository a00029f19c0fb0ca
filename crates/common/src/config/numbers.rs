//! Numbers that leave no room or no time: upstream takes them as they come, and nothing works with them.
//!
//! What fails with every daemon is an error of `config-validate`. What somebody may mean is a warning: a pool that serves
//! nothing is switched off with `max-servers: 0`, and no keys are collected where `host-key-checking` is off.

use std::time::Duration;

use super::{fields::Fields, yaml::Mark};

impl Fields<'_> {
    /// Warns of a number that YAML 1.1 reads in another way than people do: `010` is 8, and `1:30` is 90.
    pub fn check_notation(&self, key: &str, at: Mark, text: &str, value: i64) {
        let digits = text.trim_start_matches(['+', '-']).replace('_', "");
        let is_octal = digits.len() > 1 && digits.starts_with('0') && digits.chars().all(|c| c.is_ascii_digit());
        let kind = if is_octal {
            "octal"
        } else if digits.contains(':') {
            "in the base of 60"
        } else {
            return;
        };
        let message =
            format!("{}: `{key}` is written `{text}`, which is {kind} in YAML, and counts as {value}", self.what);
        let plain = digits.trim_start_matches('0');
        let help = if is_octal && !plain.is_empty() && plain != value.to_string() {
            format!("write {plain}, or {value} if that is meant")
        } else {
            format!("write {value}")
        };
        self.report().warning(at, message, Some(help));
    }

    /// A limit: a whole number. A negative one leaves no room, as 0 does (`nodepool 11.0.0: driver/utils.py
    /// QuotaInformation`): it is not the way to have none.
    pub fn limit(&self, key: &'static str) -> Option<f64> {
        const NONE: [&str; 7] = ["unlimited", "none", "no", "infinity", "infinite", "inf", "nolimit"];
        if let Some(text) = self.raw_text(key).filter(|text| NONE.contains(&text.to_lowercase().as_str())) {
            self.know(key);
            let message = format!("must be a whole number, not the text `{text}`");
            self.wrong(self.at_key(key), key, message, "leave the key out where there is no limit");
            return None;
        }
        let limit = self.number(key, true)?;
        self.check_limit(self.at_key(key), key, limit);
        Some(limit)
    }

    /// The same of a value that was read already.
    pub fn check_limit(&self, at: Mark, key: &str, limit: f64) {
        if limit < 0.0 {
            let message = format!("{}: `{key}` is {limit}, which leaves room for nothing, as 0 does", self.what);
            self.report().warning(at, message, Some("leave the key out where there is no limit".to_owned()));
        }
    }

    /// The seconds that something may take; with none it fails each time, as `consequence` says.
    pub fn time_limit(&self, key: &'static str, consequence: &str) -> Option<Duration> {
        self.time(key, self.report().strict(), consequence)
    }

    /// The same where there is somebody whom it does not concern: a warning in any case.
    pub fn time_for_some(&self, key: &'static str, consequence: &str) -> Option<Duration> {
        self.time(key, false, consequence)
    }

    fn time(&self, key: &'static str, is_error: bool, consequence: &str) -> Option<Duration> {
        let seconds = self.number(key, true)?;
        if seconds > 0.0 {
            return self.duration(key, seconds);
        }
        let message = format!("{}: `{key}` is {seconds} seconds: {consequence}", self.what);
        let help = "give it the seconds that it needs, or leave the key out to get its default";
        self.report().note(is_error, self.at_key(key), message, Some(help.to_owned()));
        Some(Duration::ZERO)
    }

    /// Seconds of which 0 is "not given" to upstream or has no effect there, and a negative number makes no sense.
    pub fn seconds_above_0(&self, key: &'static str, default: &str) -> Option<Duration> {
        let seconds = self.number(key, true)?;
        if seconds > 0.0 {
            return self.duration(key, seconds);
        }
        let message = format!("{}: `{key}` is {seconds} and counts as not given, so that it is {default}", self.what);
        let help = "give it the seconds that are meant, or leave the key out".to_owned();
        self.report().warning(self.at_key(key), message, Some(help));
        None
    }
}
