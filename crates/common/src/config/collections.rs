//! Lists and mappings as values of keys: the part of [`Fields`] that reads them.

use std::rc::Rc;

use indexmap::IndexMap;

use super::{
    fields::Fields,
    python::{json, json_key, python_str},
    shapes,
    yaml::{Meaning, Node, Value},
};
use crate::model::{Json, Object, json::Shape};

impl<'a> Fields<'a> {
    /// A mapping of texts to whole numbers (`max-resources`); none where the key is absent.
    pub fn number_map(&self, key: &'static str) -> IndexMap<String, f64> {
        let numbers = self.free_map(key, |node| self.key_of(key, node), |node| self.number_of(key, node, true));
        numbers.unwrap_or_default()
    }

    /// A list's items; none where the key is absent.
    pub fn list(&self, key: &'static str) -> &'a [Rc<Node>] {
        match self.get(key).map(|node| (&node.value, node)) {
            Some((Value::List(items), _)) => {
                self.note_dashes_too_many(shapes::head(key), items);
                items
            }
            Some((_, node)) => {
                let message = format!("must be a list, not {}", node.describe());
                self.wrong(node.at, key, message, shapes::as_list(key, node));
                &[]
            }
            None => &[],
        }
    }

    /// Takes down which items of a list of mappings seem to belong to the one above, for a word where they lack that key.
    fn note_dashes_too_many(&self, head: &str, items: &[Rc<Node>]) {
        let mut above: Option<(&str, &Node)> = None;
        for item in items.iter().filter(|_| self.report().strict()) {
            match (item.get(head).and_then(|name| name.as_text()), item.entries(), above) {
                (Some(name), ..) => above = Some((name, item)),
                (None, Some(entries @ [(key, value), ..]), Some((name, first))) => {
                    let line = format!("{}: {}", key.as_text().unwrap_or("…"), shapes::shown(value));
                    let help = format!("write `{line}` without a dash, below `{head}: {name}`, if it belongs to that");
                    let keys = entries.iter().filter_map(|(key, _)| key.as_text().map(str::to_owned));
                    self.report().note_dash(item.at, help, first.at, keys);
                }
                _ => above = None,
            }
        }
    }

    /// A list of texts.
    pub fn texts(&self, key: &'static str) -> Option<Vec<String>> {
        let node = self.get(key)?;
        if let Value::List(items) = &node.value {
            let subject = format!("an item of `{key}`");
            let text = |item: &Rc<Node>| self.text_in(&subject, item, |item| shapes::as_text_item(key, item));
            return Some(items.iter().filter_map(text).collect());
        }
        let message = format!("must be a list of texts, not {}", node.describe());
        self.wrong(node.at, key, message, shapes::as_texts(key, node));
        None
    }

    /// A text, or a list of them.
    pub fn text_or_texts(&self, key: &'static str) -> Option<Vec<String>> {
        match self.get(key)?.value {
            Value::Scalar(..) => self.text(key).map(|text| vec![text]),
            _ => self.texts(key),
        }
    }

    /// A mapping of texts to texts, strictly (`env-vars`).
    pub fn text_map(&self, key: &'static str) -> Option<IndexMap<String, String>> {
        let subject = format!("a value of `{key}`");
        let value = |node: &Node| self.text_in(&subject, node, |_| "write a single text".to_owned());
        self.free_map(key, |node| self.key_of(key, node), value)
    }

    /// A key of the mapping that is the value of a key.
    fn key_of(&self, key: &str, node: &Node) -> Option<String> {
        self.text_in(&format!("a key of `{key}`"), node, |_| "write a single text".to_owned())
    }

    /// A mapping of anything to anything, as Python's `str()` would write it (`meta`, `instance-properties`). What is
    /// no plain value is written as JSON, for want of a meaning.
    pub fn str_map(&self, key: &'static str) -> Option<IndexMap<String, String>> {
        self.free_map(key, python_str, |node| {
            Some(python_str(node).unwrap_or_else(|| {
                let message = format!("{}: a value of `{key}` should be plain, not {}", self.what, node.describe());
                let help = "write a single text or number; it counts as the JSON that it is now";
                self.report().warning(node.at, message, Some(help.to_owned()));
                json(node).to_string()
            }))
        })
    }

    fn free_map<T>(
        &self,
        key: &'static str,
        name: impl Fn(&'a Node) -> Option<String>,
        value: impl Fn(&'a Node) -> Option<T>,
    ) -> Option<IndexMap<String, T>> {
        let node = self.get(key)?;
        let Some(entries) = node.entries() else {
            self.not_a_mapping(key, node);
            return None;
        };
        let pairs = entries.iter().filter_map(|(key, node)| Some((name(key)?, value(node)?)));
        Some(pairs.collect())
    }

    /// A mapping of anything, as JSON (`node-attributes`).
    pub fn json_map(&self, key: &'static str) -> Option<Object> {
        let node = self.get(key)?;
        if let Shape::Object(object) = json(node).shape() {
            return Some(object);
        }
        self.not_a_mapping(key, node);
        None
    }

    fn not_a_mapping(&self, key: &str, node: &Node) {
        // The value of a variable may be a password.
        let is_text = matches!(node.value, Value::Scalar(Meaning::Text, _));
        let found = if key == "env-vars" && is_text { "a text".to_owned() } else { node.describe() };
        let message = format!("must be a mapping, not {found}");
        self.wrong(node.at, key, message, shapes::as_mapping_of(key, node));
    }

    /// A list of anything, as JSON (`volumes`).
    pub fn json_list(&self, key: &'static str) -> Option<Vec<Json>> {
        let node = self.get(key)?;
        if let Shape::List(list) = json(node).shape() {
            return Some(list);
        }
        let message = format!("must be a list, not {}", node.describe());
        self.wrong(node.at, key, message, shapes::as_list(key, node));
        None
    }

    /// The entries that nobody has asked for so far, as JSON.
    pub fn rest_as_json(self) -> impl Iterator<Item = (String, Json)> {
        self.rest().map(|(key, value)| (json_key(key), json(value)))
    }
}
