//! What may go wrong between a client and a cloud, when, and what has been asked: pure, for [`super::FaultProxy`].
//!
//! A fault is a rule on method and path, taken a number of times, with a probability, or once for each value of a
//! header. Chance is a generator with a seed, so that a run can be repeated.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

/// What happens to a request.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Fault {
    /// It is answered here; the server never hears of it.
    Answer {
        /// HTTP's.
        status: u16,
        /// Further headers, such as `Retry-After`.
        #[serde(default)]
        headers: BTreeMap<String, String>,
        /// As it is.
        #[serde(default)]
        body: String,
    },
    /// It is answered here, after so many seconds, or as soon as the proxy lets go of what it holds.
    AnswerLate {
        /// Until then it counts as held ([`Calls::held`]).
        seconds: u64,
        /// HTTP's.
        status: u16,
        /// As it is.
        #[serde(default)]
        body: String,
    },
    /// It is passed on after so many seconds.
    Delay(u64),
    /// It is passed on at once; its answer waits for so many seconds.
    DelayAnswer(u64),
    /// The server never hears of it, and the client hears nothing; cut after so many seconds.
    Hang(u64),
    /// The connection is cut; the server never hears of it.
    CutBefore,
    /// The connection is cut after the server has answered: the lost answer.
    CutAfter,
    /// So many bytes of the request's body are passed on; then both connections are cut.
    CutBody(u64),
}

/// A fault and the requests that meet it.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    /// `None`: any.
    #[serde(default)]
    pub method: Option<String>,
    /// The path without its query. `*` stands for anything within a segment, `**` for anything.
    pub path: String,
    /// Headers with these values, e.g. `{"x-auth-token": …}` for what one token may not do.
    #[serde(default)]
    pub with: BTreeMap<String, String>,
    /// What happens.
    pub fault: Fault,
    /// So often at most.
    #[serde(default)]
    pub times: Option<u64>,
    /// Of 1.
    #[serde(default)]
    pub probability: Option<f64>,
    /// Once for each value of this header, e.g. `x-auth-token`; requests without it are left alone.
    #[serde(default)]
    pub once_per: Option<String>,
    /// Of the chance. Two rules with the same seed fall alike.
    #[serde(default)]
    pub seed: u64,
    #[serde(skip)]
    seen: BTreeSet<String>,
}

impl Rule {
    /// Each request with that method (`*`: any) and path meets the fault.
    pub fn new(method: &str, path: &str, fault: Fault) -> Self {
        let method = (method != "*").then(|| method.to_owned());
        let path = path.to_owned();
        Self {
            method,
            path,
            with: BTreeMap::new(),
            fault,
            times: None,
            probability: None,
            once_per: None,
            seed: 0,
            seen: BTreeSet::new(),
        }
    }

    /// The first so many only.
    #[must_use]
    pub fn times(mut self, times: u64) -> Self {
        self.times = Some(times);
        self
    }

    /// Some of them only.
    #[must_use]
    pub fn with_probability(mut self, probability: f64, seed: u64) -> Self {
        self.probability = Some(probability);
        self.seed = seed;
        self
    }

    /// Those with this header only.
    #[must_use]
    pub fn with(mut self, header: &str, value: &str) -> Self {
        self.with.insert(header.to_owned(), value.to_owned());
        self
    }

    /// Once for each value of this header only.
    #[must_use]
    pub fn once_per(mut self, header: &str) -> Self {
        self.once_per = Some(header.to_owned());
        self
    }

    /// Whether this request meets it; counts it if so.
    pub fn applies<'a>(&mut self, method: &str, path: &str, header: impl Fn(&str) -> Option<&'a str>) -> bool {
        if self.times == Some(0) || self.method.as_ref().is_some_and(|own| own != method) || !glob(&self.path, path) {
            return false;
        }
        if self.with.iter().any(|(name, value)| header(name) != Some(value)) {
            return false;
        }
        let value = match self.once_per.as_deref().map(header) {
            None => None,
            Some(Some(value)) if !self.seen.contains(value) => Some(value.to_owned()),
            Some(_) => return false,
        };
        if self.probability.is_some_and(|probability| chance(&mut self.seed) >= probability) {
            return false;
        }
        self.seen.extend(value);
        self.times = self.times.map(|times| times - 1);
        true
    }
}

