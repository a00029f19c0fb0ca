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

use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf};

use super::*;
use crate::config;

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
    orders: mpsc::UnboundedSender<Order>,
    state: watch::Receiver<State>,
    writes: Arc<AtomicUsize>,
}

impl Played {
    /// `prepare` is done before the keeper looks at anything.
    fn begin(prepare: impl FnOnce(&mpsc::UnboundedSender<Order>)) -> Self {
        // Nobody listens there any more.
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let server = config::ZooKeeperServer { host: "127.0.0.1".to_owned(), port, chroot: Some("/c".to_owned()) };
        let config = config::ZooKeeper { servers: vec![server], timeout: TIMEOUT, tls: None };
        let (orders, to_obey) = mpsc::unbounded_channel();
        prepare(&orders);
        let (ours, server) = tokio::io::duplex(1 << 16);
        let sender = watch::Sender::new(State::Connected);
        let (state, writes) = (sender.subscribe(), Arc::default());
        let ticket = Ticket { id: 1, ..Ticket::new(TIMEOUT) };
        let keeper = Keeper::new(Target::new(&config).unwrap(), 0, ticket, sender, to_obey);
        tokio::spawn(keeper.keep(Box::new(Counted(ours, Arc::clone(&writes)))));
        Self { server, received: BytesMut::new(), orders, state, writes }
    }

    /// The number of the next message, and its operation.
    async fn next(&mut self) -> (i32, i32) {
        loop {
            if let Some((message, length)) = first_message(&self.received).unwrap() {
                let mut message = Reader(message);
                let (number, operation) = (message.int().unwrap(), message.int().unwrap());
                self.received.advance(length);
                return (number, operation);
            }
            self.server.read_buf(&mut self.received).await.unwrap();
        }
    }

    async fn answer(&mut self, number: i32, zxid: i64, code: i32, body: Message) {
        // A body is written as a message of its own is: length and number go.
        let body = &body.finished()[12..];
        let header = Message::first().int(number).long(zxid).int(code).finished();
        let length = u32::try_from(header.len() - 4 + body.len()).unwrap();
        let answer = [&length.to_be_bytes(), &header[4..], body].concat();
        self.server.write_all(&answer).await.unwrap();
    }

    async fn until(&mut self, wanted: impl Fn(&State) -> bool) {
        self.state.wait_for(wanted).await.unwrap();
    }
}

fn ask(orders: &mpsc::UnboundedSender<Order>, message: Message) -> oneshot::Receiver<Answer> {
    let (answer, answered) = oneshot::channel();
    orders.send(Order::Ask { message, watch: None, answer }).unwrap();
    answered
}

#[tokio::test(start_paused = true)]
async fn what_is_asked_at_once_is_sent_at_once_and_answered_one_by_one() {
    let mut answered = Vec::new();
    let mut played = Played::begin(|orders| {
        answered = ["/a", "/b", "/c"].map(|path| ask(orders, Below("").sync(path))).into();
    });
    for number in 1..=3 {
        assert_eq!(played.next().await, (number, 9));
    }
    assert_eq!(played.writes.load(Ordering::Relaxed), 1);
    played.answer(1, 5, 0, Message::new(0).int(7)).await;
    played.answer(2, 5, -101, Message::new(0)).await;
    let [one, two, three] = <[_; 3]>::try_from(answered).unwrap();
    assert_eq!(one.await.unwrap(), Ok(vec![0, 0, 0, 7]));
    assert_eq!(two.await.unwrap(), Err(Error::NoNode));
    // What was not asked says that nothing else can be relied on either.
    played.answer(7, 5, 0, Message::new(0)).await;
    assert!(three.await.unwrap().unwrap_err().is_unanswered());
    assert_eq!(*played.state.borrow(), State::Suspended);
}

#[tokio::test(start_paused = true)]
async fn under_load_it_looks_once_in_each_interval() {
    let mut played = Played::begin(|_| ());
    let begun = Instant::now();
    for number in 1..=200 {
        let answered = ask(&played.orders, Below("").sync("/"));
        assert_eq!(played.next().await.0, number);
        played.answer(number, 5, 0, Message::new(0)).await;
        answered.await.unwrap().unwrap();
    }
    // Two rounds for each: it is sent, and its answer is heard.
    let least = PACE.every * (400 - PACE.at_once - 1);
    assert!((least..least + PACE.every * 10).contains(&begun.elapsed()), "{:?}", begun.elapsed());
}

#[tokio::test(start_paused = true)]
async fn who_says_nothing_is_pinged_and_then_given_up_and_the_session_with_it() {
    let mut played = Played::begin(|_| ());
    let (events, mut told) = mpsc::unbounded_channel();
    let watch = Watch::Below { number: 0, path: "/c/n".to_owned(), events };
    let (answer, answered) = oneshot::channel();
    played.orders.send(Order::Ask { message: Below("/c").watch("/n"), watch: Some(watch), answer }).unwrap();
    assert_eq!(played.next().await, (1, 106));
    played.answer(1, 5, 0, Message::new(0)).await;
    answered.await.unwrap().unwrap();
    for path in ["/c/nodes", "/c/n/x", "/c/n"] {
        let created = Message::new(0).int(1).int(3).bytes(&[path.as_bytes()]);
        played.answer(Header::NOTIFICATION, 9, 0, created).await;
    }
    for at in ["/n/x", "/n"] {
        let event = Event::Znode { change: Change::Created, path: at.to_owned(), zxid: Some(9) };
        assert_eq!(told.recv().await, Some(event));
    }
    let heard = Instant::now();
    assert_eq!(played.next().await, (Header::PING, 11));
    assert!(heard.elapsed() >= TIMEOUT * 3 / 20, "{:?}", heard.elapsed());
    played.until(|state| *state == State::Suspended).await;
    assert!((TIMEOUT * 2 / 5..TIMEOUT / 2).contains(&heard.elapsed()), "{:?}", heard.elapsed());
    assert_eq!(told.recv().await, Some(Event::Suspended));
    // It waits for the session to be resumed.
    let late = ask(&played.orders, Below("").sync("/"));
    played.until(|state| matches!(state, State::Ended(_))).await;
    assert!((TIMEOUT * 7 / 5..TIMEOUT * 3 / 2).contains(&heard.elapsed()), "{:?}", heard.elapsed());
    assert_eq!(late.await.unwrap(), Err(Error::SessionEnded));
    assert_eq!(told.recv().await, Some(Event::Ended));
    assert_eq!(told.recv().await, None);
}

#[tokio::test(start_paused = true)]
async fn the_session_is_closed_when_nobody_can_ask_any_more() {
    let mut played = Played::begin(|_| ());
    let answered = ask(&played.orders, Below("").sync("/"));
    let (nobody, _) = mpsc::unbounded_channel();
    drop(mem::replace(&mut played.orders, nobody));
    assert_eq!(played.next().await, (1, 9), "what was asked before");
    assert_eq!(played.next().await, (2, -11));
    played.answer(1, 5, 0, Message::new(0)).await;
    answered.await.unwrap().unwrap();
    played.answer(2, 6, 0, Message::new(0)).await;
    played.until(|state| matches!(state, State::Ended(why) if why == "closed")).await;
}
