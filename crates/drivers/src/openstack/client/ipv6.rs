//! [`Ipv6Route`]: whether this host has a default route for IPv6, as the SDK asks before it prefers such addresses.

use std::{
    path::Path,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

/// So long an answer is believed: each launch asks several times.
const BELIEVED: Duration = Duration::from_secs(10);

/// See the module's comment.
#[derive(Debug, Default)]
pub(super) struct Ipv6Route {
    last: Mutex<Option<(Instant, bool)>>,
}

impl Ipv6Route {
    pub fn is_routed(&self) -> bool {
        self.ask(Instant::now(), Path::new("/proc/net/ipv6_route"))
    }

    fn ask(&self, now: Instant, routes: &Path) -> bool {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        match *last {
            Some((at, answer)) if now.saturating_duration_since(at) < BELIEVED => answer,
            _ => {
                let answer = std::fs::read_to_string(routes).is_ok_and(|routes| has_default(&routes));
                *last = Some((now, answer));
                answer
            }
        }
    }
}

/// Whether one of the kernel's routes leads from anywhere to anywhere, other than back to this host.
fn has_default(routes: &str) -> bool {
    let zero = "0".repeat(32);
    routes.lines().any(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        fields.first() == Some(&zero.as_str()) && fields.get(1) == Some(&"00") && fields.last() != Some(&"lo")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_host_is_asked_again_after_a_while() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let any = "0".repeat(32);
        let route = |device: &str| format!("{any} 00 {any} 00 {any} ffffffff 00000001 00000000 00200200 {device}\n");
        let (route_to, now) = (Ipv6Route::default(), Instant::now());
        std::fs::write(file.path(), route("lo")).unwrap();
        assert!(!route_to.ask(now, file.path()));
        std::fs::write(file.path(), route("lo") + &route("eth0")).unwrap();
        assert!(!route_to.ask(now + BELIEVED / 2, file.path()), "believed");
        assert!(route_to.ask(now + BELIEVED, file.path()));
    }
}
