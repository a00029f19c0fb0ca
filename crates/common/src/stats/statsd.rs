//! statsd over UDP, packet for packet as upstream's client library sends it.
//!
//! One report is one [`Pipeline`]: its lines are joined by newlines into packets of at most 512 bytes and sent at its
//! end, so that nothing waits for a flush. A gauge that has not changed is left out for a minute; then it is sent
//! again, since a packet may have been lost or the server restarted.
//!
//! The server's name is resolved again while we run (`route`): in a cluster its address changes with each restart.

use std::{
    collections::HashMap,
    io,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use cadence::{Counted, Gauged, MetricSink, StatsdClient, Timed};

use tokio::time::Instant;

use super::route::Route;

/// What fits into a packet that nobody needs to fragment; upstream's value.
const PACKET: usize = 512;
/// After which an unchanged gauge is sent again.
const REPEAT: Duration = Duration::from_secs(60);

/// A statsd server.
#[derive(Debug)]
pub struct Statsd {
    client: StatsdClient,
    gauges: Mutex<HashMap<String, (f64, Instant)>>,
}

impl Statsd {
    /// One at the end of a route.
    pub fn new(route: Route) -> Self {
        let sink = Packets { route, packet: Mutex::new(String::new()) };
        // Send errors (nobody listens) are as silent as upstream's.
        let client = StatsdClient::builder("", sink).build();
        Self { client, gauges: Mutex::new(HashMap::new()) }
    }

    /// Begins a report. Reports of several tasks may share packets.
    pub fn pipeline(&self, force: bool) -> Pipeline<'_> {
        Pipeline { statsd: self, force, now: Instant::now() }
    }

    fn gauges(&self) -> MutexGuard<'_, HashMap<String, (f64, Instant)>> {
        self.gauges.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One report; sent when it is dropped.
#[derive(Debug)]
pub struct Pipeline<'a> {
    statsd: &'a Statsd,
    force: bool,
    now: Instant,
}

impl Pipeline<'_> {
    /// `NAME:N|c`.
    pub fn count(&self, name: &str, n: i64) {
        let _ = self.statsd.client.count(name, n);
    }

    /// `NAME:MS|ms`, whole milliseconds.
    pub fn timing(&self, name: &str, duration: Duration) {
        let _ = self.statsd.client.time(name, u64::try_from(duration.as_millis()).unwrap_or(u64::MAX));
    }

    /// `NAME:VALUE|g`, infinity as `inf`, whole numbers without a fraction.
    #[allow(clippy::float_cmp)] // the question is whether it is the very same value
    pub fn gauge(&self, name: &str, value: f64) {
        let mut gauges = self.statsd.gauges();
        let known = gauges.get(name).is_some_and(|(last, at)| *last == value && self.now.duration_since(*at) < REPEAT);
        if known && !self.force {
            return;
        }
        gauges.insert(name.to_owned(), (value, self.now));
        drop(gauges);
        if value < 0.0 {
            // A sign means "change by" in statsd.
            let _ = self.statsd.client.gauge(name, 0_u64);
        }
        let _ = self.statsd.client.gauge(name, value);
    }
}

impl Drop for Pipeline<'_> {
    fn drop(&mut self) {
        let _ = self.statsd.client.flush();
    }
}

/// Lines into packets, without a newline at a packet's end.
#[derive(Debug)]
struct Packets {
    route: Route,
    packet: Mutex<String>,
}

impl Packets {
    fn send(&self, packet: &mut String) {
        if !packet.is_empty() {
            self.route.send(packet.as_bytes());
            packet.clear();
        }
    }
}

impl MetricSink for Packets {
    fn emit(&self, metric: &str) -> io::Result<usize> {
        let mut packet = self.packet.lock().unwrap_or_else(PoisonError::into_inner);
        if !packet.is_empty() && packet.len() + 1 + metric.len() > PACKET {
            self.send(&mut packet);
        }
        if !packet.is_empty() {
            packet.push('\n');
        }
        packet.push_str(metric);
        Ok(metric.len())
    }

    fn flush(&self) -> io::Result<()> {
        self.send(&mut self.packet.lock().unwrap_or_else(PoisonError::into_inner));
        Ok(())
    }
}
