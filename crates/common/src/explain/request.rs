//! Why a request waits, has failed, or is served.

use std::collections::BTreeSet;

use super::{
    Answer, Asked, Explanation, Launching, PoolSays, Verdict,
    codes::{FAILED, NO_LAUNCHER_ENDS, PROVIDER_IN_TROUBLE},
    words::{count, labels},
};
use crate::model::{
    Entry, LabelName, LauncherId, NodeId, NodeRequest, NodeState, PoolComponent, Records, RequestId, RequestState,
    Timestamp,
};

const KIND: &str = "request";
/// The codes of reasons for a decline that people of the site can do away with, and nobody else.
const OF_THE_SITE: [&str; 3] = ["launch-failed", "image-missing", PROVIDER_IN_TROUBLE];

/// Explains a request by the records, and by what launchers say of it. `None`: there is no trace of it.
pub fn of_request(records: &Records, id: &RequestId, asked: &Asked, now: Timestamp) -> Option<Explanation> {
    let Some(entry) = records.requests.get(id) else { return gone(records, id) };
    let request = match &entry.record {
        Ok(request) => request,
        Err(error) => {
            let sentence =
                format!("Its record cannot be read: {error}. Whoever wrote it has a bug; no launcher looks at it");
            return Some(Explanation::new(KIND, id.as_str(), Verdict::Act, "record-broken", sentence));
        }
    };
    let explanation = match request.state {
        RequestState::Fulfilled => fulfilled(records, request, entry, now),
        RequestState::Failed => failed(request, entry, now),
        RequestState::Pending => pending(records, request, entry, asked, now),
        RequestState::Requested => requested(records, request, entry, asked, now),
    };
    Some(with_facts(explanation, request).with_launchers(asked))
}

/// Zuul deletes the record of a request at once, whatever became of it.
fn gone(records: &Records, id: &RequestId) -> Option<Explanation> {
    let nodes = nodes_of(records, id);
    let (node, _) = nodes.first()?;
    let sentence = format!(
        "Its record is gone: it was served, or withdrawn, and deleted by who made it. {} of its nodes {} left: {}",
        nodes.len(),
        if nodes.len() == 1 { "is" } else { "are" },
        nodes.iter().map(|(id, state)| format!("{id} ({state})")).collect::<Vec<_>>().join(", ")
    );
    Some(
        Explanation::new(KIND, id.as_str(), Verdict::Fine, "gone", sentence)
            .ended_by(&format!("see `nodepool explain {node}`")),
    )
}

fn with_facts(explanation: Explanation, request: &NodeRequest) -> Explanation {
    let labels: Vec<_> = request.node_types.iter().map(LabelName::as_str).collect();
    let mut explanation = explanation.fact("labels", labels.join(", "));
    if let Some(who) = &request.requestor {
        explanation = explanation.fact("requestor", who);
    }
    if let Some(tenant) = &request.tenant_name {
        explanation = explanation.fact("tenant", tenant.as_str());
    }
    if let Some(provider) = &request.provider {
        explanation = explanation.fact("preferred provider", provider.as_str());
    }
    if let Some(event) = &request.event_id {
        explanation = explanation.fact("event", event);
    }
    if let Some(created) = request.created_time {
        explanation = explanation.fact_at("asked for", "", Some(created));
    }
    explanation
}

fn fulfilled(records: &Records, request: &NodeRequest, entry: &Entry<NodeRequest>, now: Timestamp) -> Explanation {
    let nodes = request.nodes.iter().map(|id| (id, records.nodes.get(id)));
    let taken = nodes.clone().filter(|(_, node)| node.is_some_and(|node| node.is_locked())).count();
    let list = request.nodes.iter().map(NodeId::as_str).collect::<Vec<_>>().join(", ");
    let since = entry.since(now);
    let explanation = if taken > 0 {
        Explanation::new(
            KIND,
            request.id.as_str(),
            Verdict::Fine,
            "served",
            format!("It has its nodes, and who asked has taken them: {list}"),
        )
    } else {
        let sentence = format!("It has its nodes, and who asked has not taken them yet: {list}");
        Explanation::new(KIND, request.id.as_str(), Verdict::Fine, "waits-for-requestor", sentence)
            .ended_by("Zuul takes the nodes and deletes the request")
    };
    Explanation { since, ..explanation }
}

