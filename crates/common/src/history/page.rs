//! [`Page`]: what is answered to a [`Query`], by one launcher or of several put together.
//!
//! The pages of several launchers are merged by time. Each is complete from a time on, so the merged one is from the latest of
//! these times on: what is older is left for the next page. That a request is there or gone every launcher sees by itself; what
//! several say of that within a minute is said once, unless a page ends in between.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};

use super::{
    event::Found,
    query::{Listed, Query},
};
use crate::{
    launchers::{self, Said, Silent},
    model::{Records, Timestamp},
};

/// Where the history is, below a launcher's address.
pub const PAGE: &str = "/api/v1/history";
/// The code of the event that a request waits that was not there before.
pub const REQUEST_SEEN: &str = "request-seen";
/// The code of the event that a request's record is deleted.
pub const REQUEST_GONE: &str = "request-gone";
/// What several launchers say within so many seconds is the same.
const AT_ONCE: Timestamp = 60.0;

/// Events, and who has said nothing.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Page {
    /// The newest first.
    pub events: Vec<Found>,
    /// There may be more before this time, in seconds since the epoch.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub next: Option<Timestamp>,
    /// Launchers whose events are missing.
    #[serde(default)]
    pub silent: Vec<Silent>,
}

impl Page {
    /// What one launcher has.
    pub fn of_one(hostname: &str, listed: Listed) -> Self {
        let own = |found: Found| Found { launcher: hostname.to_owned(), ..found };
        Self { events: listed.events.into_iter().map(own).collect(), next: listed.next, silent: Vec::new() }
    }

    /// One of several: see the module. `silent`: who has not answered with any. `limit` as in the [`Query`]. An event that is in two of them is there once.
    pub fn merged(pages: impl IntoIterator<Item = Self>, silent: Vec<Silent>, limit: usize) -> Self {
        let mut merged = Self { silent, ..Self::default() };
        for page in pages {
            merged.events.extend(page.events);
            merged.silent.extend(page.silent);
            merged.next = merged.next.into_iter().chain(page.next).max_by(Timestamp::total_cmp);
        }
        let next = merged.next;
        merged.events.retain(|found| next.is_none_or(|next| found.event.at >= next));
        let key = |found: &Found| (found.launcher.clone(), found.number);
        merged.events.sort_by(|a, b| b.event.at.total_cmp(&a.event.at).then_with(|| key(b).cmp(&key(a))));
        merged.events.dedup();
        once_of_all(&mut merged.events);
        if let Some(last) = limit.checked_sub(1).and_then(|last| merged.events.get(last)).map(|found| found.event.at) {
            let kept = merged.events.iter().take_while(|found| found.event.at >= last).count();
            if kept < merged.events.len() {
                merged.events.truncate(kept);
                merged.next = Some(last);
            }
        }
        merged
    }
}

/// Leaves of what every launcher sees by itself what was seen first.
fn once_of_all(events: &mut Vec<Found>) {
    let mut first: HashMap<(String, String), Timestamp> = HashMap::new();
    let mut is_new = |found: &Found| {
        let event = &found.event;
        let (REQUEST_SEEN | REQUEST_GONE, Some(request)) = (event.code.as_str(), &event.request) else { return true };
        let known = first.entry((event.code.clone(), request.clone())).or_insert(Timestamp::NEG_INFINITY);
        // Later it is that of a launcher that has been started meanwhile.
        let is_new = event.at - *known >= AT_ONCE;
        if is_new {
            *known = event.at;
        }
        is_new
    };
    let mut kept: Vec<bool> = events.iter().rev().map(&mut is_new).collect();
    events.retain(|_| kept.pop().unwrap_or(true));
}

/// Asks each launcher that says where it can be asked, but not the one with the address `own`, for its own events. `get` as in
/// [`launchers::ask`]. The pages are to be [merged](Page::merged).
pub async fn asked<F>(records: &Records, own: Option<&str>, query: &Query, get: impl Fn(String) -> F) -> Said<Page>
where
    F: Future<Output = Result<Vec<u8>, String>>,
{
    let page = format!("{PAGE}?alone=true&{}", query.written());
    launchers::ask(records, own, &page, get, launchers::json::<Page>).await
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::Event;

    fn found(launcher: &str, number: u32, at: Timestamp, code: &str) -> Found {
        let event = Event { request: Some("100-0000000001".to_owned()), ..Event::new(at, code, "x") };
        Found { number: number.into(), launcher: launcher.to_owned(), event }
    }

    fn page(events: &[Found], next: Option<Timestamp>) -> Page {
        Page { events: events.to_vec(), next, silent: Vec::new() }
    }

    fn shown(page: &Page) -> Vec<(&str, u64)> {
        page.events.iter().map(|found| (found.launcher.as_str(), found.number)).collect()
    }

    #[test]
    fn pages_are_put_together_by_time_as_far_as_all_of_them_are_complete() {
        let one = page(&[found("a", 9, 50.0, "x"), found("a", 8, 30.0, "x"), found("a", 7, 10.0, "x")], None);
        let other = page(&[found("b", 3, 40.0, "x"), found("b", 2, 30.0, "x"), found("b", 1, 20.0, "x")], Some(20.0));
        let merged = Page::merged([one.clone(), other.clone()], Vec::new(), 100);
        assert_eq!(shown(&merged), [("a", 9), ("b", 3), ("b", 2), ("a", 8), ("b", 1)]);
        assert_eq!(merged.next, Some(20.0), "what b has before that is not known");
        let merged = Page::merged([one.clone(), other], Vec::new(), 3);
        assert_eq!((shown(&merged).len(), merged.next), (4, Some(30.0)), "events of one time are not parted");
        let all = Page::merged([one.clone(), one], Vec::new(), 100);
        assert_eq!((shown(&all).len(), all.next), (3, None), "what is in both is there once");
    }

    #[test]
    fn what_every_launcher_sees_by_itself_is_said_once() {
        let one = page(&[found("a", 3, 500.0, REQUEST_SEEN), found("a", 2, 100.5, REQUEST_SEEN)], None);
        let accepted = "request-accepted";
        let other = page(&[found("b", 8, 100.2, accepted), found("b", 7, 100.0, REQUEST_SEEN)], None);
        let third = page(&[found("c", 2, 100.1, REQUEST_SEEN), found("c", 1, 99.0, accepted)], None);
        let merged = Page::merged([one, other, third], Vec::new(), 100);
        assert_eq!(shown(&merged), [("a", 3), ("b", 8), ("b", 7), ("c", 1)], "the one of 500 is of a later start");
    }
}
