//! [`Echoes`]: events of our own writes, which need no reading.
//!
//! What we write is put into the cache with the answer, which has the version. The event says the same, but a server tells of
//! a change before it answers who has made it. So what an event names is not read while a write of ours to it is under
//! way, and not afterwards if the cache has what the event tells of, or something newer: events carry their transaction
//! (ZooKeeper 3.9 or newer; of an older server everything is read).

use std::collections::BTreeMap;

use super::super::paths::Spot;

/// A write of ours that is under way.
#[derive(Debug)]
pub(in crate::zk) enum Write {
    /// Of a record that we know.
    Of(Spot),
    /// It creates a node, whose name only the answer tells.
    NewNode,
}

/// What an event says, to who knows the cache.
pub(super) enum Echo {
    /// Something that the cache does not have.
    News,
    /// Nothing new.
    Known,
    /// Maybe what the answer to a write of ours brings.
    Awaited,
}

/// Writes of ours that are under way, each with the number of its beginning.
#[derive(Debug, Default)]
pub(super) struct Echoes {
    next: u64,
    open: BTreeMap<u64, Write>,
}

impl Echoes {
    /// A write begins; its number.
    pub fn open(&mut self, write: Write) -> u64 {
        self.next += 1;
        self.open.insert(self.next, write);
        self.next
    }

    /// Its answer is in the cache, or there will be none.
    pub fn close(&mut self, number: u64) {
        self.open.remove(&number);
    }

    /// Another session has begun: the answers that are still to come are to writes of the one before.
    pub fn forget(&mut self) {
        self.open.clear();
    }

    /// The number of the write that began last.
    pub fn last(&self) -> u64 {
        self.next
    }

    /// Whether an answer that is still to come to one of the first `until` writes may bring what is at that path.
    pub fn may_bring(&self, spot: &Spot, is_known: bool, until: u64) -> bool {
        self.open.range(..=until).any(|(_, write)| match write {
            Write::Of(written) => written == spot,
            Write::NewNode => matches!(spot, Spot::Node(_)) && !is_known,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_write_may_bring_is_waited_for_until_its_answer_and_not_for_later_ones() {
        let (one, two) = (Spot::Node("1".into()), Spot::Node("2".into()));
        let mut echoes = Echoes::default();
        assert!(!echoes.may_bring(&one, true, echoes.last()));
        let first = echoes.open(Write::Of(one.clone()));
        let heard = echoes.last();
        assert!(echoes.may_bring(&one, true, heard) && !echoes.may_bring(&two, true, heard));
        let second = echoes.open(Write::Of(one.clone()));
        echoes.close(first);
        assert!(!echoes.may_bring(&one, true, heard), "the event came before the second write");
        assert!(echoes.may_bring(&one, true, echoes.last()));
        echoes.close(second);
        let third = echoes.open(Write::NewNode);
        assert!(echoes.may_bring(&two, false, echoes.last()), "it may be the new one");
        assert!(!echoes.may_bring(&two, true, echoes.last()));
        assert!(!echoes.may_bring(&Spot::Request("r".into()), false, echoes.last()));
        echoes.close(third);
        assert!(!echoes.may_bring(&two, false, echoes.last()));
    }
}
