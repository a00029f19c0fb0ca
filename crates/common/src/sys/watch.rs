//! A value that many look at and wait for: as `tokio::sync::watch`, whose methods these are, but who waits is woken in the
//! order in which he began to.
//!
//! Tokio's spreads those who wait over eight lists, each drawn by chance, so that threads get in each other's way less. By
//! that the same seed does not give the same order of events twice, whatever else is determined; and here some tens of tasks wait
//! at most.

use std::{
    fmt,
    ops::Deref,
    sync::{
        Arc, PoisonError, RwLock, RwLockReadGuard,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
};

use tokio::sync::Notify;

struct Shared<T> {
    value: RwLock<T>,
    /// Grows with each change that is told, while the value is locked.
    version: AtomicU64,
    senders: AtomicUsize,
    receivers: AtomicUsize,
    /// There is another version, or the last sender is gone.
    changed: Notify,
    /// The last receiver is gone.
    unheard: Notify,
}

impl<T> Shared<T> {
    fn read(&self) -> Ref<'_, T> {
        Ref(self.value.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn version(&self) -> u64 {
        self.version.load(Ordering::SeqCst)
    }

    fn is_closed(&self) -> bool {
        self.senders.load(Ordering::SeqCst) == 0
    }

    fn is_unheard(&self) -> bool {
        self.receivers.load(Ordering::SeqCst) == 0
    }
}

impl<T: fmt::Debug> fmt::Debug for Shared<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("watch").field("value", &*self.read()).field("version", &self.version()).finish_non_exhaustive()
    }
}

/// The value, which nobody changes meanwhile: not to be kept.
#[derive(Debug)]
pub struct Ref<'a, T>(RwLockReadGuard<'a, T>);

impl<T> Deref for Ref<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

/// There is no sender any more, and nothing that has not been seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("nobody is left who could change the value")]
pub struct Closed;

/// Changes the value.
#[derive(Debug)]
pub struct Sender<T>(Arc<Shared<T>>);

impl<T> Sender<T> {
    /// One with this value, which nobody watches yet.
    pub fn new(value: T) -> Self {
        Self(Arc::new(Shared {
            value: RwLock::new(value),
            version: AtomicU64::new(0),
            senders: AtomicUsize::new(1),
            receivers: AtomicUsize::new(0),
            changed: Notify::new(),
            unheard: Notify::new(),
        }))
    }

    /// Whoever watches from now on; the value as it is now counts as seen.
    pub fn subscribe(&self) -> Receiver<T> {
        self.0.receivers.fetch_add(1, Ordering::SeqCst);
        Receiver { shared: Arc::clone(&self.0), seen: self.0.version() }
    }

    /// The value.
    pub fn borrow(&self) -> Ref<'_, T> {
        self.0.read()
    }

    /// Changes the value; those who watch are told where that returns true.
    pub fn send_if_modified(&self, change: impl FnOnce(&mut T) -> bool) -> bool {
        let has_changed = {
            let mut value = self.0.value.write().unwrap_or_else(PoisonError::into_inner);
            let has_changed = change(&mut value);
            if has_changed {
                self.0.version.fetch_add(1, Ordering::SeqCst);
            }
            has_changed
        };
        if has_changed {
            self.0.changed.notify_waiters();
        }
        has_changed
    }

    /// Changes the value, and tells those who watch.
    pub fn send_modify(&self, change: impl FnOnce(&mut T)) {
        self.send_if_modified(|value| {
            change(value);
            true
        });
    }

    /// Replaces the value, and tells those who watch; the one of before.
    pub fn send_replace(&self, mut value: T) -> T {
        self.send_modify(|now| std::mem::swap(now, &mut value));
        value
    }

    /// Until nobody watches.
    pub async fn closed(&self) {
        loop {
            let unheard = self.0.unheard.notified();
            if self.0.is_unheard() {
                return;
            }
            unheard.await;
        }
    }
}

impl<T> Clone for Sender<T> {
    fn clone(&self) -> Self {
        self.0.senders.fetch_add(1, Ordering::SeqCst);
        Self(Arc::clone(&self.0))
    }
}

impl<T: Default> Default for Sender<T> {
    fn default() -> Self {
        Self::new(T::default())
    }
}

impl<T> Drop for Sender<T> {
    fn drop(&mut self) {
        if self.0.senders.fetch_sub(1, Ordering::SeqCst) == 1 {
            self.0.changed.notify_waiters();
        }
    }
}

/// Watches the value.
#[derive(Debug)]
pub struct Receiver<T> {
    shared: Arc<Shared<T>>,
    seen: u64,
}

