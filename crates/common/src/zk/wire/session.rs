//! [`Session`] by a [`Keeper`](super::keeper::Keeper): each call is a request that it sends, and whose reply is read by whoever
//! waits for it.

use std::sync::atomic::{AtomicU64, Ordering};

use futures::{FutureExt, StreamExt, stream, stream::BoxStream};
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;

use super::{
    super::protocol::{
        self, Changed, Done, Error, Events, Found, Mode, MultiError, Op, Read, Session, SessionId, Stat, State,
    },
    jute::{Malformed, Message, Reader},
    keeper::Command,
    messages::{self, Chroot},
    watches::{PersistentWatch, Watch},
};

/// A session; it ends with this value.
#[derive(Debug)]
pub(super) struct WireSession {
    pub id: SessionId,
    /// Empty: none.
    pub chroot: String,
    pub state: watch::Receiver<State>,
    pub commands: mpsc::UnboundedSender<Command>,
    /// Where it is cancelled, the keeper looks for no other server.
    pub given_up: CancellationToken,
    /// How many watches there have been.
    pub watches: AtomicU64,
}

type Answer<'a, T, E = Error> = protocol::Answer<'a, T, E>;

impl WireSession {
    fn paths(&self) -> Chroot<'_> {
        Chroot(&self.chroot)
    }

    /// Creates an empty persistent znode, whose path is a full one.
    pub(super) async fn create_outside(&self, full: &str) -> Result<(), Error> {
        self.send(Chroot("").create(full, b"", Mode::Persistent), None, |_| Ok(())).await
    }

    /// Is sent now; what is returned only waits for the reply, and reads it.
    fn send<'a, T: 'a>(
        &'a self,
        message: Message,
        watch: Option<Watch>,
        read: impl FnOnce(&mut Reader<'_>) -> Result<T, Malformed> + Send + 'a,
    ) -> Answer<'a, T> {
        let (reply, replied) = oneshot::channel();
        // Where it cannot be sent, the channel of the reply is closed with it.
        let _ = self.commands.send(Command::Request { message, watch, reply });
        async move {
            let body = replied.await.unwrap_or(Err(Error::SessionEnded))?;
            read(&mut Reader(&body)).map_err(|error| Error::Unanswered(error.to_string()))
        }
        .boxed()
    }
}

impl Session for WireSession {
    fn id(&self) -> SessionId {
        self.id
    }

    fn states(&self) -> BoxStream<'static, State> {
        let mut states = self.state.clone();
        states.mark_changed();
        let next = async |states: &mut watch::Receiver<State>| match states.changed().await {
            Ok(()) => states.borrow_and_update().clone(),
            Err(_) => State::Ended("its keeper has ended".to_owned()),
        };
        stream::unfold(Some(states), move |states| async move {
            let mut states = states?;
            let state = next(&mut states).await;
            let is_last = matches!(state, State::Ended(_));
            Some((state, (!is_last).then_some(states)))
        })
        .boxed()
    }

    fn give_up(&self) {
        self.given_up.cancel();
    }

    fn create<'a>(&'a self, path: &'a str, data: &[u8], mode: Mode) -> Answer<'a, (String, Stat)> {
        self.send(self.paths().create(path, data, mode), None, |reply| self.paths().create_reply(reply))
    }

    fn delete(&self, path: &str, version: Option<i32>) -> Answer<'_, ()> {
        self.send(self.paths().delete(path, version), None, |_| Ok(()))
    }

    fn set(&self, path: &str, data: &[u8], version: Option<i32>) -> Answer<'_, Stat> {
        self.send(self.paths().set(path, data, version), None, messages::stat_reply)
    }

    fn get(&self, path: &str) -> Answer<'_, (Vec<u8>, Stat)> {
        self.send(self.paths().get(path, false), None, messages::data_reply)
    }

    fn get_and_watch(&self, path: &str) -> Answer<'_, (Vec<u8>, Stat, Changed)> {
        let (changed, change) = oneshot::channel();
        let watch = Watch::Once { path: self.paths().full(path), changed };
        self.send(self.paths().get(path, true), Some(watch), |reply| {
            let (data, stat) = messages::data_reply(reply)?;
            Ok((data, stat, change.map(drop).boxed()))
        })
    }

    fn exists(&self, path: &str) -> Answer<'_, Option<Stat>> {
        let sent = self.send(self.paths().exists(path), None, messages::stat_reply);
        sent.map(|found| match found {
            Err(Error::NoNode) => Ok(None),
            found => found.map(Some),
        })
        .boxed()
    }

    fn children(&self, path: &str) -> Answer<'_, Vec<String>> {
        self.send(self.paths().children(path), None, messages::children_reply)
    }

    fn sync(&self, path: &str) -> Answer<'_, ()> {
        self.send(self.paths().sync(path), None, |_| Ok(()))
    }

    fn read(&self, reads: &[Read<'_>]) -> Answer<'_, Vec<Result<Found, Error>>> {
        self.send(self.paths().multi_read(reads), None, messages::multi_read_reply)
    }

    fn multi(&self, operations: &[Op<'_>]) -> Answer<'_, Vec<Done>, MultiError> {
        let sent = self.send(self.paths().multi(operations), None, |reply| self.paths().multi_reply(reply));
        sent.map(|done| done?).boxed()
    }

    fn watch(&self, path: &str) -> Answer<'_, Events> {
        let id = self.watches.fetch_add(1, Ordering::Relaxed);
        let (sender, receiver) = mpsc::unbounded_channel();
        let watch = Watch::Persistent(PersistentWatch { id, path: self.paths().full(path), events: sender });
        let events = WatchEvents { receiver, id, commands: self.commands.downgrade() };
        self.send(self.paths().add_watch(path), Some(watch), |_| {
            let next = |mut events: WatchEvents| async move { Some((events.receiver.recv().await?, events)) };
            Ok(stream::unfold(events, next).boxed())
        })
    }
}

/// The events of a persistent watch, which is removed when this is dropped.
struct WatchEvents {
    receiver: mpsc::UnboundedReceiver<protocol::Event>,
    /// Which one of the session's watches it is.
    id: u64,
    /// Weak: a watch does not keep the session alive.
    commands: mpsc::WeakUnboundedSender<Command>,
}

impl Drop for WatchEvents {
    fn drop(&mut self) {
        if let Some(commands) = self.commands.upgrade() {
            let _ = commands.send(Command::RemoveWatch(self.id));
        }
    }
}
