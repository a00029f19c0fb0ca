//! `leaks`: what a launcher's search for leaks would remove, provider by provider. It removes nothing.
//!
//! The launcher removes only what two searches in a row have seen; this is one search. The cloud is listed before the
//! records are read: a server that is younger than the listing cannot be in it, and one in the listing has its record.

use nodepool_common::{
    config,
    model::{ProviderName, Records},
    status::{Row, Table},
};
use nodepool_drivers::{CloudResource, Context, ProviderError, leaks::leaked};
use serde_json::json;

use crate::{
    failure::{Failure, say},
    session::Session,
    walk,
};

/// `leaks [--provider PROVIDER]`.
pub async fn list(session: &Session, only: Option<&str>) -> Result<(), Failure> {
    let only = only.map(ProviderName::from);
    if let Some(name) = only.as_ref().filter(|name| !session.config.providers.contains_key(*name)) {
        let names: Vec<&str> = session.config.providers.keys().map(AsRef::as_ref).collect();
        return Err(Failure::Refused(format!(
            "there is no provider {name} in the configuration; it has: {}",
            names.join(", ")
        )));
    }
    let columns = [("provider", "Provider"), ("kind", "Resource"), ("id", "ID"), ("why", "Reason")];
    let mut table = Table::new(&columns, 0.0);
    let mut silent = Vec::new();
    let wanted = |name: &ProviderName| only.as_ref().is_none_or(|only| only == name);
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
            table.push(Row::of(vec![json!(name), json!(kind), json!(id), json!(why)]));
        }
    }
    say(&table.render_text(None))?;
    if silent.is_empty() { Ok(()) } else { Err(Failure::Refused(silent.join("\n"))) }
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