fn failed(request: &NodeRequest, entry: &Entry<NodeRequest>, now: Timestamp) -> Explanation {
    let sentence = if request.decline_reasons.is_empty() {
        format!(
            "Every pool that was registered has declined it ({}); why is in the logs of their launchers",
            count(request.declined_by.len(), "pool")
        )
    } else {
        format!("Every pool that was registered has declined it: {}", request.decline_reasons.join("; "))
    };
    let is_of_the_site = request.decline_codes.iter().any(|code| OF_THE_SITE.contains(&code.as_str()));
    let verdict = if is_of_the_site { Verdict::Act } else { Verdict::Change };
    let explanation = Explanation::new(KIND, request.id.as_str(), verdict, FAILED, sentence)
        .ended_by("nothing: once the cause is mended, whoever needs the nodes has to ask again");
    Explanation { since: entry.since(now), ..explanation }
}

/// A launcher has accepted it.
fn pending(
    records: &Records,
    request: &NodeRequest,
    entry: &Entry<NodeRequest>,
    asked: &Asked,
    now: Timestamp,
) -> Explanation {
    let id = request.id.as_str();
    let since = entry.since(now);
    let serving = asked.views.iter().flat_map(|view| &view.pools).find_map(|pool| match &pool.answer {
        Answer::Serves { ready, launching, waits, .. } => Some((pool, *ready, launching, waits.as_ref())),
        _ => None,
    });
    let Some((pool, ready, launching, waits)) = serving else {
        let explanation = if entry.is_locked() {
            let sentence = "A launcher serves it, and what it does is not known: it has begun just now, is stopping, does not answer, \
                            or is Python's";
            Explanation::new(KIND, id, Verdict::Wait, "accepted", sentence)
        } else if records.pools.is_empty() {
            let sentence = "The launcher that served it has ended, and no other one is running";
            Explanation::new(KIND, id, Verdict::Act, "no-launcher", sentence).ended_by(NO_LAUNCHER_ENDS)
        } else {
            let sentence = "The launcher that served it has ended. Another one puts it back, and it is served anew";
            Explanation::new(KIND, id, Verdict::Wait, "launcher-lost", sentence)
        };
        return Explanation { since, ..explanation }.with_nodes(records, request, &[], now);
    };
    let wanted = request.node_types.len();
    let name = pool.title();
    let done = format!("Pool {name} serves it: {ready} of {} ready", count(wanted, "node"));
    let explanation = match (waits, &pool.trouble) {
        (Some(said), _) => Explanation {
            verdict: said.verdict,
            code: said.code.clone(),
            sentence: format!("{done}; the rest waits: {}", said.sentence),
            since: said.since,
            ended_by: said.ended_by.clone(),
            ..Explanation::new(KIND, id, said.verdict, "", "")
        },
        (None, Some((trouble, since))) => {
            let sentence =
                format!("{done}, {} under way; its provider has trouble: {trouble}", count(launching.len(), "launch"));
            Explanation::new(KIND, id, Verdict::Act, PROVIDER_IN_TROUBLE, sentence)
                .since(*since)
                .ended_by("the cloud answers again")
        }
        (None, None) if launching.is_empty() => {
            let sentence =
                format!("{done}; the next step is about to begin, or waits for a pause after an error to end");
            let explanation = Explanation::new(KIND, id, Verdict::Wait, "between-steps", sentence);
            Explanation { since, ..explanation }.ended_by("time: such a pause takes a minute at most")
        }
        (None, None) => {
            let sentence = format!("{done}, {} under way", count(launching.len(), "launch"));
            let explanation = Explanation::new(KIND, id, Verdict::Wait, "launching", sentence);
            Explanation { since, ..explanation }.ended_by("the end of these launches")
        }
    };
    explanation.with_nodes(records, request, launching, now)
}

/// Nobody has accepted it yet.
fn requested(
    records: &Records,
    request: &NodeRequest,
    entry: &Entry<NodeRequest>,
    asked: &Asked,
    now: Timestamp,
) -> Explanation {
    let id = request.id.as_str();
    let mut pools: Vec<PoolSays> = records.pools.values().filter_map(|pool| says(request, pool, asked)).collect();
    // What is likely to serve it comes first.
    pools.sort_by(|a, b| (a.is_out, a.verdict, &a.pool).cmp(&(b.is_out, b.verdict, &b.pool)));
    let since = entry.since(now);
    let first = pools.first().cloned();
    let explanation = match first {
        None => {
            let sentence = "No launcher is running that could serve it: no pool is registered";
            Explanation { since, ..Explanation::new(KIND, id, Verdict::Act, "no-launcher", sentence) }
                .ended_by(NO_LAUNCHER_ENDS)
        }
        Some(first) if first.is_out => {
            let nobody: Vec<_> = request
                .node_types
                .iter()
                .filter(|label| !records.pools.values().any(|pool| pool.supports(std::slice::from_ref(*label))))
                .map(LabelName::as_str)
                .collect();
            let explanation = if nobody.is_empty() {
                let sentence =
                    "Each registered pool has declined it, or cannot serve it; it fails when each has said so";
                Explanation::new(KIND, id, Verdict::Change, "declined-by-all", sentence)
            } else {
                let sentence = format!("No registered pool has {}", labels(&nobody));
                Explanation::new(KIND, id, Verdict::Change, "no-pool-has-label", sentence)
                    .ended_by("a provider that has the label, or a job that asks for another one")
            };
            Explanation { since, ..explanation }
        }
        Some(first) => Explanation {
            since: first.since.or(since),
            ended_by: first.ended_by.clone(),
            ..Explanation::new(KIND, id, first.verdict, &first.code, format!("Pool {}: {}", first.pool, first.sentence))
        },
    };
    let before = Some(before(records, request));
    Explanation { before, pools, ..explanation }
}

