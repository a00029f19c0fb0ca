//! Making an [`Overview`] of records and of what launchers say.

use std::{
    cmp::Ordering,
    collections::{BTreeMap, BTreeSet},
};

use super::seen::{
    Amount, Attention, ImageSeen, LabelSeen, LauncherSeen, OpenRequest, Overview, Part, PoolSeen, ProviderSeen,
};
use crate::{
    explain::{Asked, Explanation, LauncherView, ProviderView, Subject, Verdict, explain},
    launchers::Silent,
    model::{
        BuildState, Entry, LabelName, Node, NodeId, NodeState, Records, RequestId, RequestState, Timestamp, UploadState,
    },
};

/// So many requests are explained, those that have waited longest.
pub const OLDEST: usize = 50;
/// So many of those that have failed are, the newest.
const FAILED: usize = 50;
/// So many things that need somebody are named.
const ATTENTION: usize = 40;
/// So many ids of each are.
const IDS: usize = 5;
/// Nodes that are held for longer are named.
const HELD_LONG: f64 = 24.0 * 3600.0;
/// Nodes whose deletion takes longer are.
const DELETED_LONG: f64 = 1800.0;

/// The requests that are not done and have waited longest, each with when it was made.
pub fn oldest(records: &Records, now: Timestamp) -> Vec<(RequestId, Timestamp)> {
    let mut open: Vec<(RequestId, Timestamp)> = records
        .requests
        .iter()
        .filter_map(|(id, entry)| {
            entry.usable().filter(|request| request.is_open())?;
            Some((id.clone(), entry.asked(now)?))
        })
        .collect();
    first(&mut open, OLDEST, |(a, x), (b, y)| x.total_cmp(y).then_with(|| a.cmp(b)));
    open
}

/// Leaves the first ones, in their order.
fn first<T>(list: &mut Vec<T>, number: usize, order: impl Fn(&T, &T) -> Ordering) {
    if list.len() > number {
        list.select_nth_unstable_by(number, &order);
        list.truncate(number);
    }
    list.sort_by(&order);
}

/// How everything stands by the records, and by what launchers say.
pub fn overview(records: &Records, parts: &[Part], silent: &[Silent], now: Timestamp) -> Overview {
    let mut seen = Overview {
        launchers: parts
            .iter()
            .map(|part| LauncherSeen { hostname: part.hostname.clone(), caution: part.caution.clone() })
            .collect(),
        silent: silent.to_vec(),
        reasons: parts.iter().flat_map(|part| part.waiting.iter().cloned()).collect(),
        ..Overview::default()
    };
    seen.reasons.sort_by(|a, b| (b.requests, &a.pool, &a.code).cmp(&(a.requests, &b.pool, &b.code)));
    let mut all = Needs::default();
    for part in parts {
        all.launcher(part);
    }
    for name in names_of_providers(records, parts) {
        if let Some(explanation) =
            explain(records, &Subject::Provider(name.as_str().into()), &of_provider(parts, &name), now)
        {
            all.add(&explanation, 1);
            seen.providers.push(provider(records, parts, name, &explanation));
        }
    }
    for name in names_of_images(records, parts) {
        if let Some(explanation) = explain(records, &Subject::Image(name.as_str().into()), &of_image(parts, &name), now)
        {
            all.add(&explanation, 1);
            seen.images.push(image(records, name, explanation));
        }
    }
    for (id, asked) in oldest(records, now) {
        let Some(explanation) = request(records, parts, &id, now) else { continue };
        all.add(&explanation, 1);
        seen.oldest.extend(open(records, &id, asked, explanation));
    }
    // Of those that have not waited so long, too.
    for waits in seen.reasons.iter().filter(|waits| waits.verdict >= Verdict::Act) {
        if let Some(explanation) = request(records, parts, &waits.first.as_str().into(), now) {
            all.add(&explanation, waits.requests);
        }
    }
    failed(records, &mut all, now);
    seen.requests = count(records.requests.values().map(|entry| match entry.usable() {
        Some(request) => request.state.as_str(),
        None => "broken",
    }));
    seen.nodes = count(records.nodes.values().map(|entry| match entry.usable() {
        Some(node) => node.state.as_str(),
        None => "broken",
    }));
    nodes(records, &mut all, now);
    seen.labels = labels(records, parts, now);
    (seen.attention, seen.more_attention) = all.finish();
    seen
}

