//! [`serve`]: the server's connections, so that no client can hold the server or its memory, whatever it sends or does not read.
//!
//! * A request's head has 20 s to arrive, counted from the connection's beginning or the last answer's end, and
//!   [`HEAD_AT_MOST`] bytes: longer ones are refused with 431. A body is not read.
//! * A client that takes nothing of its answer for 20 s is disconnected. Answers that are the same share their
//!   memory ([`super::reply::Document`]).
//! * There are so many connections at most ([`Limits`]). One more takes the place of that which has begun its last request longest
//!   ago: a probe is answered, however many others stay connected and say nothing.
//! * Without free file descriptors nothing is accepted for [`NO_DESCRIPTORS`].

use std::{
    collections::BTreeMap,
    io::ErrorKind,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use axum::{Router, http::Request};
use hyper::{
    body::Incoming,
    server::conn::http1,
    service::{Service, service_fn},
};

use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use rustix::process::{Resource, getrlimit};
use tokio::net::{TcpListener, TcpStream};
use tokio_io_timeout::TimeoutStream;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// How many bytes the head of a request may have.
const HEAD_AT_MOST: usize = 64 * 1024;
/// How many connections there may be, where the process may have enough files.
const CONNECTIONS: u64 = 2048;
/// How long nothing is accepted after there was no free file descriptor.
const NO_DESCRIPTORS: Duration = Duration::from_millis(200);

/// What clients may take.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// How many connections there may be.
    pub(super) connections: usize,
    /// How long the head of a request may take.
    pub(super) head_within: Duration,
    /// How long a client may take nothing of its answer.
    pub(super) takes_within: Duration,
}

impl Limits {
    /// At most half of what files the process may have are for connections, the rest for ZooKeeper and clouds.
    pub(super) fn of_process() -> Self {
        let files = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
        Self {
            connections: usize::try_from((files / 2).min(CONNECTIONS)).unwrap_or(usize::MAX).max(1),
            head_within: Duration::from_secs(20),
            takes_within: Duration::from_secs(20),
        }
    }
}

/// Answers on the listener's connections until `shutdown`; then none are accepted, each ends with the answer that it has begun, and
/// it returns when all have ended.
pub(super) async fn serve(listener: TcpListener, router: Router, limits: Limits, shutdown: CancellationToken) {
    let (connected, tasks) = (Arc::new(Connected::default()), TaskTracker::new());
    loop {
        let accepted = tokio::select! {
            biased;
            () = shutdown.cancelled() => break,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, _)) => {
                connected.make_room(limits.connections);
                let connection = connected.open();
                tasks.spawn(answer_on(stream, router.clone(), connection, limits, shutdown.clone()));
            }
            // The client has gone already.
            Err(error) if is_of_client(error.kind()) => {}
            Err(error) => {
                tracing::error!("The HTTP server cannot accept a connection: {error}");
                tokio::time::sleep(NO_DESCRIPTORS).await;
            }
        }
    }
    drop(listener);
    tasks.close();
    tasks.wait().await;
}

fn is_of_client(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::ConnectionAborted | ErrorKind::ConnectionReset | ErrorKind::ConnectionRefused)
}

/// Answers on one connection until it ends.
async fn answer_on(
    stream: TcpStream,
    router: Router,
    connection: Connection,
    limits: Limits,
    shutdown: CancellationToken,
) {
    let mut stream = TimeoutStream::new(stream);
    stream.set_write_timeout(Some(limits.takes_within));
    let router = TowerToHyperService::new(router);
    let service = service_fn(|request: Request<Incoming>| {
        connection.renew();
        router.call(request)
    });
    let mut serving = std::pin::pin!(
        http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(limits.head_within)
            .max_buf_size(HEAD_AT_MOST)
            .serve_connection(TokioIo::new(Box::pin(stream)), service)
    );
    tokio::select! {
        biased;
        () = connection.ended.cancelled() => return,
        () = shutdown.cancelled() => serving.as_mut().graceful_shutdown(),
        // What is wrong with one connection concerns its client alone.
        _ = serving.as_mut() => return,
    }
    let _ = serving.await;
}

