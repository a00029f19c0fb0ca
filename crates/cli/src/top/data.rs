//! What is fetched for the screen, beside it: nothing here holds up a key.
//!
//! Which launchers there are stands in ZooKeeper. Any one of them says how everything stands, for all of them; the one that has
//! answered last is asked first. Where none answers, all records are read and the same overview is made of them alone. A launcher
//! is asked further also while ZooKeeper is away.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::mpsc::{SyncSender, TrySendError},
    time::Duration,
};

use futures::future::{BoxFuture, FutureExt as _};
use nodepool_common::{
    explain::{Subject, no_trace},
    history,
    launchers::{self, ANSWER_WITHIN, Silent, launchers, silent},
    model::{Records, Timestamp},
    overview::{Overview, lists, overview},
    sys::clock,
    zk::{ZkError, ZooKeeper},
};
use nodepool_drivers::http_client::fetch;
use serde::de::DeserializeOwned;
use tokio::{sync::watch, time::timeout};

use super::{
    clean,
    rows::{self, Row, View},
    state::{Seen, Wish},
};
use crate::{explain, walk};

/// Between two looks.
const LOOK: Duration = Duration::from_secs(2);
/// The same where all records are read.
const LOOK_ALONE: Duration = Duration::from_secs(5);
/// How long an explanation, or all records, may take.
const WITHIN: Duration = Duration::from_secs(20);
/// A connection that has been away for less is not spoken of.
const PATIENCE: f64 = 2.0;
/// So much of what has happened is shown.
const EVENTS: usize = 500;

/// What comes for the screen.
#[derive(Debug)]
pub enum Arrived {
    /// What there is.
    Seen(Box<Seen>),
    /// An explanation, as lines.
    Details(Subject, Vec<String>),
    /// What is wrong with ZooKeeper, and since when; `None`: nothing.
    Trouble(Option<(String, Timestamp)>),
}

/// Sends what is wished for, for ever.
pub async fn follow(zk: &ZooKeeper, wishes: &watch::Receiver<Wish>, out: &SyncSender<Arrived>) {
    tokio::join!(looks(zk, wishes.clone(), out), details(zk, wishes.clone(), out), troubles(zk, out));
}

fn send(out: &SyncSender<Arrived>, arrived: Arrived) {
    match out.try_send(arrived) {
        // A terminal that takes nothing: the next one is newer. Or it is the end.
        Ok(()) | Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => {}
    }
}

async fn looks(zk: &ZooKeeper, mut wishes: watch::Receiver<Wish>, out: &SyncSender<Arrived>) {
    let mut looker = Looker::default();
    loop {
        let wish = wishes.borrow_and_update().clone();
        let view = View::ALL.get(wish.view).copied().unwrap_or(View::Requests);
        let pause = match looker.look(zk, view).await {
            Some(seen) => {
                let pause = if seen.is_alone { LOOK_ALONE } else { LOOK };
                send(out, Arrived::Seen(Box::new(seen)));
                pause
            }
            None => LOOK,
        };
        let is_another = |next: &Wish| (next.view, next.turn) != (wish.view, wish.turn);
        let _ = timeout(pause, wishes.wait_for(is_another)).await;
    }
}

async fn details(zk: &ZooKeeper, mut wishes: watch::Receiver<Wish>, out: &SyncSender<Arrived>) {
    loop {
        let wish = wishes.borrow_and_update().clone();
        if let Some(subject) = &wish.details
            && let Some(lines) = explained(zk, subject).await
        {
            send(out, Arrived::Details(subject.clone(), lines));
        }
        let is_another = |next: &Wish| (&next.details, next.turn) != (&wish.details, wish.turn);
        let _ = timeout(LOOK, wishes.wait_for(is_another)).await;
    }
}

