//! Listings, page by page.
//!
//! The query of the next page is what the link to it says, laid over that of the first (`openstacksdk: resource.py
//! _get_next_link`): most services give a `marker`, some an `offset`. Nothing else of the link is used: its address may
//! be an internal one, and Glance gives none but the path. An empty page is the last, as in the SDK. A link to a page
//! that was read already is an error: a short list would pass for a complete one, and what is missing from it is taken
//! for gone.
//!
//! A page of a thousand servers takes some clouds longer than any other call, so its deadline follows what such a page
//! took before ([`PageDeadlines`]), the slowest of a listing: the last one is short, and comes soon. After one that was
//! late it grows if the service answers something else: one that hangs as a whole should be noticed as soon as it comes
//! back. A service that is slow with its listings is not in trouble: other calls go on.

use std::{
    collections::{HashMap, HashSet},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use reqwest::Url;
use serde_json::Value;

use super::{
    cloud::{CloudError, Named},
    http::{Call, DEADLINE},
    identity::Service,
    nova::Nova,
};
use crate::ErrorClass;

/// Pages of a listing; more mean that a service lost its way.
const MOST_PAGES: usize = 1000;
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
    fn learn(&self, listing: &'static str) -> Lesson<'_> {
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
struct Lesson<'a> {
    deadlines: &'a PageDeadlines,
    listing: &'static str,
    slowest: Duration,
}

impl Lesson<'_> {
    /// A page came after that time: the next one may take at least so long.
    fn came(&mut self, after: Duration) {
        self.slowest = self.slowest.max(after);
        let allowed = self.allowed();
        let mut known = self.deadlines.known();
        let before = known.entry(self.listing).or_insert(allowed);
        *before = (*before).max(allowed);
    }

    /// All pages have come: the next listing may take as long as the slowest of them says, and no longer.
    fn ended(self) {
        self.deadlines.known().insert(self.listing, self.allowed());
    }

    fn allowed(&self) -> Duration {
        (self.slowest * ALLOWANCE).clamp(self.deadlines.least, LONGEST)
    }
}

type Query = Vec<(String, String)>;

impl Nova {
    /// All pages of a listing.
    pub(super) async fn list(
        &self,
        name: &'static str,
        service: Service,
        path: &str,
        key: &str,
        query: &[(&'static str, &str)],
    ) -> Result<Vec<Value>, CloudError> {
        let first: Query = query.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        let mut all = Vec::new();
        let mut read = HashSet::new();
        let mut query = first.clone();
        let mut lesson = self.page_deadlines.learn(name);
        while read.insert(query.clone()) {
            if read.len() > MOST_PAGES {
                let why = format!("{name} has more than {MOST_PAGES} pages");
                return Err(CloudError::new(ErrorClass::Transient, why));
            }
            let mut call = Call::get(name, service, path);
            call.query = query;
            let (mut page, time) = self.page(call).await?;
            lesson.came(time);
            let next = next_query(&page, key);
            // An answer that is none must not pass for "there is nothing": what is not there gets deleted.
            let Some(Value::Array(mut items)) = page.get_mut(key).map(Value::take) else {
                return Err(CloudError::new(ErrorClass::Transient, format!("{name} was answered without {key}")));
            };
            let Some(next) = next.filter(|_| !items.is_empty()) else {
                all.append(&mut items);
                lesson.ended();
                return Ok(all);
            };
            all.append(&mut items);
            query = first.iter().filter(|(key, _)| next.iter().all(|(other, _)| other != key)).cloned().collect();
            query.extend(next);
        }
        Err(CloudError::new(
            ErrorClass::Transient,
            format!(
                "{name}: page {} of the {} service's list links to a page that was read before ({}), so the list has no \
                 end; it is not used",
                read.len(),
                service.name(),
                query.iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join("&"),
            ),
        ))
    }

    /// The first of those that [`Self::all_by_name_or_id`] finds.
    pub(super) async fn by_name_or_id(
        &self,
        name: &'static str,
        service: Service,
        path_and_key: (&str, &str),
        name_or_id: &str,
        query: &[(&'static str, &str)],
    ) -> Result<Option<Named>, CloudError> {
        Ok(self.all_by_name_or_id(name, service, path_and_key, name_or_id, query).await?.into_iter().next())
    }

    /// Of what is listed, that which has the name or the id.
    pub(super) async fn all_by_name_or_id(
        &self,
        name: &'static str,
        service: Service,
        (path, key): (&str, &str),
        name_or_id: &str,
        query: &[(&'static str, &str)],
    ) -> Result<Vec<Named>, CloudError> {
        // Ids are UUIDs almost everywhere, and hardly any name is one.
        let by = if uuid::Uuid::parse_str(name_or_id).is_ok() { ["id", "name"] } else { ["name", "id"] };
        for by in by {
            let query: Vec<_> = query.iter().copied().chain([(by, name_or_id)]).collect();
            let found = self.list(name, service, path, key, &query).await?;
            let found: Vec<Named> = found.iter().filter_map(Named::read).collect();
            if !found.is_empty() {
                return Ok(found);
            }
        }
        Ok(Vec::new())
    }
}

/// From the `<key>_links` of a page, or Glance's `next`; `None`: it is the last.
fn next_query(page: &Value, key: &str) -> Option<Query> {
    let links = page.get(format!("{key}_links")).and_then(Value::as_array).into_iter().flatten();
    let mut next = links.filter(|link| link.get("rel").and_then(Value::as_str) == Some("next"));
    let address = next.next().and_then(|link| link.get("href")).or_else(|| page.get("next"))?.as_str()?;
    let (_, query) = address.split_once('?').unwrap_or_default();
    let query = Url::parse(&format!("any:?{query}")).ok()?;
    Some(query.query_pairs().map(|(key, value)| (key.into_owned(), value.into_owned())).collect())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pairs(pairs: &[(&str, &str)]) -> Query {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn the_next_page_is_known_by_its_query_only() {
        let page = json!({"servers": [], "servers_links": [
            {"rel": "next", "href": "http://internal:8774/v2.1/servers/detail?marker=abc&limit=2"}]});
        assert_eq!(next_query(&page, "servers"), Some(pairs(&[("marker", "abc"), ("limit", "2")])));
        assert_eq!(next_query(&json!({"servers": []}), "servers"), None);
        let page = json!({"images": [], "next": "/v2/images?limit=2&marker=abc"});
        assert_eq!(next_query(&page, "images"), Some(pairs(&[("limit", "2"), ("marker", "abc")])));
        let page = json!({"volumes": [], "volumes_links": [{"rel": "next", "href": "http://c/volumes?offset=2"}]});
        assert_eq!(next_query(&page, "volumes"), Some(pairs(&[("offset", "2")])));
        let page = json!({"ports": [], "ports_links": [{"rel": "next", "href": "http://n/ports"}]});
        assert_eq!(next_query(&page, "ports"), Some(Vec::new()), "a link that says nothing leads to the first page");
    }

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
