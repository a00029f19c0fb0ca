//! [`shared`]: texts that many records have, each of them kept once.

use std::{
    collections::HashSet,
    sync::{Arc, LazyLock, Mutex, PoisonError},
};

/// At how many texts those that nobody has any more are first looked for.
const FEW: usize = 1024;

static TEXTS: LazyLock<Mutex<Texts>> = LazyLock::new(Mutex::default);

/// The one copy of a text.
///
/// A site has a few providers, labels, users and zones, and each of its nodes names some of them. For texts that differ from
/// record to record it would only cost time.
pub(super) fn shared(text: &str) -> Arc<str> {
    TEXTS.lock().unwrap_or_else(PoisonError::into_inner).shared(text)
}

/// Texts that are in use, or were not long ago: at most twice as many as were in use when they were last looked through, or
/// [`FEW`].
#[derive(Debug)]
struct Texts {
    known: HashSet<Arc<str>>,
    /// At how many they are looked through next.
    many: usize,
}

impl Default for Texts {
    fn default() -> Self {
        Self { known: HashSet::new(), many: FEW }
    }
}

impl Texts {
    fn shared(&mut self, text: &str) -> Arc<str> {
        if let Some(known) = self.known.get(text) {
            return Arc::clone(known);
        }
        if self.known.len() >= self.many {
            // Whoever wants one has to come by here: it stays that nobody else has it.
            self.known.retain(|text| Arc::strong_count(text) > 1);
            self.many = FEW.max(2 * self.known.len());
        }
        let text: Arc<str> = text.into();
        self.known.insert(Arc::clone(&text));
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_kept_once_and_not_longer_than_somebody_has_it() {
        let mut texts = Texts::default();
        let kept: Vec<_> = (0..10).map(|number| texts.shared(&format!("kept {number}"))).collect();
        for number in 0..10 * FEW {
            texts.shared(&format!("dropped {number}"));
            assert!(texts.known.len() <= FEW, "{}", texts.known.len());
        }
        for (number, text) in kept.iter().enumerate() {
            assert!(Arc::ptr_eq(text, &texts.shared(&format!("kept {number}"))));
        }
        let held: Vec<_> = (0..3 * FEW).map(|number| texts.shared(&format!("held {number}"))).collect();
        assert!(texts.known.len() >= held.len(), "what somebody has stays");
    }
}
