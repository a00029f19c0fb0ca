//! Histories that are lived in each run of the tests, and those that were asked for.

mod campaign;
#[cfg(debug_assertions)]
pub mod mutations;
mod promises;

use std::{
    env,
    str::FromStr,
    time::{Duration, Instant},
};

use tracing::Level;

use super::{
    plan::Plan,
    shrink,
    world::{Outcome, live},
};

/// How long the histories of an ordinary run take at most, by the host's clock.
const LIMIT: Duration = Duration::from_secs(30);
/// Those of an ordinary run, after [`FOUND`].
const ORDINARY: std::ops::Range<u64> = 1000..1036;
/// Histories that broke a promise once, and what was mended.
const FOUND: [u64; 16] = [
    // A walk ended while a node was created: the cache did not have it when room was counted, and one too many was made.
    11,
    // What others had taken of a quota was believed for ever where only requests for stock were declined for it.
    92,
    // The oracle: several launchers that ask again and again for stock for which there is no room were said to spin.
    3_000_167,
    // The oracle: a request that came just before troubles ended, the first for half an hour, was said to stand still.
    3_000_785,
    // The lock of a ready node was broken while its request waited for more: nobody could give the node back, and it took the room.
    3_000_214,
    // Two nodes were made in the same moment for one request, both answers were lost, and both launches took the same node.
    5_002_334,
    // A node was written again while it was read for the first time: the records counted as current without it, and one too many
    // was made.
    7_001_413,
    // Zuul: what it deletes or gives back when its session has just ended, the next one does.
    7_001_552, 7_001_649,
    // Each of several launchers asked for stock for which there is no room, and at once again as soon as that had failed.
    5_000_857,
    // A pool gave up a request for a launch that another pool, which had given it up before, still had under way for it.
    4_001_816,
    // The oracle: the deletion of what a failed attempt had made hung until it was given up, and that was not counted.
    5_000_608,
    // A lock's directory was taken to be as new as a clock that was an hour ahead when it was seen, and stayed for that hour.
    3_000_741,
    // The oracle: an action that looked at a node, in line behind the launcher's own lock of it, was said to keep it locked.
    6_100_781,
    // The oracle's world: Zuul's next session was not begun, as troubles ended in that moment.
    8_004_490,
    // Who let another launcher ask first for stock asked a moment later all the same, although what was on its way had come.
    9_500_239,
];

pub fn given<T: FromStr>(name: &str) -> Option<T> {
    let text = env::var(name).ok().filter(|text| !text.is_empty())?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name}={text}: not a number")))
}

pub fn number(name: &str) -> Option<u64> {
    given(name)
}

/// `LOG`: 0 for none, 2 with what is of use to developers alone.
pub fn level() -> Option<Level> {
    match number("LOG") {
        Some(0) => None,
        None | Some(1) => Some(Level::INFO),
        Some(_) => Some(Level::DEBUG),
    }
}

/// `WITHOUT`: the guard of that name is removed.
fn without_a_guard() {
    #[cfg(debug_assertions)]
    nodepool_common::model::guard::remove(given::<String>("WITHOUT").map(|name| &*name.leak()));
}

fn judge(plan: &Plan, outcome: &Outcome) {
    assert!(outcome.broken.is_empty(), "{}", shrink::tell(plan, outcome));
}

/// `SEED`: that history alone, with the launchers' log ([`level`]), where it says so `WITHOUT` a guard. `CASES`: so many from `FROM` on; without it the ordinary ones, for half a minute.
#[test]
fn no_history_breaks_a_promise() {
    if let Some(seed) = number("SEED") {
        let plan = Plan::of(seed);
        without_a_guard();
        let outcome = live(&plan, level());
        println!(
            "{plan}\n{} lines of its story, with the launchers' log: {}",
            outcome.lines.len(),
            shrink::keep(&seed.to_string(), &plan, &outcome)
        );
        judge(&plan, &outcome);
        return;
    }
    let (from, cases) = (number("FROM").unwrap_or(ORDINARY.start), number("CASES"));
    // How long the host takes is meant.
    #[allow(clippy::disallowed_methods)]
    let began = Instant::now();
    let mut seed = from;
    for seed in FOUND.into_iter().filter(|_| cases.is_none()) {
        let plan = Plan::of(seed);
        judge(&plan, &live(&plan, None));
    }
    let is_due = |seed| match cases {
        Some(cases) => seed < from + cases,
        None => began.elapsed() < LIMIT && seed - from < ORDINARY.end - ORDINARY.start,
    };
    while is_due(seed) {
        let plan = Plan::of(seed);
        judge(&plan, &live(&plan, None));
        seed += 1;
    }
    println!("{} histories in {:.1} s", seed - from, began.elapsed().as_secs_f64());
}

#[test]
fn the_same_seed_tells_the_same_story_twice() {
    for seed in 0..number("TWICE").unwrap_or(6) {
        let plan = Plan::of(seed);
        let (first, second) = (live(&plan, None), live(&plan, None));
        for (first, second) in first.lines.iter().zip(&second.lines) {
            assert_eq!(first, second, "seed {seed}");
        }
        assert_eq!(first.lines.len(), second.lines.len(), "seed {seed}");
    }
}
