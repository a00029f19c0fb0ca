//! [`PageDeadlines`]: how long a page of a listing may take.
//!
//! A page of a thousand servers takes some clouds longer than any other call, so its deadline follows what such a page
//! took before , the slowest of a listing: the last one is short, and comes soon. After one that was
//! late it grows if the service answers something else: one that hangs as a whole should be noticed as soon as it comes
//! back. A service that is slow with its listings is not in trouble: other calls go on.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use super::http::DEADLINE;

/// No page may take longer.
const LONGEST: Duration = Duration::from_secs(300);
/// A page may take so many times what the slowest one of the last listing took.
const ALLOWANCE: u32 = 3;

/// How long a page of each kind of listing may take.
#[derive(Debug)]
pub(super) struct PageDeadlines {
    least: Duration,
    known: Mutex<HashMap<&'static str, Duration>>,
}

impl Default for PageDeadlines {
    fn default() -> Self {
        Self::starting_with(DEADLINE)
    }
}

impl PageDeadlines {
    /// What the first page of a listing may take, and any page after it.
    pub fn starting_with(least: Duration) -> Self {
        Self { least, known: Mutex::default() }
    }

    fn known(&self) -> MutexGuard<'_, HashMap<&'static str, Duration>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// For the next page of that listing.
    pub fn of(&self, listing: &'static str) -> Duration {
        self.known().get(listing).copied().unwrap_or(self.least)
    }

    /// To be told how long each page of a listing took.
    pub fn learn(&self, listing: &'static str) -> Lesson<'_> {
        Lesson { deadlines: self, listing, slowest: Duration::ZERO }
    }

    /// A page did not come within that time: the next one may take twice as long.
    pub fn late(&self, listing: &'static str, deadline: Duration) {
        let mut known = self.known();
        let before = known.entry(listing).or_insert(self.least);
        *before = (*before).max((deadline * 2).min(LONGEST));
    }
}

/// What the pages of one listing teach of the next ones.
pub(super) struct Lesson<'a> {
    deadlines: &'a PageDeadlines,
    listing: &'static str,
    slowest: Duration,
}

impl Lesson<'_> {
    /// A page came after that time: the next one may take at least so long.
    pub fn came(&mut self, after: Duration) {
        self.slowest = self.slowest.max(after);
        let allowed = self.allowed();
        let mut known = self.deadlines.known();
        let before = known.entry(self.listing).or_insert(allowed);
        *before = (*before).max(allowed);
    }

    /// All pages have come: the next listing may take as long as the slowest of them says, and no longer.
    pub fn ended(self) {
        self.deadlines.known().insert(self.listing, self.allowed());
    }

    fn allowed(&self) -> Duration {
        (self.slowest * ALLOWANCE).clamp(self.deadlines.least, LONGEST)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_that_is_late_may_take_twice_as_long_and_one_that_came_tells_what_the_next_may_take() {
        let deadlines = PageDeadlines::default();
        let seconds = Duration::from_secs;
        assert_eq!(deadlines.of("servers"), seconds(30));
        for allowed in [60, 120, 240, 300, 300] {
            deadlines.late("servers", deadlines.of("servers"));
            assert_eq!(deadlines.of("servers"), seconds(allowed));
        }
        assert_eq!(deadlines.of("ports"), seconds(30), "each listing has its own");
        listed(&deadlines, &[45]);
        assert_eq!(deadlines.of("servers"), seconds(135));
        deadlines.late("servers", seconds(30));
        assert_eq!(deadlines.of("servers"), seconds(135), "an attempt that began when less was allowed");
        listed(&deadlines, &[1]);
        assert_eq!(deadlines.of("servers"), seconds(30));
    }

    /// A listing whose pages take so many seconds.
    fn listed(deadlines: &PageDeadlines, pages: &[u64]) {
        let mut lesson = deadlines.learn("servers");
        for seconds in pages {
            let before = deadlines.of("servers");
            lesson.came(Duration::from_secs(*seconds));
            assert!(deadlines.of("servers") >= before, "within a listing a page tells of longer ones only");
        }
        lesson.ended();
    }

    #[test]
    fn a_short_last_page_does_not_undo_what_a_long_one_has_taught() {
        let deadlines = PageDeadlines::default();
        for pages in [[45, 1], [1, 45]] {
            listed(&deadlines, &pages);
            assert_eq!(deadlines.of("servers"), Duration::from_secs(135));
        }
        listed(&deadlines, &[1, 1]);
        assert_eq!(deadlines.of("servers"), Duration::from_secs(30));
    }
}
