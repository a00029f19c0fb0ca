//! The brake on removals: a search that finds what no record knows must not empty a cloud because the records are gone.
//!
//! Launchers remove what carries their provider's name and is on no record; builders remove files of builds that are on no
//! record. Both are right only as long as ZooKeeper has the records. After a restore without `/nodepool`, with an old copy of
//! it, or after somebody has deleted a part of it, everything that runs looks leaked. So each search is judged as a whole
//! before anything of it is removed ([`judge`]):
//!
//! 1. Nothing is removed of a search that has a [`Search::doubt`]: a sign that the records are not those of the things found.
//!    The planners know such signs: servers that name nodes which this ZooKeeper has not given out yet; of images and files
//!    alone ([`Search::image_doubt`]) images in the cloud while none of them is on record, image files while none of them is.
//! 2. Nothing is removed of a search that finds more than [`FEW`] of a sort **and** more of it than is on record. A hundred
//!    nodes on record and thirty servers that a dead launcher has left: they go. Thirty servers beside five nodes: somebody has
//!    to look. Uploaded images are a sort of their own; what is made with servers is reckoned with them.
//! 3. As long as something is held back, everything else of its [`Sort`] that is found is held back too, however little it is:
//!    after a restore the records grow, and the old things come to light one by one as their nodes' numbers are given out again.
//!
//! What is held back is on record ([`HeldBack`]): that is how a restarted launcher, and another one of the same provider,
//! knows of it, and where it is allowed. An allowed item goes if it is still found then; nothing else does. The record goes
//! with the last of its items: when all are removed, or are on record again, as after the right records were restored. An item
//! that is not there at all stays for an hour ([`MISSED_FOR`]): a cloud may fail to list a kind, and be asked again.
//!
//! Something may be between the two: a server that names a node which is being launched, and is not that node's server as far
//! as the record tells yet ([`Standing::Open`]), or what this search is the first to find. It is not found, and an item of it
//! stays.

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

/// So long an item stays that is not there, in seconds.
pub const MISSED_FOR: i64 = 3600;

/// What is judged by itself: what holds back the one does not hold back the other, unless it is a doubt about all records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sort {
    /// Servers, and what is made with them.
    Servers,
    /// Uploaded images, and files of builds.
    Images,
}

impl Sort {
    /// That of a kind, as [`HeldItem::kind`] has it.
    pub fn of(kind: &str) -> Self {
        if matches!(kind, "images" | "files") { Self::Images } else { Self::Servers }
    }
}

/// How many of a sort were seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Count {
    /// The sort.
    pub sort: Sort,
    /// As a message names it: "images".
    pub name: &'static str,
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
    /// What is [`Standing::Open`], or may only seem to have leaked.
    pub open: BTreeSet<Thing>,
    /// What is on record.
    pub known: BTreeSet<Thing>,
    /// How many there are of each sort.
    pub counts: Vec<Count>,
    /// Why the records may not be those of what was found; a clause.
    pub doubt: Option<String>,
    /// The same, of images and files alone.
    pub image_doubt: Option<String>,
}

impl Search {
    fn finds(&self, sort: Sort) -> bool {
        self.found.iter().any(|((kind, _), _)| Sort::of(kind) == sort)
    }

