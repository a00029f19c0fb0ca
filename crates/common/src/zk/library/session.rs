//! [`Session`] by `zookeeper-client`: calls and their answers, translated one by one.

use std::future::Future;

use futures::{FutureExt, StreamExt, future::BoxFuture, stream, stream::BoxStream};
use zookeeper_client as zk;

use super::super::protocol::{
    Answer, Change, Changed, Done, Error, Event, Events, Found, Mode, MultiError, Op, Read, Session, SessionId, Stat,
    State,
};

/// A session that the library keeps alive. It sends a request when it is called.
#[derive(Debug)]
pub(super) struct Library(pub zk::Client);

impl Session for Library {
    fn id(&self) -> SessionId {
        SessionId(self.0.session_id().0)
    }

    fn states(&self) -> BoxStream<'static, State> {
        let watcher = self.0.state_watcher();
        let changes = stream::unfold(watcher, |mut watcher| async move {
            let now = watcher.changed().await;
            Some((state(now), watcher))
        });
        stream::iter([state(self.0.state())]).chain(changes).boxed()
    }

    fn create<'a>(&'a self, path: &'a str, data: &[u8], mode: Mode) -> Answer<'a, (String, Stat)> {
        let creating = self.0.create(path, data, &options(mode));
        async move {
            let (new, sequence) = creating.await.map_err(error)?;
            let path = match mode {
                Mode::Persistent | Mode::Ephemeral => path.to_owned(),
                Mode::PersistentSequential | Mode::EphemeralSequential => format!("{path}{sequence}"),
            };
            Ok((path, stat(&new)))
        }
        .boxed()
    }

    fn delete(&self, path: &str, version: Option<i32>) -> Answer<'_, ()> {
        answer(self.0.delete(path, version), |()| ())
    }

    fn set(&self, path: &str, data: &[u8], version: Option<i32>) -> Answer<'_, Stat> {
        answer(self.0.set_data(path, data, version), |new| stat(&new))
    }

    fn get(&self, path: &str) -> Answer<'_, (Vec<u8>, Stat)> {
        answer(self.0.get_data(path), |(data, now)| (data, stat(&now)))
    }

    fn get_and_watch(&self, path: &str) -> Answer<'_, (Vec<u8>, Stat, Changed)> {
        answer(self.0.get_and_watch_data(path), |(data, now, watcher)| {
            (data, stat(&now), watcher.changed().map(drop).boxed())
        })
    }

    fn exists(&self, path: &str) -> Answer<'_, Option<Stat>> {
        answer(self.0.check_stat(path), |now| now.as_ref().map(stat))
    }

    fn children(&self, path: &str) -> Answer<'_, Vec<String>> {
        answer(self.0.list_children(path), |children| children)
    }

    fn sync(&self, path: &str) -> Answer<'_, ()> {
        answer(self.0.sync(path), |()| ())
    }

    fn read(&self, reads: &[Read<'_>]) -> Answer<'_, Vec<Result<Found, Error>>> {
        let mut reader = self.0.new_multi_reader();
        for read in reads {
            let added = match read {
                Read::Data(path) => reader.add_get_data(path),
                Read::Children(path) => reader.add_get_children(path),
            };
            if let Err(problem) = added {
                return failed(error(problem));
            }
        }
        answer(reader.commit(), |found| found.into_iter().map(found_of).collect())
    }

    fn multi(&self, operations: &[Op<'_>]) -> Answer<'_, Vec<Done>, MultiError> {
        let mut writer = self.0.new_multi_writer();
        for operation in operations {
            let added = match *operation {
                Op::Check(path, version) => writer.add_check_version(path, version.unwrap_or(ANY_VERSION)),
                Op::Create(path, data, mode) => writer.add_create(path, data, &options(mode)),
                Op::Set(path, data, version) => writer.add_set_data(path, data, version),
                Op::Delete(path, version) => writer.add_delete(path, version),
            };
            if let Err(problem) = added {
                return failed(MultiError::Failed(error(problem)));
            }
        }
        let committing = writer.commit();
        async move {
            match committing.await {
                Ok(results) => results.into_iter().map(done).collect::<Result<_, _>>().map_err(MultiError::Failed),
                Err(zk::MultiWriteError::OperationFailed { index, source }) => {
                    Err(MultiError::Refused { index, source: error(source) })
                }
                Err(zk::MultiWriteError::RequestFailed { source }) => Err(MultiError::Failed(error(source))),
            }
        }
        .boxed()
    }

    /// The library (0.11.2) adds one-shot watches again on a reconnection, but forgets persistent ones (session/watch.rs:
    /// `index.max(index)`).
    fn watch(&self, path: &str) -> Answer<'_, Events> {
        answer(self.0.watch(path, zk::AddWatchMode::PersistentRecursive), |watcher| {
            let events = stream::unfold(watcher, |mut watcher| async move {
                let told = watcher.changed().await;
                Some((told, watcher))
            });
            events.filter_map(|told| std::future::ready(event(told))).boxed()
        })
    }
}

/// To the library's `check`, of which nobody wants to know the version.
const ANY_VERSION: i32 = -1;

/// Translates an answer once it is there; the request has been sent already.
fn answer<'a, A: 'a, T>(
    asked: impl Future<Output = Result<A, zk::Error>> + Send + 'a,
    translate: impl FnOnce(A) -> T + Send + 'a,
) -> Answer<'a, T> {
    asked.map(|result| result.map(translate).map_err(error)).boxed()
}

/// A request that cannot be sent.
fn failed<'a, T: Send + 'a, E: Send + 'a>(error: E) -> BoxFuture<'a, Result<T, E>> {
    std::future::ready(Err(error)).boxed()
}

fn options(mode: Mode) -> zk::CreateOptions<'static> {
    let mode = match mode {
        Mode::Persistent => zk::CreateMode::Persistent,
        Mode::PersistentSequential => zk::CreateMode::PersistentSequential,
        Mode::Ephemeral => zk::CreateMode::Ephemeral,
        Mode::EphemeralSequential => zk::CreateMode::EphemeralSequential,
    };
    mode.with_acls(zk::Acls::anyone_all())
}

