//! `leaks`: what a launcher's search for leaks would remove, provider by provider, and what launchers and builders hold back
//! because the records may be lost (`common/src/model/brake.rs`). It removes nothing itself.
//!
//! The launcher removes only what two searches in a row have seen; this is one search. The cloud is listed before the
//! records are read: a server that is younger than the listing cannot be in it, and one in the listing has its record.
//!
//! `leaks --remove` asks no cloud. It shows what is on record as held back, and only then writes into the same records, over the
//! very version that it has shown, that these items may go. What cannot be shown is not allowed. Where a record has changed in
//! between, nothing of it is allowed; that one cannot be written does not stop the others.

use std::collections::BTreeMap;

use nodepool_common::{
    config,
    model::{HeldBack, HeldItem, Holder, ProviderName, Records},
    status::{Column, Row, Table},
    sys::clock,
    zk::{InSession, ZkError, paths},
};
use nodepool_drivers::{CloudResource, Context, ProviderError, leaks::leaked};
use serde_json::json;

use crate::{
    failure::{Failure, say, say_aside},
    listing::View,
    output::Format,
    session::Session,
    walk,
};

/// The table's columns.
pub const COLUMNS: &[Column] =
    &[("provider", "Provider"), ("kind", "Resource"), ("id", "ID"), ("why", "Reason"), ("removal", "Removal")];

/// What is held back, with the version of each record.
type AllHeld = BTreeMap<Holder, (HeldBack, i32)>;

/// `leaks [--provider PROVIDER]`.
pub async fn list(session: &Session, only: Option<&str>, view: &View) -> Result<(), Failure> {
    let held = held_back(&current(session).await?, only).await?;
    known(session, only, &held)?;
    let mut table = table();
    let mut silent = Vec::new();
    // On record, and not shown yet.
    let mut rest: BTreeMap<(Holder, String, String), &HeldItem> = BTreeMap::new();
    for (holder, (held, _)) in &held {
        rest.extend(held.items.iter().map(|item| ((holder.clone(), item.kind.clone(), item.id.clone()), item)));
    }
    let wanted = |name: &ProviderName| only.is_none_or(|only| name == only);
    for (name, config) in session.config.providers.iter().filter(|(name, _)| wanted(name)) {
        let found = match search(config).await {
            Ok(found) => found,
            Err(error) => {
                silent.push(format!("{name}: {error}"));
                continue;
            }
        };
        let mut records = walk::nodes(&session.zk).await?;
        records.uploads = walk::uploads(&session.zk).await?.uploads;
        for (kind, id, why) in found.leaks(&records, name) {
            let key = (Holder::Provider(name.clone()), kind.to_owned(), id.clone());
            let removal = rest.remove(&key).map_or_else(String::new, removal);
            table.push(Row::of(vec![json!(name), json!(kind), json!(id), json!(why), json!(removal)]));
        }
    }
    for ((holder, ..), item) in rest {
        table.push(row(&where_it_is(&holder, &held[&holder].0), item));
    }
    view.print(table, None)?;
    for (holder, (held, _)) in held.iter().filter(|(_, (held, _))| held.held().next().is_some()) {
        say_aside(&format!(
            "{} holds back {}{} since {}: {}. They stay until they are on record again, or `nodepool leaks --remove` lets \
             those that are listed here be removed.",
            where_it_is(holder, held),
            held.summary(),
            more(held),
            clock::utc(held.since),
            held.why
        ));
    }
    if silent.is_empty() { Ok(()) } else { Err(Failure::Refused(silent.join("\n"))) }
}

