//! Each guard is removed by itself, and some history has to break a promise then: what does not notice is too weak, the promises or
//! the troubles.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use nodepool_common::model::guard;

use super::{given, number};
use crate::{plan::Plan, world::live_until_broken};

/// All guards by name ([`guard`]), each with the seed that is tried first: one that noticed.
const GUARDS: &[(&str, u64)] = &[
    ("all nodes ready before the answer", 0),
    ("attempts of a launch", 0),
    ("count of what is ordered", 0),
    ("decline of every pool", 0),
    ("decline only for what is true", 0),
    ("end of a failed attempt's server", 2),
    ("end of a server before its record", 0),
    ("end of an allocation", 0),
    ("end of what is too old", 4),
    ("fence of a write", 2),
    ("index update after a change", 0),
    ("ledger entry of a launch", 9),
    ("limit of a pool", 11),
    ("lock kept after a write", 0),
    ("look after a lost answer of a claim", 8),
    ("look after a lost answer of a write", 1),
    ("pause after a failure", 0),
    ("quota of a provider", 9),
    ("return of a lost request", 1),
    ("second look at a leak", 9),
    ("state of a request under its lock", 4),
    ("version of a claim", 24),
    ("walk after a gap", 1),
];
/// Guards whose removal no history has shown so far, in six histories and more: what they prevent takes a narrower race, or a rarer error, than
/// those have.
const NOT_MISSED_YET: &[&str] = &[
    "pause after an error",
    "state of a ready node under its lock",
    "state of an idle node under its lock",
    "wait for records that are renewed",
];
/// How many histories a guard has to be missed in, at most.
const TRIES: u64 = 40;

/// The first promise that a history breaks without a guard, and in which history that is. A panic counts as well.
fn noticed(name: &'static str, first: u64) -> Option<(u64, String)> {
    (first..first + number("TRIES").unwrap_or(TRIES)).find_map(|seed| {
        guard::remove(Some(name));
        let outcome = std::panic::catch_unwind(|| live_until_broken(&Plan::of(seed)));
        guard::remove(None);
        match outcome {
            Ok(outcome) => Some((seed, outcome.broken.into_iter().next()?)),
            Err(_) => Some((seed, "it panics".to_owned())),
        }
    })
}

/// `GUARD`: that one alone, also one that is not missed yet; `FROM`: from that seed on.
#[test]
fn each_guard_is_missed() {
    let only: Option<String> = given("GUARD");
    let from = number("FROM");
    let mut survivors = Vec::new();
    let others = NOT_MISSED_YET.iter().map(|name| (*name, 0)).filter(|_| only.is_some());
    let all = GUARDS.iter().copied().chain(others);
    for (name, first) in all.filter(|(name, _)| only.as_ref().is_none_or(|only| only == name)) {
        match noticed(name, from.unwrap_or(first)) {
            Some((seed, how)) => println!("without the {name}, seed {seed}: {how}"),
            None => survivors.push(name),
        }
    }
    assert!(survivors.is_empty(), "nothing notices that these are missing: {survivors:#?}");
}

fn sources(dir: &Path, all: &mut Vec<PathBuf>) {
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
    for of in ["common", "launcher"] {
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
