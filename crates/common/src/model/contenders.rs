//! [`Contenders`]: who has a lock, or waits for it.

use std::{collections::BTreeSet, sync::Arc};

/// The children of a lock's directory, in the order of their names.
///
/// Each record has a lock, and most locks have one contender or none: it takes no more memory than its names do, and a clone
/// shares these.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Contenders(Box<[Arc<str>]>);

impl Contenders {
    /// Whether there are none: nobody has the lock.
    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether that name is among them.
    pub fn contains(&self, name: &str) -> bool {
        self.find(name).is_ok()
    }

    /// The names, in their order.
    pub fn iter(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(AsRef::as_ref)
    }

    /// Adds a name. Returns whether it was not there.
    pub fn insert(&mut self, name: impl Into<Arc<str>>) -> bool {
        let name = name.into();
        let Err(at) = self.find(&name) else { return false };
        self.change(|names| names.insert(at, name));
        true
    }

    /// Takes a name out. Returns whether it was there.
    pub fn remove(&mut self, name: &str) -> bool {
        let Ok(at) = self.find(name) else { return false };
        self.change(|names| drop(names.remove(at)));
        true
    }

    /// Takes all names out.
    pub fn clear(&mut self) {
        *self = Self::default();
    }

    /// Where a name is, or would be.
    fn find(&self, name: &str) -> Result<usize, usize> {
        self.0.binary_search_by(|there| there.as_ref().cmp(name))
    }

    fn change(&mut self, change: impl FnOnce(&mut Vec<Arc<str>>)) {
        let mut names = std::mem::take(&mut self.0).into_vec();
        change(&mut names);
        self.0 = names.into_boxed_slice();
    }
}

impl<S: Into<Arc<str>>> FromIterator<S> for Contenders {
    fn from_iter<I: IntoIterator<Item = S>>(names: I) -> Self {
        let names: BTreeSet<Arc<str>> = names.into_iter().map(Into::into).collect();
        Self(names.into_iter().collect())
    }
}

impl<S: Into<Arc<str>>, const N: usize> From<[S; N]> for Contenders {
    fn from(names: [S; N]) -> Self {
        names.into_iter().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_in_order_and_each_of_them_is_there_once() {
        let mut contenders = Contenders::from(["b", "a", "b"]);
        assert!(contenders.insert("c") && contenders.insert("0"));
        assert!(!contenders.insert("b".to_owned()), "it is there");
        assert_eq!(contenders.iter().collect::<Vec<_>>(), ["0", "a", "b", "c"]);
        assert!(contenders.remove("a") && !contenders.remove("a"));
        assert!(contenders.contains("b") && !contenders.contains("a"));
        assert_eq!(contenders, Contenders::from(["c", "0", "b"]));
        contenders.clear();
        assert!(contenders.is_empty());
    }
}
