//! What is known, and since when, when the clock is set.

use super::*;
use crate::model::UploadKey;

const NOW: Timestamp = 1_000_000.0;

/// A tree in which everything has been free since `NOW`, whose locks were held before.
fn tree() -> Tree {
    let mut tree = Tree::default();
    let key = UploadKey { image: "i".into(), provider: "p".into(), build: "b".into(), id: "1".into() };
    let spots = [
        Spot::Node("1".into()),
        Spot::Request("r".into()),
        Spot::RequestLock("r".into()),
        Spot::Build("i".into(), "b".into()),
        Spot::Upload(key),
    ];
    for spot in &spots {
        tree.put(spot, b"{}", Stat { mzxid: 1, ..Stat::default() }, NOW);
    }
    for lock in [Lock::Building("i".into()), Lock::Uploading("i".into(), "b".into(), "p".into())] {
        let contender = Spot::Contender(lock, "c".to_owned());
        tree.put(&contender, b"", Stat::default(), NOW - 10.0);
        tree.remove(&contender, NOW);
    }
    tree
}

fn free_since(tree: &Tree) -> Vec<Option<Timestamp>> {
    let Records { nodes, requests, request_locks, builds, uploads, building, uploading, .. } = &tree.records;
    let entries = nodes.values().map(|entry| entry.free_since);
    entries
        .chain(requests.values().map(|entry| entry.free_since))
        .chain(request_locks.values().map(|lock| lock.free_since))
        .chain(builds.values().map(|entry| entry.free_since))
        .chain(uploads.values().map(|entry| entry.free_since))
        .chain(building.values().map(|lock| lock.free_since))
        .chain(uploading.values().map(|lock| lock.free_since))
        .collect()
}

#[test]
fn what_has_been_free_for_a_time_has_been_so_for_as_long_when_the_clock_is_set() {
    assert_eq!(free_since(&tree()), [Some(NOW); 7]);
    for step in [3600.0, -3600.0] {
        let mut tree = tree();
        tree.clock_stepped(step, NOW + step + 10.0);
        assert_eq!(free_since(&tree), [Some(NOW + step); 7], "for ten seconds");
    }
}

#[test]
fn what_became_free_after_the_clock_was_set_and_before_that_was_noticed_is_not_put_off() {
    let mut tree = tree();
    // The new clock's NOW - 1 was the old one's NOW - 3601.
    tree.clock_stepped(3600.0, NOW + 1.0);
    assert_eq!(free_since(&tree), [Some(NOW + 1.0); 7]);
}

/// A launcher's clock is an hour ahead when somebody locks a request, and is set right before the request is gone.
#[test]
fn a_lock_directory_seen_by_its_contender_is_as_old_as_before_when_the_clock_is_set() {
    let mut tree = Tree::default();
    let contender = |request: &str| Spot::Contender(Lock::Request(request.into()), "c".to_owned());
    for request in ["a", "b"] {
        tree.put(&contender(request), b"", Stat::default(), NOW + 3600.0);
    }
    // The directory of this one has been read.
    tree.put(&Spot::RequestLock("b".into()), b"", Stat { ctime: 77, ..Stat::default() }, NOW + 3600.0);
    tree.clock_stepped(-3600.0, NOW + 1.0);
    let made = |tree: &Tree, request: &str| tree.records.request_locks[&RequestId::from(request)].ctime;
    assert_eq!((made(&tree, "a"), made(&tree, "b")), (1_000_000_000, 77));
    tree.remove(&Spot::RequestLock("a".into()), NOW);
    tree.clock_stepped(-3600.0, NOW);
    assert!(!tree.records.request_locks.contains_key(&RequestId::from("a")));
}
