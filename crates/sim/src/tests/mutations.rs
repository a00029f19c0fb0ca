//! Each guard is removed by itself, and some history has to break a promise then that it keeps with the guard in place. Where none does,
//! the promises are too weak, or the troubles.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, panic,
    path::{Path, PathBuf},
};

use nodepool_common::model::guard;

use super::{given, number};
use crate::{plan::Plan, world::live_until_broken};

/// All guards by name ([`guard`]), each with the seed of the history that is tried first: one in which it was missed.
const GUARDS: &[(&str, u64)] = &[
    ("all nodes ready before the answer", 0),
    ("attempts of a launch", 0),
    ("count of what is ordered", 0),
    ("decline of every pool", 0),
    ("decline of what never fits", 11),
    ("decline only for what is true", 0),
    ("empty directory of a claimed lock", 4),
    ("end of a failed attempt's server", 2),
    ("end of a launch without an outcome", 2),
    ("end of a node left in init", 9),
    ("end of a node whose server is gone", 1),
    ("end of a request for stock", 4),
    ("end of a request's lock directory", 1),
    ("end of a server before its record", 0),
    ("end of an aborted node", 9),
    ("end of an allocation", 0),
    ("end of an allocation whose lock is lost", 4_000_514),
    ("end of what a lost session held", 11),
    ("end of what is too old", 4),
    ("fence of a write", 2),
    ("index update after a change", 0),
    ("ledger entry of a launch", 9),
    ("limit of a pool", 11),
    ("lock kept after a write", 0),
    ("look after a lost answer of a claim", 63),
    ("look after a lost answer of a write", 4),
    ("look for a server after a lost answer", 2),
    ("new node in the records at once", 9),
    ("node of a resource", 1),
    ("pause after a failure", 0),
    ("pause after a question that failed", 11),
    ("pause before a cloud is started again", 11),
    ("place in line for a lock", 2),
    ("quota of a provider", 9),
    ("record of a server's id", 3),
    ("request set aside for its action", 9),
    ("return of a lost request", 1),
    ("room set aside in a pass", 9),
    ("second look at a leak", 9),
    ("state of a request under its lock", 26),
    ("unlocking of nodes with the answer", 1),
    ("walk after a gap", 5),
];
/// Guards whose removal no history has shown so far, or one in a hundred at most: what they prevent takes a narrower race, or a rarer
/// error, than those have.
const NOT_MISSED_YET: &[&str] = &[
    "pause after an error",
    "state of a ready node under its lock",
    "state of an idle node under its lock",
    "version of a claim",
    "wait for records that are renewed",
];
/// In so many histories at most a guard has to be missed: that of its own seed, and the first ones.
const TRIES: u64 = 25;

/// The first promise that the history of a seed breaks without a guard (`None`: with all of them). A panic counts as one.
fn broken(seed: u64, without: Option<&'static str>) -> Option<String> {
    guard::remove(without);
    let outcome = panic::catch_unwind(|| live_until_broken(&Plan::of(seed)));
    guard::remove(None);
    outcome.map_or_else(|_| Some("it panics".to_owned()), |outcome| outcome.broken.into_iter().next())
}

/// Histories with all guards in place, each lived once.
#[derive(Default)]
struct Whole(BTreeMap<u64, Option<String>>);

impl Whole {
    /// The promise that such a history breaks all the same: then it says nothing of what is missing.
    fn broken(&mut self, seed: u64) -> Option<&String> {
        self.0.entry(seed).or_insert_with(|| broken(seed, None)).as_ref()
    }
}

/// The first of these seeds whose history breaks a promise without a guard, and keeps all with it; and that promise.
fn missed(name: &'static str, seeds: impl Iterator<Item = u64>, whole: &mut Whole) -> Option<(u64, String)> {
    for seed in seeds {
        if let Some(how) = broken(seed, Some(name)) {
            match whole.broken(seed) {
                None => return Some((seed, how)),
                Some(all_the_same) => println!("seed {seed} breaks a promise with all guards in place: {all_the_same}"),
            }
        }
    }
    None
}

/// `GUARD`: that one alone, also one that is not missed yet. `FROM`: from that seed on; `TRIES`: so many seeds. Prints the list anew.
#[test]
fn each_guard_is_missed() {
    let only: Option<String> = given("GUARD");
    let (from, tries) = (number("FROM"), number("TRIES").unwrap_or(TRIES));
    let mut survivors = Vec::new();
    let mut whole = Whole::default();
    let others = NOT_MISSED_YET.iter().map(|name| (*name, 0)).filter(|_| only.is_some());
    let all = GUARDS.iter().copied().chain(others);
    for (name, first) in all.filter(|(name, _)| only.as_ref().is_none_or(|only| only == name || only == "all")) {
        let seeds = match from {
            Some(from) => from..from + tries,
            None => 0..tries,
        };
        let seeds = std::iter::once(first).filter(|_| from.is_none()).chain(seeds.filter(|seed| *seed != first));
        match missed(name, seeds, &mut whole) {
            Some((seed, how)) => println!("    (\"{name}\", {seed}), // {how}"),
            None => survivors.push(name),
        }
    }
    assert!(survivors.is_empty(), "nothing shows that these are missing: {survivors:#?}");
}

/// All files of Rust below a directory.
pub fn sources(dir: &Path, all: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, all);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            all.push(path);
        }
    }
}

#[test]
fn every_guard_is_listed_and_is_there() {
    let mut files = Vec::new();
    for of in ["common", "drivers", "launcher"] {
        sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(of).join("src"), &mut files);
    }
    let mut named = BTreeSet::new();
    for text in files.iter().map(|file| fs::read_to_string(file).unwrap()) {
        let found = text.split("guard::is_removed(\"").skip(1).filter_map(|rest| rest.split('"').next());
        named.extend(found.filter(|name| *name != "…").map(str::to_owned));
    }
    let listed = GUARDS.iter().map(|(name, _)| name).chain(NOT_MISSED_YET);
    let listed: BTreeSet<String> = listed.map(|name| (*name).to_owned()).collect();
    assert_eq!(named, listed);
}