fn request(records: &Records, parts: &[Part], id: &RequestId, now: Timestamp) -> Option<Explanation> {
    let views = parts.iter().map(|part| LauncherView {
        hostname: part.hostname.clone(),
        pools: part.requests.get(id.as_str()).cloned().unwrap_or_default(),
        ..LauncherView::default()
    });
    let asked = Asked { views: views.filter(|view| !view.pools.is_empty()).collect(), silent: Vec::new() };
    explain(records, &Subject::Request(id.clone()), &asked, now)
}

fn open(records: &Records, id: &RequestId, asked: Timestamp, explanation: Explanation) -> Option<OpenRequest> {
    let request = records.requests.get(id)?.usable()?;
    Some(OpenRequest {
        id: id.to_string(),
        asked,
        labels: request.node_types.iter().map(ToString::to_string).collect(),
        requestor: request.requestor.clone(),
        before: explanation.before,
        verdict: explanation.verdict,
        code: explanation.code,
        sentence: explanation.sentence,
        since: explanation.since,
    })
}

fn failed(records: &Records, all: &mut Needs, now: Timestamp) {
    let failed = records.requests.iter().filter_map(|(id, entry)| {
        let request = entry.usable().filter(|request| request.state == RequestState::Failed)?;
        Some((id.clone(), request.state_time))
    });
    let mut failed: Vec<(RequestId, Timestamp)> = failed.collect();
    first(&mut failed, FAILED, |(a, x), (b, y)| y.total_cmp(x).then_with(|| a.cmp(b)));
    for (id, _) in failed {
        if let Some(explanation) = explain(records, &Subject::Request(id), &Asked::default(), now) {
            all.add(&explanation, 1);
        }
    }
}

/// Those that cannot be read, and those that are held or being deleted for long.
fn nodes(records: &Records, all: &mut Needs, now: Timestamp) {
    let is_long = |entry: &Entry<Node>| {
        let Some(node) = entry.usable() else { return true };
        let age = now - entry.since(now).unwrap_or(now);
        match node.state {
            NodeState::Hold => age > HELD_LONG,
            NodeState::Deleting => age > DELETED_LONG,
            _ => false,
        }
    };
    let mut long: Vec<(NodeId, Timestamp)> = records
        .nodes
        .iter()
        .filter(|(_, entry)| is_long(entry))
        .map(|(id, entry)| (id.clone(), entry.since(now).unwrap_or(now)))
        .collect();
    let number = long.len();
    first(&mut long, ATTENTION, |(a, x), (b, y)| x.total_cmp(y).then_with(|| a.cmp(b)));
    all.more += number - long.len();
    for (id, _) in long {
        if let Some(explanation) = explain(records, &Subject::Node(id), &Asked::default(), now) {
            all.put(&explanation, 1);
        }
    }
}

/// What somebody has to do something about.
#[derive(Default)]
struct Needs {
    list: Vec<Attention>,
    seen: BTreeSet<(String, String)>,
    more: usize,
}

impl Needs {
    /// Adds what is not as it should be, and does not become so by itself. `count`: for how many things like it this stands.
    fn add(&mut self, explanation: &Explanation, count: usize) {
        if explanation.verdict >= Verdict::Act {
            self.put(explanation, count);
        }
    }

    fn put(&mut self, explanation: &Explanation, count: usize) {
        if !self.seen.insert((explanation.kind.clone(), explanation.id.clone())) {
            // It stands for more than was known.
            let known = self.list.iter_mut().find(|known| {
                known.kind == explanation.kind && known.ids.first().is_some_and(|id| *id == explanation.id)
            });
            if let Some(known) = known {
                known.count = known.count.max(count);
            }
            return;
        }
        let like = self.list.iter_mut().find(|known| {
            known.kind == explanation.kind && known.code == explanation.code && known.sentence == explanation.sentence
        });
        if let Some(known) = like {
            // Others like the first ones may have been counted with them.
            known.ids.push(explanation.id.clone());
            known.count = known.count.max(known.ids.len()).max(count);
            return;
        }
        self.list.push(Attention {
            kind: explanation.kind.clone(),
            ids: vec![explanation.id.clone()],
            count,
            verdict: explanation.verdict,
            code: explanation.code.clone(),
            sentence: explanation.sentence.clone(),
            since: explanation.since,
            ended_by: explanation.ended_by.clone(),
        });
    }

