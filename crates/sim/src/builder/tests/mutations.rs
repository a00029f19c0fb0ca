//! As for launchers: each guard of the builder is removed by itself, and some history has to break a promise then that it keeps with the
//! guard in place.

use std::{collections::BTreeSet, fs, panic, path::Path};

use nodepool_common::model::guard;

use super::super::{
    super::tests::{given, mutations::sources, number},
    plan::Plan,
    world::live_until_broken,
};

/// All guards of the builder by name, each with the seed of the history that is tried first.
const GUARDS: &[(&str, u64)] = &[
    ("builds that rotation leaves", 15),
    ("look for a build's files", 9),
    ("mark before an image is deleted", 0),
    ("pause after a failed build", 1),
    ("search for a half-sent image", 3),
    ("state of a build before it is retired", 110),
    ("uploads that rotation leaves", 0),
];
/// Guards whose removal no history has shown so far.
const NOT_MISSED_YET: &[&str] =
    &["ready upload under its lock", "state of a build before its files go", "taking back an image without a record"];
/// How many seeds are tried for a guard beside its own.
const TRIES: u64 = 12;

/// The first promise that a history breaks without a guard (`None`: with all of them). A panic counts as one.
fn broken(seed: u64, without: Option<&'static str>) -> Option<String> {
    guard::remove(without);
    let outcome = panic::catch_unwind(|| live_until_broken(&Plan::of(seed)));
    guard::remove(None);
    outcome.map_or_else(|_| Some("it panics".to_owned()), |outcome| outcome.broken.into_iter().next())
}

/// `BUILDER_GUARD`: that one alone. `TRIES`: so many seeds. Prints the list anew.
#[test]
fn each_guard_of_the_builder_is_missed() {
    let only: Option<String> = given("BUILDER_GUARD");
    let tries = number("TRIES").unwrap_or(TRIES);
    let mut survivors = Vec::new();
    let others = NOT_MISSED_YET.iter().map(|name| (*name, 0)).filter(|_| only.is_some());
    let all = GUARDS.iter().copied().chain(others);
    for (name, first) in all.filter(|(name, _)| only.as_ref().is_none_or(|only| only == name)) {
        let seeds = std::iter::once(first).chain((0..tries).filter(|seed| *seed != first));
        let missed = |seed: u64| Some((seed, broken(seed, Some(name)).filter(|_| broken(seed, None).is_none())?));
        match seeds.into_iter().find_map(missed) {
            Some((seed, how)) => println!("    (\"{name}\", {seed}), // {how}"),
            None => survivors.push(name),
        }
    }
    assert!(survivors.is_empty(), "nothing shows that these are missing: {survivors:#?}");
}

#[test]
fn every_guard_of_the_builder_is_listed_and_is_there() {
    let mut files = Vec::new();
    sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../builder/src"), &mut files);
    let mut named = BTreeSet::new();
    for text in files.iter().map(|file| fs::read_to_string(file).unwrap()) {
        let found = text.split("guard::is_removed(\"").skip(1).filter_map(|rest| rest.split('"').next());
        named.extend(found.map(str::to_owned));
    }
    let listed = GUARDS.iter().map(|(name, _)| name).chain(NOT_MISSED_YET);
    let listed: BTreeSet<String> = listed.map(|name| (*name).to_owned()).collect();
    assert_eq!(named, listed);
}
