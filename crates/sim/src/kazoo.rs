//! Locks as kazoo has them, for the models of those who use it.

use nodepool_common::zk::protocol::{Client, Error, Mode};

use super::chance::Chance;

/// Enters the line for a lock; the contender.
pub async fn contend(client: &Client, dir: &str, chance: &Chance) -> Result<String, Error> {
    match client.create(dir, b"", Mode::Persistent).await {
        Ok(_) | Err(Error::NodeExists) => {}
        Err(error) => return Err(error),
    }
    let contender = format!("{dir}/{:032x}__lock__", chance.seed());
    Ok(client.create(&contender, b"", Mode::EphemeralSequential).await?.0)
}

/// Whether a contender has the lock.
pub async fn is_first(client: &Client, dir: &str, contender: &str) -> Result<bool, Error> {
    let number = |name: &str| name[name.len().saturating_sub(10)..].to_owned();
    let own = number(contender);
    let children = client.children(dir).await?;
    Ok(children.iter().filter(|name| name.contains("__lock__")).all(|name| number(name) >= own))
}

/// Takes a lock, where nobody has it; the contender. `None` also where there is nothing to be locked any more.
pub async fn try_lock(client: &Client, dir: &str, chance: &Chance) -> Result<Option<String>, Error> {
    let contender = match contend(client, dir, chance).await {
        Ok(contender) => contender,
        Err(Error::NoNode) => return Ok(None),
        Err(error) => return Err(error),
    };
    if is_first(client, dir, &contender).await? {
        return Ok(Some(contender));
    }
    unlock(client, &contender).await?;
    Ok(None)
}

/// Gives a lock back, or leaves the line.
pub async fn unlock(client: &Client, contender: &str) -> Result<(), Error> {
    match client.delete(contender, None).await {
        Ok(()) | Err(Error::NoNode) => Ok(()),
        Err(error) => Err(error),
    }
}
