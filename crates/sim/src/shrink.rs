//! Makes a history that breaks a promise smaller, as long as it still breaks one: what is left tells what it takes.

use tracing::Level;

use super::{
    plan::Plan,
    world::{Outcome, live},
};

/// Histories that shrinking may live at most.
const TRIES: usize = 60;

/// A smaller plan that breaks a promise of the same name.
pub fn shrink(plan: &Plan, broken: &[String]) -> Plan {
    let promise = |broken: &[String]| broken.first().and_then(|line| line.split(':').next()).map(str::to_owned);
    let wanted = promise(broken);
    let mut tries = 0;
    let mut still_breaks = |plan: &Plan| {
        tries += 1;
        tries <= TRIES && promise(&live(plan, None).broken) == wanted
    };
    let mut best = plan.clone();
    for trouble in plan.troubles.iter().rev() {
        let mut less = best.clone();
        less.troubles.remove(trouble);
        if still_breaks(&less) {
            best = less;
        }
    }
    for replicas in 1..best.replicas {
        let less = Plan { replicas, ..best.clone() };
        if still_breaks(&less) {
            best = less;
            break;
        }
    }
    while best.requests > 1 {
        let less = Plan { requests: best.requests / 2, ..best.clone() };
        if !still_breaks(&less) {
            break;
        }
        best = less;
    }
    best
}

/// Writes a whole story into a file; where that is, or why it is not.
pub fn keep(name: &str, plan: &Plan, outcome: &Outcome) -> String {
    keep_story(name, plan, outcome)
}

/// The same, whatever history it is.
pub fn keep_story(name: &str, plan: &impl std::fmt::Display, outcome: &Outcome) -> String {
    let file = std::env::temp_dir().join(format!("nodepool-sim-{name}.story"));
    let story = format!("{plan}\n\n{}\n", outcome.lines.join("\n"));
    std::fs::write(&file, story).map_or_else(|error| error.to_string(), |()| file.display().to_string())
}

/// All that is known of a history that has broken a promise, for people.
pub fn tell(plan: &Plan, outcome: &Outcome) -> String {
    let small = shrink(plan, &outcome.broken);
    let again = live(&small, Some(Level::INFO));
    let written = keep(&format!("{}-small", plan.seed), &small, &again);
    let events: Vec<_> = again.lines.iter().filter(|line| !line.contains("        | ")).cloned().collect();
    let at = events.iter().position(|line| line.contains("!!!")).unwrap_or(events.len());
    let shown = events[at.saturating_sub(60)..(at + 12).min(events.len())].join("\n");
    format!(
        "{plan}\nbroken: {:#?}\n\nas little as still breaks it:\n{small}\nbroken: {:#?}\n{shown}\n\nThe whole story, with the \
         launchers' log: {written}\nTo see it again: make sim SEED={}",
        outcome.broken, again.broken, plan.seed
    )
}
