//! The addresses of a server's name: one after the other, until one of them serves us.
//!
//! A name may have several (IPv6 and IPv4, the pods of a headless Service), of which only some work. What counts as working is
//! the caller's attempt as a whole: an address that accepts connections and goes no further must not keep us from the next.

use std::{net::SocketAddr, time::Duration};

use tokio::time::Instant;

use super::target::{address, host};
use crate::config;

/// Why an attempt failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failed {
    /// The server does not know the session any more.
    #[error("session expired")]
    Expired,
    /// A server has closed the connection instead of beginning or resuming a session: it does not serve, or has not got as far
    /// as the transactions that we know of.
    #[error("{0}")]
    Refused(String),
    /// Nothing else is known of the session.
    #[error("{0}")]
    Broken(String),
}

impl From<std::io::Error> for Failed {
    fn from(error: std::io::Error) -> Self {
        Self::Broken(error.to_string())
    }
}

/// Tries each address of a server's name, all of them within that time: each has its share of what is left. The error says what
/// each address has failed with. [`Failed::Expired`] is a server's last word, so no other address is tried after it.
pub(super) async fn first_that_serves<T, F>(
    server: &config::ZooKeeperServer,
    within: Duration,
    attempt: impl Fn(SocketAddr) -> F,
) -> Result<T, Failed>
where
    F: Future<Output = Result<T, Failed>>,
{
    let until = Instant::now() + within;
    let resolving = tokio::net::lookup_host((host(server), server.port));
    let addresses: Vec<_> = match tokio::time::timeout_at(until, resolving).await {
        Ok(Ok(addresses)) => addresses.collect(),
        Ok(Err(error)) => return Err(Failed::Broken(format!("cannot resolve the name: {error}"))),
        Err(_) => return Err(Failed::Broken(format!("cannot resolve the name within {within:?}"))),
    };
    let is_address = addresses.len() == 1 && addresses[0].to_string() == address(server);
    try_each(&addresses, !is_address, until, attempt).await
}

/// `says_address`: the error is to say which address each of its parts is about.
async fn try_each<T, F>(
    addresses: &[SocketAddr],
    says_address: bool,
    until: Instant,
    attempt: impl Fn(SocketAddr) -> F,
) -> Result<T, Failed>
where
    F: Future<Output = Result<T, Failed>>,
{
    let (mut problems, mut is_refused) = (Vec::new(), false);
    for (tried, address) in addresses.iter().enumerate() {
        let left = u32::try_from(addresses.len() - tried).unwrap_or(u32::MAX);
        let share = until.saturating_duration_since(Instant::now()) / left;
        let problem = match tokio::time::timeout(share, attempt(*address)).await {
            Ok(Ok(served)) => return Ok(served),
            Ok(Err(Failed::Expired)) => return Err(Failed::Expired),
            Ok(Err(Failed::Refused(why))) => {
                is_refused = true;
                why
            }
            Ok(Err(Failed::Broken(why))) => why,
            // Not how long it was waited for, which differs each time: what is the same is logged once.
            Err(_) => "no answer in time".to_owned(),
        };
        problems.push(if says_address { format!("{problem} (at {address})") } else { problem });
    }
    if problems.is_empty() {
        problems.push("the name has no address".to_owned());
    }
    let problems = problems.join("; ");
    Err(if is_refused { Failed::Refused(problems) } else { Failed::Broken(problems) })
}

/// How a server is named in the log: by its name, and by the address that is used.
pub(super) fn named(server: &config::ZooKeeperServer, used: SocketAddr) -> String {
    let name = address(server);
    if name == used.to_string() { name } else { format!("{name} ({used})") }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    fn server(host: &str, port: u16) -> config::ZooKeeperServer {
        config::ZooKeeperServer { host: host.to_owned(), port, chroot: None }
    }

    fn addresses() -> [SocketAddr; 3] {
        [1, 2, 3].map(|port| SocketAddr::from(([127, 0, 0, 1], port)))
    }

    #[tokio::test(start_paused = true)]
    async fn an_address_from_which_nothing_comes_back_leaves_time_for_the_others() {
        let begun = Instant::now();
        let until = begun + Duration::from_secs(6);
        let attempt = async |address: SocketAddr| match address.port() {
            1 => Err(Failed::Broken("refused".to_owned())),
            2 => std::future::pending().await,
            port => Ok(port),
        };
        assert_eq!(try_each(&addresses(), true, until, attempt).await.unwrap(), 3);
        assert_eq!(begun.elapsed(), Duration::from_secs(3), "what the first has not used is the others'");
        let failed =
            try_each(&addresses()[..2], true, Instant::now() + Duration::from_secs(2), attempt).await.unwrap_err();
        assert_eq!(failed.to_string(), "refused (at 127.0.0.1:1); no answer in time (at 127.0.0.1:2)");
    }

    #[tokio::test(start_paused = true)]
    async fn no_address_is_tried_after_a_server_has_said_that_the_session_is_over() {
        let tried = Mutex::new(Vec::new());
        let attempt = async |address: SocketAddr| {
            tried.lock().unwrap().push(address.port());
            Err::<(), _>(if address.port() == 2 { Failed::Expired } else { Failed::Broken(String::new()) })
        };
        let failed = try_each(&addresses(), true, Instant::now() + Duration::from_secs(3), attempt).await.unwrap_err();
        assert!(matches!(failed, Failed::Expired));
        assert_eq!(*tried.lock().unwrap(), [1, 2]);
    }

    #[tokio::test]
    async fn an_address_is_not_said_twice() {
        let attempt = async |_| Err::<(), _>(Failed::Broken("refused".to_owned()));
        let within = Duration::from_secs(10);
        let failed = first_that_serves(&server("127.0.0.1", 7), within, attempt).await.unwrap_err();
        assert_eq!(failed.to_string(), "refused");
        let used = SocketAddr::from(([10, 0, 0, 3], 2281));
        assert_eq!(named(&server("zk-1", 2281), used), "zk-1:2281 (10.0.0.3:2281)");
        assert_eq!(named(&server("10.0.0.3", 2281), used), "10.0.0.3:2281");
    }
}
