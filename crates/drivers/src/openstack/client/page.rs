//! [`Page`]: a page of a listing, read item by item.
//!
//! As a `Value`, a thousand servers of Nova's take ten times the memory of their text. So only one of them is a `Value` at
//! any time.

use std::{fmt, marker::PhantomData};

use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

/// What a page had.
#[derive(Debug, PartialEq)]
pub(super) struct Page<T> {
    /// What came of its items.
    pub items: Vec<T>,
    /// Whether there were items, whatever came of them.
    pub had_items: bool,
    /// All but the items.
    pub rest: Map<String, Value>,
}

impl<T> Page<T> {
    /// Reads an object that has a list of items by the name `key`. One without must not pass for "there is nothing": what is
    /// not there gets deleted.
    pub fn read(data: &[u8], key: &str, convert: &impl Fn(Value) -> Option<T>) -> serde_json::Result<Self> {
        let mut json = serde_json::Deserializer::from_slice(data);
        let page = json.deserialize_map(OfPage { key, convert, makes: PhantomData })?;
        json.end()?;
        Ok(page)
    }
}

struct OfPage<'a, C, T> {
    key: &'a str,
    convert: &'a C,
    makes: PhantomData<T>,
}

impl<'de, T, C: Fn(Value) -> Option<T>> Visitor<'de> for OfPage<'_, C, T> {
    type Value = Page<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "an object with the list {:?}", self.key)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Page<T>, A::Error> {
        let (mut found, mut rest) = (None, Map::new());
        while let Some(name) = map.next_key::<String>()? {
            if name == self.key {
                found = Some(map.next_value_seed(OfItems(&self))?);
            } else {
                rest.insert(name, map.next_value()?);
            }
        }
        let (items, had_items) = found.ok_or_else(|| A::Error::custom(format_args!("there is no {:?}", self.key)))?;
        Ok(Page { items, had_items, rest })
    }
}

struct OfItems<'a, 'b, C, T>(&'a OfPage<'b, C, T>);

impl<'de, T, C: Fn(Value) -> Option<T>> DeserializeSeed<'de> for OfItems<'_, '_, C, T> {
    type Value = (Vec<T>, bool);

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<Self::Value, D::Error> {
        json.deserialize_seq(self)
    }
}

impl<'de, T, C: Fn(Value) -> Option<T>> Visitor<'de> for OfItems<'_, '_, C, T> {
    type Value = (Vec<T>, bool);

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the list {:?}", self.0.key)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
        let (mut items, mut had_items) = (Vec::new(), false);
        while let Some(item) = list.next_element()? {
            had_items = true;
            items.extend((self.0.convert)(item));
        }
        Ok((items, had_items))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(page: &str) -> serde_json::Result<Page<i64>> {
        Page::read(page.as_bytes(), "items", &|item| item.as_i64())
    }

    #[test]
    fn a_page_is_what_came_of_its_items_and_the_rest() {
        let page = read(r#"{"items_links": [1], "items": [3, "none", 4], "next": null}"#).unwrap();
        let rest = json!({"items_links": [1], "next": null}).as_object().unwrap().clone();
        assert_eq!(page, Page { items: vec![3, 4], had_items: true, rest });
        let useless = read(r#"{"items": ["none"]}"#).unwrap();
        assert!(useless.items.is_empty() && useless.had_items);
        assert!(!read(r#"{"items": []}"#).unwrap().had_items);
    }

    #[test]
    fn what_has_no_list_is_no_empty_page() {
        for (page, why) in [
            ("", "EOF"),
            ("{}", "there is no \"items\""),
            ("[]", "expected an object with the list \"items\""),
            ("null", "expected an object with the list \"items\""),
            (r#"{"items": null}"#, "expected the list \"items\""),
            (r#"{"items": [1], "#, "EOF"),
            (r#"{"items": [1]} more"#, "trailing characters"),
        ] {
            let error = read(page).unwrap_err().to_string();
            assert!(error.contains(why), "{page}: {error}");
        }
    }
}
