//! `pause`, `unpause`, `pause-list`: what a person of the site has launchers leave alone, while a cloud is being updated or is in trouble.
//!
//! They write one record for each provider, which the launchers follow (`common/src/model/pauses.rs`). Two people who do that at the
//! same moment do not undo what the other one has done: each write is over the version that was read, and is made again otherwise.

use std::{collections::BTreeSet, env};

use nodepool_common::{
    model::{Pause, Pauses, PoolName, ProviderName},
    status::{Column, Row, Table},
    sys::{clock, host},
    zk::{InSession, ZooKeeper, paths},
};
use serde_json::json;

use crate::{
    failure::{Failure, say},
    listing::View,
    session::Session,
    walk,
};

/// The table's columns.
pub const COLUMNS: &[Column] =
    &[("provider", "Provider"), ("pool", "Pool"), ("by", "Paused By"), ("since", "Since"), ("note", "Note")];

/// `pause PROVIDER [--pool POOL] [--note NOTE] [--by WHO]`.
pub async fn pause(
    session: &Session,
    provider: ProviderName,
    pool: Option<PoolName>,
    note: Option<String>,
    by: Option<String>,
) -> Result<(), Failure> {
    known(session, &provider, pool.as_ref()).await?;
    let pause = Pause { by: by.unwrap_or_else(person), note: note.unwrap_or_default(), since: clock::now() };
    let zk = current(&session.zk).await?;
    change(&zk, &provider, |pauses| {
        let mut pauses = pauses?;
        pauses.set(pool.as_ref(), Some(pause.clone()));
        Ok(pauses)
    })
    .await?;
    let subject = subject(&provider, pool.as_ref());
    say(&format!(
        "{subject} is paused: it takes on no request and launches nothing. What is launched already is finished"
    ))
}

/// `unpause PROVIDER [--pool POOL]`. What is not paused is fine.
pub async fn unpause(zk: &ZooKeeper, provider: ProviderName, pool: Option<PoolName>) -> Result<(), Failure> {
    let zk = current(zk).await?;
    let mut was = false;
    let left = change(&zk, &provider, |pauses| {
        // The end of all pauses of a provider also removes a record that cannot be read.
        let mut pauses = match (pauses, &pool) {
            (Err(_), None) => {
                was = true;
                Pauses::default()
            }
            (pauses, _) => pauses?,
        };
        was |= pauses.set(pool.as_ref(), None).is_some();
        Ok(pauses)
    })
    .await?;
    let subject = subject(&provider, pool.as_ref());
    let now = if was { "is paused no longer" } else { "was not paused" };
    let still = match &pool {
        Some(_) if left.provider.is_some() => {
            format!("; but all of provider {provider} is: `nodepool unpause {provider}` ends that")
        }
        None if !left.pools.is_empty() => {
            let pools: Vec<&str> = left.pools.keys().map(PoolName::as_str).collect();
            format!(
                "; but of its pools, each by itself: {}. `nodepool unpause {provider} --pool POOL` ends that",
                pools.join(", ")
            )
        }
        _ => String::new(),
    };
    say(&format!("{subject} {now}{still}"))
}

/// `pause-list`.
pub async fn list(zk: &ZooKeeper, view: &View) -> Result<(), Failure> {
    view.show(None, async || {
        let mut table = Table::new(COLUMNS, clock::now());
        for (provider, pauses) in current(zk).await?.list_pauses().await? {
            match pauses {
                Ok(pauses) => {
                    let whole = pauses.provider.iter().map(|pause| (None, pause));
                    let all = whole.chain(pauses.pools.iter().map(|(pool, pause)| (Some(pool), pause)));
                    all.for_each(|(pool, pause)| table.push(row(&provider, pool, pause)));
                }
                Err(error) => {
                    let note = format!("its record cannot be read: {error}; `nodepool unpause {provider}` removes it");
                    let cells = vec![json!(provider), json!(null), json!(null), json!(null), json!(note)];
                    table.push(Row::of(cells));
                }
            }
        }
        Ok(table)
    })
    .await
}

