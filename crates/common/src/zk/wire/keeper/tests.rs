//! A keeper whose server is the test.

use std::{
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
};

use bytes::Buf;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, DuplexStream, ReadBuf};

use super::{
    super::{
        super::protocol::{Change, Event},
        connection::first_message,
        replies::Replies,
        watches::PersistentWatch,
    },
    *,
};
use crate::{config, sys::entropy::Entropy};

const TIMEOUT: Duration = Duration::from_secs(10);

/// Counts what is written at once.
struct Counted(DuplexStream, Arc<AtomicUsize>);

impl AsyncRead for Counted {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl AsyncWrite for Counted {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.1.fetch_add(1, Ordering::Relaxed);
        Pin::new(&mut self.0).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

/// A session whose server is the test.
struct Played {
    server: DuplexStream,
    received: BytesMut,
    commands: mpsc::UnboundedSender<Command>,
    state: watch::Receiver<State>,
    writes: Arc<AtomicUsize>,
    /// How long each reply has taken.
    took: std::sync::mpsc::Receiver<Duration>,
}

impl Played {
    /// `prepare` is done before the keeper looks at anything.
    fn begin(prepare: impl FnOnce(&mpsc::UnboundedSender<Command>)) -> Self {
        // Nobody listens there any more.
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        Self::begin_with(port, prepare)
    }

    /// The same where a server at that port is tried when the first connection is broken.
    fn begin_with(port: u16, prepare: impl FnOnce(&mpsc::UnboundedSender<Command>)) -> Self {
        let server = config::ZooKeeperServer { host: "127.0.0.1".to_owned(), port, chroot: Some("/c".to_owned()) };
        let config = config::ZooKeeper { servers: vec![server], timeout: TIMEOUT, tls: None };
        let (sender, commands) = mpsc::unbounded_channel();
        prepare(&sender);
        let (ours, server) = tokio::io::duplex(1 << 16);
        let state = watch::Sender::new(State::Connected);
        let (states, writes) = (state.subscribe(), Arc::default());
        let connection = Connection {
            stream: Box::new(Counted(ours, Arc::clone(&writes))),
            credentials: Credentials { id: 1, ..Credentials::new(TIMEOUT) },
            server: "the test".to_owned(),
        };
        let replies = Replies::default();
        let (told, took) = std::sync::mpsc::channel();
        replies.tell(move |after| {
            let _ = told.send(after);
        });
        let target = Target::new(&config, &Entropy::seeded(1)).unwrap().measured_by(replies);
        let keeper = Keeper::new(target, 0, &connection, state, commands, CancellationToken::new());
        tokio::spawn(keeper.keep(connection.stream));
        Self { server, received: BytesMut::new(), commands: sender, state: states, writes, took }
    }

    /// The xid of the next message, and its operation code.
    async fn next(&mut self) -> (i32, i32) {
        loop {
            if let Some((message, length)) = first_message(&self.received).unwrap() {
                let mut message = Reader(message);
                let (xid, operation) = (message.int().unwrap(), message.int().unwrap());
                self.received.advance(length);
                return (xid, operation);
            }
            self.server.read_buf(&mut self.received).await.unwrap();
        }
    }

    async fn reply(&mut self, xid: i32, zxid: i64, code: i32, body: Message) {
        // A body is written as a request is, whose length, xid and operation code are left out.
        let body = &body.finished()[12..];
        let header = Message::connect_request().int(xid).long(zxid).int(code).finished();
        let length = u32::try_from(header.len() - 4 + body.len()).unwrap();
        let reply = [&length.to_be_bytes(), &header[4..], body].concat();
        self.server.write_all(&reply).await.unwrap();
    }

