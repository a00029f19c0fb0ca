//! Why nobody could be reached, in words.
//!
//! After a failed attempt each server is tried once more, step by step, to say what was seen: no such name, refused, a
//! certificate that does not chain or names another host, our own certificate refused, or a server that does not answer.

use std::{
    io::{self, Read, Write},
    net::{TcpStream, ToSocketAddrs},
    time::Duration,
};

use rustls::{CertificateError, ClientConnection, Stream, pki_types::ServerName};

use tokio::time::Instant;

use super::{
    target::{OLD, REISSUE, Target, address},
    tls::{Tls, client_config},
};
use crate::config;

/// How long one server may take to show that it is there.
const PATIENCE: Duration = Duration::from_secs(2);

/// Tries to connect to each server; one sentence for each.
pub(super) async fn diagnose(target: &Target) -> String {
    let target = target.clone();
    let trying = tokio::task::spawn_blocking(move || {
        let seen: Vec<String> = target
            .servers
            .iter()
            .map(|server| format!("{}: {}", address(server), try_one(server, target.tls.as_ref())))
            .collect();
        seen.join("; ")
    });
    trying.await.unwrap_or_else(|error| format!("could not find out: {error}"))
}

fn try_one(server: &config::ZooKeeperServer, tls: Option<&Tls>) -> String {
    let host = server.host.trim_matches(['[', ']']);
    let addresses = match (host, server.port).to_socket_addrs() {
        Ok(addresses) => addresses,
        Err(error) => return format!("cannot resolve the name: {error}"),
    };
    let mut problem = "the name has no address".to_owned();
    for address in addresses {
        match TcpStream::connect_timeout(&address, PATIENCE) {
            Ok(stream) => {
                return match talk(stream, host, tls) {
                    Ok(()) => "accepts connections but gives no session; see the server's own log".to_owned(),
                    Err(problem) => problem,
                };
            }
            Err(error) => problem = format!("cannot connect: {error}"),
        }
    }
    problem
}

/// Shakes hands where there is TLS, then asks whether somebody is there.
fn talk(mut stream: TcpStream, host: &str, tls: Option<&Tls>) -> Result<(), String> {
    let _ = stream.set_read_timeout(Some(PATIENCE));
    let _ = stream.set_write_timeout(Some(PATIENCE));
    let Some(tls) = tls else {
        return listen(&mut stream);
    };
    let config = client_config(tls).map_err(|error| error.to_string())?;
    let name = ServerName::try_from(host).map_err(|error| error.to_string())?.to_owned();
    let mut connection = ClientConnection::new(config, name).map_err(|error| error.to_string())?;
    while connection.is_handshaking() {
        connection.complete_io(&mut stream).map_err(|error| tls_problem(&error))?;
    }
    // With TLS 1.3 a server refuses our certificate only after the handshake.
    listen(&mut Stream::new(&mut connection, &mut stream))
}

fn listen(stream: &mut (impl Read + Write)) -> Result<(), String> {
    let start = Instant::now();
    let result = stream.write_all(b"srvr").and_then(|()| stream.flush()).and_then(|()| stream.read(&mut [0; 16]));
    match result {
        Ok(_) => Ok(()),
        Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
            Err(format!("accepts connections but does not answer within {:?}", start.elapsed()))
        }
        Err(error) => Err(tls_problem(&error)),
    }
}

fn tls_problem(error: &io::Error) -> String {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    match inner {
        Some(rustls::Error::InvalidCertificate(problem)) => match problem {
            CertificateError::UnknownIssuer | CertificateError::BadSignature => {
                "the server's certificate is not signed by the authority in zookeeper-tls ca; configure the right one"
                    .to_owned()
            }
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
                format!("{problem}; use that name, or turn verify-hostname off in zookeeper-tls")
            }
            CertificateError::Other(other) => other_problem(&other.to_string()),
            _ => format!("the server's certificate is refused: {problem}"),
        },
        Some(rustls::Error::AlertReceived(alert)) => {
            format!("the server refused our certificate ({alert:?}); check zookeeper-tls cert and key")
        }
        Some(other) => format!("TLS failed: {other}; is this ZooKeeper's TLS port?"),
        None if error.kind() == io::ErrorKind::UnexpectedEof => {
            "the server closed the connection during the TLS handshake; is this its TLS port?".to_owned()
        }
        None => format!("the connection broke: {error}"),
    }
}

/// What rustls has no name for, by the name that webpki gives it.
fn other_problem(problem: &str) -> String {
    if problem.contains("UnsupportedCertVersion") {
        return format!("the server's own certificate (ssl.keyStore in its zoo.cfg) is refused: {OLD}, {REISSUE}");
    }
    if problem.contains("CaUsedAsEndEntity") {
        return "the server's own certificate (ssl.keyStore in its zoo.cfg) is that of an authority, which is not supported: \
                have that authority sign one for the server, or make a self-signed one without the right to sign \
                (`openssl req -x509 … -addext basicConstraints=CA:FALSE`) and name that in zookeeper-tls ca"
            .to_owned();
    }
    format!("the server's certificate is refused: {problem}")
}
