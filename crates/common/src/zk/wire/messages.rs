//! Requests, replies and watch events, as `zookeeper.jute` in ZooKeeper's sources has them.

use super::{
    super::protocol::{Change, Done, Error, Event, Found, Mode, MultiError, Op, Read, Stat},
    jute::{Malformed, Message, Reader},
};

const PLAIN_CREATE: i32 = 1;
const DELETE: i32 = 2;
const EXISTS: i32 = 3;
const GET_DATA: i32 = 4;
const SET_DATA: i32 = 5;
const GET_CHILDREN: i32 = 8;
const SYNC: i32 = 9;
const PING: i32 = 11;
const CHECK: i32 = 13;
const MULTI: i32 = 14;
/// `create2`, whose reply has the new znode's stat.
const CREATE: i32 = 15;
const REMOVE_WATCHES: i32 = 18;
const MULTI_READ: i32 = 22;
const ADD_WATCH: i32 = 106;
const CLOSE: i32 = -11;
const FAILED: i32 = -1;

/// The chroot: it goes before each path of a request, and is taken off each path of a reply.
#[derive(Clone, Copy, Debug)]
pub(super) struct Chroot<'a>(pub &'a str);

impl Chroot<'_> {
    /// Writes a path to a message.
    fn path(self, message: Message, path: &str) -> Message {
        message.bytes(&[self.0.as_bytes(), self.rest(path).as_bytes()])
    }

    /// What is appended to the chroot.
    fn rest(self, path: &str) -> &str {
        if path == "/" && !self.0.is_empty() { "" } else { path }
    }

    /// The whole path.
    pub(super) fn full(self, path: &str) -> String {
        format!("{}{}", self.0, self.rest(path))
    }

    /// The path below the chroot.
    pub(super) fn strip(self, full: &str) -> &str {
        match full.strip_prefix(self.0) {
            Some("") => "/",
            Some(path) => path,
            // A server sends no other paths.
            None => full,
        }
    }

    pub(super) fn create(self, path: &str, data: &[u8], mode: Mode) -> Message {
        self.creation(Message::new(CREATE), path, data, mode)
    }

    /// With the one access list that kazoo gives: everybody may do everything.
    fn creation(self, message: Message, path: &str, data: &[u8], mode: Mode) -> Message {
        let mode = match mode {
            Mode::Persistent => 0,
            Mode::Ephemeral => 1,
            Mode::PersistentSequential => 2,
            Mode::EphemeralSequential => 3,
        };
        self.path(message, path).bytes(&[data]).int(1).int(0x1f).bytes(&[b"world"]).bytes(&[b"anyone"]).int(mode)
    }

    pub(super) fn delete(self, path: &str, version: Option<i32>) -> Message {
        self.path(Message::new(DELETE), path).int(version.unwrap_or(ANY_VERSION))
    }

    pub(super) fn set(self, path: &str, data: &[u8], version: Option<i32>) -> Message {
        self.path(Message::new(SET_DATA), path).bytes(&[data]).int(version.unwrap_or(ANY_VERSION))
    }

    pub(super) fn get(self, path: &str, and_watch: bool) -> Message {
        self.path(Message::new(GET_DATA), path).flag(and_watch)
    }

    pub(super) fn exists(self, path: &str) -> Message {
        self.path(Message::new(EXISTS), path).flag(false)
    }

    pub(super) fn children(self, path: &str) -> Message {
        self.path(Message::new(GET_CHILDREN), path).flag(false)
    }

    pub(super) fn sync(self, path: &str) -> Message {
        self.path(Message::new(SYNC), path)
    }

    /// Persistent and recursive.
    pub(super) fn add_watch(self, path: &str) -> Message {
        self.path(Message::new(ADD_WATCH), path).int(1)
    }

    pub(super) fn multi_read(self, reads: &[Read<'_>]) -> Message {
        let mut message = Message::new(MULTI_READ);
        for read in reads {
            let (operation, path) = match read {
                Read::Data(path) => (GET_DATA, path),
                Read::Children(path) => (GET_CHILDREN, path),
            };
            message = self.path(part(message, operation), path).flag(false);
        }
        last_part(message)
    }

    pub(super) fn multi(self, operations: &[Op<'_>]) -> Message {
        let mut message = Message::new(MULTI);
        for operation in operations {
            message = match *operation {
                Op::Check(path, version) => self.path(part(message, CHECK), path).int(version.unwrap_or(ANY_VERSION)),
                Op::Create(path, data, mode) => self.creation(part(message, CREATE), path, data, mode),
                Op::Set(path, data, version) => {
                    self.path(part(message, SET_DATA), path).bytes(&[data]).int(version.unwrap_or(ANY_VERSION))
                }
                Op::Delete(path, version) => self.path(part(message, DELETE), path).int(version.unwrap_or(ANY_VERSION)),
            };
        }
        last_part(message)
    }

    /// The reply to [`Self::create`].
    pub(super) fn create_reply(self, reply: &mut Reader<'_>) -> Result<(String, Stat), Malformed> {
        Ok((self.strip(reply.text()?).to_owned(), reply.stat()?))
    }

    /// The reply to [`Self::multi`].
    pub(super) fn multi_reply(self, reply: &mut Reader<'_>) -> Result<Result<Vec<Done>, MultiError>, Malformed> {
        let mut done = Vec::new();
        let mut refused = None;
        let mut index = 0;
        while let Some(operation) = next_part(reply)? {
            match operation {
                CHECK => done.push(Done::Checked),
                DELETE => done.push(Done::Deleted),
                SET_DATA => done.push(Done::Set(reply.stat()?)),
                // ZOOKEEPER-4667: some servers reply as they do to a plain `create`, or send a stat that says nothing.
                PLAIN_CREATE => done.push(Done::Created(self.strip(reply.text()?).to_owned(), None)),
                CREATE => {
                    let path = self.strip(reply.text()?).to_owned();
                    let new = reply.stat()?;
                    done.push(Done::Created(path, (new.czxid != -1).then_some(new)));
                }
                FAILED => {
                    // Those before the one that could not be done have code 0, those after it another one.
                    let code = reply.int()?;
                    if code != 0 && refused.is_none() {
                        refused = Some(MultiError::Refused { index, source: error(code) });
                    }
                }
                _ => return Err(Malformed("an operation that was not requested")),
            }
            index += 1;
        }
        Ok(refused.map_or(Ok(done), Err))
    }

    /// The event as the session's users get it; `None`: they have no use for it.
    pub(super) fn event(self, zxid: i64, event: &WatcherEvent<'_>) -> Option<Event> {
        let path = self.strip(event.path).to_owned();
        Some(Event::Znode { change: event.change?, path, zxid: Some(zxid).filter(|zxid| *zxid > 0) })
    }
}

/// Whatever version there is.
const ANY_VERSION: i32 = -1;

fn part(message: Message, operation: i32) -> Message {
    message.int(operation).flag(false).int(-1)
}

fn last_part(message: Message) -> Message {
    message.int(-1).flag(true).int(-1)
}

fn next_part(reply: &mut Reader<'_>) -> Result<Option<i32>, Malformed> {
    let (operation, is_last, _code) = (reply.int()?, reply.flag()?, reply.int()?);
    Ok((!is_last).then_some(operation))
}

pub(super) fn ping() -> Message {
    Message::new(PING)
}

pub(super) fn close() -> Message {
    Message::new(CLOSE)
}

/// The removal of all watches of this session at that path, which is a full one.
pub(super) fn remove_watches(full: &str) -> Message {
    Message::new(REMOVE_WATCHES).bytes(&[full.as_bytes()]).int(3)
}

/// The reply to [`Chroot::set`] and [`Chroot::exists`].
pub(super) fn stat_reply(reply: &mut Reader<'_>) -> Result<Stat, Malformed> {
    reply.stat()
}

/// The reply to [`Chroot::children`].
pub(super) fn children_reply(reply: &mut Reader<'_>) -> Result<Vec<String>, Malformed> {
    reply.texts()
}

/// The reply to [`Chroot::get`].
pub(super) fn data_reply(reply: &mut Reader<'_>) -> Result<(Vec<u8>, Stat), Malformed> {
    Ok((reply.bytes()?.to_vec(), reply.stat()?))
}

/// The reply to [`Chroot::multi_read`].
pub(super) fn multi_read_reply(reply: &mut Reader<'_>) -> Result<Vec<Result<Found, Error>>, Malformed> {
    let mut all = Vec::new();
    while let Some(operation) = next_part(reply)? {
        all.push(match operation {
            GET_DATA => data_reply(reply).map(|(data, stat)| Ok(Found::Data(data, stat)))?,
            GET_CHILDREN => Ok(Found::Children(reply.texts()?)),
            FAILED => Err(error(reply.int()?)),
            _ => return Err(Malformed("an operation that was not requested")),
        });
    }
    Ok(all)
}

/// The header of a reply, a watch event or the reply to a ping.
#[derive(Clone, Copy, Debug)]
pub(super) struct Header {
    pub xid: i32,
    pub zxid: i64,
    pub code: i32,
}

impl Header {
    /// The xid of a watch event.
    pub(super) const WATCHER_EVENT: i32 = -1;
    /// The xid of a ping and of its reply.
    pub(super) const PING: i32 = -2;

    pub(super) fn read(message: &mut Reader<'_>) -> Result<Self, Malformed> {
        Ok(Self { xid: message.int()?, zxid: message.long()?, code: message.int()? })
    }
}

/// What a server sends when a watched path has changed.
#[derive(Debug)]
pub(super) struct WatcherEvent<'a> {
    /// `None`: of another kind, such as the removal of a watch.
    pub change: Option<Change>,
    /// The full one.
    pub path: &'a str,
}

