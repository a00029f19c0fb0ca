//! The way to the statsd server: its name, and the address that it has now.
//!
//! The name is resolved when a packet is to be sent and the last answer is a minute old, or, where there was none or a packet
//! could not be sent, five seconds. That happens on a thread of its own, which a resolver that does not answer may keep
//! busy: packets go where the last answer leads, and nowhere while there is none.

// The thread that resolves the name belongs to no runtime.
#![allow(clippy::disallowed_methods)]

use std::{
    fmt, io,
    net::{SocketAddr, ToSocketAddrs, UdpSocket},
    panic::{RefUnwindSafe, UnwindSafe},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant},
};

/// How old an answer of the resolver may become.
const FRESH: Duration = Duration::from_secs(60);
/// After a failure.
const AGAIN: Duration = Duration::from_secs(5);

type Resolve = dyn Fn() -> io::Result<SocketAddr> + Send + Sync + UnwindSafe + RefUnwindSafe;

/// See the module's comment. Cheap to clone.
#[derive(Clone)]
pub struct Route {
    /// For messages.
    name: Arc<str>,
    resolve: Arc<Resolve>,
    again: Duration,
    fresh: Duration,
    now: Arc<Mutex<Now>>,
}

#[derive(Debug)]
struct Now {
    to: Option<(UdpSocket, SocketAddr)>,
    asked: Instant,
    asking: bool,
    /// The last answer was none, or the last packet could not be sent.
    failed: bool,
}

impl Route {
    /// To a server. Resolves its name, IPv4 first as upstream's client does; one that cannot be resolved costs a warning.
    pub fn new(host: &str, port: u16) -> Self {
        Self::with(&format!("{host}:{port} (STATSD_HOST)"), (AGAIN, FRESH), Self::resolver(host, port))
    }

    /// To a server that clouds.yaml names. It is found in the background: what is sent meanwhile is lost.
    pub fn in_background(host: &str, port: u16) -> Self {
        let name = format!("{host}:{port} (metrics.statsd in clouds.yaml)");
        let route = Self::unasked(&name, (AGAIN, FRESH), Self::resolver(host, port));
        route.ask_in_background();
        route
    }

