//! How it stands with a provider: its cloud, its quota, its pools, its nodes, what waits for it.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    Asked, Explanation, PoolSays, PoolView, ProviderView, Verdict,
    codes::{NO_LAUNCHER_ENDS, PAUSED, PROVIDER_IN_TROUBLE, UNPAUSE},
    words::{amounts, count},
};
use crate::model::{PausedBy, PoolComponent, ProviderName, Records};

const KIND: &str = "provider";
const CLOUD_ANSWERS: &str = "the cloud answers again";

/// Explains a provider by the records, and by what launchers say of it. `None`: nobody has it.
pub fn of_provider(records: &Records, provider: &ProviderName, asked: &Asked) -> Option<Explanation> {
    let registered: Vec<_> =
        records.pools.values().filter(|pool| pool.provider_name.as_ref() == Some(provider)).collect();
    let nodes = nodes(records, provider);
    let views: Vec<_> = asked.views.iter().filter_map(|view| Some((view, view.provider.as_ref()?))).collect();
    if registered.is_empty() && nodes.is_empty() && views.is_empty() {
        return None;
    }
    let mut pools: Vec<PoolSays> = registered.iter().filter_map(|pool| says(pool, asked)).collect();
    pools.sort_by(|a, b| (&a.pool, &a.launcher).cmp(&(&b.pool, &b.launcher)));
    let known: Vec<&ProviderView> = views.iter().map(|(_, known)| *known).collect();
    let mut explanation = judge(provider, &registered, &known, &pools, asked);
    let hosts: BTreeSet<&str> = registered.iter().map(|pool| pool.hostname.as_str()).collect();
    if !hosts.is_empty() {
        explanation = explanation.fact("carried by", hosts.into_iter().collect::<Vec<_>>().join(", "));
    }
    let states: Vec<_> = nodes.iter().map(|(state, number)| format!("{number} {state}")).collect();
    explanation = explanation.fact("nodes", if states.is_empty() { "none".to_owned() } else { states.join(", ") });
    // All see the same cloud: the newest answer counts.
    let newest = known.iter().max_by(|a, b| {
        let at = |known: &ProviderView| known.quota_at.unwrap_or(f64::NEG_INFINITY);
        at(a).total_cmp(&at(b))
    });
    if let Some(known) = newest {
        for (name, what) in quota(known) {
            explanation = explanation.fact_at(&name, what, known.quota_at.filter(|_| !known.quota.is_empty()));
        }
        if let Some(most) = known.max_concurrency {
            explanation = explanation.fact("max-concurrency", format!("{most}, {}", count(known.launching, "launch")));
        }
    }
    Some(Explanation { pools, ..explanation }.with_launchers(asked))
}

fn judge(
    provider: &ProviderName,
    registered: &[&std::sync::Arc<PoolComponent>],
    known: &[&ProviderView],
    pools: &[PoolSays],
    asked: &Asked,
) -> Explanation {
    let is = |verdict, code, sentence: String| Explanation::new(KIND, provider.as_str(), verdict, code, sentence);
    if let Some(why) = known.iter().find_map(|known| known.left_out.as_ref()) {
        let rest = if registered.is_empty() { "" } else { "; its pools go on as they were configured before" };
        return is(Verdict::Change, "left-out", format!("It cannot be used as it is configured: {why}{rest}"))
            .ended_by("a configuration that is right; it is taken within two seconds");
    }
    let trouble = known.iter().find_map(|known| known.trouble.as_ref());
    if let Some(by) = paused_by(asked) {
        let also = trouble.map(|(why, _)| format!("; and its cloud does not serve it: {why}"));
        return is(Verdict::Act, PAUSED, format!("It takes on nothing: {by}{}", also.unwrap_or_default()))
            .since(by.since)
            .ended_by(UNPAUSE);
    }
    if let Some((why, since)) = trouble {
        return is(Verdict::Act, PROVIDER_IN_TROUBLE, format!("Its cloud does not serve it: {why}"))
            .since(*since)
            .ended_by(CLOUD_ANSWERS);
    }
    if registered.is_empty() {
        return if known.is_empty() {
            let sentence = "No launcher that is running has it: nobody launches or deletes its nodes".to_owned();
            is(Verdict::Act, "no-launcher", sentence).ended_by(NO_LAUNCHER_ENDS)
        } else {
            let sentence =
                "None of its pools is registered: it is starting, has no pools, or its launcher is stopping".to_owned();
            is(Verdict::Wait, "not-registered", sentence).ended_by("its start")
        };
    }
    if let Some(until) = known.iter().filter_map(|known| known.launch_after).reduce(f64::max) {
        let waits = is(Verdict::Wait, "quota-refused", "Its cloud has refused a launch for lack of quota".to_owned());
        return waits.fact_at("launches again", "", Some(until)).ended_by("time, and a launch that works");
    }
    if pools.iter().all(|pool| pool.code == "out-of-service") {
        let sentence = format!("It serves nothing: {}", pools.first().map_or("", |pool| &pool.sentence));
        return is(Verdict::Change, "out-of-service", sentence).ended_by("another configuration");
    }
    let waiting = || asked.pools().flat_map(|pool| &pool.waiting);
    // A request may wait in several pools, and behind others in each.
    if let Some(first) = waiting().min_by(|a, b| a.since.total_cmp(&b.since)) {
        let most = asked.pools().map(|pool| pool.waiting.iter().map(|waiting| waiting.requests).sum()).max();
        let number = count(most.unwrap_or(0), "request");
        let wait = if most == Some(1) { "waits" } else { "wait" };
        return is(
            Verdict::Wait,
            "requests-wait",
            format!("Its cloud answers; {number} {wait} for it: {}", first.sentence),
        )
        .since(first.since)
        .ended_by("see each pool, and `nodepool explain` of a request");
    }
    if known.is_empty() {
        return is(
            Verdict::Wait,
            "not-asked",
            "Its launcher has not said how it is: it is Python's, has just started, or does not answer".to_owned(),
        );
    }
    is(Verdict::Fine, "serving", "Its cloud answers, and no request waits for it".to_owned())
}