/// From 0 to 1 (splitmix64).
fn chance(seed: &mut u64) -> f64 {
    *seed = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mixed = (*seed ^ (*seed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    f64::from(u32::try_from(mixed >> 32).unwrap_or_default()) / f64::from(u32::MAX)
}

fn glob(pattern: &str, text: &str) -> bool {
    let Some(star) = pattern.find('*') else { return pattern == text };
    let Some(text) = text.strip_prefix(&pattern[..star]) else { return false };
    let rest = &pattern[star + 1..];
    let (rest, reach) = match rest.strip_prefix('*') {
        Some(rest) => (rest, text.len()),
        None => (rest, text.find('/').unwrap_or(text.len())),
    };
    (0..=reach).any(|end| text.get(end..).is_some_and(|text| glob(rest, text)))
}

/// What was asked, by method and path with `*` for ids, and how it ended: HTTP's status, `cut`, `hung` or `refused`
/// (the server could not be reached).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Calls {
    /// `{"GET /v2.1/servers/*": {"200": 7}}`.
    pub calls: BTreeMap<String, BTreeMap<String, u64>>,
    /// How many requests met a fault.
    pub faults: u64,
    /// How many answers have come and were held back (`Fault::DelayAnswer`, `Fault::AnswerLate`).
    pub held: u64,
    /// The tokens that requests carried.
    pub tokens: BTreeSet<String>,
}

impl Calls {
    /// Counts one.
    pub fn add(&mut self, method: &str, path: &str, end: &str) {
        let path: Vec<&str> = path.split('/').map(|part| if is_id(part) { "*" } else { part }).collect();
        let call = format!("{method} {}", path.join("/"));
        *self.calls.entry(call).or_default().entry(end.to_owned()).or_default() += 1;
    }

    /// All of them.
    pub fn total(&self) -> u64 {
        self.calls.values().flat_map(BTreeMap::values).sum()
    }

    /// Those of one key, such as `POST /v2.1/servers`, however they ended.
    pub fn of(&self, call: &str) -> u64 {
        self.calls.get(call).map_or(0, |ends| ends.values().sum())
    }
}

/// UUIDs, with and without hyphens, and numbers.
fn is_id(part: &str) -> bool {
    let number = !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    number || (part.len() >= 32 && part.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b'-'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_stays_in_its_segment_and_two_do_not() {
        for (pattern, text, expected) in [
            ("/v2.1/servers", "/v2.1/servers", true),
            ("/v2.1/servers", "/v2.1/servers/7", false),
            ("/v2.1/servers/*", "/v2.1/servers/7", true),
            ("/v2.1/servers/*", "/v2.1/servers/7/action", false),
            ("/v2.1/servers/*/action", "/v2.1/servers/7/action", true),
            ("/v2.1/**", "/v2.1/servers/7/action", true),
            ("**", "", true),
            ("**/file", "/v2/images/7/file", true),
        ] {
            assert_eq!(glob(pattern, text), expected, "{pattern} {text}");
        }
    }

    #[test]
    fn calls_are_counted_by_what_they_do_and_not_to_whom() {
        let mut calls = Calls::default();
        calls.add("GET", "/v2.1/servers/0d1e0c39-77b2-4dd0-a1d1-d2a45a2d8a27", "200");
        calls.add("GET", "/v2.1/servers/5c1f4f3f-2e55-4e3b-a2f4-ae3e1d6c1a30", "404");
        calls.add("GET", "/v2.1/servers/detail", "200");
        calls.add("POST", "/v3/889af39e300d4fd381bab74601c9b263/volumes", "202");
        assert_eq!(calls.of("GET /v2.1/servers/*"), 2);
        assert_eq!(calls.of("POST /v3/*/volumes"), 1);
        assert_eq!(calls.total(), 4);
    }

    #[test]
    fn a_rule_is_taken_as_often_as_it_says() {
        let none = |_: &str| None;
        let mut rule = Rule::new("POST", "/v2.1/servers", Fault::CutAfter).times(2);
        assert!(!rule.applies("GET", "/v2.1/servers", none));
        let taken = (0..5).filter(|_| rule.applies("POST", "/v2.1/servers", none)).count();
        assert_eq!(taken, 2);
        let mut rule = Rule::new("*", "**", Fault::CutBefore).with_probability(0.3, 1);
        let mut again = rule.clone();
        let falls: Vec<bool> = (0..1000).map(|_| rule.applies("GET", "/", none)).collect();
        assert_eq!(falls, (0..1000).map(|_| again.applies("GET", "/", none)).collect::<Vec<_>>(), "a run repeats");
        let taken = falls.iter().filter(|fall| **fall).count();
        assert!((250..350).contains(&taken), "{taken} of 1000");
        let mut rule = Rule::new("*", "**", Fault::CutBefore).once_per("x-auth-token");
        let taken = ["a", "b", "a", "b"].map(|token| rule.applies("GET", "/", |_| Some(token)));
        assert_eq!(taken, [true, true, false, false]);
        assert!(!rule.applies("GET", "/", none), "a request without the header");
        let mut rule = Rule::new("*", "**", Fault::CutBefore).with("x-auth-token", "a");
        assert_eq!(["a", "b", "a"].map(|token| rule.applies("GET", "/", |_| Some(token))), [true, false, true]);
        assert!(!rule.applies("GET", "/", none), "a request without the header");
    }
}