/// What a registered pool makes of a request that nobody has accepted. `None`: it declines nothing, as it has no id.
fn says(request: &NodeRequest, pool: &PoolComponent, asked: &Asked) -> Option<PoolSays> {
    let id = pool.id.as_ref()?;
    let name = pool.title();
    let id_text = id.as_str();
    let out = |code, sentence: String| PoolSays {
        is_out: true,
        ..PoolSays::new(&name, id_text, Verdict::Change, code, sentence)
    };
    if request.declined_by.contains(id) {
        return Some(out("declined", declined_because(request, &name, id)));
    }
    let missing: Vec<_> = request.node_types.iter().filter(|label| !pool.supported_labels.contains(label)).collect();
    if !missing.is_empty() {
        let missing: Vec<_> = missing.iter().map(|label| label.as_str()).collect();
        return Some(out("labels-missing", format!("it does not have {}", labels(&missing))));
    }
    let Some(view) = asked.pool(id_text) else { return Some(PoolSays::not_asked(pool, id)) };
    Some(match &view.answer {
        Answer::Waits(said) => PoolSays::of(&name, id_text, said),
        Answer::Accepting | Answer::Serves { .. } => {
            PoolSays::new(&name, id_text, Verdict::Wait, "accepting", "it is accepting the request")
        }
        // The rest is said of labels.
        _ => PoolSays::idle(&name, id_text, view),
    })
}

/// In the words of the record, which has one of them for each decline by a launcher of ours.
fn declined_because(request: &NodeRequest, name: &str, id: &LauncherId) -> String {
    let prefix = format!("{name}: ");
    let mut reasons = request.decline_reasons.iter().filter_map(|reason| reason.strip_prefix(&prefix));
    reasons.next_back().map_or_else(
        || format!("it has declined the request; why is in the log of {id}'s launcher"),
        |reason| format!("it has declined the request: {reason}"),
    )
}

/// Requests that wait and come before it, and want one of its labels.
fn before(records: &Records, request: &NodeRequest) -> usize {
    let own = records.order_of(&request.id);
    let others = records.requests.values().filter_map(|entry| entry.usable());
    others
        .filter(|other| {
            other.state == RequestState::Requested
                && other.order() < own
                && other.node_types.iter().any(|label| request.node_types.contains(label))
        })
        .count()
}

/// The nodes that are set aside for a request, and their states.
fn nodes_of(records: &Records, id: &RequestId) -> Vec<(NodeId, NodeState)> {
    let nodes = records.nodes.iter().filter_map(|(node, entry)| Some((node, entry.usable()?)));
    nodes
        .filter(|(_, node)| node.allocated_to.as_ref() == Some(id))
        .map(|(id, node)| (id.clone(), node.state))
        .collect()
}

impl Explanation {
    /// With the nodes that are set aside for a request, and those that are being launched for it.
    fn with_nodes(mut self, records: &Records, request: &NodeRequest, launching: &[Launching], now: Timestamp) -> Self {
        let set_aside = nodes_of(records, &request.id).into_iter().map(|(id, _)| id);
        let launching = launching.iter().filter(|launch| !launch.node.is_empty());
        let nodes: BTreeSet<NodeId> = set_aside.chain(launching.map(|launch| launch.node.as_str().into())).collect();
        for id in nodes {
            let Some((entry, node)) = records.nodes.get(&id).and_then(|entry| Some((entry, entry.usable()?))) else {
                continue;
            };
            let label = node.labels.first().map(|label| format!(" {label}")).unwrap_or_default();
            self = self.fact_at(&format!("node {id}"), format!("{}{label}", node.state), entry.since(now));
        }
        self
    }
}
