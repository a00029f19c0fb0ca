//! Names that may stand in what could not be used.
//!
//! `labels: [a]` has no label, since its item is a text; but a pool that lists label `a` is not wrong as well, and saying so
//! would hide which of the two messages is to be acted on. So whatever text stands in an unusable item, in a list that is
//! none, under a misspelt key, or under a key that stands twice, may be a name that something else refers to.
//!
//! Only `config-validate` doubts: it reports the cause as an error. To the daemons some causes are warnings, and what refers
//! to a name that does not exist cannot run.

use std::{collections::HashSet, rc::Rc};

use super::{
    fields::Fields,
    yaml::{Node, Value},
};

/// Texts that may be names.
#[derive(Debug, Default)]
pub struct Doubtful(HashSet<String>);

impl Doubtful {
    /// Those of a list of mappings with names.
    pub fn of(fields: &Fields<'_>, list: &'static str) -> Self {
        let mut texts = HashSet::new();
        if !fields.report().strict() {
            return Self(texts);
        }
        texts.extend(fields.report().lost());
        if let Some((_, misspelt)) = fields.misspelt(list) {
            collect(misspelt, &mut texts);
        } else if let Some(node) = fields.raw(list) {
            let is_unusable = |item: &&Rc<Node>| item.get("name").is_none_or(|name| name.as_text().is_none());
            match node.items() {
                Some(items) => items.iter().filter(is_unusable).for_each(|item| collect(item, &mut texts)),
                None => collect(node, &mut texts),
            }
        }
        Self(texts)
    }

    /// Whether that may be the name of something that was reported as unusable.
    pub fn has(&self, name: &str) -> bool {
        self.0.contains(name)
    }

    /// All of them.
    pub fn into_names(self) -> impl Iterator<Item = String> {
        self.0.into_iter()
    }
}

fn collect(node: &Node, texts: &mut HashSet<String>) {
    match &node.value {
        Value::Scalar(_, text) => {
            texts.insert(text.clone());
            // `- name:a` is one text.
            texts.extend(text.split_once(':').map(|(_, value)| value.trim().to_owned()));
            // `labels: a, b` too.
            texts.extend(text.split(',').map(|name| name.trim().to_owned()));
        }
        Value::List(items) => items.iter().for_each(|item| collect(item, texts)),
        Value::Map(entries) => entries.iter().for_each(|(key, value)| {
            collect(key, texts);
            collect(value, texts);
        }),
    }
}