/// What `nodepool explain` says; `None`: it cannot be said now.
async fn explained(zk: &ZooKeeper, subject: &Subject) -> Option<Vec<String>> {
    let subjects = [subject.clone()];
    let text = match timeout(WITHIN, explain::look(zk, &subjects)).await.ok()? {
        Ok(explanations) if explanations.is_empty() => no_trace(subject.id(), Some(subject.kind())),
        Ok(explanations) => explanations.iter().map(|explanation| explanation.render(clock::now())).collect(),
        Err(failure) => failure.to_string(),
    };
    Some(text.lines().map(clean::line).collect())
}

/// Says it when the connection is away, and when it is back.
async fn troubles(zk: &ZooKeeper, out: &SyncSender<Arrived>) {
    let mut since = None;
    loop {
        if is_connected(zk) {
            since = None;
            send(out, Arrived::Trouble(None));
        } else {
            let now = clock::now();
            let begun = *since.get_or_insert(now);
            if now - begun >= PATIENCE {
                let what = zk.problem().unwrap_or_else(|| format!("{}: no answer", zk.servers()));
                send(out, Arrived::Trouble(Some((clean::line(&what), begun))));
            }
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

fn is_connected(zk: &ZooKeeper) -> bool {
    zk.session().borrow().is_some()
}

/// Whom to ask.
#[derive(Debug, Default)]
struct Looker {
    /// The pools that were registered last.
    pools: Records,
    /// The address of the launcher that has answered last.
    last: Option<String>,
}

impl Looker {
    /// How everything stands; `None`: nobody says so now.
    async fn look(&mut self, zk: &ZooKeeper, view: View) -> Option<Seen> {
        if is_connected(zk)
            && let Ok(Ok(pools)) = timeout(ANSWER_WITHIN, walk::pools(zk)).await
        {
            self.pools = pools;
        }
        match self.ask().await {
            Ok((url, overview)) => {
                let list = list(&url, view).await;
                self.last = Some(url);
                // Ten thousand rows are not made where keys wait; a panic is told by the hook.
                tokio::task::spawn_blocking(move || of_launcher(&overview, view, list)).await.ok()
            }
            Err(silent) if is_connected(zk) => timeout(WITHIN, self.alone(zk, silent)).await.ok()?.ok(),
            Err(_) => None,
        }
    }

    /// The overview of the launcher that has answered last, or else of the first that answers now; or why each does not.
    async fn ask(&self) -> Result<(String, Overview), Vec<Silent>> {
        let all = launchers(&self.pools);
        if let Some(last) = self.last.as_ref().filter(|last| all.contains_key(*last))
            && let Ok(overview) = get(format!("{last}/api/v1/overview")).await
        {
            return Ok((last.clone(), overview));
        }
        let mut asked: Vec<BoxFuture<'_, _>> = all
            .keys()
            .map(|url| async move { (url, get::<Overview>(format!("{url}/api/v1/overview")).await) }.boxed())
            .collect();
        let mut whys = BTreeMap::new();
        while !asked.is_empty() {
            let ((url, answer), _, rest) = futures::future::select_all(asked).await;
            match answer {
                Ok(overview) => return Ok((url.clone(), overview)),
                Err(why) => drop(whys.insert(url, why)),
            }
            asked = rest;
        }
        Err(all.iter().filter_map(|(url, pools)| Some(silent(pools, whys.remove(url)?))).collect())
    }

    /// What ZooKeeper alone says.
    async fn alone(&self, zk: &ZooKeeper, silent: Vec<Silent>) -> Result<Seen, ZkError> {
        let mut records = Records { pools: self.pools.pools.clone(), ..Records::default() };
        let (nodes, requests, images) = futures::try_join!(walk::nodes(zk), walk::requests(zk), walk::images(zk))?;
        (records.nodes, records.requests) = (nodes.nodes, requests.requests);
        walk::add_images(zk, &mut records, images.images.iter().cloned().collect()).await?;
        let made = tokio::task::spawn_blocking(move || of_records(&records, &silent)).await;
        Ok(made.unwrap_or_default())
    }
}

/// A page of a launcher.
async fn get<T: DeserializeOwned>(url: String) -> Result<T, String> {
    let body = fetch(&url, ANSWER_WITHIN).await?;
    launchers::json(&body)
}

/// What a view needs beside the overview.
enum More {
    Nothing,
    List(Result<lists::List, String>),
    History(Result<history::Page, String>),
}

async fn list(url: &str, view: View) -> More {
    match view {
        View::Requests => More::List(get(format!("{url}{}", lists::REQUESTS)).await),
        View::Nodes => More::List(get(format!("{url}{}", lists::NODES)).await),
        View::Activity => More::History(get(format!("{url}{}?limit={EVENTS}", history::PAGE)).await),
        View::Providers | View::Images | View::Attention => More::Nothing,
    }
}

fn of_launcher(overview: &Overview, view: View, more: More) -> Seen {
    let said = |result: Result<Vec<Row>, String>| result.map_err(|why| clean::line(&why));
    let mut seen = of_overview(overview, clock::now());
    let hosts: BTreeSet<&str> = overview.launchers.iter().map(|launcher| launcher.hostname.as_str()).collect();
    let hosts: Vec<&str> = hosts.into_iter().take(3).collect();
    seen.source = clean::line(&match overview.launchers.len() {
        1 => format!("launcher on {}", hosts.join(", ")),
        many => format!("{many} launchers on {}", hosts.join(", ")),
    });
    match (view, more) {
        (View::Requests, More::List(list)) => {
            seen.rows.push((view, said(list.map(|list| rows::requests(&list, overview)))));
        }
        (_, More::List(list)) => seen.rows.push((view, said(list.map(|list| rows::nodes(&list))))),
        (_, More::History(history)) => {
            seen.rows.push((view, said(history.map(|history| rows::activity(&history.events)))));
        }
        (_, More::Nothing) => {}
    }
    seen
}

fn of_records(records: &Records, silent: &[Silent]) -> Seen {
    let now = clock::now();
    let overview = overview(records, &[], silent, now);
    let mut seen = of_overview(&overview, now);
    seen.is_alone = true;
    seen.source = match silent.first() {
        Some(first) => clean::line(&format!("ZooKeeper alone, as no launcher answers: {first}")),
        None => "ZooKeeper alone, as no launcher is registered that can be asked".to_owned(),
    };
    let requests = lists::requests(records, now, |_| None);
    seen.rows.push((View::Requests, Ok(rows::requests(&requests, &overview))));
    seen.rows.push((View::Nodes, Ok(rows::nodes(&lists::nodes(records, now)))));
    seen.rows.push((View::Activity, Err("no launcher answers, and only launchers know what has happened".to_owned())));
    seen
}

fn of_overview(overview: &Overview, at: Timestamp) -> Seen {
    let counts = |what: &str, counts: &BTreeMap<String, usize>| {
        let all: Vec<String> = counts.iter().map(|(state, number)| format!("{number} {state}")).collect();
        clean::line(&format!("{what}{}", if all.is_empty() { "none".to_owned() } else { all.join(", ") }))
    };
    let attention = rows::attention(overview);
    let gravest = attention.first().zip(overview.attention.first()).map(|(row, first)| {
        let which = first.ids.first().map(String::as_str).unwrap_or_default();
        let more = attention.len() - 1 + overview.more_attention;
        (
            first.verdict,
            clean::line(&format!("{} {which}: {}: {}", first.kind, first.verdict, first.sentence)),
            more,
            row,
        )
    });
    Seen {
        at,
        source: String::new(),
        is_alone: false,
        counts: vec![counts("requests: ", &overview.requests), counts("nodes:    ", &overview.nodes)],
        silent: overview.silent.iter().map(|silent| clean::line(&format!("not asked: {silent}"))).collect(),
        attention: gravest.map(|(verdict, text, more, _)| (verdict, text, more)),
        rows: vec![
            (View::Providers, Ok(rows::providers(overview))),
            (View::Images, Ok(rows::images(overview))),
            (View::Attention, Ok(attention)),
        ],
    }
}