    /// What a launcher says of itself.
    fn launcher(&mut self, part: &Part) {
        for remark in part.remarks.iter().chain(&part.caution) {
            self.list.push(Attention {
                kind: "launcher".to_owned(),
                ids: vec![part.hostname.clone()],
                count: 1,
                verdict: Verdict::Act,
                code: "remark".to_owned(),
                sentence: remark.clone(),
                since: None,
                ended_by: None,
            });
        }
    }

    fn finish(mut self) -> (Vec<Attention>, usize) {
        let rank = |kind: &str| ["launcher", "provider", "image", "request", "node"].iter().position(|k| *k == kind);
        self.list.sort_by(|a, b| {
            let is_grave = |of: &Attention| of.verdict >= Verdict::Act;
            (is_grave(b), rank(&a.kind), b.count)
                .cmp(&(is_grave(a), rank(&b.kind), a.count))
                .then_with(|| a.since.unwrap_or(f64::INFINITY).total_cmp(&b.since.unwrap_or(f64::INFINITY)))
        });
        let more = self.more + self.list.len().saturating_sub(ATTENTION);
        self.list.truncate(ATTENTION);
        for attention in &mut self.list {
            attention.ids.truncate(IDS);
        }
        (self.list, more)
    }
}

fn names_of_providers(records: &Records, parts: &[Part]) -> BTreeSet<String> {
    let registered = records.pools.values().filter_map(|pool| pool.provider_name.as_ref());
    let of_nodes = records.nodes.values().filter_map(|entry| entry.usable()?.provider.as_ref());
    // Nodes are many, and their providers are few.
    let on_record: BTreeSet<_> = registered.chain(of_nodes).collect();
    let known = parts.iter().flat_map(|part| part.providers.keys().cloned());
    known.chain(on_record.into_iter().map(ToString::to_string)).collect()
}

fn of_provider(parts: &[Part], name: &str) -> Asked {
    let view = |part: &Part| {
        let known = part.providers.get(name)?;
        let (hostname, pools, provider) = (part.hostname.clone(), known.pools.clone(), Some(known.view.clone()));
        Some(LauncherView { hostname, pools, provider, ..LauncherView::default() })
    };
    Asked { views: parts.iter().filter_map(view).collect(), silent: Vec::new() }
}

fn provider(records: &Records, parts: &[Part], name: String, explanation: &Explanation) -> ProviderSeen {
    let known = parts.iter().filter_map(|part| Some((part, part.providers.get(&name)?)));
    let newest = known.clone().map(|(_, known)| &known.view).max_by(|a, b| {
        let at = |view: &ProviderView| view.quota_at.unwrap_or(f64::NEG_INFINITY);
        at(a).total_cmp(&at(b))
    });
    let paused = |id: &str| {
        let mut pools = records.pools.values();
        pools.any(|pool| pool.paused && pool.id.as_ref().is_some_and(|own| own.as_str() == id))
    };
    let pools = known.flat_map(|(part, known)| {
        known.pools.iter().map(|pool| PoolSeen {
            name: pool.pool.clone(),
            hostname: part.hostname.clone(),
            is_paused: paused(&pool.id),
            out_of_service: pool.out_of_service.clone(),
            limits: amounts(&pool.limits, None, &pool.used),
            waiting: pool.waiting.iter().map(|waiting| waiting.requests).sum(),
        })
    });
    ProviderSeen {
        verdict: explanation.verdict,
        code: explanation.code.clone(),
        sentence: explanation.sentence.clone(),
        since: explanation.since,
        quota: newest.map(|view| amounts(&view.quota, Some(&view.ours), &view.used)).unwrap_or_default(),
        launching: newest.map_or(0, |view| view.launching),
        max_concurrency: newest.and_then(|view| view.max_concurrency),
        pools: pools.collect(),
        name,
    }
}

