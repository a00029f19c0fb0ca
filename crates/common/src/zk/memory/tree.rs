//! [`Tree`]: the znodes.

use std::collections::{BTreeMap, BTreeSet};

use super::super::protocol::Stat;

/// All znodes, by their paths.
#[derive(Default)]
pub struct Tree(pub(super) BTreeMap<String, Znode>);

impl Tree {
    /// A znode's data and stat; `None`: there is none.
    pub fn get(&self, path: &str) -> Option<(&[u8], Stat)> {
        self.0.get(path).map(|znode| (znode.data.as_slice(), znode.stat()))
    }

    /// The names of a znode's children, in their order; none where there is no such znode.
    pub fn children(&self, path: &str) -> impl Iterator<Item = &str> {
        self.0.get(path).into_iter().flat_map(|znode| znode.children.iter().map(String::as_str))
    }
}

#[derive(Default)]
pub(super) struct Znode {
    pub data: Vec<u8>,
    /// But for what follows from the children.
    pub stat: Stat,
    pub children: BTreeSet<String>,
    /// How many children were ever created.
    pub created: i32,
}

impl Znode {
    pub fn stat(&self) -> Stat {
        let num_children = i32::try_from(self.children.len()).unwrap_or(i32::MAX);
        // As a real one tells it: each creation and each deletion counts.
        Stat { num_children, cversion: self.created.wrapping_mul(2).wrapping_sub(num_children), ..self.stat }
    }

    /// A real server's order is that of a hash table. This one is not that of their creation, by which locks are ordered.
    pub fn children(&self) -> Vec<String> {
        self.children.iter().rev().cloned().collect()
    }
}
