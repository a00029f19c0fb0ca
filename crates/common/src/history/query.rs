//! [`Query`]: which events are asked for, as part of an address and as a choice among those that there are.
//!
//! A page ends after so many events, or after so many that were looked at: what is sought may be rare, and whoever asks shall not keep
//! a processor busy for long. Where there may be more, the page says from which time on it is complete ([`Listed::next`]); with
//! that time as `until` the next one is asked for. Events of the same time are not parted.

use std::fmt::Write as _;

use super::event::{Event, Found};
use crate::{
    explain::{Kind, Subject, encoded},
    model::Timestamp,
};

/// How many events a page has, unless something else is asked for.
pub const LIMIT: usize = 100;
/// How many it has at most.
pub const HIGHEST_LIMIT: usize = 1000;
/// How many are looked at for one page at most.
const LOOKED_AT: usize = 20_000;

/// Which events.
#[derive(Clone, Debug, PartialEq)]
pub struct Query {
    /// Of each kind that is here the event concerns one. Empty: it may concern anything.
    pub of: Vec<Subject>,
    /// It has one of these codes. Empty: any.
    pub codes: Vec<String>,
    /// It is of this time or later, in seconds since the epoch.
    pub since: Option<Timestamp>,
    /// It is before this time.
    pub until: Option<Timestamp>,
    /// It has a lower number: of one launcher alone.
    pub before: Option<u64>,
    /// So many at most, the newest.
    pub limit: usize,
}

impl Default for Query {
    fn default() -> Self {
        Self { of: Vec::new(), codes: Vec::new(), since: None, until: None, before: None, limit: LIMIT }
    }
}

impl Query {
    /// As parameters of an address: `request=200-0000000001&limit=100`.
    pub fn written(&self) -> String {
        let mut written = format!("limit={}", self.limit);
        // Writing to a text cannot fail.
        for subject in &self.of {
            let _ = write!(written, "&{}", subject.query());
        }
        for code in &self.codes {
            let _ = write!(written, "&event={}", encoded(code));
        }
        for (name, time) in [("since", self.since), ("until", self.until)] {
            let _ = time.map(|time| write!(written, "&{name}={time}"));
        }
        let _ = self.before.map(|before| write!(written, "&before={before}"));
        written
    }

    /// By what its events are found in the index, where that is one thing.
    pub(super) fn indexed(&self) -> Option<&Subject> {
        let of = |kind| self.of.iter().filter(move |subject| subject.kind() == kind);
        Kind::ALL.into_iter().filter(|kind| of(*kind).count() == 1).find_map(|kind| of(kind).next())
    }

    fn matches(&self, event: &Event) -> bool {
        let concerns = |asked: &Subject| event.subjects().any(|(kind, id)| kind == asked.kind() && id == asked.id());
        let of_kind = |kind| {
            let mut asked = self.of.iter().filter(move |subject| subject.kind() == kind).peekable();
            asked.peek().is_none() || asked.any(concerns)
        };
        (self.codes.is_empty() || self.codes.contains(&event.code)) && Kind::ALL.into_iter().all(of_kind)
    }
}

/// Events that were found.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Listed {
    /// The newest first.
    pub events: Vec<Found>,
    /// There may be more before this time.
    pub next: Option<Timestamp>,
}

/// Makes a [`Listed`] of what it is shown, the newest first.
pub(super) struct Listing<'a> {
    query: &'a Query,
    listed: Listed,
    looked_at: usize,
    last: Timestamp,
}

impl<'a> Listing<'a> {
    pub fn new(query: &'a Query) -> Self {
        Self { query, listed: Listed::default(), looked_at: 0, last: Timestamp::INFINITY }
    }

    /// Whether the next older one is to be shown, too.
    pub fn takes(&mut self, found: Found) -> bool {
        let at = found.event.at;
        if self.query.since.is_some_and(|since| at < since) {
            return false;
        }
        let is_full = self.listed.events.len() >= self.query.limit || self.looked_at >= LOOKED_AT;
        if is_full && at < self.last {
            self.listed.next = Some(self.last);
            return false;
        }
        (self.last, self.looked_at) = (at, self.looked_at + 1);
        if self.query.matches(&found.event) {
            self.listed.events.push(found);
        }
        true
    }

    pub fn done(self) -> Listed {
        self.listed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(number: u32, at: Timestamp, code: &str, provider: &str) -> Found {
        let event = Event { provider: Some(provider.to_owned()), ..Event::new(at, code, "x") };
        Found { number: number.into(), launcher: String::new(), event }
    }

    fn list(query: &Query, all: &[Found]) -> (Vec<u64>, Option<Timestamp>) {
        let mut listing = Listing::new(query);
        for found in all {
            if !listing.takes(found.clone()) {
                break;
            }
        }
        let listed = listing.done();
        (listed.events.iter().map(|found| found.number).collect(), listed.next)
    }

    #[test]
    fn a_page_ends_between_two_times_and_says_where() {
        let all = [(5, 9.0, "a", "p"), (4, 8.0, "b", "q"), (3, 8.0, "a", "q"), (2, 8.0, "a", "p"), (1, 7.0, "a", "p")];
        let all = all.map(|(number, at, code, provider)| found(number, at, code, provider));
        let of = |query: Query| list(&query, &all);
        assert_eq!(of(Query::default()), (vec![5, 4, 3, 2, 1], None));
        assert_eq!(of(Query { limit: 1, ..Query::default() }), (vec![5], Some(9.0)));
        assert_eq!(of(Query { limit: 2, ..Query::default() }), (vec![5, 4, 3, 2], Some(8.0)), "those of one time");
        assert_eq!(of(Query { since: Some(8.0), ..Query::default() }), (vec![5, 4, 3, 2], None));
        assert_eq!(of(Query { codes: vec!["a".to_owned()], limit: 2, ..Query::default() }), (vec![5, 3, 2], Some(8.0)));
        let provider = |name: &str| Subject::Provider(name.into());
        assert_eq!(of(Query { of: vec![provider("q")], ..Query::default() }), (vec![4, 3], None));
        assert_eq!(of(Query { of: vec![provider("q"), provider("p")], ..Query::default() }).0.len(), 5);
        assert_eq!(of(Query { of: vec![provider("q"), Subject::Label("x".into())], ..Query::default() }).0.len(), 0);
        let many: Vec<_> = (0..30_000).map(|n| found(n, 1e6 - f64::from(n), "a", "p")).collect();
        let rare = Query { codes: vec!["b".to_owned()], ..Query::default() };
        assert_eq!(list(&rare, &many), (vec![], Some(1e6 - 19_999.0)), "what is rare is not sought for ever");
    }

    #[test]
    fn it_is_written_as_an_address_has_it() {
        let of = vec![Subject::Label("a b".into())];
        let query = Query { of, codes: vec!["c".to_owned()], since: Some(1.5), until: Some(1e9), ..Query::default() };
        assert_eq!(query.written(), "limit=100&label=a%20b&event=c&since=1.5&until=1000000000");
    }
}