    fn resolver(host: &str, port: u16) -> impl Fn() -> io::Result<SocketAddr> + use<> {
        let name = host.to_owned();
        move || {
            let addresses: Vec<SocketAddr> = (name.as_str(), port).to_socket_addrs()?.collect();
            let server = addresses.iter().find(|address| address.is_ipv4()).or(addresses.first());
            server.copied().ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "the name has no address"))
        }
    }

    /// With a resolver, and the two times after which it is asked again.
    pub(super) fn with(
        name: &str,
        (again, fresh): (Duration, Duration),
        resolve: impl Fn() -> io::Result<SocketAddr> + Send + Sync + UnwindSafe + RefUnwindSafe + 'static,
    ) -> Self {
        let route = Self::unasked(name, (again, fresh), resolve);
        route.ask();
        route
    }

    fn unasked(
        name: &str,
        (again, fresh): (Duration, Duration),
        resolve: impl Fn() -> io::Result<SocketAddr> + Send + Sync + UnwindSafe + RefUnwindSafe + 'static,
    ) -> Self {
        let now = Now { to: None, asked: Instant::now(), asking: true, failed: false };
        Self { name: name.into(), resolve: Arc::new(resolve), again, fresh, now: Arc::new(Mutex::new(now)) }
    }

    fn ask_in_background(&self) {
        let route = self.clone();
        let asking = thread::Builder::new().name("statsd-name".to_owned()).spawn(move || route.ask());
        if asking.is_err() {
            self.lock().asking = false;
        }
    }

    /// Sends a packet. One that cannot be sent is lost: no worker waits for metrics.
    pub fn send(&self, packet: &[u8]) {
        let mut now = self.lock();
        if let Some((socket, server)) = &now.to
            && let Err(error) = socket.send_to(packet, server)
            && error.kind() != io::ErrorKind::WouldBlock
        {
            now.failed = true;
        }
        let age = if now.failed { self.again } else { self.fresh };
        if !now.asking && now.asked.elapsed() >= age {
            now.asking = true;
            drop(now);
            self.ask_in_background();
        }
    }

    /// Resolves the name, and goes there from now on.
    fn ask(&self) {
        let answer = (self.resolve)().and_then(|server| Ok((socket_for(server)?, server)));
        let mut now = self.lock();
        now.asking = false;
        now.asked = Instant::now();
        match answer {
            Ok((socket, server)) => {
                let before = now.to.as_ref().map(|(_, before)| *before);
                if before != Some(server) {
                    if before.is_some() || now.failed {
                        tracing::info!(
                            logger = "nodepool.stats",
                            "Metrics go to {server} now, the statsd at {}",
                            self.name
                        );
                    }
                    now.to = Some((socket, server));
                }
                now.failed = false;
            }
            Err(error) => {
                if !now.failed {
                    let meanwhile = now.to.as_ref().map_or("no metrics go to statsd", |_| "its last address is used");
                    tracing::warn!(
                        logger = "nodepool.stats",
                        "Cannot find statsd at {}, {meanwhile} until that works: {error}",
                        self.name
                    );
                }
                now.failed = true;
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Now> {
        self.now.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Route").field("name", &self.name).field("now", &self.now).finish_non_exhaustive()
    }
}

fn socket_for(server: SocketAddr) -> io::Result<UdpSocket> {
    let any: SocketAddr = if server.is_ipv4() { ([0, 0, 0, 0], 0).into() } else { ([0_u16; 8], 0).into() };
    let socket = UdpSocket::bind(any)?;
    // A full send buffer loses a packet; it must not hold up a worker.
    socket.set_nonblocking(true)?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use super::*;

    const AT_ONCE: (Duration, Duration) = (Duration::ZERO, Duration::ZERO);

    fn server() -> (UdpSocket, SocketAddr) {
        let server = UdpSocket::bind("127.0.0.1:0").unwrap();
        server.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
        let address = server.local_addr().unwrap();
        (server, address)
    }

    /// Sends until something arrives.
    fn arrives(route: &Route, at: &UdpSocket) {
        let until = Instant::now() + Duration::from_secs(20);
        while at.recv(&mut [0; 16]).is_err() {
            assert!(Instant::now() < until, "nothing arrives: {route:?}");
            route.send(b"packet");
        }
    }

    #[test]
    fn a_name_is_resolved_again_when_it_fails_and_when_its_address_changes() {
        let ((first, at_first), (second, at_second)) = (server(), server());
        let answers = Arc::new(Mutex::new(None));
        let answer = Arc::clone(&answers);
        let route = Route::with("statsd.example", AT_ONCE, move || {
            answer.lock().unwrap().ok_or_else(|| io::Error::other("no such name"))
        });
        route.send(b"lost");
        *answers.lock().unwrap() = Some(at_first);
        arrives(&route, &first);
        *answers.lock().unwrap() = Some(at_second);
        arrives(&route, &second);
        *answers.lock().unwrap() = None;
        arrives(&route, &second);
    }

    #[test]
    fn a_resolver_that_does_not_answer_holds_nobody_up() {
        let (first, at_first) = server();
        let calls = Arc::new(Mutex::new(0));
        let counted = Arc::clone(&calls);
        let route = Route::with("statsd.example", AT_ONCE, move || {
            let number = {
                let mut calls = counted.lock().unwrap();
                *calls += 1;
                *calls
            };
            if number > 1 {
                thread::sleep(Duration::from_secs(3600));
            }
            Ok(at_first)
        });
        let started = Instant::now();
        for _ in 0..100 {
            route.send(b"packet");
        }
        assert!(started.elapsed() < Duration::from_secs(10));
        assert!(first.recv(&mut [0; 16]).is_ok());
        assert!(*calls.lock().unwrap() <= 2, "asked once at a time");
    }

    #[test]
    fn an_answer_is_good_for_its_time() {
        let (_server, address) = server();
        let calls = Arc::new(Mutex::new(0));
        let counted = Arc::clone(&calls);
        let route = Route::with("statsd.example", (AGAIN, FRESH), move || {
            *counted.lock().unwrap() += 1;
            Ok(address)
        });
        for _ in 0..100 {
            route.send(b"packet");
        }
        assert_eq!(*calls.lock().unwrap(), 1);
    }
}
