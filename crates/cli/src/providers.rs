//! `info` and `erase`: what ZooKeeper holds of a provider.

use std::io::{self, BufRead as _, Write as _};

use nodepool_common::{
    model::{Node, NodeId, ProviderName, Records},
    status::{Row, Table},
    zk::{ZooKeeper, paths},
};
use serde_json::{Value, json};

use crate::{
    failure::{Failure, say},
    output::{self, Format},
    walk,
};

/// `info PROVIDER`.
pub async fn info(zk: &ZooKeeper, provider: &str, format: Format) -> Result<(), Failure> {
    let provider = ProviderName::from(provider);
    let uploads = walk::uploads(zk).await?.uploads;
    let mut images = Table::new(&[("image", "Image Name"), ("build", "Build ID"), ("uploads", "Upload IDs")], 0.0);
    for directory in walk::provider_directories(zk).await?.into_iter().filter(|d| d.provider == provider) {
        let of_build = uploads.iter().filter(|(key, entry)| {
            key.image == directory.image
                && key.build == directory.build
                && key.provider == provider
                && entry.usable().is_some()
        });
        let ids: Vec<_> = of_build.map(|(key, _)| &key.id).collect();
        images.push(Row::of(vec![json!(directory.image), json!(directory.build), json!(ids)]));
    }
    let records = walk::nodes(zk).await?;
    let mut nodes = Table::new(&[("id", "ID"), ("server_id", "Server ID")], 0.0);
    for (id, node) in nodes_of(&records, &provider) {
        // Alone among the tables, this one shows Python's None.
        let none = if format == Format::Table { Value::from("None") } else { Value::Null };
        let server = node.external_id.clone().unwrap_or(none);
        nodes.push(Row::of(vec![json!(id), server]));
    }
    if format != Format::Table {
        let all = json!({"provider": provider, "images": images.records(), "nodes": nodes.records()});
        return say(&output::document(&all, format)?);
    }
    say(&format!("ZooKeeper data for provider {provider}\n\nImage data:\n{}", images.render_text(None)))?;
    say(&format!("\nNodes:\n{}", nodes.render_text(None)))
}

/// `erase [--force] PROVIDER`: the records only; what is in the cloud stays there.
pub async fn erase(zk: &ZooKeeper, provider: &str, force: bool) -> Result<(), Failure> {
    let provider = ProviderName::from(provider);
    // What has these names in a later session may be something else.
    let in_session = zk.in_current_session("reading", paths::NODES).await?;
    let directories = walk::provider_directories(zk).await?;
    let records = walk::nodes(zk).await?;
    if !force && !confirmed(&provider)? {
        return say("Aborting. No data erased.");
    }
    say(&format!("Erasing build data for {provider}..."))?;
    for directory in directories.iter().filter(|d| d.provider == provider) {
        zk.delete_recursive(&directory.path()).await?;
    }
    say(&format!("Erasing node data for {provider}..."))?;
    for (id, _) in nodes_of(&records, &provider) {
        in_session.delete_node_record(id).await?;
    }
    Ok(())
}

fn nodes_of<'a>(records: &'a Records, provider: &'a ProviderName) -> impl Iterator<Item = (&'a NodeId, &'a Node)> {
    records
        .nodes
        .iter()
        .filter_map(|(id, entry)| Some((id, &**entry.usable()?)))
        .filter(|(_, node)| node.provider.as_ref() == Some(provider))
}

/// Only a `y` is a yes; so the end of the input is a no.
fn confirmed(provider: &ProviderName) -> Result<bool, Failure> {
    say("\nWARNING! This action is not reversible!")?;
    let mut out = io::stdout().lock();
    write!(out, "Erase ZooKeeper data for provider {provider}? [N/y] ")
        .and_then(|()| out.flush())
        .map_err(Failure::Output)?;
    let mut answer = String::new();
    io::stdin().lock().read_line(&mut answer).map_err(|source| Failure::File {
        doing: "reading the answer from",
        path: "standard input".into(),
        source,
    })?;
    Ok(answer.trim_end_matches(['\r', '\n']).eq_ignore_ascii_case("y"))
}
