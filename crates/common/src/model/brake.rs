//! The brake on removals: a search that finds what no record knows must not empty a cloud because the records are gone.
//!
//! Launchers remove what carries their provider's name and is on no record; builders remove files of builds that are on no
//! record. Both are right only as long as ZooKeeper has the records. After a restore without `/nodepool`, with an old copy of
//! it, or after somebody has deleted a part of it, everything that runs looks leaked. So each search is judged as a whole
//! before anything of it is removed ([`judge`]):
//!
//! 1. Nothing is removed of a search that has a [`Search::doubt`]: a sign that the records are not those of the things found.
//!    The planners know such signs: servers that name nodes which this ZooKeeper has not given out yet, images in the cloud
//!    while no upload is on record, image files while none of them is on record.
//! 2. Nothing is removed of a search that finds more than [`FEW`] of a sort **and** more of it than is on record. A hundred
//!    nodes on record and thirty servers that a dead launcher has left: they go. Thirty servers beside five nodes: somebody has
//!    to look. Uploaded images are a sort of their own; what is made with servers is reckoned with them.
//! 3. As long as something is held back, everything else that is found is held back too, however little it is: after a
//!    restore the records grow, and the old things come to light one by one as their nodes' numbers are given out again.
//!
//! What is held back is on record ([`HeldBack`]): that is how a restarted launcher, and another one of the same provider,
//! knows of it, and where it is allowed. An allowed item goes if it is still found then; nothing else does. The record goes
//! with the last of its items: when all are removed, or are no longer found, as after the right records were restored.
//!
//! Something may be between the two: a server that names a node which is being launched, and is not that node's server as far
//! as the record tells yet ([`Standing::Open`]). It is not found, and an item of it stays.

use std::collections::{BTreeMap, BTreeSet};

use super::{HeldBack, HeldItem};

/// So many are removed without a question, unless there is doubt about the records.
pub const FEW: usize = 10;

/// What records say of something that is marked as ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It is on record.
    Known,
    /// Its record does not say yet.
    Open,
    /// It is on no record; why.
    Leaked(String),
}

/// Something ours: its kind (`instances`, `files`, …) and its id.
pub type Thing = (String, String);

/// How many of a sort were seen.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Count {
    /// The sort, as a message names it: "images".
    pub sort: &'static str,
    /// Those that no record knows.
    pub found: usize,
    /// Those that are on record.
    pub known: usize,
}

/// What one search has found.
#[derive(Clone, Debug, Default)]
pub struct Search {
    /// Seconds since the epoch.
    pub now: i64,
    /// This host's name, for a new record.
    pub host: String,
    /// What no record knows, with why, in the order in which it is shown.
    pub found: Vec<(Thing, String)>,
    /// What is [`Standing::Open`].
    pub open: BTreeSet<Thing>,
    /// How many there are of each sort.
    pub counts: Vec<Count>,
    /// Why the records may not be those of what was found; a clause.
    pub doubt: Option<String>,
}

/// What is to become of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verdict {
    /// What may be removed, with why it has leaked.
    pub free: BTreeMap<Thing, String>,
    /// What is to be on record, all items of it; `None`: nothing is held back.
    pub held: Option<HeldBack>,
}

