//! [`FaultProxy`]: stands before an HTTP service, counts what it is asked, and lets go wrong what it is told to.
//!
//! Bodies pass in both directions as they come, so that it may stand before an image service too. Nothing is rewritten,
//! `Host` included: a client is sent here by its clouds.yaml (`auth_url`, `compute_endpoint_override` and so on). Each
//! request has a connection to the service of its own: none can be stale, so no fault happens that was not ordered.

use std::{
    net::{Ipv4Addr, SocketAddr},
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard},
    task::{Context, Poll, ready},
    time::Duration,
};

use http_body_util::{Either, Full};
use hyper::{
    Request, Response,
    body::{Body, Bytes, Frame, Incoming, SizeHint},
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use tokio::{
    net::{TcpListener, TcpSocket, TcpStream},
    sync::{Notify, watch},
    time::sleep,
};

use crate::{
    faults::{Calls, Fault, Rule},
    ports::reserve,
};

/// See the module's comment. Ends when dropped.
#[derive(Debug)]
pub struct FaultProxy {
    port: u16,
    path: String,
    shared: Arc<Shared>,
    /// Whether it listens; gone: it ends.
    up: watch::Sender<bool>,
}

#[derive(Debug)]
struct Shared {
    /// `host:port`.
    upstream: String,
    rules: Mutex<Vec<Rule>>,
    calls: Mutex<Calls>,
    /// What is held is to be answered now.
    let_go: Notify,
}

impl Shared {
    fn rules(&self) -> MutexGuard<'_, Vec<Rule>> {
        self.rules.lock().unwrap()
    }

    fn calls(&self) -> MutexGuard<'_, Calls> {
        self.calls.lock().unwrap()
    }
}

impl FaultProxy {
    /// Starts one on a free port of loopback before the service at that `http://` URL.
    pub async fn start(upstream: &str) -> Self {
        Self::start_at(upstream, 0).await
    }

    /// The same on that port; 0: a free one.
    pub async fn start_at(upstream: &str, port: u16) -> Self {
        let rest = upstream.strip_prefix("http://").expect("an http:// URL");
        let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        let shared = Arc::new(Shared {
            upstream: if authority.contains(':') { authority.to_owned() } else { format!("{authority}:80") },
            rules: Mutex::default(),
            calls: Mutex::default(),
            let_go: Notify::new(),
        });
        // Nobody else takes the port while the proxy is down.
        let reserved = reserve(SocketAddr::from((Ipv4Addr::LOCALHOST, port)));
        let address = reserved.local_addr().unwrap();
        let listener = TcpListener::bind(address).await.unwrap();
        let (up, state) = watch::channel(true);
        tokio::spawn(accept(reserved, listener, state, shared.clone()));
        Self { port: address.port(), path: path.to_owned(), shared, up }
    }

    /// What a client is to use in the place of the service's URL: the same path.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}{}", self.port, self.path)
    }

    /// Adds a rule. The first that applies to a request acts.
    pub fn set(&self, rule: Rule) {
        self.shared.rules().push(rule);
    }

    /// Adds a rule that acts before all others.
    pub fn prefer(&self, rule: Rule) {
        self.shared.rules().insert(0, rule);
    }

    /// All rules at once.
    pub fn replace(&self, rules: Vec<Rule>) {
        *self.shared.rules() = rules;
    }

    /// No rules; what hangs or is delayed stays so.
    pub fn clear(&self) {
        self.replace(Vec::new());
    }

    /// What has been asked since the start or [`Self::forget`].
    pub fn calls(&self) -> Calls {
        self.shared.calls().clone()
    }

    /// Answers those at once that [`Fault::AnswerLate`] holds.
    pub fn let_go(&self) {
        self.shared.let_go.notify_waiters();
    }

    /// Counts from zero.
    pub fn forget(&self) {
        *self.shared.calls() = Calls::default();
    }

    /// Cuts all connections and refuses new ones, until [`Self::up`].
    pub fn down(&self) {
        self.up.send_replace(false);
    }

    /// Listens again, on the same port.
    pub fn up(&self) {
        self.up.send_replace(true);
    }
}

async fn accept(reserved: TcpSocket, mut listener: TcpListener, mut up: watch::Receiver<bool>, shared: Arc<Shared>) {
    let address = reserved.local_addr().unwrap();
    loop {
        let client = tokio::select! {
            client = listener.accept() => Some(client),
            stopped = async { up.wait_for(|up| !up).await.is_ok() } => {
                if !stopped {
                    return;
                }
                None
            }
        };
        match client {
            Some(Ok((client, _))) => {
                tokio::spawn(serve(client, up.clone(), shared.clone()));
            }
            Some(Err(_)) => {}
            None => {
                drop(listener);
                if up.wait_for(|up| *up).await.is_err() {
                    return;
                }
                listener = TcpListener::bind(address).await.unwrap();
            }
        }
    }
}

