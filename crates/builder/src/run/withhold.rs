//! What of the files without a record is not deleted: put on record, said in the log and in a metric.
//!
//! A builder has no HTTP port: `nodepool leaks` is where people look. A permission is a change of the record, which wakes the
//! planner as any other does.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use nodepool_common::{
    daemon::Daemon,
    model::{Entry, HeldBack, Holder},
    sys::host,
    zk::SessionId,
};
use tracing::{error, info, warn};

use super::Builder;

const LOGGER: &str = "nodepool.builder.CleanupWorker";
/// Before the record is tried again that ZooKeeper did not take, and the longest wait until the cache has one.
const AGAIN: Duration = Duration::from_secs(5);

impl Builder {
    /// Brings the record in line with the plan's word, and says what has changed. `before`: the record that the plan was made
    /// from, of that session. A newer one may have a permission that the plan does not know, and must not be written over.
    pub(super) fn withhold(
        self: &Arc<Self>,
        session: SessionId,
        held: Option<HeldBack>,
        before: Option<Arc<Entry<HeldBack>>>,
    ) {
        let held = held.map(|held| HeldBack { host: host::hostname(), ..held });
        // What is being written is not known to the planner yet.
        if self.state().withholding {
            return;
        }
        self.say_what_is_withheld(held.as_ref());
        let holder = Holder::Builder(self.id.clone());
        let written = before.as_ref().and_then(|entry| entry.usable()).map(|held| held.write());
        if written == held.as_ref().map(HeldBack::write) && before.is_some() == written.is_some() {
            return;
        }
        self.state().withholding = true;
        self.spawn(|this| async move {
            let wanted = held.as_ref().map(HeldBack::write);
            match this.zk.in_session(session).hold_back(&holder, held.as_ref(), before.as_deref()).await {
                Ok(true) => {
                    let mut changed = this.zk.cache().changed();
                    let now = || this.zk.cache().read(|records| records.held_back.get(&holder).cloned());
                    let seen = async {
                        while now().as_ref().and_then(|entry| entry.usable()).map(|held| held.write()) != wanted {
                            if changed.changed().await.is_err() {
                                return;
                            }
                        }
                    };
                    // In vain, if somebody else has changed it since.
                    let _ = tokio::time::timeout(AGAIN, seen).await;
                }
                Ok(false) => {}
                Err(error) => {
                    warn!(logger = LOGGER, "Which files are held back is not on record yet: {error}");
                    tokio::time::sleep(AGAIN).await;
                }
            }
            this.state().withholding = false;
            this.frame.wake.notify_one();
        });
    }

    fn say_what_is_withheld(&self, held: Option<&HeldBack>) {
        let now: BTreeSet<String> = held.into_iter().flat_map(HeldBack::held).map(|item| item.id.clone()).collect();
        let before = std::mem::replace(&mut self.state().withheld, now.clone());
        if now == before {
            return;
        }
        self.stats.files_held_back(&self.options.fqdn, now.len());
        match held {
            Some(held) if !now.is_subset(&before) => error!(
                logger = LOGGER,
                "No file of images-dir {} is deleted that belongs to no build on record: there are those of {} builds, and {}. \
                 `nodepool leaks` lists them. If ZooKeeper's data was lost, restore it (nodepool import-image-data); if they are \
                 to go, `nodepool leaks --remove` lets those that it lists be removed, once",
                self.images_dir.display(),
                now.len(),
                held.why
            ),
            _ if now.is_empty() => info!(logger = LOGGER, "No files are held back any more"),
            _ => {}
        }
    }
}
