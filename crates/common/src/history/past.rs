//! What became of a request or a node whose record is gone, by the events that a history has of it.

use super::event::Found;
use crate::{
    explain::{Explanation, Fact, Subject, Verdict},
    model::Timestamp,
    sys::clock,
};

/// How many events an explanation has at most: the newest.
pub const TOLD: usize = 50;

/// The code of what has no record any more.
pub const GONE: &str = "gone";
/// The code of a request that has failed, as where its record is there.
const FAILED: &str = "failed";

/// Explains what has no record any more, by its events, the newest first. `None`: there are none, or it is neither a request nor
/// a node.
pub fn explain(subject: &Subject, events: &[Found]) -> Option<Explanation> {
    let newest = events.first()?;
    let last_of = |codes: &[&str]| events.iter().find(|found| codes.contains(&found.event.code.as_str()));
    let (outcome, failed, nothing) = match subject {
        Subject::Request(_) => (
            last_of(&["request-fulfilled", "request-failed"]),
            "request-failed",
            "It was deleted by who made it, and this launcher neither fulfilled nor failed it",
        ),
        Subject::Node(_) => (last_of(&["node-deleted", "node-failed"]), "", "What became of it at last is not known"),
        _ => return None,
    };
    let is_failed = outcome.is_some_and(|found| found.event.code == failed);
    let became = outcome.map_or(nothing, |found| found.event.text.as_str());
    Some(Explanation {
        kind: subject.kind().as_str().to_owned(),
        id: subject.id().to_owned(),
        verdict: if is_failed { Verdict::Change } else { Verdict::Fine },
        code: if is_failed { FAILED } else { GONE }.to_owned(),
        sentence: format!("Its record is gone. {became}"),
        since: Some(outcome.unwrap_or(newest).event.at),
        ended_by: None,
        before: None,
        facts: facts(events),
        pools: Vec::new(),
        silent: Vec::new(),
    })
}

/// Adds what happened to the explanation of something whose record is gone while others still speak of it.
pub fn add(explanation: &mut Explanation, events: &[Found]) {
    explanation.facts.extend(facts(events));
}

#[allow(clippy::cast_possible_truncation)] // whole seconds since the epoch
fn moment(at: Timestamp) -> String {
    clock::utc(at as i64)
}

/// What happened, in its order, each by its time.
fn facts(events: &[Found]) -> Vec<Fact> {
    let fact = |found: &Found| Fact { name: moment(found.event.at), value: found.event.text.clone(), at: None };
    events.iter().rev().map(fact).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{explain::Kind, history::Event};

    fn of(kind: Kind, id: &str, codes: &[&str]) -> Option<Explanation> {
        let found = |(number, code): (u32, &&str)| Found {
            number: number.into(),
            event: Event::new(1_760_000_000.0 + f64::from(number), code, format!("This is {code}.")),
        };
        let mut events: Vec<Found> = (0..).zip(codes).map(found).collect();
        events.reverse();
        explain(&Subject::of(id, Some(kind)).remove(0), &events)
    }

    #[test]
    fn the_outcome_comes_first_and_then_all_in_its_order() {
        let request = |codes: &[&str]| of(Kind::Request, "100-0000000001", codes);
        let served = request(&["request-seen", "request-accepted", "request-fulfilled", "request-gone"]).unwrap();
        assert_eq!(
            (served.verdict, served.code.as_str(), served.since),
            (Verdict::Fine, "gone", Some(1_760_000_002.0))
        );
        assert_eq!(served.sentence, "Its record is gone. This is request-fulfilled.");
        assert_eq!((served.facts.len(), served.facts[0].name.as_str()), (4, "2025-10-09 08:53:20 UTC"));
        assert_eq!(served.facts[3].value, "This is request-gone.");
        let failed = request(&["request-seen", "request-declined", "request-failed", "request-gone"]).unwrap();
        assert_eq!((failed.verdict, failed.code.as_str(), failed.exit_code()), (Verdict::Change, "failed", 3));
        let withdrawn = request(&["request-seen", "request-gone"]).unwrap();
        assert!(withdrawn.sentence.contains("neither fulfilled nor failed"), "{}", withdrawn.sentence);
        assert_eq!(request(&[]), None);
        let node = of(Kind::Node, "0000000001", &["node-launching", "node-ready", "node-deleted"]).unwrap();
        assert_eq!((node.code.as_str(), node.sentence.as_str()), ("gone", "Its record is gone. This is node-deleted."));
        assert_eq!(of(Kind::Label, "debian", &["node-ready"]), None, "a label is explained by what there is");
    }
}
