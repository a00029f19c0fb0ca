//! A ZooKeeper client: one session, plain or TLS, requests pipelined, everything on one thread (a `LocalSet`).
//!
//! A request is sent when its method is called; the future that it returns is only the answer. It neither reconnects
//! nor retries: once the connection is gone, every call fails.

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::future::Future;
use std::rc::Rc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, oneshot};

use crate::tls::Tls;
use crate::wire::{Answer, Packet};

/// What a znode is created as: gone with its session.
pub const EPHEMERAL: i32 = 1;
/// What a znode is created as: with a number after its name.
pub const SEQUENCE: i32 = 2;
/// A watch's event: the data has changed.
pub const CHANGED: i32 = 3;

const SESSION_MS: i32 = 60_000;
/// The head of an answer: number of the request, number of the last transaction, error.
const HEAD: usize = 16;

/// Why a call failed, by ZooKeeper's number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Error(pub i32);

impl Error {
    /// The connection is gone.
    pub const CONNECTION_LOSS: Error = Error(-4);
    /// The answer is not as it should be.
    pub const MARSHALLING: Error = Error(-5);
    /// No such znode.
    pub const NO_NODE: Error = Error(-101);
    /// The znode is there already.
    pub const NODE_EXISTS: Error = Error(-110);
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Error::CONNECTION_LOSS => f.write_str("the connection to ZooKeeper is gone"),
            Error::MARSHALLING => f.write_str("ZooKeeper's answer is incomplete"),
            Error::NO_NODE => f.write_str("no such znode"),
            Error::NODE_EXISTS => f.write_str("the znode is there already"),
            Error(-112) => f.write_str("the session has expired"),
            Error(e) => write!(f, "ZooKeeper error {e}"),
        }
    }
}

/// What ZooKeeper knows of a znode, as far as it is used here.
#[derive(Clone, Copy, Debug)]
pub struct Stat {
    /// When it was created: milliseconds since the epoch by ZooKeeper's clock.
    pub ctime: i64,
    /// When its data was set last, likewise.
    pub mtime: i64,
    /// How many children it has.
    pub children: i32,
}

type Reply = Result<Vec<u8>, Error>;

struct Session {
    id: i64,
    outgoing: mpsc::UnboundedSender<Vec<u8>>,
    waiting: RefCell<VecDeque<oneshot::Sender<Reply>>>,
    watches: RefCell<HashMap<String, Vec<oneshot::Sender<i32>>>>,
    lost: Cell<bool>,
    xid: Cell<i32>,
    writes: Cell<u64>,
    reads: Cell<u64>,
    packets: Cell<u64>,
}

impl Session {
    fn lose(&self) {
        self.lost.set(true);
        self.waiting.borrow_mut().clear();
        self.watches.borrow_mut().clear();
    }

    /// None: the packet is incomplete.
    fn received(&self, mut packet: Vec<u8>) -> Option<()> {
        let mut head = Answer(packet.get(..HEAD)?);
        let (xid, _transaction, error) = (head.int()?, head.long()?, head.int()?);
        match xid {
            -1 => {
                let mut event = Answer(&packet[HEAD..]);
                let (kind, _state, path) = (event.int()?, event.int()?, event.text()?);
                for watcher in self.watches.borrow_mut().remove(&path).unwrap_or_default() {
                    let _ = watcher.send(kind);
                }
            }
            // A ping's.
            ..0 => {}
            _ => {
                let next = self.waiting.borrow_mut().pop_front();
                if let Some(waiting) = next {
                    let _ = waiting.send(if error == 0 { Ok(packet.split_off(HEAD)) } else { Err(Error(error)) });
                }
            }
        }
        Some(())
    }
}

/// A session; clones share it.
#[derive(Clone)]
pub struct Zk(Rc<Session>);