/// The connections that there are, in the order in which they have begun their last requests.
#[derive(Default)]
struct Connected(Mutex<Order>);

#[derive(Default)]
struct Order {
    by_turn: BTreeMap<u64, CancellationToken>,
    next: u64,
}

impl Connected {
    fn order(&self) -> MutexGuard<'_, Order> {
        // Nothing can be left half-done under this lock, so a poisoned one is as good.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends connections until there is room for one more.
    fn make_room(&self, at_most: usize) {
        let mut order = self.order();
        while order.by_turn.len() >= at_most
            && let Some((_, oldest)) = order.by_turn.pop_first()
        {
            oldest.cancel();
        }
    }

    fn open(self: &Arc<Self>) -> Connection {
        let ended = CancellationToken::new();
        let turn = self.order().put(ended.clone());
        Connection { ended, turn: AtomicU64::new(turn), connected: Arc::clone(self) }
    }
}

impl Order {
    /// Puts a connection behind all others; returns its turn.
    fn put(&mut self, connection: CancellationToken) -> u64 {
        self.next += 1;
        self.by_turn.insert(self.next, connection);
        self.next
    }
}

/// One of them; it is forgotten when this goes.
struct Connection {
    /// Another one has taken its place.
    ended: CancellationToken,
    turn: AtomicU64,
    connected: Arc<Connected>,
}

impl Connection {
    /// It begins a request.
    fn renew(&self) {
        let mut order = self.connected.order();
        // Without an entry it has been ended already.
        if let Some(ended) = order.by_turn.remove(&self.turn.load(Ordering::Relaxed)) {
            self.turn.store(order.put(ended), Ordering::Relaxed);
        }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.connected.order().by_turn.remove(&self.turn.load(Ordering::Relaxed));
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        task::JoinHandle,
        time::timeout,
    };

    use super::*;

    const LONG: Limits =
        Limits { connections: 3, head_within: Duration::from_secs(600), takes_within: Duration::from_secs(600) };
    /// For what has to happen.
    const SOON: Duration = Duration::from_secs(30);

    /// A server that answers with its path, or with a large page.
    async fn start(limits: Limits) -> (SocketAddr, CancellationToken, JoinHandle<()>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let router = Router::new().fallback(async |request: Request<axum::body::Body>| match request.uri().path() {
            "/large" => "x".repeat(64 * 1024 * 1024),
            path => path.to_owned(),
        });
        let shutdown = CancellationToken::new();
        let task = tokio::spawn(serve(listener, router, limits, shutdown.clone()));
        (address, shutdown, task)
    }

    async fn connect(address: SocketAddr, says: &str) -> TcpStream {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(says.as_bytes()).await.unwrap();
        stream
    }

    /// What comes until the server closes the connection, or resets it.
    async fn rest(stream: &mut TcpStream) -> String {
        let mut answer = Vec::new();
        let _ = timeout(SOON, stream.read_to_end(&mut answer)).await.expect("the server ends the connection");
        String::from_utf8(answer).unwrap()
    }

    async fn one_answer(stream: &mut TcpStream, ends_with: &str) {
        let mut answer = String::new();
        while !answer.ends_with(ends_with) {
            let mut piece = [0; 1024];
            let read = timeout(SOON, stream.read(&mut piece)).await.expect("the server answers").unwrap();
            assert_ne!(read, 0, "closed after {answer:?}");
            answer.push_str(std::str::from_utf8(&piece[..read]).unwrap());
        }
    }

