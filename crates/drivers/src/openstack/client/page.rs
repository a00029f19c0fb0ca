//! [`Page`]: a page of a listing, read item by item.
//!
//! As a `Value`, a thousand servers of Nova's take ten times the memory of their text. So only one of them is a `Value` at
//! any time, and only with the members that are read.

use std::{borrow::Cow, fmt, marker::PhantomData};

use serde::de::{Deserialize, DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

/// The items of a listing, and what is wanted of them.
pub(super) struct Items<'a, C> {
    /// By which name an answer has them.
    pub key: &'a str,
    /// The only members of an item that are read; `None`: all.
    pub members: Option<&'static [&'static str]>,
    /// What an item becomes. Of those that become `None` nothing is kept.
    pub convert: C,
}

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
    /// Reads an object that has the list of items. One without must not pass for "there is nothing": what is not there gets
    /// deleted.
    pub fn read(data: &[u8], items: &Items<'_, impl Fn(Value) -> Option<T>>) -> serde_json::Result<Self> {
        let mut json = serde_json::Deserializer::from_slice(data);
        let page = json.deserialize_map(OfPage { items, makes: PhantomData })?;
        json.end()?;
        Ok(page)
    }
}

struct OfPage<'a, C, T> {
    items: &'a Items<'a, C>,
    makes: PhantomData<T>,
}

impl<'de, T, C: Fn(Value) -> Option<T>> Visitor<'de> for OfPage<'_, C, T> {
    type Value = Page<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "an object with the list {:?}", self.items.key)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Page<T>, A::Error> {
        let (mut found, mut rest) = (None, Map::new());
        while let Some(name) = map.next_key::<String>()? {
            if name == self.items.key {
                found = Some(map.next_value_seed(OfItems(&self))?);
            } else {
                rest.insert(name, map.next_value()?);
            }
        }
        let (items, had_items) =
            found.ok_or_else(|| A::Error::custom(format_args!("there is no {:?}", self.items.key)))?;
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
        write!(f, "the list {:?}", self.0.items.key)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
        let (mut items, mut had_items) = (Vec::new(), false);
        let Items { members, convert, .. } = self.0.items;
        while let Some(item) = list.next_element_seed(OfItem(*members))? {
            had_items = true;
            items.extend(convert(item));
        }
        Ok((items, had_items))
    }
}

/// The members that an item is read with; `None`: all.
struct OfItem(Option<&'static [&'static str]>);

impl<'de> DeserializeSeed<'de> for OfItem {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<Value, D::Error> {
        match self.0 {
            Some(members) => json.deserialize_any(OnlyMembers(members)),
            None => Value::deserialize(json),
        }
    }
}

/// Reads an object with these members only. What is no object is null: nothing can be made of it.
struct OnlyMembers(&'static [&'static str]);

impl<'de> Visitor<'de> for OnlyMembers {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an item of the list")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut members = Map::with_capacity(self.0.len());
        while let Some(name) = map.next_key::<Cow<'de, str>>()? {
            if self.0.contains(&name.as_ref()) {
                members.insert(name.into_owned(), map.next_value()?);
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(Value::Object(members))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Value, A::Error> {
        while list.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Value::Null)
    }

    fn visit_str<E>(self, _: &str) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, _: bool) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(page: &str) -> serde_json::Result<Page<i64>> {
        Page::read(page.as_bytes(), &Items { key: "items", members: None, convert: |item: Value| item.as_i64() })
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
    fn of_an_item_only_the_members_that_are_wanted_are_read() {
        let page =
            br#"{"items": [{"id": "a", "links": [{"id": {}}], "m\u0061p": {"links": 1, "id": 2}}, "a text", 1, -1, 1.5,
            123456789012345678901234567890, true, null, ["id"], [], {}]}"#;
        let items = Items { key: "items", members: Some(&["id", "map"]), convert: Some };
        let page = Page::read(page, &items).unwrap();
        let read: Vec<_> = page.items.iter().filter(|item| item.get("id").is_some()).collect();
        assert_eq!(read, [&json!({"id": "a", "map": {"links": 1, "id": 2}})]);
        assert_eq!(page.items.len(), 11);
        assert!(Page::read(br#"{"items": [{"links": [}]}"#, &items).is_err(), "what is not read must be JSON, too");
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
