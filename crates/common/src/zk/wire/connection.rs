//! [`Connection`]: one connection to one server, with the session that it serves.

use std::{fmt, io, net::SocketAddr, time::Duration};

use rustls::pki_types::ServerName;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader},
    net::TcpStream,
};
use tokio_rustls::TlsConnector;

use super::{
    jute::Reader,
    messages::{self, Connected},
    target::Target,
    tls::client_config,
};
use crate::config;

/// What one read takes from the network at most. rustls alone asks for 4 KiB at a time.
const READ_AHEAD: usize = 16 << 10;
/// More than any server sends (`jute.maxbuffer` is 1 MiB): what claims to be longer is none of ZooKeeper's messages.
const LONGEST_MESSAGE: usize = 256 << 20;

/// A connection with TLS or without.
pub(super) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

/// A session, as the server knows it.
#[derive(Clone)]
pub(super) struct Ticket {
    pub id: i64,
    pub password: Vec<u8>,
    /// How long it lasts without a connection.
    pub timeout: Duration,
    /// The newest transaction that we know of: a server that is behind does not serve us.
    pub last_zxid: i64,
}

impl Ticket {
    /// For a session that is to begin.
    pub(super) fn new(timeout: Duration) -> Self {
        Self { id: 0, password: vec![0; 16], timeout, last_zxid: 0 }
    }

    /// How long a server may be silent, or take to accept us: two can be tried before the session ends.
    pub(super) fn patience(&self) -> Duration {
        self.timeout * 2 / 5
    }
}

/// See the module.
pub(super) struct Connection {
    pub stream: Box<dyn Stream>,
    /// As the server has answered.
    pub ticket: Ticket,
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection").finish_non_exhaustive()
    }
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failed {
    /// The server does not know the session any more.
    #[error("session expired")]
    Expired,
    /// Nothing else is known of the session.
    #[error("{0}")]
    Broken(String),
}

impl From<io::Error> for Failed {
    fn from(error: io::Error) -> Self {
        Self::Broken(error.to_string())
    }
}

impl Connection {
    /// Connects to a server, and begins or resumes a session with it.
    pub(super) async fn open(
        target: &Target,
        server: &config::ZooKeeperServer,
        ticket: &Ticket,
    ) -> Result<Self, Failed> {
        let opening = async {
            let mut stream = connect(target, server, ticket.patience()).await?;
            let timeout_ms = i32::try_from(ticket.timeout.as_millis()).unwrap_or(i32::MAX);
            let asked = messages::connect(ticket.last_zxid, timeout_ms, ticket.id, &ticket.password).finished();
            stream.write_all(&asked).await?;
            stream.flush().await?;
            let answer = receive(&mut stream).await?;
            let answer = Connected::read(&mut Reader(&answer)).map_err(|error| Failed::Broken(error.to_string()))?;
            if answer.id == 0 {
                return Err(Failed::Expired);
            }
            let timeout = Duration::from_millis(u64::try_from(answer.timeout_ms).unwrap_or(0));
            if timeout.is_zero() {
                return Err(Failed::Expired);
            }
            let ticket = Ticket { id: answer.id, password: answer.password, timeout, last_zxid: ticket.last_zxid };
            Ok(Self { stream, ticket })
        };
        let patience = ticket.patience();
        tokio::time::timeout(patience, opening)
            .await
            .unwrap_or_else(|_| Err(Failed::Broken(format!("no session within {patience:?}"))))
    }
}

async fn connect(
    target: &Target,
    server: &config::ZooKeeperServer,
    patience: Duration,
) -> Result<Box<dyn Stream>, Failed> {
    let host = server.host.trim_matches(['[', ']']);
    let addresses: Vec<_> = tokio::net::lookup_host((host, server.port)).await?.collect();
    let stream = reach(&addresses, patience).await?;
    // What is written is all that there is to write at that moment.
    stream.set_nodelay(true)?;
    let stream = BufReader::with_capacity(READ_AHEAD, stream);
    let Some(tls) = &target.tls else { return Ok(Box::new(stream)) };
    let config = client_config(tls).map_err(|error| Failed::Broken(error.to_string()))?;
    let name = ServerName::try_from(host).map_err(|error| Failed::Broken(error.to_string()))?.to_owned();
    Ok(Box::new(TlsConnector::from(config).connect(name, stream).await?))
}