impl<T> Receiver<T> {
    /// The value; whether it was seen before stays as it is.
    pub fn borrow(&self) -> Ref<'_, T> {
        self.shared.read()
    }

    /// The value, which is seen by that.
    pub fn borrow_and_update(&mut self) -> Ref<'_, T> {
        let value = self.shared.read();
        self.seen = self.shared.version();
        value
    }

    /// Whether there is a value that was not seen.
    pub fn has_changed(&self) -> bool {
        self.shared.version() != self.seen
    }

    /// The value counts as not seen.
    pub fn mark_changed(&mut self) {
        self.seen = self.shared.version().wrapping_sub(1);
    }

    /// Waits for a value that was not seen, which is seen by that. May be dropped while it waits.
    pub async fn changed(&mut self) -> Result<(), Closed> {
        another(&self.shared, &mut self.seen).await
    }

    /// Waits for a value that is as wanted, the one of now included; it is seen by that. May be dropped while it waits.
    pub async fn wait_for(&mut self, mut is_wanted: impl FnMut(&T) -> bool) -> Result<Ref<'_, T>, Closed> {
        let mut is_closed = false;
        loop {
            {
                let value = self.shared.read();
                self.seen = self.shared.version();
                if is_wanted(&value) {
                    return Ok(value);
                }
            }
            if is_closed {
                return Err(Closed);
            }
            is_closed = another(&self.shared, &mut self.seen).await.is_err();
        }
    }
}

/// Waits for a version that was not seen.
async fn another<T>(shared: &Shared<T>, seen: &mut u64) -> Result<(), Closed> {
    loop {
        // What is told from here on wakes it, whether or not it waits already.
        let changed = shared.changed.notified();
        let version = shared.version();
        if version != *seen {
            *seen = version;
            return Ok(());
        }
        if shared.is_closed() {
            return Err(Closed);
        }
        changed.await;
    }
}

impl<T> Clone for Receiver<T> {
    fn clone(&self) -> Self {
        self.shared.receivers.fetch_add(1, Ordering::SeqCst);
        Self { shared: Arc::clone(&self.shared), seen: self.seen }
    }
}

impl<T> Drop for Receiver<T> {
    fn drop(&mut self) {
        if self.shared.receivers.fetch_sub(1, Ordering::SeqCst) == 1 {
            self.shared.unheard.notify_waiters();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use futures::FutureExt;

    use super::*;

    #[tokio::test]
    async fn who_waits_is_woken_in_the_order_in_which_he_began_to() {
        let sender = Sender::new(0);
        let woken: Arc<Mutex<Vec<usize>>> = Arc::default();
        let waiting: Vec<_> = (0..20)
            .map(|number| {
                let (mut receiver, woken) = (sender.subscribe(), Arc::clone(&woken));
                tokio::spawn(async move {
                    receiver.changed().await.unwrap();
                    woken.lock().unwrap().push(number);
                })
            })
            .collect();
        tokio::task::yield_now().await;
        sender.send_replace(1);
        for task in waiting {
            task.await.unwrap();
        }
        assert_eq!(*woken.lock().unwrap(), (0..20).collect::<Vec<_>>());
    }

    #[tokio::test]
    async fn a_change_is_seen_once_by_each_and_not_lost_before_the_wait() {
        let sender = Sender::new('a');
        let mut receiver = sender.subscribe();
        assert!(receiver.changed().now_or_never().is_none(), "the first value is no change");
        assert_eq!(sender.send_replace('b'), 'a');
        sender.send_replace('c');
        let mut clone = receiver.clone();
        for receiver in [&mut receiver, &mut clone] {
            assert_eq!(receiver.changed().now_or_never(), Some(Ok(())));
            assert_eq!((*receiver.borrow(), receiver.has_changed()), ('c', false));
            assert!(receiver.changed().now_or_never().is_none());
        }
        assert!(!sender.send_if_modified(|_| false));
        assert!(receiver.changed().now_or_never().is_none(), "nothing was told");
        receiver.mark_changed();
        assert_eq!(receiver.changed().now_or_never(), Some(Ok(())));
    }

    #[tokio::test]
    async fn a_wait_ends_with_the_wanted_value_or_the_last_sender() {
        let sender = Sender::new(1);
        let mut receiver = sender.subscribe();
        assert_eq!(receiver.wait_for(|value| *value == 1).await.map(|value| *value), Ok(1));
        let mut other = receiver.clone();
        let waiting = tokio::spawn(async move { other.wait_for(|value| *value > 2).await.map(|value| *value) });
        tokio::task::yield_now().await;
        sender.send_modify(|value| *value += 1);
        tokio::task::yield_now().await;
        sender.clone().send_modify(|value| *value += 1);
        assert_eq!(waiting.await.unwrap(), Ok(3));
        assert_eq!(receiver.changed().await, Ok(()), "what was told last is seen before the end is");
        let waiting = tokio::spawn(async move { receiver.wait_for(|value| *value > 3).await.map(|value| *value) });
        tokio::task::yield_now().await;
        drop(sender);
        assert_eq!(waiting.await.unwrap(), Err(Closed));
    }

    #[tokio::test]
    async fn a_sender_hears_when_nobody_watches_any_more() {
        let sender = Arc::new(Sender::new(()));
        let receiver = sender.subscribe();
        let (clone, same) = (receiver.clone(), Arc::clone(&sender));
        let closed = tokio::spawn(async move { same.closed().await });
        drop(receiver);
        tokio::task::yield_now().await;
        assert!(!closed.is_finished());
        drop(clone);
        closed.await.unwrap();
    }
}