/// `leaks --remove [--provider PROVIDER]`.
pub async fn allow(session: &Session, only: Option<&str>, view: &View) -> Result<(), Failure> {
    // What was listed is allowed, or nothing.
    let zk = current(session).await?;
    let all = held_back(&zk, only).await?;
    known(session, only, &all)?;
    let mut table = table();
    let all: Vec<_> = all.iter().filter(|(_, (held, _))| held.held().next().is_some()).collect();
    if all.is_empty() {
        return if view.format == Format::Table { say("Nothing is held back.") } else { view.print(table, None) };
    }
    for (holder, (held, _)) in &all {
        let place = where_it_is(holder, held);
        held.held().for_each(|item| table.push(row(&place, item)));
    }
    view.print(table, None)?;
    let mut failed = Vec::new();
    for (holder, (held, version)) in all {
        let mut now = held.clone();
        now.items.iter_mut().for_each(|item| item.allowed = true);
        let place = where_it_is(holder, held);
        match zk.write_held_back(holder, &now, *version).await {
            Ok(true) => say_aside(&format!("{place}: {}{} may be removed, once", held.summary(), more(held))),
            Ok(false) => failed.push(format!(
                "what {place} holds back has changed in this moment, and nothing of it was allowed: look at it \
                 (nodepool leaks), and repeat this"
            )),
            Err(error) => failed.push(format!(
                "what {place} holds back may not be allowed: look at it (nodepool leaks), and repeat this: {error}"
            )),
        }
    }
    if failed.is_empty() { Ok(()) } else { Err(Failure::Refused(failed.join("\n"))) }
}

async fn current(session: &Session) -> Result<InSession, ZkError> {
    session.zk.in_current_session("reading", paths::HELD_BY_PROVIDERS).await
}

/// What is on record as held back.
async fn held_back(zk: &InSession, only: Option<&str>) -> Result<AllHeld, Failure> {
    let mut all = AllHeld::new();
    for (holder, held, stat) in zk.list_held_back().await? {
        let is_wanted = only.is_none_or(|only| matches!(&holder, Holder::Provider(name) if name == only));
        match held {
            Ok(held) if is_wanted => drop(all.insert(holder, (held, stat.version))),
            Err(error) if is_wanted => {
                say_aside(&format!(
                    "what {holder} holds back cannot be read, and is about to be written anew: {error}"
                ));
            }
            _ => {}
        }
    }
    Ok(all)
}

/// A name that neither the configuration nor a record has is a mistake.
fn known(session: &Session, only: Option<&str>, held: &AllHeld) -> Result<(), Failure> {
    let providers = &session.config.providers;
    match only {
        Some(name) if held.is_empty() && !providers.contains_key(name) => {
            let names: Vec<&str> = providers.keys().map(AsRef::as_ref).collect();
            let names = names.join(", ");
            Err(Failure::Refused(format!("there is no provider {name} in the configuration; it has: {names}")))
        }
        _ => Ok(()),
    }
}

fn table() -> Table {
    Table::new(COLUMNS, 0.0)
}

fn row(place: &str, item: &HeldItem) -> Row {
    Row::of(vec![json!(place), json!(item.kind), json!(item.id), json!(item.why), json!(removal(item))])
}

fn removal(item: &HeldItem) -> String {
    if item.allowed { "allowed".to_owned() } else { format!("held back since {}", clock::utc(item.since)) }
}

fn where_it_is(holder: &Holder, held: &HeldBack) -> String {
    match holder {
        Holder::Provider(name) => name.to_string(),
        Holder::Builder(_) => format!("images-dir of {}", held.host),
    }
}

/// Those that have no room in the record.
fn more(held: &HeldBack) -> String {
    match held.found.saturating_sub(held.items.len()) {
        0 => String::new(),
        n => format!(" (and {n} more, which are listed once these are gone)"),
    }
}

/// What a cloud has.
struct Found {
    tagged: Vec<CloudResource>,
    orphans: Vec<(CloudResource, String)>,
}

async fn search(config: &config::Provider) -> Result<Found, ProviderError> {
    let provider = nodepool_drivers::make(config, &Context::from_env())?;
    provider.start().await?;
    Ok(Found { tagged: provider.list_tagged().await?, orphans: provider.list_orphans().await? })
}

impl Found {
    fn leaks(self, records: &Records, provider: &ProviderName) -> Vec<(&'static str, String, String)> {
        let tagged = self.tagged.into_iter().filter_map(|resource| {
            let why = leaked(records, provider, &resource)?;
            Some((resource.kind.plural(), resource.id, why))
        });
        let orphans = self.orphans.into_iter().map(|(resource, why)| (resource.kind.plural(), resource.id, why));
        tagged.chain(orphans).collect()
    }
}
