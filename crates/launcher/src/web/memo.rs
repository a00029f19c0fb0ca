//! The last second's answers. A dashboard open in a hundred browsers costs one table a second.
//!
//! What takes long is made in a task of its own and in a thread beside the server's, one after another in each [`Line`], however
//! many ask for however many different things, and also where who asks has gone before it is made: probes are answered
//! meanwhile, and it takes one processor for each line at most.

use std::{
    collections::HashMap,
    hash::{DefaultHasher, Hash as _, Hasher as _},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use nodepool_common::{model::Timestamp, sys::clock::Clock};

use super::{
    accept::Format,
    reply::{Document, EXPIRY},
};

/// Path, query parameters in their order, format.
pub(super) type Key = (String, Vec<(String, String)>, Format);

/// How many bytes are kept: some of the longest tables of a site with many nodes.
const AT_MOST: usize = 16 * 1024 * 1024;

/// How many pages are kept.
const PAGES: usize = 1000;

/// In which of these a page is made: each makes one at a time.
#[derive(Clone, Copy, Debug)]
pub(super) enum Line {
    /// Upstream's tables, and the pools.
    Tables,
    /// What the dashboard asks.
    Dashboard,
    /// What this launcher alone has in its history.
    OwnHistory,
    /// What all of them have: several of these lines, as it takes long where one of them does not answer.
    HistoryOfAll,
}

/// Answers by what was asked.
#[derive(Default)]
pub(super) struct Memo {
    documents: Mutex<HashMap<Key, Document>>,
    tables: Arc<tokio::sync::Mutex<()>>,
    dashboard: Arc<tokio::sync::Mutex<()>>,
    own_history: Arc<tokio::sync::Mutex<()>>,
    history_of_all: [Arc<tokio::sync::Mutex<()>>; 8],
}

impl Memo {
    /// The answer of the last second, or one that was begun after this one was asked for, else a new one.
    pub(super) async fn get_or_make(
        self: &Arc<Self>,
        line: Line,
        key: Key,
        clock: &Clock,
        make: impl Future<Output = String> + Send + 'static,
    ) -> Document {
        let asked = clock.now();
        if let Some(known) = self.get(&key, asked) {
            return known;
        }
        let line = match line {
            Line::Tables => &self.tables,
            Line::Dashboard => &self.dashboard,
            Line::OwnHistory => &self.own_history,
            Line::HistoryOfAll => self.one_of_several(&key),
        };
        let turn = Arc::clone(line).lock_owned().await;
        // Somebody else may have made it meanwhile.
        let known = self.documents().get(&key).filter(|document| document.made >= asked).cloned();
        if let Some(known) = known.or_else(|| self.get(&key, clock.now())) {
            return known;
        }
        let (own, now) = (Arc::clone(self), clock.now());
        let making = tokio::spawn(async move {
            let document = own.put(key, now, make.await);
            drop(turn);
            document
        });
        // A panic is in the log.
        making.await.unwrap_or_else(|_| Document { made: now, body: "".into() })
    }

    /// One for the same of those who ask the same.
    fn one_of_several(&self, key: &Key) -> &Arc<tokio::sync::Mutex<()>> {
        let mut sum = DefaultHasher::new();
        (&key.0, &key.1).hash(&mut sum);
        let lines = &self.history_of_all;
        let at = usize::try_from(sum.finish() % 8).unwrap_or_default();
        lines.get(at).unwrap_or(&self.own_history)
    }

    /// The same of what keeps a thread busy.
    pub(super) async fn get_or_make_beside(
        self: &Arc<Self>,
        line: Line,
        key: Key,
        clock: &Clock,
        make: impl FnOnce() -> String + Send + 'static,
    ) -> Document {
        let make = async { tokio::task::spawn_blocking(make).await.unwrap_or_default() };
        self.get_or_make(line, key, clock, make).await
    }

    /// The answer of the last second.
    pub(super) fn get(&self, key: &Key, now: Timestamp) -> Option<Document> {
        self.documents().get(key).filter(|document| document.is_fresh(now)).cloned()
    }

    /// Keeps a new one.
    pub(super) fn put(&self, key: Key, now: Timestamp, body: String) -> Document {
        let document = Document { made: now, body: body.into() };
        let mut documents = self.documents();
        // Queries can be anything: what is old must not stay, and neither may much that is asked for once.
        documents.retain(|_, document| document.is_fresh(now));
        let size = |(key, document): (&Key, &Document)| {
            let parameters = key.1.iter().map(|(name, value)| name.len() + value.len());
            key.0.len() + parameters.sum::<usize>() + document.body.len()
        };
        if documents.len() >= PAGES || documents.iter().map(size).sum::<usize>() + size((&key, &document)) > AT_MOST {
            documents.clear();
        }
        documents.insert(key, document.clone());
        document
    }

    fn documents(&self) -> MutexGuard<'_, HashMap<Key, Document>> {
        // Nothing can be left half-done under this lock, so a poisoned one is as good.
        self.documents.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Document {
    fn is_fresh(&self, now: Timestamp) -> bool {
        (0.0..=EXPIRY).contains(&(now - self.made))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    };

    use super::*;

    #[test]
    fn an_answer_is_made_once_a_second_and_old_ones_are_forgotten() {
        let memo = Memo::default();
        let key = |path: &str| (path.to_owned(), Vec::new(), Format::Text);
        let known = |path: &str, now| memo.get(&key(path), now).map(|document| document.body.to_string());
        memo.put(key("/a"), 10.0, "one".to_owned());
        assert_eq!(known("/a", 11.0).as_deref(), Some("one"));
        assert_eq!(known("/b", 11.0), None);
        assert_eq!(known("/a", 11.5), None);
        assert_eq!(known("/a", 3.0), None, "the clock was set back");
        memo.put(key("/b"), 11.5, "other".to_owned());
        assert_eq!(memo.documents().len(), 1);
    }

    #[tokio::test]
    async fn many_who_ask_at_once_get_one_answer_and_others_are_not_kept_from_theirs() {
        let (memo, clock, made) = (Arc::new(Memo::default()), Clock::system(), Arc::new(AtomicUsize::new(0)));
        let (release, held) = std::sync::mpsc::channel::<()>();
        let held = Arc::new(Mutex::new(held));
        let ask = || {
            let (made, held) = (Arc::clone(&made), Arc::clone(&held));
            memo.get_or_make_beside(Line::Tables, ("/a".to_owned(), Vec::new(), Format::Text), &clock, move || {
                held.lock().unwrap().recv().unwrap();
                format!("answer {}", made.fetch_add(1, Ordering::Relaxed))
            })
        };
        let all = futures::future::join_all((0..50).map(|_| ask()));
        // This thread is the only one of the runtime: it is free while the answer is being made.
        let free = async {
            tokio::task::yield_now().await;
            release.send(()).unwrap();
        };
        let (answers, ()) = futures::join!(all, free);
        assert!(answers.iter().all(|answer| &*answer.body == "answer 0"), "{answers:?}");
    }

    #[tokio::test]
    async fn who_goes_before_the_answer_is_made_does_not_give_the_turn_to_another() {
        let (memo, clock) = (Arc::new(Memo::default()), Clock::system());
        let key = |path: &str| (path.to_owned(), Vec::new(), Format::Text);
        let (release, held) = tokio::sync::oneshot::channel::<()>();
        let made = Arc::new(AtomicUsize::new(0));
        let first = {
            let made = Arc::clone(&made);
            memo.get_or_make(Line::Tables, key("/a"), &clock, async move {
                made.fetch_add(1, Ordering::Relaxed);
                held.await.unwrap();
                "first".to_owned()
            })
        };
        // It has begun when this one goes.
        tokio::select! {
            biased;
            _ = first => panic!("it is held"),
            () = async { while made.load(Ordering::Relaxed) == 0 { tokio::task::yield_now().await } } => {}
        }
        let second = memo.get_or_make(Line::Tables, key("/b"), &clock, async { "second".to_owned() });
        let mut second = std::pin::pin!(second);
        for _ in 0..100 {
            tokio::select! {
                biased;
                _ = &mut second => panic!("two are made at once"),
                () = tokio::task::yield_now() => {}
            }
        }
        let other = memo.get_or_make(Line::Dashboard, key("/c"), &clock, async { "other".to_owned() }).await;
        assert_eq!(&*other.body, "other");
        release.send(()).unwrap();
        assert_eq!(&*second.await.body, "second");
        assert!(memo.documents().contains_key(&key("/a")), "what was made is kept");
    }

    #[test]
    fn however_many_pages_are_asked_for_little_is_kept() {
        let memo = Memo::default();
        let page = "x".repeat(3 * 1024 * 1024);
        for number in 0..20 {
            let key = (format!("/{number}"), Vec::new(), Format::Text);
            assert_eq!(memo.put(key.clone(), 10.0, page.clone()).body.len(), page.len());
            assert!(memo.get(&key, 10.0).is_some(), "the newest is kept");
            let kept: usize = memo.documents().values().map(|document| document.body.len()).sum();
            assert!(kept <= AT_MOST, "{kept}");
        }
    }
}
