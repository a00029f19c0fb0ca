//! What people of the site have paused ([`Pauses`]): read and written by the command line, and followed by launchers in the cache.
//!
//! There is no lock. A write is one over the version that was read in the same session, and a creation does not touch what is there
//! already, so that two people who pause pools of one provider at the same moment do not undo what the other one has done.

use super::{
    InSession, ZkError, paths,
    protocol::{Error, Mode},
    repeated::{mkdir, repeat},
};
use crate::model::{Pauses, ProviderName, RecordError, Stat};

/// A record as it was read; `None`: there is none.
pub type ReadPauses = Option<(Result<Pauses, RecordError>, Stat)>;

impl InSession {
    /// All that is paused, read now, by the names of the providers.
    pub async fn list_pauses(&self) -> Result<Vec<(ProviderName, Result<Pauses, RecordError>)>, ZkError> {
        let mut found = Vec::new();
        for name in self.children(paths::PAUSES).await? {
            let provider = paths::paused_provider(&name);
            if let Some((pauses, _)) = self.read_pauses(&provider).await? {
                found.push((provider, pauses));
            }
        }
        Ok(found)
    }

    /// What is paused of a provider, read now.
    pub async fn read_pauses(&self, provider: &ProviderName) -> Result<ReadPauses, ZkError> {
        let found = self.get(&paths::pauses(provider)).await?;
        Ok(found.map(|(data, stat)| (Pauses::read(&data).map(|(pauses, _)| pauses), stat)))
    }

    /// Brings the record from what it is, `before`, as it was read in this session, to what it is to be: makes, writes or removes it.
    /// False: somebody else has changed it since, and nothing was done.
    pub async fn write_pauses(
        &self,
        provider: &ProviderName,
        pauses: &Pauses,
        before: Option<Stat>,
    ) -> Result<bool, ZkError> {
        let path = paths::pauses(provider);
        match (before, pauses.is_empty()) {
            (None, true) => Ok(true),
            (None, false) => self.create_pauses(&path, pauses).await,
            (Some(before), true) => match self.client("deleting", &path)?.delete(&path, Some(before.version)).await {
                Ok(()) | Err(Error::NoNode) => Ok(true),
                Err(Error::BadVersion) => Ok(false),
                Err(error) => Err(ZkError::of("deleting", &path, error)),
            },
            (Some(before), false) => match self.set(&path, &pauses.write(), before.version).await {
                Ok(_) => Ok(true),
                Err(error) if error.is_bad_version() || error.is_no_node() => Ok(false),
                Err(error) => Err(error),
            },
        }
    }

    async fn create_pauses(&self, path: &str, pauses: &Pauses) -> Result<bool, ZkError> {
        const VERB: &str = "creating";
        let client = self.client(VERB, path)?;
        let failed = |error| ZkError::of(VERB, path, error);
        repeat(self.shared.deadline(), || mkdir(&client, paths::PAUSES)).await.map_err(failed)?;
        match client.create(path, &pauses.write(), Mode::Persistent).await {
            Ok(_) => Ok(true),
            Err(Error::NodeExists) => Ok(false),
            Err(error) => Err(failed(error)),
        }
    }
}
