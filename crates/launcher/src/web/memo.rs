//! The last second's answers. A dashboard open in a hundred browsers costs one table a second.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use nodepool_common::model::Timestamp;

use super::{
    accept::Format,
    reply::{Document, EXPIRY},
};

/// Path, query parameters in their order, format.
pub(super) type Key = (String, Vec<(String, String)>, Format);

/// Answers by what was asked.
#[derive(Default)]
pub(super) struct Memo(Mutex<HashMap<Key, Document>>);

impl Memo {
    /// The answer of the last second, else a new one. Two who ask at once may both make it.
    pub(super) fn get_or_make(&self, key: Key, now: Timestamp, make: impl FnOnce() -> String) -> Document {
        self.get(&key, now).unwrap_or_else(|| self.put(key, now, make()))
    }

    /// The answer of the last second.
    pub(super) fn get(&self, key: &Key, now: Timestamp) -> Option<Document> {
        self.documents().get(key).filter(|document| document.is_fresh(now)).cloned()
    }

    /// Keeps a new one.
    pub(super) fn put(&self, key: Key, now: Timestamp, body: String) -> Document {
        let document = Document { made: now, body: body.into() };
        let mut documents = self.documents();
        // Queries can be anything; what is old must not stay.
        documents.retain(|_, document| document.is_fresh(now));
        documents.insert(key, document.clone());
        document
    }

    fn documents(&self) -> MutexGuard<'_, HashMap<Key, Document>> {
        // Nothing can be left half-done under this lock, so a poisoned one is as good.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Document {
    fn is_fresh(&self, now: Timestamp) -> bool {
        (0.0..=EXPIRY).contains(&(now - self.made))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_made_once_a_second_and_old_ones_are_forgotten() {
        let memo = Memo::default();
        let key = |path: &str| (path.to_owned(), Vec::new(), Format::Text);
        assert_eq!(&*memo.get_or_make(key("/a"), 10.0, || "one".to_owned()).body, "one");
        assert_eq!(&*memo.get_or_make(key("/a"), 11.0, || "two".to_owned()).body, "one");
        assert_eq!(&*memo.get_or_make(key("/b"), 11.0, || "other".to_owned()).body, "other");
        assert_eq!(&*memo.get_or_make(key("/a"), 11.5, || "two".to_owned()).body, "two");
        assert_eq!(&*memo.get_or_make(key("/a"), 3.0, || "three".to_owned()).body, "three", "the clock was set back");
        assert_eq!(memo.0.lock().unwrap().len(), 1);
    }
}
