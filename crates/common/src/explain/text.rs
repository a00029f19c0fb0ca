//! Explanations as text, and times as people read them.

use std::fmt::{self, Write as _};

use super::{Explanation, Silent, Verdict};
use crate::{model::Timestamp, sys::clock};

/// A moment, and how long ago that is.
pub(super) fn moment(at: Timestamp, now: Timestamp) -> String {
    #[allow(clippy::cast_possible_truncation)] // whole seconds since the epoch
    let utc = clock::utc(at as i64);
    let Some(age) = clock::since(at, now) else { return utc };
    format!("{utc} ({} ago)", duration(age.as_secs()))
}

/// A number of seconds as people read it: `3 s`, `5 min`, `2 h 10 min`, `3 d 4 h`.
pub fn duration(seconds: u64) -> String {
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds} s"),
        (0, 0, _) => format!("{minutes} min"),
        (0, ..) => format!("{hours} h {} min", minutes % 60),
        _ => format!("{days} d {} h", hours % 24),
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Fine => "FINE",
            Self::Wait => "WAIT",
            Self::Act => "ACT",
            Self::Change => "CHANGE",
        })
    }
}

impl fmt::Display for Silent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the launcher on {} ({}): {}", self.hostname, self.pools.join(", "), self.why)
    }
}

impl Explanation {
    /// For a terminal, ages as of `now`.
    pub fn render(&self, now: Timestamp) -> String {
        let mut text = format!("{} {}: {}: {}.\n", self.kind, self.id, self.verdict, self.sentence);
        let mut line = |name: &str, value: &str| {
            let _ = writeln!(text, "  {:<20} {value}", format!("{name}:"));
        };
        line("code", &self.code);
        if let Some(since) = self.since {
            line("since", &moment(since, now));
        }
        if let Some(what) = &self.ended_by {
            line("ended by", what);
        }
        if let Some(before) = self.before {
            line("requests before it", &before.to_string());
        }
        for fact in &self.facts {
            let at = fact.at.map(|at| moment(at, now));
            let parts: Vec<&str> = [fact.value.as_str(), at.as_deref().unwrap_or_default()]
                .into_iter()
                .filter(|part| !part.is_empty())
                .collect();
            line(&fact.name, &parts.join(" since "));
        }
        for pool in &self.pools {
            let since = pool.since.map(|since| format!(", since {}", moment(since, now))).unwrap_or_default();
            line(&format!("pool {}", pool.pool), &format!("{}: {}{since}", pool.verdict, pool.sentence));
        }
        for silent in &self.silent {
            line("not asked", &silent.to_string());
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_told_with_their_age() {
        assert_eq!(moment(1_760_000_000.0, 1_760_000_200.0), "2025-10-09 08:53:20 UTC (3 min ago)");
        assert_eq!(duration(59), "59 s");
        assert_eq!(duration(7_800), "2 h 10 min");
        assert_eq!(duration(3 * 86_400 + 4 * 3600), "3 d 4 h");
    }
}
