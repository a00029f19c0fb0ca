//! Why nobody could be reached, in words.
//!
//! After a failed attempt each server is tried once more, step by step, to say what was seen: no such name, refused, a
//! certificate that does not chain or names another host, our own certificate refused, or a server that does not answer.

use std::{io, net::SocketAddr, time::Duration};

use futures::future::join_all;
use rustls::{CertificateError, pki_types::ServerName};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::TlsConnector;

use super::{
    addresses::{Failed, first_that_serves},
    target::{OLD, REISSUE, Target, address, host},
    tls::{Tls, client_config},
};
use crate::config;

/// How long all addresses of one server may take to show what is wrong.
const WITHIN: Duration = Duration::from_secs(4);
/// How long a server that has accepted a connection may take to say something.
const ANSWER: Duration = Duration::from_millis(1500);

/// Tries to connect to each server; one sentence for each of their addresses.
pub(super) async fn diagnose(target: &Target) -> String {
    let seen = target.servers.iter().map(async |server| {
        let found = first_that_serves(server, WITHIN, |at| try_one(server, at, target.tls.as_ref())).await;
        let problem = match found {
            Ok(()) => "accepts connections but gives no session; see the server's own log".to_owned(),
            Err(failed) => failed.to_string(),
        };
        format!("{}: {problem}", address(server))
    });
    join_all(seen).await.join("; ")
}

async fn try_one(server: &config::ZooKeeperServer, at: SocketAddr, tls: Option<&Tls>) -> Result<(), Failed> {
    let stream = TcpStream::connect(at).await.map_err(|error| Failed::Broken(format!("cannot connect: {error}")))?;
    timeout(ANSWER, talk(stream, host(server), tls)).await.unwrap_or_else(|_| {
        let within = ANSWER.as_millis();
        Err(Failed::Broken(format!("accepts connections but does not answer within {within} ms")))
    })
}

/// Shakes hands where there is TLS, then asks whether somebody is there.
async fn talk(mut stream: TcpStream, host: &str, tls: Option<&Tls>) -> Result<(), Failed> {
    let broken = |error: &dyn std::error::Error| Failed::Broken(error.to_string());
    let Some(tls) = tls else { return ask(&mut stream).await };
    let config = client_config(tls).map_err(|error| broken(&error))?;
    let name = ServerName::try_from(host).map_err(|error| broken(&error))?.to_owned();
    let connecting = TlsConnector::from(config).connect(name, stream).await;
    // With TLS 1.3 a server refuses our certificate only after the handshake.
    ask(&mut connecting.map_err(|error| Failed::Broken(tls_problem(&error)))?).await
}

async fn ask(stream: &mut (impl AsyncRead + AsyncWrite + Unpin)) -> Result<(), Failed> {
    let asked = async {
        stream.write_all(b"srvr").await?;
        stream.flush().await?;
        stream.read(&mut [0; 16]).await
    };
    asked.await.map(drop).map_err(|error| Failed::Broken(tls_problem(&error)))
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