impl Zk {
    /// `hosts` as kazoo takes them, without a chroot; the first that accepts.
    pub async fn connect(hosts: &str, tls: Option<&Tls>) -> Result<Zk, String> {
        let mut why = String::from("no host");
        for address in hosts.split(',') {
            match TcpStream::connect(address).await {
                Ok(stream) => {
                    let session = Self::session(address, stream, tls).await;
                    return session.map_err(|e| format!("ZooKeeper at {address}: {e}"));
                }
                Err(e) => why = format!("ZooKeeper at {address}: {e}"),
            }
        }
        Err(why)
    }

    async fn session(address: &str, stream: TcpStream, tls: Option<&Tls>) -> Result<Zk, String> {
        stream.set_nodelay(true).map_err(|e| e.to_string())?;
        let (mut from, mut to): (Box<dyn AsyncRead + Unpin>, Box<dyn AsyncWrite + Unpin>) = match tls {
            None => {
                let (from, to) = stream.into_split();
                (Box::new(from), Box::new(to))
            }
            Some(tls) => {
                let secured = tls.connector.connect(tls.server_name(address)?, stream).await;
                let (from, to) = tokio::io::split(secured.map_err(|e| e.to_string())?);
                (Box::new(from), Box::new(to))
            }
        };
        let hello = Packet::new().int(0).long(0).int(SESSION_MS).long(0).bytes(&[0; 16]).bool(false);
        let io = |e: std::io::Error| format!("no session: {e}");
        to.write_all(&hello.framed()).await.map_err(io)?;
        to.flush().await.map_err(io)?;
        let answer = receive(&mut from).await.map_err(io)?;
        let mut answer = Answer(&answer);
        let (Some(_version), Some(timeout), Some(id)) = (answer.int(), answer.int(), answer.long()) else {
            return Err("no session: the answer is incomplete".into());
        };

        let (outgoing, mut to_send) = mpsc::unbounded_channel::<Vec<u8>>();
        let session = Rc::new(Session {
            id,
            outgoing,
            waiting: RefCell::default(),
            watches: RefCell::default(),
            lost: Cell::new(false),
            xid: Cell::new(0),
            writes: Cell::new(0),
            reads: Cell::new(0),
            packets: Cell::new(0),
        });
        let of = session.clone();
        tokio::task::spawn_local(async move {
            while let Some(mut packets) = to_send.recv().await {
                while packets.len() < 65536
                    && let Ok(next) = to_send.try_recv()
                {
                    packets.extend(next);
                }
                if to.write_all(&packets).await.is_err() || to.flush().await.is_err() {
                    return of.lose();
                }
            }
        });
        let of = session.clone();
        tokio::task::spawn_local(async move {
            let mut from = tokio::io::BufReader::with_capacity(1 << 18, from);
            while let Ok(packet) = receive(&mut from).await
                && of.received(packet).is_some()
            {}
            of.lose();
        });
        let zk = Zk(session);
        let of = zk.clone();
        let pause = Duration::from_millis(u64::try_from(timeout).unwrap_or(0) / 3);
        tokio::task::spawn_local(async move {
            while !of.0.lost.get() {
                tokio::time::sleep(pause).await;
                of.send(Packet::request(-2, 11));
            }
        });
        Ok(zk)
    }

    /// The session's id.
    pub fn id(&self) -> i64 {
        self.0.id
    }

    /// Packets sent since the session began, pings among them.
    pub fn packets(&self) -> u64 {
        self.0.packets.get()
    }

    /// Writes sent since the session began.
    pub fn writes(&self) -> u64 {
        self.0.writes.get()
    }

    /// Reads sent since the session began.
    pub fn reads(&self) -> u64 {
        self.0.reads.get()
    }

    fn send(&self, packet: Packet) {
        self.0.packets.set(self.0.packets.get() + 1);
        // Fails only when the connection is gone, and then nobody waits for the answer.
        let _ = self.0.outgoing.send(packet.framed());
    }

    fn request(&self, operation: i32) -> Packet {
        let xid = self.0.xid.get() + 1;
        self.0.xid.set(xid);
        Packet::request(xid, operation)
    }

    fn write(&self, operation: i32) -> Packet {
        self.0.writes.set(self.0.writes.get() + 1);
        self.request(operation)
    }

