//! [`Watches`]: the watches that the server has confirmed, and who gets their events.
//!
//! They are those of one connection. The server forgets them with it, so none of them is set again: the change of a watch for
//! one counts as having happened, a persistent one gets [`Event::Gap`] and ends, and whoever needs one asks for it anew.

use std::{collections::HashMap, mem};

use tokio::sync::{mpsc, oneshot};

use super::{
    super::protocol::{Change, Event},
    messages::{Chroot, WatcherEvent},
};

/// A watch, and where its events go. Paths are full ones.
#[derive(Debug)]
pub(super) enum Watch {
    /// For one change of a znode's data, or its deletion.
    Once { path: String, changed: oneshot::Sender<()> },
    /// For all changes of a znode and those below it.
    Persistent(PersistentWatch),
}

impl Watch {
    pub(super) fn path(&self) -> &str {
        match self {
            Self::Once { path, .. } => path,
            Self::Persistent(watch) => &watch.path,
        }
    }
}

#[derive(Debug)]
pub(super) struct PersistentWatch {
    /// Which one of the session's it is.
    pub id: u64,
    pub path: String,
    pub events: mpsc::UnboundedSender<Event>,
}

impl PersistentWatch {
    fn covers(&self, path: &str) -> bool {
        path.strip_prefix(&self.path).is_some_and(|rest| rest.is_empty() || rest.starts_with('/') || self.path == "/")
    }
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Watches {
    once: HashMap<String, Vec<oneshot::Sender<()>>>,
    persistent: Vec<PersistentWatch>,
}

impl Watches {
    /// The server has confirmed a watch. Returns the path at which the server's watches are to be removed, where nobody waits for
    /// its events any more.
    pub(super) fn confirm(&mut self, watch: Watch) -> Option<String> {
        match watch {
            Watch::Once { path, changed } => {
                let waiting = self.once.entry(path).or_default();
                waiting.retain(|other| !other.is_closed());
                waiting.push(changed);
                None
            }
            Watch::Persistent(watch) if watch.events.is_closed() => self.last_of(watch.path),
            Watch::Persistent(watch) => {
                self.persistent.push(watch);
                None
            }
        }
    }

    /// Nobody waits for that persistent watch's events any more. Returns as [`Self::confirm`].
    pub(super) fn remove(&mut self, id: u64) -> Option<String> {
        let at = self.persistent.iter().position(|watch| watch.id == id)?;
        let path = self.persistent.swap_remove(at).path;
        self.last_of(path)
    }

    /// The path, if no persistent watch is left there. All others there are removed with it, so their change counts as having
    /// happened.
    fn last_of(&mut self, path: String) -> Option<String> {
        if self.persistent.iter().any(|other| other.path == path) {
            return None;
        }
        self.once.remove(&path);
        Some(path)
    }

    /// The server has sent an event.
    pub(super) fn dispatch(&mut self, chroot: Chroot<'_>, zxid: i64, event: &WatcherEvent<'_>) {
        if matches!(event.change, Some(Change::Written | Change::Deleted)) {
            // The end of the channel is what is waited for.
            self.once.remove(event.path);
        }
        for watch in self.persistent.iter().filter(|watch| watch.covers(event.path)) {
            if let Some(event) = chroot.event(zxid, event) {
                let _ = watch.events.send(event);
            }
        }
    }

    /// The connection is broken.
    pub(super) fn suspend(&mut self) {
        self.once.clear();
        self.send(&Event::Suspended);
    }

    /// There is another connection, for which the server has no watches.
    pub(super) fn resume(&mut self) {
        self.send(&Event::Gap);
        self.persistent.clear();
    }

    /// The session is over.
    pub(super) fn end(&mut self) {
        self.once.clear();
        for watch in mem::take(&mut self.persistent) {
            let _ = watch.events.send(Event::Ended);
        }
    }

    fn send(&self, event: &Event) {
        for watch in &self.persistent {
            let _ = watch.events.send(event.clone());
        }
    }
}
