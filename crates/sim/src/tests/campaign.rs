//! A campaign: as many histories as fit into a time, one after the other from a seed on, on all cores. After each fourth of launchers
//! there is one of builders, of the same seed.

use std::{
    collections::BTreeMap,
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use super::{given, number};
use crate::{
    builder,
    plan::Plan,
    shrink,
    world::{Outcome, live},
};

/// So many histories of launchers there are for one of builders.
const OF_LAUNCHERS: u64 = 4;

/// What came of a campaign.
#[derive(Debug, Default)]
struct Sum {
    histories: u64,
    lived: Duration,
    lines: usize,
    /// By promise: the seeds whose histories broke it first.
    broken: BTreeMap<String, Vec<u64>>,
}

impl Sum {
    /// One more. `kind`: before the name of a promise.
    fn add(&mut self, kind: &str, seed: u64, outcome: &Outcome) {
        self.histories += 1;
        self.lived += outcome.lived;
        self.lines += outcome.lines.len();
        if let Some(promise) = outcome.broken.first().and_then(|first| first.split(':').next()) {
            self.broken.entry(format!("{kind}{promise}")).or_default().push(seed);
        }
    }
}

/// `HOURS`: for so long, by the host's clock. `FROM`: the first seed. `CASES`: no more than so many. `SHRINK=0`: only the first
/// broken promise of each history is told, not as little as still breaks it.
#[test]
#[ignore = "takes hours: make sim-campaign"]
// How long the host takes is meant.
#[allow(clippy::disallowed_methods)]
fn campaign() {
    let hours: f64 = given("HOURS").unwrap_or(1.0);
    let (from, cases) = (number("FROM").unwrap_or(1_000_000), number("CASES").unwrap_or(u64::MAX));
    let shrinks = number("SHRINK") != Some(0);
    let began = Instant::now();
    let (next, sum) = (AtomicU64::new(0), Mutex::new(Sum::default()));
    let live_on = || {
        while began.elapsed().as_secs_f64() < hours * 3600.0 {
            let number = next.fetch_add(1, Ordering::SeqCst);
            if number >= cases {
                return;
            }
            let plan = Plan::of(from + number);
            let outcome = live(&plan, None);
            if let Some(first) = outcome.broken.first() {
                println!("seed {}: {first}", plan.seed);
                if shrinks {
                    println!("{}", shrink::tell(&plan, &outcome));
                }
            }
            sum.lock().unwrap().add("", plan.seed, &outcome);
            if number % OF_LAUNCHERS == 0 {
                let outcome = builder::live(&builder::Plan::of(plan.seed), None);
                if let Some(first) = outcome.broken.first() {
                    println!("seed {} of builders: {first}", plan.seed);
                }
                sum.lock().unwrap().add("builders, ", plan.seed, &outcome);
            }
        }
    };
    let cores = thread::available_parallelism().map_or(1, Into::into);
    thread::scope(|scope| {
        for _ in 0..cores {
            scope.spawn(live_on);
        }
    });
    let sum = sum.into_inner().unwrap();
    let took = began.elapsed();
    let (lived, minutes) = (sum.lived.as_secs_f64() / 3600.0, took.as_secs_f64() / 60.0);
    #[allow(clippy::cast_precision_loss)] // a few
    let core_minutes = minutes * cores as f64;
    println!(
        "{} histories from seed {from} on, {lived:.0} simulated hours, {} events, in {minutes:.1} min on {cores} cores: \
         {:.0} simulated hours in a core's minute",
        sum.histories,
        sum.lines,
        lived / core_minutes
    );
    for (promise, seeds) in &sum.broken {
        println!("{promise}: {} histories, {seeds:?}", seeds.len());
    }
    assert!(sum.broken.is_empty(), "promises were broken; to see one again: make sim SEED=n, of builders BUILDERS=n");
}
