//! Whether a label can be served now, and why not.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    Answer, Asked, Explanation, PoolSays, PoolView, Verdict,
    codes::NO_LAUNCHER_ENDS,
    image::{self, Gap},
    words::count,
};
use crate::model::{LabelName, NodeState, PoolComponent, Records, RequestState, Timestamp};

const KIND: &str = "label";

/// Explains a label by the records, and by what launchers say of a request for one node of it. `None`: nobody has it, and
/// nobody asks for it.
pub fn of_label(records: &Records, label: &LabelName, asked: &Asked, now: Timestamp) -> Option<Explanation> {
    let supply = Supply::of(records, label, now);
    let mut pools: Vec<PoolSays> = records
        .pools
        .values()
        .filter(|pool| pool.supports(std::slice::from_ref(label)))
        .filter_map(|pool| says(records, pool, pool.id.as_ref().and_then(|id| asked.pool(id.as_str())), now))
        .collect();
    // Pools that should have it, and do not offer it.
    let offered: BTreeSet<String> = pools.iter().map(|pool| pool.launcher.clone()).collect();
    let others = asked.pools().filter(|pool| !offered.contains(&pool.id));
    pools.extend(others.map(|pool| answered(records, &pool.title(), &pool.id, pool, now)));
    if pools.is_empty() && supply.is_nothing() {
        return None;
    }
    pools.sort_by(|a, b| (a.is_out, a.verdict, &a.pool).cmp(&(b.is_out, b.verdict, &b.pool)));
    let explanation = match pools.first() {
        _ if records.pools.is_empty() => {
            let sentence = "No launcher is running that could serve it: no pool is registered";
            Explanation::new(KIND, label.as_str(), Verdict::Act, "no-launcher", sentence).ended_by(NO_LAUNCHER_ENDS)
        }
        None => {
            let sentence = "No registered pool has it";
            Explanation::new(KIND, label.as_str(), Verdict::Change, "no-pool-has-label", sentence)
                .ended_by("a provider that has the label, or jobs that ask for another one")
        }
        Some(first) => Explanation {
            since: first.since,
            ended_by: first.ended_by.clone(),
            ..Explanation::new(
                KIND,
                label.as_str(),
                first.verdict,
                &first.code,
                if first.is_out {
                    format!("A request would be declined now. Pool {}: {}", first.pool, first.sentence)
                } else {
                    format!("Pool {}: {}", first.pool, first.sentence)
                },
            )
        },
    };
    let mut explanation = supply.facts(explanation);
    let images: BTreeSet<&String> = asked.pools().filter_map(|pool| pool.image.as_ref()).collect();
    for image in images {
        explanation = explanation.fact("boots from image", image);
    }
    Some(Explanation { pools, ..explanation }.with_launchers(asked))
}

/// What a registered pool would make of a request for one node.
fn says(records: &Records, pool: &PoolComponent, view: Option<&PoolView>, now: Timestamp) -> Option<PoolSays> {
    let id = pool.id.as_ref()?;
    Some(match view {
        Some(view) => answered(records, &pool.title(), id.as_str(), view, now),
        None => PoolSays::not_asked(pool, id),
    })
}

fn answered(records: &Records, name: &str, launcher: &str, pool: &PoolView, now: Timestamp) -> PoolSays {
    let says = |verdict, code: &str, sentence: &str| PoolSays::new(name, launcher, verdict, code, sentence);
    let waits = pool.waiting.iter().map(|waiting| waiting.since).reduce(f64::min);
    let said = match &pool.answer {
        Answer::HasReady => return says(Verdict::Fine, "has-ready", "a request would get a ready node at once"),
        Answer::WouldLaunch if pool.trouble.is_none() => {
            return says(Verdict::Fine, "would-launch", "a node would be launched for a request at once");
        }
        Answer::Waits(said) => PoolSays { since: said.since.or(waits), ..PoolSays::of(name, launcher, said) },
        Answer::Declines(said) => PoolSays { is_out: true, ..PoolSays::of(name, launcher, said) },
        _ if pool.out_of_service.is_some() || pool.trouble.is_some() => PoolSays::idle(name, launcher, pool),
        _ => PoolSays::not_looked_at(name, launcher),
    };
    // What is the matter with an image, the records know.
    let image = pool.image.as_ref().filter(|_| said.code == image::MISSING);
    let provider = pool.provider.as_str().into();
    match image.and_then(|image| image::gap(records, &image.as_str().into(), &provider, pool.paused, now)) {
        Some(Gap { verdict, code, sentence, since, ended_by }) => PoolSays {
            verdict,
            code: code.to_owned(),
            sentence: format!("{}: {sentence}", said.sentence),
            since,
            ended_by: Some(ended_by),
            ..said
        },
        None => said,
    }
}

/// What there is of a label, and who asks for it.
struct Supply {
    /// Ready, and nobody has them.
    free: usize,
    /// Jobs run on them.
    in_use: usize,
    /// By state; "ready" are those that are set aside.
    others: BTreeMap<&'static str, usize>,
    /// Requests that wait to be accepted, and those that are being served.
    waiting: usize,
    served: usize,
    /// The one that waits longest, and since when.
    oldest: Option<(String, Timestamp)>,
}

impl Supply {
    fn of(records: &Records, label: &LabelName, now: Timestamp) -> Self {
        let mut supply = Self { free: 0, in_use: 0, others: BTreeMap::new(), waiting: 0, served: 0, oldest: None };
        for entry in records.nodes.values() {
            let Some(node) = entry.usable().filter(|node| node.labels.contains(label)) else { continue };
            match node.state {
                NodeState::Ready if !entry.is_locked() && node.allocated_to.is_none() => supply.free += 1,
                NodeState::InUse => supply.in_use += 1,
                state => *supply.others.entry(state.as_str()).or_default() += 1,
            }
        }
        for (id, entry) in &records.requests {
            let Some(request) = entry.usable().filter(|request| request.node_types.contains(label)) else { continue };
            match request.state {
                RequestState::Requested => supply.waiting += 1,
                RequestState::Pending => supply.served += 1,
                RequestState::Fulfilled | RequestState::Failed => continue,
            }
            let Some(asked) = entry.asked(now) else { continue };
            if supply.oldest.as_ref().is_none_or(|(_, oldest)| asked < *oldest) {
                supply.oldest = Some((id.to_string(), asked));
            }
        }
        supply
    }

    fn is_nothing(&self) -> bool {
        self.free + self.in_use + self.waiting + self.served == 0 && self.others.is_empty()
    }

    fn facts(self, explanation: Explanation) -> Explanation {
        let mut explanation =
            explanation.fact("ready nodes", self.free.to_string()).fact("nodes in use", self.in_use.to_string());
        if !self.others.is_empty() {
            let others: Vec<_> = self
                .others
                .iter()
                .map(|(state, number)| match *state {
                    "ready" => format!("{number} ready and set aside"),
                    state => format!("{number} {state}"),
                })
                .collect();
            explanation = explanation.fact("other nodes", others.join(", "));
        }
        let requests = format!("{} to be accepted, {} being served", count(self.waiting, "request"), self.served);
        explanation = explanation.fact("asked for by", requests);
        match self.oldest {
            Some((id, since)) => explanation.fact_at("oldest request", id, Some(since)),
            None => explanation,
        }
    }
}