impl<'a> WatcherEvent<'a> {
    pub(super) fn read(message: &mut Reader<'a>) -> Result<Self, Malformed> {
        let (kind, _state, path) = (message.int()?, message.int()?, message.text()?);
        let change = match kind {
            1 => Some(Change::Created),
            2 => Some(Change::Deleted),
            3 => Some(Change::Written),
            _ => None,
        };
        Ok(Self { change, path })
    }
}

/// Begins a session (`id` 0), or resumes one.
pub(super) fn connect(last_zxid: i64, timeout_ms: i32, id: i64, password: &[u8]) -> Message {
    // Not a read-only session, with a server that is cut off from its ensemble.
    Message::connect_request().int(0).long(last_zxid).int(timeout_ms).long(id).bytes(&[password]).flag(false)
}

/// The reply to [`connect`].
#[derive(Debug)]
pub(super) struct ConnectReply {
    pub timeout_ms: i32,
    /// 0: the session is over.
    pub id: i64,
    pub password: Vec<u8>,
}

impl ConnectReply {
    pub(super) fn read(message: &mut Reader<'_>) -> Result<Self, Malformed> {
        let _version = message.int()?;
        Ok(Self { timeout_ms: message.int()?, id: message.long()?, password: message.bytes()?.to_vec() })
    }
}