/// Judges a search. `held`: the record as it is.
pub fn judge(search: &Search, held: Option<&HeldBack>) -> Verdict {
    let too_many = || {
        let too_many = search.counts.iter().find(|count| count.found > FEW && count.found > count.known);
        too_many.map(|Count { sort, found, known }| {
            let known = if *known == 0 { "none".to_owned() } else { format!("only {known}") };
            format!("one search would remove {found} {sort}, and {known} of those that carry our marks are on record")
        })
    };
    let why = match held {
        Some(held) if held.why.is_empty() => "its record could not be read".to_owned(),
        Some(held) => held.why.clone(),
        None if search.found.is_empty() => return Verdict::default(),
        None => match search.doubt.clone().or_else(too_many) {
            Some(why) => why,
            None => {
                return Verdict { free: search.found.iter().cloned().collect(), held: None };
            }
        },
    };
    let before = held.map_or(&[][..], |held| &held.items);
    let mut found: BTreeMap<&Thing, &String> = search.found.iter().map(|(thing, why)| (thing, why)).collect();
    let mut items = Vec::new();
    // In the old order, so that a record that is cut off stays the same.
    for item in before {
        let thing = (item.kind.clone(), item.id.clone());
        match found.remove(&thing) {
            Some(why) => items.push(HeldItem { why: why.clone(), ..item.clone() }),
            None if search.open.contains(&thing) => items.push(item.clone()),
            None => {}
        }
    }
    let is_new = |(thing, _): &&(Thing, String)| found.contains_key(thing);
    items.extend(search.found.iter().filter(is_new).map(|((kind, id), why)| HeldItem {
        kind: kind.clone(),
        id: id.clone(),
        why: why.clone(),
        since: search.now,
        allowed: false,
    }));
    let allowed: BTreeSet<(&str, &str)> =
        items.iter().filter(|item| item.allowed).map(|item| (item.kind.as_str(), item.id.as_str())).collect();
    let is_allowed = |((kind, id), _): &&(Thing, String)| allowed.contains(&(kind.as_str(), id.as_str()));
    let free = search.found.iter().filter(is_allowed).cloned().collect();
    let since = held.map_or(search.now, |held| held.since);
    // Launchers of one provider take turns; the record must not change for that alone.
    let host = held.map_or(&search.host, |held| &held.host).clone();
    let held = (!items.is_empty()).then_some(HeldBack { host, why, since, found: items.len(), items });
    Verdict { free, held }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn thing(n: usize) -> Thing {
        ("instances".to_owned(), format!("s{n}"))
    }

    fn search(found: impl IntoIterator<Item = usize>, known: usize) -> Search {
        let found: Vec<_> = found.into_iter().map(|n| (thing(n), format!("there is no node {n}"))).collect();
        let counts = vec![
            Count { sort: "images", found: 0, known: 3 },
            Count { sort: "resources of nodes", found: found.len(), known },
        ];
        Search { now: 100, host: "h".to_owned(), found, counts, ..Search::default() }
    }

    /// The ids of what goes, and of what stays.
    fn outcome(verdict: &Verdict) -> (Vec<&str>, Vec<&str>) {
        let held = verdict.held.iter().flat_map(HeldBack::held).map(|item| item.id.as_str()).collect();
        (verdict.free.keys().map(|(_, id)| id.as_str()).collect(), held)
    }

    fn allow(held: &mut HeldBack) {
        held.items.iter_mut().for_each(|item| item.allowed = true);
    }

    #[test]
    fn a_few_leaks_go_at_once_whatever_there_is_beside_them() {
        assert_eq!(judge(&search([], 5), None), Verdict::default());
        assert_eq!(outcome(&judge(&search([1], 0), None)), (vec!["s1"], vec![]));
        assert_eq!(judge(&search(0..10, 0), None).free.len(), 10);
        assert_eq!(
            judge(&search(0..30, 100), None).free.len(),
            30,
            "what a launcher has left that died in thirty launches"
        );
        assert_eq!(judge(&search(0..30, 30), None).free.len(), 30);
    }

    #[test]
    fn more_than_is_on_record_stays() {
        let verdict = judge(&search(0..11, 10), None);
        assert_eq!(verdict.free.len(), 0);
        let held = verdict.held.unwrap();
        assert_eq!((held.found, held.items.len(), held.since), (11, 11, 100));
        assert_eq!(
            held.why,
            "one search would remove 11 resources of nodes, and only 10 of those that carry our marks are on record"
        );
        assert!(
            judge(&search(0..11, 0), None)
                .held
                .unwrap()
                .why
                .ends_with("and none of those that carry our marks are on record")
        );
    }

    #[test]
    fn nothing_goes_while_there_is_doubt_about_the_records() {
        let verdict = judge(&Search { doubt: Some("why".to_owned()), ..search([1], 50) }, None);
        assert_eq!(outcome(&verdict), (vec![], vec!["s1"]));
        assert_eq!(verdict.held.unwrap().why, "why");
        assert_eq!(judge(&Search { doubt: Some("why".to_owned()), ..search([], 50) }, None), Verdict::default());
    }

    #[test]
    fn what_comes_later_is_held_back_too_and_the_records_growth_frees_nothing() {
        let held = judge(&search(0..11, 0), None).held.unwrap();
        let later = judge(&Search { now: 200, ..search(0..12, 500) }, Some(&held));
        assert_eq!(later.free.len(), 0);
        let held = later.held.unwrap();
        assert_eq!((held.since, held.items[0].since, held.items[11].since), (100, 100, 200));
        let elsewhere = Search { host: "other".to_owned(), ..search(0..12, 500) };
        assert_eq!(judge(&elsewhere, Some(&held)).held, Some(held), "the same again is no change, whoever finds it");
    }

    #[test]
    fn what_was_allowed_goes_and_nothing_that_is_found_later() {
        let mut held = judge(&search(0..11, 0), None).held.unwrap();
        allow(&mut held);
        let verdict = judge(&search(0..12, 0), Some(&held));
        assert_eq!(verdict.free.into_keys().collect::<BTreeSet<_>>(), (0..11).map(thing).collect());
        let held = verdict.held.unwrap();
        assert_eq!(held.held().map(|item| item.id.as_str()).collect::<Vec<_>>(), ["s11"]);
        assert_eq!(
            held.items.len(),
            12,
            "what the cloud still lists stays on record, in case that it must be asked again"
        );
        let verdict = judge(&search([11], 0), Some(&held));
        assert_eq!(outcome(&verdict), (vec![], vec!["s11"]));
    }

    #[test]
    fn the_record_goes_with_what_it_holds_back() {
        let mut held = judge(&search(0..11, 0), None).held.unwrap();
        assert_eq!(judge(&search([], 11), Some(&held)), Verdict::default(), "the records were restored");
        allow(&mut held);
        assert_eq!(judge(&search([], 0), Some(&held)), Verdict::default(), "all were removed");
    }

    #[test]
    fn what_names_a_node_that_is_being_launched_stays_on_record_and_in_the_cloud() {
        let mut held = judge(&search(0..11, 0), None).held.unwrap();
        allow(&mut held);
        let open = BTreeSet::from([thing(3), thing(77)]);
        let verdict = judge(&Search { open, ..search([4], 0) }, Some(&held));
        assert_eq!(verdict.free.keys().collect::<Vec<_>>(), [&thing(4)]);
        let ids: Vec<_> = verdict.held.iter().flat_map(|held| &held.items).map(|item| item.id.as_str()).collect();
        assert_eq!(ids, ["s3", "s4"]);
        let verdict = judge(&search([3], 1), verdict.held.as_ref());
        assert_eq!(verdict.free.keys().collect::<Vec<_>>(), [&thing(3)], "its node is ready, and has another server");
    }

    #[test]
    fn a_record_that_cannot_be_read_holds_back() {
        let verdict = judge(&search([1], 50), Some(&HeldBack::default()));
        assert_eq!(outcome(&verdict), (vec![], vec!["s1"]));
    }
}