    /// Why nothing of the sort may be removed; `None`: it may.
    fn reason(&self, sort: Sort) -> Option<String> {
        let image_doubt = || self.image_doubt.clone().filter(|_| sort == Sort::Images);
        let too_many = || {
            let mut counts = self.counts.iter().filter(|count| count.sort == sort);
            let too_many = counts.find(|count| count.found > FEW && count.found > count.known);
            too_many.map(|Count { name, found, known, .. }| {
                let known = if *known == 0 { "none".to_owned() } else { format!("only {known}") };
                format!(
                    "one search would remove {found} {name}, and {known} of those that carry our marks are on record"
                )
            })
        };
        self.doubt.clone().or_else(image_doubt).or_else(too_many).filter(|_| self.finds(sort))
    }
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
    let holds_already = |sort: Sort| {
        // One that cannot be read, or had no room for all, may have held back anything.
        held.is_some_and(|held| !held.is_whole() || held.items.iter().any(|item| Sort::of(&item.kind) == sort))
    };
    let mut why = match held {
        Some(held) if held.why.is_empty() => "its record could not be read".to_owned(),
        Some(held) => held.why.clone(),
        None => String::new(),
    };
    let mut is_held = |sort: Sort| {
        if holds_already(sort) {
            return true;
        }
        let Some(reason) = search.reason(sort) else { return false };
        if !why.contains(&reason) {
            let and = if why.is_empty() { "" } else { "; " };
            why = format!("{why}{and}{reason}");
        }
        true
    };
    let (holds_servers, holds_images) = (is_held(Sort::Servers), is_held(Sort::Images));
    let is_held = |(kind, _): &Thing| match Sort::of(kind) {
        Sort::Servers => holds_servers,
        Sort::Images => holds_images,
    };
    let before = held.map_or(&[][..], |held| &held.items);
    let mut found: BTreeMap<&Thing, &String> = search.found.iter().map(|(thing, why)| (thing, why)).collect();
    let mut items = Vec::new();
    // In the old order, so that a record that is cut off stays the same.
    for item in before {
        let thing = (item.kind.clone(), item.id.clone());
        match found.remove(&thing) {
            Some(why) => items.push(HeldItem { why: why.clone(), missed_since: None, ..item.clone() }),
            None if search.open.contains(&thing) => items.push(HeldItem { missed_since: None, ..item.clone() }),
            None if search.known.contains(&thing) || item.allowed => {}
            None => {
                let missed_since = item.missed_since.unwrap_or(search.now);
                if search.now.saturating_sub(missed_since) < MISSED_FOR {
                    items.push(HeldItem { missed_since: Some(missed_since), ..item.clone() });
                }
            }
        }
    }
    let is_new = |(thing, _): &&(Thing, String)| found.contains_key(thing) && is_held(thing);
    items.extend(search.found.iter().filter(is_new).map(|((kind, id), why)| HeldItem {
        kind: kind.clone(),
        id: id.clone(),
        why: why.clone(),
        since: search.now,
        allowed: false,
        missed_since: None,
    }));
    let allowed: BTreeSet<(&str, &str)> =
        items.iter().filter(|item| item.allowed).map(|item| (item.kind.as_str(), item.id.as_str())).collect();
    let is_free =
        |(thing, _): &&(Thing, String)| !is_held(thing) || allowed.contains(&(thing.0.as_str(), thing.1.as_str()));
    let free = search.found.iter().filter(is_free).cloned().collect();
    // Launchers of one provider take turns; the record must not change for that alone. One that could not be read tells nothing.
    let readable = held.filter(|held| held.since > 0);
    let (since, host) = readable.map_or((search.now, &search.host), |held| (held.since, &held.host));
    let host = host.clone();
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
            Count { sort: Sort::Images, name: "images", found: 0, known: 3 },
            Count { sort: Sort::Servers, name: "resources of nodes", found: found.len(), known },
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
        let restored = Search { known: (0..11).map(thing).collect(), ..search([], 11) };
        assert_eq!(judge(&restored, Some(&held)), Verdict::default(), "the records were restored");
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
    fn what_one_search_does_not_find_stays_on_record_for_an_hour() {
        let held = judge(&search(0..11, 0), None).held.unwrap();
        let missed = judge(&Search { now: 200, ..search(1..11, 0) }, Some(&held)).held.unwrap();
        assert_eq!(
            (missed.items.len(), missed.items[0].missed_since, missed.items[1].missed_since),
            (11, Some(200), None)
        );
        let last = 200 + MISSED_FOR - 1;
        assert_eq!(judge(&Search { now: last, ..search(1..11, 0) }, Some(&missed)).held.as_ref(), Some(&missed));
        assert_eq!(judge(&Search { now: last, ..search(0..11, 0) }, Some(&missed)).held.as_ref(), Some(&held));
        let gone = judge(&Search { now: last + 1, ..search(1..11, 0) }, Some(&missed)).held.unwrap();
        assert_eq!(gone.items[..], held.items[1..]);
    }

    #[test]
    fn images_and_servers_do_not_hold_each_other_back_unless_all_records_are_in_doubt() {
        let an_image = |n: usize| (("images".to_owned(), format!("i{n}")), "there is no upload".to_owned());
        let both = |found: usize| {
            let mut search = search(0..found, 0);
            search.found.push(an_image(1));
            search
        };
        let in_doubt = Search { image_doubt: Some("no upload".to_owned()), ..both(1) };
        let verdict = judge(&in_doubt, None);
        assert_eq!(outcome(&verdict), (vec!["s0"], vec!["i1"]));
        let held = verdict.held.unwrap();
        assert_eq!(outcome(&judge(&both(2), Some(&held))), (vec!["s0", "s1"], vec!["i1"]), "nor does their record");
        let all = judge(&both(11), Some(&held)).held.unwrap();
        assert_eq!(
            (all.items.len(), all.why.starts_with("no upload; one search would remove 11")),
            (12, true),
            "{all:?}"
        );
        assert_eq!(judge(&both(11), Some(&all)).held, Some(all), "it says why once");

        let verdict = judge(&both(11), None);
        assert_eq!(verdict.free.keys().collect::<Vec<_>>(), [&an_image(1).0]);
        let held = verdict.held.unwrap();
        assert_eq!(judge(&both(11), Some(&held)).free.len(), 1);
        let cut_off = HeldBack { found: 5000, ..held };
        assert_eq!(judge(&both(11), Some(&cut_off)).free.len(), 0, "the record may have had no room for images");
        let emptied = Search { doubt: Some("why".to_owned()), ..both(1) };
        assert_eq!(judge(&emptied, None).free.len(), 0);
    }

    #[test]
    fn a_record_that_cannot_be_read_holds_back() {
        let verdict = judge(&search([1], 50), Some(&HeldBack::default()));
        assert_eq!(outcome(&verdict), (vec![], vec!["s1"]));
        let held = verdict.held.unwrap();
        assert_eq!((held.since, held.host.as_str(), held.items[0].since), (100, "h", 100), "as far as is known");
    }
}