    async fn until(&mut self, wanted: impl Fn(&State) -> bool) {
        self.state.wait_for(wanted).await.unwrap();
    }
}

fn send_to(commands: &mpsc::UnboundedSender<Command>, message: Message) -> oneshot::Receiver<Reply> {
    let (reply, replied) = oneshot::channel();
    commands.send(Command::Request { message, watch: None, reply }).unwrap();
    replied
}

#[tokio::test(start_paused = true)]
async fn requests_made_at_once_are_sent_at_once_and_replied_to_one_by_one() {
    let mut replied = Vec::new();
    let mut played = Played::begin(|commands| {
        replied = ["/a", "/b", "/c"].map(|path| send_to(commands, Chroot("").sync(path))).into();
    });
    for xid in 1..=3 {
        assert_eq!(played.next().await, (xid, 9));
    }
    assert_eq!(played.writes.load(Ordering::Relaxed), 1);
    tokio::time::sleep(Duration::from_millis(30)).await;
    played.reply(1, 5, 0, Message::new(0).int(7)).await;
    let [one, two, three] = <[_; 3]>::try_from(replied).unwrap();
    assert_eq!(one.await.unwrap(), Ok(vec![0, 0, 0, 7]));
    tokio::time::sleep(Duration::from_millis(20)).await;
    played.reply(2, 5, -101, Message::new(0)).await;
    assert_eq!(two.await.unwrap(), Err(Error::NoNode));
    let took: Vec<_> = played.took.try_iter().map(|took| took.as_millis()).collect();
    assert_eq!(took, [30, 50], "from the request on, whatever the reply says");
    // A reply to no request says that nothing else can be relied on either.
    played.reply(7, 5, 0, Message::new(0)).await;
    assert!(three.await.unwrap().unwrap_err().is_unanswered());
    assert_eq!(*played.state.borrow(), State::Suspended);
}

#[tokio::test(start_paused = true)]
async fn under_load_it_looks_once_in_each_interval() {
    let mut played = Played::begin(|_| ());
    let begun = Instant::now();
    for xid in 1..=200 {
        let replied = send_to(&played.commands, Chroot("").sync("/"));
        assert_eq!(played.next().await.0, xid);
        played.reply(xid, 5, 0, Message::new(0)).await;
        replied.await.unwrap().unwrap();
    }
    // Two rounds for each: it is sent, and its reply is received.
    let least = PACE.every * (400 - PACE.at_once - 1);
    assert!((least..least + PACE.every * 10).contains(&begun.elapsed()), "{:?}", begun.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_server_that_sends_nothing_is_pinged_and_then_left() {
    let mut played = Played::begin(|_| ());
    let (events, mut received) = mpsc::unbounded_channel();
    let watch = Watch::Persistent(PersistentWatch { id: 0, path: "/c/n".to_owned(), events });
    let (reply, replied) = oneshot::channel();
    played
        .commands
        .send(Command::Request { message: Chroot("/c").add_watch("/n"), watch: Some(watch), reply })
        .unwrap();
    assert_eq!(played.next().await, (1, 106));
    played.reply(1, 5, 0, Message::new(0)).await;
    replied.await.unwrap().unwrap();
    for path in ["/c/nodes", "/c/n/x", "/c/n"] {
        let created = Message::new(0).int(1).int(3).bytes(&[path.as_bytes()]);
        played.reply(Header::WATCHER_EVENT, 9, 0, created).await;
    }
    for at in ["/n/x", "/n"] {
        let event = Event::Znode { change: Change::Created, path: at.to_owned(), zxid: Some(9) };
        assert_eq!(received.recv().await, Some(event));
    }
    let last_received = Instant::now();
    assert_eq!(played.next().await, (Header::PING, 11));
    assert!(last_received.elapsed() >= TIMEOUT * 3 / 20, "{:?}", last_received.elapsed());
    played.until(|state| *state == State::Suspended).await;
    assert!((TIMEOUT * 2 / 5..TIMEOUT / 2).contains(&last_received.elapsed()), "{:?}", last_received.elapsed());
    assert_eq!(received.recv().await, Some(Event::Suspended));
    // The session is not over before a server says so, and what is requested waits for that.
    let mut late = send_to(&played.commands, Chroot("").sync("/"));
    tokio::time::sleep(TIMEOUT * 20).await;
    assert_eq!(*played.state.borrow(), State::Suspended);
    assert!((&mut late).now_or_never().is_none());
    // Nobody uses it any more.
    drop(mem::replace(&mut played.commands, mpsc::unbounded_channel().0));
    let unused = Instant::now();
    played.until(|state| matches!(state, State::Ended(_))).await;
    assert!(unused.elapsed() < Duration::from_secs(2), "{:?}", unused.elapsed());
    assert_eq!(late.await.unwrap(), Err(Error::SessionEnded));
    assert_eq!(received.recv().await, Some(Event::Ended));
    assert_eq!(received.recv().await, None);
}

#[tokio::test(start_paused = true)]
async fn the_session_is_closed_when_nobody_can_ask_any_more() {
    let mut played = Played::begin(|_| ());
    let replied = send_to(&played.commands, Chroot("").sync("/"));
    let (nobody, _) = mpsc::unbounded_channel();
    drop(mem::replace(&mut played.commands, nobody));
    assert_eq!(played.next().await, (1, 9), "what was requested before");
    assert_eq!(played.next().await, (2, -11));
    played.reply(1, 5, 0, Message::new(0)).await;
    replied.await.unwrap().unwrap();
    played.reply(2, 6, 0, Message::new(0)).await;
    played.until(|state| matches!(state, State::Ended(why) if why == "closed")).await;
}

/// A server whose replies are the test's, on real time.
struct Server(tokio::net::TcpListener);

impl Server {
    async fn new() -> Self {
        Self(tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap())
    }

    fn port(&self) -> u16 {
        self.0.local_addr().unwrap().port()
    }

    /// Accepts a connection, and resumes the session that it asks for.
    async fn resume(&self) -> tokio::net::TcpStream {
        let (mut stream, _) = self.0.accept().await.unwrap();
        let length = stream.read_u32().await.unwrap();
        let mut request = vec![0; length as usize];
        stream.read_exact(&mut request).await.unwrap();
        let timeout = i32::try_from(TIMEOUT.as_millis()).unwrap();
        let reply = Message::connect_request().int(0).int(timeout).long(1).bytes(&[&[0; 16]]).flag(false);
        stream.write_all(&reply.finished()).await.unwrap();
        stream
    }
}

#[tokio::test]
async fn a_server_that_resumes_the_session_and_breaks_the_connection_is_not_asked_all_the_time() {
    let server = Server::new().await;
    let played = Played::begin_with(server.port(), |_| ());
    let begun = Instant::now();
    drop(played.server);
    let mut connections = 0;
    let accepting = async {
        loop {
            drop(server.resume().await);
            connections += 1;
        }
    };
    let _ = tokio::time::timeout(Duration::from_secs(3), accepting).await;
    assert!((4..=12).contains(&connections), "{connections} connections in {:?}", begun.elapsed());
}

/// The requests of one moment are many, so that what is done before the first reply and after the last differs.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_state_is_suspended_before_any_request_fails() {
    let server = Server::new().await;
    for _ in 0..5 {
        let mut played = Played::begin_with(server.port(), |_| ());
        let mut replies: Vec<_> = (0..5000).map(|_| send_to(&played.commands, Chroot("").sync("/"))).collect();
        for xid in 1..=5000 {
            assert_eq!(played.next().await.0, xid);
        }
        let (state, first) = (played.state.clone(), replies.swap_remove(0));
        let seen = std::thread::spawn(move || {
            let reply = first.blocking_recv().unwrap();
            (reply, state.borrow().clone())
        });
        drop(played.server);
        let (reply, state) = tokio::task::spawn_blocking(|| seen.join().unwrap()).await.unwrap();
        assert!(reply.unwrap_err().is_unanswered());
        assert_eq!(state, State::Suspended);
    }
}

fn add_watch(played: &Played, id: u64) -> (mpsc::UnboundedReceiver<Event>, oneshot::Receiver<Reply>) {
    let (events, received) = mpsc::unbounded_channel();
    let watch = Some(Watch::Persistent(PersistentWatch { id, path: "/c/n".to_owned(), events }));
    let (reply, replied) = oneshot::channel();
    played.commands.send(Command::Request { message: Chroot("/c").add_watch("/n"), watch, reply }).unwrap();
    (received, replied)
}

#[tokio::test(start_paused = true)]
async fn the_server_keeps_a_watch_for_as_long_as_somebody_waits_for_its_events() {
    let mut played = Played::begin(|_| ());
    let (one, _) = add_watch(&played, 1);
    assert_eq!(played.next().await, (1, 106));
    played.reply(1, 5, 0, Message::new(0)).await;
    // The second one is on its way when the first is removed: the removal would be that of both.
    let (mut two, confirmed) = add_watch(&played, 2);
    assert_eq!(played.next().await, (2, 106));
    played.commands.send(Command::RemoveWatch(1)).unwrap();
    drop(one);
    let sync = send_to(&played.commands, Chroot("").sync("/"));
    assert_eq!(played.next().await, (3, 9), "nothing was removed");
    played.reply(2, 5, 0, Message::new(0)).await;
    played.reply(3, 5, 0, Message::new(0)).await;
    confirmed.await.unwrap().unwrap();
    sync.await.unwrap().unwrap();
    let created = Message::new(0).int(1).int(3).bytes(&[b"/c/n"]);
    played.reply(Header::WATCHER_EVENT, 9, 0, created).await;
    assert!(matches!(two.recv().await, Some(Event::Znode { .. })));
    played.commands.send(Command::RemoveWatch(2)).unwrap();
    assert_eq!(played.next().await, (4, 18), "the last one is gone");
    played.reply(4, 5, 0, Message::new(0)).await;
    // One that nobody waits for any more when it is confirmed.
    let (three, _) = add_watch(&played, 3);
    assert_eq!(played.next().await, (5, 106));
    drop(three);
    played.commands.send(Command::RemoveWatch(3)).unwrap();
    played.reply(5, 5, 0, Message::new(0)).await;
    assert_eq!(played.next().await, (6, 18));
}