/// Who has paused it, where none of its pools takes on anything.
fn paused_by(asked: &Asked) -> Option<&PausedBy> {
    let mut paused = asked.pools().map(|pool| pool.paused_by.as_ref());
    let first = paused.next()??;
    paused.all(|by| by.is_some()).then_some(first)
}

fn says(pool: &PoolComponent, asked: &Asked) -> Option<PoolSays> {
    let id = pool.id.as_ref()?;
    let name = pool.title();
    let Some(view) = asked.pool(id.as_str()) else { return Some(PoolSays::not_asked(pool, id)) };
    if view.paused_by.is_some() || view.out_of_service.is_some() || view.trouble.is_some() {
        return Some(PoolSays::idle(&name, id.as_str(), view));
    }
    let used = used(view);
    let first = view.waiting.iter().min_by(|a, b| a.since.total_cmp(&b.since));
    Some(match first {
        Some(first) => {
            let waiting = view.waiting.iter();
            let waiting: Vec<_> = waiting.map(|of| format!("{} {}", of.requests, of.code)).collect();
            let sentence = format!("{used}; requests wait: {}; the first one: {}", waiting.join(", "), first.sentence);
            PoolSays {
                since: Some(first.since),
                ..PoolSays::new(&name, id.as_str(), Verdict::Wait, "requests-wait", sentence)
            }
        }
        None => PoolSays::new(&name, id.as_str(), Verdict::Fine, "serving", format!("{used}; no request waits")),
    })
}

/// What a pool's nodes take, of what they may.
fn used(pool: &PoolView) -> String {
    let amount = |name: &String| pool.used.get(name).copied().unwrap_or(0.0);
    let limits: Vec<_> =
        pool.limits.iter().map(|(name, limit)| format!("{} of {limit} {name}", amount(name))).collect();
    match limits.is_empty() {
        true if pool.used.is_empty() => "nothing used, no limits of its own".to_owned(),
        true => format!(
            "{} used, no limits of its own",
            amounts(pool.used.iter().map(|(name, used)| (name.as_str(), *used)))
        ),
        false => format!("{} used", limits.join(", ")),
    }
}

/// Each resource that is limited: what we use, what others do, what there is.
fn quota(known: &ProviderView) -> Vec<(String, String)> {
    let told = |(name, limit): (&String, &f64)| {
        let ours = known.used.get(name).copied().unwrap_or(0.0);
        let others = limit - known.ours.get(name).copied().unwrap_or(*limit);
        (format!("quota {name}"), format!("{limit}: {ours} ours, {others} others'"))
    };
    known.quota.iter().map(told).collect()
}

/// How many nodes are in each state.
fn nodes(records: &Records, provider: &ProviderName) -> BTreeMap<&'static str, usize> {
    let mut nodes = BTreeMap::new();
    let usable = records.nodes.values().filter_map(|entry| entry.usable());
    for node in usable.filter(|node| node.provider.as_ref() == Some(provider)) {
        *nodes.entry(node.state.as_str()).or_default() += 1;
    }
    nodes
}