fn stat(stat: &zk::Stat) -> Stat {
    Stat {
        czxid: stat.czxid,
        mzxid: stat.mzxid,
        ctime: stat.ctime,
        mtime: stat.mtime,
        version: stat.version,
        cversion: stat.cversion,
        ephemeral_owner: stat.ephemeral_owner,
        num_children: stat.num_children,
    }
}

fn state(state: zk::SessionState) -> State {
    match state {
        zk::SessionState::SyncConnected | zk::SessionState::ConnectedReadOnly => State::Connected,
        zk::SessionState::Disconnected => State::Suspended,
        zk::SessionState::Expired | zk::SessionState::AuthFailed | zk::SessionState::Closed => {
            State::Ended(state.to_string())
        }
    }
}

fn event(event: zk::WatchedEvent) -> Option<Event> {
    let change = match event.event_type {
        zk::EventType::Session => {
            return Some(match state(event.session_state) {
                State::Connected => Event::Gap,
                State::Suspended => Event::Suspended,
                State::Ended(_) => Event::Ended,
            });
        }
        zk::EventType::NodeCreated => Change::Created,
        zk::EventType::NodeDataChanged => Change::Written,
        zk::EventType::NodeDeleted => Change::Deleted,
        zk::EventType::NodeChildrenChanged => return None,
    };
    Some(Event::Znode { change, path: event.path, zxid: Some(event.zxid).filter(|zxid| *zxid > 0) })
}

fn found_of(result: zk::MultiReadResult) -> Result<Found, Error> {
    match result {
        zk::MultiReadResult::Data { data, stat: now } => Ok(Found::Data(data, stat(&now))),
        zk::MultiReadResult::Children { children } => Ok(Found::Children(children)),
        zk::MultiReadResult::Error { err } => Err(error(err)),
        other => Err(Error::unexpected(&other)),
    }
}

fn done(result: zk::MultiWriteResult) -> Result<Done, Error> {
    match result {
        zk::MultiWriteResult::Check => Ok(Done::Checked),
        zk::MultiWriteResult::Delete => Ok(Done::Deleted),
        zk::MultiWriteResult::Create { path, stat: new } => {
            Ok(Done::Created(path, (!new.is_invalid()).then(|| stat(&new))))
        }
        zk::MultiWriteResult::SetData { stat: new } => Ok(Done::Set(stat(&new))),
        other => Err(Error::unexpected(&other)),
    }
}

/// The library passes an error of the socket, or a message about a silent server, to each operation in flight as
/// [`zk::Error::Custom`].
fn error(error: zk::Error) -> Error {
    match error {
        zk::Error::NoNode => Error::NoNode,
        zk::Error::NodeExists => Error::NodeExists,
        zk::Error::BadVersion => Error::BadVersion,
        zk::Error::NotEmpty => Error::NotEmpty,
        zk::Error::NotReadOnly => Error::ReadOnly,
        zk::Error::SessionExpired | zk::Error::ClientClosed => Error::SessionEnded,
        zk::Error::ConnectionLoss
        | zk::Error::Custom(_)
        | zk::Error::UnmarshalError { .. }
        | zk::Error::UnexpectedError(_)
        | zk::Error::Timeout
        | zk::Error::NoHosts
        | zk::Error::SessionMoved
        | zk::Error::Throttled => Error::Unanswered(error.to_string()),
        other => Error::Other(other.to_string()),
    }
}
