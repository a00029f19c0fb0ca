//! Deleting a server.
//!
//! A cloud may keep deleted servers restorable (`SOFT_DELETED`). Nobody restores a node, and such a server keeps what it
//! takes, so it is deleted for good. Where the cloud refuses that, it counts as a server until the cloud has removed it,
//! as upstream counts it.

use std::time::Duration;

use serde_json::Value;
use tokio::time::Instant;

use super::{errors::Result, shared::OpenStackProvider, when_to_look::Kind};
use crate::{ErrorClass, ProviderError, openstack::api::CloudError};

/// A deletion that leaves its server in ERROR is asked for so many times in all.
const DELETE_ATTEMPTS: u32 = 3;
/// Nova says DELETED before it gives up the server's quota, and then lists it no more; some clouds list it for longer. So
/// many listings have to say it before it is believed,
const DELETED_LISTINGS: u32 = 3;
/// and for that long: in between Nova tells Placement, which takes seconds where its services are busy. Whoever makes a
/// server then is refused it (403), for a quota that still counts the old one.
const DELETED_FOR: Duration = Duration::from_secs(15);
/// A server is in ERROR for so many listings before its deletion is asked for again.
const ERROR_LISTINGS: u32 = 3;

impl OpenStackProvider {
    /// `at_leisure`: that it is gone may be noticed with some delay ([`crate::Provider::delete_at_leisure`]).
    pub(super) async fn delete_server(
        &self,
        external_id: &Value,
        made_in: Option<&Value>,
        at_leisure: bool,
    ) -> Result<()> {
        let Some(id) = external_id.as_str() else {
            return Err(ProviderError::new(
                ErrorClass::Bug,
                format!("deleting server {external_id} in provider {}", self.name),
                "an OpenStack server's id is a text",
            ));
        };
        let doing = || format!("deleting server {id}");
        self.delete_floating_ips(id).await?;
        for _ in 0..DELETE_ATTEMPTS {
            let since = Instant::now();
            let generation = self.cloud.generation();
            match self.cloud.delete_server(id, made_in).await {
                Ok(()) => {}
                Err(error) if error.class == ErrorClass::Gone => return Ok(()),
                Err(error) => return Err(self.error(doing())(error)),
            }
            let wait = self.wait(Kind::Deletion, since);
            let mut wait = if at_leisure { wait.at_leisure() } else { wait };
            if !self.cloud.pace().learns {
                self.servers.hurry_for_news();
            }
            let (mut errors, mut deleted, mut deleted_since, mut for_good) = (0, 0, None, false);
            while errors < ERROR_LISTINGS {
                let Some(servers) = self.next_listing(&mut wait, &doing).await? else { continue };
                match servers.get(id) {
                    None if self.cloud.generation() == generation => {
                        wait.done(false);
                        return Ok(());
                    }
                    // The settings were read anew since it was asked for: the list may be that of another project.
                    None => {
                        let found = self.cloud.get_server(id, made_in).await;
                        if found.map_err(self.error(doing()))?.is_none() {
                            return Ok(());
                        }
                        wait.soon();
                    }
                    Some(server) if server.is_soft_deleted() => {
                        wait.soon();
                        if !std::mem::replace(&mut for_good, true) {
                            self.delete_for_good(id, made_in).await;
                        }
                    }
                    Some(server) if server.is_deleted() => {
                        deleted += 1;
                        let since = *deleted_since.get_or_insert_with(Instant::now);
                        if deleted >= DELETED_LISTINGS && since.elapsed() >= DELETED_FOR {
                            return Ok(());
                        }
                        wait.soon();
                        if deleted < DELETED_LISTINGS {
                            self.servers.hurry_for_news();
                        }
                    }
                    Some(server) if server.status == "ERROR" && server.task_state.is_none() => {
                        errors += 1;
                        wait.soon();
                    }
                    Some(_) => {
                        errors = 0;
                        wait.not_yet();
                    }
                }
            }
        }
        let fault = self.fault(id).await.unwrap_or_default();
        Err(self.error(doing())(CloudError::new(
            ErrorClass::Transient,
            format!("it is still in ERROR after {DELETE_ATTEMPTS} deletions: {}", fault.message),
        )))
    }

    async fn delete_for_good(&self, id: &str, made_in: Option<&Value>) {
        match self.cloud.delete_for_good(id, made_in).await {
            Ok(()) => self.servers.hurry_for_news(),
            Err(error) if error.class == ErrorClass::Gone => {}
            Err(error) => tracing::warn!(
                provider = %self.name, %id, %error,
                "the cloud keeps the deleted server (SOFT_DELETED) and refuses to delete it for good: its node stays until \
                 the cloud has removed it"
            ),
        }
    }
}
