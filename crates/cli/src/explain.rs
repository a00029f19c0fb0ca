//! `explain`: what a request waits for, why a node is as it is, how it stands with a label, an image, a provider.
//!
//! What stands in ZooKeeper is read here; what pools have decided is asked of their launchers. Those that cannot be asked are
//! named, and the rest is said without them. Only what the id needs is read, as with `--watch` that happens every two seconds:
//! first the registered pools and the request itself, then what the launchers' answers lead to. Of a request or a node without a
//! record the launchers' histories tell.

use std::{collections::BTreeSet, process::ExitCode, time::Duration};

use nodepool_common::{
    explain::{Asked, Explanation, Subject, ask, explain, gravest, no_id, no_trace},
    history::past,
    launchers::ANSWER_WITHIN,
    model::{NodeId, NodeRequest, Records, RequestId, RequestState},
    sys::clock,
    zk::ZooKeeper,
};
use nodepool_drivers::http_client;

use crate::{
    args::{ExplanationFormat, WhatToExplain},
    failure::{Failure, say},
    history, walk,
};

/// Between two looks with `--watch`.
const LOOK: Duration = Duration::from_secs(2);

/// `explain ID [--kind KIND] [--format FORMAT] [--watch]`; the exit status says what is to be done.
pub async fn run(zk: &ZooKeeper, what: &WhatToExplain) -> Result<ExitCode, Failure> {
    let subjects = Subject::of(&what.id, what.kind);
    if subjects.is_empty() {
        return Err(Failure::Refused(no_id(&what.id, what.kind)));
    }
    let is_one = what.kind.is_some() || subjects.len() == 1;
    let mut last = Vec::new();
    loop {
        let explanations = look(zk, &subjects).await?;
        let Some(status) = gravest(&explanations) else {
            let is_request = matches!(subjects[..], [Subject::Request(_)]);
            let why = if last.is_empty() || !is_request {
                no_trace(&what.id, what.kind)
            } else {
                format!("{} is gone by now: it was served and taken, failed, or was withdrawn", what.id)
            };
            return Err(Failure::Refused(why));
        };
        let goes_on = explanations.iter().any(Explanation::goes_on);
        if last != explanations {
            print(&explanations, is_one, what.format)?;
            last = explanations;
        }
        if !what.watch || !goes_on {
            return Ok(ExitCode::from(status));
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// Explains one thing that has an id, or all that have a name.
pub async fn look(zk: &ZooKeeper, subjects: &[Subject]) -> Result<Vec<Explanation>, Failure> {
    let mut records = match subjects {
        [Subject::Node(node)] => walk::around_node(zk, node).await?,
        [Subject::Request(request)] => walk::request_and_pools(zk, request).await?,
        _ => walk::pools(zk).await?,
    };
    let asked = ask(&records, subjects, async |url: String| http_client::fetch(&url, ANSWER_WITHIN).await).await;
    match (subjects, &asked[..]) {
        ([Subject::Node(_)], _) => {}
        ([Subject::Request(request)], [asked]) => read_around(zk, &mut records, request, asked).await?,
        _ => read_of_names(zk, &mut records, subjects, &asked).await?,
    }
    let mut explanations = Vec::new();
    for (subject, asked) in subjects.iter().zip(&asked) {
        let explanation = explain(&records, subject, asked, clock::now());
        explanations.extend(with_past(zk, subject, explanation).await?);
    }
    Ok(explanations)
}

/// With what became of a request or a node whose record is gone, by what launchers remember.
async fn with_past(
    zk: &ZooKeeper,
    subject: &Subject,
    explanation: Option<Explanation>,
) -> Result<Option<Explanation>, Failure> {
    let Some(query) = past::needed(subject, explanation.as_ref()) else { return Ok(explanation) };
    let (page, _) = history::ask(&walk::pools(zk).await?, &[query]).await;
    Ok(past::add(subject, explanation, page))
}

/// What the explanations of a label, an image and a provider need besides.
async fn read_of_names(
    zk: &ZooKeeper,
    records: &mut Records,
    subjects: &[Subject],
    asked: &[Asked],
) -> Result<(), Failure> {
    if subjects.iter().any(|subject| matches!(subject, Subject::Label(_) | Subject::Provider(_))) {
        records.nodes = walk::nodes(zk).await?.nodes;
    }
    if subjects.iter().any(|subject| matches!(subject, Subject::Label(_))) {
        records.requests = walk::requests(zk).await?.requests;
    }
    let mut images = BTreeSet::new();
    for (subject, asked) in subjects.iter().zip(asked) {
        match subject {
            Subject::Image(image) => drop(images.insert(image.clone())),
            Subject::Label(_) => images.extend(asked.pools().filter_map(|pool| Some(pool.image.as_deref()?.into()))),
            Subject::Request(_) | Subject::Node(_) | Subject::Provider(_) => {}
        }
    }
    Ok(walk::add_images(zk, records, images.into_iter().collect()).await?)
}

/// What a request's explanation needs besides: those that are before it where it waits to be accepted, and its nodes. All nodes
/// only where nobody says which those are.
async fn read_around(zk: &ZooKeeper, records: &mut Records, id: &RequestId, asked: &Asked) -> Result<(), Failure> {
    let request = records.requests.get(id).and_then(|entry| entry.usable()).cloned();
    let nodes: Option<Vec<NodeId>> = match request.as_deref() {
        Some(NodeRequest { state: RequestState::Requested, .. }) => {
            let own = records.requests.get(id).cloned();
            records.requests = walk::requests(zk).await?.requests;
            if let Some(own) = own {
                records.requests.insert(id.clone(), own);
            }
            Some(Vec::new())
        }
        Some(NodeRequest { state: RequestState::Pending, .. }) => asked.nodes(),
        Some(request) => Some(request.nodes.clone()),
        // Its record cannot be read, or is gone.
        None if records.requests.contains_key(id) => Some(Vec::new()),
        None => None,
    };
    records.nodes = match nodes {
        Some(nodes) => walk::some_nodes(zk, &nodes).await?.nodes,
        None => walk::nodes(zk).await?.nodes,
    };
    Ok(())
}

fn print(explanations: &[Explanation], is_one: bool, format: ExplanationFormat) -> Result<(), Failure> {
    match format {
        ExplanationFormat::Text => {
            let texts: Vec<_> = explanations.iter().map(|explanation| explanation.render(clock::now())).collect();
            say(texts.join("\n").trim_end())
        }
        ExplanationFormat::Json => {
            let json = match explanations {
                [only] if is_one => serde_json::to_string_pretty(only),
                all => serde_json::to_string_pretty(all),
            };
            say(&json.map_err(|error| Failure::Refused(format!("the explanation cannot be written: {error}")))?)
        }
    }
}
