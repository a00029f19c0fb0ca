//! Histories of builders that are lived in each run of the tests, and those that were asked for.

#[cfg(debug_assertions)]
mod mutations;

use std::time::{Duration, Instant};

use super::{
    super::{
        shrink::keep_story,
        tests::{level, number},
        world::Outcome,
    },
    plan::Plan,
    world::live,
};

/// How long the histories of an ordinary run take at most, by the host's clock.
const LIMIT: Duration = Duration::from_secs(12);
/// Those of an ordinary run, after [`FOUND`].
const ORDINARY: std::ops::Range<u64> = 0..40;
/// Histories that broke a promise once, and what was mended.
const FOUND: [u64; 1] = [
    // A build that had just ended well was retired as one that was left half done: what it was by then was not looked at.
    110,
];

fn judge(plan: &Plan, outcome: &Outcome) {
    if outcome.broken.is_empty() {
        return;
    }
    let again = live(plan, level());
    let written = keep_story(&format!("builder-{}", plan.seed), plan, &again);
    panic!(
        "{plan}\nbroken: {:#?}\nThe whole story, with the builders' log: {written}\nTo see it again: make sim BUILDERS={}",
        outcome.broken, plan.seed
    );
}

/// `BUILDERS`: that history alone, with the builders' log. `BUILDER_CASES`: so many from `FROM` on.
#[test]
fn no_history_of_builders_breaks_a_promise() {
    if let Some(seed) = number("BUILDERS") {
        let plan = Plan::of(seed);
        let outcome = live(&plan, level());
        println!("{plan}\nits story: {}", keep_story(&format!("builder-{seed}"), &plan, &outcome));
        assert!(outcome.broken.is_empty(), "{:#?}", outcome.broken);
        return;
    }
    if let Some(cases) = number("BUILDER_CASES") {
        let from = number("FROM").unwrap_or(ORDINARY.start);
        let is_broken = |seed: &u64| {
            let outcome = live(&Plan::of(*seed), None);
            outcome.broken.first().inspect(|first| println!("seed {seed}: {first}")).is_some()
        };
        let broken: Vec<_> = (from..from + cases).filter(is_broken).collect();
        assert!(broken.is_empty(), "{} of {cases} histories break a promise: {broken:?}", broken.len());
        return;
    }
    // How long the host takes is meant.
    #[allow(clippy::disallowed_methods)]
    let began = Instant::now();
    let mut count = 0;
    for seed in FOUND.into_iter().chain(ORDINARY) {
        if began.elapsed() > LIMIT {
            break;
        }
        let plan = Plan::of(seed);
        judge(&plan, &live(&plan, None));
        count += 1;
    }
    println!("{count} histories of builders in {:.1} s", began.elapsed().as_secs_f64());
}

#[test]
fn the_same_seed_tells_the_same_story_of_builders_twice() {
    for seed in 0..4 {
        let plan = Plan::of(seed);
        let (first, second) = (live(&plan, None), live(&plan, None));
        for (first, second) in first.lines.iter().zip(&second.lines) {
            assert_eq!(first, second, "seed {seed}");
        }
        assert_eq!(first.lines.len(), second.lines.len(), "seed {seed}");
    }
}
