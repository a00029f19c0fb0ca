//! The host keys of one SSH server: key exchanges without a login.
//!
//! A server shows one key per connection, of the first type in the client's list that it has. So the first connection
//! offers all types; what the server itself offers there tells which others it has, and each of those is asked for alone.
//! The client accepts old algorithms too: network devices have no others, and nothing secret goes over these connections.
//!
//! A connection without a login is what scanners make. OpenSSH from 9.8 on counts each as a second (`PerSourcePenalties`,
//! `noauth`) and refuses an address for which fifteen have come together. So there are as few as can be, and where the keys are
//! known ([`confirm`]) one for each of them.

use std::{
    borrow::Cow,
    io,
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use futures::{StreamExt as _, stream};
use russh::{
    AlgorithmKind, Preferred, cipher, client, kex,
    keys::{Algorithm, EcdsaCurve, HashAlg, PublicKey, PublicKeyOrCertificate},
    mac,
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    sync::{Semaphore, oneshot},
    time::{sleep, timeout},
};

use super::{
    attempt::{ATTEMPT, Progress, connect},
    greeting::Heard,
};

/// Connections to one server at once: sshd's `MaxStartups` begins to drop at ten.
const PARALLEL: usize = 4;
/// How often a key type is asked for when the connection breaks, rather than answers.
const ATTEMPTS: u32 = 3;
const PAUSE: Duration = Duration::from_millis(200);

/// One type of key, by the algorithms that sign with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct KeyType(&'static [Algorithm]);

/// As SSH clients prefer them. DSA is left out: no server that still runs on it would be let into a cloud.
const KEY_TYPES: [KeyType; 5] = [
    KeyType(&[Algorithm::Ed25519]),
    KeyType(&[Algorithm::Ecdsa { curve: EcdsaCurve::NistP256 }]),
    KeyType(&[Algorithm::Ecdsa { curve: EcdsaCurve::NistP384 }]),
    KeyType(&[Algorithm::Ecdsa { curve: EcdsaCurve::NistP521 }]),
    KeyType(&[
        Algorithm::Rsa { hash: Some(HashAlg::Sha512) },
        Algorithm::Rsa { hash: Some(HashAlg::Sha256) },
        Algorithm::Rsa { hash: None },
    ]),
];

/// Collects the keys. The error says why the server is not up; a key type that cannot be had is none.
pub(super) async fn scan(
    address: SocketAddr,
    exchanges: &Semaphore,
    progress: &Progress,
) -> Result<Vec<String>, String> {
    let stream = connect(address).await?;
    progress.is("connected, but no SSH banner");
    let Some(Shown { key: first, offered }) = exchange(stream, &KEY_TYPES).await.map_err(|refusal| refusal.why)? else {
        return Ok(Vec::new());
    };
    progress.is("SSH answers, but not for each type of host key");
    let have = KEY_TYPES.iter().position(|key_type| key_type.is_of(&first));
    let others = KEY_TYPES.into_iter().enumerate().filter(|(index, key_type)| {
        Some(*index) != have && offered.as_ref().is_none_or(|offered| key_type.is_among(offered))
    });
    let mut found = stream::iter(others)
        .map(|(index, key_type)| async move { (index, key_of_type(address, key_type, exchanges).await) })
        .buffer_unordered(PARALLEL)
        .filter_map(|(index, key)| async move { key.map(|key| (index, key)) })
        .collect::<Vec<_>>()
        .await;
    found.push((have.unwrap_or(KEY_TYPES.len()), first));
    found.sort_by_key(|(index, _)| *index);
    let mut keys = Vec::new();
    for key in found.iter().filter_map(|(_, key)| text(key)) {
        if !keys.contains(&key) {
            keys.push(key);
        }
    }
    Ok(keys)
}

/// The keys that the server shows of the types of these, each on one connection, one after the other. The error says why
/// the server is not up. `None`: one of them is of a type that we do not know.
pub(super) async fn confirm(
    address: SocketAddr,
    known: &[String],
    progress: &Progress,
) -> Result<Option<Vec<String>>, String> {
    let mut key_types: Vec<KeyType> = Vec::new();
    for key in known {
        let name = key.split(' ').next().unwrap_or_default();
        let Some(key_type) = KEY_TYPES.into_iter().find(|key_type| key_type.is_called(name)) else { return Ok(None) };
        if !key_types.contains(&key_type) {
            key_types.push(key_type);
        }
    }
    let mut keys = Vec::new();
    for key_type in key_types {
        let stream = connect(address).await?;
        progress.is("connected, but no SSH banner");
        let shown = exchange(stream, &[key_type]).await.map_err(|refusal| refusal.why)?;
        keys.extend(shown.and_then(|shown| text(&shown.key)));
    }
    Ok(Some(keys))
}

/// The server's key of one type. `None`: it has none, or did not show it in several attempts.
async fn key_of_type(address: SocketAddr, key_type: KeyType, exchanges: &Semaphore) -> Option<PublicKey> {
    for attempt in 1..=ATTEMPTS {
        // Never closed.
        let permit = exchanges.acquire().await.ok();
        let answer = match connect(address).await {
            Ok(stream) => exchange(stream, &[key_type]).await,
            Err(why) => Err(Refusal::passing(why)),
        };
        drop(permit);
        match answer {
            Ok(shown) => return shown.map(|shown| shown.key),
            Err(refusal) => {
                tracing::debug!(
                    logger = "nodepool.Nodescan",
                    attempt,
                    "Host key {} of {address}: {}",
                    key_type.0[0],
                    refusal.why
                );
                if refusal.is_final || attempt == ATTEMPTS {
                    return None;
                }
                sleep(PAUSE * attempt).await;
            }
        }
    }
    None
}

/// Why an exchange gave no key.
struct Refusal {
    why: String,
    /// The server spoke SSH and would say the same again.
    is_final: bool,
}

impl Refusal {
    fn passing(why: impl Into<String>) -> Self {
        Self { why: why.into(), is_final: false }
    }
}

/// What a server has shown on one connection.
struct Shown {
    key: PublicKey,
    /// The algorithms of all its keys; `None`: not understood.
    offered: Option<Vec<String>>,
}

/// One connection's key exchange. `None`: the server has no key of these types.
async fn exchange(stream: TcpStream, key_types: &[KeyType]) -> Result<Option<Shown>, Refusal> {
    let heard = Heard::default();
    let stream = Listening { stream, heard: heard.clone() };
    let (send, receive) = oneshot::channel();
    let handshake = client::connect_stream(Arc::new(config(key_types)), stream, KeyTaker(Some(send)));
    let error = match timeout(ATTEMPT, handshake).await {
        Err(_) if heard.something() => {
            return Err(Refusal::passing(format!("the SSH key exchange did not end within {}s", ATTEMPT.as_secs())));
        }
        Err(_) => return Err(Refusal::passing(format!("no SSH banner within {}s", ATTEMPT.as_secs()))),
        // KeyTaker refuses every key: this does not happen. The connection is closed by dropping its handle.
        Ok(Ok(_)) => return Err(Refusal::passing("the SSH key exchange showed no key")),
        Ok(Err(error)) => error,
    };
    if let Ok(key) = receive.await {
        return Ok(Some(Shown { key, offered: heard.host_key_algorithms() }));
    }
    if let Some(refusal) = heard.instead_of_a_banner() {
        return Err(Refusal::passing(refusal));
    }
    match error {
        russh::Error::NoCommonAlgo { kind: AlgorithmKind::Key, .. } => Ok(None),
        error @ russh::Error::NoCommonAlgo { .. } => Err(Refusal { why: error.to_string(), is_final: true }),
        russh::Error::Disconnect | russh::Error::HUP if !heard.something() => {
            Err(Refusal::passing("the connection was closed before an SSH banner"))
        }
        error => Err(Refusal::passing(format!("SSH: {error}"))),
    }
}

fn config(key_types: &[KeyType]) -> client::Config {
    client::Config {
        preferred: Preferred {
            key: key_types.iter().flat_map(|KeyType(algorithms)| algorithms.iter().cloned()).collect(),
            // Cheap ones first: there will be hundreds of exchanges at once.
            kex: Cow::Borrowed(&[
                kex::CURVE25519,
                kex::CURVE25519_PRE_RFC_8731,
                kex::MLKEM768X25519_SHA256,
                kex::ECDH_SHA2_NISTP256,
                kex::ECDH_SHA2_NISTP384,
                kex::ECDH_SHA2_NISTP521,
                kex::DH_G14_SHA256,
                kex::DH_G16_SHA512,
                kex::DH_GEX_SHA256,
                kex::DH_G18_SHA512,
                kex::DH_G14_SHA1,
                kex::DH_GEX_SHA1,
                kex::DH_G1_SHA1,
                kex::EXTENSION_SUPPORT_AS_CLIENT,
                kex::EXTENSION_OPENSSH_STRICT_KEX_AS_CLIENT,
            ]),
            cipher: Cow::Borrowed(&[
                cipher::AES_128_GCM,
                cipher::AES_256_GCM,
                cipher::CHACHA20_POLY1305,
                cipher::AES_128_CTR,
                cipher::AES_192_CTR,
                cipher::AES_256_CTR,
                cipher::AES_128_CBC,
                cipher::AES_192_CBC,
                cipher::AES_256_CBC,
            ]),
            mac: Cow::Borrowed(&[
                mac::HMAC_SHA256_ETM,
                mac::HMAC_SHA512_ETM,
                mac::HMAC_SHA256,
                mac::HMAC_SHA512,
                mac::HMAC_SHA1_ETM,
                mac::HMAC_SHA1,
            ]),
            ..Preferred::DEFAULT
        },
        // The bound of the session's own task, should its exchange be abandoned.
        inactivity_timeout: Some(ATTEMPT),
        nodelay: true,
        ..client::Config::default()
    }
}

impl KeyType {
    /// Whether the key is one.
    fn is_of(self, key: &PublicKey) -> bool {
        self.is_called(key.algorithm().as_str())
    }

    /// Whether keys of that name are such; those of RSA are `ssh-rsa`, whatever signs with them.
    fn is_called(self, name: &str) -> bool {
        self.is_among(&[name])
    }

    /// Whether one of these algorithms signs with such a key.
    fn is_among<T: AsRef<str>>(self, algorithms: &[T]) -> bool {
        self.0.iter().any(|own| algorithms.iter().any(|algorithm| algorithm.as_ref() == own.as_str()))
    }
}

/// `"<type> <base64>"`.
fn text(key: &PublicKey) -> Option<String> {
    let line = key.to_openssh().ok()?;
    let mut words = line.split_whitespace();
    Some(format!("{} {}", words.next()?, words.next()?))
}

/// Takes the key that the server has proved to own, and refuses it, which ends the connection.
struct KeyTaker(Option<oneshot::Sender<PublicKey>>);

impl client::Handler for KeyTaker {
    type Error = russh::Error;

    async fn check_server_key(&mut self, key: &PublicKeyOrCertificate) -> Result<bool, Self::Error> {
        if let Some(taker) = self.0.take() {
            let _ = taker.send(key.public_key());
        }
        Ok(false)
    }
}

/// A connection that notes what the other side says first.
struct Listening {
    stream: TcpStream,
    heard: Heard,
}

impl AsyncRead for Listening {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let result = Pin::new(&mut self.stream).poll_read(cx, buf);
        self.heard.more(buf.filled().get(before..).unwrap_or_default());
        result
    }
}

impl AsyncWrite for Listening {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, data)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
