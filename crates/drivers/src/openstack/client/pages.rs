//! Listings, page by page.
//!
//! The query of the next page is what the link to it says, laid over that of the first (`openstacksdk: resource.py
//! _get_next_link`): most services give a `marker`, some an `offset`. Nothing else of the link is used: its address may
//! be an internal one, and Glance gives none but the path. An empty page is the last, as in the SDK. A link to a page
//! that was read already is an error: a short list would pass for a complete one, and what is missing from it is taken
//! for gone.

use std::{collections::HashSet, sync::Arc};

use reqwest::Url;
use serde_json::{Map, Value};

use super::{
    http::Call,
    nova::{Answer, Nova},
    page::{Items, Page},
    service::Service,
};
use crate::{
    ErrorClass, Scope,
    openstack::api::{CloudError, Named},
};

/// Pages of a listing; more mean that a service lost its way.
const MOST_PAGES: usize = 1000;

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
        let items = Items { key, members: None, convert: Some };
        let all = self.list_read(name, service, path, items, query).await?;
        Ok(all.into_iter().map(|(item, _)| item).collect())
    }

    /// All pages of a listing. Of each item only what `items.convert` makes of it is kept: what a service says of thousands of
    /// servers takes many times the memory of what we need of it. Each comes with where its page came from.
    pub(super) async fn list_read<T: Send>(
        &self,
        name: &'static str,
        service: Service,
        path: &str,
        items: Items<'_, impl Fn(Value) -> Option<T> + Send + Sync>,
        query: &[(&'static str, &str)],
    ) -> Result<Vec<(T, Option<Arc<Scope>>)>, CloudError> {
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
            let page = self.page(call, &|data| Page::read(data, &items)).await?;
            let Answer { value: page, took, scope } = page;
            lesson.came(took);
            let next = next_query(&page.rest, items.key).filter(|_| page.had_items);
            all.extend(page.items.into_iter().map(|item| (item, scope.clone())));
            let Some(next) = next else {
                lesson.ended();
                return Ok(all);
            };
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
fn next_query(page: &Map<String, Value>, key: &str) -> Option<Query> {
    let links = page.get(&format!("{key}_links")).and_then(Value::as_array).into_iter().flatten();
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

    fn next(page: &Value, key: &str) -> Option<Query> {
        next_query(page.as_object().unwrap(), key)
    }

    fn pairs(pairs: &[(&str, &str)]) -> Query {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn the_next_page_is_known_by_its_query_only() {
        let page = json!({"servers": [], "servers_links": [
            {"rel": "next", "href": "http://internal:8774/v2.1/servers/detail?marker=abc&limit=2"}]});
        assert_eq!(next(&page, "servers"), Some(pairs(&[("marker", "abc"), ("limit", "2")])));
        assert_eq!(next(&json!({"servers": []}), "servers"), None);
        let page = json!({"images": [], "next": "/v2/images?limit=2&marker=abc"});
        assert_eq!(next(&page, "images"), Some(pairs(&[("limit", "2"), ("marker", "abc")])));
        let page = json!({"volumes": [], "volumes_links": [{"rel": "next", "href": "http://c/volumes?offset=2"}]});
        assert_eq!(next(&page, "volumes"), Some(pairs(&[("offset", "2")])));
        let page = json!({"ports": [], "ports_links": [{"rel": "next", "href": "http://n/ports"}]});
        assert_eq!(next(&page, "ports"), Some(Vec::new()), "a link that says nothing leads to the first page");
    }
}