#[allow(clippy::cast_possible_truncation)] // whole seconds since the epoch
fn row(provider: &ProviderName, pool: Option<&PoolName>, pause: &Pause) -> Row {
    let since = clock::utc(pause.since as i64);
    Row::of(vec![json!(provider), json!(pool), json!(pause.by), json!(since), json!(pause.note)])
}

fn subject(provider: &ProviderName, pool: Option<&PoolName>) -> String {
    match pool {
        Some(pool) => format!("pool {pool} of provider {provider}"),
        None => format!("provider {provider}"),
    }
}

async fn current(zk: &ZooKeeper) -> Result<InSession, Failure> {
    Ok(zk.in_current_session("reading", paths::PAUSES).await?)
}

/// Changes the record of a provider, and returns what it is then. `with` is called again where somebody else was faster.
async fn change(
    zk: &InSession,
    provider: &ProviderName,
    mut with: impl FnMut(Result<Pauses, Failure>) -> Result<Pauses, Failure>,
) -> Result<Pauses, Failure> {
    loop {
        let read = zk.read_pauses(provider).await?;
        let (before, stat) = match read {
            Some((before, stat)) => (before, Some(stat)),
            None => (Ok(Pauses::default()), None),
        };
        let before = before.map_err(|error| {
            Failure::Refused(format!(
                "{} cannot be read: {error}. `nodepool unpause {provider}` removes it",
                paths::pauses(provider)
            ))
        });
        let after = with(before)?;
        if zk.write_pauses(provider, &after, stat).await? {
            return Ok(after);
        }
    }
}

/// A name that neither the configuration nor a registered pool has is a mistake.
async fn known(session: &Session, provider: &ProviderName, pool: Option<&PoolName>) -> Result<(), Failure> {
    let registered = walk::pools(&session.zk).await?.pools;
    let registered = || registered.values().filter_map(|pool| Some((pool.provider_name.as_ref()?, pool.name.as_ref())));
    let configured = &session.config.providers;
    let providers: BTreeSet<&ProviderName> = configured.keys().chain(registered().map(|(name, _)| name)).collect();
    if !providers.contains(provider) {
        let names: Vec<&str> = providers.into_iter().map(ProviderName::as_str).collect();
        return Err(Failure::Refused(format!(
            "there is no provider {provider} in the configuration, nor a registered pool of it; there are: {}",
            names.join(", ")
        )));
    }
    let of_config = configured.get(provider).into_iter().flat_map(|config| config.pools.iter().map(|pool| &pool.name));
    let of_registered = registered().filter(|(name, _)| *name == provider).filter_map(|(_, pool)| pool);
    let pools: BTreeSet<&PoolName> = of_config.chain(of_registered).collect();
    match pool {
        Some(pool) if !pools.contains(pool) => {
            let names: Vec<&str> = pools.into_iter().map(PoolName::as_str).collect();
            Err(Failure::Refused(format!("provider {provider} has no pool {pool}; it has: {}", names.join(", "))))
        }
        _ => Ok(()),
    }
}

/// Who runs this, as `user@host`; under sudo, who has called it.
fn person() -> String {
    let names = ["SUDO_USER", "USER", "LOGNAME"].into_iter().filter_map(|name| env::var(name).ok());
    let user = names.filter(|name| !name.is_empty()).find(|name| is_line(name));
    let user = user.unwrap_or_else(|| format!("uid {}", rustix::process::getuid().as_raw()));
    format!("{user}@{}", host::hostname())
}

/// Whether a text can be shown on a line: it comes into logs, pages and terminals of others.
fn is_line(text: &str) -> bool {
    text.chars().count() <= LONGEST && !text.chars().any(char::is_control)
}

/// Characters of a note.
const LONGEST: usize = 500;

/// A note or a name of the command line.
pub fn line(text: &str) -> Result<String, String> {
    if is_line(text) {
        Ok(text.trim().to_owned())
    } else {
        Err(format!("it is one line of {LONGEST} characters at most, without control characters"))
    }
}