/// Connects to one of the addresses of a server's name. Each has its share of the time, and one is left for what follows: an
/// address from which nothing comes back (a pod whose host is gone) must not keep us from the next one.
async fn reach(addresses: &[SocketAddr], patience: Duration) -> Result<TcpStream, Failed> {
    let share = patience / u32::try_from(addresses.len() + 1).unwrap_or(u32::MAX);
    let mut failures = Vec::new();
    for address in addresses {
        match tokio::time::timeout(share, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => return Ok(stream),
            Ok(Err(error)) => failures.push(format!("{address}: {error}")),
            Err(_) => failures.push(format!("{address}: no answer within {share:?}")),
        }
    }
    if failures.is_empty() {
        failures.push("its name has no address".to_owned());
    }
    Err(Failed::Broken(failures.join("; ")))
}

/// One message, without its length.
async fn receive(stream: &mut Box<dyn Stream>) -> Result<Vec<u8>, Failed> {
    let length = message_length(stream.read_u32().await?)?;
    // What is not there is not reserved for either.
    let mut message = Vec::new();
    stream.take(length as u64).read_to_end(&mut message).await?;
    if message.len() < length {
        Err(Failed::Broken("the server closed the connection".to_owned()))
    } else {
        Ok(message)
    }
}

fn message_length(length: u32) -> Result<usize, Failed> {
    match usize::try_from(length) {
        Ok(length) if length <= LONGEST_MESSAGE => Ok(length),
        _ => Err(Failed::Broken(format!("a message of {length} bytes: this is no ZooKeeper"))),
    }
}

/// The first message of what was received, without its length, and the length of both; `None`: it is not there yet.
pub(super) fn first_message(received: &[u8]) -> Result<Option<(&[u8], usize)>, Failed> {
    let Some((length, rest)) = received.split_first_chunk() else { return Ok(None) };
    let length = message_length(u32::from_be_bytes(*length))?;
    Ok(rest.get(..length).map(|message| (message, 4 + length)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_taken_one_by_one() {
        let two = [0, 0, 0, 2, 7, 8, 0, 0, 0, 1, 9];
        let (first, length) = first_message(&two).unwrap().unwrap();
        assert_eq!((first, length), ([7, 8].as_slice(), 6));
        assert_eq!(first_message(&two[length..]).unwrap().unwrap().0, [9]);
        assert!(first_message(&two[..5]).unwrap().is_none());
        assert!(first_message(&two[..3]).unwrap().is_none());
        assert!(first_message(b"HTTP/1.1 400 Bad Request").is_err());
    }

    /// A listener whose queue is full: what wants to connect is not answered.
    async fn silent() -> (tokio::net::TcpListener, Vec<TcpStream>) {
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.bind(([127, 0, 0, 1], 0).into()).unwrap();
        let listener = socket.listen(1).unwrap();
        let address = listener.local_addr().unwrap();
        let mut waiting = Vec::new();
        while let Ok(connected) = tokio::time::timeout(Duration::from_millis(300), TcpStream::connect(address)).await {
            waiting.push(connected.unwrap());
        }
        (listener, waiting)
    }

    #[tokio::test]
    async fn an_address_from_which_nothing_comes_back_leaves_time_for_the_next() {
        let (silent, _waiting) = silent().await;
        let good = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (silent, good) = (silent.local_addr().unwrap(), good.local_addr().unwrap());
        let patience = Duration::from_millis(1500);
        let reached = tokio::time::timeout(patience, reach(&[silent, good], patience)).await.unwrap().unwrap();
        assert_eq!(reached.peer_addr().unwrap(), good);
        let failed = reach(&[silent], Duration::from_millis(200)).await.unwrap_err();
        assert_eq!(failed.to_string(), format!("{silent}: no answer within 100ms"));
    }
}