    fn read(&self, operation: i32) -> Packet {
        self.0.reads.set(self.0.reads.get() + 1);
        self.request(operation)
    }

    fn call<T>(
        &self,
        packet: Packet,
        decode: fn(Answer) -> Option<T>,
    ) -> impl Future<Output = Result<T, Error>> + use<T> {
        let (sender, answer) = oneshot::channel();
        if !self.0.lost.get() {
            self.0.waiting.borrow_mut().push_back(sender);
            self.send(packet);
        }
        async move {
            let answer = answer.await.unwrap_or(Err(Error::CONNECTION_LOSS))?;
            decode(Answer(&answer)).ok_or(Error::MARSHALLING)
        }
    }

    /// Creates a znode that everybody may read and write; returns its path.
    pub fn create(&self, path: &str, data: &[u8], flags: i32) -> impl Future<Output = Result<String, Error>> + use<> {
        let packet = self.write(1).text(path).bytes(data).int(1).int(31).text("world").text("anyone").int(flags);
        self.call(packet, |mut a| a.text())
    }

    /// Sets a znode's data, whatever its version.
    pub fn set(&self, path: &str, data: &[u8]) -> impl Future<Output = Result<(), Error>> + use<> {
        self.call(self.write(5).text(path).bytes(data).int(-1), |_| Some(()))
    }

    /// Deletes a znode, whatever its version.
    pub fn delete(&self, path: &str) -> impl Future<Output = Result<(), Error>> + use<> {
        self.call(self.write(2).text(path).int(-1), |_| Some(()))
    }

    /// A znode's data.
    pub fn get(&self, path: &str, watch: bool) -> impl Future<Output = Result<(Vec<u8>, Stat), Error>> + use<> {
        self.call(self.read(4).text(path).bool(watch), |mut a| Some((a.bytes()?.to_vec(), a.stat()?)))
    }

    /// What ZooKeeper knows of a znode.
    pub fn exists(&self, path: &str, watch: bool) -> impl Future<Output = Result<Stat, Error>> + use<> {
        self.call(self.read(3).text(path).bool(watch), |mut a| a.stat())
    }

    /// The names below a znode.
    pub fn children(&self, path: &str) -> impl Future<Output = Result<Vec<String>, Error>> + use<> {
        self.call(self.read(8).text(path).bool(false), |mut a| a.texts())
    }

    /// The next event on this path; ask before the read that sets the watch. An error when the connection goes.
    pub fn watch(&self, path: &str) -> oneshot::Receiver<i32> {
        let (sender, event) = oneshot::channel();
        if !self.0.lost.get() {
            self.0.watches.borrow_mut().entry(path.to_string()).or_default().push(sender);
        }
        event
    }

    /// Creates what is missing of a path, from the deepest that is there.
    pub async fn ensure(&self, path: &str) -> Result<(), Error> {
        let mut missing = vec![];
        let mut at = path;
        while !at.is_empty() {
            match self.exists(at, false).await {
                Ok(_) => break,
                Err(Error::NO_NODE) => missing.push(at),
                Err(e) => return Err(e),
            }
            at = at.rsplit_once('/').map_or("", |(parent, _)| parent);
        }
        for path in missing.into_iter().rev() {
            match self.create(path, b"", 0).await {
                Ok(_) | Err(Error::NODE_EXISTS) => {}
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }

    /// Ends the session; waits 2 s for ZooKeeper to say so.
    pub async fn close(&self) {
        let bye = self.call(self.request(-11), |_| Some(()));
        let _ = tokio::time::timeout(Duration::from_secs(2), bye).await;
    }
}

/// The next packet, without its length.
async fn receive(from: &mut (impl AsyncRead + Unpin)) -> std::io::Result<Vec<u8>> {
    let length = from.read_i32().await?;
    let length = usize::try_from(length).map_err(std::io::Error::other)?;
    let mut packet = vec![0; length];
    from.read_exact(&mut packet).await?;
    Ok(packet)
}
