//! [`Session`] by a [`Keeper`](super::keeper::Keeper): each call is a message to it, and its answer is read by whoever waits.

use std::sync::atomic::{AtomicU64, Ordering};

use futures::{FutureExt, StreamExt, stream, stream::BoxStream};
use tokio::sync::{mpsc, oneshot, watch};

use super::{
    super::protocol::{
        self, Changed, Done, Error, Events, Found, Mode, MultiError, Op, Read, Session, SessionId, Stat, State,
    },
    jute::{Malformed, Message, Reader},
    keeper::{Order, Watch},
    messages::{self, Below},
};

/// A session; it ends with this value.
#[derive(Debug)]
pub(super) struct Wire {
    pub id: SessionId,
    /// Empty: none.
    pub chroot: String,
    pub state: watch::Receiver<State>,
    pub orders: mpsc::UnboundedSender<Order>,
    /// How many watches there have been.
    pub watches: AtomicU64,
}

type Answer<'a, T, E = Error> = protocol::Answer<'a, T, E>;

impl Wire {
    fn below(&self) -> Below<'_> {
        Below(&self.chroot)
    }

    /// Creates an empty persistent znode, whose path is a full one.
    pub(super) async fn create_outside(&self, full: &str) -> Result<(), Error> {
        self.ask(Below("").create(full, b"", Mode::Persistent), None, |_| Ok(())).await
    }

    /// Is asked now; what is returned only waits for the answer, and reads it.
    fn ask<'a, T: 'a>(
        &'a self,
        message: Message,
        watch: Option<Watch>,
        read: impl FnOnce(&mut Reader<'_>) -> Result<T, Malformed> + Send + 'a,
    ) -> Answer<'a, T> {
        let (answer, answered) = oneshot::channel();
        // Where it cannot be sent, the channel of the answer is closed with it.
        let _ = self.orders.send(Order::Ask { message, watch, answer });
        async move {
            let body = answered.await.unwrap_or(Err(Error::SessionEnded))?;
            read(&mut Reader(&body)).map_err(|error| Error::Unanswered(error.to_string()))
        }
        .boxed()
    }
}

impl Session for Wire {
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

    fn create<'a>(&'a self, path: &'a str, data: &[u8], mode: Mode) -> Answer<'a, (String, Stat)> {
        self.ask(self.below().create(path, data, mode), None, |answer| self.below().created(answer))
    }

    fn delete(&self, path: &str, version: Option<i32>) -> Answer<'_, ()> {
        self.ask(self.below().delete(path, version), None, |_| Ok(()))
    }

    fn set(&self, path: &str, data: &[u8], version: Option<i32>) -> Answer<'_, Stat> {
        self.ask(self.below().set(path, data, version), None, messages::stat)
    }

    fn get(&self, path: &str) -> Answer<'_, (Vec<u8>, Stat)> {
        self.ask(self.below().get(path, false), None, messages::data)
    }

    fn get_and_watch(&self, path: &str) -> Answer<'_, (Vec<u8>, Stat, Changed)> {
        let (changed, told) = oneshot::channel();
        let watch = Watch::Once { path: self.below().full(path), changed };
        self.ask(self.below().get(path, true), Some(watch), |answer| {
            let (data, stat) = messages::data(answer)?;
            Ok((data, stat, told.map(drop).boxed()))
        })
    }

    fn exists(&self, path: &str) -> Answer<'_, Option<Stat>> {
        let asked = self.ask(self.below().exists(path), None, messages::stat);
        asked
            .map(|answer| match answer {
                Err(Error::NoNode) => Ok(None),
                answer => answer.map(Some),
            })
            .boxed()
    }

    fn children(&self, path: &str) -> Answer<'_, Vec<String>> {
        self.ask(self.below().children(path), None, messages::names)
    }

    fn sync(&self, path: &str) -> Answer<'_, ()> {
        self.ask(self.below().sync(path), None, |_| Ok(()))
    }

    fn read(&self, reads: &[Read<'_>]) -> Answer<'_, Vec<Result<Found, Error>>> {
        self.ask(self.below().read(reads), None, messages::found)
    }

    fn multi(&self, operations: &[Op<'_>]) -> Answer<'_, Vec<Done>, MultiError> {
        let asked = self.ask(self.below().multi(operations), None, |answer| self.below().done(answer));
        asked.map(|answer| answer?).boxed()
    }

    fn watch(&self, path: &str) -> Answer<'_, Events> {
        let number = self.watches.fetch_add(1, Ordering::Relaxed);
        let (events, told) = mpsc::unbounded_channel();
        let watch = Watch::Below { number, path: self.below().full(path), events };
        let told = Told { events: told, number, orders: self.orders.downgrade() };
        self.ask(self.below().watch(path), Some(watch), |_| {
            let events = stream::unfold(told, |mut told| async move { Some((told.events.recv().await?, told)) });
            Ok(events.boxed())
        })
    }
}

/// What a watch tells. It is over when this is dropped.
struct Told {
    events: mpsc::UnboundedReceiver<protocol::Event>,
    number: u64,
    /// Nobody who only listens keeps the session alive.
    orders: mpsc::WeakUnboundedSender<Order>,
}

impl Drop for Told {
    fn drop(&mut self) {
        if let Some(orders) = self.orders.upgrade() {
            let _ = orders.send(Order::Forget(self.number));
        }
    }
}