async fn serve(client: TcpStream, mut up: watch::Receiver<bool>, shared: Arc<Shared>) {
    let service = service_fn(|request| answer(&shared, request));
    let connection = hyper::server::conn::http1::Builder::new();
    // A broken connection is what we are here for.
    tokio::select! {
        _ = connection.serve_connection(TokioIo::new(client), service) => {}
        _ = up.wait_for(|up| !up) => {}
    }
}

type Answer = Response<Either<Incoming, Full<Bytes>>>;
type Failure = Box<dyn std::error::Error + Send + Sync>;

/// One request. An error cuts the client's connection without an answer.
async fn answer(shared: &Shared, request: Request<Incoming>) -> Result<Answer, Failure> {
    let (method, path) = (request.method().to_string(), request.uri().path().to_owned());
    let header = |name: &str| request.headers().get(name).and_then(|value| value.to_str().ok());
    let fault =
        shared.rules().iter_mut().find_map(|rule| rule.applies(&method, &path, header).then(|| rule.fault.clone()));
    {
        let mut calls = shared.calls();
        calls.faults += u64::from(fault.is_some());
        calls.tokens.extend(header("x-auth-token").map(ToOwned::to_owned));
    }
    // Counted when it ends, also if the client goes away in between.
    let mut counted = Counted { shared, method, path, end: "hung".to_owned() };
    let mut body_limit = None;
    let mut late = Duration::ZERO;
    match &fault {
        None | Some(Fault::CutAfter) => {}
        Some(Fault::Answer { status, headers, body }) => {
            let body = Full::new(Bytes::from(body.clone()));
            let mut answer = Response::builder().status(*status);
            for (name, value) in headers {
                answer = answer.header(name, value);
            }
            counted.end = status.to_string();
            return Ok(answer.body(Either::Right(body))?);
        }
        Some(Fault::AnswerLate { seconds, status, body }) => {
            let mut let_go = std::pin::pin!(shared.let_go.notified());
            let_go.as_mut().enable();
            shared.calls().held += 1;
            tokio::select! {
                () = sleep(Duration::from_secs(*seconds)) => {}
                () = let_go => {}
            }
            counted.end = status.to_string();
            return Ok(Response::builder()
                .status(*status)
                .body(Either::Right(Full::new(Bytes::from(body.clone()))))?);
        }
        Some(Fault::Delay(seconds)) => sleep(Duration::from_secs(*seconds)).await,
        Some(Fault::DelayAnswer(seconds)) => late = Duration::from_secs(*seconds),
        Some(Fault::Hang(seconds)) => {
            sleep(Duration::from_secs(*seconds)).await;
            return Err("hung".into());
        }
        Some(Fault::CutBefore) => {
            counted.end = "cut".into();
            return Err("cut".into());
        }
        Some(Fault::CutBody(bytes)) => body_limit = Some(*bytes),
    }
    counted.end = "cut".into();
    let Ok(upstream) = TcpStream::connect(&shared.upstream).await else {
        counted.end = "refused".into();
        return Err("refused".into());
    };
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(upstream)).await?;
    tokio::spawn(connection);
    let answer = sender.send_request(request.map(|body| Cut { body, left: body_limit, flushed: false })).await?;
    if !late.is_zero() {
        shared.calls().held += 1;
        sleep(late).await;
    }
    if fault == Some(Fault::CutAfter) {
        return Err("cut".into());
    }
    counted.end = answer.status().as_u16().to_string();
    Ok(answer.map(Either::Left))
}

/// Counts a request when it is dropped.
struct Counted<'a> {
    shared: &'a Shared,
    method: String,
    path: String,
    end: String,
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.shared.calls().add(&self.method, &self.path, &self.end);
    }
}

/// A body that may break off.
struct Cut {
    body: Incoming,
    /// Bytes until it does.
    left: Option<u64>,
    flushed: bool,
}

impl Body for Cut {
    type Data = Bytes;
    type Error = Failure;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Failure>>> {
        if self.left == Some(0) {
            if !self.flushed {
                // The connection writes out what it has when there is nothing more for a moment.
                self.flushed = true;
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            return Poll::Ready(Some(Err("cut".into())));
        }
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        let Some(left) = self.left else { return Poll::Ready(frame.map(|frame| frame.map_err(Into::into))) };
        Poll::Ready(match frame {
            Some(Ok(frame)) => {
                let mut data = frame.into_data().unwrap_or_default();
                data.truncate(usize::try_from(left).unwrap_or(usize::MAX));
                self.left = Some(left - data.len() as u64);
                Some(Ok(Frame::data(data)))
            }
            end => end.map(|frame| frame.map_err(Into::into)),
        })
    }

    fn is_end_stream(&self) -> bool {
        self.left.is_none() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