fn amounts(
    limits: &BTreeMap<String, f64>,
    ours: Option<&BTreeMap<String, f64>>,
    used: &BTreeMap<String, f64>,
) -> Vec<Amount> {
    let names: BTreeSet<&String> = limits.keys().chain(used.keys()).collect();
    let amount = |name: &String| {
        let limit = limits.get(name).copied();
        let left = ours.and_then(|ours| ours.get(name)).copied();
        Amount {
            resource: name.clone(),
            limit,
            used: used.get(name).copied().unwrap_or(0.0),
            others: limit.zip(left).map_or(0.0, |(limit, left)| limit - left),
        }
    };
    names.into_iter().map(amount).collect()
}

fn names_of_images(records: &Records, parts: &[Part]) -> BTreeSet<String> {
    let on_record = records.images.iter().map(ToString::to_string);
    on_record.chain(parts.iter().flat_map(|part| part.images.keys().cloned())).collect()
}

fn of_image(parts: &[Part], name: &str) -> Asked {
    let view = |part: &Part| {
        let known = part.images.get(name)?;
        let (hostname, pools, pauses_image) = (part.hostname.clone(), known.pools.clone(), known.is_paused);
        Some(LauncherView { hostname, pools, pauses_image, ..LauncherView::default() })
    };
    Asked { views: parts.iter().filter_map(view).collect(), silent: Vec::new() }
}

fn image(records: &Records, name: String, explanation: Explanation) -> ImageSeen {
    let builds = records.builds.iter().filter(|((image, _), _)| image.as_str() == name);
    let ready = builds.filter(|(_, entry)| entry.usable().is_some_and(|build| build.state == BuildState::Ready));
    let uploads = records.uploads.iter().filter(|(key, _)| key.image.as_str() == name);
    let uploaded = uploads.filter(|(_, entry)| entry.usable().is_some_and(|upload| upload.state == UploadState::Ready));
    let providers: BTreeSet<_> = uploaded.map(|(key, _)| &key.provider).collect();
    ImageSeen {
        built: ready.filter_map(|(_, entry)| entry.order()).reduce(f64::max),
        uploads: providers.len(),
        verdict: explanation.verdict,
        code: explanation.code,
        sentence: explanation.sentence,
        since: explanation.since,
        name,
    }
}

fn labels(records: &Records, parts: &[Part], now: Timestamp) -> Vec<LabelSeen> {
    let mut labels: BTreeMap<&str, LabelSeen> = BTreeMap::new();
    let pools = records.pools.values().flat_map(|pool| &pool.supported_labels);
    for label in pools {
        labels.entry(label.as_str()).or_default().pools += 1;
    }
    for (label, min_ready) in parts.iter().flat_map(|part| &part.labels) {
        let seen = labels.entry(label.as_str()).or_default();
        seen.min_ready = seen.min_ready.max(*min_ready);
    }
    for entry in records.nodes.values() {
        let Some(node) = entry.usable() else { continue };
        for label in &node.labels {
            let seen = labels.entry(label.as_str()).or_default();
            let number = match node.state {
                NodeState::Ready if !entry.is_locked() && node.allocated_to.is_none() => &mut seen.ready,
                NodeState::Ready | NodeState::InUse => &mut seen.in_use,
                NodeState::Init | NodeState::Building => &mut seen.building,
                NodeState::Hold => &mut seen.held,
                _ => &mut seen.going,
            };
            *number += 1;
        }
    }
    for entry in records.requests.values() {
        let Some((request, asked)) = entry.usable().zip(entry.asked(now)) else { continue };
        for label in request.node_types.iter().collect::<BTreeSet<&LabelName>>() {
            let number = match request.state {
                RequestState::Requested => |seen: &mut LabelSeen| seen.waiting += 1,
                RequestState::Pending => |seen: &mut LabelSeen| seen.served += 1,
                RequestState::Fulfilled | RequestState::Failed => continue,
            };
            let seen = labels.entry(label.as_str()).or_default();
            number(seen);
            seen.oldest = Some(seen.oldest.map_or(asked, |oldest| oldest.min(asked)));
        }
    }
    let named = |(name, seen): (&str, LabelSeen)| LabelSeen { name: name.to_owned(), ..seen };
    labels.into_iter().map(named).collect()
}

fn count<'a>(words: impl Iterator<Item = &'a str>) -> BTreeMap<String, usize> {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for word in words {
        *counts.entry(word).or_default() += 1;
    }
    counts.into_iter().map(|(word, number)| (word.to_owned(), number)).collect()
}
