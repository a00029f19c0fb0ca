//! [`Connection`]: one connection to one server, with the session that it serves.

use std::{fmt, net::SocketAddr, time::Duration};

use rustls::pki_types::ServerName;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader},
    net::TcpStream,
};
use tokio_rustls::TlsConnector;

use super::{
    addresses::{Failed, first_that_serves, named},
    jute::Reader,
    messages::{self, ConnectReply},
    target::{Target, host},
    tls::client_config,
};
use crate::config;

/// What one read takes from the network at most where rustls reads: it asks for 4 KiB at a time.
const READ_AHEAD: usize = 16 << 10;
/// More than any server sends (`jute.maxbuffer` is 1 MiB): what claims to be longer is none of ZooKeeper's messages.
const LONGEST_MESSAGE: usize = 256 << 20;

/// A connection with TLS or without.
pub(super) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

/// What a server is given to resume a session.
#[derive(Clone)]
pub(super) struct Credentials {
    pub id: i64,
    pub password: Vec<u8>,
    /// How long the session lasts without a connection.
    pub timeout: Duration,
    /// The newest transaction that we know of: a server that has not got so far refuses us.
    pub last_zxid: i64,
}

impl Credentials {
    /// For a session that is to begin.
    pub(super) fn new(timeout: Duration) -> Self {
        Self { id: 0, password: vec![0; 16], timeout, last_zxid: 0 }
    }

    /// How long a server may send nothing, or take to accept us: two can be tried before the session expires.
    pub(super) fn response_timeout(&self) -> Duration {
        self.timeout * 2 / 5
    }
}

/// See the module.
pub(super) struct Connection {
    pub stream: Box<dyn Stream>,
    /// As the server has replied.
    pub credentials: Credentials,
    /// The server, as it is named in the log.
    pub server: String,
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection").field("server", &self.server).finish_non_exhaustive()
    }
}

impl Connection {
    /// Connects to a server, and begins or resumes a session with it, at whichever of its addresses that can be done.
    pub(super) async fn open(
        target: &Target,
        server: &config::ZooKeeperServer,
        credentials: &Credentials,
    ) -> Result<Self, Failed> {
        let at = |address| Self::open_at(target, server, address, credentials);
        first_that_serves(server, credentials.response_timeout(), at).await
    }

    async fn open_at(
        target: &Target,
        server: &config::ZooKeeperServer,
        address: SocketAddr,
        credentials: &Credentials,
    ) -> Result<Self, Failed> {
        let mut stream = connect(target, server, address).await?;
        let timeout_ms = i32::try_from(credentials.timeout.as_millis()).unwrap_or(i32::MAX);
        let request = messages::connect(credentials.last_zxid, timeout_ms, credentials.id, &credentials.password);
        stream.write_all(&request.finished()).await?;
        stream.flush().await?;
        let reply = receive(&mut stream).await.map_err(|failed| {
            Failed::Refused(format!("the server accepts connections but gives no session ({failed})"))
        })?;
        let reply = ConnectReply::read(&mut Reader(&reply)).map_err(|error| Failed::Broken(error.to_string()))?;
        let timeout = Duration::from_millis(u64::try_from(reply.timeout_ms).unwrap_or(0));
        if reply.id == 0 || timeout.is_zero() {
            return Err(Failed::Expired);
        }
        let credentials =
            Credentials { id: reply.id, password: reply.password, timeout, last_zxid: credentials.last_zxid };
        Ok(Self { stream, credentials, server: named(server, address) })
    }
}

/// TCP and, where it is configured, TLS.
async fn connect(
    target: &Target,
    server: &config::ZooKeeperServer,
    address: SocketAddr,
) -> Result<Box<dyn Stream>, Failed> {
    let stream = TcpStream::connect(address).await?;
    // What is written is all that there is to write at that moment.
    stream.set_nodelay(true)?;
    let stream = BufReader::with_capacity(READ_AHEAD, stream);
    let Some(tls) = &target.tls else { return Ok(Box::new(stream)) };
    let config = client_config(tls).map_err(|error| Failed::Broken(error.to_string()))?;
    let name = ServerName::try_from(host(server)).map_err(|error| Failed::Broken(error.to_string()))?.to_owned();
    Ok(Box::new(TlsConnector::from(config).connect(name, stream).await?))
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
}