    #[tokio::test]
    async fn one_connection_too_many_takes_the_place_of_that_which_has_asked_for_nothing_longest() {
        let (address, ..) = start(LONG).await;
        let mut asks = connect(address, "GET /1 HTTP/1.1\r\nHost: x\r\n\r\n").await;
        one_answer(&mut asks, "/1").await;
        let mut half = connect(address, "GET /half HTTP/1.1\r\n").await;
        let mut silent = connect(address, "").await;
        // By then both others are connected, as connections are accepted in their order.
        let mut probe = connect(address, "GET /ready HTTP/1.1\r\nHost: x\r\n\r\n").await;
        one_answer(&mut probe, "/ready").await;
        assert_eq!(rest(&mut asks).await, "", "three others came later");
        probe.write_all(b"GET /again HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
        one_answer(&mut probe, "/again").await;
        let mut newest = connect(address, "GET /newest HTTP/1.1\r\nHost: x\r\n\r\n").await;
        one_answer(&mut newest, "/newest").await;
        assert_eq!(rest(&mut half).await, "");
        let mut last = connect(address, "GET /last HTTP/1.1\r\nHost: x\r\n\r\n").await;
        one_answer(&mut last, "/last").await;
        assert_eq!(rest(&mut silent).await, "");
        probe.write_all(b"GET /still HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await.unwrap();
        assert!(rest(&mut probe).await.ends_with("/still"), "it has asked again meanwhile");
    }

    #[tokio::test]
    async fn a_head_that_does_not_arrive_ends_its_connection() {
        let (address, ..) = start(Limits { head_within: Duration::from_millis(100), ..LONG }).await;
        let mut half = connect(address, "GET /half HTTP/1.1\r\n").await;
        assert_eq!(rest(&mut half).await, "");
        let mut idle = connect(address, "GET /1 HTTP/1.1\r\nHost: x\r\n\r\n").await;
        assert!(rest(&mut idle).await.ends_with("/1"), "and nothing after it");
    }

    #[tokio::test]
    async fn a_client_that_does_not_read_its_answer_is_left() {
        let (address, shutdown, task) = start(Limits { takes_within: Duration::from_millis(200), ..LONG }).await;
        let mut slow = connect(address, "GET /large HTTP/1.1\r\nHost: x\r\n\r\n").await;
        one_answer_begins(&mut slow).await;
        // The server waits for answers that are on their way, and has none after the limit.
        shutdown.cancel();
        timeout(SOON, task).await.expect("the connection has ended").unwrap();
    }

    async fn one_answer_begins(stream: &mut TcpStream) {
        let mut first = [0; 12];
        timeout(SOON, stream.read_exact(&mut first)).await.unwrap().unwrap();
        assert_eq!(&first, b"HTTP/1.1 200");
    }

    #[tokio::test]
    async fn a_head_that_is_too_long_or_none_is_refused() {
        let (address, ..) = start(LONG).await;
        for (head, status) in [
            (format!("GET /{} HTTP/1.1\r\nHost: x\r\n\r\n", "x".repeat(HEAD_AT_MOST)), "4"),
            (format!("GET / HTTP/1.1\r\nX: {}\r\n\r\n", "x".repeat(2 * HEAD_AT_MOST)), "431"),
            (format!("GET / HTTP/1.1\r\n{}\r\n", "X: y\r\n".repeat(200)), "431"),
            ("\u{1}\u{2}garbage\r\n\r\n".to_owned(), "400"),
        ] {
            let mut stream = TcpStream::connect(address).await.unwrap();
            // The server may end the connection before it has read everything.
            let _ = stream.write_all(head.as_bytes()).await;
            let answer = rest(&mut stream).await;
            assert!(answer.is_empty() || answer.starts_with(&format!("HTTP/1.1 {status}")), "{answer}");
        }
        let mut next = connect(address, "GET /1 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await;
        assert!(rest(&mut next).await.ends_with("/1"));
    }

    #[tokio::test]
    async fn a_body_that_never_comes_is_not_waited_for() {
        let (address, ..) = start(LONG).await;
        let mut stream = connect(address, "POST /1 HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\nx").await;
        assert!(rest(&mut stream).await.contains("/1"));
    }
}
