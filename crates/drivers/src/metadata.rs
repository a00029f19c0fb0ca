//! [`Metadata`]: what people and programs have put on a cloud's resources, kept in little memory.

use std::sync::Arc;

use serde_json::{Map, Value};

/// Values by name. Most are texts, and a listing has them for thousands of servers: as a map each server's would take more
/// than a KiB. Cheap to clone.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Metadata {
    /// All names of texts, each with its text behind it.
    texts: Arc<str>,
    /// Where each of those ends.
    ends: Arc<[usize]>,
    /// What is no text.
    others: Option<Arc<Map<String, Value>>>,
}

impl Metadata {
    /// A text.
    pub fn text(&self, name: &str) -> Option<&str> {
        self.texts().find(|(other, _)| *other == name).map(|(_, text)| text)
    }

    /// All texts with their names.
    fn texts(&self) -> impl Iterator<Item = (&str, &str)> {
        let mut start = 0;
        let mut next = move |end: usize| self.texts.get(std::mem::replace(&mut start, end)..end).unwrap_or_default();
        self.ends.chunks_exact(2).map(move |ends| (next(ends[0]), next(ends[1])))
    }

    /// All of it; texts come first.
    pub fn to_map(&self) -> Map<String, Value> {
        let texts = self.texts().map(|(name, text)| (name.to_owned(), text.into()));
        let others = self.others.iter().flat_map(|others| others.iter());
        texts.chain(others.map(|(name, value)| (name.clone(), value.clone()))).collect()
    }
}

impl From<&Map<String, Value>> for Metadata {
    fn from(map: &Map<String, Value>) -> Self {
        let (mut texts, mut ends) = (String::new(), Vec::new());
        let mut others = Map::new();
        for (name, value) in map {
            let Value::String(text) = value else {
                others.insert(name.clone(), value.clone());
                continue;
            };
            for part in [name, text] {
                texts.push_str(part);
                ends.push(texts.len());
            }
        }
        let others = (!others.is_empty()).then(|| Arc::new(others));
        Self { texts: texts.into(), ends: ends.into(), others }
    }
}

impl From<Map<String, Value>> for Metadata {
    fn from(map: Map<String, Value>) -> Self {
        Self::from(&map)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_was_put_in_is_found_again() {
        let map = json!({"a": "1", "": "empty name", "size": 7, "b": "", "ä": "ö", "none": null});
        let metadata = Metadata::from(map.as_object().unwrap());
        assert_eq!(Value::Object(metadata.to_map()), map);
        let texts = ["a", "", "b", "ä", "size", "1"].map(|name| metadata.text(name));
        assert_eq!(texts, [Some("1"), Some("empty name"), Some(""), Some("ö"), None, None]);
        assert_eq!(Metadata::default(), Metadata::from(&Map::new()));
    }
}
