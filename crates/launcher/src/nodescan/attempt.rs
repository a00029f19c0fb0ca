//! One attempt to reach a node: how long it may take, how it connects, and what came of those so far.

use std::{
    io,
    net::SocketAddr,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{net::TcpStream, time::timeout};

/// One attempt to connect, and the wait for a server's first word.
pub(super) const ATTEMPT: Duration = Duration::from_secs(10);

/// How far a scan has come, for the message when its time is up.
#[derive(Debug, Default)]
pub(super) struct Progress(Mutex<Attempts>);

#[derive(Debug, Default)]
pub(super) struct Attempts {
    pub number: u32,
    /// Why the attempts so far failed, or what the present one waits for.
    pub last: String,
}

impl Progress {
    pub fn begin(&self) {
        let mut attempts = self.lock();
        attempts.number += 1;
        // An earlier attempt's failure says more than that this one is still connecting.
        if attempts.last.is_empty() {
            "no answer to the connection".clone_into(&mut attempts.last);
        }
    }

    pub fn is(&self, why: impl Into<String>) {
        self.lock().last = why.into();
    }

    fn lock(&self) -> MutexGuard<'_, Attempts> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn take(self) -> Attempts {
        self.0.into_inner().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Connects; an error says why not.
pub(super) async fn connect(address: SocketAddr) -> Result<TcpStream, String> {
    match timeout(ATTEMPT, TcpStream::connect(address)).await {
        Ok(Ok(stream)) => Ok(stream),
        Ok(Err(error)) => Err(match error.kind() {
            io::ErrorKind::ConnectionRefused => "connection refused".to_owned(),
            io::ErrorKind::HostUnreachable => "host unreachable".to_owned(),
            io::ErrorKind::NetworkUnreachable => "network unreachable".to_owned(),
            _ => error.to_string(),
        }),
        Err(_) => Err(format!("no answer to the connection within {}s", ATTEMPT.as_secs())),
    }
}
