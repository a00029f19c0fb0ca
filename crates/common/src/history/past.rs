//! What became of a request or a node whose record is gone, by the events that a history has of it.

use super::{event::Found, page::Page, query::Query};
use crate::{
    explain::{Explanation, Fact, Subject, Verdict},
    launchers::Silent,
    model::Timestamp,
    sys::clock,
};

/// How many events an explanation has at most: the newest.
pub const TOLD: usize = 50;

/// The code of what has no record any more.
pub const GONE: &str = "gone";
/// The code of a request that has failed, as where its record is there.
const FAILED: &str = "failed";

/// The code of what has no record, where a launcher that may know of it could not be asked.
const NOT_ASKED: &str = "not-asked";

/// Which events are needed for the explanation of a request or a node without a record, where that is what is explained.
pub fn needed(subject: &Subject, explanation: Option<&Explanation>) -> Option<Query> {
    let is_there = explanation.is_some_and(|explanation| explanation.code != GONE);
    let may_be_gone = matches!(subject, Subject::Request(_) | Subject::Node(_));
    (!is_there && may_be_gone).then(|| Query { of: vec![subject.clone()], limit: TOLD, ..Query::default() })
}

/// Adds what became of it, by the events of all launchers that answer, to what the records say.
pub fn add(subject: &Subject, explanation: Option<Explanation>, page: Page) -> Option<Explanation> {
    let Page { events, silent, .. } = page;
    let mut explanation = match explanation {
        // Others still speak of it.
        Some(mut explanation) => {
            explanation.facts.extend(facts(&events));
            Some(explanation)
        }
        None => explain(subject, &events).or_else(|| not_asked(subject, &silent)),
    };
    if let Some(explanation) = &mut explanation {
        explanation.silent = silent;
    }
    explanation
}

/// That nothing is known of it is not said where somebody may know.
fn not_asked(subject: &Subject, silent: &[Silent]) -> Option<Explanation> {
    let first = silent.first()?;
    let of_all = if silent.len() > 1 { format!(", nor {} more", silent.len() - 1) } else { String::new() };
    let sentence = format!(
        "It has no record, and no launcher that answers knows of it. The launcher on {} could not be asked{of_all}",
        first.hostname
    );
    Some(of(subject, Verdict::Act, NOT_ASKED, sentence))
}

fn of(subject: &Subject, verdict: Verdict, code: &str, sentence: String) -> Explanation {
    Explanation {
        kind: subject.kind().as_str().to_owned(),
        id: subject.id().to_owned(),
        verdict,
        code: code.to_owned(),
        sentence,
        since: None,
        ended_by: None,
        before: None,
        facts: Vec::new(),
        pools: Vec::new(),
        silent: Vec::new(),
    }
}

/// Explains what has no record any more, by its events, the newest first. `None`: there are none, or it is neither a request nor
/// a node.
fn explain(subject: &Subject, events: &[Found]) -> Option<Explanation> {
    let newest = events.first()?;
    let last_of = |codes: &[&str]| events.iter().find(|found| codes.contains(&found.event.code.as_str()));
    let (outcome, failed, nothing) = match subject {
        Subject::Request(_) => (
            last_of(&["request-fulfilled", "request-failed"]),
            "request-failed",
            "It was deleted by who made it, and no launcher that answers has fulfilled or failed it",
        ),
        Subject::Node(_) => (last_of(&["node-deleted", "node-failed"]), "", "What became of it at last is not known"),
        _ => return None,
    };
    let is_failed = outcome.is_some_and(|found| found.event.code == failed);
    let became = outcome.map_or(nothing, |found| found.event.text.as_str());
    let (verdict, code) = if is_failed { (Verdict::Change, FAILED) } else { (Verdict::Fine, GONE) };
    Some(Explanation {
        since: Some(outcome.unwrap_or(newest).event.at),
        facts: facts(events),
        ..of(subject, verdict, code, format!("Its record is gone. {became}"))
    })
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

    fn told(kind: Kind, id: &str, codes: &[&str]) -> Option<Explanation> {
        let found = |(number, code): (u32, &&str)| Found {
            number: number.into(),
            launcher: String::new(),
            event: Event::new(1_760_000_000.0 + f64::from(number), code, format!("This is {code}.")),
        };
        let mut events: Vec<Found> = (0..).zip(codes).map(found).collect();
        events.reverse();
        explain(&Subject::of(id, Some(kind)).remove(0), &events)
    }

    #[test]
    fn the_outcome_comes_first_and_then_all_in_its_order() {
        let request = |codes: &[&str]| told(Kind::Request, "100-0000000001", codes);
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
        assert!(withdrawn.sentence.contains("fulfilled or failed it"), "{}", withdrawn.sentence);
        assert_eq!(request(&[]), None);
        let node = told(Kind::Node, "0000000001", &["node-launching", "node-ready", "node-deleted"]).unwrap();
        assert_eq!((node.code.as_str(), node.sentence.as_str()), ("gone", "Its record is gone. This is node-deleted."));
        assert_eq!(told(Kind::Label, "debian", &["node-ready"]), None, "a label is explained by what there is");
    }

    #[test]
    fn what_a_launcher_may_know_that_does_not_answer_is_not_said_to_be_nowhere() {
        let request = &Subject::of("100-0000000001", None).remove(0);
        assert_eq!(add(request, None, Page::default()), None);
        let silent = vec![Silent { hostname: "h".to_owned(), pools: Vec::new(), why: "no answer".to_owned() }];
        let explanation = add(request, None, Page { silent: silent.clone(), ..Page::default() }).unwrap();
        assert_eq!((explanation.code.as_str(), explanation.silent), ("not-asked", silent));
        assert!(explanation.sentence.contains("The launcher on h could not be asked"), "{}", explanation.sentence);
        assert!(needed(request, None).is_some() && needed(&Subject::Label("x".into()), None).is_none());
    }
}
