//! `history`: what was asked, decided, launched and deleted, by what all launchers remember.
//!
//! Nothing of it stands in ZooKeeper but where the launchers are: each is asked for its own events, all at once, and their pages are
//! put together (`common/src/history/page.rs`). Those that do not answer are named on stderr; where none does, that is an error.
//! What only a silent launcher has seen is then missing, and no list says that it did not happen.

use std::{cell::RefCell, collections::BTreeSet};

use nodepool_common::{
    explain::{Subject, no_id},
    history::{HIGHEST_LIMIT, Page, Query, asked, table},
    launchers::{ANSWER_WITHIN, Silent, launchers},
    model::Records,
    status::Table,
    sys::clock,
    zk::ZooKeeper,
};
use nodepool_drivers::http_client;

use crate::{
    args::WhatHappened,
    failure::{Failure, say_aside},
    walk,
};

/// The columns of the text and of CSV.
const SHOWN: &[&str] = &["time", "event", "request", "nodes", "provider", "text"];
/// So many pages are asked for at most: what is sought may be rare.
const PAGES: usize = 20;

/// `history [ID] [--kind KIND] [--event EVENT] [--since AGE] [--limit NUMBER]`, with the options of a list.
pub async fn run(zk: &ZooKeeper, what: &WhatHappened) -> Result<(), Failure> {
    let subjects = match &what.id {
        Some(id) => Subject::of(id, what.kind).into_iter().map(Some).collect(),
        None => vec![None],
    };
    if let (Some(id), []) = (&what.id, &subjects[..]) {
        return Err(Failure::Refused(no_id(id, what.kind)));
    }
    // Once, also where the list is printed again and again.
    let said = RefCell::new(BTreeSet::new());
    let aside = |line: String| {
        if said.borrow_mut().insert(line.clone()) {
            say_aside(&line);
        }
    };
    what.listing.view.show(Some(SHOWN), async || read(zk, what, &subjects, &aside).await).await
}

async fn read(
    zk: &ZooKeeper,
    what: &WhatHappened,
    subjects: &[Option<Subject>],
    aside: &impl Fn(String),
) -> Result<Table, Failure> {
    let records = walk::pools(zk).await?;
    if launchers(&records).is_empty() {
        return Err(Failure::Refused(
            "no launcher that can be asked is registered in ZooKeeper: none runs, or all are Python's or without HTTP"
                .to_owned(),
        ));
    }
    let (now, view) = (clock::now(), &what.listing.view);
    let filters = view.providers.iter().map(|name| Subject::Provider(name.as_str().into()));
    let filters: Vec<Subject> =
        filters.chain(view.labels.iter().map(|name| Subject::Label(name.as_str().into()))).collect();
    let (mut events, mut until) = (Vec::new(), None);
    let limit = usize::from(what.limit);
    for number in 1..=PAGES {
        let query = |subject: &Option<Subject>| Query {
            of: subject.iter().chain(&filters).cloned().collect(),
            codes: what.events.clone(),
            since: what.since.map(|age| now - age.as_secs_f64()),
            until,
            before: None,
            limit: limit.saturating_sub(events.len()).clamp(1, HIGHEST_LIMIT),
        };
        let queries: Vec<Query> = subjects.iter().map(query).collect();
        let (page, has_answered) = ask(&records, &queries).await;
        let silent: BTreeSet<String> = page.silent.iter().map(not_asked).collect();
        if !has_answered && events.is_empty() {
            let all: Vec<String> = silent.into_iter().collect();
            return Err(Failure::Refused(format!("no launcher answers: {}", all.join("; "))));
        }
        for who in silent {
            aside(format!("what only one launcher has seen is missing: {who}"));
        }
        events.extend(page.events);
        until = page.next;
        if until.is_none() || events.len() >= limit {
            break;
        }
        if number == PAGES {
            aside("there may be older ones: not all were looked at; --since and an id make it shorter".to_owned());
        }
    }
    events.truncate(limit);
    Ok(table(&events, now))
}

/// What all launchers have of any of some queries of one limit, an event that is of several once; and whether any of them has
/// answered with what it knows.
pub async fn ask(records: &Records, queries: &[Query]) -> (Page, bool) {
    let get = async |url: String| http_client::fetch(&url, ANSWER_WITHIN).await;
    let said = queries.iter().map(|query| asked(records, None, query, get));
    let (mut pages, mut silent) = (Vec::new(), Vec::new());
    for said in futures::future::join_all(said).await {
        pages.extend(said.answers);
        silent.extend(said.silent);
    }
    // One that cannot read its own history says so.
    let has_answered = pages.iter().any(|page| page.silent.is_empty());
    let limit = queries.first().map_or(0, |query| query.limit);
    (Page::merged(pages, silent, limit), has_answered)
}

fn not_asked(silent: &Silent) -> String {
    format!("the launcher on {} ({}): {}", silent.hostname, silent.pools.join(", "), silent.why)
}