/// What a server's code means (`KeeperException.Code`).
pub(super) fn error(code: i32) -> Error {
    match code {
        -101 => Error::NoNode,
        -103 => Error::BadVersion,
        -110 => Error::NodeExists,
        -111 => Error::NotEmpty,
        -119 => Error::ReadOnly,
        -112 => Error::SessionEnded,
        -4 => Error::Unanswered("the server lost its connection".to_owned()),
        -7 => Error::Unanswered("the server's operation timed out".to_owned()),
        -118 => Error::Unanswered("the session has moved to another server".to_owned()),
        -127 => Error::Unanswered("the server is throttling requests".to_owned()),
        -102 => Error::Other("not authenticated for that znode (its access list does not let us)".to_owned()),
        -108 => Error::Other("ephemeral znodes may not have children".to_owned()),
        -114 => Error::Other("invalid access list".to_owned()),
        -115 | -124 => Error::Other("the server asks for an authentication that we do not have".to_owned()),
        -125 => Error::Other("a quota is exceeded".to_owned()),
        -6 => Error::Other("the server does not know that operation".to_owned()),
        -8 => Error::Other("the server finds the request's arguments invalid".to_owned()),
        _ => Error::Other(format!("the server's error code is {code}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_below_the_chroot() {
        let chroot = Chroot("/a/b");
        assert_eq!((chroot.full("/"), chroot.full("/x")), ("/a/b".to_owned(), "/a/b/x".to_owned()));
        assert_eq!((chroot.strip("/a/b"), chroot.strip("/a/b/x")), ("/", "/x"));
        let top = Chroot("");
        assert_eq!((top.full("/"), top.full("/x"), top.strip("/x")), ("/".to_owned(), "/x".to_owned(), "/x"));
    }

    /// The body of a reply: what a message has behind length, xid and operation code.
    fn body(message: Message) -> Vec<u8> {
        message.finished().split_off(12)
    }

    #[test]
    fn a_creation_may_be_answered_without_a_stat() {
        let stat = |czxid: i64| {
            let stat = Message::new(0).long(czxid).long(2).long(3).long(4).int(5).int(6).int(7).long(8).int(9).int(10);
            body(stat.long(11))
        };
        let created = |operation: i32| part(Message::new(0), operation).bytes(&[b"/c/new"]);
        let read = |reply: Message, stat: &[u8]| {
            let reply = [body(reply), stat.to_vec(), body(last_part(Message::new(0)))].concat();
            Chroot("/c").multi_reply(&mut Reader(&reply)).unwrap().unwrap()
        };
        let path = || "/new".to_owned();
        assert_eq!(read(created(PLAIN_CREATE), &[]), [Done::Created(path(), None)]);
        assert_eq!(read(created(CREATE), &stat(-1)), [Done::Created(path(), None)]);
        let known = Stat {
            czxid: 1,
            mzxid: 2,
            ctime: 3,
            mtime: 4,
            version: 5,
            cversion: 6,
            ephemeral_owner: 8,
            num_children: 10,
        };
        assert_eq!(read(created(CREATE), &stat(1)), [Done::Created(path(), Some(known))]);
    }

    #[test]
    fn what_was_refused_is_the_one_that_could_not_be_done() {
        let failed = |message: Message, code: i32| part(message, FAILED).int(code);
        let reply = failed(failed(failed(Message::new(0), 0), -103), -2);
        let reply = body(last_part(reply));
        let refused = Chroot("").multi_reply(&mut Reader(&reply)).unwrap().unwrap_err();
        assert_eq!(refused, MultiError::Refused { index: 1, source: Error::BadVersion });
        assert!(Chroot("").multi_reply(&mut Reader(&reply[..reply.len() - 1])).is_err(), "it has no end");
    }
}
